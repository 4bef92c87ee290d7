//! `openledger bench ledger`: what the ledger costs for each receipt, stage by stage, on one thread.

use super::{latency, machine, progress};
use crate::cpu;
use crate::logging::say;
use anyhow::Context as _;
use ol_gateway::driver::start::settle;
use ol_protocol::batch::{BATCH_MAX, BatchHeader, CountersignedBatch, SignedBatch};
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::merkle;
use ol_protocol::parameters::{AuditRule, Parameters};
use ol_protocol::receipt::{Charge, Receipt};
use ol_protocol::record::{Close, Record};
use ol_protocol::top_up::{Slice, TopUp};
use ol_protocol::{
    Digest, Epoch, GatewayId, IssuerId, MicroCredits, Micros, NodeId, OperatorId, OwnerId, Price, TaskId, TenantId,
    Timestamp, TokenCount, VariantId,
};
use ol_roles::Settler;
use ol_roles::settler::Reveal;
use ol_store::{
    Identity, Job, MemoryStore, Note, Options, PostgresStore, Server, Snapshot, SqliteStore, Store, records,
};
use ol_trust::draw;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// Length of an epoch, in seconds.
const EPOCH_SECONDS: u64 = 600;

/// Nodes whose batches take turns.
const NODES: u8 = 8;

/// Batches that one transaction takes: some that came while the last one was written.
const GROUP: usize = 8;

/// What each receipt is charged.
const TOKENS: u32 = 100;

/// Measure the ledger: batches checked, charged, logged and settled, without nodes and without audits.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Receipts.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    receipts: u64,
    /// Epochs to spread them over.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    epochs: u64,
    /// Requests to each of two gateways, one with a ledger on the disk and one without, by turns.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pairs: u32,
    /// Beside SQLite in a PostgreSQL database: postgres://USER:PASSWORD@HOST:PORT/NAME. It gets a log of its own there.
    #[arg(long, value_name = "URL")]
    store: Option<Server>,
}

// CPU time of each stage, in microseconds.
#[derive(Default)]
struct Spent {
    verify: u64,
    charge: u64,
    draw: u64,
    store: u64,
    store_wall: u64,
    settle: u64,
    snapshot: u64,
    prune: u64,
}

fn timed<T>(sum: &mut u64, work: impl FnOnce() -> T) -> T {
    let before = cpu::of_this_thread();
    let done = work();
    *sum += cpu::of_this_thread().saturating_sub(before);
    done
}

struct World {
    genesis: Genesis,
    gateway: SecretKey,
    nodes: Vec<SecretKey>,
    made: u64,
    batches: u64,
}

impl World {
    // Its gateway is a new one: a database may hold the log of an earlier run.
    fn new(receipts: u64) -> anyhow::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|_| anyhow::anyhow!("the system gives no randomness"))?;
        let (gateway, owner) = (SecretKey::from_bytes(&secret), SecretKey::from_bytes(&[3; 32]));
        let audit = AuditRule { newcomer_tasks: 0, rate_ppm: 0, ..AuditRule::DEFAULT };
        let genesis = Genesis {
            issuer: IssuerId(SecretKey::from_bytes(&[2; 32]).public()),
            referee: NodeId([3; 32]),
            referee_operator: OperatorId([3; 32]),
            born_at: Timestamp(receipts),
            epoch: Micros::from_secs(EPOCH_SECONDS),
            parameters: Parameters { audit, ..Parameters::DEFAULT },
            gateway: GatewayId(gateway.public()),
            owner: OwnerId([0; 32]),
            signature: Signature([0; 64]),
        }
        .of(GatewayId(gateway.public()), &owner);
        let nodes = (0..NODES).map(|n| SecretKey::from_bytes(&[100 + n; 32])).collect();
        Ok(Self { genesis, gateway, nodes, made: 0, batches: 0 })
    }

    fn commitment(&self, node: &SecretKey, epoch: Epoch, number: u64) -> Commitment {
        let mut task = [0; 16];
        task[..8].copy_from_slice(&number.to_be_bytes());
        Commitment {
            network: self.genesis.network(),
            gateway: self.genesis.gateway,
            node: NodeId(node.public()),
            operator: OperatorId(node.public()),
            task: TaskId(task),
            attempt: 0,
            epoch,
            variant: VariantId([4; 32]),
            sampler_version: 1,
            prompt: Digest([5; 32]),
            seed: Digest([6; 32]),
            output: Digest([7; 32]),
            log_probs: Digest([8; 32]),
            finish: Finish::Length,
            prompt_tokens: TokenCount(TOKENS),
            output_tokens: TokenCount(TOKENS),
            resumed_from: TokenCount(0),
            first_token: Micros(1),
            total: Micros(2),
        }
    }

    // A batch as its node sends it.
    fn batch(&mut self, epoch: Epoch, count: u64) -> Vec<u8> {
        let turn = self.batches;
        let node = &self.nodes[(turn % u64::from(NODES)) as usize];
        let numbers = self.made..self.made + count;
        let commitments: Vec<Commitment> = numbers.map(|number| self.commitment(node, epoch, number)).collect();
        let header = BatchHeader {
            network: self.genesis.network(),
            gateway: self.genesis.gateway,
            node: NodeId(node.public()),
            operator: OperatorId(node.public()),
            sequence: turn / u64::from(NODES),
            epoch,
            count: 0,
            root: Digest([0; 32]),
        };
        let bytes = SignedBatch::sign(node, header, commitments).to_bytes();
        self.made += count;
        self.batches += 1;
        bytes
    }

    fn receipt(commitment: Commitment) -> Receipt {
        let price = Price { prompt_per_million: MicroCredits(2_000_000), output_per_million: MicroCredits(8_000_000) };
        let tokens = TokenCount(TOKENS);
        let amount = price.charge(tokens, tokens).unwrap_or_default();
        let (request, response) = (Digest([9; 32]), Digest([10; 32]));
        let tenant = TenantId([11; 16]);
        let charge = Charge {
            tenant,
            request,
            response,
            prompt_tokens: tokens,
            output_tokens: tokens,
            price,
            amount,
            public: false,
            with_audit: false,
            region: None,
        };
        Receipt { commitment, charge }
    }
}

fn reveal(epoch: Epoch) -> Reveal {
    let secret = |epoch| draw::secret(&[12; 32], epoch);
    let next = draw::seal(&secret(epoch.next()));
    let (draw_secret, nonce_secret) = (secret(epoch), secret(epoch));
    Reveal { draw_secret, nonce_secret, next_draw_seal: next, next_nonce_seal: next }
}

// Where the log is.
enum Place {
    File(PathBuf),
    Server { server: Server, key: PathBuf },
}

impl Place {
    fn open(&self, identity: Identity) -> anyhow::Result<Box<dyn Store>> {
        Ok(match self {
            Self::File(path) => Box::new(SqliteStore::open(path, identity, Options::default())?),
            Self::Server { server, key } => Box::new(PostgresStore::open(server, key, identity)?),
        })
    }
}

struct Run {
    world: World,
    settler: Settler,
    store: Box<dyn Store>,
    waiting: Vec<Arc<Job>>,
    spent: Spent,
    pruned_epoch: Epoch,
    last_epoch: Epoch,
    base: Option<Snapshot>,
}

impl Run {
    fn batch(&mut self, count: u64) -> anyhow::Result<()> {
        let epoch = self.settler.epoch();
        let bytes = self.world.batch(epoch, count);
        let batch =
            timed(&mut self.spent.verify, || SignedBatch::from_bytes(&bytes)?.verify().map_err(anyhow::Error::from))?;
        let gateway = &self.world.gateway;
        let (batch, receipts) = timed(&mut self.spent.charge, || {
            let SignedBatch { header, commitments, signature } = batch.into_batch();
            let receipts: Vec<Receipt> = commitments.into_iter().map(World::receipt).collect();
            let leaves: Vec<Digest> = receipts.iter().map(|r| merkle::leaf_hash(&r.to_bytes())).collect();
            (CountersignedBatch::sign(gateway, header, signature, merkle::root(&leaves)), receipts)
        });
        let settler = &mut self.settler;
        let drawn = timed(&mut self.spent.draw, || {
            settler.batch(batch.header.root, &receipts);
            settler.drawn(&reveal(epoch).draw_secret, &receipts).len()
        });
        anyhow::ensure!(drawn == 0, "nothing is drawn here");
        let records = receipts.into_iter().map(Record::Receipt).chain([Record::Batch(batch)]).collect();
        self.waiting.push(Arc::new(Job { records, ..Job::default() }));
        if self.waiting.len() == GROUP { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        let (jobs, store) = (std::mem::take(&mut self.waiting), &mut self.store);
        let began = Instant::now();
        let results = timed(&mut self.spent.store, || store.commit(&jobs));
        self.spent.store_wall += began.elapsed().as_micros() as u64;
        for result in results {
            result?;
        }
        Ok(())
    }

    fn close(&mut self) -> anyhow::Result<u64> {
        let epoch = self.settler.epoch();
        let at = Timestamp((epoch.0 + 1) * EPOCH_SECONDS * 1_000_000);
        let settler = &mut self.settler;
        let (summary, state) = timed(&mut self.spent.settle, || {
            let summary = settler.close(at, &reveal(epoch))?;
            anyhow::Ok((summary, settler.digest()))
        })?;
        let bytes = timed(&mut self.spent.snapshot, || settler.to_bytes());
        let Reveal { draw_secret, nonce_secret, next_draw_seal, next_nonce_seal } = reveal(epoch);
        let close = Close { epoch, at, draw_secret, nonce_secret, next_draw_seal, next_nonce_seal, state };
        self.waiting.push(Arc::new(Job { records: vec![Record::Close(close)], ..Job::default() }));
        self.commit()?;
        self.finish(epoch, state, next_draw_seal, bytes)?;
        Ok(summary.settled)
    }

    // The checkpoint of the epoch that is pruned in the end, and the snapshots that the store has then.
    fn finish(&mut self, epoch: Epoch, state: Digest, seal: Digest, snapshot: Vec<u8>) -> anyhow::Result<()> {
        let size = self.store.read().size()?;
        let root = self.store.read().root(size)?.context("a log has a root")?;
        let (network, gateway) = (self.world.genesis.network(), self.world.genesis.gateway.0);
        let checkpoint = Checkpoint { network, gateway, size, root, epoch, state, draw_seal: seal, nonce_seal: seal };
        let checkpoint = Some(Note { epoch, size, text: checkpoint.sign(&self.world.gateway) });
        // But for the last, to start from, without the accounts: they are no part of what a receipt takes in the log.
        let bytes = if epoch == self.last_epoch { snapshot.clone() } else { Vec::new() };
        if epoch == self.pruned_epoch {
            self.base = Some(Snapshot { epoch, size, bytes: snapshot });
        }
        let snapshot = Some(Snapshot { epoch, size, bytes });
        self.store.commit_one(Job { checkpoint, snapshot, ..Job::default() })?;
        Ok(())
    }

    // Bytes of the log that were in use before and after the epochs are pruned that nothing needs any more.
    fn prune(&mut self, path: &Path) -> anyhow::Result<Option<(u64, u64)>> {
        let Some(base) = self.base.take() else { return Ok(None) };
        let used = || ol_store::space(path).map(|space| space.bytes - space.free_bytes);
        let before = used()?;
        let deleted = timed(&mut self.spent.prune, || ol_store::prune(path, &base, |_| ()))?;
        Ok(Some((deleted.receipts, before.saturating_sub(used()?))))
    }
}

/// Runs `openledger bench ledger`. Fails if a receipt is not settled, or the log does not fold to the same state.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("openledger-bench-").tempdir().context("no temporary folder")?;
    let file = Place::File(folder.path().join("gateway.db"));
    let mut record = measure(args, &file)?;
    if let Some(server) = &args.store {
        let server = Place::Server { server: server.clone(), key: folder.path().join("key") };
        record = json!({ "sqlite": record, "postgres": measure(args, &server)? });
    }
    let record = merged(machine::stamp(record), latency::added(folder.path(), args.pairs)?);
    match args.json {
        true => say(record.to_string()),
        false => say(serde_json::to_string_pretty(&record)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &Args, place: &Place) -> anyhow::Result<Value> {
    let world = World::new(args.receipts)?;
    let genesis = world.genesis.clone();
    let identity = Identity { network: Some(genesis.network()), gateway: genesis.gateway };
    let mut store = place.open(identity)?;
    let issuer = SecretKey::from_bytes(&[2; 32]);
    let (to, amount) = (TenantId([11; 16]), MicroCredits(u64::MAX / 2));
    let top_up = Slice::whole(TopUp::issue(&issuer, genesis.network(), genesis.owner, to, amount, 1));
    store.append(&[Record::Genesis(genesis.clone()), Record::TopUp(top_up.clone())])?;
    let mut settler = Settler::new(genesis)?;
    settler.top_up(&top_up)?;
    // Late findings need the last ones.
    let pruned_epoch = Epoch(args.epochs.saturating_sub(settler.ledger().kept_epochs()).saturating_sub(1));
    let (spent, waiting) = (Spent::default(), Vec::new());
    let last_epoch = Epoch(args.epochs - 1);
    let mut run = Run { world, settler, store, waiting, spent, pruned_epoch, last_epoch, base: None };
    let bar = progress::bar(args.receipts);
    bar.set_message("receipts");
    let mut settled = 0;
    for epoch in 0..args.epochs {
        let upto = args.receipts * (epoch + 1) / args.epochs;
        while run.world.made < upto {
            let count = (upto - run.world.made).min(BATCH_MAX as u64);
            run.batch(count)?;
            bar.set_position(run.world.made);
        }
        settled += run.close()?;
    }
    bar.finish_and_clear();
    anyhow::ensure!(settled == args.receipts, "{settled} of {} receipts were settled", args.receipts);
    let (began, mut fold_us) = (Instant::now(), 0);
    let log = records(run.store.read(), 0..run.store.read().size()?);
    let folded = timed(&mut fold_us, || {
        let mut failed = None;
        let all = log.map_while(|found| found.map_err(|error| failed = Some(error)).ok()).map(|(_, record)| record);
        let folded = Settler::from_log(None, all);
        failed.map_or(Ok(folded), Err)
    })??;
    let fold_seconds = began.elapsed().as_secs_f64();
    anyhow::ensure!(folded.digest() == run.settler.digest(), "the log folds to another state");
    let state = run.settler.digest();
    run.settler = folded;
    let (restart_seconds, snapshot_bytes) = restart(&mut run, place, identity, state)?;
    let (bytes, pruned) = match place {
        Place::File(path) => (Some(std::fs::metadata(path)?.len() - snapshot_bytes), run.prune(path)?),
        Place::Server { .. } => (None, None),
    };
    let freed = pruned.map(|(receipts, freed)| (freed as f64 / receipts.max(1) as f64).round());
    let prune_us = pruned.map(|(receipts, _)| rounded(run.spent.prune as f64 / receipts.max(1) as f64));
    let (spent, each) = (&run.spent, |us: u64| us as f64 / args.receipts as f64);
    let commit_us = spent.verify + spent.charge + spent.draw + spent.store;
    Ok(json!({
        "receipts": args.receipts,
        "epochs": args.epochs,
        "receipts_per_batch": BATCH_MAX,
        "batches_per_transaction": GROUP,
        "receipts_per_second_per_core": (1e6 / each(commit_us)).round(),
        "cpu_us_per_receipt": {
            "verify": rounded(each(spent.verify)),
            "charge_and_countersign": rounded(each(spent.charge)),
            "take_and_draw": rounded(each(spent.draw)),
            "store": rounded(each(spent.store)),
            "store_wall": rounded(each(spent.store_wall)),
            "settle": rounded(each(spent.settle)),
            "snapshot": rounded(each(spent.snapshot)),
            "prune": prune_us,
        },
        "settle_cpu_s_per_million": rounded(each(spent.settle)),
        "fold_cpu_s_per_million": rounded(each(fold_us)),
        "fold_seconds": rounded(fold_seconds),
        "restart_seconds": rounded(restart_seconds),
        "log_bytes_per_receipt": bytes.map(|bytes| (bytes as f64 / args.receipts as f64).round()),
        "freed_bytes_per_pruned_receipt": freed,
        "resident_kib": machine::resident_kib(),
    }))
}

// What a gateway does before it can take a request: opens the log, takes up the accounts, and asks for each node's last batch.
fn restart(run: &mut Run, place: &Place, identity: Identity, state: Digest) -> anyhow::Result<(f64, u64)> {
    // The old one holds the log.
    run.store = Box::new(MemoryStore::default());
    let began = Instant::now();
    let store = place.open(identity)?;
    let settler = settle(store.read())?;
    let nodes = store.read().next_sequences()?.len();
    let seconds = began.elapsed().as_secs_f64();
    anyhow::ensure!(settler.digest() == state && nodes == usize::from(NODES), "it does not start as it ended");
    let snapshot = store.read().latest_snapshot()?.map_or(0, |snapshot| snapshot.bytes.len());
    run.store = store;
    Ok((seconds, snapshot as u64))
}

fn merged(mut record: Value, more: Value) -> Value {
    if let (Value::Object(record), Value::Object(more)) = (&mut record, more) {
        record.extend(more);
    }
    record
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
