//! Offers: capacity that nodes granted, as cumulative credits.
//!
//! A node says how many tasks it has ever allowed on this connection, the gateway counts how many it ever sent, and
//! may send while `sent < total`. Grants and tasks that cross on the wire therefore never overload a node.
//!
//! A node that serves other gateways, too, may ask for slots back that were not used. What was sent before stays sent.
//!
//! Source: the flow-control windows of RFC 9113, section 5.2, with totals in place of increments as in RFC 9000,
//! section 4.1, so that a repeated grant changes nothing, and one that is no longer true neither.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ol_protocol::{NodeId, VariantId};

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
/// that are ready lie in classes of speed, so that a few of the fastest are found without a look at the others.
#[derive(Debug, Clone, Default)]
pub struct Offers {
    nodes: BTreeMap<NodeId, Node>,
    pools: BTreeMap<VariantId, Pool>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    draining: bool,
    in_flight: u64,
    credits: BTreeMap<VariantId, Credit>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Credit {
    total: u64,
    sent: u64,
    finished: u64,
    class: u8,
    // Where the node stands in its class of its pool's `ready`.
    place: Option<usize>,
}

impl Credit {
    fn free(&self) -> u64 {
        assert!(self.sent <= self.total, "more tasks sent than granted");
        self.total - self.sent
    }
}

// The nodes of one variant. `ready` has those that take work now by their classes, in an order that only the past inputs
// decide, so that a few can be sampled without walking all.
#[derive(Debug, Clone, Default)]
struct Pool {
    ready: Vec<Vec<NodeId>>,
    ready_count: u64,
    node_count: u64,
    draining_count: u64,
    in_flight: u64,
}

/// Figures over the nodes of one variant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Supply {
    /// Connected nodes that granted the variant at least once.
    pub node_count: u64,
    /// Those of them that take no new work.
    pub draining_count: u64,
    /// Those of them that have a free slot.
    pub ready_count: u64,
    /// Tasks of the variant sent and not finished.
    pub in_flight: u64,
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
            pool.node_count += 1;
            pool.draining_count += u64::from(known.draining);
        }
        known.credits.insert(variant, Credit { total, ..credit });
        self.ready(node, variant);
        Ok(())
    }

    /// A node wants the variant's slots back beyond `total` tasks since it joined, as far as they are not used.
    pub fn withdraw(&mut self, node: NodeId, variant: VariantId, total: u64) {
        let Some(credit) = self.credit(node, variant) else { return };
        credit.total = credit.total.min(total.max(credit.sent));
        if credit.free() == 0 {
            self.unready(node, variant);
        }
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

    /// The nodes that take a task of the variant now, with their free slots.
    pub fn candidates(&self, variant: VariantId) -> impl Iterator<Item = (NodeId, u64)> {
        self.ready_nodes(variant).map(move |node| (node, self.free(node, variant)))
    }

    /// The nodes of `candidates`, the lowest class first; their order is decided by the past inputs alone.
    pub fn ready_nodes(&self, variant: VariantId) -> impl Iterator<Item = NodeId> + '_ {
        self.ready_classes(variant).iter().flatten().copied()
    }

    /// The nodes of `candidates` by class, to sample from.
    pub fn ready_classes(&self, variant: VariantId) -> &[Vec<NodeId>] {
        self.pools.get(&variant).map_or(&[], |pool| &pool.ready)
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

    /// Figures over the variant's nodes.
    pub fn supply(&self, variant: VariantId) -> Supply {
        self.pools.get(&variant).map_or_else(Supply::default, |pool| Supply {
            node_count: pool.node_count,
            draining_count: pool.draining_count,
            ready_count: pool.ready_count,
            in_flight: pool.in_flight,
        })
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
        let Some(credit) = self.nodes.get_mut(&node).and_then(|known| known.credits.get_mut(&variant)) else { return };
        let class = usize::from(credit.class);
        if pool.ready.len() <= class {
            pool.ready.resize_with(class + 1, Vec::new);
        }
        if credit.place.is_none()
            && let Some(alike) = pool.ready.get_mut(class)
        {
            credit.place = Some(alike.len());
            alike.push(node);
            pool.ready_count += 1;
        }
    }

    fn unready(&mut self, node: NodeId, variant: VariantId) {
        let Some(credit) = self.credit(node, variant) else { return };
        let (Some(place), class) = (credit.place.take(), usize::from(credit.class)) else { return };
        let Some(pool) = self.pools.get_mut(&variant) else { return };
        let Some(alike) = pool.ready.get_mut(class) else { return };
        alike.swap_remove(place);
        pool.ready_count -= 1;
        let Some(&moved) = alike.get(place) else { return };
        if let Some(credit) = self.credit(moved, variant) {
            credit.place = Some(place);
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
