//! A filter that is a WASM module, run by wasmtime.
//!
//! One instance, behind a lock: what a module reads, a city database of 70 MB perhaps, is in memory once. The module sees the
//! directories that it is given, read-only, the clock, randomness, and nothing else; it has no output. Memory is limited by
//! the store, time by epochs. What it gives back is held to the page (`waxseal_trail::record::Rewriter`) before it counts.

use super::{OnError, Process, Settings, TICK};
use crate::lock;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use wasmtime::{
    Config, Engine, Instance, Linker, Memory, Module, Store, StoreLimits, StoreLimitsBuilder, TypedFunc,
};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use waxseal_filter_abi::{About, Configured, wire};
use waxseal_trail::hash::{Digest, Hash, sha256};
use waxseal_trail::json;
use waxseal_trail::record::{Change, Events, Member, Rewriter};
use waxseal_trail::statement;

/// The engine that all modules share.
pub struct Runtime {
    engine: Engine,
}

impl Runtime {
    /// For a process of its own, or for one that is somebody else's.
    ///
    /// # Errors
    /// A text.
    pub fn new(process: Process) -> Result<Runtime, String> {
        let mut config = Config::new();
        config.epoch_interruption(true).max_wasm_stack(1 << 20);
        // Without signals each access to memory is compared with its end.
        config.signals_based_traps(process == Process::Own);
        Ok(Runtime { engine: Engine::new(&config).map_err(|e| format!("wasmtime: {e:#}"))? })
    }

    /// An epoch has passed.
    pub fn tick(&self) {
        self.engine.increment_epoch();
    }

    /// Native code of a module, as [`Settings::precompiled`] has it.
    ///
    /// # Errors
    /// A text.
    pub fn precompile(&self, wasm: &[u8]) -> Result<Vec<u8>, String> {
        let code = self.engine.precompile_module(wasm).map_err(|e| format!("{e:#}"))?;
        Ok([MAGIC.as_slice(), &sha256(wasm).0, &sha256(&code).0, &code].concat())
    }

    /// The module of native code that was made of the one with this digest.
    fn native(&self, file: &[u8], wasm: Hash) -> Result<Module, String> {
        let rest = file.strip_prefix(MAGIC).ok_or("no native code of a module")?;
        let (of, rest) = rest.split_first_chunk::<32>().ok_or("cut off")?;
        let (digest, code) = rest.split_first_chunk::<32>().ok_or("cut off")?;
        if Hash(*of) != wasm {
            return Err(format!("made of the module {}, and this one is {wasm}", Hash(*of)));
        }
        // Not against an enemy, who could write the digest as well: against a file that was half written.
        if sha256(code) != Hash(*digest) {
            return Err("damaged".into());
        }
        // SAFETY: the code is what `precompile` wrote: its file has the digest that the configuration names, or lies in a
        // directory that the configuration names for it and that only this user can write.
        #[allow(unsafe_code)]
        let module = unsafe { Module::deserialize(&self.engine, code) };
        module.map_err(|e| format!("{e:#}"))
    }
}

const MAGIC: &[u8; 8] = b"waxwasm2";

struct Host {
    wasi: WasiP1Ctx,
    limits: StoreLimits,
}

/// A running module.
struct Running {
    store: Store<Host>,
    memory: Memory,
    buffer: TypedFunc<u32, u32>,
    batch: TypedFunc<(), u64>,
}

/// What tells a file from what lay there before: device, number, length, times of change of content and of anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

type Stamps = Vec<(PathBuf, Option<Stamp>)>;

/// What was loaded, and what runs of it.
struct Loaded {
    module: Module,
    identity: Arc<statement::Filter>,
    on_error: OnError,
    /// What the module said of itself.
    about: About,
    running: Option<Running>,
    /// When it could not be started again.
    failed: Option<Instant>,
    /// The files that it was loaded from.
    stamps: Stamps,
    /// The same files when they could not be loaded.
    refused: Option<Stamps>,
}

/// A filter.
pub struct Wasm {
    runtime: Arc<Runtime>,
    settings: Settings,
    loaded: Mutex<Loaded>,
    scratch: Mutex<Scratch>,
}

#[derive(Default)]
struct Scratch {
    input: Vec<u8>,
    output: Vec<u8>,
    spare: Events,
    rewriter: Rewriter,
    said: Option<Instant>,
    unsaid: u64,
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let m = std::fs::metadata(path).ok()?;
    Some(Stamp {
        file: (m.dev(), m.ino()),
        len: m.len(),
        modified: (m.mtime(), m.mtime_nsec()),
        changed: (m.ctime(), m.ctime_nsec()),
    })
}

fn again(stamps: &Stamps) -> Stamps {
    stamps.iter().map(|(path, _)| (path.clone(), stamp(path))).collect()
}

fn hash_file(path: &Path) -> Result<Hash, String> {
    use std::io::Read as _;
    let at = |e: std::io::Error| format!("{}: {e}", path.display());
    // A pipe or a device could be read for ever.
    if !std::fs::metadata(path).map_err(at)?.is_file() {
        return Err(format!("{}: no file", path.display()));
    }
    let mut file = std::fs::File::open(path).map_err(at)?;
    let mut digest = Digest::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer).map_err(at)?;
        if n == 0 {
            return Ok(digest.finish());
        }
        digest.update(&buffer[..n]);
    }
}

impl Wasm {
    /// Loads a module, its configuration and its data.
    ///
    /// # Errors
    /// A text with the file, and what is wrong.
    pub fn load(runtime: Arc<Runtime>, settings: Settings) -> Result<Wasm, String> {
        let loaded = load(&runtime, &settings, None)?;
        Ok(Wasm { runtime, settings, loaded: Mutex::new(loaded), scratch: Mutex::default() })
    }

    /// Its name and digests, as headers carry them.
    pub fn identity(&self) -> Arc<statement::Filter> {
        lock(&self.loaded).identity.clone()
    }

    /// One line: what runs.
    pub fn describe(&self) -> String {
        let l = lock(&self.loaded);
        let id = &l.identity;
        let on_error = match l.on_error {
            OnError::Pass => "pass",
            OnError::Withhold => "withhold",
        };
        format!(
            "{} (module {}, config {}, {} data files, on_error: {on_error})",
            id.name,
            id.module,
            id.config,
            id.data.len()
        )
    }

    /// Reads the files anew if one has changed; what is broken leaves the old in force.
    pub fn look(&self) {
        let (seen, refused, had) = {
            let l = lock(&self.loaded);
            (l.stamps.clone(), l.refused.clone(), (l.identity.module, l.module.clone()))
        };
        let are = again(&seen);
        if are == seen || refused.is_some_and(|r| r == are) {
            return;
        }
        match load(&self.runtime, &self.settings, Some(&had)) {
            Ok(new) => {
                let mut old = lock(&self.loaded);
                if new.identity != old.identity {
                    tracing::info!("filter {}: read anew", new.identity.name);
                }
                *old = new;
            }
            Err(e) => {
                let mut l = lock(&self.loaded);
                tracing::error!("filter {}: what was read before stays in force: {e}", l.identity.name);
                // Said once for each state of the files.
                l.refused = Some(are);
            }
        }
    }

    /// Runs over a chunk; says how many events it failed on, and what ran.
    pub fn apply(&self, events: &mut Events, source: &[u8]) -> (u64, Arc<statement::Filter>) {
        let mut loaded = lock(&self.loaded);
        let mut scratch = lock(&self.scratch);
        self.run(&mut loaded, &mut scratch, events, source, 0, &mut |_, _| {})
    }

    /// How much memory the instance has, in bytes: what it once took it keeps.
    pub fn memory(&self) -> usize {
        lock(&self.loaded).running.as_ref().map_or(0, |r| r.memory.data_size(&r.store))
    }

    /// Runs over a chunk and tells what the module says of each event.
    pub fn explain(&self, events: &mut Events, source: &[u8], mut told: impl FnMut(usize, &str)) -> u64 {
        let mut loaded = lock(&self.loaded);
        let mut scratch = lock(&self.scratch);
        self.run(&mut loaded, &mut scratch, events, source, wire::EXPLAIN, &mut told).0
    }

    fn run(
        &self,
        loaded: &mut Loaded,
        scratch: &mut Scratch,
        events: &mut Events,
        source: &[u8],
        flags: u32,
        told: &mut dyn FnMut(usize, &str),
    ) -> (u64, Arc<statement::Filter>) {
        let mut out = std::mem::take(&mut scratch.spare);
        let mut failures = Failures::default();
        // A module that is started again may find other files: what ran is the same for all events of a chunk.
        for _ in 0..3 {
            let identity = loaded.identity.clone();
            failures =
                Failures { on_error: loaded.on_error, name: identity.name.clone(), ..Failures::default() };
            self.try_run(loaded, scratch, events, source, flags, told, &mut out, &mut failures);
            if Arc::ptr_eq(&identity, &loaded.identity) {
                break;
            }
        }
        std::mem::swap(events, &mut out);
        scratch.spare = out;
        if failures.count > 0 {
            scratch.unsaid += failures.count;
            if scratch.said.is_none_or(|t| t.elapsed() >= Duration::from_secs(60)) {
                scratch.said = Some(Instant::now());
                let Failures { name, last, .. } = &failures;
                tracing::error!("filter {name}: failed on {} events; the last: {last}", scratch.unsaid);
                scratch.unsaid = 0;
            }
        }
        (failures.count, loaded.identity.clone())
    }

    #[allow(clippy::too_many_arguments)] // one call, taken apart
    fn try_run(
        &self,
        loaded: &mut Loaded,
        scratch: &mut Scratch,
        events: &Events,
        source: &[u8],
        flags: u32,
        told: &mut dyn FnMut(usize, &str),
        out: &mut Events,
        failures: &mut Failures,
    ) {
        out.clear();
        let whole = self
            .call(loaded, scratch, events, source, flags)
            .and_then(|()| take(scratch, events, out, told, failures));
        if let Err(e) = whole {
            // Someone of the chunk did it: each alone, then.
            out.clear();
            failures.count = 0;
            let alone = events.len() == 1;
            // Who can make it fail could hold up everyone else's events. What may not pass unfiltered waits instead.
            let patience = self.settings.timeout * PATIENCE;
            let mut lost = Duration::ZERO;
            let (mut one, mut of_one) = (Events::default(), Events::default());
            for i in 0..events.len() {
                one.clear();
                one.push_same(events, i);
                of_one.clear();
                let before = failures.count;
                let began = Instant::now();
                let done = if alone {
                    Err(e.clone())
                } else if lost > patience && failures.on_error == OnError::Pass {
                    Err("not tried: it failed on too many events of the chunk before".into())
                } else {
                    self.call(loaded, scratch, &one, source, flags).and_then(|()| {
                        take(scratch, &one, &mut of_one, &mut |_, text| told(i, text), failures)
                    })
                };
                match done {
                    Ok(()) => out.push_same(&of_one, 0),
                    Err(e) => {
                        lost += began.elapsed();
                        failures.count = before;
                        failures.put(&one, 0, &e, &mut scratch.rewriter, out);
                    }
                }
            }
        }
    }

    /// Starts what has ended, if configuration and data are still what they were; else everything is read anew.
    fn restart(&self, loaded: &mut Loaded) -> Result<(), String> {
        let before = unchanged(loaded, &self.settings);
        if let Some(stamps) = &before {
            let (running, _) = start(&self.runtime, &loaded.module, &self.settings)?;
            if unchanged(loaded, &self.settings).as_ref() == Some(stamps) {
                loaded.running = Some(running);
                return Ok(());
            }
        }
        let had = (loaded.identity.module, loaded.module.clone());
        *loaded = load(&self.runtime, &self.settings, Some(&had))?;
        tracing::info!("filter {}: read anew", loaded.identity.name);
        Ok(())
    }

    /// Calls the module for events; what it answers is in `scratch.output`.
    fn call(
        &self,
        loaded: &mut Loaded,
        scratch: &mut Scratch,
        events: &Events,
        source: &[u8],
        flags: u32,
    ) -> Result<(), String> {
        if loaded.running.is_none() {
            // Reading all data again for each event of a chunk would hold up everyone.
            if loaded.failed.is_some_and(|t| t.elapsed() < Duration::from_secs(1)) {
                return Err("it cannot be started again".into());
            }
            let started = self.restart(loaded);
            loaded.failed = started.is_err().then(Instant::now);
            started?;
        }
        let Some(running) = &mut loaded.running else { return Err("it is not running".into()) };
        let count = events.len();
        let mut w = wire::Writer::new(&mut scratch.input, count, flags, now(), source, events.text());
        (0..count).for_each(|i| w.event(events, i));
        let limit = self.settings.timeout + Duration::from_millis(count as u64);
        let result = running.call(&scratch.input, &mut scratch.output, limit);
        if result.is_err() {
            // Its memory may be anything now.
            loaded.running = None;
        }
        result
    }
}

/// The stamps of what a module reads, if all of that still has the digests that it was loaded with. The module itself is in
/// memory.
fn unchanged(loaded: &Loaded, settings: &Settings) -> Option<Stamps> {
    let id = &loaded.identity;
    let config = std::iter::once((&settings.config, id.config));
    let data = loaded.about.data.iter().map(|(_, path)| path).zip(id.data.iter().map(|d| d.sha256));
    let mut stamps = Stamps::new();
    for (path, digest) in config.chain(data) {
        stamps.push((path.clone(), stamp(path)));
        if hash_file(path).ok()? != digest {
            return None;
        }
    }
    (again(&stamps) == stamps).then_some(stamps)
}

/// Events of a chunk that the filter failed on.
#[derive(Default)]
struct Failures {
    on_error: OnError,
    /// The filter's.
    name: String,
    count: u64,
    last: String,
}

impl Failures {
    /// Adds what stands for event `i`, with the reason, which has no byte of the event.
    fn put(&mut self, events: &Events, i: usize, reason: &str, rewriter: &mut Rewriter, out: &mut Events) {
        self.count += 1;
        self.last = format!("{}: {reason}", self.name);
        match self.on_error {
            OnError::Pass => {
                let places = events.places(i)[Member::Metadata as usize];
                let old = &events.text()[places.0 as usize..places.1 as usize];
                let mut metadata: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_slice(old).unwrap_or_default();
                let list = metadata.entry("$filter_errors").or_insert_with(|| serde_json::json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(self.last.clone().into());
                }
                let marked = json::to_canonical(&metadata).unwrap_or_default();
                if rewriter.push(events, i, &[Change::Set(Member::Metadata, &marked)], out).is_err() {
                    // There was no room for the mark: the counter has it.
                    out.push_same(events, i);
                }
            }
            OnError::Withhold => {
                let whole = events.members_json(i);
                let held = serde_json::json!({"$withheld": {
                    "bytes": whole.len(), "filter": self.name, "reason": reason, "sha256": sha256(&whole).to_string(),
                }});
                out.push_withheld(events, i, &json::to_canonical(&held).unwrap_or_default());
            }
        }
    }
}

/// Reads the module's answer for events into `out`.
fn take(
    scratch: &mut Scratch,
    events: &Events,
    out: &mut Events,
    told: &mut dyn FnMut(usize, &str),
    failures: &mut Failures,
) -> Result<(), String> {
    let Scratch { output, rewriter, .. } = scratch;
    let mut r = wire::Reader::new(output);
    let mut changes: Vec<Change<'_>> = Vec::new();
    for i in 0..events.len() {
        r.changes(&mut changes, |text| told(i, &String::from_utf8_lossy(text)))?;
        if changes.is_empty() || events.own(i).is_some() {
            out.push_same(events, i);
        } else if let Err(e) = rewriter.push(events, i, &changes, out) {
            failures.put(events, i, &format!("what it made of the event is none: {e}"), rewriter, out);
        }
    }
    if r.is_at_end() { Ok(()) } else { Err("its answer is too long".into()) }
}

fn now() -> (i64, u32) {
    #[allow(clippy::disallowed_methods)]
    // for ids, and for the year of times that have none; records have the sink's clock
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(now.as_secs()).unwrap_or(i64::MAX), now.subsec_nanos())
}

impl Running {
    fn call(&mut self, input: &[u8], output: &mut Vec<u8>, limit: Duration) -> Result<(), String> {
        self.limit(limit);
        let len = u32::try_from(input.len()).map_err(|_| "the chunk is too large")?;
        let at = self.buffer.call(&mut self.store, len).map_err(|e| trapped(&e))?;
        self.memory
            .write(&mut self.store, at as usize, input)
            .map_err(|_| "its buffer is outside its memory")?;
        let answer = self.batch.call(&mut self.store, ()).map_err(|e| trapped(&e))?;
        if answer == 0 {
            return Err("it could not read the chunk".into());
        }
        output.clear();
        output.extend_from_slice(self.part(answer)?);
        Ok(())
    }

    fn part(&self, answer: u64) -> Result<&[u8], String> {
        let (at, len) = ((answer >> 32) as usize, (answer & 0xffff_ffff) as usize);
        let memory = self.memory.data(&self.store);
        memory.get(at..at.saturating_add(len)).ok_or_else(|| "its answer is outside its memory".into())
    }

    fn limit(&mut self, limit: Duration) {
        let ticks = limit.as_millis() / TICK.as_millis() + 2;
        self.store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX / 2));
    }
}

/// What a trap is called; never with anything that the module wrote.
fn trapped(e: &wasmtime::Error) -> String {
    match e.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::Interrupt) => "time-out".into(),
        Some(trap) => format!("trap: {trap}"),
        None => "trap".into(),
    }
}

/// After so many time limits spent on failures, the rest of a chunk passes as it came.
const PATIENCE: u32 = 10;
/// WASI's number for what there is not (preview 1, `errno`).
const ENOSYS: i32 = 52;
/// The most elements that a module's tables may have, in all its tables: host memory beside the module's own.
const TABLE: usize = 1 << 16;

/// Reading a configuration and its data may take so long.
const CONFIGURE: Duration = Duration::from_secs(60);

/// Starts a module and lets it read its configuration; with what it says of itself.
fn start(runtime: &Runtime, module: &Module, settings: &Settings) -> Result<(Running, About), String> {
    let what = |e: wasmtime::Error| format!("{}: {e:#}", settings.module.display());
    let mut linker: Linker<Host> = Linker::new(&runtime.engine);
    wasmtime_wasi::p1::add_to_linker_sync(&mut linker, |h| &mut h.wasi).map_err(what)?;
    // A module that sleeps holds up the sink, and no epoch ends that: there is nothing that a filter could wait for.
    linker.allow_shadowing(true);
    linker
        .func_wrap("wasi_snapshot_preview1", "poll_oneoff", |_: i32, _: i32, _: i32, _: i32| -> i32 {
            ENOSYS
        })
        .map_err(what)?;
    let mut wasi = WasiCtxBuilder::new();
    wasi.env("WAXSEAL_HOST", "sink").allow_blocking_current_thread(true);
    for dir in directories(settings) {
        wasi.preopened_dir(dir, dir.to_string_lossy(), FsPerms::ReadOnly)
            .map_err(|e| format!("{}: {e:#}", dir.display()))?;
    }
    let limits = StoreLimitsBuilder::new()
        .memory_size(settings.memory)
        .instances(1)
        .memories(1)
        .tables(4)
        .table_elements(TABLE)
        .build();
    let mut store = Store::new(&runtime.engine, Host { wasi: wasi.build_p1(), limits });
    store.limiter(|h| &mut h.limits);
    store.set_epoch_deadline(u64::try_from(CONFIGURE.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX / 2));
    let instance = linker.instantiate(&mut store, module).map_err(what)?;
    let missing = |name: &str| format!("{}: no filter: it has no {name}", settings.module.display());
    fn function<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
        instance: &Instance,
        store: &mut Store<Host>,
        name: &str,
    ) -> Option<TypedFunc<P, R>> {
        instance.get_typed_func(store, name).ok()
    }
    if let Some(init) = function::<(), ()>(&instance, &mut store, "_initialize") {
        init.call(&mut store, ()).map_err(what)?;
    }
    let abi =
        function::<(), u32>(&instance, &mut store, "waxseal_abi").ok_or_else(|| missing("waxseal_abi"))?;
    let version = abi.call(&mut store, ()).map_err(what)?;
    if version != wire::VERSION {
        return Err(format!(
            "{}: it speaks version {version} of the filter interface, this sink {}",
            settings.module.display(),
            wire::VERSION
        ));
    }
    let memory = instance.get_memory(&mut store, "memory").ok_or_else(|| missing("memory"))?;
    let buffer =
        function(&instance, &mut store, "waxseal_buffer").ok_or_else(|| missing("waxseal_buffer"))?;
    let batch = function(&instance, &mut store, "waxseal_batch").ok_or_else(|| missing("waxseal_batch"))?;
    let configure = function::<(), u64>(&instance, &mut store, "waxseal_configure")
        .ok_or_else(|| missing("waxseal_configure"))?;
    let mut running = Running { store, memory, buffer, batch };
    let path = settings.config.to_string_lossy();
    let len = u32::try_from(path.len()).map_err(|e| e.to_string())?;
    let at = running.buffer.call(&mut running.store, len).map_err(what)?;
    running.memory.write(&mut running.store, at as usize, path.as_bytes()).map_err(|e| e.to_string())?;
    let answer = configure.call(&mut running.store, ()).map_err(|e| {
        format!(
            "{}: the module ended as it read its configuration: {}",
            settings.config.display(),
            trapped(&e)
        )
    })?;
    match serde_json::from_slice(running.part(answer)?).map_err(|e| e.to_string())? {
        Configured::Ready(about) => Ok((running, about)),
        Configured::Refused(why) => Err(why),
    }
}

/// Only what lies in the directories that it sees can a module have read.
fn is_within(path: &Path, settings: &Settings) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    directories(settings).any(|d| d.canonicalize().is_ok_and(|d| path.starts_with(d)))
}

/// The directories that a module sees.
fn directories(settings: &Settings) -> impl Iterator<Item = &Path> {
    let own = settings.config.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::iter::once(own).chain(settings.directories.iter().map(PathBuf::as_path))
}

/// Loads everything; a module that is `had` already need not be compiled again.
fn load(runtime: &Runtime, settings: &Settings, had: Option<&(Hash, Module)>) -> Result<Loaded, String> {
    let at = |path: &Path, e: String| format!("{}: {e}", path.display());
    // Files may change as they are read. What was read is what is hashed if nothing changed since long before, or if the files
    // are what they were after the time before.
    let mut before: Option<(Stamps, statement::Filter)> = None;
    for _ in 0..5 {
        let (seconds, nanos) = now();
        let began = Duration::new(u64::try_from(seconds).unwrap_or(0), nanos);
        let mut stamps = Stamps::new();
        for path in [&settings.module, &settings.config]
            .into_iter()
            .chain(settings.precompiled.iter().map(|(p, _)| p))
        {
            stamps.push((path.clone(), stamp(path)));
        }
        let wasm = std::fs::read(&settings.module).map_err(|e| at(&settings.module, e.to_string()))?;
        let digest = sha256(&wasm);
        let mut extra = None;
        let module = match &settings.precompiled {
            Some((path, wanted)) => {
                let file = std::fs::read(path).map_err(|e| at(path, e.to_string()))?;
                let is = sha256(&file);
                if is != *wanted {
                    return Err(at(
                        path,
                        format!("its SHA-256 is {is}, and the configuration names {wanted}"),
                    ));
                }
                extra = Some(statement::FilterData { name: "precompiled".into(), sha256: is });
                runtime.native(&file, digest).map_err(|e| at(path, e))?
            }
            None => match had.filter(|(of, _)| *of == digest) {
                Some((_, module)) => module.clone(),
                None => compile(runtime, settings, &wasm, digest)?,
            },
        };
        let (running, about) = start(runtime, &module, settings)?;
        let config = hash_file(&settings.config)?;
        let mut data = Vec::new();
        for (name, path) in &about.data {
            if !is_within(path, settings) {
                return Err(at(path, "the module names it, and may not read it".into()));
            }
            stamps.push((path.clone(), stamp(path)));
            data.push(statement::FilterData { name: name.clone(), sha256: hash_file(path)? });
        }
        data.extend(extra);
        let asks = if about.fails_closed { OnError::Withhold } else { OnError::Pass };
        let identity = statement::Filter { name: about.name.clone(), module: digest, config, data };
        let same = again(&stamps) == stamps;
        let old = stamps.iter().all(|(_, s)| s.is_some_and(|s| s.is_older_than(began)));
        let read = (stamps, identity);
        if same && (old || before.as_ref() == Some(&read)) {
            let (stamps, identity) = read;
            return Ok(Loaded {
                module,
                identity: Arc::new(identity),
                on_error: settings.on_error.unwrap_or(asks),
                about,
                running: Some(running),
                failed: None,
                stamps,
                refused: None,
            });
        }
        before = Some(read);
    }
    Err(at(&settings.config, "it or its data change all the time".into()))
}

impl Stamp {
    /// Whether nothing changed in the last moments before (since 1970): a file system's clock has steps.
    fn is_older_than(&self, began: Duration) -> bool {
        let of = |(s, ns): (i64, i64)| {
            Duration::new(u64::try_from(s).unwrap_or(0), u32::try_from(ns).unwrap_or(0))
        };
        of(self.modified).max(of(self.changed)) + Duration::from_millis(50) < began
    }
}

/// Native code: of the cache where there is one, else made now.
fn compile(runtime: &Runtime, settings: &Settings, wasm: &[u8], digest: Hash) -> Result<Module, String> {
    let what = |e: wasmtime::Error| format!("{}: no WASM module: {e:#}", settings.module.display());
    let Some(dir) = &settings.cache else { return Module::new(&runtime.engine, wasm).map_err(what) };
    private(dir)?;
    let compatible = {
        use std::hash::{Hash as _, Hasher as _};
        let mut h = std::hash::DefaultHasher::new();
        runtime.engine.precompile_compatibility_hash().hash(&mut h);
        h.finish()
    };
    let path = dir.join(format!("{digest}-{compatible:016x}.native"));
    if let Ok(file) = std::fs::read(&path) {
        match runtime.native(&file, digest) {
            Ok(module) => return Ok(module),
            Err(e) => tracing::warn!("{}: {e}; made anew", path.display()),
        }
    }
    let file = runtime.precompile(wasm)?;
    let tmp = path.with_extension(format!("{}.tmp", std::process::id()));
    #[allow(clippy::disallowed_methods)] // a cache: what is lost of it is made again
    let kept = std::fs::write(&tmp, &file).and_then(|()| std::fs::rename(&tmp, &path));
    if let Err(e) = kept {
        tracing::warn!("{}: {e}; the native code is not kept", path.display());
    }
    runtime.native(&file, digest)
}

/// A directory of native code must be this user's alone.
fn private(dir: &Path) -> Result<(), String> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    let at = |e: String| format!("cache {}: {e}", dir.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| at(e.to_string()))?;
    let m = std::fs::metadata(dir).map_err(|e| at(e.to_string()))?;
    if m.uid() != rustix::process::geteuid().as_raw() || m.mode() & 0o022 != 0 {
        return Err(at("whoever writes there runs code in the sink: it must belong to this user, and nobody else may write".into()));
    }
    Ok(())
}
