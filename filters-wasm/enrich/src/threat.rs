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
    words: HashMap<(Kind, String), u32>,
    /// JSON of what is said of an indicator.
    texts: Vec<Box<[u8]>>,
}

struct Found<'f> {
    kind: Option<Kind>,
    indicator: &'f str,
    confidence: Option<f64>,
    first_seen: Option<&'f str>,
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
            words: HashMap::new(),
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
            let before = t.texts.len();
            let read = match format {
                ListFormat::Plain => t.plain(&bytes, list),
                ListFormat::Csv => t.csv(&bytes, list),
                ListFormat::Stix => t.stix(&bytes, list),
            };
            read.map_err(|e| format!("{}: {e}", path.display()))?;
            if t.texts.len() == before && before == 0 {
                return Err(format!("{}: holds no indicator", path.display()));
            }
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
                self.words.entry((kind, name)).or_insert(n);
            }
            Kind::Url | Kind::UserAgent => {
                self.words.entry((kind, text.to_owned())).or_insert(n);
            }
            Kind::Sha256 => {
                self.words.entry((kind, text.to_lowercase())).or_insert(n);
            }
        }
        self.texts.push(json.into());
        Ok(())
    }

    fn plain(&mut self, bytes: &[u8], list: &RawList) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        for (i, line) in text.lines().enumerate() {
            // A user agent may hold a `#`.
            let line = if list.kind == Some(Kind::UserAgent) || list.kind == Some(Kind::Url) {
                if line.starts_with('#') { "" } else { line }
            } else {
                line.split(['#', ';']).next().unwrap_or_default()
            };
            let line = line.trim();
            if !line.is_empty() {
                let found = Found { kind: None, indicator: line, confidence: None, first_seen: None };
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
        let seen = column(&["first_seen", "valid_from"]);
        for (i, row) in reader.records().enumerate() {
            let row = row.map_err(|e| e.to_string())?;
            let get = |c: Option<usize>| row.get(c?).filter(|t| !t.is_empty());
            let Some(indicator) = get(Some(value)) else { continue };
            let found = Found {
                kind: get(kind).and_then(|k| kind_of(&k.to_lowercase())),
                indicator,
                confidence: get(confidence).and_then(|c| c.parse().ok()),
                first_seen: get(seen),
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
                let found =
                    Found { kind: Some(kind), indicator: &value, confidence: o.confidence, first_seen };
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
        if !self.words.is_empty() {
            for name in ["domain", "host_name", "destination_domain"] {
                if let Some(d) = of(name) {
                    hit(self.domain(&d));
                }
            }
            for name in ["url", "endpoint", "referer", "http_referer"] {
                let Some(url) = of(name).filter(|u| u.contains("://")) else { continue };
                hit(self.word(Kind::Url, url.clone().into_owned()));
                let host =
                    url.split("://").nth(1).and_then(|r| r.split(['/', '?', '#']).next()).unwrap_or_default();
                let host = host.rsplit('@').next().unwrap_or_default();
                let host = host.split(':').next().unwrap_or_default();
                hit(self.domain(host));
            }
            if let Some(agent) = of("user_agent") {
                hit(self.word(Kind::UserAgent, agent.into_owned()));
            }
            for name in ["sha256", "file_sha256", "hash"] {
                if let Some(digest) = of(name).filter(|d| d.len() == 64) {
                    hit(self.word(Kind::Sha256, digest.to_lowercase()));
                }
            }
        }
        hits.sort_unstable();
        hits.dedup();
        if hits.is_empty() {
            return;
        }
        event.add_json("threat_intelligence", |out| {
            for (i, n) in hits.iter().enumerate() {
                out.push(if i > 0 { b',' } else { b'[' });
                out.extend_from_slice(self.texts.get(*n as usize).map_or(b"null", |t| t));
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
        let name = name.trim_end_matches('.').to_lowercase();
        let mut rest = name.as_str();
        loop {
            if let Some(n) = self.word(Kind::Domain, rest.to_owned()) {
                return Some(n);
            }
            rest = rest.split_once('.')?.1;
        }
    }

    fn word(&self, kind: Kind, text: String) -> Option<u32> {
        self.words.get(&(kind, text)).copied()
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

/// The comparisons of a STIX pattern that each alone say something: of `AND`, none does.
fn comparisons(pattern: &str) -> Vec<(Kind, String)> {
    let mut all = Vec::new();
    for part in pattern.split(" OR ") {
        if part.contains(" AND ") || part.contains(" FOLLOWEDBY ") {
            continue;
        }
        let Some((path, value)) = part.split_once('=') else { continue };
        let path = path.trim().trim_start_matches(['[', '(', ' ']).trim();
        let kind = match path {
            "ipv4-addr:value" | "ipv6-addr:value" => Kind::Ip,
            "domain-name:value" => Kind::Domain,
            "url:value" => Kind::Url,
            p if p.starts_with("file:hashes") && p.contains("SHA-256") => Kind::Sha256,
            p if p.ends_with("request_header.'User-Agent'") => Kind::UserAgent,
            _ => continue,
        };
        let value = value.trim().trim_end_matches([']', ')', ' ']);
        if let Some(text) = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')) {
            all.push((kind, text.replace("\\'", "'").replace("\\\\", "\\")));
        }
    }
    all
}
