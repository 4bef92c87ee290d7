//! A store in a PostgreSQL database, which several gateways may share: each has a log of its own, the tenants are common.
//!
//! A commit is two round trips: what the database knows about the jobs, then all statements and the commit at once. The
//! right to write a log is an advisory lock of the session that writes it, so it ends with the process or the connection
//! and nothing is ever written without it.
//!
//! If the connection is lost before the answer to a commit, nobody knows whether it counts. Each commit therefore leaves
//! a mark of its own in the log's row. Once there is a new session, with the lock and so after the end of the old
//! transaction, the mark tells; jobs of a commit that did count get their answer when they are handed in again.

mod claim;
mod encryption;
mod funds;
mod group;
mod prune;
mod read;
mod schema;
mod server;
mod session;
mod tables;
mod write;

use crate::error::Error;
use crate::read::parse;
use crate::store::{Appended, Identity, Job, Read, Store};
use crate::tree::Edge;
use crate::vault::Vault;
use claim::{Backend, Mark};
pub use funds::PostgresFunds;
use group::{Group, Holdings, Unheard};
use ol_protocol::genesis::Genesis;
use ol_protocol::record::Record;
use ol_protocol::{Digest, GatewayId, NetworkId};
pub use prune::prune_server;
pub use read::PostgresReader;
pub use server::Server;
use session::{Call, Session};
use std::path::Path;
use std::sync::Arc;
use tokio_postgres::Row;
use write::Writes;

// Jobs whose answer was lost and which nobody has handed in again: those of the last 16 lost commits or more.
const UNHEARD_MAX: usize = 4_096;

/// A gateway's store in a PostgreSQL database. The key of what is sealed lies in a local file.
pub struct PostgresStore {
    reader: PostgresReader,
    log: Log,
}

impl core::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PostgresStore({:?}, {} records)", self.reader, self.log.edge.size())
    }
}

impl PostgresStore {
    /// Opens a gateway's log, or begins it, and makes the tables if there are none; refuses another network's, and the
    /// key of another gateway. `key` is the file of the key for payloads and facts, made with the log.
    pub fn open(server: &Server, key: &Path, identity: Identity) -> Result<Self, Error> {
        let session = Session::connect(server)?;
        schema::join(&session)?;
        claim::lock(&session, identity.gateway)?;
        write_durably(&session)?;
        let (found, vault) = claim::claim(&session, key, identity)?;
        let backend = Backend::of(&session)?;
        session.owns_log.set(true);
        let reader = PostgresReader::over(session, key, identity.gateway, found.number, vault);
        let size = reader.size()?;
        let edge = reader.walk(|mut hashes| Edge::load(size, &mut hashes))?;
        let log = Log {
            gateway: identity.gateway,
            number: found.number,
            network: found.network,
            edge,
            mark: found.mark,
            doubt: None,
            unheard: Unheard::new(),
            backend,
        };
        Ok(Self { reader, log })
    }
}

/// The first record of a database's oldest log, if any has begun: what its gateways have in common.
pub fn founding(server: &Server) -> Result<Option<Genesis>, Error> {
    let session = Session::connect(server)?;
    if !schema::is_there(&session)? {
        return Ok(None);
    }
    let sql = "SELECT bytes FROM records WHERE position = 0 ORDER BY gateway LIMIT 1";
    let rows = session.ask(sql, &[])?;
    let bytes: Option<Vec<u8>> =
        rows.first().map(|row| row.try_get(0)).transpose().map_err(|cause| server.failed(cause))?;
    match bytes.map(|bytes| parse(0, bytes)).transpose()? {
        Some(Record::Genesis(genesis)) => Ok(Some(genesis)),
        Some(_) => Err(Error::Missing { index: 0 }),
        None => Ok(None),
    }
}

/// The gateways that have a log in a database, in the order in which they came.
pub fn gateways(server: &Server) -> Result<Vec<GatewayId>, Error> {
    let session = Session::connect(server)?;
    schema::recognise(&session)?;
    let rows = session.ask("SELECT id FROM gateways ORDER BY number", &[])?;
    let ids: Result<_, _> = rows.iter().map(|row| row.try_get(0).map(|read::Bytes(id)| GatewayId(id))).collect();
    ids.map_err(|cause| server.failed(cause))
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        // If this fails the session is lost, and with it the lock.
        let _ = self.reader.with_open(|session| claim::unlock(session, self.log.gateway));
    }
}

impl Store for PostgresStore {
    fn commit(&mut self, jobs: &[Arc<Job>]) -> Vec<Result<Appended, Error>> {
        match self.reader.with(|session, vault| self.log.commit(session, vault, jobs)) {
            Ok(answers) => answers,
            Err(failed) => jobs.iter().map(|_| Err(failed.clone())).collect(),
        }
    }

    fn read(&self) -> &dyn Read {
        &self.reader
    }

    fn reader(&self) -> Result<Box<dyn Read>, Error> {
        Ok(Box::new(self.reader.another()?))
    }
}

// A log as its writer knows it.
struct Log {
    gateway: GatewayId,
    number: i32,
    network: Option<NetworkId>,
    edge: Edge,
    mark: Mark,
    doubt: Option<Doubt>,
    unheard: Unheard,
    // The last session that had the lock.
    backend: Backend,
}

// A commit of which nobody knows whether it counts, and the log if it does.
struct Doubt {
    mark: Mark,
    network: Option<NetworkId>,
    edge: Edge,
    appended: Vec<(Digest, Appended)>,
}

impl Log {
    fn commit(
        &mut self,
        session: &Session,
        vault: &Vault,
        jobs: &[Arc<Job>],
    ) -> Result<Vec<Result<Appended, Error>>, Error> {
        if !session.owns_log.get() {
            self.resume(session).inspect_err(|_| session.abandon())?;
        }
        let done = self.write(session, vault, jobs);
        if done.is_err() && self.doubt.is_none() && session.script("ROLLBACK").is_err() {
            session.abandon();
        }
        done
    }

    // Takes the log up again on a new session, as it was left.
    fn resume(&mut self, session: &Session) -> Result<(), Error> {
        schema::join(session)?;
        self.backend.end(session)?;
        claim::lock(session, self.gateway)?;
        write_durably(session)?;
        let found = claim::find(session, self.gateway)?.filter(|found| found.number == self.number);
        let found = found.map(|found| found.mark);
        match self.doubt.take() {
            Some(doubt) if found == Some(doubt.mark) => self.accept(doubt),
            _ if found == Some(self.mark) => {}
            doubt => {
                self.doubt = doubt;
                return Err(Error::Overtaken { gateway: self.gateway, place: session.server().place().clone() });
            }
        }
        self.backend = Backend::of(session)?;
        session.owns_log.set(true);
        Ok(())
    }

    // A commit counts, but nobody has heard so.
    fn accept(&mut self, doubt: Doubt) {
        let Doubt { mark, network, edge, appended } = doubt;
        (self.mark, self.network, self.edge) = (mark, network, edge);
        self.unheard.extend(appended);
        let surplus = self.unheard.len().saturating_sub(UNHEARD_MAX);
        self.unheard.drain(..surplus);
    }

    fn write(
        &mut self,
        session: &Session,
        vault: &Vault,
        jobs: &[Arc<Job>],
    ) -> Result<Vec<Result<Appended, Error>>, Error> {
        let held = Holdings::ask(session, self.number, self.network, jobs)?;
        let mut group = Group::new(self.edge.clone(), self.unheard.clone());
        let mut writes = Writes::new(self.number, vault);
        group.fill(jobs, self.gateway, held, &mut writes)?;
        let mut calls = writes.finish();
        if calls.is_empty() {
            session.script("ROLLBACK")?;
            self.unheard = core::mem::take(&mut group.unheard);
            return Ok(group.answers(&[]));
        }
        let mark = claim::new_mark()?;
        calls.push(self.sign(&mark, group.network));
        calls.push(Call::new("COMMIT", Vec::new()));
        let rows = match self.finish(session, &calls) {
            Ok(rows) => rows,
            Err(Broken::Undone(error)) => return Err(error),
            Err(Broken::Unknown(error)) => {
                let Group { edge, network, appended, .. } = group;
                self.doubt = Some(Doubt { mark, network, edge, appended });
                session.abandon();
                return Err(error);
            }
        };
        (self.mark, self.network, self.edge) = (mark, group.network, core::mem::take(&mut group.edge));
        self.unheard = core::mem::take(&mut group.unheard);
        Ok(group.answers(&rows))
    }

    fn sign(&self, mark: &Mark, network: Option<NetworkId>) -> Call {
        let sql = "UPDATE gateways SET mark = $2, network = $3 WHERE number = $1";
        let network = network.map(|network| network.0.to_vec());
        Call::new(sql, vec![Box::new(self.number), Box::new(mark.to_vec()), Box::new(network)])
    }

    // The last call is the commit. If a statement before it fails, the server undoes the transaction at the commit.
    fn finish(&self, session: &Session, calls: &[Call]) -> Result<Vec<Vec<Row>>, Broken> {
        let failed = |cause| session.server().failed(cause);
        let mut answers = session.ask_all(calls).map_err(Broken::Unknown)?;
        let commit = answers.pop().unwrap_or_else(|| Ok(Vec::new()));
        let rows: Result<Vec<_>, _> = answers.into_iter().collect();
        match (rows, commit) {
            (Ok(rows), Ok(_)) => Ok(rows),
            (Err(cause), Ok(_)) => Err(Broken::Undone(failed(cause))),
            (Err(cause), _) | (Ok(_), Err(cause)) => Err(Broken::Unknown(failed(cause))),
        }
    }
}

// A transaction that did not end well.
enum Broken {
    // It is as if it had never been.
    Undone(Error),
    // Nobody knows.
    Unknown(Error),
}

// An answered commit is on the disk, whatever the server's settings are. A stronger setting is kept.
fn write_durably(session: &Session) -> Result<(), Error> {
    let sql = "SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') IN ('off', 'local')";
    session.ask(sql, &[]).map(drop)
}
