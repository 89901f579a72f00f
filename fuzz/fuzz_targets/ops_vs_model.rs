//! Operations on a store and on the reference model: every answer is the model's.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tallystone::testing::fuzz::ops_vs_model(bytes));
