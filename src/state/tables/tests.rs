use super::*;
use crate::disk::{Access, Disk};
use crate::log::Hash;
use crate::log::record::LayoutDecl;
use crate::order::Timestamp;
use crate::testing::SimDisk;
use std::path::Path;

const FILE: &str = "/state.redb";

struct Lab {
    disk: SimDisk,
    commit: u64,
}

impl Lab {
    fn new() -> (Self, Tables) {
        let disk = SimDisk::new(1);
        let file = disk.create_new(Path::new(FILE)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let mut tables = Tables::open("state.redb", file, 1 << 14).unwrap().unwrap();
        assert!(tables.claim(StoreId([7; 16])));
        (Self { disk, commit: 0 }, tables)
    }

    fn open(&self) -> Option<Tables> {
        let file = self.disk.open(Path::new(FILE), Access::Write).unwrap();
        Tables::open("state.redb", file, 1 << 14).unwrap()
    }

    fn flush(&mut self, tables: &mut Tables, drained: Drained) {
        self.commit += 1;
        let (commit, position) = (CommitNo(self.commit), Position(self.commit));
        let head = Head { commit, position, time: Timestamp(self.commit), hash: Hash([1; 32]) };
        tables.flush(drained, &head, 0, &[]).unwrap();
    }
}

fn nothing() -> Drained {
    Drained { postings: Vec::new(), rows: Vec::new(), keys: Vec::new(), layouts: Vec::new(), inline: None }
}

fn row(key: u64, value: Option<&[u8]>) -> RowEntry {
    let version = RowVersion { commit: CommitNo(1), position: Position(1), value: value.map(Arc::from) };
    (Arc::from(key.to_be_bytes().as_slice()), version)
}

fn rows(keys: std::ops::Range<u64>, value: Option<&[u8]>) -> Drained {
    Drained { rows: keys.map(|key| row(key, value)).collect(), ..nothing() }
}

fn posting(term: Term, position: u64) -> (Term, Postings) {
    (term, Postings { first_version: 1, positions: [Position(position)].into_iter().collect() })
}

// The comparison of sums is the only thing that sees an absence that blocks do not show: a flush that lost a row, ours or redb's.
#[test]
fn missing_extra_or_stale_row_fails_sums() {
    let change: [fn(&redb::WriteTransaction); 5] = [
        |write| drop(write.open_table(ROWS).unwrap().remove(3_u64.to_be_bytes().as_slice()).unwrap()),
        |write| {
            let (key, version) = row(1000, Some(b"new"));
            let value = encode_row(&key, &version, b"new");
            write.open_table(ROWS).unwrap().insert(&*key, value.as_slice()).unwrap();
        },
        |write| {
            let (key, version) = row(3, Some(b"old"));
            let value = encode_row(&key, &version, b"old");
            write.open_table(ROWS).unwrap().insert(&*key, value.as_slice()).unwrap();
        },
        |write| drop(write.open_table(POSTINGS).unwrap().remove(&posting_key(5, Position(2))).unwrap()),
        |write| {
            let (key, value) = encode_chunk(6, 1, &[Position(9)]);
            write.open_table(POSTINGS).unwrap().insert(&key, value.as_slice()).unwrap();
        },
    ];
    for (index, change) in change.iter().enumerate() {
        let (mut lab, mut tables) = Lab::new();
        let postings = vec![posting(5, 1), posting(5, 2)];
        lab.flush(&mut tables, Drained { postings, ..rows(0..10, Some(b"row")) });
        tables.base().unwrap().scrub(|| true).unwrap();
        let write = tables.db.begin_write().unwrap();
        change(&write);
        write.commit().unwrap();
        let error = tables.base().unwrap().scrub(|| true).expect_err("the sums differ");
        assert!(error.is_rebuildable(), "change {index}: {error}");
    }
}

#[test]
fn repeated_layout_declaration_is_stored_once() {
    let (mut lab, mut tables) = Lab::new();
    let layout = LayoutDecl { type_name: "a.A".into(), schema: 1, layout: "u32".into() };
    for schema in [1, 1, 2, 2, 1] {
        lab.flush(
            &mut tables,
            Drained { layouts: vec![LayoutDecl { schema, ..layout.clone() }], ..nothing() },
        );
    }
    assert_eq!(tables.meta().layouts.len(), 2);
    drop(tables);
    assert_eq!(lab.open().unwrap().meta().layouts.len(), 2);
}

#[test]
fn mostly_free_file_shrinks_at_open() {
    let (mut lab, mut tables) = Lab::new();
    let wide = vec![9; 1000];
    for part in 0..20 {
        lab.flush(&mut tables, rows(part * 1000..(part + 1) * 1000, Some(&wide)));
    }
    for part in 0..19 {
        lab.flush(&mut tables, rows(part * 1000..(part + 1) * 1000, None));
    }
    drop(tables);
    let before = lab.disk.read_file(FILE).unwrap().len();
    let tables = lab.open().unwrap();
    let base = tables.base().unwrap();
    base.scrub(|| true).unwrap();
    let (bytes, used) = base.size();
    assert!((1_000_000..1_100_000).contains(&used), "{used}");
    assert!(before > 8 << 20 && bytes < 4 << 20, "{before} bytes before, {bytes} after, {used} of rows");
    assert_eq!(lab.disk.read_file(FILE).unwrap().len() as u64, bytes);
    drop((base, tables));
    assert_eq!(lab.open().unwrap().base().unwrap().row_count(), 1000);
}

// A small page cache: redb walks its trees when it is opened with debug assertions.
#[test]
fn every_read_after_damage_reports_damage() {
    let (mut lab, mut tables) = Lab::new();
    lab.flush(&mut tables, rows(0..20_000, Some(b"row")));
    drop(tables);
    let len = lab.disk.read_file(FILE).unwrap().len() as u64;
    let tables = lab.open().unwrap();
    let base = tables.base().unwrap();
    (0..len / 4096).for_each(|block| lab.disk.flip_bit(FILE, block * 4096 + 9, 0));
    for key in [1_u64, 1, 19_999] {
        let error = base.row(&key.to_be_bytes(), CommitNo(u64::MAX)).expect_err("damaged");
        assert!(error.is_rebuildable(), "{error}");
    }
}
