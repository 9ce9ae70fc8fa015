//! What is found by its own form: addresses, tokens, keys; and the values of telling names within a text.

use super::{ALNUM, DIGIT, Found, JOINS, Kind, LOCAL, LOWER, Scanner, UPPER, Why, class};
use crate::policy::Policy;
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};

/// Stands in base64url, and in most tokens.
fn in_token(c: u8) -> bool {
    class(c) & ALNUM != 0 || matches!(c, b'-' | b'_')
}

/// Bytes of base64 in either alphabet, padded or not.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.trim_ascii_end();
    let bare = &text[..text.len() - text.iter().rev().take_while(|c| **c == b'=').count()];
    let url = bare.iter().any(|c| matches!(c, b'-' | b'_'));
    // What was cut off still tells.
    let whole = &bare[..bare.len() - usize::from(bare.len() % 4 == 1)];
    let mut spec = if url { BASE64URL_NOPAD.specification() } else { BASE64_NOPAD.specification() };
    spec.check_trailing_bits = false;
    spec.encoding().ok()?.decode(whole).ok()
}

impl Scanner<'_> {
    fn token_end(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        at + rest.iter().position(|c| !in_token(*c)).unwrap_or(rest.len())
    }

    /// A token of at least so many bytes after `skip` bytes of its beginning.
    fn prefixed(&mut self, kind: Kind, start: usize, skip: usize, least: usize) {
        if in_token(self.before(start)) || start < self.until {
            return;
        }
        let mut end = self.token_end(start + skip);
        // Google's have dots.
        while kind == Kind::GcpKey && self.at(end) == b'.' && in_token(self.at(end + 1)) {
            end = self.token_end(end + 1);
        }
        self.until = end;
        if end >= start + skip + least {
            self.put(kind, start, end);
        }
    }

    /// A word of letters and digits, which has letters.
    pub(super) fn word(&mut self, start: usize, end: usize, all: u8) {
        let text = self.text;
        let word = &text[start..end];
        let rest = &text[start..];
        if class(word[0]) & DIGIT != 0 {
            if start >= self.judged {
                self.extended(start, end);
            }
        } else if all & DIGIT != 0
            && word.len() >= 4
            && class(word[2]) & class(word[3]) & DIGIT != 0
            && self.wants(Kind::Iban)
            && !in_token(self.before(start))
        {
            self.iban(start);
        }
        match word[0] {
            b'A' if word.len() == 20 && self.wants(Kind::AwsKey) => {
                let known = matches!(
                    &word[..4],
                    b"AKIA"
                        | b"ASIA"
                        | b"ABIA"
                        | b"ACCA"
                        | b"AGPA"
                        | b"AIDA"
                        | b"AIPA"
                        | b"ANPA"
                        | b"ANVA"
                        | b"AROA"
                );
                if known && all & LOWER == 0 && !in_token(self.before(start)) && !in_token(self.at(end)) {
                    self.put(Kind::AwsKey, start, end);
                }
            }
            b'A' if rest.starts_with(b"AIza") => self.prefixed(Kind::GcpKey, start, 4, 35),
            b'G' if rest.starts_with(b"GOCSPX-") => self.prefixed(Kind::GcpKey, start, 7, 20),
            b'y' if rest.starts_with(b"ya29.") => self.prefixed(Kind::GcpKey, start, 5, 20),
            b'g' if rest.starts_with(b"github_pat_") => self.prefixed(Kind::GithubKey, start, 11, 22),
            b'g' if word.len() == 3
                && matches!(word, b"ghp" | b"gho" | b"ghu" | b"ghs" | b"ghr")
                && self.at(end) == b'_' =>
            {
                self.prefixed(Kind::GithubKey, start, 4, 30);
            }
            b'g' if rest.starts_with(b"glpat-") => self.prefixed(Kind::Token, start, 6, 20),
            b'x' if word.len() == 4 && rest.starts_with(b"xox") && self.at(end) == b'-' => {
                self.prefixed(Kind::Token, start, 5, 10);
            }
            b's' | b'r' if matches!(word, b"sk" | b"rk") && matches!(self.at(end), b'_' | b'-') => {
                let tail = &text[end + 1..];
                let known =
                    ["live_", "test_", "ant-", "proj-", "or-"].iter().any(|p| tail.starts_with(p.as_bytes()));
                self.prefixed(Kind::Token, start, 3, if known { 16 } else { 40 });
            }
            b'n' if rest.starts_with(b"npm_") => self.prefixed(Kind::Token, start, 4, 36),
            b'p' if rest.starts_with(b"pypi-") => self.prefixed(Kind::Token, start, 5, 50),
            b'S' if rest.starts_with(b"SG.") => {
                let middle = self.token_end(start + 3);
                let end = if self.at(middle) == b'.' { self.token_end(middle + 1) } else { middle };
                if middle - start >= 19 && end - middle > 20 && !in_token(self.before(start)) {
                    self.put(Kind::Token, start, end);
                }
            }
            b'e' if rest.starts_with(b"eyJ") && !in_token(self.before(start)) => self.jwt(start),
            b'B' | b'b' if matches!(word.len(), 5 | 6) => self.bearer(start, end),
            _ => {}
        }
    }

    /// `--password hunter2`, whose name begins there.
    pub(super) fn flag(&mut self, start: usize) {
        let rest = &self.text[start..self.text.len().min(start + 48)];
        let end = start + rest.iter().position(|c| !in_token(*c)).unwrap_or(rest.len());
        if self.at(end) == b' ' && !matches!(self.at(end + 1), b'-' | 0) {
            self.named(start, end, end + 1);
        }
    }

    fn jwt(&mut self, start: usize) {
        if !self.wants(Kind::Jwt) {
            return;
        }
        let header = self.token_end(start);
        if header - start < 10 || self.at(header) != b'.' {
            return;
        }
        let payload = self.token_end(header + 1);
        // The second part of an encrypted one may be empty.
        if self.at(payload) != b'.' || !matches!(payload - header, 1 | 3..) {
            return;
        }
        let mut end = self.token_end(payload + 1);
        // An encrypted one has five parts (RFC 7516).
        for _ in 0..2 {
            if self.at(end) == b'.' && in_token(self.at(end + 1)) {
                end = self.token_end(end + 1);
            }
        }
        self.put(Kind::Jwt, start, end);
    }

    fn bearer(&mut self, start: usize, end: usize) {
        let word = &self.text[start..end];
        let basic = word.eq_ignore_ascii_case(b"basic");
        let known = basic || word.eq_ignore_ascii_case(b"bearer");
        if !known || !self.wants(Kind::Bearer) || start < self.until {
            return;
        }
        let mut from = end;
        while matches!(self.at(from), b' ' | b'\t' | b':' | b'+') && from < end + 3 {
            from += 1;
        }
        let rest = &self.text[from..];
        let in_68 = |c: &u8| in_token(*c) || matches!(c, b'.' | b'~' | b'+' | b'/' | b'=');
        let to = from + rest.iter().position(|c| !in_68(c)).unwrap_or(rest.len());
        let token = self.text[from..to].trim_ascii_end();
        let good = if basic {
            token.len() >= 4
                && decoded(token).is_some_and(|d| d.contains(&b':') && std::str::from_utf8(&d).is_ok())
        } else {
            // A word of prose has neither digits nor signs.
            let bare = token.strip_suffix(b".").unwrap_or(token);
            bare.len() >= 8
                && (bare.len() >= 24
                    || bare
                        .iter()
                        .any(|c| !(c.is_ascii_lowercase() || *c == bare[0] && c.is_ascii_uppercase())))
        };
        self.until = self.until.max(to);
        if from > end && good {
            self.put(Kind::Bearer, from, to);
        }
    }

    /// An address whose `@` is there.
    pub(super) fn email(&mut self, at: usize) {
        if !self.wants(Kind::Email) || self.class_at(at + 1) & ALNUM == 0 && self.at(at + 1) < 0x80 {
            return;
        }
        let text = self.text;
        // Letters of Latin, Greek, Cyrillic and their neighbours; of scripts without spaces none, which would be the text before.
        let mut from = at;
        while from > 0 && at - from < 64 {
            let c = text[from - 1];
            if class(c) & LOCAL != 0 {
                from -= 1;
            } else if from >= 2 && matches!(c, 0x80..=0xbf) && matches!(text[from - 2], 0xc3..=0xd4) {
                from -= 2;
            } else {
                break;
            }
        }
        while from < at && matches!(text[from], b'.' | b'\'' | b'-' | b'%') {
            from += 1;
        }
        if from == at || text[at - 1] == b'.' {
            return;
        }
        // git@host in a URL is no one's address.
        let line = &text[from.saturating_sub(256)..from];
        let word =
            &line[line.iter().rposition(|c| c.is_ascii_whitespace() || *c == b'/').map_or(0, |i| i + 1)..];
        let user = line[..line.len() - word.len()].ends_with(b"://") && !word.contains(&b'?');
        if user || &text[from..at] == b"git" {
            return;
        }
        let mut to = at + 1;
        let mut dot = None;
        while let Some(c) = text.get(to) {
            match c {
                b'.' => dot = Some(to),
                b'-' | 0x80.. => {}
                c if class(*c) & ALNUM != 0 => {}
                _ => break,
            }
            to += 1;
        }
        while to > at && matches!(text[to - 1], b'.' | b'-') {
            to -= 1;
            if dot == Some(to) {
                dot = text[at + 1..to].iter().rposition(|c| *c == b'.').map(|i| at + 1 + i);
            }
        }
        let Some(dot) = dot.filter(|d| *d > at + 1) else { return };
        let top = &text[dot + 1..to];
        let word = top.iter().take_while(|c| c.is_ascii_alphabetic()).count();
        let end = if top.len() >= 4 && top.starts_with(b"xn--") || top.first().is_some_and(|c| *c >= 0x80) {
            to
        } else if word >= 2 && (word == top.len() || top[word] >= 0x80) {
            // Text of another script may follow without a space.
            dot + 1 + word
        } else {
            return;
        };
        // Units of systemd, and algorithms of SSH, are called so.
        let domain = &text[at + 1..end];
        const UNITS: [&str; 10] = [
            ".service", ".socket", ".scope", ".timer", ".mount", ".slice", ".target", ".device", ".path",
            ".swap",
        ];
        let unit = UNITS.iter().any(|u| domain.ends_with(u.as_bytes()));
        let algorithm = matches!(domain, b"libssh.org" | b"openssh.com" | b"lysator.liu.se");
        if !unit && !algorithm && !domain.windows(2).any(|w| w == b"..") {
            self.put(Kind::Email, from, end);
        }
    }

    /// Where a private key ends that begins at `at`.
    pub(super) fn private_key(&mut self, at: usize) -> Option<usize> {
        const BEGIN: &[u8] = b"-----BEGIN ";
        let text = self.text;
        let rest = text.get(at..)?;
        if !rest.starts_with(BEGIN) || !self.wants(Kind::PrivateKey) {
            return None;
        }
        let label = BEGIN.len() + memchr::memmem::find(&rest[BEGIN.len()..rest.len().min(100)], b"-----")?;
        if !rest[..label].ends_with(b"PRIVATE KEY") && !rest[..label].ends_with(b"PRIVATE KEY BLOCK") {
            return None;
        }
        // What was cut off is a key to its end.
        let end = match memchr::memmem::find(&rest[label..], b"-----END") {
            Some(end) => {
                let tail = label + end + 8;
                memchr::memmem::find(&rest[tail..], b"-----").map_or(rest.len(), |e| tail + e + 5)
            }
            None => rest.len(),
        };
        self.put(Kind::PrivateKey, at, at + end);
        Some(at + end)
    }

    /// A `:` or `=`: of a URL, of an address, or between a name and its value.
    pub(super) fn separator(&mut self, at: usize, last: (usize, usize, u8)) {
        let text = self.text;
        let (start, end, all) = last;
        let colon = text[at] == b':';
        if colon && text[at..].starts_with(b"://") {
            self.url(at);
            return;
        }
        if colon && self.wants(Kind::Ip) && (self.class_at(at + 1) & ALNUM != 0 || self.at(at + 1) == b':') {
            self.ipv6(at, if end == at { start } else { at });
        }
        if all & (UPPER | LOWER) == 0 && self.before(at) < 0x80 || at < 2 {
            return;
        }
        // Quotes, escaped or not, and a space may stand between.
        let mut to = at;
        while to > 0 && to + 4 > at && matches!(text[to - 1], b'"' | b'\'' | b'`' | b'\\' | b' ' | b']') {
            to -= 1;
        }
        if end != to && self.before(to) < 0x80 {
            return;
        }
        let in_name = |c: u8| in_token(c) || c >= 0x80;
        let mut from = to;
        while from > 0 && to - from < 48 && in_name(text[from - 1]) {
            from -= 1;
        }
        let mut value = at + 1;
        // =>, :=, ==
        while value < at + 3 && matches!(self.at(value), b'>' | b'=') {
            value += 1;
        }
        if self.named(from, to, value) {
            return;
        }
        // `Secret Key: …`: a name of two or three words.
        for _ in 0..2 {
            if from < 2 || self.before(from) != b' ' || !in_name(text[from - 2]) {
                return;
            }
            from -= 1;
            while from > 0 && to - from < 48 && in_name(text[from - 1]) {
                from -= 1;
            }
            if self.named(from, to, value) {
                return;
            }
        }
    }

    /// A quote: `PASSWORD 'hunter2'` and `IDENTIFIED BY 'hunter2'` in SQL.
    pub(super) fn quoted(&mut self, at: usize) {
        let before = &self.text[at.saturating_sub(32)..at];
        let trimmed = before.trim_ascii_end();
        if at < self.until || trimmed.len() == before.len() {
            return;
        }
        let word = trimmed.iter().rev().take_while(|c| class(**c) & ALNUM != 0).count();
        let (rest, name) = trimmed.split_at(trimmed.len() - word);
        let identified = name.eq_ignore_ascii_case(b"by")
            && rest.trim_ascii_end().to_ascii_lowercase().ends_with(b"identified");
        if identified || name.eq_ignore_ascii_case(b"password") {
            self.value_of(b"password", at);
        }
    }

    /// The end of a tag: `<password>hunter2</password>`.
    pub(super) fn element(&mut self, at: usize) {
        let low = at.saturating_sub(80);
        let Some(open) = memchr::memrchr(b'<', &self.text[low..at]).map(|i| low + i + 1) else { return };
        let end = open + self.text[open..at].iter().position(|c| *c == b' ').unwrap_or(at - open);
        let local = open + memchr::memrchr(b':', &self.text[open..end]).map_or(0, |i| i + 1);
        if local < end && self.text[local..end].iter().all(|c| in_token(*c)) && self.at(at + 1) != b'<' {
            self.named(local, end, at + 1);
        }
    }

    /// The value at `value` of a name within the text, if the name tells of a secret; says whether it does.
    fn named(&mut self, from: usize, to: usize, value: usize) -> bool {
        let name = &self.text[from..to];
        if name.len() < 3 || from < self.until || !self.policy.ends.may_be(name) {
            return false;
        }
        // The service and the type of PAM: `pam_unix(passwd:chauthtok)`.
        if self.before(from) == b'(' && self.at(to) == b':' && self.at(to + 1) != b' ' {
            return false;
        }
        self.value_of(name, value)
    }

    /// The value there of a name.
    fn value_of(&mut self, name: &[u8], value: usize) -> bool {
        let text = self.text;
        let info = self.names.of(name, self.policy);
        let rule = self.names.rule(info, self.active);
        if rule == Policy::NONE || !self.policy.rules[rule as usize].action.hides() {
            return false;
        }
        let mut start = value;
        while start < value + 64 && matches!(self.at(start), b' ' | b'\t') {
            start += 1;
        }
        // A quote, escaped as often as the text is nested.
        let mut opened = start;
        while opened < start + 4 && self.at(opened) == b'\\' {
            opened += 1;
        }
        let quoted = matches!(self.at(opened), b'"' | b'\'' | b'`');
        let header = self.before(value) == b':' && {
            let lower = name.to_ascii_lowercase();
            !quoted && (lower.ends_with(b"cookie") || lower.ends_with(b"authorization"))
        };
        let end = if quoted {
            let mark = &text[start..=opened];
            start = opened + 1;
            quoted_end(&text[start..], mark).map_or(text.len(), |n| start + n)
        } else if header {
            // To the end of the line, or to the quote that it stands in.
            let around = self.before(value.saturating_sub(name.len() + 1));
            let around = Some(around).filter(|c| matches!(c, b'"' | b'\'' | b'`'));
            let rest = &text[start..];
            let stop = |c: &u8| matches!(c, b'\n' | b'\r') || Some(*c) == around;
            start + rest.iter().position(stop).unwrap_or(rest.len())
        } else {
            self.bare_end(start, value)
        };
        let said = text.get(start..end).unwrap_or_default().trim_ascii();
        let nothing = matches!(
            said,
            b"" | b"null" | b"none" | b"None" | b"nil" | b"true" | b"false" | b"undefined" | b"-"
        ) || said.starts_with(b"[redacted")
            || said.iter().all(|c| *c == b'*')
            || (!quoted && said.starts_with(b"//"))
            // The working directory.
            || (name.eq_ignore_ascii_case(b"pwd") && matches!(said[0], b'/' | b'~'));
        self.until = self.until.max(end);
        if !nothing {
            self.found.push(Found { start, end, rule, why: Why::Named, whole: false });
        }
        true
    }

    /// Where a value ends that stands without quotes.
    fn bare_end(&self, start: usize, value: usize) -> usize {
        let text = self.text;
        // What an escape was written for is no end, unless the separator was escaped, too.
        let escaped = value > 0 && self.is_escaped(value - 1);
        let ends_word = |at: usize| matches!(self.at(at), 0 | b' ' | b'\t' | b'\n' | b'\r');
        let names = |at: usize| {
            let rest = &text[at.min(text.len())..text.len().min(at + 48)];
            let name = rest.iter().take_while(|c| in_token(**c) || **c == b'.').count();
            name > 0 && matches!(self.at(at + name), b'=' | b':')
        };
        let schemes = ["bearer", "basic", "digest", "token", "negotiate", "apikey", "ssws", "splunk", "ntlm"];
        let mut open = 0i32;
        let mut at = start;
        while at < text.len() {
            let ends = match text[at] {
                b'\n' | b'\r' => true,
                _ if !escaped && self.is_escaped(at) => false,
                b'"' | b'\'' | b'`' | b'<' => true,
                // The scheme of an Authorization header.
                b' ' | b'\t' => !schemes.iter().any(|s| text[start..at].eq_ignore_ascii_case(s.as_bytes())),
                b'&' => names(at + 1),
                b',' | b';' | b'|' => ends_word(at + 1) || names(at + 1),
                b'(' | b'[' | b'{' => {
                    open += 1;
                    false
                }
                b')' | b']' | b'}' | b'>' => {
                    open -= 1;
                    open < 0
                }
                _ => false,
            };
            if ends {
                break;
            }
            at += 1;
        }
        at
    }

    fn url(&mut self, at: usize) {
        if !self.wants(Kind::UrlPassword) || class(self.before(at)) & ALNUM == 0 {
            return;
        }
        let from = at + 3;
        let rest = &self.text[from..self.text.len().min(from + 1024)];
        let stops = |c: &u8| {
            matches!(c, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>' | b'\\') || c.is_ascii_whitespace()
        };
        let authority = &rest[..rest.iter().position(stops).unwrap_or(rest.len())];
        // A password may have an `@`, or even a `/`, that should have been escaped.
        let user_end = match memchr::memrchr(b'@', authority) {
            Some(end) => end,
            None => {
                let line = &rest
                    [..rest.iter().position(|c| c.is_ascii_whitespace() || *c == b'"').unwrap_or(rest.len())];
                match (memchr::memchr(b':', authority), memchr::memchr(b'@', line)) {
                    // host:80/path?q=a@b is no password
                    (Some(colon), Some(end)) if !authority[colon + 1..].iter().all(u8::is_ascii_digit) => end,
                    _ => return,
                }
            }
        };
        let Some(colon) = memchr::memchr(b':', &rest[..user_end]) else { return };
        let secret = &rest[colon + 1..user_end];
        if !secret.is_empty() && !secret.iter().all(|c| *c == b'*') && !secret.starts_with(b"[redacted") {
            self.put(Kind::UrlPassword, from + colon + 1, from + user_end);
        }
    }

    /// An IPv6 address (RFC 4291 section 2.2), whose first colon is at `at`.
    fn ipv6(&mut self, at: usize, start: usize) {
        let text = self.text;
        if start > 0 && (matches!(text[start - 1], b':' | b'.') || class(text[start - 1]) & ALNUM != 0) {
            return;
        }
        let rest = &text[start..text.len().min(start + 46)];
        let mut len = rest
            .iter()
            .position(|c| !(c.is_ascii_hexdigit() || matches!(c, b':' | b'.')))
            .unwrap_or(rest.len());
        while len > 0 && (rest[len - 1] == b'.' || (rest[len - 1] == b':' && !rest[..len].ends_with(b"::"))) {
            len -= 1;
        }
        let end = start + len;
        if class(self.at(end)) & ALNUM != 0 || end <= at {
            return;
        }
        let parsed =
            std::str::from_utf8(&rest[..len]).ok().and_then(|t| t.parse::<std::net::Ipv6Addr>().ok());
        // `::` alone stands in code; 12::34 is no address that anyone has.
        if parsed.is_some_and(|ip| ip.segments()[0] != 0 || ip.to_ipv4_mapped().is_some()) {
            self.put(Kind::Ip, start, end);
            self.judged = self.judged.max(end);
        }
    }

    /// A stretch of what base64 is written with: looked into once.
    pub(super) fn stretch(&mut self, from: usize, to: usize) {
        let stretch = &self.text[from..to];
        self.aws_secret(from, to);
        if self.inside {
            return;
        }
        // name=dGhpcyBpcyBpdA==: what it stands behind is no part of it.
        let bare = stretch.len() - stretch.iter().rev().take_while(|c| **c == b'=').count();
        let tail = &stretch[memchr::memrchr(b'=', &stretch[..bare]).map_or(0, |i| i + 1)..];
        let from = to - tail.len();
        if tail.len() < 20 {
            return;
        }
        // The beginning shows whether it can be text at all.
        let printable = |d: &[u8]| {
            d.iter().all(|c| (b' '..0x7f).contains(c) || *c >= 0x80 || matches!(c, b'\n' | b'\r' | b'\t'))
        };
        if !decoded(&tail[..16]).is_some_and(|d| printable(&d)) {
            return;
        }
        let Some(inner) = decoded(tail).filter(|d| printable(d) && std::str::from_utf8(d).is_ok()) else {
            return;
        };
        let mut found = Vec::new();
        Scanner {
            text: &inner,
            found: &mut found,
            inside: true,
            judged: 0,
            until: 0,
            view: None,
            names: self.names,
            ..*self
        }
        .run();
        if let Some(f) = found.first() {
            let why = match f.why {
                Why::Kind(kind) => Why::Encoded(kind),
                other => other,
            };
            self.found.push(Found { start: from, end: to, rule: f.rule, why, whole: true });
        }
    }

    /// The secret of an AWS access key has no form but its length: the words before it must say so.
    fn aws_secret(&mut self, from: usize, to: usize) {
        if !self.wants(Kind::AwsKey) {
            return;
        }
        let mut start = from;
        if let Some(at) = self.text[from..to].iter().position(|c| *c == b'=') {
            start = from + at + 1;
        }
        let secret = &self.text[start..to];
        let good = secret.len() == 40
            && secret.iter().all(|c| class(*c) & (ALNUM | JOINS) != 0 && !matches!(c, b'-' | b'_' | b'='))
            && secret.iter().any(u8::is_ascii_uppercase)
            && secret.iter().any(u8::is_ascii_lowercase)
            && secret.iter().any(u8::is_ascii_digit);
        if good && self.context(start, to).raised & Kind::AwsKey.bit() != 0 {
            self.put(Kind::AwsKey, start, to);
        }
    }
}

/// Where a quoted text ends, whose opening quote was written as `mark`.
fn quoted_end(text: &[u8], mark: &[u8]) -> Option<usize> {
    let quote = *mark.last()?;
    let slashes = mark.len() - 1;
    let mut at = 0;
    loop {
        at += memchr::memchr(quote, text.get(at..)?)?;
        let before = text[..at].iter().rev().take_while(|c| **c == b'\\').count();
        // One with more slashes before it is escaped once more.
        if before == slashes || (slashes == 0 && before % 2 == 0) {
            return Some(at - slashes.min(before));
        }
        at += 1;
    }
}
