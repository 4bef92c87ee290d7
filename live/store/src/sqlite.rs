//! A store in one SQLite file: write-ahead log, every commit on the disk before it is answered.

use crate::admit::{TaskEntry, admit, task_entries};
use crate::backup::refuse_copy;
use crate::database::{Db, Kind, Lock, int};
use crate::error::Error;
use crate::payload;
use crate::place::Place;
use crate::read::{SqliteReader, facts_name};
use crate::store::{Appended, Facts, Identity, Job, Note, Read, SNAPSHOTS_KEPT, Snapshot, Store, Tenant};
use crate::tree::{Edge, Subtree};
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::record::Record;
use ol_protocol::{GatewayId, NetworkId};
use rusqlite::params;
use std::path::Path;
use std::sync::Arc;

/// A gateway's store. The id is "OLst" in ASCII.
pub(crate) const KIND: Kind = Kind { name: "a store of a gateway", application_id: 0x4f4c_7374, migrations: &[FIRST] };

// Positions of records count from 0. `nodes` holds the hashes of complete subtrees, `task_records` where a task's
// receipts (with the record of their batch) and audits (without) are.
const FIRST: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE records (position INTEGER PRIMARY KEY, bytes BLOB NOT NULL, leaf BLOB NOT NULL) STRICT;
    CREATE TABLE nodes (
        level INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE task_records (
        task BLOB NOT NULL, position INTEGER NOT NULL, batch INTEGER, PRIMARY KEY (task, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE batches (
        node BLOB NOT NULL, sequence INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (node, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE facts (task BLOB PRIMARY KEY, sealed BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE payloads (
        task BLOB NOT NULL, attempt INTEGER NOT NULL, created INTEGER NOT NULL, sealed BLOB NOT NULL,
        PRIMARY KEY (task, attempt)
    ) STRICT;
    CREATE INDEX payloads_by_age ON payloads (created);
    CREATE TABLE tenants (
        tenant BLOB PRIMARY KEY, name TEXT NOT NULL, key_hash BLOB NOT NULL UNIQUE, created INTEGER NOT NULL,
        requests_per_minute INTEGER, tokens_per_minute INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE snapshots (epoch INTEGER PRIMARY KEY, size INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT;
    CREATE TABLE checkpoints (epoch INTEGER PRIMARY KEY, size INTEGER NOT NULL, note TEXT NOT NULL) STRICT;
    CREATE INDEX checkpoints_by_size ON checkpoints (size);";

/// How a store is opened, beside where and for whom.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Pages (16 KiB in a new one) that the database may grow to; `None` for as large as the disk.
    pub page_count_max: Option<u32>,
}

/// A gateway's store in an SQLite file. The key of what is sealed lies beside it, with `.key` added to its name, and the
/// lock that keeps a second process out, with `.lock`.
pub struct SqliteStore {
    reader: SqliteReader,
    gateway: GatewayId,
    edge: Edge,
    _lock: Lock,
}

impl core::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SqliteStore({}, {} records)", self.reader.db.path.display(), self.edge.size())
    }
}

impl SqliteStore {
    /// Opens a gateway's store, or makes it; refuses another gateway's or network's.
    pub fn open(path: &Path, identity: Identity, options: Options) -> Result<Self, Error> {
        let (db, lock) = Db::open(path, &KIND, options.page_count_max)?;
        let vault = db.in_transaction(|| {
            claim(&db, identity)?;
            db.vault()
        })?;
        let reader = SqliteReader { db, vault };
        let edge = Edge::load(reader.size()?, &mut |subtree| reader.hash(subtree))?;
        Ok(Self { reader, gateway: identity.gateway, edge, _lock: lock })
    }

    fn commit_all(&self, jobs: &[Arc<Job>], edge: &mut Edge) -> Result<Vec<Result<Appended, Error>>, Error> {
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            match admit(job, edge.size(), self.gateway, &self.reader) {
                Ok(()) => answers.push(Ok(self.write(job, edge)?)),
                Err(refused @ Error::Refused(_)) => answers.push(Err(refused)),
                Err(failed) => return Err(failed),
            }
        }
        Ok(answers)
    }

    fn write(&self, job: &Job, edge: &mut Edge) -> Result<Appended, Error> {
        let (db, vault) = (&self.reader.db, &self.reader.vault);
        let first_index = edge.size();
        job.records.iter().try_for_each(|record| self.write_record(record, edge))?;
        self.index(&job.records, first_index)?;
        payload::put(db, vault, &job.payloads)?;
        job.facts.iter().try_for_each(|facts| self.write_facts(facts))?;
        job.tenants.iter().try_for_each(|tenant| self.write_tenant(tenant))?;
        job.snapshot.iter().try_for_each(|snapshot| self.write_snapshot(snapshot))?;
        job.checkpoint.iter().try_for_each(|note| self.write_checkpoint(note))?;
        let expired = job.expire_before.map_or(Ok(0), |before| payload::expire(db, before))?;
        Ok(Appended { first_index, size: edge.size(), root: edge.root(), expired })
    }

    fn write_record(&self, record: &Record, edge: &mut Edge) -> Result<(), Error> {
        let db = &self.reader.db;
        let (bytes, position) = (record.to_bytes(), edge.size().cast_signed());
        let leaf = ol_protocol::merkle::leaf_hash(&bytes);
        db.run("INSERT INTO records (position, bytes, leaf) VALUES (?1, ?2, ?3)", params![position, bytes, leaf.0])?;
        if let Record::Genesis(genesis) = record {
            db.set_meta("network", &genesis.network().0)?;
        }
        edge.append(leaf, &mut |Subtree { level, position }, hash| {
            let sql = "INSERT INTO nodes (level, position, hash) VALUES (?1, ?2, ?3)";
            db.run(sql, params![level, position.cast_signed(), hash.0]).map(drop)
        })
    }

    fn index(&self, records: &[Record], first_index: u64) -> Result<(), Error> {
        for TaskEntry { task, index, batch } in task_entries(records, first_index) {
            let sql = "INSERT INTO task_records (task, position, batch) VALUES (?1, ?2, ?3)";
            self.reader.db.run(sql, params![task.0, index.cast_signed(), batch.map(u64::cast_signed)])?;
        }
        for (record, index) in records.iter().zip(first_index..) {
            if let Record::Batch(batch) = record {
                self.index_batch(batch, index)?;
            }
        }
        Ok(())
    }

    fn index_batch(&self, batch: &CountersignedBatch, index: u64) -> Result<(), Error> {
        let sql = "INSERT INTO batches (node, sequence, position) VALUES (?1, ?2, ?3)";
        let sequence = int("number of a batch", batch.header.sequence)?;
        self.reader.db.run(sql, params![batch.header.node.0, sequence, index.cast_signed()]).map(drop)
    }

    fn write_facts(&self, facts: &Facts) -> Result<(), Error> {
        let sealed = self.reader.vault.seal(&facts_name(facts.task), &[&facts.bytes]);
        let sql = "INSERT OR REPLACE INTO facts (task, sealed) VALUES (?1, ?2)";
        self.reader.db.run(sql, params![facts.task.0, sealed]).map(drop)
    }

    fn write_tenant(&self, tenant: &Tenant) -> Result<(), Error> {
        let Tenant { tenant, name, key_hash, created, requests_per_minute, tokens_per_minute } = tenant;
        let sql = "INSERT INTO tenants (tenant, name, key_hash, created, requests_per_minute, tokens_per_minute)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (tenant) DO UPDATE SET name = ?2, key_hash = ?3, created = ?4, requests_per_minute = ?5,
                tokens_per_minute = ?6 WHERE created <= ?4";
        let created = int("creation time", created.0)?;
        let values = params![tenant.0, name, key_hash, created, requests_per_minute, tokens_per_minute];
        self.reader.db.run(sql, values).map(drop)
    }

    fn write_snapshot(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let db = &self.reader.db;
        let (epoch, size) = (int("epoch", snapshot.epoch.0)?, int("size", snapshot.size)?);
        let sql = "INSERT OR REPLACE INTO snapshots (epoch, size, bytes) VALUES (?1, ?2, ?3)";
        db.run(sql, params![epoch, size, snapshot.bytes])?;
        let older = "DELETE FROM snapshots
            WHERE epoch NOT IN (SELECT epoch FROM snapshots ORDER BY epoch DESC LIMIT ?1)";
        db.run(older, [SNAPSHOTS_KEPT.cast_signed()]).map(drop)
    }

    fn write_checkpoint(&self, note: &Note) -> Result<(), Error> {
        let (epoch, size) = (int("epoch", note.epoch.0)?, int("size", note.size)?);
        let sql = "INSERT OR REPLACE INTO checkpoints (epoch, size, note) VALUES (?1, ?2, ?3)";
        self.reader.db.run(sql, params![epoch, size, note.text]).map(drop)
    }
}

impl Store for SqliteStore {
    fn commit(&mut self, jobs: &[Arc<Job>]) -> Vec<Result<Appended, Error>> {
        let mut edge = self.edge.clone();
        match self.reader.db.in_transaction(|| self.commit_all(jobs, &mut edge)) {
            Ok(answers) => {
                self.edge = edge;
                answers
            }
            Err(failed) => jobs.iter().map(|_| Err(failed.clone())).collect(),
        }
    }

    fn read(&self) -> &dyn Read {
        &self.reader
    }

    fn reader(&self) -> Result<Box<dyn Read>, Error> {
        Ok(Box::new(SqliteReader::open(&self.reader.db.path)?))
    }
}

fn claim(db: &Db, identity: Identity) -> Result<(), Error> {
    refuse_copy(db)?;
    let (place, expected) = (Place::from(db.path.as_path()), identity.gateway);
    db.claim("gateway", &expected.0, |found| Error::OtherGateway { place, found: GatewayId(found), expected })?;
    let Some(expected) = identity.network else { return Ok(()) };
    let place = db.path.as_path().into();
    db.claim("network", &expected.0, |found| Error::OtherNetwork { place, found: NetworkId(found), expected })
}
