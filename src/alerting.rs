//! State of alerts: which violations are not over, which of them were told together, and how each group stands. Rows of the store's
//! own events, so that what is to be told is a function of the log.
//!
//! - A violation that is not over has a row; so the open ones are found without reading all that ever was.
//! - Violations of one check and owner that were not told yet form the next group. A notice `Opened` tells all of them, and closes the
//!   group: it holds those opened between the notice before and this one.
//! - A group is resolved when the last of its violations is over or waived. It is told once as opened, and once as resolved.

use crate::check::Severity;
use crate::error::FoldError;
use crate::order::Timestamp;
use crate::own::{Found, Notice, NoticeAbout, NoticeKind, Over, Own, Seen};
use crate::projection::{Folded, Projection, Rows};
use serde::{Deserialize, Serialize};
use std::ops::RangeBounds;

/// Violations in a sample.
pub(crate) const SAMPLE: usize = 10;
/// Bytes of their subjects: rows and events have limits.
const SAMPLE_BYTES: usize = 512;

/// Rows of [`Alerting`].
pub(crate) struct Alerting;

/// Key of a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum AlertKey {
    /// Check, and owner where the check has several; empty otherwise.
    Line(String, String),
    /// The same, and the position of the notice that opened the group.
    Group(String, String, u64),
    /// Check, activation and subject.
    Open(String, u64, String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AlertRow {
    Line(Line),
    Group(Group),
    Open(OpenRow),
}

/// Violations of one check that are told together: those of one owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The last definition that has findings on record, or has ended those of others.
    pub definition: [u8; 8],
    /// Violations that were not told yet.
    pub new: Untold,
    /// Events that the check could not read, and that were not told yet.
    pub unread: u64,
    /// Groups that are over, or have a remediation that did not help: to be told.
    pub pending: Vec<u64>,
    /// Position of the last event after which something may be due earlier than it was.
    pub changed: u64,
}

/// Violations that were not told yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Untold {
    pub count: u64,
    /// Violations among them that were waived or remediated before.
    pub reopened: u64,
    /// Position at which the first one was opened, its activation, and the time in microseconds since 1970.
    pub first: u64,
    pub activation: u64,
    pub since: u64,
    /// The highest severity of those that have one of their own, and why.
    pub raised: Option<(Severity, String)>,
    pub sample: Vec<(u64, String)>,
}

/// Violations that were told together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Position at which its first violation was opened, its activation, and the time.
    pub first: u64,
    pub activation: u64,
    pub since: u64,
    /// Properties that it was told with, and the highest severity so far.
    pub about: NoticeAbout,
    /// Violations that are not over, and those of them that nobody says to have remediated.
    pub open: u64,
    pub active: u64,
    /// Violations whose remediation did not help, and that were not told yet.
    pub unhelped: u64,
    pub over: Over,
    /// Time at which it was told last.
    pub told_at: u64,
    pub sample: Vec<(u64, String)>,
}

/// A violation that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenRow {
    pub definition: [u8; 8],
    pub owner: String,
    /// Position at which it was opened. 0: it is in no group, and not to be told.
    pub opened: u64,
    pub standing: Standing,
}

/// State of a violation that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    Open,
    /// It may stand until then.
    Waived(u64),
    /// Something was done; it has until then to be over.
    Remediated(u64),
}

impl Standing {
    /// The time at which it is open again.
    pub fn until(self) -> Option<u64> {
        match self {
            Self::Open => None,
            Self::Waived(until) | Self::Remediated(until) => Some(until),
        }
    }
}

impl Alerting {
    /// Keys of all lines.
    pub fn lines() -> impl RangeBounds<AlertKey> {
        AlertKey::Line(String::new(), String::new())..AlertKey::Group(String::new(), String::new(), 0)
    }

    /// Keys of the groups of a line.
    pub fn groups(check: &str, owner: &str) -> impl RangeBounds<AlertKey> + use<> {
        let key = |at| AlertKey::Group(check.to_owned(), owner.to_owned(), at);
        key(0)..key(u64::MAX)
    }

    /// Keys of all violations that are not over.
    pub fn open() -> impl RangeBounds<AlertKey> {
        AlertKey::Open(String::new(), 0, String::new())..
    }

    /// Keys of those of one check.
    pub fn open_of(check: &str) -> impl RangeBounds<AlertKey> + use<> {
        let key = |at| AlertKey::Open(check.to_owned(), at, String::new());
        key(0)..key(u64::MAX)
    }
}

impl Projection for Alerting {
    const NAME: &'static str = "tallystone.alerting";
    type Event = Own;
    type Key = AlertKey;
    type Row = AlertRow;

    fn fold(event: &Own, rows: &mut Rows<'_, Self>) -> Folded {
        let mut state = AlertFold(rows);
        match event {
            Own::Violated(found) => state.violated(found),
            Own::Untold(found) | Own::Skewed(found) => state.unread(found),
            Own::Healed(found) => state.ended(found, |over| &mut over.healed),
            Own::Retracted(found) => state.ended(found, |over| &mut over.retracted),
            Own::Waived { seen, until, .. } => state.waived(seen, *until),
            Own::Remediated { seen, until, .. } => state.remediated(seen, *until),
            Own::Reopened { check, of } => {
                of.iter().try_for_each(|(activation, subject)| state.reopened(check, *activation, subject))
            }
            Own::Retired { check, definition, of } => state.retired(check, *definition, of),
            Own::Muted { check, .. } => state.muted(check),
            Own::Notified(notice) => state.notified(notice),
            _ => Ok(()),
        }
    }
}

/// The rows while one event is folded.
struct AlertFold<'a, 'r>(&'a mut Rows<'r, Alerting>);

impl AlertFold<'_, '_> {
    // ---- rows by what they are ----

    fn line(&self, check: &str, owner: &str) -> Result<Line, FoldError> {
        match self.0.get(&AlertKey::Line(check.to_owned(), owner.to_owned()))? {
            Some(AlertRow::Line(line)) => Ok(line),
            _ => Ok(Line::default()),
        }
    }

    fn put_line(&mut self, check: &str, owner: &str, line: Line) -> Folded {
        self.0.put(AlertKey::Line(check.to_owned(), owner.to_owned()), AlertRow::Line(line))
    }

    fn row(&self, key: &AlertKey) -> Result<Option<OpenRow>, FoldError> {
        match self.0.get(key)? {
            Some(AlertRow::Open(row)) => Ok(Some(row)),
            _ => Ok(None),
        }
    }

    fn put_row(&mut self, key: AlertKey, row: OpenRow) -> Folded {
        self.0.put(key, AlertRow::Open(row))
    }

    /// The group of a violation, if it was told.
    fn group_of(&self, check: &str, row: &OpenRow) -> Result<Option<(u64, Group)>, FoldError> {
        if row.opened == 0 {
            return Ok(None);
        }
        let key = |at| AlertKey::Group(check.to_owned(), row.owner.clone(), at);
        let next = self.0.first_in(key(row.opened)..key(u64::MAX))?;
        Ok(match next {
            Some((AlertKey::Group(_, _, at), AlertRow::Group(group))) => Some((at, group)),
            _ => None,
        })
    }

    fn put_group(&mut self, check: &str, owner: &str, at: u64, group: Group) -> Folded {
        self.0.put(AlertKey::Group(check.to_owned(), owner.to_owned(), at), AlertRow::Group(group))
    }

    // ---- what is found ----

    fn violated(&mut self, found: &Found) -> Folded {
        let key = AlertKey::Open(found.check.clone(), found.activation, found.subject.clone());
        let mut line = self.line(&found.check, &found.owner)?;
        line.definition = found.definition;
        // Another definition has found the same: what people said of it, and what was told, stays.
        if let Some(row) = self.row(&key)? {
            self.put_line(&found.check, &found.owner, line)?;
            return self.put_row(key, OpenRow { definition: found.definition, ..row });
        }
        let (opened, owner) = (self.0.position().get(), found.owner.clone());
        let raised = Severity::named(&found.severity).map(|severity| (severity, found.why.clone()));
        line.new.add(opened, self.now(), (found.activation, &found.subject), raised);
        self.put_line(&found.check, &found.owner, line)?;
        let definition = found.definition;
        self.put_row(key, OpenRow { definition, owner, opened, standing: Standing::Open })
    }

    fn unread(&mut self, found: &Found) -> Folded {
        let mut line = self.line(&found.check, &found.owner)?;
        (line.definition, line.unread) = (found.definition, line.unread + 1);
        self.put_line(&found.check, &found.owner, line)
    }

    fn ended(&mut self, found: &Found, how: fn(&mut Over) -> &mut u64) -> Folded {
        let key = AlertKey::Open(found.check.clone(), found.activation, found.subject.clone());
        let Some(row) = self.row(&key)? else { return Ok(()) };
        self.leave(&found.check, (found.activation, &found.subject), &row, how)?;
        self.0.remove(&key)
    }

    fn retired(&mut self, check: &str, definition: [u8; 8], of: &[(u64, String)]) -> Folded {
        for (activation, subject) in of {
            let key = AlertKey::Open(check.to_owned(), *activation, subject.clone());
            let Some(row) = self.row(&key)? else { continue };
            self.leave(check, (*activation, subject), &row, |over| &mut over.retired)?;
            self.0.remove(&key)?;
        }
        let mut line = self.line(check, "")?;
        line.definition = definition;
        self.put_line(check, "", line)
    }

    // ---- what people say ----

    fn waived(&mut self, seen: &Seen, until: u64) -> Folded {
        let key = AlertKey::Open(seen.check.clone(), seen.activation, seen.subject.clone());
        let Some(row) = self.row(&key)? else { return Ok(()) };
        self.leave(&seen.check, (seen.activation, &seen.subject), &row, |over| &mut over.waived)?;
        self.changed(&seen.check, &row.owner)?;
        self.put_row(key, OpenRow { opened: 0, standing: Standing::Waived(until), ..row })
    }

    fn remediated(&mut self, seen: &Seen, until: u64) -> Folded {
        let key = AlertKey::Open(seen.check.clone(), seen.activation, seen.subject.clone());
        let Some(row) = self.row(&key)? else { return Ok(()) };
        let mut opened = row.opened;
        if row.standing == Standing::Open {
            match self.group_of(&seen.check, &row)? {
                Some((at, mut group)) => {
                    group.active = group.active.saturating_sub(1);
                    self.put_group(&seen.check, &row.owner, at, group)?;
                }
                // It was told to nobody: the next notice must not count it.
                None => {
                    self.untell(&seen.check, (seen.activation, &seen.subject), &row)?;
                    opened = 0;
                }
            }
        }
        self.changed(&seen.check, &row.owner)?;
        self.put_row(key, OpenRow { opened, standing: Standing::Remediated(until), ..row })
    }

    fn muted(&mut self, check: &str) -> Folded {
        self.changed(check, "")
    }

    fn reopened(&mut self, check: &str, activation: u64, subject: &str) -> Folded {
        let key = AlertKey::Open(check.to_owned(), activation, subject.to_owned());
        let Some(row) = self.row(&key)?.filter(|row| row.standing != Standing::Open) else { return Ok(()) };
        let (position, mut line) = (self.0.position().get(), self.line(check, &row.owner)?);
        let opened = match self.group_of(check, &row)? {
            Some((at, mut group)) => {
                (group.active, group.unhelped) = (group.active + 1, group.unhelped + 1);
                self.put_group(check, &row.owner, at, group)?;
                line.note_pending(at);
                row.opened
            }
            None => {
                line.new.add(position, self.now(), (activation, subject), None);
                line.new.reopened += 1;
                position
            }
        };
        self.put_line(check, &row.owner, line)?;
        self.put_row(key, OpenRow { opened, standing: Standing::Open, ..row })
    }

    // ---- what is told ----

    fn notified(&mut self, notice: &Notice) -> Folded {
        let (check, owner) = (&notice.check, &notice.line);
        let mut line = self.line(check, owner)?;
        match notice.kind {
            NoticeKind::Indeterminate => line.unread = 0,
            NoticeKind::Opened => {
                let at = self.0.position().get();
                let new = std::mem::take(&mut line.new);
                // All may have been waived since the notice was decided.
                if new.count == 0 {
                    line.note_pending(at);
                }
                let Untold { count, first, activation, since, sample, .. } = new;
                let (about, over, told_at) = (notice.about.clone(), Over::default(), self.now());
                let (open, active, unhelped) = (count, count, 0);
                let group =
                    Group { first, activation, since, about, open, active, unhelped, over, told_at, sample };
                self.put_group(check, owner, at, group)?;
            }
            NoticeKind::Escalated { .. } | NoticeKind::Reminded => {
                let key = AlertKey::Group(check.clone(), owner.clone(), notice.group);
                if let Some(AlertRow::Group(mut group)) = self.0.get(&key)? {
                    (group.about, group.told_at) = (notice.about.clone(), self.now());
                    if notice.kind == (NoticeKind::Escalated { ages: false }) {
                        group.unhelped = 0;
                        line.pending.retain(|at| *at != notice.group || group.open == 0);
                    }
                    self.0.put(key, AlertRow::Group(group))?;
                }
            }
            NoticeKind::Resolved => {
                line.pending.retain(|at| *at != notice.group);
                self.0.remove(&AlertKey::Group(check.clone(), owner.clone(), notice.group))?;
            }
        }
        self.put_line(check, owner, line)
    }

    // ---- steps of these ----

    fn now(&self) -> u64 {
        Timestamp::from(self.0.recorded_at()).micros()
    }

    fn changed(&mut self, check: &str, owner: &str) -> Folded {
        let mut line = self.line(check, owner)?;
        line.changed = self.0.position().get();
        self.put_line(check, owner, line)
    }

    /// Takes a violation out of its group, or from those that were not told.
    fn leave(
        &mut self,
        check: &str,
        of: (u64, &str),
        row: &OpenRow,
        how: fn(&mut Over) -> &mut u64,
    ) -> Folded {
        match self.group_of(check, row)? {
            Some((at, mut group)) => {
                group.open = group.open.saturating_sub(1);
                group.active = group.active.saturating_sub(u64::from(row.standing == Standing::Open));
                *how(&mut group.over) += 1;
                let is_over = group.open == 0;
                self.put_group(check, &row.owner, at, group)?;
                if is_over {
                    let mut line = self.line(check, &row.owner)?;
                    line.note_pending(at);
                    self.put_line(check, &row.owner, line)?;
                }
                Ok(())
            }
            None if row.standing == Standing::Open => self.untell(check, of, row),
            None => Ok(()),
        }
    }

    fn untell(&mut self, check: &str, (activation, subject): (u64, &str), row: &OpenRow) -> Folded {
        let mut line = self.line(check, &row.owner)?;
        line.new.count = line.new.count.saturating_sub(1);
        line.new.sample.retain(|(at, of)| (*at, of.as_str()) != (activation, subject));
        if line.new.count == 0 {
            line.new = Untold::default();
        }
        self.put_line(check, &row.owner, line)
    }
}

impl Line {
    fn note_pending(&mut self, group: u64) {
        if !self.pending.contains(&group) {
            self.pending.push(group);
        }
    }
}

impl Untold {
    fn add(&mut self, opened: u64, now: u64, of: (u64, &str), raised: Option<(Severity, String)>) {
        if self.count == 0 {
            (self.first, self.activation, self.since) = (opened, of.0, now);
        }
        self.count += 1;
        let bytes: usize = self.sample.iter().map(|(_, subject)| subject.len()).sum();
        if self.sample.len() < SAMPLE && bytes + of.1.len() <= SAMPLE_BYTES {
            self.sample.push((of.0, of.1.to_owned()));
        }
        let severity = |raised: &Option<(Severity, String)>| raised.as_ref().map(|(severity, _)| *severity);
        if severity(&raised) > severity(&self.raised) {
            self.raised = raised;
        }
    }
}
