//! OpenTelemetry logs: OTLP over gRPC and over HTTP, protobuf (docs/otlp.md). Source: opentelemetry-proto 1.x, the OTLP
//! specification 1.x.
//!
//! What OTLP calls a resource and a scope stands beside the events, in `source.group`. Of a log record the event is made
//! as docs/otlp.md says; each is decoded by itself.

use crate::config;
use crate::intake::body::{self, BodyError, Encoding};
use crate::intake::doubt::{Connection, Incoming};
use crate::intake::fields::{self, Fields, Unusable};
use crate::intake::grpc::{self, Begun, Code, Method, Packet, Server, Service, Status};
use crate::intake::net::Listener;
use crate::intake::room::Held;
use crate::intake::{Intake, Shared, Task, begin, http};
use crate::metrics::{Intake as Metrics, Outcome};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use prost::Message as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use waxseal_trail::hash::{Digest, Hash, sha256};
use waxseal_trail::record::{Aside, Builder, Converter, Events, Fault, MAX_RECORD};
use waxseal_trail::time::Time;

/// `ResourceLogs`, but for its scopes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceLogs {
    /// Who logs.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Of the resource.
    #[prost(bytes = "bytes", tag = "3")]
    pub schema_url: Bytes,
}

/// `Resource`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// What it is.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
    /// Attributes that the sender left out.
    #[prost(uint32, tag = "2")]
    pub dropped_attributes_count: u32,
}

/// `ScopeLogs`, but for its log records.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeLogs {
    /// Which part of the program logs.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// Of the scope and its logs.
    #[prost(bytes = "bytes", tag = "3")]
    pub schema_url: Bytes,
}

/// `InstrumentationScope`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstrumentationScope {
    /// Its name.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Its version.
    #[prost(bytes = "bytes", tag = "2")]
    pub version: Bytes,
    /// What it is.
    #[prost(message, repeated, tag = "3")]
    pub attributes: Vec<KeyValue>,
    /// Attributes that the sender left out.
    #[prost(uint32, tag = "4")]
    pub dropped_attributes_count: u32,
}

/// `LogRecord`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LogRecord {
    /// When it happened, nanoseconds since 1970; 0 if that is not known.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// From 1 (TRACE) to 24.
    #[prost(int32, tag = "2")]
    pub severity_number: i32,
    /// As the source calls it.
    #[prost(bytes = "bytes", tag = "3")]
    pub severity_text: Bytes,
    /// What is logged.
    #[prost(message, optional, tag = "5")]
    pub body: Option<AnyValue>,
    /// What else is known of it.
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<KeyValue>,
    /// Attributes that the sender left out.
    #[prost(uint32, tag = "7")]
    pub dropped_attributes_count: u32,
    /// W3C trace flags in the lowest byte.
    #[prost(fixed32, tag = "8")]
    pub flags: u32,
    /// 16 bytes, or none.
    #[prost(bytes = "bytes", tag = "9")]
    pub trace_id: Bytes,
    /// 8 bytes, or none.
    #[prost(bytes = "bytes", tag = "10")]
    pub span_id: Bytes,
    /// When the collector saw it.
    #[prost(fixed64, tag = "11")]
    pub observed_time_unix_nano: u64,
    /// Which kind of event it is.
    #[prost(bytes = "bytes", tag = "12")]
    pub event_name: Bytes,
}

/// `KeyValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// The name.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value; absent for null.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// `AnyValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    /// What it is; absent for null.
    #[prost(oneof = "Any", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub value: Option<Any>,
}

/// What an [`AnyValue`] is.
#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(missing_docs)] // each is what it is called
pub enum Any {
    #[prost(bytes = "bytes", tag = "1")]
    String(Bytes),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    Array(ArrayValue),
    #[prost(message, tag = "6")]
    Map(KeyValueList),
    #[prost(bytes = "bytes", tag = "7")]
    Bytes(Bytes),
}

/// `ArrayValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ArrayValue {
    /// Its elements.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}

/// `KeyValueList`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValueList {
    /// Its members.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<KeyValue>,
}

/// `google.rpc.Status`, the body of an HTTP answer that is none.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// A text that names a member of the record is one: from an attribute, else from a body that is a map.
const LIFTED: [&[u8]; 12] = [
    b"action",
    b"actor",
    b"category",
    b"correlation_id",
    b"event_id",
    b"event_type",
    b"request_id",
    b"resource",
    b"result",
    b"schema",
    b"session_id",
    b"timestamp",
];

/// The repeated fields: `resource_logs` of a request, `scope_logs` of one of those, `log_records` of one of those.
const RESOURCE_LOGS: u32 = 1;
const SCOPE_LOGS: u32 = 2;
const LOG_RECORDS: u32 = 2;

/// A resource or scope of more bytes is sealed once, as an event of its own, and its events name its digest.
const MAX_GROUP: usize = 16 << 10;
/// A log record, resource or scope of more bytes is sealed as it is, undecoded: as a record it would be larger than a record may be.
const MAX_LOG: usize = 2 * MAX_RECORD;

/// Turns a request into events, one at a time.
pub struct Decoder {
    resources: Fields,
    scopes: Fields,
    records: Fields,
    /// The present resource and scope, as canonical JSON; empty if there is nothing to say.
    resource: Vec<u8>,
    scope: Vec<u8>,
    /// The `source` of the present scope's events.
    source: Vec<u8>,
    /// Resource and scope that were too large for it, which come first.
    large: Vec<Large>,
    converter: Converter,
    aside: Aside,
    /// `,"peer":…}`
    tail: Vec<u8>,
}

/// A resource or scope too large to stand in each of its events.
enum Large {
    Group(Box<dyn Group>),
    /// Nested too deep for JSON, or none: as it came.
    Raw(Bytes),
}

/// How many log records a request has, and whether one of them says when it was.
///
/// # Errors
/// [`Unusable`].
pub fn survey(message: &Bytes) -> Result<(usize, bool), Unusable> {
    let (mut seen, mut number, mut timed) = (0, 0, false);
    for resource in Fields::new(message.clone(), RESOURCE_LOGS) {
        fields::count(&mut seen)?;
        for scope in Fields::new(resource?, SCOPE_LOGS) {
            fields::count(&mut seen)?;
            for record in Fields::new(scope?, LOG_RECORDS) {
                let record = record?;
                fields::count(&mut seen)?;
                number += 1;
                timed = timed || Timed::decode(record).is_ok_and(|t| t.at > 0 || t.observed > 0);
            }
        }
    }
    Ok((number, timed))
}

/// Just enough of a [`LogRecord`] to see whether it has a time.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Timed {
    #[prost(fixed64, tag = "1")]
    at: u64,
    #[prost(fixed64, tag = "11")]
    observed: u64,
}

impl Decoder {
    /// For a request that `peer` sent.
    pub fn new(request: Bytes, peer: &str) -> Decoder {
        let none = || Fields::new(Bytes::new(), 0);
        Decoder {
            resources: Fields::new(request, RESOURCE_LOGS),
            scopes: none(),
            records: none(),
            resource: Vec::new(),
            scope: Vec::new(),
            source: Vec::new(),
            large: Vec::new(),
            converter: Converter::default(),
            aside: Aside::default(),
            tail: format!(",\"peer\":{}}}", serde_json::Value::from(peer)).into_bytes(),
        }
    }

    /// The `source` of an event without resource and scope.
    pub fn source(&self) -> Vec<u8> {
        [&b"{\"intake\":\"otlp\""[..], &self.tail].concat()
    }

    /// Adds the next event and says how many bytes it had; `None` at the end. A request that is none has no more events.
    pub fn next(&mut self, out: &mut Events) -> Option<usize> {
        loop {
            if let Some(large) = self.large.pop() {
                return Some(self.large(large, out));
            }
            if let Some(record) = self.records.next() {
                let record = record.ok()?;
                self.record(&record, out);
                return Some(record.len());
            }
            if let Some(scope) = self.scopes.next() {
                self.begin_scope(scope.ok()?);
                continue;
            }
            let resource = self.resources.next()?.ok()?;
            self.begin_resource(resource);
        }
    }

    fn begin_resource(&mut self, bytes: Bytes) {
        self.scopes = Fields::new(bytes.clone(), SCOPE_LOGS);
        self.resource.clear();
        // Without a log record in it there is nothing that it would belong to.
        let has_records = self.scopes.clone().flatten().any(|s| Fields::new(s, LOG_RECORDS).next().is_some());
        if !has_records {
            self.scopes = Fields::new(Bytes::new(), 0);
            return;
        }
        let large = stand_in::<ResourceLogs>(bytes, &mut self.aside, &mut self.resource);
        self.large.extend(large);
    }

    fn begin_scope(&mut self, bytes: Bytes) {
        self.records = Fields::new(bytes.clone(), LOG_RECORDS);
        self.scope.clear();
        if self.records.clone().next().is_none() {
            return;
        }
        let large = stand_in::<ScopeLogs>(bytes, &mut self.aside, &mut self.scope);
        self.large.extend(large);
        self.source.clear();
        if !self.resource.is_empty() || !self.scope.is_empty() {
            let named = [("resource", &self.resource), ("scope", &self.scope)];
            let mut separator = &b"{\"group\":{"[..];
            for (name, text) in named.into_iter().filter(|(_, text)| !text.is_empty()) {
                self.source.extend_from_slice(separator);
                self.source.extend_from_slice(format!("\"{name}\":").as_bytes());
                self.source.extend_from_slice(text);
                separator = b",";
            }
            self.source.extend_from_slice(b"},\"intake\":\"otlp\"");
            self.source.extend_from_slice(&self.tail);
        } else {
            self.source = self.source();
        }
    }

    /// Adds a resource or scope as an event of its own; says how many bytes it had.
    fn large(&mut self, large: Large, out: &mut Events) -> usize {
        let plain = self.source();
        let _one = fields::one_at_a_time();
        let bytes = match &large {
            Large::Group(group) => group.bytes().into(),
            Large::Raw(bytes) => bytes.clone(),
        };
        let build = |b: &mut Builder<'_>| match &large {
            Large::Raw(_) => Err(Fault::NotAnObject),
            Large::Group(group) => b.map(|b| {
                b.text(b"group")?;
                b.map(|b| {
                    b.text(group.name())?;
                    group.build(b)
                })
            }),
        };
        self.converter.built(&bytes, None, &plain, build, out);
        bytes.len()
    }

    fn record(&mut self, bytes: &Bytes, out: &mut Events) {
        // Decoded, it takes many times its bytes: of large ones there is one at a time.
        let _one = (bytes.len() > fields::SMALL).then(fields::one_at_a_time);
        let fits = bytes.len() <= MAX_LOG;
        let record = fits.then(|| LogRecord::decode(bytes.clone()).ok()).flatten();
        let time = record.as_ref().and_then(LogRecord::time);
        let build = |b: &mut Builder<'_>| match &record {
            Some(r) => r.build(b),
            None => Err(Fault::NotAnObject),
        };
        self.converter.built(bytes, time, &self.source, build, out);
    }
}

/// The resource or scope itself, of `ResourceLogs` or `ScopeLogs`: field 1 of both.
fn own(message: &Bytes) -> Bytes {
    let mut parts = Fields::new(message.clone(), 1).flatten();
    let first = parts.next().unwrap_or_default();
    match parts.next() {
        None => first,
        // Protobuf merges what stands there twice.
        Some(second) => [first, second].into_iter().chain(parts).flatten().collect::<Vec<u8>>().into(),
    }
}

/// A resource or a scope.
trait Group {
    fn name(&self) -> &'static [u8];
    fn build(&self, b: &mut Builder<'_>) -> Result<(), Fault>;
    fn bytes(&self) -> Vec<u8>;
}

/// Writes what stands for a group in its events: nothing, its canonical JSON, or a digest. Returns what then has to be
/// sealed before them.
fn stand_in<G>(message: Bytes, aside: &mut Aside, out: &mut Vec<u8>) -> Option<Large>
where
    G: Group + prost::Message + Default + 'static,
{
    let own = own(&message);
    let _one = (own.len() > fields::SMALL).then(fields::one_at_a_time);
    let group = (own.len() <= MAX_LOG).then(|| G::decode(message).ok()).flatten();
    let group = group.filter(|g| aside.json(&[], 4, |b| g.build(b), out).is_ok());
    let Some(group) = group else {
        *out = named_by_digest(&own);
        return Some(Large::Raw(own));
    };
    if *out == b"{}" {
        out.clear();
    }
    if out.len() <= MAX_GROUP {
        return None;
    }
    *out = named_by_digest(out);
    Some(Large::Group(Box::new(group)))
}

/// What stands for a text that is sealed as an event of its own.
fn named_by_digest(text: &[u8]) -> Vec<u8> {
    format!("{{\"sha256\":\"{}\"}}", sha256(text)).into_bytes()
}

impl Group for ResourceLogs {
    fn name(&self) -> &'static [u8] {
        b"resource"
    }

    fn bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn build(&self, b: &mut Builder<'_>) -> Result<(), Fault> {
        let default = Resource::default();
        let resource = self.resource.as_ref().unwrap_or(&default);
        b.map(|b| {
            attributes(&resource.attributes, &|_| false, b)?;
            dropped(resource.dropped_attributes_count, b)?;
            named(b"schema_url", &self.schema_url, b)
        })
    }
}

impl Group for ScopeLogs {
    fn name(&self) -> &'static [u8] {
        b"scope"
    }

    fn bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn build(&self, b: &mut Builder<'_>) -> Result<(), Fault> {
        let default = InstrumentationScope::default();
        let scope = self.scope.as_ref().unwrap_or(&default);
        b.map(|b| {
            attributes(&scope.attributes, &|_| false, b)?;
            dropped(scope.dropped_attributes_count, b)?;
            named(b"name", &scope.name, b)?;
            named(b"schema_url", &self.schema_url, b)?;
            named(b"version", &scope.version, b)
        })
    }
}

impl LogRecord {
    /// When it happened, else when it was seen.
    fn time(&self) -> Option<Time> {
        let at = if self.time_unix_nano > 0 { self.time_unix_nano } else { self.observed_time_unix_nano };
        (at > 0).then(|| instant(at)).and_then(|(s, n)| Time::from_unix(s, n))
    }

    fn build(&self, b: &mut Builder<'_>) -> Result<(), Fault> {
        let in_body = match &self.body {
            Some(AnyValue { value: Some(Any::Map(m)) }) => &m.values[..],
            _ => &[],
        };
        // For each name the one that becomes a member of the record; the others stay where they are.
        let lifted = LIFTED.map(|name| {
            let text = |kv: &&KeyValue| kv.key == name && matches!(kv.text(), Some(t) if !t.is_empty());
            self.attributes.iter().find(text).or_else(|| in_body.iter().find(text))
        });
        let is_lifted = |kv: &KeyValue| lifted.iter().any(|l| l.is_some_and(|l| std::ptr::eq(l, kv)));
        b.map(|b| {
            attributes(&self.attributes, &is_lifted, b)?;
            if let Some(body) = &self.body {
                b.text(b"body")?;
                match body.value {
                    Some(Any::Map(_)) => members(in_body, &is_lifted, b)?,
                    _ => any(body, b)?,
                }
            }
            for (name, kv) in LIFTED.iter().zip(lifted) {
                if let Some(text) = kv.and_then(KeyValue::text) {
                    b.text(name)?;
                    b.text(text)?;
                }
            }
            if lifted[3].is_none() && !self.trace_id.is_empty() {
                b.text(b"correlation_id")?;
                hex(&self.trace_id, b)?;
            }
            dropped(self.dropped_attributes_count, b)?;
            named(b"event_name", &self.event_name, b)?;
            if self.flags > 0 {
                b.text(b"flags")?;
                b.int(self.flags.into())?;
            }
            if self.observed_time_unix_nano > 0 {
                b.text(b"observed_time_unix_nano")?;
                // A `$number` with all its digits; beyond 2262 a text.
                match i64::try_from(self.observed_time_unix_nano) {
                    Ok(n) => b.int(n)?,
                    Err(_) => b.text(self.observed_time_unix_nano.to_string().as_bytes())?,
                }
            }
            if self.severity_number != 0 {
                b.text(b"severity_number")?;
                b.int(self.severity_number.into())?;
            }
            named(b"severity_text", &self.severity_text, b)?;
            for (name, id) in [(&b"span_id"[..], &self.span_id), (b"trace_id", &self.trace_id)] {
                if !id.is_empty() {
                    b.text(name)?;
                    hex(id, b)?;
                }
            }
            Ok(())
        })
    }
}

impl KeyValue {
    fn text(&self) -> Option<&[u8]> {
        match &self.value.as_ref()?.value {
            Some(Any::String(text)) if std::str::from_utf8(text).is_ok() => Some(text),
            _ => None,
        }
    }
}

fn instant(nanos: u64) -> (i64, u32) {
    ((nanos / 1_000_000_000) as i64, (nanos % 1_000_000_000) as u32)
}

fn hex(id: &[u8], b: &mut Builder<'_>) -> Result<(), Fault> {
    b.text(data_encoding::HEXLOWER.encode(id).as_bytes())
}

fn named(name: &[u8], text: &[u8], b: &mut Builder<'_>) -> Result<(), Fault> {
    if text.is_empty() {
        return Ok(());
    }
    b.text(name)?;
    b.text(text)
}

fn dropped(count: u32, b: &mut Builder<'_>) -> Result<(), Fault> {
    if count == 0 {
        return Ok(());
    }
    b.text(b"dropped_attributes_count")?;
    b.int(count.into())
}

fn attributes(list: &[KeyValue], but: &dyn Fn(&KeyValue) -> bool, b: &mut Builder<'_>) -> Result<(), Fault> {
    if list.iter().all(but) {
        return Ok(());
    }
    b.text(b"attributes")?;
    members(list, but, b)
}

fn members(list: &[KeyValue], but: &dyn Fn(&KeyValue) -> bool, b: &mut Builder<'_>) -> Result<(), Fault> {
    b.map(|b| {
        for kv in list.iter().filter(|kv| !but(kv)) {
            b.text(&kv.key)?;
            match &kv.value {
                Some(v) => any(v, b)?,
                None => b.null()?,
            }
        }
        Ok(())
    })
}

fn any(v: &AnyValue, b: &mut Builder<'_>) -> Result<(), Fault> {
    match &v.value {
        None => b.null(),
        Some(Any::String(text)) => b.text(text),
        Some(Any::Bool(x)) => b.bool(*x),
        Some(Any::Int(n)) => b.int(*n),
        Some(Any::Double(x)) => b.double(*x),
        Some(Any::Array(a)) => b.array(|b| a.values.iter().try_for_each(|v| any(v, b))),
        Some(Any::Map(m)) => members(&m.values, &|_| false, b),
        Some(Any::Bytes(data)) => b.bytes(data),
    }
}

/// The service `LogsService`, behind both transports.
pub struct Logs {
    shared: Shared,
    metrics: Arc<Metrics>,
}

impl Logs {
    /// Decodes a request and hands its events over.
    fn begin(&self, peer: SocketAddr, incoming: &Incoming, message: Bytes) -> Result<Begun, Status> {
        let (number, timed) = survey(&message)?;
        self.metrics.events.inc_by(number as u64);
        // There is no id: the bytes have to do. Without any time, equal requests may as well be others.
        let mut d = Digest::default();
        d.update(b"otlp\0");
        d.update(&message);
        let key = d.finish();
        incoming.let_go(&key);
        let redelivery = incoming.begin(key);
        let mut decoder = Decoder::new(message, &peer.ip().to_string());
        let (source, key) = (decoder.source(), timed.then_some(key));
        let handed = begin(&self.shared.submitter, &source, key, redelivery, |out| decoder.next(out))?;
        Ok(Begun { handed, events: None })
    }
}

impl Service for Logs {
    fn method(&self, path: &str) -> Result<Method, Status> {
        match path {
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Ok(Method::Events),
            other => Err(Status {
                code: Code::Unimplemented,
                message: format!("{other}: not taken here, only logs are: an audit trail holds events"),
            }),
        }
    }

    fn take(
        &self,
        peer: SocketAddr,
        incoming: &Incoming,
        message: Bytes,
        _: &mut Held,
    ) -> Result<Begun, Status> {
        self.begin(peer, incoming, message)
    }
}

/// OTLP over gRPC.
pub struct Grpc {
    listener: Listener,
    server: Arc<Server<Logs>>,
}

impl Grpc {
    /// Binds.
    ///
    /// # Errors
    /// A text that names the address or the TLS file.
    pub async fn bind(config: &config::Otlp, shared: Shared) -> Result<Grpc, String> {
        let metrics = shared.submitter.metrics().intake("otlp");
        let (at, most) = (config.listen, shared.max_connections);
        let tls = config.tls.as_ref();
        let listener = Listener::bind("otlp.grpc", at, tls, &[b"h2"], most, metrics.clone()).await?;
        let service = Logs { shared: shared.clone(), metrics: metrics.clone() };
        let (token, max_message) = (config.token, config.max_message);
        let server = Arc::new(Server { service, shared, metrics, token, max_message });
        Ok(Grpc { listener, server })
    }
}

impl Intake for Grpc {
    fn place(&self) -> String {
        format!("OTLP/gRPC on {}", self.listener.place("http"))
    }

    fn run(self: Box<Self>, stop: watch::Receiver<bool>) -> Task {
        let Grpc { listener, server } = *self;
        Box::pin(listener.run(stop, move |stream, peer, stop| server.clone().serve(stream, peer, stop)))
    }
}

/// OTLP over HTTP.
pub struct Http {
    listener: Listener,
    state: Arc<HttpState>,
}

struct HttpState {
    logs: Logs,
    token: Option<Hash>,
    max_message: usize,
}

type Answer = Response<Full<Bytes>>;

impl Http {
    /// Binds.
    ///
    /// # Errors
    /// A text that names the address or the TLS file.
    pub async fn bind(config: &config::Otlp, shared: Shared) -> Result<Http, String> {
        let metrics = shared.submitter.metrics().intake("otlp");
        let (at, most) = (config.listen, shared.max_connections);
        let tls = config.tls.as_ref();
        let listener = Listener::bind("otlp.http", at, tls, &[b"http/1.1"], most, metrics.clone()).await?;
        let (token, max_message) = (config.token, config.max_message);
        let state = Arc::new(HttpState { logs: Logs { shared, metrics }, token, max_message });
        Ok(Http { listener, state })
    }
}

impl Intake for Http {
    fn place(&self) -> String {
        format!("OTLP/HTTP on {}/v1/logs", self.listener.place("http"))
    }

    fn run(self: Box<Self>, stop: watch::Receiver<bool>) -> Task {
        let Http { listener, state } = *self;
        Box::pin(listener.run(stop, move |stream, peer, stop| {
            let state = state.clone();
            let connection = Connection::new(state.logs.shared.doubts.clone());
            let client = connection.clone();
            let served = http::serve(stream, peer, stop, move |request| {
                let (state, connection) = (state.clone(), connection.clone());
                async move { state.answer(request, peer, connection).await }
            });
            async move {
                served.await;
                client.ended();
            }
        }))
    }
}

impl HttpState {
    async fn answer(
        self: Arc<Self>,
        request: Request<Body>,
        peer: SocketAddr,
        connection: Arc<Connection>,
    ) -> Answer {
        let began = Instant::now();
        let metrics = self.logs.metrics.clone();
        match self.take(request, peer, connection).await {
            Ok(()) => {
                metrics.answered(began);
                // An empty ExportLogsServiceResponse: all of it was taken.
                respond(StatusCode::OK, Bytes::new())
            }
            Err((status, why)) => {
                metrics.count(match status {
                    StatusCode::SERVICE_UNAVAILABLE => Outcome::Refused,
                    StatusCode::UNAUTHORIZED => Outcome::Unauthenticated,
                    _ => Outcome::Malformed,
                });
                let body = RpcStatus { code: why.code as i32, message: why.message };
                let mut r = respond(status, body.encode_to_vec().into());
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
                }
                r
            }
        }
    }

    async fn take(
        self: Arc<Self>,
        request: Request<Body>,
        peer: SocketAddr,
        connection: Arc<Connection>,
    ) -> Result<(), (StatusCode, Status)> {
        if request.uri().path() != "/v1/logs" {
            let why = Status { code: Code::Unimplemented, message: "logs are posted to /v1/logs".to_owned() };
            return Err((StatusCode::NOT_FOUND, why));
        }
        if request.method() != hyper::Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, Status::invalid("logs are posted")));
        }
        if !body::is_authorised(request.headers(), self.token.as_ref()) {
            let message = "the bearer token is missing or another".to_owned();
            return Err((StatusCode::UNAUTHORIZED, Status { code: Code::Unauthenticated, message }));
        }
        let bytes_of = |name| request.headers().get(name).map_or(&b""[..], HeaderValue::as_bytes).to_vec();
        if !bytes_of(header::CONTENT_TYPE).to_ascii_lowercase().starts_with(b"application/x-protobuf") {
            let why = Status::invalid("only application/x-protobuf is understood");
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        let encoding = Encoding::named(&bytes_of(header::CONTENT_ENCODING)).ok_or_else(|| {
            let why = Status::invalid("Content-Encoding: gzip, zstd and none are understood");
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, why)
        })?;
        let no_body = |e: BodyError| http_status(Status::from(e));
        let (parts, body) = request.into_parts();
        let room = &self.logs.shared.room;
        let max = self.max_message;
        let (bytes, held) = body::collect(body, &parts.headers, max, room).await.map_err(no_body)?;
        let packet = Packet { bytes, encoding, max, held };
        let state = self.clone();
        grpc::deliver(&self.logs.shared, &connection, packet, move |incoming, message, _| {
            state.logs.metrics.bytes.inc_by(message.len() as u64);
            state.logs.begin(peer, incoming, message)
        })
        .await
        .map_err(http_status)
    }
}

/// The HTTP status that says the same.
fn http_status(status: Status) -> (StatusCode, Status) {
    let code = match status.code {
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    (code, status)
}

fn respond(status: StatusCode, body: Bytes) -> Answer {
    let mut r = Response::new(Full::new(body));
    *r.status_mut() = status;
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    r
}
