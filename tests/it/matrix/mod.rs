//! The re-entrancy matrix: every callback of the user, every call of the API from inside it, while the store runs, closes and
//! recovers. A cell that hangs fails with its name; a call that a commit would wait for is refused.
//! `ALL_CELLS=1` runs the whole of it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, SystemTime};
use tallystone::check::{About, Check, Invariant, Outside, PullError, Pulled, Severity};
use tallystone::disk::Platform;
use tallystone::error::OpenError;
use tallystone::event::{Codec, Raw, Tags, Upcasts};
use tallystone::prelude::*;
use tallystone::testing::{Fault, Faults, SimClock, SimDisk, SimEntropy};
use tallystone::{Options, Setup, Store};

/// A cell takes this long at most. It waits for nothing but threads.
const LIMIT: Duration = Duration::from_secs(60);
const STORE: &str = "/store";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Callback {
    Fold,
    Guard,
    Invariant,
    EventDeserialize,
    EventDrop,
    RowSerialize,
    KeySerialize,
    Upcast,
    BehindFold,
    Check,
    Sink,
    Source,
    Compare,
    OnTx,
    Decide,
    AfterCommit,
    CommitWaker,
    SubscriptionWaker,
    WakerDrop,
    Progress,
}

use Callback::*;

const CALLBACKS: [Callback; 20] = [
    Fold,
    Guard,
    Invariant,
    EventDeserialize,
    EventDrop,
    RowSerialize,
    KeySerialize,
    Upcast,
    BehindFold,
    Check,
    Sink,
    Source,
    Compare,
    OnTx,
    Decide,
    AfterCommit,
    CommitWaker,
    SubscriptionWaker,
    WakerDrop,
    Progress,
];

impl Callback {
    /// It runs in a commit, or where a commit is folded again.
    fn is_folded(self) -> bool {
        CALLBACKS.iter().position(|one| *one == self).is_some_and(|place| place <= 8)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum While {
    Running,
    Closing,
    Recovering,
}

type Call = (&'static str, fn(&Store) -> String);

fn said<T: std::fmt::Debug, E: std::fmt::Debug>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "taken".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

fn transact(store: &Store) -> String {
    said(store.transact("inside", |tx| -> Decision {
        tx.append(Other::Noted)?;
        Ok(())
    }))
}

fn caught(call: impl FnOnce() -> String) -> String {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        format!("panicked: {text}")
    })
}

/// All calls that may wait or read. `close` and the drop of a handle are made apart: they use the handle up.
const CALLS: [Call; 23] = [
    ("append", |store| said(store.append(Append::event(Other::Noted)))),
    ("submit", |store| {
        let answer = store.submit(Append::event(Other::Noted)).wait_timeout(Duration::ZERO);
        answer.map_or_else(|| "not yet".to_owned(), said)
    }),
    ("submit and wait", |store| said(store.submit(Append::event(Other::Noted)).wait())),
    ("transact", transact),
    ("begin", |store| said(store.begin("inside"))),
    ("fork", |store| said(store.fork())),
    ("recover", |store| said(store.recover())),
    ("accept_clock", |store| caught(|| format!("{:?}", store.accept_clock()))),
    ("verify", |store| said(store.verify())),
    ("audit", |store| said(store.audit::<Inline>())),
    ("rebuild", |store| said(store.rebuild::<Behind>())),
    ("skip", |store| said(store.skip::<Behind>(Position::new(1), "a test"))),
    ("wait_for", |store| said(store.wait_for::<Behind>(store.stats().position, Duration::from_millis(5)))),
    ("checks.wait_for", |store| {
        store.checks().wait_for(store.stats().position, Duration::from_millis(5)).to_string()
    }),
    ("checks.open", |store| said(store.checks().open())),
    ("checks.mute", |store| {
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33);
        said(store.checks().mute("paid-once", "a test", "it asks", until))
    }),
    ("checks.pull", |store| said(store.checks().pull("agrees", Duration::from_millis(5)))),
    ("checks.stats", |store| format!("{}", store.checks().stats().len())),
    ("checks.routes", |store| format!("{}", store.checks().routes().len())),
    ("subscribe", |store| {
        let mut all = store.subscribe::<Raw>(Query::all(), Position::START);
        format!("{:?}", all.next_timeout(Duration::ZERO))
    }),
    ("view", |store| said(store.view().and_then(|view| view.row::<Inline>(&HookKey(0))))),
    ("stats", |store| format!("{:?}", store.stats().position)),
    ("active_transactions", |store| format!("{:?}", store.active_transactions().len())),
];

/// How a handle ends inside a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Not,
    Close,
    /// The callback drops the last handle.
    LastDrop,
}

/// One cell: fires once, in the first call of its callback.
struct Cell {
    callback: Callback,
    call: Option<Call>,
    ends: Ends,
    state: While,
    disk: SimDisk,
    inner: Mutex<Progressing>,
    moved: Condvar,
}

#[derive(Default)]
struct Progressing {
    store: Option<Store>,
    is_armed: bool,
    has_fired: bool,
    /// The test holds no handle any more.
    is_alone: bool,
    said: Option<String>,
    helper: Option<std::thread::JoinHandle<()>>,
}

static CELLS: LazyLock<Mutex<HashMap<u64, Arc<Cell>>>> = LazyLock::new(Mutex::default);

fn fire(callback: Callback, cell: u64) {
    let cell = CELLS.lock().expect("nobody panics with it").get(&cell).cloned();
    if let Some(cell) = cell {
        cell.fire(callback);
    }
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, Progressing> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn until(&self, reached: impl Fn(&Progressing) -> bool) -> MutexGuard<'_, Progressing> {
        let mut inner = self.lock();
        while !reached(&inner) {
            inner = self.moved.wait(inner).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        inner
    }

    fn fire(&self, callback: Callback) {
        if callback != self.callback {
            return;
        }
        let mut inner = self.lock();
        if !inner.is_armed || inner.has_fired {
            return;
        }
        inner.has_fired = true;
        let store = inner.store.clone().expect("an armed cell has a store");
        drop(inner);
        self.disturb(&store);
        let said = match (self.call, self.ends) {
            (Some((_, call)), _) => call(&store),
            (None, Ends::Close) => {
                store.close();
                "closed".to_owned()
            }
            (None, _) => {
                drop(store);
                let last = self.until(|inner| inner.is_alone).store.take();
                drop(last);
                "dropped".to_owned()
            }
        };
        self.lock().said = Some(said);
        self.moved.notify_all();
    }

    /// Closes or recovers on another thread, which has begun when this returns.
    fn disturb(&self, store: &Store) {
        let (begin, begun) = mpsc::channel();
        let (store, disk) = (store.clone(), self.disk.clone());
        let helper = match self.state {
            While::Running => return,
            While::Closing => std::thread::spawn(move || {
                begin.send(()).expect("the callback listens");
                store.close();
            }),
            While::Recovering => std::thread::spawn(move || {
                disk.plan(Faults::none().at(disk.op_count(), Fault::SyncError));
                begin.send(()).expect("the callback listens");
                let _ = store.append(Append::event(Other::Noted));
                let _ = store.recover();
            }),
        };
        begun.recv().expect("the helper runs");
        (0..50).for_each(|_| std::thread::yield_now());
        self.lock().helper = Some(helper);
    }
}

// ---- types whose code calls back ----

/// A number of a cell. Its code is a callback.
#[derive(Debug, Clone)]
struct Hook(u64);

impl Serialize for Hook {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Hook {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let cell = u64::deserialize(from)?;
        fire(EventDeserialize, cell);
        Ok(Self(cell))
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        fire(EventDrop, self.0);
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
struct HookRow(u64);

impl Serialize for HookRow {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        fire(RowSerialize, self.0);
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for HookRow {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        u64::deserialize(from).map(Self)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct HookKey(u64);

impl Serialize for HookKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        fire(KeySerialize, self.0);
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for HookKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        u64::deserialize(from).map(Self)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Fired {
    Did { cell: Hook },
}

#[derive(Serialize, Deserialize)]
struct DidV1 {
    cell: u64,
}

impl Event for Fired {
    const FAMILY: &str = "fired";
    type Id = ();
    fn id(&self) {}
    fn upcasts() -> Upcasts<Self> {
        Upcasts::none().last("Did", 1, |old: DidV1| {
            fire(Upcast, old.cell);
            Fired::Did { cell: Hook(old.cell) }
        })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Other {
    Noted,
}

impl Event for Other {
    const FAMILY: &str = "other";
    type Id = ();
    fn id(&self) {}
}

struct Inline;

impl Projection for Inline {
    const NAME: &str = "inline";
    type Event = Fired;
    type Key = HookKey;
    type Row = HookRow;
    fn fold(Fired::Did { cell }: &Fired, rows: &mut Rows<Self>) -> Folded {
        fire(Fold, cell.0);
        rows.put(HookKey(cell.0), HookRow(cell.0))
    }
}

struct Behind;

impl Projection for Behind {
    const NAME: &str = "behind";
    type Event = Fired;
    type Key = u64;
    type Row = u64;
    fn fold(Fired::Did { cell }: &Fired, rows: &mut Rows<Self>) -> Folded {
        fire(BehindFold, cell.0);
        rows.update(cell.0, |row| *row += 1)
    }
}

struct Shelf(Arc<Cell>);

impl Outside for Shelf {
    type Key = HookKey;
    type Row = u64;
    fn pull(&self) -> Result<Pulled<HookKey, u64>, PullError> {
        self.0.fire(Source);
        Ok(Pulled::new(vec![(HookKey(0), 0)]))
    }
}

struct Woken(Arc<Cell>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fire(CommitWaker);
        self.0.fire(SubscriptionWaker);
    }
}

impl Drop for Woken {
    fn drop(&mut self) {
        self.0.fire(WakerDrop);
    }
}

// ---- a store with all of them ----

fn about(id: &'static str) -> About {
    About { id, severity: Severity::Note, owner: "tests", means: "It is wrong.", remedy: "1 look" }
}

fn setup(cell: &Arc<Cell>) -> Setup {
    let mut options = Options::default();
    (options.segment_bytes_min, options.segment_bytes_max) = (64 << 10, 1 << 20);
    (options.state_cache_bytes, options.page_bytes) = (1 << 16, 4096);
    (options.alert_every_ms, options.queue_wait_ms_max) = (0, 200);
    let (clock, entropy) = (Arc::new(SimClock::default()), Arc::new(SimEntropy::new(1)));
    let platform = Platform { disk: Arc::new(cell.disk.clone()), clock, entropy };
    let at = |callback: Callback| {
        let cell = cell.clone();
        move || cell.fire(callback)
    };
    let guard: Check = about("guards")
        .absence(9, {
            let fire = at(Guard);
            move |_: &Fired| {
                fire();
                false
            }
        })
        .guard()
        .into();
    let invariant: Invariant = about("invariant").invariant::<(Inline,)>({
        let fire = at(Invariant);
        move |_, _| {
            fire();
            false
        }
    });
    let check: Check = about("paid-once")
        .absence(1, {
            let fire = at(Check);
            move |_: &Fired| {
                fire();
                true
            }
        })
        .into();
    let agrees = about("agrees").outside::<Inline, _>(Shelf(cell.clone()), {
        let fire = at(Compare);
        move |_, _| {
            fire();
            true
        }
    });
    let (sink, on_tx, progress) = (at(Sink), at(OnTx), at(Progress));
    Setup::new()
        .platform(platform)
        .options(options)
        .events::<Other>()
        .inline::<Inline>()
        .behind::<Behind>()
        .check(guard)
        .check(check)
        .check(agrees.for_longer_than(Duration::from_secs(60)))
        .invariant(invariant)
        .alerts(move |_: &tallystone::watch::Notification| sink())
        .on_tx(move |_| on_tx())
        .progress(move |_| progress())
}

/// Makes the callback happen, and lets go of the handle.
fn trigger(store: Store, callback: Callback, cell: &Arc<Cell>, number: u64) {
    let raw =
        |schema, data: Vec<u8>| Raw::new("fired.Did", schema, Codec::Json, "fired/()", Tags::none(), data);
    let json = format!("{{\"cell\":{number}}}").into_bytes();
    let old = Append::raw(raw(1, json.clone()));
    let append = if callback == Upcast { old } else { Append::raw(raw(2, json)) };
    let waker = Waker::from(Arc::new(Woken(cell.clone())));
    let mut context = Context::from_waker(&waker);
    cell.arm(store.clone());
    match callback {
        OnTx | Decide | AfterCommit => {
            let (decide, after) = (cell.clone(), cell.clone());
            let _ = store.transact("outside", move |tx| -> Decision {
                decide.fire(Decide);
                let after = after.clone();
                tx.after_commit(move || after.fire(AfterCommit));
                Ok(())
            });
        }
        CommitWaker | WakerDrop => loop {
            let mut commit = store.submit(append.clone());
            let polled = Pin::new(&mut commit).poll(&mut context);
            if polled.is_pending() || !matches!(polled, std::task::Poll::Ready(Ok(_))) {
                break;
            }
        },
        SubscriptionWaker => {
            let head = store.stats().position;
            let mut all = store.subscribe::<Raw>(Query::all(), head);
            // What the store itself has recorded meanwhile is passed over.
            while all.poll_next(&mut context).is_ready() && !cell.lock().has_fired {}
            let _ = store.append(append);
        }
        Progress => {
            // Told at the end of a walk that has reached the head, which others move too.
            while !cell.lock().has_fired {
                let _ = store.append(Append::event(Other::Noted));
                let _ = store.verify();
            }
        }
        Source | Compare => drop(store.checks().pull("agrees", Duration::from_millis(5))),
        _ => drop(store.submit(append)),
    }
    drop(store);
    cell.leave();
    drop(waker);
}

impl Cell {
    fn arm(&self, store: Store) {
        let mut inner = self.lock();
        (inner.store, inner.is_armed) = (Some(store), true);
    }

    fn leave(&self) {
        self.lock().is_alone = true;
        self.moved.notify_all();
    }
}

/// Runs one cell. Returns what the call said.
fn run(callback: Callback, call: Option<Call>, ends: Ends, state: While) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (inner, moved, disk) = (Mutex::default(), Condvar::new(), SimDisk::new(number));
    let cell = Arc::new(Cell { callback, call, ends, state, disk, inner, moved });
    CELLS.lock().expect("nobody panics with it").insert(number, cell.clone());
    let store = Store::create(STORE, setup(&cell)).expect("it is made");
    trigger(store, callback, &cell, number);
    let mut inner = cell.until(|inner| inner.said.is_some());
    let (said, store, helper) =
        (inner.said.take().expect("it said so"), inner.store.take(), inner.helper.take());
    drop(inner);
    if let Some(helper) = helper {
        helper.join().expect("the helper does not panic");
    }
    cell.disk.plan(Faults::none());
    drop(store);
    // Whoever closes it has done so when another may open it.
    loop {
        match Store::open(STORE, setup(&cell)) {
            Err(OpenError::AlreadyOpen { .. }) => std::thread::yield_now(),
            Ok(_) => break,
            Err(error) => panic!("it does not open again: {error:?}"),
        }
    }
    CELLS.lock().expect("nobody panics with it").remove(&number);
    said
}

/// Whether a call that waits or reads is refused in a commit.
fn is_refused(call: &str, said: &str) -> bool {
    match call {
        "checks.wait_for" => said == "false" || said == "true",
        // Taken in a fold or not, these wait for nobody and say nothing of rows.
        "stats" | "active_transactions" | "checks.routes" | "checks.stats" => true,
        "checks.pull" => said == "taken",
        "skip" => said.contains("NotStalled"),
        "accept_clock" => said.contains("accept_clock() inside"),
        _ => said.contains("Nested"),
    }
}

/// All cells if `ALL_CELLS` is set. Otherwise a third: each call inside each callback, in one of the states by turns.
fn cells() -> Vec<(Callback, Option<Call>, Ends, While)> {
    let mut all = Vec::new();
    let is_whole = std::env::var_os("ALL_CELLS").is_some();
    for (row, callback) in CALLBACKS.into_iter().enumerate() {
        for (turn, state) in [While::Running, While::Closing, While::Recovering].into_iter().enumerate() {
            let close = (callback, None, Ends::Close, state);
            let calls = CALLS.map(|call| (callback, Some(call), Ends::Not, state)).into_iter().chain([close]);
            let is_due = |column: usize| is_whole || (row + column + turn).is_multiple_of(3);
            all.extend(calls.enumerate().filter(|(column, _)| is_due(*column)).map(|(_, cell)| cell));
            if state == While::Running && !matches!(callback, OnTx | Decide | AfterCommit | Progress) {
                all.push((callback, None, Ends::LastDrop, state));
            }
        }
    }
    all
}

#[test]
fn every_call_inside_every_callback_returns() {
    let cells = cells();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((callback, call, ends, state)) =
                    cells.get(next.fetch_add(1, Ordering::Relaxed)).copied()
                {
                    let name = call.map_or_else(|| format!("{ends:?}"), |(name, _)| name.to_owned());
                    let cell = format!("{name} inside {callback:?} while {state:?}");
                    let (done, ended) = mpsc::channel();
                    std::thread::spawn(move || drop(done.send(run(callback, call, ends, state))));
                    let fault = match ended.recv_timeout(LIMIT) {
                        Ok(said) if callback.is_folded() && call.is_some() && !is_refused(&name, &said) => {
                            format!("{cell}: is not refused: {said}")
                        }
                        Ok(_) => continue,
                        Err(RecvTimeoutError::Timeout) => format!("{cell}: hangs"),
                        Err(RecvTimeoutError::Disconnected) => format!("{cell}: panicked"),
                    };
                    wrong.lock().expect("nobody panics with it").push(fault);
                    // What hangs once hangs in other cells too.
                    if wrong.lock().expect("nobody panics with it").len() > 20 {
                        return;
                    }
                }
            });
        }
    });
    println!("{} cells", cells.len());
    let wrong = wrong.into_inner().expect("nobody panics with it");
    assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
}
