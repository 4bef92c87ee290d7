//! The node: the node machine on links to its gateways, with engines under it.

pub mod calibrate;
pub mod content;
pub mod dial;
pub mod hands;
mod measured;
mod outbox;
pub mod rescore;
mod several;

use ol_engine::Engine;
use ol_net::frame::Role;
use ol_protocol::GatewayId;
use ol_protocol::calibration::Calibration;
use ol_protocol::certificate::Certificate;
use ol_protocol::key::SecretKey;
use ol_protocol::ticket::Ticket;
use std::path::PathBuf;
use std::sync::Arc;

/// What a node is started with.
pub struct Config {
    /// The gateways that it serves.
    pub gateways: Vec<Membership>,
    /// Its key.
    pub key: SecretKey,
    /// Ordinary node, or the network's own scorer.
    pub role: Role,
    /// Where it stands, for people and policies.
    pub region: String,
    /// Engines, one a variant.
    pub engines: Vec<Arc<dyn Engine>>,
    /// For a referee: what honest answers look like, as far as that was measured.
    pub calibrations: Vec<Calibration>,
    /// Its folder: batches that wait for an acknowledgement are kept there.
    pub data_dir: PathBuf,
}

/// A gateway that a node serves.
#[derive(Clone)]
pub struct Membership {
    /// Where the gateway is, and who.
    pub ticket: Ticket,
    /// The operator's word for the node in the gateway's network.
    pub certificate: Certificate,
    /// What the gateway asks newcomers for, if it does.
    pub join_token: Option<String>,
}

/// Why a node ended or can't begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its store.
    #[error("the node's outbox")]
    Outbox(#[from] ol_store::Error),
    /// The gateway doesn't want it.
    #[error("the gateway {gateway} refuses this node: {message}")]
    Refused {
        /// Which.
        gateway: GatewayId,
        /// In the gateway's words.
        message: String,
    },
    /// The link's own limits.
    #[error("cannot reach the gateway")]
    Link(#[from] ol_net::Error),
    /// A thread of its own could not be started.
    #[error("cannot start the outbox's thread")]
    Thread(#[source] std::io::Error),
    /// A task of its own panicked.
    #[error("the node stopped because of a fault of its own: please report it with what it logged")]
    Panicked,
}
