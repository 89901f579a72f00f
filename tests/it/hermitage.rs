//! Martin Kleppmann's Hermitage, row by row: the interleavings that tell isolation levels apart, and what this store answers.
//!
//! - Each row runs as printed, by hand on one thread, in events and in rows: on a store in memory, and on a simulated disk with
//!   a flush before each turn in turn; the disk's is closed, opened again and verified.
//! - Then through `transact` on threads of their own, where no conflict reaches a caller.
//! - Then in every order of its steps. `FULL=1` does that on the disk and on threads too, where a sample is the default.
//! - The oracle must be able to say no: without tracking, each row that ends in a conflict here is an anomaly it sees.

use crate::support::interleave;
use crate::support::interleave::{
    Cells, Form, Oracle, Outcome, Program, Schedule, Spec, fill, fresh, given_up, program, run,
};
use crate::support::interleave::{End, State, run_on_threads, state};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tallystone::Options;
use tallystone::disk::Platform;
use tallystone::prelude::*;
use tallystone::request::Retry;
use tallystone::testing::{SimClock, SimDisk, SimEntropy};

const BASE: &[(u32, i64)] = &[(1, 10), (2, 20)];
const TRACKED: [Form; 2] = [Form::Events, Form::Rows];

/// One row of the list, as printed.
struct Row {
    programs: Vec<Program>,
    /// Whose turn it is, from 1.
    order: &'static [usize],
    /// What each sees.
    sees: &'static [&'static [&'static str]],
    /// Who meets a conflict, from 1.
    loses: Option<usize>,
    last: &'static [(u32, i64)],
}

impl Row {
    fn check(self) {
        let spec = Spec { base: BASE, programs: self.programs.clone() };
        let printed: Schedule = self.order.iter().map(|who| who - 1).collect();
        let mut oracle = Oracle::new(&spec);
        for form in TRACKED {
            self.as_printed(&run(&fresh(BASE), &spec, form, &printed, |_| {}), &format!("{form:?}"));
            let store = Store::in_memory(Setup::new().inline::<Cells>()).expect("a store in memory opens");
            fill(&store, BASE);
            let outcome = run_on_threads(&store, &spec, form, &printed, Retry::Never);
            self.as_printed(&outcome, &format!("{form:?} on threads"));
            for flushed_before in 0..printed.len() {
                let outcome = on_disk(&spec, form, &printed, |turn| turn == flushed_before);
                self.as_printed(&outcome, &format!("{form:?}, flushed before turn {flushed_before}"));
            }
        }
        for (number, schedule) in shared(spec.schedules()).iter().enumerate() {
            for form in TRACKED {
                let told = |why| panic!("{form:?} {schedule:?}: {why}");
                let outcome = run(&fresh(BASE), &spec, form, schedule, |_| {});
                oracle.check(&outcome).unwrap_or_else(told);
                assert!(!outcome.all.iter().any(|ran| ran.end == End::TooOld), "nothing is flushed here");
                if sampled(number, 60) {
                    let outcome = run_on_threads(&fresh(BASE), &spec, form, schedule, Retry::default());
                    assert!(!outcome.all.iter().any(interleave::Ran::lost), "{form:?} {schedule:?}");
                    oracle.check(&outcome).unwrap_or_else(told);
                }
                if sampled(number, 20) {
                    // A flush before every turn: of what took longer than two of them, rows may be too old.
                    let outcome = on_disk(&spec, form, schedule, |_| true);
                    oracle.check(&outcome).unwrap_or_else(told);
                }
            }
        }
        let untracked = run(&fresh(BASE), &spec, Form::Untracked, &printed, |_| {});
        assert_eq!(oracle.explains(&untracked), self.loses.is_none(), "without tracking: {untracked:?}");
    }

    fn as_printed(&self, outcome: &Outcome, how: &str) {
        for (index, ran) in outcome.all.iter().enumerate() {
            assert_eq!(ran.seen, self.sees[index], "{how}: what t{} sees: {outcome:#?}", index + 1);
            let loses = self.loses == Some(index + 1);
            assert_eq!(matches!(ran.end, End::Conflict(_)), loses, "{how}: how t{} ends: {ran:?}", index + 1);
            assert!(loses || ran.committed() || ran.end == End::GaveUp, "{how}: {ran:?}");
        }
        assert_eq!(outcome.last, self.last, "{how}");
    }
}

/// All of them with `FULL=1`; else about this many, spread over every row.
/// All orders, or of very many every seventh. `FULL=1` takes all.
fn shared(orders: Vec<Schedule>) -> Vec<Schedule> {
    let step = if orders.len() > 2000 && std::env::var("FULL").is_err() { 7 } else { 1 };
    orders.into_iter().step_by(step).collect()
}

fn sampled(number: usize, of_the_first: usize) -> bool {
    std::env::var("FULL").is_ok() || number < of_the_first || number.is_multiple_of(97)
}

// ---- a simulated disk ----

#[derive(Serialize, Deserialize)]
struct Filler {
    number: u64,
    tags: Vec<String>,
}

impl Event for Filler {
    const FAMILY: &str = "filler";
    type Id = ();

    fn id(&self) {}

    fn tags(&self) -> Tags {
        self.tags.iter().fold(Tags::none(), |tags, tag| tags.and("filler", tag))
    }
}

/// Fills the overlay with what no program reads, until it is flushed.
fn flush(store: &Store, number: &mut u64) {
    let before = store.stats().flushed_commit;
    while store.stats().flushed_commit == before {
        *number += 1;
        let tags = (0..32).map(|tag| format!("{number}-{tag}")).collect();
        store.append(Append::event(Filler { number: *number, tags })).expect("nothing refuses it");
    }
}

/// By hand on a simulated disk, with flushes before some turns; closed, opened again and verified.
fn on_disk(spec: &Spec, form: Form, schedule: &[usize], flushed_before: impl Fn(usize) -> bool) -> Outcome {
    let disk = SimDisk::new(1);
    let open = || {
        let (clock, entropy) = (Arc::new(SimClock::default()), Arc::new(SimEntropy::new(1)));
        let platform = Platform { disk: Arc::new(disk.clone()), clock, entropy };
        let mut options = Options::default();
        (options.segment_bytes_min, options.segment_bytes_max) = (16 << 10, 64 << 10);
        options.overlay_bytes_max = 4096;
        let setup = Setup::new().inline::<Cells>().events::<Filler>().options(options);
        Store::open_or_create("/store", setup.platform(platform).lockstep()).expect("it opens")
    };
    let (store, mut number) = (open(), 0);
    fill(&store, spec.base);
    let outcome = run(&store, spec, form, schedule, |turn| {
        if flushed_before(turn) {
            flush(&store, &mut number);
        }
    });
    store.close();
    let store = open();
    let last: State = state(&store);
    assert_eq!(last, outcome.last, "the same after it was opened again");
    assert_eq!(store.verify().expect("verify looks").first_bad, None);
    outcome
}

fn any(_: i64) -> bool {
    true
}

fn is_30(value: i64) -> bool {
    value == 30
}

fn is_20(value: i64) -> bool {
    value == 20
}

fn is_10(value: i64) -> bool {
    value == 10
}

fn by_3(value: i64) -> bool {
    value % 3 == 0
}

fn by_5(value: i64) -> bool {
    value % 5 == 0
}

// ---- the rows ----

/// w1(1)=11; w2(1)=12; w1(2)=21; c1; r3(all); w2(2)=22; c2. Blind writes never conflict.
#[test]
fn g0_dirty_write_is_prevented() {
    let t1 = program(&[|t| t.set(1, 11), |t| t.set(2, 21)]);
    let t2 = program(&[|t| t.set(1, 12), |t| t.set(2, 22)]);
    let t3 = program(&[|t| _ = t.all(any)]);
    Row {
        programs: vec![t1, t2, t3],
        order: &[1, 2, 1, 1, 3, 3, 2, 2],
        sees: &[&[], &[], &["11,21"]],
        loses: None,
        last: &[(1, 12), (2, 22)],
    }
    .check();
}

/// w1(1)=101; r2(all); a1; r2(all); c2.
#[test]
fn g1a_aborted_write_is_never_read() {
    let t1 = given_up(&[|t| t.set(1, 101)]);
    let t2 = program(&[|t| _ = t.all(any), |t| _ = t.all(any)]);
    Row {
        programs: vec![t1, t2],
        order: &[1, 2, 1, 2, 2],
        sees: &[&[], &["10,20", "10,20"]],
        loses: None,
        last: BASE,
    }
    .check();
}

/// w1(1)=101; r2(all); w1(1)=11; c1; r2(all); c2.
#[test]
fn g1b_intermediate_write_is_never_read() {
    let t1 = program(&[|t| t.set(1, 101), |t| t.set(1, 11)]);
    let t2 = program(&[|t| _ = t.all(any), |t| _ = t.all(any)]);
    Row {
        programs: vec![t1, t2],
        order: &[1, 2, 1, 1, 2, 2],
        sees: &[&[], &["10,20", "10,20"]],
        loses: None,
        last: &[(1, 11), (2, 20)],
    }
    .check();
}

/// w1(1)=11; w2(2)=22; r1(2); r2(1); c1; c2.
#[test]
fn g1c_circular_information_flow_is_refused() {
    let t1 = program(&[|t| t.set(1, 11), |t| _ = t.get(2)]);
    let t2 = program(&[|t| t.set(2, 22), |t| _ = t.get(1)]);
    Row {
        programs: vec![t1, t2],
        order: &[1, 2, 1, 2, 1, 2],
        sees: &[&["20"], &["10"]],
        loses: Some(2),
        last: &[(1, 11), (2, 20)],
    }
    .check();
}

#[test]
fn g1c_conflict_names_changed_read() {
    let t1 = program(&[|t| t.set(1, 11)]);
    let t2 = program(&[|t| t.set(2, 22), |t| _ = t.get(1)]);
    let spec = Spec { base: BASE, programs: vec![t1, t2] };
    for (form, read) in [(Form::Rows, "row 1 of `cells`"), (Form::Events, "events: stream cell/1")] {
        let outcome = run(&fresh(BASE), &spec, form, &[1, 1, 0, 0, 1], |_| {});
        assert_eq!(outcome.all[1].end, End::Conflict(read.into()));
    }
}

/// b3; w1(1)=11; w1(2)=19; w2(1)=12; c1; r3(1); w2(2)=18; r3(2); c2; r3(2); r3(1); c3, and T3 begun before c1.
#[test]
fn otv_observed_transaction_never_vanishes_for_earlier_reader() {
    let t1 = program(&[|t| t.set(1, 11), |t| t.set(2, 19)]);
    let t2 = program(&[|t| t.set(1, 12), |t| t.set(2, 18)]);
    let t3 = program(&[|_| {}, |t| _ = t.get(1), |t| _ = t.get(2), |t| _ = t.get(2), |t| _ = t.get(1)]);
    Row {
        programs: vec![t1, t2, t3],
        order: &[3, 1, 1, 2, 1, 3, 2, 3, 2, 3, 3, 3],
        sees: &[&[], &[], &["10", "20", "20", "10"]],
        loses: None,
        last: &[(1, 12), (2, 18)],
    }
    .check();
}

/// The same, and T3 begun after c1.
#[test]
fn otv_observed_transaction_never_vanishes_for_later_reader() {
    let t1 = program(&[|t| t.set(1, 11), |t| t.set(2, 19)]);
    let t2 = program(&[|t| t.set(1, 12), |t| t.set(2, 18)]);
    let t3 = program(&[|t| _ = t.get(1), |t| _ = t.get(2), |t| _ = t.get(2), |t| _ = t.get(1)]);
    Row {
        programs: vec![t1, t2, t3],
        order: &[1, 1, 2, 1, 3, 2, 3, 2, 3, 3, 3],
        sees: &[&[], &[], &["11", "19", "19", "11"]],
        loses: None,
        last: &[(1, 12), (2, 18)],
    }
    .check();
}

/// r1(value=30); w2 insert(3,30); c2; r1(value%3=0); c1.
#[test]
fn pmp_predicate_many_preceders_reads_one_snapshot() {
    let t1 = program(&[|t| _ = t.all(is_30), |t| _ = t.all(by_3)]);
    let t2 = program(&[|t| t.set(3, 30)]);
    Row {
        programs: vec![t1, t2],
        order: &[1, 2, 2, 1, 1],
        sees: &[&["", ""], &[]],
        loses: None,
        last: &[(1, 10), (2, 20), (3, 30)],
    }
    .check();
}

/// w1(all: value+=10); w2(delete value=20); c1; r2(value=20); c2.
#[test]
fn pmp_write_predicate_is_refused() {
    let t1 = program(&[|t| t.all(any).into_iter().for_each(|(cell, value)| t.set(cell, value + 10))]);
    let t2 =
        program(&[|t| t.all(is_20).into_iter().for_each(|(cell, _)| t.remove(cell)), |t| _ = t.all(is_20)]);
    Row {
        programs: vec![t1, t2],
        order: &[1, 2, 1, 2, 2],
        sees: &[&["10,20"], &["20", ""]],
        loses: Some(2),
        last: &[(1, 20), (2, 30)],
    }
    .check();
}

/// r1(1); r2(1); w1(1)=11; w2(1)=11; c1; c2.
#[test]
fn p4_lost_update_is_refused() {
    let t1 = program(&[|t| _ = t.get(1), |t| t.set(1, 11)]);
    Row {
        programs: vec![t1, t1],
        order: &[1, 2, 1, 2, 1, 2],
        sees: &[&["10"], &["10"]],
        loses: Some(2),
        last: &[(1, 11), (2, 20)],
    }
    .check();
}

/// r1(1); r2(1); r2(2); w2(1)=12; w2(2)=18; c2; r1(2); c1.
#[test]
fn g_single_read_skew_is_prevented() {
    let t1 = program(&[|t| _ = t.get(1), |t| _ = t.get(2)]);
    let t2 = program(&[|t| _ = t.get(1), |t| _ = t.get(2), |t| t.set(1, 12), |t| t.set(2, 18)]);
    Row {
        programs: vec![t1, t2],
        order: &[1, 2, 2, 2, 2, 2, 1, 1],
        sees: &[&["10", "20"], &["10", "20"]],
        loses: None,
        last: &[(1, 12), (2, 18)],
    }
    .check();
}

/// r1(value%5=0); w2(value:=12 where value=10); c2; r1(value%3=0); c1.
#[test]
fn g_single_predicate_read_skew_is_prevented() {
    let t1 = program(&[|t| _ = t.all(by_5), |t| _ = t.all(by_3)]);
    let t2 = program(&[|t| t.all(is_10).into_iter().for_each(|(cell, _)| t.set(cell, 12))]);
    Row {
        programs: vec![t1, t2],
        order: &[1, 2, 2, 1, 1],
        sees: &[&["10,20", ""], &["10"]],
        loses: None,
        last: &[(1, 12), (2, 20)],
    }
    .check();
}

/// r1(1); r2(all); w2(1)=12; w2(2)=18; c2; w1(delete value=20); c1.
#[test]
fn g_single_write_predicate_is_refused() {
    let t1 = program(&[|t| _ = t.get(1), |t| t.all(is_20).into_iter().for_each(|(cell, _)| t.remove(cell))]);
    let t2 = program(&[|t| _ = t.all(any), |t| t.set(1, 12), |t| t.set(2, 18)]);
    Row {
        programs: vec![t1, t2],
        order: &[1, 2, 2, 2, 2, 1, 1],
        sees: &[&["10", "20"], &["10,20"]],
        loses: Some(1),
        last: &[(1, 12), (2, 18)],
    }
    .check();
}

/// r1(1,2); r2(1,2); w1(1)=11; w2(2)=21; c1; c2.
#[test]
fn g2_item_write_skew_is_refused() {
    let t1 = program(&[|t| _ = (t.get(1), t.get(2)), |t| t.set(1, 11)]);
    let t2 = program(&[|t| _ = (t.get(1), t.get(2)), |t| t.set(2, 21)]);
    Row {
        programs: vec![t1, t2],
        order: &[1, 2, 1, 2, 1, 2],
        sees: &[&["10", "20"], &["10", "20"]],
        loses: Some(2),
        last: &[(1, 11), (2, 20)],
    }
    .check();
}

/// r1(value%3=0); r2(value%3=0); insert1(3,30); insert2(4,42); c1; c2.
#[test]
fn g2_predicate_write_skew_is_refused() {
    let t1 = program(&[|t| _ = t.all(by_3), |t| t.set(3, 30)]);
    let t2 = program(&[|t| _ = t.all(by_3), |t| t.set(4, 42)]);
    Row {
        programs: vec![t1, t2],
        order: &[1, 2, 1, 2, 1, 2],
        sees: &[&[""], &[""]],
        loses: Some(2),
        last: &[(1, 10), (2, 20), (3, 30)],
    }
    .check();
}

/// r1(all); w2(2)+=5; c2; r3(all); c3; w1(1)=0; c1: T3 alone makes it an anomaly.
#[test]
fn g2_fekete_two_edges_are_refused() {
    let t1 = program(&[|t| _ = t.all(any), |t| t.set(1, 0)]);
    let t2 = program(&[|t| {
        let value = t.get(2);
        t.set(2, value + 5);
    }]);
    let t3 = program(&[|t| _ = t.all(any)]);
    Row {
        programs: vec![t1, t2, t3],
        order: &[1, 2, 2, 3, 3, 1, 1],
        sees: &[&["10,20"], &["20"], &["10,25"]],
        loses: Some(1),
        last: &[(1, 10), (2, 25)],
    }
    .check();
}

// ---- ranges ----

/// T1 reads one table and writes to another, T2 the other way round, or beside them.
fn a_range(t2: Program, loses: Option<usize>, last: &'static [(u32, i64)]) {
    let t1 = program(&[|t| _ = t.table(0, any), |t| t.set(201, 1)]);
    let (order, sees): (&[usize], &[&[&str]]) = (&[1, 2, 2, 2, 1, 1], &[&["10,20"], &[""]]);
    Row { programs: vec![t1, t2], order, sees, loses, last }.check();
}

#[test]
fn row_inserted_into_read_range_is_conflict() {
    let t2 = program(&[|t| _ = t.table(2, any), |t| t.set(7, 70)]);
    a_range(t2, Some(1), &[(1, 10), (2, 20), (7, 70)]);
}

#[test]
fn row_removed_from_read_range_is_conflict() {
    a_range(program(&[|t| _ = t.table(2, any), |t| t.remove(2)]), Some(1), &[(1, 10)]);
}

#[test]
fn row_outside_read_range_is_no_conflict() {
    let t2 = program(&[|t| _ = t.table(2, any), |t| t.set(100, 7)]);
    a_range(t2, None, &[(1, 10), (2, 20), (100, 7), (201, 1)]);
}
