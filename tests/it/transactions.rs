//! Transactions, as their user sees them.

use serde::{Deserialize, Serialize};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tallystone::error::Rule;
use tallystone::prelude::*;
use tallystone::request::Retry;
use tallystone::testing::SimClock;
use tallystone::transaction::{Budget, Outcome, Policy, TxEvent, TxState, outside_tx};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Cell {
    Set { cell: u32, value: i64 },
    Added { cell: u32, amount: i64 },
    Cleared { cell: u32 },
}

impl Event for Cell {
    const FAMILY: &'static str = "cell";
    type Id = u32;
    fn id(&self) -> u32 {
        let (Self::Set { cell, .. } | Self::Added { cell, .. } | Self::Cleared { cell }) = self;
        *cell
    }
}

struct Cells;

impl Projection for Cells {
    const NAME: &'static str = "cells";
    type Event = Cell;
    type Key = u32;
    type Row = i64;
    fn fold(event: &Cell, rows: &mut Rows<'_, Self>) -> Folded {
        match event {
            Cell::Set { cell, value } => rows.put(*cell, *value),
            Cell::Added { cell, amount } => rows.update(*cell, |row| *row += amount),
            Cell::Cleared { cell } => rows.remove(cell),
        }
    }
}

fn setup() -> Setup {
    Setup::new().inline::<Cells>()
}

fn with(cells: &[(u32, i64)]) -> Store {
    filled(Store::in_memory(setup()).unwrap(), cells)
}

fn filled(store: Store, cells: &[(u32, i64)]) -> Store {
    for (cell, value) in cells {
        store.append(Append::event(Cell::Set { cell: *cell, value: *value })).unwrap();
    }
    store
}

fn row(store: &Store, cell: u32) -> Option<i64> {
    store.view().unwrap().row::<Cells>(&cell).unwrap()
}

/// Listens to what transactions report.
fn listened(setup: Setup) -> (Setup, Arc<Mutex<Vec<TxEvent>>>) {
    let heard: Arc<Mutex<Vec<TxEvent>>> = Arc::default();
    let hears = heard.clone();
    (setup.on_tx(move |event| hears.lock().unwrap().push(event.clone())), heard)
}

type Heard = Arc<Mutex<Vec<TxEvent>>>;

/// A store whose clock a test moves.
fn clocked(setup: Setup) -> (Setup, SimClock) {
    let clock = SimClock::default();
    let mut platform = tallystone::disk::Platform::real();
    platform.clock = Arc::new(clock.clone());
    (setup.platform(platform), clock)
}

fn add(tx: &mut Tx, cell: u32, amount: i64) -> Result<(), Fault> {
    tx.append(Cell::Added { cell, amount })
}

// ---- what a decision sees ----

#[test]
fn own_events_appear_in_rows_streams_and_queries() {
    let store = with(&[(1, 10)]);
    let seen = store.transact("own", |tx| -> Decision<_> {
        add(tx, 1, 5)?;
        tx.append(Cell::Set { cell: 2, value: 7 })?;
        let stream: Vec<_> = tx.stream::<Cell>(&1)?.iter().map(|e| e.stream_version).collect();
        let newest = tx.query::<Cell>(Query::all().backwards().limit(1))?[0].position.get();
        let oldest = tx.query::<Cell>(Query::all().limit(1))?[0].position.get();
        Ok((tx.row::<Cells>(&1)?, tx.row::<Cells>(&2)?, tx.rows::<Cells>(..)?, stream, newest, oldest))
    });
    let seen = seen.unwrap().response;
    assert_eq!(seen, (Some(15), Some(7), vec![(1, 15), (2, 7)], vec![1, 2], 3, 1));
    assert_eq!((row(&store, 1), row(&store, 2)), (Some(15), Some(7)), "and so it is committed");
}

#[test]
fn empty_transaction_commits_nothing_and_never_conflicts() {
    let store = with(&[(1, 10)]);
    let reads = store.begin("reads").unwrap();
    let before = reads.row::<Cells>(&1).unwrap();
    store.append(Append::event(Cell::Set { cell: 1, value: 11 })).unwrap();
    let receipt = reads.commit(before).unwrap().receipt;
    assert_eq!((receipt.last.get(), store.stats().commit.get()), (1, 2));
    let keyed = Request::new("nothing").key("", "k", &());
    store.transact(keyed, |_| -> Decision<u8> { Ok(3) }).unwrap();
    assert_eq!((store.stats().commit.get(), store.stats().position.get()), (3, 2), "a keyed no is on record");
}

#[test]
fn a_dropped_transaction_leaves_no_trace() {
    let store = with(&[(1, 10)]);
    let mut tx = store.begin("dropped").unwrap();
    tx.append(Cell::Set { cell: 1, value: 99 }).unwrap();
    drop(tx);
    let refused = store.transact("refused", |tx| -> Decision<(), &str> {
        tx.append(Cell::Set { cell: 1, value: 98 })?;
        refuse("no")
    });
    assert!(matches!(refused, Err(TxError::Refused("no"))));
    assert_eq!((row(&store, 1), store.stats().commit.get()), (Some(10), 1));
}

#[test]
fn time_ids_and_randomness_repeat_on_retry() {
    let store = with(&[(1, 0)]);
    let mut drawn = Vec::new();
    store
        .transact("again", |tx| -> Decision<()> {
            drawn.push((tx.now(), tx.new_id(), tx.random(), tx.new_id()));
            tx.row::<Cells>(&1)?;
            if drawn.len() < 3 {
                interfere(&store, 1);
            }
            Ok(add(tx, 1, 1)?)
        })
        .unwrap();
    assert_eq!(drawn.len(), 3);
    assert!(drawn.windows(2).all(|pair| pair[0] == pair[1]), "{drawn:?}");
    assert!(drawn[0].1 != drawn[0].3, "ids differ within a try");
    let other = store.transact("other", |tx| -> Decision<u128> { Ok(tx.new_id()) }).unwrap().response;
    assert_ne!(other, drawn[0].1, "and between transactions");
}

/// Another thread changes a cell.
fn interfere(store: &Store, cell: u32) {
    let other = store.clone();
    let append =
        move || other.append(Append::event(Cell::Added { cell, amount: 100 }).label("other")).map(drop);
    std::thread::spawn(append).join().unwrap().unwrap();
}

#[test]
fn keyed_transaction_runs_once_then_replays() {
    let store = with(&[(1, 0)]);
    let request = |amount: i64| Request::new("add").key("ana", "k1", &amount).part("method", &"POST");
    let runs = AtomicU32::new(0);
    let decide = |tx: &mut Tx| -> Decision<(i64, String)> {
        runs.fetch_add(1, Ordering::Relaxed);
        add(tx, 1, 5)?;
        Ok((tx.row::<Cells>(&1)?.unwrap_or(0), "done".into()))
    };
    let first = store.transact(request(5), decide).unwrap();
    let again = store.transact(request(5), decide).unwrap();
    assert_eq!(
        (runs.load(Ordering::Relaxed), &first.response, &again.response),
        (1, &(5, "done".into()), &(5, "done".into()))
    );
    assert!(again.replayed && !first.replayed && again.receipt == first.receipt);
    let other = store.transact(request(6), decide);
    assert!(matches!(other, Err(TxError::KeyReused { part, .. }) if part == "input"));
    let changed = store.transact(request(5), |_| -> Decision<u64> { Ok(1) });
    assert!(matches!(changed, Err(TxError::AnswerChanged { commit }) if commit == first.receipt.commit));
    // Another scope is another request.
    let scoped = Request::new("add").key("bo", "k1", &5).part("method", &"POST");
    assert!(!store.transact(scoped, decide).unwrap().replayed);
}

#[test]
fn refused_keyed_request_is_decided_again() {
    let store = with(&[(1, 0)]);
    let request = || Request::new("take").key("ana", "k1", &());
    let take = |tx: &mut Tx| -> Decision<i64, &'static str> {
        match tx.row::<Cells>(&1)?.unwrap_or(0) {
            0 => refuse("empty"),
            some => Ok(some),
        }
    };
    assert!(matches!(store.transact(request(), take), Err(TxError::Refused("empty"))));
    interfere(&store, 1);
    assert_eq!(store.transact(request(), take).unwrap().response, 100);
}

#[test]
fn second_manual_transaction_conflict_names_change() {
    let store = with(&[(1, 10), (2, 20)]);
    let mut t1 = store.begin("t1").unwrap();
    let mut t2 = store.begin("t2").unwrap();
    assert_eq!((t1.row::<Cells>(&1).unwrap(), t2.row::<Cells>(&1).unwrap()), (Some(10), Some(10)));
    t1.append(Cell::Set { cell: 1, value: 11 }).unwrap();
    t2.append(Cell::Set { cell: 2, value: 21 }).unwrap();
    t1.commit(()).unwrap();
    let Err(TxError::Conflict(why)) = t2.commit(()) else { panic!("t2 read what t1 changed") };
    assert_eq!((why.read.as_str(), why.label.as_str(), why.position.get()), ("row 1 of `cells`", "t1", 3));
    assert_eq!((why.snapshot.get(), why.commit.get(), why.type_name.as_str()), (2, 3, "cell.Set"));
    assert_eq!((row(&store, 1), row(&store, 2)), (Some(11), Some(20)));
}

#[test]
fn only_if_unchanged_narrows_conflict_condition() {
    let store = with(&[(1, 10), (2, 20)]);
    let decide = |narrow: bool, changes: u32| {
        let mut tx = store.begin("narrow").unwrap();
        tx.rows::<Cells>(..).unwrap();
        if narrow {
            tx.only_if_unchanged(QueryItem::stream::<Cell>(&1)).unwrap();
        }
        tx.append(Cell::Added { cell: 3, amount: 1 }).unwrap();
        interfere(&store, changes);
        tx.commit(()).map(drop)
    };
    assert!(matches!(decide(false, 2), Err(TxError::Conflict(_))));
    assert!(decide(true, 2).is_ok(), "what it named did not change");
    assert!(matches!(decide(true, 1), Err(TxError::Conflict(_))));
}

#[test]
fn once_flag_is_taken_by_first_commit() {
    let store = with(&[]);
    let firsts = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let first =
                    store.transact("once", |tx| -> Decision<bool> { Ok(tx.once("sent/7")?) }).unwrap();
                firsts.fetch_add(u32::from(first.response), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(firsts.load(Ordering::Relaxed), 1);
    let other =
        store.transact("once", |tx| -> Decision<bool> { Ok(tx.once("sent/8")? && !tx.once("sent/8")?) });
    assert!(other.unwrap().response, "taken by itself, it is taken");
    // Who took it and did not commit has not taken it.
    drop(store.begin("dropped").map(|mut tx| tx.once("sent/9")).unwrap());
    assert!(store.transact("once", |tx| -> Decision<bool> { Ok(tx.once("sent/9")?) }).unwrap().response);
}

#[test]
fn row_001_34_after_commit_callback_runs_once_and_may_panic() {
    let (setup, heard) = listened(setup());
    let store = filled(Store::in_memory(setup).unwrap(), &[(1, 0)]);
    let ran = Arc::new(AtomicU32::new(0));
    let tries = AtomicU32::new(0);
    let counts = || {
        let ran = ran.clone();
        move || {
            ran.fetch_add(1, Ordering::Relaxed);
        }
    };
    let done = store.transact("after", |tx| -> Decision<()> {
        tx.after_commit(counts());
        tx.after_commit(|| panic!("on purpose"));
        tx.row::<Cells>(&1)?;
        if tries.fetch_add(1, Ordering::Relaxed) == 0 {
            interfere(&store, 1);
        }
        Ok(add(tx, 1, 1)?)
    });
    assert!(done.is_ok());
    assert_eq!((tries.load(Ordering::Relaxed), ran.load(Ordering::Relaxed)), (2, 1));
    let refused = store.transact("refused", |tx| -> Decision<(), ()> {
        tx.after_commit(counts());
        refuse(())
    });
    assert!(refused.is_err());
    assert_eq!(ran.load(Ordering::Relaxed), 1, "no commit, no callback");
    assert_eq!(heard.lock().unwrap()[0].callbacks_panicked, 1);
}

// ---- futures ----

/// Polls on this thread, parked in between.
fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn transaction_future_runs_when_polled_and_retries() {
    fn sends<T: Send + 'static>(future: T) -> T {
        future
    }
    let store = with(&[(1, 0)]);
    let (other, mut tries) = (store.clone(), 0);
    let deciding = store.submit_transact("future", move |tx: &mut Tx| -> Decision<i64> {
        tries += 1;
        let count = tx.row::<Cells>(&1)?.unwrap_or(0);
        if tries <= 6 {
            interfere_unless_held(&other, tries);
        }
        tx.append(Cell::Set { cell: 1, value: count + 1 })?;
        Ok(count + 1)
    });
    let done = block_on(sends(deciding)).unwrap();
    assert_eq!(row(&store, 1), Some(done.response));
    let keyed = |store: &Store| {
        store.submit_transact(Request::new("k").key("", "k", &1), |tx: &mut Tx| -> Decision<i64> {
            add(tx, 1, 1)?;
            Ok(7)
        })
    };
    assert!(!block_on(keyed(&store)).unwrap().replayed && block_on(keyed(&store)).unwrap().replayed);
}

/// After four conflicts the writer is held: whoever interferes then waits for it.
fn interfere_unless_held(store: &Store, tries: u32) {
    if tries <= 4 {
        interfere(store, 1);
    }
}

#[test]
fn dropped_transaction_future_commits_nothing() {
    let store = with(&[(1, 0)]);
    drop(store.submit_transact("dropped", |tx: &mut Tx| -> Decision<()> { Ok(add(tx, 1, 1)?) }));
    assert_eq!(row(&store, 1), Some(0), "nobody polled it");
    store.transact("next", |tx| -> Decision<()> { Ok(add(tx, 1, 1)?) }).unwrap();
    assert_eq!(row(&store, 1), Some(1));
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
fn inverted_range_reads_nothing_and_never_conflicts() {
    let disk = Arc::new(tallystone::testing::SimDisk::new(1));
    let platform = tallystone::disk::Platform { disk, ..tallystone::disk::Platform::real() };
    let store = Store::create("/store", setup().platform(platform).lockstep()).unwrap();
    // It waits for the writer, and shares a group with the decision.
    let before = store.submit(Append::event(Cell::Set { cell: 4, value: 1 }));
    let read = store.transact("range", |tx| -> Decision<usize> {
        add(tx, 1, 1)?;
        Ok(tx.rows::<Cells>(5..3)?.len())
    });
    assert_eq!(read.unwrap().response, 0);
    assert!(before.wait().is_ok() && store.stats().poisoned.is_none());
}

#[test]
fn later_events_do_not_conflict_with_bounded_query() {
    for (cells, held) in [([2, 1], true), ([1, 2], false)] {
        let store = with(&[(1, 10)]);
        let mut tx = store.begin("bounded").unwrap();
        let ask = Query::from(QueryItem::stream::<Cell>(&1)).up_to(Position::new(2));
        assert_eq!(tx.query::<Cell>(ask).unwrap().len(), 1);
        add(&mut tx, 3, 1).unwrap();
        cells.iter().for_each(|cell| drop(filled(store.clone(), &[(*cell, 5)])));
        assert_eq!(tx.commit(()).is_ok(), held, "cells {cells:?} are set at positions 2 and 3");
    }
}

#[test]
fn filled_backward_query_conflicts_with_newer_match() {
    for (cell, held) in [(1, false), (2, true)] {
        let store = with(&[(1, 10), (1, 11)]);
        let mut tx = store.begin("newest").unwrap();
        let newest = Query::from(QueryItem::stream::<Cell>(&1)).backwards().limit(1);
        assert_eq!(tx.query::<Cell>(newest).unwrap()[0].position.get(), 2);
        tx.append(Cell::Set { cell: 3, value: 1 }).unwrap();
        filled(store.clone(), &[(cell, 5)]);
        assert_eq!(tx.commit(()).is_ok(), held, "cell {cell} is set at position 3");
    }
}

#[test]
fn query_from_beyond_head_is_refused() {
    let store = with(&[(1, 10)]);
    let ask = |after| Query::all().after(Position::new(after));
    let mut tx = store.begin("later copy").unwrap();
    assert_eq!(tx.query::<Cell>(ask(1)).unwrap().len(), 0);
    let refused = tx.query::<Cell>(ask(2)).unwrap_err();
    let is = |error: &TxError| match error {
        TxError::BeyondHead { position, head } => (position.get(), head.get()),
        other => panic!("{other:?}"),
    };
    assert_eq!(is(refused.cause()), (2, 1));
    assert_eq!(
        tx.append(Cell::Set { cell: 1, value: 1 }).unwrap_err().cause().to_string(),
        refused.to_string()
    );
    let peeked =
        store.transact("later copy", |tx| -> Decision<usize> { Ok(tx.peek_query::<Cell>(ask(7))?.len()) });
    assert_eq!(is(&peeked.unwrap_err()), (7, 1));
    // The end of a range may be still to come.
    let ahead = Query::all().up_to(Position::new(9));
    assert_eq!(store.view().unwrap().query::<Cell>(ahead).count(), 1);
}

// ---- seed 001: short, small transactions ----

#[test]
fn row_001_02_oversell_is_refused() {
    #[derive(Debug, PartialEq)]
    struct OutOfStock;
    let store = with(&[(1, 5)]);
    let (accepted, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for order in 0..8u32 {
            let (store, accepted, refused) = (&store, &accepted, &refused);
            scope.spawn(move || {
                let placed =
                    store.transact(Request::new("order").key("shop", order.to_string(), &order), |tx| {
                        if tx.row::<Cells>(&1)?.unwrap_or(0) < 1 {
                            return refuse(OutOfStock);
                        }
                        tx.append(Cell::Set { cell: 100 + order, value: 1 })?;
                        Ok(add(tx, 1, -1)?)
                    });
                match placed {
                    Ok(_) => accepted.fetch_add(1, Ordering::Relaxed),
                    Err(TxError::Refused(OutOfStock)) => refused.fetch_add(1, Ordering::Relaxed),
                    Err(error) => panic!("{error}"),
                };
            });
        }
    });
    assert_eq!((accepted.into_inner(), refused.into_inner(), row(&store, 1)), (5, 3, Some(0)));
}

#[test]
fn row_001_04_order_and_inventory_are_one_commit() {
    let store = with(&[(1, 5)]);
    store
        .transact("order", |tx| -> Decision<()> {
            tx.append(Cell::Set { cell: 100, value: 2 })?;
            Ok(add(tx, 1, -2)?)
        })
        .unwrap();
    // Whoever reads sees both or none, at every commit there ever was.
    let events: Vec<_> = store.view().unwrap().query::<Cell>(Query::all()).map(Result::unwrap).collect();
    assert_eq!(events.len(), 3);
    assert_eq!(store.stats().commit.get(), 2);
    assert_eq!(row(&store, 1).unwrap() + row(&store, 100).unwrap(), 5);
}

#[test]
fn row_001_05_contention_is_typed_error_or_retry() {
    let (setup, heard) = listened(setup());
    let store = filled(Store::in_memory(setup).unwrap(), &[(1, 0)]);
    let count = |retry| {
        store.transact(Request::new("count").retry(retry), |tx| -> Decision<()> {
            tx.row::<Cells>(&1)?;
            interfere(&store, 1);
            Ok(add(tx, 1, 1)?)
        })
    };
    let told = count(Retry::Never);
    assert!(matches!(&told, Err(TxError::Conflict(why)) if why.label == "other"), "{told:?}");
    assert!(told.is_err_and(|error| error.is_retryable()));
    let event = heard.lock().unwrap()[0].clone();
    assert_eq!((event.outcome, event.attempts, event.conflicts.len()), (Outcome::Conflict, 1, 1));
    assert!(count(Retry::Optimistic(3)).is_err());
    let event = heard.lock().unwrap()[1].clone();
    assert_eq!((event.attempts, event.conflicts.len()), (4, 4));
}

#[test]
fn row_001_06_wait_timeout_names_holder_of_writer() {
    let (mut options, waiting) = (tallystone::Options::default(), Duration::from_millis(5));
    options.hold_ms_max = 60_000;
    let store = filled(Store::in_memory(setup().options(options)).unwrap(), &[(1, 0), (2, 0)]);
    let (told, tries) = (Mutex::new(None), AtomicU32::new(0));
    let held = store.transact(Request::new("long").retry(Retry::UpTo(1)), |tx| -> Decision<()> {
        tx.row::<Cells>(&1)?;
        match tries.fetch_add(1, Ordering::Relaxed) {
            0 => interfere(&store, 1),
            _ => std::thread::scope(|scope| {
                let hurried = scope.spawn(|| {
                    let request = Request::new("hurried").wait_max(waiting);
                    store.transact(request, |tx| -> Decision<()> { Ok(add(tx, 2, 1)?) })
                });
                let active = store.active_transactions();
                assert!(active.iter().any(|tx| tx.label == "long" && tx.state == TxState::Holding));
                *told.lock().unwrap() = Some(hurried.join().unwrap());
            }),
        }
        Ok(add(tx, 1, 1)?)
    });
    held.unwrap();
    let told = told.into_inner().unwrap().unwrap();
    let Err(TxError::Overloaded { waited, holder }) = told else { panic!("{told:?}") };
    assert_eq!((waited, holder.as_deref()), (waiting, Some("long")));
    assert_eq!((row(&store, 1), row(&store, 2)), (Some(101), Some(0)), "it was withdrawn, not done later");
}

/// One transaction, its operations spaced by a clock that the test moves.
fn paced(budget: Budget, pace: Duration, operations: u32) -> (Result<(), TxError>, TxEvent) {
    let (setup, clock) = clocked(setup().budget(budget));
    let (setup, heard) = listened(setup);
    let store = filled(Store::in_memory(setup).unwrap(), &[(1, 0)]);
    let done = store.transact("paced", |tx| -> Decision<()> {
        for _ in 0..operations {
            tx.peek_row::<Cells>(&1)?;
            clock.advance(pace);
        }
        Ok(())
    });
    let event = heard.lock().unwrap()[0].clone();
    (done.map(drop), event)
}

#[test]
fn row_001_08_slow_operation_is_reported_or_denied() {
    // A fold that takes time, by the test's clock, makes the operation slow.
    static CLOCK: Mutex<Option<SimClock>> = Mutex::new(None);
    struct Slow;
    impl Projection for Slow {
        const NAME: &'static str = "slow";
        type Event = Cell;
        type Key = u32;
        type Row = u8;
        fn fold(_: &Cell, _: &mut Rows<'_, Self>) -> Folded {
            if let Some(clock) = &*CLOCK.lock().unwrap() {
                clock.advance(Duration::from_millis(150));
            }
            Ok(())
        }
    }
    for (budget, denied) in [(Budget::safe().observe(), false), (Budget::safe().deny(), true)] {
        let (setup, clock) = clocked(setup().inline::<Slow>().budget(budget));
        let (setup, heard) = listened(setup);
        let store = Store::in_memory(setup).unwrap();
        *CLOCK.lock().unwrap() = Some(clock);
        let done = store.transact("slow", |tx| -> Decision<()> { Ok(add(tx, 1, 1)?) });
        let event = heard.lock().unwrap()[0].clone();
        assert_eq!(
            matches!(done, Err(TxError::Budget { rule: Rule::SlowOperation, used: 150, limit: 100 })),
            denied
        );
        assert_eq!((event.findings[0].rule, event.findings[0].used), (Rule::SlowOperation, 150));
        assert!(event.findings[0].at.is_some_and(|at| at.file().ends_with("transactions.rs")));
    }
}

#[test]
fn row_001_09_operation_beyond_limit_is_denied_and_rolled_back() {
    let store = Store::in_memory(setup().budget(Budget::safe().deny())).unwrap();
    let done = store.transact("many", |tx| -> Decision<()> {
        (0..150).try_for_each(|cell| Ok(tx.append(Cell::Set { cell, value: 1 })?))
    });
    assert!(
        matches!(done, Err(TxError::Budget { rule: Rule::Operations, used: 101, limit: 100 })),
        "{done:?}"
    );
    assert_eq!(store.stats().position.get(), 0);
}

#[test]
fn row_001_10_waiting_time_is_not_charged() {
    let (setup, clock) = clocked(setup().budget(Budget::safe().deny()));
    let (setup, heard) = listened(setup);
    let store = filled(Store::in_memory(setup).unwrap(), &[(1, 0)]);
    let tries = AtomicU32::new(0);
    // The holder takes half a minute; whoever waits behind it takes that long too, and is within its budget.
    let holder = store.transact(Request::new("holder").retry(Retry::UpTo(1)), |tx| -> Decision<()> {
        tx.row::<Cells>(&1)?;
        if tries.fetch_add(1, Ordering::Relaxed) == 0 {
            interfere(&store, 1);
        } else {
            clock.advance(Duration::from_millis(600));
        }
        Ok(add(tx, 1, 1)?)
    });
    holder.unwrap();
    let event = heard.lock().unwrap().last().unwrap().clone();
    assert_eq!((event.label.as_str(), event.held), ("holder", Duration::from_millis(600)));
    assert_eq!(event.own, Duration::from_millis(600));
    assert!(event.waited < Duration::from_millis(600), "{event:?}");
}

#[test]
fn row_001_11_long_transaction_lets_others_commit() {
    let store = with(&[(1, 0), (2, 0)]);
    store
        .transact("long", |tx| -> Decision<()> {
            tx.row::<Cells>(&1)?;
            // While it decides, another commits something else: it would hang if the writer were held.
            interfere(&store, 2);
            Ok(add(tx, 1, 1)?)
        })
        .unwrap();
    assert_eq!((row(&store, 1), row(&store, 2)), (Some(1), Some(100)));
}

#[test]
fn row_001_24_nested_transaction_of_other_store_is_refused() {
    let (a, (setup, heard)) = (with(&[]), listened(setup()));
    let b = Store::in_memory(setup).unwrap();
    let inner = |b: &Store| b.transact("inner", |tx| -> Decision<()> { Ok(add(tx, 1, 1)?) }).map(drop);
    let refused = a.transact("outer", |_| -> Decision<bool> {
        Ok(matches!(inner(&b), Err(TxError::Nested { outer }) if outer == "outer"))
    });
    assert!(refused.unwrap().response);
    assert_eq!(heard.lock().unwrap()[0].findings[0].rule, Rule::OtherStore, "and counted");
    // Of the same store too, and a plain append would be made again with every try.
    let same = a.transact("outer", |_| -> Decision<bool> {
        let append = a.append(Append::event(Cell::Cleared { cell: 1 }));
        let submit = a.submit(Append::event(Cell::Cleared { cell: 1 })).wait();
        Ok(matches!(inner(&a), Err(TxError::Nested { .. }))
            && matches!(append, Err(AppendError::Nested { .. }))
            && matches!(submit, Err(AppendError::Nested { .. })))
    });
    assert!(same.unwrap().response);
    assert!(inner(&a).is_ok(), "outside again, it is allowed again");
    // On purpose it can be warned about only.
    let mild = Store::in_memory(setup_warning_about_others()).unwrap();
    assert!(a.transact("outer", |_| -> Decision<bool> { Ok(inner(&mild).is_ok()) }).unwrap().response);
}

fn setup_warning_about_others() -> Setup {
    setup().budget(Budget::safe().rule(Rule::OtherStore, Policy::Observe))
}

/// An event of a type that is not there.
fn nothing() -> Raw {
    Raw::new("cell.Nothing", 1, tallystone::event::Codec::Bincode, "cell/1", Tags::none(), Vec::new())
}

#[test]
fn row_001_29_report_has_own_waited_and_held_time() {
    let (setup, clock) = clocked(setup());
    let (setup, heard) = listened(setup);
    let store = filled(Store::in_memory(setup).unwrap(), &[(1, 0)]);
    let tries = AtomicU32::new(0);
    let decide = |tx: &mut Tx| -> Decision<()> {
        tx.row::<Cells>(&1)?;
        clock.advance(Duration::from_millis(200));
        if tries.fetch_add(1, Ordering::Relaxed) == 0 {
            // Somebody else was first: the second try holds the writer.
            interfere(&store, 1);
        }
        Ok(add(tx, 1, 1)?)
    };
    store.transact(Request::new("slow").retry(Retry::UpTo(1)), decide).unwrap();
    let event = heard.lock().unwrap().iter().find(|event| event.label == "slow").unwrap().clone();
    let millis = Duration::from_millis;
    assert_eq!((event.own, event.held, event.holds), (millis(400), millis(200), 1));
    assert_eq!((event.operations, event.rows, event.reads, event.events), (4, 2, 1, 1));
    assert!(event.bytes > 0);
}

#[test]
fn row_001_30_giant_transaction_reports_each_broken_rule() {
    let mild = || {
        setup_warning_about_others().budget(
            Budget::safe()
                .observe()
                .rule(Rule::OtherStore, Policy::Observe)
                .operations(20)
                .scan(10)
                .bytes(2000),
        )
    };
    let (shop, clock) = clocked(mild());
    let (shop, heard) = listened(shop);
    let shop = Store::in_memory(shop).unwrap();
    shop.append(Append::events((0..11).map(|cell| Cell::Set { cell, value: 1 }))).unwrap();
    let (ledger, ledger_heard) = listened(mild());
    let (mailbox, mailbox_heard) = listened(mild());
    let (ledger, mailbox) = (Store::in_memory(ledger).unwrap(), Store::in_memory(mailbox).unwrap());
    // One `submit` that does everything: two more stores inside each other, mail, a call, a loop over all friends, a rescue.
    let submit = shop.transact("submit", |tx| -> Decision<()> {
        for (friend, _) in tx.rows::<Cells>(..)? {
            add(tx, friend, 1)?;
            add(tx, friend, 2)?;
        }
        ledger
            .transact("entry", |entry| -> Decision<()> {
                add(entry, 1, 1)?;
                mailbox.transact("mail", |mail| -> Decision<()> { Ok(add(mail, 1, 1)?) }).unwrap();
                Ok(())
            })
            .unwrap();
        outside_tx("mail", || ());
        outside_tx("payment", || clock.advance(Duration::from_secs(2)));
        let rescued = tx.append_raw(nothing());
        assert!(rescued.is_err());
        Ok(())
    });
    assert!(matches!(submit, Err(TxError::Swallowed(_))), "the rescue: {submit:?}");
    let all: Vec<TxEvent> =
        [heard, ledger_heard, mailbox_heard].iter().flat_map(|heard| heard.lock().unwrap().clone()).collect();
    let mut found: Vec<_> = all
        .iter()
        .flat_map(|event| &event.findings)
        .map(|finding| (finding.rule, finding.what, finding.at))
        .collect();
    found.dedup();
    let rules: Vec<_> = found.iter().map(|(rule, ..)| *rule).collect();
    for rule in [Rule::Operations, Rule::Scan, Rule::Time, Rule::OutsideCall, Rule::OtherStore] {
        assert!(rules.contains(&rule), "{rule:?} is missing: {found:?}");
    }
    let calls = found.iter().filter(|(rule, ..)| *rule == Rule::OutsideCall).map(|(_, what, _)| *what);
    assert_eq!(calls.collect::<Vec<_>>(), [Some("mail"), Some("payment")]);
    let placed = found.iter().filter(|(.., at)| at.is_some_and(|at| at.file().ends_with("transactions.rs")));
    assert!(placed.count() >= 6, "{found:?}");
}

#[test]
fn row_001_31_swallowed_failure_prevents_commit() {
    let store = with(&[(1, 0)]);
    let done = store.transact("swallows", |tx| -> Decision<String> {
        tx.append(Cell::Set { cell: 1, value: 9 })?;
        let failed = tx.append_raw(nothing());
        assert!(failed.is_err());
        Ok("rescued".into())
    });
    let Err(TxError::Swallowed(fault)) = done else { panic!("{done:?}") };
    assert!(matches!(fault.cause(), TxError::Unregistered(_) | TxError::Invalid { .. }), "{fault}");
    assert_eq!((row(&store, 1), store.stats().commit.get()), (Some(0), 1));
    // Every later operation fails too, and a refusal after a failure tells the failure.
    let refused = store.transact("refuses", |tx| -> Decision<(), &str> {
        let _ = tx.append_raw(nothing());
        assert!(tx.row::<Cells>(&1).is_err());
        refuse("no")
    });
    assert!(!matches!(refused, Err(TxError::Refused(_)) | Ok(_)), "{refused:?}");
}

#[test]
fn row_001_32_unbounded_loop_is_denied_unless_split() {
    let store = Store::in_memory(setup().budget(Budget::safe().deny())).unwrap();
    let all = store.transact("friends", |tx| -> Decision<()> {
        (0..150).try_for_each(|cell| Ok(tx.append(Cell::Set { cell, value: 1 })?))
    });
    assert!(matches!(all, Err(TxError::Budget { .. })));
    for cell in 0..150u32 {
        let friend = Request::new("friend").key("friends", cell.to_string(), &cell);
        store
            .transact(friend, |tx| -> Decision<()> { Ok(tx.append(Cell::Set { cell, value: 1 })?) })
            .unwrap();
    }
    assert_eq!(store.view().unwrap().rows::<Cells>(..).count(), 150);
}

#[test]
fn row_001_33_budget_exception_expires_after_its_date() {
    let many = |label: &'static str, until: &str| {
        let (setup, clock) =
            clocked(setup().budget(Budget::safe().deny().operations(2).allow("import", until)));
        // 2026-06-01.
        clock.jump(tallystone::Timestamp::from_micros(1_780_272_000_000_000));
        let store = Store::in_memory(setup).unwrap();
        store
            .transact(label, |tx| -> Decision<()> { (0..5).try_for_each(|cell| Ok(add(tx, cell, 1)?)) })
            .map(drop)
    };
    assert!(many("import", "2026-06-01").is_ok(), "on the last day it passes");
    assert!(matches!(many("import", "2026-05-31"), Err(TxError::Budget { .. })), "the day is over");
    assert!(matches!(many("other", "2026-06-01"), Err(TxError::Budget { .. })), "a new offender");
    let wrong = Store::in_memory(setup().budget(Budget::safe().allow("import", "2026-02-30")));
    assert!(matches!(wrong, Err(OpenError::Setup(why)) if why[0].contains("2026-02-30")));
}

#[test]
fn row_001_35_each_transaction_is_reported_once_with_outcome() {
    let (setup, heard) = listened(setup());
    let store = filled(Store::in_memory(setup).unwrap(), &[(1, 0)]);
    let last = |heard: &Heard| {
        let event = heard.lock().unwrap().last().unwrap().clone();
        (heard.lock().unwrap().len(), event.label, event.outcome)
    };
    let keyed = || Request::new("commits").key("", "k", &());
    let decide = |tx: &mut Tx| -> Decision<()> { Ok(add(tx, 1, 1)?) };
    store.transact(keyed(), decide).unwrap();
    assert_eq!(last(&heard), (1, "commits".into(), Outcome::Committed));
    let event = heard.lock().unwrap()[0].clone();
    assert_eq!((event.attempts, event.operations, event.reads, event.events), (1, 1, 0, 1));
    assert!(event.bytes > 0);
    store.transact(keyed(), decide).unwrap();
    assert_eq!(last(&heard), (2, "commits".into(), Outcome::Replayed));
    store.transact("reads", |tx| -> Decision<_> { Ok(tx.rows::<Cells>(..)?.len()) }).unwrap();
    assert_eq!(last(&heard), (3, "reads".into(), Outcome::ReadOnly));
    let _ = store.transact("refuses", |_| -> Decision<(), ()> { refuse(()) });
    assert_eq!(last(&heard), (4, "refuses".into(), Outcome::Refused));
    let panics = || store.transact("panics", |_| -> Decision<()> { panic!("on purpose") });
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert_eq!(last(&heard), (5, "panics".into(), Outcome::Incomplete));
    drop(store.begin("dropped").unwrap());
    assert_eq!(last(&heard), (6, "dropped".into(), Outcome::Incomplete));
    drop(store.submit_transact("unpolled", decide));
    assert_eq!(last(&heard), (7, "unpolled".into(), Outcome::Incomplete));
    store.begin("by hand").unwrap().commit(()).unwrap();
    assert_eq!(last(&heard), (8, "by hand".into(), Outcome::ReadOnly));
    assert!(store.active_transactions().is_empty(), "none is left");
    // A panic leaves nothing behind: the thread is not inside any more, and the writer serves.
    store.transact("next", decide).unwrap();
}

#[test]
fn on_tx_callback_can_list_transactions() {
    static STORE: std::sync::OnceLock<Store> = std::sync::OnceLock::new();
    let told = Arc::new(AtomicU32::new(0));
    let tells = told.clone();
    let setup = setup().on_tx(move |_| {
        let active = STORE.get().map(Store::active_transactions);
        tells.fetch_add(u32::from(active.is_some()), Ordering::Relaxed);
    });
    let store = STORE.get_or_init(|| Store::in_memory(setup).unwrap());
    store.transact("told", |tx| -> Decision<()> { Ok(add(tx, 1, 1)?) }).unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn row_001_36_rule_is_observed_warned_or_denied_by_policy() {
    for (policy, fails) in [(Policy::Observe, false), (Policy::Warn, false), (Policy::Deny, true)] {
        let budget = Budget::safe().observe().operations(1).rule(Rule::Operations, policy);
        let (done, event) = paced(budget, Duration::ZERO, 2);
        assert_eq!(done.is_err(), fails, "{policy:?}");
        assert_eq!((event.findings.len(), event.findings[0].policy), (1, policy));
    }
}

#[test]
fn row_001_37_own_time_over_one_second_is_denied() {
    let (quick, _) =
        paced(Budget::safe().deny().operation_time(Duration::MAX), Duration::from_millis(99), 10);
    assert!(quick.is_ok());
    let (slow, event) = paced(Budget::safe().deny(), Duration::from_millis(99), 12);
    assert!(matches!(slow, Err(TxError::Budget { rule: Rule::Time, limit: 1000, .. })), "{slow:?}");
    assert!(event.own > Duration::from_secs(1));
}

#[test]
fn row_001_38_full_scan_in_transaction_is_flagged() {
    let (setup, heard) = listened(setup().budget(Budget::safe().scan(10)));
    let store = Store::in_memory(setup).unwrap();
    store.append(Append::events((0..11).map(|cell| Cell::Set { cell, value: 1 }))).unwrap();
    store.transact("ten", |tx| -> Decision<_> { Ok(tx.rows::<Cells>(..10)?.len()) }).unwrap();
    store.transact("all", |tx| -> Decision<_> { Ok(tx.rows::<Cells>(..)?.len()) }).unwrap();
    store.transact("log", |tx| -> Decision<_> { Ok(tx.query::<Cell>(Query::all())?.len()) }).unwrap();
    let findings: Vec<_> = heard.lock().unwrap().iter().map(|event| event.findings.len()).collect();
    assert_eq!(findings, [0, 1, 1]);
    assert_eq!(heard.lock().unwrap()[1].findings[0].rule, Rule::Scan);
}

#[test]
fn row_001_39_operation_limit_is_exactly_one_hundred() {
    for (operations, ok) in [(99, true), (100, true), (101, false)] {
        assert_eq!(paced(Budget::safe().deny(), Duration::ZERO, operations).0.is_ok(), ok, "{operations}");
    }
}

#[test]
fn row_001_40_outside_call_in_transaction_is_reported_or_prevented() {
    let (setup, heard) = listened(setup());
    let store = Store::in_memory(setup).unwrap();
    let called = store.transact("calls", |_| -> Decision<u16> { Ok(outside_tx("http", || 200)) }).unwrap();
    assert_eq!(called.response, 200);
    let finding = heard.lock().unwrap()[0].findings[0].clone();
    assert_eq!((finding.rule, finding.what), (Rule::OutsideCall, Some("http")));
    let strict = Store::in_memory(self::setup().budget(Budget::safe().deny())).unwrap();
    let made = AtomicU32::new(0);
    let call = || {
        strict.transact("calls", |tx| -> Decision<()> {
            add(tx, 1, 1)?;
            outside_tx("mail", || made.fetch_add(1, Ordering::Relaxed));
            Ok(())
        })
    };
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert_eq!((made.into_inner(), strict.stats().commit.get()), (0, 0));
    assert_eq!(outside_tx("http", || 1), 1, "outside a transaction it is nothing");
}

#[test]
fn row_001_41_after_commit_work_sees_committed_state() {
    let store = with(&[(1, 0)]);
    let seen = Arc::new(Mutex::new(None));
    let (sees, reads) = (seen.clone(), store.clone());
    store
        .transact("after", |tx| -> Decision<()> {
            let (sees, reads) = (sees.clone(), reads.clone());
            tx.after_commit(move || *sees.lock().unwrap() = row(&reads, 1));
            Ok(add(tx, 1, 1)?)
        })
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), Some(1), "it sees what was committed");
}

#[test]
fn row_001_43_safe_budget_has_all_six_rules() {
    let rules = |budget: Budget| format!("{budget:?}");
    assert_eq!(rules(Budget::default()), rules(Budget::safe().observe()));
    // 1 under a second, 2 quick queries, 3 under a hundred, 4 no calls, 5 no other store, 6 no scans: each has a test above.
    let slow = paced(Budget::safe().deny(), Duration::from_millis(600), 3).0;
    assert!(matches!(slow, Err(TxError::Budget { rule: Rule::Time, .. })));
    assert!(paced(Budget::safe().deny(), Duration::ZERO, 101).0.is_err());
}

// ---- seed 003 ----

#[test]
fn row_003_10_concurrent_requests_with_same_key_share_commit() {
    for _ in 0..200 {
        let (store, start) = (with(&[(1, 0)]), Barrier::new(2));
        let ask = |who: i64| {
            start.wait();
            store.transact(Request::new("phase").key("ana", "k", &()), |tx| -> Decision<i64> {
                add(tx, 1, who)?;
                Ok(who)
            })
        };
        let (a, b) = std::thread::scope(|scope| {
            let other = scope.spawn(|| ask(2).unwrap());
            (ask(1).unwrap(), other.join().unwrap())
        });
        assert_eq!((a.response, &a.receipt), (b.response, &b.receipt));
        assert!(a.replayed != b.replayed);
        assert_eq!(row(&store, 1), Some(a.response), "one commit");
    }
}

// ---- seed 004: what isolation means to those who write handlers ----

#[test]
fn row_004_31_retry_histogram_and_conflict_causes_are_reported() {
    let (setup, heard) = listened(setup());
    let store = filled(Store::in_memory(setup).unwrap(), &[(1, 0)]);
    // Each is disturbed so often; three tries and no more.
    for disturbed in [0, 0, 1, 2, 9] {
        let tries = AtomicU32::new(0);
        let _ = store.transact(Request::new("count").retry(Retry::Optimistic(2)), |tx| -> Decision<()> {
            tx.row::<Cells>(&1)?;
            if tries.fetch_add(1, Ordering::Relaxed) < disturbed {
                interfere(&store, 1);
            }
            Ok(add(tx, 1, 1)?)
        });
    }
    let told = heard.lock().unwrap().clone();
    let mut retries = std::collections::BTreeMap::new();
    told.iter().for_each(|event| *retries.entry(event.attempts - 1).or_insert(0) += 1);
    assert_eq!(Vec::from_iter(retries), [(0, 2), (1, 1), (2, 2)], "a histogram");
    let ended = |outcome| told.iter().filter(|event| event.outcome == outcome).count();
    assert_eq!((ended(Outcome::Committed), ended(Outcome::Conflict)), (4, 1), "who gave up");
    // Which read, and whose commit stood in the way.
    let conflicts: Vec<_> = told.iter().flat_map(|event| &event.conflicts).collect();
    assert_eq!(conflicts.len(), 1 + 2 + 3);
    assert!(conflicts.iter().all(|conflict| conflict.label == "other" && conflict.read.contains("cells")));
    let stats = store.stats();
    let counted =
        (stats.transactions.ended_len, stats.transactions.conflicts_len, stats.transactions.retries_len);
    assert_eq!((counted, stats.commit.get()), ((5, 6, 5), 1 + 4 + 6));
}

#[test]
fn row_004_02_write_based_on_changed_read_is_refused() {
    let store = with(&[(1, 10), (2, 0)]);
    let mut tx = store.begin("copy").unwrap();
    let value = tx.row::<Cells>(&1).unwrap().unwrap();
    tx.append(Cell::Set { cell: 2, value }).unwrap();
    interfere(&store, 1);
    let Err(TxError::Conflict(why)) = tx.commit(()) else { panic!("the row it copied has changed") };
    assert_eq!(why.read, "row 1 of `cells`");
}

#[test]
fn row_004_03_each_attempt_has_fresh_snapshot() {
    let store = with(&[(1, 0)]);
    let mut seen = Vec::new();
    store
        .transact("fresh", |tx| -> Decision<()> {
            seen.push((tx.position().get(), tx.row::<Cells>(&1)?));
            if seen.len() == 1 {
                interfere(&store, 1);
            }
            Ok(add(tx, 1, 1)?)
        })
        .unwrap();
    assert_eq!(seen, [(1, Some(0)), (2, Some(100))]);
}

/// Ong's congratulations card: signed or not by each signer; sent once all have signed.
mod card {
    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize)]
    pub enum Card {
        Created { signers: Vec<String> },
        Signed { by: String },
        Unsigned { by: String },
        Sent,
    }

    impl Event for Card {
        const FAMILY: &'static str = "card";
        type Id = ();
        fn id(&self) {}
    }

    pub struct Cards;

    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    pub struct Row {
        pub signed: std::collections::BTreeMap<String, bool>,
        pub sent: bool,
    }

    impl Projection for Cards {
        const NAME: &'static str = "cards";
        type Event = Card;
        type Key = ();
        type Row = Row;
        fn fold(event: &Card, rows: &mut Rows<'_, Self>) -> Folded {
            rows.update((), |row| match event {
                Card::Created { signers } => {
                    row.signed = signers.iter().map(|name| (name.clone(), false)).collect()
                }
                Card::Signed { by } => drop(row.signed.insert(by.clone(), true)),
                Card::Unsigned { by } => drop(row.signed.insert(by.clone(), false)),
                Card::Sent => row.sent = true,
            })
        }
    }

    #[derive(Debug, PartialEq)]
    pub struct AlreadySent;

    pub fn sign(tx: &mut Tx, by: &str) -> Decision<bool, AlreadySent> {
        if tx.row::<Cards>(&())?.is_some_and(|row| row.sent) {
            return refuse(AlreadySent);
        }
        tx.append(Card::Signed { by: by.into() })?;
        let all = tx.row::<Cards>(&())?.is_some_and(|row| row.signed.values().all(|signed| *signed));
        if all {
            tx.append(Card::Sent)?;
        }
        Ok(all)
    }

    pub fn unsign(tx: &mut Tx, by: &str) -> Decision<(), AlreadySent> {
        if tx.row::<Cards>(&())?.is_some_and(|row| row.sent) {
            return refuse(AlreadySent);
        }
        Ok(tx.append(Card::Unsigned { by: by.into() })?)
    }

    /// Does not look at the card: what it should have read is not in its condition.
    pub fn unsign_blindly(tx: &mut Tx, by: &str) -> Decision<(), AlreadySent> {
        Ok(tx.append(Card::Unsigned { by: by.into() })?)
    }

    pub fn store() -> Store {
        let store = Store::in_memory(Setup::new().inline::<Cards>()).unwrap();
        let signers = vec!["dana".into(), "rhys".into()];
        store
            .append(Append::event(Card::Created { signers }).and(Card::Signed { by: "dana".into() }))
            .unwrap();
        store
    }

    pub fn end(store: &Store) -> Row {
        store.view().unwrap().row::<Cards>(&()).unwrap().unwrap()
    }
}

/// The six ways in which two transactions can begin and commit: `b` begins and decides, `c` commits.
const ORDERS: [&str; 6] =
    ["1b 1c 2b 2c", "1b 2b 1c 2c", "1b 2b 2c 1c", "2b 1b 1c 2c", "2b 1b 2c 1c", "2b 2c 1b 1c"];

/// Rhys signs, Dana takes her signature back, in that order of begins and commits. Whether each was refused by the store.
fn race(
    store: &Store,
    order: &str,
    unsign: fn(&mut Tx, &str) -> Decision<(), card::AlreadySent>,
) -> [bool; 2] {
    let mut open: [Option<(Tx<'_>, bool)>; 2] = [None, None];
    let mut conflicts = [false; 2];
    for step in order.split(' ') {
        let (who, begins) = (usize::from(step.starts_with('2')), step.ends_with('b'));
        if begins {
            let mut tx = store.begin(["rhys", "dana"][who]).unwrap();
            let said_yes = match who {
                0 => card::sign(&mut tx, "rhys").is_ok(),
                _ => unsign(&mut tx, "dana").is_ok(),
            };
            open[who] = Some((tx, said_yes));
        } else if let Some((tx, true)) = open[who].take() {
            conflicts[who] = matches!(tx.commit(()), Err(TxError::Conflict(_)));
        }
    }
    conflicts
}

fn sent_without_dana(row: &card::Row) -> bool {
    row.sent && !row.signed["dana"]
}

#[test]
fn row_004_05_card_race_never_sends_unsigned_card() {
    let mut retried = 0;
    for order in ORDERS {
        let store = card::store();
        let conflicts = race(&store, order, card::unsign);
        assert!(!sent_without_dana(&card::end(&store)), "{order}");
        retried += conflicts.iter().filter(|conflict| **conflict).count();
    }
    assert_eq!(retried, 4, "whoever overlaps and commits second is told");
}

/// Cards end up sent with both signatures, or not sent and without Dana's.
#[test]
fn row_004_06_card_race_has_only_two_outcomes() {
    for order in ORDERS {
        let store = card::store();
        race(&store, order, card::unsign);
        let row = card::end(&store);
        let told = matches!(
            store.transact("again", |tx| card::unsign(tx, "dana")),
            Err(TxError::Refused(card::AlreadySent))
        );
        assert!((row.sent && row.signed["dana"] && told) || (!row.sent && !told), "{order}: {row:?}");
    }
}

#[test]
fn row_004_07_conflict_names_changed_read_and_writer() {
    let store = card::store();
    let mut dana = store.begin("dana takes it back").unwrap();
    let line = line!() + 1;
    let _ = dana.row::<card::Cards>(&()).unwrap();
    dana.append(card::Card::Unsigned { by: "dana".into() }).unwrap();
    store.transact("rhys signs", |tx| card::sign(tx, "rhys")).unwrap();
    let Err(TxError::Conflict(why)) = dana.commit(()) else { panic!("the card was sent") };
    assert_eq!((why.label.as_str(), why.type_name.as_str()), ("rhys signs", "card.Sent"));
    assert_eq!(why.read_at.map(|at| at.line()), Some(line));
    let said = why.to_string();
    assert!(
        said.contains("of `cards`") && said.contains("rhys signs") && said.contains("transactions.rs"),
        "{said}"
    );
}

/// Keys that count how often one is made of its bytes again, as naming a row does.
mod counted {
    use super::*;

    static DECODED: AtomicU32 = AtomicU32::new(0);

    pub(super) fn decoded() -> u32 {
        DECODED.load(Ordering::Relaxed)
    }

    #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
    pub(super) struct Number(pub(super) u32);

    impl<'de> Deserialize<'de> for Number {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            DECODED.fetch_add(1, Ordering::Relaxed);
            u32::deserialize(from).map(Self)
        }
    }

    pub(super) struct Numbered;

    impl Projection for Numbered {
        const NAME: &'static str = "numbered";
        type Event = Cell;
        type Key = Number;
        type Row = u32;
        fn fold(event: &Cell, rows: &mut Rows<'_, Self>) -> Folded {
            rows.update(Number(event.id()), |changes| *changes += 1)
        }
    }
}

#[test]
fn read_is_described_only_on_conflict() {
    use counted::{Number, Numbered, decoded};
    let store = Store::in_memory(Setup::new().inline::<Numbered>()).unwrap();
    let before = decoded();
    let decide = |interfered: bool| {
        let mut tx = store.begin("counts").unwrap();
        tx.row::<Numbered>(&Number(7)).unwrap();
        add(&mut tx, 1, 1).unwrap();
        if interfered {
            interfere(&store, 7);
        }
        tx.commit(())
    };
    assert!(decide(false).is_ok());
    assert_eq!(decoded(), before, "what still holds has no words");
    let Err(TxError::Conflict(why)) = decide(true) else { panic!("the row has come") };
    assert_eq!((why.read.as_str(), decoded()), ("row 7 of `numbered`", before + 1));
    let append = Append::event(Cell::Cleared { cell: 1 });
    let refused = store.append(append.fail_if_events_match(QueryItem::stream::<Cell>(&7), None));
    assert!(matches!(refused, Err(AppendError::Conflict(why)) if why.read == "the append's condition"));
}

#[test]
fn row_004_08_isolation_has_one_level_and_explicit_stale_reads() {
    let store = with(&[(1, 10)]);
    // Outside: a view, at its position, for ever.
    let view = store.view().unwrap();
    interfere(&store, 1);
    assert_eq!((view.position().get(), view.row::<Cells>(&1).unwrap()), (1, Some(10)));
    let stale = view.stale::<Cells>(&1).unwrap();
    assert_eq!((stale.position().get(), stale.show()), (1, &Some(10)));
    // Inside: serializable, by default and without a word.
    let mut tx = store.begin("default").unwrap();
    tx.row::<Cells>(&1).unwrap();
    tx.append(Cell::Cleared { cell: 2 }).unwrap();
    interfere(&store, 1);
    assert!(tx.commit(()).is_err());
}

#[test]
fn row_004_09_long_transaction_is_listed_without_dirty_reads() {
    let store = with(&[(1, 10)]);
    let mut tx = store.begin("long").unwrap();
    tx.append(Cell::Set { cell: 1, value: 99 }).unwrap();
    tx.row::<Cells>(&1).unwrap();
    let active = store.active_transactions();
    assert_eq!(active.len(), 1);
    assert_eq!(
        (active[0].label.as_str(), active[0].operations, active[0].state),
        ("long", 2, TxState::Deciding)
    );
    assert_eq!(row(&store, 1), Some(10), "no dirty read");
    drop(tx);
    assert!(store.active_transactions().is_empty());
}

#[test]
fn row_004_10_repeated_reads_of_key_are_equal() {
    let store = with(&[(1, 10)]);
    let tx = store.begin("twice").unwrap();
    let first = (tx.row::<Cells>(&1).unwrap(), tx.stream::<Cell>(&1).unwrap().len());
    interfere(&store, 1);
    assert_eq!((tx.row::<Cells>(&1).unwrap(), tx.stream::<Cell>(&1).unwrap().len()), first);
}

#[test]
fn row_004_11_write_skew_by_rows_ranges_or_events_conflicts() {
    type Read = fn(&Tx) -> usize;
    let reads: [Read; 3] = [
        |tx| [1u32, 2].iter().filter(|cell| tx.row::<Cells>(*cell).unwrap() == Some(1)).count(),
        |tx| tx.rows::<Cells>(1..=2).unwrap().iter().filter(|(_, on)| *on == 1).count(),
        |tx| tx.query::<Cell>(QueryItem::family::<Cell>().only(["Cleared"])).unwrap().len() + 2,
    ];
    for read in reads {
        // Two doctors on call, and each goes off because the other is on.
        let store = with(&[(1, 1), (2, 1)]);
        let (mut a, mut b) = (store.begin("a").unwrap(), store.begin("b").unwrap());
        assert_eq!((read(&a), read(&b)), (2, 2));
        a.append(Cell::Cleared { cell: 1 }).unwrap();
        b.append(Cell::Cleared { cell: 2 }).unwrap();
        a.commit(()).unwrap();
        assert!(matches!(b.commit(()), Err(TxError::Conflict(_))));
    }
}

/// Handlers that read too little are wrong in a serial order too: no isolation level can help.
#[test]
fn row_004_13_blind_write_outcome_is_still_serial() {
    let mut bad = Vec::new();
    for order in ORDERS {
        let store = card::store();
        let conflicts = race(&store, order, card::unsign_blindly);
        assert!(!conflicts[1], "it read nothing that could change");
        if sent_without_dana(&card::end(&store)) {
            bad.push(order);
        }
    }
    // Rhys wholly before Dana, which is a serial order: no isolation can help. And overlapping, with Rhys first.
    assert_eq!(bad, ["1b 1c 2b 2c", "1b 2b 1c 2c", "2b 1b 1c 2c"]);
}

#[test]
fn row_004_14_request_chooses_conflict_retry_or_error() {
    for (retry, told) in [(Retry::default(), false), (Retry::Never, true)] {
        let store = with(&[(1, 0)]);
        let mut tries = 0;
        let done = store.transact(Request::new("dana").retry(retry), |tx| -> Decision<()> {
            tries += 1;
            tx.row::<Cells>(&1)?;
            if tries == 1 {
                interfere(&store, 1);
            }
            Ok(add(tx, 1, 1)?)
        });
        assert_eq!((done.is_err(), tries), (told, if told { 1 } else { 2 }));
    }
}

#[test]
fn row_004_15_no_parameter_weakens_isolation() {
    // Everything a request can be told, and the skewed write is refused all the same.
    for retry in [Retry::Never, Retry::UpTo(0), Retry::Optimistic(0)] {
        let store = with(&[(1, 0)]);
        let request = Request::new("weak")
            .key("", "k", &())
            .part("p", &1)
            .retry(retry)
            .wait_max(Duration::from_secs(9));
        let done = store.transact(request, |tx| -> Decision<()> {
            tx.row::<Cells>(&1)?;
            interfere(&store, 1);
            Ok(add(tx, 2, 1)?)
        });
        assert!(matches!(done, Err(TxError::Conflict(_))), "{retry:?}");
    }
}

#[test]
fn row_004_16_conflicts_retries_and_wasted_work_are_counted() {
    let (setup, heard) = listened(setup());
    let store = filled(Store::in_memory(setup).unwrap(), &[(1, 0)]);
    let mut tries = 0;
    store
        .transact("counted", |tx| -> Decision<()> {
            tries += 1;
            tx.row::<Cells>(&1)?;
            if tries <= 2 {
                interfere(&store, 1);
            }
            Ok(add(tx, 1, 1)?)
        })
        .unwrap();
    let event = heard.lock().unwrap()[0].clone();
    assert_eq!((event.outcome, event.attempts, event.conflicts.len()), (Outcome::Committed, 3, 2));
    assert_eq!(
        (event.operations, event.reads, event.events),
        (6, 1, 1),
        "all work, and that of the last try"
    );
}

#[test]
fn stats_count_ended_transactions_conflicts_retries_and_holds() {
    let (setup, heard) = listened(setup());
    let store = filled(Store::in_memory(setup).unwrap(), &[(1, 0)]);
    let told = |store: &Store| {
        let stats = store.stats().transactions;
        (stats.ended_len, stats.conflicts_len, stats.retries_len, stats.holds_len)
    };
    let disturbed = |retry: Retry, times: u32| {
        let mut tries = 0;
        let request = Request::new("disturbed").key("", format!("{retry:?} {times}"), &()).retry(retry);
        store.transact(request, |tx| -> Decision<()> {
            tries += 1;
            tx.row::<Cells>(&1)?;
            if tries <= times {
                interfere(&store, 1);
            }
            Ok(add(tx, 1, 1)?)
        })
    };
    assert_eq!(told(&store), (0, 0, 0, 0));
    disturbed(Retry::default(), 0).unwrap();
    assert_eq!(told(&store), (1, 0, 0, 0));
    disturbed(Retry::UpTo(1), 1).unwrap();
    assert_eq!(told(&store), (2, 1, 1, 1), "the second try held the writer");
    disturbed(Retry::Optimistic(2), 3).unwrap_err();
    assert_eq!(told(&store), (3, 4, 3, 1), "none is tried after the last conflict");
    disturbed(Retry::UpTo(1), 1).unwrap();
    assert_eq!(told(&store), (4, 4, 3, 1), "an earlier commit answered");
    let running = store.begin("running").unwrap();
    assert_eq!(told(&store).0, 4);
    drop(running);
    assert_eq!(told(&store).0, 5);
    assert_eq!(told(&store.fork().unwrap()), (0, 0, 0, 0), "a fork has its own");
    let holds: Vec<_> = heard.lock().unwrap().iter().map(|event| event.holds).collect();
    assert_eq!(holds, [0, 1, 0, 0, 0]);
}

/// A value read outside is no value inside: this does not compile, and the rechecked one does.
///
/// See the doc tests of [`tallystone::view::Stale`].
#[test]
fn row_004_17_stale_read_is_rechecked_inside_transaction() {
    let store = with(&[(1, 10)]);
    let stale = store.view().unwrap().stale::<Cells>(&1).unwrap();
    interfere(&store, 1);
    let mut tx = store.begin("rechecks").unwrap();
    assert_eq!((stale.show(), tx.recheck(&stale).unwrap()), (&Some(10), Some(110)));
    tx.append(Cell::Cleared { cell: 3 }).unwrap();
    interfere(&store, 1);
    let Err(TxError::Conflict(why)) = tx.commit(()) else { panic!("rechecked, it is a condition") };
    assert_eq!(why.read, "row 1 of `cells`");
}

#[test]
fn row_004_21_split_transactions_waste_less_work() {
    let wasted = |one_for_all: bool| {
        let (setup, heard) = listened(setup());
        let cells: Vec<_> = (0..50).map(|cell| (cell, 0)).collect();
        let store = filled(Store::in_memory(setup).unwrap(), &cells);
        let mut disturbed = 0;
        let mut send = |cells: std::ops::Range<u32>| {
            store.transact(Request::new("send").retry(Retry::UpTo(20)), |tx| -> Decision<()> {
                for cell in cells.clone() {
                    tx.row::<Cells>(&cell)?;
                    // Signers keep signing: one signs whenever card 7 was looked at, three times in all.
                    if cell == 7 && disturbed < 3 {
                        disturbed += 1;
                        interfere(&store, 7);
                    }
                    add(tx, cell, 1)?;
                }
                Ok(())
            })
        };
        match one_for_all {
            true => assert!(send(0..50).is_ok()),
            false => (0..50).for_each(|cell| assert!(send(cell..cell + 1).is_ok())),
        }
        let events = heard.lock().unwrap();
        events.iter().map(|event| event.operations).sum::<u64>() - 100
    };
    assert_eq!((wasted(true), wasted(false)), (3 * 100, 3 * 2), "operations done in vain");
}

#[test]
fn row_004_22_large_read_set_is_reported() {
    let (setup, heard) = listened(setup().budget(Budget::safe().observe().reads(20)));
    let store = Store::in_memory(setup).unwrap();
    store
        .transact("wide", |tx| -> Decision<()> {
            (0..21).try_for_each(|cell| Ok(tx.row::<Cells>(&cell).map(|_| ())?))
        })
        .unwrap();
    let finding = heard.lock().unwrap()[0].findings[0].clone();
    assert_eq!((finding.rule, finding.used, finding.limit), (Rule::Reads, 21, 20));
}

#[test]
fn row_004_23_rows_come_in_key_order_not_write_order() {
    let mut cells: Vec<(u32, i64)> = (0..40).map(|cell| ((cell * 17) % 40, 1)).collect();
    let store = with(&cells);
    cells.sort_unstable();
    let tx = store.begin("ordered").unwrap();
    assert_eq!(tx.rows::<Cells>(..).unwrap(), cells);
    assert_eq!(tx.first_rows::<Cells>(5.., 3).unwrap(), [(5, 1), (6, 1), (7, 1)]);
    assert_eq!(tx.last_rows::<Cells>(..5, 2).unwrap(), [(4, 1), (3, 1)]);
}

#[test]
fn row_004_25_errors_match_in_memory_and_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = filled(Store::create(dir.path().join("store"), setup()).unwrap(), &[(1, 0)]);
    let errors = |store: &Store| {
        let conflict = store.transact(Request::new("c").retry(Retry::Never), |tx| -> Decision<()> {
            tx.row::<Cells>(&1)?;
            interfere(store, 1);
            Ok(add(tx, 1, 1)?)
        });
        let large = store.transact("l".repeat(4000), |tx| -> Decision<()> { Ok(add(tx, 1, 1)?) });
        let unknown =
            store.transact("u", |tx| -> Decision<()> { Ok(tx.row::<card::Cards>(&()).map(|_| ())?) });
        let refused = store.transact("r", |_| -> Decision<(), u8> { refuse(7) });
        let shown = |error: Option<TxError>| error.map(|error| (error.is_retryable(), error.to_string()));
        let refused = refused.err().map(|error| (error.is_retryable(), error.refused().copied()));
        (shown(conflict.err()), shown(large.err()), shown(unknown.err()), refused)
    };
    let told = errors(&disk);
    assert_eq!(told, errors(&with(&[(1, 0)])));
    assert_eq!(told.0.as_ref().map(|(retry, _)| *retry), Some(true));
    assert_eq!(told.3, Some((false, Some(7))));
}

#[test]
fn row_004_27_memory_store_forks_are_independent() {
    let base = with(&(0..200).map(|cell| (cell, i64::from(cell))).collect::<Vec<_>>());
    let forks: Vec<_> = (0..50).map(|_| base.fork().unwrap()).collect();
    for (index, fork) in forks.iter().enumerate() {
        let value = index as i64 + 1000;
        fork.transact("mine", |tx| -> Decision<()> { Ok(tx.append(Cell::Set { cell: 1, value })?) }).unwrap();
    }
    for (index, fork) in forks.iter().enumerate() {
        assert_eq!((row(fork, 1), row(fork, 2)), (Some(index as i64 + 1000), Some(2)));
        assert_eq!(fork.verify().unwrap().first_bad, None);
    }
    assert_eq!((row(&base, 1), base.stats().commit.get()), (Some(1), 200));
    let dir = tempfile::tempdir().unwrap();
    let disk = Store::create(dir.path().join("store"), setup()).unwrap();
    assert!(matches!(disk.fork(), Err(OpenError::Setup(_))));
}

#[test]
fn row_004_29_default_isolation_loses_no_update() {
    let store = with(&[(1, 0)]);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let count = |tx: &mut Tx| -> Decision<()> {
                        let count = tx.row::<Cells>(&1)?.unwrap_or(0);
                        Ok(tx.append(Cell::Set { cell: 1, value: count + 1 })?)
                    };
                    store.transact("count", count).unwrap();
                }
            });
        }
    });
    assert_eq!(row(&store, 1), Some(800), "sixteen threads on one counter lose nothing");
}

#[test]
fn row_004_30_handler_needs_no_lock_flag_or_loop() {
    // `card::sign` is what its author would write for one user, and is right for many.
    let store = card::store();
    std::thread::scope(|scope| {
        scope.spawn(|| store.transact("rhys", |tx| card::sign(tx, "rhys")).map(drop));
        scope.spawn(|| store.transact("dana", |tx| card::unsign(tx, "dana")).map(drop));
    });
    assert!(!sent_without_dana(&card::end(&store)));
}
