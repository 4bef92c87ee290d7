//! What a store of a gateway must do, whatever holds it: one way to write, and questions.

use crate::database::int;
use crate::error::{Error, Refusal};
use crate::payload::Payload;
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::receipt::Receipt;
use ol_protocol::record::{AttemptId, AuditOutcome, Record};
use ol_protocol::{Digest, Epoch, GatewayId, NetworkId, NodeId, TaskId, TenantId, Timestamp};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Longest facts of a task: a few names, digests and times.
pub const FACTS_BYTES_MAX: usize = 4 << 10;

/// Snapshots that are kept: one to start from, and two in case a newer one is found wanting.
pub const SNAPSHOTS_KEPT: u64 = 3;

// Records read at a time when many are gone through: about 150 KB.
const PAGE_RECORDS: u64 = 256;

/// Whose log a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The network, if it is known already: it is named by the log's first record.
    pub network: Option<NetworkId>,
    /// The gateway.
    pub gateway: GatewayId,
}

/// What is written together or not at all. Most jobs fill one or two of the fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Job {
    /// Records for the end of the log. Receipts are followed by the record of their batch.
    pub records: Vec<Record>,
    /// Payloads, replacing those of the same attempts.
    pub payloads: Vec<Payload>,
    /// Facts of tasks, replacing earlier ones.
    pub facts: Vec<Facts>,
    /// Tenants, replacing those of the same ids that are not newer.
    pub tenants: Vec<Tenant>,
    /// A snapshot; the oldest beyond [`SNAPSHOTS_KEPT`] goes.
    pub snapshot: Option<Snapshot>,
    /// A checkpoint. One that is stored is only replaced by one with other signatures under the same text.
    pub checkpoint: Option<Note>,
    /// Forget the payloads from before this moment.
    pub expire_before: Option<Timestamp>,
}

/// The log after a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Index of the job's first record, or of the next one to come if it had none.
    pub first_index: u64,
    /// Records in the log.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Digest,
    /// Payloads that expired.
    pub expired: u64,
}

/// What a tenant may be told about a task besides its receipt: salt, model name, times, in bytes of the caller's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The task.
    pub task: TaskId,
    /// The facts, at most [`FACTS_BYTES_MAX`]. They are sealed, as they hold the task's salt.
    pub bytes: Vec<u8>,
}

/// A tenant of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The account.
    pub tenant: TenantId,
    /// What people call it.
    pub name: String,
    /// Digest of its API key.
    pub key_hash: [u8; 32],
    /// Since when.
    pub created: Timestamp,
    /// Requests it may make in a minute; `None` for no limit of its own.
    pub requests_per_minute: Option<u32>,
    /// Tokens it may use in a minute; `None` for no limit of its own.
    pub tokens_per_minute: Option<u32>,
}

/// The accounts after an epoch, to start from instead of the log's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last epoch that is in it.
    pub epoch: Epoch,
    /// The records that are in it: the log's first `size`.
    pub size: u64,
    /// The accounts.
    pub bytes: Vec<u8>,
}

/// A signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The epoch that it closes.
    pub epoch: Epoch,
    /// Records under its root.
    pub size: u64,
    /// The signed note.
    pub text: String,
}

/// How far the beginning of a log was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Receipts, batches and audits before this index are gone, but for the last batches of each node.
    pub before: u64,
    /// The accounts are known after the log's first `size` records: the rest is folded from there.
    pub size: u64,
    /// The last epoch in these accounts.
    pub epoch: Epoch,
}

/// A receipt in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Index of the receipt.
    pub index: u64,
    /// The receipt.
    pub receipt: Receipt,
    /// Its place among the receipts of its batch, from 0.
    pub place: u16,
    /// Index of the batch's record.
    pub batch_index: u64,
    /// The batch.
    pub batch: CountersignedBatch,
}

/// Everything in the log about one task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskRecords {
    /// Its attempts, in the log's order.
    pub attempts: Vec<Attempt>,
    /// The audits of its attempts, each with its index.
    pub audits: Vec<(u64, AttemptId, AuditOutcome)>,
}

/// A node's batch in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeBatch {
    /// Index of its record; its receipts are the `header.count` before it.
    pub index: u64,
    /// The batch.
    pub batch: CountersignedBatch,
}

/// Questions to a store.
pub trait Read: Send {
    /// The network, once the log has begun or the store was opened for one.
    fn network(&self) -> Result<Option<NetworkId>, Error>;
    /// Records in the log.
    fn size(&self) -> Result<u64, Error>;
    /// RFC 6962 root over the first `size` records; `None` if there are fewer. `O(log n)`.
    fn root(&self, size: u64) -> Result<Option<Digest>, Error>;
    /// How far the log was pruned, if it was. Asking for a record that is gone is [`Error::Pruned`].
    fn pruned(&self) -> Result<Option<Pruned>, Error> {
        Ok(None)
    }
    /// The accounts from which the rest of a pruned log is folded.
    fn base(&self) -> Result<Option<Snapshot>, Error> {
        Ok(None)
    }
    /// The record of an index, if the log has it.
    fn record(&self, index: u64) -> Result<Option<Record>, Error>;
    /// All records of a range; an error if one is not there. For long ranges see [`records`].
    fn page(&self, range: Range<u64>) -> Result<Vec<Record>, Error>;
    /// The inclusion proof of a record in the first `size`, lowest sibling first; `None` unless `index < size` and there
    /// are as many. `O(log n)`.
    fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Digest>>, Error>;
    /// Hashes of complete subtrees of `1 << level` records, by position on the level; `None` if one of them is not there.
    /// Kept are the levels 0, 4, 8 and so on.
    fn hashes(&self, level: u32, positions: Range<u64>) -> Result<Option<Vec<Digest>>, Error>;

    /// Receipts and audits of a task.
    fn task(&self, task: TaskId) -> Result<TaskRecords, Error>;
    /// A node's batch of a number, to acknowledge it again when it comes again.
    fn batch(&self, node: NodeId, sequence: u64) -> Result<Option<NodeBatch>, Error>;
    /// The number after a node's last batch in the log, 0 if there is none.
    fn next_sequence(&self, node: NodeId) -> Result<u64, Error>;
    /// The number after the last batch of each node that has any.
    fn next_sequences(&self) -> Result<Vec<(NodeId, u64)>, Error>;
    /// The facts of a task.
    fn facts(&self, task: TaskId) -> Result<Option<Facts>, Error>;
    /// The payload of an attempt, if it has not expired.
    fn payload(&self, attempt: AttemptId) -> Result<Option<Payload>, Error>;
    /// The tenant with an API key.
    fn tenant_by_key_hash(&self, key_hash: &[u8; 32]) -> Result<Option<Tenant>, Error>;
    /// All tenants, by id.
    fn tenants(&self) -> Result<Vec<Tenant>, Error>;
    /// The snapshot of the latest epoch.
    fn latest_snapshot(&self) -> Result<Option<Snapshot>, Error>;
    /// The checkpoint of the latest epoch.
    fn latest_checkpoint(&self) -> Result<Option<Note>, Error>;
    /// The checkpoint of an epoch.
    fn checkpoint(&self, epoch: Epoch) -> Result<Option<Note>, Error>;
    /// The earliest checkpoint that a record is under.
    fn checkpoint_over(&self, index: u64) -> Result<Option<Note>, Error>;
}

/// A gateway's durable store.
pub trait Store: Send {
    /// Commits jobs in one transaction and answers each. A job that is refused leaves the others as they are; if the
    /// transaction fails, nothing of any job is written. Durable when it returns.
    fn commit(&mut self, jobs: &[Arc<Job>]) -> Vec<Result<Appended, Error>>;
    /// Questions, asked on the writer's own connection.
    fn read(&self) -> &dyn Read;
    /// A connection of its own for questions, to use from another thread while this one commits.
    fn reader(&self) -> Result<Box<dyn Read>, Error>;

    /// Commits one job.
    fn commit_one(&mut self, job: Job) -> Result<Appended, Error> {
        self.commit(&[Arc::new(job)]).pop().expect("one answer for each job")
    }

    /// Appends records.
    fn append(&mut self, records: &[Record]) -> Result<Appended, Error> {
        self.commit_one(Job { records: records.to_vec(), ..Job::default() })
    }
}

impl<S: Store + ?Sized> Store for Box<S> {
    fn commit(&mut self, jobs: &[Arc<Job>]) -> Vec<Result<Appended, Error>> {
        (**self).commit(jobs)
    }

    fn read(&self) -> &dyn Read {
        (**self).read()
    }

    fn reader(&self) -> Result<Box<dyn Read>, Error> {
        (**self).reader()
    }
}

/// Goes through the records of a range, a page at a time.
pub fn records(read: &dyn Read, range: Range<u64>) -> Records<'_> {
    Records { read, next: range.start, end: range.end, page: VecDeque::new() }
}

/// Records in order, each with its index; ends after the first error.
pub struct Records<'a> {
    read: &'a dyn Read,
    next: u64,
    end: u64,
    page: VecDeque<Record>,
}

impl Iterator for Records<'_> {
    type Item = Result<(u64, Record), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty() && self.next < self.end {
            let end = self.end.min(self.next.saturating_add(PAGE_RECORDS));
            match self.read.page(self.next..end) {
                Ok(page) => self.page = page.into(),
                Err(error) => {
                    self.next = self.end;
                    return Some(Err(error));
                }
            }
        }
        let record = self.page.pop_front()?;
        self.next += 1;
        Some(Ok((self.next - 1, record)))
    }
}

impl Job {
    /// Whether it is a job at all, as far as that can be told without the store.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.check_receipts()?;
        for facts in &self.facts {
            let bytes = facts.bytes.len();
            if bytes > FACTS_BYTES_MAX {
                return Err(Refusal::TooLong { what: "facts", bytes, max: FACTS_BYTES_MAX });
            }
        }
        self.payloads.iter().try_for_each(Payload::check)?;
        self.numbers().try_for_each(|(what, value)| int(what, value).map(drop))
    }

    fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let tenants = self.tenants.iter().map(|tenant| ("creation time", tenant.created.0));
        let snapshots = self.snapshot.iter().flat_map(|it| [("epoch", it.epoch.0), ("size", it.size)]);
        let checkpoints = self.checkpoint.iter().flat_map(|it| [("epoch", it.epoch.0), ("size", it.size)]);
        let sequences = self.records.iter().filter_map(|record| match record {
            Record::Batch(batch) => Some(("number of a batch", batch.header.sequence)),
            Record::Genesis(_)
            | Record::TopUp(_)
            | Record::Receipt(_)
            | Record::Audit { .. }
            | Record::Close(_)
            | Record::Parameters(_)
            | Record::Calibration(_)
            | Record::Evidence(_)
            | Record::Sealed { .. } => None,
        });
        tenants.chain(snapshots).chain(checkpoints).chain(sequences)
    }

    fn check_receipts(&self) -> Result<(), Refusal> {
        let mut found = 0;
        for record in &self.records {
            let expected = match record {
                Record::Receipt(_) => {
                    found += 1;
                    continue;
                }
                Record::Batch(batch) => usize::from(batch.header.count),
                Record::Genesis(_)
                | Record::TopUp(_)
                | Record::Audit { .. }
                | Record::Close(_)
                | Record::Parameters(_)
                | Record::Calibration(_)
                | Record::Evidence(_)
                | Record::Sealed { .. } => 0,
            };
            if expected != found {
                return Err(Refusal::Receipts { expected, found });
            }
            found = 0;
        }
        if found == 0 { Ok(()) } else { Err(Refusal::Receipts { expected: 0, found }) }
    }
}
