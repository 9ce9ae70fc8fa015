//! The worker's configuration: one strictly parsed YAML file.
//!
//! [`Raw`] is what may stand in the file, and its documentation is the manual; [`Config`] is what came of it.

use crate::http::Client;
use crate::known::Expected;
use crate::stamps::Authority;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
pub use waxseal_config::{ConfigError, Span, Text};
use waxseal_signing::{MemoryKey, Signer as _};
use waxseal_store::Location;
use waxseal_trail::name::is_name;
use waxseal_trail::trust::Trust;

/// The file's members.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The trail's name, or its id (64 hex digits) to pin it.
    pub trail: Text,
    /// Where the trail is: `file:///path` or `s3://bucket/prefix`.
    pub store: Text,
    /// Where the worker keeps what it has seen. Without it each start reads the whole log again, and a store that shows an old
    /// state is not noticed.
    pub state_dir: Option<Text>,
    /// `file:/path` of the worker's key: PEM, Ed25519, one of the trail's `workers` (`waxseal init` makes it).
    pub key: Text,
    /// The trust file: whose statements are logged. It is read again in each round; another log or trail takes a restart.
    pub trust: Text,
    /// A round at least this often. Default 1h.
    #[serde(default = "hour")]
    pub interval: Span,
    /// Writers that have to be there.
    #[serde(default)]
    pub expected_writers: RawExpected,
    /// How the newest checkpoint is shown to the witnesses of the trust file's `policy`.
    #[serde(default)]
    pub anchors: RawAnchors,
    /// Where `/metrics`, `/healthz` and `/readyz` are served, without authentication.
    pub telemetry: Option<RawTelemetry>,
}

/// How others are reached.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAnchors {
    /// How long an answer may take. Default 10s.
    pub timeout: Span,
    /// A file of certificates in PEM that servers are believed by, beside the machine's.
    pub ca: Option<Text>,
    /// Time-stamping authorities (RFC 3161), in the order in which they are asked: where one fails, the next is. The trust file's
    /// `timestamps` has to have their roots.
    pub timestamps: Vec<RawAuthority>,
    /// So many of them stamp each checkpoint. Default 1.
    pub tokens: u8,
}

/// A time-stamping authority.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAuthority {
    /// Its name, in the names of what it signs.
    pub name: Text,
    /// Where it answers, over HTTP or HTTPS: what it signs is checked, whoever brings it.
    pub url: Text,
}

impl Default for RawAnchors {
    fn default() -> Self {
        RawAnchors { timeout: Span(Duration::from_secs(10)), ca: None, timestamps: Vec::new(), tokens: 1 }
    }
}

/// Writers that have to be there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawExpected {
    /// Names, without epochs.
    #[serde(default)]
    pub names: Vec<Text>,
    /// Globs of names that may come and go.
    #[serde(default)]
    pub ephemeral: Vec<Text>,
    /// A file with the cluster's nodes, as `kubectl get nodes -o json` writes it; read in each round.
    pub nodes: Option<Text>,
}

/// Telemetry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTelemetry {
    /// Address and port.
    pub listen: Text,
}

fn hour() -> Span {
    Span(Duration::from_secs(3600))
}

/// A configuration that can be worked with.
pub struct Config {
    /// Name or id.
    pub trail: String,
    /// Where the trail is.
    pub store: Location,
    /// Where state is kept.
    pub state_dir: Option<PathBuf>,
    /// The worker's key.
    pub key: MemoryKey,
    /// Who is trusted.
    pub trust: Trust,
    /// The file that says so, read again in each round.
    pub trust_file: Option<PathBuf>,
    /// The time between two rounds.
    pub interval: Duration,
    /// Writers that have to be there, without those in the file of nodes.
    pub expected: Expected,
    /// The file of nodes.
    pub nodes: Option<PathBuf>,
    /// What reaches others.
    pub http: Client,
    /// Time-stamping authorities, and how many of them are wanted.
    pub timestamps: (Vec<Authority>, usize),
    /// Where telemetry is served.
    pub telemetry: Option<SocketAddr>,
}

/// Reads a trust file; the CA files that it names are relative to it.
///
/// # Errors
/// A text with the file, line and key.
pub fn read_trust(path: &Path) -> Result<Trust, String> {
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| at(&e))?;
    let dir = path.parent().unwrap_or(Path::new("")).to_owned();
    Trust::parse(&text, &|file| std::fs::read(dir.join(file)).map_err(|e| format!("{file}: {e}")))
        .map_err(|e| at(&e))
}

impl Config {
    /// Reads a file, and those that it names; relative ones are beside it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        let fail = |what: String| ConfigError { file: file.clone(), what };
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        let raw: Raw = waxseal_config::from_yaml(&text).map_err(fail)?;
        Config::check(raw, path.parent().unwrap_or(Path::new(""))).map_err(fail)
    }

    fn check(raw: Raw, dir: &Path) -> Result<Config, String> {
        if !is_name(&raw.trail.0) {
            return Err(format!("trail: {:?} is neither a trail's name nor its id", raw.trail.0));
        }
        let store = raw.store.0.parse().map_err(|e: String| format!("store: {e}"))?;
        let key_file = raw.key.0.strip_prefix("file:");
        let key_file =
            key_file.ok_or_else(|| format!("key: {:?}: keys are read from file:/path", raw.key.0))?;
        let pem = std::fs::read(dir.join(key_file)).map_err(|e| format!("key: {key_file}: {e}"))?;
        let key = MemoryKey::from_pem(&pem).map_err(|e| format!("key: {key_file}: {e}"))?;
        if key.public().algorithm() != "ed25519" {
            let algorithm = key.public().algorithm();
            return Err(format!("key: {key_file}: {algorithm}; a log's key is Ed25519 (C2SP signed notes)"));
        }
        let trust = read_trust(&dir.join(&raw.trust.0)).map_err(|e| format!("trust: {e}"))?;
        if raw.interval.0 < Duration::from_secs(1) {
            return Err("interval: one second or more".to_owned());
        }
        let names: BTreeSet<String> = raw.expected_writers.names.into_iter().map(|n| n.0).collect();
        if let Some(bad) = names.iter().find(|n| !is_name(n)) {
            return Err(format!("expected_writers.names: {bad:?} is no writer's name"));
        }
        let ephemeral = raw.expected_writers.ephemeral.into_iter().map(|g| g.0).collect();
        let telemetry = raw.telemetry.map(|t| {
            let listen = &t.listen.0;
            listen.parse().map_err(|_| format!("telemetry.listen: {listen:?} is no address:port"))
        });
        let mut authorities: Vec<Authority> = Vec::new();
        for (i, raw) in raw.anchors.timestamps.into_iter().enumerate() {
            let (name, url) = (raw.name.0, raw.url.0);
            if !is_name(&name) || authorities.iter().any(|a| a.name == name) {
                return Err(format!("anchors.timestamps[{i}].name: {name:?} is no name, or has come before"));
            }
            if !["http://", "https://"].iter().any(|s| url.starts_with(s)) {
                return Err(format!(
                    "anchors.timestamps[{i}].url: {url:?} begins with neither http:// nor https://"
                ));
            }
            authorities.push(Authority { name, url });
        }
        let wanted = usize::from(raw.anchors.tokens);
        if !authorities.is_empty() && !(1..=authorities.len()).contains(&wanted) {
            return Err(format!("anchors.tokens: {wanted} of {} authorities", authorities.len()));
        }
        if !authorities.is_empty() && trust.timestamps.is_empty() {
            return Err(
                "anchors.timestamps: the trust file has no timestamps: with roots of theirs".to_owned()
            );
        }
        let ca = raw.anchors.ca.map(|f| std::fs::read(dir.join(&f.0)).map_err(|e| format!("{}: {e}", f.0)));
        let ca = ca.transpose().map_err(|e| format!("anchors.ca: {e}"))?;
        let http =
            Client::new(raw.anchors.timeout.0, ca.as_deref()).map_err(|e| format!("anchors.ca: {e}"))?;
        Ok(Config {
            trail: raw.trail.0,
            store,
            state_dir: raw.state_dir.map(|d| dir.join(d.0)),
            key,
            trust,
            trust_file: Some(dir.join(&raw.trust.0)),
            interval: raw.interval.0,
            expected: Expected { names, ephemeral },
            nodes: raw.expected_writers.nodes.map(|n| dir.join(n.0)),
            http,
            timestamps: (authorities, wanted),
            telemetry: telemetry.transpose()?,
        })
    }
}

/// The names of the nodes in a list as Kubernetes writes it (`v1`, kind `List` or `NodeList`).
///
/// # Errors
/// A text, for what is no such list: a list that cannot be read names nobody, and nobody would be missed.
pub fn nodes(json: &[u8]) -> Result<BTreeSet<String>, String> {
    let list: serde_json::Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let kind = list["kind"].as_str().unwrap_or_default();
    let items = list["items"].as_array().filter(|_| matches!(kind, "List" | "NodeList"));
    let items = items.ok_or("no list of nodes (kubectl get nodes -o json)")?;
    let is_node = |i: &&serde_json::Value| i["kind"].as_str().is_none_or(|k| k == "Node");
    let names = items.iter().filter(is_node).map(|i| i["metadata"]["name"].as_str().map(str::to_owned));
    names.collect::<Option<_>>().ok_or_else(|| "a node without a name".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_a_cluster() {
        let list = br#"{"apiVersion":"v1","kind":"List","items":[
            {"apiVersion":"v1","kind":"Node","metadata":{"name":"ip-10-0-0-1.eu.internal","labels":{}}},
            {"apiVersion":"v1","kind":"Node","metadata":{"name":"n2"}},
            {"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}]}"#;
        assert_eq!(
            nodes(list).map(|n| n.into_iter().collect::<Vec<_>>()),
            Ok(vec!["ip-10-0-0-1.eu.internal".to_owned(), "n2".to_owned()])
        );
        for bad in
            [&b"{}"[..], b"", br#"{"kind":"List"}"#, br#"{"kind":"NodeList","items":[{"metadata":{}}]}"#]
        {
            assert!(nodes(bad).is_err());
        }
    }
}
