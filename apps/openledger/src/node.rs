//! `openledger node`.

use crate::calibrations::Subject;
use crate::config::{Config, Role};
use crate::home::{Home, Identity};
use crate::join::{Join, Joins};
use crate::logging::say;
use crate::models::{self, Models, Run};
use crate::{calibrations, claims, flags, gateway, logging, up};
use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ol_engine::{Cheat, Engine, FalseAuditor, Instant, false_auditor};
use ol_net::frame::Role as LinkRole;
use ol_node::{Membership, dial};
use ol_protocol::NetworkId;
use ol_protocol::id::hex;
use std::process::ExitCode;
use std::sync::Arc;

/// A node's folder in its data folder.
pub(crate) const FOLDER: &str = "node";

/// Start a node and join a gateway, or several.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// The ticket that the gateway printed: one line, ol1:HOST:PORT/GATEWAY/NETWORK. May be repeated, for gateways that share the
    /// node; one that asks for a token has it behind its ticket, TICKET#TOKEN.
    #[arg(long, value_name = "TICKET")]
    join: Vec<Join>,
    /// Answer at once with this many fixed tokens instead of running a model: to measure coordination alone.
    #[arg(long, value_name = "TOKENS", hide = true)]
    instant: Option<u32>,
    /// Audit others' answers without computing: all is well, or all is wrong. For tests and demonstrations.
    #[arg(long, value_name = "HOW", hide = true, conflicts_with = "referee", value_parser = false_audits())]
    audits: Option<FalseAuditor>,
    /// Answer dishonestly. For tests and demonstrations.
    #[arg(long, value_name = "HOW", hide = true, conflicts_with = "referee", value_parser = up::cheats())]
    cheat: Option<Cheat>,
    /// Be the network's referee: it gets no tasks and scores what a young network or a failed audit asks for. Give the
    /// gateway's --data-dir: the referee's key is there.
    #[arg(long)]
    referee: bool,
    #[command(flatten)]
    common: flags::Common,
    #[command(flatten)]
    working: flags::Working,
    #[command(flatten)]
    computing: flags::Computing,
    #[command(flatten)]
    token: flags::Token,
}

/// What else there is to do for a node.
#[derive(Debug, clap::Subcommand)]
enum Other {
    Claims(claims::Args),
}

/// Threads of a node's runtime beside its engine's.
const WORKERS: usize = 1;

/// A runtime for nodes.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("ol-node")
        .enable_all()
        .build()
        .context("cannot start the node's threads")
}

fn false_audits() -> impl TypedValueParser<Value = FalseAuditor> {
    PossibleValuesParser::new(FalseAuditor::ALL.map(FalseAuditor::name)).try_map(|name| name.parse::<FalseAuditor>())
}

/// Runs `openledger node`.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(Other::Claims(claims)) = &args.other {
        return claims::run(claims);
    }
    let mut config = flags::load(Role::Node, &args.common, None, None, Some(&args.working), Some(&args.token))?;
    args.computing.over(&mut config);
    let joins = if args.join.is_empty() { std::mem::take(&mut config.join) } else { Joins(args.join) };
    let joins = joins.checked(config.join_token.as_ref())?;
    anyhow::ensure!(
        !args.referee || config.llama_server.is_none(),
        "a referee checks outputs, which a llama-server cannot; leave --llama-server out"
    );
    logging::start(&config.log, config.log_format)?;
    let data = Home::open(&config.data_dir)?;
    let (home, key, gateways, role) = match args.referee {
        false => {
            let home = data.sub(FOLDER)?;
            home.claim("a node")?;
            let gateways = memberships(joins, |network| home.identity("node", "operator", network))?;
            let key = home.key("node")?;
            (home, key, gateways, LinkRole::Worker)
        }
        true => {
            let gateways = memberships(joins, |network| Ok(data.referee(network)?.1))?;
            let (home, identity) = data.referee(gateways[0].ticket.network)?;
            (home, identity.key, gateways, LinkRole::Referee)
        }
    };
    let threads = config.threads.map_or(0, std::num::NonZero::get);
    let run = Run { slots: config.slots.get(), threads, cheat: args.cheat };
    let instant = move |tokens| Arc::new(Instant::new(run.slots, tokens)) as Arc<dyn Engine>;
    let (mut engines, models) = engines(&config, &data, args.instant.map(instant), run)?;
    if let Some(says) = args.audits {
        let models = models
            .as_ref()
            .context("--audits pretends with a model of this process: leave --llama-server and --instant out")?;
        engines[0] = false_auditor(engines[0].clone(), models.text(), says);
    }
    let calibrations = if args.referee { calibrations::load(&data)? } else { Vec::new() };
    say(format!("node     {}", hex(&key.public())));
    say(format!("operator {}", gateways[0].certificate.operator));
    runtime()?.block_on(async {
        let running = dial::start(ol_node::Config {
            gateways,
            key,
            role,
            region: config.region.clone(),
            engines,
            calibrations: calibrations.clone(),
            data_dir: home.path().to_path_buf(),
        })?;
        if args.referee {
            let tokens = args.instant.unwrap_or_default();
            let alone = move || vec![Subject { engine: instant(tokens), cheats: Box::new(std::iter::empty()) }];
            let subjects = move || models.map_or_else(alone, |models| models.subjects(Run { threads: 1, ..run }));
            calibrations::fill(data.clone(), &calibrations, running.teller(), subjects);
        }
        serve(running).await
    })
}

// Who the node is to each gateway: its key is one, and each network has a certificate for it.
fn memberships(
    joins: Vec<Join>,
    identity: impl Fn(NetworkId) -> anyhow::Result<Identity>,
) -> anyhow::Result<Vec<Membership>> {
    let membership = |Join { ticket, token }: Join| {
        let certificate = identity(ticket.network)?.certificate;
        Ok(Membership { ticket, certificate, join_token: token.map(|token| token.reveal().to_owned()) })
    };
    joins.into_iter().map(membership).collect()
}

// Until it is refused for good, or told to leave.
async fn serve(mut running: dial::Running) -> anyhow::Result<ExitCode> {
    tokio::select! {
        ended = running.ended() => ended?,
        signal = gateway::wait_for_signal() => {
            signal?;
            say("leaving: finishing what runs, then handing in the last batch");
            running.drain().await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

type Engines = Vec<Arc<dyn Engine>>;

// What computes, and the models behind it where they are embedded.
fn engines(
    config: &Config,
    data: &Home,
    instant: Option<Arc<dyn Engine>>,
    run: Run,
) -> anyhow::Result<(Engines, Option<Models>)> {
    match (instant, config.llama_server.as_deref()) {
        (Some(instant), _) => Ok((vec![instant], None)),
        (None, Some(server)) => Ok((models::with_server(config, data, server, run)?, None)),
        (None, None) => {
            let models = Models::load(config, data)?;
            Ok((models.engines(run), Some(models)))
        }
    }
}
