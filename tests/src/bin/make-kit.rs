//! Makes `conformance/` anew: `cargo run -p waxseal-e2e --bin make-kit -- conformance`.
//!
//! The expectations are written here from docs/format.md, not taken from what a verifier said.

use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use waxseal_e2e::forge::{Forge, Objects, Row, Signers, at, sign, trail};
use waxseal_e2e::kit::{Case, Expect, Op};
use waxseal_sink::signer::{Algorithm, MemoryKey, Signer};
use waxseal_store::{LocalStore, Retain, Store as _, disk::RealDisk};
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::{Hash, leaf_hash, sha256};
use waxseal_trail::name;
use waxseal_trail::record::{Columns, Converter, Events};
use waxseal_trail::statement::{self, Batch, Lock, Predecessor, Reason, Retirement, State};
use waxseal_trail::time::Time;

const ALPHA: &str = "alpha.019bc11901007ca690a569ed3e38712f";
const ALPHA2: &str = "alpha.019bc143ba807752b89c195f9fa852d8";
const BETA: &str = "beta.node-1.019bc11901007659bffbe10957d200fd";

fn key(dir: &Path, name: &str, algorithm: Algorithm) -> Arc<dyn Signer> {
    let path = dir.join(format!("TEST-ONLY-{name}.pem"));
    if let Ok(pem) = std::fs::read(&path) {
        return Arc::new(MemoryKey::from_pem(&pem).expect("a key of an earlier run"));
    }
    let key = MemoryKey::generate(algorithm).expect("keys can be made");
    std::fs::write(path, key.to_pem().expect("in memory")).expect("writable");
    Arc::new(key)
}

fn b64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

struct Cases {
    good: Objects,
    list: Vec<Case>,
}

/// A quarter of an hour after the last header.
const NOW: i64 = 4_500;

impl Cases {
    fn add(&mut self, name: &str, ops: Vec<Op>, exit: u8, verdicts: &[&str]) {
        self.at(name, ops, NOW, &[], exit, verdicts);
    }

    fn at(&mut self, name: &str, ops: Vec<Op>, now: i64, args: &[&str], exit: u8, verdicts: &[&str]) {
        self.list.push(Case {
            name: name.to_owned(),
            ops,
            as_of: at(now).to_string(),
            args: args.iter().map(|s| (*s).to_owned()).collect(),
            expect: Expect { exit, verdicts: verdicts.iter().map(|s| (*s).to_owned()).collect() },
        });
    }

    /// Flips in each region, cuts, appends; `verdict` for each.
    fn bytes_of(&mut self, what: &str, path: &str, exit: u8, verdict: &str) {
        let len = self.good[path].len();
        for (where_, offset) in
            [("first", 0), ("early", len / 7), ("middle", len / 2), ("late", len * 6 / 7), ("last", len - 1)]
        {
            let op = Op::Flip { path: path.into(), offset, bit: (offset % 7) as u8 };
            self.add(&format!("{what}: a bit of the {where_} byte"), vec![op], exit, &[verdict]);
        }
        self.add(
            &format!("{what}: cut in half"),
            vec![Op::Truncate { path: path.into(), length: len / 2 }],
            exit,
            &[verdict],
        );
        self.add(
            &format!("{what}: emptied"),
            vec![Op::Truncate { path: path.into(), length: 0 }],
            exit,
            &[verdict],
        );
        self.add(
            &format!("{what}: a byte appended"),
            vec![Op::Append { path: path.into(), base64: "AA==".into() }],
            exit,
            &[verdict],
        );
    }

    fn write(objects: &Objects) -> Vec<Op> {
        objects.iter().map(|(path, bytes)| Op::Write { path: path.clone(), base64: b64(bytes) }).collect()
    }
}

fn delete(path: &str) -> Op {
    Op::Delete { path: path.into() }
}

fn copy(from: &str, to: &str) -> Op {
    Op::Copy { from: from.into(), to: to.into() }
}

/// What a forge has made since `before`.
fn new_objects(before: &Forge, after: &Forge) -> Objects {
    after
        .objects
        .iter()
        .filter(|(k, _)| !before.objects.contains_key(*k))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

const INPUTS: [&[u8]; 9] = [
    br#"{"actor":"alice","action":"login","result":"success","category":"authentication","event_type":"login_attempt","timestamp":"2026-01-15T11:00:00.5+01:00","ip_address":"192.0.2.44","metadata":{"method":"passkey"}}"#,
    br#"{"actor":"bo\"b","resource":"invoice-7","n":[-0.0,1e400,9007199254740993,1.5,0.1],"session_id":"s-1"}"#,
    br#"{"event_id":"0190c2a4-7d3e-7c11-9a52-0242ac120002","correlation_id":"c-1","writer":"evil","sequence":9,"$number":"1"}"#,
    br#"{"a":1,"a":2}"#,
    br#"{"broken": "#,
    b"\xff\xfe not text",
    br#"{"metadata":{"x":{"y":[null,true,{"$bytes":"AA"}]}},"x":2,"actor":null}"#,
    "{\"t\":\"€\\r퟿\u{e000}😀\\u0000\\u001f \\\"\\\\\",\"😀\":1,\"דּ\":2}".as_bytes(),
    br#"{"timestamp":"1969-12-31T23:59:59.999999999Z","category":"trail","event_type":"unparsed","observed_at":"2020-01-01T00:00:00Z"}"#,
];

fn main() {
    let out = std::env::args().nth(1).expect("the directory to write");
    let out = Path::new(&out);
    let keys = out.join("keys");
    std::fs::create_dir_all(&keys).expect("writable");
    let one = |k: &Arc<dyn Signer>| -> Signers { vec![k.clone()] };
    let operator = key(&keys, "operator", Algorithm::Ed25519);
    let rsa = key(&keys, "alpha", Algorithm::Rsa);
    let (beta0, beta1) = (key(&keys, "beta-0", Algorithm::Ed25519), key(&keys, "beta-1", Algorithm::Ed25519));
    let stranger = key(&keys, "stranger", Algorithm::Ed25519);

    let (_, statement) = trail("kit", &one(&operator));
    let id = statement.statement_hash();
    let mut good = Objects::new();
    good.insert(name::TRAIL.into(), statement.to_bytes().expect("small"));

    // alpha: RSA; two batches, an empty one, a clean stop; retired by an operator; a second epoch that names it.
    let mut alpha = Forge::new(id, ALPHA, one(&rsa), 0, |_| {});
    let rows = alpha.rows(&INPUTS, 600);
    alpha.seal(&rows, 900, |_| {});
    alpha.seal(&[], 1800, |_| {});
    let rows = alpha.rows(&INPUTS[..3], 1900);
    alpha.seal(&rows, 2000, |h| h.state = State::Stopped);
    let retirement = Retirement {
        format: statement::format_of::<Retirement>(),
        trail: id,
        writer: ALPHA.into(),
        batch: 2,
        statement: alpha.previous,
        reason: "moved to another disk".into(),
    };
    let retirement = sign(&retirement, &one(&operator));
    let retirement_key = name::statement_key("retirement", &retirement.statement_hash());
    good.insert(retirement_key.clone(), retirement.to_bytes().expect("small"));
    let predecessor = Predecessor { writer: ALPHA.into(), batch: Some(2), statement: alpha.previous };
    let mut alpha2 = Forge::new(id, ALPHA2, one(&rsa), 2800, |g| {
        g.reason = Reason::Rollover;
        g.predecessor = Some(predecessor);
    });
    let rows = alpha2.rows(&INPUTS[..2], 2900);
    alpha2.seal(&rows, 3600, |h| h.state = State::Stopped);

    // beta: Ed25519; then two keys at once, RSA and another Ed25519, both of which sign everything.
    let mut beta = Forge::new(id, BETA, one(&beta0), 0, |_| {});
    let rows = beta.rows(&INPUTS[1..4], 100);
    beta.seal(&rows, 900, |_| {});
    let beta_before_rotation = beta.clone();
    beta.rotate(vec![beta1.clone(), rsa.clone()], |_| {});
    let rows = beta.rows(&INPUTS[..4], 1000);
    beta.seal(&rows, 1800, |_| {});
    let beta_middle = beta.clone();
    beta.seal(&[], 2700, |_| {});
    let beta_before_last = beta.clone();
    let rows = beta.rows(&INPUTS[..2], 2800);
    beta.seal(&rows, 3600, |_| {});
    for f in [&alpha, &alpha2, &beta] {
        good.extend(f.objects.clone());
    }

    write_good(out, &good, id, &operator, &rsa, &beta0);
    let mut c = Cases { good, list: Vec::new() };
    untouched(&mut c);
    every_byte(&mut c, &alpha, &beta, &retirement_key);
    deletions(&mut c, &alpha, &beta, &retirement_key);
    exchanges(&mut c, &alpha, &beta);
    strangers(&mut c, id, &stranger, &beta_middle, &beta_before_rotation, &beta0);
    signed_but_wrong(&mut c, &beta, &beta_before_last);
    epochs(&mut c, id, &beta, &alpha, &alpha2, &rsa);
    retention(&mut c, &beta);
    let lines: String =
        c.list.iter().map(|case| serde_json::to_string(case).expect("plain") + "\n").collect();
    std::fs::write(out.join("cases.jsonl"), lines).expect("writable");
    records(out);
    let page = out.join("../docs/format.md");
    let text = std::fs::read_to_string(&page).expect("docs/format.md lies beside the kit");
    std::fs::write(&page, waxseal_e2e::example::with_example(&text, out)).expect("writable");
    println!("{} cases", c.list.len());
}

fn write_good(
    out: &Path,
    good: &Objects,
    id: Hash,
    operator: &Arc<dyn Signer>,
    rsa: &Arc<dyn Signer>,
    beta0: &Arc<dyn Signer>,
) {
    let dir = out.join("good");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("writable");
    let store = LocalStore::new(Arc::new(RealDisk), &dir, "kit");
    for (key, bytes) in good {
        let until = match Envelope::parse(bytes).ok().and_then(|e| statement::read::<Batch>(&e).ok()) {
            Some(h) => h.retain_until,
            None => at(4000 + 2555 * 86_400),
        };
        store
            .put_if_absent(key, &bytes.clone().into(), &sha256(bytes), &Retain { lock: Lock::None, until })
            .expect("writable");
    }
    let _ = std::fs::remove_dir_all(dir.join(".tmp"));
    let trust = format!(
        "trail: {id}\noperators:\n  - {}\nwriters:\n  - name: alpha\n    keys:\n      - {}\n  - name: \"beta.*\"\n    keys:\n      - {}\n",
        operator.public().to_base64(),
        rsa.public().to_base64(),
        beta0.public().to_base64()
    );
    std::fs::write(out.join("trust.yaml"), trust).expect("writable");
}

fn untouched(c: &mut Cases) {
    c.add("untouched", vec![], 0, &["STOPPED"]);
    c.at("untouched, --strict", vec![], NOW, &["--strict"], 1, &["STOPPED"]);
    c.at("untouched, --quick", vec![], NOW, &["--quick"], 0, &["STOPPED"]);
    c.at("nobody wrote on", vec![], 20_000, &[], 1, &["SILENT"]);
}

fn events_of(objects: &Objects, writer: &str, batch: u64) -> String {
    let part = format!("/{writer}-{batch:012}-");
    objects.keys().find(|k| k.contains(&part)).expect("this batch has records").clone()
}

fn every_byte(c: &mut Cases, alpha: &Forge, beta: &Forge, retirement: &str) {
    c.bytes_of("trail.json", name::TRAIL, 1, "TAMPERED");
    c.bytes_of("genesis", &name::genesis_key(ALPHA), 1, "TAMPERED");
    c.bytes_of("key statement", &name::keys_key(BETA, 1), 1, "TAMPERED");
    c.bytes_of("header of one key", &name::batch_key(ALPHA, 0), 1, "TAMPERED");
    c.bytes_of("header of two keys", &name::batch_key(BETA, 1), 1, "TAMPERED");
    c.bytes_of("header of an empty batch", &name::batch_key(ALPHA, 1), 1, "TAMPERED");
    c.bytes_of("the last header", &name::batch_key(BETA, 3), 1, "TAMPERED");
    c.bytes_of("events object", &events_of(&alpha.objects, ALPHA, 0), 1, "TAMPERED");
    c.bytes_of("the last events object", &events_of(&beta.objects, BETA, 3), 1, "TAMPERED");
    // Without its retirement the first epoch of alpha is abandoned.
    c.bytes_of("operator's statement", retirement, 1, "ABANDONED");
}

fn deletions(c: &mut Cases, alpha: &Forge, beta: &Forge, retirement: &str) {
    c.add("trail.json deleted", vec![delete(name::TRAIL)], 1, &["TRUNCATED"]);
    c.add("genesis deleted", vec![delete(&name::genesis_key(BETA))], 1, &["TRUNCATED"]);
    c.add("key statement deleted", vec![delete(&name::keys_key(BETA, 1))], 1, &["TAMPERED"]);
    c.add("first header deleted", vec![delete(&name::batch_key(ALPHA, 0))], 1, &["GAP"]);
    c.add("middle header deleted", vec![delete(&name::batch_key(BETA, 1))], 1, &["GAP"]);
    c.add("events object deleted", vec![delete(&events_of(&alpha.objects, ALPHA, 2))], 1, &["GAP"]);
    c.at(
        "events object deleted, --quick",
        vec![delete(&events_of(&alpha.objects, ALPHA, 2))],
        NOW,
        &["--quick"],
        1,
        &["GAP"],
    );
    c.add("retirement deleted", vec![delete(retirement)], 1, &["ABANDONED"]);
    let last = [delete(&name::batch_key(BETA, 3)), delete(&events_of(&beta.objects, BETA, 3))];
    c.add("last header deleted (no reader can see it yet)", last[..1].to_vec(), 0, &["FOREIGN"]);
    c.add("last batch deleted (no reader can see it yet)", last.to_vec(), 0, &["STOPPED"]);
    c.at("last batch deleted, later", last.to_vec(), 5_000, &[], 1, &["SILENT"]);
    let retired = [delete(&name::batch_key(ALPHA, 2)), delete(&events_of(&alpha.objects, ALPHA, 2))];
    c.add("last batch of a retired writer deleted", retired.to_vec(), 1, &["GAP"]);
    let all: Vec<Op> = c.good.keys().filter(|k| k.starts_with("events/")).map(|k| delete(k)).collect();
    c.at("after all retention, events gone", all, 480_000_000, &[], 1, &["EXPIRED", "SILENT"]);
}

fn exchanges(c: &mut Cases, alpha: &Forge, beta: &Forge) {
    let (a0, a1, a2) = (name::batch_key(ALPHA, 0), name::batch_key(ALPHA, 1), name::batch_key(ALPHA, 2));
    let (b1, b2) = (name::batch_key(BETA, 1), name::batch_key(BETA, 2));
    let aside = "aside";
    c.add(
        "two headers exchanged",
        vec![copy(&b1, aside), copy(&b2, &b1), copy(aside, &b2), delete(aside)],
        1,
        &["TAMPERED"],
    );
    c.add("header n+1 under n", vec![copy(&a2, &a1)], 1, &["TAMPERED"]);
    c.add("header n under n+1", vec![copy(&a0, &a1)], 1, &["TAMPERED"]);
    c.add("an old header as the next one", vec![copy(&b1, &name::batch_key(BETA, 4))], 1, &["TAMPERED"]);
    c.add("another writer's header", vec![copy(&a1, &b1)], 1, &["TAMPERED"]);
    c.add("another epoch's header", vec![copy(&name::batch_key(ALPHA2, 0), &a0)], 1, &["TAMPERED"]);
    c.add(
        "another writer's genesis",
        vec![copy(&name::genesis_key(ALPHA), &name::genesis_key(BETA))],
        1,
        &["TAMPERED"],
    );
    let (e0, e2) = (events_of(&alpha.objects, ALPHA, 0), events_of(&alpha.objects, ALPHA, 2));
    c.add(
        "two events objects exchanged",
        vec![copy(&e0, aside), copy(&e2, &e0), copy(aside, &e2), delete(aside)],
        1,
        &["TAMPERED"],
    );
    c.add(
        "another writer's events object",
        vec![copy(&events_of(&beta.objects, BETA, 0), &e0)],
        1,
        &["TAMPERED"],
    );
    c.add(
        "a copy of an events object elsewhere",
        vec![copy(&e0, "events/date=2026-01-16/hour=00/copy.parquet")],
        0,
        &["FOREIGN"],
    );
    c.add(
        "a README in the trail",
        vec![Op::Write { path: "README".into(), base64: b64(b"x") }],
        0,
        &["FOREIGN"],
    );
    c.add(
        "next header's name taken by junk",
        vec![Op::Write { path: name::batch_key(BETA, 4), base64: b64(b"junk") }],
        1,
        &["TAMPERED"],
    );
    c.add(
        "next events object's name taken by junk",
        vec![Op::Write {
            path: format!("events/date=2026-01-15/hour=11/{BETA}-000000000004-0123456789abcdef.parquet"),
            base64: b64(b"junk"),
        }],
        0,
        &["FOREIGN"],
    );
    c.add(
        "next key statement's name taken by junk",
        vec![Op::Write { path: name::keys_key(BETA, 2), base64: b64(b"{}") }],
        1,
        &["TAMPERED"],
    );
}

/// The envelope of `key` signed anew by others.
fn resign(objects: &Objects, key: &str, signers: &Signers, bend: impl FnOnce(&mut Envelope)) -> Op {
    let mut e = Envelope::parse(&objects[key]).expect("good");
    waxseal_sink::signer::sign(&mut e, signers).expect("memory keys sign");
    bend(&mut e);
    Op::Write { path: key.into(), base64: b64(&e.to_bytes().expect("small")) }
}

fn strangers(
    c: &mut Cases,
    id: Hash,
    stranger: &Arc<dyn Signer>,
    beta: &Forge,
    before_rotation: &Forge,
    beta0: &Arc<dyn Signer>,
) {
    let b1 = name::batch_key(BETA, 1);
    let good = c.good.clone();
    c.add(
        "header signed by a stranger",
        vec![resign(&good, &b1, &vec![stranger.clone()], |_| {})],
        1,
        &["TAMPERED"],
    );
    c.add(
        "header signed by the superseded key",
        vec![resign(&good, &b1, &vec![beta0.clone()], |_| {})],
        1,
        &["TAMPERED"],
    );
    c.add(
        "header signed by one of two keys",
        vec![resign(&good, &b1, &vec![beta.signers[0].clone()], |_| {})],
        1,
        &["TAMPERED"],
    );
    let swapped: Signers = beta.signers.iter().rev().cloned().collect();
    c.add(
        "header with its signatures in another order",
        vec![resign(&good, &b1, &swapped, |_| {})],
        1,
        &["TAMPERED"],
    );
    let more: Signers = beta.signers.iter().chain([stranger]).cloned().collect();
    c.add("header with a signature more", vec![resign(&good, &b1, &more, |_| {})], 1, &["TAMPERED"]);
    c.add(
        "header with another payload type",
        vec![resign(&good, &b1, &beta.signers, |e| {
            e.payload_type = "application/vnd.waxseal.keys+json".into()
        })],
        1,
        &["TAMPERED"],
    );
    c.add(
        "header with a space in its JSON",
        vec![{
            let text = String::from_utf8(good[&b1].clone()).expect("JSON").replacen(',', ", ", 1);
            Op::Write { path: b1.clone(), base64: b64(text.as_bytes()) }
        }],
        1,
        &["TAMPERED"],
    );
    c.add(
        "trail.json signed by a stranger",
        vec![resign(&good, name::TRAIL, &vec![stranger.clone()], |_| {})],
        1,
        &["TAMPERED"],
    );
    let (_, other) = trail("other", &vec![stranger.clone()]);
    let other_bytes = other.to_bytes().expect("small");
    c.add(
        "another trail's statement",
        vec![Op::Write { path: name::TRAIL.into(), base64: b64(&other_bytes) }],
        2,
        &["OTHER_TRAIL"],
    );

    // A stranger's writer, complete and signed.
    let mut zed = Forge::new(id, "zed.019bc146c7c07d3684686a5e014b7417", vec![stranger.clone()], 100, |_| {});
    let rows = zed.rows(&INPUTS[..2], 200);
    zed.seal(&rows, 900, |_| {});
    c.add("a stranger's writer", Cases::write(&zed.objects), 0, &["FOREIGN"]);
    // The same under a trusted name, with a key that nothing vouches for.
    let mut thief =
        Forge::new(id, "beta.node-9.019bc146c7c07d3684686a5e014b7417", vec![stranger.clone()], 100, |_| {});
    let rows = thief.rows(&INPUTS[..2], 200);
    thief.seal(&rows, 900, |_| {});
    c.add("a stranger's writer under a trusted name", Cases::write(&thief.objects), 1, &["UNTRUSTED"]);
    // The genesis of a trusted writer replaced by one that verifies under its own key.
    let replaced = Forge::new(id, BETA, vec![stranger.clone()], 0, |_| {});
    c.add("genesis replaced by a stranger's", Cases::write(&replaced.objects), 1, &["UNTRUSTED"]);
    // A writer of another trail with our writer's key.
    let mut foreign = Forge::new(other.statement_hash(), BETA, vec![beta0.clone()], 0, |_| {});
    let rows = foreign.rows(&INPUTS[..2], 200);
    foreign.seal(&rows, 900, |_| {});
    c.add("another trail's objects over ours", Cases::write(&foreign.objects), 1, &["TAMPERED"]);
    // Key statement without the old key.
    let mut stolen = before_rotation.clone();
    stolen.rotate(vec![stranger.clone()], |_| {});
    let key = name::keys_key(BETA, 1);
    let forged = resign(&stolen.objects, &key, &vec![stranger.clone()], |_| {});
    c.add("key statement that the old key did not sign", vec![forged], 1, &["TAMPERED"]);
}

/// What one more batch of beta, made by `make`, gives.
fn next(c: &mut Cases, name: &str, beta: &Forge, exit: u8, verdicts: &[&str], make: impl FnOnce(&mut Forge)) {
    let mut f = beta.clone();
    make(&mut f);
    let ops = Cases::write(&new_objects(beta, &f));
    c.at(name, ops, 5_000, &[], exit, verdicts);
}

fn signed_but_wrong(c: &mut Cases, beta: &Forge, before_last: &Forge) {
    let batch = |bend: fn(&mut Batch)| {
        move |f: &mut Forge| {
            let rows = f.rows(&INPUTS[..3], 4000);
            f.seal(&rows, 4200, bend);
        }
    };
    next(c, "one batch more", beta, 0, &["STOPPED"], batch(|_| {}));
    next(c, "next header, wrong previous", beta, 1, &["TAMPERED"], batch(|h| h.previous = leaf_hash(b"x")));
    next(
        c,
        "next header, wrong events.previous_hash",
        beta,
        1,
        &["TAMPERED"],
        batch(|h| h.events.previous_hash = leaf_hash(b"x")),
    );
    next(
        c,
        "next header, wrong last_hash",
        beta,
        1,
        &["TAMPERED"],
        batch(|h| h.events.last_hash = leaf_hash(b"x")),
    );
    next(
        c,
        "next header, wrong merkle_root",
        beta,
        1,
        &["TAMPERED"],
        batch(|h| h.events.merkle_root = leaf_hash(b"x")),
    );
    next(c, "next header, wrong count", beta, 1, &["INCONSISTENT"], batch(|h| h.events.count += 1));
    next(
        c,
        "next header, wrong record_bytes",
        beta,
        1,
        &["INCONSISTENT"],
        batch(|h| h.events.record_bytes += 1),
    );
    next(
        c,
        "next header, wrong first_timestamp",
        beta,
        1,
        &["INCONSISTENT"],
        batch(|h| h.events.first_timestamp = Some(at(1))),
    );
    next(
        c,
        "next header, first_sequence near 2^64",
        beta,
        1,
        &["INCONSISTENT"],
        batch(|h| h.events.first_sequence = u64::MAX - 1),
    );
    next(c, "next header, count of 2^53", beta, 1, &["INCONSISTENT"], batch(|h| h.events.count = 1 << 53));
    next(c, "next header, wrong keys", beta, 1, &["INCONSISTENT"], batch(|h| h.keys = 0));
    next(c, "next header, sealed_at goes back", beta, 1, &["INCONSISTENT"], |f| {
        let rows = f.rows(&INPUTS[..3], 4000);
        f.seal(&rows, 3000, |_| {});
    });
    next(c, "next header, boot goes back", beta, 1, &["INCONSISTENT"], batch(|h| h.boot = 0));
    next(c, "next header, a total decreases", beta, 1, &["INCONSISTENT"], batch(|h| h.intake.received = 0));
    next(c, "next header, running without next_by", beta, 1, &["INCONSISTENT"], batch(|h| h.next_by = None));
    next(
        c,
        "next header, retain_until with a fraction",
        beta,
        1,
        &["INCONSISTENT"],
        batch(|h| {
            h.retain_until = Time::from_unix(h.retain_until.unix_seconds() + 60, 1).expect("in range");
        }),
    );
    next(
        c,
        "next header, retain_until too early",
        beta,
        1,
        &["SHORT_RETENTION"],
        batch(|h| {
            h.retain_until = h.retain_until.saturating_add_seconds(-86_400);
        }),
    );
    next(
        c,
        "next header, declared_lost 5",
        beta,
        1,
        &["DECLARED_LOSS"],
        batch(|h| h.intake.declared_lost = Some(5)),
    );
    next(
        c,
        "next header of an unknown format",
        beta,
        2,
        &["UNKNOWN_FORMAT"],
        batch(|h| h.format = "waxseal/batch/2".into()),
    );
    next(
        c,
        "next header with unknown columns",
        beta,
        2,
        &["UNKNOWN_FORMAT"],
        batch(|h| h.events.columns = 2),
    );
    next(c, "next header, promised too late", beta, 1, &["SILENT"], |f| {
        let rows = f.rows(&INPUTS[..3], 4000);
        f.seal(&rows, 5_000_000, |_| {});
    });
    next(c, "a gap in the sequence", beta, 1, &["GAP"], |f| {
        f.rows(&INPUTS[..2], 3900);
        let rows = f.rows(&INPUTS[..3], 4000);
        f.seal(&rows, 4200, |_| {});
    });
    next(c, "a batch after state retired", beta, 1, &["INCONSISTENT"], |f| {
        f.seal(&[], 4000, |h| h.state = State::Retired);
        f.seal(&[], 4100, |_| {});
    });
    next(c, "state retired", beta, 0, &["STOPPED"], |f| {
        f.seal(&[], 4000, |h| h.state = State::Retired);
    });
    rows_changed(c, beta);
    // Statements with members that this version does not know.
    for (name, member, exit, verdict) in [
        ("next header with an unknown member", serde_json::json!({"colour": "red"}), 0, "STOPPED"),
        ("next header with an unknown crit", serde_json::json!({"crit": ["colour"]}), 2, "UNKNOWN_FORMAT"),
    ] {
        let mut f = beta.clone();
        f.seal(&[], 4200, |_| {});
        let key = name::batch_key(BETA, 4);
        let mut e = Envelope::parse(&f.objects[&key]).expect("good");
        let mut payload: serde_json::Value = serde_json::from_slice(&e.payload).expect("JSON");
        payload.as_object_mut().expect("an object").extend(member.as_object().expect("an object").clone());
        e.payload = waxseal_trail::json::to_canonical(&payload).expect("plain");
        waxseal_sink::signer::sign(&mut e, &f.signers).expect("memory keys sign");
        let op = Op::Write { path: key, base64: b64(&e.to_bytes().expect("small")) };
        c.at(name, vec![op], 5_000, &[], exit, &[verdict]);
    }
    // The last header of beta with other records, signed with its own keys: without outside memory nobody sees it.
    let mut f = before_last.clone();
    let rows = f.rows(&INPUTS[5..7], 2800);
    f.seal(&rows, 3600, |_| {});
    let mut ops = Cases::write(&new_objects(before_last, &f));
    ops.push(delete(&events_of(&beta.objects, BETA, 3)));
    c.add("last batch replaced with a stolen key (no reader can see it)", ops, 0, &["STOPPED"]);
}

fn rows_changed(c: &mut Cases, beta: &Forge) {
    let with = |change: &dyn Fn(&mut Vec<Row>, &mut Forge)| {
        let mut f = beta.clone();
        let mut rows = f.rows(&INPUTS[..4], 4000);
        change(&mut rows, &mut f);
        f.sequence = beta.sequence + rows.len() as u64;
        f.seal_as(&rows, beta.sequence, 4200, |h| h.events.previous_hash = beta.last_hash);
        Cases::write(&new_objects(beta, &f))
    };
    let text = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        move |rows: &mut Vec<Row>, _: &mut Forge| {
            let t = String::from_utf8(rows[3].0.clone()).expect("JSON");
            assert!(t.contains(&from), "{t}");
            rows[3] = (t.replacen(&from, &to, 1).into_bytes(), Columns::default());
        }
    };
    let cases: Vec<(&str, Vec<Op>, &str)> = vec![
        (
            "a derived column lies",
            with(&|rows, _| {
                let micros = rows[1].1.timestamp_micros;
                rows[1].1 = Columns::default();
                rows[1].1.timestamp_micros = micros;
            }),
            "INCONSISTENT",
        ),
        ("the timestamp column lies", with(&|rows, _| rows[1].1.timestamp_micros += 1), "INCONSISTENT"),
        ("rows in another order", with(&|rows, _| rows.swap(1, 2)), "TAMPERED"),
        ("a row taken out", with(&|rows, _| drop(rows.remove(1))), "TAMPERED"),
        ("a row twice", with(&|rows, _| rows.insert(1, rows[1].clone())), "TAMPERED"),
        ("a record not in canonical form", with(&text("{\"category\"", "{ \"category\"")), "INCONSISTENT"),
        (
            "a record with a member of its own",
            with(&text("\"writer\":", "\"wrappers\":1,\"writer\":")),
            "INCONSISTENT",
        ),
        (
            "a record without nonce",
            with(&|rows, _| {
                let t = String::from_utf8(rows[3].0.clone()).expect("JSON");
                let from = t.find("\"nonce\"").expect("a nonce");
                rows[3] = ([&t[..from], &t[from + 33..]].concat().into_bytes(), Columns::default());
            }),
            "INCONSISTENT",
        ),
        ("a record of another writer", with(&text("beta.node-1.", "beta.node-2.")), "INCONSISTENT"),
        (
            "a record with another sequence",
            with(&|rows, _| {
                let t = String::from_utf8(rows[3].0.clone()).expect("JSON");
                let at = t.find("\"sequence\":").expect("a sequence") + 11;
                let end = at + t[at..].find(',').expect("more members");
                rows[3] = ([&t[..at], "99", &t[end..]].concat().into_bytes(), Columns::default());
            }),
            "INCONSISTENT",
        ),
        (
            "a record that is no JSON",
            with(&|rows, _| rows[3] = (b"no JSON".to_vec(), Columns::default())),
            "INCONSISTENT",
        ),
        (
            "a record with observed_at before the last",
            with(&text("\"observed_at\":\"2026-01-15T11:06:40", "\"observed_at\":\"2026-01-15T11:06:39")),
            "INCONSISTENT",
        ),
    ];
    for (name, ops, verdict) in cases {
        c.at(name, ops, 5_000, &[], 1, &[verdict]);
    }
    // Not Parquet at all, but signed.
    let mut f = beta.clone();
    let rows = f.rows(&INPUTS[..1], 4000);
    let junk = Bytes::from_static(b"PAR1 this is no Parquet PAR1");
    let h = f.seal(&rows, 4200, |h| {
        let o = h.object.as_mut().expect("records");
        (o.sha256, o.bytes) = (sha256(&junk), junk.len() as u64);
    });
    let mut objects = new_objects(beta, &f);
    objects.retain(|k, _| !k.starts_with("events/"));
    let o = h.object.expect("records");
    objects.insert(name::events_key(BETA, h.batch, h.sealed_at, &o.sha256), junk.to_vec());
    c.at("an events object that is no Parquet", Cases::write(&objects), 5_000, &[], 1, &["INCONSISTENT"]);
}

fn epochs(c: &mut Cases, id: Hash, beta: &Forge, alpha: &Forge, alpha2: &Forge, rsa: &Arc<dyn Signer>) {
    let p = Predecessor { writer: ALPHA2.into(), batch: Some(0), statement: alpha2.previous };
    let mut third = Forge::new(id, "alpha.019bc1560a007d3684686a5e014b7417", vec![rsa.clone()], 3700, |g| {
        g.reason = Reason::StateLost;
        g.predecessor = Some(p.clone());
    });
    third.seal(&[], 3800, |_| {});
    c.add("a new epoch, its predecessor not retired", Cases::write(&third.objects), 1, &["ABANDONED"]);
    let third = Forge::new(id, "alpha.019bc1560a007d3684686a5e014b7417", vec![rsa.clone()], 3700, |g| {
        g.reason = Reason::First
    });
    c.add("a new epoch that passes over the one before", Cases::write(&third.objects), 1, &["ABANDONED"]);
    let wrong = Forge::new(id, "alpha.019bc1560a007d3684686a5e014b7417", vec![rsa.clone()], 3700, |g| {
        g.reason = Reason::Rollover;
        g.predecessor =
            Some(Predecessor { writer: ALPHA.into(), batch: Some(2), statement: alpha.genesis_hash() });
    });
    c.add("a new epoch that names another last header", Cases::write(&wrong.objects), 1, &["TAMPERED"]);
    let late = Forge::new(
        id,
        "beta.node-2.019bc1560a007d3684686a5e014b7417",
        vec![beta.signers[1].clone()],
        0,
        |_| {},
    );
    // Its key is beta's second; nothing in the trust file pins it.
    c.add("a writer of a trusted name with a key of later", Cases::write(&late.objects), 1, &["UNTRUSTED"]);
}

fn retention(c: &mut Cases, beta: &Forge) {
    for (what, key) in
        [("header", name::batch_key(BETA, 1)), ("events object", events_of(&beta.objects, BETA, 1))]
    {
        let path = format!(".retention/{key}");
        let record = |until: Time| {
            let text = format!(
                "{{\"sha256\":\"{}\",\"lock\":\"none\",\"retain_until\":\"{until}\"}}",
                sha256(&beta.objects[&key])
            );
            vec![Op::Write { path: path.clone(), base64: b64(text.as_bytes()) }]
        };
        c.add(&format!("retention record of a {what}: earlier"), record(at(86_400)), 1, &["SHORT_RETENTION"]);
        c.add(&format!("retention record of a {what}: later"), record(at(4000 * 86_400)), 0, &["STOPPED"]);
        c.add(
            &format!("retention record of a {what}: junk"),
            vec![Op::Write { path: path.clone(), base64: b64(b"junk") }],
            1,
            &["SHORT_RETENTION"],
        );
        c.add(
            &format!("retention record of a {what}: deleted (the lock is none)"),
            vec![delete(&path)],
            0,
            &["STOPPED"],
        );
    }
}

/// Conversions of awkward records.
fn records(out: &Path) {
    let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let mut json: Vec<Vec<u8>> = INPUTS.iter().map(|i| i.to_vec()).collect();
    json.extend([deep(61), deep(62), deep(63), deep(10_000)].map(String::into_bytes));
    for text in [
        "{}",
        "[]",
        "null",
        "\"x\"",
        "{\"a\":1}{}",
        "{\"a\":\"\\ud800\"}",
        "{\"n\":[1e400,-0,1E5,10000000000000000,0.1e1]}",
        "{\"foo\":null}",
        "{\"metadata\":{}}",
        "{\"metadata\":null}",
        "{\"metadata\":{\"a\":1,\"a\":2},\"b\":3}",
        "{\"$displaced\":1,\"$raw\":2}",
        "{\"timestamp\":\"9999-12-31T23:59:59.999999999Z\"}",
        "{\"timestamp\":\"10000-01-01T00:00:00Z\"}",
        "{\"timestamp\":\"2026-06-30t23:59:59z\"}",
        "{\"actor\":{\"$sealed\":{}}}",
        "{\"\\u0000\":\"\\u0000\"}",
        " {\"a\" : [ ] } ",
    ] {
        json.push(text.as_bytes().to_vec());
    }
    json.push([b"{\"a\":\"", &[b'x'; 140_000][..], b"\xc3"].concat());
    let msgpack: Vec<&[u8]> = vec![
        b"\x80",
        b"\x81\xa1a\xcb\x7f\xf8\0\0\0\0\0\0",
        b"\x81\xa1a\xca\xff\x80\0\0",
        b"\x82\x01\x02\xa1a\x03",
        b"\x81\xa1a\xc7\x00\x05",
        b"\x81\xa9timestamp\xd7\x00\x69\x68\xba\xa0\x00\x00\x00\x07",
        b"\x81\xa9timestamp\xd6\xff\x69\x68\xba\xa0",
        b"\x81\xa1a\xa2\xff\xfe",
        b"\x81\xa2\xff\xfe\x01",
        b"\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x81\xa1a\xd3\x80\0\0\0\0\0\0\0",
        b"\x81\xa1a",
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1a\xd1\xff\x7f",
        b"\x81\xc0\xc3",
    ];
    let mut lines = String::new();
    let mut converter = Converter::default();
    for (kind, input) in
        json.iter().map(|j| ("json", &j[..])).chain(msgpack.into_iter().map(|m| ("msgpack", m)))
    {
        let mut events = Events::default();
        if kind == "json" {
            converter.json(input, &mut events);
        } else {
            converter.msgpack(input, &mut events);
        }
        let members = String::from_utf8(events.members_json(0)).expect("canonical JSON is UTF-8");
        let line = serde_json::json!({"kind": kind, "input": b64(input), "record_members": members});
        lines.push_str(&format!("{line}\n"));
    }
    std::fs::write(out.join("records.jsonl"), lines).expect("writable");
}
