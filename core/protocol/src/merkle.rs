//! Merkle trees with inclusion and consistency proofs.
//!
//! Source: RFC 6962 section 2.1, with SHA-256.

use crate::id::Digest;
use alloc::vec::Vec;
use sha2::{Digest as _, Sha256};

/// Proofs longer than this are refused: it covers trees of 2^64 leaves.
pub const PATH_MAX: usize = 64;

/// The hash of a leaf.
pub fn leaf_hash(bytes: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(bytes);
    Digest(hash.finalize().into())
}

/// The hash of an inner node.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left.0);
    hash.update(right.0);
    Digest(hash.finalize().into())
}

/// The root over leaf hashes; the hash of nothing if there are none. `O(n)`.
pub fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest(Sha256::digest([]).into()),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// The inclusion proof of `leaves[index]`, lowest sibling first; `None` if there is no such leaf. `O(n)`.
pub fn inclusion(leaves: &[Digest], index: usize) -> Option<Vec<Digest>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut part, mut index) = (leaves, index);
    while part.len() > 1 {
        let (left, right) = part.split_at(split(part.len()));
        if index < left.len() {
            path.push(root(right));
            part = left;
        } else {
            path.push(root(left));
            index -= left.len();
            part = right;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether `leaf` is number `index` of the `size` leaves under `root`. Source: RFC 9162 section 2.1.3.2.
pub fn verify_inclusion(root: &Digest, size: u64, index: u64, leaf: &Digest, path: &[Digest]) -> bool {
    if index >= size || path.len() > PATH_MAX {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// The root of a growing tree in `O(log n)` memory, and one hash per appended leaf on average.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    // Roots of the complete subtrees, largest first: one for each set bit of `size`.
    peaks: Vec<Digest>,
}

impl Frontier {
    /// An empty tree.
    pub const fn new() -> Self {
        Self { size: 0, peaks: Vec::new() }
    }

    /// Adds a leaf hash and tells its index.
    pub fn append(&mut self, leaf: Digest) -> u64 {
        let index = self.size;
        let mut hash = leaf;
        let mut bits = self.size;
        while bits & 1 == 1 {
            if let Some(peak) = self.peaks.pop() {
                hash = node_hash(&peak, &hash);
            }
            bits >>= 1;
        }
        self.peaks.push(hash);
        self.size += 1;
        index
    }

    /// How many leaves there are.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root over them.
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(first) = peaks.next() else { return root(&[]) };
        peaks.fold(*first, |right, left| node_hash(left, &right))
    }
}

// The largest power of two below `n`, for n > 1.
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(n: usize) -> Vec<Digest> {
        (0..n).map(|i| leaf_hash(&(i as u64).to_le_bytes())).collect()
    }

    #[test]
    fn the_empty_root_is_the_hash_of_nothing() {
        assert_eq!(root(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().expect("hex"));
    }

    #[test]
    fn every_leaf_of_every_small_tree_has_a_proof_and_no_other() {
        for n in 1..40 {
            let all = leaves(n);
            let top = root(&all);
            for i in 0..n {
                let path = inclusion(&all, i).expect("in range");
                for j in 0..n {
                    let holds = verify_inclusion(&top, n as u64, j as u64, &all[i], &path);
                    assert_eq!(holds, i == j, "leaf {i} as {j} of {n}");
                }
            }
        }
    }

    #[test]
    fn a_grown_tree_has_the_root_of_a_built_one() {
        let all = leaves(70);
        let mut frontier = Frontier::new();
        for n in 0..70 {
            assert_eq!(frontier.root(), root(&all[..n]));
            assert_eq!(frontier.append(all[n]), n as u64);
        }
    }
}
