//! Recorded histories of the real store, checked for anomalies.
//!
//! - Sixteen threads run transactions of reads and appends on lists. A list is the events of a tag, and a row folded from them;
//!   a read takes either. Each history goes to the search for anomalies and to a serial run in the order of positions.
//! - A history that a killed process wrote goes on in the next one. What got no answer is looked up in the log.
//! - The checkers must be able to say no: what decides by untracked reads is caught within seconds.
//! - `MINUTES=10 cargo test --release --test it serializability::` goes on for so long; `KILLS=200` kills more often; `SEED=7` draws
//!   another workload.

use crate::elle;
use crate::elle::{Anomaly, Answer, Call, Class, History, Idempotency, Once, OnceOp, Op, Order, Status, Txn};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tallystone::Options;
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::request::Retry;
use tallystone::testing::{Random, SimDisk};

const THREADS: u64 = 16;

// ---- lists ----

#[derive(Debug, Serialize, Deserialize)]
struct Added {
    list: u64,
    value: u64,
}

impl Event for Added {
    const FAMILY: &str = "list";
    type Id = u64;

    /// Not by list: a list is a tag here.
    fn id(&self) -> u64 {
        self.value % 5
    }

    fn tags(&self) -> Tags {
        Tags::of("list", self.list)
    }
}

struct Lists;

impl Projection for Lists {
    const NAME: &str = "lists";
    type Event = Added;
    type Key = u64;
    type Row = Vec<u64>;

    fn fold(event: &Added, rows: &mut Rows<'_, Self>) -> Folded {
        rows.update(event.list, |list| list.push(event.value))
    }
}

/// Small overlays, so that flushes never end.
fn setup() -> Setup {
    let mut options = Options::default();
    (options.segment_bytes_min, options.segment_bytes_max) = (64 << 10, 1 << 20);
    options.overlay_bytes_max = 24 << 10;
    Setup::new().inline::<Lists>().options(options)
}

/// Threads and clock are real, the disk is not.
fn simulated() -> Store {
    let platform = Platform { disk: Arc::new(SimDisk::new(seed())), ..Platform::real() };
    Store::create("/store", setup().platform(platform)).expect("a new store")
}

/// How a read is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Tag,
    Row,
    /// No condition of the commit.
    Peek,
}

fn read(tx: &Tx<'_>, list: u64, how: How) -> Result<Vec<u64>, Fault> {
    let values = |found: Vec<Sequenced<Added>>| found.into_iter().map(|event| event.event.value).collect();
    match how {
        How::Tag => tx.query::<Added>(QueryItem::tag("list", list)).map(values),
        How::Row => Ok(tx.row::<Lists>(&list)?.unwrap_or_default()),
        How::Peek => tx.peek_query::<Added>(QueryItem::tag("list", list)).map(values),
    }
}

// ---- what is run ----

/// A step of a transaction, before it is run.
#[derive(Debug, Clone, Copy)]
enum Plan {
    Read(u64, How),
    Append(u64, u64),
    /// Lets others go on, so often.
    Think(u64),
}

/// Draws transactions: few lists at a time, which are left behind before they are long.
struct Draw {
    random: Random,
    values: Arc<AtomicU64>,
}

const LISTS: u64 = 6;
const APPENDS_PER_LIST: u64 = 40;

impl Draw {
    fn list(&mut self) -> u64 {
        let drawn = self.values.load(Ordering::Relaxed) / (LISTS * APPENDS_PER_LIST);
        drawn * LISTS + self.random.below(LISTS)
    }

    fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    fn how(&mut self) -> How {
        if self.random.coin() { How::Tag } else { How::Row }
    }

    fn plan(&mut self) -> Vec<Plan> {
        let steps = 1 + self.random.below(4);
        (0..steps)
            .flat_map(|_| {
                let step = match self.random.coin() {
                    true => Plan::Read(self.list(), self.how()),
                    false => Plan::Append(self.list(), self.value()),
                };
                [step, Plan::Think(self.random.below(4))]
            })
            .collect()
    }

    fn retry(&mut self) -> Retry {
        match self.random.below(5) {
            0 => Retry::Never,
            1 => Retry::Optimistic(3),
            // The second try holds the writer.
            2 => Retry::UpTo(1),
            _ => Retry::default(),
        }
    }
}

/// What is known of a transaction once it ended.
struct Ended {
    status: Status,
    ops: Vec<Op>,
    /// Its place in the serial order: the last position it wrote, or that of its snapshot.
    place: Option<(u64, bool)>,
}

/// Runs one.
fn run(store: &Store, plan: &[Plan], retry: Retry) -> Ended {
    let mut ops = Vec::new();
    let committed = store.transact(Request::new("lists").retry(retry), |tx| -> Decision {
        ops.clear();
        for step in plan {
            match *step {
                Plan::Read(list, how) => ops.push(elle::read(list, &read(tx, list, how)?)),
                Plan::Append(list, value) => {
                    tx.append(Added { list, value })?;
                    ops.push(elle::append(list, value));
                }
                Plan::Think(times) => (0..times).for_each(|_| std::thread::yield_now()),
            }
        }
        Ok(())
    });
    match committed {
        Ok(done) => {
            let only_read = done.receipt.last < done.receipt.first;
            Ended { status: Status::Ok, ops, place: Some((done.receipt.last.get(), only_read)) }
        }
        Err(TxError::Conflict(_) | TxError::TooOld) => Ended { status: Status::Fail, ops, place: None },
        Err(error) => panic!("{error} ({error:?})"),
    }
}

/// Transactions as they end, and the instants around them.
#[derive(Default)]
struct Recorder {
    clock: AtomicU64,
    all: Mutex<Vec<(Txn, Option<(u64, bool)>)>>,
}

impl Recorder {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn record(&self, process: u64, run: impl FnOnce() -> Ended) {
        let invoked = self.tick();
        let Ended { status, ops, place } = run();
        let completed = Some(self.tick());
        self.all
            .lock()
            .expect("nobody panics in here")
            .push((Txn { process, status, invoked, completed, ops }, place));
    }

    /// The history, and who committed in the order of the log.
    fn history(self) -> (History, Vec<usize>) {
        let all = self.all.into_inner().expect("nobody panics in here");
        in_order(all)
    }
}

fn in_order(all: Vec<(Txn, Option<(u64, bool)>)>) -> (History, Vec<usize>) {
    let mut order: Vec<usize> = (0..all.len()).filter(|index| all[*index].1.is_some()).collect();
    order.sort_by_key(|index| (all[*index].1, all[*index].0.invoked));
    (History { txns: all.into_iter().map(|(txn, _)| txn).collect() }, order)
}

/// Reads every list once, so that the end of each is known.
fn read_all(store: &Store, recorder: &Recorder, lists: u64) {
    for list in 0..lists {
        for how in [How::Tag, How::Row] {
            recorder.record(u64::MAX, || run(store, &[Plan::Read(list, how)], Retry::Never));
        }
    }
}

fn record(
    store: &Store,
    time: Duration,
    seed: u64,
    plan: impl Fn(&mut Draw) -> Vec<Plan> + Sync,
) -> Recorder {
    let (recorder, values, began) = (Recorder::default(), Arc::new(AtomicU64::new(0)), Instant::now());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (recorder, plan, values) = (&recorder, &plan, values.clone());
            scope.spawn(move || {
                let mut draw = Draw { random: Random::new(seed * 1000 + thread), values };
                while began.elapsed() < time {
                    let (plan, retry) = (plan(&mut draw), draw.retry());
                    recorder.record(thread, || run(store, &plan, retry));
                }
            });
        }
    });
    let lists = (values.load(Ordering::Relaxed) / (LISTS * APPENDS_PER_LIST) + 1) * LISTS;
    read_all(store, &recorder, lists);
    recorder
}

#[track_caller]
fn assert_serializable(recorder: Recorder) -> usize {
    let (history, order) = recorder.history();
    let report = elle::check(&history);
    assert!(report.strictly_serializable(), "{report}");
    elle::serial_replay(&history, &order).unwrap_or_else(|why| panic!("{why}"));
    let ends = |status| history.txns.iter().filter(|txn| txn.status == status).count();
    println!("{} committed, {} gave up", ends(Status::Ok), ends(Status::Fail));
    ends(Status::Ok)
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seed() -> u64 {
    env("SEED").unwrap_or(1)
}

/// Rounds of a second each: two, or as many as fit.
fn rounds() -> impl Iterator<Item = u64> {
    let until = env("MINUTES").map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    (0..).take_while(move |round| until.map_or(*round < 2, |until| Instant::now() < until))
}

const ROUND: Duration = Duration::from_secs(1);

#[test]
fn threads_in_memory_are_strictly_serializable() {
    for round in rounds() {
        let store = Store::in_memory(setup()).expect("a store in memory opens");
        assert!(assert_serializable(record(&store, ROUND, seed() + round, Draw::plan)) > 100);
    }
}

#[test]
fn threads_during_flushes_are_strictly_serializable() {
    for round in rounds() {
        let store = simulated();
        assert!(assert_serializable(record(&store, ROUND, seed() + round, Draw::plan)) > 100);
        assert!(store.stats().flushed_commit.get() > 0, "flushes ran");
        assert_eq!(store.verify().expect("verify looks").first_bad, None);
    }
}

// ---- without validation ----

/// Looks for an anomaly in histories of decisions that read without tracking.
#[track_caller]
fn caught(class: Class, plan: impl Fn(&mut Draw) -> Vec<Plan> + Sync) {
    let began = Instant::now();
    for round in 0.. {
        let store = Store::in_memory(setup()).expect("a store in memory opens");
        let (history, order) = record(&store, ROUND / 10, seed() + round, &plan).history();
        let report = elle::check(&history);
        let seen = [Order::None, Order::Process, Order::RealTime]
            .iter()
            .any(|order| report.has(Anomaly::Cycle(class, *order)));
        if seen {
            elle::serial_replay(&history, &order).expect_err("the serial run sees it too");
            return;
        }
        assert!(began.elapsed() < 20 * ROUND, "not caught: {report}");
    }
}

#[test]
fn lost_update_by_untracked_reads_is_detected() {
    caught(Class::GSingle, |draw| {
        let list = draw.list();
        vec![Plan::Read(list, How::Peek), Plan::Think(1), Plan::Append(list, draw.value())]
    });
}

#[test]
fn write_skew_by_untracked_reads_is_detected() {
    caught(Class::G2Item, |draw| {
        let (read, written) = (draw.list(), draw.list());
        vec![Plan::Read(read, How::Peek), Plan::Think(1), Plan::Append(written, draw.value())]
    });
}

// ---- killed ----

const CHILD: &str = "TALLY_LISTS_CHILD";
const BEGAN_AT: &str = "TALLY_LISTS_CLOCK";

fn say(line: &str) {
    // One write: what is on the pipe is whole. The harness may have begun a line. A parent that is gone needs no answer.
    let _ = std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes());
}

/// `started ID TICK LIST:VALUE …`, and, if it was answered,
/// `ended ID TICK PLACE (wrote|read) (aLIST:VALUE | rLIST:VALUE,VALUE…)…` or `failed ID TICK`.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let clock = AtomicU64::new(env(BEGAN_AT).expect("the parent says when it is"));
    let store = Store::open(dir, setup()).expect("a killed store opens");
    // Values are instants too: never drawn twice.
    let values = Arc::new(AtomicU64::new(clock.load(Ordering::Relaxed)));
    let ids = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, clock, ids, values) = (&store, &clock, &ids, values.clone());
            scope.spawn(move || {
                let tick = || clock.fetch_add(1, Ordering::SeqCst);
                let mut draw = Draw { random: Random::new(tick() * 100 + thread), values };
                loop {
                    let (id, plan, retry) = (ids.fetch_add(1, Ordering::Relaxed), draw.plan(), draw.retry());
                    let appends = plan.iter().filter_map(|step| match step {
                        Plan::Append(list, value) => Some(format!(" {list}:{value}")),
                        Plan::Read(..) | Plan::Think(_) => None,
                    });
                    say(&format!("started {thread} {id} {}{}", tick(), appends.collect::<String>()));
                    let ended = run(store, &plan, retry);
                    let tick = tick();
                    match ended.place {
                        None => say(&format!("failed {thread} {id} {tick}")),
                        Some((place, read)) => {
                            let ops: String = ended.ops.iter().map(op_text).collect();
                            say(&format!("ended {thread} {id} {tick} {place} {}{ops}", u8::from(read)));
                        }
                    }
                }
            });
        }
    });
}

fn op_text(op: &Op) -> String {
    match op {
        Op::Append { key, value } => format!(" a{key}:{value}"),
        Op::Read { key, list } => {
            let list: Vec<_> = list.iter().flatten().map(u64::to_string).collect();
            format!(" r{key}:{}", list.join(","))
        }
    }
}

fn op_of(text: &str) -> Op {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (key, value) = text[1..].split_once(':').expect("a key and a value");
    match &text[..1] {
        "a" => elle::append(key, number(value)),
        _ => elle::read(key, &value.split(',').filter(|it| !it.is_empty()).map(number).collect::<Vec<_>>()),
    }
}

/// Runs a child, kills it after so long, and reads what it said.
fn killed(dir: &Path, clock: u64, after: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().expect("a test has a binary"))
        .args(["--exact", "serializability::child", "--nocapture", "--test-threads=1"])
        .envs([(CHILD, dir.to_str().expect("a plain path")), (BEGAN_AT, &clock.to_string())])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    // The time counts from its first transaction on.
    let first = lines.by_ref().find(|line| line.starts_with("started")).expect("it starts one");
    let reader = std::thread::spawn(move || lines.collect::<Vec<_>>());
    std::thread::sleep(after);
    child.kill().expect("it is ours");
    assert!(!child.wait().expect("it ends").success(), "it was killed");
    [vec![first], reader.join().expect("a pipe is read to its end")].concat()
}

/// Every value in the log, with its position.
fn positions(store: &Store) -> HashMap<u64, u64> {
    let view = store.view().expect("the store is open");
    let all = view.query::<Added>(Query::all()).map(|event| event.expect("events can be read"));
    all.map(|event| (event.event.value, event.position.get())).collect()
}

/// What one incarnation said, completed by what is in the log after it.
fn heard(lines: &[String], incarnation: u64, log: &HashMap<u64, u64>) -> Vec<(Txn, Option<(u64, bool)>)> {
    let mut started: BTreeMap<(u64, u64), Txn> = BTreeMap::new();
    let mut all = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        match words[0] {
            "started" => {
                let appends = words[4..].iter().map(|append| op_of(&format!("a{append}"))).collect();
                let process = incarnation * THREADS + number(1);
                started.insert((number(1), number(2)), Txn::info(process, number(3), appends));
            }
            "ended" | "failed" => {
                let txn = started.remove(&(number(1), number(2))).expect("it was started");
                let (status, ops, place) = match words[0] {
                    "failed" => (Status::Fail, txn.ops, None),
                    _ => {
                        let ops = words[6..].iter().map(|op| op_of(op)).collect();
                        (Status::Ok, ops, Some((number(4), number(5) == 1)))
                    }
                };
                all.push((Txn { status, ops, completed: Some(number(3)), ..txn }, place));
            }
            _ => {}
        }
    }
    for mut txn in started.into_values() {
        let at: Vec<Option<u64>> = txn.ops.iter().map(|op| log.get(&value(op)).copied()).collect();
        assert!(
            at.iter().all(Option::is_some) || at.iter().all(Option::is_none),
            "half of it is there: {txn:?}"
        );
        let place = at.iter().flatten().max().map(|last| (*last, false));
        if place.is_none() {
            // The process is gone: what is not there never will be.
            (txn.status, txn.completed) = (Status::Fail, Some(u64::MAX / 2));
        }
        all.push((txn, place));
    }
    all
}

fn value(op: &Op) -> u64 {
    match op {
        Op::Append { value, .. } => *value,
        Op::Read { .. } => unreachable!("of what got no answer, only its appends are known"),
    }
}

#[test]
fn history_across_kills_is_strictly_serializable() {
    let room = tempfile::tempdir().expect("room");
    let dir: PathBuf = room.path().join("store");
    Store::create(&dir, setup()).expect("a new store").close();
    let (mut all, mut random, mut unanswered) = (Vec::new(), Random::new(seed()), 0);
    let recorder = Recorder::default();
    for incarnation in 0..env("KILLS").unwrap_or(6) {
        // Instants, and values, are later than all before.
        let clock = (incarnation + 1) * 10_000_000;
        let lines = killed(&dir, clock, Duration::from_millis(random.below(250)));
        let store = Store::open(&dir, setup()).expect("a killed store opens");
        let said = heard(&lines, incarnation, &positions(&store));
        unanswered +=
            said.iter().filter(|(txn, place)| txn.status == Status::Info && place.is_some()).count();
        all.extend(said);
    }
    let store = Store::open(&dir, setup()).expect("it opens");
    recorder.clock.store(u64::MAX / 2 + 1, Ordering::SeqCst);
    let lists: BTreeSet<u64> =
        all.iter().flat_map(|(txn, _)| &txn.ops).map(|op| op.key().parse().expect("a number")).collect();
    for list in lists {
        for how in [How::Tag, How::Row] {
            recorder.record(u64::MAX, || run(&store, &[Plan::Read(list, how)], Retry::Never));
        }
    }
    all.extend(recorder.all.into_inner().expect("nobody panics in here"));
    let (history, order) = in_order(all);
    let report = elle::check(&history);
    assert!(report.strictly_serializable(), "{report}");
    elle::serial_replay(&history, &order).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(store.verify().expect("verify looks").first_bad, None);
    let committed = history.txns.iter().filter(|txn| txn.status == Status::Ok).count();
    println!("{committed} answered, {unanswered} committed and were not");
}

// ---- single calls ----

/// Sixteen threads make calls; each says what it was answered.
fn calls<O: Send, R: Send>(each: u64, call: impl Fn(u64, u64) -> (O, R) + Sync) -> Vec<Call<O, R>> {
    let clock = AtomicU64::new(0);
    let tick = || clock.fetch_add(1, Ordering::SeqCst);
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (call, tick, all) = (&call, &tick, &all);
            scope.spawn(move || {
                for number in 0..each {
                    let invoked = tick();
                    let (op, ret) = call(thread, number);
                    let call = Call::answered(invoked..=tick(), op, ret);
                    all.lock().expect("nobody panics in here").push(call);
                    std::thread::yield_now();
                }
            });
        }
    });
    all.into_inner().expect("nobody panics in here")
}

/// Half of the keys are used by transactions, half by plain appends; a third of the threads brings other content.
#[test]
fn requests_under_keys_are_linearizable() {
    let (store, answers) = (simulated(), Mutex::new(HashMap::new()));
    let transact = |thread: u64, number: u64, fingerprint: u64| {
        let request = Request::new("ask").key("test", number.to_string(), &fingerprint);
        let decide = |tx: &mut Tx<'_>| -> Decision<u64> {
            tx.row::<Lists>(&number)?;
            tx.append(Added { list: number, value: thread })?;
            Ok(thread)
        };
        store.transact(request, decide).map(|done| (done.response, done.receipt, done.replayed))
    };
    let append = |thread: u64, number: u64, fingerprint: u64| {
        let append = Append::event(Added { list: number, value: thread }).key("test", number.to_string());
        let append = append.input(&fingerprint).response(thread.to_le_bytes());
        let response = |bytes: Vec<u8>| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let answered =
            store.append(append).map(|done| (response(done.response), done.receipt, done.replayed));
        answered.map_err(TxError::from)
    };
    let calls = calls(300, |thread, number| {
        let fingerprint = u64::from(thread % 3 == 0);
        let answered = match number % 2 {
            0 => transact(thread, number, fingerprint),
            _ => append(thread, number, fingerprint),
        };
        let answer = match answered {
            Ok((response, receipt, replayed)) => {
                let first = receipt.first.get();
                let mut answers = answers.lock().expect("nobody panics in here");
                assert_eq!(*answers.entry(first).or_insert(response), response, "one answer for one commit");
                if replayed { Answer::Replayed(first) } else { Answer::Created(first) }
            }
            Err(TxError::KeyReused { part, .. }) if part == "input" => Answer::Reused,
            Err(error) => panic!("{error} ({error:?})"),
        };
        (elle::Request { key: number.to_string(), fingerprint }, answer)
    });
    elle::linearizable::<Idempotency>(&calls).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(store.stats().position.get(), 300, "each key was used once");
}

#[test]
fn concurrent_once_flag_has_one_winner() {
    let store = simulated();
    let calls = calls(200, |thread, number| {
        let flag = (number / 2).to_string();
        if (thread + number) % 4 == 0 {
            let taken = QueryItem::stream_named(format!("tallystone/{flag}"));
            let is = store.view().expect("the store is open").query::<Raw>(taken).next().is_some();
            return (OnceOp::Look(flag), is);
        }
        let raised = store.transact("raise", |tx| -> Decision<bool> { Ok(tx.once(&flag)?) });
        (OnceOp::Raise(flag), raised.expect("retries are enough").response)
    });
    elle::linearizable::<Once>(&calls).unwrap_or_else(|why| panic!("{why}"));
    let first =
        calls.iter().filter(|call| matches!(call.op, OnceOp::Raise(_)) && call.answer.as_ref().unwrap().1);
    assert_eq!((first.count(), store.stats().position.get()), (100, 100));
}
