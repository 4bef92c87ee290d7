//! Regions: where a node stands, by the name that its operator gives it.

use crate::bytes::{Error, Reader, Writer};
use core::fmt;

/// Longest name, in bytes: those of the large clouds have up to 24.
pub const NAME_BYTES_MAX: usize = 24;

/// Why text is not the name of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a region has 1 to {NAME_BYTES_MAX} of the characters a to z, 0 to 9 and -")]
pub struct ParseError;

/// A region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region {
    // The name, then zeros.
    bytes: [u8; NAME_BYTES_MAX],
}

impl Region {
    /// Length of the canonical bytes.
    pub const BYTES: usize = NAME_BYTES_MAX;

    /// Its name.
    pub fn name(&self) -> &str {
        let length = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES_MAX);
        core::str::from_utf8(&self.bytes[..length]).expect("a name is made of ASCII characters")
    }

    /// Writes the canonical bytes of a region or of none: the name and zeros, or zeros only.
    pub fn write(region: Option<Self>, w: &mut Writer) {
        w.raw(&region.map_or([0; NAME_BYTES_MAX], |region| region.bytes));
    }

    /// Reads what [`Region::write`] wrote.
    pub fn read(r: &mut Reader<'_>) -> Result<Option<Self>, Error> {
        let bytes: [u8; NAME_BYTES_MAX] = r.array()?;
        if bytes == [0; NAME_BYTES_MAX] {
            return Ok(None);
        }
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES_MAX);
        let name = core::str::from_utf8(&bytes[..length]).map_err(|_| Error::Text)?;
        let region: Self = name.parse().map_err(|ParseError| Error::Text)?;
        // What follows the name is zero: one region has one form.
        if region.bytes == bytes { Ok(Some(region)) } else { Err(Error::Text) }
    }
}

impl core::str::FromStr for Region {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=NAME_BYTES_MAX).contains(&text.len()) || !text.bytes().all(is_known) {
            return Err(ParseError);
        }
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    #[test]
    fn a_name_is_what_clouds_use_and_nothing_else() {
        for name in ["eu-north-1", "local", "a", "123456789012345678901234"] {
            assert_eq!(name.parse::<Region>().map(|region| region.to_string()).as_deref(), Ok(name));
        }
        for name in ["", "EU", "eu north", "eu_north", "örebro", "1234567890123456789012345", "eu\0"] {
            assert_eq!(name.parse::<Region>(), Err(ParseError), "{name:?}");
        }
    }

    #[test]
    fn bytes_are_read_back_and_other_bytes_refused() {
        let read = |bytes: &[u8]| Region::read(&mut Reader::new(bytes));
        let written = |region| {
            let mut w = Writer::new();
            Region::write(region, &mut w);
            w.finish()
        };
        let region = "eu-north-1".parse().ok();
        assert_eq!((read(&written(region)), read(&written(None))), (Ok(region), Ok(None)));
        let mut wrong: Vec<u8> = written(region);
        wrong[20] = b'x';
        assert_eq!(read(&wrong), Err(Error::Text));
        assert_eq!(read(&[0xff; 24]), Err(Error::Text));
        assert_eq!(read(&[b'A'; 24]), Err(Error::Text));
        assert_eq!(read(&[0; 23]), Err(Error::Short { missing: 1 }));
    }
}
