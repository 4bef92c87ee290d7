//! Where a task may be computed, where nodes say that they stand, and whether the time of their messages contradicts them.
//!
//! Nobody can prove where a machine stands. What its round trip shows is that it does not stand among those that say the
//! same: it is much farther away than they are, or much nearer. Such a node takes no task that is bound to the region.

use alloc::collections::BTreeMap;
use ol_protocol::{Micros, NodeId, Region, VariantId};

/// How much farther or nearer than its region's usual node one may be: half as much again, and this for the last mile.
const LAST_MILE: Micros = Micros::from_millis(15);
/// How far one sample moves a region's usual round trip: one part in so many.
const STEP: u64 = 16;

/// Where a task is to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Where {
    /// Wherever it costs least.
    #[default]
    Anywhere,
    /// In a region, unless it costs much more there than elsewhere.
    Preferably(Region),
    /// In a region or not at all.
    Only(Region),
}

impl Where {
    /// The region that the task is bound to.
    pub const fn bound(self) -> Option<Region> {
        match self {
            Self::Anywhere | Self::Preferably(_) => None,
            Self::Only(region) => Some(region),
        }
    }

    /// The region that is better than others, or the only one.
    pub const fn region(self) -> Option<Region> {
        match self {
            Self::Anywhere => None,
            Self::Preferably(region) | Self::Only(region) => Some(region),
        }
    }
}

/// What a task needs of a node: its variant, and the region that it is bound to, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    /// What computes it.
    pub variant: VariantId,
    /// The only region that may.
    pub region: Option<Region>,
}

impl From<VariantId> for Want {
    fn from(variant: VariantId) -> Self {
        Self { variant, region: None }
    }
}

/// The regions of all nodes. O(log n) per call.
#[derive(Debug, Clone, Default)]
pub struct Regions {
    nodes: BTreeMap<NodeId, Claim>,
    // The latency map: a region is in it as long as a node says that it stands there.
    usual: BTreeMap<Region, Usual>,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    region: Region,
    // The shortest round trip of this link: queues make others longer.
    nearest: Option<Micros>,
}

/// A region as the gateway sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usual {
    /// Nodes that say that they stand there.
    pub node_count: u64,
    /// Usual round trip of those that have done work, a median followed in steps; `None` before one was measured.
    pub round_trip: Option<Micros>,
}

impl Regions {
    /// A node connected, and says where it stands.
    pub fn join(&mut self, node: NodeId, region: Option<Region>) {
        self.leave(node);
        if let Some(region) = region {
            self.nodes.insert(node, Claim { region, nearest: None });
            self.usual.entry(region).or_default().node_count += 1;
        }
    }

    /// A node's connection ended.
    pub fn leave(&mut self, node: NodeId) {
        let Some(Claim { region, .. }) = self.nodes.remove(&node) else { return };
        let Some(usual) = self.usual.get_mut(&region) else { return };
        usual.node_count -= 1;
        if usual.node_count == 0 {
            self.usual.remove(&region);
        }
    }

    /// A message to the node and back took that time. What is usual follows from those that have `worked`: keys are free, and a
    /// crowd of new ones would make any region as far away as they are.
    pub fn round_trip(&mut self, node: NodeId, took: Micros, worked: bool) {
        let Some(claim) = self.nodes.get_mut(&node) else { return };
        let nearest = claim.nearest.map_or(took, |before| before.min(took));
        claim.nearest = Some(nearest);
        let Some(usual) = self.usual.get_mut(&claim.region).filter(|_| worked) else { return };
        let Some(before) = usual.round_trip else {
            usual.round_trip = Some(nearest);
            return;
        };
        let step = before.0 / STEP + 1;
        let towards = if nearest > before { before.0.saturating_add(step) } else { before.0.saturating_sub(step) };
        usual.round_trip = Some(Micros(towards));
    }

    /// Where the node stands as far as can be told: where it says, if that was measured and nothing contradicts it.
    pub fn of(&self, node: NodeId) -> Option<Region> {
        let Claim { region, nearest } = self.nodes.get(&node)?;
        let (nearest, usual) = ((*nearest)?, self.usual.get(region)?.round_trip);
        usual.is_none_or(|usual| is_among(nearest, usual)).then_some(*region)
    }

    /// The latency map: regions by name.
    pub fn map(&self) -> impl Iterator<Item = (Region, Usual)> + '_ {
        self.usual.iter().map(|(region, usual)| (*region, *usual))
    }
}

// Whether one round trip is as long as another, within half as much again and the last mile.
fn is_among(nearest: Micros, usual: Micros) -> bool {
    let (short, long) = (nearest.min(usual).0, nearest.max(usual).0);
    long <= short.saturating_add(short / 2).saturating_add(LAST_MILE.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId([byte; 32])
    }

    fn region(name: &str) -> Region {
        name.parse().expect("a name")
    }

    fn measured(regions: &mut Regions, byte: u8, name: &str, millis: u64) {
        regions.join(node(byte), Some(region(name)));
        for _ in 0..50 {
            regions.round_trip(node(byte), Micros::from_millis(millis), true);
        }
    }

    #[test]
    fn a_node_stands_where_it_says_once_that_was_measured() {
        let mut regions = Regions::default();
        regions.join(node(1), Some(region("eu")));
        assert_eq!((regions.of(node(1)), regions.map().count()), (None, 1));
        regions.round_trip(node(1), Micros::from_millis(20), false);
        assert_eq!(regions.of(node(1)), Some(region("eu")));
        regions.join(node(2), None);
        regions.round_trip(node(2), Micros::from_millis(20), true);
        assert_eq!(regions.of(node(2)), None);
    }

    // The attack: a machine far away, or next door, that says it stands in a region whose work is bound to it.
    #[test]
    fn a_node_that_is_much_farther_or_nearer_than_its_region_is_not_in_it() {
        let mut regions = Regions::default();
        (0..4).for_each(|byte| measured(&mut regions, byte, "eu", 20));
        (10..14).for_each(|byte| measured(&mut regions, byte, "asia", 200));
        for (byte, name, millis, is_there) in
            [(50, "eu", 45, true), (51, "eu", 90, false), (52, "asia", 140, true), (53, "asia", 20, false)]
        {
            regions.join(node(byte), Some(region(name)));
            regions.round_trip(node(byte), Micros::from_millis(millis), false);
            assert_eq!(regions.of(node(byte)).is_some(), is_there, "{name} at {millis} ms");
        }
        assert!((0..4).all(|byte| regions.of(node(byte)) == Some(region("eu"))), "{regions:?}");
    }

    // The attack: many keys that never worked, all far away, say that they stand in a region.
    #[test]
    fn a_crowd_of_strangers_moves_no_region() {
        let mut regions = Regions::default();
        measured(&mut regions, 1, "eu", 20);
        for byte in 10..200 {
            regions.join(node(byte), Some(region("eu")));
            (0..20).for_each(|_| regions.round_trip(node(byte), Micros::from_millis(250), false));
        }
        assert_eq!(regions.of(node(1)), Some(region("eu")));
        assert!((10..200).all(|byte| regions.of(node(byte)).is_none()), "{regions:?}");
    }

    #[test]
    fn one_slow_message_moves_nobody() {
        let mut regions = Regions::default();
        (0..3).for_each(|byte| measured(&mut regions, byte, "eu", 20));
        regions.round_trip(node(0), Micros::from_secs(5), true);
        assert_eq!(regions.of(node(0)), Some(region("eu")));
    }

    #[test]
    fn a_region_is_on_the_map_as_long_as_a_node_is_there() {
        let mut regions = Regions::default();
        (0..2).for_each(|byte| measured(&mut regions, byte, "eu", 20));
        let usual = Usual { node_count: 2, round_trip: Some(Micros::from_millis(20)) };
        assert_eq!(regions.map().map(|(region, usual)| (region, usual.node_count)).next(), Some((region("eu"), 2)));
        let (_, is) = regions.map().next().expect("one");
        let [is, usual] = [is, usual].map(|usual| usual.round_trip.unwrap_or_default().0);
        assert!(is.abs_diff(usual) <= usual / STEP + 1, "{is}");
        (0..2).for_each(|byte| regions.leave(node(byte)));
        regions.leave(node(0));
        assert_eq!(regions.map().count(), 0);
    }
}
