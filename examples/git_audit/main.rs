//! Audits the history of a git repository: what its commits claim, against what its files are.
//!
//! ```sh
//! cargo run --example git_audit                                 # the repository of this crate
//! cargo run --example git_audit -- --repo PATH --store DIR      # again later: only what is new
//! cargo run --example git_audit -- --drop 7                     # leave a change out: is it found?
//! ```
//!
//! Every commit claims lines added and removed in files. The claims go into a store as events and are folded into lines per
//! file; the store is closed and opened again, with a check: the tree at the imported commit is evidence from outside, and each
//! file's figure agrees with it. What does not is a violation, on record in the store, and stays one until a later run sees it mended.
//!
//! - The last line says it all: `git_audit: C commits, E events, R replayed, F files agree, V violations`. C and E are
//!   what the store holds of the history; R counts the appends of this run that were in it already.
//! - Exit status 0: no violation. 1: violations, each named. 2: it could not run, or not say what it found. A shallow history cannot be
//!   audited as a whole, so it is not audited.

mod claims;
mod compare;
mod git;
mod import;

use claims::{Claim, HISTORY, Imported, Progress, setup};
use git::Repository;
use import::{Outcome, Tamper};
use indicatif::{ProgressBar, ProgressStyle};
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use tallystone::prelude::*;

/// Whatever keeps the audit from running ends it.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: git_audit [--repo PATH] [--store DIR] [--drop N | --alter N]
  --repo PATH  the repository; else that of the crate cargo runs, or of the current directory
  --store DIR  keep the store in DIR, and go on from what it has; else a temporary one
  --drop N     leave out the N-th file change that is read
  --alter N    let the N-th file change that is read claim one line more";

const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.iter().any(|arg| arg == "--help") {
        return ended(say(USAGE).map(|()| 0));
    }
    ended(Args::parse(args).and_then(audit))
}

fn ended(violations: Result<usize>) -> ExitCode {
    match violations {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("git_audit: could not run: {error}");
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

/// Imports, closes, opens again, compares. The number of violations.
fn audit(args: Args) -> Result<usize> {
    let repository = Repository::open(&args.repo)?;
    let temporary;
    let place = match args.store {
        Some(place) => place,
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path().join("store")
        }
    };

    let store = Store::open_or_create(&place, setup())?;
    let bar = progress_bar()?;
    let imported = import::run(&repository, &store, args.tamper, &bar);
    bar.finish_and_clear();
    store.close();
    let imported = imported?;

    let tip = imported.tip.as_deref();
    let store = Store::open(&place, setup().check(compare::check(&repository, tip)))?;
    let compared = compare::run(&repository, &store, tip)?;
    report(&repository, &store.view()?, &imported, &compared)
}

/// Shown on a terminal only.
fn progress_bar() -> Result<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} commits, {elapsed}")?;
    Ok(ProgressBar::new(0).with_style(style))
}

/// Each violation, the table, and the one line that programs read. The number of violations.
fn report(
    repository: &Repository,
    view: &View,
    imported: &Outcome,
    compared: &compare::Report,
) -> Result<usize> {
    let mut said = String::new();
    for commit in &imported.disagree {
        let why = "its changes in the store are not those that were offered again";
        writeln!(said, "violation: commit {commit}: {why}")?;
    }
    for violation in &compared.violations {
        writeln!(said, "violation: {violation}")?;
    }
    let Progress { commits, .. } = view.row::<Imported>(&())?.unwrap_or_default();
    // The claims; what the check has put on record comes on top.
    let (events, replayed) = (view.stream_version::<Claim>(HISTORY)?, imported.replayed);
    let violations = compared.violations.len() + imported.disagree.len();
    writeln!(said, "repository  {}", repository.dir().display())?;
    writeln!(said, "commit      {}", imported.tip.as_deref().unwrap_or("none yet"))?;
    writeln!(said, "read        {} commits, {} file changes", imported.read, imported.changes)?;
    writeln!(said, "agree       {} files, {} lines", compared.agree, compared.lines)?;
    write!(
        said,
        "git_audit: {commits} commits, {events} events, {replayed} replayed, {} files agree, {violations} violations",
        compared.agree
    )?;
    say(&said)?;
    Ok(violations)
}

// ---- arguments ----

struct Args {
    repo: PathBuf,
    store: Option<PathBuf>,
    tamper: Option<Tamper>,
}

impl Args {
    fn parse(args: Vec<OsString>) -> Result<Self> {
        // Cargo says where the crate is; without cargo, it is where we are.
        let repo = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into()).into();
        let mut parsed = Self { repo, store: None, tamper: None };
        let mut args = args.into_iter();
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{} needs a value\n{USAGE}", name.display()));
            match name.to_str() {
                Some("--repo") => parsed.repo = value?.into(),
                Some("--store") => parsed.store = Some(value?.into()),
                Some("--drop") => parsed.tamper = Some(Tamper::Drop(number(&value?)?)),
                Some("--alter") => parsed.tamper = Some(Tamper::Alter(number(&value?)?)),
                _ => return Err(format!("no such argument: {}\n{USAGE}", name.display()).into()),
            }
        }
        Ok(parsed)
    }
}

fn number(text: &OsString) -> Result<u64> {
    let number = text.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
    number.ok_or_else(|| format!("{} is no number from 1 on\n{USAGE}", text.display()).into())
}
