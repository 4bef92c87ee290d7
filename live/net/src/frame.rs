//! The frames of a link as plain values. `docs/protocol/link.md` is the specification.

use crate::limits::FrameError;
use ol_protocol::bytes::{self, Reader};
use ol_protocol::sampler::{SAMPLING_BYTES, Sampling};
use ol_protocol::variant::Variant;
use ol_protocol::{AuditId, Digest, Epoch, GatewayId, NetworkId, Salt, Scope, TaskId, VariantId};

/// The protocol version that this crate speaks.
pub const PROTOCOL: u32 = 1;

/// A frame from a node to a gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum Up {
    /// Who the node is and what it offers; the first frame, and only the first.
    Hello(Hello),
    /// How many tasks of a variant the node has granted since the link began, in all.
    Grant {
        /// The variant.
        variant: VariantId,
        /// Tasks granted in all.
        total: u64,
    },
    /// An attempt has begun.
    Started {
        /// The task.
        task: TaskId,
        /// Which attempt of it.
        attempt: u8,
        /// Tokens of the prompt, as the node counts them.
        prompt_tokens: u32,
        /// Salted digest of the prompt's ids.
        prompt: Digest,
        /// How many of its tokens the node does not compute, as it kept them from an earlier task of the scope.
        resident_tokens: u32,
    },
    /// Output of an attempt.
    Tokens(Tokens),
    /// An attempt is complete.
    Done(Done),
    /// An attempt ended without a result.
    Failed {
        /// The task.
        task: TaskId,
        /// Which attempt of it.
        attempt: u8,
        /// What kind of failure.
        code: FailCode,
        /// For people.
        message: String,
        /// The variant's grant, renewed.
        grant_total: u64,
    },
    /// Canonical bytes of a signed batch of commitments.
    Batch {
        /// Of `ol_protocol::batch::SignedBatch`.
        bytes: Vec<u8>,
        /// The sealed orders of its attempts, in its order.
        orders: Vec<Vec<u8>>,
        /// What was made in attempts whose end the gateway may not have seen.
        outputs: Vec<Made>,
    },
    /// An audit is done.
    Verdict {
        /// The audit.
        audit: AuditId,
        /// What came of it.
        outcome: Result<Scored, String>,
        /// The variant's grant, renewed.
        grant_total: u64,
    },
    /// Answers a ping.
    Pong {
        /// The ping's.
        nonce: u64,
    },
    /// The referee's word for what honest answers of a variant look like: canonical bytes of an
    /// `ol_protocol::calibration::Calibration`.
    Calibration {
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// What the node has kept of an attempt.
    Recalled {
        /// The task.
        task: TaskId,
        /// Which attempt of it.
        attempt: u8,
        /// The content as an audit has it, and the node's log-probability bytes; nothing if it has none.
        content: Option<(Box<Audit>, Vec<u8>)>,
    },
    /// An audit of a panel is done, and its verdict kept back: canonical bytes of an `ol_protocol::seal::Seal`.
    Sealed {
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Slots that were not used are wanted back, answered by [`Down::Withdrawn`].
    Withdraw {
        /// For what.
        variant: VariantId,
        /// Tasks that may be sent on this link in all, but for those that were.
        total: u64,
    },
    /// The node takes no more tasks and will go when those it has are done.
    Leaving,
}

/// A frame from a gateway to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Down {
    /// The node is admitted; first frame.
    Welcome(Welcome),
    /// The node is not admitted; first and last frame.
    Refused {
        /// Why.
        code: RefuseCode,
        /// For people.
        message: String,
    },
    /// A task for the node.
    Assign(Box<Assign>),
    /// An attempt is not wanted any more.
    Cancel {
        /// The task.
        task: TaskId,
        /// Which attempt of it.
        attempt: u8,
        /// Whether it is paid though it added nothing, if the node commits to it.
        is_paid: bool,
    },
    /// Somebody's work to check.
    Audit(Box<Audit>),
    /// All of a panel have sealed: their verdicts are wanted.
    Unseal {
        /// The audit.
        audit: AuditId,
        /// Canonical bytes of each member's seal.
        seals: Vec<Vec<u8>>,
    },
    /// A variant's slots are the node's own again, as it asked: every task that was sent against them is before this frame.
    Withdrawn {
        /// For what.
        variant: VariantId,
    },
    /// What the node keeps of an attempt of its own is wanted: the gateway has lost it.
    Recall {
        /// The task.
        task: TaskId,
        /// Which attempt of it.
        attempt: u8,
        /// The task's: who does not know it is not the gateway that gave it out.
        salt: Salt,
    },
    /// A batch is durable at the gateway and countersigned.
    BatchAck {
        /// The batch's sequence number.
        sequence: u64,
        /// Canonical bytes of `ol_protocol::batch::CountersignedBatch`.
        countersigned: Vec<u8>,
        /// Index in the gateway's log of the batch's first record.
        first_record: u64,
    },
    /// A new epoch.
    EpochBegan {
        /// The epoch.
        epoch: Epoch,
    },
    /// To be answered with a pong.
    Ping {
        /// To be returned.
        nonce: u64,
    },
    /// The gateway is going away: the node finishes what it has and looks for another.
    Drain {
        /// For people.
        message: String,
    },
}

/// What a node says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version that it speaks.
    pub protocol_min: u32,
    /// Highest protocol version that it speaks.
    pub protocol_max: u32,
    /// The network that it means to join.
    pub network: NetworkId,
    /// Canonical bytes of its `ol_protocol::certificate::Certificate`.
    pub certificate: Vec<u8>,
    /// For a gateway that asks for one.
    pub join_token: Option<String>,
    /// Name and version of its software.
    pub software: String,
    /// What it is for.
    pub role: Role,
    /// Where it is.
    pub region: String,
    /// What it serves.
    pub variants: Vec<Variant>,
    /// Sequence number of the next batch that it will make for this gateway.
    pub next_batch: u64,
}

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves tasks and audits.
    Worker,
    /// The network's own scorer.
    Referee,
}

/// What a gateway says first to a node that it admits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version spoken from here on.
    pub protocol: u32,
    /// The gateway.
    pub gateway: GatewayId,
    /// Its network.
    pub network: NetworkId,
    /// The epoch now.
    pub epoch: Epoch,
    /// Sequence number of the next batch that the gateway expects. It may not have those below on disk yet, and acknowledges
    /// each with its signature when it is sent again.
    pub acked_batches: u64,
    /// How often the gateway pings, in milliseconds.
    pub ping_every_ms: u64,
    /// For how long pay is held now, in seconds, and until how many later tasks of the node; 0 of a gateway that does not say.
    pub hold_seconds: u64,
    /// See there.
    pub held_tasks: u32,
}

/// Output of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokens {
    /// The task.
    pub task: TaskId,
    /// Which attempt of it.
    pub attempt: u8,
    /// Output tokens of the task up to and with these, inherited ones included.
    pub count: u32,
    /// The new tokens.
    pub ids: Vec<u32>,
    /// The text that they complete; may be empty.
    pub text: String,
    /// One log-probability byte a token.
    pub log_probs: Vec<u8>,
    /// One entry a token where the request asks for alternatives, else none.
    pub top: Vec<TopLogProbs>,
}

/// What a node made in one attempt of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Which commitment of the batch, from 0.
    pub place: u16,
    /// The tokens that the attempt added.
    pub ids: Vec<u32>,
    /// One log-probability byte a token.
    pub log_probs: Vec<u8>,
}

/// A token and what could have stood in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TopLogProbs {
    /// Natural logarithm of the chosen token's probability.
    pub log_prob: f32,
    /// The chosen token's text.
    pub text: String,
    /// The likeliest tokens: id, text, natural logarithm of the probability.
    pub alternatives: Vec<(u32, String, f32)>,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The task.
    pub task: TaskId,
    /// Which attempt of it.
    pub attempt: u8,
    /// Text that was held back until it was clear that no stop string follows.
    pub text: String,
    /// Canonical bytes of the `ol_protocol::commitment::Commitment`.
    pub commitment: Vec<u8>,
    /// The variant's grant, renewed.
    pub grant_total: u64,
    /// One vector a text, for embeddings only.
    pub vectors: Vec<Vec<f32>>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailCode {
    /// No node can serve the request, for example because the prompt is longer than the context.
    Invalid,
    /// The node has no room.
    Overloaded,
    /// The node is about to leave.
    Draining,
    /// Something broke on the node.
    Internal,
    /// The node does not serve this variant.
    UnknownVariant,
}

/// An auditor's measurements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scored {
    /// Canonical bytes of the `ol_protocol::verdict::Verdict`.
    pub verdict: Vec<u8>,
    /// The auditor's own log-probability bytes.
    pub log_probs: Vec<u8>,
    /// The prompt as the referee rendered it; of other auditors nothing.
    pub prompt_ids: Vec<u32>,
}

/// Why a node is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefuseCode {
    /// No common protocol version.
    Protocol,
    /// Another network.
    Network,
    /// The operator's certificate does not hold, or is another node's.
    Certificate,
    /// The join token is missing or wrong.
    JoinToken,
    /// The node may not have the role that it asks for.
    Role,
    /// The node or its operator is excluded.
    Excluded,
    /// A link of this node is open already.
    Duplicate,
    /// The gateway has no room.
    Full,
    /// The gateway is going away.
    Draining,
    /// Anything else in the hello that cannot be.
    Invalid,
}

/// A task for a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Assign {
    /// The task.
    pub task: TaskId,
    /// Which attempt of it.
    pub attempt: u8,
    /// What is to compute it.
    pub variant: VariantId,
    /// The epoch that it belongs to.
    pub epoch: Epoch,
    /// Salt of the commitment's digests.
    pub salt: Salt,
    /// Seed of the sampler.
    pub seed: [u8; 32],
    /// The work.
    pub payload: Payload,
    /// Output tokens that earlier attempts delivered.
    pub resume: Vec<u32>,
    /// How long the result is of use, in milliseconds from now.
    pub deadline_ms: u64,
    /// The gateway's sealed order: the node sends it back with the batch.
    pub order: Vec<u8>,
    /// Which other tasks may share what the node keeps of the prompt; without it none may.
    pub scope: Option<Scope>,
}

/// Somebody's work to check.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// The audit.
    pub audit: AuditId,
    /// What is to score it.
    pub variant: VariantId,
    /// Salt of the commitment's digests.
    pub salt: Salt,
    /// Seed of the sampler.
    pub seed: [u8; 32],
    /// The work.
    pub payload: Payload,
    /// The output tokens to check, after those that an earlier attempt is answerable for.
    pub output: Vec<u32>,
    /// How many of the output tokens an earlier attempt is answerable for.
    pub resumed_from: u32,
    /// How many of the output tokens are scored, those that an earlier attempt is answerable for among them; 0 for all.
    pub until: u32,
    /// The vectors to check, for embeddings only.
    pub vectors: Vec<Vec<f32>>,
    /// Byte of the claimed `ol_protocol::commitment::Finish`.
    pub finish: u8,
    /// Within so many millionths of a nat of a truncation's boundary, a token counts as the prover needs it.
    pub tolerance_micro: u32,
    /// The numerics of the variant that made it: they may say that only so many of the likeliest tokens were sampled from.
    pub prover_numerics: String,
    /// How long the verdict is of use, in milliseconds from now.
    pub deadline_ms: u64,
    /// Whether a panel sits: the verdict is sealed first, and sent when it is asked for.
    pub sealed: bool,
}

/// What a task works on.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// A conversation to continue.
    Chat {
        /// Its messages.
        messages: Vec<Message>,
        /// How to continue it.
        generate: Generate,
    },
    /// Text to continue.
    Text {
        /// The text.
        prompt: String,
        /// How to continue it.
        generate: Generate,
    },
    /// Tokens to continue.
    Tokens {
        /// The tokens.
        ids: Vec<u32>,
        /// How to continue them.
        generate: Generate,
    },
    /// Texts to embed.
    Embed {
        /// The texts.
        texts: Vec<String>,
    },
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: String,
    /// What they say.
    pub content: String,
}

/// How to continue text.
#[derive(Debug, Clone, PartialEq)]
pub struct Generate {
    /// 0 to 2; 0 is greedy.
    pub temperature: f32,
    /// Over 0, to 1.
    pub top_p: f32,
    /// How many of the likeliest tokens to draw from; 0 is all.
    pub top_k: u32,
    /// 0 to 1.
    pub min_p: f32,
    /// Longest output.
    pub max_tokens: u32,
    /// Texts that end the output.
    pub stop: Vec<String>,
    /// How many alternatives to return with each token.
    pub top_logprobs: u32,
}

/// Sampling settings that are out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sampling settings out of range")]
pub struct BadSampling;

impl Payload {
    /// The part that says how to sample.
    pub const fn generate(&self) -> Option<&Generate> {
        match self {
            Self::Chat { generate, .. } | Self::Text { generate, .. } | Self::Tokens { generate, .. } => Some(generate),
            Self::Embed { .. } => None,
        }
    }

    /// The parameters that decide an output beside prompt and seed, in canonical bytes: sampling, longest output, then each stop string after
    /// its length.
    ///
    /// # Errors
    /// Settings out of range have no canonical bytes.
    pub fn parameters(&self) -> Result<Vec<u8>, BadSampling> {
        let Some(generate) = self.generate() else { return Ok(Vec::new()) };
        let mut bytes = generate.sampling()?.to_bytes().to_vec();
        bytes.extend_from_slice(&generate.max_tokens.to_le_bytes());
        for stop in &generate.stop {
            bytes.extend_from_slice(&u32::try_from(stop.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(stop.as_bytes());
        }
        Ok(bytes)
    }

    /// How the prompt is rendered: with the model's own chat template, or not at all.
    pub const fn template(&self) -> &'static [u8] {
        match self {
            Self::Chat { .. } => b"chat",
            Self::Text { .. } => b"text",
            Self::Tokens { .. } => b"tokens",
            Self::Embed { .. } => b"embed",
        }
    }
}

impl Generate {
    /// Reads what [`Payload::parameters`] wrote. How many alternatives were asked for decides no output, and is not in it.
    ///
    /// # Errors
    /// Other bytes.
    pub fn from_parameters(bytes: &[u8]) -> Result<Self, bytes::Error> {
        let mut r = Reader::new(bytes);
        let unknown = |_| bytes::Error::Unknown { what: "sampling settings", value: 0 };
        let Sampling { temperature, top_p, top_k, min_p } =
            Sampling::from_bytes(&r.array::<SAMPLING_BYTES>()?).map_err(unknown)?;
        let max_tokens = r.u32()?;
        let (mut stop, mut rest) = (Vec::new(), r.rest());
        while !rest.is_empty() {
            let mut r = Reader::new(rest);
            stop.push(r.text("stop string", rest.len())?.to_owned());
            rest = r.rest();
        }
        Ok(Self { temperature, top_p, top_k, min_p, max_tokens, stop, top_logprobs: 0 })
    }

    /// As the sampler takes it.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn sampling(&self) -> Result<Sampling, BadSampling> {
        let &Self { temperature, top_p, top_k, min_p, .. } = self;
        Sampling { temperature, top_p, top_k, min_p }.validated().map_err(|_| BadSampling)
    }
}

/// What both kinds of frame have in common: a form on the wire, limits, and a first one.
pub trait Frame: Sized + Send + Unpin + 'static {
    /// The form on the wire.
    type Wire: prost::Message + Default + 'static;

    /// What a link begins with, for people.
    const OPENING: &'static str;

    /// Checks the limits of every field.
    fn check(&self) -> Result<(), FrameError>;

    /// Whether it is one that a link begins with.
    fn opens(&self) -> bool;

    /// Into the form on the wire; nothing is checked.
    fn into_wire(self) -> Self::Wire;

    /// Out of the form on the wire, checked.
    fn from_wire(wire: Self::Wire) -> Result<Self, FrameError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_they_were_written() {
        let stop = vec!["\n\n".to_owned(), "Ende, 終".to_owned()];
        let generate =
            Generate { temperature: 0.7, top_p: 0.9, top_k: 40, min_p: 0.05, max_tokens: 77, stop, top_logprobs: 0 };
        for generate in [Generate { stop: Vec::new(), ..generate.clone() }, generate] {
            let bytes = Payload::Tokens { ids: Vec::new(), generate: generate.clone() }.parameters().unwrap();
            assert_eq!(Generate::from_parameters(&bytes), Ok(generate));
            assert!(Generate::from_parameters(&bytes[..bytes.len() - 1]).is_err());
        }
        assert!(Generate::from_parameters(&[0xff; 20]).is_err());
    }
}
