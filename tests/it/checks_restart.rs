//! Checks of sequences over restarts, and beside trouble: nothing they know is lost, nobody is told twice, and who stands still
//! says so.

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tallystone::check::{About, Check, Severity};
use tallystone::disk::{Clock, Platform};
use tallystone::prelude::*;
use tallystone::testing::{Fault, Faults, Op, SimClock, SimDisk, SimEntropy};
use tallystone::watch::NotificationKind;
use tallystone::{Options, Timestamp};

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Order {
    Placed { order: u32 },
    Shipped { order: u32 },
    Cursed { order: u32 },
}

impl Event for Order {
    const FAMILY: &'static str = "order";
    type Id = u32;

    fn id(&self) -> u32 {
        let (Self::Placed { order } | Self::Shipped { order } | Self::Cursed { order }) = self;
        *order
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn about(id: &'static str) -> About {
    About {
        id,
        severity: Severity::Ticket,
        owner: "warehouse",
        means: "We took the order and did not ship it.",
        remedy: "1 look for the parcel; 2 ship it again",
    }
}

fn placed(event: &Order) -> bool {
    matches!(event, Order::Placed { .. })
}

fn shipped(event: &Order) -> bool {
    matches!(event, Order::Shipped { .. })
}

fn shipped_within_a_day() -> Check {
    about("shipped").response(placed, shipped).within(DAY).into()
}

/// It cannot tell of a cursed order.
fn placed_first() -> Check {
    let placed = |event: &Order| match event {
        Order::Cursed { .. } => panic!("a bug in a check"),
        event => placed(event),
    };
    about("placed-first").precedence(placed, shipped).into()
}

/// Who is told: of how many violations, and of how many events that could not be read.
#[derive(Clone, Default)]
struct Pager {
    told: Arc<Mutex<Vec<(u64, u64)>>>,
    broken: Arc<AtomicBool>,
}

impl Pager {
    fn told(&self) -> Vec<(u64, u64)> {
        self.told.lock().expect("no test panics in it").clone()
    }
}

/// A store on a clock that only the test moves, and without threads.
fn open(path: &Path, clock: &SimClock, pager: &Pager, options: Options, check: Check) -> Store {
    let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
    let pager = pager.clone();
    let setup = Setup::new().events::<Order>().platform(platform).lockstep().options(options).check(check);
    let setup = setup.alerts(move |alert| {
        assert!(!pager.broken.load(Ordering::Relaxed), "the pager is broken");
        let told = match alert.kind {
            NotificationKind::Opened => (alert.count, 0),
            NotificationKind::Indeterminate => (0, alert.count),
            _ => return,
        };
        pager.told.lock().expect("no test panics in it").push(told);
    });
    Store::open_or_create(path, setup).expect("it opens")
}

fn append(store: &Store, event: Order) {
    store.append(Append::event(event)).expect("it is taken");
}

fn steps(store: &Store, count: usize) {
    (0..count).for_each(|_| store.step());
}

#[test]
fn redefined_check_is_saved_while_catching_up() {
    let (dir, clock, pager) = (tempfile::tempdir().expect("room"), SimClock::default(), Pager::default());
    let path = dir.path().join("store");
    let mut options = Options::default();
    (options.check_keys_max, options.page_bytes) = (1, 4096);
    let store = open(&path, &clock, &pager, options.clone(), shipped_within_a_day());
    for order in 0..300 {
        append(&store, Order::Placed { order });
    }
    assert!(store.checks().wait_for(store.stats().position, Duration::ZERO));
    store.close();
    let store = open(&path, &clock, &pager, options, shipped_within_a_day().version(2));
    let settled = store.checks().wait_for(store.stats().position, Duration::ZERO);
    let [stats] = &store.checks().stats()[..] else { panic!("there is one check") };
    assert!(settled, "{stats:?}");
    assert_eq!((stats.activations, stats.pending), (300, 300));
}

#[test]
fn failed_save_names_the_check_file() {
    let (disk, clock) = (SimDisk::new(3), Arc::new(SimClock::default()));
    let (simulated, entropy) = (Arc::new(disk.clone()), Arc::new(SimEntropy::new(1)));
    let platform = Platform { disk: simulated, clock, entropy };
    let mut options = Options::default();
    options.check_keys_max = 1;
    let setup = Setup::new().platform(platform).lockstep().options(options).alerts(|_| ());
    let store = Store::open_or_create("/s", setup.check(shipped_within_a_day())).expect("it opens");
    append(&store, Order::Placed { order: 1 });
    append(&store, Order::Placed { order: 2 });
    disk.plan(Faults::none().from(disk.op_count() + 1, Fault::WriteError));
    steps(&store, 3);
    let [stats] = &store.checks().stats()[..] else { panic!("there is one check") };
    let trouble = stats.trouble.as_ref().map(ToString::to_string);
    assert!(
        trouble.as_ref().is_some_and(|text| text.starts_with("checks.redb: could not be")),
        "{trouble:?}"
    );
}

#[test]
fn unopenable_check_file_is_reported_until_recovery() {
    let (dir, clock, pager) = (tempfile::tempdir().expect("room"), SimClock::default(), Pager::default());
    let path = dir.path().join("store");
    let setup = || open(&path, &clock, &pager, Options::default(), shipped_within_a_day());
    setup().close();
    std::fs::remove_file(path.join("checks.redb"))
        .or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
        .expect("it is ours");
    std::fs::create_dir(path.join("checks.redb")).expect("there is room");
    let store = setup();
    append(&store, Order::Placed { order: 1 });
    steps(&store, 3);
    let [stats] = &store.checks().stats()[..] else { panic!("there is one check") };
    assert!(stats.trouble.as_ref().is_some_and(|trouble| trouble.to_string().contains("checks.redb")));
    assert!(!store.checks().wait_for(store.stats().position, Duration::ZERO), "nobody judges");

    std::fs::remove_dir(path.join("checks.redb")).expect("it is empty");
    store.recover().expect("nothing is in the way");
    assert!(store.checks().wait_for(store.stats().position, Duration::ZERO));
    let [stats] = &store.checks().stats()[..] else { panic!("there is one check") };
    assert_eq!((stats.activations, stats.trouble.is_none()), (1, true));
}

#[test]
fn unreadable_events_are_alerted_once_after_restart() {
    let (dir, clock, pager) = (tempfile::tempdir().expect("room"), SimClock::default(), Pager::default());
    let path = dir.path().join("store");
    pager.broken.store(true, Ordering::Relaxed);
    let setup = || open(&path, &clock, &pager, Options::default(), placed_first());
    let store = setup();
    append(&store, Order::Cursed { order: 1 });
    append(&store, Order::Cursed { order: 2 });
    steps(&store, 8);
    assert_eq!((pager.told(), store.checks().stats()[0].unrecorded), (vec![], 0));
    store.close();

    pager.broken.store(false, Ordering::Relaxed);
    let store = setup();
    steps(&store, 8);
    assert_eq!(pager.told(), [(0, 2)]);
    store.close();

    let store = setup();
    clock.advance(DAY);
    append(&store, Order::Cursed { order: 3 });
    steps(&store, 8);
    assert_eq!(pager.told(), [(0, 2), (0, 1)], "each is told once");
}

/// Nothing can be recorded then: not even that somebody was told.
#[test]
fn wrong_clock_causes_no_duplicate_alerts() {
    let (dir, clock, pager) = (tempfile::tempdir().expect("room"), SimClock::default(), Pager::default());
    let path = dir.path().join("store");
    let setup = || open(&path, &clock, &pager, Options::default(), placed_first());
    let store = setup();
    pager.broken.store(true, Ordering::Relaxed);
    append(&store, Order::Shipped { order: 1 });
    // Judged and recorded, and it is on record that somebody is to be told.
    steps(&store, 2);
    assert_eq!((pager.told(), store.checks().stats()[0].unrecorded), (vec![], 0));
    pager.broken.store(false, Ordering::Relaxed);
    let right = clock.now();
    clock.jump(Timestamp::from_micros(right.micros() + 100 * 86_400_000_000));
    let head = store.stats().position;
    for _ in 0..5 {
        steps(&store, 2);
        clock.advance(Duration::from_secs(120));
    }
    assert_eq!((pager.told(), store.stats().position), (vec![(1, 0)], head));

    clock.jump(right);
    steps(&store, 4);
    assert!(store.stats().position > head, "it is on record now");
    store.close();
    let store = setup();
    clock.advance(DAY);
    steps(&store, 4);
    assert_eq!(pager.told(), [(1, 0)]);
}

#[test]
fn check_state_from_lost_tail_is_discarded() {
    let (dir, clock) = (tempfile::tempdir().expect("a directory"), SimClock::default());
    let path = dir.path().join("store");
    let setup = || {
        let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
        Setup::new().platform(platform).lockstep().alerts(|_| {}).check(shipped_within_a_day())
    };
    let open = || Store::open_or_create(&path, setup()).expect("it opens");
    let settle = |store: &Store| {
        for _ in 0..4 {
            store.step();
            assert!(store.checks().wait_for(store.stats().position, Duration::ZERO));
        }
    };
    let files = || -> Vec<_> {
        let log = std::fs::read_dir(path.join("log")).expect("it is there");
        log.map(|entry| entry.expect("an entry").path()).collect()
    };
    let store = open();
    store.append(Append::event(Order::Placed { order: 1 })).expect("it is taken");
    settle(&store);
    store.close();
    let old: Vec<_> =
        files().into_iter().map(|file| (file.clone(), std::fs::read(file).expect("it is read"))).collect();
    // Whatever checks know of the second order is of a log that is put away again.
    let store = open();
    store.append(Append::event(Order::Placed { order: 2 })).expect("it is taken");
    settle(&store);
    store.close();
    files().into_iter().for_each(|file| std::fs::remove_file(file).expect("removed"));
    old.into_iter().for_each(|(file, bytes)| std::fs::write(file, bytes).expect("put back"));

    let Err(OpenError::TailLost { commit, .. }) = Store::open(&path, setup()) else { panic!("it opens") };
    let store = Store::open(&path, setup().accept_lost_tail(commit)).expect("it opens");
    store.append(Append::event(Order::Placed { order: 3 })).expect("it is taken");
    store.append(Append::event(Order::Shipped { order: 2 })).expect("it is taken");
    settle(&store);
    let stats = &store.checks().stats()[0];
    assert_eq!((stats.activations, stats.satisfied, stats.pending), (2, 0, 2));
    clock.advance(2 * DAY);
    settle(&store);
    let found = store.checks().all().expect("rows are read");
    assert_eq!(
        found.iter().map(|found| found.activation.get()).collect::<Vec<_>>(),
        [1, 3],
        "position 2 is the acceptance"
    );
    store.close();
}

/// How many syncs the checks need when the store is closed, beside what it needs without any.
#[test]
fn all_checks_are_saved_in_one_transaction() {
    let syncs = |ids: &[&'static str]| {
        let (disk, clock) = (SimDisk::new(1), SimClock::default());
        let (seam, entropy) = (Arc::new(disk.clone()), Arc::new(SimEntropy::new(1)));
        let platform = Platform { disk: seam, clock: Arc::new(clock), entropy };
        let setup = Setup::new().events::<Order>().platform(platform).lockstep();
        let check = |id: &&'static str| about(id).response(placed, shipped).within(DAY);
        let store = Store::open_or_create("/store", ids.iter().map(check).fold(setup, Setup::check));
        let store = store.expect("it opens");
        append(&store, Order::Placed { order: 1 });
        steps(&store, 3);
        let before = disk.stats().call(Op::Sync);
        store.close();
        disk.stats().call(Op::Sync) - before
    };
    let (none, one) = (syncs(&[]), syncs(&["one"]));
    assert!(one > none, "it is saved");
    assert_eq!(syncs(&["one", "two", "three", "four"]), one);
}
