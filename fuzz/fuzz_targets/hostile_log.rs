//! A small log with any damage: refused by name, or a prefix of what was written.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tallystone::testing::fuzz::hostile_log(bytes));
