//! What a worker keeps between rounds: the newest checkpoint that it has seen, which is a memory outside the store, and what the
//! log held then, so that the next round reads only what is new.

use crate::known::Known;
use crate::locks::Locks;
use crate::stamps::Ends;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use waxseal_log::Committed;
use waxseal_store::disk::{self, Disk};
use waxseal_trail::hash::Hash;
use waxseal_trail::log::checkpoint::Checkpoint;
use waxseal_trail::log::note::VerifierKey;
use waxseal_trail::time::Time;

/// Version 1 knew less of the writers: of it the checkpoint is kept, and what the log holds is read again. Version 2 knew less of when
/// time-stamps end: they are looked at again.
const VERSION: u64 = 3;

/// Makes a directory if it is not there, and keeps other processes out of it that ask in the same way, until what comes back is
/// dropped.
///
/// # Errors
/// A text that names it.
pub fn hold(dir: &Path) -> Result<std::fs::File, String> {
    use rustix::fs::{FlockOperation, flock};
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", dir.display());
    let whole = std::path::absolute(dir).map_err(|e| fail(&e))?;
    if !whole.is_dir() {
        let there = whole.ancestors().find(|d| d.is_dir()).unwrap_or(Path::new("/"));
        disk::create_dirs(&disk::RealDisk, there, &whole, true).map_err(|e| fail(&e))?;
    }
    let lock = std::fs::File::create(whole.join("lock")).map_err(|e| fail(&e))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| fail(&format!("another process uses it ({e})")))?;
    Ok(lock)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u64,
    trail: Hash,
    /// The number, and the signed note.
    checkpoint: Option<(u64, String)>,
    /// When this worker saw it first.
    seen_at: Option<Time>,
    known: serde_json::Value,
    #[serde(default)]
    locks: Locks,
    #[serde(default)]
    ends: serde_json::Value,
}

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The disk.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What is kept of a chain cannot be used.
    #[error(
        "{path}: {what}. If it is to be forgotten, move it away: the contract is then asked what is anchored"
    )]
    Chain {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// Of another trail or log, or of a later version.
    #[error(
        "{path}: {what}. If it is to be forgotten, move it away: the log is then read from its beginning"
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
}

/// What a worker knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The newest checkpoint.
    pub seen: Option<Committed>,
    /// When it was seen first.
    pub seen_at: Option<Time>,
    /// What the log holds there.
    pub known: Known,
    /// How far the locks are lengthened.
    pub locks: Locks,
    /// When the certificates of time-stamps end.
    pub ends: Ends,
}

/// Where it lies.
#[derive(Clone)]
pub struct StateFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    trail: Hash,
    key: VerifierKey,
}

impl StateFile {
    /// `state.json` in a directory that is there.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, trail: Hash, key: VerifierKey) -> StateFile {
        StateFile { disk, path: dir.join("state.json"), trail, key }
    }

    /// Reads it; a fresh state if there is none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn load(&self) -> Result<State, StateError> {
        let bytes = match disk::read_all(&*self.disk, &self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(source) => return Err(StateError::Io { path: self.path.clone(), source }),
        };
        let unusable = |what: String| StateError::Unusable { path: self.path.clone(), what };
        let file: File = serde_json::from_slice(&bytes).map_err(|e| unusable(e.to_string()))?;
        if !(1..=VERSION).contains(&file.version) {
            return Err(unusable(format!("version {}; this worker knows {VERSION}", file.version)));
        }
        let known = match file.version {
            1 => Known::default(),
            _ => serde_json::from_value(file.known).map_err(|e| unusable(e.to_string()))?,
        };
        let ends = match file.version {
            VERSION => serde_json::from_value(file.ends).map_err(|e| unusable(e.to_string()))?,
            _ => Ends::default(),
        };
        if file.trail != self.trail {
            return Err(unusable(format!("it is of trail {}", file.trail)));
        }
        let seen = file.checkpoint.map(|(number, note)| {
            let bytes = note.into_bytes();
            let (checkpoint, _) = Checkpoint::open(&bytes, &self.key).map_err(|e| unusable(e.to_string()))?;
            Ok(Committed { number, checkpoint, bytes })
        });
        Ok(State { seen: seen.transpose()?, seen_at: file.seen_at, known, locks: file.locks, ends })
    }

    /// Writes it, durably, in the place of the one before.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn save(&self, state: &State) -> Result<(), StateError> {
        let io = |source| StateError::Io { path: self.path.clone(), source };
        let note = |c: &Committed| (c.number, String::from_utf8_lossy(&c.bytes).into_owned());
        let file = File {
            version: VERSION,
            trail: self.trail,
            checkpoint: state.seen.as_ref().map(note),
            seen_at: state.seen_at,
            known: serde_json::to_value(&state.known).map_err(|e| io(e.into()))?,
            locks: state.locks.clone(),
            ends: serde_json::to_value(&state.ends).map_err(|e| io(e.into()))?,
        };
        let bytes = serde_json::to_vec(&file).map_err(|e| io(e.into()))?;
        disk::replace(&*self.disk, &self.path, &bytes).map_err(io)
    }
}
