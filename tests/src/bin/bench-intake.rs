//! `make bench-intake`: what each protocol carries, beside a server that decodes, converts and acknowledges and does nothing
//! else; and how long acknowledgements take with 1,000 idle connections and 50 busy ones. Client and server share the
//! machine. Prints Markdown; the ratios are the point.
//!
//! `bench-intake [EVENTS]`; `bench-intake discard CONFIG` is the server beside.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waxseal_e2e::client::{Client, PROTOCOLS, PUSH_EVENTS, Protocol, acknowledgement, batch_with, unary};
use waxseal_e2e::process::{Sink, Site, peak_resident};
use waxseal_filter_host::Filters;
use waxseal_sink::config::Config;
use waxseal_sink::pipeline::Pipeline;
use waxseal_sink::{Context, intake};

/// Events of about 600 bytes.
const PAD: usize = 480;
const BATCH: u64 = 1000;
const CLIENTS: u64 = 4;

fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("discard") => discard(&args.next().expect("a configuration")),
        events => bench(events.and_then(|e| e.parse().ok()).unwrap_or(400_000)),
    }
}

/// The server that keeps nothing.
fn discard(config: &str) {
    waxseal_sink::memory::return_large_buffers();
    waxseal_sink::memory::limit_arenas();
    let config = Config::load(std::path::Path::new(config)).expect("a configuration");
    let intakes = config.intake.clone();
    let pipeline = Pipeline::discarding(Context::system(config).expect("a store"), Filters::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        for intake in intake::bind(&intakes, &pipeline.submitter()).await.expect("it binds") {
            tokio::spawn(intake.run(stopped.clone()));
        }
        eprintln!("taking events");
        std::future::pending::<()>().await
    });
}

fn start_discard(site: &Site) -> Child {
    let me = std::env::current_exe().expect("a path");
    let mut child = Command::new(me)
        .args(["discard", &site.path("sink.yaml").display().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    while !lines.next().expect("it says when it listens").expect("text").contains("taking events") {}
    child
}

fn site(protocol: Protocol) -> Site {
    let site = Site::new("");
    site.intake(&protocol.yaml(site.port));
    site
}

/// CPU seconds of a process so far.
fn cpu(pid: u32) -> f64 {
    cpu_of(&format!("/proc/{pid}/stat"))
}

/// CPU seconds of a process so far, by the names of its threads.
fn by_thread(pid: u32) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let path = task.path().display().to_string();
        let name = std::fs::read_to_string(format!("{path}/comm")).unwrap_or_default().trim().to_owned();
        *all.entry(name).or_default() += cpu_of(&format!("{path}/stat"));
    }
    all
}

fn cpu_of(stat: &str) -> f64 {
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    let mut fields = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0) / 100.0;
    next() + next()
}

/// Sends all batches from [`CLIENTS`] connections: events a second, and the server's CPU µs an event.
fn throughput(protocol: Protocol, port: u16, pid: u32, batches: &[Vec<u8>]) -> (f64, f64) {
    let next = AtomicU64::new(0);
    let before = cpu(pid);
    let began = Instant::now();
    std::thread::scope(|s| {
        for _ in 0..CLIENTS {
            s.spawn(|| {
                let mut client = Client::new(protocol, port);
                client.compression = None;
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(batch) = batches.get(n as usize) else { return };
                    client.send(batch, &(n * BATCH).to_string()).expect("it is acknowledged");
                }
            });
        }
    });
    let events = batches.len() as f64 * BATCH as f64;
    (events / began.elapsed().as_secs_f64(), (cpu(pid) - before) / events * 1e6)
}

fn bench(events: u64) {
    println!(
        "| protocol | sealing, events/s | server CPU µs | decode, convert, acknowledge, events/s | server CPU µs | ratio |"
    );
    println!("|---|---|---|---|---|---|");
    let mut profiles = Vec::new();
    for protocol in PROTOCOLS {
        let pad = text();
        let batches: Vec<_> =
            (0..events / BATCH).map(|n| batch_with(protocol, n * BATCH, BATCH, &pad)).collect();
        let s = site(protocol);
        let sink = s.start();
        let before = by_thread(sink.child.id());
        let (sealed, sealed_cpu) = throughput(protocol, s.port, sink.child.id(), &batches);
        // Blocking threads that have ended meanwhile would be missed: they live for ten seconds.
        let spent = by_thread(sink.child.id()).into_iter().map(|(name, after)| {
            let used = after - before.get(&name).unwrap_or(&0.0);
            (name, used / events as f64 * 1e6)
        });
        profiles.push((protocol, spent.filter(|(_, used)| *used >= 0.05).collect::<Vec<_>>()));
        sink.stop();
        let mut child = start_discard(&s);
        let (bare, bare_cpu) = throughput(protocol, s.port, child.id(), &batches);
        let _ = child.kill();
        let _ = child.wait();
        println!(
            "| {protocol:?} | {sealed:.0} | {sealed_cpu:.1} | {bare:.0} | {bare_cpu:.1} | {:.2} |",
            sealed / bare
        );
    }
    println!("\nWhere sealing's CPU went, µs an event, by thread:\n");
    for (protocol, spent) in profiles {
        let spent: Vec<_> = spent.iter().map(|(name, used)| format!("{name} {used:.1}")).collect();
        println!("- {protocol:?}: {}", spent.join(", "));
    }
    println!("\n1,000 idle connections and 50 busy ones, requests of 200 events:\n");
    println!("| protocol | saturated, events/s | at half of it: p50 ms | p99 ms | max ms | peak RSS, MiB |");
    println!("|---|---|---|---|---|---|");
    for protocol in [Protocol::Vector, Protocol::Forward] {
        let s = site(protocol);
        let sink = s.start();
        crowd(protocol, s.port, &sink);
        sink.stop();
    }
}

/// A text that compresses about as logs do.
fn text() -> String {
    let words = ["session", "opened", "for", "user", "alice", "from", "192.0.2.7", "port", "52713", "key"];
    let mut state = 7u64;
    let mut out = String::new();
    while out.len() < PAD {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.push_str(words[(state >> 33) as usize % words.len()]);
        out.push(' ');
    }
    out
}

/// A connection of the protocol that has been opened and is used by one task.
enum Busy {
    Forward(tokio::net::TcpStream),
    Vector(Box<tonic::client::Grpc<tonic::transport::Channel>>),
}

impl Busy {
    async fn open(protocol: Protocol, port: u16) -> Busy {
        if protocol == Protocol::Forward {
            let s = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("it connects");
            s.set_nodelay(true).expect("a socket");
            return Busy::Forward(s);
        }
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a URL");
        Busy::Vector(Box::new(tonic::client::Grpc::new(endpoint.connect().await.expect("it connects"))))
    }

    async fn send(&mut self, batch: Vec<u8>, first: u64) {
        match self {
            Busy::Forward(s) => {
                s.write_all(&batch).await.expect("it is sent");
                let mut ack = acknowledgement(&first.to_string());
                s.read_exact(&mut ack).await.expect("it is acknowledged");
            }
            Busy::Vector(g) => unary(g, PUSH_EVENTS, batch).await.expect("it is acknowledged"),
        }
    }
}

fn crowd(protocol: Protocol, port: u16, sink: &Sink) {
    const REQUEST: u64 = 200;
    const BUSY: u64 = 50;
    let pad: Arc<str> = text().into();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut idle = Vec::new();
        for _ in 0..1000 {
            idle.push(Busy::open(protocol, port).await);
        }
        let numbers = Arc::new(AtomicU64::new(0));
        // As fast as they are answered, then at half of that rate: each request at its own time, however long others take.
        let run = async |seconds: u64, rate: Option<f64>| {
            let began = tokio::time::Instant::now();
            let until = began + Duration::from_secs(seconds);
            let tasks: Vec<_> = (0..BUSY)
                .map(|i| {
                    let (numbers, pad) = (numbers.clone(), pad.clone());
                    tokio::spawn(async move {
                        let mut connection = Busy::open(protocol, port).await;
                        let mut latencies = Vec::new();
                        let every = rate.map(|r| Duration::from_secs_f64(BUSY as f64 * REQUEST as f64 / r));
                        let mut due = began + every.unwrap_or_default().mul_f64(i as f64 / BUSY as f64);
                        while tokio::time::Instant::now() < until && due < until {
                            let n = numbers.fetch_add(REQUEST, Ordering::Relaxed);
                            let batch = batch_with(protocol, n, REQUEST, &pad);
                            if let Some(every) = every {
                                tokio::time::sleep_until(due).await;
                                // From when it was due: a late one counts what it waited.
                                let at = due;
                                due += every;
                                connection.send(batch, n).await;
                                latencies.push(at.elapsed());
                            } else {
                                connection.send(batch, n).await;
                                latencies.push(Duration::ZERO);
                            }
                        }
                        latencies
                    })
                })
                .collect();
            let mut all = Vec::new();
            for t in tasks {
                all.extend(t.await.expect("no panic"));
            }
            (all.len() as f64 * REQUEST as f64 / began.elapsed().as_secs_f64(), all)
        };
        let (saturated, _) = run(10, None).await;
        let (_, mut latencies) = run(20, Some(saturated / 2.0)).await;
        latencies.sort_unstable();
        let at = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
        println!(
            "| {protocol:?} | {saturated:.0} | {:.1} | {:.1} | {:.1} | {:.0} |",
            at(0.5),
            at(0.99),
            at(1.0),
            peak_resident(sink.child.id()).unwrap_or(0) as f64 / 1024.0
        );
        drop(idle);
    });
}
