//! Forgetting the beginning of a log: its receipts, batches and audits go, what proves and settles the rest stays.
//!
//! Every record keeps its leaf, so each proof and root of the log can still be made. The genesis, top-ups, changes of
//! parameters and closes keep their bytes too, and so do the last batches of each node, which may ask for them again.

use crate::database::Db;
use crate::error::Error;
use crate::place::Place;
use crate::read::SqliteReader;
use crate::sqlite::KIND;
use crate::store::{Pruned, Read, Snapshot};
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

/// Prunes the log in a file that `base` covers, whether or not its gateway runs: records before the last full tile of it
/// that ends with a batch. `base` must be the accounts after a close that a checkpoint covers, with nothing unsettled before
/// it; a snapshot that is kept must not be older. `progress` is told how many records were looked at.
pub fn prune(path: &Path, base: &Snapshot, progress: impl FnMut(u64)) -> Result<Deleted, Error> {
    let db = Db::open_beside(path, &KIND)?;
    let vault = db.vault()?;
    forget_before(&SqliteReader { db, vault }, base, progress)
}

/// A log that can forget its beginning while its gateway writes it.
pub(crate) trait Forget: Read {
    /// Where it is.
    fn place(&self) -> Place;

    /// How many records the oldest snapshot that is kept covers.
    fn oldest_snapshot(&self) -> Result<Option<u64>, Error>;

    /// The numbers of a node's batches below `first`, and where they are in the log, up to a record.
    fn batches_below(&self, node: NodeId, first: u64, before: u64) -> Result<Vec<(u64, u64)>, Error>;

    /// Deletes in one transaction, and tells of how many tasks the facts went. Refused if the log is not pruned `from` there.
    fn forget(&self, from: Option<Pruned>, gone: &Gone) -> Result<u64, Error>;
}

/// What is deleted together, and how far the log is pruned with it.
pub(crate) struct Gone {
    pub(crate) pruned: Pruned,
    /// The accounts to fold the rest from, if they are other ones.
    pub(crate) base: Option<Vec<u8>>,
    /// A task, and the index of a record of it. The last one takes the task's facts with it.
    pub(crate) tasks: Vec<(TaskId, u64)>,
    /// A node's batch by its number.
    pub(crate) batches: Vec<(NodeId, u64)>,
    /// Records whose bytes go.
    pub(crate) records: Vec<u64>,
}

impl Gone {
    fn new(pruned: Pruned) -> Self {
        Self { pruned, base: None, tasks: Vec::new(), batches: Vec::new(), records: Vec::new() }
    }
}

/// As [`prune`], of any log.
pub(crate) fn forget_before(
    log: &impl Forget,
    base: &Snapshot,
    mut progress: impl FnMut(u64),
) -> Result<Deleted, Error> {
    let is_settled = log.oldest_snapshot()?.is_some_and(|size| size >= base.size);
    let is_final = log.checkpoint(base.epoch)?.is_some_and(|note| note.size == base.size);
    if !is_settled || !is_final {
        return Err(Error::Needed { epoch: base.epoch });
    }
    let nexts = log.next_sequences()?.into_iter();
    let first_kept = nexts.map(|(node, next)| (node, next.saturating_sub(BATCHES_KEPT))).collect();
    let mut pruner = Pruner { log, base, first_kept, pruned: log.pruned()?, deleted: Deleted::default() };
    let Range { start, end } = pruner.range()?;
    if start < end {
        pruner.begin(start)?;
    }
    for from in (start..end).step_by(GROUP_RECORDS as usize) {
        let began = Instant::now();
        let to = end.min(from + GROUP_RECORDS);
        pruner.group(from..to)?;
        progress(to - start);
        // The gateway has the database as long as this had it.
        std::thread::sleep(began.elapsed());
    }
    Ok(pruner.deleted)
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

struct Pruner<'a, L> {
    log: &'a L,
    base: &'a Snapshot,
    // The first batch of each node that stays.
    first_kept: BTreeMap<NodeId, u64>,
    pruned: Option<Pruned>,
    deleted: Deleted,
}

impl<L: Forget> Pruner<'_, L> {
    // Whole tiles only, so that a copy of the log can be brought up to date from here on; and whole batches.
    fn range(&self) -> Result<Range<u64>, Error> {
        let start = self.pruned.map_or(0, |pruned| pruned.before);
        let mut end = self.base.size - self.base.size % ol_protocol::tile::TILE_WIDTH;
        while end > start && matches!(self.log.record(end - 1)?, Some(Record::Receipt(_))) {
            end -= 1;
        }
        Ok(start..end.max(start))
    }

    fn up_to(&self, before: u64) -> Gone {
        Gone::new(Pruned { before, size: self.base.size, epoch: self.base.epoch })
    }

    // From here on the log is folded from the new accounts, of which nothing is gone yet.
    fn begin(&mut self, before: u64) -> Result<(), Error> {
        let mut gone = self.up_to(before);
        gone.base = Some(self.base.bytes.clone());
        // Batches that were kept the last time.
        for (node, first) in &self.first_kept {
            for (sequence, index) in self.log.batches_below(*node, *first, before)? {
                gone.batches.push((*node, sequence));
                gone.records.push(index);
            }
        }
        self.forget(&gone)
    }

    fn group(&mut self, range: Range<u64>) -> Result<(), Error> {
        if self.log.pruned()? != self.pruned {
            return Err(Error::Locked { place: self.log.place() });
        }
        let mut gone = self.up_to(range.end);
        for (record, index) in self.log.page(range.clone())?.into_iter().zip(range) {
            match record {
                Record::Receipt(receipt) => {
                    self.deleted.receipts += 1;
                    gone.tasks.push((receipt.commitment.task, index));
                }
                Record::Audit { subject, .. } => {
                    self.deleted.audits += 1;
                    gone.tasks.push((subject.task, index));
                }
                // Without the verdicts that they seal they say nothing.
                Record::Sealed { .. } => self.deleted.audits += 1,
                Record::Batch(batch) if !self.keeps(&batch.header) => {
                    gone.batches.push((batch.header.node, batch.header.sequence));
                }
                Record::Batch(_)
                | Record::Genesis(_)
                | Record::TopUp(_)
                | Record::Close(_)
                | Record::Parameters(_)
                | Record::Calibration(_)
                | Record::Evidence(_) => {
                    continue;
                }
            }
            gone.records.push(index);
        }
        self.forget(&gone)
    }

    fn forget(&mut self, gone: &Gone) -> Result<(), Error> {
        self.deleted.batches += gone.batches.len() as u64;
        self.deleted.facts += self.log.forget(self.pruned, gone)?;
        self.pruned = Some(gone.pruned);
        Ok(())
    }

    fn keeps(&self, batch: &BatchHeader) -> bool {
        self.first_kept.get(&batch.node).is_none_or(|first| batch.sequence >= *first)
    }
}

impl Forget for SqliteReader {
    fn place(&self) -> Place {
        (&*self.db.path).into()
    }

    fn oldest_snapshot(&self) -> Result<Option<u64>, Error> {
        let oldest = self.one("SELECT min(size) FROM snapshots", [], |row| row.get::<_, Option<i64>>(0))?;
        Ok(oldest.flatten().map(i64::cast_unsigned))
    }

    fn batches_below(&self, node: NodeId, first: u64, before: u64) -> Result<Vec<(u64, u64)>, Error> {
        let sql = "SELECT sequence, position FROM batches WHERE node = ?1 AND sequence < ?2 AND position < ?3";
        self.all(sql, (node.0, first.cast_signed(), before.cast_signed()), |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
        })
    }

    fn forget(&self, from: Option<Pruned>, gone: &Gone) -> Result<u64, Error> {
        let db = &self.db;
        db.in_transaction(|| {
            if pruned(db)? != from {
                return Err(Error::Locked { place: self.place() });
            }
            db.set_meta(PRUNED, &written(&gone.pruned))?;
            gone.base.iter().try_for_each(|base| db.set_meta(BASE, base))?;
            let mut facts = 0;
            for (task, index) in &gone.tasks {
                db.run("DELETE FROM task_records WHERE task = ?1 AND position = ?2", (task.0, index.cast_signed()))?;
                let last =
                    "DELETE FROM facts WHERE task = ?1 AND NOT EXISTS (SELECT 1 FROM task_records WHERE task = ?1)";
                facts += db.run(last, [task.0])? as u64;
            }
            for (node, sequence) in &gone.batches {
                let sql = "DELETE FROM batches WHERE node = ?1 AND sequence = ?2";
                db.run(sql, (node.0, sequence.cast_signed()))?;
            }
            gone.records.iter().try_for_each(|index| self.forget_bytes(*index))?;
            Ok(facts)
        })
    }
}

impl SqliteReader {
    // SQLite joins pages that have become almost empty when rows are deleted, not when they are made smaller.
    fn forget_bytes(&self, index: u64) -> Result<(), Error> {
        let (db, position) = (&self.db, index.cast_signed());
        let leaf = self.hash(Subtree { level: 0, position: index })?;
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
