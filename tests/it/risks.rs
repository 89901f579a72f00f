//! The rules of the ground, one test each, made from the scenario that each of them closes.
//!
//! Those of transactions, 12 to 15, are in `transaction_risks.rs`. Some cannot be seen from outside or belong to parts that are
//! not there yet: 19, 21, 29, 30.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tallystone::disk::{Access, Clock, Disk, File, Kind, Lock, Platform};
use tallystone::error::{AppendError, OpenError, ReadError, TxError};
use tallystone::event::Raw;
use tallystone::prelude::{
    Append, Committed, Decision, Event, Expected, FoldError, Folded, Projection, Query, QueryItem, Rows,
};
use tallystone::request::{Durability, Retention};
use tallystone::setup::Task;
use tallystone::testing::workload::{
    self, Balances, Booking, Counts, Fact, Money, Name, Note, Request, Seats,
};
use tallystone::testing::{Fault, Faults, ImagePolicy, Random, SimClock, SimDisk, SimEntropy};
use tallystone::{Options, Position, Setup, Store, Timestamp};

const STORE: &str = "/bank";
const STATE: &str = "/bank/state.redb";

/// A simulated machine.
struct Lab {
    disk: SimDisk,
    clock: SimClock,
    entropy: SimEntropy,
    options: Options,
}

fn small() -> Options {
    let mut options = Options::default();
    options.segment_bytes_min = 4096;
    options.segment_bytes_max = 4096;
    options.overlay_bytes_max = 4096;
    options.page_bytes = 4096;
    options
}

impl Lab {
    fn new() -> Self {
        Self::seeded(1)
    }

    fn seeded(seed: u64) -> Self {
        let (disk, clock) = (SimDisk::new(seed), SimClock::default());
        Self { disk, clock, entropy: SimEntropy::new(seed), options: small() }
    }

    fn platform(&self) -> Platform {
        let (clock, entropy) = (Arc::new(self.clock.clone()), Arc::new(self.entropy.clone()));
        Platform { disk: Arc::new(self.disk.clone()), clock, entropy }
    }

    fn setup(&self) -> Setup {
        workload::setup(self.options.clone()).platform(self.platform()).lockstep()
    }

    fn create(&self) -> Store {
        Store::create(STORE, self.setup()).unwrap()
    }

    fn open(&self) -> Store {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Store, OpenError> {
        Store::open(STORE, self.setup())
    }

    /// The process dies; what it held is of no use any more.
    fn kill(&self, store: Store) {
        self.disk.kill();
        drop(store);
    }

    fn cut(&self, store: Store, policy: ImagePolicy) {
        self.disk.power_cut(policy);
        drop(store);
    }

    /// Lets the next sync go wrong.
    fn fail_sync(&self, fault: Fault) {
        self.disk.plan(Faults::none().at(self.disk.op_count() + 1, fault));
    }

    fn segments(&self) -> Vec<PathBuf> {
        self.disk
            .files()
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .collect()
    }

    /// Every byte of every file of the log.
    fn log_bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let log = self.disk.files().into_iter().filter(|path| path.starts_with("/bank/log"));
        log.map(|path| (path.clone(), self.disk.read_file(&path).unwrap())).collect()
    }
}

fn ask(request: Request) -> Append {
    request.append()
}

fn opened(number: u64) -> Append {
    ask(Request::of([Fact::Opened(1, 1)]).keyed("", format!("key-{number}")))
}

fn note(number: u64, bytes: usize) -> Append {
    ask(Request::of([Fact::Note(number, bytes)]))
}

fn positions(store: &Store, query: impl Into<Query>) -> Vec<u64> {
    let view = store.view().unwrap();
    view.query::<Raw>(query).map(|event| event.unwrap().position.get()).collect()
}

fn balance(store: &Store, account: u32) -> Option<i64> {
    store.view().unwrap().row::<Balances>(&account).unwrap()
}

fn assert_sound(store: &Store) {
    let report = store.verify().unwrap();
    assert_eq!(report.first_bad, None, "{report:?}");
    assert_eq!(report.events, store.stats().position.get());
}

/// Submits all of them, serves them as one group.
fn group(store: &Store, appends: impl IntoIterator<Item = Append>) -> Vec<Result<Committed, AppendError>> {
    let commits: Vec<_> = appends.into_iter().map(|append| store.submit(append)).collect();
    store.step();
    commits.into_iter().map(tallystone::store::Commit::wait).collect()
}

// ---- order and identity ----

#[test]
fn risk_01_commits_have_own_numbers_and_appear_atomically() {
    let store = Store::in_memory(workload::setup(Options::default())).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=500 {
                let notes: Vec<_> = (0..3).map(|index| Fact::Note(index, 1)).collect();
                let receipt = store.append(ask(Request::of(notes))).unwrap().receipt;
                assert_eq!((receipt.commit.get(), receipt.first.get()), (number, 3 * number - 2));
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let view = store.view().unwrap();
            assert_eq!(view.position().get(), 3 * view.commit().get(), "half a commit is visible");
        }
    });
}

/// A reader takes its snapshot at F0, the flusher commits F1 and drops the frozen overlay, the reader loads the overlays: the
/// rows between are in neither. The other way round it would see rows from the future.
#[test]
fn risk_02_view_rows_match_head_during_flushes() {
    let lab = Lab::new();
    let setup = workload::setup(lab.options.clone()).platform(lab.platform());
    let store = Store::create(STORE, setup).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..1500).for_each(|number| drop(store.append(opened(number)).unwrap()));
            done.store(true, Ordering::Release);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let view = store.view().unwrap();
                    let head = view.position().get();
                    let count = view.row::<Counts>("opened").unwrap().map_or(0, |row| row.0);
                    let balance = view.row::<Balances>(&1).unwrap().unwrap_or(0);
                    let version = view.stream_version::<Money>(&1).unwrap();
                    assert_eq!((count, balance as u64, version), (head, head, head));
                }
            });
        }
    });
    assert!(store.stats().flushed_commit.get() > 0, "flushes ran");
}

#[test]
fn risk_03_nothing_unsynced_reaches_derived_state() {
    for failing in 0..12 {
        let lab = Lab::seeded(failing);
        let store = lab.create();
        for number in 0..20 {
            if number == failing + 4 {
                lab.fail_sync(Fault::SyncErrorKeepsNew);
            }
            // Groups that fill an overlay, so that a flush is due at once.
            let group = group(&store, (0..12).map(|index| opened(number * 100 + index)));
            if group.iter().any(Result::is_err) {
                break;
            }
        }
        let durable = store.stats().commit;
        assert!(store.stats().flushed_commit <= durable);
        lab.cut(store, ImagePolicy::DropAll);
        let store = lab.open();
        assert!(store.stats().commit >= durable);
        assert_eq!(balance(&store, 1).unwrap_or(0) as u64, store.stats().position.get());
        assert_sound(&store);
    }
}

#[test]
fn risk_04_mismatched_derived_state_is_rebuilt_or_refused() {
    let (lab, other) = (Lab::seeded(1), Lab::seeded(2));
    let (store, rich) = (lab.create(), other.create());
    for number in 0..60 {
        store.append(opened(number)).unwrap();
        rich.append(ask(Request::of([Fact::Opened(1, 1000)]).keyed("", format!("rich-{number}")))).unwrap();
    }
    store.close();
    rich.close();
    let (log, state) = (lab.log_bytes(), lab.disk.read_file(STATE).unwrap());

    // Of another store.
    lab.disk.write_file(STATE, &other.disk.read_file(STATE).unwrap());
    let store = lab.open();
    assert_eq!(balance(&store, 1), Some(60));
    assert!(store.append(opened(3)).unwrap().replayed);
    (60..90).for_each(|number| drop(store.append(opened(number)).unwrap()));
    store.close();

    // Older than the log, and newer than a log that was put back.
    lab.disk.write_file(STATE, &state);
    let store = lab.open();
    assert_eq!(balance(&store, 1), Some(90));
    store.close();
    for path in lab.log_bytes().into_keys() {
        lab.disk.remove(&path).unwrap();
    }
    log.iter().for_each(|(path, bytes)| lab.disk.write_file(path, bytes));
    let refused = lab.try_open();
    let Err(OpenError::TailLost { commit, known_commit, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((commit.get(), known_commit.get()), (60, 90));
    let store = Store::open(STORE, lab.setup().accept_lost_tail(commit)).unwrap();
    assert_eq!((balance(&store, 1), store.stats().keys_len), (Some(60), 60));
    assert!(!store.append(opened(70)).unwrap().replayed, "its commit is not in this log");
    assert_sound(&store);
}

/// State of another store says that commit 60 is durable; ours tore at 31.
#[test]
fn risk_04_foreign_state_does_not_prove_durability() {
    let (lab, other) = (Lab::seeded(1), Lab::seeded(2));
    let (store, rich) = (lab.create(), other.create());
    (0..60).for_each(|number| drop(rich.append(opened(number)).unwrap()));
    rich.close();
    let foreign = other.disk.read_file(STATE).unwrap();
    (0..30).for_each(|number| drop(store.append(opened(number)).unwrap()));
    lab.disk.plan(Faults::none().at(lab.disk.op_count() + 1, Fault::ShortWrite));
    assert!(matches!(store.append(note(1, 900)), Err(AppendError::Unknown(_))));
    lab.kill(store);
    lab.disk.write_file(STATE, &foreign);
    let store = lab.open();
    assert_eq!(balance(&store, 1), Some(30));
    lab.kill(store);

    // And where both end at the same commit, ours is not proven by that.
    let store = lab.open();
    (30..59).for_each(|number| drop(store.append(opened(number)).unwrap()));
    lab.fail_sync(Fault::SyncErrorKeepsNew);
    assert!(matches!(store.append(opened(59)), Err(AppendError::Unknown(_))));
    lab.kill(store);
    lab.disk.write_file(STATE, &foreign);
    let store = lab.open();
    let answer = store.append(opened(59)).unwrap();
    lab.cut(store, ImagePolicy::DropAll);
    let again = lab.open().append(opened(59)).unwrap();
    assert_eq!((again.receipt, again.replayed), (answer.receipt, true), "an acknowledged commit is lost");
}

#[test]
fn risk_05_acknowledged_commit_is_visible_at_once() {
    let lab = Lab::new();
    let store = Store::create(STORE, workload::setup(lab.options.clone()).platform(lab.platform())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..150 {
                    let key = thread * 1000 + number;
                    let receipt = store.append(opened(key)).unwrap().receipt;
                    let view = store.view().unwrap();
                    assert!(view.position() >= receipt.last && view.commit() >= receipt.commit);
                    assert!(view.answer("", &format!("key-{key}")).unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(balance(&store, 1), Some(600));
}

#[test]
fn risk_06_readers_never_read_past_head() {
    for fault in
        [Fault::SyncError, Fault::SyncErrorKeepsNew, Fault::SyncErrorPartly, Fault::SyncErrorShowsOld]
    {
        let lab = Lab::new();
        let store = lab.create();
        (0..5).for_each(|number| drop(store.append(opened(number)).unwrap()));
        let before = store.view().unwrap();
        lab.fail_sync(fault);
        assert!(matches!(store.append(opened(5)), Err(AppendError::Unknown(_))), "{fault:?}");
        for view in [before, store.view().unwrap()] {
            let all: Vec<_> = view.query::<Raw>(Query::all()).map(Result::unwrap).collect();
            assert_eq!((all.len(), view.position().get()), (5, 5), "{fault:?}");
            assert_eq!(view.stream::<Money>(&1).count(), 5);
            assert_eq!(view.query::<Money>(QueryItem::family::<Money>()).count(), 5);
            assert_eq!(view.row::<Balances>(&1).unwrap(), Some(5));
            assert_eq!(view.answer("", "key-5").unwrap(), None);
        }
    }
}

// ---- un-synced state, poison, recover ----

#[test]
fn risk_07_failed_group_leaves_nothing_under_reused_numbers() {
    let lab = Lab::new();
    let store = lab.create();
    store.append(opened(0)).unwrap();
    lab.fail_sync(Fault::SyncErrorShowsOld);
    let lost = [ask(Request::of([Fact::Opened(7, 777)])), ask(Request::of([Fact::Reserved(1, 1, 1)]))];
    assert!(group(&store, lost).iter().all(|answer| matches!(answer, Err(AppendError::Unknown(_)))));
    store.recover().unwrap();
    let receipt = store.append(ask(Request::of([Fact::Opened(2, 5)]))).unwrap().receipt;
    assert_eq!((receipt.commit.get(), receipt.first.get()), (2, 2));
    assert_eq!(balance(&store, 7), None);
    assert_eq!(store.view().unwrap().rows::<Seats>(..).count(), 0);
    assert_sound(&store);
}

#[test]
fn risk_08_answer_based_on_unsynced_commit_is_unknown() {
    let lab = Lab::new();
    let store = lab.create();
    let claim = |by| {
        let mut claim = Request::of([Fact::Claimed(1, by)]).keyed("", format!("claim-{by}"));
        claim.expected.push(("name/".to_owned(), Expected::NoStream));
        claim
    };
    let mut other_body = claim(1);
    other_body.input = Some(9);
    // Its version, its key, its condition: all refusals because of the first.
    let mut by_condition = Request::of([Fact::Claimed(1, 3)]);
    by_condition.conditions.push((workload::Ask::tagged("name:1"), None));
    let all = [claim(1), claim(2), claim(1), other_body, by_condition].map(ask);
    lab.fail_sync(Fault::SyncErrorShowsOld);
    for answer in group(&store, all.clone()) {
        assert!(matches!(answer, Err(AppendError::Unknown(_))), "{answer:?}");
    }
    store.recover().unwrap();
    let answers = group(&store, all);
    assert!(answers[0].is_ok() && answers[2].as_ref().is_ok_and(|again| again.replayed));
    assert!(matches!(answers[1], Err(AppendError::WrongVersion { is: 1, .. })));
    assert!(matches!(answers[3], Err(AppendError::KeyReused { .. })));
    assert!(matches!(answers[4], Err(AppendError::Conflict(_))));
}

#[test]
fn risk_08_refusal_by_published_state_survives_failed_sync() {
    let lab = Lab::new();
    let store = lab.create();
    store.append(opened(1)).unwrap();
    let refused =
        Append::event(Money::Opened { account: 1, cents: 1 }).expect::<Money>(&1, Expected::NoStream);
    lab.fail_sync(Fault::SyncError);
    let answers = group(&store, [refused, opened(2)]);
    assert!(matches!(answers[0], Err(AppendError::WrongVersion { is: 1, .. })), "{answers:?}");
    assert!(matches!(answers[1], Err(AppendError::Unknown(_))));
}

/// A group is written, and its sync fails or never comes: the page cache has it, the disk has not. The next open finds it whole
/// and answers the retry as replayed. Then the power goes, and an acknowledged commit is lost.
#[test]
fn risk_09_retry_after_failed_sync_is_durable() {
    let faults =
        [Fault::SyncError, Fault::SyncErrorKeepsNew, Fault::SyncErrorPartly, Fault::SyncErrorShowsOld];
    for (index, fault) in faults.into_iter().enumerate() {
        for before in [0, 1, 9] {
            for in_process in [true, false] {
                let lab = Lab::seeded(index as u64);
                let mut store = lab.create();
                (0..before).for_each(|number| drop(store.append(opened(number)).unwrap()));
                lab.fail_sync(fault);
                assert!(matches!(store.append(opened(100)), Err(AppendError::Unknown(_))));
                if in_process {
                    store.recover().unwrap();
                } else {
                    lab.kill(store);
                    store = lab.open();
                }
                let answer = store.append(opened(100)).unwrap();
                lab.cut(store, ImagePolicy::DropAll);
                let store = lab.open();
                let again = store.append(opened(100)).unwrap();
                assert_eq!(
                    (again.receipt, again.replayed),
                    (answer.receipt, true),
                    "{fault:?} {before} {in_process}"
                );
                assert_eq!(store.stats().commit.get(), before + 1);
                assert_sound(&store);
            }
        }
    }
}

#[test]
fn risk_10_receipt_reports_durability() {
    let lab = Lab::new();
    assert_eq!(lab.create().append(opened(1)).unwrap().receipt.durability, Durability::Sync);
    let memory = Store::in_memory(workload::setup(Options::default())).unwrap();
    assert_eq!(memory.append(opened(1)).unwrap().receipt.durability, Durability::Memory);
}

#[test]
fn risk_11_poisoned_store_returns_appends_and_serves_reads() {
    let lab = Lab::new();
    let mut options = small();
    options.group_len_max = 2;
    let setup = workload::setup(options).platform(lab.platform()).lockstep();
    let store = Store::create(STORE, setup).unwrap();
    (0..5).for_each(|number| drop(store.append(opened(number)).unwrap()));
    lab.fail_sync(Fault::SyncError);
    let answers = group(&store, (5..11).map(opened));
    // Two were in flight; the other groups never started.
    assert!(answers[..2].iter().all(|answer| matches!(answer, Err(AppendError::Unknown(_)))), "{answers:?}");
    let handed_back =
        |answer: &Result<Committed, AppendError>| matches!(answer, Err(AppendError::Poisoned { .. }));
    assert!(answers[2..].iter().all(handed_back), "{answers:?}");
    assert!(handed_back(&store.append(opened(20))) && store.stats().poisoned.is_some());
    assert_eq!((balance(&store, 1), positions(&store, Query::all()).len()), (Some(5), 5));
    store.recover().unwrap();
    for answer in answers.into_iter().skip(2) {
        let Err(AppendError::Poisoned { append, .. }) = answer else { unreachable!("checked above") };
        store.append(*append).unwrap();
    }
    store.append(opened(5)).unwrap();
    store.append(opened(6)).unwrap();
    assert_eq!((balance(&store, 1), store.stats().commit.get()), (Some(11), 11));
    assert_sound(&store);
}

/// A disk whose next write panics: a bug of ours, as the writer sees it.
#[derive(Debug, Clone)]
struct PanickingDisk(SimDisk, Arc<AtomicBool>);

#[derive(Debug)]
struct PanickingFile(Box<dyn File>, Arc<AtomicBool>);

impl Disk for PanickingDisk {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.0.kind(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.0.lock(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(PanickingFile(self.0.create_new(path)?, self.1.clone())))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        Ok(Box::new(PanickingFile(self.0.open(path, access)?, self.1.clone())))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
}

impl File for PanickingFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        assert!(!self.1.swap(false, Ordering::Relaxed), "on purpose");
        self.0.write_at(offset, data)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[test]
fn risk_11_writer_panic_is_answered_as_unknown() {
    let (lab, panics) = (Lab::new(), Arc::new(AtomicBool::new(false)));
    let disk = PanickingDisk(lab.disk.clone(), panics.clone());
    let platform = Platform { disk: Arc::new(disk), ..lab.platform() };
    let store = Store::create(STORE, workload::setup(small()).platform(platform)).unwrap();
    store.append(opened(1)).unwrap();
    panics.store(true, Ordering::Relaxed);
    assert!(matches!(store.append(opened(2)), Err(AppendError::Unknown(_))));
    assert!(matches!(store.append(opened(3)), Err(AppendError::Poisoned { .. })));
    store.recover().unwrap();
    store.append(opened(2)).unwrap();
    assert_eq!(balance(&store, 1), Some(2));
    assert_sound(&store);
}

/// Reads the time, until it is told to panic on the writer's thread.
#[derive(Debug)]
struct PanickingClock(SimClock, AtomicBool);

impl Clock for PanickingClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
    fn monotonic(&self) -> Duration {
        let ours = std::thread::current().name() == Some("tallystone-writer");
        assert!(!(ours && self.1.swap(false, Ordering::Relaxed)), "on purpose");
        self.0.monotonic()
    }
}

/// The writer panics between two groups, where nobody's request is in its hands: those that wait in the queue, and those that
/// come later, must be answered all the same.
#[test]
fn risk_11_panic_between_groups_hangs_no_caller() {
    let lab = Lab::new();
    let clock = Arc::new(PanickingClock(lab.clock.clone(), AtomicBool::new(false)));
    let platform = Platform { clock: clock.clone(), ..lab.platform() };
    let store = Store::create(STORE, workload::setup(small()).platform(platform)).unwrap();
    store.append(opened(0)).unwrap();
    clock.1.store(true, Ordering::Relaxed);
    // The clock is asked when the overlay is full.
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                (0..2000).find(|n| store.append(opened(1 + thread * 2000 + n)).is_err()).unwrap()
            });
        }
    });
    assert!(matches!(store.append(opened(99_999)), Err(AppendError::Poisoned { .. })));
    store.recover().unwrap();
    store.append(opened(99_999)).unwrap();
    assert_sound(&store);
}

// ---- validation, keys, absence ----

#[test]
fn risk_16_similar_scopes_and_keys_never_collide() {
    let store = Store::in_memory(workload::setup(Options::default())).unwrap();
    let scopes = ["", "a", "ab", "a/", "a:b", "aa"];
    let keys = ["b", "c", "bc", "/b", "b:c", "a", "ab", "abc"];
    let mut receipts = BTreeMap::new();
    for scope in scopes {
        for key in keys {
            let first = store.append(note(1, 1).key(scope, key)).unwrap();
            assert!(!first.replayed, "{scope:?} {key:?}");
            receipts.insert((scope, key), first.receipt);
        }
    }
    for ((scope, key), receipt) in receipts {
        let again = store.append(note(1, 1).key(scope, key)).unwrap();
        assert!(again.replayed && again.receipt == receipt, "{scope:?} {key:?}");
    }
}

#[test]
fn risk_17_corrupt_state_applies_no_key_twice() {
    let lab = Lab::new();
    let store = lab.create();
    (0..120).for_each(|number| drop(store.append(opened(number)).unwrap()));
    store.close();
    let mut random = Random::new(17);
    let used = lab.disk.read_file(STATE).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
    let mut rebuilt = 0;
    for trial in 0..150 {
        let lab = Lab { disk: lab.disk.fork(trial), ..Lab::new() };
        let from = random.below(used - 64);
        lab.disk.corrupt(STATE, from, &[0xA5; 64][..1 + random.below(64) as usize]);
        let told = Arc::new(AtomicU64::new(0));
        let tell = told.clone();
        let setup = lab.setup().progress(move |progress| {
            tell.fetch_add(u64::from(progress.task == Task::Rebuild), Ordering::Relaxed);
        });
        let store = Store::open(STORE, setup).unwrap();
        rebuilt += u64::from(told.load(Ordering::Relaxed) > 0);
        for number in (0..120).step_by(7) {
            assert!(
                store.append(opened(number)).unwrap().replayed,
                "trial {trial}: key {number} was applied twice"
            );
        }
        assert_eq!(store.stats().commit.get(), 120);
    }
    assert!(rebuilt > 0, "some damage must have been found");
}

#[test]
fn risk_17_scrub_finds_damage_in_open_store() {
    let lab = Lab::new();
    let mut options = lab.options.clone();
    // A file many times its page cache: what damage meets is read again.
    (options.scrub_every_ms, options.state_cache_bytes, options.overlay_bytes_max) = (1, 1 << 16, 1 << 20);
    let store = Store::create(STORE, workload::setup(options).platform(lab.platform())).unwrap();
    let commits: Vec<_> =
        (0..4_000).map(|account| store.submit(ask(Request::of([Fact::Opened(account, 1)])))).collect();
    commits.into_iter().for_each(|commit| drop(commit.wait().unwrap()));
    while store.stats().flushed_commit.get() < 4_000 {
        std::thread::yield_now();
    }
    let pages = lab.disk.read_file(STATE).unwrap().len() as u64 / 4096;
    (16..pages).for_each(|page| lab.disk.corrupt(STATE, page * 4096 + 40, &[0xA5; 24]));
    // Nobody reads, and nobody opens it again.
    while store.stats().poisoned.is_none() {
        std::thread::yield_now();
    }
    assert!(store.stats().damaged.is_some(), "it says what it found");
    assert!(matches!(store.append(opened(7)), Err(AppendError::Poisoned { .. })));
    store.recover().unwrap();
    assert_eq!(store.stats().commit.get(), 4_000, "rebuilt from the log");
    assert_eq!(store.verify().unwrap().first_bad, None);
}

/// 1. Requests wait in the queue, and the close behind them. 2. The writer meets the close while it gathers a group. 3. It must
///    not sleep then until all has been quiet: the queue is empty, and nobody will wake it.
#[test]
fn close_behind_queued_requests_returns_promptly() {
    let mut options = Options::default();
    options.overlay_age_ms_max = 3_600_000;
    for _ in 0..50 {
        let store = Store::in_memory(workload::setup(options.clone())).unwrap();
        let commits: Vec<_> = (0..30).map(|number| store.submit(opened(number))).collect();
        store.close();
        commits.into_iter().for_each(|commit| drop(commit.wait().unwrap()));
    }
}

// ---- who serves ----

/// Where its fold ran.
struct Where;

static FOLDED_ON: std::sync::Mutex<Option<std::thread::ThreadId>> = std::sync::Mutex::new(None);

impl Projection for Where {
    const NAME: &'static str = "where";
    type Event = Cell;
    type Key = u16;
    type Row = u32;
    fn fold(_: &Cell, _: &mut Rows<'_, Self>) -> Folded {
        *FOLDED_ON.lock().unwrap() = Some(std::thread::current().id());
        Ok(())
    }
}

/// A caller who waits is served on its own thread; a submitted append is not.
#[test]
fn lone_append_runs_on_caller_thread() {
    let store = Store::in_memory(Setup::new().inline::<Where>()).unwrap();
    store.append(Append::event(Cell::Cleared { cell: 1 })).unwrap();
    assert_eq!(*FOLDED_ON.lock().unwrap(), Some(std::thread::current().id()));
    store.submit(Append::event(Cell::Cleared { cell: 1 })).wait().unwrap();
    assert_ne!(
        *FOLDED_ON.lock().unwrap(),
        Some(std::thread::current().id()),
        "who does not wait is not kept"
    );
}

#[test]
fn requests_of_one_thread_commit_in_order() {
    let store = Store::in_memory(Setup::new().inline::<Cells>()).unwrap();
    for value in 0..2_000 {
        let first = store.submit(Append::event(Cell::Put { cell: 1, value }));
        let second = store.append(Append::event(Cell::Cleared { cell: 1 })).unwrap();
        assert!(first.wait().unwrap().receipt.commit < second.receipt.commit);
    }
}

// ---- merge and rows ----

#[derive(Serialize, Deserialize)]
enum Cell {
    Put { cell: u16, value: u32 },
    Cleared { cell: u16 },
}

impl Event for Cell {
    const FAMILY: &'static str = "cell";
    type Id = ();
    fn id(&self) {}
}

struct Cells;

impl Projection for Cells {
    const NAME: &'static str = "cells";
    type Event = Cell;
    type Key = u16;
    type Row = u32;
    fn fold(event: &Cell, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Cell::Put { cell, value } => rows.put(*cell, *value),
            Cell::Cleared { cell } => rows.remove(cell),
        }
    }
}

/// Removals in newer layers, old views, limits, both directions: against one map for each position.
#[test]
fn risk_18_merged_layers_match_map_in_every_view() {
    for seed in 0..25 {
        let (lab, mut random) = (Lab::seeded(seed), Random::new(seed));
        let setup = || Setup::new().inline::<Cells>().options(small()).platform(lab.platform()).lockstep();
        let mut store = Store::create(STORE, setup()).unwrap();
        let (mut map, mut views) = (BTreeMap::new(), Vec::new());
        for _ in 0..60 {
            // Several changes to one row in one commit: the last one wins.
            let count = 1 + random.below(8);
            let mut cells = Vec::new();
            for _ in 0..count {
                let (cell, value) = (random.below(40) as u16 * 7, random.next() as u32);
                if random.chance(0.4) {
                    cells.push(Cell::Cleared { cell });
                    map.remove(&cell);
                } else {
                    cells.push(Cell::Put { cell, value });
                    map.insert(cell, value);
                }
            }
            store.append(Append::events(cells)).unwrap();
            if random.chance(0.2) {
                views.push((store.view().unwrap(), map.clone()));
            }
            if random.chance(0.02) {
                views.clear();
                drop(store);
                store = Store::open(STORE, setup()).unwrap();
            }
        }
        views.push((store.view().unwrap(), map));
        for (view, map) in &views {
            for _ in 0..8 {
                let (one, two) = (random.below(300) as u16, random.below(300) as u16);
                let (low, high) = (one.min(two), one.max(two));
                let limit = random.below(50) as usize;
                let is: Vec<_> = view.rows::<Cells>(low..high).take(limit).map(Result::unwrap).collect();
                let must: Vec<_> =
                    map.range(low..high).take(limit).map(|(cell, value)| (*cell, *value)).collect();
                assert_eq!(is, must, "seed {seed} {low}..{high}");
                let is: Vec<_> =
                    view.rows_backwards::<Cells>(low..=high).take(limit).map(Result::unwrap).collect();
                let must = map.range(low..=high).rev().take(limit);
                assert_eq!(is, must.map(|(cell, value)| (*cell, *value)).collect::<Vec<_>>(), "seed {seed}");
                assert_eq!(view.row::<Cells>(&one).unwrap(), map.get(&one).copied());
            }
            assert_eq!(view.rows::<Cells>(..).count(), map.len());
            // From a higher key to a lower one there is nothing.
            #[expect(clippy::reversed_empty_ranges, reason = "that is the question")]
            let none = view.rows::<Cells>(200..100).count();
            assert_eq!(none, 0);
        }
    }
}

/// Projections of one name and version, whose code differs: a programmer who forgot to raise it.
macro_rules! total {
    ($name:ident, $version:expr, $fold:expr) => {
        struct $name;
        impl Projection for $name {
            const NAME: &'static str = "total";
            const VERSION: u32 = $version;
            type Event = Cell;
            type Key = ();
            type Row = u64;
            fn fold(event: &Cell, rows: &mut Rows<'_, Self>) -> Folded {
                let fold: fn(&Cell, u64) -> Result<u64, FoldError> = $fold;
                let row = rows.get(&())?.unwrap_or_default();
                rows.put((), fold(event, row)?)
            }
        }
    };
}
total!(ByOne, 1, |_, total| Ok(total + 1));
total!(ByTwo, 1, |_, total| Ok(total + 2));
total!(ByThree, 2, |_, total| Ok(total + 3));
total!(Refuses, 1, |event, total| match event {
    Cell::Put { cell: 3, .. } => Err(FoldError::refuse("not three")),
    _ => Ok(total + 1),
});
total!(RefusesAnew, 3, |event, total| match event {
    Cell::Put { cell: 3, .. } => panic!("on purpose"),
    _ => Ok(total + 1),
});

fn cells_setup<P: Projection>(lab: &Lab) -> Setup {
    Setup::new()
        .inline::<P>()
        .inline::<Cells>()
        .options(lab.options.clone())
        .platform(lab.platform())
        .lockstep()
}

fn put(store: &Store, cells: std::ops::Range<u16>) {
    for cell in cells {
        store.append(Append::event(Cell::Put { cell, value: 1 })).unwrap();
    }
}

#[test]
fn risk_20_rows_never_mix_old_and_new_folds() {
    for flushed in [true, false] {
        let mut lab = Lab::new();
        lab.options.overlay_bytes_max = if flushed { 4096 } else { 1 << 20 };
        let store = Store::create(STORE, cells_setup::<ByOne>(&lab)).unwrap();
        put(&store, 0..100);
        // Not closed: there is a tail to be folded again.
        lab.kill(store);
        let store = Store::open(STORE, cells_setup::<ByTwo>(&lab)).unwrap();
        assert_eq!(store.view().unwrap().row::<ByTwo>(&()).unwrap(), Some(200), "flushed: {flushed}");
        put(&store, 100..101);
        assert_eq!(store.view().unwrap().row::<ByTwo>(&()).unwrap(), Some(202));
        store.close();
        // Another version is folded from the first commit.
        let store = Store::open(STORE, cells_setup::<ByThree>(&lab)).unwrap();
        assert_eq!(store.view().unwrap().row::<ByThree>(&()).unwrap(), Some(303));
        assert_eq!(store.view().unwrap().rows::<Cells>(..).count(), 101);
    }
}

fn assert_stalled<P: Projection<Key = (), Row = u64>>(store: &Store, when: &str) {
    let row = store.view().unwrap().row::<P>(&());
    assert!(
        matches!(row, Err(ReadError::Stalled { position, .. }) if position.get() == 4),
        "{when}: {row:?}"
    );
    assert_eq!(store.view().unwrap().rows::<Cells>(..).count(), 100, "{when}: others go on");
    let refused = store.append(Append::event(Cell::Put { cell: 1, value: 1 }));
    assert!(matches!(refused, Err(AppendError::Fold { projection: "total", .. })), "{when}: {refused:?}");
}

#[test]
fn risk_20_failed_refold_stalls_only_its_projection() {
    fn check<P: Projection<Key = (), Row = u64>>(how: &str) {
        let mut lab = Lab::new();
        // All of it is folded again after the kill.
        lab.options.overlay_bytes_max = 1 << 20;
        let store = Store::create(STORE, cells_setup::<ByOne>(&lab)).unwrap();
        put(&store, 0..100);
        lab.kill(store);
        lab.options.overlay_bytes_max = 4096;
        let store = Store::open(STORE, cells_setup::<P>(&lab)).unwrap();
        assert_stalled::<P>(&store, how);
        store.close();
        // It is as stalled the next time, with nothing new to fold.
        let store = Store::open(STORE, cells_setup::<P>(&lab)).unwrap();
        assert_stalled::<P>(&store, &format!("{how}, opened again"));
        store.close();
        lab.disk.remove(Path::new(STATE)).unwrap();
        let store = Store::open(STORE, cells_setup::<P>(&lab)).unwrap();
        assert_stalled::<P>(&store, &format!("{how}, rebuilt"));
        store.close();
        let store = Store::open(STORE, cells_setup::<P>(&lab)).unwrap();
        assert_stalled::<P>(&store, &format!("{how}, rebuilt and opened again"));
        store.close();
        // Mended code.
        let store = Store::open(STORE, cells_setup::<ByThree>(&lab)).unwrap();
        assert_eq!(store.view().unwrap().row::<ByThree>(&()).unwrap(), Some(300));
    }
    check::<Refuses>("the same version");
    check::<RefusesAnew>("a new version that panics");
}

// ---- log files ----

/// A torn group is cut as a whole, kept aside, and never reported as damage.
#[test]
fn risk_22_torn_group_is_cut_whole() {
    let mut cut = 0;
    for seed in 0..60 {
        let lab = Lab::seeded(seed);
        let store = lab.create();
        (0..4).for_each(|number| drop(store.append(opened(number)).unwrap()));
        // The group is one write; its sync never comes.
        let policy = [ImagePolicy::Sectors, ImagePolicy::Torn, ImagePolicy::Random][seed as usize % 3];
        lab.fail_sync(Fault::SyncError);
        let answers = group(&store, (4..9).map(|number| note(number, 200).key("", format!("key-{number}"))));
        assert!(answers.iter().all(|answer| matches!(answer, Err(AppendError::Unknown(_)))));
        lab.cut(store, policy);
        let store = lab.open();
        let head = store.stats().commit.get();
        assert!(head == 4 || head == 9, "half a group: {head}");
        cut += u64::from(lab.disk.files().iter().any(|path| path.display().to_string().contains("cut-")));
        assert_sound(&store);
    }
    assert!(cut > 0, "no tail was torn");
}

#[test]
fn risk_22_damaged_durable_group_is_refused_without_changes() {
    let lab = Lab::new();
    let store = lab.create();
    (0..6).for_each(|number| drop(store.append(opened(number)).unwrap()));
    lab.kill(store);
    assert_eq!(lab.segments().len(), 1);
    let bytes = lab.disk.read_file(&lab.segments()[0]).unwrap();
    let groups: Vec<_> = (0..bytes.len() - 8).filter(|at| bytes[*at..].starts_with(b"TG1")).collect();
    // The third of six, anywhere in it: its head, a length, a payload.
    for at in (groups[2]..groups[3]).step_by(5) {
        let lab = Lab { disk: lab.disk.fork(at as u64), ..Lab::new() };
        lab.disk.flip_bit(&lab.segments()[0], at as u64, 3);
        let before = lab.log_bytes();
        match lab.try_open() {
            Err(OpenError::Corrupt { commit, position, .. }) => {
                assert_eq!((commit.get(), position.get()), (3, 3))
            }
            // Zeros between records belong to nobody.
            Ok(store) => assert_eq!(positions(&store, Query::all()).len(), 6, "at {at}"),
            Err(error) => panic!("at {at}: {error}"),
        }
        if lab.try_open().is_err() {
            assert_eq!(lab.log_bytes(), before, "a refusal changes nothing");
        }
    }
}

/// What a torn tail holds says nothing by how it looks: own groups that came before, groups of other stores. And however long it
/// is, all of it is kept aside.
#[test]
fn risk_22_torn_tail_with_foreign_groups_is_cut() {
    let mut options = small();
    (options.segment_bytes_min, options.segment_bytes_max) = (8 << 20, 8 << 20);
    let filled = |seed: u64, commits: u64| {
        let lab = Lab { options: options.clone(), ..Lab::seeded(seed) };
        let store = lab.create();
        (0..commits).for_each(|number| drop(store.append(opened(number)).unwrap()));
        lab.kill(store);
        let segment = lab.segments()[0].clone();
        let bytes = lab.disk.read_file(&segment).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        (lab, segment, bytes[..used.next_multiple_of(8)].to_vec())
    };
    let (_, _, foreign) = filled(2, 40);
    for kind in ["own", "foreign", "long"] {
        let (lab, segment, own) = filled(1, 3);
        let torn = match kind {
            "own" => own[128..].to_vec(),
            "foreign" => foreign[128..].to_vec(),
            _ => vec![0xA5; 3 << 20],
        };
        lab.disk.corrupt(&segment, own.len() as u64, &torn);
        let store = lab.open();
        let cut = store.stats().cut.unwrap_or_else(|| panic!("{kind}: nothing was cut"));
        let used = torn.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
        assert_eq!((cut.commit.get(), cut.bytes), (4, used), "{kind}");
        assert_eq!(lab.disk.read_file(&cut.kept_in).unwrap().len() as u64, used, "{kind}");
        assert_eq!(store.stats().commit.get(), 3, "{kind}");
    }
}

#[test]
fn risk_23_damaged_length_hides_no_later_group() {
    let lab = Lab::new();
    let store = lab.create();
    (0..6).for_each(|number| drop(store.append(opened(number)).unwrap()));
    lab.kill(store);
    let segment = &lab.segments()[0];
    let bytes = lab.disk.read_file(segment).unwrap();
    let third = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"TG1")).nth(2).unwrap();
    for length in [0u32, 8, 1 << 20, 0x7fff_fff0] {
        for at in [third + 44, third + 88] {
            let lab = Lab { disk: lab.disk.fork(1), ..Lab::new() };
            lab.disk.corrupt(segment, at as u64, &length.to_le_bytes());
            let opened = lab.try_open();
            assert!(matches!(opened, Err(OpenError::Corrupt { .. })), "length {length} at {at}: {opened:?}");
        }
    }
}

#[test]
fn risk_24_partial_next_segment_is_discarded() {
    let lab = Lab::new();
    let store = lab.create();
    (0..10).for_each(|number| drop(store.append(opened(number)).unwrap()));
    store.close();
    let whole = lab.disk.read_file(&lab.segments()[0]).unwrap();
    for leftover in [Vec::new(), vec![0; 4096], whole[..2000].to_vec(), whole] {
        lab.disk.write_file("/bank/log/next.creating", &leftover);
        let store = lab.open();
        assert_eq!(positions(&store, Query::all()).len(), 10);
        store.close();
        assert!(lab.disk.read_file("/bank/log/next.creating").is_err(), "it was cleared away");
    }
}

#[test]
fn risk_25_missing_truncated_or_foreign_segment_is_corrupt() {
    let lab = Lab::new();
    let store = lab.create();
    (0..40).for_each(|number| drop(store.append(note(number, 600)).unwrap()));
    store.close();
    let segments = lab.segments();
    assert!(segments.len() > 4, "{segments:?}");
    let fork = || Lab { disk: lab.disk.fork(3), ..Lab::new() };
    for (index, segment) in segments.iter().enumerate() {
        let lab = fork();
        lab.disk.remove(segment).unwrap();
        let opened = lab.try_open();
        let Err(OpenError::Corrupt { commit, what, .. }) = opened else {
            panic!("{index} is missing: {opened:?}")
        };
        assert!(what.contains("missing") || what.contains("continue"), "{index}: {what}");
        assert!(commit.get() > 0);
    }
    // Cut short: one that is not the last, and the last.
    for segment in [&segments[1], &segments[segments.len() - 1]] {
        let lab = fork();
        let bytes = lab.disk.read_file(segment).unwrap();
        lab.disk.write_file(segment, &bytes[..bytes.len() / 2]);
        let opened = lab.try_open();
        assert!(matches!(opened, Err(OpenError::Corrupt { .. })), "{}: {opened:?}", segment.display());
    }
    // Another store's.
    let other = Lab::seeded(9);
    let store = other.create();
    (0..40).for_each(|number| drop(store.append(note(number, 600)).unwrap()));
    store.close();
    let lab = fork();
    lab.disk.write_file(&segments[2], &other.disk.read_file(&other.segments()[2]).unwrap());
    assert!(matches!(lab.try_open(), Err(OpenError::Corrupt { .. })));
}

#[test]
fn risk_26_segments_are_kept_and_rebuild_derived_state() {
    let lab = Lab::new();
    let store = lab.create();
    let mut segments = Vec::new();
    for number in 0..150 {
        store.append(opened(number).and(Note::Taken { number, pad: vec![1; 200] })).unwrap();
        let now = lab.segments();
        assert!(now.starts_with(&segments), "a segment is gone");
        segments = now;
    }
    store.close();
    assert!(segments.len() > 8);
    lab.disk.remove(Path::new(STATE)).unwrap();
    let store = lab.open();
    assert_eq!(store.stats().keys_len, 150);
    for number in 0..150 {
        let again = store.append(opened(number).and(Note::Taken { number, pad: vec![1; 200] })).unwrap();
        assert!(again.replayed && again.receipt.commit.get() == number + 1);
    }
    let view = store.view().unwrap();
    assert_eq!((view.stream_version::<Money>(&1).unwrap(), balance(&store, 1)), (150, Some(150)));
}

#[test]
fn risk_27_queries_find_every_position_across_segments() {
    let lab = Lab::new();
    let store = lab.create();
    for number in 0..100 {
        let notes: Vec<_> =
            (0..1 + number % 4).map(|index| Fact::Note(index, 30 + number as usize * 3)).collect();
        store.append(ask(Request::of(notes))).unwrap();
    }
    let check = |store: &Store| {
        let head = store.stats().position.get();
        for position in 1..=head {
            let behind = Query::all().after(Position::new(position - 1));
            assert_eq!(positions(store, behind.clone().limit(1)), [position]);
            let last = Query::all().up_to(Position::new(position)).backwards().limit(1);
            assert_eq!(positions(store, last), [position]);
            assert_eq!(positions(store, behind.limit(70)).len() as u64, (head - position + 1).min(70));
        }
    };
    check(&store);
    store.close();
    check(&lab.open());
    lab.kill(lab.open());
    check(&lab.open());
}

#[test]
fn risk_28_reads_verify_events_and_name_damage() {
    let lab = Lab::new();
    let store = lab.create();
    (0..40).for_each(|number| drop(store.append(note(number, 600)).unwrap()));
    store.close();
    // In the payload of an event of the first segment.
    lab.disk.flip_bit(&lab.segments()[0], 500, 0);
    let store = lab.open();
    let view = store.view().unwrap();
    let first = view.query::<Raw>(Query::all().limit(1)).next().unwrap();
    assert!(matches!(&first, Err(ReadError::Storage(error)) if error.is_corruption()), "{first:?}");
    let others: Vec<_> = view.query::<Raw>(Query::all().after(Position::new(20))).collect();
    assert!(others.len() == 20 && others.iter().all(Result::is_ok), "other segments are read as before");
    let report = store.verify().unwrap();
    assert_eq!(report.first_bad.map(|bad| bad.position.get()), Some(1));
}

// ---- flusher, views, pressure, copies ----

#[test]
fn risk_29_expiry_and_key_reuse_follow_log() {
    let lab = Lab::new();
    let open = |retention| Store::open_or_create(STORE, lab.setup().retention(retention)).unwrap();
    let ask = |store: &Store, number: u64| store.append(opened(number)).unwrap();
    let (day, week) = (Duration::from_secs(86_400), Duration::from_secs(7 * 86_400));

    let store = open(Retention::For(day));
    let first: Vec<_> = (0..700).map(|key| ask(&store, key).receipt).collect();
    lab.clock.advance(day);
    // Used again, while flushes let go of the others.
    let again: Vec<_> = (0..350).map(|key| ask(&store, key)).collect();
    assert!(again.iter().all(|again| !again.replayed));
    assert!(store.stats().keys_len < 700, "expired keys are let go of");
    assert_eq!(store.verify().unwrap().first_bad, None, "a second use is no duplicate");
    store.close();

    // A rebuild by another policy revives nothing, and ends nothing.
    for retention in [Retention::For(week), Retention::Forever, Retention::Last(1)] {
        lab.disk.remove(Path::new(STATE)).unwrap();
        let store = open(retention);
        for (key, again) in again.iter().enumerate() {
            assert_eq!(ask(&store, key as u64).receipt, again.receipt);
        }
        let view = store.view().unwrap();
        assert!((350..700).all(|key| view.answer("", &format!("key-{key}")).unwrap().is_none()));
        let report = store.verify().unwrap();
        assert_eq!((report.first_bad, report.keys), (None, 350));
        store.close();
    }
    let store = open(Retention::Forever);
    assert!(ask(&store, 699).receipt.commit > first[699].commit, "a new request");
}

const DAY: Duration = Duration::from_secs(86_400);

fn after(lab: &Lab, time: Duration) -> Timestamp {
    Timestamp::from_micros(lab.clock.now().micros() + time.as_micros() as u64)
}

#[test]
fn risk_30_clock_jump_ahead_is_refused_until_corrected() {
    let lab = Lab::new();
    let store = Store::create(STORE, lab.setup().retention(Retention::For(7 * DAY))).unwrap();
    let first = store.append(opened(1)).unwrap();
    store.append(opened(2).retention(Retention::Forever)).unwrap();
    lab.clock.advance(3 * DAY);
    let second = store.append(opened(3)).unwrap();
    let right = lab.clock.now();

    lab.clock.jump(Timestamp::from_micros(4_070_908_800_000_000)); // 2099
    let limit = DAY;
    let refused = store.append(opened(4));
    assert!(
        matches!(refused, Err(AppendError::ClockJumped { limit: l, ahead }) if l == limit && ahead > 365 * DAY)
    );
    assert!(refused.unwrap_err().is_retryable());
    let refused =
        store.transact("t", |tx| -> Decision<()> { Ok(tx.append(Note::Taken { number: 1, pad: vec![] })?) });
    assert!(matches!(refused, Err(TxError::ClockJumped { .. })));
    // By this clock the key is over; but nothing is decided by it.
    assert!(matches!(store.append(opened(1)), Err(AppendError::ClockJumped { .. })));
    assert!(store.append(opened(2)).unwrap().replayed, "what needs no time is answered");
    assert_eq!(store.stats().commit.get(), 3);

    lab.clock.jump(right);
    assert_eq!(store.append(opened(1)).unwrap().receipt, first.receipt, "no key was lost");
    let third = store.append(opened(4)).unwrap().receipt;
    assert_eq!(third.committed_at, second.receipt.committed_at);
    assert_sound(&store);
}

/// A jump up to the limit is accepted; time that passed by the monotonic clock is no jump.
#[test]
fn risk_30_clock_jump_limit_excludes_elapsed_time() {
    let lab = Lab::new();
    let store = lab.create();
    store.append(opened(0)).unwrap();
    lab.clock.jump(after(&lab, DAY));
    store.append(opened(1)).unwrap();
    lab.clock.jump(after(&lab, DAY + Duration::from_micros(1)));
    assert!(matches!(store.append(opened(2)), Err(AppendError::ClockJumped { .. })));
    // The monotonic clock catches up with it.
    lab.clock.freeze();
    lab.clock.advance(Duration::from_micros(1));
    store.append(opened(2)).unwrap();
    lab.clock.thaw();
    lab.clock.advance(400 * DAY);
    store.append(opened(3)).unwrap();
}

#[test]
fn risk_30_clock_going_back_holds_store_time() {
    let lab = Lab::new();
    let store = lab.create();
    let first = store.append(opened(0)).unwrap().receipt;
    let right = lab.clock.now();
    lab.clock.jump(Timestamp::from_micros(0));
    assert_eq!(store.append(opened(1)).unwrap().receipt.committed_at, first.committed_at);
    lab.clock.jump(right);
    lab.clock.advance(DAY);
    let last = store.append(opened(2)).unwrap().receipt;
    assert_eq!(last.committed_at, first.committed_at + DAY);
}

#[test]
fn risk_30_accept_clock_allows_one_jump() {
    let lab = Lab::new();
    let store = lab.create();
    store.append(opened(0)).unwrap();
    lab.clock.jump(after(&lab, 500 * DAY));
    assert!(matches!(store.append(opened(1)), Err(AppendError::ClockJumped { .. })));
    let accepted = store.accept_clock();
    assert_eq!(store.append(opened(1)).unwrap().receipt.committed_at, accepted);
    lab.clock.jump(after(&lab, 2 * DAY));
    assert!(
        matches!(store.append(opened(2)), Err(AppendError::ClockJumped { .. })),
        "said once, for that time"
    );
}

/// A store that was closed for months goes on; after more than 366 days it asks for `accept_clock`.
#[test]
fn risk_30_reopen_limits_clock_jump_to_366_days() {
    let lab = Lab::new();
    let store = lab.create();
    store.append(opened(0)).unwrap();
    store.close();
    lab.clock.jump(after(&lab, 300 * DAY));
    let store = lab.open();
    store.append(opened(1)).unwrap();
    store.close();

    // No time of the day yet, as on a machine without a battery: then it is set.
    let right = after(&lab, 30 * DAY);
    lab.clock.jump(Timestamp::from_micros(0));
    let store = lab.open();
    store.append(opened(2)).unwrap();
    lab.clock.jump(right);
    store.append(opened(3)).unwrap();
    store.close();

    lab.clock.jump(after(&lab, 367 * DAY));
    let store = lab.open();
    assert!(
        matches!(store.append(opened(4)), Err(AppendError::ClockJumped { limit, .. }) if limit == 366 * DAY)
    );
    assert!(store.append(opened(3)).unwrap().replayed && store.view().is_ok(), "reads go on");
    store.accept_clock();
    store.append(opened(4)).unwrap();
}

#[test]
fn risk_31_verify_works_beside_flushing_writer() {
    let lab = Lab::new();
    let store = Store::create(STORE, workload::setup(lab.options.clone()).platform(lab.platform())).unwrap();
    (0..200).for_each(|number| drop(store.append(opened(number)).unwrap()));
    std::thread::scope(|scope| {
        scope.spawn(|| (200..800).for_each(|number| drop(store.append(opened(number)).unwrap())));
        for _ in 0..5 {
            let report = store.verify().unwrap();
            assert_eq!((report.first_bad, report.folded_otherwise), (None, None));
        }
    });
    assert_eq!(balance(&store, 1), Some(800));
}

#[test]
fn risk_31_interrupted_rebuild_ends_the_same() {
    let lab = Lab::new();
    let store = lab.create();
    (0..300).for_each(|number| drop(store.append(opened(number)).unwrap()));
    store.close();
    lab.disk.remove(Path::new(STATE)).unwrap();
    lab.disk.sync_dir(Path::new(STORE)).unwrap();
    for at in (3..60).step_by(4) {
        let lab = Lab { disk: lab.disk.fork(at), ..Lab::new() };
        lab.disk.cut_at(lab.disk.op_count() + at, ImagePolicy::Random);
        let first = lab.try_open();
        assert!(first.is_err() || lab.disk.op_count() > 0);
        lab.disk.power_cut(ImagePolicy::Random);
        drop(first);
        let store = lab.open();
        assert_eq!((balance(&store, 1), store.stats().keys_len), (Some(300), 300));
        assert_sound(&store);
    }
}

/// Held for ever, it would pin every page that redb has written since.
#[test]
fn risk_32_held_view_expires_without_growing_state_file() {
    let size_with = |held: bool| {
        let lab = Lab::new();
        let mut options = small();
        options.view_age_ms_max = 10;
        let store = Store::create(STORE, workload::setup(options).platform(lab.platform())).unwrap();
        (0..50).for_each(|number| drop(store.append(opened(number)).unwrap()));
        let view = held.then(|| store.view().unwrap());
        for number in 50..1500 {
            lab.clock.advance(Duration::from_millis(1));
            store.append(opened(number)).unwrap();
        }
        if let Some(view) = &view {
            assert!(matches!(view.row::<Balances>(&1), Err(ReadError::ViewExpired { limit_ms: 10 })));
            assert_eq!(view.query::<Raw>(Query::all()).count(), 50, "events stay readable");
        }
        store.close();
        lab.disk.read_file(STATE).unwrap().len()
    };
    let (free, held) = (size_with(false), size_with(true));
    assert!(held <= 2 * free + (1 << 20), "{held} bytes with a view held, {free} without");
}

#[test]
fn risk_33_all_writers_commit_despite_full_queue() {
    let lab = Lab::new();
    let mut options = small();
    (options.queue_len_max, options.group_len_max, options.queue_wait_ms_max) = (2, 3, 60_000);
    let store = Store::create(STORE, workload::setup(options).platform(lab.platform())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..250 {
                    store
                        .append(opened(thread * 1000 + number).and(Note::Taken { number, pad: vec![0; 300] }))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(balance(&store, 1), Some(1000));
    assert_sound(&store);
}

#[test]
fn risk_33_full_queue_returns_append() {
    let lab = Lab::new();
    let mut options = small();
    options.queue_len_max = 2;
    let store = Store::create(STORE, workload::setup(options).platform(lab.platform()).lockstep()).unwrap();
    let waiting = [store.submit(opened(1)), store.submit(opened(2))];
    let Err(AppendError::Overloaded(append)) = store.submit(opened(3)).wait() else {
        panic!("there was room")
    };
    store.step();
    waiting.into_iter().for_each(|commit| drop(commit.wait().unwrap()));
    assert_eq!(store.append(*append).unwrap().receipt.commit.get(), 3);
}

#[test]
fn risk_34_log_copy_alone_restores_store() {
    let (lab, copy) = (Lab::new(), Lab::seeded(5));
    let store = lab.create();
    (0..100).for_each(|number| drop(store.append(opened(number)).unwrap()));
    store.append(ask(Request::of([Fact::Claimed(4, 4), Fact::Reserved(1, 2, 3)]))).unwrap();
    store.close();
    lab.log_bytes().iter().for_each(|(path, bytes)| copy.disk.write_file(path, bytes));
    let (original, copied) = (lab.open(), copy.open());
    let of = |store: &Store| {
        let view = store.view().unwrap();
        let events: Vec<_> = view.query::<Raw>(Query::all()).map(Result::unwrap).collect();
        let seats: Vec<_> = view.rows::<Seats>(..).map(Result::unwrap).collect();
        (events, seats, view.row::<Balances>(&1).unwrap(), view.stream::<Booking>("show-1").count())
    };
    assert_eq!(of(&original), of(&copied));
    assert!(copied.append(opened(17)).unwrap().replayed);
    assert_eq!(copied.view().unwrap().query::<Name>(QueryItem::tag("name", 4)).count(), 1);
}

#[test]
fn risk_35_open_after_power_cut_rebuilds_nothing() {
    let lab = Lab::new();
    let store = lab.create();
    (0..300).for_each(|number| drop(store.append(opened(number)).unwrap()));
    let flushed = store.stats().flushed_commit;
    assert!(flushed.get() > 0);
    lab.cut(store, ImagePolicy::DropAll);
    let tasks = Arc::new(Mutex::new(Vec::new()));
    let told = tasks.clone();
    let setup = lab.setup().progress(move |progress| told.lock().unwrap().push(progress.task));
    let store = Store::open(STORE, setup).unwrap();
    assert!(tasks.lock().unwrap().is_empty(), "{tasks:?}");
    assert!(store.stats().flushed_commit >= flushed);
    assert_eq!(balance(&store, 1), Some(300));
}

// ---- what the simulation found ----

/// The scratch file of `verify` was closed before the rows in it were compared.
#[test]
fn verify_is_clean_beyond_overlay_capacity() {
    let lab = Lab::new();
    let store = lab.create();
    for account in 0..200 {
        store.append(ask(Request::of([Fact::Opened(account, 1)]))).unwrap();
    }
    assert_sound(&store);
    assert!(store.stats().damaged.is_none());
}

/// The first failure closed the store for good.
#[test]
fn failed_recover_can_be_retried() {
    let lab = Lab::new();
    let store = lab.create();
    store.append(opened(1)).unwrap();
    lab.fail_sync(Fault::SyncErrorKeepsNew);
    assert!(matches!(store.append(opened(2)), Err(AppendError::Unknown(_))));
    for _ in 0..3 {
        lab.disk.plan(Faults::none().from(lab.disk.op_count() + 1, Fault::AnyError));
        assert!(matches!(store.recover(), Err(OpenError::Storage(_))));
        assert!(matches!(store.append(opened(3)), Err(AppendError::Poisoned { .. })));
        assert_eq!(balance(&store, 1), Some(1), "what was published stays readable");
    }
    lab.disk.plan(Faults::none());
    store.recover().unwrap();
    store.append(opened(2)).unwrap();
    assert_sound(&store);
}

/// A closed file under an old view was taken for a damaged one.
#[test]
fn view_older_than_recover_expires_without_damage() {
    let lab = Lab::new();
    let store = lab.create();
    (0..100).for_each(|number| drop(store.append(opened(number)).unwrap()));
    let view = store.view().unwrap();
    lab.fail_sync(Fault::SyncError);
    assert!(matches!(store.append(opened(100)), Err(AppendError::Unknown(_))));
    store.recover().unwrap();
    assert!(matches!(view.row::<Balances>(&1), Err(ReadError::ViewExpired { .. })));
    assert_eq!(view.query::<Raw>(Query::all()).count(), 100);
    assert!(store.stats().damaged.is_none() && store.stats().poisoned.is_none());
    let clone = store.clone();
    store.close();
    assert!(view.row::<Balances>(&1).is_err());
    drop(clone);
    assert!(lab.disk.read_file(STATE).is_ok(), "nothing was thrown away");
}

/// Its name was not durable, and nobody made it so.
#[test]
fn killed_create_is_durable_once_opened() {
    let lab = Lab::new();
    let calls = {
        let probe = Lab::new();
        drop(probe.create());
        probe.disk.op_count()
    };
    for at in 1..=calls {
        for fault in [Fault::AnyError, Fault::SyncDirError] {
            let lab = Lab { disk: lab.disk.fork(at), ..Lab::new() };
            lab.disk.plan(Faults::none().at(at, fault));
            let first = Store::create(STORE, lab.setup());
            lab.disk.kill();
            drop(first);
            lab.disk.plan(Faults::none());
            let store = Store::open_or_create(STORE, lab.setup()).unwrap();
            let receipt = store.append(opened(1)).unwrap().receipt;
            lab.cut(store, ImagePolicy::DropAll);
            assert_eq!(lab.open().append(opened(1)).unwrap().receipt, receipt, "{fault:?} at {at}");
        }
    }
}

/// redb answers nothing any more after one failed read.
#[test]
fn recover_repairs_failed_state_read_without_damage() {
    let lab = Lab::new();
    let mut options = small();
    options.state_cache_bytes = 1 << 16;
    let setup = || workload::setup(options.clone()).platform(lab.platform()).lockstep();
    let store = Store::create(STORE, setup()).unwrap();
    for account in 0..400 {
        store.append(ask(Request::of([Fact::Opened(account, 1)]))).unwrap();
    }
    store.close();
    let store = Store::open(STORE, setup()).unwrap();
    lab.disk.plan(Faults::none().at(lab.disk.read_count() + 1, Fault::ReadError));
    let failed = (0..400).find_map(|account| store.view().unwrap().row::<Balances>(&account).err());
    assert!(matches!(&failed, Some(ReadError::Storage(error)) if !error.is_corruption()), "{failed:?}");
    store.recover().unwrap();
    assert!((0..400).all(|account| balance(&store, account) == Some(1)));
    assert!(store.stats().damaged.is_none());
}

// ---- many threads on a bad disk ----

/// Each writer recovers the store itself, whoever broke it, and asks again with the same key.
#[test]
fn recovering_writers_lose_and_duplicate_nothing() {
    let mut broken_in_all = 0;
    for seed in 0..env("RISK_SEEDS").unwrap_or(10) {
        let lab = Lab::seeded(seed);
        let store =
            Store::create(STORE, workload::setup(lab.options.clone()).platform(lab.platform())).unwrap();
        let faults = Faults::none().rate(Fault::SyncErrorKeepsNew, 0.01).rate(Fault::WriteError, 0.005);
        lab.disk.plan(faults.rate(Fault::ReadError, 0.002).rate(Fault::NameError, 0.02));
        let broken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (store, broken) = (&store, &broken);
                scope.spawn(move || {
                    for number in 0..120 {
                        let key = thread * 1000 + number;
                        let committed = loop {
                            match store.append(opened(key)) {
                                Ok(committed) => break committed,
                                Err(AppendError::Unknown(_) | AppendError::Poisoned { .. } | AppendError::Storage(_)) => {
                                    broken.fetch_add(1, Ordering::Relaxed);
                                    // It may fail too, and then the next one tries.
                                    let recovered = store.recover();
                                    let storage = matches!(&recovered, Err(OpenError::Storage(e)) if !e.is_corruption());
                                    assert!(recovered.is_ok() || storage, "{recovered:?}");
                                }
                                Err(error) => panic!("seed {seed}: {error}"),
                            }
                        };
                        let view = store.view().unwrap();
                        assert!(view.position() >= committed.receipt.last, "seed {seed}: an answer is not visible");
                    }
                });
            }
        });
        lab.disk.plan(Faults::none());
        while store.recover().is_err() {}
        assert_eq!((store.stats().commit.get(), store.stats().keys_len), (480, 480), "seed {seed}");
        assert_eq!(balance(&store, 1), Some(480), "seed {seed}");
        broken_in_all += broken.load(Ordering::Relaxed);
        assert_sound(&store);
        lab.cut(store, ImagePolicy::DropAll);
        assert_eq!(balance(&lab.open(), 1), Some(480), "seed {seed}");
    }
    assert!(broken_in_all > 0, "nothing broke");
}

/// Whoever closed the store afterwards waited for ever for the flush that had failed.
#[test]
fn failed_flush_allows_close_and_recover() {
    for recover in [false, true] {
        let lab = Lab::new();
        let store =
            Store::create(STORE, workload::setup(lab.options.clone()).platform(lab.platform())).unwrap();
        (0..5).for_each(|number| drop(store.append(opened(number)).unwrap()));
        // No room for state, but for the log: its segment is there already.
        lab.disk.quota(Some(lab.disk.bytes_used()));
        let mut done = 5;
        while store.stats().poisoned.is_none() {
            done += u64::from(store.append(opened(done)).is_ok());
        }
        lab.disk.quota(None);
        if recover {
            store.recover().unwrap();
            store.append(opened(done)).unwrap();
        }
        store.close();
        let store = lab.open();
        (0..done).for_each(|number| assert!(store.append(opened(number)).unwrap().replayed));
    }
}

#[test]
fn close_beside_writers_keeps_all_acknowledged_commits() {
    for round in 0..40 {
        let lab = Lab::seeded(round);
        let store =
            Store::create(STORE, workload::setup(lab.options.clone()).platform(lab.platform())).unwrap();
        let acknowledged = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (store, acknowledged) = (store.clone(), &acknowledged);
                scope.spawn(move || {
                    for number in 0.. {
                        match store.append(opened(thread * 1_000_000 + number)) {
                            Ok(_) => acknowledged.fetch_add(1, Ordering::Relaxed),
                            Err(AppendError::Closed(_)) => break,
                            Err(error) => panic!("round {round}: {error:?}"),
                        };
                    }
                });
            }
            while acknowledged.load(Ordering::Relaxed) < round * 3 {
                std::thread::yield_now();
            }
            store.close();
        });
        let store = lab.open();
        assert_eq!(store.stats().commit.get(), acknowledged.load(Ordering::Relaxed), "round {round}");
    }
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

// ---- edges ----

#[test]
fn edge_positions_are_answered_without_panic() {
    let lab = Lab::new();
    let store = lab.create();
    (0..100).for_each(|number| drop(store.append(opened(number)).unwrap()));
    let edges = [0, 1, 99, 100, 101, u64::MAX - 1, u64::MAX].map(Position::new);
    let queries = || [Query::all(), QueryItem::family::<Money>().into(), QueryItem::tag("no", 1).into()];
    for (number, after) in (0..).zip(edges) {
        let head = store.stats().position.get();
        for up_to in edges {
            for (query, all) in queries().into_iter().zip([true, true, false]) {
                let first = after.get().saturating_add(1);
                let must: Vec<u64> = if all { (first..=up_to.get().min(head)).collect() } else { Vec::new() };
                let query = query.after(after).up_to(up_to);
                if after.get() > head {
                    let refused = store.view().unwrap().query::<Raw>(query).next();
                    assert!(matches!(refused, Some(Err(ReadError::BeyondHead { .. }))), "{refused:?}");
                    continue;
                }
                assert_eq!(positions(&store, query.clone()), must, "{after} {up_to}");
                let backwards: Vec<u64> = must.into_iter().rev().collect();
                assert_eq!(positions(&store, query.backwards()), backwards, "{after} {up_to}");
            }
        }
        for (index, query) in (0..).zip(queries()) {
            let is_beyond = after > store.stats().position;
            let behind = query.clone().after(if is_beyond { Position::START } else { after });
            let matches = positions(&store, behind).first().copied();
            let append = opened(1000 + number * 10 + index).fail_if_events_match(query, Some(after));
            match (store.append(append), matches) {
                (Err(AppendError::BeyondHead { position, head }), _) => {
                    assert!(is_beyond);
                    assert_eq!((position, head), (after, store.stats().position));
                }
                (Err(AppendError::Conflict(conflict)), Some(first)) => {
                    let position = conflict.position;
                    assert_eq!(position.get(), first)
                }
                (Ok(committed), None) => assert!(!committed.replayed && !is_beyond),
                (answer, matches) => panic!("{after}: {answer:?}, {matches:?}"),
            }
        }
    }
}

#[test]
fn concurrent_verifies_do_not_interfere() {
    let lab = Lab::new();
    let store = Store::create(STORE, workload::setup(lab.options.clone()).platform(lab.platform())).unwrap();
    for account in 0..300 {
        store.append(ask(Request::of([Fact::Opened(account, 1)]))).unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let report = store.verify();
                    assert!(report.as_ref().is_ok_and(|report| report.first_bad.is_none()), "{report:?}");
                }
            });
        }
    });
    assert!(store.stats().damaged.is_none() && store.stats().poisoned.is_none());
}

#[test]
fn removed_projection_is_refolded_when_added_back() {
    let lab = Lab::new();
    let with = |all: bool| {
        let setup = Setup::new().options(small()).platform(lab.platform()).lockstep().inline::<Balances>();
        let setup = setup.events::<Booking>().events::<Name>().events::<Note>();
        if all { setup.inline::<Seats>().inline::<Counts>() } else { setup }
    };
    let store = Store::create(STORE, with(true)).unwrap();
    (0..100).for_each(|number| drop(store.append(opened(number)).unwrap()));
    store.close();
    let store = Store::open(STORE, with(false)).unwrap();
    assert!(matches!(store.view().unwrap().row::<Counts>("opened"), Err(ReadError::Unregistered(_))));
    (100..200).for_each(|number| drop(store.append(opened(number)).unwrap()));
    store.append(ask(Request::of([Fact::Reserved(1, 1, 1)]))).unwrap();
    lab.kill(store);
    let store = Store::open(STORE, with(true)).unwrap();
    assert_eq!(store.view().unwrap().row::<Counts>("opened").unwrap().map(|row| row.0), Some(200));
    assert_eq!(store.view().unwrap().row::<Seats>(&(1, 1)).unwrap(), Some(1));
    assert_sound(&store);
}

#[test]
fn setup_lacking_family_is_refused_harmlessly() {
    for flushed in [true, false] {
        let mut lab = Lab::new();
        lab.options.overlay_bytes_max = if flushed { 4096 } else { 1 << 20 };
        let store = lab.create();
        (0..60).for_each(|number| drop(store.append(opened(number)).unwrap()));
        store.append(ask(Request::of([Fact::Claimed(1, 1)]))).unwrap();
        lab.kill(store);
        let lacking = Setup::new().options(small()).platform(lab.platform()).lockstep().inline::<Balances>();
        let refused = Store::open(STORE, lacking.events::<Note>());
        let Err(OpenError::Missing(missing)) = refused else { panic!("{refused:?}") };
        assert!(missing.len() == 1 && missing[0].what.contains("name.Claimed"), "{missing:?}");
        let store = lab.open();
        assert_eq!(balance(&store, 1), Some(60));
        assert_eq!(store.view().unwrap().row::<Counts>("opened").unwrap().map(|row| row.0), Some(60));
        assert_sound(&store);
    }
}
