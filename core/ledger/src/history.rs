//! Settled attempts, as long as a finding may still come or their id may come again.

use crate::attempt::{Attempt, Stage};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ol_protocol::bytes::{Error, Reader, Writer};
use ol_protocol::digest::{Domain, digest};
use ol_protocol::record::AttemptId;
use ol_protocol::{Digest, Epoch, TaskId};

/// Attempts by the epoch in which they were settled: some 200 bytes of memory each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History {
    epochs: BTreeMap<Epoch, Past>,
    // Where each attempt is; follows from `epochs`.
    index: BTreeMap<AttemptId, Epoch>,
}

/// The attempts of one epoch. The digest over them is kept, so that the state's digest costs one hash for each old epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Past {
    attempts: BTreeMap<AttemptId, Attempt>,
    seal: Digest,
}

impl Past {
    fn new(attempts: BTreeMap<AttemptId, Attempt>) -> Self {
        let seal = digest(Domain::State, &[b"ledger epoch", &Self::bytes(&attempts)]);
        Self { attempts, seal }
    }

    fn bytes(attempts: &BTreeMap<AttemptId, Attempt>) -> Vec<u8> {
        let mut w = Writer::new();
        for (id, attempt) in attempts {
            attempt.write(id, &mut w);
        }
        w.finish()
    }
}

impl History {
    pub(crate) fn get(&self, id: &AttemptId) -> Option<(Epoch, Attempt)> {
        let epoch = *self.index.get(id)?;
        let attempt = self.epochs.get(&epoch)?.attempts.get(id)?;
        Some((epoch, *attempt))
    }

    pub(crate) fn holds(&self, id: &AttemptId) -> bool {
        self.index.contains_key(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Those of one task.
    pub(crate) fn of(&self, task: TaskId) -> impl Iterator<Item = (Epoch, Attempt)> + '_ {
        let all = AttemptId { task, attempt: 0 }..=AttemptId { task, attempt: u8::MAX };
        self.index.range(all).filter_map(|(id, _)| self.get(id))
    }

    /// Takes the attempts that an epoch settled.
    pub(crate) fn add(&mut self, epoch: Epoch, attempts: BTreeMap<AttemptId, Attempt>) {
        if attempts.is_empty() {
            return;
        }
        self.index.extend(attempts.keys().map(|id| (*id, epoch)));
        self.epochs.insert(epoch, Past::new(attempts));
    }

    /// Notes that a settled attempt's tenant has the money back. Hashes its epoch again.
    pub(crate) fn refund(&mut self, epoch: Epoch, id: &AttemptId) {
        let Some(mut past) = self.epochs.remove(&epoch) else { return };
        if let Some(attempt) = past.attempts.get_mut(id) {
            attempt.stage = Stage::Refunded;
        }
        self.epochs.insert(epoch, Past::new(past.attempts));
    }

    /// Forgets the epochs before `first`.
    pub(crate) fn forget(&mut self, first: Epoch) {
        let kept = self.epochs.split_off(&first);
        for past in core::mem::replace(&mut self.epochs, kept).values() {
            for id in past.attempts.keys() {
                self.index.remove(id);
            }
        }
    }

    pub(crate) fn attempts(&self) -> impl Iterator<Item = (Epoch, &AttemptId, &Attempt)> {
        self.epochs.iter().flat_map(|(epoch, past)| past.attempts.iter().map(|(id, attempt)| (*epoch, id, attempt)))
    }

    pub(crate) fn latest(&self) -> Option<Epoch> {
        self.epochs.keys().next_back().copied()
    }

    /// What the state's digest covers.
    pub(crate) fn seals(&self) -> Vec<u8> {
        let mut w = Writer::new();
        for (epoch, past) in &self.epochs {
            w.u64(epoch.0).raw(&past.seal.0);
        }
        w.finish()
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.epochs.len() as u64);
        for (epoch, past) in &self.epochs {
            w.u64(epoch.0).u64(past.attempts.len() as u64).raw(&Past::bytes(&past.attempts));
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let mut history = Self::default();
        for _ in 0..r.u64()? {
            let (epoch, count) = (Epoch(r.u64()?), r.u64()?);
            let attempts = (0..count).map(|_| Attempt::read(r)).collect::<Result<_, _>>()?;
            history.add(epoch, attempts);
        }
        Ok(history)
    }
}
