//! Stores as their users see them.

mod conformance;
mod fsck;
mod log;
mod sqlite;
