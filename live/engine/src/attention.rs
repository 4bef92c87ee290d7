//! Keys and values of one sequence, and attention over them.

use rayon::prelude::*;

use crate::kernel::{LANES, multiply_panels, multiply_prefix};
use crate::math::soften;

/// Query rows whose scores are held at a time, so that they stay in the cache.
const ROWS: usize = 48;
/// Multiply-adds below which attention stays on one thread.
const PARALLEL_MIN: usize = 1 << 18;

/// Sizes of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) queries: usize,
    /// Key and value heads; each serves `queries / keys` query heads.
    pub(crate) keys: usize,
    /// Values per head, a multiple of 16.
    pub(crate) width: usize,
}

impl Heads {
    /// Values of all query heads.
    pub(crate) const fn query_width(&self) -> usize {
        self.queries * self.width
    }

    /// Values of all key heads.
    pub(crate) const fn key_width(&self) -> usize {
        self.keys * self.width
    }
}

/// Keys and values of one layer: for each head, panels of 16 positions (keys) and of 16 values (values).
#[derive(Clone, Debug, Default)]
struct Layer {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

/// Keys and values of one sequence in all layers.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    heads: Heads,
    layers: Vec<Layer>,
    len: usize,
}

impl Cache {
    /// An empty cache.
    pub(crate) fn new(heads: Heads, layers: usize) -> Self {
        let blocks = heads.key_width() / LANES;
        let layer = Layer { keys: vec![Vec::new(); heads.keys], values: vec![Vec::new(); blocks] };
        Self { heads, layers: vec![layer; layers], len: 0 }
    }

    /// Positions held in all layers.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Forgets all positions but the first ones.
    pub(crate) fn truncate(&mut self, positions: usize) {
        self.len = self.len.min(positions);
        let panel = self.panels(self.len);
        for layer in &mut self.layers {
            layer.keys.iter_mut().for_each(|keys| keys.truncate(panel));
            layer.values.iter_mut().for_each(|values| values.truncate(self.len * LANES));
        }
    }

    /// A copy of the first positions.
    pub(crate) fn first(&self, positions: usize) -> Self {
        let len = self.len.min(positions);
        let panel = self.panels(len);
        let copy = |layer: &Layer| Layer {
            keys: layer.keys.iter().map(|keys| keys[..panel].to_vec()).collect(),
            values: layer.values.iter().map(|values| values[..len * LANES].to_vec()).collect(),
        };
        Self { heads: self.heads, layers: self.layers.iter().map(copy).collect(), len }
    }

    /// Gives back room that is not used.
    pub(crate) fn shrink(&mut self) {
        let parts = self.layers.iter_mut().flat_map(|layer| layer.keys.iter_mut().chain(&mut layer.values));
        parts.for_each(Vec::shrink_to_fit);
    }

    /// Values of one head's keys of so many positions, the unused places of the last panel included.
    const fn panels(&self, positions: usize) -> usize {
        positions.div_ceil(LANES) * LANES * self.heads.width
    }

    /// Makes positions count that were pushed to every layer.
    pub(crate) fn advance(&mut self, count: usize) {
        self.len += count;
    }

    /// Appends the keys and values of one position to a layer.
    pub(crate) fn push(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let Layer { keys: panels, values: blocks } = &mut self.layers[layer];
        let (block, lane) = (position / LANES, position % LANES);
        let size = LANES * self.heads.width;
        for (panel, head) in panels.iter_mut().zip(keys.chunks_exact(self.heads.width)) {
            panel.resize((block + 1) * size, 0.0);
            for (slot, value) in panel[block * size..].as_chunks_mut::<LANES>().0.iter_mut().zip(head) {
                slot[lane] = *value;
            }
        }
        for (block, lanes) in blocks.iter_mut().zip(values.chunks_exact(LANES)) {
            block.truncate(position * LANES);
            block.extend_from_slice(lanes);
        }
    }
}

/// The queries of one sequence in one layer: `rows` are `[position][query head][width]`, already scaled.
pub(crate) struct Queries<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) rows: &'a [f32],
    /// Position of the first row.
    pub(crate) first: usize,
    /// Each row sees the positions up to its own; otherwise all.
    pub(crate) causal: bool,
}

impl Queries<'_> {
    const fn count(&self) -> usize {
        self.rows.len() / self.cache.heads.query_width()
    }

    /// Work of one head, in multiply-adds.
    const fn cost(&self) -> usize {
        let heads = self.cache.heads;
        self.count() * (heads.queries / heads.keys) * (self.first + self.count()) * heads.width * 2
    }

    /// Attention of one key head: `[position][group][width]`.
    fn attend(&self, layer: usize, head: usize) -> Vec<f32> {
        let heads = self.cache.heads;
        let group = heads.queries / heads.keys;
        let size = group * heads.width;
        let mut rows = Vec::with_capacity(self.count() * size);
        for row in self.rows.chunks_exact(heads.query_width()) {
            rows.extend_from_slice(&row[head * size..][..size]);
        }
        let mut out = vec![0.0; rows.len()];
        let step = ROWS.div_ceil(group);
        for (index, (rows, out)) in rows.chunks(step * size).zip(out.chunks_mut(step * size)).enumerate() {
            self.attend_rows(layer, head, self.first + index * step, rows, out);
        }
        out
    }

    /// Attention of a few rows, the first of them at `position`.
    fn attend_rows(&self, layer: usize, head: usize, position: usize, rows: &[f32], out: &mut [f32]) {
        let heads = self.cache.heads;
        let group = heads.queries / heads.keys;
        let count = rows.len() / heads.width;
        let end = if self.causal { position + count / group } else { self.first + self.count() };
        let panels = end.div_ceil(LANES);
        let keys = &self.cache.layers[layer].keys[head][..panels * LANES * heads.width];
        let mut blocks = vec![0.0; panels * LANES * count];
        multiply_panels(rows, heads.width, keys, &mut blocks);
        let width = panels * LANES;
        let mut scores = vec![0.0; width * count];
        let mut totals = vec![0.0; count];
        for (row, (scores, total)) in scores.chunks_exact_mut(width).zip(&mut totals).enumerate() {
            let blocks = blocks.as_chunks::<LANES>().0;
            for (panel, lanes) in scores.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                *lanes = blocks[panel * count + row];
            }
            let visible = if self.causal { position + row / group + 1 } else { end };
            *total = soften(scores, visible);
        }
        self.gather(layer, head, end, &scores, &totals, out);
    }

    /// Weighted sums of the values.
    fn gather(&self, layer: usize, head: usize, end: usize, scores: &[f32], totals: &[f32], out: &mut [f32]) {
        let heads = self.cache.heads;
        let (count, width) = (totals.len(), scores.len() / totals.len());
        let per_head = heads.width / LANES;
        let mut lanes = vec![0.0; count * LANES];
        for block in 0..per_head {
            let values = &self.cache.layers[layer].values[head * per_head + block];
            weighted(scores, width, &values[..end * LANES], &mut lanes);
            for ((row, lanes), total) in lanes.as_chunks::<LANES>().0.iter().enumerate().zip(totals) {
                let slot = &mut out[row * heads.width + block * LANES..][..LANES];
                for (slot, lane) in slot.iter_mut().zip(lanes) {
                    *slot = lane / total;
                }
            }
        }
    }
}

/// `out[row][16] = scores[row][..n] * values[n][16]`.
fn weighted(scores: &[f32], width: usize, values: &[f32], out: &mut [f32]) {
    multiply_prefix(scores, width, values.len() / LANES, values, out);
}

/// Attention of several sequences in one layer; `out` holds `[row][query head][width]` of all rows in order.
pub(crate) fn attend(layer: usize, queries: &[Queries<'_>], out: &mut [f32], threads: usize) {
    let Some(first) = queries.first() else { return };
    let heads = first.cache.heads;
    let jobs: Vec<(usize, usize)> =
        (0..queries.len()).flat_map(|index| (0..heads.keys).map(move |head| (index, head))).collect();
    let cost: usize = queries.iter().map(|queries| queries.cost() * heads.keys).sum();
    let run = |(index, head): &(usize, usize)| queries[*index].attend(layer, *head);
    let parts: Vec<Vec<f32>> = if threads < 2 || cost < PARALLEL_MIN {
        jobs.iter().map(run).collect()
    } else {
        jobs.par_iter().map(run).collect()
    };
    let size = heads.query_width() / heads.keys;
    let mut start = 0;
    for (queries, parts) in queries.iter().zip(parts.chunks_exact(heads.keys)) {
        let rows = out[start..start + queries.rows.len()].chunks_exact_mut(heads.query_width());
        for (row, out) in rows.enumerate() {
            for (slot, part) in out.chunks_exact_mut(size).zip(parts) {
                slot.copy_from_slice(&part[row * size..][..size]);
            }
        }
        start += queries.rows.len();
    }
}
