//! Write-once objects: one small trait, and a local directory behind it.
//!
//! A store can create an object if nothing is there under its key, and read. It cannot overwrite and it
//! cannot delete: there is no call for either.

#![forbid(unsafe_code)]

pub mod disk;
mod local;
#[cfg(feature = "sim")]
pub mod sim;

pub use local::LocalStore;

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

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is there now, by this call.
    Created,
    /// The object was there already with exactly these bytes: an earlier try of ours.
    Same,
    /// Something else is there under this key. It stays.
    Other,
}

/// What a store says of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its size.
    pub bytes: u64,
    /// Its lock, if the store knows of one.
    pub retain: Option<Retain>,
}

/// Some of the keys under a prefix, in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The keys.
    pub keys: Vec<String>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The store's id for it; a local directory has none.
    pub id: Option<String>,
    /// Its size.
    pub bytes: u64,
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
    /// Everything else: it may pass.
    Unavailable,
}

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
        body: &[u8],
        digest: &Hash,
        retain: &Retain,
    ) -> Result<Put, StoreError>;

    /// Reads an object; `None` if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Reads a part of an object, less where it ends; `None` if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError>;

    /// Looks at an object; `None` if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    fn head(&self, key: &str) -> Result<Option<Head>, StoreError>;

    /// At most `limit` keys that begin with `prefix` and are greater than `after`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError>;

    /// All versions of a key, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn versions(&self, key: &str) -> Result<Vec<Version>, StoreError>;

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

/// Where a store is: the `store:` of the configuration, or a TRAIL on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `file:///path`, or a plain path.
    Local(PathBuf),
}

impl std::str::FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Location, String> {
        match text.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Ok(Location::Local(path.into())),
            Some(("file", _)) => Err(format!(
                "{text}: after file:// comes an absolute path, as in file:///var/lib/waxseal/trail"
            )),
            Some((scheme, _)) => {
                Err(format!("{text}: this version knows stores at file:///path, none at {scheme}://"))
            }
            None if text.is_empty() => Err("an empty store".to_owned()),
            None => Ok(Location::Local(text.into())),
        }
    }
}

impl Location {
    /// Opens the store there.
    ///
    /// # Errors
    /// A text that names the place, if there is none.
    pub fn open(&self) -> Result<Arc<dyn Store>, String> {
        let Location::Local(path) = self;
        if !path.is_dir() {
            return Err(format!("{}: no such directory", path.display()));
        }
        Ok(Arc::new(LocalStore::new(Arc::new(disk::RealDisk), path, std::process::id().to_string())))
    }

    /// Makes the place if it is not there, for `waxseal init`.
    ///
    /// # Errors
    /// A text that names the place.
    pub fn create(&self) -> Result<Arc<dyn Store>, String> {
        let Location::Local(path) = self;
        std::fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))?;
        self.open()
    }
}
