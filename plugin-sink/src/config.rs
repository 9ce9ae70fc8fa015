//! The configuration: one strictly parsed YAML file, for plugin and server alike.
//!
//! [`Raw`] is what may stand in the file, and its documentation is the manual; [`Config`] is what came of
//! it, with everything impossible refused.

use crate::keys::SigningKeys;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
pub use waxseal_config::{ConfigError, Size, Span, Text};
use waxseal_store::Location;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::name::is_name;

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
    /// What events go through before they are spooled, in order.
    #[serde(default)]
    pub filters: Vec<crate::filter::RawFilter>,
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
        waxseal_config::from_yaml(text)
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
    /// Vector's own protocol.
    pub vector: Option<RawVector>,
    /// Fluent Forward.
    pub forward: Option<RawForward>,
    /// OpenTelemetry logs.
    pub otlp: Option<RawOtlp>,
    /// Connections that each listener has at once; more wait to be accepted. Default 4096.
    pub max_connections: Option<usize>,
    /// What requests may hold in memory together, until they are answered. Default 64MiB, or the largest request that
    /// is allowed if that is more.
    pub max_memory: Option<Size>,
}

/// Vector's own protocol (version 2, gRPC).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawVector {
    /// Address and port.
    pub listen: Text,
    /// TLS.
    pub tls: Option<RawTls>,
    /// Listen beyond loopback without client certificates. Default false.
    #[serde(default)]
    pub allow_unauthenticated: bool,
    /// Largest request, before and after decompression. Default 100MiB, which is Vector's own.
    #[serde(default = "vector_message")]
    pub max_message: Size,
}

/// Fluent Forward.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawForward {
    /// Address and port.
    pub listen: Text,
    /// TLS.
    pub tls: Option<RawTls>,
    /// What clients and this server both know.
    pub shared_key: Option<Text>,
    /// The same, in a file.
    pub shared_key_file: Option<Text>,
    /// Users that may send; they need a shared key beside.
    #[serde(default)]
    pub users: Vec<RawUser>,
    /// The name by which this server proves to clients that it has the shared key. Default `waxseal`.
    pub hostname: Option<Text>,
    /// Listen beyond loopback with neither shared key nor client certificates. Default false.
    #[serde(default)]
    pub allow_unauthenticated: bool,
    /// Largest message, before and after decompression. Default 64MiB.
    #[serde(default = "forward_message")]
    pub max_message: Size,
    /// Answer Fluentd's heartbeats on the same UDP port. Default true.
    #[serde(default = "yes")]
    pub heartbeat: bool,
}

/// A user of Forward.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawUser {
    /// Name.
    pub name: Text,
    /// Password.
    pub password: Option<Text>,
    /// The same, in a file.
    pub password_file: Option<Text>,
}

/// OpenTelemetry logs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOtlp {
    /// OTLP over gRPC; its port is 4317 by custom.
    pub grpc: Option<RawOtlpListener>,
    /// OTLP over HTTP with protobuf, at `/v1/logs`; its port is 4318 by custom.
    pub http: Option<RawOtlpListener>,
}

/// One of the two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOtlpListener {
    /// Address and port.
    pub listen: Text,
    /// TLS.
    pub tls: Option<RawTls>,
    /// Bearer token that clients must send.
    pub token: Option<Text>,
    /// The same, in a file.
    pub token_file: Option<Text>,
    /// Listen beyond loopback with neither token nor client certificates. Default false.
    #[serde(default)]
    pub allow_unauthenticated: bool,
    /// Largest request, before and after decompression. Default 16MiB.
    #[serde(default = "max_body")]
    pub max_message: Size,
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

fn vector_message() -> Size {
    Size(100 << 20)
}

fn forward_message() -> Size {
    Size(64 << 20)
}

fn yes() -> bool {
    true
}

/// A listener's TLS, as its files were when they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// Where it stands in the configuration.
    what: String,
    /// The files of certificate, key, and CAs.
    files: (String, String, Option<String>),
    /// PEM.
    pub certificate: Vec<u8>,
    /// PEM.
    pub key: Vec<u8>,
    /// PEM.
    pub client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.tls", self.what)
    }
}

impl Tls {
    fn read(what: &str, files: (String, String, Option<String>)) -> Result<Tls, String> {
        let (certificate, key, client_ca) = &files;
        Ok(Tls {
            certificate: read(&format!("{what}.tls.certificate"), certificate)?,
            key: read(&format!("{what}.tls.key"), key)?,
            client_ca: client_ca.as_ref().map(|c| read(&format!("{what}.tls.client_ca"), c)).transpose()?,
            what: what.to_owned(),
            files,
        })
    }

    /// What the files hold now.
    ///
    /// # Errors
    /// A text that names the file.
    pub fn again(&self) -> Result<Tls, String> {
        Tls::read(&self.what, self.files.clone())
    }
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

/// Vector intake.
#[derive(Clone, Debug)]
pub struct Vector {
    /// Where.
    pub listen: SocketAddr,
    /// TLS.
    pub tls: Option<Tls>,
    /// Bytes.
    pub max_message: usize,
}

/// Forward intake.
#[derive(Clone)]
pub struct Forward {
    /// Where.
    pub listen: SocketAddr,
    /// TLS.
    pub tls: Option<Tls>,
    /// What both sides know.
    pub shared_key: Option<String>,
    /// Names and passwords.
    pub users: Vec<(String, String)>,
    /// The server's name in the handshake.
    pub hostname: String,
    /// Bytes.
    pub max_message: usize,
    /// UDP as well.
    pub heartbeat: bool,
}

/// An OTLP intake.
#[derive(Clone, Debug)]
pub struct Otlp {
    /// Where.
    pub listen: SocketAddr,
    /// TLS.
    pub tls: Option<Tls>,
    /// SHA-256 of the bearer token.
    pub token: Option<Hash>,
    /// Bytes.
    pub max_message: usize,
}

/// What listens.
#[derive(Clone, Default)]
pub struct Intakes {
    /// HTTP.
    pub http: Option<Http>,
    /// Vector's own protocol.
    pub vector: Option<Vector>,
    /// Fluent Forward.
    pub forward: Option<Forward>,
    /// OTLP over gRPC.
    pub otlp_grpc: Option<Otlp>,
    /// OTLP over HTTP.
    pub otlp_http: Option<Otlp>,
    /// Connections of each.
    pub max_connections: usize,
    /// Bytes that unanswered requests hold together.
    pub max_memory: usize,
}

impl Intakes {
    /// How many listen.
    pub fn listeners(&self) -> usize {
        let Intakes { http, vector, forward, otlp_grpc, otlp_http, .. } = self;
        [http.is_some(), vector.is_some(), forward.is_some(), otlp_grpc.is_some(), otlp_http.is_some()]
            .into_iter()
            .filter(|there| *there)
            .count()
    }

    /// Whether nothing listens.
    pub fn is_empty(&self) -> bool {
        self.listeners() == 0
    }
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
    /// What events go through.
    pub filters: Vec<waxseal_filter_host::Settings>,
    /// The server's protocols.
    pub intake: Intakes,
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
        let filters = raw.filters.into_iter().enumerate();
        let filters = filters
            .map(|(i, f)| f.check().map_err(|e| format!("filters[{i}].{e}")))
            .collect::<Result<_, _>>()?;
        let intake = check_intake(raw.intake)?;
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
            filters,
            intake,
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

fn check_intake(raw: RawIntake) -> Result<Intakes, String> {
    let http = raw.http.map(check_http).transpose()?;
    let vector = raw.vector.map(check_vector).transpose()?;
    let forward = raw.forward.map(check_forward).transpose()?;
    let otlp = raw.otlp.unwrap_or_default();
    let otlp_grpc = otlp.grpc.map(|o| check_otlp("intake.otlp.grpc", o)).transpose()?;
    let otlp_http = otlp.http.map(|o| check_otlp("intake.otlp.http", o)).transpose()?;
    let max_connections = raw.max_connections.unwrap_or(4096);
    if !(1..=65_536).contains(&max_connections) {
        return Err("intake.max_connections: from 1 to 65536".to_owned());
    }
    let largest = [
        http.as_ref().map(|h| h.max_body),
        vector.as_ref().map(|v| v.max_message),
        forward.as_ref().map(|f| f.max_message),
        otlp_grpc.as_ref().map(|o| o.max_message),
        otlp_http.as_ref().map(|o| o.max_message),
    ];
    let largest = largest.into_iter().flatten().max().unwrap_or(0);
    let max_memory = match raw.max_memory {
        None => largest.max(64 << 20),
        Some(size) => usize::try_from(size.0).unwrap_or(usize::MAX),
    };
    if max_memory < largest || max_memory > 64 << 30 {
        return Err(format!(
            "intake.max_memory: at least {largest} bytes, which one request may have, and at most 64GiB"
        ));
    }
    Ok(Intakes { http, vector, forward, otlp_grpc, otlp_http, max_connections, max_memory })
}

/// The address of a listener; beyond loopback it wants to know who sends.
fn check_listen(
    what: &str,
    listen: &Text,
    authenticated: bool,
    allowed: bool,
    how: &str,
) -> Result<SocketAddr, String> {
    let listen: SocketAddr =
        listen.0.parse().map_err(|_| format!("{what}.listen: {:?} is no address:port", listen.0))?;
    if !listen.ip().is_loopback() && !authenticated && !allowed {
        return Err(format!(
            "{what}.listen: {listen} is beyond loopback, and anybody could write to the trail. Set {how}, or \
             allow_unauthenticated: true if the network keeps others out"
        ));
    }
    Ok(listen)
}

fn check_tls(what: &str, raw: Option<RawTls>) -> Result<Option<Tls>, String> {
    raw.map(|t| Tls::read(what, (t.certificate.0, t.key.0, t.client_ca.map(|c| c.0)))).transpose()
}

fn knows_clients(tls: Option<&Tls>) -> bool {
    tls.is_some_and(|t| t.client_ca.is_some())
}

/// A secret that stands in the configuration or in a file.
fn secret(
    what: &str,
    member: &str,
    given: Option<Text>,
    file: Option<Text>,
) -> Result<Option<String>, String> {
    let value = match (given, file) {
        (Some(_), Some(_)) => return Err(format!("{what}: only one of {member} and {member}_file")),
        (Some(t), None) => t.0,
        (None, Some(f)) => {
            let bytes = read(&format!("{what}.{member}_file"), &f.0)?;
            String::from_utf8_lossy(bytes.trim_ascii()).into_owned()
        }
        (None, None) => return Ok(None),
    };
    if value.len() < 16 {
        return Err(format!("{what}.{member}: at least 16 characters"));
    }
    Ok(Some(value))
}

fn check_size(what: &str, size: Size) -> Result<usize, String> {
    let size = usize::try_from(size.0).unwrap_or(usize::MAX);
    if (1 << 16..=1 << 28).contains(&size) { Ok(size) } else { Err(format!("{what}: from 64KiB to 256MiB")) }
}

fn check_http(raw: RawHttp) -> Result<Http, String> {
    let what = "intake.http";
    let token = secret(what, "token", raw.token, raw.token_file)?;
    let tls = check_tls(what, raw.tls)?;
    let known = token.is_some() || knows_clients(tls.as_ref());
    let how = "token or tls.client_ca";
    let listen = check_listen(what, &raw.listen, known, raw.allow_unauthenticated, how)?;
    let max_body = check_size("intake.http.max_body", raw.max_body)?;
    Ok(Http { listen, token: token.map(|t| sha256(t.as_bytes())), tls, max_body })
}

fn check_vector(raw: RawVector) -> Result<Vector, String> {
    let what = "intake.vector";
    let tls = check_tls(what, raw.tls)?;
    // Vector's sink sends no headers of its own.
    let (known, how) = (knows_clients(tls.as_ref()), "tls.client_ca");
    let listen = check_listen(what, &raw.listen, known, raw.allow_unauthenticated, how)?;
    Ok(Vector { listen, tls, max_message: check_size("intake.vector.max_message", raw.max_message)? })
}

fn check_forward(raw: RawForward) -> Result<Forward, String> {
    let what = "intake.forward";
    let tls = check_tls(what, raw.tls)?;
    let shared_key = secret(what, "shared_key", raw.shared_key, raw.shared_key_file)?;
    let mut users = Vec::new();
    for (i, u) in raw.users.into_iter().enumerate() {
        let what = format!("intake.forward.users[{i}]");
        let password = match (u.password, u.password_file) {
            (Some(p), None) => p.0,
            (None, Some(f)) => {
                let bytes = read(&format!("{what}.password_file"), &f.0)?;
                String::from_utf8_lossy(bytes.trim_ascii()).into_owned()
            }
            _ => return Err(format!("{what}: one of password and password_file")),
        };
        users.push((u.name.0, password));
    }
    if !users.is_empty() && shared_key.is_none() {
        return Err("intake.forward.users: the protocol knows users only beside a shared_key".to_owned());
    }
    let known = shared_key.is_some() || knows_clients(tls.as_ref());
    let how = "shared_key or tls.client_ca";
    let listen = check_listen(what, &raw.listen, known, raw.allow_unauthenticated, how)?;
    let max_message = check_size("intake.forward.max_message", raw.max_message)?;
    // Not this machine's name: Fluentd refuses a server that has its own.
    let hostname = raw.hostname.map_or_else(|| "waxseal".to_owned(), |h| h.0);
    Ok(Forward { listen, tls, shared_key, users, hostname, max_message, heartbeat: raw.heartbeat })
}

fn check_otlp(what: &str, raw: RawOtlpListener) -> Result<Otlp, String> {
    let token = secret(what, "token", raw.token, raw.token_file)?;
    let tls = check_tls(what, raw.tls)?;
    let known = token.is_some() || knows_clients(tls.as_ref());
    let how = "token or tls.client_ca";
    let listen = check_listen(what, &raw.listen, known, raw.allow_unauthenticated, how)?;
    let max_message = check_size(&format!("{what}.max_message"), raw.max_message)?;
    Ok(Otlp { listen, token: token.map(|t| sha256(t.as_bytes())), tls, max_message })
}

#[cfg(test)]
mod tests {
    use super::*;

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
