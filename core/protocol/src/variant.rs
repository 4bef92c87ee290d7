//! What exactly computes an answer.

use crate::bytes::{Error, Reader, Writer};
use crate::digest::{Domain, digest};
use crate::id::{Digest, VariantId};
use alloc::string::String;
use alloc::vec::Vec;

/// How strongly a result can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assurance {
    /// Margins under the task's seed.
    Seeded,
    /// Margins at temperature 0 only.
    Greedy,
    /// Agreement of independent nodes.
    Redundant,
    /// Not at all.
    None,
}

impl Assurance {
    /// Its byte in canonical form.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Seeded => 0,
            Self::Greedy => 1,
            Self::Redundant => 2,
            Self::None => 3,
        }
    }

    /// Reads its byte.
    pub const fn from_byte(byte: u8) -> Result<Self, Error> {
        Ok(match byte {
            0 => Self::Seeded,
            1 => Self::Greedy,
            2 => Self::Redundant,
            3 => Self::None,
            other => return Err(Error::Unknown { what: "assurance", value: other as u64 }),
        })
    }

    /// The word that people see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seeded => "seeded",
            Self::Greedy => "greedy",
            Self::Redundant => "redundant",
            Self::None => "none",
        }
    }
}

/// What a variant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// Continues text.
    Generate,
    /// Turns text into vectors.
    Embed,
}

impl Work {
    /// Its byte in canonical form.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Generate => 0,
            Self::Embed => 1,
        }
    }

    /// Reads its byte.
    pub const fn from_byte(byte: u8) -> Result<Self, Error> {
        Ok(match byte {
            0 => Self::Generate,
            1 => Self::Embed,
            other => return Err(Error::Unknown { what: "kind of work", value: other as u64 }),
        })
    }
}

/// Longest name of a model, a quantisation or numerics, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Model, quantisation and numerics, as a receipt binds them. Its id is the digest of its canonical bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    /// The model's public name, as in `"model"` of a request.
    pub model: String,
    /// Digest of the weights file.
    pub weights: Digest,
    /// Number type of the weights, such as `Q4_1`.
    pub quantisation: String,
    /// Engine family, number type of its arithmetic and the flags that matter, such as `embedded-f32/1`.
    pub numerics: String,
    /// What it does.
    pub work: Work,
    /// How strongly its results can be checked.
    pub assurance: Assurance,
    /// Longest prompt and output together, in tokens.
    pub context_tokens: u32,
}

impl Variant {
    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(self.model.as_bytes()).raw(&self.weights.0).bytes(self.quantisation.as_bytes());
        w.bytes(self.numerics.as_bytes()).u8(self.work.to_byte()).u8(self.assurance.to_byte());
        w.u32(self.context_tokens);
        w.finish()
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let variant = Self {
            model: r.text("model name", NAME_BYTES_MAX)?.into(),
            weights: Digest(r.array()?),
            quantisation: r.text("quantisation", NAME_BYTES_MAX)?.into(),
            numerics: r.text("numerics", NAME_BYTES_MAX)?.into(),
            work: Work::from_byte(r.u8()?)?,
            assurance: Assurance::from_byte(r.u8()?)?,
            context_tokens: r.u32()?,
        };
        r.finish()?;
        Ok(variant)
    }

    /// The id.
    pub fn id(&self) -> VariantId {
        VariantId(digest(Domain::Variant, &[&self.to_bytes()]).0)
    }
}
