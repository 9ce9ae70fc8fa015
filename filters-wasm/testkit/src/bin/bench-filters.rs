//! What filters cost: enrich, privacy, and both, as modules in the sink's host, beside the same logic run natively in the same run;
//! with city and network databases, 10,000 users and 100,000 indicators, and all default rules of privacy. And what they hold
//! in memory, over many records.
//!
//! `bench-filters [--native | --plugin] [--only TABLE] [EVENTS [NETWORKS]]`: natively only, or as in the plugin in a shipper's
//! process; one of the three tables only; prints ratios; absolute figures are this machine's at this moment.
//! `bench-filters --site DIR EVENTS NETWORKS`: writes the configuration, its data and the events there, for a shipper.

use std::path::Path;
use std::sync::Arc;
use waxseal_filter_host::wasm::{Runtime, Wasm};
use waxseal_filter_host::{Process, Settings};
use waxseal_filter_testkit::{Native, converted, cpu};
use waxseal_trail::record::Events;
use waxseal_trail::time::Time;

const CHUNK: usize = 2000;

/// What the mix is of.
const KINDS: [&str; 4] = ["web server", "application JSON", "sshd", "Kubernetes audit"];

/// A realistic mix, 600 bytes each on average, or of one kind only.
fn chunk(seed: usize, kind: Option<u32>) -> Vec<String> {
    (0..CHUNK)
        .map(|i| {
            let n = (seed * CHUNK + i) as u32;
            // Three of four from a thousand clients, the others from anywhere.
            let client = if n % 16 < 12 { n % 1000 } else { n };
            let ip = std::net::Ipv4Addr::from(0x0100_0000 + (client.wrapping_mul(2_654_435_761) % 0x00ff_0000));
            let user = n % 20_000;
            let pod = serde_json::json!({"pod_name": format!("web-{}", n % 50), "namespace_name": "shop", "host": "node-7",
                "container_name": "web", "container_image": "registry.local/web:1.4", "docker_id": "4f5bf8b1a0c2",
                "labels": {"app": "web", "app.kubernetes.io/version": "1.4.2"}});
            let v = match kind.unwrap_or(n % 4) {
                0 => serde_json::json!({"log": format!("{ip} - user{user} [10/Oct/2024:13:55:36 +0000] \"GET /api/v1/items/{n}?page=2 HTTP/1.1\" 200 2326 \"https://shop.example/items\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\" 0.012"), "stream": "stdout", "kubernetes": pod}),
                1 => serde_json::json!({"category": "data_access", "event_type": "data_read", "user_id": format!("user{user}"), "resource_type": "invoice", "resource_id": n.to_string(), "ip_address": ip.to_string(), "fields_accessed": ["amount", "iban"], "level": "info", "logger": "com.shop.billing.InvoiceService", "thread": "http-nio-8080-exec-7", "trace": "x".repeat(80), "kubernetes": pod}),
                2 => serde_json::json!({"message": format!("Dec 10 06:55:46 host-1 sshd[{n}]: Failed password for user{user} from {ip} port 38926 ssh2"), "file": "/var/log/auth.log", "kubernetes": pod, "pad": "y".repeat(150)}),
                _ => serde_json::json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": format!("b5f3a1c0-1f3f-4a8e-9f4a-{n:012x}"), "stage": "ResponseComplete", "requestURI": "/api/v1/namespaces/shop/secrets/db", "verb": "get", "user": {"username": format!("user{user}"), "groups": ["system:authenticated"]}, "sourceIPs": [ip.to_string()], "userAgent": "kubectl/v1.30", "objectRef": {"resource": "secrets", "namespace": "shop", "name": "db", "apiVersion": "v1"}, "responseStatus": {"metadata": {}, "code": 200}, "requestReceivedTimestamp": "2024-05-01T10:00:00.000000Z", "stageTimestamp": "2024-05-01T10:00:00.012500Z"}),
            };
            v.to_string()
        })
        .collect()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

fn site(dir: &Path, networks: u32) -> std::path::PathBuf {
    let [city, asn] = waxseal_filter_testkit::databases(dir, networks);
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
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if_eq("--site").is_some() {
        let dir = std::path::PathBuf::from(args.next().expect("DIR"));
        let events: usize = args.next().expect("EVENTS").parse().expect("EVENTS");
        site(&dir, args.next().expect("NETWORKS").parse().expect("NETWORKS"));
        let lines = (0..events.div_ceil(CHUNK)).flat_map(|n| chunk(n, None)).take(events);
        let text: String = lines.map(|l| l + "\n").collect();
        std::fs::write(dir.join("events"), text).expect("writable");
        return;
    }
    let native_only = args.next_if_eq("--native").is_some();
    let process = if args.next_if_eq("--plugin").is_some() { Process::Shipper } else { Process::Own };
    let only = args.next_if_eq("--only").is_some().then(|| args.next().expect("TABLE"));
    let events: usize = args.next().map_or(400_000, |n| n.parse().expect("EVENTS"));
    let networks: u32 = args.next().map_or(100_000, |n| n.parse().expect("NETWORKS"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = site(dir.path(), networks);
    let policy = dir.path().join("privacy.yaml");
    std::fs::write(&policy, "").expect("writable");
    let base = resident();
    let mut enrich = Native::<waxseal_enrich::Enrich>::load(&config).expect("the configuration is good");
    let mut privacy = Native::<waxseal_privacy::Privacy>::load(&policy).expect("the policy is good");
    println!("resident: {base} MiB before, {} MiB with the libraries' copy of the data", resident());
    let runtime = (!native_only).then(|| Arc::new(Runtime::new(process).expect("an engine")));
    let module = |name: &str, config: &Path| {
        let (runtime, path) = (runtime.clone()?, waxseal_filter_testkit::module(name)?);
        let base = resident();
        let wasm = Wasm::load(runtime, Settings::new(path, config.to_owned())).expect("the module loads");
        println!(
            "resident: {base} MiB before, {} MiB with {name} loaded, whose memory has {} MiB",
            resident(),
            wasm.memory() >> 20
        );
        Some(wasm)
    };
    let modules = [module("enrich", &config), module("privacy", &policy)];
    for (title, first, second) in
        [("enrich", true, false), ("privacy", false, true), ("enrich and privacy", true, true)]
    {
        if only.as_ref().is_some_and(|o| o != title) {
            continue;
        }
        println!("\n{title}:\n");
        println!("| events | bytes | native, µs | modules in the sink, µs | of native | events/s a core |");
        println!("|---|---|---|---|---|---|");
        let wasm: Vec<_> =
            modules.iter().zip([first, second]).filter(|(_, on)| *on).map(|(m, _)| m).collect();
        let kinds = KINDS.iter().enumerate().map(|(i, name)| (*name, Some(i as u32), events / 8));
        for (name, kind, events) in kinds.chain([("the mix", None, events)]) {
            let chunks: Vec<Events> =
                (0..16).map(|n| converted(chunk(n, kind).iter().map(String::as_str))).collect();
            let bytes: usize = (0..16).map(|n| chunk(n, kind).iter().map(String::len).sum::<usize>()).sum();
            let rounds = (events / CHUNK).max(16);
            let (mut middle, mut out) = (Events::default(), Events::default());
            let (mut slow, mut fast) = (0.0, 0.0);
            // In turn, so that both have the same machine.
            for n in 0..rounds {
                let from = &chunks[n % chunks.len()];
                let began = cpu();
                if first {
                    enrich.in_sink(from, "", Time::MIN, &mut middle);
                }
                if second {
                    privacy.in_sink(if first { &middle } else { from }, "", Time::MIN, &mut out);
                }
                fast += cpu() - began;
                if wasm.iter().any(|w| w.is_none()) {
                    continue;
                }
                let mut again = Events::default();
                (0..from.len()).for_each(|i| again.push_same(from, i));
                let began = cpu();
                for filter in wasm.iter().copied().flatten() {
                    assert_eq!(filter.apply(&mut again, b"{}").0, 0);
                }
                slow += cpu() - began;
            }
            let each = |s: f64| s * 1e6 / (rounds * CHUNK) as f64;
            println!(
                "| {name} | {} | {:.2} | {:.2} | {:.2} | {:.0} |",
                bytes / (16 * CHUNK),
                each(fast),
                each(slow),
                slow / fast,
                1e6 / each(if slow > 0.0 { slow } else { fast })
            );
        }
    }
    let memory: usize = modules.iter().flatten().map(|w| w.memory() >> 20).sum();
    println!("\nresident: {} MiB at the end; the modules' memory: {memory} MiB", resident());
}
