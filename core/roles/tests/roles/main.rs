//! The machines by what they do.

mod any;
mod audits;
mod batches;
mod confirm;
mod evidence;
mod funds;
mod outbox;
mod overtake;
mod own;
mod panel;
mod several;
mod tasks;
mod total;
mod world;
