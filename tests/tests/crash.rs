//! SIGKILL at random moments under load, restart, again: every acknowledged event is in the trail exactly once.
//!
//! Before the kill the process is stopped and looked at from outside (`/proc`): which of its threads was in
//! which stage. Half of the kills wait for a stage, so that each is hit; the other half come at random.
//! Rounds: 100, or `WAXSEAL_CRASH_ROUNDS`.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use waxseal_e2e::process::{Site, each_record, headers, local_store, post};

const STAGES: [&str; 7] =
    ["decode", "spool write", "fsync", "seal intent", "events object", "header", "idle"];
const EVENTS: u64 = 120;
const CLIENTS: u64 = 3;

// x86-64 and aarch64 number these differently.
#[cfg(target_arch = "x86_64")]
const WRITES: [i64; 2] = [18, 1];
#[cfg(target_arch = "x86_64")]
const SYNCS: [i64; 2] = [75, 74];
#[cfg(target_arch = "x86_64")]
const WAITS: [i64; 6] = [202, 232, 281, 230, 35, 271];
#[cfg(target_arch = "aarch64")]
const WRITES: [i64; 2] = [68, 64];
#[cfg(target_arch = "aarch64")]
const SYNCS: [i64; 2] = [83, 82];
#[cfg(target_arch = "aarch64")]
const WAITS: [i64; 6] = [98, 22, 22, 115, 101, 73];

/// The stages that a process's threads are in.
fn stages(pid: u32) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut busy = false;
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return found };
    for task in tasks.flatten() {
        let dir = task.path();
        let read = |f: &str| std::fs::read_to_string(dir.join(f)).unwrap_or_default();
        let name = read("comm").trim().to_owned();
        let call = read("syscall");
        let mut words = call.split_whitespace();
        // "running", or -1 when stopped outside a call.
        let number: i64 = words.next().and_then(|w| w.parse().ok()).unwrap_or(-1);
        let fd = words.next().and_then(|w| i64::from_str_radix(w.trim_start_matches("0x"), 16).ok());
        let path = fd
            .and_then(|fd| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok())
            .map(|p| p.display().to_string())
            .unwrap_or_default();
        let waiting = WAITS.contains(&number);
        busy |= !waiting && name.starts_with("wax-");
        let stage = match name.as_str() {
            "wax-net" if number == -1 => "decode",
            "wax-spool" if WRITES.contains(&number) => "spool write",
            "wax-spool" if SYNCS.contains(&number) => "fsync",
            "wax-store" if path.contains("/intents") => "seal intent",
            "wax-store" if path.contains(".parquet") || path.contains("/events/") => "events object",
            "wax-store" if path.contains("/.tmp/") || path.contains("/batches/") => "header",
            _ => continue,
        };
        found.push(stage);
    }
    if !busy {
        found.push("idle");
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether the spool thread is on a processor just now: a write never waits, so only a stop shows whether it is one.
fn is_running(pid: u32, tid: &mut Option<std::path::PathBuf>) -> bool {
    if tid.is_none() {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        *tid = tasks
            .map(|t| t.path())
            .find(|t| std::fs::read_to_string(t.join("comm")).is_ok_and(|c| c.trim() == "wax-spool"))
            .map(|t| t.join("syscall"));
    }
    let Some(path) = tid else { return false };
    let call = std::fs::read_to_string(path).unwrap_or_default();
    call.starts_with("running")
}

/// Stops the process and waits until all its threads stand still.
fn freeze(pid: u32) {
    signal(pid, rustix::process::Signal::STOP);
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
        let still = tasks.flatten().all(|t| {
            let stat = std::fs::read_to_string(t.path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|r| r.trim_start().starts_with('T'))
        });
        if still {
            return;
        }
    }
}

struct Client<'a> {
    url: &'a str,
    id: u64,
    done: &'a AtomicBool,
    pause: &'a AtomicBool,
    acknowledged: &'a AtomicU64,
    repeated: &'a AtomicU64,
}

impl Client<'_> {
    /// Posts chunk after chunk, each until it is acknowledged; returns how many.
    fn run(&self) -> u64 {
        let mut n = 0;
        while !self.done.load(Ordering::Relaxed) {
            if self.pause.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            // One client's chunks are large: their write takes long enough to be caught in.
            let pad = "x".repeat(if self.id == 0 { 4000 } else { 400 });
            let body: String = (0..EVENTS)
                .map(|i| {
                    format!("{{\"client\":{},\"chunk\":{n},\"event\":{i},\"pad\":\"{pad}\"}}\n", self.id)
                })
                .collect();
            let key = format!("{}-{n}", self.id);
            loop {
                match post(self.url, &[("idempotency-key", &key)], body.as_bytes()) {
                    Ok((200, answer)) => {
                        assert_eq!(answer["accepted"], EVENTS, "{answer}");
                        if answer["redelivered"] == true {
                            self.repeated.fetch_add(1, Ordering::Relaxed);
                        }
                        break;
                    }
                    Ok((503, _)) | Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    Ok(other) => panic!("{other:?}"),
                }
            }
            // Every so often an acknowledged chunk is sent once more: also then it may be sealed only once.
            if n % 17 == 3
                && let Ok((200, answer)) = post(self.url, &[("idempotency-key", &key)], body.as_bytes())
            {
                assert_eq!(answer["redelivered"], true, "{answer}");
            }
            n += 1;
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        n
    }
}

#[test]
fn sigkill_under_load() {
    let rounds: u64 = std::env::var("WAXSEAL_CRASH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(100);
    let filter_dir = tempfile::tempdir().unwrap();
    let filter =
        waxseal_filter_testkit::module_of(filter_dir.path(), "marking", &waxseal_filter_testkit::marking());
    let site = Site::new(&format!(
        "batch: {{max_events: 700, max_age: 50ms}}\nheartbeat: 1h\nfilters:\n  - {{module: {}, config: {}}}\n",
        filter.module.display(),
        filter.config.display()
    ));
    let url = site.url();
    let (done, pause) = (AtomicBool::new(false), AtomicBool::new(false));
    let (acknowledged, repeated) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let chunks: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|id| {
                let client = Client {
                    url: &url,
                    id,
                    done: &done,
                    pause: &pause,
                    acknowledged: &acknowledged,
                    repeated: &repeated,
                };
                scope.spawn(move || client.run())
            })
            .collect();
        let mut random = 0x9e37_79b9_97f4_a7c1_u64;
        for round in 0..rounds {
            // Each life has filters of its own, for the headers.
            std::fs::write(&filter.config, format!("# {round}")).unwrap();
            let sink = site.start();
            let pid = sink.child.id();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Let it take something first, or nothing would ever come of it.
            let wait = Duration::from_millis(5 + (random >> 33) % 60);
            std::thread::sleep(wait);
            let least = counts.get(STAGES[(round % 7) as usize]).copied().unwrap_or(0);
            let target = (round % 2 == 0 || least < 6).then(|| STAGES[(round % 7) as usize]);
            if target == Some("idle") {
                pause.store(true, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(250));
            }
            // A stage lasts microseconds: look, stop, look again, and let go if it was too late.
            let deadline = Instant::now() + Duration::from_secs(3);
            let mut spool_thread = None;
            let hit = loop {
                let seen = target.is_none_or(|t| match t {
                    "spool write" => is_running(pid, &mut spool_thread),
                    t => stages(pid).contains(&t),
                });
                if seen || Instant::now() > deadline {
                    freeze(pid);
                    let now = stages(pid);
                    if target.is_none_or(|t| now.contains(&t)) || Instant::now() > deadline {
                        break now;
                    }
                    signal(pid, rustix::process::Signal::CONT);
                }
            };
            sink.kill();
            for stage in hit {
                *counts.entry(stage).or_default() += 1;
            }
            pause.store(false, Ordering::Relaxed);
        }
        // Once more in peace, so that every client's last chunk is acknowledged.
        let sink = site.start();
        done.store(true, Ordering::Relaxed);
        let chunks = clients.into_iter().map(|c| c.join().unwrap()).collect();
        sink.stop();
        chunks
    });
    println!("kills by stage (several at once are counted each): {counts:?}");
    let total: u64 = chunks.iter().sum();
    println!(
        "{rounds} kills, {total} chunks acknowledged, {} of them recognised as sent again",
        repeated.load(Ordering::Relaxed)
    );
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    let mut seen: HashMap<(u64, u64, u64), u64> = HashMap::new();
    each_record(&local_store(&site.path("trail")), &[], &mut |v| {
        let m = &v["metadata"];
        if let (Some(c), Some(n), Some(e)) = (m["client"].as_u64(), m["chunk"].as_u64(), m["event"].as_u64())
        {
            assert_eq!(v["actor"], "marked", "an event that no filter saw");
            *seen.entry((c, n, e)).or_default() += 1;
        }
    });
    assert_eq!(seen.len() as u64, total * EVENTS, "events in the trail");
    assert!(seen.values().all(|n| *n == 1), "an event is in the trail twice");
    for (client, chunks) in chunks.iter().enumerate() {
        assert!((0..*chunks).all(|n| seen.contains_key(&(client as u64, n, EVENTS - 1))));
    }
    // Every header names the filters of one of the lives.
    let store = local_store(&site.path("trail"));
    let lives: Vec<_> =
        (0..rounds).map(|round| waxseal_trail::hash::sha256(format!("# {round}").as_bytes())).collect();
    let mut named = std::collections::BTreeSet::new();
    for h in headers(&store) {
        let [filter] = &h.filters[..] else { panic!("batch {} names {:?}", h.batch, h.filters) };
        named.insert(lives.iter().position(|l| *l == filter.config).expect("of one of the lives"));
    }
    println!("{} of {rounds} configurations are named in headers", named.len());
    assert!(named.len() as u64 >= rounds / 4, "{named:?}");
    if rounds >= 100 {
        for stage in STAGES {
            let n = counts.get(stage).copied().unwrap_or(0);
            assert!(n >= 5, "only {n} kills during {stage}: {counts:?}");
        }
    }
}
