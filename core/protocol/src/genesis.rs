//! The first record of a gateway's log, which names the network.

use crate::FORMAT_VERSION;
use crate::bytes::{Error, Reader, Writer};
use crate::digest::{Domain, digest};
use crate::id::{GatewayId, IssuerId, NetworkId, NodeId, OperatorId};
use crate::parameters::Parameters;
use crate::unit::{Micros, Timestamp};
use alloc::vec::Vec;

/// The first record of a gateway's log. Its digest is the network's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// Who signs top-ups.
    pub issuer: IssuerId,
    /// The gateway whose log this is.
    pub gateway: GatewayId,
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
}

impl Genesis {
    /// The network's id.
    pub fn network(&self) -> NetworkId {
        NetworkId(digest(Domain::Genesis, &[&self.to_bytes()]).0)
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(FORMAT_VERSION).raw(&self.issuer.0).raw(&self.gateway.0).raw(&self.referee.0);
        w.raw(&self.referee_operator.0).u64(self.born_at.0).u64(self.epoch.0);
        w.raw(&self.parameters.to_bytes());
        w.finish()
    }

    /// Reads canonical bytes from the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        crate::version(r)?;
        Ok(Self {
            issuer: IssuerId(r.array()?),
            gateway: GatewayId(r.array()?),
            referee: NodeId(r.array()?),
            referee_operator: OperatorId(r.array()?),
            born_at: Timestamp(r.u64()?),
            epoch: Micros(r.u64()?),
            parameters: Parameters::read(r)?,
        })
    }
}
