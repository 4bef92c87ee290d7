//! Targets of HTTP.
#![no_main]

libfuzzer_sys::fuzz_target!(init: { ol_fuzz_run::begin(&[&ol_fuzz::gateway::TARGETS]) }, |input: &[u8]| ol_fuzz_run::read(input));
