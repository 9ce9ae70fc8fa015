//! gRPC, as far as Vector and OpenTelemetry speak it to a server: unary calls over HTTP/2.
//!
//! What is spoken is a message behind five bytes, and two trailers. It is done here and not by a framework because here the
//! status codes decide about loss: a shipper drops what is answered with most of them, for good, and frameworks give
//! those answers themselves (`OUT_OF_RANGE` over their size limit, `UNIMPLEMENTED` for an encoding) and unpack before
//! anyone has asked whether there is room (docs/decisions/0007). Sources: the gRPC protocol page ("gRPC over HTTP2"), its
//! status codes page, RFC 9113.

use crate::chain::Refusal;
use crate::intake::body::{self, BodyError, Encoding};
use crate::intake::doubt::{Connection, Delivery, Recognised};
use crate::intake::net::{PATIENCE, Stream, stopped};
use crate::intake::room::Held;
use crate::intake::room::Room;
use crate::intake::{Handed, Shared};
use crate::metrics::{Intake as Metrics, Outcome};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::watch;
use waxseal_trail::hash::Hash;

/// What a stream, and all streams of a connection together, may send before it is read.
const WINDOW: u32 = 256 << 10;
/// Calls of one connection at once; Vector's adaptive concurrency goes to 200 by default, and waits beyond it.
const STREAMS: u32 = 64;

/// A status (google.rpc.Code) with what a person reads. What a shipper retries is [`Code::Unavailable`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number.
    pub code: Code,
    /// Why.
    pub message: String,
}

/// The codes that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Taken.
    Ok = 0,
    /// Can never succeed, whoever sends it and however often.
    InvalidArgument = 3,
    /// There is no such method here.
    Unimplemented = 12,
    /// Not now: to be sent again.
    Unavailable = 14,
    /// The bearer token is missing or another. OpenTelemetry's clients drop on it; it is not used for Vector.
    Unauthenticated = 16,
}

impl Status {
    /// To be sent again.
    pub fn later(why: impl std::fmt::Display) -> Status {
        Status { code: Code::Unavailable, message: why.to_string() }
    }

    /// Never to be sent again.
    pub fn invalid(why: impl std::fmt::Display) -> Status {
        Status { code: Code::InvalidArgument, message: why.to_string() }
    }
}

impl From<Refusal> for Status {
    fn from(r: Refusal) -> Status {
        Status::later(r)
    }
}

impl From<BodyError> for Status {
    fn from(e: BodyError) -> Status {
        match e {
            BodyError::Packed(_) => Status::invalid(e),
            // A larger limit would take it: whoever runs the sink can make it succeed, and until then nothing is lost.
            BodyError::TooLarge(_) => {
                Status::later(format_args!("{e}: raise max_message, or send less at once"))
            }
            BodyError::Timeout | BodyError::Busy(_) | BodyError::Broken(_) => Status::later(e),
        }
    }
}

/// What a path stands for.
pub enum Method {
    /// Brings events.
    Events,
    /// Is answered with this message, whatever was asked.
    Fixed(&'static [u8]),
}

/// Who calls.
pub struct Call {
    /// The client's address.
    pub peer: SocketAddr,
    /// Its connection.
    pub connection: Arc<Connection>,
}

/// A request whose events are on their way.
pub struct Begun {
    /// The events.
    pub handed: Handed,
    /// What to tell of its acknowledgement.
    pub delivery: Delivery,
    /// Which of its events came before, and what recognises each of them when it comes again; for events that have ids.
    pub events: Option<(Recognised, Arc<[Hash]>)>,
}

impl Begun {
    /// Waits until all of it is durable.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn finish(self) -> Result<(), Refusal> {
        self.handed.finish().await?;
        self.delivery.answered();
        if let Some((recognised, events)) = self.events {
            recognised.taken(events);
        }
        Ok(())
    }
}

/// A gRPC service that takes events.
pub trait Service: Send + Sync + 'static {
    /// What a path (`/package.Service/Method`) stands for.
    ///
    /// # Errors
    /// The status to answer if there is no such method.
    fn method(&self, path: &str) -> Result<Method, Status>;

    /// Decodes a message and hands its events over. Called on a thread that may wait.
    ///
    /// # Errors
    /// The status to answer.
    fn take(&self, call: &Call, message: &Bytes) -> Result<Begun, Status>;
}

/// A service and what it is held to.
pub struct Server<S> {
    /// The service.
    pub service: S,
    /// What the intakes share.
    pub shared: Shared,
    /// Its numbers.
    pub metrics: Arc<Metrics>,
    /// SHA-256 of the bearer token that callers must send.
    pub token: Option<Hash>,
    /// Bytes of a message, as it comes and unpacked.
    pub max_message: usize,
}

impl<S: Service> Server<S> {
    /// Serves one connection until it ends, or `stop` changes and what is under way is done.
    pub async fn serve(self: Arc<Self>, stream: Stream, peer: SocketAddr, mut stop: watch::Receiver<bool>) {
        let connection = Connection::new(self.shared.doubts.clone());
        let service = hyper::service::service_fn(move |request| {
            let (server, call) = (self.clone(), Call { peer, connection: connection.clone() });
            async move { Ok::<_, Infallible>(server.answer(request, call).await) }
        });
        let mut builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        builder
            .timer(hyper_util::rt::TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(16 << 10)
            .keep_alive_interval(PATIENCE)
            .keep_alive_timeout(PATIENCE);
        let io = hyper_util::rt::TokioIo::new(stream);
        let connection = builder.serve_connection(io, service);
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

    async fn answer(self: Arc<Self>, request: Request<Incoming>, call: Call) -> Response<Message> {
        let began = Instant::now();
        let metrics = self.metrics.clone();
        let peer = call.peer;
        // A call whose client goes away is finished all the same: what is on its way becomes durable, and is then known.
        let called = tokio::spawn(self.call(request, call)).await;
        match called.unwrap_or_else(|_| Err(Status::later("this request failed inside the sink"))) {
            Ok((message, counted)) => {
                if counted {
                    metrics.answered(began);
                }
                respond(Some(message), None)
            }
            Err(status) => {
                metrics.count(match status.code {
                    Code::Unavailable => Outcome::Refused,
                    Code::Unauthenticated => Outcome::Unauthenticated,
                    _ => Outcome::Malformed,
                });
                tracing::debug!("{peer}: {status:?}");
                respond(None, Some(&status))
            }
        }
    }

    /// The answer, and whether events were taken.
    async fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        call: Call,
    ) -> Result<(&'static [u8], bool), Status> {
        let method = self.service.method(request.uri().path())?;
        if request.method() != hyper::Method::POST {
            return Err(Status { code: Code::Unimplemented, message: "calls are POST".to_owned() });
        }
        if !body::is_authorised(request.headers(), self.token.as_ref()) {
            let message = "the bearer token is missing or another".to_owned();
            return Err(Status { code: Code::Unauthenticated, message });
        }
        let encoding = encoding(request.headers())?;
        let (packed, message, mut held) =
            receive(request.into_body(), self.max_message, &self.shared.room).await?;
        if let Method::Fixed(answer) = method {
            return Ok((answer, false));
        }
        let server = self.clone();
        let (begun, held) = tokio::task::spawn_blocking(move || {
            let message = match packed {
                false => message,
                true => body::unpack(message, encoding, server.max_message, &server.shared.room, &mut held)?,
            };
            server.metrics.bytes.inc_by(message.len() as u64);
            server.service.take(&call, &message).map(|begun| (begun, held))
        })
        .await
        .unwrap_or_else(|_| Err(Status::later("this request failed inside the sink")))?;
        begun.finish().await?;
        drop(held);
        Ok((b"", true))
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Status> {
    let name = headers.get("grpc-encoding").map_or(&b""[..], HeaderValue::as_bytes);
    Encoding::named(name).ok_or_else(|| Status {
        code: Code::Unimplemented,
        message: format!(
            "grpc-encoding {:?}; gzip, zstd and identity are understood",
            String::from_utf8_lossy(name)
        ),
    })
}

/// Reads the one message of a unary call: whether it is packed, and its bytes. Room is taken as they come, so that nobody
/// holds what it only declares.
async fn receive(mut body: Incoming, max: usize, room: &Room) -> Result<(bool, Bytes, Held), Status> {
    const FIRST: usize = 64 << 10;
    let mut held = room.take(FIRST).await.map_err(BodyError::from)?;
    let (mut reserved, mut out) = (FIRST, BytesMut::new());
    let mut length = None;
    let read = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(BodyError::from)?.into_data() else { continue };
            if out.len() + data.len() > reserved {
                let whole = length.map_or(usize::MAX, |n| n + PREFIX);
                reserved = (out.len() + data.len()).saturating_mul(2).min(whole).max(out.len() + data.len());
                room.resize(&mut held, reserved).await.map_err(BodyError::from)?;
                out.reserve(reserved - out.len());
            }
            out.extend_from_slice(&data);
            if length.is_none() && out.len() >= PREFIX {
                let n = (&out[1..PREFIX]).get_u32() as usize;
                if n > max {
                    return Err(BodyError::TooLarge(max).into());
                }
                length = Some(n);
            }
            if length.is_some_and(|n| out.len() > n + PREFIX) {
                return Err(Status::invalid("more than the one message of a unary call"));
            }
        }
        Ok(())
    };
    tokio::time::timeout(body::patience(max), read).await.map_err(|_| BodyError::Timeout)??;
    if length.is_none_or(|n| out.len() < n + PREFIX) {
        return Err(Status::invalid("the message is cut short"));
    }
    let packed = match out[0] {
        0 => false,
        1 => true,
        other => return Err(Status::invalid(format_args!("a message with flag {other}"))),
    };
    Ok((packed, out.split_off(PREFIX).freeze(), held))
}

/// A flag and a length stand before each message.
const PREFIX: usize = 5;

fn respond(message: Option<&[u8]>, status: Option<&Status>) -> Response<Message> {
    let mut headers = HeaderMap::new();
    let code = status.map_or(Code::Ok, |s| s.code);
    headers.insert("grpc-status", HeaderValue::from(code as u16));
    if let Some(status) = status
        && let Ok(text) = HeaderValue::try_from(percent(&status.message))
    {
        headers.insert("grpc-message", text);
    }
    let data = message.map(|m| {
        let mut framed = BytesMut::with_capacity(PREFIX + m.len());
        framed.put_u8(0);
        framed.put_u32(m.len() as u32);
        framed.put_slice(m);
        framed.freeze()
    });
    // Without a message the status stands in the one block of headers that there is.
    let mut response = Response::new(Message { data, trailers: None });
    if response.body().data.is_some() {
        response.body_mut().trailers = Some(headers);
    } else {
        *response.headers_mut() = headers;
    }
    *response.status_mut() = StatusCode::OK;
    let h = response.headers_mut();
    h.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    h.insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip,zstd"));
    response
}

/// `Percent-Encoded` of the gRPC protocol page.
fn percent(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b' '..=b'~' if b != b'%' => out.push(b as char),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// An answer's body: a message, if there is one, and trailers behind it.
pub struct Message {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Message {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }
}
