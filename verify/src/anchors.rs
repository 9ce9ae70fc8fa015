//! What others have signed of the log (FORMAT sections 6 and 7): it says up to when there is proof from outside.

use crate::chains::{self, Heads, OfChain};
use crate::log::{Log, bodies};
use crate::report::AnchorInfo;
use crate::{Anchor, Session};
use std::collections::BTreeMap;
use waxseal_log::Committed;
use waxseal_timestamp::{MAX_RESPONSE, Stamp, StampFault, verify};
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::log::note::{Line, Note};
use waxseal_trail::log::policy::Policy;
use waxseal_trail::name;
use waxseal_trail::statement::{Payload as _, Renewal};
use waxseal_trail::time::Time;
use waxseal_trail::trust::Trust;
use waxseal_trail::valid;
use waxseal_trail::verdict::{Finding, Verdict};

/// The largest cosignature line that is read.
const MAX_LINE: u64 = 8 << 10;
/// The time-stamps of so many checkpoints are read at once.
const READ_AHEAD: usize = 64;
/// How far a clock may be ahead of an outside one.
const SKEW: i64 = 60;

/// What was found.
#[derive(Clone, Default)]
pub(crate) struct Found {
    /// The newest checkpoint that enough witnesses have signed, and when the last of them did.
    pub(crate) newest: Option<(Committed, Time)>,
    /// The newest checkpoint with a time-stamp that counts, and its time.
    pub(crate) stamped: Option<(Committed, Time)>,
    /// Everyone whose word counts, on the newest checkpoints that anybody has signed.
    pub(crate) all: Vec<AnchorInfo>,
    /// What chains have anchored, of each that the trust file names.
    pub(crate) chains: Vec<OfChain>,
    /// Whether somebody outside remembers another log.
    pub(crate) contradicted: bool,
    /// Of all proofs from outside: how many entries one is over, and the earliest time of one over so many or more.
    pub(crate) times: Vec<(u64, Time)>,
}

impl Found {
    /// When somebody outside had seen an entry at the latest.
    pub(crate) fn seen_by(&self, index: u64) -> Option<Time> {
        let at = self.times.partition_point(|(size, _)| *size <= index);
        self.times.get(at).map(|(_, time)| *time)
    }
}

/// Reads cosignatures, from the newest checkpoint on until one has enough, and time-stamps: all of them, or with `--quick` the
/// newest; `keys` are all keys under `anchors/`.
pub(crate) fn read(session: &Session<'_>, log: &Log<'_>, keys: &[String], heads: &Heads) -> Found {
    let mut found = Found::default();
    let Anchor::File(trust) = &session.options.anchor else { return found };
    if let Some(policy) = trust.policy.as_ref().filter(|p| !p.witnesses.is_empty()) {
        cosignatures(session, log, policy, &by_number(keys, "cosignatures"), &mut found);
    }
    if !trust.timestamps.is_empty() {
        stamps(session, log, &trust.timestamps, &by_number(keys, "rfc3161"), &mut found);
    }
    if !trust.ethereum.is_empty() {
        chains::read(session, log, &trust.ethereum, heads, &by_number(keys, "ethereum"), &mut found);
    }
    found.times.sort_unstable();
    let mut earliest = Time::MAX;
    for (_, time) in found.times.iter_mut().rev() {
        earliest = earliest.min(*time);
        *time = earliest;
    }
    found
}

/// The keys under `anchors/<n>/<kind>/`, by n.
fn by_number<'k>(keys: &'k [String], kind: &str) -> BTreeMap<u64, Vec<&'k String>> {
    let mut by_number: BTreeMap<u64, Vec<&String>> = BTreeMap::new();
    for key in keys {
        let mut parts = key.split('/').skip(1);
        if let (Some(n), Some(k), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
            && k == kind
            && let Some(number) = name::number(n, 12)
        {
            by_number.entry(number).or_default().push(key);
        }
    }
    by_number
}

/// A time-stamp that counts, but for its certificate's end.
struct Kept<'k> {
    key: &'k String,
    digest: Hash,
    committed: &'k Committed,
    stamp: Stamp,
}

fn stamps<'k>(
    session: &Session<'_>,
    log: &'k Log<'_>,
    roots: &[Vec<u8>],
    by_number: &BTreeMap<u64, Vec<&'k String>>,
    found: &mut Found,
) {
    let mut kept: Vec<Kept<'_>> = Vec::new();
    let wanted: Vec<&Committed> =
        log.chain.iter().rev().filter(|c| by_number.contains_key(&c.number)).collect();
    for some in wanted.chunks(READ_AHEAD) {
        let keys = some.iter().filter_map(|c| by_number.get(&c.number)).flatten().map(|k| (*k).clone());
        session.read_ahead(&keys.collect::<Vec<_>>(), MAX_RESPONSE as u64);
        for committed in some {
            let imprint = sha256(&committed.bytes);
            for key in by_number.get(&committed.number).into_iter().flatten() {
                let counts = |b: &[u8]| verify(b, Some(&imprint), None, roots);
                let all = bodies(session, key, MAX_RESPONSE as u64, &|b| counts(b).is_ok());
                let mut why = None;
                let good = all.iter().find_map(|b| match counts(b) {
                    Ok(stamp) => Some((sha256(b), stamp)),
                    Err(e) => {
                        why = Some(e);
                        None
                    }
                });
                match good {
                    Some((digest, stamp)) => kept.push(Kept { key, digest, committed, stamp }),
                    // Another authority than the trust file's counts for nothing, and is nobody's fault.
                    None if matches!(why, Some(StampFault::UnknownRoot)) => {}
                    None => {
                        // One that leads to no root for another reason may be another authority's, too.
                        let chain = matches!(why, Some(StampFault::Chain(_) | StampFault::Expired(_)));
                        let foreign = chain || session.store.has_versions();
                        let verdict = if foreign { Verdict::Foreign } else { Verdict::Tampered };
                        let why = why.map_or("not there".to_owned(), |e| e.to_string());
                        let detail = format!("no time-stamp of its checkpoint that counts: {why}");
                        session.find(Finding::new(verdict, detail).at(*key));
                    }
                }
            }
        }
        if session.options.quick && !kept.is_empty() {
            break;
        }
    }
    let now = session.options.now;
    // Those with the latest ends vouch for those that they are over.
    let renewed = renewed(session, log, &kept);
    kept.sort_by_key(|k| std::cmp::Reverse(k.stamp.not_after));
    let mut good: Vec<&Kept<'_>> = Vec::new();
    let mut ended: BTreeMap<Time, (u64, u64)> = BTreeMap::new();
    for k in &kept {
        let carried = |index: &u64| {
            let over =
                |g: &&Kept<'_>| g.committed.checkpoint.size > *index && g.stamp.at <= k.stamp.not_after;
            good.iter().any(|g| over(g) && g.stamp.not_after > k.stamp.not_after)
        };
        if now <= k.stamp.not_after || renewed.get(&k.digest).is_some_and(carried) {
            good.push(k);
        } else {
            let of = ended.entry(k.stamp.not_after).or_insert((k.committed.number, 0));
            *of = (of.0.min(k.committed.number), of.1 + 1);
        }
    }
    for (end, (first, count)) in ended {
        let detail = format!(
            "{count} time-stamp(s), the first of checkpoint {first}, count no longer: their certificates ended at {end}, and \
             nothing carries them on"
        );
        let prefix = waxseal_log::stamps_prefix(first);
        session.find(Finding::new(Verdict::Unanchored, detail).at(prefix));
    }
    for k in &good {
        found.times.push((k.committed.checkpoint.size, k.stamp.at));
    }
    let newest = good.iter().max_by_key(|k| (k.committed.number, std::cmp::Reverse(k.stamp.at)));
    if let Some(newest) = newest {
        found.stamped = Some((newest.committed.clone(), newest.stamp.at));
        let of_newest = good.iter().filter(|k| k.committed.number == newest.committed.number);
        found.all.extend(of_newest.map(|k| AnchorInfo {
            kind: "timestamp",
            // It is the name of an object, which anybody may have given it.
            name: plain(k.key.rsplit('/').next().and_then(|f| f.rsplit_once('-')).map_or("", |f| f.0)),
            checkpoint: k.committed.number,
            at: k.stamp.at,
        }));
    }
}

/// The first entry of the log that carries a time-stamp on, by the digest of the response. Only read where one has ended.
fn renewed(session: &Session<'_>, log: &Log<'_>, kept: &[Kept<'_>]) -> BTreeMap<Hash, u64> {
    let mut renewed = BTreeMap::new();
    if kept.iter().all(|k| session.options.now <= k.stamp.not_after) {
        return renewed;
    }
    let under = format!("statements/{}/", Renewal::KIND);
    for key in log.logged.statements().filter(|k| k.starts_with(&under)) {
        let Some(entry) = log.logged.at(key) else { continue };
        let Some(bytes) = log.entry(entry.index) else { continue };
        let payload = Envelope::parse(&bytes).ok().and_then(|e| valid::payload::<Renewal>(&e).ok());
        for token in payload.into_iter().flat_map(|p| p.tokens) {
            let index = renewed.entry(token.sha256).or_insert(entry.index);
            *index = entry.index.min(*index);
        }
    }
    renewed
}

fn cosignatures(
    session: &Session<'_>,
    log: &Log<'_>,
    policy: &Policy,
    by_number: &BTreeMap<u64, Vec<&String>>,
    found: &mut Found,
) {
    let by_certificate = |t: &Trust| t.writers.iter().any(|w| !w.cas.is_empty());
    let all = match &session.options.anchor {
        Anchor::File(trust) => by_certificate(trust) && !session.options.quick,
        Anchor::Embedded => false,
    };
    for committed in log.chain.iter().rev() {
        let Some(keys) = by_number.get(&committed.number) else { continue };
        let Ok(note) = Note::parse(&committed.bytes) else { continue };
        let mut lines = Vec::new();
        for key in keys {
            lines.extend(good_line(session, policy, &note, key));
        }
        let Ok(cosigned) = policy.cosigned(&Note { text: note.text, lines }) else { continue };
        let at = |seconds: u64| Time::from_unix(i64::try_from(seconds).ok()?, 0);
        // A witness whose clock is ahead of everybody's says nothing of when.
        let latest = session.options.now.saturating_add_seconds(SKEW).unix_seconds();
        let latest = u64::try_from(latest).unwrap_or(0);
        let first = found.newest.is_none();
        for (name, seconds) in cosigned.by.iter().filter(|(_, t)| first && *t <= latest) {
            found.all.extend(at(*seconds).map(|at| AnchorInfo {
                kind: "witness",
                name: name.clone(),
                checkpoint: committed.number,
                at,
            }));
        }
        if let Some(last) = policy.quorum_at(&cosigned, latest).and_then(at) {
            found.times.push((committed.checkpoint.size, last));
            found.newest.get_or_insert_with(|| (committed.clone(), last));
            // When a certificate's statement was first seen, only all of them say.
            if !all {
                break;
            }
        }
    }
}

/// The line under a key, if it is of a witness whose word counts, or of one that nobody here knows: of several versions the first.
fn good_line(session: &Session<'_>, policy: &Policy, note: &Note, key: &str) -> Option<Line> {
    let line = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).ok()?;
        let line = Line::parse(text.strip_suffix('\n')?).ok()?;
        let alone = Note { text: note.text.clone(), lines: vec![line.clone()] };
        policy.cosigned(&alone).is_ok().then_some(line)
    };
    let good = bodies(session, key, MAX_LINE, &|b| line(b.to_vec()).is_some()).into_iter().find_map(line);
    if good.is_none() {
        let verdict = if session.store.has_versions() { Verdict::Foreign } else { Verdict::Tampered };
        session.find(Finding::new(verdict, "no cosignature of its checkpoint").at(key));
    }
    good
}

/// What stands in a store, so that it repaints nobody's terminal.
fn plain(text: &str) -> String {
    text.replace(|c: char| c.is_control(), "?")
}

/// Whether what there is is as new as it should be: `found` against the policy. Each kind of proof that the trust file names has to
/// be: a time-stamp does not stand for witnesses, who alone see two logs where there should be one.
pub(crate) fn judge(session: &Session<'_>, log: &Log<'_>, found: &Found) {
    let (Anchor::File(trust), Some(trail)) = (&session.options.anchor, &session.trail) else { return };
    let age = i64::try_from(trust.max_anchor_age.unwrap_or(trail.max_merge_delay)).unwrap_or(i64::MAX);
    let newest = log.newest().map(|n| n.number);
    let witnesses = trust.policy.as_ref().is_some_and(Policy::needs_witnesses);
    let mut kinds = Vec::new();
    kinds.extend(witnesses.then(|| (&found.newest, "quorum of witnesses".to_owned())));
    kinds.extend((!trust.timestamps.is_empty()).then(|| (&found.stamped, "time-stamp".to_owned())));
    let young = |at: Time| session.options.now <= at.saturating_add_seconds(age);
    for of in &found.chains {
        let kind = format!("anchor on chain {}", of.chain);
        // What nobody has checked is never good, and would it be, it is not bad either.
        let checked = of.newest.as_ref().is_some_and(|(_, at)| young(*at));
        match &of.unchecked {
            Some(why) if !checked || of.failed => {
                let at = format!("anchors/*/ethereum/{}-*", of.chain);
                let detail = format!("CHAIN NOT CHECKED: chain {}: {why}", of.chain);
                session.find(Finding::new(Verdict::ChainNotChecked, detail).at(at));
                kinds.push((&of.claimed, format!("{kind} that is claimed")));
            }
            _ => kinds.push((&of.newest, kind)),
        }
    }
    for (newest_of_kind, kind) in kinds {
        let (since, what) = match newest_of_kind {
            Some((c, at)) if Some(c.number) == newest => {
                (*at, format!("of checkpoint {}, the newest", c.number))
            }
            Some((c, at)) => {
                (*at, format!("of checkpoint {}; the newest is {}", c.number, newest.unwrap_or(0)))
            }
            None => (trail.created_at, "of no checkpoint yet".to_owned()),
        };
        let finding = |verdict, detail: String| Finding::new(verdict, detail).at("anchors/");
        if session.options.now > since.saturating_add_seconds(age) {
            let detail = format!("the newest {kind} is {what}, and older than {age} s (since {since})");
            session.find(finding(Verdict::Stale, detail));
        } else if newest_of_kind.as_ref().is_none_or(|(c, _)| Some(c.number) != newest) {
            session.find(finding(Verdict::Unanchored, format!("the newest {kind} is {what}")));
        }
    }
}

/// Whether a header that an outside proof includes says that it was sealed after it.
pub(crate) fn is_ahead(found: &Found, index: u64, sealed_at: Time) -> Option<Time> {
    found.seen_by(index).filter(|at| sealed_at > at.saturating_add_seconds(SKEW))
}
