//! Honest margins: how far from 0 they are when the engine checks what it generated itself.

use std::sync::Arc;

use ol_protocol::prf::Seed;
use ol_protocol::sampler::Sampling;
use serde::Serialize;

use crate::batcher::{Options, start};
use crate::calls::{Pending, begin, score};
use crate::model::Model;
use crate::task::{Error, GenerateTask, Message, Prompt, Role, ScoreTask};

/// Generations at the same time.
const SLOTS: u32 = 8;
/// Longest output of one task.
const TOKENS_MAX: u32 = 192;
/// Margin over which an audit fails, in nats.
const LIMIT: f32 = 0.05;
/// What the prompts are about: instructions, questions, code, other languages, numbers.
const PROMPTS: [&str; 12] = [
    "Write a short story about a lighthouse keeper who finds a letter.",
    "Explain why the sky is blue to a child.",
    "List ten uses of a paper clip.",
    "Write a Python function that returns the n-th Fibonacci number, with a test.",
    "Translate into French: The train to Lyon leaves at 7:45 from platform 3.",
    "What are the advantages and disadvantages of nuclear power?",
    "Erzähle mir etwas über die Geschichte von Köln.",
    "Compute 17 * 23 step by step, then 391 / 17.",
    "Give me a recipe for lentil soup for four people.",
    "Summarise the plot of Hamlet in five sentences.",
    "Write an e-mail that asks a landlord to repair the heating.",
    "请介绍一下长城。",
];

/// Distribution of honest margins.
#[derive(Clone, Debug, Serialize)]
pub struct Distribution {
    /// Public model id.
    pub model: String,
    /// Arithmetic of both sides.
    pub numerics: String,
    /// Tokens checked.
    pub tokens: u64,
    /// Answers checked.
    pub answers: u64,
    /// Largest margin, in nats.
    pub max_nats: f32,
    /// Tokens with a margin that is not exactly 0.
    pub not_zero: u64,
    /// Tokens over the limit of 0.05 nats.
    pub over_limit: u64,
    /// Quantiles of all margins, in nats: 0.5, 0.99, 0.999, 0.9999.
    pub quantiles_nats: [f32; 4],
    /// Log-probability bytes that differ between generation and check.
    pub bytes_differing: u64,
    /// Answers whose end the check did not confirm.
    pub ends_differing: u64,
}

fn task(case: u32) -> GenerateTask {
    let content = PROMPTS[case as usize % PROMPTS.len()].to_owned();
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&case.to_le_bytes());
    let index = case as usize / 3;
    GenerateTask {
        prompt: Prompt::Chat(vec![Message { role: Role::User, content }]),
        sampling: Sampling {
            temperature: [0.0, 0.3, 0.7, 1.0, 1.25, 1.5][case as usize % 6],
            top_p: [1.0, 0.9, 0.95, 0.5][index % 4],
            top_k: [0, 0, 40, 5][index / 4 % 4],
            min_p: [0.0, 0.0, 0.05][index / 16 % 3],
        },
        seed: Seed(seed),
        max_tokens: TOKENS_MAX,
        stop: Vec::new(),
        top_logprobs: 0,
        resume: Vec::new(),
    }
}

/// Generates and checks at least `tokens` tokens over varied prompts and settings; `progress` hears how many are done.
///
/// # Errors
/// What the engine reports.
pub fn measure(
    model: Arc<Model>,
    tokens: u64,
    threads: u32,
    progress: &mut dyn FnMut(u64),
) -> Result<Distribution, Error> {
    let engine = start(model, Options { slots: SLOTS, threads, cheat: None });
    let mut found = Found::default();
    let mut case = 0;
    while (found.margins.len() as u64) < tokens {
        let batch: Vec<(GenerateTask, Pending)> = (case..case + 2 * SLOTS)
            .map(|case| {
                let task = task(case);
                (task.clone(), begin(engine.as_ref(), task))
            })
            .collect();
        case += 2 * SLOTS;
        for (task, pending) in batch {
            let answer = pending.wait()?;
            let check = ScoreTask {
                prompt: task.prompt,
                output: answer.output,
                sampling: task.sampling,
                seed: task.seed,
                stop: task.stop,
                max_tokens: task.max_tokens,
                tolerance: LIMIT,
                finish: answer.finish.reason,
            };
            let scores = score(engine.as_ref(), check)?;
            let pairs = scores.log_prob_bytes.iter().zip(&answer.log_prob_bytes);
            found.bytes_differing += pairs.filter(|(a, b)| a != b).count() as u64;
            found.ends_differing += u64::from(!scores.finish_fits);
            found.answers += 1;
            found.margins.extend(scores.margins);
            progress(found.margins.len() as u64);
        }
    }
    let variant = engine.variant();
    Ok(found.distribution(variant.name.clone(), variant.numerics.clone()))
}

#[derive(Default)]
struct Found {
    margins: Vec<f32>,
    answers: u64,
    bytes_differing: u64,
    ends_differing: u64,
}

impl Found {
    fn distribution(mut self, model: String, numerics: String) -> Distribution {
        self.margins.sort_by(f32::total_cmp);
        let count = |over: f32| self.margins.iter().filter(|margin| **margin > over).count() as u64;
        let last = self.margins.len().saturating_sub(1);
        let quantile = |share: f64| self.margins.get((share * last as f64) as usize).copied().unwrap_or(0.0);
        Distribution {
            tokens: self.margins.len() as u64,
            answers: self.answers,
            max_nats: self.margins.last().copied().unwrap_or(0.0),
            not_zero: count(0.0),
            over_limit: count(LIMIT),
            quantiles_nats: [0.5, 0.99, 0.999, 0.9999].map(quantile),
            bytes_differing: self.bytes_differing,
            ends_differing: self.ends_differing,
            model,
            numerics,
        }
    }
}
