//! The test kit: a disk, a clock and entropy that do what a test says, the same each time.

mod clock;
pub mod disk;
#[cfg(feature = "testing")]
pub mod fuzz;
mod random;

pub use clock::{SimClock, SimEntropy};
pub use disk::{Cut, Fault, Faults, ImagePolicy, Op, SimDisk, Stats};
