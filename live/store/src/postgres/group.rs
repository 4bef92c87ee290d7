//! A group of jobs on its way into the log: what the database knows about them, and what they come to.

use super::read::{Bytes, number, read_note};
use super::session::{Answer, Call, Session};
use super::write::Writes;
use crate::admit::{self, Known};
use crate::error::Error;
use crate::store::{Appended, Job, Note};
use crate::tree::Edge;
use ol_protocol::record::Record;
use ol_protocol::{Digest, Epoch, GatewayId, NetworkId, NodeId, TenantId, merkle};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tokio_postgres::Row;

/// What the database holds that decides about the jobs of a group, and what those that were admitted add to it.
#[derive(Default)]
pub(super) struct Holdings {
    network: Option<NetworkId>,
    nexts: BTreeMap<NodeId, u64>,
    checkpoints: BTreeMap<Epoch, Note>,
    keys: BTreeMap<TenantId, [u8; 32]>,
}

impl Holdings {
    /// Begins a transaction and asks.
    pub(super) fn ask(
        session: &Session,
        gateway: i32,
        network: Option<NetworkId>,
        jobs: &[Arc<Job>],
    ) -> Result<Self, Error> {
        let mut calls = vec![Call::new("BEGIN", Vec::new())];
        let tenants = jobs.iter().flat_map(|job| &job.tenants);
        let keys: Vec<Vec<u8>> = tenants.clone().map(|tenant| tenant.key_hash.to_vec()).collect();
        if !keys.is_empty() {
            // Other gateways write tenants too.
            calls.push(Call::new("LOCK TABLE tenants IN SHARE ROW EXCLUSIVE MODE", Vec::new()));
        }
        let ids: Vec<Vec<u8>> = tenants.map(|tenant| tenant.tenant.0.to_vec()).collect();
        let sql = "SELECT tenant, key_hash FROM tenants WHERE tenant = ANY ($1) OR key_hash = ANY ($2)";
        calls.push(Call::new(sql, vec![Box::new(ids), Box::new(keys)]));
        let nodes: BTreeSet<NodeId> = jobs.iter().flat_map(|job| &job.records).filter_map(batch_node).collect();
        let nodes: Vec<Vec<u8>> = nodes.iter().map(|node| node.0.to_vec()).collect();
        let sql =
            "SELECT node, (SELECT max(sequence) + 1 FROM batches WHERE gateway = $1 AND batches.node = asked.node)
            FROM unnest($2::bytea[]) AS asked (node)";
        calls.push(Call::new(sql, vec![Box::new(gateway), Box::new(nodes)]));
        let epochs = jobs.iter().flat_map(|job| &job.checkpoint).filter_map(|note| i64::try_from(note.epoch.0).ok());
        let sql = "SELECT epoch, size, note FROM checkpoints WHERE gateway = $1 AND epoch = ANY ($2)";
        calls.push(Call::new(sql, vec![Box::new(gateway), Box::new(epochs.collect::<Vec<_>>())]));
        let mut answers = session.ask_all(&calls)?;
        let place = answers.len() - 3;
        let asked = answers.split_off(place);
        let failed = |cause| session.server().failed(cause);
        answers.into_iter().try_for_each(|answer| answer.map(drop)).map_err(failed)?;
        Self { network, ..Self::default() }.read(asked).map_err(failed)
    }

    fn read(mut self, answers: Vec<Answer>) -> Result<Self, tokio_postgres::Error> {
        let mut answers = answers.into_iter();
        for row in answers.next().transpose()?.into_iter().flatten() {
            let (Bytes(tenant), Bytes(key)) = (row.try_get(0)?, row.try_get(1)?);
            self.keys.insert(TenantId(tenant), key);
        }
        for row in answers.next().transpose()?.into_iter().flatten() {
            let next: Option<i64> = row.try_get(1)?;
            self.nexts.insert(row.try_get(0).map(|Bytes(id)| NodeId(id))?, next.map_or(0, i64::cast_unsigned));
        }
        for row in answers.next().transpose()?.into_iter().flatten() {
            self.checkpoints.insert(Epoch(number(&row, 0)?), read_note(&row)?);
        }
        Ok(self)
    }

    // The later jobs of a group see what the earlier ones bring.
    fn add(&mut self, job: &Job) {
        for record in &job.records {
            match record {
                Record::Genesis(genesis) => self.network = Some(genesis.network()),
                Record::Batch(batch) => {
                    self.nexts.insert(batch.header.node, batch.header.sequence + 1);
                }
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
        self.checkpoints.extend(job.checkpoint.iter().map(|note| (note.epoch, note.clone())));
        self.keys.extend(job.tenants.iter().map(|tenant| (tenant.tenant, tenant.key_hash)));
    }
}

impl Known for Holdings {
    fn network(&self) -> Result<Option<NetworkId>, Error> {
        Ok(self.network)
    }

    fn next_sequence(&self, node: NodeId) -> Result<u64, Error> {
        Ok(self.nexts.get(&node).copied().unwrap_or(0))
    }

    fn checkpoint(&self, epoch: Epoch) -> Result<Option<Note>, Error> {
        Ok(self.checkpoints.get(&epoch).cloned())
    }

    fn key_owner(&self, key_hash: &[u8; 32]) -> Result<Option<TenantId>, Error> {
        Ok(self.keys.iter().find(|(_, key)| *key == key_hash).map(|(tenant, _)| *tenant))
    }
}

/// What was appended by commits whose answer was lost, oldest first: the digest of each job's records, and its answer.
pub(super) type Unheard = VecDeque<(Digest, Appended)>;

/// The log as it is once a group is written.
pub(super) struct Group {
    pub(super) edge: Edge,
    pub(super) network: Option<NetworkId>,
    /// Without the answers that this group gives.
    pub(super) unheard: Unheard,
    /// What this group appends.
    pub(super) appended: Vec<(Digest, Appended)>,
    answers: Vec<Result<Draft, Error>>,
}

// An answer, and which statement tells the number of expired payloads in it.
struct Draft {
    appended: Appended,
    expire: Option<usize>,
}

impl Group {
    /// Of a log that the group is to be added to.
    pub(super) fn new(edge: Edge, unheard: Unheard) -> Self {
        Self { edge, network: None, unheard, appended: Vec::new(), answers: Vec::new() }
    }

    /// Admits or refuses each job, and gathers what the admitted ones write.
    pub(super) fn fill(
        &mut self,
        jobs: &[Arc<Job>],
        gateway: GatewayId,
        mut held: Holdings,
        writes: &mut Writes<'_>,
    ) -> Result<(), Error> {
        for job in jobs {
            let digest = digest(&job.records);
            let heard = self.unheard.iter().position(|(of, _)| Some(*of) == digest);
            if let Some((_, appended)) = heard.and_then(|place| self.unheard.remove(place)) {
                self.answers.push(Ok(Draft { appended, expire: None }));
                continue;
            }
            match admit::admit(job, self.edge.size(), gateway, &held) {
                Ok(()) => {}
                Err(refused @ Error::Refused(_)) => {
                    self.answers.push(Err(refused));
                    continue;
                }
                Err(failed) => return Err(failed),
            }
            held.add(job);
            let draft = self.add(job, writes)?;
            self.appended.extend(digest.map(|digest| (digest, draft.appended)));
            self.answers.push(Ok(draft));
        }
        self.network = held.network;
        Ok(())
    }

    fn add(&mut self, job: &Job, writes: &mut Writes<'_>) -> Result<Draft, Error> {
        let first_index = self.edge.size();
        writes.records(&job.records, &mut self.edge)?;
        job.payloads.iter().try_for_each(|payload| writes.payload(payload))?;
        job.facts.iter().try_for_each(|facts| writes.facts(facts))?;
        job.tenants.iter().try_for_each(|tenant| writes.tenant(tenant))?;
        job.snapshot.iter().try_for_each(|snapshot| writes.snapshot(snapshot))?;
        job.checkpoint.iter().try_for_each(|note| writes.checkpoint(note))?;
        let expire = job.expire_before.map(|before| writes.expire(before));
        let appended = Appended { first_index, size: self.edge.size(), root: self.edge.root(), expired: 0 };
        Ok(Draft { appended, expire })
    }

    /// The answers to the jobs, from those to the statements. They can't fail: the jobs are in the log.
    pub(super) fn answers(self, rows: &[Vec<Row>]) -> Vec<Result<Appended, Error>> {
        let count = |place: usize| number(rows.get(place)?.first()?, 0).ok();
        let finish = |Draft { appended, expire }| {
            let expired = expire.and_then(count).unwrap_or(appended.expired);
            Appended { expired, ..appended }
        };
        self.answers.into_iter().map(|answer| answer.map(finish)).collect()
    }
}

// `None` for a job without records, which may be done again.
fn digest(records: &[Record]) -> Option<Digest> {
    let leaves: Vec<Digest> = records.iter().map(Record::leaf).collect();
    (!leaves.is_empty()).then(|| merkle::root(&leaves))
}

fn batch_node(record: &Record) -> Option<NodeId> {
    match record {
        Record::Batch(batch) => Some(batch.header.node),
        Record::Genesis(_)
        | Record::TopUp(_)
        | Record::Receipt(_)
        | Record::Audit { .. }
        | Record::Close(_)
        | Record::Parameters(_)
        | Record::Calibration(_)
        | Record::Evidence(_)
        | Record::Sealed { .. } => None,
    }
}
