//! Tests of the engine through its public API.

mod gguf;
mod golden;
mod models;
mod pair;
mod support;
mod tiny;
