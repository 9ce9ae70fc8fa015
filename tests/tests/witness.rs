//! Witnesses: the real `waxseal witness serve`, and the worker that asks it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use waxseal_e2e::fleet::{Fleet, dump, verdicts};
use waxseal_e2e::forge::{Objects, at};
use waxseal_e2e::process::{bin, free_port, local_store, waxseal};
use waxseal_log::{Committed, Reader, newest};
use waxseal_signing::Signer as _;
use waxseal_store::Store as _;
use waxseal_store::memory::MemoryBucket;
use waxseal_trail::hash::sha256;
use waxseal_trail::log::checkpoint::Checkpoint;
use waxseal_trail::log::note::{Note, VerifierKey};
use waxseal_trail::log::witness::AddCheckpoint;

struct Serving {
    child: Child,
    url: String,
    key: VerifierKey,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a witness that keeps its key and its rows in `dir`.
fn serve(dir: &Path, name: &str, log: &VerifierKey) -> Serving {
    let p = |s: &str| dir.join(s).display().to_string();
    if !dir.join("key").exists() {
        let made = waxseal(&["keys", "generate", "--algorithm", "ed25519", "--out", &p("key")]);
        assert!(made.status.success());
    }
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut child = Command::new(bin("waxseal"))
        .args(["witness", "serve", "--key", &p("key/signing.key"), "--name", name, "--log", &log.to_string()])
        .args(["--state", &p("rows"), "--listen", &listen])
        .args((!dir.join("rows").exists()).then_some("--first"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|l| l.unwrap());
    let key = lines.find_map(|l| l.strip_prefix("witness    ").map(str::to_owned)).unwrap();
    // It listens once it says where.
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains(&listen));
    Serving { child, url: format!("http://{listen}"), key: VerifierKey::parse(&key).unwrap() }
}

fn post(url: &str, body: &str) -> (u16, String, String) {
    let http = waxseal_anchor::http::Client::new(std::time::Duration::from_secs(10), None).unwrap();
    let answer = http.post(&format!("{url}/add-checkpoint"), "text/plain", body.as_bytes(), 1 << 20).unwrap();
    (answer.status, answer.kind, String::from_utf8(answer.body).unwrap())
}

fn request(store: &MemoryBucket, committed: &Committed, old: u64) -> String {
    let reader = Reader::open(store, Some(committed.clone())).unwrap();
    let checkpoint = String::from_utf8(committed.bytes.clone()).unwrap();
    AddCheckpoint { old, proof: reader.consistency_proof(old).unwrap(), checkpoint }.to_string()
}

#[test]
fn a_witness_signs_only_what_extends_the_past_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::new(&["a"]);
    let bucket = Arc::new(MemoryBucket::default());
    fleet.seal(9);
    fleet.objects().iter().for_each(|(k, b)| bucket.stranger(k, b));
    let mut worker = fleet.worker(bucket.clone(), None);
    let mut all = Vec::new();
    for n in 0..4 {
        fleet.seal(10 + n);
        fleet
            .objects()
            .iter()
            .filter(|(k, _)| bucket.get(k).unwrap().is_none())
            .for_each(|(k, b)| bucket.stranger(k, b));
        all.push(worker.round(at(20 + n)).unwrap().newest.unwrap());
    }
    let sizes: Vec<u64> = all.iter().map(|c| c.checkpoint.size).collect();
    let witness = serve(dir.path(), "witness.example/w1", &fleet.log);
    let ask = |url: &str, c: usize, old: u64| post(url, &request(&bucket, &all[c], old));
    let (status, _, line) = ask(&witness.url, 1, 0);
    assert_eq!(status, 200, "{line}");
    let note = format!("{}{line}", String::from_utf8_lossy(&all[1].bytes));
    let signed = Note::parse(note.as_bytes()).unwrap().signed_by(&witness.key).unwrap().unwrap();
    assert!(signed.time.unwrap() > 1_700_000_000);
    // Where it is, and how it says so.
    let size = format!("{}\n", sizes[1]);
    assert_eq!(ask(&witness.url, 2, 0), (409, "text/x.tlog.size".into(), size.clone()));
    assert_eq!(ask(&witness.url, 0, 0).0, 409, "no way back");
    assert_eq!(post(&witness.url, &request(&bucket, &all[1], sizes[1])).0, 200, "again is no fault");
    // Restarted as hard as may be, it still knows.
    let key = witness.key.clone();
    drop(witness);
    let witness = serve(dir.path(), "witness.example/w1", &fleet.log);
    assert_eq!(witness.key, key);
    assert_eq!(ask(&witness.url, 2, 0), (409, "text/x.tlog.size".into(), size));
    assert_eq!(ask(&witness.url, 3, sizes[1]).0, 200);
    // What the page says of everything else.
    let good = request(&bucket, &all[3], sizes[3]);
    let (head, checkpoint) = good.split_once("\n\n").unwrap();
    for (what, body, status) in [
        ("nonsense", "nonsense".to_owned(), 400),
        ("an old size above the new", format!("old {}\n\n{checkpoint}", sizes[3] + 1), 400),
        ("another log", good.replace(fleet.log.name(), "example.org/other"), 404),
        (
            "a bit of the signature",
            {
                let at = good.len() - 20;
                let mut bytes = good.clone().into_bytes();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                String::from_utf8(bytes).unwrap()
            },
            403,
        ),
        ("a proof where none belongs", format!("{head}\n{}\n\n{checkpoint}", "A".repeat(43) + "="), 422),
    ] {
        assert_eq!(post(&witness.url, &body).0, status, "{what}");
    }
    // Another log of the same key: a fork.
    let forked = {
        let signer = fleet.worker_key();
        let text = Checkpoint {
            origin: fleet.log.name().to_owned(),
            size: sizes[3] + 1,
            root: sha256(b"another past"),
            extensions: vec![],
        }
        .to_string();
        let signature = signer.sign(text.as_bytes()).unwrap().try_into().unwrap();
        Note { lines: vec![fleet.log.line(None, &signature)], text }.to_string()
    };
    assert_eq!(post(&witness.url, &format!("old {}\n\n{forked}", sizes[3])).0, 422);
    // Whoever monitors sees the newest, with both signatures.
    let origin = sha256(fleet.log.name().as_bytes());
    let http = waxseal_anchor::http::Client::new(std::time::Duration::from_secs(10), None).unwrap();
    let answer = http.get(&format!("{}/{origin}/checkpoint", witness.url), 1 << 20).unwrap();
    let (seen, note) = Checkpoint::open(&answer.body, &fleet.log).unwrap();
    assert_eq!((answer.status, seen.size), (200, sizes[3]));
    assert!(note.signed_by(&key).unwrap().is_some());
    assert_eq!(http.get(&format!("{}/{}/checkpoint", witness.url, sha256(b"x")), 1000).unwrap().status, 404);
    // A witness that was made to forget does not start.
    drop(witness);
    let row = std::fs::read_dir(dir.path().join("rows")).unwrap().map(|e| e.unwrap().path());
    let row = row.into_iter().find(|p| p.extension().is_some_and(|e| e == "json")).unwrap();
    let text = std::fs::read_to_string(&row).unwrap();
    std::fs::remove_file(&row).unwrap();
    std::fs::write(&row, text.replace(&format!("\"size\":{}", sizes[3]), "\"size\":0")).unwrap();
    let p = |s: &str| dir.path().join(s).display().to_string();
    let out = waxseal(&[
        "witness",
        "serve",
        "--key",
        &p("key/signing.key"),
        "--name",
        "witness.example/w1",
        "--log",
        &fleet.log.to_string(),
        "--state",
        &p("rows"),
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("forgotten"));
    // Nor one whose volume is not there, unless it is told that it is a new one.
    std::fs::remove_file(&row).unwrap();
    let mut empty = Command::new(bin("waxseal"));
    empty.args(["witness", "serve", "--key", &p("key/signing.key"), "--name", "witness.example/w1"]);
    empty.args(["--log", &fleet.log.to_string(), "--state", &p("rows"), "--listen", "127.0.0.1:0"]);
    let out = empty.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("is the right volume mounted?") && said.contains("--first"), "{said}");
    // What it refused as no extension is kept as evidence.
    let mut files = std::fs::read_dir(dir.path().join("rows")).unwrap().map(|e| e.unwrap().path());
    assert!(files.any(|p| p.extension().is_some_and(|e| e == "refused")));
}

/// Two witnesses, one of which never answers: the other's signature is there all the same.
#[test]
fn a_slow_witness_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let trail = dir.path().join("trail");
    std::fs::create_dir_all(&trail).unwrap();
    std::fs::create_dir_all(dir.path().join("w1")).unwrap();
    let store = Arc::new(local_store(&trail));
    // The witness signs by this machine's clock.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let now = i64::try_from(now).unwrap() - at(0).unix_seconds();
    let mut fleet = Fleet::new(&[]);
    fleet.max_anchor_age = Some(86_400 * 365 * 3);
    fleet.join("a", now - 20);
    fleet.seal(now - 10);
    fleet.put(&*store);
    let witness = serve(&dir.path().join("w1"), "witness.example/w1", &fleet.log);
    // It accepts, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = format!("http://{}", silent.local_addr().unwrap());
    let other = waxseal_e2e::fleet::key();
    let raw = other.public().spki().last_chunk::<32>().unwrap();
    let other =
        VerifierKey::new("witness.example/w2", waxseal_trail::log::note::Kind::Cosignature, raw).unwrap();
    let policy = |quorum: &str| {
        format!(
            "witness w1 {} {}\nwitness w2 {other} {slow}\ngroup one any w1 w2\nquorum {quorum}\n",
            witness.key, witness.url
        )
    };
    fleet.policy = Some(policy("one"));
    assert_eq!(verdicts(&fleet.verify(&*store, now, vec![])), ["UNANCHORED"]);
    let mut worker = fleet.worker(store.clone(), None);
    worker.round(at(now)).unwrap();
    let report = fleet.verify(&*store, now + 5, vec![]);
    assert_eq!(verdicts(&report), ["UNANCHORED"]);
    assert!(report.log.unwrap().self_witnessed);
    let shown: BTreeMap<String, bool> =
        worker.anchor(at(now)).unwrap().into_iter().map(|s| (s.name, s.result.is_ok())).collect();
    assert_eq!(shown, BTreeMap::from([("w1".to_owned(), true), ("w2".to_owned(), false)]));
    let newest = newest(&*store, &fleet.log, None).unwrap().unwrap();
    let signed = std::fs::read_dir(trail.join("anchors/000000000000/cosignatures")).unwrap().count();
    assert_eq!((newest.number, signed), (0, 1));
    let report = fleet.verify(&*store, now + 5, vec![]);
    assert_eq!((verdicts(&report), report.exit_status(true, false)), (vec![], 0), "{:?}", report.findings);
    let log = report.log.unwrap();
    assert!(!log.self_witnessed);
    assert_eq!(log.anchors.iter().map(|a| (&a.name[..], a.checkpoint)).collect::<Vec<_>>(), [("w1", 0)]);
    assert!(report.freshness.contains("the witnesses of checkpoint 0"), "{}", report.freshness);
    // Only who has not signed is asked again, and not at once.
    assert!(worker.due(at(now)).unwrap() > at(now));
    assert!(worker.anchor(at(now + 1)).unwrap().is_empty());
    // Another life of the worker sees who has signed.
    let mut again = fleet.worker(store.clone(), None);
    again.round(at(now + 10)).unwrap();
    let shown = again.anchor(at(now + 10)).unwrap();
    assert_eq!(shown.iter().map(|s| &s.name[..]).collect::<Vec<_>>(), ["w2"]);
    // With a quorum of both, it is not enough; and old proof is stale.
    fleet.policy = Some(policy("one").replace("any", "all"));
    assert_eq!(verdicts(&fleet.verify(&*store, now + 5, vec![])), ["UNANCHORED"]);
    fleet.policy = Some(policy("one"));
    let day = now + 86_400 * 365 * 4;
    assert!(verdicts(&fleet.verify(&*store, day, vec![])).contains(&"STALE"));
    // A line that is of no such checkpoint.
    let key = dump(&*store).into_keys().find(|k| k.starts_with("anchors/")).unwrap();
    let path = trail.join(&key);
    let line = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, line.replace("w1 ", "w1 A")).unwrap();
    assert!(verdicts(&fleet.verify(&*store, now + 5, vec![])).contains(&"TAMPERED"));
}

/// Everything that is online is the attacker's: keys, bucket, worker. The witness is not.
#[test]
fn one_witness_alone_tells_of_another_past() {
    let dir = tempfile::tempdir().unwrap();
    let trail = dir.path().join("trail");
    std::fs::create_dir_all(&trail).unwrap();
    let store = Arc::new(local_store(&trail));
    let mut fleet = Fleet::new(&["a", "b"]);
    fleet.seal(10);
    fleet.seal(20);
    let hour_ago = fleet.objects();
    let past = fleet.writers.clone();
    fleet.seal(30);
    fleet.seal(40);
    fleet.put(&*store);
    let witness = serve(dir.path(), "witness.example/w1", &fleet.log);
    fleet.policy = Some(format!("witness w1 {} {}\nquorum w1\n", witness.key, witness.url));
    let trust = dir.path().join("trust.yaml");
    std::fs::write(&trust, fleet.trust_yaml()).unwrap();
    let verify = |place: &Path, more: &[&str]| {
        let (place, trust) = (place.display().to_string(), trust.display().to_string());
        let base = ["verify", &place, "--trust", &trust, "--no-state", "--format", "json", "--as-of"];
        let out = waxseal(&[&base[..], &["2026-01-15T10:05:00Z"], more].concat());
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        (out.status.code().unwrap(), json)
    };
    let mut worker = fleet.worker(store.clone(), None);
    worker.round(at(50)).unwrap();
    assert!(worker.anchor(at(50)).unwrap().iter().all(|s| s.result.is_ok()));
    let (exit, json) = verify(&trail, &["--ask-witnesses"]);
    assert_eq!((exit, &json["verdict"]), (0, &"OK".into()), "{json}");
    assert!(json["freshness"].as_str().unwrap().contains("witness w1"), "{json}");

    let attack = |name: &str, objects: &Objects, wanted: &str| {
        let place = dir.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        let store = Arc::new(local_store(&place));
        objects.iter().for_each(|(k, b)| waxseal_e2e::fleet::put(&*store, k, b));
        let mut worker = fleet.worker(store.clone(), None);
        worker.round(at(50)).unwrap();
        // The witness does not sign, and says why.
        let shown = worker.anchor(at(50)).unwrap();
        assert!(
            matches!(&shown[..], [s] if s.result.as_ref().is_err_and(|(_, alarm)| *alarm)),
            "{name}: {shown:?}"
        );
        let (exit, json) = verify(&place, &[]);
        assert_eq!(exit, 0, "{name}: {json}");
        assert_eq!(json["log"]["self_witnessed"], true, "{name}");
        assert!(json["freshness"].as_str().unwrap().starts_with("unproven after the beginning"), "{name}");
        assert!(
            json["findings"].to_string().contains("UNANCHORED"),
            "{name}: its own policy asks for a witness"
        );
        let (exit, json) = verify(&place, &["--ask-witnesses"]);
        assert_eq!((exit, &json["verdict"]), (1, &wanted.into()), "{name}: {json}");
    };
    attack("deleted", &hour_ago, "TRUNCATED");
    let b = fleet.writers["b"].writer.clone();
    let without: Objects = fleet.objects().into_iter().filter(|(k, _)| !k.contains(&b)).collect();
    attack("a writer deleted", &without, "TRUNCATED");
    let mut forged = Fleet::new(&[]);
    forged.writers = past;
    for second in [30, 40] {
        for name in ["a", "b"] {
            let rows = forged.get(name).rows(&[br#"{"action":"nothing"}"#], second);
            forged.get(name).seal(&rows, second, |_| {});
        }
    }
    let mut replaced: Objects = forged.writers.values().flat_map(|w| w.objects.clone()).collect();
    replaced.insert("trail.json".into(), fleet.envelope.to_bytes().unwrap());
    attack("replaced", &replaced, "ROLLBACK");
}
