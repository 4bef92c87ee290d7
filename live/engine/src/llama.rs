//! Forward pass of the Llama architecture: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
//!
//! Source: H. Touvron et al., arXiv 2302.13971; A. Ainslie et al., arXiv 2305.13245 (grouped queries); J. Su et al.,
//! arXiv 2104.09864 (rotary positions), pairs side by side as ggml-org/llama.cpp stores them.

use std::ops::Range;
use std::sync::Arc;

use crate::attention::{Cache, Heads, Queries, attend};
use crate::kernel::Panels;
use crate::math::{add, rms_norm, swiglu};

/// Rows of logits computed at a time: bounds the memory of a prefill that needs all of them.
const LOGIT_ROWS: usize = 32;

/// Sizes and constants of a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) vocabulary: usize,
    pub(crate) width: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: Heads,
    pub(crate) context: usize,
    pub(crate) epsilon: f32,
    /// Values of a head that are rotated, even.
    pub(crate) rotated: usize,
}

/// Cosines and sines of all positions and pairs, `[position][pair]`.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pairs: usize,
    table: Vec<[f32; 2]>,
}

impl Rotation {
    /// Angles `position / divisor * base^(-2 pair / rotated) / factor[pair]`.
    pub(crate) fn new(shape: &Shape, base: f64, divisor: f64, factors: Option<&[f32]>) -> Self {
        let pairs = shape.rotated / 2;
        let speed: Vec<f64> = (0..pairs)
            .map(|pair| {
                let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
                libm::pow(base, -2.0 * pair as f64 / shape.rotated as f64) / (factor * divisor)
            })
            .collect();
        let angle = |position: usize, speed: &f64| {
            let (sin, cos) = libm::sincos(position as f64 * speed);
            [cos as f32, sin as f32]
        };
        let table = (0..shape.context).flat_map(|position| speed.iter().map(move |s| angle(position, s))).collect();
        Self { pairs, table }
    }

    /// Rotates all heads of one row.
    fn apply(&self, row: &mut [f32], head_width: usize, position: usize) {
        let angles = &self.table[position * self.pairs..][..self.pairs];
        for head in row.chunks_exact_mut(head_width) {
            for (pair, [cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                let [x, y] = *pair;
                *pair = [x * cos - y * sin, x * sin + y * cos];
            }
        }
    }
}

/// Weights of one layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    /// Rows of queries, keys and values, one after the other.
    pub(crate) qkv: Panels,
    pub(crate) output: Panels,
    pub(crate) inner_norm: Vec<f32>,
    /// Rows of the gate, then of the value.
    pub(crate) gate_up: Panels,
    pub(crate) down: Panels,
}

/// A whole model; layers and matrices are shared between copies.
#[derive(Clone, Debug)]
pub(crate) struct Llama {
    pub(crate) shape: Shape,
    pub(crate) rotation: Arc<Rotation>,
    pub(crate) embedding: Arc<Panels>,
    pub(crate) layers: Vec<Arc<Layer>>,
    pub(crate) norm: Vec<f32>,
    pub(crate) head: Arc<Panels>,
}

/// Next ids of one sequence.
pub(crate) struct Span<'a> {
    pub(crate) cache: &'a mut Cache,
    pub(crate) ids: &'a [u32],
}

impl Llama {
    /// An empty cache for a sequence.
    pub(crate) fn cache(&self) -> Cache {
        Cache::new(self.shape.heads, self.layers.len())
    }

    /// Numbers in all matrices.
    pub(crate) fn weights(&self) -> usize {
        let of = |matrix: &Panels| matrix.rows() * matrix.columns();
        let layer = |layer: &Arc<Layer>| {
            [&layer.qkv, &layer.output, &layer.gate_up, &layer.down].into_iter().map(of).sum::<usize>()
        };
        let head = if Arc::ptr_eq(&self.head, &self.embedding) { 0 } else { of(&self.head) };
        of(&self.embedding) + head + self.layers.iter().map(layer).sum::<usize>()
    }

    /// Numbers that a cache holds of a token.
    pub(crate) fn values_per_token(&self) -> usize {
        2 * self.shape.heads.key_width() * self.layers.len()
    }

    /// Appends ids to all sequences. Gives the logits `[wanted][vocabulary]` of the wanted rows, counted through
    /// all spans in order.
    pub(crate) fn forward(&self, spans: &mut [Span<'_>], wanted: &[usize], threads: usize) -> Vec<f32> {
        let mut x = self.embed(spans);
        self.pass(0..self.layers.len(), spans, &mut x, threads);
        advance(spans);
        self.logits(&x, wanted, threads)
    }

    /// As [`Llama::forward`], and the logits of the model that ends after its first `exit` layers.
    pub(crate) fn forward_with_exit(
        &self,
        exit: usize,
        spans: &mut [Span<'_>],
        wanted: &[usize],
        threads: usize,
    ) -> [Vec<f32>; 2] {
        let mut x = self.embed(spans);
        self.pass(0..exit, spans, &mut x, threads);
        let early = self.logits(&x, wanted, threads);
        self.pass(exit..self.layers.len(), spans, &mut x, threads);
        advance(spans);
        [self.logits(&x, wanted, threads), early]
    }

    fn pass(&self, layers: Range<usize>, spans: &mut [Span<'_>], x: &mut [f32], threads: usize) {
        let mut work = Work::new(&self.shape, x.len() / self.shape.width);
        for index in layers {
            let layer = &self.layers[index];
            self.attention(index, layer, spans, x, &mut work, threads);
            rms_norm(x, &layer.inner_norm, self.shape.epsilon, &mut work.normed);
            layer.gate_up.multiply(&work.normed, &mut work.gate_up, threads);
            swiglu(&work.gate_up, self.shape.inner, &mut work.inner);
            layer.down.multiply(&work.inner, &mut work.projected, threads);
            add(x, &work.projected);
        }
    }

    fn embed(&self, spans: &[Span<'_>]) -> Vec<f32> {
        let width = self.shape.width;
        let ids: Vec<u32> = spans.iter().flat_map(|span| span.ids.iter().copied()).collect();
        let mut x = vec![0.0; ids.len() * width];
        for (id, row) in ids.iter().zip(x.chunks_exact_mut(width)) {
            self.embedding.row(*id as usize, row);
        }
        x
    }

    fn attention(
        &self,
        index: usize,
        layer: &Layer,
        spans: &mut [Span<'_>],
        x: &mut [f32],
        work: &mut Work,
        threads: usize,
    ) {
        rms_norm(x, &layer.attention_norm, self.shape.epsilon, &mut work.normed);
        layer.qkv.multiply(&work.normed, &mut work.qkv, threads);
        self.place(index, spans, work);
        let size = self.shape.heads.query_width();
        let mut start = 0;
        let queries: Vec<Queries<'_>> = spans
            .iter()
            .map(|span| {
                let rows = &work.queries[start * size..][..span.ids.len() * size];
                start += span.ids.len();
                Queries { cache: span.cache, rows, first: span.cache.len(), causal: true }
            })
            .collect();
        attend(index, &queries, &mut work.attended, threads);
        layer.output.multiply(&work.attended, &mut work.projected, threads);
        add(x, &work.projected);
    }

    /// Rotates queries and keys; queries go to `work.queries`, keys and values into the caches.
    fn place(&self, index: usize, spans: &mut [Span<'_>], work: &mut Work) {
        let heads = self.shape.heads;
        let scale = 1.0 / (heads.width as f32).sqrt();
        let size = heads.query_width() + 2 * heads.key_width();
        let mut rows = work.qkv.chunks_exact_mut(size).zip(work.queries.chunks_exact_mut(heads.query_width()));
        for span in spans {
            let first = span.cache.len();
            for (offset, (row, queries)) in rows.by_ref().take(span.ids.len()).enumerate() {
                let position = first + offset;
                let (rotated, values) = row.split_at_mut(heads.query_width() + heads.key_width());
                self.rotation.apply(rotated, heads.width, position);
                let (own, keys) = rotated.split_at(heads.query_width());
                for (query, value) in queries.iter_mut().zip(own) {
                    *query = value * scale;
                }
                span.cache.push(index, position, keys, values);
            }
        }
    }

    fn logits(&self, x: &[f32], wanted: &[usize], threads: usize) -> Vec<f32> {
        let width = self.shape.width;
        let mut out = vec![0.0; wanted.len() * self.shape.vocabulary];
        for (rows, out) in wanted.chunks(LOGIT_ROWS).zip(out.chunks_mut(LOGIT_ROWS * self.shape.vocabulary)) {
            let mut normed = vec![0.0; rows.len() * width];
            for (row, normed) in rows.iter().zip(normed.chunks_exact_mut(width)) {
                rms_norm(&x[row * width..][..width], &self.norm, self.shape.epsilon, normed);
            }
            self.head.multiply(&normed, out, threads);
        }
        out
    }
}

/// Counts the ids of all spans as seen.
fn advance(spans: &mut [Span<'_>]) {
    for span in spans {
        span.cache.advance(span.ids.len());
    }
}

/// Buffers of one forward pass.
struct Work {
    normed: Vec<f32>,
    qkv: Vec<f32>,
    queries: Vec<f32>,
    attended: Vec<f32>,
    projected: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
}

impl Work {
    fn new(shape: &Shape, rows: usize) -> Self {
        let buffer = |width: usize| vec![0.0; rows * width];
        let heads = shape.heads;
        Self {
            normed: buffer(shape.width),
            qkv: buffer(heads.query_width() + 2 * heads.key_width()),
            queries: buffer(heads.query_width()),
            attended: buffer(heads.query_width()),
            projected: buffer(shape.width),
            gate_up: buffer(2 * shape.inner),
            inner: buffer(shape.inner),
        }
    }
}
