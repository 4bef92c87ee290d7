//! What every store must do. A backend opens stores over one place; each behaviour gets a fresh one.

use crate::log::*;
use ol_protocol::merkle::verify_inclusion;
use ol_protocol::prf::{Noise, Seed};
use ol_protocol::record::{AttemptId, AuditOutcome, Record};
use ol_protocol::{Epoch, GatewayId, NetworkId, TenantId, Timestamp};
use ol_store::{
    Appended, Deleted, Error, Facts, Finding, Identity, Job, Note, Read, Refusal, Snapshot, Store, TaskRecords, Tenant,
    records,
};
use std::sync::Arc;

/// Somewhere to keep one store.
pub(crate) trait Backend {
    /// The store.
    type Store: Store + 'static;
    /// A new, empty place.
    fn new() -> Self;
    /// Opens the store in it.
    fn open(&self, identity: Identity) -> Result<Self::Store, Error>;
    /// Deletes the beginning of the log in it.
    fn prune(&self, base: &Snapshot, progress: impl FnMut(u64)) -> Result<Deleted, Error>;
    /// What is wrong with the log in it, and what else is asked at that moment.
    fn check_then<A>(&self, then: impl FnOnce(&dyn Read) -> A) -> (Vec<Finding>, A);
    /// What is wrong with the log in it.
    fn check(&self) -> Vec<Finding> {
        self.check_then(|_| ()).0
    }
}

/// Makes a test of each behaviour for a backend that needs nothing, or what the attribute says.
macro_rules! conformance {
    ($backend:ty: $($behaviour:ident)*) => { $crate::conformance::conformance! { #[test] $backend: $($behaviour)* } };
    (#[ignore = $reason:literal] $backend:ty: $($behaviour:ident)*) => {
        $crate::conformance::conformance! { #[cfg_attr(all(), test, ignore = $reason)] $backend: $($behaviour)* }
    };
    (#[$attribute:meta] $backend:ty: $($behaviour:ident)*) => {
        $(#[$attribute]
        fn $behaviour() {
            $crate::conformance::$behaviour(&<$backend as $crate::conformance::Backend>::new());
        })*
    };
}
pub(crate) use crate::prune::{
    another_pruning_meanwhile_is_noticed_and_a_part_of_one_is_taken_up,
    the_last_batches_of_a_node_are_kept_until_later_ones_are, what_a_snapshot_or_no_checkpoint_ends_is_not_pruned,
    what_is_pruned_is_gone_and_everything_that_is_left_is_still_proved,
};
pub(crate) use conformance;

fn opened<B: Backend>(backend: &B) -> B::Store {
    backend.open(identity()).expect("opened")
}

fn begun<B: Backend>(backend: &B) -> B::Store {
    let mut store = opened(backend);
    store.append(&[Record::Genesis(genesis())]).expect("begun");
    store
}

fn refusal(result: Result<Appended, Error>) -> Option<Refusal> {
    match result {
        Err(Error::Refused(refusal)) => Some(refusal),
        _ => None,
    }
}

pub(crate) fn records_come_back_in_order_under_the_right_root(backend: &impl Backend) {
    let mut store = begun(backend);
    let mut log = vec![Record::Genesis(genesis())];
    for job in [vec![top_up(1), top_up(2)], tasks(10, 0, 0, 5), vec![close(0)], vec![]] {
        let done = store.append(&job).expect("appended");
        let first_index = log.len() as u64;
        log.extend(job);
        assert_eq!(done, Appended { first_index, size: log.len() as u64, root: root_of(&log), expired: 0 });
    }
    let size = log.len() as u64;
    let all: Vec<_> = records(store.read(), 0..size).collect::<Result<_, _>>().expect("read");
    assert_eq!(all, (0..).zip(log.clone()).collect::<Vec<_>>());
    assert_eq!(store.read().page(2..4).expect("read"), log[2..4]);
    assert_eq!(store.read().record(3).expect("read"), Some(log[3].clone()));
    assert_eq!(store.read().record(size).expect("read"), None);
    assert_eq!(store.read().record(u64::MAX).expect("read"), None);
    assert!(matches!(store.read().page(2..size + 1), Err(Error::Missing { index }) if index == size));
    assert_eq!(store.read().network().expect("read"), Some(network()));
}

pub(crate) fn a_log_survives_being_closed(backend: &impl Backend) {
    let mut log = vec![Record::Genesis(genesis())];
    drop(begun(backend));
    for serial in 0..40 {
        let mut store = opened(backend);
        assert_eq!(store.read().size().expect("read"), log.len() as u64);
        log.push(top_up(serial));
        let done = store.append(&log[log.len() - 1..]).expect("appended");
        assert_eq!(done.root, root_of(&log), "after {serial}");
    }
}

pub(crate) fn inclusion_is_proved_at_any_size(backend: &impl Backend) {
    let mut store = begun(backend);
    let mut log = vec![Record::Genesis(genesis())];
    log.extend((0..599).map(top_up));
    store.append(&log[1..]).expect("appended");
    let read = store.reader().expect("a reader");
    let noise = Noise::new(&Seed([1; 32]), 0);
    for draw in 0..100 {
        let size = 1 + u64::from(noise.word(draw)) % 600;
        let index = u64::from(noise.word(1_000 + draw)) % size;
        let root = read.root(size).expect("read").expect("that large");
        assert_eq!(root, root_of(&log[..size as usize]), "size {size}");
        let path = read.inclusion(index, size).expect("read").expect("in range");
        assert!(verify_inclusion(&root, size, index, &log[index as usize].leaf(), &path), "{index} of {size}");
    }
    assert_eq!(read.inclusion(5, 5).expect("read"), None);
    assert_eq!(read.inclusion(5, 601).expect("read"), None);
    assert_eq!(read.root(601).expect("read"), None);
}

pub(crate) fn a_task_is_found_with_its_attempts_batches_and_audits(backend: &impl Backend) {
    let mut store = begun(backend);
    let first = vec![receipt(10, task(1), 0), receipt(10, task(2), 0), receipt(10, task(3), 0)];
    let second = vec![receipt(11, task(9), 0), receipt(11, task(2), 1)];
    let subject = AttemptId { task: task(2), attempt: 1 };
    store.append(&[batch(10, 0, first.clone()), batch(11, 0, second.clone())].concat()).expect("appended");
    store.append(&[verdict(subject)]).expect("appended");
    let found = store.read().task(task(2)).expect("read");
    let places: Vec<_> = found.attempts.iter().map(|it| (it.index, it.place, it.batch_index)).collect();
    assert_eq!(places, [(2, 1, 4), (6, 1, 7)]);
    assert_eq!(found.attempts[0].receipt, first[1]);
    assert_eq!(found.attempts[1].receipt, second[1]);
    assert_eq!(found.attempts[1].batch.header.node, node(11));
    let Record::Audit { outcome, .. } = verdict(subject) else { unreachable!("an audit") };
    assert!(matches!(outcome, AuditOutcome::Verdict { .. }));
    assert_eq!(found.audits, [(8, subject, outcome)]);
    assert_eq!(store.read().task(task(77)).expect("read"), TaskRecords::default());
}

pub(crate) fn a_nodes_batches_are_counted_and_a_repeat_is_refused(backend: &impl Backend) {
    let mut store = begun(backend);
    assert_eq!(store.read().next_sequence(node(10)).expect("read"), 0);
    store.append(&tasks(10, 0, 0, 2)).expect("appended");
    store.append(&tasks(10, 3, 10, 2)).expect("a gap is the machine's to judge");
    drop(store);
    let mut store = opened(backend);
    assert_eq!(store.read().next_sequence(node(10)).expect("read"), 4);
    assert_eq!(store.read().next_sequence(node(11)).expect("read"), 0);
    let found = store.read().batch(node(10), 3).expect("read").expect("there");
    assert_eq!((found.index, found.batch.header.sequence), (6, 3));
    assert_eq!(store.read().batch(node(10), 2).expect("read"), None);
    let repeated = Some(Refusal::Repeated { node: node(10), sequence: 3, next: 4 });
    assert_eq!(refusal(store.append(&tasks(10, 3, 20, 2))), repeated);
    let repeated = Some(Refusal::Repeated { node: node(10), sequence: 4, next: 5 });
    assert_eq!(refusal(store.append(&[tasks(10, 4, 20, 2), tasks(10, 4, 30, 2)].concat())), repeated);
    let past = Some(Refusal::Range { what: "number of a batch", value: u64::MAX });
    assert_eq!(refusal(store.append(&tasks(10, u64::MAX, 20, 2))), past);
    assert_eq!(store.read().size().expect("read"), 7);
}

pub(crate) fn a_refused_job_leaves_its_group_alone(backend: &impl Backend) {
    let mut store = begun(backend);
    let good = |serial| Job { records: vec![top_up(serial)], ..Job::default() };
    let headless = tasks(10, 0, 0, 3)[1..].to_vec();
    let unsigned = tasks(10, 0, 0, 3)[..3].to_vec();
    let long = Facts { task: task(1), bytes: vec![0; 4_097] };
    let jobs = [
        good(1),
        Job { records: headless, ..Job::default() },
        Job { records: unsigned, ..Job::default() },
        Job { records: vec![Record::Genesis(genesis())], ..Job::default() },
        Job { records: vec![top_up(7)], facts: vec![long], ..Job::default() },
        good(2),
    ];
    let answers: Vec<_> = store
        .commit(&jobs.map(Arc::new))
        .into_iter()
        .map(|it| it.map(|it| it.size).map_err(|e| e.to_string()))
        .collect();
    let refused = |text: &str| Err(text.to_string());
    let expected = [
        Ok(2),
        refused("a batch of 3 receipts follows 2 receipts"),
        refused("a batch of 0 receipts follows 3 receipts"),
        refused("record 2 can't be a genesis"),
        refused("facts of 4097 bytes passes the limit of 4096"),
        Ok(3),
    ];
    assert_eq!(answers, expected);
    assert_eq!(store.read().page(1..3).expect("read"), [top_up(1), top_up(2)]);
    assert_eq!(store.read().facts(task(1)).expect("read"), None);
}

pub(crate) fn a_log_begins_with_the_genesis_of_its_network(backend: &impl Backend) {
    let mut store = backend.open(Identity { network: None, gateway: gateway() }).expect("opened");
    assert_eq!(store.read().network().expect("read"), None);
    assert_eq!(refusal(store.append(&[top_up(1)])), Some(Refusal::Genesis { index: 0 }));
    let mut foreign = genesis();
    foreign.gateway = GatewayId([9; 32]);
    let refused = Refusal::ForeignGenesis { network: foreign.network(), gateway: foreign.gateway };
    assert_eq!(refusal(store.append(&[Record::Genesis(foreign)])), Some(refused));
    store.append(&[Record::Genesis(genesis())]).expect("begun");
    assert_eq!(store.read().network().expect("read"), Some(network()));
}

pub(crate) fn a_store_of_another_network_or_gateway_is_refused(backend: &impl Backend) {
    drop(begun(backend));
    let network_is_other = Identity { network: Some(NetworkId([9; 32])), ..identity() };
    let gateway_is_other = Identity { gateway: GatewayId([9; 32]), ..identity() };
    let text = |identity| backend.open(identity).err().expect("refused").to_string();
    let nines = "09".repeat(32);
    let said = text(network_is_other);
    assert!(said.ends_with(&format!("belongs to network {}, not to {nines}", network())), "{said}");
    let said = text(gateway_is_other);
    assert!(said.ends_with(&format!("belongs to gateway {}, not to {nines}", gateway())), "{said}");
}

pub(crate) fn payloads_and_facts_come_back_and_payloads_expire(backend: &impl Backend) {
    let mut store = begun(backend);
    let facts = Facts { task: task(1), bytes: br#"{"salt":"00"}"#.to_vec() };
    let payloads = vec![payload(1, 100), payload(2, 200), payload(3, 300)];
    let job = Job { payloads: payloads.clone(), facts: vec![facts.clone()], ..Job::default() };
    store.commit_one(job).expect("written");
    assert_eq!(store.read().payload(payloads[1].attempt).expect("read"), Some(payloads[1].clone()));
    assert_eq!(store.read().facts(task(1)).expect("read"), Some(facts));
    let expire = Job { expire_before: Some(Timestamp(300)), ..Job::default() };
    assert_eq!(store.commit_one(expire).expect("written").expired, 2);
    let kept: Vec<_> = payloads.iter().map(|it| store.read().payload(it.attempt).expect("read").is_some()).collect();
    assert_eq!(kept, [false, false, true]);
}

pub(crate) fn tenants_are_found_by_key_and_share_none(backend: &impl Backend) {
    let mut store = opened(backend);
    let tenant = |id: u8, key: u8| Tenant {
        tenant: TenantId([id; 16]),
        name: format!("tenant {id}"),
        key_hash: [key; 32],
        created: Timestamp(5),
        requests_per_minute: Some(60),
        tokens_per_minute: None,
    };
    let put = |tenant: Tenant| Job { tenants: vec![tenant], ..Job::default() };
    store.commit_one(put(tenant(2, 20))).expect("written");
    store.commit_one(put(tenant(1, 10))).expect("written");
    assert_eq!(store.read().tenant_by_key_hash(&[20; 32]).expect("read"), Some(tenant(2, 20)));
    assert_eq!(store.read().tenant_by_key_hash(&[30; 32]).expect("read"), None);
    store.commit_one(put(tenant(2, 30))).expect("written");
    assert_eq!(store.read().tenants().expect("read"), [tenant(1, 10), tenant(2, 30)]);
    // One from before changes nothing, whoever hands it in again.
    store.commit_one(put(Tenant { created: Timestamp(4), ..tenant(2, 20) })).expect("written");
    assert_eq!(store.read().tenants().expect("read"), [tenant(1, 10), tenant(2, 30)]);
    let taken = Some(Refusal::KeyTaken { tenant: TenantId([1; 16]) });
    assert_eq!(refusal(store.commit_one(put(tenant(2, 10)))), taken);
}

pub(crate) fn the_last_snapshots_are_kept(backend: &impl Backend) {
    let mut store = begun(backend);
    assert_eq!(store.read().latest_snapshot().expect("read"), None);
    let snapshot = |epoch: u64| Snapshot { epoch: Epoch(epoch), size: 1, bytes: vec![epoch as u8; 10] };
    for epoch in 0..6 {
        store.commit_one(Job { snapshot: Some(snapshot(epoch)), ..Job::default() }).expect("written");
        assert_eq!(store.read().latest_snapshot().expect("read"), Some(snapshot(epoch)));
    }
}

pub(crate) fn checkpoints_are_found_by_epoch_and_record_and_never_forked(backend: &impl Backend) {
    let mut store = begun(backend);
    let put = |note: &Note| Job { checkpoint: Some(note.clone()), ..Job::default() };
    let mut notes = Vec::new();
    for epoch in 0..3 {
        let done = store.append(&[top_up(epoch), close(epoch)]).expect("appended");
        notes.push(note(epoch, &done));
        store.commit_one(put(&notes[epoch as usize])).expect("written");
    }
    let read = store.read();
    assert_eq!(read.latest_checkpoint().expect("read"), Some(notes[2].clone()));
    assert_eq!(read.checkpoint(Epoch(1)).expect("read"), Some(notes[1].clone()));
    assert_eq!(read.checkpoint(Epoch(9)).expect("read"), None);
    let over: Vec<_> = (0..8).map(|index| read.checkpoint_over(index).expect("read").map(|it| it.epoch.0)).collect();
    assert_eq!(over, [Some(0), Some(0), Some(0), Some(1), Some(1), Some(2), Some(2), None]);
    let fork = Note { text: notes[1].text.replacen("state 05", "state 06", 1), ..notes[1].clone() };
    assert_eq!(refusal(store.commit_one(put(&fork))), Some(Refusal::Fork { epoch: Epoch(1) }));
    let cosigned = Note { text: format!("{}\u{2014} witness AAAA\n", notes[1].text), ..notes[1].clone() };
    store.commit_one(put(&cosigned)).expect("more signatures are welcome");
    assert_eq!(store.read().checkpoint(Epoch(1)).expect("read"), Some(cosigned));
}

pub(crate) fn a_check_and_what_follows_it_see_one_moment_of_a_log_that_grows(backend: &impl Backend) {
    let mut store = begun(backend);
    let (findings, seen) = backend.check_then(|reader| {
        let grown = store.append(&tasks(10, 0, 0, 1)).expect("appended").size;
        (grown, reader.size().expect("read"), reader.record(1).expect("read"))
    });
    assert_eq!((findings, seen), (vec![], (3, 1, None)));
    assert_eq!(backend.check_then(|reader| reader.size().expect("read")), (vec![], 3));
}

pub(crate) fn a_reader_sees_what_is_committed_while_it_is_open(backend: &impl Backend) {
    let mut store = begun(backend);
    let reader = store.reader().expect("a reader");
    for serial in 0..3 {
        let done = store.append(&[top_up(serial)]).expect("appended");
        assert_eq!(reader.size().expect("read"), done.size);
        assert_eq!(reader.root(done.size).expect("read"), Some(done.root));
    }
}

#[test]
fn records_have_the_sizes_that_the_log_format_states() {
    let unauditable = Record::Audit {
        subject: AttemptId { task: task(1), attempt: 0 },
        outcome: AuditOutcome::Unauditable { audit: ol_protocol::AuditId([0; 16]) },
    };
    let audit = verdict(AttemptId { task: task(1), attempt: 0 });
    let [receipt, batch] = &tasks(10, 0, 0, 1)[..] else { panic!("a receipt and its batch") };
    let all = [&Record::Genesis(genesis()), &top_up(1), receipt, batch, &audit, &unauditable, &close(0), &change(4)];
    assert_eq!(all.map(|record| record.to_bytes().len()), [289, 209, 459, 341, 379, 35, 177, 185]);
}
