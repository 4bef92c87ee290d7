//! A node's durable outbox: signed batches until their gateway acknowledges them, and payloads for the audit window.

use crate::database::{Db, Kind, Lock, int};
use crate::error::Error;
use crate::payload::{self, Payload};
use crate::vault::Vault;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::record::AttemptId;
use ol_protocol::{Digest, GatewayId, NetworkId, NodeId, TaskId, Timestamp};
use rusqlite::{OptionalExtension as _, params};
use std::path::Path;

/// Acknowledged batches that are kept for each peer, as the node's own proof of its latest work.
pub const ACKED_KEPT: u64 = 4_096;

/// A node's outbox. The id is "OLob" in ASCII.
const KIND: Kind = Kind { name: "an outbox of a node", application_id: 0x4f4c_6f62, migrations: &[FIRST] };

const FIRST: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE batches (
        network BLOB NOT NULL, gateway BLOB NOT NULL, sequence INTEGER NOT NULL, bytes BLOB NOT NULL, acked BLOB,
        PRIMARY KEY (network, gateway, sequence)
    ) STRICT;
    CREATE INDEX unacked ON batches (network, gateway, sequence) WHERE acked IS NULL;
    CREATE TABLE payloads (
        task BLOB NOT NULL, attempt INTEGER NOT NULL, created INTEGER NOT NULL, sealed BLOB NOT NULL,
        PRIMARY KEY (task, attempt)
    ) STRICT;
    CREATE INDEX payloads_by_age ON payloads (created);";

/// Who batches go to. A gateway that begins a new network begins to count anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The network.
    pub network: NetworkId,
    /// The gateway.
    pub gateway: GatewayId,
}

impl Peer {
    // What an attempt is kept as: a gateway that copies another's id replaces nothing of it.
    fn named(&self, AttemptId { task, attempt }: AttemptId) -> AttemptId {
        let Digest(full) = digest(Domain::Task, &[&self.network.0, &self.gateway.0, &task.0]);
        let mut id = [0; 16];
        id.copy_from_slice(&full[..16]);
        AttemptId { task: TaskId(id), attempt }
    }
}

/// A node's outbox. Every change is on the disk when its method returns.
pub struct Outbox {
    db: Db,
    vault: Vault,
    _lock: Lock,
}

impl core::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Outbox({})", self.db.path.display())
    }
}

impl Outbox {
    /// Opens a node's outbox, or makes it; refuses another node's. `page_count_max` limits its size in pages, of 16 KiB in a new one.
    pub fn open(path: &Path, node: NodeId, page_count_max: Option<u32>) -> Result<Self, Error> {
        let (db, lock) = Db::open(path, &KIND, page_count_max)?;
        let other = |found| Error::OtherNode { place: path.into(), found: NodeId(found), expected: node };
        let vault = db.in_transaction(|| {
            db.claim("node", &node.0, other)?;
            db.vault()
        })?;
        Ok(Self { db, vault, _lock: lock })
    }

    /// The number of the next batch for a peer.
    pub fn next_sequence(&self, peer: Peer) -> Result<u64, Error> {
        let sql = "SELECT coalesce(max(sequence) + 1, 0) FROM batches WHERE network = ?1 AND gateway = ?2";
        let next = self.db.prepare(sql)?.query_row(params![peer.network.0, peer.gateway.0], |row| row.get::<_, i64>(0));
        next.map(i64::cast_unsigned).map_err(|cause| self.db.failed(cause))
    }

    /// Keeps a signed batch and the payloads of its attempts, before it is sent. A number that is taken keeps what it has:
    /// then the answer is `false`, as two batches of one number would be evidence against the node.
    pub fn put(&mut self, peer: Peer, sequence: u64, bytes: &[u8], payloads: &[Payload]) -> Result<bool, Error> {
        payloads.iter().try_for_each(Payload::check)?;
        let sequence = int("number of a batch", sequence)?;
        self.db.in_transaction(|| {
            let sql = "INSERT OR IGNORE INTO batches (network, gateway, sequence, bytes) VALUES (?1, ?2, ?3, ?4)";
            let rows = self.db.run(sql, params![peer.network.0, peer.gateway.0, sequence, bytes])?;
            for payload in payloads {
                payload::put_as(&self.db, &self.vault, peer.named(payload.attempt), payload)?;
            }
            Ok(rows == 1)
        })
    }

    /// Keeps the gateway's countersignature of a batch, and forgets the oldest acknowledged ones beyond [`ACKED_KEPT`].
    /// `false` if no such batch waits.
    pub fn ack(&mut self, peer: Peer, sequence: u64, countersigned: &[u8]) -> Result<bool, Error> {
        self.ack_keeping(peer, sequence, countersigned, ACKED_KEPT)
    }

    fn ack_keeping(&self, peer: Peer, sequence: u64, countersigned: &[u8], kept: u64) -> Result<bool, Error> {
        let Ok(sequence) = i64::try_from(sequence) else { return Ok(false) };
        let (network, gateway) = (peer.network.0, peer.gateway.0);
        self.db.in_transaction(|| {
            let ack = "UPDATE batches SET acked = ?4
                WHERE network = ?1 AND gateway = ?2 AND sequence = ?3 AND acked IS NULL";
            let rows = self.db.run(ack, params![network, gateway, sequence, countersigned])?;
            let oldest = sequence.saturating_sub(int("kept batches", kept)?);
            let prune = "DELETE FROM batches
                WHERE network = ?1 AND gateway = ?2 AND sequence <= ?3 AND acked IS NOT NULL";
            self.db.run(prune, params![network, gateway, oldest])?;
            Ok(rows == 1)
        })
    }

    /// The batches that wait for an acknowledgement, in order.
    pub fn unacked(&self, peer: Peer) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let sql = "SELECT sequence, bytes FROM batches
            WHERE network = ?1 AND gateway = ?2 AND acked IS NULL ORDER BY sequence";
        let mut statement = self.db.prepare(sql)?;
        let rows = statement.query_map(params![peer.network.0, peer.gateway.0], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))
        });
        rows.and_then(Iterator::collect).map_err(|cause| self.db.failed(cause))
    }

    /// The countersignature of an acknowledged batch, if it is still kept.
    pub fn acked(&self, peer: Peer, sequence: u64) -> Result<Option<Vec<u8>>, Error> {
        let Ok(sequence) = i64::try_from(sequence) else { return Ok(None) };
        let sql = "SELECT acked FROM batches WHERE network = ?1 AND gateway = ?2 AND sequence = ?3";
        let values = params![peer.network.0, peer.gateway.0, sequence];
        let found = self.db.prepare(sql)?.query_row(values, |row| row.get(0)).optional();
        found.map(Option::flatten).map_err(|cause| self.db.failed(cause))
    }

    /// The payload of a peer's attempt, if it has not expired. What older versions kept is found by the attempt alone.
    pub fn payload(&self, peer: Peer, attempt: AttemptId) -> Result<Option<Payload>, Error> {
        let found = match payload::get(&self.db, &self.vault, peer.named(attempt))? {
            Some(found) => Some(found),
            None => payload::get(&self.db, &self.vault, attempt)?,
        };
        Ok(found.map(|found| Payload { attempt, ..found }))
    }

    /// Forgets the payloads from before a moment and tells how many.
    pub fn expire(&mut self, before: Timestamp) -> Result<u64, Error> {
        payload::expire(&self.db, before)
    }
}

/// A batch that an outbox keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBatch {
    /// Its number.
    pub sequence: u64,
    /// What the gateway signed, once it acknowledged the batch.
    pub countersigned: Option<Vec<u8>>,
}

/// A look into an outbox that a node may be writing.
pub struct OutboxReader(Db);

impl core::fmt::Debug for OutboxReader {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "OutboxReader({})", self.0.path.display())
    }
}

impl OutboxReader {
    /// Opens an outbox that exists.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Db::open_read_only(path, &KIND).map(Self)
    }

    /// Whose outbox it is.
    pub fn node(&self) -> Result<Option<NodeId>, Error> {
        Ok(self.0.meta("node")?.and_then(|bytes| bytes.try_into().ok()).map(NodeId))
    }

    /// The batches for a gateway that are kept, by number.
    pub fn batches(&self, peer: Peer) -> Result<Vec<KeptBatch>, Error> {
        let sql = "SELECT sequence, acked FROM batches WHERE network = ?1 AND gateway = ?2 ORDER BY sequence";
        let mut statement = self.0.prepare(sql)?;
        let rows = statement.query_map([peer.network.0, peer.gateway.0], |row| {
            Ok(KeptBatch { sequence: row.get::<_, i64>(0)?.cast_unsigned(), countersigned: row.get(1)? })
        });
        rows.and_then(Iterator::collect).map_err(|cause| self.0.failed(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_protocol::TaskId;

    const NODE: NodeId = NodeId([5; 32]);
    const PEER: Peer = Peer { network: NetworkId([1; 32]), gateway: GatewayId([2; 32]) };
    const OTHER: Peer = Peer { network: NetworkId([9; 32]), gateway: GatewayId([2; 32]) };

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn opened(folder: &tempfile::TempDir) -> Outbox {
        Outbox::open(&folder.path().join("outbox.db"), NODE, None).expect("opened")
    }

    fn payload(task: u8) -> Payload {
        let attempt = AttemptId { task: TaskId([task; 16]), attempt: 1 };
        Payload { attempt, created: Timestamp(u64::from(task)), prompt: vec![1, 2], output: vec![3] }
    }

    #[test]
    fn batches_wait_in_order_until_they_are_acknowledged() {
        let folder = folder();
        let mut outbox = opened(&folder);
        for sequence in 0..3 {
            assert_eq!(outbox.next_sequence(PEER).expect("read"), sequence);
            assert!(outbox.put(PEER, sequence, &[sequence as u8], &[]).expect("written"));
        }
        assert!(outbox.ack(PEER, 1, b"signed").expect("written"));
        drop(outbox);
        let outbox = opened(&folder);
        assert_eq!(outbox.unacked(PEER).expect("read"), [(0, vec![0]), (2, vec![2])]);
        assert_eq!(outbox.acked(PEER, 1).expect("read"), Some(b"signed".to_vec()));
        assert_eq!(outbox.next_sequence(PEER).expect("read"), 3);
        assert_eq!(outbox.unacked(OTHER).expect("read"), []);
        assert_eq!(outbox.next_sequence(OTHER).expect("read"), 0);
    }

    #[test]
    fn a_second_batch_of_one_number_and_acks_of_none_change_nothing() {
        let folder = folder();
        let mut outbox = opened(&folder);
        assert!(outbox.put(PEER, 0, b"first", &[]).expect("written"));
        assert!(!outbox.put(PEER, 0, b"second", &[]).expect("refused"));
        assert!(!outbox.ack(PEER, 7, b"signed").expect("nothing waits"));
        assert!(!outbox.ack(PEER, u64::MAX, b"signed").expect("nothing waits"));
        assert_eq!(outbox.unacked(PEER).expect("read"), [(0, b"first".to_vec())]);
        assert!(outbox.ack(PEER, 0, b"signed").expect("written"));
        assert!(!outbox.ack(PEER, 0, b"again").expect("nothing waits"));
        assert_eq!(outbox.acked(PEER, 0).expect("read"), Some(b"signed".to_vec()));
    }

    #[test]
    fn a_reader_sees_what_is_kept_while_the_outbox_is_open() {
        let folder = folder();
        let mut outbox = opened(&folder);
        outbox.put(PEER, 0, b"first", &[]).expect("written");
        outbox.put(PEER, 1, b"second", &[]).expect("written");
        outbox.ack(PEER, 0, b"signed").expect("written");
        let reader = OutboxReader::open(&folder.path().join("outbox.db")).expect("opened");
        let signed = KeptBatch { sequence: 0, countersigned: Some(b"signed".to_vec()) };
        let waiting = KeptBatch { sequence: 1, countersigned: None };
        assert_eq!(reader.batches(PEER).expect("read"), [signed, waiting]);
        assert_eq!(reader.batches(OTHER).expect("read"), []);
        assert_eq!(reader.node().expect("read"), Some(NODE));
    }

    #[test]
    fn old_acknowledged_batches_go_and_waiting_ones_stay() {
        let folder = folder();
        let mut outbox = opened(&folder);
        for sequence in 0..10 {
            outbox.put(PEER, sequence, b"batch", &[]).expect("written");
        }
        for sequence in 1..10 {
            outbox.ack_keeping(PEER, sequence, b"signed", 3).expect("written");
        }
        let kept: Vec<u64> = (0..10).filter(|it| outbox.acked(PEER, *it).expect("read").is_some()).collect();
        assert_eq!(kept, [7, 8, 9]);
        assert_eq!(outbox.unacked(PEER).expect("read"), [(0, b"batch".to_vec())]);
    }

    #[test]
    fn payloads_are_sealed_and_expire() {
        let folder = folder();
        let mut outbox = opened(&folder);
        let secret = Payload { prompt: b"a very secret prompt".to_vec(), ..payload(7) };
        outbox.put(PEER, 0, b"batch", &[payload(3), secret.clone()]).expect("written");
        assert_eq!(outbox.payload(PEER, secret.attempt).expect("read"), Some(secret));
        assert_eq!(outbox.expire(Timestamp(7)).expect("written"), 1);
        assert_eq!(outbox.payload(PEER, payload(3).attempt).expect("read"), None);
        for file in std::fs::read_dir(folder.path()).expect("read") {
            let bytes = std::fs::read(file.expect("read").path()).expect("read");
            assert!(!bytes.windows(11).any(|it| it == b"very secret"), "a payload in plain text");
        }
    }

    #[test]
    fn a_gateway_that_copies_anothers_id_replaces_nothing() {
        let folder = folder();
        let mut outbox = opened(&folder);
        let (first, copied) = (payload(1), Payload { prompt: vec![9], ..payload(1) });
        outbox.put(PEER, 0, b"batch", std::slice::from_ref(&first)).expect("written");
        outbox.put(OTHER, 0, b"batch", std::slice::from_ref(&copied)).expect("written");
        assert_eq!(outbox.payload(PEER, first.attempt).expect("read"), Some(first));
        assert_eq!(outbox.payload(OTHER, copied.attempt).expect("read"), Some(copied));
    }

    #[test]
    fn what_an_older_version_kept_is_found() {
        let folder = folder();
        let outbox = opened(&folder);
        payload::put(&outbox.db, &outbox.vault, &[payload(1)]).expect("written");
        assert_eq!(outbox.payload(PEER, payload(1).attempt).expect("read"), Some(payload(1)));
    }

    #[test]
    fn another_nodes_outbox_is_refused() {
        let folder = folder();
        drop(opened(&folder));
        let path = folder.path().join("outbox.db");
        let error = Outbox::open(&path, NodeId([6; 32]), None).expect_err("refused").to_string();
        let (five, six) = (NODE, NodeId([6; 32]));
        assert_eq!(error, format!("{} belongs to node {five}, not to {six}", path.display()));
    }

    #[test]
    fn a_full_disk_is_named_and_leaves_the_outbox_as_it_was() {
        let folder = folder();
        let path = folder.path().join("outbox.db");
        let mut outbox = Outbox::open(&path, NODE, Some(16)).expect("opened");
        assert!(matches!(outbox.put(PEER, 0, &[0; 400_000], &[payload(1)]), Err(Error::Full { .. })));
        assert_eq!(outbox.next_sequence(PEER).expect("read"), 0);
        assert_eq!(outbox.payload(PEER, payload(1).attempt).expect("read"), None);
        assert!(outbox.put(PEER, 0, b"small", &[]).expect("written"));
    }
}
