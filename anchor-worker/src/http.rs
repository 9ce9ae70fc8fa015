//! Requests to witnesses and time-stamping authorities.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The content type, without parameters, in lower case.
    pub kind: String,
    /// The body.
    pub body: Vec<u8>,
}

/// A client that follows no redirects: what is sent goes where the configuration says.
#[derive(Clone)]
pub struct Client(ureq::Agent);

impl Client {
    /// Servers are believed by the machine's certificates, and by `more`, in PEM.
    ///
    /// # Errors
    /// A text, for what is no certificate.
    pub fn new(timeout: Duration, more: Option<&[u8]>) -> Result<Client, String> {
        // Without any of the machine's, plain HTTP and `more` still work.
        let machine = rustls_native_certs::load_native_certs().certs;
        let mut roots: Vec<Certificate<'static>> =
            machine.iter().map(|c| Certificate::from_der(c).to_owned()).collect();
        for certificate in more.into_iter().flat_map(ureq::tls::parse_pem) {
            match certificate.map_err(|e| e.to_string())? {
                ureq::tls::PemItem::Certificate(c) => roots.push(c),
                _ => return Err("something else than a certificate".to_owned()),
            }
        }
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("waxseal-anchor/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(timeout))
            .build();
        Ok(Client(config.into()))
    }

    /// Posts a body; reads an answer of at most `limit` bytes.
    ///
    /// # Errors
    /// A text: no answer, or too long a one.
    pub fn post(&self, url: &str, kind: &str, body: &[u8], limit: u64) -> Result<Answered, String> {
        read(url, self.0.post(url).header("content-type", kind).send(body), limit)
    }

    /// Gets what is there; an answer of at most `limit` bytes.
    ///
    /// # Errors
    /// A text: no answer, or too long a one.
    pub fn get(&self, url: &str, limit: u64) -> Result<Answered, String> {
        read(url, self.0.get(url).call(), limit)
    }
}

fn read(
    url: &str,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    limit: u64,
) -> Result<Answered, String> {
    let mut answer = answer.map_err(|e| format!("{url}: {e}"))?;
    let kind = answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let mut body = Vec::new();
    let read = answer.body_mut().as_reader().take(limit + 1).read_to_end(&mut body);
    read.map_err(|e| format!("{url}: {e}"))?;
    if body.len() as u64 > limit {
        return Err(format!("{url}: the answer has more than {limit} bytes"));
    }
    Ok(Answered { status: answer.status().as_u16(), kind, body })
}

/// The first line of an answer, for people.
pub(crate) fn first_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    text.lines().next().unwrap_or_default().replace(|c: char| c.is_control(), "?")
}
