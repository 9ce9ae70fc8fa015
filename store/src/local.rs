//! A write-once store in a local directory.
//!
//! Objects appear whole under their final name or not at all: written under `.tmp/`, synced, made
//! read-only, renamed without replacing, and the directory synced. The retention record at
//! `.retention/<key>` is written first, so no object is ever there without one. This is the tool's own
//! honour, not a lock: whoever owns the directory can do anything to it, and the signatures are what
//! makes that visible.

use crate::disk::{self, Disk, Open};
use crate::{Head, Kind, Page, Put, Retain, Store, StoreError, Version};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::statement::Lock;
use waxseal_trail::time::Time;

/// What stands beside an object about how long it must stay.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    sha256: Hash,
    lock: Lock,
    retain_until: Time,
}

/// A directory as a write-once store.
pub struct LocalStore {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    counter: AtomicU64,
    /// Distinguishes the temporary names of processes that share the directory.
    tag: String,
}

impl LocalStore {
    /// Opens the directory; it must exist. `tag` must differ between processes that write to it at once.
    pub fn new(disk: Arc<dyn Disk>, root: impl Into<PathBuf>, tag: impl Into<String>) -> LocalStore {
        LocalStore { disk, root: root.into(), counter: AtomicU64::new(0), tag: tag.into() }
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let bad = key.split('/').any(|p| p.is_empty() || p == "." || p == "..");
        if bad || key.starts_with(".tmp/") || key.starts_with(".retention/") {
            return Err(StoreError::new("use", key, Kind::Key, io::ErrorKind::InvalidInput.into()));
        }
        Ok(self.root.join(key))
    }

    fn retention_path(&self, key: &str) -> PathBuf {
        self.root.join(".retention").join(key)
    }

    /// Writes `data` durably at `path` unless something is there.
    fn write_once(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        disk::create_dirs(&*self.disk, parent, false)?;
        let tmp_dir = self.root.join(".tmp");
        disk::create_dirs(&*self.disk, &tmp_dir, false)?;
        // For people who look at what a crash left: whose it was.
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let tmp = loop {
            let n = self.counter.fetch_add(1, Ordering::Relaxed);
            let tmp = tmp_dir.join(format!("{}-{n}-{name}", self.tag));
            match self.disk.open(&tmp, Open::Create) {
                // A leftover of a crash: another number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
                Ok(file) => {
                    let written = disk::write_all_at(&*file, data, 0).and_then(|()| file.sync());
                    if let Err(e) = written {
                        drop(file);
                        let _ = self.disk.remove(&tmp);
                        return Err(e);
                    }
                    break tmp;
                }
            }
        };
        let placed = self.disk.set_read_only(&tmp).and_then(|()| self.disk.rename(&tmp, path, false));
        if let Err(e) = placed {
            let _ = self.disk.remove(&tmp);
            return Err(e);
        }
        // A crash before this sync can lose the name again: then nobody has been told that it is there.
        self.disk.sync_dir(parent)
    }

    fn record(&self, key: &str) -> Result<Option<Record>, StoreError> {
        match disk::read_all(&*self.disk, &self.retention_path(key)) {
            // A record that cannot be read promises nothing.
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or(Record {
                sha256: Hash::empty(),
                lock: Lock::None,
                retain_until: Time::MIN,
            }))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("read the retention of", key, e)),
        }
    }

    fn write_record(&self, key: &str, digest: Hash, retain: &Retain) -> Result<(), StoreError> {
        let err = |e| StoreError::io("write the retention of", key, e);
        let record = Record { sha256: digest, lock: retain.lock, retain_until: retain.until };
        let bytes = serde_json::to_vec(&record).map_err(|e| err(e.into()))?;
        match self.write_once(&self.retention_path(key), &bytes) {
            // Of an earlier try at the same object; whose object it will be is decided by the object's name.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match self.record(key)? {
                Some(r) if r.sha256 == digest && r.retain_until == retain.until => Ok(()),
                _ => disk::replace(&*self.disk, &self.retention_path(key), &bytes).map_err(err),
            },
            other => other.map_err(err),
        }
    }

    /// All keys under `dir` (a key ending in `/`, or empty) in byte order, from after `after` on.
    fn walk(
        &self,
        dir: &str,
        prefix: &str,
        after: &str,
        limit: usize,
        out: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        let entries = match self.disk.read_dir(&self.root.join(dir)) {
            Ok(e) => e,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(e) => return Err(StoreError::io("list", dir, e)),
        };
        // With its slash a directory sorts where its keys sort.
        let mut keys: Vec<String> = entries
            .into_iter()
            .filter(|(name, _)| !(dir.is_empty() && matches!(name.as_str(), ".tmp" | ".retention")))
            .map(|(name, is_dir)| format!("{dir}{name}{}", if is_dir { "/" } else { "" }))
            .collect();
        keys.sort_unstable();
        for key in keys {
            if out.len() >= limit {
                break;
            }
            if key.ends_with('/') {
                let wanted = key.starts_with(prefix) || prefix.starts_with(&key);
                let passed = key.as_str() <= after && !after.starts_with(&key);
                if wanted && !passed {
                    self.walk(&key, prefix, after, limit, out)?;
                }
            } else if key.starts_with(prefix) && key.as_str() > after {
                out.push(key);
            }
        }
        Ok(())
    }
}

impl Store for LocalStore {
    fn put_if_absent(
        &self,
        key: &str,
        body: &[u8],
        digest: &Hash,
        retain: &Retain,
    ) -> Result<Put, StoreError> {
        let path = self.path(key)?;
        if sha256(body) != *digest {
            return Err(StoreError::new("write", key, Kind::Digest, io::ErrorKind::InvalidData.into()));
        }
        match self.get(key)? {
            Some(there) if there == body => {
                self.write_record(key, *digest, retain)?;
                // An earlier try may have stopped before this.
                let parent = path.parent().unwrap_or(&self.root);
                self.disk.sync_dir(parent).map_err(|e| StoreError::io("sync", key, e))?;
                return Ok(Put::Same);
            }
            Some(_) => return Ok(Put::Other),
            None => {}
        }
        self.write_record(key, *digest, retain)?;
        match self.write_once(&path, body) {
            Ok(()) => Ok(Put::Created),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Ok(if self.get(key)?.as_deref() == Some(body) { Put::Same } else { Put::Other })
            }
            Err(e) => Err(StoreError::io("write", key, e)),
        }
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match disk::read_all(&*self.disk, &self.path(key)?) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("read", key, e)),
        }
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        let err = |e| StoreError::io("read", key, e);
        let file = match self.disk.open(&self.path(key)?, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(err)?,
        };
        let end = range.end.min(file.len().map_err(err)?);
        let mut out = vec![0; usize::try_from(end.saturating_sub(range.start)).unwrap_or(0)];
        let mut at = 0;
        while at < out.len() {
            match file.read_at(&mut out[at..], range.start + at as u64).map_err(err)? {
                0 => break,
                n => at += n,
            }
        }
        out.truncate(at);
        Ok(Some(out))
    }

    fn head(&self, key: &str) -> Result<Option<Head>, StoreError> {
        let file = match self.disk.open(&self.path(key)?, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| StoreError::io("look at", key, e))?,
        };
        let bytes = file.len().map_err(|e| StoreError::io("look at", key, e))?;
        let record = self.record(key)?;
        let retain = record.map(|r| Retain { lock: r.lock, until: r.retain_until });
        Ok(Some(Head { bytes, retain }))
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let mut keys = Vec::new();
        self.walk("", prefix, after.unwrap_or(""), limit.saturating_add(1), &mut keys)?;
        let more = keys.len() > limit;
        keys.truncate(limit);
        Ok(Page { keys, more })
    }

    fn versions(&self, key: &str) -> Result<Vec<Version>, StoreError> {
        Ok(self.head(key)?.map(|h| Version { id: None, bytes: h.bytes }).into_iter().collect())
    }

    fn place(&self) -> String {
        format!("file://{}", self.root.display())
    }
}
