//! The ledger as bytes, for a restart without the whole log, and the digest of its state.

use crate::account::Book;
use crate::attempt::Attempt;
use crate::check::Fault;
use crate::escrow::Escrow;
use crate::history::History;
use crate::ledger::{self, Ledger};
use crate::summary::Totals;
use alloc::vec::Vec;
use ol_protocol::bytes::{self, Reader, Writer};
use ol_protocol::digest::{Domain, digest};
use ol_protocol::genesis::Genesis;
use ol_protocol::{Digest, Epoch, MicroCredits};

/// Version of the snapshot; another one is refused and the log is replayed instead.
const SNAPSHOT_VERSION: u16 = 1;

/// Why bytes are no snapshot of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// They can't be read.
    #[error("the snapshot can't be read")]
    Bytes(#[from] bytes::Error),
    /// The genesis in it is none.
    #[error("the genesis of the snapshot is not valid")]
    Genesis(#[from] ledger::Error),
    /// A ledger would have written other bytes.
    #[error("the snapshot is not in canonical form")]
    NotCanonical,
    /// An invariant does not hold.
    #[error("the books of the snapshot are wrong")]
    Wrong(#[from] Fault),
}

impl Ledger {
    /// Digest of everything that decides what the ledger does next.
    pub fn digest(&self) -> Digest {
        digest(Domain::State, &[b"ledger", &self.head(), &self.history.seals()])
    }

    /// Everything that [`Ledger::from_bytes`] needs.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.head());
        self.history.write(&mut w);
        w.finish()
    }

    /// Restores a ledger with the same digest. Bytes that no ledger wrote are refused; whether they are the ledger that
    /// they should be, only their digest in a checkpoint says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RestoreError> {
        let mut r = Reader::new(bytes);
        match r.u16()? {
            SNAPSHOT_VERSION => {}
            other => return Err(bytes::Error::Unknown { what: "snapshot version", value: u64::from(other) }.into()),
        }
        let mut ledger = Self::new(&Genesis::read(&mut r)?)?;
        ledger.open = Epoch(r.u64()?);
        ledger.last_serial = read_serial(&mut r)?;
        ledger.withheld = MicroCredits(r.u64()?);
        ledger.refunded = MicroCredits(r.u64()?);
        ledger.totals = read_totals(&mut r)?;
        ledger.book = Book::read(&mut r)?;
        let count = r.u64()?;
        ledger.pending = (0..count).map(|_| Attempt::read(&mut r)).collect::<Result<_, _>>()?;
        ledger.escrow = Escrow::read(&mut r)?;
        ledger.history = History::read(&mut r)?;
        r.finish()?;
        if ledger.to_bytes() != bytes {
            return Err(RestoreError::NotCanonical);
        }
        ledger.check()?;
        Ok(ledger)
    }

    fn head(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(SNAPSHOT_VERSION).raw(&self.genesis.to_bytes()).u64(self.open.0);
        w.u8(u8::from(self.last_serial.is_some())).u64(self.last_serial.unwrap_or(0));
        w.u64(self.withheld.0).u64(self.refunded.0);
        let Totals { settled, charged, withheld, refunded, released } = self.totals;
        w.u64(settled).u64(charged.0).u64(withheld.0).u64(refunded.0).u64(released.0);
        self.book.write(&mut w);
        w.u64(self.pending.len() as u64);
        for (id, attempt) in &self.pending {
            attempt.write(id, &mut w);
        }
        self.escrow.write(&mut w);
        w.finish()
    }
}

fn read_serial(r: &mut Reader<'_>) -> Result<Option<u64>, bytes::Error> {
    let (known, serial) = (r.u8()?, r.u64()?);
    Ok((known != 0).then_some(serial))
}

fn read_totals(r: &mut Reader<'_>) -> Result<Totals, bytes::Error> {
    Ok(Totals {
        settled: r.u64()?,
        charged: MicroCredits(r.u64()?),
        withheld: MicroCredits(r.u64()?),
        refunded: MicroCredits(r.u64()?),
        released: MicroCredits(r.u64()?),
    })
}
