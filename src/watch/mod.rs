//! The desk of the checks: where each stands, what it found, and what was done about it.
//!
//! Checks are judged behind the writer, on a thread of their own. What they find is recorded in the store as events of its own,
//! so a violation is as durable as what it is about, and is folded into rows like anything else.

mod acts;
mod convergence;
mod delivery;
mod dog;
mod file;
#[cfg(feature = "rules")]
mod folder;
mod handbook;
mod mirror;
mod notifier;
mod pull;
mod ranges;
mod remedy;
mod routes;
mod source;
mod sources;
mod untold;
mod watcher;

pub(crate) use delivery::DeliveryQueue;
pub(crate) use dog::Dog;
pub(crate) use file::{FILE, Files};
#[cfg(feature = "rules")]
pub(crate) use folder::Folders;
#[cfg(feature = "rules")]
pub use folder::RuleFile;
pub(crate) use pull::Pullers;
pub(crate) use routes::Outlet;
pub(crate) use source::Origin;
#[cfg(feature = "testing")]
pub(crate) use watcher::TOLD_AT_ONCE;
pub(crate) use watcher::{Ground, Watch, Watcher};

use crate::alerting::{AlertKey, AlertRow, Alerting, Standing};
use crate::check::Invariant;
use crate::check::Severity;
use crate::check::glance::Glasses;
use crate::episode::Episodes;
pub use crate::episode::{State, Violation};
use crate::error::{AppendError, ReadError, StorageError};
use crate::event::{Raw, Sequenced};
#[cfg(feature = "json")]
pub use crate::notification::json_lines;
#[cfg(feature = "tracing")]
pub use crate::notification::traced;
pub use crate::notification::{Delivery, Ended, Notification, NotificationKind, Route};
use crate::order::{Position, Timestamp};
use crate::query::Query;
use crate::request::{Append, Receipt};
use crate::view::View;
pub use remedy::{Remediation, RemedyError};
pub use sources::{Change, Evidence, Sighting, Source};
use std::fmt;
use std::time::Duration;

/// Progress and counts of a check. Numbers are of all the log up to `position`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckStats {
    /// Its name.
    pub check: String,
    /// Names what it is, as long as it is the same: with its version, word, window, scope and families.
    pub definition: [u8; 8],
    /// The last event it has judged.
    pub position: Position,
    /// Events that it has not.
    pub lag_len: u64,
    /// Activations that were to be judged. If 0, the check was never exercised, and says nothing.
    pub activations: u64,
    /// Activations that are satisfied.
    pub satisfied: u64,
    /// Activations that are violated: healed ones count, retracted ones do not.
    pub violated: u64,
    /// Activations that may still become either.
    pub pending: u64,
    /// Keys with a violation.
    pub keys_violated: u64,
    /// Violations where what was missing came too late.
    pub healed: u64,
    /// Violations that turned out to be none: what was missing had been there in time.
    pub retracted: u64,
    /// Events it could not read, and therefore cannot tell about.
    pub unread: u64,
    /// Events that say a time too far ahead of the store's clock; see [`Sequence::skew`](crate::check::Sequence::skew).
    pub skewed: u64,
    /// Position of the last event it could not read since the store was opened, and why.
    pub last_unread: Option<(u64, String)>,
    /// Findings that are not recorded yet.
    pub unrecorded: u64,
    /// The time up to which it takes things for complete, in microseconds since 1970. `None`: nothing told it the time.
    pub watermark: Option<i64>,
    /// Reason for which it does not go on, until `recover`.
    pub trouble: Option<Trouble>,
    /// It has once judged all there was since the store was opened.
    pub(crate) caught_up: bool,
    /// Nothing was to be judged for ten windows, while events of its families came.
    pub(crate) is_unexercised: bool,
}

/// Progress of a route of notifications.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RouteStats {
    /// Its name: `alerts` for [`Setup::alerts`](crate::Setup::alerts), `standard error` for findings about routes.
    pub route: String,
    /// Position of the last notification that it has taken, or that is none of its own; 0 if there was none since the store was
    /// opened.
    pub delivered: Position,
    /// Reason why the last notification was not taken or not recorded, or that its sink has not returned yet; it is tried again.
    /// `None`: it was taken, or there was none since the store was opened.
    pub undelivered: Option<String>,
}

/// Reason for which checks do not go on.
#[derive(Debug, Clone)]
pub struct Trouble(pub(crate) StorageError);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl CheckStats {
    /// It has seen everything, and all it found is on record.
    pub fn is_settled(&self) -> bool {
        self.lag_len == 0 && self.unrecorded == 0
    }
}

/// Description of a violation: meaning of its check, the few events that matter, and what to do. It prints itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Explanation {
    /// The violation.
    pub violation: Violation,
    /// Subject: the key of its events.
    pub key: String,
    /// Severity: says who is told how soon.
    pub severity: Severity,
    /// Owner: the person or team that sees to it.
    pub owner: String,
    /// Meaning of the violation.
    pub means: String,
    /// Instructions for a person.
    pub remedy: String,
    /// The event that began it, and the one that decided it.
    pub events: Vec<Sequenced<Raw>>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { check, state, by, disagrees, .. } = &self.violation;
        writeln!(f, "{check} ({:?}, {}) on {}: {}", self.severity, self.owner, self.key, self.means)?;
        for event in &self.events {
            writeln!(f, "  {} {} of {}", event.position, event.event.type_name(), event.event.stream())?;
        }
        if !disagrees.is_empty() {
            writeln!(f, "  {disagrees}")?;
        } else if by.is_none() {
            writeln!(f, "  nothing that it waits for came")?;
        }
        match state {
            State::Open => writeln!(f, "  open")?,
            State::Healed { by, after } => writeln!(f, "  healed by {by}, {after:?} later")?,
            State::Retracted { by } => writeln!(f, "  retracted: {by} had come in time")?,
            State::Remediated { by, at } => writeln!(f, "  remediated by {by}, on record at {at}")?,
            State::Waived { by, reason, .. } => writeln!(f, "  waived by {by}: {reason}")?,
            State::Retired { at } => writeln!(f, "  not found any more, on record at {at}")?,
        }
        write!(f, "  to do: {}", self.remedy)
    }
}

/// The checks of a store: [`Store::checks`](crate::Store::checks).
pub struct Checks<'s> {
    pub(crate) desk: &'s dyn Desk,
}

/// Services of the store that `Checks` uses.
pub(crate) trait Desk: Send + Sync {
    fn view(&self) -> Result<View, ReadError>;
    fn append(&self, append: Append) -> Result<Receipt, AppendError>;
    fn head(&self) -> Position;
    /// Returns the store's time: that of the clock, and never before the last commit.
    fn now(&self) -> Timestamp;
    fn watch(&self) -> std::sync::Arc<Watch>;
    fn glasses(&self) -> Glasses;
    fn invariants(&self) -> &[Invariant];
    /// Waits until every check has settled at this position or later. `false`: the time is over.
    fn settle(&self, position: Position, timeout: Duration) -> bool;
    /// Has a source pulled, and waits until every check has settled behind it. `None`: the check has no source.
    fn pull(&self, check: &str, timeout: Duration) -> Option<bool>;
}

impl fmt::Debug for Checks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checks")
    }
}

impl Checks<'_> {
    /// Returns the progress of each check: those of the setup in its order, then those of folders.
    pub fn stats(&self) -> Vec<CheckStats> {
        let mut stats = self.desk.watch().stats().to_vec();
        // Of now, not of when the check last moved.
        let head = self.desk.head();
        stats.iter_mut().for_each(|check| check.lag_len = head.get().saturating_sub(check.position.get()));
        stats
    }

    /// Returns the progress of each route of notifications: those of the setup in their order, then the store's own.
    pub fn routes(&self) -> Vec<RouteStats> {
        self.desk.watch().routes.read().to_vec()
    }

    /// The files in the folders of rules, and what became of each.
    #[cfg(feature = "rules")]
    pub fn rules(&self) -> Vec<RuleFile> {
        self.desk.watch().known().files.clone()
    }

    /// Waits until every check has judged the events up to `position`, and what it found is on record. `false`: the time is over,
    /// checks are in trouble, the store is closed, or they wait for this thread: inside the closure of a check, a fold or a guard.
    pub fn wait_for(&self, position: Position, timeout: Duration) -> bool {
        self.desk.settle(position, timeout)
    }

    /// Returns all that is violated now, by checks that run now, and is not waived or counted as remediated. It takes as long as there
    /// are open ones, however many there have been.
    ///
    /// # Errors
    ///
    /// As reading rows.
    pub fn open(&self) -> Result<Vec<Violation>, ReadError> {
        let (view, watch) = (self.desk.view()?, self.desk.watch());
        let checks = watch.checks();
        let runs = |id: &str| dog::BUILT_IN.contains(&id) || checks.iter().any(|check| check.id() == id);
        let mut open = Vec::new();
        for row in view.rows::<Alerting>(Alerting::open()) {
            let (AlertKey::Open(check, activation, subject), AlertRow::Open(row)) = row? else { continue };
            if row.standing != Standing::Open || !runs(&check) {
                continue;
            }
            let key = (check, activation, subject);
            open.extend(view.row::<Episodes>(&key)?.map(|episode| Violation::new(key, episode)));
        }
        Ok(open)
    }

    /// Every violation there ever was, by check and activation.
    ///
    /// # Errors
    ///
    /// As reading rows.
    pub fn all(&self) -> Result<Vec<Violation>, ReadError> {
        let view = self.desk.view()?;
        let rows = view.rows::<Episodes>(..).collect::<Result<Vec<_>, _>>()?;
        Ok(rows.into_iter().map(|(key, row)| Violation::new(key, row)).collect())
    }

    /// Every violation of one check, in the order of activations.
    ///
    /// # Errors
    ///
    /// As reading rows.
    pub fn of(&self, check: &str) -> Result<Vec<Violation>, ReadError> {
        let view = self.desk.view()?;
        let range = Episodes::of(check);
        let rows = view.rows::<Episodes>(range).collect::<Result<Vec<_>, _>>()?;
        Ok(rows.into_iter().map(|(key, row)| Violation::new(key, row)).collect())
    }

    /// The few events that matter, and what to do.
    ///
    /// # Errors
    ///
    /// `Unregistered`: the setup has no such check any more. `Decode`: its events cannot be read. As reading events.
    pub fn explain(&self, violation: &Violation) -> Result<Explanation, ReadError> {
        let watch = self.desk.watch();
        let checks = watch.checks();
        let check = checks.iter().find(|check| check.id() == violation.check);
        let about = check.map(|check| check.about.clone()).or_else(|| {
            let subject = violation.subject.as_deref()?;
            dog::about(&watch, &violation.check, subject)
        });
        let about = about.ok_or_else(|| ReadError::Invalid {
            what: "violation",
            why: format!("no check of the setup is called `{}`", violation.check),
        })?;
        let view = self.desk.view()?;
        let mut events: Vec<Sequenced<Raw>> = Vec::new();
        for position in [Some(violation.activation), violation.by].into_iter().flatten() {
            if events.iter().all(|event| event.position != position) {
                let one = Query::all().after(Position::new(position.get().saturating_sub(1))).limit(1);
                events.extend(view.query::<Raw>(one).next().transpose()?);
            }
        }
        let key = match (&violation.subject, events.first(), check) {
            (Some(subject), ..) => subject.clone(),
            (None, Some(event), Some(check)) => {
                let glasses = self.desk.glasses();
                let text = routes::key_text(check, event, &glasses);
                let position = event.position;
                text.map_err(|cause| ReadError::Decode { position, cause })?
            }
            (None, ..) => String::new(),
        };
        Ok(Explanation {
            violation: violation.clone(),
            key,
            severity: about.severity,
            owner: about.owner.into_owned(),
            means: about.means.into_owned(),
            remedy: about.remedy.into_owned(),
            events,
        })
    }
}
