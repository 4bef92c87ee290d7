//! What a node commits to for each attempt, before anyone knows what will be audited.

use crate::FORMAT_VERSION;
use crate::bytes::{Error, Reader, Writer};
use crate::id::{Digest, GatewayId, NetworkId, NodeId, OperatorId, TaskId, VariantId};
use crate::merkle;
use crate::unit::{Epoch, Micros, TokenCount};
use alloc::vec::Vec;

/// Why an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finish {
    /// The model ended the text.
    EndOfText,
    /// A stop string of the request appeared.
    StopString,
    /// The request's token limit, or the variant's context, was reached.
    Length,
    /// The client went away, or the gateway gave the task to another node.
    Cancelled,
    /// All vectors of an embedding task are there.
    Embedded,
}

impl Finish {
    /// Its byte in canonical form.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::EndOfText => 0,
            Self::StopString => 1,
            Self::Length => 2,
            Self::Cancelled => 3,
            Self::Embedded => 4,
        }
    }

    /// Reads its byte.
    pub const fn from_byte(byte: u8) -> Result<Self, Error> {
        Ok(match byte {
            0 => Self::EndOfText,
            1 => Self::StopString,
            2 => Self::Length,
            3 => Self::Cancelled,
            4 => Self::Embedded,
            other => return Err(Error::Unknown { what: "finish", value: other as u64 }),
        })
    }
}

/// One attempt at a task: everything the node claims about it. Digests are salted per task, so that the public log
/// reveals nothing while tenant, node and drawn auditor can check everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commitment {
    /// The network.
    pub network: NetworkId,
    /// The gateway that assigned the task.
    pub gateway: GatewayId,
    /// The node that did it.
    pub node: NodeId,
    /// Who owns the node.
    pub operator: OperatorId,
    /// The task.
    pub task: TaskId,
    /// Counts the attempts at one task from 0.
    pub attempt: u8,
    /// The epoch in which it was assigned.
    pub epoch: Epoch,
    /// What computed it.
    pub variant: VariantId,
    /// Version of the sampler's specification.
    pub sampler_version: u16,
    /// Salted digest of rendered prompt ids, template and sampling parameters.
    pub prompt: Digest,
    /// Salted digest of the sampling seed.
    pub seed: Digest,
    /// Salted RFC 6962 root over the task's output ids so far, 32 to a leaf; for embeddings over the vectors' bits.
    pub output: Digest,
    /// Salted digest of the log-probability bytes of the chosen tokens of this attempt.
    pub log_probs: Digest,
    /// Why the attempt ended.
    pub finish: Finish,
    /// Prompt tokens, template included.
    pub prompt_tokens: TokenCount,
    /// Output tokens of the task so far, inherited ones included.
    pub output_tokens: TokenCount,
    /// How many of them earlier attempts had delivered.
    pub resumed_from: TokenCount,
    /// From assignment to the first token, by the node's clock.
    pub first_token: Micros,
    /// From assignment to the end, by the node's clock.
    pub total: Micros,
}

impl Commitment {
    /// Length of the canonical bytes.
    pub const BYTES: usize = 2 + 4 * 32 + 16 + 1 + 8 + 32 + 2 + 4 * 32 + 1 + 3 * 4 + 2 * 8;

    /// Output tokens that this attempt added.
    pub const fn added_tokens(&self) -> TokenCount {
        TokenCount(self.output_tokens.0.saturating_sub(self.resumed_from.0))
    }

    /// Its leaf in the batch tree.
    pub fn leaf(&self) -> Digest {
        merkle::leaf_hash(&self.to_bytes())
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(FORMAT_VERSION).raw(&self.network.0).raw(&self.gateway.0).raw(&self.node.0).raw(&self.operator.0);
        w.raw(&self.task.0).u8(self.attempt).u64(self.epoch.0).raw(&self.variant.0).u16(self.sampler_version);
        w.raw(&self.prompt.0).raw(&self.seed.0).raw(&self.output.0).raw(&self.log_probs.0);
        w.u8(self.finish.to_byte()).u32(self.prompt_tokens.0).u32(self.output_tokens.0).u32(self.resumed_from.0);
        w.u64(self.first_token.0).u64(self.total.0);
        w.finish()
    }

    /// Reads canonical bytes from the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        crate::version(r)?;
        Ok(Self {
            network: NetworkId(r.array()?),
            gateway: GatewayId(r.array()?),
            node: NodeId(r.array()?),
            operator: OperatorId(r.array()?),
            task: TaskId(r.array()?),
            attempt: r.u8()?,
            epoch: Epoch(r.u64()?),
            variant: VariantId(r.array()?),
            sampler_version: r.u16()?,
            prompt: Digest(r.array()?),
            seed: Digest(r.array()?),
            output: Digest(r.array()?),
            log_probs: Digest(r.array()?),
            finish: Finish::from_byte(r.u8()?)?,
            prompt_tokens: TokenCount(r.u32()?),
            output_tokens: TokenCount(r.u32()?),
            resumed_from: TokenCount(r.u32()?),
            first_token: Micros(r.u64()?),
            total: Micros(r.u64()?),
        })
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let commitment = Self::read(&mut r)?;
        r.finish()?;
        Ok(commitment)
    }
}
