//! Forgetting the beginning of a log in PostgreSQL.

use super::read::{PostgresReader, number};
use super::schema;
use super::server::Server;
use super::session::{Call, Session, Value};
use crate::error::Error;
use crate::place::Place;
use crate::prune::{Deleted, Forget, Gone, forget_before};
use crate::store::{Pruned, Snapshot};
use ol_protocol::{Epoch, GatewayId, NodeId};
use std::path::Path;
use tokio_postgres::Row;

/// As [`crate::prune`], of a gateway's log in a PostgreSQL database. The server uses the space again once it has vacuumed.
pub fn prune_server(
    server: &Server,
    key: &Path,
    gateway: GatewayId,
    base: &Snapshot,
    progress: impl FnMut(u64),
) -> Result<Deleted, Error> {
    // An older database has no place for how far a log is pruned.
    schema::join(&Session::connect(server)?)?;
    forget_before(&PostgresReader::open(server, key, gateway)?, base, progress)
}

/// How far a gateway's log is pruned.
pub(super) fn pruned(reader: &PostgresReader) -> Result<Option<Pruned>, Error> {
    reader.one("SELECT before, size, epoch FROM pruned WHERE gateway = $1", &[&reader.number], read_pruned)
}

/// The accounts from which the rest of it is folded.
pub(super) fn base(reader: &PostgresReader) -> Result<Option<Snapshot>, Error> {
    reader.one("SELECT epoch, size, base FROM pruned WHERE gateway = $1", &[&reader.number], |row| {
        Ok(Snapshot { epoch: Epoch(number(row, 0)?), size: number(row, 1)?, bytes: row.try_get(2)? })
    })
}

fn read_pruned(row: &Row) -> Result<Pruned, tokio_postgres::Error> {
    Ok(Pruned { before: number(row, 0)?, size: number(row, 1)?, epoch: Epoch(number(row, 2)?) })
}

impl Forget for PostgresReader {
    fn place(&self) -> Place {
        self.server().place().clone()
    }

    fn oldest_snapshot(&self) -> Result<Option<u64>, Error> {
        let sql = "SELECT size FROM snapshots WHERE gateway = $1 ORDER BY size LIMIT 1";
        self.one(sql, &[&self.number], |row| number(row, 0))
    }

    fn batches_below(&self, node: NodeId, first: u64, before: u64) -> Result<Vec<(u64, u64)>, Error> {
        let sql = "SELECT sequence, position FROM batches
            WHERE gateway = $1 AND node = $2 AND sequence < $3 AND position < $4";
        let (first, before) = (first.cast_signed(), before.cast_signed());
        self.all(sql, &[&self.number, &&node.0[..], &first, &before], |row| Ok((number(row, 0)?, number(row, 1)?)))
    }

    fn forget(&self, from: Option<Pruned>, gone: &Gone) -> Result<u64, Error> {
        self.with(|session, _| {
            let done = forget(session, self.number, from, gone);
            if done.is_err() && session.script("ROLLBACK").is_err() {
                session.abandon();
            }
            done
        })
    }
}

fn forget(session: &Session, gateway: i32, from: Option<Pruned>, gone: &Gone) -> Result<u64, Error> {
    let failed = |cause| session.server().failed(cause);
    session.script("BEGIN")?;
    schema::hold(session)?;
    let sql = "SELECT before, size, epoch FROM pruned WHERE gateway = $1 FOR UPDATE";
    let found = session.ask(sql, &[&gateway])?.first().map(read_pruned).transpose().map_err(failed)?;
    if found != from {
        return Err(Error::Locked { place: session.server().place().clone() });
    }
    let mut facts = 0;
    for answer in session.ask_all(&calls(gateway, gone))? {
        for row in answer.map_err(failed)? {
            facts += number(&row, 0).map_err(failed)?;
        }
    }
    Ok(facts)
}

// Only the count of facts has a row for an answer.
fn calls(gateway: i32, gone: &Gone) -> Vec<Call> {
    let Gone { pruned: Pruned { before, size, epoch }, base, tasks, batches, records } = gone;
    let number = |number: &u64| number.cast_signed();
    let (task_ids, places): (Vec<Vec<u8>>, Vec<i64>) = tasks.iter().map(|(id, at)| (id.0.to_vec(), number(at))).unzip();
    let (nodes, sequences): (Vec<Vec<u8>>, Vec<i64>) =
        batches.iter().map(|(node, sequence)| (node.0.to_vec(), number(sequence))).unzip();
    let records: Vec<i64> = records.iter().map(number).collect();
    let numbers: [Value; 4] =
        [Box::new(gateway), Box::new(number(before)), Box::new(number(size)), Box::new(number(&epoch.0))];
    let mut so_far = Vec::from(numbers);
    let mark = match base {
        Some(base) => {
            so_far.push(Box::new(base.clone()));
            "INSERT INTO pruned (gateway, before, size, epoch, base) VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (gateway) DO UPDATE
                SET before = excluded.before, size = excluded.size, epoch = excluded.epoch, base = excluded.base"
        }
        None => "UPDATE pruned SET before = $2, size = $3, epoch = $4 WHERE gateway = $1",
    };
    let facts = "WITH gone AS (
            DELETE FROM facts WHERE gateway = $1 AND task = ANY($2) AND NOT EXISTS
                (SELECT 1 FROM task_records AS left_over WHERE left_over.gateway = $1 AND left_over.task = facts.task)
            RETURNING 1
        ) SELECT count(*) FROM gone";
    vec![
        Call::new(mark, so_far),
        Call::new(
            "DELETE FROM task_records USING unnest($2::bytea[], $3::bigint[]) AS gone (task, position)
                WHERE gateway = $1 AND task_records.task = gone.task AND task_records.position = gone.position",
            vec![Box::new(gateway), Box::new(task_ids.clone()), Box::new(places)],
        ),
        Call::new(facts, vec![Box::new(gateway), Box::new(task_ids)]),
        Call::new(
            "DELETE FROM batches USING unnest($2::bytea[], $3::bigint[]) AS gone (node, sequence)
                WHERE gateway = $1 AND batches.node = gone.node AND batches.sequence = gone.sequence",
            vec![Box::new(gateway), Box::new(nodes), Box::new(sequences)],
        ),
        Call::new(
            "UPDATE records SET bytes = '' WHERE gateway = $1 AND position = ANY($2)",
            vec![Box::new(gateway), Box::new(records)],
        ),
        Call::new("COMMIT", Vec::new()),
    ]
}
