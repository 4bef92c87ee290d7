//! An operator's word that a node is theirs.

use crate::bytes::{Error, Reader, Writer};
use crate::digest::Domain;
use crate::id::{NetworkId, NodeId, OperatorId};
use crate::key::{BadSignature, SecretKey, Signature, verify};
use crate::unit::Timestamp;
use alloc::vec::Vec;

/// An operator's certificate for one node key, valid in one network from `issued_at` until a later one replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The network it holds in.
    pub network: NetworkId,
    /// Who owns the node.
    pub operator: OperatorId,
    /// The node.
    pub node: NodeId,
    /// When it was made; of two for one node the later one counts.
    pub issued_at: Timestamp,
    /// The operator's signature.
    pub signature: Signature,
}

impl Certificate {
    /// Length of the canonical bytes.
    pub const BYTES: usize = 3 * 32 + 8 + 64;

    /// Certifies a node with its operator's key.
    pub fn issue(operator: &SecretKey, network: NetworkId, node: NodeId, issued_at: Timestamp) -> Self {
        let id = OperatorId(operator.public());
        let signature = operator.sign(Domain::Certificate, &body(&network, &id, &node, issued_at));
        Self { network, operator: id, node, issued_at, signature }
    }

    /// Checks the operator's signature.
    pub fn verify(&self) -> Result<(), BadSignature> {
        let body = body(&self.network, &self.operator, &self.node, self.issued_at);
        match verify(&self.operator.0, Domain::Certificate, &body, &self.signature) {
            true => Ok(()),
            false => Err(BadSignature { signer: "operator", what: "certificate of a node" }),
        }
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = body(&self.network, &self.operator, &self.node, self.issued_at);
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }

    /// Reads canonical bytes; the signature is not checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let certificate = Self {
            network: NetworkId(r.array()?),
            operator: OperatorId(r.array()?),
            node: NodeId(r.array()?),
            issued_at: Timestamp(r.u64()?),
            signature: Signature(r.array()?),
        };
        r.finish()?;
        Ok(certificate)
    }
}

fn body(network: &NetworkId, operator: &OperatorId, node: &NodeId, issued_at: Timestamp) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(&network.0).raw(&operator.0).raw(&node.0).u64(issued_at.0);
    w.finish()
}
