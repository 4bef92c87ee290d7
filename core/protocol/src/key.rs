//! Ed25519 keys, and signatures over domain-separated canonical bytes.
//!
//! Verification is the strict one, always single: batch verification and single verification may disagree on crafted
//! signatures.

use crate::digest::Domain;
use alloc::vec::Vec;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

/// A signature that does not hold, or a key that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature of {signer} over its {what} does not hold")]
pub struct BadSignature {
    /// Who is said to have signed.
    pub signer: &'static str,
    /// What is said to be signed.
    pub what: &'static str,
}

/// A 64-byte ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl core::fmt::Debug for Signature {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Signature({})", crate::id::hex(&self.0[..4]))
    }
}

/// A secret key. Never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl core::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SecretKey")
    }
}

impl SecretKey {
    /// From 32 bytes of good randomness.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(bytes))
    }

    /// The 32 bytes, for a key file.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Signs canonical bytes under a domain. About 22 us.
    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        self.sign_raw(&tagged(domain, bytes))
    }

    /// Signs bytes as they are: for formats of others, such as signed notes.
    pub fn sign_raw(&self, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(bytes).to_bytes())
    }
}

/// Whether `signature` is `public`'s over canonical bytes under a domain. About 39 us.
pub fn verify(public: &[u8; 32], domain: Domain, bytes: &[u8], signature: &Signature) -> bool {
    verify_raw(public, &tagged(domain, bytes), signature)
}

/// Whether `signature` is `public`'s over bytes as they are.
pub fn verify_raw(public: &[u8; 32], bytes: &[u8], signature: &Signature) -> bool {
    VerifyingKey::from_bytes(public)
        .and_then(|key| key.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(&signature.0)))
        .is_ok()
}

fn tagged(domain: Domain, bytes: &[u8]) -> Vec<u8> {
    [domain.tag(), bytes].concat()
}
