//! Canonical bytes: fixed-size little-endian integers and length-prefixed strings, written and read by hand so that
//! no library's version decides what is signed.

use alloc::vec::Vec;

/// Why bytes are not the canonical form of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before the value does.
    #[error("ends {missing} bytes early")]
    Short {
        /// How many bytes are missing at least.
        missing: usize,
    },
    /// The value ends before the bytes do.
    #[error("{extra} bytes after the end")]
    Long {
        /// How many bytes follow.
        extra: usize,
    },
    /// A tag names no known case.
    #[error("{what} {value} is unknown")]
    Unknown {
        /// What the tag chooses.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A length passes its limit.
    #[error("{what} of {length} passes the limit of {max}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// Text is not UTF-8.
    #[error("text is not UTF-8")]
    Text,
}

/// Appends canonical bytes.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty one.
    pub fn new() -> Self {
        Self(Vec::with_capacity(512))
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Sixteen bytes, two's complement.
    pub fn i128(&mut self, value: i128) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// Bytes of a length that the format fixes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A four-byte length, then the bytes. Lengths past `u32::MAX` can't be written: callers bound them far below.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        assert!(length < u32::MAX, "a canonical string of 4 GiB");
        self.u32(length).raw(bytes)
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads canonical bytes from the front.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Over all of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `length` bytes.
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], Error> {
        match self.0.split_at_checked(length) {
            Some((head, tail)) => {
                self.0 = tail;
                Ok(head)
            }
            None => Err(Error::Short { missing: length - self.0.len() }),
        }
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    /// Sixteen bytes, two's complement.
    pub fn i128(&mut self) -> Result<i128, Error> {
        self.array().map(i128::from_le_bytes)
    }

    /// A length of at most `max`, then as many bytes.
    pub fn bytes(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], Error> {
        let length = self.u32()? as usize;
        if length > max {
            return Err(Error::TooLong { what, length, max });
        }
        self.raw(length)
    }

    /// A length of at most `max`, then UTF-8 text.
    pub fn text(&mut self, what: &'static str, max: usize) -> Result<&'a str, Error> {
        core::str::from_utf8(self.bytes(what, max)?).map_err(|_| Error::Text)
    }

    /// All bytes that are left.
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Refuses bytes that are left over.
    pub fn finish(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Long { extra: self.0.len() }) }
    }
}
