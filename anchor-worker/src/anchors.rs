//! Where the newest checkpoint is shown: each target on its own, and what it answers is kept under `anchors/<n>/`.

use crate::chain::Chain;
use crate::http::Client;
use crate::stamps::Authorities;
use crate::witness::client::{AskError, ask};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use std::time::Duration;
use waxseal_log::{Committed, Reader, cosignatures_prefix, newest};
use waxseal_store::{Put, Retain, Store, StoreError, oldest};
use waxseal_trail::hash::sha256;
use waxseal_trail::log::note::{Line, MAX_NOTE, Note, VerifierKey};
use waxseal_trail::log::policy::Policy;
use waxseal_trail::time::Time;

/// The key of a cosignature: its line lies there.
pub fn cosignature_key(number: u64, line: &Line) -> String {
    let id = HEXLOWER.encode(&line.id);
    let time = line.signature.first_chunk::<8>().map_or(0, |t| u64::from_be_bytes(*t));
    format!("{}{id}-{time}", cosignatures_prefix(number))
}

/// A witness that is asked.
#[derive(Clone, Debug)]
struct Target {
    name: String,
    key: VerifierKey,
    url: String,
    /// The size that it has signed last, as far as is known.
    seen: u64,
    /// The number of the last checkpoint that it has signed.
    done: Option<u64>,
    last_success: Option<Time>,
    failures: u32,
    /// Not before.
    next: Option<Time>,
}

/// How it is with a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `witness`, `timestamp` or `ethereum`.
    pub kind: &'static str,
    /// Its name; of a chain, its id.
    pub name: String,
    /// When it last did what it was asked.
    pub last_success: Option<Time>,
    /// Tries that failed since.
    pub failures: u32,
    /// The number of the last checkpoint that it has signed, as far as is known.
    pub signed: Option<u64>,
    /// Since when it lacks something that should be there, where that takes longer than an answer.
    pub wanting: Option<Time>,
}

/// A checkpoint of the log of `key`, to be shown.
#[derive(Clone, Copy)]
pub struct Showing<'a> {
    /// The trail.
    pub store: &'a dyn Store,
    /// The log's key.
    pub key: &'a VerifierKey,
    /// The checkpoint.
    pub committed: &'a Committed,
    /// How long what is answered is kept.
    pub retain: &'a Retain,
    /// Now.
    pub now: Time,
}

impl Showing<'_> {
    /// Keeps an answer, beside what a stranger may have put under its name.
    pub(crate) fn keep(&self, object: &str, body: &Bytes) -> Result<(), StoreError> {
        if self.store.put_if_absent(object, body, &sha256(body), self.retain)? == Put::Other {
            self.store.put_beside(object, body, &sha256(body), self.retain)?;
        }
        Ok(())
    }

    /// Keeps one of several answers under the first of `most` names that is free; under the last one, if none is.
    pub(crate) fn keep_first(
        &self,
        name: &dyn Fn(u32) -> String,
        most: u32,
        body: &Bytes,
    ) -> Result<(), StoreError> {
        for k in 0..most {
            if self.store.put_if_absent(&name(k), body, &sha256(body), self.retain)? != Put::Other {
                return Ok(());
            }
        }
        self.keep(&name(most.saturating_sub(1)), body)
    }
}

/// All targets.
pub struct Targets {
    http: Client,
    targets: Vec<Target>,
    authorities: Authorities,
    chains: Vec<Chain>,
    /// The longest wait between two tries.
    longest: Duration,
}

/// What came of showing a checkpoint to one of them.
#[derive(Debug)]
pub struct Shown {
    /// `witness`, `time-stamping authority` or `chain`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Nothing, or why not, and whether it is an alarm.
    pub result: Result<(), (String, bool)>,
}

impl Targets {
    /// The witnesses of a policy that have a URL, time-stamping authorities, and chains.
    pub fn new(
        policy: Option<&Policy>,
        authorities: Authorities,
        chains: Vec<Chain>,
        http: Client,
        longest: Duration,
    ) -> Targets {
        Targets { targets: witnesses(policy), authorities, chains, http, longest }
    }

    /// Those of another trust file; of whom was there before, what is known stays.
    pub fn renew(&mut self, policy: Option<&Policy>, roots: Vec<Vec<u8>>) {
        let new = witnesses(policy);
        let old = std::mem::take(&mut self.targets);
        let same = |a: &Target, b: &Target| (&a.name, &a.key, &a.url) == (&b.name, &b.key, &b.url);
        let kept = |t: Target| old.iter().find(|o| same(o, &t)).cloned().unwrap_or(t);
        self.targets = new.into_iter().map(kept).collect();
        self.authorities.renew(roots);
    }

    /// Whether there is nobody to show anything to.
    pub fn is_empty(&self) -> bool {
        self.standing().is_empty()
    }

    /// How it is with each.
    pub fn standing(&self) -> Vec<Standing> {
        let of = |t: &Target| Standing {
            kind: "witness",
            name: t.name.clone(),
            last_success: t.last_success,
            failures: t.failures,
            signed: t.done,
            wanting: None,
        };
        let chains = self.chains.iter().map(Chain::standing);
        self.targets.iter().map(of).chain(self.authorities.standing()).chain(chains).collect()
    }

    /// How many witnesses, time-stamps and anchors checkpoint `number` lacks that should be there by now.
    pub fn lacking(&self, number: u64, now: Time) -> usize {
        let open = self.targets.iter().filter(|t| t.done != Some(number));
        let chains = self.chains.iter().filter(|c| c.is_lacking(number, now));
        open.count() + self.authorities.missing(number) + chains.count()
    }

    /// The time-stamping authorities that are asked.
    pub fn authorities(&self) -> Vec<String> {
        self.authorities.names()
    }

    /// Whether a transaction is under way.
    pub fn is_busy(&self) -> bool {
        self.chains.iter().any(Chain::is_busy)
    }

    /// When the next try is due of those that have not signed checkpoint `number`.
    pub fn due(&self, number: u64, now: Time) -> Option<Time> {
        let open = self.targets.iter().filter(|t| t.done != Some(number));
        let witness = open.map(|t| t.next.unwrap_or(Time::MIN)).min();
        let chains = self.chains.iter().filter_map(|c| c.due(number, now));
        witness.into_iter().chain(self.authorities.due(number)).chain(chains).min()
    }

    /// Shows a checkpoint to all that have not signed it and are due, at once, and keeps what they answer.
    ///
    /// # Errors
    /// [`StoreError`], if an answer cannot be kept, or the log not be read: the others have been asked all the same.
    pub fn show(&mut self, showing: &Showing<'_>) -> Result<Vec<Shown>, StoreError> {
        let Showing { store, committed, now, .. } = *showing;
        let number = committed.number;
        self.find_done(store, committed)?;
        let is_due = |t: &Target| t.done != Some(number) && t.next.is_none_or(|next| next <= now);
        // Only witnesses want proofs.
        let newest = self.targets.iter().any(is_due).then(|| committed.clone());
        let reader = newest.map(|n| Reader::open(store, Some(n))).transpose().map_err(store_error)?;
        let (http, reader, longest) = (&self.http, reader.as_ref(), self.longest);
        let mut shown = Vec::new();
        let mut failed = None;
        let authorities = &mut self.authorities;
        let chains = &mut self.chains;
        std::thread::scope(|scope| {
            let anchored: Vec<_> = chains
                .iter_mut()
                .filter(|c| c.due(number, now).is_some_and(|due| due <= now))
                .map(|chain| scope.spawn(move || chain.show(showing)))
                .collect();
            // Beside the witnesses: of these one after the other is asked.
            let stamped = scope.spawn(move || authorities.show(showing));
            let asked: Vec<_> = self
                .targets
                .iter_mut()
                .filter(|t| is_due(t))
                .filter_map(|target| Some((target, reader?)))
                .map(|(target, reader)| {
                    let task = move || {
                        let proof = |old| reader.consistency_proof(old);
                        let answer = ask(http, &target.url, &target.key, committed, target.seen, &proof);
                        target.answered(showing, longest, answer)
                    };
                    scope.spawn(task)
                })
                .collect();
            for task in asked {
                match task.join() {
                    Ok(Ok(s)) => shown.push(s),
                    Ok(Err(e)) => failed = Some(e),
                    // A panic has been reported on its thread.
                    Err(_) => {}
                }
            }
            for task in std::iter::once(stamped).chain(anchored) {
                match task.join() {
                    Ok(Ok(all)) => shown.extend(all),
                    Ok(Err(e)) => failed = Some(e),
                    Err(_) => {}
                }
            }
        });
        failed.map_or(Ok(shown), Err)
    }

    /// What an earlier life of this worker, or another, has kept already.
    fn find_done(&mut self, store: &dyn Store, committed: &Committed) -> Result<(), StoreError> {
        if self.targets.iter().all(|t| t.done.is_some()) {
            return Ok(());
        }
        let Ok(note) = Note::parse(&committed.bytes) else { return Ok(()) };
        let under = cosignatures_prefix(committed.number);
        for key in store.list(&under, None, 1000)?.keys {
            let id = key.strip_prefix(&under).and_then(|k| k.split_once('-')).map(|(id, _)| id.to_owned());
            let open = |t: &&mut Target| t.done.is_none() && Some(t.key.id_text()) == id;
            let Some(target) = self.targets.iter_mut().find(open) else { continue };
            let signed = |body: &[u8]| {
                let line = Line::parse(std::str::from_utf8(body).ok()?.strip_suffix('\n')?).ok()?;
                let note = Note { text: note.text.clone(), lines: vec![line] };
                note.signed_by(&target.key).ok()??.time
            };
            // What is there under its name may be anybody's.
            let found = oldest(store, &key, MAX_NOTE as u64, &|b| signed(b).is_some())?;
            if let Some(time) = found.as_deref().and_then(signed) {
                target.done = Some(committed.number);
                target.last_success = i64::try_from(time).ok().and_then(|t| Time::from_unix(t, 0));
            }
        }
        Ok(())
    }
}

fn store_error(e: waxseal_log::ReadError) -> StoreError {
    match e {
        waxseal_log::ReadError::Store(e) => e,
        other => {
            let why = std::io::Error::other(other.to_string());
            StoreError::new("read", "log/", waxseal_store::Kind::Unavailable, why)
        }
    }
}

impl Target {
    fn answered(
        &mut self,
        showing: &Showing<'_>,
        longest: Duration,
        answer: Result<Line, AskError>,
    ) -> Result<Shown, StoreError> {
        let Showing { committed, now, .. } = *showing;
        let result = match answer {
            Ok(line) => {
                let object = cosignature_key(committed.number, &line);
                showing.keep(&object, &Bytes::from(line.to_string()))?;
                (self.seen, self.done) = (committed.checkpoint.size, Some(committed.number));
                (self.last_success, self.failures, self.next) = (Some(now), 0, None);
                Ok(())
            }
            Err(e) => {
                let wait = back_off(self.failures, longest);
                self.failures = self.failures.saturating_add(1);
                self.next =
                    Some(now.saturating_add_seconds(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX)));
                match e {
                    // Another worker may have gone on meanwhile, and shown it that.
                    AskError::Ahead(size) if goes_on(showing, size)? => {
                        let why = format!("it has seen {size} entries, and another worker has logged them");
                        Err((why, false))
                    }
                    e => Err((e.to_string(), e.is_alarm())),
                }
            }
        };
        Ok(Shown { kind: "witness", name: self.name.clone(), result })
    }
}

/// The witnesses of a policy that have a URL.
fn witnesses(policy: Option<&Policy>) -> Vec<Target> {
    let witnesses = policy.map_or(&[][..], |p| &p.witnesses);
    let targets = witnesses.iter().filter_map(|(name, w)| {
        Some(Target {
            name: name.clone(),
            key: w.key.clone(),
            url: w.url.clone()?,
            seen: 0,
            done: None,
            last_success: None,
            failures: 0,
            next: None,
        })
    });
    targets.collect()
}

/// Whether the log in the store has `size` entries by now, as an extension of a checkpoint.
fn goes_on(showing: &Showing<'_>, size: u64) -> Result<bool, StoreError> {
    let Showing { store, key, committed, .. } = *showing;
    let newest = newest(store, key, Some(committed)).map_err(store_error)?;
    let Some(newest) = newest.filter(|n| n.checkpoint.size >= size) else { return Ok(false) };
    let reader = Reader::open(store, Some(newest)).map_err(store_error)?;
    let root = reader.root_of(committed.checkpoint.size).map_err(store_error)?;
    Ok(root == committed.checkpoint.root)
}

/// Five seconds, doubled with each failure, at most `longest`; half of it by chance, so that many do not come at once.
pub fn back_off(failures: u32, longest: Duration) -> Duration {
    let wait = Duration::from_secs(5).saturating_mul(1 << failures.min(20)).min(longest);
    wait.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}
