//! Discrete-event driver of the gateway's and the nodes' machines: virtual time, links by region, modelled engines,
//! churn, cheating and hostile nodes, a store with latency, and checkers that share no code with what they check.
//!
//! Nothing is signed where it would only cost time: who sent what is known here. Everything else that a machine sees is
//! what it sees live, in the same order of cause and effect.

pub mod adversaries;
mod agenda;
mod bank;
mod bets;
mod books;
mod check;
mod config;
mod content;
mod conversation;
pub mod coordination;
mod engine;
mod gate;
mod host;
mod hostile;
mod log;
mod random;
pub mod reliability;
mod trace;
pub mod trust;
mod world;

pub use books::Books;
pub use config::{BreachOfPromise, Broken, Config, Demand, Fleet, Home, OfRegion, Report, Violation};

/// Simulates, and checks as it goes.
///
/// # Errors
/// The first check that failed.
pub fn run(config: &Config) -> Result<Report, Violation> {
    world::World::new(config.clone())?.run()
}
