//! Legal holds: what is wanted in court is kept, however long that takes, after its retention too.
//!
//! A hold is on versions: of the headers and events objects that are chosen, and, so that they can still be proved, of the
//! statements that they need. Holds are no counters: lifting one lifts it for everybody.

use crate::{Bucket, Refusal, refusal};
use aws_sdk_s3::types::{ObjectLockLegalHold, ObjectLockLegalHoldStatus};
use std::collections::{BTreeMap, BTreeSet};
use waxseal_store::{At, Store, StoreError, list_all_keys, oldest_version};
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE};
use waxseal_trail::hash::sha256;
use waxseal_trail::name;
use waxseal_trail::statement::{self, Batch, Keys, Payload, Trail, Writer};
use waxseal_trail::time::Time;

/// What is to be held: batches for which all that is said is true.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// This writer: a name, or a name with its epoch.
    pub writer: Option<String>,
    /// Events of this time or later, or sealed then.
    pub since: Option<Time>,
    /// Events of this time or earlier, or sealed then.
    pub until: Option<Time>,
    /// Batches with at least one of these records: sequences by writer.
    pub records: Option<BTreeMap<String, BTreeSet<u64>>>,
}

impl Selection {
    fn takes(&self, h: &Batch) -> bool {
        let e = &h.events;
        let writer = self
            .writer
            .as_ref()
            .is_none_or(|w| *w == h.writer || name::split_writer(&h.writer).is_some_and(|(n, _)| n == w));
        // A source's time is its claim, the sink's is ours: either counts.
        let last = e.last_timestamp.unwrap_or(h.sealed_at).max(h.sealed_at);
        let first = e.first_timestamp.unwrap_or(h.sealed_at).min(h.sealed_at);
        let time = self.since.is_none_or(|s| last >= s) && self.until.is_none_or(|u| first <= u);
        let records = self.records.as_ref().is_none_or(|r| {
            let end = e.first_sequence + e.count;
            r.get(&h.writer).is_some_and(|s| s.range(e.first_sequence..end).next().is_some())
        });
        writer && time && records
    }
}

/// What a selection comes to.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Versions of headers and events objects.
    pub objects: Vec<At>,
    /// Versions of statements and certificates that prove them, and others.
    pub shared: Vec<At>,
}

fn statement<P: Payload>(
    store: &dyn Store,
    key: &str,
    fits: &dyn Fn(&P) -> bool,
) -> Result<Option<(At, P)>, StoreError> {
    let parse = |b: &[u8]| statement::read::<P>(&Envelope::parse(b).ok()?).ok().filter(|p| fits(p));
    let found = oldest_version(store, key, MAX_ENVELOPE as u64, &|b| parse(b).is_some())?;
    Ok(found.and_then(|(at, bytes)| Some((at, parse(&bytes)?))))
}

/// Finds what a selection comes to. Signatures are not checked: a hold on too much harms nobody.
///
/// # Errors
/// [`StoreError`].
pub fn choose(store: &dyn Store, selection: &Selection) -> Result<Chosen, StoreError> {
    let mut chosen = Chosen::default();
    let mut writers = BTreeSet::new();
    let mut headers = Vec::new();
    list_all_keys(store, "batches/", &mut |k| headers.push(k))?;
    for key in headers {
        let fits = |h: &Batch| name::batch_key(&h.writer, h.batch) == key;
        let Some((at, h)) = statement::<Batch>(store, &key, &fits)? else { continue };
        if !selection.takes(&h) {
            continue;
        }
        chosen.batches += 1;
        chosen.records += h.events.count;
        chosen.objects.push(at);
        if let Some(object) = &h.object {
            let key = name::events_key(&h.writer, h.batch, h.sealed_at, &object.sha256);
            // Of an events object that was not squatted there is one version: it need not be read.
            let versions: Vec<_> = store.versions(&key)?.into_iter().filter(|v| !v.delete_marker).collect();
            let found = match &versions[..] {
                [one] => Some(At { key: one.key.clone(), version: one.id.clone(), bytes: one.bytes }),
                _ => oldest_version(store, &key, object.bytes, &|b| sha256(b) == object.sha256)?
                    .map(|(at, _)| at),
            };
            chosen.objects.extend(found);
        }
        writers.insert(h.writer);
    }
    if writers.is_empty() {
        return Ok(chosen);
    }
    let mut certificates = BTreeSet::new();
    chosen.shared.extend(statement::<Trail>(store, name::TRAIL, &|_| true)?.map(|(at, _)| at));
    for w in writers {
        if let Some((at, genesis)) = statement::<Writer>(store, &name::genesis_key(&w), &|g| g.writer == w)? {
            chosen.shared.push(at);
            certificates.extend(genesis.keys.into_iter().flat_map(|k| k.certificates));
        }
        let mut keys = Vec::new();
        list_all_keys(store, &format!("writers/{w}/keys/"), &mut |k| keys.push(k))?;
        for key in keys {
            if let Some((at, s)) = statement::<Keys>(store, &key, &|k| k.writer == w)? {
                chosen.shared.push(at);
                certificates.extend(s.keys.into_iter().flat_map(|k| k.certificates));
            }
        }
    }
    for digest in certificates {
        let key = name::certificate_key(&digest);
        chosen
            .shared
            .extend(oldest_version(store, &key, 1 << 20, &|b| sha256(b) == digest)?.map(|(at, _)| at));
    }
    Ok(chosen)
}

impl Bucket {
    /// Sets a legal hold on a version, or lifts it.
    ///
    /// # Errors
    /// The server's refusal.
    pub fn hold(&self, at: &At, on: bool) -> Result<(), Refusal> {
        let status = if on { ObjectLockLegalHoldStatus::On } else { ObjectLockLegalHoldStatus::Off };
        let hold = ObjectLockLegalHold::builder().status(status).build();
        let put = self
            .client
            .put_object_legal_hold()
            .bucket(self.name())
            .key(self.key(&at.key))
            .set_version_id(at.version.clone())
            .legal_hold(hold);
        self.runtime.block_on(put.send()).map(drop).map_err(refusal)
    }
}
