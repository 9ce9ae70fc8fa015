//! SIGKILL of the server, again and again, in the middle of a transfer, for each protocol: what was acknowledged is in the
//! trail, and no event of a client that sends again what was not acknowledged is there more often than docs/topologies.md
//! allows, which for these clients is once.
//!
//! 20 kills and 200,000 events a protocol; `WAXSEAL_KILLS` and `WAXSEAL_KILL_EVENTS` say otherwise.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use waxseal_e2e::client::{Client, PROTOCOLS, Protocol, batch};
use waxseal_e2e::process::{Site, each_record, local_store};

const CLIENTS: u64 = 4;
const BATCH: u64 = 500;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn transfer(protocol: Protocol) {
    let (kills, events) = (setting("WAXSEAL_KILLS", 20), setting("WAXSEAL_KILL_EVENTS", 200_000));
    let site = Site::new("batch: {max_events: 20000, max_age: 200ms}\nheartbeat: 1h\n");
    site.intake(&protocol.yaml(site.port));
    let batches = events.div_ceil(BATCH);
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let again = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::new(protocol, site.port);
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= batches {
                        return;
                    }
                    let (key, request) = ((n * BATCH).to_string(), batch(protocol, n * BATCH, BATCH));
                    while client.send(&request, &key).is_err() {
                        again.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for kill in 1..=kills {
            let sink = site.start();
            // Spread over the transfer, and wherever in its work the sink is just then.
            let due = batches * kill / (kills + 1);
            for _ in 0..60_000 {
                if done.load(Ordering::Relaxed) >= due {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(done.load(Ordering::Relaxed) >= due, "the transfer stands still");
            std::thread::sleep(Duration::from_micros(kill * 377 % 5000));
            sink.kill();
        }
        let sink = site.start();
        for _ in 0..60_000 {
            if done.load(Ordering::Relaxed) >= batches {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(done.load(Ordering::Relaxed), batches, "the transfer does not end");
        sink.stop();
    });
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    let mut seen: HashMap<u64, u32> = HashMap::new();
    let mut redelivered = 0;
    each_record(&local_store(&site.path("trail")), &[], &mut |r| {
        if r["event_type"] == "redelivery" {
            redelivered += 1;
        } else if let Some(n) = protocol.number(r) {
            assert_eq!((&r["actor"], &r["source"]["intake"]), (&"alice".into(), &protocol.intake().into()));
            *seen.entry(n).or_default() += 1;
        }
    });
    let (missing, twice) = (batches * BATCH - seen.len() as u64, seen.values().filter(|n| **n > 1).count());
    println!(
        "{protocol:?}: {kills} kills, {} events acknowledged, {} requests sent again, {redelivered} recognised; \
         {missing} missing, {twice} twice",
        batches * BATCH,
        again.load(Ordering::Relaxed)
    );
    assert_eq!((missing, twice), (0, 0));
}

#[test]
fn every_protocol_survives_kills() {
    for protocol in PROTOCOLS {
        transfer(protocol);
    }
}
