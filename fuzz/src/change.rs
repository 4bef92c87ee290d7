//! Changed copies of a seed: cut, repeated and with other bytes, the same for the same number.

use ol_protocol::prf::{Noise, Seed};

/// Values at the edges of what lengths and counts may be.
const EDGES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];

/// Copy number `number` of a seed, with one to four changes.
pub fn changed(seed: &[u8], number: u32) -> Vec<u8> {
    let noise = Noise::new(&Seed([0x63; 32]), number);
    let mut bytes = seed.to_vec();
    for change in 0..1 + noise.word(0) % 4 {
        let word = |which: u32| noise.word(1 + change * 4 + which);
        if bytes.is_empty() {
            bytes.push(word(0) as u8);
            continue;
        }
        let at = word(0) as usize % bytes.len();
        match word(1) % 8 {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_within(at..),
            2 => bytes[at] ^= 1 << (word(2) % 8),
            3 => bytes[at] = word(2) as u8,
            4 => bytes.insert(at, word(2) as u8),
            5 => drop(bytes.remove(at)),
            _ => {
                let edge = EDGES[word(2) as usize % EDGES.len()];
                let end = bytes.len().min(at + [1, 2, 4, 8][word(3) as usize % 4]);
                bytes[at..end].fill(edge);
            }
        }
    }
    bytes
}
