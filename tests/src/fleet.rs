//! A trail with writers that are made by hand, its worker, and its verifier.

use crate::forge::{Forge, Objects, Signers, at, sign, trail_of};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use waxseal_anchor::chain::{Sender, Settings};
use waxseal_anchor::config::Config;
use waxseal_anchor::known::Expected;
use waxseal_anchor::stamps::Authority;
use waxseal_anchor::worker::{Worker, log_key};
use waxseal_signing::{Algorithm, MemoryKey, Signer};
use waxseal_store::disk::RealDisk;
use waxseal_store::{Location, Retain, Store, list_all};
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::log::note::VerifierKey;
use waxseal_trail::name;
use waxseal_trail::statement::{Lock, Payload, Trail};
use waxseal_trail::time::Time;
use waxseal_trail::trust::Trust;
use waxseal_verify::{Anchor, Chains, Memory, Options, Report, Silent, verify};

/// A key.
pub fn key() -> MemoryKey {
    MemoryKey::generate(Algorithm::Ed25519).expect("keys can be made")
}

/// A writer of this name, with an epoch that follows from `salt`: a UUID of version 7, as the page wants it.
pub fn writer(name: &str, salt: &str) -> String {
    let mut epoch = sha256(format!("{name} {salt}").as_bytes()).to_string();
    epoch.replace_range(12..13, "7");
    epoch.replace_range(16..17, "a");
    format!("{name}.{}", &epoch[..32])
}

/// A trail and who writes it.
pub struct Fleet {
    /// Has the operator's key.
    pub operator: Arc<dyn Signer>,
    operator_pem: String,
    /// The worker's key, in PEM: a worker takes it with it.
    worker: String,
    /// The trail statement.
    pub trail: Trail,
    /// Its envelope.
    pub envelope: Envelope,
    /// The trail id.
    pub id: Hash,
    /// The log's key.
    pub log: VerifierKey,
    /// By their names, without epochs.
    pub writers: BTreeMap<String, Forge>,
    /// Names that have to be there.
    pub expected: Expected,
    /// A file with the cluster's nodes.
    pub nodes: Option<std::path::PathBuf>,
    /// The witnesses' lines of the policy, and its quorum.
    pub policy: Option<String>,
    /// Time-stamping authorities that the worker asks, and their roots in PEM, a file each.
    pub authorities: Vec<Authority>,
    /// By the names that the trust file gives them.
    pub roots: BTreeMap<String, Vec<u8>>,
    /// Contracts whose anchors count, each in YAML.
    pub ethereum: Vec<String>,
    /// What the worker anchors in.
    pub anchors: Option<Box<dyn Fn() -> (Settings, Sender) + Send + Sync>>,
    /// How a verifier asks chains.
    pub chains: Chains,
    /// How old proof from outside may be, in seconds.
    pub max_anchor_age: Option<u64>,
    /// Operators' statements.
    pub statements: Objects,
}

impl Fleet {
    /// With writers of these names, each with a key of its own.
    pub fn new(names: &[&str]) -> Fleet {
        Fleet::locked(names, Lock::None)
    }

    /// The same, of a trail whose objects are locked.
    pub fn locked(names: &[&str], lock: Lock) -> Fleet {
        let operator = key();
        let operator_pem = operator.to_pem().expect("writable");
        let operator: Arc<dyn Signer> = Arc::new(operator);
        let worker = key();
        let pem = worker.to_pem().expect("writable");
        let worker: Arc<dyn Signer> = Arc::new(worker);
        let (mut trail, mut envelope) = trail_of("fleet", &vec![operator.clone()], &vec![worker.clone()]);
        if lock != trail.lock {
            trail.lock = lock;
            envelope = sign(&trail, std::slice::from_ref(&operator));
        }
        let id = envelope.statement_hash();
        let log = log_key(&trail, &id, &*worker).expect("an origin");
        let mut fleet = Fleet {
            operator,
            operator_pem,
            worker: pem,
            trail,
            envelope,
            id,
            log,
            writers: BTreeMap::new(),
            expected: Expected::default(),
            nodes: None,
            policy: None,
            authorities: Vec::new(),
            roots: BTreeMap::new(),
            ethereum: Vec::new(),
            anchors: None,
            chains: Chains::default(),
            max_anchor_age: None,
            statements: Objects::new(),
        };
        for name in names {
            fleet.join(name, 0);
        }
        fleet
    }

    /// A new writer, at some second.
    pub fn join(&mut self, name: &str, second: i64) -> &mut Forge {
        let writer = writer(name, &second.to_string());
        let signers: Signers = vec![Arc::new(key())];
        let forge = Forge::new(self.id, &writer, signers, second, |_| {});
        self.writers.insert(name.to_owned(), forge);
        self.get(name)
    }

    /// One of the writers.
    pub fn get(&mut self, name: &str) -> &mut Forge {
        self.writers.get_mut(name).expect("it has joined")
    }

    /// Each writer seals a batch of one record.
    pub fn seal(&mut self, second: i64) {
        for forge in self.writers.values_mut() {
            let rows = forge.rows(&[br#"{"action":"login","actor":"anna"}"#], second);
            forge.seal(&rows, second, |_| {});
        }
    }

    /// An operator's statement.
    pub fn state<P: Payload>(&mut self, payload: &P) -> String {
        let envelope = sign(payload, std::slice::from_ref(&self.operator));
        let key = name::statement_key(P::KIND, &envelope.statement_hash());
        self.statements.insert(key.clone(), envelope.to_bytes().expect("small"));
        key
    }

    /// Everything that has been written.
    pub fn objects(&self) -> Objects {
        let mut all = self.statements.clone();
        all.insert(name::TRAIL.to_owned(), self.envelope.to_bytes().expect("small"));
        all.extend(self.writers.values().flat_map(|w| w.objects.clone()));
        all
    }

    /// Puts into a store what is not there yet.
    pub fn put(&self, store: &dyn Store) {
        for (key, bytes) in self.objects() {
            put(store, &key, &bytes);
        }
    }

    /// Whose statements count, in YAML.
    pub fn trust_yaml(&self) -> String {
        let mut yaml = format!(
            "trail: {}\noperators: [{}]\nlog: {}\nwriters:\n",
            self.id,
            self.operator.public().to_base64(),
            self.log
        );
        for (name, forge) in &self.writers {
            let genesis = &forge.genesis.keys[0].spki;
            yaml.push_str(&format!("  - name: {name}\n    keys: [{genesis}]\n"));
        }
        if let Some(age) = self.max_anchor_age {
            yaml.push_str(&format!("max_anchor_age: {age}\n"));
        }
        if !self.roots.is_empty() {
            yaml.push_str(&format!("timestamps: {:?}\n", self.roots.keys().collect::<Vec<_>>()));
        }
        if !self.ethereum.is_empty() {
            yaml.push_str(&format!("ethereum:\n  - {}\n", self.ethereum.join("\n  - ")));
        }
        if let Some(policy) = &self.policy {
            yaml.push_str("policy: |\n");
            policy.lines().for_each(|l| yaml.push_str(&format!("  {l}\n")));
        }
        yaml
    }

    /// The same, read.
    pub fn trust(&self) -> Trust {
        self.read_trust(&self.trust_yaml())
    }

    fn read_trust(&self, yaml: &str) -> Trust {
        let file = |name: &str| self.roots.get(name).cloned().ok_or_else(|| "no such file".to_owned());
        Trust::parse(yaml, &file).expect("well-formed")
    }

    /// The worker's key.
    pub fn worker_key(&self) -> MemoryKey {
        MemoryKey::from_pem(self.worker.as_bytes()).expect("made here")
    }

    /// The operator's key, in PEM.
    pub fn operator_pem(&self) -> &str {
        &self.operator_pem
    }

    /// The worker, with what it keeps in `dir`.
    pub fn worker(&self, store: Arc<dyn Store>, dir: Option<&Path>) -> Worker {
        self.worker_with(&self.trust_yaml(), store, dir)
    }

    /// The same, with another trust file.
    pub fn worker_with(&self, trust: &str, store: Arc<dyn Store>, dir: Option<&Path>) -> Worker {
        let config = Config {
            trail: "fleet".to_owned(),
            store: Location::Local("/nowhere".into()),
            state_dir: dir.map(Path::to_owned),
            key: self.worker_key(),
            trust: self.read_trust(trust),
            trust_file: None,
            max_retention: None,
            interval: std::time::Duration::from_secs(3600),
            expected: self.expected.clone(),
            nodes: self.nodes.clone(),
            http: waxseal_anchor::http::Client::new(std::time::Duration::from_secs(5), None)
                .expect("a client"),
            timestamps: (self.authorities.clone(), self.authorities.len().min(1)),
            chains: self.anchors.iter().map(|make| make()).collect(),
            telemetry: None,
        };
        Worker::open(config, store, Arc::new(RealDisk)).expect("a worker")
    }

    /// What a verifier says at some second.
    pub fn verify(&self, store: &dyn Store, second: i64, memories: Vec<Memory>) -> Report {
        self.verify_with(store, self.trust(), at(second), memories)
    }

    /// The same, with other trust.
    pub fn verify_with(&self, store: &dyn Store, trust: Trust, now: Time, memories: Vec<Memory>) -> Report {
        let options = Options {
            anchor: Anchor::File(Box::new(trust)),
            quick: false,
            writer: None,
            since: None,
            until: None,
            now,
            restore: false,
            threads: 1,
            memories,
            chains: self.chains.clone(),
        };
        verify(store, &options, &Silent)
    }
}

/// Puts an object.
pub fn put(store: &dyn Store, key: &str, bytes: &[u8]) {
    put_until(store, key, bytes, Lock::None, at(3000 * 86_400));
}

/// Puts an object with a lock.
pub fn put_until(store: &dyn Store, key: &str, bytes: &[u8], lock: Lock, until: Time) {
    let body = Bytes::copy_from_slice(bytes);
    let retain = Retain { lock, until };
    store.put_if_absent(key, &body, &sha256(&body), &retain).expect("the store is there");
}

/// The verdicts of a report's findings, each once, in order.
pub fn verdicts(report: &Report) -> Vec<&'static str> {
    let mut all: Vec<_> = report.findings.iter().map(|f| f.verdict.name()).collect();
    all.dedup();
    all
}

/// All objects of a store.
pub fn dump(store: &dyn Store) -> Objects {
    let mut keys = Vec::new();
    list_all(store, "", &mut |k| keys.push(k)).expect("the store is there");
    keys.into_iter().map(|k| (k.clone(), store.get(&k).expect("readable").expect("listed"))).collect()
}
