//! A trail's log as it lies in its store (FORMAT section 6), read by whoever adds to it, proves from it or verifies it.
//!
//! Where a key can have several versions, anybody may have written beside the log. So nothing is taken from where it lies: the
//! root of a checkpoint tells which tiles at the right edge are the log's, each tile tells which are below it, and the leaf hashes
//! tell which bundles of entries are.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use waxseal_store::{Store, StoreError, oldest};
use waxseal_trail::hash::{Hash, leaf_hash};
use waxseal_trail::log::checkpoint::Checkpoint;
use waxseal_trail::log::note::{MAX_NOTE, VerifierKey};
use waxseal_trail::log::tile::{Edge, Tile, TileFault, Tree, WIDTH};
use waxseal_trail::merkle;

/// The largest bundle, in bytes.
pub const MAX_BUNDLE: u64 = WIDTH * (u16::MAX as u64 + 2);
/// The largest tile of hashes, in bytes.
pub const MAX_TILE: u64 = WIDTH * 32;
/// Numbers of checkpoints have twelve digits.
const NUMBERS: u64 = 1_000_000_000_000;
/// So many ways to put the right edge together are tried, where strangers have written beside it.
const MAX_TRIES: usize = 4096;
/// So many tiles above the lowest level are kept in memory, of 8 KiB each.
const MAX_KEPT: usize = 4096;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A checkpoint needs an object that is not there.
    #[error(
        "{object} is missing, which checkpoint {number} needs: the log was cut, or the store shows an old state"
    )]
    Missing {
        /// Its key.
        object: String,
        /// The checkpoint.
        number: u64,
    },
    /// The objects that are there are not those that a checkpoint is over.
    #[error("checkpoint {number} does not follow from {object}: the log was changed")]
    Damaged {
        /// Where it shows.
        object: String,
        /// The checkpoint.
        number: u64,
    },
    /// Strangers have put so much beside the right edge that the log's own cannot be told from it.
    #[error(
        "{versions} ways to put together what lies at {object} and above it, and none of the first {MAX_TRIES} is checkpoint {number}'s"
    )]
    Crowded {
        /// The lowest tile.
        object: String,
        /// The checkpoint.
        number: u64,
        /// How many ways there are.
        versions: usize,
    },
    /// The store is behind what was seen.
    #[error(
        "checkpoint {0} is not there any more, which was seen before: the store shows an old state. Keep it as it is and find out why; nothing is logged meanwhile"
    )]
    Rollback(u64),
    /// The log has no such entry.
    #[error("the log has {0} entries")]
    Beyond(u64),
}

/// A checkpoint that is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its number, from 0.
    pub number: u64,
    /// What it says.
    pub checkpoint: Checkpoint,
    /// Its bytes: what time-stamps and contracts are over.
    pub bytes: Vec<u8>,
}

/// The key of checkpoint `n`.
pub fn checkpoint_key(number: u64) -> String {
    format!("log/checkpoints/{number:012}")
}

/// Where a copy of the newest lies.
pub const NEWEST: &str = "log/checkpoint";

/// Where the cosignatures of checkpoint `n` lie.
pub fn cosignatures_prefix(number: u64) -> String {
    format!("anchors/{number:012}/cosignatures/")
}

/// Where the time-stamps of checkpoint `n` lie.
pub fn stamps_prefix(number: u64) -> String {
    format!("anchors/{number:012}/rfc3161/")
}

/// Where the receipts of checkpoint `n` lie: that chains have anchored it.
pub fn receipts_prefix(number: u64) -> String {
    format!("anchors/{number:012}/ethereum/")
}

/// The key of a tile, or of a bundle of entries.
pub fn tile_key(tile: &Tile) -> String {
    format!("log/{}", tile.path())
}

/// All versions of an object that are small enough, the oldest first.
fn candidates(store: &dyn Store, key: &str, limit: u64) -> Result<Vec<Vec<u8>>, StoreError> {
    let all = RefCell::new(Vec::new());
    // None is taken, so all are seen.
    oldest(store, key, limit, &|bytes| {
        all.borrow_mut().push(bytes.to_vec());
        false
    })?;
    Ok(all.into_inner())
}

/// The oldest version of an object that is the one which checkpoint `number` needs.
fn needed(
    store: &dyn Store,
    object: String,
    limit: u64,
    number: u64,
    is: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, ReadError> {
    let any = Cell::new(false);
    let found = oldest(store, &object, limit, &|bytes| {
        any.set(true);
        is(bytes)
    })?;
    found.ok_or(if any.get() {
        ReadError::Damaged { object, number }
    } else {
        ReadError::Missing { object, number }
    })
}

/// A log at one checkpoint.
pub struct Reader<'s> {
    store: &'s dyn Store,
    newest: Option<Committed>,
    edge: Edge,
    /// Tiles above the lowest level, which are above many.
    kept: Mutex<HashMap<Tile, Vec<u8>>>,
}

impl<'s> Reader<'s> {
    /// The log at `newest`; before the first checkpoint, an empty one. Reads the right edge and checks it against the root.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(store: &'s dyn Store, newest: Option<Committed>) -> Result<Reader<'s>, ReadError> {
        let mut reader = Reader { store, newest, edge: Edge::default(), kept: Mutex::default() };
        let Some(Committed { number, checkpoint, .. }) = reader.newest.clone() else { return Ok(reader) };
        let tiles: Vec<Tile> = Tile::edge(checkpoint.size).collect();
        let mut versions = Vec::new();
        for tile in &tiles {
            let object = tile_key(tile);
            let mut all = candidates(store, &object, MAX_TILE)?;
            if all.is_empty() {
                return Err(ReadError::Missing { object, number });
            }
            all.retain(|bytes| tile.hashes(bytes).is_some());
            if all.is_empty() {
                return Err(ReadError::Damaged { object, number });
            }
            versions.push(all);
        }
        // Mostly there is one of each. Where strangers wrote beside, the root tells which are the log's.
        let ways = versions.iter().map(Vec::len).try_fold(1usize, usize::checked_mul).unwrap_or(MAX_TRIES);
        let edge = (0..ways.clamp(1, MAX_TRIES)).find_map(|way| {
            let mut rest = way;
            let mut chosen = versions.iter().map(|all| {
                let one = all[rest % all.len()].clone();
                rest /= all.len();
                one
            });
            let edge = Edge::load(checkpoint.size, |_| chosen.next().ok_or(())).ok()?;
            (edge.root() == checkpoint.root).then_some(edge)
        });
        let object = tiles.first().map_or_else(|| checkpoint_key(number), tile_key);
        let crowded = ways > MAX_TRIES;
        reader.edge = edge.ok_or(match object {
            object if crowded => ReadError::Crowded { object, number, versions: ways },
            object => ReadError::Damaged { object, number },
        })?;
        Ok(reader)
    }

    /// The log at a checkpoint over an edge that is known.
    pub fn at_edge(store: &'s dyn Store, newest: Committed, edge: Edge) -> Reader<'s> {
        Reader { store, newest: Some(newest), edge, kept: Mutex::default() }
    }

    /// The checkpoint.
    pub fn newest(&self) -> Option<&Committed> {
        self.newest.as_ref()
    }

    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The right edge.
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    fn number(&self) -> u64 {
        self.newest.as_ref().map_or(0, |n| n.number)
    }

    /// The bytes of a tile of hashes: partial ones are in memory, and of a full one's versions the one whose root stands in the
    /// tile above.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn tile(&self, tile: Tile) -> Result<Vec<u8>, ReadError> {
        if let Some(bytes) = self.edge.tile(tile) {
            return Ok(bytes);
        }
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = kept().get(&tile) {
            return Ok(bytes.clone());
        }
        let (object, number) = (tile_key(&tile), self.number());
        let above = Tile::of(self.size(), tile.level.map(|l| l + 1), tile.index / WIDTH);
        let Some(above) = above else { return Err(ReadError::Missing { object, number }) };
        let hashes = above.hashes(&self.tile(above)?);
        let root = hashes.and_then(|h| h.get((tile.index % WIDTH) as usize).copied());
        let is = |bytes: &[u8]| root.is_some() && tile.hashes(bytes).map(|h| merkle::root(&h)) == root;
        let bytes = needed(self.store, object, MAX_TILE, number, is)?;
        if tile.level > Some(0) {
            let mut kept = kept();
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
            kept.insert(tile, bytes.clone());
        }
        Ok(bytes)
    }

    /// The leaf hashes of the entries in a bundle.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn leaves(&self, index: u64) -> Result<Vec<Hash>, ReadError> {
        let beyond = ReadError::Beyond(self.size());
        let Some(tile) = Tile::of(self.size(), Some(0), index) else { return Err(beyond) };
        tile.hashes(&self.tile(tile)?).ok_or(beyond)
    }

    /// The bytes of a bundle: those whose entries have these leaf hashes.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn bundle(&self, index: u64, leaves: &[Hash]) -> Result<Vec<u8>, ReadError> {
        let Some(tile) = Tile::of(self.size(), None, index) else {
            return Err(ReadError::Beyond(self.size()));
        };
        let is = |bytes: &[u8]| {
            let entries = tile.entries(bytes);
            entries.is_some_and(|e| e.iter().map(|e| leaf_hash(e)).eq(leaves.iter().copied()))
        };
        needed(self.store, tile_key(&tile), MAX_BUNDLE, self.number(), is)
    }

    /// The entries from `start` on, in order, each with its number: until `each` says that it has seen enough.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn entries(&self, start: u64, each: &mut dyn FnMut(u64, &[u8]) -> bool) -> Result<(), ReadError> {
        for index in start / WIDTH..self.size().div_ceil(WIDTH) {
            let leaves = self.leaves(index)?;
            let bytes = self.bundle(index, &leaves)?;
            let Some(tile) = Tile::of(self.size(), None, index) else { break };
            let entries = tile.entries(&bytes).unwrap_or_default();
            for (number, entry) in (index * WIDTH..).zip(entries).filter(|(n, _)| *n >= start) {
                if !each(number, entry) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn tree(&self) -> Tree<impl FnMut(Tile) -> Result<Vec<u8>, ReadError>> {
        Tree::new(self.size(), move |tile| self.tile(tile))
    }

    /// The root of the first `size` entries.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn root_of(&self, size: u64) -> Result<Hash, ReadError> {
        self.said(self.tree().root_of(size))
    }

    /// The consistency proof from the first `old` entries to this checkpoint (RFC 6962 section 2.1.2).
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn consistency_proof(&self, old: u64) -> Result<Vec<Hash>, ReadError> {
        self.said(self.tree().consistency_proof(old))
    }

    /// The audit path of an entry under this checkpoint (RFC 6962 section 2.1.1).
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn inclusion_proof(&self, index: u64) -> Result<Vec<Hash>, ReadError> {
        self.said(self.tree().inclusion_proof(index))
    }

    fn said<T>(&self, result: Result<T, TileFault<ReadError>>) -> Result<T, ReadError> {
        result.map_err(|e| match e {
            TileFault::Read(e) => e,
            TileFault::Beyond(size) => ReadError::Beyond(size),
            _ => ReadError::Damaged { object: checkpoint_key(self.number()), number: self.number() },
        })
    }
}

/// Checkpoint `number`: the oldest version that is the log's, and is over more than `above` entries. (A copy of an old one under a
/// later number is the log's, and goes no further: it is no checkpoint there.)
///
/// # Errors
/// [`StoreError`].
pub fn checkpoint(
    store: &dyn Store,
    key: &VerifierKey,
    number: u64,
    above: u64,
) -> Result<Option<Committed>, StoreError> {
    // The note, a blank line, the log's own signature: what time-stamps are over has one form.
    let own = |bytes: &[u8]| {
        let (checkpoint, note) = Checkpoint::open(bytes, key).ok()?;
        let is = checkpoint.size > above && checkpoint.extensions.is_empty() && note.lines.len() == 1;
        is.then_some(checkpoint)
    };
    let found = oldest(store, &checkpoint_key(number), MAX_NOTE as u64, &|b| own(b).is_some())?;
    Ok(found.and_then(|bytes| Some(Committed { number, checkpoint: own(&bytes)?, bytes })))
}

/// The newest checkpoint, from `seen` on, or from the first: each is larger than the one before.
///
/// # Errors
/// [`ReadError::Store`]; [`ReadError::Rollback`] if what was seen is not there; [`ReadError::Missing`] if one above a gap goes further:
/// a worker that went on below it would fork the log.
pub fn newest(
    store: &dyn Store,
    key: &VerifierKey,
    seen: Option<&Committed>,
) -> Result<Option<Committed>, ReadError> {
    let mut found = None;
    if let Some(seen) = seen {
        if oldest(store, &checkpoint_key(seen.number), MAX_NOTE as u64, &|b| b == seen.bytes)?.is_none() {
            return Err(ReadError::Rollback(seen.number));
        }
        found = Some(seen.clone());
    }
    let ahead = |f: &Option<Committed>| f.as_ref().map_or((0, 0), |f| (f.number + 1, f.checkpoint.size));
    'walk: loop {
        let (next, size) = ahead(&found);
        if let Some(c) = checkpoint(store, key, next, size)? {
            found = Some(c);
            continue;
        }
        let prefix = "log/checkpoints/";
        let mut after = found.as_ref().map(|f| checkpoint_key(f.number));
        loop {
            let page = store.list(prefix, after.as_deref(), 1000)?;
            let numbers = page.keys.iter().filter_map(|k| k.strip_prefix(prefix)?.parse::<u64>().ok());
            for number in numbers.filter(|n| *n < NUMBERS) {
                match checkpoint(store, key, number, size)? {
                    // Another worker has committed it meanwhile.
                    Some(_) if number == next => continue 'walk,
                    Some(_) => return Err(ReadError::Missing { object: checkpoint_key(next), number }),
                    None => {}
                }
            }
            match page.keys.last().filter(|_| page.more) {
                Some(last) => after = Some(last.clone()),
                None => return Ok(found),
            }
        }
    }
}

/// The newest checkpoint as it looks from here, found in few requests: whoever proves something may take any, and whoever adds
/// to the log or verifies it wants [`newest`], which looks at all of them.
///
/// # Errors
/// [`ReadError`].
pub fn latest(store: &dyn Store, key: &VerifierKey) -> Result<Option<Committed>, ReadError> {
    let prefix = "log/checkpoints/";
    let behind = |number: u64| -> Result<bool, StoreError> {
        Ok(!store.list(prefix, Some(&checkpoint_key(number)), 1)?.keys.is_empty())
    };
    // The least number behind which there is nothing.
    let mut high = 1;
    while high < NUMBERS && behind(high - 1)? {
        high *= 2;
    }
    let (mut low, mut high) = (high / 2, high);
    while low < high {
        let middle = low.midpoint(high);
        if behind(middle)? { low = middle + 1 } else { high = middle }
    }
    // Strangers may have written under later numbers.
    for number in (0..=low).rev().take(8) {
        // Copies of earlier ones may lie under its name: the one that goes furthest is its own.
        let (mut found, mut above) = (None, 0);
        while let Some(further) = checkpoint(store, key, number, above)? {
            above = further.checkpoint.size;
            found = Some(further);
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    newest(store, key, None)
}
