//! What a group of jobs writes, gathered into few statements of many rows.

use super::session::{Call, Value};
use crate::admit::{TaskEntry, task_entries};
use crate::database::int;
use crate::error::Error;
use crate::payload::{self, Payload};
use crate::read::facts_name;
use crate::store::{Facts, Note, SNAPSHOTS_KEPT, Snapshot, Tenant};
use crate::tree::{Edge, Subtree};
use crate::vault::Vault;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::{TaskId, Timestamp, merkle};
use std::collections::BTreeMap;

// Bytes of one statement: far below the gigabyte that PostgreSQL takes, and the server keeps a few times as many in memory.
const STATEMENT_BYTES_MAX: usize = 32 << 20;

/// The statements of a group.
pub(super) struct Writes<'a> {
    gateway: i32,
    vault: &'a Vault,
    calls: Vec<Call>,
    rows: Rows,
}

// Rows that are not in a statement yet, by column.
#[derive(Default)]
struct Rows {
    bytes: usize,
    records: (Vec<i64>, Vec<Vec<u8>>, Vec<Vec<u8>>),
    nodes: (Vec<i16>, Vec<i64>, Vec<Vec<u8>>),
    tasks: (Vec<Vec<u8>>, Vec<i64>, Vec<Option<i64>>),
    batches: (Vec<Vec<u8>>, Vec<i64>, Vec<i64>),
    // The last ones count: a statement may not change a row twice.
    facts: BTreeMap<TaskId, Vec<u8>>,
    payloads: BTreeMap<AttemptId, (i64, Vec<u8>)>,
}

impl<'a> Writes<'a> {
    pub(super) fn new(gateway: i32, vault: &'a Vault) -> Self {
        Self { gateway, vault, calls: Vec::new(), rows: Rows::default() }
    }

    /// The statements in their order.
    pub(super) fn finish(mut self) -> Vec<Call> {
        self.flush();
        self.calls
    }

    pub(super) fn records(&mut self, records: &[Record], edge: &mut Edge) -> Result<(), Error> {
        let first_index = edge.size();
        for record in records {
            let (bytes, position) = (record.to_bytes(), edge.size().cast_signed());
            let leaf = merkle::leaf_hash(&bytes);
            self.room(bytes.len());
            self.rows.records.0.push(position);
            self.rows.records.1.push(bytes);
            self.rows.records.2.push(leaf.0.into());
            let nodes = &mut self.rows.nodes;
            edge.append(leaf, &mut |Subtree { level, position }, hash| {
                nodes.0.push(level as i16);
                nodes.1.push(position.cast_signed());
                nodes.2.push(hash.0.into());
                Ok::<(), Error>(())
            })?;
        }
        self.index(records, first_index)
    }

    fn index(&mut self, records: &[Record], first_index: u64) -> Result<(), Error> {
        for TaskEntry { task, index, batch } in task_entries(records, first_index) {
            self.rows.tasks.0.push(task.0.into());
            self.rows.tasks.1.push(index.cast_signed());
            self.rows.tasks.2.push(batch.map(u64::cast_signed));
        }
        for (record, index) in records.iter().zip(first_index..) {
            if let Record::Batch(batch) = record {
                self.rows.batches.0.push(batch.header.node.0.into());
                self.rows.batches.1.push(int("number of a batch", batch.header.sequence)?);
                self.rows.batches.2.push(index.cast_signed());
            }
        }
        Ok(())
    }

    pub(super) fn payload(&mut self, payload: &Payload) -> Result<(), Error> {
        let (created, sealed) =
            (int("creation time", payload.created.0)?, payload::seal(self.vault, payload.attempt, payload));
        self.room(sealed.len());
        self.rows.payloads.insert(payload.attempt, (created, sealed));
        Ok(())
    }

    pub(super) fn facts(&mut self, facts: &Facts) -> Result<(), Error> {
        let sealed = self.vault.seal(&facts_name(facts.task), &[&facts.bytes]);
        self.room(sealed.len());
        self.rows.facts.insert(facts.task, sealed);
        Ok(())
    }

    pub(super) fn tenant(&mut self, tenant: &Tenant) -> Result<(), Error> {
        let Tenant { tenant, name, key_hash, created, requests_per_minute, tokens_per_minute } = tenant;
        let sql = "INSERT INTO tenants (tenant, name, key_hash, created, requests_per_minute, tokens_per_minute)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (tenant) DO UPDATE SET name = excluded.name, key_hash = excluded.key_hash,
                created = excluded.created, requests_per_minute = excluded.requests_per_minute,
                tokens_per_minute = excluded.tokens_per_minute WHERE tenants.created <= excluded.created";
        let limit = |limit: &Option<u32>| -> Value { Box::new(limit.map(i64::from)) };
        let created = int("creation time", created.0)?;
        self.calls.push(Call::new(
            sql,
            vec![
                Box::new(tenant.0.to_vec()),
                Box::new(name.clone().into_bytes()),
                Box::new(key_hash.to_vec()),
                Box::new(created),
                limit(requests_per_minute),
                limit(tokens_per_minute),
            ],
        ));
        Ok(())
    }

    pub(super) fn snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let (epoch, size) = (int("epoch", snapshot.epoch.0)?, int("size", snapshot.size)?);
        let sql = "INSERT INTO snapshots (gateway, epoch, size, bytes) VALUES ($1, $2, $3, $4)
            ON CONFLICT (gateway, epoch) DO UPDATE SET size = excluded.size, bytes = excluded.bytes";
        self.push(sql, vec![Box::new(epoch), Box::new(size), Box::new(snapshot.bytes.clone())]);
        let older = "DELETE FROM snapshots WHERE gateway = $1
            AND epoch NOT IN (SELECT epoch FROM snapshots WHERE gateway = $1 ORDER BY epoch DESC LIMIT $2)";
        self.push(older, vec![Box::new(SNAPSHOTS_KEPT.cast_signed())]);
        Ok(())
    }

    pub(super) fn checkpoint(&mut self, note: &Note) -> Result<(), Error> {
        let (epoch, size) = (int("epoch", note.epoch.0)?, int("size", note.size)?);
        let sql = "INSERT INTO checkpoints (gateway, epoch, size, note) VALUES ($1, $2, $3, $4)
            ON CONFLICT (gateway, epoch) DO UPDATE SET size = excluded.size, note = excluded.note";
        self.push(sql, vec![Box::new(epoch), Box::new(size), Box::new(note.text.clone().into_bytes())]);
        Ok(())
    }

    /// Forgets payloads. Answers the place of the statement that tells how many.
    pub(super) fn expire(&mut self, before: Timestamp) -> usize {
        // Those that came before in the same group may be among them.
        self.flush();
        let before = i64::try_from(before.0).unwrap_or(i64::MAX);
        let sql = "WITH gone AS (DELETE FROM payloads WHERE gateway = $1 AND created < $2 RETURNING 1)
            SELECT count(*) FROM gone";
        self.push(sql, vec![Box::new(before)]);
        self.calls.len() - 1
    }

    fn push(&mut self, sql: &'static str, values: Vec<Value>) {
        let gateway: Value = Box::new(self.gateway);
        self.calls.push(Call::new(sql, [gateway].into_iter().chain(values).collect()));
    }

    // Begins new statements if these bytes would make one too long.
    fn room(&mut self, bytes: usize) {
        if self.rows.bytes.saturating_add(bytes) > STATEMENT_BYTES_MAX {
            self.flush();
        }
        self.rows.bytes += bytes;
    }

    fn flush(&mut self) {
        let Rows { bytes: _, records, nodes, tasks, batches, facts, payloads } = core::mem::take(&mut self.rows);
        let sql = "INSERT INTO records (gateway, position, bytes, leaf)
            SELECT $1::integer, new.* FROM unnest($2::bigint[], $3::bytea[], $4::bytea[]) AS new";
        self.push_rows(sql, records);
        let sql = "INSERT INTO nodes (gateway, level, position, hash)
            SELECT $1::integer, new.* FROM unnest($2::smallint[], $3::bigint[], $4::bytea[]) AS new";
        self.push_rows(sql, nodes);
        let sql = "INSERT INTO task_records (gateway, task, position, batch)
            SELECT $1::integer, new.* FROM unnest($2::bytea[], $3::bigint[], $4::bigint[]) AS new";
        self.push_rows(sql, tasks);
        let sql = "INSERT INTO batches (gateway, node, sequence, position)
            SELECT $1::integer, new.* FROM unnest($2::bytea[], $3::bigint[], $4::bigint[]) AS new";
        self.push_rows(sql, batches);
        self.push_facts(facts);
        self.push_payloads(payloads);
    }

    fn push_rows<A, B, C>(&mut self, sql: &'static str, (first, second, third): (Vec<A>, Vec<B>, Vec<C>))
    where
        Vec<A>: tokio_postgres::types::ToSql + Sync + 'static,
        Vec<B>: tokio_postgres::types::ToSql + Sync + 'static,
        Vec<C>: tokio_postgres::types::ToSql + Sync + 'static,
    {
        if !first.is_empty() {
            self.push(sql, vec![Box::new(first), Box::new(second), Box::new(third)]);
        }
    }

    fn push_facts(&mut self, facts: BTreeMap<TaskId, Vec<u8>>) {
        if facts.is_empty() {
            return;
        }
        let sql = "INSERT INTO facts (gateway, task, sealed)
            SELECT $1::integer, new.* FROM unnest($2::bytea[], $3::bytea[]) AS new
            ON CONFLICT (gateway, task) DO UPDATE SET sealed = excluded.sealed";
        let (tasks, sealed): (Vec<Vec<u8>>, Vec<Vec<u8>>) =
            facts.into_iter().map(|(task, sealed)| (task.0.to_vec(), sealed)).unzip();
        self.push(sql, vec![Box::new(tasks), Box::new(sealed)]);
    }

    fn push_payloads(&mut self, payloads: BTreeMap<AttemptId, (i64, Vec<u8>)>) {
        if payloads.is_empty() {
            return;
        }
        let sql = "INSERT INTO payloads (gateway, task, attempt, created, sealed)
            SELECT $1::integer, new.* FROM unnest($2::bytea[], $3::smallint[], $4::bigint[], $5::bytea[]) AS new
            ON CONFLICT (gateway, task, attempt) DO UPDATE SET created = excluded.created, sealed = excluded.sealed";
        let (mut tasks, mut attempts, mut times, mut all_sealed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (AttemptId { task, attempt }, (created, sealed)) in payloads {
            tasks.push(task.0.to_vec());
            attempts.push(i16::from(attempt));
            times.push(created);
            all_sealed.push(sealed);
        }
        self.push(sql, vec![Box::new(tasks), Box::new(attempts), Box::new(times), Box::new(all_sealed)]);
    }
}
