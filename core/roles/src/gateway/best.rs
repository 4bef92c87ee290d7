//! The best there is among the nodes that a task may have. Only tasks ask that want a promise or a floor; the look at all nodes is for
//! all of them that come within a second, so that a client that asks for them often makes a gateway of many nodes look at each once a second.

use super::Gateway;
use alloc::collections::BTreeMap;
use ol_protocol::variant::Assurance;
use ol_protocol::{Micros, Timestamp};
use ol_sched::{Reliability, Want};
use ol_trust::Evidence;

/// How old what was seen may be.
const RECENT: Micros = Micros::from_secs(1);

/// So few nodes are looked at each time.
const FEW: usize = 64;

/// What was seen when all nodes were looked at last.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    seen: BTreeMap<K, (Timestamp, V)>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { seen: BTreeMap::new() }
    }
}

impl<K: Ord + Copy, V: Copy> Recent<K, V> {
    fn at(&self, now: Timestamp, key: &K) -> Option<V> {
        self.seen.get(key).filter(|(at, _)| now.since(*at) < RECENT).map(|(_, value)| *value)
    }

    fn keep(&mut self, now: Timestamp, key: K, value: V) {
        self.seen.retain(|_, (at, _)| now.since(*at) < RECENT);
        self.seen.insert(key, (now, value));
    }
}

impl Gateway {
    /// How reliable the most reliable node is that takes tasks of the kind; `None` where none does.
    pub(super) fn most_reliable(&mut self, now: Timestamp, want: Want) -> Option<Reliability> {
        let is_many = self.workers.len() > FEW;
        if let Some(best) = self.reliable.at(now, &want).filter(|_| is_many) {
            return best;
        }
        let may = |node: &&_| self.offers.takes(**node, want.variant) && self.offers.stands_in(**node, want.region);
        let best = self.workers.keys().filter(may).map(|node| self.reliabilities.of(*node)).max();
        self.reliable.keep(now, want, best);
        best
    }

    /// The highest trust value, in millionths, that an answer of some node's would have with the evidence; 0 where none serves the kind.
    pub(super) fn most_trusted(&mut self, now: Timestamp, want: Want, assurance: Assurance, evidence: Evidence) -> u32 {
        let is_many = self.workers.len() > FEW;
        if let Some(best) = self.trusted.at(now, &(want, assurance, evidence)).filter(|_| is_many) {
            return best;
        }
        let may = |node: &&_| self.offers.serves(**node, want.variant) && self.offers.stands_in(**node, want.region);
        let of = |node: &_| self.trust_ppm(*node, want.variant, assurance, evidence);
        let best = self.workers.keys().filter(may).map(of).max().unwrap_or(0);
        self.trusted.keep(now, (want, assurance, evidence), best);
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_holds_for_a_second_and_is_forgotten_then() {
        let mut recent: Recent<u8, u32> = Recent::default();
        recent.keep(Timestamp(5), 1, 10);
        assert_eq!(recent.at(Timestamp(1_000_004), &1), Some(10));
        assert_eq!(recent.at(Timestamp(1_000_004), &2), None);
        assert_eq!(recent.at(Timestamp(1_000_005), &1), None);
        recent.keep(Timestamp(1_000_005), 2, 20);
        assert_eq!(recent.seen.len(), 1);
    }
}
