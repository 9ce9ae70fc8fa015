//! What is known to be bad: indicators from local files.

use crate::config::{ListFormat, RawList, Scope, read};
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use waxseal_filter_abi::event::Object;
use waxseal_filter_abi::{Event, Value};
use waxseal_trail::record::Member;
use waxseal_trail::time::Time;

/// What an indicator is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An address.
    Ip,
    /// A network.
    Cidr,
    /// A domain and all below it.
    Domain,
    /// A URL.
    Url,
    /// A user agent, whole.
    UserAgent,
    /// SHA-256 of a file, hex.
    Sha256,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Ip => "ip",
            Kind::Cidr => "cidr",
            Kind::Domain => "domain",
            Kind::Url => "url",
            Kind::UserAgent => "user_agent",
            Kind::Sha256 => "sha256",
        }
    }

    /// By the form of an indicator.
    fn of(text: &str) -> Option<Kind> {
        Some(match () {
            () if text.parse::<IpAddr>().is_ok() => Kind::Ip,
            () if text.parse::<IpNet>().is_ok() => Kind::Cidr,
            () if text.contains("://") => Kind::Url,
            () if text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit()) => Kind::Sha256,
            () if text.contains('.')
                && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_')) =>
            {
                Kind::Domain
            }
            () => return None,
        })
    }
}

/// Indicators; of each, the place of its text in `texts`.
#[derive(Debug)]
pub struct Threat {
    scope: Scope,
    ips: HashMap<IpAddr, u32>,
    networks: HashMap<IpNet, u32>,
    /// The lengths of prefixes that occur, longest first: of IPv4, of IPv6.
    lengths: [Vec<u8>; 2],
    /// By kind.
    words: [HashMap<String, u32>; KINDS],
    /// JSON of what is said of an indicator, and when it ends to be one.
    texts: Vec<(Box<[u8]>, Option<Time>)>,
}

const KINDS: usize = 6;
/// No name is longer (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 253;

struct Found<'f> {
    kind: Option<Kind>,
    indicator: &'f str,
    confidence: Option<f64>,
    first_seen: Option<&'f str>,
    /// RFC 3339; no indicator from then on.
    valid_until: Option<&'f str>,
}

impl Threat {
    /// Reads lists; of two that name the same indicator the first stands.
    ///
    /// # Errors
    /// A text with the path, and what is wrong.
    pub fn read<'l>(
        lists: impl Iterator<Item = (PathBuf, &'l RawList)>,
        scope: Scope,
    ) -> Result<Threat, String> {
        let mut t = Threat {
            scope,
            ips: HashMap::new(),
            networks: HashMap::new(),
            lengths: Default::default(),
            words: Default::default(),
            texts: Vec::new(),
        };
        for (path, list) in lists {
            let bytes = read("file", &path)?;
            let name = path.to_string_lossy().to_lowercase();
            let format = list.format.unwrap_or(match () {
                () if name.ends_with(".csv") => ListFormat::Csv,
                () if name.ends_with(".json") || name.ends_with(".stix") => ListFormat::Stix,
                () => ListFormat::Plain,
            });
            if bytes.trim_ascii().is_empty() {
                return Err(format!("{}: is empty", path.display()));
            }
            let read = match format {
                ListFormat::Plain => t.plain(&bytes, list),
                ListFormat::Csv => t.csv(&bytes, list),
                ListFormat::Stix => t.stix(&bytes, list),
            };
            read.map_err(|e| format!("{}: {e}", path.display()))?;
        }
        if t.texts.is_empty() {
            return Err("threat.lists: they hold no indicator".into());
        }
        let lengths = |v4: bool| -> Vec<u8> {
            let all: BTreeSet<u8> =
                t.networks.keys().filter(|n| n.addr().is_ipv4() == v4).map(IpNet::prefix_len).collect();
            all.into_iter().rev().collect()
        };
        t.lengths = [lengths(true), lengths(false)];
        Ok(t)
    }

    fn put(&mut self, list: &RawList, f: &Found<'_>) -> Result<(), String> {
        let text = f.indicator.trim();
        let kind = f.kind.or(list.kind).or_else(|| Kind::of(text));
        let kind =
            kind.ok_or_else(|| format!("{text:?} is no indicator of a known form; give the list a type"))?;
        let kind = if kind == Kind::Ip && text.contains('/') { Kind::Cidr } else { kind };
        let mut o = Object::default();
        o.text("source", &list.source).text("indicator", text).text("type", kind.name());
        if let Some(c) = f.confidence.or(list.confidence.map(f64::from)) {
            o.number("confidence", c);
        }
        if let Some(at) = f.first_seen {
            o.text("first_seen", at);
        }
        let until = f.valid_until.map(|t| Time::parse_rfc3339(t).ok_or_else(|| format!("{t:?} is no time")));
        let until = until.transpose()?;
        if let Some(at) = f.valid_until {
            o.text("valid_until", at);
        }
        let mut json = Vec::new();
        o.write(&mut json);
        let n = self.texts.len() as u32;
        match kind {
            Kind::Ip => {
                let ip: IpAddr = text.parse().map_err(|_| format!("{text:?} is no address"))?;
                self.ips.entry(ip.to_canonical()).or_insert(n);
            }
            Kind::Cidr => {
                let net: IpNet = text.parse().map_err(|_| format!("{text:?} is no network"))?;
                self.networks.entry(net.trunc()).or_insert(n);
            }
            Kind::Domain => {
                let name = text.trim_start_matches("*.").trim_matches('.').to_lowercase();
                self.words[kind as usize].entry(name).or_insert(n);
            }
            Kind::Url | Kind::UserAgent => {
                self.words[kind as usize].entry(text.to_owned()).or_insert(n);
            }
            Kind::Sha256 => {
                self.words[kind as usize].entry(text.to_lowercase()).or_insert(n);
            }
        }
        self.texts.push((json.into(), until));
        Ok(())
    }

    fn plain(&mut self, bytes: &[u8], list: &RawList) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        for (i, line) in text.lines().enumerate() {
            // A URL or a user agent may hold a `#` or `;`: what follows a blank is a comment then.
            let whole = matches!(list.kind, Some(Kind::UserAgent));
            let comment = |at: &usize| {
                let spaced = *at == 0 || line.as_bytes()[*at - 1].is_ascii_whitespace();
                spaced || !(whole || line.contains("://"))
            };
            let ends = line.match_indices(['#', ';']).map(|(at, _)| at).find(comment);
            let line = if whole && !line.starts_with(['#', ';']) {
                line
            } else {
                &line[..ends.unwrap_or(line.len())]
            };
            let line = line.trim();
            if !line.is_empty() {
                let found = Found {
                    kind: None,
                    indicator: line,
                    confidence: None,
                    first_seen: None,
                    valid_until: None,
                };
                self.put(list, &found).map_err(|e| format!("line {}: {e}", i + 1))?;
            }
        }
        Ok(())
    }

    fn csv(&mut self, bytes: &[u8], list: &RawList) -> Result<(), String> {
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(bytes);
        let header = reader.headers().map_err(|e| e.to_string())?.clone();
        let column = |names: &[&str]| header.iter().position(|h| names.contains(&h.to_lowercase().as_str()));
        let value = column(&["indicator", "value", "ioc", "ip", "domain", "url"])
            .ok_or_else(|| format!("no column indicator or value in {header:?}"))?;
        let (kind, confidence) = (column(&["type", "indicator_type"]), column(&["confidence"]));
        let (seen, until) = (column(&["first_seen", "valid_from"]), column(&["valid_until"]));
        for (i, row) in reader.records().enumerate() {
            let row = row.map_err(|e| e.to_string())?;
            let get = |c: Option<usize>| row.get(c?).filter(|t| !t.is_empty());
            let Some(indicator) = get(Some(value)) else { continue };
            let found = Found {
                kind: get(kind).and_then(|k| kind_of(&k.to_lowercase())),
                indicator,
                confidence: get(confidence).and_then(|c| c.parse().ok()),
                first_seen: get(seen),
                valid_until: get(until),
            };
            self.put(list, &found).map_err(|e| format!("line {}: {e}", i + 2))?;
        }
        Ok(())
    }

    /// STIX 2.1 section 4.7: of each indicator, the comparisons of its pattern that name one thing.
    fn stix(&mut self, bytes: &[u8], list: &RawList) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Bundle {
            objects: Vec<StixObject>,
        }
        #[derive(Deserialize)]
        struct StixObject {
            #[serde(rename = "type")]
            kind: String,
            pattern: Option<String>,
            pattern_type: Option<String>,
            confidence: Option<f64>,
            valid_from: Option<String>,
            valid_until: Option<String>,
            #[serde(default)]
            revoked: bool,
        }
        let bundle: Bundle = serde_json::from_slice(bytes).map_err(|e| format!("no STIX bundle: {e}"))?;
        for o in bundle.objects {
            let Some(pattern) = o.pattern.filter(|_| o.kind == "indicator" && !o.revoked) else { continue };
            if o.pattern_type.is_some_and(|t| t != "stix") {
                continue;
            }
            for (kind, value) in comparisons(&pattern) {
                let first_seen = o.valid_from.as_deref();
                let valid_until = o.valid_until.as_deref();
                let found = Found {
                    kind: Some(kind),
                    indicator: &value,
                    confidence: o.confidence,
                    first_seen,
                    valid_until,
                };
                self.put(list, &found)?;
            }
        }
        Ok(())
    }

    /// Adds `threat_intelligence`: what is known of the addresses, domains, URLs, agents and files that the event names.
    pub fn add(&self, event: &mut Event<'_>, address: Option<IpAddr>) {
        let category = event.text(Member::Category);
        let concerned =
            matches!(category.as_deref(), Some("authentication" | "authorization" | "security_events"));
        if self.scope == Scope::Security && !concerned {
            return;
        }
        let mut hits: Vec<u32> = Vec::new();
        let mut hit = |n: Option<u32>| hits.extend(n);
        if let Some(a) = address {
            hit(self.ip(a));
        }
        let of = |name: &str| event.get(name).and_then(Value::str);
        for name in ["source_address", "destination_address", "remote_addr", "client_ip", "destination_ip"] {
            if let Some(a) = of(name).and_then(|t| t.parse().ok()) {
                hit(self.ip(a));
            }
        }
        if self.words.iter().any(|w| !w.is_empty()) {
            for name in ["domain", "host_name", "destination_domain"] {
                if let Some(d) = of(name) {
                    hit(self.domain(&d));
                }
            }
            for name in ["url", "endpoint", "referer", "http_referer"] {
                let Some(url) = of(name).filter(|u| u.contains("://")) else { continue };
                hit(self.word(Kind::Url, &url));
                let host =
                    url.split("://").nth(1).and_then(|r| r.split(['/', '?', '#']).next()).unwrap_or_default();
                let host = host.rsplit('@').next().unwrap_or_default();
                let host = host.split(':').next().unwrap_or_default();
                hit(self.domain(host));
            }
            if let Some(agent) = of("user_agent") {
                hit(self.word(Kind::UserAgent, &agent));
            }
            for name in ["sha256", "file_sha256", "hash"] {
                if let Some(digest) = of(name).filter(|d| d.len() == 64) {
                    hit(self.word(Kind::Sha256, &digest.to_lowercase()));
                }
            }
        }
        hits.sort_unstable();
        hits.dedup();
        let time = event.time();
        hits.retain(|n| self.texts.get(*n as usize).is_some_and(|(_, until)| until.is_none_or(|u| time < u)));
        if hits.is_empty() {
            return;
        }
        event.add_json("threat_intelligence", |out| {
            for (i, n) in hits.iter().enumerate() {
                out.push(if i > 0 { b',' } else { b'[' });
                out.extend_from_slice(self.texts.get(*n as usize).map_or(b"null", |(t, _)| t));
            }
            out.push(b']');
        });
    }

    fn ip(&self, address: IpAddr) -> Option<u32> {
        let address = address.to_canonical();
        self.ips.get(&address).copied().or_else(|| {
            let lengths = &self.lengths[usize::from(address.is_ipv6())];
            lengths.iter().find_map(|n| self.networks.get(&IpNet::new(address, *n).ok()?.trunc()).copied())
        })
    }

    fn domain(&self, name: &str) -> Option<u32> {
        let name = name.trim_end_matches('.');
        if name.len() > LONGEST_NAME {
            return None;
        }
        let name = name.to_lowercase();
        let mut rest = name.as_str();
        loop {
            if let Some(n) = self.word(Kind::Domain, rest) {
                return Some(n);
            }
            rest = rest.split_once('.')?.1;
        }
    }

    fn word(&self, kind: Kind, text: &str) -> Option<u32> {
        self.words[kind as usize].get(text).copied()
    }
}

fn kind_of(name: &str) -> Option<Kind> {
    Some(match name {
        "ip" | "ipv4" | "ipv6" | "ipv4-addr" | "ipv6-addr" | "ip-src" | "ip-dst" => Kind::Ip,
        "cidr" | "network" => Kind::Cidr,
        "domain" | "domain-name" | "hostname" => Kind::Domain,
        "url" | "uri" => Kind::Url,
        "user_agent" | "user-agent" => Kind::UserAgent,
        "sha256" | "file_sha256" => Kind::Sha256,
        _ => return None,
    })
}

/// The comparisons of a STIX pattern that each alone say something (STIX 2.1 section 9): of what is joined by `AND` or
/// `FOLLOWEDBY`, negated or qualified, none does.
fn comparisons(pattern: &str) -> Vec<(Kind, String)> {
    let (observations, around) = observations(pattern);
    // One observation, or any of several.
    if around.split(|c: char| c.is_whitespace() || matches!(c, '(' | ')')).any(|w| !matches!(w, "" | "OR")) {
        return Vec::new();
    }
    observations.into_iter().flat_map(alternatives).collect()
}

/// What stands between brackets outside of quotes, and what stands around.
fn observations(pattern: &str) -> (Vec<&str>, String) {
    let (mut inside, mut around, mut from) = (Vec::new(), String::new(), 0);
    let mut open = false;
    for (at, c) in unquoted(pattern) {
        match c {
            '[' if !open => (open, from) = (true, at + 1),
            ']' if open => {
                inside.push(&pattern[from..at]);
                open = false;
                around.push(' ');
            }
            c if !open => around.push(c),
            _ => {}
        }
    }
    (inside, around)
}

/// The characters of a pattern that stand in no text, with their places.
fn unquoted(pattern: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quoted, mut escaped) = (false, false);
    pattern.char_indices().filter(move |(_, c)| {
        let was = quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '\'' => quoted = !quoted,
            _ => {}
        }
        !was && !quoted
    })
}

/// The comparisons of one observation, if they are joined by `OR` alone.
fn alternatives(observation: &str) -> Vec<(Kind, String)> {
    let bare: Vec<(usize, char)> = unquoted(observation).collect();
    let outside: String = bare.iter().map(|(_, c)| *c).collect();
    let mut words = outside.split(|c: char| c.is_whitespace() || matches!(c, '(' | ')'));
    if words.any(|w| matches!(w, "AND" | "NOT" | "IN" | "LIKE" | "MATCHES"))
        || outside.contains(['!', '<', '>'])
    {
        return Vec::new();
    }
    let (mut parts, mut from) = (Vec::new(), 0);
    for w in bare.windows(4) {
        if let [(at, a), (_, 'O'), (_, 'R'), (end, b)] = w
            && a.is_whitespace()
            && b.is_whitespace()
            && *end == at + 3
        {
            parts.push(&observation[from..*at]);
            from = *end;
        }
    }
    parts.push(&observation[from..]);
    parts.into_iter().filter_map(comparison).collect()
}

fn comparison(part: &str) -> Option<(Kind, String)> {
    let (path, value) = part.split_once('=')?;
    let kind = match path.trim_matches(['(', ' ', '\t', '\n', '\r']) {
        "ipv4-addr:value" | "ipv6-addr:value" => Kind::Ip,
        "domain-name:value" => Kind::Domain,
        "url:value" => Kind::Url,
        p if p.starts_with("file:hashes") && p.contains("SHA-256") => Kind::Sha256,
        p if p.ends_with("request_header.'User-Agent'") => Kind::UserAgent,
        _ => return None,
    };
    let value = value.trim_matches([')', ' ', '\t', '\n', '\r']);
    let text = value.strip_prefix('\'')?.strip_suffix('\'')?;
    Some((kind, text.replace("\\'", "'").replace("\\\\", "\\")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pattern: &str) -> Vec<String> {
        comparisons(pattern).into_iter().map(|(kind, value)| format!("{} {value}", kind.name())).collect()
    }

    #[test]
    fn a_comparison_counts_where_it_alone_says_something() {
        assert_eq!(of("[ipv4-addr:value = '198.51.100.7']"), ["ip 198.51.100.7"]);
        assert_eq!(
            of(
                "[(ipv4-addr:value='1.1.1.1' OR domain-name:value = 'a OR b.test')] OR [url:value='http://x/[a]']"
            ),
            ["ip 1.1.1.1", "domain a OR b.test", "url http://x/[a]"]
        );
        let sha = "a".repeat(64);
        assert_eq!(of(&format!("[file:hashes.'SHA-256' = '{sha}']")), [format!("sha256 {sha}")]);
        for nothing in [
            "[(ipv4-addr:value='1.1.1.1' OR ipv4-addr:value='2.2.2.2') AND domain-name:value='x.test']",
            "[ipv4-addr:value != '1.1.1.1']",
            "[NOT ipv4-addr:value = '1.1.1.1']",
            "[ipv4-addr:value IN ('1.1.1.1')]",
            "[ipv4-addr:value = '1.1.1.1'] FOLLOWEDBY [ipv4-addr:value = '2.2.2.2']",
            "[ipv4-addr:value = '1.1.1.1'] REPEATS 5 TIMES",
            "",
            "[",
            "'",
        ] {
            assert!(of(nothing).is_empty(), "{nothing}");
        }
    }

    #[allow(clippy::disallowed_methods)] // a test's list, no evidence
    fn list(text: &str, kind: Option<Kind>) -> Threat {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.txt");
        std::fs::write(&path, text).unwrap();
        let raw =
            RawList { file: "list.txt".into(), source: "s".into(), format: None, kind, confidence: None };
        Threat::read([(path, &raw)].into_iter(), Scope::All).unwrap()
    }

    #[test]
    fn a_comment_ends_no_url() {
        let t = list("# all\nhttp://e.test/a;b#c ; note\n198.51.100.4#note\n198.51.100.0/25 ; SBL1\n", None);
        assert!(t.word(Kind::Url, "http://e.test/a;b#c").is_some());
        assert!(t.ip("198.51.100.4".parse().unwrap()).is_some());
        assert!(t.ip("198.51.100.9".parse().unwrap()).is_some());
        assert!(t.domain("a.e.test").is_none());
        let t = list("Mozilla/5.0 (X11; Linux) #1\n", Some(Kind::UserAgent));
        assert!(t.word(Kind::UserAgent, "Mozilla/5.0 (X11; Linux) #1").is_some());
    }

    #[test]
    fn names_are_found_by_their_ends_and_monsters_are_not_looked_for() {
        let t = list("evil.example\n", None);
        assert!(t.domain("a.b.Evil.example.").is_some());
        assert!(t.domain("notevil.example").is_none());
        assert!(t.domain(&format!("{}evil.example", "a.".repeat(40_000))).is_none());
    }
}
