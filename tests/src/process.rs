//! The real binaries, started as a user would.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use waxseal_events::{EventsError, Reader};
use waxseal_store::{LocalStore, Store, disk::RealDisk};
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::sha256;
use waxseal_trail::name;
use waxseal_trail::statement::{self, Batch};

/// A built binary: beside the running program, or, for a test (`target/<profile>/deps`), one directory up.
///
/// # Panics
/// If it is not built; `make test` and `make bench` build first.
pub fn bin(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("a running program has a path");
    let found = me.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not built: run cargo build --workspace first"))
}

/// The peak resident memory of a process, in KiB; `None` once it has ended.
pub fn peak_resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
}

/// Runs `waxseal` with arguments.
pub fn waxseal(args: &[&str]) -> Output {
    Command::new(bin("waxseal")).args(args).output().expect("waxseal runs")
}

/// Runs the command with `input`; its exit status, what it printed, and what it said on standard error.
pub fn piped(args: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut child = Command::new(bin("waxseal"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("waxseal starts");
    child.stdin.take().expect("piped").write_all(input).expect("waxseal reads");
    let out = child.wait_with_output().expect("waxseal ends");
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
}

/// A trail, its keys and a sink's configuration in a directory of their own.
pub struct Site {
    /// Everything is in here.
    pub dir: tempfile::TempDir,
    /// The sink's port.
    pub port: u16,
    /// Where the trail is.
    pub store: String,
    /// What is in the environment of the binaries beside what is in this program's.
    pub env: Vec<(String, String)>,
}

impl Site {
    /// Makes a trail in a directory, and a configuration; `more` is added to the YAML.
    pub fn new(more: &str) -> Site {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = format!("file://{}", dir.path().join("trail").display());
        Site::make(dir, store, "none", vec![], more)
    }

    /// The same at a URL.
    pub fn at(url: &str, lock: &str, env: Vec<(String, String)>, more: &str) -> Site {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Site::make(dir, url.to_owned(), lock, env, more)
    }

    fn make(
        dir: tempfile::TempDir,
        store: String,
        lock: &str,
        env: Vec<(String, String)>,
        more: &str,
    ) -> Site {
        let port = free_port();
        let site = Site { dir, port, store, env };
        let p = |s: &str| site.path(s).display().to_string();
        let run = |args: &[&str]| {
            let out = site.waxseal(args);
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        };
        let (keys, writer, trust) = (p("keys"), p("writer"), p("keys/trust.yaml"));
        let init = ["init", "--store", &site.store, "--name", "test", "--lock", lock, "--retention", "30d"];
        run(&[&init[..], &["--out", &keys, "--confirm", "30d"]].concat());
        let generate = ["keys", "generate", "--algorithm", "ed25519", "--out", &writer, "--name", "node-1"];
        run(&[&generate[..], &["--trust", &trust]].concat());
        let yaml = format!(
            "trail: test\nwriter: node-1\nstate_dir: {}\nstore: {}\nretention: 30d\nsigning:\n  - key: file:{}\nintake:\n  http: {{listen: \"127.0.0.1:{port}\"}}\n{more}",
            p("state"),
            site.store,
            p("writer/signing.key")
        );
        std::fs::write(site.path("sink.yaml"), yaml).expect("writable");
        site
    }

    /// Runs `waxseal` in this site's environment.
    pub fn waxseal(&self, args: &[&str]) -> Output {
        let mut command = Command::new(bin("waxseal"));
        command.args(args).envs(self.env.iter().map(|(k, v)| (k, v)));
        command.output().expect("waxseal runs")
    }

    /// Gives the sink other protocols than HTTP: what stands below `intake`, two spaces deep.
    pub fn intake(&self, yaml: &str) {
        let path = self.path("sink.yaml");
        let old = std::fs::read_to_string(&path).expect("readable");
        let (before, after) = old.split_once("intake:\n").expect("it has an intake");
        let (_, after) = after.split_once('\n').expect("of one line");
        std::fs::write(&path, format!("{before}intake:\n{yaml}{after}")).expect("writable");
    }

    /// Takes the server's intake out of the configuration, as the plugin wants it; the configuration's path.
    pub fn without_intake(&self) -> String {
        let path = self.path("sink.yaml");
        let yaml = std::fs::read_to_string(&path).expect("readable");
        let (before, after) = yaml.split_once("intake:\n").expect("it has an intake");
        let (_, after) = after.split_once('\n').expect("of one line");
        std::fs::write(&path, format!("{before}{after}")).expect("writable");
        path.display().to_string()
    }

    /// Waits until the sink has written to the store for the first time: what it begins with is not in the way then.
    pub fn settle(&self) {
        for _ in 0..1200 {
            if self.path("trail/batches").exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(500));
    }

    /// Takes the store away: at its place is what a mount point is while nothing is mounted.
    pub fn store_away(&self) {
        std::fs::rename(self.path("trail"), self.path("away")).expect("it is there");
        std::fs::create_dir(self.path("trail")).expect("its place is free");
    }

    /// Brings it back. Nothing may have been written at its place.
    pub fn store_back(&self) {
        std::fs::remove_dir(self.path("trail")).expect("nothing was written to a store that is away");
        std::fs::rename(self.path("away"), self.path("trail")).expect("it is away");
    }

    /// A path within.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the sink and waits until it listens.
    pub fn start(&self) -> Sink {
        self.start_with("sink.yaml")
    }

    /// Starts a sink with another configuration file of this site.
    pub fn start_with(&self, config: &str) -> Sink {
        let mut child = Command::new(bin("waxseal-sink"))
            .arg("--config")
            .arg(self.path(config))
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stderr(Stdio::piped())
            .spawn()
            .expect("waxseal-sink starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut log = String::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        for line in lines.by_ref() {
            let line = line.unwrap_or_default();
            log.push_str(&line);
            log.push('\n');
            if line.contains("taking events") || Instant::now() > deadline {
                break;
            }
        }
        assert!(log.contains("taking events"), "the sink did not start:\n{log}");
        // Read on, so that the sink never waits for its log to be read.
        let rest = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                log.push_str(&line);
                log.push('\n');
            }
            log
        });
        Sink { child, log: Some(rest) }
    }

    /// Runs the sink once, with a flag that makes it end by itself.
    pub fn run_sink(&self, flags: &[&str]) -> Output {
        Command::new(bin("waxseal-sink"))
            .arg("--config")
            .arg(self.path("sink.yaml"))
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .args(flags)
            .output()
            .expect("waxseal-sink runs")
    }

    /// The URL of the intake.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1/events", self.port)
    }

    /// `waxseal verify` on the trail, in JSON, with the trust file: the exit status and the report.
    pub fn verify(&self, more: &[&str]) -> (i32, serde_json::Value) {
        let trust = self.path("keys/trust.yaml").display().to_string();
        let mut args = vec!["verify", &self.store, "--trust", &trust, "--format", "json"];
        args.extend(more);
        let out = self.waxseal(&args);
        let json = serde_json::from_slice(&out.stdout).unwrap_or_default();
        (out.status.code().unwrap_or(-1), json)
    }
}

/// Calls `each` with every record of a trail's events objects, but for those whose key is in `except`.
///
/// # Panics
/// If something cannot be read.
pub fn each_record(store: &dyn Store, except: &[&str], each: &mut dyn FnMut(&serde_json::Value)) {
    let mut keys = Vec::new();
    waxseal_store::list_all(store, "events/", &mut |k| keys.push(k)).expect("it lists");
    for key in keys.iter().filter(|k| !except.contains(&k.as_str())) {
        let object = store.get(key).expect("it reads").expect("it was listed");
        let reader = Reader::new(object.into()).expect("an events object");
        let read = reader.read::<EventsError>(|rows| {
            for r in &rows.records {
                each(&serde_json::from_slice(r.data()).expect("a record is JSON"));
            }
            Ok(())
        });
        read.expect("an events object");
    }
}

/// The headers of a trail, by number.
///
/// # Panics
/// If one cannot be read.
pub fn headers(store: &dyn Store) -> Vec<Batch> {
    let mut all: Vec<Batch> = Vec::new();
    waxseal_store::list_all_keys(store, "batches/", &mut |key| {
        let bytes = store.get(&key).expect("it reads").expect("it was listed");
        all.push(statement::read(&Envelope::parse(&bytes).expect("an envelope")).expect("a header"));
    })
    .expect("it lists");
    all.sort_by_key(|h| h.batch);
    all
}

/// Calls `each` with every record of the events objects that headers name, whatever else lies under their keys.
///
/// # Panics
/// If something cannot be read.
pub fn each_committed(store: &dyn Store, each: &mut dyn FnMut(&serde_json::Value)) {
    let header = |key: &str, bytes: &[u8]| {
        let h: Batch = statement::read(&Envelope::parse(bytes).ok()?).ok()?;
        (name::batch_key(&h.writer, h.batch) == key).then_some(h)
    };
    let mut keys = Vec::new();
    waxseal_store::list_all_keys(store, "batches/", &mut |k| keys.push(k)).expect("it lists");
    for key in keys {
        let found =
            waxseal_store::oldest(store, &key, 60_000, &|b| header(&key, b).is_some()).expect("it reads");
        let Some(h) = found.and_then(|b| header(&key, &b)) else { continue };
        let Some(object) = h.object else { continue };
        let key = name::events_key(&h.writer, h.batch, h.sealed_at, &object.sha256);
        let named = |b: &[u8]| sha256(b) == object.sha256;
        let object = waxseal_store::oldest(store, &key, object.bytes, &named).expect("it reads");
        let reader = Reader::new(object.expect("a header names it").into()).expect("an events object");
        let read = reader.read::<EventsError>(|rows| {
            for r in &rows.records {
                each(&serde_json::from_slice(r.data()).expect("a record is JSON"));
            }
            Ok(())
        });
        read.expect("an events object");
    }
}

/// A local directory as a store, to read.
pub fn local_store(dir: &Path) -> LocalStore {
    LocalStore::new(Arc::new(RealDisk), dir, "test")
}

/// A running sink.
pub struct Sink {
    /// Its process.
    pub child: Child,
    log: Option<std::thread::JoinHandle<String>>,
}

impl Sink {
    /// SIGKILL.
    pub fn kill(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.log.take().and_then(|l| l.join().ok()).unwrap_or_default()
    }

    /// SIGTERM, and waits; the log.
    pub fn stop(mut self) -> String {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let status = self.child.wait().expect("it was started here");
        let log = self.log.take().and_then(|l| l.join().ok()).unwrap_or_default();
        assert!(status.success(), "the sink stopped with {status}:\n{log}");
        log
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_or(0, |a| a.port())
}

/// Posts a body; status and answer, or the transport's error.
///
/// # Errors
/// The transport's.
pub fn post(url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<(u16, serde_json::Value), String> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)));
    let agent: ureq::Agent = config.build().into();
    let mut request = agent.post(url);
    for (k, v) in headers {
        request = request.header(*k, *v);
    }
    let mut response = request.send(body).map_err(|e| e.to_string())?;
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().map_err(|e| e.to_string())?;
    Ok((status, serde_json::from_str(&text).unwrap_or_default()))
}

/// What the checker in Python says of a proof: its exit status and its words. `None`, which is said, where there is no Python for it.
pub fn verify_proof_in_python(proof: &str, trust: &str) -> Option<(Option<i32>, String)> {
    let Some(python) = std::env::var_os("WAXSEAL_PYTHON") else {
        println!("WAXSEAL_PYTHON is not set: the independent verifier was not run (make test sets it)");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("independent/verify_proof.py");
    let out = Command::new(python).arg(script).args([proof, trust]).output().expect("it can be started");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Some((out.status.code(), text))
}
