//! Write-once objects: one small trait; a local directory and S3 Object Lock behind it.
//!
//! A store can create an object if nothing is there under its key, and read. It cannot delete: there is no call for it. One
//! object is replaced, the copy of the log's newest checkpoint ([`Store::replace`]).

#![forbid(unsafe_code)]

pub mod disk;
mod local;
#[cfg(feature = "sim")]
pub mod memory;
pub mod s3;
#[cfg(feature = "sim")]
pub mod sim;

pub use local::LocalStore;

use bytes::Bytes;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use waxseal_trail::hash::Hash;
use waxseal_trail::statement::Lock;
use waxseal_trail::time::Time;

/// How long, and how strongly, an object is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retain {
    /// The kind of lock.
    pub lock: Lock,
    /// Until when; whole seconds.
    pub until: Time,
}

impl Retain {
    /// Whether what a store has is at least this.
    pub fn is_kept_by(&self, has: Option<Retain>) -> bool {
        self.lock == Lock::None
            || has.is_some_and(|r| r.until >= self.until && r.lock.is_as_strong_as(self.lock))
    }
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is there now, by this call.
    Created(Written),
    /// The object was there already with exactly these bytes: an earlier try of ours.
    Same(Written),
    /// Something else is there under this key. It stays.
    Other,
}

/// What a store calls what was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The version; a local directory has none.
    pub version: Option<String>,
}

/// What a store says of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its size.
    pub bytes: u64,
    /// Its lock, if the store knows of one.
    pub retain: Option<Retain>,
    /// SHA-256 of the object, where the store keeps it.
    pub sha256: Option<Hash>,
    /// Its version, where the store has versions.
    pub version: Option<String>,
    /// Its storage class, where that is not the usual one.
    pub class: Option<String>,
    /// Whether it cannot be read before it has been restored.
    pub archived: bool,
    /// Whether a restore of it is under way.
    pub restoring: bool,
    /// Whether a legal hold is on it.
    pub hold: bool,
}

/// An object, or a version of it, that is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Its key.
    pub key: String,
    /// Which version; the current one if that is not said.
    pub version: Option<String>,
    /// How large it should be, if that is known: a large one is then read in parts at once.
    pub bytes: Option<u64>,
}

impl At {
    /// The current version of a key.
    pub fn key(key: impl Into<String>) -> At {
        At { key: key.into(), version: None, bytes: None }
    }
}

/// An object that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What the store says of it.
    pub head: Head,
    /// Its bytes; `None` if they are more than the reader wanted.
    pub body: Option<Vec<u8>>,
}

/// Some of the keys under a prefix, in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The keys.
    pub keys: Vec<String>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// One version of a key, as a listing has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// The key.
    pub key: String,
    /// The store's id for it; a local directory has none.
    pub id: Option<String>,
    /// Its size, where the listing says it.
    pub bytes: Option<u64>,
    /// Whether it is a delete marker: no object, but the sign that someone deleted the key.
    pub delete_marker: bool,
}

/// Where a listing of versions goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// After this key,
    pub key: String,
    /// and after this version of it.
    pub version: Option<String>,
}

/// Some of the versions under a prefix: keys in byte order, of each the newest version first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// The versions.
    pub versions: Vec<Version>,
    /// Where it goes on, if there are more.
    pub next: Option<Mark>,
}

/// How often a store was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Requests {
    /// Objects or parts of them read.
    pub get: u64,
    /// Objects looked at.
    pub head: u64,
    /// Pages of listings.
    pub list: u64,
    /// Objects written, or tried.
    pub put: u64,
    /// Everything else.
    pub other: u64,
    /// Tries after the first, in those before.
    pub retries: u64,
}

/// What kind of failure it was: decides whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The key is none.
    Key,
    /// The body is not what its digest says; nothing was written.
    Digest,
    /// No room.
    Full,
    /// Not allowed.
    Permission,
    /// The credentials are none, are wrong, or have expired.
    Credentials,
    /// This machine's clock is too far from the store's.
    Clock,
    /// The object is archived: it has to be restored before it can be read.
    Archived,
    /// This one object cannot be read, and others may: its bytes are sealed with a key that this reader was not given (SSE-C),
    /// or what lies there is no file.
    Unreadable,
    /// The store cannot do what was asked; trying again does not help.
    Unfit,
    /// Everything else: it may pass.
    Unavailable,
}

// Linux's numbers.
const EIO: i32 = 5;
const EISDIR: i32 = 21;
const ELOOP: i32 = 40;

/// A call to a store that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {key}: {source}")]
pub struct StoreError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// On which key.
    pub key: String,
    /// Whether trying again can help.
    pub kind: Kind,
    /// The cause.
    pub source: io::Error,
}

impl StoreError {
    /// A failure of a given kind.
    pub fn new(operation: &'static str, key: &str, kind: Kind, source: io::Error) -> StoreError {
        StoreError { operation, key: key.to_owned(), kind, source }
    }

    /// A failure whose kind follows from the system's error.
    pub fn io(operation: &'static str, key: &str, source: io::Error) -> StoreError {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::Permission,
            // A directory in its place, a link to itself, a sector that is gone: other files may be read all the same.
            _ if matches!(operation, "read" | "look at")
                && matches!(source.raw_os_error(), Some(EISDIR | ELOOP | EIO)) =>
            {
                Kind::Unreadable
            }
            _ => Kind::Unavailable,
        };
        StoreError::new(operation, key, kind, source)
    }
}

/// A write-once store.
pub trait Store: Send + Sync {
    /// Creates an object unless something is there under `key`, durably and locked as `retain` says.
    /// Sending the same bytes again is harmless.
    ///
    /// # Errors
    /// [`StoreError`]; the object may or may not be there then, and the same call again finds out.
    fn put_if_absent(
        &self,
        key: &str,
        body: &Bytes,
        digest: &Hash,
        retain: &Retain,
    ) -> Result<Put, StoreError>;

    /// Adds a version to a key under which others lie (FORMAT section 5 rule 3). Where there are no versions, what is
    /// there stays: [`Put::Other`].
    ///
    /// # Errors
    /// [`StoreError`]; the version may or may not be there then.
    fn put_beside(&self, key: &str, body: &Bytes, digest: &Hash, retain: &Retain) -> Result<Put, StoreError> {
        let _ = (key, body, digest, retain);
        Ok(Put::Other)
    }

    /// Puts an object in the place of the one that is there: `log/checkpoint`, a copy of the newest, is the only one of a trail
    /// that changes. Where there are versions, it is one more.
    ///
    /// # Errors
    /// [`StoreError`]; either is there then.
    fn replace(&self, key: &str, body: &Bytes, digest: &Hash, retain: &Retain) -> Result<(), StoreError>;

    /// Reads an object, if it has no more than `limit` bytes; `None` if it is not there.
    ///
    /// # Errors
    /// [`StoreError`]; [`Kind::Archived`] if it has to be restored first.
    fn read(&self, at: &At, limit: u64) -> Result<Option<Object>, StoreError>;

    /// Reads some small objects, at once where that is quicker; in the same order.
    fn read_all(&self, at: &[At], limit: u64) -> Vec<Result<Option<Object>, StoreError>> {
        at.iter().map(|a| self.read(a, limit)).collect()
    }

    /// Reads an object; `None` if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read(&At::key(key), u64::MAX)?.and_then(|o| o.body))
    }

    /// Reads a part of an object, less where it ends; `None` if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError>;

    /// Looks at an object; `None` if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    fn head(&self, at: &At) -> Result<Option<Head>, StoreError>;

    /// At most `limit` keys that begin with `prefix` and are greater than `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError>;

    /// Versions of keys that begin with `prefix`, from after `after` on; at most 1,000.
    ///
    /// # Errors
    /// [`StoreError`].
    fn list_versions(&self, prefix: &str, after: Option<&Mark>) -> Result<Versions, StoreError>;

    /// All versions of one key, oldest first, delete markers too.
    ///
    /// # Errors
    /// [`StoreError`].
    fn versions(&self, key: &str) -> Result<Vec<Version>, StoreError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.list_versions(key, after.as_ref())?;
            // The key itself sorts before all others with it as their prefix.
            let passed = page.versions.iter().any(|v| v.key != key);
            found.extend(page.versions.into_iter().filter(|v| v.key == key));
            match page.next {
                Some(next) if !passed => after = Some(next),
                _ => break,
            }
        }
        found.reverse();
        Ok(found)
    }

    /// Asks for an archived object to be brought back for some days. `false`: that was asked before.
    ///
    /// # Errors
    /// [`StoreError`].
    fn restore(&self, at: &At, days: u16) -> Result<bool, StoreError> {
        let _ = (at, days);
        Ok(false)
    }

    /// Lengthens the lock of an object that is there; never shortens one.
    ///
    /// # Errors
    /// [`StoreError`]; the lock is as long as it was, or as long as was asked.
    fn extend(&self, at: &At, retain: &Retain) -> Result<(), StoreError>;

    /// Whether a key can have several versions.
    fn has_versions(&self) -> bool {
        false
    }

    /// Whether the store itself can keep objects locked so. A local directory cannot, and is the tool's own honour.
    ///
    /// # Errors
    /// [`Kind::Unfit`] if it cannot; another [`StoreError`] if that is not known.
    fn check_lock(&self, lock: Lock) -> Result<(), StoreError> {
        let _ = lock;
        Ok(())
    }

    /// Looks whether an object that was written is there with its digest and its lock.
    ///
    /// # Errors
    /// [`Kind::Unfit`] if it is not.
    fn confirm(&self, at: &At, digest: &Hash, retain: &Retain) -> Result<(), StoreError> {
        let _ = (at, digest, retain);
        Ok(())
    }

    /// Tries whether an object that is there keeps [`Store::put_if_absent`] from writing.
    ///
    /// # Errors
    /// [`Kind::Unfit`] if it does not.
    fn confirm_condition(
        &self,
        key: &str,
        body: &Bytes,
        digest: &Hash,
        retain: &Retain,
    ) -> Result<(), StoreError> {
        let _ = (key, body, digest, retain);
        Ok(())
    }

    /// What the configuration says the store cannot do, and what is done instead: a name and a sentence for each.
    fn fallbacks(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }

    /// How many objects it is worth writing at once.
    fn concurrency(&self) -> usize {
        1
    }

    /// How often it was asked so far, and whether that costs anything; a directory is not asked.
    fn requests(&self) -> Option<Requests> {
        None
    }

    /// Nobody waits any longer for calls that are under way, or for later ones: they fail. For a process that ends.
    fn abandon(&self) {}

    /// Where it is, for people.
    fn place(&self) -> String;
}

/// All keys under a prefix, page by page.
///
/// # Errors
/// [`StoreError`].
pub fn list_all(store: &dyn Store, prefix: &str, each: &mut dyn FnMut(String)) -> Result<(), StoreError> {
    let mut after: Option<String> = None;
    loop {
        let page = store.list(prefix, after.as_deref(), 1000)?;
        after = page.keys.last().cloned();
        page.keys.into_iter().for_each(&mut *each);
        if !page.more {
            return Ok(());
        }
    }
}

/// All versions under a prefix, page by page; see [`Versions`] for their order.
///
/// # Errors
/// [`StoreError`].
pub fn list_all_versions(
    store: &dyn Store,
    prefix: &str,
    each: &mut dyn FnMut(Version),
) -> Result<(), StoreError> {
    let mut after: Option<Mark> = None;
    loop {
        let page = store.list_versions(prefix, after.as_ref())?;
        page.versions.into_iter().for_each(&mut *each);
        match page.next {
            // A server that does not move on would keep us here for ever.
            Some(next) if after.as_ref() == Some(&next) => {
                let why = io::Error::other("the listing does not move on");
                return Err(StoreError::new("list", prefix, Kind::Unavailable, why));
            }
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// All keys under a prefix, those too that a delete marker hides; each once.
///
/// # Errors
/// [`StoreError`].
pub fn list_all_keys(
    store: &dyn Store,
    prefix: &str,
    each: &mut dyn FnMut(String),
) -> Result<(), StoreError> {
    let mut last = String::new();
    list_all_versions(store, prefix, &mut |v| {
        if v.key != last {
            last.clone_from(&v.key);
            each(v.key);
        }
    })
}

/// The oldest version under a key that `accept` takes.
///
/// # Errors
/// [`StoreError`].
pub fn oldest(
    store: &dyn Store,
    key: &str,
    limit: u64,
    accept: &dyn Fn(&[u8]) -> bool,
) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(oldest_version(store, key, limit, accept)?.map(|(_, body)| body))
}

/// [`oldest`], and which version that is.
///
/// # Errors
/// [`StoreError`].
pub fn oldest_version(
    store: &dyn Store,
    key: &str,
    limit: u64,
    accept: &dyn Fn(&[u8]) -> bool,
) -> Result<Option<(At, Vec<u8>)>, StoreError> {
    // Where there is one of each, it need not be listed.
    let all = if store.has_versions() {
        let live = store.versions(key)?.into_iter().filter(|v| !v.delete_marker);
        live.map(|v| At { key: v.key, version: v.id, bytes: v.bytes }).collect()
    } else {
        vec![At::key(key)]
    };
    // Who may put can put what nobody may read: that keeps nobody from what is beside it.
    let mut unread = None;
    for at in all {
        match store.read(&at, limit) {
            Ok(object) => {
                if let Some(body) = object.and_then(|o| o.body).filter(|b| accept(b)) {
                    return Ok(Some((at, body)));
                }
            }
            Err(e) if matches!(e.kind, Kind::Archived | Kind::Permission | Kind::Unreadable) => {
                unread.get_or_insert(e);
            }
            Err(e) => return Err(e),
        }
    }
    unread.map_or(Ok(None), Err)
}

/// Where a store is: the `store:` of the configuration, or a TRAIL on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `file:///path`, or a plain path.
    Local(PathBuf),
    /// `s3://bucket/prefix`; see [`s3::Settings`].
    S3(Box<s3::Settings>),
}

impl std::str::FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Location, String> {
        match text.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Ok(Location::Local(path.into())),
            Some(("file", _)) => Err(format!(
                "{text}: after file:// comes an absolute path, as in file:///var/lib/waxseal/trail"
            )),
            Some(("s3", rest)) => Ok(Location::S3(Box::new(s3::Settings::parse(rest)?))),
            Some((scheme, _)) => Err(format!(
                "{text}: there are stores at file:///path and s3://bucket/prefix, none at {scheme}://"
            )),
            None if text.is_empty() => Err("an empty store".to_owned()),
            None => Ok(Location::Local(text.into())),
        }
    }
}

impl Location {
    /// Opens the store there. What is in a network is not asked yet.
    ///
    /// # Errors
    /// A text that names the place, if there is none.
    pub fn open(&self) -> Result<Arc<dyn Store>, String> {
        match self {
            Location::Local(path) => {
                if !path.is_dir() {
                    return Err(format!("{}: no such directory", path.display()));
                }
                let tag = std::process::id().to_string();
                Ok(Arc::new(LocalStore::new(Arc::new(disk::RealDisk), path, tag)))
            }
            Location::S3(settings) => Ok(Arc::new(s3::S3Store::open(settings)?)),
        }
    }

    /// Makes the place if it is not there, for `waxseal init`; a bucket is made by `waxseal bucket init`.
    ///
    /// # Errors
    /// A text that names the place.
    pub fn create(&self) -> Result<Arc<dyn Store>, String> {
        if let Location::Local(path) = self {
            std::fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        self.open()
    }
}
