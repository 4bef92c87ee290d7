//! Who may ask the gateways of an owner: the owner's word, kept beside the log, not in it.

use crate::bytes::{Error, Reader, Writer};
use crate::digest::Domain;
use crate::id::{Digest, NetworkId, OwnerId, TenantId};
use crate::key::{BadSignature, SecretKey, Signature, verify};
use crate::unit::Timestamp;
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// A tenant as an owner of gateways enters it. Of two entries of one tenant the one issued later counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantEntry {
    /// The network it holds in.
    pub network: NetworkId,
    /// Who signs: the owner of the gateways.
    pub owner: OwnerId,
    /// The account.
    pub tenant: TenantId,
    /// For people; at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Digest of its API key; none, and it may not ask.
    pub key: Option<Digest>,
    /// Requests that it may make in a minute; 0 for what the gateway gives everyone.
    pub requests_per_minute: u32,
    /// Tokens that it may use in a minute; 0 for what the gateway gives everyone.
    pub tokens_per_minute: u32,
    /// When it was made.
    pub issued_at: Timestamp,
    /// The owner's signature.
    pub signature: Signature,
}

impl TenantEntry {
    /// Signed with the owner's key, which sets owner and signature.
    pub fn signed(self, owner: &SecretKey) -> Self {
        let unsigned = Self { owner: OwnerId(owner.public()), ..self };
        Self { signature: owner.sign(Domain::Tenant, &unsigned.body()), ..unsigned }
    }

    /// Checks the owner's signature; whether this owner is the gateway's is the caller's to check.
    pub fn verify(&self) -> Result<(), BadSignature> {
        match verify(&self.owner.0, Domain::Tenant, &self.body(), &self.signature) {
            true => Ok(()),
            false => Err(BadSignature { signer: "owner", what: "entry of a tenant" }),
        }
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }

    /// Reads canonical bytes; the signature is not checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let (network, owner, tenant) = (NetworkId(r.array()?), OwnerId(r.array()?), TenantId(r.array()?));
        let name = r.text("name of a tenant", NAME_BYTES_MAX)?.to_owned();
        let key = match r.u8()? {
            0 => None,
            1 => Some(Digest(r.array()?)),
            other => return Err(Error::Unknown { what: "key of a tenant", value: u64::from(other) }),
        };
        let (requests_per_minute, tokens_per_minute) = (r.u32()?, r.u32()?);
        let (issued_at, signature) = (Timestamp(r.u64()?), Signature(r.array()?));
        r.finish()?;
        Ok(Self { network, owner, tenant, name, key, requests_per_minute, tokens_per_minute, issued_at, signature })
    }

    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.network.0).raw(&self.owner.0).raw(&self.tenant.0).bytes(self.name.as_bytes());
        match &self.key {
            None => w.u8(0),
            Some(key) => w.u8(1).raw(&key.0),
        };
        w.u32(self.requests_per_minute).u32(self.tokens_per_minute).u64(self.issued_at.0);
        w.finish()
    }
}
