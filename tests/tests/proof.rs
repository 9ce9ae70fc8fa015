//! Proofs of single events: made from a trail, checked without it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use waxseal_e2e::fleet::{Fleet, key, verdicts, writer};
use waxseal_e2e::forge::{Forge, Signers, at};
use waxseal_e2e::process::{local_store, verify_proof_in_python, waxseal};
use waxseal_signing::{Algorithm, MemoryKey, Signer};
use waxseal_store::Store;
use waxseal_store::memory::MemoryBucket;
use waxseal_trail::log::note::{Kind, VerifierKey};
use waxseal_trail::proof::{EventProofFault, Proof, Stamped};
use waxseal_verify::prove::{Prover, Wanted};

/// A witness's line on the newest checkpoint, put where the worker would.
fn cosign(fleet: &mut Fleet, store: &dyn Store, names: &[&str]) {
    let newest = waxseal_log::newest(store, &fleet.log, None).unwrap().unwrap();
    let text = waxseal_trail::log::note::Note::parse(&newest.bytes).unwrap().text;
    let mut policy = String::new();
    for name in names {
        let signer = key();
        let raw = signer.public().spki().last_chunk::<32>().unwrap();
        let witness = VerifierKey::new(&format!("witness.example/{name}"), Kind::Cosignature, raw).unwrap();
        let time = 1_768_471_300;
        let signature = signer.sign(&witness.message(Some(time), &text)).unwrap().try_into().unwrap();
        let line = witness.line(Some(time), &signature);
        waxseal_e2e::fleet::put(
            store,
            &waxseal_anchor::anchors::cosignature_key(newest.number, &line),
            line.to_string().as_bytes(),
        );
        policy.push_str(&format!("witness {name} {witness}\n"));
    }
    fleet.policy = Some(format!("{policy}group all all {}\nquorum all\n", names.join(" ")));
}

fn no_stamp(_: &[u8], _: &waxseal_trail::hash::Hash) -> Result<Stamped, String> {
    Err("not looked at".to_owned())
}

fn proofs(fleet: &Fleet, store: &dyn Store, wanted: &Wanted) -> Vec<Proof> {
    Prover::new(store, fleet.id, fleet.log.clone(), None).prove(wanted).unwrap()
}

#[test]
fn every_event_has_a_proof_of_which_every_byte_counts() {
    let dir = tempfile::tempdir().unwrap();
    let trail = dir.path().join("trail");
    std::fs::create_dir_all(&trail).unwrap();
    let store = Arc::new(local_store(&trail));
    let mut fleet = Fleet::new(&["a", "b"]);
    fleet.put(&*store);
    let mut events: Vec<(String, u64)> = Vec::new();
    for n in 0..6 {
        if n == 3 {
            fleet.get("a").rotate(vec![Arc::new(key()) as Arc<dyn Signer>], |_| {});
        }
        for name in ["a", "b"] {
            let forge = fleet.get(name);
            let inputs: Vec<String> =
                (0..n * 3).map(|i| format!(r#"{{"actor":"anna","n":{i},"x":1.5e-7}}"#)).collect();
            let rows = forge.rows(&inputs.iter().map(String::as_bytes).collect::<Vec<_>>(), 10 + n);
            forge.seal(&rows, 10 + n, |_| {});
            for (record, _) in &rows {
                let value: serde_json::Value = serde_json::from_slice(record).unwrap();
                events.push((
                    value["event_id"].as_str().unwrap().to_owned(),
                    value["sequence"].as_u64().unwrap(),
                ));
            }
        }
        fleet.put(&*store);
        fleet.worker(store.clone(), None).round(at(20 + n)).unwrap();
    }
    cosign(&mut fleet, &*store, &["w1", "w2"]);
    let trust = fleet.trust();
    assert_eq!(verdicts(&fleet.verify(&*store, 60, vec![])), Vec::<&str>::new());
    for (id, sequence) in &events {
        let made = proofs(&fleet, &*store, &Wanted::Event(id.clone()));
        assert_eq!(made.len(), 1);
        let bytes = made[0].to_bytes().unwrap();
        let proof = Proof::parse(&bytes).unwrap();
        assert_eq!(proof, made[0]);
        let proven = proof.verify(&trust, &no_stamp).unwrap();
        assert_eq!((proven.record["sequence"].as_u64(), proven.cosigned.by.len()), (Some(*sequence), 2));
        let writer = proven.header.writer.clone();
        assert_eq!(proofs(&fleet, &*store, &Wanted::Sequence(writer, *sequence)), made);
    }
    println!("{} proofs", events.len());
    // One with a key statement, and one without: every bit of every byte.
    for (id, _) in [events.last().unwrap(), &events[events.len() - 30]] {
        let bytes = proofs(&fleet, &*store, &Wanted::Event(id.clone())).remove(0).to_bytes().unwrap();
        let mut tried = 0;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                let verdict = Proof::parse(&bad).and_then(|p| p.verify(&trust, &no_stamp));
                assert!(verdict.is_err(), "byte {at} bit {bit}: {}", String::from_utf8_lossy(&bad));
                tried += 1;
            }
        }
        println!("{tried} changes of {} bytes, none believed", bytes.len());
    }
    // Whose word counts, and how many have to have seen it.
    let proof = proofs(&fleet, &*store, &Wanted::Event(events[0].0.clone())).remove(0);
    let other = Fleet::new(&["a", "b"]);
    assert!(matches!(proof.verify(&other.trust(), &no_stamp), Err(EventProofFault::OtherTrail(_))));
    let mut less = fleet.trust();
    less.writers.clear();
    assert!(matches!(proof.verify(&less, &no_stamp), Err(EventProofFault::Untrusted(_))));
    let mut less = fleet.trust();
    less.log = None;
    assert!(matches!(proof.verify(&less, &no_stamp), Err(EventProofFault::NoLog)));
    let two = fleet.policy.clone().unwrap();
    let third = VerifierKey::new(
        "witness.example/w3",
        Kind::Cosignature,
        key().public().spki().last_chunk().unwrap(),
    );
    fleet.policy =
        Some(format!("witness w3 {}\n{}", third.unwrap(), two.replace("all all w1", "all all w3 w1")));
    assert!(matches!(proof.verify(&fleet.trust(), &no_stamp), Err(EventProofFault::Quorum(_))));
    fleet.policy = Some(two);
    // The commands.
    let p = |s: &str| dir.path().join(s).display().to_string();
    std::fs::write(p("trust.yaml"), fleet.trust_yaml()).unwrap();
    let out = waxseal(&["prove", &p("trail"), &events[7].0]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::write(p("proof.json"), &out.stdout).unwrap();
    std::fs::rename(p("trail"), p("gone")).unwrap();
    let out = waxseal(&["verify-proof", &p("proof.json"), "--trust", &p("trust.yaml")]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() && text.contains("verdict    OK") && text.contains("w2 has seen it"),
        "{text}"
    );
    let bent = std::fs::read_to_string(p("proof.json")).unwrap().replacen("anna", "otto", 1);
    std::fs::write(p("bent.json"), bent).unwrap();
    let out = waxseal(&["verify-proof", &p("bent.json"), "--trust", &p("trust.yaml")]);
    assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0));
    // In another language, from the page alone.
    for (file, status) in [("proof.json", 0), ("bent.json", 1)] {
        if let Some((code, text)) = verify_proof_in_python(&p(file), &p("trust.yaml")) {
            assert_eq!(code, Some(status), "{file}: {text}");
            println!("{text}");
        }
    }
}

/// As many headers as ten million events have, of a writer with a large key, and what a proof takes.
#[test]
fn a_proof_is_small_and_soon_made() {
    let mut fleet = Fleet::new(&[]);
    let rsa: Arc<dyn Signer> = Arc::new(MemoryKey::generate(Algorithm::Rsa).unwrap());
    let signers: Signers = vec![rsa];
    let mut forge = Forge::new(fleet.id, &writer("node-1", "0"), signers, 0, |_| {});
    let bucket = Arc::new(MemoryBucket::default());
    let mut ids = Vec::new();
    let inputs = vec![&br#"{"actor":"anna"}"#[..]; 200];
    for n in 0..100 {
        // An id of version 7 says when it was made; batches of five minutes each.
        let second = n * 300;
        let millis = at(second).unix_millis() as u64;
        let input = format!(
            r#"{{"actor":"otto","event_id":"{:08x}-{:04x}-7000-8000-0000000000{n:02}"}}"#,
            millis >> 16,
            millis & 0xffff
        );
        let mut all = inputs.clone();
        all.push(input.as_bytes());
        let rows = forge.rows(&all, second);
        let value: serde_json::Value = serde_json::from_slice(&rows[200].0).unwrap();
        ids.push((value["event_id"].as_str().unwrap().to_owned(), value["sequence"].as_u64().unwrap()));
        forge.seal(&rows, second + 290, |_| {});
    }
    let writer = forge.writer.clone();
    fleet.writers.insert("node-1".into(), forge);
    fleet.objects().iter().for_each(|(k, b)| bucket.stranger(k, b));
    let mut worker = fleet.worker(bucket.clone(), None);
    worker.round(at(40_000)).unwrap();
    cosign(&mut fleet, &*bucket, &["w1", "w2"]);
    let mut reads = BTreeMap::new();
    let mut sizes = Vec::new();
    for (id, sequence) in ids.iter().step_by(9) {
        for wanted in [Wanted::Event(id.clone()), Wanted::Sequence(writer.clone(), *sequence)] {
            bucket.reset();
            let proof = proofs(&fleet, &*bucket, &wanted).remove(0);
            let r = bucket.requests().unwrap();
            let by = if matches!(wanted, Wanted::Event(_)) { "id" } else { "sequence" };
            let most = reads.entry(by).or_insert(0);
            *most = r.get.max(*most);
            let bytes = proof.to_bytes().unwrap();
            let event = serde_json::to_vec(&proof.record).unwrap().len();
            sizes.push((bytes.len() - event, proof));
        }
    }
    let largest = sizes.iter().map(|(n, _)| *n).max().unwrap();
    println!(
        "reads at most, to find by: {reads:?}; at most {largest} bytes without the event (RSA-3072, two witnesses)"
    );
    assert!(reads.values().all(|n| *n <= 20), "{reads:?}");
    assert!(largest <= 8192, "{largest}");
    let trust = fleet.trust();
    let began = Instant::now();
    for (_, proof) in &sizes {
        Proof::parse(&proof.to_bytes().unwrap()).unwrap().verify(&trust, &no_stamp).unwrap();
    }
    println!("checked in {:.2} ms each", began.elapsed().as_secs_f64() * 1000.0 / sizes.len() as f64);
    let missing = Prover::new(&*bucket, fleet.id, fleet.log.clone(), None)
        .prove(&Wanted::Event("00000000-0000-4000-8000-000000000000".into()));
    assert!(matches!(missing, Err(waxseal_verify::prove::ProveError::NotFound)));
}
