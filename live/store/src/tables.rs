//! The tables of a log in SQLite, as [`crate::fsck`] looks at them.

use crate::error::Error;
use crate::fsck::{Finding, Row, Table, Tables};
use crate::read::{SqliteReader, read_note};
use crate::store::Note;
use ol_protocol::record::AttemptId;
use ol_protocol::top_up::Slice;
use ol_protocol::{Epoch, GatewayId, NodeId, TaskId};

/// Rows that are read at a time: some 500 KB.
pub(crate) const PAGE: i64 = 1_024;

impl Tables for SqliteReader {
    fn begin(&self) -> Result<(), Error> {
        self.db.run("BEGIN", []).map(drop)
    }

    fn end(&self) {
        // There is nothing to undo, and nothing to do if even that fails.
        let _ = self.db.run("ROLLBACK", []);
    }

    fn damage(&self) -> Result<Vec<Finding>, Error> {
        let messages = self.all("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))?;
        let damage = messages.into_iter().filter(|message| message != "ok");
        Ok(damage.map(|message| Finding::Database { message }).collect())
    }

    fn gateway(&self) -> Result<Option<GatewayId>, Error> {
        Ok(self.db.meta("gateway")?.and_then(|bytes| bytes.try_into().ok()).map(GatewayId))
    }

    fn rows(&self, from: u64) -> Result<Vec<Row>, Error> {
        let sql = "SELECT position, bytes, leaf FROM records WHERE position >= ?1 ORDER BY position LIMIT ?2";
        let Ok(from) = i64::try_from(from) else { return Ok(Vec::new()) };
        self.all(sql, [from, PAGE], |row| {
            Ok(Row { index: row.get::<_, i64>(0)?.cast_unsigned(), bytes: row.get(1)?, leaf: row.get(2)? })
        })
    }

    fn notes(&self) -> Result<Vec<Note>, Error> {
        self.all("SELECT epoch, size, note FROM checkpoints ORDER BY size, epoch", [], read_note)
    }

    fn task_row(&self, task: TaskId, index: u64) -> Result<Option<Option<u64>>, Error> {
        let sql = "SELECT batch FROM task_records WHERE task = ?1 AND position = ?2";
        let stored = self.one(sql, (task.0, index.cast_signed()), |row| row.get::<_, Option<i64>>(0))?;
        Ok(stored.map(|batch| batch.map(i64::cast_unsigned)))
    }

    fn batch_row(&self, node: NodeId, sequence: u64) -> Result<Option<u64>, Error> {
        let sql = "SELECT position FROM batches WHERE node = ?1 AND sequence = ?2";
        let stored = self.one(sql, (node.0, sequence.cast_signed()), |row| row.get::<_, i64>(0))?;
        Ok(stored.map(i64::cast_unsigned))
    }

    // A gateway alone takes every top-up whole: there is no table of parts.
    fn slice_row(&self, _: &Slice) -> Result<bool, Error> {
        Ok(true)
    }

    fn count(&self, table: Table) -> Result<u64, Error> {
        let sql = match table {
            Table::TaskRecords => "SELECT count(*) FROM task_records",
            Table::Batches => "SELECT count(*) FROM batches",
            Table::Nodes => "SELECT count(*) FROM nodes",
        };
        Ok(self.one(sql, [], |row| row.get::<_, i64>(0))?.map_or(0, i64::cast_unsigned))
    }

    fn snapshots(&self) -> Result<Vec<(Epoch, u64)>, Error> {
        self.all("SELECT epoch, size FROM snapshots ORDER BY epoch", [], |row| {
            Ok((Epoch(row.get::<_, i64>(0)?.cast_unsigned()), row.get::<_, i64>(1)?.cast_unsigned()))
        })
    }

    fn tasks_with_facts(&self) -> Result<Vec<TaskId>, Error> {
        self.all("SELECT task FROM facts", [], |row| row.get(0).map(TaskId))
    }

    fn payloads(&self) -> Result<Vec<AttemptId>, Error> {
        self.all("SELECT task, attempt FROM payloads", [], |row| {
            Ok(AttemptId { task: TaskId(row.get(0)?), attempt: row.get(1)? })
        })
    }
}
