//! Drives the gateway machine: links to nodes, the log on disk, replies to HTTP.

mod content;
pub mod document;
mod explain;
mod handle;
mod hands;
mod instruct;
mod journal;
mod links;
mod message;
mod own;
mod peers;
mod prefix;
mod questions;
mod quote;
pub mod start;
mod trust;
mod why;

pub use handle::Handle;
pub use message::News;
pub use own::{Error as PromptsError, PROMPTS};
pub use start::{Config, Error, Gateway, start};
