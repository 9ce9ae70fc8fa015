//! The worker's configuration: one strictly parsed YAML file.
//!
//! [`Raw`] is what may stand in the file, and its documentation is the manual; [`Config`] is what came of it.

use crate::chain::{Sender, Settings};
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
    /// What the worker writes is locked as long as the headers in the log are, but not longer than this, whatever a header says.
    /// Default: a month more than the trail's retention, as the cap of `waxseal bucket init` has it.
    pub max_retention: Option<Span>,
    /// A round at least this often. Default 1h.
    #[serde(default = "hour")]
    pub interval: Span,
    /// Writers that have to be there.
    #[serde(default)]
    pub expected_writers: RawExpected,
    /// How the newest checkpoint is shown to the witnesses of the trust file's `policy`.
    #[serde(default)]
    pub anchors: RawAnchors,
    /// Chains that the newest checkpoint is anchored in; needs `state_dir`, where transactions are kept before they are sent.
    #[serde(default)]
    pub ethereum: Vec<RawChain>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served, without authentication.
    pub telemetry: Option<RawTelemetry>,
}

/// A chain that the log is anchored in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawChain {
    /// Its id (EIP-155); a node that is on another one is not used.
    pub chain: u64,
    /// The contract `AuditTrail` on it, which `waxseal-anchor deploy-contract` makes; a node that has other code there is not used.
    pub contract: Text,
    /// Its nodes (JSON-RPC over HTTP or HTTPS): where one fails the next is asked, and where two disagree nothing is done.
    pub rpcs: Vec<Text>,
    /// The account that anchors: `keystore:/path` (Web3 Secret Storage), `env:NAME` (a private key, 64 hex digits) or `kms:ID` (AWS
    /// KMS, ECC_SECG_P256K1).
    pub key: Text,
    /// The keystore's password: `file:/path` or `env:NAME`.
    pub password: Option<Text>,
    /// The most that a unit of gas may cost, in gwei. While it costs more nothing is sent.
    pub max_fee_gwei: Gwei,
    /// The most of it that is offered at first to whoever makes the block; what is sent again offers an eighth more. Default 2.
    #[serde(default = "two_gwei")]
    pub max_priority_fee_gwei: Gwei,
    /// When an anchor counts as made: `finalized` (the default; the chain has to know it), or a number of blocks, its own included.
    #[serde(default)]
    pub confirmations: Confirmations,
    /// An anchor this often, if the log grew. Default 1h.
    #[serde(default = "hour")]
    pub interval: Span,
    /// A transaction that is in no block after so long is sent again with higher fees, up to the cap. Default 3m.
    #[serde(default = "three_minutes")]
    pub resubmit_after: Span,
    /// How often a transaction that is under way is looked after. Default 15s.
    #[serde(default = "quarter_minute")]
    pub poll: Span,
    /// What is anchored after the chain could not be reached: the `newest` checkpoint, which is over all before it (the default), or
    /// `each` one, 24 in a transaction.
    #[serde(default)]
    pub catch_up: CatchUp,
}

/// A price of gas, in gwei: a billionth of the chain's coin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gwei(pub u128);

impl<'de> Deserialize<'de> for Gwei {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(d)?.0;
        gwei(&text).map(Gwei).map_err(serde::de::Error::custom)
    }
}

/// Reads a price of gas, in gwei, as wei.
///
/// # Errors
/// A text.
pub fn gwei(text: &str) -> Result<u128, String> {
    let wei = alloy_primitives::utils::parse_units(text, "gwei").ok().filter(|p| !p.is_negative());
    let wei = wei.and_then(|p| u128::try_from(p.get_absolute()).ok()).filter(|w| *w <= u128::from(u64::MAX));
    wei.ok_or_else(|| format!("{text:?} is no number of gwei; write one as 30 or 0.05"))
}

/// When an anchor counts as made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirmations {
    /// When the chain calls its block final.
    #[default]
    Finalized,
    /// When so many blocks are there from its own on.
    Blocks(u64),
}

impl<'de> Deserialize<'de> for Confirmations {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(d)?.0;
        match text.parse::<u64>() {
            _ if text == "finalized" => Ok(Confirmations::Finalized),
            Ok(n) if n > 0 => Ok(Confirmations::Blocks(n)),
            _ => {
                Err(serde::de::Error::custom(format!("{text:?} is neither finalized nor a number of blocks")))
            }
        }
    }
}

/// What is anchored after the chain could not be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// The newest checkpoint.
    #[default]
    Newest,
    /// Each.
    Each,
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

fn three_minutes() -> Span {
    Span(Duration::from_secs(180))
}

fn quarter_minute() -> Span {
    Span(Duration::from_secs(15))
}

fn two_gwei() -> Gwei {
    Gwei(2_000_000_000)
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
    /// Nothing is locked for longer; by the trail's retention, if that is not said.
    pub max_retention: Option<Duration>,
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
    /// Chains to anchor in, and the accounts that do.
    pub chains: Vec<(Settings, Sender)>,
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
        if !raw.ethereum.is_empty() && raw.state_dir.is_none() {
            return Err(
                "ethereum: needs state_dir, where transactions are kept before they are sent".to_owned()
            );
        }
        let mut chains: Vec<(Settings, Sender)> = Vec::new();
        for (i, raw) in raw.ethereum.into_iter().enumerate() {
            let settings = chain(&raw).map_err(|e| format!("ethereum[{i}].{e}"))?;
            if chains.iter().any(|(s, _)| s.chain == settings.chain) {
                return Err(format!("ethereum[{i}].chain: {} has come before", settings.chain));
            }
            let password = raw.password.as_ref().map(|p| &p.0[..]);
            let sender = Sender::open(&raw.key.0, password, dir);
            chains.push((settings, sender.map_err(|e| format!("ethereum[{i}].key: {e}"))?));
        }
        Ok(Config {
            trail: raw.trail.0,
            store,
            state_dir: raw.state_dir.map(|d| dir.join(d.0)),
            key,
            trust,
            trust_file: Some(dir.join(&raw.trust.0)),
            max_retention: raw.max_retention.map(|s| s.0),
            interval: raw.interval.0,
            expected: Expected { names, ephemeral },
            nodes: raw.expected_writers.nodes.map(|n| dir.join(n.0)),
            http,
            timestamps: (authorities, wanted),
            chains,
            telemetry: telemetry.transpose()?,
        })
    }
}

fn chain(raw: &RawChain) -> Result<Settings, String> {
    let contract = &raw.contract.0;
    let contract = contract
        .parse()
        .map_err(|_| format!("contract: {contract:?} is no address (0x and 40 hex digits)"))?;
    let urls: Vec<String> = raw.rpcs.iter().map(|t| t.0.clone()).collect();
    if urls.is_empty() {
        return Err("rpcs: none".to_owned());
    }
    if let Some(n) = urls.iter().position(|u| !["http://", "https://"].iter().any(|s| u.starts_with(s))) {
        return Err(format!("rpcs[{n}]: it begins with neither http:// nor https://"));
    }
    if raw.poll.0 < Duration::from_secs(1) || raw.interval.0 < Duration::from_secs(1) {
        return Err("poll and interval: one second or more".to_owned());
    }
    if raw.resubmit_after.0 < Duration::from_secs(10) {
        return Err("resubmit_after: ten seconds or more".to_owned());
    }
    Ok(Settings {
        chain: raw.chain,
        contract,
        urls,
        max_fee: raw.max_fee_gwei.0,
        max_priority_fee: raw.max_priority_fee_gwei.0,
        confirmations: match raw.confirmations {
            Confirmations::Finalized => None,
            Confirmations::Blocks(n) => Some(n),
        },
        interval: raw.interval.0,
        resubmit: raw.resubmit_after.0,
        poll: raw.poll.0,
        each: raw.catch_up == CatchUp::Each,
    })
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

    fn raw(yaml: &str) -> Result<RawChain, String> {
        let minimal = "chain: 1\nkey: env:KEY\nrpcs: [https://node.example.com/v3/secret]\n";
        waxseal_config::from_yaml(&format!("{minimal}{yaml}"))
    }

    #[test]
    fn a_chain() {
        let yaml = "contract: 0x5FbDB2315678afecb367f032d93F642f64180aa3\nmax_fee_gwei: 30\n";
        let settings = raw(yaml).and_then(|r| chain(&r)).expect("as it is documented");
        assert_eq!((settings.max_fee, settings.max_priority_fee), (30_000_000_000, 2_000_000_000));
        assert_eq!((settings.confirmations, settings.each), (None, false));
        assert_eq!(settings.interval, Duration::from_secs(3600));
        let more = "confirmations: 12\ncatch_up: each\nmax_priority_fee_gwei: 0.05\n";
        let settings = raw(&format!("{yaml}{more}")).and_then(|r| chain(&r)).expect("as it is documented");
        assert_eq!((settings.max_priority_fee, settings.confirmations), (50_000_000, Some(12)));
        assert!(settings.each);
        for bad in ["confirmations: 0\n", "confirmations: soon\n", "catch_up: all\n", "poll: 10ms\n"] {
            assert!(raw(&format!("{yaml}{bad}")).and_then(|r| chain(&r)).is_err(), "{bad}");
        }
        for bad in ["contract: 0x5FbD\nmax_fee_gwei: 30\n", "contract: x\nmax_fee_gwei: 30\n"] {
            let said = raw(bad).and_then(|r| chain(&r)).expect_err("no address");
            assert!(said.contains("contract"), "{said}");
        }
        for bad in ["-1", "x", "99999999999999"] {
            assert!(gwei(bad).is_err(), "{bad}");
        }
    }

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
