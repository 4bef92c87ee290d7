//! What the HTTP side needs of the network behind it. HTTP parses, authenticates and limits; everything else is asked
//! here.

use bytes::Bytes;
use ol_protocol::genesis::Genesis;
use ol_protocol::parameters::{ParameterChange, Parameters};
use ol_protocol::sampler::Sampling;
use ol_protocol::tenant::TenantEntry;
use ol_protocol::tile::Tile;
use ol_protocol::top_up::TopUp;
use ol_protocol::{Digest, Epoch, MicroCredits, Micros, NodeId, Price, Region, TaskId, TenantId};
use ol_sched::{Tier, Where};
use std::collections::BTreeMap;
use tokio::sync::mpsc;

use crate::keys::Tenant;
use crate::refusal::Refusal;

/// Who speaks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions ahead of the conversation.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that requests, nodes and chat templates know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// What a task works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A conversation, rendered by the model's own template.
    Chat(Vec<Message>),
    /// Text to continue as it is.
    Text(String),
    /// Texts to turn into vectors.
    Embed(Vec<String>),
}

/// How to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct Generate {
    /// In range: validated.
    pub sampling: Sampling,
    /// Longest output; at least 1. Without it the model's context decides.
    pub max_tokens: Option<u32>,
    /// Texts that end the output; none is empty.
    pub stop: Vec<String>,
    /// Log-probabilities are wanted, with this many alternatives for each token.
    pub top_logprobs: Option<u8>,
    /// The client's choice of noise.
    pub client_seed: Option<u64>,
}

/// A task as it comes out of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Who pays.
    pub tenant: TenantId,
    /// A fresh id, which is also that of the receipt.
    pub task: TaskId,
    /// As the client names it.
    pub model: String,
    /// The only quantisation that may serve it, if one is named.
    pub quantisation: Option<String>,
    /// What to work on.
    pub payload: Payload,
    /// How to generate; `None` exactly for [`Payload::Embed`].
    pub generate: Option<Generate>,
    /// Digest of the request's body, byte for byte; not salted.
    pub request_digest: Digest,
    /// Digest of model, payload and sampling, whatever the body's spelling: equal for streamed and not.
    pub canonical: Digest,
    /// Length of the request's body.
    pub body_bytes: usize,
    /// Time from now after which the client has no use for an answer.
    pub deadline: Option<Micros>,
    /// The most the task may be charged.
    pub max_price: Option<MicroCredits>,
    /// The quote whose price is to be charged.
    pub quote: Option<String>,
    /// Whether request and answer may become public if the answer turns out to be wrong.
    pub public: bool,
    /// The least trust value, in millionths, that an answer may have; it is kept back until then.
    pub min_trust_ppm: Option<u32>,
    /// Where it is to be computed.
    pub place: Where,
    /// What is promised of its deadline.
    pub tier: Tier,
}

/// How large a request is that a quote is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Size {
    /// As it would be sent.
    Payload(Payload),
    /// So many prompt tokens, at most.
    PromptTokens(u32),
}

/// What a quote is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteRequest {
    /// Who asks, and may name it.
    pub tenant: TenantId,
    /// As the client names it.
    pub model: String,
    /// The only quantisation that may serve it, if one is named.
    pub quantisation: Option<String>,
    /// The prompt's size.
    pub size: Size,
    /// Longest output; without it as for a request.
    pub max_tokens: Option<u32>,
    /// The most that the request may be charged.
    pub max_price: Option<MicroCredits>,
    /// The least trust value, in millionths, that its answer may have.
    pub min_trust_ppm: Option<u32>,
    /// The only region that may compute it.
    pub region: Option<Region>,
}

/// A price that holds for a while, and what a request would cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// What requests name it by.
    pub id: String,
    /// As the client named it.
    pub model: String,
    /// What computes it.
    pub variant: String,
    /// The only region that may compute it, if one was named.
    pub region: Option<String>,
    /// How its weights are stored.
    pub quantisation: String,
    /// What stands behind its answers.
    pub assurance: &'static str,
    /// What is charged.
    pub price: Price,
    /// With an audit in it, if the answer may have to wait for one.
    pub price_with_audit: Option<Price>,
    /// Bound on prompt tokens.
    pub prompt_tokens_max: u32,
    /// Bound on output tokens.
    pub output_tokens_max: u32,
    /// What it costs at most.
    pub worst_case: MicroCredits,
    /// Prompt tokens to be expected.
    pub expected_prompt_tokens: u32,
    /// Output tokens to be expected: how long answers of the variant are in the mean.
    pub expected_output_tokens: u32,
    /// What it costs with these.
    pub expected: MicroCredits,
    /// Until when the price holds, in seconds since 1970-01-01 UTC.
    pub expires_at: u64,
}

/// A task that was taken on. Dropping it closes the channel, which cancels the task.
#[derive(Debug)]
pub struct Running {
    /// The task.
    pub task: TaskId,
    /// `Started`, any number of `Delta`s, then `Finished` or `Failed`; after a `Finished` that waits, `Released` or `Failed`. A closed channel without
    /// these is a failure.
    pub events: mpsc::Receiver<Reply>,
}

/// One event of a running task.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// A node works on it.
    Started {
        /// Tokens of the rendered prompt.
        prompt_tokens: u32,
        /// The node.
        node: String,
        /// Where it is.
        region: String,
    },
    /// More text.
    Delta {
        /// Whole characters; may be empty while a stop string is being ruled out.
        text: String,
        /// Tokens behind it.
        count: u32,
        /// Of each token, if asked for.
        logprobs: Vec<TokenLogProb>,
    },
    /// The answer is complete.
    Finished(Box<Finished>),
    /// The audit that the answer waited for passed.
    Released,
    /// There will be no more.
    Failed(Refusal),
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogProb {
    /// Its text.
    pub text: String,
    /// In nats.
    pub log_prob: f32,
    /// The likeliest tokens of this step, likeliest first.
    pub top: Vec<(String, f32)>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// By the model, by a stop string, or because all vectors are there.
    Stop,
    /// By a limit.
    Length,
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Why it ended.
    pub reason: Reason,
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// Those of them that the node had from an earlier task, as it says. They are charged as all are.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// What the tenant pays.
    pub charge: MicroCredits,
    /// At which price.
    pub price: Price,
    /// The node that finished it.
    pub node: String,
    /// Where that node is.
    pub region: String,
    /// How many nodes worked on it.
    pub attempts: u32,
    /// Whether the client gets it only after [`Reply::Released`].
    pub waits: bool,
    /// How far the answer is trusted, 0 to 1: if it waits, once its audit has passed.
    pub trust: f64,
    /// What stands behind the answer: `seeded`, `greedy`, `redundant` or `none`.
    pub assurance: &'static str,
    /// One vector for each text of an embedding task; else empty.
    pub vectors: Vec<Vec<f32>>,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Conversations and text.
    Generate,
    /// Vectors.
    Embed,
}

/// A model on offer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// As requests name it.
    pub id: String,
    /// Seconds since 1970-01-01 UTC.
    pub created: u64,
    /// Who published it.
    pub owned_by: String,
    /// Longest prompt and output together.
    pub context_tokens: u32,
    /// How its weights are stored.
    pub quantisation: String,
    /// What stands behind its answers.
    pub assurance: &'static str,
    /// What it costs.
    pub price: Price,
    /// What it costs where requests are bound to a region, if not the same.
    pub region_prices: BTreeMap<String, Price>,
    /// Nodes that serve it, by the region that they say they stand in.
    pub regions: BTreeMap<String, u32>,
    /// What it is for.
    pub work: Work,
}

/// What is known of a receipt.
#[derive(Debug, Clone, PartialEq)]
pub enum ReceiptState {
    /// No such task of this tenant.
    Unknown,
    /// No such task, or one from before the log's beginning was pruned.
    Pruned,
    /// The task's batch is not signed and stored yet.
    Pending,
    /// It is in the log.
    Ready {
        /// The receipt with its proof.
        receipt: serde_json::Value,
        /// How far the result can be trusted now, and why; null while that can't be said.
        trust: serde_json::Value,
    },
}

/// How the network behind is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The process does its work; if not, it is to be restarted.
    pub live: bool,
    /// Requests are welcome.
    pub ready: bool,
    /// Nodes connected.
    pub nodes: u32,
    /// Why it is not live or not ready.
    pub reason: Option<String>,
}

/// What a client was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseDigest {
    /// Digest over the body's bytes as far as they were handed to the socket; not salted.
    pub digest: Digest,
    /// How many they were.
    pub body_bytes: usize,
    /// The body was handed over to its end; if not, the client left early.
    pub complete: bool,
}

/// A file of the public log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFile {
    /// The latest checkpoint.
    Checkpoint,
    /// A tile under it.
    Tile(Tile),
}

/// Whose gateway this is, and what holds in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInfo {
    /// The first record of the log.
    pub genesis: Genesis,
    /// The open epoch.
    pub epoch: Epoch,
    /// What will hold once all changes that wait have come into force.
    pub parameters: Parameters,
}

/// What issuer or owner signed. Nothing of it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// Money for a tenant.
    TopUp(TopUp),
    /// Other parameters.
    Parameters(ParameterChange),
    /// Who may ask.
    Tenant(TenantEntry),
}

/// The network behind the HTTP side.
pub trait Backend: Send + Sync + 'static {
    /// Takes on a task, or says why not. Dropping the future withdraws it.
    fn submit(&self, submission: Submission) -> impl Future<Output = Result<Running, Refusal>> + Send;

    /// Whose gateway this is.
    fn network(&self) -> NetworkInfo;

    /// The models on offer.
    fn models(&self) -> Vec<ModelInfo>;

    /// What is known of a tenant's receipt.
    fn receipt(&self, tenant: TenantId, task: TaskId) -> impl Future<Output = ReceiptState> + Send;

    /// Lets a tenant's private request become public, if its answer was refuted: whether there is anything that is not public yet.
    fn publish(&self, tenant: TenantId, task: TaskId) -> impl Future<Output = bool> + Send;

    /// What a request would cost, at a price that holds for a while.
    fn quote(&self, asked: QuoteRequest) -> impl Future<Output = Result<Quote, Refusal>> + Send;

    /// What was decided about a task, of this tenant or for the operator of any.
    fn why_task(
        &self,
        tenant: Option<TenantId>,
        task: TaskId,
    ) -> impl Future<Output = Result<serde_json::Value, Refusal>> + Send;

    /// What was decided about a node, for the operator.
    fn why_node(&self, node: NodeId) -> impl Future<Output = Result<serde_json::Value, Refusal>> + Send;

    /// Whether this key is that of the gateway's operator.
    fn is_operator(&self, key: &str) -> bool;

    /// Whose key this is. Must compare digests only: see [`crate::keys::ApiKeys`].
    fn authenticate(&self, key: &str) -> Option<Tenant>;

    /// How it is.
    fn health(&self) -> Health;

    /// Its metrics as Prometheus text.
    fn metrics(&self) -> String;

    /// A file of the log, if there is such a one under the latest checkpoint.
    fn log(&self, file: LogFile) -> impl Future<Output = Result<Option<Bytes>, Refusal>> + Send;

    /// Carries an instruction out, once its signature is checked; on the disk when it returns.
    fn instruct(&self, instruction: Instruction) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Called once for every task taken on, when its response has ended or its client has left. Must not block.
    fn closed(&self, task: TaskId, response: ResponseDigest);
}
