//! Makes proofs of single events (`waxseal prove`): finds what belongs to one, and reads as little as that takes.
//!
//! An event id of version 7 says when it was made, so the events objects of the hours after that are looked into first; any other
//! is looked for in all. Entries of the log are found by their time, too: rounds follow each other.

use crate::chains::{self, about};
use bytes::Bytes;
use data_encoding::BASE64;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use waxseal_ethereum::receipt::{MAX_RECEIPT, Receipt};
use waxseal_events::{EventsError, MAX_OBJECT, Reader as Events};
use waxseal_log::{
    Committed, ReadError, Reader, checkpoint, cosignatures_prefix, latest, receipts_prefix, stamps_prefix,
};
use waxseal_store::{Kind, Store, StoreError, list_all_keys, oldest};
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE};
use waxseal_trail::hash::{Hash, leaf_hash, sha256};
use waxseal_trail::log::note::{Line, MAX_LINES, Note, VerifierKey};
use waxseal_trail::log::policy::Policy;
use waxseal_trail::log::proof::LogProof;
use waxseal_trail::log::tile::{Tile, WIDTH};
use waxseal_trail::merkle::inclusion_proof;
use waxseal_trail::name;
use waxseal_trail::proof::{FORMAT, InLog, Proof, Token, path_text};
use waxseal_trail::statement::{Batch, Keys, Payload as _, Writer, check_place};
use waxseal_trail::time::Time;
use waxseal_trail::trust::{Contract, Trust};
use waxseal_trail::valid::{self, Place};

/// So many hours after an event id was made its batch is looked for before all others are.
const HOURS: i64 = 3;
/// So many time-stamps are taken along.
const MAX_TOKENS: usize = 2;
/// One of so many checkpoints before the newest is taken, if it is the last that a chain has anchored.
const LAST: u64 = 48;
/// So many of these are looked at.
const LOOKED: usize = 4;
/// So many receipts of a checkpoint are looked at, and so many of one chain taken along.
const MAX_RECEIPTS: usize = 32;
const SAME_CHAIN: usize = 3;
/// So many objects are looked at for them.
const MAX_LOOKED: usize = 32;
/// So many bundles are kept in memory.
const MAX_BUNDLES: usize = 32;

/// Which event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// By its id.
    Event(String),
    /// By its writer (`<name>.<epoch>`, or the name of one with a single epoch) and sequence.
    Sequence(String, u64),
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// An events object that cannot be read.
    #[error("{0}: {1}")]
    Events(String, EventsError),
    /// No such event.
    #[error("not in this trail")]
    NotFound,
    /// The name is of several writers.
    #[error("{0} has several epochs: name one of them")]
    Several(String),
    /// Nothing to prove it with yet.
    #[error("{0}")]
    NotYet(String),
    /// What is there is not what it should be.
    #[error("{key}: {why}; waxseal verify says more")]
    Bad {
        /// Where.
        key: String,
        /// What is wrong.
        why: String,
    },
}

fn bad(key: &str, why: impl Display) -> ProveError {
    ProveError::Bad { key: key.to_owned(), why: why.to_string() }
}

/// What a header says, and its envelope.
type Header = (Batch, Vec<u8>);

/// What was read; nothing, where nobody may read what lies there.
fn readable(read: Result<Option<Vec<u8>>, StoreError>) -> Result<Option<Vec<u8>>, StoreError> {
    match read {
        Err(e) if matches!(e.kind, Kind::Archived | Kind::Permission | Kind::Unreadable) => Ok(None),
        other => other,
    }
}

/// A record, its path and its header.
#[derive(Clone)]
struct Found {
    record: Vec<u8>,
    path: Vec<Hash>,
    header: Batch,
    envelope: Vec<u8>,
}

/// What proofs are made from.
pub struct Prover<'a> {
    store: &'a dyn Store,
    trail: Hash,
    log: VerifierKey,
    policy: Option<&'a Policy>,
    /// Roots of time-stamping authorities.
    roots: &'a [Vec<u8>],
    /// Contracts whose anchors count.
    contracts: &'a [Contract],
    /// Headers that were read.
    headers: RefCell<BTreeMap<(String, u64), Header>>,
    /// Entries by bundle, as far as they were read.
    bundles: RefCell<BTreeMap<u64, Vec<Vec<u8>>>>,
}

/// When a statement says that it was made.
fn made(entry: &[u8]) -> Option<(Place, Time)> {
    let envelope = Envelope::parse(entry).ok()?;
    let loose: serde_json::Value = serde_json::from_slice(&envelope.payload).ok()?;
    let time = ["sealed_at", "created_at"].iter().find_map(|m| Time::parse(loose[m].as_str()?))?;
    Some((valid::place(&envelope)?, time))
}

impl<'a> Prover<'a> {
    /// For the trail with this id, whose log has this key. With a trust file, only lines of its policy's witnesses are taken along,
    /// time-stamps of its authorities, and receipts of its contracts.
    pub fn new(store: &'a dyn Store, trail: Hash, log: VerifierKey, trust: Option<&'a Trust>) -> Prover<'a> {
        let policy = trust.and_then(|t| t.policy.as_ref());
        let roots = trust.map_or(&[][..], |t| &t.timestamps);
        let contracts = trust.map_or(&[][..], |t| &t.ethereum);
        let (headers, bundles) = (RefCell::default(), RefCell::default());
        Prover { store, trail, log, policy, roots, contracts, headers, bundles }
    }

    /// Makes a proof of each event that is wanted: an event id may be there more than once.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn prove(&self, wanted: &Wanted) -> Result<Vec<Proof>, ProveError> {
        let found = match wanted {
            Wanted::Sequence(writer, sequence) => vec![self.by_sequence(writer, *sequence)?],
            Wanted::Event(id) => self.by_id(id)?,
        };
        let newest = latest(self.store, &self.log)?
            .ok_or_else(|| ProveError::NotYet("the log has no checkpoint yet".to_owned()))?;
        // The newest is rarely anchored on a chain: one that is proves more, if it goes far enough.
        let anchored = self.anchored(&newest)?;
        if let Some(anchored) = anchored.filter(|a| a.number != newest.number) {
            match self.prove_at(&found, anchored) {
                Err(ProveError::NotYet(_)) => {}
                other => return other,
            }
        }
        self.prove_at(&found, newest)
    }

    fn prove_at(&self, found: &[Found], newest: Committed) -> Result<Vec<Proof>, ProveError> {
        let (committed, note) = self.cosigned(newest)?;
        let timestamps = self.tokens(&committed)?;
        let ethereum = self.receipts(&committed)?;
        let reader = Reader::open(self.store, Some(committed))?;
        let proofs = found.iter().map(|f| self.assemble(f.clone(), &reader, &note));
        let outside = |p: Proof| Proof { timestamps: timestamps.clone(), ethereum: ethereum.clone(), ..p };
        proofs.map(|p| p.map(outside)).collect()
    }

    /// The newest of the last checkpoints of which there is a receipt.
    fn anchored(&self, newest: &Committed) -> Result<Option<Committed>, ProveError> {
        if self.contracts.is_empty() {
            return Ok(None);
        }
        let first = format!("anchors/{:012}", newest.number.saturating_sub(LAST));
        let keys = self.store.list("anchors/", Some(&first), 1000)?.keys;
        let of = |k: &String| {
            let mut parts = k.split('/').skip(1);
            let number = name::number(parts.next()?, 12)?;
            (parts.next()? == "ethereum").then_some(number)
        };
        let all: BTreeSet<u64> = keys.iter().filter_map(of).filter(|n| *n <= newest.number).collect();
        for number in all.into_iter().rev().take(LOOKED) {
            let committed = match number == newest.number {
                true => Some(newest.clone()),
                false => checkpoint(self.store, &self.log, number, 0)?,
            };
            if let Some(committed) = committed
                && !self.receipts(&committed)?.is_empty()
            {
                return Ok(Some(committed));
            }
        }
        Ok(None)
    }

    /// The receipts of a checkpoint that hold by themselves, a few of each chain: only who knows the chain can tell which is its.
    fn receipts(&self, committed: &Committed) -> Result<Vec<serde_json::Value>, ProveError> {
        let mut receipts: BTreeMap<u64, Vec<serde_json::Value>> = BTreeMap::new();
        if self.contracts.is_empty() {
            return Ok(Vec::new());
        }
        let about = about(committed);
        let mut keys = Vec::new();
        list_all_keys(self.store, &receipts_prefix(committed.number), &mut |k| keys.push(k))?;
        let good = |b: &[u8]| {
            let receipt = Receipt::parse(b).ok()?;
            let good = receipt.is_about(&about).is_ok() && chains::check(self.contracts, &receipt).is_ok();
            good.then_some(receipt)
        };
        for key in keys.iter().take(MAX_RECEIPTS) {
            let body = readable(oldest(self.store, key, MAX_RECEIPT as u64, &|b| good(b).is_some()))?;
            if let Some((receipt, body)) = body.and_then(|b| Some((good(&b)?, b)))
                && let Ok(value) = serde_json::from_slice(&body)
            {
                let of_chain = receipts.entry(receipt.chain).or_default();
                if of_chain.len() < SAME_CHAIN {
                    of_chain.push(value);
                }
            }
        }
        Ok(receipts.into_values().flatten().collect())
    }

    /// The time-stamps over a checkpoint that count, of each authority one, and of two authorities.
    fn tokens(&self, committed: &Committed) -> Result<Vec<Token>, ProveError> {
        let mut tokens = Vec::new();
        if self.roots.is_empty() {
            return Ok(tokens);
        }
        let mut keys = Vec::new();
        list_all_keys(self.store, &stamps_prefix(committed.number), &mut |k| keys.push(k))?;
        let imprint = sha256(&committed.bytes);
        let good = |b: &[u8]| waxseal_timestamp::verify(b, Some(&imprint), None, self.roots).is_ok();
        let mut of = BTreeSet::new();
        for key in keys.iter().filter(|k| k.ends_with(".tsr")).take(MAX_LOOKED) {
            // Of each authority one, of strangers and what nobody may read none.
            let authority = key.rsplit_once('-').map(|(name, _)| name);
            if tokens.len() >= MAX_TOKENS || of.contains(&authority) {
                continue;
            }
            let found = oldest(self.store, key, waxseal_timestamp::MAX_RESPONSE as u64, &good);
            if let Some(b) = readable(found)? {
                of.insert(authority);
                tokens.push(Token { response: BASE64.encode(&b), sha256: sha256(&b) });
            }
        }
        Ok(tokens)
    }

    /// The newest checkpoint that enough have signed, of the last few, with their lines; else the one of these that most have.
    fn cosigned(&self, newest: Committed) -> Result<(Committed, Note), ProveError> {
        let mut best: Option<(usize, Committed, Note)> = None;
        for number in (0..=newest.number).rev().take(3) {
            let committed = if number == newest.number {
                newest.clone()
            } else {
                let Some(earlier) = checkpoint(self.store, &self.log, number, 0)? else { continue };
                earlier
            };
            let mut note =
                Note::parse(&committed.bytes).map_err(|e| bad(&waxseal_log::checkpoint_key(number), e))?;
            let lines = self.lines(number, &note.text)?;
            let found = lines.len();
            note.lines.extend(lines);
            let enough = match self.policy {
                Some(p) => p.cosigned(&note).is_ok_and(|c| c.quorum),
                None => found > 0,
            };
            if enough {
                return Ok((committed, note));
            }
            if best.as_ref().is_none_or(|(most, ..)| found > *most) {
                best = Some((found, committed, note));
            }
        }
        let (_, committed, note) =
            best.ok_or_else(|| ProveError::NotYet("the log has no checkpoint yet".to_owned()))?;
        Ok((committed, note))
    }

    /// The lines that are kept of a checkpoint, each once: with a policy those of its witnesses, else some of whoever's there are.
    fn lines(&self, number: u64, text: &str) -> Result<Vec<Line>, ProveError> {
        let mut keys = Vec::new();
        list_all_keys(self.store, &cosignatures_prefix(number), &mut |k| keys.push(k))?;
        let parse = |b: &[u8]| Line::parse(std::str::from_utf8(b).ok()?.strip_suffix('\n')?).ok();
        let good = |b: &[u8]| {
            let Some(line) = parse(b) else { return false };
            let alone = Note { text: text.to_owned(), lines: vec![line] };
            self.policy.is_none_or(|p| p.cosigned(&alone).is_ok_and(|c| !c.by.is_empty()))
        };
        // By their names only those of the policy's witnesses are read.
        let ids: Option<Vec<String>> =
            self.policy.map(|p| p.witnesses.iter().map(|(_, w)| w.key.id_text()).collect());
        let named = |k: &String| {
            let id = k.rsplit('/').next().and_then(|f| f.split_once('-')).map(|(id, _)| id.to_owned());
            ids.as_ref().is_none_or(|ids| id.is_some_and(|id| ids.contains(&id)))
        };
        let mut lines: Vec<Line> = Vec::new();
        for key in keys.into_iter().filter(named).take(MAX_LINES / 2) {
            let line = oldest(self.store, &key, 8 << 10, &good)?.and_then(|b| parse(&b));
            lines.extend(line.filter(|l| !lines.contains(l)));
        }
        Ok(lines)
    }

    fn header(&self, writer: &str, batch: u64) -> Result<Header, ProveError> {
        if let Some(known) = self.headers.borrow().get(&(writer.to_owned(), batch)) {
            return Ok(known.clone());
        }
        let key = name::batch_key(writer, batch);
        let read = |b: &[u8]| {
            let envelope = Envelope::parse(b).ok()?;
            let number = Some(("batch", batch));
            check_place(&envelope, Batch::KIND, &self.trail, writer, number).ok()?;
            valid::payload::<Batch>(&envelope).ok()
        };
        let bytes = oldest(self.store, &key, MAX_ENVELOPE as u64, &|b| read(b).is_some())?;
        let bytes = bytes.ok_or_else(|| bad(&key, "no header of this batch"))?;
        let header = read(&bytes).ok_or_else(|| bad(&key, "no header of this batch"))?;
        self.headers.borrow_mut().insert((writer.to_owned(), batch), (header.clone(), bytes.clone()));
        Ok((header, bytes))
    }

    fn by_sequence(&self, wanted: &str, sequence: u64) -> Result<Found, ProveError> {
        let mut writers = Vec::new();
        let prefix = format!("batches/{wanted}");
        let mut batches: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        list_all_keys(self.store, &prefix, &mut |key| {
            let mut parts = key.split('/').skip(1);
            let (Some(writer), Some(file)) = (parts.next(), parts.next()) else { return };
            let is = writer == wanted || name::split_writer(writer).is_some_and(|(n, _)| n == wanted);
            if let Some(number) = file.strip_suffix(".json").and_then(|n| n.parse().ok()).filter(|_| is) {
                batches.entry(writer.to_owned()).or_default().push(number);
            }
        })?;
        writers.extend(batches.keys().cloned());
        let writer = match &writers[..] {
            [one] => one.clone(),
            [] => return Err(ProveError::NotFound),
            _ => return Err(ProveError::Several(wanted.to_owned())),
        };
        let numbers = &batches[&writer];
        // The last header that begins at or before it.
        let (mut low, mut high) = (0, numbers.len());
        let mut last = None;
        while low < high {
            let middle = low.midpoint(high);
            // What is no header, anybody may have put there.
            match self.header(&writer, numbers[middle]) {
                Ok((header, envelope)) if header.events.first_sequence <= sequence => {
                    low = middle + 1;
                    if header.events.count > 0 {
                        last = Some((header, envelope));
                    }
                }
                Ok(_) | Err(ProveError::Bad { .. }) => high = middle,
                Err(e) => return Err(e),
            }
        }
        let inside = |h: &Batch| {
            (h.events.first_sequence..h.events.first_sequence + h.events.count).contains(&sequence)
        };
        match last {
            Some((header, envelope)) if inside(&header) => {
                let row = sequence - header.events.first_sequence;
                let mut found = self.rows(header, envelope, |_| Ok(vec![row]))?;
                found.pop().ok_or(ProveError::NotFound)
            }
            // Behind empty batches.
            _ => {
                for number in numbers.iter().rev() {
                    let Ok((header, envelope)) = self.header(&writer, *number) else { continue };
                    if inside(&header) {
                        let row = sequence - header.events.first_sequence;
                        let mut found = self.rows(header, envelope, |_| Ok(vec![row]))?;
                        return found.pop().ok_or(ProveError::NotFound);
                    }
                    if header.events.first_sequence + header.events.count <= sequence {
                        break;
                    }
                }
                Err(ProveError::NotFound)
            }
        }
    }

    fn by_id(&self, id: &str) -> Result<Vec<Found>, ProveError> {
        // RFC 9562 section 5.7: 48 bits of milliseconds.
        let hex: String = id.split('-').collect();
        let millis = i64::from_str_radix(hex.get(..12).unwrap_or_default(), 16).ok();
        let made = millis.filter(|_| hex.as_bytes().get(12) == Some(&b'7'));
        if let Some(made) = made.and_then(|ms| Time::from_unix(ms / 1000, 0)) {
            for hour in 0..HOURS {
                let (date, hour) = made.saturating_add_seconds(hour * 3600).partition();
                let found = self.in_objects(&format!("events/date={date}/hour={hour}/"), id, Some(made))?;
                if !found.is_empty() {
                    return Ok(found);
                }
            }
        }
        match self.in_objects("events/", id, None)? {
            found if found.is_empty() => Err(ProveError::NotFound),
            found => Ok(found),
        }
    }

    /// Looks for an event id in the events objects under a prefix: of each writer first into the batch that was sealed next after
    /// `made`, then into the one behind it, then into the others.
    fn in_objects(&self, prefix: &str, id: &str, made: Option<Time>) -> Result<Vec<Found>, ProveError> {
        let mut writers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        list_all_keys(self.store, prefix, &mut |key| {
            let file = key.rsplit('/').next().and_then(|f| f.strip_suffix(".parquet"));
            let parts = file.and_then(|f| f.rsplit_once('-')).and_then(|(f, _)| f.rsplit_once('-'));
            if let Some((writer, batch)) = parts.and_then(|(w, b)| Some((w, b.parse::<u64>().ok()?))) {
                writers.entry(writer.to_owned()).or_default().push(batch);
            }
        })?;
        let mut candidates: Vec<(u64, &String, u64)> = Vec::new();
        for (writer, batches) in &mut writers {
            batches.sort_unstable();
            batches.dedup();
            let (mut low, mut high) = (0, if made.is_some() { batches.len() } else { 0 });
            while low < high {
                let middle = low.midpoint(high);
                let later =
                    self.header(writer, batches[middle]).is_ok_and(|(h, _)| Some(h.sealed_at) >= made);
                if later { high = middle } else { low = middle + 1 }
            }
            let rank = |i: usize| if i < low { (low - i) as u64 + 2 } else { (i - low) as u64 };
            candidates.extend(batches.iter().enumerate().map(|(i, b)| (rank(i), writer, *b)));
        }
        candidates.sort_unstable();
        let mut found = Vec::new();
        for (_, writer, batch) in candidates {
            let Ok((header, envelope)) = self.header(writer, batch) else { continue };
            // One that cannot be read must not hide the others.
            let rows = self.rows(header, envelope, |events| events.find("event_id", id.as_bytes()));
            found.extend(rows.unwrap_or_default());
            // An id that says when it was made is there once, but for a source that repeats it.
            if made.is_some() && !found.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// The rows of a batch that `which` chooses.
    fn rows(
        &self,
        header: Batch,
        envelope: Vec<u8>,
        which: impl Fn(&Events) -> Result<Vec<u64>, EventsError>,
    ) -> Result<Vec<Found>, ProveError> {
        let Some(object) = &header.object else { return Ok(Vec::new()) };
        let key = name::events_key(&header.writer, header.batch, header.sealed_at, &object.sha256);
        let is = |b: &[u8]| sha256(b) == object.sha256;
        let bytes = oldest(self.store, &key, object.bytes.min(MAX_OBJECT), &is)?;
        let bytes = bytes.ok_or_else(|| bad(&key, "missing, or not the one that its header names"))?;
        let fault = |e: EventsError| ProveError::Events(key.clone(), e);
        let events = Events::new(Bytes::from(bytes)).map_err(fault)?;
        let rows = which(&events).map_err(fault)?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let (mut leaves, mut records) = (Vec::new(), Vec::new());
        events
            .read::<EventsError>(|step| {
                for r in &step.records {
                    if rows.contains(&(leaves.len() as u64)) {
                        records.push((leaves.len(), r.data().to_vec()));
                    }
                    leaves.push(leaf_hash(r.data()));
                }
                Ok(())
            })
            .map_err(fault)?;
        let found = records.into_iter().filter_map(|(index, record)| {
            let path = inclusion_proof(&leaves, index)?;
            Some(Found { record, path, header: header.clone(), envelope: envelope.clone() })
        });
        Ok(found.collect())
    }

    /// The bundle with this number, read once.
    fn bundle(&self, reader: &Reader<'_>, index: u64) -> Result<Vec<Vec<u8>>, ProveError> {
        if let Some(b) = self.bundles.borrow().get(&index) {
            return Ok(b.clone());
        }
        let leaves = reader.leaves(index)?;
        let bytes = reader.bundle(index, &leaves)?;
        let tile = Tile { level: None, index, width: leaves.len() as u16 };
        let entries: Vec<Vec<u8>> =
            tile.entries(&bytes).unwrap_or_default().into_iter().map(<[u8]>::to_vec).collect();
        let mut kept = self.bundles.borrow_mut();
        if kept.len() < MAX_BUNDLES {
            kept.insert(index, entries.clone());
        }
        Ok(entries)
    }

    /// The entry that belongs at a place, and its number: first around where its time says.
    fn entry(&self, reader: &Reader<'_>, place: &Place, at: Time) -> Result<(u64, Vec<u8>), ProveError> {
        let count = reader.size().div_ceil(WIDTH);
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            let latest = self.bundle(reader, middle)?.iter().filter_map(|e| Some(made(e)?.1)).max();
            if latest.is_some_and(|t| t >= at) { high = middle } else { low = middle + 1 }
        }
        // From there outwards: a round is not in the order of time.
        let around = (0..count).flat_map(|d| [low.checked_add(d), low.checked_sub(d + 1)]).flatten();
        for index in around.filter(|i| *i < count) {
            for (number, entry) in (index * WIDTH..).zip(self.bundle(reader, index)?) {
                if Envelope::parse(&entry).ok().and_then(|e| valid::place(&e)).as_ref() == Some(place) {
                    return Ok((number, entry));
                }
            }
        }
        let key = place.key(&Hash::empty());
        Err(ProveError::NotYet(format!(
            "{key} is not in the log yet: the next round of waxseal-anchor puts it there"
        )))
    }

    fn in_log(&self, reader: &Reader<'_>, place: &Place, at: Time) -> Result<(Envelope, InLog), ProveError> {
        let (index, entry) = self.entry(reader, place, at)?;
        let key = place.key(&Hash::empty());
        let envelope = Envelope::parse(&entry).map_err(|e| bad(&key, e))?;
        let value = serde_json::from_slice(&entry).map_err(|e| bad(&key, e))?;
        let path = path_text(&reader.inclusion_proof(index)?);
        Ok((envelope, InLog { envelope: value, index, path }))
    }

    fn assemble(&self, found: Found, reader: &Reader<'_>, note: &Note) -> Result<Proof, ProveError> {
        let h = &found.header;
        let place = Place::Batch(h.writer.clone(), h.batch);
        let header_key = name::batch_key(&h.writer, h.batch);
        let (index, entry) = self.entry(reader, &place, h.sealed_at)?;
        if entry != found.envelope {
            return Err(bad(&header_key, "the log has another header there"));
        }
        let path = reader.inclusion_proof(index)?;
        let log = LogProof { extra: None, index, path, checkpoint: note.to_string() }.to_string();
        // The genesis says itself when it was made; until it is read, the header's time is the latest that it can be.
        let genesis_key = name::genesis_key(&h.writer);
        let stored = oldest(self.store, &genesis_key, MAX_ENVELOPE as u64, &|b| {
            valid::genesis(&self.trail, &h.writer, b).is_ok()
        })?;
        let stored = stored.ok_or_else(|| bad(&genesis_key, "missing"))?;
        let at = made(&stored).map_or(h.sealed_at, |(_, t)| t);
        let (envelope, genesis) = self.in_log(reader, &Place::Genesis(h.writer.clone()), at)?;
        let statement: Writer = valid::payload(&envelope).map_err(|e| bad(&genesis_key, e))?;
        let mut keys = Vec::new();
        for number in 1..=h.keys {
            let place = Place::Keys(h.writer.clone(), number);
            let (envelope, in_log) = self.in_log(reader, &place, at)?;
            let _: Keys = valid::payload(&envelope).map_err(|e| bad(&place.key(&Hash::empty()), e))?;
            keys.push(in_log);
        }
        // Certificates are only of use with the name of the trail; whoever has the writer's key pinned wants neither.
        let digests = statement.keys.iter().flat_map(|k| &k.certificates);
        let certificates: Vec<String> = digests
            .filter_map(|d| {
                let is = |b: &[u8]| sha256(b) == *d;
                oldest(self.store, &name::certificate_key(d), 1 << 20, &is).ok().flatten()
            })
            .map(|der| BASE64.encode(&der))
            .collect();
        let trail = if certificates.is_empty() {
            None
        } else {
            let is = |b: &[u8]| valid::trail(b).is_ok_and(|(e, _)| e.statement_hash() == self.trail);
            let bytes = oldest(self.store, name::TRAIL, MAX_ENVELOPE as u64, &is)?;
            bytes.and_then(|b| serde_json::from_slice(&b).ok())
        };
        Ok(Proof {
            format: FORMAT.to_owned(),
            trail: self.trail,
            record: serde_json::from_slice(&found.record).map_err(|e| bad(&header_key, e))?,
            path: path_text(&found.path),
            header: serde_json::from_slice(&found.envelope).map_err(|e| bad(&header_key, e))?,
            log,
            genesis,
            keys,
            statement: trail,
            certificates,
            timestamps: Vec::new(),
            ethereum: Vec::new(),
        })
    }
}
