//! What is simulated, and what came of it.

use ol_protocol::{Micros, Timestamp};
use ol_sched::Rule;
use serde::Serialize;

/// Share of long requests, where there are some.
pub(crate) const LONG_SHARE: f64 = 0.25;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Prompt and answer of all requests, in tokens; without it lengths are exponential.
    pub lengths: Option<[u32; 2]>,
    /// Prompt and answer of [`LONG_SHARE`] of all requests, where the others are equal.
    pub long: Option<[u32; 2]>,
    /// How long a client waits for the whole answer.
    pub deadline: Micros,
    /// Chance that a client goes away before its answer.
    pub leaves: f64,
    /// Chance that a request goes on with a conversation that was answered, and repeats it; without it there are none.
    pub goes_on: f64,
    /// Whether all tenants can pay, and nobody asks for an answer that can be trusted, as else one request in sixteen does.
    pub plain: bool,
    /// Where requests come from, and what that is to the gateway; without it regions mean nothing to most requests.
    pub home: Option<Home>,
}

/// What the region that a request comes from is to the gateway. The first region asks four times as much as others in the middle third of the time, for
/// what its nodes can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// It is preferred.
    Preferred,
    /// It is the only one that will do.
    Bound,
    /// It is not known.
    Unknown,
}

impl Default for Demand {
    fn default() -> Self {
        let deadline = Micros::from_secs(120);
        Self { lengths: None, long: None, deadline, leaves: 0.02, goes_on: 0.0, plain: false, home: None }
    }
}

/// How a node breaks what its grants promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreachOfPromise {
    /// It grants sixteen times the slots that it has, and computes all in those.
    OverPromises,
    /// It says nothing after an answer's first token, until it is taken back.
    StandsStill,
}

/// Engines of the nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fleet {
    /// What one node in ten does to its tasks, though each frame of it is in order.
    pub breach: Option<BreachOfPromise>,
    /// Chance that a node is slow.
    pub slow: f64,
    /// How many times slower.
    pub slow_factor: u64,
    /// How often as many nodes become slow as become fast again, all at once.
    pub changes_every: Option<Micros>,
    /// Slots of a node: at least one, at most so many.
    pub slots_max: u32,
    /// How much longer a token takes for each attempt that runs beside, as a share.
    pub crowding: f64,
    /// Standard deviation of the logarithm of a run's speed.
    pub jitter: f64,
    /// Chance that a run stands still once, and for how long in the mean.
    pub pauses: (f64, Micros),
    /// Chance that an engine gives an attempt up, at each frame.
    pub fails: f64,
    /// Chance, where there is churn, that an engine stands still before a frame about as long as the gateway waits, so that the
    /// frame crosses the gateway's decision.
    pub stalls: f64,
    /// Whether nodes that leave are killed, all of them.
    pub is_killed: bool,
    /// When all nodes of the last region are gone for good.
    pub region_lost_at: Option<Timestamp>,
    /// Time of a message to the first region, and how much longer it takes to each further one.
    pub distances: [Micros; 2],
    /// Chance that a frame is lost on its way and sent again, while all behind it wait.
    pub loss: f64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            breach: None,
            slow: 0.125,
            slow_factor: 10,
            changes_every: None,
            slots_max: 4,
            crowding: 0.0,
            jitter: 0.0,
            pauses: (0.0, Micros(0)),
            fails: 0.0005,
            stalls: 0.0025,
            is_killed: false,
            region_lost_at: None,
            distances: [Micros(500), Micros(18_000)],
            loss: 0.0,
        }
    }
}

/// What is simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Nodes, the cheating and the hostile ones among them; the referee comes on top.
    pub nodes: u32,
    /// Virtual seconds during which requests come. Afterwards everything is brought to an end.
    pub seconds: u32,
    /// Requests a second.
    pub rate: f64,
    /// Decides everything that is random.
    pub seed: u64,
    /// Nodes that leave, crash or lose their link, in a minute.
    pub churn_per_minute: f64,
    /// Nodes that compute something else than they are paid for.
    pub cheaters: u32,
    /// Chance that an audit sees a large margin at a token of a cheater.
    pub cheat_visible: f64,
    /// Nodes that send what breaks the protocol.
    pub hostile: u32,
    /// Operators, who own the nodes in turn.
    pub operators: u32,
    /// Regions of the nodes; the gateway is in the first.
    pub regions: u32,
    /// Share of their requests whose content may become public.
    pub public: f64,
    /// Tenants, who ask in turn. The last has next to no money.
    pub tenants: u32,
    /// What is asked for.
    pub demand: Demand,
    /// Engines of the nodes.
    pub fleet: Fleet,
    /// How nodes are chosen: gateways know one rule, the others are compared with it.
    pub rule: Rule,
    /// Length of an epoch.
    pub epoch: Micros,
    /// When the gateway is killed, if it is: it comes back from its log after five seconds.
    pub restart_at: Option<Timestamp>,
    /// Whether the referee leaves after a third of the time, until no more requests come.
    pub referee_leaves: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: 20,
            seconds: 30,
            rate: 5.0,
            seed: 0,
            churn_per_minute: 0.0,
            cheaters: 0,
            cheat_visible: 0.1,
            hostile: 0,
            operators: 7,
            regions: 3,
            public: 0.5,
            tenants: 8,
            demand: Demand::default(),
            fleet: Fleet::default(),
            rule: Rule::default(),
            epoch: Micros::from_secs(10),
            restart_at: None,
            referee_leaves: false,
        }
    }
}

/// One region in one third of the time.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct OfRegion {
    /// Which third, from 0.
    pub third: u32,
    /// The region, from 0, the nearest.
    pub region: u32,
    /// Requests a second that came from there, as a share of what its nodes could answer.
    pub asked: f64,
    /// How much of the time its nodes' slots worked on tasks, a share.
    pub utilisation: f64,
    /// Median time from request to the end of the answer of what came from there, in milliseconds.
    pub p50_ms: u64,
    /// The 99th percentile of the same.
    pub p99_ms: u64,
    /// Share of the answers to what came from there that were given elsewhere.
    pub spilled: f64,
    /// Share of the requests from there that were refused or given up.
    pub refused: f64,
}

/// What came of a simulation. The same configuration gives the same report everywhere.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// Nodes without the referee.
    pub nodes: u32,
    /// Seconds during which requests came.
    pub seconds: u32,
    /// Requests a second that were asked for.
    pub rate: f64,
    /// The seed.
    pub seed: u64,
    /// Virtual seconds until everything had come to an end.
    pub ended_after_seconds: f64,
    /// Events.
    pub events: u64,
    /// Requests.
    pub tasks: u64,
    /// Of those, of the network's own.
    pub own: u64,
    /// Answered.
    pub finished: u64,
    /// Refused or given up.
    pub refused: u64,
    /// Answers that were kept back until their audits passed.
    pub confirmed: u64,
    /// Answers that were kept back and never given.
    pub unconfirmed: u64,
    /// Whose client went away.
    pub client_gone: u64,
    /// In flight when the gateway was killed.
    pub interrupted: u64,
    /// Attempts that were taken from one node and given to another.
    pub failed_over: u64,
    /// Receipts in the log.
    pub receipts: u64,
    /// Audits that ended.
    pub audits: u64,
    /// Of those, against the node.
    pub audits_failed: u64,
    /// Failures and doubts that went to the referee.
    pub escalated: u64,
    /// Panels whose members sealed their verdicts.
    pub panels: u64,
    /// Of those, how many were against the node.
    pub panels_failed: u64,
    /// Audits whose content was not at the gateway.
    pub unauditable: u64,
    /// Of those against the node, how many went into the log with their content, which took its escrow.
    pub slashed: u64,
    /// Cheating nodes with a failed audit.
    pub cheaters_caught: u64,
    /// Honest nodes with a failed audit.
    pub honest_sanctioned: u64,
    /// Of tasks without a tier, and of each tier: how many were admitted, and how many of these were answered within their deadlines.
    pub tiers: [[u64; 2]; 3],
    /// What came of each region in each third of the time, where requests come from regions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<OfRegion>,
    /// Median time from request to the end of the answer, in milliseconds.
    pub latency_p50_ms: u64,
    /// The 99th percentile of the same.
    pub latency_p99_ms: u64,
    /// Median of how many times longer answers took than a usual node takes that does nothing else.
    pub stretch_p50: f64,
    /// The 99th percentile of the same.
    pub stretch_p99: f64,
    /// Attempts that were begun beside another that was late.
    pub raced: u64,
    /// Receipts of those that lost, whose reading the gateway is to pay.
    pub borne: u64,
    /// Attempts that were taken from a slow node in the middle, to go on with a faster one.
    pub moved: u64,
    /// Tasks that were admitted and not answered, though their clients waited and the gateway lived.
    pub lost: u64,
    /// Tasks whose receipts charge more than their client was sent.
    pub paid_twice: u64,
    /// Work of engines beyond one prefill of each prompt and one decode of each answer, in percent of these.
    pub extra_work_pct: f64,
    /// Answers a second while requests came.
    pub goodput: f64,
    /// Where a region was lost: how long until at most one answer in twenty of each second took more than three times the median from before, in milliseconds.
    pub restored_after_ms: Option<u64>,
    /// Prompt tokens of all attempts that engines began, and those of them that they held from an earlier turn.
    pub prompt_tokens: u64,
    /// See there.
    pub resident_tokens: u64,
    /// Output tokens that were relayed.
    pub tokens: u64,
    /// Epochs that were settled.
    pub epochs: u64,
    /// Micro-credits that tenants were charged for settled receipts.
    pub charged: u64,
    /// Micro-credits that auditors got.
    pub audit_pay: u64,
    /// Micro-credits that were paid out.
    pub paid_out: u64,
    /// Digest over all outputs of all machines, in order.
    pub digest: String,
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, event {event}, after {} ms: {what}", .at.0 / 1_000)]
pub struct Violation {
    /// The run's seed.
    pub seed: u64,
    /// How many events had happened.
    pub event: u64,
    /// When.
    pub at: Timestamp,
    /// What does not hold.
    pub what: Broken,
}

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// More runs or was sent than was granted.
    #[error("node {node} holds {held} attempts, granted are {granted}")]
    OverGrant {
        /// The node's place.
        node: usize,
        /// What it holds.
        held: u64,
        /// What it granted.
        granted: u64,
    },
    /// A task ended twice, or never.
    #[error("task {task} ended {times} times")]
    Ends {
        /// Its id.
        task: String,
        /// How often it ended.
        times: u32,
    },
    /// Tokens were relayed twice, or are missing.
    #[error("task {task}: {what}")]
    Tokens {
        /// Its id.
        task: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A signed result is in the log another number of times than once.
    #[error("the signed attempt {attempt} at task {task} is {times} times in the log")]
    Receipt {
        /// Its task.
        task: String,
        /// Its number.
        attempt: u8,
        /// How often.
        times: u64,
    },
    /// The books are wrong by the ledger's own checks.
    #[error(transparent)]
    Ledger(#[from] ol_ledger::Fault),
    /// The log does not give what the gateway says, or can't be replayed.
    #[error("the log replayed: {0}")]
    Replay(#[from] ol_roles::settler::Fault),
    /// Another computation from the log gives another balance.
    #[error("{account} has {ledger} by the ledger, {books} by the books")]
    Balance {
        /// Whose.
        account: String,
        /// By the ledger.
        ledger: i128,
        /// By the other computation.
        books: i128,
    },
    /// A tenant may spend more than is there.
    #[error("tenant {tenant} may spend {available}, {balance} are there")]
    Budget {
        /// Whose.
        tenant: String,
        /// By the gateway.
        available: u64,
        /// By the ledger.
        balance: i128,
    },
    /// A node that did nothing wrong was punished.
    #[error("honest node {node}: {why}")]
    Honest {
        /// Its place.
        node: usize,
        /// How.
        why: &'static str,
    },
    /// Something that can't happen here did.
    #[error("{0}")]
    Unexpected(&'static str),
    /// Something is still open long after the last request.
    #[error("no end: {0}")]
    NoEnd(String),
}
