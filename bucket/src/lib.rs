//! A bucket as a vault: made ([`init`]), tried ([`check`]), and held beyond its retention ([`hold`]).
//!
//! What changes and deletes lives here, away from `waxseal-store`, which can do neither; no sink depends on this crate.

#![forbid(unsafe_code)]

pub mod check;
pub mod hold;
pub mod init;
pub mod policy;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use waxseal_store::s3::{self, Settings};

/// A bucket, and the right to change it.
pub struct Bucket {
    /// Where.
    pub settings: Settings,
    client: aws_sdk_s3::Client,
    found: aws_config::SdkConfig,
    runtime: tokio::runtime::Runtime,
}

impl Bucket {
    /// Makes a client; nothing is asked yet.
    ///
    /// # Errors
    /// A text that names what is missing.
    pub fn open(settings: &Settings) -> Result<Bucket, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let found = runtime.block_on(s3::configuration(settings))?;
        let client = s3::client(settings, &found);
        Ok(Bucket { settings: settings.clone(), client, found, runtime })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.settings.prefix)
    }

    fn name(&self) -> &str {
        &self.settings.bucket
    }
}

/// What a server said no with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 0 where there was no answer at all.
    pub status: u16,
    /// S3's code, or what went wrong.
    pub code: String,
    message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.status, self.message.is_empty()) {
            (0, _) => f.write_str(&self.code),
            (status, true) => write!(f, "{status} {}", self.code),
            (status, false) => write!(f, "{status} {}: {}", self.code, self.message),
        }
    }
}

impl Refusal {
    /// Whether it means that nothing is set there.
    fn is_absent(&self) -> bool {
        let codes = [
            "NoSuchBucketPolicy",
            "NoSuchLifecycleConfiguration",
            "NoSuchPublicAccessBlockConfiguration",
            "ReplicationConfigurationNotFoundError",
            "ServerSideEncryptionConfigurationNotFoundError",
            "ObjectLockConfigurationNotFoundError",
            "NoSuchObjectLockConfiguration",
            "OwnershipControlsNotFoundError",
        ];
        codes.contains(&self.code.as_str())
    }

    /// Whether the server does not know the question.
    fn is_unknown(&self) -> bool {
        // 200: an answer that is none of S3's.
        matches!(self.status, 501 | 405 | 200)
            || self.code == "NotImplemented"
            || self.code == "MethodNotAllowed"
    }
}

fn refusal<E>(e: SdkError<E, HttpResponse>) -> Refusal
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = e.raw_response().map_or(0, |r| r.status().as_u16());
    if let Some(service) = e.as_service_error() {
        return Refusal {
            status,
            code: service.code().unwrap_or("without a code").to_owned(),
            message: service.message().unwrap_or_default().to_owned(),
        };
    }
    Refusal { status: 0, code: s3::causes(&e), message: String::new() }
}
