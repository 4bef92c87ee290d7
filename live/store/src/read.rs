//! Questions to a store in SQLite.

use crate::database::Db;
use crate::error::Error;
use crate::payload::{self, Payload};
use crate::prune;
use crate::sqlite::KIND;
use crate::store::{Attempt, Facts, NodeBatch, Note, Pruned, Read, Snapshot, TaskRecords, Tenant};
use crate::tree::{self, Subtree};
use crate::vault::Vault;
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::receipt::Receipt;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::{Digest, Epoch, NetworkId, NodeId, TaskId, TenantId, Timestamp};
use rusqlite::{OptionalExtension as _, Params, Row};
use std::ops::Range;
use std::path::Path;

/// A connection that only reads, while another one may write.
pub struct SqliteReader {
    pub(crate) db: Db,
    pub(crate) vault: Vault,
}

impl core::fmt::Debug for SqliteReader {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SqliteReader({})", self.db.path.display())
    }
}

impl SqliteReader {
    /// Opens a store that exists, whoever's it is and whether or not a gateway runs on it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let db = Db::open_read_only(path, &KIND)?;
        let vault = db.vault()?;
        Ok(Self { db, vault })
    }

    pub(crate) fn one<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Error> {
        self.db.prepare(sql)?.query_row(values, read).optional().map_err(|cause| self.db.failed(cause))
    }

    pub(crate) fn all<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        let mut statement = self.db.prepare(sql)?;
        let rows = statement.query_map(values, read).and_then(Iterator::collect);
        rows.map_err(|cause| self.db.failed(cause))
    }

    pub(crate) fn hash(&self, subtree: Subtree) -> Result<Digest, Error> {
        let Subtree { level, position } = subtree;
        let found = match level {
            0 => self.one("SELECT leaf FROM records WHERE position = ?1", [position.cast_signed()], |row| row.get(0)),
            _ => self.one(
                "SELECT hash FROM nodes WHERE level = ?1 AND position = ?2",
                (level, position.cast_signed()),
                |row| row.get(0),
            ),
        };
        found?.map(Digest).ok_or(Error::MissingHash { level, position })
    }

    fn note(&self, condition: &str, value: i64) -> Result<Option<Note>, Error> {
        self.one(&format!("SELECT epoch, size, note FROM checkpoints WHERE {condition}"), [value], read_note)
    }

    fn attempt(&self, index: u64, receipt: Receipt, batch_index: u64) -> Result<Attempt, Error> {
        let batch = self.countersigned(batch_index)?;
        let place = (index + u64::from(batch.header.count)).checked_sub(batch_index);
        let place = place.and_then(|place| u16::try_from(place).ok()).ok_or(Error::Missing { index })?;
        Ok(Attempt { index, receipt, place, batch_index, batch })
    }

    fn countersigned(&self, index: u64) -> Result<CountersignedBatch, Error> {
        match self.record(index)? {
            Some(Record::Batch(batch)) => Ok(batch),
            _ => Err(Error::Missing { index }),
        }
    }
}

impl Read for SqliteReader {
    fn network(&self) -> Result<Option<NetworkId>, Error> {
        Ok(self.db.meta("network")?.and_then(|bytes| bytes.try_into().ok()).map(NetworkId))
    }

    fn size(&self) -> Result<u64, Error> {
        let size = self.one("SELECT coalesce(max(position) + 1, 0) FROM records", [], |row| row.get::<_, i64>(0))?;
        Ok(size.map_or(0, i64::cast_unsigned))
    }

    fn root(&self, size: u64) -> Result<Option<Digest>, Error> {
        if size > self.size()? {
            return Ok(None);
        }
        tree::range_root(0, size, &mut |subtree| self.hash(subtree)).map(Some)
    }

    fn pruned(&self) -> Result<Option<Pruned>, Error> {
        prune::pruned(&self.db)
    }

    fn base(&self) -> Result<Option<Snapshot>, Error> {
        prune::base(&self.db)
    }

    fn record(&self, index: u64) -> Result<Option<Record>, Error> {
        let Ok(position) = i64::try_from(index) else { return Ok(None) };
        let bytes = self.one("SELECT bytes FROM records WHERE position = ?1", [position], |row| row.get(0))?;
        bytes.map(|bytes| parse(index, bytes)).transpose()
    }

    fn page(&self, range: Range<u64>) -> Result<Vec<Record>, Error> {
        let bound = |index: u64| i64::try_from(index).unwrap_or(i64::MAX);
        let sql = "SELECT position, bytes FROM records WHERE position >= ?1 AND position < ?2 ORDER BY position";
        let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?));
        let rows = self.all(sql, [bound(range.start), bound(range.end)], read)?;
        in_order(range, rows)
    }

    fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Digest>>, Error> {
        if index >= size || size > self.size()? {
            return Ok(None);
        }
        tree::inclusion(index, size, &mut |subtree| self.hash(subtree)).map(Some)
    }

    fn hashes(&self, level: u32, positions: Range<u64>) -> Result<Option<Vec<Digest>>, Error> {
        let bound = |position: u64| i64::try_from(position).unwrap_or(i64::MAX);
        let (from, to) = (bound(positions.start), bound(positions.end));
        let read = |row: &Row<'_>| row.get(0).map(Digest);
        let leaves = "SELECT leaf FROM records WHERE position >= ?1 AND position < ?2 ORDER BY position";
        let inner = "SELECT hash FROM nodes WHERE level = ?3 AND position >= ?1 AND position < ?2 ORDER BY position";
        let found = match level {
            0 => self.all(leaves, [from, to], read)?,
            _ => self.all(inner, (from, to, level), read)?,
        };
        Ok((found.len() as u64 == positions.end.saturating_sub(positions.start)).then_some(found))
    }

    fn task(&self, task: TaskId) -> Result<TaskRecords, Error> {
        let sql = "SELECT position, batch FROM task_records WHERE task = ?1 ORDER BY position";
        let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, Option<i64>>(1)?));
        let mut found = TaskRecords::default();
        for (index, batch) in self.all(sql, [task.0], read)? {
            match (self.record(index)?, batch) {
                (Some(Record::Receipt(receipt)), Some(batch)) => {
                    found.attempts.push(self.attempt(index, receipt, batch.cast_unsigned())?);
                }
                (Some(Record::Audit { subject, outcome }), None) => found.audits.push((index, subject, outcome)),
                _ => return Err(Error::Missing { index }),
            }
        }
        Ok(found)
    }

    fn batch(&self, node: NodeId, sequence: u64) -> Result<Option<NodeBatch>, Error> {
        let Ok(sequence) = i64::try_from(sequence) else { return Ok(None) };
        let sql = "SELECT position FROM batches WHERE node = ?1 AND sequence = ?2";
        let Some(index) = self.one(sql, (node.0, sequence), |row| row.get::<_, i64>(0))? else { return Ok(None) };
        let index = index.cast_unsigned();
        Ok(Some(NodeBatch { index, batch: self.countersigned(index)? }))
    }

    fn next_sequence(&self, node: NodeId) -> Result<u64, Error> {
        let sql = "SELECT coalesce(max(sequence) + 1, 0) FROM batches WHERE node = ?1";
        Ok(self.one(sql, [node.0], |row| row.get::<_, i64>(0))?.map_or(0, i64::cast_unsigned))
    }

    fn next_sequences(&self) -> Result<Vec<(NodeId, u64)>, Error> {
        let sql = "SELECT node, max(sequence) + 1 FROM batches GROUP BY node";
        self.all(sql, [], |row| Ok((NodeId(row.get(0)?), row.get::<_, i64>(1)?.cast_unsigned())))
    }

    fn facts(&self, task: TaskId) -> Result<Option<Facts>, Error> {
        let sealed = self.one("SELECT sealed FROM facts WHERE task = ?1", [task.0], |row| row.get::<_, Vec<u8>>(0))?;
        let open = |sealed: Vec<u8>| self.vault.open(&facts_name(task), &sealed);
        let damaged = Error::Sealed { what: "facts", task };
        sealed.map(|sealed| open(sealed).map(|bytes| Facts { task, bytes }).ok_or(damaged)).transpose()
    }

    fn payload(&self, attempt: AttemptId) -> Result<Option<Payload>, Error> {
        payload::get(&self.db, &self.vault, attempt)
    }

    fn tenant_by_key_hash(&self, key_hash: &[u8; 32]) -> Result<Option<Tenant>, Error> {
        self.one(&format!("{TENANTS} WHERE key_hash = ?1"), [key_hash], read_tenant)
    }

    fn tenants(&self) -> Result<Vec<Tenant>, Error> {
        self.all(&format!("{TENANTS} ORDER BY tenant"), [], read_tenant)
    }

    fn latest_snapshot(&self) -> Result<Option<Snapshot>, Error> {
        self.one("SELECT epoch, size, bytes FROM snapshots ORDER BY epoch DESC LIMIT 1", [], |row| {
            let (epoch, size): (i64, i64) = (row.get(0)?, row.get(1)?);
            Ok(Snapshot { epoch: Epoch(epoch.cast_unsigned()), size: size.cast_unsigned(), bytes: row.get(2)? })
        })
    }

    fn latest_checkpoint(&self) -> Result<Option<Note>, Error> {
        self.note("epoch >= ?1 ORDER BY epoch DESC LIMIT 1", 0)
    }

    fn checkpoint(&self, epoch: Epoch) -> Result<Option<Note>, Error> {
        i64::try_from(epoch.0).map_or(Ok(None), |epoch| self.note("epoch = ?1", epoch))
    }

    fn checkpoint_over(&self, index: u64) -> Result<Option<Note>, Error> {
        i64::try_from(index).map_or(Ok(None), |index| self.note("size > ?1 ORDER BY size, epoch LIMIT 1", index))
    }
}

/// What facts are sealed under.
pub(crate) fn facts_name(task: TaskId) -> Vec<u8> {
    [b"facts", &task.0[..]].concat()
}

pub(crate) fn read_note(row: &Row<'_>) -> rusqlite::Result<Note> {
    let (epoch, size): (i64, i64) = (row.get(0)?, row.get(1)?);
    Ok(Note { epoch: Epoch(epoch.cast_unsigned()), size: size.cast_unsigned(), text: row.get(2)? })
}

const TENANTS: &str = "SELECT tenant, name, key_hash, created, requests_per_minute, tokens_per_minute FROM tenants";

fn read_tenant(row: &Row<'_>) -> rusqlite::Result<Tenant> {
    Ok(Tenant {
        tenant: TenantId(row.get(0)?),
        name: row.get(1)?,
        key_hash: row.get(2)?,
        created: Timestamp(row.get::<_, i64>(3)?.cast_unsigned()),
        requests_per_minute: row.get(4)?,
        tokens_per_minute: row.get(5)?,
    })
}

/// The records of a whole range from its rows in order; an error if one is not there.
pub(crate) fn in_order(range: Range<u64>, rows: Vec<(u64, Vec<u8>)>) -> Result<Vec<Record>, Error> {
    let mut expected = range;
    let mut records = Vec::with_capacity(rows.len());
    for (index, bytes) in rows {
        match expected.next() {
            Some(next) if next == index => records.push(parse(index, bytes)?),
            Some(index) => return Err(Error::Missing { index }),
            None => break,
        }
    }
    match expected.next() {
        Some(index) => Err(Error::Missing { index }),
        None => Ok(records),
    }
}

pub(crate) fn parse(index: u64, bytes: Vec<u8>) -> Result<Record, Error> {
    // Those of a record are never none.
    if bytes.is_empty() {
        return Err(Error::Pruned { index });
    }
    Record::from_bytes(&bytes).map_err(|cause| Error::Unreadable { index, cause })
}
