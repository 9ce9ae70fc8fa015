//! Names of fields, in whatever spelling: `credit_card`, `creditCard`, `CREDIT-CARD` and `creditcard` are the same words.

use crate::detect::said;
use crate::policy::Policy;
use waxseal_filter_abi::event::{decoded, mixed, same};

/// Words that may follow without changing what a field holds, as may numbers.
const NEUTRAL: &str = "number no num nr value header hash hashed raw text string str plain plaintext encrypted input field \
    confirm confirmation again repeat old new current data param parameter base b enc full";

/// Words that are often written together with the one before.
const RUN_TOGETHER: &[&str] = &["password", "passwd", "passphrase", "apikey", "secretkey", "accesstoken"];

/// Names that objects have which are no secrets: Azure's `authorization` has action and scope, a pod's `secret` a name.
const BROAD: &[&str] =
    &["authorization", "secret", "credential", "credentials", "token", "cookies", "passport"];

/// What a name says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// Kinds that it speaks of, as bits.
    pub(crate) raised: u32,
    /// What detectors found in the name itself; `None` if they have not been asked.
    pub(crate) holds: Option<bool>,
    /// Some rules of detectors leave it alone.
    pub(crate) exempt: bool,
    /// Objects of another kind have such a name, too.
    pub(crate) broad: bool,
    /// It may be the working directory.
    pub(crate) directory: bool,
    /// No rule speaks of it, nothing stands in it, and it means nothing where it stands: what matters is its value.
    pub(crate) common: bool,
    slot: u16,
    /// A number of its name, which tells whether the slot is still its own.
    pub(crate) check: u32,
}

/// Names that mean something where they stand.
const TELLING: [&[u8]; 16] = [
    b"$enriched",
    b"$filter_errors",
    b"$raw",
    b"$raw_sha256",
    b"$withheld",
    b"data",
    b"items",
    b"metadata",
    b"privacy",
    b"requestObject",
    b"responseObject",
    b"stringData",
    b"Value",
    b"v",
    b"val",
    b"value",
];

#[derive(Debug)]
struct Slot {
    hash: usize,
    name: Box<[u8]>,
    rules: Box<[u16]>,
    /// Rules of detectors that leave it alone.
    exempt: Box<[u16]>,
    info: Info,
}

/// What is known of names that were seen before.
#[derive(Debug)]
pub(crate) struct Names {
    slots: Vec<Option<Slot>>,
    /// Which of a full set goes next.
    turn: usize,
}

const SLOTS: usize = 2048;
/// Names whose hashes meet stand side by side.
const WAYS: usize = 4;
/// One slot more is for what is too long to be kept.
const LONGEST: usize = 128;

impl Default for Names {
    fn default() -> Self {
        let mut slots = Vec::new();
        slots.resize_with(SLOTS + 1, || None);
        Names { slots, turn: 0 }
    }
}

impl Names {
    /// What a name says, as it stands between quotes in JSON or in a text.
    pub(crate) fn of(&mut self, name: &[u8], policy: &Policy) -> Info {
        let mut at = SLOTS;
        let hash = mixed(name) as usize;
        if name.len() <= LONGEST {
            let set = hash % (SLOTS / WAYS) * WAYS;
            for (i, slot) in self.slots[set..set + WAYS].iter().enumerate() {
                match slot {
                    Some(slot) if slot.hash == hash && same(&slot.name, name) => return slot.info,
                    Some(_) => {}
                    None => {
                        at = set + i;
                        break;
                    }
                }
            }
            if at == SLOTS {
                self.turn = self.turn.wrapping_add(1);
                at = set + self.turn % WAYS;
            }
        }
        let text = decoded(name);
        let words = words(&text);
        let mut rules: Vec<u16> = Vec::new();
        // What was masked, or is JSON, is no name of a field.
        let odd = memchr::memchr2(b'"', b'{', &text).is_some()
            || memchr::memmem::find(&text, b"[redacted").is_some();
        if !odd && policy.ends.may_be(name) {
            rules.extend(endings(&words).iter().filter_map(|e| policy.fields.get(e)).flatten());
            rules.sort_unstable();
            rules.dedup();
        }
        // call_count is no number that anyone calls.
        let counts = words.last().is_some_and(|w| said(w.as_bytes()).lowered);
        let raised = words.iter().fold(0, |bits, w| bits | said(w.as_bytes()).raised);
        let raised = if counts { 0 } else { raised };
        let exempt = policy.exempt(&words);
        let broad = words.last().is_some_and(|w| BROAD.contains(&w.as_str()));
        let directory = words.last().is_some_and(|w| w == "pwd");
        let exempted = !exempt.is_empty();
        let info = Info {
            broad,
            directory,
            raised,
            holds: None,
            common: false,
            exempt: exempted,
            slot: at as u16,
            check: hash as u32,
        };
        self.slots[at] =
            Some(Slot { hash, name: name.into(), rules: rules.into(), exempt: exempt.into(), info });
        info
    }

    fn slot(&self, info: Info) -> Option<&Slot> {
        self.slots[info.slot as usize].as_ref().filter(|s| s.info.check == info.check)
    }

    /// The first rule for a name that is in force.
    pub(crate) fn rule(&self, info: Info, active: &crate::policy::Active) -> u16 {
        let rules = self.slot(info).map_or(&[][..], |s| &s.rules);
        rules.iter().copied().find(|r| active.on[*r as usize]).unwrap_or(Policy::NONE)
    }

    /// Whether a detector's rule leaves a name alone. (Not if so many names came in between that it has been forgotten.)
    pub(crate) fn exempts(&self, info: Info, rule: u16) -> bool {
        info.exempt && self.slot(info).is_some_and(|s| s.exempt.contains(&rule))
    }

    /// Keeps what detectors said of a name.
    pub(crate) fn keep(&mut self, info: Info, name: &[u8], holds: bool) {
        if let Some(slot) = self.slots[info.slot as usize].as_mut().filter(|s| same(&s.name, name)) {
            slot.info.holds = Some(holds);
            slot.info.common = !holds && slot.rules.is_empty() && !TELLING.contains(&name);
        }
    }
}

/// What names end with that any rule speaks of: three letters, as bits. Most names are told apart by it without a look at their
/// words.
#[derive(Debug)]
pub(crate) struct Ends {
    three: Box<[u64; 64]>,
    /// Those that have fewer letters, last letter first.
    short: Vec<Vec<u8>>,
}

impl Ends {
    /// Of the names of rules, their words run together.
    pub(crate) fn of<'n>(names: impl Iterator<Item = &'n String>) -> Ends {
        let mut ends = Ends { three: Box::new([0; 64]), short: Vec::new() };
        // One of another script fits only names that are let through anyhow.
        let names = names.map(String::as_str).chain(NEUTRAL.split_ascii_whitespace());
        for name in names.filter(|n| n.is_ascii()) {
            match Ends::bit(name.as_bytes()) {
                Some(bit) => ends.three[bit / 64] |= 1 << (bit % 64),
                None => {
                    let letters = name.bytes().rev().filter(u8::is_ascii_alphabetic);
                    ends.short.push(letters.map(|c| c.to_ascii_lowercase()).collect());
                }
            }
        }
        ends
    }

    /// Of the last three letters, whatever their case, without what follows them; `None` if there are fewer. (Digits and signs
    /// change nothing: between letters they begin another word.)
    fn bit(name: &[u8]) -> Option<usize> {
        let mut letters = name.iter().rev().filter(|c| c.is_ascii_alphabetic());
        let mut next = || letters.next().map(|c| usize::from(c | 0x20));
        Some(((next()? * 31 + next()?) * 31 + next()?) % 4096)
    }

    /// Whether a rule may speak of a name. Of one with escapes, or of another script, nothing is said by its ASCII letters.
    pub(crate) fn may_be(&self, name: &[u8]) -> bool {
        name.iter().any(|c| *c >= 0x80 || *c == b'\\')
            || Ends::bit(name).is_some_and(|bit| self.three[bit / 64] >> (bit % 64) & 1 != 0)
            || self.short.iter().any(|short| {
                let mut letters = name.iter().rev().filter(|c| c.is_ascii_alphabetic());
                short.iter().all(|s| letters.next().is_some_and(|c| c | 0x20 == *s))
            })
    }
}

/// The words of a name, in small letters.
pub(crate) fn words(name: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(name);
    let mut all: Vec<String> = Vec::new();
    let mut word = String::new();
    let chars: Vec<char> = text.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        if !c.is_alphanumeric() {
            all.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
            continue;
        }
        let before = i.checked_sub(1).map(|i| chars[i]);
        let next = chars.get(i + 1);
        // cardNumber, HTTPServer, password2
        let begins = before.is_some_and(|b| {
            (c.is_uppercase()
                && (b.is_lowercase() || (b.is_uppercase() && next.is_some_and(|n| n.is_lowercase()))))
                || (c.is_numeric() && b.is_alphabetic())
        });
        if begins {
            all.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
        }
        word.extend(c.to_lowercase());
    }
    all.extend((!word.is_empty()).then_some(word));
    all
}

/// What a name may end with, words run together; with and without words that change nothing.
pub(crate) fn endings(words: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    let mut end = words.len();
    loop {
        for from in end.saturating_sub(4)..end {
            all.push(words[from..end].concat());
        }
        // dbpassword, PGPASSWORD
        if let Some(last) = end.checked_sub(1).map(|i| &words[i]) {
            let ends = RUN_TOGETHER.iter().filter(|s| last.len() > s.len() && last.ends_with(**s));
            all.extend(ends.map(|s| (*s).to_owned()));
        }
        let neutral =
            |w: &String| NEUTRAL.split_ascii_whitespace().any(|n| n == w) || w.chars().all(char::is_numeric);
        if end < 2 || words.len() - end >= 3 || !neutral(&words[end - 1]) {
            return all;
        }
        end -= 1;
    }
}

/// The words of a name as a rule has it, run together.
pub(crate) fn glued(name: &str) -> String {
    words(name.as_bytes()).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_names_are_told_apart_by_their_ends() {
        let policy = Policy::parse("", std::path::Path::new("")).unwrap();
        for (name, may) in [
            ("pod_name", false),
            ("2024-05-01T10", false),
            ("requestReceivedTimestamp", false),
            ("user_password", true),
            ("PASSWORD2", true),
            ("contraseña", true),
            ("пароль_2", true),
            ("secret_b64", true),
            ("contrase\\u00f1a", true),
            ("ssn_no", true),
        ] {
            assert_eq!(policy.ends.may_be(name.as_bytes()), may, "{name}");
        }
    }

    #[test]
    fn spellings_are_the_same_words() {
        for name in [
            "credit_card",
            "creditCard",
            "CreditCard",
            "CREDIT-CARD",
            "credit card",
            "creditcard",
            "CREDITCARD",
        ] {
            assert_eq!(glued(name), "creditcard", "{name}");
        }
        assert_eq!(words(b"HTTPServerName2"), ["http", "server", "name", "2"]);
        let ends = |name: &str, with: &str| endings(&words(name.as_bytes())).contains(&with.to_owned());
        for (name, with, does) in [
            ("user_password", "password", true),
            ("passwordHash", "password", true),
            ("password2", "password", true),
            ("password_changed_at", "password", false),
            ("billing.creditCardNumber", "creditcard", true),
            ("x-set-cookie", "setcookie", true),
            ("className", "ssn", false),
            ("authorization.k8s.io/decision", "authorization", false),
            ("Proxy-Authorization", "authorization", true),
            ("socialSecurityNumber", "socialsecurity", true),
        ] {
            assert_eq!(ends(name, with), does, "{name}");
        }
    }
}
