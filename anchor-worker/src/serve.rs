//! A small HTTP server: what is asked, and what is answered.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What is asked.
#[derive(Debug)]
pub struct Asked {
    /// How.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The body.
    pub body: Bytes,
}

/// What is answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The content type.
    pub kind: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A line of text.
    pub fn text(status: u16, text: impl Into<String>) -> Answer {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Answer { status, kind: "text/plain; charset=utf-8", body: text.into().into_bytes() }
    }
}

/// Answers a request; may block.
pub type Handler = Arc<dyn Fn(Asked) -> Answer + Send + Sync>;

/// Binds an address.
///
/// # Errors
/// A text that names it.
pub async fn bind(what: &str, listen: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(listen).await.map_err(|e| format!("{what}: {listen}: {e}"))
}

/// Serves until `stop` changes: requests with bodies of at most `limit` bytes, which have to come within `timeout`.
pub async fn run(
    listener: TcpListener,
    handler: Handler,
    limit: usize,
    timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    // So that whoever opens connections and says nothing cannot take all descriptors.
    let slots = Arc::new(tokio::sync::Semaphore::new(256));
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            _ = stop.changed() => return,
        };
        let stream = tokio::select! {
            a = listener.accept() => match a {
                Ok((s, _)) => s,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = stop.changed() => return,
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let service = hyper::service::service_fn(move |r: Request<Incoming>| {
                let handler = handler.clone();
                async move { Ok::<_, Infallible>(answer(r, handler, limit, timeout).await) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            // It ends connections on which nothing is asked, too.
            builder.timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(timeout);
            let connection = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service);
            // Nobody holds a slot for ever.
            let _ = tokio::time::timeout(timeout * 4, connection).await;
        });
    }
}

/// Serves until the process is told to stop (SIGTERM, SIGINT); `ready` is told where.
///
/// # Errors
/// A text that names the address.
pub fn until_told(
    listen: SocketAddr,
    handler: Handler,
    limit: usize,
    timeout: Duration,
    ready: &dyn Fn(SocketAddr),
) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        let listener = bind("listen", listen).await?;
        ready(listener.local_addr().map_err(|e| e.to_string())?);
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(run(listener, handler, limit, timeout, stopped));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(true);
        let _ = server.await;
        Ok(())
    })
}

async fn answer(
    request: Request<Incoming>,
    handler: Handler,
    limit: usize,
    timeout: Duration,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(timeout, Limited::new(body, limit).collect()).await;
    let answer = match body {
        Err(_) => Answer::text(408, "the body did not come in time\n"),
        Ok(Ok(body)) => {
            let asked =
                Asked { method: head.method, path: head.uri.path().to_owned(), body: body.to_bytes() };
            let answered = tokio::task::spawn_blocking(move || handler(asked)).await;
            answered.unwrap_or_else(|_| Answer::text(500, "the server failed\n"))
        }
        Ok(Err(_)) => Answer::text(413, format!("more than {limit} bytes\n")),
    };
    let mut r = Response::new(Full::new(Bytes::from(answer.body)));
    *r.status_mut() = answer.status;
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    r
}
