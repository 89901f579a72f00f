//! A small log with any damage: refused by name, or a prefix of what was written.
#![no_main]

use tallystone::testing::fuzz::hostile_log;
use tallystone_fuzz::ORACLE;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile_log(bytes, ORACLE));
