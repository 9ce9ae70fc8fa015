//! A round: what is new in the store goes into the log, in the order genesis and key statements, headers by writer and number,
//! other statements (FORMAT section 6); what is not as it should be becomes a finding; a checkpoint commits it all.
//!
//! It asks the store for one page of a listing for each writer that has not retired, for the pages of `writers/` and
//! `statements/` (a thousand keys each), and for each new object once; of what was there before, a few pages in turn. Whoever may
//! put under `writers/` and `batches/` decides how much lies there: what is nobody's is read once, in bounded pieces, and so much
//! of it in a round; what nobody here may read is passed by, and said.

use crate::gate::{Gate, Out};
use crate::known::{Expected, Known, subject};
use crate::log::{Log, LogError};
use crate::scan::{AHEAD, Judged, Listed, Slot, each_piece};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use waxseal_log::Committed;
use waxseal_signing::{Signer, SignerError};
use waxseal_store::{At, Kind, Put, Retain, Store, StoreError};
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE, Signature};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::log::note::VerifierKey;
use waxseal_trail::name;
use waxseal_trail::statement::{self, Batch, Finding, Payload, Renewal, Trail};
use waxseal_trail::time::Time;
use waxseal_trail::valid::{self, STATEMENTS};
use waxseal_trail::verdict::Verdict;

/// How far a writer's clock may be behind the worker's, in seconds, before it is silent.
const SKEW: i64 = 60;
/// So many pages of listings a round looks for headers that were missing.
const SEARCHED: usize = 256;
/// So many pages a round looks again at what is logged already.
const PATROLLED: usize = 32;
/// So many versions that are nobody's are read in a round under the name of one writer, or of all that are not logged.
const MAX_JUNK: u64 = 4096;
/// So many payloads for one key are logged in a round.
const MAX_PAYLOADS: usize = 16;
/// So many findings about what strangers put are logged in a round.
const MAX_FINDINGS: usize = 1000;
/// So many objects that were kept out, or cannot be read, are named.
const MAX_NAMED: usize = 1000;
/// A checkpoint is written after so many entries.
const COMMIT_EVERY: u64 = 16_384;

/// Why a round did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoundError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The worker's key.
    #[error("a finding cannot be signed: {0}")]
    Sign(#[from] SignerError),
    /// Something else lies under the name of a statement of ours.
    #[error("{0} is there with other bytes, and nothing can be put beside it: move it away")]
    Occupied(String),
    /// A statement of ours that is none.
    #[error("a {0} cannot be written: {1}")]
    Statement(&'static str, String),
    /// The worker ends; what there is by now is committed.
    #[error("stopped")]
    Stopped,
}

impl From<StoreError> for RoundError {
    fn from(e: StoreError) -> RoundError {
        RoundError::Log(e.into())
    }
}

impl From<waxseal_log::ReadError> for RoundError {
    fn from(e: waxseal_log::ReadError) -> RoundError {
        RoundError::Log(e.into())
    }
}

/// What a round works with.
pub struct Round<'a> {
    /// The trail.
    pub store: &'a dyn Store,
    /// Who is trusted.
    pub gate: &'a Gate<'a>,
    /// The worker's key: it signs checkpoints and findings.
    pub signer: &'a dyn Signer,
    /// The same key, under the log's origin.
    pub key: VerifierKey,
    /// Writers that have to be there, beside those that an operator's statement names.
    pub expected: &'a Expected,
    /// Now.
    pub now: Time,
    /// Nothing is locked for longer.
    pub longest: Longest,
    /// Whether to come to an end: what there is by then is committed.
    pub stop: &'a dyn Fn() -> bool,
    /// Time-stamps that are carried on in this round.
    pub renewals: Vec<Renewal>,
}

/// What a worker remembers from one round to the next beside what the log holds. It may be lost.
#[derive(Default)]
pub struct Memory {
    judged: Judged,
    /// Where the search for missing headers goes on: a writer, and the number a range begins with.
    searched: Option<(String, u64)>,
    /// Where the look at what is logged already goes on: a writer, and the key before.
    patrolled: Option<(String, Option<String>)>,
}

impl Memory {
    /// Everything has to be judged again: who is trusted has changed.
    pub fn forget(&mut self) {
        self.judged.forget();
    }
}

/// What came of a round.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The newest checkpoint.
    pub newest: Option<Committed>,
    /// Entries that are new with it.
    pub appended: u64,
    /// What was found for the first time: the verdict and what it is about.
    pub findings: Vec<(Verdict, String)>,
    /// Objects under names of statements that were kept out: by key, and why; the first thousand.
    pub kept_out: BTreeMap<String, String>,
    /// How many there are.
    pub kept_out_count: u64,
    /// Objects under names that are trusted, which cannot be read: by key, and why; the first thousand. Nothing is said to be missing
    /// of a writer that has any.
    pub unreadable: BTreeMap<String, String>,
    /// Writers whose next header is overdue by their own word.
    pub silent: BTreeSet<String>,
    /// Names that have to have a writer, and have none.
    pub absent: BTreeSet<String>,
    /// Writers that have not retired.
    pub live: u64,
    /// What could not be done beside the log: the list of nodes read, a changed trust file, locks lengthened.
    pub complaints: Vec<String>,
    /// Locks that were lengthened.
    pub lengthened: u64,
    /// Whether it ended before it was done, because it was told to.
    pub stopped: bool,
}

/// What lies under a key.
#[derive(Default)]
struct Found {
    /// Versions that may be logged, of each payload one, the oldest first.
    entries: Vec<(Hash, Vec<u8>)>,
    /// Versions that are of nobody, and why the last is.
    foreign: Option<String>,
    /// Versions by keys that nothing vouches for, and why.
    untrusted: Option<String>,
}

/// Which statement a key is the name of.
#[derive(Clone, Copy)]
enum Named<'k> {
    Genesis(&'k str),
    Keys(&'k str, u64),
    Header(&'k str, u64),
    Statement(&'k str, &'k str),
}

impl<'k> Named<'k> {
    fn of(key: &'k str) -> Option<Named<'k>> {
        let (top, rest) = key.split_once('/')?;
        match top {
            "writers" => {
                let (writer, rest) = rest.split_once('/')?;
                name::split_writer(writer)?;
                match rest.strip_prefix("keys/") {
                    None => (rest == "genesis.json").then_some(Named::Genesis(writer)),
                    Some(file) => digits(file, 6).filter(|n| *n > 0).map(|n| Named::Keys(writer, n)),
                }
            }
            "batches" => {
                let (writer, file) = rest.split_once('/')?;
                name::split_writer(writer)?;
                digits(file, 12).map(|n| Named::Header(writer, n))
            }
            "statements" => {
                let (kind, file) = rest.split_once('/')?;
                let known = STATEMENTS.iter().any(|(k, _)| *k == kind);
                known.then_some(Named::Statement(kind, file.strip_suffix(".json")?))
            }
            _ => None,
        }
    }

    fn writer(self) -> Option<&'k str> {
        match self {
            Named::Genesis(w) | Named::Keys(w, _) | Named::Header(w, _) => Some(w),
            Named::Statement(..) => None,
        }
    }

    fn range(self) -> Option<[u64; 2]> {
        if let Named::Header(_, n) = self { Some([n, n]) } else { None }
    }
}

/// A version, as far as it was read.
enum Body {
    Bytes(Vec<u8>),
    /// It was looked at before: whether nothing vouches for it, rather than that it is no statement.
    Judged(bool),
    Unreadable,
    /// Gone since the listing, or too large: then it is no object.
    Gone,
}

/// A round that is under way.
struct Running<'r, 'a, 's> {
    round: &'r Round<'a>,
    known: &'r mut Known,
    memory: &'r mut Memory,
    log: Log<'s>,
    outcome: Outcome,
    findings: Vec<Finding>,
    /// Versions read that are nobody's: by writers that are logged, and all others.
    junk: (BTreeMap<String, u64>, u64),
    /// Writers of which something could not be read, or was put off: nothing is said to be missing of them.
    unsure: BTreeSet<String>,
    /// Writers whose key statements were looked for again.
    refreshed: BTreeSet<String>,
}

/// How long what a worker writes now is kept: as long as the headers in the log, and no less than the trail promises; but whatever
/// a header says, not longer than `longest`.
pub fn retain(trail: &Trail, known: &Known, now: Time, longest: Longest) -> Retain {
    let least = now.saturating_add_seconds(days(trail.min_retention));
    let until = known.retain_until.map_or(least, |t| t.clamp(least, longest.from(now).max(least)));
    Retain { lock: trail.lock, until: until.ceil_second() }
}

fn days(days: u64) -> i64 {
    i64::try_from(days).unwrap_or(i64::MAX / 86_400).saturating_mul(86_400)
}

/// The longest that a worker locks anything for, in seconds from now. One header, signed with one node's key, can ask for a
/// thousand years: the bucket's cap on retention would refuse everything that is locked like it, and where there is none, nobody
/// could ever take it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Longest(i64);

impl Longest {
    /// What is configured, or a month more than the trail promises, as the bucket's own cap has it.
    pub fn of(trail: &Trail, configured: Option<Duration>) -> Longest {
        let month = days(trail.min_retention.saturating_add(30));
        Longest(configured.map_or(month, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX)))
    }

    pub(crate) fn from(self, now: Time) -> Time {
        now.saturating_add_seconds(self.0)
    }
}

impl Round<'_> {
    fn retain(&self, known: &Known) -> Retain {
        retain(&self.gate.trail, known, self.now, self.longest)
    }

    /// Runs it. `known` is what the log held at `seen`; after an error both are as good as lost, and the round begins again from
    /// those that were kept.
    ///
    /// # Errors
    /// [`RoundError`].
    pub fn run(
        &self,
        known: &mut Known,
        memory: &mut Memory,
        seen: Option<&Committed>,
    ) -> Result<Outcome, RoundError> {
        let mut log = Log::open(self.store, self.key.clone(), self.retain(known), seen)?;
        if known.size > log.size() {
            *known = Known::default();
        }
        log.committed().entries(known.size, &mut |_, entry| {
            known.apply(entry);
            true
        })?;
        log.resume(&mut |_, entry| {
            let good = self.gate.entry(known, entry).is_ok();
            known.apply(entry);
            good
        })?;
        let before = log.committed().size();
        let mut running = Running {
            round: self,
            known,
            memory,
            log,
            outcome: Outcome::default(),
            findings: Vec::new(),
            junk: (BTreeMap::new(), 0),
            unsure: BTreeSet::new(),
            refreshed: BTreeSet::new(),
        };
        match running.look() {
            Err(RoundError::Stopped) => running.outcome.stopped = true,
            other => other?,
        }
        running.log_findings()?;
        for renewal in &self.renewals {
            // One that was stored and not logged has come with the others.
            if running.known.renewed.get(&renewal.not_after).is_none_or(|n| *n < renewal.through) {
                running.log_own(renewal)?;
            }
        }
        running.commit()?;
        let Running { log, mut outcome, known, .. } = running;
        outcome.newest = log.newest().cloned();
        outcome.appended = log.size() - before;
        outcome.live = known.writers.values().filter(|w| !w.retired).count() as u64;
        Ok(outcome)
    }
}

impl Running<'_, '_, '_> {
    fn look(&mut self) -> Result<(), RoundError> {
        if self.log.size() == 0 {
            self.append(&self.round.gate.envelope)?;
        }
        self.writers()?;
        self.headers()?;
        self.missing()?;
        self.patrol()?;
        self.statements()?;
        self.gaps();
        self.silence();
        Ok(())
    }

    fn append(&mut self, entry: &[u8]) -> Result<(), RoundError> {
        // As long as the headers below it.
        self.log.keep(self.round.retain(self.known));
        self.log.append(entry)?;
        self.known.apply(entry);
        if self.log.size() - self.log.committed().size() >= COMMIT_EVERY {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), RoundError> {
        let signer = self.round.signer;
        self.log.commit(|text| {
            let signature = signer.sign(text).map_err(|e| e.to_string())?;
            signature.try_into().map_err(|_| "not an Ed25519 signature".to_owned())
        })?;
        Ok(())
    }

    fn find(
        &mut self,
        verdict: Verdict,
        object: &str,
        writer: Option<&str>,
        range: Option<[u64; 2]>,
        detail: String,
    ) {
        let same = |f: &Finding| f.verdict == verdict.name() && f.object == object && f.range == range;
        let known = self.known.found.contains(&subject(verdict.name(), object, range));
        // What strangers put could make the log grow without end: these come in later rounds. What is said once only is not held up.
        let stranger = |v: &str| [Verdict::Foreign.name(), Verdict::Untrusted.name()].contains(&v);
        let full = stranger(verdict.name())
            && self.findings.iter().filter(|f| stranger(&f.verdict)).count() >= MAX_FINDINGS;
        if known || full || self.findings.iter().any(same) {
            return;
        }
        self.findings.push(Finding {
            format: statement::format_of::<Finding>(),
            trail: self.round.gate.id,
            verdict: verdict.name().to_owned(),
            object: object.to_owned(),
            writer: writer.map(str::to_owned),
            range,
            detail: short(&detail),
            found_at: self.round.now,
        });
    }

    fn keep_out(&mut self, key: &str, why: &str) {
        self.outcome.kept_out_count += 1;
        if self.outcome.kept_out.len() < MAX_NAMED {
            self.outcome.kept_out.insert(key.to_owned(), short(why));
        }
    }

    /// Something cannot be read: whoever may put can put what nobody here may read, and that must not stop all the others.
    fn unreadable(&mut self, key: &str, why: String) {
        let writer = Named::of(key).and_then(Named::writer);
        if writer.is_none_or(|w| self.known.writers.contains_key(w) || self.round.gate.knows(w)) {
            if self.outcome.unreadable.len() < MAX_NAMED {
                self.outcome.unreadable.insert(key.to_owned(), why);
            }
        } else {
            self.keep_out(key, &why);
        }
        self.unsure.extend(writer.map(str::to_owned));
    }

    /// How many key statements of a writer are known: with more, other versions are valid.
    fn keys_known(&self, named: Named<'_>) -> u64 {
        let known = named.writer().and_then(|w| self.known.writers.get(w));
        known.map_or(0, |w| w.keys.len() as u64)
    }

    /// Reads versions, but for those that are known to be nobody's.
    fn read(&mut self, all: &[(&Listed, &Slot)]) -> Result<Vec<Body>, RoundError> {
        let judged = |(listed, slot): &(&Listed, &Slot)| {
            let keys = self.keys_known(Named::of(&listed.key)?);
            self.memory.judged.get(&listed.key, slot.id.as_deref()?, keys)
        };
        let known: Vec<Option<bool>> = all.iter().map(judged).collect();
        let ats: Vec<At> = all
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|((l, s), _)| At { key: l.key.clone(), version: s.id.clone(), bytes: s.bytes })
            .collect();
        let mut bodies = self.round.store.read_all(&ats, MAX_ENVELOPE as u64).into_iter();
        let mut out = Vec::with_capacity(all.len());
        for ((listed, _), known) in all.iter().zip(known) {
            if let Some(untrusted) = known {
                out.push(Body::Judged(untrusted));
                continue;
            }
            out.push(match bodies.next().transpose() {
                Ok(object) => object.flatten().and_then(|o| o.body).map_or(Body::Gone, Body::Bytes),
                Err(e) if matches!(e.kind, Kind::Archived | Kind::Permission | Kind::Unreadable) => {
                    self.unreadable(&listed.key, e.to_string());
                    Body::Unreadable
                }
                Err(e) => return Err(e.into()),
            });
        }
        Ok(out)
    }

    /// Whether no more is read in this round under the name of its writer: then what has to follow it waits, too.
    fn is_put_off(&self, named: Named<'_>) -> bool {
        let Some(writer) = named.writer() else { return false };
        match self.known.writers.contains_key(writer) {
            true => self.junk.0.get(writer).is_some_and(|n| *n >= MAX_JUNK),
            false => self.junk.1 >= MAX_JUNK,
        }
    }

    fn put_off(&mut self, key: &str, named: Named<'_>) {
        self.unsure.extend(named.writer().map(str::to_owned));
        self.keep_out(key, "so much lies there that is nobody's that the rest waits for the next round");
    }

    /// Looks at objects, in their order, and logs what may be.
    fn objects(&mut self, piece: &[Listed]) -> Result<(), RoundError> {
        if (self.round.stop)() {
            return Err(RoundError::Stopped);
        }
        let mut now: Vec<(&Listed, Named<'_>)> = Vec::new();
        for listed in piece {
            match Named::of(&listed.key) {
                Some(named) if self.is_put_off(named) => self.put_off(&listed.key, named),
                Some(named) => now.push((listed, named)),
                None => {}
            }
        }
        // Those with few versions at once.
        let few = now.iter().filter(|(l, _)| l.versions.len() <= AHEAD);
        let all: Vec<(&Listed, &Slot)> =
            few.flat_map(|(l, _)| l.versions.iter().map(move |s| (*l, s))).collect();
        let mut bodies = self.read(&all)?.into_iter();
        for (listed, named) in now {
            let mut found = Found::default();
            if listed.others {
                found.foreign = Some("too large for an envelope, or one version of very many".to_owned());
            }
            if listed.versions.len() <= AHEAD {
                for (slot, body) in listed.versions.iter().zip(bodies.by_ref()) {
                    self.judge(named, listed, slot, body, &mut found)?;
                }
            } else {
                for slice in listed.versions.chunks(AHEAD) {
                    if self.is_put_off(named) {
                        self.put_off(&listed.key, named);
                        break;
                    }
                    let some: Vec<(&Listed, &Slot)> = slice.iter().map(|s| (listed, s)).collect();
                    for (slot, body) in slice.iter().zip(self.read(&some)?) {
                        self.judge(named, listed, slot, body, &mut found)?;
                    }
                }
            }
            self.take(named, &listed.key, found)?;
        }
        Ok(())
    }

    fn is(&self, named: Named<'_>, body: &[u8]) -> Result<Envelope, Out> {
        let gate = self.round.gate;
        match named {
            Named::Genesis(w) => gate.genesis(w, body),
            Named::Keys(w, n) => gate.keys(self.known, w, n, body),
            Named::Header(w, n) => gate.header(self.known, w, n, body),
            Named::Statement(kind, hash) => gate.statement(kind, hash, body),
        }
    }

    fn judge(
        &mut self,
        named: Named<'_>,
        listed: &Listed,
        slot: &Slot,
        body: Body,
        found: &mut Found,
    ) -> Result<(), RoundError> {
        let body = match body {
            Body::Bytes(body) => body,
            Body::Judged(untrusted) => {
                let why = "as in an earlier round".to_owned();
                *(if untrusted { &mut found.untrusted } else { &mut found.foreign }) = Some(why);
                return Ok(());
            }
            Body::Unreadable | Body::Gone => return Ok(()),
        };
        let mut is = self.is(named, &body);
        // Its writer may have changed its keys since they were listed.
        if let (Err(Out::Invalid(_)), Named::Header(writer, _)) = (&is, named)
            && self.refresh(writer)?
        {
            is = self.is(named, &body);
        }
        let untrusted = match is {
            Ok(envelope) => {
                let statement = envelope.statement_hash();
                let new = found.entries.iter().all(|(s, _)| *s != statement);
                if new && found.entries.len() < MAX_PAYLOADS {
                    found.entries.push((statement, body));
                }
                return Ok(());
            }
            Err(Out::Unread(why)) => {
                self.unreadable(&listed.key, why);
                return Ok(());
            }
            Err(Out::Invalid(why)) => {
                found.foreign = Some(why);
                false
            }
            Err(Out::Untrusted(why)) => {
                found.untrusted = Some(why);
                true
            }
        };
        if let Some(version) = &slot.id {
            self.memory.judged.insert(&listed.key, version, self.keys_known(named), untrusted);
        }
        match named.writer().filter(|w| self.known.writers.contains_key(*w)) {
            Some(w) => *self.junk.0.entry(w.to_owned()).or_default() += 1,
            None => self.junk.1 += 1,
        }
        Ok(())
    }

    /// Looks once for key statements of a writer that came since they were listed; whether there are any.
    fn refresh(&mut self, writer: &str) -> Result<bool, RoundError> {
        let Some(known) = self.known.writers.get(writer) else { return Ok(false) };
        let count = known.keys.len() as u64;
        if !self.refreshed.insert(writer.to_owned()) {
            return Ok(false);
        }
        let last = count.checked_sub(1).filter(|n| *n > 0).map(|n| name::keys_key(writer, n));
        let mut wanted = |key: &str, _| matches!(Named::of(key), Some(Named::Keys(_, n)) if n >= count);
        let prefix = format!("writers/{writer}/keys/");
        let store = self.round.store;
        each_piece(store, &prefix, last, usize::MAX, &mut wanted, &mut |p| self.objects(&p))?;
        Ok(self.known.writers.get(writer).is_some_and(|w| w.keys.len() as u64 > count))
    }

    /// The payload that the log has under a key, if it has one.
    fn logged(&self, named: Named<'_>, found: &Found) -> Option<Hash> {
        let writer = named.writer().and_then(|w| self.known.writers.get(w));
        match named {
            Named::Genesis(_) => writer.map(|w| w.genesis),
            Named::Keys(_, n) => {
                writer.and_then(|w| w.keys.get(usize::try_from(n).ok()?)).map(|k| k.statement)
            }
            Named::Header(_, n) => {
                let w = writer.filter(|w| w.has(n))?;
                // Of older ones the hash is not known here: the oldest valid one it is.
                let last = Some(w.last).filter(|_| n + 1 == w.next);
                last.or_else(|| found.entries.first().map(|(s, _)| *s))
            }
            Named::Statement(..) => None,
        }
    }

    /// Logs what was found, and says what is not as it should be.
    fn take(&mut self, named: Named<'_>, key: &str, found: Found) -> Result<(), RoundError> {
        let (writer, range) = (named.writer(), named.range());
        let mut first = self.logged(named, &found);
        let alone = found.entries.is_empty() && first.is_none();
        if let Named::Header(w, n) = named
            && first.is_none()
            && let (Some((_, body)), Some(known)) = (found.entries.first(), self.known.writers.get(w))
        {
            let header = Envelope::parse(body).ok().and_then(|e| valid::payload::<Batch>(&e).ok());
            let follows = header.is_none_or(|h| h.previous == known.last);
            let beyond = known.retired && known.last_batch.is_none_or(|last| n > last) && n >= known.next;
            if n == known.next && !follows {
                let detail = "`previous` is not the statement hash of the header before".to_owned();
                self.find(Verdict::Tampered, key, writer, range, detail);
            }
            if beyond {
                self.find(Verdict::Inconsistent, key, writer, range, "its writer had retired".to_owned());
            }
        }
        for (statement, body) in found.entries {
            if first.is_some_and(|f| f == statement) || self.known.others.contains(&statement) {
                continue;
            }
            if let Some(first) = first {
                let detail =
                    format!("two valid payloads: {first} came first, and {statement} says otherwise");
                self.find(Verdict::Fork, key, writer, range, detail);
            }
            self.append(&body)?;
            first.get_or_insert(statement);
        }
        if let Some(why) = found.foreign {
            // In a directory there is one file, and nobody can put the right one beside it.
            let damaged = alone && !self.round.store.has_versions();
            let verdict = if damaged { Verdict::Tampered } else { Verdict::Foreign };
            self.keep_out(key, &why);
            // Strangers' writers are nobody's business but theirs.
            if writer.is_none_or(|w| self.round.gate.knows(w) || self.known.writers.contains_key(w)) {
                self.find(verdict, key, writer, range, why);
            }
        }
        if let Some(why) = found.untrusted {
            self.keep_out(key, &why);
            if writer.is_none_or(|w| self.round.gate.knows(w)) {
                self.find(Verdict::Untrusted, key, writer, range, why);
            }
        }
        Ok(())
    }

    /// Genesis and key statements.
    fn writers(&mut self) -> Result<(), RoundError> {
        let store = self.round.store;
        let gate = self.round.gate;
        // What is logged needs no second look, unless something else lies beside it; and who is in no trust file none at all.
        let logged: BTreeMap<String, u64> =
            self.known.writers.iter().map(|(w, k)| (w.clone(), k.keys.len() as u64)).collect();
        let mut strangers: (u64, Vec<String>) = (0, Vec::new());
        let mut wanted = |key: &str, versions: usize| {
            let (writer, number) = match Named::of(key) {
                Some(Named::Genesis(w)) => (w, 0),
                Some(Named::Keys(w, n)) => (w, n),
                _ => return false,
            };
            let known = logged.get(writer);
            if known.is_none() && !gate.knows(writer) {
                strangers.0 += 1;
                if strangers.1.len() < MAX_NAMED {
                    strangers.1.push(key.to_owned());
                }
                return false;
            }
            versions > 1 || known.is_none_or(|n| number >= *n)
        };
        each_piece(store, "writers/", None, usize::MAX, &mut wanted, &mut |p| self.objects(&p))?;
        for key in &strangers.1 {
            self.keep_out(key, "the trust file has no entry for a writer of this name");
        }
        self.outcome.kept_out_count += strangers.0 - strangers.1.len() as u64;
        Ok(())
    }

    /// The headers of all writers that go on.
    fn headers(&mut self) -> Result<(), RoundError> {
        let store = self.round.store;
        let delay = i64::try_from(self.round.gate.trail.max_merge_delay).unwrap_or(i64::MAX);
        let now = self.round.now;
        let live = self.known.writers.iter().filter(|(_, w)| w.is_live(now, delay));
        let live: Vec<(String, u64)> = live.map(|(w, k)| (w.clone(), k.next)).collect();
        for (writer, next) in live {
            let after = next.checked_sub(1).map(|n| name::batch_key(&writer, n));
            let prefix = format!("batches/{writer}/");
            let mut wanted = |key: &str, _| matches!(Named::of(key), Some(Named::Header(_, n)) if n >= next);
            each_piece(store, &prefix, after, usize::MAX, &mut wanted, &mut |p| {
                // Behind what waits, everything would look like a gap.
                if self.is_put_off(Named::Header(&writer, next)) {
                    self.unsure.insert(writer.clone());
                    return Ok(());
                }
                self.objects(&p)
            })?;
        }
        Ok(())
    }

    /// Headers that were missing, and may have come: a range each page, in turn.
    fn missing(&mut self) -> Result<(), RoundError> {
        let all = self.known.writers.iter().flat_map(|(w, k)| k.missing.iter().map(move |r| (w.clone(), *r)));
        let mut ranges: Vec<(String, [u64; 2])> = all.collect();
        if let Some(from) = self.memory.searched.take() {
            let start = ranges.partition_point(|(w, [a, _])| (w, a) < (&from.0, &from.1));
            ranges.rotate_left(start);
        }
        let mut left = SEARCHED;
        for (writer, [a, b]) in ranges {
            let mut after = a.checked_sub(1).map(|n| name::batch_key(&writer, n));
            let end = name::batch_key(&writer, b);
            let prefix = if a == b { end.clone() } else { format!("batches/{writer}/") };
            let mut wanted =
                |key: &str, _| matches!(Named::of(key), Some(Named::Header(_, n)) if (a..=b).contains(&n));
            loop {
                if left == 0 {
                    let reached = after.as_deref().and_then(Named::of).and_then(Named::range);
                    self.memory.searched = Some((writer, reached.map_or(a, |r| r[0].max(a))));
                    return Ok(());
                }
                left -= 1;
                let store = self.round.store;
                after = each_piece(store, &prefix, after, 1, &mut wanted, &mut |p| self.objects(&p))?;
                if after.as_ref().is_none_or(|last| *last >= end) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// A second look at what is logged, a few pages in turn: a payload that was put beside one, and what a writer that has retired
    /// still writes.
    fn patrol(&mut self) -> Result<(), RoundError> {
        let store = self.round.store;
        let mut from = self.memory.patrolled.take();
        let mut first: Option<String> = None;
        for _ in 0..PATROLLED {
            let (writer, after) = match from.take() {
                Some((writer, Some(after))) => (writer, Some(after)),
                other => {
                    let behind = other.map(|(writer, _)| writer);
                    let mut next = self.known.writers.keys();
                    let next = match &behind {
                        Some(b) => next.find(|w| *w > b),
                        None => next.next(),
                    };
                    let Some(writer) = next.or_else(|| self.known.writers.keys().next()).cloned() else {
                        return Ok(());
                    };
                    if first.as_ref() == Some(&writer) {
                        from = behind.map(|b| (b, None));
                        break;
                    }
                    first.get_or_insert_with(|| writer.clone());
                    (writer, None)
                }
            };
            let Some(known) = self.known.writers.get(&writer) else { continue };
            let (next, has) = (known.next, known.clone());
            let found = &self.known.found;
            let mut wanted = |key: &str, versions: usize| match Named::of(key) {
                Some(Named::Header(_, n)) if n >= next => true,
                Some(Named::Header(_, n)) => {
                    let fork = || subject(Verdict::Fork.name(), key, Some([n, n]));
                    versions > 1 && has.has(n) && !found.contains(&fork())
                }
                _ => false,
            };
            let mut pieces = Vec::new();
            let prefix = format!("batches/{writer}/");
            let last = each_piece(store, &prefix, after, 1, &mut wanted, &mut |p| {
                pieces.push(p);
                Ok::<(), RoundError>(())
            })?;
            pieces.iter().try_for_each(|p| self.objects(p))?;
            from = Some((writer, last));
        }
        self.memory.patrolled = from;
        Ok(())
    }

    /// What lies under `statements/`.
    fn statements(&mut self) -> Result<(), RoundError> {
        let store = self.round.store;
        let logged = self.known.others.clone();
        let mut wanted = |key: &str, _| match Named::of(key) {
            Some(Named::Statement(_, hash)) => Hash::from_hex(hash).is_some_and(|h| !logged.contains(&h)),
            _ => false,
        };
        each_piece(store, "statements/", None, usize::MAX, &mut wanted, &mut |p| self.objects(&p))?;
        Ok(())
    }

    /// Numbers that are missing and that no finding names yet.
    fn gaps(&mut self) {
        let covered = |gaps: &[[u64; 2]], [a, b]: [u64; 2]| gaps.iter().any(|[c, d]| *c <= a && b <= *d);
        let mut all = Vec::new();
        for (writer, known) in self.known.writers.iter().filter(|(w, _)| !self.unsure.contains(*w)) {
            let new = known.missing.iter().filter(|r| !covered(&known.gaps, **r));
            all.extend(new.map(|r| (writer.clone(), *r)));
        }
        for (writer, range) in all {
            let detail = format!("headers {} to {} are missing below one that is there", range[0], range[1]);
            let object = name::batch_key(&writer, range[0]);
            if self.is_there(&object) || self.is_there(&name::batch_key(&writer, range[1])) {
                continue;
            }
            self.find(Verdict::Gap, &object, Some(&writer), Some(range), detail);
        }
    }

    /// Whether something is under a key, or nobody can say: listings of some servers are behind, and what is signed stays.
    fn is_there(&self, key: &str) -> bool {
        !matches!(self.round.store.head(&At::key(key)), Ok(None))
    }

    /// Who should have been heard of.
    fn silence(&mut self) {
        // Two clocks are compared.
        let now = self.round.now.saturating_add_seconds(-SKEW);
        let silent: Vec<(String, u64, Time)> = self
            .known
            .writers
            .iter()
            .filter(|(writer, w)| !w.retired && !self.unsure.contains(*writer))
            .filter_map(|(writer, w)| Some((writer.clone(), w.next, w.next_by.filter(|t| *t < now)?)))
            .collect();
        for (writer, next, next_by) in silent {
            let (object, range) = match next.checked_sub(1) {
                Some(last) => (name::batch_key(&writer, last), Some([last, last])),
                None => (name::genesis_key(&writer), None),
            };
            let is_new = !self.known.found.contains(&subject(Verdict::Silent.name(), &object, range));
            if is_new && self.is_there(&name::batch_key(&writer, next)) {
                continue;
            }
            let detail = format!("the next header was promised by {next_by}; there is none");
            self.find(Verdict::Silent, &object, Some(&writer), range, detail);
            self.outcome.silent.insert(writer);
        }
        let live = self.known.live_names();
        let (stated, own) = (&self.known.expected, self.round.expected);
        let ephemeral =
            |name: &str| stated.ephemeral.iter().chain(&own.ephemeral).any(|g| name::glob_matches(g, name));
        let absent: BTreeSet<String> = stated
            .names
            .iter()
            .chain(&own.names)
            .filter(|n| !live.contains(&n[..]) && !ephemeral(n))
            .cloned()
            .collect();
        for name in &absent {
            let detail = format!("{name} is expected, and no writer of this name goes on");
            // Once after each that has gone on.
            let last = self.known.last_epoch(name).map(str::to_owned);
            let object = last.as_ref().map_or_else(|| format!("writers/{name}"), |w| name::genesis_key(w));
            self.find(Verdict::Silent, &object, last.as_deref(), None, detail);
        }
        self.outcome.absent = absent;
    }

    /// A statement of the worker's own: stored, and logged.
    fn log_own<P: Payload>(&mut self, payload: &P) -> Result<(), RoundError> {
        let mut envelope = statement::unsigned(payload);
        let signer = self.round.signer;
        let bytes = signer.sign(&envelope.signed_bytes())?;
        envelope.signatures = vec![Signature { key: signer.public().id(), bytes }];
        let bytes = envelope.to_bytes().map_err(|e| RoundError::Statement(P::KIND, e.to_string()))?;
        let key = name::statement_key(P::KIND, &envelope.statement_hash());
        let body = Bytes::from(bytes);
        let retain = self.round.retain(self.known);
        let put = self.round.store.put_if_absent(&key, &body, &sha256(&body), &retain)?;
        if put == Put::Other
            && self.round.store.put_beside(&key, &body, &sha256(&body), &retain)? == Put::Other
        {
            return Err(RoundError::Occupied(key));
        }
        self.append(&body)
    }

    /// Findings are logged in the round that found them.
    fn log_findings(&mut self) -> Result<(), RoundError> {
        for finding in std::mem::take(&mut self.findings) {
            let verdict =
                serde_json::from_value(finding.verdict.clone().into()).unwrap_or(Verdict::Inconsistent);
            // A round that was stopped had stored it already.
            if self.known.found.contains(&subject(&finding.verdict, &finding.object, finding.range)) {
                continue;
            }
            self.log_own(&finding)?;
            self.outcome.findings.push((verdict, finding.object));
        }
        Ok(())
    }
}

/// What is wrong, without the text that a stranger may have put into it at length.
fn short(why: &str) -> String {
    why.chars().take(300).collect()
}

fn digits(file: &str, count: usize) -> Option<u64> {
    name::number(file.strip_suffix(".json")?, count)
}
