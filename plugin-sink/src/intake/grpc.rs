//! gRPC, as far as Vector and OpenTelemetry speak it to a server: unary calls over HTTP/2.
//!
//! What is spoken is a message behind five bytes, and two trailers. It is done here and not by a framework because here the
//! status codes decide about loss: a shipper drops what is answered with most of them, for good, and frameworks give
//! those answers themselves (`OUT_OF_RANGE` over their size limit, `UNIMPLEMENTED` for an encoding) and unpack before
//! anyone has asked whether there is room (docs/decisions/0007). Sources: the gRPC protocol page ("gRPC over HTTP2"), its
//! status codes page, RFC 9113.

use crate::chain::Refusal;
use crate::intake::body::{self, BodyError, Buffer, Encoding, FIRST};
use crate::intake::doubt::{self, Connection, Delivery, Recognised};
use crate::intake::net::{PATIENCE, Stream, stopped};
use crate::intake::room::Held;
use crate::intake::room::Room;
use crate::intake::{Handed, Shared, UnderWay};
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
use std::time::{Duration, Instant};
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
    /// Which of its events came before, and what recognises each of them when it comes again; for events that have ids.
    pub events: Option<(Recognised, Arc<[Hash]>)>,
}

/// A message that has come whole, and the room that it has.
pub struct Packet {
    /// What it is.
    pub bytes: Bytes,
    /// How it is packed.
    pub encoding: Encoding,
    /// Bytes that it may have unpacked.
    pub max: usize,
    /// Its room.
    pub held: Held,
}

/// Takes a message in and waits until all of it is durable. It is finished also if nobody waits for that any more: what is
/// on its way becomes durable, and is then known to have been taken.
///
/// # Errors
/// The status to answer.
pub async fn deliver<T>(
    shared: &Shared,
    connection: &Arc<Connection>,
    mut packet: Packet,
    take: T,
) -> Result<(), Status>
where
    T: FnOnce(&doubt::Incoming, Bytes, &mut Held) -> Result<Begun, Status> + Send + 'static,
{
    let delivery = Delivery::new(connection);
    let (incoming, room, under_way) = (delivery.incoming(), shared.room.clone(), shared.under_way.one());
    let taken = tokio::spawn(async move {
        let (begun, incoming, held) = tokio::task::spawn_blocking(move || {
            let Packet { bytes, encoding, max, ref mut held } = packet;
            let message = body::unpack(bytes, encoding, max, &room, held)?;
            take(&incoming, message, held).map(|begun| (begun, incoming, packet.held))
        })
        .await
        .unwrap_or_else(|_| Err(Status::later("this request failed inside the sink")))?;
        let taken = begun.handed.finish().await?;
        // Of a request that was recognised as a whole, the events are remembered already, unless they were in doubt.
        if let Some((recognised, events)) = begun.events
            && !(taken.redelivered && recognised.events().is_empty())
        {
            recognised.taken(events, incoming.what());
        }
        drop((held, incoming, under_way));
        Ok(())
    });
    taken.await.unwrap_or_else(|_| Err(Status::later("this request failed inside the sink")))?;
    delivery.answered();
    Ok(())
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
    fn take(
        &self,
        peer: SocketAddr,
        incoming: &doubt::Incoming,
        message: Bytes,
        held: &mut Held,
    ) -> Result<Begun, Status>;
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
        let client = Connection::new(self.shared.doubts.clone());
        let of_call = client.clone();
        let calls = UnderWay::default();
        let counted = calls.clone();
        let service = hyper::service::service_fn(move |request| {
            let (server, call) = (self.clone(), Call { peer, connection: of_call.clone() });
            let under_way = counted.one();
            async move {
                let answer = server.answer(request, call).await;
                drop(under_way);
                Ok::<_, Infallible>(answer)
            }
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
                tokio::select! {
                    r = connection => r,
                    () = silence(&calls) => Ok(()),
                }
            }
        };
        client.ended();
        if let Err(e) = result {
            tracing::debug!("{peer}: {e}");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, call: Call) -> Response<Message> {
        let began = Instant::now();
        let metrics = self.metrics.clone();
        let peer = call.peer;
        match self.call(request, call).await {
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
        let max = self.max_message;
        let (packed, bytes, held) = receive(request.into_body(), max, &self.shared.room).await?;
        if let Method::Fixed(answer) = method {
            return Ok((answer, false));
        }
        let encoding = if packed { encoding } else { Encoding::Identity };
        let packet = Packet { bytes, encoding, max, held };
        let server = self.clone();
        deliver(&self.shared, &call.connection, packet, move |incoming, message, held| {
            server.metrics.bytes.inc_by(message.len() as u64);
            server.service.take(call.peer, incoming, message, held)
        })
        .await?;
        Ok((b"", true))
    }
}

/// Waits until no call has been under way for a while: a client that keeps its connection open need not close it.
async fn silence(calls: &UnderWay) {
    const LONG: u32 = 10;
    let mut quiet = 0;
    while quiet < LONG {
        tokio::time::sleep(Duration::from_millis(50)).await;
        quiet = if calls.is_any() { 0 } else { quiet + 1 };
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
    let mut held = room.take(FIRST).await.map_err(BodyError::from)?;
    let mut buffer = Buffer { bytes: BytesMut::new(), reserved: FIRST };
    let began = tokio::time::Instant::now();
    let mut length = None;
    loop {
        // Until its length is known it is short.
        let due = began + body::patience(length.unwrap_or(0));
        let frame = tokio::time::timeout_at(due, body.frame()).await.map_err(|_| BodyError::Timeout)?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(BodyError::from)?.into_data() else { continue };
        let whole = length.map(|n| n + PREFIX);
        buffer.push(&data, whole, room, &mut held).await.map_err(BodyError::from)?;
        let out = &buffer.bytes;
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
    let mut out = buffer.bytes;
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
