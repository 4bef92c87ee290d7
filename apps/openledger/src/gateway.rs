//! `openledger gateway`, and the gateway part of `up`.

use crate::config::{Config, Role, Secret};
use crate::home::{Home, tenant_id};
use crate::logging::say;
use crate::verify::log;
use crate::verify::source::Source;
use crate::{flags, logging};
use anyhow::Context as _;
use ol_gateway::backend::{Backend as _, Instruction};
use ol_gateway::driver::start::check_place;
use ol_gateway::driver::{self, Gateway};
use ol_gateway::{ApiKey, Bound, Kind, PlainHttp};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::Signature;
use ol_protocol::tenant::TenantEntry;
use ol_protocol::top_up::TopUp;
use ol_protocol::{GatewayId, MicroCredits, Micros, NetworkId, OwnerId, Price};
use ol_store::{Read as _, SqliteReader};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What a new tenant of one's own network starts with: 100 credits.
const FIRST_TOP_UP: MicroCredits = MicroCredits(100_000_000);

/// The tenant that belongs to whoever runs the network.
const OWNER: &str = "owner";

/// Start of the names of all threads that coordinate.
pub(crate) const THREADS: &str = "ol-gateway";

/// Threads of the gateway's runtime: the machine's loop, and connections beside it.
const WORKERS: usize = 2;

/// How long an address that somebody has is tried for.
const BIND_GRACE: Duration = Duration::from_millis(500);

/// Time between two tries.
const BIND_LOOK: Duration = Duration::from_millis(5);

/// Start a gateway; it prints the ticket that nodes join with.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: flags::Common,
    #[command(flatten)]
    ledger: flags::Ledger,
    #[command(flatten)]
    serving: flags::Serving,
    #[command(flatten)]
    token: flags::Token,
    #[command(flatten)]
    other: OtherNetwork,
    /// Keep the ledger in memory and lose it at the end: to measure what a ledger on a disk costs.
    #[arg(long, hide = true)]
    in_memory: bool,
}

/// A network that another owner began.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct OtherNetwork {
    /// At the first start: begin in the network of another owner's gateway, whose public log is here, http://HOST:PORT/log or a
    /// folder with its files. The issuer and the referee are that network's [default: a new network].
    #[arg(long, value_name = "LOG", requires = "network")]
    network_of: Option<String>,
    /// The id of that network, as on its gateway's ticket.
    #[arg(long, value_name = "ID", requires = "network_of")]
    network: Option<NetworkId>,
}

/// A running gateway with its HTTP side.
pub(crate) struct Running {
    /// The gateway.
    pub(crate) gateway: Gateway,
    /// Where HTTP listens.
    pub(crate) address: SocketAddr,
    /// The key of the first tenant, if it is this folder's.
    key: Option<String>,
    stop: watch::Sender<bool>,
    http: tokio::task::JoinHandle<()>,
}

/// The gateway's own runtime, so that its CPU time can be told from the engines'.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name(THREADS)
        .enable_all()
        .build()
        .context("cannot start the gateway's threads")
}

/// Starts a gateway and its HTTP side on the current runtime.
pub(crate) async fn start(
    config: &Config,
    home: &Home,
    other: &OtherNetwork,
    in_memory: bool,
) -> anyhow::Result<Running> {
    let epoch = Micros::from_secs(u64::from(config.epoch_seconds.get()));
    let server = server(config)?;
    let mut http = ol_gateway::Config::at(config.listen);
    if !config.listen.ip().is_loopback() {
        http.plain_http = PlainHttp::Everywhere;
    }
    // First of all, as the process before may answer for a while what it has begun: clients wait, and are not refused.
    let bound = bound(&http).await;
    let genesis = genesis(home, server.as_ref(), epoch, other).await?;
    let gateway = driver::start(driver::Config {
        server,
        in_memory,
        data_dir: home.path().to_path_buf(),
        key: home.key("gateway")?,
        master: home.secret("gateway")?,
        genesis,
        node_listen: config.node_listen,
        join_token: config.join_token.as_ref().map(|token| token.reveal().to_owned()),
        prices: prices(config),
        operator: home.operator_key()?.digest(),
        requests_per_minute: config.requests_per_minute.get(),
        tokens_per_minute: config.tokens_per_minute.get(),
        event_log: config.event_log.clone(),
        page_count_max: None,
    })
    .await
    .context("cannot start the gateway")?;
    let key = home.api_key(OWNER)?;
    if gateway.tenants()?.is_empty() && home.has_key("issuer") {
        fund(&gateway, home, &key).await?;
    }
    let key = is_known(&gateway, &key)?.then(|| key.expose().to_owned());
    let bound = match bound {
        Ok(bound) => bound,
        // Whoever had the log may have had the address until its end.
        Err(_) => Bound::new(http).await?,
    };
    let server = bound.serve(Arc::new(gateway.handle.clone()));
    let address = server.address();
    let (stop, mut stopped) = watch::channel(false);
    let http = tokio::spawn(async move {
        server
            .run(async move {
                // Its sender lives as long as the gateway.
                drop(stopped.wait_for(|stop| *stop).await);
            })
            .await;
    });
    Ok(Running { gateway, address, key, stop, http })
}

// A process that was told to stop at this very moment has the address for some milliseconds more.
async fn bound(http: &ol_gateway::Config) -> Result<Bound, ol_gateway::Error> {
    let began = Instant::now();
    loop {
        match Bound::new(http.clone()).await {
            Err(ol_gateway::Error::Listen { .. }) if began.elapsed() < BIND_GRACE => {
                tokio::time::sleep(BIND_LOOK).await
            }
            other => return other,
        }
    }
}

/// The posted prices of a configuration.
fn prices(config: &Config) -> ol_roles::Prices {
    let usual = Price {
        prompt_per_million: MicroCredits(config.prompt_price),
        output_per_million: MicroCredits(config.output_price),
    };
    ol_roles::Prices { usual, rules: config.prices.rules() }
}

/// The database that a configuration names.
pub(crate) fn server(config: &Config) -> anyhow::Result<Option<ol_store::Server>> {
    let parse = |url: &Secret| url.reveal().parse().context("`store` can't be used");
    config.store.as_ref().map(parse).transpose()
}

// The first tenant exists from the network's birth; it and its first credits are signed like any other.
async fn fund(gateway: &Gateway, home: &Home, key: &ApiKey) -> anyhow::Result<()> {
    let network = gateway.handle.network();
    let tenant = tenant_id(network, OWNER);
    let owner = home.key("gateway-owner")?;
    let top_up = TopUp::issue(&home.key("issuer")?, network, OwnerId(owner.public()), tenant, FIRST_TOP_UP, 1);
    let entry = TenantEntry {
        network,
        owner: OwnerId(owner.public()),
        tenant,
        name: OWNER.to_owned(),
        key: Some(key.digest()),
        requests_per_minute: 0,
        tokens_per_minute: 0,
        issued_at: ol_drive::clock::now(),
        signature: Signature([0; 64]),
    };
    // In this order, as the tenant says that both are there.
    match gateway.handle.instruct(Instruction::TopUp(top_up)).await {
        Err(refusal) if refusal.kind != Kind::Superseded => return Err(refusal.into()),
        // It is there since a start that broke off.
        Ok(()) | Err(_) => {}
    }
    Ok(gateway.handle.instruct(Instruction::Tenant(entry.signed(&owner))).await?)
}

// The first record of a log that is to begin: of a new network, or of one that others began. A log that has begun needs none,
// and no keys but the gateway's.
async fn genesis(
    home: &Home,
    server: Option<&ol_store::Server>,
    epoch: Micros,
    other: &OtherNetwork,
) -> anyhow::Result<Option<Genesis>> {
    check_place(home.path(), server.is_some())?;
    let Some(server) = server else {
        let reader = SqliteReader::open(&home.path().join("gateway.db"));
        let has_begun = reader.and_then(|reader| reader.size()).is_ok_and(|size| size > 0);
        return if has_begun { Ok(None) } else { other.begin(home, epoch).await.map(Some) };
    };
    let asked = || format!("cannot ask the database at {}", server.place());
    let Some(first) = ol_store::founding(server).with_context(asked)? else {
        return other.begin(home, epoch).await.map(Some);
    };
    let own = GatewayId(home.key("gateway")?.public());
    match ol_store::gateways(server).with_context(asked)?.contains(&own) {
        true => Ok(None),
        false => home.joining(first).map(Some),
    }
}

impl OtherNetwork {
    // A log that is read over plain HTTP may be anybody's: who joins says which network is meant.
    async fn begin(&self, home: &Home, epoch: Micros) -> anyhow::Result<Genesis> {
        let (Some(log), Some(network)) = (&self.network_of, self.network) else { return home.genesis(epoch) };
        let first = log::genesis(&Source::new(log)?).await.with_context(|| format!("the log at {log}"))?;
        let found = first.network();
        anyhow::ensure!(found == network, "the log at {log} is of network {found}, not of {network}");
        home.founding(first)
    }
}

fn is_known(gateway: &Gateway, key: &ApiKey) -> anyhow::Result<bool> {
    Ok(gateway.tenants()?.iter().any(|tenant| tenant.key_hash == key.digest().0))
}

impl Running {
    /// The key of the first tenant.
    pub(crate) fn key(&self) -> anyhow::Result<&str> {
        self.key
            .as_deref()
            .context("the first tenant's key is not in this folder: copy tenant-owner.secret of the first gateway")
    }

    /// Takes no new requests, finishes what runs, and puts everything on disk.
    pub(crate) async fn drain(self) {
        self.gateway.announce_end();
        self.stop.send_replace(true);
        // A panic there is logged by the runtime; the ledger is closed all the same.
        drop(self.http.await);
        self.gateway.drain().await;
    }
}

/// Runs `openledger gateway`.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config =
        flags::load(Role::Gateway, &args.common, Some(&args.ledger), Some(&args.serving), None, Some(&args.token))?;
    logging::start(&config.log, config.log_format)?;
    let home = Home::open(&config.data_dir)?.network()?;
    runtime()?.block_on(async {
        let running = start(&config, &home, &args.other, args.in_memory).await?;
        announce(&running, config.store.is_some());
        wait_for_end(&running).await?;
        say("stopping: answering what runs, then closing the ledger");
        running.drain().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Waits for a signal; an error if the gateway stops by itself.
pub(crate) async fn wait_for_end(running: &Running) -> anyhow::Result<()> {
    tokio::select! {
        signal = wait_for_signal() => signal,
        () = running.gateway.handle.stopped() => {
            match running.gateway.handle.fault() {
                Some(fault) => anyhow::bail!("the gateway stopped: {fault}"),
                None => anyhow::bail!("the gateway stopped because of a fault of its own: please report it with what it logged"),
            }
        }
    }
}

fn announce(running: &Running, is_shared: bool) {
    say(format!("API      http://{}/v1", running.address));
    match &running.key {
        Some(key) => say(format!("API key  {key}")),
        None if is_shared => say("API keys are those of the tenants that other gateways of this database entered"),
        None => say("API keys come from `openledger tenant add`, credits from the network's issuer"),
    }
    say(format!("ticket   {}", running.gateway.ticket));
    say("join a node from any machine that reaches the ticket's address:");
    say(format!("  openledger node --join {}", running.gateway.ticket));
}

/// Waits for Ctrl-C or a service manager's SIGTERM.
pub(crate) async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}
