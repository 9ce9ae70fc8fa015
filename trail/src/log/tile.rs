//! Tiles of hashes and bundles of entries (c2sp.org/tlog-tiles): a log as objects that are written once, what is added to one,
//! and the proofs that are read from them.

use crate::hash::{Hash, node_hash};
use crate::merkle::{self, TreeHead, split};
use std::collections::HashMap;

/// A full tile has so many hashes; a full bundle so many entries.
pub const WIDTH: u64 = 256;

/// A tile of a tree, or a bundle of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    /// At level 0 the hashes are of leaves; at each above, of full tiles of the one below. `None`: a bundle of entries.
    pub level: Option<u8>,
    /// Which of its level.
    pub index: u64,
    /// How many hashes or entries: 1 to 256.
    pub width: u16,
}

/// Hashes and bundles that a tree of `size` entries has at a level (0 for bundles): full ones, and how many hashes are in the
/// last, partial one.
fn row(size: u64, level: u8) -> (u64, u16) {
    let hashes = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
    (hashes / WIDTH, (hashes % WIDTH) as u16)
}

impl Tile {
    /// The tile that a tree of `size` entries has there; `None` if it is empty.
    pub fn of(size: u64, level: Option<u8>, index: u64) -> Option<Tile> {
        let (full, rest) = row(size, level.unwrap_or(0));
        let width = if index < full { WIDTH as u16 } else { rest };
        (index < full || index == full && rest > 0).then_some(Tile { level, index, width })
    }

    /// The partial tiles of a tree, from level 0 upwards: its right edge, to which is added.
    pub fn edge(size: u64) -> impl Iterator<Item = Tile> {
        (0..8).filter_map(move |level| {
            let (index, width) = row(size, level);
            (width > 0).then_some(Tile { level: Some(level), index, width })
        })
    }

    /// Its place below the log's: `tile/0/x001/234`, `tile/entries/000.p/5`.
    pub fn path(&self) -> String {
        let mut path = match self.level {
            Some(level) => format!("tile/{level}/"),
            None => "tile/entries/".to_owned(),
        };
        let mut groups = Vec::new();
        let mut rest = self.index;
        loop {
            groups.push(rest % 1000);
            rest /= 1000;
            if rest == 0 {
                break;
            }
        }
        for (i, group) in groups.iter().enumerate().rev() {
            path.push_str(&if i > 0 { format!("x{group:03}/") } else { format!("{group:03}") });
        }
        if u64::from(self.width) < WIDTH {
            path.push_str(&format!(".p/{}", self.width));
        }
        path
    }

    /// Reads a place below the log's.
    pub fn parse(path: &str) -> Option<Tile> {
        let rest = path.strip_prefix("tile/")?;
        let (level, rest) = rest.split_once('/')?;
        let level = match level {
            "entries" => None,
            n => Some(super::checkpoint::decimal(n).and_then(|n| u8::try_from(n).ok()).filter(|n| *n < 64)?),
        };
        let (rest, width) = match rest.split_once(".p/") {
            Some((rest, width)) => (rest, super::checkpoint::decimal(width)?),
            None => (rest, WIDTH),
        };
        let mut index = 0u64;
        let mut groups = rest.split('/').peekable();
        while let Some(group) = groups.next() {
            let digits = if groups.peek().is_some() { group.strip_prefix('x')? } else { group };
            if digits.len() != 3 || !digits.bytes().all(|c| c.is_ascii_digit()) {
                return None;
            }
            index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
        }
        let tile = Tile { level, index, width: u16::try_from(width).ok()? };
        // Only one path for each.
        (width > 0 && tile.path() == path).then_some(tile)
    }

    /// Its hashes: 32 bytes each. `None` if there are more or fewer.
    pub fn hashes(&self, bytes: &[u8]) -> Option<Vec<Hash>> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        let good = rest.is_empty() && hashes.len() == usize::from(self.width);
        good.then(|| hashes.iter().map(|h| Hash(*h)).collect())
    }

    /// Its entries: each behind its length, two bytes, the higher first. `None` if there are more or fewer.
    pub fn entries<'b>(&self, bytes: &'b [u8]) -> Option<Vec<&'b [u8]>> {
        let mut all = Vec::new();
        let mut rest = bytes;
        let width = usize::from(self.width);
        while let Some((len, behind)) = rest.split_first_chunk::<2>().filter(|_| all.len() < width) {
            let (entry, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            all.push(entry);
            rest = behind;
        }
        (rest.is_empty() && all.len() == width).then_some(all)
    }
}

/// Appends an entry to a bundle; says whether it fits (65,535 bytes at most).
pub fn put_entry(entry: &[u8], bundle: &mut Vec<u8>) -> bool {
    let Ok(len) = u16::try_from(entry.len()) else { return false };
    bundle.extend_from_slice(&len.to_be_bytes());
    bundle.extend_from_slice(entry);
    true
}

/// A tile's bytes.
fn bytes_of(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|h| h.0).collect()
}

/// The right edge of a tree: as much of it as is needed to add entries, and to say its root. For n entries that is 255 hashes
/// for each of log₂₅₆ n levels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    /// Of each level, the hashes of the tile that is not full yet.
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// Of a tree whose partial tiles are read by `read`.
    ///
    /// # Errors
    /// What `read` says, and [`TileFault::Width`].
    pub fn load<E>(
        size: u64,
        mut read: impl FnMut(Tile) -> Result<Vec<u8>, E>,
    ) -> Result<Edge, TileFault<E>> {
        let mut edge = Edge { size, levels: Vec::new() };
        for tile in Tile::edge(size) {
            let bytes = read(tile).map_err(TileFault::Read)?;
            let hashes = tile.hashes(&bytes).ok_or(TileFault::Width(tile))?;
            edge.levels.resize_with(usize::from(tile.level.unwrap_or(0)), Vec::new);
            edge.levels.push(hashes);
        }
        Ok(edge)
    }

    /// How many entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The leaf hashes of the tile that is not full.
    pub fn leaves(&self) -> &[Hash] {
        self.levels.first().map_or(&[], Vec::as_slice)
    }

    /// Adds an entry's leaf hash; `put` gets each tile that is full now.
    pub fn push(&mut self, leaf: Hash, mut put: impl FnMut(Tile, Vec<u8>)) {
        self.size += 1;
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::with_capacity(WIDTH as usize));
            }
            let hashes = &mut self.levels[level];
            hashes.push(hash);
            if hashes.len() < WIDTH as usize {
                break;
            }
            hash = merkle::root(hashes);
            let index = (self.size >> (8 * (level + 1))) - 1;
            put(Tile { level: Some(level as u8), index, width: WIDTH as u16 }, bytes_of(hashes));
            hashes.clear();
        }
    }

    /// The tiles that are not full.
    pub fn partial(&self) -> impl Iterator<Item = (Tile, Vec<u8>)> {
        Tile::edge(self.size).map(|tile| (tile, self.bytes(tile)))
    }

    /// The bytes of one of them; `None` if it is not of this edge.
    pub fn tile(&self, tile: Tile) -> Option<Vec<u8>> {
        Tile::edge(self.size).any(|t| t == tile).then(|| self.bytes(tile))
    }

    fn bytes(&self, tile: Tile) -> Vec<u8> {
        bytes_of(self.levels.get(usize::from(tile.level.unwrap_or(0))).map_or(&[], Vec::as_slice))
    }

    /// The root (RFC 6962 section 2.1).
    pub fn root(&self) -> Hash {
        let before = |right, hashes: &Vec<Hash>| hashes.iter().collect::<TreeHead>().before(right);
        self.levels.iter().fold(None, before).unwrap_or_else(Hash::empty)
    }
}

/// Why nothing can be said from tiles.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TileFault<E> {
    /// One could not be read.
    #[error(transparent)]
    Read(E),
    /// One has more or fewer hashes than the tree has there.
    #[error("{} has not {} hashes", .0.path(), .0.width)]
    Width(Tile),
    /// The tree has no such entry or head.
    #[error("the log has {0} entries")]
    Beyond(u64),
}

/// A tree of `size` entries whose tiles are read by `read`, each once. What comes of them is not authenticated: proofs are to be
/// verified against a checkpoint.
pub struct Tree<R> {
    size: u64,
    read: R,
    tiles: HashMap<(u8, u64), Vec<Hash>>,
}

impl<R> Tree<R> {
    /// Nothing is read yet.
    pub fn new(size: u64, read: R) -> Tree<R> {
        Tree { size, read, tiles: HashMap::new() }
    }
}

impl<E, R: FnMut(Tile) -> Result<Vec<u8>, E>> Tree<R> {
    /// The root.
    ///
    /// # Errors
    /// [`TileFault`].
    pub fn root(&mut self) -> Result<Hash, TileFault<E>> {
        self.root_of(self.size)
    }

    /// The root of the first `size` entries.
    ///
    /// # Errors
    /// [`TileFault`].
    pub fn root_of(&mut self, size: u64) -> Result<Hash, TileFault<E>> {
        match size {
            0 => Ok(Hash::empty()),
            n if n > self.size => Err(TileFault::Beyond(self.size)),
            n => self.range(0, n),
        }
    }

    /// The leaf hash of an entry.
    ///
    /// # Errors
    /// [`TileFault`].
    pub fn leaf(&mut self, index: u64) -> Result<Hash, TileFault<E>> {
        if index < self.size { self.node(0, index) } else { Err(TileFault::Beyond(self.size)) }
    }

    /// The audit path of an entry, from the leaf upwards (RFC 6962 section 2.1.1).
    ///
    /// # Errors
    /// [`TileFault`].
    pub fn inclusion_proof(&mut self, index: u64) -> Result<Vec<Hash>, TileFault<E>> {
        let size = self.size;
        merkle::inclusion_path(size, index, |start, end| self.range(start, end))?
            .ok_or(TileFault::Beyond(size))
    }

    /// The consistency proof from the first `old` entries (RFC 6962 section 2.1.2); empty from none.
    ///
    /// # Errors
    /// [`TileFault`].
    pub fn consistency_proof(&mut self, old: u64) -> Result<Vec<Hash>, TileFault<E>> {
        if old == 0 {
            return Ok(Vec::new());
        }
        let size = self.size;
        merkle::consistency_path(size, old, |start, end| self.range(start, end))?
            .ok_or(TileFault::Beyond(size))
    }

    /// The root of the entries from `start` to `end`, a part that the tree's own division makes.
    fn range(&mut self, start: u64, end: u64) -> Result<Hash, TileFault<E>> {
        let n = end - start;
        if n.is_power_of_two() {
            return self.node(n.trailing_zeros(), start / n);
        }
        let middle = start + split(n);
        let left = self.range(start, middle)?;
        Ok(node_hash(&left, &self.range(middle, end)?))
    }

    /// The root of the complete subtree number `index` of 2^`height` entries.
    fn node(&mut self, height: u32, index: u64) -> Result<Hash, TileFault<E>> {
        let (level, inside) = ((height / 8) as u8, height % 8);
        let first = index << inside;
        let key = (level, first / WIDTH);
        if !self.tiles.contains_key(&key) {
            let tile = Tile::of(self.size, Some(level), key.1).ok_or(TileFault::Beyond(self.size))?;
            let bytes = (self.read)(tile).map_err(TileFault::Read)?;
            self.tiles.insert(key, tile.hashes(&bytes).ok_or(TileFault::Width(tile))?);
        }
        let at = (first % WIDTH) as usize;
        let hashes = self.tiles.get(&key).and_then(|t| t.get(at..at + (1 << inside)));
        hashes.map(merkle::root).ok_or(TileFault::Beyond(self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use crate::merkle::{self, TreeHead};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn paths_are_the_pages() {
        for (level, index, width, path) in [
            (Some(0), 1_234_067, 256, "tile/0/x001/x234/067"),
            (Some(0), 273, 112, "tile/0/273.p/112"),
            (Some(1), 1, 17, "tile/1/001.p/17"),
            (Some(63), 0, 1, "tile/63/000.p/1"),
            (None, 999, 256, "tile/entries/999"),
            (None, 1000, 255, "tile/entries/x001/000.p/255"),
        ] {
            let tile = Tile { level, index, width };
            assert_eq!(tile.path(), path);
            assert_eq!(Tile::parse(path), Some(tile));
        }
        for bad in [
            "tile/0/1",
            "tile/0/0001",
            "tile/00/001",
            "tile/64/001",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001/x002",
            "tile/0/001.p/0",
            "tile/0/001.p/256",
            "tile/0/001.p/01",
            "tile/0/001.p/1/2",
            "tile/0/",
            "tile/0",
            "tiles/0/001",
            "tile/entries/+01",
            "tile/0/x018/x446/x744/x073/x709/x551/616",
        ] {
            assert_eq!(Tile::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_tree_of_70_000_has_the_tiles_that_the_page_counts() {
        let edge: Vec<_> = Tile::edge(70_000).map(|t| t.path()).collect();
        assert_eq!(edge, ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]);
        let edge: Vec<_> = Tile::edge(256).map(|t| t.path()).collect();
        assert_eq!(edge, ["tile/1/000.p/1"]);
        assert_eq!(Tile::of(256, Some(0), 0).map(|t| t.width), Some(256));
        assert_eq!(Tile::of(256, Some(0), 1), None);
        assert_eq!(Tile::edge(u64::MAX).count(), 8);
    }

    #[test]
    fn bundles_are_read_as_they_were_written() {
        let mut bundle = Vec::new();
        assert!(put_entry(b"", &mut bundle) && put_entry(b"abc", &mut bundle));
        assert!(put_entry(&[7; 65_535], &mut bundle) && !put_entry(&[7; 65_536], &mut bundle));
        let of = |width| Tile { level: None, index: 0, width };
        assert_eq!(of(3).entries(&bundle).unwrap(), [&b""[..], b"abc", &[7; 65_535]]);
        assert_eq!(of(2).entries(&bundle), None);
        assert_eq!(of(3).entries(&bundle[..bundle.len() - 1]), None);
        assert_eq!(of(4).entries(&[&bundle[..], &[0]].concat()), None);
    }

    /// A log in memory, which counts what is read.
    #[derive(Default)]
    struct Memory(BTreeMap<String, Vec<u8>>);

    impl Memory {
        fn read(&self, tile: Tile) -> Result<Vec<u8>, String> {
            self.0.get(&tile.path()).cloned().ok_or_else(|| tile.path())
        }

        fn grow(&mut self, edge: &mut Edge, leaves: &[Hash]) {
            for leaf in leaves {
                edge.push(*leaf, |tile, bytes| {
                    assert_eq!(bytes.len(), 8192);
                    self.0.insert(tile.path(), bytes);
                });
            }
            self.0.extend(edge.partial().map(|(tile, bytes)| (tile.path(), bytes)));
        }
    }

    fn leaves(n: u64) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    #[test]
    fn a_log_that_grows_in_steps_is_the_same_as_the_list() {
        let leaves = leaves(70_000);
        let mut memory = Memory::default();
        let mut edge = Edge::default();
        let mut head = TreeHead::default();
        let mut at = 0;
        for step in [1, 1, 2, 251, 1, 1, 255, 256, 1, 1000, 64_000, 4231] {
            memory.grow(&mut edge, &leaves[at..at + step]);
            leaves[at..at + step].iter().for_each(|l| head.push(*l));
            at += step;
            assert_eq!(edge.root(), head.root(), "{at}");
            let again = Edge::load(at as u64, |t| memory.read(t)).unwrap();
            assert_eq!(again.root(), head.root());
            edge = again;
            assert_eq!(Tree::new(at as u64, |t| memory.read(t)).root(), Ok(head.root()));
        }
        assert_eq!(at, 70_000);
        // A proof reads a tile a level, and the right edge.
        let mut reads = 0;
        let mut tree = Tree::new(70_000, |t| {
            reads += 1;
            memory.read(t)
        });
        let path = tree.inclusion_proof(12_345).unwrap();
        assert!(merkle::verify_inclusion(&leaves[12_345], 12_345, 70_000, &path, &head.root()));
        assert!(reads <= 6, "{reads}");
    }

    #[test]
    fn tiles_that_are_not_there_or_too_short_are_named() {
        let mut memory = Memory::default();
        let mut edge = Edge::default();
        memory.grow(&mut edge, &leaves(300));
        let path = Tile::of(300, Some(0), 1).unwrap().path();
        let cut = memory.0.get(&path).unwrap()[..31].to_vec();
        let gone = memory.0.remove(&path).unwrap();
        let mut tree = Tree::new(300, |t| memory.read(t));
        assert_eq!(tree.root(), Err(TileFault::Read(path.clone())));
        assert_eq!(tree.inclusion_proof(300), Err(TileFault::Beyond(300)));
        assert_eq!(tree.consistency_proof(301), Err(TileFault::Beyond(300)));
        memory.0.insert(path.clone(), cut);
        assert!(matches!(Tree::new(300, |t| memory.read(t)).root(), Err(TileFault::Width(_))));
        assert!(matches!(Edge::load(300, |t| memory.read(t)), Err(TileFault::Width(_))));
        memory.0.insert(path, gone);
        assert_eq!(Tree::new(300, |t| memory.read(t)).root(), Ok(edge.root()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn proofs_from_tiles_are_those_of_the_list(n in 1u64..3000, pairs in prop::collection::vec((any::<u64>(), any::<u64>()), 1..8)) {
            let leaves = leaves(n);
            let mut memory = Memory::default();
            let mut edge = Edge::default();
            memory.grow(&mut edge, &leaves);
            let mut tree = Tree::new(n, |t| memory.read(t));
            for (a, b) in pairs {
                let index = a % n;
                let path = tree.inclusion_proof(index).unwrap();
                prop_assert_eq!(&Some(path), &merkle::inclusion_proof(&leaves, index as usize));
                prop_assert_eq!(tree.leaf(index), Ok(leaves[index as usize]));
                let old = b % n + 1;
                let proof = tree.consistency_proof(old).unwrap();
                prop_assert_eq!(&Some(proof), &merkle::consistency_proof(&leaves, old as usize));
                prop_assert_eq!(tree.root_of(old), Ok(merkle::root(&leaves[..old as usize])));
            }
        }

        #[test]
        fn any_path_is_read_or_refused(path in "tile/(entries|[0-9]{1,2})/(x?[0-9]{3}/){0,3}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Some(tile) = Tile::parse(&path) {
                prop_assert_eq!(tile.path(), path);
            }
        }
    }
}
