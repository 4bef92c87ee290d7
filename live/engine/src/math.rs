//! Functions on vectors with a fixed order of operations, so that all CPUs give the same bits.

use pulp::Arch;

use crate::kernel::LANES;

/// 1.5 * 2^23: adding it rounds a small number to a whole one and leaves that in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, so that the argument's reduction stays exact (Cephes, expf.c).
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// e^x with a relative error under 2^-22, for x from -87 to 88; clamped outside.
///
/// Source: Cephes, single/expf.c (coefficients).
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the coefficients as published")]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let rest = x - power * LN_2_HIGH - power * LN_2_LOW;
    let mut sum = 1.987_569_150_0e-4;
    for coefficient in
        [1.398_199_950_7e-3, 8.333_451_907_3e-3, 4.166_579_589_4e-2, 1.666_666_545_9e-1, 5.000_000_120_1e-1]
    {
        sum = sum * rest + coefficient;
    }
    let mantissa = sum * rest * rest + rest + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    mantissa * f32::from_bits(exponent)
}

/// Sum of `f` of all values in 16 interleaved partial sums.
#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += f(*value);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += f(*value);
    }
    sums.iter().sum()
}

/// Rows of `weight.len()` values divided by their root mean square, times the weight.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    Arch::new().dispatch(|| {
        let width = weight.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let scale = 1.0 / (sum(x, |value| value * value) / width as f32 + epsilon).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * weight;
            }
        }
    });
}

/// Rows shifted to mean 0, scaled to variance 1, times the weight, plus the bias; in place.
pub(crate) fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    Arch::new().dispatch(|| {
        let width = weight.len();
        for x in x.chunks_exact_mut(width) {
            let mean = sum(x, |value| value) / width as f32;
            let variance = sum(x, |value| (value - mean) * (value - mean)) / width as f32;
            let scale = 1.0 / (variance + epsilon).sqrt();
            for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
                *x = (*x - mean) * scale * weight + bias;
            }
        }
    });
}

/// SwiGLU of rows that hold `width` gate values, then `width` values: `out = silu(gate) * value`.
pub(crate) fn swiglu(gate_up: &[f32], width: usize, out: &mut [f32]) {
    Arch::new().dispatch(|| {
        for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate / (1.0 + exp(-gate)) * up;
            }
        }
    });
}

/// x Phi(x) in place: the exact GELU.
pub(crate) fn gelu(x: &mut [f32]) {
    for value in x {
        *value = 0.5 * *value * (1.0 + libm::erff(*value * std::f32::consts::FRAC_1_SQRT_2));
    }
}

/// `x += y`
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Adds the bias to every row.
pub(crate) fn add_bias(x: &mut [f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(bias.len()) {
        add(row, bias);
    }
}

/// Exponentials of scores less the largest, in place; the rest of the row beyond `visible` becomes 0. Returns the sum.
pub(crate) fn soften(row: &mut [f32], visible: usize) -> f32 {
    Arch::new().dispatch(|| {
        let (seen, hidden) = row.split_at_mut(visible);
        let mut most = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = seen.as_chunks::<LANES>();
        for chunk in chunks {
            for (most, value) in most.iter_mut().zip(chunk) {
                *most = most.max(*value);
            }
        }
        let top = rest.iter().chain(&most).copied().fold(f32::NEG_INFINITY, f32::max);
        for value in seen.iter_mut() {
            *value = exp(*value - top);
        }
        hidden.fill(0.0);
        sum(seen, |value| value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_exact_function() {
        for step in -8_600..8_700_i16 {
            let x = f32::from(step) / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "{x}");
        }
        assert!(exp(-1e9) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn softened_scores_ignore_what_is_hidden() {
        let mut row = vec![1.0, 3.0, 2.0, 900.0];
        let total = soften(&mut row, 3);
        assert_eq!((row[1], row[3]), (1.0, 0.0));
        assert!((total - 1.503_214_7).abs() < 1e-6);
    }

    #[test]
    fn norms_give_unit_scale() {
        let x = [3.0, -3.0, 3.0, -3.0];
        let mut out = [0.0; 4];
        rms_norm(&x, &[1.0, 1.0, 2.0, 1.0], 0.0, &mut out);
        assert_eq!(out, [1.0, -1.0, 2.0, -1.0]);
        let mut y = [1.0, 3.0];
        layer_norm(&mut y, &[1.0, 1.0], &[0.5, 0.5], 0.0);
        assert_eq!(y, [-0.5, 1.5]);
    }
}
