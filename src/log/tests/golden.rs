//! Format version 1, pinned: these files were written once and must be written and read like this for ever.
//!
//! - `golden/` holds a finished segment, and one that is in use and sealed; `golden/kept/` one with keys that are not kept for
//!   ever, which came later; `golden/named/` one with digests by names, which came after that.

use super::super::record::{Commit, Digests, Fold, Kept, KeyPart, LayoutDecl, Payload, StoredEvent};
use super::super::segments::{LogOptions, Prepare, SegmentLog};
use super::super::{Head, Log, StoreId};
use super::disk::MapDisk;
use super::{dir, segment, served};
use crate::order::{CommitNo, Position, Timestamp};
use std::path::Path;

const STORE: StoreId = StoreId(*b"a golden store!!");
const OPTIONS: LogOptions =
    LogOptions { segment_bytes_min: 1024, segment_bytes: 1024, prepare: Prepare::AtNeed };
const FILES: [(u64, &[u8]); 2] = [
    (1, include_bytes!("../golden/00000000000000000001.log")),
    (5, include_bytes!("../golden/00000000000000000005.log")),
];
/// The chain after the last commit, its first bytes.
const CHAIN: &str = "e5e5f912d570";
const KEPT_FILES: [(u64, &[u8]); 1] = [(1, include_bytes!("../golden/kept/00000000000000000001.log"))];
const KEPT_CHAIN: &str = "6d9e6e18c68b";
const NAMED_FILES: [(u64, &[u8]); 1] = [(1, include_bytes!("../golden/named/00000000000000000001.log"))];
const NAMED_CHAIN: &str = "e471398f61bf";

fn account(position: u64) -> StoredEvent {
    StoredEvent {
        type_name: "Account.Opened".into(),
        schema: 1,
        codec: 1,
        stream: format!("Account/{position}"),
        stream_version: 1,
        tags: vec!["owner:ana".into(), "branch:zürich".into()],
        data: vec![3, 0, 0, 0, 0, 0, 0, 0, b'a', b'n', b'a'],
    }
}

fn money(position: u64) -> StoredEvent {
    let (type_name, data) = ("Account.Paid".into(), br#"{"cents":700}"#.to_vec());
    StoredEvent {
        type_name,
        schema: 2,
        codec: 2,
        stream_version: 2,
        tags: Vec::new(),
        data,
        ..account(position)
    }
}

fn bare(commit: u64, first: u64, time: u64) -> Commit {
    Commit {
        commit: CommitNo(commit),
        first: Position(first),
        time: Timestamp(time),
        label: String::new(),
        layouts: Vec::new(),
        key: None,
        response: None,
        events: Vec::new(),
        folds: Vec::new(),
        inline: None,
    }
}

fn key(key: &str, parts: Vec<(String, [u8; 16])>, kept: Kept) -> KeyPart {
    KeyPart { scope: "http".into(), key: key.into(), parts, digests: Digests::ByBytes, kept }
}

/// Groups of one and of more, with every section of the first release and a commit without events.
fn groups() -> Vec<Vec<Commit>> {
    let layout = LayoutDecl { type_name: "Account.Opened".into(), schema: 1, layout: "{owner:str}".into() };
    let parts = vec![("owner".into(), [0x11; 16]), ("branch".into(), [0x22; 16])];
    let full = Commit {
        label: "open account".into(),
        layouts: vec![layout.clone(), LayoutDecl { type_name: "Account.Paid".into(), schema: 2, ..layout }],
        key: Some(key("7f3a", parts, Kept::Forever)),
        response: Some(Payload { codec: 2, bytes: br#"{"ok":true}"#.to_vec() }),
        events: vec![account(1), money(1)],
        folds: vec![Fold { projection: 1, digest: 0x0102_0304_0506_0708 }, Fold { projection: 2, digest: 9 }],
        inline: None,
        ..bare(1, 1, 1_700_000_000_000_000)
    };
    let silent = bare(2, 3, 1_700_000_000_000_000);
    let one = Commit { events: vec![account(3)], ..bare(3, 3, 1_700_000_000_000_001) };
    let answered = Commit {
        response: Some(Payload { codec: 1, bytes: Vec::new() }),
        ..bare(4, 4, 1_700_000_000_500_000)
    };
    let last = Commit { label: "pay".into(), events: vec![money(4)], ..bare(5, 4, 1_700_000_001_000_000) };
    vec![vec![full], vec![silent, one, answered], vec![last]]
}

/// A key kept until a time, one until so many keys, and the first used again.
fn kept_groups() -> Vec<Vec<Commit>> {
    let keyed = |commit, time, key: &str, kept| {
        let key = Some(self::key(key, vec![("input".into(), [0x33; 16])], kept));
        Commit { key, events: vec![account(commit)], ..bare(commit, commit, time) }
    };
    let day = 86_400_000_000;
    let (start, later) = (1_700_000_000_000_000, 1_700_000_000_000_000 + day);
    let first = keyed(1, start, "7f3a", Kept::UntilTime(Timestamp(start + day)));
    let counted = keyed(2, start, "7f3b", Kept::UntilKeys(12));
    let again = keyed(3, later, "7f3a", Kept::UntilTime(Timestamp(later + day)));
    vec![vec![first, counted], vec![again]]
}

/// Digests by names of a key that is kept for ever, and of one that is not.
fn named_groups() -> Vec<Vec<Commit>> {
    let named = |commit, kept| {
        let key =
            KeyPart { digests: Digests::ByNames, ..key("7f3a", vec![("input".into(), [0x44; 16])], kept) };
        let key = Some(KeyPart { scope: format!("http {commit}"), ..key });
        Commit { key, events: vec![account(commit)], ..bare(commit, commit, 1_700_000_000_000_000) }
    };
    vec![vec![named(1, Kept::Forever), named(2, Kept::UntilKeys(12))]]
}

fn written(groups: Vec<Vec<Commit>>) -> MapDisk {
    let disk = MapDisk::default();
    disk.put_dir(Path::new("/store"));
    SegmentLog::create(&disk.shared(), dir(), STORE, &OPTIONS).unwrap();
    let (log, _) = SegmentLog::open(&disk.shared(), dir(), OPTIONS, None).unwrap();
    for group in groups {
        log.append(&log.head(), &group).unwrap();
    }
    log.seal().unwrap();
    disk
}

#[test]
fn the_writer_makes_these_bytes() {
    let check = |groups, files: &[(u64, &[u8])]| {
        let golden = files.iter().map(|(first, bytes)| (segment(*first), bytes.to_vec()));
        assert!(written(groups).files().into_iter().eq(golden), "format version 1 has changed");
    };
    check(groups(), &FILES);
    check(kept_groups(), &KEPT_FILES);
    check(named_groups(), &NAMED_FILES);
}

#[test]
fn the_reader_reads_these_bytes() {
    let check = |files: &[(u64, &[u8])], groups: Vec<Vec<Commit>>, end: (u64, u64, u64), chain: &str| {
        let disk = MapDisk::default();
        disk.put_dir(dir());
        files.iter().for_each(|&(first, bytes)| disk.put(&segment(first), bytes));
        let (log, opened) = SegmentLog::open(&disk.shared(), dir(), OPTIONS, None).unwrap();
        assert_eq!(opened, Default::default());
        assert_eq!(served(&log).unwrap(), groups.concat());
        let Head { commit, position, time, hash } = log.head();
        assert_eq!((commit.0, position.0, time.0), end);
        assert_eq!(format!("{hash:?}"), chain);
    };
    check(&FILES, groups(), (5, 4, 1_700_000_001_000_000), CHAIN);
    check(&KEPT_FILES, kept_groups(), (3, 3, 1_700_086_400_000_000), KEPT_CHAIN);
    check(&NAMED_FILES, named_groups(), (2, 2, 1_700_000_000_000_000), NAMED_CHAIN);
}
