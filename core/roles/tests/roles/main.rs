//! The machines by what they do.

mod any;
mod audits;
mod batches;
mod funds;
mod tasks;
mod total;
mod world;
