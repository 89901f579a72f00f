//! Code of the user inside the store: it may block, panic, call the store and close it, and nobody else waits for it.

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::task::Poll;
use std::time::Duration;
use tallystone::check::{About, Check, Severity};
use tallystone::disk::Platform;
use tallystone::event::Raw;
use tallystone::prelude::*;
use tallystone::testing::SimClock;
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

fn paid_once() -> Check {
    let about = About {
        id: "paid-once",
        severity: Severity::Note,
        owner: "shop",
        means: "Paid twice.",
        remedy: "1 pay one back",
    };
    about.absence(2, |_: &Paid| true).into()
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

fn held_sink() -> (Held, impl Fn(&tallystone::watch::Alert) + Send + Sync + 'static) {
    let ((begin, began), (go, gone)) = (mpsc::channel(), mpsc::channel());
    let ends = Mutex::new((begin, gone));
    let sink = move |_: &tallystone::watch::Alert| {
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
fn a_sink_that_hangs_delays_no_check_and_is_found() {
    within("a sink that hangs", || {
        let clock = SimClock::default();
        let (held, sink) = held_sink();
        let platform = Platform { clock: std::sync::Arc::new(clock.clone()), ..Platform::real() };
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
        while !store.checks().stats()[0].undelivered.as_ref().is_some_and(late) {
            std::thread::yield_now();
        }
        // It is healed when the sink returns, and what was told is on record.
        let mut of_check = log("paid-once", at);
        held.go.send(()).expect("the sink listens");
        next(&mut of_sink, "tallystone.Healed");
        next(&mut of_check, "tallystone.Alerted");
        let found = store.checks().of("tallystone.alerts").expect("rows are read");
        assert!(matches!(found[0].state, State::Healed { .. }), "{found:?}");
        drop(held);
    });
}

#[test]
fn a_close_leaves_a_sink_that_hangs_and_its_alert_is_told_again() {
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
            setup().alerts(move |alert: &tallystone::watch::Alert| {
                told.send(alert.count).expect("the test listens");
            }),
        );
        assert_eq!(heard.recv(), Ok(1), "nobody has taken it before");
        drop((store, held));
    });
}

#[test]
fn a_close_waits_for_a_sink_and_records_what_it_took() {
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
            let count = |_: &tallystone::watch::Alert| {
                CALLS.fetch_add(1, Ordering::SeqCst);
            };
            let store = Store::open(path, setup.alerts(count)).expect("it opens");
            let head = store.stats().position;
            assert!(store.checks().wait_for(head, Duration::from_secs(60)));
            let view = store.view().expect("it is open");
            view.query::<Raw>(QueryItem::types(["tallystone.Alerted"])).count()
        }
    });
}
