//! Notifications of violations, and the routes that they take.
//!
//! - Nothing need be set up: without a route, notifications go to standard error.
//! - A notification is decided once, and is an event of the log. Each route delivers the events that it matches, in their order, and
//!   records how far it is after the sink has taken one: a crash between the two repeats that notification, and loses none.
//! - Violations of a check that are found within [`Options::alert_every_ms`](crate::Options::alert_every_ms) are one notification,
//!   and one incident: it is opened once, and resolved once, when the last of them is over.

use crate::check::Severity;
use crate::episode::Violation;
use crate::own::{NoticeAbout, Over};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// A message to the people who see to violations of one check.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Notification {
    /// Reason for the message.
    pub kind: NotificationKind,
    /// Name of the incident, the same from `Opened` to `Resolved`, and when a notification is repeated after a crash: for
    /// receivers that group by it, such as a pager. It is made of the store's id, the check, and where the first violation is.
    pub dedup_key: String,
    /// Name of the store: [`Setup::name`](crate::Setup::name), else the name of its directory; `memory` without one.
    pub store: String,
    /// Name of the check.
    pub check: String,
    /// Urgency: that of the check, or a higher one.
    pub severity: Severity,
    /// Team that sees to it.
    pub owner: String,
    /// Meaning of a violation. Empty if the check does not run any more.
    pub means: String,
    /// Steps to take: the runbook. Empty if the check does not run any more.
    pub remedy: String,
    /// Labels of the check, by [`Check::label`](crate::check::Check::label).
    pub labels: Vec<(String, String)>,
    /// Reason why it is told now, or with a higher severity. `None`: the check found it.
    pub why: Option<String>,
    /// Violations that it is about: of `Resolved`, those that ended; of `Indeterminate`, events that the check could not read.
    pub count: u64,
    /// Violations among them that were waived or remediated before.
    pub reopened: u64,
    /// Violations of this incident that ended, by how they did.
    pub ended: Ended,
    /// Keys that the violations of the sample are about, as people read them.
    pub keys: Vec<String>,
    /// The first of the violations, 10 at most.
    pub sample: Vec<Violation>,
    /// Time at which the first of them was put on record.
    pub since: SystemTime,
    /// Time at which the notification was decided.
    pub at: SystemTime,
}

/// Reason for a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotificationKind {
    /// Violations were found, or are open again.
    Opened,
    /// An incident reached an age, or a remediation did not help.
    Escalated,
    /// An incident is still open.
    Reminded,
    /// The last violation of the incident is over, waived, or not found any more.
    Resolved,
    /// A check could not read events, and cannot tell about them. It is no incident: nothing resolves it.
    Indeterminate,
}

impl fmt::Display for NotificationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opened => "opened",
            Self::Escalated => "escalated",
            Self::Reminded => "reminded",
            Self::Resolved => "resolved",
            Self::Indeterminate => "indeterminate",
        })
    }
}

/// Number of violations that ended, by how they did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// No longer violated.
    pub healed: u64,
    /// Never violated, as a late event has shown.
    pub retracted: u64,
    /// Waived by a person.
    pub waived: u64,
    /// Not found by the check any more, or of a check that was removed.
    pub retired: u64,
}

impl From<Over> for Ended {
    fn from(Over { healed, retracted, waived, retired }: Over) -> Self {
        Self { healed, retracted, waived, retired }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { healed, retracted, waived, retired } = *self;
        let all = [
            (healed, "healed"),
            (retracted, "retracted"),
            (waived, "waived"),
            (retired, "not found any more"),
        ];
        let all = all.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}"));
        f.write_str(&all.collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, check, severity, owner, means, remedy, count, sample, why, ended, .. } = self;
        write!(f, "{check} ({severity:?}, {owner}): ")?;
        match kind {
            NotificationKind::Opened => write!(f, "{count} violated")?,
            NotificationKind::Escalated => write!(f, "{count} violated, escalated")?,
            NotificationKind::Reminded => write!(f, "{count} still violated")?,
            NotificationKind::Resolved => return write!(f, "resolved: {ended}"),
            NotificationKind::Indeterminate => write!(f, "{count} events cannot be read")?,
        }
        if let Some(first) = sample.first() {
            write!(f, ", the first at {}", first.activation)?;
        }
        if let Some(key) = self.keys.first() {
            write!(f, " on {key}")?;
        }
        if let Some(why) = why {
            write!(f, "; {severity} because {why}")?;
        }
        write!(f, ". {means} To do: {remedy}")
    }
}

/// Answer of a sink: nothing, or whether it has taken the notification.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whether the notification was taken",
    label = "a sink returns `()`, or a `Result` whose error can be shown"
)]
pub trait Delivery {
    /// Reason why it was not taken.
    ///
    /// # Errors
    ///
    /// The reason. The notification is tried again.
    fn taken(self) -> Result<(), String>;
}

impl Delivery for () {
    fn taken(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display> Delivery for Result<(), E> {
    fn taken(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// Takes notifications, or says why not. Called on a thread of its own.
pub(crate) type Sink = Arc<dyn Fn(&Notification) -> Result<(), String> + Send + Sync>;

/// A sink, and the notifications that it takes.
///
/// A route takes what matches all that is said of it; a notification takes every route that matches, and
/// [`Setup::alerts`](crate::Setup::alerts) if none does. Each route has its own thread, queue, deadline and back-off, and records on
/// its own how far it is: one that refuses, hangs or panics holds up no other. A route is known by its name: renamed, it begins with
/// what comes from then on.
///
/// ```
/// use std::sync::mpsc;
/// use tallystone::check::Severity;
/// use tallystone::prelude::*;
/// use tallystone::watch::Route;
///
/// let (pages, pager) = mpsc::channel();
/// let setup = Setup::new()
///     .route(Route::new("pager", move |told| pages.send(told.to_string())).at_least(Severity::Page))
///     .route(Route::new("payments", |told| println!("{told}")).owner("payments").label("region", "eu"))
///     .alerts(|told| println!("everything else: {told}"));
/// let store = Store::in_memory(setup)?;
///
/// // Example: two routes of one name are refused, since neither could say how far it is.
/// let twice = Setup::new().route(Route::new("pager", |_| ())).route(Route::new("pager", |_| ()));
/// assert!(Store::in_memory(twice).unwrap_err().to_string().contains("`pager`"));
/// # drop((store, pager));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a route does nothing until it is in a setup"]
pub struct Route {
    pub(crate) name: Cow<'static, str>,
    matching: RouteFilter,
    pub(crate) sink: Sink,
}

/// Condition for a notification to take a route.
#[derive(Debug, Clone)]
enum RouteFilter {
    These {
        least: Severity,
        owners: Vec<String>,
        labels: Vec<(String, String)>,
    },
    /// No other route takes it.
    Rest,
    /// It is about routes.
    Sinks,
}

/// Name of the route of [`Setup::alerts`](crate::Setup::alerts).
pub(crate) const DEFAULT_ROUTE: &str = "alerts";
/// Name of the route of findings about routes.
const STANDARD_ERROR: &str = "standard error";
/// Check of the store's own: routes take notifications in time.
pub(crate) const SINKS: &str = "tallystone.alerts";
/// Maximum length of a route's name, in bytes.
const NAME_BYTES_MAX: usize = 128;

impl Route {
    /// A route that takes everything, until it says more. The sink answers nothing, or a result: after an error, a panic, or a call
    /// that is not over in [`Options::alert_deadline_ms`](crate::Options::alert_deadline_ms), see
    /// [`Setup::alerts`](crate::Setup::alerts).
    pub fn new<D: Delivery>(
        name: impl Into<Cow<'static, str>>,
        tell: impl Fn(&Notification) -> D + Send + Sync + 'static,
    ) -> Self {
        let (owners, labels) = (Vec::new(), Vec::new());
        Self::of(name, RouteFilter::These { least: Severity::Note, owners, labels }, tell)
    }

    fn of<D: Delivery>(
        name: impl Into<Cow<'static, str>>,
        matching: RouteFilter,
        tell: impl Fn(&Notification) -> D + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), matching, sink: Arc::new(move |told| tell(told).taken()) }
    }

    /// The route of what no other takes.
    pub(crate) fn rest<D: Delivery>(tell: impl Fn(&Notification) -> D + Send + Sync + 'static) -> Self {
        Self::of(DEFAULT_ROUTE, RouteFilter::Rest, tell)
    }

    /// The route of findings about routes, which may not depend on any of them.
    pub(crate) fn of_sinks() -> Self {
        Self::of(STANDARD_ERROR, RouteFilter::Sinks, |told| eprintln!("{told}"))
    }

    /// Takes only notifications of this severity or a higher one. There is no upper bound, so that whoever is told of an incident is
    /// told of its end.
    pub fn at_least(mut self, severity: Severity) -> Self {
        if let RouteFilter::These { least, .. } = &mut self.matching {
            *least = severity;
        }
        self
    }

    /// Takes only notifications of this owner. Said several times: of any of these.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        if let RouteFilter::These { owners, .. } = &mut self.matching {
            owners.push(owner.into());
        }
        self
    }

    /// Takes only notifications with this label. Said several times: with all of these.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let RouteFilter::These { labels, .. } = &mut self.matching {
            labels.push((name.into(), value.into()));
        }
        self
    }

    /// Returns everything that is wrong with the routes of a setup.
    pub(crate) fn faults(routes: &[Self]) -> Vec<String> {
        let mut faults = Vec::new();
        for (index, Self { name, .. }) in routes.iter().enumerate() {
            if name.trim().is_empty() || name.len() > NAME_BYTES_MAX {
                faults.push(format!("route `{name}`: a name has 1 to {NAME_BYTES_MAX} bytes"));
            }
            if [DEFAULT_ROUTE, STANDARD_ERROR].contains(&name.as_ref()) {
                faults.push(format!("route `{name}`: the name is the store's own"));
            }
            if routes[..index].iter().any(|other| other.name == *name) {
                faults.push(format!("route `{name}` is there twice: give each a name of its own"));
            }
        }
        faults
    }

    /// Says whether the route takes a notice of `check`. `by_others`: some other route of the setup does.
    pub(crate) fn takes(&self, check: &str, about: &NoticeAbout, by_others: bool) -> bool {
        match &self.matching {
            RouteFilter::Sinks => check == SINKS,
            RouteFilter::Rest => !by_others && check != SINKS,
            RouteFilter::These { least, owners, labels } => {
                Severity::named(&about.severity).unwrap_or(Severity::Page) >= *least
                    && (owners.is_empty() || owners.contains(&about.owner))
                    && labels.iter().all(|label| about.labels.contains(label))
            }
        }
    }

    /// Says whether the route is one that a caller has described.
    pub(crate) fn is_described(&self) -> bool {
        matches!(self.matching, RouteFilter::These { .. })
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("name", &self.name).field("matching", &self.matching).finish()
    }
}

/// A sink that writes each notification as a line of JSON, and flushes it.
///
/// ```
/// use tallystone::prelude::*;
/// use tallystone::watch;
///
/// let setup = Setup::new().alerts(watch::json_lines(std::io::stdout()));
/// ```
///
/// A line that cannot be written is tried again; one that was written in part is ended first, so that every other line is whole.
#[cfg(feature = "json")]
pub fn json_lines(
    out: impl std::io::Write + Send + 'static,
) -> impl Fn(&Notification) -> std::io::Result<()> + Send + Sync + 'static {
    // Whether the last line may be cut.
    let out = crate::sync::Mutex::new((out, false));
    let millis =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    move |told| {
        let positions: Vec<_> = told.sample.iter().map(|violation| violation.activation.get()).collect();
        let labels: serde_json::Map<_, _> =
            told.labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let Ended { healed, retracted, waived, retired } = told.ended;
        let line = serde_json::json!({
            "kind": told.kind.to_string(),
            "dedup_key": told.dedup_key,
            "store": told.store,
            "check": told.check,
            "severity": told.severity,
            "owner": told.owner,
            "means": told.means,
            "remedy": told.remedy,
            "labels": labels,
            "why": told.why,
            "count": told.count,
            "reopened": told.reopened,
            "ended": { "healed": healed, "retracted": retracted, "waived": waived, "retired": retired },
            "keys": told.keys,
            "sample": positions,
            "since": millis(told.since) as u64,
            "at": millis(told.at) as u64,
        });
        let (out, cut) = &mut *out.lock();
        let begin = if *cut { "\n" } else { "" };
        *cut = true;
        out.write_all(format!("{begin}{line}\n").as_bytes()).and_then(|()| out.flush())?;
        *cut = false;
        Ok(())
    }
}

/// A sink that hands each notification to `tracing`, as an event of the target `tallystone::alert`: an error for a page, a warning
/// for a ticket, information for a note and for whatever is resolved.
///
/// ```
/// use tallystone::prelude::*;
/// use tallystone::watch;
///
/// let setup = Setup::new().alerts(watch::traced());
/// ```
#[cfg(feature = "tracing")]
pub fn traced() -> impl Fn(&Notification) + Send + Sync + 'static {
    macro_rules! event {
        ($level:ident, $told:expr) => {
            tracing::$level!(
                target: "tallystone::alert",
                kind = %$told.kind,
                dedup_key = $told.dedup_key.as_str(),
                store = $told.store.as_str(),
                check = $told.check.as_str(),
                severity = %$told.severity,
                owner = $told.owner.as_str(),
                count = $told.count,
                ended = %$told.ended,
                first = $told.sample.first().map(|violation| violation.activation.get()),
                key = $told.keys.first().map(String::as_str),
                why = $told.why.as_deref(),
                remedy = $told.remedy.as_str(),
                "{}", $told.means
            )
        };
    }
    |told| match (told.kind, told.severity) {
        (NotificationKind::Resolved, _) | (_, Severity::Note) => event!(info, told),
        (_, Severity::Page) => event!(error, told),
        (_, Severity::Ticket) => event!(warn, told),
    }
}
