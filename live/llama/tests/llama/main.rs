//! Tests of the engine over a llama-server: against a server in this process, and against a real one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;
mod faults;
mod real;
mod support;
mod tiny;
