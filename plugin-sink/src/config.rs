//! The configuration: one strictly parsed YAML file, for plugin and server alike.
//!
//! [`Raw`] is what may stand in the file, and its documentation is the manual; [`Config`] is what came of
//! it, with everything impossible refused.

use crate::keys::SigningKeys;
use serde::{Deserialize, Deserializer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use waxseal_store::Location;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::name::is_name;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {what}")]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// Line, key and reason.
    pub what: String,
}

/// A text in which `${NAME}` stands for an environment variable; `$$` for a dollar sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let raw = String::deserialize(d)?;
        expand(&raw, &|name| std::env::var(name).ok()).map(Text).map_err(serde::de::Error::custom)
    }
}

fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = after.find('}').ok_or_else(|| format!("{text:?}: ${{ without }}"))?;
            let name = &after[..end];
            let value = env(name).filter(|v| !v.is_empty());
            out.push_str(&value.ok_or_else(|| format!("the environment has no {name}"))?);
            rest = &after[end + 1..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// A size: a number with B, KiB, MiB, GiB, KB, MB or GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(d)?.0;
        let units = [
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
            ("KB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
            ("B", 1),
        ];
        units
            .iter()
            .find_map(|(unit, n)| text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*n))
            .map(Size)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no size; write one as 32MiB")))
    }
}

/// A duration: a number with ms, s, m, h or d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        units
            .iter()
            .find_map(|(unit, n)| text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*n))
            .map(|ms| Span(Duration::from_millis(ms)))
            .ok_or_else(|| format!("{text:?} is no duration; write one as 5m or 2555d"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Text::deserialize(d)?.0.parse().map_err(serde::de::Error::custom)
    }
}

/// When a shipper is told that its events are safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acknowledge {
    /// When they are synced in the spool.
    #[default]
    Spooled,
    /// When their batch is in the store; a batch is closed as soon as someone waits, at most once a second.
    Stored,
}

/// The file's members.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The trail's name, or its id (64 hex digits) to pin it.
    pub trail: Text,
    /// This writer's name. Default: `NODE_NAME` from the environment; outside Kubernetes, the host's name.
    pub writer: Option<Text>,
    /// Where spool and identity lie: a directory of its own, on a disk that survives.
    pub state_dir: Text,
    /// Where the trail is: `file:///path`.
    pub store: Text,
    /// How long each object is kept. No default: it cannot be taken back.
    pub retention: Span,
    /// The signing keys; each signs every statement.
    pub signing: Vec<RawSigning>,
    /// When a batch closes.
    #[serde(default)]
    pub batch: RawBatch,
    /// An idle writer still seals an empty batch this often. Default 15m.
    #[serde(default = "heartbeat")]
    pub heartbeat: Span,
    /// `spooled` (default) or `stored`.
    #[serde(default)]
    pub acknowledge: Acknowledge,
    /// The spool.
    #[serde(default)]
    pub spool: RawSpool,
    /// The server's protocols.
    #[serde(default)]
    pub intake: RawIntake,
    /// Where `/metrics`, `/healthz` and `/readyz` are served, without authentication.
    pub telemetry: Option<RawTelemetry>,
}

impl Raw {
    /// Reads YAML.
    ///
    /// # Errors
    /// A text with line and key.
    pub fn parse(text: &str) -> Result<Raw, String> {
        serde_saphyr::from_str(text).map_err(|e| e.to_string())
    }
}

/// One signing key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSigning {
    /// `file:/path` of a PEM private key (PKCS#8 or PKCS#1), mode 0600 or stricter by group.
    pub key: Text,
    /// PEM certificates of the key, leaf first.
    pub certificate: Option<Text>,
    /// `file:/path` of the key before this one: it signs once more, to say that this one follows.
    pub previous: Option<Text>,
}

/// When a batch closes: at the first of these.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBatch {
    /// Records. Default 100000, at most 1048576.
    pub max_events: u64,
    /// Bytes of records. Default 32MiB, at most 255MiB.
    pub max_bytes: Size,
    /// Age of the oldest record. Default 5m.
    pub max_age: Span,
}

impl Default for RawBatch {
    fn default() -> Self {
        RawBatch { max_events: 100_000, max_bytes: Size(32 << 20), max_age: Span(Duration::from_secs(300)) }
    }
}

/// The spool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSpool {
    /// What it may take on disk. Default 8GiB. A full spool pushes back on the shipper.
    pub max_bytes: Size,
}

impl Default for RawSpool {
    fn default() -> Self {
        RawSpool { max_bytes: Size(8 << 30) }
    }
}

/// The server's protocols.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIntake {
    /// `POST /v1/events`.
    pub http: Option<RawHttp>,
}

/// HTTP intake.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHttp {
    /// Address and port.
    pub listen: Text,
    /// Bearer token that clients must send.
    pub token: Option<Text>,
    /// The same, in a file.
    pub token_file: Option<Text>,
    /// TLS.
    pub tls: Option<RawTls>,
    /// Listen beyond loopback with neither token nor client certificates. Default false.
    #[serde(default)]
    pub allow_unauthenticated: bool,
    /// Largest body, before and after decompression. Default 16MiB.
    #[serde(default = "max_body")]
    pub max_body: Size,
}

/// TLS of a listener.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTls {
    /// PEM certificates, leaf first.
    pub certificate: Text,
    /// PEM private key.
    pub key: Text,
    /// PEM certificates of the CAs that clients' certificates must chain to.
    pub client_ca: Option<Text>,
}

/// Telemetry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTelemetry {
    /// Address and port.
    pub listen: Text,
}

fn heartbeat() -> Span {
    Span(Duration::from_secs(900))
}

fn max_body() -> Size {
    Size(16 << 20)
}

/// A listener's TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM.
    pub certificate: Vec<u8>,
    /// PEM.
    pub key: Vec<u8>,
    /// PEM.
    pub client_ca: Option<Vec<u8>>,
}

/// HTTP intake.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where.
    pub listen: SocketAddr,
    /// SHA-256 of the bearer token, so that the comparison takes the same time for every guess.
    pub token: Option<Hash>,
    /// TLS.
    pub tls: Option<Tls>,
    /// Bytes.
    pub max_body: usize,
}

/// Values that take the place of those in the file.
#[derive(Clone, Debug, Default)]
pub struct Instead {
    /// The trail.
    pub trail: Option<String>,
    /// The writer.
    pub writer: Option<String>,
}

/// A configuration that can be run.
#[derive(Clone)]
pub struct Config {
    /// The trail's name or id.
    pub trail: String,
    /// This writer's name, without the epoch.
    pub writer: String,
    /// Where spool and identity lie.
    pub state_dir: PathBuf,
    /// Where the trail is.
    pub store: Location,
    /// Days.
    pub retention_days: u64,
    /// Keys.
    pub signing: SigningKeys,
    /// Records.
    pub max_events: u64,
    /// Bytes of records.
    pub max_batch_bytes: u64,
    /// Age of the oldest record.
    pub max_age: Duration,
    /// An idle writer's interval.
    pub heartbeat: Duration,
    /// When a shipper is answered.
    pub acknowledge: Acknowledge,
    /// Bytes.
    pub spool_bytes: u64,
    /// HTTP intake.
    pub http: Option<Http>,
    /// Telemetry.
    pub telemetry: Option<SocketAddr>,
}

impl Config {
    /// Reads and checks a file, and the files that it names.
    ///
    /// # Errors
    /// [`ConfigError`], with line and key where the YAML is to blame.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::load_with(path, &Instead::default())
    }

    /// [`Config::load`] with values that stand elsewhere, in the shipper's configuration.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(path: &Path, instead: &Instead) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        let fail = |what: String| ConfigError { file: file.clone(), what };
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        let mut raw = Raw::parse(&text).map_err(fail)?;
        if let Some(trail) = &instead.trail {
            raw.trail = Text(trail.clone());
        }
        if let Some(writer) = &instead.writer {
            raw.writer = Some(Text(writer.clone()));
        }
        Config::check(raw).map_err(fail)
    }

    /// Checks what a file says, and reads the files that it names.
    ///
    /// # Errors
    /// A text that names the key.
    pub fn check(raw: Raw) -> Result<Config, String> {
        let trail = raw.trail.0;
        if !is_name(&trail) {
            return Err(format!("trail: {trail:?} is neither a trail's name nor its id"));
        }
        let writer = match raw.writer {
            Some(w) => w.0,
            None => default_writer()?,
        };
        if !is_name(&writer) || writer.len() > 95 {
            return Err(format!(
                "writer: {writer:?} is no name: lower-case letters, digits, . and -, at most 95"
            ));
        }
        let days = raw.retention.0.as_secs() / 86_400;
        if days == 0 || days * 86_400 != raw.retention.0.as_secs() || days > 36_500 {
            return Err("retention: whole days, from 1d to 36500d".to_owned());
        }
        let state_dir = PathBuf::from(&raw.state_dir.0);
        if !state_dir.is_absolute() {
            return Err(format!("state_dir: {} is not an absolute path", raw.state_dir.0));
        }
        if raw.batch.max_events == 0 || raw.batch.max_events > waxseal_events::MAX_RECORDS {
            return Err(format!("batch.max_events: from 1 to {}", waxseal_events::MAX_RECORDS));
        }
        // A batch closes after the record that reaches the limit, which may be 1 MiB over.
        let most = waxseal_events::MAX_RECORD_BYTES - (1 << 20);
        if raw.batch.max_bytes.0 < 1024 || raw.batch.max_bytes.0 > most {
            return Err("batch.max_bytes: from 1KiB to 255MiB".to_owned());
        }
        if raw.batch.max_age.0.is_zero() || raw.batch.max_age.0 > Duration::from_secs(86_400) {
            return Err("batch.max_age: from 1ms to 1d".to_owned());
        }
        if raw.heartbeat.0 < Duration::from_secs(1) || raw.heartbeat.0 > Duration::from_secs(7 * 86_400) {
            return Err("heartbeat: from 1s to 7d".to_owned());
        }
        if raw.spool.max_bytes.0 < 64 << 20 {
            return Err("spool.max_bytes: 64MiB or more".to_owned());
        }
        let http = raw.intake.http.map(check_http).transpose()?;
        let telemetry = raw
            .telemetry
            .map(|t| {
                t.listen
                    .0
                    .parse()
                    .map_err(|_| format!("telemetry.listen: {:?} is no address:port", t.listen.0))
            })
            .transpose()?;
        Ok(Config {
            trail,
            writer,
            state_dir,
            store: raw.store.0.parse().map_err(|e| format!("store: {e}"))?,
            retention_days: days,
            signing: SigningKeys::load(raw.signing)?,
            max_events: raw.batch.max_events,
            max_batch_bytes: raw.batch.max_bytes.0,
            max_age: raw.batch.max_age.0,
            heartbeat: raw.heartbeat.0,
            acknowledge: raw.acknowledge,
            spool_bytes: raw.spool.max_bytes.0,
            http,
            telemetry,
        })
    }
}

/// Keeps every other sink off the state directory while the file lives.
///
/// # Errors
/// A text that names the directory.
pub fn hold(config: &Config) -> Result<std::fs::File, String> {
    use std::os::unix::fs::DirBuilderExt as _;
    let dir = &config.state_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| format!("state_dir {}: {e}", dir.display()))?;
    let path = dir.join("lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    file.try_lock().map_err(|_| {
        format!(
            "state_dir {} is in use by another sink: each sink needs a state directory of its own",
            dir.display()
        )
    })?;
    Ok(file)
}

/// The node's name, where one can be known without guessing.
fn default_writer() -> Result<String, String> {
    if let Some(name) = std::env::var("NODE_NAME").ok().filter(|n| !n.is_empty()) {
        return Ok(name);
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Err(
            "writer: not set, and in Kubernetes it is not guessed: a pod's host name changes with every \
            restart. Set NODE_NAME from spec.nodeName, or name the writer"
                .to_owned(),
        );
    }
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    Ok(host)
}

pub(crate) fn read(what: &str, path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{what}: {path}: {e}"))
}

fn check_http(raw: RawHttp) -> Result<Http, String> {
    let listen: SocketAddr = raw
        .listen
        .0
        .parse()
        .map_err(|_| format!("intake.http.listen: {:?} is no address:port", raw.listen.0))?;
    let token = match (raw.token, raw.token_file) {
        (Some(_), Some(_)) => return Err("intake.http: only one of token and token_file".to_owned()),
        (Some(t), None) => Some(t.0),
        (None, Some(f)) => {
            let bytes = read("intake.http.token_file", &f.0)?;
            Some(String::from_utf8_lossy(bytes.trim_ascii()).into_owned())
        }
        (None, None) => None,
    };
    if token.as_ref().is_some_and(|t| t.len() < 16) {
        return Err("intake.http.token: at least 16 characters".to_owned());
    }
    let tls = raw
        .tls
        .map(|t| -> Result<Tls, String> {
            Ok(Tls {
                certificate: read("intake.http.tls.certificate", &t.certificate.0)?,
                key: read("intake.http.tls.key", &t.key.0)?,
                client_ca: t.client_ca.map(|c| read("intake.http.tls.client_ca", &c.0)).transpose()?,
            })
        })
        .transpose()?;
    let authenticated = token.is_some() || tls.as_ref().is_some_and(|t| t.client_ca.is_some());
    if !listen.ip().is_loopback() && !authenticated && !raw.allow_unauthenticated {
        return Err(format!(
            "intake.http.listen: {listen} is beyond loopback, and anybody could write to the trail. Set token or \
             tls.client_ca, or allow_unauthenticated: true if the network keeps others out"
        ));
    }
    let max_body = usize::try_from(raw.max_body.0).unwrap_or(usize::MAX);
    if !(1 << 16..=1 << 28).contains(&max_body) {
        return Err("intake.http.max_body: from 64KiB to 256MiB".to_owned());
    }
    Ok(Http { listen, token: token.map(|t| sha256(t.as_bytes())), tls, max_body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment() {
        let env = |n: &str| (n == "NODE").then(|| "n1".to_owned());
        assert_eq!(expand("a-${NODE}-$$x", &env).unwrap(), "a-n1-$x");
        assert!(expand("${OTHER}", &env).unwrap_err().contains("OTHER"));
        assert!(expand("${NODE", &env).is_err());
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // no evidence
    fn the_file_is_held_to_its_members() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("k.pem");
        std::fs::write(
            &key,
            crate::signer::MemoryKey::generate(crate::signer::Algorithm::Ed25519).unwrap().to_pem().unwrap(),
        )
        .unwrap();
        let good = format!(
            "trail: prod\nwriter: node-1\nstate_dir: /var/lib/x\nstore: file:///tmp/t\nretention: 2555d\nsigning:\n  - key: file:{}\nintake:\n  http: {{listen: 127.0.0.1:9880}}\n",
            key.display()
        );
        let file = dir.path().join("c.yaml");
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Config::load(&file)
        };
        let c = load(&good).unwrap();
        assert_eq!((c.retention_days, c.max_events, c.heartbeat), (2555, 100_000, Duration::from_secs(900)));
        for (change, to, says) in [
            ("retention: 2555d", "retention: 2555", "no duration"),
            ("retention: 2555d\n", "", "retention"),
            ("writer: node-1", "writer: Node_1", "no name"),
            ("writer: node-1", "writers: node-1", "writers"),
            ("writer: node-1", "writer: a\nwriter: b", "writer"),
            ("file:///tmp/t", "s3://b/p", "s3://"),
            ("127.0.0.1:9880", "0.0.0.0:9880", "beyond loopback"),
            ("state_dir: /var", "state_dir: var", "absolute"),
        ] {
            let text = good.replace(change, to);
            assert_ne!(text, good);
            let e = load(&text).err().unwrap_or_else(|| panic!("{to} was taken")).to_string();
            assert!(e.contains(says) && e.contains("c.yaml"), "{to}: {e}");
        }
        let e = load(&good.replace("retention: 2555d", "retentoin: 2555d")).err().unwrap().to_string();
        assert!(e.contains("line 5") || e.contains(":5:"), "{e}");
    }
}
