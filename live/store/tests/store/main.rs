//! Stores as their users see them.

mod backup;
mod conformance;
mod formats;
mod fsck;
mod funds;
mod log;
mod postgres;
mod prune;
mod server;
mod sqlite;
