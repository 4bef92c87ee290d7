//! Tests of the engine through its public API.

mod gguf;
mod golden;
mod kept;
mod models;
mod pair;
mod support;
mod tiny;
