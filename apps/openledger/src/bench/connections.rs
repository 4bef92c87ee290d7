//! `openledger bench connections`: what ten thousand nodes cost a gateway that only keeps their links, and how soon it notices
//! those that fall silent.

use super::children::Gateway;
use super::{machine, measure, progress};
use crate::logging::say;
use anyhow::{Context as _, bail, ensure};
use indicatif::ProgressBar;
use ol_net::frame::{Down, Hello, PROTOCOL, Role, Up};
use ol_protocol::certificate::Certificate;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::key::SecretKey;
use ol_protocol::ticket::Ticket;
use ol_protocol::variant::{Assurance, Variant, Work};
use ol_protocol::{Digest, NodeId, Timestamp};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Nodes that connect at the same time: within the handshakes that a gateway lets wait.
const AT_ONCE: usize = 128;
/// Time for all to have joined.
const JOIN_LIMIT: Duration = Duration::from_secs(400);
/// Time for those that fell silent to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// Measure a gateway that keeps links to many nodes, which this process plays: one slot each, and answers to pings.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Nodes. Each takes a file descriptor here and one of the gateway: see `ulimit -n`.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=16_000))]
    nodes: u32,
    /// Seconds during which nothing happens but pings.
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    idle: u32,
}

// Who plays nodes of one operator.
struct Player {
    ticket: Ticket,
    operator: SecretKey,
    room: Semaphore,
    bar: ProgressBar,
}

impl Player {
    // One node, from its connection until the gateway ends it.
    async fn play(self: Arc<Self>, number: u32) -> anyhow::Result<()> {
        let permit = self.room.acquire().await?;
        let key = SecretKey::from_bytes(&digest(Domain::Certificate, &[b"bench", &number.to_le_bytes()]).0);
        let mut link = ol_net::connect(&self.ticket, &key, &ol_net::Limits::default()).await?;
        let certificate =
            Certificate::issue(&self.operator, self.ticket.network, NodeId(key.public()), Timestamp(1)).to_bytes();
        let hello = Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            network: self.ticket.network,
            certificate,
            join_token: None,
            software: "bench".into(),
            role: Role::Worker,
            region: format!("region-{}", number % 5),
            variants: vec![variant()],
            next_batch: 0,
        };
        link.sender.try_send(Up::Hello(hello))?;
        match link.receiver.recv().await.context("the gateway closed a link before its welcome")?? {
            Down::Welcome(_) => {}
            _ => bail!("the gateway did not begin with a welcome"),
        }
        link.sender.try_send(Up::Grant { variant: variant().id(), total: 1 })?;
        drop(permit);
        self.bar.inc(1);
        while let Some(frame) = link.receiver.recv().await {
            if let Down::Ping { nonce } = frame? {
                link.sender.try_send(Up::Pong { nonce })?;
            }
        }
        Ok(())
    }
}

fn variant() -> Variant {
    Variant {
        model: "bench".into(),
        weights: Digest([1; 32]),
        quantisation: "none".into(),
        numerics: "none/1".into(),
        work: Work::Generate,
        assurance: Assurance::Seeded,
        context_tokens: 2_048,
    }
}

/// Runs `openledger bench connections`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = tempfile::tempdir().context("no folder for temporary files")?;
    let gateway = Gateway::start(&folder.path().join("gateway"), &[])?;
    let bar = progress::bar(u64::from(args.nodes));
    bar.set_message("nodes");
    let player = Arc::new(Player {
        ticket: gateway.ticket.parse().context("the gateway's ticket")?,
        operator: SecretKey::from_bytes(&[8; 32]),
        room: Semaphore::new(AT_ONCE),
        bar,
    });
    // Those that will fall silent are driven by this thread only while it waits for something, and then no more: as machines that
    // stand still.
    let silent = (args.nodes / 10).max(1);
    let lively = Builder::new_multi_thread().worker_threads(1).enable_all().build().context("no runtime")?;
    let ghosts = Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let mut nodes = JoinSet::new();
    let before = (gateway.process.resident_kib(), cpu_us(&gateway));
    let began = Instant::now();
    for number in silent..args.nodes {
        nodes.spawn_on(player.clone().play(number), lively.handle());
    }
    lively.block_on(reach(&gateway, args.nodes - silent, |connected, wanted| connected >= wanted, JOIN_LIMIT))?;
    let mut ghost_nodes = JoinSet::new();
    for number in 0..silent {
        ghost_nodes.spawn_on(player.clone().play(number), ghosts.handle());
    }
    ghosts.block_on(reach(&gateway, args.nodes, |connected, wanted| connected >= wanted, JOIN_LIMIT))?;
    player.bar.finish_and_clear();
    let joined_seconds = began.elapsed().as_secs_f64();
    let after = (gateway.process.resident_kib(), cpu_us(&gateway));
    let idle = Duration::from_secs(u64::from(args.idle));
    ghosts.block_on(async { tokio::time::sleep(idle).await });
    let idle_us = cpu_us(&gateway).saturating_sub(after.1);
    let stopped = Instant::now();
    lively.block_on(reach(&gateway, args.nodes - silent, |connected, wanted| connected <= wanted, GONE_LIMIT))?;
    let gone_seconds = stopped.elapsed().as_secs_f64();
    let left = lively.block_on(measure::metric(&gateway, "openledger_nodes_connected"))?;
    ensure!(left == u64::from(args.nodes - silent), "{left} nodes are left of {}", args.nodes - silent);
    let each = |value: u64| (value as f64 / f64::from(args.nodes) * 10.0).round() / 10.0;
    let rounded = |value: f64| (value * 10.0).round() / 10.0;
    let record = machine::stamp(json!({
        "nodes": args.nodes,
        "joined_seconds": rounded(joined_seconds),
        "join_cpu_us_per_node": each(after.1.saturating_sub(before.1)),
        "resident_kib_per_node": each(after.0.saturating_sub(before.0)),
        "idle_cpu_percent": rounded(idle_us as f64 / idle.as_micros() as f64 * 100.0),
        "idle_cpu_us_per_node_and_second": each(idle_us / u64::from(args.idle)),
        "silent": silent,
        "silent_gone_after_seconds": rounded(gone_seconds),
    }));
    lively.shutdown_background();
    ghosts.shutdown_background();
    if args.json {
        say(record.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    for (name, value) in record.as_object().into_iter().flatten() {
        say(format!("{:<34} {value}", name.replace('_', " ")));
    }
    Ok(ExitCode::SUCCESS)
}

fn cpu_us(gateway: &Gateway) -> u64 {
    gateway.process.cpu_ns().values().sum::<u64>() / 1_000
}

async fn reach(gateway: &Gateway, wanted: u32, is_so: fn(u64, u64) -> bool, limit: Duration) -> anyhow::Result<()> {
    let (began, wanted) = (Instant::now(), u64::from(wanted));
    loop {
        let connected = measure::metric(gateway, "openledger_nodes_connected").await?;
        if is_so(connected, wanted) {
            return Ok(());
        }
        if began.elapsed() > limit {
            bail!("{connected} nodes are connected after {} s, not {wanted}: see `ulimit -n`", limit.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}
