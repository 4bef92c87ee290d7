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
mod regions;
mod resident;
mod several;
mod tasks;
mod total;
mod why;
mod world;
