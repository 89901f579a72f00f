//! The calendar of Rome, by the rule of the European Union: clocks are one hour ahead of UTC, and another one from 01:00 UTC of the
//! last Sunday in March until 01:00 UTC of the last Sunday in October. Good since 1996.
//!
//! Dates are found by walking, day after day.

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Days,
    Months,
}

/// In what the numbers of a window are counted, and how many milliseconds after 1970 those of the log begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    pub unit: Unit,
    pub begin: i64,
}

impl Calendar {
    pub fn later(self, since: i64, units: i64) -> i64 {
        if units == 0 {
            return since;
        }
        let local = self.begin + since + ahead(self.begin + since);
        let (mut date, of_day) = (Date::of(local.div_euclid(DAY)), local.rem_euclid(DAY));
        match self.unit {
            Unit::Days => (0..units).for_each(|_| date = date.next()),
            Unit::Months => {
                (0..units).for_each(|_| date = date.next_month());
                date.day = date.day.min(days_in(date.year, date.month));
            }
        }
        utc(date.since_1970() * DAY + of_day) - self.begin
    }
}

/// When a clock shows this: the first time if twice, and if never, as long after the hour is skipped as it would be.
fn utc(local: i64) -> i64 {
    let in_summer = local - 2 * HOUR;
    if ahead(in_summer) == 2 * HOUR { in_summer } else { local - HOUR }
}

/// By how much the clocks of Rome are ahead of UTC.
pub fn ahead(utc: i64) -> i64 {
    let year = Date::of(utc.div_euclid(DAY)).year;
    let is_summer = last_sunday(year, 3) + HOUR <= utc && utc < last_sunday(year, 10) + HOUR;
    if is_summer { 2 * HOUR } else { HOUR }
}

fn last_sunday(year: i64, month: i64) -> i64 {
    let last = Date { year, month, day: days_in(year, month) }.since_1970();
    // The first of 1970 was a Thursday.
    let since_sunday = (last + 4) % 7;
    (last - since_sunday) * DAY
}

fn days_in(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    fn of(since_1970: i64) -> Self {
        let mut date = Self { year: 1970, month: 1, day: 1 + since_1970 };
        while date.day > days_in(date.year, date.month) {
            date.day -= days_in(date.year, date.month);
            date = date.next_month();
        }
        date
    }

    /// Perhaps with a day that there is not.
    fn next_month(self) -> Self {
        match self.month {
            12 => Self { year: self.year + 1, month: 1, ..self },
            month => Self { month: month + 1, ..self },
        }
    }

    fn next(self) -> Self {
        if self.day < days_in(self.year, self.month) {
            return Self { day: self.day + 1, ..self };
        }
        Self { day: 1, ..self.next_month() }
    }

    fn since_1970(self) -> i64 {
        let years: i64 =
            (1970..self.year).flat_map(|year| (1..=12).map(move |month| days_in(year, month))).sum();
        years + (1..self.month).map(|month| days_in(self.year, month)).sum::<i64>() + self.day - 1
    }
}
