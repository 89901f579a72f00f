//! Times as people write them, and as files of rules do.

use super::calendar::Length;
use super::word::Time;

/// Returns the exact time as text: `90d`, `1h30m`. Rules can read it back, unless it is negative or has microseconds (`us`).
pub(crate) fn time_text(time: Time) -> String {
    const UNITS: [(&str, u64); 6] = [
        ("d", 86_400_000_000),
        ("h", 3_600_000_000),
        ("m", 60_000_000),
        ("s", 1_000_000),
        ("ms", 1000),
        ("us", 1),
    ];
    let mut rest = time.unsigned_abs();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::from(if time < 0 { "-" } else { "" });
    for (name, unit) in UNITS {
        let count = rest / unit;
        rest %= unit;
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
        }
    }
    text
}

/// As [`time_text`], for a length that may be by the calendar.
pub(crate) fn length_text(length: Length) -> String {
    match length {
        Length::Exact(time) => time_text(time),
        Length::Calendar { months, days, exact, zone } => {
            let parts = [(months, "mo"), (days, "d")].into_iter().filter(|(count, _)| *count > 0);
            let mut text: String = parts.map(|(count, unit)| format!("{count}{unit}")).collect();
            if exact != 0 {
                text.push_str(&time_text(exact));
            }
            format!("{text} by the calendar of {}", zone.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_text_uses_readable_units() {
        let texts = [
            (0, "0s"),
            (90 * 86_400_000_000, "90d"),
            (5_400_000_000, "1h30m"),
            (1_500_000, "1s500ms"),
            (1_001, "1ms1us"),
            (-60_000_000, "-1m"),
        ];
        for (time, text) in texts {
            assert_eq!(time_text(time), text);
        }
        assert!(time_text(Time::MAX).starts_with("106751991d"));
    }
}
