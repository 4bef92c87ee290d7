//! What is still to happen, in order of time and, at one time, in the order in which it was planned.

use ol_protocol::Timestamp;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug)]
struct Planned<E> {
    at: Timestamp,
    number: u64,
    event: E,
}

impl<E> Planned<E> {
    fn key(&self) -> (Timestamp, u64) {
        (self.at, self.number)
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// The heap gives its largest first: the earliest is the largest.
impl<E> Ord for Planned<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// Planned events.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    heap: BinaryHeap<Planned<E>>,
    planned: u64,
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }

    pub(crate) fn plan(&mut self, at: Timestamp, event: E) {
        self.planned += 1;
        self.heap.push(Planned { at, number: self.planned, event });
    }

    pub(crate) fn next(&mut self) -> Option<(Timestamp, E)> {
        self.heap.pop().map(|planned| (planned.at, planned.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_they_were_planned() {
        let mut agenda = Agenda::new();
        for (at, event) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b')] {
            agenda.plan(Timestamp(at), event);
        }
        let order: Vec<(u64, char)> = std::iter::from_fn(|| agenda.next()).map(|(at, event)| (at.0, event)).collect();
        assert_eq!(order, [(3, 'a'), (3, 'b'), (5, 'c'), (5, 'd')]);
    }
}
