//! Privacy as a module, in the sink and in a shipper: what must not be kept reaches neither spool nor store, log or metrics, and
//! where the filter fails the event stands withheld. The module is what `scripts/wasm.sh` puts into the user's cache; where it
//! could not be built, the output says so.

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use waxseal_e2e::process::{Site, each_record, free_port, headers, local_store, piped, post};
use waxseal_filter_host::wasm::{Runtime, Wasm};
use waxseal_filter_host::{Process, Settings};
use waxseal_filter_testkit::{
    BEYOND, Compiled, Native, Shipper, alike, converted, fluent_bit, members, module_of, run_fluent_bit,
};
use waxseal_privacy::Privacy;
use waxseal_trail::record::Events;

fn module(name: &str) -> Option<PathBuf> {
    let found = waxseal_filter_testkit::module(name);
    if found.is_none() {
        println!("no {name}.wasm in the cache (scripts/wasm.sh): not tried");
    }
    found
}

/// What is planted, and what of it must be nowhere.
const SECRETS: [(&str, &str); 8] = [
    (r#"{"message":"paid with 4111 1111 1111 1111"}"#, "4111 1111 1111"),
    (
        r#"{"event_type":"data_write","user_id":"ann","resource_type":"user","old_values":{"mail":"zqx1"},"new_values":{"mail":"zqx2"}}"#,
        "zqx",
    ),
    (r#"{"log":"{\"userPassword\":\"hunter2hunter\",\"a\":1}"}"#, "hunter2hunter"),
    (r#"{"m":"Authorization: Bearer mF_9.B5f-4.1JqM"}"#, "mF_9.B5f-4.1JqM"),
    (
        r#"{"kind":"Event","requestObject":{"kind":"Secret","data":{"tls.key":"c2VjcmV0bm8x"}}}"#,
        "c2VjcmV0bm8x",
    ),
    (r#"{"alice.b@example.com":{"n":378282246310005}}"#, "alice.b@"),
    (r#"{"n":378282246310005}"#, "37828224631"),
    (r#"not json, ssn 078-05-1120"#, "078-05-1120"),
];

fn holds(dir: &Path, what: &str) -> Option<PathBuf> {
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if let Ok(bytes) = std::fs::read(&path)
                && bytes.windows(what.len()).any(|w| w == what.as_bytes())
            {
                return Some(path);
            }
        }
    }
    None
}

fn with_filters(site: &Site, more: &str) {
    let yaml = std::fs::read_to_string(site.path("sink.yaml")).unwrap();
    std::fs::write(site.path("sink.yaml"), format!("{yaml}{more}")).unwrap();
}

fn get(port: u16) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Nothing of what was sent is anywhere: not in the spool before the batch is sealed, nor in the records, the log, the metrics.
fn nowhere(site: &Site, telemetry: u16, sink: waxseal_e2e::process::Sink) -> Vec<Value> {
    let metrics = get(telemetry);
    assert!(metrics.contains("waxseal_events_received_total"), "{metrics}");
    for (_, secret) in SECRETS {
        assert_eq!(holds(site.dir.path(), secret), None, "{secret}");
        assert!(!metrics.contains(secret));
    }
    let log = sink.stop();
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    let mut records = Vec::new();
    each_record(&local_store(&site.path("trail")), &[], &mut |r| {
        if r["category"] != "trail" {
            records.push(r.clone());
        }
    });
    let text = Value::from(records.clone()).to_string();
    for (_, secret) in SECRETS {
        assert!(!text.contains(secret) && !log.contains(secret), "{secret}: {text}\n{log}");
        assert_eq!(holds(site.dir.path(), secret), None, "{secret}");
    }
    assert_eq!(records.len(), SECRETS.len());
    records
}

#[test]
fn nothing_reaches_spool_store_log_or_metrics() {
    let (Some(enrich), Some(privacy)) = (module("enrich"), module("privacy")) else { return };
    let telemetry = free_port();
    let site = Site::new(&format!("batch: {{max_age: 1h}}\ntelemetry: {{listen: 127.0.0.1:{telemetry}}}\n"));
    std::fs::write(site.path("enrich.yaml"), "").unwrap();
    std::fs::write(site.path("keys.txt"), "2026-11 000102030405060708090a0b0c0d0e0f\n").unwrap();
    std::fs::write(site.path("privacy.yaml"), "keys: keys.txt\nanonymize: [{types: [data_access]}]\n")
        .unwrap();
    with_filters(
        &site,
        &format!(
            "filters:\n  - {{module: {}, config: {}}}\n  - {{module: {}, config: {}}}\n",
            enrich.display(),
            site.path("enrich.yaml").display(),
            privacy.display(),
            site.path("privacy.yaml").display()
        ),
    );
    let sink = site.start();
    for (record, _) in SECRETS {
        let (status, answer) = post(&site.url(), &[], record.as_bytes()).unwrap();
        assert_eq!(status, 200, "{answer}");
    }
    let records = nowhere(&site, telemetry, sink);
    for r in &records {
        assert!(r["metadata"]["privacy"].is_object(), "{r}");
    }
    // What was changed is known, not from what to what; and who, by a pseudonym.
    let write = records.iter().find(|r| r["event_type"] == "data_write").unwrap();
    assert_eq!(write["metadata"]["old_values"], json!({"mail": "[redacted:values]"}));
    let who = write["actor"].as_str().unwrap();
    assert!(who.starts_with("user:2026-11:"), "{write}");
    assert_eq!(write["metadata"]["user_id"], who);
    let header = &headers(&local_store(&site.path("trail")))[0];
    let names: Vec<&str> = header.filters.iter().map(|f| &*f.name).collect();
    assert_eq!(names, ["enrich", "privacy"]);
    assert_eq!(header.filters[1].data[0].name, "keys.txt (key 2026-11)");
}

#[test]
fn where_the_filter_fails_the_event_stands_withheld() {
    let bodies = [
        ("trap", "unreachable"),
        ("beyond", BEYOND),
        ("loop", "(loop $l (br $l)) i64.const 0"),
        (
            "memory",
            "(if (i32.eq (memory.grow (i32.const 4000)) (i32.const -1)) (then unreachable)) i64.const 0",
        ),
    ];
    for (name, body) in bodies {
        let telemetry = free_port();
        let site =
            Site::new(&format!("batch: {{max_age: 1h}}\ntelemetry: {{listen: 127.0.0.1:{telemetry}}}\n"));
        let settings = module_of(site.dir.path(), name, body);
        with_filters(
            &site,
            &format!(
                "filters:\n  - {{module: {}, config: {}, on_error: withhold, timeout: 50ms, memory: 64MiB}}\n",
                settings.module.display(),
                settings.config.display()
            ),
        );
        let sink = site.start();
        for (record, _) in SECRETS {
            assert_eq!(post(&site.url(), &[], record.as_bytes()).unwrap().0, 200);
        }
        for r in nowhere(&site, telemetry, sink) {
            assert!(matches!(r["event_type"].as_str(), Some("withheld" | "unparsed")), "{name}: {r}");
            assert!(r["metadata"]["$withheld"]["sha256"].is_string(), "{name}: {r}");
        }
    }
}

#[test]
fn a_broken_policy_or_a_missing_key_keeps_the_sink_from_starting_and_changes_nothing_later() {
    let Some(privacy) = module("privacy") else { return };
    let site = Site::new("batch: {max_age: 1h}\n");
    with_filters(
        &site,
        &format!(
            "filters:\n  - {{module: {}, config: {}}}\n",
            privacy.display(),
            site.path("privacy.yaml").display()
        ),
    );
    for (policy, why) in [
        ("rules:\n  - {id: a, fields: [x], action: redcat}\n", "line 2"),
        ("keys: none.txt\n", "none.txt"),
        ("rules: [{id: a, find: [card], action: hash}]\n", "hash needs keys"),
        ("rules: [{id: a, pattern: '(', action: redact}]\n", "pattern"),
    ] {
        std::fs::write(site.path("privacy.yaml"), policy).unwrap();
        let out = site.run_sink(&[]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("privacy.yaml") && said.contains(why), "{said}");
    }
    // Later a broken one leaves the old in force.
    std::fs::write(site.path("privacy.yaml"), "keys: keys.txt\n").unwrap();
    std::fs::write(site.path("keys.txt"), "k 000102030405060708090a0b0c0d0e0f\n").unwrap();
    let sink = site.start();
    let send = || assert_eq!(post(&site.url(), &[], SECRETS[0].0.as_bytes()).unwrap().0, 200);
    send();
    std::fs::write(site.path("privacy.yaml"), "defaults: maybe\n").unwrap();
    std::fs::remove_file(site.path("keys.txt")).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    send();
    let log = sink.stop();
    assert!(log.contains("stays in force"), "{log}");
    let mut n = 0;
    each_record(&local_store(&site.path("trail")), &[], &mut |r| {
        if r["category"] != "trail" {
            n += 1;
            assert!(!r.to_string().contains(SECRETS[0].1), "{r}");
        }
    });
    assert_eq!(n, 2);
}

/// The module as a shipper calls it, and natively, say the same as in the sink.
#[test]
fn one_module_says_the_same_in_both_hosts() {
    let Some(module) = module("privacy") else { return };
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("privacy.yaml");
    std::fs::write(&policy, "").unwrap();
    let compiled = Compiled::of(&module).unwrap();
    let mut shipper = Shipper::start(&compiled, dir.path()).unwrap();
    let filter =
        Wasm::load(Arc::new(Runtime::new(Process::Own).unwrap()), Settings::new(module, policy.clone()))
            .unwrap();
    let mut native = Native::<Privacy>::load(&policy).unwrap();
    for (record, secret) in SECRETS.iter().filter(|s| s.0.starts_with('{')) {
        let mut events = converted([*record]);
        let mut wanted = Events::default();
        native.in_sink(&events, "t", waxseal_trail::time::Time::MIN, &mut wanted);
        assert_eq!(filter.apply(&mut events, b"{\"tag\":\"t\"}").0, 0);
        assert_eq!(members(&events), members(&wanted));
        let shipped = shipper.record("t", (1_714_564_800, 5), record.as_bytes()).unwrap();
        let shipped = String::from_utf8(shipped).unwrap();
        assert!(!shipped.contains(secret), "{shipped}");
        assert_eq!(
            alike(members(&converted([shipped.as_str()])).remove(0)),
            alike(members(&events).remove(0))
        );
    }
    // What is no event, or cannot be looked through, goes on without a byte of it.
    for bad in
        ["[1]".to_owned(), format!("{{\"a\":{}\"4111111111111111\"{}}}", "[".repeat(200), "]".repeat(200))]
    {
        let shipped = shipper.record("t", (0, 0), bad.as_bytes()).unwrap();
        let shipped: Value = serde_json::from_slice(&shipped).unwrap();
        assert_eq!(shipped["$withheld"]["filter"], "privacy");
        assert!(!shipped.to_string().contains("4111"));
    }
}

/// In Fluent Bit's own runtime no output sees what is masked.
#[test]
fn fluent_bit_sees_nothing_of_it() {
    let Some(module) = module("privacy") else { return };
    let Some(binary) = fluent_bit() else {
        println!("no Fluent Bit here (FLUENT_BIT or PATH): not tried");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::create_dir(d.join("conf")).unwrap();
    std::fs::write(d.join("conf/privacy.yaml"), "").unwrap();
    let lines: String =
        SECRETS.iter().filter(|s| s.0.starts_with('{')).map(|s| format!("{}\n", s.0)).collect();
    std::fs::write(d.join("in.log"), &lines).unwrap();
    let yaml = format!(
        "service: {{flush: 0.2, grace: 2, log_level: info}}\nparsers:\n  - {{name: json, format: json}}\npipeline:\n  inputs:\n    \
         - {{name: tail, path: {0}/in.log, read_from_head: true, exit_on_eof: true, parser: json, tag: t}}\n  filters:\n    \
         - {{name: wasm, match: '*', event_format: json, wasm_path: {1}, function_name: waxseal_filter, accessible_paths: {0}/conf, wasm_heap_size: 1M, wasm_stack_size: 256K}}\n  outputs:\n    \
         - {{name: file, match: '*', path: {0}, file: out.log, format: plain}}\n",
        d.display(),
        module.display()
    );
    std::fs::write(d.join("fb.yaml"), yaml).unwrap();
    run_fluent_bit(&binary, &d.join("fb.yaml"), &d.join("fb.log"));
    let log = std::fs::read_to_string(d.join("fb.log")).unwrap();
    let out = std::fs::read_to_string(d.join("out.log")).unwrap_or_else(|e| panic!("{e}: {log}"));
    assert_eq!(out.lines().count(), lines.lines().count(), "{log}");
    for (_, secret) in SECRETS {
        assert!(!out.contains(secret) && !log.contains(secret), "{secret}: {out}");
    }
    assert!(out.lines().all(|l| l.contains("\"privacy\"")), "{out}");
}

fn filter(args: &[&str], input: &str) -> (i32, String, String) {
    piped(&[&["filter"], args].concat(), input.as_bytes())
}

#[test]
fn a_policy_is_tried_on_samples_and_on_a_trail() {
    let site = Site::new("");
    let policy = site.path("privacy.yaml").display().to_string();
    std::fs::write(&policy, "rules: [{id: ticket, pattern: 'TCK-\\d+', action: redact}]\n").unwrap();
    let sample = "{\"message\":\"card 4111 1111 1111 1111, see TCK-77\"}\n{\"a\":\"nothing\"}\n{\"n\":{\"apiKey\":\"abc\"}}\n";
    let (exit, out, err) = filter(&["test", "--policy", &policy], sample);
    assert_eq!(exit, 0, "{err}");
    for part in [
        "event 1",
        "4111 1111 1111 1111",
        "**** **** **** 1111",
        "cards (card)",
        "ticket (its pattern)",
        "event 3",
        "n.apiKey",
        "secrets (its name)",
        "of 3 events",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("event 2"), "{out}");
    let (exit, out, _) = filter(&["test", "--policy", &policy, "--summary", "--expect", "none"], sample);
    assert_eq!(exit, 1);
    assert!(out.starts_with("rule") && !out.contains("4111"), "{out}");
    let (exit, out, _) = filter(&["test", "--policy", &policy, "--expect", "none"], "{\"a\":\"nothing\"}\n");
    assert_eq!((exit, &*out), (0, "1 events, and no rule found anything\n"));
    // What was sealed before there was a policy.
    let sink = site.start();
    assert_eq!(post(&site.url(), &[], sample.as_bytes()).unwrap().0, 200);
    sink.stop();
    let (exit, out, err) = filter(&["scan", &site.store, "--policy", &policy, "--expect", "none"], "");
    assert_eq!(exit, 1, "{err}");
    for part in ["cards\n", "message (card)", "ticket\n", "secrets\n", "n.apiKey (its name)"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("4111") && !out.contains("abc"), "{out}");
    let (exit, _, err) = filter(&["test", "--policy", "/nonexistent/p.yaml"], "");
    assert!(exit != 0 && err.contains("/nonexistent/p.yaml"), "{err}");
}
