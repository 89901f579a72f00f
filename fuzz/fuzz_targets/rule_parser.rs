//! Any text as a file of rules: refused with a place in it, or checks that can be judged and written down.
#![no_main]

use tallystone::testing::fuzz::rule_parser;
use tallystone_fuzz::ORACLE;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rule_parser(bytes, ORACLE));
