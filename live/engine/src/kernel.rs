//! Matrix products whose every output is one chain of fused multiply-adds over the inner index.
//!
//! The chain doesn't depend on the number of rows, threads or vector lanes. So a token's logits are the same bits
//! whether it is computed alone, in a batch or in a prefill, and on any CPU with fused multiply-add.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Outputs computed together; a panel holds their weights side by side.
pub(crate) const LANES: usize = 16;
/// Multiply-adds below which a product is not worth a second thread: about 10 us.
const PARALLEL_MIN: usize = 1 << 18;

/// A constant matrix of `rows` x `columns`, packed so that one row block streams through memory.
///
/// Layout `[rows / 16][columns][16]`, the last rows padded with zeros.
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    rows: usize,
    columns: usize,
    data: Vec<f32>,
}

impl Panels {
    /// Packs rows given one after the other.
    pub(crate) fn pack(rows: usize, columns: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * columns, "a matrix of other size than stated");
        let mut data = vec![0.0; rows.div_ceil(LANES) * LANES * columns];
        for (block, panel) in values.chunks(LANES * columns).zip(data.chunks_exact_mut(LANES * columns)) {
            for (lane, row) in block.chunks_exact(columns).enumerate() {
                for (slot, value) in panel.as_chunks_mut::<LANES>().0.iter_mut().zip(row) {
                    slot[lane] = *value;
                }
            }
        }
        Self { rows, columns, data }
    }

    /// Number of outputs.
    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub(crate) const fn columns(&self) -> usize {
        self.columns
    }

    /// Copies one row out.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let start = row / LANES * LANES * self.columns;
        let panel = &self.data[start..start + LANES * self.columns];
        for (value, slot) in out.iter_mut().zip(panel.as_chunks::<LANES>().0) {
            *value = slot[row % LANES];
        }
    }

    /// All rows, one after the other.
    pub(crate) fn unpack(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.columns];
        for (row, values) in out.chunks_exact_mut(self.columns).enumerate() {
            self.row(row, values);
        }
        out
    }

    /// `y[m][rows] = x[m][columns] * self^T`, on up to `threads` threads of the current pool.
    pub(crate) fn multiply(&self, x: &[f32], y: &mut [f32], threads: usize) {
        let m = x.len() / self.columns;
        assert_eq!(y.len(), m * self.rows, "an output of other size than rows and matrix give");
        if m == 1 && self.rows.is_multiple_of(LANES) {
            self.spread(x, 1, y, threads);
            return;
        }
        let mut blocks = vec![0.0; self.rows.div_ceil(LANES) * LANES * m];
        self.spread(x, m, &mut blocks, threads);
        for (panel, block) in blocks.chunks_exact(LANES * m).enumerate() {
            let first = panel * LANES;
            let width = LANES.min(self.rows - first);
            for (row, values) in block.as_chunks::<LANES>().0.iter().enumerate() {
                let start = row * self.rows + first;
                y[start..start + width].copy_from_slice(&values[..width]);
            }
        }
    }

    /// Fills `out[panel][m][16]`, sharing the panels among threads.
    fn spread(&self, x: &[f32], m: usize, out: &mut [f32], threads: usize) {
        let size = LANES * self.columns;
        if threads < 2 || self.data.len() * m < PARALLEL_MIN {
            multiply_panels(x, self.columns, &self.data, out);
            return;
        }
        let share = (out.len() / (LANES * m)).div_ceil(threads);
        out.par_chunks_mut(share * LANES * m)
            .zip(self.data.par_chunks(share * size))
            .for_each(|(out, panels)| multiply_panels(x, self.columns, panels, out));
    }
}

/// `out[panel][m][16] = x[m][k] * panels[panel][k][16]` on this thread.
pub(crate) fn multiply_panels(x: &[f32], k: usize, panels: &[f32], out: &mut [f32]) {
    multiply_prefix(x, k, k, panels, out);
}

/// The same with only the first `used` of `k` inputs of every row; panels hold `used` slots each.
pub(crate) fn multiply_prefix(x: &[f32], k: usize, used: usize, panels: &[f32], out: &mut [f32]) {
    Arch::new().dispatch(Product { x, k, used, panels, out });
}

struct Product<'a> {
    x: &'a [f32],
    k: usize,
    used: usize,
    panels: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.run::<S, 1>(simd),
            8 => self.run::<S, 2>(simd),
            4 => self.run::<S, 4>(simd),
            _ => self.run::<S, LANES>(simd),
        }
    }
}

impl Product<'_> {
    /// `V` vectors hold one panel's lanes.
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let m = self.x.len() / self.k;
        for (panel, out) in self.panels.chunks_exact(LANES * self.used).zip(self.out.chunks_exact_mut(LANES * m)) {
            let mut x = self.x.chunks_exact(self.k);
            let mut out = out;
            while !out.is_empty() {
                let rows = (out.len() / LANES).min(6);
                let (head, tail) = out.split_at_mut(rows * LANES);
                match rows {
                    1 => tile::<S, V, 1>(simd, &mut x, panel, head),
                    2 => tile::<S, V, 2>(simd, &mut x, panel, head),
                    3 => tile::<S, V, 3>(simd, &mut x, panel, head),
                    4 => tile::<S, V, 4>(simd, &mut x, panel, head),
                    5 => tile::<S, V, 5>(simd, &mut x, panel, head),
                    _ => tile::<S, V, 6>(simd, &mut x, panel, head),
                }
                out = tail;
            }
        }
    }
}

/// `M` rows against one panel, all sums in registers.
///
/// Loops over indices and slices cut to one length: then the compiler drops every check and keeps the sums where they
/// are. With iterators over the sums it stores them at each step, and a prefill takes twice as long.
#[inline(always)]
fn tile<'a, S: Simd, const V: usize, const M: usize>(
    simd: S,
    x: &mut impl Iterator<Item = &'a [f32]>,
    panel: &[f32],
    out: &mut [f32],
) {
    let length = panel.len() / LANES;
    let panel = &S::as_simd_f32s(panel).0.as_chunks::<V>().0[..length];
    let rows: [&[f32]; M] = core::array::from_fn(|_| x.next().map_or(&[][..], |row| &row[..length]));
    let rows: [&[f32]; M] = core::array::from_fn(|row| &rows[row][..length]);
    let mut sums = [[simd.splat_f32s(0.0); V]; M];
    for index in 0..length {
        let weights = &panel[index];
        for row in 0..M {
            let value = simd.splat_f32s(rows[row][index]);
            for lane in 0..V {
                sums[row][lane] = simd.mul_add_e_f32s(value, weights[lane], sums[row][lane]);
            }
        }
    }
    let out = &mut S::as_mut_simd_f32s(out).0.as_chunks_mut::<V>().0[..M];
    for row in 0..M {
        for lane in 0..V {
            out[row][lane] = sums[row][lane];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 7919 + salt * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    #[test]
    fn a_product_is_what_its_definition_gives() {
        for (rows, columns, m) in [(16, 16, 1), (48, 24, 3), (50, 7, 13), (1, 1, 1), (33, 100, 8)] {
            let (w, x) = (numbers(rows * columns, 1), numbers(m * columns, 2));
            let panels = Panels::pack(rows, columns, &w);
            assert_eq!(panels.unpack(), w);
            let mut y = vec![0.0; m * rows];
            panels.multiply(&x, &mut y, 1);
            for (index, found) in y.iter().enumerate() {
                let (row, column) = (index / rows, index % rows);
                let (a, b) = (&x[row * columns..][..columns], &w[column * columns..][..columns]);
                let expected: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                assert!((f64::from(*found) - expected).abs() < 1e-4, "{rows} x {columns}, {m}: {found} {expected}");
            }
        }
    }

    #[test]
    fn rows_have_the_same_bits_alone_and_in_a_batch_and_on_many_threads() {
        let (rows, columns, m) = (640, 96, 11);
        let panels = Panels::pack(rows, columns, &numbers(rows * columns, 3));
        let x = numbers(m * columns, 4);
        let (mut together, mut threaded) = (vec![0.0; m * rows], vec![0.0; m * rows]);
        panels.multiply(&x, &mut together, 1);
        panels.multiply(&x, &mut threaded, 3);
        assert_eq!(together, threaded);
        for (x, expected) in x.chunks_exact(columns).zip(together.chunks_exact(rows)) {
            let mut alone = vec![0.0; rows];
            panels.multiply(x, &mut alone, 1);
            assert_eq!(alone, expected);
        }
    }
}
