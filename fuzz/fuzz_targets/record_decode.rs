//! A commit record, built and damaged, or any bytes: refused, or canonical.
#![no_main]

use tallystone::testing::fuzz::record_decode;
use tallystone_fuzz::ORACLE;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| record_decode(bytes, ORACLE));
