//! What exactly answers: the thing that a receipt names and an audit compares against.

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
