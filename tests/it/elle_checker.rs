//! The checkers of histories, held against histories whose verdict is known.

use crate::elle::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[track_caller]
fn verdict(text: &str, expected: &[&str]) {
    let report = check(&History::parse(text));
    assert_eq!(report.names(), expected, "{text}\n{report}");
}

#[track_caller]
fn sees(text: &str, anomaly: Anomaly) {
    let report = check(&History::parse(text));
    assert!(report.has(anomaly), "{text}: {anomaly} is missing\n{report}");
}

// Anomalies of single reads and keys.

#[test]
fn aborted_append_must_not_be_read() {
    verdict("fail ax1 / rx1ax2", &["G1a"]);
    verdict("fail ax1 / ax2 / rx2", &[]);
}

#[test]
fn read_between_two_appends_is_intermediate() {
    sees("ax1ax2 / rx1", Anomaly::IntermediateRead);
    verdict("ax1ax2 / ax3 / rx123", &[]);
    verdict("ax1rx1ax2", &[]);
}

#[test]
fn append_after_aborted_one_is_dirty_update() {
    verdict("fail ax1 / ax2 / rx12", &["G1a", "dirty-update"]);
    verdict("ax2 / fail ax1 / rx21", &["G1a"]);
}

#[test]
fn a_transaction_must_agree_with_itself() {
    for second in ["rx12", "rx023", "rx1234", "rx1"] {
        sees(&format!("ax0 / ax1 / ax2 / ax4 / rx12ax3{second}"), Anomaly::Internal);
    }
    // Before its first read a transaction knows only the end of the list.
    sees("ax1 / ax2rx1", Anomaly::Internal);
    sees("ax1 / rx1rx", Anomaly::Internal);
    verdict("ax1 / ax2rx12 / rx12", &[]);
    verdict("ax1 / ax2 / rx12ax3rx123 / rx123", &[]);
}

#[test]
fn transaction_must_not_read_later_append() {
    sees("rx012ax1", Anomaly::FutureRead);
    sees("ax1rx01ax0ax3", Anomaly::FutureRead);
    sees("ax0 / rx01ax1 / rx0", Anomaly::FutureRead);
    assert!(!check(&History::parse("ax0ax1rx01")).has(Anomaly::FutureRead));
}

#[test]
fn reads_must_be_prefixes_of_one_order() {
    verdict("ax1 / ax2 / ax3 / rx12 / rx13", &["incompatible-order"]);
    verdict("ax1 / ax2 / rx12 / rx21", &["cyclic-versions", "incompatible-order"]);
    verdict("ax1 / ax2 / ax3 / rx12 / rx123 / rx1 / rx", &[]);
}

#[test]
fn duplicate_or_unwritten_list_value_is_reported() {
    sees("ax1 / ax2 / rx121", Anomaly::DuplicateElements);
    verdict("ax1 / rx17", &["unwritten-read"]);
}

#[test]
fn repeated_append_of_value_is_reported() {
    verdict("ax1 / ax1 / rx1", &["repeated-append"]);
}

// Cycles.

#[test]
fn serial_histories_have_no_cycle() {
    verdict("az1ax1ay1 / rx1ay2 / ry12az3 / rz13", &[]);
    verdict("ax1 / rx1ay1 / ry1ax2 / rx12", &[]);
    verdict("", &[]);
}

#[test]
fn opposite_append_orders_form_write_cycle() {
    verdict("ax1ay1 / ax2ay2 / rx12ry21", &["G0"]);
}

#[test]
fn mutual_reads_are_circular_information_flow() {
    verdict("ax1ry1 / ax2ay1 / rx12", &["G1c"]);
    verdict("ax1ry1 / ay1rx1", &["G1c"]);
}

#[test]
fn missed_write_is_read_skew_or_lost_update() {
    verdict("ax1ay1 / rx1ry / rx1ry1", &["G-single"]);
    verdict("rxax1 / rxax2 / rx12", &["G-single"]);
}

#[test]
fn readers_disagreeing_on_write_order_are_nonadjacent() {
    verdict("ax1 / ay1 / rx1ry / rxry1 / rx1ry1", &["G-nonadjacent"]);
    // Beside shorter ways round over the same edges that are only write skew.
    verdict("ax1rw / ay1rz / rx1ryrz1 / rxry1rw1 / az1 / aw1 / rx1ry1rz1rw1", &["G-nonadjacent"]);
}

#[test]
fn two_overlooked_writes_are_write_skew() {
    verdict("rxay1 / ryax1 / rx1ry1", &["G2-item"]);
    // What nobody read stands behind everything that was read.
    verdict("rxay1 / ryax1", &["G2-item"]);
}

#[test]
fn real_time_order_reveals_stale_read() {
    verdict("0..1 ax1 / 2..3 rx", &["G-single-realtime"]);
    verdict("0..1 ax1 / 1..3 rx", &[]);
    verdict("0..1 ax1 / 2..3 ax2 / 4..5 rx21", &["G0-realtime"]);
    verdict("2..3 ax1 / 0..1 rx1", &["G1c-realtime"]);
}

#[test]
fn two_ids_anomaly_breaks_only_strict_serializability() {
    // The second reads x, the first raises it and returns, the third then sees no trace of the second.
    let text = "1..2 rxax1 / 0..6 rxay1 / 3..4 ry / 7..8 rx1ry1";
    let report = check(&History::parse(text));
    assert_eq!(report.names(), ["G2-item-realtime"], "{report}");
    assert!(report.serializable() && !report.strictly_serializable());
    verdict("rxax1 / rxay1 / ry / rx1ry1", &[]);
}

#[test]
fn real_time_cycle_is_reported_beside_write_skew() {
    // T1 and T2 are write skew; T3 began after T1 and sees a state from before it.
    let text = "0..1 rxay1aq1 / 0..9 ryax1 / 2..3 rp / 0..9 rqap1 / 10..11 rx1ry1rq1rp1";
    verdict(text, &["G2-item", "G2-item-realtime"]);
}

#[test]
fn process_missing_its_own_append_is_reported() {
    verdict("p0 0..1 ax1 / p0 1..2 rx", &["G-single-process"]);
    verdict("p0 0..1 ax1 / p0 2..3 rx", &["G-single-process", "G-single-realtime"]);
}

#[test]
fn unknown_outcome_is_settled_by_readers() {
    // Never read: it may not have happened.
    verdict("info 0.. ax1 / 1..2 rx", &[]);
    // Read: it happened, and may have happened late.
    verdict("info 0.. ax1 / 1..2 rx / 3..4 rx1", &[]);
    // Even after its caller gave up.
    verdict("info 0..1 ax1 / 2..3 rx / 4..5 rx1", &[]);
    // All of it happened, if any did.
    verdict("info 0.. ax1ay1 / 1..2 rx1ry / 3..4 rx1ry1", &["G-single"]);
    // Its own reads without an answer imply nothing; with one they count once it is known to have committed.
    verdict("0..1 ax1 / info 2.. rx?ay1 / 3..4 ry1", &[]);
    verdict("0..1 ax1 / info 2.. rxay1 / 3..4 ry1", &["G-single-realtime"]);
    verdict("0..1 ax1 / info 2.. rxay1 / 3..4 ry", &[]);
    // Known through another that is known.
    verdict("info ax1 / info rx1ay1 / ry1rx", &["G-single"]);
}

#[test]
fn process_may_continue_after_unknown_outcome() {
    verdict("p0 info 0.. ax1 / p0 1..2 rx / 3..4 rx1", &[]);
}

#[test]
fn witness_describes_cycle_in_words() {
    let report = check(&History::parse("ax1ay1 / ax2ay2 / rx12ry21"));
    assert_eq!(
        report.findings[0].witness,
        "T1 before T2: T2 appended 2 to x behind the 1 of T1 (ww)\n\
         T2 before T1: T1 appended 1 to y behind the 2 of T2 (ww)\n  \
         T1: append 1 to x, append 1 to y\n  \
         T2: append 2 to x, append 2 to y"
    );
    let report = check(&History::parse("0..1 ax1 / 2..3 rz / 4..5 rx"));
    assert_eq!(
        report.findings[0].witness,
        "T3 before T1: T3 read x without the 1 of T1 (rw)\n\
         T1 before T3: T1 returned at 1, and T3 began at 4\n  \
         T3: read x = []\n  \
         T1: append 1 to x"
    );
}

#[test]
fn witness_is_the_shortest_cycle() {
    // T1 to T5 are a ring of five; then T1 and T7 close a ring of two within it.
    let ring = "ax1ae2af2 / ax2ay1 / ay2az1 / az2aw1 / aw2ae1";
    let steps = |text: String| check(&History::parse(&text)).findings[0].witness.matches(" before ").count();
    assert_eq!(steps(format!("{ring} / rx12ry12rz12rw12re12rf2")), 5);
    assert_eq!(steps(format!("{ring} / rx132ry12rz12rw12re12rf12 / af1ax3")), 2);
}

#[test]
#[should_panic(expected = "T2 starts while process 0 is busy")]
fn process_with_overlapping_transactions_panics() {
    check(&History::parse("p0 0..5 ax1 / p0 3..7 ax2"));
}

// A serial store, and faults planted into it.

const KEYS: u64 = 4;

/// One turn of a process: it begins a transaction with these operations if idle, and else ends the one it runs.
#[derive(Clone, Debug)]
struct Turn {
    process: u64,
    /// Key, and whether to append to it or read it.
    ops: Vec<(u64, bool)>,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Commit,
    Abort,
    /// The reply is lost, and nothing was done.
    LostRequest,
    /// The reply is lost, and all was done.
    LostReply,
}

fn turns(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Turn>> {
    let end = prop_oneof![
        8 => Just(End::Commit), 1 => Just(End::Abort), 1 => Just(End::LostRequest), 1 => Just(End::LostReply)
    ];
    let ops = prop::collection::vec((0..KEYS, any::<bool>()), 1..5);
    let turn = (0..4u64, ops, end).prop_map(|(process, ops, end)| Turn { process, ops, end });
    prop::collection::vec(turn, len)
}

/// Snapshot at begin, validated at commit. Transactions that only read stand where their snapshot was taken.
#[derive(Default)]
struct Serial {
    clock: u64,
    values: u64,
    lists: BTreeMap<u64, Vec<u64>>,
    running: BTreeMap<u64, Running>,
    history: History,
    /// Commits so far and start, which is the place in the serial order; and who it is.
    serial: BTreeSet<(usize, u64, usize)>,
    commits: usize,
}

struct Running {
    invoked: u64,
    ops: Vec<(u64, bool)>,
    snapshot: BTreeMap<u64, Vec<u64>>,
    commits: usize,
}

impl Serial {
    fn run(turns: &[Turn]) -> Serial {
        let mut store = Serial::default();
        turns.iter().for_each(|turn| store.turn(turn));
        store
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    fn list(&self, key: u64) -> Vec<u64> {
        self.lists.get(&key).cloned().unwrap_or_default()
    }

    fn turn(&mut self, turn: &Turn) {
        match self.running.remove(&turn.process) {
            Some(running) => self.end(turn.process, running, turn.end),
            None => {
                let invoked = self.tick();
                let snapshot = self.lists.clone();
                let running = Running { invoked, ops: turn.ops.clone(), snapshot, commits: self.commits };
                self.running.insert(turn.process, running);
            }
        }
    }

    fn end(&mut self, process: u64, running: Running, end: End) {
        let mut view = running.snapshot.clone();
        let mut ops = Vec::new();
        let mut appended = Vec::new();
        for (key, appends) in &running.ops {
            let list = view.entry(*key).or_default();
            if *appends {
                let value = self.value();
                list.push(value);
                appended.push((*key, value));
                ops.push(append(key, value));
            } else {
                ops.push(read(key, list));
            }
        }
        let changed = |key: &u64| running.snapshot.get(key) != self.lists.get(key);
        let conflict =
            running.ops.iter().any(|(key, appends)| !appends && changed(key)) && !appended.is_empty();
        let completed = self.tick();
        let during = running.invoked..=completed;
        let applies = !conflict && matches!(end, End::Commit | End::LostReply);
        let txn = match end {
            End::LostReply | End::LostRequest => Txn::info(process, running.invoked, without_answers(ops)),
            End::Commit if !conflict => Txn::ok(process, during, ops),
            End::Commit | End::Abort => Txn::fail(process, during, ops),
        };
        if applies {
            let index = self.history.txns.len();
            if appended.is_empty() {
                self.serial.insert((running.commits, running.invoked, index));
            } else {
                self.place_commit(index);
            }
            for (key, value) in appended {
                self.lists.entry(key).or_default().push(value);
            }
        }
        self.history.push(txn);
    }

    fn place_commit(&mut self, index: usize) {
        self.commits += 1;
        self.serial.insert((self.commits, 0, index));
    }

    /// A transaction that did what it did: no rule is asked. Overlaps with nothing that is planted before or after.
    fn force(&mut self, process: u64, ops: Vec<Op>) {
        let (invoked, completed) = (self.tick(), self.tick());
        self.force_during(process, invoked, completed, ops);
    }

    fn force_during(&mut self, process: u64, invoked: u64, completed: u64, ops: Vec<Op>) {
        let index = self.history.txns.len();
        self.place_commit(index);
        self.history.push(Txn::ok(process, invoked..=completed, ops));
    }

    /// Forced transactions of which each overlaps each.
    fn force_together(&mut self, txns: Vec<Vec<Op>>) {
        let invoked = self.tick();
        let completed = self.tick();
        for (index, ops) in txns.into_iter().enumerate() {
            self.force_during(100 + index as u64, invoked, completed, ops);
        }
    }

    fn push(&mut self, key: u64) -> u64 {
        let value = self.value();
        self.lists.entry(key).or_default().push(value);
        value
    }

    /// Everybody ends, and everything is read.
    fn finish(mut self) -> (History, Vec<usize>) {
        let busy: Vec<u64> = self.running.keys().copied().collect();
        for process in busy {
            self.turn(&Turn { process, ops: Vec::new(), end: End::Commit });
        }
        let ops = (0..KEYS).map(|key| read(key, &self.list(key))).collect();
        self.force(99, ops);
        let serial = self.serial.iter().map(|(.., index)| *index).collect();
        (self.history, serial)
    }
}

fn without_answers(ops: Vec<Op>) -> Vec<Op> {
    ops.into_iter()
        .map(|op| if let Op::Read { key, .. } = op { Op::Read { key, list: None } } else { op })
        .collect()
}

const fn cycle(class: Class) -> Anomaly {
    Anomaly::Cycle(class, Order::None)
}

type Plant = fn(&mut Serial, u64, u64);

/// What is planted, on two keys, and what must be found.
const PLANTS: &[(&str, Plant, &[Anomaly])] = &[
    ("write skew", plant_write_skew, &[cycle(Class::G2Item)]),
    ("lost update", plant_lost_update, &[cycle(Class::GSingle)]),
    ("read skew", plant_read_skew, &[cycle(Class::GSingle)]),
    ("long fork", plant_long_fork, &[cycle(Class::GNonadjacent)]),
    ("circular information", plant_circular_information, &[cycle(Class::G1c)]),
    ("write cycle", plant_write_cycle, &[cycle(Class::G0)]),
    ("stale read", plant_stale_read, &[Anomaly::Cycle(Class::GSingle, Order::RealTime)]),
    // Of which class depends on who reads and appends later.
    ("lost append", plant_lost_append, &[]),
    ("own append not seen", plant_own_append_not_seen, &[Anomaly::Cycle(Class::GSingle, Order::Process)]),
    ("aborted read", plant_aborted_read, &[Anomaly::AbortedRead, Anomaly::DirtyUpdate]),
    ("intermediate read", plant_intermediate_read, &[Anomaly::IntermediateRead]),
    ("dropped element", plant_dropped_element, &[Anomaly::IncompatibleOrder]),
    ("swapped elements", plant_swapped_elements, &[Anomaly::IncompatibleOrder, Anomaly::CyclicVersions]),
    ("element twice", plant_element_twice, &[Anomaly::DuplicateElements]),
    ("element of nobody", plant_element_of_nobody, &[Anomaly::UnwrittenRead]),
    ("read that changes", plant_read_that_changes, &[Anomaly::Internal]),
    ("future read", plant_future_read, &[Anomaly::FutureRead]),
];

fn plant_write_skew(store: &mut Serial, a: u64, b: u64) {
    let (seen_a, seen_b) = (store.list(a), store.list(b));
    let (for_b, for_a) = (store.push(b), store.push(a));
    store.force_together(vec![
        vec![read(a, &seen_a), append(b, for_b)],
        vec![read(b, &seen_b), append(a, for_a)],
    ]);
}

fn plant_lost_update(store: &mut Serial, a: u64, _: u64) {
    let seen = store.list(a);
    let (one, other) = (store.push(a), store.push(a));
    store.force_together(vec![vec![read(a, &seen), append(a, one)], vec![read(a, &seen), append(a, other)]]);
}

fn plant_read_skew(store: &mut Serial, a: u64, b: u64) {
    let old = store.list(a);
    let (for_a, for_b) = (store.push(a), store.push(b));
    let new = store.list(b);
    store.force_together(vec![vec![append(a, for_a), append(b, for_b)], vec![read(a, &old), read(b, &new)]]);
}

fn plant_long_fork(store: &mut Serial, a: u64, b: u64) {
    let (old_a, old_b) = (store.list(a), store.list(b));
    let (for_a, for_b) = (store.push(a), store.push(b));
    let (new_a, new_b) = (store.list(a), store.list(b));
    store.force_together(vec![
        vec![append(a, for_a)],
        vec![append(b, for_b)],
        vec![read(a, &new_a), read(b, &old_b)],
        vec![read(a, &old_a), read(b, &new_b)],
    ]);
}

fn plant_circular_information(store: &mut Serial, a: u64, b: u64) {
    let (for_a, for_b) = (store.push(a), store.push(b));
    let (new_a, new_b) = (store.list(a), store.list(b));
    store.force_together(vec![
        vec![append(a, for_a), read(b, &new_b)],
        vec![append(b, for_b), read(a, &new_a)],
    ]);
}

fn plant_write_cycle(store: &mut Serial, a: u64, b: u64) {
    let (first_a, then_a) = (store.push(a), store.push(a));
    let (first_b, then_b) = (store.push(b), store.push(b));
    let one = vec![append(a, first_a), append(b, then_b)];
    store.force_together(vec![one, vec![append(b, first_b), append(a, then_a)]]);
}

fn plant_stale_read(store: &mut Serial, a: u64, _: u64) {
    let old = store.list(a);
    let value = store.push(a);
    store.force(100, vec![append(a, value)]);
    store.force(101, vec![read(a, &old)]);
}

fn plant_lost_append(store: &mut Serial, a: u64, _: u64) {
    let value = store.value();
    store.force(100, vec![append(a, value)]);
}

fn plant_own_append_not_seen(store: &mut Serial, a: u64, _: u64) {
    let old = store.list(a);
    let value = store.push(a);
    store.force(100, vec![append(a, value)]);
    store.force(100, vec![read(a, &old)]);
}

fn plant_aborted_read(store: &mut Serial, a: u64, _: u64) {
    let value = store.push(a);
    let (invoked, completed) = (store.tick(), store.tick());
    store.history.push(Txn::fail(100, invoked..=completed, vec![append(a, value)]));
    let value = store.push(a);
    store.force(101, vec![append(a, value)]);
}

fn plant_intermediate_read(store: &mut Serial, a: u64, _: u64) {
    let one = store.push(a);
    let half = store.list(a);
    let other = store.push(a);
    store.force_together(vec![vec![append(a, one), append(a, other)], vec![read(a, &half)]]);
}

fn plant_dropped_element(store: &mut Serial, a: u64, _: u64) {
    let (one, other) = (store.push(a), store.push(a));
    let mut list = store.list(a);
    list.remove(list.len() - 2);
    store.force_together(vec![vec![append(a, one)], vec![append(a, other)], vec![read(a, &list)]]);
}

fn plant_swapped_elements(store: &mut Serial, a: u64, _: u64) {
    let (one, other) = (store.push(a), store.push(a));
    let mut list = store.list(a);
    let len = list.len();
    list.swap(len - 2, len - 1);
    store.force_together(vec![vec![append(a, one)], vec![append(a, other)], vec![read(a, &list)]]);
}

fn plant_element_twice(store: &mut Serial, a: u64, _: u64) {
    let value = store.push(a);
    store.lists.entry(a).or_default().push(value);
    store.force(100, vec![append(a, value)]);
}

fn plant_element_of_nobody(store: &mut Serial, a: u64, _: u64) {
    store.push(a);
}

fn plant_read_that_changes(store: &mut Serial, a: u64, _: u64) {
    let old = store.list(a);
    let value = store.push(a);
    let new = store.list(a);
    store.force_together(vec![vec![append(a, value)], vec![read(a, &old), read(a, &new)]]);
}

fn plant_future_read(store: &mut Serial, a: u64, _: u64) {
    let value = store.push(a);
    let new = store.list(a);
    store.force(100, vec![read(a, &new), append(a, value)]);
}

proptest! {
    #[test]
    fn a_serial_execution_has_no_anomaly(turns in turns(0..120)) {
        let (history, serial) = Serial::run(&turns).finish();
        let report = check(&history);
        prop_assert!(report.strictly_serializable(), "{report}");
        let replayed = serial_replay(&history, &serial);
        prop_assert!(replayed.is_ok(), "{replayed:?}");
    }

    #[test]
    fn every_planted_anomaly_is_found(before in turns(0..60), after in turns(0..60), a in 0..KEYS, apart in 1..KEYS) {
        for (name, plant, expected) in PLANTS {
            let mut store = Serial::run(&before);
            plant(&mut store, a, (a + apart) % KEYS);
            after.iter().for_each(|turn| store.turn(turn));
            let (history, serial) = store.finish();
            let report = check(&history);
            prop_assert!(!report.strictly_serializable(), "{name}");
            for anomaly in *expected {
                prop_assert!(report.has(*anomaly), "{name}: {anomaly} is missing in {report}");
            }
            prop_assert!(serial_replay(&history, &serial).is_err(), "{name}: the serial run agrees");
        }
    }
}

// Against every order there is.

fn permutations(items: &mut Vec<usize>, from: usize, any: &mut impl FnMut(&[usize]) -> bool) -> bool {
    if from == items.len() {
        return any(items);
    }
    (from..items.len()).any(|other| {
        items.swap(from, other);
        let found = permutations(items, from + 1, any);
        items.swap(from, other);
        found
    })
}

/// Whether any order of all that is `certain`, and some of the rest, satisfies `any`.
fn some_order(certain: &[bool], possible: &[usize], mut any: impl FnMut(&[usize]) -> bool) -> bool {
    let optional: Vec<usize> = possible.iter().copied().filter(|index| !certain[*index]).collect();
    (0..1usize << optional.len()).any(|choice| {
        let chosen = |index: &usize| match optional.iter().position(|other| other == index) {
            Some(place) => choice >> place & 1 == 1,
            None => true,
        };
        let mut items: Vec<usize> = possible.iter().copied().filter(chosen).collect();
        permutations(&mut items, 0, &mut any)
    })
}

/// A transaction of a store that keeps no promise: it reads how each key was some appends ago.
#[derive(Clone, Debug)]
struct Loose {
    start: u64,
    length: u64,
    /// Key, whether it appends, and how many appends ago it reads.
    ops: Vec<(u64, bool, usize)>,
    status: Status,
    applies: bool,
}

fn loose() -> impl Strategy<Value = Loose> {
    let op = (0..2u64, any::<bool>(), prop_oneof![3 => Just(0), 2 => Just(1), 1 => Just(2usize)]);
    let status = prop_oneof![4 => Just(Status::Ok), 1 => Just(Status::Info), 1 => Just(Status::Fail)];
    let ops = prop::collection::vec(op, 1..4);
    (0..6u64, 0..6u64, ops, status, any::<bool>()).prop_map(|(start, length, ops, status, applies)| Loose {
        start,
        length,
        ops,
        status,
        applies,
    })
}

fn loose_history(txns: &[Loose], read_at_the_end: bool) -> History {
    let mut history = History::default();
    let mut lists = vec![Vec::new(); 2];
    let mut value = 0;
    for (process, txn) in txns.iter().enumerate() {
        let mut own = vec![Vec::new(); 2];
        let mut ops = Vec::new();
        for (key, appends, ago) in &txn.ops {
            let (list, own): (&Vec<u64>, &mut Vec<u64>) = (&lists[*key as usize], &mut own[*key as usize]);
            if *appends {
                value += 1;
                own.push(value);
                ops.push(append(key, value));
            } else {
                let seen = &list[..list.len().saturating_sub(*ago)];
                ops.push(read(key, &[seen, &own[..]].concat()));
            }
        }
        if txn.status == Status::Ok || (txn.status == Status::Info && txn.applies) {
            lists.iter_mut().zip(own).for_each(|(list, own)| list.extend(own));
        }
        let during = txn.start..=txn.start + txn.length;
        let (process, status) = (process as u64, txn.status);
        history.push(Txn { status, ..Txn::ok(process, during, ops) });
    }
    if read_at_the_end {
        history.push(Txn::ok(99, 20..=21, vec![read(0, &lists[0]), read(1, &lists[1])]));
    }
    history
}

fn some_serial_order(history: &History) -> bool {
    let certain: Vec<bool> = history.txns.iter().map(|txn| txn.status == Status::Ok).collect();
    let alive = |index: &usize| history.txns[*index].status != Status::Fail;
    let possible: Vec<usize> = (0..history.txns.len()).filter(alive).collect();
    some_order(&certain, &possible, |order| serial_replay(history, order).is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn serializability_verdict_matches_brute_force_search(txns in prop::collection::vec(loose(), 1..5), end in any::<bool>()) {
        let mut history = loose_history(&txns, end);
        let report = check(&history);
        prop_assert_eq!(report.strictly_serializable(), some_serial_order(&history), "{}", report);
        for txn in &mut history.txns {
            (txn.invoked, txn.completed) = (0, Some(u64::MAX));
        }
        prop_assert_eq!(report.serializable(), some_serial_order(&history), "without a clock: {}", report);
        prop_assert_eq!(report.serializable(), check(&history).strictly_serializable(), "without a clock: {}", report);
    }

    #[test]
    fn linearizability_verdict_matches_brute_force_search(calls in prop::collection::vec(register_call(), 1..6)) {
        let committed: Vec<_> = calls.iter().enumerate().map(|(index, call)| Committed {
            name: format!("C{index}"),
            invoked: call.invoked,
            completed: call.answer.as_ref().map(|(completed, _)| *completed),
            calls: vec![(call.op.clone(), call.answer.as_ref().map(|(_, ret)| *ret))],
        }).collect();
        let certain: Vec<bool> = calls.iter().map(|call| call.answer.is_some()).collect();
        let possible: Vec<usize> = (0..calls.len()).collect();
        let explained = some_order(&certain, &possible, |order| {
            let ordered: Vec<_> = order.iter().map(|index| committed[*index].clone()).collect();
            replay::<Register>(&ordered).is_ok()
        });
        let verdict = linearizable::<Register>(&calls);
        prop_assert_eq!(verdict.is_ok(), explained, "{:?}", verdict);
    }
}

// Size.

/// A serial history: each transaction reads two keys and appends to one, next to three others that run at the same time.
fn long_history(txns: u64) -> History {
    const BLOCK: u64 = 50;
    let mut history = History::default();
    let mut lists: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for n in 0..txns {
        // Keys are used for a while and then left, as lists that grow for ever make reads that are read for ever.
        let block = n / BLOCK * 10;
        let (one, other) = (block + n * 7 % 10, block + (n * 3 + 1) % 10);
        let seen = |key| lists.get(&key).cloned().unwrap_or_default();
        let ops = vec![read(one, &seen(one)), read(other, &seen(other)), append(one, n)];
        lists.entry(one).or_default().push(n);
        history.push(Txn::ok(n % 4, n * 2..=n * 2 + 7, ops));
    }
    history
}

#[test]
fn two_hundred_thousand_transactions_are_checked() {
    const TXNS: u64 = 200_000;
    let mut history = long_history(TXNS);
    let report = check(&history);
    assert!(report.strictly_serializable(), "{report}");
    assert!(serial_replay(&history, &(0..TXNS as usize).collect::<Vec<_>>()).is_ok());

    // At the end somebody reads a key of the beginning as it was before anything: nearly all are in one knot, and the witness is
    // two of them.
    history.push(Txn::ok(9, TXNS * 3..=TXNS * 3 + 1, vec![read(0, &[])]));
    let report = check(&history);
    assert_eq!(report.names(), ["G-single-realtime"], "{report}");
    assert_eq!(report.findings[0].witness.matches(" before ").count(), 2, "{report}");
}

#[test]
fn large_history_full_of_anomalies_is_checked() {
    // Who appends did not see the latest append: a lost update each time, in one knot and in many.
    let mut history = long_history(20_000);
    for txn in &mut history.txns {
        if let Op::Read { list: Some(list), .. } = &mut txn.ops[0] {
            list.pop();
        }
    }
    let report = check(&history);
    assert!(report.has(cycle(Class::GSingle)), "{report}");
    assert!(!report.serializable());
}

// The serial run.

#[test]
fn serial_replay_rejects_missing_aborted_and_repeated_transactions() {
    let history = History::parse("0..1 ax1 / fail 0..1 ax2 / info 0.. ax3 / 2..3 rx1");
    let told = |order: &[usize]| serial_replay(&history, order).expect_err("the order is wrong");
    assert!(serial_replay(&history, &[0, 3]).is_ok());
    assert_eq!(serial_replay(&history, &[0, 3, 2]).expect("it may have happened late")["x"], [1, 3]);
    assert_eq!(told(&[3]), "T1 committed, and is not in the commit order");
    assert_eq!(told(&[0, 1, 3]), "T2 was aborted, and is in the commit order");
    assert_eq!(told(&[0, 0, 3]), "T1 stands twice in the commit order");
}

#[test]
fn serial_replay_finds_wrong_reads_and_time_violations() {
    let told =
        |text: &str, order: &[usize]| serial_replay(&History::parse(text), order).expect_err("it is wrong");
    assert!(told("rxay1 / ryax1", &[0, 1]).starts_with("T2: Read"));
    assert!(told("rxay1 / ryax1", &[0, 1]).ends_with("in a serial run [1]"));
    assert_eq!(
        told("4..5 ax1 / 0..1 rx1", &[0, 1]),
        "T2 returned at 1, and T1, who began at 4, stands ahead"
    );
    assert_eq!(
        told("4..5 ax1 / 4..9 ax2 / 0..1 ry", &[0, 1, 2]),
        "T3 returned at 1, and T1, who began at 4, stands ahead"
    );
}

// Linearizability.

struct Register;

#[derive(Clone, Debug)]
enum RegisterOp {
    Write(u64),
    Read,
}

impl Model for Register {
    type State = u64;
    type Op = RegisterOp;
    type Ret = u64;
    type Part = ();

    fn part(_: &RegisterOp) {}

    fn step(state: &mut u64, op: &RegisterOp, ret: Option<&u64>) -> Result<(), String> {
        match op {
            RegisterOp::Write(value) => *state = *value,
            RegisterOp::Read if ret.is_some_and(|ret| ret != state) => return Err(state.to_string()),
            RegisterOp::Read => {}
        }
        Ok(())
    }
}

fn register_call() -> impl Strategy<Value = Call<RegisterOp, u64>> {
    let op = prop_oneof![(1..3u64).prop_map(RegisterOp::Write), Just(RegisterOp::Read)];
    (op, 0..8u64, 0..6u64, 0..3u64, 0..6u8).prop_map(|(op, invoked, length, ret, lost)| match lost {
        0 => Call::unanswered(invoked, op),
        _ => Call::answered(invoked..=invoked + length, op, ret),
    })
}

struct Queue;

#[derive(Clone, Debug)]
enum QueueOp {
    Put(u64),
    Take,
}

impl Model for Queue {
    type State = std::collections::VecDeque<u64>;
    type Op = QueueOp;
    type Ret = Option<u64>;
    type Part = ();

    fn part(_: &QueueOp) {}

    fn step(state: &mut Self::State, op: &QueueOp, ret: Option<&Option<u64>>) -> Result<(), String> {
        match op {
            QueueOp::Put(value) => state.push_back(*value),
            QueueOp::Take => {
                let first = state.pop_front();
                if ret.is_some_and(|ret| *ret != first) {
                    return Err(format!("{first:?}"));
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_register_never_goes_back() {
    let write = |during, value| Call::answered(during, RegisterOp::Write(value), 0);
    let read = |during, value| Call::answered(during, RegisterOp::Read, value);
    // Both reads overlap the write, so either may come first, but not the new value before the old.
    let calls = [write(0..=10, 1), read(1..=2, 0), read(3..=4, 1)];
    assert_eq!(linearizable::<Register>(&calls), Ok(()));
    let calls = [write(0..=10, 1), read(1..=2, 1), read(3..=4, 0)];
    let told = linearizable::<Register>(&calls).expect_err("it went back");
    assert_eq!(
        told,
        "no order explains the calls of (). As far as it goes:\n  \
         0..10 Write(1) = 0\n  \
         1..2 Read = 1\n\
         and then none of these fits:\n  \
         3..4 Read = 0 (the object would answer 1)"
    );
}

#[test]
fn at_one_instant_calls_overlap() {
    let calls = [Call::answered(0..=5, RegisterOp::Write(1), 0), Call::answered(5..=6, RegisterOp::Read, 0)];
    assert_eq!(linearizable::<Register>(&calls), Ok(()));
    let calls = [Call::answered(0..=4, RegisterOp::Write(1), 0), Call::answered(5..=6, RegisterOp::Read, 0)];
    assert!(linearizable::<Register>(&calls).is_err());
}

#[test]
fn unanswered_call_takes_effect_late_or_never() {
    let read = |during, value| Call::answered(during, RegisterOp::Read, value);
    let lost = Call::unanswered(2, RegisterOp::Write(1));
    assert_eq!(linearizable::<Register>(&[lost.clone(), read(3..=4, 0), read(5..=6, 0)]), Ok(()));
    assert_eq!(linearizable::<Register>(&[lost.clone(), read(3..=4, 0), read(5..=6, 1)]), Ok(()));
    assert!(linearizable::<Register>(&[lost.clone(), read(3..=4, 1), read(5..=6, 0)]).is_err());
    assert!(linearizable::<Register>(&[lost, read(0..=1, 1)]).is_err());
}

#[test]
fn queue_dequeues_in_enqueue_order() {
    let put = |during, value| Call::answered(during, QueueOp::Put(value), None);
    let take = |during, value| Call::answered(during, QueueOp::Take, value);
    let together =
        [put(0..=3, 1), put(0..=3, 2), take(4..=5, Some(2)), take(6..=7, Some(1)), take(8..=9, None)];
    assert_eq!(linearizable::<Queue>(&together), Ok(()));
    let apart = [put(0..=1, 1), put(2..=3, 2), take(4..=5, Some(2)), take(6..=7, Some(1))];
    assert!(linearizable::<Queue>(&apart).is_err());
    let twice = [put(0..=1, 1), take(2..=5, Some(1)), take(2..=5, Some(1))];
    assert!(linearizable::<Queue>(&twice).is_err());
}

#[test]
fn idempotency_key_creates_once_then_replays_receipt() {
    let request = |during, key: &str, fingerprint, answer| {
        Call::answered(during, Request { key: key.into(), fingerprint }, answer)
    };
    use Answer::{Created, Replayed, Reused};
    let race = [
        request(0..=9, "a", 1, Replayed(7)),
        request(0..=9, "a", 1, Created(7)),
        request(0..=9, "a", 2, Reused),
        request(0..=9, "b", 2, Created(8)),
    ];
    assert_eq!(linearizable::<Idempotency>(&race), Ok(()));
    for wrong in [
        [request(0..=9, "a", 1, Created(7)), request(0..=9, "a", 1, Created(8))],
        [request(0..=9, "a", 1, Created(7)), request(0..=9, "a", 1, Replayed(8))],
        [request(0..=9, "a", 1, Created(7)), request(0..=9, "a", 2, Replayed(7))],
        [request(0..=9, "a", 1, Created(7)), request(0..=9, "a", 1, Reused)],
        [request(0..=1, "a", 1, Replayed(7)), request(2..=3, "a", 1, Created(7))],
        [request(0..=1, "a", 1, Reused), request(2..=3, "a", 2, Created(7))],
    ] {
        let told = linearizable::<Idempotency>(&wrong).expect_err("the key was not kept");
        assert!(told.starts_with("no order explains the calls of \"a\""), "{told}");
    }
    // The reply of the first was lost, so its receipt is that of the first replay.
    let lost = Call::unanswered(0, Request { key: "a".into(), fingerprint: 1 });
    let replays = |second| {
        [lost.clone(), request(2..=3, "a", 1, Replayed(7)), request(4..=5, "a", 1, Replayed(second))]
    };
    assert_eq!(linearizable::<Idempotency>(&replays(7)), Ok(()));
    assert!(linearizable::<Idempotency>(&replays(8)).is_err());
}

#[test]
fn only_one_caller_raises_flag() {
    let raise = |during, first| Call::answered(during, OnceOp::Raise("sent".into()), first);
    let look = |during, raised| Call::answered(during, OnceOp::Look("sent".into()), raised);
    assert_eq!(linearizable::<Once>(&[raise(0..=9, false), raise(0..=9, true), look(1..=2, false)]), Ok(()));
    assert!(linearizable::<Once>(&[raise(0..=9, true), raise(0..=9, true)]).is_err());
    assert!(linearizable::<Once>(&[raise(0..=9, false), raise(0..=9, false)]).is_err());
    assert!(linearizable::<Once>(&[raise(0..=1, true), look(2..=3, false)]).is_err());
}

#[test]
fn ten_thousand_partitioned_calls_are_checked() {
    let call = |n: u64| {
        let request = Request { key: format!("key {}", n / 10), fingerprint: 1 };
        let answer = if n.is_multiple_of(10) { Answer::Created(n) } else { Answer::Replayed(n / 10 * 10) };
        // Those of a key overlap one another.
        Call::answered(n..=n + 10, request, answer)
    };
    // The one who created comes last in the list, and first in the order.
    let calls: Vec<_> = (0..10_000).rev().map(call).collect();
    assert_eq!(linearizable::<Idempotency>(&calls), Ok(()));
}
