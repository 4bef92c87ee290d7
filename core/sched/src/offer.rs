//! Offers: capacity that nodes granted, as cumulative credits.
//!
//! A node says how many tasks it has ever allowed on this connection, the gateway counts how many it ever sent, and
//! may send while `sent < total`. Grants and tasks that cross on the wire therefore never overload a node.
//!
//! A node that serves other gateways, too, may ask for slots back that were not used. What was sent before stays sent.
//!
//! Source: the flow-control windows of RFC 9113, section 5.2, with totals in place of increments as in RFC 9000,
//! section 4.1, so that a repeated grant changes nothing, and one that is no longer true neither.

use crate::region::Want;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ol_protocol::{NodeId, Region, VariantId};

/// The most tasks that a grant may allow beyond those sent: well above any engine's batch, well below a typing error.
pub const SLOTS_MAX: u64 = 4096;
/// The most variants that one node may offer, so that its memory here is bounded.
pub const VARIANTS_MAX: usize = 256;
/// Classes of speed: nodes of one class are alike within a factor of the square root of two, 64 of them span four billion.
pub const CLASSES: u8 = 64;

/// Why a grant was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The node has not joined.
    #[error("grant of a node that is not connected")]
    NotJoined,
    /// The total allows more than `SLOTS_MAX` tasks at once.
    #[error("grant of {total} with {sent} sent allows more than {SLOTS_MAX} tasks")]
    TooMany {
        /// Tasks sent so far.
        sent: u64,
        /// The total that was refused.
        total: u64,
    },
    /// The node offers more than `VARIANTS_MAX` variants.
    #[error("more than {VARIANTS_MAX} variants offered by one node")]
    TooManyVariants,
}

/// What every connected node granted. O(log n) per call, but for `leave` and `drain`: that per variant of the node. The nodes
/// that are ready lie in classes of speed, all together and once more by region, so that a few of the fastest are found without a look at the others.
#[derive(Debug, Clone, Default)]
pub struct Offers {
    nodes: BTreeMap<NodeId, Node>,
    pools: BTreeMap<VariantId, Pool>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    draining: bool,
    region: Option<Region>,
    in_flight: u64,
    credits: BTreeMap<VariantId, Credit>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Credit {
    total: u64,
    sent: u64,
    finished: u64,
    class: u8,
    // Where the node stands in its class of its pool's shelf, and of its region's: in both, or in neither if it has no region.
    place: Option<usize>,
    place_in_region: Option<usize>,
}

impl Credit {
    fn free(&self) -> u64 {
        assert!(self.sent <= self.total, "more tasks sent than granted");
        self.total - self.sent
    }
}

// The nodes of one variant.
#[derive(Debug, Clone, Default)]
struct Pool {
    ready: Shelf,
    regions: BTreeMap<Region, Shelf>,
    node_count: u64,
    draining_count: u64,
    in_flight: u64,
}

// Nodes that take work now by their classes, in an order that only the past inputs decide, so that a few can be sampled
// without walking all.
#[derive(Debug, Clone, Default)]
struct Shelf {
    classes: Vec<Vec<NodeId>>,
    ready_count: u64,
    // Those that stand here, ready or not; of a region only.
    node_count: u64,
}

impl Shelf {
    fn put(&mut self, node: NodeId, class: u8) -> usize {
        let class = usize::from(class);
        if self.classes.len() <= class {
            self.classes.resize_with(class + 1, Vec::new);
        }
        let Some(alike) = self.classes.get_mut(class) else { return 0 };
        alike.push(node);
        self.ready_count += 1;
        alike.len() - 1
    }

    // Says which node has the place now.
    fn take(&mut self, class: u8, place: usize) -> Option<NodeId> {
        let alike = self.classes.get_mut(usize::from(class))?;
        alike.swap_remove(place);
        self.ready_count -= 1;
        alike.get(place).copied()
    }
}

/// Figures over the nodes of one variant, or of those in one region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Supply {
    /// Connected nodes that granted the variant at least once.
    pub node_count: u64,
    /// Those of them that take no new work, wherever they stand.
    pub draining_count: u64,
    /// Those of them that have a free slot.
    pub ready_count: u64,
    /// Tasks of the variant sent and not finished, wherever.
    pub in_flight: u64,
}

/// What a node granted of one variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The variant.
    pub variant: VariantId,
    /// Tasks that it granted on this link in all.
    pub granted: u64,
    /// Slots that are free; of a node that drains they are not to be had.
    pub free: u64,
    /// Tasks sent and not finished.
    pub in_flight: u64,
    /// Its class of speed; 0 is tried first.
    pub class: u8,
}

impl Offers {
    /// A node connected; what an earlier connection granted is void.
    pub fn join(&mut self, node: NodeId) {
        self.leave(node);
        self.nodes.insert(node, Node::default());
    }

    /// A node's connection ended.
    pub fn leave(&mut self, node: NodeId) {
        let variants = self.variants_of(node);
        for &variant in &variants {
            self.unready(node, variant);
        }
        let Some(gone) = self.nodes.remove(&node) else { return };
        for (variant, credit) in gone.credits {
            let Some(pool) = self.pools.get_mut(&variant) else { continue };
            pool.depart(gone.region);
            pool.node_count -= 1;
            pool.draining_count -= u64::from(gone.draining);
            pool.in_flight -= credit.sent - credit.finished;
            if pool.node_count == 0 {
                self.pools.remove(&variant);
            }
        }
    }

    /// A node allows `total` tasks of the variant since it joined. A total that is not above the last changes nothing.
    pub fn grant(&mut self, node: NodeId, variant: VariantId, total: u64) -> Result<(), Error> {
        let known = self.nodes.get_mut(&node).ok_or(Error::NotJoined)?;
        let credit = known.credits.get(&variant).copied().unwrap_or_default();
        let total = total.max(credit.total);
        if total - credit.sent > SLOTS_MAX {
            return Err(Error::TooMany { sent: credit.sent, total });
        }
        if !known.credits.contains_key(&variant) {
            if known.credits.len() >= VARIANTS_MAX {
                return Err(Error::TooManyVariants);
            }
            let pool = self.pools.entry(variant).or_default();
            pool.arrive(known.region);
            pool.node_count += 1;
            pool.draining_count += u64::from(known.draining);
        }
        known.credits.insert(variant, Credit { total, ..credit });
        self.ready(node, variant);
        Ok(())
    }

    /// A node stands in that region, as far as can be told.
    pub fn locate(&mut self, node: NodeId, region: Option<Region>) {
        let Some(before) = self.nodes.get(&node).map(|known| known.region).filter(|before| *before != region) else {
            return;
        };
        let variants = self.variants_of(node);
        variants.iter().for_each(|variant| self.unready(node, *variant));
        if let Some(known) = self.nodes.get_mut(&node) {
            known.region = region;
        }
        for variant in variants {
            if let Some(pool) = self.pools.get_mut(&variant) {
                pool.depart(before);
                pool.arrive(region);
            }
            self.ready(node, variant);
        }
    }

    /// Where the node stands, as far as can be told.
    pub fn region(&self, node: NodeId) -> Option<Region> {
        self.nodes.get(&node).and_then(|known| known.region)
    }

    /// A node wants the variant's slots back beyond `total` tasks since it joined, as far as they are not used.
    pub fn withdraw(&mut self, node: NodeId, variant: VariantId, total: u64) {
        let Some(credit) = self.credit(node, variant) else { return };
        credit.total = credit.total.min(total.max(credit.sent));
        if credit.free() == 0 {
            self.unready(node, variant);
        }
    }

    /// Whether the node stands where a task is bound to; one that is bound to no region may go anywhere.
    pub fn stands_in(&self, node: NodeId, bound: Option<Region>) -> bool {
        bound.is_none() || self.region(node) == bound
    }

    /// A node takes no new work; what it has goes on.
    pub fn drain(&mut self, node: NodeId) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        if core::mem::replace(&mut known.draining, true) {
            return;
        }
        for variant in self.variants_of(node) {
            self.unready(node, variant);
            if let Some(pool) = self.pools.get_mut(&variant) {
                pool.draining_count += 1;
            }
        }
    }

    /// Takes one slot, or `None` if the node has none free.
    pub fn spend(&mut self, node: NodeId, variant: VariantId) -> Option<()> {
        if self.free(node, variant) == 0 {
            return None;
        }
        let known = self.nodes.get_mut(&node)?;
        let credit = known.credits.get_mut(&variant)?;
        credit.sent += 1;
        known.in_flight += 1;
        let exhausted = credit.free() == 0;
        self.pools.get_mut(&variant)?.in_flight += 1;
        if exhausted {
            self.unready(node, variant);
        }
        Some(())
    }

    /// A task that was sent has ended, however. Frees no slot: only the node's next grant does.
    pub fn finish(&mut self, node: NodeId, variant: VariantId) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        let Some(credit) = known.credits.get_mut(&variant) else { return };
        // The task of an earlier connection is not in these counts.
        if credit.finished == credit.sent {
            return;
        }
        credit.finished += 1;
        known.in_flight -= 1;
        if let Some(pool) = self.pools.get_mut(&variant) {
            pool.in_flight -= 1;
        }
    }

    /// How many tasks of the variant the node takes now; none while it drains.
    pub fn free(&self, node: NodeId, variant: VariantId) -> u64 {
        let Some(known) = self.nodes.get(&node) else { return 0 };
        if known.draining {
            return 0;
        }
        known.credits.get(&variant).map_or(0, Credit::free)
    }

    /// The nodes that take such a task now, with their free slots.
    pub fn candidates(&self, want: impl Into<Want>) -> impl Iterator<Item = (NodeId, u64)> {
        let want = want.into();
        self.ready_nodes(want).map(move |node| (node, self.free(node, want.variant)))
    }

    /// The nodes of `candidates`, the lowest class first; their order is decided by the past inputs alone.
    pub fn ready_nodes<W: Into<Want>>(&self, want: W) -> impl Iterator<Item = NodeId> + use<'_, W> {
        self.ready_classes(want).iter().flatten().copied()
    }

    /// The nodes of `candidates` by class, to sample from.
    pub fn ready_classes(&self, want: impl Into<Want>) -> &[Vec<NodeId>] {
        self.shelf(want.into()).map_or(&[], |shelf| &shelf.classes)
    }

    /// Puts a node among those that are as fast, from 0 on; the last class is [`CLASSES`] - 1.
    pub fn classify(&mut self, node: NodeId, variant: VariantId, class: u8) {
        let class = class.min(CLASSES - 1);
        if self.credit(node, variant).is_none_or(|credit| credit.class == class) {
            return;
        }
        self.unready(node, variant);
        if let Some(credit) = self.credit(node, variant) {
            credit.class = class;
        }
        self.ready(node, variant);
    }

    /// The variants that connected nodes serve and that are not all about to leave.
    pub fn variants(&self) -> impl Iterator<Item = VariantId> {
        self.pools.iter().filter(|(_, pool)| pool.draining_count < pool.node_count).map(|(&variant, _)| variant)
    }

    /// Figures over the nodes that have what is wanted.
    pub fn supply(&self, want: impl Into<Want>) -> Supply {
        let want = want.into();
        let (Some(pool), Some(shelf)) = (self.pools.get(&want.variant), self.shelf(want)) else {
            return Supply::default();
        };
        Supply {
            node_count: if want.region.is_some() { shelf.node_count } else { pool.node_count },
            draining_count: pool.draining_count,
            ready_count: shelf.ready_count,
            in_flight: pool.in_flight,
        }
    }

    fn shelf(&self, want: Want) -> Option<&Shelf> {
        let pool = self.pools.get(&want.variant)?;
        want.region.map_or(Some(&pool.ready), |region| pool.regions.get(&region))
    }

    /// Slots of all variants that connected nodes granted: those that are free, and those with a task. O(n) for n nodes.
    pub fn slots(&self) -> u64 {
        self.nodes.values().flat_map(|node| node.credits.values()).map(|credit| credit.total - credit.finished).sum()
    }

    /// How many nodes are connected.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Whether the node is connected.
    pub fn has(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Whether the node has ever granted a slot for the variant on this link.
    pub fn serves(&self, node: NodeId, variant: VariantId) -> bool {
        self.nodes.get(&node).is_some_and(|known| known.credits.contains_key(&variant))
    }

    /// Whether the node serves the variant and is not about to leave.
    pub fn takes(&self, node: NodeId, variant: VariantId) -> bool {
        self.nodes.get(&node).is_some_and(|known| !known.draining && known.credits.contains_key(&variant))
    }

    /// Tasks of all variants sent to the node and not finished.
    pub fn in_flight(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |known| known.in_flight)
    }

    /// What the node granted, by variant.
    pub fn granted(&self, node: NodeId) -> impl Iterator<Item = Granted> {
        let credits = self.nodes.get(&node).into_iter().flat_map(|known| &known.credits);
        credits.map(|(variant, credit)| Granted {
            variant: *variant,
            granted: credit.total,
            free: credit.free(),
            in_flight: credit.sent - credit.finished,
            class: credit.class,
        })
    }

    /// Whether the node takes no new work.
    pub fn is_draining(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|known| known.draining)
    }

    fn variants_of(&self, node: NodeId) -> Vec<VariantId> {
        self.nodes.get(&node).map_or_else(Vec::new, |known| known.credits.keys().copied().collect())
    }

    fn credit(&mut self, node: NodeId, variant: VariantId) -> Option<&mut Credit> {
        self.nodes.get_mut(&node)?.credits.get_mut(&variant)
    }

    fn ready(&mut self, node: NodeId, variant: VariantId) {
        if self.free(node, variant) == 0 {
            return;
        }
        let Some(pool) = self.pools.get_mut(&variant) else { return };
        let Some(known) = self.nodes.get_mut(&node) else { return };
        let Some(credit) = known.credits.get_mut(&variant).filter(|credit| credit.place.is_none()) else { return };
        credit.place = Some(pool.ready.put(node, credit.class));
        let shelf = known.region.and_then(|region| pool.regions.get_mut(&region));
        credit.place_in_region = shelf.map(|shelf| shelf.put(node, credit.class));
    }

    fn unready(&mut self, node: NodeId, variant: VariantId) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        let Some(credit) = known.credits.get_mut(&variant) else { return };
        let (Some(place), in_region, class) = (credit.place.take(), credit.place_in_region.take(), credit.class) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(&variant) else { return };
        let moved = pool.ready.take(class, place);
        let shelf = known.region.and_then(|region| pool.regions.get_mut(&region));
        let moved_in_region = in_region.zip(shelf).and_then(|(place, shelf)| shelf.take(class, place));
        if let Some(credit) = moved.and_then(|moved| self.credit(moved, variant)) {
            credit.place = Some(place);
        }
        if let Some(credit) = moved_in_region.and_then(|moved| self.credit(moved, variant)) {
            credit.place_in_region = in_region;
        }
    }
}

impl Pool {
    fn arrive(&mut self, region: Option<Region>) {
        if let Some(region) = region {
            self.regions.entry(region).or_default().node_count += 1;
        }
    }

    fn depart(&mut self, region: Option<Region>) {
        let Some(region) = region else { return };
        let Some(shelf) = self.regions.get_mut(&region) else { return };
        shelf.node_count -= 1;
        if shelf.node_count == 0 {
            self.regions.remove(&region);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const VARIANT: VariantId = VariantId([9; 32]);

    fn node(byte: u8) -> NodeId {
        NodeId([byte; 32])
    }

    fn joined(nodes: &[u8], total: u64) -> Offers {
        let mut offers = Offers::default();
        for &byte in nodes {
            offers.join(node(byte));
            assert_eq!(offers.grant(node(byte), VARIANT, total), Ok(()));
        }
        offers
    }

    #[test]
    fn a_slot_is_spent_once_and_comes_back_with_the_next_grant() {
        let mut offers = joined(&[1], 1);
        assert_eq!(offers.spend(node(1), VARIANT), Some(()));
        assert_eq!(offers.spend(node(1), VARIANT), None);
        offers.finish(node(1), VARIANT);
        assert_eq!((offers.free(node(1), VARIANT), offers.in_flight(node(1))), (0, 0));
        assert_eq!(offers.grant(node(1), VARIANT, 2), Ok(()));
        assert_eq!(offers.free(node(1), VARIANT), 1);
    }

    #[test]
    fn nodes_that_are_ready_lie_in_their_classes() {
        let mut offers = joined(&[1, 2, 3], 1);
        offers.classify(node(1), VARIANT, 5);
        offers.classify(node(3), VARIANT, 5);
        assert_eq!(offers.spend(node(3), VARIANT), Some(()));
        // A node without a free slot changes its class too.
        offers.classify(node(3), VARIANT, 250);
        assert_eq!(offers.grant(node(3), VARIANT, 2), Ok(()));
        assert_eq!(offers.ready_nodes(VARIANT).collect::<Vec<_>>(), [node(2), node(1), node(3)]);
        let classes = offers.ready_classes(VARIANT);
        assert_eq!((&classes[5], &classes[usize::from(CLASSES) - 1]), (&vec![node(1)], &vec![node(3)]));
        assert_eq!(offers.supply(VARIANT).ready_count, 3);
    }

    #[test]
    fn the_nodes_of_a_region_are_those_that_stand_there_after_every_step() {
        let regions: Vec<Option<Region>> = vec![None, "eu".parse().ok(), "us".parse().ok()];
        for seed in 0..20_u64 {
            let mut offers = Offers::default();
            let mut state = seed;
            let mut below = |bound: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % bound
            };
            let mut granted = [0; 12];
            for step in 0..400 {
                let byte = below(12) as u8;
                let region = regions[below(3) as usize];
                match below(7) {
                    0 => {
                        offers.join(node(byte));
                        granted[usize::from(byte)] = 0;
                    }
                    1 => offers.leave(node(byte)),
                    2 => offers.locate(node(byte), region),
                    3 => offers.classify(node(byte), VARIANT, below(6) as u8),
                    4 if below(8) == 0 => offers.drain(node(byte)),
                    5 => drop(offers.spend(node(byte), VARIANT)),
                    _ => {
                        granted[usize::from(byte)] += 1;
                        let _ = offers.grant(node(byte), VARIANT, granted[usize::from(byte)]);
                    }
                }
                for region in regions.iter().flatten().copied() {
                    let want = Want { variant: VARIANT, region: Some(region) };
                    let mut there: Vec<NodeId> = offers.ready_nodes(want).collect();
                    let is_there = |node: &NodeId| offers.region(*node) == Some(region);
                    let mut all: Vec<NodeId> = offers.ready_nodes(VARIANT).filter(is_there).collect();
                    there.sort_unstable();
                    all.sort_unstable();
                    assert_eq!(there, all, "seed {seed}, step {step}");
                    let serves =
                        (0..12).map(node).filter(|node| offers.serves(*node, VARIANT) && is_there(node)).count();
                    let supply = offers.supply(want);
                    let counts = (supply.ready_count, supply.node_count);
                    assert_eq!(counts, (there.len() as u64, serves as u64), "seed {seed}, step {step}");
                }
            }
        }
    }

    #[test]
    fn slots_that_were_not_used_are_given_back_and_those_that_were_are_not() {
        let mut offers = joined(&[1], 4);
        assert_eq!(offers.spend(node(1), VARIANT), Some(()));
        assert_eq!(offers.spend(node(1), VARIANT), Some(()));
        offers.withdraw(node(1), VARIANT, 3);
        assert_eq!(offers.free(node(1), VARIANT), 1);
        // The node did not know yet of what was sent.
        offers.withdraw(node(1), VARIANT, 0);
        assert_eq!((offers.free(node(1), VARIANT), offers.in_flight(node(1))), (0, 2));
        assert_eq!((offers.spend(node(1), VARIANT), offers.candidates(VARIANT).count()), (None, 0));
        // Nothing is granted by it, either.
        offers.withdraw(node(1), VARIANT, 9);
        assert_eq!(offers.free(node(1), VARIANT), 0);
        assert_eq!(offers.grant(node(1), VARIANT, 3), Ok(()));
        assert_eq!(offers.candidates(VARIANT).collect::<Vec<_>>(), [(node(1), 1)]);
    }

    #[test]
    fn a_repeated_or_an_older_grant_changes_nothing() {
        let mut offers = joined(&[1], 2);
        assert_eq!(offers.grant(node(1), VARIANT, 2), Ok(()));
        assert_eq!(offers.grant(node(1), VARIANT, 1), Ok(()));
        assert_eq!(offers.candidates(VARIANT).collect::<Vec<_>>(), [(node(1), 2)]);
    }

    #[test]
    fn a_grant_that_jumps_or_comes_from_a_stranger_is_refused() {
        let mut offers = joined(&[1], 2);
        assert_eq!(offers.grant(node(1), VARIANT, 4097), Err(Error::TooMany { sent: 0, total: 4097 }));
        assert_eq!(offers.grant(node(1), VARIANT, u64::MAX), Err(Error::TooMany { sent: 0, total: u64::MAX }));
        assert_eq!(offers.grant(node(2), VARIANT, 1), Err(Error::NotJoined));
        assert_eq!(offers.free(node(1), VARIANT), 2);
    }

    #[test]
    fn a_refused_first_grant_offers_no_variant() {
        let mut offers = Offers::default();
        offers.join(node(1));
        assert_eq!(offers.grant(node(1), VARIANT, 5_000), Err(Error::TooMany { sent: 0, total: 5_000 }));
        assert_eq!(offers.variants().count(), 0);
    }

    #[test]
    fn a_node_offers_no_more_variants_than_allowed() {
        let mut offers = Offers::default();
        offers.join(node(1));
        for index in 0..VARIANTS_MAX {
            let variant = VariantId([0; 32].map(|_: u8| (index % 256) as u8));
            assert_eq!(offers.grant(node(1), variant, 1), Ok(()));
        }
        let mut other = [0; 32];
        other[0] = 1;
        assert_eq!(offers.grant(node(1), VariantId(other), 1), Err(Error::TooManyVariants));
    }

    #[test]
    fn a_draining_node_keeps_its_work_and_gets_none() {
        let mut offers = joined(&[1], 3);
        assert_eq!(offers.spend(node(1), VARIANT), Some(()));
        offers.drain(node(1));
        offers.drain(node(1));
        assert_eq!(offers.grant(node(1), VARIANT, 4), Ok(()));
        assert_eq!(offers.spend(node(1), VARIANT), None);
        assert_eq!(offers.variants().count(), 0);
        let supply = Supply { node_count: 1, draining_count: 1, ready_count: 0, in_flight: 1 };
        assert_eq!(offers.supply(VARIANT), supply);
    }

    #[test]
    fn a_node_that_leaves_takes_its_slots_along() {
        let mut offers = joined(&[1, 2, 3], 2);
        assert_eq!(offers.spend(node(1), VARIANT), Some(()));
        offers.leave(node(1));
        assert_eq!(offers.candidates(VARIANT).collect::<Vec<_>>(), [(node(3), 2), (node(2), 2)]);
        assert_eq!(offers.supply(VARIANT), Supply { node_count: 2, draining_count: 0, ready_count: 2, in_flight: 0 });
        assert_eq!(offers.nodes(), 2);
    }

    #[test]
    fn a_new_connection_starts_from_nothing() {
        let mut offers = joined(&[1], 2);
        assert_eq!(offers.spend(node(1), VARIANT), Some(()));
        offers.join(node(1));
        assert_eq!((offers.free(node(1), VARIANT), offers.in_flight(node(1))), (0, 0));
        assert_eq!(offers.grant(node(1), VARIANT, 1), Ok(()));
        // The end of a task of the earlier connection.
        offers.finish(node(1), VARIANT);
        assert_eq!((offers.free(node(1), VARIANT), offers.in_flight(node(1))), (1, 0));
    }

    #[test]
    fn variants_are_those_of_connected_nodes() {
        let mut offers = joined(&[1, 2], 1);
        assert_eq!(offers.variants().collect::<Vec<_>>(), vec![VARIANT]);
        offers.leave(node(1));
        offers.leave(node(2));
        assert_eq!(offers.variants().count(), 0);
    }
}
