//! A log in memory, without indexes, gone with its process: what a gateway does without a ledger on a disk, to measure what
//! that costs.

use crate::error::Error;
use crate::payload::Payload;
use crate::store::{Appended, Facts, Job, NodeBatch, Note, Read, Snapshot, Store, TaskRecords, Tenant};
use crate::tree::Edge;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::{Digest, Epoch, NetworkId, NodeId, TaskId};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryStore {
    edge: Edge,
    reader: Reader,
}

#[derive(Debug, Clone, Default)]
struct Reader(Arc<Mutex<Held>>);

// What a gateway can't begin without; receipts are looked up by nobody.
#[derive(Debug, Default)]
struct Held {
    records: Vec<Record>,
    tenants: Vec<Tenant>,
}

impl Store for MemoryStore {
    fn commit(&mut self, jobs: &[Arc<Job>]) -> Vec<Result<Appended, Error>> {
        jobs.iter().map(|job| self.hold(job)).collect()
    }

    fn read(&self) -> &dyn Read {
        &self.reader
    }

    fn reader(&self) -> Result<Box<dyn Read>, Error> {
        Ok(Box::new(self.reader.clone()))
    }
}

impl MemoryStore {
    fn hold(&mut self, job: &Job) -> Result<Appended, Error> {
        let first_index = self.edge.size();
        for record in &job.records {
            self.edge.append(record.leaf(), &mut |_, _| Ok::<_, Error>(()))?;
        }
        let mut held = self.reader.held();
        held.records.extend(job.records.iter().cloned());
        held.tenants.extend(job.tenants.iter().cloned());
        Ok(Appended { first_index, size: self.edge.size(), root: self.edge.root(), expired: 0 })
    }
}

impl Reader {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Reader {
    fn network(&self) -> Result<Option<NetworkId>, Error> {
        Ok(None)
    }

    fn size(&self) -> Result<u64, Error> {
        Ok(self.held().records.len() as u64)
    }

    fn root(&self, _: u64) -> Result<Option<Digest>, Error> {
        Ok(None)
    }

    fn record(&self, index: u64) -> Result<Option<Record>, Error> {
        Ok(self.held().records.get(index as usize).cloned())
    }

    fn page(&self, range: Range<u64>) -> Result<Vec<Record>, Error> {
        let (start, end) = (range.start as usize, range.end as usize);
        let page = self.held().records.get(start..end).map(<[Record]>::to_vec);
        page.ok_or(Error::Missing { index: range.start })
    }

    fn inclusion(&self, _: u64, _: u64) -> Result<Option<Vec<Digest>>, Error> {
        Ok(None)
    }

    fn hashes(&self, _: u32, _: Range<u64>) -> Result<Option<Vec<Digest>>, Error> {
        Ok(None)
    }

    fn task(&self, _: TaskId) -> Result<TaskRecords, Error> {
        Ok(TaskRecords::default())
    }

    fn batch(&self, _: NodeId, _: u64) -> Result<Option<NodeBatch>, Error> {
        Ok(None)
    }

    fn next_sequence(&self, _: NodeId) -> Result<u64, Error> {
        Ok(0)
    }

    fn next_sequences(&self) -> Result<Vec<(NodeId, u64)>, Error> {
        Ok(Vec::new())
    }

    fn facts(&self, _: TaskId) -> Result<Option<Facts>, Error> {
        Ok(None)
    }

    fn payload(&self, _: AttemptId) -> Result<Option<Payload>, Error> {
        Ok(None)
    }

    fn tenant_by_key_hash(&self, key_hash: &[u8; 32]) -> Result<Option<Tenant>, Error> {
        Ok(self.tenants()?.into_iter().find(|tenant| tenant.key_hash == *key_hash))
    }

    fn tenants(&self) -> Result<Vec<Tenant>, Error> {
        Ok(self.held().tenants.clone())
    }

    fn latest_snapshot(&self) -> Result<Option<Snapshot>, Error> {
        Ok(None)
    }

    fn latest_checkpoint(&self) -> Result<Option<Note>, Error> {
        Ok(None)
    }

    fn checkpoint(&self, _: Epoch) -> Result<Option<Note>, Error> {
        Ok(None)
    }

    fn checkpoint_over(&self, _: u64) -> Result<Option<Note>, Error> {
        Ok(None)
    }
}
