//! The worker: what it logs, what it finds, and that it can be stopped anywhere.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use waxseal_e2e::fleet::{Fleet, put, verdicts};
use waxseal_e2e::forge::{Objects, at, sign};
use waxseal_e2e::process::local_store;
use waxseal_log::{Reader, checkpoint, newest};
use waxseal_signing::Signer as _;
use waxseal_store::Store;
use waxseal_store::memory::MemoryBucket;
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::{Hash, leaf_hash};
use waxseal_trail::merkle;
use waxseal_trail::name;
use waxseal_trail::statement::{self, Acknowledgement, ExpectedWriters, Finding, Retirement, State};
use waxseal_trail::valid::{self, Place};

/// Every entry of the newest checkpoint; every checkpoint is the root of a prefix.
fn entries(fleet: &Fleet, store: &dyn Store) -> Vec<Vec<u8>> {
    let Some(newest) = newest(store, &fleet.log, None).unwrap() else { return Vec::new() };
    let reader = Reader::open(store, Some(newest.clone())).unwrap();
    let mut all = Vec::new();
    reader
        .entries(0, &mut |n, entry| {
            assert_eq!(n, all.len() as u64);
            all.push(entry.to_vec());
            true
        })
        .unwrap();
    let leaves: Vec<Hash> = all.iter().map(|e| leaf_hash(e)).collect();
    let mut before = 0;
    for n in 0..=newest.number {
        let c = checkpoint(store, &fleet.log, n, before).unwrap().unwrap().checkpoint;
        assert_eq!(merkle::root(&leaves[..c.size as usize]), c.root, "checkpoint {n}");
        before = c.size;
    }
    all
}

fn place(entry: &[u8]) -> String {
    let envelope = Envelope::parse(entry).unwrap();
    let place = valid::place(&envelope).unwrap();
    match &place {
        Place::Statement(kind) => kind.clone(),
        place => place.key(&Hash::empty()),
    }
}

/// Findings that are logged: verdict and object.
fn findings(all: &[Vec<u8>]) -> Vec<(String, String)> {
    let envelopes = all.iter().map(|e| Envelope::parse(e).unwrap());
    let findings = envelopes.filter_map(|e| statement::read::<Finding>(&e).ok());
    findings.map(|f| (f.verdict, f.object)).collect()
}

#[test]
fn everything_is_logged_in_order_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let (trail, state) = (dir.path().join("trail"), dir.path().join("state"));
    std::fs::create_dir_all(&trail).unwrap();
    std::fs::create_dir_all(&state).unwrap();
    let store = Arc::new(local_store(&trail));
    let mut fleet = Fleet::new(&["b", "a"]);
    fleet.seal(10);
    fleet.seal(20);
    let new = vec![Arc::new(waxseal_e2e::fleet::key()) as Arc<dyn waxseal_signing::Signer>];
    fleet.get("a").rotate(new, |_| {});
    fleet.seal(30);
    let last = fleet.get("b").previous;
    let writer = fleet.get("b").writer.clone();
    fleet.state(&Retirement {
        format: statement::format_of::<Retirement>(),
        trail: fleet.id,
        writer,
        batch: 2,
        statement: last,
        reason: "a test".into(),
    });
    fleet.put(&*store);
    let (a, b) = (fleet.get("a").writer.clone(), fleet.get("b").writer.clone());
    let mut worker = fleet.worker(store.clone(), Some(&state));
    let outcome = worker.round(at(40)).unwrap();
    assert_eq!(outcome.findings, []);
    let all = entries(&fleet, &*store);
    let mut wanted =
        vec!["trail.json".to_owned(), name::genesis_key(&a), name::keys_key(&a, 1), name::genesis_key(&b)];
    wanted.extend((0..3).map(|n| name::batch_key(&a, n)).chain((0..3).map(|n| name::batch_key(&b, n))));
    wanted.push("retirement".to_owned());
    assert_eq!(all.iter().map(|e| place(e)).collect::<Vec<_>>(), wanted);
    assert_eq!(all.len() as u64, outcome.appended);
    let report = fleet.verify(&*store, 50, vec![]);
    assert_eq!(verdicts(&report), Vec::<&str>::new());
    assert_eq!(report.log.as_ref().map(|l| (l.checkpoint, l.entries)), Some((Some(0), all.len() as u64)));

    // Nothing new, no checkpoint; whatever the worker remembers.
    let again = worker.round(at(60)).unwrap();
    assert_eq!((again.appended, again.newest.map(|n| n.number)), (0, Some(0)));
    let mut fresh = fleet.worker(store.clone(), None);
    assert_eq!(fresh.round(at(60)).unwrap().appended, 0);
    assert_eq!(fresh.state().known, worker.state().known, "what is known follows from the log alone");

    // What is new, and only that.
    let rows = fleet.get("a").rows(&[b"{}"], 70);
    fleet.get("a").seal(&rows, 70, |_| {});
    fleet.put(&*store);
    assert_eq!(verdicts(&fleet.verify(&*store, 75, vec![])), ["UNANCHORED"]);
    let mut reopened = fleet.worker(store.clone(), Some(&state));
    assert_eq!(reopened.round(at(80)).unwrap().appended, 1);
    assert_eq!(place(entries(&fleet, &*store).last().unwrap()), name::batch_key(&a, 3));
    assert_eq!(verdicts(&fleet.verify(&*store, 90, vec![])), Vec::<&str>::new());
    // A header that stays out is overdue after the trail's merge delay.
    let rows = fleet.get("a").rows(&[b"{}"], 95);
    fleet.get("a").seal(&rows, 95, |h| h.state = State::Stopped);
    fleet.put(&*store);
    assert_eq!(verdicts(&fleet.verify(&*store, 95 + 86_401, vec![])), ["OVERDUE", "STOPPED"]);
}

#[test]
fn what_is_wrong_becomes_a_finding_once() {
    let bucket = Arc::new(MemoryBucket::default());
    let mut fleet = Fleet::new(&["gap", "fork", "junk", "silent", "fresh"]);
    fleet.seal(10);
    fleet.seal(20);
    fleet.seal(30);
    fleet.expected.names = ["gap", "nobody", "spot-1"].map(str::to_owned).into();
    fleet.expected.ephemeral = vec!["spot-*".to_owned()];
    let mut objects = fleet.objects();
    let gap = name::batch_key(&fleet.get("gap").writer.clone(), 1);
    let late = objects.remove(&gap).unwrap();
    // Another header under a name that is taken, as whoever has the key can sign it.
    let fork = {
        let mut forge = fleet.get("fork").clone();
        let key = name::batch_key(&forge.writer, 2);
        let mut header: statement::Batch =
            statement::read(&Envelope::parse(&objects[&key]).unwrap()).unwrap();
        header.boot = 2;
        let envelope = sign(&header, &forge.signers);
        forge.objects.clear();
        (key, envelope.to_bytes().unwrap())
    };
    let junk = name::batch_key(&fleet.get("junk").writer.clone(), 1);
    bucket.stranger(&junk, b"junk");
    // Under a name that is known, with keys that nobody pinned.
    let mut other = Fleet::new(&["gap"]);
    other.id = fleet.id;
    let pretender = other.join("gap", 77).objects.clone();
    for (key, bytes) in pretender.iter().chain(&objects) {
        bucket.stranger(key, bytes);
    }
    bucket.stranger(&fork.0, &fork.1);
    let mut worker = fleet.worker(bucket.clone(), None);
    // All writers promised another header by 1830.
    fleet.get("silent");
    let outcome = worker.round(at(40)).unwrap();
    let found: BTreeSet<_> = outcome.findings.iter().map(|(v, o)| (v.name(), o.clone())).collect();
    let pretender = pretender.keys().find(|k| k.ends_with("genesis.json")).unwrap();
    let wanted: BTreeSet<(&str, String)> = [
        ("GAP", gap.clone()),
        ("FORK", fork.0.clone()),
        ("FOREIGN", junk),
        ("UNTRUSTED", pretender.clone()),
        ("SILENT", "writers/nobody".to_owned()),
    ]
    .into();
    assert_eq!(found, wanted);
    assert_eq!(outcome.absent.iter().collect::<Vec<_>>(), ["nobody"]);
    let all = entries(&fleet, &*bucket);
    assert_eq!(findings(&all).len(), 5);
    let both = all.iter().filter(|e| place(e) == fork.0).count();
    assert_eq!(both, 2, "both payloads of a fork are logged");
    assert!(all.iter().all(|e| place(e) != *pretender), "what nothing vouches for is kept out");
    let report = fleet.verify(&*bucket, 50, vec![]);
    for verdict in ["GAP", "FORK", "FOREIGN"] {
        assert!(verdicts(&report).contains(&verdict), "{verdict}: {:?}", report.findings);
    }
    // Again: nothing that is new; the header that was missing has come.
    bucket.stranger(&gap, &late);
    let again = worker.round(at(60)).unwrap();
    assert_eq!((again.findings, again.appended), (vec![], 1));
    assert_eq!(place(entries(&fleet, &*bucket).last().unwrap()), gap);
    // Silence, once for each promise.
    let silent = worker.round(at(2000)).unwrap();
    assert_eq!(silent.silent.len(), 5);
    assert_eq!(silent.findings.len(), 5);
    assert_eq!(worker.round(at(2100)).unwrap().findings, []);
    // An operator's word, logged, makes it a thing that is known.
    let writer = fleet.get("silent").writer.clone();
    let before = fleet.verify(&*bucket, 2200, vec![]);
    let is_silent = |r: &waxseal_verify::Report, v: &str| {
        r.findings.iter().any(|f| f.verdict.name() == v && f.writer.as_deref() == Some(&writer[..]))
    };
    assert!(is_silent(&before, "SILENT"));
    let statement = Acknowledgement {
        format: statement::format_of::<Acknowledgement>(),
        trail: fleet.id,
        verdict: "SILENT".into(),
        writer: writer.clone(),
        range: [2, 2],
        reason: "the node burnt".into(),
        by: "ops".into(),
    };
    let key = fleet.state(&statement);
    put(&*bucket, &key, &fleet.statements[&key]);
    assert!(is_silent(&fleet.verify(&*bucket, 2200, vec![]), "SILENT"), "not before it is logged");
    worker.round(at(2300)).unwrap();
    let after = fleet.verify(&*bucket, 2400, vec![]);
    assert!(!is_silent(&after, "SILENT") && is_silent(&after, "ACKNOWLEDGED"));
    // Names that an operator expects.
    let expected = ExpectedWriters {
        format: statement::format_of::<ExpectedWriters>(),
        trail: fleet.id,
        names: vec!["gap".into(), "elsewhere".into()],
        ephemeral: vec![],
        reason: "a test".into(),
        by: "ops".into(),
        declared_at: at(2400),
    };
    let key = fleet.state(&expected);
    put(&*bucket, &key, &fleet.statements[&key]);
    let outcome = worker.round(at(2500)).unwrap();
    assert_eq!(outcome.absent.iter().collect::<Vec<_>>(), ["elsewhere", "nobody"]);
}

/// The worker stops at each call to the store in turn, with and without what it kept, and before or after the call's effect.
#[test]
fn stopped_at_any_call_it_loses_nothing_and_forks_nothing() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    fleet.seal(10);
    let first = fleet.objects();
    fleet.expected.names = ["nobody".to_owned()].into();
    (0..90).for_each(|n| fleet.seal(20 + n));
    let all = fleet.objects();
    let logged: BTreeSet<&Vec<u8>> =
        all.iter().filter(|(k, _)| !k.starts_with("events/")).map(|(_, b)| b).collect();
    let mut calls = 0;
    for (kept, after) in [(true, false), (false, true)] {
        for n in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let state = kept.then(|| dir.path());
            let bucket = Arc::new(MemoryBucket::default());
            first.iter().for_each(|(k, b)| bucket.stranger(k, b));
            fleet.worker(bucket.clone(), state).round(at(200)).unwrap();
            let shown = newest(&*bucket, &fleet.log, None).unwrap().unwrap();
            all.iter().filter(|(k, _)| !first.contains_key(*k)).for_each(|(k, b)| bucket.stranger(k, b));
            let mut worker = fleet.worker(bucket.clone(), state);
            bucket.fail(n, after);
            let stopped = worker.round(at(210)).is_err();
            let failed = bucket.mend();
            assert_eq!(stopped, failed, "call {n}");
            // Whatever is there: the next one goes on, and what was shown stays a prefix.
            let between = newest(&*bucket, &fleet.log, Some(&shown)).unwrap().unwrap();
            let outcome = fleet.worker(bucket.clone(), state).round(at(220)).unwrap();
            let newest = outcome.newest.unwrap();
            assert!(newest.checkpoint.size >= between.checkpoint.size);
            let entries = entries(&fleet, &*bucket);
            let have: BTreeSet<&Vec<u8>> = entries.iter().collect();
            assert!(logged.iter().all(|b| have.contains(*b)), "call {n}: something is not logged");
            assert_eq!(findings(&entries).len(), 1, "call {n}");
            assert_eq!(entries.len(), have.len(), "call {n}: nothing twice");
            if n % 16 == 0 {
                let report = fleet.verify(&*bucket, 230, vec![]);
                assert_eq!(report.exit_status(false, false), 0, "call {n}: {:?}", report.findings);
            }
            calls += 1;
            if !failed {
                break;
            }
        }
    }
    println!("stopped at {calls} calls");
}

fn counted(bucket: &MemoryBucket) -> waxseal_store::Requests {
    bucket.requests().unwrap()
}

#[test]
fn a_round_costs_requests_for_who_writes_not_for_who_has_retired() {
    let mut fleet = Fleet::new(&[]);
    let key: Arc<dyn waxseal_signing::Signer> = Arc::new(waxseal_e2e::fleet::key());
    let mut objects: BTreeMap<String, Vec<Bytes>> = BTreeMap::new();
    let mut requests = Vec::new();
    // One key for all, so that the trust file stays small.
    let mut live = Vec::new();
    for n in 0..20_200 {
        let writer = waxseal_e2e::fleet::writer(&format!("node-{n}"), "0");
        let mut forge = waxseal_e2e::forge::Forge::new(fleet.id, &writer, vec![key.clone()], 0, |_| {});
        let retired = n >= 200;
        forge.seal(&[], 10, |h| h.state = if retired { State::Retired } else { State::Running });
        for (k, b) in &forge.objects {
            objects.entry(k.clone()).or_default().push(Bytes::copy_from_slice(b));
        }
        if !retired {
            live.push(forge);
        }
    }
    objects.insert(name::TRAIL.into(), vec![Bytes::from(fleet.envelope.to_bytes().unwrap())]);
    let any = waxseal_e2e::forge::Forge::new(fleet.id, &live[0].writer, vec![key.clone()], 0, |_| {});
    fleet.writers.insert("\"node-*\"".into(), any);
    let bucket = Arc::new(MemoryBucket::with(objects));
    let mut worker = fleet.worker(bucket.clone(), None);
    let first = worker.round(at(20)).unwrap();
    assert_eq!(first.appended, 1 + 2 * 20_200);
    assert_eq!(first.live, 200);
    println!("the first round, 40,401 statements: {:?}", counted(&bucket));
    for round in 0..3 {
        for forge in &mut live {
            forge.seal(&[], 30 + round, |_| {});
            let key = name::batch_key(&forge.writer, forge.batch - 1);
            put(&*bucket, &key, &forge.objects[&key]);
        }
        bucket.reset();
        let outcome = worker.round(at(40 + round)).unwrap();
        assert_eq!(outcome.appended, 200);
        requests.push(counted(&bucket));
    }
    let r = requests[2];
    println!("a round with 200 live writers, each with one new header, and 20,000 retired: {r:?}");
    // One listing for each that writes, one read for each new header, a page of `writers/` for each thousand keys, and so many
    // pages of what is logged already.
    assert!(r.list <= 200 + 21 + 32 + 20, "{r:?}");
    assert!(r.get <= 200 + 20, "{r:?}");
    assert!(r.put <= 10, "{r:?}");
}

/// Adding to a log of many entries reads and writes what lies at its right edge.
#[test]
fn one_more_entry_costs_the_logarithm() {
    use waxseal_anchor::log::Log;
    use waxseal_store::Retain;
    let fleet = Fleet::new(&[]);
    let signer = fleet.worker_key();
    let sign = |text: &[u8]| Ok(signer.sign(text).unwrap().try_into().unwrap());
    let retain = Retain { lock: waxseal_trail::statement::Lock::None, until: at(86_400) };
    let bucket = MemoryBucket::default();
    let mut costs = Vec::new();
    let mut log = Log::open(&bucket, fleet.log.clone(), retain, None).unwrap();
    log.resume(&mut |_, _| true).unwrap();
    let mut size = 0u64;
    for wanted in [1_000u64, 10_000, 100_000, 1_000_000] {
        while size < wanted {
            log.append(&size.to_be_bytes()).unwrap();
            size += 1;
        }
        let seen = log.commit(sign).unwrap().cloned().unwrap();
        bucket.reset();
        log = Log::open(&bucket, fleet.log.clone(), retain, Some(&seen)).unwrap();
        log.resume(&mut |_, _| true).unwrap();
        log.append(&size.to_be_bytes()).unwrap();
        size += 1;
        let seen = log.commit(sign).unwrap().cloned().unwrap();
        let r = counted(&bucket);
        println!("one entry more on {wanted}: {r:?}");
        costs.push(r.get + r.put + r.list);
        assert_eq!(seen.checkpoint.size, size);
    }
    // A thousand times as many entries: two levels of tiles more.
    assert!(costs[3] <= costs[0] + 2 * 6, "{costs:?}");
    // Its proofs are those of the list.
    let leaves: Vec<Hash> = (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect();
    let reader = log.committed();
    let root = reader.newest().unwrap().checkpoint.root;
    assert_eq!(merkle::root(&leaves), root);
    for n in 0..200 {
        let index = (n * 7_919 * 131) % size;
        bucket.reset();
        let path = reader.inclusion_proof(index).unwrap();
        assert!(merkle::verify_inclusion(&leaves[index as usize], index, size, &path, &root));
        assert!(counted(&bucket).get <= 6);
        let proof = reader.consistency_proof(index + 1).unwrap();
        let old = merkle::root(&leaves[..=index as usize]);
        assert!(merkle::verify_consistency(index + 1, &old, size, &root, &proof));
    }
}

fn all_objects(objects: &Objects) -> Arc<MemoryBucket> {
    let bucket = MemoryBucket::default();
    objects.iter().for_each(|(k, b)| bucket.stranger(k, b));
    Arc::new(bucket)
}

/// Whoever has all online keys makes another past and signs it anew. One checkpoint that somebody kept tells.
#[test]
fn with_all_keys_stolen_a_kept_checkpoint_tells() {
    let mut fleet = Fleet::new(&["a", "b"]);
    (1..4).for_each(|n| fleet.seal(n * 10));
    let middle = fleet.objects();
    let past = fleet.writers.clone();
    (4..6).for_each(|n| fleet.seal(n * 10));
    let bucket = all_objects(&fleet.objects());
    let kept = fleet.worker(bucket.clone(), None).round(at(60)).unwrap().newest.unwrap();
    let memory = |kept: &waxseal_log::Committed| {
        vec![waxseal_verify::Memory {
            what: "a friend".into(),
            checkpoint: Ok(kept.bytes.clone()),
            at: Some(at(60)),
        }]
    };
    let good = fleet.verify(&*bucket, 70, memory(&kept));
    assert_eq!((verdicts(&good), good.exit_status(false, false)), (vec![], 0));
    assert!(good.freshness.contains("a friend"), "{}", good.freshness);
    let try_with = |name: &str, objects: &Objects, wanted: &[&str]| {
        let forged = all_objects(objects);
        fleet.worker(forged.clone(), None).round(at(60)).unwrap();
        let blind = fleet.verify(&*forged, 70, vec![]);
        assert_eq!(blind.exit_status(false, false), 0, "{name}: {:?}", blind.findings);
        assert!(blind.freshness.starts_with("unproven after the beginning"), "{name}: {}", blind.freshness);
        let seen = fleet.verify(&*forged, 70, memory(&kept));
        assert!(wanted.contains(&seen.verdict.name()), "{name}: {:?}", seen.findings);
        assert_eq!(seen.exit_status(false, false), 1, "{name}");
    };
    // The last hour's batches are gone, as if they had never been.
    try_with("batches deleted", &middle, &["TRUNCATED"]);
    // A writer is gone.
    let b = fleet.writers["b"].writer.clone();
    let without: Objects = fleet.objects().into_iter().filter(|(k, _)| !k.contains(&b)).collect();
    try_with("a writer deleted", &without, &["TRUNCATED"]);
    // A batch says something else, and everything after it follows.
    let mut forged = Fleet::new(&[]);
    forged.writers = past;
    let rows = forged.get("a").rows(&[br#"{"action":"nothing"}"#], 40);
    forged.get("a").seal(&rows, 40, |_| {});
    let rows = forged.get("a").rows(&[br#"{"action":"nothing"}"#], 50);
    forged.get("a").seal(&rows, 50, |_| {});
    forged.get("b").objects = fleet.writers["b"].objects.clone();
    let mut replaced: Objects = forged.writers.values().flat_map(|w| w.objects.clone()).collect();
    replaced.insert(name::TRAIL.into(), fleet.envelope.to_bytes().unwrap());
    try_with("a batch replaced", &replaced, &["ROLLBACK"]);
}

/// Two workers of one trail at once: what the world is shown is one log.
#[test]
fn two_workers_show_one_log() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    fleet.seal(10);
    let bucket = all_objects(&fleet.objects());
    let mut workers: Vec<_> = (0..2).map(|_| fleet.worker(bucket.clone(), None)).collect();
    for round in 0..30 {
        fleet.seal(20 + round);
        fleet.put(&*bucket);
        std::thread::scope(|scope| {
            for worker in &mut workers {
                // Whoever comes second says so, and goes on in the next round.
                scope.spawn(move || {
                    if let Err(e) = worker.round(at(100 + round)) {
                        assert!(e.to_string().contains("another worker"), "{e}");
                    }
                });
            }
        });
    }
    for worker in &mut workers {
        worker.round(at(200)).unwrap();
        let seen = worker.state().seen.clone().unwrap();
        assert_eq!(Some(seen), newest(&*bucket, &fleet.log, None).unwrap());
    }
    entries(&fleet, &*bucket);
    let report = fleet.verify(&*bucket, 210, vec![]);
    assert_eq!(report.exit_status(false, false), 0, "{:?}", report.findings);
    assert_eq!(report.log.unwrap().checkpoint.map(|n| n >= 29), Some(true));
}

/// The real worker, killed at a hundred random points.
#[test]
fn killed_a_hundred_times_it_loses_nothing_and_forks_nothing() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let dir = tempfile::tempdir().unwrap();
    let trail = dir.path().join("trail");
    std::fs::create_dir_all(&trail).unwrap();
    let store = local_store(&trail);
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    let headers = |fleet: &mut Fleet, second: i64| {
        let forges = fleet.writers.values_mut();
        forges.for_each(|f| drop(f.seal(&[], second, |_| {})));
    };
    (0..100).for_each(|n| headers(&mut fleet, n));
    fleet.put(&store);
    let p = |s: &str| dir.path().join(s).display().to_string();
    std::fs::write(p("worker.key"), fleet.worker_key().to_pem().unwrap()).unwrap();
    std::fs::write(p("trust.yaml"), fleet.trust_yaml()).unwrap();
    let yaml =
        "trail: fleet\nstore: file://TRAIL\nstate_dir: state\nkey: file:worker.key\ntrust: trust.yaml\n";
    std::fs::write(p("anchor.yaml"), yaml.replace("TRAIL", &trail.display().to_string())).unwrap();
    let config = p("anchor.yaml");
    let start = || {
        let mut command = Command::new(waxseal_e2e::process::bin("waxseal-anchor"));
        command.args(["--config", &config, "--once"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let (mut killed, mut shown, mut longest) = (0, Vec::new(), Duration::from_millis(30));
    for n in 0..600 {
        if killed == 100 {
            break;
        }
        let mut child = start();
        std::thread::sleep(longest.mul_f64(fastrand::f64()));
        let ended = child.try_wait().unwrap().is_some();
        let began = Instant::now();
        child.kill().unwrap();
        child.wait().unwrap();
        killed += u32::from(!ended);
        // As long as a round takes here, about.
        longest = if ended { longest.mul_f64(0.9) } else { longest.mul_f64(1.02) };
        assert!(began.elapsed() < Duration::from_secs(60));
        shown.extend(newest(&store, &fleet.log, None).unwrap());
        if ended || n % 5 == 0 {
            headers(&mut fleet, 200 + n);
            fleet.put(&store);
        }
    }
    assert_eq!(killed, 100);
    // What is found for the first time is said by the exit, and no fault the second time.
    let silent = !start().wait().unwrap().success();
    let out = start().wait().unwrap();
    assert!(out.success(), "{silent}");
    let all = entries(&fleet, &store);
    let have: BTreeSet<&Vec<u8>> = all.iter().collect();
    let objects = fleet.objects();
    let wanted = objects.iter().filter(|(k, _)| !k.starts_with("events/"));
    assert!(wanted.clone().all(|(_, b)| have.contains(b)));
    let leaves: Vec<Hash> = all.iter().map(|e| leaf_hash(e)).collect();
    let checkpoints: BTreeSet<u64> = shown.iter().map(|c| c.number).collect();
    for c in &shown {
        assert_eq!(merkle::root(&leaves[..c.checkpoint.size as usize]), c.checkpoint.root);
    }
    let silent: Vec<_> = findings(&all).into_iter().map(|(v, _)| v).collect();
    assert!(silent.iter().all(|v| v == "SILENT"), "{silent:?}: all else is as it should be");
    println!(
        "killed {killed} times; {} entries, {} checkpoints seen on the way",
        all.len(),
        checkpoints.len()
    );
}

/// A logged trail in a bucket: who wrote it, and where it is.
fn logged(names: &[&str], batches: i64) -> (Fleet, Arc<MemoryBucket>) {
    let mut fleet = Fleet::new(names);
    (0..batches).for_each(|n| fleet.seal(10 + n));
    let bucket = all_objects(&fleet.objects());
    fleet.worker(bucket.clone(), None).round(at(50)).unwrap();
    (fleet, bucket)
}

#[test]
fn what_was_logged_and_is_changed_or_gone_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(local_store(dir.path()));
    let mut fleet = Fleet::new(&["a"]);
    fleet.seal(10);
    fleet.expected.names = ["nobody".to_owned()].into();
    fleet.put(&*store);
    fleet.worker(store.clone(), None).round(at(50)).unwrap();
    assert_eq!(verdicts(&fleet.verify(&*store, 60, vec![])), Vec::<&str>::new());
    // A finding of the worker's own.
    let key = waxseal_e2e::fleet::dump(&*store).into_keys().find(|k| k.contains("finding")).unwrap();
    let path = dir.path().join(&key);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(verdicts(&fleet.verify(&*store, 60, vec![])), ["TRUNCATED"]);
    std::fs::write(&path, b"junk").unwrap();
    assert_eq!(verdicts(&fleet.verify(&*store, 60, vec![])), ["TAMPERED"]);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    // Strangers in a bucket make no fork, and hide nothing.
    let (fleet, bucket) = logged(&["a"], 3);
    let mut other = Fleet::new(&[]);
    other.id = fleet.id;
    for _ in 0..2 {
        for (key, bytes) in &other.join("x", 5).objects {
            bucket.stranger(key, bytes);
        }
    }
    let report = fleet.verify(&*bucket, 60, vec![]);
    assert_eq!((verdicts(&report), report.exit_status(false, false)), (vec!["FOREIGN"], 0));
    // The newest checkpoint's name is overwritten after it was written.
    let newest = newest(&*bucket, &fleet.log, None).unwrap().unwrap();
    bucket.stranger(&waxseal_log::checkpoint_key(newest.number), b"junk");
    bucket.stranger("log/checkpoint", b"junk");
    let memory = waxseal_verify::Memory { what: "a friend".into(), checkpoint: Ok(newest.bytes), at: None };
    let report = fleet.verify(&*bucket, 60, vec![memory]);
    assert_eq!(
        (verdicts(&report), report.exit_status(false, false)),
        (vec!["FOREIGN"], 0),
        "{:?}",
        report.findings
    );
}

#[test]
fn headers_that_are_gone_after_their_time_have_expired() {
    let (fleet, bucket) = logged(&["a"], 3);
    let writer = fleet.writers["a"].writer.clone();
    let days = 2556 * 86_400;
    for batch in [0, 2] {
        bucket.remove(&name::batch_key(&writer, batch)).unwrap();
    }
    let before = fleet.verify(&*bucket, 60, vec![]);
    assert_eq!(verdicts(&before)[..2], ["TRUNCATED", "GAP"]);
    let objects = bucket.objects();
    objects.keys().filter(|k| k.starts_with("events/")).for_each(|k| drop(bucket.remove(k)));
    let after = fleet.verify(&*bucket, days, vec![]);
    assert_eq!(verdicts(&after), ["SILENT", "EXPIRED"], "{:?}", after.findings);
    let expired = after.findings.iter().filter(|f| f.verdict.name() == "EXPIRED").count();
    assert_eq!(expired, 2 + 3, "two headers and three events objects");
}

/// A key that was stolen: what the log had before stands, and nothing after it.
#[test]
fn what_a_revoked_key_signed_stands_if_it_was_logged_before() {
    let mut fleet = Fleet::new(&["a"]);
    fleet.seal(10);
    let stolen = fleet.get("a").signers[0].public().id();
    let bucket = all_objects(&fleet.objects());
    let mut worker = fleet.worker(bucket.clone(), None);
    let size = worker.round(at(20)).unwrap().newest.unwrap().checkpoint.size;
    let new = vec![Arc::new(waxseal_e2e::fleet::key()) as Arc<dyn waxseal_signing::Signer>];
    fleet.get("a").rotate(new, |_| {});
    let rows = fleet.get("a").rows(&[b"{}"], 30);
    fleet.get("a").seal(&rows, 30, |_| {});
    let put = |fleet: &Fleet| {
        for (k, b) in fleet.objects().iter().filter(|(k, _)| bucket.get(k).unwrap().is_none()) {
            bucket.stranger(k, b);
        }
    };
    put(&fleet);
    let after = worker.round(at(40)).unwrap().newest.unwrap().checkpoint.size;
    let revoked = |log_size: u64| {
        let yaml = format!("{}revoked:\n  - key: {stolen}\n    log_size: {log_size}\n", fleet.trust_yaml());
        waxseal_trail::trust::Trust::parse(&yaml, &|_| Err(String::new())).unwrap()
    };
    let verify = |size: u64| fleet.verify_with(&*bucket, revoked(size), at(50), vec![]);
    let prove = |size: u64, sequence: u64| {
        let writer = fleet.writers["a"].writer.clone();
        let wanted = waxseal_verify::prove::Wanted::Sequence(writer, sequence);
        let prover = waxseal_verify::prove::Prover::new(&*bucket, fleet.id, fleet.log.clone(), None);
        prover.prove(&wanted).unwrap()[0].verify(&revoked(size), &|_, _| Err("none".into())).map(drop)
    };
    // The rotation itself was logged before: all of it stands.
    assert_eq!(verdicts(&verify(after)), Vec::<&str>::new());
    assert_eq!((prove(after, 0), prove(after, 1)), (Ok(()), Ok(())));
    // Before the rotation: the first header stands, the new key came by a key that was revoked.
    assert_ne!(verify(size).exit_status(false, false), 0);
    assert_eq!(prove(size, 0), Ok(()));
    assert!(prove(size, 1).unwrap_err().to_string().contains("revoked"));
    // Before everything.
    assert_ne!(verify(1).exit_status(false, false), 0);
    assert!(prove(1, 0).is_err());
}

/// A list of nodes that is gone says so; it keeps no statement out of the log.
#[test]
fn a_list_of_nodes_that_cannot_be_read_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::new(&["a"]);
    fleet.seal(10);
    fleet.expected.names = ["b".to_owned()].into();
    fleet.nodes = Some(dir.path().join("nodes.json"));
    let bucket = all_objects(&fleet.objects());
    let mut worker = fleet.worker(bucket.clone(), None);
    let outcome = worker.round(at(20)).unwrap();
    assert!(outcome.complaints[0].contains("nodes.json"));
    assert_eq!(outcome.absent.iter().collect::<Vec<_>>(), ["b"], "what the configuration says still counts");
    assert_eq!(outcome.appended, 4);
    let list = r#"{"kind":"NodeList","items":[{"metadata":{"name":"a"}},{"metadata":{"name":"c"}}]}"#;
    std::fs::write(dir.path().join("nodes.json"), list).unwrap();
    let outcome = worker.round(at(30)).unwrap();
    assert_eq!(outcome.complaints, Vec::<String>::new());
    assert_eq!(outcome.absent.iter().collect::<Vec<_>>(), ["b", "c"]);
}

/// Whoever may put anywhere puts a genesis under a known name a few thousand times: the log grows by so many findings a round.
#[test]
fn strangers_make_a_bounded_number_of_findings() {
    let mut fleet = Fleet::new(&["a"]);
    fleet.seal(10);
    let bucket = all_objects(&fleet.objects());
    for n in 0..1500 {
        bucket.stranger(&name::genesis_key(&waxseal_e2e::fleet::writer("a", &n.to_string())), b"junk");
    }
    let mut worker = fleet.worker(bucket, None);
    let first = worker.round(at(20)).unwrap();
    assert_eq!((first.findings.len(), first.kept_out.len(), first.kept_out_count), (1000, 1000, 1500));
    assert_eq!(worker.round(at(30)).unwrap().findings.len(), 500);
    assert_eq!(worker.round(at(40)).unwrap().findings.len(), 0);
}
