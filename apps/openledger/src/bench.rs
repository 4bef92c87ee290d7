//! `openledger bench`: what coordination and engines cost on this machine.

mod children;
mod connections;
mod engine;
mod floor;
mod gateway;
mod latency;
mod ledger;
mod load;
mod machine;
mod margins;
mod measure;
mod placement;
mod prefix;
mod progress;
mod trust;
mod vectors;
mod verdicts;

use clap::Subcommand;
use std::process::ExitCode;

/// Measure on this machine; close other programs first.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What a gateway costs for each task: processor time and latency, with nodes that answer at once.
    Gateway(gateway::Args),
    /// What an engine does in a second of processor time.
    Engine(engine::Args),
    /// How long a gateway takes to decide who gets a task, and what it remembers of a node, by the number of nodes.
    Placement(placement::Args),
    /// What links to thousands of nodes cost a gateway, and how soon it notices those that fall silent.
    Connections(connections::Args),
    /// What a receipt costs the ledger, stage by stage.
    Ledger(ledger::Args),
    /// What it saves that a conversation goes on where its earlier turns are held.
    Prefix(prefix::Args),
    /// How far from 0 an honest node's margins are when its answers are checked.
    Margins(margins::Args),
    /// How many audits it takes to convict each kind of cheat, and how often honest answers fail.
    Trust(trust::Args),
}

/// Runs `openledger bench`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Gateway(args) => gateway::run(args),
        What::Engine(args) => engine::run(args),
        What::Placement(args) => placement::run(args),
        What::Connections(args) => connections::run(args),
        What::Ledger(args) => ledger::run(args),
        What::Prefix(args) => prefix::run(args),
        What::Margins(args) => margins::run(args),
        What::Trust(args) => trust::run(args),
    }
}
