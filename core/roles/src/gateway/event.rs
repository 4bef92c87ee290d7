//! What can happen to a gateway, and what it wants done. Ids, sizes and digests only, never payload.

use crate::node::FailCode;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use ol_ledger::Summary;
use ol_protocol::batch::{BatchHeader, VerifiedBatch};
use ol_protocol::calibration::Calibration;
use ol_protocol::commitment::{Commitment, Finish};
use ol_protocol::evidence::Evidence;
use ol_protocol::key::Signature;
use ol_protocol::parameters::{EscrowRule, ParameterChange};
use ol_protocol::receipt::Receipt;
use ol_protocol::record::{AttemptId, AuditOutcome, Record};
use ol_protocol::seal::{PANEL, Seal};
use ol_protocol::top_up::{Funded, Slice};
use ol_protocol::variant::Assurance;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{
    AuditId, Digest, Epoch, MicroCredits, Micros, NodeId, OperatorId, Price, Region, TaskId, TenantId, TokenCount,
    VariantId,
};
use ol_sched::{Gate, Passed, Prefix, Tier, Want, Where};
use ol_trust::Standing;

/// A request that waits for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The task; its receipt has the same id.
    pub task: TaskId,
    /// Who pays.
    pub tenant: TenantId,
    /// What may compute it. One variant: a policy that admits several is several attempts to find one.
    pub variant: VariantId,
    /// Bound on prompt tokens, from the request's bytes.
    pub prompt_tokens_max: TokenCount,
    /// Bound on output tokens; 0 for embeddings.
    pub output_tokens_max: TokenCount,
    /// The posted price, or the one that a quote holds.
    pub price: Price,
    /// The most that the tenant pays, if it says so.
    pub max_price: Option<MicroCredits>,
    /// Time left for the whole answer.
    pub deadline: Micros,
    /// Salted digest of the request's bytes.
    pub request: Digest,
    /// Whether the tenant lets the content become public if the result is refuted.
    pub public: bool,
    /// How far the answer has to be trusted, if the tenant says so: it is kept back until then.
    pub floor: Option<TrustFloor>,
    /// Where it is to be computed.
    pub place: Where,
    /// What is promised of its deadline.
    pub tier: Tier,
    /// Beginnings of the conversation that may have been answered before, the shortest first; the last is all of it. Of other work none.
    pub prefixes: Vec<Prefix>,
}

impl Submission {
    /// What it needs of a node for certain.
    pub const fn want(&self) -> Want {
        Want { variant: self.variant, region: self.place.bound() }
    }
}

/// How far an answer has to be trusted before its client gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustFloor {
    /// The least trust value, in millionths.
    pub value_ppm: u32,
    /// How strongly the variant's results can be checked.
    pub assurance: Assurance,
}

/// What a node commits to, held against what was relayed of the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// What was relayed, or what the node made, is not known here.
    Unknown,
    /// The output is what was relayed, as far as this many of the task's tokens.
    Until(TokenCount),
    /// The output is something else.
    Other,
}

/// What can happen to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A node's link is up and its certificate holds.
    NodeJoined {
        /// The node.
        node: NodeId,
        /// Its owner.
        operator: OperatorId,
        /// Whether it is the network's own scorer, which gets audits only.
        referee: bool,
        /// What it serves.
        variants: Vec<VariantId>,
        /// Where it says that it stands.
        region: Option<Region>,
    },
    /// A node's link is gone.
    NodeLeft {
        /// Which.
        node: NodeId,
    },
    /// A node takes nothing new.
    NodeDraining {
        /// Which.
        node: NodeId,
    },
    /// A node renewed its grant.
    Granted {
        /// Which.
        node: NodeId,
        /// For what.
        variant: VariantId,
        /// Attempts that may be sent on this link in all.
        total: u64,
    },
    /// A node wants slots back that were not used.
    Withdrawn {
        /// Which.
        node: NodeId,
        /// For what.
        variant: VariantId,
        /// Attempts that may be sent on this link in all, but for those that were.
        total: u64,
    },
    /// A ping's answer.
    RoundTrip {
        /// Which node.
        node: NodeId,
        /// How long it took.
        took: Micros,
    },
    /// A request came in.
    Submitted(Submission),
    /// A node tokenised a prompt.
    Started {
        /// Which node.
        node: NodeId,
        /// Which attempt.
        attempt: AttemptId,
        /// Template included.
        prompt_tokens: TokenCount,
        /// How many of them it need not compute, as it says: nobody can check that, and nothing is charged by it.
        resident_tokens: TokenCount,
    },
    /// A frame of tokens came.
    Progress {
        /// Which node.
        node: NodeId,
        /// Which attempt.
        attempt: AttemptId,
        /// Output tokens of the task so far, as the node says.
        count: TokenCount,
        /// Token ids that were in the frame.
        added: TokenCount,
    },
    /// A node is done with an attempt.
    Done {
        /// Which node.
        node: NodeId,
        /// What it will sign.
        commitment: Commitment,
        /// The gateway's own output root over what was relayed.
        relayed: Digest,
    },
    /// A node turned an attempt down or gave it up.
    Failed {
        /// Which node.
        node: NodeId,
        /// Which attempt.
        attempt: AttemptId,
        /// Why.
        code: FailCode,
    },
    /// The client closed its connection.
    ClientGone {
        /// Which task.
        task: TaskId,
    },
    /// The response is out, with this salted digest.
    Responded {
        /// Which task.
        task: TaskId,
        /// Over the response's bytes.
        response: Digest,
    },
    /// A node's batch, every check of which held, with the orders that came back with it.
    Batch {
        /// The batch.
        batch: VerifiedBatch,
        /// Sealed orders, one a commitment.
        orders: Vec<Vec<u8>>,
        /// What was relayed, held against each commitment to an attempt that broke off.
        matches: Vec<Match>,
    },
    /// Entries of [`Output::Append`] up to this number are on disk.
    Durable {
        /// The number.
        append: u64,
    },
    /// An auditor's verdict, its signature checked.
    Verdict {
        /// Who sent it.
        node: NodeId,
        /// What it says.
        verdict: Verdict,
        /// Whether its log-probabilities agree with the prover's.
        agrees: bool,
    },
    /// A panel's member has fixed its verdict; its signature was checked.
    Sealed {
        /// Who.
        node: NodeId,
        /// What it sealed.
        seal: Seal,
    },
    /// An auditor gave an audit up.
    AuditRefused {
        /// Who.
        node: NodeId,
        /// Which.
        audit: AuditId,
    },
    /// What has to be audited is not here any more.
    PayloadLost {
        /// The audit.
        audit: AuditId,
    },
    /// Money of the issuer, its signature checked by the ledger.
    TopUp(Slice),
    /// [`Output::Claim`] brought nothing: the owner's gateways have everything that the issuer sold, or nobody can say
    /// now.
    NoFunds {
        /// Whose.
        tenant: TenantId,
        /// Whether it may be otherwise in a moment.
        is_unknown: bool,
    },
    /// The issuer changed parameters.
    Change(ParameterChange),
    /// The referee measured what honest answers look like; its signature was checked.
    Calibrated(Box<Calibration>),
    /// What [`Output::Open`] asked for: the tenant lets it be public.
    Evidence(Evidence),
    /// A tenant lets its request become public after all: what of it was refuted is evidence.
    Published {
        /// Who.
        tenant: TenantId,
        /// Which.
        task: TaskId,
    },
    /// A node broke the protocol: its link is closed by the driver.
    Misbehaved {
        /// Which.
        node: NodeId,
    },
    /// Time passed.
    Tick,
}

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A gate that waiting may open: nobody has a free slot, the queue is full.
    Busy(Vec<Gate>),
    /// A gate that waiting won't open: no node has the variant, the context is too small.
    Impossible(Vec<Gate>),
    /// The tenant's budget is too small for the worst case.
    Budget(Gate),
    /// The deadline passed.
    Deadline,
    /// Every attempt failed.
    Attempts {
        /// How many there were.
        attempts: u8,
        /// Whether output was delivered, and is charged once its nodes have signed.
        delivered: TokenCount,
    },
    /// A node says that no node can serve the request.
    Invalid,
    /// The answer was kept back for its audit, and is not to be had.
    Unconfirmed {
        /// Whether the audit failed: then nothing is charged. Else it did not end in time, and the charge stands until it does.
        failed: bool,
    },
}

impl Refusal {
    /// Its name for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Busy(_) => "busy",
            Self::Impossible(_) => "impossible",
            Self::Budget(_) => "budget",
            Self::Deadline => "deadline",
            Self::Attempts { .. } => "attempts",
            Self::Invalid => "invalid",
            Self::Unconfirmed { .. } => "unconfirmed",
        }
    }

    /// The gates that it names.
    pub fn gates(&self) -> Vec<Gate> {
        match self {
            Self::Busy(gates) | Self::Impossible(gates) => gates.clone(),
            Self::Budget(gate) => vec![*gate],
            Self::Attempts { attempts, .. } => vec![Gate::AttemptsSpent { attempts: *attempts }],
            Self::Deadline | Self::Invalid | Self::Unconfirmed { .. } => Vec::new(),
        }
    }
}

/// How a task ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The node of the last attempt.
    pub node: NodeId,
    /// Which of its attempts gave the answer.
    pub attempt: u8,
    /// How many attempts it took.
    pub attempts: u8,
    /// Why the text ended.
    pub finish: Finish,
    /// Prompt tokens charged.
    pub prompt_tokens: TokenCount,
    /// Prompt tokens that its node did not have to compute, as it says.
    pub resident_tokens: TokenCount,
    /// Output tokens charged.
    pub output_tokens: TokenCount,
    /// What it costs.
    pub charge: MicroCredits,
    /// At which price.
    pub price: Price,
    /// Whether the client has to wait for the answer's audit: [`Output::Release`] gives it, or [`Output::Refuse`] refuses it.
    pub waits: bool,
    /// What is known of the node in the variant, for the trust value.
    pub standing: Standing,
    /// Whether anyone measured what honest answers of the variant look like; else audits say nothing.
    pub is_calibrated: bool,
}

/// An entry for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// As it stands.
    Record(Record),
    /// Receipts, and the batch that the driver countersigns over their root.
    Batch {
        /// What the node signed.
        header: BatchHeader,
        /// Its signature.
        signature: Signature,
        /// In the batch's order.
        receipts: Vec<Receipt>,
        /// Over the receipts.
        receipts_root: Digest,
    },
}

/// What a gateway wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Welcome a node that joined.
    Welcome {
        /// Which.
        node: NodeId,
        /// The next batch that is expected of it.
        next_batch: u64,
        /// The open epoch.
        epoch: Epoch,
        /// For how long pay is held now.
        held: EscrowRule,
    },
    /// Send an attempt to a node.
    Assign {
        /// Which node.
        node: NodeId,
        /// Which attempt.
        attempt: AttemptId,
        /// What computes it.
        variant: VariantId,
        /// The open epoch.
        epoch: Epoch,
        /// Output tokens that are delivered already.
        resumed_from: TokenCount,
        /// The sealed order.
        order: Vec<u8>,
        /// Time left.
        deadline: Micros,
    },
    /// Take an attempt back.
    Cancel {
        /// From which node.
        node: NodeId,
        /// Which.
        attempt: AttemptId,
        /// Whether it is paid though it added nothing, so that the node is to commit to it.
        is_paid: bool,
    },
    /// Pass the frame just taken on to the client.
    Relay {
        /// Which attempt.
        attempt: AttemptId,
        /// Output tokens of the task so far, this frame's included.
        count: TokenCount,
    },
    /// The task ended well.
    Finish {
        /// Which.
        task: TaskId,
        /// How.
        finished: Finished,
    },
    /// Ask for a task of the network's own, with [`Input::Submitted`]: by [`Genesis::own_tenant`], public, with the settings of the one just answered and another
    /// prompt.
    ///
    /// [`Genesis::own_tenant`]: ol_protocol::genesis::Genesis::own_tenant
    Own {
        /// Like which.
        like: TaskId,
        /// What computes it.
        variant: VariantId,
    },
    /// The audit that an answer waited for passed: its client gets it.
    Release {
        /// Which.
        task: TaskId,
    },
    /// The task ends without an answer, or in the middle of one; or an answer that was kept back is never given.
    Refuse {
        /// Which.
        task: TaskId,
        /// Why.
        refusal: Refusal,
        /// The gates that it passed before.
        passed: Vec<Passed>,
        /// The gates that it did not pass.
        failed: Vec<Gate>,
    },
    /// Nobody asks for this task any more: its payload can go, unless an audit needs it.
    Forget {
        /// Which.
        task: TaskId,
    },
    /// Put entries in the log, in this order, all or nothing; answered by [`Input::Durable`].
    Append {
        /// Counts up.
        append: u64,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// Tell a node that its batch is on disk.
    Ack {
        /// Which node.
        node: NodeId,
        /// The batch's number.
        sequence: u64,
    },
    /// Send an audit's content to an auditor.
    Audit {
        /// The auditor.
        auditor: NodeId,
        /// The audit.
        audit: AuditId,
        /// What is audited.
        subject: AttemptId,
        /// Whose work it is, if its output is what was relayed: then it may give the content back.
        prover: Option<NodeId>,
        /// At which level.
        level: Level,
        /// The variant that scores it: the subject's own, or one that is calibrated for it.
        variant: VariantId,
        /// Within so many millionths of a nat of a truncation's boundary, a token counts as the prover needs it.
        tolerance_micro: u32,
        /// How far the bytes of honest log-probabilities lie apart.
        log_prob_steps: u8,
        /// How many of the attempt's output tokens are scored, from the first on.
        reach: TokenCount,
    },
    /// Tell a node that its slots are its own again.
    Withdrawn {
        /// Which node.
        node: NodeId,
        /// For what.
        variant: VariantId,
    },
    /// Ask a panel's member for the verdict that it sealed, answered by [`Input::Verdict`].
    Unseal {
        /// Whom.
        auditor: NodeId,
        /// The audit.
        audit: AuditId,
        /// All of the panel's, which are in the log.
        seals: Box<[Seal; PANEL]>,
    },
    /// An audit ended.
    Audited {
        /// What was audited.
        subject: AttemptId,
        /// Whose work it was.
        node: NodeId,
        /// What came of it.
        outcome: AuditOutcome,
        /// Whether it is final, and for the node.
        passed: Option<bool>,
    },
    /// Give the content of an attempt that the referee refuted, if its tenant lets it be public; answered by [`Input::Evidence`].
    Open {
        /// Which attempt.
        subject: AttemptId,
        /// What the node committed to.
        commitment: Commitment,
    },
    /// An epoch was settled; its close is the last entry of the append before.
    Closed {
        /// What was settled.
        summary: Summary,
        /// Accounts after it.
        state: Digest,
        /// Seals of the next epoch's draw and nonce secrets.
        seals: (Digest, Digest),
        /// To restart from; not at every close (docs/adr/0035).
        snapshot: Option<Vec<u8>>,
    },
    /// Take a part of a tenant's top-ups for this gateway: this much, or what there is; answered by [`Input::TopUp`] or
    /// [`Input::NoFunds`].
    Claim {
        /// Whose.
        tenant: TenantId,
        /// How much.
        amount: MicroCredits,
        /// How far they are booked here: a part beyond was taken before, and lost on its way.
        booked: Option<Funded>,
    },
    /// An order of the issuer was refused.
    Denied {
        /// Why.
        error: ol_ledger::Error,
    },
    /// Close a node's link.
    Close {
        /// Which.
        node: NodeId,
        /// Why, in words.
        why: &'static str,
    },
}
