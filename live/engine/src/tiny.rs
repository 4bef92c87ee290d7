//! Small random models from a seed: everything a real model has but sense, without a download.

use std::sync::Arc;

use ol_protocol::prf::{Noise, Seed};
use sha2::{Digest, Sha256};

use crate::attention::Heads;
use crate::bert::{self, Bert, Linear, Norm};
use crate::frontend::{Frontend, Outline};
use crate::kernel::Panels;
use crate::llama::{Layer, Llama, Rotation, Shape};
use crate::load::Error;
use crate::model::{Body, Model, NUMERICS, Reader, TextModel, VectorModel};
use crate::template::Template;
use crate::tokenizer::{Cut, Parts, Tokenizer, letter_of};
use crate::variant::{Kind, Variant};

/// Sizes of the tiny Llama: about a million weights.
const SHAPE: Shape = Shape {
    vocabulary: 259,
    width: 128,
    inner: 512,
    layers: 4,
    heads: Heads { queries: 4, keys: 2, width: 32 },
    context: 2048,
    epsilon: 1e-5,
    rotated: 32,
};
/// Sizes of the tiny BERT.
const BERT_WIDTH: usize = 64;
const BERT_INNER: usize = 128;
const BERT_LAYERS: usize = 2;
const BERT_CONTEXT: usize = 512;
const BERT_HEADS: Heads = Heads { queries: 4, keys: 4, width: 16 };
/// Bytes, then the two marks around a text.
const BERT_VOCABULARY: usize = 258;

/// Ids after the 256 bytes.
const CONTROL: [&str; 3] = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] \
                        + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// Spread of logits: sharp enough that the likeliest tokens matter, flat enough that sampling does.
const LOGIT_SPREAD: f32 = 2.5;
/// Constant in the first place of the residual stream, through which the head disfavours what can't be read.
const CONSTANT: f32 = 3.0;
/// Head weight of ids that can't be read, and of the end of text.
const UNREADABLE: f32 = -8.0;
const RARE: f32 = -1.0;

/// Random numbers for one model after another matrix.
struct Source {
    seed: Seed,
    matrix: u32,
}

impl Source {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self { seed: Seed(bytes), matrix: 0 }
    }

    /// Uniform numbers of mean 0 and this standard deviation.
    fn values(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        let noise = Noise::new(&self.seed, self.matrix);
        self.matrix += 1;
        let scale = deviation * 12.0_f32.sqrt();
        (0..count as u32).map(|index| (noise.uniform(index) as f32 - 0.5) * scale).collect()
    }

    fn matrix(&mut self, rows: usize, columns: usize, gain: f32) -> Vec<f32> {
        self.values(rows * columns, gain / (columns as f32).sqrt())
    }

    fn linear(&mut self, rows: usize, columns: usize) -> Linear {
        Linear { weight: Panels::pack(rows, columns, &self.matrix(rows, columns, 1.0)), bias: self.values(rows, 0.1) }
    }
}

fn variant(name: &str, kind: Kind, seed: u64, context: usize, vocabulary: usize) -> Variant {
    let description = format!("{name}, version 1, seed {seed}");
    Variant {
        name: name.to_owned(),
        weights: Sha256::digest(description.as_bytes()).into(),
        quantisation: "F32".to_owned(),
        numerics: NUMERICS.to_owned(),
        kind,
        context_tokens: context as u32,
        vocabulary: vocabulary as u32,
    }
}

impl Model {
    /// A Llama of about a million random weights with a byte-level tokenizer; the same for the same seed.
    ///
    /// # Errors
    /// None in practice: the tokenizer and template are constant.
    pub fn tiny(seed: u64) -> Result<Self, Error> {
        let body = TextModel { net: llama(seed), frontend: frontend()? };
        let variant = variant("tiny-llama", Kind::Generate, seed, SHAPE.context, SHAPE.vocabulary);
        Ok(Self { variant, body: Body::Text(Box::new(body)) })
    }

    /// A small random BERT that reads bytes and gives 64-dimensional vectors; the same for the same seed.
    #[must_use]
    pub fn tiny_bert(seed: u64) -> Self {
        let body = VectorModel { net: bert(seed), reader: Reader::Bytes };
        let variant = variant("tiny-bert", Kind::Embed, seed, BERT_CONTEXT, BERT_VOCABULARY);
        Self { variant, body: Body::Vectors(Box::new(body)) }
    }
}

impl Outline {
    /// What [`Model::tiny`] has but weights.
    ///
    /// # Errors
    /// None in practice: the tokenizer and template are constant.
    pub fn tiny(seed: u64) -> Result<Self, Error> {
        let Variant { name, weights, quantisation, .. } =
            variant("tiny-llama", Kind::Generate, seed, SHAPE.context, SHAPE.vocabulary);
        Ok(Self { name, weights, quantisation, tensor_bytes: 0, frontend: frontend()? })
    }
}

fn frontend() -> Result<Frontend, Error> {
    let template = Template::new(TEMPLATE, CONTROL[0], CONTROL[1])?;
    Ok(Frontend {
        tokenizer: Arc::new(tokenizer()?),
        template: Some(Arc::new(template)),
        vocabulary: SHAPE.vocabulary as u32,
        context_tokens: SHAPE.context as u32,
    })
}

fn tokenizer() -> Result<Tokenizer, Error> {
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter_of(byte).to_string()).collect();
    tokens.extend(CONTROL.map(str::to_owned));
    Tokenizer::new(&Parts {
        tokens: &tokens,
        merges: &[],
        control: vec![256, 257, 258],
        literal: Vec::new(),
        ends: vec![257],
        begin: Some(256),
        add_begin: false,
        cut: Cut::SmolLm,
    })
}

fn llama(seed: u64) -> Llama {
    let mut source = Source::new(seed);
    let mut embedding = source.values(SHAPE.vocabulary * SHAPE.width, 1.0);
    embedding.iter_mut().step_by(SHAPE.width).for_each(|first| *first = CONSTANT);
    let layers = (0..SHAPE.layers).map(|_| Arc::new(layer(&mut source))).collect();
    let mut head = source.matrix(SHAPE.vocabulary, SHAPE.width, LOGIT_SPREAD);
    for (id, first) in head.iter_mut().step_by(SHAPE.width).enumerate() {
        *first = match id {
            10 | 32..=126 => 0.0,
            257 => RARE,
            _ => UNREADABLE,
        };
    }
    Llama {
        rotation: Arc::new(Rotation::new(&SHAPE, 10_000.0, 1.0, None)),
        embedding: Arc::new(Panels::pack(SHAPE.vocabulary, SHAPE.width, &embedding)),
        layers,
        norm: vec![1.0; SHAPE.width],
        head: Arc::new(Panels::pack(SHAPE.vocabulary, SHAPE.width, &head)),
        shape: SHAPE,
    }
}

fn layer(source: &mut Source) -> Layer {
    let (width, inner, heads) = (SHAPE.width, SHAPE.inner, SHAPE.heads);
    let rows = heads.query_width() + 2 * heads.key_width();
    let mut residual = |columns: usize, gain: f32| {
        let mut values = source.matrix(width, columns, gain);
        values[..columns].fill(0.0);
        Panels::pack(width, columns, &values)
    };
    Layer {
        output: residual(heads.query_width(), 1.5),
        down: residual(inner, 2.5),
        qkv: Panels::pack(rows, width, &source.matrix(rows, width, 1.5)),
        gate_up: Panels::pack(2 * inner, width, &source.matrix(2 * inner, width, 1.0)),
        attention_norm: vec![1.0; width],
        inner_norm: vec![1.0; width],
    }
}

fn bert(seed: u64) -> Bert {
    let mut source = Source::new(seed);
    let norm = || Norm { weight: vec![1.0; BERT_WIDTH], bias: vec![0.0; BERT_WIDTH] };
    let words = source.values(BERT_VOCABULARY * BERT_WIDTH, 1.0);
    let positions = source.values(BERT_CONTEXT * BERT_WIDTH, 0.3);
    let mut layer = || bert::Layer {
        qkv: source.linear(3 * BERT_WIDTH, BERT_WIDTH),
        output: source.linear(BERT_WIDTH, BERT_WIDTH),
        attention_norm: norm(),
        inner: source.linear(BERT_INNER, BERT_WIDTH),
        outer: source.linear(BERT_WIDTH, BERT_INNER),
        outer_norm: norm(),
    };
    Bert {
        heads: BERT_HEADS,
        epsilon: 1e-12,
        layers: (0..BERT_LAYERS).map(|_| Arc::new(layer())).collect(),
        words: Arc::new(Panels::pack(BERT_VOCABULARY, BERT_WIDTH, &words)),
        positions,
        embedding_norm: norm(),
    }
}
