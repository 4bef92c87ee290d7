//! Targets of the link between node and gateway.
#![no_main]

libfuzzer_sys::fuzz_target!(init: { ol_fuzz_run::begin(&[&ol_fuzz::frames::TARGETS]) }, |input: &[u8]| ol_fuzz_run::read(input));
