//! Puts right what a check found: shown first, done once, on record.

use super::{Checks, Desk, Explanation};
use crate::check::{Case, time_of};
use crate::episode::{Episodes, State, Violation};
use crate::error::{AppendError, ReadError};
use crate::event::{Event, Raw};
use crate::misfit::panic_text;
use crate::own::Own;
use crate::query::QueryItem;
use crate::request::{Append, Receipt};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Maximum number of retries of an append, while other violations of the check heal.
const TRIES: u32 = 16;

/// Time that a remediation of a built-in check has to help, in microseconds.
const GRACE: i64 = 60 * 1_000_000;

/// Reason for which a violation was not put right. Nothing was written, unless an [`AppendError`] says that it is not known.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RemedyError {
    /// The check has no machine steps: do what the remedy says, and then say so with [`Checks::remediated`].
    #[error("`{check}` has no machine steps; do what its remedy says, and record it with `remediated`")]
    NoSteps {
        /// The check.
        check: String,
    },
    /// There is nothing to be put right any more.
    #[error("the violation of `{}` at {} is not open any more: {state:?}", .violation.check, .violation.activation)]
    NotOpen {
        /// The violation, as it was given.
        violation: Box<Violation>,
        /// Its present state.
        state: State,
    },
    /// The store has no such violation, or the check is defined otherwise by now: ask for the open ones again.
    #[error("no violation of `{}` at {} is of this definition", .0.check, .0.activation)]
    Unknown(Box<Violation>),
    /// The machine steps do not know what to do: a person must.
    #[error("the machine steps of `{check}` failed: {why}")]
    Failed {
        /// The check.
        check: String,
        /// Message of the machine steps.
        why: String,
    },
    /// The person or the action is not given, or the steps have a key of their own.
    #[error("{what}: {why}")]
    Invalid {
        /// The part that is wrong.
        what: &'static str,
        /// Reason.
        why: &'static str,
    },
    /// The violation, or its events, could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The append was refused.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Remediation of a violation that is not done yet. It prints itself: that is the dry run. [`run`](Self::run) does it.
#[must_use = "nothing is done until it is run"]
pub struct Remediation<'s> {
    desk: &'s dyn Desk,
    explanation: Explanation,
    append: Option<Append>,
}

impl Remediation<'_> {
    /// Instructions for a person.
    pub fn remedy(&self) -> &str {
        &self.explanation.remedy
    }

    /// The events that running it appends, besides the record that it was done. Empty: the check has no machine steps.
    pub fn events(&self) -> &[Raw] {
        self.append.as_ref().map_or(&[], |append| &append.events)
    }

    /// Does it: its events and the record that it was done are one commit. Done before, by whomever, it changes nothing and
    /// answers the same.
    ///
    /// # Errors
    ///
    /// `NoSteps`: a person must do it. `NotOpen`: it was healed, retracted, or remediated in another way meanwhile. `Invalid`
    /// without a name. As [`Store::append`](crate::Store::append).
    pub fn run(&self, by: &str) -> Result<Receipt, RemedyError> {
        let violation = &self.explanation.violation;
        let no_steps = || RemedyError::NoSteps { check: violation.check.clone() };
        let append = self.append.clone().ok_or_else(no_steps)?;
        let note = "machine steps";
        RemediationAttempt { desk: self.desk, violation, how: "steps", by, note }.put(append)
    }
}

impl fmt::Display for Remediation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.explanation)?;
        match &self.append {
            None => write!(f, "  no machine steps"),
            Some(append) => {
                write!(f, "  would append {} events, and record that it was done", append.events.len())?;
                for event in &append.events {
                    write!(f, "\n    {} to {}", event.type_name(), event.stream())?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Remediation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remediation").field("violation", &self.explanation.violation).finish_non_exhaustive()
    }
}

impl<'s> Checks<'s> {
    /// Prepares a remediation: instructions for a person, and the events that the check's machine steps would append. It writes
    /// nothing.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use std::time::Duration;
    /// # use tallystone::check::{About, Check, Severity};
    /// # use tallystone::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # enum Order { Paid { order: u32 }, Shipped { order: u32 }, Billed { order: u32 } }
    /// # impl Event for Order {
    /// #     const FAMILY: &str = "order";
    /// #     type Id = u32;
    /// #     fn id(&self) -> u32 {
    /// #         let (Self::Paid { order } | Self::Shipped { order } | Self::Billed { order }) = self;
    /// #         *order
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let about = About { id: "paid", severity: Severity::Note, owner: "o", means: "m", remedy: "1 write a bill" };
    /// # let (paid, shipped) = (|e: &Order| matches!(e, Order::Paid { .. }), |e: &Order| matches!(e, Order::Shipped { .. }));
    /// let check = Check::from(about.precedence(paid, shipped))
    ///     .remedied(|case| Ok(Append::event(Order::Billed { order: case.began::<Order>()?.id() })));
    /// let store = Store::in_memory(Setup::new().check(check).alerts(|_| ()))?;
    /// store.append(Append::event(Order::Shipped { order: 7 }))?;
    /// assert!(store.checks().wait_for(store.stats().position, Duration::from_secs(60)));
    ///
    /// let checks = store.checks();
    /// for violation in checks.open()? {
    ///     let plan = checks.remediation(&violation)?;
    ///     println!("{plan}");
    ///     let receipt = plan.run("ana")?;
    ///     // Example: whoever does it again changes nothing.
    ///     assert_eq!(plan.run("bo")?, receipt);
    /// }
    /// assert!(checks.open()?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Failed` if the steps do not know what to do. `Invalid` if they have a key of their own. Else as for
    /// [`explain`](Self::explain).
    pub fn remediation(&self, violation: &Violation) -> Result<Remediation<'s>, RemedyError> {
        let (check, desk) = (self.named(&violation.check)?, self.desk);
        let explanation = self.explain(violation)?;
        let Some(fix) = &check.fix else { return Ok(Remediation { desk, explanation, append: None }) };
        let case = Case {
            check: violation.check.clone(),
            key: explanation.key.clone(),
            subject: violation.subject.clone(),
            activation: violation.activation,
            by: violation.by,
            events: explanation.events.clone(),
        };
        let failed = |why: String| RemedyError::Failed { check: violation.check.clone(), why };
        let append = catch_unwind(AssertUnwindSafe(|| fix(&case)))
            .map_err(|panic| failed(format!("panicked: {}", panic_text(&*panic))))?
            .map_err(|error| failed(error.to_string()))?;
        if append.key.is_some() {
            let why = "its steps have a key; their key is the violation";
            return Err(RemedyError::Invalid { what: "remediation", why });
        }
        Ok(Remediation { desk, explanation, append: Some(append) })
    }

    /// Records that somebody has put this right, and what was done. Said twice, it changes nothing and answers the same. If it has not
    /// helped in [`Check::remedied_within`](crate::check::Check::remedied_within), the violation is open again, and may be remediated
    /// again.
    ///
    /// # Errors
    ///
    /// `NotOpen`: it was healed, retracted, or remediated in another way. `Invalid` without a name or a note. As
    /// [`Store::append`](crate::Store::append).
    pub fn remediated(&self, violation: &Violation, by: &str, note: &str) -> Result<Receipt, RemedyError> {
        if note.trim().is_empty() {
            return Err(RemedyError::Invalid { what: "remediation", why: "it does not say what was done" });
        }
        let nothing = Append::events::<Own>([]);
        RemediationAttempt { desk: self.desk, violation, how: "by hand", by, note }.put(nothing)
    }
}

/// One way of putting one violation right.
struct RemediationAttempt<'a> {
    desk: &'a dyn Desk,
    violation: &'a Violation,
    how: &'a str,
    by: &'a str,
    note: &'a str,
}

impl RemediationAttempt<'_> {
    fn put(&self, append: Append) -> Result<Receipt, RemedyError> {
        if self.by.trim().is_empty() {
            return Err(RemedyError::Invalid { what: "remediation", why: "it does not say who" });
        }
        let scope = format!("remedy:{}", self.violation.check);
        let seen = self.violation.seen(self.by);
        let record = Own::Remediated { seen, note: self.note.to_owned(), until: self.grace_end() };
        let stream = format!("{}/{}", Own::FAMILY, record.id());
        let append = append.and(record).input(&());
        for tries in 1.. {
            let view = self.desk.view()?;
            let subject = self.violation.subject.clone().unwrap_or_default();
            let row = (self.violation.check.clone(), self.violation.activation.get(), subject);
            let (state, key) = match view.row::<Episodes>(&row)? {
                Some(episode) if episode.definition == self.violation.definition => {
                    let key = self.key(episode.reopened);
                    (Violation::new(row, episode).state, key)
                }
                _ => return Err(RemedyError::Unknown(Box::new(self.violation.clone()))),
            };
            let is_done = view.answer(&scope, &key)?.is_some();
            if !is_done && !matches!(state, State::Open | State::Waived { .. }) {
                return Err(RemedyError::NotOpen { violation: Box::new(self.violation.clone()), state });
            }
            // Nothing of its check may have ended between the look and the commit.
            let ended = ["Healed", "Retracted", "Remediated"].map(|end| format!("{}.{end}", Own::FAMILY));
            let ended = QueryItem::types(ended).in_stream(&stream);
            match self
                .desk
                .append(append.clone().key(&scope, &key).fail_if_events_match(ended, Some(view.position())))
            {
                Err(AppendError::Conflict(conflict)) if conflict.stream == stream && tries < TRIES => {}
                answered => {
                    self.desk.watch().leash.tug();
                    return Ok(answered?);
                }
            }
        }
        unreachable!("it ends with the last try");
    }

    /// The time until which it counts as done.
    fn grace_end(&self) -> u64 {
        let (now, by_event) = (time_of(self.desk.now()), self.violation.by.is_some());
        let checks = self.desk.watch().checks();
        let check = checks.iter().find(|check| check.id() == self.violation.check);
        let end = check.map_or(now.saturating_add(GRACE), |check| check.grace_end(now, by_event));
        u64::try_from(end).unwrap_or(0)
    }

    /// The violation in one form, and where it was opened again: what is done under it is done once.
    fn key(&self, reopened: u64) -> String {
        let Violation { definition, activation, subject, .. } = self.violation;
        let definition: String = definition.iter().map(|byte| format!("{byte:02x}")).collect();
        // A subject may be as long as a row's key; its hash is not.
        let subject = subject.as_ref().map_or(String::new(), |subject| {
            let mut hash = [0; 16];
            blake3::Hasher::new().update(subject.as_bytes()).finalize_xof().fill(&mut hash);
            hash.iter().map(|byte| format!("{byte:02x}")).collect()
        });
        match reopened {
            0 => format!("{definition}/{activation}/{subject}/{}", self.how),
            again => format!("{definition}/{activation}/{subject}/{}/{again}", self.how),
        }
    }
}
