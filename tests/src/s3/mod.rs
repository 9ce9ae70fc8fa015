//! S3 servers for the tests: a double that fails as it is told to, and real ones where they can be had.

pub mod double;
pub mod load;
pub mod proxy;
pub mod servers;

pub use double::{ACCESS, Double, Fault, SECRET};

use std::sync::Arc;
use waxseal_store::s3::{S3Store, Settings};

/// The environment in which a child finds the credentials of the test servers.
pub fn credentials() -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", ACCESS),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("NO_PROXY", "127.0.0.1"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .to_vec()
}

/// A store at an `s3://` URL, with the credentials of the test servers.
///
/// # Panics
/// If the URL is none.
pub fn store(url: &str) -> Arc<S3Store> {
    let rest = url.strip_prefix("s3://").expect("an s3:// URL");
    let settings = Settings::parse(rest).expect("a good URL");
    let credentials = aws_sdk_s3::config::Credentials::new(ACCESS, SECRET, None, None, "test");
    Arc::new(S3Store::open_as(&settings, Some(credentials)).expect("it opens"))
}

/// Threads for a client's futures.
///
/// # Panics
/// If there are none.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread")
}

/// A client for a test server.
pub fn client(endpoint: &str) -> aws_sdk_s3::Client {
    client_as(endpoint, ACCESS, SECRET)
}

/// The same as somebody else.
pub fn client_as(endpoint: &str, access: &str, secret: &str) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
        .region(aws_sdk_s3::config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_s3::config::Credentials::new(access, secret, None, None, "test"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// Makes a bucket, with Object Lock or without.
///
/// # Panics
/// If the server refuses.
pub async fn make_bucket(client: &aws_sdk_s3::Client, bucket: &str, lock: bool) {
    let make = client.create_bucket().bucket(bucket).object_lock_enabled_for_bucket(lock);
    make.send().await.expect("a bucket is made");
}

/// Puts another trail statement in the place of a site's: compliance, one day, made at `now`, by the same operator.
///
/// # Panics
/// If anything fails.
pub fn replace_trail(site: &crate::process::Site, now: waxseal_trail::time::Time) {
    use waxseal_sink::signer::{MemoryKey, Signer, sign};
    use waxseal_store::{Retain, Store as _};
    use waxseal_trail::envelope::Envelope;
    use waxseal_trail::hash::sha256;
    use waxseal_trail::statement::{self, Lock, Trail};
    let store = store(&site.store);
    let pem = std::fs::read(site.path("keys/operator.key")).expect("the operator's key");
    let operator = Arc::new(MemoryKey::from_pem(&pem).expect("a key"));
    let old = store.get("trail.json").expect("it reads").expect("it is there");
    let old = Envelope::parse(&old).expect("an envelope");
    let payload: Trail = statement::read(&old).expect("a trail");
    let payload = Trail { lock: Lock::Compliance, min_retention: 1, created_at: now, ..payload };
    let mut envelope = statement::unsigned(&payload);
    sign(&mut envelope, &[operator as Arc<dyn Signer>]).expect("it signs");
    let bytes = bytes::Bytes::from(envelope.to_bytes().expect("small"));
    let at = waxseal_store::At::key("trail.json");
    let gone = store.head(&at).expect("it looks").and_then(|h| h.version).expect("a version");
    let endpoint =
        site.store.split("endpoint=").nth(1).and_then(|e| e.split('&').next()).expect("an endpoint");
    let (bucket, prefix) =
        site.store["s3://".len()..].split('?').next().and_then(|p| p.split_once('/')).expect("a URL");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let delete =
        client(endpoint).delete_object().bucket(bucket).key(format!("{prefix}/trail.json")).version_id(gone);
    runtime.block_on(delete.send()).expect("it is not locked");
    let until = now.saturating_add_seconds(86_400).ceil_second();
    let retain = Retain { lock: Lock::Compliance, until };
    store.put_if_absent("trail.json", &bytes, &sha256(&bytes), &retain).expect("it writes");
    let trust = site.path("keys/trust.yaml");
    let text = std::fs::read_to_string(&trust).expect("a trust file");
    let text = text.replace(&old.statement_hash().to_string(), &envelope.statement_hash().to_string());
    std::fs::write(trust, text).expect("writable");
}
