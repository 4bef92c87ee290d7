//! Prompts and outputs, sealed, for the audit window: one table for gateways and nodes.

use crate::database::{Db, int};
use crate::error::{Error, Refusal};
use crate::vault::Vault;
use ol_protocol::record::AttemptId;
use ol_protocol::{Micros, Timestamp};
use rusqlite::{OptionalExtension as _, params};

/// How long payloads are kept for audits.
pub const AUDIT_WINDOW: Micros = Micros::from_secs(24 * 3_600);

/// Longest prompt and output of an attempt together: far above any context, far below SQLite's limit for a value.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// What an attempt was asked and answered, in whatever bytes the caller needs for an audit.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// The attempt.
    pub attempt: AttemptId,
    /// When it ended.
    pub created: Timestamp,
    /// What it was asked.
    pub prompt: Vec<u8>,
    /// What it answered.
    pub output: Vec<u8>,
}

// A payload is never printed.
impl core::fmt::Debug for Payload {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Payload({}, {} + {} bytes)", self.attempt.task, self.prompt.len(), self.output.len())
    }
}

impl Payload {
    /// Whether it can be stored.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let bytes = self.prompt.len().saturating_add(self.output.len());
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(Refusal::TooLong { what: "payload", bytes, max: PAYLOAD_BYTES_MAX });
        }
        int("creation time", self.created.0).map(drop)
    }
}

/// What of a payload only the vault's owner may read, under the name of an attempt.
pub(crate) fn seal(vault: &Vault, named: AttemptId, payload: &Payload) -> Vec<u8> {
    let prompt_bytes = (payload.prompt.len() as u64).to_le_bytes();
    vault.seal(&name(named), &[&prompt_bytes, &payload.prompt, &payload.output])
}

/// The payload whose prompt and output were sealed.
pub(crate) fn open(vault: &Vault, attempt: AttemptId, created: Timestamp, sealed: &[u8]) -> Result<Payload, Error> {
    let parts = vault.open(&name(attempt), sealed).and_then(part);
    let (prompt, output) = parts.ok_or(Error::Sealed { what: "payload", task: attempt.task })?;
    Ok(Payload { attempt, created, prompt, output })
}

/// Stores payloads, replacing those of the same attempts.
pub(crate) fn put(db: &Db, vault: &Vault, payloads: &[Payload]) -> Result<(), Error> {
    payloads.iter().try_for_each(|payload| put_as(db, vault, payload.attempt, payload))
}

/// Stores a payload under another name than its attempt's, replacing what is there.
pub(crate) fn put_as(db: &Db, vault: &Vault, named: AttemptId, payload: &Payload) -> Result<(), Error> {
    let sql = "INSERT OR REPLACE INTO payloads (task, attempt, created, sealed) VALUES (?1, ?2, ?3, ?4)";
    let sealed = seal(vault, named, payload);
    db.run(sql, params![named.task.0, named.attempt, int("creation time", payload.created.0)?, sealed]).map(drop)
}

/// The payload of an attempt, if it is still kept.
pub(crate) fn get(db: &Db, vault: &Vault, attempt: AttemptId) -> Result<Option<Payload>, Error> {
    let row = db
        .prepare("SELECT created, sealed FROM payloads WHERE task = ?1 AND attempt = ?2")?
        .query_row(params![attempt.task.0, attempt.attempt], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))
        .optional()
        .map_err(|cause| db.failed(cause))?;
    let Some((created, sealed)) = row else { return Ok(None) };
    open(vault, attempt, Timestamp(i64::cast_unsigned(created)), &sealed).map(Some)
}

/// Forgets the payloads from before a moment and tells how many.
pub(crate) fn expire(db: &Db, before: Timestamp) -> Result<u64, Error> {
    let before = i64::try_from(before.0).unwrap_or(i64::MAX);
    db.run("DELETE FROM payloads WHERE created < ?1", [before]).map(|rows| rows as u64)
}

fn name(attempt: AttemptId) -> Vec<u8> {
    [b"payload", &attempt.task.0[..], &[attempt.attempt]].concat()
}

fn part(plain: Vec<u8>) -> Option<(Vec<u8>, Vec<u8>)> {
    let (length, rest) = plain.split_first_chunk::<8>()?;
    let (prompt, output) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((prompt.to_vec(), output.to_vec()))
}
