//! A check that is dead is a violation, and somebody else finds it.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use tallystone::check::{About, Check, Severity};
use tallystone::disk::{Access, Clock, Disk, File, Kind, Lock, Platform};
use tallystone::error::OpenError;
use tallystone::event::Raw;
use tallystone::prelude::*;
use tallystone::testing::{SimClock, SimDisk};
use tallystone::watch::{Notification, NotificationKind, State};
use tallystone::{Options, Timestamp};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Paid {
    order: u32,
}

impl Event for Paid {
    const FAMILY: &'static str = "paid";
    type Id = u32;

    fn id(&self) -> u32 {
        self.order
    }
}

const FRESHNESS: &str = "tallystone.freshness";
const LIMIT: Duration = Duration::from_secs(300);

fn about(id: &'static str, owner: &'static str) -> About {
    About { id, severity: Severity::Note, owner, means: "Paid twice.", remedy: "1 pay one back" }
}

fn once(id: &'static str, owner: &'static str) -> Check {
    about(id, owner).absence(2, |_: &Paid| true).into()
}

fn paid(order: u32) -> Append {
    Append::event(Paid { order })
}

#[test]
fn row_000_20_watchdog_reports_hanging_check_until_it_returns() {
    let clock = SimClock::default();
    let (told, alerts) = mpsc::channel::<Notification>();
    let Stuck { check, is_in, go } = Stuck::new();
    let mut options = Options::default();
    // It looks as often as this says, and counts by the clock of the test.
    options.check_overdue_ms = 40;
    let setup = Setup::new()
        .events::<Paid>()
        .platform(Platform { clock: Arc::new(clock.clone()), ..Platform::real() })
        .options(options)
        .check(check)
        .check(once("waits", "ben"))
        .alerts(move |alert| drop(told.send(alert.clone())));
    let store = Store::in_memory(setup).expect("it opens");
    // Let go of first, also where this fails.
    let go = go;
    let at = store.append(paid(1)).expect("it is taken").receipt.last;
    is_in.recv().expect("the check has begun");
    let mut heard = Vec::new();
    while heard.len() < 2 {
        clock.advance(Duration::from_millis(10));
        match alerts.recv_timeout(Duration::from_millis(1)) {
            Ok(alert) => heard.push(alert),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("the store listens"),
        }
    }
    // Each owner is told of theirs.
    heard.sort_by(|a, b| a.owner.cmp(&b.owner));
    for (alert, (owner, check)) in heard.iter().zip([("ana", "blocks"), ("ben", "waits")]) {
        assert_eq!(
            (alert.check.as_str(), alert.severity, alert.owner.as_str()),
            (FRESHNESS, Severity::Page, owner)
        );
        assert_eq!((alert.count, alert.sample[0].subject.as_deref()), (1, Some(check)));
        assert!(alert.means.contains(check) && alert.remedy.contains("tallystone-checks"), "{alert}");
    }
    let open = store.checks().open().expect("rows are read");
    assert_eq!(open.iter().map(|one| (one.activation, one.by)).collect::<Vec<_>>(), [(at, None); 2]);
    let explained = store.checks().explain(&open[0]).expect("its events are read");
    assert_eq!(
        (explained.key.as_str(), explained.owner.as_str(), explained.events.len()),
        ("blocks", "ana", 1)
    );

    let mut healed = store.subscribe::<Raw>(QueryItem::types(["tallystone.Healed"]), at);
    drop(go);
    next(&mut healed);
    next(&mut healed);
    assert_eq!(store.checks().open().expect("rows are read"), []);
    let ended = store.checks().of(FRESHNESS).expect("rows are read");
    assert!(ended.iter().all(|one| matches!(one.state, State::Healed { .. })), "{ended:?}");
    let others = alerts.try_iter().filter(|one| one.kind != NotificationKind::Resolved);
    assert_eq!(others.count(), 0, "and nobody was told twice");
}

/// Waits for the next event; one that does not come is an error, and not a test without an end.
fn next(log: &mut Subscription<Raw>) {
    let event = log.next_timeout(Duration::from_secs(60));
    assert!(matches!(event, Poll::Ready(Some(Ok(_)))), "{event:?}");
}

/// A check that blocks, until it is let go.
struct Stuck {
    check: Check,
    is_in: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
}

impl Stuck {
    fn new() -> Self {
        let (entered, is_in) = mpsc::channel();
        let (go, goes) = mpsc::channel::<()>();
        let goes = Mutex::new(goes);
        let check = about("blocks", "ana").absence(2, move |_: &Paid| {
            let _ = entered.send(());
            let _ = goes.lock().expect("nobody panics with it").recv();
            true
        });
        Self { check: check.into(), is_in, go }
    }
}

#[test]
fn row_000_20_folder_rule_is_overdue_after_two_periods() {
    let dir = tempfile::tempdir().expect("a directory");
    let rule = r#"
        [check.paid-once]
        kind = "absence"
        n = 2
        when = "paid.Paid"
        severity = "note"
        owner = "ben"
        means = "Paid twice."
        remedy = "1 pay one back"
    "#;
    std::fs::write(dir.path().join("folder.toml"), "period = \"1s\"").expect("it is written");
    std::fs::write(dir.path().join("paid.toml"), rule).expect("it is written");
    let clock = SimClock::default();
    let Stuck { check, is_in, go } = Stuck::new();
    let (told, alerts) = mpsc::channel::<Notification>();
    let mut options = Options::default();
    options.check_overdue_ms = 31 * 24 * 3_600_000;
    let setup = Setup::new()
        .platform(Platform { clock: Arc::new(clock.clone()), ..Platform::real() })
        .options(options)
        .check(check)
        .check_folder(dir.path())
        .alerts(move |alert| drop(told.send(alert.clone())));
    let store = Store::in_memory(setup).expect("it opens");
    // Let go of first, also where this fails.
    let go = go;
    store.append(paid(1)).expect("it is taken");
    is_in.recv().expect("the check has begun");
    let alert = loop {
        clock.advance(Duration::from_millis(100));
        match alerts.recv_timeout(Duration::from_millis(1)) {
            Ok(alert) => break alert,
            Err(error) => assert_eq!(error, RecvTimeoutError::Timeout),
        }
    };
    assert_eq!((alert.owner.as_str(), alert.sample[0].subject.as_deref()), ("ben", Some("paid-once")));
    assert_eq!(store.checks().open().expect("rows are read").len(), 1, "the other may stand for a month");
    drop(go);
}

/// Counts how often the store asks how much time has passed.
#[derive(Debug)]
struct Asked {
    clock: SimClock,
    times: AtomicU64,
}

impl Clock for Asked {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.times.fetch_add(1, Ordering::SeqCst);
        self.clock.monotonic()
    }
}

/// Where the whole process stood still, its threads wake together, and the one that looks may be the first.
#[test]
fn process_pause_alone_does_not_make_check_overdue() {
    let clock = Arc::new(Asked { clock: SimClock::default(), times: AtomicU64::new(0) });
    let Stuck { check, is_in, go } = Stuck::new();
    let mut options = Options::default();
    options.check_overdue_ms = 8;
    let setup = Setup::new()
        .platform(Platform { clock: clock.clone(), ..Platform::real() })
        .options(options)
        .check(check)
        .alerts(|_| ());
    let store = Store::in_memory(setup).expect("it opens");
    // Let go of first, also where this fails.
    let go = go;
    let at = store.append(paid(1)).expect("it is taken").receipt.last;
    is_in.recv().expect("the check has begun");
    // Nobody else asks by now. Several looks, so that one at least began after the time before it.
    let look = || {
        let before = clock.times.load(Ordering::SeqCst);
        while clock.times.load(Ordering::SeqCst) < before + 8 {
            std::thread::yield_now();
        }
    };
    look();
    clock.clock.advance(Duration::from_secs(3600));
    look();
    assert_eq!(store.stats().position, at, "nothing is on record");
    clock.clock.advance(Duration::from_secs(3600));
    look();
    assert_eq!(store.checks().of(FRESHNESS).expect("rows are read").len(), 1);
    drop(go);
}

/// A disk that has no `checks.redb` for anybody, as long as a test says so.
#[derive(Debug)]
struct NoFile {
    disk: SimDisk,
    refuses: Arc<AtomicBool>,
}

impl NoFile {
    fn of(&self, path: &Path) -> io::Result<&SimDisk> {
        match self.refuses.load(Ordering::Relaxed) && path.ends_with("checks.redb") {
            true => Err(io::Error::other("not this one")),
            false => Ok(&self.disk),
        }
    }
}

impl Disk for NoFile {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.disk.kind(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.disk.lock(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.of(path)?.create_new(path)
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.of(path)?.open(path, access)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
}

/// A store without threads, on that disk and a clock that only the test moves.
struct Bench {
    disk: SimDisk,
    refuses: Arc<AtomicBool>,
    clock: SimClock,
    alerts: Arc<Mutex<Vec<Notification>>>,
    store: Store,
}

impl Bench {
    fn open(disk: SimDisk, clock: SimClock, refuses: bool, setup: Setup) -> Self {
        let refuses = Arc::new(AtomicBool::new(refuses));
        let platform = Platform {
            disk: Arc::new(NoFile { disk: disk.clone(), refuses: refuses.clone() }),
            clock: Arc::new(clock.clone()),
            ..Platform::real()
        };
        let alerts: Arc<Mutex<Vec<Notification>>> = Arc::default();
        let told = alerts.clone();
        let setup = setup.events::<Paid>().platform(platform).lockstep();
        let setup =
            setup.alerts(move |alert| told.lock().expect("nobody panics with it").push(alert.clone()));
        let store = Store::open_or_create("/store", setup).expect("it opens");
        Self { disk, refuses, clock, alerts, store }
    }

    fn new(refuses: bool) -> Self {
        Self::open(SimDisk::new(1), SimClock::default(), refuses, Setup::new().check(once("once", "ana")))
    }

    fn reopen(self, refuses: bool) -> Self {
        let Self { disk, clock, store, .. } = self;
        store.close();
        Self::open(disk, clock, refuses, Setup::new().check(once("once", "ana")))
    }

    fn steps(&self) {
        (0..8).for_each(|_| self.store.step());
    }

    fn told(&self) -> Vec<Notification> {
        let all = std::mem::take(&mut *self.alerts.lock().expect("nobody panics with it"));
        all.into_iter().filter(|one| one.kind != NotificationKind::Resolved).collect()
    }

    fn found(&self) -> Vec<(Option<String>, bool)> {
        let found = self.store.checks().of(FRESHNESS).expect("rows are read");
        found.into_iter().map(|one| (one.subject, one.state == State::Open)).collect()
    }
}

#[test]
fn row_000_20_stopped_check_is_reported_once_across_restarts() {
    let bench = Bench::new(true);
    bench.store.append(paid(1)).expect("it is taken");
    bench.steps();
    assert_eq!(bench.found(), [(Some("once".to_owned()), true)]);
    let [alert] = &bench.told()[..] else { panic!("somebody is told once") };
    assert!(alert.means.contains("`once` has stopped") && alert.means.contains("not this one"), "{alert}");
    assert_eq!((alert.owner.as_str(), alert.severity), ("ana", Severity::Page));
    assert!(!bench.store.checks().wait_for(bench.store.stats().position, Duration::ZERO));
    let position = bench.store.stats().position;
    for _ in 0..3 {
        bench.clock.advance(LIMIT);
        bench.steps();
    }
    // After a restart it is as dead, and that is on record.
    let bench = bench.reopen(true);
    for _ in 0..3 {
        bench.clock.advance(LIMIT);
        bench.steps();
    }
    assert_eq!((bench.found().len(), bench.told().len(), bench.store.stats().position), (1, 0, position));
    // Mended, it goes on.
    bench.refuses.store(false, Ordering::Relaxed);
    bench.store.recover().expect("it can");
    bench.steps();
    assert_eq!((bench.found(), bench.told().len()), (vec![(Some("once".to_owned()), false)], 0));
}

#[test]
fn restart_heals_stopped_check_that_advances() {
    let bench = Bench::new(true);
    bench.store.append(paid(1)).expect("it is taken");
    bench.steps();
    let bench = bench.reopen(false);
    bench.steps();
    assert_eq!((bench.found(), bench.told().len()), (vec![(Some("once".to_owned()), false)], 0));
}

/// Alerts are sent although a full disk lets no violation be recorded.
#[test]
fn poisoned_store_still_alerts_on_stopped_checks() {
    let bench = Bench::new(false);
    bench.store.append(paid(1)).expect("it is taken");
    bench.store.append(paid(1)).expect("it is taken");
    // What is found cannot be recorded, and neither can that.
    bench.disk.quota(Some(bench.disk.bytes_used()));
    let mut times = 0;
    while bench.store.stats().poisoned.is_none() {
        let _ = bench.store.append(paid(2).label("x".repeat(60)));
        times += 1;
        assert!(times < 100_000, "the disk is never full");
    }
    bench.steps();
    assert_eq!(bench.told().iter().filter(|alert| alert.check == FRESHNESS).count(), 0, "it may be closing");
    for _ in 0..8 {
        bench.clock.advance(LIMIT / 2);
        bench.steps();
    }
    let told = bench.told();
    assert_eq!(told.iter().filter(|alert| alert.check == FRESHNESS).count(), 1, "{told:?}");
}

/// However long a backfill takes, and whatever time passes in it: what moves is not dead, and who is between those that are
/// judged by turns waits.
#[test]
fn advancing_backfill_and_waiting_checks_are_not_overdue() {
    let mut options = Options::default();
    (options.page_bytes, options.group_len_max) = (4096, 4);
    let setup = |checks: &[&'static str]| {
        let setup = Setup::new().options(options.clone());
        checks.iter().fold(setup, |setup, id| setup.check(once(id, "ana")))
    };
    let bench = Bench::open(SimDisk::new(1), SimClock::default(), false, setup(&["old"]));
    for order in 0..3000 {
        bench.store.append(paid(order)).expect("it is taken");
    }
    let last = bench.store.stats().position;
    assert!(bench.store.checks().wait_for(last, Duration::ZERO));
    let reopen = |bench: Bench, checks| {
        let Bench { disk, clock, store, .. } = bench;
        store.close();
        Bench::open(disk, clock, false, setup(checks))
    };
    let at = |bench: &Bench, index: usize| bench.store.checks().stats()[index].position;
    let bench = reopen(bench, &["old", "half"]);
    while at(&bench, 1).get() < last.get() / 2 {
        bench.store.step();
    }
    let bench = reopen(bench, &["old", "half", "new"]);
    let half = at(&bench, 1);
    assert!(half < last);
    let mut waited = 0;
    for order in 10_000.. {
        if at(&bench, 2) >= last {
            break;
        }
        bench.store.append(paid(order)).expect("it is taken");
        bench.clock.advance(LIMIT / 3);
        bench.store.step();
        waited += u64::from(at(&bench, 1) == half);
    }
    assert!(waited > 20, "{waited}");
    assert_eq!((bench.found(), bench.told().len()), (vec![], 0));
}

#[test]
fn kill_keeps_stuck_check_open_without_new_alert() {
    let (disk, clock) =
        (SimDisk::new(1), Arc::new(Asked { clock: SimClock::default(), times: AtomicU64::new(0) }));
    let (told, alerts) = mpsc::channel::<Notification>();
    let mut options = Options::default();
    options.check_overdue_ms = 8;
    let open = |check: Check| {
        let told = told.clone();
        let platform = Platform { disk: Arc::new(disk.clone()), clock: clock.clone(), ..Platform::real() };
        let setup = Setup::new().platform(platform).options(options.clone()).check(check);
        let setup = setup.alerts(move |alert| drop(told.send(alert.clone())));
        Store::open_or_create("/store", setup).expect("it opens")
    };
    let Stuck { check, is_in, go: never } = Stuck::new();
    let store = open(check);
    let at = store.append(paid(1)).expect("it is taken").receipt.last;
    is_in.recv().expect("the check has begun");
    while alerts.try_recv().is_err() {
        clock.clock.advance(Duration::from_millis(1));
        std::thread::yield_now();
    }
    let mut alerted = store.subscribe::<Raw>(QueryItem::types(["tallystone.Delivered"]), at);
    next(&mut alerted);
    disk.kill();
    // Its threads are those of a process that is gone.
    std::mem::forget((store, alerted, never));

    let Stuck { check, is_in, go } = Stuck::new();
    let store = open(check);
    let go = go;
    is_in.recv().expect("the check has begun");
    let position = store.stats().position;
    let before = clock.times.load(Ordering::SeqCst);
    while clock.times.load(Ordering::SeqCst) < before + 32 {
        std::thread::yield_now();
    }
    let open = store.checks().open().expect("rows are read");
    assert_eq!((open.len(), store.stats().position, alerts.try_recv().is_err()), (1, position, true));
    let mut healed = store.subscribe::<Raw>(QueryItem::types(["tallystone.Healed"]), at);
    drop(go);
    next(&mut healed);
    assert_eq!(store.checks().open().expect("rows are read"), []);
}

#[test]
fn idle_checks_are_never_overdue() {
    let bench = Bench::new(false);
    bench.store.append(paid(1)).expect("it is taken");
    bench.steps();
    for _ in 0..10 {
        bench.clock.advance(LIMIT);
        bench.steps();
    }
    assert_eq!((bench.found(), bench.store.stats().position.get()), (vec![], 1));
}

#[test]
fn check_with_reserved_name_is_refused() {
    let refused = Store::in_memory(Setup::new().check(once(FRESHNESS, "ana")));
    let Err(OpenError::Setup(why)) = refused else { panic!("it must not open") };
    assert_eq!(
        why,
        ["check `tallystone.freshness`: `id`: names that begin with `tallystone.` are the store's own"]
    );
}

#[test]
fn new_events_are_judged_during_check_backfill() {
    let mut options = Options::default();
    (options.page_bytes, options.group_len_max) = (4096, 4);
    let old = || Setup::new().options(options.clone()).check(once("old", "ana"));
    let bench = Bench::open(SimDisk::new(1), SimClock::default(), false, old());
    for order in 0..1500 {
        bench.store.append(paid(order)).expect("it is taken");
    }
    assert!(bench.store.checks().wait_for(bench.store.stats().position, Duration::ZERO));
    let Bench { disk, clock, store, .. } = bench;
    store.close();
    let bench = Bench::open(disk, clock, false, old().check(once("new", "ben")));
    bench.steps();
    bench.store.append(paid(1)).expect("it is taken");
    bench.steps();
    let stats = bench.store.checks().stats();
    assert_eq!((stats[0].violated, stats[1].violated), (1, 0));
    assert!(stats[1].lag_len > 500, "the new one is still far behind: {}", stats[1].lag_len);
}
