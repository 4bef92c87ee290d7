//! Node-gateway streams: tonic over TLS 1.3 with raw public keys. `docs/protocol/link.md` is the specification.
//!
//! A node [`connect`]s with its ticket; a gateway [`Server::bind`]s and accepts. Both then hold a [`Link`]: the proven
//! key of the other end, a receiver of checked frames and a bounded sender.

mod backoff;
mod client;
mod error;
mod fate;
pub mod frame;
mod generated;
mod guard;
#[cfg(test)]
mod hostile;
pub mod limits;
mod link;
mod server;
mod tls;
mod traffic;
mod wire;

pub use backoff::Backoff;
pub use client::connect;
pub use error::{Error, SendError};
pub use fate::{CloseCode, Reason};
pub use frame::{Down, PROTOCOL, Up};
pub use limits::{FrameError, Limits};
pub use link::{GatewayLink, Link, NodeLink, Receiver, Sender};
pub use server::Server;
pub use traffic::{Carried, Traffic};
