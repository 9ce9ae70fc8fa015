//! The plugin in a real Fluent Bit, where `FLUENT_BIT` names its binary or PATH has one; else nothing is tried, and
//! that is said. From a log file to a verified trail: SIGKILL in mid-stream, reload, a store that is away.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use waxseal_e2e::process::{Site, each_record, free_port, local_store};

fn fluent_bit() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FLUENT_BIT") {
        return Some(path.into());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join("fluent-bit")).find(|p| p.is_file())
}

/// A number from the environment, for longer runs.
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

struct Node {
    site: Site,
    binary: PathBuf,
    telemetry: u16,
    child: Option<Child>,
    log: std::fs::File,
    written: usize,
}

impl Node {
    fn new(more: &str) -> Option<Node> {
        let Some(binary) = fluent_bit() else {
            println!("no Fluent Bit here (FLUENT_BIT or PATH): not tried");
            return None;
        };
        let version = Command::new(&binary).arg("--version").output().expect("it runs").stdout;
        println!("{}", String::from_utf8_lossy(&version).lines().next().unwrap_or_default());
        let telemetry = free_port();
        let site = Site::new(&format!("telemetry: {{listen: \"127.0.0.1:{telemetry}\"}}\n{more}"));
        let config = site.without_intake();
        let p = |name: &str| site.path(name).display().to_string();
        let library = waxseal_e2e::process::bin("libwaxseal_sink.so").display().to_string();
        let shipper = format!(
            "service:\n  flush: 0.2\n  grace: 10\n  log_level: info\n  http_server: off\n  hot_reload: on\n  \
             storage.path: {}\n  storage.sync: full\n  storage.checksum: off\n  plugins_file: {}\n\
             pipeline:\n  inputs:\n    - name: tail\n      path: {}\n      tag: app.log\n      db: {}\n      \
             db.sync: full\n      read_from_head: true\n      refresh_interval: 1\n      \
             storage.type: filesystem\n  outputs:\n    - name: waxseal\n      match: '*'\n      \
             config: {}\n      retry_limit: no_limits\n    - name: file\n      match: '*'\n      \
             path: {}\n      file: other.txt\n      format: template\n      template: '{{log}}'\n",
            p("storage"),
            p("plugins.conf"),
            p("app.log"),
            p("tail.db"),
            config,
            p("other")
        );
        std::fs::write(site.path("fluent-bit.yaml"), shipper).unwrap();
        std::fs::write(site.path("plugins.conf"), format!("[PLUGINS]\n    Path {library}\n")).unwrap();
        std::fs::create_dir(site.path("other")).unwrap();
        let log = std::fs::File::create(site.path("app.log")).unwrap();
        Some(Node { site, binary, telemetry, child: None, log, written: 0 })
    }

    fn start(&mut self) {
        let err = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.site.path("fluent-bit.log"))
            .unwrap();
        let child = Command::new(&self.binary)
            .arg("-c")
            .arg(self.site.path("fluent-bit.yaml"))
            .stdin(Stdio::null())
            .stdout(err.try_clone().unwrap())
            .stderr(err)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.as_ref().unwrap().id().cast_signed();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn stop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let status = self.child.take().unwrap().wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.log_text());
    }

    fn log_text(&self) -> String {
        let text = std::fs::read_to_string(self.site.path("fluent-bit.log")).unwrap_or_default();
        text.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Writes lines with the next numbers into the log.
    fn write(&mut self, count: usize) {
        let mut text = String::new();
        for n in self.written..self.written + count {
            text.push_str(&format!("line {n} {}\n", "x".repeat(n % 200)));
        }
        self.log.write_all(text.as_bytes()).unwrap();
        self.written += count;
    }

    fn received(&self) -> Option<u64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.telemetry);
        let text = ureq::get(&url).call().ok()?.body_mut().read_to_string().ok()?;
        text.lines().find_map(|l| l.strip_prefix("waxseal_events_received_total ")?.parse().ok())
    }

    /// Waits until nothing more comes.
    fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(90);
        let (mut last, mut since) = (None, Instant::now());
        while since.elapsed() < Duration::from_secs(5) {
            assert!(Instant::now() < deadline, "it never settles\n{}", self.log_text());
            std::thread::sleep(Duration::from_millis(100));
            let now = self.received();
            if now.is_none() || now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// How often each line is in the trail, which verifies.
    fn lines(&self) -> BTreeMap<u64, u64> {
        let (exit, report) = self.site.verify(&[]);
        assert_eq!(exit, 0, "{report:#}");
        let mut seen = BTreeMap::new();
        each_record(&local_store(&self.site.path("trail")), &[], &mut |v| {
            if v["event_type"] == "redelivery" {
                println!("recognised as sent again: {}", v["metadata"]);
            } else if v["source"]["intake"] == "fluentbit" {
                assert_eq!((&v["source"]["tag"], &v["event_type"]), (&"app.log".into(), &"log".into()));
                let text = v["metadata"]["log"].as_str().unwrap();
                let n: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
                assert_eq!(text.len(), format!("line {n} ").len() + n as usize % 200);
                *seen.entry(n).or_default() += 1;
            }
        });
        seen
    }

    fn assert_all_once(&self) {
        let seen = self.lines();
        let missing: Vec<u64> = (0..self.written as u64).filter(|n| !seen.contains_key(n)).collect();
        let twice = seen.values().filter(|n| **n > 1).count();
        assert!(
            missing.is_empty(),
            "{} missing, from {:?}\n{}",
            missing.len(),
            missing.first(),
            self.log_text()
        );
        assert_eq!((seen.len(), twice), (self.written, 0), "\n{}", self.log_text());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn from_a_log_file_to_a_verified_trail() {
    let Some(mut node) = Node::new("") else { return };
    let lines = setting("WAXSEAL_FLUENT_BIT_LINES", 20_000);
    node.write(lines / 2);
    node.start();
    for _ in 0..10 {
        node.write(lines / 20);
        std::thread::sleep(Duration::from_millis(50));
    }
    node.settle();
    node.stop();
    node.assert_all_once();
    println!("{} lines, each once", node.written);
}

/// A line is in the trail once; twice only where Fluent Bit read it again because its own position in the file had not
/// been written down, which it does after it has taken the lines into its storage.
#[test]
fn sigkill_in_mid_stream() {
    let Some(mut node) = Node::new("batch: {max_age: 1s}\n") else { return };
    let kills = setting("WAXSEAL_FLUENT_BIT_KILLS", 6);
    for round in 0..kills {
        node.start();
        for _ in 0..10 {
            node.write(500);
            std::thread::sleep(Duration::from_millis(20 + (round * 37 % 60) as u64));
        }
        node.kill();
    }
    node.start();
    node.write(100);
    node.settle();
    node.stop();
    let seen = node.lines();
    let missing = (0..node.written as u64).filter(|n| !seen.contains_key(n)).count();
    let twice = seen.values().filter(|n| **n == 2).count();
    let more = seen.values().filter(|n| **n > 2).count();
    println!("{kills} kills, {} lines: {missing} missing, {twice} twice, {more} more often", node.written);
    assert_eq!((missing, more), (0, 0), "{}", node.log_text());
}

#[test]
fn a_reload_and_a_store_that_is_away() {
    let Some(mut node) = Node::new("batch: {max_age: 200ms}\n") else { return };
    node.start();
    node.write(2000);
    node.settle();
    node.signal(rustix::process::Signal::HUP);
    std::thread::sleep(Duration::from_secs(2));
    node.write(2000);
    node.settle();
    // What a mount point is while nothing is mounted. The other output goes on, and so does this one, into its spool.
    let (trail, away) = (node.site.path("trail"), node.site.path("away"));
    std::fs::rename(&trail, &away).unwrap();
    std::fs::create_dir(&trail).unwrap();
    node.write(2000);
    node.settle();
    assert!(std::fs::read_dir(&trail).unwrap().next().is_none());
    let other = std::fs::read_to_string(node.site.path("other/other.txt")).unwrap();
    assert_eq!(other.lines().count(), node.written);
    std::fs::remove_dir(&trail).unwrap();
    std::fs::rename(&away, &trail).unwrap();
    node.write(100);
    std::thread::sleep(Duration::from_secs(35));
    node.settle();
    node.stop();
    node.assert_all_once();
}
