//! Clients that post to a sink that is killed, again and again, until each chunk is acknowledged.

use crate::process::{Site, each_committed, post};
use crate::s3::store;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Events of a chunk.
pub const EVENTS: u64 = 40;
const CLIENTS: u64 = 2;

/// A random number, good enough for tests.
pub fn next(random: &AtomicU64) -> u64 {
    let mut x = random.load(Ordering::Relaxed);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    random.store(x, Ordering::Relaxed);
    x >> 11
}

/// Posts chunks with keys, until `done`; returns how many were acknowledged.
fn client(url: &str, id: u64, done: &AtomicBool) -> u64 {
    let mut n = 0;
    while !done.load(Ordering::Relaxed) {
        let pad = "x".repeat(300);
        let body: String = (0..EVENTS)
            .map(|i| format!("{{\"client\":{id},\"chunk\":{n},\"event\":{i},\"pad\":\"{pad}\"}}\n"))
            .collect();
        let key = format!("{id}-{n}");
        loop {
            match post(url, &[("idempotency-key", &key)], body.as_bytes()) {
                Ok((200, _)) => break,
                Ok((503, _)) | Err(_) => std::thread::sleep(Duration::from_millis(10)),
                Ok(other) => panic!("{other:?}"),
            }
        }
        n += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    n
}

/// Starts the sink `rounds` times under load; before each start `prepare` is called, and after a random while the sink
/// is killed. Then once more in peace. Panics unless every acknowledged event is in the trail exactly once and the trail
/// verifies; returns how many events that were.
///
/// # Panics
/// See above.
pub fn kill_rounds(
    site: &Site,
    rounds: u64,
    random: &AtomicU64,
    longest: u64,
    prepare: &dyn Fn(u64),
    heal: &dyn Fn(),
) -> u64 {
    let url = site.url();
    let done = AtomicBool::new(false);
    let chunks: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|id| {
                let (url, done) = (&url, &done);
                scope.spawn(move || client(url, id, done))
            })
            .collect();
        for round in 0..rounds {
            prepare(round);
            let sink = site.start();
            std::thread::sleep(Duration::from_millis(20 + next(random) % longest));
            if next(random).is_multiple_of(8) {
                // A stop that waits for a store which does not answer ends after its grace.
                heal();
                sink.stop();
            } else {
                sink.kill();
            }
        }
        heal();
        let sink = site.start();
        done.store(true, Ordering::Relaxed);
        let chunks = clients.into_iter().map(|c| c.join().expect("a client ends")).collect();
        // A stop ends after its grace; the next start goes on with what is left.
        let mut log = sink.stop();
        for _ in 0..20 {
            if !log.contains("not everything could be stored") {
                break;
            }
            log = site.start().stop();
        }
        chunks
    });
    let mut seen: HashMap<(u64, u64, u64), u64> = HashMap::new();
    each_committed(&*store(&site.store), &mut |v| {
        let m = &v["metadata"];
        if let (Some(c), Some(n), Some(e)) = (m["client"].as_u64(), m["chunk"].as_u64(), m["event"].as_u64())
        {
            *seen.entry((c, n, e)).or_default() += 1;
        }
    });
    let total: u64 = chunks.iter().sum::<u64>() * EVENTS;
    assert_eq!(seen.len() as u64, total, "events in the trail");
    assert!(seen.values().all(|n| *n == 1), "an event is in the trail twice");
    total
}
