//! What strings hold that must not be kept: numbers, addresses, keys and tokens, found by their form, their check digits and the
//! words around them, all in one pass over a text.

mod number;
mod token;
mod view;

use crate::names::{Info, Names};
use crate::policy::{Active, Policy};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::LazyLock;
pub(crate) use view::View;

/// A detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Numbers of payment cards: issuer, length and check digit (ISO/IEC 7812, Luhn).
    Card,
    /// Social security numbers of the USA.
    Ssn,
    /// International bank account numbers (ISO 13616).
    Iban,
    /// E-mail addresses.
    Email,
    /// Telephone numbers: E.164, and as people write them.
    Phone,
    /// JSON Web Tokens (RFC 7519).
    Jwt,
    /// What follows `Bearer` or `Basic` (RFC 6750, RFC 7617).
    Bearer,
    /// Access keys of AWS, and their secrets.
    AwsKey,
    /// API keys and tokens of Google Cloud.
    GcpKey,
    /// Tokens of GitHub.
    GithubKey,
    /// Tokens of others that have a form of their own: GitLab, Slack, Stripe, npm, PyPI, SendGrid, OpenAI, Anthropic.
    Token,
    /// Private keys (PEM, RFC 7468).
    PrivateKey,
    /// Passwords in URLs.
    UrlPassword,
    /// IPv4 and IPv6 addresses.
    Ip,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 14] = [
        Kind::Card,
        Kind::Ssn,
        Kind::Iban,
        Kind::Email,
        Kind::Phone,
        Kind::Jwt,
        Kind::Bearer,
        Kind::AwsKey,
        Kind::GcpKey,
        Kind::GithubKey,
        Kind::Token,
        Kind::PrivateKey,
        Kind::UrlPassword,
        Kind::Ip,
    ];

    /// As a policy names it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Card => "card",
            Kind::Ssn => "ssn",
            Kind::Iban => "iban",
            Kind::Email => "email",
            Kind::Phone => "phone",
            Kind::Jwt => "jwt",
            Kind::Bearer => "bearer",
            Kind::AwsKey => "aws_key",
            Kind::GcpKey => "gcp_key",
            Kind::GithubKey => "github_key",
            Kind::Token => "token",
            Kind::PrivateKey => "private_key",
            Kind::UrlPassword => "url_password",
            Kind::Ip => "ip",
        }
    }

    pub(crate) fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Why a part of a text was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// By a detector.
    Kind(Kind),
    /// It is the value of a name, in a text.
    Named,
    /// By a rule's own pattern.
    Pattern,
    /// It is base64 of something that was found.
    Encoded(Kind),
}

/// A part of a text, and the rule for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) rule: u16,
    pub(crate) why: Why,
    /// It overlaps others, so that nothing of it may be kept.
    pub(crate) whole: bool,
}

/// What the words around a number say of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    /// Kinds that they speak of, as bits.
    pub(crate) raised: u32,
    /// Kinds that the two words just before it, or the name of its field, speak of.
    pub(crate) near: u32,
    /// The word before it is of orders and goods, or of ids, counts and times.
    pub(crate) lowered: bool,
    /// It is of orders and goods.
    pub(crate) goods: bool,
}

const UPPER: u8 = 1;
const LOWER: u8 = 2;
const DIGIT: u8 = 4;
const ALNUM: u8 = UPPER | LOWER | DIGIT;
/// Stands in base64, beside letters and digits.
const JOINS: u8 = 8;
/// Something may begin or end here.
const TRIGGER: u8 = 16;
/// Stands in the local part of an e-mail address.
const LOCAL: u8 = 32;
/// Stands for something else, or may: an escape, in JSON or by percent, or a character that is not ASCII.
pub(crate) const SPECIAL: u8 = 64;
/// What is short and has no such byte, and few digits, is nothing that is looked for.
const TELLS: u8 = 128;

/// Whether a text is too short and too plain to hold anything, at a glance.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    // `Basic YTpi` has a space, an address an `@`, and numbers have seven digits at least; tokens are longer.
    if text.len() >= 16 {
        return false;
    }
    let (mut all, mut digits) = (0, 0);
    let mut look = |c: u8| {
        let k = class(c);
        all |= k;
        digits += (k & DIGIT) / DIGIT;
    };
    let (fours, rest) = text.as_chunks::<4>();
    for [a, b, c, d] in fours {
        look(*a);
        look(*b);
        look(*c);
        look(*d);
    }
    rest.iter().for_each(|c| look(*c));
    all & TELLS == 0 && digits < 7
}

/// The words that a token may begin with, by first letter: their lengths, as bits.
static BEGINS: [u32; 256] = {
    let mut all = [0u32; 256];
    let words: [(u8, u32); 13] = [
        (b'G', 1 << 6),                   // GOCSPX
        (b'g', 1 << 3 | 1 << 5 | 1 << 6), // ghp, glpat, github
        (b'x', 1 << 4),                   // xoxb
        (b's', 1 << 2),                   // sk
        (b'r', 1 << 2),                   // rk
        (b'n', 1 << 3),                   // npm
        (b'p', 1 << 4),                   // pypi
        (b'S', 1 << 2),                   // SG
        (b'B', 1 << 5 | 1 << 6),          // Basic, Bearer
        (b'b', 1 << 5 | 1 << 6),
        // AKIA…, AIza…, eyJ…: of any length.
        (b'A', u32::MAX),
        (b'e', u32::MAX << 3),
        (b'y', 1 << 4),
    ];
    let mut i = 0;
    while i < words.len() {
        all[words[i].0 as usize] = words[i].1;
        i += 1;
    }
    all
};

fn may_begin(first: u8, len: usize) -> bool {
    BEGINS[first as usize] >> len.min(31) & 1 != 0
}

static CLASS: [u8; 256] = {
    let mut all = [0u8; 256];
    let mut c = 0usize;
    while c < 256 {
        let b = c as u8;
        if b.is_ascii_uppercase() {
            all[c] = UPPER | LOCAL;
        } else if b.is_ascii_lowercase() {
            all[c] = LOWER | LOCAL;
        } else if b.is_ascii_digit() {
            all[c] = DIGIT | LOCAL;
        }
        if matches!(b, b'+' | b'/' | b'-' | b'_' | b'=') {
            all[c] |= JOINS;
        }
        if matches!(b, b'@' | b':' | b'=' | b'-' | b'\\' | b'\'' | b'>') {
            all[c] |= TRIGGER;
        }
        if matches!(b, b'.' | b'_' | b'%' | b'+' | b'-' | b'\'') {
            all[c] |= LOCAL;
        }
        if matches!(b, b'%' | 0x80..) {
            all[c] |= SPECIAL;
        }
        if matches!(b, b'@' | b':' | b'=' | b' ' | b'\\' | b'%' | 0x80..) {
            all[c] |= TELLS;
        }
        c += 1;
    }
    all
};

/// Beside the classes: whether it is a letter or digit, as one bit, so that four bytes are asked at once.
const WORD: u16 = 256;
/// Stands between the groups of a number.
const DIVIDES: u16 = 512;

static WIDE: [u16; 256] = {
    let mut all = [0u16; 256];
    let mut c = 0;
    while c < 256 {
        all[c] = CLASS[c] as u16 | if CLASS[c] & ALNUM != 0 { WORD } else { 0 };
        if matches!(c as u8, b' ' | b'-' | b'.' | b'/' | b'(' | b')' | b'\n' | b'\r' | b'\t') {
            all[c] |= DIVIDES;
        }
        c += 1;
    }
    all
};

fn wide(c: u8) -> u16 {
    WIDE[c as usize]
}

/// Whether a stretch may be base64 of anything that is looked for.
fn is_stretch(from: usize, to: usize, of: u8) -> bool {
    to - from >= 20 && of & UPPER != 0 && of & LOWER != 0
}

fn class(c: u8) -> u8 {
    CLASS[c as usize]
}

/// Goes over one text.
pub(crate) struct Scanner<'s> {
    pub(crate) text: &'s [u8],
    pub(crate) policy: &'s Policy,
    pub(crate) active: &'s Active,
    pub(crate) names: &'s mut Names,
    /// The field, which speaks of some kinds, and which some rules may leave alone.
    pub(crate) field: Info,
    pub(crate) found: &'s mut Vec<Found>,
    /// What was found of a text in base64 is looked into, but not again.
    pub(crate) inside: bool,
    /// Numbers before this place have been judged.
    pub(crate) judged: usize,
    /// Values of names and tokens before this place have been found.
    pub(crate) until: usize,
    /// The text is one of these.
    pub(crate) view: Option<&'s View>,
}

/// Nothing that is looked for is shorter.
pub(crate) const SHORTEST: usize = 6;

impl<'s> Scanner<'s> {
    /// Over a text that stands in a field.
    pub(crate) fn new(
        text: &'s [u8],
        policy: &'s Policy,
        active: &'s Active,
        names: &'s mut Names,
        field: Info,
        found: &'s mut Vec<Found>,
    ) -> Scanner<'s> {
        Scanner { text, policy, active, names, field, found, inside: false, judged: 0, until: 0, view: None }
    }

    /// Finds everything; what was found is in order and does not overlap.
    pub(crate) fn run(&mut self) {
        let before = self.found.len();
        self.pass();
        if let Some(patterns) = &self.policy.patterns {
            patterns.find(self.text, self.active, self.found);
        }
        // What is left alone must not hide what it overlaps.
        if self.field.exempt {
            let (names, info) = (&self.names, self.field);
            self.found.retain(|f| !names.exempts(info, f.rule));
        }
        if self.found.len() > before {
            settle(self.found, before);
        }
    }

    /// Whether the byte there was written by an escape.
    fn is_escaped(&self, at: usize) -> bool {
        self.view.is_some_and(|v| {
            let (start, end) = v.place(at, at + 1);
            end - start > 1
        })
    }

    fn wants(&self, kind: Kind) -> bool {
        self.active.by_kind[kind as usize] != Policy::NONE
    }

    fn put(&mut self, kind: Kind, start: usize, end: usize) {
        let rule = self.active.by_kind[kind as usize];
        if rule != Policy::NONE && start < end {
            self.found.push(Found { start, end, rule, why: Why::Kind(kind), whole: false });
        }
    }

    fn at(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    /// The byte before `at`; zero at the beginning.
    fn before(&self, at: usize) -> u8 {
        if at == 0 { 0 } else { self.text[at - 1] }
    }

    fn class_at(&self, at: usize) -> u8 {
        class(self.at(at))
    }

    /// Where the run of bytes of a class ends that begins at `at`.
    fn run_of(&self, at: usize, of: u8) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        at + rest.iter().position(|c| class(*c) & of == 0).unwrap_or(rest.len())
    }

    /// Where the word of letters and digits ends that begins there, and of which classes they are: four bytes at a time, since a
    /// module's loops pay for each turn.
    fn word_end(&self, from: usize) -> (usize, u8) {
        let (mut at, mut all) = (from, 0u16);
        let rest = &self.text[from..];
        let (fours, _) = rest.as_chunks::<4>();
        for [a, b, c, d] in fours {
            let (a, b, c, d) = (wide(*a), wide(*b), wide(*c), wide(*d));
            if a & b & c & d & WORD == 0 {
                break;
            }
            all |= a | b | c | d;
            at += 4;
        }
        for c in self.text[at..].iter().take(4) {
            let k = wide(*c);
            if k & WORD == 0 {
                break;
            }
            all |= k;
            at += 1;
        }
        (at, all as u8 & ALNUM)
    }

    /// The pass over the text; says of which classes its bytes are that are no letters and digits.
    pub(crate) fn pass(&mut self) -> u8 {
        let text = self.text;
        let mut at = 0;
        let mut signs = 0;
        // A stretch that may be base64.
        let (mut from, mut to, mut of) = (0, 0, 0);
        // The last word.
        let mut last = (0, 0, 0);
        while let Some(c) = text.get(at) {
            let mut all = class(*c);
            if all & ALNUM != 0 {
                let start = at;
                (at, all) = self.word_end(at);
                if to != start {
                    if is_stretch(from, to, of) {
                        self.stretch(from, to);
                    }
                    (from, of) = (start, 0);
                }
                (to, of) = (at, of | all);
                last = (start, at, all);
                if all == DIGIT {
                    if start >= self.judged {
                        self.number(start, at);
                    }
                } else if all & DIGIT != 0 || may_begin(text[start], at - start) {
                    self.word(start, at, all);
                }
                continue;
            }
            signs |= all;
            if all & TRIGGER != 0 {
                match c {
                    b'@' => self.email(at),
                    b'\'' => self.quoted(at),
                    b'>' => self.element(at),
                    b'-' => {
                        if text.get(at + 1) == Some(&b'-') {
                            if let Some(end) = self.private_key(at) {
                                at = end;
                                continue;
                            }
                            if class(self.at(at + 2)) & ALNUM != 0 {
                                self.flag(at + 2);
                            }
                        }
                    }
                    // What is escaped so is a sign, too, and nothing else.
                    b'\\' if matches!(text.get(at + 1), Some(b'"' | b'/')) => {
                        at += 2;
                        continue;
                    }
                    b'\\' => signs |= SPECIAL,
                    _ => self.separator(at, last),
                }
            }
            if all & JOINS != 0 && to == at {
                to = at + 1;
            }
            at += 1;
        }
        if is_stretch(from, to, of) {
            self.stretch(from, to);
        }
        signs
    }

    /// What the words before and behind a number say of it, and the name of its field. (A name never lowers: whoever puts a card
    /// number into `order_id` has put a card number there.)
    pub(crate) fn context(&self, start: usize, end: usize) -> Hints {
        const BEFORE: usize = 48;
        const BEHIND: usize = 24;
        // Whole words only: `discard` is no card.
        let letter = |c: &u8| class(*c) & (UPPER | LOWER) != 0;
        let mut from = start.saturating_sub(BEFORE);
        if from > 0 && letter(&self.text[from - 1]) {
            from += self.text[from..start].iter().take_while(|c| letter(c)).count();
        }
        let mut to = (end + BEHIND).min(self.text.len());
        if to < self.text.len() && letter(&self.text[to]) {
            to -= self.text[end..to].iter().rev().take_while(|c| letter(c)).count();
        }
        let (before, behind) = (&self.text[from..start], &self.text[end..to]);
        let mut hints = hints_of(before, true);
        hints.raised |= hints_of(behind, false).raised | self.field.raised;
        hints.near |= self.field.raised;
        hints
    }
}

/// What the words of a text say; `last`: whether the last of them may lower.
fn hints_of(text: &[u8], last: bool) -> Hints {
    let mut hints = Hints::default();
    let mut previous = 0;
    let mut word = [0u8; 24];
    let mut at = 0;
    while at < text.len() {
        let k = class(text[at]);
        if k & (UPPER | LOWER) == 0 {
            // Another number stands between: the word was for that.
            if k & DIGIT != 0 {
                (hints.lowered, hints.goods) = (false, false);
            }
            at += 1;
            continue;
        }
        let mut n = 0;
        let mut camel = false;
        while at < text.len() && class(text[at]) & (UPPER | LOWER) != 0 {
            // cardNumber: two words
            if n > 0 && class(text[at]) & UPPER != 0 && class(text[at - 1]) & LOWER != 0 {
                camel = true;
                break;
            }
            if n < word.len() {
                word[n] = text[at].to_ascii_lowercase();
                n += 1;
            }
            at += 1;
        }
        let said = said(&word[..n]);
        hints.raised |= said.raised;
        (hints.near, previous) = (said.raised | previous, said.raised);
        // Words that say nothing of it may stand between: `order no. 12`, `id is 12`.
        if !matches!(&word[..n], b"is" | b"was" | b"a" | b"the" | b"x") || camel {
            hints.lowered = said.lowered && last;
            hints.goods = said.goods && last;
        }
    }
    if !text.is_ascii() {
        let text = String::from_utf8_lossy(text).to_lowercase();
        for (word, kind) in FOREIGN {
            if let Some(at) = text.rfind(word) {
                hints.raised |= kind.bit();
                // Nothing but the end of the word, and signs, between it and the number.
                let between = text[at + word.len()..].chars().filter(|c| c.is_alphanumeric());
                if last && between.clone().count() < 5 && !between.clone().any(|c| c.is_ascii()) {
                    hints.near |= kind.bit();
                }
            }
        }
    }
    hints
}

const FOREIGN: [(&str, Kind); 27] = [
    ("карта", Kind::Card),
    ("карты", Kind::Card),
    ("карте", Kind::Card),
    ("карту", Kind::Card),
    ("картой", Kind::Card),
    ("карточк", Kind::Card),
    ("crédito", Kind::Card),
    ("クレジット", Kind::Card),
    ("カード", Kind::Card),
    ("信用卡", Kind::Card),
    ("卡号", Kind::Card),
    ("카드", Kind::Card),
    ("بطاقة", Kind::Card),
    ("телефон", Kind::Phone),
    ("тел", Kind::Phone),
    ("моб", Kind::Phone),
    ("звон", Kind::Phone),
    ("电话", Kind::Phone),
    ("手机", Kind::Phone),
    ("電話", Kind::Phone),
    ("携帯", Kind::Phone),
    ("전화", Kind::Phone),
    ("هاتف", Kind::Phone),
    ("फ़ोन", Kind::Phone),
    ("फोन", Kind::Phone),
    ("τηλ", Kind::Phone),
    ("télé", Kind::Phone),
];

/// Words that speak of cards.
const CARD_WORDS: &str = "card cards visa mastercard maestro amex discover jcb diners unionpay credit debit pan cc ccnum \
    kreditkarte kartennummer karte carte tarjeta carta creditcard cardnumber cvv cvc";
/// Of social security numbers.
const SSN_WORDS: &str = "ssn social ssns socialsecuritynumber ss taxpayer itin tin";
/// Of telephones.
const PHONE_WORDS: &str = "phone phones tel telephone mobile mobil cell cellphone call calls called calling caller callback \
    dial dialed fax sms whatsapp handy telefon telefono telefone telefonnummer rufnummer celular movil \
    portable hotline msisdn phonenumber reach ring texted mob ext voicemail cellulare mobiel telefoon";
/// Of keys of AWS.
const AWS_WORDS: &str = "aws secret akia amazon";
/// Of bank accounts.
const IBAN_WORDS: &str = "iban konto";
/// Of orders and goods: what follows is a number of one.
const GOODS: &str = "order orders invoice ticket po sku part item serial tracking isbn imei ean upc gtin shipment parcel \
    barcode product lot model case version build";
/// Of ids, counts and times.
const IDS: &str = "id ids uid gid pid ref reference issue seq sequence batch txn transaction trace span epoch timestamp \
    time offset bytes size revision commit hash checksum digest uuid nonce request req session nanos \
    micros millis duration inode snowflake generation count counts total port rows";

/// What a word says of a number beside it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    /// Kinds, as bits.
    pub(crate) raised: u32,
    /// It is of orders and goods, or of ids, counts and times.
    pub(crate) lowered: bool,
    goods: bool,
}

static SAID: LazyLock<HashMap<&'static [u8], Said>> = LazyLock::new(|| {
    let raises = |kind: Kind| Said { raised: kind.bit(), ..Said::default() };
    [
        (CARD_WORDS, raises(Kind::Card)),
        (SSN_WORDS, raises(Kind::Ssn)),
        (PHONE_WORDS, raises(Kind::Phone)),
        (AWS_WORDS, raises(Kind::AwsKey)),
        (IBAN_WORDS, raises(Kind::Iban)),
        (GOODS, Said { lowered: true, goods: true, ..Said::default() }),
        (IDS, Said { lowered: true, ..Said::default() }),
    ]
    .into_iter()
    .flat_map(|(list, said)| list.split_ascii_whitespace().map(move |word| (word.as_bytes(), said)))
    .collect()
});

/// What a word, in small letters, says.
pub(crate) fn said(word: &[u8]) -> Said {
    SAID.get(word).copied().unwrap_or_default()
}

/// Puts what was found in order; what overlaps becomes one, of which nothing may be kept.
fn settle(found: &mut Vec<Found>, from: usize) {
    found[from..].sort_by_key(|f| (f.start, std::cmp::Reverse(f.end)));
    let mut kept = from;
    for i in from + 1..found.len() {
        let next = found[i];
        let last = &mut found[kept];
        if next.start < last.end {
            if next.end > last.end {
                last.end = next.end;
                last.whole = true;
            }
            continue;
        }
        kept += 1;
        found[kept] = next;
    }
    found.truncate(kept + 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What is found, and where, with every detector on.
    fn all(text: &str) -> Vec<(&'static str, String)> {
        let mut yaml = String::from(
            "without: [tokens, cards, iban, ssn, email, phone, private-keys, url-passwords]\nrules:\n",
        );
        for kind in Kind::ALL {
            yaml.push_str(&format!(
                "  - {{id: {}, find: [{}], action: redact}}\n",
                kind.name().replace('_', "-"),
                kind.name()
            ));
        }
        let policy = Policy::parse(&yaml, Path::new("")).unwrap();
        let active = policy.active("", "");
        let mut found = Vec::new();
        let mut view = View::default();
        let viewed = view.of(text.as_bytes());
        let mut names = Names::default();
        let seen = if viewed { &view.text } else { text.as_bytes() };
        let mut scanner = Scanner::new(seen, &policy, &active, &mut names, Info::default(), &mut found);
        scanner.view = Some(&view).filter(|_| viewed);
        scanner.run();
        let place = |f: &Found| if viewed { view.place(f.start, f.end) } else { (f.start, f.end) };
        let what = |f: &Found| match f.why {
            Why::Kind(k) => k.name(),
            Why::Named => "named",
            Why::Pattern => "pattern",
            Why::Encoded(_) => "encoded",
        };
        found.iter().map(|f| (what(f), text[place(f).0..place(f).1].to_owned())).collect()
    }

    fn finds(text: &str, kind: &str, what: &str) {
        assert_eq!(all(text), [(kind, what.to_owned())], "{text}");
    }

    /// Nothing but addresses of hosts.
    fn nothing(text: &str) {
        let found: Vec<_> = all(text).into_iter().filter(|f| f.0 != "ip").collect();
        assert_eq!(found, [], "{text}");
    }

    #[test]
    fn cards_that_their_networks_publish_for_tests() {
        for n in [
            "4111111111111111",
            "4012888888881881",
            "4222222222222",
            "5555555555554444",
            "5105105105105100",
            "2223003122003222",
            "378282246310005",
            "371449635398431",
            "30569309025904",
            "38520000023237",
            "6011111111111117",
            "6011000990139424",
            "3530111333300000",
            "3566002020360505",
            "6200000000000005",
            "6759649826438453",
            "5019717010103742",
            "4000000000000000006",
            "2200000000000004",
        ] {
            finds(n, "card", n);
            finds(&format!("paid with {n}, thanks"), "card", n);
            finds(&format!("カード番号{n}です"), "card", n);
            if n.len() == 16 {
                let groups: Vec<&str> = (0..4).map(|i| &n[i * 4..i * 4 + 4]).collect();
                for sep in [" ", "-", ".", "\n", "\u{a0}", " - "] {
                    let n = groups.join(sep);
                    finds(&format!("<{n}>"), "card", &n);
                }
                finds(&format!("{} 12/27 123", groups.join(" ")), "card", &groups.join(" "));
            }
        }
        finds("3782 822463 10005", "card", "3782 822463 10005");
        finds("４１１１１１１１１１１１１１１１", "card", "４１１１１１１１１１１１１１１１");
        finds("n=%34%31%31%31111111111111", "card", "%34%31%31%31111111111111");
        finds("data: NDExMTExMTExMTExMTExMSBvayBvaw== end", "encoded", "NDExMTExMTExMTExMTExMSBvayBvaw==");
    }

    #[test]
    fn what_only_looks_like_a_card_stays() {
        for n in [
            "4111111111111112", // check digit
            "9111111111111111", // no issuer
            "0000000000000000",
            "1731600000000",
            "1731600000000000",
            "1731600000000000000", // epochs
            "550e8400-e29b-41d4-a716-446655440000",
            "41111111-1111-4111-8111-111111111111",
            "0.4111111111111111",
            "12.4111111111111111",
            "4111111111111111a",
            "a4111111111111111",
            "order_id=4111111111111111",
            "41111111111111111111", // twenty digits
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "1.2.3-4111.1111",
            "2024-05-01T10:00:00.123456Z",
        ] {
            nothing(n);
        }
    }

    #[test]
    fn social_security_numbers() {
        finds("078-05-1120", "ssn", "078-05-1120");
        finds("born, 219 09 9999.", "ssn", "219 09 9999");
        finds("SSN 219099999", "ssn", "219099999");
        finds("social security number is 219.09.9999", "ssn", "219.09.9999");
        for no in [
            "000-12-3456",
            "666-12-3456",
            "900-12-3456",
            "123-00-4567",
            "123-45-0000",
            "219099999",
            "1-219-09-9999",
            "219-09-9999-1",
            "219-09-99999",
            "order 219-09-9999",
        ] {
            nothing(no);
        }
    }

    #[test]
    fn ibans_of_the_registry() {
        for n in [
            "DE89370400440532013000",
            "GB29NWBK60161331926819",
            "FR1420041010050500013M02606",
            "NL91ABNA0417164300",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
            "SA0380000000608010167519",
            "BR9700360305000010009795493P1",
            "CH9300762011623852957",
            "PL27114020040000300201355387",
            "ES9121000418450200051332",
            "IT60X0542811101000000123456",
        ] {
            finds(n, "iban", n);
            let chars: Vec<char> = n.chars().collect();
            let spaced = chars.chunks(4).map(|c| c.iter().collect::<String>()).collect::<Vec<_>>().join(" ");
            finds(&format!("IBAN {spaced}."), "iban", &spaced);
            finds(&n.to_lowercase(), "iban", &n.to_lowercase());
        }
        nothing("DE89370400440532013001");
        nothing("XX89370400440532013000");
    }

    #[test]
    fn addresses() {
        for a in [
            "alice@example.com",
            "a.b+c_d@mail.example.co.uk",
            "o'neil@example.org",
            "josé@example.com",
            "почта@пример.рф",
            "x@xn--e1afmkfd.xn--p1ai",
            "1234567@qq.com",
        ] {
            finds(a, "email", a);
            finds(&format!("<{a}>"), "email", a);
            finds(&format!("from {a}, to"), "email", a);
        }
        finds("邮箱alice@example.com。", "email", "alice@example.com");
        finds("q=alice%40example.com&x=1", "email", "alice%40example.com");
        for no in [
            "alice@localhost",
            "@alice",
            "a@b",
            "user@1.2.3.4",
            "image@sha256:abc",
            "git@github.com:a/b",
            "ssh://root@host.example.com/x",
            "pkg@1.2.3",
            "a @ b.com",
        ] {
            nothing(no);
        }
    }

    #[test]
    fn telephone_numbers() {
        for n in [
            "+14155552671",
            "+1 415 555 2671",
            "+1-415-555-2671",
            "(415) 555-2671",
            "415-555-2671",
            "415.555.2671",
            "1-800-555-0199",
            "001-581-896-0013x3890",
            "(918)371-8666x4522",
            "+49 30 901820",
            "+49(0)4155 12345",
            "+44 20 7946 0018",
            "020 7946 0018",
            "(01632) 960 983",
            "01 23 45 67 89",
            "+33 1 23 45 67 89",
            "0171 1234567",
            "+81 3-1234-5678",
            "03-1234-5678",
            "090-1234-5678",
            "+7 (912) 345-67-89",
            "8 (912) 345-67-89",
            "+86 138 1234 5678",
            "0049 30 123456",
            "+5511912345678",
            "(11) 91234-5678",
        ] {
            finds(n, "phone", n);
            finds(&format!("at {n}."), "phone", n);
        }
        finds("call 5558675309 now", "phone", "5558675309");
        finds("Телефон: 84951234567", "phone", "84951234567");
        for no in [
            "555-1234",
            "2024-05-01 10:00",
            "01.05.2024 10:11",
            "1731600000",
            "order 415-555-2671",
            "10.0.0.1",
            "192.168.100.200",
            "1.2.3.4567890",
            "v2.10.1234567",
            "port 38926",
            "0123456789",
        ] {
            nothing(no);
        }
    }

    #[test]
    fn tokens_and_keys() {
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        finds(jwt, "jwt", jwt);
        finds("Bearer mF_9.B5f-4.1JqM", "bearer", "mF_9.B5f-4.1JqM");
        finds("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "bearer", "QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        nothing("Bearer authentication required");
        nothing("Basic understanding");
        finds("AKIAIOSFODNN7EXAMPLE", "aws_key", "AKIAIOSFODNN7EXAMPLE");
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".replace("EXAMPLEKEY", "EXAMPLEK3Y");
        finds(&format!("aws secret {secret}"), "aws_key", &secret);
        for (kind, t) in [
            ("gcp_key", "AIzaSyDaGmWKa4JsXZ-HjGw7ISLn_3namBGewQe".to_owned()),
            ("github_key", format!("ghp_{}", "a1B2".repeat(9))),
            ("github_key", format!("github_pat_{}", "a1B2_".repeat(8))),
            ("token", format!("xoxb-{}", "1234567890-abcDEF")),
            ("token", format!("sk_live_{}", "a1B2c3D4".repeat(3))),
            ("token", format!("glpat-{}", "a1B2c3D4".repeat(3))),
            ("token", format!("npm_{}", "a1B2".repeat(9))),
        ] {
            finds(&t, kind, &t);
            finds(&format!("key={t};"), kind, &t);
        }
        let pem = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIr\n-----END EC PRIVATE KEY-----";
        finds(&format!("a {pem} b"), "private_key", pem);
        finds(&pem[..50], "private_key", &pem[..50]);
        nothing("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----");
        finds("postgres://app:s3cr3t@db.internal:5432/x", "url_password", "s3cr3t");
        finds("redis://:p@ss@cache:6379", "url_password", "p@ss");
        nothing("https://example.com:8080/path?x=a@b");
    }

    #[test]
    fn values_of_telling_names_in_text() {
        finds("login password=hunter2 ok", "named", "hunter2");
        finds("GET /x?api_key=abc123&y=2", "named", "abc123");
        finds(r#"INFO {"password": "hun\"ter2", "a": 1}"#, "named", r#"hun\"ter2"#);
        finds(r#"{\"clientSecret\":\"abc\",\"b\":1}"#, "named", "abc");
        finds("Authorization: Digest abc", "named", "Digest abc");
        finds("mysql -u root --password hunter2 db", "named", "hunter2");
        finds("Cookie: a=b; c=d\nHost: x", "named", "a=b; c=d");
        nothing("Failed password for root from 192.0.2.1 port 22");
        nothing("password_policy=strict token: null password=");
        nothing("error: token expired");
    }

    #[test]
    fn ip_addresses() {
        finds("from 198.51.100.7 port 22", "ip", "198.51.100.7");
        finds("[2001:db8::1]:443", "ip", "2001:db8::1");
        finds("peer fe80::1%eth0", "ip", "fe80::1");
        for no in ["1.2.3", "1.2.3.4.5", "256.1.1.1", "10:11:12", "std::vec", "::"] {
            assert_eq!(all(no), [], "{no}");
        }
    }
}
