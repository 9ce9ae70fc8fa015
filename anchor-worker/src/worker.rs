//! The worker: rounds over one trail, and what is kept between them.

use crate::anchors::{Showing, Shown, Targets};
use crate::chain::{Chain, ChainFile, Nodes};
use crate::config::{Config, nodes, read_trust};
use crate::gate::Gate;
use crate::known::Expected;
use crate::locks::{self, MAX_CERTIFICATE, Needs};
use crate::round::{Longest, Memory, Outcome, Round, RoundError, retain};
use crate::stamps::{Authorities, Carry};
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
    trust_file: Option<std::path::PathBuf>,
    signer: Arc<dyn Signer>,
    key: VerifierKey,
    envelope: Vec<u8>,
    trail: Trail,
    longest: Longest,
    id: Hash,
    expected: Expected,
    nodes: Option<std::path::PathBuf>,
    file: Option<StateFile>,
    state: State,
    memory: Memory,
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
        let gate = Gate::new(envelope.clone(), &config.trust, Box::new(|_| Ok(None)))
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
        let mut chains = Vec::new();
        for (settings, sender) in config.chains {
            let dir = config.state_dir.as_deref();
            let dir = dir.ok_or_else(|| setup("ethereum: needs state_dir".to_owned()))?;
            let place = (settings.chain, settings.contract, sender.address());
            let file = ChainFile::new(disk.clone(), dir, id, place);
            let nodes = Nodes::new(config.http.clone(), settings.urls.clone(), settings.chain);
            chains.push(Chain::open(settings, nodes, sender, file)?);
        }
        let file = config.state_dir.map(|dir| StateFile::new(disk, &dir, id, key.clone()));
        let state = file.as_ref().map_or(Ok(State::default()), StateFile::load)?;
        let (authorities, wanted) = config.timestamps;
        let roots = config.trust.timestamps.clone();
        let authorities = Authorities::new(authorities, wanted, roots, config.http.clone(), config.interval);
        let policy = config.trust.policy.as_ref();
        let targets = Targets::new(policy, authorities, chains, config.http, config.interval);
        Ok(Worker {
            targets,
            store,
            trust: config.trust,
            trust_file: config.trust_file,
            signer,
            key,
            envelope,
            longest: Longest::of(&trail, config.max_retention),
            trail,
            id,
            expected: config.expected,
            nodes: config.nodes,
            file,
            state,
            memory: Memory::default(),
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

    /// How many witnesses, time-stamps and anchors the newest checkpoint lacks.
    pub fn lacking(&self, now: Time) -> usize {
        self.state.seen.as_ref().map_or(0, |s| self.targets.lacking(s.number, now))
    }

    /// When somebody should be shown the newest checkpoint; `None` if all that are asked have signed it.
    pub fn due(&self, now: Time) -> Option<Time> {
        self.targets.due(self.state.seen.as_ref()?.number, now)
    }

    /// Shows the newest checkpoint to whoever has not signed it and is due.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn anchor(&mut self, now: Time) -> Result<Vec<Shown>, WorkerError> {
        let Some(seen) = &self.state.seen else { return Ok(Vec::new()) };
        let retain = retain(&self.trail, &self.state.known, now, self.longest);
        let (store, key) = (&*self.store, &self.key);
        let showing = Showing { store, key, committed: seen, retain: &retain, now };
        Ok(self.targets.show(&showing).map_err(RoundError::from)?)
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

    /// Reads the trust file again: who is trusted may change while a worker runs, but not what it works on.
    fn read_trust(&mut self) -> Result<(), String> {
        let Some(path) = &self.trust_file else { return Ok(()) };
        let trust = read_trust(path)?;
        if trust == self.trust {
            return Ok(());
        }
        let fail = |what: &str| Err(format!("{}: {what}; restart the worker", path.display()));
        if trust.trail != self.trust.trail {
            return fail("it is for another trail now");
        }
        if trust.log.as_ref().is_some_and(|l| *l != self.key.to_string()) {
            return fail("it names another log now");
        }
        Gate::new(self.envelope.clone(), &trust, Box::new(|_| Ok(None)))
            .map_err(|e| format!("{}: {e}; the one before stays in force", path.display()))?;
        self.targets.renew(trust.policy.as_ref(), trust.timestamps.clone());
        self.trust = trust;
        self.memory.forget();
        Ok(())
    }

    /// A round. After an error nothing is forgotten: the next one begins where this one did. When `stop` says so, it comes to its
    /// end before it is done.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn round_until(&mut self, now: Time, stop: &dyn Fn() -> bool) -> Result<Outcome, WorkerError> {
        // What cannot be read must not keep statements out of the log.
        let mut complaints = Vec::new();
        complaints.extend(self.read_trust().err().map(|e| format!("trust: {e}")));
        let expected = self.expected().unwrap_or_else(|e| {
            complaints.push(format!("{e}; none of its nodes is missed"));
            self.expected.clone()
        });
        let store = self.store.clone();
        let certificate = |digest: &Hash| {
            let is = |b: &[u8]| sha256(b) == *digest;
            oldest(&*store, &name::certificate_key(digest), MAX_CERTIFICATE, &is)
        };
        let gate = Gate::new(self.envelope.clone(), &self.trust, Box::new(certificate))
            .map_err(WorkerError::Setup)?;
        let mut ends = self.state.ends.clone();
        let names = self.targets.authorities();
        let carry = Carry {
            names: &names,
            store: &*self.store,
            trail: self.id,
            key: &self.key,
            roots: &self.trust.timestamps,
            known: &self.state.known,
            newest: self.state.seen.as_ref().map_or(0, |s| s.number),
            now,
        };
        let renewals = carry.renewals(&mut ends);
        let renewals = renewals.unwrap_or_else(|e| {
            complaints.push(format!("time-stamps are not carried on: {e}"));
            ends = self.state.ends.clone();
            Vec::new()
        });
        let round = Round {
            store: &*self.store,
            gate: &gate,
            signer: &*self.signer,
            key: self.key.clone(),
            expected: &expected,
            now,
            longest: self.longest,
            stop,
            renewals,
        };
        let mut known = self.state.known.clone();
        let mut outcome = round.run(&mut known, &mut self.memory, self.state.seen.as_ref())?;
        let mut locks = self.state.locks.clone();
        if !outcome.stopped {
            let newest = outcome.newest.as_ref();
            let needs = Needs { trail: self.id, lock: self.trail.lock, longest: self.longest, now };
            let done = locks::lengthen(&*self.store, &needs, &known, newest, &mut locks);
            outcome.lengthened = done.count;
            if let Some(e) = done.first {
                complaints.push(format!("{} lock(s) are not lengthened, the first: {e}", done.failed));
            }
        }
        outcome.complaints = complaints;
        let same = outcome.newest == self.state.seen;
        let seen_at = if same { self.state.seen_at } else { Some(now) };
        let state = State { seen: outcome.newest.clone(), seen_at, known, locks, ends };
        if let Some(file) = self.file.as_ref().filter(|_| state != self.state) {
            file.save(&state)?;
        }
        self.state = state;
        Ok(outcome)
    }

    /// A whole round.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn round(&mut self, now: Time) -> Result<Outcome, WorkerError> {
        self.round_until(now, &|| false)
    }
}
