//! Tiers of service, and the nodes that are reliable enough for them.
//!
//! A tier is a promise: of the tasks that were admitted at it, so many are answered within their deadlines. A task that fails on
//! one node goes to another, so what a node must be like follows from how many attempts the deadline leaves time for.

use alloc::collections::{BTreeMap, BTreeSet};
use ol_protocol::{Micros, NodeId};

const ONE: u64 = 1_000_000_000;
/// What is thought of a node that nobody knows: one attempt in ten fails, as if this was seen of ten.
const PRIOR: Share = Share { billionths: 900_000_000, weight: 10 };
/// How much the newest of many attempts counts: one part in so many, enough to tell 999 in 1,000 from 99 in 100.
const ATTEMPTS: u64 = 2_000;
/// Time after which a failure is noticed at the latest, if it is that of a link or a machine.
const NOTICED: Micros = Micros::from_secs(5);
/// The most nodes remembered that are not connected. Keys cost nothing.
const NODES_MAX: usize = 65_536;

/// What a tenant asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Tier {
    /// As good as it goes.
    #[default]
    Standard,
    /// 99 in 100 within their deadlines.
    Two,
    /// 999 in 1,000.
    Three,
}

impl Tier {
    /// The tiers that promise something.
    pub const PROMISES: [Self; 2] = [Self::Two, Self::Three];

    /// Its name in requests: nines in percent.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Two => "99",
            Self::Three => "99.9",
        }
    }

    /// The tier of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Standard, Self::Two, Self::Three].into_iter().find(|tier| tier.name() == name)
    }

    // How many tasks in a billion may miss their deadlines.
    const fn misses(self) -> Option<u64> {
        match self {
            Self::Standard => None,
            Self::Two => Some(ONE / 100),
            Self::Three => Some(ONE / 1_000),
        }
    }

    /// Whether so many attempts on such nodes keep the promise.
    pub fn is_kept(self, reliability: Reliability, attempts: u64) -> bool {
        let Some(misses) = self.misses() else { return true };
        let fails = ONE - reliability.0.min(ONE);
        // The chance that all fail, rounded up.
        let all = (0..attempts.min(8)).fold(ONE, |all, _| (all * fails).div_ceil(ONE));
        all <= misses
    }
}

/// How many attempts one after the other a task has time for, each of which takes so long: at least one, at most `most`.
pub fn attempts_in(left: Micros, takes: Micros, most: u64) -> u64 {
    (left.0 / takes.saturating_add(NOTICED).0.max(1)).clamp(1, most.max(1))
}

/// The share of attempts that end well, in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reliability(pub u64);

impl Reliability {
    /// In millionths, rounded down.
    pub const fn ppm(self) -> u32 {
        (self.0 / 1_000) as u32
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    billionths: u64,
    weight: u64,
}

/// How reliable nodes are: exponential means over their attempts. O(log n) per call.
#[derive(Debug, Clone, Default)]
pub struct Reliabilities {
    shares: BTreeMap<NodeId, Share>,
    connected: BTreeSet<NodeId>,
}

impl Reliabilities {
    /// A node connected.
    pub fn join(&mut self, node: NodeId) {
        self.connected.insert(node);
    }

    /// A node's connection ended. What is known of it stays.
    pub fn leave(&mut self, node: NodeId) {
        self.connected.remove(&node);
        // Forgets any: strangers are as good as those that are forgotten.
        while self.shares.len() > self.connected.len() + NODES_MAX {
            let Some(node) = self.shares.keys().find(|node| !self.connected.contains(*node)).copied() else { break };
            self.shares.remove(&node);
        }
    }

    /// An attempt ended well, or failed by the node's fault.
    pub fn ended(&mut self, node: NodeId, is_well: bool) {
        let share = self.shares.entry(node).or_insert(PRIOR);
        share.billionths = (share.billionths * share.weight + u64::from(is_well) * ONE) / (share.weight + 1);
        share.weight = (share.weight + 1).min(ATTEMPTS - 1);
    }

    /// What is known of the node, or thought of a stranger.
    pub fn of(&self, node: NodeId) -> Reliability {
        Reliability(self.shares.get(&node).unwrap_or(&PRIOR).billionths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 32]);

    fn after(well: u32, failed: u32) -> Reliability {
        let mut known = Reliabilities::default();
        (0..failed).for_each(|_| known.ended(NODE, false));
        (0..well).for_each(|_| known.ended(NODE, true));
        known.of(NODE)
    }

    #[test]
    fn a_tier_needs_the_more_attempts_the_less_reliable_nodes_are() {
        let needed = |tier: Tier, ppm: u64| (1..9).find(|attempts| tier.is_kept(Reliability(ppm * 1_000), *attempts));
        let shares = [999_000, 990_000, 968_400, 900_000, 500_000];
        assert_eq!(shares.map(|ppm| needed(Tier::Three, ppm)), [Some(1), Some(2), Some(2), Some(3), None]);
        assert_eq!(shares.map(|ppm| needed(Tier::Two, ppm)), [Some(1), Some(1), Some(2), Some(2), Some(7)]);
        assert!(Tier::Standard.is_kept(Reliability(0), 1));
    }

    #[test]
    fn a_newcomer_becomes_reliable_slowly_and_unreliable_soon() {
        assert_eq!(after(0, 0).ppm(), 900_000);
        assert!((985_000..995_000).contains(&after(90, 0).ppm()), "{:?}", after(90, 0));
        assert!(after(900, 0).ppm() < 999_000 && after(1_000, 0).ppm() > 999_000);
        assert!(after(0, 3).ppm() < 700_000, "{:?}", after(0, 3));
        // The best there is.
        assert!(after(60_000, 0).ppm() > 999_990, "{:?}", after(60_000, 0));
        // One failure of one that never failed is no more than it is.
        let mut known = Reliabilities::default();
        (0..60_000).for_each(|_| known.ended(NODE, true));
        known.ended(NODE, false);
        assert!((999_400..999_600).contains(&known.of(NODE).ppm()), "{:?}", known.of(NODE));
    }

    #[test]
    fn the_time_that_is_left_says_how_many_attempts_there_are() {
        let attempts = |left, takes| attempts_in(Micros::from_secs(left), Micros::from_secs(takes), 4);
        assert_eq!([attempts(0, 1), attempts(11, 1), attempts(12, 1), attempts(600, 1)], [1, 1, 2, 4]);
        assert_eq!(attempts_in(Micros(u64::MAX), Micros(u64::MAX), 0), 1);
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let mut known = Reliabilities::default();
        for index in 0..NODES_MAX as u64 + 10 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&index.to_le_bytes());
            known.join(NodeId(id));
            known.ended(NodeId(id), true);
            known.leave(NodeId(id));
        }
        assert_eq!((known.shares.len(), known.connected.len()), (NODES_MAX, 0));
    }

    #[test]
    fn names_are_read_back() {
        for tier in [Tier::Standard, Tier::Two, Tier::Three] {
            assert_eq!(Tier::named(tier.name()), Some(tier));
        }
        assert_eq!(Tier::named("100"), None);
    }
}
