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
use crate::intake::doubt::{Connection, Delivery, Incoming};
use crate::intake::net::{Listener, PATIENCE, Stream, stopped};
use crate::intake::room::{self, Busy, Held};
use crate::intake::{Handed, Intake, Shared, Task, Waiting, begin};
use crate::metrics::{Intake as Metrics, Outcome};
use aws_lc_rs::{constant_time, digest};
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use waxseal_trail::fluent::{self, Chunk, Frame, Scanner};
use waxseal_trail::hash::{Digest, Hash};
use waxseal_trail::record::{Converter, Fault};

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
    Malformed(Fault),
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
    let connection = Connection::new(state.shared.doubts.clone());
    let is_gone = Arc::<AtomicBool>::default();
    let client = Client {
        peer: peer.ip().to_string().into(),
        connection: connection.clone(),
        is_gone: is_gone.clone(),
    };
    let reading = reads(state.clone(), read, client.clone(), stop.clone(), jobs);
    let writing = acknowledges(state, write, client, stop, queue);
    tokio::pin!(reading, writing);
    // Whoever reads stops first, and what it has read is then acknowledged; without a writer nothing is worth reading.
    let read = tokio::select! {
        r = &mut reading => r,
        w = &mut writing => return w,
    };
    // The client has closed, or sends what cannot be read: what is under way it will send again.
    is_gone.store(true, Ordering::Relaxed);
    connection.ended();
    writing.await.and(read)
}

/// Who sends.
#[derive(Clone)]
struct Client {
    /// Its address.
    peer: Arc<str>,
    connection: Arc<Connection>,
    /// Nothing more is read from it.
    is_gone: Arc<AtomicBool>,
}

/// A message on its way.
struct Job {
    message: Bytes,
    chunk: Option<Bytes>,
    known: KnownBy,
    handed: Result<Handed, Refusal>,
    began: Instant,
    /// Room for the messages that came with it.
    held: Arc<Held>,
    under_way: Waiting,
}

/// What recognises a message that comes again, or that is tried again here.
#[derive(Default)]
struct KnownBy {
    key: Option<Hash>,
    /// For each time that it is tried.
    redelivery: Option<Redelivery>,
    /// Where its sender's word does not say that it is the same one.
    delivery: Option<(Incoming, Delivery)>,
}

/// Reads messages and hands them over, until the client or the sink stops.
async fn reads(
    state: Arc<State>,
    mut stream: ReadHalf<Stream>,
    client: Client,
    mut stop: watch::Receiver<bool>,
    jobs: mpsc::Sender<Job>,
) -> Result<(), End> {
    let max = state.config.max_message;
    let mut buffer = BytesMut::new();
    let mut scanner = Scanner::default();
    let mut held: Option<Held> = None;
    // Since when there is part of a message.
    let mut begun: Option<tokio::time::Instant> = None;
    loop {
        // Whole messages, some at a time; what is none ends the connection, after those before it.
        let mut messages = Vec::new();
        let mut bytes = 0;
        let mut bad = None;
        while messages.len() < BATCH && bytes < BATCH_BYTES && !buffer.is_empty() {
            match next_message(&mut scanner, &buffer, max) {
                Ok(Some(end)) => {
                    bytes += end;
                    messages.push(buffer.split_to(end).freeze());
                    scanner = Scanner::default();
                    begun = None;
                }
                Ok(None) => break,
                Err(end) => {
                    bad = Some(end);
                    break;
                }
            }
        }
        if !messages.is_empty() {
            let room = &state.shared.room;
            let mut room_held = match held.take() {
                Some(mut held) => {
                    let _ = room.resize(&mut held, bytes);
                    held
                }
                // Holding nothing, it waits for as long as it takes: whoever sends without acknowledgements loses what is not
                // taken.
                None => loop {
                    if let Ok(held) = room.take(bytes).await {
                        break held;
                    }
                },
            };
            let mut tried = tokio::time::Instant::now();
            loop {
                let converting = {
                    let (state, client) = (state.clone(), client.clone());
                    tokio::task::spawn_blocking(move || convert_all(&state, &client, messages, room_held))
                };
                let Ok((batch, left)) = converting.await else { return Err(End::Closing) };
                let some = !batch.is_empty();
                for job in batch {
                    // Waits while too many are under way.
                    if jobs.send(job).await.is_err() {
                        return Ok(());
                    }
                }
                let Some(Left { rest, held, why }) = left else { break };
                let End::Busy(busy) = why else { return Err(why) };
                // There was no room to unpack one. As with a message that grows, it comes back, or one has to go: one that its
                // sender has as well, if it can be.
                if some || (state.shared.under_way.is_any() && !rest.iter().all(is_kept)) {
                    tried = tokio::time::Instant::now();
                }
                if tried.elapsed() > room::PATIENCE {
                    return Err(busy.into());
                }
                tokio::time::sleep(AGAIN).await;
                (messages, room_held) = (rest, held);
            }
            if buffer.is_empty() {
                // An idle connection keeps no memory.
                buffer = BytesMut::new();
            }
        }
        if let Some(end) = bad {
            return Err(end);
        }
        if bytes > 0 {
            continue;
        }
        if *stop.borrow() {
            return Ok(());
        }
        if buffer.is_empty() {
            begun = None;
        } else {
            begun = begun.or_else(|| Some(tokio::time::Instant::now()));
        }
        if buffer.len() > READ {
            let want = scanner.least().min(buffer.len() * 2).max(buffer.len() + READ);
            let waited = tokio::time::Instant::now();
            loop {
                let room = &state.shared.room;
                let more = match &mut held {
                    Some(held) => room.grow(held, want).await,
                    None => room.take(want).await.map(|taken| held = Some(taken)),
                };
                match more {
                    Ok(()) => break,
                    // Room comes back when the spool takes what waits for it. If nothing does, all of it is held by messages
                    // that are not whole, and one of them has to go.
                    Err(Busy) if held.is_none() || state.shared.under_way.is_any() => {}
                    Err(busy) => return Err(busy.into()),
                }
            }
            // What it waited here was not its client's time.
            begun = begun.map(|b| b + waited.elapsed());
            buffer.reserve(want - buffer.len());
        } else {
            buffer.reserve(if begun.is_some() { READ } else { 8 << 10 });
        }
        // A message that has begun has its time; between messages a client may be silent for as long as it likes.
        let due = begun.map(|b| b + body::patience(scanner.least().min(max)));
        let read = tokio::select! {
            r = stream.read_buf(&mut buffer) => r?,
            () = until(due) => return Err(End::Slow),
            () = stopped(&mut stop) => return Ok(()),
        };
        match read {
            0 if begun.is_some() => return Err(End::Io(std::io::ErrorKind::UnexpectedEof.into())),
            0 => return Ok(()),
            _ => {}
        }
    }
}

async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Where the message that the buffer begins with ends, once all of it is there.
fn next_message(scanner: &mut Scanner, buffer: &[u8], max: usize) -> Result<Option<usize>, End> {
    // A message is an array: nothing else is waited for.
    if !matches!(buffer.first(), Some(0x90..=0x9f | 0xdc | 0xdd)) {
        return Err(End::Malformed(Fault::Syntax(0)));
    }
    let end = scanner.scan(buffer).map_err(End::Malformed)?;
    if scanner.least() > max {
        return Err(End::TooLarge(max));
    }
    Ok(end)
}

/// What is left of a batch.
struct Left {
    /// From the first that cannot be taken.
    rest: Vec<Bytes>,
    held: Held,
    why: End,
}

/// Whether its sender keeps it until it is acknowledged.
fn is_kept(message: &Bytes) -> bool {
    Frame::parse(message).is_ok_and(|f| f.chunk.is_some())
}

/// Those up to the first that cannot be taken, and the rest.
fn convert_all(
    state: &State,
    client: &Client,
    messages: Vec<Bytes>,
    mut held: Held,
) -> (Vec<Job>, Option<Left>) {
    let mut done = Vec::with_capacity(messages.len());
    let mut failed = None;
    let mut messages = messages.into_iter();
    // The bytes of all, as they came and unpacked: each may be tried again, and is unpacked again then.
    let mut total: usize = messages.as_slice().iter().map(Bytes::len).sum();
    let room = &state.shared.room;
    while let Some(message) = messages.as_slice().first() {
        let mut known = KnownBy::default();
        let mut unpacked = 0;
        let unpack = &mut |packed: Bytes, encoding, max| {
            let out = body::unpack_with(&packed, encoding, max, &mut |n| room.resize(&mut held, total + n))?;
            unpacked = out.len();
            Ok(out)
        };
        match convert(state, client, message, &mut known, unpack) {
            Ok((handed, chunk)) => done.push((message.clone(), chunk, known, handed)),
            Err(end) => {
                failed = Some(end);
                break;
            }
        }
        total += unpacked;
        messages.next();
    }
    let _ = room.resize(&mut held, total);
    let left = failed.map(|why| {
        let rest: Vec<Bytes> = messages.collect();
        let held = held.split(rest.iter().map(Bytes::len).sum());
        Left { rest, held, why }
    });
    let (held, began) = (Arc::new(held), Instant::now());
    let job = |(message, chunk, known, handed)| {
        let (held, under_way) = (held.clone(), state.shared.under_way.one());
        Job { message, chunk, known, handed, began, held, under_way }
    };
    (done.into_iter().map(job).collect(), left)
}

type Unpack<'u> = &'u mut dyn FnMut(Bytes, Encoding, usize) -> Result<Bytes, BodyError>;

/// Decodes a message and hands its events over, on a thread that may wait. What is `known` of it already was said when it
/// was tried before.
fn convert(
    state: &State,
    client: &Client,
    message: &Bytes,
    known: &mut KnownBy,
    unpack: Unpack<'_>,
) -> Result<(Result<Handed, Refusal>, Option<Bytes>), End> {
    let frame = Frame::parse(message).map_err(End::Malformed)?;
    let entries = entries(message, &frame, state.config.max_message, unpack)?;
    let redelivery = match known.redelivery {
        Some(redelivery) => redelivery,
        None => known.begin(&frame, &entries, state, client),
    };
    known.redelivery = Some(redelivery);
    let mut chunk = Chunk::new("forward", frame.tag, &entries).from_peer(&client.peer);
    let source = chunk.source();
    let mut converter = Converter::default();
    state.metrics.bytes.inc_by(entries.len() as u64);
    let submitter = &state.shared.submitter;
    let handed = begin(submitter, &source, known.key, redelivery, |events| {
        let from = chunk.position();
        let before = events.len();
        let more = chunk.next(&mut converter, events);
        state.metrics.events.inc_by((events.len() - before) as u64);
        more.then(|| chunk.position() - from)
    });
    Ok((handed, frame.chunk.map(Bytes::copy_from_slice)))
}

/// The entries of a message, unpacked.
fn entries(message: &Bytes, frame: &Frame<'_>, max: usize, unpack: Unpack<'_>) -> Result<Bytes, End> {
    let packed = match &frame.entries {
        Cow::Borrowed(part) => message.slice_ref(part),
        Cow::Owned(bytes) => Bytes::copy_from_slice(bytes),
    };
    let Some(name) = frame.compression else { return Ok(packed) };
    let encoding = Encoding::named(name)
        .ok_or_else(|| End::Compression(String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned()))?;
    unpack(packed, encoding, max).map_err(|e| match e {
        BodyError::TooLarge(max) => End::TooLarge(max),
        BodyError::Busy(busy) => End::Busy(busy),
        e => End::Packed(e),
    })
}

impl KnownBy {
    /// A message that is seen for the first time. Fluentd's and most loggers' chunk ids are drawn for each chunk: such a one
    /// with the same content is the same. Fluent Bit's are digests of the content: equal chunks have equal ids, and only
    /// what is in doubt is the same one. Without an id a sender cannot send it again, but it may be tried again here.
    fn begin(&mut self, frame: &Frame<'_>, entries: &[u8], state: &State, client: &Client) -> Redelivery {
        let mut d = Digest::default();
        d.update(b"forward\0");
        let mut part = |bytes: &[u8]| {
            d.update(&(bytes.len() as u64).to_be_bytes());
            d.update(bytes);
        };
        let Some(chunk) = frame.chunk else {
            let stored =
                matches!(state.shared.submitter.context().config.acknowledge, config::Acknowledge::Stored);
            let mut random = [0; 32];
            if (entries.len() > ONE_PART || stored) && getrandom::fill(&mut random).is_ok() {
                part(&random);
                self.key = Some(d.finish());
            }
            return Redelivery::Always;
        };
        part(chunk);
        part(frame.tag);
        part(entries);
        if !is_digest(chunk) {
            self.key = Some(d.finish());
            return Redelivery::Always;
        }
        // Another node's equal chunk is another one.
        part(client.peer.as_bytes());
        let key = d.finish();
        self.key = Some(key);
        let delivery = Delivery::new(&client.connection);
        let incoming = delivery.incoming();
        let redelivery = incoming.begin(key);
        self.delivery = Some((incoming, delivery));
        redelivery
    }
}

/// Whether a chunk id is Fluent Bit's: the first 16 bytes of a SHA-512 in hex.
fn is_digest(chunk: &[u8]) -> bool {
    chunk.len() == 32 && chunk.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// Acknowledges messages in their order, as each becomes durable.
async fn acknowledges(
    state: Arc<State>,
    mut stream: WriteHalf<Stream>,
    client: Client,
    stop: watch::Receiver<bool>,
    mut jobs: mpsc::Receiver<Job>,
) -> Result<(), End> {
    let mut out = Vec::new();
    'jobs: while let Some(job) = jobs.recv().await {
        let Job { message, chunk, known, handed, began, held, under_way } = job;
        let (mut handed, mut known) = (handed, known);
        loop {
            let taken = match handed {
                Ok(handed) => {
                    let finished = handed.finish();
                    tokio::pin!(finished);
                    tokio::select! {
                        biased;
                        taken = &mut finished => taken,
                        // What is durable is not kept waiting for what is not.
                        () = std::future::ready(()) => {
                            write(&mut stream, &mut out).await?;
                            finished.await
                        }
                    }
                }
                Err(refusal) => Err(refusal),
            };
            match taken {
                Ok(_) => break,
                Err(refusal) => {
                    write(&mut stream, &mut out).await?;
                    // A stop ends this by closing the pipeline, after half of its grace.
                    if refusal == Refusal::Closing {
                        return Err(End::Closing);
                    }
                    state.metrics.count(Outcome::Refused);
                    let is_gone = client.is_gone.load(Ordering::Relaxed) || *stop.borrow();
                    if chunk.is_some() && is_gone {
                        // It will come again, and is in doubt until then.
                        continue 'jobs;
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
            if state.shared.submitter.is_full() {
                handed = Err(Refusal::Full);
                continue;
            }
            let (state, client, message) = (state.clone(), client.clone(), message.clone());
            (handed, known) = tokio::task::spawn_blocking(move || {
                // What it has room for, it has had room for.
                let unpack = &mut |packed: Bytes, encoding, max| {
                    body::unpack_with(&packed, encoding, max, &mut |_| Ok(()))
                };
                convert(&state, &client, &message, &mut known, unpack).map(|(handed, _)| (handed, known))
            })
            .await
            .unwrap_or(Err(End::Closing))?;
        }
        drop((held, under_way));
        state.metrics.answered(began);
        if let Some(chunk) = chunk {
            acknowledgement(&chunk, &mut out);
            // What is durable meanwhile goes in one packet.
            if jobs.is_empty() || out.len() > 1024 {
                write(&mut stream, &mut out).await?;
            }
        }
        if let Some((incoming, delivery)) = known.delivery {
            drop(incoming);
            delivery.answered();
        }
    }
    write(&mut stream, &mut out).await?;
    let _ = tokio::time::timeout(PATIENCE, stream.shutdown()).await;
    Ok(())
}

async fn write(stream: &mut WriteHalf<Stream>, out: &mut Vec<u8>) -> Result<(), End> {
    if !out.is_empty() {
        tokio::time::timeout(PATIENCE, stream.write_all(out)).await.map_err(|_| End::Slow)??;
        out.clear();
    }
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
        let message = Bytes::copy_from_slice(&data[..end]);
        let frame = Frame::parse(&message).map_err(|e| e.to_string())?;
        let unpack =
            &mut |packed: Bytes, encoding, max| body::unpack_with(&packed, encoding, max, &mut |_| Ok(()));
        let entries = entries(&message, &frame, max, unpack);
        each(frame.tag, &entries.map_err(|e| e.to_string())?);
        data = &data[end..];
    }
    Ok(())
}
