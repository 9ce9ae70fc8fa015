//! Reads a trail, trusts neither its writers nor its store, and says what is true of it.
//!
//! The order is: trail statement, operators' statements, and for each writer genesis, key statements,
//! headers; then the events objects of all writers in parallel; then what nothing names. Every object is
//! read once; what is held in memory is the headers' summaries and, per thread, one events object.

#![forbid(unsafe_code)]

mod anchors;
mod chains;
pub mod event;
mod log;
pub mod prove;
mod records;
mod report;
mod writer;

pub use chains::Chains;
pub use log::Memory;
pub use report::{AnchorInfo, LockInfo, LogInfo, Report, Stats, TrailInfo, UNTRUSTED_KEYS};

use bytes::Bytes;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use waxseal_store::{At, Head, Kind, Object, Store, StoreError, Version, list_all_versions};
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::keys::PublicKey;
use waxseal_trail::name;
use waxseal_trail::statement::{Acknowledgement, Batch, Lock, Payload, Retirement, Trail};
use waxseal_trail::time::Time;
use waxseal_trail::trust::Trust;
use waxseal_trail::valid::{self, Bad};
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
    /// Ask for archived events objects to be restored.
    pub restore: bool,
    /// Threads for events objects; 0: as many as there are cores.
    pub threads: usize,
    /// What somebody outside the store remembers of the log.
    pub memories: Vec<Memory>,
    /// How chains are asked.
    pub chains: Chains,
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
    acknowledgements: Vec<Acknowledgement>,
    /// What has been logged, if there is a log that counts, and it could be read.
    pub(crate) log: Option<log::Log<'a>>,
    /// What others have signed of it.
    pub(crate) anchored: anchors::Found,
    /// Keys with several versions, or with a delete marker: all of these, oldest first.
    many: BTreeMap<String, Vec<Version>>,
    /// What was read before it was asked for.
    ahead: Mutex<HashMap<String, Result<Option<Object>, StoreError>>>,
    findings: Mutex<Vec<Finding>>,
    bytes: AtomicU64,
    objects: AtomicU64,
}

/// The object under a key (FORMAT section 5 rule 3).
pub(crate) enum Picked<T> {
    /// The first valid version.
    Object(T),
    /// The first valid version, which cannot be used, and why.
    Unusable(Bad),
    /// There are only invalid ones; what is wrong with the last.
    Invalid(String),
    /// It has to be restored before it can be read.
    Archived(At),
    /// Nothing.
    Missing,
    /// It could not be read; said already.
    Failed,
}

/// A check of bytes: what they are, and what two of the same kind must have in common to be no fork.
pub(crate) type Check<'c, T> = &'c dyn Fn(Vec<u8>) -> Result<(T, Hash), Bad>;

impl Session<'_> {
    /// The versions of a key that has more to it than one.
    pub(crate) fn versions_of(&self, key: &str) -> Vec<Version> {
        self.many.get(key).cloned().unwrap_or_default()
    }

    /// What the log has under a key.
    pub(crate) fn logged(&self, key: &str) -> Option<log::Entry> {
        self.log.as_ref()?.logged.at(key)
    }

    /// The numbers of the last key statement and the last header that the log has of a writer.
    pub(crate) fn logged_last(&self, writer: &str) -> (Option<u64>, Option<u64>) {
        self.log.as_ref().map_or((None, None), |l| l.logged.last(writer))
    }

    /// The number of the next header, from `number` on, that the log has of a writer.
    pub(crate) fn logged_next(&self, writer: &str, number: u64) -> Option<u64> {
        self.log.as_ref()?.logged.next(writer, number)
    }

    /// Whether an entry of the log is void: signed by a key that was revoked before. What was logged earlier stands.
    pub(crate) fn is_void(&self, entry: &[u8], number: u64, logged: &mut log::Logged) -> bool {
        let Anchor::File(trust) = &self.options.anchor else { return false };
        if trust.revoked.is_empty() {
            return false;
        }
        let Ok(envelope) = Envelope::parse(entry) else { return false };
        let by = |key: &Hash| envelope.signatures.iter().any(|s| s.key == *key);
        let mut revoked = trust.revoked.iter().filter(|r| by(&r.key)).peekable();
        if revoked.peek().is_none() {
            return false;
        }
        let stands = revoked.all(|r| number < r.log_size);
        if stands {
            logged.stands.insert(sha256(entry));
        }
        !stands
    }

    /// Whether a statement counts, whose signatures are right: those of a revoked key do if they were logged before.
    pub(crate) fn check_stands(&self, envelope: &Envelope, bytes: &[u8]) -> Result<(), Bad> {
        let Anchor::File(trust) = &self.options.anchor else { return Ok(()) };
        let by = |key: &Hash| envelope.signatures.iter().any(|s| s.key == *key);
        match trust.revoked.iter().find(|r| by(&r.key)) {
            // What was logged is not known then, which was said.
            Some(_) if self.log.is_none() && trust.log.is_some() => Ok(()),
            Some(r) if !self.log.as_ref().is_some_and(|l| l.logged.stands.contains(&sha256(bytes))) => {
                Err(Bad::Invalid(format!("key {} is revoked, and this was not logged before", r.key)))
            }
            _ => Ok(()),
        }
    }

    /// Says what the log has under a key beside what is stored there: `stored` is the statement and the digest of the envelope.
    fn compare_log<T>(&self, key: &str, writer: Option<&str>, stored: (Hash, Hash), check: Check<'_, T>) {
        let Some(log) = &self.log else { return };
        let say = |verdict, detail: String| {
            let finding = Finding::new(verdict, detail).at(key);
            self.find(match writer {
                Some(w) => finding.of(w),
                None => finding,
            });
        };
        let first = log.logged.at(key);
        if first.is_some_and(|e| e.statement == stored.0 && e.digest != stored.1) {
            say(Verdict::Foreign, "the same payload in another envelope than the log has".to_owned());
        }
        let others = first.iter().chain(log.logged.second(key)).filter(|e| e.statement != stored.0);
        for entry in others {
            // The log's word that there was something is not yet the word of who should have signed it.
            match log.entry(entry.index).map(check) {
                None => say(Verdict::Unreadable, format!("entry {} of the log cannot be read", entry.index)),
                Some(Err(Bad::Invalid(why))) => say(
                    Verdict::Inconsistent,
                    format!("entry {} of the log belongs here, and is not valid: {why}", entry.index),
                ),
                _ => say(
                    Verdict::Fork,
                    format!("two valid payloads: entry {} of the log says otherwise", entry.index),
                ),
            }
        }
    }

    pub(crate) fn find(&self, finding: Finding) {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }

    /// Whether more than one version lies under a key.
    pub(crate) fn has_many(&self, key: &str) -> bool {
        self.many.contains_key(key)
    }

    /// Whether the store keeps what is locked, whatever anybody does.
    pub(crate) fn is_locked(&self) -> bool {
        self.store.has_versions() && self.trail.as_ref().is_some_and(|t| t.lock != Lock::None)
    }

    /// Reads some small objects that will be wanted next, where that is quicker at once.
    pub(crate) fn read_ahead(&self, keys: &[String], limit: u64) {
        if self.store.concurrency() < 2 {
            return;
        }
        let at: Vec<At> = keys.iter().filter(|k| !self.many.contains_key(*k)).map(At::key).collect();
        let read = self.store.read_all(&at, limit);
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.clear();
        ahead.extend(at.into_iter().map(|a| a.key).zip(read));
    }

    pub(crate) fn fetch(&self, at: &At, limit: u64) -> Result<Option<Object>, StoreError> {
        let ahead = match at.version {
            None => self.ahead.lock().unwrap_or_else(PoisonError::into_inner).remove(&at.key),
            Some(_) => None,
        };
        let object = ahead.unwrap_or_else(|| self.store.read(at, limit))?;
        if let Some(body) = object.as_ref().and_then(|o| o.body.as_ref()) {
            self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
            self.objects.fetch_add(1, Ordering::Relaxed);
        }
        Ok(object)
    }

    /// The object under a key, and what the store says of it. Says itself what is unreadable, foreign, or a fork.
    pub(crate) fn pick<T>(
        &self,
        at: &At,
        writer: Option<&str>,
        limit: u64,
        check: Check<'_, T>,
    ) -> (Picked<T>, Option<Head>) {
        let too_large = |n: u64| format!("{n} bytes are more than the {limit} that it may have");
        if !self.many.contains_key(&at.key) {
            let read = match self.fetch(at, limit) {
                Err(e) if e.kind == Kind::Archived => return (Picked::Archived(at.clone()), None),
                // S3 says this too of what is not there, to those who may only list below a prefix.
                Err(e) if e.kind == Kind::Permission && self.store.has_versions() => None,
                Err(e) => {
                    self.unreadable(&at.key, writer, &e);
                    return (Picked::Failed, None);
                }
                Ok(None) => None,
                Ok(Some(Object { head, body: None })) => {
                    Some((Err(Bad::Invalid(too_large(head.bytes))), head))
                }
                Ok(Some(Object { head, body: Some(body) })) => {
                    let digest = self.logged(&at.key).map(|_| sha256(&body));
                    let checked = check(body);
                    if let (Some(digest), Ok((_, statement))) = (digest, &checked) {
                        self.compare_log(&at.key, writer, (*statement, digest), check);
                    }
                    Some((checked, head))
                }
            };
            match read {
                Some((Ok((object, _)), head)) => return (Picked::Object(object), Some(head)),
                Some((Err(bad @ (Bad::Unknown(_) | Bad::Malformed(_))), head)) => {
                    return (Picked::Unusable(bad), Some(head));
                }
                Some((Err(Bad::Invalid(why)), head)) if !self.store.has_versions() => {
                    return (Picked::Invalid(why), Some(head));
                }
                None if !self.store.has_versions() => return (Picked::Missing, None),
                // Someone may have written or deleted since the listing: the versions say more.
                Some((Err(Bad::Invalid(_)), _)) | None => {}
            }
        }
        let versions = match self.many.get(&at.key) {
            Some(v) => v.clone(),
            None => match self.store.versions(&at.key) {
                Ok(v) => v,
                Err(e) => {
                    self.unreadable(&at.key, writer, &e);
                    return (Picked::Failed, None);
                }
            },
        };
        self.pick_version(&at.key, writer, limit, check, &versions)
    }

    pub(crate) fn unreadable(&self, key: &str, writer: Option<&str>, e: &StoreError) {
        let finding = Finding::new(Verdict::Unreadable, e.to_string()).at(key);
        self.find(match writer {
            Some(w) => finding.of(w),
            None => finding,
        });
    }

    fn pick_version<T>(
        &self,
        key: &str,
        writer: Option<&str>,
        limit: u64,
        check: Check<'_, T>,
        versions: &[Version],
    ) -> (Picked<T>, Option<Head>) {
        struct Valid<T> {
            statement: Option<Hash>,
            digest: Hash,
            version: String,
            head: Head,
            object: Picked<T>,
        }
        let say = |verdict, detail: String| {
            let finding = Finding::new(verdict, detail).at(key);
            self.find(match writer {
                Some(w) => finding.of(w),
                None => finding,
            });
        };
        let mut valid: Vec<Valid<T>> = Vec::new();
        let (mut foreign, mut why, mut archived, mut failed) = (0u64, String::new(), None, false);
        for v in versions.iter().filter(|v| !v.delete_marker) {
            if let Some(n) = v.bytes.filter(|n| *n > limit) {
                foreign += 1;
                why = format!("{n} bytes are more than the {limit} that it may have");
                continue;
            }
            let at = At { key: key.to_owned(), version: v.id.clone(), bytes: v.bytes };
            let (head, body) = match self.fetch(&at, limit) {
                Err(e) if e.kind == Kind::Archived => {
                    archived.get_or_insert(at);
                    continue;
                }
                Err(e) => {
                    self.unreadable(key, writer, &e);
                    failed = true;
                    continue;
                }
                // Gone since the listing.
                Ok(None) => continue,
                Ok(Some(Object { body: None, .. })) => {
                    foreign += 1;
                    continue;
                }
                Ok(Some(Object { head, body: Some(body) })) => (head, body),
            };
            let digest = sha256(&body);
            // Our own second try, where a server does not keep us from writing twice.
            if let Some(v) = valid.iter_mut().find(|v| v.digest == digest) {
                if head.retain.map(|r| r.until) > v.head.retain.map(|r| r.until) {
                    v.head = head;
                }
                continue;
            }
            let (statement, object) = match check(body) {
                Ok((object, statement)) => (Some(statement), Picked::Object(object)),
                Err(Bad::Invalid(d)) => {
                    foreign += 1;
                    why = d;
                    continue;
                }
                Err(bad) => (None, Picked::Unusable(bad)),
            };
            let version = v.id.clone().unwrap_or_default();
            valid.push(Valid { statement, digest, version, head, object });
        }
        let markers = versions.iter().filter(|v| v.delete_marker).count();
        // The first that the log includes, else the oldest.
        let logged = self.logged(key);
        let is_logged = |v: &Valid<T>| logged.is_some_and(|l| v.digest == l.digest);
        let says_it = |v: &Valid<T>| logged.is_some_and(|l| v.statement == Some(l.statement));
        let place = valid.iter().position(is_logged).or_else(|| valid.iter().position(says_it)).unwrap_or(0);
        if valid.is_empty() {
            if failed {
                return (Picked::Failed, None);
            }
            if let Some(at) = archived {
                return (Picked::Archived(at), None);
            }
            if foreign > 0 {
                return (Picked::Invalid(why), None);
            }
            return (Picked::Missing, None);
        }
        let picked = valid.swap_remove(place);
        if let Some(statement) = picked.statement {
            self.compare_log(key, writer, (statement, picked.digest), check);
        }
        for other in valid {
            if other.statement.is_some() && other.statement == picked.statement {
                foreign += 1;
                why = "the same payload in another envelope".to_owned();
            } else {
                let (first, other) = (&picked.version, &other.version);
                say(
                    Verdict::Fork,
                    format!(
                        "two valid payloads under one key: version {first} is the object, and {other} says otherwise"
                    ),
                );
            }
        }
        if foreign > 0 {
            say(Verdict::Foreign, format!("{foreign} other version(s) here are not valid: {why}"));
        }
        if markers > 0 {
            say(
                Verdict::Foreign,
                format!(
                    "{markers} delete marker(s): someone deleted the key; the object is there all the same"
                ),
            );
        }
        (picked.object, Some(picked.head))
    }

    /// Whether the object's lock, as the store tells it, is as long as was promised.
    pub(crate) fn check_retention(&self, key: &str, writer: &str, head: Option<Head>, until: Time) {
        let Some(head) = head else { return };
        let promised = self.trail.as_ref().map_or(Lock::None, |t| t.lock);
        let short = match head.retain {
            Some(r) => r.until < until || !r.lock.is_as_strong_as(promised),
            None => promised != Lock::None,
        };
        if short {
            let has = head
                .retain
                .map_or_else(|| "no lock".to_owned(), |r| format!("a lock ({}) until {}", r.lock, r.until));
            self.find(
                Finding::new(
                    Verdict::ShortRetention,
                    format!("the store knows {has}; promised is {promised} until {until}"),
                )
                .at(key)
                .of(writer),
            );
        }
    }

    /// An object whose digest is known.
    pub(crate) fn named(
        &self,
        key: &str,
        writer: Option<&str>,
        digest: &Hash,
        limit: u64,
    ) -> (Picked<Vec<u8>>, Option<Head>) {
        self.pick(&At::key(key), writer, limit, &|bytes| match sha256(&bytes) {
            d if d == *digest => Ok((bytes, d)),
            _ => Err(Bad::Invalid("its digest is not the one that names it".to_owned())),
        })
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
        acknowledgements: Vec::new(),
        log: None,
        anchored: anchors::Found::default(),
        many: BTreeMap::new(),
        ahead: Mutex::default(),
        findings: Mutex::new(Vec::new()),
        bytes: AtomicU64::new(0),
        objects: AtomicU64::new(0),
    };
    let mut report = Report {
        verdict: Verdict::Ok,
        trail: TrailInfo { place: store.place(), id: None, name: None },
        lock: None,
        freshness: "unproven after the beginning: nothing outside the store was asked".to_owned(),
        log: None,
        untrusted_keys: session.is_embedded().then_some(UNTRUSTED_KEYS),
        findings: Vec::new(),
        stats: Stats { quick: options.quick, ..Stats::default() },
    };
    // Which versions there are decides over each key. A directory is not gone through before it is known to be a trail.
    let listed = store.has_versions().then(|| list(&mut session));
    if check_trail(&mut session) {
        if let Some(t) = &session.trail {
            report.trail.name = Some(t.name.clone());
            report.lock = Some(LockInfo { mode: t.lock, min_retention: t.min_retention });
        }
        report.trail.id = Some(session.trail_id);
        match listed.unwrap_or_else(|| list(&mut session)).map(inventory) {
            Ok(inventory) => {
                read_log(&mut session, &inventory, &mut report);
                read_statements(&mut session, &inventory);
                check_all(&session, &inventory, &mut report.stats, progress);
            }
            Err(e) => session.find(Finding::new(Verdict::Unreadable, e.to_string())),
        }
    }
    report.stats.bytes = session.bytes.load(Ordering::Relaxed);
    report.stats.objects = session.objects.load(Ordering::Relaxed);
    report.stats.requests = store.requests();
    report.stats.milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.findings = session.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    acknowledge(&mut report.findings, &session.acknowledgements);
    report.finish();
    report
}

/// Reads `trail.json`; `false` if nothing else can be judged.
fn check_trail(session: &mut Session<'_>) -> bool {
    let key = name::TRAIL;
    // The strongest of what was found where no version will do.
    let fault: RefCell<Option<Finding>> = RefCell::default();
    let options = session.options;
    let check = |bytes: Vec<u8>| {
        read_trail(&bytes, options).map_err(|finding| {
            let detail = finding.detail.clone();
            let mut fault = fault.borrow_mut();
            let weaker = |f: &Finding| f.verdict == Verdict::Tampered;
            if fault.as_ref().is_none_or(weaker) {
                *fault = Some(*finding);
            }
            Bad::Invalid(detail)
        })
    };
    let (picked, _) = session
        .pick(&At::key(key), None, MAX_ENVELOPE as u64, &|b| check(b).map(|(trail, id)| ((trail, id), id)));
    let finding = match picked {
        Picked::Object((trail, id)) => {
            session.trail_id = id;
            session.trail = Some(trail);
            return true;
        }
        Picked::Failed => return false,
        Picked::Missing if session.is_embedded() => {
            Finding::new(Verdict::Unreadable, "not there: is this a trail?")
        }
        Picked::Missing => Finding::new(Verdict::Truncated, "not there, and the trust file names its id"),
        Picked::Archived(_) => Finding::new(Verdict::Unreadable, "archived, which it must never be"),
        Picked::Invalid(why)
        | Picked::Unusable(Bad::Invalid(why) | Bad::Unknown(why) | Bad::Malformed(why)) => {
            fault.into_inner().unwrap_or_else(|| Finding::new(Verdict::Tampered, why))
        }
    };
    let stop = finding.verdict == Verdict::OtherTrail;
    session.find(finding.at(key));
    match &session.options.anchor {
        // Writers can still be judged: the trust file has the id.
        Anchor::File(t) => {
            session.trail_id = t.trail;
            !stop
        }
        Anchor::Embedded => false,
    }
}

fn read_trail(bytes: &[u8], options: &Options) -> Result<(Trail, Hash), Box<Finding>> {
    let tell = |verdict, detail: String| Box::new(Finding::new(verdict, detail));
    // The signers stand in the payload itself; the pinned id or key is what gives them weight.
    let (envelope, operators) = valid::trail(bytes).map_err(|e| tell(Verdict::Tampered, e.to_string()))?;
    let id = envelope.statement_hash();
    if let Anchor::File(trust) = &options.anchor {
        if id != trust.trail {
            return Err(tell(
                Verdict::OtherTrail,
                format!("this is trail {id}; the trust file is for {}", trust.trail),
            ));
        }
        if !operators.iter().any(|k| trust.operators.contains(k)) {
            return Err(tell(
                Verdict::Untrusted,
                "none of its operators is pinned in the trust file".to_owned(),
            ));
        }
    }
    match valid::payload::<Trail>(&envelope) {
        Ok(trail) => Ok((trail, id)),
        Err(Bad::Unknown(what)) => Err(tell(Verdict::UnknownFormat, what)),
        Err(e) => Err(tell(Verdict::Inconsistent, e.to_string())),
    }
}

/// The keys of a store, by what they are.
#[derive(Default)]
pub(crate) struct Inventory {
    /// Writers that have any object of theirs.
    pub(crate) writers: BTreeMap<String, WriterKeys>,
    events: BTreeSet<String>,
    certificates: BTreeSet<String>,
    /// Under `statements/`: kind, file name, key.
    statements: Vec<(String, String, String)>,
    log: Vec<String>,
    anchors: Vec<String>,
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
    name::number(text.strip_suffix(".json")?, digits)
}

/// Lists every key, and notes those that have more to them than one version.
fn list(session: &mut Session<'_>) -> Result<Vec<String>, StoreError> {
    let mut keys: Vec<String> = Vec::new();
    let mut group: Vec<Version> = Vec::new();
    let mut many = BTreeMap::new();
    let mut close = |group: &mut Vec<Version>| {
        if group.len() > 1 || group.iter().any(|v| v.delete_marker) {
            group.reverse();
            many.insert(group[0].key.clone(), std::mem::take(group));
        }
        group.clear();
    };
    // The log first: what is logged by then is in the store when that is listed.
    let mut log = Vec::new();
    let counts = !matches!(&session.options.anchor, Anchor::File(t) if t.log.is_none());
    if counts {
        list_all_versions(session.store, "log/", &mut |v| log.push(v))?;
    }
    let mut take = |v: Version| {
        if keys.last() != Some(&v.key) {
            close(&mut group);
            keys.push(v.key.clone());
        }
        group.push(v);
    };
    log.into_iter().for_each(&mut take);
    list_all_versions(session.store, "", &mut |v| {
        if !counts || !v.key.starts_with("log/") {
            take(v);
        }
    })?;
    close(&mut group);
    session.many = many;
    Ok(keys)
}

fn inventory(keys: Vec<String>) -> Inventory {
    let mut inventory = Inventory::default();
    for key in keys {
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
            ["statements", kind, file] => {
                inventory.statements.push((kind.to_owned(), file.to_owned(), key.clone()));
            }
            ["log", ..] => inventory.log.push(key),
            ["anchors", ..] => inventory.anchors.push(key),
            _ => inventory.foreign.push(key),
        }
    }
    inventory
}

/// Reads the log, if there is one that counts.
fn read_log(session: &mut Session<'_>, inventory: &Inventory, report: &mut Report) {
    let key = match log::key(session) {
        Ok(Some(key)) => key,
        Ok(None) => return,
        Err(why) => return session.find(Finding::new(Verdict::Unreadable, why)),
    };
    let heads = chains::heads(session);
    session.log = log::read(session, &key, &inventory.log);
    let Some(mut log) = session.log.take() else {
        report.log = Some(LogInfo {
            key: key.to_string(),
            checkpoint: None,
            entries: 0,
            self_witnessed: true,
            anchors: Vec::new(),
            extends: false,
            note: None,
        });
        for chain in heads.keys() {
            let detail = format!(
                "CHAIN NOT CHECKED: chain {chain}: what it has anchored is compared with the log, which cannot be judged"
            );
            session.find(Finding::new(Verdict::ChainNotChecked, detail).at("anchors/"));
        }
        return;
    };
    let found = anchors::read(session, &log, &inventory.anchors, &heads);
    anchors::judge(session, &log, &found);
    log.extends &= !found.contradicted;
    let newest = log.newest();
    // A memory that the log extends, or a signature on it, proves that nothing was taken away since.
    let memories = session.options.memories.iter().filter(|_| log.extends);
    let remembered = log.remembered.iter().filter(|_| log.extends).max().cloned();
    // Where a policy says how many it takes, one alone proves nothing.
    let wanted = match &session.options.anchor {
        Anchor::File(t) => t.policy.as_ref().is_some_and(|p| p.needs_witnesses()),
        Anchor::Embedded => false,
    };
    let enough =
        found.newest.as_ref().map(|(c, at)| (*at, format!("the witnesses of checkpoint {}", c.number)));
    let counts = |a: &&AnchorInfo| !wanted || a.kind != "witness";
    let one = found.all.iter().filter(counts);
    let one = one.map(|a| (a.at, format!("{} {}, checkpoint {}", a.kind, a.name, a.checkpoint)));
    let signed: Vec<(Time, String)> = one.chain(enough.filter(|_| wanted)).collect();
    if newest.is_some() {
        if let Some((at, what)) = remembered.into_iter().chain(signed.into_iter().max()).max() {
            report.freshness = format!("unproven after {at}: {what}");
        } else if let Some(memory) = memories.clone().next() {
            report.freshness = format!("unproven after {}", memory.what);
        }
    }
    report.log = Some(LogInfo {
        key: key.to_string(),
        checkpoint: newest.map(|n| n.number),
        entries: newest.map_or(0, |n| n.checkpoint.size),
        // An authority that stamps has not looked at what.
        self_witnessed: found.all.iter().all(|a| a.kind != "witness"),
        extends: log.extends,
        anchors: found.all.clone(),
        note: newest.map(|n| String::from_utf8_lossy(&n.bytes).into_owned()),
    });
    session.log = Some(log);
    session.anchored = found;
}

/// Reads the operators' statements.
fn read_statements(session: &mut Session<'_>, inventory: &Inventory) {
    for (kind, file, key) in &inventory.statements {
        match operator_statement(session, kind, file, key) {
            Ok(()) => {}
            // What was logged was there, and valid.
            Err((Verdict::Foreign, detail)) if session.logged(key).is_some() => {
                session.find(Finding::new(Verdict::Tampered, detail).at(key));
            }
            Err((verdict, detail)) => session.find(Finding::new(verdict, detail).at(key)),
        }
    }
    let stored: BTreeSet<&String> = inventory.statements.iter().map(|(.., key)| key).collect();
    if let Some(log) = &session.log {
        for key in log.logged.statements().filter(|k| !stored.contains(k)) {
            session.find(Finding::new(Verdict::Truncated, "the log has it, and the store has not").at(key));
        }
    }
}

/// What an operator has acknowledged, and the log holds, is listed and no fault.
fn acknowledge(findings: &mut [Finding], acknowledgements: &[Acknowledgement]) {
    let may = [Verdict::Silent, Verdict::Abandoned, Verdict::Gap, Verdict::DeclaredLoss];
    for f in findings.iter_mut().filter(|f| may.contains(&f.verdict)) {
        let covers = |a: &&Acknowledgement| {
            // Of two writers, the one that it is about.
            let writer = f.about.as_ref().or(f.writer.as_ref()) == Some(&a.writer);
            let inside = match f.batches {
                Some([first, last]) => a.range[0] <= first && last <= a.range[1],
                // At a genesis there is no batch yet.
                None => matches!(f.verdict, Verdict::Silent | Verdict::Abandoned),
            };
            a.verdict == f.verdict.name() && writer && inside
        };
        if let Some(a) = acknowledgements.iter().find(covers) {
            f.detail = format!("{} ({}): {}, acknowledges {}", f.detail, f.verdict, a.by, a.reason);
            f.verdict = Verdict::Acknowledged;
        }
    }
}

/// An operator's statement, if it is one; of the other kinds whether one that is logged is there.
fn operator_statement(
    session: &mut Session<'_>,
    kind: &str,
    file: &str,
    key: &str,
) -> Result<(), (Verdict, String)> {
    let foreign = |why: String| (Verdict::Foreign, why);
    let judged = matches!(kind, Retirement::KIND | Acknowledgement::KIND);
    let logged = session.logged(key);
    if !judged && logged.is_none() {
        // A worker's, or of types that later releases read.
        return Ok(());
    }
    let operators = session.trail.as_ref().map(|t| t.operators.clone()).unwrap_or_default();
    let operators: Vec<PublicKey> = operators.iter().filter_map(|k| PublicKey::from_base64(k).ok()).collect();
    let hash = file.strip_suffix(".json").unwrap_or_default();
    let (picked, _) = session.pick(&At::key(key), None, MAX_ENVELOPE as u64, &|bytes| {
        if !judged {
            let envelope = Envelope::parse(&bytes).map_err(|e| Bad::Invalid(e.to_string()))?;
            let statement = envelope.statement_hash();
            return match logged {
                Some(l) if l.statement == statement => Ok((envelope, statement)),
                _ => Err(Bad::Invalid("it is not the one that the log has".to_owned())),
            };
        }
        let envelope = valid::statement(&session.trail_id, kind, hash, &operators, &bytes)?;
        session.check_stands(&envelope, &bytes)?;
        let statement = envelope.statement_hash();
        Ok((envelope, statement))
    });
    let envelope = match picked {
        Picked::Object(envelope) => envelope,
        Picked::Failed => return Ok(()),
        Picked::Missing if logged.is_some() => {
            return Err((Verdict::Truncated, "the log has it, and the store has not".to_owned()));
        }
        Picked::Archived(_) if logged.is_some() => {
            return Err((Verdict::Unreadable, "archived, which it must never be".to_owned()));
        }
        Picked::Invalid(why) => return Err(foreign(why)),
        Picked::Missing | Picked::Archived(_) | Picked::Unusable(_) => {
            return Err(foreign("no statement".to_owned()));
        }
    };
    if !judged {
        return Ok(());
    }
    // It counts from when the log holds it.
    if session.log.is_some() && logged.is_none() {
        session.find(Finding::new(Verdict::Unanchored, "not in the log yet, so it does not count").at(key));
        return Ok(());
    }
    let unread = |e: Bad| match e {
        Bad::Unknown(why) => (Verdict::UnknownFormat, why),
        other => (Verdict::Inconsistent, other.to_string()),
    };
    if kind == Retirement::KIND {
        session.retirements.push(valid::payload(&envelope).map_err(unread)?);
    } else {
        let acknowledgement = valid::payload(&envelope).map_err(unread)?;
        // Without a log it moves nothing.
        if session.log.is_some() {
            session.acknowledgements.push(acknowledgement);
        }
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
    let nothing = WriterKeys::default();
    let logged = session.log.iter().flat_map(|l| l.logged.writers());
    let writers: BTreeSet<&String> = inventory.writers.keys().chain(logged).filter(|w| wanted(w)).collect();
    for writer in writers {
        let keys = inventory.writers.get(writer).unwrap_or(&nothing);
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
            match session.named(&key, Some(&summary.writer), digest, 1 << 20).0 {
                Picked::Object(_) | Picked::Failed => {}
                Picked::Invalid(_) | Picked::Unusable(_) | Picked::Archived(_) => session.find(
                    Finding::new(Verdict::Tampered, "its digest is not its name").at(key).of(&summary.writer),
                ),
                Picked::Missing => session.find(
                    Finding::new(Verdict::Gap, "a certificate that a statement names is missing")
                        .at(key)
                        .of(&summary.writer),
                ),
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
                            let mut o = observed.lock().unwrap_or_else(PoisonError::into_inner);
                            o.insert((task.header.writer.clone(), task.header.batch), span);
                        }
                    }
                }
            });
        }
    });
    stats.records = records.load(Ordering::Relaxed);
    // `observed_at` never decreases within a writer, across batches too.
    let observed = observed.into_inner().unwrap_or_else(PoisonError::into_inner);
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
    let limit = object.bytes.min(waxseal_events::MAX_OBJECT);
    let at = At { bytes: Some(object.bytes), ..At::key(&task.key) };
    let (picked, head) = session.pick(&at, Some(&h.writer), limit, &|bytes| {
        if bytes.len() as u64 != object.bytes {
            return Err(Bad::Invalid(format!("{} bytes; the header says {}", bytes.len(), object.bytes)));
        }
        match sha256(&bytes) {
            d if d == object.sha256 => Ok((bytes, d)),
            _ => Err(Bad::Invalid("its digest is not the one in the signed header".to_owned())),
        }
    });
    let bytes = match picked {
        Picked::Object(b) => b,
        Picked::Missing if session.options.now > h.retain_until => {
            session.find(finding(
                Verdict::Expired,
                format!("gone after its retention ended at {}", h.retain_until),
            ));
            return None;
        }
        Picked::Missing => {
            let detail = "the events object that the header names is missing".to_owned();
            session.find(finding(Verdict::Gap, detail).batches(h.batch, h.batch));
            return None;
        }
        Picked::Invalid(why) => {
            session.find(finding(Verdict::Tampered, why));
            return None;
        }
        Picked::Archived(at) => {
            progress.advance(object.bytes);
            check_archived(session, task, &at, &finding);
            return None;
        }
        Picked::Failed | Picked::Unusable(_) => return None,
    };
    progress.advance(bytes.len() as u64);
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

/// Restored objects stay readable so long.
const RESTORED_DAYS: u16 = 7;

/// An events object that cannot be read before it is restored: what the store says of it against the header.
fn check_archived(session: &Session<'_>, task: &Task, at: &At, finding: &dyn Fn(Verdict, String) -> Finding) {
    let h = &task.header;
    let Some(object) = &h.object else { return };
    let head = match session.store.head(at) {
        Ok(Some(head)) => head,
        Ok(None) => return session.find(finding(Verdict::Gap, "listed, and not there".to_owned())),
        Err(e) => return session.find(finding(Verdict::Unreadable, e.to_string())),
    };
    let class = head.class.clone().unwrap_or_default();
    if head.bytes != object.bytes || head.sha256.is_some_and(|d| d != object.sha256) {
        return session.find(finding(
            Verdict::Tampered,
            format!("archived ({class}), and the digest or size that the store keeps is not the header's"),
        ));
    }
    if head.sha256.is_none() {
        return session.find(finding(
            Verdict::Unreadable,
            format!("archived ({class}), and the store keeps no digest of it: restore it to check it"),
        ));
    }
    let mut detail =
        format!("in {class}: the digest that the store keeps is the header's; its records were not read");
    if head.restoring {
        detail.push_str("; a restore is under way");
    } else if session.options.restore {
        match session.store.restore(at, RESTORED_DAYS) {
            Ok(true) => detail.push_str("; a restore was asked for: check again in some hours"),
            Ok(false) => detail.push_str("; a restore is under way"),
            Err(e) => session.find(finding(Verdict::Unreadable, e.to_string())),
        }
    }
    session.check_retention(&task.key, &h.writer, Some(head), h.retain_until);
    session.find(finding(Verdict::Archived, detail));
}
