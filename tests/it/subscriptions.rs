//! Subscriptions: never a gap, never a repeat, nothing un-synced; and nobody is hurt by a slow one.

use crate::support::{Bank, Dice, deposit, fresh_disk, open, setup, simulated, small};
use std::future::poll_fn;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;
use tallystone::error::{AppendError, ReadError};
use tallystone::event::Raw;
use tallystone::prelude::*;
use tallystone::testing::{Fault, Faults, ImagePolicy};

const NO_TIME: Duration = Duration::ZERO;

/// What is there now, to its end.
fn drain<E: EventSet>(subscription: &mut Subscription<E>) -> Vec<u64> {
    std::iter::from_fn(|| match subscription.try_next() {
        Poll::Ready(Some(event)) => Some(event.expect("events can be read").position.get()),
        _ => None,
    })
    .collect()
}

// ---- order, gaps, repeats ----

#[test]
fn concurrent_subscribers_see_each_event_once_in_order() {
    const EVENTS: u64 = 2_000;
    const BEFORE: u64 = 400;
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::create(dir.path().join("bank"), setup().options(small())).expect("a fresh store");
    (0..BEFORE).for_each(|_| drop(store.append(deposit(1, 1)).expect("good")));
    thread::scope(|scope| {
        for index in 0..16 {
            // By the log, and by the index; some from the start, some from the middle of what is there.
            let (query, after) = match index % 4 {
                0 | 1 => (Query::all(), index * 20),
                2 => (QueryItem::family::<Bank>().into(), index * 20),
                _ => (QueryItem::tag("branch", 1).into(), index * 20),
            };
            let branch_only = index % 4 == 3;
            let mut subscription = store.subscribe::<Bank>(query, Position::new(after));
            scope.spawn(move || {
                let mut last = after;
                while last < EVENTS {
                    let event = subscription.next().expect("the store is open").expect("events can be read");
                    let position = event.position.get();
                    if branch_only {
                        assert!(position > last && event.event.id() % 2 == 1, "subscriber {index}");
                    } else {
                        assert_eq!(position, last + 1, "subscriber {index}");
                    }
                    last = position;
                }
            });
        }
        for writer in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                // The last event is of branch 1, so that all of them have an end.
                for number in 0..(EVENTS - BEFORE) / 4 {
                    store.append(deposit((2 * number + 1 - (writer + number) % 2) as u32, 1)).expect("good");
                }
            });
        }
        scope.spawn(|| {
            // Whoever follows branch 1 alone may wait behind the last event of branch 0.
            let mut all = store.subscribe::<Raw>(Query::all(), Position::START);
            all.nth(EVENTS as usize - 1).expect("open").expect("readable");
            store.append(deposit(1, 1)).expect("good");
        });
    });
    let report = store.verify().expect("it can be read");
    assert_eq!((report.events, report.first_bad), (EVENTS + 1, None));
}

#[test]
fn subscription_read_in_pieces_matches_query() {
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let store = open(&fresh_disk(seed)).expect("a fresh store");
        let queries = || {
            [
                Query::all(),
                QueryItem::family::<Bank>().only(["Deposited"]).into(),
                QueryItem::tag("account", 3).into(),
                Query::from(QueryItem::tag("branch", 0)).or(QueryItem::stream::<Bank>(&1)),
                Query::from([]),
            ]
        };
        let after = Position::new(dice.roll(20));
        (0..after.get()).for_each(|_| drop(store.append(deposit(1, 1)).expect("good")));
        let mut subscriptions = queries().map(|query| (store.subscribe::<Bank>(query, after), Vec::new()));
        for _ in 0..60 {
            for _ in 0..dice.roll(4) {
                let count = 1 + dice.roll(5) as u32;
                let events = (0..count).map(|account| Bank::Deposited { account, cents: 1 });
                store.append(Append::events(events)).expect("good");
            }
            let (subscription, seen) = &mut subscriptions[dice.roll(5) as usize];
            for _ in 0..dice.roll(30) {
                if let Poll::Ready(Some(event)) = subscription.try_next() {
                    seen.push(event.expect("events can be read").position);
                }
            }
        }
        let view = store.view().expect("the store is open");
        for ((mut subscription, mut seen), query) in subscriptions.into_iter().zip(queries()) {
            seen.extend(drain(&mut subscription).into_iter().map(Position::new));
            let must: Vec<_> = view.query::<Bank>(query.after(after)).map(|e| e.unwrap().position).collect();
            assert_eq!(seen, must, "seed {seed}");
        }
    }
}

#[test]
fn subscription_beyond_head_is_refused() {
    let store = open(&fresh_disk(1)).expect("a fresh store");
    let ask = |after| [Query::all(), Query::all().after(after)];
    for after in [1, 2, u64::MAX] {
        let after = Position::new(after);
        for (query, from) in ask(after).into_iter().zip([after, Position::START]) {
            let mut subscription = store.subscribe::<Bank>(query, from);
            let Some(Err(ReadError::BeyondHead { position, head })) = subscription.next() else {
                panic!("a backup would be followed from where another log ended")
            };
            assert_eq!((position, head), (after, Position::START));
            assert!(matches!(subscription.try_next(), Poll::Ready(None)));
        }
    }
    let last = store.append(deposit(1, 1)).expect("good").receipt.last;
    assert!(store.subscribe::<Bank>(Query::all(), last).try_next().is_pending());
}

#[test]
fn subscription_to_bounded_query_is_refused() {
    let store = open(&fresh_disk(1)).expect("a fresh store");
    let ends = [Query::all().limit(5), Query::all().backwards(), Query::all().up_to(Position::new(5))];
    for query in ends {
        let mut subscription = store.subscribe::<Bank>(query, Position::START);
        assert!(matches!(
            subscription.next(),
            Some(Err(ReadError::Invalid { what: "subscription", why })) if why.contains("limit()")
        ));
        assert!(subscription.next().is_none(), "one error, then the end");
    }
    let misspelt = QueryItem::family::<Bank>().only(["Deposted"]);
    let mut subscription = store.subscribe::<Bank>(misspelt, Position::START);
    assert!(matches!(subscription.next(), Some(Err(ReadError::NoSuchType { .. }))));
}

// ---- waiting ----

#[test]
fn wait_ends_with_event_or_timeout() {
    let store = Store::in_memory(setup()).expect("a store");
    let mut subscription = store.subscribe::<Bank>(Query::all(), Position::START);
    assert!(subscription.next_timeout(NO_TIME).is_pending());
    assert!(subscription.next_timeout(Duration::from_millis(2)).is_pending());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| subscription.next_timeout(Duration::MAX));
        store.append(deposit(1, 1)).expect("good");
        assert!(matches!(waiter.join().expect("no panic"), Poll::Ready(Some(Ok(_)))));
    });
}

/// 1. A subscriber has seen everything and goes to sleep. 2. A commit is published and rung for. 3. The subscriber must not
///    have looked before the one and listened after the other.
#[test]
fn risk_05_event_right_before_sleep_is_delivered() {
    const EVENTS: u64 = 3_000;
    let store = Store::in_memory(setup()).expect("a store");
    let echo = store.clone();
    let mut there = store.subscribe::<Bank>(Query::all(), Position::START);
    let mut back = store.subscribe::<Bank>(Query::all(), Position::START);
    // Each waits for the other's event before it writes its own: one wake-up lost, and both sleep for ever.
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..EVENTS {
                there.next().expect("open").expect("readable");
                echo.append(deposit(2, 1)).expect("good");
                there.next().expect("open").expect("readable");
            }
        });
        for _ in 0..EVENTS {
            store.append(deposit(1, 1)).expect("good");
            back.next().expect("open").expect("readable");
            back.next().expect("open").expect("readable");
        }
    });
}

#[test]
fn closing_store_ends_waiting_subscriptions() {
    let store = Store::in_memory(setup()).expect("a store");
    let mut subscriptions: Vec<_> =
        (0..4).map(|_| store.subscribe::<Bank>(Query::all(), Position::START)).collect();
    thread::scope(|scope| {
        let waiting: Vec<_> = subscriptions.iter_mut().map(|one| scope.spawn(|| one.next())).collect();
        store.close();
        waiting.into_iter().for_each(|one| assert!(one.join().expect("no panic").is_none()));
    });
    assert!(subscriptions.iter_mut().all(|one| matches!(one.try_next(), Poll::Ready(None))));
}

#[test]
fn subscription_does_not_keep_store_open() {
    let disk = fresh_disk(1);
    let store = open(&disk).expect("a fresh store");
    store.append(deposit(1, 1)).expect("good");
    let mut subscription = store.subscribe::<Bank>(Query::all(), Position::START);
    assert_eq!(drain(&mut subscription), [1]);
    drop(store);
    assert!(subscription.next().is_none());
    let again = open(&disk).expect("the last handle closed it");
    assert_eq!(drain(&mut again.subscribe::<Bank>(Query::all(), Position::START)), [1]);
}

// ---- a disk that fails ----

/// Events are delivered only once they are synced, and recovery leaves no gap and no repeat.
#[test]
fn risk_06_synced_events_are_delivered_once_across_recovery() {
    let mut there = 0;
    for (seed, fault) in (0..)
        .zip([Fault::WriteError, Fault::SyncError, Fault::SyncErrorKeepsNew, Fault::ShortWrite].repeat(8))
    {
        let disk = fresh_disk(seed);
        let store = open(&disk).expect("a fresh store");
        let mut subscriptions = [Query::all(), QueryItem::tag("account", 1).into()]
            .map(|query| store.subscribe::<Bank>(query, Position::START));
        for _ in 0..40 {
            store.append(deposit(1, 1)).expect("good");
        }
        // One of them has read a little, the other nothing yet.
        let mut seen = [vec![subscriptions[0].next().unwrap().unwrap().position.get()], Vec::new()];
        disk.plan(Faults::none().at(disk.op_count() + 1, fault));
        let key = Append::event(Bank::Deposited { account: 1, cents: 2 }).key("", "again");
        assert!(matches!(store.append(key.clone()), Err(AppendError::Unknown(_))), "{fault:?}");
        for (subscription, seen) in subscriptions.iter_mut().zip(&mut seen) {
            seen.extend(drain(subscription));
            assert!(subscription.next_timeout(NO_TIME).is_pending(), "a poisoned store is waited for");
            assert!(*seen.last().unwrap() <= 40, "{fault:?}: un-synced");
        }
        store.recover().expect("the disk is well again");
        there += store.view().expect("open").position().get() - 40;
        store.append(key).expect("the disk is well again");
        store.append(deposit(1, 3)).expect("the disk is well again");
        for (subscription, seen) in subscriptions.iter_mut().zip(&mut seen) {
            seen.extend(drain(subscription));
            assert_eq!(*seen, (1..=42).collect::<Vec<_>>(), "{fault:?}");
        }
    }
    assert!(there > 0, "some of the unknown ones were there");
}

/// 1. The store is poisoned. 2. A subscriber cannot read its page. 3. It must ask for that page again, not for the next one.
#[test]
fn unreadable_page_in_poisoned_store_leaves_no_gap() {
    for query in [Query::all(), QueryItem::tag("account", 1).into()] {
        let disk = fresh_disk(4);
        let store = open(&disk).expect("a fresh store");
        (0..30).for_each(|_| drop(store.append(deposit(1, 1)).expect("good")));
        let mut subscription = store.subscribe::<Bank>(query, Position::START);
        disk.plan(Faults::none().at(disk.op_count() + 1, Fault::WriteError));
        assert!(matches!(store.append(deposit(1, 1)), Err(AppendError::Unknown(_))));
        let read = disk.read_count() + 1;
        disk.plan(Faults::none().at(read, Fault::ReadError));
        assert!(subscription.try_next().is_pending());
        assert!(disk.read_count() >= read, "the fault was met");
        store.recover().expect("the disk is well again");
        assert_eq!(drain(&mut subscription), (1..=30).collect::<Vec<_>>());
    }
}

#[test]
fn a_recovery_wakes_those_who_wait() {
    let disk = fresh_disk(3);
    let store = open(&disk).expect("a fresh store");
    let mut subscription = store.subscribe::<Bank>(Query::all(), Position::START);
    // Its write went through and its sync failed: recovery finds it.
    disk.plan(Faults::none().at(disk.op_count() + 2, Fault::SyncErrorKeepsNew));
    assert!(matches!(store.append(deposit(1, 1)), Err(AppendError::Unknown(_))));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| subscription.next());
        store.recover().expect("the disk is well again");
        if store.view().expect("open").position() == Position::START {
            store.append(deposit(1, 1)).expect("good");
        }
        let event = waiter.join().expect("no panic").expect("open").expect("readable");
        assert_eq!(event.position.get(), 1);
    });
}

#[test]
fn corruption_is_reported_once_and_ends_subscription() {
    let disk = fresh_disk(5);
    let store = open(&disk).expect("a fresh store");
    let needle = 0x00C0_FFEE_u64.to_le_bytes();
    for cents in [1, 0x00C0_FFEE, 2] {
        store.append(deposit(1, cents)).expect("good");
    }
    let log = Path::new("/store/log/00000000000000000001.log");
    let bytes = disk.read_file(log).expect("the log");
    let at = bytes.windows(8).position(|bytes| bytes == needle).expect("the event");
    disk.corrupt(log, at as u64, &[0]);
    let mut subscription = store.subscribe::<Bank>(QueryItem::tag("account", 1), Position::START);
    let error = subscription.next().expect("an answer").expect_err("damage");
    assert!(matches!(&error, ReadError::Storage(error) if error.is_corruption()), "{error}");
    assert!(subscription.next().is_none(), "one error, then the end");
}

// ---- slow ones ----

#[test]
fn risk_32_slow_subscriber_adds_no_overhead() {
    let run = |subscribed: bool| {
        let disk = fresh_disk(9);
        let store = open(&disk).expect("a fresh store");
        for _ in 0..20 {
            store.append(deposit(1, 1)).expect("good");
        }
        let mut slow = Vec::new();
        if subscribed {
            for query in [Query::all(), QueryItem::tag("branch", 1).into()] {
                let mut subscription = store.subscribe::<Bank>(query, Position::START);
                assert_eq!(subscription.next().unwrap().unwrap().position.get(), 1);
                slow.push(subscription);
            }
        }
        for number in 0..3_000 {
            store.append(deposit(number % 700, 1)).expect("good");
        }
        assert_eq!(store.stats().views_len, 0, "it holds no view");
        let stats = store.stats();
        let file = disk.read_file(Path::new("/store/state.redb")).expect("derived state").len();
        for subscription in &mut slow {
            assert!(!drain(subscription).is_empty());
        }
        (file, stats.overlay_bytes, stats.frozen_bytes, disk.op_count())
    };
    assert_eq!(run(true), run(false), "pages of redb, memory and calls are the same as without it");
}

// ---- tasks ----

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn async_task_sees_each_event_once_in_order() {
    const EVENTS: u64 = 1_000;
    let store = Store::in_memory(setup()).expect("a store");
    thread::scope(|scope| {
        for _ in 0..4 {
            let mut subscription = store.subscribe::<Bank>(Query::all(), Position::START);
            scope.spawn(move || {
                for number in 1..=EVENTS {
                    let next = block_on(poll_fn(|context| subscription.poll_next(context)));
                    assert_eq!(next.expect("open").expect("readable").position.get(), number);
                }
            });
        }
        (0..EVENTS).for_each(|_| drop(store.append(deposit(1, 1)).expect("good")));
    });
    let mut last = store.subscribe::<Bank>(Query::all(), Position::new(EVENTS));
    let ended = thread::scope(|scope| {
        let waiting = scope.spawn(|| block_on(poll_fn(|context| last.poll_next(context))));
        store.close();
        waiting.join().expect("no panic")
    });
    assert!(ended.is_none(), "a closed store ends it");
}

#[test]
fn it_is_a_stream() {
    use futures_core::{FusedStream, Stream};
    let store = Store::in_memory(setup()).expect("a store");
    store.append(deposit(1, 7)).expect("good");
    let mut subscription = store.subscribe::<Bank>(Query::all(), Position::START);
    let next = block_on(poll_fn(|context| Stream::poll_next(Pin::new(&mut subscription), context)));
    assert_eq!(next.expect("open").expect("readable").event, Bank::Deposited { account: 1, cents: 7 });
    assert!(!subscription.is_terminated());
    store.close();
    assert!(block_on(poll_fn(|context| Stream::poll_next(Pin::new(&mut subscription), context))).is_none());
    assert!(subscription.is_terminated());
}

#[test]
fn dropped_subscription_is_not_woken() {
    struct Count(AtomicU64);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (count, store) = (Arc::new(Count(AtomicU64::new(0))), Store::in_memory(setup()).expect("a store"));
    let waker = Waker::from(count.clone());
    let mut subscription = store.subscribe::<Bank>(Query::all(), Position::START);
    assert!(subscription.poll_next(&mut Context::from_waker(&waker)).is_pending());
    drop(subscription);
    store.append(deposit(1, 1)).expect("good");
    assert_eq!(count.0.load(Ordering::SeqCst), 0);
    assert_eq!(Arc::strong_count(&count), 2, "nobody keeps its waker");
}

// ---- with power cuts ----

#[test]
fn resumed_subscriber_sees_events_once_after_power_cuts() {
    let disk = fresh_disk(11);
    let (mut dice, mut seen) = (Dice::new(11), Vec::new());
    for _ in 0..20 {
        let store = Store::open_or_create(Path::new("/store"), simulated(&disk)).expect("it opens");
        let after = Position::new(seen.last().copied().unwrap_or(0));
        let mut subscription = store.subscribe::<Bank>(Query::all(), after);
        for _ in 0..dice.roll(30) {
            store.append(deposit(dice.roll(5) as u32, 1)).expect("good");
            if dice.roll(3) == 0 {
                seen.extend(drain(&mut subscription));
            }
        }
        disk.kill();
        drop(store);
        disk.power_cut(ImagePolicy::ALL[dice.roll(6) as usize]);
    }
    let store = open(&disk).expect("it opens");
    seen.extend(drain(&mut store.subscribe::<Bank>(Query::all(), Position::new(*seen.last().unwrap()))));
    let head = store.view().expect("open").position().get();
    assert_eq!(seen, (1..=head).collect::<Vec<_>>());
}
