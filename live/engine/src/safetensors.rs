//! Tensors of a safetensors file: f32 only, every size checked against the file.
//!
//! Source: huggingface/safetensors, README.md (format).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::load::Error;

/// Bytes of the JSON header; the format's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A parsed file.
pub(crate) struct Tensors<'a> {
    entries: BTreeMap<String, Entry>,
    data: &'a [u8],
}

impl<'a> Tensors<'a> {
    /// Reads the header of a whole file.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let format = Error::Format { format: "safetensors" };
        let Some((head, rest)) = file.split_first_chunk::<8>() else { return Err(format) };
        let length = u64::from_le_bytes(*head);
        if length > HEADER_BYTES_MAX {
            return Err(format);
        }
        let header = rest.get(..length as usize).ok_or_else(|| Error::Truncated { what: "the header".to_owned() })?;
        let json = |cause| Error::Json { what: "the header", cause };
        let mut raw: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).map_err(json)?;
        raw.remove("__metadata__");
        let entries = raw.into_iter().map(|(name, value)| Ok((name, serde_json::from_value(value).map_err(json)?)));
        let tensors = Self { entries: entries.collect::<Result<_, Error>>()?, data: &rest[length as usize..] };
        // Each is copied, so that many tensors over the same bytes would fill the memory from a small file.
        let sizes = tensors.entries.values().map(|entry| entry.data_offsets[1].saturating_sub(entry.data_offsets[0]));
        let (value, limit) = (sizes.fold(0, u64::saturating_add), tensors.data.len() as u64);
        let what = "size of all tensors".to_owned();
        if value > limit { Err(Error::Limit { what, value, limit }) } else { Ok(tensors) }
    }

    /// The values of a tensor of this shape.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let entry = self.entries.get(name).ok_or_else(|| Error::missing(format!("tensor {name}")))?;
        if entry.dtype != "F32" {
            return Err(Error::Unsupported { what: "tensor type", found: entry.dtype.clone() });
        }
        let wanted: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
        if entry.shape != wanted {
            return Err(Error::invalid(format!("shape of tensor {name}"), format!("{:?}", entry.shape)));
        }
        let [start, end] = entry.data_offsets;
        let bytes = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let bytes = bytes.and_then(|(start, end)| self.data.get(start..end));
        let bytes = bytes.ok_or_else(|| Error::Truncated { what: format!("tensor {name}") })?;
        if bytes.len() != shape.iter().product::<usize>() * 4 {
            return Err(Error::invalid(format!("size of tensor {name}"), bytes.len().to_string()));
        }
        Ok(bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    fn refused(header: &str) -> String {
        let file = file(header, &[0; 16]);
        let found = Tensors::parse(&file).and_then(|tensors| tensors.values("a", &[2, 2]));
        found.map_or_else(|error| error.to_string(), |values| format!("{values:?}"))
    }

    #[test]
    fn a_tensor_has_its_values() {
        let header = r#"{"__metadata__":{"x":"y"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
        assert_eq!(refused(header), "[0.0, 0.0, 0.0, 0.0]");
    }

    #[test]
    fn impossible_tensors_are_refused_with_a_reason() {
        let with = |dtype: &str, shape: &str, offsets: &str| {
            refused(&format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#))
        };
        assert_eq!(with("BF16", "[2,2]", "[0,16]"), "tensor type BF16 is not supported");
        assert_eq!(with("F32", "[4]", "[0,16]"), "shape of tensor a can't be [4]");
        assert_eq!(with("F32", "[2,2]", "[0,12]"), "size of tensor a can't be 12");
        assert_eq!(with("F32", "[2,2]", "[16,0]"), "file ends within tensor a");
        assert_eq!(
            with("F32", "[2,2]", "[0,18446744073709551615]"),
            "size of all tensors is 18446744073709551615, at most 16"
        );
        let tensor = r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}"#;
        let twice = refused(&format!(r#"{{"a":{tensor},"b":{tensor}}}"#));
        assert_eq!(twice, "size of all tensors is 32, at most 16");
        assert_eq!(refused("{}"), "the file has no tensor a");
        assert_eq!(refused("[1]"), "the header is not the JSON expected");
        assert!(Tensors::parse(&[0xff; 20]).is_err() && Tensors::parse(&[9, 0, 0, 0, 0, 0, 0, 0, b'{']).is_err());
    }
}
