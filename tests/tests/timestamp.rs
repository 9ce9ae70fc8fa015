//! Time-stamps: a real authority (`openssl ts -reply`), the worker that asks it, and whoever checks what it said.

use cms::content_info::ContentInfo;
use cms::signed_data::SignedData;
use der::{Decode, Encode};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use waxseal_anchor::stamps::Authority as Asked;
use waxseal_e2e::fleet::{Fleet, verdicts};
use waxseal_e2e::forge::{Objects, at};
use waxseal_e2e::process::{bin, local_store, verify_proof_in_python, waxseal};
use waxseal_e2e::tsa::{Authority, Keys, Server, is_there, openssl};
use waxseal_log::stamps_prefix;
use waxseal_store::memory::MemoryBucket;
use waxseal_store::{Store, list_all};
use waxseal_timestamp::{StampFault, request, verify};
use waxseal_trail::certificate::all_to_der;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::name;
use waxseal_trail::proof::Proof;
use waxseal_trail::time::Time;
use waxseal_verify::Memory;
use waxseal_verify::prove::{Prover, Wanted};

/// A response whose token holds `content`, signed with `openssl cms` by `<name>`: what `openssl ts` would not sign.
fn signed_by(authority: &Authority, name: &str, content: &[u8], kind: &str) -> Vec<u8> {
    let dir = &authority.dir;
    std::fs::write(dir.join("content.der"), content).unwrap();
    let (key, crt) = (format!("{name}.key"), format!("{name}.crt"));
    let sign = ["cms", "-sign", "-binary", "-in", "content.der", "-outform", "DER", "-nodetach", "-cades"];
    let how = ["-econtent_type", kind, "-md", "sha256", "-signer", &crt, "-inkey", &key];
    let token = openssl(dir, &[&sign[..], &how].concat());
    respond(&token)
}

/// A granted response with a token.
fn respond(token: &[u8]) -> Vec<u8> {
    let status = [0x30, 3, 2, 1, 0];
    let length = u16::try_from(status.len() + token.len()).unwrap();
    let mut out = vec![0x30, 0x82];
    out.extend(length.to_be_bytes());
    out.extend(status);
    out.extend(token);
    out
}

fn parts(response: &[u8]) -> (ContentInfo, SignedData) {
    let token = x509_tsp::TimeStampResp::from_der(response).unwrap().time_stamp_token.unwrap();
    let signed: SignedData = token.content.decode_as().unwrap();
    (token, signed)
}

fn content(response: &[u8]) -> Vec<u8> {
    let (_, signed) = parts(response);
    let content: der::asn1::OctetString = signed.encap_content_info.econtent.unwrap().decode_as().unwrap();
    content.as_bytes().to_vec()
}

fn with(response: &[u8], change: impl FnOnce(&mut SignedData)) -> Vec<u8> {
    let (token, mut signed) = parts(response);
    change(&mut signed);
    let content = der::Any::encode_from(&signed).unwrap();
    respond(&ContentInfo { content, ..token }.to_der().unwrap())
}

/// Each way in which a response can be none that counts, by its name; with RSA keys and with P-256.
#[test]
fn what_does_not_count_is_refused_by_name() {
    if !is_there() {
        return;
    }
    for keys in [Keys::Rsa, Keys::P256] {
        let dir = tempfile::tempdir().unwrap();
        let ours = Authority::new(&dir.path().join("ours"), keys);
        ours.certify_long("good");
        ours.certify("old", "tsa", "20200101000000Z", "20210101000000Z");
        ours.certify("loose", "loose", "20260101000000Z", "20450101000000Z");
        ours.certify("plain", "plain", "20260101000000Z", "20450101000000Z");
        let theirs = Authority::new(&dir.path().join("theirs"), keys);
        theirs.certify_long("good");
        let roots = all_to_der(&ours.root()).unwrap();
        let (imprint, nonce) = (sha256(b"a checkpoint"), [7; 16]);
        let asked = request(&imprint, &nonce).unwrap();
        let check = |r: &[u8]| verify(r, Some(&imprint), Some(&nonce), &roots);

        let good = ours.reply("good", &asked);
        let stamp = check(&good).unwrap();
        assert_eq!(stamp.imprint, imprint);
        assert_eq!(stamp.not_after, Time::parse_rfc3339("2045-01-01T00:00:00Z").unwrap());
        assert!(stamp.at > at(0), "{stamp:?}");
        // OpenSSL takes it, too.
        std::fs::write(ours.dir.join("good.tsr"), &good).unwrap();
        let digest = imprint.to_string();
        let with_digest = ["ts", "-verify", "-in", "good.tsr", "-CAfile", "ca.crt", "-digest", &digest];
        openssl(&ours.dir, &with_digest);

        // Another request's answer.
        assert_eq!(verify(&good, Some(&imprint), Some(&[8; 16]), &roots), Err(StampFault::Nonce));
        let other = verify(&good, Some(&sha256(b"another")), Some(&nonce), &roots);
        assert_eq!(other, Err(StampFault::Imprint(imprint.to_string())));
        // Another authority.
        assert_eq!(check(&theirs.reply("good", &asked)), Err(StampFault::UnknownRoot));
        assert_eq!(verify(&good, Some(&imprint), None, &[]), Err(StampFault::UnknownRoot));
        // A certificate whose time was over.
        assert!(matches!(check(&ours.reply("old", &asked)), Err(StampFault::Expired(_))), "{keys:?}");
        // Certificates for something else, or for more.
        let tst = "1.2.840.113549.1.9.16.1.4";
        for name in ["loose", "plain"] {
            let fault = check(&signed_by(&ours, name, &content(&good), tst));
            assert_eq!(fault, Err(StampFault::Usage), "{keys:?} {name}");
        }
        assert!(check(&signed_by(&ours, "good", &content(&good), tst)).is_ok(), "the way itself is right");
        // Another content.
        let data = check(&signed_by(&ours, "good", &content(&good), "1.2.840.113549.1.7.1"));
        assert!(matches!(data, Err(StampFault::ContentType(_))), "{data:?}");
        // Two signers, and none.
        let second = ours.reply("good", &asked);
        let (_, second) = parts(&second);
        let two = with(&good, |s| {
            let info = second.signer_infos.0.as_slice()[0].clone();
            s.signer_infos.0.insert(info).unwrap();
        });
        assert_eq!(check(&two), Err(StampFault::Signers(2)));
        let none = with(&good, |s| s.signer_infos.0 = Default::default());
        assert_eq!(check(&none), Err(StampFault::Signers(0)));
        // No certificate, and attributes that do not name it.
        assert_eq!(check(&with(&good, |s| s.certificates = None)), Err(StampFault::NoCertificate));
        let unnamed = with(&good, |s| {
            let mut info = s.signer_infos.0.as_slice()[0].clone();
            let named = der::oid::ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
            let kept =
                info.signed_attrs.unwrap().iter().filter(|a| a.oid != named).cloned().collect::<Vec<_>>();
            info.signed_attrs = Some(kept.try_into().unwrap());
            s.signer_infos.0 = vec![info].try_into().unwrap();
        });
        assert_eq!(check(&unnamed), Err(StampFault::CertificateId));
        // Content and signature that are not each other's.
        let later = ours.reply("good", &asked);
        let swapped = with(&good, |s| s.encap_content_info = parts(&later).1.encap_content_info);
        assert_eq!(check(&swapped), Err(StampFault::Digest));
        let forged = with(&good, |s| {
            let mut info = s.signer_infos.0.as_slice()[0].clone();
            info.signature = parts(&later).1.signer_infos.0.as_slice()[0].signature.clone();
            s.signer_infos.0 = vec![info].try_into().unwrap();
        });
        assert_eq!(check(&forged), Err(StampFault::Signature));
        // A refusal, and nonsense.
        let refused = [0x30, 5, 0x30, 3, 2, 1, 2];
        assert!(matches!(check(&refused), Err(StampFault::Status(_))));
        assert!(matches!(check(b"nonsense"), Err(StampFault::Form(_))));
        assert!(matches!(check(&vec![0x30; 1 << 17]), Err(StampFault::Form(_))));

        // Every bit: refused, or it is in no field that a signature covers and says the same.
        let mut free = 0;
        for byte in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                if let Ok(same) = check(&bad) {
                    assert_eq!(same, stamp, "byte {byte} bit {bit}");
                    free += 1;
                }
            }
        }
        println!("{keys:?}: {} bytes, {free} of {} bits say nothing", good.len(), good.len() * 8);
        assert!(free < 200, "{free}");
    }
}

struct Stamped {
    fleet: Fleet,
    authority: Arc<Authority>,
}

/// A trail whose checkpoints are stamped, and by whom.
fn stamped(dir: &Path, servers: &[&Server], authority: Arc<Authority>) -> Stamped {
    let mut fleet = Fleet::new(&["a", "b"]);
    std::fs::write(dir.join("tsa.pem"), authority.root()).unwrap();
    fleet.roots.insert("tsa.pem".to_owned(), authority.root());
    let asked = |(n, s): (usize, &&Server)| Asked { name: format!("tsa-{n}"), url: s.url.clone() };
    fleet.authorities = servers.iter().enumerate().map(asked).collect();
    Stamped { fleet, authority }
}

fn tokens(store: &dyn Store, number: u64) -> Vec<String> {
    let mut keys = Vec::new();
    list_all(store, &stamps_prefix(number), &mut |k| keys.push(k)).unwrap();
    keys.iter().map(|k| k.rsplit('/').next().unwrap().to_owned()).collect()
}

/// The binary, with a configuration: the first authority fails in every way, the second stamps.
#[test]
fn where_one_authority_fails_the_next_stamps() {
    if !is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let p = |s: &str| dir.path().join(s).display().to_string();
    let authority = Arc::new(Authority::new(&dir.path().join("ca"), Keys::P256));
    authority.certify_long("good");
    let theirs = Arc::new(Authority::new(&dir.path().join("theirs"), Keys::P256));
    theirs.certify_long("good");
    let first = Server::start(authority.clone(), "good");
    let second = Server::start(authority.clone(), "good");
    let Stamped { mut fleet, authority } = stamped(dir.path(), &[&first, &second], authority);
    std::fs::create_dir_all(p("trail")).unwrap();
    let store = local_store(&dir.path().join("trail"));
    std::fs::write(p("trust.yaml"), fleet.trust_yaml()).unwrap();
    std::fs::write(p("worker.pem"), fleet.worker_key().to_pem().unwrap()).unwrap();
    let config = format!(
        "trail: fleet\nstore: file://{}\nstate_dir: {}\nkey: file:{}\ntrust: trust.yaml\nanchors:\n  timestamps:\n    - {{name: tsa-0, url: \"{}\"}}\n    - {{name: tsa-1, url: \"{}\"}}\n",
        p("trail"),
        p("state"),
        p("worker.pem"),
        first.url,
        second.url
    );
    std::fs::write(p("anchor.yaml"), &config).unwrap();
    // Times as they are: the writers have to look alive.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let now = i64::try_from(now).unwrap() - 1_768_471_200;
    fleet.writers.clear();
    fleet.join("a", now - 30);
    std::fs::write(p("trust.yaml"), fleet.trust_yaml()).unwrap();
    let once = || {
        let out = std::process::Command::new(bin("waxseal-anchor"))
            .args(["--config", &p("anchor.yaml"), "--once"])
            .output()
            .unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    type Answer = Box<dyn Fn(&[u8]) -> (u16, Vec<u8>) + Send + Sync>;
    let a = authority.clone();
    let answers: Vec<(&str, Answer)> = vec![
        ("500", Box::new(|_: &[u8]| (500, b"out of order".to_vec()))),
        ("nonce is another request's", {
            Box::new(move |r: &[u8]| {
                let imprint = x509_tsp::TimeStampReq::from_der(r).unwrap().message_imprint.hashed_message;
                let imprint = Hash(imprint.as_bytes().try_into().unwrap());
                (200, a.reply("good", &request(&imprint, &[9; 16]).unwrap()))
            })
        }),
        ("no chain to a root", Box::new(move |r: &[u8]| (200, theirs.reply("good", r)))),
        ("not a time-stamp response", Box::new(|_: &[u8]| (200, b"<html>".to_vec()))),
    ];
    for (n, (said, answer)) in (0..).zip(answers) {
        let rows = fleet.get("a").rows(&[br#"{"action":"login"}"#], now - 20 + n);
        fleet.get("a").seal(&rows, now - 20 + n, |_| {});
        fleet.put(&store);
        first.behave(answer);
        let (good, log) = once();
        assert!(good, "one stamped it: {log}");
        assert!(log.contains(said) && log.contains("time-stamping authority tsa-1 has signed"), "{log}");
        assert_eq!(tokens(&store, n as u64), ["tsa-1-0.tsr"]);
    }
    // All of it is taken by OpenSSL and by verify; the newest is what there is from outside.
    let checkpoint = store.get("log/checkpoints/000000000003").unwrap().unwrap();
    std::fs::write(authority.dir.join("checkpoint"), checkpoint).unwrap();
    let token = p("trail/anchors/000000000003/rfc3161/tsa-1-0.tsr");
    openssl(&authority.dir, &["ts", "-verify", "-in", &token, "-CAfile", "ca.crt", "-data", "checkpoint"]);
    let out = waxseal(&["verify", &p("trail"), "--trust", &p("trust.yaml"), "--no-state"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(0), "{text}");
    assert!(text.contains("timestamp tsa-1, checkpoint 3"), "{text}");
    // Nobody is asked again for what is stamped.
    let asked = second.count.load(Ordering::Relaxed);
    let (good, log) = once();
    assert!(good, "{log}");
    assert_eq!(second.count.load(Ordering::Relaxed), asked);
    // A proof takes it along, and every bit of it counts.
    let out = waxseal(&["prove", &p("trail"), "a:0", "--trust", &p("trust.yaml")]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::write(p("proof.json"), &out.stdout).unwrap();
    let checked = waxseal(&["verify-proof", &p("proof.json"), "--trust", &p("trust.yaml")]);
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && text.contains("timestamp  it was there by 20"), "{text}");
    // The one in Python says how to check it with OpenSSL, which agrees.
    if let Some((code, text)) = verify_proof_in_python(&p("proof.json"), &p("trust.yaml")) {
        assert_eq!(code, Some(0), "{text}");
        let digest = text.split("-digest ").nth(1).and_then(|t| t.split(' ').next()).unwrap();
        openssl(&authority.dir, &["ts", "-verify", "-in", &token, "-CAfile", "ca.crt", "-digest", digest]);
    }
    let trust = fleet.trust();
    let stamp = waxseal_timestamp::checker(&trust.timestamps);
    let whole = Proof::parse(&out.stdout).unwrap();
    let proven = whole.verify(&trust, &stamp).unwrap();
    assert!(matches!(&proven.stamped[..], [Ok(_)]));
    let without = Proof { timestamps: vec![], ..whole }.to_bytes().unwrap().len();
    println!("a proof of {} bytes, {without} without its time-stamp", out.stdout.len());
    assert!(without <= 8192);
    for at in 0..out.stdout.len() {
        let mut bad = out.stdout.clone();
        bad[at] ^= 1;
        assert!(Proof::parse(&bad).and_then(|p| p.verify(&trust, &stamp)).is_err(), "byte {at}");
    }
    // Whoever does not know the authority counts the rest.
    fleet.roots.clear();
    let other = fleet.trust();
    let stamp = waxseal_timestamp::checker(&other.timestamps);
    let proven = Proof::parse(&out.stdout).and_then(|p| p.verify(&other, &stamp)).unwrap();
    assert!(matches!(&proven.stamped[..], [Err(_)]));
    // A configuration without roots says so.
    std::fs::write(p("trust.yaml"), fleet.trust_yaml()).unwrap();
    let (good, log) = once();
    assert!(!good && log.contains("anchors.timestamps"), "{log}");
}

/// Whoever has all online keys makes another past and signs it anew. One time-stamp that somebody kept tells.
#[test]
fn with_all_keys_stolen_one_token_tells() {
    if !is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::new(&dir.path().join("ca"), Keys::P256));
    authority.certify_long("good");
    let server = Server::start(authority.clone(), "good");
    let Stamped { mut fleet, .. } = stamped(dir.path(), &[&server], authority);
    (1..4).for_each(|n| fleet.seal(n * 10));
    let middle = fleet.objects();
    let past = fleet.writers.clone();
    (4..6).for_each(|n| fleet.seal(n * 10));
    let bucket_of = |objects: &Objects| {
        let bucket = MemoryBucket::default();
        objects.iter().for_each(|(k, b)| bucket.stranger(k, b));
        Arc::new(bucket)
    };
    let bucket = bucket_of(&fleet.objects());
    let mut worker = fleet.worker(bucket.clone(), None);
    worker.round(at(60)).unwrap();
    assert!(worker.anchor(at(60)).unwrap().iter().all(|s| s.result.is_ok()));
    let token = bucket.get(&format!("{}tsa-0-0.tsr", stamps_prefix(0))).unwrap().unwrap();
    let memory = |token: &[u8]| {
        vec![Memory { what: "an auditor's token".into(), checkpoint: Ok(token.to_vec()), at: None }]
    };
    let good = fleet.verify(&*bucket, 70, memory(&token));
    assert_eq!((verdicts(&good), good.exit_status(false, false)), (vec![], 0));
    let try_with = |name: &str, objects: &Objects| {
        let forged = bucket_of(objects);
        fleet.worker(forged.clone(), None).round(at(60)).unwrap();
        let blind = fleet.verify(&*forged, 70, vec![]);
        assert_eq!(blind.exit_status(false, false), 0, "{name}: {:?}", blind.findings);
        assert!(blind.freshness.starts_with("unproven after the beginning"), "{name}: {}", blind.freshness);
        let seen = fleet.verify(&*forged, 70, memory(&token));
        assert_eq!((seen.verdict.name(), seen.exit_status(false, false)), ("ROLLBACK", 1), "{name}");
    };
    try_with("batches deleted", &middle);
    let b = fleet.writers["b"].writer.clone();
    let without: Objects = fleet.objects().into_iter().filter(|(k, _)| !k.contains(&b)).collect();
    try_with("a writer deleted", &without);
    let mut forged = Fleet::new(&[]);
    forged.writers = past;
    for n in [40, 50] {
        let rows = forged.get("a").rows(&[br#"{"action":"nothing"}"#], n);
        forged.get("a").seal(&rows, n, |_| {});
    }
    forged.get("b").objects = fleet.writers["b"].objects.clone();
    let mut replaced: Objects = forged.writers.values().flat_map(|w| w.objects.clone()).collect();
    replaced.insert(name::TRAIL.into(), fleet.envelope.to_bytes().unwrap());
    try_with("a batch replaced", &replaced);
    // A token of nobody that counts is no memory, and says so.
    let mut bad = token.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    assert_eq!(fleet.verify(&*bucket, 70, memory(&bad)).verdict.name(), "UNREADABLE");
    // One that lies under another checkpoint's name is nobody's.
    fleet.seal(61);
    fleet
        .objects()
        .iter()
        .filter(|(k, _)| bucket.get(k).unwrap().is_none())
        .for_each(|(k, b)| bucket.stranger(k, b));
    worker.round(at(65)).unwrap();
    bucket.stranger(&format!("{}tsa-0-0.tsr", stamps_prefix(1)), &token);
    let moved = fleet.verify(&*bucket, 70, vec![]);
    assert_eq!(verdicts(&moved), ["UNANCHORED", "FOREIGN"], "{:?}", moved.findings);
    // The worker is not taken in by it: it asks, and keeps the answer beside.
    assert!(worker.anchor(at(66)).unwrap().iter().all(|s| s.result.is_ok()));
    let report = fleet.verify(&*bucket, 70, vec![]);
    assert_eq!(verdicts(&report), ["FOREIGN"], "{:?}", report.findings);
    // Older than the trust file wants.
    fleet.max_anchor_age = Some(3600);
    let late = report.log.unwrap().anchors[0].at.saturating_add_seconds(3700);
    let report = fleet.verify_with(&*bucket, fleet.trust(), late, vec![]);
    assert!(report.findings.iter().any(|f| f.verdict.name() == "STALE" && f.detail.contains("time-stamp")));
}

/// Before the certificate that signed them ends, time-stamps are carried on by the log and those that come after.
#[test]
fn time_stamps_outlive_their_certificates() {
    if !is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::new(&dir.path().join("ca"), Keys::P256));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let now = i64::try_from(now).unwrap() - 1_768_471_200;
    let day = 86_400;
    let end = at(now + 40 * day);
    let text = end.to_string();
    let compact: String = text[..19].chars().filter(char::is_ascii_digit).collect();
    authority.certify("short", "tsa", "20260101000000Z", &format!("{compact}Z"));
    authority.certify_long("long");
    let server = Server::start(authority.clone(), "short");
    let Stamped { mut fleet, authority } = stamped(dir.path(), &[&server], authority);
    let bucket = Arc::new(MemoryBucket::default());
    let put = |fleet: &Fleet| {
        fleet
            .objects()
            .iter()
            .filter(|(k, _)| bucket.get(k).unwrap().is_none())
            .for_each(|(k, b)| bucket.stranger(k, b));
    };
    put(&fleet);
    let mut worker = fleet.worker(bucket.clone(), None);
    for n in 0..3 {
        fleet.seal(10 + n);
        put(&fleet);
        worker.round(at(now - 100 * day + n)).unwrap();
        assert!(worker.anchor(at(now)).unwrap().iter().all(|s| s.result.is_ok()));
    }
    let statements = |store: &dyn Store| {
        let mut all = Vec::new();
        list_all(store, "statements/renewal/", &mut |k| all.push(k)).unwrap();
        all
    };
    assert!(statements(&*bucket).is_empty(), "not yet");
    let kept = bucket.objects();
    // Sixty days before the end they are: what was stamped before, not what still may be.
    let a = authority.clone();
    server.behave(move |r: &[u8]| (200, a.reply("long", r)));
    fleet.seal(20);
    put(&fleet);
    worker.round(at(now)).unwrap();
    worker.anchor(at(now)).unwrap();
    let first = statements(&*bucket);
    assert_eq!(first.len(), 1);
    fleet.seal(21);
    put(&fleet);
    worker.round(at(now + 1)).unwrap();
    worker.anchor(at(now + 1)).unwrap();
    worker.round(at(now + 2)).unwrap();
    assert_eq!(statements(&*bucket).len(), 2, "the newest of then came after");
    assert_eq!(worker.round(at(now + 3)).unwrap().appended, 0);
    // Another worker knows that from the log.
    assert_eq!(fleet.worker(bucket.clone(), None).round(at(now + 4)).unwrap().appended, 0);
    worker.anchor(at(now + 3)).unwrap();
    let (trust, later) = (fleet.trust(), end.saturating_add_seconds(day));
    let unanchored = |store: &dyn Store| {
        let report = fleet.verify_with(store, fleet.trust(), later, vec![]);
        let ended = report.findings.iter().filter(|f| f.detail.contains("certificates ended"));
        ended.map(|f| f.detail.clone()).collect::<Vec<_>>()
    };
    assert_eq!(unanchored(&*bucket), Vec::<String>::new());
    // Without that they are worth nothing by then.
    let left = unanchored(&MemoryBucket::with(kept.clone()));
    assert!(left.len() == 1 && left[0].starts_with("3 time-stamp(s), the first of checkpoint 0"), "{left:?}");
    // Nor with statements that no later time-stamp is over.
    let unstamped: std::collections::BTreeMap<_, _> = bucket
        .objects()
        .into_iter()
        .filter(|(k, _)| !k.starts_with("anchors/") || kept.contains_key(k))
        .collect();
    let left = unanchored(&MemoryBucket::with(unstamped));
    assert!(left.len() == 1 && left[0].starts_with("3 time-stamp(s)"), "{left:?}");
    // A proof that is made then says that it is of a token whose certificate has ended, if it is.
    let made = Prover::new(&*bucket, fleet.id, fleet.log.clone(), Some(&trust))
        .prove(&Wanted::Sequence(fleet.writers["a"].writer.clone(), 0))
        .unwrap();
    assert_eq!(made[0].timestamps.len(), 1);
}

/// What alerts look at is there from the start, and says who has seen the newest checkpoint.
#[test]
fn what_a_worker_says_of_itself() {
    if !is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let p = |s: &str| dir.path().join(s).display().to_string();
    let authority = Arc::new(Authority::new(&dir.path().join("ca"), Keys::P256));
    authority.certify_long("good");
    let server = Server::start(authority.clone(), "good");
    let Stamped { mut fleet, .. } = stamped(dir.path(), &[&server], authority);
    fleet.seal(10);
    std::fs::create_dir_all(p("trail")).unwrap();
    fleet.put(&local_store(&dir.path().join("trail")));
    std::fs::write(p("trust.yaml"), fleet.trust_yaml()).unwrap();
    std::fs::write(p("worker.pem"), fleet.worker_key().to_pem().unwrap()).unwrap();
    let port = waxseal_e2e::process::free_port();
    let config = format!(
        "trail: fleet\nstore: file://{}\nkey: file:{}\ntrust: trust.yaml\ntelemetry: {{listen: \"127.0.0.1:{port}\"}}\nanchors:\n  timestamps: [{{name: tsa, url: \"{}\"}}]\n",
        p("trail"),
        p("worker.pem"),
        server.url
    );
    std::fs::write(p("anchor.yaml"), config).unwrap();
    let mut child = std::process::Command::new(bin("waxseal-anchor"))
        .args(["--config", &p("anchor.yaml")])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let http = waxseal_anchor::http::Client::new(std::time::Duration::from_secs(5), None).unwrap();
    let mut text = String::new();
    for _ in 0..600 {
        let answer = http.get(&format!("http://127.0.0.1:{port}/metrics"), 1 << 20);
        text = answer.map(|a| String::from_utf8_lossy(&a.body).into_owned()).unwrap_or_default();
        if text.contains("target_checkpoint{kind=\"timestamp\",name=\"tsa\"} 0") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for line in [
        "waxseal_anchor_checkpoint 0",
        // Their headers were promised for a time long ago.
        "waxseal_anchor_findings{verdict=\"SILENT\"} 2",
        "waxseal_anchor_findings{verdict=\"FORK\"} 0",
        "waxseal_anchor_rounds_total{result=\"ok\"} 1",
        "waxseal_anchor_rounds_total{result=\"failed\"} 0",
        "waxseal_anchor_unreadable 0",
        "waxseal_anchor_complaints 0",
        "waxseal_anchor_writers_live 2",
        "waxseal_anchor_target_failures{kind=\"timestamp\",name=\"tsa\"} 0",
        "waxseal_anchor_target_checkpoint{kind=\"timestamp\",name=\"tsa\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    // Each series that an alert names is there.
    let rules =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/alerts-anchor.yaml"));
    let rules = rules.unwrap();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named = rules.split(|c| !word(c)).filter(|w| w.starts_with("waxseal_anchor_"));
    for name in named {
        assert!(text.lines().any(|l| l.starts_with(name)), "{name} is in the rules alone");
    }
}
