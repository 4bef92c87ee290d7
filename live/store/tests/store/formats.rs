//! Databases of every released format, written by the program of that version: opened by this one, with what they held.
//!
//! A vector is never changed. A schema that changes gets a new version, and a vector of its own, which
//! `write_the_vectors_that_are_missing` makes.

use crate::log::*;
use crate::server::{Database, sql};
use ol_protocol::record::{AttemptId, Record};
use ol_protocol::{Epoch, TenantId, Timestamp};
use ol_store::{
    Error, Facts, Job, KeptBatch, Note, Options, Outbox, OutboxReader, Peer, PostgresStore, Read, Server, Snapshot,
    SqliteReader, SqliteStore, Store, Tenant, fsck,
};
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A gateway's databases in SQLite, of version 1 and so on.
const GATEWAYS: [&str; 1] = [include_str!("../vectors/gateway-1.sql")];
/// A node's outboxes.
const OUTBOXES: [&str; 1] = [include_str!("../vectors/outbox-1.sql")];
/// Gateways' databases in PostgreSQL.
const SERVERS: [&str; 2] = [include_str!("../vectors/postgres-1.sql"), include_str!("../vectors/postgres-2.sql")];

// The key under which all of them are sealed.
const KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111\n";

const PEER: Peer = Peer { network: ol_protocol::NetworkId([1; 32]), gateway: ol_protocol::GatewayId([2; 32]) };

struct Place(TempDir);

impl Place {
    // A folder with the key, and a database if there is one.
    fn new(dump: Option<&str>) -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        fs::write(place.key(), KEY).expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(place.key(), private).expect("set");
        if let Some(dump) = dump {
            Connection::open(place.path()).expect("opened").execute_batch(dump).expect("a dump");
        }
        place
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("old.db")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("old.db.key")
    }

    fn store(&self) -> Result<SqliteStore, Error> {
        SqliteStore::open(&self.path(), identity(), Options::default())
    }

    fn outbox(&self) -> Result<Outbox, Error> {
        Outbox::open(&self.path(), node(10), None)
    }

    fn asked<T: rusqlite::types::FromSql>(&self, question: &str) -> Vec<T> {
        let connection = Connection::open(self.path()).expect("opened");
        let mut statement = connection.prepare(question).expect("a question");
        let rows = statement.query_map([], |row| row.get(0)).expect("asked");
        rows.collect::<Result<_, _>>().expect("read")
    }

    fn version(&self) -> usize {
        self.asked::<i64>("PRAGMA user_version").first().map_or(0, |version| *version as usize)
    }

    fn schema(&self) -> Vec<String> {
        self.asked("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
    }

    fn dump(&self) -> String {
        let mut dump = String::new();
        for table in self.asked::<String>("SELECT sql FROM sqlite_master WHERE type = 'table' ORDER BY name") {
            dump.push_str(&format!("{table};\n"));
        }
        for name in self.asked::<String>("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name") {
            let columns = self.asked::<String>(&format!("SELECT name FROM pragma_table_info('{name}')"));
            let values: Vec<String> = columns.iter().map(|column| format!("quote({column})")).collect();
            for row in self.asked::<String>(&format!("SELECT {} FROM {name}", values.join(" || ', ' || "))) {
                dump.push_str(&format!("INSERT INTO {name} VALUES ({row});\n"));
            }
        }
        for index in self.asked::<String>("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL") {
            dump.push_str(&format!("{index};\n"));
        }
        for pragma in ["application_id", "user_version"] {
            let value = self.asked::<i64>(&format!("PRAGMA {pragma}"));
            dump.push_str(&format!("PRAGMA {pragma} = {};\n", value[0]));
        }
        dump
    }
}

fn held() -> Vec<Record> {
    let audit = verdict(AttemptId { task: task(2), attempt: 0 });
    [vec![Record::Genesis(genesis()), top_up(1)], tasks(10, 0, 0, 12), vec![audit, change(2), close(0)]].concat()
}

fn facts() -> Facts {
    Facts { task: task(1), bytes: br#"{"salt":"00"}"#.to_vec() }
}

fn tenant() -> Tenant {
    Tenant {
        tenant: TenantId([7; 16]),
        name: "a tenant".into(),
        key_hash: [8; 32],
        created: Timestamp(5),
        requests_per_minute: Some(60),
        tokens_per_minute: None,
    }
}

fn snapshot(size: u64) -> Snapshot {
    Snapshot { epoch: Epoch(0), size, bytes: vec![3; 10] }
}

fn fill(store: &mut impl Store) {
    let log = store.append(&held()).expect("appended");
    let job = Job {
        payloads: vec![payload(1, 100)],
        facts: vec![facts()],
        tenants: vec![tenant()],
        snapshot: Some(snapshot(log.size)),
        checkpoint: Some(note(0, &log)),
        ..Job::default()
    };
    store.commit_one(job).expect("written");
}

fn check(read: &dyn Read, of: &str) {
    let records = held();
    let (size, root) = (records.len() as u64, root_of(&records));
    let text = note(0, &ol_store::Appended { first_index: 0, size, root, expired: 0 }).text;
    assert_eq!(read.network().expect("read"), Some(network()), "{of}");
    assert_eq!(read.root(size).expect("read"), Some(root), "{of}");
    assert_eq!(read.page(0..size).expect("read"), records, "{of}");
    assert_eq!(read.facts(task(1)).expect("read"), Some(facts()), "{of}");
    assert_eq!(read.payload(payload(1, 100).attempt).expect("read"), Some(payload(1, 100)), "{of}");
    assert_eq!(read.tenants().expect("read"), [tenant()], "{of}");
    assert_eq!(read.latest_snapshot().expect("read"), Some(snapshot(size)), "{of}");
    assert_eq!(read.latest_checkpoint().expect("read"), Some(Note { epoch: Epoch(0), size, text }), "{of}");
    let found = read.task(task(2)).expect("read");
    assert_eq!((found.attempts.len(), found.audits.len()), (1, 1), "{of}");
    assert_eq!(read.next_sequences().expect("read"), [(node(10), 1)], "{of}");
}

fn check_outbox(place: &Place, of: &str) {
    let outbox = place.outbox().expect("opened");
    assert_eq!(outbox.unacked(PEER).expect("read"), [(1, b"second".to_vec())], "{of}");
    assert_eq!(outbox.next_sequence(PEER).expect("read"), 2, "{of}");
    assert_eq!(outbox.payload(PEER, payload(1, 100).attempt).expect("read"), Some(payload(1, 100)), "{of}");
    let kept = OutboxReader::open(&place.path()).expect("opened").batches(PEER).expect("read");
    let signed = KeptBatch { sequence: 0, countersigned: Some(b"signed".to_vec()) };
    assert_eq!(kept, [signed, KeptBatch { sequence: 1, countersigned: None }], "{of}");
}

fn fill_outbox(mut outbox: Outbox) {
    outbox.put(PEER, 0, b"first", &[payload(1, 100)]).expect("written");
    outbox.put(PEER, 1, b"second", &[]).expect("written");
    outbox.ack(PEER, 0, b"signed").expect("written");
}

#[test]
fn a_gateways_database_of_every_released_format_opens_with_what_it_held() {
    let fresh = Place::new(None);
    drop(fresh.store().expect("made"));
    for (dump, version) in GATEWAYS.iter().zip(1..) {
        let (old, of) = (Place::new(Some(dump)), format!("format {version}"));
        assert_eq!(old.version(), version, "{of}");
        check(old.store().expect(&of).read(), &of);
        assert_eq!(fsck(&SqliteReader::open(&old.path()).expect(&of)), [], "{of}");
        assert_eq!(old.version(), GATEWAYS.len(), "{of}");
        assert_eq!(old.schema(), fresh.schema(), "{of}: the tables changed without a new version");
    }
    assert_eq!(fresh.version(), GATEWAYS.len(), "a new version needs a vector: see CONTRIBUTING.md");
}

#[test]
fn an_outbox_of_every_released_format_opens_with_what_it_held() {
    let fresh = Place::new(None);
    drop(fresh.outbox().expect("made"));
    for (dump, version) in OUTBOXES.iter().zip(1..) {
        let (old, of) = (Place::new(Some(dump)), format!("format {version}"));
        assert_eq!(old.version(), version, "{of}");
        check_outbox(&old, &of);
        assert_eq!(old.version(), OUTBOXES.len(), "{of}");
        assert_eq!(old.schema(), fresh.schema(), "{of}: the tables changed without a new version");
    }
    assert_eq!(fresh.version(), OUTBOXES.len(), "a new version needs a vector: see CONTRIBUTING.md");
}

#[test]
fn a_newer_format_than_the_programs_is_refused_and_left_alone() {
    let refuses = |dump: &str, known: usize, open: fn(&Place) -> Result<(), Error>| {
        let newer = Place::new(Some(&format!("{dump}PRAGMA user_version = {};", known + 1)));
        let before = fs::read(newer.path()).expect("read");
        assert!(matches!(open(&newer), Err(Error::Newer { .. })));
        assert_eq!(fs::read(newer.path()).expect("read"), before);
    };
    refuses(GATEWAYS[GATEWAYS.len() - 1], GATEWAYS.len(), |place| place.store().map(drop));
    refuses(OUTBOXES[OUTBOXES.len() - 1], OUTBOXES.len(), |place| place.outbox().map(drop));
}

#[test]
#[ignore = "needs PostgreSQL, named by OPENLEDGER_POSTGRES"]
fn a_postgres_database_of_every_released_format_opens_with_what_it_held() {
    let (fresh, key) = (Database::new(), Place::new(None));
    let open = |at: &Database| PostgresStore::open(&server(at), &key.key(), identity());
    drop(open(&fresh).expect("made"));
    for (dump, version) in SERVERS.iter().zip(1..) {
        let (old, of) = (Database::new(), format!("format {version}"));
        sql(&old.url(), dump);
        assert_eq!(server_version(&old), version.to_string(), "{of}");
        check(open(&old).expect(&of).read(), &of);
        assert_eq!(server_version(&old), SERVERS.len().to_string(), "{of}");
        assert_eq!(server_schema(&old), server_schema(&fresh), "{of}: the tables changed without a new version");
    }
    assert_eq!(server_version(&fresh), SERVERS.len().to_string(), "a new version needs a vector: see CONTRIBUTING.md");
}

fn server(of: &Database) -> Server {
    of.url().parse().expect("a URL")
}

fn server_version(of: &Database) -> String {
    sql(&of.url(), "SELECT max(number) FROM openledger.versions").remove(0)
}

fn server_schema(of: &Database) -> Vec<String> {
    let columns = "SELECT concat_ws(' ', table_name, column_name, ordinal_position, data_type, is_nullable, column_default, is_identity)
        FROM information_schema.columns WHERE table_schema = 'openledger' ORDER BY 1";
    let indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'openledger' ORDER BY 1";
    [sql(&of.url(), columns), sql(&of.url(), indexes)].concat()
}

#[test]
#[ignore = "writes into the source: for whoever makes a new version of a format"]
fn write_the_vectors_that_are_missing() {
    let sqlite = Place::new(None);
    fill(&mut sqlite.store().expect("made"));
    write_new("gateway", sqlite.version(), &sqlite.dump());
    let outbox = Place::new(None);
    fill_outbox(outbox.outbox().expect("made"));
    write_new("outbox", outbox.version(), &outbox.dump());
    let (database, key) = (Database::new(), Place::new(None));
    fill(&mut PostgresStore::open(&server(&database), &key.key(), identity()).expect("made"));
    let mut dump = Command::new("pg_dump");
    let dumped =
        dump.args(["--inserts", "--no-owner", "--schema=openledger", &database.url()]).output().expect("dumped");
    let text = String::from_utf8(dumped.stdout).expect("text");
    // What only psql understands, and what says nothing.
    let useful = |line: &&str| !line.starts_with('\\') && !line.starts_with("--") && !line.is_empty();
    let text = text.lines().filter(useful).fold(String::new(), |text, line| text + line + "\n");
    let version = server_version(&database).parse().expect("a number");
    write_new("postgres", version, &text);
}

fn write_new(name: &str, version: usize, dump: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let path = folder.join(format!("{name}-{version}.sql"));
    // An empty file is a place that was made for it.
    if fs::metadata(&path).is_ok_and(|file| file.len() > 0) {
        return;
    }
    fs::write(path, dump).expect("written");
}
