//! Which node gets a task: the one where it is predicted to end first, among a few of the fastest that are free.
//!
//! An idle node that was not measured lately goes first: a node that gets no tasks would never be measured. One that was measured
//! a few times has the benefit of the doubt: P. Auer, N. Cesa-Bianchi, P. Fischer, "Finite-time Analysis of the Multiarmed
//! Bandit Problem", Machine Learning 47, 2002, where the bonus shrinks with the number of samples as here.
//!
//! Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001, for
//! choosing among a sample; the draw among near-ties keeps gateways that see the same figures from herding. A sample of
//! all nodes misses the few fast ones that are free where most that are free are slow: it is taken class by class.

use crate::breaker::Breaker;
use crate::flow::SLOW;
use crate::gate::Gate;
use crate::offer::Offers;
use crate::rate::{Rate, Rates};
use crate::region::{Want, Where};
use crate::reliability::{Reliabilities, Tier, attempts_in};
use crate::residency::{PASS_TOKENS, Resident};
use alloc::vec::Vec;
use ol_protocol::prf::{Noise, Seed};
use ol_protocol::{Micros, NodeId, TaskId, Timestamp, TokenCount, VariantId};

/// How many nodes of a class are compared; of more that are free, as many are sampled.
const SAMPLE: usize = 4;
/// How many classes beyond the fastest are compared: an idle node does as well as a busy one that is twice as fast.
const CLASSES_COMPARED: u8 = 2;
/// How many nodes are looked at if nobody in the sample will do. Bounds the time of one placement.
const SCAN_MAX: usize = 1024;
/// How many nodes a refusal names; the rest are like them.
const NAMED_MAX: usize = 8;
/// Costs within one part in so many of the lowest are equal: predictions are no better than that, and who is as good has work.
const NEAR_TIE: u64 = 5;
/// Outside the region that a task prefers each node costs as if it took longer, by one part in so many.
const ELSEWHERE: u64 = 2;

/// A task that looks for a node.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The task; decides the draws, with the seed.
    pub task: TaskId,
    /// What it needs.
    pub variant: VariantId,
    /// Where.
    pub place: Where,
    /// What was promised.
    pub tier: Tier,
    /// Tokens to prefill, those of earlier attempts included.
    pub prompt: TokenCount,
    /// Tokens that are expected to be decoded.
    pub output: TokenCount,
    /// When it is of no use any more.
    pub deadline: Timestamp,
    /// How many attempts it may still have.
    pub attempts: u8,
    /// Nodes that are not to get it: those it failed on.
    pub excluded: &'a [NodeId],
    /// Whether a node that was not measured will do.
    pub trial: Trial,
    /// Who holds the first tokens of the prompt from an earlier task.
    pub resident: Option<Resident>,
}

impl Ask<'_> {
    /// What it needs of a node for certain.
    pub const fn want(&self) -> Want {
        Want { variant: self.variant, region: self.place.bound() }
    }

    /// Tokens that the node has to prefill; what it holds of them counts as one pass.
    pub fn prefill(&self, node: NodeId) -> TokenCount {
        let resident = self.resident.filter(|resident| resident.node == node);
        let rest = |held: Resident| TokenCount(self.prompt.0.saturating_sub(held.tokens.0)).max(PASS_TOKENS);
        resident.map_or(self.prompt, |held| rest(held).min(self.prompt))
    }

    fn is_resident(&self, node: NodeId) -> bool {
        self.resident.is_some_and(|resident| resident.node == node)
    }
}

/// What a node is worth to a task that nobody measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It goes first if it is idle: it becomes known, and the task can be given to another if it is slow.
    First,
    /// As last, but before nodes that are known to be slow: enough are being tried, and the task can be given to another.
    Soon,
    /// It goes last: the task could not be given to another.
    Last,
    /// It will not do: the task is late already.
    Never,
}

/// How a node is chosen among those that are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    /// By what it is predicted to cost. What gateways do; the others are what it is compared with.
    #[default]
    Cost,
    /// Any.
    Random,
    /// In turn.
    RoundRobin,
    /// Which has the fewest tasks in flight.
    LeastOutstanding,
    /// Of two drawn, which has fewer tasks in flight.
    TwoChoices,
}

/// What a choice of node is made from.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'a> {
    /// Free slots.
    pub offers: &'a Offers,
    /// Speeds.
    pub rates: &'a Rates,
    /// Quarantines.
    pub breaker: &'a Breaker,
    /// How many of their attempts end well.
    pub reliabilities: &'a Reliabilities,
    /// The gateway's seed of its draws.
    pub seed: Seed,
    /// How to choose.
    pub rule: Rule,
    /// Who was chosen last.
    pub last: Option<NodeId>,
}

/// What a task is predicted to take on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// Until the first token.
    pub begin: Micros,
    /// Until the last token: the cost.
    pub end: Micros,
}

/// Which node gets a task, and what was looked at to choose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// The node.
    pub node: NodeId,
    /// The nodes that were compared, itself among them; none where nodes are not chosen by cost.
    pub open: Vec<Open>,
    /// Nodes that may not have it, and why: `NAMED_MAX` at most.
    pub closed: Vec<(NodeId, Gate)>,
}

/// A node that could take the task. The lowest turn goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// When it is its turn.
    pub turn: Turn,
    /// Predicted time to the last token, less what may be chance.
    pub cost: Micros,
    /// Whether it is reliable enough for the task's tier.
    pub keeps: bool,
    /// The node.
    pub node: NodeId,
}

/// When a node gets a task, among those that could take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// First, to be measured.
    Trial,
    /// By its cost.
    Known,
    /// By its cost too, but it is known to be much slower than others.
    Slow,
    /// Nobody measured it yet, and it is idle: most such nodes are as fast as most nodes are. In place of a slow one.
    New,
    /// Where nobody else is. Whose measure has become old was not used for long, and most often for being slow.
    Unknown,
}

impl Turn {
    // Whose cost is known are compared by it.
    const fn rank(self) -> u8 {
        match self {
            Self::Trial => 0,
            Self::Known | Self::Slow => 1,
            Self::New => 2,
            Self::Unknown => 3,
        }
    }
}

impl Placement<'_> {
    /// The node for a task, or every kind of reason why there is none.
    pub fn pick(&self, now: Timestamp, ask: &Ask<'_>) -> Result<NodeId, Vec<Gate>> {
        self.choose(now, ask).map(|picked| picked.node)
    }

    /// As [`Placement::pick`], with what was looked at.
    pub fn choose(&self, now: Timestamp, ask: &Ask<'_>) -> Result<Picked, Vec<Gate>> {
        let mut draw = Draw::new(self.seed, ask);
        let (mut open, mut closed) = (Vec::new(), Vec::new());
        let picked = match self.rule {
            Rule::Cost => self.cheapest_of_few(now, ask, &mut draw, &mut open, &mut closed),
            Rule::Random | Rule::RoundRobin | Rule::LeastOutstanding | Rule::TwoChoices => {
                self.by_rule(now, ask, &mut draw, &mut closed)
            }
        };
        match picked {
            Some(node) => Ok(Picked { node, open, closed }),
            None => Err(self.why(ask, closed.into_iter().map(|(_, gate)| gate).collect())),
        }
    }

    fn cheapest_of_few(
        &self,
        now: Timestamp,
        ask: &Ask<'_>,
        draw: &mut Draw,
        open: &mut Vec<Open>,
        closed: &mut Vec<(NodeId, Gate)>,
    ) -> Option<NodeId> {
        open.reserve(SAMPLE);
        if let Where::Preferably(region) = ask.place {
            self.fastest(now, ask, Want { region: Some(region), ..ask.want() }, draw, open, closed);
        }
        self.fastest(now, ask, ask.want(), draw, open, closed);
        if let Some(Resident { node, .. }) = ask.resident.filter(|resident| self.is_ready(ask, resident.node)) {
            self.open(now, ask, core::iter::once(node), open, closed);
        }
        if open.is_empty() {
            closed.clear();
            self.open(now, ask, self.stretch(ask.want(), draw), open, closed);
        }
        if ask.tier != Tier::Standard && !open.iter().any(|node| node.keeps) {
            let keeps = |node: &NodeId| self.keeps(now, ask, *node, self.predict(*node, ask).end);
            let keepers = self.stretch(ask.want(), draw).filter(keeps);
            self.open(now, ask, keepers, open, closed);
        }
        self.cheapest(ask, open, draw)
    }

    // Whether a node that was not drawn has a slot, and stands where the task may be.
    fn is_ready(&self, ask: &Ask<'_>, node: NodeId) -> bool {
        self.offers.stands_in(node, ask.place.bound()) && self.offers.free(node, ask.variant) > 0
    }

    // A few of the fastest classes.
    fn fastest(
        &self,
        now: Timestamp,
        ask: &Ask<'_>,
        want: Want,
        draw: &mut Draw,
        open: &mut Vec<Open>,
        closed: &mut Vec<(NodeId, Gate)>,
    ) {
        let (mut known, mut slowest) = (0, usize::MAX);
        for (class, alike) in self.offers.ready_classes(want).iter().enumerate() {
            if class > slowest {
                break;
            }
            if alike.is_empty() {
                continue;
            }
            let before = open.len();
            self.open(now, ask, sample(alike, draw), open, closed);
            known += open.iter().skip(before).filter(|node| matches!(node.turn, Turn::Known | Turn::Slow)).count();
            if known > 0 && slowest == usize::MAX {
                slowest = class + usize::from(CLASSES_COMPARED);
            }
        }
    }

    // At most `SCAN_MAX` nodes in their order, from a drawn place on.
    fn stretch(&self, want: Want, draw: &mut Draw) -> impl Iterator<Item = NodeId> {
        let from = draw.below(self.offers.supply(want).ready_count as usize);
        let all = move || self.offers.ready_nodes(want);
        all().skip(from).chain(all().take(from)).take(SCAN_MAX)
    }

    fn by_rule(
        &self,
        now: Timestamp,
        ask: &Ask<'_>,
        draw: &mut Draw,
        closed: &mut Vec<(NodeId, Gate)>,
    ) -> Option<NodeId> {
        let mut open: Vec<NodeId> = Vec::new();
        for node in self.offers.ready_nodes(ask.want()) {
            match self.gate(now, ask, node) {
                Ok(_) => open.push(node),
                Err(gate) if closed.len() < NAMED_MAX => closed.push((node, gate)),
                Err(_) => {}
            }
        }
        let any = |draw: &mut Draw| open.get(draw.below(open.len())).copied();
        let fewest = |nodes: &[NodeId]| nodes.iter().copied().min_by_key(|node| (self.offers.in_flight(*node), *node));
        match self.rule {
            Rule::Cost | Rule::Random => any(draw),
            Rule::RoundRobin => {
                let next = open.iter().filter(|node| self.last.is_none_or(|last| **node > last)).min();
                next.or_else(|| open.iter().min()).copied()
            }
            Rule::LeastOutstanding => fewest(&open),
            Rule::TwoChoices => fewest(&[any(draw)?, any(draw)?]),
        }
    }

    /// What the task is predicted to take on the node.
    pub fn predict(&self, node: NodeId, ask: &Ask<'_>) -> Prediction {
        self.predict_by(&self.rates.of(node, ask.variant), node, ask)
    }

    fn predict_by(&self, rate: &Rate, node: NodeId, ask: &Ask<'_>) -> Prediction {
        let tokens = ask.prefill(node);
        let (service, prefill) = (rate.predict(tokens, ask.output), rate.prefill(tokens));
        let in_flight = self.offers.in_flight(node);
        let slots = in_flight.saturating_add(self.offers.free(node, ask.variant)).max(1);
        let queue = Micros(service.0.saturating_mul(in_flight) / slots);
        let wait = rate.round_trip().saturating_add(queue);
        let crowded = Micros(prefill.0.saturating_mul(in_flight) / slots);
        let begin = rate.round_trip().saturating_add(prefill).saturating_add(crowded);
        Prediction { begin, end: wait.saturating_add(service) }
    }

    fn open(
        &self,
        now: Timestamp,
        ask: &Ask<'_>,
        nodes: impl Iterator<Item = NodeId>,
        open: &mut Vec<Open>,
        closed: &mut Vec<(NodeId, Gate)>,
    ) {
        let enough = open.len() + SAMPLE;
        for node in nodes {
            if open.iter().any(|known| known.node == node) {
                continue;
            }
            match self.gate(now, ask, node) {
                Ok(node) => open.push(node),
                Err(gate) if closed.len() < NAMED_MAX => closed.push((node, gate)),
                Err(_) => {}
            }
            if open.len() == enough {
                break;
            }
        }
    }

    fn gate(&self, now: Timestamp, ask: &Ask<'_>, node: NodeId) -> Result<Open, Gate> {
        if ask.excluded.contains(&node) {
            return Err(Gate::Excluded { node });
        }
        if let Some(until) = self.breaker.quarantined(node, now) {
            return Err(Gate::Quarantined { node, until });
        }
        let rate = self.rates.of(node, ask.variant);
        let predicted = self.predict_by(&rate, node, ask);
        let left = ask.deadline.since(now);
        let is_measured = rate.is_measured();
        // A guess refuses nobody: a node that was never measured would otherwise never be.
        if predicted.begin > left && is_measured {
            return Err(Gate::DeadlineTooShort { needed: predicted.begin, left });
        }
        let turn = match ask.trial {
            _ if is_measured && self.is_slow(&rate, ask.variant) => Turn::Slow,
            _ if is_measured => Turn::Known,
            Trial::Never => return Err(Gate::NotMeasured { node }),
            Trial::First if self.offers.in_flight(node) == 0 => Turn::Trial,
            // It answered the conversation so far, and is no stranger.
            Trial::First | Trial::Soon | Trial::Last if ask.is_resident(node) => Turn::Known,
            Trial::Soon if self.is_new(node, ask.variant) => Turn::New,
            Trial::First | Trial::Soon | Trial::Last => Turn::Unknown,
        };
        let cost = rate.hopeful(predicted.end);
        let is_elsewhere = matches!(ask.place, Where::Preferably(region) if self.offers.region(node) != Some(region));
        let cost = if is_elsewhere { Micros(cost.0.saturating_add(cost.0 / ELSEWHERE)) } else { cost };
        Ok(Open { turn, cost, node, keeps: self.keeps(now, ask, node, predicted.end) })
    }

    fn is_slow(&self, rate: &Rate, variant: VariantId) -> bool {
        rate.token_nanos() > self.rates.usual(variant).token_nanos().saturating_mul(SLOW)
    }

    fn is_new(&self, node: NodeId, variant: VariantId) -> bool {
        self.offers.in_flight(node) == 0 && !self.rates.was_measured(node, variant)
    }

    // Whether the node is reliable enough for the task's tier, with the attempts that there is time for.
    fn keeps(&self, now: Timestamp, ask: &Ask<'_>, node: NodeId, takes: Micros) -> bool {
        let attempts = || attempts_in(ask.deadline.since(now), takes, u64::from(ask.attempts));
        // Most ask for no promise, and need no look at what is known of the node.
        ask.tier == Tier::Standard || ask.tier.is_kept(self.reliabilities.of(node), attempts())
    }

    fn cheapest(&self, ask: &Ask<'_>, open: &[Open], draw: &mut Draw) -> Option<NodeId> {
        let is_kept = open.iter().any(|node| node.keeps);
        if !is_kept {
            // The promise may be broken: less likely where it is most reliable, and for certain by waiting.
            let reliable = |open: &&Open| (self.reliabilities.of(open.node), core::cmp::Reverse(open.cost));
            return open.iter().max_by_key(reliable).map(|open| open.node);
        }
        let turn = open.iter().filter(|node| node.keeps).map(|node| node.turn.rank()).min()?;
        let new = || open.iter().filter(|node| node.keeps && node.turn == Turn::New).map(|node| node.node);
        let open = || open.iter().filter(|node| node.keeps && node.turn.rank() == turn);
        let lowest = open().map(|node| node.cost).min()?;
        let limit = lowest.saturating_add(Micros(lowest.0 / NEAR_TIE));
        let near: Vec<NodeId> = open().filter(|node| node.cost <= limit).map(|node| node.node).collect();
        // What is not computed again is saved for others, too.
        if let Some(node) = near.iter().find(|node| ask.is_resident(**node)) {
            return Some(*node);
        }
        let picked = near.get(draw.below(near.len())).copied();
        let is_slow = open().any(|node| Some(node.node) == picked && node.turn == Turn::Slow);
        if !is_slow {
            return picked;
        }
        let new: Vec<NodeId> = new().collect();
        if new.is_empty() { picked } else { new.get(draw.below(new.len())).copied() }
    }

    fn why(&self, ask: &Ask<'_>, mut gates: Vec<Gate>) -> Vec<Gate> {
        let supply = self.offers.supply(ask.want());
        let working = supply.node_count.saturating_sub(supply.draining_count);
        match ask.place.bound() {
            Some(region) if supply.node_count == 0 => gates.push(Gate::NoNodeInRegion { region }),
            None if supply.node_count == 0 => gates.push(Gate::NoNodeHasVariant),
            Some(_) | None => {}
        }
        if working > supply.ready_count {
            let node_count = working - supply.ready_count;
            gates.push(Gate::NoFreeSlot { node_count, in_flight: supply.in_flight });
        }
        if supply.draining_count > 0 {
            gates.push(Gate::Draining);
        }
        gates
    }
}

/// Draws that a seed, a task and its number of failures decide.
struct Draw {
    noise: Noise,
    index: u32,
}

impl Draw {
    fn new(seed: Seed, ask: &Ask<'_>) -> Self {
        let mut mixed = seed;
        for (byte, of_task) in mixed.0.iter_mut().zip(ask.task.0) {
            *byte ^= of_task;
        }
        let failures = u32::try_from(ask.excluded.len()).unwrap_or(u32::MAX);
        Self { noise: Noise::new(&mixed, failures), index: 0 }
    }

    // A number below `bound`, 0 for a bound of 0; the bias is under bound / 2^32.
    fn below(&mut self, bound: usize) -> usize {
        let word = self.noise.word(self.index);
        self.index += 1;
        ((u64::from(word) * bound as u64) >> 32) as usize
    }
}

// All nodes, or `SAMPLE` different ones: R. Floyd's sampling without replacement, CACM 30(9), 1987.
fn sample<'a>(nodes: &'a [NodeId], draw: &mut Draw) -> impl Iterator<Item = NodeId> + use<'a> {
    let mut chosen: Vec<usize> = Vec::with_capacity(SAMPLE);
    for last in nodes.len().saturating_sub(SAMPLE)..nodes.len() {
        let drawn = if nodes.len() > SAMPLE { draw.below(last + 1) } else { last };
        chosen.push(if chosen.contains(&drawn) { last } else { drawn });
    }
    chosen.into_iter().filter_map(|index| nodes.get(index).copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Reason;
    use alloc::collections::BTreeMap;
    use alloc::vec;

    const VARIANT: VariantId = VariantId([9; 32]);
    const NOW: Timestamp = Timestamp(1_000_000);
    // What is expected where nobody measured it, in microseconds.
    const ROUND_TRIP: u64 = 20_000;
    const LATER: Timestamp = Timestamp(1_000_000_000);

    #[derive(Default)]
    struct World {
        offers: Offers,
        rates: Rates,
        breaker: Breaker,
        reliabilities: Reliabilities,
    }

    impl World {
        fn new(node_count: u16, slots: u64) -> Self {
            let mut world = Self::default();
            for index in 0..node_count {
                world.offers.join(node(index));
                assert_eq!(world.offers.grant(node(index), VARIANT, slots), Ok(()));
            }
            world
        }

        fn pick(&self, ask: &Ask<'_>) -> Result<NodeId, Vec<Gate>> {
            let Self { offers, rates, breaker, reliabilities } = self;
            let (seed, rule, last) = (Seed([7; 32]), Rule::Cost, None);
            Placement { offers, rates, breaker, reliabilities, seed, rule, last }.pick(NOW, ask)
        }

        // How often each node gets one of so many tasks, without any of them running.
        fn shares(&self, tasks: u32) -> BTreeMap<NodeId, u32> {
            let mut shares = BTreeMap::new();
            for index in 0..tasks {
                *shares.entry(self.pick(&ask(index)).expect("a node is free")).or_default() += 1;
            }
            shares
        }

        fn decodes_in(&mut self, index: u16, micros_per_token: u64) {
            for _ in 0..50 {
                self.rates.prefilled(node(index), VARIANT, TokenCount(1_000), Micros(1_000));
                self.rates.decoded(node(index), VARIANT, TokenCount(1), Micros(micros_per_token));
            }
            self.offers.classify(node(index), VARIANT, self.rates.of(node(index), VARIANT).class());
        }
    }

    fn node(index: u16) -> NodeId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&index.to_be_bytes());
        NodeId(id)
    }

    fn ask(index: u32) -> Ask<'static> {
        let mut task = [0; 16];
        task[..4].copy_from_slice(&index.to_le_bytes());
        let (prompt, output) = (TokenCount(100), TokenCount(100));
        Ask {
            task: TaskId(task),
            variant: VARIANT,
            place: Where::Anywhere,
            tier: Tier::Standard,
            prompt,
            output,
            deadline: LATER,
            attempts: 4,
            excluded: &[],
            trial: Trial::First,
            resident: None,
        }
    }

    #[test]
    fn the_faster_node_gets_the_task() {
        let mut world = World::new(2, 4);
        world.decodes_in(0, 40_000);
        world.decodes_in(1, 10_000);
        assert_eq!(world.shares(100), BTreeMap::from([(node(1), 100)]));
    }

    #[test]
    fn a_node_that_nobody_measured_goes_first_or_last_or_not_at_all() {
        let mut world = World::new(2, 4);
        world.decodes_in(0, 10_000);
        let pick = |world: &World, trial| world.pick(&Ask { trial, ..ask(0) });
        assert_eq!(pick(&world, Trial::First), Ok(node(1)));
        assert_eq!(pick(&world, Trial::Last), Ok(node(0)));
        assert_eq!(world.offers.spend(node(1), VARIANT), Some(()));
        // One trial at a time.
        assert_eq!(pick(&world, Trial::First), Ok(node(0)));
        (0..4).for_each(|_| assert_eq!(world.offers.spend(node(0), VARIANT), Some(())));
        assert_eq!(pick(&world, Trial::Last), Ok(node(1)));
        let gates = pick(&world, Trial::Never).expect_err("only a stranger is free");
        assert!(gates.contains(&Gate::NotMeasured { node: node(1) }), "{gates:?}");
    }

    // Hundreds of nodes that had just come stood idle, as the only one that was known and free was slow, and hardly worth waiting past.
    #[test]
    fn a_node_that_nobody_measured_yet_goes_before_one_that_is_known_to_be_slow() {
        let mut world = World::new(4, 4);
        world.decodes_in(2, 400_000);
        (0..2).for_each(|index| world.decodes_in(index, 10_000));
        let pick = |world: &World| world.pick(&Ask { trial: Trial::Soon, ..ask(0) });
        for index in 0..2 {
            (0..4).for_each(|_| assert_eq!(world.offers.spend(node(index), VARIANT), Some(())));
        }
        assert_eq!(pick(&world), Ok(node(3)));
        // Not without limit, as keys are free, nor where a slow one holds the conversation.
        assert_eq!(world.pick(&Ask { trial: Trial::Last, ..ask(0) }), Ok(node(2)));
        assert_eq!(world.pick(&Ask { trial: Trial::Soon, resident: at_home(2, 100), ..ask(0) }), Ok(node(2)));
        // One of which a measure has become old does not.
        world.decodes_in(3, 10_000);
        world.rates.refresh(node(3), VARIANT, NOW);
        assert_eq!(world.rates.expire(LATER), [(node(3), VARIANT)]);
        world.offers.classify(node(3), VARIANT, 0);
        assert_eq!(pick(&world), Ok(node(2)));
    }

    #[test]
    fn the_few_fast_nodes_among_many_slow_ones_are_found() {
        let mut world = World::new(500, 1);
        for index in 0..500 {
            world.decodes_in(index, if index == 321 { 1_000 } else { 100_000 });
        }
        assert_eq!(world.shares(100), BTreeMap::from([(node(321), 100)]));
    }

    #[test]
    fn an_idle_node_is_compared_with_a_busy_one_that_is_a_little_faster() {
        let mut world = World::new(9, 4);
        (0..8).for_each(|index| world.decodes_in(index, 10_000));
        world.decodes_in(8, 14_500);
        for index in 0..8 {
            (0..3).for_each(|_| assert_eq!(world.offers.spend(node(index), VARIANT), Some(())));
        }
        assert_eq!(world.shares(100), BTreeMap::from([(node(8), 100)]));
    }

    #[test]
    fn a_loaded_node_costs_more_than_an_idle_one() {
        let mut world = World::new(2, 4);
        assert_eq!(world.offers.spend(node(1), VARIANT), Some(()));
        assert_eq!(world.shares(100), BTreeMap::from([(node(0), 100)]));
    }

    fn at_home(index: u16, tokens: u32) -> Option<Resident> {
        Some(Resident { node: node(index), tokens: TokenCount(tokens) })
    }

    #[test]
    fn who_holds_the_prompt_is_a_candidate_though_nobody_drew_it() {
        let mut world = World::new(200, 4);
        (0..200).for_each(|index| world.decodes_in(index, 10_000));
        let pick = |resident| world.pick(&Ask { resident, prompt: TokenCount(100_000), ..ask(0) });
        for index in [3, 77, 199] {
            assert_eq!(pick(at_home(index, 90_000)), Ok(node(index)));
            // As good as the others is good enough: what it need not compute is saved.
            assert_eq!(pick(at_home(index, 100)), Ok(node(index)));
        }
    }

    #[test]
    fn the_cost_decides_whether_who_holds_the_prompt_gets_the_task() {
        let mut world = World::new(2, 4);
        world.decodes_in(0, 10_000);
        world.decodes_in(1, 40_000);
        let pick = |world: &World, prompt, held| {
            world.pick(&Ask { resident: at_home(1, held), prompt: TokenCount(prompt), ..ask(0) })
        };
        // A prompt token takes 1 us: 100 tokens of an answer four times as slow are more than it saves.
        assert_eq!(pick(&world, 1_000_000, 900_000), Ok(node(0)));
        assert_eq!(pick(&world, 9_000_000, 8_000_000), Ok(node(1)));
        (0..4).for_each(|_| assert_eq!(world.offers.spend(node(1), VARIANT), Some(())));
        assert_eq!(pick(&world, 9_000_000, 8_000_000), Ok(node(0)), "without a slot it is no candidate");
        let excluded = [node(1)];
        let ask = Ask { resident: at_home(1, 100), excluded: &excluded, ..ask(0) };
        assert_eq!(world.pick(&ask), Ok(node(0)));
    }

    #[test]
    fn a_prediction_leaves_out_what_the_node_holds_but_for_one_pass() {
        let mut world = World::new(2, 1);
        (0..2).for_each(|index| world.decodes_in(index, 10_000));
        let World { offers, rates, breaker, reliabilities } = &world;
        let (seed, rule, last) = (Seed([7; 32]), Rule::Cost, None);
        let placement = Placement { offers, rates, breaker, reliabilities, seed, rule, last };
        let begin = |held| {
            let ask = Ask { resident: at_home(1, held), prompt: TokenCount(10_000), ..ask(0) };
            [0, 1].map(|index| placement.predict(node(index), &ask).begin.0 - ROUND_TRIP)
        };
        assert_eq!(begin(4_000), [10_000, 6_000]);
        assert_eq!(begin(20_000), [10_000, 11]);
    }

    #[test]
    fn near_ties_share_the_work_evenly() {
        let mut world = World::new(3, 4);
        world.decodes_in(0, 10_000);
        world.decodes_in(1, 11_000);
        world.decodes_in(2, 14_000);
        let shares = world.shares(10_000);
        // Five standard deviations of a fair coin over 10,000 throws are 250.
        assert!(shares[&node(0)].abs_diff(5_000) < 250, "{shares:?}");
        assert_eq!(shares.len(), 2);
    }

    #[test]
    fn of_many_equal_nodes_each_has_its_turn() {
        let shares = World::new(100, 1).shares(20_000);
        // 200 on average, standard deviation 14; six of them.
        assert_eq!(shares.len(), 100);
        assert!(shares.values().all(|share| share.abs_diff(200) < 85), "{shares:?}");
    }

    #[test]
    fn the_same_seed_and_task_give_the_same_node() {
        let world = World::new(100, 1);
        assert_eq!(world.pick(&ask(5)), world.pick(&ask(5)));
    }

    #[test]
    fn a_sample_has_different_nodes() {
        let nodes: Vec<NodeId> = (0..50).map(node).collect();
        for index in 0..1_000 {
            let mut draw = Draw::new(Seed([1; 32]), &ask(index));
            let mut chosen: Vec<NodeId> = sample(&nodes, &mut draw).collect();
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(chosen.len(), SAMPLE, "task {index}");
        }
    }

    #[test]
    fn nodes_that_failed_get_nothing_and_are_named() {
        let mut world = World::new(2, 1);
        world.breaker.failed(node(1), Reason::NodeError, NOW);
        let excluded = [node(0)];
        let until = NOW.after(Micros::from_secs(15));
        let mut gates = world.pick(&Ask { excluded: &excluded, ..ask(0) }).expect_err("both failed");
        gates.sort_unstable_by_key(|gate| matches!(gate, Gate::Quarantined { .. }));
        assert_eq!(gates, [Gate::Excluded { node: node(0) }, Gate::Quarantined { node: node(1), until }]);
        assert_eq!(world.pick(&ask(0)), Ok(node(0)));
    }

    #[test]
    fn the_only_healthy_node_of_many_is_found() {
        let mut world = World::new(1_000, 1);
        for index in (0..1_000).filter(|&index| index != 777) {
            world.breaker.failed(node(index), Reason::NodeError, NOW);
        }
        assert_eq!(world.pick(&ask(0)), Ok(node(777)));
        world.breaker.failed(node(777), Reason::NodeError, NOW);
        assert_eq!(world.pick(&ask(0)).map_err(|gates| gates.len()), Err(NAMED_MAX));
    }

    #[test]
    fn each_kind_of_scarcity_has_its_own_reason() {
        assert_eq!(World::default().pick(&ask(0)), Err(vec![Gate::NoNodeHasVariant]));
        let mut world = World::new(3, 1);
        assert_eq!(world.offers.spend(node(0), VARIANT), Some(()));
        assert_eq!(world.offers.spend(node(1), VARIANT), Some(()));
        world.offers.drain(node(2));
        let full = Gate::NoFreeSlot { node_count: 2, in_flight: 2 };
        assert_eq!(world.pick(&ask(0)), Err(vec![full, Gate::Draining]));
    }

    #[test]
    fn an_answer_that_cannot_begin_in_time_is_refused_by_measured_nodes_only() {
        let mut world = World::new(1, 1);
        let hurried = Ask { deadline: NOW.after(Micros(10)), ..ask(0) };
        assert_eq!(world.pick(&hurried), Ok(node(0)));
        world.decodes_in(0, 10_000);
        let gates = world.pick(&hurried).expect_err("it takes longer than 10 us");
        assert!(matches!(gates[..], [Gate::DeadlineTooShort { left: Micros(10), .. }]), "{gates:?}");
    }
    fn region(name: &str) -> ol_protocol::Region {
        name.parse().expect("a name")
    }

    // Each has half of the nodes, the faster ones in the first.
    fn two_regions(node_count: u16) -> World {
        let mut world = World::new(node_count, 2);
        for index in 0..node_count {
            let (name, micros) = if index % 2 == 0 { ("eu", 10_000) } else { ("us", 12_500) };
            world.decodes_in(index, micros);
            world.offers.locate(node(index), Some(region(name)));
        }
        world
    }

    #[test]
    fn a_region_that_is_preferred_is_left_only_where_it_costs_much_more() {
        let mut world = two_regions(4);
        let pick = |world: &World, name| world.pick(&Ask { place: Where::Preferably(region(name)), ..ask(1) });
        assert!([node(0), node(2)].map(Ok).contains(&pick(&world, "eu")));
        assert!([node(1), node(3)].map(Ok).contains(&pick(&world, "us")));
        // A busy region is left, and found again when it has room.
        for index in [1, 3, 1, 3] {
            assert_eq!(world.offers.spend(node(index), VARIANT), Some(()));
        }
        assert!([node(0), node(2)].map(Ok).contains(&pick(&world, "us")));
        world.offers.finish(node(1), VARIANT);
        world.offers.finish(node(1), VARIANT);
        assert_eq!(world.offers.grant(node(1), VARIANT, 4), Ok(()));
        assert_eq!(pick(&world, "us"), Ok(node(1)));
        assert!([node(0), node(2)].map(Ok).contains(&pick(&world, "nowhere")));
    }

    #[test]
    fn the_preferred_region_is_found_among_very_many_faster_nodes() {
        let mut world = two_regions(1_000);
        for index in (0..1_000).filter(|index| index % 2 == 1 && *index != 501) {
            world.offers.locate(node(index), Some(region("eu")));
        }
        assert_eq!(world.pick(&Ask { place: Where::Preferably(region("us")), ..ask(1) }), Ok(node(501)));
        assert_eq!(world.pick(&Ask { place: Where::Only(region("us")), ..ask(1) }), Ok(node(501)));
    }

    #[test]
    fn who_is_bound_to_a_region_gets_a_node_there_or_none() {
        let mut world = two_regions(4);
        let bound = Ask { place: Where::Only(region("us")), ..ask(1) };
        for index in [1, 3, 1, 3] {
            let picked = world.pick(&bound);
            assert!([node(1), node(3)].map(Ok).contains(&picked), "{picked:?}");
            assert_eq!(world.offers.spend(node(index), VARIANT), Some(()));
        }
        assert_eq!(world.pick(&bound), Err(vec![Gate::NoFreeSlot { node_count: 2, in_flight: 4 }]));
        let nowhere = Ask { place: Where::Only(region("mars")), ..ask(1) };
        assert_eq!(world.pick(&nowhere), Err(vec![Gate::NoNodeInRegion { region: region("mars") }]));
    }

    #[test]
    fn a_tier_goes_to_nodes_that_are_reliable_enough_for_the_time_that_is_left() {
        let mut world = World::new(2, 4);
        world.decodes_in(0, 1_000);
        world.decodes_in(1, 1_500);
        (0..1_200).for_each(|_| world.reliabilities.ended(node(1), true));
        let deadline = NOW.after(Micros::from_secs(6));
        let hurried = Ask { tier: Tier::Three, deadline, ..ask(0) };
        // Time for one attempt only: the faster one is not known well enough.
        assert_eq!(world.pick(&hurried), Ok(node(1)));
        assert_eq!(world.pick(&Ask { tier: Tier::Three, ..ask(0) }), Ok(node(0)));
        assert_eq!(world.pick(&Ask { deadline, ..ask(0) }), Ok(node(0)));
        // Where none is, it goes to the best of them: to wait would break the promise for certain.
        (0..10).for_each(|_| world.reliabilities.ended(node(1), false));
        (0..5).for_each(|_| world.reliabilities.ended(node(0), true));
        let best = [0, 1].into_iter().max_by_key(|index| world.reliabilities.of(node(*index)));
        assert_eq!(world.pick(&hurried).ok(), best.map(node));
    }
}
