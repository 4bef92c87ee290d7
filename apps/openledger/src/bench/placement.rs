//! `openledger bench placement`: how long a gateway's machine takes to decide, and what it remembers of a node, by the number of
//! nodes. No network, no disk, one thread.

use super::{machine, progress};
use crate::logging::say;
use anyhow::{Context as _, ensure};
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::genesis::Genesis;
use ol_protocol::key::{SecretKey, Signature};
use ol_protocol::parameters::Parameters;
use ol_protocol::prf::Seed;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::top_up::{Slice, TopUp};
use ol_protocol::{
    Digest, Epoch, GatewayId, IssuerId, Machine as _, MicroCredits, Micros, NodeId, OperatorId, OwnerId, Price, Region,
    TaskId, TenantId, Timestamp, TokenCount, VariantId,
};
use ol_roles::gateway::Setup;
use ol_roles::gateway::event::{Input, Output, Submission};
use ol_roles::{Gateway, Settler};
use ol_sched::{Limits, Rule, Tier, Where};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::time::Instant;

const VARIANT: VariantId = VariantId([4; 32]);
const TENANT: TenantId = TenantId([6; 16]);
const REGIONS: [&str; 5] = ["eu-north", "eu-west", "us-east", "us-west", "asia-south"];
/// Slots that each node grants.
const SLOTS: u64 = 4;
/// Time between requests, and how long each takes: fifty run at a time.
const EVERY: Micros = Micros(1_000);
const TAKES: u64 = 50;
const TOKENS: u32 = 100;

/// Measure decisions: who gets a task, among how many nodes, and how much memory each takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Most nodes: powers of ten from 100 up to this are measured.
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    nodes: u32,
    /// Decisions of each kind.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    decisions: u32,
}

struct World {
    gateway: Gateway,
    genesis: Genesis,
    now: Timestamp,
    granted: BTreeMap<NodeId, u64>,
    running: VecDeque<(NodeId, AttemptId)>,
    tasks: u64,
    out: Vec<Output>,
}

fn id(number: u32) -> [u8; 32] {
    let mut bytes = [0x11; 32];
    // As keys do, ids lie anywhere.
    bytes[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
    bytes
}

impl World {
    fn new() -> anyhow::Result<Self> {
        let (key, owner) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[3; 32]));
        let issuer = SecretKey::from_bytes(&[2; 32]);
        let gateway = GatewayId(key.public());
        let genesis = Genesis {
            issuer: IssuerId(issuer.public()),
            referee: NodeId([3; 32]),
            referee_operator: OperatorId([3; 32]),
            born_at: Timestamp(0),
            epoch: Micros::from_secs(3_600),
            parameters: Parameters::DEFAULT,
            gateway,
            owner: OwnerId([0; 32]),
            signature: Signature([0; 64]),
        }
        .of(gateway, &owner);
        let settler = Settler::from_log(None, [Record::Genesis(genesis.clone())])?;
        let (limits, rule, next_batch) = (Limits::default(), Rule::Cost, BTreeMap::new());
        let setup = Setup { gateway, master: [9; 32], seed: Seed([5; 32]), settler, next_batch, limits, rule };
        let mut world = Self {
            gateway: Gateway::new(Timestamp(0), setup),
            now: Timestamp(0),
            granted: BTreeMap::new(),
            running: VecDeque::new(),
            tasks: 0,
            out: Vec::new(),
            genesis,
        };
        let (network, owner) = (world.genesis.network(), world.genesis.owner);
        let top_up = TopUp::issue(&issuer, network, owner, TENANT, MicroCredits(1 << 50), 1);
        world.feed(Input::TopUp(Slice::whole(top_up)));
        Ok(world)
    }

    fn feed(&mut self, input: Input) {
        self.out.clear();
        self.gateway.handle(self.now, input, &mut self.out);
        // A task may wait for a node that is not free yet, and be sent with a later input.
        self.running.extend(self.out.iter().filter_map(|output| match output {
            Output::Assign { node, attempt, .. } => Some((*node, *attempt)),
            _ => None,
        }));
    }

    fn grant(&mut self, node: NodeId, slots: u64) {
        let total = self.granted.entry(node).or_default();
        *total += slots;
        let total = *total;
        self.feed(Input::Granted { node, variant: VARIANT, total });
    }

    // A node that has no slot yet.
    fn join(&mut self, number: u32) {
        let (node, operator) = (NodeId(id(number)), OperatorId(id(number / 2)));
        let region = REGIONS.get(number as usize % REGIONS.len()).and_then(|name| name.parse::<Region>().ok());
        self.feed(Input::NodeJoined { node, operator, referee: false, variants: vec![VARIANT], region });
        let took = Micros::from_millis(20 * (1 + u64::from(number) % REGIONS.len() as u64));
        self.feed(Input::RoundTrip { node, took });
    }

    // How long a decision took, in nanoseconds.
    fn submit(&mut self, place: Where, tier: Tier) -> anyhow::Result<u64> {
        self.tasks += 1;
        let mut task = [0; 16];
        task[8..].copy_from_slice(&self.tasks.to_be_bytes());
        let submission = Submission {
            task: TaskId(task),
            tenant: TENANT,
            variant: VARIANT,
            prompt_tokens_max: TokenCount(TOKENS),
            output_tokens_max: TokenCount(TOKENS),
            price: Price { prompt_per_million: MicroCredits(1), output_per_million: MicroCredits(1) },
            deadline: Micros::from_secs(600),
            request: Digest([7; 32]),
            public: false,
            floor: None,
            max_price: None,
            place,
            tier,
            prefixes: Vec::new(),
        };
        let began = Instant::now();
        self.feed(Input::Submitted(submission));
        let took = began.elapsed().as_nanos() as u64;
        let is_refused = self.out.iter().any(|output| matches!(output, Output::Refuse { .. }));
        ensure!(!is_refused, "a task was refused: {:?}", self.out);
        Ok(took)
    }

    // The oldest task ends, and its node has its slot free again.
    fn end(&mut self) {
        let Some((node, attempt)) = self.running.pop_front() else { return };
        let count = TokenCount(TOKENS);
        self.feed(Input::Started { node, attempt, prompt_tokens: count, resident_tokens: TokenCount(0) });
        self.feed(Input::Progress { node, attempt, count, added: count });
        let (relayed, operator) = (Digest([7; 32]), OperatorId([8; 32]));
        let commitment = Commitment {
            network: self.genesis.network(),
            gateway: self.genesis.gateway,
            node,
            operator,
            task: attempt.task,
            attempt: attempt.attempt,
            epoch: Epoch(0),
            variant: VARIANT,
            sampler_version: 1,
            prompt: Digest([5; 32]),
            seed: Digest([6; 32]),
            output: relayed,
            log_probs: Digest([8; 32]),
            finish: Finish::Length,
            prompt_tokens: count,
            output_tokens: count,
            resumed_from: TokenCount(0),
            first_token: Micros(1),
            total: Micros(2),
        };
        self.feed(Input::Done { node, commitment, relayed });
        self.feed(Input::Responded { task: attempt.task, response: Digest([9; 32]) });
    }

    // Each node is measured by a task of its own, as no other has a slot yet; its speed is one of twenty.
    fn measure(&mut self, number: u32) -> anyhow::Result<()> {
        let node = NodeId(id(number));
        self.grant(node, 1);
        self.submit(Where::Anywhere, Tier::Standard)?;
        let began = self.now;
        self.now = began.after(Micros(100_000 + 20_000 * u64::from(number % 20)));
        self.end();
        self.now = began;
        Ok(())
    }

    fn decisions(&mut self, count: u32, place: Where, tier: Tier) -> anyhow::Result<Value> {
        let mut took = Vec::with_capacity(count as usize);
        for _ in 0..count {
            self.now = self.now.after(EVERY);
            took.push(self.submit(place, tier)?);
            if self.running.len() as u64 > TAKES {
                let node = self.running.front().map(|(node, _)| *node);
                self.end();
                node.into_iter().for_each(|node| self.grant(node, 1));
            }
        }
        while let Some((node, _)) = self.running.front().copied() {
            self.end();
            self.grant(node, 1);
        }
        took.sort_unstable();
        let at = |percent: usize| took.get(took.len() * percent / 100).map_or(0.0, |nanos| *nanos as f64 / 1e3);
        let mean = took.iter().sum::<u64>() as f64 / took.len().max(1) as f64 / 1e3;
        Ok(json!({ "p50_us": rounded(at(50)), "p99_us": rounded(at(99)), "mean_us": rounded(mean) }))
    }
}

/// Runs `openledger bench placement`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let sizes: Vec<u32> = (2..=6).map(|power| 10_u32.pow(power)).filter(|nodes| *nodes <= args.nodes).collect();
    let bar = progress::bar(sizes.iter().map(|nodes| u64::from(*nodes)).sum());
    bar.set_message("nodes");
    let mut rows = Vec::new();
    for nodes in sizes {
        rows.push(of(nodes, args.decisions, &bar)?);
    }
    bar.finish_and_clear();
    let record = machine::stamp(json!({ "slots": SLOTS, "decisions": args.decisions, "rows": rows }));
    if args.json {
        say(record.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    say("a decision in microseconds, median and 99th percentile: admitted, placed, order sealed");
    say(format!(
        "{:>9} {:>15} {:>15} {:>15} {:>15} {:>14}",
        "nodes", "anywhere", "preferred", "bound", "tier", "bytes a node"
    ));
    for row in &rows {
        let pair = |name: &str| format!("{} / {}", row[name]["p50_us"], row[name]["p99_us"]);
        let [anywhere, preferred, bound, tier] = ["anywhere", "preferred", "bound", "tier"].map(pair);
        let (nodes, bytes) = (&row["nodes"], &row["bytes_per_node"]);
        say(format!("{nodes:>9} {anywhere:>15} {preferred:>15} {bound:>15} {tier:>15} {bytes:>14}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn of(nodes: u32, decisions: u32, bar: &indicatif::ProgressBar) -> anyhow::Result<Value> {
    let mut world = World::new()?;
    let before = machine::resident_kib();
    for number in 0..nodes {
        world.join(number);
        world.measure(number)?;
        bar.inc(1);
    }
    for number in 0..nodes {
        world.grant(NodeId(id(number)), SLOTS);
    }
    let after = machine::resident_kib();
    ensure!(world.gateway.ready() == nodes as usize, "{} of {nodes} nodes are ready", world.gateway.ready());
    let region: Region = "us-east".parse().context("a region")?;
    let kinds = [
        ("anywhere", Where::Anywhere, Tier::Standard),
        ("preferred", Where::Preferably(region), Tier::Standard),
        ("bound", Where::Only(region), Tier::Standard),
        ("tier", Where::Anywhere, Tier::Three),
    ];
    let mut row = json!({ "nodes": nodes });
    for (name, place, tier) in kinds {
        row[name] = world.decisions(decisions, place, tier)?;
    }
    let grown = before.zip(after).map(|(before, after)| after.saturating_sub(before) * 1_024 / u64::from(nodes));
    row["bytes_per_node"] = grown.into();
    Ok(row)
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
