//! Which logs count, and how many witnesses must have seen a checkpoint (c2sp.org/tlog-policy).

use super::note::{Kind, Note, NoteFault, VerifierKey};
use std::collections::HashMap;

/// The most logs, witnesses and groups that are read. (The page asks for 32 of each at least.)
const MOST: usize = 256;

/// Why a policy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the policy: {fault}")]
pub struct PolicyFault {
    /// From 1; behind the last if something is missing.
    pub line: usize,
    /// What is wrong.
    pub fault: String,
}

/// A log, or a witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its key.
    pub key: VerifierKey,
    /// Where it is, if the policy says so.
    pub url: Option<String>,
}

/// Who must have seen a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Group {
    Witness(usize),
    /// At least so many of these.
    Some(usize, Vec<usize>),
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Any of these.
    pub logs: Vec<Party>,
    /// With the names that the policy gives them.
    pub witnesses: Vec<(String, Party)>,
    groups: Vec<Group>,
    /// `None`: no witness is needed.
    quorum: Option<usize>,
}

/// What witnesses say of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// The witnesses of the policy that have seen it, by the names that it gives them, and when: seconds since 1970.
    pub by: Vec<(String, u64)>,
    /// Whether they are enough.
    pub quorum: bool,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// [`PolicyFault`].
    pub fn parse(text: &str) -> Result<Policy, PolicyFault> {
        let mut policy = Policy::default();
        let mut names: HashMap<&str, usize> = HashMap::new();
        let mut members = Vec::new();
        let mut quorum = None;
        let count = text.split('\n').count();
        for (i, line) in text.split('\n').enumerate() {
            let fault = |fault: String| PolicyFault { line: i + 1, fault };
            if line.bytes().any(|c| c < 0x20 && c != b'\t' || c == 0x7f) {
                return Err(fault("a control character".into()));
            }
            let mut words = line.split([' ', '\t']).filter(|w| !w.is_empty());
            let Some(word) = words.next().filter(|w| !w.starts_with('#')) else { continue };
            let words: Vec<&str> = words.collect();
            if word != "quorum" && policy.groups.len() + policy.logs.len() >= MOST {
                return Err(fault(format!("more than {MOST} logs, witnesses and groups")));
            }
            match (word, &words[..]) {
                ("log", [key, url @ ..]) if url.len() < 2 => {
                    let log = party(key, Kind::Note, url.first()).map_err(fault)?;
                    if policy.logs.iter().any(|l| l.key.raw() == log.key.raw()) {
                        return Err(fault("this key was named before".into()));
                    }
                    policy.logs.push(log);
                }
                ("witness", [name, key, url @ ..]) if url.len() < 2 => {
                    let witness = party(key, Kind::Cosignature, url.first()).map_err(fault)?;
                    if policy.witnesses.iter().any(|(_, w)| w.key.raw() == witness.key.raw()) {
                        return Err(fault("this key was named before".into()));
                    }
                    policy.define(name, Group::Witness(policy.witnesses.len()), &mut names).map_err(fault)?;
                    policy.witnesses.push(((*name).to_owned(), witness));
                }
                ("group", [name, least, all @ ..]) if !all.is_empty() => {
                    let mut of = Vec::new();
                    for member in all {
                        let at = *names
                            .get(member)
                            .ok_or_else(|| fault(format!("{member} is not named above")))?;
                        // So that each witness counts once.
                        if members.contains(&at) {
                            return Err(fault(format!("{member} is in a group already")));
                        }
                        members.push(at);
                        of.push(at);
                    }
                    let least = match *least {
                        "any" => Some(1),
                        "all" => Some(of.len()),
                        n => super::checkpoint::decimal(n)
                            .and_then(|n| usize::try_from(n).ok())
                            .filter(|n| (1..=of.len()).contains(n)),
                    };
                    let least = least.ok_or_else(|| fault(format!("any, all, or 1 to {}", of.len())))?;
                    policy.define(name, Group::Some(least, of), &mut names).map_err(fault)?;
                }
                ("quorum", [name]) => {
                    if quorum.is_some() {
                        return Err(fault("a second quorum".into()));
                    }
                    quorum = Some(match *name {
                        "none" => None,
                        name => Some(
                            *names.get(name).ok_or_else(|| fault(format!("{name} is not named above")))?,
                        ),
                    });
                }
                ("log" | "witness" | "group" | "quorum", _) => {
                    return Err(fault(format!("{word} with too much or too little behind it")));
                }
                _ => {
                    return Err(fault(format!(
                        "{word} is no word of a policy (log, witness, group, quorum)"
                    )));
                }
            }
        }
        let missing = PolicyFault { line: count, fault: "no quorum (`quorum none` needs no witness)".into() };
        policy.quorum = quorum.ok_or(missing)?;
        Ok(policy)
    }

    fn define<'t>(
        &mut self,
        name: &'t str,
        group: Group,
        names: &mut HashMap<&'t str, usize>,
    ) -> Result<(), String> {
        if name == "none" || names.contains_key(name) {
            return Err(format!("{name} is a name already"));
        }
        names.insert(name, self.groups.len());
        self.groups.push(group);
        Ok(())
    }

    /// Whether any witness is needed.
    pub fn needs_witnesses(&self) -> bool {
        self.quorum.is_some()
    }

    /// Which witnesses have seen a checkpoint, and whether they are enough.
    ///
    /// # Errors
    /// [`NoteFault::Signature`] if a line names a witness of the policy and is not its own.
    pub fn cosigned(&self, note: &Note) -> Result<Cosigned, NoteFault> {
        let mut by = Vec::new();
        let mut seen = vec![false; self.witnesses.len()];
        for (i, (name, witness)) in self.witnesses.iter().enumerate() {
            if let Some(time) = note.signed_by(&witness.key)?.and_then(|s| s.time) {
                seen[i] = true;
                by.push((name.clone(), time));
            }
        }
        Ok(Cosigned { by, quorum: self.is_quorum(&seen) })
    }

    /// When enough witnesses had seen a checkpoint: the least of their times, up to which there are enough; of times after
    /// `latest` nothing is believed.
    pub fn quorum_at(&self, cosigned: &Cosigned, latest: u64) -> Option<u64> {
        let mut times: Vec<u64> = cosigned.by.iter().map(|(_, t)| *t).filter(|t| *t <= latest).collect();
        times.sort_unstable();
        let by = |name: &str, t: u64| cosigned.by.iter().any(|(n, at)| n == name && *at <= t);
        let enough = |t: &u64| {
            let seen: Vec<bool> = self.witnesses.iter().map(|(name, _)| by(name, *t)).collect();
            self.is_quorum(&seen)
        };
        times.into_iter().find(enough)
    }

    /// Whether the witnesses whose places are set are enough.
    fn is_quorum(&self, seen: &[bool]) -> bool {
        // Groups are of what stands before them.
        let mut holds = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            holds.push(match group {
                Group::Witness(i) => seen[*i],
                Group::Some(least, of) => of.iter().filter(|at| holds[**at]).count() >= *least,
            });
        }
        self.quorum.is_none_or(|q| holds[q])
    }
}

fn party(key: &str, kind: Kind, url: Option<&&str>) -> Result<Party, String> {
    let key = VerifierKey::parse(key).map_err(|e| e.to_string())?;
    if key.kind() != kind {
        return Err(
            "a key of the other kind: logs have Ed25519 keys (0x01), witnesses cosignature keys (0x04)"
                .into(),
        );
    }
    Ok(Party { key, url: url.map(|u| (*u).to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::test_key;
    use ed25519_dalek::{Signer as _, SigningKey};

    fn key(n: u8, kind: Kind) -> (SigningKey, VerifierKey) {
        test_key(n, &format!("example.org/{n}"), kind)
    }

    fn witness(n: u8) -> VerifierKey {
        key(n, Kind::Cosignature).1
    }

    /// The page's example, with keys.
    fn page() -> String {
        let mut text = format!("# an example\nlog {} https://log.example\n\n", key(0, Kind::Note).1);
        for (i, name) in ["X1", "X2", "X3", "Y1", "Y2", "Y3"].iter().enumerate() {
            text.push_str(&format!(" witness\t{name}  {} \n", witness(i as u8 + 1)));
        }
        text + "group X-witnesses 2 X1 X2 X3\ngroup Y-witnesses any Y1 Y2 Y3\ngroup X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n"
    }

    #[test]
    fn the_pages_own_example() {
        let policy = Policy::parse(&page()).unwrap();
        assert_eq!((policy.logs.len(), policy.witnesses.len()), (1, 6));
        assert_eq!(policy.logs[0].url.as_deref(), Some("https://log.example"));
        assert!(policy.needs_witnesses());
        for seen in 0u8..64 {
            let seen: Vec<bool> = (0..6).map(|i| seen >> i & 1 == 1).collect();
            let [x, y] = [&seen[..3], &seen[3..]].map(|s| s.iter().filter(|s| **s).count());
            assert_eq!(policy.is_quorum(&seen), x >= 2 && y >= 1, "{seen:?}");
        }
        let mut note = Note { text: "a\n".into(), lines: Vec::new() };
        for n in [1, 3, 5, 9] {
            let (signing, key) = key(n, Kind::Cosignature);
            let t = 1_700_000_000 + u64::from(n);
            note.lines.push(key.line(Some(t), &signing.sign(&key.message(Some(t), "a\n")).to_bytes()));
        }
        let by = |name: &str, n: u64| (name.to_owned(), 1_700_000_000 + n);
        let cosigned = policy.cosigned(&note).unwrap();
        assert_eq!(cosigned, Cosigned { by: vec![by("X1", 1), by("X3", 3), by("Y2", 5)], quorum: true });
        note.lines.remove(0);
        assert!(!policy.cosigned(&note).unwrap().quorum);
        note.lines[0].signature[9] ^= 1;
        assert!(policy.cosigned(&note).is_err());
        assert!(!Policy::parse("quorum none").unwrap().needs_witnesses());
    }

    /// A witness that comes late, or whose clock is ahead, makes no old checkpoint young.
    #[test]
    fn the_time_of_a_quorum_is_when_there_were_enough() {
        let keys: Vec<_> = (1..4).map(|n| test_key(n, &format!("w{n}"), Kind::Cosignature).1).collect();
        let text = format!(
            "witness a {}\nwitness b {}\nwitness c {}\ngroup g 2 a b c\nquorum g\n",
            keys[0], keys[1], keys[2]
        );
        let policy = Policy::parse(&text).unwrap();
        let at = |by: &[(&str, u64)]| {
            let by = by.iter().map(|(n, t)| ((*n).to_owned(), *t)).collect();
            policy.quorum_at(&Cosigned { by, quorum: true }, 1000)
        };
        assert_eq!(at(&[("a", 10)]), None);
        assert_eq!(at(&[("a", 10), ("b", 20)]), Some(20));
        assert_eq!(at(&[("a", 10), ("c", 900), ("b", 20)]), Some(20));
        assert_eq!(at(&[("a", 10), ("c", 900)]), Some(900));
        assert_eq!(at(&[("a", 10), ("c", 4_000_000_000)]), None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let (w1, w2, l) = (witness(1), witness(2), key(0, Kind::Note).1);
        for (text, line, fault) in [
            (String::new(), 1, "no quorum"),
            (format!("witness a {w1}\n"), 2, "no quorum"),
            (format!("witness a {w1}\nwitness a {w2}\nquorum a"), 2, "a is a name already"),
            (format!("witness none {w1}\nquorum none"), 1, "none is a name already"),
            (format!("witness a {w1}\nwitness b {w1}\nquorum a"), 2, "named before"),
            (format!("log {l}\nlog {l}\nquorum none"), 2, "named before"),
            (format!("log {w1}\nquorum none"), 1, "other kind"),
            (format!("witness a {l}\nquorum a"), 1, "other kind"),
            ("witness a b\nquorum a".into(), 1, "not a verifier key"),
            ("quorum a".into(), 1, "a is not named above"),
            ("quorum none\nquorum none".into(), 2, "second quorum"),
            (format!("witness a {w1}\ngroup g any a a\nquorum g"), 2, "in a group already"),
            (format!("witness a {w1}\ngroup g any a\ngroup h any a\nquorum g"), 3, "in a group already"),
            (format!("group g any a\nwitness a {w1}\nquorum g"), 1, "not named above"),
            (format!("witness a {w1}\ngroup g 2 a\nquorum g"), 2, "1 to 1"),
            (format!("witness a {w1}\ngroup g 0 a\nquorum g"), 2, "1 to 1"),
            (format!("witness a {w1}\ngroup g any\nquorum g"), 2, "too little"),
            (format!("witness a {w1} u v\nquorum a"), 1, "too much"),
            ("nonsense".into(), 1, "no word of a policy"),
            ("quorum none\r\n".into(), 1, "control character"),
        ] {
            let e = Policy::parse(&text).unwrap_err();
            assert!(e.line == line && e.fault.contains(fault), "{text}: {e}");
        }
    }
}
