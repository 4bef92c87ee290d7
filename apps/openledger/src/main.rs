//! One binary: a whole network in one process, its parts as separate processes, and the tools to look at it.

mod backup;
mod bench;
mod calibrate;
mod calibrations;
mod claims;
mod client;
mod config;
mod cpu;
mod export;
mod fetch;
mod flags;
mod gateway;
mod home;
mod honesty;
mod inspect;
mod issue;
mod join;
mod logging;
mod models;
mod node;
mod prune;
mod restore;
mod simulate;
mod up;
mod verify;
mod why;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A gateway's task is some hundred small allocations that live for milliseconds and end on another thread (docs/adr/0032).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A network of many uneven, untrusted machines as one AI service that developers can rely on.
#[derive(Debug, Parser)]
#[command(name = "openledger", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole network in this process: a gateway, three nodes, a ledger, a funded tenant. Begin here.
    Up(up::Args),
    /// Start a gateway; it prints the ticket that nodes join with.
    Gateway(gateway::Args),
    /// Start a node and join a gateway.
    Node(node::Args),
    /// Measure what honest answers of a model look like to an auditor.
    Calibrate(calibrate::Args),
    /// Check a receipt offline, and request and response bytes against it.
    Verify(verify::Args),
    /// Sell credits and change parameters, with the issuer's key.
    Issue(issue::IssueArgs),
    /// Enter and remove tenants, with the key of the gateways' owner.
    Tenant(issue::TenantArgs),
    /// Look into a gateway's ledger.
    Ledger(inspect::Args),
    /// Ask a running gateway why a task went where it went, or why a node gets what it gets.
    Why(why::Args),
    /// Run the same gateway and node code in simulated time.
    Sim(simulate::SimArgs),
    /// Feed a recorded event log through the core and compare the outputs.
    Replay(simulate::ReplayArgs),
    /// Measure what coordination and engines cost on this machine.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Up(args) => up::run(args),
        Command::Gateway(args) => gateway::run(args),
        Command::Node(args) => node::run(args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Issue(args) => issue::issue(&args),
        Command::Tenant(args) => issue::tenant(&args),
        Command::Ledger(args) => inspect::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Sim(args) => simulate::run(&args),
        Command::Replay(args) => simulate::replay(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            logging::complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_own_flags() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
