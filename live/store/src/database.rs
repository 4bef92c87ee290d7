//! An SQLite file of ours: opened, recognised, locked and brought to the newest schema.

use crate::error::{Error, Refusal};
use crate::keyfile;
use crate::vault::Vault;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, OptionalExtension as _, Params, ffi};
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

// Longest wait for another connection's lock. Only readers and one writer exist, and they never wait for each other in
// WAL mode but for a checkpoint's moment.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

// Memory for pages that a writer changes again and again: those that the indexes grow at.
const CACHE_KIB: i64 = 16 * 1_024;

// Pages of a new database. Most of what is written lies side by side, a few kilobytes a task: large pages are fewer writes and checksums.
const PAGE_BYTES: i64 = 16 * 1_024;

// Size of the write-ahead log at which it is carried over: so that a page that changes with each commit is carried over once for many.
const LOG_BYTES: i64 = 16 << 20;

// Prepared statements that a connection keeps; all that occur.
const STATEMENTS_KEPT: usize = 64;

/// A kind of database.
#[derive(Debug)]
pub(crate) struct Kind {
    /// What it is called in errors.
    pub(crate) name: &'static str,
    /// SQLite's application id, so that nobody else's database is taken for ours.
    pub(crate) application_id: i32,
    /// One script for each schema version, never changed once released.
    pub(crate) migrations: &'static [&'static str],
}

/// A connection that knows its file.
pub(crate) struct Db {
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
}

impl Db {
    /// Opens a database for its one writer; makes it if there is none.
    pub(crate) fn open(path: &Path, kind: &Kind, page_count_max: Option<u32>) -> Result<(Self, Lock), Error> {
        let lock = Lock::take(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let db = Self::connect(path, flags)?;
        if let Some(pages) = page_count_max {
            db.set("max_page_count", i64::from(pages))?;
        }
        db.migrate(kind)?;
        Ok((db, lock))
    }

    /// Opens a database to read, whether or not someone writes it.
    pub(crate) fn open_read_only(path: &Path, kind: &Kind) -> Result<Self, Error> {
        let db = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        match db.recognise(kind)? {
            0 => Err(Error::NotADatabase { place: path.into(), expected: kind.name }),
            _ => Ok(db),
        }
    }

    /// Opens a database of this version to write it beside its one writer: only for changes that the writer's own can't
    /// meet.
    pub(crate) fn open_beside(path: &Path, kind: &Kind) -> Result<Self, Error> {
        let db = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let known = kind.migrations.len() as u32;
        match db.recognise(kind)? {
            found if found == known => {
                db.set("synchronous", "FULL")?;
                Ok(db)
            }
            _ => Err(Error::NotADatabase { place: path.into(), expected: kind.name }),
        }
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, Error> {
        let failed = |cause| failed(path, cause);
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
        connection.busy_timeout(BUSY_LIMIT).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        Ok(Self { connection, path: path.into() })
    }

    // Which schema it has; 0 for a new file.
    fn recognise(&self, kind: &Kind) -> Result<u32, Error> {
        let foreign = || Error::NotADatabase { place: self.path.as_path().into(), expected: kind.name };
        let read = |what: &str| {
            self.connection.pragma_query_value(None, what, |row| row.get::<_, i32>(0)).map_err(|cause| match cause {
                rusqlite::Error::SqliteFailure(error, _) if error.code == ErrorCode::NotADatabase => foreign(),
                other => self.failed(other),
            })
        };
        let (id, found) = (read("application_id")?, read("user_version")?.cast_unsigned());
        let known = kind.migrations.len() as u32;
        match (id, found) {
            (0, 0) if read("schema_version")? == 0 => Ok(0),
            (id, _) if id != kind.application_id => Err(foreign()),
            (_, found) if found > known => Err(Error::Newer { place: self.path.as_path().into(), found, known }),
            (_, found) => Ok(found),
        }
    }

    fn migrate(&self, kind: &Kind) -> Result<(), Error> {
        let found = self.recognise(kind)?;
        if found == 0 {
            self.set("page_size", PAGE_BYTES)?;
        }
        self.set("journal_mode", "WAL")?;
        self.set("synchronous", "FULL")?;
        self.set("cache_size", -CACHE_KIB)?;
        let page_bytes = self.connection.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0));
        self.set("wal_autocheckpoint", LOG_BYTES / page_bytes.map_err(|cause| self.failed(cause))?.max(1))?;
        self.in_transaction(|| {
            for (version, script) in kind.migrations.iter().enumerate().skip(found as usize) {
                self.connection.execute_batch(script).map_err(|cause| self.failed(cause))?;
                self.set("user_version", version as i64 + 1)?;
            }
            self.set("application_id", i64::from(kind.application_id))
        })
    }

    /// All of it or nothing, on the disk when this returns.
    pub(crate) fn in_transaction<T>(&self, body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.run("BEGIN IMMEDIATE", [])?;
        let done = body().and_then(|value| self.run("COMMIT", []).map(|_| value));
        // SQLite ends some failed transactions by itself, among them those on a full disk.
        if done.is_err() && !self.connection.is_autocommit() {
            self.run("ROLLBACK", [])?;
        }
        done
    }

    pub(crate) fn prepare(&self, sql: &str) -> Result<CachedStatement<'_>, Error> {
        self.connection.prepare_cached(sql).map_err(|cause| self.failed(cause))
    }

    /// Runs a statement and tells how many rows it changed.
    pub(crate) fn run(&self, sql: &str, values: impl Params) -> Result<usize, Error> {
        self.prepare(sql)?.execute(values).map_err(|cause| self.failed(cause))
    }

    pub(crate) fn failed(&self, cause: rusqlite::Error) -> Error {
        failed(&self.path, cause)
    }

    pub(crate) fn set(&self, pragma: &str, value: impl rusqlite::ToSql) -> Result<(), Error> {
        // Some pragmas answer with a row and some with none.
        self.connection.pragma_update(None, pragma, value).map_err(|cause| self.failed(cause))
    }

    /// A fact about the database.
    pub(crate) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut statement = self.prepare("SELECT value FROM meta WHERE key = ?1")?;
        statement.query_row([key], |row| row.get(0)).optional().map_err(|cause| self.failed(cause))
    }

    pub(crate) fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.run("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", (key, value)).map(drop)
    }

    /// Sets an id at first, and later finds it again or says which other one is there.
    pub(crate) fn claim<const N: usize>(
        &self,
        key: &str,
        expected: &[u8; N],
        other: impl FnOnce([u8; N]) -> Error,
    ) -> Result<(), Error> {
        match self.meta(key)? {
            None => self.set_meta(key, expected),
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(other(found.try_into().unwrap_or([0; N]))),
        }
    }

    /// The vault under the key in the file beside the database. A new database makes its key, an older one needs its own.
    pub(crate) fn vault(&self) -> Result<Vault, Error> {
        let key = beside(&self.path, "key");
        let Some(sample) = self.meta("key_check")? else {
            let vault = Vault::new(&keyfile::secret_file(&key)?)?;
            self.set_meta("key_check", &vault.seal(b"key_check", &[]))?;
            return Ok(vault);
        };
        let vault = Vault::new(&keyfile::load(&key)?)?;
        match vault.open(b"key_check", &sample) {
            Some(_) => Ok(vault),
            None => Err(Error::OtherKey { key, place: self.path.as_path().into() }),
        }
    }
}

/// The right to write a database, held until dropped. It is a file beside it, as SQLite's own locks let a second process
/// in whenever the first does not write.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    pub(crate) fn take(path: &Path) -> Result<Self, Error> {
        let name = beside(path, "lock");
        let failed = |cause: io::Error| Error::Io { path: name.clone(), cause: Arc::new(cause) };
        let file = File::options().write(true).create(true).truncate(false).open(&name).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { place: path.into() }),
            Err(TryLockError::Error(cause)) => Err(failed(cause)),
        }
    }
}

/// The file beside `path` with one more extension.
pub(crate) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(extension);
    name.into()
}

/// SQLite's integers are signed.
pub(crate) fn int(what: &'static str, value: u64) -> Result<i64, Refusal> {
    i64::try_from(value).map_err(|_| Refusal::Range { what, value })
}

/// What a failed operation on a database file means.
pub(crate) fn failed(path: &Path, cause: rusqlite::Error) -> Error {
    // The index of the log in memory is a file, too, and SQLite has a code of its own for one that can't grow.
    let is_full = match cause.sqlite_error() {
        Some(error) => error.code == ErrorCode::DiskFull || error.extended_code == ffi::SQLITE_IOERR_SHMSIZE,
        None => false,
    };
    match is_full {
        true => Error::Full { place: path.into() },
        false => Error::Database { place: path.into(), cause: Arc::new(cause) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_for_any_of_the_files_is_called_full() {
        let named = |code| failed(Path::new("a"), rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        assert!(matches!(named(ffi::SQLITE_FULL), Error::Full { .. }));
        assert!(matches!(named(ffi::SQLITE_IOERR_SHMSIZE), Error::Full { .. }));
        assert!(matches!(named(ffi::SQLITE_IOERR_WRITE), Error::Database { .. }));
    }
}
