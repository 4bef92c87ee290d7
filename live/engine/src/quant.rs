//! Block formats of weights, to and from f32.
//!
//! Source: ggml-org/ggml, src/ggml-quants.c (dequantize_row_q4_0, _q4_1, _q8_0; quantize_row_q4_0_ref, _q8_0_ref).

use crate::gguf::Format;

/// Elements of one quantised block.
const BLOCK: usize = 32;

/// Writes the values of whole blocks of `format`.
pub(crate) fn dequantise(format: Format, bytes: &[u8], out: &mut [f32]) {
    match format {
        Format::F32 => fill(bytes.as_chunks().0, out, |word| f32::from_le_bytes(*word)),
        Format::F16 => fill(bytes.as_chunks().0, out, |half| f16(*half)),
        Format::Q4_0 => blocks(bytes.as_chunks::<18>().0, out, |block, out| {
            let scale = f16([block[0], block[1]]);
            nibbles(&block[2..], out, |nibble| scale * (f32::from(nibble) - 8.0));
        }),
        Format::Q4_1 => blocks(bytes.as_chunks::<20>().0, out, |block, out| {
            let (scale, low) = (f16([block[0], block[1]]), f16([block[2], block[3]]));
            nibbles(&block[4..], out, |nibble| scale * f32::from(nibble) + low);
        }),
        Format::Q8_0 => blocks(bytes.as_chunks::<34>().0, out, |block, out| {
            let scale = f16([block[0], block[1]]);
            fill(&block[2..], out, |byte| scale * f32::from(byte.cast_signed()));
        }),
    }
}

fn fill<T>(from: &[T], out: &mut [f32], value: impl Fn(&T) -> f32) {
    for (out, item) in out.iter_mut().zip(from) {
        *out = value(item);
    }
}

fn blocks<T>(from: &[T], out: &mut [f32], write: impl Fn(&T, &mut [f32; BLOCK])) {
    for (out, block) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(from) {
        write(block, out);
    }
}

/// The low halves of all bytes, then the high halves.
fn nibbles(bytes: &[u8], out: &mut [f32; BLOCK], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(BLOCK / 2);
    fill(bytes, low, |byte| value(byte & 15));
    fill(bytes, high, |byte| value(byte >> 4));
}

/// The value of a little-endian IEEE 754 half.
pub(crate) fn f16(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let sign = (bits & 0x8000) << 16;
    let rest = (bits & 0x7fff) << 13;
    // Re-biasing the exponent by a product keeps subnormal halves exact.
    let scaled = f32::from_bits(rest) * f32::from_bits(0x7780_0000);
    let magnitude = if rest >= 0x0f80_0000 { rest | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(sign | magnitude)
}

/// The bits of the half nearest to a value, ties to even.
fn to_f16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    let half = if magnitude >= 65_520.0 {
        0x7c00
    } else if magnitude < 6.103_515_6e-5 {
        // Adding one half aligns the subnormal half's last bit with that of the sum.
        (magnitude + 0.5).to_bits() - 0.5_f32.to_bits()
    } else {
        let rounded = magnitude.to_bits() + 0xfff + ((magnitude.to_bits() >> 13) & 1);
        (rounded >> 13) - (112 << 10)
    };
    ((sign | half) as u16).to_le_bytes()
}

/// A format that weights can be rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Blocks of 32 values of eight bits with one scale.
    Q8_0,
    /// Blocks of 32 values of four bits with one scale.
    Q4_0,
}

impl Rounding {
    pub(crate) const fn format(self) -> Format {
        match self {
            Self::Q8_0 => Format::Q8_0,
            Self::Q4_0 => Format::Q4_0,
        }
    }
}

/// Appends the blocks of a row. Values beyond the last whole block are left out.
pub(crate) fn quantise(rounding: Rounding, row: &[f32], out: &mut Vec<u8>) {
    for block in row.as_chunks::<BLOCK>().0 {
        let extreme =
            block.iter().copied().fold(0.0_f32, |most, value| if value.abs() > most.abs() { value } else { most });
        let step = match rounding {
            Rounding::Q8_0 => extreme.abs() / 127.0,
            Rounding::Q4_0 => extreme / -8.0,
        };
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        out.extend(to_f16(step));
        match rounding {
            Rounding::Q8_0 => out.extend(block.map(|value| ((value * inverse).round() as i8).cast_unsigned())),
            Rounding::Q4_0 => {
                let level = |value: f32| (value * inverse + 8.5).trunc().clamp(0.0, 15.0) as u8;
                let (low, high) = block.split_at(BLOCK / 2);
                out.extend(low.iter().zip(high).map(|(low, high)| level(*low) | level(*high) << 4));
            }
        }
    }
}

/// Rounds a row to what the format can hold. The rest of a row that is no whole block stays.
pub(crate) fn round(rounding: Rounding, row: &mut [f32]) {
    let mut blocks = Vec::new();
    quantise(rounding, row, &mut blocks);
    dequantise(rounding.format(), &blocks, row);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_have_their_values_and_return() {
        let known = [(0x0000, 0.0), (0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65_504.0), (0x0001, 5.960_464_5e-8)];
        for (bits, value) in known {
            assert_eq!(f16(u16::to_le_bytes(bits)), value);
        }
        assert_eq!(f16(0x7c00_u16.to_le_bytes()), f32::INFINITY);
        assert!(f16(0x7e00_u16.to_le_bytes()).is_nan());
        for bits in 0..0x7c00_u16 {
            assert_eq!(to_f16(f16(bits.to_le_bytes())), bits.to_le_bytes());
        }
    }

    #[test]
    fn blocks_have_the_values_of_their_format() {
        let mut q4_1 = vec![0x00, 0x3c, 0x00, 0xc0];
        q4_1.extend((0..16).map(|index| index | (15 - index) << 4));
        let mut out = [0.0; BLOCK];
        dequantise(Format::Q4_1, &q4_1, &mut out);
        assert_eq!((out[0], out[15], out[16], out[31]), (-2.0, 13.0, 13.0, -2.0));
        let mut q8_0 = vec![0x00, 0x38];
        q8_0.extend(0..32);
        q8_0[2] = 0x80;
        dequantise(Format::Q8_0, &q8_0, &mut out);
        assert_eq!((out[0], out[1], out[31]), (-64.0, 0.5, 15.5));
        let mut q4_0 = vec![0x00, 0x40];
        q4_0.extend([0x80; 16]);
        dequantise(Format::Q4_0, &q4_0, &mut out);
        assert_eq!((out[0], out[16]), (-16.0, 0.0));
    }

    #[test]
    fn values_that_q4_0_holds_stay_as_they_are() {
        let mut row: Vec<f32> = (0..32).map(|index| (index % 16) as f32 * 0.25 - 2.0).collect();
        let before = row.clone();
        round(Rounding::Q4_0, &mut row);
        assert_eq!(row, before);
        let mut other: Vec<f32> = (0..32).map(|index| index as f32 * 0.013 - 0.1).collect();
        let before = other.clone();
        round(Rounding::Q4_0, &mut other);
        assert!(other.iter().zip(&before).all(|(a, b)| (a - b).abs() <= 0.05) && other != before);
    }

    #[test]
    fn rounding_moves_no_value_by_more_than_half_a_step() {
        let row: Vec<f32> = (0..320_u32).map(|index| (index * 7919 % 641) as f32 * 0.003 - 0.9).collect();
        for (rounding, levels) in [(Rounding::Q8_0, 127.0), (Rounding::Q4_0, 8.0)] {
            let mut rounded = row.clone();
            round(rounding, &mut rounded);
            for (block, rounded) in row.chunks(BLOCK).zip(rounded.chunks(BLOCK)) {
                let extreme =
                    block.iter().fold(0.0_f32, |most, value| if value.abs() > most.abs() { *value } else { most });
                let step = extreme.abs() / levels;
                // Four bits have no level for what is as far out as the extreme on the other side.
                let held = |value: f32| rounding == Rounding::Q8_0 || value * extreme.signum() > -7.5 * step;
                for (value, rounded) in block.iter().zip(rounded).filter(|(value, _)| held(**value)) {
                    // The scale itself is rounded to a half, by up to one part in 2,048.
                    let limit = step / 2.0 + value.abs() / 1024.0;
                    assert!((value - rounded).abs() <= limit, "{rounding:?} {value} {rounded}");
                }
            }
        }
    }
}
