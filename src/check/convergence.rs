//! Times that activations wait and groups of events take to rest: the basis for choosing a window.
//!
//! - A report is exact and stores nothing: the check's own judge reads the log again, with a window that does not end.
//! - Quantiles are by nearest rank: the p99 of 200 waits is the 198th of them, and no wait is made up.

use super::book::Book;
use super::glance::Glance;
use super::judge::{Nowhere, sure};
use super::keys::KeyHash;
use super::text::time_text;
use super::word::{Finding, Rule, Seen, Time, Window, Word};
use super::{Check, Looked};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// Quantiles of a set of durations, and their count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quantiles {
    /// Number of durations.
    pub count: u64,
    /// Half of them take no longer.
    pub p50: Duration,
    /// Nine in ten take no longer.
    pub p90: Duration,
    /// 99 in 100 take no longer.
    pub p99: Duration,
    /// 999 in 1000 take no longer. Of fewer than 1000 it is the longest.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

impl Quantiles {
    /// Returns the quantiles. `None` if there are no times.
    fn of(mut times: Vec<Time>) -> Option<Self> {
        times.sort_unstable();
        let max = *times.last()?;
        let count = times.len() as u64;
        let at = |permille: u64| {
            let rank = (count * permille).div_ceil(1000).max(1);
            duration(times[usize::try_from(rank - 1).expect("they are in memory")])
        };
        Some(Self { count, p50: at(500), p90: at(900), p99: at(990), p999: at(999), max: duration(max) })
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max, .. } = *self;
        for (index, (name, time)) in
            [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)].into_iter().enumerate()
        {
            let line = if index == 0 { "" } else { "\n" };
            write!(f, "{line}  {name:<12}{}", time_text(micros(time)))?;
        }
        Ok(())
    }
}

/// Time that activations of a check waited for their answers, in and after its window. It prints as a table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Convergence {
    /// The check.
    pub check: String,
    /// Number of activations that waited.
    pub activations: u64,
    /// Number of activations that were answered, in time or not.
    pub answered: u64,
    /// Number of activations whose scope ended first, so that they wait no more.
    pub ended: u64,
    /// Number of activations that were not answered so far.
    pub unanswered: u64,
    /// Number of activations that were answered after the window.
    pub late: u64,
    /// Events that could not be read.
    pub unread: u64,
    /// Quantiles of the waits that were answered. `None` if none was.
    pub waits: Option<Quantiles>,
    /// The longest wait that the check allows. `None`: no limit.
    pub window: Option<Duration>,
    /// A window that would have held 999 of 1000: the p99.9, rounded up to a common length.
    pub recommended: Option<Duration>,
}

impl Convergence {
    /// Returns a warning if the window is below the p99.9 of the waits: then its violations are mostly late, and not wrong.
    pub fn warning(&self) -> Option<String> {
        let (window, Quantiles { count, p999, .. }, recommended) =
            (self.window?, self.waits?, self.recommended?);
        let text = |time: Duration| time_text(micros(time));
        (window < p999).then(|| {
            format!(
                "the window of {} is below the p99.9 of {}: {} of {count} came after it; {} would do",
                text(window),
                text(p999),
                self.late,
                text(recommended),
            )
        })
    }
}

impl fmt::Display for Convergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, activations, answered, ended, unanswered, late, unread, .. } = self;
        writeln!(f, "{check}: {activations} activations")?;
        write!(f, "  {:<12}{answered}, {late} of them after the window", "answered")?;
        for (name, number) in [("never", unanswered), ("scope ended", ended), ("unread", unread)] {
            if *number > 0 || name == "never" {
                write!(f, "\n  {name:<12}{number}")?;
            }
        }
        if let Some(waits) = &self.waits {
            write!(f, "\n{waits}")?;
        }
        for (name, time) in [("window", self.window), ("recommended", self.recommended)] {
            if let Some(time) = time {
                write!(f, "\n  {name:<12}{}", time_text(micros(time)))?;
            }
        }
        match self.warning() {
            Some(warning) => write!(f, "\n  warning: {warning}"),
            None => Ok(()),
        }
    }
}

/// Reads a log for [`Convergence`]. It keeps what is open, and eight bytes for each answer.
pub(crate) struct Timing<'c> {
    check: &'c Check,
    families: Vec<String>,
    book: Book,
    window: Option<Time>,
    waits: Vec<Time>,
    /// Targets that nothing waited for.
    odd: u64,
}

impl<'c> Timing<'c> {
    /// Returns a reader for this check. The error says why there is nothing to tell.
    pub fn of(check: &'c Check) -> Result<Self, String> {
        let Rule { word, window, .. } = check.rule;
        let word = match word {
            // Only this half waits: the other one looks back.
            Word::Succession => Word::Response,
            Word::Response
            | Word::AlternateResponse
            | Word::ChainResponse
            | Word::RespondedExistence
            | Word::EachClosedBy
            | Word::Standing
            | Word::Existence => word,
            other => return Err(format!("`{other}` waits for nothing, so nothing converges")),
        };
        let endless = Window { to: None, ..window.unwrap_or(Window::within(0)) };
        Ok(Self {
            check,
            families: check.lens.families(),
            book: Book::timed(Rule { word, window: Some(endless), ..check.rule }),
            // A window by a calendar counts with its length at 1970-01-01.
            window: window.and_then(|window| window.end(0)),
            waits: Vec::new(),
            odd: 0,
        })
    }

    pub fn show(&mut self, glance: &mut Glance<'_>) {
        if !Check::regards(&self.families, glance.raw.family()) {
            return;
        }
        sure(self.check.judge(&mut self.book, glance, &Nowhere));
        // Negative if the answer came before: words that look both ways.
        self.waits.extend(self.book.take_waits().map(|wait| wait.saturating_abs()));
        let odd = |finding: &Finding| {
            self.check.rule.word == Word::EachClosedBy && finding.activation == finding.by
        };
        self.odd += self.book.take_found().iter().filter(|(_, finding)| odd(finding)).count() as u64;
    }

    pub fn done(self) -> Convergence {
        let Self { check, book, window, waits, odd, .. } = self;
        let counts = *book.counts();
        let (activations, answered) = (counts.activations - odd, waits.len() as u64);
        let late = window.map_or(0, |window| waits.iter().filter(|wait| **wait > window).count() as u64);
        let waits = Quantiles::of(waits);
        // The window has no end here, so only an answer or the scope's end satisfies.
        let ended = counts.satisfied - answered;
        Convergence {
            check: check.id().to_owned(),
            activations,
            answered,
            ended,
            unanswered: activations - answered - ended,
            late,
            unread: counts.untold,
            waits,
            window: window.map(duration),
            recommended: waits.map(|waits| rounded_up(waits.p999)),
        }
    }
}

/// Time that groups of related events take until they rest. It prints as a table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settling {
    /// The check whose keys relate the events.
    pub check: String,
    /// A group rests when nothing of its key came for longer than this.
    pub quiet: Duration,
    /// Groups that rest. A key that wakes up begins another one.
    pub settled: u64,
    /// Groups that do not rest yet.
    pub moving: u64,
    /// Events that could not be read.
    pub unread: u64,
    /// Time from the first event of a group to its last, of groups that rest.
    pub times: Option<Quantiles>,
}

impl fmt::Display for Settling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, quiet, settled, moving, unread, times } = self;
        write!(f, "{check}: {settled} groups rest, with nothing for {}", time_text(micros(*quiet)))?;
        for (name, number) in [("moving", moving), ("unread", unread)] {
            if *number > 0 {
                write!(f, "\n  {name:<12}{number}")?;
            }
        }
        times.as_ref().map_or(Ok(()), |times| write!(f, "\n{times}"))
    }
}

/// Reads a log for [`Settling`]. It keeps two times of each key, and eight bytes for each group.
pub(crate) struct Quieting<'c> {
    check: &'c Check,
    families: Vec<String>,
    quiet: Time,
    /// First and last event of the group that may go on.
    groups: HashMap<KeyHash, (Time, Time)>,
    times: Vec<Time>,
    latest: Time,
    unread: u64,
}

impl<'c> Quieting<'c> {
    pub fn of(check: &'c Check, quiet: Duration) -> Self {
        let (groups, times) = (HashMap::new(), Vec::new());
        let (families, quiet) = (check.lens.families(), micros(quiet));
        Self { check, families, quiet, groups, times, latest: Time::MIN, unread: 0 }
    }

    pub fn show(&mut self, glance: &mut Glance<'_>) {
        if !Check::regards(&self.families, glance.raw.family()) {
            return;
        }
        let Ok(Looked { seen, .. }) = self.check.look(glance) else {
            self.unread += 1;
            return;
        };
        // An event that means nothing to the check does not keep its group moving.
        let counts = |seen: &Seen| seen.roles != Default::default() || seen.amount != Default::default();
        let Some((key, Seen { time, .. })) = seen.filter(|(_, seen)| counts(seen)) else { return };
        self.latest = self.latest.max(time);
        let group = self.groups.entry(key).or_insert((time, time));
        if time.saturating_sub(group.1) > self.quiet {
            self.times.push(group.1.saturating_sub(group.0));
            *group = (time, time);
        }
        *group = (group.0.min(time), group.1.max(time));
    }

    /// Returns the report. `now`: no event of the log is later.
    pub fn done(mut self, now: Time) -> Settling {
        let now = now.max(self.latest);
        let before = self.times.len();
        let rests = |last: Time| now.saturating_sub(last) > self.quiet;
        let rest = self.groups.values().filter(|(_, last)| rests(*last));
        self.times.extend(rest.map(|(first, last)| last.saturating_sub(*first)));
        let moving = self.groups.len() - (self.times.len() - before);
        Settling {
            check: self.check.id().to_owned(),
            quiet: duration(self.quiet),
            settled: self.times.len() as u64,
            moving: moving as u64,
            unread: self.unread,
            times: Quantiles::of(self.times),
        }
    }
}

/// Returns the next common length of a window.
fn rounded_up(time: Duration) -> Duration {
    const MILLIS: [u64; 9] = [1, 2, 5, 10, 20, 50, 100, 200, 500];
    const SECONDS: [u64; 7] = [1, 2, 5, 10, 15, 20, 30];
    const MINUTES: [u64; 9] = [1, 2, 3, 5, 10, 15, 20, 30, 45];
    const HOURS: [u64; 7] = [1, 2, 3, 4, 6, 8, 12];
    const DAYS: [u64; 17] = [1, 2, 3, 4, 5, 6, 7, 10, 14, 21, 30, 45, 60, 90, 120, 180, 365];
    let units: [(&[u64], u64); 5] =
        [(&MILLIS, 1), (&SECONDS, 1000), (&MINUTES, 60_000), (&HOURS, 3_600_000), (&DAYS, DAY_MS)];
    let steps = units.into_iter().flat_map(|(steps, unit)| steps.iter().map(move |step| step * unit));
    let mut steps = steps.map(Duration::from_millis);
    steps.find(|step| *step >= time).unwrap_or_else(|| {
        let days = time.as_secs().div_ceil(DAY_MS / 1000).max(1);
        Duration::from_secs(days.next_multiple_of(30) * (DAY_MS / 1000))
    })
}

const DAY_MS: u64 = 24 * 3_600_000;

fn duration(time: Time) -> Duration {
    Duration::from_micros(time.max(0).unsigned_abs())
}

fn micros(duration: Duration) -> Time {
    super::micros(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rounding_up_never_shortens_and_is_idempotent(micros in 0_u64..1 << 50) {
            let time = Duration::from_micros(micros);
            let rounded = rounded_up(time);
            prop_assert!(rounded >= time);
            // Nobody waits more than two and a half times as long for a round number.
            prop_assert!(rounded <= time * 5 / 2 + Duration::from_millis(1), "{rounded:?} of {time:?}");
            prop_assert_eq!(rounded_up(rounded), rounded);
        }
    }

    #[test]
    fn quantiles_are_times_that_were_seen() {
        assert_eq!(Quantiles::of(Vec::new()), None);
        let one = Quantiles::of(vec![7]).expect("there is one");
        assert_eq!((one.p50, one.p999, one.count), (Duration::from_micros(7), one.max, 1));
        let thousand = Quantiles::of((1..=1000).rev().collect()).expect("there are some");
        let micros = [thousand.p50, thousand.p90, thousand.p99, thousand.p999, thousand.max]
            .map(|time| time.as_micros());
        assert_eq!(micros, [500, 900, 990, 999, 1000]);
    }
}
