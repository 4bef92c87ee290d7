//! The parameters of a network, fixed at its birth and named by its id.

use crate::FORMAT_VERSION;
use crate::bytes::{Error, Reader, Writer};
use crate::digest::{Domain, digest};
use crate::id::{GatewayId, IssuerId, NetworkId, NodeId, OperatorId};
use crate::unit::{Micros, Timestamp};
use alloc::vec::Vec;

/// Shares of a charge, in hundredths of a per cent. They add up to 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// To the node's operator.
    pub node_bp: u16,
    /// For audits.
    pub verification_bp: u16,
    /// For quiet seasons.
    pub reserve_bp: u16,
    /// To the gateway's owner.
    pub gateway_bp: u16,
}

impl Split {
    /// 85, 2, 5 and 8 per cent.
    pub const DEFAULT: Self = Self { node_bp: 8_500, verification_bp: 200, reserve_bp: 500, gateway_bp: 800 };

    /// Whether the shares add up to the whole.
    pub const fn is_whole(&self) -> bool {
        self.node_bp as u32 + self.verification_bp as u32 + self.reserve_bp as u32 + self.gateway_bp as u32 == 10_000
    }
}

/// How often results are audited, and what fails one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditRule {
    /// A node's first tasks in a variant, all audited.
    pub newcomer_tasks: u32,
    /// Afterwards, out of a million tasks.
    pub rate_ppm: u32,
    /// A margin above this many millionths of a nat fails.
    pub margin_micro_max: u32,
    /// Below this many operators the referee audits.
    pub cross_audit_operators_min: u32,
}

impl AuditRule {
    /// Three tasks, then one in five; 0.05 nats; five operators.
    pub const DEFAULT: Self =
        Self { newcomer_tasks: 3, rate_ppm: 200_000, margin_micro_max: 50_000, cross_audit_operators_min: 5 };
}

/// How long pay is held against a later finding: until both have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EscrowRule {
    /// Time since the epoch in which it was earned was settled.
    pub hold: Micros,
    /// Later tasks of the same node.
    pub tasks: u32,
}

impl EscrowRule {
    /// An hour and 70 tasks: twice what the honesty inequality needs at an audit rate of 2 %.
    pub const DEFAULT: Self = Self { hold: Micros::from_secs(3_600), tasks: 70 };
}

/// The first record of a gateway's log. Its digest is the network's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// Who signs top-ups.
    pub issuer: IssuerId,
    /// The gateway whose log this is.
    pub gateway: GatewayId,
    /// The network's own scorer.
    pub referee: NodeId,
    /// The key that certifies the referee.
    pub referee_operator: OperatorId,
    /// When the network began.
    pub born_at: Timestamp,
    /// Length of an epoch.
    pub epoch: Micros,
    /// Shares of a charge.
    pub split: Split,
    /// Audits.
    pub audit: AuditRule,
    /// Escrow.
    pub escrow: EscrowRule,
}

impl Genesis {
    /// The network's id.
    pub fn network(&self) -> NetworkId {
        NetworkId(digest(Domain::Genesis, &[&self.to_bytes()]).0)
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(FORMAT_VERSION).raw(&self.issuer.0).raw(&self.gateway.0).raw(&self.referee.0);
        w.raw(&self.referee_operator.0).u64(self.born_at.0).u64(self.epoch.0);
        let Split { node_bp, verification_bp, reserve_bp, gateway_bp } = self.split;
        w.u16(node_bp).u16(verification_bp).u16(reserve_bp).u16(gateway_bp);
        let AuditRule { newcomer_tasks, rate_ppm, margin_micro_max, cross_audit_operators_min } = self.audit;
        w.u32(newcomer_tasks).u32(rate_ppm).u32(margin_micro_max).u32(cross_audit_operators_min);
        w.u64(self.escrow.hold.0).u32(self.escrow.tasks);
        w.finish()
    }

    /// Reads canonical bytes from the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        crate::version(r)?;
        Ok(Self {
            issuer: IssuerId(r.array()?),
            gateway: GatewayId(r.array()?),
            referee: NodeId(r.array()?),
            referee_operator: OperatorId(r.array()?),
            born_at: Timestamp(r.u64()?),
            epoch: Micros(r.u64()?),
            split: Split { node_bp: r.u16()?, verification_bp: r.u16()?, reserve_bp: r.u16()?, gateway_bp: r.u16()? },
            audit: AuditRule {
                newcomer_tasks: r.u32()?,
                rate_ppm: r.u32()?,
                margin_micro_max: r.u32()?,
                cross_audit_operators_min: r.u32()?,
            },
            escrow: EscrowRule { hold: Micros(r.u64()?), tasks: r.u32()? },
        })
    }
}
