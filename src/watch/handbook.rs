//! The handbook, with how each check stands.

use super::{CheckStats, Checks, State};
use crate::check::{Check, pages, pages_of_invariants};
use crate::episode::{Mutes, Violation};
use crate::error::ReadError;
use crate::event::Raw;
use crate::query::Query;
use crate::view::View;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

impl Checks<'_> {
    /// The [handbook](crate::check::handbook()) as Markdown: of every check what it means, what to do and who is told, and how
    /// it stands: since when it judges, what it found, and whether it is muted. Then the invariants, which refuse.
    ///
    /// # Errors
    ///
    /// As reading rows and events.
    pub fn handbook(&self) -> Result<String, ReadError> {
        let (view, stats) = (self.desk.view()?, self.stats());
        let first = view.query::<Raw>(Query::all().limit(1)).next().transpose()?;
        let since = first.map(|event| event.recorded_at);
        let mut lines = Vec::new();
        let checks = self.desk.watch().checks();
        for check in checks.iter() {
            let stats = stats.iter().find(|stats| stats.check == check.id());
            lines.push(self.lines(check, stats, since, &view)?);
        }
        let mut lines = lines.into_iter();
        let mut book = pages(&checks, |_| lines.next().unwrap_or_default());
        pages_of_invariants(&mut book, self.desk.invariants());
        Ok(book)
    }

    fn lines(
        &self,
        check: &Check,
        stats: Option<&CheckStats>,
        since: Option<SystemTime>,
        view: &View,
    ) -> Result<Vec<(&'static str, String)>, ReadError> {
        let mut lines = Vec::new();
        if let Some(stats) = stats {
            let since = since.map_or("there is no event yet".to_owned(), |since| {
                format!("events since {}, up to position {}", date(since), stats.position)
            });
            lines.push(("Judges", since));
            lines.push(("Found", found(stats)));
        }
        let violations = self.of(check.id())?;
        let stands = |one: &&Violation| !matches!(one.state, State::Retracted { .. });
        let mut stand: Vec<_> = violations.iter().filter(stands).collect();
        stand.sort_by_key(|violation| violation.recorded);
        if let (Some(first), Some(last)) = (stand.first(), stand.last()) {
            let open = stand.iter().filter(|violation| violation.state == State::Open).count();
            let text =
                format!("first {}, last {}; open now: {open}", date(first.decided_at), date(last.decided_at));
            lines.push(("Violated", text));
        }
        if let Some(mute) = view.row::<Mutes>(check.id())?
            && mute.until > view.head().time.micros()
        {
            let until = date(UNIX_EPOCH + Duration::from_micros(mute.until));
            lines.push(("Muted", format!("until {until} by {}: {}", mute.by, mute.reason)));
        }
        Ok(lines)
    }
}

fn found(stats: &CheckStats) -> String {
    let CheckStats { activations, violated, healed, pending, unread, .. } = stats;
    if *activations == 0 && *unread == 0 {
        return "it was never exercised, and says nothing".to_owned();
    }
    let mut text =
        format!("{violated} of {activations} violated, {healed} of them healed late, {pending} pending");
    if *unread > 0 {
        text.push_str(&format!("; {unread} events could not be read"));
    }
    text
}

/// To the second, in UTC.
fn date(time: SystemTime) -> String {
    // What it cannot write it would panic on.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let last = UNIX_EPOCH + LAST;
    humantime::format_rfc3339_seconds(time.clamp(UNIX_EPOCH, last)).to_string()
}
