//! The chain: gives each record its number, its predecessor's hash and its place in the spool.
//!
//! Owned by one thread. [`Chain::accept`] takes a group of chunks through assembly, hashing, one write and
//! one sync; only then does it say what became of each.

use crate::Context;
use crate::epoch::{Epoch, SinkError};
use crate::known::{CAPACITY, Fate, Known, Recent};
use crate::lock;
use crate::spool::{AppendError, Counted, Entry, Frame, Group, Spool, SpoolError};
use bytes::Bytes;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use waxseal_filter_host::Passed;
use waxseal_trail::hash::{Hash, leaf_hash};
use waxseal_trail::json;
use waxseal_trail::record::{Checker, Columns, Events, Link, Template};
use waxseal_trail::statement;
use waxseal_trail::time::Time;

/// What one request, one flush, one message brought.
pub struct Chunk {
    /// Its events, converted and filtered.
    pub events: Events,
    /// What the sink itself saw of where they came from: canonical JSON.
    pub source: Vec<u8>,
    /// What recognises its redelivery, where the protocol has such a thing.
    pub key: Option<[u8; 32]>,
    /// When a known key means that it came before.
    pub redelivery: Redelivery,
    /// What it went through.
    pub passed: Passed,
}

/// When a chunk whose key is known is the same chunk again, and not an equal one (DESIGN: the sink, rule 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redelivery {
    /// Always: the key is the sender's word for it.
    Always,
    /// If it was spooled before under this number ([`crate::pipeline::Submitter::attempt`]), which the attempts at one
    /// request share; or in an earlier life of the process, whose acknowledgement may not have arrived.
    Attempt(u64),
}

/// The keys that this life of the process has spooled, across epochs, with the last attempts of each.
#[derive(Debug)]
pub struct Own(Recent<VecDeque<u64>>);

impl Default for Own {
    fn default() -> Self {
        // Longer than a key is known, wherever it stands in the order of either: what is not here must be of an earlier life.
        Own(Recent::new(4 * CAPACITY))
    }
}

/// So many attempts of a key are remembered.
const ATTEMPTS: usize = 64;

impl Own {
    fn insert(&mut self, key: [u8; 32], attempt: u64) {
        match self.0.get_mut(&key) {
            None => self.0.insert(key, [attempt].into()),
            Some(attempts) => {
                if attempts.len() == ATTEMPTS {
                    attempts.pop_front();
                }
                attempts.push_back(attempt);
            }
        }
    }

    /// Forgets what was inserted last.
    fn undo(&mut self, key: &[u8; 32]) {
        let left = self.0.get_mut(key).map(|attempts| {
            attempts.pop_back();
            attempts.len()
        });
        if left == Some(0) {
            self.0.forget(key);
        }
    }

    fn is_again(&self, key: &[u8; 32], redelivery: Redelivery) -> bool {
        match (redelivery, self.0.get(key)) {
            (Redelivery::Always, _) | (_, None) => true,
            (Redelivery::Attempt(this), Some(spooled)) => spooled.contains(&this),
        }
    }
}

impl Redelivery {
    /// 0 is no attempt's number.
    fn attempt(self) -> u64 {
        match self {
            Redelivery::Always => 0,
            Redelivery::Attempt(n) => n,
        }
    }
}

/// What became of a chunk that is now durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// How many events are sealed or will be.
    pub accepted: u64,
    /// How many of them are `unparsed`.
    pub unparsed: u64,
    /// The chunk was known; nothing was sealed again.
    pub redelivered: bool,
    /// The sequence after its last record.
    pub end: u64,
}

/// Why a chunk was not taken. The shipper keeps it and tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The spool is full: the store is away, or slower than the events come.
    #[error("the spool is full; the store is away or too slow")]
    Full,
    /// The sink is stopping.
    #[error("the sink is stopping")]
    Closing,
    /// The disk failed; the spool is being read again.
    #[error("the spool's disk failed; the spool is being read again")]
    Failing,
}

/// A record on its way from the spool to the batch.
#[derive(Clone, Debug)]
pub struct Sealable {
    /// Where its text begins in the group's.
    pub at: usize,
    /// How long it is.
    pub len: usize,
    /// `H` of it.
    pub hash: Hash,
    /// Its sequence.
    pub sequence: u64,
    /// What it counts as.
    pub counted: Counted,
    /// Filter errors to count with it.
    pub filter_errors: u32,
    /// Its `timestamp`.
    pub timestamp: Time,
    /// Its `observed_at`.
    pub observed_at: Time,
    /// Its derived columns.
    pub columns: Columns,
}

/// A durable group of records.
#[derive(Clone, Debug, Default)]
pub struct Sealables {
    /// The text of all, with what frames have between.
    pub text: Bytes,
    /// The records, in order.
    pub records: Vec<Sealable>,
}

impl Sealables {
    /// Bytes of memory it takes.
    pub fn memory(&self) -> usize {
        self.text.len() + self.records.capacity() * size_of::<Sealable>()
    }

    /// The text of one of the records.
    pub fn text_of(&self, record: &Sealable) -> Bytes {
        self.text.slice(record.at..record.at + record.len)
    }
}

/// The keys of a group's chunks.
#[derive(Default)]
struct Keys {
    new: Vec<[u8; 32]>,
    repeated: Vec<[u8; 32]>,
}

/// Receipts, the group's bytes, and its records.
type Assembled = (Vec<Receipt>, Vec<u8>, Vec<Sealable>);

/// What of the spool only its owner knows.
pub struct Chain {
    spool: Spool,
    known: Known,
    known_path: PathBuf,
    template: Template,
    next: u64,
    last_hash: Hash,
    observed_at: Time,
    synced: u64,
    own: Arc<Mutex<Own>>,
    random: Random,
    buffers: Arc<Buffers>,
    /// What the last record went through; `None`: no record says so yet.
    filters: Option<Arc<Vec<statement::Filter>>>,
}

/// Group buffers that come back when their records are sealed: fresh ones would be zeroed by the system each time.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    const KEEP: usize = 3;
    const LARGEST: usize = 6 << 20;

    fn take(&self) -> Vec<u8> {
        self.0.lock().ok().and_then(|mut b| b.pop()).unwrap_or_default()
    }
}

/// A buffer on loan.
struct Lent(Vec<u8>, Arc<Buffers>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if let Ok(mut pool) = self.1.0.lock()
            && pool.len() < Buffers::KEEP
            && buffer.capacity() <= Buffers::LARGEST
        {
            buffer.clear();
            pool.push(buffer);
        }
    }
}

struct Random {
    pool: Vec<u8>,
    at: usize,
}

impl Random {
    const POOL: usize = 26 * 256;

    /// The next 26 bytes: a nonce and the bits of an id.
    fn next(&mut self, cx: &Context) -> Result<([u8; 16], [u8; 10]), SinkError> {
        if self.at + 26 > self.pool.len() {
            self.pool.resize(Self::POOL, 0);
            cx.random(&mut self.pool)?;
            self.at = 0;
        }
        let (mut nonce, mut id) = ([0; 16], [0; 10]);
        nonce.copy_from_slice(&self.pool[self.at..self.at + 16]);
        id.copy_from_slice(&self.pool[self.at + 16..self.at + 26]);
        self.at += 26;
        Ok((nonce, id))
    }
}

/// What came of a group.
pub enum Accepted {
    /// Durable. For each chunk its receipt; and the records.
    Durable(Vec<Receipt>, Sealables),
    /// None of it is in the spool; all may be tried again.
    Refused(Refusal),
    /// Unknown: the spool has to be opened and read again before anything is said.
    Poisoned(std::io::Error),
}

impl Chain {
    /// Opens the epoch's spool and continues its chain.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn open(cx: &Context, epoch: &Epoch, rewrite: bool) -> Result<Chain, SinkError> {
        let known_path = epoch.dir.join("known");
        let mut known = match Known::load(&*cx.disk, &known_path) {
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                tracing::warn!(
                    "{}: damaged; redeliveries from before this start are not recognised",
                    known_path.display()
                );
                Known::default()
            }
            other => other.map_err(crate::epoch::state_error("read", &known_path))?,
        };
        let sealed = &epoch.sealed;
        let mut next = sealed.next_sequence;
        let mut last: Option<(Hash, Vec<u8>)> = None;
        let dir = epoch.dir.join("spool");
        // From what is stored on, not from what is sealed: keys of sealed frames must be known too.
        let from = epoch.stored.next_sequence;
        let spool = Spool::open(
            cx.disk.clone(),
            &dir,
            &epoch.writer,
            cx.config.spool_bytes,
            from,
            rewrite,
            &mut |f| {
                if let Some(key) = f.key {
                    known.insert(key, fate_of(f));
                }
                if f.end() > next {
                    next = f.end();
                    let from = f.text.len() - f.entries.last().map_or(0, |e| e.len as usize);
                    let record = f.text[from..].to_vec();
                    last = Some((leaf_hash(&record), record));
                }
            },
        )?;
        let observed = |record: &[u8]| {
            let at = record.windows(14).rposition(|w| w == b"\"observed_at\":").unwrap_or(0) + 15;
            record.get(at..at + 30).and_then(|t| Time::parse(std::str::from_utf8(t).ok()?))
        };
        let last_observed = last.as_ref().and_then(|(_, r)| observed(r)).unwrap_or(sealed.sealed_at);
        Ok(Chain {
            spool,
            known,
            known_path,
            template: Template::new(&epoch.writer),
            next,
            last_hash: last.map_or(sealed.last_hash, |(h, _)| h),
            observed_at: last_observed.max(sealed.sealed_at),
            synced: next,
            own: Arc::default(),
            random: Random { pool: Vec::new(), at: 0 },
            buffers: Arc::default(),
            filters: None,
        })
    }

    /// The sequence of the next record; everything below is durable.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The keys of this life, where another chain of it has some.
    pub fn share(&mut self, own: Arc<Mutex<Own>>) {
        self.own = own;
    }

    /// Bytes that the spool takes on disk.
    pub fn spool_bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// Takes a group of chunks: assembles, hashes, writes, syncs.
    ///
    /// # Errors
    /// [`SinkError`] for what no retry mends.
    pub fn accept(&mut self, cx: &Context, chunks: &[Chunk]) -> Result<Accepted, SinkError> {
        let (next, last_hash, observed_at) = (self.next, self.last_hash, self.observed_at);
        let filters = self.filters.clone();
        let mut keys = Keys::default();
        let (receipts, group, records) = self.assemble(cx, chunks, &mut keys)?;
        match self.spool.append(&group, next) {
            Ok(()) => {
                self.synced = self.next;
                let text = Bytes::from_owner(Lent(group, self.buffers.clone()));
                Ok(Accepted::Durable(receipts, Sealables { text, records }))
            }
            Err(error) => {
                // Nothing of it is in the spool, or nobody knows: either way this chain has not moved.
                let mut own = lock(&self.own);
                keys.repeated.iter().chain(&keys.new).for_each(|key| own.undo(key));
                drop(own);
                keys.new.iter().for_each(|key| self.known.forget(key));
                (self.next, self.last_hash, self.observed_at) = (next, last_hash, observed_at);
                self.filters = filters;
                Ok(match error {
                    AppendError::Full => Accepted::Refused(Refusal::Full),
                    AppendError::Retry(e) => {
                        tracing::error!(
                            "the spool's disk failed, nothing is lost, shippers are asked to try again: {e}"
                        );
                        Accepted::Refused(Refusal::Failing)
                    }
                    AppendError::Poisoned(e) => Accepted::Poisoned(e),
                })
            }
        }
    }

    fn assemble(&mut self, cx: &Context, chunks: &[Chunk], keys: &mut Keys) -> Result<Assembled, SinkError> {
        let mut group = Group::reusing(self.buffers.take());
        let total: usize = chunks.iter().map(|c| c.events.bytes() + 450 * c.events.len() + 256).sum();
        group.bytes.reserve(total + total / 8);
        let mut records = Vec::with_capacity(chunks.iter().map(|c| c.events.len()).sum());
        let mut receipts = Vec::with_capacity(chunks.len());
        self.observed_at = self.observed_at.max(cx.clock.now());
        for chunk in chunks {
            let known = chunk.key.and_then(|k| self.known.get(&k).map(|f| (k, f)));
            let known = known.filter(|(k, _)| lock(&self.own).is_again(k, chunk.redelivery));
            if let Some((key, fate)) = known {
                let events = redelivery(&key, &fate);
                let counted = |i| counted(&events, i);
                self.frame(cx, &mut group, &mut records, &events, &chunk.source, None, 0, counted)?;
                // It was repeated once: the next equal one is another one.
                lock(&self.own).insert(key, chunk.redelivery.attempt());
                keys.repeated.push(key);
                receipts.push(Receipt {
                    accepted: fate.accepted.into(),
                    unparsed: fate.unparsed.into(),
                    redelivered: true,
                    end: self.next,
                });
                continue;
            }
            let filters = &chunk.passed.filters;
            if self.filters.as_ref().is_none_or(|f| !Arc::ptr_eq(f, filters) && f != filters) {
                // A start says it itself.
                if !chunk.starts() {
                    let events = filter_changed(filters);
                    let counted = |i| counted(&events, i);
                    let source = b"{\"intake\":\"sink\"}";
                    self.frame(cx, &mut group, &mut records, &events, source, None, 0, counted)?;
                }
                self.filters = Some(filters.clone());
            }
            let first = self.next;
            let events = &chunk.events;
            let errors = u32::try_from(chunk.passed.errors).unwrap_or(u32::MAX);
            let counted = |i| counted(events, i);
            self.frame(
                cx,
                &mut group,
                &mut records,
                events,
                &chunk.source,
                chunk.key.as_ref(),
                errors,
                counted,
            )?;
            if let Some(key) = chunk.key {
                let fate = Fate { first, accepted: events.len() as u32, unparsed: events.unparsed() as u32 };
                self.known.insert(key, fate);
                lock(&self.own).insert(key, chunk.redelivery.attempt());
                keys.new.push(key);
            }
            receipts.push(Receipt {
                accepted: events.len() as u64,
                unparsed: events.unparsed(),
                redelivered: false,
                end: self.next,
            });
        }
        Ok((receipts, group.bytes, records))
    }

    #[allow(clippy::too_many_arguments)] // one call site a kind of frame
    fn frame(
        &mut self,
        cx: &Context,
        group: &mut Group,
        records: &mut Vec<Sealable>,
        events: &Events,
        source: &[u8],
        key: Option<&[u8; 32]>,
        filter_errors: u32,
        counted: impl Fn(usize) -> Counted,
    ) -> Result<(), SinkError> {
        if events.is_empty() {
            return Ok(());
        }
        group.begin(key, self.next, events.len(), filter_errors);
        for i in 0..events.len() {
            let (nonce, id_bits) = self.random.next(cx)?;
            let link = Link {
                sequence: self.next,
                previous_hash: self.last_hash,
                observed_at: self.observed_at,
                nonce,
                id_bits,
            };
            let at = group.bytes.len();
            let (columns, timestamp) = self.template.assemble(events, i, source, &link, &mut group.bytes);
            let len = group.bytes.len() - at;
            let hash = leaf_hash(&group.bytes[at..]);
            group.entry(i, Entry { len: len as u32, counted: counted(i) });
            records.push(Sealable {
                at,
                len,
                hash,
                sequence: self.next,
                counted: counted(i),
                filter_errors: if i == 0 { filter_errors } else { 0 },
                timestamp,
                observed_at: self.observed_at,
                columns,
            });
            self.last_hash = hash;
            self.next += 1;
        }
        group.end(self.synced);
        Ok(())
    }

    /// Gives back what lies in the store: saves the keys of what goes, then removes its segments.
    ///
    /// # Errors
    /// [`SinkError`]; nothing is lost by it.
    pub fn release(&mut self, cx: &Context, stored: u64) -> Result<(), SinkError> {
        if self.spool.releasable(stored, self.next) {
            self.known
                .save(&*cx.disk, &self.known_path)
                .map_err(crate::epoch::state_error("write", &self.known_path))?;
            self.spool.release(stored, self.next)?;
        }
        Ok(())
    }
}

pub(crate) fn fate_of(f: &Frame) -> Fate {
    let unparsed = f.entries.iter().filter(|e| e.counted == Counted::Unparsed).count();
    Fate { first: f.first_sequence, accepted: f.entries.len() as u32, unparsed: unparsed as u32 }
}

impl Chunk {
    /// Whether it is the record of a start.
    fn starts(&self) -> bool {
        self.events.len() == 1 && self.events.own_type(0) == Some("writer_started")
    }
}

/// The record of a change: what records after it went through, until the next one.
fn filter_changed(filters: &[statement::Filter]) -> Events {
    let metadata = serde_json::json!({ "filters": filters });
    let mut events = Events::default();
    events.push_own(FILTER_CHANGED, &json::to_canonical(&metadata).unwrap_or_default());
    events
}

/// The `event_type` of a change of filters.
const FILTER_CHANGED: &str = "filter_changed";

/// What the records after this one went through, if it is one that says so (`text` is a record that the sink itself wrote).
pub fn filters_said(text: &[u8]) -> Option<Vec<statement::Filter>> {
    #[derive(serde::Deserialize)]
    struct Own {
        event_type: String,
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        #[serde(default)]
        filters: Vec<statement::Filter>,
    }
    let own: Own = serde_json::from_slice(text).ok()?;
    matches!(own.event_type.as_str(), FILTER_CHANGED | "writer_started").then_some(own.metadata.filters)
}

/// The record of a suppressed chunk: nothing vanishes into a counter alone.
fn redelivery(key: &[u8; 32], fate: &Fate) -> Events {
    let last = fate.first + u64::from(fate.accepted).saturating_sub(1);
    let metadata = serde_json::json!({
        "digest": Hash(*key).to_string(), "events": fate.accepted, "sequences": [fate.first, last],
    });
    let mut events = Events::default();
    events.push_redelivery(fate.accepted, &json::to_canonical(&metadata).unwrap_or_default());
    events
}

fn counted(events: &Events, i: usize) -> Counted {
    match events.own(i) {
        Some(redelivered) => Counted::Own { redelivered },
        None if events.is_unparsed(i) => Counted::Unparsed,
        None => Counted::Received,
    }
}

/// The records of a frame that is read back from the spool.
///
/// # Errors
/// [`SpoolError::Damaged`] for text that is no record.
pub fn read_back(frame: &Frame, checker: &mut Checker) -> Result<Sealables, SpoolError> {
    let mut out =
        Sealables { text: Bytes::from(frame.text.clone()), records: Vec::with_capacity(frame.entries.len()) };
    let mut at = 0;
    for (i, entry) in frame.entries.iter().enumerate() {
        let (sequence, len) = (frame.first_sequence + i as u64, entry.len as usize);
        let record = &frame.text[at..at + len];
        let view = checker.check(record).map_err(|_| SpoolError::Damaged {
            path: "spool".into(),
            offset: 0,
            sequence,
        })?;
        out.records.push(Sealable {
            at,
            len,
            hash: leaf_hash(record),
            sequence,
            counted: entry.counted,
            filter_errors: if i == 0 { frame.filter_errors } else { 0 },
            timestamp: view.timestamp,
            observed_at: view.observed_at,
            columns: view.columns,
        });
        at += len;
    }
    Ok(out)
}
