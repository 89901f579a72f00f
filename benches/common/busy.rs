//! How much of the machine others take: a round beside a build says nothing.

use std::fs::read_to_string;
use std::time::{Duration, Instant};

/// How long a round waits for a quiet machine: `BENCH_PATIENCE_S`, 0 by default.
fn patience() -> Duration {
    let seconds = std::env::var("BENCH_PATIENCE_S").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// Looks from its start on.
pub struct Watch {
    began: Instant,
    others: f64,
}

impl Watch {
    pub fn start() -> Self {
        Self { began: Instant::now(), others: others() }
    }

    /// The share of all cores that others have taken since; 0 where the system does not tell.
    ///
    /// The system counts all CPU by ticks and a process more finely: the difference is off by some hundredths, also below
    /// zero, and is shown as it is.
    pub fn others(&self) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        (others() - self.others) / (self.began.elapsed().as_secs_f64() * cores)
    }
}

/// Waits until others take less than this share, as long as there is patience.
pub fn await_quiet(others_max: f64) {
    let (began, patience) = (Instant::now(), patience());
    while began.elapsed() < patience {
        let watch = Watch::start();
        std::thread::sleep(Duration::from_millis(200));
        if watch.others() <= others_max {
            return;
        }
    }
}

/// CPU seconds of everybody else since the machine started.
fn others() -> f64 {
    let all = || {
        let stat = read_to_string("/proc/stat").ok()?;
        let fields: Vec<f64> =
            stat.lines().next()?.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq
        Some(fields.first()? + fields.get(1)? + fields.get(2)? + fields.get(5)? + fields.get(6)?)
    };
    let own = || {
        let stat = read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold spaces; utime and stime are the 12th and 13th after it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    };
    // A tick is 10 ms on every Linux.
    all().zip(own()).map_or(0.0, |(all, own)| (all - own) / 100.0)
}
