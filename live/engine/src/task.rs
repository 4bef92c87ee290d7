//! Tasks, their results, and the trait that everything else codes against.

use std::sync::Arc;

use ol_protocol::Scope;
use ol_protocol::prf::Seed;
use ol_protocol::sampler::{self, Sampling};
use thiserror::Error;

use crate::variant::{Kind, Variant};

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions ahead of the conversation.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that chat templates know.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// What a model continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, rendered by the model's own template.
    Chat(Vec<Message>),
    /// Plain text.
    Text(String),
    /// Token ids, used as they are.
    Tokens(Vec<u32>),
}

/// A text to generate.
#[derive(Clone, Debug)]
pub struct GenerateTask {
    /// What to continue.
    pub prompt: Prompt,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// The noise behind the choice.
    pub seed: Seed,
    /// Longest output, end-of-text token included.
    pub max_tokens: u32,
    /// Texts that end the output; they are not delivered.
    pub stop: Vec<String>,
    /// Number of likeliest tokens to report at every step.
    pub top_logprobs: u8,
    /// Output ids that an earlier attempt delivered: sampling continues at step `resume.len()`.
    pub resume: Vec<u32>,
    /// Whose earlier tasks may have left something of the prompt behind, and whose later ones may use what this one leaves; without it nothing
    /// is used and nothing kept. The answer is the same.
    pub scope: Option<Scope>,
}

/// One output token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id. The end-of-text token is an output id like any other; its text is empty.
    pub id: u32,
    /// Text that becomes safe to deliver with it: whole characters, never part of a possible stop string. A function
    /// of all output ids so far, so that a resumed attempt goes on exactly where the earlier one ended.
    pub text: String,
    /// Raw log-softmax, in nats.
    pub log_prob: f32,
    /// The same as a receipt holds it.
    pub log_prob_byte: u8,
    /// The likeliest tokens of this step: id, text, log-probability.
    pub top: Vec<(u32, String, f32)>,
}

/// Why an output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model gave an end-of-text token.
    Stop,
    /// A stop string is complete.
    StopString,
    /// `max_tokens` are there.
    Length,
}

/// The end of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// Text held back until now, still to be delivered.
    pub text: String,
    /// Rendered prompt, with what the template adds.
    pub prompt_tokens: u32,
    /// All output ids: resumed ones and the end-of-text token included.
    pub output_tokens: u32,
}

/// What a generation reports, in this order: `Started`, any number of `Tokens`, then `Finished` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The task has a slot and its prompt is tokenised.
    Started {
        /// The rendered prompt.
        prompt_ids: Arc<[u32]>,
        /// Tokens of it that need not be computed, as an earlier task left them.
        resident_tokens: u32,
    },
    /// Next tokens.
    Tokens(Vec<Token>),
    /// The output is complete.
    Finished(Finish),
    /// There will be no more output.
    Failed(Error),
}

/// What the receiver of an event wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// More events.
    Continue,
    /// Nothing more: the task is dropped without a further event.
    Stop,
}

/// An output to check: what was asked, what came, and how it was to be chosen.
#[derive(Clone, Debug)]
pub struct ScoreTask {
    /// As in the generation.
    pub prompt: Prompt,
    /// All output ids, the end-of-text token included.
    pub output: Vec<u32>,
    /// As in the generation.
    pub sampling: Sampling,
    /// As in the generation.
    pub seed: Seed,
    /// As in the generation.
    pub stop: Vec<String>,
    /// As in the generation.
    pub max_tokens: u32,
    /// Nats within which a truncation boundary favours the prover.
    pub tolerance: f32,
    /// The claimed end.
    pub finish: FinishReason,
    /// Output ids to check, from the first on: all where there are fewer. What comes after them is only held against the claimed end.
    pub until: usize,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The rendered prompt.
    pub prompt_ids: Vec<u32>,
    /// For each checked token, how far in nats it is from being the one to choose.
    pub margins: Vec<f32>,
    /// For each checked token, the checker's own log-probability byte.
    pub log_prob_bytes: Vec<u8>,
    /// The claimed end holds: end-of-text, stop string or length exactly at the last token and not before.
    pub finish_fits: bool,
}

/// Vectors of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// One vector of length 1 for each text.
    pub vectors: Vec<Vec<f32>>,
    /// Of all texts together.
    pub prompt_tokens: u32,
    /// Token ids of each text.
    pub tokens: Vec<Vec<u32>>,
}

/// Why a task was refused or ended early.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Error {
    /// Prompt and output don't fit the model's context.
    #[error("{prompt_tokens} prompt tokens and {max_tokens} output tokens exceed the context of {context_tokens}")]
    TooLong {
        /// Tokens of the rendered prompt.
        prompt_tokens: u32,
        /// Longest output asked for.
        max_tokens: u32,
        /// What the model can hold.
        context_tokens: u32,
    },
    /// Nothing to work on.
    #[error("nothing to work on: no prompt, no text or no output")]
    Empty,
    /// A token id the model doesn't have.
    #[error("token id {id} of a vocabulary of {vocabulary}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Number of ids.
        vocabulary: u32,
    },
    /// The model does something else.
    #[error("a model of kind {kind:?} can't do this task")]
    WrongKind {
        /// What the model does.
        kind: Kind,
    },
    /// Settings out of range.
    #[error("bad sampling settings")]
    Sampling(#[from] sampler::Error),
    /// The model's chat template refuses the conversation.
    #[error("the model's chat template refuses the conversation: {detail}")]
    Template {
        /// The template's words.
        detail: String,
    },
    /// The text can't be tokenised.
    #[error("the text can't be tokenised")]
    Tokenise,
    /// Too many tasks wait.
    #[error("{waiting} tasks wait already")]
    Busy {
        /// Tasks waiting.
        waiting: u32,
    },
    /// The engine generates only.
    #[error("this engine can't check outputs")]
    CannotScore,
    /// What computes for this engine is gone, or gives nothing to go on with.
    #[error("the server that computes for this engine failed")]
    Server,
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

/// Receives the events of a generation, on the engine's thread, or the caller's if refused at once; must return quickly.
pub type Sink = Box<dyn FnMut(Event) -> Flow + Send>;
/// Receives one result, on the engine's thread, or the caller's if refused at once; must return quickly.
pub type Done<T> = Box<dyn FnOnce(Result<T, Error>) + Send>;

/// A model at work. All calls return at once; results arrive through the callbacks.
pub trait Engine: Send + Sync {
    /// What answers.
    fn variant(&self) -> &Variant;
    /// Generations that run at the same time.
    fn slots(&self) -> u32;
    /// Generates a text.
    fn generate(&self, task: GenerateTask, sink: Sink);
    /// Checks an output, at low priority.
    fn score(&self, task: ScoreTask, done: Done<Scores>);
    /// Computes vectors of texts.
    fn embed(&self, texts: Vec<String>, done: Done<Embeddings>);
}
