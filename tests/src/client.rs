//! A client for each protocol, of the project's own: it knows to the event what was sent and what was acknowledged. What
//! stock shippers do is tested with those.

use crate::process::post;
use prost::Message as _;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use tonic::codec::CompressionEncoding;
use tonic_prost::ProstCodec;
use waxseal_sink::intake::{otlp, vector};

/// The protocols of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// NDJSON with an `Idempotency-Key`.
    Http,
    /// Vector's own, zstd.
    Vector,
    /// `PackedForward` with `chunk`.
    Forward,
    /// OTLP over gRPC.
    OtlpGrpc,
    /// OTLP over HTTP.
    OtlpHttp,
}

/// All of them.
pub const PROTOCOLS: [Protocol; 5] =
    [Protocol::Http, Protocol::Vector, Protocol::Forward, Protocol::OtlpGrpc, Protocol::OtlpHttp];

impl Protocol {
    /// What stands in the configuration below `intake`, for a listener on loopback.
    pub fn yaml(self, port: u16) -> String {
        let listen = format!("{{listen: \"127.0.0.1:{port}\"}}");
        match self {
            Protocol::Http => format!("  http: {listen}\n"),
            Protocol::Vector => format!("  vector: {listen}\n"),
            Protocol::Forward => format!("  forward: {listen}\n"),
            Protocol::OtlpGrpc => format!("  otlp: {{grpc: {listen}}}\n"),
            Protocol::OtlpHttp => format!("  otlp: {{http: {listen}}}\n"),
        }
    }

    /// The name that records carry in `source.intake`.
    pub fn intake(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Vector => "vector",
            Protocol::Forward => "forward",
            Protocol::OtlpGrpc | Protocol::OtlpHttp => "otlp",
        }
    }

    /// The number of an event of [`batch`], in a record of it.
    pub fn number(self, record: &serde_json::Value) -> Option<u64> {
        let m = &record["metadata"];
        let n = if self.intake() == "otlp" { &m["attributes"]["n"] } else { &m["n"] };
        n.as_u64()
    }
}

/// So many numbered events from `first` on, of about 300 bytes: a request, as it goes over the wire but for its framing.
pub fn batch(protocol: Protocol, first: u64, count: u64) -> Vec<u8> {
    batch_with(protocol, first, count, &"x".repeat(200))
}

/// [`batch`] with another text in each event.
pub fn batch_with(protocol: Protocol, first: u64, count: u64, pad: &str) -> Vec<u8> {
    let numbers = first..first + count;
    match protocol {
        Protocol::Http => numbers
            .flat_map(|n| format!("{{\"actor\":\"alice\",\"n\":{n},\"pad\":\"{pad}\"}}\n").into_bytes())
            .collect(),
        Protocol::Vector => {
            let text =
                |t: &str| vector::Value { kind: Some(vector::Kind::RawBytes(t.as_bytes().to_vec().into())) };
            let event = |n: u64| {
                let fields = BTreeMap::from([
                    ("actor".to_owned(), text("alice")),
                    ("n".to_owned(), vector::Value { kind: Some(vector::Kind::Integer(n.cast_signed())) }),
                    ("pad".to_owned(), text(pad)),
                ]);
                let mut id = [7; 16];
                id[8..].copy_from_slice(&n.to_be_bytes());
                let value = vector::Value { kind: Some(vector::Kind::Map(vector::ValueMap { fields })) };
                let metadata = vector::Metadata {
                    source_id: Some("in".into()),
                    source_type: Some("file".into()),
                    source_event_id: id.to_vec().into(),
                    ..Default::default()
                };
                let log =
                    vector::Log { value: Some(value), metadata_full: Some(metadata), ..Default::default() };
                vector::EventWrapper { log: Some(log) }.encode_to_vec()
            };
            numbers.flat_map(|n| field(1, &event(n))).collect()
        }
        Protocol::Forward => forward_message(numbers, pad, Some(&format!("chunk-{first}"))),
        Protocol::OtlpGrpc | Protocol::OtlpHttp => {
            let any = |v| Some(otlp::AnyValue { value: Some(v) });
            let kv = |key: &'static str, v| otlp::KeyValue { key: key.into(), value: any(v) };
            let text = |t: &str| otlp::Any::String(t.as_bytes().to_vec().into());
            let record = |n: u64| {
                let record = otlp::LogRecord {
                    time_unix_nano: 1_700_000_000_000_000_000 + n,
                    severity_number: 9,
                    severity_text: "INFO".into(),
                    body: any(text(pad)),
                    attributes: vec![kv("actor", text("alice")), kv("n", otlp::Any::Int(n.cast_signed()))],
                    trace_id: vec![5; 16].into(),
                    span_id: vec![6; 8].into(),
                    ..Default::default()
                };
                field(2, &record.encode_to_vec())
            };
            let scope = otlp::ScopeLogs {
                scope: Some(otlp::InstrumentationScope { name: "test".into(), ..Default::default() }),
                ..Default::default()
            };
            let resource =
                otlp::Resource { attributes: vec![kv("service.name", text("shop"))], ..Default::default() };
            let resource = otlp::ResourceLogs { resource: Some(resource), ..Default::default() };
            otlp_request(&resource, &scope, numbers.map(record))
        }
    }
}

/// A `PackedForward` message of numbered events.
pub fn forward_message(numbers: std::ops::Range<u64>, pad: &str, chunk: Option<&str>) -> Vec<u8> {
    let mut entries = Vec::new();
    for n in numbers {
        entries.extend_from_slice(&[0x92, 0xd7, 0x00, 0x65, 0x92, 0, 0x80, 0, 0, 0, 9]);
        let _ = rmp::encode::write_map_len(&mut entries, 3);
        for (k, v) in [("actor", "alice"), ("pad", pad)] {
            let _ = rmp::encode::write_str(&mut entries, k);
            let _ = rmp::encode::write_str(&mut entries, v);
        }
        let _ = rmp::encode::write_str(&mut entries, "n");
        let _ = rmp::encode::write_uint(&mut entries, n);
    }
    let mut out = Vec::new();
    let _ = rmp::encode::write_array_len(&mut out, 2 + u32::from(chunk.is_some()));
    let _ = rmp::encode::write_str(&mut out, "app.audit");
    let _ = rmp::encode::write_bin(&mut out, &entries);
    if let Some(chunk) = chunk {
        let _ = rmp::encode::write_map_len(&mut out, 1);
        let _ = rmp::encode::write_str(&mut out, "chunk");
        let _ = rmp::encode::write_str(&mut out, chunk);
    }
    out
}

/// A field of a protobuf message: its key, its length, its bytes.
pub fn field(tag: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

/// An `ExportLogsServiceRequest` of one resource and one scope; each log record as a [`field`] with tag 2.
pub fn otlp_request(
    resource: &otlp::ResourceLogs,
    scope: &otlp::ScopeLogs,
    records: impl IntoIterator<Item = Vec<u8>>,
) -> Vec<u8> {
    let mut scope = scope.encode_to_vec();
    records.into_iter().for_each(|r| scope.extend_from_slice(&r));
    let mut logs = resource.encode_to_vec();
    logs.extend_from_slice(&field(2, &scope));
    field(1, &logs)
}

/// A message that is bytes already; it merges nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded(pub Vec<u8>);

impl prost::Message for Encoded {
    fn encode_raw(&self, buf: &mut impl prost::bytes::BufMut) {
        buf.put_slice(&self.0);
    }
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::WireType,
        buf: &mut impl prost::bytes::Buf,
        ctx: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buf, ctx)
    }
    fn encoded_len(&self) -> usize {
        self.0.len()
    }
    fn clear(&mut self) {
        self.0.clear();
    }
}

/// What the server answers a chunk of [`batch`] that begins with `first`.
pub fn acknowledgement(first: &str) -> Vec<u8> {
    let chunk = format!("chunk-{first}");
    let mut out = vec![0x81, 0xa3];
    out.extend_from_slice(b"ack");
    let _ = rmp::encode::write_str_len(&mut out, chunk.len() as u32);
    out.extend_from_slice(chunk.as_bytes());
    out
}

/// One unary call whose message is bytes already; what it answers is not looked at.
///
/// # Errors
/// The status.
pub async fn unary(
    grpc: &mut tonic::client::Grpc<tonic::transport::Channel>,
    path: &'static str,
    message: Vec<u8>,
) -> Result<(), tonic::Status> {
    grpc.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
    let codec: ProstCodec<Encoded, Encoded> = ProstCodec::default();
    let path = http::uri::PathAndQuery::from_static(path);
    grpc.unary(tonic::Request::new(Encoded(message)), path, codec).await.map(|_| ())
}

/// Where Vector's events go.
pub const PUSH_EVENTS: &str = "/vector.Vector/PushEvents";

/// A connection, made anew after each failure.
pub struct Client {
    protocol: Protocol,
    port: u16,
    forward: Option<TcpStream>,
    grpc: Option<(tokio::runtime::Runtime, tonic::client::Grpc<tonic::transport::Channel>)>,
    /// For Vector's protocol.
    pub compression: Option<CompressionEncoding>,
    /// How long a gRPC call may take.
    pub timeout: Duration,
}

impl Client {
    /// Not connected yet.
    pub fn new(protocol: Protocol, port: u16) -> Client {
        let compression = (protocol == Protocol::Vector).then_some(CompressionEncoding::Zstd);
        Client { protocol, port, forward: None, grpc: None, compression, timeout: Duration::from_secs(60) }
    }

    /// Sends a request of [`batch`] once.
    ///
    /// # Errors
    /// What kept it from being acknowledged.
    pub fn send(&mut self, batch: &[u8], key: &str) -> Result<(), String> {
        let port = self.port;
        match self.protocol {
            Protocol::Http => {
                let url = format!("http://127.0.0.1:{port}/v1/events");
                match post(&url, &[("idempotency-key", key)], batch)? {
                    (200, _) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            }
            Protocol::OtlpHttp => {
                let url = format!("http://127.0.0.1:{port}/v1/logs");
                match post(&url, &[("content-type", "application/x-protobuf")], batch)?.0 {
                    200 => Ok(()),
                    other => Err(format!("HTTP {other}")),
                }
            }
            Protocol::Forward => {
                let sent = self.forward(batch, key);
                if sent.is_err() {
                    self.forward = None;
                }
                sent.map_err(|e| e.to_string())
            }
            Protocol::Vector => self.call(PUSH_EVENTS, batch).map_err(|s| s.to_string()),
            Protocol::OtlpGrpc => self
                .call("/opentelemetry.proto.collector.logs.v1.LogsService/Export", batch)
                .map_err(|s| s.to_string()),
        }
    }

    fn forward(&mut self, batch: &[u8], key: &str) -> std::io::Result<()> {
        let stream = match &mut self.forward {
            Some(s) => s,
            none => {
                let s = TcpStream::connect(("127.0.0.1", self.port))?;
                s.set_nodelay(true)?;
                s.set_read_timeout(Some(Duration::from_secs(60)))?;
                none.insert(s)
            }
        };
        stream.write_all(batch)?;
        let wanted = acknowledgement(key);
        let mut got = vec![0; wanted.len()];
        stream.read_exact(&mut got)?;
        assert_eq!(got, wanted, "the acknowledgement names the chunk");
        Ok(())
    }

    /// A unary gRPC call.
    ///
    /// # Errors
    /// Its status.
    pub fn call(&mut self, path: &'static str, message: &[u8]) -> Result<(), tonic::Status> {
        let (runtime, grpc) = self.grpc.get_or_insert_with(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let _in = runtime.enter();
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port));
            let channel = endpoint.expect("a URL").connect_lazy();
            let mut grpc = tonic::client::Grpc::new(channel);
            if let Some(c) = self.compression {
                grpc = grpc.send_compressed(c);
            }
            drop(_in);
            (runtime, grpc)
        });
        let call = unary(grpc, path, message.to_vec());
        runtime.block_on(async {
            // Past its time the call is dropped: its stream is reset, and the connection stays.
            let answered = tokio::time::timeout(self.timeout, call).await;
            answered.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer")))
        })
    }
}
