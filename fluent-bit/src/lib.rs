//! The sink inside Fluent Bit: its Go-proxy plugin interface, which has been stable across versions (docs/fluent-bit.md).
//!
//! Fluent Bit calls a flush on its engine's thread, in a coroutine whose stack has 24 KiB and no guard page: so a
//! flush only hands the slice to a thread of ours and waits. The slice is valid until it returns, and no longer.
//! `OK` means durable; everything else is `RETRY`, since after `ERROR` the host drops the chunk, and there is no
//! chunk that cannot be sealed. No panic leaves these functions.

#![allow(unsafe_code)] // the C ABI

use sink::Context;
use sink::chain::Redelivery;
use sink::config::{self, Config, Instead};
use sink::intake::doubt::Attempts;
use sink::intake::hand_over;
use sink::pipeline::{Pipeline, Submitter};
use sink::telemetry;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tracing::Level;
use waxseal_filter_host::{Filters, Process};
use waxseal_trail::fluent;
use waxseal_trail::hash::Digest;
use waxseal_trail::record::Converter;

const OK: c_int = 1;
const RETRY: c_int = 2;
const FAILED: c_int = -1;
/// `FLB_PROXY_OUTPUT_PLUGIN`, `FLB_PROXY_GOLANG`.
const OUTPUT_PLUGIN: c_int = 2;
const GOLANG: c_int = 11;

/// What the host learns of a plugin: the part that every version has. Newer hosts have more members behind it, older
/// ones have uninitialised memory there; neither is touched.
#[repr(C)]
pub struct Definition {
    kind: c_int,
    proxy: c_int,
    flags: c_int,
    name: *mut c_char,
    description: *mut c_char,
}

/// The host's functions, as far as they are used.
#[repr(C)]
pub struct Api {
    output_get_property: Option<unsafe extern "C" fn(*const c_char, *mut c_void) -> *const c_char>,
    input_get_property: *mut c_void,
    output_get_cmt_instance: *mut c_void,
    input_get_cmt_instance: *mut c_void,
    log_print: Option<LogPrint>,
}

type LogPrint = unsafe extern "C" fn(c_int, *const c_char, c_int, *const c_char, ...);

/// The context that comes back with every flush.
#[repr(C)]
pub struct ProxyContext {
    remote_context: *mut c_void,
    proxy: *mut c_void,
}

/// An output of the host; one struct for all instances of a library, written anew before each `FLBPluginInit`.
#[repr(C)]
pub struct OutputPlugin {
    name: *mut c_char,
    api: *const Api,
    instance: *mut c_void,
    context: *mut ProxyContext,
}

/// How long an exit waits for the store; what is not there then is stored at the next start.
const GRACE: Duration = Duration::from_secs(4);
/// Threads that convert chunks; more wait.
const THREADS: usize = 2;

/// A tag on which builds for tests panic.
const PROVOKE: &[u8] = b"waxseal.test.panic";

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A chunk that a flush waits for.
struct Job {
    data: *const u8,
    len: usize,
    tag: *const c_char,
    answer: Mutex<Option<c_int>>,
    answered: Condvar,
}

// SAFETY: the pointers are the host's, which reads and writes nothing behind them until the flush returns; and the
// flush returns only after the answer, which is the last thing that the thread with the job does.
unsafe impl Send for Job {}
// SAFETY: as above; both threads only read.
unsafe impl Sync for Job {}

impl Job {
    fn answer(&self, code: c_int) {
        *lock(&self.answer) = Some(code);
        self.answered.notify_all();
    }
}

/// One configured output.
struct Instance {
    jobs: Mutex<Option<mpsc::Sender<Arc<Job>>>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    pipeline: Mutex<Option<Pipeline>>,
    stop: tokio::sync::watch::Sender<bool>,
    _held: std::fs::File,
}

impl Instance {
    fn start(path: &Path, instead: &Instead) -> Result<Instance, String> {
        sink::memory::return_large_buffers();
        let config = Config::load_with(path, instead).map_err(|e| e.to_string())?;
        if !config.intake.is_empty() {
            return Err(format!("{}: intake: inside Fluent Bit the shipper is the intake", path.display()));
        }
        let held = config::hold(&config)?;
        let listen = config.telemetry;
        // What can fail without the pipeline, before it.
        let bound = match listen {
            None => None,
            Some(listen) => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .enable_time()
                    .build()
                    .map_err(|e| e.to_string())?;
                let listener = runtime.block_on(telemetry::bind(listen))?;
                Some((runtime, listener))
            }
        };
        let filters = Filters::load(&config.filters, Process::Shipper)?;
        let pipeline = Pipeline::start(Context::system(config)?, filters).map_err(|e| e.to_string())?;
        let submitter = pipeline.submitter();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut threads = Vec::new();
        let mut spawn = |name: &str, run: Box<dyn FnOnce() + Send>| -> Result<(), String> {
            let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
            threads.push(thread.map_err(|e| format!("no thread can be started: {e}"))?);
            Ok(())
        };
        if let Some((runtime, listener)) = bound {
            let submitter = submitter.clone();
            spawn(
                "wax-net",
                Box::new(move || runtime.block_on(telemetry::run(listener, submitter, stopped))),
            )?;
        }
        let (jobs, queue) = mpsc::channel::<Arc<Job>>();
        let queue = Arc::new(Mutex::new(queue));
        let asked = Arc::<Mutex<Attempts>>::default();
        for _ in 0..THREADS {
            let (queue, asked, submitter) = (queue.clone(), asked.clone(), submitter.clone());
            spawn("wax-flush", Box::new(move || flushes(&queue, &submitter, &asked)))?;
        }
        Ok(Instance {
            jobs: Mutex::new(Some(jobs)),
            threads: Mutex::new(threads),
            pipeline: Mutex::new(Some(pipeline)),
            stop,
            _held: held,
        })
    }

    fn flush(&self, job: &Arc<Job>) -> c_int {
        let sent = lock(&self.jobs).as_ref().is_some_and(|j| j.send(job.clone()).is_ok());
        if !sent {
            return RETRY;
        }
        let mut answer = lock(&job.answer);
        loop {
            match *answer {
                Some(code) => return code,
                None => answer = job.answered.wait(answer).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Takes nothing more, seals what the spool has, and ends all threads.
    fn exit(&self) {
        lock(&self.jobs).take();
        let _ = self.stop.send(true);
        if let Some(pipeline) = lock(&self.pipeline).take()
            && let Err(e) = pipeline.stop(GRACE)
        {
            tracing::error!("{e}");
        }
        // All of them: the library's code may be gone afterwards.
        lock(&self.threads).drain(..).for_each(|t| drop(t.join()));
    }
}

fn flushes(queue: &Mutex<mpsc::Receiver<Arc<Job>>>, submitter: &Submitter, asked: &Mutex<Attempts>) {
    loop {
        let Ok(job) = lock(queue).recv() else { return };
        let code = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the flush that made this job waits for its answer; see `Job`.
            let (data, tag): (&[u8], &[u8]) = unsafe {
                let data = if job.len == 0 { &[] } else { std::slice::from_raw_parts(job.data, job.len) };
                (data, if job.tag.is_null() { &[] } else { CStr::from_ptr(job.tag).to_bytes() })
            };
            // The ABI host of the tests sees what a bug would do to a host; there is none to provoke.
            assert!(!(cfg!(debug_assertions) && tag == PROVOKE), "provoked by a test");
            flush(submitter, tag, data, asked)
        }));
        // A panic is a bug of ours, and no reason to lose a chunk.
        job.answer(code.unwrap_or(RETRY));
    }
}

fn flush(submitter: &Submitter, tag: &[u8], data: &[u8], asked: &Mutex<Attempts>) -> c_int {
    // There is no chunk id: tag and bytes have to do.
    let mut d = Digest::default();
    d.update(b"fluentbit\0");
    d.update(&(tag.len() as u64).to_be_bytes());
    d.update(tag);
    d.update(data);
    let key = d.finish();
    let attempt = lock(asked).take(&key).unwrap_or_else(|| submitter.attempt());
    let mut chunk = fluent::Chunk::new("fluentbit", tag, data);
    let source = chunk.source();
    let mut converter = Converter::default();
    let taken = hand_over(submitter, &source, Some(key), Redelivery::Attempt(attempt), |events| {
        let from = chunk.position();
        chunk.next(&mut converter, events).then(|| chunk.position() - from)
    });
    match taken {
        Ok(_) => OK,
        Err(why) => {
            tracing::warn!(
                "a chunk of {} bytes under tag {:?} is asked for again: {why}",
                data.len(),
                lossy(tag)
            );
            lock(asked).put(&key, attempt);
            RETRY
        }
    }
}

fn lossy(text: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(text)
}

/// The host's log. Its function stays where it is when its struct goes, as at a reload.
static LOG: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// So many lines in [`WINDOW`]; more are counted.
const LINES: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);

/// Sends lines to the host's log, some at a time.
#[derive(Clone, Default)]
struct HostLog(Arc<Mutex<Rate>>);

#[derive(Default)]
struct Rate {
    since: Option<Instant>,
    lines: u32,
    held_back: u32,
}

struct Line {
    log: HostLog,
    level: c_int,
    text: Vec<u8>,
}

impl std::io::Write for Line {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut rate = lock(&self.log.0);
        if rate.since.is_none_or(|s| s.elapsed() > WINDOW) {
            let held_back = std::mem::take(&mut rate.held_back);
            (rate.since, rate.lines) = (Some(Instant::now()), 0);
            if held_back > 0 {
                print(2, &format!("{held_back} lines more were held back"));
            }
        }
        rate.lines += 1;
        if rate.lines > LINES {
            rate.held_back += 1;
            return;
        }
        drop(rate);
        print(self.level, lossy(&self.text).trim_end());
    }
}

fn print(level: c_int, text: &str) {
    let text = text.replace('\0', "\\0");
    let log = LOG.load(Ordering::Acquire);
    let Ok(line) = CString::new(format!("[waxseal] {text}")) else { return };
    if log.is_null() {
        eprintln!("[waxseal] {text}");
        return;
    }
    // SAFETY: the pointer was stored from a `LogPrint` of the host, whose code is never unloaded; the format takes one
    // string, which lives until the call returns.
    unsafe {
        let log = std::mem::transmute::<*mut c_void, LogPrint>(log);
        log(level, c"waxseal".as_ptr(), 0, c"%s".as_ptr(), line.as_ptr());
    }
}

impl HostLog {
    fn line(&self, level: c_int) -> Line {
        Line { log: self.clone(), level, text: Vec::new() }
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for HostLog {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        self.line(3)
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Line {
        let level = match *meta.level() {
            Level::ERROR => 1,
            Level::WARN => 2,
            Level::INFO => 3,
            _ => 4,
        };
        self.line(level)
    }
}

/// Once a process, however many instances and reloads there are.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let filter = std::env::var("WAXSEAL_LOG").unwrap_or_else(|_| "info".to_owned());
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_writer(HostLog::default())
            .try_init();
        // The hook of the library alone, not of the process. Without a backtrace: that takes 20 KB of stack.
        std::panic::set_hook(Box::new(|info| tracing::error!("a bug: {info}")));
    });
}

/// A property of the output, if it is set.
///
/// # Safety
/// `plugin` is what the host gave to `FLBPluginInit`, during that call.
unsafe fn property(plugin: &OutputPlugin, name: &CStr) -> Option<String> {
    // SAFETY: the host's struct is whole, and what it returns is a string of its own or NULL.
    unsafe {
        let get = (*plugin.api).output_get_property?;
        let value = get(name.as_ptr(), plugin.instance);
        (!value.is_null()).then(|| lossy(CStr::from_ptr(value).to_bytes()).into_owned())
    }
}

/// Says what this library is.
///
/// # Safety
/// Called by the host with its own struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FLBPluginRegister(definition: *mut Definition) -> c_int {
    if definition.is_null() {
        return FAILED;
    }
    // SAFETY: five members that every version's struct has; the strings are static and never written to.
    unsafe {
        (*definition).kind = OUTPUT_PLUGIN;
        (*definition).proxy = GOLANG;
        (*definition).flags = 0;
        (*definition).name = c"waxseal".as_ptr().cast_mut();
        (*definition).description = c"Waxseal: a tamper-evident audit trail".as_ptr().cast_mut();
    }
    0
}

/// Starts one output.
///
/// # Safety
/// Called by the host with its own structs, on its main thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FLBPluginInit(plugin: *mut OutputPlugin) -> c_int {
    let started = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the host's struct, whole during this call.
        let plugin = unsafe { plugin.as_ref() }.ok_or("the host gave no plugin")?;
        if plugin.api.is_null() || plugin.context.is_null() {
            return Err("the host gave no API or no context".to_owned());
        }
        // SAFETY: not null, and the host's.
        if let Some(log) = unsafe { (*plugin.api).log_print } {
            LOG.store(log as *mut c_void, Ordering::Release);
        }
        prepare();
        // SAFETY: this is that call.
        let (path, instead) = unsafe {
            let instead = Instead { trail: property(plugin, c"trail"), writer: property(plugin, c"writer") };
            (property(plugin, c"config"), instead)
        };
        let path =
            path.ok_or("the property `config` is not set: the path of a YAML file (docs/configuration.md)")?;
        let instance = Instance::start(Path::new(&path), &instead)?;
        tracing::info!("{} takes events", sink::SOFTWARE);
        // SAFETY: not null, and the host's; it keeps what is written here and hands it back.
        unsafe { (*plugin.context).remote_context = Box::into_raw(Box::new(instance)).cast() };
        Ok(())
    }));
    match started {
        Ok(Ok(())) => OK,
        Ok(Err(why)) => {
            let why: String = why;
            print(1, &why);
            FAILED
        }
        Err(_) => FAILED,
    }
}

/// Takes a chunk: `OK` once it is durable.
///
/// # Safety
/// Called by the host with a context that `FLBPluginInit` made, and a slice and a string that live during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FLBPluginFlushCtx(
    context: *mut c_void,
    data: *const c_void,
    size: usize,
    tag: *mut c_char,
) -> c_int {
    // SAFETY: null, or what `FLBPluginInit` made and `FLBPluginExitCtx` has not taken back.
    let Some(instance) = (unsafe { context.cast::<Instance>().as_ref() }) else { return RETRY };
    // Nothing here panics, and nothing here needs much stack; a panic would be one that the host never sees.
    catch_unwind(AssertUnwindSafe(|| {
        let job = Arc::new(Job {
            data: data.cast(),
            len: if data.is_null() { 0 } else { size },
            tag,
            answer: Mutex::new(None),
            answered: Condvar::new(),
        });
        instance.flush(&job)
    }))
    .unwrap_or(RETRY)
}

/// Ends one output: what the spool has is sealed, and stored if the store answers in time. `NULL` where nothing was
/// started: at a dry run, and when another output's start failed.
///
/// # Safety
/// Called by the host with a context that `FLBPluginInit` made, once, after the last flush.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FLBPluginExitCtx(context: *mut c_void) -> c_int {
    if context.is_null() {
        return OK;
    }
    // SAFETY: it came from `Box::into_raw`, and the host gives it back once.
    let instance = unsafe { Box::from_raw(context.cast::<Instance>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| instance.exit()));
    OK
}
