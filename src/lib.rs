//! An embedded, event-sourced consistency store: events are claims, and this store keeps proving them against the work.

// Values: what crosses the API.
pub mod order;
pub(crate) mod misfit;
pub(crate) mod reflect;
pub(crate) mod codec;
pub(crate) mod key;
pub mod value;
pub mod layout;
pub mod event;
pub mod query;
pub mod request;
pub(crate) mod options;
pub mod error;

// The seams to everything outside.
pub(crate) mod sync;
#[cfg(feature = "testing")]
pub mod disk;
#[cfg(not(feature = "testing"))]
pub(crate) mod disk;

// Ground.
pub(crate) mod log;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::Error;
pub use options::Options;
pub use order::{CommitNo, Position, Timestamp};
