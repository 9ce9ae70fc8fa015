//! What filters cost: enrich as a module in the sink's host, beside the same logic run natively in the same run; with city and
//! network databases, 10,000 users and 100,000 indicators. And what they hold in memory, over many records.
//!
//! `bench-filters [EVENTS [NETWORKS]]`: prints ratios; absolute figures are this machine's at this moment.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use waxseal_filter_abi::wire::Reader;
use waxseal_filter_abi::{Event, Filter as _};
use waxseal_sink::filter::Settings;
use waxseal_sink::filter::wasm::{Runtime, Wasm};
use waxseal_trail::record::{Converter, Events, MEMBERS, Member, Rewriter};
use waxseal_trail::time::Time;

const CHUNK: usize = 2000;

/// A realistic mix, 600 bytes each on average: a web server's lines, an application's JSON, sshd, Kubernetes.
fn chunk(seed: usize) -> Vec<String> {
    (0..CHUNK)
        .map(|i| {
            let n = (seed * CHUNK + i) as u32;
            let ip = std::net::Ipv4Addr::from(0x0100_0000 + (n.wrapping_mul(2_654_435_761) % 0x00ff_0000));
            let user = n % 20_000;
            let pod = serde_json::json!({"pod_name": format!("web-{}", n % 50), "namespace_name": "shop", "host": "node-7",
                "container_name": "web", "container_image": "registry.local/web:1.4", "docker_id": "4f5bf8b1a0c2",
                "labels": {"app": "web", "app.kubernetes.io/version": "1.4.2"}});
            let v = match n % 4 {
                0 => serde_json::json!({"log": format!("{ip} - user{user} [10/Oct/2024:13:55:36 +0000] \"GET /api/v1/items/{n}?page=2 HTTP/1.1\" 200 2326 \"https://shop.example/items\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\" 0.012"), "stream": "stdout", "kubernetes": pod}),
                1 => serde_json::json!({"category": "data_access", "event_type": "data_read", "user_id": format!("user{user}"), "resource_type": "invoice", "resource_id": n.to_string(), "ip_address": ip.to_string(), "fields_accessed": ["amount", "iban"], "level": "info", "logger": "com.shop.billing.InvoiceService", "thread": "http-nio-8080-exec-7", "trace": "x".repeat(80), "kubernetes": pod}),
                2 => serde_json::json!({"message": format!("Dec 10 06:55:46 host-1 sshd[{n}]: Failed password for user{user} from {ip} port 38926 ssh2"), "file": "/var/log/auth.log", "kubernetes": pod, "pad": "y".repeat(150)}),
                _ => serde_json::json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": format!("b5f3a1c0-1f3f-4a8e-9f4a-{n:012x}"), "stage": "ResponseComplete", "requestURI": "/api/v1/namespaces/shop/secrets/db", "verb": "get", "user": {"username": format!("user{user}"), "groups": ["system:authenticated"]}, "sourceIPs": [ip.to_string()], "userAgent": "kubectl/v1.30", "objectRef": {"resource": "secrets", "namespace": "shop", "name": "db", "apiVersion": "v1"}, "responseStatus": {"metadata": {}, "code": 200}, "requestReceivedTimestamp": "2024-05-01T10:00:00.000000Z", "stageTimestamp": "2024-05-01T10:00:00.012500Z"}),
            };
            v.to_string()
        })
        .collect()
}

fn convert(records: &[String]) -> Events {
    let mut events = Events::default();
    let mut c = Converter::default();
    records.iter().for_each(|r| c.json(r.as_bytes(), &mut events));
    events
}

/// The same steps without a module between: view, filter, changes, checked and applied.
fn natively(filter: &mut waxseal_enrich::Enrich, from: &Events, to: &mut Events, wire: &mut Vec<u8>) {
    let mut rewriter = Rewriter::default();
    to.clear();
    for i in 0..from.len() {
        let places = from.places(i);
        let parts: [&[u8]; MEMBERS] =
            std::array::from_fn(|m| &from.text()[places[m].0 as usize..places[m].1 as usize]);
        let mut event = Event::of_record("", Time::MIN, &parts);
        filter.run(&mut event);
        wire.clear();
        event.write_changes(wire);
        let mut r = Reader::new(wire);
        let mut changes = Vec::new();
        for _ in 0..r.int().expect("a count") {
            let (member, value) = r.change().expect("a change");
            changes.push((Member::at(member as usize).expect("a member"), value));
        }
        rewriter.push(from, i, &changes, to).expect("an event");
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

fn site(dir: &Path, networks: u32) -> std::path::PathBuf {
    let [city, asn] = waxseal_e2e::filters::databases(dir, networks);
    let size = |p: &Path| std::fs::metadata(p).map_or(0, |m| m.len()) as f64 / 1e6;
    println!("city database {:.1} MB, networks {:.1} MB", size(&city), size(&asn));
    let mut users = "user_id,department,role,manager,employment_status,risk_tier\n".to_owned();
    (0..10_000).for_each(|n| users.push_str(&format!("user{n},Sales,clerk,boss{},active,low\n", n % 100)));
    let mut bad = String::new();
    (0..100_000u32)
        .for_each(|n| bad.push_str(&format!("{}\n", std::net::Ipv4Addr::from(0x0100_0000 + n * 997))));
    std::fs::write(dir.join("users.csv"), users).expect("writable");
    std::fs::write(dir.join("bad.txt"), bad).expect("writable");
    let yaml = "time: {year: 2024}\nsystem: {environment: production}\ngeo: {databases: [city.mmdb, asn.mmdb]}\nusers: {file: users.csv}\nthreat: {events: all, lists: [{file: bad.txt, source: list, confidence: 80}]}\n";
    std::fs::write(dir.join("enrich.yaml"), yaml).expect("writable");
    dir.join("enrich.yaml")
}

fn main() {
    let mut args = std::env::args().skip(1);
    let events: usize = args.next().map_or(400_000, |n| n.parse().expect("EVENTS"));
    let networks: u32 = args.next().map_or(100_000, |n| n.parse().expect("NETWORKS"));
    let Some(module) = waxseal_e2e::filters::module("enrich") else {
        eprintln!("no enrich.wasm: make wasm");
        std::process::exit(1);
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = site(dir.path(), networks);
    let base = resident();
    let runtime = Arc::new(Runtime::new().expect("an engine"));
    let wasm = Wasm::load(runtime, Settings::new(module, config.clone())).expect("the module loads");
    println!("resident: {base} MiB before, {} MiB with the module loaded", resident());
    let chunks: Vec<Events> = (0..16).map(|n| convert(&chunk(n))).collect();
    let bytes: usize = (0..16).map(|n| chunk(n).iter().map(String::len).sum::<usize>()).sum();
    println!("{} bytes an event", bytes / (16 * CHUNK));
    let rounds = (events / CHUNK).max(16);
    let (mut out, mut wire) = (Events::default(), Vec::new());
    let mut native = waxseal_enrich::Enrich::load(&config).expect("the configuration is good");
    let (mut slow, mut fast) = (0.0, 0.0);
    // In turn, so that both have the same machine.
    for n in 0..rounds {
        let from = &chunks[n % chunks.len()];
        let began = Instant::now();
        natively(&mut native, from, &mut out, &mut wire);
        fast += began.elapsed().as_secs_f64();
        let mut again = Events::default();
        (0..from.len()).for_each(|i| again.push_same(from, i));
        let began = Instant::now();
        assert_eq!(wasm.apply(&mut again, b"{}").0, 0);
        slow += began.elapsed().as_secs_f64();
        if n == rounds / 10 || n + 1 == rounds {
            println!("resident: {} MiB after {} events", resident(), (n + 1) * CHUNK);
        }
    }
    let rate = |s: f64| (rounds * CHUNK) as f64 / s;
    println!("native                {:>9.0} events/s a core", rate(fast));
    println!(
        "module in the sink    {:>9.0} events/s a core, {:.2} times native's time",
        rate(slow),
        slow / fast
    );
}
