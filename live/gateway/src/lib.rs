//! OpenAI-compatible HTTP in front of the gateway machine: parses, authenticates, limits, and relays to a [`Backend`].

pub mod backend;
pub mod driver;
pub mod fuzz;
pub mod keys;
pub mod refusal;

mod answer;
mod body;
mod deliver;
mod idempotency;
mod instruct;
mod json;
mod limits;
mod metrics;
mod quote;
mod request;
mod room;
mod routes;
pub mod server;
mod task;
mod timed;
mod trivial;
mod visitors;

pub use backend::Backend;
pub use keys::{ApiKey, ApiKeys, Tenant};
pub use refusal::{Kind, Refusal};
pub use server::{Bound, Config, Error, PlainHttp, Server};
