//! Targets of files of models.
#![no_main]

libfuzzer_sys::fuzz_target!(init: { ol_fuzz_run::begin(&[&ol_fuzz::engine::TARGETS]) }, |input: &[u8]| ol_fuzz_run::read(input));
