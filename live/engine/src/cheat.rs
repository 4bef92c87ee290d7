//! Dishonest engines: they name the honest variant and compute something else. For tests and demonstrations.

use std::sync::Arc;

use ol_protocol::prf::Seed;
use serde::{Deserialize, Serialize};

use crate::kernel::Panels;
use crate::llama::{Layer, Llama};
use crate::quant::round_to_q4_0;

/// Output length at which [`Cheat::Truncate`] ends: long enough to look like an answer.
const TRUNCATED_TOKENS: u32 = 16;

/// How an engine cheats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cheat {
    /// Runs the first half of the layers only.
    SmallModel,
    /// Samples with a seed of its own.
    WrongSeed,
    /// Runs weights rounded to Q4_0.
    Requantised,
    /// Ends early and claims that the model ended.
    Truncate,
}

impl Cheat {
    /// The weights that the engine runs.
    pub(crate) fn weights(self, honest: &Llama) -> Llama {
        let mut net = honest.clone();
        match self {
            Self::SmallModel => net.layers.truncate(net.layers.len().div_ceil(2)),
            Self::Requantised => net.layers = net.layers.iter().map(|layer| Arc::new(requantised(layer))).collect(),
            Self::WrongSeed | Self::Truncate => {}
        }
        net
    }

    /// The seed that the engine samples with.
    pub(crate) fn seed(self, seed: Seed) -> Seed {
        match self {
            Self::WrongSeed => Seed(seed.0.map(|byte| byte ^ 0x5a)),
            Self::SmallModel | Self::Requantised | Self::Truncate => seed,
        }
    }

    /// Whether the engine ends the output with its token number `index`, whatever the model says.
    pub(crate) fn ends_at(self, index: u32, max_tokens: u32) -> bool {
        match self {
            Self::Truncate => index + 1 >= TRUNCATED_TOKENS.min(max_tokens.div_ceil(2)),
            Self::SmallModel | Self::WrongSeed | Self::Requantised => false,
        }
    }
}

fn requantised(layer: &Layer) -> Layer {
    let round = |panels: &Panels| {
        let mut values = panels.unpack();
        values.chunks_exact_mut(panels.columns()).for_each(round_to_q4_0);
        Panels::pack(panels.rows(), panels.columns(), &values)
    };
    Layer {
        attention_norm: layer.attention_norm.clone(),
        qkv: round(&layer.qkv),
        output: round(&layer.output),
        inner_norm: layer.inner_norm.clone(),
        gate_up: round(&layer.gate_up),
        down: round(&layer.down),
    }
}
