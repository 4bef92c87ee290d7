//! What others send the gateway's loop, and what it tells whoever watches.

use super::instruct::Told;
use crate::backend::Reply;
use ol_net::frame::{self, Hello};
use ol_net::{Down, Sender, Up};
use ol_protocol::certificate::Certificate;
use ol_protocol::commitment::Commitment;
use ol_protocol::parameters::ParameterChange;
use ol_protocol::record::AttemptId;
use ol_protocol::top_up::{Slice, TopUp};
use ol_protocol::variant::Assurance;
use ol_protocol::{AuditId, Digest, NodeId, Salt, Scope, TaskId, TenantId, TokenCount, VariantId};
use ol_roles::gateway::event::Submission;
use ol_store::{Appended, NodeBatch, Payload};
use ol_trust::Standing;
use tokio::sync::{mpsc, oneshot};

/// A request on its way to the machine.
pub struct New {
    pub(super) submission: Submission,
    pub(super) assurance: Assurance,
    /// The quote that it named, for its receipt.
    pub(super) quote: Option<serde_json::Value>,
    pub(super) payload: frame::Payload,
    pub(super) salt: Salt,
    pub(super) scope: Scope,
    pub(super) seed: [u8; 32],
    pub(super) replies: mpsc::Sender<Reply>,
}

/// A look at the machine. It holds the loop up: no more than a walk over what is in memory.
pub(super) type Look = Box<dyn FnOnce(&ol_roles::Gateway) + Send>;

/// What others send the gateway's loop.
pub enum Message {
    /// A node's hello was accepted.
    Joined {
        /// Its key.
        node: NodeId,
        /// Which of its links.
        generation: u64,
        /// Where frames to it go.
        sender: Sender<Down>,
        /// Its operator's word.
        certificate: Box<Certificate>,
        /// What it said.
        hello: Box<Hello>,
    },
    /// What may be evidence against a node.
    Opened {
        /// What it committed to.
        commitment: Box<Commitment>,
        /// The content.
        row: Result<Option<Payload>, ol_store::Error>,
    },
    /// A node's link is gone.
    Left {
        /// Its key.
        node: NodeId,
        /// Which of its links.
        generation: u64,
    },
    /// A frame of a node.
    Frame {
        /// Its key.
        node: NodeId,
        /// Which of its links.
        generation: u64,
        /// The frame.
        frame: Up,
    },
    /// A request.
    Submit(Box<New>),
    /// A response is out, or its client gone.
    Responded {
        /// Which task.
        task: TaskId,
        /// Over the bytes that were sent.
        digest: Digest,
        /// Whether the client took it all.
        complete: bool,
    },
    /// The committer's answer.
    Committed(Result<Appended, ol_store::Error>),
    /// Try the failed commit again.
    Retry,
    /// Measure round trips.
    Ping,
    /// All of a top-up to take.
    TopUp {
        /// The issuer's word.
        top_up: Box<TopUp>,
        /// What became of it.
        answer: Told,
    },
    /// A change of parameters.
    Change {
        /// The issuer's word.
        change: Box<ParameterChange>,
        /// What became of it.
        answer: Told,
    },
    /// What an auditor is to be sent, from the store.
    Evidence {
        /// Who is to audit.
        auditor: NodeId,
        /// What for.
        audit: AuditId,
        /// How it is to be scored.
        how: Scoring,
        /// The payload; an error if it can't be asked for now.
        row: Result<Option<Payload>, ol_store::Error>,
    },
    /// A node had its time to give what was asked of it.
    RecallDue {
        /// For which audit.
        audit: AuditId,
        /// Of which attempt.
        subject: AttemptId,
    },
    /// A batch that a node sent again, from the store.
    Found {
        /// Whose.
        node: NodeId,
        /// On which of its links.
        generation: u64,
        /// Its number.
        sequence: u64,
        /// The batch; an error if it can't be asked for now.
        batch: Box<Result<Option<NodeBatch>, ol_store::Error>>,
    },
    /// What a claim brought.
    Claimed {
        /// Whose money.
        tenant: TenantId,
        /// A part of it.
        result: Result<Option<Slice>, ol_store::Error>,
    },
    /// Whether a task without a receipt is under way.
    IsKnown {
        /// Who asks.
        tenant: TenantId,
        /// What for.
        task: TaskId,
        /// The answer.
        answer: oneshot::Sender<bool>,
    },
    /// A tenant lets its request become public.
    Publish {
        /// Who.
        tenant: TenantId,
        /// Which.
        task: TaskId,
        /// Whether anything of it is refuted, and not public yet.
        answer: oneshot::Sender<bool>,
    },
    /// A look at the machine once it has taken all inputs.
    Look(Look),
    /// What audits found of a node in a variant.
    Standing {
        /// The node.
        node: NodeId,
        /// The variant.
        variant: VariantId,
        /// The answer.
        answer: oneshot::Sender<Known>,
    },
    /// Take no new requests, tell the nodes, and end when everything is answered and on disk.
    Drain,
}

/// What is known of a node in a variant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// By its audits.
    pub standing: Standing,
    /// Whether anyone measured what honest answers of the variant look like; else audits say nothing.
    pub is_calibrated: bool,
}

/// What is to be audited, and how it is to be scored.
#[derive(Debug, Clone, Copy)]
pub struct Scoring {
    /// The attempt.
    pub subject: AttemptId,
    /// Whose work it is, if it may give its content back.
    pub prover: Option<NodeId>,
    /// With which variant.
    pub variant: VariantId,
    /// Within so many millionths of a nat of a truncation's boundary, a token counts as the prover needs it.
    pub tolerance_micro: u32,
    /// How far the bytes of honest log-probabilities lie apart.
    pub log_prob_steps: u8,
    /// How many of the attempt's output tokens are scored.
    pub reach: TokenCount,
    /// Whether the verdict is sealed first.
    pub sealed: bool,
}

/// News for whoever watches: `up`, tests.
#[derive(Debug, Clone)]
pub enum News {
    /// A node joined.
    Joined(NodeId),
    /// An audit ended.
    Audited {
        /// Whose work it was.
        node: NodeId,
        /// The attempt.
        subject: AttemptId,
        /// Whether it passed; `None` if it could not be held.
        passed: Option<bool>,
        /// Tokens that were scored.
        tokens: u32,
    },
    /// An epoch was settled and is final.
    Closed {
        /// The figures.
        summary: ol_ledger::Summary,
    },
}
