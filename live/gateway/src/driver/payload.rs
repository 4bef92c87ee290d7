//! What an audit of an attempt needs, as it is kept on disk for the audit window: the audit frame without an id.

use ol_net::Down;
use ol_net::frame::{Audit, Frame, Payload};
use ol_protocol::record::AttemptId;
use ol_protocol::{AuditId, Salt, Timestamp, VariantId};
use prost::Message as _;

/// The content of an attempt, from its payload and what was relayed.
pub(super) struct Content<'a> {
    pub(super) variant: VariantId,
    pub(super) salt: Salt,
    pub(super) seed: [u8; 32],
    pub(super) payload: &'a Payload,
    pub(super) output: &'a [u32],
    pub(super) resumed_from: u32,
    pub(super) vectors: &'a [Vec<f32>],
    pub(super) finish: u8,
}

/// The row for an attempt.
pub(super) fn seal(attempt: AttemptId, now: Timestamp, content: &Content<'_>, log_probs: &[u8]) -> ol_store::Payload {
    let audit = Audit {
        audit: AuditId([0; 16]),
        variant: content.variant,
        salt: content.salt,
        seed: content.seed,
        payload: content.payload.clone(),
        output: content.output.to_vec(),
        resumed_from: content.resumed_from,
        vectors: content.vectors.to_vec(),
        finish: content.finish,
        tolerance_micro: 0,
        deadline_ms: 0,
    };
    let prompt = Down::Audit(Box::new(audit)).into_wire().encode_to_vec();
    ol_store::Payload { attempt, created: now, prompt, output: log_probs.to_vec() }
}

/// The audit frame of a row, and the prover's log-probability bytes.
pub(super) fn open(row: &ol_store::Payload) -> Option<(Audit, Vec<u8>)> {
    let wire = <Down as Frame>::Wire::decode(row.prompt.as_slice()).ok()?;
    match Down::from_wire(wire).ok()? {
        Down::Audit(audit) => Some((*audit, row.output.clone())),
        _ => None,
    }
}
