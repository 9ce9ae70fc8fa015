//! Time-stamps (RFC 3161) of checkpoints: asked of the first time-stamping authority that answers, checked before they are kept, and
//! carried on before the certificates that signed them end.
//!
//! A time-stamp is worth what its certificate is: after its end nobody vouches for it. So in the last [`BEFORE_END`] a `renewal`
//! statement goes into the log with the digests of all time-stamps that end then; the next time-stamp over the log is over these,
//! too, and over everything that they were over (in the spirit of RFC 4998, with the log as its hash tree). No authority is asked
//! once more for each of them.

use crate::anchors::{Showing, Shown, Standing, back_off};
use crate::http::Client;
use crate::known::Known;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use waxseal_log::{ReadError, checkpoint, stamps_prefix};
use waxseal_store::{Kind, Store, StoreError, list_all_keys, oldest};
use waxseal_timestamp::{MAX_RESPONSE, REQUEST_TYPE, RESPONSE_TYPE, Stamp, StampFault, request, verify};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::log::note::VerifierKey;
use waxseal_trail::statement::{Renewal, RenewedToken, format_of};
use waxseal_trail::time::Time;

/// What they are, in a worker's output.
const KIND: &str = "time-stamping authority";
/// So long before its certificate ends a time-stamp is carried on, in seconds: 60 days.
pub const BEFORE_END: i64 = 60 * 86_400;
/// So many checkpoints are looked at in a round.
const BUDGET: u64 = 200;
/// So many time-stamps are in one statement: with the longest names they still fit into an envelope.
const MAX_TOKENS: usize = 100;
/// So many responses to a checkpoint are looked at.
const MAX_LOOKED: usize = 64;
/// So many responses of one authority are kept of a checkpoint.
const MAX_SAME: u32 = 8;

/// A time-stamping authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its name, as in the names of what it signs.
    pub name: String,
    /// Where it answers.
    pub url: String,
}

/// Why it has not stamped.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Http(String),
    #[error("it answers {status} ({kind})")]
    Answer { status: u16, kind: String },
    #[error("what it answers does not count: {0}")]
    Stamp(#[from] StampFault),
    #[error("no random numbers: {0}")]
    Random(String),
}

/// How it is with one of them.
#[derive(Clone, Debug)]
struct Target {
    authority: Authority,
    last_success: Option<Time>,
    failures: u32,
    next: Option<Time>,
    signed: Option<u64>,
}

/// All that may be asked, in the order in which they are.
pub struct Authorities {
    http: Client,
    roots: Vec<Vec<u8>>,
    targets: Vec<Target>,
    longest: Duration,
    /// So many have to stamp each checkpoint.
    wanted: usize,
    /// The checkpoint that was looked at last, and who has stamped it.
    done: Option<(u64, BTreeSet<String>)>,
}

impl Authorities {
    /// These, of which `wanted` are asked; `roots` are the trust file's.
    pub fn new(
        all: Vec<Authority>,
        wanted: usize,
        roots: Vec<Vec<u8>>,
        http: Client,
        longest: Duration,
    ) -> Authorities {
        let target =
            |authority| Target { authority, last_success: None, failures: 0, next: None, signed: None };
        let targets: Vec<Target> = all.into_iter().map(target).collect();
        Authorities { http, roots, wanted: wanted.min(targets.len()), targets, longest, done: None }
    }

    /// Other roots.
    pub fn renew(&mut self, roots: Vec<Vec<u8>>) {
        self.roots = roots;
        self.done = None;
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.targets.iter().map(|t| t.authority.name.clone()).collect()
    }

    /// How it is with each.
    pub fn standing(&self) -> impl Iterator<Item = Standing> + '_ {
        self.targets.iter().map(|t| Standing {
            kind: "timestamp",
            name: t.authority.name.clone(),
            last_success: t.last_success,
            failures: t.failures,
            signed: t.signed,
            wanting: None,
        })
    }

    /// How many time-stamps a checkpoint lacks.
    pub(crate) fn missing(&self, number: u64) -> usize {
        let done = self.done.as_ref().filter(|(n, _)| *n == number).map_or(0, |(_, d)| d.len());
        self.wanted.saturating_sub(done)
    }

    /// When the next try for a checkpoint is due, if it has too few.
    pub fn due(&self, number: u64) -> Option<Time> {
        if self.missing(number) == 0 {
            return None;
        }
        let done = self.done.as_ref().filter(|(n, _)| *n == number).map(|(_, d)| d);
        let open = self.targets.iter().filter(|t| done.is_none_or(|d| !d.contains(&t.authority.name)));
        open.map(|t| t.next.unwrap_or(Time::MIN)).min()
    }

    /// Has a checkpoint stamped by as many as are wanted: in their order, passing by those that failed not long ago. Whom it asked,
    /// and what came of it.
    ///
    /// # Errors
    /// [`StoreError`], if what was stamped cannot be kept.
    pub fn show(&mut self, showing: &Showing<'_>) -> Result<Vec<Shown>, StoreError> {
        let Showing { store, committed, now, .. } = *showing;
        let number = committed.number;
        if self.targets.is_empty() {
            return Ok(Vec::new());
        }
        let imprint = sha256(&committed.bytes);
        if self.done.as_ref().is_none_or(|(n, _)| *n != number) {
            let kept = kept(store, keys(store, number)?, &self.names(), &imprint, &self.roots)?;
            let done: BTreeSet<String> = kept.into_iter().map(|(key, ..)| authority_of(&key)).collect();
            for target in self.targets.iter_mut().filter(|t| done.contains(&t.authority.name)) {
                target.signed = Some(number);
            }
            self.done = Some((number, done));
        }
        let mut missing = self.missing(number);
        let mut shown = Vec::new();
        for target in &mut self.targets {
            let Some((_, done)) = &mut self.done else { break };
            let waits = target.next.is_some_and(|next| next > now);
            if missing == 0 || waits || done.contains(&target.authority.name) {
                continue;
            }
            let name = target.authority.name.clone();
            match ask(&self.http, &target.authority.url, &imprint, &self.roots) {
                Ok(response) => {
                    keep(showing, &name, response)?;
                    (target.last_success, target.failures, target.next) = (Some(now), 0, None);
                    target.signed = Some(number);
                    done.insert(name.clone());
                    missing -= 1;
                    shown.push(Shown { kind: KIND, name, result: Ok(()) });
                }
                Err(e) => {
                    let wait = back_off(target.failures, self.longest);
                    target.failures = target.failures.saturating_add(1);
                    let seconds = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
                    target.next = Some(now.saturating_add_seconds(seconds));
                    shown.push(Shown { kind: KIND, name, result: Err((e.to_string(), false)) });
                }
            }
        }
        Ok(shown)
    }
}

/// `<tsa>` of `anchors/<n>/rfc3161/<tsa>-<k>.tsr`
fn authority_of(key: &str) -> String {
    let file = key.rsplit('/').next().unwrap_or_default();
    file.rsplit_once('-').map_or(file, |(name, _)| name).to_owned()
}

fn ask(http: &Client, url: &str, imprint: &Hash, roots: &[Vec<u8>]) -> Result<Vec<u8>, AskError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|e| AskError::Random(e.to_string()))?;
    let body = request(imprint, &nonce)?;
    let answer = http.post(url, REQUEST_TYPE, &body, MAX_RESPONSE as u64).map_err(AskError::Http)?;
    if answer.status != 200 || answer.kind != RESPONSE_TYPE {
        return Err(AskError::Answer { status: answer.status, kind: answer.kind });
    }
    // Nothing is kept that a verifier would not take.
    verify(&answer.body, Some(imprint), Some(&nonce), roots)?;
    Ok(answer.body)
}

/// Keeps a response under the first number that is free.
fn keep(showing: &Showing<'_>, name: &str, response: Vec<u8>) -> Result<(), StoreError> {
    let key = |k: u32| format!("{}{name}-{k}.tsr", stamps_prefix(showing.committed.number));
    showing.keep_first(&key, MAX_SAME, &Bytes::from(response))
}

/// Where there are responses to a checkpoint.
fn keys(store: &dyn Store, number: u64) -> Result<Vec<String>, StoreError> {
    let mut keys = Vec::new();
    list_all_keys(store, &stamps_prefix(number), &mut |k| keys.push(k))?;
    keys.retain(|k| k.ends_with(".tsr"));
    Ok(keys)
}

/// Those that count: key, digest of the response, what it says.
fn kept(
    store: &dyn Store,
    keys: Vec<String>,
    names: &[String],
    imprint: &Hash,
    roots: &[Vec<u8>],
) -> Result<Vec<(String, Hash, Stamp)>, StoreError> {
    let mut all = Vec::new();
    // Strangers' names may come first in a listing.
    let (own, others): (Vec<_>, Vec<_>) = keys.into_iter().partition(|k| names.contains(&authority_of(k)));
    for key in own.into_iter().chain(others).take(MAX_LOOKED) {
        let counts = |b: &[u8]| verify(b, Some(imprint), None, roots);
        let body = match oldest(store, &key, MAX_RESPONSE as u64, &|b| counts(b).is_ok()) {
            Err(e) if matches!(e.kind, Kind::Archived | Kind::Permission | Kind::Unreadable) => continue,
            other => other?,
        };
        if let Some(body) = body
            && let Ok(stamp) = counts(&body)
        {
            all.push((key, sha256(&body), stamp));
        }
    }
    Ok(all)
}

/// When the certificates end that the time-stamps in the store were signed with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ends {
    /// The first checkpoint that was not looked at.
    scanned: u64,
    /// By the end: the checkpoints with such a time-stamp, in runs from the first to the last.
    ends: BTreeMap<Time, Vec<[u64; 2]>>,
}

/// Adds a number to runs of numbers that come in their order.
fn add(runs: &mut Vec<[u64; 2]>, number: u64) {
    match runs.last_mut() {
        Some(run) if number <= run[1] => {}
        Some(run) if number == run[1] + 1 => run[1] = number,
        _ => runs.push([number; 2]),
    }
}

/// What is needed to carry time-stamps on.
pub struct Carry<'a> {
    /// The trail.
    pub store: &'a dyn Store,
    /// Its id.
    pub trail: Hash,
    /// The log's key.
    pub key: &'a VerifierKey,
    /// The trust file's.
    pub roots: &'a [Vec<u8>],
    /// The authorities that are asked.
    pub names: &'a [String],
    /// What the log holds.
    pub known: &'a Known,
    /// The number of the newest checkpoint.
    pub newest: u64,
    /// Now.
    pub now: Time,
}

impl Carry<'_> {
    /// Looks at the time-stamps of checkpoints that nobody is shown any more, and says which have to be carried on now.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn renewals(&self, ends: &mut Ends) -> Result<Vec<Renewal>, ReadError> {
        let Carry { store, trail, key, roots, names, known, newest, now } = *self;
        let mut out = Vec::new();
        if roots.is_empty() {
            return Ok(out);
        }
        let of = |number: u64| -> Result<Vec<(String, Hash, Stamp)>, ReadError> {
            let keys = keys(store, number)?;
            let committed = if keys.is_empty() { None } else { checkpoint(store, key, number, 0)? };
            match committed {
                Some(c) => Ok(kept(store, keys, names, &sha256(&c.bytes), roots)?),
                None => Ok(Vec::new()),
            }
        };
        let mut left = BUDGET;
        while ends.scanned < newest && left > 0 {
            for (_, _, stamp) in of(ends.scanned)? {
                add(ends.ends.entry(stamp.not_after).or_default(), ends.scanned);
            }
            ends.scanned += 1;
            left -= 1;
        }
        for (end, runs) in &ends.ends {
            // After its end a time-stamp can no longer be vouched for.
            if now < end.saturating_add_seconds(-BEFORE_END) || now > *end {
                continue;
            }
            let from = known.renewed.get(end).map_or(0, |through| through.saturating_add(1));
            let (mut tokens, mut through) = (Vec::new(), None);
            let open = runs.iter().flat_map(|[a, b]| (*a).max(from)..=*b);
            // Each end has its own budget: one with many does not keep the others from theirs.
            for (number, _) in open.zip(0..BUDGET) {
                if tokens.len() >= MAX_TOKENS {
                    break;
                }
                let all = of(number)?.into_iter().filter(|(.., s)| s.not_after == *end);
                tokens.extend(all.map(|(object, sha256, _)| RenewedToken {
                    checkpoint: number,
                    object,
                    sha256,
                }));
                through = Some(number);
            }
            if let Some(through) = through.filter(|_| !tokens.is_empty()) {
                let format = format_of::<Renewal>();
                out.push(Renewal { format, trail, not_after: *end, through, tokens });
            }
        }
        Ok(out)
    }
}
