//! A check of everything a store holds against everything else it holds: bytes against hashes, hashes against the tree,
//! batches against their receipts, signatures against keys, indexes against records.

use crate::error::Error;
use crate::store::{Note, Read};
use crate::tree::{Edge, Subtree};
use ol_protocol::batch::{BatchError, BatchHeader, CountersignedBatch};
use ol_protocol::checkpoint::{self, Checkpoint};
use ol_protocol::commitment::Commitment;
use ol_protocol::key::BadSignature;
use ol_protocol::merkle;
use ol_protocol::receipt::Receipt;
use ol_protocol::record::{AttemptId, AuditOutcome, Close, Record};
use ol_protocol::top_up::Slice;
use ol_protocol::{Digest, Epoch, GatewayId, NetworkId, NodeId, TaskId, TenantId};
use std::collections::VecDeque;

/// Something in a store that doesn't fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// SQLite finds its file damaged, or can't read on.
    #[error("database: {message}")]
    Database {
        /// What it says.
        message: String,
    },
    /// The log has a gap; the tree can't be checked behind it.
    #[error("records {from} to {to} are missing")]
    Missing {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// The bytes are not a record.
    #[error("record {index} can't be read: {cause}")]
    Unreadable {
        /// Its index.
        index: u64,
        /// What is wrong.
        cause: ol_protocol::bytes::Error,
    },
    /// The stored leaf is not the hash of the bytes.
    #[error("record {index}: its leaf is not the hash of its bytes")]
    Leaf {
        /// Its index.
        index: u64,
    },
    /// A stored hash of the tree is missing or not over its leaves.
    #[error("tree: the hash at level {level}, position {position} is missing or wrong")]
    Node {
        /// Its level.
        level: u32,
        /// Its position.
        position: u64,
    },
    /// The log doesn't begin with the genesis of its network and gateway, or another genesis follows.
    #[error("record {index}: the genesis is missing, misplaced or of another network or gateway")]
    Genesis {
        /// Where.
        index: u64,
    },
    /// A batch is not directly after its receipts.
    #[error("record {index}: a batch of {expected} receipts after {found} receipts")]
    Receipts {
        /// Index of the batch, or of what stands in its place.
        index: u64,
        /// How many the batch says; 0 if there is no batch.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The node's part of a batch does not hold.
    #[error("record {index}: {cause}")]
    Batch {
        /// Index of the batch.
        index: u64,
        /// What is wrong.
        cause: BatchError,
    },
    /// A batch is of another network or gateway.
    #[error("record {index}: a batch of another network or gateway")]
    Foreign {
        /// Index of the batch.
        index: u64,
    },
    /// The gateway's root is not over the receipts.
    #[error("record {index}: the root over the receipts of the batch is wrong")]
    ReceiptsRoot {
        /// Index of the batch.
        index: u64,
    },
    /// A signature in a record does not hold.
    #[error("record {index}: {cause}")]
    Signature {
        /// Its index.
        index: u64,
        /// Whose.
        cause: BadSignature,
    },
    /// A record can't be found through an index, or is found in the wrong place.
    #[error("record {index}: missing or wrong in the index {table}")]
    Index {
        /// The record.
        index: u64,
        /// The index.
        table: &'static str,
    },
    /// Rows that belong to no record.
    #[error("{rows} rows of {table} belong to no record")]
    Stray {
        /// The table.
        table: &'static str,
        /// How many.
        rows: u64,
    },
    /// A checkpoint is no checkpoint of this log, or not signed by its gateway.
    #[error("checkpoint of epoch {epoch}: {cause}")]
    Checkpoint {
        /// Its epoch.
        epoch: Epoch,
        /// What is wrong.
        cause: checkpoint::Error,
    },
    /// A checkpoint is filed under another epoch or size than it says.
    #[error("checkpoint of epoch {epoch}: filed under another epoch or size")]
    CheckpointPlace {
        /// The epoch it is filed under.
        epoch: Epoch,
    },
    /// A checkpoint's root is not that of the log at its size.
    #[error("checkpoint of epoch {epoch}: its root is not that of the first {size} records")]
    CheckpointRoot {
        /// Its epoch.
        epoch: Epoch,
        /// Its size.
        size: u64,
    },
    /// A checkpoint says something else than the close of its epoch.
    #[error("checkpoint of epoch {epoch}: state or seals differ from the close of the epoch")]
    CheckpointClose {
        /// Its epoch.
        epoch: Epoch,
    },
    /// A checkpoint or snapshot is over more records than there are.
    #[error("{what} of epoch {epoch}: over {size} records, the log ends before")]
    Beyond {
        /// Checkpoint or snapshot.
        what: &'static str,
        /// Its epoch.
        epoch: Epoch,
        /// Its size.
        size: u64,
    },
    /// The parts of a top-up that gateways took don't fit it.
    #[error("top-up {serial} of tenant {tenant}: its parts overlap, or are not what was taken of it")]
    Parts {
        /// Whose.
        tenant: TenantId,
        /// Which.
        serial: u64,
    },
    /// Sealed data can't be opened.
    #[error("task {task}: its sealed {what} can't be opened")]
    Sealed {
        /// Payload or facts.
        what: &'static str,
        /// The task.
        task: TaskId,
    },
}

/// A row of the table of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its index.
    pub index: u64,
    /// The record, empty if it was pruned.
    pub bytes: Vec<u8>,
    /// What is stored as its leaf.
    pub leaf: Vec<u8>,
}

/// The tables of a gateway's log as they are, whether or not they fit each other.
pub trait Tables: Read {
    /// Asks everything that follows of the tables as they are now, whoever writes meanwhile.
    fn begin(&self) -> Result<(), Error>;
    /// Ends that.
    fn end(&self);
    /// What the database itself finds damaged, and what is common to several logs and doesn't fit.
    fn damage(&self) -> Result<Vec<Finding>, Error>;
    /// Whose log it is.
    fn gateway(&self) -> Result<Option<GatewayId>, Error>;
    /// The next rows from an index on, in order; none at the end.
    fn rows(&self, from: u64) -> Result<Vec<Row>, Error>;
    /// All checkpoints, by size and epoch.
    fn notes(&self) -> Result<Vec<Note>, Error>;
    /// Where a task's record says that its batch is; `None` without such a row.
    fn task_row(&self, task: TaskId, index: u64) -> Result<Option<Option<u64>>, Error>;
    /// Where a node's batch is said to be.
    fn batch_row(&self, node: NodeId, sequence: u64) -> Result<Option<u64>, Error>;
    /// Whether the table of parts of top-ups has this one for this gateway, where there is such a table.
    fn slice_row(&self, slice: &Slice) -> Result<bool, Error>;
    /// How many rows of this log a table has.
    fn count(&self, table: Table) -> Result<u64, Error>;
    /// Epoch and size of each snapshot.
    fn snapshots(&self) -> Result<Vec<(Epoch, u64)>, Error>;
    /// The tasks that have facts.
    fn tasks_with_facts(&self) -> Result<Vec<TaskId>, Error>;
    /// The attempts that have payloads.
    fn payloads(&self) -> Result<Vec<AttemptId>, Error>;
}

/// A table whose rows belong to records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Where a task's records are.
    TaskRecords,
    /// Where a node's batches are.
    Batches,
    /// Hashes of complete subtrees.
    Nodes,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::TaskRecords => "task_records",
            Self::Batches => "batches",
            Self::Nodes => "nodes",
        }
    }
}

/// Checks a whole store, at one moment if a gateway runs on it. About 80 us for each batch's signatures and 1 us for each
/// record, and on a server a round trip for each; needs 16 bytes of memory for each task.
pub fn fsck(reader: &impl Tables) -> Vec<Finding> {
    fsck_then(reader, |_| ()).0
}

/// [`fsck`], and then what else is asked of the store as it was at that moment.
pub fn fsck_then<T: Tables, A>(reader: &T, then: impl FnOnce(&T) -> A) -> (Vec<Finding>, A) {
    let mut check = Check::new(reader);
    let done = reader.begin().and_then(|()| check.all());
    if let Err(failed) = done {
        check.findings.push(database(&failed));
    }
    let answer = then(reader);
    reader.end();
    (check.findings, answer)
}

struct Check<'a, T> {
    reader: &'a T,
    findings: Vec<Finding>,
    network: Option<NetworkId>,
    gateway: Option<GatewayId>,
    next: u64,
    // Gone behind a gap: then nothing can be said of the tree.
    edge: Option<Edge>,
    last_close: Option<Close>,
    // Records before this one may be without bytes.
    pruned: u64,
    checkpoints: VecDeque<Note>,
    receipts: Vec<Receipt>,
    tree_hashes: u64,
    task_rows: u64,
    batch_rows: u64,
}

impl<'a, T: Tables> Check<'a, T> {
    fn new(reader: &'a T) -> Self {
        Self {
            reader,
            findings: Vec::new(),
            network: None,
            gateway: None,
            next: 0,
            edge: Some(Edge::default()),
            last_close: None,
            pruned: 0,
            checkpoints: VecDeque::new(),
            receipts: Vec::new(),
            tree_hashes: 0,
            task_rows: 0,
            batch_rows: 0,
        }
    }

    fn all(&mut self) -> Result<(), Error> {
        self.findings = self.reader.damage()?;
        (self.network, self.gateway) = (self.reader.network()?, self.reader.gateway()?);
        self.pruned = self.reader.pruned()?.map_or(0, |pruned| pruned.before);
        self.checkpoints = self.reader.notes()?.into();
        self.log()?;
        self.strays()?;
        self.snapshots()?;
        self.sealed()
    }

    fn log(&mut self) -> Result<(), Error> {
        loop {
            let page = self.reader.rows(self.next)?;
            if page.is_empty() {
                break;
            }
            page.iter().try_for_each(|Row { index, bytes, leaf }| self.row(*index, bytes, leaf))?;
        }
        self.end_of_receipts(self.next, 0);
        self.checkpoints_here();
        let beyond = self.checkpoints.drain(..).map(|Note { epoch, size, .. }| {
            let what = "checkpoint";
            Finding::Beyond { what, epoch, size }
        });
        self.findings.extend(beyond);
        Ok(())
    }

    fn row(&mut self, index: u64, bytes: &[u8], leaf: &[u8]) -> Result<(), Error> {
        self.checkpoints_here();
        if index != self.next {
            self.findings.push(Finding::Missing { from: self.next, to: index - 1 });
            self.edge = None;
            self.receipts.clear();
        }
        self.next = index + 1;
        if bytes.is_empty() && index < self.pruned {
            return self.pruned_row(index, leaf);
        }
        let computed = merkle::leaf_hash(bytes);
        if computed.0 != leaf {
            self.findings.push(Finding::Leaf { index });
        }
        self.grow(computed)?;
        match Record::from_bytes(bytes) {
            Ok(record) => self.record(index, record),
            Err(cause) => {
                self.findings.push(Finding::Unreadable { index, cause });
                Ok(())
            }
        }
    }

    // Only the leaf is left, and it is under every root that was signed since.
    fn pruned_row(&mut self, index: u64, leaf: &[u8]) -> Result<(), Error> {
        match <[u8; 32]>::try_from(leaf) {
            Ok(leaf) => self.grow(Digest(leaf)),
            Err(_) => {
                self.findings.push(Finding::Leaf { index });
                self.edge = None;
                Ok(())
            }
        }
    }

    fn grow(&mut self, leaf: Digest) -> Result<(), Error> {
        let (reader, findings, count) = (self.reader, &mut self.findings, &mut self.tree_hashes);
        let Some(edge) = &mut self.edge else { return Ok(()) };
        edge.append(leaf, &mut |subtree: Subtree, hash: &Digest| {
            let Subtree { level, position } = subtree;
            let stored = reader.hashes(level, position..position + 1)?;
            *count += u64::from(stored.is_some());
            if stored.is_none_or(|stored| stored != [*hash]) {
                findings.push(Finding::Node { level, position });
            }
            Ok(())
        })
    }

    fn record(&mut self, index: u64, record: Record) -> Result<(), Error> {
        let is_genesis = matches!(record, Record::Genesis(_));
        if is_genesis != (index == 0) {
            self.findings.push(Finding::Genesis { index });
        }
        match record {
            Record::Receipt(receipt) => {
                self.receipts.push(receipt);
                return Ok(());
            }
            Record::Batch(batch) => return self.batch(index, batch),
            Record::Genesis(genesis) => {
                self.signature(index, genesis.verify());
                if index == 0 && (Some(genesis.network()), Some(genesis.gateway)) != (self.network, self.gateway) {
                    self.findings.push(Finding::Genesis { index });
                }
            }
            Record::TopUp(slice) => {
                self.signature(index, slice.top_up.verify());
                if !self.reader.slice_row(&slice)? {
                    self.findings.push(Finding::Index { index, table: "slices" });
                }
            }
            Record::Parameters(change) => self.signature(index, change.verify()),
            Record::Calibration(calibration) => self.signature(index, calibration.verify()),
            Record::Evidence(_) => {}
            Record::Sealed { seals, .. } => seals.iter().for_each(|seal| self.signature(index, seal.verify())),
            Record::Audit { subject, outcome } => self.audit(index, subject, &outcome)?,
            Record::Close(close) => self.last_close = Some(close),
        }
        self.end_of_receipts(index, 0);
        Ok(())
    }

    fn signature(&mut self, index: u64, result: Result<(), BadSignature>) {
        if let Err(cause) = result {
            self.findings.push(Finding::Signature { index, cause });
        }
    }

    fn end_of_receipts(&mut self, index: u64, expected: usize) {
        let found = self.receipts.len();
        if found != expected {
            self.findings.push(Finding::Receipts { index, expected, found });
        }
        self.receipts.clear();
    }

    fn audit(&mut self, index: u64, subject: AttemptId, outcome: &AuditOutcome) -> Result<(), Error> {
        if let AuditOutcome::Verdict { verdict, .. } = outcome {
            self.signature(index, verdict.verify());
        }
        self.task_row(subject.task, index, None)
    }

    fn batch(&mut self, index: u64, batch: CountersignedBatch) -> Result<(), Error> {
        self.batch_row(index, &batch)?;
        let header = &batch.header;
        if (Some(header.network), Some(header.gateway)) != (self.network, self.gateway) {
            self.findings.push(Finding::Foreign { index });
        }
        if index < self.pruned && self.receipts.is_empty() {
            self.signature(index, batch.verify());
            return Ok(());
        }
        let count = usize::from(header.count);
        if self.receipts.len() != count {
            self.signature(index, batch.verify());
            self.end_of_receipts(index, count);
            return Ok(());
        }
        let receipts = core::mem::take(&mut self.receipts);
        for (receipt, of) in receipts.iter().zip(index - count as u64..) {
            self.task_row(receipt.commitment.task, of, Some(index))?;
        }
        self.evidence(index, &batch, &receipts);
        self.signature(index, batch.verify());
        Ok(())
    }

    // What `SignedBatch::verify` checks but for the signature, which would be checked twice.
    fn evidence(&mut self, index: u64, batch: &CountersignedBatch, receipts: &[Receipt]) {
        let roots = |leaf: fn(&Receipt) -> Digest| merkle::root(&receipts.iter().map(leaf).collect::<Vec<_>>());
        if roots(|receipt| merkle::leaf_hash(&receipt.to_bytes())) != batch.receipts_root {
            self.findings.push(Finding::ReceiptsRoot { index });
        }
        if roots(|receipt| receipt.commitment.leaf()) != batch.header.root {
            self.findings.push(Finding::Batch { index, cause: BatchError::Root });
        }
        let BatchHeader { network, gateway, node, operator, .. } = batch.header;
        let foreign =
            |it: &Commitment| (it.network, it.gateway, it.node, it.operator) != (network, gateway, node, operator);
        if let Some(place) = receipts.iter().position(|receipt| foreign(&receipt.commitment)) {
            self.findings.push(Finding::Batch { index, cause: BatchError::Foreign { index: place } });
        }
    }

    fn task_row(&mut self, task: TaskId, index: u64, batch: Option<u64>) -> Result<(), Error> {
        let stored = self.reader.task_row(task, index)?;
        self.task_rows += u64::from(stored.is_some());
        if stored != Some(batch) {
            self.findings.push(Finding::Index { index, table: "task_records" });
        }
        Ok(())
    }

    fn batch_row(&mut self, index: u64, batch: &CountersignedBatch) -> Result<(), Error> {
        match self.reader.batch_row(batch.header.node, batch.header.sequence)? {
            Some(stored) if stored == index => self.batch_rows += 1,
            _ => self.findings.push(Finding::Index { index, table: "batches" }),
        }
        Ok(())
    }

    // Checks the checkpoints at the size that the log has been read to.
    fn checkpoints_here(&mut self) {
        let next = self.next;
        while let Some(note) = self.checkpoints.pop_front_if(|note| note.size <= next) {
            self.checkpoint(&note);
        }
    }

    fn checkpoint(&mut self, note: &Note) {
        let epoch = note.epoch;
        let (Some(network), Some(gateway)) = (self.network, self.gateway) else { return };
        let stored = match Checkpoint::open(&note.text, network, gateway.0) {
            Ok(stored) => stored,
            Err(cause) => return self.findings.push(Finding::Checkpoint { epoch, cause }),
        };
        if (stored.epoch, stored.size) != (epoch, note.size) {
            return self.findings.push(Finding::CheckpointPlace { epoch });
        }
        if self.edge.as_ref().is_some_and(|edge| edge.size() != stored.size || edge.root() != stored.root) {
            self.findings.push(Finding::CheckpointRoot { epoch, size: stored.size });
        }
        let said = (stored.epoch, stored.state, stored.draw_seal, stored.nonce_seal);
        let fits = |close: &Close| (close.epoch, close.state, close.next_draw_seal, close.next_nonce_seal) == said;
        if self.last_close.as_ref().is_some_and(|close| !fits(close)) {
            self.findings.push(Finding::CheckpointClose { epoch });
        }
    }

    fn strays(&mut self) -> Result<(), Error> {
        let tables =
            [(Table::TaskRecords, self.task_rows), (Table::Batches, self.batch_rows), (Table::Nodes, self.tree_hashes)];
        for (table, expected) in tables {
            let found = self.reader.count(table)?;
            let known = table != Table::Nodes || self.edge.is_some();
            if known && found > expected {
                self.findings.push(Finding::Stray { table: table.name(), rows: found - expected });
            }
        }
        Ok(())
    }

    fn snapshots(&mut self) -> Result<(), Error> {
        let beyond = self.reader.snapshots()?.into_iter().filter(|(_, size)| *size > self.next);
        let what = "snapshot";
        self.findings.extend(beyond.map(|(epoch, size)| Finding::Beyond { what, epoch, size }));
        Ok(())
    }

    fn sealed(&mut self) -> Result<(), Error> {
        let reader = self.reader;
        for task in reader.tasks_with_facts()? {
            self.opens(reader.facts(task).map(drop))?;
        }
        reader.payloads()?.into_iter().try_for_each(|attempt| self.opens(reader.payload(attempt).map(drop)))
    }

    fn opens(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Err(Error::Sealed { what, task }) => self.findings.push(Finding::Sealed { what, task }),
            other => return other,
        }
        Ok(())
    }
}

fn database(failed: &Error) -> Finding {
    let cause = std::error::Error::source(failed).map(|cause| format!(": {cause}")).unwrap_or_default();
    Finding::Database { message: format!("{failed}{cause}") }
}
