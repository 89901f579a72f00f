//! Lengths of windows, for the Rust API.

use super::calendar::{Bucket, Length, Said};
use super::micros;
use super::zone::Zone;
use std::borrow::Cow;
use std::time::Duration;

/// A length of time: exact, or by the calendar and clocks of a time zone.
///
/// A [`Duration`] is exact. Months and days of a zone are added to the local time, months first; the length of `and` comes last.
/// Then, in this order:
///
/// - A day that its month lacks is the month's last: a month after January 31 is February 28 or 29.
/// - A time that the clock skips moves on by the length of the gap; of a time that the clock shows twice, the first counts.
/// - A time after the year 9999 never comes.
///
/// ```
/// use std::time::Duration;
/// use tallystone::check::Span;
///
/// let exact = Span::from(Duration::from_secs(15 * 60));
/// let by_calendar = Span::in_zone("Europe/Rome").months(1).days(14).and(Duration::from_secs(12 * 3600));
/// assert_ne!(exact, by_calendar);
/// ```
///
/// The zones are those of the IANA time zone database that is compiled in with the cargo feature `zones`; that of the machine is
/// never asked. A zone that does not exist, and any without the feature, is a [`Fault`](super::Fault) of the check that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Span {
    said: Said,
    zone: Option<Cow<'static, str>>,
}

impl Span {
    /// Creates a span of length 0 by the calendar of this zone.
    pub fn in_zone(zone: impl Into<Cow<'static, str>>) -> Self {
        Self { said: Said::default(), zone: Some(zone.into()) }
    }

    /// Adds days: the day before clocks are set forward has 23 hours.
    pub fn days(mut self, days: u32) -> Self {
        self.said.days = self.said.days.saturating_add(days);
        self
    }

    /// Adds weeks, of seven days each.
    pub fn weeks(self, weeks: u32) -> Self {
        self.days(weeks.saturating_mul(7))
    }

    /// Adds months.
    pub fn months(mut self, months: u32) -> Self {
        self.said.months = self.said.months.saturating_add(months);
        self
    }

    /// Adds years, of twelve months each.
    pub fn years(self, years: u32) -> Self {
        self.months(years.saturating_mul(12))
    }

    /// Adds an exact duration.
    pub fn and(mut self, exact: Duration) -> Self {
        self.said.exact = self.said.exact.saturating_add(micros(exact));
        self
    }

    /// Returns the buckets of this length. Errors as of `length`.
    pub(super) fn bucket(&self) -> Result<Bucket, (Option<&'static str>, String)> {
        let zone = self.zone.as_deref().map(Zone::named).transpose().map_err(|why| (Some("zone"), why))?;
        Bucket::of(self.said, zone).map_err(|why| (None, why))
    }

    /// Returns the exact or calendar length. An error: the field that is wrong, if it is not the window's own, and a sentence.
    pub(super) fn length(&self) -> Result<Length, (Option<&'static str>, String)> {
        let zone = self.zone.as_deref().map(Zone::named).transpose().map_err(|why| (Some("zone"), why))?;
        Length::new(self.said, zone).map_err(|why| (None, why))
    }
}

impl From<Duration> for Span {
    fn from(exact: Duration) -> Self {
        Self { said: Said { exact: micros(exact), ..Said::default() }, zone: None }
    }
}
