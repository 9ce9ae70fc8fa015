//! A write-once store in a local directory.
//!
//! Objects appear whole under their final name or not at all: written under `.tmp/`, synced, made
//! read-only, renamed without replacing, and the directory synced. The retention record at
//! `.retention/<key>` is written first, so no object is ever there without one. This is the tool's own
//! honour, not a lock: whoever owns the directory can do anything to it, and the signatures are what
//! makes that visible.

use crate::disk::{self, Disk, Open};
use crate::{At, Head, Kind, Mark, Object, Page, Put, Retain, Store, StoreError, Version, Versions, Written};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// A directory that was read, and where the page ended that it was read for.
#[derive(Default)]
struct Listed {
    dir: String,
    keys: Arc<Vec<String>>,
    /// The last key of the page; `None` if it was the last page, or none has been read.
    end: Option<String>,
}

/// A directory as a write-once store.
pub struct LocalStore {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    counter: AtomicU64,
    /// Distinguishes the temporary names of processes that share the directory.
    tag: String,
    /// The root when it was opened: what lies there when a file system is not mounted is another directory.
    identity: Mutex<Option<(u64, u64)>>,
    /// The trail statement then, if there was one.
    statement: Option<Vec<u8>>,
    /// Directories whose entries are known to be durable.
    made: Mutex<HashSet<PathBuf>>,
    /// The last large directory that was listed, for the next page of the same listing.
    listed: Mutex<Listed>,
}

impl LocalStore {
    /// Opens the directory; it must exist. `tag` must differ between processes that write to it at once.
    pub fn new(disk: Arc<dyn Disk>, root: impl Into<PathBuf>, tag: impl Into<String>) -> LocalStore {
        let root = root.into();
        LocalStore {
            identity: Mutex::new(disk.identity(&root).ok()),
            statement: disk::read_all(&*disk, &root.join(waxseal_trail::name::TRAIL)).ok(),
            disk,
            root,
            counter: AtomicU64::new(0),
            tag: tag.into(),
            made: Mutex::default(),
            listed: Mutex::default(),
        }
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let lock = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().contains(dir) {
            return Ok(());
        }
        disk::create_dirs(&*self.disk, &self.root, dir, false)?;
        lock().insert(dir.to_owned());
        Ok(())
    }

    /// Whether the root still is the directory that was opened.
    fn check_root(&self, key: &str) -> Result<(), StoreError> {
        let now = self.disk.identity(&self.root).map_err(|e| StoreError::io("write", key, e))?;
        let mut then = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if *then != Some(now) {
            // Mounted again, it may have another number; what a trail is, is known by its statement.
            let there = self.get(waxseal_trail::name::TRAIL)?;
            if then.is_some() && (there.is_none() || self.statement.is_some() && there != self.statement) {
                let why =
                    format!("{} is another directory than at the start: is it mounted?", self.root.display());
                return Err(StoreError::new("write", key, Kind::Unavailable, io::Error::other(why)));
            }
            self.made.lock().unwrap_or_else(PoisonError::into_inner).clear();
            *then = Some(now);
        }
        Ok(())
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
        self.place_whole(path, data, false)
    }

    /// The same; in the place of what is there, if `replace`.
    fn place_whole(&self, path: &Path, data: &[u8], replace: bool) -> io::Result<()> {
        match self.try_place(path, data, replace) {
            // A directory that was there has been removed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.made.lock().unwrap_or_else(PoisonError::into_inner).clear();
                self.try_place(path, data, replace)
            }
            other => other,
        }
    }

    fn try_place(&self, path: &Path, data: &[u8], replace: bool) -> io::Result<()> {
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        self.make_dir(parent)?;
        let tmp_dir = self.root.join(".tmp");
        self.make_dir(&tmp_dir)?;
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
        let placed = self.disk.set_read_only(&tmp).and_then(|()| self.disk.rename(&tmp, path, replace));
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
        for key in self.sorted(dir, after)?.iter() {
            if out.len() >= limit {
                break;
            }
            if key.ends_with('/') {
                let wanted = key.starts_with(prefix) || prefix.starts_with(key);
                let passed = key.as_str() <= after && !after.starts_with(key);
                if wanted && !passed {
                    self.walk(key, prefix, after, limit, out)?;
                }
            } else if key.starts_with(prefix) && key.as_str() > after {
                out.push(key.clone());
            }
        }
        Ok(())
    }

    /// The keys in a directory, sorted; read once for all pages of one listing.
    fn sorted(&self, dir: &str, after: &str) -> Result<Arc<Vec<String>>, StoreError> {
        let lock = || self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let last = lock();
            // Only where the page before ended: whoever begins elsewhere sees what is there now.
            if last.dir == dir && last.end.as_deref() == Some(after) {
                return Ok(last.keys.clone());
            }
        }
        let entries = match self.disk.read_dir(&self.root.join(dir)) {
            Ok(e) => e,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Vec::new()
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
        let keys = Arc::new(keys);
        let mut last = lock();
        if keys.len() > 1000 || last.dir == dir {
            (last.dir, last.keys, last.end) = (dir.to_owned(), keys.clone(), None);
        }
        drop(last);
        Ok(keys)
    }
}

impl Store for LocalStore {
    fn put_if_absent(
        &self,
        key: &str,
        body: &Bytes,
        digest: &Hash,
        retain: &Retain,
    ) -> Result<Put, StoreError> {
        let path = self.path(key)?;
        if sha256(body) != *digest {
            return Err(StoreError::new("write", key, Kind::Digest, io::ErrorKind::InvalidData.into()));
        }
        self.check_root(key)?;
        match self.get(key)? {
            Some(there) if there == *body => {
                self.write_record(key, *digest, retain)?;
                // An earlier try may have stopped before this.
                let parent = path.parent().unwrap_or(&self.root);
                self.disk.sync_dir(parent).map_err(|e| StoreError::io("sync", key, e))?;
                return Ok(Put::Same(Written::default()));
            }
            Some(_) => return Ok(Put::Other),
            None => {}
        }
        self.write_record(key, *digest, retain)?;
        match self.write_once(&path, body) {
            Ok(()) => Ok(Put::Created(Written::default())),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let same = self.get(key)?.as_deref() == Some(&body[..]);
                Ok(if same { Put::Same(Written::default()) } else { Put::Other })
            }
            Err(e) => Err(StoreError::io("write", key, e)),
        }
    }

    fn replace(&self, key: &str, body: &Bytes, digest: &Hash, retain: &Retain) -> Result<(), StoreError> {
        let path = self.path(key)?;
        if sha256(body) != *digest {
            return Err(StoreError::new("write", key, Kind::Digest, io::ErrorKind::InvalidData.into()));
        }
        self.check_root(key)?;
        self.write_record(key, *digest, retain)?;
        self.place_whole(&path, body, true).map_err(|e| StoreError::io("write", key, e))
    }

    fn read(&self, at: &At, limit: u64) -> Result<Option<Object>, StoreError> {
        let Some(head) = self.head(at)? else { return Ok(None) };
        if head.bytes > limit {
            return Ok(Some(Object { head, body: None }));
        }
        Ok(self.get(&at.key)?.map(|body| Object { head, body: Some(body) }))
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

    fn head(&self, at: &At) -> Result<Option<Head>, StoreError> {
        let key = &at.key;
        let file = match self.disk.open(&self.path(key)?, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| StoreError::io("look at", key, e))?,
        };
        let bytes = file.len().map_err(|e| StoreError::io("look at", key, e))?;
        let record = self.record(key)?;
        let retain = record.map(|r| Retain { lock: r.lock, until: r.retain_until });
        Ok(Some(Head { bytes, retain, ..Head::default() }))
    }

    fn extend(&self, at: &At, retain: &Retain) -> Result<(), StoreError> {
        let key = &at.key;
        self.check_root(key)?;
        match self.record(key)? {
            Some(r) if r.retain_until >= retain.until && r.lock.is_as_strong_as(retain.lock) => Ok(()),
            Some(r) => {
                let until = retain.until.max(r.retain_until);
                let lock = if r.lock.is_as_strong_as(retain.lock) { r.lock } else { retain.lock };
                self.write_record(key, r.sha256, &Retain { lock, until })
            }
            None => {
                let body = self.get(key)?;
                let body = body.ok_or_else(|| StoreError::io("lock", key, io::ErrorKind::NotFound.into()))?;
                self.write_record(key, sha256(&body), retain)
            }
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let mut keys = Vec::new();
        self.walk("", prefix, after.unwrap_or(""), limit.saturating_add(1), &mut keys)?;
        let more = keys.len() > limit;
        keys.truncate(limit);
        let mut last = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        last.end = keys.last().filter(|_| more).cloned();
        drop(last);
        Ok(Page { keys, more })
    }

    fn list_versions(&self, prefix: &str, after: Option<&Mark>) -> Result<Versions, StoreError> {
        let page = self.list(prefix, after.map(|m| m.key.as_str()), 1000)?;
        let last = page.keys.last().filter(|_| page.more).cloned();
        Ok(Versions {
            versions: page.keys.into_iter().map(|key| Version { key, ..Version::default() }).collect(),
            next: last.map(|key| Mark { key, version: None }),
        })
    }

    fn place(&self) -> String {
        format!("file://{}", self.root.display())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // what happens behind the store's back
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    fn store(root: &Path) -> LocalStore {
        LocalStore::new(Arc::new(RealDisk), root, "test")
    }

    fn until(text: &str) -> Retain {
        Retain { lock: Lock::None, until: Time::parse_rfc3339(text).unwrap() }
    }

    #[test]
    fn what_is_there_stays() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let s = store(dir.path());
        let retain = until("2030-01-01T00:00:00Z");
        let put = |body: &'static [u8]| {
            s.put_if_absent("a/b", &Bytes::from_static(body), &sha256(body), &retain).unwrap()
        };
        assert_eq!(put(b"one"), Put::Created(Written::default()));
        assert_eq!(put(b"one"), Put::Same(Written::default()));
        assert_eq!(put(b"two"), Put::Other);
        assert_eq!(s.get("a/b").unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(s.get_range("a/b", 1..99).unwrap().as_deref(), Some(&b"ne"[..]));
        assert_eq!(
            s.head(&At::key("a/b")).unwrap(),
            Some(Head { bytes: 3, retain: Some(retain), ..Head::default() })
        );
        assert_eq!(s.read(&At::key("a/b"), 2).unwrap().unwrap().body, None);
        let mode = std::fs::metadata(dir.path().join("a/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
        assert_eq!(s.get("a/c").unwrap(), None);
        assert_eq!(s.versions("a/b").unwrap().len(), 1);
        let wrong =
            s.put_if_absent("a/d", &Bytes::from_static(b"one"), &sha256(b"two"), &retain).unwrap_err();
        assert_eq!(wrong.kind, Kind::Digest);
        for key in ["", "/a", "a//b", "../a", ".tmp/a", ".retention/a"] {
            assert_eq!(
                s.put_if_absent(key, &Bytes::new(), &sha256(b""), &retain).unwrap_err().kind,
                Kind::Key,
                "{key:?}"
            );
        }
    }

    #[test]
    fn pages_are_the_whole_list() {
        let dir = tempfile::tempdir().unwrap();
        let s = store(dir.path());
        let retain = until("2030-01-01T00:00:00Z");
        let mut keys: Vec<String> = (0..1500).map(|n| format!("a/w/{n:05}")).collect();
        keys.extend(["a/w.x", "a/w/z/1", "a0", "b/1"].map(str::to_owned));
        for key in &keys {
            let path = dir.path().join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        keys.sort();
        for (prefix, limit) in [("", 7), ("a/w/", 1000), ("a/w/0", 333), ("a", 2000), ("b/1", 1), ("c", 5)] {
            let mut seen: Vec<String> = Vec::new();
            loop {
                let page = s.list(prefix, seen.last().map(String::as_str), limit).unwrap();
                assert!(page.keys.len() <= limit);
                seen.extend(page.keys);
                if !page.more {
                    break;
                }
            }
            let want: Vec<String> = keys.iter().filter(|k| k.starts_with(prefix)).cloned().collect();
            assert_eq!(seen, want, "{prefix:?} by {limit}");
        }
        // Whoever begins in the middle with a store that has read nothing sees what is there.
        let fresh = store(dir.path());
        assert_eq!(fresh.list("a/w/", Some("a/w/01498"), 9).unwrap().keys, ["a/w/01499", "a/w/z/1"]);
        assert_eq!(fresh.list("", Some("a/w/z/1"), 9).unwrap().keys, ["a0", "b/1"]);
        // And what came since, though it has read the directory before.
        let add = |key: &str| drop(s.put_if_absent(key, &Bytes::new(), &sha256(b""), &retain).unwrap());
        assert_eq!(s.list("a/w/", None, 2000).unwrap().keys.len(), 1501);
        add("a/w/01499x");
        assert_eq!(s.list("a/w/", Some("a/w/01499"), 1).unwrap().keys, ["a/w/01499x"]);
        // A new listing sees what is new.
        s.put_if_absent("a/w/00000x", &Bytes::new(), &sha256(b""), &retain).unwrap();
        assert_eq!(s.list("a/w/", None, 2).unwrap().keys, ["a/w/00000", "a/w/00000x"]);
    }

    #[test]
    fn another_directory_in_its_place_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (root, away) = (dir.path().join("trail"), dir.path().join("away"));
        std::fs::create_dir(&root).unwrap();
        let s = store(&root);
        std::fs::rename(&root, &away).unwrap();
        let retain = until("2030-01-01T00:00:00Z");
        let put = || s.put_if_absent("a", &Bytes::new(), &sha256(b""), &retain);
        assert_eq!(put().unwrap_err().kind, Kind::Unavailable);
        std::fs::create_dir(&root).unwrap();
        let e = put().unwrap_err();
        assert_eq!(e.kind, Kind::Unavailable, "{e}");
        assert!(e.to_string().contains("mounted"), "{e}");
        assert!(std::fs::read_dir(&root).unwrap().next().is_none());
        std::fs::remove_dir(&root).unwrap();
        std::fs::rename(&away, &root).unwrap();
        let created = Put::Created(Written::default());
        assert_eq!(put().unwrap(), created);
        std::fs::remove_dir(root.join(".tmp")).unwrap();
        assert_eq!(s.put_if_absent("b", &Bytes::new(), &sha256(b""), &retain).unwrap(), created);
    }
}
