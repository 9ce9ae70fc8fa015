//! `enrich.yaml`. [`Raw`] is what may stand in the file, and its documentation is the manual.

use crate::mapping::{Mapping, RawMapping};
use crate::times::Clock;
use crate::{geo, threat, users};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use waxseal_filter_abi::config::yaml;

/// The file's members.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// What times are read with that leave out zone or year.
    pub time: RawTime,
    /// Which of the built-in normalisers run; all of them unless this says otherwise.
    pub normalisers: RawNormalisers,
    /// Mappings of one's own, in order; the first that fits an event is used, before any normaliser.
    pub mappings: Vec<RawMapping>,
    /// Where the system context comes from if the shipper gives none.
    pub system: RawSystem,
    /// Geography.
    pub geo: Option<RawGeo>,
    /// Users.
    pub users: Option<RawUsers>,
    /// Threat intelligence.
    pub threat: Option<RawThreat>,
    /// Protected health information.
    pub phi: RawPhi,
    /// Put `event_id` and `correlation_id` where the source has none. Default true.
    pub ids: Option<bool>,
}

/// Times.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTime {
    /// An IANA name (`Europe/Berlin`) or an offset (`+02:00`). Default UTC.
    pub zone: Option<String>,
    /// The year of syslog's times. Default: the one that brings a time nearest to the shipper's.
    pub year: Option<i16>,
}

/// Which normalisers run.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawNormalisers {
    /// Only these.
    pub only: Option<Vec<Normaliser>>,
    /// All but these.
    pub without: Vec<Normaliser>,
    /// By the shipper's tag (with `*`): this one, whatever an event looks like.
    pub by_tag: BTreeMap<String, Normaliser>,
}

/// A built-in normaliser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each is its name
pub enum Normaliser {
    Native,
    KubernetesAudit,
    Cloudtrail,
    Syslog,
    Auditd,
    Falco,
    Pgaudit,
    Access,
}

impl Normaliser {
    /// All, in the order in which they are tried.
    pub const ALL: [Normaliser; 8] = [
        Normaliser::Native,
        Normaliser::KubernetesAudit,
        Normaliser::Cloudtrail,
        Normaliser::Falco,
        Normaliser::Auditd,
        Normaliser::Syslog,
        Normaliser::Access,
        Normaliser::Pgaudit,
    ];

    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Normaliser::Native => "native",
            Normaliser::KubernetesAudit => "kubernetes_audit",
            Normaliser::Cloudtrail => "cloudtrail",
            Normaliser::Syslog => "syslog",
            Normaliser::Auditd => "auditd",
            Normaliser::Falco => "falco",
            Normaliser::Pgaudit => "pgaudit",
            Normaliser::Access => "access",
        }
    }
}

/// The system context of events that bring none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSystem {
    /// production, staging, …
    pub environment: Option<String>,
    /// The application's version.
    pub application_version: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// The container's id.
    pub container_id: Option<String>,
    /// The pod.
    pub pod: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// The node.
    pub node: Option<String>,
    /// The container's image.
    pub image: Option<String>,
}

/// Geography.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGeo {
    /// Databases in MaxMind's format: city, country and ASN together, in any order. What an earlier one says stands.
    pub databases: Vec<PathBuf>,
    /// The language of names. Default en.
    #[serde(default = "english")]
    pub language: String,
}

/// Users.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawUsers {
    /// A CSV file with a header, or JSON: a list of objects, or an object by user.
    pub file: PathBuf,
    /// The column or member that holds the user's name as logs have it. Default user_id.
    #[serde(default = "user_id")]
    pub key: String,
    /// Names differ by more than their letters' case. Default true.
    #[serde(default = "yes")]
    pub case_sensitive: bool,
    /// What is added of a user. Default: department, role, manager, employment_status, risk_tier.
    #[serde(default = "user_fields")]
    pub fields: Vec<String>,
}

/// Threat intelligence.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawThreat {
    /// Files of indicators.
    pub lists: Vec<RawList>,
    /// Which events are looked up: `security` (logins, denials, security events; the default) or `all`.
    #[serde(default)]
    pub events: Scope,
}

/// Which events are looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Authentication, authorization and security events.
    #[default]
    Security,
    /// Every event.
    All,
}

/// A file of indicators.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawList {
    /// The file.
    pub file: PathBuf,
    /// Who says so.
    pub source: String,
    /// `plain` (an indicator a line, `#` comments), `csv` (a header with `indicator` or `value`, and perhaps `type`,
    /// `confidence`, `first_seen`) or `stix` (a STIX 2.1 bundle). Default: by the file's name.
    pub format: Option<ListFormat>,
    /// What a plain list holds, where its lines do not say it by their form.
    #[serde(rename = "type")]
    pub kind: Option<threat::Kind>,
    /// 0 to 100, where the file has none.
    pub confidence: Option<u8>,
}

/// How a list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // see RawList::format
pub enum ListFormat {
    Plain,
    Csv,
    Stix,
}

/// Protected health information.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPhi {
    /// Resources or resource types (with `*`) that hold it: an event that names one has `phi_involved: true`.
    pub resources: Vec<String>,
}

fn english() -> String {
    "en".into()
}

fn user_id() -> String {
    "user_id".into()
}

fn yes() -> bool {
    true
}

fn user_fields() -> Vec<String> {
    ["department", "role", "manager", "employment_status", "risk_tier"].map(String::from).into()
}

/// What came of the file, with all data that it names.
#[derive(Debug)]
pub struct Config {
    pub(crate) clock: Clock,
    pub(crate) normalisers: Vec<Normaliser>,
    pub(crate) by_tag: Vec<(String, Normaliser)>,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) system: RawSystem,
    pub(crate) geo: Option<geo::Geo>,
    pub(crate) users: Option<users::Users>,
    pub(crate) threat: Option<threat::Threat>,
    pub(crate) phi: Vec<String>,
    pub(crate) ids: bool,
    /// The data files: name and path.
    pub(crate) data: Vec<(String, PathBuf)>,
}

/// Reads a file that somebody else wrote.
pub(crate) fn read(what: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{what}: {}: {e}", path.display()))
}

impl Config {
    /// Reads `enrich.yaml` and what it names; relative paths are the file's neighbours.
    ///
    /// # Errors
    /// A text with file, line and key.
    pub fn load(file: &Path) -> Result<Config, String> {
        let at = |e: String| format!("{}: {e}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| at(e.to_string()))?;
        Config::parse(&text, file.parent().unwrap_or(Path::new(""))).map_err(at)
    }

    /// From the file's text; relative paths are of `dir`.
    ///
    /// # Errors
    /// A text with line and key.
    pub fn parse(text: &str, dir: &Path) -> Result<Config, String> {
        let raw: Raw = yaml(text)?;
        let mut data = Vec::new();
        let mut resolve = |path: &Path| {
            let whole = dir.join(path);
            data.push((path.to_string_lossy().into_owned(), whole.clone()));
            whole
        };
        let clock = Clock { zone: zone(raw.time.zone.as_deref())?, year: raw.time.year };
        let geo = match &raw.geo {
            Some(g) => {
                let paths: Vec<PathBuf> = g.databases.iter().map(|p| resolve(p)).collect();
                Some(geo::Geo::open(&paths, &g.language).map_err(|e| format!("geo.databases: {e}"))?)
            }
            None => None,
        };
        let users = match &raw.users {
            Some(u) => {
                Some(users::Users::read(&resolve(&u.file), u).map_err(|e| format!("users.file: {e}"))?)
            }
            None => None,
        };
        let threat = match &raw.threat {
            Some(t) => {
                let lists = t.lists.iter().map(|l| (resolve(&l.file), l));
                Some(threat::Threat::read(lists, t.events).map_err(|e| format!("threat.lists: {e}"))?)
            }
            None => None,
        };
        let n = &raw.normalisers;
        let runs = |x: &Normaliser| n.only.as_ref().is_none_or(|o| o.contains(x)) && !n.without.contains(x);
        let mappings = raw
            .mappings
            .into_iter()
            .enumerate()
            .map(|(i, m)| {
                let what = m.name.clone().unwrap_or_else(|| i.to_string());
                Mapping::new(m).map_err(|e| format!("mappings[{i}] ({what}): {e}"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Config {
            clock,
            normalisers: Normaliser::ALL.into_iter().filter(runs).collect(),
            by_tag: n.by_tag.iter().map(|(tag, n)| (tag.clone(), *n)).collect(),
            mappings,
            system: raw.system,
            geo,
            users,
            threat,
            phi: raw.phi.resources,
            ids: raw.ids.unwrap_or(true),
            data,
        })
    }
}

fn zone(name: Option<&str>) -> Result<jiff::tz::TimeZone, String> {
    use jiff::tz::{Offset, TimeZone};
    let Some(name) = name else { return Ok(TimeZone::UTC) };
    if matches!(name, "UTC" | "Z") {
        return Ok(TimeZone::UTC);
    }
    if let Some((sign, rest)) = name.split_at_checked(1).filter(|(s, _)| matches!(*s, "+" | "-")) {
        let mut parts = rest.split(':').map(|p| p.parse::<i32>().ok().filter(|_| p.len() == 2));
        if let (Some(Some(h)), m, None) = (parts.next(), parts.next().unwrap_or(Some(0)), parts.next())
            && let Some(m) = m
            && let Ok(offset) = Offset::from_seconds((h * 3600 + m * 60) * if sign == "-" { -1 } else { 1 })
        {
            return Ok(TimeZone::fixed(offset));
        }
        return Err(format!("time.zone: {name:?} is no offset; write one as +02:00"));
    }
    TimeZone::get(name)
        .map_err(|_| format!("time.zone: {name:?} is no zone; write one as Europe/Berlin or +02:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let bad = |text: &str| Config::parse(text, Path::new("/etc/x")).unwrap_err();
        let e = bad("time:\n  zoen: UTC\n");
        assert!(e.contains("zoen") && e.contains("line 2"), "{e}");
        assert!(bad("time: {zone: Mars/Base}").contains("Mars/Base"));
        assert!(bad("geo:\n  databases: [city.mmdb]\n").contains("/etc/x/city.mmdb"));
        assert!(
            bad("mappings:\n  - name: m\n    set: {user_id: {field: a, parse: no}}\n").contains("line 3")
        );
        assert!(bad("a: 1\na: 2\n").contains('a'));
    }
}
