//! Header of a GGUF file: metadata and the places of tensors, with a limit on everything a hostile file could inflate.
//!
//! Source: ggml-org/ggml, docs/gguf.md, versions 2 and 3 (little-endian).

use std::collections::BTreeMap;
use std::ops::Range;

use crate::load::Error;

/// Metadata entries; real files have about 40.
const ENTRIES_MAX: u64 = 4096;
/// Tensors; a model of 126 layers has about 1,200.
const TENSORS_MAX: u64 = 16_384;
/// Items of one array; the largest vocabularies and their merges stay under half a million.
const ITEMS_MAX: u64 = 1 << 20;
/// Bytes of one string; chat templates are the longest.
const STRING_BYTES_MAX: u64 = 1 << 20;
/// Elements of one tensor: keeps every product of sizes far from overflow.
const ELEMENTS_MAX: u64 = 1 << 33;
/// Largest alignment of tensor data.
const ALIGNMENT_MAX: u64 = 1 << 16;

/// One metadata value. Arrays of numbers are widened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Whole(i128),
    Real(f64),
    Bool(bool),
    Text(String),
    Wholes(Vec<i64>),
    Reals(Vec<f64>),
    Texts(Vec<String>),
}

/// Element types that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Format {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q8_0,
}

impl Format {
    fn from_id(id: u32) -> Result<Self, Error> {
        match id {
            0 => Ok(Self::F32),
            1 => Ok(Self::F16),
            2 => Ok(Self::Q4_0),
            3 => Ok(Self::Q4_1),
            8 => Ok(Self::Q8_0),
            other => Err(Error::Unsupported { what: "tensor type", found: type_name(other) }),
        }
    }

    pub(crate) const fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 8,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
        }
    }

    /// Elements and bytes of one block.
    pub(crate) const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q8_0 => (32, 34),
        }
    }
}

/// Names of types that are common but not loaded, so that the refusal tells what the file holds.
fn type_name(id: u32) -> String {
    let known = match id {
        6 => "Q5_0",
        7 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        30 => "BF16",
        _ => return format!("number {id}"),
    };
    known.to_owned()
}

/// One tensor: `columns` run fastest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) bytes: Range<usize>,
}

/// Metadata and tensors of a file.
#[derive(Debug)]
pub(crate) struct Header {
    /// Bytes of all metadata entries, and how many there are.
    pub(crate) entries: (Range<usize>, u64),
    pub(crate) alignment: usize,
    values: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

impl Header {
    /// Reads the header of a whole file.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, Error> {
        Self::parse_head(file, file.len() as u64)
    }

    /// Reads the header of a file of `file_bytes` bytes from its beginning.
    pub(crate) fn parse_head(head: &[u8], file_bytes: u64) -> Result<Self, Error> {
        let mut reader = Reader { file: head, at: 0 };
        if reader.take(4, "the magic number")? != b"GGUF" {
            return Err(Error::Format { format: "GGUF" });
        }
        let version = reader.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(Error::Unsupported { what: "GGUF version", found: version.to_string() });
        }
        let tensors = reader.count("number of tensors", TENSORS_MAX)?;
        let entries = reader.count("number of metadata entries", ENTRIES_MAX)?;
        let mut values = BTreeMap::new();
        let first = reader.at;
        for _ in 0..entries {
            let key = reader.string()?;
            let kind = reader.u32(&key)?;
            let value = reader.value(kind, &key)?;
            values.insert(key, value);
        }
        let entries = (first..reader.at, entries);
        let places = (0..tensors).map(|_| reader.place()).collect::<Result<Vec<_>, _>>()?;
        let mut header = Self { entries, alignment: 1, values, tensors: BTreeMap::new() };
        let alignment = header.whole_or("general.alignment", 32, 1..=ALIGNMENT_MAX)?;
        header.alignment = alignment as usize;
        let data = (reader.at as u64).next_multiple_of(alignment);
        let mut bytes = 0_u64;
        for place in places {
            let tensor = place.locate(data, file_bytes)?;
            bytes = bytes.saturating_add(tensor.bytes.len() as u64);
            header.tensors.insert(place.name, tensor);
        }
        // Each is copied, so that many tensors over the same bytes would fill the memory from a small file.
        if bytes > file_bytes {
            return Err(Error::Limit { what: "size of all tensors".to_owned(), value: bytes, limit: file_bytes });
        }
        Ok(header)
    }

    /// The tensor of this name, with these sizes.
    pub(crate) fn tensor(&self, name: &str, rows: usize, columns: usize) -> Result<&Tensor, Error> {
        let tensor = self.tensors.get(name).ok_or_else(|| Error::missing(format!("tensor {name}")))?;
        if (tensor.rows, tensor.columns) == (rows, columns) {
            Ok(tensor)
        } else {
            let found = format!("{} x {}, expected {rows} x {columns}", tensor.rows, tensor.columns);
            Err(Error::invalid(format!("shape of tensor {name}"), found))
        }
    }

    /// All tensors by name.
    pub(crate) const fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes of all tensors.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.bytes.len() as u64).sum()
    }

    /// The format of most weights.
    pub(crate) fn main_format(&self) -> Format {
        let mut elements: BTreeMap<Format, usize> = BTreeMap::new();
        for tensor in self.tensors.values().filter(|tensor| tensor.rows > 1) {
            *elements.entry(tensor.format).or_default() += tensor.rows * tensor.columns;
        }
        elements.into_iter().max_by_key(|(_, count)| *count).map_or(Format::F32, |(format, _)| format)
    }

    /// A value, if it is there.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A text, if it is there.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(Error::invalid(key, "anything but text")),
        }
    }

    /// A whole number within a range.
    pub(crate) fn whole(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, Error> {
        match self.values.get(key) {
            None => Err(Error::missing(format!("metadata {key}"))),
            Some(Value::Whole(value)) => match u64::try_from(*value) {
                Ok(value) if range.contains(&value) => Ok(value),
                _ => Err(Error::invalid(key, value.to_string())),
            },
            Some(_) => Err(Error::invalid(key, "anything but a whole number")),
        }
    }

    /// A whole number within a range, or its default.
    pub(crate) fn whole_or(&self, key: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> Result<u64, Error> {
        if self.values.contains_key(key) { self.whole(key, range) } else { Ok(default) }
    }

    /// A finite positive number, or its default.
    pub(crate) fn real_or(&self, key: &str, default: f64) -> Result<f64, Error> {
        match self.values.get(key) {
            None => Ok(default),
            Some(Value::Real(value)) if value.is_finite() && *value > 0.0 => Ok(*value),
            Some(_) => Err(Error::invalid(key, "anything but a positive number")),
        }
    }

    /// A truth value, or its default.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.values.get(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(Error::invalid(key, "anything but true or false")),
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self, key: &str) -> Result<&[String], Error> {
        match self.values.get(key) {
            None => Err(Error::missing(format!("metadata {key}"))),
            Some(Value::Texts(texts)) => Ok(texts),
            Some(_) => Err(Error::invalid(key, "anything but a list of texts")),
        }
    }
}

/// A tensor before its data is found.
struct Place {
    name: String,
    format: Format,
    rows: u64,
    columns: u64,
    offset: u64,
}

impl Place {
    fn locate(&self, data: u64, file_bytes: u64) -> Result<Tensor, Error> {
        let (elements, bytes) = self.format.block();
        if !self.columns.is_multiple_of(elements as u64) {
            return Err(Error::invalid(format!("row length of tensor {}", self.name), self.columns.to_string()));
        }
        let size = self.rows * self.columns / elements as u64 * bytes as u64;
        let start = data.saturating_add(self.offset);
        let end = start.saturating_add(size);
        if end > file_bytes {
            return Err(Error::Truncated { what: format!("tensor {}", self.name) });
        }
        Ok(Tensor {
            format: self.format,
            rows: self.rows as usize,
            columns: self.columns as usize,
            bytes: start as usize..end as usize,
        })
    }
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], Error> {
        let end = self.at.saturating_add(count);
        let bytes = self.file.get(self.at..end).ok_or_else(|| Error::Truncated { what: what.to_owned() })?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn count(&mut self, what: &str, limit: u64) -> Result<u64, Error> {
        let value = self.u64(what)?;
        if value > limit {
            return Err(Error::Limit { what: what.to_owned(), value, limit });
        }
        Ok(value)
    }

    fn string(&mut self) -> Result<String, Error> {
        let count = self.count("length of a string", STRING_BYTES_MAX)?;
        let bytes = self.take(count as usize, "a string")?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, Error> {
        Ok(match kind {
            7 => Value::Bool(self.array::<1>(key)? != [0]),
            8 => Value::Text(self.string()?),
            9 => self.list(key)?,
            10 => Value::Whole(self.u64(key)?.into()),
            6 | 12 => Value::Real(self.real(kind, key)?),
            _ => Value::Whole(self.whole(kind, key)?.into()),
        })
    }

    fn whole(&mut self, kind: u32, key: &str) -> Result<i64, Error> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array(key)?).into(),
            1 => i8::from_le_bytes(self.array(key)?).into(),
            2 => u16::from_le_bytes(self.array(key)?).into(),
            3 => i16::from_le_bytes(self.array(key)?).into(),
            4 => self.u32(key)?.into(),
            5 => i32::from_le_bytes(self.array(key)?).into(),
            11 => i64::from_le_bytes(self.array(key)?),
            other => return Err(Error::invalid(format!("type of metadata {key}"), other.to_string())),
        })
    }

    fn real(&mut self, kind: u32, key: &str) -> Result<f64, Error> {
        if kind == 6 {
            Ok(f32::from_le_bytes(self.array(key)?).into())
        } else {
            Ok(f64::from_le_bytes(self.array(key)?))
        }
    }

    fn list(&mut self, key: &str) -> Result<Value, Error> {
        let kind = self.u32(key)?;
        let count = self.count("length of a list", ITEMS_MAX)?;
        Ok(match kind {
            6 | 12 => Value::Reals((0..count).map(|_| self.real(kind, key)).collect::<Result<_, _>>()?),
            8 => Value::Texts((0..count).map(|_| self.string()).collect::<Result<_, _>>()?),
            7 => Value::Wholes((0..count).map(|_| self.whole(0, key)).collect::<Result<_, _>>()?),
            _ => Value::Wholes((0..count).map(|_| self.whole(kind, key)).collect::<Result<_, _>>()?),
        })
    }

    fn place(&mut self) -> Result<Place, Error> {
        let name = self.string()?;
        let dimensions = self.u32(&name)?;
        if !(1..=2).contains(&dimensions) {
            return Err(Error::invalid(format!("number of dimensions of tensor {name}"), dimensions.to_string()));
        }
        let columns = self.u64(&name)?;
        let rows = if dimensions == 2 { self.u64(&name)? } else { 1 };
        let elements = columns.saturating_mul(rows);
        if elements == 0 || elements > ELEMENTS_MAX {
            let what = format!("number of elements of tensor {name}");
            return Err(Error::Limit { what, value: elements, limit: ELEMENTS_MAX });
        }
        let format = Format::from_id(self.u32(&name)?)?;
        Ok(Place { format, rows, columns, offset: self.u64(&name)?, name })
    }
}
