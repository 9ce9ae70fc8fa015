//! Fluent Forward, version 1: Fluentd, Fluent Bit and the loggers of many languages (docs/forward.md). Source: "Forward
//! Protocol Specification v1" of Fluentd.
//!
//! A connection's messages are taken in their order, and several may be on their way to the disk at once. An
//! acknowledgement is written when its message is durable, and in no other case: a message that is refused for now is tried
//! again here, while nothing more is read from the connection. So a sender without acknowledgements, which has forgotten
//! what it sent, loses nothing to a full spool either.

use crate::chain::{Redelivery, Refusal};
use crate::config;
use crate::intake::body::{self, BodyError, Encoding};
use crate::intake::net::{Listener, PATIENCE, Stream, stopped};
use crate::intake::room::{Busy, Held};
use crate::intake::{Handed, Intake, Shared, Task, begin};
use crate::metrics::{Intake as Metrics, Outcome};
use aws_lc_rs::{constant_time, digest};
use bytes::{Bytes, BytesMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use waxseal_trail::fluent::{self, Chunk, Frame, Scanner};
use waxseal_trail::hash::{Digest, Hash};
use waxseal_trail::record::Converter;

/// Messages of one connection on their way to the disk at once.
const UNDER_WAY: usize = 16;
/// Small messages that are taken together: their bytes, and their number.
const BATCH_BYTES: usize = 256 << 10;
const BATCH: usize = 512;
/// Read at a time.
const READ: usize = 64 << 10;
/// A message of a handshake has at most so many bytes.
const HANDSHAKE: usize = 16 << 10;
/// How long a message waits before it is tried again.
const AGAIN: Duration = Duration::from_millis(250);
/// A message of more bytes may be taken in more than one part: tried again, its parts must be recognised.
const ONE_PART: usize = 4096;

/// A listening intake.
pub struct Forward {
    listener: Listener,
    heartbeat: Option<UdpSocket>,
    state: Arc<State>,
}

struct State {
    shared: Shared,
    metrics: Arc<Metrics>,
    config: config::Forward,
}

/// Why a connection ends before its client ends it.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no message of the Forward protocol: {0}")]
    Malformed(waxseal_trail::record::Fault),
    #[error(
        "a message of more than {0} bytes (intake.forward.max_message): set the sender's chunk_limit_size below it"
    )]
    TooLarge(usize),
    #[error("compressed with {0:?}; gzip and zstd are understood")]
    Compression(String),
    #[error("its entries cannot be decompressed: {0}")]
    Packed(BodyError),
    #[error("the handshake failed: {0}")]
    Handshake(&'static str),
    #[error("nothing more came of a message that had begun")]
    Slow,
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error("the sink is stopping")]
    Closing,
}

impl Forward {
    /// Binds.
    ///
    /// # Errors
    /// A text that names the address or the TLS file.
    pub async fn bind(config: &config::Forward, shared: Shared) -> Result<Forward, String> {
        let metrics = shared.submitter.metrics().intake("forward");
        let (at, most) = (config.listen, shared.max_connections);
        let listener = Listener::bind("forward", at, config.tls.as_ref(), &[], most, metrics.clone()).await?;
        // The same port, also where the system chose it.
        let at = listener.address().map_err(|e| format!("intake.forward.listen: {e}"))?;
        let heartbeat = match config.heartbeat {
            true => Some(UdpSocket::bind(at).await.map_err(|e| {
                format!("intake.forward.listen: UDP {at}: {e} (heartbeat: false does without)")
            })?),
            false => None,
        };
        Ok(Forward {
            listener,
            heartbeat,
            state: Arc::new(State { shared, metrics, config: config.clone() }),
        })
    }
}

impl Intake for Forward {
    fn place(&self) -> String {
        format!("Forward on {}", self.listener.place("tcp"))
    }

    fn run(self: Box<Self>, stop: watch::Receiver<bool>) -> Task {
        let Forward { listener, heartbeat, state } = *self;
        let beats = state.clone();
        let serving = listener.run(stop.clone(), move |stream, peer, stop| {
            let state = state.clone();
            async move {
                let metrics = state.metrics.clone();
                match serve(state, stream, peer, stop).await {
                    Ok(()) | Err(End::Closing) => {}
                    Err(End::Io(e)) => tracing::debug!("intake.forward: {peer}: {e}"),
                    Err(e) => {
                        metrics.count(match e {
                            End::Handshake(_) => Outcome::Unauthenticated,
                            End::Busy(_) => Outcome::Refused,
                            _ => Outcome::Malformed,
                        });
                        tracing::warn!("intake.forward: {peer}: the connection is closed: {e}");
                    }
                }
            }
        });
        Box::pin(async move {
            tokio::select! {
                () = serving => {}
                () = answer_heartbeats(heartbeat, &beats) => {}
            }
        })
    }
}

/// Fluentd asks by UDP whether a server is well: whoever is, answers with any packet. A sink that takes nothing now does
/// not, so that the sender goes to another.
async fn answer_heartbeats(socket: Option<UdpSocket>, state: &State) {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut buffer = [0; 64];
    loop {
        let Ok((_, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let submitter = &state.shared.submitter;
        if submitter.is_ready() && !submitter.is_full() {
            let _ = socket.send_to(&[0], peer).await;
        }
    }
}

async fn serve(
    state: Arc<State>,
    stream: Stream,
    peer: SocketAddr,
    stop: watch::Receiver<bool>,
) -> Result<(), End> {
    let (mut read, mut write) = tokio::io::split(stream);
    if state.config.shared_key.is_some() || !state.config.users.is_empty() {
        let shaken = shake(&state.config, &mut read, &mut write);
        tokio::time::timeout(PATIENCE, shaken).await.map_err(|_| End::Handshake("it took too long"))??;
    }
    let (jobs, queue) = mpsc::channel(UNDER_WAY);
    let peer: Arc<str> = peer.ip().to_string().into();
    let reading = reads(state.clone(), read, peer.clone(), stop.clone(), jobs);
    let writing = acknowledges(state, write, peer, stop, queue);
    tokio::pin!(reading, writing);
    // Whoever reads stops first, and what it has read is then acknowledged; without a writer nothing is worth reading.
    let read = tokio::select! {
        r = &mut reading => r,
        w = &mut writing => return w,
    };
    writing.await.and(read)
}

/// A message on its way.
struct Job {
    message: Bytes,
    key: Option<Hash>,
    chunk: Option<Bytes>,
    handed: Result<Handed, Refusal>,
    began: Instant,
    /// Room for the messages that came with it.
    held: Arc<Held>,
}

/// Reads messages and hands them over, until the client or the sink stops.
async fn reads(
    state: Arc<State>,
    mut stream: ReadHalf<Stream>,
    peer: Arc<str>,
    mut stop: watch::Receiver<bool>,
    jobs: mpsc::Sender<Job>,
) -> Result<(), End> {
    let max = state.config.max_message;
    let mut buffer = BytesMut::new();
    let mut scanner = Scanner::default();
    let mut held: Option<Held> = None;
    loop {
        // Whole messages, some at a time.
        let mut messages = Vec::new();
        let mut bytes = 0;
        while messages.len() < BATCH && bytes < BATCH_BYTES && !buffer.is_empty() {
            // A message is an array: nothing else is waited for.
            if !matches!(buffer[0], 0x90..=0x9f | 0xdc | 0xdd) {
                return Err(End::Malformed(waxseal_trail::record::Fault::Syntax(0)));
            }
            let end = scanner.scan(&buffer).map_err(End::Malformed)?;
            if scanner.least() > max {
                return Err(End::TooLarge(max));
            }
            let Some(end) = end else { break };
            bytes += end;
            messages.push(buffer.split_to(end).freeze());
            scanner = Scanner::default();
        }
        if !messages.is_empty() {
            let room = &state.shared.room;
            let mut room_held = match held.take() {
                Some(held) => held,
                None => room.take(bytes).await?,
            };
            room.resize(&mut room_held, bytes).await?;
            let (state, peer) = (state.clone(), peer.clone());
            let batch = tokio::task::spawn_blocking(move || convert_all(&state, &peer, messages, room_held))
                .await
                .unwrap_or(Err(End::Closing))?;
            for job in batch {
                // Waits while too many are under way.
                if jobs.send(job).await.is_err() {
                    return Ok(());
                }
            }
            if buffer.is_empty() {
                // An idle connection keeps no memory.
                buffer = BytesMut::new();
            }
            continue;
        }
        if *stop.borrow() {
            return Ok(());
        }
        let begun = !buffer.is_empty();
        if buffer.len() > READ {
            let want = scanner.least().min(buffer.len() * 2).max(buffer.len() + READ);
            match &mut held {
                Some(held) => state.shared.room.resize(held, want).await?,
                None => held = Some(state.shared.room.take(want).await?),
            }
            buffer.reserve(want - buffer.len());
        } else {
            buffer.reserve(if begun { READ } else { 8 << 10 });
        }
        let read = tokio::select! {
            r = tokio::time::timeout(PATIENCE, stream.read_buf(&mut buffer)) => r,
            () = stopped(&mut stop) => return Ok(()),
        };
        match read {
            Ok(Ok(0)) if begun => return Err(End::Io(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(Ok(0)) => return Ok(()),
            Ok(read) => drop(read?),
            // Between messages a client may be silent for as long as it likes.
            Err(_) if begun => return Err(End::Slow),
            Err(_) => {}
        }
    }
}

fn convert_all(state: &State, peer: &str, messages: Vec<Bytes>, mut held: Held) -> Result<Vec<Job>, End> {
    let mut done = Vec::with_capacity(messages.len());
    for message in messages {
        done.push((convert(state, peer, &message, None, &mut held)?, message));
    }
    let (held, began) = (Arc::new(held), Instant::now());
    let job = |(c, message): (Converted, Bytes)| {
        let Converted { handed, key, chunk } = c;
        Job { message, key, chunk, handed, began, held: held.clone() }
    };
    Ok(done.into_iter().map(job).collect())
}

struct Converted {
    handed: Result<Handed, Refusal>,
    key: Option<Hash>,
    chunk: Option<Bytes>,
}

/// Decodes a message and hands its events over, on a thread that may wait. `again`: under this key it was tried before.
fn convert(
    state: &State,
    peer: &str,
    message: &Bytes,
    again: Option<Hash>,
    held: &mut Held,
) -> Result<Converted, End> {
    let frame = Frame::parse(message).map_err(End::Malformed)?;
    let entries = entries(&frame, state.config.max_message, |packed, encoding, max| {
        body::unpack(packed, encoding, max, &state.shared.room, held)
    })?;
    let key = again.or_else(|| key(&frame, &entries, state));
    let mut chunk = Chunk::new("forward", frame.tag, &entries).from_peer(peer);
    let source = chunk.source();
    let mut converter = Converter::default();
    state.metrics.bytes.inc_by(entries.len() as u64);
    let submitter = &state.shared.submitter;
    let handed = begin(submitter, &source, key, Redelivery::Always, |events| {
        let from = chunk.position();
        let before = events.len();
        let more = chunk.next(&mut converter, events);
        state.metrics.events.inc_by((events.len() - before) as u64);
        more.then(|| chunk.position() - from)
    });
    let chunk = frame.chunk.map(Bytes::copy_from_slice);
    Ok(Converted { handed, key, chunk })
}

/// The entries of a message, unpacked.
fn entries(
    frame: &Frame<'_>,
    max: usize,
    unpack: impl FnOnce(Bytes, Encoding, usize) -> Result<Bytes, BodyError>,
) -> Result<Bytes, End> {
    let packed = Bytes::copy_from_slice(&frame.entries);
    let Some(name) = frame.compression else { return Ok(packed) };
    let encoding = Encoding::named(name)
        .ok_or_else(|| End::Compression(String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned()))?;
    unpack(packed, encoding, max).map_err(|e| match e {
        BodyError::TooLarge(max) => End::TooLarge(max),
        BodyError::Busy(busy) => End::Busy(busy),
        e => End::Packed(e),
    })
}

/// What recognises a message that comes again: its chunk id and content, by which a sender says that it is the same. One
/// without an id cannot be sent again by its sender, but it may be tried again here.
fn key(frame: &Frame<'_>, entries: &[u8], state: &State) -> Option<Hash> {
    let mut d = Digest::default();
    d.update(b"forward\0");
    match frame.chunk {
        Some(chunk) => {
            for part in [chunk, frame.tag] {
                d.update(&(part.len() as u64).to_be_bytes());
                d.update(part);
            }
            d.update(entries);
        }
        None => {
            let stored =
                matches!(state.shared.submitter.context().config.acknowledge, config::Acknowledge::Stored);
            if entries.len() <= ONE_PART && !stored {
                return None;
            }
            let mut random = [0; 32];
            getrandom::fill(&mut random).ok()?;
            d.update(&random);
        }
    }
    Some(d.finish())
}

/// Acknowledges messages in their order, as each becomes durable.
async fn acknowledges(
    state: Arc<State>,
    mut stream: WriteHalf<Stream>,
    peer: Arc<str>,
    stop: watch::Receiver<bool>,
    mut jobs: mpsc::Receiver<Job>,
) -> Result<(), End> {
    let mut out = Vec::new();
    while let Some(job) = jobs.recv().await {
        let Job { message, key, chunk, handed, began, held } = job;
        let mut handed = handed;
        loop {
            let taken = match handed {
                Ok(handed) => handed.finish().await,
                Err(refusal) => Err(refusal),
            };
            match taken {
                Ok(_) => break,
                Err(Refusal::Closing) => return Err(End::Closing),
                Err(_) if *stop.borrow() => return Err(End::Closing),
                Err(_) => state.metrics.count(Outcome::Refused),
            }
            tokio::time::sleep(AGAIN).await;
            let (state, peer, message) = (state.clone(), peer.clone(), message.clone());
            let mut room = state.shared.room.take(1).await?;
            handed = tokio::task::spawn_blocking(move || convert(&state, &peer, &message, key, &mut room))
                .await
                .unwrap_or(Err(End::Closing))?
                .handed;
        }
        drop(held);
        state.metrics.answered(began);
        if let Some(chunk) = chunk {
            acknowledgement(&chunk, &mut out);
            // What is durable meanwhile goes in one packet.
            if jobs.is_empty() || out.len() > 1024 {
                tokio::time::timeout(PATIENCE, stream.write_all(&out)).await.map_err(|_| End::Slow)??;
                out.clear();
            }
        }
    }
    if !out.is_empty() {
        tokio::time::timeout(PATIENCE, stream.write_all(&out)).await.map_err(|_| End::Slow)??;
    }
    let _ = tokio::time::timeout(PATIENCE, stream.shutdown()).await;
    Ok(())
}

/// `{"ack": chunk}`.
fn acknowledgement(chunk: &[u8], out: &mut Vec<u8>) {
    // Writing to a vector does not fail.
    let _ = rmp::encode::write_map_len(out, 1);
    let _ = rmp::encode::write_str(out, "ack");
    let _ = rmp::encode::write_str_len(out, chunk.len() as u32);
    out.extend_from_slice(chunk);
}

fn sha512_hex(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA512);
    parts.iter().for_each(|p| context.update(p));
    data_encoding::HEXLOWER.encode(context.finish().as_ref())
}

fn is_equal(a: &[u8], b: &str) -> bool {
    constant_time::verify_slices_are_equal(a, b.as_bytes()).is_ok()
}

/// HELO, PING, PONG: both sides show that they have the shared key, and the client who it is.
async fn shake(
    config: &config::Forward,
    read: &mut ReadHalf<Stream>,
    write: &mut WriteHalf<Stream>,
) -> Result<(), End> {
    let (mut nonce, mut auth) = ([0; 16], [0; 16]);
    let random =
        |out: &mut [u8]| getrandom::fill(out).map_err(|_| End::Handshake("the system gives no randomness"));
    random(&mut nonce)?;
    random(&mut auth)?;
    let auth: &[u8] = if config.users.is_empty() { &[] } else { &auth };
    write.write_all(&helo(&nonce, auth)).await?;
    let mut buffer = BytesMut::with_capacity(1024);
    let mut scanner = Scanner::default();
    let ping = loop {
        if !buffer.is_empty()
            && let Some(end) = scanner.scan(&buffer).map_err(End::Malformed)?
        {
            break buffer.split_to(end);
        }
        if scanner.least() > HANDSHAKE || buffer.len() > HANDSHAKE {
            return Err(End::Handshake("the PING is too large"));
        }
        if read.read_buf(&mut buffer).await? == 0 {
            return Err(End::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
    };
    let parts = fluent::strings(&ping).map_err(End::Malformed)?;
    let &[b"PING", hostname, salt, key, user, password] = &parts[..] else {
        return Err(End::Handshake("the client sent no PING: shared_key or users are wanted here"));
    };
    let shared = config.shared_key.as_deref().unwrap_or_default();
    let key_fits = is_equal(key, &sha512_hex(&[salt, hostname, &nonce, shared.as_bytes()]));
    // Every user is looked at, so that it takes the same time for each name.
    let known = config.users.iter().fold(config.users.is_empty(), |known, (name, word)| {
        let fits = is_equal(password, &sha512_hex(&[auth, user, word.as_bytes()]));
        known | (fits & (name.as_bytes() == user))
    });
    let reason = match (key_fits, known) {
        (true, true) => "",
        (false, _) => "shared_key mismatch",
        (true, false) => "username/password mismatch",
    };
    let name = config.hostname.as_bytes();
    let proof =
        if reason.is_empty() { sha512_hex(&[salt, name, &nonce, shared.as_bytes()]) } else { String::new() };
    let mut pong = Vec::new();
    let _ = rmp::encode::write_array_len(&mut pong, 5);
    let _ = rmp::encode::write_str(&mut pong, "PONG");
    let _ = rmp::encode::write_bool(&mut pong, reason.is_empty());
    for text in [reason, &config.hostname, &proof] {
        let _ = rmp::encode::write_str(&mut pong, text);
    }
    write.write_all(&pong).await?;
    match (reason, buffer.is_empty()) {
        ("", true) => Ok(()),
        ("", false) => Err(End::Handshake("the client did not wait for the PONG")),
        (_, _) if key_fits => Err(End::Handshake("user or password do not match")),
        _ => Err(End::Handshake("the shared key does not match")),
    }
}

fn helo(nonce: &[u8], auth: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let _ = rmp::encode::write_array_len(&mut out, 2);
    let _ = rmp::encode::write_str(&mut out, "HELO");
    let _ = rmp::encode::write_map_len(&mut out, 3);
    for (name, value) in [("nonce", nonce), ("auth", auth)] {
        let _ = rmp::encode::write_str(&mut out, name);
        let _ = rmp::encode::write_bin(&mut out, value);
    }
    let _ = rmp::encode::write_str(&mut out, "keepalive");
    let _ = rmp::encode::write_bool(&mut out, true);
    out
}

/// Whatever bytes come on a connection, read as its messages; `each` gets tag and entries. For tests and fuzzing.
///
/// # Errors
/// A text that says why the connection would be closed.
#[doc(hidden)]
pub fn each_message(mut data: &[u8], max: usize, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
    while !data.is_empty() {
        if !matches!(data[0], 0x90..=0x9f | 0xdc | 0xdd) {
            return Err("no array".to_owned());
        }
        let mut scanner = Scanner::default();
        let Some(end) = scanner.scan(data).map_err(|e| e.to_string())? else { return Ok(()) };
        let frame = Frame::parse(&data[..end]).map_err(|e| e.to_string())?;
        let entries = entries(&frame, max, |packed, encoding, max| {
            body::unpack_with(&packed, encoding, max, &mut |_| Ok(()))
        });
        each(frame.tag, &entries.map_err(|e| e.to_string())?);
        data = &data[end..];
    }
    Ok(())
}
