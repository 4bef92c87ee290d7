//! Ids: fixed-size names of the things that are signed about.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// Why text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, got {got} characters or another alphabet")]
pub struct ParseIdError {
    expected: usize,
    got: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const BYTES: usize = $bytes;

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// Its first eight hexadecimal digits, for people to tell a few apart.
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex(&self.0))
            }
        }

        impl core::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let wrong = ParseIdError { expected: 2 * $bytes, got: text.len() };
                let mut bytes = [0; $bytes];
                unhex(text, &mut bytes).map_or(Err(wrong), |()| Ok(Self(bytes)))
            }
        }
    };
}

id!(/// A SHA-256 digest.
    Digest, 32);
id!(/// A network: the digest of its genesis.
    NetworkId, 32);
id!(/// A node: its ed25519 public key.
    NodeId, 32);
id!(/// An operator: the ed25519 public key that certifies its nodes.
    OperatorId, 32);
id!(/// A gateway: its ed25519 public key.
    GatewayId, 32);
id!(/// An issuer: the ed25519 public key that signs top-ups.
    IssuerId, 32);
id!(/// An owner of data or of a model: the ed25519 public key that signs for them.
    OwnerId, 32);
id!(/// A tenant's account; says nothing about the person behind it.
    TenantId, 16);
id!(/// A task, and the id of its receipt.
    TaskId, 16);
id!(/// A variant: the digest of model, adapter, quantisation and numerics.
    VariantId, 32);
id!(/// An audit; blind, it says nothing about the task that it checks.
    AuditId, 16);
id!(/// Which tasks may share what a node keeps of their prompts: those of one tenant and variant in one day. Opaque to nodes.
    Scope, 16);
id!(/// A per-task secret that keeps digests in the public log from revealing what was digested.
    Salt, 32);

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    // Written in place: a receipt's headers and lines of the log have a dozen of these.
    let mut text = vec![0; 2 * bytes.len()];
    for ([high, low], byte) in text.as_chunks_mut().0.iter_mut().zip(bytes) {
        (*high, *low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
    }
    String::from_utf8(text).expect("hexadecimal digits")
}

/// Reads exactly `out.len()` bytes of hexadecimal; `None` for any other length or alphabet.
pub fn unhex(text: &str, out: &mut [u8]) -> Option<()> {
    if text.len() != 2 * out.len() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(())
}

/// Reads any number of bytes of hexadecimal; `None` for another alphabet, or half a byte.
pub fn unhex_all(text: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; text.len() / 2];
    unhex(text, &mut bytes).map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_id_reads_what_it_printed() {
        let id = TaskId([0xa7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn bytes_of_any_number_are_read_whole_or_not_at_all() {
        assert_eq!(unhex_all("00fFa7"), Some(vec![0, 0xff, 0xa7]));
        assert_eq!(unhex_all(""), Some(Vec::new()));
        assert_eq!((unhex_all("0"), unhex_all("0g"), unhex_all("é")), (None, None, None));
    }

    #[test]
    fn other_lengths_and_letters_are_no_id() {
        assert!("a7".parse::<TaskId>().is_err());
        assert!("zz".repeat(16).parse::<TaskId>().is_err());
        assert!("é".repeat(16).parse::<TaskId>().is_err());
    }
}
