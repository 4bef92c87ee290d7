//! Pay that is held against a later finding.

use crate::summary::add;
use alloc::collections::{BTreeMap, BTreeSet};
use ol_protocol::bytes::{Error, Reader, Writer};
use ol_protocol::parameters::EscrowRule;
use ol_protocol::{Epoch, MicroCredits, NodeId, OperatorId, Timestamp};

/// Whose pay of which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LotId {
    pub(crate) epoch: Epoch,
    pub(crate) node: NodeId,
    pub(crate) operator: OperatorId,
}

/// A node's pay of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lot {
    amount: MicroCredits,
    // By the rule that held when it was earned: from when on, and from which count of the node's tasks on.
    due: Timestamp,
    tasks_due: u64,
}

/// What a node earned in an epoch, before it becomes a lot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Earned {
    pub(crate) amount: MicroCredits,
    pub(crate) tasks: u64,
}

/// All lots, and how many tasks each node with a lot has had settled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Escrow {
    lots: BTreeMap<LotId, Lot>,
    tasks: BTreeMap<NodeId, u64>,
}

impl Escrow {
    /// Takes an epoch's pay.
    pub(crate) fn add(
        &mut self,
        epoch: Epoch,
        at: Timestamp,
        rule: &EscrowRule,
        earned: &BTreeMap<(NodeId, OperatorId), Earned>,
    ) {
        for ((node, _), earned) in earned {
            let tasks = self.tasks.entry(*node).or_default();
            *tasks = tasks.saturating_add(earned.tasks);
        }
        for ((node, operator), earned) in earned {
            let tasks = self.tasks.get(node).copied().unwrap_or(0);
            let tasks_due = tasks.saturating_add(u64::from(rule.tasks));
            let lot = Lot { amount: earned.amount, due: at.after(rule.hold), tasks_due };
            self.lots.insert(LotId { epoch, node: *node, operator: *operator }, lot);
        }
        self.drop_empty();
    }

    /// Takes back at most `amount` from a lot: nothing if it was released.
    pub(crate) fn take(&mut self, id: &LotId, amount: MicroCredits) -> MicroCredits {
        let Some(lot) = self.lots.get_mut(id) else { return MicroCredits::ZERO };
        let taken = amount.min(lot.amount);
        lot.amount = MicroCredits(lot.amount.0 - taken.0);
        if lot.amount == MicroCredits::ZERO {
            self.lots.remove(id);
        }
        taken
    }

    /// Takes all lots that a node has with an operator.
    pub(crate) fn slash(&mut self, node: NodeId, operator: OperatorId) -> MicroCredits {
        let of = |id: &LotId| (id.node, id.operator) == (node, operator);
        let taken =
            self.lots.extract_if(.., |id, _| of(id)).fold(MicroCredits::ZERO, |sum, (_, lot)| add(sum, lot.amount));
        self.drop_empty();
        taken
    }

    /// Gives up the lots that are held long enough and were followed by enough tasks.
    pub(crate) fn release(&mut self, at: Timestamp) -> BTreeMap<LotId, MicroCredits> {
        let tasks = &self.tasks;
        let ripe = |id: &LotId, lot: &Lot| at >= lot.due && tasks.get(&id.node).copied().unwrap_or(0) >= lot.tasks_due;
        let released = self.lots.extract_if(.., |id, lot| ripe(id, lot)).map(|(id, lot)| (id, lot.amount)).collect();
        self.drop_empty();
        released
    }

    /// What the lots of each node add up to.
    pub(crate) fn sums(&self) -> BTreeMap<NodeId, i128> {
        let mut sums = BTreeMap::new();
        for (id, lot) in &self.lots {
            *sums.entry(id.node).or_default() += i128::from(lot.amount.0);
        }
        sums
    }

    // Counts of tasks only matter relative to a lot's: without a lot a node may start from zero again.
    fn drop_empty(&mut self) {
        self.lots.retain(|_, lot| lot.amount > MicroCredits::ZERO);
        let nodes: BTreeSet<NodeId> = self.lots.keys().map(|id| id.node).collect();
        self.tasks.retain(|node, _| nodes.contains(node));
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.lots.len() as u64);
        for (id, lot) in &self.lots {
            w.u64(id.epoch.0).raw(&id.node.0).raw(&id.operator.0);
            w.u64(lot.amount.0).u64(lot.due.0).u64(lot.tasks_due);
        }
        w.u64(self.tasks.len() as u64);
        for (node, tasks) in &self.tasks {
            w.raw(&node.0).u64(*tasks);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let count = r.u64()?;
        let lots = (0..count).map(|_| read_lot(r)).collect::<Result<_, _>>()?;
        let count = r.u64()?;
        let tasks = (0..count).map(|_| Ok((NodeId(r.array()?), r.u64()?))).collect::<Result<_, _>>()?;
        Ok(Self { lots, tasks })
    }
}

fn read_lot(r: &mut Reader<'_>) -> Result<(LotId, Lot), Error> {
    let id = LotId { epoch: Epoch(r.u64()?), node: NodeId(r.array()?), operator: OperatorId(r.array()?) };
    let lot = Lot { amount: MicroCredits(r.u64()?), due: Timestamp(r.u64()?), tasks_due: r.u64()? };
    Ok((id, lot))
}
