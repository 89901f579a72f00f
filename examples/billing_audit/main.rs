//! Audits the billing of a shop for add-ons, and the audit itself: every way to go wrong is injected, and has to be found.
//!
//! ```sh
//! cargo run --release --example billing_audit                   # every fault, then 100,000 histories without one
//! cargo run --release --example billing_audit -- --histories 1000
//! ```
//!
//! A shop sells add-ons; each step of a purchase is an event. A background job starts and ends billing in a system of somebody else, a SQLite
//! file, and says so. It may be killed between the two, lose messages, bill twice, or have a bug: it cannot be prevented by a
//! transaction, since that ends at the store. So it is detected: checks compare events with events, rows with rows, amounts with
//! sums, what the job says it has applied with the log, and our bills with theirs.
//!
//! - Each fault is printed with its alert, its evidence and what to do about it.
//! - The last line says it all: `billing_audit: F faults injected, C caught, N false`. N counts violations, alerts and unread events in
//!   histories without a fault.
//! - Exit status 0: all caught, none false. 1: otherwise. 2: it could not run.

mod faults;
mod histories;
mod remote;
mod sales;
mod world;

use indicatif::{ProgressBar, ProgressStyle};
use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Whatever keeps the audit from running ends it.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: billing_audit [--histories N]
  --histories N  histories without a fault; 100000 unless said otherwise";

const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    if args.iter().any(|arg| arg == "--help") {
        return ended(say(USAGE).map(|()| true));
    }
    ended(parse(&args).and_then(audit))
}

fn ended(all_well: Result<bool>) -> ExitCode {
    match all_well {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("billing_audit: could not run: {error}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Writes to standard output. What could not be said was not found out by anybody: an error, and no success.
fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|error| format!("standard output cannot be written: {error}").into())
}

fn parse(args: &[String]) -> Result<u64> {
    match args {
        [] => Ok(100_000),
        [flag, number] if flag == "--histories" => {
            Ok(number.parse().map_err(|error| format!("{flag} {number}: {error}"))?)
        }
        _ => Err(USAGE.into()),
    }
}

/// Whether all is as it must be.
fn audit(histories: u64) -> Result<bool> {
    let (injected, caught) = faults::run()?;
    let bar =
        if std::io::stderr().is_terminal() { ProgressBar::new(histories) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{pos}/{len} histories without a fault {wide_bar} {eta}")?);
    let wrong = histories::run(histories, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    say(&format!("\nbilling_audit: {injected} faults injected, {caught} caught, {wrong} false"))?;
    Ok(injected == caught && wrong == 0)
}
