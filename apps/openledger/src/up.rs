//! `openledger up`: a whole network in one process, over the same links that remote nodes use.

mod ask;
mod cheat;
mod report;

use crate::config::{Config, Role};
use crate::gateway::{self, OtherNetwork, Running};
use crate::home::Home;
use crate::logging::say;
use crate::models::{Models, Run};
use crate::{calibrations, flags, logging, node};
use anyhow::Context as _;
use ask::Asked;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ol_engine::{Cheat, Engine, sleeper};
use ol_gateway::driver::News;
use ol_net::frame::Role as LinkRole;
use ol_node::{Membership, dial};
use ol_protocol::{NetworkId, NodeId};
use report::Report;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Nodes, and as many operators, of a network in one process.
const NODES: usize = 3;

/// Wait for the nodes to join: they load nothing by then, and are on this machine.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// Wait for audits and the settled epoch with `--once`: an epoch, and audits of a short answer on a busy machine.
const SETTLE_LIMIT: Duration = Duration::from_secs(180);

/// Start a whole network in this process.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask one request, wait for its audits and the first settled epoch, then stop.
    #[arg(long)]
    once: bool,
    /// With --once: print one JSON object instead of text.
    #[arg(long, requires = "once")]
    json: bool,
    /// Make one of the nodes cheat. With --once, requests go on until a verdict.
    #[arg(long, value_name = "HOW", value_parser = cheats())]
    cheat: Option<Cheat>,
    /// With --cheat: how many texts it generates honestly before.
    #[arg(long, value_name = "NUMBER", requires = "cheat", default_value_t = 0)]
    cheat_after: u32,
    #[command(flatten)]
    common: flags::Common,
    #[command(flatten)]
    ledger: flags::Ledger,
    #[command(flatten)]
    serving: flags::Serving,
    #[command(flatten)]
    working: flags::Working,
}

/// The names of cheats.
pub(crate) fn cheats() -> impl TypedValueParser<Value = Cheat> {
    PossibleValuesParser::new(Cheat::ALL.map(Cheat::name)).try_map(|name| name.parse::<Cheat>())
}

/// Runs `openledger up`.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut config =
        flags::load(Role::Up, &args.common, Some(&args.ledger), Some(&args.serving), Some(&args.working), None)?;
    if args.json && config.log == crate::config::LOG {
        // One object and nothing else is what scripts read; warnings still go to standard error.
        config.log = "warn".to_owned();
    } else if config.log == crate::config::LOG {
        config.log = "warn,openledger=info".to_owned();
    }
    logging::start(&config.log, config.log_format)?;
    let began = Instant::now();
    let data = Home::open(&config.data_dir)?;
    let home = data.network()?;
    let models = Models::load(&config, &data)?;
    let loaded = began.elapsed();
    let (serving, working) = (gateway::runtime()?, node::runtime()?);
    let network =
        Network { config, data, home, models, loaded, began, cheat: args.cheat, cheat_after: args.cheat_after };
    let result = network.run(&args, &serving, &working);
    // Engine threads end with their handles; a runtime must not be dropped while its tasks wait for them.
    working.shutdown_timeout(Duration::from_secs(1));
    serving.shutdown_timeout(Duration::from_secs(1));
    result
}

struct Network {
    config: Config,
    data: Home,
    home: Home,
    models: Models,
    loaded: Duration,
    began: Instant,
    cheat: Option<Cheat>,
    cheat_after: u32,
}

impl Network {
    fn run(
        &self,
        args: &Args,
        serving: &tokio::runtime::Runtime,
        working: &tokio::runtime::Runtime,
    ) -> anyhow::Result<ExitCode> {
        let running = serving.block_on(gateway::start(&self.config, &self.home, &OtherNetwork::default(), false))?;
        let news = running.gateway.news();
        let nodes = working.block_on(self.start_nodes(&running))?;
        let outcome = working.block_on(self.serve(args, &running, news));
        if !args.json {
            say("stopping: finishing what runs, then closing the ledger");
        }
        running.gateway.announce_end();
        working.block_on(async {
            let mut draining = tokio::task::JoinSet::new();
            for node in nodes {
                draining.spawn(node.drain());
            }
            draining.join_all().await;
        });
        serving.block_on(running.drain());
        outcome
    }

    async fn serve(&self, args: &Args, running: &Running, news: broadcast::Receiver<News>) -> anyhow::Result<ExitCode> {
        self.wait_for_nodes(running).await?;
        if !args.json {
            report::introduce(running, &self.models.text_name(), self.loaded)?;
        }
        if let (Some(cheat), true) = (self.cheat, args.once) {
            let cheater = self.node_id(0)?;
            let found = cheat::until_verdict(running, &self.models.text_name(), cheat, cheater, news).await?;
            return Ok(cheat::tell(&found, args.json));
        }
        let asked = ask::one(running, &self.models.text_name()).await?;
        let first_answer = self.began.elapsed();
        if args.once {
            let settled = tokio::time::timeout(SETTLE_LIMIT, self.settle(running, &asked, news)).await;
            let report = settled.context("the audits or the epoch did not end in time")??;
            report.tell(args.json, first_answer);
            return Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Report::of(&asked, None, &ask::receipt(running, &asked.task).await?)?.tell(false, first_answer);
        say("serving; Ctrl-C stops");
        gateway::wait_for_end(running).await?;
        Ok(ExitCode::SUCCESS)
    }

    // Waits until the answer's audit has ended and an epoch after it is settled.
    async fn settle<'a>(
        &self,
        running: &Running,
        asked: &'a Asked,
        mut news: broadcast::Receiver<News>,
    ) -> anyhow::Result<Report<'a>> {
        let mut audits = report::Audits::default();
        let mut logged = false;
        loop {
            let drawn = audits.of(&asked.task);
            match news.recv().await.context("the gateway has ended")? {
                News::Audited { subject, passed, .. } => audits.add(subject.task, passed),
                News::Closed { summary } => {
                    audits.epoch = summary.epoch.0;
                    if logged && drawn {
                        break;
                    }
                    logged = ask::is_logged(running, &asked.task).await?;
                }
                News::Joined(_) => {}
            }
            if !logged {
                logged = ask::is_logged(running, &asked.task).await?;
            }
        }
        let document = ask::final_receipt(running, &asked.task).await?;
        Report::of(asked, Some(audits), &document)
    }

    async fn start_nodes(&self, running: &Running) -> anyhow::Result<Vec<dial::Running>> {
        let network = running.gateway.handle.network();
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let cheat = if number == 0 { self.cheat } else { None };
            nodes.push(self.start_node(running, network, number, cheat)?);
        }
        nodes.push(self.start_referee(running, network)?);
        Ok(nodes)
    }

    fn run_of(&self, cheat: Option<Cheat>) -> Run {
        // Four engines share the machine: one thread each gives the most tokens for the CPU time.
        let threads = self.config.threads.map_or(1, std::num::NonZero::get);
        Run { slots: self.config.slots.get(), threads, cheat }
    }

    fn engines(&self, cheat: Option<Cheat>) -> Vec<Arc<dyn Engine>> {
        let engines = self.models.engines(self.run_of(cheat));
        if cheat.is_none() || self.cheat_after == 0 {
            return engines;
        }
        let honest = self.models.engines(self.run_of(None));
        honest.into_iter().zip(engines).map(|(honest, cheat)| sleeper(honest, cheat, self.cheat_after)).collect()
    }

    fn start_node(
        &self,
        running: &Running,
        network: NetworkId,
        number: usize,
        cheat: Option<Cheat>,
    ) -> anyhow::Result<dial::Running> {
        let home = self.home.sub(&format!("node-{number}"))?;
        let identity = home.identity("node", "operator", network)?;
        let config = ol_node::Config {
            gateways: vec![Membership {
                ticket: running.gateway.ticket.clone(),
                certificate: identity.certificate,
                join_token: None,
            }],
            key: identity.key,
            role: LinkRole::Worker,
            region: self.config.region.clone(),
            engines: self.engines(cheat),
            calibrations: Vec::new(),
            data_dir: home.path().to_path_buf(),
        };
        dial::start(config).with_context(|| format!("cannot start node {number}"))
    }

    fn start_referee(&self, running: &Running, network: NetworkId) -> anyhow::Result<dial::Running> {
        let (home, identity) = self.data.referee(network)?;
        let calibrations = calibrations::load(&self.data)?;
        let config = ol_node::Config {
            gateways: vec![Membership {
                ticket: running.gateway.ticket.clone(),
                certificate: identity.certificate,
                join_token: None,
            }],
            key: identity.key,
            role: LinkRole::Referee,
            region: self.config.region.clone(),
            engines: self.models.engines(self.run_of(None)),
            calibrations: calibrations.clone(),
            data_dir: home.path().to_path_buf(),
        };
        let referee = dial::start(config).context("cannot start the referee")?;
        let (models, run) = (self.models.clone(), self.run_of(None));
        calibrations::fill(self.data.clone(), &calibrations, referee.teller(), move || models.subjects(run));
        Ok(referee)
    }

    fn node_id(&self, number: usize) -> anyhow::Result<NodeId> {
        Ok(NodeId(self.home.sub(&format!("node-{number}"))?.key("node")?.public()))
    }

    async fn wait_for_nodes(&self, running: &Running) -> anyhow::Result<()> {
        let all = async {
            while running.gateway.handle.workers() < NODES as u64 || !running.gateway.handle.has_referee() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(JOIN_LIMIT, all).await.context("the nodes did not join in time")
    }
}
