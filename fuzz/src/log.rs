//! What whoever reads a log over the network is given: checkpoints, tiles, proofs, records.

use crate::formats::{genesis, vector};
use crate::history::{bundle, key, records, reveal, split};
use crate::{Heap, Target};
use ol_protocol::Digest;
use ol_protocol::checkpoint::{Checkpoint, base64, unbase64};
use ol_protocol::merkle::{inclusion, leaf_hash, root, verify_inclusion};
use ol_protocol::record::{Close, Record};
use ol_protocol::tile::{Content, TILE_WIDTH, Tile, entries, hashes, push_entry};
use ol_roles::Settler;
use ol_roles::follower::Follower;
use ol_roles::settler::{Fault, Reveal};

/// Accounts of a log: some maps, with a few entries for each record.
const ACCOUNTS: Heap = Heap { fixed: 1 << 20, per_byte: 128 };

/// The targets.
pub const TARGETS: [Target; 9] = [
    Target { name: "checkpoint", seeds: || vec![vector("checkpoint")], read: read_note, heap: Heap::SMALL },
    Target { name: "checkpoint-text", seeds: || vec![text()], read: read_text, heap: Heap::SMALL },
    Target { name: "base64", seeds: || vec![b"AAEC/w==".to_vec()], read: read_base64, heap: Heap::SMALL },
    Target { name: "tile-path", seeds: paths, read: read_path, heap: Heap::SMALL },
    Target { name: "tile-entries", seeds: || vec![bundle(&records().0)], read: read_entries, heap: Heap::SMALL },
    Target { name: "tile-hashes", seeds: || vec![vec![7; 64]], read: read_hashes, heap: Heap::SMALL },
    Target { name: "proof", seeds: proofs, read: read_proof, heap: Heap::SMALL },
    Target { name: "follower", seeds: || vec![bundle(&records().0)], read: follow, heap: ACCOUNTS },
    Target { name: "settle", seeds: || vec![bundle(&records().0)], read: settle, heap: ACCOUNTS },
];

fn open(note: &str) -> Option<Checkpoint> {
    Checkpoint::open(note, genesis().network(), key(2).public()).ok()
}

fn example() -> Checkpoint {
    open(str::from_utf8(&vector("checkpoint")).expect("text")).expect("it is a vector")
}

fn text() -> Vec<u8> {
    example().text().into_bytes()
}

// Only what the gateway signed is a checkpoint of its.
fn read_note(bytes: &[u8]) {
    if let Some(opened) = str::from_utf8(bytes).ok().and_then(open) {
        assert_eq!(opened, example(), "a checkpoint that nobody signed");
    }
}

// A gateway that signs anything: whatever is read of it, is all that it says.
fn read_text(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let honest = example();
    let note = honest.sign(&key(2));
    let (_, line) = note.rsplit_once(' ').expect("a note ends with its signature");
    let mut signature = unbase64(line.trim_end()).expect("signatures are in base64");
    signature.truncate(4);
    signature.extend_from_slice(&key(2).sign_raw(bytes).0);
    let signed = format!("{text}\n\u{2014} {} {}\n", honest.origin(), base64(&signature));
    if let Some(opened) = open(&signed) {
        assert_eq!((opened.text().as_str(), opened.sign(&key(2))), (text, signed), "two forms of one checkpoint");
    }
}

fn read_base64(bytes: &[u8]) {
    assert_eq!(unbase64(&base64(bytes)).as_deref(), Some(bytes), "bytes that do not come back");
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Some(bytes) = unbase64(text) {
        assert_eq!(base64(&bytes), text, "two forms of the same bytes");
    }
}

fn paths() -> Vec<Vec<u8>> {
    ["tile/0/000", "tile/1/x001/x234/067", "tile/0/273.p/112", "tile/entries/x001/000.p/1"]
        .map(|path| path.as_bytes().to_vec())
        .to_vec()
}

fn read_path(bytes: &[u8]) {
    let Some(tile) = str::from_utf8(bytes).ok().and_then(Tile::parse) else { return };
    assert_eq!(tile.path().as_bytes(), bytes, "two names of one tile");
    let positions = tile.positions();
    assert_eq!(positions.end - positions.start, u64::from(tile.width), "a tile of another width");
    assert!(!tile.is_within(0) && tile.width > 0, "a tile of nothing");
    match tile.content {
        Content::Hashes { level } => assert!(level < 8 && tile.tree_level() < 64, "a level above every tree"),
        Content::Entries => assert!(tile.is_within(positions.end), "records that are there and not within"),
    }
}

fn read_entries(bytes: &[u8]) {
    let count = split(bytes).len().min(TILE_WIDTH as usize) as u16;
    for width in [0, 1, count, TILE_WIDTH as u16] {
        let Some(read) = entries(bytes, width) else { continue };
        assert_eq!(read.len(), usize::from(width), "another number of records");
        let mut written = Vec::new();
        read.iter().for_each(|entry| push_entry(&mut written, entry).expect("they were in a tile"));
        assert_eq!(written, bytes, "two forms of one tile");
    }
}

fn read_hashes(bytes: &[u8]) {
    for width in [1, (bytes.len() / 32).min(256) as u16, TILE_WIDTH as u16] {
        let Some(read) = hashes(bytes, width) else { continue };
        assert_eq!(read.iter().flat_map(|hash| hash.0).collect::<Vec<u8>>(), bytes, "two forms of one tile");
    }
}

fn leaves(count: u8) -> Vec<Digest> {
    (0..count).map(|leaf| leaf_hash(&[leaf])).collect()
}

// Of a tree of as many leaves as the first byte says: which leaf is claimed to be where, then the proof.
fn proofs() -> Vec<Vec<u8>> {
    let proof = |(count, index): (u8, u8)| {
        let path = inclusion(&leaves(count), usize::from(index)).expect("there is such a leaf");
        let mut bytes = vec![count, index];
        bytes.extend(u64::from(index).to_le_bytes());
        path.iter().for_each(|hash| bytes.extend(hash.0));
        bytes
    };
    [(1, 0), (2, 1), (7, 6), (8, 3), (255, 254)].map(proof).to_vec()
}

fn read_proof(bytes: &[u8]) {
    let Some(([count, leaf], rest)) = bytes.split_first_chunk::<2>() else { return };
    let Some((index, path)) = rest.split_first_chunk::<8>() else { return };
    let (index, leaves) = (u64::from_le_bytes(*index), leaves(*count));
    let Some(claimed) = leaves.get(usize::from(*leaf)) else { return };
    let Some(path) = hashes(path, (path.len() / 32).min(u16::MAX.into()) as u16) else { return };
    let holds = verify_inclusion(&root(&leaves), u64::from(*count), index, claimed, &path);
    let true_path = inclusion(&leaves, usize::from(*leaf));
    assert_eq!(holds, index == u64::from(*leaf) && Some(path.clone()) == true_path, "a proof of something else");
    assert!(!verify_inclusion(&root(&leaves), u64::MAX - index, index, claimed, &path), "a proof for another tree");
}

// Whoever follows has the tree and the accounts of exactly the records that were taken.
fn follow(bytes: &[u8]) {
    let entries = split(bytes);
    let Some(Ok(mut follower)) = entries.first().map(|first| Follower::begin(first)) else { return };
    let mut leaves = vec![leaf_hash(entries[0])];
    for entry in &entries[1..] {
        let Ok((record, summary)) = follower.take(entry) else { break };
        leaves.push(leaf_hash(entry));
        assert_eq!(record.to_bytes(), *entry, "two forms of one record");
        if summary.is_some() {
            check_restart(follower.settler());
        }
    }
    if follower.size() == leaves.len() as u64 {
        assert_eq!(follower.root(), root(&leaves), "the root is over other records");
    }
}

// Records in an order that nobody wrote, without signatures, settled as if everything revealed were right.
fn settle(bytes: &[u8]) {
    let mut read = split(bytes).into_iter().filter_map(|entry| Record::from_bytes(entry).ok());
    let Some(Ok(mut settler)) = read.next().map(|first| Settler::begin(&first)) else { return };
    for record in read {
        let Record::Close(close) = record else {
            let _ = settler.apply(&record);
            continue;
        };
        let Reveal { draw_secret, nonce_secret, next_draw_seal, next_nonce_seal } = reveal();
        let (epoch, at, state) = (settler.epoch(), close.at, close.state);
        let close = Close { epoch, at, draw_secret, nonce_secret, next_draw_seal, next_nonce_seal, state };
        if matches!(settler.apply(&Record::Close(close)), Ok(_) | Err(Fault::State(_))) {
            check_restart(&settler);
        }
    }
}

// Everything a ledger promises is checked when it is read back.
fn check_restart(settler: &Settler) {
    let bytes = settler.to_bytes();
    let restored = Settler::from_bytes(&bytes).expect("a settler reads what it wrote");
    assert_eq!((restored.to_bytes(), restored.digest()), (bytes, settler.digest()), "a restart changes the accounts");
}
