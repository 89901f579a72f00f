//! The part that all targets share.

use tallystone::testing::fuzz::Oracle;

/// The expectation that a run holds the store to: with the feature `canary` one that a fuzzer must find to be wrong.
pub const ORACLE: Oracle = if cfg!(feature = "canary") { Oracle::Canary } else { Oracle::Right };
