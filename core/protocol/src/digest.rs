//! Domain-separated SHA-256 digests: no bytes of one kind have the digest of another kind.

use crate::id::{Digest, Salt};
use alloc::vec::Vec;
use sha2::{Digest as _, Sha256};

/// What is digested or signed. The tag's text is part of every digest and signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// The genesis of a network.
    Genesis,
    /// A variant's description.
    Variant,
    /// The bytes of a tenant's request.
    Request,
    /// The bytes of a response as the tenant received it.
    Response,
    /// Rendered prompt token ids, template and sampling parameters.
    Prompt,
    /// Output token ids.
    Output,
    /// Log-probability bytes.
    LogProbs,
    /// A task's sampling seed.
    Seed,
    /// A per-task salt.
    Salt,
    /// A sealed draw secret, and the draws made with it.
    Draw,
    /// A nonce that a gateway adds to seeds.
    Nonce,
    /// A scope, and the beginnings of conversations in it.
    Scope,
    /// An operator's certificate for a node.
    Certificate,
    /// An owner's word that a gateway is theirs.
    Gateway,
    /// A top-up.
    TopUp,
    /// A change of parameters.
    Parameters,
    /// The id of a payout.
    Payout,
    /// The root over a batch of commitments.
    Batch,
    /// A gateway's countersignature of a batch.
    Countersignature,
    /// An auditor's verdict.
    Verdict,
    /// A verdict that nobody has seen yet.
    Seal,
    /// Measured distributions of honest answers.
    Calibration,
    /// The state after an epoch's settlement.
    State,
    /// An owner's entry of a tenant.
    Tenant,
    /// An API key at rest.
    ApiKey,
    /// The id of an audit.
    Audit,
    /// The id of a task.
    Task,
    /// Order in which a machine or simulation saw events.
    Events,
}

impl Domain {
    /// The tag in bytes.
    pub const fn tag(self) -> &'static [u8] {
        match self {
            Self::Genesis => b"openledger/1/genesis\0",
            Self::Variant => b"openledger/1/variant\0",
            Self::Request => b"openledger/1/request\0",
            Self::Response => b"openledger/1/response\0",
            Self::Prompt => b"openledger/1/prompt\0",
            Self::Output => b"openledger/1/output\0",
            Self::LogProbs => b"openledger/1/log-probs\0",
            Self::Seed => b"openledger/1/seed\0",
            Self::Salt => b"openledger/1/salt\0",
            Self::Draw => b"openledger/1/draw\0",
            Self::Nonce => b"openledger/1/nonce\0",
            Self::Scope => b"openledger/1/scope\0",
            Self::Certificate => b"openledger/1/certificate\0",
            Self::Gateway => b"openledger/1/gateway\0",
            Self::TopUp => b"openledger/1/top-up\0",
            Self::Parameters => b"openledger/1/parameters\0",
            Self::Payout => b"openledger/1/payout\0",
            Self::Batch => b"openledger/1/batch\0",
            Self::Countersignature => b"openledger/1/countersignature\0",
            Self::Verdict => b"openledger/1/verdict\0",
            Self::Seal => b"openledger/1/seal\0",
            Self::Calibration => b"openledger/1/calibration\0",
            Self::State => b"openledger/1/state\0",
            Self::Tenant => b"openledger/1/tenant\0",
            Self::ApiKey => b"openledger/1/api-key\0",
            Self::Audit => b"openledger/1/audit\0",
            Self::Task => b"openledger/1/task\0",
            Self::Events => b"openledger/1/events\0",
        }
    }
}

/// SHA-256 over the domain's tag, then each part with its eight-byte length in front.
pub fn digest(domain: Domain, parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(domain.tag());
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Digest(hash.finalize().into())
}

/// A digest that reveals nothing without the salt.
pub fn salted(domain: Domain, salt: &Salt, bytes: &[u8]) -> Digest {
    digest(domain, &[&salt.0, bytes])
}

/// How many token ids share one leaf of an output tree.
pub const OUTPUT_LEAF_TOKENS: usize = 32;

/// The salted RFC 6962 root over output token ids, 32 to a leaf.
pub fn output_root(salt: &Salt, ids: &[u32]) -> Digest {
    let leaves: Vec<Digest> = ids
        .chunks(OUTPUT_LEAF_TOKENS)
        .map(|chunk| {
            let bytes: Vec<u8> = chunk.iter().flat_map(|id| id.to_le_bytes()).collect();
            crate::merkle::leaf_hash(&salted(Domain::Output, salt, &bytes).0)
        })
        .collect();
    crate::merkle::root(&leaves)
}

/// The salted RFC 6962 root over vectors, one to a leaf: the little-endian bits of their numbers.
pub fn vectors_root(salt: &Salt, vectors: &[Vec<f32>]) -> Digest {
    let leaves: Vec<Digest> = vectors
        .iter()
        .map(|vector| {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            crate::merkle::leaf_hash(&salted(Domain::Output, salt, &bytes).0)
        })
        .collect();
    crate::merkle::root(&leaves)
}

/// The salted digest of what a variant was asked: prompt ids, template name and canonical sampling parameters.
pub fn prompt_digest(salt: &Salt, ids: &[u32], template: &[u8], sampling: &[u8]) -> Digest {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    digest(Domain::Prompt, &[&salt.0, &bytes, template, sampling])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(digest(Domain::Request, &[b"ab", b"c"]), digest(Domain::Request, &[b"a", b"bc"]));
        assert_ne!(digest(Domain::Request, &[b"a"]), digest(Domain::Response, &[b"a"]));
    }
}
