//! The durable store of a gateway, the outbox of a node, and the files of their keys.
//!
//! One process writes: a [`Committer`] thread owns the [`Store`] and commits whatever waits in one transaction. Reads
//! go through connections of their own ([`Store::reader`]), which neither wait for the committer nor hold it up; each
//! is for one thread at a time.
//!
//! A gateway's store is a file of SQLite ([`SqliteStore`]) or a log among others in a PostgreSQL database
//! ([`PostgresStore`]).

mod admit;
pub mod backup;
mod committer;
mod database;
mod error;
mod fsck;
pub mod keyfile;
mod memory;
mod outbox;
mod payload;
mod place;
mod postgres;
mod prune;
mod read;
mod sqlite;
mod store;
mod tables;
mod tree;
mod vault;

pub use committer::{Committer, Handle};
pub use error::{Error, Refusal};
pub use fsck::{Finding, Row, Table, Tables, fsck, fsck_then};
pub use memory::MemoryStore;
pub use outbox::{ACKED_KEPT, KeptBatch, Outbox, OutboxReader, Peer};
pub use payload::{AUDIT_WINDOW, PAYLOAD_BYTES_MAX, Payload};
pub use place::{Address, Place};
pub use postgres::{PostgresFunds, PostgresReader, PostgresStore, Server, founding, gateways, prune_server};
pub use prune::{Deleted, Space, prune, space};
pub use read::SqliteReader;
pub use sqlite::{Options, SqliteStore};
pub use store::{
    Appended, Attempt, FACTS_BYTES_MAX, Facts, Identity, Job, NodeBatch, Note, Pruned, Read, Records, SNAPSHOTS_KEPT,
    Snapshot, Store, TaskRecords, Tenant, records,
};
