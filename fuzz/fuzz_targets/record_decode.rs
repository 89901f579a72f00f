//! Any bytes as a commit record: refused, or canonical.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tallystone::testing::fuzz::record_decode(bytes));
