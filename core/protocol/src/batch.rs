//! One signature for many results: a node signs the root over a batch, the gateway countersigns it.

use crate::FORMAT_VERSION;
use crate::bytes::{Error, Reader, Writer};
use crate::commitment::Commitment;
use crate::digest::Domain;
use crate::id::{Digest, GatewayId, NetworkId, NodeId, OperatorId};
use crate::key::{BadSignature, SecretKey, Signature, verify};
use crate::merkle;
use crate::unit::Epoch;
use alloc::vec::Vec;

/// Most commitments of one batch. A batch of 256 brings the node's signature below 0.1 us and its check below 0.2 us a
/// receipt.
pub const BATCH_MAX: usize = 256;

/// What a node signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    /// The network.
    pub network: NetworkId,
    /// The gateway it is for.
    pub gateway: GatewayId,
    /// The node that signs.
    pub node: NodeId,
    /// Who owns the node.
    pub operator: OperatorId,
    /// Counts the node's batches for this gateway from 0; a gap shows a lost one, a repeat a duplicate.
    pub sequence: u64,
    /// The latest epoch the node had heard of.
    pub epoch: Epoch,
    /// How many commitments there are, 1 to 256.
    pub count: u16,
    /// RFC 6962 root over them.
    pub root: Digest,
}

impl BatchHeader {
    /// Length of the canonical bytes.
    pub const BYTES: usize = 2 + 4 * 32 + 8 + 8 + 2 + 32;

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(FORMAT_VERSION).raw(&self.network.0).raw(&self.gateway.0).raw(&self.node.0).raw(&self.operator.0);
        w.u64(self.sequence).u64(self.epoch.0).u16(self.count).raw(&self.root.0);
        w.finish()
    }

    /// Reads canonical bytes from the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        crate::version(r)?;
        Ok(Self {
            network: NetworkId(r.array()?),
            gateway: GatewayId(r.array()?),
            node: NodeId(r.array()?),
            operator: OperatorId(r.array()?),
            sequence: r.u64()?,
            epoch: Epoch(r.u64()?),
            count: r.u16()?,
            root: Digest(r.array()?),
        })
    }
}

/// Why a batch is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// No commitments, too many, or another number than the header says.
    #[error("a batch of {count} commitments whose header says {said}, limit {BATCH_MAX}")]
    Count {
        /// How many there are.
        count: usize,
        /// How many the header says.
        said: u16,
    },
    /// The root is not over these commitments.
    #[error("the root of the batch is not over its commitments")]
    Root,
    /// A commitment names another network, gateway, node or operator than the header.
    #[error("commitment {index} names another network, gateway, node or operator than its batch")]
    Foreign {
        /// Which one.
        index: usize,
    },
    /// The node's signature does not hold.
    #[error(transparent)]
    Signature(#[from] BadSignature),
}

/// A batch as a node sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBatch {
    /// What is signed.
    pub header: BatchHeader,
    /// The commitments under the root, in order.
    pub commitments: Vec<Commitment>,
    /// The node's signature over the header.
    pub signature: Signature,
}

impl SignedBatch {
    /// Signs commitments that all name the header's parties. `header.count` and `header.root` are filled in.
    pub fn sign(key: &SecretKey, mut header: BatchHeader, commitments: Vec<Commitment>) -> Self {
        header.count = u16::try_from(commitments.len()).unwrap_or(u16::MAX);
        header.root = root(&commitments);
        let signature = key.sign(Domain::Batch, &header.to_bytes());
        Self { header, commitments, signature }
    }

    /// Checks count, parties, root and signature. One signature check, about 40 us, and one hash a commitment.
    pub fn verify(self) -> Result<VerifiedBatch, BatchError> {
        let (header, commitments) = (&self.header, &self.commitments);
        let count = commitments.len();
        if count == 0 || count > BATCH_MAX || count != usize::from(header.count) {
            return Err(BatchError::Count { count, said: header.count });
        }
        let foreign = |c: &Commitment| {
            (c.network, c.gateway, c.node, c.operator) != (header.network, header.gateway, header.node, header.operator)
        };
        if let Some(index) = commitments.iter().position(foreign) {
            return Err(BatchError::Foreign { index });
        }
        if root(commitments) != header.root {
            return Err(BatchError::Root);
        }
        check_node(header, &self.signature)?;
        Ok(VerifiedBatch(self))
    }

    /// Canonical bytes: header, signature, commitments.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.header.to_bytes()).raw(&self.signature.0);
        for commitment in &self.commitments {
            w.raw(&commitment.to_bytes());
        }
        w.finish()
    }

    /// Reads canonical bytes; nothing is verified.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let header = BatchHeader::read(&mut r)?;
        let signature = Signature(r.array()?);
        let count = usize::from(header.count);
        if count > BATCH_MAX {
            return Err(Error::TooLong { what: "batch", length: count, max: BATCH_MAX });
        }
        let commitments = (0..count).map(|_| Commitment::read(&mut r)).collect::<Result<_, _>>()?;
        r.finish()?;
        Ok(Self { header, commitments, signature })
    }
}

/// Checks a node's signature over a batch header.
pub fn check_node(header: &BatchHeader, signature: &Signature) -> Result<(), BadSignature> {
    match verify(&header.node.0, Domain::Batch, &header.to_bytes(), signature) {
        true => Ok(()),
        false => Err(BadSignature { signer: "node", what: "batch" }),
    }
}

/// A batch whose every check held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedBatch(SignedBatch);

impl VerifiedBatch {
    /// The batch.
    pub const fn batch(&self) -> &SignedBatch {
        &self.0
    }

    /// The batch, given away.
    pub fn into_batch(self) -> SignedBatch {
        self.0
    }

    /// A batch as a simulation makes it, where no one forges and signatures would only cost time.
    pub const fn trusted(batch: SignedBatch) -> Self {
        Self(batch)
    }
}

/// A gateway's word that it holds a batch: over the node's header and the root of its own receipts for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountersignedBatch {
    /// What the node signed.
    pub header: BatchHeader,
    /// The node's signature.
    pub node_signature: Signature,
    /// RFC 6962 root over the receipts (commitment and charge), in the batch's order.
    pub receipts_root: Digest,
    /// The gateway's signature.
    pub gateway_signature: Signature,
}

impl CountersignedBatch {
    /// Length of the canonical bytes.
    pub const BYTES: usize = BatchHeader::BYTES + 64 + 32 + 64;

    /// Countersigns.
    pub fn sign(key: &SecretKey, header: BatchHeader, node_signature: Signature, receipts_root: Digest) -> Self {
        let gateway_signature =
            key.sign(Domain::Countersignature, &countersigned(&header, &node_signature, &receipts_root));
        Self { header, node_signature, receipts_root, gateway_signature }
    }

    /// Checks both signatures.
    pub fn verify(&self) -> Result<(), BadSignature> {
        check_node(&self.header, &self.node_signature)?;
        let bytes = countersigned(&self.header, &self.node_signature, &self.receipts_root);
        match verify(&self.header.gateway.0, Domain::Countersignature, &bytes, &self.gateway_signature) {
            true => Ok(()),
            false => Err(BadSignature { signer: "gateway", what: "countersignature of a batch" }),
        }
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = countersigned(&self.header, &self.node_signature, &self.receipts_root);
        bytes.extend_from_slice(&self.gateway_signature.0);
        bytes
    }

    /// Reads canonical bytes from the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            header: BatchHeader::read(r)?,
            node_signature: Signature(r.array()?),
            receipts_root: Digest(r.array()?),
            gateway_signature: Signature(r.array()?),
        })
    }
}

fn countersigned(header: &BatchHeader, node_signature: &Signature, receipts_root: &Digest) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(&header.to_bytes()).raw(&node_signature.0).raw(&receipts_root.0);
    w.finish()
}

fn root(commitments: &[Commitment]) -> Digest {
    let leaves: Vec<Digest> = commitments.iter().map(Commitment::leaf).collect();
    merkle::root(&leaves)
}
