//! The client: the AWS SDK with its default chain of credentials, proxies from the environment, one set of time-outs.

use super::Settings;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder as S3Builder, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use std::time::Duration;

/// Tries of one call, the first with it. The SDK waits between them with jitter, and has a budget for all calls together.
const TRIES: u32 = 4;

/// The SDK's configuration for these settings: region, credentials, proxies, time-outs.
///
/// # Errors
/// A text that names a file that cannot be read.
pub async fn configuration(settings: &Settings) -> Result<aws_config::SdkConfig, String> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client(settings)?)
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(TRIES)
                .with_initial_backoff(Duration::from_millis(200))
                .with_max_backoff(Duration::from_secs(5)),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(5))
                .read_timeout(Duration::from_secs(30))
                .build(),
        );
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if settings.fips {
        loader = loader.use_fips(true);
    }
    let found = loader.load().await;
    if found.region().is_some() {
        return Ok(found);
    }
    // A server of one's own has a region only in name.
    if settings.endpoint.is_some() || found.endpoint_url().is_some() {
        return Ok(found.into_builder().region(Region::new("us-east-1")).build());
    }
    Err(format!("{}: no region: set AWS_REGION, or add ?region=… to the URL", settings.place()))
}

/// A client for the bucket of these settings.
pub fn client(settings: &Settings, found: &aws_config::SdkConfig) -> aws_sdk_s3::Client {
    let mut config = S3Builder::from(found)
        .force_path_style(settings.path_style)
        // Every write names its own digest, and whoever reads checks it against a signed one.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint);
    }
    aws_sdk_s3::Client::from_conf(config.build())
}

fn http_client(settings: &Settings) -> Result<SharedHttpClient, String> {
    let roots = match &settings.ca {
        None => TrustStore::default(),
        Some(path) => {
            let pem = std::fs::read(path).map_err(|e| format!("ca: {}: {e}", path.display()))?;
            TrustStore::default().with_pem_certificate(pem)
        }
    };
    let context = TlsContext::builder()
        .with_trust_store(roots)
        .build()
        .map_err(|e| format!("ca: no certificates that can be used: {e}"))?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        if let Some(sleep) = components.and_then(|c| c.sleep_impl()) {
            connector = connector.sleep_impl(sleep);
        }
        connector.tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc)).tls_context(context.clone()).build()
    }))
}
