//! The log's Merkle tree over stored hashes: growing it, and paths and roots without reading every leaf.
//!
//! A subtree is named by its level and its position on it: the leaf of record `i` is `(0, i)`, and `(l, p)` covers the
//! leaves from `p << l` on, `1 << l` of them. Stored are leaves and the complete subtrees of every [`STEP`]-th level;
//! what lies between is computed from at most eight of them.

use ol_protocol::Digest;
use ol_protocol::merkle::{self, node_hash};

/// Levels between stored subtrees. Four of them cost one stored hash for 15 records, and a proof of a million records
/// 75 reads.
pub(crate) const STEP: u32 = 4;

/// A complete subtree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subtree {
    pub(crate) level: u32,
    pub(crate) position: u64,
}

impl Subtree {
    pub(crate) const fn is_stored(&self) -> bool {
        self.level.is_multiple_of(STEP)
    }
}

/// The right edge of a growing tree.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edge {
    size: u64,
    // Complete subtrees, largest first: one for each set bit of `size`.
    peaks: Vec<Digest>,
}

impl Edge {
    /// Restores the edge of a tree of `size` leaves from its stored hashes.
    pub(crate) fn load<E>(size: u64, hashes: &mut impl FnMut(Subtree) -> Result<Digest, E>) -> Result<Self, E> {
        let mut peaks = Vec::new();
        for subtree in parts(0, size) {
            peaks.push(subtree_hash(subtree, hashes)?);
        }
        Ok(Self { size, peaks })
    }

    /// Adds a leaf; `completed` is told every stored level's subtree that it completes, without the leaf itself.
    pub(crate) fn append<E>(
        &mut self,
        leaf: Digest,
        completed: &mut impl FnMut(Subtree, &Digest) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut hash, mut subtree) = (leaf, Subtree { level: 0, position: self.size });
        while subtree.position & 1 == 1 {
            let left = self.peaks.pop().expect("an odd position has a left sibling among the peaks");
            hash = node_hash(&left, &hash);
            subtree = Subtree { level: subtree.level + 1, position: subtree.position >> 1 };
            if subtree.is_stored() {
                completed(subtree, &hash)?;
            }
        }
        self.peaks.push(hash);
        self.size += 1;
        Ok(())
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn root(&self) -> Digest {
        fold(self.peaks.iter().copied())
    }
}

/// The hash of a complete subtree.
pub(crate) fn subtree_hash<E>(
    subtree: Subtree,
    hashes: &mut impl FnMut(Subtree) -> Result<Digest, E>,
) -> Result<Digest, E> {
    if subtree.is_stored() {
        return hashes(subtree);
    }
    let child = |position| Subtree { level: subtree.level - 1, position };
    let left = subtree_hash(child(subtree.position * 2), hashes)?;
    let right = subtree_hash(child(subtree.position * 2 + 1), hashes)?;
    Ok(node_hash(&left, &right))
}

/// The root over the leaves from `start` to `end`, where `start` is where a subtree of that width may begin.
pub(crate) fn range_root<E>(
    start: u64,
    end: u64,
    hashes: &mut impl FnMut(Subtree) -> Result<Digest, E>,
) -> Result<Digest, E> {
    let mut peaks = Vec::new();
    for subtree in parts(start, end) {
        peaks.push(subtree_hash(subtree, hashes)?);
    }
    Ok(fold(peaks.into_iter()))
}

/// The inclusion proof of leaf `index` in the tree of the first `size` leaves, lowest sibling first. `index < size`.
pub(crate) fn inclusion<E>(
    index: u64,
    size: u64,
    hashes: &mut impl FnMut(Subtree) -> Result<Digest, E>,
) -> Result<Vec<Digest>, E> {
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range_root(middle, end, hashes)?);
            end = middle;
        } else {
            path.push(range_root(start, middle, hashes)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

// The complete subtrees that make up a range, largest first.
fn parts(start: u64, end: u64) -> impl Iterator<Item = Subtree> {
    let mut at = start;
    core::iter::from_fn(move || {
        let level = (end - at).checked_ilog2()?;
        let part = Subtree { level, position: at >> level };
        at += 1 << level;
        Some(part)
    })
}

fn fold(peaks: impl DoubleEndedIterator<Item = Digest>) -> Digest {
    peaks.rev().reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(|| merkle::root(&[]))
}

// The largest power of two below `n`, for n > 1.
const fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_protocol::prf::{Noise, Seed};
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    struct Grown {
        edge: Edge,
        leaves: Vec<Digest>,
        stored: BTreeMap<(u32, u64), Digest>,
    }

    fn grown(size: u64) -> Grown {
        let mut tree = Grown { edge: Edge::default(), leaves: Vec::new(), stored: BTreeMap::new() };
        for i in 0..size {
            let leaf = merkle::leaf_hash(&i.to_le_bytes());
            tree.leaves.push(leaf);
            tree.stored.insert((0, i), leaf);
            let mut keep = |subtree: Subtree, hash: &Digest| -> Result<(), Infallible> {
                tree.stored.insert((subtree.level, subtree.position), *hash);
                Ok(())
            };
            tree.edge.append(leaf, &mut keep).expect("nothing fails");
        }
        tree
    }

    fn hashes(tree: &Grown) -> impl FnMut(Subtree) -> Result<Digest, Infallible> {
        |subtree| Ok(tree.stored[&(subtree.level, subtree.position)])
    }

    #[test]
    fn a_tree_of_any_size_has_the_root_and_paths_of_the_specified_one() {
        for size in (0..70).chain([127, 128, 255, 256, 257, 700]) {
            let tree = grown(size);
            assert_eq!(tree.edge.root(), merkle::root(&tree.leaves), "size {size}");
            for index in (0..size).step_by(1 + size as usize / 60) {
                let path = inclusion(index, size, &mut hashes(&tree)).expect("stored");
                assert_eq!(Some(path), merkle::inclusion(&tree.leaves, index as usize), "{index} of {size}");
            }
        }
    }

    #[test]
    fn earlier_trees_are_proved_from_a_later_ones_hashes() {
        let tree = grown(600);
        let noise = Noise::new(&Seed([3; 32]), 0);
        for draw in 0..300 {
            let size = 1 + u64::from(noise.word(draw)) % 600;
            let index = u64::from(noise.word(1_000 + draw)) % size;
            let leaves = &tree.leaves[..size as usize];
            let path = inclusion(index, size, &mut hashes(&tree)).expect("stored");
            assert_eq!(Some(path), merkle::inclusion(leaves, index as usize), "{index} of {size}");
            assert_eq!(range_root(0, size, &mut hashes(&tree)), Ok(merkle::root(leaves)), "{size}");
        }
    }

    #[test]
    fn a_loaded_edge_grows_like_the_one_that_was_never_closed() {
        for size in 0..80 {
            let (short, long) = (grown(size), grown(size + 1));
            let mut edge = Edge::load(size, &mut hashes(&short)).expect("stored");
            edge.append(long.leaves[size as usize], &mut |_, _| Ok::<(), Infallible>(())).expect("nothing fails");
            assert_eq!((edge.size(), edge.root()), (size + 1, long.edge.root()));
        }
    }
}
