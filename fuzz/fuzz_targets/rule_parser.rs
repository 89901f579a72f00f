//! Any text as a file of rules: refused with a place in it, or checks that can be judged and written down.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tallystone::testing::fuzz::rule_parser(bytes));
