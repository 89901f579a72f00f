//! Escalation of violations by age and amount, reminders, the grace of remediations, and labels.

use super::glance::Glance;
use super::text::time_text;
use super::word::Time;
use super::{Check, Fault, Sequence, Severity, micros};
use crate::event::EventSet;
use crate::misfit::{DecodeError, panic_text};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Escalation rules of one check.
#[derive(Clone, Default)]
pub(crate) struct Escalations {
    /// Ages in microseconds, each with the severity beyond it; sorted.
    ages: Vec<(Time, Severity)>,
    amounts: Vec<AmountThreshold>,
    /// Time between reminders, in microseconds. `None`: by severity.
    pub(super) remind_every: Option<Time>,
    /// Time that a remediation has to help. `None`: the check's window.
    pub(super) remedied_within: Option<Time>,
    pub labels: Vec<(String, String)>,
}

/// Time between reminders of a page, in microseconds, if its check does not say otherwise.
const REMIND_PAGE: Time = 24 * 3_600 * 1_000_000;
/// Each notice on record has all labels.
const LABELS_BYTES_MAX: usize = 4096;
/// Shortest time that a remediation has to help.
const GRACE_MIN: Time = 60 * 1_000_000;

#[derive(Clone)]
struct AmountThreshold {
    of: Arc<dyn AmountOf>,
    name: String,
    limit: i64,
    severity: Severity,
}

/// Amount that an event is about. `None`: it says none.
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

    /// Adds a severity by amount. `name` tells one amount from another; empty for a function.
    pub(super) fn by_amount(
        &mut self,
        of: impl AmountOf + 'static,
        name: &str,
        limit: i64,
        severity: Severity,
    ) {
        self.amounts.push(AmountThreshold { of: Arc::new(of), name: name.to_owned(), limit, severity });
    }

    pub(super) fn faults(&self, id: &str, severity: Severity) -> Vec<Fault> {
        let all =
            self.ages.iter().map(|(_, to)| to).chain(self.amounts.iter().map(|amount| &amount.severity));
        let lower = all.filter(|to| **to <= severity);
        let says = |to| format!("`{to}` is no higher than its severity, `{severity}`");
        let mut faults: Vec<_> = lower.map(|to| Fault::new(id, "escalate", says(to))).collect();
        let bytes: usize = self.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > LABELS_BYTES_MAX {
            let why = format!("names and values have {bytes} bytes, allowed are {LABELS_BYTES_MAX}");
            faults.push(Fault::new(id, "labels", why));
        }
        faults
    }

    /// Returns all of it as text, to be compared.
    pub fn text(&self) -> String {
        let amounts =
            self.amounts.iter().map(|AmountThreshold { name, limit, severity, .. }| (name, limit, severity));
        let Self { ages, remind_every, remedied_within, labels, .. } = self;
        format!("{ages:?} {:?} {remind_every:?} {remedied_within:?} {labels:?}", amounts.collect::<Vec<_>>())
    }

    /// Returns the time between reminders of an incident of this severity. `None`: nobody is reminded.
    pub fn remind_every(&self, severity: Severity) -> Option<Time> {
        match self.remind_every {
            Some(every) => Some(every).filter(|every| *every > 0),
            None => (severity == Severity::Page).then_some(REMIND_PAGE),
        }
    }

    pub fn has_amounts(&self) -> bool {
        !self.amounts.is_empty()
    }

    /// Returns the highest severity for a violation of this age, if it is above `told`. An age equal to `after` does not count.
    pub fn due(&self, age: Time, told: Severity) -> Option<Raised> {
        let over = self.ages.iter().filter(|(after, severity)| age > *after && *severity > told);
        let (after, severity) = over.max_by_key(|(_, severity)| *severity)?;
        let why = format!("open for longer than {}", time_text(*after));
        Some(Raised { severity: *severity, why })
    }

    /// Returns the age at which it comes to the next severity above `told`.
    pub fn next(&self, age: Time, told: Severity) -> Option<Time> {
        let later = self.ages.iter().filter(|(after, severity)| *after >= age && *severity > told);
        later.map(|(after, _)| after.saturating_add(1)).min()
    }

    /// Returns the highest severity by the event's amounts. An amount that cannot be read counts as above its limit.
    pub fn weigh(&self, glance: &mut Glance<'_>) -> Option<Raised> {
        let mut raised: Option<Raised> = None;
        for AmountThreshold { of, limit, severity, .. } in &self.amounts {
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

    pub(super) fn in_words(&self) -> Vec<String> {
        let ages = self.ages.iter().map(|(after, severity)| {
            format!("to {severity} when it is open for longer than {}", time_text(*after))
        });
        let amounts = self.amounts.iter();
        ages.chain(amounts.map(|AmountThreshold { limit, severity, .. }| {
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
    /// Escalates an incident that is open for longer than this to a severity, once, also if somebody has acknowledged it; not while
    /// all of it is waived or remediated. Its age is by the store's time, from when its first violation was put on record or was open
    /// again. May be said several times.
    pub fn escalates(mut self, after: Duration, severity: Severity) -> Self {
        self.escalations.by_age(micros(after), severity);
        self
    }

    /// Reminds of an incident that is still open, this long after it was told last. Without it, pages are told again every 24 hours,
    /// and others never; with [`Duration::ZERO`] none is.
    pub fn reminds(mut self, every: Duration) -> Self {
        self.escalations.remind_every = Some(micros(every));
        self
    }

    /// Gives a remediation this long to help: a violation that is still there then is open again, and escalated. Without it, the
    /// check's window; at least 1 minute in any case. Only of what time has decided, such as a missing response: what an event has
    /// violated once stays as it was, and its remediation counts for ever.
    pub fn remedied_within(mut self, grace: Duration) -> Self {
        self.escalations.remedied_within = Some(micros(grace));
        self
    }

    /// Adds a label: notifications carry it, and a [`Route`](crate::watch::Route) may go by it. A name that is there gets the new
    /// value. Names and values together have 4,096 bytes at most.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, labels) = (name.into(), &mut self.escalations.labels);
        labels.retain(|(other, _)| *other != name);
        labels.push((name, value.into()));
        self
    }

    /// Returns the time until which a remediation at this time counts. A violation that an event has decided can never be seen to be
    /// over, so its remediation counts for ever.
    pub(crate) fn grace_end(&self, now: Time, by_event: bool) -> Time {
        if by_event || !self.rule.word.heals() {
            return Time::MAX;
        }
        let window_end = || self.rule.window.and_then(|window| window.end(now));
        let said = self.escalations.remedied_within.map(|grace| now.saturating_add(grace));
        said.or_else(window_end).unwrap_or(now).max(now.saturating_add(GRACE_MIN))
    }
}

impl<E: EventSet> Sequence<E> {
    /// As [`Check::escalates`].
    pub fn escalates(mut self, after: Duration, severity: Severity) -> Self {
        self.escalations.by_age(micros(after), severity);
        self
    }

    /// As [`Check::reminds`].
    pub fn reminds(self, every: Duration) -> Check {
        Check::from(self).reminds(every)
    }

    /// As [`Check::remedied_within`].
    pub fn remedied_within(self, grace: Duration) -> Check {
        Check::from(self).remedied_within(grace)
    }

    /// As [`Check::label`].
    pub fn label(self, name: impl Into<String>, value: impl Into<String>) -> Check {
        Check::from(self).label(name, value)
    }

    /// Tells a violation whose first event is about more than `limit` with this severity from the start.
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
