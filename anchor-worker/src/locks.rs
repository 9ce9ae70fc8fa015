//! The trail outlives its parts (FORMAT section 5 rule 5): what headers need is kept as long as they are.
//!
//! A header's `retain_until` grows with each batch, and what was put before it was locked for less. So the genesis, key statements
//! and certificates of a writer are locked as long as its last header, and the trail statement, the tiles, the checkpoints and the
//! anchors as long as the last of all. To do that once a month and not in each round, a lock that is too short is lengthened by
//! [`AHEAD`] more than is needed; the bucket's own cap on retention has room for it.

use crate::known::Known;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use waxseal_log::{Committed, checkpoint_key};
use waxseal_store::{At, Retain, Store, StoreError, Version, oldest_version};
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::name;
use waxseal_trail::statement::{Lock, Writer};
use waxseal_trail::time::Time;
use waxseal_trail::valid;

const DAY: i64 = 86_400;
/// So much longer than needed, in seconds: 30 days.
const AHEAD: i64 = 30 * DAY;
/// The store is gone through again when what is needed has grown by so much, or that long after the last time if it has grown at all.
const EVERY: i64 = 15 * DAY;
/// So many objects are looked at in a round.
const BUDGET: usize = 2000;
/// The largest certificate that is read.
pub(crate) const MAX_CERTIFICATE: u64 = 1 << 20;
/// What the whole trail needs, in this order; the trail statement comes before.
const UNDER: [&str; 4] = ["statements/", "log/tile/", "log/checkpoints/", "anchors/"];

/// How far the locks are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Locks {
    /// Until when all statements of a writer are locked, by this worker's own doing.
    writers: BTreeMap<String, Time>,
    /// What was needed when the store was last gone through, and when that began.
    last: Option<(Time, Time)>,
    /// Where it is going through it now.
    sweep: Option<Sweep>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sweep {
    needed: Time,
    began: Time,
    /// An index into [`UNDER`].
    stage: usize,
    /// The last key that was done.
    after: Option<String>,
}

/// Lengthens locks that are too short; how many.
///
/// # Errors
/// [`StoreError`]: what was done stays done, and the next round goes on there.
pub fn lengthen(
    store: &dyn Store,
    lock: Lock,
    known: &Known,
    newest: Option<&Committed>,
    locks: &mut Locks,
    now: Time,
) -> Result<u64, StoreError> {
    if lock == Lock::None {
        return Ok(0);
    }
    let mut run = Run { store, lock, left: BUDGET, count: 0 };
    run.writers(known, &mut locks.writers)?;
    let Some(needed) = known.retain_until.map(Time::ceil_second) else { return Ok(run.count) };
    let due = |(then, began): &(Time, Time)| {
        needed >= then.saturating_add_seconds(EVERY)
            || needed > *then && now >= began.saturating_add_seconds(EVERY)
    };
    if locks.sweep.is_none() && locks.last.as_ref().is_none_or(due) {
        let at = At::key(name::TRAIL);
        run.keep(&at, needed)?;
        locks.sweep = Some(Sweep { needed, began: now, stage: 0, after: None });
    }
    if let Some(sweep) = &mut locks.sweep {
        while let Some(prefix) = UNDER.get(sweep.stage) {
            if run.left == 0 {
                return Ok(run.count);
            }
            match run.page(prefix, sweep, newest)? {
                Some(last) => sweep.after = Some(last),
                None => (sweep.stage, sweep.after) = (sweep.stage + 1, None),
            }
        }
        locks.last = Some((sweep.needed, sweep.began));
        locks.sweep = None;
    }
    Ok(run.count)
}

struct Run<'s> {
    store: &'s dyn Store,
    lock: Lock,
    left: usize,
    count: u64,
}

impl Run<'_> {
    /// Locks an object until `needed` at least.
    fn keep(&mut self, at: &At, needed: Time) -> Result<(), StoreError> {
        self.left = self.left.saturating_sub(1);
        let Some(head) = self.store.head(at)? else { return Ok(()) };
        if (Retain { lock: self.lock, until: needed }).is_kept_by(head.retain) {
            return Ok(());
        }
        let until = needed.saturating_add_seconds(AHEAD);
        self.store.extend(at, &Retain { lock: self.lock, until })?;
        self.count += 1;
        Ok(())
    }

    /// The version under a key that `is` takes.
    fn keep_one(
        &mut self,
        key: &str,
        limit: u64,
        needed: Time,
        is: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let found = oldest_version(self.store, key, limit, is)?;
        if let Some((at, _)) = &found {
            self.keep(at, needed)?;
        }
        Ok(found.map(|(_, body)| body))
    }

    /// Genesis, key statements and certificates of the writers whose headers need them for longer than they are locked.
    fn writers(&mut self, known: &Known, done: &mut BTreeMap<String, Time>) -> Result<(), StoreError> {
        for (writer, w) in &known.writers {
            let Some(needed) = w.retain_until.map(Time::ceil_second) else { continue };
            if done.get(writer).is_some_and(|until| *until >= needed) {
                continue;
            }
            if self.left == 0 {
                return Ok(());
            }
            for (number, keys) in (0..).zip(&w.keys) {
                let key =
                    if number == 0 { name::genesis_key(writer) } else { name::keys_key(writer, number) };
                let is = |b: &[u8]| Envelope::parse(b).is_ok_and(|e| e.statement_hash() == keys.statement);
                let Some(bytes) = self.keep_one(&key, MAX_ENVELOPE as u64, needed, &is)? else { continue };
                for digest in certificates(&bytes) {
                    let is = |b: &[u8]| sha256(b) == digest;
                    self.keep_one(&name::certificate_key(&digest), MAX_CERTIFICATE, needed, &is)?;
                }
            }
            done.insert(writer.clone(), needed.saturating_add_seconds(AHEAD));
        }
        Ok(())
    }

    /// A page of what lies under a prefix; the last key, if there are more.
    fn page(
        &mut self,
        prefix: &str,
        sweep: &Sweep,
        newest: Option<&Committed>,
    ) -> Result<Option<String>, StoreError> {
        let after = sweep.after.clone();
        let mut all: Vec<Version> = Vec::new();
        let mark = after.map(|key| waxseal_store::Mark { key, version: None });
        let page = self.store.list_versions(prefix, mark.as_ref())?;
        all.extend(page.versions.into_iter().filter(|v| !v.delete_marker));
        // Only workers may write here: whatever lies beside is theirs, and cheap.
        let last = all.last().map(|v| v.key.clone());
        for v in all {
            // What is superseded is needed by nobody.
            let behind = newest
                .is_some_and(|n| v.key.starts_with("log/checkpoints/") && v.key > checkpoint_key(n.number));
            if v.key.contains(".p/") || behind {
                continue;
            }
            self.keep(&At { key: v.key, version: v.id, bytes: v.bytes }, sweep.needed)?;
        }
        Ok(last.filter(|_| page.next.is_some()))
    }
}

/// The digests of the certificates that a genesis or a key statement names.
fn certificates(bytes: &[u8]) -> Vec<Hash> {
    let Ok(envelope) = Envelope::parse(bytes) else { return Vec::new() };
    let keys = match valid::payload::<Writer>(&envelope) {
        Ok(genesis) => genesis.keys,
        Err(_) => valid::payload::<waxseal_trail::statement::Keys>(&envelope)
            .map_or_else(|_| Vec::new(), |k| k.keys),
    };
    keys.into_iter().flat_map(|k| k.certificates).collect()
}
