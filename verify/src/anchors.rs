//! What others have signed of the log (FORMAT sections 6 and 7): it says up to when there is proof from outside.

use crate::log::{Log, bodies};
use crate::report::AnchorInfo;
use crate::{Anchor, Session};
use std::collections::BTreeMap;
use waxseal_log::Committed;
use waxseal_trail::log::note::{Line, Note};
use waxseal_trail::log::policy::Policy;
use waxseal_trail::time::Time;
use waxseal_trail::verdict::{Finding, Verdict};

/// The largest cosignature line that is read.
const MAX_LINE: u64 = 8 << 10;
/// How far a clock may be ahead of an outside one.
const SKEW: i64 = 60;

/// What was found.
#[derive(Clone, Default)]
pub(crate) struct Found {
    /// The newest checkpoint that enough have signed, and when the last of them did.
    pub(crate) newest: Option<(Committed, Time)>,
    /// Everyone whose word counts, on the newest checkpoints that anybody has signed.
    pub(crate) all: Vec<AnchorInfo>,
}

/// Reads cosignatures, from the newest checkpoint on until one has enough; `keys` are all keys under `anchors/`.
pub(crate) fn read(session: &Session<'_>, log: &Log<'_>, keys: &[String]) -> Found {
    let mut found = Found::default();
    let Anchor::File(trust) = &session.options.anchor else { return found };
    let Some(policy) = trust.policy.as_ref().filter(|p| !p.witnesses.is_empty()) else { return found };
    let mut by_number: BTreeMap<u64, Vec<&String>> = BTreeMap::new();
    for key in keys {
        let mut parts = key.split('/').skip(1);
        if let (Some(n), Some("cosignatures"), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
            && let Ok(number) = n.parse()
        {
            by_number.entry(number).or_default().push(key);
        }
    }
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
        for (name, seconds) in cosigned.by.iter().filter(|(_, t)| *t <= latest) {
            found.all.extend(at(*seconds).map(|at| AnchorInfo {
                kind: "witness",
                name: name.clone(),
                checkpoint: committed.number,
                at,
            }));
        }
        if let Some(last) = policy.quorum_at(&cosigned, latest).and_then(at) {
            found.newest = Some((committed.clone(), last));
            break;
        }
    }
    found
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

/// Whether what there is is as new as it should be: `found` against the policy.
pub(crate) fn judge(session: &Session<'_>, log: &Log<'_>, found: &Found) {
    let (Anchor::File(trust), Some(trail)) = (&session.options.anchor, &session.trail) else { return };
    if !trust.policy.as_ref().is_some_and(Policy::needs_witnesses) {
        return;
    }
    let age = i64::try_from(trust.max_anchor_age.unwrap_or(trail.max_merge_delay)).unwrap_or(i64::MAX);
    let newest = log.newest().map(|n| n.number);
    let (since, what) = match &found.newest {
        Some((c, at)) if Some(c.number) == newest => (*at, format!("of checkpoint {}, the newest", c.number)),
        Some((c, at)) => (*at, format!("of checkpoint {}; the newest is {}", c.number, newest.unwrap_or(0))),
        None => (trail.created_at, "of no checkpoint yet".to_owned()),
    };
    let finding = |verdict, detail: String| Finding::new(verdict, detail).at("anchors/");
    if session.options.now > since.saturating_add_seconds(age) {
        let detail =
            format!("the newest proof from outside is {what}, and older than {age} s (since {since})");
        session.find(finding(Verdict::Stale, detail));
    } else if found.newest.as_ref().is_none_or(|(c, _)| Some(c.number) != newest) {
        session.find(finding(Verdict::Unanchored, format!("the newest proof from outside is {what}")));
    }
}

/// Whether a header that an outside proof includes says that it was sealed after it.
pub(crate) fn is_ahead(found: &Found, index: u64, sealed_at: Time) -> Option<Time> {
    let (c, at) = found.newest.as_ref()?;
    (index < c.checkpoint.size && sealed_at > at.saturating_add_seconds(SKEW)).then_some(*at)
}
