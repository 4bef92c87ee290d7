//! Tiles: the log cut into files that standard transparency-log tools read, and that any web server can hand out.
//!
//! Source: C2SP tlog-tiles, https://c2sp.org/tlog-tiles.

use crate::id::Digest;
use crate::merkle::node_hash;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

/// Hashes, or records, of a full tile.
pub const TILE_WIDTH: u64 = 256;

/// Levels of the tree that one level of tiles spans.
pub const TILE_HEIGHT: u32 = 8;

/// Longest record in a tile of records: its length is two bytes.
pub const ENTRY_BYTES_MAX: usize = u16::MAX as usize;

// A tree of 2^63 leaves has eight levels of tiles.
const LEVELS: u8 = 8;

/// What is in a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Hashes of complete subtrees: those of `256^level` records each.
    Hashes {
        /// From 0, the leaves.
        level: u8,
    },
    /// Records, each after its length.
    Entries,
}

/// A tile's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// What is in it.
    pub content: Content,
    /// Its place on its level, from 0.
    pub index: u64,
    /// Hashes or records in it, 1 to 256.
    pub width: u16,
}

impl Tile {
    /// The positions of its hashes on their level, or of its records.
    pub const fn positions(&self) -> Range<u64> {
        let start = self.index * TILE_WIDTH;
        start..start + self.width as u64
    }

    /// The level in the tree of its hashes; 0 for records.
    pub const fn tree_level(&self) -> u32 {
        match self.content {
            Content::Hashes { level } => level as u32 * TILE_HEIGHT,
            Content::Entries => 0,
        }
    }

    /// Whether a log of `size` records has everything that is in it.
    pub fn is_within(&self, size: u64) -> bool {
        self.positions().end <= size >> self.tree_level()
    }

    /// Whether nothing will be added to it.
    pub const fn is_full(&self) -> bool {
        self.width as u64 == TILE_WIDTH
    }

    /// The tiles of one kind of a log of `size` records, in order; the last may not be full.
    pub fn all(content: Content, size: u64) -> impl Iterator<Item = Self> {
        let whole = Self { content, index: 0, width: 1 };
        let count = size >> whole.tree_level();
        (0..count.div_ceil(TILE_WIDTH)).map(move |index| {
            let left = count - index * TILE_WIDTH;
            Self { content, index, width: left.min(TILE_WIDTH) as u16 }
        })
    }

    /// Its path under the log's address: `tile/1/x001/234`, with `.p/17` at the end if 17 hashes are in it.
    pub fn path(&self) -> String {
        let kind = match self.content {
            Content::Hashes { level } => level.to_string(),
            Content::Entries => "entries".into(),
        };
        let mut index = format!("{:03}", self.index % 1_000);
        let mut rest = self.index / 1_000;
        while rest > 0 {
            index = format!("x{:03}/{index}", rest % 1_000);
            rest /= 1_000;
        }
        let part = if self.is_full() { String::new() } else { format!(".p/{}", self.width) };
        format!("tile/{kind}/{index}{part}")
    }

    /// Reads a path that [`Tile::path`] writes, and no other.
    pub fn parse(path: &str) -> Option<Self> {
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let content = match kind {
            "entries" => Content::Entries,
            level => Content::Hashes { level: level.parse().ok().filter(|level| *level < LEVELS)? },
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, width.parse().ok().filter(|w| (1..TILE_WIDTH as u16).contains(w))?),
            None => (rest, TILE_WIDTH as u16),
        };
        let mut value = 0u64;
        for group in index.split('/') {
            let digits: u64 = group.strip_prefix('x').unwrap_or(group).parse().ok().filter(|n| *n < 1_000)?;
            value = value.checked_mul(1_000)?.checked_add(digits)?;
        }
        // Positions on the level must have numbers.
        value.checked_add(1)?.checked_mul(TILE_WIDTH)?;
        let tile = Self { content, index: value, width };
        // One tile has one name: no leading zeros, signs, or groups without their x.
        (tile.path() == path).then_some(tile)
    }
}

/// Adds a record to a tile of records; `None` if it is too long for one.
pub fn push_entry(tile: &mut Vec<u8>, record: &[u8]) -> Option<()> {
    let length = u16::try_from(record.len()).ok()?;
    tile.extend_from_slice(&length.to_be_bytes());
    tile.extend_from_slice(record);
    Some(())
}

/// The records of a tile of records; `None` if the bytes are not exactly `width` of them.
pub fn entries(bytes: &[u8], width: u16) -> Option<Vec<&[u8]>> {
    let mut rest = bytes;
    let mut entries = Vec::with_capacity(usize::from(width));
    for _ in 0..width {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        rest = after;
    }
    rest.is_empty().then_some(entries)
}

/// The hashes of a tile of hashes; `None` if the bytes are not exactly `width` of them.
pub fn hashes(bytes: &[u8], width: u16) -> Option<Vec<Digest>> {
    let (chunks, rest) = bytes.as_chunks::<32>();
    let whole = rest.is_empty() && chunks.len() == usize::from(width);
    whole.then(|| chunks.iter().map(|hash| Digest(*hash)).collect())
}

/// The hash over a full tile of hashes: one hash of the level above.
pub fn parent(hashes: &[Digest]) -> Digest {
    match hashes {
        [hash] => *hash,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&parent(left), &parent(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{leaf_hash, root};
    use proptest::prelude::*;

    #[test]
    fn paths_are_those_of_the_standard() {
        let hashes = |level, index, width| Tile { content: Content::Hashes { level }, index, width };
        let records = |index, width| Tile { content: Content::Entries, index, width };
        let cases = [
            (hashes(0, 0, 256), "tile/0/000"),
            (hashes(1, 1_234_067, 256), "tile/1/x001/x234/067"),
            (hashes(0, 273, 112), "tile/0/273.p/112"),
            (records(1_000, 1), "tile/entries/x001/000.p/1"),
        ];
        for (tile, path) in cases {
            assert_eq!((tile.path().as_str(), Tile::parse(path)), (path, Some(tile)));
        }
    }

    #[test]
    fn a_path_in_any_other_spelling_is_none() {
        let wrong = [
            "tile/00/000",
            "tile/0/0",
            "tile/0/1000",
            "tile/0/001/000",
            "tile/0/x000/001",
            "tile/0/x001/x000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/+1",
            "tile/0/000.p/01",
            "tile/8/000",
            "tile/-1/000",
            "tile/0/",
            "tile/0",
            "tile/data/000",
            "/tile/0/000",
            "tile/0/000/",
            "tile/0/+01",
            "tile/entries/x999/x999/x999/x999/x999/x999/999",
            "tile/0/000.p/1.p/1",
            "",
        ];
        for path in wrong {
            assert_eq!(Tile::parse(path), None, "{path}");
        }
    }

    #[test]
    fn the_tiles_of_a_log_hold_each_of_its_hashes_once() {
        let of = |level, size| Tile::all(Content::Hashes { level }, size).map(|t| t.path()).collect::<Vec<_>>();
        assert_eq!(of(0, 0), [""; 0]);
        assert_eq!(of(0, 256), ["tile/0/000"]);
        assert_eq!(of(0, 70_000).len(), 274);
        assert_eq!(of(1, 70_000), ["tile/1/000", "tile/1/001.p/17"]);
        assert_eq!(of(2, 70_000), ["tile/2/000.p/1"]);
        assert_eq!(of(3, 70_000), [""; 0]);
        let last = Tile::parse("tile/1/001.p/17").expect("a tile");
        assert!(last.is_within(70_000) && !last.is_within(69_887));
    }

    #[test]
    fn a_full_tile_hashes_to_the_subtree_over_it() {
        let leaves: Vec<Digest> = (0..256u32).map(|i| leaf_hash(&i.to_le_bytes())).collect();
        assert_eq!(parent(&leaves), root(&leaves));
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_went_in(records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20)) {
            let mut bytes = Vec::new();
            records.iter().for_each(|record| push_entry(&mut bytes, record).expect("short"));
            let width = u16::try_from(records.len()).expect("few");
            prop_assert_eq!(entries(&bytes, width).map(|e| e.into_iter().map(<[u8]>::to_vec).collect()), Some(records));
            prop_assert_eq!(entries(&bytes, width + 1), None);
            prop_assert_eq!(entries(&bytes, width - 1), None);
            prop_assert_eq!(entries(&bytes[..bytes.len() - 1], width), None);
        }

        #[test]
        fn what_is_read_as_a_path_is_written_so(path in "tile/(entries|[0-9]{1,2})/(x?[0-9]{1,3}/){0,3}[0-9]{1,4}(\\.p/[0-9]{1,3})?") {
            if let Some(tile) = Tile::parse(&path) {
                prop_assert_eq!(tile.path(), path);
            }
        }

        #[test]
        fn a_tile_of_any_place_is_read_back(level in 0..8u8, index in 0..1u64 << 54, width in 1..=256u16, of_records in any::<bool>()) {
            let content = if of_records { Content::Entries } else { Content::Hashes { level } };
            let tile = Tile { content, index, width };
            prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
        }
    }
}
