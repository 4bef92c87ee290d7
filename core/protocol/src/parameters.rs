//! What a network's owners may change: shares, audits, escrow, payouts. Every value has bounds, and a change is a signed
//! record of the log that moves each by a tenth at most.

use crate::FORMAT_VERSION;
use crate::bytes::{Error, Reader, Writer};
use crate::digest::Domain;
use crate::id::{IssuerId, NetworkId};
use crate::key::{BadSignature, SecretKey, Signature, verify};
use crate::unit::{Epoch, MicroCredits, Micros};
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
    /// Whether a task's chance grows with its charge: else all are drawn alike.
    pub by_charge: bool,
    /// Whether the network sees to it that honesty pays: pay is held for as many tasks as that takes, and the network asks
    /// for tasks of its own.
    pub deterrent: bool,
    /// A margin above this many millionths of a nat fails.
    pub margin_micro_max: u32,
    /// Below this many operators the referee audits.
    pub cross_audit_operators_min: u32,
    /// Pay of an auditor whose verdict stands, in hundredths of a per cent of the audited receipt's charge.
    pub pay_bp: u16,
}

impl AuditRule {
    /// Thirty tasks, then one in a hundred (docs/adr/0018), the dear more often (docs/adr/0021), with what makes honesty pay (docs/adr/0024); 0.05 nats; five operators. Scoring as far as a draw
    /// reaches costs 0.43 of generating where eight answers are generated together, less elsewhere (docs/bench/2026-11-prefixes.md), and 85 % of a
    /// charge pay for generating: an auditor gets 40 % of the charge, a little more than the same work earns elsewhere.
    pub const DEFAULT: Self = Self {
        newcomer_tasks: 30,
        rate_ppm: 10_000,
        by_charge: true,
        deterrent: true,
        margin_micro_max: 50_000,
        cross_audit_operators_min: 5,
        pay_bp: 4_000,
    };
}

/// How long pay is held against a later finding: until both have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EscrowRule {
    /// Time since the epoch in which it was earned was settled.
    pub hold: Micros,
    /// Later tasks of the same node; up to ten times as many where the network sees to it that honesty pays.
    pub tasks: u32,
}

impl EscrowRule {
    /// An hour and 180 tasks: what the honesty inequality needs at an audit rate of 1 % against who computes nothing at all, where one task in
    /// fifty may become public and a fifth of the auditors collude (docs/adr/0020).
    pub const DEFAULT: Self = Self { hold: Micros::from_secs(3_600), tasks: 180 };
}

/// When money leaves the ledger for whoever earned it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayoutRule {
    /// What has to come together in an account until it is paid out.
    pub threshold: MicroCredits,
}

impl PayoutRule {
    /// One credit. A small node that makes 30 tokens a second for a quarter of the day, at 8 micro-credits each, earns five
    /// times that in a day.
    pub const DEFAULT: Self = Self { threshold: MicroCredits(1_000_000) };
}

/// All of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Shares of a charge.
    pub split: Split,
    /// Audits.
    pub audit: AuditRule,
    /// Escrow.
    pub escrow: EscrowRule,
    /// Payouts.
    pub payout: PayoutRule,
}

/// A parameter outside its bounds, or a step that is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadParameters {
    /// The shares are more or less than the whole.
    #[error("the shares of the split do not add up to 10,000")]
    SplitNotWhole,
    /// A value is outside its bounds.
    #[error("{name} is {value}, the bounds are {min} and {max}")]
    Bounds {
        /// Which one.
        name: &'static str,
        /// What it is.
        value: u64,
        /// The least that it may be.
        min: u64,
        /// The most that it may be.
        max: u64,
    },
    /// A value changes by more than a tenth.
    #[error("{name} goes from {from} to {to}, more than a tenth at a time")]
    Step {
        /// Which one.
        name: &'static str,
        /// What it was.
        from: u64,
        /// What it is to be.
        to: u64,
    },
}

/// The bit of the audit rate's word that says that the chance grows with the charge: no rate needs it.
const BY_CHARGE: u32 = 1 << 31;

/// The one that says that the network sees to it that honesty pays.
const DETERRENT: u32 = 1 << 30;

/// Longest time that pay may be held: thirty days.
const HOLD_MAX: u64 = Micros::from_secs(30 * 86_400).0;

impl Parameters {
    /// Those of a new network.
    pub const DEFAULT: Self = Self {
        split: Split::DEFAULT,
        audit: AuditRule::DEFAULT,
        escrow: EscrowRule::DEFAULT,
        payout: PayoutRule::DEFAULT,
    };

    // Each value with its name and bounds.
    fn values(&self) -> [(&'static str, u64, u64, u64); 12] {
        let Split { node_bp, verification_bp, reserve_bp, gateway_bp } = self.split;
        let AuditRule { newcomer_tasks, rate_ppm, margin_micro_max, cross_audit_operators_min, pay_bp, .. } =
            self.audit;
        [
            ("the node's share", u64::from(node_bp), 0, 10_000),
            ("the share for audits", u64::from(verification_bp), 0, 10_000),
            ("the reserve's share", u64::from(reserve_bp), 0, 10_000),
            ("the gateway's share", u64::from(gateway_bp), 0, 10_000),
            ("the number of a newcomer's audits", u64::from(newcomer_tasks), 0, 1_000_000),
            ("the rate of audits", u64::from(rate_ppm), 0, 1_000_000),
            ("the largest margin", u64::from(margin_micro_max), 0, 100_000_000),
            ("the number of operators for cross-audits", u64::from(cross_audit_operators_min), 2, 1_000_000),
            ("the pay of an audit", u64::from(pay_bp), 0, 10_000),
            ("the time in escrow", self.escrow.hold.0, 0, HOLD_MAX),
            ("the number of tasks in escrow", u64::from(self.escrow.tasks), 0, 1_000_000),
            ("the threshold of payouts", self.payout.threshold.0, 1, u64::MAX),
        ]
    }

    /// Whether every value is inside its bounds.
    pub fn check(&self) -> Result<(), BadParameters> {
        if !self.split.is_whole() {
            return Err(BadParameters::SplitNotWhole);
        }
        let outside = |(_, value, min, max): &(&str, u64, u64, u64)| value < min || value > max;
        match self.values().into_iter().find(outside) {
            Some((name, value, min, max)) => Err(BadParameters::Bounds { name, value, min, max }),
            None => Ok(()),
        }
    }

    /// Whether these may follow `before`: inside their bounds, and none changed by more than a tenth of what it was, or by
    /// one where a tenth is less.
    pub fn check_step(&self, before: &Self) -> Result<(), BadParameters> {
        self.check()?;
        let steps = before.values().into_iter().zip(self.values());
        let mut too_far = steps.filter(|((_, from, ..), (_, to, ..))| from.abs_diff(*to) > (from / 10).max(1));
        match too_far.next() {
            Some(((name, from, ..), (_, to, ..))) => Err(BadParameters::Step { name, from, to }),
            None => Ok(()),
        }
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        let Split { node_bp, verification_bp, reserve_bp, gateway_bp } = self.split;
        w.u16(node_bp).u16(verification_bp).u16(reserve_bp).u16(gateway_bp);
        let AuditRule { newcomer_tasks, rate_ppm, by_charge, deterrent, .. } = self.audit;
        let AuditRule { margin_micro_max, cross_audit_operators_min, pay_bp, .. } = self.audit;
        let rate = rate_ppm + u32::from(by_charge) * BY_CHARGE + u32::from(deterrent) * DETERRENT;
        w.u32(newcomer_tasks).u32(rate).u32(margin_micro_max).u32(cross_audit_operators_min).u16(pay_bp);
        w.u64(self.escrow.hold.0).u32(self.escrow.tasks).u64(self.payout.threshold.0);
        w.finish()
    }

    /// Reads canonical bytes from the front of `r`; bounds are not checked.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let split = Split { node_bp: r.u16()?, verification_bp: r.u16()?, reserve_bp: r.u16()?, gateway_bp: r.u16()? };
        let (newcomer_tasks, rate) = (r.u32()?, r.u32()?);
        Ok(Self {
            split,
            audit: AuditRule {
                newcomer_tasks,
                rate_ppm: rate & !(BY_CHARGE | DETERRENT),
                by_charge: rate & BY_CHARGE != 0,
                deterrent: rate & DETERRENT != 0,
                margin_micro_max: r.u32()?,
                cross_audit_operators_min: r.u32()?,
                pay_bp: r.u16()?,
            },
            escrow: EscrowRule { hold: Micros(r.u64()?), tasks: r.u32()? },
            payout: PayoutRule { threshold: MicroCredits(r.u64()?) },
        })
    }
}

/// The issuer's order to change parameters. It touches nothing that was charged before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterChange {
    /// The network it holds in.
    pub network: NetworkId,
    /// Who signs.
    pub issuer: IssuerId,
    /// The first epoch that it holds for: later than the one in which it is logged. One change an epoch.
    pub from: Epoch,
    /// What holds then.
    pub parameters: Parameters,
    /// The issuer's signature.
    pub signature: Signature,
}

impl ParameterChange {
    /// Signs a change with the issuer's key.
    pub fn issue(issuer: &SecretKey, network: NetworkId, from: Epoch, parameters: Parameters) -> Self {
        let unsigned =
            Self { network, issuer: IssuerId(issuer.public()), from, parameters, signature: Signature([0; 64]) };
        Self { signature: issuer.sign(Domain::Parameters, &unsigned.body()), ..unsigned }
    }

    /// Checks the issuer's signature; whether this issuer is the network's is the caller's to check.
    pub fn verify(&self) -> Result<(), BadSignature> {
        match verify(&self.issuer.0, Domain::Parameters, &self.body(), &self.signature) {
            true => Ok(()),
            false => Err(BadSignature { signer: "issuer", what: "change of parameters" }),
        }
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }

    /// Reads canonical bytes; neither signature nor bounds are checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let change = Self::read(&mut r)?;
        r.finish()?;
        Ok(change)
    }

    /// Reads canonical bytes from the front of `r`; neither signature nor bounds are checked.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        crate::version(r)?;
        Ok(Self {
            network: NetworkId(r.array()?),
            issuer: IssuerId(r.array()?),
            from: Epoch(r.u64()?),
            parameters: Parameters::read(r)?,
            signature: Signature(r.array()?),
        })
    }

    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(FORMAT_VERSION).raw(&self.network.0).raw(&self.issuer.0).u64(self.from.0);
        w.raw(&self.parameters.to_bytes());
        w.finish()
    }
}
