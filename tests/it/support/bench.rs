//! A store with checks: on a clock that only the test moves, and without threads.

use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tallystone::Setup;
use tallystone::disk::{Clock, Platform};
use tallystone::prelude::*;
use tallystone::testing::SimClock;
use tallystone::watch::Violation;

/// How such a store begins.
pub fn lockstep(clock: &SimClock) -> Setup {
    Setup::new().platform(Platform { clock: Arc::new(clock.clone()), ..Platform::real() }).lockstep()
}

/// Has the checks judge all there is. What time decides is recorded as an event, which is judged, too.
pub fn settle(store: &Store) {
    assert!(store.checks().wait_for(store.stats().position, Duration::ZERO));
    while store.checks().stats().iter().any(|check| !check.is_settled()) {
        let stats = store.checks().stats();
        assert!(store.checks().wait_for(store.stats().position, Duration::ZERO), "{stats:?}");
    }
}

pub struct Bench {
    pub clock: SimClock,
    pub store: Store,
}

impl Bench {
    /// In memory.
    pub fn of(clock: SimClock, setup: Setup) -> Self {
        Self { clock, store: Store::in_memory(setup).expect("the setup is well") }
    }

    pub fn append(&self, event: impl Event) -> Position {
        self.store.append(Append::event(event)).expect("it is taken").receipt.last
    }

    pub fn settle(&self) {
        settle(&self.store);
    }

    /// Lets time pass, and has the checks see it and tell what they have to.
    pub fn pass(&self, time: Duration) {
        self.clock.advance(time);
        (0..8).for_each(|_| self.store.step());
        self.settle();
        (0..4).for_each(|_| self.store.step());
    }

    pub fn now(&self) -> SystemTime {
        self.clock.now().into()
    }

    pub fn all(&self) -> Vec<Violation> {
        self.store.checks().all().expect("rows are read")
    }
}
