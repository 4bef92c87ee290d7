//! What can go wrong with a link.

use crate::fate::Reason;
use crate::limits::FrameError;
use ol_protocol::GatewayId;
use std::io;
use std::time::Duration;

/// Why there is no link, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken, or the address is not this machine's.
    #[error("cannot listen for nodes on {address}")]
    Bind {
        /// Where.
        address: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The name of the gateway's host cannot be resolved.
    #[error("cannot find the gateway's host in {address}")]
    Resolve {
        /// The ticket's address.
        address: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Nobody listens there, or there is no way.
    #[error("cannot connect to the gateway at {address}")]
    Connect {
        /// The ticket's address.
        address: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// No answer in time.
    #[error("the gateway at {address} did not answer within {limit:?} ({phase})")]
    Timeout {
        /// The ticket's address.
        address: String,
        /// What was waited for.
        phase: &'static str,
        /// How long.
        limit: Duration,
    },
    /// Who answers is not the gateway of the ticket.
    #[error("the gateway at {address} has the key {got}, the ticket says {expected}: is the ticket an old one?")]
    WrongGatewayKey {
        /// The ticket's address.
        address: String,
        /// The ticket's key.
        expected: GatewayId,
        /// The key that the other end proved.
        got: GatewayId,
    },
    /// What answers does not speak this TLS.
    #[error("no TLS with the gateway at {address}")]
    Tls {
        /// The ticket's address.
        address: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A key that TLS cannot use.
    #[error("cannot use the key for TLS")]
    Key {
        /// Why.
        #[source]
        cause: rustls::Error,
    },
    /// The stream could not be opened.
    #[error("the gateway does not open the stream")]
    Open {
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The other end sent what is no frame. The link is closed.
    #[error("malformed frame")]
    Malformed {
        /// What is wrong.
        #[source]
        cause: FrameError,
    },
    /// One of the ends closed the link.
    #[error("the link was closed, {reason}")]
    Closed {
        /// Why.
        reason: Reason,
    },
    /// The connection broke.
    #[error("the connection was lost")]
    Lost {
        /// Why.
        #[source]
        cause: Box<tonic::Status>,
    },
}

/// Why a frame was not queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The frame is over a limit of the protocol. The link goes on.
    #[error("frame over a limit")]
    Invalid {
        /// Which.
        #[source]
        cause: FrameError,
    },
    /// The other end does not take its frames. The link is cut.
    #[error("the other end does not take its frames")]
    Stalled,
    /// The link is over.
    #[error("the link is over")]
    Closed,
}
