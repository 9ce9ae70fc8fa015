//! What the log holds, as far as a round has to know it.
//!
//! It follows from the log's entries alone, so a worker that has lost it reads them again; one that has kept it reads what is new
//! since. Entries that a round appends and entries that are read back go through the same [`Known::apply`].

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::Hash;
use waxseal_trail::keys::PublicKey;
use waxseal_trail::name;
use waxseal_trail::statement::{
    Acknowledgement, Batch, ExpectedWriters, Finding, Keys, Payload, Renewal, Retirement, State, Writer,
    WriterKey,
};
use waxseal_trail::time::Time;
use waxseal_trail::valid::{self, Place};
use waxseal_trail::verdict::Verdict;

/// A key statement, or the genesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The first batch that these keys sign.
    pub from_batch: u64,
    /// SPKIs in padded standard base64.
    pub keys: Vec<String>,
    /// The statement hash.
    pub statement: Hash,
}

/// A writer whose genesis is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownWriter {
    /// The statement hash of its genesis.
    pub genesis: Hash,
    /// The genesis and its key statements, by number.
    pub keys: Vec<InForce>,
    /// The number of the next header.
    pub next: u64,
    /// The statement hash of the header before it; of the genesis.
    pub last: Hash,
    /// Numbers below `next` that are not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<[u64; 2]>,
    /// Those that a finding in the log says are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<[u64; 2]>,
    /// The latest `retain_until` of its headers: so long its genesis, key statements and certificates are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_until: Option<Time>,
    /// Until when there has to be another; absent once it has stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_by: Option<Time>,
    /// Whether there will be no other, by its own word or an operator's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
    /// Its last header's number, by an operator's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_batch: Option<u64>,
}

impl KnownWriter {
    /// The keys that sign a header.
    pub fn in_force(&self, batch: u64) -> Vec<PublicKey> {
        let keys = self.keys.iter().rev().find(|k| k.from_batch <= batch);
        keys.into_iter().flat_map(|k| &k.keys).filter_map(|k| PublicKey::from_base64(k).ok()).collect()
    }

    /// Whether there can be headers of it that are not logged: of one that an operator has retired, until the last that was named
    /// has come, and none was promised in the last `delay` seconds.
    pub fn is_live(&self, now: Time, delay: i64) -> bool {
        let promised = self.next_by.is_some_and(|t| now <= t.saturating_add_seconds(delay));
        !self.retired || promised || self.last_batch.is_some_and(|last| self.next <= last)
    }

    /// Whether a header of this number is logged.
    pub fn has(&self, batch: u64) -> bool {
        batch < self.next && !self.missing.iter().any(|[a, b]| (a..=b).contains(&&batch))
    }

    fn found(&mut self, batch: u64) {
        self.missing = std::mem::take(&mut self.missing)
            .into_iter()
            .flat_map(|[a, b]| {
                if (a..=b).contains(&batch) {
                    let left = batch.checked_sub(1).filter(|l| *l >= a).map(|l| [a, l]);
                    let right = Some([batch + 1, b]).filter(|[l, r]| l <= r);
                    [left, right]
                } else {
                    [Some([a, b]), None]
                }
            })
            .flatten()
            .collect();
    }
}

/// Which writers have to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Names without epochs.
    pub names: BTreeSet<String>,
    /// Globs of names that may come and go.
    pub ephemeral: Vec<String>,
}

/// What the log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// How many entries were looked at.
    pub size: u64,
    /// Writers by `<name>.<epoch>`.
    pub writers: BTreeMap<String, KnownWriter>,
    /// Statement hashes of everything under `statements/`, and of what came second under a key.
    pub others: BTreeSet<Hash>,
    /// What findings are about, so that each is logged once.
    pub found: BTreeSet<String>,
    /// By the operators' latest statement.
    pub expected: Expected,
    /// When that was declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_at: Option<Time>,
    /// Up to which checkpoint time-stamps are carried on, by the end of their certificates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub renewed: BTreeMap<Time, u64>,
    /// Writers that an operator retired before the log had their genesis, and the number of their last header.
    pub retired: BTreeMap<String, u64>,
    /// The latest `retain_until` of a header.
    pub retain_until: Option<Time>,
}

/// What a finding is about: two with the same are the same.
pub fn subject(verdict: &str, object: &str, range: Option<[u64; 2]>) -> String {
    match range {
        Some([a, b]) => format!("{verdict} {object} {a}-{b}"),
        None => format!("{verdict} {object}"),
    }
}

fn spkis(keys: &[WriterKey]) -> Vec<String> {
    keys.iter().map(|k| k.spki.clone()).collect()
}

impl Known {
    /// Takes note of the next entry. What is no statement changes nothing: it is in the log all the same.
    pub fn apply(&mut self, entry: &[u8]) {
        self.size += 1;
        let Ok(envelope) = Envelope::parse(entry) else { return };
        let statement = envelope.statement_hash();
        match valid::place(&envelope) {
            Some(Place::Genesis(writer)) => self.genesis(writer, &envelope, statement),
            Some(Place::Keys(writer, number)) => self.keys(&writer, number, &envelope, statement),
            Some(Place::Batch(writer, batch)) => self.header(&writer, batch, &envelope, statement),
            Some(Place::Statement(kind)) => self.other(&kind, &envelope, statement),
            Some(Place::Trail) | None => {}
        }
    }

    fn genesis(&mut self, writer: String, envelope: &Envelope, statement: Hash) {
        if self.writers.contains_key(&writer) {
            self.others.insert(statement);
            return;
        }
        // Of another version, its keys are still where every version has them.
        let (keys, next_by) = match valid::payload::<Writer>(envelope) {
            Ok(genesis) => (spkis(&genesis.keys), Some(genesis.next_by)),
            Err(_) => (valid::named_keys(envelope), None),
        };
        let last_batch = self.retired.get(&writer).copied();
        let retired = last_batch.is_some();
        let keys = vec![InForce { from_batch: 0, keys, statement }];
        let known = KnownWriter {
            genesis: statement,
            keys,
            next: 0,
            last: statement,
            missing: Vec::new(),
            gaps: Vec::new(),
            retain_until: None,
            next_by,
            retired,
            last_batch,
        };
        self.writers.insert(writer, known);
    }

    fn keys(&mut self, writer: &str, number: u64, envelope: &Envelope, statement: Hash) {
        let Some(known) = self.writers.get_mut(writer) else { return };
        if number != known.keys.len() as u64 {
            self.others.insert(statement);
            return;
        }
        let (keys, from_batch) = match valid::payload::<Keys>(envelope) {
            Ok(k) => (spkis(&k.keys), k.after.map_or(0, |a| a.batch.saturating_add(1))),
            Err(_) => (valid::named_keys(envelope), known.next),
        };
        known.keys.push(InForce { from_batch, keys, statement });
    }

    fn header(&mut self, writer: &str, batch: u64, envelope: &Envelope, statement: Hash) {
        let Some(known) = self.writers.get_mut(writer) else { return };
        let header = valid::payload::<Batch>(envelope).ok();
        let retain_until = header.as_ref().map(|h| h.retain_until);
        known.retain_until = known.retain_until.max(retain_until);
        self.retain_until = self.retain_until.max(retain_until);
        if batch < known.next {
            if known.has(batch) {
                self.others.insert(statement);
            } else {
                known.found(batch);
            }
            return;
        }
        if batch > known.next {
            known.missing.push([known.next, batch - 1]);
        }
        known.next = batch.saturating_add(1);
        known.last = statement;
        known.next_by = header.as_ref().and_then(|h| h.next_by);
        known.retired |= header.is_some_and(|h| h.state == State::Retired);
    }

    fn other(&mut self, kind: &str, envelope: &Envelope, statement: Hash) {
        self.others.insert(statement);
        match kind {
            Retirement::KIND => {
                if let Ok(r) = valid::payload::<Retirement>(envelope) {
                    match self.writers.get_mut(&r.writer) {
                        Some(known) => (known.retired, known.last_batch) = (true, Some(r.batch)),
                        None => drop(self.retired.insert(r.writer, r.batch)),
                    }
                }
            }
            ExpectedWriters::KIND => {
                if let Ok(e) = valid::payload::<ExpectedWriters>(envelope)
                    && self.expected_at.is_none_or(|at| at <= e.declared_at)
                {
                    self.expected_at = Some(e.declared_at);
                    self.expected = Expected { names: e.names.into_iter().collect(), ephemeral: e.ephemeral };
                }
            }
            Finding::KIND => {
                if let Ok(f) = valid::payload::<Finding>(envelope) {
                    self.found.insert(subject(&f.verdict, &f.object, f.range));
                    if let (true, Some(writer), Some(range)) =
                        (f.verdict == Verdict::Gap.name(), &f.writer, f.range)
                        && let Some(known) = self.writers.get_mut(writer)
                    {
                        known.gaps.push(range);
                    }
                }
            }
            Renewal::KIND => {
                if let Ok(r) = valid::payload::<Renewal>(envelope) {
                    let through = self.renewed.entry(r.not_after).or_default();
                    *through = r.through.max(*through);
                }
            }
            Acknowledgement::KIND => {}
            _ => {}
        }
    }

    /// How many findings of each verdict are logged.
    pub fn findings(&self) -> BTreeMap<&str, u64> {
        let mut all = BTreeMap::new();
        for verdict in self.found.iter().filter_map(|s| s.split(' ').next()) {
            *all.entry(verdict).or_default() += 1;
        }
        all
    }

    /// The last epoch of a name; epochs grow with time.
    pub fn last_epoch(&self, name: &str) -> Option<&str> {
        let from = format!("{name}.");
        let all = self.writers.range(from.clone()..).take_while(|(w, _)| w.starts_with(&from));
        all.map(|(w, _)| &w[..]).filter(|w| name::split_writer(w).is_some_and(|(n, _)| n == name)).last()
    }

    /// Names, without epochs, that have a writer which has not retired.
    pub fn live_names(&self) -> BTreeSet<&str> {
        let live = self.writers.iter().filter(|(_, w)| !w.retired);
        live.filter_map(|(w, _)| name::split_writer(w)).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_header_that_comes_leaves_the_others_missing() {
        let mut w = KnownWriter {
            genesis: Hash::empty(),
            keys: vec![],
            next: 9,
            last: Hash::empty(),
            missing: vec![[1, 1], [3, 6]],
            gaps: vec![],
            retain_until: None,
            next_by: None,
            retired: false,
            last_batch: None,
        };
        for (batch, left) in [
            (4, vec![[1, 1], [3, 3], [5, 6]]),
            (1, vec![[3, 3], [5, 6]]),
            (6, vec![[3, 3], [5, 5]]),
            (3, vec![[5, 5]]),
            (8, vec![[5, 5]]),
            (5, vec![]),
        ] {
            w.found(batch);
            assert_eq!(w.missing, left, "{batch}");
        }
        let mut zero = KnownWriter { missing: vec![[0, 1]], ..w };
        zero.found(0);
        assert_eq!(zero.missing, [[1, 1]]);
    }
}
