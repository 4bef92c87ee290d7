//! What must hold after every fault, read from the files that the processes left.

use super::traffic::Answer;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::{Digest, NodeId, TaskId, merkle};
use ol_store::{OutboxReader, Peer, Read, SqliteReader};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

/// What a node may have lost: a second's results that were in no batch when it was killed.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    pub(super) node: String,
    pub(super) since: Instant,
}

/// A gateway's log.
#[derive(Default)]
pub(super) struct Log {
    leaves: Vec<Digest>,
    // What each attempt is charged, once for each of its receipts.
    charges: BTreeMap<AttemptId, Vec<(NodeId, u64)>>,
    batches: BTreeSet<Vec<u8>>,
}

impl Log {
    /// Reads it from a file, whether or not a gateway runs on it.
    pub(super) fn read(database: &Path) -> Self {
        Self::of(&SqliteReader::open(database).unwrap())
    }

    /// Reads it, likewise.
    pub(super) fn of(reader: &dyn Read) -> Self {
        let mut log = Self::default();
        for record in ol_store::records(reader, 0..reader.size().unwrap()) {
            log.take(&record.unwrap().1);
        }
        log
    }

    fn take(&mut self, record: &Record) {
        self.leaves.push(merkle::leaf_hash(&record.to_bytes()));
        match record {
            Record::Receipt(receipt) => {
                let id = AttemptId { task: receipt.commitment.task, attempt: receipt.commitment.attempt };
                self.charges.entry(id).or_default().push((receipt.commitment.node, receipt.charge.amount.0));
            }
            Record::Batch(batch) => drop(self.batches.insert(batch.to_bytes())),
            Record::Genesis(_)
            | Record::TopUp(_)
            | Record::Audit { .. }
            | Record::Close(_)
            | Record::Parameters(_)
            | Record::Calibration(_)
            | Record::Evidence(_)
            | Record::Sealed { .. } => {}
        }
    }

    /// Receipts in it.
    pub(super) fn receipts(&self) -> usize {
        self.charges.values().map(Vec::len).sum()
    }

    /// What an earlier reader saw is still there.
    pub(super) fn extends(&self, earlier: &Self) {
        let same = self.leaves.len() >= earlier.leaves.len() && self.leaves[..earlier.leaves.len()] == earlier.leaves;
        assert!(
            same,
            "the log lost or changed records: it had {}, and has {}",
            earlier.leaves.len(),
            self.leaves.len()
        );
    }

    /// No attempt of these nodes is in it twice.
    pub(super) fn has_nothing_twice(&self, nodes: &BTreeSet<NodeId>) {
        for (id, charges) in &self.charges {
            let is_once = charges.len() == 1 || !nodes.contains(&charges[0].0);
            assert!(is_once, "attempt {} of task {} is in the log {} times", id.attempt, id.task, charges.len());
        }
    }

    /// The first answer that is not in the log, or is charged otherwise than its client was told.
    pub(super) fn lacks(&self, answers: &[Answer], losses: &[Loss]) -> Option<String> {
        answers.iter().find_map(|answer| self.fault(answer, losses))
    }

    fn fault(&self, answer: &Answer, losses: &[Loss]) -> Option<String> {
        let task: TaskId = answer.task.parse().unwrap();
        let all = AttemptId { task, attempt: 0 }..=AttemptId { task, attempt: u8::MAX };
        let charges: Vec<(NodeId, u64)> = self.charges.range(all).map(|(_, charges)| charges[0]).collect();
        let is_there = charges.iter().any(|(node, _)| node.to_string() == answer.node);
        let is_lost = losses.iter().any(|loss| loss.node == answer.node && answer.at >= loss.since);
        let charge: u64 = charges.iter().map(|(_, charge)| charge).sum();
        // Of several attempts some may be nobody's: what their nodes lost is not charged.
        let is_right = if answer.attempts == 1 { charge == answer.charge } else { charge <= answer.charge };
        match (is_there, is_lost) {
            (false, true) if charge <= answer.charge => None,
            (true, _) if is_right => None,
            _ => Some(format!("{answer:?} is charged {charge} in the log, {charges:?}")),
        }
    }

    /// The first batch that a gateway signed for a node, as the node kept it, and that is not in the log.
    pub(super) fn lacks_batches_of(&self, outbox: &Outbox) -> Option<String> {
        let missing = outbox.signed.iter().find(|(_, signed)| !self.batches.contains(*signed));
        missing.map(|(sequence, _)| format!("batch {sequence}, which the gateway signed, is not in the log"))
    }

    /// How many batches of a node are in the log.
    pub(super) fn batches_of(&self, node: &str) -> BTreeSet<u64> {
        let read = |bytes: &Vec<u8>| {
            let batch =
                ol_protocol::batch::CountersignedBatch::read(&mut ol_protocol::bytes::Reader::new(bytes)).unwrap();
            (batch.header.node.to_string() == node).then_some(batch.header.sequence)
        };
        self.batches.iter().filter_map(read).collect()
    }
}

/// What a node keeps.
pub(super) struct Outbox {
    signed: BTreeMap<u64, Vec<u8>>,
    /// Numbers of batches that wait for the gateway's signature.
    pub(super) waiting: BTreeSet<u64>,
}

impl Outbox {
    /// Reads it, whether or not its node runs.
    pub(super) fn read(path: &Path, peer: Peer) -> Self {
        let mut outbox = Self { signed: BTreeMap::new(), waiting: BTreeSet::new() };
        for kept in OutboxReader::open(path).unwrap().batches(peer).unwrap() {
            match kept.countersigned {
                Some(signed) => drop(outbox.signed.insert(kept.sequence, signed)),
                None => drop(outbox.waiting.insert(kept.sequence)),
            }
        }
        outbox
    }

    /// Every batch that the log has of this node is kept.
    pub(super) fn has_all(&self, logged: &BTreeSet<u64>) {
        let lost =
            logged.iter().find(|sequence| !self.signed.contains_key(sequence) && !self.waiting.contains(sequence));
        assert!(lost.is_none(), "a node sent batch {lost:?} and has it no more");
    }
}
