//! The plugin in a real Fluent Bit, where `FLUENT_BIT` names its binary or PATH has one; else nothing is tried, and
//! that is said. From a log file to a verified trail: SIGKILL in mid-stream, reload, a store that is away.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use waxseal_e2e::process::{Site, each_record, free_port, local_store, peak_resident};

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

/// Lines with these numbers, of different lengths.
fn numbered(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| format!("line {n} {}\n", "x".repeat(n % 200))).collect()
}

struct Node {
    site: Site,
    binary: PathBuf,
    telemetry: u16,
    child: Option<Child>,
    log: std::fs::File,
    written: usize,
    limits: Option<Limits>,
    version: String,
}

/// A control group with a DaemonSet's limits, of version 1 or 2.
struct Limits {
    groups: Vec<PathBuf>,
    peak: PathBuf,
    kills: PathBuf,
    throttled: PathBuf,
}

impl Limits {
    /// `None` where none can be made.
    fn new(mebibytes: u64, millicores: u64) -> Option<Limits> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("waxseal-test-{}", std::process::id());
        let (memory, quota) = ((mebibytes << 20).to_string(), millicores * 100);
        let limits = if root.join("cgroup.controllers").exists() {
            let group = root.join(&name);
            let limits = Limits {
                peak: group.join("memory.peak"),
                kills: group.join("memory.events"),
                throttled: group.join("cpu.stat"),
                groups: vec![group.clone()],
            };
            std::fs::create_dir(&group).ok()?;
            std::fs::write(group.join("memory.max"), memory).ok()?;
            // Where there is swap, none of it.
            let _ = std::fs::write(group.join("memory.swap.max"), "0");
            std::fs::write(group.join("cpu.max"), format!("{quota} 100000")).ok()?;
            limits
        } else {
            let (m, c) = (root.join("memory").join(&name), root.join("cpu").join(&name));
            let limits = Limits {
                peak: m.join("memory.max_usage_in_bytes"),
                kills: m.join("memory.oom_control"),
                throttled: c.join("cpu.stat"),
                groups: vec![m.clone(), c.clone()],
            };
            std::fs::create_dir(&m).ok()?;
            std::fs::create_dir(&c).ok()?;
            std::fs::write(m.join("memory.limit_in_bytes"), memory).ok()?;
            std::fs::write(c.join("cpu.cfs_period_us"), "100000").ok()?;
            std::fs::write(c.join("cpu.cfs_quota_us"), quota.to_string()).ok()?;
            limits
        };
        Some(limits)
    }

    fn count(file: &Path, name: &str) -> Option<u64> {
        let text = std::fs::read_to_string(file).ok()?;
        text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for group in &self.groups {
            let _ = std::fs::remove_dir(group);
        }
    }
}

impl Node {
    /// One log file, into the trail and into a file.
    fn new(more: &str) -> Option<Node> {
        Node::with(more, "", |p| {
            format!(
                "  inputs:\n    - name: tail\n      path: {}\n      tag: app.log\n      db: {}\n      \
                 db.sync: full\n      read_from_head: true\n      refresh_interval: 1\n      \
                 storage.type: filesystem\n  outputs:\n    - name: waxseal\n      match: '*'\n      \
                 config: {}\n      retry_limit: no_limits\n      workers: 1\n    - name: file\n      match: '*'\n      \
                 path: {}\n      file: other.txt\n      format: template\n      template: '{{log}}'\n",
                p("app.log"),
                p("tail.db"),
                p("sink.yaml"),
                p("other")
            )
        })
    }

    fn with(
        more: &str,
        service: &str,
        pipeline: impl FnOnce(&dyn Fn(&str) -> String) -> String,
    ) -> Option<Node> {
        let Some(binary) = fluent_bit() else {
            println!("no Fluent Bit here (FLUENT_BIT or PATH): not tried");
            return None;
        };
        let version = Command::new(&binary).arg("--version").output().expect("it runs").stdout;
        let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().to_owned();
        println!("{version}");
        let telemetry = free_port();
        let site = Site::new(&format!("telemetry: {{listen: \"127.0.0.1:{telemetry}\"}}\n{more}"));
        site.without_intake();
        let p = |name: &str| site.path(name).display().to_string();
        let library = waxseal_e2e::process::bin("libwaxseal_sink.so").display().to_string();
        let shipper = format!(
            "service:\n  flush: 0.2\n  grace: 10\n  log_level: info\n  http_server: off\n  hot_reload: on\n  \
             storage.path: {}\n  storage.sync: full\n  storage.checksum: off\n  plugins_file: {}\n{service}\
             pipeline:\n{}",
            p("storage"),
            p("plugins.conf"),
            pipeline(&p)
        );
        std::fs::write(site.path("fluent-bit.yaml"), shipper).unwrap();
        std::fs::write(site.path("plugins.conf"), format!("[PLUGINS]\n    Path {library}\n")).unwrap();
        std::fs::create_dir(site.path("other")).unwrap();
        let log = std::fs::File::create(site.path("app.log")).unwrap();
        Some(Node { site, binary, telemetry, child: None, log, written: 0, limits: None, version })
    }

    fn start(&mut self) {
        let err = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.site.path("fluent-bit.log"))
            .unwrap();
        // In the control groups from its first instruction on.
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "for g in $GROUPS_TO_JOIN; do echo $$ >$g/cgroup.procs || exit 1; done; exec \"$0\" \"$@\"",
        ]);
        let groups = self.limits.iter().flat_map(|l| &l.groups).map(|g| g.display().to_string());
        let child = command
            .env("GROUPS_TO_JOIN", groups.collect::<Vec<_>>().join(" "))
            .arg(&self.binary)
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
        self.log.write_all(numbered(self.written..self.written + count).as_bytes()).unwrap();
        self.written += count;
    }

    fn metric(&self, name: &str) -> Option<u64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.telemetry);
        let text = ureq::get(&url).call().ok()?.body_mut().read_to_string().ok()?;
        text.lines().find_map(|l| l.strip_prefix(name)?.parse().ok())
    }

    fn received(&self) -> Option<u64> {
        self.metric("waxseal_events_received_total ")
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

    /// How often each line is in the trail, which verifies; and how many records hold the end of a line only.
    fn lines(&self) -> (BTreeMap<u64, u64>, usize) {
        let (exit, report) = self.site.verify(&[]);
        assert_eq!(exit, 0, "{report:#}");
        let (mut seen, mut ends) = (BTreeMap::new(), 0);
        each_record(&local_store(&self.site.path("trail")), &[], &mut |v| {
            if v["event_type"] == "redelivery" {
                println!("recognised as sent again: {}", v["metadata"]);
            } else if v["source"]["intake"] == "fluentbit" {
                assert_eq!(v["event_type"], "log");
                let text = v["metadata"]["log"].as_str().unwrap_or_else(|| panic!("no line: {v}"));
                let number = text.strip_prefix("line ").and_then(|t| t.split(' ').next()?.parse().ok());
                match number {
                    Some(n) => {
                        assert_eq!(text.len(), format!("line {n} ").len() + n as usize % 200, "{v}");
                        *seen.entry(n).or_default() += 1;
                    }
                    None => {
                        assert!(text.ends_with('x') || text.len() < 12, "no end of a line: {v}");
                        ends += 1;
                    }
                }
            }
        });
        (seen, ends)
    }

    fn assert_all_once(&self) {
        let (seen, ends) = self.lines();
        assert_eq!(ends, 0);
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
/// been written down, which it does after it has taken the lines into its storage. Before 5.x that position counts the
/// beginning of a line of which the end was not written yet: after a kill only the end is read.
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
    let (seen, ends) = node.lines();
    let missing = (0..node.written as u64).filter(|n| !seen.contains_key(n)).count();
    let twice = seen.values().filter(|n| **n == 2).count();
    let more = seen.values().filter(|n| **n > 2).count();
    println!(
        "{kills} kills, {} lines: {missing} missing, of {ends} of which Fluent Bit read the end only; {twice} twice, {more} \
         more often",
        node.written
    );
    assert_eq!(more, 0, "{}", node.log_text());
    if node.version.contains("v4.") {
        // One a kill at most: the line that was being written.
        assert!(missing <= kills && ends <= kills, "{}", node.log_text());
    } else {
        assert_eq!((missing, ends), (0, 0), "{}", node.log_text());
    }
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
    // The other output goes on, and so does this one, into its spool.
    node.site.store_away();
    node.write(2000);
    node.settle();
    assert!(std::fs::read_dir(node.site.path("trail")).unwrap().next().is_none());
    let other = std::fs::read_to_string(node.site.path("other/other.txt")).unwrap();
    assert_eq!(other.lines().count(), node.written);
    node.site.store_back();
    node.write(100);
    std::thread::sleep(Duration::from_secs(35));
    node.settle();
    node.stop();
    node.assert_all_once();
}

/// Fluent Bit's own handlers are back after a reload, and a filter that reads beyond its memory ends nothing.
#[test]
fn a_reload_and_then_a_guest_out_of_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let filter = waxseal_filter_testkit::module_of(dir.path(), "beyond", waxseal_filter_testkit::BEYOND);
    let more = format!(
        "batch: {{max_age: 200ms}}\nfilters:\n  - {{module: {}, config: {}}}\n",
        filter.module.display(),
        filter.config.display()
    );
    let Some(mut node) = Node::new(&more) else { return };
    node.start();
    node.write(500);
    node.settle();
    node.signal(rustix::process::Signal::HUP);
    std::thread::sleep(Duration::from_secs(2));
    node.write(500);
    node.settle();
    node.stop();
    node.assert_all_once();
    let mut marked = 0;
    each_record(&local_store(&node.site.path("trail")), &[], &mut |v| {
        marked +=
            usize::from(v["metadata"]["$filter_errors"][0].as_str().is_some_and(|e| e.contains("trap")));
    });
    assert_eq!(marked, node.written);
}

/// It may lag, and loses nothing.
#[test]
fn under_a_daemonsets_limits() {
    let Some(mut node) = Node::new("batch: {max_age: 5s}\n") else { return };
    node.limits = Limits::new(192, 200);
    if node.limits.is_none() {
        println!("no control group can be made here (root, cgroups): not tried under limits");
        return;
    }
    node.start();
    node.write(setting("WAXSEAL_FLUENT_BIT_LIMITED", 100_000));
    let written = Instant::now();
    let deadline = written + Duration::from_secs(900);
    let mut lag = 0;
    while node.received() != Some(node.written as u64) {
        assert!(Instant::now() < deadline, "it does not come to the end\n{}", node.log_text());
        assert_eq!(
            node.child.as_mut().unwrap().try_wait().unwrap(),
            None,
            "it has ended\n{}",
            node.log_text()
        );
        lag = lag.max(node.written as u64 - node.received().unwrap_or(0));
        std::thread::sleep(Duration::from_millis(100));
    }
    let took = written.elapsed();
    let resident = peak_resident(node.child.as_ref().unwrap().id()).unwrap();
    let limits = node.limits.as_ref().unwrap();
    let kills = Limits::count(&limits.kills, "oom_kill ").unwrap();
    let throttled = Limits::count(&limits.throttled, "nr_throttled").unwrap();
    let peak: u64 =
        std::fs::read_to_string(&limits.peak).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    println!(
        "{} lines in {:.0} s under 192 MiB and 200m: {lag} behind at most, {} MiB resident, {} MiB with the page \
         cache, {throttled} times throttled, {kills} killed",
        node.written,
        took.as_secs_f64(),
        resident >> 10,
        peak >> 20
    );
    assert_eq!(kills, 0);
    // The memory of the group is counted, and so the limit held.
    assert!(peak > resident << 9 && peak <= 192 << 20, "{peak}");
    assert!(throttled > 0, "the limit was none");
    node.stop();
    // Its grace may not have been enough; the next start stores what is left.
    node.limits = None;
    node.start();
    node.settle();
    node.stop();
    node.assert_all_once();
}

/// A hundred and fifty containers, a store that is away and a full spool: the audit inputs wait, in the files that they
/// read, and another output does not. Without their limit the chunks they cannot hand over would take up all of the
/// engine's tasks, and everything would stop.
#[test]
fn a_stopped_audit_output_does_not_starve_the_others() {
    const FILES: usize = 150;
    let limit = "  storage.max_chunks_up: 256\n  scheduler.base: 1\n  scheduler.cap: 10\n";
    let node = Node::with("spool: {max_bytes: 64MiB}\nbatch: {max_age: 1s}\n", limit, |p| {
        format!(
            "  inputs:\n    - name: tail\n      path: {}/*.log\n      tag: audit.*\n      db: {}\n      \
             db.sync: full\n      read_from_head: true\n      refresh_interval: 1\n      \
             storage.type: filesystem\n      storage.pause_on_chunks_overlimit: on\n    \
             - name: tail\n      path: {}\n      tag: app\n      db: {}\n      read_from_head: true\n      \
             storage.type: filesystem\n  outputs:\n    - name: waxseal\n      match: 'audit.*'\n      \
             config: {}\n      retry_limit: no_limits\n      workers: 1\n    - name: file\n      match: app\n      \
             path: {}\n      file: other.txt\n      format: template\n      template: '{{log}}'\n",
            p("audit"),
            p("audit.db"),
            p("app.log"),
            p("app.db"),
            p("sink.yaml"),
            p("other")
        )
    });
    let Some(mut node) = node else { return };
    std::fs::create_dir(node.site.path("audit")).unwrap();
    let open = |i: usize| std::fs::File::create(node.site.path(&format!("audit/c{i}.log"))).unwrap();
    let mut files: Vec<_> = (0..FILES).map(open).collect();
    let mut audit = 0;
    let mut say = |file: &mut std::fs::File, lines: usize| {
        file.write_all(numbered(audit..audit + lines).as_bytes()).unwrap();
        audit += lines;
    };
    say(&mut files[0], 10);
    node.start();
    node.settle();
    node.site.store_away();
    // More than the spool takes, and then a line a second from each.
    say(&mut files[0], 200_000);
    for _ in 0..30 {
        files.iter_mut().for_each(|f| say(f, 1));
        node.write(4);
        std::thread::sleep(Duration::from_secs(1));
    }
    let refused = node.metric("waxseal_chunks_refused_total ").unwrap();
    assert!(
        refused > 0,
        "the spool never was full: {:?} of {audit} came\n{}",
        node.received(),
        node.log_text()
    );
    let other = || std::fs::read_to_string(node.site.path("other/other.txt")).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(60);
    while other().lines().count() < node.written {
        assert!(Instant::now() < deadline, "the other output has stopped\n{}", node.log_text());
        std::thread::sleep(Duration::from_millis(100));
    }
    node.site.store_back();
    let deadline = Instant::now() + Duration::from_secs(120);
    while node.received() != Some(audit as u64) {
        assert!(Instant::now() < deadline, "{:?} of {audit} came\n{}", node.received(), node.log_text());
        std::thread::sleep(Duration::from_millis(100));
    }
    node.stop();
    let (seen, ends) = node.lines();
    println!(
        "{audit} audit lines, of which the spool refused chunks {refused} times; {} others",
        node.written
    );
    assert_eq!((seen.len(), seen.values().all(|n| *n == 1), ends), (audit, true, 0));
}
