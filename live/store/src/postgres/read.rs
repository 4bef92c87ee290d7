//! Questions to a gateway's log in PostgreSQL.

use super::server::Server;
use super::session::Session;
use super::{claim, prune, schema};
use crate::error::Error;
use crate::payload::{self, Payload};
use crate::read::{facts_name, in_order, parse};
use crate::store::{Attempt, Facts, NodeBatch, Note, Pruned, Read, Snapshot, TaskRecords, Tenant};
use crate::tree::{self, Subtree};
use crate::vault::Vault;
use core::cell::RefCell;
use ol_protocol::batch::CountersignedBatch;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::{Digest, Epoch, GatewayId, NetworkId, NodeId, TaskId, TenantId, Timestamp};
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql, Type};

/// A connection of its own that asks about one gateway's log. If it is lost, the next question makes another.
pub struct PostgresReader {
    link: Link,
    key: PathBuf,
    pub(super) gateway: GatewayId,
    pub(super) number: i32,
    pub(super) vault: Vault,
    // Of the tables, when it was opened.
    version: u32,
}

impl core::fmt::Debug for PostgresReader {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PostgresReader({}, gateway {})", self.link.server.place(), self.gateway)
    }
}

impl PostgresReader {
    /// Opens a log that exists, whether or not its gateway runs. `key` is the file of the key that its payloads and
    /// facts are sealed with.
    pub fn open(server: &Server, key: &Path, gateway: GatewayId) -> Result<Self, Error> {
        let session = Session::connect(server)?;
        let version = schema::recognise(&session)?;
        let found = claim::find(&session, gateway)?;
        let found = found.ok_or_else(|| Error::NoLog { gateway, place: server.place().clone() })?;
        let vault = claim::open_vault(&session, key, gateway, &found)?;
        Ok(Self { version, ..Self::over(session, key, gateway, found.number, vault) })
    }

    /// Over a database of the newest version.
    pub(super) fn over(session: Session, key: &Path, gateway: GatewayId, number: i32, vault: Vault) -> Self {
        let link = Link { server: session.server().clone(), session: RefCell::new(Some(session)) };
        Self { link, key: key.into(), gateway, number, vault, version: schema::known() }
    }

    /// Another connection that asks about the same log.
    pub(super) fn another(&self) -> Result<Self, Error> {
        Self::open(&self.link.server, &self.key, self.gateway)
    }

    pub(super) fn server(&self) -> &Server {
        &self.link.server
    }

    /// Does something with the connection, a new one if the last was lost.
    pub(super) fn with<T>(&self, body: impl FnOnce(&Session, &Vault) -> Result<T, Error>) -> Result<T, Error> {
        let mut slot = self.link.session.borrow_mut();
        let session = match slot.take() {
            Some(session) if !session.is_closed() => session,
            lost => {
                drop(lost);
                Session::connect(&self.link.server)?
            }
        };
        body(slot.insert(session), &self.vault)
    }

    /// Does something with the connection if there is one.
    pub(super) fn with_open(&self, body: impl FnOnce(&Session) -> Result<(), Error>) -> Result<(), Error> {
        match self.link.session.borrow().as_ref() {
            Some(session) if !session.is_closed() => body(session),
            _ => Ok(()),
        }
    }

    pub(super) fn all<T>(
        &self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
        read: impl FnMut(&Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Vec<T>, Error> {
        let rows = self.with(|session, _| session.ask(sql, values))?;
        let read: Result<_, _> = rows.iter().map(read).collect();
        read.map_err(|cause| self.link.server.failed(cause))
    }

    pub(super) fn one<T>(
        &self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
        read: impl FnMut(&Row) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Option<T>, Error> {
        Ok(self.all(sql, values, read)?.pop())
    }

    fn note(&self, sql: &'static str, value: i64) -> Result<Option<Note>, Error> {
        self.one(sql, &[&self.number, &value], read_note)
    }

    // Asks for every hash that a walk over the tree needs at once: walks it with hashes of nothing first.
    pub(super) fn walk<T>(
        &self,
        walk: impl Fn(&mut dyn FnMut(Subtree) -> Result<Digest, Error>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (mut levels, mut positions) = (Vec::new(), Vec::new());
        walk(&mut |Subtree { level, position }| {
            levels.push(level as i16);
            positions.push(position.cast_signed());
            Ok(Digest([0; 32]))
        })?;
        let sql = "SELECT asked.level, asked.position, coalesce(leaf, hash)
            FROM unnest($2::smallint[], $3::bigint[]) AS asked (level, position)
            LEFT JOIN records ON asked.level = 0 AND records.gateway = $1 AND records.position = asked.position
            LEFT JOIN nodes ON nodes.gateway = $1 AND nodes.level = asked.level AND nodes.position = asked.position";
        let read =
            |row: &Row| Ok(((row.try_get::<_, i16>(0)?, number(row, 1)?), row.try_get::<_, Option<Bytes<32>>>(2)?));
        let found: BTreeMap<_, _> = self.all(sql, &[&self.number, &levels, &positions], read)?.into_iter().collect();
        walk(&mut |Subtree { level, position }| match found.get(&(level as i16, position)) {
            Some(Some(Bytes(hash))) => Ok(Digest(*hash)),
            _ => Err(Error::MissingHash { level, position }),
        })
    }
}

// An entry of a task: index, index of the batch's record, and the bytes of both records.
type TaskRow = (u64, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>);

// A server and the connection to it, while there is one.
struct Link {
    server: Server,
    session: RefCell<Option<Session>>,
}

impl Read for PostgresReader {
    fn network(&self) -> Result<Option<NetworkId>, Error> {
        let sql = "SELECT network FROM gateways WHERE number = $1";
        let found = self.one(sql, &[&self.number], |row| row.try_get::<_, Option<Bytes<32>>>(0))?;
        Ok(found.flatten().map(|Bytes(network)| NetworkId(network)))
    }

    fn size(&self) -> Result<u64, Error> {
        let sql = "SELECT coalesce(max(position) + 1, 0) FROM records WHERE gateway = $1";
        Ok(self.one(sql, &[&self.number], |row| number(row, 0))?.unwrap_or(0))
    }

    fn root(&self, size: u64) -> Result<Option<Digest>, Error> {
        if size > self.size()? {
            return Ok(None);
        }
        self.walk(|mut hashes| tree::range_root(0, size, &mut hashes)).map(Some)
    }

    fn pruned(&self) -> Result<Option<Pruned>, Error> {
        if self.version < schema::PRUNED_SINCE { Ok(None) } else { prune::pruned(self) }
    }

    fn base(&self) -> Result<Option<Snapshot>, Error> {
        if self.version < schema::PRUNED_SINCE { Ok(None) } else { prune::base(self) }
    }

    fn record(&self, index: u64) -> Result<Option<Record>, Error> {
        let Ok(position) = i64::try_from(index) else { return Ok(None) };
        let sql = "SELECT bytes FROM records WHERE gateway = $1 AND position = $2";
        let bytes = self.one(sql, &[&self.number, &position], |row| row.try_get(0))?;
        bytes.map(|bytes| parse(index, bytes)).transpose()
    }

    fn page(&self, range: Range<u64>) -> Result<Vec<Record>, Error> {
        let sql = "SELECT position, bytes FROM records
            WHERE gateway = $1 AND position >= $2 AND position < $3 ORDER BY position";
        let (from, to) = (bound(range.start), bound(range.end));
        let rows = self.all(sql, &[&self.number, &from, &to], |row| Ok((number(row, 0)?, row.try_get(1)?)))?;
        in_order(range, rows)
    }

    fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Digest>>, Error> {
        if index >= size || size > self.size()? {
            return Ok(None);
        }
        self.walk(|mut hashes| tree::inclusion(index, size, &mut hashes)).map(Some)
    }

    fn hashes(&self, level: u32, positions: Range<u64>) -> Result<Option<Vec<Digest>>, Error> {
        let (from, to) = (bound(positions.start), bound(positions.end));
        let leaves = "SELECT leaf FROM records
            WHERE gateway = $1 AND position >= $2 AND position < $3 ORDER BY position";
        let inner = "SELECT hash FROM nodes
            WHERE gateway = $1 AND position >= $2 AND position < $3 AND level = $4 ORDER BY position";
        let read = |row: &Row| row.try_get(0).map(|Bytes(hash)| Digest(hash));
        let found = match i16::try_from(level) {
            Ok(0) => self.all(leaves, &[&self.number, &from, &to], read)?,
            Ok(level) => self.all(inner, &[&self.number, &from, &to, &level], read)?,
            Err(_) => Vec::new(),
        };
        Ok((found.len() as u64 == positions.end.saturating_sub(positions.start)).then_some(found))
    }

    fn task(&self, task: TaskId) -> Result<TaskRecords, Error> {
        let sql = "SELECT entry.position, entry.batch, record.bytes, batch.bytes FROM task_records AS entry
            LEFT JOIN records AS record ON record.gateway = entry.gateway AND record.position = entry.position
            LEFT JOIN records AS batch ON batch.gateway = entry.gateway AND batch.position = entry.batch
            WHERE entry.gateway = $1 AND entry.task = $2 ORDER BY entry.position";
        let read = |row: &Row| Ok((number(row, 0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
        let rows: Vec<TaskRow> = self.all(sql, &[&self.number, &bytes(&task.0)], read)?;
        let mut found = TaskRecords::default();
        for (index, batch, record, batch_record) in rows {
            let record = parse(index, record.ok_or(Error::Missing { index })?)?;
            match (record, batch.map(i64::cast_unsigned)) {
                (Record::Receipt(receipt), Some(batch_index)) => {
                    let batch = countersigned(batch_index, batch_record)?;
                    let place = (index + u64::from(batch.header.count)).checked_sub(batch_index);
                    let place = place.and_then(|place| u16::try_from(place).ok()).ok_or(Error::Missing { index })?;
                    found.attempts.push(Attempt { index, receipt, place, batch_index, batch });
                }
                (Record::Audit { subject, outcome }, None) => found.audits.push((index, subject, outcome)),
                _ => return Err(Error::Missing { index }),
            }
        }
        Ok(found)
    }

    fn batch(&self, node: NodeId, sequence: u64) -> Result<Option<NodeBatch>, Error> {
        let Ok(sequence) = i64::try_from(sequence) else { return Ok(None) };
        let sql = "SELECT batches.position, bytes FROM batches LEFT JOIN records USING (gateway, position)
            WHERE gateway = $1 AND node = $2 AND sequence = $3";
        let read = |row: &Row| Ok((number(row, 0)?, row.try_get(1)?));
        let found = self.one(sql, &[&self.number, &bytes(&node.0), &sequence], read)?;
        let batch = |(index, record)| Ok(NodeBatch { index, batch: countersigned(index, record)? });
        found.map(batch).transpose()
    }

    fn next_sequence(&self, node: NodeId) -> Result<u64, Error> {
        let sql = "SELECT coalesce(max(sequence) + 1, 0) FROM batches WHERE gateway = $1 AND node = $2";
        Ok(self.one(sql, &[&self.number, &bytes(&node.0)], |row| number(row, 0))?.unwrap_or(0))
    }

    fn next_sequences(&self) -> Result<Vec<(NodeId, u64)>, Error> {
        let sql = "SELECT node, max(sequence) + 1 FROM batches WHERE gateway = $1 GROUP BY node";
        self.all(sql, &[&self.number], |row| Ok((row.try_get(0).map(|Bytes(id)| NodeId(id))?, number(row, 1)?)))
    }

    fn facts(&self, task: TaskId) -> Result<Option<Facts>, Error> {
        let sql = "SELECT sealed FROM facts WHERE gateway = $1 AND task = $2";
        let sealed = self.one(sql, &[&self.number, &bytes(&task.0)], |row| row.try_get::<_, Vec<u8>>(0))?;
        let open = |sealed: Vec<u8>| self.vault.open(&facts_name(task), &sealed);
        let damaged = Error::Sealed { what: "facts", task };
        sealed.map(|sealed| open(sealed).map(|bytes| Facts { task, bytes }).ok_or(damaged)).transpose()
    }

    fn payload(&self, attempt: AttemptId) -> Result<Option<Payload>, Error> {
        let sql = "SELECT created, sealed FROM payloads WHERE gateway = $1 AND task = $2 AND attempt = $3";
        let values: &[&(dyn ToSql + Sync)] = &[&self.number, &bytes(&attempt.task.0), &i16::from(attempt.attempt)];
        let found = self.one(sql, values, |row| Ok((number(row, 0)?, row.try_get::<_, Vec<u8>>(1)?)))?;
        found.map(|(created, sealed)| payload::open(&self.vault, attempt, Timestamp(created), &sealed)).transpose()
    }

    fn tenant_by_key_hash(&self, key_hash: &[u8; 32]) -> Result<Option<Tenant>, Error> {
        let sql = "SELECT tenant, name, key_hash, created, requests_per_minute, tokens_per_minute FROM tenants
            WHERE key_hash = $1";
        self.one(sql, &[&bytes(key_hash)], read_tenant)
    }

    fn tenants(&self) -> Result<Vec<Tenant>, Error> {
        let sql = "SELECT tenant, name, key_hash, created, requests_per_minute, tokens_per_minute FROM tenants
            ORDER BY tenant";
        self.all(sql, &[], read_tenant)
    }

    fn latest_snapshot(&self) -> Result<Option<Snapshot>, Error> {
        let sql = "SELECT epoch, size, bytes FROM snapshots WHERE gateway = $1 ORDER BY epoch DESC LIMIT 1";
        self.one(sql, &[&self.number], |row| {
            Ok(Snapshot { epoch: Epoch(number(row, 0)?), size: number(row, 1)?, bytes: row.try_get(2)? })
        })
    }

    fn latest_checkpoint(&self) -> Result<Option<Note>, Error> {
        let sql = "SELECT epoch, size, note FROM checkpoints
            WHERE gateway = $1 AND epoch >= $2 ORDER BY epoch DESC LIMIT 1";
        self.note(sql, 0)
    }

    fn checkpoint(&self, epoch: Epoch) -> Result<Option<Note>, Error> {
        let sql = "SELECT epoch, size, note FROM checkpoints WHERE gateway = $1 AND epoch = $2";
        i64::try_from(epoch.0).map_or(Ok(None), |epoch| self.note(sql, epoch))
    }

    fn checkpoint_over(&self, index: u64) -> Result<Option<Note>, Error> {
        let sql = "SELECT epoch, size, note FROM checkpoints
            WHERE gateway = $1 AND size > $2 ORDER BY size, epoch LIMIT 1";
        i64::try_from(index).map_or(Ok(None), |index| self.note(sql, index))
    }
}

/// Bytes of one length.
pub(super) struct Bytes<const N: usize>(pub(super) [u8; N]);

impl<'a, const N: usize> FromSql<'a> for Bytes<N> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(raw.try_into()?))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::BYTEA
    }
}

/// A number that was stored as a signed one.
pub(super) fn number(row: &Row, column: usize) -> Result<u64, tokio_postgres::Error> {
    row.try_get(column).map(i64::cast_unsigned)
}

pub(super) fn read_note(row: &Row) -> Result<Note, tokio_postgres::Error> {
    Ok(Note { epoch: Epoch(number(row, 0)?), size: number(row, 1)?, text: text(row, 2)? })
}

// Our own texts are UTF-8; if others wrote there, it shows.
fn text(row: &Row, column: usize) -> Result<String, tokio_postgres::Error> {
    Ok(String::from_utf8_lossy(row.try_get(column)?).into_owned())
}

fn read_tenant(row: &Row) -> Result<Tenant, tokio_postgres::Error> {
    let limit =
        |column| row.try_get(column).map(|limit: Option<i64>| limit.and_then(|limit| u32::try_from(limit).ok()));
    Ok(Tenant {
        tenant: row.try_get(0).map(|Bytes(id)| TenantId(id))?,
        name: text(row, 1)?,
        key_hash: row.try_get(2).map(|Bytes(hash)| hash)?,
        created: Timestamp(number(row, 3)?),
        requests_per_minute: limit(4)?,
        tokens_per_minute: limit(5)?,
    })
}

fn countersigned(index: u64, bytes: Option<Vec<u8>>) -> Result<CountersignedBatch, Error> {
    match bytes.map(|bytes| parse(index, bytes)).transpose()? {
        Some(Record::Batch(batch)) => Ok(batch),
        _ => Err(Error::Missing { index }),
    }
}

fn bytes(array: &[u8]) -> &[u8] {
    array
}

fn bound(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}
