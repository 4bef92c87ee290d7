//! Whether a job may be written, whatever holds the store: all that can be refused is found before any of it is.

use crate::error::{Error, Refusal};
use crate::store::{Job, Note, Read, Tenant};
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::genesis::Genesis;
use ol_protocol::record::Record;
use ol_protocol::{Epoch, GatewayId, NetworkId, NodeId, TaskId, TenantId};
use std::collections::BTreeMap;

/// What a store holds already, as far as it decides whether more may come.
pub(crate) trait Known {
    /// The network, if it is known.
    fn network(&self) -> Result<Option<NetworkId>, Error>;
    /// The number after a node's last batch.
    fn next_sequence(&self, node: NodeId) -> Result<u64, Error>;
    /// The checkpoint of an epoch.
    fn checkpoint(&self, epoch: Epoch) -> Result<Option<Note>, Error>;
    /// Whose API key it is.
    fn key_owner(&self, key_hash: &[u8; 32]) -> Result<Option<TenantId>, Error>;
}

impl<R: Read> Known for R {
    fn network(&self) -> Result<Option<NetworkId>, Error> {
        Read::network(self)
    }

    fn next_sequence(&self, node: NodeId) -> Result<u64, Error> {
        Read::next_sequence(self, node)
    }

    fn checkpoint(&self, epoch: Epoch) -> Result<Option<Note>, Error> {
        Read::checkpoint(self, epoch)
    }

    fn key_owner(&self, key_hash: &[u8; 32]) -> Result<Option<TenantId>, Error> {
        Ok(self.tenant_by_key_hash(key_hash)?.map(|tenant| tenant.tenant))
    }
}

/// Refuses a job that may not follow the `size` records of the gateway's log.
pub(crate) fn admit(job: &Job, size: u64, gateway: GatewayId, known: &impl Known) -> Result<(), Error> {
    job.check()?;
    let mut next = BTreeMap::new();
    for (record, index) in job.records.iter().zip(size..) {
        match record {
            Record::Genesis(genesis) => admit_genesis(genesis, index, gateway, known)?,
            _ if index == 0 => return Err(Refusal::Genesis { index }.into()),
            Record::Batch(batch) => admit_batch(batch, &mut next, known)?,
            Record::TopUp(_)
            | Record::Receipt(_)
            | Record::Audit { .. }
            | Record::Close(_)
            | Record::Parameters(_)
            | Record::Calibration(_)
            | Record::Evidence(_)
            | Record::Sealed { .. } => {}
        }
    }
    job.checkpoint.iter().try_for_each(|note| admit_checkpoint(note, known))?;
    job.tenants.iter().try_for_each(|tenant| admit_tenant(tenant, known))
}

fn admit_genesis(genesis: &Genesis, index: u64, gateway: GatewayId, known: &impl Known) -> Result<(), Error> {
    if index != 0 {
        return Err(Refusal::Genesis { index }.into());
    }
    let network = genesis.network();
    let known = known.network()?;
    if genesis.gateway != gateway || known.is_some_and(|known| known != network) {
        return Err(Refusal::ForeignGenesis { network, gateway: genesis.gateway }.into());
    }
    Ok(())
}

// `nexts` holds the numbers after the batches that come before in the same job.
fn admit_batch(batch: &CountersignedBatch, nexts: &mut BTreeMap<NodeId, u64>, known: &impl Known) -> Result<(), Error> {
    let (node, sequence) = (batch.header.node, batch.header.sequence);
    let next = match nexts.get(&node) {
        Some(next) => *next,
        None => known.next_sequence(node)?,
    };
    if sequence < next {
        return Err(Refusal::Repeated { node, sequence, next }.into());
    }
    nexts.insert(node, sequence + 1);
    Ok(())
}

fn admit_checkpoint(note: &Note, known: &impl Known) -> Result<(), Error> {
    match known.checkpoint(note.epoch)? {
        Some(stored) if stored.size != note.size || signed_text(&stored) != signed_text(note) => {
            Err(Refusal::Fork { epoch: note.epoch }.into())
        }
        _ => Ok(()),
    }
}

fn admit_tenant(tenant: &Tenant, known: &impl Known) -> Result<(), Error> {
    match known.key_owner(&tenant.key_hash)? {
        Some(other) if other != tenant.tenant => Err(Refusal::KeyTaken { tenant: other }.into()),
        _ => Ok(()),
    }
}

// A note's text without the signatures, which witnesses add to.
fn signed_text(note: &Note) -> &str {
    note.text.rsplit_once("\n\n").map_or(note.text.as_str(), |(text, _)| text)
}

/// A record that is found by its task: a receipt, with the index of its batch's record, or an audit, without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskEntry {
    pub(crate) task: TaskId,
    pub(crate) index: u64,
    pub(crate) batch: Option<u64>,
}

/// The entries of an admitted job's records, of which the first has `first_index`.
pub(crate) fn task_entries(records: &[Record], first_index: u64) -> Vec<TaskEntry> {
    let mut entries = Vec::new();
    for (record, at) in records.iter().zip(0..) {
        let index = first_index + at as u64;
        match record {
            Record::Batch(batch) => {
                let receipts = &records[at - usize::from(batch.header.count)..at];
                for (receipt, index_of) in receipts.iter().zip(index - receipts.len() as u64..) {
                    if let Record::Receipt(receipt) = receipt {
                        entries.push(TaskEntry { task: receipt.commitment.task, index: index_of, batch: Some(index) });
                    }
                }
            }
            Record::Audit { subject, .. } => entries.push(TaskEntry { task: subject.task, index, batch: None }),
            Record::Genesis(_)
            | Record::TopUp(_)
            | Record::Receipt(_)
            | Record::Close(_)
            | Record::Parameters(_)
            | Record::Calibration(_)
            | Record::Evidence(_)
            | Record::Sealed { .. } => {}
        }
    }
    entries
}
