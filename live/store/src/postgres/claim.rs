//! Whose log is whose: the rows of `gateways`, their keys and their locks.

use super::read::Bytes;
use super::session::Session;
use crate::error::Error;
use crate::keyfile;
use crate::store::Identity;
use crate::vault::Vault;
use ol_protocol::{GatewayId, NetworkId};
use std::path::Path;
use tokio_postgres::Row;

/// Changes with every commit to a log, and no two commits have the same.
pub(super) type Mark = [u8; 16];

/// A gateway that a database knows.
pub(super) struct Found {
    /// What its rows are under.
    pub(super) number: i32,
    pub(super) network: Option<NetworkId>,
    pub(super) mark: Mark,
    key_check: Vec<u8>,
}

/// The server's name for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    process: i32,
    since: String,
}

impl Backend {
    pub(super) fn of(session: &Session) -> Result<Self, Error> {
        let sql = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let read = |row: &Row| Ok(Self { process: row.try_get(0)?, since: row.try_get(1)? });
        one(session, session.ask(sql, &[])?, read)?
            .ok_or_else(|| Error::Silent { place: session.server().place().clone() })
    }

    /// Ends a session that the server may still think alive, with its locks.
    pub(super) fn end(&self, session: &Session) -> Result<(), Error> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2";
        session.ask(sql, &[&self.process, &self.since]).map(drop)
    }
}

/// Takes the right to write a gateway's log, held until the session ends or lets it go.
pub(super) fn lock(session: &Session, gateway: GatewayId) -> Result<(), Error> {
    match session.ask("SELECT pg_advisory_lock($1)", &[&lock_key(gateway)]) {
        Err(Error::Locked { place }) => Err(Error::Running { gateway, place }),
        done => done.map(drop),
    }
}

/// Lets the log go, so that the next to open it need not wait until the server notices the end of the session.
pub(super) fn unlock(session: &Session, gateway: GatewayId) -> Result<(), Error> {
    session.ask("SELECT pg_advisory_unlock($1)", &[&lock_key(gateway)]).map(drop)
}

// The id is a public key, so its first bytes tell gateways apart.
fn lock_key(gateway: GatewayId) -> i64 {
    gateway.0.first_chunk().map_or(0, |first| i64::from_be_bytes(*first))
}

/// The gateway, if the database knows it.
pub(super) fn find(session: &Session, gateway: GatewayId) -> Result<Option<Found>, Error> {
    let sql = "SELECT number, network, mark, key_check FROM gateways WHERE id = $1";
    one(session, session.ask(sql, &[&&gateway.0[..]])?, |row| {
        Ok(Found {
            number: row.try_get(0)?,
            network: row.try_get::<_, Option<Bytes<32>>>(1)?.map(|Bytes(id)| NetworkId(id)),
            mark: row.try_get(2).map(|Bytes(mark)| mark)?,
            key_check: row.try_get(3)?,
        })
    })
}

/// Finds the gateway's log or begins it; refuses another network, and a key that is not its own. The log's lock is held.
pub(super) fn claim(session: &Session, key: &Path, identity: Identity) -> Result<(Found, Vault), Error> {
    let Identity { network, gateway } = identity;
    let Some(mut found) = find(session, gateway)? else { return begin(session, key, identity) };
    let vault = open_vault(session, key, gateway, &found)?;
    let Some(expected) = network else { return Ok((found, vault)) };
    match found.network {
        Some(found) if found == expected => {}
        Some(found) => return Err(Error::OtherNetwork { place: session.server().place().clone(), found, expected }),
        None => {
            let sql = "UPDATE gateways SET network = $2 WHERE number = $1";
            session.ask(sql, &[&found.number, &&expected.0[..]])?;
            found.network = network;
        }
    }
    Ok((found, vault))
}

/// The vault under the key that the gateway's log was begun with.
pub(super) fn open_vault(session: &Session, key: &Path, gateway: GatewayId, found: &Found) -> Result<Vault, Error> {
    let vault = Vault::new(&keyfile::load(key)?)?;
    match vault.open(&sample_name(gateway), &found.key_check) {
        Some(_) => Ok(vault),
        None => Err(Error::OtherKey { key: key.into(), place: session.server().place().clone() }),
    }
}

fn begin(session: &Session, key: &Path, identity: Identity) -> Result<(Found, Vault), Error> {
    let Identity { network, gateway } = identity;
    let vault = Vault::new(&keyfile::secret_file(key)?)?;
    if let Some(found) = owner(session, &vault)? {
        return Err(Error::OtherGateway { place: session.server().place().clone(), found, expected: gateway });
    }
    let (mark, key_check) = (new_mark()?, vault.seal(&sample_name(gateway), &[]));
    let sql = "INSERT INTO gateways (id, network, key_check, mark) VALUES ($1, $2, $3, $4) RETURNING number";
    let network_bytes = network.as_ref().map(|network| &network.0[..]);
    let rows = session.ask(sql, &[&&gateway.0[..], &network_bytes, &key_check, &&mark[..]])?;
    let number = one(session, rows, |row| row.try_get(0))?;
    let number = number.ok_or_else(|| Error::NoLog { gateway, place: session.server().place().clone() })?;
    Ok((Found { number, network, mark, key_check }, vault))
}

// The gateway whose key it is: no two share one, and the file of another's is that of another's folder.
fn owner(session: &Session, vault: &Vault) -> Result<Option<GatewayId>, Error> {
    let failed = |cause| session.server().failed(cause);
    for row in session.ask("SELECT id, key_check FROM gateways", &[])? {
        let gateway = row.try_get(0).map(|Bytes(id)| GatewayId(id)).map_err(failed)?;
        let sample: Vec<u8> = row.try_get(1).map_err(failed)?;
        if vault.open(&sample_name(gateway), &sample).is_some() {
            return Ok(Some(gateway));
        }
    }
    Ok(None)
}

/// A mark that no commit has had.
pub(super) fn new_mark() -> Result<Mark, Error> {
    let mut mark = [0; 16];
    getrandom::fill(&mut mark).map_err(|_| Error::Random)?;
    Ok(mark)
}

fn sample_name(gateway: GatewayId) -> Vec<u8> {
    [b"key_check", &gateway.0[..]].concat()
}

fn one<T>(
    session: &Session,
    rows: Vec<Row>,
    read: impl FnMut(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Option<T>, Error> {
    rows.first().map(read).transpose().map_err(|cause| session.server().failed(cause))
}
