//! A log whose beginning was deleted.

use crate::conformance::Backend;
use crate::log::*;
use crate::sqlite::Sqlite;
use ol_protocol::merkle::verify_inclusion;
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::{Epoch, Timestamp};
use ol_store::{Appended, Deleted, Error, Facts, Job, Payload, Pruned, Snapshot, Store, space};

struct Place<'a, B: Backend> {
    backend: &'a B,
    store: B::Store,
}

impl<'a, B: Backend> Place<'a, B> {
    fn new(backend: &'a B) -> Self {
        let mut store = backend.open(identity()).expect("opened");
        store.append(&[Record::Genesis(genesis()), change(2)]).expect("begun");
        Self { backend, store }
    }

    // An epoch of batches with one task each, numbered on from `first`, an audit and a close.
    fn epoch(&mut self, epoch: u64, first: u64, batches: u64) -> Appended {
        let numbers = first..first + batches;
        let audit = verdict(AttemptId { task: task(first), attempt: 0 });
        let mut records: Vec<Record> = numbers.clone().flat_map(|number| tasks(10, number, number, 1)).collect();
        records.extend([audit, close(epoch)]);
        let facts = numbers.map(|number| Facts { task: task(number), bytes: vec![1] }).collect();
        let done = self.store.commit_one(Job { records, facts, ..Job::default() }).expect("written");
        let (checkpoint, snapshot) = (Some(note(epoch, &done)), Some(base(epoch, &done)));
        self.store.commit_one(Job { checkpoint, snapshot, ..Job::default() }).expect("written");
        done
    }

    fn prune(&self, base: &Snapshot) -> Result<Deleted, Error> {
        self.backend.prune(base, |_| ())
    }
}

fn base(epoch: u64, log: &Appended) -> Snapshot {
    Snapshot { epoch: Epoch(epoch), size: log.size, bytes: vec![epoch as u8; 8] }
}

pub(crate) fn what_is_pruned_is_gone_and_everything_that_is_left_is_still_proved(backend: &impl Backend) {
    let mut place = Place::new(backend);
    let first = place.epoch(0, 0, 600);
    let last = place.epoch(1, 600, 700);
    let before = place.store.read().page(0..last.size).expect("read");
    let deleted = place.prune(&base(0, &first)).expect("pruned");
    // Records 0 and 1, then two for each task: the last full tile ends with record 1,023, a batch. Facts of the first
    // task stay as long as its audit, which is later.
    assert_eq!(deleted, Deleted { receipts: 511, batches: 276, audits: 0, facts: 510 });
    let reader = place.store.read();
    assert_eq!(backend.check(), []);
    let pruned = Pruned { before: 1_024, size: first.size, epoch: Epoch(0) };
    assert_eq!(reader.pruned().expect("read"), Some(pruned));
    assert_eq!(reader.base().expect("read"), Some(base(0, &first)));
    for (record, index) in before.iter().zip(0..).step_by(3) {
        let path = reader.inclusion(index, last.size).expect("proved").expect("there");
        assert!(verify_inclusion(&last.root, last.size, index, &record.leaf(), &path), "{index}");
        match reader.record(index) {
            Ok(found) => assert_eq!(found.as_ref(), Some(record)),
            Err(Error::Pruned { index: of }) => assert!(of == index && index < 1_024 && index > 1, "{index}"),
            Err(other) => panic!("{index}: {other}"),
        }
    }
    assert!(matches!(reader.page(1_000..1_030), Err(Error::Pruned { index: 1_000 })));
    assert_eq!(reader.page(1_024..last.size).expect("read"), before[1_024..]);
    let (gone, kept) = (reader.task(task(0)).expect("read"), reader.task(task(511)).expect("read"));
    assert_eq!((gone.attempts.len(), gone.audits.len()), (0, 1));
    assert_eq!((kept.attempts.len(), reader.facts(task(511)).expect("read").is_some()), (1, true));
    assert_eq!(reader.facts(task(1)).expect("read"), None);
    assert_eq!(reader.root(first.size).expect("read"), Some(first.root));
}

pub(crate) fn the_last_batches_of_a_node_are_kept_until_later_ones_are(backend: &impl Backend) {
    let mut place = Place::new(backend);
    let first = place.epoch(0, 0, 600);
    let second = place.epoch(1, 600, 700);
    assert_eq!(place.prune(&base(0, &first)).expect("pruned").batches, 276);
    let reader = place.store.reader().expect("a reader");
    let has = |sequence| reader.batch(node(10), sequence).expect("read").is_some();
    assert_eq!((has(275), has(276), has(600)), (false, true, true));
    assert_eq!(reader.next_sequence(node(10)).expect("read"), 1_300);
    // The log goes on, and is pruned again, while its writer has it open.
    for epoch in 2..5 {
        place.epoch(epoch, 700 + epoch * 300, 300);
    }
    place.prune(&base(1, &second)).expect("pruned");
    assert_eq!((has(275), has(1_175), has(1_176)), (false, false, true));
    assert_eq!(place.prune(&base(1, &second)).expect("nothing is left"), Deleted::default());
    assert_eq!(place.prune(&base(0, &first)).expect("nothing is left"), Deleted::default());
}

pub(crate) fn what_a_snapshot_or_no_checkpoint_ends_is_not_pruned(backend: &impl Backend) {
    let mut place = Place::new(backend);
    let first = place.epoch(0, 0, 140);
    let second = place.epoch(1, 600, 10);
    let needed = |base: &Snapshot| matches!(place.prune(base), Err(Error::Needed { .. }));
    // The snapshot of epoch 0 would have nothing to go on with.
    assert!(needed(&base(1, &second)));
    assert!(needed(&Snapshot { size: first.size - 1, ..base(0, &first) }));
    assert!(needed(&base(7, &first)));
    assert_eq!(place.store.read().pruned().expect("read"), None);
    assert_eq!(backend.check(), []);
}

pub(crate) fn another_pruning_meanwhile_is_noticed_and_a_part_of_one_is_taken_up(backend: &impl Backend) {
    let mut place = Place::new(backend);
    let first = place.epoch(0, 0, 600);
    let last = place.epoch(1, 600, 700);
    let mut others = Deleted::default();
    let broken_off = backend.prune(&base(0, &first), |_| {
        if others == Deleted::default() {
            others = place.prune(&base(0, &first)).expect("pruned");
        }
    });
    // The first group of 512 records was the one's, the rest the other's.
    assert!(matches!(broken_off, Err(Error::Locked { .. })));
    assert_eq!((others.receipts, others.facts), (256, 256));
    let reader = place.store.read();
    assert_eq!(reader.pruned().expect("read").map(|pruned| pruned.before), Some(1_024));
    assert_eq!(
        (reader.facts(task(0)).expect("read"), reader.facts(task(510)).expect("read")),
        (Some(Facts { task: task(0), bytes: vec![1] }), None)
    );
    assert_eq!(reader.page(1_024..last.size).expect("read").len() as u64, last.size - 1_024);
    assert_eq!(backend.check(), []);
}

#[test]
fn the_space_of_payloads_that_expired_is_used_again() {
    let backend = Sqlite::new();
    let mut place = Place::new(&backend);
    let mut day = |day: u64| {
        let large = |number| Payload { output: vec![9; 20_000], ..payload(number, day) };
        let payloads = (day * 100..day * 100 + 100).map(large).collect();
        let expire_before = Some(Timestamp(day));
        place.store.commit_one(Job { payloads, expire_before, ..Job::default() }).expect("written");
        space(&backend.path()).expect("read").bytes
    };
    let (first, last) = (day(1), (2..12).map(&mut day).last().expect("days"));
    assert!(last < first * 3, "{first} bytes at first, {last} in the end");
}

#[test]
fn a_record_without_bytes_that_was_not_pruned_is_found() {
    let backend = Sqlite::new();
    let mut place = Place::new(&backend);
    let first = place.epoch(0, 0, 140);
    place.prune(&base(0, &first)).expect("pruned");
    let connection = rusqlite::Connection::open(backend.path()).expect("opened");
    connection.execute("UPDATE records SET bytes = x'' WHERE position = 270", []).expect("damaged");
    assert!(!backend.check().is_empty());
}
