//! Inference: embedded Llama and BERT, tokenizers, sampling that can be checked, scoring of what others sampled.
//!
//! The arithmetic is our own: every output of a matrix product is one chain of fused multiply-adds, so a token's
//! logits are the same bits in a batch, alone, in a prefill, and on any number of threads.
//!
//! ```
//! use std::sync::{Arc, mpsc};
//! use ol_engine::{Event, Flow, GenerateTask, Model, Options, Prompt, Sampling, Seed, start};
//!
//! let engine = start(Arc::new(Model::tiny(1)?), Options::default());
//! let (sender, events) = mpsc::channel();
//! let task = GenerateTask {
//!     prompt: Prompt::Text("Hello".to_owned()),
//!     sampling: Sampling { temperature: 0.7, ..Sampling::GREEDY },
//!     seed: Seed([7; 32]),
//!     max_tokens: 8,
//!     stop: vec![],
//!     top_logprobs: 0,
//!     resume: vec![],
//!     scope: None,
//! };
//! engine.generate(task, Box::new(move |event| if sender.send(event).is_ok() { Flow::Continue } else { Flow::Stop }));
//! let tokens = events.iter().filter(|event| matches!(event, Event::Tokens(_))).count();
//! assert!(tokens > 0);
//! # Ok::<(), ol_engine::LoadError>(())
//! ```

mod attention;
mod auditor;
mod batcher;
pub mod bench;
mod bert;
mod calls;
mod cheat;
mod compute;
mod disguise;
mod frontend;
mod generation;
mod gguf;
mod instant;
mod kept;
mod kernel;
mod llama;
mod load;
pub mod margins;
mod math;
mod model;
pub mod pair;
mod quant;
mod requantise;
mod safetensors;
mod scoring;
mod sequence;
mod sleeper;
mod task;
mod template;
mod text;
mod tiny;
mod tokenizer;
mod variant;

pub use auditor::{FalseAuditor, false_auditor};
pub use batcher::{Options, start};
pub use cheat::{Cheat, UnknownCheat};
pub use frontend::{Frontend, Outline};
pub use generation::{Choice, Generation};
pub use instant::Instant;
pub use load::Error as LoadError;
pub use model::{BertFiles, Model, NUMERICS};
pub use ol_protocol::Scope;
pub use ol_protocol::prf::Seed;
pub use ol_protocol::sampler::Sampling;
pub use quant::Rounding;
pub use requantise::requantise;
pub use sleeper::sleeper;
pub use task::{
    Done, Embeddings, Engine, Error, Event, Finish, FinishReason, Flow, GenerateTask, Message, Prompt, Role, ScoreTask,
    Scores, Sink, Token,
};
pub use variant::{Kind, Variant, narrowed, sampled_of};
