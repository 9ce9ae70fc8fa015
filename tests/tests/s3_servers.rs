//! The sink and the verifier against real S3 servers: Ceph's gateway for locks, versions and authentication, LocalStack
//! for conditional writes and checksums. Where they cannot be had, each test says what it did not try.
//! Rounds through the proxy: 5, or `WAXSEAL_PROXY_ROUNDS`.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ObjectLockLegalHold, ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention,
    ObjectLockRetentionMode,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use waxseal_e2e::process::{Site, each_committed, post};
use waxseal_e2e::s3::load::kill_rounds;
use waxseal_e2e::s3::proxy::Proxy;
use waxseal_e2e::s3::servers::{Server, all as servers, ceph};
use waxseal_e2e::s3::{client, credentials, make_bucket, runtime, store};
use waxseal_filter_host::Filters;
use waxseal_sink::Context;
use waxseal_sink::chain::{Chunk, Redelivery};
use waxseal_sink::clock::Clock;
use waxseal_sink::config::Config;
use waxseal_sink::pipeline::Pipeline;
use waxseal_store::{Store, list_all_keys};
use waxseal_trail::json;
use waxseal_trail::record::{Converter, Events};
use waxseal_trail::time::Time;

const QUICK: &str = "batch: {max_events: 500, max_age: 100ms}\nheartbeat: 1h\n";

fn findings(report: &serde_json::Value) -> Vec<String> {
    let all = report["findings"].as_array().cloned().unwrap_or_default();
    let all = all.iter().map(|f| f["verdict"].as_str().unwrap_or_default().to_owned());
    all.filter(|v| v != "STOPPED").collect()
}

#[test]
fn a_trail_from_beginning_to_end() {
    let runtime = runtime();
    for server in servers() {
        let s3 = client(&server.endpoint());
        runtime.block_on(make_bucket(&s3, "audit", true));
        let site = Site::at(&server.url("audit", "prod"), "compliance", credentials(), QUICK);
        let sink = site.start();
        for n in 0..20 {
            let body: String = (0..100).map(|i| format!("{{\"n\":{}}}\n", n * 100 + i)).collect();
            let (status, _) =
                post(&site.url(), &[("idempotency-key", &n.to_string())], body.as_bytes()).unwrap();
            assert_eq!(status, 200);
            std::thread::sleep(Duration::from_millis(20));
        }
        sink.stop();
        let (exit, report) = site.verify(&[]);
        assert_eq!((exit, findings(&report)), (0, vec![]), "{}: {report:#}", server.name);
        let mut seen = std::collections::HashSet::new();
        each_committed(&*store(&site.store), &mut |v| {
            if let Some(n) = v["metadata"]["n"].as_u64() {
                assert!(seen.insert(n));
            }
        });
        assert_eq!(seen.len(), 2000, "{}", server.name);
        // Everything that was written is locked, and its digest is kept where the server does that.
        let store = store(&site.store);
        let mut objects = Vec::new();
        list_all_keys(&*store, "", &mut |k| objects.push(k)).unwrap();
        for key in &objects {
            let head = store.head(&waxseal_store::At::key(key)).unwrap().unwrap();
            let lock = head.retain.expect("it is locked");
            assert_eq!(lock.lock, waxseal_trail::statement::Lock::Compliance, "{key}");
            assert_eq!(head.sha256.is_some(), server.query.is_empty(), "{key}");
        }
        // The commands that read take the same URL.
        for args in [vec!["tree", &site.store], vec!["show", &site.store, "node-1:7"]] {
            let out = site.waxseal(&args);
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        }
        let stats = &report["stats"];
        println!("{}: {} objects, verify: {stats}", server.name, objects.len());
        // Where nothing is locked, only a trail that says so is made.
        runtime.block_on(make_bucket(&s3, "plain", false));
        let url = server.url("plain", "x");
        let out = site.waxseal(&[
            "init",
            "--store",
            &url,
            "--name",
            "x",
            "--lock",
            "governance",
            "--retention",
            "1d",
            "--out",
            &site.path("x").display().to_string(),
        ]);
        let says = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && says.contains("Object Lock is off"), "{}: {says}", server.name);
    }
}

/// A clock that is behind by a day less a few seconds: what is kept for a day is locked for those.
struct Behind(Duration);

impl Clock for Behind {
    fn now(&self) -> Time {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - self.0;
        Time::from_unix(now.as_secs().cast_signed(), now.subsec_nanos()).unwrap()
    }
}

const LOCKED: Duration = Duration::from_secs(60);

/// Makes a trail of which every object is locked for about a minute.
fn short_trail(server: &Server, bucket: &str) -> Site {
    let site = Site::at(&server.url(bucket, "short"), "none", credentials(), QUICK);
    // Of the trail statement that `init` wrote nothing is locked; one is made by hand that promises a lock of a day.
    let clock = Arc::new(Behind(Duration::from_secs(86_400) - LOCKED));
    waxseal_e2e::s3::replace_trail(&site, clock.now());
    let yaml = std::fs::read_to_string(site.path("sink.yaml")).unwrap();
    std::fs::write(site.path("sink.yaml"), yaml.replace("retention: 30d", "retention: 1d")).unwrap();
    std::fs::create_dir_all(site.path("state")).unwrap();
    seal_some(&site, clock.clone());
    // Another key, with a certificate: a key statement and a certificate are written.
    let p = |name: &str| site.path(name).display().to_string();
    // Nobody pins it: the first key vouches for it.
    std::fs::copy(site.path("keys/trust.yaml"), site.path("other.yaml")).unwrap();
    let generate = ["keys", "generate", "--algorithm", "ed25519", "--out", &p("second"), "--name", "node-1"];
    let out = site.waxseal(&[&generate[..], &["--trust", &p("other.yaml")]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let pem = std::fs::read_to_string(site.path("second/signing.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&pem).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    std::fs::write(site.path("second/tls.crt"), certificate.pem()).unwrap();
    let yaml = std::fs::read_to_string(site.path("sink.yaml")).unwrap();
    let old = format!("  - key: file:{}\n", p("writer/signing.key"));
    let new = format!(
        "  - key: file:{}\n    certificate: {}\n    previous: file:{}\n",
        p("second/signing.key"),
        p("second/tls.crt"),
        p("writer/signing.key")
    );
    assert!(yaml.contains(&old), "{yaml}");
    std::fs::write(site.path("sink.yaml"), yaml.replace(&old, &new)).unwrap();
    seal_some(&site, clock);
    site
}

/// A sink in this process, with a clock of its own: fifty events, and its end.
fn seal_some(site: &Site, clock: Arc<Behind>) {
    let config = Config::load(&site.path("sink.yaml")).unwrap();
    let cx = Context {
        config: Arc::new(config),
        disk: Arc::new(waxseal_store::disk::RealDisk),
        store: store(&site.store),
        clock,
        machine: "m".into(),
    };
    let pipeline = Pipeline::start(cx, Filters::default()).unwrap();
    let (mut converter, mut events) = (Converter::default(), Events::default());
    (0..50).for_each(|n| converter.json(format!("{{\"n\":{n}}}").as_bytes(), &mut events));
    let source = json::canonicalize(b"{\"intake\":\"http\"}").unwrap();
    let chunk =
        Chunk { events, source, key: None, redelivery: Redelivery::Always, passed: Default::default() };
    let pending = pipeline.submitter().submit(chunk, 1);
    pending.wait().unwrap();
    assert!(pipeline.stop(Duration::from_secs(30)).unwrap(), "it is stored");
}

/// The server's own answer to an attempt.
async fn attempt(s3: &Client, bucket: &str, key: &str, version: &str, what: &str) -> Result<(), String> {
    let retention = |seconds: u64, mode: ObjectLockRetentionMode| {
        let until = SystemTime::now() + Duration::from_secs(seconds);
        ObjectLockRetention::builder().mode(mode).retain_until_date(DateTime::from(until)).build()
    };
    let compliance = ObjectLockRetentionMode::Compliance;
    let code = |e: &dyn aws_sdk_s3::error::ProvideErrorMetadata| e.code().unwrap_or("no answer").to_owned();
    match what {
        "delete version" => {
            let sent = s3.delete_object().bucket(bucket).key(key).version_id(version).send().await;
            sent.map(drop).map_err(|e| code(&e))
        }
        "delete version, bypass" => {
            let sent = s3.delete_object().bucket(bucket).key(key).version_id(version);
            sent.bypass_governance_retention(true).send().await.map(drop).map_err(|e| code(&e))
        }
        "shorten" => {
            let put = s3.put_object_retention().bucket(bucket).key(key).version_id(version);
            put.retention(retention(5, compliance)).send().await.map(drop).map_err(|e| code(&e))
        }
        "shorten, bypass" => {
            let put = s3.put_object_retention().bucket(bucket).key(key).version_id(version);
            let put = put.bypass_governance_retention(true).retention(retention(5, compliance));
            put.send().await.map(drop).map_err(|e| code(&e))
        }
        "to governance" => {
            let put = s3.put_object_retention().bucket(bucket).key(key).version_id(version);
            let put = put.retention(retention(3600, ObjectLockRetentionMode::Governance));
            put.send().await.map(drop).map_err(|e| code(&e))
        }
        other => panic!("{other}"),
    }
}

#[test]
fn nobody_shortens_or_deletes_before_the_end() {
    // A minute has to pass at each; at all of them together.
    let servers = servers();
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| locked_until_the_end(server));
        }
    });
}

fn locked_until_the_end(server: &Server) {
    let runtime = runtime();
    let s3 = client(&server.endpoint());
    runtime.block_on(make_bucket(&s3, "locked", true));
    let begun = Instant::now();
    let site = short_trail(server, "locked");
    let store = store(&site.store);
    let mut all = Vec::new();
    waxseal_store::list_all_versions(&*store, "", &mut |v| all.push(v)).unwrap();
    let kinds = ["trail.json", "/genesis.json", "/keys/", "certs/", "batches/", "events/"];
    let mut rows = 0;
    for kind in kinds {
        let v =
            all.iter().rev().find(|v| v.key.contains(kind)).unwrap_or_else(|| panic!("{kind}: not written"));
        let (key, version) = (format!("short/{}", v.key), v.id.clone().unwrap());
        let before = runtime.block_on(read(&s3, "locked", &key, &version));
        for what in
            ["delete version", "delete version, bypass", "shorten", "shorten, bypass", "to governance"]
        {
            let answer = runtime.block_on(attempt(&s3, "locked", &key, &version, what));
            let code = answer.expect_err(&format!("{}: {kind}: {what} was allowed", server.name));
            println!("{:<18} {kind:<13} {what:<23} refused: {code}", server.name);
            rows += 1;
        }
        // Over it there may be a version; the locked one stays what it was.
        let put = s3.put_object().bucket("locked").key(&key).body(ByteStream::from_static(b"other"));
        let put = runtime.block_on(
            put.object_lock_mode(ObjectLockMode::Compliance)
                .object_lock_retain_until_date(DateTime::from(SystemTime::now() + Duration::from_secs(5)))
                .send(),
        );
        let over = put.expect("a version beside it").version_id.unwrap();
        assert_ne!(over, version);
        let deleted =
            runtime.block_on(s3.delete_object().bucket("locked").key(&key).send()).expect("a marker");
        assert_eq!(deleted.delete_marker, Some(true));
        assert_eq!(runtime.block_on(read(&s3, "locked", &key, &version)), before);
        println!("{:<18} {kind:<13} put over, delete        add versions; the locked one stays", server.name);
    }
    // Before the locks end, all this is visible and harms nothing.
    let until = begun.elapsed();
    assert!(
        until < LOCKED,
        "{}: too slow to have tried all that before the locks ended: {until:?}",
        server.name
    );
    let (exit, report) = site.verify(&[]);
    let found = findings(&report);
    let harmless = |v: &String| matches!(v.as_str(), "FOREIGN" | "SHORT_RETENTION" | "SILENT");
    assert!(found.iter().all(harmless) && exit < 2, "{}: {report:#}", server.name);
    let left = LOCKED.saturating_sub(begun.elapsed()) + Duration::from_secs(3);
    std::thread::sleep(left);
    for kind in kinds {
        let v = all.iter().rev().find(|v| v.key.contains(kind)).unwrap();
        let (key, version) = (format!("short/{}", v.key), v.id.clone().unwrap());
        let answer = runtime.block_on(attempt(&s3, "locked", &key, &version, "delete version"));
        assert_eq!(answer, Ok(()), "{}: {kind}: after the end", server.name);
        println!("{:<18} {kind:<13} delete version          allowed after the end", server.name);
    }
    println!("{}: {rows} refusals", server.name);
}

async fn read(s3: &Client, bucket: &str, key: &str, version: &str) -> Vec<u8> {
    let got = s3.get_object().bucket(bucket).key(key).version_id(version).send().await.expect("it is there");
    got.body.collect().await.expect("it reads").to_vec()
}

#[test]
fn connections_that_are_cut_and_kills_through_a_proxy() {
    let Some(server) = ceph() else {
        println!("NOT TRIED: Ceph RGW cannot be had here");
        return;
    };
    let rounds: u64 = std::env::var("WAXSEAL_PROXY_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(5);
    runtime().block_on(make_bucket(&client(&server.endpoint()), "cut", true));
    let proxy = Proxy::start(([127, 0, 0, 1], server.port).into());
    let url = server.url_at(&format!("http://{}", proxy.address), "cut", "t");
    let more = "batch: {max_events: 4000, max_age: 200ms}\nheartbeat: 1h\n";
    let site = Site::at(&url, "compliance", credentials(), more);
    let random = AtomicU64::new(0x1234_5678_9abc_def1);
    let prepare = |round: u64| {
        proxy.within.store([400_000, 4_000_000, 50_000][(round % 3) as usize], Ordering::Relaxed)
    };
    let events =
        kill_rounds(&site, rounds, &random, 1200, &prepare, &|| proxy.within.store(0, Ordering::Relaxed));
    let (exit, report) = site.verify(&[]);
    assert_eq!((exit, findings(&report)), (0, vec![]), "{report:#}");
    println!(
        "{}: {rounds} rounds, {} connections cut, {events} events acknowledged, each in the trail once",
        server.name,
        proxy.cut.load(Ordering::Relaxed)
    );
}

#[test]
fn a_legal_hold_outlives_the_lock() {
    let runtime = runtime();
    for server in servers() {
        let s3 = client(&server.endpoint());
        runtime.block_on(make_bucket(&s3, "held", true));
        let put = s3.put_object().bucket("held").key("k").body(ByteStream::from_static(b"x"));
        let version = runtime.block_on(put.send()).unwrap().version_id.unwrap();
        let hold = |on| {
            let status = if on { ObjectLockLegalHoldStatus::On } else { ObjectLockLegalHoldStatus::Off };
            let hold = ObjectLockLegalHold::builder().status(status).build();
            runtime
                .block_on(
                    s3.put_object_legal_hold()
                        .bucket("held")
                        .key("k")
                        .version_id(&version)
                        .legal_hold(hold)
                        .send(),
                )
                .unwrap();
        };
        hold(true);
        assert!(runtime.block_on(attempt(&s3, "held", "k", &version, "delete version")).is_err());
        hold(false);
        assert!(runtime.block_on(attempt(&s3, "held", "k", &version, "delete version")).is_ok());
    }
}

/// A lock that is too short is lengthened, and no call makes it shorter; an object under a key of its writer's own is told from a
/// server that cannot be reached.
#[test]
fn a_lock_grows_and_one_unreadable_object_is_no_outage() {
    use waxseal_store::{At, Kind, Put, Retain};
    use waxseal_trail::hash::sha256;
    use waxseal_trail::statement::Lock;
    let runtime = runtime();
    for server in servers() {
        let s3 = client(&server.endpoint());
        runtime.block_on(make_bucket(&s3, "grows", true));
        let store = store(&server.url("grows", "x"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
        let until =
            |seconds| Retain { lock: Lock::Compliance, until: Time::from_unix(now + seconds, 0).unwrap() };
        let body = bytes::Bytes::from_static(b"kept");
        let put = store.put_if_absent("certs/a", &body, &sha256(&body), &until(60)).unwrap();
        let Put::Created(written) = put else { panic!("{}: {put:?}", server.name) };
        let at = At { version: written.version, ..At::key("certs/a") };
        store.extend(&at, &until(120)).unwrap();
        assert_eq!(store.head(&at).unwrap().unwrap().retain, Some(until(120)), "{}", server.name);
        let shorter = store.extend(&at, &until(90)).unwrap_err();
        assert_eq!(store.head(&at).unwrap().unwrap().retain, Some(until(120)), "{}: {shorter}", server.name);
        // SSE-C, where the server does that without TLS.
        // And the MD5 of the key.
        let key = [7u8; 32];
        let sealed = runtime.block_on(
            s3.put_object()
                .bucket("grows")
                .key("x/certs/sealed")
                .sse_customer_algorithm("AES256")
                .sse_customer_key(data_encoding::BASE64.encode(&key))
                .sse_customer_key_md5("y4HAEFCYWuvAXWFTtA1Qpg==")
                .body(ByteStream::from_static(b"for nobody else"))
                .send(),
        );
        match sealed {
            Ok(_) => match store.read(&At::key("certs/sealed"), 1000) {
                Err(e) => assert_eq!(e.kind, Kind::Unreadable, "{}: {e}", server.name),
                Ok(o) => println!("{}: SSE-C is ignored: {:?}", server.name, o.map(|o| o.body)),
            },
            Err(e) => println!("{}: no SSE-C here: {}", server.name, waxseal_store::s3::causes(&e)),
        }
        assert!(store.get("certs/a").unwrap().is_some());
    }
}
