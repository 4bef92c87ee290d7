//! Copies of a gateway's store, made while the gateway runs, and what makes a store of a copy again.
//!
//! A copy is marked as one, and nothing is written to it before the mark is taken away: a log that goes on from an
//! earlier state under the same key is a second history.

use crate::database::{Db, Lock, beside, failed};
use crate::error::Error;
use crate::keyfile;
use crate::sqlite::KIND;
use ol_protocol::GatewayId;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

// Pages copied between two reports: 4 MiB of the pages of new databases.
const STEP_PAGES: i32 = 256;

// Wait for another connection's lock before a step is tried again. None is held for longer than a moment.
const STEP_RETRY: Duration = Duration::from_millis(20);

// The fact that makes a database a copy.
const COPY: &str = "copy";

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Bytes copied.
    pub bytes: u64,
    /// Bytes there are.
    pub of: u64,
}

/// Copies a gateway's store to a new file as it is at one moment, whether or not the gateway runs. It holds up no
/// writer; while it lasts the write-ahead log grows by what is written meanwhile. The copy is checked, on the disk and
/// readable by its owner only when this returns; keys are not in it.
pub fn backup(from: &Path, to: &Path, progress: impl FnMut(Copied)) -> Result<(), Error> {
    if to.exists() {
        return Err(Error::Exists { path: to.into() });
    }
    // Under another name until it is whole.
    let draft = beside(to, "part");
    private(&draft)?;
    let done = fill(from, &draft, progress).and_then(|()| publish(&draft, to));
    if done.is_err() {
        // The error is what counts; what can't be removed is named by the next attempt.
        drop(fs::remove_file(&draft));
    }
    done
}

/// Puts a copy into a folder, to be read, checked and added to there. It is still a copy.
pub fn unpack(from: &Path, to: &Path, progress: impl FnMut(Copied)) -> Result<(), Error> {
    private(to)?;
    fill(from, to, progress)
}

/// A place where no store is and none can begin, until this is dropped.
#[derive(Debug)]
pub struct Vacant {
    path: PathBuf,
    _lock: Lock,
}

impl Vacant {
    /// Refuses a place where a store is, or a part of one, or where a gateway runs.
    pub fn hold(path: &Path) -> Result<Self, Error> {
        let lock = Lock::take(path)?;
        let mut names = [path.to_path_buf(), with_end(path, "-wal"), with_end(path, "-journal")].into_iter();
        match names.find(|name| name.exists()) {
            Some(path) => Err(Error::Exists { path }),
            None => Ok(Self { path: path.into(), _lock: lock }),
        }
    }

    /// Fills it with a closed store that was made ready on the same disk.
    pub fn fill(self, ready: &Path) -> Result<(), Error> {
        // All of it is in its one file then.
        Db::open_beside(ready, &KIND)?.set("journal_mode", "DELETE")?;
        synced(ready)?;
        fs::rename(ready, &self.path).map_err(|cause| io_error(&self.path, cause))?;
        synced(&folder_of(&self.path))
    }
}

/// Takes the mark of a copy away: from now on its gateway may go on from it. Whoever calls this must know that the
/// gateway signed nothing that is not in it.
pub fn release(path: &Path) -> Result<(), Error> {
    let (db, _lock) = Db::open(path, &KIND, None)?;
    db.in_transaction(|| db.run("DELETE FROM meta WHERE key = ?1", [COPY]).map(drop))
}

/// Refuses a copy.
pub(crate) fn refuse_copy(db: &Db) -> Result<(), Error> {
    match db.meta(COPY)? {
        None => Ok(()),
        Some(_) => Err(Error::Copy { place: db.path.as_path().into() }),
    }
}

/// Whose log a store holds, without its key.
pub fn gateway_of(path: &Path) -> Result<Option<GatewayId>, Error> {
    let db = Db::open_read_only(path, &KIND)?;
    Ok(db.meta("gateway")?.and_then(|bytes| bytes.try_into().ok()).map(GatewayId))
}

fn fill(from: &Path, to: &Path, progress: impl FnMut(Copied)) -> Result<(), Error> {
    let source = Db::open_read_only(from, &KIND)?;
    copy(&source, to, progress)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(to, flags).map_err(|cause| failed(to, cause))?;
    let copy = Db { connection, path: to.into() };
    // One file, not three.
    copy.set("journal_mode", "DELETE")?;
    copy.set_meta(COPY, &[1])?;
    check(&copy)?;
    drop(copy);
    synced(to)
}

// In steps for the sake of the progress, all within one read of the source: else every commit of the gateway would make
// it begin anew.
fn copy(source: &Db, to: &Path, mut progress: impl FnMut(Copied)) -> Result<(), Error> {
    source.run("BEGIN", [])?;
    // The read begins with the first question.
    source.meta(COPY)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |cause| failed(to, cause);
    let page_bytes: u32 = source.connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(failed)?;
    let page_bytes = u64::from(page_bytes);
    let mut target = Connection::open_with_flags(to, flags).map_err(failed)?;
    // The file is nobody's until it is whole, and is brought to the disk then.
    target.pragma_update(None, "synchronous", "OFF").map_err(failed)?;
    let backup = Backup::new(&source.connection, &mut target).map_err(failed)?;
    loop {
        let step = backup.step(STEP_PAGES).map_err(failed)?;
        let at = backup.progress();
        let (pages, left) = (u64::from(at.pagecount.unsigned_abs()), u64::from(at.remaining.unsigned_abs()));
        progress(Copied { bytes: pages.saturating_sub(left) * page_bytes, of: pages * page_bytes });
        match step {
            StepResult::Done => return Ok(()),
            StepResult::Busy | StepResult::Locked => std::thread::sleep(STEP_RETRY),
            _ => {}
        }
    }
}

fn check(copy: &Db) -> Result<(), Error> {
    let ask = copy.prepare("PRAGMA quick_check(1)")?.query_row([], |row| row.get::<_, String>(0));
    match ask.map_err(|cause| copy.failed(cause))? {
        sound if sound == "ok" => Ok(()),
        message => Err(Error::Damaged { place: copy.path.as_path().into(), message }),
    }
}

fn publish(draft: &Path, to: &Path) -> Result<(), Error> {
    if to.exists() {
        return Err(Error::Exists { path: to.into() });
    }
    fs::rename(draft, to).map_err(|cause| io_error(to, cause))?;
    synced(&folder_of(to))
}

// Brings a file or folder to the disk.
fn synced(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|cause| io_error(path, cause))
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

// A new file that only its owner can read: it holds tenants' names and sealed content.
fn private(path: &Path) -> Result<(), Error> {
    match keyfile::private(OpenOptions::new().write(true).create_new(true)).open(path) {
        Ok(_) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists { path: path.into() }),
        Err(cause) => Err(io_error(path, cause)),
    }
}

fn io_error(path: &Path, cause: io::Error) -> Error {
    Error::Io { path: path.into(), cause: Arc::new(cause) }
}
