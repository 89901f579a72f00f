//! The clock as the writer trusts it: a large jump forward is never recorded without a person.
//!
//! - The store's time never goes back, so a recorded time is for ever: one glitch to 2099 would end every key that is kept for a
//!   time, and no later commit could be older.
//! - Within a run the wall clock is held against the monotonic one, which does not jump. A store that was closed for a week
//!   rightly finds it a week later; so at first it is held against the time of the head, with more patience.
//! - A clock that goes back needs no guard: the time stands still until it has caught up.

use crate::disk::Clock;
use crate::log::Head;
use crate::options::Options;
use crate::order::{CommitNo, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// A clock that refuses jumps forward.
#[derive(Debug)]
pub(crate) struct Trusted {
    clock: Arc<dyn Clock>,
    /// The latest trusted time; `ran` is the monotonic clock's time then.
    latest: Timestamp,
    ran: Duration,
    /// Maximum lead of the clock over `latest` plus the time that has run since.
    patience: Duration,
    jump_max: Duration,
}

/// A jump of the clock: its lead over the expected time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Jump {
    pub ahead: Duration,
    pub limit: Duration,
}

impl Trusted {
    pub fn new(clock: Arc<dyn Clock>, head: &Head, options: &Options) -> Self {
        let patience = match head.commit {
            // Nothing is known of the time yet.
            CommitNo::START => Duration::MAX,
            _ => Duration::from_millis(options.clock_gap_ms_max),
        };
        let jump_max = Duration::from_millis(options.clock_jump_ms_max);
        let mut trusted = Self { latest: head.time, ran: clock.monotonic(), clock, patience, jump_max };
        // From here on it may only run. If it is wrong already, the first commit says so.
        let _ = trusted.read();
        trusted
    }

    /// Reads the wall clock. It may be behind an earlier reading.
    pub fn read(&mut self) -> Result<Timestamp, Jump> {
        let (now, ran) = (self.clock.now(), self.clock.monotonic());
        let expected = later(self.latest, ran.saturating_sub(self.ran));
        if now > later(expected, self.patience) {
            let ahead = Duration::from_micros(now.0 - expected.0);
            return Err(Jump { ahead, limit: self.patience });
        }
        // One that is behind says nothing yet: it may still be set right.
        if now >= expected {
            (self.latest, self.ran, self.patience) = (now, ran, self.jump_max);
        }
        Ok(now)
    }

    /// Accepts the clock's time, however far ahead it is.
    pub fn accept(&mut self) -> Timestamp {
        (self.latest, self.ran, self.patience) = (self.clock.now(), self.clock.monotonic(), self.jump_max);
        self.latest
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
    Timestamp(time.0.saturating_add(micros))
}
