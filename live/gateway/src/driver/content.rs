//! The content of tasks: in memory while they run, and as an audit needs it, kept on disk for the audit window.

use super::hands::New;
use crate::backend::Reply;
use ol_net::Down;
use ol_net::frame::{Audit, Frame, Payload};
use ol_protocol::commitment::Commitment;
use ol_protocol::digest::{output_root, vectors_root};
use ol_protocol::record::AttemptId;
use ol_protocol::variant::Assurance;
use ol_protocol::{AuditId, Digest, NodeId, Price, Salt, TenantId, Timestamp, VariantId};
use prost::Message as _;
use tokio::sync::mpsc;

/// A task from its submission until its receipts are on their way to the disk.
pub(super) struct Content {
    pub(super) tenant: TenantId,
    pub(super) assurance: Assurance,
    pub(super) price: Price,
    pub(super) payload: Payload,
    pub(super) salt: Salt,
    pub(super) seed: [u8; 32],
    pub(super) replies: mpsc::Sender<Reply>,
    /// Output tokens that were relayed.
    pub(super) ids: Vec<u32>,
    /// By attempt: its log-probability bytes, how many tokens were relayed before it, and who has it.
    pub(super) log_probs: Vec<Vec<u8>>,
    pub(super) resumed: Vec<u32>,
    pub(super) orders: Vec<(VariantId, NodeId)>,
    pub(super) vectors: Vec<Vec<f32>>,
    /// Text that came with the end.
    pub(super) tail: String,
    pub(super) created: Timestamp,
    pub(super) ended: bool,
}

impl Content {
    pub(super) fn of(new: New, now: Timestamp) -> Self {
        Self {
            tenant: new.submission.tenant,
            assurance: new.assurance,
            price: new.submission.price,
            payload: new.payload,
            salt: new.salt,
            seed: new.seed,
            replies: new.replies,
            ids: Vec::new(),
            log_probs: Vec::new(),
            resumed: Vec::new(),
            orders: Vec::new(),
            vectors: Vec::new(),
            tail: String::new(),
            created: now,
            ended: false,
        }
    }

    /// Whether the node has the attempt, and no later one was begun.
    pub(super) fn is_current(&self, node: NodeId, attempt: u8) -> bool {
        self.orders.last().is_some_and(|(_, of)| *of == node) && self.orders.len() == usize::from(attempt) + 1
    }

    /// The root that a commitment to what was relayed has.
    pub(super) fn root(&self) -> Digest {
        match self.payload {
            Payload::Embed { .. } => vectors_root(&self.salt, &self.vectors),
            Payload::Chat { .. } | Payload::Text { .. } | Payload::Tokens { .. } => output_root(&self.salt, &self.ids),
        }
    }

    /// The row for an attempt: the audit frame without an id, and the prover's log-probability bytes.
    pub(super) fn seal(
        &self,
        attempt: AttemptId,
        now: Timestamp,
        commitment: &Commitment,
    ) -> Option<ol_store::Payload> {
        let number = usize::from(attempt.attempt);
        let audit = Audit {
            audit: AuditId([0; 16]),
            variant: commitment.variant,
            salt: self.salt,
            seed: self.seed,
            payload: self.payload.clone(),
            output: self.ids.get(..commitment.output_tokens.0 as usize)?.to_vec(),
            resumed_from: *self.resumed.get(number)?,
            vectors: self.vectors.clone(),
            finish: commitment.finish.to_byte(),
            tolerance_micro: 0,
            deadline_ms: 0,
        };
        let prompt = Down::Audit(Box::new(audit)).into_wire().encode_to_vec();
        Some(ol_store::Payload { attempt, created: now, prompt, output: self.log_probs.get(number)?.clone() })
    }
}

/// The audit frame of a row, and the prover's log-probability bytes.
pub(super) fn open(row: &ol_store::Payload) -> Option<(Audit, Vec<u8>)> {
    let wire = <Down as Frame>::Wire::decode(row.prompt.as_slice()).ok()?;
    match Down::from_wire(wire).ok()? {
        Down::Audit(audit) => Some((*audit, row.output.clone())),
        _ => None,
    }
}

pub(super) fn length(ids: &[u32]) -> u32 {
    u32::try_from(ids.len()).unwrap_or(u32::MAX)
}
