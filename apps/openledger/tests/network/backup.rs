//! A gateway's log copied while it runs, and put back elsewhere: continued only where nothing that was signed is missing.

use crate::http::chat;
use crate::process::{Ended, Gateway, Node, Process, eventually, openledger, run};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Long enough to copy a log and end its gateway between two checkpoints.
const EPOCH_SECONDS: &str = "4";

struct Network {
    gateway: Gateway,
    node: Node,
    folder: tempfile::TempDir,
}

impl Network {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = ["--listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0", "--epoch-seconds", EPOCH_SECONDS];
        let gateway = Gateway::with(&folder.path().join("gateway"), &listen);
        let node = Node::join(&gateway.ticket, &folder.path().join("node"));
        gateway.wait_for_nodes(1);
        Self { gateway, node, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn ask(&self, count: u64) {
        (0..count).for_each(|seed| drop(self.gateway.api().chat(&chat("hello", 4, seed)).good()));
    }

    fn backup(&self, name: &str) -> Ended {
        run(&["ledger", "backup", &self.path(name), "--data-dir", self.gateway.folder.to_str().unwrap()])
    }

    fn address(&self) -> String {
        format!("http://{}/log", self.gateway.address)
    }

    fn checkpoint(&self) -> String {
        self.gateway.api().get("/log/checkpoint").text()
    }

    // Waits for the checkpoint of the epoch after the open one: everything that was asked before is under it.
    fn wait_for_checkpoints(&self) -> String {
        let epoch = self.gateway.metric("epoch");
        let line = format!("\nepoch {}\n", epoch + 1);
        eventually("two checkpoints", || Some(self.checkpoint()).filter(|note| note.contains(&line)))
    }

    fn mirror(&self, name: &str) {
        let ended = run(&["ledger", "mirror", &self.address(), &self.path(name)]);
        assert!(ended.status.success(), "{}{}", ended.out, ended.err);
    }

    // A data folder with the gateway's keys, as its operator kept them.
    fn keys(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(folder.join("network")).unwrap();
        for entry in std::fs::read_dir(self.gateway.folder.join("network")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "key" || end == "secret") {
                std::fs::copy(&path, folder.join("network").join(path.file_name().unwrap())).unwrap();
            }
        }
        folder
    }

    fn restore(&self, backup: &str, folder: &Path, more: &[&str]) -> Ended {
        let file = self.path(backup);
        run(&[&["ledger", "restore", &file, "--data-dir", folder.to_str().unwrap()], more].concat())
    }
}

fn has_log(folder: &Path) -> bool {
    let network = folder.join("network");
    assert!(!network.join("restoring").exists());
    network.join("gateway.db").exists()
}

fn good(ended: &Ended) -> &str {
    assert!(ended.status.success(), "{}{}", ended.out, ended.err);
    &ended.out
}

#[test]
fn a_backup_under_traffic_and_a_mirror_make_a_log_that_goes_on_elsewhere() {
    let mut network = Network::new();
    network.ask(4);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                network.ask(1);
            }
        });
        let ended = network.backup("backup");
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap();
        assert!(good(&ended).contains("gateway.db.key gateway.key gateway.secret"), "{}", ended.out);
    });
    let again = network.backup("backup");
    assert!(again.complaint().contains("exists"), "{}", again.err);
    // Its facts will be in no backup.
    let body = chat("what is lost?", 4, 7);
    let response = network.gateway.api().chat(&body);
    let task = response.json()["openledger"]["receipt"].as_str().unwrap().to_owned();
    network.mirror("copy");
    let kept = network.wait_for_checkpoints();
    network.mirror("copy");
    network.gateway.process.kill();
    let copy = network.path("copy");
    assert_eq!(std::fs::read_to_string(Path::new(&copy).join("checkpoint")).unwrap(), kept);
    assert!(good(&run(&["verify", "--log", &copy])).ends_with("the log holds\n"));

    let without_keys = network.folder.path().join("empty");
    let ended = network.restore("backup", &without_keys, &["--public-log", &copy]);
    assert!(ended.complaint().contains("*.key and *.secret files"), "{}", ended.err);
    assert!(!has_log(&without_keys));
    let elsewhere = network.keys("elsewhere");
    // Of an attempt that was killed.
    std::fs::create_dir(elsewhere.join("network/restoring")).unwrap();
    std::fs::write(elsewhere.join("network/restoring/gateway.db"), "half of a log").unwrap();
    let ended = network.restore("backup", &elsewhere, &["--public-log", &copy]);
    assert!(good(&ended).contains("later records, checked"), "{}", ended.out);
    let twice = network.restore("backup", &elsewhere, &["--public-log", &copy]);
    assert!(twice.complaint().contains("exists"), "{}", twice.err);

    network.gateway.folder = elsewhere;
    network.gateway.again();
    network.gateway.fsck();
    network.gateway.wait_for_nodes(1);
    network.ask(4);
    let (receipt, request, answer) = (network.path("receipt"), network.path("request"), network.path("answer"));
    std::fs::write(&receipt, network.gateway.api().receipt(&task).to_string()).unwrap();
    std::fs::write(&request, body.to_string()).unwrap();
    std::fs::write(&answer, &response.body).unwrap();
    let ended = run(&["verify", &receipt, "--request", &request, "--response", &answer]);
    assert!(good(&ended).contains("ok      these are the bytes of the response"), "{}", ended.out);
    network.wait_for_checkpoints();
    let file = network.path("kept");
    std::fs::write(&file, &kept).unwrap();
    let ended = run(&["verify", "--log", &network.address(), "--since", &file]);
    assert!(good(&ended).contains("the log goes on from the checkpoint"), "{}", ended.out);
    network.mirror("copy");
    // Of a tile that grows only the last form is kept.
    assert_eq!(std::fs::read_dir(Path::new(&copy).join("tile/entries/000.p")).unwrap().count(), 1);
    assert!(!Path::new(&copy).join("unchecked").exists());
    let claims = ["node", "claims", &copy, "--data-dir", &network.path("node"), "--network"];
    let id = network.gateway.ticket.rsplit_once('/').unwrap().1;
    assert!(good(&run(&[&claims[..], &[id]].concat())).contains("as it signed them"));
    assert!(network.node.process.terminate().success());
    network.gateway.fsck();
}

#[test]
fn a_backup_that_lacks_what_was_signed_is_read_and_never_continued() {
    let mut network = Network::new();
    network.ask(2);
    network.wait_for_checkpoints();
    network.mirror("early");
    network.wait_for_checkpoints();
    good(&network.backup("backup"));
    network.ask(2);
    let newest = network.path("newest");
    std::fs::write(&newest, network.wait_for_checkpoints()).unwrap();
    network.mirror("late");
    let folder = network.keys("folder");
    let alive = network.restore("backup", &folder, &["--public-log", &network.address()]);
    assert!(alive.complaint().contains("a gateway runs at"), "{}", alive.err);
    network.gateway.process.kill();
    // A log that went back is not copied over a later one.
    let (early, late) = (network.path("early"), network.path("late"));
    let rolled_back = run(&["ledger", "mirror", &early, &late]);
    assert!(rolled_back.complaint().contains("the copy stays as it was"), "{}", rolled_back.err);
    assert!(!Path::new(&late).join("unchecked").exists());
    assert!(good(&run(&["verify", "--log", &late, "--since", &newest])).contains("the log goes on"));

    let old = network.restore("backup", &folder, &["--checkpoint", &newest]);
    assert!(old.complaint().contains("name a copy of the log that has the others"), "{}", old.err);
    let before = format!("{early}/checkpoint");
    let before = network.restore("backup", &folder, &["--checkpoint", &before]);
    assert!(before.complaint().contains("name the newest that the gateway signed"), "{}", before.err);
    let stale = network.restore("backup", &folder, &["--public-log", &early]);
    assert!(stale.complaint().contains("name a newer copy"), "{}", stale.err);
    assert!(!has_log(&folder));

    let ended = network.restore("backup", &folder, &[]);
    assert!(good(&ended).contains("NOT continued"), "{}", ended.out);
    let data = folder.to_str().unwrap();
    assert!(good(&run(&["ledger", "fsck", "--data-dir", data])).contains(" 0 faults"));
    assert!(good(&run(&["ledger", "balances", "--data-dir", data])).contains("tenant"));
    let mut gateway = Process::start(openledger(&["gateway", "--data-dir", data, "--listen", "127.0.0.1:0"]));
    assert!(!gateway.wait().success());
    assert!(gateway.err.all().contains("can be read, not continued"), "{}", gateway.err.all());

    // In place of the log that is known to be newer, nothing is put at all.
    let there = network.gateway.folder.clone();
    let ended = network.restore("backup", &there, &["--public-log", &early]);
    assert!(ended.complaint().contains("can't take a backup"), "{}", ended.err);
}
