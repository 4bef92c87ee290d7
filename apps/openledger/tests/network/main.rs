//! The binary as a person meets it: processes with tiny models on loopback, asked over plain HTTP.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backup;
mod bad_input;
mod benchmarks;
mod cheats;
mod confirmed;
mod exports;
mod failures;
mod faults;
mod handover;
mod hostile;
mod hostile_gateway;
mod http;
mod instructions;
mod operators;
mod own;
mod panels;
mod process;
mod processes;
mod proxy;
mod prune;
mod public_log;
mod recalled;
mod receipts;
mod regions;
mod residency;
mod shared;
mod up;
mod why;
