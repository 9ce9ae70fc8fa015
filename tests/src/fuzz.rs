//! What fuzzing asserts of each decoder of outside bytes. The targets of `fuzz/` call these, and `tests/corpus.rs` runs
//! them over the corpus that is kept, findings included, in every test run.

use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use waxseal_filter_testkit::fuzz::{Check, WRITER, records_of};
use waxseal_sink::chain::read_back;
use waxseal_sink::config::{Config, Raw};
use waxseal_sink::intake::fields::Fields;
use waxseal_sink::intake::{forward, http, otlp, vector};
use waxseal_sink::spool::Spool;
use waxseal_store::disk::{self, Disk, Open};
use waxseal_store::sim::SimDisk;
use waxseal_trail::envelope::Envelope;
use waxseal_trail::fluent;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::json;
use waxseal_trail::keys::PublicKey;
use waxseal_trail::log::checkpoint::Checkpoint;
use waxseal_trail::log::note::{Kind, Note, VerifierKey};
use waxseal_trail::log::policy::Policy;
use waxseal_trail::log::proof::LogProof;
use waxseal_trail::log::tile::{Tile, put_entry};
use waxseal_trail::log::witness::{AddCheckpoint, Seen};
use waxseal_trail::proof::Proof;
use waxseal_trail::record::{Checker, Converter, Events, MAX_DEPTH, MAX_RECORD};
use waxseal_trail::statement::{self, Acknowledgement, Batch, Keys, Payload, Retirement, Trail, Writer};
use waxseal_trail::trust::Trust;

/// The targets: a name, which is also that of its corpus, and what is asserted.
pub const TARGETS: &[(&str, Check)] = &[
    ("json", json_event),
    ("msgpack", msgpack_event),
    ("chunk", chunk),
    ("http", http_body),
    ("vector", vector_event),
    ("otlp", otlp_request),
    ("forward", forward_messages),
    ("statement", statement),
    ("record", record),
    ("parquet", parquet),
    ("spool", spool),
    ("trust", trust),
    ("log", log),
    ("timestamp", timestamp),
    ("ethereum", ethereum),
    ("config", config),
    ("guest", waxseal_filter_testkit::fuzz::guest),
    ("enrich_files", waxseal_filter_testkit::fuzz::enrich_files),
    ("privacy", waxseal_filter_testkit::fuzz::privacy),
    ("privacy_policy", waxseal_filter_testkit::fuzz::privacy_policy),
];

/// A receipt of a chain: what is under the hash of the corpus's block is the corpus's receipt, and no other.
pub fn ethereum(data: &[u8]) {
    let Ok(receipt) = waxseal_ethereum::receipt::Receipt::parse(data) else { return };
    assert_eq!(receipt.to_bytes().ok().as_deref(), Some(data), "one form");
    let _ = receipt.metadata();
    // What it says follows from the block's hash: what has this one is the seed.
    if let Ok(proven) = receipt.check() {
        assert_eq!(receipt.block_hash, proven.block_hash);
        let seed = include_bytes!("../../fuzz/corpus/ethereum/anchored");
        let seed = waxseal_ethereum::receipt::Receipt::parse(seed).expect("the seed");
        if seed.block_hash == receipt.block_hash
            && seed.hash == receipt.hash
            && seed.merkle_root == receipt.merkle_root
        {
            let state = |r: &waxseal_ethereum::receipt::Receipt| r.proof.as_ref().map(|p| p.state.is_some());
            assert!(receipt == seed || state(&receipt) != state(&seed), "another receipt of the same block");
        }
    }
}

/// An answer of a time-stamping authority: none counts but what the authority of the corpus has signed.
pub fn timestamp(data: &[u8]) {
    let root = include_bytes!("fuzz-tsa-root.der").to_vec();
    if let Ok(stamp) = waxseal_timestamp::verify(data, None, None, &[root]) {
        assert_eq!(stamp.imprint, sha256(b"a checkpoint"));
    }
    let _ = waxseal_trail::certificate::all_to_der(data);
}

/// What others hand to a log, a witness or a verifier: notes, checkpoints, proofs, keys, policies, tiles. What is read is written
/// the same again.
pub fn log(data: &[u8]) {
    let key = VerifierKey::new("example.com/log", Kind::Note, &ed25519_basepoint())
        .expect("a point of large order");
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.to_string().as_bytes(), data);
        let _ = note.signed_by(&key);
        if let Ok(checkpoint) = Checkpoint::parse(&note.text) {
            assert_eq!(checkpoint.to_string(), note.text);
        }
    }
    if let Ok(request) = AddCheckpoint::parse(data) {
        assert_eq!(request.to_string().as_bytes(), data);
        assert!(request.judge(|_| Some(key.clone()), |_| Seen::nothing()).is_err(), "nobody signed it");
    }
    let (width, bytes) = data.split_first().map_or((0, data), |(w, rest)| (*w, rest));
    let tile = Tile { level: None, index: 0, width: width.into() };
    if let Some(entries) = tile.entries(bytes) {
        let mut again = Vec::new();
        assert!(entries.iter().all(|e| put_entry(e, &mut again)));
        assert_eq!(again, bytes);
    }
    let _ = tile.hashes(bytes);
    if let Ok(proof) = Proof::parse(data) {
        assert_eq!(proof.to_bytes().ok().as_deref(), Some(data));
        let yaml = format!("trail: {}\noperators: []\nlog: {key}\n", proof.trail);
        let trust = Trust::parse(&yaml, &|_| Err(String::new())).expect("well-formed");
        assert!(proof.verify(&trust, &|_, _| Err("none".into())).is_err(), "nobody vouches for it");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(proof) = LogProof::parse(text) {
        assert_eq!(proof.to_string(), text);
        assert!(proof.verify(&Hash::empty(), &key).is_err(), "nobody signed it");
    }
    if let Ok(key) = VerifierKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
    if let Some(tile) = Tile::parse(text) {
        assert_eq!(tile.path(), text);
    }
    let _ = Policy::parse(text);
}

/// The base point of RFC 8032, compressed.
fn ed25519_basepoint() -> [u8; 32] {
    let mut point = [0x66; 32];
    point[0] = 0x58;
    point
}

/// One event as JSON. What is valid is canonicalised as `serde_json` understands it.
pub fn json_event(data: &[u8]) {
    let mut events = Events::default();
    Converter::default().json(data, &mut events);
    assert_eq!(events.len(), 1, "one text is one event");
    records_of(&events, br#"{"intake":"http"}"#);
    let Ok(canonical) = json::canonicalize(data) else { return };
    assert_eq!(json::canonicalize(&canonical).as_deref(), Ok(&canonical[..]), "a fixed point");
    assert_eq!(json::is_canonical(&canonical), Ok(true));
    // The oracle accepts repeated names and overflowing numbers; what we accept it must accept, and mean the same.
    if let Ok(tree) = serde_json::from_slice::<serde_json::Value>(data) {
        let again: serde_json::Value = serde_json::from_slice(&canonical).expect("canonical JSON is JSON");
        assert!(same(&tree, &again), "{tree} became {again}");
    }
}

/// Equal as JSON values whose numbers are doubles.
fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Number(a), Number(b)) => a.as_f64() == b.as_f64(),
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Object(a), Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        _ => a == b,
    }
}

/// One event as MessagePack, and a stream of them.
pub fn msgpack_event(data: &[u8]) {
    let (mut converter, mut events) = (Converter::default(), Events::default());
    converter.msgpack(data, &mut events);
    assert_eq!(events.len(), 1);
    let mut at = 0;
    while let Some(rest) = data.get(at..).filter(|r| !r.is_empty()) {
        let Ok(n) = converter.msgpack_prefix(rest, &mut events) else { break };
        assert!(n > 0 && n <= rest.len());
        at += n;
    }
    records_of(&events, br#"{"intake":"forward"}"#);
}

/// A Fluent Bit chunk; its tag stands before the first NUL. No byte of it may be passed over.
pub fn chunk(data: &[u8]) {
    let (tag, data) = match data.iter().position(|b| *b == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (&b"kube.*"[..], data),
    };
    let (mut converter, mut events) = (Converter::default(), Events::default());
    let mut chunk = fluent::Chunk::new("fluentbit", tag, data);
    let mut before = 0;
    let mut steps = 0;
    while chunk.next(&mut converter, &mut events) {
        assert!(chunk.position() >= before);
        before = chunk.position();
        steps += 1;
        assert!(steps <= data.len() + 1, "it does not end");
    }
    assert_eq!(chunk.position(), data.len());
    let source = chunk.source();
    assert_eq!(json::is_canonical(&source), Ok(true), "{}", String::from_utf8_lossy(&source));
    records_of(&events, &source);
}

/// A request's body; the first byte chooses how it is said to be encoded. Text comes out of it in bounded memory.
pub fn http_body(data: &[u8]) {
    use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
    const MAX: usize = 1 << 20;
    let Some((how, body)) = data.split_first() else { return };
    let mut headers = HeaderMap::new();
    let mut say = |name, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    match how % 4 {
        1 => say(CONTENT_ENCODING, "gzip"),
        2 => say(CONTENT_ENCODING, "zstd"),
        3 => say(CONTENT_TYPE, "application/x-ndjson"),
        _ => None,
    };
    let mut events = Events::default();
    let mut converter = Converter::default();
    let mut bytes = 0;
    let _ = http::each_event(&headers, Bytes::copy_from_slice(body), MAX, &mut |event| {
        bytes += event.len();
        if events.len() < 1000 {
            converter.json(event, &mut events);
        }
    });
    assert!(bytes <= MAX);
    records_of(&events, br#"{"intake":"http"}"#);
}

/// One of Vector's events, and a request of them.
pub fn vector_event(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let mut decoder = vector::Decoder::new("192.0.2.1");
    let mut events = Events::default();
    decoder.event(&data, &mut events);
    assert_eq!(events.len(), 1, "one event is one record");
    vector::has_id(&data);
    if Fields::number(&data, 1).is_ok() {
        Fields::new(data, 1).flatten().take(1000).for_each(|e| decoder.event(&e, &mut events));
    }
    assert_eq!(json::is_canonical(&decoder.source()), Ok(true));
    records_of(&events, &decoder.source());
}

/// An OTLP request: as many events as it has log records, and perhaps some resources.
pub fn otlp_request(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let Ok((records, _)) = otlp::survey(&data) else { return };
    let groups: usize = Fields::new(data.clone(), 1)
        .flatten()
        .map(|resource| 1 + Fields::new(resource, 2).flatten().count())
        .sum();
    let mut decoder = otlp::Decoder::new(data, "192.0.2.1");
    let source = decoder.source();
    let mut events = Events::default();
    while decoder.next(&mut events).is_some() {}
    assert!((records..=records + groups).contains(&events.len()), "{records} {groups} {}", events.len());
    assert_eq!(json::is_canonical(&source), Ok(true));
    records_of(&events, &source);
}

/// What comes on a Forward connection.
pub fn forward_messages(data: &[u8]) {
    const MAX: usize = 1 << 20;
    let _ = fluent::strings(data);
    // Byte by byte or all at once: the same end.
    let (mut whole, mut pieces) = (fluent::Scanner::default(), fluent::Scanner::default());
    let end = whole.scan(data);
    let cut = (0..=data.len()).find_map(|n| pieces.scan(&data[..n]).transpose());
    assert_eq!(cut.transpose(), end);
    let _ = forward::each_message(data, MAX, &mut |tag, entries| {
        assert!(entries.len() <= MAX.max(data.len()));
        let mut chunk = [tag, b"\0"].concat();
        if !tag.contains(&0) {
            chunk.extend_from_slice(entries);
            self::chunk(&chunk);
        }
    });
}

/// An envelope, whatever it carries: what is read once and written reads the same.
pub fn statement(data: &[u8]) {
    fn read<P: Payload + PartialEq + std::fmt::Debug>(envelope: &Envelope) -> Option<P> {
        let payload = statement::read::<P>(envelope).ok()?;
        let again = statement::read::<P>(&statement::unsigned(&payload));
        assert_eq!(again.as_ref().ok(), Some(&payload), "written and read again");
        Some(payload)
    }
    let Ok(envelope) = Envelope::parse(data) else { return };
    assert_eq!(envelope.to_bytes().as_deref().ok(), Some(data), "one envelope has one text");
    let _ = waxseal_sink::epoch::read_trail(data);
    let mut spkis = read::<Trail>(&envelope).map_or(Vec::new(), |t| t.operators);
    spkis.extend(read::<Writer>(&envelope).into_iter().flat_map(|w| w.keys).map(|k| k.spki));
    let keys: Vec<PublicKey> = spkis.iter().filter_map(|k| PublicKey::from_base64(k).ok()).collect();
    let _ = envelope.verify(&keys.iter().collect::<Vec<_>>());
    let _ = read::<Batch>(&envelope);
    let _ = read::<Keys>(&envelope);
    let _ = read::<Acknowledgement>(&envelope);
    let _ = read::<Retirement>(&envelope);
}

/// Text that claims to be a record: what is let through is canonical and within limits.
pub fn record(data: &[u8]) {
    if Checker::default().check(data).is_ok() {
        assert!(data.len() <= MAX_RECORD);
        assert_eq!(json::is_canonical(data), Ok(true));
        assert!(json::canonicalize_within(data, MAX_DEPTH).is_ok());
    }
}

/// An events object. The Parquet library panics on some broken files, which our reader answers with an error; the
/// fuzzer would end at the panic itself.
pub fn parquet(data: &[u8]) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|l| l.file().contains("/parquet-")) {
                before(panic);
            }
        }));
    });
    let Ok(reader) = waxseal_events::Reader::new(Bytes::copy_from_slice(data)) else { return };
    let _ = reader.key_value("batch");
    let mut rows = 0;
    let read = reader.read::<waxseal_events::EventsError>(|r| {
        rows += r.records.len() as u64;
        assert_eq!(r.sequences.len(), r.records.len());
        Ok(())
    });
    if read.is_ok() {
        assert_eq!(rows, reader.rows(), "all rows that it declares");
    }
    let _ = reader.find("actor", b"alice");
    let _ = reader.find("event_id", b"");
}

/// Bytes of the header of a spool segment for [`WRITER`].
fn segment_header() -> Vec<u8> {
    let mut h = b"WXSPOOL\n".to_vec();
    h.extend_from_slice(&waxseal_sink::spool::VERSION.to_le_bytes());
    h.extend_from_slice(&0u64.to_le_bytes());
    h.extend_from_slice(&(WRITER.len() as u32).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&h);
    crc.update(WRITER.as_bytes());
    h.extend_from_slice(&crc.finalize().to_le_bytes());
    h.extend_from_slice(WRITER.as_bytes());
    h
}

/// A spool segment. With a first byte of 1 the rest is taken for frames (a length of two bytes, a header, a body) and
/// their check sums are made right: else nothing behind them would ever be reached.
pub fn spool(data: &[u8]) {
    use waxseal_sink::spool::FRAME_HEADER;
    let Some((how, mut rest)) = data.split_first() else { return };
    let mut segment = Vec::new();
    if *how == 1 {
        segment = segment_header();
        while let Some((len, after)) = rest.split_first_chunk::<2>() {
            let Some((head, after)) = after.split_first_chunk::<FRAME_HEADER>() else { break };
            let (body, after) = after.split_at(usize::from(u16::from_le_bytes(*len)).min(after.len()));
            let mut head = *head;
            head[..4].copy_from_slice(b"WXF1");
            head[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
            head[8..12].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
            let crc = crc32fast::hash(&head[..40]);
            head[40..44].copy_from_slice(&crc.to_le_bytes());
            segment.extend_from_slice(&head);
            segment.extend_from_slice(body);
            rest = after;
        }
    } else {
        segment.extend_from_slice(rest);
    }
    for rewrite in [false, true] {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::default());
        let dir = Path::new("/state/spool");
        disk::create_dirs(&*disk, Path::new("/"), dir, true).expect("a simulated directory");
        let file = disk.open(&dir.join("000000000000.seg"), Open::Create).expect("a simulated file");
        disk::write_all_at(&*file, &segment, 0).expect("a simulated write");
        let mut checker = Checker::default();
        let mut open = |rewrite| {
            let mut frames = Vec::new();
            let opened = Spool::open(disk.clone(), dir, WRITER, 1 << 30, 0, rewrite, &mut |frame| {
                if let Ok(s) = read_back(frame, &mut checker) {
                    assert_eq!(s.records.len(), frame.entries.len());
                }
                frames.push(frame.text.clone());
            });
            opened.map(|_| frames)
        };
        if let Ok(first) = open(rewrite) {
            // Recovery is idempotent: what was read is there the next time, and nothing else.
            assert_eq!(open(false).expect("what was recovered opens again"), first);
        }
    }
}

/// A trust file; the CA files that it names hold what follows a line of `===`.
pub fn trust(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (yaml, file) = text.split_once("\n===\n").unwrap_or((text, ""));
    let _ = Trust::parse(yaml, &|_| Ok(file.as_bytes().to_vec()));
}

/// The sink's configuration, but for the files that it names.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(mut raw) = Raw::parse(text) else { return };
    raw.signing.clear();
    let intake = &mut raw.intake;
    if let Some(http) = &mut intake.http {
        (http.tls, http.token_file) = (None, None);
    }
    if let Some(vector) = &mut intake.vector {
        vector.tls = None;
    }
    if let Some(forward) = &mut intake.forward {
        (forward.tls, forward.shared_key_file) = (None, None);
        forward.users.iter_mut().for_each(|u| u.password_file = None);
    }
    if let Some(otlp) = &mut intake.otlp {
        for listener in [&mut otlp.grpc, &mut otlp.http].into_iter().flatten() {
            (listener.tls, listener.token_file) = (None, None);
        }
    }
    let _ = Config::check(raw);
}
