//! Vector's own protocol, version 2: `vector.Vector/PushEvents` over gRPC (docs/vector.md).
//!
//! The messages are those that Vector has sent since 0.44; what is declared here is what a log has, and everything else
//! of them is skipped by the decoder. Each event of a request is decoded by itself, so that the memory of a request is
//! that of its bytes and one event.

use crate::config;
use crate::intake::doubt::Incoming;
use crate::intake::fields::{self, Fields};
use crate::intake::grpc::{Begun, Code, Method, Server, Service, Status};
use crate::intake::net::Listener;
use crate::intake::room::Held;
use crate::intake::{Intake, Shared, Task, begin};
use crate::metrics::Intake as Metrics;
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use waxseal_trail::hash::{Digest, Hash, sha256};
use waxseal_trail::json;
use waxseal_trail::record::{Aside, Builder, Converter, Events, Fault, MAX_RECORD};
use waxseal_trail::time::Time;

/// `event.EventWrapper`; metrics (2) and traces (3) are not decoded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EventWrapper {
    /// A log.
    #[prost(message, optional, tag = "1")]
    pub log: Option<Log>,
}

/// `event.Log`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Log {
    /// The event, where `value` is absent.
    #[prost(btree_map = "string, message", tag = "1")]
    pub fields: BTreeMap<String, Value>,
    /// The event.
    #[prost(message, optional, tag = "2")]
    pub value: Option<Value>,
    /// What `metadata_full` has too; older senders have this alone.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub metadata: Option<Bytes>,
    /// What Vector says of the event.
    #[prost(message, optional, tag = "4")]
    pub metadata_full: Option<Metadata>,
}

/// `event.Metadata`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    /// What sources and transforms noted.
    #[prost(message, optional, tag = "1")]
    pub value: Option<Value>,
    /// The source's name in Vector's configuration.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub source_id: Option<Bytes>,
    /// Its type.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub source_type: Option<Bytes>,
    /// The component before the sink.
    #[prost(message, optional, tag = "5")]
    pub upstream_id: Option<OutputId>,
    /// Credentials that Vector's own sinks would use. Their names are sealed and their values never.
    #[prost(message, optional, tag = "6")]
    pub secrets: Option<Secrets>,
    /// A UUID, random, made by the source; copies of an event have the same.
    #[prost(bytes = "bytes", tag = "7")]
    pub source_event_id: Bytes,
}

/// `event.OutputId`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OutputId {
    /// Its name.
    #[prost(bytes = "bytes", tag = "1")]
    pub component: Bytes,
    /// Its output's name.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub port: Option<Bytes>,
}

/// `event.Secrets`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Secrets {
    /// By name.
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub entries: BTreeMap<String, Vec<u8>>,
}

/// `event.Value`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// What it is; absent if it is nothing that is known here.
    #[prost(oneof = "Kind", tags = "1, 2, 4, 5, 6, 7, 8, 9")]
    pub kind: Option<Kind>,
}

/// What a [`Value`] is.
#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(missing_docs)] // each is what it is called
pub enum Kind {
    #[prost(bytes = "bytes", tag = "1")]
    RawBytes(Bytes),
    #[prost(message, tag = "2")]
    Timestamp(Timestamp),
    #[prost(int64, tag = "4")]
    Integer(i64),
    #[prost(double, tag = "5")]
    Float(f64),
    #[prost(bool, tag = "6")]
    Boolean(bool),
    #[prost(message, tag = "7")]
    Map(ValueMap),
    #[prost(message, tag = "8")]
    Array(ValueArray),
    #[prost(int32, tag = "9")]
    Null(i32),
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Timestamp {
    /// Since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Within the second.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `event.ValueMap`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueMap {
    /// Its members.
    #[prost(btree_map = "string, message", tag = "1")]
    pub fields: BTreeMap<String, Value>,
}

/// `event.ValueArray`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueArray {
    /// Its elements.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<Value>,
}

/// The events of a `vector.PushEventsRequest`, each an `event.EventWrapper`.
const EVENTS: u32 = 1;
/// An event of more bytes is sealed as it is: as a record it would be larger than a record may be.
const MAX_EVENT: usize = 2 * MAX_RECORD;
/// The first byte of an [`EventWrapper`] with a metric, and of one with a trace.
const METRIC: u8 = 0x12;
const TRACE: u8 = 0x1a;

fn is_log(event: &Bytes) -> bool {
    !matches!(event.first(), Some(&(METRIC | TRACE)))
}

/// A listening intake.
pub struct Vector {
    listener: Listener,
    server: Arc<Server<Logs>>,
}

/// The service `vector.Vector`.
pub struct Logs {
    shared: Shared,
    metrics: Arc<Metrics>,
}

impl Vector {
    /// Binds.
    ///
    /// # Errors
    /// A text that names the address or the TLS file.
    pub async fn bind(config: &config::Vector, shared: Shared) -> Result<Vector, String> {
        let metrics = shared.submitter.metrics().intake("vector");
        let (at, most) = (config.listen, shared.max_connections);
        let listener =
            Listener::bind("vector", at, config.tls.as_ref(), &[b"h2"], most, metrics.clone()).await?;
        let service = Logs { shared: shared.clone(), metrics: metrics.clone() };
        let max_message = config.max_message;
        let server = Arc::new(Server { service, shared, metrics, token: None, max_message });
        Ok(Vector { listener, server })
    }
}

impl Intake for Vector {
    fn place(&self) -> String {
        format!("Vector on {}", self.listener.place("http"))
    }

    fn run(self: Box<Self>, stop: watch::Receiver<bool>) -> Task {
        let Vector { listener, server } = *self;
        Box::pin(listener.run(stop, move |stream, peer, stop| server.clone().serve(stream, peer, stop)))
    }
}

impl Service for Logs {
    fn method(&self, path: &str) -> Result<Method, Status> {
        match path {
            "/vector.Vector/PushEvents" => Ok(Method::Events),
            // `status`: 0 is SERVING and, as the default, not written; 1 is NOT_SERVING.
            "/vector.Vector/HealthCheck" if self.shared.submitter.is_ready() => Ok(Method::Fixed(b"")),
            "/vector.Vector/HealthCheck" => Ok(Method::Fixed(&[0x08, 1])),
            _ => Err(Status { code: Code::Unimplemented, message: format!("{path}: no such method here") }),
        }
    }

    fn take(
        &self,
        peer: SocketAddr,
        incoming: &Incoming,
        message: Bytes,
        held: &mut Held,
    ) -> Result<Begun, Status> {
        let number = Fields::number(&message, EVENTS)?;
        // What is kept of each event while its request is taken.
        self.shared.room.resize(held, message.len() + number * 128).map_err(Status::later)?;
        let events: Vec<Bytes> = Fields::new(message, EVENTS).filter_map(Result::ok).collect();
        let other = events.iter().filter(|e| !is_log(e)).count();
        let logs = events.len() - other;
        if other > 0 {
            tracing::warn!(
                "intake.vector: {peer}: {other} metrics or traces are refused: an audit trail takes logs. Take them out of \
                 the sink's inputs"
            );
        }
        if other > 0 && logs == 0 {
            // It can never succeed, and Vector drops it with an error of its own.
            return Err(Status::invalid("metrics and traces are not taken: an audit trail takes logs"));
        }
        self.metrics.events.inc_by(logs as u64);
        let submitter = &self.shared.submitter;
        // An event is itself by its id and all of its content: copies that a transform made have the same id.
        let digests: Vec<Hash> = events.iter().map(|e| sha256(e)).collect();
        let ids: Vec<Option<Hash>> =
            events.iter().zip(&digests).map(|(e, d)| has_id(e).then_some(*d)).collect();
        // The same request again is recognised as one. Else it may bring events that came in others.
        let whole = key_of(&digests);
        incoming.let_go(&whole);
        let recognised = incoming.connection().recognise(&ids);
        let again = if incoming.is_doubted(&whole) {
            &[]
        } else {
            recognised.singly();
            recognised.events()
        };
        // Parts are cut by what is left, so it is what is left that is recognised if it comes again.
        let key = if again.is_empty() { whole } else { key_of(&left(&digests, again)) };
        let redelivery = incoming.begin(key);
        let mut decoder = Decoder::new(&peer.ip().to_string());
        // What the trail says of events that are not sealed: those that are refused beside logs that are taken, which cannot
        // be answered apart, and those that were sealed before.
        let mut refused = (other > 0).then(|| refusal(&events));
        let mut known = (!again.is_empty()).then(|| redelivery_of(again));
        let events = left(&events, again);
        let mut events = events.iter().filter(|e| is_log(e)).peekable();
        // Without ids, equal requests may as well be others.
        let key = (events.peek().is_some() && ids.iter().any(Option::is_some)).then_some(key);
        let handed = begin(submitter, &decoder.source(), key, redelivery, |out| {
            if let Some(event) = events.next() {
                decoder.event(event, out);
                return Some(event.len());
            }
            if let Some(metadata) = refused.take() {
                out.push_own("refused", &metadata);
            } else {
                out.push_redelivery(again.len() as u32, &known.take()?);
            }
            Some(0)
        })?;
        let events = Some((recognised, ids.into_iter().flatten().collect()));
        Ok(Begun { handed, events })
    }
}

/// What recognises a request, or what is left of it.
fn key_of(events: &[Hash]) -> Hash {
    let mut d = Digest::default();
    d.update(b"vector\0");
    events.iter().for_each(|e| d.update(&e.0));
    d.finish()
}

/// Those that are not at one of these places.
fn left<T: Clone>(all: &[T], but: &[(usize, Hash)]) -> Vec<T> {
    let mut but = but.iter().map(|(i, _)| *i).peekable();
    all.iter().enumerate().filter(|(i, _)| but.next_if_eq(i).is_none()).map(|(_, t)| t.clone()).collect()
}

/// What the trail says of events that were sealed before, in other requests.
fn redelivery_of(again: &[(usize, Hash)]) -> Vec<u8> {
    let mut d = Digest::default();
    again.iter().for_each(|(_, event)| d.update(&event.0));
    let metadata = serde_json::json!({ "digest": d.finish().to_string(), "events": again.len() });
    json::to_canonical(&metadata).unwrap_or_default()
}

/// Just enough of an [`EventWrapper`] to see whether its event has an id.
#[derive(Clone, PartialEq, prost::Message)]
struct Wrapped {
    #[prost(message, optional, tag = "1")]
    log: Option<WrappedLog>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WrappedLog {
    #[prost(message, optional, tag = "4")]
    metadata: Option<WrappedMetadata>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WrappedMetadata {
    #[prost(bytes = "bytes", tag = "7")]
    id: Bytes,
}

/// Whether an event has an id by which it is known when it comes again. Public for fuzzing.
#[doc(hidden)]
pub fn has_id(event: &Bytes) -> bool {
    let id = |w: Wrapped| Some(w.log?.metadata?.id);
    Wrapped::decode(event.clone()).ok().and_then(id).is_some_and(|id| id.len() == 16 && id[..] != [0; 16])
}

/// What the trail says of events that were no logs.
fn refusal(events: &[Bytes]) -> Vec<u8> {
    let mut d = Digest::default();
    let count = |kind| events.iter().filter(|e| e.first() == Some(&kind)).count();
    events.iter().filter(|e| !is_log(e)).for_each(|e| d.update(e));
    let metadata = serde_json::json!({
        "intake": "vector", "metrics": count(METRIC), "traces": count(TRACE), "sha256": d.finish().to_string(),
    });
    json::to_canonical(&metadata).unwrap_or_default()
}

/// Turns `event.EventWrapper`s into events.
pub struct Decoder {
    converter: Converter,
    aside: Aside,
    source: Vec<u8>,
    /// `,"peer":…}`
    tail: Vec<u8>,
}

impl Decoder {
    /// For events that `peer` sends.
    pub fn new(peer: &str) -> Decoder {
        let tail = format!(",\"peer\":{}}}", serde_json::Value::from(peer)).into_bytes();
        Decoder { converter: Converter::default(), aside: Aside::default(), source: Vec::new(), tail }
    }

    /// The `source` of an event of which Vector says nothing more.
    pub fn source(&self) -> Vec<u8> {
        [&b"{\"intake\":\"vector\""[..], &self.tail].concat()
    }

    /// Adds one event: as `unparsed` if it is none that is known here.
    pub fn event(&mut self, event: &Bytes, out: &mut Events) {
        self.source.clear();
        let mut whole = self.source();
        // Decoded, it takes many times its bytes: of large ones there is one at a time.
        let _one = (event.len() > fields::SMALL).then(fields::one_at_a_time);
        let fits = event.len() <= MAX_EVENT;
        let log = fits.then(|| EventWrapper::decode(event.clone()).ok()).flatten().and_then(|e| e.log);
        let Some(mut log) = log else {
            self.converter.built(event, None, &whole, |_| Err(Fault::NotAnObject), out);
            return;
        };
        let mut metadata = log.metadata_full.take().unwrap_or_default();
        if metadata.value.is_none()
            && let Some(old) = log.metadata.take()
        {
            metadata.value = Value::decode(old).ok();
        }
        let root = log.value.take();
        let is_map = matches!(&root, None | Some(Value { kind: Some(Kind::Map(_)) }));
        let said = self.aside.json(event, 3, |b| said(&metadata, !is_map, b), &mut self.source);
        if said.is_ok() && self.source != b"{}" {
            whole = [&b"{\"intake\":\"vector\",\"metadata\":"[..], &self.source, &self.tail].concat();
        }
        let time = metadata.time();
        let build = |b: &mut Builder<'_>| {
            // What would be lost in `source` is not lost in the event's whole text.
            said?;
            match &root {
                None => fields(&log.fields, b),
                Some(Value { kind: Some(Kind::Map(m)) }) => fields(&m.fields, b),
                // The Vector namespace's line: it has the name that the other namespace gives it.
                Some(line) => b.map(|b| {
                    b.text(b"message")?;
                    value(line, b)
                }),
            }
        };
        self.converter.built(event, time, &whole, build, out);
    }
}

impl Metadata {
    /// The source's own time of the event in the Vector namespace, else when Vector took it in.
    fn time(&self) -> Option<Time> {
        let member = |v: &Value, name: &str| match &v.kind {
            Some(Kind::Map(m)) => m.fields.get(name).cloned(),
            _ => None,
        };
        let all = self.value.as_ref()?;
        let source = self.source_type.as_ref().and_then(|t| std::str::from_utf8(t).ok());
        let own = source.and_then(|s| member(&member(all, s)?, "timestamp"));
        let at = own.or_else(|| member(&member(all, "vector")?, "ingest_timestamp"));
        match at?.kind? {
            Kind::Timestamp(t) => Time::from_unix(t.seconds, u32::try_from(t.nanos).ok()?),
            Kind::RawBytes(text) => Time::parse_rfc3339(std::str::from_utf8(&text).ok()?),
            _ => None,
        }
    }
}

/// What Vector says of an event.
fn said(m: &Metadata, is_line: bool, b: &mut Builder<'_>) -> Result<(), Fault> {
    b.map(|b| {
        if is_line {
            // The event itself was the value of its `message`.
            b.text(b"root")?;
            b.text(b"message")?;
        }
        if let Some(secrets) = m.secrets.as_ref().filter(|s| !s.entries.is_empty()) {
            b.text(b"secrets")?;
            b.array(|b| secrets.entries.keys().try_for_each(|name| b.text(name.as_bytes())))?;
        }
        if !m.source_event_id.is_empty() {
            b.text(b"source_event_id")?;
            match uuid(&m.source_event_id) {
                Some(text) => b.text(&text)?,
                None => b.bytes(&m.source_event_id)?,
            }
        }
        for (name, text) in [(&b"source_id"[..], &m.source_id), (b"source_type", &m.source_type)] {
            if let Some(text) = text {
                b.text(name)?;
                b.text(text)?;
            }
        }
        if let Some(upstream) = &m.upstream_id {
            b.text(b"upstream_id")?;
            b.map(|b| {
                b.text(b"component")?;
                b.text(&upstream.component)?;
                if let Some(port) = &upstream.port {
                    b.text(b"port")?;
                    b.text(port)?;
                }
                Ok(())
            })?;
        }
        match &m.value {
            Some(Value { kind: Some(Kind::Map(map)) }) if map.fields.is_empty() => Ok(()),
            Some(all) => {
                b.text(b"value")?;
                value(all, b)
            }
            None => Ok(()),
        }
    })
}

fn uuid(id: &[u8]) -> Option<[u8; 36]> {
    let id: &[u8; 16] = id.try_into().ok()?;
    let mut out = [b'-'; 36];
    let mut at = 0;
    for byte in id {
        if matches!(at, 8 | 13 | 18 | 23) {
            at += 1;
        }
        data_encoding::HEXLOWER.encode_mut(&[*byte], &mut out[at..at + 2]);
        at += 2;
    }
    Some(out)
}

fn fields(map: &BTreeMap<String, Value>, b: &mut Builder<'_>) -> Result<(), Fault> {
    b.map(|b| {
        for (name, v) in map {
            b.text(name.as_bytes())?;
            value(v, b)?;
        }
        Ok(())
    })
}

fn value(v: &Value, b: &mut Builder<'_>) -> Result<(), Fault> {
    match &v.kind {
        Some(Kind::RawBytes(text)) => b.text(text),
        // A negative number of nanoseconds is no time, and stays what it is.
        Some(Kind::Timestamp(t)) => b.instant(t.seconds, t.nanos.cast_unsigned()),
        Some(Kind::Integer(n)) => b.int(*n),
        Some(Kind::Float(x)) => b.double(*x),
        Some(Kind::Boolean(x)) => b.bool(*x),
        Some(Kind::Map(m)) => fields(&m.fields, b),
        Some(Kind::Array(a)) => b.array(|b| a.items.iter().try_for_each(|v| value(v, b))),
        Some(Kind::Null(_)) => b.null(),
        // A kind that a later Vector has: the event's bytes are sealed instead.
        None => Err(Fault::NotAnObject),
    }
}
