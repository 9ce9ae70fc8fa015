//! A time-stamping authority: OpenSSL's own (`openssl ts -reply`) behind a small HTTP server, with certificates made here.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// OpenSSL's command: `OPENSSL`, or the one on the path.
fn command() -> Command {
    Command::new(std::env::var_os("OPENSSL").unwrap_or_else(|| "openssl".into()))
}

/// Whether it is on this machine; says so if not.
pub fn is_there() -> bool {
    let there = command().arg("version").output().is_ok_and(|o| o.status.success());
    if !there {
        eprintln!("SKIPPED: no openssl command on this machine, so no time-stamping authority");
    }
    there
}

/// Runs `openssl` in a directory.
///
/// # Panics
/// If it fails.
pub fn openssl(dir: &Path, args: &[&str]) -> Vec<u8> {
    let out = command().current_dir(dir).args(args).output().expect("openssl can be started");
    assert!(out.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// The kind of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// RSA, 2048 bits.
    Rsa,
    /// P-256.
    P256,
}

/// A certificate authority in a directory, and time-stamping certificates by it.
pub struct Authority {
    /// Everything of it.
    pub dir: PathBuf,
    keys: Keys,
}

const CONFIG: &str = r"
[ca]
default_ca = me
[me]
dir = .
database = ./index.txt
new_certs_dir = .
serial = ./serial
default_md = sha256
policy = any
copy_extensions = none
unique_subject = no
email_in_dn = no
[any]
commonName = supplied
[req]
distinguished_name = dn
prompt = no
[dn]
CN = test
[root]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
[tsa]
basicConstraints = CA:false
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
[loose]
basicConstraints = CA:false
extendedKeyUsage = timeStamping,codeSigning
[plain]
basicConstraints = CA:false
[ts]
default_tsa = stamps
[stamps]
serial = ./tsaserial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1, millisecs:500
clock_precision_digits = 3
ordering = no
tsa_name = yes
ess_cert_id_chain = no
ess_cert_id_alg = sha256
";

impl Authority {
    /// A new one in a directory.
    pub fn new(dir: &Path, keys: Keys) -> Authority {
        std::fs::create_dir_all(dir).expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("a file");
        write("openssl.cnf", CONFIG);
        write("index.txt", "");
        write("serial", "1000\n");
        write("tsaserial", "01\n");
        let authority = Authority { dir: dir.to_owned(), keys };
        authority.key("ca");
        let root = ["req", "-x509", "-new", "-key", "ca.key", "-out", "ca.crt", "-days", "9000"];
        let how = ["-subj", "/CN=test authority", "-config", "openssl.cnf", "-extensions", "root"];
        openssl(dir, &[&root[..], &how].concat());
        authority
    }

    fn key(&self, name: &str) {
        let out = format!("{name}.key");
        let how: &[&str] = match self.keys {
            Keys::Rsa => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            Keys::P256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        };
        openssl(&self.dir, &[&["genpkey", "-out", &out], how].concat());
    }

    /// A certificate `<name>.crt` with the extensions of a section, valid between two times (`YYYYMMDDHHMMSSZ`).
    pub fn certify(&self, name: &str, extensions: &str, from: &str, to: &str) {
        self.key(name);
        let (key, csr, crt) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN=stamps {name}");
        let request =
            ["req", "-new", "-key", &key, "-out", &csr, "-subj", &subject, "-config", "openssl.cnf"];
        openssl(&self.dir, &request);
        let sign =
            ["ca", "-batch", "-notext", "-config", "openssl.cnf", "-cert", "ca.crt", "-keyfile", "ca.key"];
        let what = ["-in", &csr, "-out", &crt, "-startdate", from, "-enddate", to, "-extensions", extensions];
        openssl(&self.dir, &[&sign[..], &what].concat());
    }

    /// One for time-stamping that is valid for long.
    pub fn certify_long(&self, name: &str) {
        self.certify(name, "tsa", "20260101000000Z", "20450101000000Z");
    }

    /// The root, in PEM.
    pub fn root(&self) -> Vec<u8> {
        std::fs::read(self.dir.join("ca.crt")).expect("it was made")
    }

    /// Its answer to a request, signed by `<name>`.
    pub fn reply(&self, name: &str, request: &[u8]) -> Vec<u8> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let (query, reply) = (format!("{n}.tsq"), format!("{n}.tsr"));
        std::fs::write(self.dir.join(&query), request).expect("a file");
        let (key, crt) = (format!("{name}.key"), format!("{name}.crt"));
        let sign = ["ts", "-reply", "-config", "openssl.cnf", "-section", "stamps", "-queryfile", &query];
        let how = ["-out", &reply, "-signer", &crt, "-inkey", &key];
        openssl(&self.dir, &[&sign[..], &how].concat());
        std::fs::read(self.dir.join(reply)).expect("it was made")
    }
}

/// What a server answers to a request: the status and the body.
pub type Answer = Arc<dyn Fn(&[u8]) -> (u16, Vec<u8>) + Send + Sync>;

/// A server on this machine.
pub struct Server {
    /// Where it listens.
    pub url: String,
    /// Requests so far.
    pub count: Arc<AtomicU32>,
    answer: Arc<Mutex<Answer>>,
    stop: Arc<AtomicBool>,
    address: std::net::SocketAddr,
}

impl Server {
    /// Serves an authority's replies, signed by `<name>`.
    pub fn start(authority: Arc<Authority>, name: &str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let name = name.to_owned();
        let answer: Answer = Arc::new(move |request: &[u8]| (200, authority.reply(&name, request)));
        let server = Server {
            url: format!("http://{address}/tsr"),
            count: Arc::default(),
            answer: Arc::new(Mutex::new(answer)),
            stop: Arc::default(),
            address,
        };
        let (answer, stop, count) = (server.answer.clone(), server.stop.clone(), server.count.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = serve(stream, &answer);
            }
        });
        server
    }

    /// From now on it answers otherwise.
    pub fn behave(&self, answer: impl Fn(&[u8]) -> (u16, Vec<u8>) + Send + Sync + 'static) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(answer);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn serve(mut stream: TcpStream, answer: &Answer) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut some = [0; 4096];
        let n = stream.read(&mut some)?;
        bytes.extend_from_slice(&some[..n]);
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text[..end].lines().find_map(|l| l.strip_prefix("content-length:"));
            break (end + 4, length.and_then(|l| l.trim().parse().ok()).unwrap_or(0));
        }
        if n == 0 || bytes.len() > 1 << 16 {
            return Ok(());
        }
    };
    while bytes.len() < head + length {
        let mut some = [0; 4096];
        match stream.read(&mut some)? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(&some[..n]),
        }
    }
    let (status, body) = answer(&bytes[head..head + length]);
    write!(
        stream,
        "HTTP/1.1 {status} said\r\ncontent-type: application/timestamp-reply\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}
