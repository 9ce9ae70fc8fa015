//! The threads around the three owners of state, and what they say to each other.
//!
//! Intake submits chunks to a queue. The spool thread answers them. The seal thread takes records from a
//! short ring in memory, or, where it has fallen behind, from the spool itself: a store that is away fills
//! the disk, not the memory. The store thread gives the spool its room back.

use crate::Context;
use crate::answer::{self, Pending, Reply};
use crate::chain::{Accepted, Chain, Chunk, Own, Receipt, Redelivery, Refusal, Sealables, read_back};
use crate::config::Acknowledge;
use crate::epoch::{Epoch, Intent, Kept, Opened, SinkError};
use crate::known::Known;
use crate::lock;
use crate::metrics::{Fallback, Metrics};
use crate::seal::{Close, Sealer};
use crate::spool::{Entry, Frame, Group, Spool, SpoolError, SpoolReader, is_newer};
use crate::upload::{self, Uploaded};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use waxseal_filter_host::{Filters, Passed};
use waxseal_store::Kind;
use waxseal_trail::hash::{Hash, leaf_hash};
use waxseal_trail::json;
use waxseal_trail::record::{Checker, Events, Template, relink};
use waxseal_trail::statement::{Filter, Reason, State};

/// Input that waits for the spool thread; beyond it, intake waits.
const QUEUE_BYTES: usize = 8 << 20;
/// One group of chunks: one write, one sync.
const GROUP_BYTES: usize = 2 << 20;
/// Records between spool and sealer in memory.
const RING_BYTES: usize = 8 << 20;
/// How often the key files are looked at.
const KEYS: Duration = Duration::from_secs(5);
/// How long intake waits for room before it refuses.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a full spool is not asked again. A shipper may have a hundred small chunks to offer each second, and waits
/// for each answer with all its other outputs.
const FULL: Duration = Duration::from_millis(250);

struct Queue {
    chunks: VecDeque<(Chunk, Reply)>,
    bytes: usize,
    closing: bool,
    /// The spool was full: until then nobody asks it again.
    full_until: Option<Instant>,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.full_until.is_some_and(|until| Instant::now() < until)
    }
}

struct Waiting {
    end: u64,
    receipt: Receipt,
    reply: Reply,
}

/// What lives as long as the process.
struct Shared {
    cx: Context,
    filters: Filters,
    metrics: Metrics,
    queue: Mutex<Queue>,
    queue_changed: Condvar,
    /// Nobody waits for the store any longer: what is not stored stays in the spool.
    abandon: AtomicBool,
    retire: AtomicBool,
    ready: AtomicBool,
    broken: AtomicBool,
    waiting: Mutex<Vec<Waiting>>,
    /// Event buffers that have been chained, for the next requests.
    buffers: Mutex<Vec<Events>>,
    /// The keys that were spooled since the process began.
    own: Arc<Mutex<Own>>,
    attempts: AtomicU64,
}

impl Shared {
    fn new(cx: Context, filters: Filters, own: Arc<Mutex<Own>>) -> Shared {
        Shared {
            cx,
            filters,
            metrics: Metrics::new(),
            queue: Mutex::new(Queue { chunks: VecDeque::new(), bytes: 0, closing: false, full_until: None }),
            queue_changed: Condvar::new(),
            abandon: AtomicBool::new(false),
            retire: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
            buffers: Mutex::new(Vec::new()),
            own,
            attempts: AtomicU64::new(0),
        }
    }
}

/// So many event buffers are kept.
const BUFFERS: usize = 4;

/// A running sink.
pub struct Pipeline {
    shared: Arc<Shared>,
    supervisor: Option<thread::JoinHandle<Result<(), SinkError>>>,
}

/// A handle to submit with; cheap to clone.
#[derive(Clone)]
pub struct Submitter(Arc<Shared>);

impl Submitter {
    /// Filters a chunk and hands it over. Waits a little where the spool is behind.
    pub fn submit(&self, mut chunk: Chunk, input_bytes: usize) -> Pending {
        let (reply, answer) = answer::pair();
        let shared = &*self.0;
        chunk.passed = shared.filters.apply(&mut chunk.events, &chunk.source);
        let size = chunk.events.bytes() + 256;
        let deadline = Instant::now() + PATIENCE;
        let mut q = lock(&shared.queue);
        let refusal = loop {
            if q.closing {
                break Some(Refusal::Closing);
            }
            if q.is_full() {
                break Some(Refusal::Full);
            }
            if q.bytes == 0 || q.bytes + size <= QUEUE_BYTES {
                break None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Some(Refusal::Full);
            }
            q = shared.queue_changed.wait_timeout(q, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        if let Some(r) = refusal {
            drop(q);
            shared.metrics.refused.inc();
            reply.tell(Err(r));
            return answer;
        }
        shared.metrics.bytes.inc_by(input_bytes as u64);
        q.bytes += size;
        q.chunks.push_back((chunk, reply));
        drop(q);
        shared.queue_changed.notify_all();
        answer
    }

    /// Whether a chunk would be refused for want of room; before anything is converted.
    pub fn is_full(&self) -> bool {
        lock(&self.0.queue).is_full()
    }

    /// A fresh number, for [`Redelivery::Attempt`].
    pub fn attempt(&self) -> u64 {
        self.0.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// An empty buffer to convert events into.
    pub fn buffer(&self) -> Events {
        lock(&self.0.buffers).pop().unwrap_or_default()
    }

    /// The numbers.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Whether events would be taken now.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed) && !lock(&self.0.queue).closing && !self.is_broken()
    }

    /// Whether the pipeline has ended for a reason that no retry mends.
    pub fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Relaxed)
    }

    /// The largest event or body that makes sense to hold.
    pub fn context(&self) -> &Context {
        &self.0.cx
    }
}

impl Pipeline {
    /// Opens the state, makes an epoch if there is none, and starts the threads.
    ///
    /// # Errors
    /// [`SinkError`]: everything that keeps a sink from starting is found here.
    pub fn start(cx: Context, filters: Filters) -> Result<Pipeline, SinkError> {
        // A damaged spool is said here, at the start.
        let (epoch, mut chain) = open_state(&cx, true, true)?;
        let own: Arc<Mutex<Own>> = Arc::default();
        chain.share(own.clone());
        let shared = Arc::new(Shared::new(cx, filters, own));
        for (feature, what) in shared.cx.store.fallbacks() {
            tracing::warn!("{}: {feature}: {what}", shared.cx.store.place());
            shared.metrics.fallbacks.get_or_create(&Fallback { feature }).set(1);
        }
        if let Some(t) = shared.cx.config.signing.get().oldest_key {
            let age = t.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            shared.metrics.key_time.set(age.as_secs_f64());
        }
        let inner = shared.clone();
        let supervisor = thread::Builder::new()
            .name("wax-supervise".into())
            .spawn(move || {
                let result = supervise(&inner, epoch, chain);
                inner.broken.store(result.is_err(), Ordering::Relaxed);
                if let Err(e) = &result {
                    tracing::error!("the sink stops: {e}");
                }
                // Whoever still waits is told to try again.
                close_queue(&inner);
                let rest: Vec<_> = lock(&inner.queue).chunks.drain(..).collect();
                rest.into_iter().for_each(|(_, reply)| reply.tell(Err(Refusal::Closing)));
                lock(&inner.waiting).drain(..).for_each(|w| w.reply.tell(Err(Refusal::Closing)));
                result
            })
            .map_err(|e| SinkError::Random(e.to_string()))?;
        Ok(Pipeline { shared, supervisor: Some(supervisor) })
    }

    /// One that takes events, filters them, and says of each chunk that it is durable, which it is not: what intake
    /// costs by itself, for benchmarks. Nothing is written.
    #[doc(hidden)]
    pub fn discarding(cx: Context, filters: Filters) -> Pipeline {
        let shared = Arc::new(Shared::new(cx, filters, Arc::default()));
        shared.ready.store(true, Ordering::Relaxed);
        let inner = shared.clone();
        let supervisor = thread::spawn(move || {
            let mut q = lock(&inner.queue);
            while !q.closing {
                q.bytes = 0;
                for (chunk, reply) in q.chunks.drain(..) {
                    let (accepted, unparsed) = (chunk.events.len() as u64, chunk.events.unparsed());
                    reply.tell(Ok(Receipt { accepted, unparsed, redelivered: false, end: 0 }));
                    inner.metrics.received.inc_by(accepted);
                    let mut buffers = lock(&inner.buffers);
                    if buffers.len() < BUFFERS {
                        let mut events = chunk.events;
                        events.clear();
                        buffers.push(events);
                    }
                }
                inner.queue_changed.notify_all();
                let waited = inner.queue_changed.wait_timeout(q, Duration::from_millis(250));
                q = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            Ok(())
        });
        Pipeline { shared, supervisor: Some(supervisor) }
    }

    /// A handle for intake.
    pub fn submitter(&self) -> Submitter {
        Submitter(self.shared.clone())
    }

    /// The last header will say that this writer writes no more.
    pub fn retire(&self) {
        self.shared.retire.store(true, Ordering::Relaxed);
    }

    /// Takes nothing more, seals what the spool has (`stopped`), stores it if the store answers within
    /// `grace`, and ends. `false`: not everything is in the store; what is not is stored at the next start.
    ///
    /// # Errors
    /// [`SinkError`], if the pipeline had ended for a reason that no retry mends.
    pub fn stop(mut self, grace: Duration) -> Result<bool, SinkError> {
        close_queue(&self.shared);
        let Some(supervisor) = self.supervisor.take() else { return Ok(true) };
        let deadline = Instant::now() + grace;
        while !supervisor.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let finished = supervisor.is_finished();
        if !finished {
            tracing::warn!("not everything could be stored within {grace:?}; the next start goes on with it");
        }
        self.shared.abandon.store(true, Ordering::Relaxed);
        self.shared.cx.store.abandon();
        supervisor.join().unwrap_or(Ok(())).map(|()| finished)
    }
}

fn close_queue(shared: &Shared) {
    lock(&shared.queue).closing = true;
    shared.queue_changed.notify_all();
}

/// Opens everything: the current epoch, or a new one where it cannot go on, and its chain. The one way in: for a
/// start (`starting`: it is counted), and for going on after a failed sync (`rewrite`: what may not be durable
/// is written anew).
///
/// # Errors
/// [`SinkError`].
pub fn open_state(cx: &Context, starting: bool, rewrite: bool) -> Result<(Epoch, Chain), SinkError> {
    let epoch = open_epoch(cx, starting)?;
    match Chain::open(cx, &epoch, rewrite) {
        // After a downgrade: what the later release spooled stays where it is, and this one goes on beside it.
        Err(SinkError::Spool(e @ SpoolError::Newer { .. })) => {
            tracing::error!(
                "{e}: what it holds was acknowledged and is not sealed by this release. It stays there; a new epoch \
                 begins. Keep the state directory for the later release"
            );
            let mut epoch = new_epoch(cx, Reason::StateLost, Some(epoch))?;
            epoch.count_boot(cx)?;
            let chain = Chain::open(cx, &epoch, rewrite)?;
            Ok((epoch, chain))
        }
        chain => Ok((epoch, chain?)),
    }
}

/// Opens the current epoch or makes a new one; counts the start of a process.
fn open_epoch(cx: &Context, starting: bool) -> Result<Epoch, SinkError> {
    let mut epoch = match Epoch::open(cx)? {
        Opened::Same(epoch) => *epoch,
        Opened::New(reason, old) => new_epoch(cx, reason, old.map(|o| *o))?,
    };
    if starting || epoch.boot == 0 {
        epoch.count_boot(cx)?;
    }
    Ok(epoch)
}

/// Begins a new epoch and takes along what the old one had not committed: same events, new links.
///
/// # Errors
/// [`SinkError`]; the old epoch then still is the current one.
pub fn new_epoch(cx: &Context, reason: Reason, mut old: Option<Epoch>) -> Result<Epoch, SinkError> {
    if let Some(old) = &mut old {
        finish(cx, reason, old)?;
        // Epochs after it never came to be.
        sweep(cx, &old.dir, |epoch| epoch > &*old.dir);
    }
    let new = Epoch::create(cx, reason, old.as_ref())?;
    if let Some(old) = &old {
        tracing::warn!(
            "epoch {} begins ({reason:?}); {} ends after batch {:?}",
            new.writer,
            old.writer,
            old.stored.next_batch.checked_sub(1)
        );
        salvage(cx, old, &new)?;
    }
    new.make_current(cx)?;
    // What the old one had not committed was taken along. Of other epochs nothing is known here.
    if let Some(old) = &old {
        sweep(cx, &new.dir, |epoch| epoch == &*old.dir);
    }
    Ok(new)
}

/// Brings what `old` has sealed into the store as far as that is possible, before another epoch follows it.
fn finish(cx: &Context, reason: Reason, old: &mut Epoch) -> Result<(), SinkError> {
    // A copy of a state directory, or one whose place was taken, adds nothing to the original's objects.
    let ours = !matches!(reason, Reason::Fork);
    let intents = std::mem::take(&mut old.intents);
    if ours && !intents.is_empty() {
        if let Uploaded::Taken(_) = upload::genesis(cx, old)? {
            return Ok(());
        }
        old.note_genesis_stored(cx)?;
    }
    for intent in intents {
        let own = upload::Own::of(old, intent.header.batch);
        let mut kept = Vec::new();
        if ours {
            if let Uploaded::Taken(_) = upload::keys_before(cx, old, intent.header.batch)? {
                break;
            }
            let Uploaded::Stored(stored) = upload::batch(cx, &own, &intent)? else { break };
            kept = stored;
        } else if !upload::is_committed(cx, &own, &intent)? {
            // One that is in the store is committed, whether or not we had come to note it.
            break;
        }
        old.note_stored(cx, &intent.header, intent.statement, kept)?;
    }
    Ok(())
}

/// Gives back the room of some epochs other than `current`. Their identity stays for people who look.
fn sweep(cx: &Context, current: &std::path::Path, which: impl Fn(&std::path::Path) -> bool) {
    let state = &cx.config.state_dir;
    let files = |dir: &std::path::Path| cx.disk.read_dir(dir).unwrap_or_default();
    for (name, _) in files(state).into_iter().filter(|(n, is_dir)| *is_dir && n.starts_with("epoch-")) {
        let epoch = state.join(name);
        if current == epoch || !which(&epoch) {
            continue;
        }
        for part in ["spool", "intents"] {
            let dir = epoch.join(part);
            for (file, _) in files(&dir) {
                let path = dir.join(file);
                // What stays for now goes the next time.
                if !is_newer(&*cx.disk, &path) {
                    let _ = cx.disk.remove(&path);
                }
            }
        }
    }
}

/// Copies the frames that `old` had not committed into the spool of `new`, some at a time.
fn salvage(cx: &Context, old: &Epoch, new: &Epoch) -> Result<(), SinkError> {
    let template = Template::new(&new.writer);
    let mut known = Known::load(&*cx.disk, &old.dir.join("known")).unwrap_or_default();
    let from = old.stored.next_sequence;
    let dir = new.dir.join("spool");
    let mut copy = Salvage {
        spool: Spool::open(cx.disk.clone(), &dir, &new.writer, u64::MAX, 0, false, &mut |_| {})?,
        group: Group::default(),
        first: 0,
        sequence: 0,
        last: new.sealed.last_hash,
    };
    let mut next = from;
    let mut result = Ok(());
    let (old_dir, disk) = (old.dir.join("spool"), cx.disk.clone());
    let opened = Spool::open(disk, &old_dir, &old.writer, u64::MAX, from, false, &mut |f: &Frame| {
        if f.end() <= next {
            // Committed in the old epoch: its retry must be recognised in the new one all the same. Or a frame that
            // an interrupted rewrite left twice.
            if let Some(key) = f.key.filter(|_| f.end() <= from) {
                known.insert(key, crate::chain::fate_of(f));
            }
        } else if result.is_ok() {
            let skip = usize::try_from(next.saturating_sub(f.first_sequence)).unwrap_or(0);
            next = f.end();
            result = copy.frame(f, skip, &template, &old_dir);
            if result.is_ok() && copy.group.bytes.len() >= GROUP_BYTES {
                result = copy.write(&dir);
            }
        }
    });
    match opened {
        // Said already; everything before it is taken along.
        Ok(_) | Err(SpoolError::Newer { .. }) => result?,
        Err(e) => return Err(e.into()),
    }
    copy.write(&dir)?;
    let path = new.dir.join("known");
    known.save(&*cx.disk, &path).map_err(crate::epoch::state_error("write", &path))
}

struct Salvage {
    spool: Spool,
    group: Group,
    /// The sequence with which the group begins.
    first: u64,
    sequence: u64,
    last: Hash,
}

impl Salvage {
    fn frame(
        &mut self,
        f: &Frame,
        skip: usize,
        template: &Template,
        old: &std::path::Path,
    ) -> Result<(), SinkError> {
        let damaged = || SpoolError::Damaged { path: old.into(), offset: 0, sequence: f.first_sequence };
        self.group.begin(f.key.as_ref(), self.sequence, f.entries.len() - skip, f.filter_errors);
        let mut at = f.entries[..skip].iter().map(|e| e.len as usize).sum::<usize>();
        for (i, entry) in f.entries[skip..].iter().enumerate() {
            let record = &f.text[at..at + entry.len as usize];
            at += entry.len as usize;
            let record = relink(record, template, self.sequence, &self.last).ok_or_else(damaged)?;
            self.last = leaf_hash(&record);
            self.group.entry(i, Entry { len: record.len() as u32, counted: entry.counted });
            self.group.bytes.extend_from_slice(&record);
            self.sequence += 1;
        }
        self.group.end(self.first);
        Ok(())
    }

    fn write(&mut self, dir: &std::path::Path) -> Result<(), SinkError> {
        if self.group.bytes.is_empty() {
            return Ok(());
        }
        let taken = self.spool.append(&self.group.bytes, self.first);
        taken.map_err(|e| crate::epoch::state_error("write", dir)(e.into()))?;
        self.group = Group::default();
        self.first = self.sequence;
        Ok(())
    }
}

/// Why an epoch's threads ended.
enum End {
    Stopped,
    /// A sync failed, or the state directory did: open everything again.
    Reopen(String),
    /// The key files have changed.
    Keys,
    /// Something else lies under a key of ours.
    Taken(String),
    Failed(SinkError),
}

impl End {
    fn panicked() -> End {
        End::Reopen("a thread of the sink panicked, which is a bug".to_owned())
    }
}

fn supervise(shared: &Shared, mut epoch: Epoch, mut chain: Chain) -> Result<(), SinkError> {
    let cx = &shared.cx;
    loop {
        let forked = match run_epoch(shared, epoch, chain) {
            End::Stopped => return Ok(()),
            End::Failed(e) => return Err(e),
            End::Reopen(why) => {
                tracing::error!(
                    "{why}; the state is opened and read again, and nothing is acknowledged meanwhile"
                );
                false
            }
            End::Keys => {
                tracing::info!("the signing keys have changed");
                false
            }
            End::Taken(key) => {
                tracing::error!(
                    "{key} in the store is not ours: another sink runs under this identity (a copied disk, a restored \
                     snapshot), or someone wrote there first. A new epoch begins; nothing is lost"
                );
                true
            }
        };
        shared.ready.store(false, Ordering::Relaxed);
        // Whoever waits for the store is asked to send again: with a key, that is recognised.
        lock(&shared.waiting).drain(..).for_each(|w| w.reply.tell(Err(Refusal::Failing)));
        let mut wait = Duration::from_millis(200);
        let mut fork = forked;
        (epoch, chain) = loop {
            if shared.abandon.load(Ordering::Relaxed) {
                return Ok(());
            }
            let again = (|| {
                if fork {
                    if let Opened::Same(old) = Epoch::open(cx)? {
                        new_epoch(cx, Reason::Fork, Some(*old))?;
                    }
                    fork = false;
                }
                open_state(cx, false, true)
            })();
            match again {
                Ok(state) => break state,
                Err(
                    e @ (SinkError::Spool(SpoolError::Disk { .. })
                    | SinkError::State { .. }
                    | SinkError::Trail { .. }
                    | SinkError::Store(_)),
                ) => {
                    tracing::error!("{e}; trying again in {wait:?}");
                    thread::sleep(wait);
                    wait = (wait * 2).min(Duration::from_secs(10));
                }
                Err(e) => return Err(e),
            }
        };
        chain.share(shared.own.clone());
    }
}

struct Ring {
    groups: VecDeque<Sealables>,
    bytes: usize,
    durable_end: u64,
    closed: bool,
    /// The sealer waits for the store: the spool thread must not wait for the sealer.
    stalled: bool,
    /// Someone waits until everything below this is stored.
    flush: u64,
}

struct Flow {
    ring: Mutex<Ring>,
    changed: Condvar,
    abort: AtomicBool,
    stored: AtomicU64,
    epoch: Mutex<Epoch>,
}

impl Flow {
    fn stopping(&self) -> bool {
        self.abort.load(Ordering::Relaxed)
    }

    fn abort(&self, shared: &Shared) {
        self.abort.store(true, Ordering::Relaxed);
        self.changed.notify_all();
        shared.queue_changed.notify_all();
    }
}

fn run_epoch(shared: &Shared, epoch: Epoch, chain: Chain) -> End {
    let sealer = Sealer::new(&shared.cx, &epoch);
    let dir = epoch.dir.join("spool");
    // The epoch may soon be held by a call to a store that does not answer; nobody who takes events waits for that.
    let started = started_chunk(&epoch, shared.filters.identities());
    let flow = Flow {
        ring: Mutex::new(Ring {
            groups: VecDeque::new(),
            bytes: 0,
            durable_end: chain.next_sequence(),
            closed: false,
            stalled: false,
            flush: 0,
        }),
        changed: Condvar::new(),
        abort: AtomicBool::new(false),
        stored: AtomicU64::new(epoch.stored.next_sequence),
        epoch: Mutex::new(epoch),
    };
    // No sealed batch waits between the two threads: each holds its whole object.
    let (tx, rx) = sync_channel::<Sealed>(0);
    let reader = SpoolReader::new(shared.cx.disk.clone(), &dir);
    thread::scope(|scope| {
        let flow = &flow;
        let threads = [
            spawn(scope, shared, flow, "wax-spool", move || spool_thread(shared, flow, chain, started)),
            spawn(scope, shared, flow, "wax-seal", move || seal_thread(shared, flow, sealer, reader, tx)),
            spawn(scope, shared, flow, "wax-store", move || store_thread(shared, flow, &rx)),
        ];
        shared.ready.store(true, Ordering::Relaxed);
        let mut end = End::Stopped;
        for t in threads {
            let ended = match t {
                Err(e) => Err(End::Reopen(format!("no thread can be started: {e}"))),
                Ok(t) => t.join().unwrap_or_else(|_| {
                    flow.abort(shared);
                    Err(End::panicked())
                }),
            };
            // A key that is taken decides over what followed from it.
            match (ended, &end) {
                (Err(e @ (End::Taken(_) | End::Failed(_))), _) | (Err(e), End::Stopped) => end = e,
                _ => {}
            }
        }
        end
    })
}

/// Starts a thread of an epoch; if it fails, the others are told to stop.
fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    shared: &'scope Shared,
    flow: &'scope Flow,
    name: &str,
    run: impl FnOnce() -> Result<(), End> + Send + 'scope,
) -> std::io::Result<thread::ScopedJoinHandle<'scope, Result<(), End>>> {
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, move || {
        // A panic must not leave the others going on without this one.
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
            .unwrap_or_else(|_| Err(End::panicked()));
        if end.is_err() {
            flow.abort(shared);
        }
        end
    })
}

fn to_end(e: SinkError) -> End {
    match e {
        SinkError::State { .. } | SinkError::Spool(SpoolError::Disk { .. }) => End::Reopen(e.to_string()),
        other => End::Failed(other),
    }
}

fn spool_thread(shared: &Shared, flow: &Flow, mut chain: Chain, started: Chunk) -> Result<(), End> {
    let cx = &shared.cx;
    let metrics = &shared.metrics;
    let mut started = Some(started);
    loop {
        if flow.stopping() || shared.abandon.load(Ordering::Relaxed) {
            return Ok(());
        }
        // With a full spool there may never be room for this record.
        if started.is_some() && lock(&shared.queue).closing {
            started = None;
        }
        let mut chunks = Vec::new();
        let mut replies: Vec<Option<Reply>> = Vec::new();
        if let Some(chunk) = started.take() {
            chunks.push(chunk);
            replies.push(None);
        }
        {
            let mut q = lock(&shared.queue);
            if q.chunks.is_empty() && chunks.is_empty() {
                if q.closing {
                    break;
                }
                q = shared
                    .queue_changed
                    .wait_timeout(q, Duration::from_millis(250))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            let mut bytes = 0;
            while let Some((chunk, reply)) = q.chunks.pop_front() {
                bytes += chunk.events.bytes() + 256;
                chunks.push(chunk);
                replies.push(Some(reply));
                if bytes >= GROUP_BYTES {
                    break;
                }
            }
            q.bytes -= bytes.min(q.bytes);
        }
        shared.queue_changed.notify_all();
        if !chunks.is_empty() {
            match chain.accept(cx, &chunks).map_err(to_end)? {
                Accepted::Durable(receipts, records) => {
                    let end = chain.next_sequence();
                    answer(shared, flow, &receipts, replies, end);
                    hand_over(shared, flow, records, end);
                    for (r, c) in receipts.iter().zip(&chunks) {
                        if r.redelivered {
                            metrics.redelivered.inc_by(r.accepted);
                        } else {
                            let own = (0..c.events.len()).filter_map(|i| c.events.own(i));
                            let (own, again) =
                                own.fold((0, 0), |(n, again), r| (n + 1, again + u64::from(r)));
                            metrics.received.inc_by(r.accepted - own);
                            metrics.redelivered.inc_by(again);
                            metrics.unparsed.inc_by(r.unparsed);
                        }
                    }
                    let mut buffers = lock(&shared.buffers);
                    for mut c in chunks.into_iter().filter(|c| !c.events.is_empty()) {
                        if buffers.len() < BUFFERS {
                            c.events.clear();
                            buffers.push(c.events);
                        }
                    }
                }
                Accepted::Refused(r) => {
                    metrics.refused.inc_by(replies.len() as u64);
                    if replies.first().is_some_and(Option::is_none) {
                        started = chunks.into_iter().next();
                    }
                    refuse_queued(shared, r);
                    replies.into_iter().flatten().for_each(|reply| reply.tell(Err(r)));
                    // The store thread may just be about to give room back.
                    thread::sleep(Duration::from_millis(20));
                }
                Accepted::Poisoned(e) => {
                    replies.into_iter().flatten().for_each(|reply| reply.tell(Err(Refusal::Failing)));
                    return Err(End::Reopen(format!("the spool's disk failed: {e}")));
                }
            }
        }
        let stored = flow.stored.load(Ordering::Acquire);
        if let Err(e) = chain.release(cx, stored) {
            tracing::warn!("{e}");
        }
        metrics.spool_bytes.set(i64::try_from(chain.spool_bytes()).unwrap_or(i64::MAX));
        metrics.spool_events.set(
            i64::try_from(chain.next_sequence() - stored.min(chain.next_sequence())).unwrap_or(i64::MAX),
        );
    }
    lock(&flow.ring).closed = true;
    flow.changed.notify_all();
    Ok(())
}

/// Tells whoever waits behind a chunk that was refused, and, of a full spool, whoever comes in the next moments.
fn refuse_queued(shared: &Shared, r: Refusal) {
    let mut q = lock(&shared.queue);
    if matches!(r, Refusal::Full) {
        q.full_until = Some(Instant::now() + FULL);
    }
    q.bytes = 0;
    let queued: Vec<_> = q.chunks.drain(..).collect();
    drop(q);
    shared.queue_changed.notify_all();
    shared.metrics.refused.inc_by(queued.len() as u64);
    queued.into_iter().for_each(|(_, reply)| reply.tell(Err(r)));
}

/// The record that makes a start visible.
fn started_chunk(epoch: &Epoch, filters: Vec<Filter>) -> Chunk {
    let mut metadata = serde_json::json!({ "boot": epoch.boot, "software": crate::SOFTWARE });
    if !filters.is_empty() {
        metadata["filters"] = serde_json::json!(filters);
    }
    let mut events = Events::default();
    events.push_own("writer_started", &json::to_canonical(&metadata).unwrap_or_default());
    let source = b"{\"intake\":\"sink\"}".to_vec();
    Chunk {
        events,
        source,
        key: None,
        redelivery: Redelivery::Always,
        passed: Passed { errors: 0, filters: Arc::new(filters) },
    }
}

/// Tells shippers, now or when it is stored.
fn answer(shared: &Shared, flow: &Flow, receipts: &[Receipt], replies: Vec<Option<Reply>>, end: u64) {
    match shared.cx.config.acknowledge {
        Acknowledge::Spooled => {
            for (receipt, reply) in receipts.iter().zip(replies) {
                if let Some(reply) = reply {
                    reply.tell(Ok(*receipt));
                }
            }
        }
        Acknowledge::Stored => {
            let mut waiting = lock(&shared.waiting);
            for (receipt, reply) in receipts.iter().zip(replies) {
                if let Some(reply) = reply {
                    waiting.push(Waiting { end: receipt.end, receipt: *receipt, reply });
                }
            }
            drop(waiting);
            lock(&flow.ring).flush = end;
        }
    }
}

fn hand_over(shared: &Shared, flow: &Flow, records: Sealables, end: u64) {
    let bytes = records.memory();
    let mut ring = lock(&flow.ring);
    // A group larger than the ring goes through it alone.
    while !ring.groups.is_empty()
        && ring.bytes + bytes > RING_BYTES
        && !ring.stalled
        && !flow.stopping()
        && !shared.abandon.load(Ordering::Relaxed)
    {
        ring = flow
            .changed
            .wait_timeout(ring, Duration::from_millis(100))
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
    ring.durable_end = end;
    let metrics = &shared.metrics;
    if metrics.oldest_unstored.get() == 0.0 {
        metrics.oldest_unstored.set(shared.cx.clock.now().unix_seconds() as f64);
    }
    if !ring.groups.is_empty() && ring.bytes + bytes > RING_BYTES {
        // The sealer waits for the store: it will read these from the spool.
        ring.groups.clear();
        ring.bytes = 0;
    } else {
        ring.bytes += bytes;
        ring.groups.push_back(records);
    }
    drop(ring);
    flow.changed.notify_all();
}

/// A sealed batch, and when its first record was taken.
type Sealed = (Box<Intent>, Option<Instant>);

/// What the seal thread does next.
enum Next {
    Records(Sealables),
    Disk,
    Timer,
    Nothing,
    Closed,
    Stop,
}

fn seal_thread(
    shared: &Shared,
    flow: &Flow,
    mut sealer: Sealer,
    mut reader: SpoolReader,
    tx: SyncSender<Sealed>,
) -> Result<(), End> {
    let cx = &shared.cx;
    let mut checker = Checker::default();
    let mut keys_read = Instant::now();
    loop {
        if keys_read.elapsed() >= KEYS {
            keys_read = Instant::now();
            match cx.config.signing.reload() {
                Ok(false) => {}
                // What is open is sealed again, under the new keys.
                Ok(true) => return Err(End::Keys),
                Err(e) => tracing::error!("the signing keys stay as they are: {e}"),
            }
        }
        let records = match next(shared, flow, &sealer, keys_read + KEYS) {
            Next::Nothing => continue,
            Next::Stop => return Ok(()),
            Next::Records(r) => r,
            Next::Disk => read_back(
                &reader.frame_with(sealer.next_sequence()).map_err(|e| to_end(e.into()))?,
                &mut checker,
            )
            .map_err(|e| to_end(e.into()))?,
            Next::Timer => {
                if !seal(shared, flow, &mut sealer, State::Running, &tx)? {
                    return Ok(());
                }
                continue;
            }
            Next::Closed => {
                let state =
                    if shared.retire.load(Ordering::Relaxed) { State::Retired } else { State::Stopped };
                seal(shared, flow, &mut sealer, state, &tx)?;
                return Ok(());
            }
        };
        let from = sealer.next_sequence();
        for record in records.records.iter().filter(|r| r.sequence >= from) {
            // A header speaks for all records of its batch.
            if let Some(filters) = sealer.other_filters(&records, record) {
                let open = sealer.open_since().is_some();
                if open && !seal(shared, flow, &mut sealer, State::Running, &tx)? {
                    return Ok(());
                }
                sealer.set_filters(filters);
            }
            let full = sealer.push(cx, &records, record).map_err(to_end)? == Close::Now;
            // A batch that could not be handed over ends this thread: none may follow it.
            if full && !seal(shared, flow, &mut sealer, State::Running, &tx)? {
                return Ok(());
            }
        }
    }
}

/// Waits for what the seal thread does next, at most until `until`.
fn next(shared: &Shared, flow: &Flow, sealer: &Sealer, until: Instant) -> Next {
    let config = &shared.cx.config;
    let want = sealer.next_sequence();
    let mut ring = lock(&flow.ring);
    loop {
        if flow.stopping() || shared.abandon.load(Ordering::Relaxed) {
            return Next::Stop;
        }
        while let Some(group) = ring.groups.front() {
            let ends = (group.records.first(), group.records.last());
            let (first, last) = (ends.0.map(|r| r.sequence), ends.1.map(|r| r.sequence));
            match (first, last) {
                (Some(first), Some(last)) if last >= want => {
                    if first > want {
                        return Next::Disk;
                    }
                    let group = ring.groups.pop_front().unwrap_or_default();
                    ring.bytes -= group.memory().min(ring.bytes);
                    drop(ring);
                    flow.changed.notify_all();
                    return Next::Records(group);
                }
                _ => {
                    let bytes = group.memory();
                    ring.bytes -= bytes.min(ring.bytes);
                    ring.groups.pop_front();
                }
            }
        }
        if want < ring.durable_end {
            return Next::Disk;
        }
        if ring.closed {
            return Next::Closed;
        }
        let now = Instant::now();
        let mut due = sealer.last_seal() + config.heartbeat;
        if let Some(since) = sealer.open_since() {
            due = due.min(since + config.max_age);
            if ring.flush >= want {
                // Someone waits for the store: soon, but not more than once a second.
                due = due.min(sealer.last_seal() + Duration::from_secs(1));
            }
        }
        if due <= now {
            return Next::Timer;
        }
        if until <= now {
            return Next::Nothing;
        }
        ring = flow
            .changed
            .wait_timeout(ring, (due - now).min(Duration::from_millis(250)))
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

fn seal(
    shared: &Shared,
    flow: &Flow,
    sealer: &mut Sealer,
    state: State,
    tx: &SyncSender<Sealed>,
) -> Result<bool, End> {
    let since = sealer.open_since();
    let intent = Box::new(sealer.seal(&shared.cx, state).map_err(to_end)?);
    shared.metrics.sealed.inc_by(intent.header.events.count);
    let mut item = (intent, since);
    loop {
        match tx.try_send(item) {
            Ok(()) => break,
            Err(TrySendError::Disconnected(_)) => return Ok(false),
            Err(TrySendError::Full(back)) => {
                if flow.stopping() || shared.abandon.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                item = back;
                lock(&flow.ring).stalled = true;
                flow.changed.notify_all();
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
    lock(&flow.ring).stalled = false;
    Ok(true)
}

/// A sealed batch whose bytes are on disk, on its way to the store.
struct Flight<'scope> {
    intent: Arc<Intent>,
    since: Option<Instant>,
    own: upload::Own,
    look: bool,
    /// Its events object, where several are written at once.
    object: Option<thread::ScopedJoinHandle<'scope, Result<Option<Uploaded>, End>>>,
}

fn store_thread(shared: &Shared, flow: &Flow, rx: &Receiver<Sealed>) -> Result<(), End> {
    let left = std::mem::take(&mut lock(&flow.epoch).intents);
    let genesis = || {
        let epoch = lock(&flow.epoch);
        // Before anything is written: a place without its trail is a file system that is not mounted.
        if shared.cx.read_trail_statement()?.1 != epoch.trail_id {
            return Err(SinkError::Mismatch(format!(
                "{} holds another trail than this state directory writes to ({}): give each trail a state \
                 directory of its own",
                shared.cx.store.place(),
                epoch.trail_id
            )));
        }
        match shared.cx.store.check_lock(epoch.trail.lock) {
            // What is written first shows it too.
            Err(e) if e.kind == Kind::Permission => tracing::warn!("{e}"),
            other => other?,
        }
        upload::genesis(&shared.cx, &epoch)
    };
    match patiently(shared, flow, genesis)? {
        None => return Ok(()),
        Some(Uploaded::Taken(key)) => return Err(End::Taken(key)),
        Some(Uploaded::Stored(kept)) => {
            count(shared, &kept);
            let mut epoch = lock(&flow.epoch);
            if !epoch.genesis_stored() {
                epoch.note_genesis_stored(&shared.cx).map_err(to_end)?;
            }
        }
    }
    thread::scope(|scope| {
        let end = fly(scope, shared, flow, rx, left);
        // The scope waits for objects on their way, and these for a store that may be away.
        if end.is_err() {
            flow.abort(shared);
        }
        end
    })
}

/// Stores what was left, then what comes: events objects of several batches at once, their headers one after the other.
fn fly<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    shared: &'scope Shared,
    flow: &'scope Flow,
    rx: &Receiver<Sealed>,
    left: Vec<Intent>,
) -> Result<(), End> {
    let (mut left, mut open, mut looked) = (VecDeque::from(left), true, false);
    let mut flights: VecDeque<Flight<'_>> = VecDeque::new();
    let width = shared.cx.store.concurrency();
    while open || !flights.is_empty() || !left.is_empty() {
        if flow.stopping() || shared.abandon.load(Ordering::Relaxed) {
            // Each is on disk, and is stored after the next start.
            return Ok(());
        }
        // One more only where its intent is sure to find room, or where nothing is under way that would give some.
        let room = flights.len() < width && (flights.is_empty() || Epoch::has_reserve(&shared.cx));
        let mut item = None;
        if room {
            item = left.pop_front().map(|intent| (Box::new(intent), None));
            if item.is_none() && open {
                let wait = if flights.is_empty() { 100 } else { 2 };
                match rx.recv_timeout(Duration::from_millis(wait)) {
                    Ok((intent, since)) => {
                        // From here on this batch is these bytes, whatever happens.
                        lock(&flow.epoch).write_intent(&shared.cx, &intent).map_err(to_end)?;
                        item = Some((intent, since));
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => open = false,
                }
            }
        }
        if let Some((intent, since)) = item {
            let own = upload::Own::of(&lock(&flow.epoch), intent.header.batch);
            let look = !looked && intent.object.is_some();
            looked |= look;
            let mut flight = Flight { intent: Arc::from(intent), since, own, look, object: None };
            if width > 1 {
                let (intent, own) = (flight.intent.clone(), flight.own.clone());
                let upload =
                    move || patiently(shared, flow, || upload::object(&shared.cx, &own, &intent, look));
                flight.object =
                    thread::Builder::new().name("wax-put".into()).spawn_scoped(scope, upload).ok();
            }
            flights.push_back(flight);
        }
        let ready = flights.front().is_some_and(|f| f.object.as_ref().is_none_or(|o| o.is_finished()));
        if ready && let Some(flight) = flights.pop_front() {
            if !store(shared, flow, flight)? {
                return Ok(());
            }
        } else if !(room && open) {
            // Nobody has waited yet.
            thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Stores one batch; `false` if it had to be left for another time.
fn store(shared: &Shared, flow: &Flow, flight: Flight<'_>) -> Result<bool, End> {
    let Flight { intent, since, own, look, object } = flight;
    let uploaded = match object {
        Some(thread) => thread.join().unwrap_or_else(|_| Err(End::panicked()))?,
        None => patiently(shared, flow, || upload::object(&shared.cx, &own, &intent, look))?,
    };
    let mut kept = match uploaded {
        None => return Ok(false),
        Some(Uploaded::Taken(key)) => return Err(End::Taken(key)),
        Some(Uploaded::Stored(kept)) => kept,
    };
    let header = || {
        // Keys before what they sign.
        let keys = upload::keys_before(&shared.cx, &mut lock(&flow.epoch), intent.header.batch)?;
        match keys {
            Uploaded::Stored(_) => upload::header(&shared.cx, &own, &intent, look),
            taken @ Uploaded::Taken(_) => Ok(taken),
        }
    };
    match patiently(shared, flow, header)? {
        None => return Ok(false),
        Some(Uploaded::Taken(key)) => return Err(End::Taken(key)),
        Some(Uploaded::Stored(more)) => kept.extend(more),
    }
    count(shared, &kept);
    lock(&flow.epoch).note_stored(&shared.cx, &intent.header, intent.statement, kept).map_err(to_end)?;
    let end = intent.header.events.first_sequence + intent.header.events.count;
    flow.stored.store(end, Ordering::Release);
    shared.queue_changed.notify_all();
    shared.metrics.batches.inc();
    if let Some(since) = since {
        shared.metrics.seal_latency.observe(since.elapsed().as_secs_f64());
    }
    // What is not stored now was spooled after this batch was sealed; 0 when there is nothing.
    let behind = lock(&flow.ring).durable_end > end;
    let oldest = if behind { intent.header.sealed_at.unix_seconds() } else { 0 };
    shared.metrics.oldest_unstored.set(oldest as f64);
    shared.metrics.last_batch.set(shared.cx.clock.now().unix_seconds() as f64);
    let mut ready = Vec::new();
    {
        let mut waiting = lock(&shared.waiting);
        let (done, rest): (Vec<_>, Vec<_>) = waiting.drain(..).partition(|w| w.end <= end);
        *waiting = rest;
        ready.extend(done);
    }
    ready.into_iter().for_each(|w| w.reply.tell(Ok(w.receipt)));
    Ok(true)
}

/// Takes over what the store says into the numbers.
fn count(shared: &Shared, kept: &[Kept]) {
    shared.metrics.foreign.inc_by(kept.iter().filter(|k| k.beside).count() as u64);
    if let Some(requests) = shared.cx.store.requests() {
        shared.metrics.note_requests(requests);
    }
}

/// Tries until the store answers; `None` if the sink stops first.
fn patiently(
    shared: &Shared,
    flow: &Flow,
    mut attempt: impl FnMut() -> Result<Uploaded, SinkError>,
) -> Result<Option<Uploaded>, End> {
    let mut wait = Duration::from_millis(100);
    loop {
        match attempt() {
            Ok(done) => return Ok(Some(done)),
            // Waiting does not give the store what it lacks.
            Err(SinkError::Store(e)) if e.kind == Kind::Unfit => return Err(End::Failed(e.into())),
            Err(e @ (SinkError::Store(_) | SinkError::Trail { .. })) => {
                shared.metrics.store_errors.inc();
                tracing::warn!("{e}; trying again, meanwhile the spool holds everything");
            }
            Err(e) => return Err(to_end(e)),
        }
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if flow.stopping() || shared.abandon.load(Ordering::Relaxed) {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(20));
        }
        // Sinks that lost their store together must not come back together.
        let mut jitter = [0u8; 1];
        let _ = shared.cx.random(&mut jitter);
        wait = (wait * 2).min(Duration::from_secs(30)) + Duration::from_millis(u64::from(jitter[0]));
    }
}
