//! An embedded, event-sourced consistency store: events are claims, and this store keeps proving them against the work.

pub mod order;

// The seams to everything outside.
pub(crate) mod sync;
#[cfg(feature = "testing")]
pub mod disk;
#[cfg(not(feature = "testing"))]
pub(crate) mod disk;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
