//! The public log: read by a program that is not ours, and by ours with every file in doubt.

use crate::http::{Api, chat};
use crate::process::{Gateway, Node, eventually, run};
use ol_protocol::checkpoint::base64;
use ol_protocol::ticket::Ticket;
use ol_protocol::tile::{Content, Tile, entries};
use signed_note::{Note, StandardVerifier, VerifierList, key_id};
use std::path::{Path, PathBuf};
use tlog_tiles::{
    Checkpoint, Error, HashReader, TileHashReader, TileReader, check_record, check_tree, prove_record, prove_tree,
    record_hash, tree_hash,
};

/// More records than one tile holds.
const RECORDS: u64 = 260;

struct Log {
    gateway: Gateway,
    _node: Node,
}

impl Log {
    fn new(folder: &Path) -> Self {
        let gateway = Gateway::start(&folder.join("gateway"), &[]);
        let node = Node::join(&gateway.ticket, &folder.join("node"));
        gateway.wait_for_nodes(1);
        Self { gateway, _node: node }
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let response = self.gateway.api().get(&format!("/log/{path}"));
        assert_eq!(response.status, 200, "{path}: {}", String::from_utf8_lossy(&response.body));
        response.body
    }

    fn checkpoint(&self) -> (Vec<u8>, Checkpoint) {
        let note = eventually("a checkpoint", || {
            let response = self.gateway.api().get("/log/checkpoint");
            (response.status == 200).then_some(response.body)
        });
        let ticket: Ticket = self.gateway.ticket.parse().unwrap();
        let key = [&[1], &ticket.gateway.0[..]].concat();
        let opened = Note::from_bytes(&note).unwrap();
        let name = std::str::from_utf8(opened.text()).unwrap().lines().next().unwrap().to_owned();
        let verifier = StandardVerifier::new(&format!("{name}+{:08x}+{}", key_id(&name, &key), base64(&key))).unwrap();
        let (signed, unknown) = opened.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
        assert_eq!((signed.len(), unknown.len()), (1, 0));
        let checkpoint = Checkpoint::from_bytes(opened.text()).unwrap();
        assert_eq!(checkpoint.origin(), name);
        (note, checkpoint)
    }

    fn grow(&self) {
        for seed in 0..RECORDS {
            self.gateway.api().chat(&chat("hello", 1, seed)).good();
        }
        eventually("a log of two tiles", || (self.checkpoint().1.size() > RECORDS).then_some(()));
    }

    fn verify(&self, source: &str, more: &[&str]) -> (bool, String) {
        let ended = run(&[&["verify", "--log", source], more].concat());
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
        (ended.status.success(), ended.out + &ended.err)
    }
}

// Reads tiles as the standard names them: without the height, which is always 8.
struct Served(Api);

impl TileReader for Served {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, Error> {
        let path = |tile: &tlog_tiles::Tile| tile.path().replacen("tile/8/", "/log/tile/", 1);
        Ok(tiles.iter().map(|tile| self.0.get(&path(tile)).body).collect())
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

#[test]
fn an_independent_reader_proves_every_record_and_the_growth_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::new(folder.path());
    let (old_note, old) = log.checkpoint();
    log.grow();
    let (_, checkpoint) = log.checkpoint();
    let (size, root) = (checkpoint.size(), *checkpoint.hash());
    let tiles = Served(log.gateway.api());
    let hashes = TileHashReader::new(size, root, &tiles);
    assert_eq!(tree_hash(size, &hashes).unwrap(), root);
    let mut index = 0;
    for tile in Tile::all(Content::Entries, size) {
        let bytes = log.get(&tile.path());
        for record in entries(&bytes, tile.width).unwrap() {
            // Every proof fetches the tiles that it needs again.
            if index % 16 == 0 || index + 1 == size {
                let proof = prove_record(size, index, &hashes).unwrap();
                check_record(&proof, size, root, index, record_hash(record)).unwrap();
            }
            let leaf = hashes.read_hashes(&[tlog_tiles::stored_hash_index(0, index)]);
            assert_eq!(leaf.unwrap(), [record_hash(record)], "record {index}");
            index += 1;
        }
    }
    assert_eq!(index, size);
    let grown = prove_tree(size, old.size(), &hashes).unwrap();
    check_tree(&grown, size, root, old.size(), *old.hash()).unwrap();

    let kept = folder.path().join("kept");
    std::fs::write(&kept, &old_note).unwrap();
    let ticket: Ticket = log.gateway.ticket.parse().unwrap();
    let (network, url) = (ticket.network.to_string(), format!("http://{}/log", log.gateway.address));
    let more = ["--network", &network, "--since", kept.to_str().unwrap()];
    let (holds, said) = log.verify(&url, &more);
    assert!(holds && said.contains("the log holds") && said.contains("that you kept"), "{said}");
    let (holds, said) = log.verify(&url, &["--epoch", "1"]);
    assert!(holds && said.contains("epoch 1: "), "{said}");
    let (holds, said) = log.verify(&url, &["--epoch", "1000000"]);
    assert!(!holds && said.contains("not under the log's checkpoint yet"), "{said}");
    let (holds, said) = log.verify(&url, &["--network", &"ab".repeat(32)]);
    assert!(!holds && said.contains("not of abab"), "{said}");
}

fn copy(log: &Log, to: &Path) -> Vec<PathBuf> {
    let (note, checkpoint) = log.checkpoint();
    let levels = (0..2).map(|level| Content::Hashes { level });
    let tiles = levels.chain([Content::Entries]).flat_map(|content| Tile::all(content, checkpoint.size()));
    let mut files: Vec<(String, Vec<u8>)> = tiles.map(|tile| (tile.path(), log.get(&tile.path()))).collect();
    files.push(("checkpoint".into(), note));
    let write = |(path, bytes): (String, Vec<u8>)| {
        let path = to.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    };
    files.into_iter().map(write).collect()
}

#[test]
fn a_log_with_a_file_that_is_changed_cut_or_gone_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::new(folder.path());
    log.grow();
    let to = folder.path().join("log");
    let files = copy(&log, &to);
    assert!(files.len() >= 6, "{files:?}");
    let source = to.to_str().unwrap();
    let (holds, said) = log.verify(source, &[]);
    assert!(holds, "{said}");
    for file in files {
        let good = std::fs::read(&file).unwrap();
        let wrong = |bytes: Option<Vec<u8>>, what: &str| {
            match bytes {
                Some(bytes) => std::fs::write(&file, bytes).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            let (holds, said) = log.verify(source, &[]);
            assert!(!holds && said.contains("the log does NOT hold"), "{} {what}: {said}", file.display());
        };
        for at in [1, good.len() / 2, good.len() - 3] {
            let mut changed = good.clone();
            changed[at] ^= 1;
            wrong(Some(changed), &format!("with byte {at} changed"));
        }
        wrong(Some(good[..good.len() - 2].to_vec()), "cut");
        wrong(Some([&good[..], b"0"].concat()), "prolonged");
        wrong(None, "gone");
        std::fs::write(&file, &good).unwrap();
    }
    // The checkpoint of another log is not an older one of this.
    let other = Log::new(&folder.path().join("other"));
    let kept = folder.path().join("kept");
    std::fs::write(&kept, other.checkpoint().0).unwrap();
    let (holds, said) = log.verify(source, &["--since", kept.to_str().unwrap()]);
    assert!(!holds && said.contains("kept"), "{said}");
}

#[test]
fn a_node_finds_what_the_gateway_signed_for_it_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::new(folder.path());
    let answers = [1, 2, 3].map(|seed| log.gateway.api().chat(&chat("hello", 4, seed)).good());
    for answer in answers {
        let receipt = answer["openledger"]["receipt"].as_str().unwrap().to_owned();
        log.gateway.api().receipt_when(&receipt, |it| it["attempts"][0]["log"].is_object());
    }
    let ticket: Ticket = log.gateway.ticket.parse().unwrap();
    let (network, url) = (ticket.network.to_string(), format!("http://{}/log", log.gateway.address));
    let data = folder.path().join("node");
    let data = data.to_str().unwrap();
    let claims =
        |source: &str, network: &str| run(&["node", "claims", source, "--network", network, "--data-dir", data]);
    let ended = eventually("all acknowledgements", || {
        let ended = claims(&url, &network);
        assert!(ended.status.success(), "{}", ended.err);
        (!ended.out.contains("open ")).then_some(ended)
    });
    assert!(ended.out.contains("are in the log as it signed them"), "{}", ended.out);
    assert!(ended.out.contains("3 receipts of this node in the log"), "{}", ended.out);
    // Another network's log says nothing about this one.
    let other = claims(&url, &"ab".repeat(32));
    assert!(other.complaint().contains("not of abab"), "{}", other.err);
    let nowhere = claims("http://127.0.0.1:1/log", &network);
    assert!(nowhere.complaint().contains("cannot fetch checkpoint"), "{}", nowhere.err);
}

#[test]
fn what_is_not_in_the_log_is_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::new(folder.path());
    let size = log.checkpoint().1.size();
    let beyond = format!("tile/0/000.p/{}", size + 100);
    for path in
        ["tile/0/000", &beyond, "tile/1/000", "tile/9/000", "tile/0/0", "", "tile/", "nothing", "tile/0/../../x"]
    {
        let response = log.gateway.api().get(&format!("/log/{path}"));
        assert_eq!(response.status, 404, "{path}");
    }
}
