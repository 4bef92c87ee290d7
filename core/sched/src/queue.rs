//! Tasks that wait for a slot, fair between tenants by tokens.
//!
//! The waiting tasks of each variant, and those of each region that they are bound to, are served by start-time fair queueing: the tenant that had the fewest tokens goes
//! first, a tenant that comes back starts level with the others, and one tenant's many small tasks interleave with
//! another's few large ones. While two tenants wait, the tokens that they were served differ by at most the largest
//! task of the one plus the largest of the other.
//!
//! Source: P. Goyal, H. M. Vin, H. Cheng, "Start-Time Fair Queueing", SIGCOMM 1996, equation 3 and theorem 1, with
//! equal weights. Deficit round robin gives the same shares, but in constant time only with a quantum of the largest
//! task, which lets a tenant of small tasks hold up all others for that long.
//!
//! # Deviations
//! A task's start is fixed when it becomes its tenant's first, not when it arrives: a removed task then costs nothing.

use crate::gate::Gate;
use crate::region::Want;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use ol_protocol::{TaskId, TenantId, Timestamp, TokenCount, VariantId};

/// The most tasks that wait: at 20 answers a second a wait of over three minutes, which few clients sit out.
pub const QUEUE_MAX: usize = 4096;
/// The most tasks of one tenant that wait, so that four tenants are needed to fill the queue.
pub const TENANT_QUEUE_MAX: usize = 1024;
/// The most tenants without waiting tasks whose past is remembered per variant.
const IDLE_MAX: usize = 4096;

/// A waiting task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The task.
    pub task: TaskId,
    /// Who pays.
    pub tenant: TenantId,
    /// What it needs.
    pub want: Want,
    /// Prompt and expected output.
    pub cost: TokenCount,
    /// When it is of no use any more.
    pub deadline: Timestamp,
}

/// The waiting queue of a gateway. O(log n) per call; `expire` that per expired task.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    entries: BTreeMap<TaskId, (u64, Entry)>,
    by_deadline: BTreeSet<(Timestamp, TaskId)>,
    by_tenant: BTreeMap<TenantId, usize>,
    lines: BTreeMap<Want, Line>,
    arrivals: u64,
}

/// How many wait in one line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiters {
    /// Tasks.
    pub tasks: u64,
    /// Tenants that wait.
    pub tenants: u64,
    /// Tasks of the tenant that was asked for.
    pub own: u64,
}

impl Waiters {
    /// How many are served before another task of the tenant has its turn, with it: each tenant gets as much.
    pub fn place(&self) -> u64 {
        let tenants = self.tenants + u64::from(self.own == 0);
        (self.tasks + 1).min((self.own + 1).saturating_mul(tenants))
    }
}

/// The waiting tasks that need the same, and who was served how much.
#[derive(Debug, Clone, Default)]
struct Line {
    // Start of the task that was served last.
    virtual_time: u128,
    waiting: BTreeMap<TenantId, Waiting>,
    tasks: u64,
    by_start: BTreeSet<(u128, TenantId)>,
    // Where tenants without waiting tasks stand, while that is ahead of `virtual_time`.
    idle: BTreeMap<TenantId, u128>,
    by_idle: BTreeSet<(u128, TenantId)>,
}

#[derive(Debug, Clone)]
struct Waiting {
    start: u128,
    tasks: BTreeMap<u64, TaskId>,
}

impl Queue {
    /// Lets a task wait, behind those of its tenant. One that waits already keeps its place.
    pub fn push(&mut self, entry: Entry) -> Result<(), Gate> {
        if self.entries.contains_key(&entry.task) {
            return Ok(());
        }
        if self.entries.len() >= QUEUE_MAX {
            return Err(Gate::QueueFull { queued: self.entries.len() as u64, max: QUEUE_MAX as u64 });
        }
        let queued = self.waiting_of(entry.tenant);
        if queued >= TENANT_QUEUE_MAX {
            return Err(Gate::TenantQueueFull { queued: queued as u64, max: TENANT_QUEUE_MAX as u64 });
        }
        self.arrivals += 1;
        let virtual_time = self.lines_of(entry.want.variant).map(|(_, line)| line.virtual_time).max();
        let begun = || Line { virtual_time: virtual_time.unwrap_or(0), ..Line::default() };
        self.lines.entry(entry.want).or_insert_with(begun).push(entry.tenant, self.arrivals, entry.task);
        self.by_tenant.insert(entry.tenant, queued + 1);
        self.by_deadline.insert((entry.deadline, entry.task));
        self.entries.insert(entry.task, (self.arrivals, entry));
        Ok(())
    }

    /// The task that is next in its line for a free slot.
    pub fn peek_for(&self, want: impl Into<Want>) -> Option<&Entry> {
        let task = self.lines.get(&want.into())?.first()?;
        self.entries.get(&task).map(|(_, entry)| entry)
    }

    /// Takes the task that is next in its line for a free slot, and counts it as served.
    pub fn pop_for(&mut self, want: impl Into<Want>) -> Option<Entry> {
        let want = want.into();
        let entry = *self.peek_for(want)?;
        if let Some(line) = self.lines.get_mut(&want) {
            line.serve(entry.tenant, u128::from(entry.cost.0.max(1)));
            let served_at = line.virtual_time;
            // Who comes to another line of the variant starts level with those here.
            for (_, line) in self.lines.range_mut(all_of(want.variant)).take_while(|(of, _)| of.variant == want.variant)
            {
                line.virtual_time = line.virtual_time.max(served_at);
            }
        }
        self.remove(entry.task)
    }

    /// Takes a task out wherever it stands; `None` if it does not wait.
    pub fn remove(&mut self, task: TaskId) -> Option<Entry> {
        let (arrival, entry) = self.entries.remove(&task)?;
        self.by_deadline.remove(&(entry.deadline, task));
        match self.waiting_of(entry.tenant) {
            0 | 1 => self.by_tenant.remove(&entry.tenant),
            more => self.by_tenant.insert(entry.tenant, more - 1),
        };
        if let Some(line) = self.lines.get_mut(&entry.want) {
            line.remove(entry.tenant, arrival);
            if line.waiting.is_empty() {
                self.lines.remove(&entry.want);
            }
        }
        Some(entry)
    }

    /// Takes out the tasks whose deadline has come, the oldest deadline first.
    pub fn expire(&mut self, now: Timestamp) -> Vec<TaskId> {
        let mut expired = Vec::new();
        while let Some(&(deadline, task)) = self.by_deadline.first() {
            if deadline > now {
                break;
            }
            self.by_deadline.pop_first();
            self.remove(task);
            expired.push(task);
        }
        expired
    }

    /// When the next task expires.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.by_deadline.first().map(|&(deadline, _)| deadline)
    }

    /// What tasks wait for.
    pub fn wants(&self) -> impl Iterator<Item = Want> {
        self.lines.keys().copied()
    }

    /// The line whose next task has its turn, of those that wait for the variant and are not to be passed by: in the order of starts as within
    /// a line, so that a tenant with many tasks in one holds up nobody in another.
    pub fn next_line(&self, variant: VariantId, is_passed: impl Fn(&Want) -> bool) -> Option<Want> {
        let lines = self.lines_of(variant).filter(|(want, _)| !is_passed(want));
        lines.min_by_key(|(_, line)| line.head()).map(|(want, _)| *want)
    }

    fn lines_of(&self, variant: VariantId) -> impl Iterator<Item = (&Want, &Line)> {
        self.lines.range(all_of(variant)).take_while(move |(want, _)| want.variant == variant)
    }

    /// How many wait in a line.
    pub fn waiters(&self, want: impl Into<Want>, tenant: TenantId) -> Waiters {
        let Some(line) = self.lines.get(&want.into()) else { return Waiters::default() };
        let own = line.waiting.get(&tenant).map_or(0, |waiting| waiting.tasks.len() as u64);
        Waiters { tasks: line.tasks, tenants: line.waiting.len() as u64, own }
    }

    /// How many tasks of the tenant wait.
    pub fn waiting_of(&self, tenant: TenantId) -> usize {
        self.by_tenant.get(&tenant).copied().unwrap_or(0)
    }

    /// How many tasks wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn all_of(variant: VariantId) -> core::ops::RangeFrom<Want> {
    Want { variant, region: None }..
}

impl Line {
    fn push(&mut self, tenant: TenantId, arrival: u64, task: TaskId) {
        self.tasks += 1;
        if let Some(waiting) = self.waiting.get_mut(&tenant) {
            waiting.tasks.insert(arrival, task);
            return;
        }
        let past = self.idle.remove(&tenant).unwrap_or(0);
        self.by_idle.remove(&(past, tenant));
        let start = past.max(self.virtual_time);
        self.waiting.insert(tenant, Waiting { start, tasks: BTreeMap::from([(arrival, task)]) });
        self.by_start.insert((start, tenant));
    }

    fn first(&self) -> Option<TaskId> {
        let (_, tenant) = self.by_start.first()?;
        self.waiting.get(tenant)?.tasks.first_key_value().map(|(_, &task)| task)
    }

    // Start and arrival of the first task.
    fn head(&self) -> Option<(u128, u64)> {
        let (start, tenant) = self.by_start.first()?;
        self.waiting.get(tenant)?.tasks.first_key_value().map(|(arrival, _)| (*start, *arrival))
    }

    fn serve(&mut self, tenant: TenantId, cost: u128) {
        let Some(waiting) = self.waiting.get_mut(&tenant) else { return };
        self.by_start.remove(&(waiting.start, tenant));
        self.virtual_time = waiting.start;
        waiting.start += cost;
        self.by_start.insert((waiting.start, tenant));
        self.forget_idle();
    }

    fn remove(&mut self, tenant: TenantId, arrival: u64) {
        let Some(waiting) = self.waiting.get_mut(&tenant) else { return };
        self.tasks -= u64::from(waiting.tasks.remove(&arrival).is_some());
        if !waiting.tasks.is_empty() {
            return;
        }
        let start = waiting.start;
        self.waiting.remove(&tenant);
        self.by_start.remove(&(start, tenant));
        if start > self.virtual_time {
            self.idle.insert(tenant, start);
            self.by_idle.insert((start, tenant));
            self.forget_idle();
        }
    }

    // A tenant that the others have caught up with starts level with them anyway.
    fn forget_idle(&mut self) {
        while let Some(&(past, tenant)) = self.by_idle.first() {
            if past > self.virtual_time && self.idle.len() <= IDLE_MAX {
                break;
            }
            self.by_idle.pop_first();
            self.idle.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIANT: VariantId = VariantId([9; 32]);

    #[test]
    fn a_place_in_the_queue_is_a_tenants_own() {
        let mut queue = Queue::default();
        (0..10).for_each(|index| assert_eq!(queue.push(entry(index, 1, 5)), Ok(())));
        assert_eq!(queue.push(entry(10, 2, 5)), Ok(()));
        let place = |queue: &Queue, of| queue.waiters(VARIANT, tenant(of)).place();
        assert_eq!([1, 2, 3].map(|of| place(&queue, of)), [12, 4, 3]);
        assert!(queue.pop_for(VARIANT).is_some() && queue.pop_for(VARIANT).is_some());
        assert_eq!(queue.waiters(VARIANT, tenant(1)), Waiters { tasks: 9, tenants: 1, own: 9 });
        assert_eq!(place(&queue, 2), 2);
        assert_eq!(place(&Queue::default(), 1), 1);
    }

    fn tenant(byte: u8) -> TenantId {
        TenantId([byte; 16])
    }

    fn task(index: u32) -> TaskId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&index.to_le_bytes());
        TaskId(id)
    }

    fn entry(index: u32, of: u8, cost: u32) -> Entry {
        let deadline = Timestamp(1_000 + u64::from(index));
        Entry { task: task(index), tenant: tenant(of), want: VARIANT.into(), cost: TokenCount(cost), deadline }
    }

    fn filled(entries: &[Entry]) -> Queue {
        let mut queue = Queue::default();
        for &entry in entries {
            assert_eq!(queue.push(entry), Ok(()));
        }
        queue
    }

    fn order(queue: &mut Queue) -> Vec<TaskId> {
        core::iter::from_fn(|| queue.pop_for(VARIANT)).map(|entry| entry.task).collect()
    }

    #[test]
    fn tasks_of_one_tenant_keep_their_order() {
        let mut queue = filled(&[entry(3, 1, 10), entry(1, 1, 5), entry(2, 1, 1)]);
        assert_eq!(order(&mut queue), [task(3), task(1), task(2)]);
        assert_eq!((queue.len(), queue.next_deadline()), (0, None));
    }

    #[test]
    fn a_tenant_of_large_tasks_waits_for_the_small_ones_of_another() {
        let mut queue = filled(&[entry(0, 1, 300), entry(1, 1, 300), entry(2, 2, 100), entry(3, 2, 100)]);
        assert_eq!(queue.push(entry(4, 2, 100)), Ok(()));
        assert_eq!(order(&mut queue), [task(0), task(2), task(3), task(4), task(1)]);
    }

    #[test]
    fn a_tenant_that_comes_late_neither_catches_up_nor_waits_behind_all() {
        let mut queue = filled(&[entry(0, 1, 10), entry(1, 1, 10), entry(2, 1, 10), entry(3, 1, 10)]);
        assert!(queue.pop_for(VARIANT).is_some() && queue.pop_for(VARIANT).is_some());
        for index in 4..8 {
            assert_eq!(queue.push(entry(index, 2, 10)), Ok(()));
        }
        assert_eq!(order(&mut queue), [task(4), task(2), task(5), task(3), task(6), task(7)]);
    }

    #[test]
    fn sending_one_task_at_a_time_gains_nothing() {
        let mut queue = filled(&[entry(0, 1, 100), entry(1, 2, 10), entry(2, 2, 10), entry(3, 2, 10)]);
        assert_eq!(queue.pop_for(VARIANT).map(|entry| entry.task), Some(task(0)));
        assert_eq!(queue.push(entry(4, 1, 100)), Ok(()));
        assert_eq!(order(&mut queue), [task(1), task(2), task(3), task(4)]);
    }

    #[test]
    fn a_variant_is_served_only_its_own_tasks() {
        let other = VariantId([8; 32]);
        let mut queue = filled(&[entry(0, 1, 1), Entry { want: other.into(), ..entry(1, 1, 1) }]);
        assert_eq!(queue.wants().collect::<Vec<_>>(), [other.into(), VARIANT.into()]);
        assert_eq!(order(&mut queue), [task(0)]);
        assert_eq!(queue.pop_for(other).map(|entry| entry.task), Some(task(1)));
    }

    #[test]
    fn tasks_that_are_bound_to_a_region_have_a_line_of_their_own() {
        let bound = Want { variant: VARIANT, region: "eu".parse().ok() };
        let mut queue = filled(&[Entry { want: bound, ..entry(0, 1, 1) }, entry(1, 1, 1)]);
        assert_eq!(queue.next_line(VARIANT, |_| false), Some(bound));
        // Where their region has no free slot, the others go on.
        assert_eq!(queue.next_line(VARIANT, |want| *want == bound), Some(VARIANT.into()));
        assert_eq!(queue.next_line(VariantId([8; 32]), |_| false), None);
        assert_eq!(order(&mut queue), [task(1)]);
        assert_eq!(queue.waiters(bound, tenant(1)), Waiters { tasks: 1, tenants: 1, own: 1 });
        assert_eq!(queue.pop_for(bound).map(|entry| entry.task), Some(task(0)));
    }

    // The attack: many tasks that are bound to a region, and so stand in a line of their own.
    #[test]
    fn a_tenant_with_many_tasks_in_one_line_holds_up_nobody_in_another() {
        let bound = Want { variant: VARIANT, region: "eu".parse().ok() };
        let mut queue = Queue::default();
        (0..100).for_each(|index| assert_eq!(queue.push(Entry { want: bound, ..entry(index, 1, 10) }), Ok(())));
        let served = |queue: &mut Queue| {
            let line = queue.next_line(VARIANT, |_| false).expect("some wait");
            queue.pop_for(line).map(|entry| entry.tenant)
        };
        (0..10).for_each(|_| assert_eq!(served(&mut queue), Some(tenant(1))));
        (100..104).for_each(|index| assert_eq!(queue.push(entry(index, 2, 10)), Ok(())));
        let order: Vec<_> = (0..8).filter_map(|_| served(&mut queue)).collect();
        assert_eq!(order.iter().filter(|of| **of == tenant(2)).count(), 4, "{order:?}");
    }

    #[test]
    fn expired_and_removed_tasks_are_gone() {
        let mut queue = filled(&[entry(0, 1, 1), entry(1, 2, 1), entry(2, 1, 1), entry(3, 1, 1)]);
        assert_eq!(queue.expire(Timestamp(999)), []);
        assert_eq!(queue.expire(Timestamp(1_001)), [task(0), task(1)]);
        assert_eq!(queue.remove(task(2)), Some(entry(2, 1, 1)));
        assert_eq!(queue.remove(task(2)), None);
        assert_eq!((queue.len(), queue.next_deadline()), (1, Some(Timestamp(1_003))));
        assert_eq!(order(&mut queue), [task(3)]);
    }

    #[test]
    fn a_task_waits_once() {
        let mut queue = filled(&[entry(0, 1, 1), entry(0, 1, 1)]);
        assert_eq!((queue.len(), queue.waiting_of(tenant(1))), (1, 1));
        assert_eq!(order(&mut queue), [task(0)]);
    }

    #[test]
    fn a_full_queue_refuses_and_says_so() {
        let mut queue = Queue::default();
        for index in 0..1024 {
            assert_eq!(queue.push(entry(index, 0, 1)), Ok(()));
        }
        assert_eq!(queue.push(entry(1024, 0, 1)), Err(Gate::TenantQueueFull { queued: 1024, max: 1024 }));
        for index in 1024..4096 {
            assert_eq!(queue.push(entry(index, (index / 1024) as u8, 1)), Ok(()));
        }
        assert_eq!(queue.push(entry(4096, 9, 1)), Err(Gate::QueueFull { queued: 4096, max: 4096 }));
        assert_eq!(queue.len(), 4096);
    }
}
