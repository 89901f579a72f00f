//! The properties that fuzz targets in `fuzz/` check. They panic if one does not hold.
//!
//! - Each string of bytes is a program, from its first byte on: no length stands before anything, so a short one does something.
//! - A byte picks an operation. Where an operation needs much chance, two bytes are the seed of all of it.
//! - The corpora in `fuzz/corpus` are run by a test here too.

mod log;
mod ops;
mod record;
#[cfg(all(feature = "json", feature = "rules"))]
mod rules;

use super::Random;

pub use log::hostile_log;
pub use ops::ops_vs_model;
pub use record::record_decode;
#[cfg(all(feature = "json", feature = "rules"))]
pub use rules::rule_parser;

/// The expectation that a target holds the store to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oracle {
    /// The right one.
    Right,
    /// One with a fault that takes several steps to show: a fuzzer that does not find it searches in vain.
    Canary,
}

/// Draws a number of two bytes.
fn two_bytes(draws: &mut Random) -> u64 {
    draws.below(256) << 8 | draws.below(256)
}

/// Draws two bytes, and returns the numbers of that seed.
fn seeded(draws: &mut Random) -> Random {
    Random::new(two_bytes(draws))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    type Target = fn(&[u8], Oracle);

    const TARGETS: [(&str, Target); 4] = [
        ("hostile_log", |bytes, oracle| hostile_log(bytes, oracle)),
        ("ops_vs_model", |bytes, oracle| ops_vs_model(bytes, oracle)),
        ("record_decode", |bytes, oracle| record_decode(bytes, oracle)),
        ("rule_parser", |bytes, oracle| rule_parser(bytes, oracle)),
    ];

    /// Returns the inputs of a target, in the order of their names.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files = std::fs::read_dir(&dir).expect("a target has a corpus");
        let mut files: Vec<_> = files.map(|file| file.expect("a folder can be listed").path()).collect();
        files.sort();
        files.iter().map(|file| std::fs::read(file).expect("a file can be read")).collect()
    }

    #[test]
    fn committed_corpora_pass_and_detect_canaries() {
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            corpus.iter().for_each(|bytes| target(bytes, Oracle::Right));
            let finds =
                |bytes: &Vec<u8>| catch_unwind(AssertUnwindSafe(|| target(bytes, Oracle::Canary))).is_err();
            assert!(corpus.iter().any(finds), "{name}: none of {} inputs finds the canary", corpus.len());
        }
    }
}
