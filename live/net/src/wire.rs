//! Frames to and from their form on the wire.

use crate::frame::{
    Assign, Audit, Done, Down, FailCode, Frame, Generate, Hello, Made, Message, Payload, RefuseCode, Role, Scored,
    Tokens, TopLogProbs, Up, Welcome,
};
use crate::generated::link::{self as pb, down, payload, up, verdict};
use crate::limits::{self, Checked, FrameError};
use ol_protocol::variant::Variant;
use ol_protocol::{AuditId, Digest, Epoch, GatewayId, NetworkId, Salt, Scope, TaskId, VariantId};
use prost::Message as _;

type Parsed<T> = Result<T, FrameError>;

fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Parsed<[u8; N]> {
    bytes.try_into().map_err(|_| FrameError::Length { field, length: bytes.len(), expected: N })
}

fn present<T>(field: &'static str, value: Option<T>) -> Parsed<T> {
    value.ok_or(FrameError::Missing { field })
}

fn small(field: &'static str, value: u32) -> Parsed<u8> {
    u8::try_from(value).map_err(|_| FrameError::Range { field })
}

fn task(bytes: &[u8]) -> Parsed<TaskId> {
    array("task", bytes).map(TaskId)
}

fn attempt(value: u32) -> Parsed<u8> {
    small("attempt", value)
}

fn variant(bytes: &[u8]) -> Parsed<VariantId> {
    array("variant", bytes).map(VariantId)
}

impl Frame for Up {
    type Wire = pb::Up;
    const OPENING: &'static str = "hello";

    fn check(&self) -> Checked {
        limits::up(self)
    }

    fn opens(&self) -> bool {
        matches!(self, Self::Hello(_))
    }

    fn into_wire(self) -> pb::Up {
        let frame = match self {
            Self::Hello(it) => up::Frame::Hello(hello_out(it)),
            Self::Grant { variant, total } => up::Frame::Grant(pb::Grant { variant: variant.0.into(), total }),
            Self::Started { task, attempt, prompt_tokens, prompt, resident_tokens } => {
                up::Frame::Started(pb::Started {
                    task: task.0.into(),
                    attempt: attempt.into(),
                    prompt_tokens,
                    prompt: prompt.0.into(),
                    resident_tokens,
                })
            }
            Self::Tokens(it) => up::Frame::Tokens(tokens_out(it)),
            Self::Done(it) => up::Frame::Done(done_out(it)),
            Self::Failed { task, attempt, code, message, grant_total } => up::Frame::Failed(pb::Failed {
                task: task.0.into(),
                attempt: attempt.into(),
                code: fail_code_out(code).into(),
                message,
                grant_total,
            }),
            Self::Batch { bytes, orders, outputs } => {
                up::Frame::Batch(pb::Batch { bytes, orders, outputs: outputs.into_iter().map(made_out).collect() })
            }
            Self::Verdict { audit, outcome, grant_total } => up::Frame::Verdict(pb::Verdict {
                audit: audit.0.into(),
                outcome: Some(match outcome {
                    Ok(Scored { verdict, log_probs, prompt_ids }) => {
                        verdict::Outcome::Scored(pb::Scored { verdict, log_probs, prompt_ids })
                    }
                    Err(message) => verdict::Outcome::Failed(message),
                }),
                grant_total,
            }),
            Self::Pong { nonce } => up::Frame::Pong(pb::Pong { nonce }),
            Self::Calibration { bytes } => up::Frame::Calibration(bytes),
            Self::Sealed { bytes } => up::Frame::Sealed(bytes),
            Self::Recalled { task, attempt, content } => {
                let (content, log_probs) =
                    content.map_or((None, Vec::new()), |(it, bytes)| (Some(audit_out(*it)), bytes));
                up::Frame::Recalled(pb::Recalled { task: task.0.into(), attempt: attempt.into(), content, log_probs })
            }
            Self::Withdraw { variant, total } => up::Frame::Withdraw(pb::Withdraw { variant: variant.0.into(), total }),
            Self::Leaving => up::Frame::Leaving(pb::Leaving {}),
        };
        pb::Up { frame: Some(frame) }
    }

    fn from_wire(wire: pb::Up) -> Parsed<Self> {
        let frame = match present("frame", wire.frame)? {
            up::Frame::Hello(it) => Self::Hello(hello_in(it)?),
            up::Frame::Grant(it) => Self::Grant { variant: variant(&it.variant)?, total: it.total },
            up::Frame::Started(it) => Self::Started {
                task: task(&it.task)?,
                attempt: attempt(it.attempt)?,
                prompt_tokens: it.prompt_tokens,
                prompt: Digest(array("started.prompt", &it.prompt)?),
                resident_tokens: it.resident_tokens,
            },
            up::Frame::Tokens(it) => Self::Tokens(tokens_in(it)?),
            up::Frame::Done(it) => Self::Done(done_in(it)?),
            up::Frame::Failed(it) => Self::Failed {
                task: task(&it.task)?,
                attempt: attempt(it.attempt)?,
                code: fail_code_in(it.code)?,
                message: it.message,
                grant_total: it.grant_total,
            },
            up::Frame::Batch(it) => Self::Batch {
                bytes: it.bytes,
                orders: it.orders,
                outputs: it.outputs.into_iter().map(made_in).collect::<Parsed<_>>()?,
            },
            up::Frame::Verdict(it) => Self::Verdict {
                audit: AuditId(array("audit", &it.audit)?),
                outcome: match present("verdict.outcome", it.outcome)? {
                    verdict::Outcome::Scored(pb::Scored { verdict, log_probs, prompt_ids }) => {
                        Ok(Scored { verdict, log_probs, prompt_ids })
                    }
                    verdict::Outcome::Failed(message) => Err(message),
                },
                grant_total: it.grant_total,
            },
            up::Frame::Pong(it) => Self::Pong { nonce: it.nonce },
            up::Frame::Calibration(bytes) => Self::Calibration { bytes },
            up::Frame::Sealed(bytes) => Self::Sealed { bytes },
            up::Frame::Recalled(it) => {
                let log_probs = it.log_probs;
                let content = it.content.map(audit_in).transpose()?.map(|content| (Box::new(content), log_probs));
                Self::Recalled { task: task(&it.task)?, attempt: attempt(it.attempt)?, content }
            }
            up::Frame::Withdraw(it) => Self::Withdraw { variant: variant(&it.variant)?, total: it.total },
            up::Frame::Leaving(pb::Leaving {}) => Self::Leaving,
        };
        frame.check()?;
        Ok(frame)
    }
}

impl Frame for Down {
    type Wire = pb::Down;
    const OPENING: &'static str = "welcome or refused";

    fn check(&self) -> Checked {
        limits::down(self)
    }

    fn opens(&self) -> bool {
        matches!(self, Self::Welcome(_) | Self::Refused { .. })
    }

    fn into_wire(self) -> pb::Down {
        let frame = match self {
            Self::Welcome(it) => down::Frame::Welcome(welcome_out(it)),
            Self::Refused { code, message } => {
                down::Frame::Refused(pb::Refused { code: refuse_code_out(code).into(), message })
            }
            Self::Assign(it) => down::Frame::Assign(assign_out(*it)),
            Self::Cancel { task, attempt, is_paid } => {
                down::Frame::Cancel(pb::Cancel { task: task.0.into(), attempt: attempt.into(), is_paid })
            }
            Self::Audit(it) => down::Frame::Audit(audit_out(*it)),
            Self::Unseal { audit, seals } => down::Frame::Unseal(pb::Unseal { audit: audit.0.into(), seals }),
            Self::Withdrawn { variant } => down::Frame::Withdrawn(pb::Withdrawn { variant: variant.0.into() }),
            Self::Recall { task, attempt, salt } => {
                down::Frame::Recall(pb::Recall { task: task.0.into(), attempt: attempt.into(), salt: salt.0.into() })
            }
            Self::BatchAck { sequence, countersigned, first_record } => {
                down::Frame::BatchAck(pb::BatchAck { sequence, countersigned, first_record })
            }
            Self::EpochBegan { epoch } => down::Frame::EpochBegan(pb::EpochBegan { epoch: epoch.0 }),
            Self::Ping { nonce } => down::Frame::Ping(pb::Ping { nonce }),
            Self::Drain { message } => down::Frame::Drain(pb::Drain { message }),
        };
        pb::Down { frame: Some(frame) }
    }

    fn from_wire(wire: pb::Down) -> Parsed<Self> {
        let frame = match present("frame", wire.frame)? {
            down::Frame::Welcome(it) => Self::Welcome(welcome_in(it)?),
            down::Frame::Refused(it) => Self::Refused { code: refuse_code_in(it.code)?, message: it.message },
            down::Frame::Assign(it) => Self::Assign(Box::new(assign_in(it)?)),
            down::Frame::Cancel(it) => {
                Self::Cancel { task: task(&it.task)?, attempt: attempt(it.attempt)?, is_paid: it.is_paid }
            }
            down::Frame::Audit(it) => Self::Audit(Box::new(audit_in(it)?)),
            down::Frame::Unseal(it) => {
                Self::Unseal { audit: AuditId(array("unseal.audit", &it.audit)?), seals: it.seals }
            }
            down::Frame::Withdrawn(it) => Self::Withdrawn { variant: variant(&it.variant)? },
            down::Frame::Recall(it) => Self::Recall {
                task: task(&it.task)?,
                attempt: attempt(it.attempt)?,
                salt: Salt(array("recall.salt", &it.salt)?),
            },
            down::Frame::BatchAck(it) => {
                Self::BatchAck { sequence: it.sequence, countersigned: it.countersigned, first_record: it.first_record }
            }
            down::Frame::EpochBegan(it) => Self::EpochBegan { epoch: Epoch(it.epoch) },
            down::Frame::Ping(it) => Self::Ping { nonce: it.nonce },
            down::Frame::Drain(it) => Self::Drain { message: it.message },
        };
        frame.check()?;
        Ok(frame)
    }
}

fn hello_out(it: Hello) -> pb::Hello {
    pb::Hello {
        protocol_min: it.protocol_min,
        protocol_max: it.protocol_max,
        network: it.network.0.into(),
        certificate: it.certificate,
        join_token: it.join_token,
        software: it.software,
        role: match it.role {
            Role::Worker => pb::Role::Worker,
            Role::Referee => pb::Role::Referee,
        }
        .into(),
        region: it.region,
        variants: it.variants.iter().map(Variant::to_bytes).collect(),
        next_batch: it.next_batch,
    }
}

fn hello_in(it: pb::Hello) -> Parsed<Hello> {
    let (length, max) = (it.variants.len(), limits::VARIANTS_MAX);
    if length > max {
        return Err(FrameError::TooLong { field: "hello.variants", length, max });
    }
    let variant =
        |b: &Vec<u8>| Variant::from_bytes(b).map_err(|cause| FrameError::Format { field: "hello.variants", cause });
    Ok(Hello {
        protocol_min: it.protocol_min,
        protocol_max: it.protocol_max,
        network: NetworkId(array("hello.network", &it.network)?),
        certificate: it.certificate,
        join_token: it.join_token,
        software: it.software,
        role: match pb::Role::try_from(it.role) {
            Ok(pb::Role::Worker) => Role::Worker,
            Ok(pb::Role::Referee) => Role::Referee,
            Ok(pb::Role::Unspecified) | Err(_) => {
                return Err(FrameError::Unknown { field: "hello.role", value: it.role.into() });
            }
        },
        region: it.region,
        variants: it.variants.iter().map(variant).collect::<Result<_, _>>()?,
        next_batch: it.next_batch,
    })
}

fn tokens_out(it: Tokens) -> pb::Tokens {
    let alternative = |(id, text, log_prob)| pb::Alternative { id, text, log_prob };
    let top = |it: TopLogProbs| pb::TopLogProbs {
        log_prob: it.log_prob,
        text: it.text,
        alternatives: it.alternatives.into_iter().map(alternative).collect(),
    };
    pb::Tokens {
        task: it.task.0.into(),
        attempt: it.attempt.into(),
        count: it.count,
        ids: it.ids,
        text: it.text,
        log_probs: it.log_probs,
        top: it.top.into_iter().map(top).collect(),
    }
}

fn made_out(it: Made) -> pb::Made {
    pb::Made { place: it.place.into(), ids: it.ids, log_probs: it.log_probs }
}

fn made_in(it: pb::Made) -> Parsed<Made> {
    let place = u16::try_from(it.place).map_err(|_| FrameError::Range { field: "batch.outputs.place" })?;
    Ok(Made { place, ids: it.ids, log_probs: it.log_probs })
}

fn tokens_in(it: pb::Tokens) -> Parsed<Tokens> {
    let top = |it: pb::TopLogProbs| TopLogProbs {
        log_prob: it.log_prob,
        text: it.text,
        alternatives: it.alternatives.into_iter().map(|a| (a.id, a.text, a.log_prob)).collect(),
    };
    Ok(Tokens {
        task: task(&it.task)?,
        attempt: attempt(it.attempt)?,
        count: it.count,
        ids: it.ids,
        text: it.text,
        log_probs: it.log_probs,
        top: it.top.into_iter().map(top).collect(),
    })
}

fn done_out(it: Done) -> pb::Done {
    pb::Done {
        task: it.task.0.into(),
        attempt: it.attempt.into(),
        text: it.text,
        commitment: it.commitment,
        grant_total: it.grant_total,
        vectors: vectors_out(it.vectors),
    }
}

fn done_in(it: pb::Done) -> Parsed<Done> {
    Ok(Done {
        task: task(&it.task)?,
        attempt: attempt(it.attempt)?,
        text: it.text,
        commitment: it.commitment,
        grant_total: it.grant_total,
        vectors: vectors_in(it.vectors),
    })
}

fn vectors_out(vectors: Vec<Vec<f32>>) -> Vec<pb::Vector> {
    vectors.into_iter().map(|values| pb::Vector { values }).collect()
}

fn vectors_in(vectors: Vec<pb::Vector>) -> Vec<Vec<f32>> {
    vectors.into_iter().map(|vector| vector.values).collect()
}

fn welcome_out(it: Welcome) -> pb::Welcome {
    pb::Welcome {
        protocol: it.protocol,
        gateway: it.gateway.0.into(),
        network: it.network.0.into(),
        epoch: it.epoch.0,
        acked_batches: it.acked_batches,
        ping_every_ms: it.ping_every_ms,
        hold_seconds: it.hold_seconds,
        held_tasks: it.held_tasks,
    }
}

fn welcome_in(it: pb::Welcome) -> Parsed<Welcome> {
    Ok(Welcome {
        protocol: it.protocol,
        gateway: GatewayId(array("welcome.gateway", &it.gateway)?),
        network: NetworkId(array("welcome.network", &it.network)?),
        epoch: Epoch(it.epoch),
        acked_batches: it.acked_batches,
        ping_every_ms: it.ping_every_ms,
        hold_seconds: it.hold_seconds,
        held_tasks: it.held_tasks,
    })
}

fn assign_out(it: Assign) -> pb::Assign {
    pb::Assign {
        task: it.task.0.into(),
        attempt: it.attempt.into(),
        variant: it.variant.0.into(),
        epoch: it.epoch.0,
        salt: it.salt.0.into(),
        seed: it.seed.into(),
        payload: Some(payload_out(it.payload)),
        resume: it.resume,
        deadline_ms: it.deadline_ms,
        order: it.order,
        scope: it.scope.map_or_else(Vec::new, |scope| scope.0.into()),
    }
}

fn assign_in(it: pb::Assign) -> Parsed<Assign> {
    Ok(Assign {
        task: task(&it.task)?,
        attempt: attempt(it.attempt)?,
        variant: variant(&it.variant)?,
        epoch: Epoch(it.epoch),
        salt: Salt(array("assign.salt", &it.salt)?),
        seed: array("assign.seed", &it.seed)?,
        payload: payload_in(it.payload)?,
        resume: it.resume,
        deadline_ms: it.deadline_ms,
        order: it.order,
        scope: if it.scope.is_empty() { None } else { Some(Scope(array("assign.scope", &it.scope)?)) },
    })
}

fn audit_out(it: Audit) -> pb::Audit {
    pb::Audit {
        audit: it.audit.0.into(),
        variant: it.variant.0.into(),
        salt: it.salt.0.into(),
        seed: it.seed.into(),
        payload: Some(payload_out(it.payload)),
        output: it.output,
        vectors: vectors_out(it.vectors),
        finish: it.finish.into(),
        tolerance_micro: it.tolerance_micro,
        deadline_ms: it.deadline_ms,
        resumed_from: it.resumed_from,
        prover_numerics: it.prover_numerics,
        until: it.until,
        sealed: it.sealed,
    }
}

impl Audit {
    /// As gateways and nodes keep it on their disks.
    pub fn to_kept(self) -> Vec<u8> {
        Down::Audit(Box::new(self)).into_wire().encode_to_vec()
    }

    /// Reads what [`Audit::to_kept`] wrote. `None` for anything else.
    pub fn from_kept(bytes: &[u8]) -> Option<Self> {
        match Down::from_wire(pb::Down::decode(bytes).ok()?).ok()? {
            Down::Audit(audit) => Some(*audit),
            _ => None,
        }
    }
}

fn audit_in(it: pb::Audit) -> Parsed<Audit> {
    Ok(Audit {
        audit: AuditId(array("audit", &it.audit)?),
        variant: variant(&it.variant)?,
        salt: Salt(array("audit.salt", &it.salt)?),
        seed: array("audit.seed", &it.seed)?,
        payload: payload_in(it.payload)?,
        output: it.output,
        vectors: vectors_in(it.vectors),
        finish: small("audit.finish", it.finish)?,
        tolerance_micro: it.tolerance_micro,
        deadline_ms: it.deadline_ms,
        resumed_from: it.resumed_from,
        prover_numerics: it.prover_numerics,
        until: it.until,
        sealed: it.sealed,
    })
}

fn payload_out(it: Payload) -> pb::Payload {
    let generate = |it| Some(generate_out(it));
    let kind = match it {
        Payload::Chat { messages, generate: how } => {
            let message = |it: Message| pb::Message { role: it.role, content: it.content };
            let messages = messages.into_iter().map(message).collect();
            payload::Kind::Chat(pb::Chat { messages, generate: generate(how) })
        }
        Payload::Text { prompt, generate: how } => payload::Kind::Text(pb::Text { prompt, generate: generate(how) }),
        Payload::Tokens { ids, generate: how } => payload::Kind::Tokens(pb::Ids { ids, generate: generate(how) }),
        Payload::Embed { texts } => payload::Kind::Embed(pb::Embed { texts }),
    };
    pb::Payload { kind: Some(kind) }
}

fn payload_in(it: Option<pb::Payload>) -> Parsed<Payload> {
    Ok(match present("payload", it.and_then(|it| it.kind))? {
        payload::Kind::Chat(it) => {
            let message = |it: pb::Message| Message { role: it.role, content: it.content };
            Payload::Chat {
                messages: it.messages.into_iter().map(message).collect(),
                generate: generate_in(it.generate)?,
            }
        }
        payload::Kind::Text(it) => Payload::Text { prompt: it.prompt, generate: generate_in(it.generate)? },
        payload::Kind::Tokens(it) => Payload::Tokens { ids: it.ids, generate: generate_in(it.generate)? },
        payload::Kind::Embed(it) => Payload::Embed { texts: it.texts },
    })
}

fn generate_out(it: Generate) -> pb::Generate {
    pb::Generate {
        temperature: it.temperature,
        top_p: it.top_p,
        top_k: it.top_k,
        min_p: it.min_p,
        max_tokens: it.max_tokens,
        stop: it.stop,
        top_logprobs: it.top_logprobs,
    }
}

fn generate_in(it: Option<pb::Generate>) -> Parsed<Generate> {
    let it = present("payload.generate", it)?;
    Ok(Generate {
        temperature: it.temperature,
        top_p: it.top_p,
        top_k: it.top_k,
        min_p: it.min_p,
        max_tokens: it.max_tokens,
        stop: it.stop,
        top_logprobs: it.top_logprobs,
    })
}

const fn fail_code_out(code: FailCode) -> pb::FailCode {
    match code {
        FailCode::Invalid => pb::FailCode::Invalid,
        FailCode::Overloaded => pb::FailCode::Overloaded,
        FailCode::Draining => pb::FailCode::Draining,
        FailCode::Internal => pb::FailCode::Internal,
        FailCode::UnknownVariant => pb::FailCode::UnknownVariant,
    }
}

fn fail_code_in(code: i32) -> Parsed<FailCode> {
    Ok(match pb::FailCode::try_from(code) {
        Ok(pb::FailCode::Invalid) => FailCode::Invalid,
        Ok(pb::FailCode::Overloaded) => FailCode::Overloaded,
        Ok(pb::FailCode::Draining) => FailCode::Draining,
        Ok(pb::FailCode::Internal) => FailCode::Internal,
        Ok(pb::FailCode::UnknownVariant) => FailCode::UnknownVariant,
        Ok(pb::FailCode::Unspecified) | Err(_) => {
            return Err(FrameError::Unknown { field: "failed.code", value: code.into() });
        }
    })
}

const fn refuse_code_out(code: RefuseCode) -> pb::RefuseCode {
    match code {
        RefuseCode::Protocol => pb::RefuseCode::Protocol,
        RefuseCode::Network => pb::RefuseCode::Network,
        RefuseCode::Certificate => pb::RefuseCode::Certificate,
        RefuseCode::JoinToken => pb::RefuseCode::JoinToken,
        RefuseCode::Role => pb::RefuseCode::Role,
        RefuseCode::Excluded => pb::RefuseCode::Excluded,
        RefuseCode::Duplicate => pb::RefuseCode::Duplicate,
        RefuseCode::Full => pb::RefuseCode::Full,
        RefuseCode::Draining => pb::RefuseCode::Draining,
        RefuseCode::Invalid => pb::RefuseCode::Invalid,
    }
}

fn refuse_code_in(code: i32) -> Parsed<RefuseCode> {
    Ok(match pb::RefuseCode::try_from(code) {
        Ok(pb::RefuseCode::Protocol) => RefuseCode::Protocol,
        Ok(pb::RefuseCode::Network) => RefuseCode::Network,
        Ok(pb::RefuseCode::Certificate) => RefuseCode::Certificate,
        Ok(pb::RefuseCode::JoinToken) => RefuseCode::JoinToken,
        Ok(pb::RefuseCode::Role) => RefuseCode::Role,
        Ok(pb::RefuseCode::Excluded) => RefuseCode::Excluded,
        Ok(pb::RefuseCode::Duplicate) => RefuseCode::Duplicate,
        Ok(pb::RefuseCode::Full) => RefuseCode::Full,
        Ok(pb::RefuseCode::Draining) => RefuseCode::Draining,
        Ok(pb::RefuseCode::Invalid) => RefuseCode::Invalid,
        Ok(pb::RefuseCode::Unspecified) | Err(_) => {
            return Err(FrameError::Unknown { field: "refused.code", value: code.into() });
        }
    })
}
