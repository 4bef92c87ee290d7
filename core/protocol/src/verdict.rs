//! What an auditor found, signed without knowing whose work it was.

use crate::FORMAT_VERSION;
use crate::bytes::{Error, Reader, Writer};
use crate::digest::Domain;
use crate::id::{AuditId, Digest, NetworkId, NodeId, OperatorId, VariantId};
use crate::key::{BadSignature, SecretKey, Signature, verify};
use crate::unit::TokenCount;
use alloc::vec::Vec;

/// Bits of a verdict's flags. One over all of an output is written as before there were others.
const FINISH_FITS: u8 = 1;
const PARTLY: u8 = 2;

/// How high in the order of checks a verdict stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Another operator's node.
    CrossAudit,
    /// Several nodes of several operators.
    Panel,
    /// The network's own scorer.
    Referee,
}

impl Level {
    /// Its byte in canonical form.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::CrossAudit => 0,
            Self::Panel => 1,
            Self::Referee => 2,
        }
    }

    /// Reads its byte.
    pub const fn from_byte(byte: u8) -> Result<Self, Error> {
        Ok(match byte {
            0 => Self::CrossAudit,
            1 => Self::Panel,
            2 => Self::Referee,
            other => return Err(Error::Unknown { what: "level of audit", value: other as u64 }),
        })
    }

    /// The word that people see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CrossAudit => "cross-audit",
            Self::Panel => "panel",
            Self::Referee => "referee",
        }
    }
}

/// An auditor's measurements over the content it was given. It names digests that it computed itself; settlement matches
/// them with the commitment, so nobody can be framed with content they did not commit to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The network.
    pub network: NetworkId,
    /// The audit it answers.
    pub audit: AuditId,
    /// Who audited.
    pub auditor: NodeId,
    /// Who owns the auditor.
    pub operator: OperatorId,
    /// At which level.
    pub level: Level,
    /// The variant it scored with.
    pub variant: VariantId,
    /// Salted digest of prompt ids, template and sampling parameters, recomputed.
    pub prompt: Digest,
    /// Salted digest of the seed, recomputed.
    pub seed: Digest,
    /// Salted output root, recomputed.
    pub output: Digest,
    /// Salted digest of the auditor's own log-probability bytes.
    pub log_probs: Digest,
    /// Prompt tokens that it counted.
    pub prompt_tokens: TokenCount,
    /// Output tokens of the attempt that it counted, those that it did not score included.
    pub output_tokens: TokenCount,
    /// How many of them it scored, from the first on.
    pub scored_tokens: TokenCount,
    /// Largest margin of a scored token in millionths of a nat, capped; for embeddings the largest deviation of a
    /// cosine from 1 in millionths.
    pub worst_margin_micro: u32,
    /// Sum of the margins in millionths of a nat, each clipped at one nat; 0 for embeddings.
    pub margin_sum_micro: u64,
    /// Whether the claimed end of the text is one.
    pub finish_fits: bool,
    /// The auditor's signature.
    pub signature: Signature,
}

impl Verdict {
    /// Length of the canonical bytes where all of the output was scored.
    pub const BYTES: usize = 2 + 32 + 16 + 2 * 32 + 1 + 32 + 4 * 32 + 4 + 4 + 4 + 8 + 1 + 64;
    /// Where a part of it was.
    pub const BYTES_MAX: usize = Self::BYTES + 4;

    /// Signs it, replacing whatever signature it carries.
    pub fn sign(mut self, key: &SecretKey) -> Self {
        self.signature = key.sign(Domain::Verdict, &self.body());
        self
    }

    /// Checks the auditor's signature.
    pub fn verify(&self) -> Result<(), BadSignature> {
        match verify(&self.auditor.0, Domain::Verdict, &self.body(), &self.signature) {
            true => Ok(()),
            false => Err(BadSignature { signer: "auditor", what: "verdict" }),
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
        let mut verdict = Self {
            network: NetworkId(r.array()?),
            audit: AuditId(r.array()?),
            auditor: NodeId(r.array()?),
            operator: OperatorId(r.array()?),
            level: Level::from_byte(r.u8()?)?,
            variant: VariantId(r.array()?),
            prompt: Digest(r.array()?),
            seed: Digest(r.array()?),
            output: Digest(r.array()?),
            log_probs: Digest(r.array()?),
            prompt_tokens: TokenCount(r.u32()?),
            output_tokens: TokenCount(0),
            scored_tokens: TokenCount(r.u32()?),
            worst_margin_micro: r.u32()?,
            margin_sum_micro: r.u64()?,
            finish_fits: false,
            signature: Signature([0; 64]),
        };
        let flags = r.u8()?;
        if flags > FINISH_FITS + PARTLY {
            return Err(Error::Unknown { what: "flags of a verdict", value: u64::from(flags) });
        }
        verdict.finish_fits = flags & FINISH_FITS != 0;
        verdict.output_tokens = if flags & PARTLY == 0 { verdict.scored_tokens } else { TokenCount(r.u32()?) };
        if flags & PARTLY != 0 && verdict.output_tokens <= verdict.scored_tokens {
            return Err(Error::Unknown { what: "part of an output", value: verdict.output_tokens.0.into() });
        }
        verdict.signature = Signature(r.array()?);
        Ok(verdict)
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let verdict = Self::read(&mut r)?;
        r.finish()?;
        Ok(verdict)
    }

    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(FORMAT_VERSION).raw(&self.network.0).raw(&self.audit.0).raw(&self.auditor.0).raw(&self.operator.0);
        w.u8(self.level.to_byte()).raw(&self.variant.0).raw(&self.prompt.0).raw(&self.seed.0).raw(&self.output.0);
        w.raw(&self.log_probs.0).u32(self.prompt_tokens.0).u32(self.scored_tokens.0).u32(self.worst_margin_micro);
        let is_partly = self.output_tokens != self.scored_tokens;
        w.u64(self.margin_sum_micro).u8(u8::from(self.finish_fits) * FINISH_FITS + u8::from(is_partly) * PARTLY);
        if is_partly {
            w.u32(self.output_tokens.0);
        }
        w.finish()
    }
}
