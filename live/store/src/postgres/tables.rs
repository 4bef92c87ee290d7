//! The tables of a log in PostgreSQL, as [`crate::fsck`] looks at them.

use super::read::{Bytes, PostgresReader, number, read_note};
use crate::error::Error;
use crate::fsck::{Finding, Row, Table, Tables};
use crate::store::Note;
use crate::tables::PAGE;
use ol_protocol::record::AttemptId;
use ol_protocol::top_up::Slice;
use ol_protocol::{Epoch, GatewayId, NodeId, TaskId, TenantId};

// Top-ups whose parts are not what was taken of them, or overlap.
const PARTS: &str = "
    SELECT tenant, serial FROM top_ups WHERE claimed <>
        (SELECT coalesce(sum(amount), 0) FROM slices WHERE (tenant, serial) = (top_ups.tenant, top_ups.serial))
    UNION SELECT tenant, serial FROM slices AS one JOIN slices AS two USING (tenant, serial)
        WHERE one.start < two.start AND one.start + one.amount > two.start
    UNION SELECT tenant, serial FROM slices LEFT JOIN top_ups USING (tenant, serial)
        WHERE top_ups.amount IS NULL OR slices.start + slices.amount > top_ups.amount
    ORDER BY tenant, serial";

impl Tables for PostgresReader {
    fn begin(&self) -> Result<(), Error> {
        self.with(|session, _| session.script("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    }

    fn end(&self) {
        // There is nothing to undo; if it fails, the connection is gone.
        let _ = self.with_open(|session| session.script("ROLLBACK"));
    }

    fn damage(&self) -> Result<Vec<Finding>, Error> {
        self.all(PARTS, &[], |row| {
            Ok(Finding::Parts { tenant: row.try_get(0).map(|Bytes(id)| TenantId(id))?, serial: number(row, 1)? })
        })
    }

    fn gateway(&self) -> Result<Option<GatewayId>, Error> {
        Ok(Some(self.gateway))
    }

    fn rows(&self, from: u64) -> Result<Vec<Row>, Error> {
        let sql = "SELECT position, bytes, leaf FROM records
            WHERE gateway = $1 AND position >= $2 ORDER BY position LIMIT $3";
        let Ok(from) = i64::try_from(from) else { return Ok(Vec::new()) };
        self.all(sql, &[&self.number, &from, &PAGE], |row| {
            Ok(Row { index: number(row, 0)?, bytes: row.try_get(1)?, leaf: row.try_get(2)? })
        })
    }

    fn notes(&self) -> Result<Vec<Note>, Error> {
        let sql = "SELECT epoch, size, note FROM checkpoints WHERE gateway = $1 ORDER BY size, epoch";
        self.all(sql, &[&self.number], read_note)
    }

    fn task_row(&self, task: TaskId, index: u64) -> Result<Option<Option<u64>>, Error> {
        let sql = "SELECT batch FROM task_records WHERE gateway = $1 AND task = $2 AND position = $3";
        let stored = self.one(sql, &[&self.number, &&task.0[..], &index.cast_signed()], |row| row.try_get(0))?;
        Ok(stored.map(|batch: Option<i64>| batch.map(i64::cast_unsigned)))
    }

    fn batch_row(&self, node: NodeId, sequence: u64) -> Result<Option<u64>, Error> {
        let sql = "SELECT position FROM batches WHERE gateway = $1 AND node = $2 AND sequence = $3";
        self.one(sql, &[&self.number, &&node.0[..], &sequence.cast_signed()], |row| number(row, 0))
    }

    fn slice_row(&self, slice: &Slice) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM slices
            WHERE gateway = $1 AND tenant = $2 AND serial = $3 AND start = $4 AND amount = $5";
        let (serial, from) = (slice.top_up.serial.cast_signed(), slice.from.0.cast_signed());
        let (tenant, amount) = (&slice.top_up.tenant.0[..], slice.amount.0.cast_signed());
        Ok(self.one(sql, &[&self.number, &tenant, &serial, &from, &amount], |_| Ok(()))?.is_some())
    }

    fn count(&self, table: Table) -> Result<u64, Error> {
        let sql = match table {
            Table::TaskRecords => "SELECT count(*) FROM task_records WHERE gateway = $1",
            Table::Batches => "SELECT count(*) FROM batches WHERE gateway = $1",
            Table::Nodes => "SELECT count(*) FROM nodes WHERE gateway = $1",
        };
        Ok(self.one(sql, &[&self.number], |row| number(row, 0))?.unwrap_or(0))
    }

    fn snapshots(&self) -> Result<Vec<(Epoch, u64)>, Error> {
        let sql = "SELECT epoch, size FROM snapshots WHERE gateway = $1 ORDER BY epoch";
        self.all(sql, &[&self.number], |row| Ok((Epoch(number(row, 0)?), number(row, 1)?)))
    }

    fn tasks_with_facts(&self) -> Result<Vec<TaskId>, Error> {
        let sql = "SELECT task FROM facts WHERE gateway = $1 ORDER BY task";
        self.all(sql, &[&self.number], |row| row.try_get(0).map(|Bytes(id)| TaskId(id)))
    }

    fn payloads(&self) -> Result<Vec<AttemptId>, Error> {
        let sql = "SELECT task, attempt FROM payloads WHERE gateway = $1 ORDER BY task, attempt";
        self.all(sql, &[&self.number], |row| {
            let task = row.try_get(0).map(|Bytes(id)| TaskId(id))?;
            // Written from a byte.
            Ok(AttemptId { task, attempt: u8::try_from(row.try_get::<_, i16>(1)?).unwrap_or(u8::MAX) })
        })
    }
}
