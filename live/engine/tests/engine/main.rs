//! Tests of the engine through its public API.

mod gguf;
mod golden;
mod models;
mod support;
mod tiny;
