//! OpenTelemetry logs: OTLP over gRPC and over HTTP, protobuf (docs/otlp.md). Source: opentelemetry-proto 1.x, the OTLP
//! specification 1.x.
//!
//! What OTLP calls a resource and a scope stands beside the events, in `source.group`. Of a log record the event is made
//! as docs/otlp.md says; each is decoded by itself.

use crate::config;
use crate::intake::body::{self, BodyError, Encoding};
use crate::intake::doubt::{Connection, Delivery};
use crate::intake::grpc::{Begun, Call, Code, Method, Server, Service, Status};
use crate::intake::net::Listener;
use crate::intake::{Intake, Shared, Task, begin, http};
use crate::metrics::{Intake as Metrics, Outcome};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use prost::Message as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use waxseal_trail::hash::{Digest, Hash, sha256};
use waxseal_trail::record::{Aside, Builder, Converter, Events, Fault};
use waxseal_trail::time::Time;

/// `ExportLogsServiceRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportLogsServiceRequest {
    /// By resource.
    #[prost(message, repeated, tag = "1")]
    pub resource_logs: Vec<ResourceLogs>,
}

/// `ResourceLogs`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceLogs {
    /// Who logs.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// By scope.
    #[prost(message, repeated, tag = "2")]
    pub scope_logs: Vec<ScopeLogs>,
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

/// `ScopeLogs`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeLogs {
    /// Which part of the program logs.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// `LogRecord`s, undecoded.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub log_records: Vec<Bytes>,
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

/// A resource and scope of more bytes are sealed once, as an event of their own, and their events name its digest.
const MAX_GROUP: usize = 16 << 10;

/// Turns requests into events, one at a time.
pub struct Decoder {
    groups: std::vec::IntoIter<(Arc<Origin>, ScopeLogs)>,
    records: std::vec::IntoIter<Bytes>,
    /// The `source` of the present scope's events.
    source: Vec<u8>,
    /// A resource and scope too large for it, which comes first.
    large: Option<(Vec<u8>, Arc<Origin>, ScopeLogs)>,
    converter: Converter,
    aside: Aside,
    /// `,"peer":…}`
    tail: Vec<u8>,
}

/// A resource and its schema.
struct Origin {
    resource: Resource,
    schema_url: Bytes,
}

impl Decoder {
    /// For a request that `peer` sent.
    pub fn new(request: ExportLogsServiceRequest, peer: &str) -> Decoder {
        let mut groups = Vec::new();
        for r in request.resource_logs {
            let resource = r.resource.unwrap_or_default();
            let resource = Arc::new(Origin { resource, schema_url: r.schema_url });
            groups.extend(r.scope_logs.into_iter().map(|s| (resource.clone(), s)));
        }
        Decoder {
            groups: groups.into_iter(),
            records: Vec::new().into_iter(),
            source: Vec::new(),
            large: None,
            converter: Converter::default(),
            aside: Aside::default(),
            tail: format!(",\"peer\":{}}}", serde_json::Value::from(peer)).into_bytes(),
        }
    }

    /// The `source` of an event without resource and scope.
    pub fn source(&self) -> Vec<u8> {
        [&b"{\"intake\":\"otlp\""[..], &self.tail].concat()
    }

    /// Adds the next event and says how many bytes it had; `None` at the end.
    pub fn next(&mut self, out: &mut Events) -> Option<usize> {
        loop {
            if let Some((text, resource, scope)) = self.large.take() {
                let plain = self.source();
                let build = |b: &mut Builder<'_>| {
                    b.map(|b| {
                        b.text(b"group")?;
                        group(&resource, &scope, b)
                    })
                };
                self.converter.built(&text, None, &plain, build, out);
                return Some(text.len());
            }
            if let Some(record) = self.records.next() {
                self.record(&record, out);
                return Some(record.len());
            }
            let (resource, mut scope) = self.groups.next()?;
            self.records = std::mem::take(&mut scope.log_records).into_iter();
            if self.records.len() > 0 {
                self.begin(resource, scope);
            }
        }
    }

    fn begin(&mut self, resource: Arc<Origin>, scope: ScopeLogs) {
        let mut text = Vec::new();
        let written = self.aside.json(&[], 3, |b| group(&resource, &scope, b), &mut text);
        let head = &b"{\"group\":"[..];
        let rest = &b",\"intake\":\"otlp\""[..];
        self.source = if written.is_ok() && text == b"{}" {
            self.source()
        } else if written.is_ok() && text.len() <= MAX_GROUP {
            [head, &text, rest, &self.tail].concat()
        } else {
            // Too deep for JSON: as it came.
            if written.is_err() {
                text = resource.resource.encode_to_vec();
                scope.encode(&mut text).unwrap_or_default();
            }
            let digest = format!("{{\"sha256\":\"{}\"}}", sha256(&text));
            self.large = Some((text, resource, scope));
            [head, digest.as_bytes(), rest, &self.tail].concat()
        };
    }

    fn record(&mut self, bytes: &Bytes, out: &mut Events) {
        let record = LogRecord::decode(bytes.clone());
        let time = record.as_ref().ok().and_then(LogRecord::time);
        let build = |b: &mut Builder<'_>| match &record {
            Ok(r) => r.build(b),
            Err(_) => Err(Fault::NotAnObject),
        };
        self.converter.built(bytes, time, &self.source, build, out);
    }
}

/// The resource and scope of events, as one map.
fn group(r: &Origin, s: &ScopeLogs, b: &mut Builder<'_>) -> Result<(), Fault> {
    let default = InstrumentationScope::default();
    let scope = s.scope.as_ref().unwrap_or(&default);
    b.map(|b| {
        if r.resource != Resource::default() || !r.schema_url.is_empty() {
            b.text(b"resource")?;
            b.map(|b| {
                attributes(&r.resource.attributes, &|_| false, b)?;
                dropped(r.resource.dropped_attributes_count, b)?;
                named(b"schema_url", &r.schema_url, b)
            })?;
        }
        if *scope != default || !s.schema_url.is_empty() {
            b.text(b"scope")?;
            b.map(|b| {
                attributes(&scope.attributes, &|_| false, b)?;
                dropped(scope.dropped_attributes_count, b)?;
                named(b"name", &scope.name, b)?;
                named(b"schema_url", &s.schema_url, b)?;
                named(b"version", &scope.version, b)
            })?;
        }
        Ok(())
    })
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
    fn begin(
        &self,
        peer: SocketAddr,
        connection: &Arc<Connection>,
        message: &Bytes,
    ) -> Result<Begun, Status> {
        let request = ExportLogsServiceRequest::decode(message.clone())
            .map_err(|e| Status::invalid(format_args!("no ExportLogsServiceRequest: {e}")))?;
        let scopes = request.resource_logs.iter().flat_map(|r| &r.scope_logs);
        self.metrics.events.inc_by(scopes.map(|s| s.log_records.len() as u64).sum());
        let submitter = &self.shared.submitter;
        // There is no id: the bytes have to do.
        let mut d = Digest::default();
        d.update(b"otlp\0");
        d.update(message);
        let key = d.finish();
        let (redelivery, delivery) = Delivery::begin(connection, submitter, key);
        let mut decoder = Decoder::new(request, &peer.ip().to_string());
        let source = decoder.source();
        let handed = begin(submitter, &source, Some(key), redelivery, |out| decoder.next(out))?;
        Ok(Begun { handed, delivery, events: None })
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

    fn take(&self, call: &Call, message: &Bytes) -> Result<Begun, Status> {
        self.begin(call.peer, &call.connection, message)
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
            http::serve(stream, peer, stop, move |request| {
                let (state, connection) = (state.clone(), connection.clone());
                async move { state.answer(request, peer, connection).await }
            })
        }))
    }
}

impl HttpState {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
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
        request: Request<Incoming>,
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
        let (packed, mut held) =
            body::collect(body, &parts.headers, self.max_message, room).await.map_err(no_body)?;
        let state = self.clone();
        let (begun, held) = tokio::task::spawn_blocking(move || {
            let logs = &state.logs;
            let message = body::unpack(packed, encoding, state.max_message, &logs.shared.room, &mut held)?;
            logs.metrics.bytes.inc_by(message.len() as u64);
            logs.begin(peer, &connection, &message).map(|begun| (begun, held))
        })
        .await
        .unwrap_or_else(|_| Err(Status::later("this request failed inside the sink")))
        .map_err(http_status)?;
        begun.finish().await.map_err(|r| http_status(r.into()))?;
        drop(held);
        Ok(())
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
