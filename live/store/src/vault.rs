//! Encryption of what is kept for the audit window: XChaCha20-Poly1305 with its nonce in front of the ciphertext.
//!
//! The first 16 bytes of a nonce are drawn at random by each vault, over any number of restarts; the last 8 count what it sealed. The first
//! ones and the key make the key of a ChaCha20-Poly1305 (draft-irtf-cfrg-xchacha, section 2.3), for which the last ones are the nonce, so
//! that a vault's own sealings share a key that is made once.

use crate::error::Error;
use chacha20::cipher::array::Array;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zeroize::Zeroizing;

const DRAWN_BYTES: usize = 16;
const COUNT_BYTES: usize = 8;

/// Bytes that sealing adds.
const OVERHEAD_BYTES: usize = DRAWN_BYTES + COUNT_BYTES + 16;

/// Seals and opens under one key. Copies are the same vault.
#[derive(Clone)]
pub(crate) struct Vault(Arc<Inner>);

struct Inner {
    secret: Zeroizing<[u8; 32]>,
    drawn: [u8; DRAWN_BYTES],
    own: LessSafeKey,
    sealed: AtomicU64,
}

impl Vault {
    pub(crate) fn new(secret: &[u8; 32]) -> Result<Self, Error> {
        let mut drawn = [0; DRAWN_BYTES];
        getrandom::fill(&mut drawn).map_err(|_| Error::Random)?;
        Ok(Self(Arc::new(Inner {
            secret: Zeroizing::new(*secret),
            drawn,
            own: derived(secret, drawn),
            sealed: AtomicU64::new(0),
        })))
    }

    /// Seals parts as one text. `name` says what is sealed; it is not kept, and opening under another name fails.
    pub(crate) fn seal(&self, name: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let count = self.0.sealed.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let mut sealed = Vec::with_capacity(bytes + OVERHEAD_BYTES);
        sealed.extend_from_slice(&self.0.drawn);
        sealed.extend_from_slice(&count);
        parts.iter().for_each(|part| sealed.extend_from_slice(part));
        let body = &mut sealed[DRAWN_BYTES + COUNT_BYTES..];
        let tag = self.0.own.seal_in_place_separate_tag(nonce(count), Aad::from(name), body);
        sealed.extend_from_slice(tag.expect("only texts of 256 GiB can't be encrypted").as_ref());
        sealed
    }

    /// `None` if it was sealed under another name or key, or changed since.
    pub(crate) fn open(&self, name: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (drawn, rest) = sealed.split_first_chunk()?;
        let (count, body) = rest.split_first_chunk()?;
        let mut body = body.to_vec();
        let key = derived(&self.0.secret, *drawn);
        let plain = key.open_in_place(nonce(*count), Aad::from(name), &mut body).ok()?.len();
        body.truncate(plain);
        Some(body)
    }
}

fn derived(secret: &[u8; 32], drawn: [u8; DRAWN_BYTES]) -> LessSafeKey {
    let key = chacha20::hchacha::<chacha20::R20>(&Array(*secret), &Array(drawn));
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).expect("a key of 32 bytes"))
}

fn nonce(count: [u8; COUNT_BYTES]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - COUNT_BYTES..].copy_from_slice(&count);
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};

    fn vault(secret: u8) -> Vault {
        Vault::new(&[secret; 32]).expect("randomness")
    }

    #[test]
    fn sealed_bytes_open_under_their_own_name_and_key_only() {
        let vault = vault(1);
        let sealed = vault.seal(b"a", &[b"te", b"xt"]);
        assert_eq!(sealed.len(), 4 + OVERHEAD_BYTES);
        assert_eq!(vault.open(b"a", &sealed), Some(b"text".to_vec()));
        assert_eq!(vault.open(b"b", &sealed), None);
        assert_eq!(self::vault(2).open(b"a", &sealed), None);
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(vault.open(b"a", &changed), None, "byte {place}");
        }
        assert_eq!(vault.open(b"a", &sealed[..10]), None);
    }

    #[test]
    fn no_two_sealings_have_the_same_nonce_and_each_vault_opens_the_others() {
        let (one, other) = (vault(1), vault(1));
        let sealed = [one.seal(b"a", &[]), one.clone().seal(b"a", &[]), other.seal(b"a", &[])];
        assert_ne!(sealed[0], sealed[1]);
        assert_ne!(sealed[0][..DRAWN_BYTES], sealed[2][..DRAWN_BYTES]);
        for sealed in &sealed {
            assert_eq!(one.open(b"a", sealed), Some(Vec::new()));
        }
    }

    // The format's name is a promise: another implementation reads it, and writes what is read here.
    #[test]
    fn it_is_xchacha20_poly1305() {
        let theirs = XChaCha20Poly1305::new(&[7; 32].into());
        let ours = vault(7);
        for bytes in [0, 1, 63, 64, 65, 1_300] {
            let plain = vec![9; bytes];
            let sealed = ours.seal(b"name", &[&plain]);
            let (nonce, body) = sealed.split_first_chunk::<24>().expect("a nonce");
            let opened = theirs.decrypt(&XNonce::from(*nonce), Payload { msg: body, aad: b"name" });
            assert_eq!(opened.expect("opens"), plain);
            let body = theirs.encrypt(&XNonce::from([3; 24]), Payload { msg: &plain, aad: b"name" }).expect("sealed");
            assert_eq!(ours.open(b"name", &[&[3; 24], &body[..]].concat()), Some(plain));
        }
    }
}
