//! `openledger gateway`, and the gateway part of `up`.

use crate::config::{Config, Role};
use crate::home::{Home, tenant_id};
use crate::logging::say;
use crate::{flags, logging};
use anyhow::Context as _;
use ol_gateway::driver::{self, Gateway};
use ol_gateway::{PlainHttp, Server};
use ol_protocol::top_up::TopUp;
use ol_protocol::{MicroCredits, Micros, Price};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::watch;

/// What a new tenant of one's own network starts with: 100 credits.
const FIRST_TOP_UP: MicroCredits = MicroCredits(100_000_000);

/// The tenant that belongs to whoever runs the network.
const OWNER: &str = "owner";

/// Start of the names of all threads that coordinate.
pub(crate) const THREADS: &str = "ol-gateway";

/// Threads of the gateway's runtime: the machine's loop, and connections beside it.
const WORKERS: usize = 2;

/// Start a gateway; it prints the ticket that nodes join with.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: flags::Common,
    #[command(flatten)]
    serving: flags::Serving,
    #[command(flatten)]
    token: flags::Token,
}

/// A running gateway with its HTTP side.
pub(crate) struct Running {
    /// The gateway.
    pub(crate) gateway: Gateway,
    /// Where HTTP listens.
    pub(crate) address: SocketAddr,
    /// The owner's key.
    pub(crate) key: String,
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
pub(crate) async fn start(config: &Config, home: &Home) -> anyhow::Result<Running> {
    let epoch = Micros::from_secs(u64::from(config.epoch_seconds.get()));
    let gateway = driver::start(driver::Config {
        data_dir: home.path().to_path_buf(),
        key: home.key("gateway")?,
        master: home.secret("gateway")?,
        genesis: home.genesis(epoch)?,
        node_listen: config.node_listen,
        join_token: config.join_token.as_ref().map(|token| token.reveal().to_owned()),
        price: price(config),
        requests_per_minute: config.requests_per_minute.get(),
        tokens_per_minute: config.tokens_per_minute.get(),
        event_log: config.event_log.clone(),
        page_count_max: None,
    })
    .await
    .context("cannot start the gateway")?;
    let key = home.api_key(OWNER)?.expose().to_owned();
    fund(&gateway, home, &key).await?;
    let mut http = ol_gateway::Config::at(config.listen);
    if !config.listen.ip().is_loopback() {
        http.plain_http = PlainHttp::Everywhere;
    }
    let server = Server::bind(http, Arc::new(gateway.handle.clone())).await?;
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

/// The posted price of a configuration.
pub(crate) const fn price(config: &Config) -> Price {
    Price {
        prompt_per_million: MicroCredits(config.prompt_price),
        output_per_million: MicroCredits(config.output_price),
    }
}

// The owner's account exists from the network's birth; its first credits are an order of the issuer like any other.
async fn fund(gateway: &Gateway, home: &Home, key: &str) -> anyhow::Result<()> {
    let network = gateway.handle.network();
    let tenant = tenant_id(network, OWNER);
    gateway.add_tenant(tenant, OWNER, key).await?;
    let settler = gateway.settler()?;
    if settler.ledger().funded(&tenant).is_none() {
        let issuer = home.key("issuer")?;
        let owner = settler.genesis().owner;
        gateway.top_up(TopUp::issue(&issuer, network, owner, tenant, FIRST_TOP_UP, 1)).await;
    }
    Ok(())
}

impl Running {
    /// Takes no new requests, finishes what runs, and puts everything on disk.
    pub(crate) async fn drain(self) {
        self.stop.send_replace(true);
        // A panic there is logged by the runtime; the ledger is closed all the same.
        drop(self.http.await);
        self.gateway.drain().await;
    }
}

/// Runs `openledger gateway`.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = flags::load(Role::Gateway, &args.common, Some(&args.serving), None, Some(&args.token))?;
    logging::start(&config.log, config.log_format)?;
    let home = Home::open(&config.data_dir)?.network()?;
    runtime()?.block_on(async {
        let running = start(&config, &home).await?;
        announce(&running);
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
            anyhow::bail!("the gateway stopped because of a fault of its own: please report it with what it logged")
        }
    }
}

fn announce(running: &Running) {
    say(format!("API      http://{}/v1", running.address));
    say(format!("API key  {}", running.key));
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
