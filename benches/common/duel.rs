//! Two runs in turn, round by round, and what came of it in plain text.

use super::busy;
use super::drive::Run;
use std::fmt;
use std::time::Duration;

/// The rounds of one load: what is measured, then what it is compared with.
pub struct Duel {
    name: String,
    labels: [&'static str; 2],
    rounds: Vec<Round>,
}

struct Round {
    /// In the order of the labels.
    runs: [Run; 2],
    /// The share of the machine that others took meanwhile.
    others: f64,
}

/// A round in which others took more of the machine than this is left out, if enough are better.
const OTHERS_MAX: f64 = 0.1;
const ROUNDS_MIN: usize = 3;

impl Duel {
    pub fn new(name: impl Into<String>, labels: [&'static str; 2]) -> Self {
        Self { name: name.into(), labels, rounds: Vec::new() }
    }

    /// One round of each. Gives the time of what is measured for one commit.
    pub fn round(&mut self, measured: impl FnOnce() -> Run, compared: impl FnOnce() -> Run) -> Duration {
        busy::await_quiet(OTHERS_MAX);
        let watch = busy::Watch::start();
        let runs = [measured(), compared()];
        self.rounds.push(Round { runs, others: watch.others() });
        let [measured, _] = &self.rounds.last().expect("pushed above").runs;
        measured.elapsed.div_f64(measured.waits.len() as f64)
    }

    /// Rounds on a quiet machine, or all where there were too few of them.
    fn chosen(&self) -> Vec<&Round> {
        let quiet: Vec<_> = self.rounds.iter().filter(|round| round.others <= OTHERS_MAX).collect();
        if quiet.len() < ROUNDS_MIN { self.rounds.iter().collect() } else { quiet }
    }

    fn ratio(&self, of: impl Fn(&Run) -> f64) -> Middle {
        self.middle(|Round { runs: [measured, compared], .. }| of(measured) / of(compared))
    }

    fn middle(&self, of: impl Fn(&Round) -> f64) -> Middle {
        Middle::of(self.chosen().into_iter().map(of).collect())
    }
}

/// A median and the values at both ends.
pub struct Middle {
    low: f64,
    median: f64,
    high: f64,
}

impl Middle {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (low, high) =
            (values.first().copied().unwrap_or(f64::NAN), values.last().copied().unwrap_or(f64::NAN));
        let median = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
        Self { low, median, high }
    }
}

impl fmt::Display for Middle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.high < 100.0 { 2 } else { 0 };
        write!(f, "{:.digits$} ({:.digits$}..{:.digits$})", self.median, self.low, self.high)
    }
}

impl fmt::Display for Duel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rounds.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "{:<24} ratio {}, of waits p50 {} p99 {}   {} of {} rounds; others took {} of the machine",
            self.name,
            self.ratio(Run::per_second),
            self.ratio(|run| run.wait_at(0.5).as_secs_f64()),
            self.ratio(|run| run.wait_at(0.99).as_secs_f64()),
            self.chosen().len(),
            self.rounds.len(),
            self.middle(|round| round.others),
        )?;
        for (side, label) in self.labels.into_iter().enumerate() {
            let micros =
                |share: f64| self.middle(|round| round.runs[side].wait_at(share).as_secs_f64() * 1e6);
            writeln!(
                f,
                "    {label:<20} {} events/s   wait us p50 {:.0} p99 {:.0} worst {:.0}",
                self.middle(|round| round.runs[side].per_second()),
                micros(0.5).median,
                micros(0.99).median,
                micros(1.0).high,
            )?;
        }
        Ok(())
    }
}
