//! The follower: reads a gateway's log from its beginning and checks everything in it that can be checked.

use crate::settler::{Fault, Settler};
use ol_ledger::Summary;
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::key::BadSignature;
use ol_protocol::merkle::{Frontier, leaf_hash};
use ol_protocol::record::{AuditOutcome, Close, Record};
use ol_protocol::{Digest, Epoch, GatewayId, NetworkId, bytes};

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// The bytes are none.
    #[error("it can't be read: {0}")]
    Bytes(#[from] bytes::Error),
    /// A signature does not hold.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// It is signed for another network or gateway.
    #[error("it is of another network or gateway")]
    Foreign,
    /// It can't follow what was before.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A record that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {index}: {wrong}")]
pub struct BadRecord {
    /// Its index.
    pub index: u64,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// A checkpoint is not of this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCheckpoint {
    /// Another network or gateway.
    #[error("the checkpoint is of another network or gateway")]
    Foreign,
    /// There are other records under it.
    #[error("the checkpoint of epoch {epoch} is over other records than these {size}")]
    Root {
        /// Its epoch.
        epoch: Epoch,
        /// How many records are here.
        size: u64,
    },
    /// It says something else than the close before it.
    #[error("the checkpoint of epoch {epoch} does not say what the close before it says")]
    Close {
        /// Its epoch.
        epoch: Epoch,
    },
}

/// How many records of each kind there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Receipts.
    pub receipts: u64,
    /// Batches.
    pub batches: u64,
    /// Ends of audits.
    pub audits: u64,
    /// Top-ups.
    pub top_ups: u64,
    /// Changes of parameters.
    pub changes: u64,
    /// Calibrations.
    pub calibrations: u64,
    /// Panels whose members sealed their verdicts.
    pub panels: u64,
    /// Evidence against nodes.
    pub evidence: u64,
    /// Closes.
    pub closes: u64,
}

/// The log so far: its tree, its accounts, and what was counted.
#[derive(Debug, Clone)]
pub struct Follower {
    settler: Settler,
    network: NetworkId,
    gateway: GatewayId,
    tree: Frontier,
    counts: Counts,
    last: Option<Close>,
}

impl Follower {
    /// After the first record, which must be a genesis.
    pub fn begin(first: &[u8]) -> Result<Self, BadRecord> {
        let bad = |wrong| BadRecord { index: 0, wrong };
        let record = Record::from_bytes(first).map_err(|error| bad(error.into()))?;
        let settler = Settler::begin(&record).map_err(|fault| bad(fault.into()))?;
        let (network, gateway) = (settler.genesis().network(), settler.genesis().gateway);
        let mut tree = Frontier::new();
        tree.append(leaf_hash(first));
        Ok(Self { settler, network, gateway, tree, counts: Counts::default(), last: None })
    }

    /// Takes the next record and gives it, with what it settled if it is a close. After an error the follower is of no
    /// more use.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(Record, Option<Summary>), BadRecord> {
        let index = self.tree.size();
        let taken = self.check(bytes).map_err(|wrong| BadRecord { index, wrong })?;
        self.tree.append(leaf_hash(bytes));
        Ok(taken)
    }

    fn check(&mut self, bytes: &[u8]) -> Result<(Record, Option<Summary>), Wrong> {
        let record = Record::from_bytes(bytes)?;
        if !self.is_of_here(&record) {
            return Err(Wrong::Foreign);
        }
        record.verify()?;
        let count = match &record {
            Record::Close(close) => {
                self.last = Some(close.clone());
                &mut self.counts.closes
            }
            Record::Receipt(_) => &mut self.counts.receipts,
            Record::Batch(_) => &mut self.counts.batches,
            Record::Audit { .. } => &mut self.counts.audits,
            Record::Sealed { .. } => &mut self.counts.panels,
            Record::TopUp(_) => &mut self.counts.top_ups,
            Record::Parameters(_) => &mut self.counts.changes,
            Record::Calibration(_) => &mut self.counts.calibrations,
            Record::Evidence(_) => &mut self.counts.evidence,
            Record::Genesis(_) => return Err(Fault::Genesis.into()),
        };
        *count += 1;
        let summary = self.settler.apply(&record)?;
        Ok((record, summary))
    }

    fn is_of_here(&self, record: &Record) -> bool {
        match record {
            Record::Batch(CountersignedBatch { header, .. }) => {
                (header.network, header.gateway) == (self.network, self.gateway)
            }
            Record::Audit { outcome: AuditOutcome::Verdict { verdict, .. }, .. } => verdict.network == self.network,
            // The settler checks whose these are.
            Record::TopUp(_)
            | Record::Receipt(_)
            | Record::Parameters(_)
            | Record::Calibration(_)
            | Record::Evidence(_)
            | Record::Sealed { .. } => true,
            Record::Genesis(_) | Record::Audit { .. } | Record::Close(_) => true,
        }
    }

    /// Holds a checkpoint against the log so far, which must end with the close that the checkpoint is of.
    pub fn check_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), BadCheckpoint> {
        if (checkpoint.network, checkpoint.gateway) != (self.network, self.gateway.0) {
            return Err(BadCheckpoint::Foreign);
        }
        let (epoch, size) = (checkpoint.epoch, self.tree.size());
        if (checkpoint.size, checkpoint.root) != (size, self.tree.root()) {
            return Err(BadCheckpoint::Root { epoch, size });
        }
        let says = |close: &Close| {
            (close.epoch, close.state, close.next_draw_seal, close.next_nonce_seal)
                == (epoch, checkpoint.state, checkpoint.draw_seal, checkpoint.nonce_seal)
        };
        if self.last.as_ref().is_some_and(says) { Ok(()) } else { Err(BadCheckpoint::Close { epoch }) }
    }

    /// The accounts.
    pub const fn settler(&self) -> &Settler {
        &self.settler
    }

    /// The network that the log's genesis names.
    pub const fn network(&self) -> NetworkId {
        self.network
    }

    /// Records so far.
    pub const fn size(&self) -> u64 {
        self.tree.size()
    }

    /// RFC 6962 root over them.
    pub fn root(&self) -> Digest {
        self.tree.root()
    }

    /// What they were.
    pub const fn counts(&self) -> Counts {
        self.counts
    }
}
