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
use waxseal_log::{
    Committed, MAX_BUNDLE, NEWEST, ReadError, Reader, checkpoint, checkpoint_key, newest, tile_key,
};
use waxseal_store::{At, Put, Retain, Store, StoreError, oldest};
use waxseal_trail::hash::{leaf_hash, sha256};
use waxseal_trail::log::checkpoint::Checkpoint;
use waxseal_trail::log::note::{MAX_NOTE, Note, VerifierKey};
use waxseal_trail::log::tile::{Edge, Tile, WIDTH, put_entry};

/// Why a log cannot be read or added to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// What is there cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Another worker has committed a round meanwhile: nothing is lost, the log has to be opened again.
    #[error("another worker has written checkpoint {0}")]
    Overtaken(u64),
    /// Something else lies under a name in a store without versions.
    #[error(
        "{0} is there with other bytes, and nothing can be put beside it: does another worker write there?"
    )]
    Occupied(String),
    /// What a stopped round left is none that a worker would have written.
    #[error(
        "{0} lies behind the newest checkpoint and holds what no worker would log: look at it, and move it away"
    )]
    Foreign(String),
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

impl From<StoreError> for LogError {
    fn from(e: StoreError) -> LogError {
        LogError::Read(e.into())
    }
}

/// A log that is added to.
pub struct Log<'s> {
    store: &'s dyn Store,
    key: VerifierKey,
    retain: Retain,
    /// At the newest checkpoint: what proofs are made from.
    committed: Reader<'s>,
    edge: Edge,
    /// The bundle that is not full.
    bundle: Vec<u8>,
    broken: bool,
}

impl<'s> Log<'s> {
    /// Opens the log of `key`, whose name is the log's origin, and checks the newest checkpoint against what is there. What is
    /// written is kept as `retain` says. `seen` is the newest checkpoint that this worker knows: from there on checkpoints are
    /// read one by one, without it from the first. Before anything is added, [`Log::resume`] has to be called.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(
        store: &'s dyn Store,
        key: VerifierKey,
        retain: Retain,
        seen: Option<&Committed>,
    ) -> Result<Log<'s>, LogError> {
        let committed = Reader::open(store, newest(store, &key, seen)?)?;
        let edge = committed.edge().clone();
        let mut bundle = Vec::new();
        if !edge.leaves().is_empty() {
            bundle = committed.bundle(edge.size() / WIDTH, edge.leaves())?;
        }
        let log = Log { store, key, retain, committed, edge, bundle, broken: true };
        if let Some(newest) = log.newest() {
            log.check_before(newest)?;
            // A worker that was killed may have made it visible, and not durable.
            log.put_first(&checkpoint_key(newest.number), &newest.bytes)?;
            log.show(newest)?;
        }
        Ok(log)
    }

    /// In a directory, takes up what a round left that was stopped: `accept` gets each entry behind the newest checkpoint, in
    /// order, with its number, and says whether it may be logged.
    ///
    /// # Errors
    /// [`LogError`]; the log has to be opened again then.
    pub fn resume(&mut self, accept: &mut dyn FnMut(u64, &[u8]) -> bool) -> Result<(), LogError> {
        self.broken = false;
        let done = if self.store.has_versions() { Ok(()) } else { self.take_up(accept) };
        self.broken |= done.is_err();
        done
    }

    /// From now on what is written is kept as `retain` says.
    pub fn keep(&mut self, retain: Retain) {
        self.retain = retain;
    }

    /// The newest checkpoint that is committed.
    pub fn newest(&self) -> Option<&Committed> {
        self.committed.newest()
    }

    /// The log at the newest checkpoint.
    pub fn committed(&self) -> &Reader<'s> {
        &self.committed
    }

    /// How many entries there are, with those that no checkpoint is over yet.
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Whether the next checkpoint would say anything new.
    pub fn has_grown(&self) -> bool {
        self.committed.size() < self.size()
    }

    /// The newest checkpoint extends the one before.
    fn check_before(&self, newest: &Committed) -> Result<(), LogError> {
        let Some(before) = newest.number.checked_sub(1) else { return Ok(()) };
        let (object, number) = (checkpoint_key(before), newest.number);
        let Some(old) = checkpoint(self.store, &self.key, before, 0)? else {
            return Err(ReadError::Missing { object, number }.into());
        };
        let old = old.checkpoint;
        if old.size < newest.checkpoint.size && self.committed.root_of(old.size)? == old.root {
            return Ok(());
        }
        Err(ReadError::Damaged { object, number }.into())
    }

    /// The number of the next checkpoint.
    fn next(&self) -> u64 {
        self.newest().map_or(0, |n| n.number + 1)
    }

    /// Goes on with the entries that a round left which was stopped: their bundles have the names that this one would write.
    fn take_up(&mut self, accept: &mut dyn FnMut(u64, &[u8]) -> bool) -> Result<(), LogError> {
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
            let goes_on = bytes.strip_prefix(&self.bundle[..]).is_some_and(|rest| !rest.is_empty());
            if !goes_on || tile.entries(&bytes).is_none() {
                return Ok(());
            }
            // All of them first: nothing of a foreign bundle is added.
            let entries = tile.entries(&bytes).unwrap_or_default();
            let new = entries.get((size % WIDTH) as usize..).unwrap_or_default();
            if !(size..).zip(new).all(|(number, entry)| accept(number, entry)) {
                return Err(LogError::Foreign(tile_key(&tile)));
            }
            new.iter().try_for_each(|entry| self.append(entry))?;
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
            return Ok(self.newest());
        }
        self.broken = true;
        let size = self.size();
        if let Some(tile) = Tile::of(size, None, size / WIDTH) {
            self.put(&tile_key(&tile), &self.bundle)?;
        }
        for (tile, bytes) in self.edge.partial() {
            self.put(&tile_key(&tile), &bytes)?;
        }
        let number = self.next();
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
        match waxseal_log::checkpoint(self.store, &self.key, number, self.committed.size())? {
            Some(there) if there.bytes == bytes => {}
            _ => return Err(LogError::Overtaken(number)),
        }
        let committed = Committed { number, checkpoint, bytes };
        self.show(&committed)?;
        self.committed = Reader::at_edge(self.store, committed, self.edge.clone());
        self.broken = false;
        Ok(self.newest())
    }

    fn is_overtaken(&self, number: u64) -> Result<bool, LogError> {
        Ok(checkpoint(self.store, &self.key, number, self.committed.size())?.is_some())
    }

    /// Puts the copy of the newest checkpoint, unless one that goes further is there.
    fn show(&self, newest: &Committed) -> Result<(), LogError> {
        // A copy only: one that cannot be read is as good as none.
        let there = self.store.read(&At::key(NEWEST), MAX_NOTE as u64).ok().flatten().and_then(|o| o.body);
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
        let next = self.next();
        if self.is_overtaken(next)? {
            return Err(LogError::Overtaken(next));
        }
        Err(LogError::Occupied(key.to_owned()))
    }
}
