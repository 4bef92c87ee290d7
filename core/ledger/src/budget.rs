//! What a tenant's requests in flight may cost at most, so that a gateway never serves what nobody can pay.

use alloc::collections::BTreeMap;
use ol_protocol::{MicroCredits, TaskId, TenantId};

/// A tenant has less than a request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget has {} micro-credits left, the request may cost {}", .available.0, .needed.0)]
pub struct Empty {
    /// What is left.
    pub available: MicroCredits,
    /// What the request may cost.
    pub needed: MicroCredits,
}

/// Live reservations at one gateway: beside the log, credited from the ledger's balances after a restart. A tenant's
/// spent and reserved amounts never pass what was credited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget {
    available: BTreeMap<TenantId, MicroCredits>,
    reserved: BTreeMap<TaskId, Reservation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reservation {
    tenant: TenantId,
    worst: MicroCredits,
}

impl Budget {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds money of a top-up or a refund. A budget stays at the largest amount rather than to pass it.
    pub fn credit(&mut self, tenant: TenantId, amount: MicroCredits) {
        let available = self.available(&tenant);
        self.set(tenant, MicroCredits(available.0.saturating_add(amount.0)));
    }

    /// Sets aside what a task may cost at most. A second reservation of a task replaces its first, if it can be made.
    pub fn reserve(&mut self, task: TaskId, tenant: TenantId, worst: MicroCredits) -> Result<(), Empty> {
        let first = self.reserved.get(&task).filter(|r| r.tenant == tenant).map_or(0, |r| r.worst.0);
        let available = MicroCredits(self.available(&tenant).0.saturating_add(first));
        if available < worst {
            return Err(Empty { available, needed: worst });
        }
        self.cancel(&task);
        let left = self.available(&tenant).0.saturating_sub(worst.0);
        self.set(tenant, MicroCredits(left));
        self.reserved.insert(task, Reservation { tenant, worst });
        Ok(())
    }

    /// Spends what a task cost and releases the rest of its reservation. Gives what was spent: the cost, but never more
    /// than was reserved, and nothing for a task without a reservation.
    pub fn settle(&mut self, task: &TaskId, actual: MicroCredits) -> MicroCredits {
        let Some(Reservation { tenant, worst }) = self.reserved.remove(task) else { return MicroCredits::ZERO };
        let spent = actual.min(worst);
        self.credit(tenant, MicroCredits(worst.0 - spent.0));
        spent
    }

    /// Releases a task's whole reservation, if it has one.
    pub fn cancel(&mut self, task: &TaskId) {
        self.settle(task, MicroCredits::ZERO);
    }

    /// What a tenant can still reserve.
    pub fn available(&self, tenant: &TenantId) -> MicroCredits {
        self.available.get(tenant).copied().unwrap_or_default()
    }

    /// What a tenant's tasks have reserved.
    pub fn reserved(&self, tenant: &TenantId) -> MicroCredits {
        let of = self.reserved.values().filter(|reservation| reservation.tenant == *tenant);
        MicroCredits(of.fold(0, |sum: u64, reservation| sum.saturating_add(reservation.worst.0)))
    }

    /// How many tasks have a reservation.
    pub fn reservations(&self) -> usize {
        self.reserved.len()
    }

    /// Has a tenant have just so much beside what is reserved.
    pub fn set(&mut self, tenant: TenantId, amount: MicroCredits) {
        if amount == MicroCredits::ZERO {
            self.available.remove(&tenant);
        } else {
            self.available.insert(tenant, amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TENANT: TenantId = TenantId([1; 16]);

    fn task(n: u8) -> TaskId {
        TaskId([n; 16])
    }

    #[test]
    fn a_settled_task_gives_back_what_it_did_not_use() {
        let mut budget = Budget::new();
        budget.credit(TENANT, MicroCredits(100));
        assert_eq!(budget.reserve(task(1), TENANT, MicroCredits(70)), Ok(()));
        let empty = Empty { available: MicroCredits(30), needed: MicroCredits(31) };
        assert_eq!(budget.reserve(task(2), TENANT, MicroCredits(31)), Err(empty));
        assert_eq!(budget.settle(&task(1), MicroCredits(20)), MicroCredits(20));
        assert_eq!(budget.settle(&task(1), MicroCredits(20)), MicroCredits(0));
        assert_eq!(budget.available(&TENANT), MicroCredits(80));
    }

    #[test]
    fn a_task_never_spends_more_than_its_reservation() {
        let mut budget = Budget::new();
        budget.credit(TENANT, MicroCredits(100));
        assert_eq!(budget.reserve(task(1), TENANT, MicroCredits(10)), Ok(()));
        assert_eq!(budget.settle(&task(1), MicroCredits(99)), MicroCredits(10));
        assert_eq!(budget.available(&TENANT), MicroCredits(90));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn spent_and_reserved_never_pass_what_was_credited(
            steps in prop::collection::vec((0..4u8, 0..6u8, 0..3u8, 0..1_000u64), 0..80),
        ) {
            let mut budget = Budget::new();
            let (mut credited, mut spent) = ([0u64; 3], 0u64);
            for (step, (kind, id, tenant, amount)) in steps.into_iter().enumerate() {
                let tenant_id = TenantId([tenant; 16]);
                match kind {
                    0 => {
                        budget.credit(tenant_id, MicroCredits(amount));
                        credited[usize::from(tenant)] += amount;
                    }
                    1 => drop(budget.reserve(task(id), tenant_id, MicroCredits(amount))),
                    2 => spent += budget.settle(&task(id), MicroCredits(amount)).0,
                    _ => budget.cancel(&task(id)),
                }
                let available: u64 = (0..3).map(|t| budget.available(&TenantId([t; 16])).0).sum();
                let reserved: u64 = budget.reserved.values().map(|r| r.worst.0).sum();
                prop_assert_eq!(spent + reserved + available, credited.iter().sum::<u64>(), "step {}", step);
                for t in 0..3u8 {
                    let id = TenantId([t; 16]);
                    let held: u64 = budget.reserved.values().filter(|r| r.tenant == id).map(|r| r.worst.0).sum();
                    prop_assert!(held + budget.available(&id).0 <= credited[usize::from(t)], "step {}", step);
                }
            }
        }
    }
}
