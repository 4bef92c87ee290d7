//! Damage of every kind is named.

use crate::log::*;
use ol_protocol::batch::{BatchError, CountersignedBatch};
use ol_protocol::key::{BadSignature, Signature};
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::{Digest, Epoch, checkpoint};
use ol_store::{Facts, Finding, Job, Options, Snapshot, SqliteReader, SqliteStore, Store as _, fsck};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

// Records 0 genesis, 1 top-up, 2 to 5 receipts, 6 their batch, 7 audit, 8 close, 9 to 24 top-ups, 25 and 26 receipts,
// 27 their batch, 28 close; checkpoints at 9 and 29.
fn filled(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("ledger.db");
    let mut store = SqliteStore::open(&path, identity(), Options::default()).expect("opened");
    let audit = verdict(AttemptId { task: task(2), attempt: 0 });
    let head = [vec![Record::Genesis(genesis()), top_up(1)], tasks(10, 0, 0, 4), vec![audit, close(0)]].concat();
    let done = store.append(&head).expect("appended");
    let snapshot = Snapshot { epoch: Epoch(0), size: done.size, bytes: vec![1] };
    let facts = vec![Facts { task: task(1), bytes: vec![2] }];
    let (checkpoint, payloads) = (Some(note(0, &done)), vec![payload(1, 1)]);
    store.commit_one(Job { snapshot: Some(snapshot), checkpoint, facts, payloads, ..Job::default() }).expect("written");
    let tail = [(2..18).map(top_up).collect(), tasks(11, 0, 50, 2), vec![close(1)]].concat();
    let done = store.append(&tail).expect("appended");
    store.commit_one(Job { checkpoint: Some(note(1, &done)), ..Job::default() }).expect("written");
    path
}

fn damaged(damage: impl FnOnce(&Connection)) -> Vec<Finding> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = filled(&folder);
    damage(&Connection::open(&path).expect("opened"));
    findings(&path)
}

fn findings(path: &Path) -> Vec<Finding> {
    fsck(&SqliteReader::open(path).expect("opened"))
}

fn sql(statement: &str) -> Vec<Finding> {
    damaged(|connection| connection.execute_batch(statement).expect("done"))
}

// Replaces a record and its leaf, as someone would who knows how leaves are made.
fn forged(index: u64, change: impl FnOnce(&mut Record)) -> Vec<Finding> {
    damaged(|connection| {
        let select = "SELECT bytes FROM records WHERE position = ?1";
        let bytes: Vec<u8> = connection.query_row(select, [index as i64], |row| row.get(0)).expect("read");
        let mut record = Record::from_bytes(&bytes).expect("a record");
        change(&mut record);
        let update = "UPDATE records SET bytes = ?2, leaf = ?3 WHERE position = ?1";
        connection.execute(update, (index as i64, record.to_bytes(), record.leaf().0)).expect("written");
    })
}

fn forged_batch(change: impl FnOnce(&mut CountersignedBatch)) -> Vec<Finding> {
    forged(6, |record| {
        let Record::Batch(batch) = record else { panic!("a batch") };
        change(batch);
    })
}

// What any change of a record's bytes among the first nine, and so of the tree, brings about.
fn tree_of_early() -> [Finding; 3] {
    [root(0, 9), Finding::Node { level: 4, position: 0 }, root(1, 29)]
}

fn root(epoch: u64, size: u64) -> Finding {
    Finding::CheckpointRoot { epoch: Epoch(epoch), size }
}

fn bad(index: u64, signer: &'static str, what: &'static str) -> Finding {
    Finding::Signature { index, cause: BadSignature { signer, what } }
}

#[test]
fn a_sound_store_has_no_findings() {
    assert_eq!(sql(""), []);
}

#[test]
fn a_flipped_byte_in_a_record_is_found_in_its_leaf_batch_and_tree() {
    // The last byte of a receipt is its charge's, so the node's root still holds.
    let flipped =
        sql("UPDATE records SET bytes = CAST(substr(bytes, 1, length(bytes) - 1) || x'ff' AS BLOB) WHERE position = 3");
    let expected = [vec![Finding::Leaf { index: 3 }, Finding::ReceiptsRoot { index: 6 }], tree_of_early().into()];
    assert_eq!(flipped, expected.concat());
}

#[test]
fn bytes_that_are_no_record_are_found() {
    let found = sql("UPDATE records SET bytes = x'63' WHERE position = 1");
    let cause = ol_protocol::bytes::Error::Unknown { what: "record", value: 99 };
    let expected = [vec![Finding::Leaf { index: 1 }, Finding::Unreadable { index: 1, cause }], tree_of_early().into()];
    assert_eq!(found, expected.concat());
}

#[test]
fn a_dropped_row_is_found() {
    let found = sql("DELETE FROM records WHERE position = 10");
    assert_eq!(found, [Finding::Missing { from: 10, to: 10 }]);
    let found = sql("DELETE FROM records WHERE position = 3");
    let expected = [
        Finding::Missing { from: 3, to: 3 },
        Finding::Receipts { index: 6, expected: 4, found: 2 },
        Finding::Stray { table: "task_records", rows: 4 },
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_log_that_lost_its_end_is_found() {
    let found = sql("DELETE FROM records WHERE position >= 9; DELETE FROM checkpoints WHERE epoch = 0;
        UPDATE snapshots SET size = 20");
    let expected = [
        Finding::Beyond { what: "checkpoint", epoch: Epoch(1), size: 29 },
        Finding::Stray { table: "task_records", rows: 2 },
        Finding::Stray { table: "batches", rows: 1 },
        Finding::Stray { table: "nodes", rows: 1 },
        Finding::Beyond { what: "snapshot", epoch: Epoch(0), size: 20 },
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_swapped_leaf_is_found() {
    let found = sql("UPDATE records SET leaf = (SELECT leaf FROM records WHERE position = 2) WHERE position = 3");
    assert_eq!(found, [Finding::Leaf { index: 3 }]);
}

#[test]
fn a_wrong_or_missing_tree_hash_is_found() {
    let expected = [Finding::Node { level: 4, position: 0 }];
    assert_eq!(sql("UPDATE nodes SET hash = zeroblob(32)"), expected);
    assert_eq!(sql("DELETE FROM nodes"), expected);
}

#[test]
fn a_receipt_changed_together_with_its_leaf_is_found() {
    let found = forged(4, |record| {
        let Record::Receipt(receipt) = record else { panic!("a receipt") };
        receipt.commitment.attempt = 9;
    });
    let batch = Finding::Batch { index: 6, cause: BatchError::Root };
    let expected = [vec![Finding::ReceiptsRoot { index: 6 }, batch], tree_of_early().into()];
    assert_eq!(found, expected.concat());
}

#[test]
fn a_batch_with_wrong_signatures_or_roots_is_found() {
    let node = |batch: &mut CountersignedBatch| batch.node_signature = Signature([1; 64]);
    assert_eq!(forged_batch(node)[0], bad(6, "node", "batch"));
    let gateway = |batch: &mut CountersignedBatch| batch.gateway_signature = Signature([1; 64]);
    assert_eq!(forged_batch(gateway)[0], bad(6, "gateway", "countersignature of a batch"));
    let receipts = |batch: &mut CountersignedBatch| batch.receipts_root = Digest([1; 32]);
    let expected = [Finding::ReceiptsRoot { index: 6 }, bad(6, "gateway", "countersignature of a batch")];
    assert_eq!(forged_batch(receipts)[..2], expected);
}

#[test]
fn wrong_signatures_of_auditors_and_issuers_are_found() {
    let found = forged(1, |record| {
        let Record::TopUp(slice) = record else { panic!("a top-up") };
        slice.top_up.amount.0 += 1;
    });
    assert_eq!(found, [vec![bad(1, "issuer", "top-up")], tree_of_early().into()].concat());
    let found = forged(7, |record| {
        let subject = AttemptId { task: task(2), attempt: 0 };
        *record = verdict(subject);
        let Record::Audit { outcome: ol_protocol::record::AuditOutcome::Verdict { verdict, .. }, .. } = record else {
            panic!("a verdict")
        };
        verdict.finish_fits = false;
    });
    assert_eq!(found, [vec![bad(7, "auditor", "verdict")], tree_of_early().into()].concat());
}

#[test]
fn a_genesis_of_another_network_is_found() {
    let found = forged(0, |record| {
        let Record::Genesis(genesis) = record else { panic!("a genesis") };
        genesis.parameters.escrow.tasks += 1;
    });
    let expected = vec![bad(0, "owner", "gateway"), Finding::Genesis { index: 0 }];
    assert_eq!(found, [expected, tree_of_early().into()].concat());
}

#[test]
fn indexes_that_differ_from_the_records_are_found() {
    let missing = [Finding::Index { index: 3, table: "task_records" }];
    assert_eq!(sql("DELETE FROM task_records WHERE position = 3"), missing);
    let wrong = [Finding::Index { index: 7, table: "task_records" }];
    assert_eq!(sql("UPDATE task_records SET batch = 6 WHERE position = 7"), wrong);
    let stray = [Finding::Stray { table: "task_records", rows: 1 }];
    assert_eq!(sql("INSERT INTO task_records VALUES (zeroblob(16), 900, 901)"), stray);
    let batches = [Finding::Index { index: 6, table: "batches" }, Finding::Stray { table: "batches", rows: 1 }];
    assert_eq!(sql("UPDATE batches SET sequence = 5 WHERE position = 6"), batches);
}

#[test]
fn checkpoints_that_are_forged_or_misfiled_are_found() {
    let epoch = Epoch(0);
    let changed = sql("UPDATE checkpoints SET note = replace(note, 'state 05', 'state 06') WHERE epoch = 0");
    assert_eq!(changed, [Finding::Checkpoint { epoch, cause: checkpoint::Error::Signature }]);
    let misfiled = sql("UPDATE checkpoints SET size = 8 WHERE epoch = 0");
    assert_eq!(misfiled, [Finding::CheckpointPlace { epoch }]);
    let other_close = forged(8, |record| {
        let Record::Close(close) = record else { panic!("a close") };
        close.state = Digest([9; 32]);
    });
    let [first, node, last] = tree_of_early();
    assert_eq!(other_close, [first, Finding::CheckpointClose { epoch }, node, last]);
}

#[test]
fn sealed_data_that_was_changed_is_found() {
    let found = sql("UPDATE payloads SET sealed = zeroblob(90); UPDATE facts SET sealed = zeroblob(50)");
    let task = task(1);
    assert_eq!(found, [Finding::Sealed { what: "facts", task }, Finding::Sealed { what: "payload", task }]);
}

#[test]
fn a_damaged_file_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = filled(&folder);
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8_192].fill(0xff);
    std::fs::write(&path, bytes).expect("written");
    let found = findings(&path);
    assert!(matches!(found.first(), Some(Finding::Database { .. })), "{found:?}");
}
