//! Digests of content, as prover, gateway and auditor must agree on them. `docs/protocol/log.md` is the specification.

use ol_engine::{FinishReason, GenerateTask, Prompt, ScoreTask, Seed, Variant};
use ol_net::frame::{Assign, BadSampling, Payload};
use ol_protocol::commitment::Finish;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::variant::{Assurance, Work};
use ol_protocol::{Digest, Salt, Scope};
use ol_store::Peer;

/// A payload that no engine can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Sampling settings out of range.
    #[error(transparent)]
    Sampling(#[from] BadSampling),
    /// A role that chat templates don't know.
    #[error("a message of an unknown role")]
    Role,
    /// Text to embed where text to continue was expected, or the other way round.
    #[error("the payload does not fit the variant's kind of work")]
    Work,
}

/// The variant that goes into receipts, of what an engine says of itself.
pub fn variant(of: &Variant) -> ol_protocol::variant::Variant {
    ol_protocol::variant::Variant {
        model: of.name.clone(),
        weights: Digest(of.weights),
        quantisation: of.quantisation.clone(),
        numerics: of.numerics.clone(),
        work: match of.kind {
            ol_engine::Kind::Generate => Work::Generate,
            ol_engine::Kind::Embed => Work::Embed,
        },
        assurance: match of.kind {
            ol_engine::Kind::Generate => Assurance::Seeded,
            // Vectors have no sampling: recomputing them is the whole check.
            ol_engine::Kind::Embed => Assurance::Greedy,
        },
        context_tokens: of.context_tokens,
    }
}

/// What a commitment says of the prompt.
pub fn prompt_digest(salt: &Salt, ids: &[u32], payload: &Payload) -> Result<Digest, Error> {
    Ok(ol_protocol::digest::prompt_digest(salt, ids, payload.template(), &payload.parameters()?))
}

/// What a commitment says of log-probability bytes.
pub fn log_probs_digest(salt: &Salt, bytes: &[u8]) -> Digest {
    digest(Domain::LogProbs, &[&salt.0, bytes])
}

fn prompt(payload: &Payload) -> Result<Prompt, Error> {
    match payload {
        Payload::Chat { messages, .. } => messages
            .iter()
            .map(|m| {
                let role = match m.role.as_str() {
                    "system" => ol_engine::Role::System,
                    "user" => ol_engine::Role::User,
                    "assistant" => ol_engine::Role::Assistant,
                    _ => return Err(Error::Role),
                };
                Ok(ol_engine::Message { role, content: m.content.clone() })
            })
            .collect::<Result<_, _>>()
            .map(Prompt::Chat),
        Payload::Text { prompt, .. } => Ok(Prompt::Text(prompt.clone())),
        Payload::Tokens { ids, .. } => Ok(Prompt::Tokens(ids.clone())),
        Payload::Embed { .. } => Err(Error::Work),
    }
}

/// The engine's task for an assignment of a gateway. What it leaves for later tasks is that gateway's alone, whatever scopes others name: a scope is known
/// to all nodes that had a task of it.
pub fn task(assign: &Assign, peer: Peer) -> Result<GenerateTask, Error> {
    let Assign { payload, seed, resume, scope, .. } = assign;
    let generate = payload.generate().ok_or(Error::Work)?;
    Ok(GenerateTask {
        prompt: prompt(payload)?,
        sampling: generate.sampling()?,
        seed: Seed(*seed),
        max_tokens: generate.max_tokens,
        stop: generate.stop.clone(),
        // The field counts the chosen token too: 1 asks for it alone.
        top_logprobs: u8::try_from(generate.top_logprobs.saturating_sub(1)).unwrap_or(u8::MAX),
        resume: resume.clone(),
        scope: scope.map(|scope| within(peer, &scope)),
    })
}

fn within(peer: Peer, scope: &Scope) -> Scope {
    let Digest(whole) = digest(Domain::Scope, &[b"link", &peer.network.0, &peer.gateway.0, &scope.0]);
    let mut short = [0; Scope::BYTES];
    short.copy_from_slice(&whole[..Scope::BYTES]);
    Scope(short)
}

/// The engine's task for an audit: of all of the output.
pub fn score(
    payload: &Payload,
    seed: [u8; 32],
    output: Vec<u32>,
    finish: Finish,
    tolerance: f32,
) -> Result<ScoreTask, Error> {
    let generate = payload.generate().ok_or(Error::Work)?;
    Ok(ScoreTask {
        prompt: prompt(payload)?,
        output,
        sampling: generate.sampling()?,
        seed: Seed(seed),
        stop: generate.stop.clone(),
        max_tokens: generate.max_tokens,
        tolerance,
        finish: match finish {
            Finish::EndOfText => FinishReason::Stop,
            Finish::StopString => FinishReason::StopString,
            Finish::Length | Finish::Cancelled | Finish::Embedded => FinishReason::Length,
        },
        until: usize::MAX,
    })
}

/// The commitment's word for an engine's reason.
pub const fn finish(reason: FinishReason) -> Finish {
    match reason {
        FinishReason::Stop => Finish::EndOfText,
        FinishReason::StopString => Finish::StopString,
        FinishReason::Length => Finish::Length,
    }
}

/// Largest distance of a cosine from 1 over pairs of vectors, in millionths, rounded up; the largest number where they
/// can't be compared.
pub fn deviation_micro(said: &[Vec<f32>], own: &[Vec<f32>]) -> u32 {
    if said.len() != own.len() {
        return u32::MAX;
    }
    said.iter().zip(own).map(|(a, b)| deviation(a, b)).max().unwrap_or(0)
}

fn deviation(a: &[f32], b: &[f32]) -> u32 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    let cosine = dot(a, b) / norms;
    // The served vectors have unit length: another length is another result, though the angle is the same.
    let length = (dot(a, a) - dot(b, b)).abs();
    if a.len() != b.len() || !cosine.is_finite() {
        return u32::MAX;
    }
    crate::calibrate::micro((1.0 - cosine).max(length) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_protocol::{GatewayId, NetworkId};

    // The attack: a gateway that learned another's scope, from a node of its own, names it at a node that both have.
    #[test]
    fn the_same_scope_of_two_gateways_is_two_scopes_of_the_engine() {
        let scope = Scope([7; 16]);
        let of = |network, gateway| {
            within(Peer { network: NetworkId([network; 32]), gateway: GatewayId([gateway; 32]) }, &scope)
        };
        assert_eq!(of(1, 2), of(1, 2));
        assert!(of(1, 2) != of(1, 3) && of(1, 2) != of(2, 2) && of(1, 2) != scope);
    }

    #[test]
    fn equal_vectors_do_not_deviate_and_others_do() {
        let a = vec![vec![0.6, 0.8]];
        assert_eq!(deviation_micro(&a, &a), 0);
        assert!(deviation_micro(&a, &[vec![0.8, 0.6]]) > 30_000);
        assert!(deviation_micro(&a, &[vec![1.2, 1.6]]) > 1_000_000, "another length");
        assert_eq!(deviation_micro(&a, &[vec![f32::NAN, 0.0]]), u32::MAX);
        assert_eq!(deviation_micro(&a, &[]), u32::MAX);
    }
}
