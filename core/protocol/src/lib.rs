//! Ids, units, canonical bytes, digests, signatures and Merkle trees of everything that is signed, and the contract
//! of a machine. No clock, no I/O, no threads, no ambient randomness.
#![no_std]

extern crate alloc;

pub mod batch;
pub mod bytes;
pub mod calibration;
pub mod certificate;
pub mod checkpoint;
pub mod commitment;
pub mod digest;
pub mod evidence;
pub mod genesis;
pub mod id;
pub mod key;
pub mod machine;
pub mod merkle;
pub mod parameters;
pub mod prf;
pub mod receipt;
pub mod record;
pub mod region;
pub mod sampler;
pub mod scope;
pub mod seal;
pub mod seed;
pub mod tenant;
pub mod ticket;
pub mod tile;
pub mod top_up;
pub mod unit;
pub mod variant;
pub mod verdict;

pub use id::{
    AuditId, Digest, GatewayId, IssuerId, NetworkId, NodeId, OperatorId, OwnerId, Salt, Scope, TaskId, TenantId,
    VariantId,
};
pub use machine::Machine;
pub use region::Region;
pub use unit::{Epoch, MicroCredits, Micros, Price, Timestamp, TokenCount};

/// Version of every signed format in this crate.
pub const FORMAT_VERSION: u16 = 1;

// Reads the version in front of a signed format.
fn version(r: &mut bytes::Reader<'_>) -> Result<(), bytes::Error> {
    match r.u16()? {
        FORMAT_VERSION => Ok(()),
        other => Err(bytes::Error::Unknown { what: "format version", value: u64::from(other) }),
    }
}
