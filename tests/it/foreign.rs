//! Code of the user inside the store: it may block, panic, call the store and close it, and nobody else waits for it.

use serde::{Deserialize, Serialize};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tallystone::check::{About, Check, Severity};
use tallystone::disk::Platform;
use tallystone::error::SkipError;
use tallystone::event::Raw;
use tallystone::prelude::*;
use tallystone::request::Retry;
use tallystone::testing::{SimClock, SimDisk};
use tallystone::watch::State;
use tallystone::{Options, Setup, Store};

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

fn paid(order: u32) -> Append {
    Append::event(Paid { order })
}

fn about(id: &'static str) -> About {
    About { id, severity: Severity::Note, owner: "shop", means: "Paid twice.", remedy: "1 pay one back" }
}

fn paid_once() -> Check {
    about("paid-once").absence(2, |_: &Paid| true).into()
}

/// Runs a test on a thread of its own: one that hangs fails, and does not stop the others.
fn within<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || drop(done.send(run())));
    match ended.recv_timeout(Duration::from_secs(60)) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("{what} hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it sent nothing, so it panicked"))
        }
    }
}

// ---- alert sinks ----

/// A sink that says that it was called, and returns when it is told to.
struct Held {
    began: Receiver<()>,
    go: Sender<()>,
}

fn held_sink() -> (Held, impl Fn(&tallystone::watch::Notification) + Send + Sync + 'static) {
    let ((begin, began), (go, gone)) = (mpsc::channel(), mpsc::channel());
    let ends = Mutex::new((begin, gone));
    let sink = move |_: &tallystone::watch::Notification| {
        let (begin, gone) = &*ends.lock().expect("no call panics");
        let _ = begin.send(());
        let _ = gone.recv();
    };
    (Held { began, go }, sink)
}

fn options(deadline_ms: u64) -> Options {
    let mut options = Options::default();
    (options.alert_deadline_ms, options.alert_every_ms) = (deadline_ms, 0);
    options
}

/// The next event of a type in a stream.
fn next(log: &mut Subscription<Raw>, type_name: &str) -> Position {
    loop {
        match log.next_timeout(Duration::from_secs(60)) {
            Poll::Ready(Some(Ok(event))) if event.event.type_name() == type_name => return event.position,
            Poll::Ready(Some(Ok(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn hanging_sink_is_reported_without_delaying_checks() {
    within("a sink that hangs", || {
        let clock = SimClock::default();
        let (held, sink) = held_sink();
        let platform = Platform { clock: Arc::new(clock.clone()), ..Platform::real() };
        let setup = Setup::new()
            .events::<Paid>()
            .check(paid_once())
            .options(options(40))
            .platform(platform)
            .alerts(sink);
        let store = Store::in_memory(setup).expect("it opens");
        for _ in 0..2 {
            store.append(paid(1)).expect("it is taken");
        }
        held.began.recv().expect("the sink is called");
        // Checks go on, and record what they find.
        for order in 2..5 {
            store.append(paid(order)).expect("it is taken");
            let last = store.append(paid(order)).expect("it is taken").receipt.last;
            assert!(store.checks().wait_for(last, Duration::from_secs(60)), "{:?}", store.checks().stats());
        }
        assert_eq!(store.checks().of("paid-once").expect("rows are read").len(), 4);
        // The watchdog goes by the clock of the test.
        let log = |check: &str, after| {
            store.subscribe::<Raw>(QueryItem::stream_named(format!("tallystone/check:{check}")), after)
        };
        let mut of_sink = log("tallystone.alerts", Position::START);
        clock.advance(Duration::from_secs(1));
        let at = next(&mut of_sink, "tallystone.Violated");
        let found = store.checks().of("tallystone.alerts").expect("rows are read");
        assert_eq!((found.len(), &found[0].state), (1, &State::Open));
        let explained = store.checks().explain(&found[0]).expect("it is explained");
        assert_eq!((explained.key.as_str(), explained.severity), ("alerts", Severity::Page));
        let late = |why: &String| why.contains("not returned");
        while !store.checks().routes()[0].undelivered.as_ref().is_some_and(late) {
            std::thread::yield_now();
        }
        // It is healed when the sink returns, and what was told is on record.
        let of_route = QueryItem::stream_named("tallystone/route:alerts");
        let mut of_route = store.subscribe::<Raw>(of_route, at);
        held.go.send(()).expect("the sink listens");
        next(&mut of_sink, "tallystone.Healed");
        next(&mut of_route, "tallystone.Delivered");
        let found = store.checks().of("tallystone.alerts").expect("rows are read");
        assert!(matches!(found[0].state, State::Healed { .. }), "{found:?}");
        drop(held);
    });
}

#[test]
fn close_leaves_hanging_sink_and_reopen_resends_alert() {
    within("close() beside a sink that hangs", || {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let (held, sink) = held_sink();
        let setup = || Setup::new().events::<Paid>().check(paid_once()).options(options(40));
        let store = Store::create(&path, setup().alerts(sink)).expect("it is made");
        for _ in 0..2 {
            store.append(paid(1)).expect("it is taken");
        }
        held.began.recv().expect("the sink is called");
        store.close();
        let (told, heard) = mpsc::channel();
        let store = Store::open(
            &path,
            setup().alerts(move |alert: &tallystone::watch::Notification| {
                told.send(alert.count).expect("the test listens");
            }),
        );
        assert_eq!(heard.recv(), Ok(1), "nobody has taken it before");
        drop((store, held));
    });
}

#[test]
fn close_records_delivery_of_slow_sink() {
    within("close() beside a slow sink", || {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let (held, sink) = held_sink();
        let setup = || Setup::new().events::<Paid>().check(paid_once()).options(options(60_000));
        let store = Store::create(&path, setup().alerts(sink)).expect("it is made");
        for _ in 0..2 {
            store.append(paid(1)).expect("it is taken");
        }
        held.began.recv().expect("the sink is called");
        let closing = std::thread::spawn(move || store.close());
        held.go.send(()).expect("the sink listens");
        closing.join().expect("it closes");
        let alerted = || alerted_through(&path, setup());
        assert_eq!(alerted(), 1);
        assert_eq!(CALLS.load(Ordering::SeqCst), 0, "it is told once");
        fn alerted_through(path: &Path, setup: Setup) -> usize {
            let count = |_: &tallystone::watch::Notification| {
                CALLS.fetch_add(1, Ordering::SeqCst);
            };
            let store = Store::open(path, setup.alerts(count)).expect("it opens");
            let head = store.stats().position;
            assert!(store.checks().wait_for(head, Duration::from_secs(60)));
            let view = store.view().expect("it is open");
            view.query::<Raw>(QueryItem::types(["tallystone.Delivered"])).count()
        }
    });
}

// ---- folds ----

/// Says what a call of the store answers inside a fold.
struct Calls;

static CALLED: Mutex<Option<(Store, Vec<String>)>> = Mutex::new(None);

impl Projection for Calls {
    const NAME: &str = "calls";
    type Event = Paid;
    type Key = ();
    type Row = u64;

    fn fold(_: &Paid, rows: &mut Rows<Self>) -> Folded {
        if let Some((store, said)) = &mut *CALLED.lock().expect("no fold panics") {
            let append = store.append(paid(9)).map(drop).map_err(|error| error.to_string());
            let transact = store.transact("inside", |tx| -> Decision { Ok(tx.append(Paid { order: 9 })?) });
            said.extend(append.err());
            said.extend(transact.err().map(|error| error.to_string()));
            said.extend(store.view().err().map(|error| error.to_string()));
        }
        rows.update((), |count| *count += 1)
    }
}

#[test]
fn store_call_inside_fold_is_refused() {
    within("a call inside a fold", || {
        let store = Store::in_memory(Setup::new().inline::<Calls>()).expect("it opens");
        *CALLED.lock().expect("no fold panics") = Some((store.clone(), Vec::new()));
        let last = store.append(paid(1)).expect("what it swallows changes nothing").receipt.last;
        let called = CALLED.lock().expect("no fold panics").take();
        let (_, said) = called.expect("it was put there");
        let fold = "the fold of projection `calls`";
        let refused = [
            format!("an append inside `{fold}`"),
            format!("a transaction inside `{fold}`"),
            format!("a read inside {fold}"),
        ];
        assert_eq!(said, refused);
        assert_eq!(store.stats().position, last);
        store.append(paid(2)).expect("the store goes on");
    });
}

// ---- wakers ----

/// Blocks in its fold until it is told to go on.
struct Gated;

static GATE: Mutex<Option<Receiver<()>>> = Mutex::new(None);

impl Projection for Gated {
    const NAME: &str = "gated";
    type Event = Paid;
    type Key = ();
    type Row = u64;

    fn fold(paid: &Paid, rows: &mut Rows<Self>) -> Folded {
        if paid.order == 0
            && let Some(gate) = GATE.lock().expect("no fold panics").take()
        {
            let _ = gate.recv();
        }
        rows.update((), |count| *count += 1)
    }
}

struct Wakes<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for Wakes<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

#[test]
fn waker_may_panic_block_or_append_safely() {
    within("a waker", || {
        let store = Store::in_memory(Setup::new().inline::<Gated>()).expect("it opens");
        let (go, gate) = mpsc::channel();
        *GATE.lock().expect("no fold panics") = Some(gate);
        let slow = store.submit(paid(0));
        let (said, heard) = mpsc::channel();
        let (_held, never) = mpsc::channel::<()>();
        let (never, inside) = (Mutex::new(never), store.clone());
        let wakers = [
            Waker::from(Arc::new(Wakes(|| panic!("a waker of somebody else")))),
            Waker::from(Arc::new(Wakes(move || {
                let _ = never.lock().expect("it is called once").recv();
            }))),
            Waker::from(Arc::new(Wakes(move || {
                said.send(inside.append(paid(9)).is_ok()).expect("the test listens");
            }))),
        ];
        let mut waiting: Vec<_> = (1..=3).map(|order| store.submit(paid(order))).collect();
        for (commit, waker) in waiting.iter_mut().zip(&wakers) {
            assert!(Pin::new(commit).poll(&mut Context::from_waker(waker)).is_pending());
        }
        let neighbour = store.submit(paid(4));
        go.send(()).expect("the fold listens");
        slow.wait().expect("it is taken");
        neighbour.wait().expect("it is taken");
        assert_eq!(heard.recv(), Ok(true), "the task ran on the thread that woke it");
        for commit in waiting {
            commit.wait().expect("it is taken");
        }
        assert!(store.stats().poisoned.is_none());
    });
}

#[test]
fn panicking_subscriber_waker_poisons_nothing() {
    let store = Store::in_memory(Setup::new().events::<Paid>()).expect("it opens");
    let mut all = store.subscribe::<Paid>(Query::all(), Position::START);
    let waker = Waker::from(Arc::new(Wakes(|| panic!("a waker of somebody else"))));
    assert!(all.poll_next(&mut Context::from_waker(&waker)).is_pending());
    store.append(paid(1)).expect("it is taken");
    store.append(paid(2)).expect("it is taken");
}

// ---- the end of a store ----

#[test]
fn closed_store_reopens_while_handles_remain() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let store = Store::create(&path, Setup::new().events::<Paid>()).expect("it is made");
    store.append(paid(1)).expect("it is taken");
    let (left, view) = (store.clone(), store.view().expect("it is open"));
    let mut tx = store.begin("open at close").expect("it is open");
    assert!(matches!(Store::open(&path, Setup::new().events::<Paid>()), Err(OpenError::AlreadyOpen { .. })));
    left.clone().close();
    let again = Store::open(&path, Setup::new().events::<Paid>()).expect("nobody has it open");
    again.append(paid(2)).expect("it is taken");
    assert!(matches!(left.append(paid(3)), Err(AppendError::Closed(_))));
    assert!(
        matches!(left.verify(), Err(ReadError::Closed)),
        "its scratch file would be in a directory of others"
    );
    assert!(matches!(view.stream_version::<Paid>(&1), Err(ReadError::Closed)));
    let fault = tx.append(Paid { order: 3 }).and_then(|()| tx.stream::<Paid>(&3).map(drop));
    assert!(fault.as_ref().is_err_and(|fault| matches!(fault.cause(), TxError::Closed)), "{fault:?}");
    assert_eq!(view.query::<Paid>(Query::all()).count(), 1, "events of a view stay readable");
}

#[test]
fn close_ends_wait_for_checks() {
    within("a wait for checks", || {
        let store = Store::in_memory(Setup::new().events::<Paid>().check(paid_once())).expect("it opens");
        let waits = store.clone();
        let waiting = std::thread::spawn(move || waits.checks().wait_for(Position::new(1000), Duration::MAX));
        store.close();
        assert!(!waiting.join().expect("it does not panic"));
    });
}

#[test]
fn commit_answer_can_be_read_again() {
    within("an answer", || {
        let store = Store::in_memory(Setup::new().events::<Paid>()).expect("it opens");
        let mut commit = store.submit(paid(1));
        let first = commit.wait_timeout(Duration::MAX).expect("it waits").expect("it is taken");
        let polled = Pin::new(&mut commit).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(again)) if again.receipt == first.receipt));
        assert_eq!(commit.wait().expect("it is taken").receipt, first.receipt);
    });
}

#[test]
fn after_commit_callback_does_not_block_writer() {
    within("a callback after a decision", || {
        let mut options = Options::default();
        options.hold_ms_max = 60_000;
        let store = Store::in_memory(Setup::new().events::<Paid>().options(options)).expect("it opens");
        let (tries, said) = (AtomicU64::new(0), Arc::new(Mutex::new(None)));
        let request = Request::new("reads only").retry(Retry::UpTo(1));
        let decided = store.transact(request, |tx| -> Decision {
            let read = tx.stream::<Paid>(&1)?.len();
            if tries.fetch_add(1, Ordering::SeqCst) == 0 {
                let (other, order) = (store.clone(), read as u32 + 1);
                let conflict = std::thread::spawn(move || other.append(paid(order)).map(drop));
                conflict.join().expect("it does not panic").expect("it is taken");
                tx.append(Paid { order: 2 })?;
            }
            let (store, said) = (store.clone(), said.clone());
            tx.after_commit(move || {
                let answer = store.submit(paid(3)).wait_timeout(Duration::from_secs(20));
                *said.lock().expect("no callback panics") = Some(answer.is_some_and(|answer| answer.is_ok()));
            });
            Ok(())
        });
        decided.expect("it is decided again");
        assert_eq!((tries.into_inner(), *said.lock().expect("no callback panics")), (2, Some(true)));
    });
}

// ---- projections behind the writer ----

static IS_BROKEN: AtomicBool = AtomicBool::new(false);

/// Fails on order 13, and on every order while it is broken.
struct Fussy<const VERSION: u32>;

impl<const N: u32> Projection for Fussy<N> {
    const NAME: &str = "fussy";
    const VERSION: u32 = N;
    type Event = Paid;
    type Key = u32;
    type Row = u64;

    fn fold(paid: &Paid, rows: &mut Rows<Self>) -> Folded {
        if (paid.order == 13 && N == 1) || (N == 3 && IS_BROKEN.load(Ordering::SeqCst)) {
            return Err(FoldError::refuse("it is broken"));
        }
        rows.update(paid.order, |count| *count += 1)
    }
}

#[test]
fn skip_survives_restart_rebuild_verify_and_audit() {
    within("a skip", || {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let store = Store::create(&path, Setup::new().behind::<Fussy<1>>()).expect("it is made");
        let at = |order| store.append(paid(order)).expect("it is taken").receipt.last;
        let (first, bad, after) = (at(1), at(13), at(2));
        let wait = |store: &Store, position| store.wait_for::<Fussy<1>>(position, Duration::from_secs(60));
        assert!(matches!(wait(&store, after), Err(ReadError::Stalled { position, .. }) if position == bad));
        let refused = store.skip::<Fussy<1>>(first, "not that one").expect_err("it has not stalled there");
        assert!(
            matches!(refused, SkipError::NotStalled { at: Some(at), asked, .. } if (at, asked) == (bad, first))
        );
        assert_eq!(
            refused.to_string(),
            format!("projection `fussy` has not stalled at position {first}, but at {bad}")
        );
        let refused = store.skip::<Fussy<1>>(bad, " ");
        assert!(matches!(refused, Err(SkipError::Invalid { .. })), "{refused:?}");
        assert!(matches!(store.skip::<Calls>(bad, "none"), Err(SkipError::Unregistered(_))));
        store.skip::<Fussy<1>>(bad, "an order that never was").expect("it is put on record");
        let is_right = |store: &Store| {
            let head = store.stats().position;
            let view = wait(store, head).expect("it goes on");
            let rows: Vec<_> = view.rows::<Fussy<1>>(..).map(|row| row.expect("it decodes")).collect();
            assert_eq!(rows, [(1, 1), (2, 1)]);
            let skipped = "an order that never was".to_owned();
            assert_eq!(store.stats().behind[0].skipped, [(bad, skipped.clone())]);
            let report = store.verify().expect("it looks");
            assert_eq!((report.first_bad, report.skipped), (None, vec![("fussy".to_owned(), bad, skipped)]));
            assert!(store.audit::<Fussy<1>>().expect("it looks").is_clean());
        };
        is_right(&store);
        store.rebuild::<Fussy<1>>().expect("it is rebuilt");
        is_right(&store);
        store.close();
        let store = Store::open(&path, Setup::new().behind::<Fussy<1>>()).expect("it opens");
        is_right(&store);
        store.close();
        // From nothing: what is on record is all it needs.
        std::fs::remove_dir_all(path.join("behind")).expect("it is there");
        std::fs::remove_file(path.join("state.redb")).expect("it is there");
        let store = Store::open(&path, Setup::new().behind::<Fussy<1>>()).expect("it opens");
        is_right(&store);
        store.close();
        // Other code may know better.
        let store = Store::open(&path, Setup::new().behind::<Fussy<2>>()).expect("it opens");
        let head = store.stats().position;
        let view = store.wait_for::<Fussy<2>>(head, Duration::from_secs(60)).expect("it folds all");
        assert_eq!(view.row::<Fussy<2>>(&13).expect("it is read"), Some(1));
        assert!(store.stats().behind[0].skipped.is_empty());
    });
}

#[test]
fn recover_clears_cured_projection_stall() {
    within("a recovery after a stall", || {
        let dir = tempfile::tempdir().expect("a directory");
        let (behind, inline) = (dir.path().join("behind"), dir.path().join("inline"));
        let store = Store::create(&behind, Setup::new().behind::<Fussy<3>>()).expect("it is made");
        IS_BROKEN.store(true, Ordering::SeqCst);
        let at = store.append(paid(1)).expect("it is taken").receipt.last;
        let wait = || store.wait_for::<Fussy<3>>(at, Duration::from_secs(60));
        assert!(matches!(wait(), Err(ReadError::Stalled { .. })));
        // One that is folded in the commit stalls when it is folded anew.
        let created = Store::create(&inline, Setup::new().events::<Paid>()).expect("it is made");
        created.append(paid(1)).expect("it is taken");
        created.close();
        let other = Store::open(&inline, Setup::new().inline::<Fussy<3>>()).expect("it opens");
        let row = |store: &Store| store.view().expect("it is open").row::<Fussy<3>>(&1);
        assert!(matches!(row(&other), Err(ReadError::Stalled { .. })));
        IS_BROKEN.store(false, Ordering::SeqCst);
        store.recover().expect("there is nothing to do but to go on");
        assert!(store.stats().behind[0].stalled.is_none());
        wait().expect("it goes on");
        other.recover().expect("it is folded again");
        assert_eq!(row(&other).expect("it is read"), Some(1));
    });
}

// ---- checks ----

#[test]
fn slow_new_check_delays_no_current_check() {
    let (clock, disk) = (SimClock::default(), SimDisk::new(1));
    let mut options = Options::default();
    options.page_bytes = 64 << 10;
    let platform =
        || Platform { clock: Arc::new(clock.clone()), disk: Arc::new(disk.clone()), ..Platform::real() };
    let setup = || Setup::new().events::<Paid>().options(options.clone()).platform(platform()).lockstep();
    let store = Store::create("/store", setup().check(paid_once())).expect("it is made");
    for order in 0..5_000 {
        store.append(paid(order)).expect("it is taken");
    }
    assert!(store.checks().wait_for(store.stats().position, Duration::MAX));
    store.close();
    let slow: Check = {
        let clock = clock.clone();
        let looks = move |_: &Paid| {
            clock.advance(Duration::from_millis(100));
            true
        };
        about("slow").absence(2, looks).into()
    };
    let store = Store::open("/store", setup().check(paid_once()).check(slow)).expect("it opens");
    let mut waited = Vec::new();
    for order in 10_000..10_010 {
        let (last, began) = (store.append(paid(order)).expect("it is taken").receipt.last, ran(&clock));
        while store.checks().stats()[0].position < last {
            store.step();
        }
        waited.push(ran(&clock) - began);
    }
    let lag = store.checks().stats()[1].lag_len;
    assert!(lag > 1_000, "the new check is still far behind: {lag}");
    // One turn of the slow check at most, and turns are short after the first few.
    assert!(waited[5..].iter().all(|waited| *waited < Duration::from_secs(10)), "{waited:?}");
}

fn ran(clock: &SimClock) -> Duration {
    tallystone::disk::Clock::monotonic(clock)
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
struct Fragile(u32);

static IS_FRAGILE: AtomicBool = AtomicBool::new(false);

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(from)?;
        assert!(!(number == 7 && IS_FRAGILE.load(Ordering::SeqCst)), "a key that panics");
        Ok(Self(number))
    }
}

#[test]
fn explain_reports_panicking_key_as_error() {
    within("a key that panics", || {
        let by = |paid: &Paid| {
            assert!(!IS_FRAGILE.load(Ordering::SeqCst), "a key that panics");
            Fragile(paid.order)
        };
        let check = about("fragile").absence(2, |_: &Paid| true).by(by);
        let store = Store::in_memory(Setup::new().events::<Paid>().check(check)).expect("it opens");
        let last = [7, 7].map(|order| store.append(paid(order)).expect("it is taken").receipt.last)[1];
        assert!(store.checks().wait_for(last, Duration::from_secs(60)));
        let found = store.checks().of("fragile").expect("rows are read");
        IS_FRAGILE.store(true, Ordering::SeqCst);
        let explained = store.checks().explain(&found[0]);
        IS_FRAGILE.store(false, Ordering::SeqCst);
        assert!(
            matches!(&explained, Err(ReadError::Decode { cause, .. }) if cause.to_string().contains("panicked"))
        );
    });
}
