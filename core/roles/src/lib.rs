//! The machines: gateway, node, settler, and the follower that checks a log. Thin combinations of scheduling, trust and ledger; the same code runs live and
//! in simulation.
#![no_std]

extern crate alloc;

pub mod follower;
pub mod gateway;
pub mod node;
pub mod order;
pub mod prices;
pub mod quote;
pub mod settler;

pub use gateway::Gateway;
pub use node::Node;
pub use prices::{PriceRule, Prices};
pub use settler::Settler;
