//! Reads a trail, trusts neither its writers nor its store, and says what is true of it.
//!
//! The order is: trail statement, operators' statements, and for each writer genesis, key statements,
//! headers; then the events objects of all writers in parallel; then what nothing names. Every object is
//! read once; what is held in memory is the headers' summaries and, per thread, one events object.

#![forbid(unsafe_code)]

mod records;
mod report;
mod writer;

pub use report::{LockInfo, Report, Stats, TrailInfo, UNTRUSTED_KEYS};

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;
use waxseal_store::{Head, Store, StoreError, list_all};
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::keys::PublicKey;
use waxseal_trail::name;
use waxseal_trail::statement::{
    self, Acknowledgement, Batch, Lock, Payload, PayloadFault, Retirement, Trail,
};
use waxseal_trail::time::Time;
use waxseal_trail::trust::Trust;
use waxseal_trail::verdict::{Finding, Verdict};

/// Whose word counts.
#[derive(Clone, Debug)]
pub enum Anchor {
    /// A trust file's.
    File(Box<Trust>),
    /// The trail's own keys: consistent, but by whose word?
    Embedded,
}

/// What to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose word counts.
    pub anchor: Anchor,
    /// Digests of events objects, headers and chains, but no record.
    pub quick: bool,
    /// Only this writer: a name, or a name with its epoch.
    pub writer: Option<String>,
    /// Events objects sealed before are not opened.
    pub since: Option<Time>,
    /// Events objects sealed after are not opened.
    pub until: Option<Time>,
    /// Compared with `next_by` and `retain_until`.
    pub now: Time,
    /// Threads for events objects; 0: as many as there are cores.
    pub threads: usize,
}

/// Told how far a check has come.
pub trait Progress: Sync {
    /// So many bytes of events objects will be read.
    fn total(&self, _bytes: u64) {}
    /// So many more have been.
    fn advance(&self, _bytes: u64) {}
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {}

/// Collects findings and counts reads.
pub(crate) struct Session<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) options: &'a Options,
    pub(crate) trail: Option<Trail>,
    pub(crate) trail_id: Hash,
    pub(crate) retirements: Vec<Retirement>,
    findings: Mutex<Vec<Finding>>,
    bytes: AtomicU64,
    objects: AtomicU64,
}

/// What reading an object gave.
pub(crate) enum Read {
    Bytes(Vec<u8>),
    Missing,
    /// Larger than such an object may be.
    TooLarge(u64),
    /// Said already.
    Failed,
}

impl Session<'_> {
    pub(crate) fn find(&self, finding: Finding) {
        self.findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(finding);
    }

    pub(crate) fn read(&self, key: &str, limit: u64) -> Read {
        self.read_with_head(key, limit).0
    }

    /// The object, and what the store says of it.
    pub(crate) fn read_with_head(&self, key: &str, limit: u64) -> (Read, Option<Head>) {
        let head = match self.store.head(key) {
            Ok(head) => head,
            Err(e) => {
                self.find(Finding::new(Verdict::Unreadable, e.to_string()).at(key));
                return (Read::Failed, None);
            }
        };
        let read = match head {
            None => Read::Missing,
            Some(h) if h.bytes > limit => Read::TooLarge(h.bytes),
            Some(_) => self.get(key),
        };
        (read, head)
    }

    fn get(&self, key: &str) -> Read {
        let failed = |e: StoreError| {
            self.find(Finding::new(Verdict::Unreadable, e.to_string()).at(key));
            Read::Failed
        };
        match self.store.get(key) {
            Ok(Some(bytes)) => {
                self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                self.objects.fetch_add(1, Ordering::Relaxed);
                Read::Bytes(bytes)
            }
            Ok(None) => Read::Missing,
            Err(e) => failed(e),
        }
    }

    /// Whether the object's lock, as the store tells it, is as long as was promised.
    pub(crate) fn check_retention(&self, key: &str, writer: &str, head: Option<Head>, until: Time) {
        let Some(head) = head else { return };
        let promised = self.trail.as_ref().map_or(Lock::None, |t| t.lock);
        let short = match head.retain {
            Some(r) => r.until < until,
            None => promised != Lock::None,
        };
        if short {
            let has =
                head.retain.map_or_else(|| "no lock".to_owned(), |r| format!("a lock until {}", r.until));
            self.find(
                Finding::new(Verdict::ShortRetention, format!("the store knows {has}; promised is {until}"))
                    .at(key)
                    .of(writer),
            );
        }
    }

    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self.options.anchor, Anchor::Embedded)
    }

    /// Whether the trust file has an entry for this writer's name.
    pub(crate) fn trusts_name(&self, name: &str) -> bool {
        match &self.options.anchor {
            Anchor::Embedded => true,
            Anchor::File(t) => t.entries(name).next().is_some(),
        }
    }
}

/// An events object that a header names.
pub(crate) struct Task {
    pub(crate) key: String,
    pub(crate) header: Batch,
}

/// Checks the trail in `store`.
pub fn verify(store: &dyn Store, options: &Options, progress: &dyn Progress) -> Report {
    let begun = Instant::now();
    let mut session = Session {
        store,
        options,
        trail: None,
        trail_id: Hash([0; 32]),
        retirements: Vec::new(),
        findings: Mutex::new(Vec::new()),
        bytes: AtomicU64::new(0),
        objects: AtomicU64::new(0),
    };
    let mut report = Report {
        verdict: Verdict::Ok,
        trail: TrailInfo { place: store.place(), id: None, name: None },
        lock: None,
        freshness: "unproven after the beginning: nothing outside the store was asked".to_owned(),
        untrusted_keys: session.is_embedded().then_some(UNTRUSTED_KEYS),
        findings: Vec::new(),
        stats: Stats { quick: options.quick, ..Stats::default() },
    };
    if check_trail(&mut session) {
        if let Some(t) = &session.trail {
            report.trail.name = Some(t.name.clone());
            report.lock = Some(LockInfo { mode: t.lock, min_retention: t.min_retention });
        }
        report.trail.id = Some(session.trail_id);
        if let Anchor::File(trust) = &options.anchor
            && (trust.log.is_some() || !trust.unchecked.is_empty())
        {
            let what = if trust.log.is_some() { "log" } else { trust.unchecked[0] };
            session.find(Finding::new(
                Verdict::Unreadable,
                format!(
                    "the trust file names {what}, and this version does not check it; use a release that does"
                ),
            ));
        }
        match inventory(&mut session) {
            Ok(inventory) => check_all(&session, &inventory, &mut report.stats, progress),
            Err(e) => session.find(Finding::new(Verdict::Unreadable, e.to_string())),
        }
    }
    report.stats.bytes = session.bytes.load(Ordering::Relaxed);
    report.stats.objects = session.objects.load(Ordering::Relaxed);
    report.stats.milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.findings = session.findings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.finish();
    report
}

/// Reads `trail.json`; `false` if nothing else can be judged.
fn check_trail(session: &mut Session<'_>) -> bool {
    let key = name::TRAIL;
    let bytes = match session.read(key, MAX_ENVELOPE as u64) {
        Read::Bytes(b) => b,
        Read::Failed => return false,
        other => {
            let (verdict, detail) = match other {
                Read::TooLarge(n) => {
                    (Verdict::Tampered, format!("{n} bytes are more than a statement may have"))
                }
                _ if session.is_embedded() => (Verdict::Unreadable, "not there: is this a trail?".to_owned()),
                _ => (Verdict::Truncated, "not there, and the trust file names its id".to_owned()),
            };
            session.find(Finding::new(verdict, detail).at(key));
            // Writers can still be judged: the trust file has the id.
            return match &session.options.anchor {
                Anchor::File(t) => {
                    session.trail_id = t.trail;
                    true
                }
                Anchor::Embedded => false,
            };
        }
    };
    let outcome = read_trail(&bytes, session.options);
    match outcome {
        Ok((trail, id)) => {
            session.trail_id = id;
            session.trail = Some(trail);
            true
        }
        Err(finding) => {
            let stop = finding.verdict == Verdict::OtherTrail;
            session.find(finding.at(key));
            if let Anchor::File(t) = &session.options.anchor {
                session.trail_id = t.trail;
                return !stop;
            }
            false
        }
    }
}

fn read_trail(bytes: &[u8], options: &Options) -> Result<(Trail, Hash), Finding> {
    let tampered = |d: String| Finding::new(Verdict::Tampered, d);
    let envelope = Envelope::parse(bytes).map_err(|e| tampered(e.to_string()))?;
    // The signers stand in the payload itself; the pinned id or key is what gives them weight.
    let loose: serde_json::Value = serde_json::from_slice(&envelope.payload).unwrap_or_default();
    let operators: Vec<PublicKey> = loose["operators"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|k| PublicKey::from_base64(k.as_str().unwrap_or_default()))
        .collect::<Result<_, _>>()
        .map_err(|e| tampered(format!("operators: {e}")))?;
    envelope.verify(&operators.iter().collect::<Vec<_>>()).map_err(|e| tampered(e.to_string()))?;
    let id = envelope.statement_hash();
    if let Anchor::File(trust) = options.anchor.clone() {
        if id != trust.trail {
            return Err(Finding::new(
                Verdict::OtherTrail,
                format!("this is trail {id}; the trust file is for {}", trust.trail),
            ));
        }
        if !operators.iter().any(|k| trust.operators.contains(k)) {
            return Err(Finding::new(
                Verdict::Untrusted,
                "none of its operators is pinned in the trust file",
            ));
        }
    }
    match statement::read::<Trail>(&envelope) {
        Ok(trail) => Ok((trail, id)),
        Err(PayloadFault::Unknown(what)) => {
            Err(Finding::new(Verdict::UnknownFormat, format!("it needs {what:?}")))
        }
        Err(e) => Err(Finding::new(Verdict::Inconsistent, e.to_string())),
    }
}

/// The keys of a store, by what they are.
#[derive(Default)]
pub(crate) struct Inventory {
    /// Writers that have any object of theirs.
    pub(crate) writers: BTreeMap<String, WriterKeys>,
    events: BTreeSet<String>,
    certificates: BTreeSet<String>,
    foreign: Vec<String>,
}

/// The objects of a writer.
#[derive(Default)]
pub(crate) struct WriterKeys {
    pub(crate) genesis: bool,
    pub(crate) keys: BTreeSet<u64>,
    pub(crate) batches: BTreeSet<u64>,
}

fn numbered(text: &str, digits: usize) -> Option<u64> {
    let n = text.strip_suffix(".json")?;
    (n.len() == digits && n.bytes().all(|c| c.is_ascii_digit())).then(|| n.parse().ok())?
}

fn inventory(session: &mut Session<'_>) -> Result<Inventory, StoreError> {
    let mut inventory = Inventory::default();
    let mut statements = Vec::new();
    list_all(session.store, "", &mut |key| {
        let parts: Vec<&str> = key.split('/').collect();
        let writer_of = |w: &str| name::split_writer(w).is_some();
        match parts[..] {
            ["trail.json"] => {}
            ["writers", w, "genesis.json"] if writer_of(w) => {
                inventory.writers.entry(w.to_owned()).or_default().genesis = true;
            }
            ["writers", w, "keys", n] if writer_of(w) && numbered(n, 6).is_some_and(|n| n > 0) => {
                inventory.writers.entry(w.to_owned()).or_default().keys.extend(numbered(n, 6));
            }
            ["batches", w, n] if writer_of(w) && numbered(n, 12).is_some() => {
                inventory.writers.entry(w.to_owned()).or_default().batches.extend(numbered(n, 12));
            }
            ["events", ..] => drop(inventory.events.insert(key)),
            ["certs", _] => drop(inventory.certificates.insert(key)),
            ["statements", kind, file] => statements.push((kind.to_owned(), file.to_owned(), key.clone())),
            // What the log and its anchors hold is judged by those who check them.
            ["log" | "anchors", ..] => {}
            _ => inventory.foreign.push(key),
        }
    })?;
    for (kind, file, key) in statements {
        match operator_statement(session, &kind, &file, &key) {
            Ok(()) => {}
            Err(detail) => session.find(Finding::new(Verdict::Foreign, detail).at(key)),
        }
    }
    Ok(inventory)
}

/// An operator's statement, if it is one.
fn operator_statement(session: &mut Session<'_>, kind: &str, file: &str, key: &str) -> Result<(), String> {
    if !matches!(kind, Retirement::KIND | Acknowledgement::KIND) {
        // Types that later releases read.
        return Ok(());
    }
    let bytes = match session.read(key, MAX_ENVELOPE as u64) {
        Read::Bytes(b) => b,
        Read::Failed => return Ok(()),
        Read::Missing | Read::TooLarge(_) => return Err("no statement".to_owned()),
    };
    let envelope = Envelope::parse(&bytes).map_err(|e| e.to_string())?;
    if file.strip_suffix(".json") != Some(&envelope.statement_hash().to_string()) {
        return Err("its name is not its statement hash".to_owned());
    }
    let operators = session.trail.as_ref().map(|t| t.operators.clone()).unwrap_or_default();
    let signed = operators
        .iter()
        .filter_map(|k| PublicKey::from_base64(k).ok())
        .any(|k| envelope.verify(&[&k]).is_ok());
    if !signed {
        return Err("no operator of the trail signed it".to_owned());
    }
    let id = session.trail_id;
    if kind == Retirement::KIND {
        let r: Retirement = statement::read(&envelope).map_err(|e| e.to_string())?;
        if r.trail != id {
            return Err("it is about another trail".to_owned());
        }
        session.retirements.push(r);
    } else {
        let a: Acknowledgement = statement::read(&envelope).map_err(|e| e.to_string())?;
        if a.trail != id {
            return Err("it is about another trail".to_owned());
        }
        // It moves findings only once the log holds it.
    }
    Ok(())
}

fn check_all(session: &Session<'_>, inventory: &Inventory, stats: &mut Stats, progress: &dyn Progress) {
    let wanted = |w: &str| match &session.options.writer {
        None => true,
        Some(only) => w == only || name::split_writer(w).is_some_and(|(n, _)| n == only),
    };
    let mut named = BTreeSet::new();
    let mut tasks = Vec::new();
    let mut checked = Vec::new();
    for (writer, keys) in inventory.writers.iter().filter(|(w, _)| wanted(w)) {
        if let Some(summary) = writer::check(session, writer, keys, &mut tasks) {
            stats.writers += 1;
            stats.batches += summary.batches;
            stats.sealed_records += summary.records;
            named.extend(summary.certificates.iter().map(name::certificate_key));
            checked.push(summary);
        }
    }
    if session.options.writer.as_ref().is_some_and(|_| checked.is_empty()) {
        session.find(Finding::new(Verdict::Unreadable, "no such writer is trusted in this trail"));
    }
    writer::check_epochs(session, inventory, &checked);
    named.extend(tasks.iter().map(|t| t.key.clone()));
    check_certificates(session, &checked);
    check_objects(session, &tasks, stats, progress);
    if session.options.writer.is_none() {
        let unnamed = inventory.events.iter().chain(&inventory.certificates).filter(|k| !named.contains(*k));
        for key in unnamed.chain(&inventory.foreign) {
            session.find(Finding::new(Verdict::Foreign, "nothing in the trail names it").at(key));
        }
    }
}

fn check_certificates(session: &Session<'_>, checked: &[writer::Summary]) {
    for summary in checked {
        for digest in &summary.certificates {
            let key = name::certificate_key(digest);
            match session.read(&key, 1 << 20) {
                Read::Bytes(b) if sha256(&b) == *digest => {}
                Read::Bytes(_) | Read::TooLarge(_) => session.find(
                    Finding::new(Verdict::Tampered, "its digest is not its name").at(key).of(&summary.writer),
                ),
                Read::Missing => session.find(
                    Finding::new(Verdict::Gap, "a certificate that a statement names is missing")
                        .at(key)
                        .of(&summary.writer),
                ),
                Read::Failed => {}
            }
        }
    }
}

/// Opens the events objects, in parallel.
fn check_objects(session: &Session<'_>, tasks: &[Task], stats: &mut Stats, progress: &dyn Progress) {
    let o = session.options;
    let inside = |t: &&Task| {
        o.since.is_none_or(|s| t.header.sealed_at >= s) && o.until.is_none_or(|u| t.header.sealed_at <= u)
    };
    let tasks: Vec<&Task> = tasks.iter().filter(inside).collect();
    progress.total(tasks.iter().filter_map(|t| Some(t.header.object.as_ref()?.bytes)).sum());
    let threads = match o.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let next = AtomicUsize::new(0);
    let records = AtomicU64::new(0);
    let observed = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(tasks.len()) {
            scope.spawn(|| {
                while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some((n, span)) = check_object(session, task, progress) {
                        records.fetch_add(n, Ordering::Relaxed);
                        if let Some(span) = span {
                            let mut o = observed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            o.insert((task.header.writer.clone(), task.header.batch), span);
                        }
                    }
                }
            });
        }
    });
    stats.records = records.load(Ordering::Relaxed);
    // `observed_at` never decreases within a writer, across batches too.
    let observed = observed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (((w, _), (_, last)), ((w2, b2), (first, _))) in observed.iter().zip(observed.iter().skip(1)) {
        if w == w2 && first < last {
            session.find(
                Finding::new(Verdict::Inconsistent, "observed_at goes back from the batch before")
                    .at(name::batch_key(w2, *b2))
                    .of(w2),
            );
        }
    }
}

/// Checks one events object: how many records were looked at, and their first and last `observed_at`.
fn check_object(
    session: &Session<'_>,
    task: &Task,
    progress: &dyn Progress,
) -> Option<(u64, Option<(Time, Time)>)> {
    let h = &task.header;
    let object = h.object.as_ref()?;
    let (first, last) = (h.events.first_sequence, h.events.first_sequence + h.events.count.saturating_sub(1));
    let finding = |v, d: String| Finding::new(v, d).at(&task.key).of(&h.writer).sequences(first, last);
    let (read, head) = session.read_with_head(&task.key, object.bytes.min(waxseal_events::MAX_OBJECT));
    let bytes = match read {
        Read::Bytes(b) => b,
        Read::Missing if session.options.now > h.retain_until => {
            session.find(finding(
                Verdict::Expired,
                format!("gone after its retention ended at {}", h.retain_until),
            ));
            return None;
        }
        Read::Missing => {
            session
                .find(finding(Verdict::Gap, "the events object that the header names is missing".to_owned()));
            return None;
        }
        Read::TooLarge(n) => {
            session.find(finding(Verdict::Tampered, format!("{n} bytes; the header says {}", object.bytes)));
            return None;
        }
        Read::Failed => return None,
    };
    progress.advance(bytes.len() as u64);
    if sha256(&bytes) != object.sha256 || bytes.len() as u64 != object.bytes {
        session.find(finding(Verdict::Tampered, "its digest is not the one in the signed header".to_owned()));
        return None;
    }
    session.check_retention(&task.key, &h.writer, head, h.retain_until);
    if session.options.quick {
        return Some((0, None));
    }
    match records::check(h, Bytes::from(bytes)) {
        Ok(observed) => Some((h.events.count, observed)),
        Err(fault) => {
            let mut f = finding(fault.verdict, fault.detail);
            if let Some(s) = fault.sequence {
                f = f.sequences(s, s);
            }
            session.find(f);
            None
        }
    }
}
