//! Each program, cut or failed at each operation of its open, and then the right one.
//!
//! `FULL=1 cargo test --test it opening::sweep -- --nocapture` tries every operation instead of a share of them.

use super::codes::*;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tallystone::error::OpenError;
use tallystone::prelude::*;
use tallystone::testing::{Fault, Faults, ImagePolicy};
use tallystone::{Options, Setup, Store};

/// A program that is not the right one, or is.
struct Program {
    name: &'static str,
    setup: fn() -> Setup,
    options: fn() -> Options,
    /// The log has something that it lacks.
    is_refused: bool,
}

fn tiny() -> Options {
    let mut options = Options::default();
    options.overlay_bytes_max = TINY;
    options
}

/// Rows of the right program are larger.
fn short_rows() -> Options {
    let mut options = tiny();
    options.row_bytes_max = 4;
    options
}

fn large() -> Options {
    let mut options = tiny();
    options.overlay_bytes_max = LARGE;
    options
}

fn programs() -> [Program; 10] {
    let opens = |name, setup, options| Program { name, setup, options, is_refused: false };
    let refused = |name, setup| Program { name, setup, options: tiny, is_refused: true };
    [
        opens("right", right, tiny),
        opens("right, large overlay", right, large),
        opens("right, rows too short", right, short_rows),
        opens("a fold changed", program::<DOUBLE>, tiny),
        opens("a fold and a guard overlook", program::<DEAF>, tiny),
        opens("a fold panics", program::<PANICS>, tiny),
        opens("a version raised", raised, tiny),
        opens("nothing registered", bare_events, tiny),
        refused("older", older),
        refused("a family missing", without_notes),
    ]
}

/// Where the store stands when it is opened.
fn starts() -> Vec<(&'static str, Lab)> {
    let machine = Lab::new(1);
    let store = machine.create(right(), TINY);
    work(&store, 0, 12);
    append(&store, Account::Bonus { account: UNOPENED });
    settle(&store);
    store.close();
    let closed = machine.fork(1);
    let store = machine.open(right(), LARGE).unwrap();
    work(&store, 20, 16);
    settle(&store);
    machine.kill(store);
    let without = |seed, file: &str| {
        let lab = machine.fork(seed);
        lab.remove(file);
        lab
    };
    let half_built = without(2, STATE);
    // A rebuild that dies in its middle.
    half_built.disk.cut_at(half_built.disk.op_count() + 60, ImagePolicy::KeepAll);
    drop(half_built.open(right(), TINY));
    half_built.disk.restart();
    vec![
        ("closed", closed),
        ("no state", without(3, STATE)),
        ("half built", half_built),
        ("no checks", without(4, "/bank/checks.redb")),
        ("killed", machine),
    ]
}

/// It has a bonus and was never opened: a violation that must be on record once.
const UNOPENED: u32 = 9000;

/// What goes wrong while the program runs.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Nothing,
    Cut(u64, ImagePolicy),
    Error(u64, Fault),
}

/// Opens with one program while something goes wrong, and then with the right one.
fn cell(lab: &Lab, program: &Program, wrong: Wrong) -> &'static str {
    let (ops, reads) = (lab.disk.op_count(), lab.disk.read_count());
    match wrong {
        Wrong::Nothing => {}
        Wrong::Cut(ahead, policy) => lab.disk.cut_at(ops + ahead, policy),
        Wrong::Error(ahead, fault @ Fault::ReadError) => {
            lab.disk.plan(Faults::none().at(reads + ahead, fault))
        }
        Wrong::Error(ahead, fault) => lab.disk.plan(Faults::none().at(ops + ahead, fault)),
    }
    let before = lab.derived();
    let opened = Store::open(STORE, lab.with((program.setup)(), (program.options)()));
    let ended = match opened {
        Ok(store) => {
            assert!(!program.is_refused, "it must be refused");
            (0..4).for_each(|_| store.step());
            store.close();
            "opened"
        }
        Err(OpenError::Missing(_)) if program.is_refused => {
            assert!(lab.derived() == before, "a refusal changes no derived file");
            "refused"
        }
        Err(error) => {
            assert!(!matches!(wrong, Wrong::Nothing), "{error}");
            "failed"
        }
    };
    lab.disk.plan(Faults::none());
    match lab.disk.is_off() {
        true => drop(lab.disk.restart()),
        false => lab.disk.kill(),
    }
    let store = lab.open(right(), TINY).unwrap_or_else(|error| panic!("the right program: {error}"));
    assert_right(&store, program.name);
    let view = store.view().unwrap();
    // Another program may have found what it thinks is wrong; this one was found before it ran.
    assert_eq!(store.checks().of("no-bonus-unopened").unwrap().len(), 1);
    let found = view.query::<tallystone::event::Raw>(Query::all()).map(|event| event.unwrap().event);
    let is_found = |event: &tallystone::event::Raw| {
        event.type_name() == "tallystone.Violated" && event.stream().ends_with("no-bonus-unopened")
    };
    assert_eq!(found.filter(is_found).count(), 1, "a finding is recorded once");
    ended
}

/// Operations and reads of a run in which nothing goes wrong.
fn calls(lab: &Lab, program: &Program) -> (u64, u64) {
    let (ops, reads) = (lab.disk.op_count(), lab.disk.read_count());
    if let Ok(store) = Store::open(STORE, lab.with((program.setup)(), (program.options)())) {
        (0..4).for_each(|_| store.step());
        store.close();
    }
    (lab.disk.op_count() - ops, lab.disk.read_count() - reads)
}

#[test]
fn right_program_finds_rows_after_any_other() {
    // Folds that panic are part of it; what fails is told at the end.
    let (here, tell) = (std::thread::current().id(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() != here {
            tell(info);
        }
    }));
    let share = if std::env::var("FULL").is_ok() { 1 } else { 29 };
    let (mut tally, mut failed) = (BTreeMap::<_, u64>::new(), Vec::new());
    let faults =
        [Fault::AnyError, Fault::ReadError, Fault::SyncErrorKeepsNew, Fault::ShortWrite, Fault::NoSpace];
    for (at, lab) in starts() {
        for (index, program) in programs().iter().enumerate() {
            let (ops, reads) = calls(&lab.fork(1), program);
            let mut wrongs = vec![Wrong::Nothing];
            // Other operations for each program, so that a share meets most of them.
            let first = 1 + index as u64 * 3 % share;
            // A program that is refused makes few operations: each of them counts.
            let step = share.min(ops / 8 + 1);
            for ahead in (first.min(step)..=ops).step_by(step as usize) {
                let turn = (ahead / step) as usize + index;
                wrongs.push(Wrong::Cut(ahead, ImagePolicy::ALL[turn % ImagePolicy::ALL.len()]));
                let fault = faults[turn % faults.len()];
                let ahead = if fault == Fault::ReadError { ahead * reads / ops.max(1) } else { ahead };
                wrongs.push(Wrong::Error(ahead, fault));
            }
            for (seed, wrong) in wrongs.into_iter().enumerate() {
                let lab = lab.fork(seed as u64);
                let ended = catch_unwind(AssertUnwindSafe(|| cell(&lab, program, wrong)));
                match ended {
                    Ok(ended) => *tally.entry((program.name, ended)).or_default() += 1,
                    Err(panic) => {
                        let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        failed.push(format!("{at}, {}, {wrong:?}: {why}", program.name));
                    }
                }
            }
        }
    }
    let runs = tally.values().sum::<u64>() + failed.len() as u64;
    println!("{runs} runs, {} failed", failed.len());
    tally.iter().for_each(|((program, ended), count)| println!("  {program}: {count} {ended}"));
    assert!(failed.is_empty(), "{} of {runs}:\n{}", failed.len(), failed[..failed.len().min(40)].join("\n"));
}
