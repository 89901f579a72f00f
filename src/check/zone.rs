//! Time zones, from the database that is compiled in: nothing else names `jiff`.
//!
//! - The machine's own database is never read, because a verdict must not depend on where a store is opened.
//! - A local time that a clock skips moves on by the length of the gap; of one that it shows twice, the first counts.
//! - A zone has the years -9999 to 9999. Times outside count as the nearest inside; a result outside is the first or last
//!   [`Time`] there is.

use super::word::Time;
use jiff::civil::{Date, DateTime, date};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp};
use std::fmt;
use std::sync::{LazyLock, OnceLock};

/// A zone of the database.
#[derive(Clone, Copy)]
pub(crate) struct Zone(&'static ZoneEntry);

struct ZoneEntry {
    name: String,
    zone: OnceLock<TimeZone>,
}

static DATABASE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);
static ENTRIES: LazyLock<Vec<ZoneEntry>> = LazyLock::new(|| {
    let names = DATABASE.available().map(|name| name.as_str().to_owned());
    names.map(|name| ZoneEntry { name, zone: OnceLock::new() }).collect()
});

/// Last year whose clock changes are hashed: no rule begins later, and the last ones go on for ever.
const LAST_RULE: i16 = 2200;
const EPOCH: Date = date(1970, 1, 1);

impl Zone {
    /// Returns the zone of this name, spelled as the database spells it. An error: one sentence.
    pub fn named(name: &str) -> Result<Self, String> {
        let alike = ENTRIES.iter().find(|entry| entry.name.eq_ignore_ascii_case(name));
        match alike {
            Some(entry) if entry.name == name => Ok(Self(entry)),
            Some(ZoneEntry { name: known, .. }) => {
                Err(format!("there is no zone `{name}`; there is `{known}`"))
            }
            None => Err(format!(
                "there is no zone `{name}`: write one of the IANA time zone database, like `Europe/Rome`"
            )),
        }
    }

    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// Returns a hash of all clock changes of the zone: equal for databases that differ in other zones only.
    pub fn rules(self) -> String {
        let zone = self.zone();
        let mut offset = zone.to_offset(Timestamp::MIN);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&offset.seconds().to_le_bytes());
        for change in zone.following(Timestamp::MIN) {
            if zone.to_datetime(change.timestamp()).year() > LAST_RULE {
                break;
            }
            // Skip changes of the zone's abbreviation: they change no clock.
            if change.offset() != offset {
                offset = change.offset();
                hasher.update(&change.timestamp().as_second().to_le_bytes());
                hasher.update(&offset.seconds().to_le_bytes());
            }
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }

    /// Returns the same time of day so many months and days later. A day that its month lacks is the month's last.
    pub fn later(self, time: Time, months: u32, days: u32) -> Time {
        let add = || {
            let span = Span::new().try_months(months).ok()?.try_days(days).ok()?;
            let later = self.local(time).checked_add(span).ok()?;
            self.zone().to_timestamp(later).ok()
        };
        add().map_or(Time::MAX, Timestamp::as_microsecond)
    }

    /// Returns the days from 1970-01-01 to the date of a time.
    pub fn day(self, time: Time) -> i64 {
        self.local(time).date().duration_since(EPOCH).as_hours().div_euclid(24)
    }

    /// Returns the months from January of the year 0 to that of a time.
    pub fn month(self, time: Time) -> i64 {
        let date = self.local(time).date();
        i64::from(date.year()) * 12 + i64::from(date.month()) - 1
    }

    /// Returns the first moment of the date so many days after 1970-01-01.
    pub fn day_start(self, day: i64) -> Time {
        let date = Span::new().try_days(day).ok().and_then(|days| EPOCH.checked_add(days).ok());
        self.start(date, day)
    }

    /// Returns the first moment of the month so many months after January of the year 0.
    pub fn month_start(self, month: i64) -> Time {
        let (year, of_year) = (i16::try_from(month.div_euclid(12)), month.rem_euclid(12) as i8 + 1);
        self.start(year.ok().and_then(|year| Date::new(year, of_year, 1).ok()), month)
    }

    fn start(self, date: Option<Date>, sign: i64) -> Time {
        let first = date.and_then(|date| self.first_moment(date));
        first.map_or(if sign < 0 { Time::MIN } else { Time::MAX }, Timestamp::as_microsecond)
    }

    fn first_moment(self, date: Date) -> Option<Timestamp> {
        let midnight = date.at(0, 0, 0, 0);
        match self.zone().to_ambiguous_timestamp(midnight).offset() {
            // Midnight is skipped, perhaps from an hour of the day before: the date begins when the clock jumps.
            AmbiguousOffset::Gap { after, .. } => {
                let before = after.to_timestamp(midnight).ok()?;
                self.zone().following(before).next().map(|jump| jump.timestamp())
            }
            _ => self.zone().to_timestamp(midnight).ok(),
        }
    }

    fn local(self, time: Time) -> DateTime {
        let nearest = if time < 0 { Timestamp::MIN } else { Timestamp::MAX };
        self.zone().to_datetime(Timestamp::from_microsecond(time).unwrap_or(nearest))
    }

    fn zone(self) -> &'static TimeZone {
        let ZoneEntry { name, zone } = self.0;
        zone.get_or_init(|| DATABASE.get(name).expect("the database has what it lists"))
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Zone {}

impl std::hash::Hash for Zone {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
