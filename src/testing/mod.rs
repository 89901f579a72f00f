//! The test kit: a disk, a clock and entropy that do what a test says, the same each time.

#[cfg(feature = "testing")]
pub mod checks;
mod clock;
#[cfg(feature = "testing")]
pub mod decision;
pub mod disk;
#[cfg(feature = "testing")]
pub mod findings;
#[cfg(feature = "testing")]
pub mod fuzz;
#[cfg(feature = "testing")]
pub mod model;
mod random;
#[cfg(feature = "testing")]
pub mod serial;
#[cfg(feature = "testing")]
pub mod trial;
#[cfg(feature = "testing")]
pub mod twin;
#[cfg(feature = "testing")]
pub mod workload;

pub use clock::{SimClock, SimEntropy};
pub use disk::{Cut, Fault, Faults, ImagePolicy, Op, SimDisk, Stats};
pub use random::Random;

/// Lets the calling thread start this many more threads of a store, and makes the next one fail; `None` lifts that. Returns
/// whether a failure was still to come.
#[cfg(feature = "testing")]
pub fn refuse_thread(after: Option<u32>) -> bool {
    crate::sync::refusal::plan(after)
}

/// Nothing is appended outside a commit: readers cannot write.
///
/// ```compile_fail,E0599
/// # fn f(store: tallystone::Store, event: tallystone::event::Raw) -> Result<(), tallystone::Error> {
/// store.view()?.append(event);
/// # Ok(()) }
/// ```
///
/// And an event is not given to the store, but an append, which is one commit:
///
/// ```compile_fail,E0308
/// # fn f(store: tallystone::Store, event: tallystone::event::Raw) -> Result<(), tallystone::Error> {
/// store.append(event)?;
/// # Ok(()) }
/// ```
#[doc(hidden)]
#[cfg(feature = "testing")]
pub mod row_001_03_nothing_is_appended_outside_a_commit {}
