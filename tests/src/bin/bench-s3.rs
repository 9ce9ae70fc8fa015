//! What writing to a bucket costs beside writing to a directory, in the same run; and how often a bucket is asked. The
//! server is the tests' double in a process of its own, on loopback, without TLS: only this side's CPU is counted.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use waxseal_e2e::process::{Site, post};
use waxseal_e2e::s3::{Double, credentials, store};
use waxseal_store::disk::RealDisk;
use waxseal_store::{LocalStore, Retain, Store};
use waxseal_trail::hash::sha256;
use waxseal_trail::statement::Lock;
use waxseal_trail::time::Time;

/// CPU seconds of this process, of all its threads and those that have ended.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let rest = stat.rsplit(')').next().expect("a name");
    let fields: Vec<f64> = rest.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    // Linux counts in hundredths of a second for programs.
    fields.iter().sum::<f64>() / 100.0
}

fn put_all(
    store: &dyn Store,
    run: usize,
    batches: usize,
    body: &bytes::Bytes,
    header: &bytes::Bytes,
    retain: &Retain,
) -> f64 {
    let (digest, header_digest) = (sha256(body), sha256(header));
    let before = cpu();
    for n in 0..batches {
        let events = format!("events/{run}-{n}.parquet");
        store.put_if_absent(&events, body, &digest, retain).expect("it writes");
        store
            .put_if_absent(&format!("batches/{run}-{n}.json"), header, &header_digest, retain)
            .expect("it writes");
    }
    (cpu() - before) / batches as f64
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        let double = Double::start();
        println!("{}", double.url("bench"));
        // Until whoever started it ends.
        let _ = std::io::stdin().lock().lines().next();
        return;
    }
    let me = std::env::current_exe().expect("a path");
    let mut server = Command::new(me)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut url = String::new();
    let out = server.stdout.take().expect("piped");
    BufReader::new(out).read_line(&mut url).expect("it says where");
    let dir = tempfile::tempdir().expect("a directory");
    let local = LocalStore::new(Arc::new(RealDisk), dir.path(), "bench");
    let bucket = store(url.trim());
    let until = Time::parse_rfc3339("2033-01-01T00:00:00Z").expect("a time");
    println!("CPU of one batch (events object and header), seconds; medians of 5");
    println!("{:>12} {:>12} {:>12} {:>8}", "bytes", "directory", "bucket", "ratio");
    for (bytes, batches) in [(24_500_000, 8), (2_450_000, 60), (245_000, 200), (24_500, 400)] {
        // Noise: as compressed data is.
        let mut x = 1u64;
        let body: Vec<u8> = (0..bytes)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x as u8
            })
            .collect();
        let (body, header) = (bytes::Bytes::from(body), bytes::Bytes::from(vec![b'h'; 2500]));
        let mut runs: Vec<(f64, f64)> = (0..5)
            .map(|run| {
                let run = run + bytes;
                let none = Retain { lock: Lock::None, until };
                let locked = Retain { lock: Lock::Compliance, until };
                let l = put_all(&local, run, batches, &body, &header, &none);
                (l, put_all(&*bucket, run, batches, &body, &header, &locked))
            })
            .collect();
        runs.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
        let (l, b) = runs[2];
        println!("{bytes:>12} {l:>12.5} {b:>12.5} {:>8.2}", b / l);
    }
    drop(server.stdin.take());
    let _ = server.wait();

    let double = Double::start();
    let site = Site::at(&double.url("million"), "compliance", credentials(), "heartbeat: 1h\n");
    let before = double.requests();
    let sink = site.start();
    for n in 0..200 {
        let body: String = (0..5000)
            .map(|i| format!("{{\"actor\":\"a{}\",\"action\":\"login\",\"n\":{i}}}\n", n % 50))
            .collect();
        post(&site.url(), &[], body.as_bytes()).expect("it is taken");
    }
    sink.stop();
    println!("\na million events, from the start of a sink to its end: {}", since(&before, &double));
    let site =
        Site::at(&double.url("idle"), "compliance", credentials(), "heartbeat: 1s\nbatch: {max_age: 1s}\n");
    let sink = site.start();
    std::thread::sleep(Duration::from_secs(3));
    let before = double.requests();
    std::thread::sleep(Duration::from_secs(20));
    println!("20 heartbeats of an idle sink: {} (a day has 96)", since(&before, &double));
    sink.stop();
    let before = double.requests();
    let sink = site.start();
    std::thread::sleep(Duration::from_millis(700));
    println!("a start: {}", since(&before, &double));
    drop(sink);
}

fn since(before: &std::collections::BTreeMap<String, u64>, double: &Double) -> String {
    let now = double.requests();
    let each = now.iter().map(|(m, n)| (m, n - before.get(m).copied().unwrap_or(0)));
    each.filter(|(_, n)| *n > 0).map(|(m, n)| format!("{n} {m}")).collect::<Vec<_>>().join(", ")
}
