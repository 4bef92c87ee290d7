//! Stores as their users see them.

mod conformance;
mod fsck;
mod funds;
mod log;
mod postgres;
mod server;
mod sqlite;
