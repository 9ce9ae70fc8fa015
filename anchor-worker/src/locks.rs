//! The trail outlives its parts (FORMAT section 5 rule 5): what headers need is kept as long as they are.
//!
//! A header's `retain_until` grows with each batch, and what was put before it was locked for less. So the genesis, key statements
//! and certificates of a writer are locked as long as its last header, and the trail statement, the tiles, the checkpoints and the
//! anchors as long as the last of all. To do that once a month and not in each round, a lock that is too short is lengthened by
//! [`AHEAD`] more than is needed; the bucket's own cap on retention has room for it.

use crate::known::Known;
use crate::round::Longest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use waxseal_log::{Committed, checkpoint_key};
use waxseal_store::{At, Mark, Retain, Store, StoreError, oldest_version};
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
/// So many key statements of a writer, and so many certificates of each, are kept: who makes more has reasons of its own.
const MAX_KEYS: usize = 200;
const MAX_CERTIFICATES: usize = 32;
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
    /// Where the listing goes on.
    after: Option<String>,
    #[serde(default)]
    version: Option<String>,
}

/// What decides how long something is locked.
pub struct Needs {
    /// The trail id.
    pub trail: Hash,
    /// The kind of lock.
    pub lock: Lock,
    /// Nothing is locked for longer.
    pub longest: Longest,
    /// Now.
    pub now: Time,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Done {
    /// So many locks are longer.
    pub count: u64,
    /// So many could not be looked at or lengthened: they are tried again.
    pub failed: u64,
    /// Why not, the first of these.
    pub first: Option<StoreError>,
}

/// Lengthens locks that are too short. One object that cannot be read or lengthened does not keep the others from it: what is left
/// is tried again.
pub fn lengthen(
    store: &dyn Store,
    needs: &Needs,
    known: &Known,
    newest: Option<&Committed>,
    locks: &mut Locks,
) -> Done {
    let now = needs.now;
    let mut run = Run { store, needs, left: BUDGET, done: Done::default() };
    if needs.lock == Lock::None {
        return run.done;
    }
    run.writers(known, &mut locks.writers);
    // What lies under the log has a budget of its own.
    run.left = BUDGET;
    let needed = known.retain_until.map(|t| t.ceil_second().min(needs.longest.from(now)));
    let Some(needed) = needed else { return run.done };
    let due = |(then, began): &(Time, Time)| {
        needed >= then.saturating_add_seconds(EVERY)
            || needed > *then && now >= began.saturating_add_seconds(EVERY)
    };
    if locks.sweep.is_none() && locks.last.as_ref().is_none_or(due) {
        let is = |b: &[u8]| valid::trail(b).is_ok_and(|(e, _)| e.statement_hash() == needs.trail);
        run.keep_one(name::TRAIL, MAX_ENVELOPE as u64, needed, &is);
        locks.sweep = Some(Sweep { needed, began: now, stage: 0, after: None, version: None });
    }
    if let Some(sweep) = &mut locks.sweep {
        while let Some(prefix) = UNDER.get(sweep.stage) {
            if run.left == 0 {
                return run.done;
            }
            match run.page(prefix, sweep, newest) {
                Ok(Some(next)) => (sweep.after, sweep.version) = (Some(next.key), next.version),
                Ok(None) => (sweep.stage, sweep.after, sweep.version) = (sweep.stage + 1, None, None),
                Err(e) => {
                    run.fail(e);
                    return run.done;
                }
            }
        }
        locks.last = Some((sweep.needed, sweep.began));
        locks.sweep = None;
    }
    run.done
}

struct Run<'s> {
    store: &'s dyn Store,
    needs: &'s Needs,
    left: usize,
    done: Done,
}

impl Run<'_> {
    fn fail(&mut self, e: StoreError) {
        self.done.failed += 1;
        self.done.first.get_or_insert(e);
    }

    /// Locks an object until `needed` at least; whether it is.
    fn keep(&mut self, at: &At, needed: Time) -> bool {
        self.left = self.left.saturating_sub(1);
        let lock = self.needs.lock;
        let head = match self.store.head(at) {
            Ok(Some(head)) => head,
            Ok(None) => return false,
            Err(e) => {
                self.fail(e);
                return false;
            }
        };
        if (Retain { lock, until: needed }).is_kept_by(head.retain) {
            return true;
        }
        // For a month ahead, if the bucket's cap on retention has room for that.
        let ahead = needed.saturating_add_seconds(AHEAD);
        let mut result = self.store.extend(at, &Retain { lock, until: ahead });
        if result.is_err() {
            result = self.store.extend(at, &Retain { lock, until: needed });
        }
        match result {
            Ok(()) => {
                self.done.count += 1;
                true
            }
            Err(e) => {
                self.fail(e);
                false
            }
        }
    }

    /// The version under a key that `is` takes, if it is locked long enough now.
    fn keep_one(
        &mut self,
        key: &str,
        limit: u64,
        needed: Time,
        is: &dyn Fn(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        match oldest_version(self.store, key, limit, is) {
            Ok(Some((at, body))) => self.keep(&at, needed).then_some(body),
            Ok(None) => None,
            Err(e) => {
                self.fail(e);
                None
            }
        }
    }

    /// Genesis, key statements and certificates of the writers whose headers need them for longer than they are locked.
    fn writers(&mut self, known: &Known, done: &mut BTreeMap<String, Time>) {
        let longest = self.needs.longest.from(self.needs.now);
        for (writer, w) in &known.writers {
            let Some(needed) = w.retain_until.map(|t| t.ceil_second().min(longest)) else { continue };
            if done.get(writer).is_some_and(|until| *until >= needed) {
                continue;
            }
            if self.left == 0 {
                return;
            }
            let mut all = true;
            for (number, keys) in (0..).zip(&w.keys).take(MAX_KEYS) {
                let key =
                    if number == 0 { name::genesis_key(writer) } else { name::keys_key(writer, number) };
                let is = |b: &[u8]| Envelope::parse(b).is_ok_and(|e| e.statement_hash() == keys.statement);
                let Some(bytes) = self.keep_one(&key, MAX_ENVELOPE as u64, needed, &is) else {
                    all = false;
                    continue;
                };
                for digest in certificates(&bytes).into_iter().take(MAX_CERTIFICATES) {
                    let is = |b: &[u8]| sha256(b) == digest;
                    let kept = self.keep_one(&name::certificate_key(&digest), MAX_CERTIFICATE, needed, &is);
                    all &= kept.is_some();
                }
            }
            // What is missing is said by others, and looked for again in half a month.
            let until = if all { AHEAD } else { EVERY };
            done.insert(writer.clone(), needed.saturating_add_seconds(until));
        }
    }

    /// A page of what lies under a prefix; where it goes on.
    fn page(
        &mut self,
        prefix: &str,
        sweep: &Sweep,
        newest: Option<&Committed>,
    ) -> Result<Option<Mark>, StoreError> {
        let mark = sweep.after.clone().map(|key| Mark { key, version: sweep.version.clone() });
        let page = self.store.list_versions(prefix, mark.as_ref())?;
        // Only workers may write here: whatever lies beside is theirs, and cheap.
        for v in page.versions.into_iter().filter(|v| !v.delete_marker) {
            // What is superseded is needed by nobody.
            let behind = newest
                .is_some_and(|n| v.key.starts_with("log/checkpoints/") && v.key > checkpoint_key(n.number));
            if v.key.contains(".p/") || behind {
                continue;
            }
            self.keep(&At { key: v.key, version: v.id, bytes: v.bytes }, sweep.needed);
        }
        Ok(page.next)
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
