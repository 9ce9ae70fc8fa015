//! Numbers in groups of digits: payment cards, social security numbers, telephone numbers; and IBANs, which begin with letters.

use super::{ALNUM, DIGIT, DIVIDES, Kind, LOWER, Scanner, UPPER, class, wide};

/// Groups of digits with little between them.
struct Chain {
    groups: [(usize, usize); MOST],
    len: usize,
    /// Where an extension ends that follows the last group (`x123`).
    extended: usize,
}

/// More groups are no number that anyone writes.
const MOST: usize = 16;

impl Chain {
    fn all(&self) -> &[(usize, usize)] {
        &self.groups[..self.len]
    }
}

/// Stands between the groups of a number.
fn divides(c: u8) -> bool {
    wide(c) & DIVIDES != 0
}

fn digits(groups: &[(usize, usize)]) -> usize {
    groups.iter().map(|(s, e)| e - s).sum()
}

impl Scanner<'_> {
    /// Judges the number whose first group of digits is there.
    pub(super) fn number(&mut self, start: usize, end: usize) {
        let len = end - start;
        let next = self.at(end);
        // Most numbers are short, and alone, or with too few digits behind them.
        if len < 7 {
            if !divides(next) {
                return;
            }
            let (mut sum, mut gap) = (len, 0);
            for c in &self.text[end..] {
                let k = wide(*c);
                if k & u16::from(DIGIT) != 0 {
                    (sum, gap) = (sum + 1, 0);
                } else if k & DIVIDES != 0 {
                    gap += 1;
                } else {
                    break;
                }
                if sum >= 7 || gap >= 4 {
                    break;
                }
            }
            if sum < 7 && !(self.wants(Kind::Ip) && next == b'.') {
                return;
            }
        }
        if self.wants(Kind::Ip) && next == b'.' && len <= 3 && self.ipv4(start) {
            return;
        }
        let chain = self.chain(start, end);
        let all = chain.all();
        let last = chain.groups[chain.len - 1].1;
        self.judged = last;
        if chain.len == MOST {
            // What goes on may begin in what has been seen.
            self.judged = all[MOST - 6].0.max(start + 1);
        }
        let total = digits(all);
        if total < 7 {
            return;
        }
        // Which groups are something already.
        let mut taken = [false; MOST];
        if total >= 12 && self.wants(Kind::Card) {
            self.cards(all, &mut taken);
        }
        if total >= 9 && self.wants(Kind::Ssn) {
            self.ssn(all, &mut taken);
        }
        if !self.wants(Kind::Phone) {
            return;
        }
        let mut i = 0;
        while i < chain.len {
            let free = taken[i..chain.len].iter().take_while(|t| !**t).count();
            let mut n = 0;
            if free > 0 {
                let groups = &all[i..i + free];
                // Not at its first group, only what cannot be anything else.
                let apart = i == 0 || taken[i - 1] || matches!(self.before(groups[0].0), b'+' | b'(');
                let sum = digits(groups);
                if sum >= 7 && (apart || self.is_american(groups)) {
                    let mut part = Chain { groups: [(0, 0); MOST], len: free, extended: groups[free - 1].1 };
                    part.groups[..free].copy_from_slice(groups);
                    if i + free == chain.len {
                        part.extended = chain.extended;
                    }
                    n = self.phone(&part, sum);
                }
            }
            i += n.max(1);
        }
    }

    /// 415-555-2671
    fn is_american(&self, all: &[(usize, usize)]) -> bool {
        let Some([a, b, c]) = all.first_chunk::<3>() else { return false };
        let dashed = |x: &(usize, usize), y: &(usize, usize)| matches!(&self.text[x.1..y.0], b"-" | b".");
        [a.1 - a.0, b.1 - b.0, c.1 - c.0] == [3, 3, 4] && dashed(a, b) && dashed(b, c)
    }

    fn chain(&self, start: usize, end: usize) -> Chain {
        let mut chain = Chain { groups: [(0, 0); MOST], len: 0, extended: end };
        let (mut s, mut e) = (start, end);
        loop {
            chain.groups[chain.len] = (s, e);
            chain.len += 1;
            chain.extended = e;
            if chain.len == MOST {
                break;
            }
            let mut at = e;
            while at < e + 3 && divides(self.at(at)) {
                at += 1;
            }
            // A line break is no more than one.
            let gap = self.text.get(e..at).unwrap_or_default();
            if at == e || gap.iter().filter(|c| **c == b'\n').count() > 1 || self.class_at(at) & DIGIT == 0 {
                break;
            }
            let stop = self.run_of(at, ALNUM);
            let only = self.run_of(at, DIGIT);
            if only < stop {
                // 0013x3890
                if let Some(to) = self.extension(only).filter(|to| *to == stop) {
                    chain.groups[chain.len] = (at, only);
                    chain.len += 1;
                    chain.extended = to;
                }
                break;
            }
            (s, e) = (at, stop);
        }
        if chain.extended == e {
            chain.extended = self.extension(e).unwrap_or(e);
        }
        chain
    }

    /// Where an extension ends that begins at `at`: `x123`, ` ext. 123`.
    fn extension(&self, at: usize) -> Option<usize> {
        let rest = self.text.get(at..(at + 12).min(self.text.len()))?;
        let skip = rest.iter().take_while(|c| **c == b' ').count();
        let word = rest[skip..].iter().take_while(|c| c.is_ascii_alphabetic()).count();
        let is = matches!(&rest[skip..skip + word], b"x" | b"X" | b"ext" | b"Ext" | b"EXT");
        let mut from = at + skip + word;
        while is && matches!(self.at(from), b'.' | b' ' | b':') {
            from += 1;
        }
        let to = self.run_of(from, DIGIT);
        (is && (1..=6).contains(&(to - from)) && self.class_at(to) & ALNUM == 0).then_some(to)
    }

    /// A number that begins with digits and goes on with `x` and its extension.
    pub(super) fn extended(&mut self, start: usize, end: usize) {
        let only = self.run_of(start, DIGIT);
        if only - start >= 7 && self.wants(Kind::Phone) && self.extension(only) == Some(end) {
            let chain = Chain { groups: [(start, only); MOST], len: 1, extended: end };
            self.phone(&chain, only - start);
        }
    }

    fn cards(&mut self, all: &[(usize, usize)], taken: &mut [bool; MOST]) {
        let mut first = 0;
        while first < all.len() {
            let mut found = None;
            for last in first..all.len().min(first + 5) {
                let groups = &all[first..=last];
                let total = digits(groups);
                if total > 19 {
                    break;
                }
                if total >= 12 && self.card(groups) {
                    found = Some(last);
                }
            }
            if let Some(last) = found {
                self.put(Kind::Card, all[first].0, all[last].1);
                taken[first..=last].fill(true);
                first = last;
            }
            first += 1;
        }
    }

    fn card(&self, groups: &[(usize, usize)]) -> bool {
        let len = |i: usize| groups[i].1 - groups[i].0;
        let last = groups.len() - 1;
        let shaped = match last {
            0 => true,
            1 => matches!((len(0), len(1)), (6, 10) | (8, 8)),
            2 if len(0) == 4 && len(1) == 6 => matches!(len(2), 4 | 5),
            _ => last >= 2 && (0..last).all(|i| len(i) == 4) && (1..=4).contains(&len(last)),
        };
        let (start, end) = (groups[0].0, groups[last].1);
        if !shaped || !self.is_free(start, end) {
            return false;
        }
        let mut text = [0u8; 19];
        let mut n = 0;
        for (s, e) in groups {
            for c in &self.text[*s..*e] {
                text[n] = c - b'0';
                n += 1;
            }
        }
        let text = &text[..n];
        if text.iter().all(|d| *d == text[0]) || !luhn(text) {
            return false;
        }
        // Between colons, as in `arn:aws:iam::…:`, twelve digits are an account.
        if n == 12 && self.before(start) == b':' && self.at(end) == b':' {
            return false;
        }
        let issued = issuer(text).is_some();
        if issued && last > 0 {
            return true;
        }
        let hints = self.context(start, end);
        let card = hints.raised & Kind::Card.bit() != 0;
        if issued { card || !hints.lowered } else { hints.near & Kind::Card.bit() != 0 && n >= 13 }
    }

    /// Whether a number stands alone, and is no part of a fraction, a UUID or an identifier.
    fn is_free(&self, start: usize, end: usize) -> bool {
        let before = self.before(start);
        if before == b'.' && start >= 2 && class(self.text[start - 2]) & DIGIT != 0 {
            return false;
        }
        if before == b'-' && start >= 2 && class(self.text[start - 2]) & ALNUM != 0 {
            let word = self.text[..start - 1].iter().rev().take_while(|c| class(**c) & ALNUM != 0);
            let (mut n, mut digit, mut hex) = (0, false, true);
            word.for_each(|c| {
                n += 1;
                digit |= c.is_ascii_digit();
                hex &= c.is_ascii_hexdigit();
            });
            if hex && (digit || matches!(n, 4 | 8 | 12)) {
                return false;
            }
        }
        let (behind, next) = (self.at(end), self.class_at(end + 1));
        !(behind == b'.' && next & DIGIT != 0 || behind == b'-' && next & ALNUM != 0)
    }

    /// 123-45-6789. (Never issued: area 000, 666 and from 900; group 00; serial number 0000.)
    fn ssn(&mut self, all: &[(usize, usize)], taken: &mut [bool; MOST]) {
        let value = |(s, e): (usize, usize)| {
            self.text[s..e].iter().fold(0u32, |n, c| n.saturating_mul(10).saturating_add(u32::from(c - b'0')))
        };
        let valid = |area: u32, group: u32, serial: u32| {
            area != 0 && area != 666 && area < 900 && group != 0 && serial != 0
        };
        let mut hits = Vec::new();
        for (i, w) in all.windows(3).enumerate() {
            let [a, b, c] = [w[0], w[1], w[2]];
            if taken[i..i + 3].contains(&true) {
                continue;
            }
            if [a.1 - a.0, b.1 - b.0, c.1 - c.0] != [3, 2, 4] || !valid(value(a), value(b), value(c)) {
                continue;
            }
            let one = |from: usize, to: usize| if to - from == 1 { self.at(from) } else { 0 };
            let (x, y) = (one(a.1, b.0), one(b.1, c.0));
            let hints = self.context(a.0, c.1);
            let raised = hints.raised & Kind::Ssn.bit() != 0;
            // The same between all, and no more groups with it around.
            let apart = |c: u8| c != x;
            let alone = (i == 0 || apart(self.before(a.0))) && (i + 3 == all.len() || apart(self.at(c.1)));
            let plain = x != 0 && x == y && alone && self.is_free(a.0, c.1);
            let good = match x {
                b'-' => plain && (raised || !hints.goods),
                // Status, size and time of an access line are no number of anyone's.
                b' ' => {
                    let line = self.text[..a.0].ends_with(b"\" ");
                    plain && (raised || (all.len() == 3 && !hints.goods && !line))
                }
                _ => plain && raised,
            };
            if good || (raised && x != 0 && y != 0 && self.is_free(a.0, c.1)) {
                hits.push((i, 3));
            }
        }
        for (i, (s, e)) in all.iter().enumerate().filter(|(i, (s, e))| e - s == 9 && !taken[*i]) {
            let n = value((*s, *e));
            if valid(n / 1_000_000, n / 10_000 % 100, n % 10_000)
                && self.is_free(*s, *e)
                && self.context(*s, *e).raised & Kind::Ssn.bit() != 0
            {
                hits.push((i, 1));
            }
        }
        for (i, n) in hits {
            self.put(Kind::Ssn, all[i].0, all[i + n - 1].1);
            taken[i..i + n].fill(true);
        }
    }

    /// Puts the telephone number that a chain begins with; says how many groups it has.
    fn phone(&mut self, chain: &Chain, total: usize) -> usize {
        let all = chain.all();
        let (start, first_end) = all[0];
        let first = &self.text[start..first_end];
        let text = self.text;
        let len = |i: usize| all.get(i).map_or(0, |(s, e)| e - s);
        let gap = |i: usize| match (all.get(i), all.get(i + 1)) {
            (Some(a), Some(b)) => &text[a.1..b.0],
            _ => b"".as_slice(),
        };
        // Where the number ends that has its first `n` groups.
        let end_of = |n: usize| if n == all.len() { chain.extended } else { all[n - 1].1 };
        let opened = self.before(start) == b'(';
        // The plus may stand in the bracket, or before it.
        let plus = if self.before(start) == b'+' {
            Some(start - 1)
        } else if opened && start >= 2 && text[start - 2] == b'+' {
            Some(start - 2)
        } else {
            None
        };
        if let Some(from) = plus {
            // E.164: at most 15 digits, and a country that there is.
            if from > 0 && class(text[from - 1]) & ALNUM != 0 || !is_country(first) {
                return 0;
            }
            let (mut n, mut sum) = (0, 0);
            let most = if first == b"1" || first.starts_with(b"1") && first.len() == 11 { 11 } else { 15 };
            while n < all.len() && sum + len(n) <= most && n < 7 {
                // On another line, or after two spaces, something else begins.
                if n > 0 && sum >= 10 && (gap(n - 1).contains(&b'\n') || gap(n - 1) == b"  ") {
                    break;
                }
                sum += len(n);
                n += 1;
            }
            // North America has eleven digits.
            if n > 0 && sum >= 8 && (first[0] != b'1' || sum == 11) {
                self.put(Kind::Phone, from, end_of(n));
                return n;
            }
            return 0;
        }
        let from = if opened { start - 1 } else { start };
        if all.len() >= 4 && (0..4).all(|i| len(i) <= 3) && (0..3).all(|i| gap(i) == b".") {
            // 198.51.100.7
            return 0;
        }
        // A fraction, a path, a number of something.
        let joined = match from.checked_sub(1).map(|i| text[i]) {
            Some(b'.' | b'/' | b'#' | b'_') => true,
            // Behind the request of an access line stand status and size.
            Some(b' ') if text[..from].ends_with(b"\" ") => return 0,
            // A part of an identifier, as `ORD-` or of a UUID.
            Some(b'-') if from >= 2 && class(text[from - 2]) & ALNUM != 0 => return 0,
            _ => false,
        };
        if joined && self.context(start, end_of(all.len())).near & Kind::Phone.bit() == 0 {
            return 0;
        }
        let two = |d: &[u8]| d.first().is_some_and(|c| (b'2'..=b'9').contains(c));
        let small = |g: &[u8]| matches!(g, b" " | b"-" | b"." | b") " | b")" | b")-" | b" (" | b" - " | b"/");
        // North America: 3-3-4, perhaps after 1 or 001.
        let lead = usize::from(all.len() >= 4 && matches!(first, b"1" | b"001"));
        let group = |i: usize| all.get(i).map_or(&[][..], |(s, e)| &text[*s..*e]);
        let american = len(lead) == 3
            && len(lead + 1) == 3
            && len(lead + 2) == 4
            && two(group(lead))
            && two(group(lead + 1))
            && (0..lead + 2).all(|i| small(gap(i)));
        if american {
            let n = lead + 3;
            let closed = n == all.len() || gap(n - 1) != gap(n - 2);
            let hints = self.context(from, end_of(n));
            if closed && !hints.lowered && self.is_free(from, all[n - 1].1) {
                let from = if lead == 0 && self.before(start) == b'(' { start - 1 } else { from };
                self.put(Kind::Phone, from, end_of(n));
                return n;
            }
        }
        let hints = self.context(from, end_of(all.len()));
        // Ten digits that begin with 1 are a time.
        let time = (first.len() >= 10 && first[0] == b'1') || (all.len() == 1 && total < 9);
        let parts = (1..all.len()).all(|i| len(i) > 1 && !(gap(i - 1) == b"." && all.len() == 2));
        if hints.near & Kind::Phone.bit() != 0
            && !hints.lowered
            && (7..=13).contains(&total)
            && !is_date(all, text)
            && !time
            && parts
        {
            self.put(Kind::Phone, from, chain.extended);
            return all.len();
        }
        if hints.lowered || !self.is_free(from, all[all.len() - 1].1) {
            return 0;
        }
        // Several numbers in a row: as many groups as one has.
        let fitting = |least: usize, most: usize| {
            let (mut n, mut sum, mut best) = (0, 0, 0);
            while n < all.len() && sum + len(n) <= most && (n == 0 || small(gap(n - 1))) {
                sum += len(n);
                n += 1;
                if sum >= least {
                    best = n;
                }
            }
            best
        };
        let found = if first.starts_with(b"00")
            && first.get(2).is_some_and(|c| *c != b'0')
            && is_country(&first[2..])
        {
            // 0049 30 123456
            if gap(0) == b"." && all.len() == 2 { 0 } else { fitting(11, 17) }
        } else if opened && gap(0).starts_with(b")") && (2..=5).contains(&len(0)) {
            // (030) 123456
            fitting(9, 12)
        } else if first[0] == b'0'
            && first.get(1) != Some(&b'0')
            && (2..=5).contains(&len(0))
            && all.len() >= 2
            && [len(0), len(1), len(2)] != [3, 2, 4]
            && !(gap(0) == b"." && all.len() == 2)
        {
            // 0171 1234567, 01 23 45 67 89, 03-1234-5678
            let n = fitting(9, 11);
            let same = (1..n.saturating_sub(1)).all(|i| gap(i) == gap(1) && len(i) >= 2);
            if same && n == all.len() && !is_date(all, text) && len(n - 1) >= 2 { n } else { 0 }
        } else if matches!(first, b"7" | b"8") && [len(1), len(2), len(3), len(4)] == [3, 3, 2, 2] {
            // 8 (912) 345-67-89
            if (0..4).all(|i| small(gap(i))) { 5 } else { 0 }
        } else if matches!(first, b"7" | b"8") && [len(1), len(2), len(3)] == [3, 3, 4] {
            if (0..3).all(|i| small(gap(i))) { 4 } else { 0 }
        } else {
            0
        };
        if found > 0 {
            self.put(Kind::Phone, from, end_of(found));
        }
        found
    }

    /// An address of four numbers.
    fn ipv4(&mut self, start: usize) -> bool {
        let mut at = start;
        for i in 0..4 {
            let to = self.run_of(at, DIGIT);
            let value = self.text[at..to]
                .iter()
                .fold(0u32, |n, c| n.saturating_mul(10).saturating_add(u32::from(c - b'0')));
            if to == at || to - at > 3 || value > 255 || (i < 3 && self.at(to) != b'.') {
                return false;
            }
            at = if i < 3 { to + 1 } else { to };
        }
        let dotted = self.at(at) == b'.' && self.class_at(at + 1) & DIGIT != 0;
        if class(self.before(start)) & ALNUM != 0
            || self.before(start) == b'.'
            || self.class_at(at) & ALNUM != 0
            || dotted
        {
            return false;
        }
        self.put(Kind::Ip, start, at);
        self.judged = at;
        true
    }

    /// An IBAN that may begin with the word that starts there.
    pub(super) fn iban(&mut self, start: usize) {
        let upper = class(self.text[start]) & UPPER != 0;
        let letters = if upper { UPPER } else { LOWER };
        let Some(&[a, b]) = self.text.get(start..start + 2) else { return };
        let Some(want) = iban_length(a.to_ascii_uppercase(), b.to_ascii_uppercase()) else { return };
        if class(b) & letters == 0 {
            return;
        }
        let mut text = [0u8; 34];
        let (mut n, mut at, mut gap) = (0, start, 0);
        while n < want {
            let c = self.at(at);
            if class(c) & (letters | DIGIT) != 0 {
                text[n] = c.to_ascii_uppercase();
                n += 1;
                gap = 0;
            } else if matches!(c, b' ' | b'-' | b'\n' | b'.' | b'\r') && n > 3 && gap < 2 {
                gap += 1;
            } else {
                return;
            }
            at += 1;
        }
        if self.class_at(at) & ALNUM != 0 {
            return;
        }
        // ISO 7064 MOD 97-10, the first four characters last.
        let text = &text[..n];
        let rest = text[4..].iter().chain(&text[..4]).fold(0u32, |n, c| match c {
            b'0'..=b'9' => (n * 10 + u32::from(c - b'0')) % 97,
            _ => (n * 100 + u32::from(c - b'A') + 10) % 97,
        });
        if rest == 1 {
            self.put(Kind::Iban, start, at);
            self.judged = self.judged.max(at);
        }
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| {
            let d = u32::from(*d);
            match i % 2 {
                0 => d,
                _ if d > 4 => d * 2 - 9,
                _ => d * 2,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Who issues cards with such a number, of that length.
fn issuer(digits: &[u8]) -> Option<&'static str> {
    let head = |n: usize| digits[..n].iter().fold(0u32, |v, d| v * 10 + u32::from(*d));
    let len = digits.len();
    let (two, three, four, six) = (head(2), head(3), head(4), head(6));
    Some(match len {
        13 | 16 | 19 if digits[0] == 4 => "visa",
        16 if (51..=55).contains(&two) || (222_100..=272_099).contains(&six) => "mastercard",
        15 if matches!(two, 34 | 37) => "amex",
        14..=19 if two == 36 => "diners",
        14 | 16 if matches!(two, 38 | 39) || (300..=305).contains(&three) || four == 3095 => "diners",
        16..=19 if four == 6011 || (644..=659).contains(&three) => "discover",
        16..=19 if two == 35 => "jcb",
        15 if matches!(four, 2131 | 1800) => "jcb",
        16..=19 if matches!(two, 62 | 81) => "unionpay",
        16..=19 if (2200..=2205).contains(&four) => "mir",
        16 if matches!(two, 60 | 82) || three == 508 => "rupay",
        16 if matches!(four, 9792 | 8600 | 9860 | 5019) => "national",
        16 if three == 636 || (637..=639).contains(&three) => "national",
        16 | 18 | 19 if matches!(four, 5060 | 5061 | 6500) => "verve",
        12..=19 if matches!(two, 56..=58 | 67) => "maestro",
        12..=19 if matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6390 | 604) => "maestro",
        _ => return None,
    })
}

/// Countries' calling codes (ITU-T E.164).
const CALLING_CODES: &str = "1 7 20 27 30-34 36 39-41 43-49 51-58 60-66 81 82 84 86 90-95 98 211-213 216 218 220-269 290 291 \
    297-299 350-359 370-389 420 421 423 500-509 590-599 670 672-692 800 808 850 852 853 855 856 870 878 880-883 886 888 960-968 \
    970-977 979 992-996 998";

/// Whether a number in digits begins with a country's calling code.
fn is_country(digits: &[u8]) -> bool {
    let text = std::str::from_utf8(digits).unwrap_or_default();
    CALLING_CODES.split(' ').any(|codes| {
        let (low, high) = codes.split_once('-').unwrap_or((codes, codes));
        text.get(..low.len()).is_some_and(|head| (low..=high).contains(&head))
    })
}

/// Whether groups begin with a date: 2024-05-01, 01.05.2024, 05/01/2024.
fn is_date(all: &[(usize, usize)], text: &[u8]) -> bool {
    let Some([a, b, c]) = all.first_chunk::<3>() else { return false };
    let value = |g: &(usize, usize)| {
        text[g.0..g.1].iter().fold(0u32, |n, c| n.saturating_mul(10) + u32::from(c - b'0'))
    };
    let short = |g: &(usize, usize)| g.1 - g.0 <= 2;
    let long = |g: &(usize, usize)| g.1 - g.0 == 4 && (1900..2100).contains(&value(g));
    (long(a) && short(b) && short(c) || short(a) && short(b) && long(c)) && value(b) <= 31
}

/// How long the IBANs of each country are (the registry of ISO 13616).
const IBANS: &str = "NO15 BE16 DK18 FO18 FI18 FK18 GL18 NL18 SD18 MK19 SI19 AT20 BA20 EE20 KZ20 XK20 LT20 LU20 MN20 CR21 HR21 \
    LV21 LI21 CH21 BH22 BG22 GE22 DE22 IE22 ME22 RS22 GB22 VA22 GI23 IQ23 IL23 OM23 SO23 TL23 AE23 AD24 CZ24 \
    MD24 PK24 RO24 SA24 SK24 ES24 SE24 TN24 VG24 LY25 PT25 ST25 IS26 TR26 BI27 DJ27 FR27 GR27 IT27 MC27 MR27 \
    SM27 CM27 CF27 CG27 GA27 GQ27 MG27 AL28 AZ28 BY28 CY28 DO28 GT28 HN28 HU28 LB28 NI28 PL28 SV28 BF28 BJ28 \
    CI28 ML28 NE28 SN28 TG28 TD28 BR29 PS29 QA29 UA29 JO30 KW30 MU30 YE30 MT31 SC31 LC32 RU33";

fn iban_length(a: u8, b: u8) -> Option<usize> {
    let one = IBANS.split(' ').find(|one| one.as_bytes().starts_with(&[a, b]))?;
    one.get(2..)?.parse().ok()
}
