//! HTTP intake: `POST /v1/events`, NDJSON or a JSON array, gzip or zstd (docs/http.md).
//!
//! 200 means durable. A broken line among good ones is sealed as `unparsed`, since shippers drop a batch
//! that gets a 400; 400 is only for a body that cannot be split into events at all.

#![allow(clippy::result_large_err)] // an answer is an answer, good or bad; one a request

use crate::chain::{Redelivery, Refusal};
use crate::config::Http;
use crate::intake::{Taken, hand_over};
use crate::pipeline::Submitter;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use waxseal_trail::hash::{Digest, Hash, sha256};
use waxseal_trail::json;
use waxseal_trail::record::Converter;

/// Events of one request: however small an event is, its record takes some 450 bytes.
const MAX_EVENTS: usize = 1_000_000;
/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// Bodies that are held in memory at once, in units of [`PERMIT`].
const BODY_PERMITS: usize = 16;
/// Bytes of body that one permit stands for.
const PERMIT: usize = 1 << 20;
/// How long a client may take for its headers, and for each piece of its body.
const PATIENCE: Duration = Duration::from_secs(30);
/// And so much longer for each [`PERMIT`] of a body.
const SECOND_A_PERMIT: Duration = Duration::from_secs(1);

/// A listening intake.
pub struct Server {
    listener: TcpListener,
    state: Arc<Shared>,
    tls: Option<tokio_rustls::TlsAcceptor>,
}

struct Shared {
    submitter: Submitter,
    token: Option<Hash>,
    max_body: usize,
    bodies: Arc<Semaphore>,
}

impl Server {
    /// Binds.
    ///
    /// # Errors
    /// A text that names the address or the TLS file.
    pub async fn bind(config: &Http, submitter: Submitter) -> Result<Server, String> {
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|e| format!("intake.http.listen: {}: {e}", config.listen))?;
        let acceptor = config.tls.as_ref().map(tls).transpose()?;
        let state = Shared {
            submitter,
            token: config.token,
            max_body: config.max_body,
            bodies: Arc::new(Semaphore::new(BODY_PERMITS.max(config.max_body.div_ceil(PERMIT)))),
        };
        Ok(Server { listener, state: Arc::new(state), tls: acceptor })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` changes; then lets requests under way finish.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permit = tokio::select! {
                p = connections.clone().acquire_owned() => p,
                _ = stop.changed() => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                a = self.listener.accept() => a,
                _ = stop.changed() => break,
            };
            let (stream, peer) = match accepted {
                Ok(a) => a,
                Err(e) => {
                    tracing::warn!("intake.http: cannot accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (state, tls, stop) = (self.state.clone(), self.tls.clone(), stop.clone());
            tokio::spawn(async move {
                serve(stream, peer, state, tls, stop).await;
                drop(permit);
            });
        }
        // Connections hold the permits: all of them back means that all are done.
        let _ = tokio::time::timeout(PATIENCE, connections.acquire_many(MAX_CONNECTIONS as u32)).await;
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    state: Arc<Shared>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    mut stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(handle(request, peer, &state).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(PATIENCE).half_close(true);
    macro_rules! drive {
        ($io:expr) => {{
            let connection = builder.serve_connection(hyper_util::rt::TokioIo::new($io), service);
            tokio::pin!(connection);
            let result = tokio::select! {
                r = connection.as_mut() => r,
                _ = stop.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(e) = result {
                tracing::debug!("intake.http: {peer}: {e}");
            }
        }};
    }
    match tls {
        None => drive!(stream),
        Some(acceptor) => match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
            Ok(Ok(io)) => drive!(io),
            Ok(Err(e)) => tracing::debug!("intake.http: {peer}: TLS: {e}"),
            Err(_) => tracing::debug!("intake.http: {peer}: no TLS handshake in time"),
        },
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, body: serde_json::Value) -> Answer {
    let mut r = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *r.status_mut() = status;
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    r
}

fn refuse(status: StatusCode, error: &str, detail: impl std::fmt::Display) -> Answer {
    answer(status, serde_json::json!({ "error": error, "detail": detail.to_string() }))
}

fn later(status: StatusCode, seconds: u64, error: &str, detail: impl std::fmt::Display) -> Answer {
    let mut r = refuse(status, error, detail);
    r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    r
}

async fn handle(request: Request<Incoming>, peer: SocketAddr, state: &Arc<Shared>) -> Answer {
    if request.uri().path() != "/v1/events" {
        return refuse(StatusCode::NOT_FOUND, "not_found", "events are posted to /v1/events");
    }
    if request.method() != Method::POST {
        let mut r = refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "events are posted");
        r.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return r;
    }
    if !authorised(request.headers(), state.token.as_ref()) {
        let mut r =
            refuse(StatusCode::UNAUTHORIZED, "unauthorized", "the bearer token is missing or another");
        r.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return r;
    }
    match events(request, peer, state).await {
        Ok(a) | Err(a) => a,
    }
}

fn authorised(headers: &HeaderMap, token: Option<&Hash>) -> bool {
    let Some(token) = token else { return true };
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    given.and_then(|v| v.split_once(' ')).is_some_and(|(scheme, t)| {
        scheme.eq_ignore_ascii_case("bearer") && sha256(t.trim().as_bytes()) == *token
    })
}

#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Lines,
    ByFirstByte,
}

async fn events(request: Request<Incoming>, peer: SocketAddr, state: &Arc<Shared>) -> Result<Answer, Answer> {
    let headers = request.headers();
    let encoding = encoding(headers)?;
    let shape = shape(headers)?;
    let key = headers.get("idempotency-key").map(|v| v.as_bytes().to_vec());
    if key.as_ref().is_some_and(|k| k.len() > 1024) {
        return Err(refuse(StatusCode::BAD_REQUEST, "idempotency_key", "longer than 1024 bytes"));
    }
    let max = state.max_body;
    let too_large = || {
        refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the body is over {max} bytes (intake.http.max_body)"),
        )
    };
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let waits = headers.contains_key(header::EXPECT);
    if declared.is_some_and(|n| n > max) {
        // Who waits for `100 Continue` has sent nothing; others read no answer before they have sent it all.
        if !waits {
            let _ = tokio::time::timeout(PATIENCE, discard(request.into_body(), max.saturating_mul(8))).await;
        }
        return Err(too_large());
    }
    // Room for the body; for what it decompresses to, once it is there.
    let room = declared.unwrap_or(max);
    let permits = permits_of(room);
    let acquire = async |permits: u32| {
        let acquired = tokio::time::timeout(PATIENCE, state.bodies.clone().acquire_many_owned(permits)).await;
        match acquired {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(later(StatusCode::TOO_MANY_REQUESTS, 2, "busy", "too many bodies at once")),
        }
    };
    let mut permit = acquire(permits).await?;
    // Whoever holds room must use it: a body that trickles gives its room back to the others.
    let patience = PATIENCE + SECOND_A_PERMIT * permits;
    let collected = match tokio::time::timeout(patience, collect(request.into_body(), declared, max)).await {
        Ok(Ok(Some(body))) => body,
        Ok(Ok(None)) => return Err(too_large()),
        Ok(Err(e)) => return Err(refuse(StatusCode::BAD_REQUEST, "body", e)),
        Err(_) => {
            return Err(refuse(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not arrive in time"));
        }
    };
    if !matches!(encoding, Encoding::Identity) {
        drop(permit);
        permit = acquire(permits_of(max)).await?;
    }
    let state = state.clone();
    let done = tokio::task::spawn_blocking(move || {
        let request = Body { bytes: collected, permit, encoding, shape };
        take(&state, request, key.as_deref(), peer, max)
    })
    .await;
    done.unwrap_or_else(|_| {
        Err(later(StatusCode::SERVICE_UNAVAILABLE, 2, "failing", "this request failed inside the sink"))
    })
}

/// How much room so many bytes of body take.
fn permits_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT).max(1)).unwrap_or(u32::MAX)
}

/// The body; `None` if it is larger than `max` (then some more of it is read, so that the client sees the answer).
async fn collect(
    mut body: Incoming,
    declared: Option<usize>,
    max: usize,
) -> Result<Option<Bytes>, hyper::Error> {
    let mut out = BytesMut::with_capacity(declared.unwrap_or(0).min(max));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if out.len() + data.len() > max {
                discard(body, max.saturating_mul(8)).await;
                return Ok(None);
            }
            out.extend_from_slice(&data);
        }
    }
    Ok(Some(out.freeze()))
}

/// Reads past a body, up to `most` bytes.
async fn discard(mut body: Incoming, most: usize) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > most {
            break;
        }
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Answer> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity" | b"") => Ok(Encoding::Identity),
        Some(b"gzip" | b"x-gzip") => Ok(Encoding::Gzip),
        Some(b"zstd") => Ok(Encoding::Zstd),
        Some(other) => Err(refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_encoding",
            format!("{:?}; gzip, zstd and none are understood", String::from_utf8_lossy(other)),
        )),
    }
}

fn shape(headers: &HeaderMap) -> Result<Shape, Answer> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Shape::ByFirstByte) };
    let text = value.to_str().unwrap_or("").to_ascii_lowercase();
    match text.split(';').next().unwrap_or("").trim() {
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines"
        | "application/stream+json" => Ok(Shape::Lines),
        // `application/json` is what most shippers say for both; the first byte tells.
        "application/json"
        | "text/plain"
        | "application/octet-stream"
        | "application/x-www-form-urlencoded"
        | "" => Ok(Shape::ByFirstByte),
        other => Err(refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_type",
            format!("{other:?}; application/x-ndjson and application/json are understood"),
        )),
    }
}

/// A body that has arrived, and the room it holds.
struct Body {
    bytes: Bytes,
    permit: OwnedSemaphorePermit,
    encoding: Encoding,
    shape: Shape,
}

/// Decodes, submits and waits. Runs on a thread that may wait.
fn take(
    state: &Shared,
    body: Body,
    key: Option<&[u8]>,
    peer: SocketAddr,
    max: usize,
) -> Result<Answer, Answer> {
    let Body { bytes, mut permit, encoding, shape } = body;
    let bytes = decompress(bytes, encoding, max)?;
    let text: &[u8] = &bytes;
    // A compressed body had to reckon with the most; now its size is known.
    drop(permit.split(permit.num_permits().saturating_sub(permits_of(text.len()) as usize)));
    let receipt = submit(state, split(text, shape)?, text, key, peer);
    drop(permit);
    match receipt {
        Ok(r) => {
            let mut body = serde_json::json!({ "accepted": r.accepted, "unparsed": r.unparsed });
            if r.redelivered {
                body["redelivered"] = true.into();
            }
            Ok(answer(StatusCode::OK, body))
        }
        Err(r @ Refusal::Full) => Err(later(StatusCode::TOO_MANY_REQUESTS, 5, "full", r)),
        Err(r @ Refusal::Closing) => Err(later(StatusCode::SERVICE_UNAVAILABLE, 5, "closing", r)),
        Err(r @ Refusal::Failing) => Err(later(StatusCode::SERVICE_UNAVAILABLE, 2, "failing", r)),
    }
}

/// The events of a body. Whatever is refused for what it is, is refused here, before any of it is taken.
fn split(text: &[u8], shape: Shape) -> Result<Box<dyn Iterator<Item = &[u8]> + '_>, Answer> {
    let too_many = || {
        let detail = format!("more than {MAX_EVENTS} events in one request");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    };
    if shape == Shape::ByFirstByte && text.trim_ascii_start().first() == Some(&b'[') {
        let elements = json::split_array(text).ok_or_else(|| {
            refuse(
                StatusCode::BAD_REQUEST,
                "array",
                "the body begins with [ but is no array that can be split into events",
            )
        })?;
        if elements.clone().nth(MAX_EVENTS).is_some() {
            return Err(too_many());
        }
        return Ok(Box::new(elements));
    }
    if memchr::memchr_iter(b'\n', text).nth(MAX_EVENTS).is_some() {
        return Err(too_many());
    }
    // A line of nothing is nothing, in NDJSON; other whitespace is somebody's text.
    let lines = text.split(|c| *c == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    Ok(Box::new(lines.filter(|l| !l.is_empty())))
}

/// Calls `each` with the events of a body that came with `headers`, as a request does. For tests and fuzzing.
///
/// # Errors
/// What would be answered.
#[doc(hidden)]
pub fn each_event(
    headers: &HeaderMap,
    body: Bytes,
    max: usize,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), StatusCode> {
    let text = encoding(headers).and_then(|e| decompress(body, e, max)).map_err(|a| a.status())?;
    let events = shape(headers).and_then(|s| split(&text, s)).map_err(|a| a.status())?;
    events.for_each(each);
    Ok(())
}

fn submit<'t>(
    state: &Shared,
    mut events: impl Iterator<Item = &'t [u8]>,
    text: &[u8],
    key: Option<&[u8]>,
    peer: SocketAddr,
) -> Result<Taken, Refusal> {
    // The same key with another body is another request: nothing may be lost to a client's mistake.
    let key = key.map(|k| {
        let mut d = Digest::default();
        d.update(b"http\0");
        d.update(&sha256(k).0);
        d.update(&sha256(text).0);
        d.finish()
    });
    let source = json::to_canonical(&serde_json::json!({ "intake": "http", "peer": peer.ip().to_string() }))
        .unwrap_or_default();
    let mut converter = Converter::default();
    hand_over(&state.submitter, &source, key, Redelivery::Always, |out| {
        let event = events.next()?;
        converter.json(event, out);
        Some(event.len() + 1)
    })
}

fn decompress(body: Bytes, encoding: Encoding, max: usize) -> Result<Bytes, Answer> {
    let mut out = Vec::new();
    let bad = |e: std::io::Error| {
        refuse(StatusCode::BAD_REQUEST, "content_encoding", format!("cannot decompress: {e}"))
    };
    let limit = max as u64 + 1;
    match encoding {
        Encoding::Identity => return Ok(body),
        Encoding::Gzip => {
            flate2::read::MultiGzDecoder::new(&body[..]).take(limit).read_to_end(&mut out).map_err(bad)?
        }
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(&body[..]).map_err(bad)?;
            // A frame may ask for a window of gigabytes.
            decoder.window_log_max(27).map_err(bad)?;
            decoder.take(limit).read_to_end(&mut out).map_err(bad)?
        }
    };
    if out.len() > max {
        return Err(refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the body decompresses to more than {max} bytes (intake.http.max_body)"),
        ));
    }
    Ok(out.into())
}

/// A TLS acceptor from PEM.
///
/// # Errors
/// A text that names the member of the configuration.
pub fn tls(config: &crate::config::Tls) -> Result<tokio_rustls::TlsAcceptor, String> {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let certificates = |what: &str, pem: &[u8]| -> Result<Vec<CertificateDer<'static>>, String> {
        let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|e| format!("tls.{what}: {e}"))?;
        if list.is_empty() { Err(format!("tls.{what}: no certificate in PEM")) } else { Ok(list) }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for c in certificates("client_ca", pem)? {
                roots.add(c).map_err(|e| format!("tls.client_ca: {e}"))?;
            }
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|e| format!("tls.client_ca: {e}"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(&config.key).map_err(|e| format!("tls.key: {e}"))?;
    let mut server = builder
        .with_single_cert(certificates("certificate", &config.certificate)?, key)
        .map_err(|e| format!("tls: {e}"))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(server)))
}
