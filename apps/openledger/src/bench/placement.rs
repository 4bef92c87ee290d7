//! `openledger bench placement`: how long a gateway's machine takes to decide, and what it remembers of a node, by the number of
//! nodes. The machine that the gateway ships, in simulated time: no network, no disk, one thread.

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
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::process::ExitCode;
use std::time::Instant;

const VARIANT: VariantId = VariantId([4; 32]);
/// Clients: what one may have waiting is bounded.
const TENANTS: u8 = 100;
const REGIONS: [&str; 5] = ["eu-north", "eu-west", "us-east", "us-west", "asia-south"];
/// Slots that each node grants.
const SLOTS: u64 = 2;
/// Share of all slots that are busy, in percent, but for very many nodes.
const LOAD: u64 = 60;
/// Nanoseconds between requests at least: more than 20,000 a second no gateway is asked for, and its queue is made for fewer.
const EVERY_MIN: u64 = 50_000;
/// How long a node takes for a task, in milliseconds: it is of one of twenty speeds.
const FASTEST: u64 = 100;
const STEP: u64 = 20;
const SPEEDS: u64 = 20;
const TOKENS: u32 = 100;
/// Frames that an answer comes in, all but the first with equally many tokens.
const FRAMES: u32 = 11;

/// Measure decisions: who gets a task, among how many nodes, and how much memory each takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Most nodes: powers of ten from 100 up to this are measured.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
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
    // Which speed each has, and when attempts have which frame.
    speeds: BTreeMap<NodeId, u64>,
    coming: BinaryHeap<Reverse<(Timestamp, u32, NodeId, AttemptId)>>,
    // What runs, with the tokens that it goes on from and those that came.
    running: BTreeMap<AttemptId, (u32, u32)>,
    taken_back: BTreeSet<AttemptId>,
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
            speeds: BTreeMap::new(),
            coming: BinaryHeap::new(),
            running: BTreeMap::new(),
            taken_back: BTreeSet::new(),
            tasks: 0,
            out: Vec::new(),
            genesis,
        };
        let (network, owner) = (world.genesis.network(), world.genesis.owner);
        for tenant in 0..TENANTS {
            let amount = MicroCredits(1 << 40);
            let top_up = TopUp::issue(&issuer, network, owner, TenantId([tenant; 16]), amount, u64::from(tenant));
            world.feed(Input::TopUp(Slice::whole(top_up)));
        }
        Ok(world)
    }

    // How long the gateway took, in nanoseconds.
    fn feed(&mut self, input: Input) -> u64 {
        self.out.clear();
        let began = Instant::now();
        self.gateway.handle(self.now, input, &mut self.out);
        let took = began.elapsed().as_nanos() as u64;
        for output in &self.out {
            match output {
                Output::Assign { node, attempt, resumed_from, .. } => {
                    let takes = FASTEST + STEP * self.speeds.get(node).copied().unwrap_or(0);
                    let next = self.now.after(Micros(takes * 1_000 / u64::from(FRAMES)));
                    self.coming.push(Reverse((next, 0, *node, *attempt)));
                    self.running.insert(*attempt, (resumed_from.0, resumed_from.0));
                }
                // Its node lets go of it at once.
                Output::Cancel { node, attempt, .. } if self.running.remove(attempt).is_some() => {
                    self.taken_back.insert(*attempt);
                    self.coming.push(Reverse((self.now, FRAMES, *node, *attempt)));
                }
                _ => {}
            }
        }
        took
    }

    fn grant(&mut self, node: NodeId, slots: u64) {
        let total = self.granted.entry(node).or_default();
        *total += slots;
        let total = *total;
        self.feed(Input::Granted { node, variant: VARIANT, total });
    }

    // What the benchmark itself notes of a node.
    fn note(&mut self, number: u32) {
        let node = NodeId(id(number));
        self.granted.insert(node, 0);
        self.speeds.insert(node, u64::from(number) % SPEEDS);
    }

    // A node that has no slot yet.
    fn join(&mut self, number: u32) {
        let (node, operator) = (NodeId(id(number)), OperatorId(id(number / 2)));
        let region = REGIONS.get(number as usize % REGIONS.len()).and_then(|name| name.parse::<Region>().ok());
        self.feed(Input::NodeJoined { node, operator, referee: false, variants: vec![VARIANT], region });
        let took = Micros::from_millis(20 * (1 + u64::from(number) % REGIONS.len() as u64));
        self.feed(Input::RoundTrip { node, took });
        self.grant(node, SLOTS);
    }

    // How long a decision took, in nanoseconds.
    fn submit(&mut self, place: Where, tier: Tier) -> anyhow::Result<u64> {
        self.tasks += 1;
        let mut task = [0; 16];
        task[8..].copy_from_slice(&self.tasks.to_be_bytes());
        let submission = Submission {
            task: TaskId(task),
            tenant: TenantId([(self.tasks % u64::from(TENANTS)) as u8; 16]),
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
        let took = self.feed(Input::Submitted(submission));
        let is_refused = self.out.iter().any(|output| matches!(output, Output::Refuse { .. }));
        ensure!(!is_refused, "a task was refused: {:?} {:?}", self.out, self.gateway.counters());
        Ok(took)
    }

    // A node has the next tokens.
    fn frame(&mut self, frame: u32, node: NodeId, attempt: AttemptId) {
        let Some((_, came)) = self.running.get_mut(&attempt) else {
            // Of an attempt that was taken back.
            if self.taken_back.remove(&attempt) {
                self.grant(node, 1);
            }
            return;
        };
        let added = if frame == 0 { 1 } else { TOKENS / (FRAMES - 1) }.min(TOKENS - *came);
        *came += added;
        let count = TokenCount(*came);
        if frame == 0 {
            let prompt_tokens = TokenCount(TOKENS);
            self.feed(Input::Started { node, attempt, prompt_tokens, resident_tokens: TokenCount(0) });
        }
        self.feed(Input::Progress { node, attempt, count, added: TokenCount(added) });
        if count.0 == TOKENS {
            return self.end(node, attempt);
        }
        let takes = FASTEST + STEP * self.speeds.get(&node).copied().unwrap_or(0);
        let next = self.now.after(Micros(takes * 1_000 / u64::from(FRAMES)));
        self.coming.push(Reverse((next, frame + 1, node, attempt)));
    }

    // A task ends, and its node has its slot free again.
    fn end(&mut self, node: NodeId, attempt: AttemptId) {
        let resumed_from = TokenCount(self.running.remove(&attempt).map_or(0, |(resumed, _)| resumed));
        let count = TokenCount(TOKENS);
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
            resumed_from,
            first_token: Micros(1),
            total: Micros(2),
        };
        self.feed(Input::Done { node, commitment, relayed });
        self.feed(Input::Responded { task: attempt.task, response: Digest([9; 32]) });
        self.grant(node, 1);
    }

    // Carries out what happens until then.
    fn until(&mut self, then: Timestamp) {
        while let Some(Reverse((at, frame, node, attempt))) =
            self.coming.peek().copied().filter(|next| next.0.0 <= then)
        {
            self.coming.pop();
            self.tick(at);
            self.now = at;
            self.frame(frame, node, attempt);
        }
        self.tick(then);
        self.now = then;
    }

    fn tick(&mut self, then: Timestamp) {
        if let Some(due) = self.gateway.deadline().filter(|due| *due <= then) {
            self.now = self.now.max(due);
            self.feed(Input::Tick);
        }
    }

    // As many tasks as that, one after the other as fast as the load says; how long each decision took, in nanoseconds.
    fn decide(&mut self, count: u64, place: Where, tier: Tier) -> anyhow::Result<Vec<u64>> {
        let began = self.now;
        let usual = (FASTEST + STEP * (SPEEDS - 1) / 2) * 1_000_000;
        // Whoever asks for one region has a fifth of all nodes.
        let among = self.speeds.len() as u64 * SLOTS / if place.bound().is_some() { REGIONS.len() as u64 } else { 1 };
        let every = (usual * 100 / (LOAD * among)).max(EVERY_MIN);
        let ask = |number: u64| {
            self.until(began.after(Micros(number * every / 1_000)));
            self.submit(place, tier)
        };
        (0..count).map(ask).collect()
    }

    fn decisions(&mut self, count: u32, place: Where, tier: Tier) -> anyhow::Result<Value> {
        let mut took = self.decide(u64::from(count), place, tier)?;
        took.sort_unstable();
        let at = |percent: usize| took.get(took.len() * percent / 100).map_or(0.0, |nanos| *nanos as f64 / 1e3);
        let mean = took.iter().sum::<u64>() as f64 / took.len().max(1) as f64 / 1e3;
        Ok(json!({ "p50_us": rounded(at(50)), "p99_us": rounded(at(99)), "mean_us": rounded(mean) }))
    }
}

/// Runs `openledger bench placement`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // The most first: what they take of the process's memory is not what others left.
    let sizes: Vec<u32> = (2..=6).rev().map(|power| 10_u32.pow(power)).filter(|nodes| *nodes <= args.nodes).collect();
    let bar = progress::bar(sizes.iter().map(|nodes| u64::from(*nodes)).sum());
    bar.set_message("nodes");
    let mut rows = Vec::new();
    let mut bytes_per_node = None;
    for nodes in sizes {
        let (row, bytes) = of(nodes, args.decisions, &bar)?;
        rows.push(row);
        bytes_per_node = bytes_per_node.or(bytes);
    }
    bar.finish_and_clear();
    let record = machine::stamp(json!({
        "slots": SLOTS, "load": LOAD, "decisions": args.decisions, "rows": rows, "bytes_per_node": bytes_per_node,
    }));
    if args.json {
        say(record.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    say("a decision in microseconds, median and 99th percentile: admitted, placed, order sealed");
    say(format!("{:>9} {:>15} {:>15} {:>15} {:>15}", "nodes", "anywhere", "preferred", "bound", "tier"));
    for row in &rows {
        let pair = |name: &str| format!("{} / {}", row[name]["p50_us"], row[name]["p99_us"]);
        let [anywhere, preferred, bound, tier] = ["anywhere", "preferred", "bound", "tier"].map(pair);
        say(format!("{:>9} {anywhere:>15} {preferred:>15} {bound:>15} {tier:>15}", row["nodes"].to_string()));
    }
    if let Some(bytes) = bytes_per_node {
        say(format!(
            "memory for each of {} nodes that joined: {bytes} bytes",
            rows.first().map_or(0, |row| row["nodes"].as_u64().unwrap_or(0))
        ));
    }
    Ok(ExitCode::SUCCESS)
}

// Figures, and what the process grew by for each node.
fn of(nodes: u32, decisions: u32, bar: &indicatif::ProgressBar) -> anyhow::Result<(Value, Option<u64>)> {
    let mut world = World::new()?;
    (0..nodes).for_each(|number| world.note(number));
    let before = machine::resident_kib();
    for number in 0..nodes {
        world.join(number);
        bar.inc(1);
    }
    let after = machine::resident_kib();
    ensure!(world.gateway.ready() == nodes as usize, "{} of {nodes} nodes are ready", world.gateway.ready());
    // Until the slots are as busy as they stay.
    world.decide(u64::from(nodes) * SLOTS, Where::Anywhere, Tier::Standard)?;
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
    Ok((row, grown))
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
