//! What recognises redelivered chunks, across crashes (DESIGN: the sink, rule 5).
//!
//! A chunk with a key (HTTP: `Idempotency-Key` and body) that is here was spooled; sent again, it is not
//! sealed again. Keys of frames that still lie in the spool are read from there; older ones from a file
//! that is written before their segments go.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use waxseal_store::disk::{self, Disk};

/// What became of the chunk when it first came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The sequence of its first record.
    pub first: u64,
    /// How many events it had.
    pub accepted: u32,
    /// How many of them were `unparsed`.
    pub unparsed: u32,
}

/// So many keys are remembered; the oldest go first.
pub const CAPACITY: usize = 65_536;
const MAGIC: &[u8; 8] = b"WXKNOWN1";
const ENTRY: usize = 32 + 16;

/// Values by key; beyond a number of keys the oldest goes.
#[derive(Debug)]
pub(crate) struct Recent<V> {
    map: HashMap<[u8; 32], V>,
    order: VecDeque<[u8; 32]>,
    capacity: usize,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Recent::new(CAPACITY)
    }
}

impl<V> Recent<V> {
    pub(crate) fn new(capacity: usize) -> Recent<V> {
        Recent { map: HashMap::new(), order: VecDeque::new(), capacity }
    }

    pub(crate) fn get(&self, key: &[u8; 32]) -> Option<&V> {
        self.map.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &[u8; 32]) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(crate) fn insert(&mut self, key: [u8; 32], value: V) {
        if self.map.insert(key, value).is_none() {
            self.order.push_back(key);
            if self.order.len() > self.capacity
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
        }
    }

    pub(crate) fn forget(&mut self, key: &[u8; 32]) {
        if self.map.remove(key).is_some() {
            self.order.retain(|k| k != key);
        }
    }
}

/// The chunks that are known.
#[derive(Debug, Default)]
pub struct Known(Recent<Fate>);

impl Known {
    /// Reads the file; a missing one is empty.
    ///
    /// # Errors
    /// The disk's, and `InvalidData` for a damaged file.
    pub fn load(disk: &dyn Disk, path: &Path) -> io::Result<Known> {
        let bytes = match disk::read_all(disk, path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
            other => other?,
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "damaged");
        let body = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
        let (crc, body) = body.split_at_checked(4).ok_or_else(damaged)?;
        if crc != crc32fast::hash(body).to_le_bytes() || body.len() % ENTRY != 0 {
            return Err(damaged());
        }
        let mut known = Known::default();
        for e in body.chunks(ENTRY) {
            let u32_at = |i: usize| u32::from_le_bytes([e[i], e[i + 1], e[i + 2], e[i + 3]]);
            let mut key = [0; 32];
            key.copy_from_slice(&e[..32]);
            let first = u64::from(u32_at(32)) | u64::from(u32_at(36)) << 32;
            known.insert(key, Fate { first, accepted: u32_at(40), unparsed: u32_at(44) });
        }
        Ok(known)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The disk's; the old file then stands.
    pub fn save(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let mut body = Vec::with_capacity(self.0.order.len() * ENTRY);
        for key in &self.0.order {
            let Some(f) = self.0.get(key) else { continue };
            body.extend_from_slice(key);
            body.extend_from_slice(&f.first.to_le_bytes());
            body.extend_from_slice(&f.accepted.to_le_bytes());
            body.extend_from_slice(&f.unparsed.to_le_bytes());
        }
        let crc = crc32fast::hash(&body).to_le_bytes();
        disk::replace(disk, path, &[MAGIC, &crc[..], &body].concat())
    }

    /// What became of a chunk, if it is known.
    pub fn get(&self, key: &[u8; 32]) -> Option<Fate> {
        self.0.get(key).copied()
    }

    /// Remembers a chunk.
    pub fn insert(&mut self, key: [u8; 32], fate: Fate) {
        self.0.insert(key, fate);
    }

    /// Forgets a chunk that was not spooled after all.
    pub fn forget(&mut self, key: &[u8; 32]) {
        self.0.forget(key);
    }
}
