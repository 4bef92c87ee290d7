//! What makes an epoch final: for now the gateway's own signature under its checkpoint.

use ol_protocol::Epoch;
use ol_protocol::checkpoint::Checkpoint;
use ol_protocol::id::hex;
use ol_protocol::key::SecretKey;

/// Why a checkpoint was not made final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is of another gateway's log than the key signs for.
    #[error("a checkpoint of gateway {got}, but the key is that of {expected}")]
    Foreign {
        /// The key's gateway.
        expected: String,
        /// The checkpoint's.
        got: String,
    },
    /// Signing it would put two histories under one key.
    #[error("a checkpoint of epoch {epoch} and size {size} after that of epoch {last_epoch} and size {last_size}")]
    Fork {
        /// The refused one's epoch.
        epoch: Epoch,
        /// The refused one's size.
        size: u64,
        /// Epoch of the last one signed.
        last_epoch: Epoch,
        /// Size of the last one signed.
        last_size: u64,
    },
}

/// Turns checkpoints into notes that others accept as final.
pub trait Finality {
    /// Signs a checkpoint, or has it signed, and gives the note.
    ///
    /// The caller stores the note before it publishes it, and hands the last stored one to the next start.
    fn finalise(&mut self, checkpoint: &Checkpoint) -> Result<String, Error>;
}

/// Finality by one gateway's word. It never signs a second history: each checkpoint is of a later epoch and a larger log
/// than the one before, or is that one again.
#[derive(Debug)]
pub struct Solo {
    key: SecretKey,
    last: Option<Checkpoint>,
}

impl Solo {
    /// With the gateway's key and the last checkpoint that it signed.
    pub const fn new(key: SecretKey, last: Option<Checkpoint>) -> Self {
        Self { key, last }
    }

    fn refuse_fork(&self, next: &Checkpoint) -> Result<(), Error> {
        let Some(last) = &self.last else { return Ok(()) };
        let follows = next.network == last.network && next.epoch > last.epoch && next.size > last.size;
        if follows || next == last {
            return Ok(());
        }
        Err(Error::Fork { epoch: next.epoch, size: next.size, last_epoch: last.epoch, last_size: last.size })
    }
}

impl Finality for Solo {
    fn finalise(&mut self, checkpoint: &Checkpoint) -> Result<String, Error> {
        let public = self.key.public();
        if checkpoint.gateway != public {
            return Err(Error::Foreign { expected: hex(&public), got: hex(&checkpoint.gateway) });
        }
        self.refuse_fork(checkpoint)?;
        self.last = Some(checkpoint.clone());
        Ok(checkpoint.sign(&self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_protocol::{Digest, NetworkId};

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32])
    }

    fn checkpoint(epoch: u64, size: u64, root: u8) -> Checkpoint {
        Checkpoint {
            network: NetworkId([1; 32]),
            gateway: key().public(),
            size,
            root: Digest([root; 32]),
            epoch: Epoch(epoch),
            state: Digest([2; 32]),
            draw_seal: Digest([3; 32]),
            nonce_seal: Digest([4; 32]),
        }
    }

    fn fork(next: &Checkpoint, last: &Checkpoint) -> Result<String, Error> {
        let (last_epoch, last_size) = (last.epoch, last.size);
        Err(Error::Fork { epoch: next.epoch, size: next.size, last_epoch, last_size })
    }

    #[test]
    fn a_note_opens_as_the_checkpoint_that_was_signed() {
        let first = checkpoint(0, 10, 1);
        let note = Solo::new(key(), None).finalise(&first).expect("the first");
        assert_eq!(Checkpoint::open(&note, first.network, first.gateway), Ok(first));
    }

    #[test]
    fn the_same_checkpoint_gets_the_same_note_again() {
        let mut solo = Solo::new(key(), None);
        let note = solo.finalise(&checkpoint(0, 10, 1)).expect("the first");
        assert_eq!(solo.finalise(&checkpoint(0, 10, 1)), Ok(note));
    }

    #[test]
    fn a_fork_is_not_signed_even_after_a_restart() {
        let last = checkpoint(5, 10, 1);
        let mut solo = Solo::new(key(), Some(last.clone()));
        for next in [checkpoint(5, 10, 2), checkpoint(5, 11, 1), checkpoint(6, 10, 2), checkpoint(4, 9, 1)] {
            assert_eq!(solo.finalise(&next), fork(&next, &last));
        }
        assert!(solo.finalise(&checkpoint(6, 11, 2)).is_ok(), "the refusals changed nothing");
    }

    #[test]
    fn another_network_under_the_same_key_is_a_fork() {
        let last = checkpoint(5, 10, 1);
        let next = Checkpoint { network: NetworkId([9; 32]), ..checkpoint(6, 11, 1) };
        assert_eq!(Solo::new(key(), Some(last.clone())).finalise(&next), fork(&next, &last));
    }

    #[test]
    fn another_gateways_checkpoint_is_refused() {
        let foreign = Checkpoint { gateway: [9; 32], ..checkpoint(0, 1, 1) };
        let refused = Error::Foreign { expected: hex(&key().public()), got: hex(&[9; 32]) };
        assert_eq!(Solo::new(key(), None).finalise(&foreign), Err(refused));
    }
}
