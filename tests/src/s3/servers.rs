//! Real S3 servers, started for one test and ended with it: Ceph's gateway and LocalStack, where `scripts/s3.sh` could
//! get them (`WAXSEAL_CEPH`, `WAXSEAL_LOCALSTACK`). Where it could not, the tests say what they did not try.

use super::{ACCESS, SECRET};
use crate::process::free_port;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that runs.
pub struct Server {
    /// Its name and version, for a test's output.
    pub name: String,
    /// Its port on loopback.
    pub port: u16,
    /// What its URL says it cannot do.
    pub query: &'static str,
    dir: tempfile::TempDir,
    kind: Kind,
}

enum Kind {
    Ceph(PathBuf),
    Child(Child),
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("s3").join(path)
}

/// Those that can be had; each that cannot is said.
pub fn all() -> Vec<Server> {
    let mut found = Vec::new();
    for (name, server) in [("Ceph RGW", ceph()), ("LocalStack", localstack())] {
        match server {
            Some(s) => found.push(s),
            None => println!("NOT TRIED with {name}: it cannot be had here"),
        }
    }
    found
}

/// Ceph's RADOS gateway with one monitor and one store in memory, as the user who runs the test.
pub fn ceph() -> Option<Server> {
    let root = PathBuf::from(std::env::var_os("WAXSEAL_CEPH")?);
    let dir = tempfile::tempdir().ok()?;
    // Other tests look for ports too; whoever comes second tries again.
    for _ in 0..5 {
        let port = free_port();
        let out = Command::new("bash")
            .arg(here("ceph.sh"))
            .arg("up")
            .arg(&root)
            .arg(dir.path())
            .arg(port.to_string())
            .args([ACCESS, SECRET, &std::process::id().to_string()])
            .stdin(Stdio::null())
            .output()
            .ok()?;
        if out.status.success() {
            let version =
                Command::new("bash").arg(here("ceph.sh")).arg("version").arg(&root).output().ok()?;
            let text = String::from_utf8_lossy(&version.stdout);
            let version = text.split_whitespace().nth(2).unwrap_or("?").to_owned();
            return Some(Server {
                name: format!("Ceph RGW {version}"),
                port,
                query: "&conditional_writes=false&checksums=false&encryption=bucket",
                dir,
                kind: Kind::Ceph(root),
            });
        }
        println!("Ceph did not start: {}", String::from_utf8_lossy(&out.stderr));
        down(&root, dir.path());
        let _ = std::fs::remove_dir_all(dir.path());
        let _ = std::fs::create_dir_all(dir.path());
    }
    panic!("WAXSEAL_CEPH is set, and Ceph did not start");
}

fn down(root: &Path, dir: &Path) {
    let _ = Command::new("bash").arg(here("ceph.sh")).arg("down").arg(root).arg(dir).status();
}

/// LocalStack's S3.
pub fn localstack() -> Option<Server> {
    localstack_with("s3")
}

/// LocalStack's KMS.
pub fn localstack_kms() -> Option<Server> {
    localstack_with("kms")
}

fn localstack_with(services: &str) -> Option<Server> {
    let python = std::env::var_os("WAXSEAL_LOCALSTACK")?;
    let dir = tempfile::tempdir().ok()?;
    let port = free_port();
    let files = dir.path().join("fs");
    std::fs::create_dir_all(&files).ok()?;
    let log = std::fs::File::create(dir.path().join("log")).ok()?;
    let at = format!("127.0.0.1:{port}");
    let mut child = Command::new(python)
        .args(["-m", "localstack.runtime.main"])
        .current_dir(dir.path())
        .env("GATEWAY_SERVER", "hypercorn")
        .env("SERVICES", services)
        .env("EAGER_SERVICE_LOADING", "1")
        .env("STRICT_SERVICE_LOADING", "1")
        .env("GATEWAY_LISTEN", &at)
        .env("LOCALSTACK_HOST", &at)
        .env("DISABLE_EVENTS", "1")
        .env("SKIP_SSL_CERT_DOWNLOAD", "1")
        .env("DNS_ADDRESS", "0")
        .env("CONFIG_DIR", dir.path())
        .env("FILESYSTEM_ROOT", &files)
        .env("TMPDIR", dir.path())
        .env("HOME", dir.path())
        .env("OVERRIDE_IN_DOCKER", "0")
        .stdout(log.try_clone().ok()?)
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .ok()?;
    let address: SocketAddr = at.parse().ok()?;
    let begun = Instant::now();
    let mut up = false;
    while !up && begun.elapsed() < Duration::from_secs(90) {
        std::thread::sleep(Duration::from_millis(200));
        up = TcpStream::connect(address).is_ok();
        if child.try_wait().ok().flatten().is_some() {
            break;
        }
    }
    if !up {
        let _ = child.kill();
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("WAXSEAL_LOCALSTACK is set, and LocalStack did not start:\n{log}");
    }
    Some(Server { name: "LocalStack 4.11.1".to_owned(), port, query: "", dir, kind: Kind::Child(child) })
}

impl Server {
    /// Its endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL of a trail in one of its buckets.
    pub fn url(&self, bucket: &str, prefix: &str) -> String {
        self.url_at(&self.endpoint(), bucket, prefix)
    }

    /// The same by way of another address.
    pub fn url_at(&self, endpoint: &str, bucket: &str, prefix: &str) -> String {
        format!("s3://{bucket}/{prefix}?endpoint={endpoint}&path_style=true&region=us-east-1{}", self.query)
    }

    /// Adds a user of its own (Ceph); its keys.
    pub fn user(&self, name: &str) -> Option<(String, String)> {
        let Kind::Ceph(root) = &self.kind else { return None };
        let keys = (format!("access{name}"), format!("secret{name}"));
        let out = Command::new("bash")
            .arg(here("ceph.sh"))
            .arg("user")
            .arg(root)
            .arg(self.dir.path())
            .args([name, &keys.0, &keys.1])
            .output()
            .ok()?;
        out.status.success().then_some(keys)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match &mut self.kind {
            Kind::Ceph(root) => down(root, self.dir.path()),
            Kind::Child(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
