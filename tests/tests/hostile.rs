//! The worker among those who may put where it reads: nodes that share credentials, and one of them hostile. And among stores that
//! do not give what they have.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use waxseal_anchor::round::Outcome;
use waxseal_e2e::fleet::Fleet;
use waxseal_e2e::forge::{Objects, at, sign};
use waxseal_e2e::process::{local_store, waxseal};
use waxseal_log::{Reader, newest};
use waxseal_signing::Signer;
use waxseal_store::memory::MemoryBucket;
use waxseal_store::{Kind, Store};
use waxseal_trail::envelope::Envelope;
use waxseal_trail::name;
use waxseal_trail::statement::{self, Batch, Lock, Retirement, State};
use waxseal_trail::verdict::Verdict;

fn bucket_of(objects: &Objects) -> Arc<MemoryBucket> {
    let bucket = MemoryBucket::default();
    objects.iter().for_each(|(k, b)| bucket.stranger(k, b));
    Arc::new(bucket)
}

/// Puts what the fleet has written since.
fn put(fleet: &Fleet, bucket: &MemoryBucket) {
    let there = bucket.objects();
    fleet.objects().iter().filter(|(k, _)| !there.contains_key(*k)).for_each(|(k, b)| bucket.stranger(k, b));
}

/// How often each entry is in the log.
fn entries(fleet: &Fleet, store: &dyn Store) -> BTreeMap<Vec<u8>, usize> {
    let mut all = BTreeMap::new();
    let reader = Reader::open(store, newest(store, &fleet.log, None).unwrap()).unwrap();
    let mut count = |_, entry: &[u8]| {
        *all.entry(entry.to_vec()).or_default() += 1;
        true
    };
    reader.entries(0, &mut count).unwrap();
    all
}

/// Everything that the fleet has written and a log has is in it, once.
fn all_logged(fleet: &Fleet, store: &dyn Store) {
    let log = entries(fleet, store);
    for (key, body) in fleet.objects().iter().filter(|(k, _)| !k.starts_with("events/")) {
        assert_eq!(log.get(body), Some(&1), "{key}");
    }
}

fn found(outcome: &Outcome) -> Vec<(&'static str, &str)> {
    outcome.findings.iter().map(|(v, o)| (v.name(), &o[..])).collect()
}

/// One object that nobody may read: all others are logged, nothing is said to be missing, and when it can be read it is logged.
#[test]
fn what_cannot_be_read_stops_nothing_and_makes_nobody_look_silent() {
    for kind in [Kind::Unreadable, Kind::Permission, Kind::Archived] {
        let mut fleet = Fleet::new(&["a", "b"]);
        (1..4).for_each(|n| fleet.seal(n * 10));
        let bucket = bucket_of(&fleet.objects());
        let a = fleet.get("a").writer.clone();
        let hidden = name::batch_key(&a, 1);
        bucket.hide(&hidden, Some(kind));
        // And one beside a good one.
        let beside = name::batch_key(&fleet.get("b").writer.clone(), 1);
        bucket.hidden(&beside, kind);
        let mut worker = fleet.worker(bucket.clone(), None);
        // Long after all that they promised.
        let far = 90 * 86_400;
        let outcome = worker.round(at(far)).unwrap();
        assert_eq!(found(&outcome), []);
        assert_eq!(outcome.unreadable.keys().collect::<Vec<_>>(), [&hidden, &beside]);
        let log = entries(&fleet, &*bucket);
        let objects = fleet.objects();
        assert!(log.contains_key(&objects[&name::batch_key(&a, 2)]) && !log.contains_key(&objects[&hidden]));
        bucket.hide("batches/", None);
        let outcome = worker.round(at(far)).unwrap();
        let silent: Vec<_> = outcome.findings.iter().map(|(v, _)| v.name()).collect();
        assert_eq!(
            silent,
            ["FOREIGN", "SILENT", "SILENT"],
            "what was beside is nobody's, and by now they are silent"
        );
        assert!(outcome.unreadable.is_empty());
        all_logged(&fleet, &*bucket);
    }
}

/// A permission that is lost is no silence.
#[test]
fn a_worker_that_may_read_no_more_says_so_and_nothing_else() {
    let mut fleet = Fleet::new(&["a", "b"]);
    fleet.seal(10);
    let bucket = bucket_of(&fleet.objects());
    let mut worker = fleet.worker(bucket.clone(), None);
    worker.round(at(20)).unwrap();
    fleet.seal(30);
    put(&fleet, &bucket);
    bucket.hide("batches/", Some(Kind::Permission));
    let outcome = worker.round(at(90 * 86_400)).unwrap();
    assert_eq!((found(&outcome), outcome.unreadable.len(), outcome.appended), (vec![], 2, 0));
    bucket.hide("batches/", None);
    worker.round(at(40)).unwrap();
    all_logged(&fleet, &*bucket);
}

/// Ten thousand versions before the good one: the round reads so many and no more, others are not held up, and what was read once is
/// not read again.
#[test]
fn a_flood_under_one_key_is_read_once_and_delays_only_that_writer() {
    let mut fleet = Fleet::new(&["a", "b"]);
    fleet.seal(10);
    let bucket = bucket_of(&fleet.objects());
    let mut worker = fleet.worker(bucket.clone(), None);
    worker.round(at(20)).unwrap();
    let flooded = name::batch_key(&fleet.get("a").writer.clone(), 1);
    (0..10_000).for_each(|n| bucket.stranger(&flooded, format!("junk {n}").as_bytes()));
    fleet.seal(30);
    fleet.seal(31);
    for (key, body) in fleet.objects() {
        if key == flooded || bucket.get(&key).unwrap().is_none() {
            bucket.stranger(&key, &body);
        }
    }
    let mut reads = Vec::new();
    for n in 0..4 {
        bucket.reset();
        let outcome = worker.round(at(40 + n)).unwrap();
        reads.push(bucket.requests().unwrap().get);
        let verdicts: Vec<_> = found(&outcome).iter().map(|(v, _)| *v).collect();
        assert!(verdicts.iter().all(|v| *v == "FOREIGN"), "round {n}: {verdicts:?}");
        let log = entries(&fleet, &*bucket);
        let b = name::batch_key(&fleet.get("b").writer.clone(), 2);
        assert!(log.contains_key(&fleet.objects()[&b]), "round {n}: b is not held up");
    }
    println!("a key with 10,000 foreign versions: {reads:?} reads in four rounds");
    assert!(reads[..2].iter().all(|r| *r < 4400) && reads[3] < 50, "{reads:?}");
    all_logged(&fleet, &*bucket);
}

/// Strangers' writers: those of names that nobody trusts are not looked at, those of trusted names so many a round, after which a new
/// node still comes to its turn.
#[test]
fn strangers_writers_are_not_read_and_a_new_node_is() {
    let mut fleet = Fleet::new(&["node-z"]);
    fleet.seal(10);
    let bucket = bucket_of(&fleet.objects());
    for n in 0..6000 {
        let stranger = waxseal_e2e::fleet::writer("stranger", &n.to_string());
        bucket.stranger(&name::genesis_key(&stranger), b"junk");
    }
    // Under the glob of the nodes, and sorted before the real one.
    for n in 0..6000 {
        let node = waxseal_e2e::fleet::writer("node-a", &n.to_string());
        bucket.stranger(&name::genesis_key(&node), b"junk");
    }
    let config = |fleet: &Fleet| fleet.trust_yaml().replace("name: node-z", "name: node-*");
    let mut worker = fleet.worker_with(&config(&fleet), bucket.clone(), None);
    let mut reads = Vec::new();
    for n in 0..3 {
        bucket.reset();
        worker.round(at(20 + n)).unwrap();
        reads.push(bucket.requests().unwrap().get);
    }
    println!("12,000 strangers: {reads:?} reads in three rounds");
    assert!(reads[0] < 4500 && reads[1] < 2200 && reads[2] < 50, "{reads:?}");
    all_logged(&fleet, &*bucket);
}

/// A key statement, and a header under the new key, that come after the worker has listed `writers/`.
#[test]
fn keys_that_change_during_a_round_are_no_fault() {
    let mut fleet = Fleet::new(&["a"]);
    fleet.seal(10);
    let bucket = bucket_of(&fleet.objects());
    let mut worker = fleet.worker(bucket.clone(), None);
    worker.round(at(20)).unwrap();
    let new: Arc<dyn Signer> = Arc::new(waxseal_e2e::fleet::key());
    fleet.get("a").rotate(vec![new], |_| {});
    fleet.seal(30);
    let there = bucket.objects();
    let late: Objects = fleet.objects().into_iter().filter(|(k, _)| !there.contains_key(k)).collect();
    bucket.appear("batches/", late);
    let outcome = worker.round(at(40)).unwrap();
    assert_eq!((found(&outcome), outcome.kept_out.len()), (vec![], 0));
    all_logged(&fleet, &*bucket);
}

/// Headers that come late, behind others that never do.
#[test]
fn late_headers_are_found_behind_many_that_stay_missing() {
    let mut fleet = Fleet::new(&["a"]);
    (0..60).for_each(|n| fleet.seal(10 + n));
    let a = fleet.get("a").writer.clone();
    let mut objects = fleet.objects();
    let late = objects.remove(&name::batch_key(&a, 55)).unwrap();
    let later = objects.remove(&name::batch_key(&a, 20)).unwrap();
    (1..20).chain(21..50).for_each(|n| drop(objects.remove(&name::batch_key(&a, n))));
    let bucket = bucket_of(&objects);
    let mut worker = fleet.worker(bucket.clone(), None);
    let outcome = worker.round(at(100)).unwrap();
    let first = name::batch_key(&a, 1);
    assert_eq!(found(&outcome), [("GAP", &first[..]), ("GAP", &name::batch_key(&a, 55)[..])]);
    for (n, body) in [(55, late), (20, later)] {
        bucket.stranger(&name::batch_key(&a, n), &body);
        let outcome = worker.round(at(110)).unwrap();
        assert_eq!((outcome.appended, found(&outcome)), (1, vec![]), "no gap is new when one of it comes");
    }
}

/// A second payload for a number that is logged already, and a header of a writer that has retired.
#[test]
fn what_comes_under_old_numbers_is_found_in_turn() {
    let mut fleet = Fleet::new(&["a", "gone"]);
    fleet.seal(10);
    let rows = fleet.get("gone").rows(&[b"{}"], 20);
    fleet.get("gone").seal(&rows, 20, |h| (h.state, h.next_by) = (State::Retired, None));
    fleet.get("a").seal(&[], 20, |_| {});
    let bucket = bucket_of(&fleet.objects());
    let mut worker = fleet.worker(bucket.clone(), None);
    worker.round(at(30)).unwrap();
    let forge = fleet.get("a").clone();
    let key = name::batch_key(&forge.writer, 0);
    let mut header: Batch = statement::read(&Envelope::parse(&forge.objects[&key]).unwrap()).unwrap();
    header.boot = 7;
    let forked = sign(&header, &forge.signers).to_bytes().unwrap();
    bucket.stranger(&key, &forked);
    let gone = fleet.get("gone");
    gone.seal(&[], 40, |_| {});
    let again = name::batch_key(&gone.writer.clone(), 2);
    put(&fleet, &bucket);
    let outcome = worker.round(at(50)).unwrap();
    let mut all = found(&outcome);
    all.sort_unstable();
    assert_eq!(all, [("FORK", &key[..]), ("INCONSISTENT", &again[..])]);
    assert!(entries(&fleet, &*bucket).contains_key(&forked));
    all_logged(&fleet, &*bucket);
    assert_eq!(worker.round(at(60)).unwrap().appended, 0, "once");
}

/// A round that is told to stop commits what it has, and the next goes on.
#[test]
fn a_round_that_is_told_to_stop_commits_what_it_has() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    (0..300).for_each(|n| fleet.seal(10 + n));
    let bucket = bucket_of(&fleet.objects());
    let mut worker = fleet.worker(bucket.clone(), None);
    let (mut appended, mut rounds) = (0, 0);
    loop {
        let left = Cell::new(3);
        let stop = || {
            left.set(left.get() - 1);
            left.get() < 0
        };
        let outcome = worker.round_until(at(400), &stop).unwrap();
        assert_eq!(found(&outcome), [], "a round that was cut short calls nobody silent");
        appended += outcome.appended;
        rounds += 1;
        if !outcome.stopped {
            break;
        }
        assert!(outcome.appended > 0 && rounds < 100);
    }
    println!("{appended} entries in {rounds} rounds");
    assert!(rounds > 2);
    all_logged(&fleet, &*bucket);
}

/// What headers need is locked as long as they are, though it was put before them.
#[test]
fn locks_grow_with_what_needs_them() {
    let mut fleet = Fleet::locked(&["a", "b"], Lock::Compliance);
    let day = 86_400;
    fleet.seal(10);
    let bucket = Arc::new(MemoryBucket::default());
    let lock = |fleet: &Fleet| {
        let there = bucket.objects();
        for (key, body) in fleet.objects().iter().filter(|(k, _)| !there.contains_key(*k)) {
            waxseal_e2e::fleet::put_until(&*bucket, key, body, Lock::Compliance, at(30 * day));
        }
    };
    lock(&fleet);
    let mut worker = fleet.worker(bucket.clone(), None);
    let first = worker.round(at(20)).unwrap();
    assert_eq!(first.complaints, Vec::<String>::new());
    let mut lengthened = Vec::new();
    for n in 1..=60 {
        let second = n * day;
        fleet.seal(second);
        lock(&fleet);
        bucket.reset();
        let outcome = worker.round(at(second + 10)).unwrap();
        lengthened.push(outcome.lengthened);
        assert_eq!(outcome.complaints, Vec::<String>::new());
    }
    println!("locks lengthened on each of sixty days: {lengthened:?}");
    assert!(lengthened.iter().filter(|n| **n > 0).count() <= 12, "{lengthened:?}");
    let needed = worker.state().known.retain_until.unwrap();
    let locks = bucket.locks();
    // All but what was written in the last days lags by half a month at most.
    let lag = needed.saturating_add_seconds(-16 * day);
    for (key, version) in locks
        .keys()
        .filter(|(k, _)| !k.starts_with("batches/") && !k.contains(".p/") && k != "log/checkpoint")
    {
        if !key.starts_with("events/") {
            let lock = locks[&(key.clone(), *version)];
            assert!(lock.until >= lag && lock.lock == Lock::Compliance, "{key}: {} of {needed}", lock.until);
        }
    }
    let genesis = locks[&(name::genesis_key(&fleet.get("a").writer.clone()), 0)];
    assert!(genesis.until >= needed, "its headers need it for so long: {} of {needed}", genesis.until);
}

/// An operator retires a writer by the last header that its keys have signed, whatever lies there; saying it twice is no fault.
#[test]
fn a_retirement_names_the_last_header_that_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let p = |s: &str| dir.path().join(s).display().to_string();
    std::fs::create_dir_all(p("trail")).unwrap();
    let store = local_store(&dir.path().join("trail"));
    let mut fleet = Fleet::new(&["a"]);
    fleet.seal(10);
    let new: Arc<dyn Signer> = Arc::new(waxseal_e2e::fleet::key());
    fleet.get("a").rotate(vec![new], |_| {});
    fleet.seal(20);
    fleet.put(&store);
    let a = fleet.get("a").clone();
    // Higher ones: by other keys, and junk.
    let mut forged = Fleet::new(&["a"]);
    forged.id = fleet.id;
    let header: Batch =
        statement::read(&Envelope::parse(&a.objects[&name::batch_key(&a.writer, 1)]).unwrap()).unwrap();
    let header = Batch { batch: 7, ..header };
    let bytes = sign(&header, &forged.get("a").signers).to_bytes().unwrap();
    waxseal_e2e::fleet::put(&store, &name::batch_key(&a.writer, 7), &bytes);
    waxseal_e2e::fleet::put(&store, &name::batch_key(&a.writer, 9), b"junk");
    std::fs::write(p("operator.pem"), fleet.operator_pem()).unwrap();
    let retire = || {
        let (trail, key) = (p("trail"), p("operator.pem"));
        let out =
            waxseal(&["statement", "retire", &trail, "--key", &key, "--writer", "a", "--reason", "gone"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let said = retire();
    assert!(said.contains("\"batch\": 1"), "{said}");
    assert!(retire().contains("is there already"));
    let outcome = fleet.worker(Arc::new(store), None).round(at(30)).unwrap();
    assert!(outcome.findings.iter().all(|(v, _)| *v == Verdict::Tampered), "{:?}", outcome.findings);
    let retired = Retirement {
        format: statement::format_of::<Retirement>(),
        trail: fleet.id,
        writer: a.writer.clone(),
        batch: 1,
        statement: a.previous,
        reason: "gone".into(),
    };
    assert!(said.contains(&retired.statement.to_string()));
}

/// On a directory, a second worker does not start while one runs, though it keeps its state elsewhere.
#[test]
fn one_worker_runs_on_a_directory() {
    use std::process::{Command, Stdio};
    let dir = tempfile::tempdir().unwrap();
    let p = |s: &str| dir.path().join(s).display().to_string();
    std::fs::create_dir_all(p("trail")).unwrap();
    let mut fleet = Fleet::new(&["a"]);
    fleet.seal(10);
    fleet.put(&local_store(&dir.path().join("trail")));
    std::fs::write(p("trust.yaml"), fleet.trust_yaml()).unwrap();
    std::fs::write(p("worker.pem"), fleet.worker_key().to_pem().unwrap()).unwrap();
    for n in [1, 2] {
        let text = format!(
            "trail: fleet\nstore: file://{}\nstate_dir: {}\nkey: file:{}\ntrust: trust.yaml\n",
            p("trail"),
            p(&format!("state{n}")),
            p("worker.pem")
        );
        std::fs::write(p(&format!("{n}.yaml")), text).unwrap();
    }
    let worker = |n: u32, more: &[&str]| {
        let mut command = Command::new(waxseal_e2e::process::bin("waxseal-anchor"));
        command.args(["--config", &p(&format!("{n}.yaml"))]).args(more).stderr(Stdio::piped());
        command
    };
    let mut first = worker(1, &[]).spawn().unwrap();
    let store = local_store(&dir.path().join("trail"));
    for _ in 0..600 {
        if store.get("log/checkpoint").unwrap().is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let second = worker(2, &["--once"]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!second.status.success() && said.contains("another process uses it"), "{said}");
    let third = worker(2, &["--once"]).output().unwrap();
    assert!(String::from_utf8_lossy(&third.stderr).contains("checkpoint 0"));
}
