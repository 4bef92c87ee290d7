//! What is particular to the store in SQLite, and to the committer over it.

use crate::conformance::{Backend, conformance};
use crate::log::*;
use ol_protocol::Timestamp;
use ol_protocol::record::Record;
use ol_store::{
    Appended, Committer, Deleted, Error, Finding, Identity, Job, Options, Read, Snapshot, SqliteReader, SqliteStore,
    Store as _, fsck, fsck_then, prune,
};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use tempfile::TempDir;

pub(crate) struct Sqlite(TempDir);

impl Sqlite {
    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("ledger.db")
    }

    fn open_with(&self, page_count_max: Option<u32>) -> Result<SqliteStore, Error> {
        SqliteStore::open(&self.path(), identity(), Options { page_count_max })
    }

    fn begun(&self) -> SqliteStore {
        let mut store = self.open_with(None).expect("opened");
        store.append(&[Record::Genesis(genesis())]).expect("begun");
        store
    }

    fn refused(&self) -> String {
        self.open_with(None).expect_err("refused").to_string()
    }
}

impl Backend for Sqlite {
    type Store = SqliteStore;

    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn open(&self, identity: Identity) -> Result<SqliteStore, Error> {
        SqliteStore::open(&self.path(), identity, Options::default())
    }

    fn prune(&self, base: &Snapshot, progress: impl FnMut(u64)) -> Result<Deleted, Error> {
        prune(&self.path(), base, progress)
    }

    fn check_then<A>(&self, then: impl FnOnce(&dyn Read) -> A) -> (Vec<Finding>, A) {
        fsck_then(&SqliteReader::open(&self.path()).expect("opened"), |reader| then(reader))
    }
}

conformance! { Sqlite:
    records_come_back_in_order_under_the_right_root
    a_log_survives_being_closed
    inclusion_is_proved_at_any_size
    a_task_is_found_with_its_attempts_batches_and_audits
    a_nodes_batches_are_counted_and_a_repeat_is_refused
    a_refused_job_leaves_its_group_alone
    a_log_begins_with_the_genesis_of_its_network
    a_store_of_another_network_or_gateway_is_refused
    payloads_and_facts_come_back_and_payloads_expire
    tenants_are_found_by_key_and_share_none
    the_last_snapshots_are_kept
    checkpoints_are_found_by_epoch_and_record_and_never_forked
    a_reader_sees_what_is_committed_while_it_is_open
    a_check_and_what_follows_it_see_one_moment_of_a_log_that_grows
    what_is_pruned_is_gone_and_everything_that_is_left_is_still_proved
    the_last_batches_of_a_node_are_kept_until_later_ones_are
    what_a_snapshot_or_no_checkpoint_ends_is_not_pruned
    another_pruning_meanwhile_is_noticed_and_a_part_of_one_is_taken_up
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let place = Sqlite::new();
    let store = place.begun();
    assert_eq!(place.refused(), format!("{} is in use by another process", place.path().display()));
    drop(store);
    assert!(place.open_with(None).is_ok());
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let outbox = Sqlite::new();
    drop(ol_store::Outbox::open(&outbox.path(), node(10), None).expect("made"));
    let text = Sqlite::new();
    fs::write(text.path(), "not a database, but long enough to be looked at for one. ".repeat(40)).expect("written");
    for place in [outbox, text] {
        let before = fs::read(place.path()).expect("read");
        assert_eq!(place.refused(), format!("{} is not a store of a gateway", place.path().display()));
        assert_eq!(fs::read(place.path()).expect("read"), before);
    }
}

#[test]
fn a_newer_schema_is_refused() {
    let place = Sqlite::new();
    drop(place.begun());
    rusqlite::Connection::open(place.path()).expect("opened").pragma_update(None, "user_version", 9).expect("set");
    let expected = format!("{} has schema 9, this version knows schemas up to 1", place.path().display());
    assert_eq!(place.refused(), expected);
}

#[test]
fn another_or_no_key_file_is_refused() {
    let place = Sqlite::new();
    drop(place.begun());
    let key = place.0.path().join("ledger.db.key");
    fs::remove_file(&key).expect("removed");
    assert_eq!(place.refused(), format!("key file {} is missing", key.display()));
    ol_store::keyfile::secret_file(&key).expect("made");
    let expected = format!("{} is not the key that {} was made with", key.display(), place.path().display());
    assert_eq!(place.refused(), expected);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let error = SqliteStore::open("/nowhere/at/all.db".as_ref(), identity(), Options::default()).expect_err("refused");
    assert_eq!(error.to_string(), "cannot open /nowhere/at/all.db.lock");
}

#[test]
fn payloads_and_facts_are_never_in_plain_text_on_the_disk() {
    let place = Sqlite::new();
    let mut store = place.begun();
    let facts = ol_store::Facts { task: task(1), bytes: b"a very secret salt".to_vec() };
    store.commit_one(Job { payloads: vec![payload(1, 1)], facts: vec![facts], ..Job::default() }).expect("written");
    for file in fs::read_dir(place.0.path()).expect("read") {
        let bytes = fs::read(file.expect("read").path()).expect("read");
        assert!(!bytes.windows(11).any(|it| it == b"very secret"));
    }
}

// The files as they are in the middle of a run are what a crash leaves.
#[test]
fn the_files_of_a_run_that_was_cut_off_open_with_every_answered_job() {
    let place = Sqlite::new();
    let mut store = place.begun();
    for sequence in 0..12 {
        let done = store.append(&tasks(10, sequence, sequence * 10, 4)).expect("appended");
        let copy = Sqlite::new();
        for name in ["ledger.db", "ledger.db-wal", "ledger.db.key"] {
            fs::copy(place.0.path().join(name), copy.0.path().join(name)).expect("copied");
        }
        let recovered = copy.open_with(None).expect("opened");
        assert_eq!(recovered.read().size().expect("read"), done.size);
        assert_eq!(recovered.read().root(done.size).expect("read"), Some(done.root));
        assert_eq!(recovered.read().next_sequence(node(10)).expect("read"), sequence + 1);
        let reader = SqliteReader::open(&copy.path()).expect("opened");
        if sequence % 4 == 3 {
            assert_eq!(fsck(&reader), []);
        }
    }
}

// Cuts the write-ahead log anywhere: whole commits remain, never a part of one.
#[test]
fn a_torn_write_ahead_log_loses_whole_jobs_only() {
    let place = Sqlite::new();
    let mut store = place.begun();
    let sizes: Vec<u64> =
        (0..8).map(|sequence| store.append(&tasks(10, sequence, sequence * 10, 4)).expect("appended").size).collect();
    let log = fs::read(place.0.path().join("ledger.db-wal")).expect("read");
    for cut in (0..log.len()).step_by(log.len() / 37) {
        let copy = Sqlite::new();
        for name in ["ledger.db", "ledger.db.key"] {
            fs::copy(place.0.path().join(name), copy.0.path().join(name)).expect("copied");
        }
        fs::write(copy.0.path().join("ledger.db-wal"), &log[..cut]).expect("written");
        let size = copy.open_with(None).expect("opened").read().size().expect("read");
        assert!(size <= 1 || sizes.contains(&size), "{size} records after a cut at {cut}");
    }
}

#[test]
fn every_one_of_many_submitters_gets_its_own_answer() {
    let place = Sqlite::new();
    let committer = Committer::start(place.begun()).expect("a thread");
    let answers: Vec<(u8, u64, Appended)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (10..18)
            .map(|byte| {
                let handle = committer.handle();
                scope.spawn(move || {
                    let (sender, answers) = mpsc::channel();
                    for sequence in 0..6 {
                        let records = tasks(byte, sequence, u64::from(byte) * 1_000 + sequence * 10, 3);
                        let sender = sender.clone();
                        handle.submit(Arc::new(Job { records, ..Job::default() }), move |done| {
                            sender.send((byte, sequence, done.expect("committed"))).expect("heard");
                        });
                    }
                    drop(sender);
                    answers.iter().collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("joined")).collect()
    });
    committer.stop();
    assert_eq!(answers.len(), 48);
    let reader = SqliteReader::open(&place.path()).expect("opened");
    for (byte, sequence, done) in answers {
        let expected = tasks(byte, sequence, u64::from(byte) * 1_000 + sequence * 10, 3);
        assert_eq!(reader.page(done.first_index..done.size).expect("read"), expected);
        assert_eq!(reader.root(done.size).expect("read"), Some(done.root));
    }
    assert_eq!(fsck(&reader), []);
}

#[test]
fn a_full_disk_answers_every_job_and_is_got_over_when_there_is_space() {
    let place = Sqlite::new();
    drop(place.begun());
    let committer = Committer::start(place.open_with(Some(90)).expect("opened")).expect("a thread");
    let handle = committer.handle();
    let mut batches = 0;
    let full = loop {
        let records = tasks(10, batches, batches * 100, 20);
        let payloads = (0..20).map(|number| payload(batches * 100 + number, batches)).collect();
        match handle.commit(Job { records, payloads, ..Job::default() }) {
            Ok(_) => batches += 1,
            Err(error) => break error,
        }
        assert!(batches < 1_000, "never full");
    };
    assert_eq!(full.to_string(), format!("no space left for {}", place.path().display()));
    let reader = SqliteReader::open(&place.path()).expect("opened");
    assert_eq!(reader.size().expect("read"), 1 + 21 * batches);
    assert_eq!(reader.next_sequence(node(10)).expect("read"), batches);
    let expire = Job { expire_before: Some(Timestamp(batches)), ..Job::default() };
    assert_eq!(handle.commit(expire).expect("space is made").expired, 20 * batches);
    let again = Job { records: tasks(10, batches, batches * 100, 2), ..Job::default() };
    assert_eq!(handle.commit(again).expect("there is space").size, 1 + 21 * batches + 3);
    assert_eq!(fsck(&reader), []);
}

// Fills the disk itself, not only the limit of a database: the write-ahead log has no room then.
#[test]
#[ignore = "needs a file system of a few MB, named by OPENLEDGER_SMALL_DISK, such as a tmpfs"]
fn a_disk_without_space_is_named_and_got_over() {
    let disk = std::env::var_os("OPENLEDGER_SMALL_DISK").expect("OPENLEDGER_SMALL_DISK");
    let place = Sqlite(tempfile::tempdir_in(&disk).expect("a folder"));
    let committer = Committer::start(place.begun()).expect("a thread");
    let handle = committer.handle();
    let ballast = place.0.path().join("ballast");
    let mut file = fs::File::create(&ballast).expect("created");
    while std::io::Write::write_all(&mut file, &[0; 4_096]).is_ok() {}
    for round in 0..3 {
        let job = Job { records: tasks(10, 0, 0, 200), payloads: vec![payload(round, 1)], ..Job::default() };
        let error = handle.commit(job).expect_err("no space");
        assert_eq!(error.to_string(), format!("no space left for {}", place.path().display()));
    }
    fs::remove_file(&ballast).expect("removed");
    drop(file);
    let reader = SqliteReader::open(&place.path()).expect("opened");
    assert_eq!(reader.size().expect("read"), 1);
    let job = Job { records: tasks(10, 0, 0, 200), ..Job::default() };
    assert_eq!(handle.commit(job).expect("there is space").size, 202);
    assert_eq!(fsck(&reader), []);
}
