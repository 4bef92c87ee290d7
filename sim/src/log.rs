//! The gateway's log on a disk that takes its time, with a second settler that follows it.

use crate::books::Books;
use crate::config::Broken;
use ol_protocol::NodeId;
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::genesis::Genesis;
use ol_protocol::key::Signature;
use ol_protocol::record::{AttemptId, Record};
use ol_roles::Settler;
use ol_roles::gateway::event::Entry;
use std::collections::{BTreeMap, VecDeque};

/// Records on disk, and appends on their way.
#[derive(Debug)]
pub(crate) struct Log {
    records: Vec<Record>,
    pending: VecDeque<Pending>,
    next_batch: BTreeMap<NodeId, u64>,
    // The bytes, and how many records come before.
    snapshot: Option<(Vec<u8>, usize)>,
    replica: Settler,
    books: Books,
    times: BTreeMap<AttemptId, u64>,
}

#[derive(Debug)]
struct Pending {
    append: u64,
    entries: Vec<Entry>,
    snapshot: Option<Vec<u8>>,
}

impl Log {
    pub(crate) fn new(genesis: &Genesis) -> Result<Self, Broken> {
        let first = Record::Genesis(genesis.clone());
        let replica = Settler::begin(&first)?;
        Ok(Self {
            records: vec![first],
            pending: VecDeque::new(),
            next_batch: BTreeMap::new(),
            snapshot: None,
            replica,
            books: Books::new(genesis),
            times: BTreeMap::new(),
        })
    }

    pub(crate) fn append(&mut self, append: u64, entries: Vec<Entry>) {
        self.pending.push_back(Pending { append, entries, snapshot: None });
    }

    /// Keeps a snapshot, if there is one, with the append just made.
    pub(crate) fn snapshot(&mut self, bytes: Option<Vec<u8>>) {
        if let Some(last) = self.pending.back_mut() {
            last.snapshot = bytes;
        }
    }

    /// The oldest append reached the disk.
    pub(crate) fn durable(&mut self) -> Result<Option<u64>, Broken> {
        let Some(Pending { append, entries, snapshot }) = self.pending.pop_front() else { return Ok(None) };
        for entry in entries {
            match entry {
                Entry::Record(record) => self.take(record)?,
                Entry::Batch { header, signature, receipts, receipts_root } => {
                    self.next_batch.insert(header.node, header.sequence + 1);
                    for receipt in receipts {
                        let id = AttemptId { task: receipt.commitment.task, attempt: receipt.commitment.attempt };
                        *self.times.entry(id).or_default() += 1;
                        self.take(Record::Receipt(receipt))?;
                    }
                    let gateway_signature = Signature([0; 64]);
                    let node_signature = signature;
                    let batch = CountersignedBatch { header, node_signature, receipts_root, gateway_signature };
                    self.take(Record::Batch(batch))?;
                }
            }
        }
        if let Some(bytes) = snapshot {
            self.snapshot = Some((bytes, self.records.len()));
        }
        Ok(Some(append))
    }

    fn take(&mut self, record: Record) -> Result<(), Broken> {
        self.replica.apply(&record)?;
        self.books.take(&record);
        if matches!(record, Record::Close(_)) {
            self.replica.ledger().check()?;
            self.books.compare(self.replica.ledger())?;
        }
        self.records.push(record);
        Ok(())
    }

    /// What was on its way is gone.
    pub(crate) fn crash(&mut self) {
        self.pending.clear();
    }

    /// The state that a gateway restarts from, which is the same from a snapshot and from the whole log.
    pub(crate) fn restart(&self) -> Result<(Settler, BTreeMap<NodeId, u64>), Broken> {
        let whole = Settler::from_log(None, self.records.iter().cloned())?;
        let (bytes, before) = match &self.snapshot {
            Some((bytes, before)) => (bytes, *before),
            None => return Ok((whole, self.next_batch.clone())),
        };
        let short = Settler::from_log(Some(bytes), self.records[before..].iter().cloned())?;
        if short.digest() != whole.digest() || short.digest() != self.replica.digest() {
            return Err(Broken::Unexpected("a snapshot and the whole log give different states"));
        }
        Ok((short, self.next_batch.clone()))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// How often an attempt is in the log.
    pub(crate) fn times(&self, attempt: &AttemptId) -> u64 {
        self.times.get(attempt).copied().unwrap_or(0)
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) const fn replica(&self) -> &Settler {
        &self.replica
    }
}
