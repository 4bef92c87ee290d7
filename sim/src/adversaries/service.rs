//! Nodes that take tasks and don't do them, against the gateways' own offers, placement, limits and quarantine.

use super::{Cost, Row, Setting, interval, round};
use crate::random::{Random, Use};
use ol_protocol::prf::Seed;
use ol_protocol::{Micros, NodeId, TaskId, Timestamp, TokenCount, VariantId};
use ol_sched::attempt::ATTEMPTS_MAX;
use ol_sched::offer::SLOTS_MAX;
use ol_sched::{
    Ask, Attempts, Breaker, Expected, Limits, Offers, Overdue, Placement, Rates, Reason, Reliabilities, Rule, Tier,
    Trial, Where,
};
use std::collections::VecDeque;

const VARIANT: VariantId = VariantId([1; 32]);

/// Nodes, the first of which is the adversary; what each computes at once; and how many tokens a second in each.
const NODES: u8 = 10;
const SLOTS: usize = 4;
const TOKENS_A_SECOND: u64 = 37;

/// No second attempts: what an adversary gains where nobody overtakes it.
const PATIENT: Expected = Expected { late_after: Micros(u64::MAX), token: Micros(0) };

/// Tokens of each prompt and answer.
const PROMPT: TokenCount = TokenCount(30);
const ANSWER: TokenCount = TokenCount(74);

/// Time for a prompt.
const PREFILL: Micros = Micros::from_millis(100);

/// Tasks that arrive at a time: half of what the nodes can do.
const TICK: Micros = Micros::from_millis(200);
const ARRIVALS: u64 = 2;

/// Simulated time, twice the limit of a task, and networks of each kind.
const TICKS: u64 = 6_000;
const NETWORKS: u64 = 8;

/// What the first node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Honest,
    OverPromising,
    SlowLoris,
}

/// Both adversaries.
pub(super) fn compare(setting: &Setting) -> Vec<Row> {
    [Server::OverPromising, Server::SlowLoris].map(|server| row(setting, server)).into()
}

/// One of them, beside the same networks without it.
pub(super) fn row(setting: &Setting, server: Server) -> Row {
    let run = |server| {
        let networks = (0..NETWORKS).map(|number| Network::new(setting.seed ^ number << 40, server).run());
        networks.collect::<Vec<Network>>()
    };
    let [with, without] = [server, Server::Honest].map(run);
    let (income, income_95) = interval::mean(&with.iter().map(Network::income).collect::<Vec<_>>());
    let found: Vec<f64> = with.iter().filter_map(|network| network.found).map(|at| at as f64).collect();
    let never = NETWORKS - found.len() as u64;
    let mean = |networks: &[Network]| {
        let (waited, served) = networks.iter().fold((0.0, 0), |(waited, served), network| {
            (waited + network.waited.0 as f64 / 1e6, served + network.served)
        });
        waited / served.max(1) as f64
    };
    Row {
        adversary: server.name(),
        verifier: None,
        what: server.what(),
        gain_per_task: None,
        found_after_tasks_p50: interval::median(found),
        found_after_audits_p50: None,
        never_found_pct: Some(round(never as f64 * 100.0 / NETWORKS as f64)),
        never_found_pct_interval_95: Some(interval::share(never, NETWORKS).map(|share| round(share * 100.0))),
        income_vs_honest: round(income),
        income_vs_honest_interval_95: income_95.map(round),
        profits: income_95[0] > 1.0,
        where_public: Vec::new(),
        cost_to_honest: Cost { delay_s_mean: round(mean(&with) - mean(&without)), ..Cost::NONE },
        limits: server.limits(),
    }
}

// An attempt in progress.
struct Running {
    task: Task,
    node: NodeId,
    began: Timestamp,
    first: Option<Timestamp>,
    before: TokenCount,
}

impl Running {
    fn attempt(&self) -> u8 {
        self.task.attempts.all().len() as u8 - 1
    }
}

struct Task {
    id: TaskId,
    arrived: Timestamp,
    attempts: Attempts,
}

struct Network {
    server: Server,
    seed: Seed,
    offers: Offers,
    granted: Vec<u64>,
    rates: Rates,
    breaker: Breaker,
    reliabilities: Reliabilities,
    queue: VecDeque<Task>,
    running: Vec<Running>,
    random: Random,
    // Tokens that each node delivered: what it is paid for.
    delivered: Vec<u64>,
    // Tasks that the first node was given, and how many when it was first in quarantine.
    given: u64,
    found: Option<u64>,
    served: u64,
    waited: Micros,
}

impl Network {
    fn new(seed: u64, server: Server) -> Self {
        let mut network = Self {
            server,
            seed: Seed(core::array::from_fn(|at| seed.to_le_bytes()[at % 8])),
            offers: Offers::default(),
            granted: vec![0; usize::from(NODES)],
            rates: Rates::default(),
            breaker: Breaker::default(),
            reliabilities: Reliabilities::default(),
            queue: VecDeque::new(),
            running: Vec::new(),
            random: Random::new(seed, Use::Adversaries),
            delivered: vec![0; usize::from(NODES)],
            given: 0,
            found: None,
            served: 0,
            waited: Micros(0),
        };
        for node in 0..NODES {
            network.offers.join(id(node));
            let promises = node == 0 && server == Server::OverPromising;
            network.grant(id(node), if promises { SLOTS_MAX } else { SLOTS as u64 });
        }
        network
    }

    fn run(mut self) -> Self {
        for tick in 0..TICKS {
            let now = Timestamp(tick * TICK.0);
            for number in 0..ARRIVALS {
                let mut task = [0; 16];
                task[..8].copy_from_slice(&(tick * ARRIVALS + number).to_le_bytes());
                task[8..12].copy_from_slice(&self.random.word().to_le_bytes());
                let attempts = Attempts::new(Limits { output_max: ANSWER, ..Limits::default() }, now);
                self.queue.push_back(Task { id: TaskId(task), arrived: now, attempts });
            }
            self.place(now);
            self.work(now);
        }
        self
    }

    // More slots, as a node has them free again.
    fn grant(&mut self, node: NodeId, slots: u64) {
        let granted = &mut self.granted[usize::from(node.0[0])];
        *granted += slots;
        // It grants no more than the gateway takes: a refusal leaves what was granted.
        if self.offers.grant(node, VARIANT, *granted).is_err() {
            *granted -= slots;
        }
    }

    fn place(&mut self, now: Timestamp) {
        for mut task in core::mem::take(&mut self.queue) {
            let deadline = task.attempts.deadline();
            let excluded = task.attempts.tried();
            let ask = Ask {
                task: task.id,
                variant: VARIANT,
                place: Where::Anywhere,
                tier: Tier::Standard,
                prompt: PROMPT,
                output: ANSWER,
                deadline,
                attempts: ATTEMPTS_MAX,
                excluded,
                trial: Trial::First,
                resident: None,
            };
            let Self { offers, rates, breaker, reliabilities, .. } = &*self;
            let (seed, rule, last) = (self.seed, Rule::Cost, None);
            let picked = Placement { offers, rates, breaker, reliabilities, seed, rule, last };
            let picked = picked.pick(now, &ask);
            let before = task.attempts.delivered();
            match picked.ok().filter(|node| task.attempts.begin(*node, now, PATIENT).is_ok()) {
                Some(node) => {
                    self.offers.spend(node, VARIANT);
                    self.given += u64::from(node == id(0));
                    self.running.push(Running { task, node, began: now, first: None, before });
                }
                None if !task.attempts.is_over(now) => self.queue.push_back(task),
                // Its client has waited in vain.
                None => self.end(now, task.arrived),
            }
        }
    }

    fn work(&mut self, now: Timestamp) {
        let mut busy = vec![0; usize::from(NODES)];
        for mut running in core::mem::take(&mut self.running) {
            let at = usize::from(running.node.0[0]);
            busy[at] += 1;
            let had = running.task.attempts.delivered();
            let count = if busy[at] > SLOTS { had } else { self.computed(&mut running, now) };
            let attempt = running.attempt();
            running.task.attempts.progress(attempt, now, count);
            self.delivered[at] += u64::from(count.0.saturating_sub(had.0));
            if count >= ANSWER {
                self.finish(now, &running);
            } else if running.task.attempts.is_over(now) {
                self.give_up(now, running, None);
            } else if let Some((_, _, overdue)) = running.task.attempts.overdue(now) {
                self.give_up(now, running, Some(overdue));
            } else {
                self.running.push(running);
            }
        }
    }

    // Tokens of the task that exist by now. A slot works on a task from when it is among the node's first.
    fn computed(&self, running: &mut Running, now: Timestamp) -> TokenCount {
        let at_work = now.since(*running.first.get_or_insert(now)).0;
        let server = if running.node == id(0) { self.server } else { Server::Honest };
        let tokens = match server {
            Server::Honest | Server::OverPromising => at_work * TOKENS_A_SECOND / 1_000_000,
            // Each token just before its limit.
            Server::SlowLoris => {
                let Limits { first_token, between_tokens, .. } = Limits::default();
                let first = first_token.0 - 1_000_000;
                let since = at_work.checked_sub(first);
                since.map_or(0, |since| 1 + since / (between_tokens.0 - 1_000_000))
            }
        };
        TokenCount((running.before.0 + tokens as u32).min(ANSWER.0))
    }

    fn finish(&mut self, now: Timestamp, running: &Running) {
        // As a gateway measures: the time until a slot works on it is time to the first token.
        let first = running.first.unwrap_or(now);
        let (waited, took) = (first.since(running.began), now.since(first));
        self.offers.finish(running.node, VARIANT);
        self.rates.prefilled(running.node, VARIANT, PROMPT, waited.saturating_add(PREFILL));
        self.rates.decoded(running.node, VARIANT, TokenCount(ANSWER.0 - running.before.0), took);
        self.offers.classify(running.node, VARIANT, self.rates.of(running.node, VARIANT).class());
        self.breaker.succeeded(running.node, now);
        self.grant(running.node, 1);
        self.end(now, running.task.arrived);
    }

    fn give_up(&mut self, now: Timestamp, mut running: Running, overdue: Option<Overdue>) {
        self.offers.finish(running.node, VARIANT);
        self.grant(running.node, 1);
        let (attempt, reason) = (running.attempt(), overdue.map_or(Reason::Deadline, Reason::from));
        running.task.attempts.fail(attempt, reason);
        self.breaker.failed(running.node, reason, now);
        if running.node == id(0) && self.breaker.quarantined(id(0), now).is_some() {
            self.found = self.found.or(Some(self.given));
        }
        match overdue {
            None => self.end(now, running.task.arrived),
            Some(Overdue::FirstToken | Overdue::BetweenTokens) => self.queue.push_back(running.task),
        }
    }

    fn end(&mut self, now: Timestamp, arrived: Timestamp) {
        self.served += 1;
        self.waited = Micros(self.waited.0 + now.since(arrived).0);
    }

    // Tokens of the first node over the mean of the others.
    fn income(&self) -> f64 {
        let others: u64 = self.delivered[1..].iter().sum();
        self.delivered[0] as f64 * f64::from(NODES - 1) / others.max(1) as f64
    }
}

const fn id(node: u8) -> NodeId {
    let mut bytes = [0; 32];
    bytes[0] = node;
    NodeId(bytes)
}

impl Server {
    const fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::OverPromising => "over-promising node",
            Self::SlowLoris => "slow-loris node",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Honest => "Does four tasks at once and grants four.",
            Self::OverPromising => "Does four tasks at once and grants 4,096.",
            Self::SlowLoris => "Sends each token a second before its time limit.",
        }
    }

    const fn limits(self) -> &'static str {
        match self {
            Self::Honest | Self::OverPromising => {
                "Ten nodes at half load for 20 minutes, never more; it states its times truly. Found means in quarantine. Paid by the token."
            }
            Self::SlowLoris => {
                "As above, where nobody is overtaken, as gateways do it. Only a task's own deadline ends it, which blames nobody."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_earns_little_and_who_promises_more_gains_little() {
        let [loris, more] = [Server::SlowLoris, Server::OverPromising].map(|server| row(&Setting::new(2), server));
        assert!(loris.income_vs_honest < 0.1, "{loris:?}");
        assert!(more.income_vs_honest < 1.2, "{more:?}");
    }

    #[test]
    fn every_node_of_an_honest_network_earns_about_the_same() {
        let network = Network::new(9, Server::Honest).run();
        assert!(network.found.is_none() && (0.8..1.25).contains(&network.income()), "{}", network.income());
        // Two seconds each, and up to a tick on each side.
        let mean_s = network.waited.0 as f64 / 1e6 / network.served as f64;
        assert!((1.9..2.8).contains(&mean_s), "{mean_s}");
    }
}
