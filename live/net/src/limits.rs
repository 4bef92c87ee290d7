//! Limits of a link and of every field of a frame.

use crate::frame::{Assign, Audit, Done, Down, Generate, Hello, Made, Payload, Scored, Tokens, Up, Welcome};
use ol_protocol::batch::{BATCH_MAX, BatchHeader, CountersignedBatch};
use ol_protocol::calibration::Calibration;
use ol_protocol::certificate::Certificate;
use ol_protocol::commitment::Commitment;
use ol_protocol::seal::{PANEL, Seal};
use ol_protocol::verdict::Verdict;
use std::time::Duration;

/// Most bytes of a frame on the wire: the longest prompt of a 128 k context has about 0.6 MB, 2,048 vectors of 384
/// numbers have 3.2 MB.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// Most tokens of one `Tokens` frame: a node sends what it has, and that is a few.
pub const IDS_MAX: usize = 256;
/// Most tokens of a prompt, a resumption or an audited output: the longest context of the models that nodes serve.
pub const CONTEXT_TOKENS_MAX: usize = 1 << 17;
/// Most variants of one node: each has its weights in memory.
pub const VARIANTS_MAX: usize = 64;
/// Longest text of one `Tokens` or `Done` frame, in bytes: 256 tokens of the longest kind.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// Longest message for people, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// Longest name (software, region, role of a message), in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest join token, in bytes.
pub const JOIN_TOKEN_BYTES_MAX: usize = 256;
/// Most messages of a conversation.
pub const MESSAGES_MAX: usize = 4096;
/// Most stop strings; the public API takes 4.
pub const STOPS_MAX: usize = 16;
/// Longest stop string, in bytes.
pub const STOP_BYTES_MAX: usize = 1024;
/// Most alternatives of a token; the public API gives 20.
pub const ALTERNATIVES_MAX: usize = 20;
/// Longest text of one token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 1024;
/// Longest sealed order of a gateway, in bytes.
pub const ORDER_BYTES_MAX: usize = 512;
/// Most tokens that go with one batch, because their attempts broke off: at 6 bytes each within a frame.
pub const MADE_TOKENS_MAX: usize = 1 << 18;
/// Most texts of a request for embeddings, as in the public API.
pub const TEXTS_MAX: usize = 2048;
/// Most numbers of a vector.
pub const DIMENSIONS_MAX: usize = 8192;
/// Longest deadline, in milliseconds: a day, the longest that an audit may take.
pub const DEADLINE_MS_MAX: u64 = 86_400_000;

const BATCH_BYTES_MAX: usize = BatchHeader::BYTES + 64 + BATCH_MAX * Commitment::BYTES;

/// Limits of one end of a link in time and room. The defaults suit both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Time to connect, and time for the TLS handshake.
    pub connect: Duration,
    /// Time for the first frame.
    pub opening: Duration,
    /// Time for which frames may wait without one being taken by the other end, before the link is cut.
    pub stall: Duration,
    /// Time for the other end to take what is queued after the link was closed.
    pub linger: Duration,
    /// Silence after which the other end is asked for a sign of life.
    pub keep_alive: Duration,
    /// Time for that sign.
    pub keep_alive_answer: Duration,
    /// Room for frames that wait to be sent, in bytes; each counts 256 more than it has.
    pub queue_bytes: u32,
    /// Handshakes at a time, server only. At the bound the oldest makes room.
    pub handshakes: usize,
    /// Links at a time, server only.
    pub links: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            opening: Duration::from_secs(5),
            stall: Duration::from_secs(10),
            linger: Duration::from_secs(2),
            // A dead peer is noticed within 5 s; 3 s are what a slow uplink may need for what is before the answer.
            keep_alive: Duration::from_secs(2),
            keep_alive_answer: Duration::from_secs(3),
            // Two of the largest frames, or some 20,000 small ones.
            queue_bytes: 2 * (FRAME_BYTES_MAX as u32) + (1 << 20),
            handshakes: 256,
            links: 16_384,
        }
    }
}

/// Why a frame is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A field that has to be there is not.
    #[error("{field} is missing")]
    Missing {
        /// Which one.
        field: &'static str,
    },
    /// A field of fixed length has another.
    #[error("{field} has {length} bytes instead of {expected}")]
    Length {
        /// Which one.
        field: &'static str,
        /// Its length.
        length: usize,
        /// What it should be.
        expected: usize,
    },
    /// A field is over its limit.
    #[error("{field} has {length}, limit {max}")]
    TooLong {
        /// Which one.
        field: &'static str,
        /// Bytes of a text or bytes, entries of a list.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// A number is not in its range.
    #[error("{field} is out of its range")]
    Range {
        /// Which one.
        field: &'static str,
    },
    /// A value stands for nothing.
    #[error("{field} {value} is unknown")]
    Unknown {
        /// Which one.
        field: &'static str,
        /// The value.
        value: i64,
    },
    /// Two lists that go together have different lengths.
    #[error("{field} has {length} entries for {expected} tokens")]
    Mismatch {
        /// Which one.
        field: &'static str,
        /// Its length.
        length: usize,
        /// The other's.
        expected: usize,
    },
    /// Canonical bytes that are none.
    #[error("{field} is not in canonical form")]
    Format {
        /// Which one.
        field: &'static str,
        /// What is wrong.
        #[source]
        cause: ol_protocol::bytes::Error,
    },
    /// The whole frame is over its limit.
    #[error("a frame of {bytes} bytes, limit {FRAME_BYTES_MAX}")]
    TooLarge {
        /// Its size on the wire.
        bytes: usize,
    },
    /// Bytes that are no frame, or a frame over the limit.
    #[error("not a frame: {0}")]
    Undecodable(Box<str>),
    /// The first frame is not one that a link begins with, or such a frame came later.
    #[error("a link begins with one {opening}, and only there")]
    Order {
        /// What it begins with.
        opening: &'static str,
    },
}

pub(crate) type Checked = Result<(), FrameError>;

fn most(field: &'static str, length: usize, max: usize) -> Checked {
    if length > max { Err(FrameError::TooLong { field, length, max }) } else { Ok(()) }
}

fn exactly(field: &'static str, length: usize, expected: usize) -> Checked {
    if length == expected { Ok(()) } else { Err(FrameError::Length { field, length, expected }) }
}

fn within(field: &'static str, holds: bool) -> Checked {
    if holds { Ok(()) } else { Err(FrameError::Range { field }) }
}

fn paired(field: &'static str, length: usize, expected: usize) -> Checked {
    if length == expected { Ok(()) } else { Err(FrameError::Mismatch { field, length, expected }) }
}

pub(crate) fn up(frame: &Up) -> Checked {
    match frame {
        Up::Hello(frame) => hello(frame),
        Up::Tokens(frame) => tokens(frame),
        Up::Done(frame) => done(frame),
        Up::Failed { message, .. } => most("failed.message", message.len(), MESSAGE_BYTES_MAX),
        Up::Batch { bytes, orders, outputs } => {
            most("batch.bytes", bytes.len(), BATCH_BYTES_MAX)?;
            most("batch.orders", orders.len(), BATCH_MAX)?;
            orders.iter().try_for_each(|order| most("batch.orders", order.len(), ORDER_BYTES_MAX))?;
            outputs_of(outputs)
        }
        Up::Verdict { outcome: Ok(it), .. } => scored(it),
        Up::Verdict { outcome: Err(message), .. } => most("verdict.failed", message.len(), MESSAGE_BYTES_MAX),
        Up::Started { prompt_tokens, resident_tokens, .. } => {
            most("started.prompt_tokens", *prompt_tokens as usize, CONTEXT_TOKENS_MAX)?;
            within("started.resident_tokens", resident_tokens <= prompt_tokens)
        }
        Up::Calibration { bytes } => exactly("calibration", bytes.len(), Calibration::BYTES),
        Up::Sealed { bytes } => exactly("sealed", bytes.len(), Seal::BYTES),
        Up::Recalled { content: Some((it, log_probs)), .. } => {
            most("recalled.log_probs", log_probs.len(), CONTEXT_TOKENS_MAX)?;
            audit(it)
        }
        Up::Recalled { content: None, .. } | Up::Grant { .. } | Up::Withdraw { .. } | Up::Pong { .. } | Up::Leaving => {
            Ok(())
        }
    }
}

pub(crate) fn down(frame: &Down) -> Checked {
    match frame {
        Down::Welcome(frame) => welcome(frame),
        Down::Refused { message, .. } => most("refused.message", message.len(), MESSAGE_BYTES_MAX),
        Down::Assign(frame) => assign(frame),
        Down::Audit(frame) => audit(frame),
        Down::Unseal { seals, .. } => {
            exactly("unseal.seals", seals.len(), PANEL)?;
            seals.iter().try_for_each(|seal| exactly("unseal.seals", seal.len(), Seal::BYTES))
        }
        Down::BatchAck { countersigned, .. } => {
            exactly("batch_ack.countersigned", countersigned.len(), CountersignedBatch::BYTES)
        }
        Down::Drain { message } => most("drain.message", message.len(), MESSAGE_BYTES_MAX),
        Down::Cancel { .. }
        | Down::Recall { .. }
        | Down::EpochBegan { .. }
        | Down::Ping { .. }
        | Down::Withdrawn { .. } => Ok(()),
    }
}

fn hello(it: &Hello) -> Checked {
    within("hello.protocol_max", it.protocol_min <= it.protocol_max)?;
    exactly("hello.certificate", it.certificate.len(), Certificate::BYTES)?;
    most("hello.join_token", it.join_token.as_ref().map_or(0, String::len), JOIN_TOKEN_BYTES_MAX)?;
    most("hello.software", it.software.len(), NAME_BYTES_MAX)?;
    most("hello.region", it.region.len(), NAME_BYTES_MAX)?;
    most("hello.variants", it.variants.len(), VARIANTS_MAX)?;
    for variant in &it.variants {
        for name in [&variant.model, &variant.quantisation, &variant.numerics] {
            most("hello.variants", name.len(), ol_protocol::variant::NAME_BYTES_MAX)?;
        }
    }
    Ok(())
}

fn welcome(it: &Welcome) -> Checked {
    within("welcome.ping_every_ms", (1..=DEADLINE_MS_MAX).contains(&it.ping_every_ms))
}

fn outputs_of(outputs: &[Made]) -> Checked {
    most("batch.outputs", outputs.len(), BATCH_MAX)?;
    most("batch.outputs.ids", outputs.iter().map(|made| made.ids.len()).sum(), MADE_TOKENS_MAX)?;
    outputs.iter().try_for_each(|made| paired("batch.outputs.log_probs", made.log_probs.len(), made.ids.len()))
}

fn tokens(it: &Tokens) -> Checked {
    let tokens = it.ids.len();
    most("tokens.ids", tokens, IDS_MAX)?;
    most("tokens.text", it.text.len(), TEXT_BYTES_MAX)?;
    most("tokens.count", it.count as usize, CONTEXT_TOKENS_MAX)?;
    within("tokens.count", it.count as usize >= tokens)?;
    paired("tokens.log_probs", it.log_probs.len(), tokens)?;
    if !it.top.is_empty() {
        paired("tokens.top", it.top.len(), tokens)?;
    }
    for token in &it.top {
        most("tokens.top.text", token.text.len(), TOKEN_BYTES_MAX)?;
        most("tokens.top.alternatives", token.alternatives.len(), ALTERNATIVES_MAX)?;
        within("tokens.top.log_prob", token.log_prob.is_finite())?;
        for (_, text, log_prob) in &token.alternatives {
            most("tokens.top.alternatives.text", text.len(), TOKEN_BYTES_MAX)?;
            within("tokens.top.alternatives.log_prob", log_prob.is_finite())?;
        }
    }
    Ok(())
}

fn done(it: &Done) -> Checked {
    most("done.text", it.text.len(), TEXT_BYTES_MAX)?;
    exactly("done.commitment", it.commitment.len(), Commitment::BYTES)?;
    vectors("done.vectors", &it.vectors)
}

fn vectors(field: &'static str, vectors: &[Vec<f32>]) -> Checked {
    most(field, vectors.len(), TEXTS_MAX)?;
    for vector in vectors {
        most(field, vector.len(), DIMENSIONS_MAX)?;
        within(field, vector.iter().all(|x| x.is_finite()))?;
    }
    Ok(())
}

fn scored(it: &Scored) -> Checked {
    let bytes = it.verdict.len();
    exactly("verdict.scored.verdict", bytes, if bytes == Verdict::BYTES_MAX { bytes } else { Verdict::BYTES })?;
    most("verdict.scored.log_probs", it.log_probs.len(), CONTEXT_TOKENS_MAX)?;
    most("verdict.scored.prompt_ids", it.prompt_ids.len(), CONTEXT_TOKENS_MAX)
}

fn assign(it: &Assign) -> Checked {
    most("assign.order", it.order.len(), ORDER_BYTES_MAX)?;
    most("assign.resume", it.resume.len(), CONTEXT_TOKENS_MAX)?;
    within("assign.deadline_ms", it.deadline_ms <= DEADLINE_MS_MAX)?;
    payload(&it.payload)
}

fn audit(it: &Audit) -> Checked {
    most("audit.output", it.output.len(), CONTEXT_TOKENS_MAX)?;
    within("audit.resumed_from", it.resumed_from as usize <= it.output.len())?;
    within("audit.deadline_ms", it.deadline_ms <= DEADLINE_MS_MAX)?;
    vectors("audit.vectors", &it.vectors)?;
    most("audit.prover_numerics", it.prover_numerics.len(), ol_protocol::variant::NAME_BYTES_MAX)?;
    payload(&it.payload)
}

/// Checks a payload as a frame that carries it would be: for a gateway, before it takes a request.
pub fn payload(it: &Payload) -> Checked {
    match it {
        Payload::Chat { messages, generate: how } => {
            most("chat.messages", messages.len(), MESSAGES_MAX)?;
            for message in messages {
                most("chat.messages.role", message.role.len(), NAME_BYTES_MAX)?;
            }
            generate(how)
        }
        Payload::Text { generate: how, .. } => generate(how),
        Payload::Tokens { ids, generate: how } => {
            most("tokens.ids", ids.len(), CONTEXT_TOKENS_MAX)?;
            generate(how)
        }
        Payload::Embed { texts } => most("embed.texts", texts.len(), TEXTS_MAX),
    }
}

fn generate(it: &Generate) -> Checked {
    within("generate.temperature", (0.0..=2.0).contains(&it.temperature))?;
    within("generate.top_p", (0.0..=1.0).contains(&it.top_p))?;
    within("generate.min_p", (0.0..=1.0).contains(&it.min_p))?;
    most("generate.max_tokens", it.max_tokens as usize, CONTEXT_TOKENS_MAX)?;
    most("generate.stop", it.stop.len(), STOPS_MAX)?;
    for stop in &it.stop {
        most("generate.stop", stop.len(), STOP_BYTES_MAX)?;
    }
    most("generate.top_logprobs", it.top_logprobs as usize, ALTERNATIVES_MAX + 1)
}
