//! Who is told, and how often: the first violation of a check at once, a storm in one piece.
//!
//! - Nothing need be set up: without a sink, alerts go to standard error.
//! - What was alerted is on record, after the sink has taken it: a crash between the two repeats that alert, and loses none.
//! - What a check finds while it judges the past is one alert, when it has caught up.

use crate::check::Severity;
use crate::episode::Violation;
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
}

impl std::fmt::Display for Alert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Alert { check, severity, owner, means, remedy, count, unread, sample } = self;
        write!(f, "{check} ({severity:?}, {owner}): {count} violated")?;
        if *unread > 0 {
            write!(f, ", {unread} unread")?;
        }
        if let Some(first) = sample.first() {
            write!(f, ", the first at {}", first.activation)?;
        }
        write!(f, ". {means} To do: {remedy}")
    }
}

/// Takes alerts. On the thread of the checks, which waits for it.
pub(crate) type Sink = Arc<dyn Fn(&Alert) + Send + Sync>;

/// Where alerts go that nobody asked for.
pub(crate) fn standard_error() -> Sink {
    Arc::new(|alert| eprintln!("{alert}"))
}

/// A sink that writes each alert as a line of JSON.
///
/// ```
/// use tallystone::prelude::*;
/// use tallystone::watch;
///
/// let setup = Setup::new().alerts(watch::json_lines(std::io::stdout()));
/// ```
///
/// What cannot be written is lost; use a closure to do something about it.
#[cfg(feature = "json")]
pub fn json_lines(out: impl std::io::Write + Send + 'static) -> impl Fn(&Alert) + Send + Sync + 'static {
    let out = crate::sync::Mutex::new(out);
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
        });
        let _ = writeln!(out.lock(), "{line}");
    }
}
