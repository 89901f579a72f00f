//! Who is told, and how often: the first violation of a check at once, a storm in one piece.
//!
//! - Nothing need be set up: without a sink, alerts go to standard error.
//! - What was alerted is on record, after the sink has taken it: a crash between the two repeats that alert, and loses none.
//! - What a check finds while it judges the past is one alert, when it has caught up.

use crate::check::Severity;
use crate::episode::Violation;
use std::fmt;
use std::sync::Arc;

/// Something is violated, or cannot be told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Alert {
    /// Which check says so.
    pub check: String,
    /// Who is told how soon.
    pub severity: Severity,
    /// Who sees to it.
    pub owner: String,
    /// What a violation means.
    pub means: String,
    /// What to do.
    pub remedy: String,
    /// Violations since the last alert of this check.
    pub count: u64,
    /// Events since then that it could not read: of these it cannot tell.
    pub unread: u64,
    /// The first of the violations, ten at most.
    pub sample: Vec<Violation>,
    /// Why its severity is higher than the check's own. `None`: it is not.
    pub escalated: Option<String>,
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Alert { check, severity, owner, means, remedy, count, unread, sample, escalated } = self;
        write!(f, "{check} ({severity:?}, {owner}): {count} violated")?;
        if *unread > 0 {
            write!(f, ", {unread} unread")?;
        }
        if let Some(first) = sample.first() {
            write!(f, ", the first at {}", first.activation)?;
        }
        if let Some(why) = escalated {
            write!(f, "; {severity} because {why}")?;
        }
        write!(f, ". {means} To do: {remedy}")
    }
}

/// What a sink answers: nothing, or whether it has taken the alert.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whether the alert was taken",
    label = "a sink returns `()`, or a `Result` whose error can be shown"
)]
pub trait Delivery {
    /// Why it has not.
    ///
    /// # Errors
    ///
    /// That: the alert is tried again.
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

/// Takes alerts, or says why not. Called on a thread of its own.
pub(crate) type Sink = Arc<dyn Fn(&Alert) -> Result<(), String> + Send + Sync>;

pub(crate) fn sink<D: Delivery>(tell: impl Fn(&Alert) -> D + Send + Sync + 'static) -> Sink {
    Arc::new(move |alert| tell(alert).taken())
}

/// Where alerts go that nobody asked for.
pub(crate) fn standard_error() -> Sink {
    sink(|alert| eprintln!("{alert}"))
}

/// A sink that writes each alert as a line of JSON, and flushes it.
///
/// ```
/// use tallystone::prelude::*;
/// use tallystone::watch;
///
/// let setup = Setup::new().alerts(watch::json_lines(std::io::stdout()));
/// ```
///
/// What cannot be written is tried again; a line that was written in part is ended first, so that every other line is whole.
#[cfg(feature = "json")]
pub fn json_lines(
    out: impl std::io::Write + Send + 'static,
) -> impl Fn(&Alert) -> std::io::Result<()> + Send + Sync + 'static {
    // Whether the last line may be cut.
    let out = crate::sync::Mutex::new((out, false));
    move |alert| {
        let positions: Vec<_> = alert.sample.iter().map(|violation| violation.activation.get()).collect();
        let line = serde_json::json!({
            "check": alert.check,
            "severity": alert.severity,
            "owner": alert.owner,
            "means": alert.means,
            "remedy": alert.remedy,
            "count": alert.count,
            "unread": alert.unread,
            "sample": positions,
            "escalated": alert.escalated,
        });
        let (out, cut) = &mut *out.lock();
        let begin = if *cut { "\n" } else { "" };
        *cut = true;
        out.write_all(format!("{begin}{line}\n").as_bytes()).and_then(|()| out.flush())?;
        *cut = false;
        Ok(())
    }
}

/// A sink that hands each alert to `tracing`, as an event of the target `tallystone::alert`: an error for a page, a warning for
/// a ticket, information for a note.
///
/// ```
/// use tallystone::prelude::*;
/// use tallystone::watch;
///
/// let setup = Setup::new().alerts(watch::traced());
/// ```
#[cfg(feature = "tracing")]
pub fn traced() -> impl Fn(&Alert) + Send + Sync + 'static {
    macro_rules! event {
        ($level:ident, $alert:expr) => {
            tracing::$level!(
                target: "tallystone::alert",
                check = $alert.check.as_str(),
                severity = %$alert.severity,
                owner = $alert.owner.as_str(),
                count = $alert.count,
                unread = $alert.unread,
                first = $alert.sample.first().map(|violation| violation.activation.get()),
                escalated = $alert.escalated.as_deref(),
                remedy = $alert.remedy.as_str(),
                "{}", $alert.means
            )
        };
    }
    |alert| match alert.severity {
        Severity::Page => event!(error, alert),
        Severity::Ticket => event!(warn, alert),
        Severity::Note => event!(info, alert),
    }
}
