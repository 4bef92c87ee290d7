//! The ledger as bytes, for a restart without the whole log, and the digest of its state.

use crate::account::Book;
use crate::attempt::Attempt;
use crate::check::Fault;
use crate::escrow::Escrow;
use crate::history::History;
use crate::ledger::{self, Auditor, Ledger};
use crate::summary::Totals;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ol_protocol::bytes::{self, Reader, Writer};
use ol_protocol::digest::{Domain, digest};
use ol_protocol::genesis::Genesis;
use ol_protocol::parameters::Parameters;
use ol_protocol::top_up::Funded;
use ol_protocol::{Digest, Epoch, MicroCredits, NodeId, OperatorId, TenantId};

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
        let (head, seals, later) = (self.head(), self.history.seals(), self.later_bytes());
        let parts: [&[u8]; 4] = [b"ledger", &head, &seals, &later];
        digest(Domain::State, if later.is_empty() { &parts[..3] } else { &parts })
    }

    /// Everything that [`Ledger::from_bytes`] needs.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.head());
        self.history.write(&mut w);
        w.raw(&self.later_bytes());
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
        ledger.parameters = Parameters::read(&mut r)?;
        let count = r.u64()?;
        ledger.changes = (0..count)
            .map(|_| Ok((Epoch(r.u64()?), Parameters::read(&mut r)?)))
            .collect::<Result<_, bytes::Error>>()?;
        (ledger.open, ledger.oldest) = (Epoch(r.u64()?), Epoch(r.u64()?));
        ledger.funded = read_funded(&mut r)?;
        ledger.withheld = MicroCredits(r.u64()?);
        ledger.refunded = MicroCredits(r.u64()?);
        ledger.audits = read_audits(&mut r)?;
        ledger.totals = read_totals(&mut r)?;
        ledger.book = Book::read(&mut r)?;
        let count = r.u64()?;
        ledger.pending = (0..count).map(|_| Attempt::read(&mut r)).collect::<Result<_, _>>()?;
        ledger.escrow = Escrow::read(&mut r)?;
        ledger.history = History::read(&mut r)?;
        ledger.read_later(r.rest())?;
        if ledger.to_bytes() != bytes {
            return Err(RestoreError::NotCanonical);
        }
        ledger.check()?;
        Ok(ledger)
    }

    fn head(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(SNAPSHOT_VERSION).raw(&self.genesis.to_bytes()).raw(&self.parameters.to_bytes());
        w.u64(self.changes.len() as u64);
        for (from, parameters) in &self.changes {
            w.u64(from.0).raw(&parameters.to_bytes());
        }
        w.u64(self.open.0).u64(self.oldest.0);
        w.u64(self.funded.len() as u64);
        for (tenant, funded) in &self.funded {
            w.raw(&tenant.0).u64(funded.serial).u64(funded.end.0);
        }
        w.u64(self.withheld.0).u64(self.refunded.0);
        w.u64(self.audits.len() as u64);
        for (auditor, due) in &self.audits {
            w.raw(&auditor.node.0).raw(&auditor.operator.0).u64(due.0);
        }
        let Totals { settled, charged, withheld, refunded, audits, released, paid_out, .. } = self.totals;
        w.u64(settled).u64(charged.0).u64(withheld.0).u64(refunded.0).u64(audits.0).u64(released.0).u64(paid_out.0);
        self.book.write(&mut w);
        w.u64(self.pending.len() as u64);
        for (id, attempt) in &self.pending {
            attempt.write(id, &mut w);
        }
        self.escrow.write(&mut w);
        w.finish()
    }
}

impl Ledger {
    // Nothing where nobody was ever slashed, and the network has no tasks of its own: logs that are older than both state digests without them.
    fn later_bytes(&self) -> Vec<u8> {
        let has_own = self.totals.own != MicroCredits::ZERO;
        if self.slashes.is_empty() && self.totals.slashed == MicroCredits::ZERO && !has_own {
            return Vec::new();
        }
        let mut w = Writer::new();
        w.u64(self.totals.slashed.0).u64(self.slashes.len() as u64);
        for (node, operator) in &self.slashes {
            w.raw(&node.0).raw(&operator.0);
        }
        if has_own {
            w.u64(self.totals.own.0);
        }
        w.finish()
    }

    fn read_later(&mut self, bytes: &[u8]) -> Result<(), bytes::Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut r = Reader::new(bytes);
        self.totals.slashed = MicroCredits(r.u64()?);
        let count = r.u64()?;
        let one = |_| Ok((NodeId(r.array()?), OperatorId(r.array()?)));
        self.slashes = (0..count).map(one).collect::<Result<_, bytes::Error>>()?;
        if let rest @ [_, ..] = r.rest() {
            let mut r = Reader::new(rest);
            self.totals.own = MicroCredits(r.u64()?);
            return r.finish();
        }
        Ok(())
    }
}

fn read_funded(r: &mut Reader<'_>) -> Result<BTreeMap<TenantId, Funded>, bytes::Error> {
    let count = r.u64()?;
    let one = |_| Ok((TenantId(r.array()?), Funded { serial: r.u64()?, end: MicroCredits(r.u64()?) }));
    (0..count).map(one).collect()
}

fn read_audits(r: &mut Reader<'_>) -> Result<BTreeMap<Auditor, MicroCredits>, bytes::Error> {
    let count = r.u64()?;
    let one = |_| {
        let auditor = Auditor { node: NodeId(r.array()?), operator: OperatorId(r.array()?) };
        Ok((auditor, MicroCredits(r.u64()?)))
    };
    (0..count).map(one).collect()
}

fn read_totals(r: &mut Reader<'_>) -> Result<Totals, bytes::Error> {
    Ok(Totals {
        settled: r.u64()?,
        charged: MicroCredits(r.u64()?),
        withheld: MicroCredits(r.u64()?),
        refunded: MicroCredits(r.u64()?),
        audits: MicroCredits(r.u64()?),
        released: MicroCredits(r.u64()?),
        paid_out: MicroCredits(r.u64()?),
        // Read with those who are to be slashed.
        slashed: MicroCredits::ZERO,
        own: MicroCredits::ZERO,
    })
}
