//! What a server's refusal means: for the code that decides whether to try again, and for the person who reads it.

use crate::{Kind, StoreError};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use std::io;

/// The status, the code and the sentence of an answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) code: String,
    message: String,
    request: String,
    date: Option<String>,
}

impl Answer {
    /// Of an error, if the server answered at all.
    pub(crate) fn of<E: ProvideErrorMetadata>(e: &SdkError<E, HttpResponse>) -> Option<Answer> {
        let raw = e.raw_response()?;
        let header = |name: &str| raw.headers().get(name).map(str::to_owned);
        let meta = e.as_service_error();
        Some(Answer {
            status: raw.status().as_u16(),
            code: meta.and_then(|m| m.code()).unwrap_or_default().to_owned(),
            message: meta.and_then(|m| m.message()).unwrap_or_default().to_owned(),
            request: header("x-amz-request-id").unwrap_or_default(),
            date: header("date"),
        })
    }

    /// What kind of failure it is.
    pub(crate) fn kind(&self) -> Kind {
        match self.code.as_str() {
            "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidToken"
            | "InvalidAccessKeyId"
            | "TokenRefreshRequired"
            | "SignatureDoesNotMatch"
            | "MissingAuthenticationToken" => Kind::Credentials,
            "RequestTimeTooSkewed" | "RequestExpired" => Kind::Clock,
            "InvalidObjectState" => Kind::Archived,
            // The key that it is encrypted under is disabled, or gone.
            code if code.starts_with("KMS.") => Kind::Unreadable,
            "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" => {
                Kind::Digest
            }
            "NotImplemented" | "MethodNotAllowed" | "ObjectLockConfigurationNotFoundError" => Kind::Unfit,
            "InvalidRequest" if self.message.contains("Object Lock") => Kind::Unfit,
            "QuotaExceeded" | "XMinioStorageFull" => Kind::Full,
            _ => match self.status {
                403 => Kind::Permission,
                401 => Kind::Credentials,
                501 => Kind::Unfit,
                507 => Kind::Full,
                _ => Kind::Unavailable,
            },
        }
    }

    /// Whether a read was refused because the object is under a customer's own key (SSE-C). AWS: `InvalidRequest`, "The correct
    /// parameters must be provided to retrieve the object"; Ceph: `InvalidArgument`, "Requests specifying Server Side Encryption
    /// with Customer provided keys must …".
    fn is_sealed(&self) -> bool {
        let about = self.message.contains("Encryption");
        self.status == 400 && (self.code == "InvalidRequest" || self.code == "InvalidArgument" && about)
    }

    fn text(&self, kind: Kind) -> String {
        let mut text = format!("{} {}", self.status, self.code);
        if !self.message.is_empty() && self.message != self.code {
            text = format!("{text}: {}", self.message.trim_end_matches('.'));
        }
        match kind {
            Kind::Credentials => text.push_str("; the credentials are looked up anew before the next try"),
            Kind::Clock => {
                let theirs = self.date.as_deref().unwrap_or("unknown");
                text.push_str(&format!("; the server's time is {theirs}: set this machine's clock"));
            }
            Kind::Permission => text.push_str(
                "; these credentials may not do that (waxseal bucket init --dry-run prints what each role may)",
            ),
            _ => {}
        }
        if !self.request.is_empty() {
            text.push_str(&format!(" (request {})", self.request));
        }
        text
    }
}

/// What an error and those below it say, each once.
pub fn causes(e: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut cause = Some(e);
    while let Some(c) = cause {
        let say = c.to_string();
        // Each says what the one below says, or nothing.
        if !text.contains(&say) {
            text = if text.is_empty() { say } else { format!("{text}: {say}") };
        }
        cause = c.source();
    }
    text
}

/// A failed call.
pub(crate) fn failed<E>(operation: &'static str, key: &str, e: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let Some(answer) = Answer::of(&e) {
        let kind = match answer.kind() {
            Kind::Unavailable if operation == "read" && answer.is_sealed() => Kind::Unreadable,
            kind => kind,
        };
        return StoreError::new(operation, key, kind, io::Error::other(answer.text(kind)));
    }
    let text = causes(&e);
    let credentials = ["no providers in chain", "credentials", "identity"].iter().any(|w| text.contains(w));
    let (kind, text) = if credentials {
        (
            Kind::Credentials,
            format!(
                "{text}: no credentials: the environment, a profile, a web identity, a container or an instance must give some"
            ),
        )
    } else {
        (Kind::Unavailable, text)
    };
    StoreError::new(operation, key, kind, io::Error::other(text))
}
