//! What each protocol answers to what is wrong, too much, repeated, or in the way: nothing is lost, and nobody else notices.

use prost::Message as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::codec::CompressionEncoding;
use waxseal_e2e::client::{
    Client, PROTOCOLS, PUSH_EVENTS, Protocol, acknowledgement, batch, batch_with, field, forward_message,
    otlp_request,
};
use waxseal_e2e::process::{Site, each_record, free_port, local_store, peak_resident, post};
use waxseal_sink::intake::{otlp, vector};

const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

fn site(protocol: Protocol, more: &str) -> Site {
    let site = Site::new(more);
    site.intake(&protocol.yaml(site.port));
    site
}

/// A site whose sink says how many connections it has.
struct Watched {
    site: Site,
    telemetry: u16,
}

impl Watched {
    fn new(protocol: Protocol) -> Watched {
        let telemetry = free_port();
        Watched {
            site: site(protocol, &format!("telemetry: {{listen: \"127.0.0.1:{telemetry}\"}}\n")),
            telemetry,
        }
    }

    /// Waits until the sink has seen that all but so many connections have ended.
    fn ended(&self, but: usize) {
        let url = format!("http://127.0.0.1:{}/metrics", self.telemetry);
        for _ in 0..600 {
            let text = ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
            let open =
                text.lines().find_map(|l| l.strip_prefix("waxseal_intake_connections{")?.split(' ').nth(1));
            if open == Some(&but.to_string()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("connections do not end");
    }
}

/// The trail is good; all records, in the order of the chain.
fn records(site: &Site) -> Vec<serde_json::Value> {
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    let mut all = Vec::new();
    each_record(&local_store(&site.path("trail")), &[], &mut |r| all.push(r.clone()));
    all.sort_by_key(|r| r["sequence"].as_u64());
    all
}

fn numbers(protocol: Protocol, all: &[serde_json::Value]) -> Vec<u64> {
    all.iter().filter_map(|r| protocol.number(r)).collect()
}

fn kind_of(value: vector::Kind) -> vector::Value {
    vector::Value { kind: Some(value) }
}

fn text(t: &str) -> vector::Value {
    kind_of(vector::Kind::RawBytes(t.as_bytes().to_vec().into()))
}

fn log(value: vector::Value, metadata: Option<vector::Metadata>) -> Vec<u8> {
    let log = vector::Log { value: Some(value), metadata_full: metadata, ..Default::default() };
    vector::EventWrapper { log: Some(log) }.encode_to_vec()
}

fn map<const N: usize>(members: [(&str, vector::Value); N]) -> vector::Value {
    let fields = members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    kind_of(vector::Kind::Map(vector::ValueMap { fields }))
}

fn request(events: Vec<Vec<u8>>) -> Vec<u8> {
    events.iter().flat_map(|e| field(1, e)).collect()
}

#[test]
fn vectors_values_arrive_as_they_are() {
    let site = site(Protocol::Vector, "");
    let sink = site.start();
    let mut client = Client::new(Protocol::Vector, site.port);
    let time = |seconds, nanos| kind_of(vector::Kind::Timestamp(vector::Timestamp { seconds, nanos }));
    let all = map([
        ("actor", text("alice")),
        ("timestamp", time(1_700_000_000, 123_456_789)),
        ("bytes", kind_of(vector::Kind::RawBytes(vec![0xff, 0].into()))),
        ("large", kind_of(vector::Kind::Integer(i64::MAX))),
        ("nan", kind_of(vector::Kind::Float(f64::NAN))),
        ("null", kind_of(vector::Kind::Null(0))),
        ("no", kind_of(vector::Kind::Boolean(false))),
        ("at", time(-1, 5)),
        ("list", kind_of(vector::Kind::Array(vector::ValueArray { items: vec![text("é\""), map([])] }))),
        ("$number", text("no wrapper")),
        ("category", text("trail")),
    ]);
    let metadata = vector::Metadata {
        value: Some(map([
            ("kubernetes", map([("pod", text("p-1"))])),
            ("vector", map([("ingest_timestamp", time(9, 9))])),
        ])),
        source_id: Some("in".into()),
        source_type: Some("kubernetes_logs".into()),
        upstream_id: Some(vector::OutputId { component: "parse".into(), port: Some("dropped".into()) }),
        secrets: Some(vector::Secrets { entries: [("token".to_owned(), b"hunter2".to_vec())].into() }),
        source_event_id: vec![0xab; 16].into(),
    };
    // Both namespaces, an event of fields alone, old metadata, an impossible time, something that is not known here.
    let fields = vector::Log {
        fields: [("n".to_owned(), kind_of(vector::Kind::Integer(1)))].into(),
        metadata: Some(map([("old", text("yes"))]).encode_to_vec().into()),
        ..Default::default()
    };
    let events = vec![
        log(all, Some(metadata.clone())),
        log(text("a line"), Some(metadata)),
        vector::EventWrapper { log: Some(fields) }.encode_to_vec(),
        log(map([("timestamp", time(1, -5))]), None),
        vec![0x22, 0],
        vec![0x0a, 2, 0xff, 0xff],
        log(vector::Value { kind: None }, None),
    ];
    for compression in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
        let mut client = Client::new(Protocol::Vector, site.port);
        client.compression = compression;
        client.call("/vector.Vector/HealthCheck", b"").unwrap();
        // Never the same request: that would be one that is sent again.
        let own = [events.clone(), vec![log(text(&format!("{compression:?}")), None)]].concat();
        client.call(PUSH_EVENTS, &request(own)).unwrap();
    }
    // A mixed request: the logs are taken, and the trail says what was not.
    let metric = vec![0x12, 3, 1, 2, 3];
    client
        .call(PUSH_EVENTS, &request(vec![metric.clone(), log(text("beside"), None), vec![0x1a, 0]]))
        .unwrap();
    // What can never succeed is the only thing that is refused for good.
    for never in [request(vec![metric]), b"\xff\xff".to_vec()] {
        assert_eq!(client.call(PUSH_EVENTS, &never).unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(client.call("/vector.Vector/Other", b"").unwrap_err().code(), Code::Unimplemented);
    // 60 MB in one message.
    let large = batch_with(Protocol::Vector, 0, 600, &"x".repeat(100_000));
    client.call(PUSH_EVENTS, &large).unwrap();
    sink.stop();
    let all = records(&site);
    assert!(!all.iter().any(|r| r.to_string().contains("hunter2")), "a secret is in the trail");
    let r = &all[1];
    assert_eq!((&r["actor"], &r["timestamp"]), (&"alice".into(), &"2023-11-14T22:13:20.123456789Z".into()));
    assert_eq!(
        r["metadata"],
        serde_json::json!({
            "$$number": "no wrapper", "$displaced": {"category": "trail", "null": null}, "bytes": {"$bytes": "_wA"},
            "large": {"$number": "9223372036854775807"}, "nan": {"$number": "NaN"}, "no": false,
            "at": {"$ext": [-1, "AAAABf__________"]}, "list": ["é\"", {}],
        })
    );
    let said = &r["source"]["metadata"];
    assert_eq!(said["source_event_id"], "abababab-abab-abab-abab-abababababab");
    assert_eq!(said["upstream_id"], serde_json::json!({"component": "parse", "port": "dropped"}));
    assert_eq!(
        (&said["secrets"], &said["value"]["kubernetes"]["pod"]),
        (&serde_json::json!(["token"]), &"p-1".into())
    );
    let line = &all[2];
    assert_eq!(
        (&line["metadata"], &line["source"]["metadata"]["root"]),
        (&serde_json::json!({"message": "a line"}), &"message".into())
    );
    assert_eq!(line["timestamp"], "1970-01-01T00:00:09.000000009Z");
    assert_eq!(
        (&all[3]["metadata"]["n"], &all[3]["source"]["metadata"]["value"]["old"]),
        (&1.into(), &"yes".into())
    );
    assert!(all[4]["metadata"]["$displaced"]["timestamp"].is_object());
    for r in &all[5..8] {
        assert_eq!(r["event_type"], "unparsed", "{r}");
    }
    let refused = all.iter().find(|r| r["event_type"] == "refused").unwrap();
    assert_eq!(
        (&refused["category"], &refused["metadata"]["metrics"], &refused["metadata"]["traces"]),
        (&"trail".into(), &1.into(), &1.into())
    );
    assert_eq!(numbers(Protocol::Vector, &all).len(), 600 + 3);
}

#[test]
fn otlp_refuses_only_what_can_never_succeed() {
    let site = Site::new("");
    let http = free_port();
    let token = "0123456789abcdef";
    site.intake(&format!(
        "  otlp: {{grpc: {{listen: \"127.0.0.1:{}\"}}, http: {{listen: \"127.0.0.1:{http}\", token: {token}}}}}\n",
        site.port
    ));
    let sink = site.start();
    let mut client = Client::new(Protocol::OtlpGrpc, site.port);
    // A broken record among good ones is sealed as it is; a resource as large as this once.
    let any = |t: &str| Some(otlp::AnyValue { value: Some(otlp::Any::String(t.as_bytes().to_vec().into())) });
    let record = |t: &str| otlp::LogRecord { body: any(t), ..Default::default() }.encode_to_vec();
    let twice = ["a", "b"].map(|v| otlp::KeyValue { key: "k".into(), value: any(v) });
    let odd =
        otlp::LogRecord { attributes: twice.to_vec(), observed_time_unix_nano: 7, ..Default::default() };
    let all = [record("good"), b"\xff\xff".to_vec(), odd.encode_to_vec()].map(|r| field(2, &r));
    let attribute = otlp::KeyValue { key: "text".into(), value: any(&"y".repeat(20_000)) };
    let resource = otlp::Resource { attributes: vec![attribute], ..Default::default() };
    let resource = otlp::ResourceLogs { resource: Some(resource), ..Default::default() };
    let message = otlp_request(&resource, &otlp::ScopeLogs::default(), all);
    client.call(LOGS, &message).unwrap();
    assert_eq!(client.call(LOGS, b"\xff").unwrap_err().code(), Code::InvalidArgument);
    let traces = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    assert_eq!(client.call(traces, b"").unwrap_err().code(), Code::Unimplemented);
    let url = format!("http://127.0.0.1:{http}/v1/logs");
    let bearer = format!("Bearer {token}");
    let proto = ("content-type", "application/x-protobuf");
    assert_eq!(post(&url, &[proto], &message).unwrap().0, 401);
    let auth = ("authorization", &bearer[..]);
    assert_eq!(post(&url, &[proto, auth], b"\xff").unwrap().0, 400);
    assert_eq!(post(&url, &[("content-type", "application/json"), auth], b"{}").unwrap().0, 415);
    assert_eq!(post(&url.replace("logs", "traces"), &[proto, auth], b"").unwrap().0, 404);
    assert_eq!(post(&url, &[proto, auth], b"").unwrap().0, 200);
    sink.stop();
    let all = records(&site);
    let large = &all[1];
    assert_eq!(large["metadata"]["group"]["resource"]["attributes"]["text"].as_str().unwrap().len(), 20_000);
    let group = &all[2]["source"]["group"]["resource"]["sha256"];
    assert_eq!((&all[2]["metadata"]["body"], group.as_str().unwrap().len()), (&"good".into(), 64));
    assert_eq!(
        (&all[3]["event_type"], &all[3]["source"]["group"]["resource"]["sha256"]),
        (&"unparsed".into(), group)
    );
    assert_eq!(all[4]["metadata"]["attributes"], serde_json::json!({"$map": [["k", "a"], ["k", "b"]]}));
    assert_eq!(all[4]["timestamp"], "1970-01-01T00:00:00.000000007Z");
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let mut all = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut all);
    all
}

#[test]
fn forward_closes_what_is_no_forward_and_nothing_else() {
    let site = Site::new("");
    site.intake(&format!("  forward: {{listen: \"127.0.0.1:{}\", max_message: 1MiB}}\n", site.port));
    let sink = site.start();
    let connect = || TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    // One that stays, with a message that has begun.
    let mut other = Client::new(Protocol::Forward, site.port);
    other.send(&batch(Protocol::Forward, 0, 10), "0").unwrap();
    let mut begun = connect();
    let whole = batch(Protocol::Forward, 10, 10);
    begun.write_all(&whole[..whole.len() / 2]).unwrap();
    let bomb = {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(&vec![0x90; 50 << 20]).unwrap();
        let packed = e.finish().unwrap();
        let mut out = vec![0x93, 0xa1, b't', 0xc6];
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
        out.extend_from_slice(b"\x81\xaacompressed\xa4gzip");
        out
    };
    let bad: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xc1",
        b"\x90",
        b"\x92\xa1t\xc0",
        b"\x93\xa1t\xa0\x07",
        // Four gigabytes, it says.
        b"\x92\xa1t\xc6\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\x93\xa1t\xa1x\x81\xaacompressed\xa2xz",
        &bomb,
    ];
    for bytes in bad {
        let mut s = connect();
        let _ = s.write_all(bytes);
        assert_eq!(read_to_end(&mut s), b"", "{:?}", &bytes[..bytes.len().min(20)]);
    }
    // What came before it, in the same packet, is acknowledged.
    let mut s = connect();
    s.write_all(
        &[batch(Protocol::Forward, 32, 4), batch(Protocol::Forward, 36, 4), b"\xc1".to_vec()].concat(),
    )
    .unwrap();
    assert_eq!(read_to_end(&mut s), [acknowledgement("32"), acknowledgement("36")].concat());
    begun.write_all(&whole[whole.len() / 2..]).unwrap();
    let mut ack = acknowledgement("10");
    begun.read_exact(&mut ack).unwrap();
    assert_eq!(ack, acknowledgement("10"));
    other.send(&batch(Protocol::Forward, 20, 10), "20").unwrap();
    // The same chunk again: its sender says that it is the same.
    other.send(&batch(Protocol::Forward, 20, 10), "20").unwrap();
    // Fluentd's heartbeat.
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    udp.send_to(b"\0", ("127.0.0.1", site.port)).unwrap();
    assert!(udp.recv_from(&mut [0; 8]).is_ok(), "no heartbeat");
    // Message, Forward, time as a number, nothing acknowledged, a bad entry among good ones.
    let mut plain = connect();
    plain.write_all(b"\x93\xa4m.so\xce\x65\x92\x00\x80\x81\xa1n\x1e").unwrap();
    plain
        .write_all(b"\x92\xa4f.so\x92\x92\xce\x65\x92\x00\x80\x81\xa1n\x1f\x92\xce\x65\x92\x00\x80\x07")
        .unwrap();
    plain.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut plain), b"");
    let peak = peak_resident(sink.child.id()).unwrap() / 1024;
    assert!(peak < 192, "{peak} MiB");
    sink.stop();
    let all = records(&site);
    let mut seen = numbers(Protocol::Forward, &all);
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
    assert_eq!(all.iter().filter(|r| r["event_type"] == "unparsed").count(), 1);
    assert_eq!(all.iter().filter(|r| r["event_type"] == "redelivery").count(), 1);
}

/// A message that says it is longer than it is holds no room for long, and is told to come again.
#[test]
fn grpc_that_is_none() {
    let site = Site::new("");
    site.intake(&format!("  vector: {{listen: \"127.0.0.1:{}\", max_message: 1MiB}}\n", site.port));
    let sink = site.start();
    let mut other = Client::new(Protocol::Vector, site.port);
    other.send(&batch(Protocol::Vector, 0, 10), "0").unwrap();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0",
    ] {
        let mut s = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
        s.write_all(bytes).unwrap();
        s.shutdown(std::net::Shutdown::Write).unwrap();
        read_to_end(&mut s);
    }
    // Too large, as it comes and unpacked: a larger limit would take it, so nobody is told to drop it.
    let large = batch_with(Protocol::Vector, 0, 1, &"x".repeat(2 << 20));
    for compression in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
        let mut client = Client::new(Protocol::Vector, site.port);
        client.compression = compression;
        assert_eq!(client.call(PUSH_EVENTS, &large).unwrap_err().code(), Code::Unavailable);
    }
    other.send(&batch(Protocol::Vector, 10, 10), "10").unwrap();
    sink.stop();
    assert_eq!(numbers(Protocol::Vector, &records(&site)), (0..20).collect::<Vec<_>>());
}

/// Two equal requests on a healthy connection are two; after a connection that broke the second is the first.
#[test]
fn equal_requests_and_repeated_ones() {
    for protocol in [Protocol::Vector, Protocol::OtlpGrpc, Protocol::OtlpHttp] {
        let watched = Watched::new(protocol);
        let site = &watched.site;
        let sink = site.start();
        let one = batch(protocol, 7, 1);
        if protocol == Protocol::OtlpHttp {
            // A connection that stays: `ureq` would open another.
            let mut s = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
            for _ in 0..2 {
                let head = format!(
                    "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
                    one.len()
                );
                s.write_all(&[head.as_bytes(), &one].concat()).unwrap();
                let mut answer = [0; 4096];
                let n = s.read(&mut answer).unwrap();
                assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
            }
        } else {
            let mut client = Client::new(protocol, site.port);
            client.send(&one, "7").unwrap();
            client.send(&one, "7").unwrap();
        }
        // The server sees that the connection has ended; the client cannot know what of it arrived.
        watched.ended(0);
        Client::new(protocol, site.port).send(&one, "7").unwrap();
        sink.stop();
        let all = records(site);
        assert_eq!(numbers(protocol, &all), [7, 7], "{protocol:?}");
        assert_eq!(all.iter().filter(|r| r["event_type"] == "redelivery").count(), 1, "{protocol:?}");
        if protocol == Protocol::OtlpHttp {
            continue; // its connections end after each request
        }
        // After a restart of the sink the first is one that comes again. Those after it are others.
        let sink = site.start();
        let mut client = Client::new(protocol, site.port);
        (0..3).for_each(|_| client.send(&one, "7").unwrap());
        sink.stop();
        assert_eq!(numbers(protocol, &records(site)), [7; 4], "{protocol:?}");
    }
}

/// Fluent Bit's chunk ids are digests of the content: equal chunks have equal ids, and are two.
#[test]
fn equal_chunks_with_equal_ids() {
    let watched = Watched::new(Protocol::Forward);
    let site = &watched.site;
    let sink = site.start();
    let id = "0123456789abcdef0123456789abcdef";
    let message = forward_message(7..8, "x", Some(id));
    let send = |s: &mut TcpStream| {
        s.write_all(&message).unwrap();
        let mut answer = [0; 5 + 2 + 32];
        s.read_exact(&mut answer[..1 + 4 + 2 + 32]).unwrap();
        assert!(answer.ends_with(id.as_bytes()));
    };
    let mut one = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    let mut other = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    send(&mut one);
    send(&mut one);
    send(&mut other);
    drop(one);
    watched.ended(1);
    // Its sender may have read neither acknowledgement: of three that come together, two are those.
    other.write_all(&message.repeat(3)).unwrap();
    for _ in 0..3 {
        other.read_exact(&mut [0; 1 + 4 + 2 + 32]).unwrap();
    }
    sink.stop();
    let all = records(site);
    assert_eq!(numbers(Protocol::Forward, &all), [7; 4]);
    assert_eq!(all.iter().filter(|r| r["event_type"] == "redelivery").count(), 2);
}

/// A client that does not wait long enough sends again while the first is still on its way to the store.
#[test]
fn a_call_that_is_given_up() {
    for protocol in [Protocol::Vector, Protocol::OtlpGrpc] {
        let site = site(protocol, "acknowledge: stored\nbatch: {max_age: 100ms}\n");
        let sink = site.start();
        Client::new(protocol, site.port).send(&batch(protocol, 0, 10), "0").unwrap();
        site.store_away();
        let mut client = Client::new(protocol, site.port);
        client.timeout = Duration::from_secs(1);
        for _ in 0..3 {
            let error = client.send(&batch(protocol, 10, 10), "10").unwrap_err();
            assert!(error.contains("no answer"), "{error}");
        }
        site.store_back();
        client.timeout = Duration::from_secs(60);
        client.send(&batch(protocol, 10, 10), "10").unwrap();
        sink.stop();
        assert_eq!(numbers(protocol, &records(&site)), (0..20).collect::<Vec<_>>(), "{protocol:?}");
    }
}

/// Whoever sends without acknowledgements has forgotten what it sent: it waits in the connection, for as long as it takes.
#[test]
fn forward_without_acknowledgements_loses_nothing_to_a_full_spool() {
    let site = site(Protocol::Forward, "spool: {max_bytes: 64MiB}\nbatch: {max_bytes: 1MiB, max_age: 1s}\n");
    let sink = site.start();
    Client::new(Protocol::Forward, site.port).send(&batch(Protocol::Forward, 0, 10), "0").unwrap();
    site.settle();
    std::thread::sleep(Duration::from_secs(2));
    site.store_away();
    let pad = "x".repeat(20_000);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3u64)
            .map(|c| {
                let (port, pad) = (site.port, &pad);
                scope.spawn(move || {
                    let mut s = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    for n in 0..12 {
                        let first = 10 + (c * 12 + n) * 250;
                        s.write_all(&forward_message(first..first + 250, pad, None)).unwrap();
                    }
                    s.shutdown(std::net::Shutdown::Write).unwrap();
                    // Closed by the sink, when all of it is taken.
                    read_to_end(&mut s)
                })
            })
            .collect();
        // Longer than room is waited for.
        std::thread::sleep(Duration::from_secs(25));
        assert!(senders.iter().any(|s| !s.is_finished()), "180 MB went into a spool of 64");
        site.store_back();
        senders.into_iter().for_each(|s| assert_eq!(s.join().unwrap(), b""));
    });
    sink.stop();
    let mut seen = numbers(Protocol::Forward, &records(&site));
    seen.sort_unstable();
    assert_eq!(seen, (0..10 + 36 * 250).collect::<Vec<_>>());
}

/// Some bytes that would be gigabytes once they are unpacked and decoded.
#[test]
fn small_packets_that_grow() {
    let site = Site::new("");
    let otlp = free_port();
    site.intake(&format!(
        "  vector: {{listen: \"127.0.0.1:{}\"}}\n  otlp: {{grpc: {{listen: \"127.0.0.1:{otlp}\"}}}}\n",
        site.port
    ));
    let sink = site.start();
    let mut vector = Client::new(Protocol::Vector, site.port);
    vector.compression = Some(CompressionEncoding::Gzip);
    let mut logs = Client::new(Protocol::OtlpGrpc, otlp);
    logs.compression = Some(CompressionEncoding::Gzip);
    vector.send(&batch(Protocol::Vector, 0, 10), "").unwrap();
    // Events of nothing: 45 million of them.
    let error = vector.call(PUSH_EVENTS, &b"\x0a\x00".repeat(45 << 20)).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    // One event whose list has half a million values of nothing, in eight calls at once.
    let list = b"\x0a\x00".repeat(1 << 19);
    let value = field(8, &list);
    let event = field(1, &field(2, &field(7, &field(1, &[field(1, b"list"), field(2, &value)].concat()))));
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (event, port) = (&event, site.port);
            scope.spawn(move || {
                let mut client = Client::new(Protocol::Vector, port);
                let own = [field(1, event), batch(Protocol::Vector, 10 + n, 1)].concat();
                client.call(PUSH_EVENTS, &own).unwrap();
            });
        }
    });
    // A resource of millions of attributes without anything.
    let own = b"\x0a\x00".repeat(7 << 20);
    logs.call(LOGS, &field(1, &[field(1, &own), field(2, &field(2, b"\x09\x01\0\0\0\0\0\0\0"))].concat()))
        .unwrap();
    // Resources without anything, and a large one with a million scopes.
    let error = logs.call(LOGS, &b"\x0a\x02\x12\x00".repeat(4 << 20)).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    let attribute = [field(1, b"k"), field(2, &field(1, &vec![b'v'; 4 << 20]))].concat();
    let scopes = b"\x12\x00".repeat(900_000);
    let one = field(2, &field(2, b"\x09\x01\0\0\0\0\0\0\0"));
    let large = [field(1, &field(1, &attribute)), scopes, one.repeat(1000)].concat();
    logs.call(LOGS, &field(1, &large)).unwrap();
    vector.send(&batch(Protocol::Vector, 18, 10), "").unwrap();
    let peak = peak_resident(sink.child.id()).unwrap() / 1024;
    println!("peak RSS {peak} MiB");
    sink.stop();
    assert!(peak < 400, "{peak} MiB");
    let all = records(&site);
    let mut seen = numbers(Protocol::Vector, &all);
    seen.sort_unstable();
    assert_eq!(seen, (0..28).collect::<Vec<_>>());
    let digests: Vec<_> =
        all.iter().filter(|r| r["source"]["group"]["resource"]["sha256"].is_string()).collect();
    assert_eq!(digests.len(), 1001, "the resource is sealed once");
}

/// A Vector that was killed cuts what it sends again into other requests: its events are known by id and content.
#[test]
fn vectors_events_in_other_requests() {
    let watched = Watched::new(Protocol::Vector);
    let site = &watched.site;
    let sink = site.start();
    let send = |client: &mut Client, first, count| {
        client.send(&batch(Protocol::Vector, first, count), "").unwrap();
    };
    let mut killed = Client::new(Protocol::Vector, site.port);
    send(&mut killed, 0, 1000);
    send(&mut killed, 1000, 1000);
    // The same events within a healthy connection, as a pipeline that doubles them sends them.
    send(&mut killed, 0, 10);
    drop(killed);
    watched.ended(0);
    let mut next = Client::new(Protocol::Vector, site.port);
    send(&mut next, 500, 1000);
    send(&mut next, 1500, 1000);
    drop(next);
    watched.ended(0);
    let mut last = Client::new(Protocol::Vector, site.port);
    send(&mut last, 2000, 600);
    // A whole request that comes again is recognised as one, and what it had is then not in doubt any more.
    let mut a = Client::new(Protocol::Vector, site.port);
    send(&mut a, 3000, 1);
    drop(a);
    watched.ended(1);
    send(&mut last, 3000, 1);
    send(&mut last, 3000, 2);
    sink.stop();
    let all = records(site);
    let mut seen = numbers(Protocol::Vector, &all);
    seen.sort_unstable();
    let mut expected: Vec<_> = (0..2600).chain(0..10).chain([3000, 3000, 3001]).collect();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    let said: Vec<_> = all
        .iter()
        .filter(|r| r["event_type"] == "redelivery")
        .map(|r| r["metadata"]["events"].clone())
        .collect();
    assert_eq!(said, [1000, 500, 500, 1]);
}

/// What a connection sends one after the other is chained in that order.
#[test]
fn the_order_of_a_connection() {
    for protocol in PROTOCOLS {
        let site = site(protocol, "");
        let sink = site.start();
        let mut client = Client::new(protocol, site.port);
        if protocol == Protocol::Forward {
            // All at once, acknowledged in their order.
            let mut s = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
            let all: Vec<u8> = (0..200).flat_map(|n| batch(protocol, n * 20, 20)).collect();
            let mut reader = s.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(move || s.write_all(&all).unwrap());
                for n in 0..200u64 {
                    let wanted = acknowledgement(&(n * 20).to_string());
                    let mut got = vec![0; wanted.len()];
                    reader.read_exact(&mut got).unwrap();
                    assert_eq!(got, wanted);
                }
            });
        } else {
            for n in 0..200 {
                client.send(&batch(protocol, n * 20, 20), &(n * 20).to_string()).unwrap();
            }
        }
        sink.stop();
        assert_eq!(numbers(protocol, &records(&site)), (0..4000).collect::<Vec<_>>(), "{protocol:?}");
    }
}

/// SIGTERM under load: what was acknowledged is there, the rest was refused or cut off, and it ends in time.
#[test]
fn a_stop_drains() {
    for protocol in PROTOCOLS {
        let site = site(protocol, "");
        let sink = site.start();
        let (acknowledged, took) = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4u64)
                .map(|c| {
                    let port = site.port;
                    scope.spawn(move || {
                        let mut client = Client::new(protocol, port);
                        let first = c * 1_000_000;
                        let taken = (0..).find(|n| {
                            let at = first + n * 50;
                            client.send(&batch(protocol, at, 50), &at.to_string()).is_err()
                        });
                        first..first + taken.unwrap_or(0) * 50
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(500));
            let began = Instant::now();
            sink.stop();
            let took = began.elapsed();
            (clients.into_iter().map(|c| c.join().unwrap()).collect::<Vec<_>>(), took)
        });
        let mut seen = numbers(protocol, &records(&site));
        seen.sort_unstable();
        let total: u64 = acknowledged.iter().map(|r| r.end - r.start).sum();
        println!("{protocol:?}: {total} acknowledged, {} sealed, stopped in {took:?}", seen.len());
        assert!(total > 0);
        assert!(took < Duration::from_secs(60), "it was killed in the end");
        for n in acknowledged.into_iter().flatten() {
            assert!(seen.binary_search(&n).is_ok(), "{protocol:?}: {n} was acknowledged and is not there");
        }
    }
}

/// The store is away and the spool is full: every protocol is told to wait in its own terms, and then nothing is missing.
#[test]
fn a_full_spool_pushes_back() {
    for protocol in PROTOCOLS {
        let site = site(protocol, "spool: {max_bytes: 64MiB}\nbatch: {max_bytes: 1MiB, max_age: 1s}\n");
        let sink = site.start();
        site.settle();
        site.store_away();
        let pad = "x".repeat(20_000);
        let send = |client: &mut Client, n: u64| {
            client.send(&batch_with(protocol, n * 50, 50, &pad), &(n * 50).to_string())
        };
        let refused = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut client = Client::new(protocol, site.port);
                let mut refused = 0;
                for n in 0..120 {
                    while let Err(e) = send(&mut client, n) {
                        assert!(["503", "navailable"].iter().any(|s| e.contains(s)), "{e}");
                        refused += 1;
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
                refused
            });
            std::thread::sleep(Duration::from_secs(4));
            assert!(!sender.is_finished(), "{protocol:?}: 120 MB went into a spool of 64");
            site.store_back();
            sender.join().unwrap()
        });
        sink.stop();
        let mut seen = numbers(protocol, &records(&site));
        seen.sort_unstable();
        println!("{protocol:?}: refused {refused} times");
        // Forward has no word for it: the acknowledgement is withheld.
        assert_eq!(refused > 0, protocol != Protocol::Forward, "{protocol:?}");
        assert_eq!(seen, (0..6000).collect::<Vec<_>>(), "{protocol:?}");
    }
}

/// Three aggregators behind one address; one is deleted for good in the middle of it. Its volume stays, as a StatefulSet's
/// does, and its next pod seals what it had acknowledged.
#[test]
fn an_aggregator_is_deleted() {
    for protocol in [Protocol::Vector, Protocol::Forward] {
        let sites: Vec<_> = (0..3).map(|_| site(protocol, "batch: {max_age: 200ms}\n")).collect();
        let mut sinks: Vec<_> = sites.iter().map(|s| Some(s.start())).collect();
        let ports: Vec<_> = sites.iter().map(|s| s.port).collect();
        let ports = &ports;
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..3u64)
                .map(|c| {
                    scope.spawn(move || {
                        let mut at = c as usize;
                        let mut client = Client::new(protocol, ports[at]);
                        for n in (c..300).step_by(3) {
                            let request = batch(protocol, n * 100, 100);
                            while client.send(&request, &(n * 100).to_string()).is_err() {
                                // As the Service does: another endpoint.
                                at = (at + 1) % 3;
                                client = Client::new(protocol, ports[at]);
                                std::thread::sleep(Duration::from_millis(20));
                            }
                            std::thread::sleep(Duration::from_millis(3));
                        }
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(150));
            sinks[0].take().unwrap().kill();
            clients.into_iter().for_each(|c| c.join().unwrap());
        });
        sinks[0] = Some(sites[0].start());
        sinks.into_iter().flatten().for_each(|s| drop(s.stop()));
        let mut seen: Vec<_> = sites.iter().flat_map(|s| numbers(protocol, &records(s))).collect();
        seen.sort_unstable();
        let total = seen.len();
        seen.dedup();
        println!("{protocol:?}: {} events, {} of them in two aggregators", seen.len(), total - seen.len());
        assert_eq!(seen, (0..30_000).collect::<Vec<_>>());
        // Only what was under way to the one that died, once for each client, may be with another too.
        assert!(total - seen.len() <= 300, "{total}");
    }
}

/// A thousand connections that are silent and fifty that are not.
#[test]
fn a_crowd_takes_little_memory() {
    for protocol in [Protocol::Vector, Protocol::Forward] {
        let site = site(protocol, "");
        let sink = site.start();
        let mut idle = Vec::new();
        for _ in 0..1000 {
            let mut s = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
            if protocol == Protocol::Vector {
                s.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
            }
            idle.push(s);
        }
        std::thread::scope(|scope| {
            for c in 0..50u64 {
                let port = site.port;
                scope.spawn(move || {
                    let mut client = Client::new(protocol, port);
                    for n in 0..20 {
                        let first = (c * 20 + n) * 500;
                        client.send(&batch(protocol, first, 500), &first.to_string()).unwrap();
                    }
                });
            }
        });
        let peak = peak_resident(sink.child.id()).unwrap() / 1024;
        println!("{protocol:?}: peak RSS {peak} MiB");
        assert!(peak < 256, "{peak} MiB");
        drop(idle);
        sink.stop();
        assert_eq!(numbers(protocol, &records(&site)).len(), 500_000);
    }
}
