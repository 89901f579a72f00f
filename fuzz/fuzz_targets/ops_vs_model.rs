//! Operations on a store and on the reference model: every answer is the model's.
#![no_main]

use tallystone::testing::fuzz::ops_vs_model;
use tallystone_fuzz::ORACLE;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ops_vs_model(bytes, ORACLE));
