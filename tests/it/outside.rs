//! Evidence from outside: what is pulled is on record, with the times at which it was seen, and a source that cannot be read
//! proves nothing.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tallystone::check::{
    About, Check, Column, Compared, KeyRange, Outside, PullError, Pulled, RangeRows, Ranges, Severity,
};
use tallystone::disk::Platform;
use tallystone::error::OpenError;
use tallystone::outside::rows_of;
use tallystone::prelude::*;
use tallystone::testing::SimClock;
use tallystone::watch::{Notification, NotificationKind, State};

const MINUTE: Duration = Duration::from_secs(60);
const QUARTER: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Billing {
    Started { product: String, cents: u64 },
    Ended { product: String },
}

impl Event for Billing {
    const FAMILY: &'static str = "billing";
    type Id = String;

    fn id(&self) -> String {
        let (Self::Started { product, .. } | Self::Ended { product }) = self;
        product.clone()
    }
}

/// Cents a month, while billed.
struct Bills;

impl Projection for Bills {
    const NAME: &'static str = "bills";
    type Event = Billing;
    type Key = String;
    type Row = u64;

    fn fold(event: &Billing, rows: &mut Rows<Self>) -> Folded {
        match event {
            Billing::Started { product, cents } => rows.put(product.clone(), *cents),
            Billing::Ended { product } => rows.remove(product),
        }
    }
}

fn started(product: &str, cents: u64) -> Billing {
    Billing::Started { product: product.to_owned(), cents }
}

fn about(id: &'static str) -> About {
    About {
        id,
        severity: Severity::Ticket,
        owner: "payments",
        means: "Invoices and bills differ.",
        remedy: "1 trust the contract; 2 correct the other",
    }
}

/// A system of somebody else's, of which a test decides what it answers.
#[derive(Clone, Default)]
struct Theirs(Arc<Mutex<Answers>>);

#[derive(Default)]
struct Answers {
    rows: Vec<(String, u64)>,
    as_of: Option<SystemTime>,
    columns: Vec<Column>,
    fails: Option<PullError>,
    panics: bool,
    /// What reading single rows again gives instead.
    again: BTreeMap<String, Option<u64>>,
    pulls: usize,
    asked_again: Vec<String>,
}

impl Theirs {
    fn set(&self, rows: &[(&str, u64)]) {
        let rows = rows.iter().map(|(product, cents)| ((*product).to_owned(), *cents)).collect();
        self.change(|answers| answers.rows = rows);
    }

    fn change(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.0.lock().unwrap());
    }

    fn pulls(&self) -> usize {
        self.0.lock().unwrap().pulls
    }

    fn asked_again(&self) -> Vec<String> {
        self.0.lock().unwrap().asked_again.clone()
    }
}

impl Outside for Theirs {
    type Key = String;
    type Row = u64;

    fn pull(&self) -> Result<Pulled<String, u64>, PullError> {
        let panics = {
            let mut answers = self.0.lock().unwrap();
            answers.pulls += 1;
            if let Some(error) = &answers.fails {
                return Err(error.clone());
            }
            answers.panics
        };
        assert!(!panics, "the network is a lie");
        let answers = self.0.lock().unwrap();
        let pulled = Pulled::new(answers.rows.clone()).columns(answers.columns.clone());
        Ok(match answers.as_of {
            Some(time) => pulled.as_of(time),
            None => pulled,
        })
    }

    fn again(&self, keys: &[String]) -> Result<Pulled<String, Option<u64>>, PullError> {
        let mut answers = self.0.lock().unwrap();
        answers.asked_again.extend_from_slice(keys);
        let rows: BTreeMap<_, _> = answers.rows.iter().cloned().collect();
        let row = |key: &String| answers.again.get(key).copied().unwrap_or_else(|| rows.get(key).copied());
        let rows = keys.iter().map(|key| (key.clone(), row(key))).collect();
        Ok(Pulled::new(rows).columns(answers.columns.clone()))
    }
}

/// A store on a clock that only the test moves, and without threads.
struct Bench {
    clock: SimClock,
    store: Store,
    alerts: Arc<Mutex<Vec<Notification>>>,
}

fn agreeing(evidence: impl Outside<Key = String, Row = u64>) -> Compared {
    about("agree")
        .outside::<Bills, _>(evidence, |ours, theirs| ours == theirs)
        .every(MINUTE)
        .stale_after(10 * MINUTE)
}

impl Bench {
    fn setup(
        clock: &SimClock,
        checks: impl IntoIterator<Item = Check>,
    ) -> (Setup, Arc<Mutex<Vec<Notification>>>) {
        let alerts = Arc::new(Mutex::new(Vec::new()));
        let told = alerts.clone();
        let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
        let setup = Setup::new().inline::<Bills>().platform(platform).lockstep().alerts(
            move |alert: &Notification| {
                if alert.kind != NotificationKind::Resolved {
                    told.lock().unwrap().push(alert.clone());
                }
            },
        );
        (checks.into_iter().fold(setup, Setup::check), alerts)
    }

    fn new(evidence: impl Outside<Key = String, Row = u64>) -> Self {
        Self::of([agreeing(evidence).for_longer_than(QUARTER)])
    }

    fn of(checks: impl IntoIterator<Item = Check>) -> Self {
        let clock = SimClock::default();
        let (setup, alerts) = Self::setup(&clock, checks);
        Self { store: Store::in_memory(setup).expect("the setup is well"), clock, alerts }
    }

    fn on_disk(path: &Path, clock: &SimClock, evidence: impl Outside<Key = String, Row = u64>) -> Self {
        let (setup, alerts) = Self::setup(clock, [agreeing(evidence).for_longer_than(QUARTER)]);
        let store = Store::open_or_create(path, setup).expect("the setup is well");
        Self { store, clock: clock.clone(), alerts }
    }

    fn append(&self, event: Billing) -> Position {
        self.store.append(Append::event(event)).expect("it is taken").receipt.last
    }

    fn step(&self) {
        for _ in 0..8 {
            self.store.step();
        }
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.step();
    }

    fn source(&self) -> tallystone::watch::Source {
        self.store.checks().sources().expect("rows are read").remove(0)
    }

    fn rows<O: Outside<Key = String, Row = u64>>(&self) -> Vec<(String, u64)> {
        let evidence = self.store.checks().evidence::<O>("agree").expect("it is its source");
        let rows = evidence.rows().collect::<Result<Vec<_>, _>>().expect("rows are read");
        rows.into_iter().map(|(key, seen)| (key, seen.row)).collect()
    }

    fn open(&self) -> Vec<(String, State)> {
        let all = self.store.checks().all().expect("rows are read");
        all.into_iter().map(|violation| (violation.check, violation.state)).collect()
    }

    fn events_len(&self) -> u64 {
        self.store.stats().position.get()
    }
}

#[test]
fn pull_records_only_changed_rows() {
    let theirs = Theirs::default();
    theirs.set(&[("mug", 500), ("pen", 200)]);
    let bench = Bench::new(theirs.clone());
    let begun = bench.clock_time();
    bench.step();
    assert_eq!(bench.rows::<Theirs>(), [("mug".into(), 500), ("pen".into(), 200)]);
    let source = bench.source();
    assert_eq!((source.check.as_str(), source.rows, source.as_of), ("agree", 2, Some(begun)));
    assert_eq!((source.failed, source.is_stale), (None, false));
    // That it is pulled, the rows, and that they are all.
    assert_eq!(bench.events_len(), 3);

    bench.pass(MINUTE);
    assert_eq!(bench.events_len(), 4, "nothing changed but the time");
    theirs.set(&[("mug", 500), ("pen", 250)]);
    bench.pass(MINUTE);
    assert_eq!(bench.events_len(), 6);
    assert_eq!(bench.rows::<Theirs>(), [("mug".into(), 500), ("pen".into(), 250)]);
    assert_eq!(theirs.pulls(), 3, "once a period");
}

impl Bench {
    fn clock_time(&self) -> SystemTime {
        use tallystone::disk::Clock;
        self.clock.now().into()
    }
}

#[test]
fn row_000_26_untimed_snapshots_give_first_and_last_seen() {
    let theirs = Theirs::default();
    theirs.set(&[("mug", 500)]);
    let bench = Bench::new(theirs.clone());
    let start = bench.clock_time();
    bench.step();
    theirs.set(&[("mug", 500), ("pen", 200)]);
    bench.pass(MINUTE);
    theirs.set(&[("mug", 600), ("pen", 200)]);
    bench.pass(MINUTE);
    let evidence = bench.store.checks().evidence::<Theirs>("agree").expect("it is its source");
    let mug = evidence.row(&"mug".to_owned()).expect("it is read").expect("it is there");
    assert_eq!((mug.row, mug.first_seen), (600, start));
    assert_eq!((mug.changed, mug.last_seen), (start + 2 * MINUTE, start + 2 * MINUTE));
    let pen = evidence.row(&"pen".to_owned()).expect("it is read").expect("it is there");
    assert_eq!(
        (pen.first_seen, pen.changed, pen.last_seen),
        (start + MINUTE, start + MINUTE, start + 2 * MINUTE)
    );
    assert_eq!(evidence.row(&"cup".to_owned()).expect("it is read"), None);

    theirs.set(&[("pen", 200)]);
    bench.pass(MINUTE);
    let evidence = bench.store.checks().evidence::<Theirs>("agree").expect("it is its source");
    assert_eq!(evidence.row(&"mug".to_owned()).expect("it is read"), None);
    let changes: Vec<_> = evidence
        .changes()
        .map(|change| change.expect("events are read"))
        .map(|change| (change.as_of.duration_since(start).unwrap().as_secs() / 60, change.key, change.row))
        .collect();
    let said = |minute, key: &str, row| (minute, key.to_owned(), row);
    assert_eq!(
        changes,
        [
            said(0, "mug", Some(500)),
            said(1, "pen", Some(200)),
            said(2, "mug", Some(600)),
            said(3, "mug", None)
        ]
    );
    // One that comes back is a new one.
    theirs.set(&[("mug", 600), ("pen", 200)]);
    bench.pass(MINUTE);
    let evidence = bench.store.checks().evidence::<Theirs>("agree").expect("it is its source");
    let mug = evidence.row(&"mug".to_owned()).expect("it is read").expect("it is there");
    assert_eq!(mug.first_seen, start + 4 * MINUTE);
}

#[test]
fn row_000_24_unreadable_source_is_reported_stale_once() {
    let theirs = Theirs::default();
    theirs.set(&[("mug", 500)]);
    let bench = Bench::new(theirs.clone());
    bench.append(started("mug", 500));
    bench.step();
    // From here on the source lies, and then does not answer at all.
    theirs.change(|answers| answers.fails = Some(PullError::Unreachable("connection refused".into())));
    bench.append(started("pen", 200));
    for _ in 0..10 {
        bench.pass(MINUTE);
    }
    assert_eq!(bench.open(), [], "not older than it may be");
    let recorded = bench.events_len();
    let (at, why) = bench.source().failed.expect("it cannot be read");
    assert_eq!(why, "it cannot be read: connection refused");
    assert!(at.get() <= recorded);

    for _ in 0..120 {
        bench.pass(MINUTE);
    }
    assert_eq!(
        bench.open(),
        [("agree.fresh".into(), State::Open)],
        "and never a violation of what is compared"
    );
    assert!(bench.source().is_stale);
    // The time, the finding; two routes that begin, the notice, and that it was delivered: however often it is tried.
    assert_eq!(bench.events_len(), recorded + 6);
    let alerts = bench.alerts.lock().unwrap().clone();
    let [alert] = &alerts[..] else { panic!("one alert: {alerts:?}") };
    assert_eq!((alert.check.as_str(), alert.owner.as_str()), ("agree.fresh", "payments"));
    assert!(alert.means.contains("cannot be told"), "{}", alert.means);

    theirs.change(|answers| answers.fails = None);
    theirs.set(&[("mug", 500), ("pen", 200)]);
    bench.pass(MINUTE);
    let source = bench.source();
    assert_eq!((source.is_stale, source.failed), (false, None));
    assert!(matches!(&bench.open()[..], [(check, State::Healed { .. })] if check == "agree.fresh"));
    // It may come again, and is told again.
    theirs.change(|answers| answers.fails = Some(PullError::Unreachable("connection refused".into())));
    for _ in 0..20 {
        bench.pass(MINUTE);
    }
    assert_eq!(bench.alerts.lock().unwrap().len(), 2);
}

#[test]
fn source_that_never_answered_is_reported_stale() {
    let theirs = Theirs::default();
    theirs.change(|answers| answers.panics = true);
    let bench = Bench::new(theirs);
    for _ in 0..12 {
        bench.pass(MINUTE);
    }
    assert_eq!(bench.open(), [("agree.fresh".into(), State::Open)]);
    let source = bench.source();
    assert_eq!((source.as_of, source.rows, source.pulled), (None, 0, None));
    assert_eq!(source.failed.map(|(_, why)| why).as_deref(), Some("panicked: the network is a lie"));
}

#[test]
fn disagreeing_rows_are_reread_before_recording() {
    let theirs = Theirs::default();
    // The page of the listing is old; the record itself is not. One row it lost, one it has too many.
    theirs.set(&[("mug", 400), ("cup", 100), ("pot", 900)]);
    theirs.change(|answers| {
        answers.again.insert("mug".into(), Some(500));
        answers.again.insert("cup".into(), None);
        answers.again.insert("pen".into(), Some(200));
    });
    let bench = Bench::new(theirs.clone());
    bench.append(started("mug", 500));
    bench.append(started("pen", 200));
    bench.append(started("pot", 900));
    bench.step();
    assert_eq!(theirs.asked_again(), ["cup", "mug", "pen"], "both ways, and what agrees is left alone");
    assert_eq!(bench.rows::<Theirs>(), [("mug".into(), 500), ("pen".into(), 200), ("pot".into(), 900)]);
    assert_eq!(bench.source().rows, 3);
}

#[test]
fn disagreement_without_row_reread_repeats_full_pull() {
    struct Plain(Theirs);
    impl Outside for Plain {
        type Key = String;
        type Row = u64;
        fn pull(&self) -> Result<Pulled<String, u64>, PullError> {
            let pulled = self.0.pull();
            self.0.set(&[("mug", 500)]);
            pulled
        }
    }
    let theirs = Theirs::default();
    theirs.set(&[("mug", 1)]);
    let bench = Bench::new(Plain(theirs.clone()));
    bench.append(started("mug", 500));
    bench.step();
    assert_eq!((theirs.pulls(), bench.rows::<Plain>()), (2, vec![("mug".into(), 500)]));
    bench.pass(MINUTE);
    assert_eq!(theirs.pulls(), 3, "where all agree, once");
}

#[test]
fn snapshot_with_duplicate_key_is_rejected() {
    let theirs = Theirs::default();
    theirs.set(&[("mug", 500)]);
    let bench = Bench::new(theirs.clone());
    bench.step();
    theirs.set(&[("mug", 500), ("straße/€", 1), ("straße/€", 2)]);
    bench.pass(MINUTE);
    assert_eq!(bench.rows::<Theirs>(), [("mug".into(), 500)]);
    let (_, why) = bench.source().failed.expect("it is not used");
    assert_eq!(why, "two rows have the key straße%2F€");
}

#[test]
fn snapshot_with_oversized_key_is_rejected_whole() {
    let theirs = Theirs::default();
    let long = "k".repeat(2000);
    theirs.set(&[("mug", 500), (&long, 1)]);
    let bench = Bench::new(theirs.clone());
    bench.step();
    assert_eq!(bench.rows::<Theirs>(), []);
    let (_, why) = bench.source().failed.expect("it is not used");
    assert!(
        why.starts_with("the key of kkk") && why.ends_with("kk… has 2013 bytes, the limit is 1024"),
        "{why}"
    );
}

#[test]
fn open_lists_all_errors_of_source_setup() {
    #[derive(Serialize, Deserialize, Clone, PartialEq)]
    struct Loose {
        #[serde(flatten)]
        rest: BTreeMap<String, u64>,
    }
    struct Source;
    impl Outside for Source {
        type Key = String;
        type Row = Loose;
        fn pull(&self) -> Result<Pulled<String, Loose>, PullError> {
            Ok(Pulled::new(Vec::new()))
        }
    }
    let check = about("loose")
        .outside::<Bills, _>(Source, |_, _| true)
        .every(Duration::ZERO)
        .for_longer_than(QUARTER);
    let Err(OpenError::Setup(why)) = Store::in_memory(Setup::new().check(check)) else {
        panic!("it must not open")
    };
    assert_eq!(why.len(), 4, "{why:#?}");
    assert!(why[0].starts_with("check `loose`: `row`: "), "{why:#?}");
    assert_eq!(why[1], "check `loose`: `every`: it is 0: name a time between two pulls");
    assert!(why[2].starts_with("check `loose`: `stale_after`: "), "{why:#?}");
    assert!(why[3].starts_with("check `loose` reads rows of `bills`, which the setup lacks"), "{why:#?}");
}

#[test]
fn what_is_outside_refuses_no_commit() {
    let check = agreeing(Theirs::default()).for_longer_than(QUARTER).guard();
    let refused = Store::in_memory(Setup::new().inline::<Bills>().check(check));
    let Err(OpenError::Setup(why)) = refused else { panic!("it must not open") };
    assert!(why.iter().any(|why| why.contains("`guard`: no event violates")), "{why:?}");
}

#[test]
fn snapshot_with_too_few_rows_is_rejected() {
    let theirs = Theirs::default();
    theirs.set(&[("mug", 500), ("pen", 200)]);
    let bench = Bench::of([agreeing(theirs.clone()).at_least(2).for_longer_than(QUARTER)]);
    bench.step();
    theirs.set(&[("mug", 500)]);
    bench.pass(MINUTE);
    assert_eq!(bench.rows::<Theirs>().len(), 2);
    let (_, why) = bench.source().failed.expect("it is not used");
    assert_eq!(why, "it has 1 rows, at least 2 are expected");
}

#[test]
fn may_be_empty_accepts_emptied_source_after_reread() {
    let theirs = Theirs::default();
    let bench = Bench::of([agreeing(theirs.clone()).may_be_empty().for_longer_than(QUARTER)]);
    bench.step();
    assert_eq!((bench.source().rows, bench.source().pulled.is_some()), (0, true));
    theirs.set(&[("mug", 500), ("pen", 200)]);
    bench.append(started("mug", 500));
    bench.append(started("pen", 200));
    bench.pass(MINUTE);
    theirs.set(&[]);
    bench.pass(MINUTE);
    assert_eq!(theirs.asked_again().iter().filter(|key| *key == "mug").count(), 1);
    assert_eq!((bench.source().rows, bench.rows::<Theirs>()), (0, vec![]));
}

#[test]
fn future_time_is_clamped_and_older_snapshot_rejected() {
    let theirs = Theirs::default();
    theirs.set(&[("mug", 500)]);
    let bench = Bench::new(theirs.clone());
    let start = bench.clock_time();
    theirs.change(|answers| answers.as_of = Some(start + 100 * MINUTE));
    bench.step();
    assert_eq!(bench.source().as_of, Some(start));
    // An export of yesterday was put in place of today's.
    theirs.set(&[("mug", 100)]);
    theirs.change(|answers| answers.as_of = Some(start - MINUTE));
    bench.pass(MINUTE);
    assert_eq!(bench.rows::<Theirs>(), [("mug".into(), 500)]);
    let (_, why) = bench.source().failed.expect("it is not used");
    assert_eq!(why, "it is older than the snapshot before it");
}

#[test]
fn export_no_longer_written_becomes_stale() {
    let theirs = Theirs::default();
    theirs.set(&[("mug", 500)]);
    let bench = Bench::new(theirs.clone());
    theirs.change(|answers| answers.as_of = Some(bench.clock_time()));
    for _ in 0..30 {
        bench.pass(MINUTE);
    }
    assert_eq!(bench.open(), [("agree.fresh".into(), State::Open)]);
    assert_eq!(bench.alerts.lock().unwrap().len(), 1);
    assert_eq!(bench.source().failed, None, "it is read; it is just old");
}

#[test]
fn restart_keeps_evidence_and_ignores_missed_pulls() {
    let dir = tempfile::tempdir().expect("a directory");
    let (theirs, clock) = (Theirs::default(), SimClock::default());
    theirs.set(&[("mug", 500), ("pen", 200)]);
    let bench = Bench::on_disk(&dir.path().join("store"), &clock, theirs.clone());
    bench.append(started("mug", 500));
    bench.append(started("pen", 250));
    bench.step();
    let before = bench.events_len();
    bench.store.close();
    clock.advance(3 * 24 * 60 * MINUTE);
    theirs.set(&[("mug", 500), ("pen", 250)]);
    let bench = Bench::on_disk(&dir.path().join("store"), &clock, theirs.clone());
    assert_eq!(
        bench.rows::<Theirs>(),
        [("mug".into(), 500), ("pen".into(), 200)],
        "before anything is pulled"
    );
    bench.step();
    assert_eq!(bench.rows::<Theirs>(), [("mug".into(), 500), ("pen".into(), 250)]);
    // Closed, opened, one change, complete.
    assert_eq!(bench.events_len(), before + 4);
    bench.pass(MINUTE);
    assert_eq!((bench.open(), bench.alerts.lock().unwrap().len()), (vec![], 0));
}

#[test]
fn frequent_restarts_do_not_hide_failing_source() {
    let dir = tempfile::tempdir().expect("a directory");
    let (theirs, clock) = (Theirs::default(), SimClock::default());
    theirs.change(|answers| answers.fails = Some(PullError::Unreachable("no route".into())));
    for _ in 0..12 {
        let bench = Bench::on_disk(&dir.path().join("store"), &clock, theirs.clone());
        bench.step();
        clock.advance(MINUTE);
    }
    let bench = Bench::on_disk(&dir.path().join("store"), &clock, theirs.clone());
    bench.step();
    assert_eq!(bench.open(), [("agree.fresh".into(), State::Open)]);
}

/// Copies a store as it stands, and tears the last commit off its log: as a power cut does that came before it was durable.
fn torn(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("log")).expect("it is made");
    for entry in std::fs::read_dir(from.join("log")).expect("it is there") {
        let entry = entry.expect("it is read");
        let mut bytes = std::fs::read(entry.path()).expect("it is read");
        let end = bytes.iter().rposition(|byte| *byte != 0).expect("something is written");
        bytes[end - 8..].fill(0);
        std::fs::write(to.join("log").join(entry.file_name()), bytes).expect("it is written");
    }
}

#[test]
fn interrupted_snapshot_is_resumed_without_duplicate_rows() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, after) = (dir.path().join("store"), dir.path().join("after"));
    let (theirs, clock) = (Theirs::default(), SimClock::default());
    theirs.change(|answers| answers.rows = (0..1200).map(|n| (format!("p{n:05}"), n)).collect());
    let bench = Bench::on_disk(&path, &clock, theirs.clone());
    bench.step();
    // That it is pulled; 512, 512 and 176 rows; that these are all.
    assert_eq!(bench.events_len(), 5);
    torn(&path, &after);

    let bench = Bench::on_disk(&after, &clock, theirs.clone());
    assert_eq!((bench.events_len(), bench.rows::<Theirs>().len()), (4, 1200));
    assert_eq!(bench.source().as_of, None, "nobody said that these are all");
    theirs.change(|answers| answers.rows[7].1 = 0);
    bench.pass(MINUTE);
    let evidence = bench.store.checks().evidence::<Theirs>("agree").expect("it is its source");
    let again = evidence.changes().skip(1200).map(|change| change.expect("events are read").key);
    assert_eq!(again.collect::<Vec<_>>(), ["p00007"]);
    assert_eq!((bench.source().rows, bench.source().as_of), (1200, Some(bench.clock_time())));
}

#[test]
fn row_000_25_other_store_is_evidence_compared_by_code() {
    let clock = SimClock::default();
    let invoices = {
        let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
        Store::in_memory(Setup::new().inline::<Bills>().platform(platform).lockstep()).expect("it opens")
    };
    invoices.append(Append::event(started("mug", 500))).expect("it is taken");
    // Within a cent: no query says so.
    let close = about("agree")
        .outside::<Bills, _>(rows_of::<Bills>(&invoices), |ours, theirs| match (ours, theirs) {
            (Some(ours), Some(theirs)) => ours.abs_diff(*theirs) <= 1,
            _ => false,
        })
        .every(MINUTE)
        .may_be_empty()
        .for_longer_than(QUARTER);
    let (setup, alerts) = Bench::setup(&clock, [close]);
    let bench = Bench { store: Store::in_memory(setup).expect("it opens"), clock, alerts };
    bench.append(started("mug", 501));
    bench.step();
    assert_eq!(bench.rows::<tallystone::outside::StoreRows<Bills>>(), [("mug".into(), 500)]);
    invoices.append(Append::event(Billing::Ended { product: "mug".into() })).expect("it is taken");
    bench.pass(MINUTE);
    assert_eq!(bench.rows::<tallystone::outside::StoreRows<Bills>>(), []);
}

#[test]
fn lagging_store_rows_carry_last_folded_time() {
    let clock = SimClock::default();
    let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
    let other =
        Store::in_memory(Setup::new().behind::<Bills>().platform(platform).lockstep()).expect("it opens");
    let source = rows_of::<Bills>(&other);
    other.append(Append::event(started("mug", 500))).expect("it is taken");
    assert!(matches!(source.pull(), Err(PullError::Unfinished(_))), "nothing is folded yet");
    other.step();
    assert_eq!(source.pull().expect("it has caught up").as_of, None);
    let folded: SystemTime = {
        use tallystone::disk::Clock;
        clock.now().into()
    };
    clock.advance(MINUTE);
    other.append(Append::event(started("pen", 200))).expect("it is taken");
    let behind = source.pull().expect("it is behind");
    assert_eq!((behind.rows.len(), behind.as_of), (1, Some(folded)));
}

/// A pull once a day is not waited for until tomorrow.
#[test]
fn store_closes_promptly_between_pulls() {
    struct Told(Theirs, Mutex<mpsc::Sender<()>>);
    impl Outside for Told {
        type Key = String;
        type Row = u64;
        fn pull(&self) -> Result<Pulled<String, u64>, PullError> {
            let _ = self.1.lock().unwrap().send(());
            self.0.pull()
        }
    }
    let (tells, told) = mpsc::channel();
    let source = Told(Theirs::default(), Mutex::new(tells));
    let check = agreeing(source).every(24 * 60 * MINUTE).stale_after(72 * 60 * MINUTE);
    let setup = Setup::new().inline::<Bills>().check(check.for_longer_than(QUARTER)).alerts(|_| {});
    let store = Store::in_memory(setup).expect("it opens");
    told.recv().expect("it is pulled");
    let mut pulled = store.subscribe::<Raw>(Query::all(), Position::START);
    assert!(pulled.any(|event| event.expect("events are read").event.type_name() == "tallystone.Pulled"));
    store.close();
}

#[test]
fn hanging_pull_blocks_no_other_operation() {
    struct Hangs(Mutex<mpsc::Receiver<()>>, mpsc::Sender<()>);
    impl Outside for Hangs {
        type Key = String;
        type Row = u64;
        fn pull(&self) -> Result<Pulled<String, u64>, PullError> {
            let _ = self.1.send(());
            let _ = self.0.lock().unwrap().recv();
            Err(PullError::Unreachable("at last".into()))
        }
    }
    let (release, held) = mpsc::channel();
    let (entered, inside) = mpsc::channel();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let setup = |source| {
        let check = agreeing(source).for_longer_than(QUARTER);
        Setup::new().inline::<Bills>().check(check).alerts(|_| {})
    };
    let store = Store::create(&path, setup(Hangs(Mutex::new(held), entered))).expect("it opens");
    inside.recv().expect("it is pulled");
    let written = store.append(Append::event(started("mug", 500))).expect("it is taken").receipt.last;
    assert!(store.checks().wait_for(written, Duration::from_secs(60)));
    // Neither to close it nor to open it again.
    store.close();
    let (_never, held) = mpsc::channel();
    let (entered, _inside) = mpsc::channel();
    let store = Store::open(&path, setup(Hangs(Mutex::new(held), entered))).expect("nothing holds it");
    assert_eq!(store.view().expect("a view").row::<Bills>("mug").expect("it is read"), Some(500));
    drop(release);
}

// ---- asked for ----

#[test]
fn requested_pull_runs_before_its_period() {
    let theirs = Theirs::default();
    theirs.set(&[("mug", 500)]);
    let bench = Bench::of([agreeing(theirs.clone()).for_longer_than(Duration::ZERO)]);
    bench.append(started("mug", 500));
    let pull = || bench.store.checks().pull("agree", MINUTE).expect("it has a source").expect("in time");
    assert_eq!((pull().rows, theirs.pulls()), (1, 1));
    theirs.set(&[("mug", 500), ("pen", 200)]);
    bench.clock.advance(Duration::from_millis(1));
    // The first shows it, and the second that it is still so.
    assert_eq!((pull().rows, bench.disagreements()), (2, vec![]));
    bench.clock.advance(Duration::from_millis(1));
    pull();
    assert_eq!(bench.disagreements(), [("pen".into(), State::Open)]);
    // What cannot be read is said, and the period goes on as it was.
    theirs.change(|answers| answers.fails = Some(PullError::Unreachable("no line".into())));
    assert_eq!(pull().failed.expect("it is on record").1, "it cannot be read: no line");
    let pulls = theirs.pulls();
    bench.pass(MINUTE);
    assert_eq!(theirs.pulls(), pulls + 1);

    let unknown = bench.store.checks().pull("agree.fresh", MINUTE).expect_err("it has no source");
    assert_eq!(unknown.to_string(), "pull: no check `agree.fresh` of the setup has a source");
}

/// A request that waits ends at its timeout, and when the store closes.
#[test]
fn pull_requested_during_pull_gets_later_snapshot() {
    /// Says how often it was pulled, when it may.
    struct Gate(Mutex<mpsc::Receiver<u64>>, mpsc::Sender<()>);
    impl Outside for Gate {
        type Key = String;
        type Row = u64;
        fn pull(&self) -> Result<Pulled<String, u64>, PullError> {
            let _ = self.1.send(());
            let cents = self.0.lock().unwrap().recv().map_err(|_| PullError::Unreachable("gone".into()))?;
            Ok(Pulled::new(vec![("mug".into(), cents)]))
        }
        fn again(&self, _: &[String]) -> Result<Pulled<String, Option<u64>>, PullError> {
            Ok(Pulled::new(Vec::new()))
        }
    }
    let (answer, answers) = mpsc::channel();
    let (entered, inside) = mpsc::channel();
    let check =
        agreeing(Gate(Mutex::new(answers), entered)).every(24 * 60 * MINUTE).stale_after(72 * 60 * MINUTE);
    let setup = Setup::new().inline::<Bills>().check(check.for_longer_than(QUARTER)).alerts(|_| {});
    let store = Store::in_memory(setup).expect("it opens");
    inside.recv().expect("it is pulled");
    assert_eq!(store.checks().pull("agree", Duration::ZERO).expect("it has a source"), None, "it hangs");
    let cents = |store: &Store| {
        let evidence = store.checks().evidence::<Gate>("agree").expect("its source");
        evidence.row(&"mug".to_owned()).expect("rows are read").map(|seen| seen.row)
    };
    // The one that is under way is not theirs.
    (1..=4).for_each(|cents| answer.send(cents).expect("it listens"));
    let source = store.checks().pull("agree", Duration::MAX).expect("it has a source");
    assert_eq!((source.expect("it has come").rows, cents(&store) >= Some(2)), (1, true));

    let (answer, answers) = mpsc::channel();
    let (entered, inside) = mpsc::channel();
    let check = agreeing(Gate(Mutex::new(answers), entered)).for_longer_than(QUARTER);
    let store =
        Store::in_memory(Setup::new().inline::<Bills>().check(check).alerts(|_| {})).expect("it opens");
    inside.recv().expect("it is pulled");
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| store.checks().pull("agree", Duration::MAX));
        store.clone().close();
        let answer = asking.join().expect("no panic");
        assert!(matches!(answer, Ok(None) | Err(_)), "a store that closes lets go: {answer:?}");
    });
    drop(answer);
}

// ---- what is compared ----

impl Bench {
    /// Violations of what is compared: about what, and how they stand.
    fn disagreements(&self) -> Vec<(String, State)> {
        let all = self.store.checks().of("agree").expect("rows are read");
        all.into_iter().map(|violation| (violation.subject.unwrap_or_default(), violation.state)).collect()
    }

    fn minutes(&self, minutes: u32) {
        (0..minutes).for_each(|_| self.pass(MINUTE));
    }
}

#[test]
fn row_000_24_violation_requires_complete_snapshot_after_window() {
    let theirs = Theirs::default();
    theirs.set(&[("pen", 200)]);
    let bench = Bench::new(theirs.clone());
    bench.append(started("mug", 500));
    bench.append(started("pen", 200));
    bench.step();
    bench.minutes(15);
    assert_eq!(bench.disagreements(), [], "at the end of the window it may still come");
    bench.minutes(1);
    assert_eq!(bench.disagreements(), [("mug".into(), State::Open)]);
    let violation = bench.store.checks().open().expect("rows are read").remove(0);
    assert_eq!(violation.disagrees, "bills has 500, the source has no row");
    theirs.set(&[("pen", 200), ("mug", 500)]);
    bench.minutes(1);
    let [(_, State::Healed { after, .. })] = bench.disagreements()[..] else { panic!("it agrees now") };
    // Since the first moment after the window.
    assert_eq!(after, 2 * MINUTE - Duration::from_micros(1));
    assert_eq!(bench.alerts.lock().unwrap().len(), 1);
}

#[test]
fn row_000_24_unreadable_source_causes_no_violation() {
    let theirs = Theirs::default();
    let bench = Bench::new(theirs.clone());
    bench.step();
    theirs.change(|answers| answers.fails = Some(PullError::Unreachable("connection refused".into())));
    bench.append(started("mug", 500));
    bench.append(started("pen", 200));
    bench.minutes(120);
    assert_eq!(bench.disagreements(), []);
    assert_eq!(bench.open(), [("agree.fresh".into(), State::Open)]);
    // It had one of them all the time.
    theirs.change(|answers| answers.fails = None);
    theirs.set(&[("mug", 500)]);
    bench.minutes(1);
    assert_eq!(bench.disagreements(), [("pen".into(), State::Open)]);
}

#[test]
fn agreement_right_after_window_prevents_violation() {
    let theirs = Theirs::default();
    let bench = Bench::of([agreeing(theirs.clone())
        .every(60 * MINUTE)
        .stale_after(200 * MINUTE)
        .for_longer_than(QUARTER)]);
    bench.step();
    bench.append(started("mug", 500));
    bench.append(started("pen", 200));
    bench.clock.advance(MINUTE);
    theirs.set(&[("mug", 500)]);
    bench.pass(59 * MINUTE);
    assert_eq!(bench.disagreements(), [("pen".into(), State::Open)]);
    let stats = bench.store.checks().stats();
    let stats = stats.iter().find(|check| check.check == "agree").expect("it is there");
    assert_eq!((stats.activations, stats.satisfied, stats.violated), (2, 1, 1));
}

#[test]
fn rows_only_in_source_count_as_violations() {
    let theirs = Theirs::default();
    theirs.set(&[("straße/€", 900), ("mug", 400)]);
    let bench = Bench::new(theirs.clone());
    bench.append(started("mug", 500));
    bench.step();
    bench.minutes(16);
    let mut all = bench.disagreements();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(all, [("mug".into(), State::Open), ("straße%2F€".into(), State::Open)]);
    // Whichever side gives way.
    bench.append(started("straße/€", 900));
    bench.append(Billing::Ended { product: "mug".into() });
    theirs.set(&[("straße/€", 900)]);
    bench.minutes(1);
    assert!(bench.disagreements().iter().all(|(_, state)| matches!(state, State::Healed { .. })));
}

#[test]
fn disagreement_cleared_by_reread_is_not_reported() {
    let theirs = Theirs::default();
    theirs.set(&[("mug", 400)]);
    theirs.change(|answers| answers.again = [("mug".to_owned(), Some(500))].into());
    let bench = Bench::new(theirs.clone());
    bench.append(started("mug", 500));
    bench.step();
    bench.minutes(60);
    assert_eq!(bench.disagreements(), []);
    let stats = bench.store.checks().stats();
    assert_eq!(stats.iter().map(|check| check.violated).collect::<Vec<_>>(), [0, 0]);
    // Without that it is.
    theirs.change(|answers| answers.again.clear());
    bench.minutes(17);
    assert_eq!(bench.disagreements(), [("mug".into(), State::Open)]);
}

#[test]
fn emptied_source_raises_one_alert_after_window() {
    let theirs = Theirs::default();
    let many: Vec<_> = (0..100).map(|n| (format!("p{n:03}"), n)).collect();
    theirs.change(|answers| answers.rows = many.clone());
    let bench = Bench::of([agreeing(theirs.clone()).may_be_empty().for_longer_than(QUARTER)]);
    for (product, cents) in &many {
        bench.append(started(product, *cents));
    }
    bench.step();
    theirs.set(&[]);
    bench.minutes(10);
    theirs.change(|answers| answers.rows = many.clone());
    bench.minutes(30);
    assert_eq!(bench.disagreements(), [], "it was empty for a moment");
    theirs.set(&[]);
    bench.minutes(17);
    assert_eq!(bench.disagreements().len(), 100);
    let alerts = bench.alerts.lock().unwrap().clone();
    assert_eq!(
        alerts.iter().map(|alert| (alert.check.as_str(), alert.count)).collect::<Vec<_>>(),
        [("agree", 100)]
    );
}

#[test]
fn window_spanning_restart_is_alerted_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (theirs, clock) = (Theirs::default(), SimClock::default());
    let path = dir.path().join("store");
    let bench = Bench::on_disk(&path, &clock, theirs.clone());
    bench.step();
    bench.append(started("mug", 500));
    bench.minutes(8);
    bench.store.close();
    let bench = Bench::on_disk(&path, &clock, theirs.clone());
    bench.minutes(7);
    assert_eq!(bench.disagreements(), []);
    bench.minutes(1);
    assert_eq!(bench.disagreements(), [("mug".into(), State::Open)]);
    bench.store.close();
    // And judged anew, from the log alone.
    std::fs::remove_file(path.join("checks.redb")).expect("it is there");
    let bench = Bench::on_disk(&path, &clock, theirs.clone());
    bench.minutes(3);
    assert_eq!(bench.disagreements(), [("mug".into(), State::Open)]);
    assert_eq!(bench.alerts.lock().unwrap().len(), 0, "it was told before");
}

/// What became of a row with an event or a complete snapshot: when, whether the sides disagree since, and whether it was a snapshot.
type Points = Vec<(u64, bool, bool)>;

/// Whether a row is violated at the end, by the words of the manual: the sides disagree, and have since some minute without a break;
/// and a complete snapshot of more than the window later shows it.
fn naive(points: &Points, window: u64) -> bool {
    let begin = points.iter().rposition(|(_, disagree, _)| !disagree).map_or(0, |agreed| agreed + 1);
    let Some((since, ..)) = points.get(begin) else { return false };
    points[begin..].iter().any(|(minute, _, is_snapshot)| *is_snapshot && *minute > since + window)
}

fn changes() -> impl Strategy<Value = Vec<(u64, bool, usize, Option<u64>)>> {
    let row = prop_oneof![Just(None), (1..3_u64).prop_map(Some)];
    prop::collection::vec((1..120_u64, any::<bool>(), 0..3_usize, row), 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn violations_match_naive_model(
        mut changes in changes(),
        every in 1..20_u64,
        window in 0..25_u64,
        fails in prop::collection::btree_set(0..120_u64, 0..60),
    ) {
        const KEYS: [&str; 3] = ["cup", "mug", "pen"];
        changes.sort_by_key(|change| change.0);
        let theirs = Theirs::default();
        let check = agreeing(theirs.clone())
            .every(u32::try_from(every).unwrap() * MINUTE)
            .stale_after(10_000 * MINUTE)
            .may_be_empty()
            .for_longer_than(u32::try_from(window).unwrap() * MINUTE);
        let bench = Bench::of([check]);
        let (mut ours, mut shown): ([Option<u64>; 3], [Option<u64>; 3]) = Default::default();
        let mut points: [Points; 3] = Default::default();
        let mut rows = BTreeMap::<String, u64>::new();
        let mut episodes = [(false, 0); 3];
        for minute in 0..=120_u64 {
            for (_, is_ours, key, row) in changes.iter().filter(|change| change.0 == minute) {
                let product = KEYS[*key].to_owned();
                match (is_ours, row) {
                    (true, Some(cents)) => drop(bench.append(started(&product, *cents))),
                    (true, None) => drop(bench.append(Billing::Ended { product })),
                    (false, Some(cents)) => drop(rows.insert(product, *cents)),
                    (false, None) => drop(rows.remove(&product)),
                }
                if *is_ours {
                    ours[*key] = *row;
                    points[*key].push((minute, ours[*key] != shown[*key], false));
                }
            }
            let fails = fails.contains(&minute);
            theirs.change(|answers| {
                answers.rows = rows.clone().into_iter().collect();
                answers.fails = fails.then(|| PullError::Unreachable("no".into()));
            });
            bench.step();
            if minute % every == 0 && !fails {
                for (key, name) in KEYS.iter().enumerate() {
                    shown[key] = rows.get(*name).copied();
                    points[key].push((minute, ours[key] != shown[key], true));
                }
            }
            let open = bench.store.checks().open().expect("rows are read");
            let open: Vec<_> = open.into_iter().filter_map(|violation| violation.subject).collect();
            for (key, name) in KEYS.iter().enumerate() {
                let is_open = open.iter().any(|about| about == name);
                prop_assert_eq!(is_open, naive(&points[key], window), "{} at {}: {:?}", name, minute, points[key]);
                let (was_open, found) = episodes[key];
                episodes[key] = (is_open, found + usize::from(is_open && !was_open));
            }
            bench.clock.advance(MINUTE);
        }
        // And none was found that was over before anybody could see it.
        for (key, name) in KEYS.iter().enumerate() {
            let all = bench.disagreements();
            prop_assert_eq!(all.iter().filter(|(about, _)| about == name).count(), episodes[key].1, "{}", name);
        }
    }
}

// ---- ranges ----

/// A source that is too large to be read whole.
#[derive(Clone, Default)]
struct Large(Arc<Mutex<Vast>>);

#[derive(Default)]
struct Vast {
    rows: BTreeMap<String, u64>,
    begins: Vec<&'static str>,
    /// Where the ranges that were read begin.
    read: Vec<String>,
    again: BTreeMap<String, Option<u64>>,
    strays: bool,
}

impl Large {
    fn new(begins: &[&'static str], rows: &[(&str, u64)]) -> Self {
        let large = Self::default();
        large.change(|vast| vast.begins = begins.to_vec());
        large.change(|vast| vast.rows = rows.iter().map(|(key, row)| ((*key).to_owned(), *row)).collect());
        large
    }

    fn change(&self, change: impl FnOnce(&mut Vast)) {
        change(&mut self.0.lock().unwrap());
    }

    fn take_read(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().read)
    }
}

impl Vast {
    fn range(&self, range: KeyRange<'_, String>) -> (u64, Vec<(String, u64)>) {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let (from, to) = (range.0.cloned(), range.1.cloned());
        let rows: Vec<_> = self.rows.range((from, to)).map(|(key, row)| (key.clone(), *row)).collect();
        let mut hasher = DefaultHasher::new();
        rows.hash(&mut hasher);
        (hasher.finish(), rows)
    }
}

impl Outside for Large {
    type Key = String;
    type Row = u64;

    fn pull(&self) -> Result<Pulled<String, u64>, PullError> {
        panic!("it is too large")
    }

    fn again(&self, keys: &[String]) -> Result<Pulled<String, Option<u64>>, PullError> {
        let vast = self.0.lock().unwrap();
        let row = |key: &String| vast.again.get(key).copied().unwrap_or_else(|| vast.rows.get(key).copied());
        Ok(Pulled::new(keys.iter().map(|key| (key.clone(), row(key))).collect()))
    }

    fn ranges(&self) -> Result<Option<Ranges<String>>, PullError> {
        let vast = self.0.lock().unwrap();
        let hash = |index: usize| {
            let begin = |index: usize| vast.begins.get(index).map(|begin| (*begin).to_owned());
            let (from, to) = (begin(index).filter(|_| index > 0), begin(index + 1));
            vast.range((
                from.as_ref().map_or(Bound::Unbounded, Bound::Included),
                to.as_ref().map_or(Bound::Unbounded, Bound::Excluded),
            ))
            .0
        };
        let begins = vast.begins.iter().enumerate();
        Ok(Some(Ranges::new(begins.map(|(index, begin)| ((*begin).to_owned(), hash(index))).collect())))
    }

    fn pull_range(&self, range: KeyRange<'_, String>) -> Result<RangeRows<Self>, PullError> {
        let mut vast = self.0.lock().unwrap();
        vast.read.push(match range.0 {
            Bound::Included(from) => from.clone(),
            _ => String::new(),
        });
        let (hash, mut rows) = vast.range(range);
        if vast.strays {
            rows.push(("zzz".into(), 1));
        }
        Ok((hash, rows))
    }
}

#[test]
fn large_source_reads_only_changed_ranges() {
    let large = Large::new(&["d", "m", "t"], &[("cup", 1), ("mug", 2), ("pen", 3), ("tin", 4)]);
    let bench = Bench::new(large.clone());
    bench.step();
    assert_eq!(large.take_read(), ["", "m", "t"]);
    assert_eq!(bench.rows::<Large>().len(), 4);
    bench.pass(MINUTE);
    assert_eq!(large.take_read(), [""; 0]);
    large.change(|vast| {
        vast.rows.insert("pen".into(), 30);
        vast.rows.remove("mug");
        vast.rows.insert("zip".into(), 5);
    });
    bench.pass(MINUTE);
    assert_eq!(large.take_read(), ["m", "t"]);
    let rows = [("cup", 1), ("pen", 30), ("tin", 4), ("zip", 5)].map(|(key, row)| (key.to_owned(), row));
    assert_eq!((bench.rows::<Large>(), bench.source().rows), (rows.to_vec(), 4));
    // Other bounds are other ranges.
    large.change(|vast| vast.begins = vec!["d", "n", "t"]);
    bench.pass(MINUTE);
    assert_eq!(large.take_read(), ["", "n"]);
    assert_eq!(bench.rows::<Large>(), rows);
}

/// The hash is of the rows before they were read again. If it was kept, a change back would be hidden for ever.
#[test]
fn reread_range_is_pulled_despite_equal_hash() {
    let large = Large::new(&["d", "m"], &[("cup", 1), ("mug", 2)]);
    let bench = Bench::new(large.clone());
    bench.append(started("cup", 1));
    bench.append(started("mug", 9));
    large.change(|vast| vast.again = [("mug".to_owned(), Some(9))].into());
    bench.step();
    assert_eq!(bench.rows::<Large>(), [("cup".into(), 1), ("mug".into(), 9)]);
    large.take_read();
    // It is as it was when its hash was taken.
    large.change(|vast| vast.again.clear());
    bench.pass(MINUTE);
    assert_eq!(large.take_read(), ["m"]);
    assert_eq!(bench.rows::<Large>(), [("cup".into(), 1), ("mug".into(), 2)]);
    bench.pass(MINUTE);
    assert_eq!(large.take_read(), [""; 0]);
}

#[test]
fn incomplete_ranges_are_reread_after_crash() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, after) = (dir.path().join("store"), dir.path().join("after"));
    let large = Large::new(&["d", "m"], &[("cup", 1), ("mug", 2)]);
    let clock = SimClock::default();
    let bench = Bench::on_disk(&path, &clock, large.clone());
    // What the crash leaves agrees with ours, so nothing else has it read again.
    bench.append(started("cup", 1));
    bench.append(started("mug", 3));
    bench.step();
    large.change(|vast| *vast.rows.get_mut("mug").unwrap() = 3);
    bench.pass(MINUTE);
    // The row is on record, the hash of its range and that this is all are not; and it is what it was again.
    torn(&path, &after);
    large.change(|vast| *vast.rows.get_mut("mug").unwrap() = 2);
    let bench = Bench::on_disk(&after, &clock, large.clone());
    assert_eq!(bench.rows::<Large>(), [("cup".into(), 1), ("mug".into(), 3)]);
    bench.pass(MINUTE);
    assert_eq!(bench.rows::<Large>(), [("cup".into(), 1), ("mug".into(), 2)]);
}

#[test]
fn inconsistent_ranges_are_rejected() {
    let large = Large::new(&["m", "d"], &[("cup", 1)]);
    let bench = Bench::new(large.clone());
    let why = |change: &dyn Fn(&mut Vast)| {
        large.change(change);
        bench.pass(MINUTE);
        bench.source().failed.map(|(_, why)| why)
    };
    assert_eq!(why(&|_| ()).as_deref(), Some("range 2: it does not begin behind the one before"));
    assert_eq!(why(&|vast| vast.begins = vec!["d", "m"]), None);
    assert_eq!(
        why(&|vast| {
            vast.strays = true;
            vast.rows.insert("cup".into(), 2);
        })
        .as_deref(),
        Some("the row of zzz: it is not of the range that was asked for")
    );
    let nothing = |vast: &mut Vast| (vast.strays, vast.begins) = (false, Vec::new());
    assert_eq!(why(&|vast| vast.strays = false), None);
    assert_eq!(why(&nothing).as_deref(), Some("its ranges: there are none: one holds all keys"));
}

// ---- what is believed ----

impl Bench {
    /// Why the last snapshot is not used.
    fn trouble(&self) -> Option<String> {
        self.source().failed.map(|(_, why)| why)
    }

    fn append_all(&self, products: &[(String, u64)]) {
        for (product, cents) in products {
            self.append(started(product, *cents));
        }
    }

    fn accept(&self) {
        let accepted = self.store.checks().accept_source(&self.source(), "ann", "moved to the new system");
        accepted.expect("there is something to accept");
    }
}

fn many(rows: u64) -> Vec<(String, u64)> {
    (0..rows).map(|n| (format!("p{n:03}"), n)).collect()
}

/// The other side drops a column: every note reads as none, and each contract with a note becomes a violation.
#[test]
fn missing_recorded_column_is_refused_across_restarts() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let (theirs, clock) = (Theirs::default(), SimClock::default());
    let columns = [Column::new("product"), Column::new("cents").typed("INTEGER")];
    theirs.set(&[("mug", 500)]);
    theirs.change(|answers| answers.columns = columns.to_vec());
    let bench = Bench::on_disk(&path, &clock, theirs.clone());
    bench.append(started("mug", 500));
    bench.step();
    assert_eq!(bench.source().columns, columns);
    let recorded = bench.events_len();
    bench.pass(MINUTE);
    assert_eq!(bench.events_len(), recorded + 1, "they are recorded once");
    bench.store.close();

    theirs.set(&[("mug", 0)]);
    theirs.change(|answers| answers.columns = vec![Column::new("product"), Column::new("price")]);
    let bench = Bench::on_disk(&path, &clock, theirs.clone());
    bench.step();
    let why = "its columns are not those on record: gone: `cents`; added: `price`: put them back, or accept them with `accept_source`";
    assert_eq!(bench.trouble().as_deref(), Some(why));
    let recorded = bench.events_len();
    bench.minutes(5);
    assert_eq!(bench.events_len(), recorded, "one refusal is recorded once");
    bench.minutes(20);
    assert_eq!((bench.rows::<Theirs>(), bench.disagreements()), (vec![("mug".into(), 500)], vec![]));
    assert_eq!(bench.open(), [("agree.fresh".into(), State::Open)]);

    // Another difference is another refusal: what is accepted is what was seen.
    let seen = bench.source();
    theirs.change(|answers| answers.columns = vec![columns[0].clone(), columns[1].clone().typed("TEXT")]);
    bench.minutes(1);
    assert!(
        bench.trouble().expect("it is refused").contains("of another type: `cents` from INTEGER to TEXT")
    );
    let other = bench.store.checks().accept_source(&seen, "ann", "as agreed").expect_err("it is another one");
    assert_eq!(other.to_string(), "source: no snapshot of `agree` is refused, or another one than this says");
    for (by, reason) in [("", "as agreed"), ("ann", " ")] {
        assert!(bench.store.checks().accept_source(&bench.source(), by, reason).is_err());
    }
    bench.accept();
    bench.store.close();
    let bench = Bench::on_disk(&path, &clock, theirs.clone());
    bench.step();
    assert_eq!((bench.trouble(), bench.rows::<Theirs>()), (None, vec![("mug".into(), 0)]));
    assert_eq!(bench.source().columns[1].kind.as_deref(), Some("TEXT"));
    // One more is no harm, and is one of them from then on.
    theirs.change(|answers| answers.columns.push(Column::new("note")));
    bench.minutes(1);
    assert_eq!(bench.trouble(), None);
    theirs.change(|answers| drop(answers.columns.pop()));
    bench.minutes(1);
    assert!(bench.trouble().expect("it is refused").contains("gone: `note`: "));
    bench.minutes(1);
    theirs.change(|answers| answers.columns.push(Column::new("note")));
    bench.minutes(1);
    assert_eq!(bench.trouble(), None, "it is back");
}

/// The first reading has the column, the second does not: its rows would be put on record under the columns of the first.
#[test]
fn reread_rows_with_changed_columns_are_rejected() {
    let theirs = Theirs::default();
    theirs.set(&[("mug", 400)]);
    theirs.change(|answers| answers.columns = vec![Column::new("cents")]);
    struct Turning(Theirs);
    impl Outside for Turning {
        type Key = String;
        type Row = u64;
        fn pull(&self) -> Result<Pulled<String, u64>, PullError> {
            let pulled = self.0.pull();
            self.0.change(|answers| answers.columns = vec![Column::new("cents"), Column::new("note")]);
            pulled
        }
    }
    let bench = Bench::new(Turning(theirs.clone()));
    bench.append(started("mug", 500));
    bench.step();
    assert_eq!(bench.trouble().as_deref(), Some("it is not finished: its columns changed while it was read"));
    bench.pass(MINUTE);
    assert_eq!((bench.trouble(), bench.rows::<Turning>()), (None, vec![("mug".into(), 400)]));
}

#[test]
fn shrunken_snapshot_is_refused_and_reported() {
    let theirs = Theirs::default();
    theirs.change(|answers| answers.rows = many(100));
    let bench = Bench::new(theirs.clone());
    bench.append_all(&many(100));
    bench.step();
    theirs.change(|answers| answers.rows = many(49));
    bench.minutes(60);
    let advice = "if that may be, say `shrinks_to` or `may_be_empty`, or accept it once with `accept_source`";
    assert_eq!(bench.trouble(), Some(format!("it shrank from 100 rows to 49: {advice}")));
    assert_eq!((bench.rows::<Theirs>().len(), bench.disagreements()), (100, vec![]));
    assert_eq!(bench.open(), [("agree.fresh".into(), State::Open)]);
    theirs.change(|answers| answers.rows = many(50));
    bench.minutes(1);
    assert_eq!((bench.trouble(), bench.source().rows), (None, 50), "half of it is believed");

    theirs.change(|answers| answers.rows = many(11));
    bench.minutes(1);
    bench.accept();
    // What was accepted is this many, and not any number.
    theirs.change(|answers| answers.rows = many(5));
    bench.minutes(1);
    assert_eq!(bench.trouble(), Some(format!("it shrank from 11 rows to 5: {advice}")));
    theirs.change(|answers| answers.rows = many(12));
    bench.minutes(1);
    assert_eq!((bench.trouble(), bench.source().rows), (None, 12));
    theirs.change(|answers| answers.rows = Vec::new());
    bench.minutes(1);
    assert_eq!(bench.trouble(), Some(format!("it shrank from 12 rows to 0: {advice}")));
    bench.accept();
    bench.minutes(2);
    assert_eq!((bench.trouble(), bench.source().rows), (None, 0));
    let nothing = bench.store.checks().accept_source(&bench.source(), "ann", "again");
    assert!(nothing.is_err(), "it is not refused");
}

#[test]
fn small_snapshot_may_shrink_but_not_vanish() {
    let shrunk = |of: &dyn Fn(Compared) -> Compared, from: u64, to: u64| {
        let theirs = Theirs::default();
        theirs.change(|answers| answers.rows = many(from));
        let bench = Bench::of([of(agreeing(theirs.clone())).for_longer_than(QUARTER)]);
        bench.step();
        theirs.change(|answers| answers.rows = many(to));
        bench.minutes(1);
        bench.trouble().is_some()
    };
    let plain = |compared: Compared| compared;
    assert_eq!(
        [(9, 1), (9, 0), (10, 4), (10, 5), (1, 0)].map(|(from, to)| shrunk(&plain, from, to)),
        [false, true, true, false, true]
    );
    let may_be_empty = |compared: Compared| compared.may_be_empty();
    assert_eq!(
        [(9, 0), (100, 0), (100, 1)].map(|(from, to)| shrunk(&may_be_empty, from, to)),
        [false, false, true]
    );
    assert!(!shrunk(&|compared| compared.shrinks_to(0.0), 100, 0), "it may shrink to nothing");
    assert!(shrunk(&|compared| compared.shrinks_to(1.0), 100, 99));
    assert!(!shrunk(&|compared| compared.shrinks_to(0.1), 100, 10));
    for part in [-0.1, 1.1, f64::NAN] {
        let check = agreeing(Theirs::default()).shrinks_to(part).for_longer_than(QUARTER);
        let Err(OpenError::Setup(why)) = Store::in_memory(Setup::new().inline::<Bills>().check(check)) else {
            panic!("it must not open")
        };
        assert_eq!(
            why,
            ["check `agree`: `shrinks_to`: it is a part of the rows before: name a number from 0 to 1"]
        );
    }
}

/// A header and no rows: fifty violations, each of them the export's.
#[test]
fn disagreeing_empty_first_snapshot_is_refused() {
    let theirs = Theirs::default();
    let bench = Bench::new(theirs.clone());
    bench.append_all(&many(50));
    bench.step();
    bench.minutes(60);
    assert_eq!((bench.disagreements(), bench.open()), (vec![], vec![("agree.fresh".into(), State::Open)]));
    let why = "it has no rows, and that disagrees with ours: if it may have none, say `may_be_empty`, or accept it once with `accept_source`";
    assert_eq!(bench.trouble().as_deref(), Some(why));
    bench.accept();
    bench.minutes(1);
    assert_eq!((bench.trouble(), bench.source().rows), (None, 0));
    bench.minutes(16);
    assert_eq!(bench.disagreements().len(), 50);
}

/// One of many ranges answers with nothing: a shard that is down. The whole is nearly as large as before.
#[test]
fn shrunken_range_is_refused() {
    let large = Large::new(&["a", "m", "t"], &[]);
    let fill = |vast: &mut Vast, shard: char, rows: u64| {
        vast.rows.retain(|key, _| !key.starts_with(shard));
        vast.rows.extend((0..rows).map(|n| (format!("{shard}{n:03}"), n)));
    };
    [('b', 200), ('n', 20), ('u', 9)]
        .into_iter()
        .for_each(|(shard, rows)| large.change(|vast| fill(vast, shard, rows)));
    let bench = Bench::new(large.clone());
    bench.step();
    assert_eq!((bench.source().rows, bench.trouble()), (229, None));
    large.change(|vast| fill(vast, 'u', 0));
    bench.minutes(1);
    assert_eq!((bench.source().rows, bench.trouble()), (220, None), "of a few rows any may go");
    large.change(|vast| fill(vast, 'n', 9));
    bench.minutes(1);
    let why = bench.trouble().expect("it is refused");
    assert!(why.starts_with("its range from m shrank from 20 rows to 9: "), "{why}");
    assert_eq!(bench.rows::<Large>().len(), 220);
    bench.accept();
    bench.minutes(1);
    assert_eq!((bench.source().rows, bench.trouble()), (209, None));
    large.change(|vast| fill(vast, 'b', 99));
    bench.minutes(1);
    let why = bench.trouble().expect("it is refused");
    assert!(
        why.starts_with("it shrank from 209 rows to 108: ")
            || why.starts_with("its first range shrank from 200 rows to 99: "),
        "{why}"
    );
    large.change(|vast| fill(vast, 'b', 199));
    bench.minutes(1);
    assert_eq!((bench.source().rows, bench.trouble()), (208, None));
}
