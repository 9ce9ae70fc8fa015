//! Listeners: addresses, TLS, how many connections there may be, and how they end.

use crate::config::Tls;
use crate::metrics::Intake as Metrics;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// How long a client may take for a handshake, its headers, or the next piece of what it sends.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often the files of TLS are looked at: a certificate that is renewed must not need a restart.
const LOOK: Duration = Duration::from_secs(10);

/// What a connection is, with TLS or without.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection.
pub type Stream = Box<dyn Io>;

/// Waits until the sink stops.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|s| *s).await;
}

/// A bound address.
pub struct Listener {
    name: &'static str,
    tcp: TcpListener,
    tls: Option<Acceptor>,
    most: usize,
    metrics: Arc<Metrics>,
}

/// A TLS acceptor that follows its files.
struct Acceptor {
    config: Tls,
    alpn: Vec<Vec<u8>>,
    acceptor: TlsAcceptor,
    looked: Instant,
}

impl Acceptor {
    fn new(config: &Tls, alpn: &[&[u8]]) -> Result<Acceptor, String> {
        let alpn = alpn.iter().map(|p| p.to_vec()).collect();
        let acceptor = acceptor(config, &alpn)?;
        Ok(Acceptor { config: config.clone(), alpn, acceptor, looked: Instant::now() })
    }

    /// For the next connection; those that there are keep what they have.
    fn now(&mut self, name: &str) -> TlsAcceptor {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            if let Err(e) = self.look(name) {
                // Half of a renewal may be in place; the certificate before it is still good.
                tracing::warn!(
                    "intake.{name}: the TLS files changed and cannot be used: {e}; the old ones are"
                );
            }
        }
        self.acceptor.clone()
    }

    fn look(&mut self, name: &str) -> Result<(), String> {
        let config = self.config.again()?;
        if config != self.config {
            self.acceptor = acceptor(&config, &self.alpn)?;
            self.config = config;
            tracing::info!("intake.{name}: new TLS files are in use");
        }
        Ok(())
    }
}

impl Listener {
    /// Binds. `name` is its place in the configuration below `intake`, `alpn` what TLS offers to speak.
    ///
    /// # Errors
    /// A text that names the address or the TLS file.
    pub async fn bind(
        name: &'static str,
        listen: SocketAddr,
        tls: Option<&Tls>,
        alpn: &[&[u8]],
        most: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Listener, String> {
        let tls =
            tls.map(|t| Acceptor::new(t, alpn)).transpose().map_err(|e| format!("intake.{name}.{e}"))?;
        let tcp =
            TcpListener::bind(listen).await.map_err(|e| format!("intake.{name}.listen: {listen}: {e}"))?;
        Ok(Listener { name, tcp, tls, most, metrics })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Where it listens, for people: `scheme://address`, the scheme with an `s` under TLS.
    pub fn place(&self, scheme: &str) -> String {
        let s = if self.tls.is_some() { "s" } else { "" };
        self.address().map_or_else(|e| e.to_string(), |a| format!("{scheme}{s}://{a}"))
    }

    /// Serves connections until `stop` changes, then waits for those that there are; `serve` watches `stop` itself.
    pub async fn run<F, S>(mut self, mut stop: watch::Receiver<bool>, serve: S)
    where
        S: Fn(Stream, SocketAddr, watch::Receiver<bool>) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let connections = Arc::new(Semaphore::new(self.most));
        let name = self.name;
        while !*stop.borrow() {
            // Whoever comes when there are too many waits to be accepted.
            let permit = tokio::select! {
                p = connections.clone().acquire_owned() => p,
                () = stopped(&mut stop) => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                a = self.tcp.accept() => a,
                () = stopped(&mut stop) => break,
            };
            let (tcp, peer) = match accepted {
                Ok(a) => a,
                Err(e) => {
                    tracing::warn!("intake.{name}: cannot accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let tls = self.tls.as_mut().map(|t| t.now(name));
            let (stop, serve, metrics) = (stop.clone(), serve.clone(), self.metrics.clone());
            tokio::spawn(async move {
                metrics.connections.inc();
                let _open = Open(metrics);
                match handshake(tcp, tls).await {
                    Ok(stream) => serve(stream, peer, stop).await,
                    Err(e) => tracing::debug!("intake.{name}: {peer}: TLS: {e}"),
                }
                drop(permit);
            });
        }
        // Connections hold the permits: all of them back means that all are done.
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(PATIENCE, connections.acquire_many(all)).await;
    }
}

/// A connection that is counted.
struct Open(Arc<Metrics>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

async fn handshake(tcp: TcpStream, tls: Option<TlsAcceptor>) -> std::io::Result<Stream> {
    let _ = tcp.set_nodelay(true);
    // A node that vanished never says goodbye.
    let _ = rustix::net::sockopt::set_socket_keepalive(&tcp, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(&tcp, Duration::from_secs(60));
    let _ = rustix::net::sockopt::set_tcp_keepintvl(&tcp, Duration::from_secs(15));
    let _ = rustix::net::sockopt::set_tcp_keepcnt(&tcp, 4);
    Ok(match tls {
        None => Box::new(tcp),
        Some(tls) => Box::new(tokio::time::timeout(PATIENCE, tls.accept(tcp)).await??),
    })
}

/// A TLS acceptor from PEM, or a text that names the member of the configuration.
fn acceptor(config: &Tls, alpn: &Vec<Vec<u8>>) -> Result<TlsAcceptor, String> {
    let certificates = |what: &str, pem: &[u8]| -> Result<Vec<CertificateDer<'static>>, String> {
        let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|e| format!("tls.{what}: {e}"))?;
        if list.is_empty() { Err(format!("tls.{what}: no certificate in PEM")) } else { Ok(list) }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for c in certificates("client_ca", pem)? {
                roots.add(c).map_err(|e| format!("tls.client_ca: {e}"))?;
            }
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|e| format!("tls.client_ca: {e}"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(&config.key).map_err(|e| format!("tls.key: {e}"))?;
    let mut server = builder
        .with_single_cert(certificates("certificate", &config.certificate)?, key)
        .map_err(|e| format!("tls: {e}"))?;
    server.alpn_protocols.clone_from(alpn);
    Ok(TlsAcceptor::from(Arc::new(server)))
}
