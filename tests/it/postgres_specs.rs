//! PostgreSQL's isolation specs, as far as they speak of serializable transactions: every program, every interleaving.
//!
//! Of each spec three numbers are known, and each must come out exactly, in events and in rows:
//!
//! - how many orders of the steps there are;
//! - in how many of them no serial order explains the outcome if nothing is validated (PostgreSQL's own 6 and 4 among them):
//!   so the oracle can see what it is for;
//! - in how many this store refuses a transaction. Never one that only reads.
//!
//! Every outcome is strictly serializable in the order of commits; and when transactions decide again, all of them commit.

use crate::support::interleave::{
    End, Form, Oracle, Program, Ran, Spec, fresh, program, run, run_on_threads,
};
use tallystone::request::Retry;

const TRACKED: [Form; 2] = [Form::Events, Form::Rows];

/// What is known of a spec.
#[derive(Debug, PartialEq)]
struct Counts {
    orders: usize,
    /// Outcomes without validation that no serial order explains.
    anomalies: usize,
    /// Orders in which at least one transaction is refused.
    refused: usize,
}

fn check(base: &'static [(u32, i64)], programs: &[Program], orders: usize, anomalies: usize, refused: usize) {
    let spec = Spec { base, programs: programs.to_vec() };
    let (schedules, mut oracle) = (spec.schedules(), Oracle::new(&spec));
    for form in TRACKED {
        let mut counts = Counts { orders: schedules.len(), anomalies: 0, refused: 0 };
        for schedule in &schedules {
            let told = |why| panic!("{form:?} {schedule:?}: {why}");
            let outcome = run(&fresh(base), &spec, form, schedule, |_| {});
            oracle.check(&outcome).unwrap_or_else(told);
            counts.refused += usize::from(outcome.all.iter().any(Ran::lost));
            let unvalidated = run(&fresh(base), &spec, Form::Untracked, schedule, |_| {});
            counts.anomalies += usize::from(!oracle.explains(&unvalidated));
            let again = run_on_threads(&fresh(base), &spec, form, schedule, Retry::default());
            assert!(again.all.iter().all(Ran::committed), "{form:?} {schedule:?}: {again:?}");
            oracle.check(&again).unwrap_or_else(told);
        }
        assert_eq!(counts, Counts { orders, anomalies, refused }, "{form:?}");
    }
}

fn any(_: i64) -> bool {
    true
}

const APPLE: i64 = 1;
const PEAR: i64 = 2;
const BANANA: i64 = 3;

/// One turns pears into apples, the other apples into pears.
#[test]
fn simple_write_skew() {
    let s1 = program(&[|t| t.all(|it| it == PEAR).into_iter().for_each(|(cell, _)| t.set(cell, APPLE))]);
    let s2 = program(&[|t| t.all(|it| it == APPLE).into_iter().for_each(|(cell, _)| t.set(cell, PEAR))]);
    check(&[(5, APPLE), (7, PEAR), (11, BANANA)], &[s1, s2], 6, 4, 4);
}

/// Checking and savings: each takes 200 from one of them, and looks at the sum.
#[test]
fn total_cash() {
    let s1 = program(&[
        |t| {
            let checking = t.get(1);
            t.set(1, checking - 200);
        },
        |t| _ = t.all(any),
    ]);
    let s2 = program(&[
        |t| {
            let savings = t.get(2);
            t.set(2, savings - 200);
        },
        |t| _ = t.all(any),
    ]);
    check(&[(1, 600), (2, 600)], &[s1, s2], 20, 18, 18);
}

const PERSONS: u32 = 1;
const PROJECTS: u32 = 2;

/// A project needs a manager who is one; a person stops being one who has no project.
#[test]
fn project_manager() {
    let s1 = program(&[
        |t| _ = t.get(PERSONS * 100 + 1),
        |t| {
            if t.last() == "1" {
                t.set(PROJECTS * 100 + 1, 1);
            }
        },
    ]);
    let s2 = program(&[
        |t| _ = t.table(PROJECTS, |manager| manager == 1),
        |t| {
            if t.last().is_empty() {
                t.set(PERSONS * 100 + 1, 0);
            }
        },
    ]);
    check(&[(101, 1), (102, 1), (103, 0)], &[s1, s2], 20, 18, 18);
}

/// Reservations of one room for an hour, by the half hour they begin: Bob's from ten. Carol wants one to two; Bob's is moved to
/// half past one.
#[test]
fn classroom_scheduling() {
    const BOB: u32 = 101;
    const CAROL: u32 = 102;
    let s1 = program(&[
        |t| _ = t.table(1, |begin| begin < 28 && begin + 2 > 26),
        |t| {
            if t.last().is_empty() {
                t.set(CAROL, 26);
            }
        },
    ]);
    let s2 = program(&[
        |t| _ = t.table(1, |begin| begin < 29 && begin + 2 > 27),
        |t| {
            if t.last().is_empty() {
                t.set(BOB, 27);
            }
        },
    ]);
    check(&[(BOB, 20)], &[s1, s2], 20, 18, 18);
}

const STATUTES: u32 = 1;
const OFFENSES: u32 = 2;

/// An offense needs its statute; a statute is taken away that no offense names.
#[test]
fn temporal_range_integrity() {
    let s1 = program(&[
        |t| _ = t.get(STATUTES * 100 + 1),
        |t| {
            if t.last() != "none" {
                t.set(OFFENSES * 100 + 1, 1);
            }
        },
    ]);
    let s2 = program(&[
        |t| _ = t.table(OFFENSES, |statute| statute == 1),
        |t| {
            if t.last().is_empty() {
                t.remove(STATUTES * 100 + 1);
            }
        },
    ]);
    check(&[(101, 1)], &[s1, s2], 20, 18, 18);
}

const DEPOSIT_DATE: u32 = 1;
const RECEIPTS: u32 = 2;

/// A receipt takes the date of the deposit; the date goes on; a report that saw the new date must see all receipts of the old.
#[test]
fn receipt_report() {
    let s1 = program(&[|t| {
        let date = t.get(DEPOSIT_DATE);
        t.set(RECEIPTS * 100 + 3, date);
    }]);
    let s2 = program(&[|t| t.set(DEPOSIT_DATE, 23)]);
    let report = program(&[|t| _ = t.get(DEPOSIT_DATE), |t| _ = t.table(RECEIPTS, |date| date == 22)]);
    check(&[(DEPOSIT_DATE, 22), (201, 22), (202, 22)], &[s1, s2, report], 210, 6, 70);
}

/// D1+=1, then D2:=D1+1; only with real time is a look at D2 alone an anomaly.
#[test]
fn two_ids() {
    let s1 = program(&[|t| {
        let one = t.get(1);
        t.set(1, one + 1);
    }]);
    let s2 = program(&[|t| {
        let one = t.get(1);
        t.set(2, one + 1);
    }]);
    let s3 = program(&[|t| _ = t.get(2)]);
    check(&[(1, 1), (2, 1)], &[s1, s2, s3], 90, 4, 30);
}

const X: u32 = 1;
const Y: u32 = 2;

const DEPOSITS: Program = program(&[|t| _ = t.get(Y), |t| t.set(Y, 20)]);
/// With a fee if that leaves less than nothing.
const WITHDRAWS: Program =
    program(&[|t| _ = t.get(X), |t| _ = t.get(Y), |t| t.set(X, if t.last() == "0" { -11 } else { -10 })]);
const LOOKS: Program = program(&[|t| _ = (t.get(X), t.get(Y))]);

#[test]
fn read_only_anomaly() {
    check(&[(X, 0), (Y, 0)], &[DEPOSITS, WITHDRAWS, LOOKS], 1260, 77, 684);
}

/// The two orders printed in `read-only-anomaly-2`: what is read only is never refused; the pivot is, in both.
#[test]
fn read_only_anomaly_2() {
    let spec = Spec { base: &[(X, 0), (Y, 0)], programs: vec![DEPOSITS, WITHDRAWS, LOOKS] };
    let orders = [[1, 1, 0, 0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 0, 2, 2, 1, 1]];
    for (order, explained) in orders.iter().zip([true, false]) {
        for form in TRACKED {
            let outcome = run(&fresh(spec.base), &spec, form, order, |_| {});
            Oracle::new(&spec).check(&outcome).expect("it is serializable");
            assert_eq!(outcome.all.iter().map(Ran::lost).collect::<Vec<_>>(), [false, true, false]);
        }
        let unvalidated = run(&fresh(spec.base), &spec, Form::Untracked, order, |_| {});
        assert_eq!(Oracle::new(&spec).explains(&unvalidated), explained);
    }
}

#[test]
fn feketes_three_transactions() {
    let t1 = program(&[|t| _ = t.all(any), |t| t.set(1, 0)]);
    let t2 = program(&[|t| _ = t.get(2), |t| t.set(2, 25)]);
    let t3 = program(&[|t| _ = t.all(any)]);
    check(&[(1, 10), (2, 20)], &[t1, t2, t3], 560, 27, 252);
}

#[test]
fn g2_item_in_all_orders() {
    let t1 = program(&[|t| _ = t.get(1), |t| _ = t.get(2), |t| t.set(1, 11)]);
    let t2 = program(&[|t| _ = t.get(1), |t| _ = t.get(2), |t| t.set(2, 21)]);
    check(&[(1, 10), (2, 20)], &[t1, t2], 70, 68, 68);
}

#[test]
fn g2_in_all_orders() {
    let t1 = program(&[|t| _ = t.all(|value| value % 3 == 0), |t| t.set(3, 30)]);
    let t2 = program(&[|t| _ = t.all(|value| value % 3 == 0), |t| t.set(4, 42)]);
    check(&[(1, 10), (2, 20)], &[t1, t2], 20, 18, 18);
}

#[test]
fn g1c_in_all_orders() {
    let t1 = program(&[|t| t.set(1, 11), |t| _ = t.get(2)]);
    let t2 = program(&[|t| t.set(2, 22), |t| _ = t.get(1)]);
    check(&[(1, 10), (2, 20)], &[t1, t2], 20, 18, 18);
}

/// Snapshot isolation forbids lost updates by comparing writes; without any validation all overlapping orders lose one.
#[test]
fn p4_in_all_orders() {
    let adds = program(&[
        |t| _ = t.get(1),
        |t| {
            let value = t.get(1);
            t.set(1, value + 1);
        },
    ]);
    check(&[(1, 10)], &[adds, adds], 20, 18, 18);
}

#[test]
fn g_single_in_all_orders() {
    let t1 = program(&[|t| _ = t.get(1), |t| _ = t.get(2)]);
    let t2 = program(&[|t| _ = t.get(1), |t| _ = t.get(2), |t| t.set(1, 12), |t| t.set(2, 18)]);
    check(&[(1, 10), (2, 20)], &[t1, t2], 56, 0, 0);
}

/// rx1 wx2 c2 wx3 ry3 wy4 rz4 c4 c3 wz1 c1: each of T3 and T1 has read what was changed.
#[test]
fn multiple_row_versions() {
    let t1 = program(&[|t| _ = t.get(1), |t| t.set(3, 1)]);
    let t2 = program(&[|t| t.set(1, 2)]);
    let t3 = program(&[|t| t.set(1, 3), |t| _ = t.get(2)]);
    let t4 = program(&[|t| t.set(2, 4), |t| _ = t.get(3)]);
    let spec = Spec { base: &[(1, 0), (2, 0), (3, 0)], programs: vec![t1, t2, t3, t4] };
    let order = [0, 1, 1, 2, 2, 3, 3, 3, 2, 0, 0];
    for form in TRACKED {
        let outcome = run(&fresh(spec.base), &spec, form, &order, |_| {});
        Oracle::new(&spec).check(&outcome).expect("it is serializable");
        let lost: Vec<_> = outcome.all.iter().map(|ran| matches!(ran.end, End::Conflict(_))).collect();
        assert_eq!(lost, [true, false, true, false]);
    }
    let unvalidated = run(&fresh(spec.base), &spec, Form::Untracked, &order, |_| {});
    assert!(!Oracle::new(&spec).explains(&unvalidated));
}
