//! Copies of a store that is being written.

use crate::log::*;
use ol_protocol::record::Record;
use ol_store::backup::{self, Vacant};
use ol_store::{Appended, Error, Job, Options, Read as _, SqliteReader, SqliteStore, Store as _, fsck};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, name: &str) -> Result<SqliteStore, Error> {
        SqliteStore::open(&self.path(name), identity(), Options::default())
    }

    // A log with so many batches of 256 tasks.
    fn filled(&self, batches: u64) -> (SqliteStore, Appended) {
        let mut store = self.open("ledger.db").expect("opened");
        let mut last = store.append(&[Record::Genesis(genesis())]).expect("begun");
        for sequence in 0..batches {
            last = store.append(&tasks(10, sequence, sequence * 256, 256)).expect("appended");
        }
        (store, last)
    }

    // The key file is kept apart from a copy and put beside it to read it.
    fn read(&self, name: &str) -> SqliteReader {
        if name != "ledger.db" {
            fs::copy(self.path("ledger.db.key"), self.path(&format!("{name}.key"))).expect("copied");
        }
        SqliteReader::open(&self.path(name)).expect("opened")
    }
}

#[test]
fn a_copy_made_while_jobs_are_committed_is_the_log_at_one_moment() {
    let place = Place::new();
    let (mut store, last) = place.filled(40);
    let mut reports = Vec::new();
    backup::backup(&place.path("ledger.db"), &place.path("copy"), |copied| {
        let sequence = 40 + reports.len() as u64;
        // Every commit of another connection would make a copy without a read of its own begin anew.
        store.append(&tasks(10, sequence, sequence * 256, 256)).expect("not held up");
        reports.push(copied);
    })
    .expect("copied");
    let [first, end] = reports[..] else { panic!("it began anew: {reports:?}") };
    assert_eq!((end.bytes, first.of), (first.of, end.of));
    let reader = place.read("copy");
    assert_eq!((reader.size().expect("read"), reader.root(last.size).expect("read")), (last.size, Some(last.root)));
    assert_eq!(fsck(&reader), []);
}

#[test]
fn a_copy_is_read_and_not_written_until_it_is_released() {
    let place = Place::new();
    let (store, last) = place.filled(2);
    drop(store);
    backup::backup(&place.path("ledger.db"), &place.path("copy"), |_| ()).expect("copied");
    assert_eq!(backup::gateway_of(&place.path("copy")).expect("read"), Some(gateway()));
    drop(place.read("copy"));
    assert!(matches!(place.open("copy"), Err(Error::Copy { .. })));
    // A copy of a copy is one too.
    backup::unpack(&place.path("copy"), &place.path("second"), |_| ()).expect("copied");
    drop(place.read("second"));
    assert!(matches!(place.open("second"), Err(Error::Copy { .. })));
    backup::release(&place.path("second")).expect("released");
    let mut goes_on = place.open("second").expect("opened");
    let next = goes_on.append(&tasks(10, 2, 512, 4)).expect("appended");
    assert_eq!(next.first_index, last.size);
}

#[test]
fn a_copy_replaces_no_file_and_leaves_none_when_it_fails() {
    let place = Place::new();
    let (_store, _) = place.filled(1);
    let (from, to) = (place.path("ledger.db"), place.path("copy"));
    fs::write(&to, "something").expect("written");
    assert!(matches!(backup::backup(&from, &to, |_| ()), Err(Error::Exists { path }) if path == to));
    assert_eq!(fs::read(&to).expect("read"), b"something");
    fs::remove_file(&to).expect("removed");
    assert!(backup::backup(&place.path("none.db"), &to, |_| ()).is_err());
    assert!(!to.exists() && !place.path("copy.part").exists());
    backup::backup(&from, &to, |_| ()).expect("copied");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&to).expect("there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(!place.path("copy-wal").exists() && !place.path("copy.part").exists());
}

#[test]
fn a_place_with_a_log_or_a_gateway_takes_none() {
    let place = Place::new();
    let (mut store, _) = place.filled(1);
    store.commit_one(Job::default()).expect("written");
    assert!(matches!(Vacant::hold(&place.path("ledger.db")), Err(Error::Locked { .. })));
    drop(store);
    assert!(matches!(Vacant::hold(&place.path("ledger.db")), Err(Error::Exists { .. })));
    let vacant = Vacant::hold(&place.path("other.db")).expect("vacant");
    assert!(matches!(place.open("other.db"), Err(Error::Locked { .. })));
    // A reader may leave a write-ahead log behind, which is not moved.
    drop(place.read("ledger.db"));
    vacant.fill(&place.path("ledger.db")).expect("filled");
    assert!(!place.path("ledger.db-wal").exists());
    assert_eq!(place.read("other.db").size().expect("read"), 258);
}
