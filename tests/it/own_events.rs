//! Reads that see what a transaction's own events have done: they hold at the commit, or the decision is made again.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::request::{Request, Retry};
use tallystone::testing::model::Model;
use tallystone::testing::serial::Serial;
use tallystone::testing::workload::{self, Fact, ON_PURPOSE, Workload};
use tallystone::testing::{SimClock, SimDisk, SimEntropy};
use tallystone::transaction::TxEvent;

#[derive(Clone, Serialize, Deserialize)]
enum Limit {
    Set { plan: u32, cents: i64 },
    Opened { account: u32, plan: u32 },
    Granted { account: u32 },
}

impl Event for Limit {
    const FAMILY: &str = "limit";
    type Id = u32;

    fn id(&self) -> u32 {
        match self {
            Self::Set { plan, .. } => *plan,
            Self::Opened { account, .. } | Self::Granted { account } => *account,
        }
    }
}

/// Limits of plans, below 1,000, and of accounts: an account has its plan's when it is opened.
struct Limits;

impl Projection for Limits {
    const NAME: &str = "limits";
    type Event = Limit;
    type Key = u32;
    type Row = i64;

    fn fold(event: &Limit, rows: &mut Rows<Self>) -> Folded {
        match event {
            Limit::Set { plan, cents } => rows.put(*plan, *cents),
            Limit::Opened { account, plan } => match rows.get(plan)? {
                Some(0) => Ok(()),
                limit => rows.put(*account, limit.unwrap_or(100)),
            },
            Limit::Granted { .. } => Ok(()),
        }
    }
}

/// Of an account that was granted something: a number, and when.
struct Tickets;

impl Projection for Tickets {
    const NAME: &str = "tickets";
    type Event = Limit;
    type Key = u32;
    type Row = (u64, SystemTime);

    fn fold(event: &Limit, rows: &mut Rows<Self>) -> Folded {
        match event {
            Limit::Granted { account } => rows.put(*account, (rows.position().get(), rows.recorded_at())),
            _ => Ok(()),
        }
    }
}

/// How many accounts were opened before an account.
struct Ranks;

impl Projection for Ranks {
    const NAME: &str = "ranks";
    type Event = Limit;
    type Key = u32;
    type Row = u64;

    fn fold(event: &Limit, rows: &mut Rows<Self>) -> Folded {
        match event {
            Limit::Opened { account, .. } => rows.put(*account, rows.range(..)?.len() as u64),
            _ => Ok(()),
        }
    }
}

struct Lab {
    store: Store,
    clock: SimClock,
    told: Arc<Mutex<Vec<TxEvent>>>,
}

fn lab() -> Lab {
    with(|setup| setup)
}

fn with(more: impl FnOnce(Setup) -> Setup) -> Lab {
    let (clock, told) = (SimClock::default(), Arc::new(Mutex::new(Vec::new())));
    let (disk, entropy) = (Arc::new(SimDisk::new(1)), Arc::new(SimEntropy::new(1)));
    let platform = Platform { disk, clock: Arc::new(clock.clone()), entropy };
    let setup = Setup::new().inline::<Limits>().inline::<Tickets>().inline::<Ranks>();
    let listener = told.clone();
    let setup = more(setup.on_tx(move |event| listener.lock().unwrap().push(event.clone())));
    let store = Store::in_memory(setup.platform(platform).lockstep()).unwrap();
    Lab { store, clock, told }
}

fn set(store: &Store, plan: u32, cents: i64) {
    store.append(Append::event(Limit::Set { plan, cents }).label("plans")).unwrap();
}

fn row<P: Projection<Key = u32>>(store: &Store, key: u32) -> Option<P::Row> {
    store.view().unwrap().row::<P>(&key).unwrap()
}

fn conflict<T: std::fmt::Debug>(committed: Result<T, TxError>) -> tallystone::error::Conflict {
    match committed {
        Err(TxError::Conflict(conflict)) => *conflict,
        other => panic!("no conflict: {other:?}"),
    }
}

/// Runs `between` before the first try ends.
fn once_between(tries: u32, between: impl FnOnce() + Send) {
    if tries == 1 {
        // On another thread: this one is inside the transaction.
        std::thread::scope(|scope| scope.spawn(between).join().unwrap());
    }
}

// ---- folds that read other rows ----

#[test]
fn row_folded_from_changed_row_conflicts() {
    let Lab { store, .. } = lab();
    set(&store, 1, 500);
    let mut tx = store.begin("open").unwrap();
    tx.append(Limit::Opened { account: 1007, plan: 1 }).unwrap();
    let (limit, line) = (tx.row::<Limits>(&1007).unwrap(), line!());
    assert_eq!(limit, Some(500));
    tx.append(Limit::Granted { account: 1007 }).unwrap();
    set(&store, 2, 7);
    set(&store, 1, 10);
    let conflict = conflict(tx.commit(limit));
    assert_eq!(conflict.read, "row 1007 of `limits` with the transaction's own events");
    assert_eq!(conflict.read_at.map(|at| (at.file(), at.line())), Some((file!(), line)));
    let by = (conflict.position.get(), conflict.type_name.as_str(), conflict.stream.as_str());
    assert_eq!((by, conflict.label.as_str()), ((3, "limit.Set", "limit/1"), "plans"));
    assert_eq!((conflict.snapshot.get(), store.view().unwrap().position().get()), (1, 3));
}

#[test]
fn unchanged_refolded_row_does_not_conflict() {
    let Lab { store, .. } = lab();
    set(&store, 1, 500);
    let mut tx = store.begin("open").unwrap();
    tx.append(Limit::Opened { account: 1007, plan: 1 }).unwrap();
    assert_eq!(tx.row::<Limits>(&1007).unwrap(), Some(500));
    // Changed and changed back; what the fold read is another version of it, with the same value.
    set(&store, 1, 10);
    set(&store, 1, 500);
    tx.commit(()).unwrap();
    assert_eq!(row::<Limits>(&store, 1007), Some(500));
}

#[test]
fn event_with_unread_rows_never_conflicts() {
    let Lab { store, .. } = lab();
    set(&store, 1, 500);
    let mut tx = store.begin("open").unwrap();
    tx.append(Limit::Opened { account: 1007, plan: 1 }).unwrap();
    assert_eq!(tx.row::<Limits>(&1008).unwrap(), None);
    assert_eq!(tx.peek_row::<Limits>(&1007).unwrap(), Some(500));
    set(&store, 1, 10);
    tx.commit(()).unwrap();
    assert_eq!(row::<Limits>(&store, 1007), Some(10));
}

#[test]
fn row_read_between_own_events_is_compared_there() {
    let Lab { store, .. } = lab();
    set(&store, 1, 500);
    let mut tx = store.begin("open").unwrap();
    tx.append(Limit::Opened { account: 1007, plan: 1 }).unwrap();
    assert_eq!(tx.row::<Limits>(&1007).unwrap(), Some(500));
    // From here on the row is the same whatever the plan's limit was.
    tx.append(Limit::Set { plan: 1007, cents: 3 }).unwrap();
    assert_eq!(tx.row::<Limits>(&1007).unwrap(), Some(3));
    set(&store, 1, 10);
    assert_eq!(conflict(tx.commit(())).position.get(), 2);
}

#[test]
fn row_conflicts_if_only_refold_writes_it() {
    let Lab { store, .. } = lab();
    // With a limit of 0 the fold writes nothing, and the account keeps what it has.
    set(&store, 1, 0);
    set(&store, 1007, 3);
    for limit in [0, 500] {
        let mut tx = store.begin("open").unwrap();
        tx.append(Limit::Opened { account: 1007, plan: 1 }).unwrap();
        let read = tx.row::<Limits>(&1007).unwrap();
        set(&store, 1, 500 - limit);
        assert_eq!(conflict(tx.commit(())).type_name, "limit.Set");
        assert_eq!(read, Some(if limit == 0 { 3 } else { 500 }));
    }
}

#[test]
fn decision_on_changed_fold_is_retried() {
    let Lab { store, .. } = lab();
    set(&store, 1, 500);
    let mut tries = 0;
    let committed = store.transact("open", |tx| -> Decision<Option<i64>> {
        tries += 1;
        tx.append(Limit::Opened { account: 1007, plan: 1 })?;
        let limit = tx.row::<Limits>(&1007)?;
        once_between(tries, || set(&store, 1, 10));
        Ok(limit)
    });
    assert_eq!((committed.unwrap().response, tries), (Some(10), 2));
    assert_eq!(row::<Limits>(&store, 1007), Some(10));
}

#[test]
fn range_conflicts_if_own_rows_refold_differently() {
    let Lab { store, .. } = lab();
    set(&store, 1, 500);
    for (from, conflicts) in [(1000, true), (1008, false)] {
        let mut tx = store.begin("open").unwrap();
        tx.append(Limit::Opened { account: 1007, plan: 1 }).unwrap();
        let rows = tx.rows::<Limits>(from..2000).unwrap();
        assert_eq!(rows.len(), usize::from(conflicts));
        set(&store, 1, 10 + i64::from(from));
        match conflicts {
            true => {
                let conflict = conflict(tx.commit(()));
                assert_eq!(conflict.read, "rows of `limits` with the transaction's own events");
            }
            false => drop(tx.commit(()).unwrap()),
        }
    }
}

#[test]
fn row_folded_from_changed_range_conflicts() {
    let Lab { store, .. } = lab();
    let mut tx = store.begin("open").unwrap();
    tx.append(Limit::Opened { account: 1007, plan: 1 }).unwrap();
    assert_eq!(tx.row::<Ranks>(&1007).unwrap(), Some(0));
    store.append(Append::event(Limit::Opened { account: 1001, plan: 1 })).unwrap();
    assert_eq!(conflict(tx.commit(())).stream, "limit/1001");
}

#[test]
fn rechecked_row_with_own_events_is_compared() {
    let Lab { store, .. } = lab();
    set(&store, 1, 500);
    let stale = store.view().unwrap().stale::<Limits>(&1007).unwrap();
    let mut tx = store.begin("open").unwrap();
    tx.append(Limit::Opened { account: 1007, plan: 1 }).unwrap();
    assert_eq!(tx.recheck(&stale).unwrap(), Some(500));
    set(&store, 1, 10);
    assert_eq!(conflict(tx.commit(())).position.get(), 2);
}

#[test]
fn only_if_unchanged_drops_own_row_reads() {
    let Lab { store, .. } = lab();
    set(&store, 1, 500);
    let mut tx = store.begin("open").unwrap();
    tx.append(Limit::Opened { account: 1007, plan: 1 }).unwrap();
    assert_eq!(tx.row::<Limits>(&1007).unwrap(), Some(500));
    tx.only_if_unchanged(QueryItem::stream::<Limit>(&1007)).unwrap();
    set(&store, 1, 10);
    tx.commit(()).unwrap();
}

// ---- positions and times that were guessed ----

#[test]
fn position_read_from_own_row_matches_commit() {
    let Lab { store, told, .. } = lab();
    let mut tries = 0;
    let request = Request::new("take").key("tickets", "k", &1);
    let committed = store.transact(request, |tx| -> Decision<u64> {
        tries += 1;
        tx.append(Limit::Granted { account: 7 })?;
        let (number, _) = tx.row::<Tickets>(&7)?.unwrap();
        once_between(tries, || set(&store, 1, 0));
        Ok(number)
    });
    let committed = committed.unwrap();
    assert_eq!((committed.response, committed.receipt.first.get()), (2, 2));
    assert_eq!(row::<Tickets>(&store, 7).unwrap().0, 2);
    // A guess like this holds only with nobody between: the second try has the writer to itself.
    let told = told.lock().unwrap();
    assert_eq!((told[0].attempts, told[0].holds, told[0].conflicts.len()), (2, 1, 1));
    assert_eq!(told[0].conflicts[0].position.get(), 1);
}

#[test]
fn request_without_hold_conflicts_on_moved_position() {
    let Lab { store, told, .. } = lab();
    let retry = Request::new("take").retry(Retry::Optimistic(3));
    let ended = store.transact(retry, |tx| -> Decision<u64> {
        tx.append(Limit::Granted { account: 7 })?;
        let (number, _) = tx.row::<Tickets>(&7)?.unwrap();
        once_between(1, || set(&store, 1, 0));
        Ok(number)
    });
    assert_eq!(conflict(ended).read, "row 7 of `tickets` with the transaction's own events");
    let told = told.lock().unwrap();
    assert_eq!((told[0].attempts, told[0].holds), (4, 0));
}

#[test]
fn time_of_own_row_becomes_commit_time() {
    let Lab { store, clock, .. } = lab();
    let request = Request::new("take").key_kept("k");
    let mut tx = store.begin(request).unwrap();
    tx.append(Limit::Granted { account: 7 }).unwrap();
    let (_, time) = tx.row::<Tickets>(&7).unwrap().unwrap();
    assert_eq!(time, tx.now());
    clock.advance(Duration::from_secs(3));
    let receipt = tx.commit(()).unwrap().receipt;
    assert_eq!(receipt.committed_at, time);
    assert_eq!(row::<Tickets>(&store, 7), Some((1, time)));
    // The key is kept for 10 s from the time of its commit, not from when the writer took it.
    let again = || store.begin(Request::new("take").key_kept("k"));
    let answered = |tx: Result<Tx<'_>, TxError>| tx.unwrap().commit(()).unwrap().replayed;
    clock.advance(Duration::from_millis(6_999));
    assert!(answered(again()));
    clock.advance(Duration::from_millis(1));
    assert!(!answered(again()));
    assert_eq!(store.verify().unwrap().first_bad, None);
}

trait Kept {
    fn key_kept(self, key: &str) -> Self;
}

impl Kept for Request {
    fn key_kept(self, key: &str) -> Self {
        self.key("tickets", key, &1).retention(tallystone::request::Retention::For(Duration::from_secs(10)))
    }
}

#[test]
fn decision_without_own_reads_has_commit_time() {
    let Lab { store, clock, .. } = lab();
    let mut tx = store.begin("take").unwrap();
    tx.append(Limit::Granted { account: 7 }).unwrap();
    clock.advance(Duration::from_secs(3));
    let receipt = tx.commit(()).unwrap().receipt;
    assert_eq!(receipt.committed_at, row::<Tickets>(&store, 7).unwrap().1);
    assert_eq!(SystemTime::from(tallystone::disk::Clock::now(&clock)), receipt.committed_at);
}

/// A time read from an own row holds unless a later commit came between.
#[test]
fn time_read_before_later_commit_is_too_old() {
    let Lab { store, clock, .. } = lab();
    // No event, so that only the time has moved.
    let begin = || {
        let mut tx = store.begin("take").unwrap();
        tx.append(Limit::Granted { account: 7 }).unwrap();
        let row = tx.row::<Tickets>(&7).unwrap();
        clock.advance(Duration::from_secs(3));
        (tx, row)
    };
    let (tx, _) = begin();
    store.begin(Request::new("empty").key("s", "k", &1)).unwrap().commit(()).unwrap();
    assert!(matches!(tx.commit(()), Err(TxError::TooOld)));
    let (tx, row) = begin();
    let committed_at = tx.commit(()).unwrap().receipt.committed_at;
    assert_eq!(row.map(|(_, time)| time), Some(committed_at));
}

#[test]
fn time_read_before_clock_reset_is_discarded() {
    let Lab { store, clock, .. } = lab();
    let right = tallystone::disk::Clock::now(&clock);
    let mut tries = 0;
    let committed = store.transact("take", |tx| -> Decision<SystemTime> {
        tries += 1;
        tx.append(Limit::Granted { account: 7 })?;
        let (_, time) = tx.row::<Tickets>(&7)?.unwrap();
        // It was read while the clock was wrong.
        clock.jump(right);
        Ok(time)
    });
    assert_eq!((committed.unwrap().response, tries), (right.into(), 1));
    clock.jump(tallystone::order::Timestamp::from_micros(4_070_908_800_000_000));
    let committed = store.transact("take", |tx| -> Decision<SystemTime> {
        tries += 1;
        tx.append(Limit::Granted { account: 8 })?;
        let (_, time) = tx.row::<Tickets>(&8)?.unwrap();
        clock.jump(right);
        Ok(time)
    });
    assert_eq!((committed.unwrap().response, tries), (right.into(), 3));
    assert_eq!(row::<Tickets>(&store, 8), Some((2, right.into())));
}

#[test]
fn queried_own_events_commit_as_reported() {
    let Lab { store, clock, .. } = lab();
    store.append(Append::event(Limit::Granted { account: 7 })).unwrap();
    let mut tries = 0;
    let committed = store.transact("take", |tx| -> Decision<(u64, u64, SystemTime)> {
        tries += 1;
        tx.append(Limit::Granted { account: 7 })?;
        let last = tx.query::<Limit>(Query::from(QueryItem::stream::<Limit>(&7)).backwards().limit(1))?;
        once_between(tries, || set(&store, 1, 0));
        clock.advance(Duration::from_secs(1));
        let Sequenced { position, stream_version, recorded_at, .. } = &last[0];
        Ok((position.get(), *stream_version, *recorded_at))
    });
    let said = committed.unwrap().response;
    let view = store.view().unwrap();
    let is = view.stream::<Limit>(&7).last().unwrap().unwrap();
    assert_eq!(said, (is.position.get(), is.stream_version, is.recorded_at));
    assert_eq!((said.0, said.1, tries), (3, 2, 2));
}

#[test]
fn peeking_at_own_events_adds_no_condition() {
    let Lab { store, .. } = lab();
    let mut tx = store.begin("take").unwrap();
    tx.append(Limit::Granted { account: 7 }).unwrap();
    let all = Query::from(QueryItem::family::<Limit>());
    assert_eq!(tx.peek_query::<Limit>(all.clone()).unwrap().len(), 1);
    // Nothing of its own in it.
    assert_eq!(tx.query::<Limit>(all.up_to(tx.position())).unwrap().len(), 0);
    set(&store, 1, 0);
    tx.commit(()).unwrap();
}

#[test]
fn flag_taken_twice_does_not_conflict() {
    let Lab { store, .. } = lab();
    let mut tx = store.begin("flag").unwrap();
    assert_eq!((tx.once("f").unwrap(), tx.once("f").unwrap()), (true, false));
    set(&store, 1, 0);
    tx.commit(()).unwrap();
}

// ---- folds that are no functions ----

static FOLDED: AtomicU64 = AtomicU64::new(0);

struct Whims;

impl Projection for Whims {
    const NAME: &str = "whims";
    type Event = Limit;
    type Key = u32;
    type Row = u64;

    fn fold(event: &Limit, rows: &mut Rows<Self>) -> Folded {
        match event {
            Limit::Granted { account } => rows.put(*account, FOLDED.fetch_add(1, Ordering::Relaxed)),
            _ => Ok(()),
        }
    }
}

#[test]
fn nondeterministic_fold_is_named_and_not_retried() {
    let Lab { store, told, .. } = with(|setup| setup.inline::<Whims>());
    let ended = store.transact("take", |tx| -> Decision<Option<u64>> {
        tx.append(Limit::Set { plan: 1, cents: 1 })?;
        tx.append(Limit::Granted { account: 7 })?;
        Ok(tx.row::<Whims>(&7)?)
    });
    let Err(TxError::Fold { projection, index, why }) = ended else { panic!("{ended:?}") };
    assert_eq!((projection, index), ("whims", 1));
    assert!(why.starts_with("row 7 of `whims` came out otherwise"), "{why}");
    assert_eq!(told.lock().unwrap()[0].attempts, 1);
}

// ---- every committed decision, alone ----

/// Decisions of four threads, beside two that append what their folds look at. Each is made again alone, in the order of commits.
#[test]
fn concurrent_decisions_match_serial_replay() {
    quiet();
    let each: u64 = std::env::var("DECISIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(250);
    let store = Store::in_memory(workload::setup(tallystone::Options::default())).unwrap();
    let mut base = Model::new(tallystone::Options::default());
    for account in 0..5 {
        store.append(workload::Request::of([Fact::Opened(account, 1 << 40)]).append()).unwrap();
        base.rows.balances.insert(account, (1 << 40, 0));
    }
    let (serial, ended) = (Mutex::new(Serial::default()), AtomicBool::new(false));
    let decide = |seed: u64| {
        let mut workload = Workload::new(seed);
        for _ in 0..each {
            let (plan, mut told) = (workload.plan(&base), Vec::new());
            let answer = store.transact(plan.work(), |tx| {
                told.clear();
                plan.run(tx, &mut told)
            });
            serial.lock().unwrap().note(&plan, &told, &answer);
        }
    };
    let interfere = || {
        for number in (0..40 * each as u32).take_while(|_| !ended.load(Ordering::Relaxed)) {
            let freed = workload::Request::of([Fact::Freed(number % 3, number / 3 % 13)]);
            store.append(freed.append()).unwrap();
            std::thread::yield_now();
        }
    };
    let (decide, interfere) = (&decide, &interfere);
    std::thread::scope(|scope| {
        let deciders: Vec<_> = (0..4).map(|seed| scope.spawn(move || decide(seed))).collect();
        (0..2).for_each(|_| drop(scope.spawn(interfere)));
        deciders.into_iter().for_each(|decider| decider.join().unwrap());
        ended.store(true, Ordering::Relaxed);
    });
    let replayed = serial.into_inner().unwrap().replay(&store).unwrap_or_else(|why| panic!("{why}"));
    let transactions = store.stats().transactions;
    println!("{replayed:?}, {transactions:?}");
    assert!(replayed.committed > each && replayed.read_only > 0, "{replayed:?}");
    assert!(transactions.conflicts_len > 0 && transactions.holds_len > 0, "{transactions:?}");
}

/// Some folds of the workload panic, and the store catches it.
fn quiet() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.to_string().contains(ON_PURPOSE) {
            usual(panic);
        }
    }));
}
