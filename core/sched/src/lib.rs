//! Where a task goes and what happens until it is answered: offers, placement, fair waiting, attempts, quarantine; and how a
//! node divides its slots among gateways.
//!
//! Nothing here reads a clock or draws ambient randomness: time and seed are arguments.
#![no_std]

extern crate alloc;

pub mod attempt;
pub mod breaker;
pub mod flow;
pub mod gate;
pub mod hedge;
pub mod offer;
pub mod passed;
pub mod placement;
pub mod queue;
pub mod rate;
pub mod region;
pub mod reliability;
pub mod residency;
pub mod slots;

pub use attempt::{Accepted, Attempt, Attempts, Expected, Heard, Limits, Overdue, Reason};
pub use breaker::Breaker;
pub use flow::Flow;
pub use gate::Gate;
pub use offer::{Granted, Offers};
pub use passed::Passed;
pub use placement::{Ask, Picked, Placement, Prediction, Rule, Trial};
pub use queue::{Entry, Queue, Waiters};
pub use rate::{Rate, Rates};
pub use region::{Regions, Want, Where};
pub use reliability::{Reliabilities, Reliability, Tier};
pub use residency::{Prefix, Residency, Resident};
pub use slots::{Change, Slots};
