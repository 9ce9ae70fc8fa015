//! A round: what is new in the store goes into the log, in the order genesis and key statements, headers by writer and number,
//! other statements (FORMAT section 6); what is not as it should be becomes a finding; a checkpoint commits it all.
//!
//! It asks the store for one page of a listing for each writer that has not retired, for the pages of `writers/` and
//! `statements/` (a thousand keys each), and for each new object once. Of what a writer wrote before, nothing is read again.

use crate::gate::{Gate, Out};
use crate::known::{Expected, Known, subject};
use crate::log::{Log, LogError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use waxseal_log::Committed;
use waxseal_signing::{Signer, SignerError};
use waxseal_store::{At, Kind, Mark, Put, Retain, Store, StoreError, Version};
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE, Signature};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::log::note::VerifierKey;
use waxseal_trail::name;
use waxseal_trail::statement::{self, Batch, Finding, Payload as _, Trail};
use waxseal_trail::time::Time;
use waxseal_trail::valid::{self, STATEMENTS};
use waxseal_trail::verdict::Verdict;

/// So many objects are read at once.
const AHEAD: usize = 128;
/// So many numbers of a writer that were missing are looked for again in a round, and so many of all.
const SEARCHED: (usize, usize) = (16, 256);
/// So many findings about what strangers put are logged in a round.
const MAX_FINDINGS: usize = 1000;

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
    #[error("{0} is there with other bytes")]
    Occupied(String),
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
    /// Objects under names of statements that were kept out: by key, and why.
    pub kept_out: BTreeMap<String, String>,
    /// Writers whose next header is overdue by their own word.
    pub silent: BTreeSet<String>,
    /// Names that have to have a writer, and have none.
    pub absent: BTreeSet<String>,
    /// Writers that have not retired.
    pub live: u64,
    /// Why the list of nodes could not be read: then nobody in it is missed.
    pub unread: Option<String>,
}

/// A key that a listing shows, and its versions, the oldest first; no delete markers.
struct Listed {
    key: String,
    versions: Vec<Version>,
}

/// All keys under a prefix behind `after`, those too that a delete marker hides, in chunks.
fn each_chunk(
    store: &dyn Store,
    prefix: &str,
    after: Option<String>,
    wanted: &mut dyn FnMut(&str, usize) -> bool,
    each: &mut dyn FnMut(Vec<Listed>) -> Result<(), RoundError>,
) -> Result<(), RoundError> {
    let mut mark = after.map(|key| Mark { key, version: None });
    let mut chunk: Vec<Listed> = Vec::new();
    let mut open: Option<Listed> = None;
    let mut close = |open: &mut Option<Listed>, chunk: &mut Vec<Listed>| {
        if let Some(mut listed) = open.take() {
            listed.versions.reverse();
            listed.versions.retain(|v| !v.delete_marker);
            if !listed.versions.is_empty() && wanted(&listed.key, listed.versions.len()) {
                chunk.push(listed);
            }
        }
    };
    loop {
        let page = store.list_versions(prefix, mark.as_ref())?;
        for v in page.versions {
            if open.as_ref().is_none_or(|o| o.key != v.key) {
                close(&mut open, &mut chunk);
                if chunk.len() >= AHEAD {
                    each(std::mem::take(&mut chunk))?;
                }
                open = Some(Listed { key: v.key.clone(), versions: Vec::new() });
            }
            if let Some(o) = &mut open {
                o.versions.push(v);
            }
        }
        match page.next {
            Some(next) if mark.as_ref() == Some(&next) => {
                let why = std::io::Error::other("the listing does not move on");
                return Err(StoreError::new("list", prefix, Kind::Unavailable, why).into());
            }
            Some(next) => mark = Some(next),
            None => break,
        }
    }
    close(&mut open, &mut chunk);
    if chunk.is_empty() { Ok(()) } else { each(chunk) }
}

/// What lies under a key: the versions that may be logged, of each payload one, the oldest first.
struct Judged {
    entries: Vec<(Hash, Vec<u8>)>,
    /// Versions that are of nobody, and why the last is.
    foreign: Option<String>,
    /// Versions by keys that nothing vouches for, and why.
    untrusted: Option<String>,
}

/// A round that is under way.
struct Running<'r, 'a, 's> {
    round: &'r Round<'a>,
    known: &'r mut Known,
    log: Log<'s>,
    outcome: Outcome,
    findings: Vec<Finding>,
}

/// How long what a worker writes now is kept: as long as the headers in the log, and no less than the trail promises.
pub fn retain(trail: &Trail, known: &Known, now: Time) -> Retain {
    let days = i64::try_from(trail.min_retention).unwrap_or(i64::MAX / 86_400);
    let least = now.saturating_add_seconds(days.saturating_mul(86_400));
    let until = known.retain_until.map_or(least, |t| t.max(least));
    Retain { lock: trail.lock, until: until.ceil_second() }
}

impl Round<'_> {
    fn retain(&self, known: &Known) -> Retain {
        retain(&self.gate.trail, known, self.now)
    }

    /// Runs it. `known` is what the log held at `seen`; after an error both are as good as lost, and the round begins again from
    /// those that were kept.
    ///
    /// # Errors
    /// [`RoundError`].
    pub fn run(&self, known: &mut Known, seen: Option<&Committed>) -> Result<Outcome, RoundError> {
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
        let (outcome, findings) = (Outcome::default(), Vec::new());
        let before = log.committed().size();
        let mut running = Running { round: self, known, log, outcome, findings };
        if running.log.size() == 0 {
            running.append(&self.gate.envelope)?;
        }
        running.writers()?;
        running.headers()?;
        running.missing()?;
        running.statements()?;
        running.silence();
        running.log_findings()?;
        let Running { mut log, mut outcome, known, .. } = running;
        let sign = |text: &[u8]| {
            let signature = self.signer.sign(text).map_err(|e| e.to_string())?;
            signature.try_into().map_err(|_| "not an Ed25519 signature".to_owned())
        };
        outcome.newest = log.commit(sign)?.cloned();
        outcome.appended = log.size() - before;
        outcome.live = known.writers.values().filter(|w| !w.retired).count() as u64;
        Ok(outcome)
    }
}

impl Running<'_, '_, '_> {
    fn append(&mut self, entry: &[u8]) -> Result<(), RoundError> {
        // As long as the headers below it.
        self.log.keep(self.round.retain(self.known));
        self.log.append(entry)?;
        self.known.apply(entry);
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

    /// The bodies of all versions in a chunk, read at once: of each key those that are not too large.
    fn read(&mut self, chunk: &[Listed]) -> Result<Vec<Vec<Vec<u8>>>, RoundError> {
        let limit = MAX_ENVELOPE as u64;
        let small = |v: &&Version| v.bytes.is_none_or(|n| n <= limit);
        let ats: Vec<At> = chunk
            .iter()
            .flat_map(|l| l.versions.iter().filter(small))
            .map(|v| At { key: v.key.clone(), version: v.id.clone(), bytes: v.bytes })
            .collect();
        let mut bodies = self.round.store.read_all(&ats, limit).into_iter();
        let mut all = Vec::new();
        for listed in chunk {
            let mut of_key = Vec::new();
            for _ in listed.versions.iter().filter(small) {
                match bodies.next().transpose() {
                    // Gone since the listing, or too large: then it is no object.
                    Ok(object) => of_key.extend(object.flatten().and_then(|o| o.body)),
                    // Whoever may put can put what nobody here may read; that must not stop all the others.
                    Err(e) if matches!(e.kind, Kind::Archived | Kind::Permission) => {
                        self.outcome.kept_out.insert(listed.key.clone(), e.to_string());
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            all.push(of_key);
        }
        Ok(all)
    }

    fn judge(bodies: Vec<Vec<u8>>, is: &dyn Fn(&[u8]) -> Result<Envelope, Out>) -> Judged {
        let mut judged = Judged { entries: Vec::new(), foreign: None, untrusted: None };
        for body in bodies {
            match is(&body) {
                Ok(envelope) => {
                    let statement = envelope.statement_hash();
                    if judged.entries.iter().all(|(s, _)| *s != statement) {
                        judged.entries.push((statement, body));
                    }
                }
                Err(Out::Invalid(why)) => judged.foreign = Some(why),
                Err(Out::Untrusted(why)) => judged.untrusted = Some(why),
            }
        }
        judged
    }

    /// Logs what was judged, and says what is not as it should be. `first` is the one that the log has already.
    fn take(
        &mut self,
        key: &str,
        writer: Option<&str>,
        range: Option<[u64; 2]>,
        judged: Judged,
        first: Option<Hash>,
    ) -> Result<(), RoundError> {
        let alone = judged.entries.is_empty() && first.is_none();
        let mut first = first;
        for (statement, body) in judged.entries {
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
        if let Some(why) = judged.foreign {
            // In a directory there is one file, and nobody can put the right one beside it.
            let damaged = alone && !self.round.store.has_versions();
            let verdict = if damaged { Verdict::Tampered } else { Verdict::Foreign };
            self.outcome.kept_out.insert(key.to_owned(), short(&why));
            // Strangers' writers are nobody's business but theirs.
            if writer.is_none_or(|w| self.round.gate.knows(w) || self.known.writers.contains_key(w)) {
                self.find(verdict, key, writer, range, why);
            }
        }
        if let Some(why) = judged.untrusted {
            self.outcome.kept_out.insert(key.to_owned(), short(&why));
            if writer.is_none_or(|w| self.round.gate.knows(w)) {
                self.find(Verdict::Untrusted, key, writer, range, why);
            }
        }
        Ok(())
    }

    /// Genesis and key statements.
    fn writers(&mut self) -> Result<(), RoundError> {
        let store = self.round.store;
        // What is logged needs no second look, unless something else lies beside it.
        let logged: BTreeMap<String, u64> =
            self.known.writers.iter().map(|(w, k)| (w.clone(), k.keys.len() as u64)).collect();
        let mut wanted = |key: &str, versions: usize| match writer_key(key) {
            Some((writer, number)) => versions > 1 || logged.get(writer).is_none_or(|n| number >= *n),
            None => false,
        };
        each_chunk(store, "writers/", None, &mut wanted, &mut |chunk| {
            let bodies = self.read(&chunk)?;
            for (listed, bodies) in chunk.iter().zip(bodies) {
                let Some((writer, number)) = writer_key(&listed.key) else { continue };
                let gate = self.round.gate;
                let (judged, first) = if number == 0 {
                    let known = self.known.writers.get(writer).map(|w| w.genesis);
                    (Self::judge(bodies, &|b| gate.genesis(writer, b)), known)
                } else {
                    let before = self.known.writers.get(writer);
                    let known = before.and_then(|w| w.keys.get(usize::try_from(number).ok()?));
                    let known = known.map(|k| k.statement);
                    (Self::judge(bodies, &|b| gate.keys(self.known, writer, number, b)), known)
                };
                self.take(&listed.key, Some(writer), None, judged, first)?;
            }
            Ok(())
        })
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
            let mut wanted = |key: &str, _| batch_number(key, &writer).is_some_and(|n| n >= next);
            each_chunk(store, &prefix, after, &mut wanted, &mut |chunk| {
                let bodies = self.read(&chunk)?;
                for (listed, bodies) in chunk.iter().zip(bodies) {
                    let Some(batch) = batch_number(&listed.key, &writer) else { continue };
                    self.header(&writer, batch, &listed.key, bodies)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn header(
        &mut self,
        writer: &str,
        batch: u64,
        key: &str,
        bodies: Vec<Vec<u8>>,
    ) -> Result<(), RoundError> {
        let gate = self.round.gate;
        let judged = Self::judge(bodies, &|b| gate.header(self.known, writer, batch, b));
        let Some(known) = self.known.writers.get(writer) else { return Ok(()) };
        if let Some((_, body)) = judged.entries.first() {
            if batch > known.next {
                let range = [known.next, batch - 1];
                let detail =
                    format!("headers {} to {} are missing below one that is there", range[0], range[1]);
                let object = name::batch_key(writer, range[0]);
                self.find(Verdict::Gap, &object, Some(writer), Some(range), detail);
            } else if batch == known.next
                && let Some(header) =
                    Envelope::parse(body).ok().and_then(|e| valid::payload::<Batch>(&e).ok())
                && header.previous != known.last
            {
                let detail = "`previous` is not the statement hash of the header before".to_owned();
                self.find(Verdict::Tampered, key, Some(writer), Some([batch, batch]), detail);
            }
        }
        self.take(key, Some(writer), Some([batch, batch]), judged, None)
    }

    /// Headers that were missing, and may have come.
    fn missing(&mut self) -> Result<(), RoundError> {
        let numbers = self.known.writers.iter().flat_map(|(w, k)| {
            let missing = k.missing.iter().flat_map(|[a, b]| *a..=*b).take(SEARCHED.0);
            missing.map(move |n| (w.clone(), n))
        });
        let numbers: Vec<(String, u64)> = numbers.take(SEARCHED.1).collect();
        for (writer, batch) in numbers {
            let key = name::batch_key(&writer, batch);
            let versions = self.round.store.versions(&key)?;
            let versions: Vec<Version> = versions.into_iter().filter(|v| !v.delete_marker).collect();
            if versions.is_empty() {
                continue;
            }
            let listed = Listed { key, versions };
            let bodies = self.read(std::slice::from_ref(&listed))?.pop().unwrap_or_default();
            self.header(&writer, batch, &listed.key, bodies)?;
        }
        Ok(())
    }

    /// What lies under `statements/`.
    fn statements(&mut self) -> Result<(), RoundError> {
        let store = self.round.store;
        let logged = self.known.others.clone();
        let mut wanted = |key: &str, _| {
            statement_key(key)
                .is_some_and(|(_, hash)| Hash::from_hex(hash).is_some_and(|h| !logged.contains(&h)))
        };
        each_chunk(store, "statements/", None, &mut wanted, &mut |chunk| {
            let bodies = self.read(&chunk)?;
            for (listed, bodies) in chunk.iter().zip(bodies) {
                let Some((kind, hash)) = statement_key(&listed.key) else { continue };
                let gate = self.round.gate;
                let judged = Self::judge(bodies, &|b| gate.statement(kind, hash, b));
                self.take(&listed.key, None, None, judged, None)?;
            }
            Ok(())
        })
    }

    /// Who should have been heard of.
    fn silence(&mut self) {
        let now = self.round.now;
        let silent: Vec<(String, u64, Time)> = self
            .known
            .writers
            .iter()
            .filter(|(_, w)| !w.retired)
            .filter_map(|(writer, w)| Some((writer.clone(), w.next, w.next_by.filter(|t| *t < now)?)))
            .collect();
        for (writer, next, next_by) in silent {
            let (object, range) = match next.checked_sub(1) {
                Some(last) => (name::batch_key(&writer, last), Some([last, last])),
                None => (name::genesis_key(&writer), None),
            };
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
            self.find(Verdict::Silent, &format!("writers/{name}"), None, None, detail);
        }
        self.outcome.absent = absent;
    }

    /// Findings are statements of the worker: stored, and logged in the round that found them.
    fn log_findings(&mut self) -> Result<(), RoundError> {
        for finding in std::mem::take(&mut self.findings) {
            let verdict =
                serde_json::from_value(finding.verdict.clone().into()).unwrap_or(Verdict::Inconsistent);
            // A round that was stopped had stored it already.
            if self.known.found.contains(&subject(&finding.verdict, &finding.object, finding.range)) {
                continue;
            }
            let mut envelope = statement::unsigned(&finding);
            let signer = self.round.signer;
            let bytes = signer.sign(&envelope.signed_bytes())?;
            envelope.signatures = vec![Signature { key: signer.public().id(), bytes }];
            let Ok(bytes) = envelope.to_bytes() else { continue };
            let key = name::statement_key(Finding::KIND, &envelope.statement_hash());
            let body = Bytes::from(bytes);
            let retain = self.round.retain(self.known);
            let put = self.round.store.put_if_absent(&key, &body, &sha256(&body), &retain)?;
            if put == Put::Other
                && self.round.store.put_beside(&key, &body, &sha256(&body), &retain)? == Put::Other
            {
                return Err(RoundError::Occupied(key));
            }
            self.append(&body)?;
            self.outcome.findings.push((verdict, finding.object));
        }
        Ok(())
    }
}

/// What is wrong, without the text that a stranger may have put into it at length.
fn short(why: &str) -> String {
    why.chars().take(300).collect()
}

/// The writer of a genesis (number 0) or a key statement, and its number.
fn writer_key(key: &str) -> Option<(&str, u64)> {
    let rest = key.strip_prefix("writers/")?;
    let (writer, rest) = rest.split_once('/')?;
    name::split_writer(writer)?;
    let number = match rest.strip_prefix("keys/") {
        None => (rest == "genesis.json").then_some(0)?,
        Some(file) => digits(file, 6).filter(|n| *n > 0)?,
    };
    Some((writer, number))
}

fn batch_number(key: &str, writer: &str) -> Option<u64> {
    digits(key.strip_prefix("batches/")?.strip_prefix(writer)?.strip_prefix('/')?, 12)
}

fn statement_key(key: &str) -> Option<(&str, &str)> {
    let (kind, file) = key.strip_prefix("statements/")?.split_once('/')?;
    let known = STATEMENTS.iter().any(|(k, _)| *k == kind);
    known.then_some((kind, file.strip_suffix(".json")?))
}

fn digits(file: &str, count: usize) -> Option<u64> {
    name::number(file.strip_suffix(".json")?, count)
}
