//! Targets of core: signed values, the log, snapshots.
#![no_main]

libfuzzer_sys::fuzz_target!(init: { ol_fuzz_run::begin(&[&ol_fuzz::formats::TARGETS, &ol_fuzz::log::TARGETS, &ol_fuzz::restart::TARGETS]) }, |input: &[u8]| ol_fuzz_run::read(input));
