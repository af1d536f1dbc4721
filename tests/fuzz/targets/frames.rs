//! Fuzzes `frames` of tests/it/fuzz_targets.rs.
#![no_main]

#[path = "../../it/fuzz_targets.rs"]
#[allow(dead_code)] // One of several.
mod fuzz_targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::frames(data));
