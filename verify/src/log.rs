//! The log, as a verifier reads it (FORMAT section 6): is what the checkpoints say true, does one extend the other and all
//! memories outside the store, and what has been logged.

use crate::{Anchor, Session, chains};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use waxseal_ethereum::receipt::Receipt;
use waxseal_log::{Committed, NEWEST, ReadError, Reader, checkpoint, checkpoint_key};
use waxseal_store::{At, Version};
use waxseal_timestamp::{Stamp, verify};
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::log::checkpoint::Checkpoint;
use waxseal_trail::log::note::{Kind, MAX_NOTE, VerifierKey};
use waxseal_trail::log::tile::{Tile, WIDTH};
use waxseal_trail::merkle::TreeHead;
use waxseal_trail::name;
use waxseal_trail::time::Time;
use waxseal_trail::valid::{self, Place};
use waxseal_trail::verdict::{Finding, Verdict};

/// So many versions of the copy of the newest checkpoint are looked at.
const NEWEST_COPIES: usize = 16;
/// So many bundles of entries are read at once from a store that is far away.
const BUNDLES_AHEAD: u64 = 16;
/// So many findings of one kind about entries are listed.
const MOST: usize = 100;

/// What somebody outside the store remembers of the log.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Who, for people: `--checkpoint FILE`, the state that a verifier kept.
    pub what: String,
    /// The checkpoint, a signed note, or a time-stamp over it (RFC 3161, DER); or why it cannot be had.
    pub checkpoint: Result<Vec<u8>, String>,
    /// When it was seen, where that is known.
    pub at: Option<Time>,
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    pub(crate) statement: Hash,
    /// SHA-256 of the envelope.
    pub(crate) digest: Hash,
}

/// What has been logged of a writer.
#[derive(Default)]
pub(crate) struct OfWriter {
    genesis: Option<Entry>,
    keys: BTreeMap<u64, Entry>,
    batches: BTreeMap<u64, Entry>,
}

/// What has been logged.
#[derive(Default)]
pub(crate) struct Logged {
    trail: Option<Entry>,
    writers: HashMap<String, OfWriter>,
    /// By their keys.
    statements: BTreeMap<String, Entry>,
    /// What came second under a key, with another payload.
    second: BTreeMap<String, Vec<Entry>>,
    /// Digests of envelopes that were logged before their key was revoked.
    pub(crate) stands: BTreeSet<Hash>,
}

impl Logged {
    /// The first entry that belongs under a key.
    pub(crate) fn at(&self, key: &str) -> Option<Entry> {
        let mut parts = key.splitn(3, '/');
        match (parts.next()?, parts.next(), parts.next()) {
            ("trail.json", None, None) => self.trail,
            ("writers", Some(w), Some("genesis.json")) => self.writers.get(w)?.genesis,
            ("writers", Some(w), Some(rest)) => {
                let number = name::number(rest.strip_prefix("keys/")?.strip_suffix(".json")?, 6)?;
                self.writers.get(w)?.keys.get(&number).copied()
            }
            ("batches", Some(w), Some(file)) => {
                self.writers.get(w)?.batches.get(&name::number(file.strip_suffix(".json")?, 12)?).copied()
            }
            ("statements", ..) => self.statements.get(key).copied(),
            _ => None,
        }
    }

    /// What else belongs there.
    pub(crate) fn second(&self, key: &str) -> &[Entry] {
        self.second.get(key).map_or(&[], Vec::as_slice)
    }

    /// Writers that have anything in it.
    pub(crate) fn writers(&self) -> impl Iterator<Item = &String> {
        self.writers.keys()
    }

    /// The number of a writer's last key statement, and of its last header.
    pub(crate) fn last(&self, writer: &str) -> (Option<u64>, Option<u64>) {
        let Some(w) = self.writers.get(writer) else { return (None, None) };
        (w.keys.keys().last().copied(), w.batches.keys().last().copied())
    }

    /// The number of a writer's next header from `number` on.
    pub(crate) fn next(&self, writer: &str, number: u64) -> Option<u64> {
        self.writers.get(writer)?.batches.range(number..).next().map(|(n, _)| *n)
    }

    /// The keys of statements under `statements/`.
    pub(crate) fn statements(&self) -> impl Iterator<Item = &String> {
        self.statements.keys()
    }

    fn insert(&mut self, place: &Place, entry: Entry) {
        let key = place.key(&entry.statement);
        let first = match place {
            Place::Trail => self.trail.get_or_insert(entry),
            Place::Genesis(w) => self.writers.entry(w.clone()).or_default().genesis.get_or_insert(entry),
            Place::Keys(w, n) => self.writers.entry(w.clone()).or_default().keys.entry(*n).or_insert(entry),
            Place::Batch(w, n) => {
                self.writers.entry(w.clone()).or_default().batches.entry(*n).or_insert(entry)
            }
            Place::Statement(_) => self.statements.entry(key.clone()).or_insert(entry),
        };
        // A repeated entry is harmless.
        if first.statement != entry.statement {
            let second = self.second.entry(key).or_default();
            if second.len() < MOST {
                second.push(entry);
            }
        }
    }
}

/// What was read of the log.
pub(crate) struct Log<'a> {
    pub(crate) logged: Logged,
    /// The numbered checkpoints.
    pub(crate) chain: Vec<Committed>,
    /// Whether it extends every memory, and every checkpoint that the log signed.
    pub(crate) extends: bool,
    /// Memories with a time, and whose they are.
    pub(crate) remembered: Vec<(Time, String)>,
    /// `None` before the first checkpoint.
    reader: Option<Reader<'a>>,
}

impl Log<'_> {
    /// An entry's bytes.
    pub(crate) fn entry(&self, index: u64) -> Option<Vec<u8>> {
        let mut found = None;
        let read = self.reader.as_ref()?.entries(index, &mut |_, entry| {
            found = Some(entry.to_vec());
            false
        });
        read.ok().and(found)
    }

    /// The newest checkpoint.
    pub(crate) fn newest(&self) -> Option<&Committed> {
        self.reader.as_ref()?.newest()
    }
}

/// The log's key: the trust file's, or one of the workers that the trail itself names.
pub(crate) fn key(session: &Session<'_>) -> Result<Option<VerifierKey>, String> {
    match &session.options.anchor {
        Anchor::File(trust) => {
            let Some(log) = &trust.log else { return Ok(None) };
            let key = VerifierKey::parse(log).map_err(|e| format!("the trust file's log: {e}"))?;
            if key.kind() != Kind::Note {
                return Err("the trust file's log: a witness's key".to_owned());
            }
            let origin = session.trail.as_ref().map(|t| t.log_origin(&session.trail_id));
            match origin.filter(|o| o != key.name()) {
                Some(origin) => {
                    Err(format!("the trust file's log is {}; this trail's is {origin}", key.name()))
                }
                None => Ok(Some(key)),
            }
        }
        Anchor::Embedded => {
            let keys = session.trail.as_ref().map_or_else(Vec::new, |t| t.log_keys(&session.trail_id));
            for key in keys {
                if checkpoint(session.store, &key, 0, 0).map_err(|e| e.to_string())?.is_some() {
                    return Ok(Some(key));
                }
            }
            Ok(None)
        }
    }
}

/// A checkpoint that the log signed, as it lies there.
struct Signed {
    place: String,
    checkpoint: Checkpoint,
    bytes: Vec<u8>,
}

/// What somebody has said of the log: it has to be over a prefix of the newest checkpoint.
struct Said {
    /// Who.
    what: String,
    place: String,
    checkpoint: Checkpoint,
}

impl Said {
    /// Says so if the first entries have another root; whether they have not.
    fn check(self, session: &Session<'_>, head: &TreeHead) -> bool {
        if self.checkpoint.root == head.root() {
            return true;
        }
        let (what, size) = (self.what, self.checkpoint.size);
        let detail = format!("{what} has said {size} entries of which the newest checkpoint is no extension");
        session.find(Finding::new(Verdict::Rollback, detail).at(self.place));
        false
    }
}

/// Reads the log: `keys` are all keys under `log/`. `None` if it cannot be judged what was logged, which was said then.
pub(crate) fn read<'a>(session: &Session<'a>, key: &VerifierKey, keys: &[String]) -> Option<Log<'a>> {
    let (chain, strays) = checkpoints(session, key, keys);
    let mut reader = None;
    let mut broken = false;
    for committed in chain.iter().rev() {
        match Reader::open(session.store, Some(committed.clone())) {
            Ok(r) => {
                reader = Some(r);
                break;
            }
            Err(e) => {
                broken = true;
                session.find(damage(&e));
            }
        }
    }
    let size = reader.as_ref().map_or(0, Reader::size);
    // Everything that was signed or remembered and is not the newest: a prefix of it, or the log has been told otherwise.
    let mut said: Vec<Said> = Vec::new();
    let newest = reader.as_ref().and_then(|r| r.newest()).map(|n| n.number);
    for c in chain.iter().filter(|c| Some(c.number) < newest) {
        let (what, place) = (format!("checkpoint {}", c.number), checkpoint_key(c.number));
        said.push(Said { what, place, checkpoint: c.checkpoint.clone() });
    }
    let stray = |s: Signed| Said { what: "the log".to_owned(), place: s.place, checkpoint: s.checkpoint };
    said.extend(strays.into_iter().map(stray));
    let mut extends = true;
    let mut remembered = Vec::new();
    for memory in &session.options.memories {
        let what = &memory.what;
        let opened = memory.checkpoint.clone();
        // A time-stamp is a memory, too: of a checkpoint that there has to be.
        if let Ok(token) = opened.as_ref()
            && token.starts_with(b"0")
            // DER in its long form: no note is that, whatever its log's name begins with.
            && token.get(1).is_some_and(|b| *b >= 0x80)
        {
            match stamped(session, token) {
                Ok(stamp) if chain.iter().any(|c| sha256(&c.bytes) == stamp.imprint) => {
                    remembered.push((stamp.at, what.clone()));
                }
                Ok(stamp) => {
                    extends = false;
                    let (at, imprint) = (stamp.at, stamp.imprint);
                    let detail = format!(
                        "{what} is of {at}, over a checkpoint (SHA-256 {imprint}) that is none of those there"
                    );
                    session.find(Finding::new(Verdict::Rollback, detail).at(NEWEST));
                }
                Err(e) => {
                    extends = false;
                    session.find(Finding::new(Verdict::Unreadable, format!("{what}: {e}")));
                }
            }
            continue;
        }
        // So is a receipt: who kept it knows where from.
        if let Ok(bytes) = opened.as_ref()
            && bytes.first() == Some(&b'{')
        {
            match received(session, bytes) {
                Ok((receipt, known)) if chain.iter().any(|c| receipt.is_about(&chains::about(c)).is_ok()) => {
                    remembered.extend(known.then(|| (receipt.timestamp, what.clone())));
                }
                Ok((receipt, _)) => {
                    extends = false;
                    let (at, hash) = (receipt.timestamp, receipt.hash);
                    let detail = format!(
                        "{what} is of {at}, over a checkpoint (SHA-256 {hash}) that is none of those there"
                    );
                    session.find(Finding::new(Verdict::Rollback, detail).at(NEWEST));
                }
                Err(e) => {
                    extends = false;
                    session.find(Finding::new(Verdict::Unreadable, format!("{what}: {e}")));
                }
            }
            continue;
        }
        let opened = opened.and_then(|b| Checkpoint::open(&b, key).map_err(|e| e.to_string()));
        match opened {
            Ok((checkpoint, _)) => {
                remembered.extend(memory.at.map(|at| (at, what.clone())));
                said.push(Said { what: what.clone(), place: NEWEST.to_owned(), checkpoint });
            }
            Err(e) => {
                extends = false;
                session.find(Finding::new(Verdict::Unreadable, format!("{what}: {e}")));
            }
        }
    }
    let (ahead, mut prefixes): (Vec<_>, Vec<_>) = said.into_iter().partition(|s| s.checkpoint.size > size);
    extends &= ahead.is_empty();
    for s in ahead {
        let (what, there) = (s.what, s.checkpoint.size);
        let detail = format!(
            "{what} has said {there} entries, and the log in the store has {size}: the store is behind"
        );
        session.find(Finding::new(Verdict::Truncated, detail).at(s.place));
    }
    prefixes.sort_by_key(|s| s.checkpoint.size);
    let mut logged = Logged::default();
    let complete = match &reader {
        Some(r) => {
            let (complete, all) = entries(session, r, &mut logged, prefixes);
            extends &= all;
            complete
        }
        None => true,
    };
    // With entries missing, nothing can be said of what is not logged.
    (complete && !broken).then_some(Log { logged, chain, reader, extends, remembered })
}

fn stamped(session: &Session<'_>, token: &[u8]) -> Result<Stamp, String> {
    match &session.options.anchor {
        Anchor::File(trust) if !trust.timestamps.is_empty() => {
            verify(token, None, None, &trust.timestamps).map_err(|e| e.to_string())
        }
        _ => {
            Err("a time-stamp, and the trust file names no time-stamping authority (timestamps:)".to_owned())
        }
    }
}

/// A receipt that somebody kept, and whether its block is known to be the chain's.
fn received(session: &Session<'_>, bytes: &[u8]) -> Result<(Receipt, bool), String> {
    let Anchor::File(trust) = &session.options.anchor else {
        return Err("a receipt of a chain, and there is no trust file that names one (ethereum:)".to_owned());
    };
    let receipt = Receipt::parse(bytes).map_err(|e| e.to_string())?;
    chains::check(&trust.ethereum, &receipt).map_err(|e| e.to_string())?;
    if !receipt.metadata().is_ok_and(|m| chains::is_ours(session, &m)) {
        return Err("a receipt of another log".to_owned());
    }
    let known = chains::is_known(&session.options.chains, &trust.ethereum, &receipt);
    Ok((receipt, known))
}

fn damage(e: &ReadError) -> Finding {
    match e {
        ReadError::Missing { object, .. } => Finding::new(Verdict::Truncated, e.to_string()).at(object),
        ReadError::Damaged { object, .. } => Finding::new(Verdict::Tampered, e.to_string()).at(object),
        other => Finding::new(Verdict::Unreadable, other.to_string()),
    }
}

/// The numbered checkpoints, each larger than the one before, and what else the log has signed.
fn checkpoints(session: &Session<'_>, key: &VerifierKey, keys: &[String]) -> (Vec<Committed>, Vec<Signed>) {
    let prefix = "log/checkpoints/";
    let numbers: Vec<u64> = keys.iter().filter_map(|k| name::number(k.strip_prefix(prefix)?, 12)).collect();
    let (mut chain, mut strays): (Vec<Committed>, Vec<Signed>) = Default::default();
    for chunk in numbers.chunks(128) {
        let wanted: Vec<String> = chunk.iter().map(|n| checkpoint_key(*n)).collect();
        session.read_ahead(&wanted, MAX_NOTE as u64);
        for number in chunk {
            let object = checkpoint_key(*number);
            let next = chain.last().map_or(0, |c| c.number + 1);
            let before = chain.last().map_or(0, |c| c.checkpoint.size);
            let mut found = false;
            let is = |b: &[u8]| Checkpoint::open(b, key).is_ok();
            for bytes in bodies(session, &object, MAX_NOTE as u64, &is) {
                let why = match Checkpoint::open(&bytes, key) {
                    Ok((checkpoint, note)) if note.lines.len() > 1 || !checkpoint.extensions.is_empty() => {
                        // Not its object, and still the log's word.
                        strays.push(Signed { place: object.clone(), checkpoint, bytes });
                        "more than the checkpoint and the log's own signature".to_owned()
                    }
                    Ok((checkpoint, _)) if checkpoint.size > before && !found => {
                        chain.push(Committed { number: *number, checkpoint, bytes });
                        found = true;
                        continue;
                    }
                    Ok((checkpoint, _)) => {
                        strays.push(Signed { place: object.clone(), checkpoint, bytes });
                        continue;
                    }
                    Err(e) => e.to_string(),
                };
                let locked = session.store.has_versions();
                let verdict = if locked { Verdict::Foreign } else { Verdict::Tampered };
                session.find(Finding::new(verdict, why).at(&object));
            }
            if found && *number > next {
                let detail =
                    format!("checkpoints {next} to {} are missing below one that is there", number - 1);
                session.find(Finding::new(Verdict::Gap, detail).at(checkpoint_key(next)));
            }
        }
    }
    // A round may have ended since the listing.
    while let Some(last) = chain.last() {
        match checkpoint(session.store, key, last.number + 1, last.checkpoint.size) {
            Ok(Some(next)) => chain.push(next),
            Ok(None) => break,
            Err(e) => {
                session.unreadable(&checkpoint_key(last.number + 1), None, &e);
                break;
            }
        }
    }
    // A copy of the newest, by its name; in a directory it is one of them, byte for byte. There is a version for each round: the
    // older ones are copies of what has been looked at.
    for bytes in last_bodies(session, NEWEST, MAX_NOTE as u64, NEWEST_COPIES, &|_| true) {
        let numbered = chain.iter().any(|c| c.bytes == bytes) || strays.iter().any(|s| s.bytes == bytes);
        match Checkpoint::open(&bytes, key) {
            _ if numbered => {}
            Ok((checkpoint, _)) if session.store.has_versions() => {
                strays.push(Signed { place: NEWEST.to_owned(), checkpoint, bytes });
            }
            Err(_) if session.store.has_versions() => {
                session.find(Finding::new(Verdict::Foreign, "none of the log's").at(NEWEST));
            }
            _ => session.find(Finding::new(Verdict::Tampered, "it equals no numbered checkpoint").at(NEWEST)),
        }
    }
    (chain, strays)
}

/// The bodies of versions under a key, the oldest first; what cannot be read is said. One that was listed alone is enough if it
/// is what is looked for: else somebody may have written since.
pub(crate) fn bodies(
    session: &Session<'_>,
    key: &str,
    limit: u64,
    is: &dyn Fn(&[u8]) -> bool,
) -> Vec<Vec<u8>> {
    last_bodies(session, key, limit, usize::MAX, is)
}

/// The same, of the last `most` versions.
fn last_bodies(
    session: &Session<'_>,
    key: &str,
    limit: u64,
    most: usize,
    is: &dyn Fn(&[u8]) -> bool,
) -> Vec<Vec<u8>> {
    let mut versions: Vec<Version> = session.versions_of(key);
    let read = |at: At| match session.fetch(&at, limit) {
        Ok(object) => object.map(|o| o.body.unwrap_or_default()),
        Err(e) => {
            session.unreadable(key, None, &e);
            None
        }
    };
    if versions.is_empty() {
        let alone = read(At::key(key));
        if !session.store.has_versions() || alone.as_ref().is_some_and(|b| is(b)) {
            return alone.into_iter().collect();
        }
        match session.store.versions(key) {
            Ok(all) => versions = all,
            Err(e) => session.unreadable(key, None, &e),
        }
    }
    versions.retain(|v| !v.delete_marker && v.bytes.is_none_or(|n| n <= limit));
    versions.drain(..versions.len().saturating_sub(most));
    versions.into_iter().filter_map(|v| read(At { key: v.key, version: v.id, bytes: v.bytes })).collect()
}

/// Goes through all entries; `prefixes` are in the order of their sizes. Whether all entries could be read, and whether all of
/// those are prefixes.
fn entries(
    session: &Session<'_>,
    reader: &Reader<'_>,
    logged: &mut Logged,
    prefixes: Vec<Said>,
) -> (bool, bool) {
    let mut head = TreeHead::default();
    let mut prefixes = prefixes.into_iter().peekable();
    let (mut complete, mut strange, mut extends) = (true, 0, true);
    let count = reader.size().div_ceil(WIDTH);
    let ahead = u64::try_from(session.store.concurrency()).unwrap_or(1).clamp(1, BUNDLES_AHEAD);
    let mut read = Vec::new();
    for index in 0..count {
        if index % ahead == 0 {
            read = bundles(reader, index..count.min(index + ahead));
            read.reverse();
        }
        let (leaves, bundle) = match read.pop() {
            Some(Ok(both)) => both,
            Some(Err(e)) => {
                session.find(damage(&e));
                return (false, false);
            }
            None => return (false, false),
        };
        let bundle = bundle.map_err(|e| {
            session.find(damage(&e));
            complete = false;
        });
        let tile = Tile { level: None, index, width: leaves.len() as u16 };
        let entries = bundle.as_deref().ok().and_then(|b| tile.entries(b)).unwrap_or_default();
        for (i, leaf) in leaves.iter().enumerate() {
            while let Some(said) = prefixes.next_if(|s| s.checkpoint.size == head.size()) {
                extends &= said.check(session, &head);
            }
            head.push(*leaf);
            let number = index * WIDTH + i as u64;
            let Some(entry) = entries.get(i) else { continue };
            let Some((place, found)) = statement(entry, number) else {
                strange += 1;
                if strange <= MOST {
                    let detail = format!("entry {number} of the log is no statement");
                    session.find(Finding::new(Verdict::Inconsistent, detail).at(NEWEST));
                }
                continue;
            };
            if number == 0 && (place != Place::Trail || found.statement != session.trail_id) {
                let detail = "the log's first entry is not this trail's statement";
                session.find(Finding::new(Verdict::Inconsistent, detail).at(NEWEST));
            }
            if !session.is_void(entry, number, logged) {
                logged.insert(&place, found);
            }
        }
    }
    for said in prefixes {
        extends &= said.check(session, &head);
    }
    (complete, extends)
}

/// The leaf hashes of a bundle, and the bundle.
type Bundle = Result<(Vec<Hash>, Result<Vec<u8>, ReadError>), ReadError>;

/// Reads some at once, where that is quicker.
fn bundles(reader: &Reader<'_>, range: std::ops::Range<u64>) -> Vec<Bundle> {
    let one = |index| {
        let leaves = reader.leaves(index)?;
        let bundle = reader.bundle(index, &leaves);
        Ok((leaves, bundle))
    };
    if range.end - range.start == 1 {
        return range.map(one).collect();
    }
    std::thread::scope(|scope| {
        let tasks: Vec<_> = range.map(|index| scope.spawn(move || one(index))).collect();
        // A panic has been reported on its thread; what is not there ends the reading.
        tasks.into_iter().map_while(|t| t.join().ok()).collect()
    })
}

fn statement(entry: &[u8], index: u64) -> Option<(Place, Entry)> {
    let envelope = Envelope::parse(entry).ok()?;
    let place = valid::place(&envelope)?;
    Some((place, Entry { index, statement: envelope.statement_hash(), digest: sha256(entry) }))
}
