//! A bucket in memory, for tests: keys have versions, anybody may write beside, calls are counted and fail when told to.

use crate::{
    At, Head, Kind, Mark, Object, Page, Put, Requests, Retain, Store, StoreError, Version, Versions, Written,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use waxseal_trail::hash::Hash;

/// How many versions a page of a listing has.
const PAGE: usize = 1000;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<Bytes>>,
    /// Versions that cannot be read, by key, and why.
    unreadable: BTreeMap<(String, usize), Kind>,
    /// What is put when something under a prefix is listed for the first time.
    late: Option<(String, BTreeMap<String, Vec<u8>>)>,
    /// How long versions are kept, where that was said.
    locks: BTreeMap<(String, usize), Retain>,
    requests: Requests,
    /// The call that fails, counted from now, and whether it has its effect all the same.
    fault: Option<(u64, bool)>,
}

impl State {
    fn add(&mut self, key: &str, body: &Bytes, retain: &Retain) {
        let versions = self.objects.entry(key.to_owned()).or_default();
        self.locks.insert((key.to_owned(), versions.len()), *retain);
        versions.push(body.clone());
    }
}

/// A bucket.
#[derive(Default)]
pub struct MemoryBucket(Mutex<State>);

impl MemoryBucket {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a version, as anybody may.
    pub fn stranger(&self, key: &str, bytes: &[u8]) {
        self.lock().objects.entry(key.to_owned()).or_default().push(Bytes::copy_from_slice(bytes));
    }

    /// Adds a version that nobody here may read.
    pub fn hidden(&self, key: &str, kind: Kind) {
        self.stranger(key, b"sealed under another's key");
        let mut state = self.lock();
        let version = state.objects.get(key).map_or(0, |v| v.len().saturating_sub(1));
        state.unreadable.insert((key.to_owned(), version), kind);
    }

    /// Lets everything under a prefix be unreadable from now on, or readable again.
    pub fn hide(&self, prefix: &str, kind: Option<Kind>) {
        let mut state = self.lock();
        let State { objects, unreadable, .. } = &mut *state;
        for (key, versions) in objects.iter().filter(|(k, _)| k.starts_with(prefix)) {
            for version in 0..versions.len() {
                match kind {
                    Some(kind) => drop(unreadable.insert((key.clone(), version), kind)),
                    None => drop(unreadable.remove(&(key.clone(), version))),
                }
            }
        }
    }

    /// Puts these when something under a prefix is listed next.
    pub fn appear(&self, prefix: &str, objects: BTreeMap<String, Vec<u8>>) {
        self.lock().late = Some((prefix.to_owned(), objects));
    }

    /// How long the versions of keys are kept, by key and version.
    pub fn locks(&self) -> BTreeMap<(String, usize), Retain> {
        self.lock().locks.clone()
    }

    /// Takes a key away with all its versions, as nobody may under a lock.
    pub fn remove(&self, key: &str) -> Option<Vec<Bytes>> {
        self.lock().objects.remove(key)
    }

    /// All keys and their versions.
    pub fn objects(&self) -> BTreeMap<String, Vec<Bytes>> {
        self.lock().objects.clone()
    }

    /// A bucket with these.
    pub fn with(objects: BTreeMap<String, Vec<Bytes>>) -> MemoryBucket {
        MemoryBucket(Mutex::new(State { objects, ..State::default() }))
    }

    /// Counts from zero again.
    pub fn reset(&self) {
        self.lock().requests = Requests::default();
    }

    /// Lets the call after `calls` others fail, and all later ones; `after`: it has its effect before it does.
    pub fn fail(&self, calls: u64, after: bool) {
        self.lock().fault = Some((calls, after));
    }

    /// Lets no more calls fail; whether one has.
    pub fn mend(&self) -> bool {
        self.lock().fault.take().is_some_and(|(left, _)| left == 0)
    }

    /// Does a call; counts it.
    fn call<T>(
        &self,
        operation: &'static str,
        key: &str,
        count: impl FnOnce(&mut Requests) -> &mut u64,
        act: impl FnOnce(&mut State) -> T,
    ) -> Result<T, StoreError> {
        let mut state = self.lock();
        *count(&mut state.requests) += 1;
        let fails = match &mut state.fault {
            Some((0, _)) => Some(false),
            Some((left, after)) => {
                *left -= 1;
                (*left == 0).then_some(*after)
            }
            None => None,
        };
        let failed =
            || Err(StoreError::new(operation, key, Kind::Unavailable, io::Error::other("told to fail")));
        match fails {
            Some(false) => failed(),
            Some(true) => {
                act(&mut state);
                failed()
            }
            None => Ok(act(&mut state)),
        }
    }
}

impl Store for MemoryBucket {
    fn put_if_absent(&self, key: &str, body: &Bytes, _: &Hash, retain: &Retain) -> Result<Put, StoreError> {
        self.call(
            "write",
            key,
            |r| &mut r.put,
            |s| {
                let versions = s.objects.entry(key.to_owned()).or_default();
                if versions.is_empty() {
                    s.add(key, body, retain);
                    return Put::Created(Written::default());
                }
                if versions.contains(body) { Put::Same(Written::default()) } else { Put::Other }
            },
        )
    }

    fn put_beside(&self, key: &str, body: &Bytes, _: &Hash, retain: &Retain) -> Result<Put, StoreError> {
        self.call(
            "write",
            key,
            |r| &mut r.put,
            |s| {
                s.add(key, body, retain);
                Put::Created(Written::default())
            },
        )
    }

    fn replace(&self, key: &str, body: &Bytes, _: &Hash, retain: &Retain) -> Result<(), StoreError> {
        self.call("write", key, |r| &mut r.put, |s| s.add(key, body, retain))
    }

    fn read(&self, at: &At, limit: u64) -> Result<Option<Object>, StoreError> {
        self.call(
            "read",
            &at.key,
            |r| &mut r.get,
            |s| {
                let versions = s.objects.get(&at.key)?;
                let which = match &at.version {
                    Some(v) => v.parse().ok()?,
                    None => versions.len().checked_sub(1)?,
                };
                let body = versions.get(which)?;
                if let Some(kind) = s.unreadable.get(&(at.key.clone(), which)) {
                    let why = io::Error::other("its bytes are sealed with another's key");
                    return Some(Err(StoreError::new("read", &at.key, *kind, why)));
                }
                let head = Head { bytes: body.len() as u64, ..Head::default() };
                Some(Ok(Object { body: (head.bytes <= limit).then(|| body.to_vec()), head }))
            },
        )?
        .transpose()
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        self.call(
            "read",
            key,
            |r| &mut r.get,
            |s| {
                let body = s.objects.get(key)?.last()?;
                let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(body.len());
                let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(end);
                Some(body[start..end].to_vec())
            },
        )
    }

    fn head(&self, at: &At) -> Result<Option<Head>, StoreError> {
        self.call(
            "look at",
            &at.key,
            |r| &mut r.head,
            |s| {
                let versions = s.objects.get(&at.key)?;
                let last = versions.len().checked_sub(1)?;
                let which = at.version.as_ref().map_or(Some(last), |v| v.parse().ok())?;
                let retain = s.locks.get(&(at.key.clone(), which)).copied();
                Some(Head { bytes: versions.get(which)?.len() as u64, retain, ..Head::default() })
            },
        )
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.call(
            "list",
            prefix,
            |r| &mut r.list,
            |s| {
                let start =
                    after.map_or_else(|| prefix.to_owned(), |a| format!("{a}\0").max(prefix.to_owned()));
                let keys = s.objects.range(start..).map(|(k, _)| k).take_while(|k| k.starts_with(prefix));
                let mut keys: Vec<String> = keys.take(limit + 1).cloned().collect();
                let more = keys.len() > limit;
                keys.truncate(limit);
                Page { keys, more }
            },
        )
    }

    fn list_versions(&self, prefix: &str, after: Option<&Mark>) -> Result<Versions, StoreError> {
        self.call(
            "list",
            prefix,
            |r| &mut r.list,
            |s| {
                if let Some((_, late)) = s.late.take_if(|(p, _)| prefix.starts_with(&p[..])) {
                    late.into_iter().for_each(|(k, b)| s.objects.entry(k).or_default().push(b.into()));
                }
                let start = after.map_or_else(|| prefix.to_owned(), |m| m.key.clone().max(prefix.to_owned()));
                let mut versions = Vec::new();
                for (key, bodies) in s.objects.range(start..).take_while(|(k, _)| k.starts_with(prefix)) {
                    // After a version of a key come the older ones; after a key, the next.
                    let newest = match after.filter(|m| m.key == *key) {
                        Some(Mark { version: Some(v), .. }) => v.parse().unwrap_or(0),
                        Some(Mark { version: None, .. }) => 0,
                        None => bodies.len(),
                    };
                    for id in (0..newest).rev() {
                        if versions.len() == PAGE {
                            let last: &Version = &versions[PAGE - 1];
                            let next = Mark { key: last.key.clone(), version: last.id.clone() };
                            return Versions { versions, next: Some(next) };
                        }
                        let bytes = Some(bodies[id].len() as u64);
                        versions.push(Version {
                            key: key.clone(),
                            id: Some(id.to_string()),
                            bytes,
                            delete_marker: false,
                        });
                    }
                }
                Versions { versions, next: None }
            },
        )
    }

    fn extend(&self, at: &At, retain: &Retain) -> Result<(), StoreError> {
        let lengthen = |s: &mut State| {
            let last = s.objects.get(&at.key)?.len().checked_sub(1)?;
            let which = at.version.as_ref().map_or(Some(last), |v| v.parse().ok())?;
            let lock = s.locks.entry((at.key.clone(), which)).or_insert(*retain);
            lock.until = lock.until.max(retain.until);
            Some(())
        };
        let there = self.call("lengthen the lock of", &at.key, |r| &mut r.other, lengthen)?;
        there.ok_or_else(|| StoreError::io("lengthen the lock of", &at.key, io::ErrorKind::NotFound.into()))
    }

    fn has_versions(&self) -> bool {
        true
    }

    fn requests(&self) -> Option<Requests> {
        Some(self.lock().requests)
    }

    fn place(&self) -> String {
        "memory".into()
    }
}
