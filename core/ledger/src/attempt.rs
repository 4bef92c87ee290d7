//! Receipts on their way from charge to pay.

use crate::split::Shares;
use ol_protocol::bytes::{Error, Reader, Writer};
use ol_protocol::parameters::Parameters;
use ol_protocol::receipt::Receipt;
use ol_protocol::record::AttemptId;
use ol_protocol::{NodeId, OperatorId, TaskId, TenantId};

/// How an audit of an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finding {
    /// The result is what the node committed to.
    Passed,
    /// It is not: the node isn't paid and the tenant gets the charge back.
    Failed,
    /// The gateway lost the payload: paid, and never blamed on the node.
    Unauditable,
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Charged, not drawn: split at the close.
    Undrawn,
    /// Charged and drawn, the audit has not ended: held.
    Drawn,
    /// Charged, audited without blame: split at the close.
    Cleared,
    /// Split.
    Paid,
    /// Failed: the tenant has the money back.
    Refunded,
}

impl Stage {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Undrawn => 0,
            Self::Drawn => 1,
            Self::Cleared => 2,
            Self::Paid => 3,
            Self::Refunded => 4,
        }
    }

    const fn from_byte(byte: u8) -> Result<Self, Error> {
        Ok(match byte {
            0 => Self::Undrawn,
            1 => Self::Drawn,
            2 => Self::Cleared,
            3 => Self::Paid,
            4 => Self::Refunded,
            other => return Err(Error::Unknown { what: "stage of an attempt", value: other as u64 }),
        })
    }
}

/// What settlement needs to know of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) tenant: TenantId,
    pub(crate) node: NodeId,
    pub(crate) operator: OperatorId,
    // Of its charge, by the split that held when it was charged.
    pub(crate) shares: Shares,
    pub(crate) stage: Stage,
}

impl Attempt {
    pub(crate) fn new(receipt: &Receipt, drawn: bool, parameters: &Parameters) -> Self {
        let (commitment, charge) = (&receipt.commitment, &receipt.charge);
        let (split, pay_bp) = (&parameters.split, parameters.audit.pay_bp);
        Self {
            tenant: charge.tenant,
            node: commitment.node,
            operator: commitment.operator,
            shares: match charge.with_audit {
                true => Shares::with_audit(charge.amount, split, pay_bp),
                false => Shares::of(charge.amount, split),
            },
            stage: if drawn { Stage::Drawn } else { Stage::Undrawn },
        }
    }

    pub(crate) fn write(&self, id: &AttemptId, w: &mut Writer) {
        w.raw(&id.task.0).u8(id.attempt).raw(&self.tenant.0).raw(&self.node.0).raw(&self.operator.0);
        self.shares.write(w);
        w.u8(self.stage.to_byte());
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<(AttemptId, Self), Error> {
        let id = AttemptId { task: TaskId(r.array()?), attempt: r.u8()? };
        let attempt = Self {
            tenant: TenantId(r.array()?),
            node: NodeId(r.array()?),
            operator: OperatorId(r.array()?),
            shares: Shares::read(r)?,
            stage: Stage::from_byte(r.u8()?)?,
        };
        Ok((id, attempt))
    }
}

/// The id of a receipt's attempt.
pub(crate) const fn id(receipt: &Receipt) -> AttemptId {
    AttemptId { task: receipt.commitment.task, attempt: receipt.commitment.attempt }
}
