//! A trail's log in its store (FORMAT section 6), written so that it can be stopped anywhere.
//!
//! A round adds entries and ends with a checkpoint. Bundles of entries are written before the tiles over them, in order, and
//! `log/checkpoints/<n>` last: its creation is the commit. What a round that was stopped has left behind the newest checkpoint is
//! no part of the log yet. Where a name can have several versions, the next round writes its own beside; in a directory it cannot,
//! so there it goes on with exactly what was left ([decision 12](../../../docs/decisions/0012-a-round-that-was-stopped.md)).
//!
//! Two workers cannot both commit checkpoint n: the second finds another one of the log's under its name, and opens the log again.
//! That is the store's doing, which must refuse to create what is there; in a directory only one worker may run at a time.

use bytes::Bytes;
use std::cell::{Cell, RefCell};
use waxseal_store::{At, Put, Retain, Store, StoreError, oldest};
use waxseal_trail::hash::{Hash, leaf_hash, sha256};
use waxseal_trail::log::checkpoint::Checkpoint;
use waxseal_trail::log::note::{MAX_NOTE, Note, VerifierKey};
use waxseal_trail::log::tile::{Edge, Tile, TileFault, Tree, WIDTH, put_entry};
use waxseal_trail::merkle;

/// The largest bundle, in bytes.
const MAX_BUNDLE: u64 = WIDTH * (u16::MAX as u64 + 2);
/// Numbers have twelve digits.
const NUMBERS: u64 = 1_000_000_000_000;
/// So many ways to put the right edge together are tried, where strangers have written beside it.
const MAX_TRIES: usize = 4096;

/// Why a log cannot be read or added to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
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
        /// The newest checkpoint.
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
    /// Another worker has committed a round meanwhile: nothing is lost, the log has to be opened again.
    #[error("another worker has written checkpoint {0}")]
    Overtaken(u64),
    /// Something else lies under a name in a store without versions.
    #[error(
        "{0} is there with other bytes, and nothing can be put beside it: does another worker write there?"
    )]
    Occupied(String),
    /// What a stopped round left is none that a worker would have written.
    #[error("{0} lies behind the newest checkpoint and holds what no worker would log")]
    Foreign(String),
    /// The store is behind what a worker has seen.
    #[error("checkpoint {0} is not there any more, which was seen before: the store shows an old state")]
    Rollback(u64),
    /// An entry of more than 65,535 bytes.
    #[error("an entry of {0} bytes; 65,535 fit")]
    TooLong(usize),
    /// The key did not sign.
    #[error("the log's key does not sign: {0}")]
    Sign(String),
    /// An earlier call failed.
    #[error("the log has to be opened again")]
    Broken,
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

fn tile_key(tile: &Tile) -> String {
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
) -> Result<Vec<u8>, LogError> {
    let any = Cell::new(false);
    let found = oldest(store, &object, limit, &|bytes| {
        any.set(true);
        is(bytes)
    })?;
    found.ok_or(if any.get() {
        LogError::Damaged { object, number }
    } else {
        LogError::Missing { object, number }
    })
}

/// A log that is added to.
pub struct Log<'s> {
    store: &'s dyn Store,
    key: VerifierKey,
    retain: Retain,
    newest: Option<Committed>,
    /// Of the newest checkpoint: what proofs are made from.
    committed: Edge,
    edge: Edge,
    /// The bundle that is not full.
    bundle: Vec<u8>,
    broken: bool,
}

impl<'s> Log<'s> {
    /// Opens the log of `key`, whose name is the log's origin, and checks the newest checkpoint against what is there. What is
    /// written is kept as `retain` says. `seen` is the newest checkpoint that this worker knows: from there on checkpoints are
    /// read one by one, without it from the first. `accept` says whether an entry may be logged: in a directory, what a round
    /// left that was stopped is taken up.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(
        store: &'s dyn Store,
        key: VerifierKey,
        retain: Retain,
        seen: Option<&Committed>,
        accept: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Log<'s>, LogError> {
        let newest = newest(store, &key, seen)?;
        let (committed, edge, bundle, broken) = (Edge::default(), Edge::default(), Vec::new(), false);
        let mut log = Log { store, key, retain, newest, committed, edge, bundle, broken };
        log.load()?;
        if let Some(newest) = &log.newest {
            // A worker that was killed may have made it visible, and not durable.
            log.put_first(&checkpoint_key(newest.number), &newest.bytes)?;
            log.show(newest)?;
        }
        if !store.has_versions() {
            log.take_up(accept)?;
        }
        Ok(log)
    }

    /// The newest checkpoint that is committed.
    pub fn newest(&self) -> Option<&Committed> {
        self.newest.as_ref()
    }

    /// How many entries there are, with those that no checkpoint is over yet.
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Whether the next checkpoint would say anything new.
    pub fn has_grown(&self) -> bool {
        self.newest.as_ref().map_or(0, |n| n.checkpoint.size) < self.size()
    }

    fn load(&mut self) -> Result<(), LogError> {
        let Some(Committed { number, checkpoint, .. }) = self.newest.clone() else { return Ok(()) };
        let tiles: Vec<Tile> = Tile::edge(checkpoint.size).collect();
        let mut versions = Vec::new();
        for tile in &tiles {
            let object = tile_key(tile);
            let mut all = candidates(self.store, &object, 32 * WIDTH)?;
            if all.is_empty() {
                return Err(LogError::Missing { object, number });
            }
            all.retain(|bytes| tile.hashes(bytes).is_some());
            if all.is_empty() {
                return Err(LogError::Damaged { object, number });
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
        self.edge = edge.ok_or(LogError::Damaged { object, number })?;
        self.committed = self.edge.clone();
        self.load_bundle(number)?;
        if number > 0 {
            self.check_before(number - 1)?;
        }
        Ok(())
    }

    /// The bundle that is not full: the one over whose entries the edge's leaf hashes are.
    fn load_bundle(&mut self, number: u64) -> Result<(), LogError> {
        let size = self.edge.size();
        let Some(tile) = Tile::of(size, None, size / WIDTH) else { return Ok(()) };
        let leaves = self.edge.leaves();
        let is = |bytes: &[u8]| {
            let entries = tile.entries(bytes);
            entries.is_some_and(|e| e.iter().map(|e| leaf_hash(e)).eq(leaves.iter().copied()))
        };
        self.bundle = needed(self.store, tile_key(&tile), MAX_BUNDLE, number, is)?;
        Ok(())
    }

    /// The newest checkpoint extends the one before.
    fn check_before(&self, before: u64) -> Result<(), LogError> {
        let object = checkpoint_key(before);
        let number = before + 1;
        let Some(old) = checkpoint(self.store, &self.key, before, 0)? else {
            return Err(LogError::Missing { object, number });
        };
        match self.tree().root_of(old.checkpoint.size) {
            Ok(root) if root == old.checkpoint.root && old.checkpoint.size < self.committed.size() => Ok(()),
            Err(TileFault::Read(e)) => Err(e),
            _ => Err(LogError::Damaged { object, number }),
        }
    }

    /// The tree of the newest checkpoint.
    fn tree(&self) -> Tree<impl FnMut(Tile) -> Result<Vec<u8>, LogError>> {
        let number = self.newest.as_ref().map_or(0, |n| n.number);
        Tree::new(self.committed.size(), move |tile| self.read_tile(tile, number))
    }

    /// The bytes of a tile of the newest checkpoint's tree: partial ones are in memory, and of a full one's versions the one whose
    /// root stands in the tile above.
    fn read_tile(&self, tile: Tile, number: u64) -> Result<Vec<u8>, LogError> {
        if let Some(bytes) = self.committed.tile(tile) {
            return Ok(bytes);
        }
        let object = tile_key(&tile);
        let above = Tile::of(self.committed.size(), tile.level.map(|l| l + 1), tile.index / WIDTH);
        let Some(above) = above else { return Err(LogError::Missing { object, number }) };
        let hashes = above.hashes(&self.read_tile(above, number)?);
        let root = hashes.and_then(|h| h.get((tile.index % WIDTH) as usize).copied());
        let is = |bytes: &[u8]| root.is_some() && tile.hashes(bytes).map(|h| merkle::root(&h)) == root;
        needed(self.store, object, 32 * WIDTH, number, is)
    }

    /// Goes on with the entries that a round left which was stopped: their bundles have the names that this one would write.
    fn take_up(&mut self, accept: &dyn Fn(&[u8]) -> bool) -> Result<(), LogError> {
        loop {
            let size = self.edge.size();
            let full = Tile { level: None, index: size / WIDTH, width: WIDTH as u16 };
            let (tile, bytes) =
                match self.store.read(&At::key(tile_key(&full)), MAX_BUNDLE)?.and_then(|o| o.body) {
                    Some(bytes) => (full, bytes),
                    None => match self.widest(full.index)? {
                        Some(found) => found,
                        None => return Ok(()),
                    },
                };
            // A file that goes on otherwise is none of ours; whoever verifies will say so.
            let rest = match (bytes.strip_prefix(&self.bundle[..]), tile.entries(&bytes)) {
                (Some(rest), Some(_)) if !rest.is_empty() => rest.to_vec(),
                _ => return Ok(()),
            };
            if !tile.entries(&bytes).is_some_and(|all| all.iter().all(|e| accept(e))) {
                return Err(LogError::Foreign(tile_key(&tile)));
            }
            let mut rest = &rest[..];
            while let Some((len, behind)) = rest.split_first_chunk::<2>() {
                let (entry, behind) = behind.split_at(usize::from(u16::from_be_bytes(*len)));
                self.append(entry)?;
                rest = behind;
            }
        }
    }

    /// The partial bundle that has more than the one at hand, the widest.
    fn widest(&self, index: u64) -> Result<Option<(Tile, Vec<u8>)>, LogError> {
        let full = Tile { level: None, index, width: WIDTH as u16 };
        let page = self.store.list(&format!("{}.p/", tile_key(&full)), None, WIDTH as usize)?;
        let tiles = page.keys.iter().filter_map(|k| Tile::parse(k.strip_prefix("log/")?));
        let Some(tile) =
            tiles.max_by_key(|t| t.width).filter(|t| u64::from(t.width) > self.edge.size() % WIDTH)
        else {
            return Ok(None);
        };
        let bytes = self.store.read(&At::key(tile_key(&tile)), MAX_BUNDLE)?.and_then(|o| o.body);
        Ok(bytes.map(|b| (tile, b)))
    }

    /// Adds an entry. It is in the log when [`Log::commit`] has said so.
    ///
    /// # Errors
    /// [`LogError`]; but for [`LogError::TooLong`] the log has to be opened again then.
    pub fn append(&mut self, entry: &[u8]) -> Result<(), LogError> {
        if self.broken {
            return Err(LogError::Broken);
        }
        if !put_entry(entry, &mut self.bundle) {
            return Err(LogError::TooLong(entry.len()));
        }
        let mut tiles = Vec::new();
        self.edge.push(leaf_hash(entry), |tile, bytes| tiles.push((tile, bytes)));
        if tiles.is_empty() {
            return Ok(());
        }
        self.broken = true;
        let bundle = Tile { level: None, index: self.edge.size() / WIDTH - 1, width: WIDTH as u16 };
        let bytes = std::mem::take(&mut self.bundle);
        self.put(&tile_key(&bundle), &bytes)?;
        for (tile, bytes) in tiles {
            self.put(&tile_key(&tile), &bytes)?;
        }
        self.broken = false;
        Ok(())
    }

    /// Writes the next checkpoint, if there is anything new, and gives the newest. `sign` signs with the log's key.
    ///
    /// # Errors
    /// [`LogError`]; the log has to be opened again then. Whether the round was committed shows then, too.
    pub fn commit(
        &mut self,
        sign: impl FnOnce(&[u8]) -> Result<[u8; 64], String>,
    ) -> Result<Option<&Committed>, LogError> {
        if self.broken {
            return Err(LogError::Broken);
        }
        if !self.has_grown() {
            return Ok(self.newest.as_ref());
        }
        self.broken = true;
        let size = self.size();
        if let Some(tile) = Tile::of(size, None, size / WIDTH) {
            self.put(&tile_key(&tile), &self.bundle)?;
        }
        for (tile, bytes) in self.edge.partial() {
            self.put(&tile_key(&tile), &bytes)?;
        }
        let number = self.newest.as_ref().map_or(0, |n| n.number + 1);
        let checkpoint = Checkpoint {
            origin: self.key.name().to_owned(),
            size,
            root: self.edge.root(),
            extensions: Vec::new(),
        };
        let text = checkpoint.to_string();
        // Nothing is signed that another worker's checkpoint stands against already.
        if self.is_overtaken(number)? {
            return Err(LogError::Overtaken(number));
        }
        let signature = sign(text.as_bytes()).map_err(LogError::Sign)?;
        let note = Note { lines: vec![self.key.line(None, &signature)], text };
        // Nobody is shown what does not verify.
        if !matches!(note.signed_by(&self.key), Ok(Some(_))) {
            return Err(LogError::Sign("its signature does not verify under the log's key".into()));
        }
        let bytes = note.to_string().into_bytes();
        let key = checkpoint_key(number);
        if !self.put_first(&key, &bytes)? {
            // Something is there. If it is the log's, a round of someone else's came first; what is not, is passed by.
            if self.is_overtaken(number)? {
                return Err(LogError::Overtaken(number));
            }
            self.put_beside(&key, &bytes)?;
        }
        // Only what all see as number n is shown to anyone: the oldest version that is the log's.
        match self::checkpoint(self.store, &self.key, number, self.committed.size())? {
            Some(there) if there.bytes == bytes => {}
            _ => return Err(LogError::Overtaken(number)),
        }
        let committed = Committed { number, checkpoint, bytes };
        self.show(&committed)?;
        self.committed = self.edge.clone();
        self.newest = Some(committed);
        self.broken = false;
        Ok(self.newest.as_ref())
    }

    fn is_overtaken(&self, number: u64) -> Result<bool, LogError> {
        Ok(checkpoint(self.store, &self.key, number, self.committed.size())?.is_some())
    }

    /// Puts the copy of the newest checkpoint, unless one that goes further is there.
    fn show(&self, newest: &Committed) -> Result<(), LogError> {
        let there = self.store.read(&At::key(NEWEST), MAX_NOTE as u64)?.and_then(|o| o.body);
        let size = there.and_then(|b| Checkpoint::open(&b, &self.key).ok()).map(|(c, _)| c.size);
        if size.is_some_and(|s| s >= newest.checkpoint.size) {
            return Ok(());
        }
        let body = Bytes::copy_from_slice(&newest.bytes);
        Ok(self.store.replace(NEWEST, &body, &sha256(&body), &self.retain)?)
    }

    /// Whether the object is there now, or was with these bytes.
    fn put_first(&self, key: &str, bytes: &[u8]) -> Result<bool, LogError> {
        let body = Bytes::copy_from_slice(bytes);
        let put = self.store.put_if_absent(key, &body, &sha256(&body), &self.retain)?;
        Ok(put != Put::Other)
    }

    /// Writes an object of the log; beside others, if there are any and none is the same.
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), LogError> {
        if self.put_first(key, bytes)? { Ok(()) } else { self.put_beside(key, bytes) }
    }

    fn put_beside(&self, key: &str, bytes: &[u8]) -> Result<(), LogError> {
        if self.store.has_versions() {
            let body = Bytes::copy_from_slice(bytes);
            if oldest(self.store, key, body.len() as u64, &|b| b == body)?.is_some()
                || self.store.put_beside(key, &body, &sha256(&body), &self.retain)? != Put::Other
            {
                return Ok(());
            }
        }
        // Of a worker that was quicker, perhaps.
        let next = self.newest.as_ref().map_or(0, |n| n.number + 1);
        if self.is_overtaken(next)? {
            return Err(LogError::Overtaken(next));
        }
        Err(LogError::Occupied(key.to_owned()))
    }

    /// The consistency proof from the first `old` entries to the newest checkpoint (RFC 6962 section 2.1.2).
    ///
    /// # Errors
    /// [`LogError`].
    pub fn consistency_proof(&self, old: u64) -> Result<Vec<Hash>, LogError> {
        self.proven(self.tree().consistency_proof(old))
    }

    /// The audit path of an entry under the newest checkpoint (RFC 6962 section 2.1.1).
    ///
    /// # Errors
    /// [`LogError`].
    pub fn inclusion_proof(&self, index: u64) -> Result<Vec<Hash>, LogError> {
        self.proven(self.tree().inclusion_proof(index))
    }

    fn proven(&self, proof: Result<Vec<Hash>, TileFault<LogError>>) -> Result<Vec<Hash>, LogError> {
        let number = self.newest.as_ref().map_or(0, |n| n.number);
        proof.map_err(|e| match e {
            TileFault::Read(e) => e,
            _ => LogError::Damaged { object: checkpoint_key(number), number },
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
/// [`LogError::Store`]; [`LogError::Rollback`] if what was seen is not there; [`LogError::Missing`] if one above a gap goes further:
/// a worker that went on below it would fork the log.
pub fn newest(
    store: &dyn Store,
    key: &VerifierKey,
    seen: Option<&Committed>,
) -> Result<Option<Committed>, LogError> {
    let mut found = None;
    if let Some(seen) = seen {
        if oldest(store, &checkpoint_key(seen.number), MAX_NOTE as u64, &|b| b == seen.bytes)?.is_none() {
            return Err(LogError::Rollback(seen.number));
        }
        found = Some(seen.clone());
    }
    let ahead = |f: &Option<Committed>| f.as_ref().map_or((0, 0), |f| (f.number + 1, f.checkpoint.size));
    loop {
        let (next, size) = ahead(&found);
        match checkpoint(store, key, next, size)? {
            Some(c) => found = Some(c),
            None => break,
        }
    }
    let (next, size) = ahead(&found);
    let prefix = "log/checkpoints/";
    let mut after = found.as_ref().map(|f| checkpoint_key(f.number));
    loop {
        let page = store.list(prefix, after.as_deref(), 1000)?;
        let numbers = page.keys.iter().filter_map(|k| k.strip_prefix(prefix)?.parse::<u64>().ok());
        for number in numbers.filter(|n| *n < NUMBERS) {
            if checkpoint(store, key, number, size)?.is_some() {
                return Err(LogError::Missing { object: checkpoint_key(next), number });
            }
        }
        match page.keys.last().filter(|_| page.more) {
            Some(last) => after = Some(last.clone()),
            None => return Ok(found),
        }
    }
}
