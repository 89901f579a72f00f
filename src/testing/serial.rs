//! Serial replay: each decision that committed runs again, alone, at its place in the order of commits, on a second store.
//!
//! - It must give the same answer, events, rows and time. It knows no rule about reads, so it finds rules that are missing.
//! - Chance is an input: the replay gets what the first run was told. So are reads that the decision does not depend on: rows and
//!   events it peeked at, and reads before it narrowed its condition.
//! - Commits that no known decision made are copied.

use super::decision::{Plan, Refusal, Step, answer};
use super::trial::Answered;
use super::twin::Ran;
use super::workload::{self, Note};
use super::{SimClock, SimDisk, SimEntropy};
use crate::disk::Platform;
use crate::event::{Event, EventSet, Raw};
use crate::log::Seek;
use crate::log::record::{Commit, Fold};
use crate::options::Options;
use crate::order::CommitNo;
use crate::own::Own;
use crate::request::{self, Append, Committed, Retry};
use crate::store::Store;
use crate::transaction::{Decision, Tx};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The decisions of a store, by the commits at which they took place.
#[derive(Debug, Default)]
pub struct Serial {
    committed: BTreeMap<u64, Script>,
    /// Decisions that wrote nothing, by the commit that they follow.
    read_only: BTreeMap<u64, Vec<Script>>,
}

/// A decision, and the line each of its steps was told.
#[derive(Debug)]
struct Script {
    plan: Plan,
    told: Vec<String>,
    answer: u64,
}

/// Numbers of decisions that replayed alike, and of copied commits.
#[derive(Debug, Default, Clone, Copy)]
pub struct Replayed {
    /// Decisions that wrote.
    pub committed: u64,
    /// Decisions that only read.
    pub read_only: u64,
    /// Commits that were copied.
    pub copied: u64,
    /// Decisions that were copied because they wrote by reads they do not depend on.
    pub left_out: u64,
}

impl Serial {
    /// Records a decision in the closure form.
    pub fn note_ran(&mut self, ran: &Ran) {
        if let Some(last) = ran.tries.last() {
            self.note(&ran.plan, &last.told, &ran.answer);
        }
    }

    /// Records a decision with the lines its steps were told, if it was committed with them.
    pub fn note(&mut self, plan: &Plan, told: &[String], answer: &Answered) {
        let Ok(Committed { receipt, replayed: false, response }) = answer else { return };
        let script = Script { plan: plan.clone(), told: told.to_vec(), answer: *response };
        match receipt.first <= receipt.last || plan.request.key.is_some() {
            true => drop(self.committed.insert(receipt.commit.get(), script)),
            false => self.read_only.entry(receipt.commit.get()).or_default().push(script),
        }
    }

    /// Runs all decisions again, each alone. Runs nothing if there is none.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn replay(&self, first: &Store) -> Result<Replayed, String> {
        let (clock, mut done) = (SimClock::default(), Replayed::default());
        if self.committed.is_empty() && self.read_only.is_empty() {
            return Ok(done);
        }
        let platform = Platform {
            disk: Arc::new(SimDisk::new(1)),
            clock: Arc::new(clock.clone()),
            entropy: Arc::new(SimEntropy::new(1)),
        };
        let options =
            Options { clock_jump_ms_max: u64::MAX, clock_gap_ms_max: u64::MAX, ..Options::default() };
        let setup = workload::setup(options).platform(platform).lockstep();
        let second = Store::in_memory(setup).map_err(|error| error.to_string())?;
        for number in 0..=first.stats().commit.get() {
            if number > 0 {
                let record = record(first, CommitNo::new(number))?;
                clock.jump(record.time);
                self.commit(&second, &record, &mut done)
                    .map_err(|why| format!("commit {number}, alone: {why}"))?;
            }
            for script in self.read_only.get(&number).into_iter().flatten() {
                script.decide(&second).map_err(|why| format!("after commit {number}, alone: {why}"))?;
                done.read_only += 1;
            }
        }
        Ok(done)
    }

    fn commit(&self, second: &Store, record: &Commit, done: &mut Replayed) -> Result<(), String> {
        let script = self.committed.get(&record.commit.get());
        done.left_out += u64::from(script.is_some_and(|script| !script.stands_alone()));
        match script.filter(|script| script.stands_alone()) {
            Some(script) => {
                script.decide(second)?;
                done.committed += 1;
            }
            None => {
                copy(second, record)?;
                done.copied += 1;
            }
        }
        if record.events.is_empty() {
            return Ok(());
        }
        let again = self::record(second, second.stats().commit)?;
        // The second store has no rows of checks.
        let reader = second.reader();
        let known = |fold: &&Fold| {
            reader.rules.projections.all.iter().any(|known| known.id == fold.projection.to_be_bytes())
        };
        let rows = |commit: &Commit| commit.folds.iter().filter(known).copied().collect::<Vec<_>>();
        let same = (record.first, record.time, &record.events, rows(record));
        match same == (again.first, again.time, &again.events, rows(&again)) {
            true => Ok(()),
            false => Err(format!("{script:?}\n  was {record:?}\n  is {again:?}")),
        }
    }
}

impl Script {
    fn narrowed(&self) -> usize {
        self.plan.steps.iter().rposition(|step| matches!(step, Step::Narrow(_))).unwrap_or(0)
    }

    /// Returns whether it wrote nothing by reads that it does not depend on.
    fn stands_alone(&self) -> bool {
        let mut before = self.plan.steps[..self.narrowed()].iter();
        !before
            .any(|step| matches!(step, Step::Transfer(..) | Step::Book(..) | Step::Claim(..) | Step::Once(_)))
    }

    fn decide(&self, second: &Store) -> Result<(), String> {
        // Without its key: reuse of keys is not tested here.
        let work = request::Request::new("alone").retry(Retry::Never);
        let mut differs = None;
        let again = second.transact(work, |tx| self.run(tx, &mut differs));
        match (differs, again) {
            (None, Ok(committed)) if committed.response == self.answer => Ok(()),
            (differs, again) => {
                Err(format!("{:?}\n  {}\n  {again:?}", self.plan, differs.unwrap_or_default()))
            }
        }
    }

    fn run(&self, tx: &mut Tx<'_>, differs: &mut Option<String>) -> Decision<u64, Refusal> {
        let mut told = Vec::new();
        for (index, (step, was)) in self.plan.steps.iter().zip(&self.told).enumerate() {
            let rests_on = index >= self.narrowed();
            let is = match step {
                Step::Draw(number) => {
                    let pad = was.trim_matches(['[', ']']).split(", ").map_while(|byte| byte.parse().ok());
                    tx.append(Note::Taken { number: *number, pad: pad.collect() })?;
                    was.clone()
                }
                Step::PeekRow(_) | Step::PeekQuery(_) => was.clone(),
                Step::Append(_) => step.run(tx)?,
                _ if rests_on => step.run(tx)?,
                _ => was.clone(),
            };
            if is != *was {
                differs.get_or_insert_with(|| format!("{step:?} was told {was}, and is told {is}"));
            }
            told.push(is);
        }
        Ok(answer(&told))
    }
}

fn record(store: &Store, commit: CommitNo) -> Result<Commit, String> {
    let log = store.reader().log.clone();
    let page = log.read(Seek::Commit(commit), commit, 0).map_err(|error| error.to_string())?;
    let record = page.records().next().ok_or("it is not in the log")?;
    Ok(record.map_err(|error| error.to_string())?.to_commit())
}

fn copy(second: &Store, record: &Commit) -> Result<(), String> {
    if record.events.is_empty() {
        return Ok(());
    }
    let none = Append::events(Vec::<Raw>::new());
    let append = record.events.iter().try_fold(none, |append, event| {
        let raw = event.borrowed()?;
        // Events of the store's own family cannot be raw.
        Ok::<_, crate::error::DecodeError>(match raw.family() == <Own as Event>::FAMILY {
            true => append.and(Own::decode(&raw)?),
            false => append.and(raw.to_raw()),
        })
    });
    let append = append.map_err(|error| error.to_string())?;
    second.append(append).map(|_| ()).map_err(|error| error.to_string())
}
