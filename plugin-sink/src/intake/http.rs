//! HTTP intake: `POST /v1/events`, NDJSON or a JSON array, gzip or zstd (docs/http.md).
//!
//! 200 means durable. A broken line among good ones is sealed as `unparsed`, since shippers drop a batch
//! that gets a 400; 400 is only for a body that cannot be split into events at all.

#![allow(clippy::result_large_err)] // an answer is an answer, good or bad; one a request

use crate::chain::{Redelivery, Refusal};
use crate::config::Http;
use crate::intake::body::{self, BodyError, Encoding};
use crate::intake::net::{Listener, PATIENCE, Stream, stopped};
use crate::intake::room::Held;
use crate::intake::{Handed, Intake, MAX_EVENTS, Shared, Task, begin};
use crate::metrics::{Intake as Metrics, Outcome};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use waxseal_trail::hash::{Digest, Hash, sha256};
use waxseal_trail::json;
use waxseal_trail::record::Converter;

/// A listening intake.
pub struct Server {
    listener: Listener,
    state: Arc<State>,
}

struct State {
    shared: Shared,
    token: Option<Hash>,
    max_body: usize,
    metrics: Arc<Metrics>,
}

impl Server {
    /// Binds.
    ///
    /// # Errors
    /// A text that names the address or the TLS file.
    pub async fn bind(config: &Http, shared: Shared) -> Result<Server, String> {
        let metrics = shared.submitter.metrics().intake("http");
        let (at, most) = (config.listen, shared.max_connections);
        let tls = config.tls.as_ref();
        let listener = Listener::bind("http", at, tls, &[b"http/1.1"], most, metrics.clone()).await?;
        let state = State { shared, token: config.token, max_body: config.max_body, metrics };
        Ok(Server { listener, state: Arc::new(state) })
    }
}

impl Intake for Server {
    fn place(&self) -> String {
        format!("events on {}/v1/events", self.listener.place("http"))
    }

    fn run(self: Box<Self>, stop: watch::Receiver<bool>) -> Task {
        let Server { listener, state } = *self;
        Box::pin(listener.run(stop, move |stream, peer, stop| {
            let state = state.clone();
            serve(stream, peer, stop, move |request| {
                let state = state.clone();
                async move { handle(request, peer, &state).await }
            })
        }))
    }
}

/// Serves HTTP/1.1 on a connection.
pub(crate) async fn serve<S, F>(stream: Stream, peer: SocketAddr, mut stop: watch::Receiver<bool>, handle: S)
where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let service = hyper::service::service_fn(|request| {
        let answer = handle(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(PATIENCE).half_close(true);
    let connection = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        r = connection.as_mut() => r,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = result {
        tracing::debug!("{peer}: {e}");
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

/// To be sent again. It is always 503: shippers that drop what is answered with 4xx (rsyslog, Fluentd) drop a 429 too.
fn later(seconds: u64, error: &str, detail: impl std::fmt::Display) -> Answer {
    let mut r = refuse(StatusCode::SERVICE_UNAVAILABLE, error, detail);
    r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    r
}

async fn handle(request: Request<Incoming>, peer: SocketAddr, state: &Arc<State>) -> Answer {
    if request.uri().path() != "/v1/events" {
        return refuse(StatusCode::NOT_FOUND, "not_found", "events are posted to /v1/events");
    }
    if request.method() != Method::POST {
        let mut r = refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "events are posted");
        r.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return r;
    }
    if !body::is_authorised(request.headers(), state.token.as_ref()) {
        state.metrics.count(Outcome::Unauthenticated);
        let mut r =
            refuse(StatusCode::UNAUTHORIZED, "unauthorized", "the bearer token is missing or another");
        r.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return r;
    }
    let began = Instant::now();
    let answer = match events(request, peer, state).await {
        Ok(a) | Err(a) => a,
    };
    match answer.status() {
        StatusCode::OK => state.metrics.answered(began),
        StatusCode::SERVICE_UNAVAILABLE => state.metrics.count(Outcome::Refused),
        _ => state.metrics.count(Outcome::Malformed),
    }
    answer
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Lines,
    ByFirstByte,
}

async fn events(request: Request<Incoming>, peer: SocketAddr, state: &Arc<State>) -> Result<Answer, Answer> {
    let headers = request.headers();
    let encoding = encoding(headers)?;
    let shape = shape(headers)?;
    let key = headers.get("idempotency-key").map(|v| v.as_bytes().to_vec());
    if key.as_ref().is_some_and(|k| k.len() > 1024) {
        return Err(refuse(StatusCode::BAD_REQUEST, "idempotency_key", "longer than 1024 bytes"));
    }
    let (parts, body) = request.into_parts();
    let (max, room) = (state.max_body, &state.shared.room);
    let (bytes, held) = body::collect(body, &parts.headers, max, room).await.map_err(|e| no_body(&e))?;
    let _under_way = state.shared.under_way.one();
    let state = state.clone();
    let (handed, held) = tokio::task::spawn_blocking(move || {
        let body = Body { bytes, held, encoding, shape };
        take(&state, body, key.as_deref(), peer)
    })
    .await
    .unwrap_or_else(|_| Err(later(2, "failing", "this request failed inside the sink")))?;
    let taken = handed.finish().await;
    drop(held);
    match taken {
        Ok(r) => {
            let mut body = serde_json::json!({ "accepted": r.accepted, "unparsed": r.unparsed });
            if r.redelivered {
                body["redelivered"] = true.into();
            }
            Ok(answer(StatusCode::OK, body))
        }
        Err(r) => Err(refused(r)),
    }
}

/// What a client is told of a refusal.
fn refused(r: Refusal) -> Answer {
    match r {
        Refusal::Full => later(5, "full", r),
        Refusal::Closing => later(5, "closing", r),
        Refusal::Failing => later(2, "failing", r),
    }
}

/// What a client is told of a body that was not read.
fn no_body(e: &BodyError) -> Answer {
    match e {
        BodyError::TooLarge(max) => refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the body is over {max} bytes, as it came or decompressed (intake.http.max_body)"),
        ),
        BodyError::Timeout => later(2, "timeout", e),
        BodyError::Busy(e) => later(2, "busy", e),
        BodyError::Broken(e) => refuse(StatusCode::BAD_REQUEST, "body", e),
        BodyError::Packed(_) => refuse(StatusCode::BAD_REQUEST, "content_encoding", e),
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Answer> {
    let name = headers.get(header::CONTENT_ENCODING).map_or(&b""[..], HeaderValue::as_bytes);
    Encoding::named(name).ok_or_else(|| {
        refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_encoding",
            format!("{:?}; gzip, zstd and none are understood", String::from_utf8_lossy(name)),
        )
    })
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
    held: Held,
    encoding: Encoding,
    shape: Shape,
}

/// Decodes and submits. Runs on a thread that may wait.
fn take(state: &State, body: Body, key: Option<&[u8]>, peer: SocketAddr) -> Result<(Handed, Held), Answer> {
    let Body { bytes, mut held, encoding, shape } = body;
    let bytes = body::unpack(bytes, encoding, state.max_body, &state.shared.room, &mut held)
        .map_err(|e| no_body(&e))?;
    let handed = submit(state, split(&bytes, shape)?, &bytes, key, peer).map_err(refused)?;
    Ok((handed, held))
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
    let encoding = encoding(headers).map_err(|a| a.status())?;
    let text = body::unpack_with(&body, encoding, max, &mut |_| Ok(()));
    let text = text.map_err(|e| no_body(&e).status())?;
    let events = shape(headers).and_then(|s| split(&text, s)).map_err(|a| a.status())?;
    events.for_each(each);
    Ok(())
}

fn submit<'t>(
    state: &State,
    mut events: impl Iterator<Item = &'t [u8]>,
    text: &[u8],
    key: Option<&[u8]>,
    peer: SocketAddr,
) -> Result<Handed, Refusal> {
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
    let metrics = &state.metrics;
    metrics.bytes.inc_by(text.len() as u64);
    begin(&state.shared.submitter, &source, key, Redelivery::Always, |out| {
        let event = events.next()?;
        metrics.events.inc();
        converter.json(event, out);
        Some(event.len() + 1)
    })
}
