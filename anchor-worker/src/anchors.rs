//! Where the newest checkpoint is shown: each target on its own, and what it answers is kept under `anchors/<n>/`.

use crate::http::Client;
use crate::witness::client::{AskError, ask};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use std::collections::BTreeMap;
use std::time::Duration;
use waxseal_log::{Committed, Reader, cosignatures_prefix};
use waxseal_store::{Put, Retain, Store, StoreError};
use waxseal_trail::hash::sha256;
use waxseal_trail::log::note::{Line, VerifierKey};
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
    /// `witness`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// When it last did what it was asked.
    pub last_success: Option<Time>,
    /// Tries that failed since.
    pub failures: u32,
}

/// All targets.
pub struct Targets {
    http: Client,
    targets: Vec<Target>,
    /// The longest wait between two tries.
    longest: Duration,
}

/// What came of showing a checkpoint to one of them.
#[derive(Debug)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Nothing, or why not, and whether it is an alarm.
    pub result: Result<(), (String, bool)>,
}

impl Targets {
    /// The witnesses of a policy that have a URL.
    pub fn new(policy: Option<&Policy>, http: Client, longest: Duration) -> Targets {
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
        Targets { http, targets: targets.collect(), longest }
    }

    /// Whether there is nobody to show anything to.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// How it is with each.
    pub fn standing(&self) -> Vec<Standing> {
        let of = |t: &Target| Standing {
            kind: "witness",
            name: t.name.clone(),
            last_success: t.last_success,
            failures: t.failures,
        };
        self.targets.iter().map(of).collect()
    }

    /// When the next try is due of those that have not signed checkpoint `number`.
    pub fn due(&self, number: u64) -> Option<Time> {
        let open = self.targets.iter().filter(|t| t.done != Some(number));
        open.map(|t| t.next.unwrap_or(Time::MIN)).min()
    }

    /// Shows a checkpoint to all that have not signed it and are due, at once, and keeps what they answer.
    ///
    /// # Errors
    /// [`StoreError`], if an answer cannot be kept, or the log not be read: the others have been asked all the same.
    pub fn show(
        &mut self,
        store: &dyn Store,
        committed: &Committed,
        retain: &Retain,
        now: Time,
    ) -> Result<Vec<Shown>, StoreError> {
        let number = committed.number;
        self.find_done(store, number)?;
        let reader = Reader::open(store, Some(committed.clone())).map_err(|e| match e {
            waxseal_log::ReadError::Store(e) => e,
            other => {
                let why = std::io::Error::other(other.to_string());
                StoreError::new("read", "log/", waxseal_store::Kind::Unavailable, why)
            }
        })?;
        let due = |t: &&mut Target| t.done != Some(number) && t.next.is_none_or(|next| next <= now);
        let (http, reader, longest) = (&self.http, &reader, self.longest);
        let mut shown = Vec::new();
        let mut failed = None;
        std::thread::scope(|scope| {
            let asked: Vec<_> = self
                .targets
                .iter_mut()
                .filter(due)
                .map(|target| {
                    let task = move || {
                        let proof = |old| reader.consistency_proof(old);
                        let answer = ask(http, &target.url, &target.key, committed, target.seen, &proof);
                        target.answered(store, committed, retain, now, longest, answer)
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
        });
        failed.map_or(Ok(shown), Err)
    }

    /// What an earlier life of this worker, or another, has kept already.
    fn find_done(&mut self, store: &dyn Store, number: u64) -> Result<(), StoreError> {
        if self.targets.iter().all(|t| t.done.is_some()) {
            return Ok(());
        }
        let mut kept: BTreeMap<String, u64> = BTreeMap::new();
        let under = cosignatures_prefix(number);
        for key in store.list(&under, None, 1000)?.keys {
            let parts = key.strip_prefix(&under).and_then(|k| k.split_once('-'));
            if let Some((id, time)) = parts.and_then(|(id, t)| Some((id, t.parse::<u64>().ok()?))) {
                kept.insert(id.to_owned(), time);
            }
        }
        for target in self.targets.iter_mut().filter(|t| t.done.is_none()) {
            if let Some(time) = kept.get(&target.key.id_text()) {
                // By its name only: whoever verifies looks at the signature.
                target.done = Some(number);
                target.last_success = i64::try_from(*time).ok().and_then(|t| Time::from_unix(t, 0));
            }
        }
        Ok(())
    }
}

impl Target {
    fn answered(
        &mut self,
        store: &dyn Store,
        committed: &Committed,
        retain: &Retain,
        now: Time,
        longest: Duration,
        answer: Result<Line, AskError>,
    ) -> Result<Shown, StoreError> {
        let result = match answer {
            Ok(line) => {
                let key = cosignature_key(committed.number, &line);
                let body = Bytes::from(line.to_string());
                if store.put_if_absent(&key, &body, &sha256(&body), retain)? == Put::Other {
                    store.put_beside(&key, &body, &sha256(&body), retain)?;
                }
                (self.seen, self.done) = (committed.checkpoint.size, Some(committed.number));
                (self.last_success, self.failures, self.next) = (Some(now), 0, None);
                Ok(())
            }
            Err(e) => {
                let wait = back_off(self.failures, longest);
                self.failures = self.failures.saturating_add(1);
                self.next =
                    Some(now.saturating_add_seconds(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX)));
                Err((e.to_string(), e.is_alarm()))
            }
        };
        Ok(Shown { name: self.name.clone(), result })
    }
}

/// Five seconds, doubled with each failure, at most `longest`; half of it by chance, so that many do not come at once.
pub fn back_off(failures: u32, longest: Duration) -> Duration {
    let wait = Duration::from_secs(5).saturating_mul(1 << failures.min(20)).min(longest);
    wait.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}
