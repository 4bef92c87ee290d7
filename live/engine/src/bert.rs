//! Forward pass of BERT encoders, mean pooling and vectors of length 1.
//!
//! Source: J. Devlin et al., arXiv 1810.04805; N. Reimers, I. Gurevych, arXiv 1908.10084 (mean pooling).

use std::sync::Arc;

use serde::Deserialize;

use crate::attention::{Cache, Heads, Queries, attend};
use crate::kernel::{LANES, Panels};
use crate::load::Error;
use crate::math::{add, add_bias, gelu, layer_norm};
use crate::safetensors::Tensors;

/// Sizes as the model's `config.json` states them.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Config {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) vocab_size: usize,
    pub(crate) max_position_embeddings: usize,
    pub(crate) layer_norm_eps: f32,
    pub(crate) hidden_act: String,
    #[serde(default = "absolute")]
    pub(crate) position_embedding_type: String,
}

fn absolute() -> String {
    "absolute".to_owned()
}

impl Config {
    /// The sizes in a `config.json`.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|cause| Error::Json { what: "config.json", cause })
    }

    /// Sizes of attention, if this engine can run the model.
    pub(crate) fn heads(&self) -> Result<Heads, Error> {
        let limits = [
            ("hidden_size", self.hidden_size, 8192),
            ("intermediate_size", self.intermediate_size, 65_536),
            ("num_hidden_layers", self.num_hidden_layers, 256),
            ("vocab_size", self.vocab_size, 1 << 20),
            ("max_position_embeddings", self.max_position_embeddings, 32_768),
            ("num_attention_heads", self.num_attention_heads, 256),
        ];
        for (what, value, limit) in limits {
            if value == 0 || value > limit {
                return Err(Error::Limit { what: what.to_owned(), value: value as u64, limit: limit as u64 });
            }
        }
        if self.hidden_act != "gelu" {
            return Err(Error::Unsupported { what: "activation", found: self.hidden_act.clone() });
        }
        if self.position_embedding_type != "absolute" {
            return Err(Error::Unsupported { what: "position embedding", found: self.position_embedding_type.clone() });
        }
        let width = self.hidden_size / self.num_attention_heads;
        if width * self.num_attention_heads != self.hidden_size || !width.is_multiple_of(LANES) {
            return Err(Error::Unsupported { what: "head width", found: width.to_string() });
        }
        Ok(Heads { queries: self.num_attention_heads, keys: self.num_attention_heads, width })
    }
}

/// A matrix with a bias.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Panels,
    pub(crate) bias: Vec<f32>,
}

impl Linear {
    fn apply(&self, x: &[f32], threads: usize) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / self.weight.columns() * self.weight.rows()];
        self.weight.multiply(x, &mut y, threads);
        add_bias(&mut y, &self.bias);
        y
    }
}

/// Weight and bias of a layer norm.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// Weights of one layer.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Rows of queries, keys and values, one after the other.
    pub(crate) qkv: Linear,
    pub(crate) output: Linear,
    pub(crate) attention_norm: Norm,
    pub(crate) inner: Linear,
    pub(crate) outer: Linear,
    pub(crate) outer_norm: Norm,
}

/// A whole encoder; clones share their matrices.
#[derive(Clone, Debug)]
pub(crate) struct Bert {
    pub(crate) heads: Heads,
    pub(crate) epsilon: f32,
    pub(crate) words: Arc<Panels>,
    /// Positions, with the embedding of the first segment added.
    pub(crate) positions: Vec<f32>,
    pub(crate) embedding_norm: Norm,
    pub(crate) layers: Vec<Arc<Layer>>,
}

impl Bert {
    /// The encoder of a safetensors file.
    pub(crate) fn load(config: &Config, tensors: &Tensors<'_>) -> Result<Self, Error> {
        let (heads, width) = (config.heads()?, config.hidden_size);
        let norm = |name: &str| {
            let value = |part: &str| tensors.values(&format!("{name}.LayerNorm.{part}"), &[width]);
            Ok::<_, Error>(Norm { weight: value("weight")?, bias: value("bias")? })
        };
        let linear = |names: &[String], rows: usize, columns: usize| {
            let (mut weight, mut bias) = (Vec::new(), Vec::new());
            for name in names {
                weight.extend(tensors.values(&format!("{name}.weight"), &[rows, columns])?);
                bias.extend(tensors.values(&format!("{name}.bias"), &[rows])?);
            }
            Ok::<_, Error>(Linear { weight: Panels::pack(rows * names.len(), columns, &weight), bias })
        };
        let layer = |index: usize| {
            let name = |part: &str| format!("encoder.layer.{index}.{part}");
            let own = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
            Ok(Arc::new(Layer {
                qkv: linear(&own, width, width)?,
                output: linear(&[name("attention.output.dense")], width, width)?,
                attention_norm: norm(&name("attention.output"))?,
                inner: linear(&[name("intermediate.dense")], config.intermediate_size, width)?,
                outer: linear(&[name("output.dense")], width, config.intermediate_size)?,
                outer_norm: norm(&name("output"))?,
            }))
        };
        let words = tensors.values("embeddings.word_embeddings.weight", &[config.vocab_size, width])?;
        let shape = [config.max_position_embeddings, width];
        let mut positions = tensors.values("embeddings.position_embeddings.weight", &shape)?;
        let segments = tensors.values("embeddings.token_type_embeddings.weight", &[2, width])?;
        add_bias(&mut positions, &segments[..width]);
        Ok(Self {
            heads,
            epsilon: config.layer_norm_eps,
            words: Arc::new(Panels::pack(config.vocab_size, width, &words)),
            positions,
            embedding_norm: norm("embeddings")?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, Error>>()?,
        })
    }

    /// Longest text, in tokens.
    pub(crate) fn context(&self) -> usize {
        self.positions.len() / self.words.columns()
    }

    /// Number of ids.
    pub(crate) fn vocabulary(&self) -> u32 {
        self.words.rows() as u32
    }

    /// The vector of one text, of 1 to [`Bert::context`] ids that there are.
    pub(crate) fn embed(&self, ids: &[u32], threads: usize) -> Vec<f32> {
        let width = self.words.columns();
        let mut x = vec![0.0; ids.len() * width];
        for (id, row) in ids.iter().zip(x.chunks_exact_mut(width)) {
            self.words.row(*id as usize, row);
        }
        add(&mut x, &self.positions);
        self.norm(&mut x, &self.embedding_norm);
        for layer in &self.layers {
            self.layer(layer, &mut x, threads);
        }
        pool(&x, width)
    }

    fn norm(&self, x: &mut [f32], norm: &Norm) {
        layer_norm(x, &norm.weight, &norm.bias, self.epsilon);
    }

    fn layer(&self, layer: &Layer, x: &mut [f32], threads: usize) {
        let attended = self.attention(&layer.qkv.apply(x, threads), threads);
        add(x, &layer.output.apply(&attended, threads));
        self.norm(x, &layer.attention_norm);
        let mut inner = layer.inner.apply(x, threads);
        gelu(&mut inner);
        add(x, &layer.outer.apply(&inner, threads));
        self.norm(x, &layer.outer_norm);
    }

    fn attention(&self, qkv: &[f32], threads: usize) -> Vec<f32> {
        let width = self.heads.query_width();
        let scale = 1.0 / (self.heads.width as f32).sqrt();
        let mut cache = Cache::new(self.heads, 1);
        let mut rows = Vec::with_capacity(qkv.len() / 3);
        for (position, row) in qkv.chunks_exact(3 * width).enumerate() {
            rows.extend(row[..width].iter().map(|value| value * scale));
            cache.push(0, position, &row[width..2 * width], &row[2 * width..]);
        }
        let mut out = vec![0.0; rows.len()];
        attend(0, &[Queries { cache: &cache, rows: &rows, first: 0, causal: false }], &mut out, threads);
        out
    }
}

/// Mean of all rows, scaled to length 1.
fn pool(x: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0; width];
    for row in x.chunks_exact(width) {
        add(&mut mean, row);
    }
    let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    mean.iter_mut().for_each(|value| *value *= scale);
    mean
}
