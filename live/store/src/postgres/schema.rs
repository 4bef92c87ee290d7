//! The tables of the schema `openledger`, and how a database gets to the newest of their versions.

use super::session::Session;
use crate::error::Error;

/// What a database of ours is called in errors.
const NAME: &str = "a database of gateways";

// Advisory lock of the tables' shape: shared by all who write, alone for who changes them. "OLsc" in ASCII.
const SHAPE: i64 = 0x4f4c_7363;

// One script for each version, never changed once released.
const MIGRATIONS: &[&str] = &[FIRST, SECOND];

// Every log is under its gateway's number, positions of its records count from 0. `nodes` holds the hashes of complete
// subtrees, `task_records` where a task's receipts (with the record of their batch) and audits (without) are. Texts are
// bytes of UTF-8, as a text of PostgreSQL can't hold every one. No table refers to `gateways`: the check would cost a
// read and a row lock for every row. Of each top-up, `claimed` is how much the gateways have taken, each part a slice.
// What is sealed or hashed is not worth compressing.
const FIRST: &str = "
    CREATE TABLE gateways (
        number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id bytea NOT NULL UNIQUE, network bytea,
        key_check bytea NOT NULL, mark bytea NOT NULL
    );
    CREATE TABLE records (
        gateway integer NOT NULL, position bigint NOT NULL, bytes bytea NOT NULL, leaf bytea NOT NULL,
        PRIMARY KEY (gateway, position)
    );
    CREATE TABLE nodes (
        gateway integer NOT NULL, level smallint NOT NULL, position bigint NOT NULL, hash bytea NOT NULL,
        PRIMARY KEY (gateway, level, position)
    );
    CREATE TABLE task_records (
        gateway integer NOT NULL, task bytea NOT NULL, position bigint NOT NULL, batch bigint,
        PRIMARY KEY (gateway, task, position)
    );
    CREATE TABLE batches (
        gateway integer NOT NULL, node bytea NOT NULL, sequence bigint NOT NULL, position bigint NOT NULL,
        PRIMARY KEY (gateway, node, sequence)
    );
    CREATE TABLE facts (
        gateway integer NOT NULL, task bytea NOT NULL, sealed bytea NOT NULL, PRIMARY KEY (gateway, task)
    );
    CREATE TABLE payloads (
        gateway integer NOT NULL, task bytea NOT NULL, attempt smallint NOT NULL, created bigint NOT NULL,
        sealed bytea NOT NULL, PRIMARY KEY (gateway, task, attempt)
    );
    CREATE INDEX payloads_by_age ON payloads (gateway, created);
    CREATE TABLE tenants (
        tenant bytea PRIMARY KEY, name bytea NOT NULL, key_hash bytea NOT NULL UNIQUE, created bigint NOT NULL,
        requests_per_minute bigint, tokens_per_minute bigint
    );
    CREATE TABLE top_ups (
        tenant bytea NOT NULL, serial bigint NOT NULL, bytes bytea NOT NULL, amount bigint NOT NULL,
        claimed bigint NOT NULL, PRIMARY KEY (tenant, serial), CHECK (claimed BETWEEN 0 AND amount)
    );
    CREATE TABLE slices (
        gateway integer NOT NULL, tenant bytea NOT NULL, serial bigint NOT NULL, start bigint NOT NULL,
        amount bigint NOT NULL, PRIMARY KEY (tenant, serial, start), CHECK (amount > 0)
    );
    CREATE INDEX slices_by_gateway ON slices (gateway, tenant, serial, start);
    CREATE TABLE snapshots (
        gateway integer NOT NULL, epoch bigint NOT NULL, size bigint NOT NULL, bytes bytea NOT NULL,
        PRIMARY KEY (gateway, epoch)
    );
    CREATE TABLE checkpoints (
        gateway integer NOT NULL, epoch bigint NOT NULL, size bigint NOT NULL, note bytea NOT NULL,
        PRIMARY KEY (gateway, epoch)
    );
    CREATE INDEX checkpoints_by_size ON checkpoints (gateway, size);
    ALTER TABLE records ALTER bytes SET STORAGE EXTERNAL;
    ALTER TABLE facts ALTER sealed SET STORAGE EXTERNAL;
    ALTER TABLE payloads ALTER sealed SET STORAGE EXTERNAL;";

// How far logs are pruned, and the accounts to fold the rest from.
const SECOND: &str = "
    CREATE TABLE pruned (
        gateway integer PRIMARY KEY, before bigint NOT NULL, size bigint NOT NULL, epoch bigint NOT NULL,
        base bytea NOT NULL
    );
    ALTER TABLE pruned ALTER base SET STORAGE EXTERNAL;";

/// The first version in which a log may be pruned.
pub(super) const PRUNED_SINCE: u32 = 2;

const VERSIONS: &str = "
    CREATE SCHEMA openledger;
    CREATE TABLE versions (number integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now());";

/// Brings a database to the newest version and keeps it there while the session lasts; makes it if there is none. While
/// gateways run on it, an older one is refused.
pub(super) fn join(session: &Session) -> Result<(), Error> {
    if version(session)? < known() {
        migrate(session)?;
    }
    session.ask("SELECT pg_advisory_lock_shared($1)", &[&SHAPE])?;
    // Somebody with a newer program may have come in between.
    version(session).map(drop)
}

/// Keeps the tables as they are while a transaction lasts.
pub(super) fn hold(session: &Session) -> Result<(), Error> {
    session.ask("SELECT pg_advisory_xact_lock_shared($1)", &[&SHAPE]).map(drop)
}

/// Which version a database has that gateways have written.
pub(super) fn recognise(session: &Session) -> Result<u32, Error> {
    match version(session)? {
        0 => Err(foreign(session)),
        found => Ok(found),
    }
}

/// Whether gateways have written a database.
pub(super) fn is_there(session: &Session) -> Result<bool, Error> {
    version(session).map(|found| found > 0)
}

// 0 for a database without our schema.
fn version(session: &Session) -> Result<u32, Error> {
    let failed = |cause| session.server().failed(cause);
    let there = "SELECT to_regnamespace('openledger') IS NOT NULL, to_regclass('openledger.versions') IS NOT NULL";
    let rows = session.ask(there, &[])?;
    let row = rows.first().ok_or_else(|| foreign(session))?;
    match (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?) {
        (false, _) => return Ok(0),
        (true, false) => return Err(foreign(session)),
        (true, true) => {}
    }
    let rows = session.ask("SELECT coalesce(max(number), 0) FROM versions", &[])?;
    let found: i32 = rows.first().ok_or_else(|| foreign(session))?.try_get(0).map_err(failed)?;
    let (found, known) = (found.unsigned_abs(), known());
    match found {
        0 => Err(foreign(session)),
        newer if newer > known => Err(Error::Newer { place: session.server().place().clone(), found, known }),
        found => Ok(found),
    }
}

fn migrate(session: &Session) -> Result<(), Error> {
    session.script("BEGIN")?;
    session.ask("SELECT pg_advisory_xact_lock($1)", &[&SHAPE])?;
    let found = version(session)?;
    if found == 0 {
        session.script(VERSIONS)?;
    }
    for (script, number) in MIGRATIONS.iter().zip(1_i32..).skip(found as usize) {
        session.script(script)?;
        session.ask("INSERT INTO versions (number) VALUES ($1)", &[&number])?;
    }
    session.script("COMMIT")
}

/// The newest version.
pub(super) const fn known() -> u32 {
    MIGRATIONS.len() as u32
}

fn foreign(session: &Session) -> Error {
    Error::NotADatabase { place: session.server().place().clone(), expected: NAME }
}
