//! Who is told when nobody sees to a violation, or when it is about much: a higher severity, by age and by amount.

use super::glance::Glance;
use super::text::time_text;
use super::word::Time;
use super::{Check, Fault, Sequence, Severity, micros};
use crate::event::EventSet;
use crate::misfit::{DecodeError, panic_text};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Of one check.
#[derive(Clone, Default)]
pub(crate) struct Escalations {
    /// After this long, in microseconds, that severity.
    ages: Vec<(Time, Severity)>,
    amounts: Vec<Amount>,
}

#[derive(Clone)]
struct Amount {
    of: Arc<dyn AmountOf>,
    name: String,
    limit: i64,
    severity: Severity,
}

/// How much an event is about. `None`: it says nothing of it.
pub(super) trait AmountOf: Send + Sync {
    fn amount(&self, glance: &mut Glance<'_>) -> Result<Option<i64>, DecodeError>;
}

impl<F> AmountOf for F
where
    F: Fn(&mut Glance<'_>) -> Result<Option<i64>, DecodeError> + Send + Sync,
{
    fn amount(&self, glance: &mut Glance<'_>) -> Result<Option<i64>, DecodeError> {
        self(glance)
    }
}

/// A higher severity, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raised {
    pub severity: Severity,
    pub why: String,
}

impl Escalations {
    pub(super) fn by_age(&mut self, after: Time, severity: Severity) {
        self.ages.push((after, severity));
        self.ages.sort();
    }

    /// `name` tells one amount from another; empty for a function.
    pub(super) fn by_amount(
        &mut self,
        of: impl AmountOf + 'static,
        name: &str,
        limit: i64,
        severity: Severity,
    ) {
        self.amounts.push(Amount { of: Arc::new(of), name: name.to_owned(), limit, severity });
    }

    pub(super) fn faults(&self, id: &str, severity: Severity) -> Vec<Fault> {
        let all =
            self.ages.iter().map(|(_, to)| to).chain(self.amounts.iter().map(|amount| &amount.severity));
        let lower = all.filter(|to| **to <= severity);
        lower
            .map(|to| {
                Fault::new(id, "escalate", format!("`{to}` is no higher than its severity, `{severity}`"))
            })
            .collect()
    }

    /// Writes all of it down, to be compared.
    pub fn text(&self) -> String {
        let amounts = self.amounts.iter().map(|Amount { name, limit, severity, .. }| (name, limit, severity));
        format!("{:?} {:?}", self.ages, amounts.collect::<Vec<_>>())
    }

    pub fn has_ages(&self) -> bool {
        !self.ages.is_empty()
    }

    pub fn has_amounts(&self) -> bool {
        !self.amounts.is_empty()
    }

    /// The highest severity that a violation of this age has come to, if it is above `told`. Older than `after`, not as old.
    pub fn due(&self, age: Time, told: Severity) -> Option<Raised> {
        let over = self.ages.iter().filter(|(after, severity)| age > *after && *severity > told);
        let (after, severity) = over.max_by_key(|(_, severity)| *severity)?;
        let why = format!("open for longer than {}, and nobody has seen to it", time_text(*after));
        Some(Raised { severity: *severity, why })
    }

    /// At which age it comes to the next severity above `told`.
    pub fn next(&self, age: Time, told: Severity) -> Option<Time> {
        let later = self.ages.iter().filter(|(after, severity)| *after >= age && *severity > told);
        later.map(|(after, _)| after.saturating_add(1)).min()
    }

    /// The highest severity that the event is worth. An amount that cannot be read is one that nobody can rule out.
    pub fn weigh(&self, glance: &mut Glance<'_>) -> Option<Raised> {
        let mut raised: Option<Raised> = None;
        for Amount { of, limit, severity, .. } in &self.amounts {
            if raised.as_ref().is_some_and(|raised| raised.severity >= *severity) {
                continue;
            }
            let amount = catch_unwind(AssertUnwindSafe(|| of.amount(glance)))
                .unwrap_or_else(|panic| Err(DecodeError::new(format!("panicked: {}", panic_text(&*panic)))));
            let why = match amount {
                Ok(Some(amount)) if amount > *limit => format!("{amount} is above {limit}"),
                Ok(_) => continue,
                Err(error) => format!("its amount cannot be told: {error}"),
            };
            raised = Some(Raised { severity: *severity, why });
        }
        raised
    }

    /// The highest there is by amount: above it there is nothing to look for.
    pub fn highest_amount(&self) -> Option<Severity> {
        self.amounts.iter().map(|amount| amount.severity).max()
    }

    pub(super) fn in_words(&self) -> Vec<String> {
        let ages = self.ages.iter().map(|(after, severity)| {
            format!("to {severity} when nobody has seen to it for longer than {}", time_text(*after))
        });
        let amounts = self.amounts.iter();
        ages.chain(amounts.map(|Amount { limit, severity, .. }| {
            format!("to {severity} when it is about more than {limit}")
        }))
        .collect()
    }
}

impl std::fmt::Debug for Escalations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.in_words()).finish()
    }
}

impl Check {
    /// A violation that is open for longer than this, and that nobody has acknowledged, waived or remediated, is told again
    /// with this severity, once. Its age is by the store's time, from when it was put on record. May be said several times.
    pub fn escalates(mut self, after: Duration, severity: Severity) -> Self {
        self.escalations.by_age(micros(after), severity);
        self
    }
}

impl<E: EventSet> Sequence<E> {
    /// As [`Check::escalates`].
    pub fn escalates(mut self, after: Duration, severity: Severity) -> Self {
        self.escalations.by_age(micros(after), severity);
        self
    }

    /// A violation whose first event is about more than `limit` is told with this severity from the start.
    pub fn escalates_above(
        mut self,
        amount: impl Fn(&E) -> i64 + Send + Sync + 'static,
        limit: i64,
        severity: Severity,
    ) -> Self {
        let of = move |glance: &mut Glance<'_>| Ok(Some(amount(glance.typed::<E>()?.0)));
        self.escalations.by_amount(of, "", limit, severity);
        self
    }
}
