//! The state directory: whose sink this is, how far its trail is stored, what is sealed and not yet stored.
//!
//! ```text
//! state_dir/
//!   lock                       held while a sink runs
//!   current                    the name of the epoch's directory
//!   reserve                    room for one batch, given up when the disk is full
//!   epoch-<32 hex>/
//!     epoch.json               identity; the genesis envelope, exactly as it is sent
//!     certificate-<sha>.der    what genesis and key statements name
//!     keys-<n>.json            key statements, exactly as they are sent
//!     journal.json             progress: everything up to here is in the store
//!     known                    what recognises redelivered chunks
//!     spool/<n>.seg            see `spool`
//!     intents/<batch>.parquet  a sealed batch, exactly as it is sent
//!     intents/<batch>.json     its header; this file's appearance is the seal
//! ```
//!
//! Progress after a stop is `journal.json` plus the intents, in order; then the spool. There is no other
//! path: start, crash and failed sync all come through [`Epoch::open`].

use crate::keys::Signing;
use crate::signer::{self, SignerError};
use crate::spool::{SpoolError, is_full};
use crate::{Context, SOFTWARE};
use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use waxseal_store::disk::{self, Disk};
use waxseal_store::{Kind, StoreError};
use waxseal_trail::envelope::{Envelope, EnvelopeFault, MAX_ENVELOPE};
use waxseal_trail::hash::{Hash, leaf_hash, sha256};
use waxseal_trail::keys::PublicKey;
use waxseal_trail::name;
use waxseal_trail::record::new_epoch;
use waxseal_trail::statement::{
    self, After, Batch, Filter, Intake, Keys, Payload as _, PayloadFault, Predecessor, Reason, State, Trail,
    Writer, WriterKey,
};
use waxseal_trail::time::Time;
use waxseal_trail::valid;

/// Room for a batch on a disk that is full.
const RESERVE: &str = "reserve";

/// Why the sink cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The store.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// A file of the state directory.
    #[error("the state directory: cannot {operation} {path}: {source}")]
    State {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file of the state directory that cannot be understood.
    #[error(
        "the state directory: {path} is damaged: {why}. Move the state directory aside to begin a new epoch"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// The trail statement.
    #[error("{place}/trail.json: {why}")]
    Trail {
        /// Where.
        place: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The configuration does not fit the state directory or the trail.
    #[error("{0}")]
    Mismatch(String),
    /// No signature.
    #[error("cannot sign: {0}")]
    Sign(#[from] SignerError),
    /// A statement that would break a limit.
    #[error("a statement of ours: {0}")]
    Statement(#[from] EnvelopeFault),
    /// An events object that cannot be written.
    #[error("an events object: {0}")]
    Events(#[from] waxseal_events::EventsError),
    /// No randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

pub(crate) fn state_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> SinkError + 'a {
    move |source| SinkError::State { operation, path: path.into(), source }
}

/// How far an epoch has come: after a header, and before any, after its genesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The number of the next batch.
    pub next_batch: u64,
    /// Statement hash of the last header, or of the genesis.
    pub previous: Hash,
    /// The sequence of the next record.
    pub next_sequence: u64,
    /// `H` of the last record, or of the genesis payload.
    pub last_hash: Hash,
    /// Totals.
    pub intake: Intake,
    /// Of the last header, or the genesis's `created_at`.
    pub sealed_at: Time,
    /// The number of the key statement in force.
    pub keys: u64,
    /// The state of the last header.
    pub state: State,
    /// The filters of the last header; none before any.
    #[serde(default)]
    pub filters: Vec<Filter>,
}

impl Progress {
    fn start(genesis: &Writer, payload: &[u8]) -> Progress {
        let hash = leaf_hash(payload);
        Progress {
            next_batch: 0,
            previous: hash,
            next_sequence: 0,
            last_hash: hash,
            intake: Intake::default(),
            sealed_at: genesis.created_at,
            keys: 0,
            state: State::Running,
            filters: Vec::new(),
        }
    }

    /// After this header.
    pub fn after(header: &Batch, statement: Hash) -> Progress {
        Progress {
            next_batch: header.batch + 1,
            previous: statement,
            next_sequence: header.events.first_sequence + header.events.count,
            last_hash: header.events.last_hash,
            intake: header.intake,
            sealed_at: header.sealed_at,
            keys: header.keys,
            state: header.state,
            filters: header.filters.clone(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    version: u32,
    boot: u64,
    genesis_stored: bool,
    #[serde(default)]
    keys_stored: u64,
    /// What the store calls the objects of the last batch.
    #[serde(default)]
    last: Vec<Kept>,
    progress: Progress,
}

/// An object that the store has, as it said when it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Its key.
    pub key: String,
    /// Its version, where the store has versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The digest with which it was sent.
    pub sha256: Hash,
    /// Whether something that is not valid was there first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub beside: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    version: u32,
    machine: String,
    /// The trail statement's envelope, base64.
    trail: String,
    /// The genesis envelope, base64.
    genesis: String,
}

/// A sealed batch on its way to the store.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The header's payload.
    pub header: Batch,
    /// The header's envelope, exactly as it is stored.
    pub envelope: Vec<u8>,
    /// Its statement hash.
    pub statement: Hash,
    /// The events object, exactly as it is stored.
    pub object: Option<Bytes>,
}

/// A key statement, as it is sent.
#[derive(Clone, Debug)]
pub struct KeyStatement {
    /// What it says.
    pub payload: Keys,
    /// Its envelope, exactly as it is stored.
    pub envelope: Vec<u8>,
    /// Its statement hash.
    pub statement: Hash,
}

/// An open epoch.
pub struct Epoch {
    /// Its directory.
    pub dir: PathBuf,
    /// `<name>.<epoch>`
    pub writer: String,
    /// The trail id.
    pub trail_id: Hash,
    /// The trail statement.
    pub trail: Trail,
    /// The genesis envelope, as it is stored.
    pub genesis: Vec<u8>,
    /// Its payload.
    pub genesis_payload: Writer,
    /// How often this epoch has started, from 1.
    pub boot: u64,
    genesis_stored: bool,
    /// From number 1 on.
    key_statements: Vec<KeyStatement>,
    keys_stored: u64,
    last: Vec<Kept>,
    /// What the store holds.
    pub stored: Progress,
    /// What is sealed.
    pub sealed: Progress,
    /// Sealed and not stored, in order.
    pub intents: Vec<Intent>,
}

/// What an epoch is opened or made with.
pub(crate) enum Opened {
    /// This one goes on.
    Same(Box<Epoch>),
    /// It cannot: a new one has to begin, for this reason.
    New(Reason, Option<Box<Epoch>>),
}

impl Epoch {
    /// Opens the current epoch, or says why a new one is needed.
    pub(crate) fn open(cx: &Context) -> Result<Opened, SinkError> {
        let state = &cx.config.state_dir;
        if let Some(base) = state.parent().filter(|p| !p.as_os_str().is_empty()) {
            match disk::create_dirs(&*cx.disk, base, state, true) {
                // A directory above ours that we may pass but not read: its entries are somebody else's matter.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                other => other.map_err(state_error("make", state))?,
            }
        }
        // The pointer is relied on: it must be durable, even if the sync that was to make it so failed.
        cx.disk.sync_dir(state).map_err(state_error("sync", state))?;
        let pointer = state.join("current");
        let name = match disk::read_all(&*cx.disk, &pointer) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Opened::New(Reason::First, None)),
            Err(e) => return Err(state_error("read", &pointer)(e)),
        };
        let mut epoch = Epoch::load(cx, &state.join(name))?;
        let (writer, _) = name::split_writer(&epoch.writer).unwrap_or_default();
        if writer != cx.config.writer {
            return Err(SinkError::Mismatch(format!(
                "state_dir {} belongs to the writer {writer:?}, and the configuration says {:?}: give this sink a \
                 state directory of its own",
                state.display(),
                cx.config.writer
            )));
        }
        cx.check_trail_name(&epoch.trail, &epoch.trail_id)?;
        let machine = epoch.machine(cx)?;
        if machine != cx.machine {
            tracing::error!(
                "the state directory was made on machine {machine:?} and this is {:?}: a copied disk. A new epoch \
                 begins; the original goes on in its own",
                cx.machine
            );
            return Ok(Opened::New(Reason::Fork, Some(Box::new(epoch))));
        }
        let signing = cx.config.signing.get();
        let changed = epoch.keys() != signing.keys();
        if changed && !epoch.keys().iter().all(|k| signing.signer(&k.spki).is_some()) {
            return Ok(Opened::New(Reason::KeyLost, Some(Box::new(epoch))));
        }
        if epoch.sealed.state == State::Retired {
            return Ok(Opened::New(Reason::Rollover, Some(Box::new(epoch))));
        }
        if changed {
            epoch.rotate(cx, &signing)?;
        }
        Ok(Opened::Same(Box::new(epoch)))
    }

    /// The keys in force.
    fn keys(&self) -> &[WriterKey] {
        self.key_statements.last().map_or(&self.genesis_payload.keys, |k| &k.payload.keys)
    }

    /// The keys that key statement `number` put in force; 0 is the genesis.
    pub fn keys_under(&self, number: u64) -> &[WriterKey] {
        let statement = self.key_statements.iter().rev().find(|k| k.payload.number <= number);
        statement.map_or(&self.genesis_payload.keys, |k| &k.payload.keys)
    }

    /// The keys that sign header `batch`.
    pub fn keys_before(&self, batch: u64) -> &[WriterKey] {
        let before = |k: &&KeyStatement| k.payload.after.as_ref().is_none_or(|a| a.batch < batch);
        let statement = self.key_statements.iter().rev().find(before);
        statement.map_or(&self.genesis_payload.keys, |k| &k.payload.keys)
    }

    /// Whether there is room on the disk for one more batch, whatever happens.
    pub fn has_reserve(cx: &Context) -> bool {
        let path = cx.config.state_dir.join(RESERVE);
        cx.disk
            .open(&path, disk::Open::Read)
            .and_then(|f| f.len())
            .is_ok_and(|n| n >= cx.config.max_batch_bytes)
    }

    /// The number of the key statement in force; the genesis is 0.
    pub fn key_number(&self) -> u64 {
        self.key_statements.last().map_or(0, |k| k.payload.number)
    }

    /// The first key statement that is not stored and has to be before header `batch` is.
    pub fn pending_keys(&self, batch: u64) -> Option<&KeyStatement> {
        let next = self.key_statements.iter().find(|k| k.payload.number > self.keys_stored)?;
        next.payload.after.as_ref().is_none_or(|a| a.batch < batch).then_some(next)
    }

    /// Notes that a key statement is in the store.
    ///
    /// # Errors
    /// [`SinkError::State`]; storing it again is harmless.
    pub fn note_keys_stored(&mut self, cx: &Context, number: u64) -> Result<(), SinkError> {
        self.keys_stored = number;
        self.write_journal(cx)
    }

    /// Puts other keys in force, in a statement that the old ones and the new ones sign; durable when it returns.
    fn rotate(&mut self, cx: &Context, signing: &Signing) -> Result<(), SinkError> {
        let old = self.keys().to_vec();
        let payload = Keys {
            format: statement::format_of::<Keys>(),
            trail: self.trail_id,
            writer: self.writer.clone(),
            number: self.key_number() + 1,
            previous: match self.key_statements.last() {
                Some(last) => last.statement,
                None => self.genesis_statement()?,
            },
            after: self
                .sealed
                .next_batch
                .checked_sub(1)
                .map(|batch| After { batch, statement: self.sealed.previous }),
            keys: signing.keys(),
        };
        let fresh = payload.keys.iter().filter(|k| !old.iter().any(|o| o.spki == k.spki));
        let signers: Vec<_> =
            old.iter().chain(fresh).filter_map(|k| signing.signer(&k.spki).cloned()).collect();
        let mut envelope = statement::unsigned(&payload);
        signer::sign(&mut envelope, &signers)?;
        let statement =
            KeyStatement { envelope: envelope.to_bytes()?, statement: envelope.statement_hash(), payload };
        Epoch::keep_certificates(cx, &self.dir, signing)?;
        let path = self.keys_path(statement.payload.number);
        disk::replace(&*cx.disk, &path, &statement.envelope).map_err(state_error("write", &path))?;
        tracing::info!("key statement {} puts other signing keys in force", statement.payload.number);
        self.key_statements.push(statement);
        Ok(())
    }

    fn keys_path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("keys-{number:06}.json"))
    }

    fn genesis_statement(&self) -> Result<Hash, SinkError> {
        let path = self.dir.join("epoch.json");
        let envelope =
            Envelope::parse(&self.genesis).map_err(|e| SinkError::Damaged { path, why: e.to_string() })?;
        Ok(envelope.statement_hash())
    }

    fn load_keys(&mut self, cx: &Context) -> Result<(), SinkError> {
        // What is found is relied on: it must be durable, even if the sync that was to make it so failed.
        cx.disk.sync_dir(&self.dir).map_err(state_error("sync", &self.dir))?;
        loop {
            let path = self.keys_path(self.key_number() + 1);
            let bytes = match disk::read_all(&*cx.disk, &path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other.map_err(state_error("read", &path))?,
            };
            let damaged = |why: String| SinkError::Damaged { path: path.clone(), why };
            let envelope = Envelope::parse(&bytes).map_err(|e| damaged(e.to_string()))?;
            let payload: Keys = statement::read(&envelope).map_err(|e| damaged(e.to_string()))?;
            if payload.number != self.key_number() + 1 {
                return Err(damaged("it is not the next key statement".to_owned()));
            }
            let statement = envelope.statement_hash();
            self.key_statements.push(KeyStatement { payload, envelope: bytes, statement });
        }
    }

    fn machine(&self, cx: &Context) -> Result<String, SinkError> {
        Ok(read_json::<Identity>(&*cx.disk, &self.dir.join("epoch.json"))?.machine)
    }

    fn load(cx: &Context, dir: &Path) -> Result<Epoch, SinkError> {
        let path = dir.join("epoch.json");
        let damaged = |why: String| SinkError::Damaged { path: path.clone(), why };
        let identity: Identity = read_json(&*cx.disk, &path)?;
        let bytes = |text: &str| BASE64.decode(text.as_bytes()).map_err(|e| damaged(e.to_string()));
        let (trail, trail_id) = read_trail(&bytes(&identity.trail)?).map_err(damaged)?;
        let genesis = bytes(&identity.genesis)?;
        let envelope = Envelope::parse(&genesis).map_err(|e| damaged(e.to_string()))?;
        let genesis_payload: Writer = statement::read(&envelope).map_err(|e| damaged(e.to_string()))?;
        let journal_path = dir.join("journal.json");
        let journal: Journal = read_json(&*cx.disk, &journal_path)?;
        let mut epoch = Epoch {
            dir: dir.into(),
            writer: genesis_payload.writer.clone(),
            trail_id,
            trail,
            genesis,
            genesis_payload,
            boot: journal.boot,
            genesis_stored: journal.genesis_stored,
            key_statements: Vec::new(),
            keys_stored: journal.keys_stored,
            last: journal.last,
            stored: journal.progress.clone(),
            sealed: journal.progress,
            intents: Vec::new(),
        };
        epoch.load_keys(cx)?;
        epoch.load_intents(cx)?;
        Epoch::keep_reserve(cx);
        Ok(epoch)
    }

    fn load_intents(&mut self, cx: &Context) -> Result<(), SinkError> {
        let dir = self.dir.join("intents");
        disk::create_dirs(&*cx.disk, &self.dir, &dir, true).map_err(state_error("make", &dir))?;
        // What is found is relied on: it must be durable, even if the sync that was to make it so failed.
        cx.disk.sync_dir(&dir).map_err(state_error("sync", &dir))?;
        let names = cx.disk.read_dir(&dir).map_err(state_error("list", &dir))?;
        let mut batches: Vec<u64> =
            names.iter().filter_map(|(n, _)| n.strip_suffix(".json")?.parse().ok()).collect();
        batches.sort_unstable();
        for batch in batches {
            let (json, parquet) = self.intent_paths(batch);
            if batch < self.stored.next_batch {
                // Stored, and stopped before it was removed.
                remove(&*cx.disk, &parquet)?;
                remove(&*cx.disk, &json)?;
                continue;
            }
            let damaged = |why: String| SinkError::Damaged { path: json.clone(), why };
            let envelope = disk::read_all(&*cx.disk, &json).map_err(state_error("read", &json))?;
            let parsed = Envelope::parse(&envelope).map_err(|e| damaged(e.to_string()))?;
            let header: Batch = statement::read(&parsed).map_err(|e: PayloadFault| damaged(e.to_string()))?;
            if header.batch != batch
                || batch != self.sealed.next_batch
                || header.previous != self.sealed.previous
            {
                return Err(damaged("it does not follow the batch before".to_owned()));
            }
            let object = match &header.object {
                None => None,
                Some(object) => {
                    let bytes = disk::read_all(&*cx.disk, &parquet).map_err(state_error("read", &parquet))?;
                    if sha256(&bytes) != object.sha256 {
                        return Err(SinkError::Damaged {
                            path: parquet,
                            why: "not the digest in its header".to_owned(),
                        });
                    }
                    Some(bytes.into())
                }
            };
            let statement = parsed.statement_hash();
            self.sealed = Progress::after(&header, statement);
            self.intents.push(Intent { header, envelope, statement, object });
        }
        // Events objects whose header was never written: the batch is sealed again from the spool.
        for (name, _) in names {
            let batch = name.strip_suffix(".parquet").and_then(|n| n.parse::<u64>().ok());
            if batch.is_some_and(|b| b >= self.sealed.next_batch) || name.ends_with(".tmp") {
                remove(&*cx.disk, &dir.join(name))?;
            }
        }
        Ok(())
    }

    fn intent_paths(&self, batch: u64) -> (PathBuf, PathBuf) {
        let dir = self.dir.join("intents");
        (dir.join(format!("{batch:012}.json")), dir.join(format!("{batch:012}.parquet")))
    }

    /// Writes a sealed batch down, so that every attempt to store it sends exactly these bytes. Durable when
    /// it returns.
    ///
    /// # Errors
    /// [`SinkError::State`]; whether it is sealed is then found out by opening the epoch again.
    pub fn write_intent(&mut self, cx: &Context, intent: &Intent) -> Result<(), SinkError> {
        let (json, parquet) = self.intent_paths(intent.header.batch);
        if intent.header.batch != self.sealed.next_batch || intent.header.previous != self.sealed.previous {
            return Err(state_error("seal", &json)(io::Error::other("it does not follow the batch before")));
        }
        let write = || -> Result<(), SinkError> {
            if let Some(object) = &intent.object {
                remove(&*cx.disk, &parquet)?;
                let write = || -> io::Result<()> {
                    let file = cx.disk.open(&parquet, disk::Open::Create)?;
                    disk::write_all_at(&*file, object, 0)?;
                    file.sync()?;
                    // Its name must be durable before the header's can be: a seal without its object is none.
                    cx.disk.sync_dir(&self.dir.join("intents"))
                };
                write().map_err(state_error("write", &parquet))?;
            }
            // The seal: from here on this batch is these bytes.
            disk::replace(&*cx.disk, &json, &intent.envelope).map_err(state_error("write", &json))
        };
        match write() {
            // What gives the disk room back needs room itself: this was kept for it.
            Err(SinkError::State { source, .. }) if is_full(&source) => {
                self.write_into_reserve(cx, intent)?;
            }
            other => other?,
        }
        self.sealed = Progress::after(&intent.header, intent.statement);
        Ok(())
    }

    /// [`Epoch::write_intent`] on a full disk: the reserve becomes the events object, so that nobody else can take
    /// its room, and what is left over of it is room for the header.
    fn write_into_reserve(&self, cx: &Context, intent: &Intent) -> Result<(), SinkError> {
        let (json, parquet) = self.intent_paths(intent.header.batch);
        let reserve = cx.config.state_dir.join(RESERVE);
        if let Some(object) = &intent.object {
            let write = || -> io::Result<()> {
                cx.disk.rename(&reserve, &parquet, true)?;
                let file = cx.disk.open(&parquet, disk::Open::Write)?;
                disk::write_all_at(&*file, object, 0)?;
                file.set_len(object.len() as u64)?;
                file.sync()?;
                cx.disk.sync_dir(&self.dir.join("intents"))
            };
            write().map_err(state_error("write", &parquet))?;
        } else {
            remove(&*cx.disk, &reserve)?;
        }
        disk::replace(&*cx.disk, &json, &intent.envelope).map_err(state_error("write", &json))
    }

    /// Keeps room on the disk for one batch, if it is not kept already. Where there is none, the next time.
    fn keep_reserve(cx: &Context) {
        let path = cx.config.state_dir.join(RESERVE);
        let want = cx.config.max_batch_bytes + (1 << 20);
        let kept =
            cx.disk.open(&path, disk::Open::Write).or_else(|_| cx.disk.open(&path, disk::Open::Create));
        let Ok(file) = kept else { return };
        if file.len().is_ok_and(|n| n < want) && file.allocate(want).is_err() {
            let _ = cx.disk.remove(&path);
        }
    }

    /// Keeps the certificates that a statement is about to name until they are in the store, whatever becomes of
    /// their files meanwhile.
    fn keep_certificates(cx: &Context, dir: &Path, signing: &Signing) -> Result<(), SinkError> {
        for der in signing.certificates.iter().flatten() {
            let path = certificate_path(dir, &sha256(der));
            disk::replace(&*cx.disk, &path, der).map_err(state_error("write", &path))?;
        }
        Ok(())
    }

    /// The certificates that some keys of this epoch's statements name, by digest.
    ///
    /// # Errors
    /// [`SinkError::State`], [`SinkError::Damaged`].
    pub fn certificates(&self, cx: &Context, keys: &[WriterKey]) -> Result<Vec<(Hash, Vec<u8>)>, SinkError> {
        let mut out = Vec::new();
        for digest in keys.iter().flat_map(|k| &k.certificates) {
            let path = certificate_path(&self.dir, digest);
            match disk::read_all(&*cx.disk, &path) {
                Ok(der) if sha256(&der) == *digest => out.push((*digest, der)),
                Ok(_) => {
                    return Err(SinkError::Damaged { path, why: "not the digest in its name".to_owned() });
                }
                Err(e) => return Err(state_error("read", &path)(e)),
            }
        }
        Ok(out)
    }

    /// Notes that a batch is in the store, and what the store calls its objects.
    ///
    /// # Errors
    /// [`SinkError::State`]; storing it again is harmless.
    pub fn note_stored(
        &mut self,
        cx: &Context,
        header: &Batch,
        statement: Hash,
        kept: Vec<Kept>,
    ) -> Result<(), SinkError> {
        self.stored = Progress::after(header, statement);
        self.last = kept;
        self.write_journal(cx)?;
        // A stop here leaves files that the next start removes.
        let (json, parquet) = self.intent_paths(header.batch);
        remove(&*cx.disk, &json)?;
        remove(&*cx.disk, &parquet)?;
        Epoch::keep_reserve(cx);
        Ok(())
    }

    /// Whether the genesis is in the store.
    pub fn genesis_stored(&self) -> bool {
        self.genesis_stored
    }

    /// Notes that the genesis is in the store.
    ///
    /// # Errors
    /// [`SinkError::State`].
    pub fn note_genesis_stored(&mut self, cx: &Context) -> Result<(), SinkError> {
        self.genesis_stored = true;
        self.write_journal(cx)
    }

    /// Counts a start, durably, before anything is sealed under its number.
    ///
    /// # Errors
    /// [`SinkError::State`].
    pub fn count_boot(&mut self, cx: &Context) -> Result<(), SinkError> {
        self.boot += 1;
        self.write_journal(cx)
    }

    fn write_journal(&self, cx: &Context) -> Result<(), SinkError> {
        let path = self.dir.join("journal.json");
        let journal = Journal {
            version: 1,
            boot: self.boot,
            genesis_stored: self.genesis_stored,
            keys_stored: self.keys_stored,
            last: self.last.clone(),
            progress: self.stored.clone(),
        };
        write_json(&*cx.disk, &path, &journal)
    }

    /// Makes a new epoch, complete in a directory of its own; [`Epoch::make_current`] then switches to it.
    pub(crate) fn create(cx: &Context, reason: Reason, old: Option<&Epoch>) -> Result<Epoch, SinkError> {
        let (trail, trail_id, trail_bytes) = cx.read_trail_statement()?;
        cx.check_trail_name(&trail, &trail_id)?;
        match cx.store.check_lock(trail.lock) {
            Err(e) if e.kind == Kind::Permission => tracing::warn!("{e}"),
            other => other?,
        }
        let now = cx.clock.now();
        let mut random = [0; 10];
        cx.random(&mut random)?;
        let epoch = new_epoch(now, random);
        let writer = format!("{}.{epoch}", cx.config.writer);
        let (reason, predecessor) = match old {
            Some(old) => (
                reason,
                Some(Predecessor {
                    writer: old.writer.clone(),
                    batch: old.stored.next_batch.checked_sub(1),
                    statement: old.stored.previous,
                }),
            ),
            None => match find_predecessor(cx, &trail_id)? {
                Some(p) => (Reason::StateLost, Some(p)),
                None => (Reason::First, None),
            },
        };
        let signing = cx.config.signing.get();
        let payload = Writer {
            format: statement::format_of::<Writer>(),
            trail: trail_id,
            writer: writer.clone(),
            created_at: now,
            next_by: cx.next_by(now),
            reason,
            predecessor,
            keys: signing.keys(),
            software: SOFTWARE.to_owned(),
        };
        let mut envelope = statement::unsigned(&payload);
        signer::sign(&mut envelope, &signing.signers)?;
        let genesis = envelope.to_bytes()?;
        let dir = cx.config.state_dir.join(format!("epoch-{epoch}"));
        disk::create_dirs(&*cx.disk, &cx.config.state_dir, &dir.join("intents"), true)
            .map_err(state_error("make", &dir))?;
        Epoch::keep_certificates(cx, &dir, &signing)?;
        let identity = Identity {
            version: 1,
            machine: cx.machine.clone(),
            trail: BASE64.encode(&trail_bytes),
            genesis: BASE64.encode(&genesis),
        };
        write_json(&*cx.disk, &dir.join("epoch.json"), &identity)?;
        // What it takes along went through what the old one's records went through.
        let filters = old.map(|o| o.stored.filters.clone()).unwrap_or_default();
        let progress = Progress { filters, ..Progress::start(&payload, &envelope.payload) };
        let epoch = Epoch {
            dir,
            writer,
            trail_id,
            trail,
            genesis,
            genesis_payload: payload,
            boot: 0,
            genesis_stored: false,
            key_statements: Vec::new(),
            keys_stored: 0,
            last: Vec::new(),
            stored: progress.clone(),
            sealed: progress,
            intents: Vec::new(),
        };
        epoch.write_journal(cx)?;
        Ok(epoch)
    }

    /// From here on a start finds this epoch.
    pub(crate) fn make_current(&self, cx: &Context) -> Result<(), SinkError> {
        let pointer = cx.config.state_dir.join("current");
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        disk::replace(&*cx.disk, &pointer, name.as_bytes()).map_err(state_error("write", &pointer))
    }
}

/// So many headers are looked at for one that is ours.
const LOOK_BACK: u64 = 100;

/// The last known statement of the newest earlier epoch of this name in the store.
fn find_predecessor(cx: &Context, trail: &Hash) -> Result<Option<Predecessor>, SinkError> {
    let prefix = format!("writers/{}.", cx.config.writer);
    let mut newest: Option<String> = None;
    waxseal_store::list_all(&*cx.store, &prefix, &mut |key| {
        let writer = key.strip_prefix("writers/").and_then(|k| k.strip_suffix("/genesis.json"));
        if let Some((w, (n, epoch))) = writer.and_then(|w| Some((w, name::split_writer(w)?))) {
            let newer = newest.as_deref().is_none_or(|o| o.rsplit_once('.').is_none_or(|(_, e)| e < epoch));
            if n == cx.config.writer && newer {
                newest = Some(w.to_owned());
            }
        }
    })?;
    let Some(writer) = newest else { return Ok(None) };
    let mut last: Option<u64> = None;
    let prefix = format!("batches/{writer}/");
    waxseal_store::list_all(&*cx.store, &prefix, &mut |key| {
        last = key[prefix.len()..].strip_suffix(".json").and_then(|n| n.parse().ok()).or(last);
    })?;
    // Anyone may have written under the next keys: the last header that was signed with a key of ours.
    let signing = cx.config.signing.get();
    let public = |s: &Arc<dyn signer::Signer>| s.public().clone();
    let single = signing.signers.iter().chain(&signing.previous).map(|s| vec![public(s)]);
    let together = [&signing.signers, &signing.previous].map(|all| all.iter().map(public).collect());
    let ours: Vec<Vec<PublicKey>> = single.chain(together).filter(|k: &Vec<_>| !k.is_empty()).collect();
    let mut fallback = None;
    let genesis = (None, name::genesis_key(&writer));
    let numbers = last.into_iter().flat_map(|n| (n.saturating_sub(LOOK_BACK)..=n).rev());
    for (batch, key) in numbers.map(|n| (Some(n), name::batch_key(&writer, n))).chain([genesis]) {
        for bytes in cx.every_version(&key, MAX_ENVELOPE as u64)? {
            let Ok(envelope) = Envelope::parse(&bytes) else { continue };
            let (kind, number) = match batch {
                Some(n) => (Batch::KIND, Some(("batch", n))),
                None => (Writer::KIND, None),
            };
            if statement::check_place(&envelope, kind, trail, &writer, number).is_err() {
                continue;
            }
            let found = Predecessor { writer: writer.clone(), batch, statement: envelope.statement_hash() };
            if ours.iter().any(|k| envelope.verify(&k.iter().collect::<Vec<_>>()).is_ok()) {
                return Ok(Some(found));
            }
            fallback.get_or_insert(found);
        }
    }
    // Signed with keys that are not here any more.
    Ok(fallback)
}

/// Reads a trail statement and holds it to itself: its operators signed it.
///
/// # Errors
/// What is wrong.
pub fn read_trail(bytes: &[u8]) -> Result<(Trail, Hash), String> {
    let (envelope, _) = valid::trail(bytes).map_err(|e| e.to_string())?;
    let trail = valid::payload(&envelope).map_err(|e| e.to_string())?;
    Ok((trail, envelope.statement_hash()))
}

fn certificate_path(dir: &Path, digest: &Hash) -> PathBuf {
    dir.join(format!("certificate-{digest}.der"))
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), SinkError> {
    match disk.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(state_error("remove", path)(e)),
        _ => Ok(()),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<T, SinkError> {
    let bytes = disk::read_all(disk, path).map_err(state_error("read", path))?;
    serde_json::from_slice(&bytes).map_err(|e| SinkError::Damaged { path: path.into(), why: e.to_string() })
}

fn write_json<T: Serialize>(disk: &dyn Disk, path: &Path, value: &T) -> Result<(), SinkError> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| SinkError::Damaged { path: path.into(), why: e.to_string() })?;
    disk::replace(disk, path, &bytes).map_err(state_error("write", path))
}
