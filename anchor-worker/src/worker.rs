//! The worker: rounds over one trail, and what is kept between them.

use crate::anchors::{Shown, Targets};
use crate::config::{Config, nodes};
use crate::gate::Gate;
use crate::known::Expected;
use crate::round::{Outcome, Round, RoundError, retain};
use crate::state::{State, StateError, StateFile};
use std::sync::Arc;
use waxseal_signing::Signer;
use waxseal_store::disk::Disk;
use waxseal_store::{Store, oldest};
use waxseal_trail::envelope::MAX_ENVELOPE;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::log::note::{Kind, NoteFault, VerifierKey};
use waxseal_trail::name;
use waxseal_trail::statement::Trail;
use waxseal_trail::time::Time;
use waxseal_trail::trust::Trust;
use waxseal_trail::valid;

/// The largest certificate that is read.
const MAX_CERTIFICATE: u64 = 1 << 20;

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// What the configuration says and the store holds do not fit; the text names the key.
    #[error("{0}")]
    Setup(String),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// A round.
    #[error(transparent)]
    Round(#[from] RoundError),
}

/// The key of a trail's log that a worker has: its origin is `<origin>/<first 16 hex of the trail id>`.
///
/// # Errors
/// [`NoteFault`] if the origin is no key's name, or the worker's key is not Ed25519.
pub fn log_key(trail: &Trail, id: &Hash, worker: &dyn Signer) -> Result<VerifierKey, NoteFault> {
    VerifierKey::of(&trail.log_origin(id), Kind::Note, worker.public())
}

/// A worker of one trail.
pub struct Worker {
    store: Arc<dyn Store>,
    trust: Trust,
    signer: Arc<dyn Signer>,
    key: VerifierKey,
    envelope: Vec<u8>,
    trail: Trail,
    id: Hash,
    expected: Expected,
    nodes: Option<std::path::PathBuf>,
    file: Option<StateFile>,
    state: State,
    targets: Targets,
}

impl Worker {
    /// Reads the trail statement and the state. `disk` has the state directory.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn open(config: Config, store: Arc<dyn Store>, disk: Arc<dyn Disk>) -> Result<Worker, WorkerError> {
        let setup = WorkerError::Setup;
        let is_trail =
            |b: &[u8]| valid::trail(b).is_ok_and(|(e, _)| e.statement_hash() == config.trust.trail);
        let envelope = oldest(&*store, name::TRAIL, MAX_ENVELOPE as u64, &is_trail)
            .map_err(|e| setup(format!("store: {e}")))?
            .ok_or_else(|| {
                let (place, id) = (store.place(), config.trust.trail);
                setup(format!(
                    "store: {place} holds no trail.json of trail {id}, which the trust file is for"
                ))
            })?;
        let gate = Gate::new(envelope.clone(), &config.trust, Box::new(|_| None))
            .map_err(|e| setup(format!("trust: {e}")))?;
        let (trail, id) = (gate.trail.clone(), gate.id);
        if config.trail != trail.name && config.trail != id.to_string() {
            let name = &trail.name;
            return Err(setup(format!(
                "trail: the configuration says {:?}, the store holds {name:?} ({id})",
                config.trail
            )));
        }
        let signer: Arc<dyn Signer> = Arc::new(config.key);
        let is_worker = gate.workers().contains(signer.public());
        drop(gate);
        if !is_worker {
            let key = signer.public().id();
            return Err(setup(format!("key: {key} is none of the workers that the trail statement names")));
        }
        let key = log_key(&trail, &id, &*signer).map_err(|e| setup(format!("key: {e}")))?;
        if let Some(log) = config.trust.log.as_ref().filter(|l| **l != key.to_string()) {
            return Err(setup(format!("trust: its log is {log}, and this worker's is {key}")));
        }
        let file = config.state_dir.map(|dir| StateFile::new(disk, &dir, id, key.clone()));
        let state = file.as_ref().map_or(Ok(State::default()), StateFile::load)?;
        let targets = Targets::new(config.trust.policy.as_ref(), config.http, config.interval);
        Ok(Worker {
            targets,
            store,
            trust: config.trust,
            signer,
            key,
            envelope,
            trail,
            id,
            expected: config.expected,
            nodes: config.nodes,
            file,
            state,
        })
    }

    /// The log's key, as trust files carry it.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// The trail statement, and the trail id.
    pub fn trail(&self) -> (&Trail, Hash) {
        (&self.trail, self.id)
    }

    /// What it knows.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Who is shown the newest checkpoint.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// When somebody should be shown the newest checkpoint; `None` if all that are asked have signed it.
    pub fn due(&self) -> Option<Time> {
        self.targets.due(self.state.seen.as_ref()?.number)
    }

    /// Shows the newest checkpoint to whoever has not signed it and is due.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn anchor(&mut self, now: Time) -> Result<Vec<Shown>, WorkerError> {
        let Some(seen) = &self.state.seen else { return Ok(Vec::new()) };
        let retain = retain(&self.trail, &self.state.known, now);
        Ok(self.targets.show(&*self.store, seen, &retain, now).map_err(RoundError::from)?)
    }

    #[allow(clippy::disallowed_methods)] // a list of names, not evidence
    fn expected(&self) -> Result<Expected, String> {
        let mut expected = self.expected.clone();
        if let Some(path) = &self.nodes {
            let place = |e: String| format!("expected_writers.nodes: {}: {e}", path.display());
            let json = std::fs::read(path).map_err(|e| place(e.to_string()))?;
            expected.names.extend(nodes(&json).map_err(place)?);
        }
        Ok(expected)
    }

    /// A round. After an error nothing is forgotten: the next one begins where this one did.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn round(&mut self, now: Time) -> Result<Outcome, WorkerError> {
        // A list that cannot be read must not keep statements out of the log.
        let (expected, unread) = match self.expected() {
            Ok(expected) => (expected, None),
            Err(e) => (self.expected.clone(), Some(e)),
        };
        let store = self.store.clone();
        let certificate = |digest: &Hash| {
            let is = |b: &[u8]| sha256(b) == *digest;
            oldest(&*store, &name::certificate_key(digest), MAX_CERTIFICATE, &is).ok().flatten()
        };
        let gate = Gate::new(self.envelope.clone(), &self.trust, Box::new(certificate))
            .map_err(WorkerError::Setup)?;
        let round = Round {
            store: &*self.store,
            gate: &gate,
            signer: &*self.signer,
            key: self.key.clone(),
            expected: &expected,
            now,
        };
        let mut known = self.state.known.clone();
        let mut outcome = round.run(&mut known, self.state.seen.as_ref())?;
        outcome.unread = unread;
        let same = outcome.newest == self.state.seen;
        let seen_at = if same { self.state.seen_at } else { Some(now) };
        let state = State { seen: outcome.newest.clone(), seen_at, known };
        if let Some(file) = self.file.as_ref().filter(|_| state != self.state) {
            file.save(&state)?;
        }
        self.state = state;
        Ok(outcome)
    }
}
