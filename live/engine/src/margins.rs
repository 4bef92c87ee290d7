//! Honest margins: how far from 0 they are when the engine checks what it generated itself.

use std::sync::Arc;

use serde::Serialize;

use crate::batcher::{Options, start};
use crate::model::Model;
use crate::pair::{Plan, observe};
use crate::task::Error;

/// Generations at the same time.
const SLOTS: u32 = 8;
/// Longest output of one task.
const TOKENS_MAX: u32 = 192;
/// Margin over which an audit fails, in nats.
const LIMIT: f32 = 0.05;

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
    for seed in 0.. {
        let plan = Plan { answers: 4 * SLOTS, tokens_max: TOKENS_MAX, seed };
        for answer in observe(engine.as_ref(), engine.as_ref(), &plan, LIMIT, &mut |_| {})? {
            found.bytes_differing += (answer.byte_steps.len() - answer.bytes_within(0)) as u64;
            found.ends_differing += u64::from(!answer.finish_fits);
            found.answers += 1;
            found.margins.extend(answer.margins);
        }
        progress(found.margins.len() as u64);
        if found.margins.len() as u64 >= tokens {
            break;
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
