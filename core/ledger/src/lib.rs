//! Double entry in integer micro-credits: who paid, what is held, who has earned it, and when they get it.
//!
//! [`Ledger`] is a pure function of a gateway's log: the same records in the same order give the same balances and the
//! same digest everywhere. [`Budget`] stands beside it and keeps a gateway from serving what a tenant can't pay.
//! Integers only; every division says how it rounds and who keeps the rest.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod account;
pub mod attempt;
pub mod budget;
mod check;
mod escrow;
mod history;
pub mod ledger;
mod snapshot;
pub mod split;
pub mod summary;

pub use account::Account;
pub use attempt::Finding;
pub use budget::{Budget, Empty};
pub use check::Fault;
pub use ledger::{Auditor, Error, Funded, Ledger};
pub use snapshot::RestoreError;
pub use split::Shares;
pub use summary::{Payout, Summary, Totals};
