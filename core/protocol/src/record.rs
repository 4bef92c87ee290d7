//! The log: everything that settlement is computed from, in the order in which the gateway committed it. Each record is
//! one leaf of the log's Merkle tree.

use crate::batch::CountersignedBatch;
use crate::bytes::{Error, Reader, Writer};
use crate::calibration::Calibration;
use crate::evidence::Evidence;
use crate::genesis::Genesis;
use crate::id::{AuditId, Digest, TaskId};
use crate::key::BadSignature;
use crate::merkle;
use crate::parameters::ParameterChange;
use crate::receipt::Receipt;
use crate::seal::{PANEL, Seal};
use crate::top_up::Slice;
use crate::unit::{Epoch, Timestamp};
use crate::verdict::{Level, Verdict};
use alloc::vec::Vec;

/// An attempt at a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The task.
    pub task: TaskId,
    /// Counted from 0.
    pub attempt: u8,
}

/// What follows from a verdict for the result that it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ruling {
    /// It is what its node committed to.
    Passed,
    /// It is not.
    Failed,
    /// An auditor says that it is not: the referee has to look.
    Accused,
    /// A member of a panel says that it is, and that does not decide.
    VotedFor,
    /// A member of a panel says that it is not, and that does not decide.
    VotedAgainst,
    /// The record is of the time before rulings were stated: one margin above the limit failed, and no calibration was needed.
    Unstated,
}

impl Ruling {
    // An unstated one has none: its record has a tag of its own.
    const fn to_byte(self) -> Option<u8> {
        match self {
            Self::Passed => Some(0),
            Self::Failed => Some(1),
            Self::Accused => Some(2),
            Self::VotedFor => Some(3),
            Self::VotedAgainst => Some(4),
            Self::Unstated => None,
        }
    }

    const fn from_byte(byte: u8) -> Result<Self, Error> {
        Ok(match byte {
            0 => Self::Passed,
            1 => Self::Failed,
            2 => Self::Accused,
            3 => Self::VotedFor,
            4 => Self::VotedAgainst,
            other => return Err(Error::Unknown { what: "ruling", value: other as u64 }),
        })
    }

    /// The word that people see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Accused => "accused",
            Self::VotedFor => "voted for",
            Self::VotedAgainst => "voted against",
            Self::Unstated => "unstated",
        }
    }
}

/// How an audit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditOutcome {
    /// An auditor measured.
    Verdict {
        /// What.
        verdict: Verdict,
        /// What follows from it, as settlement has to find too.
        ruling: Ruling,
    },
    /// The gateway lost the payload: paid, counted, never blamed on the node.
    Unauditable {
        /// The audit.
        audit: AuditId,
    },
}

impl AuditOutcome {
    /// At which level an auditor measured.
    pub const fn level(&self) -> Option<Level> {
        match self {
            Self::Verdict { verdict, .. } => Some(verdict.level),
            Self::Unauditable { .. } => None,
        }
    }
}

/// The secrets and results that close an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The epoch that ends.
    pub epoch: Epoch,
    /// When it ended.
    pub at: Timestamp,
    /// The draw secret of the epoch, sealed since before it began.
    pub draw_secret: [u8; 32],
    /// The seed-nonce secret of the epoch, sealed likewise.
    pub nonce_secret: [u8; 32],
    /// Digest of the next epoch's draw secret.
    pub next_draw_seal: Digest,
    /// Digest of the next epoch's nonce secret.
    pub next_nonce_seal: Digest,
    /// Digest of the accounts after settlement.
    pub state: Digest,
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The parameters; always and only the first.
    Genesis(Genesis),
    /// Money from the issuer, as far as this gateway may charge it.
    TopUp(Slice),
    /// An attempt, part of the next batch record.
    Receipt(Receipt),
    /// A countersigned batch over the `header.count` receipts directly before it.
    Batch(CountersignedBatch),
    /// The end of an audit of an attempt.
    Audit {
        /// What was audited.
        subject: AttemptId,
        /// What came of it.
        outcome: AuditOutcome,
    },
    /// The end of an epoch.
    Close(Close),
    /// Other parameters for the epochs to come.
    Parameters(ParameterChange),
    /// What audits are judged by from here on.
    Calibration(Calibration),
    /// A failed attempt's content, which takes its node's escrow.
    Evidence(Evidence),
    /// The members of a panel have fixed their verdicts on an attempt.
    Sealed {
        /// What they audited.
        subject: AttemptId,
        /// One of each.
        seals: [Seal; PANEL],
    },
}

impl Record {
    /// Its leaf in the log's tree.
    pub fn leaf(&self) -> Digest {
        merkle::leaf_hash(&self.to_bytes())
    }

    /// Checks the signatures that it carries; whether they are of the right keys is the settler's to check. One or two
    /// signature checks for a genesis, top-up, batch, verdict, change or calibration, three for a panel's seals, none for the others.
    pub fn verify(&self) -> Result<(), BadSignature> {
        match self {
            Self::TopUp(slice) => slice.top_up.verify(),
            Self::Genesis(genesis) => genesis.verify(),
            Self::Batch(batch) => batch.verify(),
            Self::Audit { outcome: AuditOutcome::Verdict { verdict, .. }, .. } => verdict.verify(),
            Self::Parameters(change) => change.verify(),
            Self::Calibration(calibration) => calibration.verify(),
            Self::Sealed { seals, .. } => seals.iter().try_for_each(Seal::verify),
            Self::Receipt(_) | Self::Audit { .. } | Self::Close(_) | Self::Evidence(_) => Ok(()),
        }
    }

    /// Canonical bytes: a tag, then the record.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::Genesis(genesis) => w.u8(0).raw(&genesis.to_bytes()),
            Self::TopUp(slice) => w.u8(1).raw(&slice.to_bytes()),
            Self::Receipt(receipt) => w.u8(2).raw(&receipt.to_bytes()),
            Self::Batch(batch) => w.u8(3).raw(&batch.to_bytes()),
            Self::Audit { subject, outcome } => {
                w.u8(4).raw(&subject.task.0).u8(subject.attempt);
                match outcome {
                    AuditOutcome::Verdict { verdict, ruling } => match ruling.to_byte() {
                        Some(byte) => w.u8(2).raw(&verdict.to_bytes()).u8(byte),
                        None => w.u8(0).raw(&verdict.to_bytes()),
                    },
                    AuditOutcome::Unauditable { audit } => w.u8(1).raw(&audit.0),
                }
            }
            Self::Close(close) => {
                w.u8(5).u64(close.epoch.0).u64(close.at.0).raw(&close.draw_secret).raw(&close.nonce_secret);
                w.raw(&close.next_draw_seal.0).raw(&close.next_nonce_seal.0).raw(&close.state.0)
            }
            Self::Parameters(change) => w.u8(6).raw(&change.to_bytes()),
            Self::Calibration(calibration) => w.u8(7).raw(&calibration.to_bytes()),
            Self::Evidence(evidence) => w.u8(8).raw(&evidence.to_bytes()),
            Self::Sealed { subject, seals } => {
                w.u8(9).raw(&subject.task.0).u8(subject.attempt);
                seals.iter().fold(&mut w, |w, seal| w.raw(&seal.to_bytes()))
            }
        };
        w.finish()
    }

    /// Reads canonical bytes; signatures are not checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let record = match r.u8()? {
            0 => Self::Genesis(Genesis::read(&mut r)?),
            1 => return Slice::from_bytes(&bytes[1..]).map(Self::TopUp),
            2 => return Receipt::from_bytes(&bytes[1..]).map(Self::Receipt),
            3 => Self::Batch(CountersignedBatch::read(&mut r)?),
            4 => Self::read_audit(&mut r)?,
            5 => Self::Close(Close {
                epoch: Epoch(r.u64()?),
                at: Timestamp(r.u64()?),
                draw_secret: r.array()?,
                nonce_secret: r.array()?,
                next_draw_seal: Digest(r.array()?),
                next_nonce_seal: Digest(r.array()?),
                state: Digest(r.array()?),
            }),
            6 => Self::Parameters(ParameterChange::read(&mut r)?),
            7 => Self::Calibration(Calibration::read(&mut r)?),
            8 => Self::Evidence(Evidence::read(&mut r)?),
            9 => Self::Sealed {
                subject: AttemptId { task: TaskId(r.array()?), attempt: r.u8()? },
                seals: [Seal::read(&mut r)?, Seal::read(&mut r)?, Seal::read(&mut r)?],
            },
            other => return Err(Error::Unknown { what: "record", value: u64::from(other) }),
        };
        r.finish()?;
        Ok(record)
    }

    fn read_audit(r: &mut Reader<'_>) -> Result<Self, Error> {
        let subject = AttemptId { task: TaskId(r.array()?), attempt: r.u8()? };
        let outcome = match r.u8()? {
            0 => AuditOutcome::Verdict { verdict: Verdict::read(r)?, ruling: Ruling::Unstated },
            2 => AuditOutcome::Verdict { verdict: Verdict::read(r)?, ruling: Ruling::from_byte(r.u8()?)? },
            1 => AuditOutcome::Unauditable { audit: AuditId(r.array()?) },
            other => return Err(Error::Unknown { what: "audit outcome", value: u64::from(other) }),
        };
        Ok(Self::Audit { subject, outcome })
    }
}
