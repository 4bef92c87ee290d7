//! The content of tasks: in memory while they run, and as an audit needs it, kept on disk for the audit window.

use super::message::New;
use crate::backend::Reply;
use ol_net::frame::{Audit, Made, Payload};
use ol_protocol::commitment::Commitment;
use ol_protocol::digest::{output_root, vectors_root};
use ol_protocol::evidence::Evidence;
use ol_protocol::prf::Seed;
use ol_protocol::record::AttemptId;
use ol_protocol::variant::Assurance;
use ol_protocol::{AuditId, Digest, NodeId, Salt, Scope, TenantId, Timestamp, TokenCount, VariantId};
use ol_roles::gateway::event::Match;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::mpsc;

/// The templates of [`Payload::template`] that render text to be continued.
const TEMPLATES: [&[u8]; 3] = [b"chat", b"text", b"tokens"];

/// A task from its submission until its receipts are on their way to the disk.
pub(super) struct Content {
    pub(super) tenant: TenantId,
    /// Whether its tenant lets it become public, wherever: then the network may ask it again.
    pub(super) public: bool,
    pub(super) assurance: Assurance,
    /// The quote that it named, for its receipt.
    pub(super) quote: Option<serde_json::Value>,
    pub(super) payload: Payload,
    pub(super) salt: Salt,
    /// Within which other tasks nodes may use what they keep of it.
    pub(super) scope: Scope,
    pub(super) seed: [u8; 32],
    pub(super) replies: mpsc::Sender<Reply>,
    /// Output tokens that were relayed.
    pub(super) ids: Vec<u32>,
    /// By attempt: its log-probability bytes, how many tokens were relayed before it and up to its last, and who has it.
    pub(super) log_probs: Vec<Vec<u8>>,
    pub(super) resumed: Vec<u32>,
    pub(super) reached: Vec<u32>,
    pub(super) orders: Vec<(VariantId, NodeId)>,
    pub(super) vectors: Vec<Vec<f32>>,
    pub(super) created: Timestamp,
    pub(super) ended: bool,
    /// What was written beside its receipts so far.
    pub(super) facts: Option<Vec<u8>>,
    /// The attempt that it ended with, if with a whole answer.
    pub(super) answered_by: Option<u8>,
    /// The trust value that the answer came with.
    pub(super) trust: Option<f64>,
    // By attempt that broke off: what its node made, and its log-probability bytes.
    made: BTreeMap<u8, (Vec<u32>, Vec<u8>)>,
    told: BTreeSet<u8>,
}

impl Content {
    pub(super) fn of(new: New, now: Timestamp) -> Self {
        Self {
            tenant: new.submission.tenant,
            public: new.submission.public && new.submission.place.bound().is_none(),
            assurance: new.assurance,
            quote: new.quote,
            payload: new.payload,
            salt: new.salt,
            scope: new.scope,
            seed: new.seed,
            replies: new.replies,
            ids: Vec::new(),
            log_probs: Vec::new(),
            resumed: Vec::new(),
            reached: Vec::new(),
            orders: Vec::new(),
            vectors: Vec::new(),
            created: now,
            ended: false,
            facts: None,
            answered_by: None,
            trust: None,
            made: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    /// Whether the node was given the attempt.
    pub(super) fn has(&self, node: NodeId, attempt: u8) -> bool {
        self.orders.get(usize::from(attempt)).is_some_and(|(_, of)| *of == node)
    }

    /// Whether the client hears that the attempt has begun: once, whatever its node repeats.
    pub(super) fn tells(&mut self, attempt: u8) -> bool {
        !self.ended && self.told.insert(attempt)
    }

    /// The root that a commitment to what was relayed has, or to the vectors.
    pub(super) fn root(&self, vectors: &[Vec<f32>]) -> Digest {
        match self.payload {
            Payload::Embed { .. } => vectors_root(&self.salt, vectors),
            Payload::Chat { .. } | Payload::Text { .. } | Payload::Tokens { .. } => output_root(&self.salt, &self.ids),
        }
    }

    /// Holds a commitment to an attempt that broke off against what was relayed of it, with what the node says it made:
    /// beyond what was relayed there may be tokens that never came. What it made is kept for an audit if it is what the
    /// node commits to. `None` for an answer that ended well, and where the node has said too little.
    pub(super) fn hold_against(&mut self, commitment: &Commitment, made: Option<Made>) -> Option<Match> {
        let number = usize::from(commitment.attempt);
        let (_, node) = *self.orders.get(number)?;
        let is_answer = self.answered_by == Some(commitment.attempt);
        if is_answer || node != commitment.node || matches!(self.payload, Payload::Embed { .. }) {
            return None;
        }
        let start = *self.resumed.get(number)? as usize;
        let end = *self.reached.get(number)? as usize;
        let (inherited, relayed) = (self.ids.get(..start)?, self.ids.get(start..end)?);
        let added = commitment.added_tokens().0 as usize;
        let own = match &made {
            Some(made) => made.ids.as_slice(),
            None => relayed.get(..added)?,
        };
        let common = own.len().min(relayed.len());
        let is_same =
            commitment.resumed_from.0 as usize == start && own.len() == added && own[..common] == relayed[..common];
        if !is_same || output_root(&self.salt, &[inherited, own].concat()) != commitment.output {
            return Some(Match::Other);
        }
        let until = TokenCount(commitment.resumed_from.0 + length(&own[..common]));
        if let Some(Made { ids, log_probs, .. }) = made {
            self.made.insert(commitment.attempt, (ids, log_probs));
        }
        Some(Match::Until(until))
    }

    // The task's output as an attempt saw it end, and its own log-probability bytes.
    fn output_of(&self, commitment: &Commitment) -> Option<(Vec<u32>, Vec<u8>)> {
        let relayed = || self.ids.get(..commitment.output_tokens.0 as usize).map(<[u32]>::to_vec);
        match self.made.get(&commitment.attempt) {
            Some((ids, log_probs)) => {
                let inherited = self.ids.get(..commitment.resumed_from.0 as usize)?;
                Some(([inherited, ids].concat(), log_probs.clone()))
            }
            None => Some((relayed()?, self.log_probs.get(usize::from(commitment.attempt))?.clone())),
        }
    }

    /// The row for an attempt: the audit frame without an id, and the prover's log-probability bytes.
    pub(super) fn seal(
        &self,
        attempt: AttemptId,
        now: Timestamp,
        commitment: &Commitment,
        numerics: &str,
    ) -> Option<ol_store::Payload> {
        let (output, log_probs) = self.output_of(commitment)?;
        let audit = Audit {
            audit: AuditId([0; 16]),
            variant: commitment.variant,
            salt: self.salt,
            seed: self.seed,
            payload: self.payload.clone(),
            output,
            resumed_from: *self.resumed.get(usize::from(attempt.attempt))?,
            until: 0,
            sealed: false,
            vectors: self.vectors.clone(),
            finish: commitment.finish.to_byte(),
            tolerance_micro: 0,
            prover_numerics: numerics.to_owned(),
            deadline_ms: 0,
        };
        Some(row(attempt, now, audit, log_probs))
    }
}

/// The row of what is known of an attempt.
pub(super) fn row(attempt: AttemptId, created: Timestamp, audit: Audit, log_probs: Vec<u8>) -> ol_store::Payload {
    ol_store::Payload { attempt, created, prompt: audit.to_kept(), output: log_probs }
}

/// The row with the prompt as the referee rendered it: the content of evidence. `None` for texts that were embedded.
pub(super) fn rendered(row: ol_store::Payload, ids: Vec<u32>) -> Option<ol_store::Payload> {
    let (mut audit, log_probs) = open(&row)?;
    let generate = audit.payload.generate()?.clone();
    audit.payload = Payload::Tokens { ids, generate };
    Some(self::row(row.attempt, row.created, audit, log_probs))
}

/// What opens a commitment, from the row of its attempt once the prompt is rendered in it. `None` if it opens nothing, or is too long for a
/// record.
pub(super) fn evidence(row: &ol_store::Payload, commitment: &Commitment) -> Option<Evidence> {
    let (audit, _) = open(row)?;
    let parameters = audit.payload.parameters().ok()?;
    let Payload::Tokens { ids, .. } = audit.payload else { return None };
    let of = |template: &[u8]| Evidence {
        subject: row.attempt,
        salt: audit.salt,
        seed: Seed(audit.seed),
        template: template.to_vec(),
        parameters: parameters.clone(),
        prompt: ids.clone(),
        output: audit.output.clone(),
    };
    // Which template it was is not in the row any more, but in the digest.
    let opening = TEMPLATES.iter().map(|template| of(template)).find(|evidence| evidence.opens(commitment));
    opening.filter(Evidence::fits)
}

/// The audit frame of a row, and the prover's log-probability bytes.
pub(super) fn open(row: &ol_store::Payload) -> Option<(Audit, Vec<u8>)> {
    Some((Audit::from_kept(&row.prompt)?, row.output.clone()))
}

pub(super) fn length(ids: &[u32]) -> u32 {
    u32::try_from(ids.len()).unwrap_or(u32::MAX)
}
