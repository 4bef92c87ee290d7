//! Forgetting the beginning of a log: its receipts, batches and audits go, what proves and settles the rest stays.
//!
//! Every record keeps its leaf, so each proof and root of the log can still be made. The genesis, top-ups, changes of
//! parameters and closes keep their bytes too, and so do the last batches of each node, which may ask for them again.

use crate::database::Db;
use crate::error::Error;
use crate::read::SqliteReader;
use crate::sqlite::KIND;
use crate::store::{Pruned, Read as _, Snapshot};
use crate::tree::Subtree;
use ol_protocol::batch::BatchHeader;
use ol_protocol::record::Record;
use ol_protocol::{Epoch, NodeId, TaskId};
use rusqlite::OptionalExtension as _;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

/// Batches of each node that are kept: as many as a node sends again at most (core/roles/src/node.rs).
const BATCHES_KEPT: u64 = 1_024;

// Records of one transaction: some ten milliseconds, which is how long a commit of the gateway waits at most.
const GROUP_RECORDS: u64 = 512;

// Names of facts about the database: up to where it is pruned, and the accounts to fold the rest from.
const PRUNED: &str = "pruned";
const BASE: &str = "base";

/// What was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deleted {
    /// Receipts.
    pub receipts: u64,
    /// Batches.
    pub batches: u64,
    /// Audits.
    pub audits: u64,
    /// Facts of tasks.
    pub facts: u64,
}

/// Prunes the log that `base` covers, whether or not its gateway runs: records before the last full tile of it that ends
/// with a batch. `base` must be the accounts after a close that a checkpoint covers, with nothing unsettled before it; a
/// snapshot that is kept must not be older. `progress` is told how many records were looked at.
pub fn prune(path: &Path, base: &Snapshot, mut progress: impl FnMut(u64)) -> Result<Deleted, Error> {
    let pruner = Pruner::open(path, base)?;
    let Range { start, end } = pruner.range(base.size)?;
    let mut deleted = Deleted::default();
    if start == end {
        return Ok(deleted);
    }
    pruner.reader.db.in_transaction(|| pruner.begin(start, base, &mut deleted))?;
    for from in (start..end).step_by(GROUP_RECORDS as usize) {
        let began = Instant::now();
        let to = end.min(from + GROUP_RECORDS);
        pruner.reader.db.in_transaction(|| pruner.group(from..to, base, &mut deleted))?;
        progress(to - start);
        // The gateway has the file as long as this had it.
        std::thread::sleep(began.elapsed());
    }
    Ok(deleted)
}

/// How large a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Of its file, without its write-ahead log.
    pub bytes: u64,
    /// Of them, those that new rows will take.
    pub free_bytes: u64,
}

/// How large a gateway's database is.
pub fn space(path: &Path) -> Result<Space, Error> {
    let db = Db::open_read_only(path, &KIND)?;
    let ask = |what: &str| {
        let value = db.connection.pragma_query_value(None, what, |row| row.get::<_, i64>(0));
        value.map(i64::cast_unsigned).map_err(|cause| db.failed(cause))
    };
    let page = ask("page_size")?;
    Ok(Space { bytes: ask("page_count")? * page, free_bytes: ask("freelist_count")? * page })
}

struct Pruner {
    reader: SqliteReader,
    // The first batch of each node that stays.
    first_kept: BTreeMap<NodeId, u64>,
}

impl Pruner {
    fn open(path: &Path, base: &Snapshot) -> Result<Self, Error> {
        let db = Db::open_beside(path, &KIND)?;
        let vault = db.vault()?;
        let reader = SqliteReader { db, vault };
        let oldest = reader.one("SELECT min(size) FROM snapshots", [], |row| row.get::<_, Option<i64>>(0))?.flatten();
        let is_settled = oldest.is_some_and(|size| size.cast_unsigned() >= base.size);
        let is_final = reader.checkpoint(base.epoch)?.is_some_and(|note| note.size == base.size);
        if !is_settled || !is_final {
            return Err(Error::Needed { epoch: base.epoch });
        }
        let nexts = reader.next_sequences()?;
        let first_kept = nexts.into_iter().map(|(node, next)| (node, next.saturating_sub(BATCHES_KEPT))).collect();
        Ok(Self { reader, first_kept })
    }

    // Whole tiles only, so that a copy of the log can be brought up to date from here on; and whole batches.
    fn range(&self, size: u64) -> Result<Range<u64>, Error> {
        let start = self.reader.pruned()?.map_or(0, |pruned| pruned.before);
        let mut end = size - size % ol_protocol::tile::TILE_WIDTH;
        while end > start && matches!(self.reader.record(end - 1)?, Some(Record::Receipt(_))) {
            end -= 1;
        }
        Ok(start..end.max(start))
    }

    // From here on the log is folded from the new accounts, of which nothing is gone yet.
    fn begin(&self, before: u64, base: &Snapshot, deleted: &mut Deleted) -> Result<(), Error> {
        let db = &self.reader.db;
        db.set_meta(BASE, &base.bytes)?;
        db.set_meta(PRUNED, &written(&Pruned { before, size: base.size, epoch: base.epoch }))?;
        // Batches that were kept the last time.
        for (node, first) in &self.first_kept {
            let sql = "SELECT sequence, position FROM batches WHERE node = ?1 AND sequence < ?2 AND position < ?3";
            let values = (node.0, first.cast_signed(), before.cast_signed());
            for (sequence, index) in self.reader.all(sql, values, |row| Ok((row.get(0)?, row.get(1)?)))? {
                self.forget_batch(*node, sequence)?;
                self.forget_bytes(index)?;
                deleted.batches += 1;
            }
        }
        Ok(())
    }

    fn group(&self, range: Range<u64>, base: &Snapshot, deleted: &mut Deleted) -> Result<(), Error> {
        let pruned = Pruned { before: range.end, size: base.size, epoch: base.epoch };
        self.reader.db.set_meta(PRUNED, &written(&pruned))?;
        for (record, index) in self.reader.page(range.clone())?.into_iter().zip(range) {
            match record {
                Record::Receipt(receipt) => {
                    deleted.receipts += 1;
                    deleted.facts += self.forget_task(receipt.commitment.task, index)?;
                }
                Record::Audit { subject, .. } => {
                    deleted.audits += 1;
                    deleted.facts += self.forget_task(subject.task, index)?;
                }
                Record::Batch(batch) if !self.keeps(&batch.header) => {
                    deleted.batches += 1;
                    self.forget_batch(batch.header.node, batch.header.sequence.cast_signed())?;
                }
                Record::Batch(_) | Record::Genesis(_) | Record::TopUp(_) | Record::Close(_) | Record::Parameters(_) => {
                    continue;
                }
            }
            self.forget_bytes(index.cast_signed())?;
        }
        Ok(())
    }

    fn forget_task(&self, task: TaskId, index: u64) -> Result<u64, Error> {
        let db = &self.reader.db;
        db.run("DELETE FROM task_records WHERE task = ?1 AND position = ?2", (task.0, index.cast_signed()))?;
        let facts = "DELETE FROM facts WHERE task = ?1 AND NOT EXISTS (SELECT 1 FROM task_records WHERE task = ?1)";
        db.run(facts, [task.0]).map(|rows| rows as u64)
    }

    fn keeps(&self, batch: &BatchHeader) -> bool {
        self.first_kept.get(&batch.node).is_none_or(|first| batch.sequence >= *first)
    }

    fn forget_batch(&self, node: NodeId, sequence: i64) -> Result<(), Error> {
        self.reader.db.run("DELETE FROM batches WHERE node = ?1 AND sequence = ?2", (node.0, sequence)).map(drop)
    }

    // SQLite joins pages that have become almost empty when rows are deleted, not when they are made smaller.
    fn forget_bytes(&self, position: i64) -> Result<(), Error> {
        let (db, index) = (&self.reader.db, position.cast_unsigned());
        let leaf = self.reader.hash(Subtree { level: 0, position: index })?;
        db.run("DELETE FROM records WHERE position = ?1", [position])?;
        db.run("INSERT INTO records (position, bytes, leaf) VALUES (?1, x'', ?2)", (position, leaf.0)).map(drop)
    }
}

/// How far a log is pruned.
pub(crate) fn pruned(db: &Db) -> Result<Option<Pruned>, Error> {
    Ok(db.meta(PRUNED)?.and_then(|bytes| read(&bytes)))
}

/// The accounts from which the rest of a pruned log is folded.
pub(crate) fn base(db: &Db) -> Result<Option<Snapshot>, Error> {
    // Both at one moment, as they change together.
    let sql = "SELECT one.value, two.value FROM meta AS one, meta AS two WHERE one.key = ?1 AND two.key = ?2";
    let found = db.prepare(sql)?.query_row([PRUNED, BASE], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?)));
    let found = found.optional().map_err(|cause| db.failed(cause))?;
    Ok(found
        .and_then(|(numbers, bytes)| read(&numbers).map(|Pruned { size, epoch, .. }| Snapshot { epoch, size, bytes })))
}

fn written(Pruned { before, size, epoch }: &Pruned) -> Vec<u8> {
    [before, size, &epoch.0].iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn read(bytes: &[u8]) -> Option<Pruned> {
    let (numbers, []) = bytes.as_chunks::<8>() else { return None };
    let [before, size, epoch] = *numbers else { return None };
    let number = u64::from_le_bytes;
    Some(Pruned { before: number(before), size: number(size), epoch: Epoch(number(epoch)) })
}
