//! Which node gets a task: the one where it is predicted to end first, among a few.
//!
//! An idle node that was not measured often enough goes first: its first answer may have been slow for a reason that is
//! over, and a node that gets no tasks is never measured again.
//!
//! Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001, for
//! choosing among a sample; the draw among near-ties keeps gateways that see the same figures from herding.

use crate::breaker::Breaker;
use crate::gate::Gate;
use crate::offer::Offers;
use crate::rate::Rates;
use alloc::vec::Vec;
use ol_protocol::prf::{Noise, Seed};
use ol_protocol::{Micros, NodeId, TaskId, Timestamp, TokenCount, VariantId};

/// How many nodes are compared; with more free ones, as many are sampled.
const SAMPLE: usize = 8;
/// How many nodes are looked at if nobody in the sample will do. Bounds the time of one placement.
const SCAN_MAX: usize = 1024;
/// How many nodes a refusal names; the rest are like them.
const NAMED_MAX: usize = 8;
/// Costs within one part in so many of the lowest are equal: predictions are no better than that.
const NEAR_TIE: u64 = 10;

/// A task that looks for a node.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The task; decides the draws, with the seed.
    pub task: TaskId,
    /// What it needs.
    pub variant: VariantId,
    /// Tokens to prefill, those of earlier attempts included.
    pub prompt: TokenCount,
    /// Tokens that are expected to be decoded.
    pub output: TokenCount,
    /// When it is of no use any more.
    pub deadline: Timestamp,
    /// Nodes that are not to get it: those it failed on.
    pub excluded: &'a [NodeId],
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
    /// The gateway's seed of its draws.
    pub seed: Seed,
}

/// What a task is predicted to take on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// Until the first token.
    pub begin: Micros,
    /// Until the last token: the cost.
    pub end: Micros,
}

// A node that could take the task.
#[derive(Debug, Clone, Copy)]
struct Open {
    // Idle, and not measured often enough.
    is_trial: bool,
    cost: Micros,
    node: NodeId,
}

impl Placement<'_> {
    /// The node for a task, or every kind of reason why there is none.
    pub fn pick(&self, now: Timestamp, ask: &Ask<'_>) -> Result<NodeId, Vec<Gate>> {
        let ready = self.offers.ready_nodes(ask.variant);
        let mut draw = Draw::new(self.seed, ask);
        let mut gates = Vec::new();
        let mut open = self.open(now, ask, sample(ready, &mut draw), &mut gates);
        if open.is_empty() && ready.len() > SAMPLE {
            gates.clear();
            open = self.open(now, ask, stretch(ready, &mut draw), &mut gates);
        }
        self.cheapest(&open, &mut draw).ok_or_else(|| self.why(ask, gates))
    }

    /// What the task is predicted to take on the node.
    pub fn predict(&self, node: NodeId, ask: &Ask<'_>) -> Prediction {
        let rate = self.rates.of(node, ask.variant);
        let service = rate.predict(ask.prompt, ask.output);
        let in_flight = self.offers.in_flight(node);
        let slots = in_flight.saturating_add(self.offers.free(node, ask.variant)).max(1);
        let queue = Micros(service.0.saturating_mul(in_flight) / slots);
        let wait = rate.round_trip().saturating_add(queue);
        Prediction { begin: wait.saturating_add(rate.prefill(ask.prompt)), end: wait.saturating_add(service) }
    }

    fn open(
        &self,
        now: Timestamp,
        ask: &Ask<'_>,
        nodes: impl Iterator<Item = NodeId>,
        gates: &mut Vec<Gate>,
    ) -> Vec<Open> {
        let mut open = Vec::with_capacity(SAMPLE);
        for node in nodes {
            match self.gate(now, ask, node) {
                Ok(node) => open.push(node),
                Err(gate) if gates.len() < NAMED_MAX => gates.push(gate),
                Err(_) => {}
            }
            if open.len() == SAMPLE {
                break;
            }
        }
        open
    }

    fn gate(&self, now: Timestamp, ask: &Ask<'_>, node: NodeId) -> Result<Open, Gate> {
        if ask.excluded.contains(&node) {
            return Err(Gate::Excluded { node });
        }
        if let Some(until) = self.breaker.quarantined(node, now) {
            return Err(Gate::Quarantined { node, until });
        }
        let predicted = self.predict(node, ask);
        let left = ask.deadline.since(now);
        let is_measured = self.rates.of(node, ask.variant).is_measured();
        // A guess refuses nobody: a node that was never measured would otherwise never be.
        if predicted.begin > left && is_measured {
            return Err(Gate::DeadlineTooShort { needed: predicted.begin, left });
        }
        let is_trial = !is_measured && self.offers.in_flight(node) == 0;
        Ok(Open { is_trial, cost: predicted.end, node })
    }

    fn cheapest(&self, open: &[Open], draw: &mut Draw) -> Option<NodeId> {
        let is_trial = open.iter().any(|node| node.is_trial);
        let open = || open.iter().filter(|node| node.is_trial == is_trial);
        let lowest = open().map(|node| node.cost).min()?;
        let limit = lowest.saturating_add(Micros(lowest.0 / NEAR_TIE));
        let near: Vec<NodeId> = open().filter(|node| node.cost <= limit).map(|node| node.node).collect();
        near.get(draw.below(near.len())).copied()
    }

    fn why(&self, ask: &Ask<'_>, mut gates: Vec<Gate>) -> Vec<Gate> {
        let supply = self.offers.supply(ask.variant);
        let working = supply.node_count - supply.draining_count;
        if supply.node_count == 0 {
            gates.push(Gate::NoNodeHasVariant);
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

// At most `SCAN_MAX` nodes in their order, from a drawn place on.
fn stretch<'a>(nodes: &'a [NodeId], draw: &mut Draw) -> impl Iterator<Item = NodeId> + use<'a> {
    let (before, after) = nodes.split_at(draw.below(nodes.len()));
    after.iter().chain(before).copied().take(SCAN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Reason;
    use alloc::collections::BTreeMap;
    use alloc::vec;

    const VARIANT: VariantId = VariantId([9; 32]);
    const NOW: Timestamp = Timestamp(1_000_000);
    const LATER: Timestamp = Timestamp(1_000_000_000);

    #[derive(Default)]
    struct World {
        offers: Offers,
        rates: Rates,
        breaker: Breaker,
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
            let Self { offers, rates, breaker } = self;
            Placement { offers, rates, breaker, seed: Seed([7; 32]) }.pick(NOW, ask)
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
        Ask { task: TaskId(task), variant: VARIANT, prompt, output, deadline: LATER, excluded: &[] }
    }

    #[test]
    fn the_faster_node_gets_the_task() {
        let mut world = World::new(2, 4);
        world.decodes_in(0, 40_000);
        world.decodes_in(1, 10_000);
        assert_eq!(world.shares(100), BTreeMap::from([(node(1), 100)]));
    }

    #[test]
    fn a_node_whose_first_answer_was_slow_is_tried_again_while_it_is_idle() {
        let mut world = World::new(2, 4);
        world.decodes_in(0, 10_000);
        for _ in 0..2 {
            world.rates.prefilled(node(1), VARIANT, TokenCount(1), Micros(10_000_000));
            assert_eq!(world.pick(&ask(0)), Ok(node(1)));
        }
        assert_eq!(world.offers.spend(node(1), VARIANT), Some(()));
        assert_eq!(world.pick(&ask(0)), Ok(node(0)));
        world.offers.finish(node(1), VARIANT);
        world.rates.prefilled(node(1), VARIANT, TokenCount(1), Micros(10_000_000));
        assert_eq!(world.pick(&ask(0)), Ok(node(0)));
    }

    #[test]
    fn a_loaded_node_costs_more_than_an_idle_one() {
        let mut world = World::new(2, 4);
        assert_eq!(world.offers.spend(node(1), VARIANT), Some(()));
        assert_eq!(world.shares(100), BTreeMap::from([(node(0), 100)]));
    }

    #[test]
    fn near_ties_share_the_work_evenly() {
        let mut world = World::new(3, 4);
        world.decodes_in(0, 10_000);
        world.decodes_in(1, 10_500);
        world.decodes_in(2, 12_000);
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
}
