//! A write-once store in a bucket with Object Lock.
//!
//! Every object is written with `If-None-Match: *`, its SHA-256, a lock mode and a retain-until, from memory and in one
//! request. What makes the lock one is the server's; `waxseal bucket check` tries whether it is.

mod connect;
mod errors;
mod settings;

pub use connect::{client, configuration};
pub use errors::causes;
pub use settings::{Encryption, Settings};

use crate::{
    At, Head, Kind, Mark, Object, Page, Put, Requests, Retain, Store, StoreError, Version, Versions, Written,
};
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{ConfigBag, Credentials, Intercept, RuntimeComponents, timeout::TimeoutConfig};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ChecksumMode, GlacierJobParameters, ObjectLockEnabled, ObjectLockLegalHoldStatus, ObjectLockMode,
    ObjectLockRetention, ObjectLockRetentionMode, RestoreRequest, ServerSideEncryption, StorageClass, Tier,
};
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeTransmitInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use errors::{Answer, failed};
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use waxseal_trail::hash::Hash;
use waxseal_trail::statement::Lock;
use waxseal_trail::time::Time;

/// Larger objects are read in parts of this, some at once.
const PART: u64 = 8 << 20;
/// Small objects that are read at once.
const READS: usize = 32;
/// Tries of a write that met another write of the same key.
const CONFLICTS: u32 = 8;
/// How often at most the credentials are looked up anew because a server refused them.
const RENEW: Duration = Duration::from_secs(5);

/// A bucket as a write-once store.
pub struct S3Store {
    inner: Arc<Inner>,
    abandoned: AtomicBool,
    // Dropped last: what runs in it ends with it.
    runtime: Option<tokio::runtime::Runtime>,
}

struct Inner {
    settings: Settings,
    credentials: Option<Credentials>,
    client: RwLock<Client>,
    renewed: Mutex<Option<Instant>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    get: AtomicU64,
    head: AtomicU64,
    list: AtomicU64,
    put: AtomicU64,
    other: AtomicU64,
    sent: AtomicU64,
}

/// Counts what is really sent, each try of each call.
#[derive(Debug)]
struct Count(Arc<Counts>);

impl Intercept for Count {
    fn name(&self) -> &'static str {
        "CountRequests"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Signs with the digest that is known already, instead of hashing the body once more.
#[derive(Debug)]
struct KnownDigest(Hash);

impl Intercept for KnownDigest {
    fn name(&self) -> &'static str {
        "KnownDigest"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let digest = HEXLOWER.encode(&self.0.0);
        cfg.interceptor_state().store_put(PayloadSigningOverride::Precomputed(digest));
        Ok(())
    }
}

impl S3Store {
    /// Makes a client. The bucket is not asked yet.
    ///
    /// # Errors
    /// A text, if there is no region, or a file that the settings name cannot be read.
    pub fn open(settings: &Settings) -> Result<S3Store, String> {
        S3Store::open_as(settings, None)
    }

    /// [`S3Store::open`] with credentials of one's own, instead of those that the SDK's default chain finds.
    ///
    /// # Errors
    /// As [`S3Store::open`].
    pub fn open_as(settings: &Settings, credentials: Option<Credentials>) -> Result<S3Store, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("wax-s3")
            .enable_all()
            .build()
            .map_err(|e| format!("no threads for {}: {e}", settings.place()))?;
        let (tx, rx) = sync_channel(1);
        let (s, counts) = (settings.clone(), Arc::new(Counts::default()));
        let (c, own) = (counts.clone(), credentials.clone());
        runtime.spawn(async move { tx.send(make_client(&s, own, &c).await) });
        let client = rx.recv().unwrap_or_else(|e| Err(e.to_string()))?;
        let inner = Inner {
            settings: settings.clone(),
            credentials,
            client: RwLock::new(client),
            renewed: Mutex::new(None),
            counts,
        };
        Ok(S3Store { inner: Arc::new(inner), abandoned: AtomicBool::new(false), runtime: Some(runtime) })
    }

    /// Runs on the store's own threads, whatever thread this is: a future must not be waited for on a thread that
    /// drives futures.
    fn wait<T, F>(&self, future: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let gone = || ended("reach", "");
        let (tx, rx) = sync_channel(1);
        let runtime = self.runtime.as_ref().ok_or_else(gone)?;
        runtime.spawn(async move {
            let _ = tx.send(future.await);
        });
        loop {
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(gone());
            }
            match rx.recv_timeout(Duration::from_millis(100)) {
                Err(RecvTimeoutError::Timeout) => {}
                other => return other.map_err(|_| gone())?,
            }
        }
    }

    /// Puts an object; `condition`: only where nothing is.
    fn put(
        &self,
        key: &str,
        body: &Bytes,
        digest: &Hash,
        retain: &Retain,
        condition: bool,
    ) -> Result<Option<Written>, StoreError> {
        let (inner, key, body) = (self.inner.clone(), key.to_owned(), body.clone());
        let (digest, retain) = (*digest, *retain);
        self.wait(async move { inner.put(&key, body, digest, retain, condition).await })
    }

    /// Whether a version, or the current one, is exactly these bytes, and locked as long as they are to be.
    fn is_ours(
        &self,
        at: &At,
        body: &Bytes,
        digest: &Hash,
        retain: &Retain,
    ) -> Result<Option<Written>, StoreError> {
        let Some(head) = self.head(at)? else { return Ok(None) };
        if head.bytes != body.len() as u64 || !retain.is_kept_by(head.retain) {
            return Ok(None);
        }
        let same = match head.sha256 {
            Some(there) => there == *digest,
            None => {
                let at = At { bytes: Some(head.bytes), version: head.version.clone(), ..at.clone() };
                self.read(&at, head.bytes)?.and_then(|o| o.body).is_some_and(|b| b == *body)
            }
        };
        Ok(same.then_some(Written { version: head.version }))
    }

    /// A write where the server ignores conditions: what is there is looked at before and after.
    fn put_and_look(
        &self,
        key: &str,
        body: &Bytes,
        digest: &Hash,
        retain: &Retain,
    ) -> Result<Put, StoreError> {
        let there = |v: &Version| !v.delete_marker;
        let before: Vec<Version> = self.versions(key)?.into_iter().filter(there).collect();
        if let Some(oldest) = before.first() {
            let at = At { key: key.to_owned(), version: oldest.id.clone(), bytes: oldest.bytes };
            return Ok(self.is_ours(&at, body, digest, retain)?.map_or(Put::Other, Put::Same));
        }
        let Some(written) = self.put(key, body, digest, retain, false)? else { return Ok(Put::Other) };
        let after: Vec<Version> = self.versions(key)?.into_iter().filter(there).collect();
        // The first one is the object; two who wrote at once both see who that is.
        match after.first() {
            Some(first) if first.id == written.version => Ok(Put::Created(written)),
            _ => Ok(Put::Other),
        }
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        // Never waits: a call that is under way is retried from the spool.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn make_client(
    settings: &Settings,
    credentials: Option<Credentials>,
    counts: &Arc<Counts>,
) -> Result<Client, String> {
    let found = configuration(settings).await?;
    let mut config = client(settings, &found).config().to_builder().interceptor(Count(counts.clone()));
    if let Some(own) = credentials {
        config = config.credentials_provider(own);
    }
    Ok(Client::from_conf(config.build()))
}

fn lock_mode(lock: Lock) -> Option<ObjectLockMode> {
    match lock {
        Lock::Compliance => Some(ObjectLockMode::Compliance),
        Lock::Governance => Some(ObjectLockMode::Governance),
        Lock::None => None,
    }
}

fn retention_mode(lock: Lock) -> Option<ObjectLockRetentionMode> {
    match lock {
        Lock::Compliance => Some(ObjectLockRetentionMode::Compliance),
        Lock::Governance => Some(ObjectLockRetentionMode::Governance),
        Lock::None => None,
    }
}

fn retain_of(mode: Option<&ObjectLockMode>, until: Option<&DateTime>) -> Option<Retain> {
    let lock = match mode? {
        ObjectLockMode::Compliance => Lock::Compliance,
        ObjectLockMode::Governance => Lock::Governance,
        _ => return None,
    };
    Some(Retain { lock, until: Time::from_unix(until?.secs(), 0)? })
}

fn digest_of(checksum: Option<&str>) -> Option<Hash> {
    let bytes = BASE64.decode(checksum?.as_bytes()).ok()?;
    Some(Hash(bytes.try_into().ok()?))
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// Whether a class has to be restored from before it can be read.
fn is_archive(class: Option<&str>) -> bool {
    matches!(class, Some("GLACIER" | "DEEP_ARCHIVE"))
}

macro_rules! head_of {
    ($o:expr, $bytes:expr) => {{
        let o = $o;
        let restored = o.restore().is_some_and(|r| r.contains("ongoing-request=\"false\""));
        let class = o.storage_class().map(|c| c.as_str().to_owned());
        Head {
            bytes: $bytes,
            retain: retain_of(o.object_lock_mode(), o.object_lock_retain_until_date()),
            sha256: digest_of(o.checksum_sha256()),
            version: o.version_id().filter(|v| *v != "null").map(str::to_owned),
            archived: is_archive(class.as_deref()) && !restored,
            restoring: o.restore().is_some_and(|r| r.contains("ongoing-request=\"true\"")),
            hold: o.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On),
            class,
        }
    }};
}

impl Inner {
    fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.settings.prefix)
    }

    /// After a call: counts what it took, and looks the credentials up anew if it was refused for theirs.
    async fn told<T>(&self, count: &AtomicU64, result: Result<T, StoreError>) -> Result<T, StoreError> {
        count.fetch_add(1, Ordering::Relaxed);
        if let Err(e) = &result
            && e.kind == Kind::Credentials
        {
            let due = {
                let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
                let due = renewed.is_none_or(|t| t.elapsed() >= RENEW);
                if due {
                    *renewed = Some(Instant::now());
                }
                due
            };
            if due
                && let Ok(client) = make_client(&self.settings, self.credentials.clone(), &self.counts).await
            {
                *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
            }
        }
        result
    }

    async fn put(
        &self,
        key: &str,
        body: Bytes,
        digest: Hash,
        retain: Retain,
        condition: bool,
    ) -> Result<Option<Written>, StoreError> {
        let s = &self.settings;
        let events = key.starts_with("events/");
        for tried in 0.. {
            let mut put = self
                .client()
                .put_object()
                .bucket(&s.bucket)
                .key(self.full(key))
                .content_length(i64::try_from(body.len()).unwrap_or(i64::MAX))
                .content_type(if key.ends_with(".json") {
                    "application/json"
                } else {
                    "application/octet-stream"
                })
                .checksum_sha256(BASE64.encode(&digest.0))
                .set_if_none_match(condition.then(|| "*".to_owned()))
                .set_storage_class(s.storage_class.as_deref().filter(|_| events).map(StorageClass::from));
            if let Some(mode) = lock_mode(retain.lock) {
                put = put
                    .object_lock_mode(mode)
                    .object_lock_retain_until_date(DateTime::from_secs(retain.until.unix_seconds()));
            }
            put = match &s.encryption {
                Encryption::S3 => put.server_side_encryption(ServerSideEncryption::Aes256),
                Encryption::Kms { key, bucket_key } => put
                    .server_side_encryption(ServerSideEncryption::AwsKms)
                    .set_ssekms_key_id(key.clone())
                    .bucket_key_enabled(*bucket_key),
                Encryption::Bucket => put,
            };
            if s.content_md5 {
                use md5::Digest as _;
                put = put.content_md5(BASE64.encode(&md5::Md5::digest(&body)));
            }
            // A slow link may take its time, but not for ever: 64 KiB a second.
            let patience = Duration::from_secs(30 + (body.len() as u64 >> 16));
            let sent = put
                .body(ByteStream::from(body.clone()))
                .customize()
                .interceptor(KnownDigest(digest))
                .config_override(
                    aws_sdk_s3::config::Builder::new()
                        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(patience).build()),
                )
                .send()
                .await;
            let e = match sent {
                Ok(out) => {
                    self.counts.put.fetch_add(1, Ordering::Relaxed);
                    let version = out.version_id().filter(|v| *v != "null").map(str::to_owned);
                    return Ok(Some(Written { version }));
                }
                Err(e) => e,
            };
            let answer = Answer::of(&e).map(|a| (a.status, a.code));
            match answer.as_ref().map(|(status, code)| (*status, code.as_str())) {
                // Something is there; perhaps by an earlier try of ours whose answer was lost.
                Some((412, _)) if condition => {
                    self.counts.put.fetch_add(1, Ordering::Relaxed);
                    return Ok(None);
                }
                // Two writes met. Which of them is there is found out by writing again.
                Some((409, _)) if tried < CONFLICTS => {
                    self.counts.put.fetch_add(1, Ordering::Relaxed);
                    let most = 50u64 << tried.min(6);
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(most / 2..=most))).await;
                }
                _ => return self.told(&self.counts.put, Err(failed("write", key, e))).await,
            }
        }
        Ok(None)
    }

    async fn head(&self, at: &At) -> Result<Option<Head>, StoreError> {
        let sent = self
            .client()
            .head_object()
            .bucket(&self.settings.bucket)
            .key(self.full(&at.key))
            .set_version_id(at.version.clone())
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        let head = match sent {
            Ok(o) => Ok(Some(head_of!(&o, size(o.content_length())))),
            // A HEAD has no body, and so no code.
            Err(e) if Answer::of(&e).is_some_and(|a| a.status == 404 || a.status == 405) => Ok(None),
            Err(e) => Err(failed("look at", &at.key, e)),
        };
        self.told(&self.counts.head, head).await
    }

    /// Reads an object, or a part of it.
    async fn get(
        &self,
        at: &At,
        range: Option<Range<u64>>,
        limit: u64,
    ) -> Result<Option<Object>, StoreError> {
        let key = &at.key;
        let last = range.as_ref().map(|r| r.end.saturating_sub(1));
        let sent = self
            .client()
            .get_object()
            .bucket(&self.settings.bucket)
            .key(self.full(key))
            .set_version_id(at.version.clone())
            .set_range(range.as_ref().zip(last).map(|(r, last)| format!("bytes={}-{last}", r.start)))
            .send()
            .await;
        let mut o = match sent {
            Ok(o) => o,
            Err(e) => {
                let answer = Answer::of(&e);
                let none = answer.as_ref().is_some_and(|a| {
                    a.status == 404 && a.code != "NoSuchBucket" || matches!(a.code.as_str(), "NoSuchVersion")
                        // A delete marker, asked for by its version.
                        || a.status == 405
                });
                // Nothing is there behind the end of an object.
                let empty = answer.is_some_and(|a| a.status == 416);
                let result = if none {
                    Ok(None)
                } else if empty {
                    Ok(Some(Object { head: Head::default(), body: Some(Vec::new()) }))
                } else {
                    Err(failed("read", key, e))
                };
                return self.told(&self.counts.get, result).await;
            }
        };
        self.counts.get.fetch_add(1, Ordering::Relaxed);
        let length = size(o.content_length());
        // "bytes 0-99/1234": the size of the whole.
        let whole = o.content_range().and_then(|r| r.rsplit_once('/')?.1.parse().ok()).unwrap_or(length);
        let head = head_of!(&o, whole);
        if whole > limit || length > limit {
            return Ok(Some(Object { head, body: None }));
        }
        let mut body = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let cut = |e: String| {
            StoreError::new("read", key, Kind::Unavailable, io::Error::new(io::ErrorKind::UnexpectedEof, e))
        };
        while let Some(chunk) = o.body.next().await {
            let chunk = chunk.map_err(|e| cut(e.to_string()))?;
            if body.len() as u64 + chunk.len() as u64 > length {
                return Err(cut(format!("more than the {length} bytes that were announced")));
            }
            body.extend_from_slice(&chunk);
        }
        if body.len() as u64 != length {
            return Err(cut(format!("{} of {length} bytes", body.len())));
        }
        Ok(Some(Object { head, body: Some(body) }))
    }

    /// Tries a read again whose body was cut: the SDK only retries what comes before the body.
    async fn get_patiently(
        &self,
        at: &At,
        range: Option<Range<u64>>,
        limit: u64,
    ) -> Result<Option<Object>, StoreError> {
        let mut tried = 0;
        loop {
            match self.get(at, range.clone(), limit).await {
                Err(e) if e.source.kind() == io::ErrorKind::UnexpectedEof && tried < 3 => {
                    tried += 1;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(50..=100 << tried))).await;
                }
                other => return other,
            }
        }
    }

    /// Reads an object; a large one in parts, some at once.
    async fn read(self: Arc<Self>, at: At, limit: u64) -> Result<Option<Object>, StoreError> {
        let expected = at.bytes.filter(|b| *b <= limit).unwrap_or(0);
        if expected <= 2 * PART {
            return self.get_patiently(&at, None, limit).await;
        }
        let first = self.get_patiently(&at, Some(0..PART), limit).await?;
        let Some(Object { head, body: Some(mut body) }) = first else { return Ok(first) };
        body.reserve_exact(usize::try_from(head.bytes.saturating_sub(PART)).unwrap_or(0));
        // The other parts are of the version that the first was of.
        let at = At { version: head.version.clone().or(at.version), ..at };
        let mut next = body.len() as u64;
        let mut parts = std::collections::VecDeque::new();
        loop {
            while parts.len() < self.settings.concurrency && next < head.bytes {
                let range = next..(next + PART).min(head.bytes);
                next = range.end;
                let (me, at) = (self.clone(), at.clone());
                let want = range.end - range.start;
                let part = tokio::spawn(async move { me.get_patiently(&at, Some(range), limit).await });
                parts.push_back((part, want));
            }
            let Some((part, want)) = parts.pop_front() else { break };
            let part = part.await.map_err(|e| {
                StoreError::new("read", &at.key, Kind::Unavailable, io::Error::other(e.to_string()))
            })??;
            match part.and_then(|o| o.body) {
                Some(b) if b.len() as u64 == want => body.extend_from_slice(&b),
                _ => {
                    let why = io::Error::other("it changed while it was read");
                    return Err(StoreError::new("read", &at.key, Kind::Unavailable, why));
                }
            }
        }
        Ok(Some(Object { head, body: Some(body) }))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let sent = self
            .client()
            .list_objects_v2()
            .bucket(&self.settings.bucket)
            .prefix(self.full(prefix))
            .set_start_after(after.map(|a| self.full(a)))
            .max_keys(i32::try_from(limit.min(1000)).unwrap_or(1000))
            .send()
            .await;
        let page = sent.map_err(|e| failed("list", prefix, e)).map(|o| Page {
            keys: o
                .contents()
                .iter()
                .filter_map(|c| c.key()?.strip_prefix(&*self.settings.prefix).map(str::to_owned))
                .collect(),
            more: o.is_truncated() == Some(true),
        });
        self.told(&self.counts.list, page).await
    }

    async fn list_versions(&self, prefix: &str, after: Option<&Mark>) -> Result<Versions, StoreError> {
        let sent = self
            .client()
            .list_object_versions()
            .bucket(&self.settings.bucket)
            .prefix(self.full(prefix))
            .set_key_marker(after.map(|m| self.full(&m.key)))
            .set_version_id_marker(after.and_then(|m| m.version.clone()))
            .send()
            .await;
        let listed = sent.map_err(|e| failed("list the versions of", prefix, e)).map(|o| {
            let strip = |k: Option<&str>| k?.strip_prefix(&*self.settings.prefix).map(str::to_owned);
            let id = |v: Option<&str>| v.map(str::to_owned);
            // Versions and markers come in two lists, each newest first. How they lie between each other does not
            // matter: a marker is no version of the object, and hides none from whoever asks for versions.
            let mut versions: Vec<Version> = o
                .versions()
                .iter()
                .filter_map(|v| {
                    Some(Version {
                        key: strip(v.key())?,
                        id: id(v.version_id()),
                        bytes: v.size().and_then(|n| u64::try_from(n).ok()),
                        delete_marker: false,
                    })
                })
                .collect();
            versions.extend(o.delete_markers().iter().filter_map(|m| {
                Some(Version {
                    key: strip(m.key())?,
                    id: id(m.version_id()),
                    bytes: None,
                    delete_marker: true,
                })
            }));
            versions.sort_by(|a, b| a.key.cmp(&b.key));
            let next = (o.is_truncated() == Some(true))
                .then(|| {
                    let key = strip(o.next_key_marker())?;
                    Some(Mark { key, version: id(o.next_version_id_marker()) })
                })
                .flatten();
            Versions { versions, next }
        });
        self.told(&self.counts.list, listed).await
    }

    async fn restore(&self, at: &At, days: u16) -> Result<bool, StoreError> {
        // The cheapest tier: hours, not minutes.
        let how = GlacierJobParameters::builder()
            .tier(Tier::Bulk)
            .build()
            .map_err(|e| StoreError::new("restore", &at.key, Kind::Unfit, io::Error::other(e.to_string())))?;
        let request = RestoreRequest::builder().days(i32::from(days)).glacier_job_parameters(how).build();
        let sent = self
            .client()
            .restore_object()
            .bucket(&self.settings.bucket)
            .key(self.full(&at.key))
            .set_version_id(at.version.clone())
            .restore_request(request)
            .send()
            .await;
        let result = match sent {
            Ok(_) => Ok(true),
            Err(e) if Answer::of(&e).is_some_and(|a| a.code == "RestoreAlreadyInProgress") => Ok(false),
            Err(e) => Err(failed("restore", &at.key, e)),
        };
        self.told(&self.counts.other, result).await
    }

    async fn extend(&self, at: &At, retain: Retain) -> Result<(), StoreError> {
        let Some(mode) = retention_mode(retain.lock) else { return Ok(()) };
        let lock = ObjectLockRetention::builder()
            .mode(mode)
            .retain_until_date(DateTime::from_secs(retain.until.unix_seconds()))
            .build();
        let sent = self
            .client()
            .put_object_retention()
            .bucket(&self.settings.bucket)
            .key(self.full(&at.key))
            .set_version_id(at.version.clone())
            .retention(lock)
            .send()
            .await;
        let result = sent.map(drop).map_err(|e| failed("lengthen the lock of", &at.key, e));
        self.told(&self.counts.other, result).await
    }

    async fn check_lock(&self) -> Result<(), StoreError> {
        let place = self.settings.place();
        let sent = self.client().get_object_lock_configuration().bucket(&self.settings.bucket).send().await;
        let result = match sent {
            Ok(o) => {
                let on = o.object_lock_configuration().and_then(|c| c.object_lock_enabled());
                match on {
                    Some(ObjectLockEnabled::Enabled) => Ok(()),
                    _ => Err(StoreError::new("lock objects in", &place, Kind::Unfit, no_lock())),
                }
            }
            Err(e) => match Answer::of(&e) {
                Some(a) if a.code == "ObjectLockConfigurationNotFoundError" => {
                    Err(StoreError::new("lock objects in", &place, Kind::Unfit, no_lock()))
                }
                _ => Err(failed("read the Object Lock configuration of", &place, e)),
            },
        };
        self.told(&self.counts.other, result).await
    }
}

fn ended(operation: &'static str, key: &str) -> StoreError {
    let why = io::Error::other("the store's threads have ended");
    StoreError::new(operation, key, Kind::Unavailable, why)
}

fn no_lock() -> io::Error {
    io::Error::other(
        "Object Lock is off there: make the bucket with waxseal bucket init, or the trail with --lock none",
    )
}

impl Store for S3Store {
    fn put_if_absent(
        &self,
        key: &str,
        body: &Bytes,
        digest: &Hash,
        retain: &Retain,
    ) -> Result<Put, StoreError> {
        if !self.inner.settings.conditional_writes {
            return self.put_and_look(key, body, digest, retain);
        }
        if let Some(written) = self.put(key, body, digest, retain, true)? {
            return Ok(Put::Created(written));
        }
        match self.is_ours(&At::key(key), body, digest, retain) {
            Ok(Some(written)) => Ok(Put::Same(written)),
            Ok(None) => Ok(Put::Other),
            // A node may write events and not read them.
            Err(e) if e.kind == Kind::Permission => Ok(Put::Other),
            Err(e) => Err(e),
        }
    }

    fn put_beside(&self, key: &str, body: &Bytes, digest: &Hash, retain: &Retain) -> Result<Put, StoreError> {
        Ok(self.put(key, body, digest, retain, false)?.map_or(Put::Other, Put::Created))
    }

    fn replace(&self, key: &str, body: &Bytes, digest: &Hash, retain: &Retain) -> Result<(), StoreError> {
        self.put(key, body, digest, retain, false)?;
        Ok(())
    }

    fn read(&self, at: &At, limit: u64) -> Result<Option<Object>, StoreError> {
        self.wait(self.inner.clone().read(at.clone(), limit))
    }

    fn read_all(&self, at: &[At], limit: u64) -> Vec<Result<Option<Object>, StoreError>> {
        let mut out = Vec::with_capacity(at.len());
        for some in at.chunks(READS) {
            let calls: Vec<_> = some
                .iter()
                .map(|a| {
                    let (tx, rx) = sync_channel(1);
                    let read = self.inner.clone().read(a.clone(), limit);
                    if let Some(runtime) = &self.runtime {
                        runtime.spawn(async move { tx.send(read.await) });
                    }
                    rx
                })
                .collect();
            for (rx, a) in calls.into_iter().zip(some) {
                out.push(rx.recv().unwrap_or_else(|_| Err(ended("read", &a.key))));
            }
        }
        out
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        if range.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let (inner, at) = (self.inner.clone(), At::key(key));
        let object = self.wait(async move { inner.get_patiently(&at, Some(range), u64::MAX).await })?;
        Ok(object.and_then(|o| o.body))
    }

    fn head(&self, at: &At) -> Result<Option<Head>, StoreError> {
        let (inner, at) = (self.inner.clone(), at.clone());
        self.wait(async move { inner.head(&at).await })
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let (inner, prefix, after) = (self.inner.clone(), prefix.to_owned(), after.map(str::to_owned));
        self.wait(async move { inner.list(&prefix, after.as_deref(), limit).await })
    }

    fn list_versions(&self, prefix: &str, after: Option<&Mark>) -> Result<Versions, StoreError> {
        let (inner, prefix, after) = (self.inner.clone(), prefix.to_owned(), after.cloned());
        self.wait(async move { inner.list_versions(&prefix, after.as_ref()).await })
    }

    fn restore(&self, at: &At, days: u16) -> Result<bool, StoreError> {
        let (inner, at) = (self.inner.clone(), at.clone());
        self.wait(async move { inner.restore(&at, days).await })
    }

    fn extend(&self, at: &At, retain: &Retain) -> Result<(), StoreError> {
        let (inner, at, retain) = (self.inner.clone(), at.clone(), *retain);
        self.wait(async move { inner.extend(&at, retain).await })
    }

    fn has_versions(&self) -> bool {
        true
    }

    fn check_lock(&self, lock: Lock) -> Result<(), StoreError> {
        if lock == Lock::None {
            return Ok(());
        }
        let inner = self.inner.clone();
        self.wait(async move { inner.check_lock().await })
    }

    fn confirm(&self, at: &At, digest: &Hash, retain: &Retain) -> Result<(), StoreError> {
        let unfit =
            |why: String| Err(StoreError::new("rely on", &at.key, Kind::Unfit, io::Error::other(why)));
        let Some(head) = self.head(at)? else {
            return unfit("the server said that it was written, and does not have it".to_owned());
        };
        if !retain.is_kept_by(head.retain) {
            let has = head.retain.map_or("no lock".to_owned(), |r| format!("{} until {}", r.lock, r.until));
            return unfit(format!(
                "asked for {} until {}, and the server has {has}: it cannot hold this trail",
                retain.lock, retain.until
            ));
        }
        match head.sha256 {
            Some(there) if there != *digest => {
                unfit(format!("its SHA-256 there is {there}, and {digest} was sent"))
            }
            None if self.inner.settings.checksums => unfit(
                "the server keeps no x-amz-checksum-sha256: if that is known and accepted, add checksums=false to the \
                 store's URL"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    fn confirm_condition(
        &self,
        key: &str,
        body: &Bytes,
        digest: &Hash,
        retain: &Retain,
    ) -> Result<(), StoreError> {
        if !self.inner.settings.conditional_writes || self.put(key, body, digest, retain, true)?.is_none() {
            return Ok(());
        }
        let why = io::Error::other(
            "the server ignores If-None-Match and wrote over what was there: if that is known and accepted, add \
             conditional_writes=false to the store's URL",
        );
        Err(StoreError::new("rely on", key, Kind::Unfit, why))
    }

    fn fallbacks(&self) -> Vec<(&'static str, &'static str)> {
        let s = &self.inner.settings;
        let mut out = Vec::new();
        if !s.conditional_writes {
            out.push((
                "conditional_writes",
                "the server ignores If-None-Match: the versions of a key are listed before and after each write",
            ));
        }
        if !s.checksums {
            out.push((
                "checksums",
                "the server keeps no SHA-256: what it has is compared by reading it, and an archived object not at all",
            ));
        }
        if s.content_md5 {
            out.push(("content_md5", "the server wants Content-MD5 with a lock"));
        }
        if s.encryption == Encryption::Bucket {
            out.push(("encryption", "objects are encrypted as the bucket does by default, or not at all"));
        }
        out
    }

    fn concurrency(&self) -> usize {
        self.inner.settings.concurrency
    }

    fn requests(&self) -> Option<Requests> {
        let c = &self.inner.counts;
        let n = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let (get, head, list, put, other) = (n(&c.get), n(&c.head), n(&c.list), n(&c.put), n(&c.other));
        let retries = n(&c.sent).saturating_sub(get + head + list + put + other);
        Some(Requests { get, head, list, put, other, retries })
    }

    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    fn place(&self) -> String {
        self.inner.settings.place()
    }
}
