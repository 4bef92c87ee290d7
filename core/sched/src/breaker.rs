//! Quarantine: a node that failed gets no work for a while, longer with each failure in a row.

use crate::attempt::Reason;
use alloc::collections::{BTreeMap, BTreeSet};
use ol_protocol::{Micros, NodeId, Timestamp};

/// Quarantine after the first failure: a restart of a node with its model on disk takes less.
const QUARANTINE: Micros = Micros::from_secs(15);
/// The longest quarantine is 15 s x 2^8, a little over an hour.
const DOUBLINGS_MAX: u32 = 8;
/// The most nodes remembered. Node ids cost nothing, so without it strangers could fill the memory.
const NODES_MAX: usize = 65_536;

/// Failures in a row per node. O(log n) per call.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    trips: BTreeMap<NodeId, Trip>,
    by_end: BTreeSet<(Timestamp, NodeId)>,
}

#[derive(Debug, Clone, Copy)]
struct Trip {
    failures: u32,
    until: Timestamp,
}

impl Breaker {
    /// An attempt on the node failed. Only what the node is to blame for counts, and what fails during a quarantine
    /// belongs to the failure that began it: the many tasks of one crash count once.
    pub fn failed(&mut self, node: NodeId, reason: Reason, now: Timestamp) {
        if !reason.blames_node() || self.quarantined(node, now).is_some() {
            return;
        }
        let failures = self.clear(node).map_or(0, |trip| trip.failures);
        let span = Micros(QUARANTINE.0 << failures.min(DOUBLINGS_MAX));
        let until = now.after(span);
        self.trips.insert(node, Trip { failures: failures.saturating_add(1), until });
        self.by_end.insert((until, node));
        self.bound();
    }

    /// The node completed a task: its failures in a row are over. It cannot shorten a quarantine.
    pub fn succeeded(&mut self, node: NodeId, now: Timestamp) {
        if self.quarantined(node, now).is_none() {
            self.clear(node);
        }
    }

    /// When the node's latest quarantine ends or ended; `None` if it has not failed since its last success.
    pub fn until(&self, node: NodeId) -> Option<Timestamp> {
        self.trips.get(&node).map(|trip| trip.until)
    }

    /// When the node's quarantine ends, if it is in one now.
    pub fn quarantined(&self, node: NodeId, now: Timestamp) -> Option<Timestamp> {
        self.until(node).filter(|&until| now < until)
    }

    /// When the next quarantine ends: what waits for a node may then be placed.
    pub fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        self.by_end.range((Timestamp(now.0.checked_add(1)?), NodeId([0; 32]))..).next().map(|&(until, _)| until)
    }

    fn clear(&mut self, node: NodeId) -> Option<Trip> {
        let trip = self.trips.remove(&node)?;
        self.by_end.remove(&(trip.until, node));
        Some(trip)
    }

    // Forgets what ends first.
    fn bound(&mut self) {
        if self.trips.len() > NODES_MAX
            && let Some((_, node)) = self.by_end.pop_first()
        {
            self.trips.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const NODE: NodeId = NodeId([1; 32]);

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn each_failure_in_a_row_doubles_the_quarantine_up_to_an_hour() {
        let mut breaker = Breaker::default();
        let mut now = at(0);
        let mut spans = Vec::new();
        for _ in 0..11 {
            breaker.failed(NODE, Reason::FirstToken, now);
            let until = breaker.until(NODE).expect("it failed");
            spans.push(until.since(now).0 / 1_000_000);
            now = until;
        }
        assert_eq!(spans, [15, 30, 60, 120, 240, 480, 960, 1_920, 3_840, 3_840, 3_840]);
    }

    #[test]
    fn the_tasks_of_one_crash_count_once() {
        let mut breaker = Breaker::default();
        for _ in 0..64 {
            breaker.failed(NODE, Reason::Disconnected, at(1));
        }
        assert_eq!(breaker.until(NODE), Some(at(16)));
    }

    #[test]
    fn a_success_after_the_quarantine_starts_afresh() {
        let mut breaker = Breaker::default();
        breaker.failed(NODE, Reason::NodeError, at(0));
        breaker.succeeded(NODE, at(1));
        assert_eq!(breaker.quarantined(NODE, at(1)), Some(at(15)));
        breaker.succeeded(NODE, at(15));
        assert_eq!(breaker.until(NODE), None);
        breaker.failed(NODE, Reason::NodeError, at(20));
        assert_eq!(breaker.until(NODE), Some(at(35)));
    }

    #[test]
    fn what_the_client_did_counts_against_nobody() {
        let mut breaker = Breaker::default();
        for reason in [Reason::Client, Reason::Deadline, Reason::Refused] {
            breaker.failed(NODE, reason, at(0));
        }
        assert_eq!((breaker.until(NODE), breaker.next_deadline(at(0))), (None, None));
    }

    #[test]
    fn the_next_end_is_told_until_it_is_reached() {
        let mut breaker = Breaker::default();
        breaker.failed(NODE, Reason::Wrong, at(0));
        breaker.failed(NodeId([2; 32]), Reason::Wrong, at(5));
        assert_eq!(breaker.next_deadline(at(1)), Some(at(15)));
        assert_eq!(breaker.next_deadline(at(15)), Some(at(20)));
        assert_eq!(breaker.next_deadline(at(20)), None);
        assert_eq!(breaker.next_deadline(Timestamp(u64::MAX)), None);
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let mut breaker = Breaker::default();
        for index in 0..NODES_MAX as u64 + 10 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&index.to_le_bytes());
            breaker.failed(NodeId(id), Reason::Wrong, Timestamp(index));
        }
        assert_eq!((breaker.trips.len(), breaker.by_end.len()), (NODES_MAX, NODES_MAX));
        assert_eq!(breaker.until(NodeId([0; 32])), None);
    }
}
