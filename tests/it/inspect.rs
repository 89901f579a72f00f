//! A store looked at from outside: what is shown is what the store says, it is durable, and nothing is touched.

use crate::support::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;
use tallystone::check::{About, Severity};
use tallystone::event::{Codec, Raw, Tags, Upcasts};
use tallystone::inspect::{Inspect, KeptUntil};
use tallystone::prelude::*;
use tallystone::testing::{Fault, Faults, ImagePolicy, Op, SimDisk};
use tallystone::value::Value;
use tallystone::watch::State;

const CHILD: &str = "TALLY_CHILD";
const DIR: &str = "TALLY_DIR";

mod old {
    use super::*;
    #[derive(Debug, Clone, Serialize, Deserialize)]
    pub enum Course {
        Defined { course: String },
        Joined { student: String },
    }
    impl Event for Course {
        const FAMILY: &'static str = "course";
        type Id = ();
        fn id(&self) {}
    }
}

#[derive(Serialize, Deserialize)]
struct DefinedV1 {
    course: String,
}

/// The same later: a field more, and a variant with another name.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Course {
    Defined {
        course: String,
        seats: u32,
    },
    #[serde(alias = "Joined")]
    Entered {
        student: String,
    },
}

impl Event for Course {
    const FAMILY: &'static str = "course";
    type Id = ();
    fn id(&self) {}
    fn upcasts() -> Upcasts<Self> {
        Upcasts::none().last("Defined", 1, |old: DefinedV1| Course::Defined { course: old.course, seats: 30 })
    }
}

fn opened_first() -> tallystone::check::Check {
    let about = About {
        id: "opened-first",
        severity: Severity::Ticket,
        owner: "bank",
        means: "Money left an account that was never opened.",
        remedy: "1 ask the customer",
    };
    let opened = |event: &Bank| matches!(event, Bank::Opened { .. });
    about.precedence(opened, |event| matches!(event, Bank::Withdrawn { .. })).into()
}

/// A store with typed events in two versions, JSON, keys, tags, a healed check and an open one.
fn filled(disk: &SimDisk) -> Store {
    let first = Store::create("/store", simulated(disk).events::<old::Course>()).expect("created");
    first.append(Append::event(old::Course::Defined { course: "rust".into() })).expect("appended");
    first.append(Append::event(old::Course::Joined { student: "bo".into() })).expect("appended");
    first.close();
    let setup = simulated(disk).events::<Course>().check(opened_first()).alerts(|_| ());
    let store = Store::open("/store", setup).expect("opens");
    store.append(Append::event(Course::Defined { course: "redb".into(), seats: 7 })).expect("appended");
    store.append(Append::event(Course::Entered { student: "al".into() })).expect("appended");
    let json =
        Raw::json("shop.Sold", "shop/1", Tags::of("item", 7), &serde_json::json!({"item": 7, "cents": 1.5}));
    store.append(Append::event(json)).expect("appended");
    for account in 0..20 {
        let paid = deposit(account % 4, 5).key("client", account.to_string()).response("thanks");
        store.append(paid).expect("appended");
    }
    store.append(withdraw(3, 1)).expect("appended");
    for _ in 0..16 {
        store.step();
    }
    let open = store.checks().open().expect("rows are read");
    assert_eq!(open.len(), 1);
    store
}

fn looked(disk: &SimDisk) -> Inspect {
    Store::inspect_with("/store", &platform(disk)).expect("it is a store")
}

fn all(inspect: &Inspect) -> Vec<tallystone::event::Sequenced<Raw>> {
    inspect.events(Query::all()).collect::<Result<_, _>>().expect("events can be read")
}

#[test]
fn inspect_agrees_with_open_store() {
    let disk = SimDisk::new(1);
    let store = filled(&disk);
    let view = store.view().expect("a view");
    let events: Vec<_> = view.query::<Raw>(Query::all()).collect::<Result<_, _>>().expect("read");
    let values: Vec<_> = events.iter().map(|event| view.value(event).expect("read")).collect();
    let violations = store.checks().all().expect("rows are read");
    let receipt = store.append(deposit(3, 5).key("client", "3").response("thanks"));
    drop(view);
    store.close();
    let inspect = looked(&disk);
    assert_eq!(all(&inspect), events);
    assert_eq!(inspect.end().position, events.last().expect("some").position);
    assert_eq!((inspect.end().unproven_commits, inspect.end().torn_bytes), (0, 0));
    let layouts = inspect.layouts().expect("read");
    let read: Vec<_> = events.iter().map(|event| layouts.value(event).expect("read")).collect();
    assert_eq!(read, values);
    let field = |index: usize, name: &str| read[index].get(name).cloned();
    assert_eq!(field(0, "course"), Some(Value::Text("rust".into())), "as it was written");
    assert_eq!((field(0, "seats"), field(2, "seats")), (None, Some(Value::Int(7))));
    assert_eq!(
        (field(1, "student"), field(3, "student")),
        (Some(Value::Text("bo".into())), Some(Value::Text("al".into())))
    );
    assert_eq!(inspect.violations().expect("read"), violations);
    assert_eq!(violations[0].state, State::Open);
    let receipt = receipt.expect("answered").receipt;
    let used = inspect.key("client", "3").expect("read").expect("it was used");
    assert_eq!((used.receipt, used.response, used.kept), (receipt, b"thanks".to_vec(), KeptUntil::Forever));
    assert_eq!(inspect.key("client", "99").expect("read"), None);
    let report = inspect.verify().expect("read");
    assert_eq!((report.events, report.damage), (events.len() as u64, None));
}

#[test]
fn inspect_counts_match_events() {
    let disk = SimDisk::new(1);
    filled(&disk).close();
    let inspect = looked(&disk);
    let (mut streams, mut tags, mut types) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for event in all(&inspect) {
        *streams.entry(event.event.stream().to_owned()).or_default() += 1;
        *types.entry((event.event.type_name().to_owned(), event.event.schema())).or_default() += 1;
        for tag in event.event.tags().iter() {
            *tags.entry(tag.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(inspect.streams().expect("read"), streams);
    assert_eq!(inspect.tags().expect("read"), tags);
    let found = inspect.types().expect("read");
    let counts: BTreeMap<_, _> =
        found.iter().map(|found| ((found.name.clone(), found.schema), found.events)).collect();
    assert_eq!(counts, types);
    assert!(
        types.contains_key(&("course.Defined".to_owned(), 1))
            && types.contains_key(&("course.Defined".to_owned(), 2))
    );
    assert!(
        types.contains_key(&("course.Joined".to_owned(), 1))
            && types.contains_key(&("course.Entered".to_owned(), 1))
    );
    let json = found.iter().find(|found| found.name == "shop.Sold").expect("it is there");
    assert_eq!((&json.layout, json.first), (&None, json.last));
    let stats = inspect.stats().expect("read");
    assert!(stats.log_files > 0 && stats.derived.iter().any(|(name, _)| name == "state.redb"), "{stats:?}");
}

#[test]
fn inspect_query_matches_view_query() {
    let disk = SimDisk::new(1);
    let store = filled(&disk);
    let view = store.view().expect("a view");
    let queries = || {
        let queries = [
            QueryItem::types(["bank.Deposited"]).into(),
            QueryItem::stream_named("bank/3").into(),
            QueryItem::tagged("account:2").into(),
            Query::from([QueryItem::tagged("account:2"), QueryItem::types(["course.Joined"])]),
            Query::all(),
        ];
        queries.into_iter().flat_map(|query: Query| {
            let (after, up_to) = (Position::new(4), Position::new(15));
            [
                query.clone(),
                query.clone().after(after),
                query.clone().up_to(up_to),
                query.after(after).limit(3),
            ]
        })
    };
    let viewed: Vec<Vec<_>> =
        queries().map(|query| view.query::<Raw>(query).map(Result::unwrap).collect()).collect();
    drop(view);
    store.close();
    let inspect = looked(&disk);
    let found: Vec<Vec<_>> =
        queries().map(|query| inspect.events(query).map(Result::unwrap).collect()).collect();
    assert_eq!(found, viewed);
    assert!(found.iter().map(Vec::len).sum::<usize>() > 50);
    let backwards = inspect.events(Query::all().backwards()).next();
    assert!(matches!(backwards, Some(Err(ReadError::Invalid { what: "query", .. }))));
}

// ---- nothing is touched ----

/// Paths, lengths, times and bytes below a directory.
fn stamps(dir: &Path) -> Vec<(PathBuf, u64, SystemTime, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("it is a directory") {
        let path = entry.expect("it can be read").path();
        let meta = fs::metadata(&path).expect("it is there");
        let bytes = if meta.is_dir() { Vec::new() } else { fs::read(&path).expect("it can be read") };
        all.push((path.clone(), meta.len(), meta.modified().expect("a time"), bytes));
        if meta.is_dir() {
            all.extend(stamps(&path));
        }
    }
    all.sort();
    all
}

fn ask_everything(inspect: &mut Inspect) {
    let layouts = inspect.layouts().expect("read");
    for event in inspect.events(Query::all()) {
        layouts.value(&event.expect("read")).expect("read");
    }
    inspect.types().expect("read");
    inspect.streams().expect("read");
    inspect.tags().expect("read");
    inspect.violations().expect("read");
    inspect.key("client", "3").expect("read");
    inspect.stats().expect("read");
    assert_eq!(inspect.verify().expect("read").damage, None);
    inspect.refresh().expect("it is there");
}

#[test]
fn inspect_changes_no_bytes_or_timestamps() {
    let room = tempfile::tempdir().expect("a temporary directory");
    let path = room.path().join("db");
    let store = Store::create(&path, setup().options(small())).expect("created");
    (0..200).for_each(|n| drop(store.append(deposit(n, 1)).expect("appended")));
    store.close();
    let before = stamps(room.path());
    ask_everything(&mut Store::inspect(&path).expect("it is a store"));
    assert_eq!(stamps(room.path()), before);
}

#[test]
fn inspect_issues_no_writes_or_locks() {
    let disk = SimDisk::new(1);
    let store = filled(&disk);
    let (ops, locks) = (disk.op_count(), disk.stats().call(Op::Lock));
    ask_everything(&mut looked(&disk));
    assert_eq!((disk.op_count(), disk.stats().call(Op::Lock)), (ops, locks));
    store.append(deposit(1, 1)).expect("the store goes on");
    store.close();
}

#[test]
fn what_is_no_store_is_named() {
    let disk = SimDisk::new(1);
    let on = platform(&disk);
    assert!(matches!(Store::inspect_with("/store", &on), Err(OpenError::NotFound { .. })));
    disk.write_file("/store/letter", b"dear");
    assert!(matches!(Store::inspect_with("/store", &on), Err(OpenError::NotAStore { .. })));
    assert_eq!(disk.files(), [Path::new("/store/letter")]);
}

// ---- durable, or not shown ----

/// 1. The store writes until something goes wrong. 2. It is looked at. 3. The power goes. 4. What was shown is there.
#[test]
fn inspected_events_survive_power_cut() {
    let run = |disk: &SimDisk| -> u64 {
        let Ok(store) = Store::open_or_create("/store", simulated(disk)) else { return 0 };
        let mut acknowledged = 0;
        for n in 0..30 {
            match store.append(deposit(n, 1)) {
                Ok(_) => acknowledged += 1,
                Err(_) => break,
            }
        }
        // Left as a killed process leaves it.
        disk.kill();
        acknowledged
    };
    const FAULTS: [Fault; 4] =
        [Fault::AnyError, Fault::ShortWrite, Fault::SyncErrorKeepsNew, Fault::SyncErrorPartly];
    let rehearsal = SimDisk::new(1);
    assert_eq!(run(&rehearsal), 30);
    let (mut looks, mut unproven, mut torn) = (0, 0, 0);
    for op in 1..=rehearsal.op_count() {
        // Each kind of operation meets each fault: operations of an append come in turns.
        let fault = FAULTS[(op + op / 4) as usize % FAULTS.len()];
        let disk = SimDisk::new(op);
        disk.plan(Faults::none().at(op, fault));
        let acknowledged = run(&disk);
        disk.plan(Faults::none());
        let Ok(inspect) = Store::inspect_with("/store", &platform(&disk)) else { continue };
        let end = inspect.end();
        let shown = all(&inspect);
        assert_eq!(shown.len() as u64, end.position.get());
        assert!(end.position.get() + 1 >= acknowledged, "op {op}: the last group at most is missing");
        assert_eq!(inspect.verify().expect("read").damage, None);
        looks += 1;
        unproven += end.unproven_commits;
        torn += u64::from(end.torn_bytes > 0);
        let policy = ImagePolicy::ALL[op as usize % ImagePolicy::ALL.len()];
        let image = disk.fork(op);
        image.power_cut(policy);
        let store = Store::open("/store", simulated(&image)).expect("opens");
        let view = store.view().expect("a view");
        let kept: Vec<_> = view.query::<Raw>(Query::all()).map(Result::unwrap).take(shown.len()).collect();
        assert_eq!(kept, shown, "op {op}, {fault:?}, {policy:?}");
    }
    assert!(
        looks > 50 && unproven > 10 && torn > 1,
        "{looks} looks, {unproven} commits not proven, {torn} torn tails"
    );
}

#[test]
fn inspect_reports_torn_tail_without_truncating() {
    let disk = SimDisk::new(1);
    filled(&disk).close();
    let path = disk
        .files()
        .into_iter()
        .rfind(|file| file.extension().is_some_and(|it| it == "log"))
        .expect("a segment");
    let mut bytes = disk.read_file(&path).expect("it is there");
    let sealed = bytes.iter().rposition(|byte| *byte != 0).expect("groups") + 1;
    let at = sealed.next_multiple_of(8);
    bytes[at..at + 9].copy_from_slice(b"half a gr");
    disk.write_file(&path, &bytes);
    let before = looked(&disk).end();
    assert!(before.torn_bytes >= 9, "{before:?}");
    assert_eq!(disk.read_file(&path).expect("it is there"), bytes);
}

#[test]
fn damage_is_named_with_its_position() {
    let disk = SimDisk::new(1);
    filled(&disk).close();
    let events = all(&looked(&disk)).len();
    let path = disk
        .files()
        .into_iter()
        .find(|file| file.extension().is_some_and(|it| it == "log"))
        .expect("a segment");
    let bytes = disk.read_file(&path).expect("it is there");
    let at = bytes.windows(4).position(|four| four == b"redb").expect("a payload");
    disk.flip_bit(&path, at as u64, 3);
    // In the last segment the look itself meets it, in another one the walk.
    match Store::inspect_with("/store", &platform(&disk)) {
        Err(error) => assert!(
            matches!(error, OpenError::Corrupt { position, .. } if position == Position::new(3)),
            "{error}"
        ),
        Ok(inspect) => {
            let (position, _) = inspect.verify().expect("read").damage.expect("it is damaged");
            assert_eq!(position, Position::new(3));
            let read: Vec<_> = inspect.events(Query::all()).collect();
            assert!(read.len() < events && read.last().is_some_and(Result::is_err));
        }
    }
}

#[test]
fn inspect_lags_idle_writer_by_one_commit() {
    let disk = SimDisk::new(1);
    let store = Store::create("/store", simulated(&disk)).expect("created");
    let mut inspect = looked(&disk);
    assert_eq!(inspect.end().committed_at, None);
    for n in 1..200 {
        store.append(deposit(n as u32, 1)).expect("appended");
        let end = inspect.refresh().expect("it is there");
        let all_shown = end.position.get() == n && end.unproven_commits == 0;
        assert!(all_shown || (end.position.get() + 1 == n && end.unproven_commits == 1), "{end:?} at {n}");
        assert_eq!(inspect.events(Query::all()).count() as u64, end.position.get());
    }
    store.close();
    assert_eq!(inspect.refresh().expect("it is there").position.get(), 199);
    assert_eq!(inspect.end().unproven_commits, 0);
}

// ---- beside a process that writes ----

#[test]
fn child() {
    if std::env::var(CHILD).is_err() {
        return;
    }
    let dir = PathBuf::from(std::env::var(DIR).expect("the parent says where"));
    let store = Store::create(dir, setup().options(small())).expect("created");
    let mut out = std::io::stdout().lock();
    for n in 0.. {
        let group: Vec<_> = (0..1 + n % 5).map(|k| store.submit(deposit(n * 7 + k, 1))).collect();
        for commit in group {
            let position = commit.wait().expect("appended").receipt.last;
            // A parent that is gone needs no answer.
            if writeln!(out, "\nsaid {position}").is_err() {
                std::process::exit(0);
            }
        }
    }
}

fn writer(dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("a test has a binary"))
        .args(["--exact", "inspect::child", "--nocapture", "--test-threads=1"])
        .envs([(CHILD, "write"), (DIR, dir.to_str().expect("a plain path"))])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts")
}

#[test]
fn inspect_works_while_another_process_writes() {
    let room = tempfile::tempdir().expect("a temporary directory");
    let path = room.path().join("db");
    let mut child = writer(&path);
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    let mut said =
        lines.filter_map(|line| line.strip_prefix("said ").and_then(|number| number.parse::<u64>().ok()));
    said.next().expect("it writes");
    let mut inspect = Store::inspect(&path).expect("it is a store");
    let (mut shown, mut looks) = (0, 0);
    while shown < 3000 || looks < 50 {
        let acknowledged = said.by_ref().nth(40).expect("it writes");
        let end = inspect.refresh().expect("it is there");
        assert!(end.position.get() >= shown, "the head only moves on");
        // At most the group in flight, of 5 commits, is not proven.
        assert!(end.position.get() + 5 >= acknowledged, "{end:?}, {acknowledged} acknowledged");
        let tail: Vec<_> =
            inspect.events(Query::all().after(Position::new(shown))).map(Result::unwrap).collect();
        assert_eq!(tail.len() as u64, end.position.get() - shown);
        assert!(tail.iter().all(|event| event.event.codec() == Codec::Bincode));
        if looks % 10 == 0 {
            let report = inspect.verify().expect("read");
            assert_eq!((report.damage, report.events), (None, end.position.get()));
        }
        (shown, looks) = (end.position.get(), looks + 1);
    }
    let seen = all(&inspect);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let store = Store::open(&path, setup().options(small())).expect("opens");
    assert!(store.stats().log_files > 3, "segments were rotated meanwhile");
    let view = store.view().expect("a view");
    let kept: Vec<_> = view.query::<Raw>(Query::all()).map(Result::unwrap).take(seen.len()).collect();
    assert_eq!(kept, seen);
}
