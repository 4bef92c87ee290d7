//! An auditor's word that its verdict is fixed, before anyone sees it.

use crate::FORMAT_VERSION;
use crate::bytes::{Error, Reader, Writer};
use crate::digest::{Domain, digest};
use crate::id::{AuditId, Digest, NetworkId, NodeId, OperatorId, VariantId};
use crate::key::{BadSignature, SecretKey, Signature, verify};
use crate::verdict::{Level, Verdict};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// Auditors of a panel: an odd number, so that they always decide, and the least of which one may be wrong.
pub const PANEL: usize = 3;

/// What a member of a panel signs while the others have not spoken. The verdict's own signature is among the sealed bytes, so
/// nobody can guess them, or seal another's verdict as its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The network.
    pub network: NetworkId,
    /// The audit.
    pub audit: AuditId,
    /// Who audited.
    pub auditor: NodeId,
    /// Who owns the auditor.
    pub operator: OperatorId,
    /// The variant it scored with.
    pub variant: VariantId,
    /// Of the verdict's canonical bytes.
    pub verdict: Digest,
    /// The auditor's signature.
    pub signature: Signature,
}

impl Seal {
    /// Length of the canonical bytes.
    pub const BYTES: usize = 2 + 32 + 16 + 4 * 32 + 64;

    /// Seals a signed verdict with its auditor's key.
    pub fn new(verdict: &Verdict, key: &SecretKey) -> Self {
        let Verdict { network, audit, auditor, operator, variant, .. } = *verdict;
        let (verdict, signature) = (sealed(verdict), Signature([0; 64]));
        let mut seal = Self { network, audit, auditor, operator, variant, verdict, signature };
        seal.signature = key.sign(Domain::Seal, &seal.body());
        seal
    }

    /// Whether this verdict was sealed, as a panel's.
    pub fn is_of(&self, verdict: &Verdict) -> bool {
        let Verdict { audit, auditor, operator, variant, level, .. } = *verdict;
        let says = (self.audit, self.auditor, self.operator, self.variant) == (audit, auditor, operator, variant);
        says && level == Level::Panel && self.verdict == sealed(verdict)
    }

    /// Whether this is one of a whole panel's, each signed. A signature check for each.
    pub fn is_one_of(&self, seals: &[Self]) -> bool {
        is_panel(seals) && seals.contains(self) && seals.iter().all(|seal| seal.verify().is_ok())
    }

    /// Checks the auditor's signature.
    pub fn verify(&self) -> Result<(), BadSignature> {
        match verify(&self.auditor.0, Domain::Seal, &self.body(), &self.signature) {
            true => Ok(()),
            false => Err(BadSignature { signer: "auditor", what: "seal of a verdict" }),
        }
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }

    /// Reads canonical bytes from the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        crate::version(r)?;
        Ok(Self {
            network: NetworkId(r.array()?),
            audit: AuditId(r.array()?),
            auditor: NodeId(r.array()?),
            operator: OperatorId(r.array()?),
            variant: VariantId(r.array()?),
            verdict: Digest(r.array()?),
            signature: Signature(r.array()?),
        })
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let seal = Self::read(&mut r)?;
        r.finish()?;
        Ok(seal)
    }

    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(FORMAT_VERSION).raw(&self.network.0).raw(&self.audit.0).raw(&self.auditor.0).raw(&self.operator.0);
        w.raw(&self.variant.0).raw(&self.verdict.0);
        w.finish()
    }
}

/// Whether so many seals of as many auditors and operators are over the same audit.
pub fn is_panel(seals: &[Seal]) -> bool {
    let auditors: BTreeSet<NodeId> = seals.iter().map(|seal| seal.auditor).collect();
    let operators: BTreeSet<OperatorId> = seals.iter().map(|seal| seal.operator).collect();
    let audits: BTreeSet<(NetworkId, AuditId)> = seals.iter().map(|seal| (seal.network, seal.audit)).collect();
    (seals.len(), auditors.len(), operators.len(), audits.len()) == (PANEL, PANEL, PANEL, 1)
}

fn sealed(verdict: &Verdict) -> Digest {
    digest(Domain::Seal, &[&verdict.to_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::TokenCount;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    fn verdict(n: u8) -> Verdict {
        Verdict {
            network: NetworkId([1; 32]),
            audit: AuditId([2; 16]),
            auditor: NodeId(key(n).public()),
            operator: OperatorId([n; 32]),
            level: Level::Panel,
            variant: VariantId([3; 32]),
            prompt: Digest([4; 32]),
            seed: Digest([5; 32]),
            output: Digest([6; 32]),
            log_probs: Digest([7; 32]),
            prompt_tokens: TokenCount(8),
            output_tokens: TokenCount(9),
            scored_tokens: TokenCount(9),
            worst_margin_micro: 10,
            margin_sum_micro: 11,
            finish_fits: true,
            signature: Signature([0; 64]),
        }
        .sign(&key(n))
    }

    fn seal(n: u8) -> Seal {
        Seal::new(&verdict(n), &key(n))
    }

    #[test]
    fn a_seal_is_of_one_verdict_alone() {
        assert!(seal(1).is_of(&verdict(1)) && !seal(1).is_of(&verdict(2)));
        let other = Verdict { worst_margin_micro: 12, ..verdict(1) }.sign(&key(1));
        assert!(!seal(1).is_of(&other));
        let alone = Verdict { level: Level::CrossAudit, ..verdict(1) }.sign(&key(1));
        assert!(!Seal::new(&alone, &key(1)).is_of(&alone), "it would count without the others");
        // What anyone can guess of a verdict is not enough: its signature is sealed too.
        assert!(!seal(1).is_of(&Verdict { signature: Signature([0; 64]), ..verdict(1) }));
    }

    #[test]
    fn a_verdict_is_opened_to_a_whole_panel_only() {
        let (own, whole) = (seal(1), [seal(1), seal(2), seal(3)]);
        assert!(own.is_one_of(&whole));
        assert!(!seal(4).is_one_of(&whole), "a panel of others");
        assert!(!own.is_one_of(&whole[..2]) && !own.is_one_of(&[seal(1), seal(2), seal(2)]));
        let elsewhere = Verdict { audit: AuditId([9; 16]), ..verdict(3) }.sign(&key(3));
        assert!(!own.is_one_of(&[seal(1), seal(2), Seal::new(&elsewhere, &key(3))]));
        let thrice = [1, 2, 3].map(|n| Verdict { operator: OperatorId([n; 32]), ..verdict(1) }.sign(&key(1)));
        assert!(!own.is_one_of(&thrice.map(|verdict| Seal::new(&verdict, &key(1)))), "one node");
        let forged = Seal { operator: OperatorId([4; 32]), ..seal(3) };
        assert!(!own.is_one_of(&[seal(1), seal(2), forged]), "nobody signed it");
    }
}
