//! Dishonest engines: they name the honest variant and compute something else. For tests and demonstrations.
//!
//! What a cheat changes is one of three things: the weights that run, here; the logits that a token is chosen from or
//! reported with, here; the task itself, in `disguise`.

use std::str::FromStr;
use std::sync::Arc;

use ol_protocol::sampler;
use thiserror::Error;

use crate::bert::{self, Bert, Linear};
use crate::kernel::Panels;
use crate::llama::{Layer, Llama};
use crate::quant::{Rounding, round};
use crate::task::GenerateTask;

/// Output length at which [`Cheat::Truncate`] ends: long enough to look like an answer.
const TRUNCATED_TOKENS: u32 = 16;
/// Of how many tokens [`Cheat::PartialSubstitution`] leaves one to the draft.
const SUBSTITUTED_OF: u32 = 10;
/// Perturbed gap in nats from which on [`Cheat::ConfidenceGatedSubstitution`] trusts the draft. Of the default model's
/// tokens at temperatures up to 0.7, the draft then chooses 19 %, and one in eleven of these is not the honest choice; at
/// 1.0 it is 28 % and one in three. From 2 nats on it would be over 40 %, and one in three at any temperature.
const TRUSTED_GAP_NATS: f32 = 4.0;

/// How an engine cheats.
///
/// The draft of those that run two models is the honest one without its last tenth of layers. It is not cheap, but it
/// stands for a small model that is: on the default model it chooses the honest token in 42 % of all cases, the first
/// half of the layers in 11 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cheat {
    /// Runs the first half of the layers only.
    SmallModel,
    /// Samples with a seed of its own.
    WrongSeed,
    /// Runs weights rounded to Q4_0.
    Requantised,
    /// Runs weights rounded to Q8_0.
    Requantised8Bit,
    /// Ends early and claims that the model ended. Of texts to embed it reads the first half.
    Truncate,
    /// Samples at 1.1 times the temperature asked for; honest at 0.
    TemperatureShift,
    /// Puts a system prompt of its own before the conversation or the text to embed, and reports the prompt without it.
    PromptSwap,
    /// Lets the draft choose one token of ten.
    PartialSubstitution,
    /// Lets the draft choose, and asks the honest model only where the draft's two best tokens are close together once
    /// the noise of the task's seed is added.
    ConfidenceGatedSubstitution,
    /// Lets the draft choose all tokens, and reports the honest model's log-probabilities of them.
    TeacherForcedForgery,
    /// Answers as it answered the task before, whatever is asked now; honest in its first task. The tokens are computed
    /// anew, which a real cache would not do: they are the same.
    CachedAnswer,
}

/// No such cheat.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("no such cheat")]
pub struct UnknownCheat;

impl FromStr for Cheat {
    type Err = UnknownCheat;

    fn from_str(name: &str) -> Result<Self, UnknownCheat> {
        Self::ALL.into_iter().find(|cheat| cheat.name() == name).ok_or(UnknownCheat)
    }
}

/// The logits of one step.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Of the model that runs.
    pub(crate) model: &'a [f32],
    /// Of the draft, where a cheat needs both; else those of the model again.
    pub(crate) draft: &'a [f32],
}

impl Cheat {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::SmallModel,
        Self::WrongSeed,
        Self::Requantised,
        Self::Requantised8Bit,
        Self::Truncate,
        Self::TemperatureShift,
        Self::PromptSwap,
        Self::PartialSubstitution,
        Self::ConfidenceGatedSubstitution,
        Self::TeacherForcedForgery,
        Self::CachedAnswer,
    ];

    /// Those that can be told from an honest engine by the vectors that it gives; the others embed honestly.
    pub const OF_VECTORS: [Self; 6] = [
        Self::SmallModel,
        Self::Requantised,
        Self::Requantised8Bit,
        Self::Truncate,
        Self::PromptSwap,
        Self::CachedAnswer,
    ];

    /// Its name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SmallModel => "small-model",
            Self::WrongSeed => "wrong-seed",
            Self::Requantised => "requantised",
            Self::Requantised8Bit => "requantised-8-bit",
            Self::Truncate => "truncate",
            Self::TemperatureShift => "temperature-shift",
            Self::PromptSwap => "prompt-swap",
            Self::PartialSubstitution => "partial-substitution",
            Self::ConfidenceGatedSubstitution => "confidence-gated-substitution",
            Self::TeacherForcedForgery => "teacher-forced-forgery",
            Self::CachedAnswer => "cached-answer",
        }
    }

    /// The weights that the engine runs.
    pub(crate) fn weights(self, honest: &Llama) -> Llama {
        let mut net = honest.clone();
        self.change(&mut net.layers, requantised);
        net
    }

    /// The same of an encoder.
    pub(crate) fn encoder(self, honest: &Bert) -> Bert {
        let mut net = honest.clone();
        self.change(&mut net.layers, requantised_encoder);
        net
    }

    fn change<L>(self, layers: &mut Vec<Arc<L>>, requantised: fn(&L, Rounding) -> L) {
        let rounding = match self {
            Self::SmallModel => {
                layers.truncate(layers.len().div_ceil(2));
                None
            }
            Self::Requantised => Some(Rounding::Q4_0),
            Self::Requantised8Bit => Some(Rounding::Q8_0),
            Self::WrongSeed
            | Self::Truncate
            | Self::TemperatureShift
            | Self::PromptSwap
            | Self::PartialSubstitution
            | Self::ConfidenceGatedSubstitution
            | Self::TeacherForcedForgery
            | Self::CachedAnswer => None,
        };
        if let Some(rounding) = rounding {
            layers.iter_mut().for_each(|layer| *layer = Arc::new(requantised(layer, rounding)));
        }
    }

    /// After how many layers the draft ends, if the engine runs two models.
    pub(crate) fn exit(self, honest: &Llama) -> Option<usize> {
        let both = [Self::PartialSubstitution, Self::ConfidenceGatedSubstitution, Self::TeacherForcedForgery];
        both.contains(&self).then(|| (honest.layers.len() * 9 / 10).max(1))
    }

    /// The logits that the token number `index` is chosen from, and those it is reported with.
    pub(crate) fn logits<'a>(self, task: &GenerateTask, index: u32, rows: Rows<'a>) -> (&'a [f32], &'a [f32]) {
        let Rows { model, draft } = rows;
        let one = match self {
            Self::PartialSubstitution if index % SUBSTITUTED_OF == SUBSTITUTED_OF / 2 => draft,
            Self::ConfidenceGatedSubstitution if gap(task, index, draft) >= TRUSTED_GAP_NATS => draft,
            Self::TeacherForcedForgery => return (draft, model),
            Self::SmallModel
            | Self::WrongSeed
            | Self::Requantised
            | Self::Requantised8Bit
            | Self::Truncate
            | Self::TemperatureShift
            | Self::PromptSwap
            | Self::PartialSubstitution
            | Self::ConfidenceGatedSubstitution
            | Self::CachedAnswer => model,
        };
        (one, one)
    }

    /// Whether the engine ends the output with its token number `index`, whatever the model says.
    pub(crate) fn ends_at(self, index: u32, max_tokens: u32) -> bool {
        self == Self::Truncate && index + 1 >= TRUNCATED_TOKENS.min(max_tokens.div_ceil(2))
    }
}

/// How far in nats the second token is behind the first, noise included.
fn gap(task: &GenerateTask, index: u32, logits: &[f32]) -> f32 {
    let pick = |logits: &[f32]| sampler::pick(logits, &task.sampling, &task.seed, index);
    let mut others = logits.to_vec();
    others[pick(logits) as usize] = f32::NEG_INFINITY;
    sampler::margin(logits, &task.sampling, &task.seed, index, pick(&others), 0.0)
}

fn requantised(layer: &Layer, rounding: Rounding) -> Layer {
    let rounded = |panels: &Panels| rounded(panels, rounding);
    Layer {
        attention_norm: layer.attention_norm.clone(),
        qkv: rounded(&layer.qkv),
        output: rounded(&layer.output),
        inner_norm: layer.inner_norm.clone(),
        gate_up: rounded(&layer.gate_up),
        down: rounded(&layer.down),
    }
}

fn requantised_encoder(layer: &bert::Layer, rounding: Rounding) -> bert::Layer {
    let rounded = |linear: &Linear| Linear { weight: rounded(&linear.weight, rounding), bias: linear.bias.clone() };
    bert::Layer {
        qkv: rounded(&layer.qkv),
        output: rounded(&layer.output),
        attention_norm: layer.attention_norm.clone(),
        inner: rounded(&layer.inner),
        outer: rounded(&layer.outer),
        outer_norm: layer.outer_norm.clone(),
    }
}

fn rounded(panels: &Panels, rounding: Rounding) -> Panels {
    let mut values = panels.unpack();
    values.chunks_exact_mut(panels.columns()).for_each(|row| round(rounding, row));
    Panels::pack(panels.rows(), panels.columns(), &values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cheat_is_found_by_its_name() {
        assert!(Cheat::ALL.into_iter().all(|cheat| cheat.name().parse() == Ok(cheat)));
        assert_eq!("honest".parse::<Cheat>(), Err(UnknownCheat));
    }
}
