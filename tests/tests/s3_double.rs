//! The sink and the verifier against a server that fails, forgets and lies: the double in `waxseal_e2e::s3`.
//! Rounds of faults and kills: 20, or `WAXSEAL_S3_ROUNDS`.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use waxseal_e2e::process::{Sink, Site, each_committed, free_port, post};
use waxseal_e2e::s3::double::WRITE_FAULTS;
use waxseal_e2e::s3::load::{kill_rounds, next};
use waxseal_e2e::s3::{Double, Fault, credentials, store};

const QUICK: &str = "batch: {max_events: 500, max_age: 100ms}\nheartbeat: 1h\n";

fn site(double: &Double, prefix: &str, lock: &str) -> Site {
    Site::at(&double.url(prefix), lock, credentials(), QUICK)
}

/// Findings by verdict, but for those that a stopped writer has.
fn findings(report: &serde_json::Value) -> Vec<(String, String)> {
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let all = report["findings"].as_array().cloned().unwrap_or_default();
    let all = all.iter().map(|f| (text(&f["verdict"]), text(&f["object"])));
    all.filter(|(v, _)| v != "STOPPED").collect()
}

fn send(site: &Site, from: u64, to: u64) {
    let body: String = (from..to).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let key = format!("{from}-{to}");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match post(&site.url(), &[("idempotency-key", &key)], body.as_bytes()) {
            Ok((200, _)) => return,
            other if Instant::now() > deadline => panic!("{other:?}"),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The numbers that are in the trail; each must be there once.
fn numbers(site: &Site) -> HashSet<u64> {
    let mut seen = HashSet::new();
    each_committed(&*store(&site.store), &mut |v| {
        if let Some(n) = v["metadata"]["n"].as_u64() {
            assert!(seen.insert(n), "{n} is there twice");
        }
    });
    seen
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ready() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The only writer, and its next batch number.
fn writer(double: &Double, prefix: &str) -> (String, u64) {
    let keys = double.keys();
    let headers = keys.iter().filter_map(|k| k.strip_prefix(&format!("{prefix}/batches/")));
    let last = headers.max().expect("it has a header");
    let (writer, file) = last.split_once('/').expect("a header's key");
    (writer.to_owned(), file.trim_end_matches(".json").parse::<u64>().expect("a number") + 1)
}

#[test]
fn random_faults_and_kills() {
    let rounds: u64 = std::env::var("WAXSEAL_S3_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(20);
    let random = Arc::new(AtomicU64::new(0x9e37_79b9_7f4a_7c15));
    let double = Double::start();
    let (mut left, mut trail, mut events) = (rounds, 0, 0);
    while left > 0 {
        // Long trails would be read again and again.
        let some = left.min(50);
        let prefix = format!("t{trail}");
        let site = site(&double, &prefix, "compliance");
        let prepare = |round: u64| {
            // From a healthy server to one of which every third answer is bad.
            let percent = [0, 5, 15, 35][(round % 4) as usize];
            let dice = random.clone();
            double.plan(move |method, _| {
                let n = next(&dice);
                if n % 100 >= percent {
                    return Fault::None;
                }
                match method {
                    "PUT" => WRITE_FAULTS[(n / 100) as usize % WRITE_FAULTS.len()],
                    _ => {
                        [Fault::SlowDown, Fault::CutBefore, Fault::Slow, Fault::Short][(n / 100) as usize % 4]
                    }
                }
            });
        };
        events += kill_rounds(&site, some, &random, 400, &prepare, &|| double.heal());
        let (exit, report) = site.verify(&[]);
        assert_eq!((exit, findings(&report)), (0, vec![]), "{report:#}");
        (left, trail) = (left - some, trail + 1);
    }
    println!(
        "{rounds} rounds, {events} events acknowledged, each in the trail once; faults: {:?}",
        double.played()
    );
}

#[test]
fn a_squatted_header_and_a_squatted_events_object() {
    let double = Double::start();
    let site = site(&double, "squat", "compliance");
    let sink = site.start();
    send(&site, 0, 10);
    wait_for("the first batch", || double.keys().iter().any(|k| k.contains("/events/")));
    sink.stop();
    let (name, batch) = writer(&double, "squat");
    // Junk, a header of its own from before, and a delete marker: none is valid under the next two numbers.
    let old =
        double.versions(&format!("squat/batches/{name}/{:012}.json", 0))[0].body.clone().unwrap_or_default();
    let next_key = format!("squat/batches/{name}/{batch:012}.json");
    double.squat(&next_key, b"{}");
    double.squat(&next_key, &old);
    let after = format!("squat/batches/{name}/{:012}.json", batch + 1);
    double.squat(&after, &vec![b'x'; 100_000]);
    double.delete(&after);
    // And far above, where there may never be one.
    double.squat(&format!("squat/batches/{name}/{:012}.json", batch + 70_000), b"{}");
    // The next events object is squatted at the very moment at which it comes.
    let (once, squatter) = (AtomicBool::new(false), double.clone());
    double.plan(move |method, key| {
        if method == "PUT" && key.contains("/events/") && !once.swap(true, Ordering::Relaxed) {
            squatter.squat(key, b"not parquet");
        }
        Fault::None
    });
    let sink = site.start();
    send(&site, 10, 20);
    wait_for("the header", || double.versions(&next_key).len() == 3);
    send(&site, 20, 30);
    let log = sink.stop();
    assert!(log.contains("written beside it"), "{log}");
    assert_eq!(numbers(&site), (0..30).collect());
    let (exit, report) = site.verify(&[]);
    let found = findings(&report);
    assert_eq!(exit, 0, "{report:#}");
    assert!(found.iter().all(|(v, _)| v == "FOREIGN"), "{found:?}");
    for key in [&next_key, &after] {
        let key = key.trim_start_matches("squat/");
        assert!(found.iter().any(|(_, o)| o == key), "{key} is not listed: {found:?}");
    }
    assert!(found.iter().any(|(_, o)| o.starts_with("events/")), "{found:?}");
    assert_eq!(writer(&double, "squat").0, name, "no new epoch is needed");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            drop(std::fs::copy(entry.path(), target))
        }
    }
}

/// Genesis objects of a trail.
fn epochs(double: &Double, prefix: &str) -> usize {
    double.keys().iter().filter(|k| k.starts_with(prefix) && k.ends_with("/genesis.json")).count()
}

/// A sink whose disk went back to how it was a run ago, after it has noticed; 0 to 30 have been sent.
fn restored(double: &Double, prefix: &str, site: &Site) -> Sink {
    let sink = site.start();
    send(site, 0, 10);
    sink.stop();
    copy(&site.path("state"), &site.path("snapshot"));
    let sink = site.start();
    send(site, 10, 20);
    sink.stop();
    std::fs::remove_dir_all(site.path("state")).unwrap();
    copy(&site.path("snapshot"), &site.path("state"));
    let sink = site.start();
    send(site, 20, 30);
    wait_for("a new epoch", || epochs(double, &format!("{prefix}/")) == 2);
    sink
}

#[test]
fn a_restored_snapshot_and_a_clone_begin_epochs_of_their_own() {
    let double = Double::start();
    let site = site(&double, "fork", "compliance");
    let sink = restored(&double, "fork", &site);
    send(&site, 30, 40);
    sink.stop();
    // A second sink with a copy of the state, at the same time.
    copy(&site.path("state"), &site.path("clone"));
    let port = free_port();
    let yaml = std::fs::read_to_string(site.path("sink.yaml")).unwrap();
    let yaml = yaml
        .replace(&site.path("state").display().to_string(), &site.path("clone").display().to_string())
        .replace(&site.port.to_string(), &port.to_string());
    std::fs::create_dir_all(site.path("second")).unwrap();
    std::fs::write(site.path("second/sink.yaml"), yaml).unwrap();
    let (sink, other) = (site.start(), site.start_with("second/sink.yaml"));
    let url = format!("http://127.0.0.1:{port}/v1/events");
    for n in 0..20 {
        send(&site, 100 + n, 101 + n);
        let body = format!("{{\"n\":{}}}\n", 200 + n);
        wait_for("the clone", || matches!(post(&url, &[], body.as_bytes()), Ok((200, _))));
        std::thread::sleep(Duration::from_millis(30));
    }
    wait_for("a third epoch", || epochs(&double, "fork/") == 3);
    let first = sink.stop();
    let second = other.stop();
    assert!(first.contains("is not ours") || second.contains("is not ours"), "{first}\n{second}");
    let want: HashSet<u64> = (0..40).chain(100..120).chain(200..220).collect();
    let seen = numbers_at_least_once(&site);
    assert_eq!(want.difference(&seen).count(), 0, "{:?}", want.difference(&seen));
    let (exit, report) = site.verify(&[]);
    // An operator has to say that the ends of the two epochs are known.
    assert_eq!(exit, 1, "{report:#}");
    let found = findings(&report);
    assert!(found.iter().all(|(v, _)| v == "ABANDONED" || v == "FOREIGN" || v == "SILENT"), "{found:?}");
    assert!(found.iter().any(|(v, _)| v == "ABANDONED"), "{found:?}");
}

/// What both of two sinks had in their spools at the moment of the copy may be sealed by both.
fn numbers_at_least_once(site: &Site) -> HashSet<u64> {
    let mut seen = HashSet::new();
    each_committed(&*store(&site.store), &mut |v| seen.extend(v["metadata"]["n"].as_u64()));
    seen
}

#[test]
fn two_sinks_at_one_server_without_conditions() {
    let double = Double::start();
    double.behave(|b| b.conditions = false);
    let url = format!("{}&conditional_writes=false", double.url("plain"));
    let site = Site::at(&url, "compliance", credentials(), QUICK);
    let sink = restored(&double, "plain", &site);
    sink.stop();
    assert_eq!(numbers(&site), (0..30).collect());
    // Nothing was written twice.
    for key in double.keys() {
        assert_eq!(double.versions(&key).len(), 1, "{key}");
    }
    // The events object that was written before its header's place was found taken is named by nothing.
    let (_, report) = site.verify(&[]);
    let expected = |(v, o): &(String, String)| v == "ABANDONED" || v == "FOREIGN" && o.starts_with("events/");
    assert!(findings(&report).iter().all(expected), "{report:#}");
}

#[test]
fn what_a_server_cannot_do_is_found_out_and_said() {
    let double = Double::start();
    let refused = |site: &Site, says: &str| {
        let sink = site.run_sink(&[]);
        let log = String::from_utf8_lossy(&sink.stderr).into_owned();
        assert!(!sink.status.success() && log.contains(says), "{says}: {log}");
    };
    // Made while the server was good; then it is not any more.
    let conditions = site(&double, "a", "compliance");
    let checksums = site(&double, "b", "compliance");
    let locks = site(&double, "c", "compliance");
    let off = site(&double, "d", "compliance");
    double.behave(|b| b.conditions = false);
    refused(&conditions, "conditional_writes=false");
    double.behave(|b| (b.conditions, b.checksums) = (true, false));
    refused(&checksums, "checksums=false");
    double.behave(|b| (b.checksums, b.keeps_locks) = (true, false));
    refused(&locks, "no lock");
    double.behave(|b| (b.keeps_locks, b.lock) = (true, false));
    refused(&off, "Object Lock is off");
    // Without a lock a trail is made only where its statement says so.
    let out = off.waxseal(&[
        "init",
        "--store",
        &double.url("e"),
        "--name",
        "e",
        "--lock",
        "governance",
        "--retention",
        "1d",
        "--out",
        &off.path("e").display().to_string(),
    ]);
    assert!(!out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let none = site(&double, "f", "none");
    let sink = none.start();
    send(&none, 0, 5);
    sink.stop();
    let (exit, report) = none.verify(&[]);
    assert_eq!((exit, findings(&report)), (0, vec![]), "{report:#}");
    // What is said to be known is done without, and is in the log and in the metrics.
    double.behave(|b| (b.lock, b.conditions, b.checksums) = (true, false, false));
    let url = format!("{}&conditional_writes=false&checksums=false&content_md5=true", double.url("g"));
    let port = free_port();
    let more = format!("{QUICK}telemetry: {{listen: \"127.0.0.1:{port}\"}}\n");
    let known = Site::at(&url, "compliance", credentials(), &more);
    let sink = known.start();
    send(&known, 0, 5);
    let metrics = get(&format!("http://127.0.0.1:{port}/metrics"));
    assert!(metrics.contains("waxseal_store_fallback{feature=\"conditional_writes\"} 1"), "{metrics}");
    assert!(metrics.contains("waxseal_store_fallback{feature=\"checksums\"} 1"), "{metrics}");
    let log = sink.stop();
    assert!(log.contains("ignores If-None-Match"), "{log}");
    let (exit, report) = known.verify(&[]);
    assert_eq!((exit, findings(&report)), (0, vec![]), "{report:#}");
}

fn get(url: &str) -> String {
    let agent = ureq::Agent::new_with_defaults();
    agent.get(url).call().unwrap().body_mut().read_to_string().unwrap()
}

#[test]
fn credentials_that_expire_a_wrong_clock_and_a_store_that_is_away() {
    let double = Double::start();
    let site = site(&double, "away", "compliance");
    let sink = site.start();
    send(&site, 0, 10);
    for (n, fault) in
        [Fault::Expired, Fault::Skewed, Fault::SlowDown, Fault::CutBefore].into_iter().enumerate()
    {
        double.plan(move |_, _| fault);
        send(&site, 10 + n as u64 * 10, 20 + n as u64 * 10);
        let name = format!("{fault:?}");
        wait_for(&name, || double.played().get(&name).is_some_and(|n| *n > 6));
        double.heal();
        // By itself.
        let events = |d: &Double| d.keys().iter().filter(|k| k.contains("/events/")).count();
        let before = events(&double);
        wait_for("the next batch", || events(&double) > before);
    }
    send(&site, 50, 60);
    let log = sink.stop();
    assert!(log.contains("the credentials are looked up anew"), "{log}");
    assert!(log.contains("the server's time is Thu, 01 Jan 2015"), "{log}");
    assert!(log.contains("SlowDown"), "{log}");
    assert_eq!(numbers(&site), (0..60).collect());
    let (exit, report) = site.verify(&[]);
    assert_eq!((exit, findings(&report)), (0, vec![]), "{report:#}");
}

#[test]
fn neither_start_nor_stop_waits_for_a_store_that_never_answers() {
    let double = Double::start();
    let site = site(&double, "hang", "compliance");
    let sink = site.start();
    send(&site, 0, 10);
    wait_for("the first batch", || double.keys().iter().any(|k| k.contains("/events/")));
    double.plan(|_, _| Fault::Hang);
    send(&site, 10, 20);
    // It ends when its grace does, not when the calls to the store do.
    sink.stop();
    let sink = site.start();
    send(&site, 20, 30);
    sink.kill();
    double.heal();
    site.start().stop();
    assert_eq!(numbers(&site), (0..30).collect());
    let (exit, report) = site.verify(&[]);
    assert_eq!((exit, findings(&report)), (0, vec![]), "{report:#}");
}

#[test]
fn verdicts_that_only_a_bucket_has() {
    let double = Double::start();
    double.behave(|b| b.page = 7);
    let site = site(&double, "v", "compliance");
    let sink = site.start();
    for n in 0..6 {
        send(&site, n * 10, n * 10 + 10);
        std::thread::sleep(Duration::from_millis(250));
    }
    sink.stop();
    let (exit, report) = site.verify(&["--strict"]);
    assert_eq!(exit, 1, "STOPPED counts under --strict: {report:#}");
    assert_eq!(findings(&report), vec![]);
    // Each byte is read once, and no object is looked at before it is read.
    let stats = &report["stats"];
    assert_eq!(stats["bytes"].as_u64(), Some(double.stored()), "{stats}");
    let objects = double.keys().len() as u64;
    assert_eq!(
        (stats["objects"].as_u64(), stats["requests"]["get"].as_u64()),
        (Some(objects), Some(objects))
    );
    assert_eq!(stats["requests"]["head"], 0, "{stats}");
    assert_eq!(stats["requests"]["list"].as_u64(), Some(objects.div_ceil(7)), "{stats}");
    let quick = site.verify(&["--quick"]);
    assert_eq!(quick.0, 0);

    let key = |part: &str, n: usize| {
        let keys = double.keys();
        keys.iter().filter(|k| k.starts_with("v/") && k.contains(part)).nth(n).cloned().unwrap()
    };
    let short = |k: &str| k.trim_start_matches("v/").to_owned();
    let says = |verdict: &str, object: &str, exit: i32| {
        let (got, report) = site.verify(&[]);
        let want = (verdict.to_owned(), short(object));
        assert!(findings(&report).contains(&want), "{want:?}: {report:#}");
        assert_eq!(got, exit, "{report:#}");
    };
    // Someone deletes a header and an events object, as anyone with the right can: the versions are there.
    for part in ["/batches/", "/events/"] {
        double.delete(&key(part, 1));
        says("FOREIGN", &key(part, 1), 0);
        double.tamper(&key(part, 1), |v| drop(v.pop()));
    }
    // Someone writes over them.
    for part in ["trail.json", "/genesis.json", "/batches/", "/events/"] {
        let k = key(part, 0);
        double.squat(&k, b"something else");
        says("FOREIGN", &k, 0);
        // Now only that is left.
        let removed = std::cell::RefCell::new(None);
        double.tamper(&k, |v| *removed.borrow_mut() = Some(v.remove(0)));
        let verdict = if part == "/genesis.json" { "FOREIGN" } else { "TAMPERED" };
        says(verdict, &k, i32::from(verdict == "TAMPERED"));
        double.tamper(&k, |v| *v = vec![removed.take().unwrap()]);
    }
    // A lock that is shorter, weaker, or not there.
    let k = key("/batches/", 2);
    let lock = double.versions(&k)[0].lock.clone().unwrap();
    for wrong in [
        Some((lock.0.clone(), lock.1 - Duration::from_secs(1))),
        Some(("GOVERNANCE".to_owned(), lock.1)),
        None,
    ] {
        double.tamper(&k, |v| v[0].lock.clone_from(&wrong));
        says("SHORT_RETENTION", &k, 1);
    }
    double.tamper(&k, |v| v[0].lock = Some(lock.clone()));
    // Archived: the digest that the store keeps against the header's.
    let k = key("/events/", 2);
    double.tamper(&k, |v| v[0].class = Some("GLACIER".to_owned()));
    says("ARCHIVED", &k, 0);
    // Nothing is asked for unless somebody says so; once it is, that is seen, and at its end the records are read.
    assert_eq!(double.versions(&k)[0].restore, None);
    let (_, report) = site.verify(&["--restore"]);
    assert!(report.to_string().contains("a restore was asked for"), "{report:#}");
    let (_, report) = site.verify(&["--restore"]);
    assert!(report.to_string().contains("a restore is under way"), "{report:#}");
    double.tamper(&k, |v| v[0].restore = Some("ongoing-request=\"false\", expiry-date=\"x\"".to_owned()));
    let (exit, report) = site.verify(&[]);
    assert_eq!((exit, findings(&report)), (0, vec![]), "{report:#}");
    double.tamper(&k, |v| v[0].restore = None);
    let checksum = double.versions(&k)[0].checksum.clone();
    double.tamper(&k, |v| v[0].checksum = None);
    says("UNREADABLE", &k, 2);
    let other = double.versions(&key("/events/", 3))[0].checksum.clone();
    double.tamper(&k, |v| v[0].checksum.clone_from(&other));
    says("TAMPERED", &k, 1);
    double.tamper(&k, |v| (v[0].class, v[0].checksum) = (None, checksum));
    // Gone altogether.
    let k = key("/events/", 1);
    let versions = double.versions(&k);
    double.tamper(&k, Vec::clear);
    says("GAP", &k, 1);
    double.tamper(&k, |v| *v = versions);
    let (exit, report) = site.verify(&[]);
    assert_eq!((exit, findings(&report)), (0, vec![]), "{report:#}");
    // Reads that fail are tried again, and a listing that is behind is only behind.
    let dice = AtomicU64::new(77);
    double.plan(move |_, _| match next(&dice) % 6 {
        0 => Fault::SlowDown,
        1 => Fault::Short,
        2 => Fault::CutBefore,
        _ => Fault::None,
    });
    let (exit, report) = site.verify(&[]);
    assert_eq!((exit, findings(&report)), (0, vec![]), "{report:#}");
}
