//! One transaction on the store and on the model: in the closure form, or step by step beside others.

use super::decision::{Plan, Refusal, Step, answer};
use super::model::Model;
use super::trial::{Answered, Ending, Stop, Trial};
use crate::error::TxError;
use crate::order::Timestamp;
use crate::request::Retry;
use crate::store::Store;
use crate::transaction::Tx;

// ---- the closure form ----

/// One try of a decision.
#[derive(Debug)]
pub struct Try {
    /// Position at which it stood.
    pub head: u64,
    /// Lines its steps were told.
    pub told: Vec<String>,
}

/// A decision in the closure form, with its result.
#[derive(Debug)]
pub struct Ran {
    /// The decision.
    pub plan: Plan,
    /// All tries, in order.
    pub tries: Vec<Try>,
    /// The store's answer.
    pub answer: Answered,
    now: Timestamp,
    /// Commit up to which the store had flushed when it ended.
    flushed: u64,
}

impl Ran {
    /// Runs it on a store.
    pub fn on(store: &Store, plan: Plan, now: Timestamp) -> Self {
        let mut tries = Vec::new();
        let answer = store.transact(plan.work(), |tx| {
            let (head, mut told) = (tx.position().get(), Vec::new());
            let decided = plan.run(tx, &mut told);
            tries.push(Try { head, told });
            decided
        });
        let flushed = store.stats().flushed_commit.get();
        Self { plan, tries, answer, now, flushed }
    }

    /// Runs it on the model, and compares the answer if it is `known`. It began at `before`; `model` has the commits that waited
    /// for the writer then.
    ///
    /// # Errors
    ///
    /// The difference.
    pub fn compare(&self, before: &Model, model: &mut Model, known: bool) -> Result<Ending, String> {
        let Self { plan, tries, answer, now, flushed } = self;
        let time = before.time(*now);
        let (trial, ending) = match &tries[..] {
            [] => {
                let verdict = before.recall(&plan.request, time);
                (None, Ending::Said(verdict.ok_or_else(|| format!("{plan:?} was not tried: {answer:?}"))?))
            }
            [only] => {
                let (trial, decided) = Trial::run(before, plan, time, only)?;
                if matches!(answer, Err(TxError::TooOld)) && trial.may_be_too_old(*flushed) {
                    return Ok(Ending::TooOld);
                }
                let ending = model.conclude(&trial, plan, &decided, before.position(), *now);
                if matches!(ending, Ending::Conflict(_) | Ending::TooOld)
                    && plan.retry != Retry::Never
                    && known
                {
                    return Err(format!("{plan:?} was not tried again: {answer:?}"));
                }
                (Some(trial), ending)
            }
            [first, second] => {
                let (trial, decided) = Trial::run(before, plan, time, first)?;
                let ending = model.clone().conclude(&trial, plan, &decided, before.position(), *now);
                if !matches!(ending, Ending::Conflict(_) | Ending::TooOld) && !trial.may_be_too_old(*flushed)
                {
                    return Err(format!("{plan:?} was tried again, and must end {ending:?}"));
                }
                self.compare_chance(first, second)?;
                let (trial, decided) = Trial::run(model, plan, time, second)?;
                let head = model.position();
                let ending = model.conclude(&trial, plan, &decided, head, *now);
                (Some(trial), ending)
            }
            more => return Err(format!("{plan:?} was tried {} times", more.len())),
        };
        match !known || model.ends(&ending, trial.as_ref(), answer) {
            true => Ok(ending),
            false => Err(format!("{plan:?}\n  must end {ending:?}\n  is {answer:?}")),
        }
    }

    /// Returns whether it ended without a commit.
    pub fn leaves_nothing(&self) -> bool {
        match &self.answer {
            Ok(committed) => {
                let nothing = committed.receipt.last < committed.receipt.first;
                committed.replayed || (nothing && self.plan.request.key.is_none())
            }
            Err(_) => true,
        }
    }

    /// Compares the draws of two tries: chance is the same in every try.
    fn compare_chance(&self, first: &Try, second: &Try) -> Result<(), String> {
        for (index, step) in self.plan.steps.iter().enumerate() {
            let (was, is) = (first.told.get(index), second.told.get(index));
            if matches!(step, Step::Draw(_)) && was.is_some() && is.is_some() && was != is {
                return Err(format!("{:?} drew {was:?}, and then {is:?}", self.plan));
            }
        }
        Ok(())
    }
}

// ---- the manual form ----

/// A transaction under way on the store and on the model.
#[derive(Debug)]
pub struct Twin<'s> {
    tx: Tx<'s>,
    trial: Trial,
    plan: Plan,
    done: usize,
    told: Vec<String>,
    refused: Option<Stop>,
}

/// Reason why a step did not go as the model says.
#[derive(Debug)]
pub enum Odd {
    /// A reason of the store's, which the model does not know.
    Store(TxError<Refusal>),
    /// The store and the model do not agree.
    Differs(String),
}

/// The end of a transaction in the manual form.
#[derive(Debug)]
pub struct Ended {
    /// The decision.
    pub plan: Plan,
    /// The store's answer.
    pub answer: Answered,
    /// Lines its steps were told.
    pub told: Vec<String>,
    trial: Trial,
    decided: Result<u64, Stop>,
}

impl<'s> Twin<'s> {
    /// Begins a transaction on both.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn begin(store: &'s Store, model: &Model, plan: Plan, now: Timestamp) -> Result<Self, TxError> {
        let (tx, trial) = (store.begin(plan.work())?, Trial::begin(model, model.time(now)));
        Ok(Self { tx, trial, plan, done: 0, told: Vec::new(), refused: None })
    }

    /// Runs one more step. Returns `false` if there is none left.
    ///
    /// # Errors
    ///
    /// The difference, or the store's error.
    pub fn step(&mut self, model: &Model) -> Result<bool, Odd> {
        let next = self.plan.steps.get(self.done).filter(|_| self.refused.is_none());
        let Some(step) = next else { return Ok(false) };
        self.done += 1;
        let is = step.run(&mut self.tx);
        let must = self.trial.step(model, step, is.as_deref().ok());
        match (is, must) {
            (Ok(is), Ok(must)) if is == must => self.told.push(is),
            (Err(error), Err(stop)) if stop.is(&error) => {
                self.refused = Some(stop).filter(|stop| matches!(stop, Stop::Refused(_)));
            }
            (
                Err(error @ (TxError::Storage(_) | TxError::Poisoned(_) | TxError::Closed | TxError::TooOld)),
                _,
            ) => return Err(Odd::Store(error)),
            (is, must) => {
                let told = format!("{step:?} of {:?}\n  must be told {must:?}\n  is told {is:?}", self.plan);
                return Err(Odd::Differs(told));
            }
        }
        Ok(true)
    }

    /// Returns whether a flush since may have let go of its view.
    pub fn may_have_expired(&self, store: &Store) -> bool {
        store.stats().flushed_commit.get() > self.trial.commit
    }

    /// Commits it on the store. One that was refused is dropped.
    pub fn commit(self) -> Ended {
        let Self { tx, trial, plan, told, refused, .. } = self;
        let decided = refused.map_or_else(|| Ok(answer(&told)), Err);
        let answer = match &decided {
            Err(Stop::Refused(why)) => Err(TxError::Refused(*why)),
            _ => tx.commit(answer(&told)).map_err(|error| error.map_refusal(|never| match never {})),
        };
        Ended { plan, answer, told, trial, decided }
    }
}

impl Ended {
    /// Commits it on the model, and compares the answer if it is `known`. The store has `flushed` up to that commit by now.
    ///
    /// # Errors
    ///
    /// The difference.
    pub fn compare(
        &self,
        model: &mut Model,
        now: Timestamp,
        flushed: u64,
        known: bool,
    ) -> Result<Ending, String> {
        let Self { plan, answer, trial, decided, .. } = self;
        if matches!(answer, Err(TxError::TooOld)) && trial.may_be_too_old(flushed) {
            return Ok(Ending::TooOld);
        }
        let head = model.position();
        let ending = model.conclude(trial, plan, decided, head, now);
        match !known || model.ends(&ending, Some(trial), answer) {
            true => Ok(ending),
            false => Err(format!("{plan:?} at {}\n  must end {ending:?}\n  is {answer:?}", trial.head)),
        }
    }

    /// Returns whether the store says that something was committed.
    pub fn is_committed(&self) -> bool {
        self.answer.as_ref().is_ok_and(|committed| {
            committed.receipt.first <= committed.receipt.last || self.plan.request.key.is_some()
        })
    }
}
