//! Runs a story of threads under many schedules.
//!
//! A story is code that starts threads, waits for them, and asserts. It holds if it fails under no schedule; a story with a
//! planted fault must fail under one of as many, or it is no test of anything.
//!
//! `SCHEDULES` is their number, 10,000 by default: half of them drawn evenly, half by priorities with few changes (PCT), which
//! meet a rare order of three events sooner. `SEED` draws others. A failing schedule is printed; `SCHEDULE=…` runs it again.

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Number of changes of priority in a schedule of the second kind.
const CHANGES: usize = 3;
/// Number of schedules of one kind, before those of the other.
const BLOCK: usize = 100;

/// Fails with the first schedule under which the story fails.
pub(crate) fn holds(subject: &str, story: impl Fn() + Send + Sync + 'static) {
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        Runner::new(ReplayScheduler::new_from_encoded(&schedule), config()).run(story);
        return;
    }
    let began = Instant::now();
    let (schedules, failure) = explore(number("SCHEDULES", 10_000), story);
    if let Err(failure) = failure {
        eprintln!("{subject}: schedule {schedules} of SEED={} fails", number("SEED", 1));
        std::panic::resume_unwind(failure);
    }
    println!("{subject}: {schedules} schedules in {:.1} s", began.elapsed().as_secs_f64());
}

/// Fails if no schedule finds the fault in the story.
pub(crate) fn finds(fault: &str, story: impl Fn() + Send + Sync + 'static) {
    let began = Instant::now();
    let (schedules, failure) = explore(number("SCHEDULES", 10_000), story);
    assert!(failure.is_err(), "{fault}: not found in {schedules} schedules");
    println!("{fault}: found by schedule {schedules} in {:.1} s", began.elapsed().as_secs_f64());
}

/// Returns the number of schedules that were begun, and the end of the last one.
fn explore(
    schedules: usize,
    story: impl Fn() + Send + Sync + 'static,
) -> (usize, Result<(), Box<dyn Any + Send>>) {
    let seed = number("SEED", 1) as u64;
    let begun = Arc::new(AtomicUsize::new(0));
    let story = Arc::new(story);
    let run = || {
        for (block, first) in (0..schedules).step_by(BLOCK).enumerate() {
            let (seed, len) = ((seed << 32) + block as u64, BLOCK.min(schedules - first));
            let scheduler: Box<dyn Scheduler + Send> = match block % 2 {
                0 => Box::new(RandomScheduler::new_from_seed(seed, len)),
                _ => Box::new(PctScheduler::new_from_seed(seed, CHANGES, len)),
            };
            let (story, begun) = (story.clone(), begun.clone());
            Runner::new(scheduler, config()).run(move || {
                begun.fetch_add(1, Ordering::Relaxed);
                story();
            });
        }
    };
    let failure = catch_unwind(AssertUnwindSafe(run));
    (begun.load(Ordering::Relaxed), failure)
}

fn config() -> Config {
    let mut config = Config::new();
    // A commit in debug mode needs more than the default.
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    // A story takes a few hundred. Threads that run and get nowhere take more.
    config.max_steps = MaxSteps::FailAfter(100_000);
    // Destructors of a story that failed would wait for threads that nobody runs any more.
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    config
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}
