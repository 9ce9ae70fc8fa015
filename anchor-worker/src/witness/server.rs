//! A witness of one's own: for a host that whoever owns the log does not.
//!
//! It keeps one row for each origin, in a file of its own that is durable before any signature leaves, and one lock is held from
//! the look at the row to the end of the write: so it never signs two checkpoints of which one does not extend the other.

use crate::serve::{Answer, Asked};
use hyper::Method;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use waxseal_signing::Signer;
use waxseal_store::disk::{self, Disk};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::log::checkpoint::Checkpoint;
use waxseal_trail::log::note::{Kind, Note, NoteFault, VerifierKey};
use waxseal_trail::log::witness::{AddCheckpoint, Refusal, SIZE_TYPE, Seen};

/// Why a witness cannot start, or does not sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// The request.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What it remembers cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A row that is none: a witness that forgot would sign anything.
    #[error("{path}: {what}; restore it: a witness that has forgotten would sign anything")]
    Row {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A log of which nothing is remembered.
    #[error(
        "{dir}: no row for {origin}: is the right volume mounted? If this log was never signed for under this key, say so \
         (--first): a witness that has forgotten would sign anything"
    )]
    Forgotten {
        /// The state directory.
        dir: PathBuf,
        /// The log.
        origin: String,
    },
    /// A key that cannot be used.
    #[error("the witness's key: {0}")]
    Key(NoteFault),
    /// The key did not sign.
    #[error("the witness's key did not sign: {0}")]
    Sign(String),
}

/// What it remembers of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    origin: String,
    size: u64,
    root: Hash,
    /// With the log's signature and its own.
    checkpoint: String,
}

/// A witness.
pub struct Witness {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    logs: Vec<VerifierKey>,
    signer: Arc<dyn Signer>,
    key: VerifierKey,
    rows: Mutex<BTreeMap<String, Row>>,
}

fn file_of(origin: &str) -> String {
    sha256(origin.as_bytes()).to_string()
}

impl Witness {
    /// Called `name`, for these logs; it keeps its rows in `dir`, which nobody else may use at the same time.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        name: &str,
        signer: Arc<dyn Signer>,
        logs: Vec<VerifierKey>,
    ) -> Result<Witness, WitnessError> {
        let key = VerifierKey::of(name, Kind::Cosignature, signer.public()).map_err(WitnessError::Key)?;
        let mut rows = BTreeMap::new();
        let entries = disk.read_dir(&dir).map_err(|source| WitnessError::Io { path: dir.clone(), source })?;
        for (file, _) in entries.into_iter().filter(|(f, _)| f.ends_with(".json")) {
            let path = dir.join(&file);
            let bytes = disk::read_all(&*disk, &path)
                .map_err(|source| WitnessError::Io { path: path.clone(), source })?;
            let bad = |what: String| WitnessError::Row { path: path.clone(), what };
            let row: Row = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
            let note = Note::parse(row.checkpoint.as_bytes()).map_err(|e| bad(e.to_string()))?;
            let checkpoint = Checkpoint::parse(&note.text).map_err(|e| bad(e.to_string()))?;
            let same =
                (&checkpoint.origin, checkpoint.size, checkpoint.root) == (&row.origin, row.size, row.root);
            let own = matches!(note.signed_by(&key), Ok(Some(_)));
            if !same || !own || file != format!("{}.json", file_of(&row.origin)) {
                return Err(bad("it is not a row that this witness wrote under its key".to_owned()));
            }
            rows.insert(row.origin.clone(), row);
        }
        Ok(Witness { disk, dir, logs, signer, key, rows: Mutex::new(rows) })
    }

    /// Refuses to begin with a log of which it remembers nothing.
    ///
    /// # Errors
    /// [`WitnessError::Forgotten`].
    pub fn knows_all(&self) -> Result<(), WitnessError> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        match self.logs.iter().find(|l| !rows.contains_key(l.name())) {
            Some(log) => {
                Err(WitnessError::Forgotten { dir: self.dir.clone(), origin: log.name().to_owned() })
            }
            None => Ok(()),
        }
    }

    /// The logs it remembers: origin and size.
    pub fn remembers(&self) -> Vec<(String, u64)> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.values().map(|r| (r.origin.clone(), r.size)).collect()
    }

    /// Keeps what a log signed that does not extend what it had signed before: it is the evidence. The last one stays, one file
    /// for each origin.
    fn keep_refused(&self, body: &[u8]) {
        let Ok(request) = AddCheckpoint::parse(body) else { return };
        let Ok(note) = Note::parse(request.checkpoint.as_bytes()) else { return };
        let Ok(checkpoint) = Checkpoint::parse(&note.text) else { return };
        let signed =
            |l: &&VerifierKey| l.name() == checkpoint.origin && matches!(note.signed_by(l), Ok(Some(_)));
        if self.logs.iter().any(|l| signed(&l)) {
            let path = self.dir.join(format!("{}.refused", file_of(&checkpoint.origin)));
            match disk::replace(&*self.disk, &path, request.checkpoint.as_bytes()) {
                Ok(()) => tracing::error!("{}: the checkpoint is kept there as evidence", path.display()),
                Err(e) => tracing::error!("{}: {e}", path.display()),
            }
        }
    }

    /// Its key, as policies carry it.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Cosigns a checkpoint, at `now`, in seconds since 1970; the signature line.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn add_checkpoint(&self, body: &[u8], now: u64) -> Result<String, WitnessError> {
        let request = AddCheckpoint::parse(body)?;
        // From here to the end of the write it is one step.
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let log = |origin: &str| self.logs.iter().find(|l| l.name() == origin).cloned();
        let seen = |origin: &str| {
            rows.get(origin).map_or_else(Seen::nothing, |r| Seen { size: r.size, root: r.root })
        };
        let (checkpoint, note, now_seen) = request.judge(log, seen)?;
        let message = self.key.message(Some(now), &note.text);
        let signature = self.signer.sign(&message).map_err(|e| WitnessError::Sign(e.to_string()))?;
        let signature = signature.try_into().map_err(|_| WitnessError::Sign("not Ed25519".to_owned()))?;
        let line = self.key.line(Some(now), &signature);
        // The log's lines, and its own; whoever else signed is not vouched for here.
        let by_log = |l: &&waxseal_trail::log::note::Line| l.name == checkpoint.origin;
        let known = self.logs.iter().filter(|l| l.name() == checkpoint.origin).map(VerifierKey::id);
        let known: Vec<[u8; 4]> = known.collect();
        let mut lines: Vec<_> =
            note.lines.iter().filter(by_log).filter(|l| known.contains(&l.id)).cloned().collect();
        lines.push(line.clone());
        let signed = Note { text: note.text, lines };
        if !matches!(signed.signed_by(&self.key), Ok(Some(_))) {
            return Err(WitnessError::Sign("its signature does not verify".to_owned()));
        }
        let row = Row {
            origin: checkpoint.origin,
            size: now_seen.size,
            root: now_seen.root,
            checkpoint: signed.to_string(),
        };
        let path = self.dir.join(format!("{}.json", file_of(&row.origin)));
        let io = |source| WitnessError::Io { path: path.clone(), source };
        let bytes = serde_json::to_vec(&row).map_err(|e| io(e.into()))?;
        // A stop before this is done: the row is the old one or the new one, and nobody has the signature.
        disk::replace(&*self.disk, &path, &bytes).map_err(io)?;
        rows.insert(row.origin.clone(), row);
        Ok(line.to_string())
    }

    /// The newest checkpoint of the log whose origin has this SHA-256, in hex.
    pub fn checkpoint(&self, origin: &str) -> Option<String> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.values().find(|r| file_of(&r.origin) == origin).map(|r| r.checkpoint.clone())
    }

    /// Answers a request at `now`.
    pub fn answer(&self, asked: &Asked, now: u64) -> Answer {
        let path = asked.path.trim_start_matches('/');
        match (&asked.method, path.split_once('/')) {
            (&Method::POST, None) if path == "add-checkpoint" => {
                match self.add_checkpoint(&asked.body, now) {
                    Ok(line) => Answer::text(200, line),
                    Err(WitnessError::Refused(Refusal::Conflict(size))) => {
                        Answer { kind: SIZE_TYPE, ..Answer::text(409, format!("{size}\n")) }
                    }
                    Err(WitnessError::Refused(refusal)) => {
                        if refusal.status() == 422 {
                            tracing::error!("not signed: {refusal}");
                            self.keep_refused(&asked.body);
                        } else {
                            tracing::warn!("not signed: {refusal}");
                        }
                        Answer::text(refusal.status(), format!("{refusal}\n"))
                    }
                    Err(e) => {
                        tracing::error!("{e}");
                        Answer::text(500, "the witness cannot keep what it sees\n")
                    }
                }
            }
            (&Method::GET, Some((origin, "checkpoint"))) => match self.checkpoint(origin) {
                Some(note) => Answer::text(200, note),
                None => Answer::text(404, "no checkpoint of this log was cosigned here\n"),
            },
            (&Method::GET, None) if path == "healthz" => Answer::text(200, "ok\n"),
            _ => Answer::text(404, "POST add-checkpoint, GET <SHA-256 of the origin>/checkpoint\n"),
        }
    }
}
