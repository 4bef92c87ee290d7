//! Why the store refuses or fails.

use crate::keyfile;
use crate::place::Place;
use ol_protocol::{GatewayId, NetworkId, NodeId, TaskId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the store refused or failed. It can be copied, as one failure answers every job of a group.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another process has the database open.
    #[error("{place} is in use by another process")]
    Locked {
        /// The database.
        place: Place,
    },
    /// The gateway runs in another process, which has its log.
    #[error("gateway {gateway} runs in another process on {place}")]
    Running {
        /// The gateway.
        gateway: GatewayId,
        /// The database.
        place: Place,
    },
    /// While the connection was lost, another process wrote the log, or an older state of it was put in its place. What
    /// this one knows is not in it: it must start anew.
    #[error("the log of gateway {gateway} on {place} is not as this process left it")]
    Overtaken {
        /// The gateway.
        gateway: GatewayId,
        /// The database.
        place: Place,
    },
    /// The database holds no log of the gateway.
    #[error("{place} holds no log of gateway {gateway}")]
    NoLog {
        /// The gateway.
        gateway: GatewayId,
        /// The database.
        place: Place,
    },
    /// The file holds something else.
    #[error("{place} is not {expected}")]
    NotADatabase {
        /// The file.
        place: Place,
        /// What it should be.
        expected: &'static str,
    },
    /// A later version of this program wrote it.
    #[error("{place} has schema {found}, this version knows schemas up to {known}")]
    Newer {
        /// The database.
        place: Place,
        /// Its schema.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// It is a copy: its gateway may have gone on since it was made.
    #[error("{place} is a copy of a log, which may have gone on since; it can be read, not continued")]
    Copy {
        /// The database.
        place: Place,
    },
    /// A file is there already, and would be written over.
    #[error("{path} exists")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The database's file is damaged.
    #[error("{place} is damaged: {message}")]
    Damaged {
        /// The database.
        place: Place,
        /// What SQLite says.
        message: String,
    },
    /// The record was deleted with the log's beginning.
    #[error("record {index} was pruned: a copy of the log from before has it")]
    Pruned {
        /// Its index.
        index: u64,
    },
    /// No checkpoint ends the part of the log that is to be pruned, or a snapshot needs it.
    #[error("the log up to epoch {epoch} can't be pruned: no checkpoint is over just it, or a snapshot needs it")]
    Needed {
        /// The last epoch of the part.
        epoch: ol_protocol::Epoch,
    },
    /// It holds another network's log.
    #[error("{place} belongs to network {found}, not to {expected}")]
    OtherNetwork {
        /// The database.
        place: Place,
        /// Whose it is.
        found: NetworkId,
        /// Whose it should be.
        expected: NetworkId,
    },
    /// It holds another gateway's log.
    #[error("{place} belongs to gateway {found}, not to {expected}")]
    OtherGateway {
        /// The database.
        place: Place,
        /// Whose it is.
        found: GatewayId,
        /// Whose it should be.
        expected: GatewayId,
    },
    /// It holds another node's outbox.
    #[error("{place} belongs to node {found}, not to {expected}")]
    OtherNode {
        /// The database.
        place: Place,
        /// Whose it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// The key file is not the one that the database was made with.
    #[error("{key} is not the key that {place} was made with")]
    OtherKey {
        /// The key file.
        key: PathBuf,
        /// The database.
        place: Place,
    },
    /// The disk, or the limit set for the database, is full. Nothing was written.
    #[error("no space left for {place}")]
    Full {
        /// The database.
        place: Place,
    },
    /// The key file is missing or unfit.
    #[error(transparent)]
    Key(#[from] keyfile::Error),
    /// This job was refused; others of its group were not touched by that.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A record that the log must have is not there.
    #[error("record {index} is missing")]
    Missing {
        /// Its index.
        index: u64,
    },
    /// A stored hash of the log's tree is not there.
    #[error("the hash at level {level}, position {position} of the log's tree is missing")]
    MissingHash {
        /// Its level, 0 for leaves.
        level: u32,
        /// Its position on the level.
        position: u64,
    },
    /// A record's bytes are not a record.
    #[error("record {index} can't be read")]
    Unreadable {
        /// Its index.
        index: u64,
        /// What is wrong with the bytes.
        #[source]
        cause: ol_protocol::bytes::Error,
    },
    /// Encrypted data was changed, or belongs to another task.
    #[error("the sealed {what} of task {task} can't be opened")]
    Sealed {
        /// Payload or facts.
        what: &'static str,
        /// The task.
        task: TaskId,
    },
    /// The committer has stopped; the job was not committed.
    #[error("the store is closed")]
    Closed,
    /// The committer's queue is full; the job was not taken.
    #[error("the store's queue is full")]
    Busy,
    /// The system's randomness failed.
    #[error("no randomness from the system")]
    Random,
    /// A file operation failed.
    #[error("cannot open {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: Arc<io::Error>,
    },
    /// A database operation failed.
    #[error("database operation on {place} failed")]
    Database {
        /// The database.
        place: Place,
        /// Why.
        #[source]
        cause: Arc<rusqlite::Error>,
    },
    /// An operation on a database server failed. If the connection was lost, the next one makes another.
    #[error("database operation on {place} failed")]
    Server {
        /// The database.
        place: Place,
        /// Why.
        #[source]
        cause: Arc<tokio_postgres::Error>,
    },
    /// A database server does not answer; the connection is given up.
    #[error("{place} does not answer")]
    Silent {
        /// The database.
        place: Place,
    },
    /// The thread of a connection can't be started.
    #[error("cannot start a thread for {place}")]
    Thread {
        /// The database.
        place: Place,
        /// Why.
        #[source]
        cause: Arc<io::Error>,
    },
    /// The bytes of a top-up can't be read.
    #[error("a top-up in the database can't be read")]
    TopUp {
        /// What is wrong with the bytes.
        #[source]
        cause: ol_protocol::bytes::Error,
    },
    /// A text is not the URL of a PostgreSQL database.
    #[error("not the URL of a PostgreSQL database")]
    Url {
        /// Why.
        #[source]
        cause: Arc<tokio_postgres::Error>,
    },
    /// A text does not begin like the URL of a PostgreSQL database.
    #[error("not the URL of a PostgreSQL database: it must begin with postgres:// or postgresql://")]
    Scheme,
    /// How a connection is to be encrypted can't be told from the URL.
    #[error(
        "sslmode must be verify-full (or require, which means the same here) or disable; sslrootcert names a file and goes with the former"
    )]
    Encryption,
    /// A file with certificates of authorities can't be read.
    #[error("can't read certificates from {file}")]
    Certificates {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        cause: Arc<rustls::pki_types::pem::Error>,
    },
    /// A file holds no certificate of an authority.
    #[error("there is no certificate in {file}")]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// Nobody is known here who could certify a server.
    #[error(
        "this machine knows no authorities that certify servers: install ca-certificates, or name a file by sslrootcert"
    )]
    NoAuthorities,
}

/// What is wrong with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first record of a log must be its genesis, and no other may be one.
    #[error("record {index} {}", if *.index == 0 { "must be the genesis" } else { "can't be a genesis" })]
    Genesis {
        /// The index that the record would have.
        index: u64,
    },
    /// The genesis is of another network or gateway than the database.
    #[error("the genesis is that of network {network} and gateway {gateway}")]
    ForeignGenesis {
        /// Its network.
        network: NetworkId,
        /// Its gateway.
        gateway: GatewayId,
    },
    /// A batch record must follow its receipts in the same job, and every receipt needs one.
    #[error("a batch of {expected} receipts follows {found} receipts")]
    Receipts {
        /// How many the batch says; 0 if no batch follows.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The node's batch of this number is in the log.
    #[error("batch {sequence} of node {node} is in the log already, next is {next}")]
    Repeated {
        /// Who signed it.
        node: NodeId,
        /// Its number.
        sequence: u64,
        /// The number after the last one in the log.
        next: u64,
    },
    /// Something passes its limit.
    #[error("{what} of {bytes} bytes passes the limit of {max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A number can't be stored.
    #[error("{what} {value} is out of range")]
    Range {
        /// What it counts.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// The tenant has a top-up of this serial, or of a higher one.
    #[error("top-up {serial} is a replay, the last was {last}")]
    Serial {
        /// The top-up's.
        serial: u64,
        /// The last one's.
        last: u64,
    },
    /// Another checkpoint is stored for that epoch.
    #[error("epoch {epoch} has another checkpoint")]
    Fork {
        /// The epoch.
        epoch: ol_protocol::Epoch,
    },
    /// The key of a tenant is another tenant's.
    #[error("tenant {tenant} has the same API key")]
    KeyTaken {
        /// The other tenant.
        tenant: ol_protocol::TenantId,
    },
}
