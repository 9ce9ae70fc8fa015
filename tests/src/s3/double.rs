//! An S3 server that does what healthy ones never do: it cuts connections before and after the commit, answers with
//! storms of 503, dribbles, lists what is old, forgets conditions. What it keeps, it keeps right: versions, conditions
//! and checksums follow AWS's documentation; locks are kept and shown, and there is no call that could break one.

use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use waxseal_trail::hash::sha256;

/// Who may come in.
pub const ACCESS: &str = "testaccesskey";
/// With what.
pub const SECRET: &str = "testsecretkey1234567890";

/// A version that the double keeps.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its id.
    pub id: String,
    /// `None`: a delete marker.
    pub body: Option<Bytes>,
    /// What it says of its digest; base64.
    pub checksum: Option<String>,
    /// Lock mode and end.
    pub lock: Option<(String, SystemTime)>,
    /// Its storage class.
    pub class: Option<String>,
    /// How far a restore is, in the words of the header.
    pub restore: Option<String>,
    written: SystemTime,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// `503 SlowDown`.
    SlowDown,
    /// `500 InternalError`, after the commit.
    ErrorAfter,
    /// The connection ends before the commit.
    CutBefore,
    /// The connection ends after the commit.
    CutAfter,
    /// `409 ConditionalRequestConflict`.
    Conflict,
    /// `403 ExpiredToken`.
    Expired,
    /// `403 RequestTimeTooSkewed`.
    Skewed,
    /// The answer's body comes in drops.
    Slow,
    /// The answer's body ends early.
    Short,
    /// Nothing comes for a while.
    Late,
    /// Nothing comes for ten minutes.
    Hang,
}

/// What may go wrong with a write.
pub const WRITE_FAULTS: [Fault; 7] = [
    Fault::SlowDown,
    Fault::ErrorAfter,
    Fault::CutBefore,
    Fault::CutAfter,
    Fault::Conflict,
    Fault::Expired,
    Fault::Late,
];

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// `If-None-Match` counts.
    pub conditions: bool,
    /// Checksums are kept.
    pub checksums: bool,
    /// The bucket has Object Lock.
    pub lock: bool,
    /// Locks that are sent are kept.
    pub keeps_locks: bool,
    /// Listings are this many changes behind.
    pub stale: usize,
    /// Keys a page of a listing has.
    pub page: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour { conditions: true, checksums: true, lock: true, keeps_locks: true, stale: 0, page: 1000 }
    }
}

/// What goes wrong with a request, by its method and key.
type Plan = Arc<dyn Fn(&str, &str) -> Fault + Send + Sync>;

#[derive(Default)]
struct State {
    /// Oldest first.
    keys: BTreeMap<String, Vec<Kept>>,
    counter: u64,
    behaviour: Behaviour,
    /// Chosen for each request.
    plan: Option<Plan>,
    /// How often each fault was played.
    played: BTreeMap<String, u64>,
    /// How often each method came.
    requests: BTreeMap<String, u64>,
    /// Listings of before.
    past: Vec<BTreeMap<String, Vec<Kept>>>,
}

/// A running double.
#[derive(Clone)]
pub struct Double {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    /// Bytes of objects sent.
    pub sent: Arc<AtomicU64>,
    _runtime: Arc<tokio::runtime::Runtime>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Double {
    /// Starts one on a free port of loopback.
    ///
    /// # Panics
    /// If there is none.
    pub fn start() -> Double {
        let state: Arc<Mutex<State>> = Arc::default();
        let sent: Arc<AtomicU64> = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads can be started");
        let mut service = S3ServiceBuilder::new(Server { state: state.clone(), sent: sent.clone() });
        service.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
        let service = service.build();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        runtime.spawn(serve(listener, service, state.clone()));
        Double { state, address, sent, _runtime: Arc::new(runtime) }
    }

    /// The store's URL for a prefix of its only bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://bucket/{prefix}?endpoint={}&path_style=true&region=us-east-1", self.endpoint())
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes how it behaves.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.state).behaviour);
    }

    /// What goes wrong with which request: given its method and key.
    pub fn plan(&self, plan: impl Fn(&str, &str) -> Fault + Send + Sync + 'static) {
        lock(&self.state).plan = Some(Arc::new(plan));
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        lock(&self.state).plan = None;
    }

    /// How often each fault was played.
    pub fn played(&self) -> BTreeMap<String, u64> {
        lock(&self.state).played.clone()
    }

    /// How often each method came.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        lock(&self.state).requests.clone()
    }

    /// The versions of a key, oldest first.
    pub fn versions(&self, key: &str) -> Vec<Kept> {
        lock(&self.state).keys.get(key).cloned().unwrap_or_default()
    }

    /// All keys.
    pub fn keys(&self) -> Vec<String> {
        lock(&self.state).keys.keys().cloned().collect()
    }

    /// Bytes of all versions.
    pub fn stored(&self) -> u64 {
        let all = lock(&self.state);
        all.keys.values().flatten().filter_map(|v| Some(v.body.as_ref()?.len() as u64)).sum()
    }

    /// Writes behind everybody's back: as whoever else has the right to write does.
    pub fn squat(&self, key: &str, body: &[u8]) {
        let mut s = lock(&self.state);
        let checksum = Some(BASE64.encode(&sha256(body).0));
        let kept = s.fresh(Some(Bytes::copy_from_slice(body)), checksum);
        s.keys.entry(key.to_owned()).or_default().push(kept);
    }

    /// Puts a delete marker on a key.
    pub fn delete(&self, key: &str) {
        let mut s = lock(&self.state);
        let kept = s.fresh(None, None);
        s.keys.entry(key.to_owned()).or_default().push(kept);
    }

    /// Changes the versions of a key, as no server should.
    pub fn tamper(&self, key: &str, change: impl FnOnce(&mut Vec<Kept>)) {
        let mut s = lock(&self.state);
        let versions = s.keys.entry(key.to_owned()).or_default();
        change(versions);
        if versions.is_empty() {
            s.keys.remove(key);
        }
    }
}

impl State {
    fn fresh(&mut self, body: Option<Bytes>, checksum: Option<String>) -> Kept {
        self.counter += 1;
        if self.behaviour.stale > 0 {
            self.past.push(self.keys.clone());
        }
        Kept {
            id: format!("v{:08}", self.counter),
            body,
            checksum,
            lock: None,
            class: None,
            restore: None,
            written: SystemTime::now(),
        }
    }

    fn listed(&self) -> &BTreeMap<String, Vec<Kept>> {
        let behind = self.behaviour.stale.min(self.past.len());
        if behind == 0 { &self.keys } else { &self.past[self.past.len() - behind] }
    }
}

/// An error that ends a connection.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

async fn serve(listener: tokio::net::TcpListener, service: S3Service, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (service, state) = (service.clone(), state.clone());
        let each = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (service, state) = (service.clone(), state.clone());
            async move { answer(request, service, state).await }
        });
        tokio::spawn(async move {
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), each).await;
        });
    }
}

fn refusal(status: u16, code: &str) -> http::Response<Body> {
    let text =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as planned</Message></Error>");
    let mut response = http::Response::new(Body::from(text));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    if code == "RequestTimeTooSkewed" {
        let date = "Thu, 01 Jan 2015 00:00:00 GMT".parse();
        response.headers_mut().extend(date.ok().map(|d| (http::header::DATE, d)));
    }
    response
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
    service: S3Service,
    state: Arc<Mutex<State>>,
) -> Result<http::Response<Body>, Cut> {
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let key = path.strip_prefix("/bucket/").unwrap_or_default().to_owned();
    let fault = {
        // The plan may look at the double, and write to it.
        let plan = lock(&state).plan.clone();
        let fault = plan.map_or(Fault::None, |p| p(&method, &key));
        let mut s = lock(&state);
        *s.requests.entry(method.clone()).or_default() += 1;
        if fault != Fault::None {
            *s.played.entry(format!("{fault:?}")).or_default() += 1;
        }
        fault
    };
    match fault {
        Fault::CutBefore => return Err(Cut),
        Fault::SlowDown => return Ok(refusal(503, "SlowDown")),
        Fault::Conflict => return Ok(refusal(409, "ConditionalRequestConflict")),
        Fault::Expired => return Ok(refusal(403, "ExpiredToken")),
        Fault::Skewed => return Ok(refusal(403, "RequestTimeTooSkewed")),
        Fault::Late => tokio::time::sleep(Duration::from_millis(300)).await,
        Fault::Hang => tokio::time::sleep(Duration::from_secs(600)).await,
        _ => {}
    }
    let response = service.call(request.map(Body::from)).await.map_err(|_| Cut)?;
    match fault {
        Fault::CutAfter => Err(Cut),
        Fault::ErrorAfter => Ok(refusal(500, "InternalError")),
        Fault::Slow | Fault::Short => {
            let (parts, body) = response.into_parts();
            let all = body.collect().await.map_err(|_| Cut)?.to_bytes();
            let cut = if fault == Fault::Short { all.len() / 2 } else { all.len() };
            let step = (all.len() / 8).max(1);
            let pieces: Vec<Bytes> =
                (0..cut).step_by(step).map(|at| all.slice(at..(at + step).min(cut))).collect();
            let short = fault == Fault::Short;
            let stream =
                futures_util::stream::unfold((pieces.into_iter(), short), |(mut left, short)| async move {
                    tokio::time::sleep(Duration::from_millis(15)).await;
                    match left.next() {
                        Some(piece) => Some((Ok::<_, Cut>(http_body::Frame::data(piece)), (left, short))),
                        None if short => Some((Err(Cut), (left, false))),
                        None => None,
                    }
                });
            let body = http_body_util::StreamBody::new(stream);
            Ok(http::Response::from_parts(parts, Body::http_body(body)))
        }
        _ => Ok(response),
    }
}

struct Server {
    state: Arc<Mutex<State>>,
    sent: Arc<AtomicU64>,
}

impl Server {
    fn find(&self, key: &str, version: Option<&str>) -> S3Result<Kept> {
        let s = lock(&self.state);
        let versions = s.keys.get(key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let found = match version {
            Some(id) => versions.iter().find(|v| v.id == id).ok_or_else(|| s3_error!(NoSuchVersion))?,
            None => versions.last().ok_or_else(|| s3_error!(NoSuchKey))?,
        };
        match (&found.body, version) {
            (None, None) => Err(s3_error!(NoSuchKey)),
            (None, Some(_)) => Err(s3_error!(MethodNotAllowed)),
            _ => Ok(found.clone()),
        }
    }
}

#[async_trait::async_trait]
impl S3 for Server {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let body = match input.body {
            Some(body) => {
                let all = Body::from(body).collect().await.map_err(|_| s3_error!(IncompleteBody))?;
                all.to_bytes()
            }
            None => Bytes::new(),
        };
        let mut s = lock(&self.state);
        let there = s.keys.get(&input.key).and_then(|v| v.last()).is_some_and(|v| v.body.is_some());
        if there && s.behaviour.conditions && input.if_none_match.is_some() {
            return Err(s3_error!(PreconditionFailed));
        }
        if input.checksum_sha256.as_ref().is_some_and(|c| *c != BASE64.encode(&sha256(&body).0)) {
            return Err(s3_error!(BadDigest));
        }
        let checksum = input.checksum_sha256.filter(|_| s.behaviour.checksums);
        let mut kept = s.fresh(Some(body), checksum.clone());
        if s.behaviour.keeps_locks {
            kept.lock =
                input.object_lock_mode.zip(input.object_lock_retain_until_date).map(|(mode, until)| {
                    let until: time::OffsetDateTime = until.into();
                    (mode.as_str().to_owned(), until.into())
                });
        }
        kept.class = input.storage_class.map(|c| c.as_str().to_owned());
        let version = kept.id.clone();
        s.keys.entry(input.key).or_default().push(kept);
        Ok(S3Response::new(PutObjectOutput {
            version_id: Some(version),
            checksum_sha256: checksum,
            ..PutObjectOutput::default()
        }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let kept = self.find(&input.key, input.version_id.as_deref())?;
        let archived = kept.class.as_deref().is_some_and(|c| c == "GLACIER" || c == "DEEP_ARCHIVE");
        let restored = kept.restore.as_deref().is_some_and(|r| r.contains("\"false\""));
        if archived && !restored {
            return Err(s3_error!(InvalidObjectState));
        }
        let all = kept.body.unwrap_or_default();
        let (body, range) = match input.range {
            None => (all.clone(), None),
            Some(range) => {
                let r = range.check(all.len() as u64)?;
                let part = all.slice(r.start as usize..r.end as usize);
                (part, Some(format!("bytes {}-{}/{}", r.start, r.end - 1, all.len())))
            }
        };
        self.sent.fetch_add(body.len() as u64, Ordering::Relaxed);
        let length = body.len() as i64;
        let stream = futures_util::stream::once(async move { Ok::<_, std::io::Error>(body) });
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(stream)),
            content_length: Some(length),
            content_range: range,
            version_id: Some(kept.id),
            checksum_sha256: kept.checksum,
            object_lock_mode: kept.lock.as_ref().map(|l| ObjectLockMode::from(l.0.clone())),
            object_lock_retain_until_date: kept.lock.map(|l| l.1.into()),
            storage_class: kept.class.map(StorageClass::from),
            restore: kept.restore,
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let kept = self.find(&input.key, input.version_id.as_deref())?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(kept.body.map_or(0, |b| b.len() as i64)),
            version_id: Some(kept.id),
            checksum_sha256: kept.checksum,
            object_lock_mode: kept.lock.as_ref().map(|l| ObjectLockMode::from(l.0.clone())),
            object_lock_retain_until_date: kept.lock.map(|l| l.1.into()),
            storage_class: kept.class.map(StorageClass::from),
            restore: kept.restore,
            ..HeadObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let s = lock(&self.state);
        let (prefix, after) = (input.prefix.unwrap_or_default(), input.start_after.unwrap_or_default());
        let most = s.behaviour.page.min(input.max_keys.map_or(1000, |n| n as usize));
        let live = |v: &Vec<Kept>| v.last().is_some_and(|v| v.body.is_some());
        let mut found = s
            .listed()
            .iter()
            .filter(|(k, v)| k.starts_with(&prefix) && **k > after && live(v))
            .map(|(k, _)| k.clone());
        let contents: Vec<Object> =
            found.by_ref().take(most).map(|k| Object { key: Some(k), ..Object::default() }).collect();
        let more = found.next().is_some();
        Ok(S3Response::new(ListObjectsV2Output {
            contents: Some(contents),
            is_truncated: Some(more),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = request.input;
        let s = lock(&self.state);
        let prefix = input.prefix.unwrap_or_default();
        let (mark, version) = (input.key_marker.unwrap_or_default(), input.version_id_marker);
        let mut all: Vec<(&String, &Kept)> = Vec::new();
        for (k, versions) in s.listed().iter().filter(|(k, _)| k.starts_with(&prefix) && **k >= mark) {
            let newest_first = versions.iter().rev();
            if *k == mark {
                // After the version that is named; after all of the key if none is.
                let rest = newest_first.skip_while(|v| version.as_ref().is_none_or(|m| v.id != *m)).skip(1);
                all.extend(rest.map(|v| (k, v)));
            } else {
                all.extend(newest_first.map(|v| (k, v)));
            }
        }
        let more = all.len() > s.behaviour.page;
        all.truncate(s.behaviour.page);
        let last = all.last().filter(|_| more).map(|(k, v)| ((*k).clone(), v.id.clone()));
        let mut out = ListObjectVersionsOutput { is_truncated: Some(more), ..Default::default() };
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        for (k, v) in all {
            match &v.body {
                Some(b) => versions.push(ObjectVersion {
                    key: Some(k.clone()),
                    version_id: Some(v.id.clone()),
                    size: Some(b.len() as i64),
                    last_modified: Some(v.written.into()),
                    ..Default::default()
                }),
                None => markers.push(DeleteMarkerEntry {
                    key: Some(k.clone()),
                    version_id: Some(v.id.clone()),
                    ..Default::default()
                }),
            }
        }
        (out.versions, out.delete_markers) = (Some(versions), Some(markers));
        (out.next_key_marker, out.next_version_id_marker) = last.unzip();
        Ok(S3Response::new(out))
    }

    async fn restore_object(
        &self,
        request: S3Request<RestoreObjectInput>,
    ) -> S3Result<S3Response<RestoreObjectOutput>> {
        let input = request.input;
        let mut s = lock(&self.state);
        let versions = s.keys.get_mut(&input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let kept = match &input.version_id {
            Some(id) => versions.iter_mut().find(|v| v.id == *id),
            None => versions.last_mut(),
        };
        let kept = kept.ok_or_else(|| s3_error!(NoSuchVersion))?;
        if kept.restore.is_some() {
            return Err(s3_error!(RestoreAlreadyInProgress));
        }
        kept.restore = Some("ongoing-request=\"true\"".to_owned());
        Ok(S3Response::new(RestoreObjectOutput::default()))
    }

    async fn get_object_lock_configuration(
        &self,
        _: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        if !lock(&self.state).behaviour.lock {
            return Err(s3_error!(ObjectLockConfigurationNotFoundError));
        }
        let enabled = ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED);
        Ok(S3Response::new(GetObjectLockConfigurationOutput {
            object_lock_configuration: Some(ObjectLockConfiguration {
                object_lock_enabled: Some(enabled),
                rule: None,
            }),
        }))
    }
}
