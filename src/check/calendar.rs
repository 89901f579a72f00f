//! Lengths of time and parts of the calendar: exact ones, and those of a zone.
//!
//! ```text
//! time := digits unit   one or more, added up: "1h30m"
//! unit := "ms" | "s" | "m" | "h"     exact
//!       | "d" | "w"                  of the zone's calendar; exact without one: a day has 24 hours
//!       | "mo" | "y"                 of the zone's calendar; without one there are none
//! ```

use super::word::Time;
use super::zone::Zone;
use std::fmt;

const SECOND: Time = 1_000_000;
const DAY: Time = 86_400 * SECOND;
/// Days from 1970-01-01 to the Monday from which buckets are counted, so that a week begins with one.
const MONDAY: i64 = 4;

/// A length of time as it is written: months, days, and an exact rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Said {
    pub months: u32,
    pub days: u32,
    pub exact: Time,
}

impl Said {
    /// An error: one sentence.
    pub fn read(text: &str) -> Result<Self, String> {
        Self::parse(text.trim())
            .ok_or_else(|| format!("`{text}` is no time: write one like `15m`, `90d` or `1h30m`"))
    }

    fn parse(mut rest: &str) -> Option<Self> {
        let mut said = Self::default();
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let digits = rest.find(|character: char| !character.is_ascii_digit())?;
            let (number, from_unit) = rest.split_at(digits);
            let end = from_unit.find(|character: char| character.is_ascii_digit());
            let (unit, more) = from_unit.split_at(end.unwrap_or(from_unit.len()));
            said.add(number.parse().ok()?, unit)?;
            rest = more;
        }
        Some(said)
    }

    fn add(&mut self, number: u64, unit: &str) -> Option<()> {
        let micros = match unit {
            "y" => return add(&mut self.months, number, 12),
            "mo" => return add(&mut self.months, number, 1),
            "w" => return add(&mut self.days, number, 7),
            "d" => return add(&mut self.days, number, 1),
            "h" => 3600 * SECOND,
            "m" => 60 * SECOND,
            "s" => SECOND,
            "ms" => SECOND / 1000,
            _ => return None,
        };
        let more = Time::try_from(number).ok()?.checked_mul(micros)?;
        self.exact = self.exact.checked_add(more)?;
        Some(())
    }

    /// Returns the exact time if every day has 24 hours. An error: one sentence.
    pub fn without_zone(self) -> Result<Time, String> {
        if self.months > 0 {
            return Err("months and years are of a calendar: say whose, like `zone = \"Europe/Rome\"`".into());
        }
        let days = Time::from(self.days).checked_mul(DAY);
        days.and_then(|days| days.checked_add(self.exact)).ok_or_else(|| "it is longer than time".into())
    }
}

fn add(sum: &mut u32, number: u64, each: u32) -> Option<()> {
    let more = u32::try_from(number).ok()?.checked_mul(each)?;
    *sum = sum.checked_add(more)?;
    Some(())
}

/// A length of time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Length {
    /// Microseconds.
    Exact(Time),
    /// Months, then days, by the calendar and clocks of a zone; then microseconds.
    Calendar { months: u32, days: u32, exact: Time, zone: Zone },
}

impl Length {
    /// Reads one from text. An error: one sentence.
    pub fn read(text: &str, zone: Option<Zone>) -> Result<Self, String> {
        Said::read(text).and_then(|said| Self::new(said, zone))
    }

    /// An error: one sentence.
    pub(super) fn new(said: Said, zone: Option<Zone>) -> Result<Self, String> {
        let Said { months, days, exact } = said;
        match zone {
            Some(zone) if months > 0 || days > 0 => Ok(Self::Calendar { months, days, exact, zone }),
            _ => said.without_zone().map(Self::Exact),
        }
    }

    /// Adds the length to a time. The result is never before `time`, but may be before the result of an earlier time: clocks that
    /// are set back, and months with fewer days, cause that.
    pub fn after(self, time: Time) -> Time {
        match self {
            Self::Exact(exact) => time.saturating_add(exact),
            Self::Calendar { months, days, exact, zone } => {
                zone.later(time, months, days).saturating_add(exact).max(time)
            }
        }
    }

    pub fn zone(self) -> Option<Zone> {
        match self {
            Self::Exact(_) => None,
            Self::Calendar { zone, .. } => Some(zone),
        }
    }

    /// Returns whether it ends after the other for every common beginning.
    pub(super) fn always_exceeds(self, other: Self) -> bool {
        let (more, less) = (self.said(), other.said());
        let months = i64::from(more.months) - i64::from(less.months);
        let days = i64::from(more.days) - i64::from(less.days);
        let exact = i128::from(more.exact) - i128::from(less.exact);
        if self.zone().is_none() && other.zone().is_none() || months >= 0 && days >= 0 && exact >= 0 {
            return (months, days) > (0, 0) || exact > 0;
        }
        // A month has 28 to 31 days, and no clock was ever set by more than a day.
        let days = months * if months > 0 { 28 } else { 31 } + days - 2;
        i128::from(days) * i128::from(DAY) + exact > 0
    }

    fn said(self) -> Said {
        match self {
            Self::Exact(exact) => Said { exact, ..Said::default() },
            Self::Calendar { months, days, exact, .. } => Said { months, days, exact },
        }
    }
}

/// Names it, in hashes too.
impl fmt::Debug for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => write!(f, "{exact}"),
            Self::Calendar { months, days, exact, zone } => {
                write!(f, "{months}mo{days}d+{exact} {}", zone.name())
            }
        }
    }
}

/// Parts of one length into which time falls, one after another.
///
/// Exact ones, days and weeks are counted from a Monday, months from a January: so weeks begin on Mondays, and three months are a
/// quarter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Bucket {
    /// Microseconds.
    Exact(Time),
    /// Days of a zone.
    Days(u32, Zone),
    /// Months of a zone.
    Months(u32, Zone),
}

impl Bucket {
    /// Reads one from text like `1h`, `1d` or `1mo`. An error: one sentence.
    pub fn read(text: &str, zone: Option<Zone>) -> Result<Self, String> {
        Self::of(Said::read(text)?, zone)
    }

    /// Creates one from a length and a zone. An error: one sentence.
    pub(super) fn of(said: Said, zone: Option<Zone>) -> Result<Self, String> {
        match (said, zone) {
            (Said { months: 0, days: 0, exact: 0 }, _) => {
                Err("a bucket has a length: write one like `1d`".into())
            }
            (Said { months: 0, days: 0, exact }, _) => Ok(Self::Exact(exact)),
            (_, None) => said.without_zone().map(Self::Exact),
            (Said { months: 0, days, exact: 0 }, Some(zone)) => Ok(Self::Days(days, zone)),
            (Said { months, days: 0, exact: 0 }, Some(zone)) => Ok(Self::Months(months, zone)),
            _ => Err("it mixes months, days and hours, which a bucket cannot".into()),
        }
    }

    pub fn zone(self) -> Option<Zone> {
        match self {
            Self::Exact(_) => None,
            Self::Days(_, zone) | Self::Months(_, zone) => Some(zone),
        }
    }

    /// Returns the start of the bucket of a time, and that of the next one. The first and the last bucket end where time does.
    pub fn around(self, time: Time) -> (Time, Time) {
        match self {
            Self::Exact(length) => {
                let since = i128::from(time) - i128::from(MONDAY * DAY);
                let start = i128::from(time) - since.rem_euclid(i128::from(length));
                (within_time(start), within_time(start + i128::from(length)))
            }
            Self::Days(days, zone) => {
                let days = i64::from(days);
                let index = (zone.day(time) - MONDAY).div_euclid(days);
                pick(time, index, |index| zone.day_start(index * days + MONDAY))
            }
            Self::Months(months, zone) => {
                let months = i64::from(months);
                let index = zone.month(time).div_euclid(months);
                pick(time, index, |index| zone.month_start(index * months))
            }
        }
    }
}

/// Returns the bucket of a time whose date is in the bucket of this index. A clock that is set back over midnight shows a past
/// date again: then it is the next bucket.
fn pick(time: Time, index: i64, start: impl Fn(i64) -> Time) -> (Time, Time) {
    match start(index + 1) {
        end if end <= time && end < Time::MAX => (end, start(index + 2)),
        end => (start(index), end),
    }
}

fn within_time(time: i128) -> Time {
    time.clamp(Time::MIN.into(), Time::MAX.into()) as Time
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Time, String> {
        Said::read(text).and_then(Said::without_zone)
    }

    #[test]
    fn duration_text_is_parsed_or_refused() {
        for (text, micros) in [
            ("15m", 900 * SECOND),
            ("1h30m", 5400 * SECOND),
            ("90d", 90 * DAY),
            ("0s", 0),
            ("1ms", 1000),
            ("5184000000ms", 60 * DAY),
            (" 2w ", 14 * DAY),
        ] {
            assert_eq!(said(text), Ok(micros), "{text}");
        }
        for text in [
            "",
            "15",
            "m",
            "15 m",
            "-1s",
            "1.5h",
            "1mon",
            "1M",
            "99999999999999999999s",
            "9999999999999w",
            "4294967295w",
            "4294967295y4294967295y",
            "200000000d",
        ] {
            assert!(said(text).is_err(), "{text}");
        }
        assert_eq!(Said::read("1y2mo3w4d5h"), Ok(Said { months: 14, days: 25, exact: 5 * 3600 * SECOND }));
        assert!(said("1mo").unwrap_err().contains("zone = \"Europe/Rome\""));
    }

    fn zone(name: &str) -> Zone {
        Zone::named(name).expect(name)
    }

    /// Parses `2024-03-30T02:30Z`.
    fn at(text: &str) -> Time {
        text.parse::<jiff::Timestamp>().expect(text).as_microsecond()
    }

    fn shown(time: Time) -> String {
        let seconds = time.div_euclid(SECOND);
        let text = jiff::Timestamp::from_second(seconds).map(|time| time.to_string());
        assert_eq!(time.rem_euclid(SECOND), 0, "{time} is no whole second");
        text.expect("it is in the calendar").replace(":00Z", "Z")
    }

    #[track_caller]
    fn is_after(length: &str, name: &str, from: &str, expected: &str) {
        let length = Length::read(length, Some(zone(name))).expect(length);
        assert_eq!(shown(length.after(at(from))), expected, "{from} + {length:?}");
    }

    #[test]
    fn calendar_day_length_follows_clock_changes() {
        // Spring: 23 hours. Autumn: 25.
        is_after("1d", "Europe/Rome", "2024-03-30T12:00Z", "2024-03-31T11:00Z");
        is_after("1d", "Europe/Rome", "2024-10-26T12:00Z", "2024-10-27T13:00Z");
        is_after("60d", "Europe/Rome", "2013-08-31T22:00Z", "2013-10-30T23:00Z");
        is_after("60d", "Europe/Rome", "2013-02-28T23:00Z", "2013-04-29T22:00Z");
        // South of the equator it is the other way round.
        is_after("1d", "Australia/Sydney", "2024-10-05T03:00Z", "2024-10-06T02:00Z");
        is_after("1d", "Australia/Sydney", "2024-04-06T02:00Z", "2024-04-07T03:00Z");
        // Half an hour.
        is_after("1w", "Australia/Lord_Howe", "2024-04-05T01:00Z", "2024-04-12T01:30Z");
        // Hours are exact.
        is_after("1d12h", "Europe/Rome", "2024-03-30T12:00Z", "2024-03-31T23:00Z");
        is_after("24h", "Europe/Rome", "2024-03-30T12:00Z", "2024-03-31T12:00Z");
    }

    /// Times in a gap move later by its length; of a repeated local time the first occurrence counts.
    #[test]
    fn local_time_gap_shifts_later_overlap_takes_first() {
        is_after("1d", "Europe/Rome", "2024-03-30T01:30Z", "2024-03-31T01:30Z");
        is_after("1d", "Europe/Rome", "2024-10-26T00:30Z", "2024-10-27T00:30Z");
        // Begun the second time.
        is_after("1d", "Europe/Rome", "2024-10-27T01:30Z", "2024-10-28T01:30Z");
        // Midnight is skipped, and comes twice.
        is_after("1d", "America/Sao_Paulo", "2018-11-03T03:00Z", "2018-11-04T03:00Z");
        is_after("1d", "America/Havana", "2024-11-02T04:00Z", "2024-11-03T04:00Z");
        // A whole day is skipped.
        is_after("1d", "Pacific/Apia", "2011-12-29T20:00Z", "2011-12-30T20:00Z");
        is_after("2d", "Pacific/Apia", "2011-12-29T20:00Z", "2011-12-30T20:00Z");
    }

    #[test]
    fn month_arithmetic_clamps_to_last_day() {
        is_after("1mo", "Europe/Rome", "2024-01-31T10:00Z", "2024-02-29T10:00Z");
        is_after("1mo", "Europe/Rome", "2023-01-31T10:00Z", "2023-02-28T10:00Z");
        is_after("1mo1d", "Europe/Rome", "2023-01-31T10:00Z", "2023-03-01T10:00Z");
        is_after("1y", "Europe/Rome", "2024-02-29T10:00Z", "2025-02-28T10:00Z");
        is_after("4y", "Europe/Rome", "2024-02-29T10:00Z", "2028-02-29T10:00Z");
        is_after("4y", "Europe/Rome", "1896-02-29T10:00Z", "1900-02-28T10:00Z");
        is_after("100y", "Europe/Rome", "1900-02-28T10:00Z", "2000-02-28T10:00Z");
        is_after("13mo", "Europe/Rome", "2024-12-31T22:59Z", "2026-01-31T22:59Z");
    }

    #[test]
    fn later_start_may_have_earlier_end() {
        let rome = Some(zone("Europe/Rome"));
        let ends = |length: &str, from: &str| Length::read(length, rome).expect(length).after(at(from));
        assert!(ends("1d", "2024-10-27T00:59Z") > ends("1d", "2024-10-27T01:01Z"));
        assert!(ends("1mo", "2024-01-30T12:00Z") > ends("1mo", "2024-01-31T10:00Z"));
        assert_eq!(ends("1mo", "2024-01-30T12:00Z"), ends("1mo", "2024-01-31T12:00Z"));
    }

    #[test]
    fn length_end_saturates_and_never_precedes_start() {
        for name in ["Europe/Rome", "Pacific/Apia", "America/Juneau", "Asia/Manila"] {
            for text in ["1d", "1mo", "4294967295d", "4294967295mo4294967295d", "1000y", "1d24h"] {
                let length = Length::read(text, Some(zone(name))).expect(text);
                let ends = [Time::MIN, Time::MAX, 0, at("9999-12-30T20:00Z"), at("-009999-01-02T02:00Z")];
                for end in
                    ends.into_iter().flat_map(|end| (-3..4).map(move |near| end.saturating_add(near * DAY)))
                {
                    assert!(length.after(end) >= end, "{name} {text} {end}");
                }
                assert_eq!(length.after(Time::MAX), Time::MAX);
                assert_eq!(length.after(at("9999-12-30T20:00Z")), Time::MAX);
            }
        }
        assert_eq!(Length::Exact(5).after(Time::MAX), Time::MAX);
    }

    #[test]
    fn always_exceeds_holds_for_every_start() {
        let rome = Some(zone("Europe/Rome"));
        let exceeds = |more: &str, less: &str, zone| {
            let length = |text| Length::read(text, zone).expect("it is a time");
            length(more).always_exceeds(length(less))
        };
        for (more, less, is) in [
            ("2d", "1d", true),
            ("1d", "1d", false),
            ("1d1ms", "1d", true),
            ("1d", "2d", false),
            ("1mo", "1d", true),
            ("2mo", "1mo40d", false),
            ("1mo", "30d", false),
            ("30d", "1mo", false),
            ("40d", "1mo", true),
            ("25h", "1d", false),
            ("100h", "1d", true),
            ("1y", "364d", false),
        ] {
            assert_eq!(exceeds(more, less, rome), is, "{more} {less}");
        }
        assert!(exceeds("25h", "1d", None) && !exceeds("24h", "1d", None));
    }

    #[test]
    fn without_zone_days_are_exact_and_months_refused() {
        assert_eq!(Length::read("1w", None), Ok(Length::Exact(7 * DAY)));
        assert!(Length::read("1mo", None).is_err() && Length::read("1y", None).is_err());
        assert!(Bucket::read("1mo", None).is_err());
        assert_eq!(Length::read("24h", Some(zone("Europe/Rome"))), Ok(Length::Exact(DAY)));
    }

    #[track_caller]
    fn is_in(bucket: &str, name: Option<&str>, time: &str, start: &str, end: &str) {
        let bucket = Bucket::read(bucket, name.map(zone)).expect(bucket);
        let (from, to) = bucket.around(at(time));
        assert_eq!((&*shown(from), &*shown(to)), (start, end), "{bucket:?} of {time}");
    }

    #[test]
    fn buckets_follow_local_time_and_weeks_start_monday() {
        let rome = Some("Europe/Rome");
        is_in("1h", None, "2024-03-31T01:59:59Z", "2024-03-31T01:00Z", "2024-03-31T02:00Z");
        is_in("1d", None, "1969-12-31T23:59:59Z", "1969-12-31T00:00Z", "1970-01-01T00:00Z");
        is_in("1w", None, "2024-03-31T23:59:59Z", "2024-03-25T00:00Z", "2024-04-01T00:00Z");
        is_in("1d", rome, "2024-03-30T23:00Z", "2024-03-30T23:00Z", "2024-03-31T22:00Z");
        is_in("1d", rome, "2024-03-30T22:59:59Z", "2024-03-29T23:00Z", "2024-03-30T23:00Z");
        is_in("1d", rome, "2024-10-27T12:00Z", "2024-10-26T22:00Z", "2024-10-27T23:00Z");
        is_in("1w", rome, "2024-03-31T21:59:59Z", "2024-03-24T23:00Z", "2024-03-31T22:00Z");
        is_in("1mo", rome, "2024-02-29T22:59:59Z", "2024-01-31T23:00Z", "2024-02-29T23:00Z");
        is_in("3mo", rome, "2024-02-29T22:59:59Z", "2023-12-31T23:00Z", "2024-03-31T22:00Z");
        is_in("1y", rome, "1969-06-01T00:00Z", "1968-12-31T23:00Z", "1969-12-31T23:00Z");
        is_in("1mo", Some("Pacific/Apia"), "2011-12-30T10:00Z", "2011-12-01T10:00Z", "2011-12-31T10:00Z");
        // Its midnight is skipped, and a part of the day before it.
        is_in("1d", Some("America/Sao_Paulo"), "2018-11-04T12:00Z", "2018-11-04T03:00Z", "2018-11-05T02:00Z");
        is_in("1d", Some("America/Toronto"), "1919-03-31T12:00Z", "1919-03-31T04:30Z", "1919-04-01T04:00Z");
        // A date that is over is shown again.
        is_in("1d", Some("America/St_Johns"), "2010-11-07T03:00Z", "2010-11-07T02:30Z", "2010-11-08T03:30Z");
        // The 30th never was.
        is_in("1d", Some("Pacific/Apia"), "2011-12-30T09:00Z", "2011-12-29T10:00Z", "2011-12-30T10:00Z");
        is_in("1d", Some("Pacific/Apia"), "2011-12-30T11:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z");
    }

    #[test]
    fn buckets_are_contiguous_across_all_zone_transitions() {
        let database = jiff::tz::TimeZoneDatabase::bundled();
        let mut jumps = 0;
        for name in database.available() {
            let until = jiff::Timestamp::from_second(4_102_444_800).expect("the year 2100");
            let rules = database.get(name.as_str()).expect("it is listed");
            let of_zone = rules.following(jiff::Timestamp::MIN).map(|jump| jump.timestamp());
            let buckets =
                ["1d", "1w", "1mo"].map(|text| Bucket::read(text, Some(zone(name.as_str()))).expect(text));
            for jump in of_zone.take_while(|jump| *jump < until) {
                jumps += 1;
                for hours in [-25, -1, 0, 1, 25] {
                    let time = jump.as_microsecond() + hours * 3600 * SECOND - 1;
                    for bucket in buckets {
                        let (start, end) = bucket.around(time);
                        assert!(start <= time && time < end, "{name} {bucket:?} {time}: {start} {end}");
                        assert_eq!(bucket.around(start), (start, end), "{name} {bucket:?} {time}");
                        assert_eq!(bucket.around(end - 1), (start, end), "{name} {bucket:?} {time}");
                        assert_eq!(bucket.around(end).0, end, "{name} {bucket:?} {time}");
                        assert_eq!(bucket.around(start - 1).1, start, "{name} {bucket:?} {time}");
                    }
                }
            }
        }
        assert!(jumps > 50_000, "{jumps}");
    }

    #[test]
    fn outermost_buckets_end_at_time_limits() {
        let rome = Some(zone("Europe/Rome"));
        for (text, zone) in
            [("1d", rome), ("1mo", rome), ("4294967295d", rome), ("4294967295mo", rome), ("7h", None)]
        {
            let bucket = Bucket::read(text, zone).expect(text);
            for (time, near) in
                [Time::MIN, Time::MAX, 0].into_iter().flat_map(|time| [(time, -1), (time, 0), (time, 1)])
            {
                let time = time.saturating_add(near);
                let (start, end) = bucket.around(time);
                assert!(start <= time && (time < end || time == Time::MAX), "{text} {time}: {start} {end}");
            }
        }
        let (start, end) = Bucket::read("1mo", rome).expect("it is one").around(Time::MAX);
        assert_eq!((shown(start), end), ("9999-11-30T23:00Z".into(), Time::MAX));
    }

    #[test]
    fn what_is_no_bucket_is_refused() {
        for text in ["0d", "0h", "1d12h", "1mo1d", "1y1h", "", "day"] {
            assert!(Bucket::read(text, Some(zone("Europe/Rome"))).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_zone_name_is_refused_with_suggestion() {
        assert!(Zone::named("Europe/Rom").unwrap_err().contains("like `Europe/Rome`"));
        assert!(Zone::named("europe/rome").unwrap_err().contains("there is `Europe/Rome`"));
        for no_zone in ["", "CEST+1", "../Rome", "Europe/Rome\0"] {
            assert!(Zone::named(no_zone).is_err(), "{no_zone}");
        }
    }

    #[test]
    fn zones_with_equal_history_share_rules() {
        let rules = |name: &str| zone(name).rules();
        assert_eq!(rules("Europe/Rome"), rules("Europe/Vatican"));
        assert_ne!(rules("Europe/Rome"), rules("Europe/Paris"));
        assert_ne!(rules("UTC"), rules("Etc/GMT+1"));
    }
}
