//! Every bad input that concerns the ground gets its named error, and nothing is lost.
//!
//! The rows are those of a table of bad inputs, read for a store that is a directory with a log and derived state in it.

use crate::support::*;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use tallystone::disk::Kind;
use tallystone::prelude::*;
use tallystone::testing::{Fault, Faults, ImagePolicy, SimDisk};
use tallystone::{Options, Setup};

/// A closed store with ten events in a directory of its own.
fn closed() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("store");
    let store = Store::create(&path, setup()).expect("created");
    for n in 0..10 {
        store.append(deposit(n, 1).key("client", n.to_string())).expect("appended");
    }
    store.close();
    (dir, path)
}

/// All files below a directory with their content.
fn content(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path).expect("it is a directory") {
        let path = entry.expect("it can be read").path();
        match path.is_dir() {
            true => all.extend(content(&path)),
            false => all.push((path.clone(), fs::read(&path).expect("it can be read"))),
        }
    }
    all.sort();
    all
}

fn segment(path: &Path) -> PathBuf {
    path.join("log").join(format!("{:020}.log", 1))
}

fn all_there(path: &Path) {
    let store = Store::open(path, setup()).expect("opens");
    assert_eq!(events(&store).len(), 10);
    assert_eq!(store.verify().expect("verified").first_bad, None);
    assert!(store.append(deposit(3, 1).key("client", "3")).expect("answered").replayed);
}

// ---- paths ----

#[test]
fn path_missing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("nothing");
    assert!(matches!(Store::open(&path, setup()), Err(OpenError::NotFound { .. })));
    assert!(!path.exists(), "open never creates");
}

#[test]
fn create_on_an_existing_store() {
    let (_dir, path) = closed();
    let before = content(&path);
    assert!(matches!(Store::create(&path, setup()), Err(OpenError::AlreadyExists { .. })));
    assert_eq!(content(&path), before, "create never overwrites");
    all_there(&path);
}

#[test]
fn create_on_file_or_foreign_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("file");
    fs::write(&file, "text").expect("written");
    assert!(matches!(Store::create(&file, setup()), Err(OpenError::AlreadyExists { .. })));
    assert!(matches!(Store::open(&file, setup()), Err(OpenError::NotAStore { .. })));
    assert_eq!(fs::read(&file).expect("read"), b"text");
    assert!(matches!(Store::create(dir.path(), setup()), Err(OpenError::AlreadyExists { .. })));
    assert!(matches!(Store::open(dir.path(), setup()), Err(OpenError::NotAStore { .. })));
    assert!(matches!(Store::open_or_create(dir.path(), setup()), Err(OpenError::NotAStore { .. })));
}

#[test]
fn store_is_created_in_empty_directory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(Store::open(dir.path(), setup()), Err(OpenError::NotFound { .. })));
    Store::create(dir.path(), setup()).expect("created in place").close();
    Store::open(dir.path(), setup()).expect("opens");
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_refused() {
    let (dir, path) = closed();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).expect("linked");
    // Neither a slash nor a dot at the end makes it another path.
    for end in ["", "/", "/.", "//"] {
        let link = format!("{}{end}", link.display());
        assert!(matches!(Store::open(&link, setup()), Err(OpenError::NotAStore { .. })), "{link}");
    }
    let dangling = dir.path().join("dangling");
    std::os::unix::fs::symlink(dir.path().join("target"), &dangling).expect("linked");
    assert!(matches!(Store::create(&dangling, setup()), Err(OpenError::AlreadyExists { .. })));
    assert!(!dir.path().join("target").exists(), "the target is not created");
    // Nor a segment that was replaced by a link.
    let (moved, original) = (dir.path().join("moved"), segment(&path));
    fs::rename(&original, &moved).expect("moved");
    std::os::unix::fs::symlink(&moved, &original).expect("linked");
    assert!(Store::open(&path, setup()).is_err());
}

#[test]
fn neither_file_nor_directory() {
    let disk = SimDisk::new(1);
    disk.place("/store", Kind::Other);
    assert!(matches!(open(&disk), Err(OpenError::NotAStore { .. })));
}

#[test]
fn nul_or_overlong_path_is_refused() {
    for path in ["a\0b".to_owned(), "x".repeat(5000)] {
        assert!(matches!(Store::open(&path, setup()), Err(OpenError::Storage(_))));
        assert!(matches!(Store::create(&path, setup()), Err(OpenError::Storage(_))));
    }
}

#[test]
fn the_store_is_open_already() {
    let (_dir, path) = closed();
    let store = Store::open(&path, setup()).expect("opens");
    assert!(matches!(Store::open(&path, setup()), Err(OpenError::AlreadyOpen { .. })));
    assert!(matches!(Store::open_or_create(&path, setup()), Err(OpenError::AlreadyOpen { .. })));
    drop(store);
    all_there(&path);
}

#[test]
fn crash_during_create_leaves_no_partial_store() {
    let rehearsal = SimDisk::new(1);
    drop(open(&rehearsal));
    for op in 1..=rehearsal.op_count() {
        let disk = SimDisk::new(1);
        disk.cut_at(op, ImagePolicy::KeepAll);
        drop(open(&disk));
        for policy in ImagePolicy::ALL {
            let image = disk.fork(op);
            image.power_cut(policy);
            match Store::open("/store", simulated(&image)) {
                Ok(store) => assert_eq!(events(&store).len(), 0),
                Err(OpenError::NotFound { .. }) => {
                    let store =
                        Store::create("/store", simulated(&image)).expect("created after a crash in create");
                    store.append(deposit(1, 1)).expect("appended");
                }
                Err(error) => panic!("cut at {op}, {policy:?}: {error}"),
            }
        }
    }
}

// ---- the log ----

#[test]
fn an_empty_or_missing_segment() {
    let (_dir, path) = closed();
    let bytes = fs::read(segment(&path)).expect("read");
    fs::write(segment(&path), b"").expect("emptied");
    let error = Store::open(&path, setup()).expect_err("an emptied log is not an empty store");
    assert!(matches!(error, OpenError::Corrupt { .. } | OpenError::Storage(_)), "{error:?}");
    fs::remove_file(segment(&path)).expect("removed");
    let error = Store::open(&path, setup()).expect_err("a log without segments is not an empty store");
    assert!(matches!(error, OpenError::Corrupt { .. } | OpenError::Storage(_)), "{error:?}");
    fs::write(segment(&path), bytes).expect("put back");
    all_there(&path);
}

#[test]
fn segment_with_foreign_bytes_is_refused_unchanged() {
    let (_dir, path) = closed();
    let bytes = fs::read(segment(&path)).expect("read");
    fs::write(segment(&path), "this is a text file, and no log\n".repeat(100)).expect("overwritten");
    let before = content(&path);
    let error = Store::open(&path, setup()).expect_err("text is no log");
    assert!(matches!(error, OpenError::Corrupt { .. } | OpenError::Storage(_)), "{error:?}");
    let after = content(&path);
    let logs = |all: &[(PathBuf, Vec<u8>)]| {
        all.iter().filter(|(p, _)| p.starts_with(path.join("log"))).cloned().collect::<Vec<_>>()
    };
    assert_eq!(logs(&before), logs(&after), "nothing of the log is touched");
    fs::write(segment(&path), bytes).expect("put back");
    all_there(&path);
}

#[test]
fn a_newer_format() {
    let (_dir, path) = closed();
    let mut bytes = fs::read(segment(&path)).expect("read");
    // The format number stands behind the magic; the header's checksum is over it.
    assert_eq!(&bytes[8..12], 1u32.to_le_bytes());
    bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
    fs::write(segment(&path), &bytes).expect("overwritten");
    let error = Store::open(&path, setup()).expect_err("a later version wrote it");
    assert!(matches!(error, OpenError::NewerFormat { is: 2, known: 1 }), "{error:?}");
    assert_eq!(fs::read(segment(&path)).expect("read"), bytes, "the file is as it was");
}

#[test]
fn truncated_segment_is_detected_or_loses_nothing_acknowledged() {
    let (_dir, path) = closed();
    let whole = fs::read(segment(&path)).expect("read");
    // A sealed log ends with a seal that proves what stands before it.
    let end = whole.iter().rposition(|byte| *byte != 0).expect("not all zeros") + 1;
    for len in (0..end).step_by(7) {
        fs::write(segment(&path), &whole[..len]).expect("cut");
        match Store::open(&path, setup()) {
            Ok(store) => assert_eq!(events(&store).len(), 10, "cut to {len} bytes"),
            Err(OpenError::Corrupt { .. } | OpenError::Storage(_)) => {}
            Err(error) => panic!("cut to {len} bytes: {error}"),
        }
        for (name, _) in content(&path.join("log")) {
            fs::remove_file(name).expect("removed");
        }
        fs::write(segment(&path), &whole).expect("put back");
    }
    all_there(&path);
}

#[test]
fn flipped_event_bit_is_reported_with_position() {
    let (_dir, path) = closed();
    let whole = fs::read(segment(&path)).expect("read");
    let at =
        whole.windows(14).position(|window| window == b"bank.Deposited").expect("the first event's type");
    let mut bytes = whole.clone();
    bytes[at] ^= 0x20;
    fs::write(segment(&path), bytes).expect("overwritten");
    let error = Store::open(&path, setup()).expect_err("damaged");
    assert!(matches!(error, OpenError::Corrupt { position, .. } if position.get() <= 1), "{error:?}");
    fs::write(segment(&path), whole).expect("put back");
    all_there(&path);
}

// ---- derived state ----

#[test]
fn damaged_derived_state_needs_only_rebuild() {
    let (_dir, path) = closed();
    let state = path.join("state.redb");
    let whole = fs::read(&state).expect("read");
    let mut dice = Dice::new(5);
    for round in 0..60 {
        let mut bytes = whole.clone();
        match round % 4 {
            0 => bytes.truncate(dice.roll(whole.len() as u64) as usize),
            1 => bytes = b"this is no database".repeat(40),
            2 => {
                let page = dice.roll(whole.len() as u64 / 4096) as usize * 4096;
                bytes[page..page + 4096].fill(0xA5);
            }
            _ => {
                let bit = dice.roll(whole.len() as u64 * 8);
                bytes[bit as usize / 8] ^= 1 << (bit % 8);
            }
        }
        fs::write(&state, bytes).expect("overwritten");
        let store = Store::open(&path, setup()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        for account in 0..10 {
            match store.view().expect("open").row::<Balances>(&account) {
                Ok(row) => assert_eq!(row, Some(1), "round {round}"),
                Err(ReadError::Storage(error)) => {
                    assert!(error.is_rebuildable(), "round {round}: {error}");
                    store.recover().unwrap_or_else(|error| panic!("round {round}: {error}"));
                }
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        assert!(store.append(deposit(3, 1).key("client", "3")).expect("answered").replayed, "round {round}");
        drop(store);
        fs::write(&state, &whole).expect("put back");
    }
    all_there(&path);
}

#[test]
fn state_of_another_store_is_rebuilt() {
    let ((_dir, path), (_other_dir, other)) = (closed(), closed());
    fs::copy(other.join("state.redb"), path.join("state.redb")).expect("copied");
    all_there(&path);
}

#[test]
fn older_log_is_refused_until_accepted() {
    let (_dir, path) = closed();
    let old = content(&path.join("log"));
    let store = Store::open(&path, setup()).expect("opens");
    for n in 10..20 {
        store.append(deposit(n, 1)).expect("appended");
    }
    store.close();
    // An older copy of the log is put back beside the newer state.
    for (name, _) in content(&path.join("log")) {
        fs::remove_file(name).expect("removed");
    }
    old.iter().for_each(|(name, bytes)| fs::write(name, bytes).expect("put back"));
    let before = content(&path.join("log"));
    let refused = Store::open(&path, setup());
    let Err(OpenError::TailLost { commit, known_commit, known_by, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((known_commit.get() - commit.get(), known_by.as_str()), (10, "`state.redb`"));
    assert_eq!(content(&path.join("log")), before, "a refusal changes nothing");
    let store = Store::open(&path, setup().accept_lost_tail(commit)).expect("it is accepted");
    assert_eq!(store.verify().expect("looked at").lost_tails[0].commit, commit);
}

// ---- requests ----

fn refused(append: Append) -> AppendError {
    let store = Store::in_memory(setup()).expect("a store in memory opens");
    store.append(deposit(1, 1)).expect("appended");
    let error = store.append(append).expect_err("it is to be refused");
    assert_eq!(events(&store).len(), 1, "a refused request leaves nothing");
    store.append(deposit(1, 1)).expect("the store goes on");
    error
}

#[test]
fn empty_overlong_or_control_character_names_are_refused() {
    let json = serde_json::json!({ "account": 1, "cents": 1 });
    let raw = |type_name: &str, stream: &str, tag: &str| {
        Append::raw(Raw::json(type_name, stream, Tags::none().and_text(tag), &json))
    };
    let long = "x".repeat(5000);
    for (append, what) in [
        (raw("", "a/1", "k:v"), "type name"),
        (raw("bare", "a/1", "k:v"), "type name"),
        (raw("a.b\n", "a/1", "k:v"), "type name"),
        (raw("a.b", "", "k:v"), "stream"),
        (raw("a.b", "no family", "k:v"), "stream"),
        (raw("a.b", "a/\u{7}", "k:v"), "stream"),
        (raw("a.b", "a/1", ""), "tag"),
        (raw("a.b", "a/1", "plain"), "tag"),
        (raw("a.b", "a/1", "k:\t"), "tag"),
        (deposit(1, 1).label("a\nb"), "label"),
        (deposit(1, 1).key("scope\n", "k"), "scope"),
        (deposit(1, 1).key("s", "k").part("", &()), "fingerprint part"),
        (deposit(1, 1).key("s", "k").part("p", &1).part("p", &2), "fingerprint"),
    ] {
        let error = refused(append);
        assert!(
            matches!(&error, AppendError::Invalid { what: named, .. } if *named == what),
            "{what}: {error:?}"
        );
    }
    for append in [
        raw(&format!("a.{long}"), "a/1", "k:v"),
        raw("a.b", &format!("a/{long}"), "k:v"),
        raw("a.b", "a/1", &format!("k:{long}")),
        deposit(1, 1).label(long.clone()),
        deposit(1, 1).key(&long, "k"),
        deposit(1, 1).key("s", long.clone()),
    ] {
        assert!(matches!(refused(append), AppendError::TooLarge { size: 5000.., .. }));
    }
}

#[derive(Serialize, Deserialize, Clone)]
struct Blob(Vec<u8>);

impl Event for Blob {
    const FAMILY: &str = "blob";
    type Id = ();
    fn id(&self) {}
}

#[test]
fn only_sizes_above_limit_are_refused() {
    let mut options = Options::default();
    (options.event_bytes_max, options.append_bytes_max) = (1000, 4000);
    (options.append_events_max, options.response_bytes_max, options.tags_len_max) = (3, 100, 2);
    let store = Store::in_memory(Setup::new().events::<Blob>().options(options)).expect("opens");
    // A vector of bytes is stored with its length.
    let blob = |len: usize| Append::event(Blob(vec![7; len - 8]));
    store.append(blob(1000)).expect("as large as it may be");
    let error = store.append(blob(1001)).expect_err("one byte more");
    assert!(matches!(error, AppendError::TooLarge { size: 1001, limit: 1000, .. }), "{error:?}");
    let many = |count: usize| Append::events(vec![Blob(vec![]); count]);
    store.append(many(3)).expect("as many as there may be");
    assert!(matches!(store.append(many(4)), Err(AppendError::TooLarge { size: 4, limit: 3, .. })));
    store.append(blob(10).response(vec![0; 100])).expect("as large as it may be");
    assert!(matches!(
        store.append(blob(10).response(vec![0; 101])),
        Err(AppendError::TooLarge { size: 101, .. })
    ));
    let tagged = |count: usize| {
        let tags = (0..count).fold(Tags::none(), |tags, n| tags.and("t", n));
        Append::raw(Raw::json("other.Thing", "other/1", tags, &serde_json::json!(null)))
    };
    store.append(tagged(2)).expect("as many as there may be");
    assert!(matches!(store.append(tagged(3)), Err(AppendError::TooLarge { size: 3, limit: 2, .. })));
    assert_eq!(store.view().expect("open").position().get(), 1 + 3 + 1 + 1);
}

#[test]
fn contradictory_limits_are_refused_on_open() {
    let mut options = Options::default();
    (options.event_bytes_max, options.queue_len_max) = (64 << 20, 0);
    let error = Store::in_memory(setup().options(options)).expect_err("contradictory");
    let OpenError::Setup(wrong) = error else { panic!("{error:?}") };
    assert_eq!(wrong.len(), 2, "all of them at once, and no other: {wrong:?}");
    assert!(wrong.iter().any(|sentence| sentence.contains("queue_len_max")));
}

#[test]
fn wrong_expected_version_error_names_actual_version() {
    let store = Store::in_memory(setup()).expect("opens");
    store.append(deposit(1, 1).expect::<Bank>(&1, Expected::NoStream)).expect("no stream yet");
    store.append(deposit(1, 1).expect::<Bank>(&1, Expected::Exact(1))).expect("one event");
    store.append(deposit(1, 1).expect::<Bank>(&1, Expected::Any)).expect("any");
    for expected in [Expected::NoStream, Expected::Exact(0), Expected::Exact(2), Expected::Exact(4)] {
        let error = store.append(deposit(1, 1).expect::<Bank>(&1, expected)).expect_err("wrong");
        let named = matches!(&error, AppendError::WrongVersion { stream, is: 3, last: Some(last), .. }
            if stream == "bank/1" && last.get() == 3);
        assert!(named, "{error:?}");
    }
    assert_eq!(events(&store).len(), 3);
}

#[test]
fn a_family_that_was_not_registered() {
    let error = refused(Append::event(Blob(vec![])));
    assert!(
        matches!(&error, AppendError::Unregistered(missing) if missing.what.contains("blob.Blob")),
        "{error:?}"
    );
    let unknown = Raw::json("bank.Closed", "bank/1", Tags::none(), &serde_json::json!({}));
    let error = refused(Append::raw(unknown));
    assert!(
        matches!(&error, AppendError::Unregistered(missing) if missing.add.contains("Deposited")),
        "{error:?}"
    );
}

#[test]
fn mismatched_raw_event_is_refused() {
    let misfit =
        Raw::json("bank.Deposited", "bank/1", Tags::none(), &serde_json::json!({ "account": "one" }));
    let error = refused(Append::raw(misfit));
    assert!(matches!(&error, AppendError::Fold { projection: "balances", .. }), "{error:?}");
    assert!(!error.to_string().contains("one"), "no message shows a payload: {error}");
}

/// Panics on the account that it is told to.
struct Fragile;

impl Projection for Fragile {
    const NAME: &str = "fragile";
    type Event = Bank;
    type Key = u32;
    type Row = u64;

    fn fold(event: &Bank, rows: &mut Rows<Self>) -> Folded {
        rows.put(event.id(), 1)?;
        assert!(event.id() != 13, "thirteen");
        Ok(())
    }
}

#[test]
fn panicking_fold_refuses_only_its_request() {
    let store = Store::in_memory(setup().inline::<Fragile>()).expect("opens");
    store.append(deposit(1, 1)).expect("appended");
    let error =
        store.append(deposit(2, 1).and(Bank::Deposited { account: 13, cents: 1 })).expect_err("it panics");
    let named = matches!(&error, AppendError::Fold { projection: "fragile", index: 1, why } if why.contains("thirteen"));
    assert!(named, "{error:?}");
    store.append(deposit(3, 1)).expect("the store goes on");
    let view = store.view().expect("open");
    let rows: Vec<u32> = view.rows::<Fragile>(..).map(|row| row.expect("readable").0).collect();
    assert_eq!(rows, [1, 3], "nothing of the refused request is left, not even of its first event");
    assert_eq!(store.verify().expect("verified").first_bad, None);
}

// ---- types that changed ----

mod before {
    use super::*;
    #[derive(Serialize, Deserialize)]
    pub enum Order {
        Placed { item: String, count: u32 },
        Cancelled { why: String },
    }
    impl Event for Order {
        const FAMILY: &str = "order";
        type Id = ();
        fn id(&self) {}
    }
}

mod after {
    use super::*;
    #[derive(Serialize, Deserialize)]
    pub enum FieldAdded {
        Placed {
            item: String,
            count: u32,
            #[serde(default)]
            gift: bool,
        },
        Cancelled {
            why: String,
        },
    }
    #[derive(Serialize, Deserialize)]
    pub enum VariantGone {
        Placed { item: String, count: u32 },
    }
    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    pub enum RenamedAndReordered {
        New,
        #[serde(alias = "Cancelled")]
        Withdrawn {
            why: String,
        },
        Placed {
            item: String,
            count: u32,
        },
    }
    macro_rules! order {
        ($($name:ident)*) => { $(
            impl Event for $name {
                const FAMILY: &str = "order";
                type Id = ();
                fn id(&self) {}
            }
        )* };
    }
    order!(FieldAdded VariantGone RenamedAndReordered);
}

#[test]
fn changed_event_type_is_refused_on_open() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("store");
    let store = Store::create(&path, Setup::new().events::<before::Order>()).expect("created");
    let placed = before::Order::Placed { item: "mug".into(), count: 2 };
    store
        .append(Append::event(placed).and(before::Order::Cancelled { why: "broken".into() }))
        .expect("appended");
    store.close();

    let error =
        Store::open(&path, Setup::new().events::<after::FieldAdded>()).expect_err("a field was added");
    assert!(
        matches!(&error, OpenError::Setup(wrong) if wrong.len() == 1 && wrong[0].contains("order.Placed")),
        "{error}"
    );
    let error =
        Store::open(&path, Setup::new().events::<after::VariantGone>()).expect_err("a variant is gone");
    let named = matches!(&error, OpenError::Missing(missing)
        if missing.len() == 1 && missing[0].what.contains("order.Cancelled") && missing[0].what.contains("1 events, the first at 2"));
    assert!(named, "{error}");
    let error = Store::open(&path, Setup::new()).expect_err("the family is gone");
    assert!(
        matches!(&error, OpenError::Missing(missing) if missing.len() == 2),
        "all of them at once: {error}"
    );

    let store = Store::open(&path, Setup::new().events::<after::RenamedAndReordered>())
        .expect("an alias and an order are no change");
    let view = store.view().expect("open");
    let found: Vec<_> =
        view.query::<after::RenamedAndReordered>(Query::all()).map(|e| e.expect("readable").event).collect();
    let placed = after::RenamedAndReordered::Placed { item: "mug".into(), count: 2 };
    assert_eq!(found, [placed, after::RenamedAndReordered::Withdrawn { why: "broken".into() }]);
    // And any payload is readable by field name, without its type.
    let raw = view.query::<Raw>(Query::all()).next().expect("an event").expect("readable");
    let layout = view.layout(raw.type_name(), raw.schema()).expect("declared in the log");
    let value = layout.read(raw.data()).expect("it fits its own layout");
    assert_eq!(value.get("item").and_then(|item| item.as_str()), Some("mug"));
}

#[test]
fn duplicate_family_or_projection_name_is_refused() {
    let twice = Setup::new().events::<after::FieldAdded>().events::<after::VariantGone>();
    assert!(matches!(Store::in_memory(twice), Err(OpenError::Setup(_))));
    struct Other;
    impl Projection for Other {
        const NAME: &str = "balances";
        type Event = Bank;
        type Key = u8;
        type Row = u8;
        fn fold(_: &Bank, _: &mut Rows<Self>) -> Folded {
            Ok(())
        }
    }
    assert!(matches!(Store::in_memory(setup().inline::<Other>()), Err(OpenError::Setup(_))));
    struct Floats;
    impl Projection for Floats {
        const NAME: &str = "floats";
        type Event = Bank;
        type Key = OrderedFloat;
        type Row = u8;
        fn fold(_: &Bank, _: &mut Rows<Self>) -> Folded {
            Ok(())
        }
    }
    let error = Store::in_memory(Setup::new().inline::<Floats>()).expect_err("a float has no order in bytes");
    assert!(matches!(&error, OpenError::Setup(wrong) if wrong[0].contains("floats")), "{error}");
}

/// A key that lies about having an order.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, PartialOrd)]
struct OrderedFloat(f64);

impl Eq for OrderedFloat {}

#[allow(clippy::derive_ord_xor_partial_ord)]
impl Ord for OrderedFloat {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

// ---- the disk ----

/// Failures of a write or sync are `Unknown`: a retry with the same key gives the true outcome.
#[test]
fn failed_write_outcome_is_settled_by_keyed_retry() {
    for fault in [
        Fault::WriteError,
        Fault::ShortWrite,
        Fault::SyncError,
        Fault::SyncErrorKeepsNew,
        Fault::SyncErrorShowsOld,
        Fault::SyncErrorPartly,
        Fault::NoSpace,
    ] {
        let disk = fresh_disk(9);
        let store = open(&disk).expect("created");
        store.append(deposit(1, 5).key("client", "before")).expect("appended");
        disk.plan(Faults::none().at(disk.op_count() + 1, fault));
        let unknown = store.append(deposit(1, 7).key("client", "during"));
        assert!(matches!(unknown, Err(AppendError::Unknown(_))), "{fault:?}: {unknown:?}");
        // Later ones are handed back untouched; reads go on, and see nothing of it.
        let refused = store.append(deposit(1, 9).key("client", "after"));
        let Err(AppendError::Poisoned { append: back, .. }) = refused else {
            panic!("{fault:?}: {refused:?}")
        };
        assert_eq!((balance(&store, 1), events(&store).len()), (5, 1), "{fault:?}");
        assert!(store.stats().poisoned.is_some(), "{fault:?}");
        disk.plan(Faults::none());
        store.recover().unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        store.append(*back).expect("handed back, and appended now");
        let settled = store.append(deposit(1, 7).key("client", "during")).expect("settled");
        assert_eq!(balance(&store, 1), 21, "{fault:?}");
        // What was answered is on the disk, whatever the page cache says.
        drop(store);
        disk.power_cut(ImagePolicy::DropAll);
        let store = open(&disk).expect("opens");
        let again = store.append(deposit(1, 7).key("client", "during")).expect("answered");
        assert!(again.replayed && again.receipt == settled.receipt, "{fault:?}");
        assert_eq!((balance(&store, 1), events(&store).len()), (21, 3), "{fault:?}");
        assert_eq!(disk.stats().syncs_after_failed_sync, 0, "{fault:?}: a failed sync is never repeated");
    }
}

#[test]
fn full_disk_refuses_append_and_loses_nothing() {
    let disk = fresh_disk(2);
    let store = open(&disk).expect("created");
    for n in 0..20 {
        store.append(deposit(n, 1).key("client", n.to_string())).expect("appended");
    }
    disk.quota(Some(disk.bytes_used()));
    let mut acknowledged = 20;
    let trouble = loop {
        match store.append(deposit(acknowledged, 1).key("client", acknowledged.to_string())) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(trouble, AppendError::Unknown(_) | AppendError::Poisoned { .. }), "{trouble:?}");
    assert!(store.stats().poisoned.expect("it says why").is_no_space());
    let seen = events(&store).len() as u32;
    assert_eq!(seen, acknowledged, "reads go on");
    disk.quota(None);
    store.recover().expect("there is room again");
    for n in 0..acknowledged {
        assert!(store.append(deposit(n, 1).key("client", n.to_string())).expect("answered").replayed);
    }
    store.append(deposit(99, 1)).expect("the store goes on");
}

/// Removal of the log under an open store; once it is put back, the store recovers and goes on.
#[cfg(unix)]
#[test]
fn removed_open_segment_is_detected_before_reply() {
    let (_dir, path) = closed();
    let store = Store::open(&path, setup()).expect("opens");
    store.append(deposit(1, 1)).expect("appended");
    let (files, log) = (content(&path.join("log")), path.join("log"));
    files.iter().for_each(|(name, _)| fs::remove_file(name).expect("removed"));
    let lost = store.append(deposit(1, 1).key("client", "lost"));
    assert!(matches!(lost, Err(AppendError::Unknown(_))), "{lost:?}");
    assert!(matches!(store.append(deposit(1, 1)), Err(AppendError::Poisoned { .. })));
    assert!(store.recover().is_err(), "there is nothing to recover from");
    // Put back, also in a directory of the same name, it goes on, without what was never acknowledged.
    fs::remove_dir_all(&log).expect("removed");
    assert!(store.recover().is_err(), "there is nothing to recover from");
    fs::create_dir(&log).expect("created");
    files.iter().for_each(|(name, bytes)| fs::write(name, bytes).expect("put back"));
    store.recover().expect("the log is there again");
    assert_eq!(events(&store).len(), 11);
    assert!(!store.append(deposit(1, 1).key("client", "lost")).expect("appended").replayed);
}

#[test]
fn a_closed_store_hands_appends_back() {
    let store = Store::in_memory(setup()).expect("opens");
    let other = store.clone();
    let view = store.view().expect("open");
    store.append(deposit(1, 1)).expect("appended");
    store.close();
    let refused = other.append(deposit(1, 1));
    assert!(matches!(refused, Err(AppendError::Closed(_))), "{refused:?}");
    assert!(matches!(other.view(), Err(ReadError::Closed)));
    assert_eq!(view.query::<Bank>(Query::all()).count(), 0, "a view that was taken before stays what it was");
}

#[test]
fn expired_view_reads_events_not_rows() {
    let disk = fresh_disk(4);
    let clock = tallystone::testing::SimClock::default();
    let mut platform = platform(&disk);
    platform.clock = std::sync::Arc::new(clock.clone());
    let store = Store::create("/store", simulated(&disk).platform(platform)).expect("created");
    store.append(deposit(1, 5)).expect("appended");
    let view = store.view().expect("open");
    clock.advance(std::time::Duration::from_secs(3600));
    for n in 0..200 {
        store.append(deposit(n, 1)).expect("appended");
    }
    assert!(matches!(view.row::<Balances>(&1), Err(ReadError::ViewExpired { .. })));
    assert!(matches!(view.rows::<Balances>(..).next(), Some(Err(ReadError::ViewExpired { .. }))));
    assert_eq!(view.query::<Bank>(Query::all()).count(), 1, "events never change");
}
