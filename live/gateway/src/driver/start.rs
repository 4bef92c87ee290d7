//! Starting a gateway: opens its log, goes on where it ended, listens for nodes and for HTTP.

use super::Handle;
use super::handle::Shared;
use super::hands::GatewayHands;
use super::journal::Journal;
use super::links::{Door, accept};
use super::message::{Message, News};
use super::own::{self, Prompts};
use super::questions::Questions;
use crate::keys::{ApiKeys, Tenant};
use ol_drive::clock;
use ol_finality::Solo;
use ol_net::{Limits, Traffic};
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::genesis::Genesis;
use ol_protocol::key::SecretKey;
use ol_protocol::prf::Seed;
use ol_protocol::record::Record;
use ol_protocol::ticket::Ticket;
use ol_protocol::top_up::{Funded, Slice};
use ol_protocol::{Digest, Epoch, GatewayId, MicroCredits, OwnerId, Price};
use ol_roles::Prices;
use ol_roles::gateway::Counters;
use ol_roles::gateway::codec::Origin;
use ol_roles::{Gateway as Machine, Settler};
use ol_sched::region::Usual;
use ol_store::{Committer, Identity, MemoryStore, Options, PostgresFunds, PostgresStore, Read, SqliteStore, Store};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

/// How long a draining gateway waits for answers and for its nodes' last batches.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// In the data folder, while a process that has the log is stopping.
const STOPPING: &str = "stopping";

/// How long a process waits for one that is stopping: as long as that lets its clients and its nodes have, and some seconds for the disk.
const HANDOVER_LIMIT: Duration = Duration::from_secs(75);

/// How long a process that does not stop is waited for: it may have been told to at this very moment.
const HANDOVER_GRACE: Duration = Duration::from_millis(500);

/// Time between two tries to open the log.
const HANDOVER_LOOK: Duration = Duration::from_millis(50);

/// The file of the key that payloads and facts in a shared database are sealed with.
pub const SEALED_KEY: &str = "gateway.store.key";

/// What may wait for whoever asks for the network's own tasks: more are not made.
const OWN_ASKED_MAX: usize = 16;

/// Regions in the metrics: nodes say what they like, and those with most nodes are what matters.
const REGIONS_SHOWN: usize = 32;

/// How often round trips to nodes are measured.
const PING_EVERY: Duration = Duration::from_secs(10);

/// How often a gateway looks for tenants that others on its database entered: so long a key that was taken back still works there.
const TENANTS_EVERY: Duration = Duration::from_secs(2);

/// What a gateway is started with.
pub struct Config {
    /// Folder of its key files, and of its database if it has one of its own.
    pub data_dir: PathBuf,
    /// A database that it shares with other gateways of its owner, instead of one of its own.
    pub server: Option<ol_store::Server>,
    /// Keep the log in memory, to measure what keeping it on a disk costs.
    pub in_memory: bool,
    /// Its key.
    pub key: SecretKey,
    /// Its secret for draws, nonces, salts and orders.
    pub master: [u8; 32],
    /// The first record of a new log; one that has begun needs none.
    pub genesis: Option<Genesis>,
    /// Where nodes connect.
    pub node_listen: SocketAddr,
    /// What newcomers must say, if anything.
    pub join_token: Option<String>,
    /// The posted prices.
    pub prices: Prices,
    /// Digest of the key with which its operator asks.
    pub operator: Digest,
    /// Requests in a minute of a tenant that has no limit of its own.
    pub requests_per_minute: u32,
    /// Tokens in a minute of a tenant that has no limit of its own.
    pub tokens_per_minute: u32,
    /// Where to record events, if anywhere.
    pub event_log: Option<PathBuf>,
    /// Limit of the database in pages, of 16 KiB in a new one, for tests of a full disk.
    pub page_count_max: Option<u32>,
}

/// Why a gateway can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its database.
    #[error("the gateway's log")]
    Store(#[from] ol_store::Error),
    /// The log doesn't settle.
    #[error("the log can't be followed")]
    Log(#[source] ol_roles::settler::Fault),
    /// The log has not begun, and was expected to have.
    #[error("the log is empty")]
    NoGenesis,
    /// The database has another network, or gateways of another owner.
    #[error(
        "{place} is of network {found}, whose gateways are of owner {owner}: this gateway's folder has other keys; copy gateway-owner.key of the first gateway, or use another database"
    )]
    OtherOwner {
        /// The database.
        place: String,
        /// Its network.
        found: ol_protocol::NetworkId,
        /// Its gateways' owner.
        owner: OwnerId,
    },
    /// The folder's gateway has its log in a database server, and none is named.
    #[error(
        "the ledger of the gateway in {folder} is in a PostgreSQL database: name it with --store. A second one would be a fork; to begin anew, use another folder"
    )]
    InServer {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder's gateway has its log in a file, and a database server is named.
    #[error(
        "the ledger of this folder's gateway is in {path}: begin without --store. A second one would be a fork; to begin anew, use another folder"
    )]
    InFile {
        /// The file.
        path: PathBuf,
    },
    /// The port for nodes.
    #[error("cannot listen for nodes")]
    Net(#[from] ol_net::Error),
    /// A thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The file of the network's own prompts.
    #[error("the network's own prompts")]
    Prompts(#[from] own::Error),
    /// The event log.
    #[error("cannot record events")]
    EventLog(#[from] ol_drive::log::Error),
    /// The system's randomness.
    #[error("the system gives no randomness")]
    Random,
    /// The last checkpoint doesn't hold.
    #[error("the last checkpoint in {place} is not this gateway's")]
    Checkpoint {
        /// Where it is.
        place: String,
        /// What is wrong.
        #[source]
        cause: ol_protocol::checkpoint::Error,
    },
}

/// A running gateway.
pub struct Gateway {
    /// For HTTP and commands.
    pub handle: Handle,
    /// What nodes join with.
    pub ticket: Ticket,
    committer: Committer,
    news: broadcast::Sender<News>,
    tasks: JoinSet<()>,
    machine: Option<tokio::task::JoinHandle<()>>,
    stopping: PathBuf,
}

/// In a minute, of a tenant that has no limits of its own.
#[derive(Clone, Copy)]
pub(super) struct RateLimits {
    requests: u32,
    tokens: u32,
}

/// Starts a gateway on the current runtime.
pub async fn start(config: Config) -> Result<Gateway, Error> {
    let gateway = GatewayId(config.key.public());
    let prompts = Prompts::open(&config.data_dir)?;
    let stopping = config.data_dir.join(STOPPING);
    let (place, mut store) = open_after_another(&config, &stopping, Identity { network: None, gateway }).await?;
    if store.read().size()? == 0 {
        let genesis = config.genesis.clone().ok_or(Error::NoGenesis)?;
        store.append(&[Record::Genesis(genesis)])?;
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|_| Error::Random)?;
    let (snapshot, records) = log_since_snapshot(store.read())?;
    let origin = Origin {
        now: clock::now(),
        gateway,
        master: config.master,
        seed: Seed(seed),
        snapshot,
        records,
        next_batch: store.read().next_sequences()?.into_iter().collect(),
        limits: ol_sched::Limits::default(),
    };
    let event_log = match &config.event_log {
        Some(path) => Some(ol_drive::log::Writer::create(path, &origin.to_bytes())?),
        None => None,
    };
    let now = origin.now;
    let setup = origin.setup().map_err(Error::Log)?;
    let genesis = setup.settler.genesis().clone();
    let network = genesis.network();
    let last = store.read().latest_checkpoint()?;
    let last = last.map(|note| Checkpoint::open(&note.text, network, gateway.0)).transpose();
    let last = last.map_err(|cause| Error::Checkpoint { place, cause })?;
    let rates = RateLimits { requests: config.requests_per_minute, tokens: config.tokens_per_minute };
    let keys = tenants(store.read(), rates)?;
    let mut funds = config.server.as_ref().map(|server| PostgresFunds::open(server, gateway)).transpose()?;
    let (reader, questions) = (store.reader()?, Questions::new(store.reader()?));
    let epoch = setup.settler.epoch();
    let parameters = *setup.settler.ledger().parameters_from(Epoch(u64::MAX));
    let unbooked = unbooked(funds.as_mut(), &setup.settler)?;
    let machine = Machine::new(now, setup);
    let committer = Committer::start(store).map_err(Error::Thread)?;
    let server = ol_net::Server::bind(config.node_listen, &config.key, Limits::default()).await?;
    let shared_database = funds.is_some();
    let ticket = Ticket { address: server.address().to_string(), gateway, network };
    let shared = Arc::new(Shared {
        network,
        genesis: genesis.clone(),
        gateway,
        master: config.master,
        prices: config.prices,
        operator: config.operator,
        variants: RwLock::new(BTreeMap::new()),
        keys: RwLock::new(keys),
        entered: AtomicU64::new(0),
        rates,
        reader: Mutex::new(reader),
        questions,
        committer: committer.handle(),
        funds: funds.map(Mutex::new),
        epoch: AtomicU64::new(epoch.0),
        counter: AtomicU64::new(clock::now().0),
        parameters: Mutex::new(parameters),
        metrics: Mutex::new(String::new()),
        traffic: server.traffic(),
        workers: AtomicU64::new(0),
        has_referee: AtomicBool::new(false),
        fault: Mutex::new(None),
        committing_since: Mutex::new(None),
        draining: AtomicBool::new(false),
        started_at: clock::now().0 / 1_000_000,
        began: Instant::now(),
    });
    let (inbox, messages) = mpsc::channel(ol_drive::INBOX_MAX);
    let (answers, answered) = mpsc::unbounded_channel();
    let (news, _) = broadcast::channel(1_024);
    let finality = Box::new(Solo::new(config.key.clone(), last));
    let journal = Journal::new(shared.clone(), config.key.public(), committer.handle(), finality, answers);
    let (asker, asked) = mpsc::channel(OWN_ASKED_MAX);
    let hands = GatewayHands::new(shared.clone(), config.key, journal, news.clone(), asker, event_log);
    let mut tasks = JoinSet::new();
    let door = Door { network, referee: genesis.referee, join_token: config.join_token };
    tasks.spawn(accept(server, Arc::new(door), inbox.clone()));
    tasks.spawn(forward(answered, inbox.clone()));
    tasks.spawn(ping(inbox.clone()));
    if shared_database {
        tasks.spawn(learn_tenants(Arc::clone(&shared)));
    }
    let machine = Some(tokio::spawn(async move {
        ol_drive::run(machine, hands, messages).await.end_event_log();
    }));
    for slice in unbooked {
        // The loop has just begun.
        drop(inbox.send(Message::Claimed { tenant: slice.top_up.tenant, result: Ok(Some(slice)) }).await);
    }
    let handle = Handle { shared, inbox };
    tasks.spawn(own::ask(handle.clone(), prompts, asked));
    Ok(Gateway { handle, ticket, committer, news, tasks, machine, stopping })
}

impl Gateway {
    /// News from now on.
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// The tenants.
    pub fn tenants(&self) -> Result<Vec<ol_store::Tenant>, Error> {
        Ok(self.handle.read(|read| read.tenants())?)
    }

    /// What the ledger says a tenant has, as of the last close, in micro-credits.
    pub fn settler(&self) -> Result<Settler, Error> {
        self.handle.read(settle)
    }

    /// Has a process that is started with the same folder from now on wait for the end of this one.
    pub fn announce_end(&self) {
        if let Err(error) = std::fs::write(&self.stopping, "") {
            tracing::warn!(%error, "a process that is started before this one has ended will not wait for it");
        }
    }

    /// Takes nothing new, answers what runs, puts everything on disk, and ends; at most 30 s.
    pub async fn drain(mut self) {
        self.handle.tell(Message::Drain).await;
        if let Some(machine) = self.machine.take() {
            let abort = machine.abort_handle();
            if tokio::time::timeout(DRAIN_LIMIT, machine).await.is_err() {
                tracing::warn!("not everything was answered in time");
                abort.abort();
            }
        }
        self.tasks.shutdown().await;
        let committer = self.committer;
        // It has already written what it was given: its end is waited for so that the file is closed.
        drop(tokio::task::spawn_blocking(move || committer.stop()).await);
    }
}

// What others found out for the loop; ends with it.
async fn forward(mut answers: mpsc::UnboundedReceiver<Message>, inbox: mpsc::Sender<Message>) {
    while let Some(message) = answers.recv().await {
        if inbox.send(message).await.is_err() {
            break;
        }
    }
}

async fn ping(inbox: mpsc::Sender<Message>) {
    let mut every = tokio::time::interval(PING_EVERY);
    loop {
        every.tick().await;
        if inbox.send(Message::Ping).await.is_err() {
            break;
        }
    }
}

/// Refuses to begin a second log for the gateway of a folder: one in a file beside that on a database server, or the other
/// way round.
pub fn check_place(folder: &Path, on_server: bool) -> Result<(), Error> {
    let path = folder.join("gateway.db");
    match on_server {
        true if path.exists() => Err(Error::InFile { path }),
        false if folder.join(SEALED_KEY).exists() => Err(Error::InServer { folder: folder.into() }),
        true | false => Ok(()),
    }
}

// The store, and what it is called.
fn open(config: &Config, identity: Identity) -> Result<(String, Box<dyn Store>), Error> {
    if config.in_memory {
        return Ok(("memory".into(), Box::new(MemoryStore::default())));
    }
    check_place(&config.data_dir, config.server.is_some())?;
    let (path, key) = (config.data_dir.join("gateway.db"), config.data_dir.join(SEALED_KEY));
    let Some(server) = &config.server else {
        let options = Options { page_count_max: config.page_count_max };
        return Ok((path.display().to_string(), Box::new(SqliteStore::open(&path, identity, options)?)));
    };
    let place = server.place().to_string();
    if let Some(first) = ol_store::founding(server)? {
        let (found, owner) = (first.network(), first.owner);
        if config.genesis.as_ref().is_some_and(|genesis| (found, owner) != (genesis.network(), genesis.owner)) {
            return Err(Error::OtherOwner { place, found, owner });
        }
    }
    Ok((place, Box::new(PostgresStore::open(server, &key, identity)?)))
}

// The log, once a process that is stopping has let go of it.
async fn open_after_another(
    config: &Config,
    stopping: &Path,
    identity: Identity,
) -> Result<(String, Box<dyn Store>), Error> {
    let (began, mut is_told) = (Instant::now(), false);
    loop {
        match open(config, identity) {
            Err(Error::Store(ol_store::Error::Locked { .. } | ol_store::Error::Running { .. }))
                if began.elapsed() < if stopping.exists() { HANDOVER_LIMIT } else { HANDOVER_GRACE } =>
            {
                if stopping.exists() && !std::mem::replace(&mut is_told, true) {
                    tracing::info!("another process answers what it has begun: waiting until it lets go of the log");
                }
                tokio::time::sleep(HANDOVER_LOOK).await;
            }
            Ok(opened) => {
                if let Err(error) = std::fs::remove_file(stopping)
                    && error.kind() != ErrorKind::NotFound
                {
                    tracing::warn!(%error, path = %stopping.display(), "a file that says that this process is stopping can't be removed");
                }
                return Ok(opened);
            }
            Err(error) => return Err(error),
        }
    }
}

// Parts of top-ups that were taken before the start and didn't come to the log. Claims of a tenant come one after the other, so
// it is the last one at most.
fn unbooked(funds: Option<&mut PostgresFunds>, settler: &Settler) -> Result<Vec<Slice>, Error> {
    let Some(funds) = funds else { return Ok(Vec::new()) };
    let mut parts = funds.last_parts()?;
    parts.retain(|part| {
        let begins = Funded { serial: part.top_up.serial, end: part.from };
        settler.ledger().funded(&part.top_up.tenant).is_none_or(|booked| booked <= begins)
    });
    Ok(parts)
}

// Tenants that other gateways entered.
async fn learn_tenants(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(TENANTS_EVERY);
    loop {
        every.tick().await;
        let (rates, entered) = (shared.rates, shared.entered.load(Ordering::SeqCst));
        match shared.questions.ask(move |read| tenants(read, rates)).await {
            Some(Ok(found)) => {
                let mut keys = shared.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner);
                // What was entered here meanwhile may not be among them: next time.
                if shared.entered.load(Ordering::SeqCst) == entered {
                    *keys = found;
                }
            }
            Some(Err(error)) => tracing::warn!(%error, "cannot ask for the tenants; those known so far stay"),
            None => return,
        }
    }
}

/// Follows a log from its last snapshot, or from its beginning.
pub fn settle(read: &dyn Read) -> Result<Settler, Error> {
    let (snapshot, records) = log_since_snapshot(read)?;
    Settler::from_log(snapshot.as_deref(), records).map_err(Error::Log)
}

fn log_since_snapshot(read: &dyn Read) -> Result<(Option<Vec<u8>>, Vec<Record>), Error> {
    let snapshot = read.latest_snapshot()?;
    let from = snapshot.as_ref().map_or(0, |snapshot| snapshot.size);
    let records = ol_store::records(read, from..read.size()?)
        .map(|record| record.map(|(_, record)| record))
        .collect::<Result<_, _>>()?;
    Ok((snapshot.map(|snapshot| snapshot.bytes), records))
}

fn tenants(read: &dyn Read, defaults: RateLimits) -> Result<ApiKeys, Error> {
    let mut keys = ApiKeys::new();
    for row in read.tenants()? {
        keys.insert(Digest(row.key_hash), known(&row, defaults));
    }
    Ok(keys)
}

/// A tenant as HTTP needs it.
pub(super) fn known(row: &ol_store::Tenant, defaults: RateLimits) -> Tenant {
    Tenant {
        id: row.tenant,
        name: row.name.clone(),
        requests_per_minute: row.requests_per_minute.unwrap_or(defaults.requests),
        tokens_per_minute: row.tokens_per_minute.unwrap_or(defaults.tokens),
    }
}

/// What the machine counted, as Prometheus text.
pub(super) fn metrics(machine: &Machine, links: usize, traffic: &Traffic) -> String {
    let Counters {
        assigned,
        finished,
        refused,
        failed_over,
        raced,
        borne,
        moved,
        client_gone,
        late,
        wrong_counts,
        misbehaved,
        receipts,
        unsigned,
        own,
        audits_drawn,
        audits_passed,
        audits_failed,
        escalated,
        void_verdicts,
        false_verdicts,
        panels,
        panels_undecided,
        unauditable,
        slashed,
        void_evidence,
        denied,
        promised,
        broken,
    } = *machine.counters();
    let counters = [
        ("attempts_assigned", "Attempts sent to nodes.", assigned),
        ("tasks_finished", "Tasks that ended well.", finished),
        ("tasks_refused", "Tasks refused or given up.", refused),
        ("tasks_own", "Tasks of the network's own that were asked for.", own),
        ("attempts_failed_over", "Attempts taken from a node and given to another.", failed_over),
        ("attempts_raced", "Attempts begun beside another that was late.", raced),
        ("attempts_borne", "Of those that lost, how many the gateway is to pay for what they had read.", borne),
        ("attempts_moved", "Attempts taken from a slow node, to go on with a faster one.", moved),
        ("tasks_client_gone", "Tasks whose client went away.", client_gone),
        ("frames_late", "Answers and verdicts that came too late.", late),
        ("frames_wrong", "Counts or commitments that are not what was relayed.", wrong_counts),
        ("links_misbehaved", "Links closed because a node broke the protocol.", misbehaved),
        ("receipts_logged", "Receipts put in the log.", receipts),
        ("tasks_unsigned", "Tasks whose node never signed.", unsigned),
        ("audits_drawn", "Audits drawn.", audits_drawn),
        ("audits_passed", "Audits passed.", audits_passed),
        ("audits_failed", "Audits failed, confirmed by the referee or a panel.", audits_failed),
        ("audits_escalated", "Failures and doubts that went to the referee or a panel.", escalated),
        ("verdicts_void", "Verdicts over other content than was sent.", void_verdicts),
        (
            "verdicts_false",
            "Verdicts that the referee contradicted: their auditors are not asked for a day.",
            false_verdicts,
        ),
        ("panels", "Panels of three auditors that sealed their verdicts, as no referee was there.", panels),
        ("panels_undecided", "Panels of which no two agreed.", panels_undecided),
        ("audits_unauditable", "Audits whose payload was lost here.", unauditable),
        ("nodes_slashed", "Refuted answers that were published: each took its node's escrow.", slashed),
        ("evidence_void", "Contents of refuted answers that open nothing.", void_evidence),
        ("orders_denied", "Top-ups and changes of parameters that the ledger refused.", denied),
        ("promises", "Tasks that were admitted at a tier.", promised),
        ("promises_broken", "Of those, how many missed their deadlines.", broken),
    ];
    let (sent, received) = (traffic.sent(), traffic.received());
    let carried = [
        ("link_frames_sent", "Messages to nodes.", sent.frames),
        ("link_frames_received", "Messages from nodes.", received.frames),
        ("link_bytes_sent", "Bytes of HTTP/2 to nodes, before TLS.", sent.bytes),
        ("link_bytes_received", "Bytes of HTTP/2 from nodes, before TLS.", received.bytes),
    ];
    let epoch = machine.settler().epoch();
    let mut text = String::with_capacity(4_096);
    for (name, help, value) in counters.into_iter().chain(carried) {
        metric(&mut text, &format!("{name}_total"), "counter", help, value);
    }
    for (name, help, value) in gauges(machine, links) {
        metric(&mut text, name, "gauge", help, value as u64);
    }
    metric(&mut text, "epoch", "gauge", "The open epoch.", epoch.0);
    regions(&mut text, machine);
    text
}

// The latency map.
fn regions(text: &mut String, machine: &Machine) {
    let mut all: Vec<_> = machine.regions().map().collect();
    all.sort_by_key(|(region, usual)| (std::cmp::Reverse(usual.node_count), *region));
    all.truncate(REGIONS_SHOWN);
    let mut labelled = |name: &str, help: &str, value: &dyn Fn(&Usual) -> Option<f64>| {
        text.push_str(&format!("# HELP openledger_{name} {help}\n# TYPE openledger_{name} gauge\n"));
        for (region, usual) in &all {
            if let Some(value) = value(usual) {
                text.push_str(&format!("openledger_{name}{{region=\"{region}\"}} {value}\n"));
            }
        }
    };
    labelled("region_nodes", "Nodes that say that they stand there.", &|usual| Some(usual.node_count as f64));
    labelled("region_round_trip_seconds", "Usual round trip of nodes there that have done work.", &|usual| {
        usual.round_trip.map(|took| took.0 as f64 / 1e6)
    });
}

fn gauges(machine: &Machine, links: usize) -> [(&'static str, &'static str, usize); 7] {
    [
        ("nodes_connected", "Links to nodes, the referee's included.", links),
        ("nodes_ready", "Nodes that have room for a task.", machine.ready()),
        ("slots", "Slots that nodes granted, free or with a task.", machine.slots() as usize),
        ("tasks_active", "Tasks that wait or run, or whose answers wait for their audits.", machine.active()),
        ("tasks_queued", "Tasks that wait for a node.", machine.queued()),
        ("audits_open", "Audits that are not final.", machine.auditing()),
        (
            "tokens_unsettled",
            "Output tokens that are delivered and in no receipt yet.",
            machine.unsettled_tokens() as usize,
        ),
    ]
}

fn metric(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    text.push_str(&format!(
        "# HELP openledger_{name} {help}\n# TYPE openledger_{name} {kind}\nopenledger_{name} {value}\n"
    ));
}

/// The part of a price list that people read: micro-credits for one token.
pub fn describe(price: &Price) -> String {
    let per_token = |amount: MicroCredits| format!("{}.{:02}", amount.0 / 1_000_000, amount.0 % 1_000_000 / 10_000);
    format!(
        "{} micro-credits a prompt token, {} an output token",
        per_token(price.prompt_per_million),
        per_token(price.output_per_million)
    )
}

/// The epoch that is open in a log.
pub fn open_epoch(settler: &Settler) -> Epoch {
    settler.epoch()
}
