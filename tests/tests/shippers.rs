//! Real shippers and clients, as their users run them, into a verified trail. Those that the set-up could not get are named
//! in the output and not tried; a stock Vector and Fluent Bit are those that `VECTOR`, `FLUENT_BIT` or PATH name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use waxseal_e2e::certificates;
use waxseal_e2e::process::{Site, each_record, free_port, local_store, post};

fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file());
    if found.is_none() {
        println!("no {name} here ({variable} or PATH): not tried");
    }
    found
}

/// A program of the tests' own environments, if the set-up could make them.
fn prepared(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        println!("{variable} is not set (make test sets it where it can): not tried");
    }
    path
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {}\n{stdout}{stderr}", out.status);
    stdout.into_owned()
}

/// The trail is good; its records but for those of the sink itself.
fn records(site: &Site) -> Vec<serde_json::Value> {
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    let mut all = Vec::new();
    each_record(&local_store(&site.path("trail")), &[], &mut |r| {
        if r["category"] != "trail" {
            all.push(r.clone());
        }
    });
    all
}

struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Process {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn();
        Process(child.unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_raw(self.0.id().cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("waited for two minutes: {what}");
}

/// Waits until nothing more comes.
fn until_silence(telemetry: u16) {
    let mut last = (0, 0);
    wait_for("the shipper has sent everything", || {
        let now = counter(telemetry, "waxseal_events_received_total");
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        last.1 > 60
    });
}

/// A counter of the sink's metrics.
fn counter(telemetry: u16, name: &str) -> u64 {
    let url = format!("http://127.0.0.1:{telemetry}/metrics");
    let text =
        ureq::get(&url).call().ok().and_then(|mut r| r.body_mut().read_to_string().ok()).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<f64>().ok());
    line.map_or(0, |n| n as u64)
}

#[test]
fn forward_from_node() {
    let (Some(modules), Some(node)) = (prepared("WAXSEAL_NODE"), find("NODE", "node")) else { return };
    let site = Site::new("");
    certificates::write(site.dir.path());
    let p = |n: &str| site.path(n).display().to_string();
    let send = |options: serde_json::Value| {
        let out = run(Command::new(&node)
            .arg(script("forward.js"))
            .arg(options.to_string())
            .env("NODE_PATH", &modules));
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["acknowledged"].as_u64().unwrap()
    };
    let plain = format!("  forward: {{listen: \"127.0.0.1:{}\"}}\n", site.port);
    site.intake(&plain);
    let sink = site.start();
    let modes = ["Message", "Forward", "PackedForward", "CompressedPackedForward"];
    for mode in modes {
        assert_eq!(send(serde_json::json!({"port": site.port, "count": 100, "mode": mode})), 100, "{mode}");
    }
    sink.stop();
    // TLS, a shared key and a user.
    let secure = format!(
        "  forward:\n    listen: \"127.0.0.1:{}\"\n    tls: {{certificate: {}, key: {}}}\n    \
         shared_key: 0123456789abcdef\n    users: [{{name: node, password: secret}}]\n",
        site.port,
        p("server.crt"),
        p("server.key")
    );
    let yaml = std::fs::read_to_string(site.path("sink.yaml")).unwrap().replace(&plain, &secure);
    std::fs::write(site.path("sink.yaml"), yaml).unwrap();
    let sink = site.start();
    let with = |key: &str, password: &str, wait: u64| {
        send(serde_json::json!({
            "port": site.port, "count": 50, "mode": "PackedForward", "ca": p("ca.crt"), "wait": wait,
            "sharedKey": key, "username": "node", "password": password,
        }))
    };
    assert_eq!(with("0123456789abcdef", "secret", 20_000), 50);
    assert_eq!(with("0123456789abcdeX", "secret", 1500), 0, "another key");
    assert_eq!(with("0123456789abcdef", "Secret", 1500), 0, "another password");
    let log = sink.stop();
    assert!(
        log.contains("the shared key does not match") && log.contains("user or password do not match"),
        "{log}"
    );
    let all = records(&site);
    assert_eq!(all.len(), 450);
    for (i, mode) in modes.iter().enumerate() {
        for n in 0..100u64 {
            let r = all.iter().find(|r| r["metadata"]["mode"] == *mode && r["metadata"]["n"] == n);
            let r = r.unwrap_or_else(|| panic!("{i} {mode} {n}"));
            assert_eq!(
                r["source"],
                serde_json::json!({"intake": "forward", "peer": "127.0.0.1", "tag": "app.audit"})
            );
            assert_eq!(r["timestamp"], format!("2023-11-14T22:13:20.{n:09}Z"));
            assert_eq!(r["metadata"]["list"], serde_json::json!([1, null, "é"]));
        }
    }
}

#[test]
fn forward_from_python() {
    let Some(python) = prepared("WAXSEAL_CLIENTS") else { return };
    let telemetry = free_port();
    let site = Site::new(&format!("telemetry: {{listen: \"127.0.0.1:{telemetry}\"}}\n"));
    site.intake(&format!("  forward: {{listen: \"127.0.0.1:{}\"}}\n", site.port));
    let sink = site.start();
    run(Command::new(python).arg(script("forward.py")).args([&site.port.to_string(), "500"]));
    // There is no acknowledgement: what was sent before the connection ended is taken all the same.
    wait_for("all of it is read", || counter(telemetry, "waxseal_events_received_total") >= 500);
    sink.stop();
    let all = records(&site);
    assert_eq!(all.len(), 500);
    for (n, r) in all.iter().enumerate() {
        assert_eq!((&r["metadata"]["n"], &r["actor"]), (&n.into(), &"carol".into()), "in their order");
        assert_eq!(r["metadata"]["bytes"]["$bytes"], "_wA");
    }
}

#[test]
fn otlp_from_the_sdk() {
    let Some(python) = prepared("WAXSEAL_CLIENTS") else { return };
    let site = Site::new("");
    let (grpc, http) = (site.port, free_port());
    let token = "0123456789abcdef";
    site.intake(&format!(
        "  otlp:\n    grpc: {{listen: \"127.0.0.1:{grpc}\", token: {token}}}\n    \
         http: {{listen: \"127.0.0.1:{http}\", token: {token}}}\n"
    ));
    let sink = site.start();
    let send = |transport: &str, endpoint: String| {
        run(Command::new(&python).arg(script("otlp.py")).args([transport, &endpoint, "700", token]))
    };
    send("grpc", format!("http://127.0.0.1:{grpc}"));
    send("http", format!("http://127.0.0.1:{http}/v1/logs"));
    sink.stop();
    let all = records(&site);
    assert_eq!(all.len(), 1400);
    for half in all.chunks(700) {
        for (n, r) in half.iter().enumerate() {
            assert_eq!(r["metadata"]["attributes"], serde_json::json!({"n": n}), "in their order");
        }
        let r = &half[7];
        assert_eq!((&r["actor"], &r["action"]), (&"dave".into(), &"refund".into()));
        assert_eq!(r["correlation_id"], "0123456789abcdef0123456789abcdef");
        assert_eq!(r["timestamp"], "2023-11-14T22:13:20.000000007Z");
        assert_eq!(r["metadata"]["body"], serde_json::json!({"amount": 12.5}));
        assert_eq!(r["metadata"]["span_id"], "0123456789abcdef");
        assert_eq!(r["source"]["group"]["resource"]["attributes"]["service.name"], "shop");
        assert_eq!(r["source"]["group"]["scope"], serde_json::json!({"name": "checkout", "version": "1.2"}));
    }
}

#[test]
fn syslog_ng_by_http() {
    let Some(binary) = find("SYSLOG_NG", "syslog-ng") else { return };
    let site = Site::new("");
    let input = free_port();
    let token = "0123456789abcdef";
    site.intake(&format!("  http: {{listen: \"127.0.0.1:{}\", token: {token}}}\n", site.port));
    let p = |n: &str| site.path(n).display().to_string();
    // What docs/syslog.md shows, with a port of our own.
    let conf = include_str!("../../docs/examples/syslog-ng.conf")
        .replace("port(514)", &format!("port({input})"))
        .replace("http://127.0.0.1:9880/v1/events", &site.url())
        .replace("REPLACE_WITH_TOKEN", token)
        .replace("/var/lib/syslog-ng", &p("buffer"));
    std::fs::create_dir(site.path("buffer")).unwrap();
    std::fs::write(site.path("syslog-ng.conf"), conf).unwrap();
    let start = || {
        let mut command = Command::new(&binary);
        command.args(["-F", "--no-caps", "-f", &p("syslog-ng.conf"), "-R", &p("persist"), "-c", &p("ctl")]);
        Process::start(command.args(["-p", &p("pid")]), &site.path("syslog-ng.log"))
    };
    let mut sink = site.start();
    let shipper = start();
    let connect = || std::net::TcpStream::connect(("127.0.0.1", input));
    wait_for("syslog-ng listens", || connect().is_ok());
    let mut socket = connect().unwrap();
    for n in 0..2000 {
        writeln!(socket, "<86>Nov 25 04:00:00 host1 sshd[77]: Accepted publickey for alice number {n} é\"\\")
            .unwrap();
        if n % 400 == 399 {
            // The server dies and comes back; syslog-ng keeps what was not answered.
            sink.kill();
            std::thread::sleep(Duration::from_millis(300));
            sink = site.start();
        }
    }
    drop(socket);
    let numbers = || {
        let trail = local_store(&site.path("trail"));
        let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
        each_record(&trail, &[], &mut |r| {
            let text = r["metadata"]["MESSAGE"].as_str().unwrap_or_default();
            let n = text.split_whitespace().nth(5).and_then(|n| n.parse().ok());
            if let Some(n) = n {
                *seen.entry(n).or_default() += 1;
            }
        });
        seen
    };
    // Give it time to deliver, then seal.
    for round in 0.. {
        std::thread::sleep(Duration::from_secs(2));
        sink.stop();
        if numbers().len() == 2000 || round == 15 {
            break;
        }
        sink = site.start();
    }
    shipper.terminate();
    let seen = numbers();
    let twice = seen.values().filter(|n| **n > 1).count();
    println!("syslog-ng: 5 kills, {} of 2000 lines, {twice} twice", seen.len());
    assert_eq!(seen.len(), 2000, "{}", std::fs::read_to_string(site.path("syslog-ng.log")).unwrap());
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
}

fn numbered(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| format!("line {n} {}\n", "x".repeat(n % 300))).collect()
}

/// From a file by a stock shipper, with the server killed in the middle: how often each line is in the trail.
fn from_file(site: &Site, telemetry: u16, lines: usize, kills: usize, field: &str) -> BTreeMap<usize, u32> {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(site.path("in.log")).unwrap();
    let mut sink = site.start();
    for kill in 0..=kills {
        let part = lines * kill / (kills + 1)..lines * (kill + 1) / (kills + 1);
        // In pieces, so that the kill falls into a transfer.
        for from in part.clone().step_by(5000) {
            file.write_all(numbered(from..(from + 5000).min(part.end)).as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(50 + 37 * (kill as u64 % 7)));
        if kill < kills {
            sink.kill();
            sink = site.start();
        }
    }
    until_silence(telemetry);
    sink.stop();
    let mut seen = BTreeMap::new();
    each_record(&local_store(&site.path("trail")), &[], &mut |r| {
        let text = r["metadata"][field].as_str().unwrap_or_default();
        if let Some(n) = text.split_whitespace().nth(1).and_then(|n| n.parse().ok()) {
            *seen.entry(n).or_default() += 1;
        }
    });
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    seen
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn version(binary: &Path) {
    let out = run(Command::new(binary).arg("--version"));
    println!("{}", out.lines().next().unwrap_or_default());
}

/// The examples that users copy, with our places instead of theirs.
#[test]
fn vector_from_a_file() {
    let Some(binary) = find("VECTOR", "vector") else { return };
    version(&binary);
    let (lines, kills) = (setting("WAXSEAL_VECTOR_LINES", 60_000), setting("WAXSEAL_VECTOR_KILLS", 6));
    for example in ["vector.yaml.example", "vector.toml.example"] {
        let telemetry = free_port();
        let site = Site::new(&format!("telemetry: {{listen: \"127.0.0.1:{telemetry}\"}}\n"));
        site.intake(&format!("  vector: {{listen: \"127.0.0.1:{}\"}}\n", site.port));
        let p = |n: &str| site.path(n).display().to_string();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = std::fs::read_to_string(root.join(example)).unwrap();
        let text = text
            .replace("127.0.0.1:6000", &format!("127.0.0.1:{}", site.port))
            .replace("/var/log/audit/*.log", &p("in.log"))
            .replace("/var/lib/vector", &p("data"));
        let config = p(example.trim_end_matches(".example"));
        std::fs::write(&config, text).unwrap();
        std::fs::create_dir(site.path("data")).unwrap();
        std::fs::write(site.path("in.log"), "").unwrap();
        run(Command::new(&binary).args(["validate", "--no-environment", &config]));
        let mut command = Command::new(&binary);
        let vector = Process::start(command.args(["--config", &config]), &site.path("vector.log"));
        let seen = from_file(&site, telemetry, lines, kills, "message");
        vector.terminate();
        let twice = seen.values().filter(|n| **n > 1).count();
        println!("{example}: {kills} kills, {} of {lines} lines, {twice} twice", seen.len());
        assert_eq!((seen.len(), twice), (lines, 0));
    }
}

/// Client certificates; and an event that another sink of the same Vector sees masked.
#[test]
fn vector_with_certificates_and_masking() {
    let Some(binary) = find("VECTOR", "vector") else { return };
    let site = Site::new("");
    certificates::write(site.dir.path());
    let p = |n: &str| site.path(n).display().to_string();
    site.intake(&format!(
        "  vector:\n    listen: \"127.0.0.1:{}\"\n    tls: {{certificate: {}, key: {}, client_ca: {}}}\n",
        site.port,
        p("server.crt"),
        p("server.key"),
        p("ca.crt")
    ));
    let sink = site.start();
    let start = |name: &str, tls: &str| {
        let text = include_str!("../../docs/examples/vector-masking.yaml")
            .replace("127.0.0.1:6000", &format!("localhost:{}\n    tls: {tls}", site.port))
            .replace("/var/log/audit/*.log", &p("in.log"))
            .replace("/var/log/elsewhere.log", &p(&format!("{name}.log")))
            .replace("/var/lib/vector", &p(name));
        std::fs::write(site.path(&format!("{name}.yaml")), text).unwrap();
        std::fs::create_dir(site.path(name)).unwrap();
        let mut command = Command::new(&binary);
        Process::start(command.args(["--config", &p(&format!("{name}.yaml"))]), &site.path("vector.log"))
    };
    let line = "login of alice@example.org, card 4111 1111 1111 1111, authorization: Bearer abcdef0123456789";
    std::fs::write(site.path("in.log"), format!("{line}\n")).unwrap();
    let elsewhere = |name: &str| {
        let mut text = String::new();
        wait_for("the other sink has the event", || {
            text = std::fs::read_to_string(site.path(&format!("{name}.log"))).unwrap_or_default();
            text.ends_with('\n')
        });
        text
    };
    // Without a certificate of its own nothing comes through, and nothing is dropped.
    let stranger = start("stranger", &format!("{{enabled: true, ca_file: {}}}", p("ca.crt")));
    elsewhere("stranger");
    std::thread::sleep(Duration::from_secs(2));
    drop(stranger); // it would wait a minute for its answer
    let known = format!(
        "{{enabled: true, ca_file: {}, crt_file: {}, key_file: {}}}",
        p("ca.crt"),
        p("client.crt"),
        p("client.key")
    );
    let vector = start("known", &known);
    let masked = elsewhere("known");
    wait_for("the position is written", || {
        std::fs::read_to_string(site.path("known/audit/checkpoints.json")).is_ok()
    });
    vector.terminate();
    sink.stop();
    let all = records(&site);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["metadata"]["message"], line);
    let masked: serde_json::Value = serde_json::from_str(&masked).unwrap();
    assert_eq!(masked["message"], "login of [REDACTED], card [REDACTED], authorization: [REDACTED]");
}

/// Vector itself is killed, with a disk buffer. What it sends again comes in other requests, with the ids that the sink
/// knows. What it loses of its own buffer the sink has never seen: that much is printed, not judged.
#[test]
fn vector_is_killed() {
    let Some(binary) = find("VECTOR", "vector") else { return };
    version(&binary);
    let kills = setting("WAXSEAL_VECTOR_KILLS", 6);
    let telemetry = free_port();
    let site = Site::new(&format!("telemetry: {{listen: \"127.0.0.1:{telemetry}\"}}\n"));
    site.intake(&format!("  vector: {{listen: \"127.0.0.1:{}\"}}\n", site.port));
    let sink = site.start();
    let (p, input) = (|n: &str| site.path(n).display().to_string(), free_port());
    let config = format!(
        "data_dir: {}\nsources:\n  in:\n    type: http_server\n    address: 127.0.0.1:{input}\n    \
         decoding: {{codec: bytes}}\n    framing: {{method: newline_delimited}}\nsinks:\n  waxseal:\n    type: vector\n    \
         inputs: [in]\n    address: 127.0.0.1:{}\n    acknowledgements: {{enabled: true}}\n    buffer: {{type: disk, \
         max_size: 268435488, when_full: block}}\n",
        p("data"),
        site.port
    );
    std::fs::write(site.path("vector.yaml"), config).unwrap();
    std::fs::create_dir(site.path("data")).unwrap();
    let url = format!("http://127.0.0.1:{input}/");
    let (mut next, mut kept) = (0, BTreeSet::new());
    for kill in 0..=kills {
        let mut command = Command::new(&binary);
        let vector = Process::start(command.args(["--config", &p("vector.yaml")]), &site.path("vector.log"));
        wait_for("Vector listens", || std::net::TcpStream::connect(("127.0.0.1", input)).is_ok());
        for _ in 0..400 {
            // A line that was not answered for is never sent again: what is there twice, Vector sent twice.
            let lines = next..next + 100;
            next = lines.end;
            if post(&url, &[], numbered(lines.clone()).as_bytes()).is_ok_and(|r| r.0 == 200) {
                kept.extend(lines);
            }
        }
        if kill < kills {
            drop(vector); // SIGKILL
        } else {
            until_silence(telemetry);
            vector.terminate();
        }
    }
    let taken = counter(telemetry, "waxseal_events_received_total");
    let again = counter(telemetry, "waxseal_events_redelivered_total");
    sink.stop();
    let mut seen: BTreeMap<usize, u32> = BTreeMap::new();
    for r in records(&site) {
        let text = r["metadata"]["message"].as_str().unwrap_or_default();
        if let Some(n) = text.split_whitespace().nth(1).and_then(|n| n.parse().ok()) {
            *seen.entry(n).or_default() += 1;
        }
    }
    let lost = kept.iter().filter(|n| !seen.contains_key(n)).count();
    let twice = seen.values().filter(|n| **n > 1).count();
    println!(
        "Vector killed {kills} times, disk buffer: it answered for {} lines and never sent {lost} of them; {again} were \
         sent again and recognised, {twice} sealed twice",
        kept.len()
    );
    assert_eq!((seen.len() as u64, twice), (taken, 0));
}

/// Offsets move when batches are sealed and stored, and not before.
#[test]
fn kafka_by_vector() {
    let (Some(binary), Some(python)) = (find("VECTOR", "vector"), prepared("WAXSEAL_CLIENTS")) else {
        return;
    };
    version(&binary);
    let site = Site::new("acknowledge: stored\nbatch: {max_age: 200ms}\n");
    site.intake(&format!("  vector: {{listen: \"127.0.0.1:{}\"}}\n", site.port));
    let p = |n: &str| site.path(n).display().to_string();
    let mut command = Command::new(python);
    command.arg(script("kafka.py")).args(["3000", "waxseal"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut broker = Process(command.stderr(Stdio::null()).spawn().unwrap());
    let mut ask = broker.0.stdin.take().unwrap();
    let mut lines = BufReader::new(broker.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let brokers = lines.next().unwrap();
    let mut committed = || {
        writeln!(ask).unwrap();
        lines.next().unwrap().parse::<u64>().unwrap()
    };
    let text = include_str!("../../docs/examples/vector-kafka.yaml")
        .replace("127.0.0.1:9092", &brokers)
        .replace("127.0.0.1:6000", &format!("127.0.0.1:{}", site.port))
        .replace("/var/lib/vector", &p("data"));
    std::fs::write(site.path("vector.yaml"), text).unwrap();
    std::fs::create_dir(site.path("data")).unwrap();
    let mut command = Command::new(&binary);
    let vector = Process::start(command.args(["--config", &p("vector.yaml")]), &site.path("vector.log"));
    // Read, but not sealed: there is no sink yet.
    wait_for("Vector reads the topic", || {
        std::fs::read_to_string(site.path("vector.log")).is_ok_and(|l| l.contains("Vector has started"))
    });
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(committed(), 0, "committed what nobody has");
    let sink = site.start();
    wait_for("all offsets are committed", || committed() == 3000);
    vector.terminate();
    sink.stop();
    let numbers: BTreeSet<u64> = records(&site)
        .iter()
        .filter_map(|r| {
            let text = r["metadata"]["message"].as_str()?;
            serde_json::from_str::<serde_json::Value>(text).ok()?["n"].as_u64()
        })
        .collect();
    assert_eq!(numbers.len(), 3000);
    println!("Kafka by Vector: 0 offsets committed before the sink was there, 3000 after");
}

#[test]
fn fluent_bit_by_forward() {
    let Some(binary) = find("FLUENT_BIT", "fluent-bit") else { return };
    version(&binary);
    let (lines, kills) = (setting("WAXSEAL_VECTOR_LINES", 60_000), setting("WAXSEAL_VECTOR_KILLS", 6));
    let telemetry = free_port();
    let site = Site::new(&format!("telemetry: {{listen: \"127.0.0.1:{telemetry}\"}}\n"));
    site.intake(&format!(
        "  forward: {{listen: \"127.0.0.1:{}\", shared_key: 0123456789abcdef}}\n",
        site.port
    ));
    let p = |n: &str| site.path(n).display().to_string();
    let config = format!(
        "service:\n  flush: 0.2\n  storage.path: {}\n  storage.sync: full\n  scheduler.cap: 2\n  \
         scheduler.base: 1\npipeline:\n  inputs:\n    - name: tail\n      path: {}\n      read_from_head: true\n      \
         tag: app.audit\n      storage.type: filesystem\n  outputs:\n    - name: forward\n      match: '*'\n      \
         host: 127.0.0.1\n      port: {}\n      require_ack_response: true\n      shared_key: 0123456789abcdef\n      \
         self_hostname: node\n      retry_limit: no_limits\n",
        p("chunks"),
        p("in.log"),
        site.port
    );
    std::fs::write(site.path("flb.yaml"), config).unwrap();
    std::fs::write(site.path("in.log"), "").unwrap();
    let mut command = Command::new(&binary);
    let shipper = Process::start(command.args(["-c", &p("flb.yaml")]), &site.path("flb.log"));
    let seen = from_file(&site, telemetry, lines, kills, "log");
    shipper.terminate();
    let twice = seen.values().filter(|n| **n > 1).count();
    println!("Fluent Bit by Forward: {kills} kills, {} of {lines} lines, {twice} twice", seen.len());
    assert_eq!((seen.len(), twice), (lines, 0), "{}", std::fs::read_to_string(site.path("flb.log")).unwrap());
}

/// What a cluster would be given, read as the sink reads it.
#[test]
fn the_aggregators_configuration_is_good() {
    let text = include_str!("../../docs/examples/aggregators.yaml");
    let (_, text) = text.split_once("  sink.yaml: |\n").unwrap();
    let (text, _) = text.split_once("---\n").unwrap();
    let site = Site::new("");
    certificates::write(site.dir.path());
    std::fs::write(site.path("shared-key"), "0123456789abcdef\n").unwrap();
    let mut yaml: String = text.lines().map(|l| format!("{}\n", l.strip_prefix("    ").unwrap())).collect();
    let p = |n: &str| site.path(n).display().to_string();
    for (theirs, ours) in [
        ("trail: prod", "trail: test".to_owned()),
        ("${POD_NAME}", "waxseal-0".to_owned()),
        ("2555d", "30d".to_owned()),
        ("/var/lib/waxseal", p("state")),
        ("/srv/trail", p("trail")),
        ("/etc/waxseal/keys/signing.key", p("writer/signing.key")),
        ("/etc/waxseal/keys/shared-key", p("shared-key")),
        ("/etc/waxseal/tls/tls.crt", p("server.crt")),
        ("/etc/waxseal/tls/tls.key", p("server.key")),
        ("/etc/waxseal/tls/ca.crt", p("ca.crt")),
    ] {
        assert!(yaml.contains(theirs), "{theirs}");
        yaml = yaml.replace(theirs, &ours);
    }
    std::fs::write(site.path("sink.yaml"), yaml).unwrap();
    let out = site.run_sink(&["--check-config"]);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    for line in ["0.0.0.0:6000 (mTLS, gRPC)", "0.0.0.0:24224 (TLS, shared key", "0.0.0.0:4317 (mTLS"] {
        assert!(said.contains(line), "{said}");
    }
}
