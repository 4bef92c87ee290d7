//! Inference: embedded Llama and BERT, tokenizers, sampling that can be checked, scoring of what others sampled.
//!
//! The arithmetic is our own: every output of a matrix product is one chain of fused multiply-adds, so a token's
//! logits are the same bits in a batch, alone, in a prefill, and on any number of threads.

mod attention;
mod batcher;
mod bert;
mod cheat;
mod compute;
mod gguf;
mod instant;
mod kernel;
mod llama;
mod load;
mod math;
mod model;
mod quant;
mod safetensors;
mod scoring;
mod sequence;
mod task;
mod template;
mod text;
mod tiny;
mod tokenizer;
mod variant;

pub use batcher::{Options, start};
pub use cheat::Cheat;
pub use instant::Instant;
pub use load::Error as LoadError;
pub use model::{Model, NUMERICS};
pub use ol_protocol::prf::Seed;
pub use ol_protocol::sampler::Sampling;
pub use task::{
    Done, Embeddings, Engine, Error, Event, Finish, FinishReason, Flow, GenerateTask, Message, Prompt, Role, ScoreTask,
    Scores, Sink, Token,
};
pub use variant::{Kind, Variant};
