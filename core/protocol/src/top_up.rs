//! Money that enters the network: signed by the issuer, never made by a gateway.

use crate::bytes::{Error, Reader, Writer};
use crate::digest::Domain;
use crate::id::{IssuerId, NetworkId, OwnerId, TenantId};
use crate::key::{BadSignature, SecretKey, Signature, verify};
use crate::unit::MicroCredits;
use alloc::vec::Vec;

/// The issuer's order to credit a tenant, chargeable by the gateways of one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopUp {
    /// The network it holds in.
    pub network: NetworkId,
    /// Who signs.
    pub issuer: IssuerId,
    /// Whose gateways may charge it.
    pub owner: OwnerId,
    /// Whose account it funds.
    pub tenant: TenantId,
    /// How much.
    pub amount: MicroCredits,
    /// Counts up per owner and tenant; a number that is not above the last one is a replay.
    pub serial: u64,
    /// The issuer's signature.
    pub signature: Signature,
}

impl TopUp {
    /// Signs a top-up with the issuer's key.
    pub fn issue(
        issuer: &SecretKey,
        network: NetworkId,
        owner: OwnerId,
        tenant: TenantId,
        amount: MicroCredits,
        serial: u64,
    ) -> Self {
        let id = IssuerId(issuer.public());
        let unsigned = Self { network, issuer: id, owner, tenant, amount, serial, signature: Signature([0; 64]) };
        Self { signature: issuer.sign(Domain::TopUp, &unsigned.body()), ..unsigned }
    }

    /// Checks the issuer's signature; whether this issuer is the network's is the caller's to check.
    pub fn verify(&self) -> Result<(), BadSignature> {
        match verify(&self.issuer.0, Domain::TopUp, &self.body(), &self.signature) {
            true => Ok(()),
            false => Err(BadSignature { signer: "issuer", what: "top-up" }),
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
        let top_up = Self::read(&mut r)?;
        r.finish()?;
        Ok(top_up)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            network: NetworkId(r.array()?),
            issuer: IssuerId(r.array()?),
            owner: OwnerId(r.array()?),
            tenant: TenantId(r.array()?),
            amount: MicroCredits(r.u64()?),
            serial: r.u64()?,
            signature: Signature(r.array()?),
        })
    }

    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.network.0).raw(&self.issuer.0).raw(&self.owner.0).raw(&self.tenant.0);
        w.u64(self.amount.0).u64(self.serial);
        w.finish()
    }
}

/// The part of a top-up that one gateway may charge. The gateways of an owner divide a top-up among themselves, so that
/// each decides alone what its tenants can pay: two logs with parts that overlap are evidence against their owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The whole.
    pub top_up: TopUp,
    /// Where the part begins.
    pub from: MicroCredits,
    /// How much it is.
    pub amount: MicroCredits,
}

impl Slice {
    /// All of a top-up.
    pub const fn whole(top_up: TopUp) -> Self {
        let amount = top_up.amount;
        Self { top_up, from: MicroCredits::ZERO, amount }
    }

    /// Where the part ends, if it is one: above zero, and within the whole.
    pub fn end(&self) -> Option<MicroCredits> {
        let end = self.from.0.checked_add(self.amount.0).map(MicroCredits);
        end.filter(|end| self.amount > MicroCredits::ZERO && *end <= self.top_up.amount)
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.top_up.to_bytes()).u64(self.from.0).u64(self.amount.0);
        w.finish()
    }

    /// Reads canonical bytes; the signature is not checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let top_up = TopUp::read(&mut r)?;
        let slice = Self { top_up, from: MicroCredits(r.u64()?), amount: MicroCredits(r.u64()?) };
        r.finish()?;
        Ok(slice)
    }
}

/// How far a tenant's top-ups are booked: all before this serial that there will be, and of this one so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Funded {
    /// The last top-up's serial.
    pub serial: u64,
    /// Where its last part ended.
    pub end: MicroCredits,
}
