//! Money that enters the network: signed by the issuer, never made by a gateway.

use crate::bytes::{Error, Reader, Writer};
use crate::digest::Domain;
use crate::id::{GatewayId, IssuerId, NetworkId, TenantId};
use crate::key::{BadSignature, SecretKey, Signature, verify};
use crate::unit::MicroCredits;
use alloc::vec::Vec;

/// The issuer's order to credit a tenant, chargeable by one gateway's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopUp {
    /// The network it holds in.
    pub network: NetworkId,
    /// Who signs.
    pub issuer: IssuerId,
    /// Which gateway may charge it.
    pub gateway: GatewayId,
    /// Whose account it funds.
    pub tenant: TenantId,
    /// How much.
    pub amount: MicroCredits,
    /// Counts up per issuer and gateway; a number that is not above the last one is a replay.
    pub serial: u64,
    /// The issuer's signature.
    pub signature: Signature,
}

impl TopUp {
    /// Signs a top-up with the issuer's key.
    pub fn issue(
        issuer: &SecretKey,
        network: NetworkId,
        gateway: GatewayId,
        tenant: TenantId,
        amount: MicroCredits,
        serial: u64,
    ) -> Self {
        let id = IssuerId(issuer.public());
        let unsigned = Self { network, issuer: id, gateway, tenant, amount, serial, signature: Signature([0; 64]) };
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
        let top_up = Self {
            network: NetworkId(r.array()?),
            issuer: IssuerId(r.array()?),
            gateway: GatewayId(r.array()?),
            tenant: TenantId(r.array()?),
            amount: MicroCredits(r.u64()?),
            serial: r.u64()?,
            signature: Signature(r.array()?),
        };
        r.finish()?;
        Ok(top_up)
    }

    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.network.0).raw(&self.issuer.0).raw(&self.gateway.0).raw(&self.tenant.0);
        w.u64(self.amount.0).u64(self.serial);
        w.finish()
    }
}
