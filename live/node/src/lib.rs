//! The node: the node machine on a link to its gateway, with engines under it.

pub mod calibrate;
pub mod content;
pub mod dial;
pub mod hands;
mod measured;
mod outbox;
pub mod rescore;

use ol_engine::Engine;
use ol_net::frame::Role;
use ol_protocol::calibration::Calibration;
use ol_protocol::certificate::Certificate;
use ol_protocol::key::SecretKey;
use ol_protocol::ticket::Ticket;
use std::path::PathBuf;
use std::sync::Arc;

/// What a node is started with.
pub struct Config {
    /// Where its gateway is, and who.
    pub ticket: Ticket,
    /// Its key.
    pub key: SecretKey,
    /// Its operator's word for it.
    pub certificate: Certificate,
    /// Ordinary node, or the network's own scorer.
    pub role: Role,
    /// What the gateway asks newcomers for, if it does.
    pub join_token: Option<String>,
    /// Where it stands, for people and policies.
    pub region: String,
    /// Engines, one a variant.
    pub engines: Vec<Arc<dyn Engine>>,
    /// For a referee: what honest answers look like, as far as that was measured.
    pub calibrations: Vec<Calibration>,
    /// Its folder: batches that wait for an acknowledgement are kept there.
    pub data_dir: PathBuf,
}

/// Why a node ended or can't begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its store.
    #[error("the node's outbox")]
    Outbox(#[from] ol_store::Error),
    /// The gateway doesn't want it.
    #[error("the gateway refuses this node: {message}")]
    Refused {
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
