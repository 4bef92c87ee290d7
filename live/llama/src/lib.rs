//! An engine over llama.cpp's llama-server: the server computes, the choice of every token is ours.
//!
//! Each step asks the server for the log-probabilities of its [`TOP`] likeliest tokens and chooses among them as every
//! other engine does, so that an auditor who sets top-k to [`TOP`] can check the output. Prompts are rendered and
//! tokenised here, by the same code as the embedded engine's and from the same file that the server loaded.
//!
//! The server keeps what it has computed of a sequence in the slot that the sequence holds, so a step costs the server
//! one token. It is meant for one engine alone: requests of others take slots and throw their contents out.

mod check;
mod client;
mod engine;
mod error;
mod steps;

pub use client::{Error as ExchangeError, RequestError};
pub use engine::{CONTEXT_LEAST, Options, connect, contexts};
pub use error::Error;
pub use steps::{Limits, NUMERICS, TOP};
