//! The filters of a sink: what runs between an event's conversion and its place in the chain.
//!
//! Each is a WASM module ([`wasm`]) with a configuration and data. Their digests are in every header; a change of them is a
//! record of its own (`filter_changed`) and closes the batch, so that a header speaks for all records of its batch.

pub mod wasm;

use serde::Deserialize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use wasm::{Runtime, Wasm};
use waxseal_trail::hash::Hash;
use waxseal_trail::record::Events;
use waxseal_trail::statement;

/// What happens to an event that a filter fails on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// It goes on as it came, marked (`metadata.$filter_errors`).
    #[default]
    Pass,
    /// Its content is replaced by the reason and a digest (`metadata.$withheld`).
    Withhold,
}

/// Whose process a module runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Process {
    /// The sink's: what a module may not is found by the processor, and its signals are wasmtime's to handle.
    #[default]
    Own,
    /// A shipper's, which has handlers of its own and installs them again at a reload: no signal is needed.
    Shipper,
}

/// A filter's configuration, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The module.
    pub module: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// What it may read beside.
    pub directories: Vec<PathBuf>,
    /// What happens to an event that it fails on; `None`: what the module asks for.
    pub on_error: Option<OnError>,
    /// Bytes.
    pub memory: usize,
    /// How long one event may take.
    pub timeout: Duration,
    /// Native code, and SHA-256 of its file.
    pub precompiled: Option<(PathBuf, Hash)>,
    /// Where native code is kept.
    pub cache: Option<PathBuf>,
}

impl Settings {
    /// For a module and its configuration, everything else by default.
    pub fn new(module: PathBuf, config: PathBuf) -> Settings {
        Settings {
            module,
            config,
            directories: Vec::new(),
            on_error: None,
            memory: 512 << 20,
            timeout: Duration::from_secs(1),
            precompiled: None,
            cache: None,
        }
    }
}

/// A lock that a panic of another thread does not take away.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a chunk went through.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    /// How many events a filter failed on.
    pub errors: u64,
    /// The filters, in order.
    pub filters: Arc<Vec<statement::Filter>>,
}

/// The filters of a sink, in order.
#[derive(Default)]
pub struct Filters {
    list: Vec<Arc<Wasm>>,
    /// The identities of the last chunk, so that most chunks share them.
    last: Mutex<Arc<Vec<statement::Filter>>>,
    threads: Vec<(Arc<AtomicBool>, thread::JoinHandle<()>)>,
}

/// How often it is looked whether files have changed.
const LOOK: Duration = Duration::from_secs(2);
/// How long an epoch is: time limits are whole numbers of it.
const TICK: Duration = Duration::from_millis(10);

impl Filters {
    /// Loads what a configuration names, and keeps up with changes of the files from then on.
    ///
    /// # Errors
    /// A text with the file, and what is wrong.
    pub fn load(settings: &[Settings], process: Process) -> Result<Filters, String> {
        if settings.is_empty() {
            return Ok(Filters::default());
        }
        let runtime = Arc::new(Runtime::new(process)?);
        let mut filters = Filters::default();
        // First: time limits hold while a module reads its configuration, too. Dropped, it ends its threads.
        let ticking = runtime.clone();
        filters.spawn("wax-epoch", move |stopping| {
            while !stopping.load(Ordering::Relaxed) {
                thread::sleep(TICK);
                ticking.tick();
            }
        })?;
        for (i, s) in settings.iter().enumerate() {
            let loaded = Wasm::load(runtime.clone(), s.clone()).map_err(|e| format!("filters[{i}]: {e}"))?;
            filters.list.push(Arc::new(loaded));
        }
        *lock(&filters.last) = Arc::new(filters.identities());
        let all = filters.list.clone();
        filters.spawn("wax-filters", move |stopping| {
            let mut looked = Instant::now();
            while !stopping.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(50));
                if looked.elapsed() >= LOOK {
                    looked = Instant::now();
                    all.iter().for_each(|f| f.look());
                }
            }
        })?;
        Ok(filters)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce(&AtomicBool) + Send + 'static) -> Result<(), String> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let spawned = thread::Builder::new().name(name.into()).spawn(move || run(&stopping));
        self.threads.push((stop, spawned.map_err(|e| format!("no thread can be started: {e}"))?));
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Runs all of them over a chunk, whose `source` is canonical JSON.
    pub fn apply(&self, events: &mut Events, source: &[u8]) -> Passed {
        if self.list.is_empty() || events.is_empty() {
            return Passed { errors: 0, filters: lock(&self.last).clone() };
        }
        let mut errors = 0;
        let mut identities = Vec::with_capacity(self.list.len());
        for f in &self.list {
            let (failed, identity) = f.apply(events, source);
            errors += failed;
            identities.push(identity);
        }
        let mut last = lock(&self.last);
        if !last.iter().zip(&identities).all(|(a, b)| *a == **b) {
            *last = Arc::new(identities.iter().map(|i| (**i).clone()).collect());
        }
        Passed { errors, filters: last.clone() }
    }

    /// Their identities, in order.
    pub fn identities(&self) -> Vec<statement::Filter> {
        self.list.iter().map(|f| (*f.identity()).clone()).collect()
    }

    /// One line for each: what runs.
    pub fn describe(&self) -> Vec<String> {
        self.list.iter().map(|f| f.describe()).collect()
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        // The epochs last: a module that is just being read ends by them, if by nothing else.
        for (stop, thread) in self.threads.drain(..).rev() {
            stop.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
    }
}
