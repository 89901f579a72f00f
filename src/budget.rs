//! Budgets of transactions, and reports of what they took: measured for each, judged by rules.
//!
//! Six rules come from a talk about transactions that ate a site (Colson, *The Very Hungry Transaction*): keep them under a
//! second, use quick queries and fewer than a hundred of them, call nobody, open no second one, scan nothing.

use crate::error::{Conflict, Rule, TxError};
use std::panic::Location;
use std::time::{Duration, SystemTime};

/// Limits on what a transaction may cost. Each rule is observed, warned about, or denied.
///
/// | rule | [`safe`](Self::safe) | counts |
/// |---|---|---|
/// | `Time` | 1 s | the decision's own time, not its waiting |
/// | `SlowOperation` | 100 ms | one read or write |
/// | `Operations` | 100 | reads and writes |
/// | `OutsideCall` | none | what runs in [`outside_tx`](crate::transaction::outside_tx) |
/// | `OtherStore` | none, denied | transactions of another store begun inside |
/// | `Scan` | 1,000 | rows or events of one read |
/// | `Reads` | 100 | reads that are conditions of the commit |
/// | `Bytes` | 1 MiB | events and answer |
///
/// ```
/// use tallystone::error::Rule;
/// use tallystone::transaction::{Budget, Policy};
/// use std::time::Duration;
///
/// let strict = Budget::safe().deny().operations(50).allow("nightly import", "2027-01-31");
/// let mild = Budget::safe().warn().time(Duration::from_millis(300)).rule(Rule::Scan, Policy::Deny);
/// # let _ = (strict, mild);
/// ```
#[derive(Debug, Clone)]
pub struct Budget {
    rules: [Limit; RULES.len()],
    allowed: Vec<Allowed>,
}

/// Policy for a rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It stands in the [`TxEvent`].
    Observe,
    /// The same, and on standard error if no [`Setup::on_tx`](crate::Setup::on_tx) listens.
    Warn,
    /// The operation fails, and the transaction with it.
    Deny,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    limit: u64,
    policy: Policy,
}

#[derive(Debug, Clone)]
struct Allowed {
    label: String,
    until: String,
}

const RULES: [(Rule, u64); 8] = [
    (Rule::Time, 1_000),
    (Rule::SlowOperation, 100),
    (Rule::Operations, 100),
    (Rule::OutsideCall, 0),
    (Rule::OtherStore, 0),
    (Rule::Scan, 1_000),
    (Rule::Reads, 100),
    (Rule::Bytes, 1 << 20),
];

fn place(rule: Rule) -> usize {
    RULES.iter().position(|(other, _)| *other == rule).expect("every rule is in the list")
}

impl Budget {
    /// The six rules, and two on size. Warns; a transaction of another store inside is denied.
    pub fn safe() -> Self {
        let rules = RULES.map(|(_, limit)| Limit { limit, policy: Policy::Warn });
        Self { rules, allowed: Vec::new() }.rule(Rule::OtherStore, Policy::Deny)
    }

    /// Every rule is observed only, but the one on other stores.
    pub fn observe(self) -> Self {
        self.all(Policy::Observe)
    }

    /// Every rule warns, but the one on other stores.
    pub fn warn(self) -> Self {
        self.all(Policy::Warn)
    }

    /// Every rule denies; the one on other stores stays as it is, denied by default.
    pub fn deny(self) -> Self {
        self.all(Policy::Deny)
    }

    fn all(self, policy: Policy) -> Self {
        let kept = RULES.iter().map(|(rule, _)| *rule).filter(|rule| *rule != Rule::OtherStore);
        kept.fold(self, |budget, rule| budget.rule(rule, policy))
    }

    /// Sets the policy for a rule that is broken.
    pub fn rule(mut self, rule: Rule, policy: Policy) -> Self {
        self.rules[place(rule)].policy = policy;
        self
    }

    /// The decision's own time.
    pub fn time(self, limit: Duration) -> Self {
        self.limit(Rule::Time, limit.as_millis() as u64)
    }

    /// The time of one operation.
    pub fn operation_time(self, limit: Duration) -> Self {
        self.limit(Rule::SlowOperation, limit.as_millis() as u64)
    }

    /// Operations in one transaction.
    pub fn operations(self, limit: u32) -> Self {
        self.limit(Rule::Operations, limit.into())
    }

    /// Rows or events of one read.
    pub fn scan(self, limit: u32) -> Self {
        self.limit(Rule::Scan, limit.into())
    }

    /// Reads that are conditions of the commit.
    pub fn reads(self, limit: u32) -> Self {
        self.limit(Rule::Reads, limit.into())
    }

    /// Bytes of events and answer.
    pub fn bytes(self, limit: u64) -> Self {
        self.limit(Rule::Bytes, limit)
    }

    fn limit(mut self, rule: Rule, limit: u64) -> Self {
        self.rules[place(rule)].limit = limit;
        self
    }

    /// A known offender: transactions of this label are observed only, up to and including a day (`2027-01-31`, in UTC). After
    /// it they count like all others.
    pub fn allow(mut self, label: impl Into<String>, until: impl Into<String>) -> Self {
        self.allowed.push(Allowed { label: label.into(), until: until.into() });
        self
    }

    /// Returns its faults, one sentence each.
    pub(crate) fn check(&self) -> Vec<String> {
        let bad = self.allowed.iter().filter(|allowed| day_of(&allowed.until).is_none());
        bad.map(|allowed| {
            format!(
                "budget: `{}` is allowed until `{}`, which is no day (2027-01-31)",
                allowed.label, allowed.until
            )
        })
        .collect()
    }

    fn allows(&self, label: &str, now: SystemTime) -> bool {
        let days = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
        let of_label = self.allowed.iter().filter(|allowed| allowed.label == label);
        of_label.filter_map(|allowed| day_of(&allowed.until)).any(|until| days as i64 <= until)
    }
}

impl Default for Budget {
    /// The safe one, observed only.
    fn default() -> Self {
        Self::safe().observe()
    }
}

/// Days from 1970 to a day written `2027-01-31`, in the Gregorian calendar.
fn day_of(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let mut part = |digits| {
        let part = parts.next()?;
        (part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| part.parse::<i64>().ok())?
    };
    let (year, month, day) = (part(4)?, part(2)?, part(2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let in_month = *days_in.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    if parts.next().is_some() || !(1..=in_month).contains(&day) || year < 1970 {
        return None;
    }
    let before = year - 1;
    let leaps = |year: i64| year / 4 - year / 100 + year / 400;
    let years = 365 * (year - 1970) + leaps(before) - leaps(1969);
    Some(years + days_in[..month as usize - 1].iter().sum::<i64>() + day - 1)
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// Amount used when it was noticed: milliseconds, operations, rows, reads or bytes.
    pub used: u64,
    /// The limit, in the same unit.
    pub limit: u64,
    /// The policy that was applied.
    pub policy: Policy,
    /// Its subject, if that has a name: the outside call, the other transaction.
    pub what: Option<&'static str>,
    /// The line that broke it; `None` if it was time that passed.
    pub at: Option<&'static Location<'static>>,
}

/// Outcome of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Committed.
    Committed,
    /// Answered by an earlier commit with the same key.
    Replayed,
    /// It wrote nothing, and there was nothing to commit.
    ReadOnly,
    /// The decision said no.
    Refused,
    /// Something that it read had changed, and there was no retry left.
    Conflict,
    /// An error.
    Failed,
    /// It panicked, or was dropped.
    Incomplete,
}

/// Costs and outcome of one transaction. Reported once for each, whatever its outcome.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TxEvent {
    /// Its label.
    pub label: String,
    /// Its outcome.
    pub outcome: Outcome,
    /// Number of times that it was decided.
    pub attempts: u32,
    /// Time at which it began.
    pub began_at: SystemTime,
    /// The time of its decisions.
    pub own: Duration,
    /// The time it waited: for its turn, for the sync, between two attempts.
    pub waited: Duration,
    /// Number of times that it was decided with the writer held.
    pub holds: u32,
    /// The time it held the writer, while all others waited.
    pub held: Duration,
    /// Reads and writes, of all attempts.
    pub operations: u64,
    /// Reads that were conditions of the commit, in the last attempt.
    pub reads: u64,
    /// Rows and events it read, in all attempts.
    pub rows: u64,
    /// Events it appended, in the last attempt.
    pub events: u64,
    /// Bytes of events and answer, in the last attempt.
    pub bytes: u64,
    /// The conflicts that made it decide again, or give up.
    pub conflicts: Vec<Conflict>,
    /// Rules it broke, each once for an attempt.
    pub findings: Vec<Finding>,
    /// Callbacks that panicked after the commit.
    pub callbacks_panicked: u32,
}

/// Totals of the transactions of a store since it was opened. Each is counted when it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TxStats {
    /// Transactions that ended, whatever their outcome.
    pub ended_len: u64,
    /// Conflicts: what was read had changed at the commit.
    pub conflicts_len: u64,
    /// Decisions after the first one, for a conflict or a snapshot that was too old.
    pub retries_len: u64,
    /// Decisions with the writer held.
    pub holds_len: u64,
}

impl TxStats {
    pub(crate) fn count(&mut self, event: &TxEvent) {
        self.ended_len += 1;
        self.conflicts_len += event.conflicts.len() as u64;
        // One that was answered by an earlier commit was not decided at all.
        self.retries_len += u64::from(event.attempts.saturating_sub(1));
        self.holds_len += u64::from(event.holds);
    }
}

/// The meter of one transaction.
#[derive(Debug)]
pub(crate) struct Meter {
    budget: Budget,
    exempt: bool,
    /// Rules broken in this attempt.
    broken: Vec<Rule>,
    /// Operations in this attempt.
    operations: u64,
    /// Own time in this attempt.
    own: Duration,
    pub event: TxEvent,
}

impl Meter {
    pub fn new(budget: &Budget, label: &str, now: SystemTime) -> Self {
        let event = TxEvent {
            label: label.to_owned(),
            outcome: Outcome::Incomplete,
            attempts: 0,
            began_at: now,
            own: Duration::ZERO,
            waited: Duration::ZERO,
            holds: 0,
            held: Duration::ZERO,
            operations: 0,
            reads: 0,
            rows: 0,
            events: 0,
            bytes: 0,
            conflicts: Vec::new(),
            findings: Vec::new(),
            callbacks_panicked: 0,
        };
        let (exempt, broken) = (budget.allows(label, now), Vec::new());
        Self { budget: budget.clone(), exempt, broken, operations: 0, own: Duration::ZERO, event }
    }

    /// One more attempt. What it uses is judged afresh.
    pub fn begin(&mut self) {
        self.event.attempts += 1;
        self.broken.clear();
        (self.operations, self.own) = (0, Duration::ZERO);
        (self.event.reads, self.event.events, self.event.bytes) = (0, 0, 0);
    }

    /// One more operation, `own` into the attempt.
    pub fn operation(&mut self, own: Duration, at: &'static Location<'static>) -> Result<(), TxError> {
        self.operations += 1;
        self.event.operations += 1;
        self.judge(Rule::Operations, self.operations, None, Some(at))?;
        self.spent(own)
    }

    /// An operation took so long and read so much.
    pub fn done(
        &mut self,
        took: Duration,
        rows: usize,
        at: &'static Location<'static>,
    ) -> Result<(), TxError> {
        self.event.rows += rows as u64;
        self.judge(Rule::Scan, rows as u64, None, Some(at))?;
        self.judge(Rule::SlowOperation, took.as_millis() as u64, None, Some(at))
    }

    /// The attempt's own time so far.
    pub fn spent(&mut self, own: Duration) -> Result<(), TxError> {
        self.event.own += own.saturating_sub(self.own);
        self.own = own;
        self.judge(Rule::Time, own.as_millis() as u64, None, None)
    }

    /// One more condition of the commit.
    pub fn read(&mut self, at: &'static Location<'static>) -> Result<(), TxError> {
        self.event.reads += 1;
        self.judge(Rule::Reads, self.event.reads, None, Some(at))
    }

    /// So many more bytes to write.
    pub fn write(
        &mut self,
        events: u64,
        bytes: usize,
        at: Option<&'static Location<'static>>,
    ) -> Result<(), TxError> {
        self.event.events += events;
        self.event.bytes += bytes as u64;
        self.judge(Rule::Bytes, self.event.bytes, None, at)
    }

    /// Something that must not happen inside did.
    pub fn forbidden(
        &mut self,
        rule: Rule,
        what: &'static str,
        at: &'static Location<'static>,
    ) -> Result<(), TxError> {
        self.judge(rule, 1, Some(what), Some(at))
    }

    fn judge(
        &mut self,
        rule: Rule,
        used: u64,
        what: Option<&'static str>,
        at: Option<&'static Location<'static>>,
    ) -> Result<(), TxError> {
        let Limit { limit, policy } = self.budget.rules[place(rule)];
        if used <= limit {
            return Ok(());
        }
        let policy = if self.exempt { Policy::Observe } else { policy };
        if what.is_some() || !self.broken.contains(&rule) {
            self.broken.push(rule);
            self.event.findings.push(Finding { rule, used, limit, policy, what, at });
        }
        match policy {
            Policy::Deny => Err(TxError::Budget { rule, used, limit }),
            Policy::Observe | Policy::Warn => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn day_of_accepts_only_calendar_dates() {
        let known = [("1970-01-01", 0), ("1970-12-31", 364), ("2000-02-29", 11_016), ("2026-11-20", 20_777)];
        for (text, day) in known {
            assert_eq!(day_of(text), Some(day), "{text}");
        }
        for text in [
            "2027-02-29",
            "2027-13-01",
            "2027-00-10",
            "2027-1-1",
            "tomorrow",
            "",
            "2027-01-31-1",
            "1969-12-31",
        ] {
            assert_eq!(day_of(text), None, "{text}");
        }
    }
}
