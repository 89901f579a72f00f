//! Time and entropy that only a test moves.
//!
//! - The wall clock may jump and freeze; the monotonic clock only ever advances.
//! - Clones share their state: a test keeps one and hands the other to the store.
//! - Each move wakes the threads of the stores that use the clock: what is due by then is done without a sleep.

use super::random::Random;
use crate::disk::{Clock, Entropy};
use crate::order::Timestamp;
use crate::sync::Mutex;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A clock that stands still until it is told otherwise.
#[derive(Debug, Clone)]
pub struct SimClock(Arc<SimClockState>);

struct SimClockState {
    time: Mutex<SimTime>,
    wakes: Mutex<Vec<Weak<dyn Fn() + Send + Sync>>>,
}

impl fmt::Debug for SimClockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.time.fmt(f)
    }
}

#[derive(Debug, Clone, Copy)]
struct SimTime {
    wall: Timestamp,
    ran: Duration,
    frozen: bool,
}

impl SimClockState {
    fn of(time: SimTime) -> Arc<Self> {
        Arc::new(Self { time: Mutex::new(time), wakes: Mutex::default() })
    }

    fn wake(&self) {
        let mut wakes = self.wakes.lock();
        wakes.retain(|wake| wake.strong_count() > 0);
        let alive: Vec<_> = wakes.iter().filter_map(Weak::upgrade).collect();
        drop(wakes);
        alive.iter().for_each(|wake| wake());
    }
}

impl SimClock {
    /// Returns a clock whose wall shows `start`, with nothing run yet.
    pub fn new(start: Timestamp) -> Self {
        Self(SimClockState::of(SimTime { wall: start, ran: Duration::ZERO, frozen: false }))
    }

    /// Returns another clock, which goes on from the time of this one.
    pub fn fork(&self) -> Self {
        Self(SimClockState::of(*self.0.time.lock()))
    }

    /// Lets time pass, on the wall too unless it is frozen.
    pub fn advance(&self, by: Duration) {
        let mut time = self.0.time.lock();
        time.ran += by;
        if !time.frozen {
            let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
            time.wall = Timestamp::from_micros(time.wall.micros().saturating_add(micros));
        }
        drop(time);
        self.0.wake();
    }

    /// Sets the wall clock, forward or back. No time passes.
    pub fn jump(&self, to: Timestamp) {
        self.0.time.lock().wall = to;
        self.0.wake();
    }

    /// Holds the wall clock where it is; the monotonic clock goes on.
    pub fn freeze(&self) {
        self.0.time.lock().frozen = true;
    }

    /// Lets the wall clock move again, from where it was held.
    pub fn thaw(&self) {
        self.0.time.lock().frozen = false;
    }
}

impl Default for SimClock {
    /// Starts on a day in 2026.
    fn default() -> Self {
        Self::new(Timestamp::from_micros(1_780_000_000_000_000))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.0.time.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.0.time.lock().ran
    }

    fn wake_on_move(&self, wake: Weak<dyn Fn() + Send + Sync>) {
        self.0.wakes.lock().push(wake);
    }
}

/// Random bytes that a seed decides.
#[derive(Debug, Clone)]
pub struct SimEntropy(Arc<Mutex<Random>>);

impl SimEntropy {
    /// Returns the bytes of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Random::new(seed))))
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, out: &mut [u8]) {
        self.0.lock().fill(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_only_when_told() {
        let clock = SimClock::new(Timestamp::from_micros(10));
        assert_eq!((clock.now().micros(), clock.monotonic()), (10, Duration::ZERO));
        clock.advance(Duration::from_micros(5));
        assert_eq!((clock.now().micros(), clock.monotonic()), (15, Duration::from_micros(5)));
    }

    #[test]
    fn a_jump_moves_the_wall_alone() {
        let clock = SimClock::default();
        clock.jump(Timestamp::from_micros(1));
        assert_eq!((clock.now().micros(), clock.monotonic()), (1, Duration::ZERO));
        clock.jump(Timestamp::from_micros(u64::MAX));
        clock.advance(Duration::from_secs(1));
        assert_eq!((clock.now().micros(), clock.monotonic()), (u64::MAX, Duration::from_secs(1)));
    }

    #[test]
    fn monotonic_clock_runs_while_wall_is_frozen() {
        let clock = SimClock::new(Timestamp::from_micros(7));
        clock.freeze();
        clock.clone().advance(Duration::from_micros(3));
        assert_eq!((clock.now().micros(), clock.monotonic()), (7, Duration::from_micros(3)));
        clock.thaw();
        clock.advance(Duration::from_micros(3));
        assert_eq!(clock.now().micros(), 10);
    }

    #[test]
    fn entropy_is_its_seed() {
        let bytes = |seed| {
            let mut out = [0; 21];
            SimEntropy::new(seed).fill(&mut out);
            out
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }
}
