//! GGUF files with the matrices of another one rounded to a coarser format: what a node may serve in place of the file
//! that it names, as a file with a digest of its own.
//!
//! Source: ggml-org/ggml, docs/gguf.md, version 3.

use crate::gguf::{Format, Header, Tensor};
use crate::load::Error;
use crate::quant::{Rounding, dequantise, quantise};

/// The bytes of a GGUF file with the same metadata and, in place of every matrix whose rows are whole blocks, the matrix
/// rounded; vectors, such as those of norms, stay as they are. The source's `general.file_type` stays too: readers go by the tensors' own types.
///
/// # Errors
/// Says what is wrong with a file that is corrupt, cut off, or holds formats not supported.
pub fn requantise(file: &[u8], rounding: Rounding) -> Result<Vec<u8>, Error> {
    let header = Header::parse(file)?;
    let (entries, count) = header.entries.clone();
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((header.tensors().len() as u64).to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(&file[entries]);
    let mut data = Vec::with_capacity(file.len());
    for (name, tensor) in header.tensors() {
        data.resize(data.len().next_multiple_of(header.alignment), 0);
        let offset = data.len() as u64;
        let format = rounded(file, tensor, rounding, &mut data);
        describe(name, tensor, format, offset, &mut out);
    }
    out.resize(out.len().next_multiple_of(header.alignment), 0);
    out.extend(data);
    Ok(out)
}

/// Appends the data of one tensor; its format.
fn rounded(file: &[u8], tensor: &Tensor, rounding: Rounding, out: &mut Vec<u8>) -> Format {
    let (format, bytes) = (rounding.format(), &file[tensor.bytes.clone()]);
    if tensor.rows == 1 || !tensor.columns.is_multiple_of(format.block().0) {
        out.extend(bytes);
        return tensor.format;
    }
    let mut values = vec![0.0; tensor.columns];
    for row in bytes.chunks_exact(bytes.len() / tensor.rows) {
        dequantise(tensor.format, row, &mut values);
        quantise(rounding, &values, out);
    }
    format
}

fn describe(name: &str, tensor: &Tensor, format: Format, offset: u64, out: &mut Vec<u8>) {
    let sizes: &[usize] = if tensor.rows == 1 { &[tensor.columns] } else { &[tensor.columns, tensor.rows] };
    out.extend((name.len() as u64).to_le_bytes());
    out.extend(name.as_bytes());
    out.extend((sizes.len() as u32).to_le_bytes());
    sizes.iter().for_each(|size| out.extend((*size as u64).to_le_bytes()));
    out.extend(format.id().to_le_bytes());
    out.extend(offset.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one matrix and one vector.
    fn file(matrix: &[f32], vector: &[f32]) -> Vec<u8> {
        let tensor = |rows, columns| Tensor { format: Format::F32, rows, columns, bytes: 0..0 };
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend([2_u64, 0].map(u64::to_le_bytes).concat());
        describe("matrix", &tensor(2, matrix.len() / 2), Format::F32, 0, &mut out);
        describe("vector", &tensor(1, vector.len()), Format::F32, 4 * matrix.len() as u64, &mut out);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(matrix.iter().chain(vector).flat_map(|value| value.to_le_bytes()));
        out
    }

    fn values(file: &[u8], name: &str, rows: usize, columns: usize) -> (Format, Vec<f32>) {
        let header = Header::parse(file).unwrap();
        let tensor = header.tensor(name, rows, columns).unwrap();
        let mut out = vec![0.0; rows * columns];
        dequantise(tensor.format, &file[tensor.bytes.clone()], &mut out);
        (tensor.format, out)
    }

    #[test]
    fn matrices_are_rounded_and_vectors_stay() {
        let matrix: Vec<f32> = (0..128_u8).map(|index| f32::from(index) * 0.01 - 0.3).collect();
        let vector = vec![0.123_456_7; 64];
        let source = file(&matrix, &vector);
        for rounding in [Rounding::Q8_0, Rounding::Q4_0] {
            let written = requantise(&source, rounding).unwrap();
            let mut expected = matrix.clone();
            crate::quant::round(rounding, &mut expected);
            assert_eq!(values(&written, "matrix", 2, 64), (rounding.format(), expected));
            assert_eq!(values(&written, "vector", 1, 64), (Format::F32, vector.clone()));
        }
    }
}
