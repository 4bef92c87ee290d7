//! What exactly answers: the thing that a receipt names and an audit compares against.

use ol_protocol::sampler::Sampling;
use serde::{Deserialize, Serialize};

/// What a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Continues text.
    Generate,
    /// Turns text into vectors.
    Embed,
}

/// Model, quantisation and numerics of an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Public model id, such as `smollm2-135m-instruct`.
    pub name: String,
    /// SHA-256 of the model file, or of the description of a seeded tiny model.
    pub weights: [u8; 32],
    /// Number type of most weights, such as `Q4_1`.
    pub quantisation: String,
    /// Engine family, number type and version of the arithmetic.
    pub numerics: String,
    /// What the model does.
    pub kind: Kind,
    /// Prompt and output together.
    pub context_tokens: u32,
    /// Number of token ids.
    pub vocabulary: u32,
}

/// How many of the likeliest tokens an engine of these numerics chooses from: 256 of `llama-server-top256/1`. `None` if it
/// sees the whole vocabulary.
#[must_use]
pub fn sampled_of(numerics: &str) -> Option<u32> {
    let (family, _) = numerics.split_once('/')?;
    let (_, count) = family.rsplit_once("-top")?;
    let is_number = !count.starts_with('0') && count.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| count.parse().ok()).flatten()
}

/// The settings by which an engine of these numerics chooses: top-k is at most the number of tokens that it sees.
#[must_use]
pub fn narrowed(sampling: Sampling, numerics: &str) -> Sampling {
    let top_k = match (sampled_of(numerics), sampling.top_k) {
        (None, top_k) => top_k,
        (Some(seen), 0) => seen,
        (Some(seen), top_k) => top_k.min(seen),
    };
    Sampling { top_k, ..sampling }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numerics_say_how_many_tokens_an_engine_sees() {
        let numerics =
            ["llama-server-top256/1", "x-top1/2", "embedded-f32/1", "x-top/1", "x-top0/1", "x-top+1/1", "x-top9"];
        let seen = [Some(256), Some(1), None, None, None, None, None];
        assert_eq!(numerics.map(sampled_of), seen);
    }

    #[test]
    fn top_k_is_at_most_what_the_engine_sees() {
        let top_k = |top_k, numerics| narrowed(Sampling { top_k, ..Sampling::GREEDY }, numerics).top_k;
        let found = [0, 40, 300].map(|asked| (top_k(asked, "s-top256/1"), top_k(asked, "embedded-f32/1")));
        assert_eq!(found, [(256, 0), (40, 40), (256, 300)]);
    }
}
