//! What is particular to the store in PostgreSQL.

use crate::conformance::{Backend, conformance};
use crate::log::*;
use crate::server::{Authority, Cluster, Database, Line, Proxy, sql};
use ol_protocol::prf::{Noise, Seed};
use ol_protocol::record::Record;
use ol_protocol::{GatewayId, TenantId, Timestamp};
use ol_store::{
    Appended, Committer, Deleted, Error, Facts, Finding, Identity, Job, Options, Payload, PostgresReader,
    PostgresStore, Read, Refusal, Server, Snapshot, SqliteStore, Store, Tenant, fsck_then, prune_server, records,
};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

// Longest time that a job is handed in again and again.
const RETRY_LIMIT: Duration = Duration::from_secs(60);

fn reasons(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn assert_contains(text: &str, part: &str) {
    assert!(text.contains(part), "{text}");
}

struct Postgres {
    database: Database,
    folder: TempDir,
}

impl Postgres {
    fn key(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    fn server(&self) -> Server {
        server(&self.database.url())
    }

    fn begun(&self) -> PostgresStore {
        let mut store = self.open(identity()).expect("opened");
        store.append(&[Record::Genesis(genesis())]).expect("begun");
        store
    }

    fn refused(&self) -> String {
        self.open(identity()).expect_err("refused").to_string()
    }
}

impl Backend for Postgres {
    type Store = PostgresStore;

    fn new() -> Self {
        Self { database: Database::new(), folder: tempfile::tempdir().expect("a folder") }
    }

    fn open(&self, identity: Identity) -> Result<PostgresStore, Error> {
        PostgresStore::open(&self.server(), &self.key(), identity)
    }

    fn prune(&self, base: &Snapshot, progress: impl FnMut(u64)) -> Result<Deleted, Error> {
        prune_server(&self.server(), &self.key(), gateway(), base, progress)
    }

    fn check_then<A>(&self, then: impl FnOnce(&dyn Read) -> A) -> (Vec<Finding>, A) {
        let reader = PostgresReader::open(&self.server(), &self.key(), gateway()).expect("opened");
        fsck_then(&reader, |reader| then(reader))
    }
}

fn server(url: &str) -> Server {
    url.parse().expect("a URL")
}

conformance! { #[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"] Postgres:
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
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let place = Postgres::new();
    let store = place.begun();
    let expected = format!("gateway {} runs in another process on {}", gateway(), place.server().place());
    assert_eq!(place.refused(), expected);
    drop(store);
    assert!(place.open(identity()).is_ok());
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn two_gateways_share_a_database_and_its_tenants_and_nothing_else() {
    let place = Postgres::new();
    let other_key = place.folder.path().join("other-key");
    let other = GatewayId(key(9).public());
    let other_genesis = ol_protocol::genesis::Genesis { gateway: other, ..genesis() };
    let mut first = place.begun();
    let identity = Identity { network: None, gateway: other };
    let mut second = PostgresStore::open(&place.server(), &other_key, identity).expect("opened");
    second.append(&[Record::Genesis(other_genesis.clone())]).expect("begun");
    let job = |number| Job { payloads: vec![payload(number, number)], records: tasks(10, 0, 0, 3), ..Job::default() };
    let (one, two) = (first.commit_one(job(1)).expect("written"), second.commit_one(job(2)).expect("written"));
    assert_eq!((one.first_index, one.size, two.first_index, two.size), (1, 5, 1, 5));
    assert_eq!(first.read().root(5).expect("read"), Some(one.root));
    assert_eq!(second.read().record(0).expect("read"), Some(Record::Genesis(other_genesis)));
    assert_eq!(first.read().task(task(1)).expect("read").attempts.len(), 1);
    assert_eq!(first.read().payload(payload(2, 2).attempt).expect("read"), None);
    let expire = Job { expire_before: Some(Timestamp(9)), ..Job::default() };
    assert_eq!(first.commit_one(expire).expect("written").expired, 1);
    assert_eq!(second.read().payload(payload(2, 2).attempt).expect("read"), Some(payload(2, 2)));

    let tenant = |id: u8, key: u8| Tenant {
        tenant: TenantId([id; 16]),
        name: "zero \0 and \u{2014}".into(),
        key_hash: [key; 32],
        created: Timestamp(5),
        requests_per_minute: Some(u32::MAX),
        tokens_per_minute: None,
    };
    first.commit_one(Job { tenants: vec![tenant(1, 1)], ..Job::default() }).expect("written");
    assert_eq!(second.read().tenant_by_key_hash(&[1; 32]).expect("read"), Some(tenant(1, 1)));
    let taken = second.commit_one(Job { tenants: vec![tenant(2, 1)], ..Job::default() });
    assert!(matches!(taken, Err(Error::Refused(Refusal::KeyTaken { tenant })) if tenant == TenantId([1; 16])));
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn the_later_jobs_of_a_group_see_the_earlier_ones() {
    let place = Postgres::new();
    let mut store = place.begun();
    let batch = |first| Job { records: tasks(10, 0, first, 2), ..Job::default() };
    let kept = |created| Job { payloads: vec![payload(1, created), payload(2, created)], ..Job::default() };
    let expire = Job { expire_before: Some(Timestamp(2)), ..Job::default() };
    let group = [batch(0), batch(10), kept(1), expire.clone(), kept(1), kept(2), expire];
    let answers = store.commit(&group.map(Arc::new));
    let repeated = Refusal::Repeated { node: node(10), sequence: 0, next: 1 };
    assert!(matches!(&answers[1], Err(Error::Refused(refusal)) if *refusal == repeated));
    let expired: Vec<_> = answers.into_iter().flatten().map(|done| done.expired).collect();
    assert_eq!(expired, [0, 0, 2, 0, 0, 0]);
    assert_eq!(store.read().payload(payload(1, 2).attempt).expect("read"), Some(payload(1, 2)));
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn a_newer_schema_is_refused_and_so_is_one_that_is_not_ours() {
    let place = Postgres::new();
    drop(place.begun());
    sql(&place.database.url(), "INSERT INTO openledger.versions (number) VALUES (9)");
    let expected = format!("{} has schema 9, this version knows schemas up to 2", place.server().place());
    assert_eq!(place.refused(), expected);
    let reader = PostgresReader::open(&place.server(), &place.key(), gateway());
    assert_eq!(reader.expect_err("refused").to_string(), expected);

    let foreign = Postgres::new();
    sql(&foreign.database.url(), "CREATE SCHEMA openledger");
    assert_eq!(foreign.refused(), format!("{} is not a database of gateways", foreign.server().place()));
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn another_or_no_key_file_is_refused() {
    let place = Postgres::new();
    drop(place.begun());
    std::fs::remove_file(place.key()).expect("removed");
    assert_eq!(place.refused(), format!("key file {} is missing", place.key().display()));
    ol_store::keyfile::secret_file(&place.key()).expect("made");
    let expected = format!("{} is not the key that {} was made with", place.key().display(), place.server().place());
    assert_eq!(place.refused(), expected);
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn a_reader_opens_only_what_is_there() {
    let place = Postgres::new();
    let open = |gateway| PostgresReader::open(&place.server(), &place.key(), gateway);
    let text = |gateway| open(gateway).expect_err("refused").to_string();
    assert_eq!(text(gateway()), format!("{} is not a database of gateways", place.server().place()));
    let store = place.begun();
    assert_eq!(open(gateway()).expect("opened").size().expect("read"), 1);
    drop(store);
    let other = GatewayId([9; 32]);
    assert_eq!(text(other), format!("{} holds no log of gateway {other}", place.server().place()));
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn payloads_and_facts_are_never_in_plain_text_in_the_database() {
    let place = Postgres::new();
    let mut store = place.begun();
    let facts = Facts { task: task(1), bytes: b"a very secret salt".to_vec() };
    store.commit_one(Job { payloads: vec![payload(1, 1)], facts: vec![facts], ..Job::default() }).expect("written");
    let plain = "SELECT sealed FROM (SELECT sealed FROM openledger.facts UNION SELECT sealed FROM openledger.payloads)
        AS all_sealed WHERE position('very secret'::bytea IN sealed) > 0";
    assert_eq!(sql(&place.database.url(), plain), [""; 0]);
    assert_eq!(sql(&place.database.url(), "SELECT count(*) FROM openledger.payloads"), ["1"]);
}

// The gateway asks from its asynchronous tasks, where a runtime may not be waited for.
#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn it_is_asked_and_closed_in_asynchronous_tasks_too() {
    let place = Postgres::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut store = place.begun();
        let reader = store.reader().expect("a reader");
        let size = tokio::spawn(async move { reader.size().expect("read") }).await.expect("no panic");
        assert_eq!(size, 1);
        assert_eq!(store.append(&[top_up(1)]).expect("appended").size, 2);
    });
}

// Hands a job in until it is committed, as the gateway does.
fn retried(store: &mut PostgresStore, job: &Job) -> (Appended, u32) {
    let end = Instant::now() + RETRY_LIMIT;
    for failures in 0.. {
        match store.commit_one(job.clone()) {
            Ok(done) => return (done, failures),
            Err(refused @ (Error::Refused(_) | Error::Overtaken { .. })) => panic!("{refused}"),
            Err(failed) => assert!(Instant::now() < end, "{failed}"),
        }
    }
    unreachable!("it is committed or given up")
}

// Jobs with a batch and jobs without: a repeated batch would be refused, a repeated top-up taken.
fn job(number: u64) -> Job {
    if number.is_multiple_of(3) {
        return Job { records: vec![top_up(number)], ..Job::default() };
    }
    let payloads = vec![payload(number * 10, number)];
    Job { records: tasks(10, number, number * 10, 4), payloads, ..Job::default() }
}

fn jobs(count: u64) -> Vec<Job> {
    (0..count).map(job).collect()
}

// The log is what the answers said: every job once and in order.
fn check(url: &str, key: &Path, jobs: &[Job], answers: &[Appended]) {
    let read = PostgresReader::open(&server(url), key, gateway()).expect("opened");
    let expected: Vec<Record> =
        [Record::Genesis(genesis())].into_iter().chain(jobs.iter().flat_map(|job| job.records.clone())).collect();
    let size = expected.len() as u64;
    assert_eq!(read.size().expect("read"), size);
    let found: Vec<Record> = records(&read, 0..size).map(|it| it.expect("read").1).collect();
    assert!(found == expected, "a job was lost, doubled or torn");
    let mut end = 1;
    for (job, answer) in jobs.iter().zip(answers) {
        assert_eq!(answer.first_index, end);
        end += job.records.len() as u64;
        assert_eq!(answer.size, end);
    }
    assert_eq!(end, size);
    // All of them where there are few, else some.
    for (job, answer) in jobs.iter().zip(answers).step_by(1 + jobs.len() / 50) {
        assert_eq!(answer.root, root_of(&expected[..answer.size as usize]));
        for payload in &job.payloads {
            assert_eq!(read.payload(payload.attempt).expect("read").as_ref(), Some(payload));
        }
    }
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn a_commit_whose_answer_is_lost_counts_once() {
    let place = Postgres::new();
    drop(place.begun());
    let proxy = Proxy::new(&place.database);
    let url = place.database.url_at(proxy.port());
    let mut store = PostgresStore::open(&server(&url), &place.key(), identity()).expect("opened");
    let jobs = jobs(12);
    let mut answers = Vec::new();
    for (job, number) in jobs.iter().zip(0..) {
        match number % 4 {
            0 => {}
            1 => proxy.set(Line::BreaksAfterCommit),
            2 => {
                proxy.set(Line::Cut);
                assert!(store.commit_one(job.clone()).is_err());
                proxy.set(Line::Good);
            }
            _ => {
                // Lost twice: first the answer, then the line on which it is asked for again.
                proxy.set(Line::BreaksAfterCommit);
                assert!(store.commit_one(job.clone()).is_err());
                proxy.set(Line::Cut);
                assert!(store.commit_one(job.clone()).is_err());
                proxy.set(Line::Good);
            }
        }
        let (answer, failures) = retried(&mut store, job);
        assert!(proxy.is(Line::Good) && (failures > 0) == (number % 4 == 1), "job {number}: {failures} failures");
        answers.push(answer);
    }
    drop(store);
    check(&place.database.url(), &place.key(), &jobs, &answers);
}

// The group is handed in again in parts, as its jobs come from several submitters.
#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn the_jobs_of_a_lost_group_are_answered_one_by_one() {
    let place = Postgres::new();
    drop(place.begun());
    let proxy = Proxy::new(&place.database);
    let url = place.database.url_at(proxy.port());
    let mut store = PostgresStore::open(&server(&url), &place.key(), identity()).expect("opened");
    let jobs = jobs(5);
    let shared = |number: usize| Arc::new(jobs[number].clone());
    proxy.set(Line::BreaksAfterCommit);
    assert!(store.commit(&[0, 1, 2, 3].map(shared)).iter().all(Result::is_err));
    let mut answers = Vec::new();
    for job in [&jobs[2], &jobs[0]] {
        answers.push(store.commit_one(job.clone()).expect("known"));
    }
    answers.extend(store.commit(&[4, 3, 1].map(shared)).into_iter().flatten());
    answers.sort_by_key(|answer| answer.first_index);
    drop(store);
    check(&place.database.url(), &place.key(), &jobs, &answers);
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn sessions_that_are_ended_at_any_moment_lose_and_double_nothing() {
    let place = Postgres::new();
    let mut store = place.begun();
    let (noise, jobs, done) = (Noise::new(&Seed([6; 32]), 0), jobs(200), AtomicBool::new(false));
    let answers: Vec<(Appended, u32)> = thread::scope(|scope| {
        scope.spawn(|| {
            // Long enough to make a session and commit now and then.
            for round in (0..).take_while(|_| !done.load(Ordering::Relaxed)) {
                thread::sleep(Duration::from_millis(u64::from(noise.word(round)) % 100));
                place.database.end_sessions();
            }
        });
        let answers = jobs.iter().map(|job| retried(&mut store, job)).collect();
        done.store(true, Ordering::Relaxed);
        answers
    });
    drop(store);
    let failures: u32 = answers.iter().map(|(_, failures)| failures).sum();
    assert!(failures > 0, "no session was ended in time");
    let answers: Vec<_> = answers.into_iter().map(|(answer, _)| answer).collect();
    check(&place.database.url(), &place.key(), &jobs, &answers);
}

#[test]
#[ignore = "needs PostgreSQL's programs"]
fn a_server_that_is_killed_in_the_middle_of_commits_loses_and_doubles_nothing() {
    let mut cluster = Cluster::new();
    let (url, folder) = (cluster.url(), tempfile::tempdir().expect("a folder"));
    let key = folder.path().join("key");
    let mut store = PostgresStore::open(&server(&url), &key, identity()).expect("opened");
    store.append(&[Record::Genesis(genesis())]).expect("begun");
    let (noise, done) = (Noise::new(&Seed([5; 32]), 0), AtomicBool::new(false));
    let (jobs, answers) = thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..5 {
                thread::sleep(Duration::from_millis(50 + u64::from(noise.word(round)) % 200));
                cluster.kill_and_restart();
            }
            done.store(true, Ordering::Relaxed);
        });
        let (mut written, mut answers) = (Vec::new(), Vec::new());
        for job in (0..).map(job) {
            answers.push(retried(&mut store, &job).0);
            written.push(job);
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
        (written, answers)
    });
    let reader = store.reader().expect("a reader");
    cluster.kill_and_restart();
    let size = (0..2).find_map(|_| reader.size().ok()).expect("the second question has a new connection");
    assert_eq!(Some(size), answers.last().map(|answer| answer.size));
    drop(store);
    check(&url, &key, &jobs, &answers);
}

#[test]
#[ignore = "needs PostgreSQL's programs"]
fn only_a_server_that_proves_its_name_is_spoken_to_over_tls() {
    let (mut cluster, authority, folder) = (Cluster::new(), Authority::new(), tempfile::tempdir().expect("a folder"));
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let open = |host: &str, options: &str| {
        let url = format!("postgres://postgres@{host}:{port}/postgres?{options}");
        let server: Server = url.parse().map_err(Box::new)?;
        PostgresStore::open(&server, &folder.path().join("key"), identity()).map_err(Box::new)
    };
    let refused = |host: &str, options: &str| reasons(&*open(host, options).expect_err("refused"));
    cluster.encrypt(port, &authority);
    let ours = format!("sslrootcert={}", authority.certificate().display());
    let store = open("localhost", &ours).expect("opened");
    let encrypted = sql(
        &cluster.url(),
        "SELECT version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'openledger'",
    );
    assert!(!encrypted.is_empty() && encrypted.iter().all(|version| version == "TLSv1.3"), "{encrypted:?}");
    drop(store);
    assert_contains(&refused("127.0.0.1", &ours), "not valid for name");
    let stranger = Authority::new();
    let other = format!("sslmode=verify-full&sslrootcert={}", stranger.certificate().display());
    assert_contains(&refused("localhost", &other), "invalid peer certificate");
    assert_contains(&refused("localhost", "sslmode=require"), "invalid peer certificate");
    // What the server does not allow; and what it does not offer, where nothing is sent in plain text instead.
    assert_contains(&refused("localhost", "sslmode=disable"), "no encryption");
    cluster.stop_encrypting();
    assert_contains(&refused("localhost", &ours), "does not support TLS");
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn a_log_that_another_process_went_on_with_is_left_alone() {
    let place = Postgres::new();
    drop(place.begun());
    let proxy = Proxy::new(&place.database);
    let url = place.database.url_at(proxy.port());
    let mut store = PostgresStore::open(&server(&url), &place.key(), identity()).expect("opened");
    proxy.set(Line::Cut);
    assert!(store.append(&[top_up(1)]).is_err());
    assert_eq!(place.open(identity()).expect("the lock is free").append(&[top_up(2)]).expect("appended").size, 2);
    proxy.set(Line::Good);
    for _ in 0..2 {
        let error = store.append(&[top_up(1)]).expect_err("not its log any more").to_string();
        let place = server(&url).place().clone();
        assert_eq!(error, format!("the log of gateway {} on {place} is not as this process left it", gateway()));
    }
    drop(store);
    assert_eq!(place.open(identity()).expect("opened").read().size().expect("read"), 2);
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn every_one_of_many_submitters_gets_its_own_answer() {
    let place = Postgres::new();
    let committer = Committer::start(place.begun()).expect("a thread");
    let answers: Vec<(Vec<Record>, Appended)> = thread::scope(|scope| {
        let submit = |byte: u8| {
            let handle = committer.handle();
            scope.spawn(move || {
                let batches = (0..6).map(|sequence| tasks(byte, sequence, u64::from(byte) * 1_000 + sequence * 10, 3));
                let commit = |records: Vec<Record>| {
                    let done = handle.commit(Job { records: records.clone(), ..Job::default() });
                    (records, done.expect("committed"))
                };
                batches.map(commit).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (10..18).map(submit).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("joined")).collect()
    });
    committer.stop();
    assert_eq!(answers.len(), 48);
    let reader = PostgresReader::open(&place.server(), &place.key(), gateway()).expect("opened");
    for (records, done) in answers {
        assert_eq!(reader.page(done.first_index..done.size).expect("read"), records);
        assert_eq!(reader.root(done.size).expect("read"), Some(done.root));
    }
}

// Prints what each store takes for the same groups of jobs: `--release`, `--nocapture`.
#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn both_stores_come_to_the_same_log() {
    let batch = |number: u64, first: u64| Job {
        records: tasks(10, number, first, 32),
        payloads: (first..first + 32).map(|it| Payload { output: vec![9; 2_000], ..payload(it, number) }).collect(),
        facts: (first..first + 32).map(|it| Facts { task: task(it), bytes: vec![7; 200] }).collect(),
        ..Job::default()
    };
    let group = |first: u64| (first..first + 8).map(|number| Arc::new(batch(number, number * 32))).collect();
    let groups: Vec<Vec<Arc<Job>>> = (0..50).map(|number| group(number * 8)).collect();
    let measured = |name: &str, store: &mut dyn Store| {
        store.append(&[Record::Genesis(genesis())]).expect("begun");
        let start = Instant::now();
        let last = groups.iter().map(|group| store.commit(group).pop().expect("answered").expect("committed")).last();
        let us = start.elapsed().as_micros();
        println!("{name}: {} us a group of 256 tasks, {} us a task", us / 50, us / (50 * 256));
        let start = Instant::now();
        (0..200).for_each(|serial| assert!(store.append(&[top_up(serial)]).is_ok()));
        println!("{name}: {} us a group of one record", start.elapsed().as_micros() / 200);
        last
    };
    let (place, folder) = (Postgres::new(), tempfile::tempdir().expect("a folder"));
    let sqlite = SqliteStore::open(&folder.path().join("ledger.db"), identity(), Options::default());
    let in_file = measured("SQLite", &mut sqlite.expect("opened"));
    let on_server = measured("PostgreSQL", &mut place.open(identity()).expect("opened"));
    assert_eq!(in_file, on_server);
}
