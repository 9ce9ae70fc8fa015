//! What comes in over HTTP, good and bad: each ends as a sealed record or a clear refusal, and the trail verifies.

use std::io::Write as _;
use std::time::{Duration, Instant};
use waxseal_e2e::process::{Site, each_record, local_store, peak_resident, post, waxseal};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(data).unwrap();
    e.finish().unwrap()
}

#[test]
fn shapes_and_encodings() {
    let site = Site::new("");
    let sink = site.start();
    let url = site.url();
    let lines = b"{\"a\":1}\n\n{\"a\":2}\r\nbroken\n";
    let ok = |headers: &[(&str, &str)], body: &[u8], accepted: u64, unparsed: u64| {
        let (status, answer) = post(&url, headers, body).unwrap();
        assert_eq!(
            (status, &answer["accepted"], &answer["unparsed"]),
            (200, &accepted.into(), &unparsed.into()),
            "{answer}"
        );
    };
    ok(&[], lines, 3, 1);
    ok(&[("content-type", "application/x-ndjson")], lines, 3, 1);
    ok(&[("content-type", "application/json")], b"[{\"a\":1},2,{\"b\":tru}]", 3, 2);
    ok(&[], b" [ ] ", 0, 0);
    ok(&[], b"", 0, 0);
    // As lines even if the first byte looks like an array.
    ok(&[("content-type", "application/x-ndjson")], b"[1]\n{\"a\":1}\n", 2, 1);
    ok(&[("content-encoding", "gzip")], &gzip(lines), 3, 1);
    ok(&[("content-encoding", "zstd")], &zstd::stream::encode_all(&lines[..], 1).unwrap(), 3, 1);
    let refused = |headers: &[(&str, &str)], body: &[u8], status: u16| {
        let (got, answer) = post(&url, headers, body).unwrap();
        assert_eq!(got, status, "{answer}");
        assert!(answer["error"].is_string() && answer["detail"].is_string(), "{answer}");
    };
    refused(&[], b"[{\"a\":1},", 400);
    refused(&[], b"[\"", 400);
    refused(&[("content-encoding", "gzip")], b"no gzip", 400);
    refused(&[("content-encoding", "br")], b"x", 415);
    refused(&[("content-type", "image/png")], b"x", 415);
    // A bomb: 300 MB of spaces in a few hundred kilobytes.
    refused(&[("content-encoding", "gzip")], &gzip(&vec![b' '; 300 << 20]), 413);
    // A line of 64 MiB.
    refused(&[], &vec![b'x'; 64 << 20], 413);
    let (status, answer) = post(&url.replace("/v1/events", "/v1/other"), &[], b"{}").unwrap();
    assert_eq!((status, answer["error"].as_str()), (404, Some("not_found")));
    let peak = peak_resident(sink.child.id()).unwrap() / 1024;
    println!("peak RSS {peak} MiB");
    assert!(peak < 192, "{peak} MiB");
    sink.stop();
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
}

#[test]
fn awkward_input_is_sealed_whole() {
    let site = Site::new("");
    let sink = site.start();
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let inputs: Vec<(Vec<u8>, &str)> = vec![
        (b"\xff\xfe\x00broken".to_vec(), "unparsed"),
        (b"{\"nul\":\"\\u0000\"}".to_vec(), "log"),
        (b"{\"raw nul\":\"\0\"}".to_vec(), "unparsed"),
        (br#"{"lone":"\ud800"}"#.to_vec(), "unparsed"),
        (br#"{"n":[1e400,-0.0,18446744073709551615]}"#.to_vec(), "log"),
        (format!("{{\"deep\":{deep}}}").into_bytes(), "unparsed"),
        (b" ".to_vec(), "unparsed"),
        (b"{}".to_vec(), "log"),
        (br#"{"a":1,"a":2}"#.to_vec(), "log"),
        (br#"{"$number":"1","writer":"me","metadata":{"$map":[]}}"#.to_vec(), "log"),
        (br#"{"timestamp":"1969-12-31T23:59:59Z"}"#.to_vec(), "log"),
        (br#"{"timestamp":"10000-01-01T00:00:00Z"}"#.to_vec(), "log"),
        (format!("{{\"big\":\"{}\"}}", "x".repeat(2 << 20)).into_bytes(), "unparsed"),
        (br#"{"category":"trail","event_type":"unparsed"}"#.to_vec(), "log"),
    ];
    for (input, _) in &inputs {
        let (status, answer) = post(&site.url(), &[("content-type", "application/x-ndjson")], input).unwrap();
        assert_eq!((status, &answer["accepted"]), (200, &1.into()), "{answer}");
    }
    sink.stop();
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    let trail = site.path("trail").display().to_string();
    for (i, (input, kind)) in inputs.iter().enumerate() {
        // Sequence 0 says that the writer has started.
        let out = waxseal(&["show", &trail, &format!("node-1:{}", i + 1)]);
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && text.contains(&format!("\"event_type\": \"{kind}\"")),
            "{}: {text}",
            String::from_utf8_lossy(&input[..input.len().min(60)])
        );
        assert!(text.contains("the record is under the root"), "{text}");
    }
}

#[test]
fn who_may_post() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).display().to_string();
    waxseal_e2e::certificates::write(dir.path());
    let curl = |args: &[&str]| {
        let out = std::process::Command::new("curl")
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20"])
            .args(args)
            .output();
        out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).ok()
    };
    if curl(&["--version"]).is_none() {
        println!("no curl here: TLS was not tried");
        return;
    }
    let mut site = Site::new("");
    let yaml = std::fs::read_to_string(site.path("sink.yaml")).unwrap();
    let http = format!("http: {{listen: \"127.0.0.1:{}\"", site.port);
    let with = |site: &mut Site, more: &str| {
        std::fs::write(site.path("sink.yaml"), yaml.replace(&http, &format!("{http}, {more}"))).unwrap();
    };
    // A token.
    with(&mut site, "token: 0123456789abcdef");
    let sink = site.start();
    assert_eq!(post(&site.url(), &[], b"{}").unwrap().0, 401);
    assert_eq!(post(&site.url(), &[("authorization", "Bearer 0123456789abcdeX")], b"{}").unwrap().0, 401);
    assert_eq!(post(&site.url(), &[("authorization", "bearer 0123456789abcdef")], b"{}").unwrap().0, 200);
    sink.stop();
    // TLS.
    let tls = format!("tls: {{certificate: {}, key: {}", path("server.crt"), path("server.key"));
    with(&mut site, &format!("{tls}}}"));
    let sink = site.start();
    let url = format!("https://localhost:{}/v1/events", site.port);
    assert_eq!(curl(&["--cacert", &path("ca.crt"), "-d", "{}", &url]).unwrap(), "200");
    sink.stop();
    // Client certificates.
    with(&mut site, &format!("{tls}, client_ca: {}}}", path("ca.crt")));
    let sink = site.start();
    assert_eq!(curl(&["--cacert", &path("ca.crt"), "-d", "{}", &url]).unwrap(), "000");
    let (ca, crt, key) = (path("ca.crt"), path("client.crt"), path("client.key"));
    let known = ["--cacert", &ca, "--cert", &crt, "--key", &key, "-d", "{}", &url];
    assert_eq!(curl(&known).unwrap(), "200");
    // All of it is renewed, by another authority, while the sink runs.
    waxseal_e2e::certificates::write(dir.path());
    let deadline = Instant::now() + Duration::from_secs(60);
    while curl(&known).unwrap() != "200" {
        assert!(Instant::now() < deadline, "the new certificates are not in use");
        std::thread::sleep(Duration::from_secs(1));
    }
    // Half of a renewal: what was in use stays.
    std::fs::write(path("server.crt"), "not yet").unwrap();
    std::thread::sleep(Duration::from_secs(11));
    assert_eq!(curl(&known).unwrap(), "200");
    let log = sink.stop();
    assert!(log.contains("tls.certificate: no certificate in PEM; the old ones are"), "{log}");
    assert_eq!(site.verify(&[]).0, 0);
}

#[test]
fn two_sinks_do_not_share_a_state_directory() {
    let site = Site::new("");
    let sink = site.start();
    let out = site.run_sink(&[]);
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("in use by another sink"));
    sink.stop();
}

#[test]
fn heartbeats_stops_and_retirement() {
    let site = Site::new("heartbeat: 1s\n");
    let sink = site.start();
    let headers = || {
        std::fs::read_dir(site.path("trail/batches"))
            .ok()
            .and_then(|mut d| d.next())
            .map_or(0, |w| std::fs::read_dir(w.unwrap().path()).unwrap().count())
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while headers() < 3 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(headers() >= 3, "no heartbeats");
    sink.stop();
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    assert!(report["findings"].as_array().unwrap().iter().any(|f| f["verdict"] == "STOPPED"));
    // Retired: nothing is expected of it any more, and the next start is another epoch that names it.
    let out = site.run_sink(&["--retire"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let (exit, report) = site.verify(&["--as-of", "2200-01-01T00:00:00Z"]);
    assert_eq!(exit, 0, "{report:#}");
    site.start().stop();
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    assert_eq!(std::fs::read_dir(site.path("trail/writers")).unwrap().count(), 2);
}

/// A key file that is replaced under a running sink: the old key says which one follows, and no epoch ends.
#[test]
fn keys_are_rotated_while_the_sink_runs() {
    let site = Site::new("batch: {max_age: 100ms}\n");
    let sink = site.start();
    assert_eq!(post(&site.url(), &[], b"{\"n\":1}").unwrap().0, 200);
    let new = site.path("new").display().to_string();
    assert!(waxseal(&["keys", "generate", "--algorithm", "rsa", "--out", &new]).status.success());
    std::fs::rename(site.path("new/signing.key"), site.path("writer/signing.key")).unwrap();
    let writer = std::fs::read_dir(site.path("trail/writers")).unwrap().next().unwrap().unwrap().path();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !writer.join("keys/000001.json").exists() && Instant::now() < deadline {
        assert_eq!(post(&site.url(), &[], b"{\"n\":2}").unwrap().0, 200);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(writer.join("keys/000001.json").exists(), "no key statement");
    sink.stop();
    let sink = site.start();
    assert_eq!(post(&site.url(), &[], b"{\"n\":3}").unwrap().0, 200);
    sink.stop();
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    assert_eq!(std::fs::read_dir(site.path("trail/writers")).unwrap().count(), 1);
}

/// A retirement that the store does not hold is none yet, and says so; the next one brings it there.
#[test]
fn retiring_while_the_store_is_away() {
    let site = Site::new("");
    let sink = site.start();
    assert_eq!(post(&site.url(), &[], b"{\"n\":1}").unwrap().0, 200);
    sink.stop();
    site.store_away();
    let out = site.run_sink(&["--retire", "--grace", "1s"]);
    let log = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && log.contains("not in the store"), "{log}");
    assert!(std::fs::read_dir(site.path("trail")).unwrap().next().is_none(), "written to an unmounted store");
    site.store_back();
    let out = site.run_sink(&["--retire"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let (exit, report) = site.verify(&["--as-of", "2200-01-01T00:00:00Z"]);
    assert_eq!(exit, 0, "{report:#}");
}

/// A store that is away fills the spool, and drains by itself.
#[test]
fn acknowledged_when_stored() {
    let site = Site::new("acknowledge: stored\nbatch: {max_age: 1h}\nheartbeat: 1h\n");
    let sink = site.start();
    let (status, answer) = post(&site.url(), &[], b"{\"a\":1}").unwrap();
    assert_eq!((status, &answer["accepted"]), (200, &1.into()));
    // It is in the store although no batch was full or old.
    assert!(site.path("trail/events").exists());
    sink.kill();
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    assert_eq!(report["stats"]["records"], 2);
}

/// A state directory that is lost, restored, or copied: a new epoch, nothing lost, and the verdict names it.
#[test]
fn another_sink_under_this_identity() {
    let site = Site::new("batch: {max_age: 100ms}\n");
    let sink = site.start();
    assert_eq!(post(&site.url(), &[], b"{\"n\":1}").unwrap().0, 200);
    sink.stop();
    let copy = site.path("copy");
    waxseal_e2e::kit::copy_dir(&site.path("state"), &copy).unwrap();
    let sink = site.start();
    assert_eq!(post(&site.url(), &[], b"{\"n\":2}").unwrap().0, 200);
    sink.stop();
    // The snapshot comes back.
    std::fs::remove_dir_all(site.path("state")).unwrap();
    std::fs::rename(&copy, site.path("state")).unwrap();
    let sink = site.start();
    assert_eq!(post(&site.url(), &[], b"{\"n\":3}").unwrap().0, 200);
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::fs::read_dir(site.path("trail/writers")).unwrap().count() < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(post(&site.url(), &[], b"{\"n\":4}").unwrap().0, 200);
    let log = sink.stop();
    assert!(log.contains("is not ours"), "{log}");
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 1, "{report:#}");
    assert_eq!(report["verdict"], "ABANDONED", "{report:#}");
    // The events object of the batch whose header's place was taken is named by nothing.
    let foreign: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["verdict"] == "FOREIGN")
        .filter_map(|f| f["object"].as_str())
        .collect();
    let mut seen = Vec::new();
    each_record(&local_store(&site.path("trail")), &foreign, &mut |v| {
        seen.extend(v["metadata"]["n"].as_u64())
    });
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 4]);
}

/// A request larger than one part is one request all the same: counted, in order, recognised as a whole.
#[test]
fn a_large_request() {
    let site = Site::new("");
    let sink = site.start();
    let lines: String = (0..50_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let send = |body: &str| post(&site.url(), &[("idempotency-key", "large")], body.as_bytes()).unwrap();
    let (status, answer) = send(&lines);
    assert_eq!(
        (status, &answer["accepted"], &answer["redelivered"]),
        (200, &50_000.into(), &serde_json::Value::Null)
    );
    let (status, answer) = send(&lines);
    assert_eq!((status, &answer["accepted"], &answer["redelivered"]), (200, &50_000.into(), &true.into()));
    let (status, answer) = send(&"{}\n".repeat(1_000_001));
    assert_eq!(status, 413, "{answer}");
    let array = format!("[{}0]", "0,".repeat(1_000_000));
    let (status, answer) = send(&array);
    assert_eq!(status, 413, "{answer}");
    sink.stop();
    assert_eq!(site.verify(&[]).0, 0);
    let mut seen = Vec::new();
    each_record(&local_store(&site.path("trail")), &[], &mut |v| seen.extend(v["metadata"]["n"].as_u64()));
    assert!(seen.iter().copied().eq(0..50_000), "{} of 50,000", seen.len());
}

/// What is listed and cannot be had, and an epoch of which nothing is left.
#[test]
fn what_a_store_hides() {
    let site = Site::new("batch: {max_age: 1h}\n");
    for n in 0..3 {
        let sink = site.start();
        assert_eq!(post(&site.url(), &[], format!("{{\"n\":{n}}}").as_bytes()).unwrap().0, 200);
        sink.stop();
    }
    assert_eq!(site.verify(&[]).0, 0);
    let has = |report: &serde_json::Value, verdict: &str, object: &str| {
        report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["verdict"] == verdict && f["object"].as_str().is_some_and(|o| o.contains(object)))
    };
    let only = |dir: &str| std::fs::read_dir(site.path(dir)).unwrap().next().unwrap().unwrap().path();
    let header = only("trail/batches").join("000000000001.json");
    let kept = site.path("kept");
    std::fs::rename(&header, &kept).unwrap();
    std::os::unix::fs::symlink("nowhere", &header).unwrap();
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 1, "{report:#}");
    assert!(has(&report, "GAP", "000000000001.json"), "{report:#}");
    std::fs::remove_file(&header).unwrap();
    std::fs::rename(&kept, &header).unwrap();
    // The state is lost: the next epoch names this one. Then all of this one goes.
    let first = only("trail/writers").file_name().unwrap().to_str().unwrap().to_owned();
    std::fs::remove_dir_all(site.path("state")).unwrap();
    site.start().stop();
    std::fs::remove_dir_all(site.path("trail/writers").join(&first)).unwrap();
    std::fs::remove_dir_all(site.path("trail/batches").join(&first)).unwrap();
    for flags in [&[][..], &["--writer", "node-1"]] {
        let (exit, report) = site.verify(flags);
        assert_eq!(exit, 1, "{report:#}");
        assert!(has(&report, "GAP", &first), "{report:#}");
    }
}

/// A retry is recognised across a clean restart, although everything was stored long ago.
#[test]
fn a_retry_is_recognised_after_a_restart() {
    let site = Site::new("");
    let sink = site.start();
    let send = || post(&site.url(), &[("idempotency-key", "one")], b"{\"n\":1}").unwrap().1;
    assert!(send()["redelivered"].is_null());
    sink.stop();
    let sink = site.start();
    assert_eq!(send()["redelivered"], true);
    sink.stop();
    let sink = site.start();
    assert_eq!(send()["redelivered"], true);
    sink.stop();
    assert_eq!(site.verify(&[]).0, 0);
}
