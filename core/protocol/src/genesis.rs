//! The first record of a gateway's log: the network, and who keeps the log.

use crate::FORMAT_VERSION;
use crate::bytes::{Error, Reader, Writer};
use crate::digest::{Domain, digest};
use crate::id::{Digest, GatewayId, IssuerId, NetworkId, NodeId, OperatorId, OwnerId, TenantId};
use crate::key::{BadSignature, SecretKey, Signature, verify};
use crate::parameters::Parameters;
use crate::unit::{Micros, Timestamp};
use alloc::vec::Vec;

/// The first record of a gateway's log. What all gateways of a network have in common makes the network's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// Who signs top-ups.
    pub issuer: IssuerId,
    /// The network's own scorer.
    pub referee: NodeId,
    /// The key that certifies the referee.
    pub referee_operator: OperatorId,
    /// When the network began.
    pub born_at: Timestamp,
    /// Length of an epoch.
    pub epoch: Micros,
    /// What holds until a change of parameters.
    pub parameters: Parameters,
    /// The gateway whose log this is.
    pub gateway: GatewayId,
    /// Whose gateway it is: who may charge what the issuer sold.
    pub owner: OwnerId,
    /// The owner's signature over network and gateway.
    pub signature: Signature,
}

impl Genesis {
    /// The network's id.
    pub fn network(&self) -> NetworkId {
        NetworkId(digest(Domain::Genesis, &[&self.common()]).0)
    }

    /// Who asks for the network's own tasks: a tenant that nobody else is, and that the account for audits pays for.
    pub fn own_tenant(&self) -> TenantId {
        tenant(&[b"network", &self.network().0])
    }

    /// Whom a gateway charges with what it pays itself: a tenant that nobody else is, and that the gateway's own account pays for.
    pub fn gateway_tenant(&self) -> TenantId {
        tenant(&[b"gateway", &self.network().0, &self.gateway.0])
    }

    /// The same network in the log of another gateway, or of the same, signed by its owner.
    pub fn of(self, gateway: GatewayId, owner: &SecretKey) -> Self {
        let mut genesis = Self { gateway, owner: OwnerId(owner.public()), ..self };
        genesis.signature = owner.sign(Domain::Gateway, &genesis.body());
        genesis
    }

    /// Checks the owner's signature.
    pub fn verify(&self) -> Result<(), BadSignature> {
        match verify(&self.owner.0, Domain::Gateway, &self.body(), &self.signature) {
            true => Ok(()),
            false => Err(BadSignature { signer: "owner", what: "gateway" }),
        }
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.common();
        for part in [&self.gateway.0[..], &self.owner.0, &self.signature.0] {
            bytes.extend_from_slice(part);
        }
        bytes
    }

    fn common(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(FORMAT_VERSION).raw(&self.issuer.0).raw(&self.referee.0);
        w.raw(&self.referee_operator.0).u64(self.born_at.0).u64(self.epoch.0);
        w.raw(&self.parameters.to_bytes());
        w.finish()
    }

    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.network().0).raw(&self.gateway.0);
        w.finish()
    }

    /// Reads canonical bytes from the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        crate::version(r)?;
        Ok(Self {
            issuer: IssuerId(r.array()?),
            referee: NodeId(r.array()?),
            referee_operator: OperatorId(r.array()?),
            born_at: Timestamp(r.u64()?),
            epoch: Micros(r.u64()?),
            parameters: Parameters::read(r)?,
            gateway: GatewayId(r.array()?),
            owner: OwnerId(r.array()?),
            signature: Signature(r.array()?),
        })
    }
}
fn tenant(parts: &[&[u8]]) -> TenantId {
    let Digest(bytes) = digest(Domain::Tenant, parts);
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[..16]);
    TenantId(id)
}
