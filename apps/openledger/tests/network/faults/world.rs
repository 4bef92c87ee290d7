//! A network of processes that outlives its faults.

use super::check::{Log, Loss, Outbox};
use super::cluster::Cluster;
use super::disk::Disk;
use super::power::{Lost, Moment, Recorder, files_of};
use super::random::Random;
use super::traffic::{Answer, Traffic};
use crate::process::{Gateway, Node, Process, eventually, openledger, run};
use crate::proxy::Proxy;
use ol_protocol::NodeId;
use ol_protocol::ticket::Ticket;
use ol_store::{Peer, PostgresReader};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const NODES: usize = 3;

/// A node that leaves something of the machine to others.
const SMALL: [&str; 4] = ["--slots", "2", "--threads", "1"];

/// Room for some rounds' log, and little enough to be filled in a moment.
const DISK_MEBIBYTES: u32 = 96;

/// Results of a node wait a second for their batch, and the batch for the disk.
const UNBATCHED: Duration = Duration::from_millis(2_500);

/// Some commits before SQLite carries the log over: 1,024 pages of 16 KiB with their heads, less a few.
const LONG_LOG: u64 = 1_000 * 16_408;

/// What a database may be found as, each time the power is lost.
const FINDS: u32 = 3;

/// A gateway, nodes and a referee, each behind a proxy.
pub(super) struct World {
    pub(super) gateway: Gateway,
    pub(super) members: Vec<Member>,
    // The server that the log is in, if it isn't a file.
    cluster: Option<Cluster>,
    peer: Peer,
    seen: Log,
    /// Where everything is.
    pub(super) folder: PathBuf,
    /// Where the gateway's data is.
    pub(super) disk: Disk,
    /// Where the first node's data is.
    pub(super) node_disk: Disk,
}

/// A node with its way to the gateway.
pub(super) struct Member {
    pub(super) node: Node,
    pub(super) proxy: Proxy,
    folder: PathBuf,
    ticket: String,
    settings: &'static [&'static str],
}

impl Member {
    fn join(gateway: &Gateway, folder: &Path, settings: &'static [&'static str]) -> Self {
        let (target, rest) = gateway.ticket.trim_start_matches("ol1:").split_once('/').unwrap();
        let proxy = Proxy::to(target.to_owned());
        let ticket = format!("ol1:{}/{rest}", proxy.address);
        let node = Node::of(Node::command(&[], &ticket, folder, settings));
        Self { node, proxy, folder: folder.to_path_buf(), ticket, settings }
    }

    /// Ends it as its owner does.
    pub(super) fn end(&mut self) {
        let status = self.node.process.terminate();
        assert!(status.success(), "{}", self.node.process.err.all());
    }

    /// Begins it again after its end.
    pub(super) fn again(&mut self) {
        self.again_as(self.command(&[]));
    }

    /// What begins it, run by another program if one is named.
    pub(super) fn command(&self, runner: &[String]) -> Command {
        Node::command(runner, &self.ticket, &self.folder, self.settings)
    }

    /// Begins it again by a command.
    pub(super) fn again_as(&mut self, command: Command) {
        is_calm(&self.node.process);
        self.node = Node::of(command);
    }

    /// Kills it; what it may have lost.
    pub(super) fn kill(&mut self) -> Loss {
        self.node.process.kill();
        self.loss()
    }

    /// What it loses if it is killed now.
    pub(super) fn loss(&self) -> Loss {
        Loss { node: self.node.id.clone(), since: Instant::now() - UNBATCHED }
    }

    fn outbox(&self) -> PathBuf {
        self.folder.join("node/outbox.db")
    }
}

// Whatever is done to a process, it doesn't panic.
fn is_calm(process: &Process) {
    assert!(!process.err.all().contains("panicked"), "a process panicked: {}", process.err.all());
}

impl World {
    /// In a new folder, with its log in a file.
    pub(super) fn new(folder: &Path) -> Self {
        Self::with(folder, None)
    }

    /// In a new folder, with its log in a PostgreSQL server of its own.
    pub(super) fn on_server(folder: &Path) -> Self {
        Self::with(folder, Some(Cluster::new(&folder.join("server"))))
    }

    fn with(folder: &Path, cluster: Option<Cluster>) -> Self {
        let disk = Disk::mount(&folder.join("gateway-disk"), DISK_MEBIBYTES);
        let node_disk = Disk::mount(&folder.join("node-disk"), DISK_MEBIBYTES);
        let store = cluster.as_ref().map(|cluster| database_at(&cluster.address()));
        let more: Vec<&str> = store.iter().flat_map(|url| ["--store", url.as_str()]).collect();
        let mut gateway = Gateway::start(&disk.path().join("gateway"), &more);
        gateway.store = store;
        let place = |at: usize| match at {
            0 => node_disk.path().join("node-0"),
            _ => folder.join(format!("node-{at}")),
        };
        let mut members: Vec<Member> = (0..NODES).map(|at| Member::join(&gateway, &place(at), &SMALL)).collect();
        gateway.wait_for_nodes(NODES as u64);
        members.push(Member::join(&gateway, &gateway.folder, &["--referee", "--threads", "1"]));
        let ticket: Ticket = gateway.ticket.parse().unwrap();
        let peer = Peer { network: ticket.network, gateway: ticket.gateway };
        let (seen, folder) = (Log::default(), folder.to_path_buf());
        let mut world = Self { gateway, members, cluster, peer, seen, folder, disk, node_disk };
        // `node claims` reads up to a checkpoint: the first one is there from here on.
        eventually("the first epoch's end", || (world.gateway.metric("epoch") > 0).then_some(()));
        world.end_gateway();
        world
    }

    /// The nodes that take tasks.
    pub(super) fn nodes(&mut self) -> &mut [Member] {
        &mut self.members[..NODES]
    }

    pub(super) fn node(&mut self, random: &mut Random) -> &mut Member {
        &mut self.members[random.between(0, NODES as u64) as usize]
    }

    /// The server that the log is in.
    pub(super) fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("a world on a server")
    }

    /// From its next start on the gateway finds its database at another address; the URL that it had.
    pub(super) fn store_at(&mut self, address: &str) -> String {
        self.gateway.store.replace(database_at(address)).expect("a world on a server")
    }

    fn log(&self) -> Log {
        let Some(cluster) = &self.cluster else { return Log::read(&self.database()) };
        let key = self.gateway.folder.join("network/gateway.store.key");
        let server = database_at(&cluster.address()).parse().unwrap();
        Log::of(&PostgresReader::open(&server, &key, self.peer.gateway).unwrap())
    }

    fn database(&self) -> PathBuf {
        self.gateway.folder.join("network/gateway.db")
    }

    /// Begins the round of a fault that needs nothing special of the gateway.
    pub(super) fn begin(&mut self, random: &mut Random) -> Traffic {
        self.gateway.again();
        self.traffic(random)
    }

    /// Clients at work, some of whom have their answers.
    pub(super) fn traffic(&self, random: &mut Random) -> Traffic {
        let traffic = Traffic::start(&self.gateway.api(), random);
        traffic.more(random.between(1, 6) as usize);
        traffic
    }

    /// Kills the gateway.
    pub(super) fn kill_gateway(&mut self) {
        self.gateway.process.kill();
        is_calm(&self.gateway.process);
    }

    /// Tries to begin the gateway where it may be impossible; it says why, or goes on, and is killed.
    pub(super) fn try_gateway(&self, limit: Duration) -> bool {
        try_process(self.gateway.command_again(&[]), limit)
    }

    /// A gateway that can't begin ends with one of these words.
    pub(super) fn refused(&self, command: Command, words: &[&str]) {
        let mut process = Process::start(command);
        let status = process.wait();
        is_calm(&process);
        let said = process.err.all();
        let is_clear = words.iter().any(|word| said.contains(word));
        assert!(!status.success() && is_clear, "it ended without a clear word: {said}");
    }

    /// What begins a gateway on another folder, at other ports, with the same database.
    pub(super) fn gateway_at(&self, folder: &Path) -> Command {
        let anywhere = ["--listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0"];
        let mut command = openledger(&[&["gateway", "--data-dir", folder.to_str().unwrap()], &anywhere[..]].concat());
        command.envs(self.gateway.store.iter().map(|url| ("OPENLEDGER_STORE", url)));
        command
    }

    /// Copies the gateway's folder to a new one.
    pub(super) fn copy_gateway(&self, to: &Path) -> PathBuf {
        assert!(Command::new("cp").arg("-r").args([&self.gateway.folder, to]).status().unwrap().success());
        to.to_path_buf()
    }

    /// Tries likewise to begin another gateway, and another node, each for the first time.
    pub(super) fn try_start(&self, folder: &Path, limit: Duration) {
        let gateway = folder.join("gateway");
        let anywhere = ["--listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0", "--epoch-seconds", "2"];
        let args = [&["gateway", "--data-dir", gateway.to_str().unwrap()], &anywhere[..]].concat();
        try_process(openledger(&args), limit);
        // Nobody listens there: what it answered would be lost with its folder.
        let (_, rest) = self.gateway.ticket.split_once('/').unwrap();
        let ticket = format!("ol1:127.0.0.1:1/{rest}");
        try_process(Node::command(&[], &ticket, &folder.join("node"), &SMALL), limit);
    }

    /// Both begin where that was tried, and the gateway's log is whole.
    pub(super) fn start_and_remove(&self, folder: &Path) {
        let mut gateway = Gateway::start(&folder.join("gateway"), &[]);
        let mut node = Node::of(Node::command(&[], &gateway.ticket, &folder.join("node"), &SMALL));
        gateway.wait_for_nodes(1);
        node.process.kill();
        assert!(gateway.process.terminate().success(), "{}", gateway.process.err.all());
        fsck(&gateway.folder);
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// Begins the gateway anew so that what it writes is recorded.
    pub(super) fn record_gateway(&mut self, moment: Moment) -> Recorder {
        let recorder = Recorder::new(&self.database(), &self.folder.join("trace"));
        self.gateway.again_as(self.gateway.command_again(&recorder.runner(moment)));
        recorder
    }

    // SQLite's own view of the gateway's database, while nobody has it open.
    fn database_itself(&self) -> Connection {
        let database = Connection::open(self.database()).unwrap();
        database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        database.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        database.pragma_update(None, "synchronous", "OFF").unwrap();
        database
    }

    /// Empties SQLite's log beside the database, so that the next commit needs room on the disk.
    pub(super) fn empty_log(&self) {
        self.database_itself().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }

    /// Lengthens SQLite's log beside the database, without a change to what it says, until SQLite will soon carry it over.
    pub(super) fn lengthen_log(&self) {
        let database = self.database_itself();
        let [_, log] = files_of(&self.database());
        let missing = LONG_LOG.saturating_sub(std::fs::metadata(&log).unwrap().len());
        database.execute_batch("CREATE TABLE filler (bytes BLOB)").unwrap();
        database.execute("INSERT INTO filler VALUES (zeroblob(?1))", [missing.cast_signed()]).unwrap();
        database.execute_batch("DROP TABLE filler").unwrap();
    }

    /// Begins a node anew so that what it writes is recorded.
    pub(super) fn record_node(&mut self, at: usize, moment: Moment) -> Recorder {
        let trace = self.folder.join("trace");
        let member = &mut self.members[at];
        member.end();
        let recorder = Recorder::new(&member.outbox(), &trace);
        member.again_as(member.command(&recorder.runner(moment)));
        recorder
    }

    /// The gateway's power is lost, and comes back: its database is found in several ways, and it goes on from one.
    pub(super) fn gateway_power(&mut self, recorder: Recorder, limit: Duration, random: &mut Random) -> Lost {
        ended_within(&mut self.gateway.process, limit);
        is_calm(&self.gateway.process);
        let lost = recorder.power_lost();
        let outboxes: Vec<Outbox> =
            self.members[..NODES].iter().map(|it| Outbox::read(&it.outbox(), self.peer)).collect();
        let copy = self.folder.join("found");
        for _ in 0..FINDS {
            lost.leave(&copy.join("network"), random);
            std::fs::copy(self.database().with_extension("db.key"), copy.join("network/gateway.db.key")).unwrap();
            fsck(&copy);
            let log = Log::read(&copy.join("network/gateway.db"));
            log.extends(&self.seen);
            let lacks = outboxes.iter().find_map(|outbox| log.lacks_batches_of(outbox));
            assert_eq!(lacks, None, "after the power was lost");
        }
        lost.leave(&self.gateway.folder.join("network"), random);
        self.gateway.again();
        lost
    }

    /// A node's power is lost, and comes back.
    pub(super) fn node_power(
        &mut self,
        at: usize,
        recorder: Recorder,
        limit: Duration,
        random: &mut Random,
    ) -> (Loss, Lost) {
        let database = self.database();
        let member = &mut self.members[at];
        ended_within(&mut member.node.process, limit);
        let loss = member.loss();
        is_calm(&member.node.process);
        let lost = recorder.power_lost();
        let logged = Log::read(&database).batches_of(&member.node.id);
        let copy = self.folder.join("found");
        std::fs::create_dir_all(&copy).unwrap();
        for _ in 0..FINDS {
            lost.leave(&copy, random);
            Outbox::read(&copy.join("outbox.db"), self.peer).has_all(&logged);
        }
        lost.leave(&member.folder.join("node"), random);
        member.again();
        (loss, lost)
    }

    /// Lets everything come to rest, ends the gateway and checks all there is to check.
    pub(super) fn finish(&mut self, traffic: Traffic, losses: &[Loss]) -> Vec<Answer> {
        traffic.more(5);
        let answers = traffic.stop();
        self.come_to_rest(&answers, losses);
        self.claims();
        self.end_gateway();
        self.gateway.fsck();
        let log = self.log();
        log.extends(&self.seen);
        let nodes: BTreeSet<NodeId> = self.members.iter().map(|member| member.node.id.parse().unwrap()).collect();
        log.has_nothing_twice(&nodes);
        assert_eq!(log.lacks(&answers, losses), None);
        self.members.iter().for_each(|member| is_calm(&member.node.process));
        self.seen = log;
        answers
    }

    /// Receipts in the log at the end of the last round.
    pub(super) fn receipts(&self) -> usize {
        self.seen.receipts()
    }

    // Every node is back, and every batch in the log and acknowledged.
    fn come_to_rest(&mut self, answers: &[Answer], losses: &[Loss]) {
        let mut last = None;
        let rested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("rest", || {
                last = self.unrest(answers, losses);
                last.is_none().then_some(())
            });
        }));
        assert!(rested.is_ok(), "no rest: {last:?}");
    }

    fn unrest(&self, answers: &[Answer], losses: &[Loss]) -> Option<String> {
        let there = self.gateway.api().get("/health").json()["nodes"].as_u64();
        if there != Some(NODES as u64) {
            return Some(format!("{there:?} nodes are there"));
        }
        let outboxes: Vec<Outbox> =
            self.members[..NODES].iter().map(|it| Outbox::read(&it.outbox(), self.peer)).collect();
        if let Some(outbox) = outboxes.iter().find(|outbox| !outbox.waiting.is_empty()) {
            return Some(format!("batches {:?} of a node wait", outbox.waiting));
        }
        let log = self.log();
        let lacks = || outboxes.iter().find_map(|outbox| log.lacks_batches_of(outbox));
        log.lacks(answers, losses).or_else(lacks)
    }

    fn claims(&self) {
        let (log, network) = (format!("http://{}/log", self.gateway.address), self.peer.network.to_string());
        for member in &self.members[..NODES] {
            let folder = member.folder.to_str().unwrap();
            let ended = run(&["node", "claims", &log, "--network", &network, "--data-dir", folder]);
            assert!(ended.status.success(), "{}{}", ended.out, ended.err);
        }
    }

    fn end_gateway(&mut self) {
        let status = self.gateway.process.terminate();
        is_calm(&self.gateway.process);
        assert!(status.success(), "{}", self.gateway.process.err.all());
    }
}

fn database_at(address: &str) -> String {
    format!("postgres://postgres@{address}/postgres")
}

// The end of a process: its own, or by force after a while.
fn ended_within(process: &mut Process, limit: Duration) {
    let began = Instant::now();
    while process.is_running() && began.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(5));
    }
    if process.is_running() {
        process.kill();
    }
    // Until whoever recorded it is through, too.
    process.wait();
}

// Whether it runs after a while; if not, it has said why.
fn try_process(command: Command, limit: Duration) -> bool {
    let mut process = Process::start(command);
    let began = Instant::now();
    while process.is_running() && began.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(5));
    }
    let runs = process.is_running();
    if runs {
        process.kill();
    }
    process.wait();
    is_calm(&process);
    let said = process.err.all();
    let is_clear = ["no space left", "No space left", "is the disk full"].iter().any(|word| said.contains(word));
    assert!(runs || is_clear, "it ended without a clear word: {said}");
    runs
}

fn fsck(folder: &Path) {
    let ended = run(&["ledger", "fsck", "--data-dir", folder.to_str().unwrap()]);
    assert!(ended.status.success() && ended.out.contains(" 0 faults"), "{}{}", ended.out, ended.err);
}
