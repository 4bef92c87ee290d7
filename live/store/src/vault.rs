//! Encryption of what is kept for the audit window: XChaCha20-Poly1305 with a random nonce in front of the ciphertext.
//!
//! The long nonce lets every sealing draw its own at random, over any number of restarts.

use crate::error::Error;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

const NONCE_BYTES: usize = 24;

/// Bytes that sealing adds.
pub(crate) const OVERHEAD_BYTES: usize = NONCE_BYTES + 16;

/// Seals and opens under one key.
#[derive(Clone)]
pub(crate) struct Vault(XChaCha20Poly1305);

impl Vault {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(secret.into()))
    }

    /// `name` says what is sealed; it is not kept, and opening under another name fails.
    pub(crate) fn seal(&self, name: &[u8], plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| Error::Random)?;
        let body = self.0.encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: name });
        let body = body.expect("only texts of 256 GiB can't be encrypted");
        Ok([&nonce[..], &body].concat())
    }

    /// `None` if it was sealed under another name or key, or changed since.
    pub(crate) fn open(&self, name: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        self.0.decrypt(&XNonce::from(*nonce), Payload { msg: body, aad: name }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_under_their_own_name_and_key_only() {
        let vault = Vault::new(&[1; 32]);
        let sealed = vault.seal(b"a", b"text").expect("sealed");
        assert_eq!(sealed.len(), 4 + OVERHEAD_BYTES);
        assert_eq!(vault.open(b"a", &sealed), Some(b"text".to_vec()));
        assert_eq!(vault.open(b"b", &sealed), None);
        assert_eq!(Vault::new(&[2; 32]).open(b"a", &sealed), None);
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(vault.open(b"a", &changed), None, "byte {place}");
        }
        assert_eq!(vault.open(b"a", &sealed[..10]), None);
    }
}
