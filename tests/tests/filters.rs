//! Filters as modules: in the sink's host, good and bad, and in a real Fluent Bit where `FLUENT_BIT` or PATH has one. The
//! module of enrich is what `scripts/wasm.sh` puts into the user's cache; where it could not be built, the output says so.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use waxseal_e2e::process::{Site, each_record, headers, local_store, post};
use waxseal_filter_host::wasm::{Runtime, Wasm};
use waxseal_filter_host::{Filters, OnError, Process, Settings};
use waxseal_filter_testkit::{
    BEYOND, Compiled, Native, Shipper, alike, converted, databases, fluent_bit, marking, members, module_of,
    run_fluent_bit, samples,
};
use waxseal_store::Store as _;
use waxseal_trail::record::Events;

fn enrich() -> Option<PathBuf> {
    let found = waxseal_filter_testkit::module("enrich");
    if found.is_none() {
        println!("no enrich.wasm in the cache (scripts/wasm.sh): not tried");
    }
    found
}

#[test]
fn the_module_says_what_the_library_says_and_headers_name_it() {
    let Some(module) = enrich() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("enrich.yaml");
    std::fs::write(&config, "ids: false\ntime: {year: 2015}\n").unwrap();
    let filter =
        Wasm::load(Arc::new(Runtime::new(Process::Own).unwrap()), Settings::new(module, config.clone()))
            .unwrap();
    let records: Vec<String> = samples().into_iter().map(|s| s.record).collect();
    let mut events = converted(records.iter().map(String::as_str));
    assert_eq!(filter.apply(&mut events, b"{}").0, 0);
    let mut native = Native::<waxseal_enrich::Enrich>::load(&config).unwrap();
    let mut wanted = Events::default();
    let raw = converted(records.iter().map(String::as_str));
    native.in_sink(&raw, "", waxseal_trail::time::Time::MIN, &mut wanted);
    assert_eq!(members(&events), members(&wanted));
}

#[test]
fn a_sink_enriches_and_a_change_closes_the_batch() {
    let Some(module) = enrich() else { return };
    let site = Site::new("batch: {max_age: 1h}\n");
    let config = site.path("enrich.yaml");
    std::fs::write(&config, "time: {year: 2015}\nsystem: {environment: one}\n").unwrap();
    let yaml = std::fs::read_to_string(site.path("sink.yaml")).unwrap();
    let yaml =
        format!("{yaml}filters:\n  - {{module: {}, config: {}}}\n", module.display(), config.display());
    std::fs::write(site.path("sink.yaml"), yaml).unwrap();
    let sink = site.start();
    let line = json!({"message": "Dec 10 06:55:46 h sshd[1]: Failed password for root from 198.51.100.4 port 22 ssh2"});
    let send = || {
        let (status, answer) = post(&site.url(), &[], line.to_string().as_bytes()).unwrap();
        assert_eq!(status, 200, "{answer}");
    };
    send();
    // A broken file changes nothing, a good one is in force soon.
    std::fs::write(&config, "sytem: {}\n").unwrap();
    std::thread::sleep(Duration::from_secs(3));
    send();
    std::fs::write(&config, "system: {environment: two}\ntime: {year: 2016}\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let store = local_store(&site.path("trail"));
    // The batch closes with the first record that went through the new one.
    while store.list("batches/", None, 10).unwrap().keys.is_empty() {
        assert!(Instant::now() < deadline, "the new configuration is not in force");
        std::thread::sleep(Duration::from_millis(500));
        send();
    }
    let log = sink.stop();
    assert!(log.contains("sytem") && log.contains("stays in force"), "{log}");
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    let mut kinds = Vec::new();
    each_record(&store, &[], &mut |r| {
        if r["event_type"] == "login_attempt" {
            assert_eq!((&r["category"], &r["actor"]), (&json!("authentication"), &json!("root")));
            assert!(r["metadata"]["$enriched"].as_array().unwrap().contains(&json!("ip_address")));
        }
        kinds.push((
            r["event_type"].as_str().unwrap().to_owned(),
            r["metadata"]["system_context"]["environment"].as_str().unwrap_or_default().to_owned(),
        ));
    });
    let at = kinds.iter().position(|k| k.0 == "filter_changed").expect("a filter_changed");
    assert!(
        kinds[..at].iter().all(|k| k.1 != "two") && kinds[at..].iter().all(|k| k.1 != "one"),
        "{kinds:?}"
    );
    let headers = headers(&store);
    assert_eq!(headers[0].events.count, at as u64);
    assert_ne!(headers[0].filters[0].config, headers[1].filters[0].config);
    let wasm = waxseal_trail::hash::sha256(&std::fs::read(&module).unwrap());
    assert!(headers.iter().all(|h| h.filters[0].module == wasm));
}

fn bad(dir: &Path, name: &str, batch: &str) -> Settings {
    let mut s = module_of(dir, name, batch);
    s.timeout = Duration::from_millis(50);
    s.memory = 64 << 20;
    s
}

#[test]
fn what_a_filter_fails_on_is_passed_or_withheld_and_never_lost() {
    let dir = tempfile::tempdir().unwrap();
    let bodies = [
        ("trap", "unreachable", "trap"),
        ("beyond", BEYOND, "trap"),
        ("loop", "(loop $l (br $l)) i64.const 0", "time-out"),
        (
            "memory",
            "(if (i32.eq (memory.grow (i32.const 4000)) (i32.const -1)) (then unreachable)) i64.const 0",
            "trap",
        ),
        ("zero", "i64.const 0", "could not read"),
        ("outside", "i64.const -1", "outside its memory"),
        ("cut", "i64.const 4294967299", "cut off"),
    ];
    let secret = "4111-1111-1111-1111";
    let records = [
        format!(r#"{{"card":"{secret}","event_id":"{secret}"}}"#),
        "{\"a\":1}".into(),
        format!("broken {secret}"),
    ];
    for (name, body, reason) in bodies {
        for (on_error, process) in [OnError::Pass, OnError::Withhold]
            .into_iter()
            .flat_map(|o| [(o, Process::Own), (o, Process::Shipper)])
        {
            let mut settings = bad(dir.path(), name, body);
            settings.on_error = Some(on_error);
            let filters = Filters::load(&[settings], process).unwrap();
            let mut events = converted(records.iter().map(String::as_str));
            let passed = filters.apply(&mut events, b"{}");
            assert_eq!((passed.errors, events.len(), events.unparsed()), (3, 3, 1), "{name}");
            let all = members(&events);
            let text = Value::from(all.clone()).to_string();
            assert!(text.contains(reason), "{name}: {text}");
            match on_error {
                OnError::Pass => {
                    assert_eq!(all[0]["metadata"]["card"], secret);
                    assert!(all[1]["metadata"]["$filter_errors"][0].as_str().unwrap().starts_with("bad: "));
                }
                OnError::Withhold => {
                    assert!(!text.contains("4111"), "{name}: {text}");
                    assert_eq!(
                        (&all[0]["event_type"], &all[2]["event_type"]),
                        (&"withheld".into(), &"unparsed".into())
                    );
                    assert_eq!(all[0]["metadata"]["$withheld"]["sha256"].as_str().unwrap().len(), 64);
                }
            }
        }
    }
    let e = Filters::load(
        &[Settings::new(dir.path().join("none.wasm"), dir.path().join("trap.yaml"))],
        Process::Own,
    )
    .err()
    .unwrap();
    assert!(e.contains("none.wasm"), "{e}");
}

#[test]
fn native_code_is_used_only_where_it_is_the_one_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = bad(dir.path(), "quiet", "i64.const 1");
    let runtime = Arc::new(Runtime::new(Process::Own).unwrap());
    let native = runtime.precompile(&std::fs::read(&s.module).unwrap()).unwrap();
    let path = dir.path().join("quiet.native");
    std::fs::write(&path, &native).unwrap();
    s.precompiled = Some((path.clone(), waxseal_trail::hash::sha256(&native)));
    let f = Wasm::load(runtime.clone(), s.clone()).unwrap();
    assert_eq!(f.identity().data[0].name, "precompiled");
    // Code that needs signals is none for a process that has others.
    let shipper = Arc::new(Runtime::new(Process::Shipper).unwrap());
    assert!(Wasm::load(shipper, s.clone()).err().unwrap().contains("quiet.native"));
    s.precompiled = Some((path, waxseal_trail::hash::sha256(b"another")));
    assert!(Wasm::load(runtime.clone(), s.clone()).err().unwrap().contains("SHA-256"));
    s.precompiled = None;
    s.cache = Some(dir.path().join("cache"));
    Wasm::load(runtime.clone(), s.clone()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("cache")).unwrap().count(), 1);
    Wasm::load(runtime.clone(), s.clone()).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir.path().join("cache"), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(Wasm::load(runtime, s).err().unwrap().contains("cache"));
}

#[test]
fn places_and_networks_come_from_databases() {
    let Some(module) = enrich() else { return };
    let dir = tempfile::tempdir().unwrap();
    databases(dir.path(), 1000);
    let config = dir.path().join("enrich.yaml");
    std::fs::write(&config, "geo: {databases: [asn.mmdb, city.mmdb]}\n").unwrap();
    let filters = Filters::load(&[Settings::new(module.clone(), config.clone())], Process::Own).unwrap();
    let names: Vec<_> = filters.identities()[0].data.iter().map(|d| d.name.clone()).collect();
    assert_eq!(names, ["asn.mmdb", "city.mmdb"]);
    let london = json!({"as_organization": "Andrews & Arnold Ltd", "asn": 20712, "city": "London",
        "coordinates": {"latitude": 51.5142, "longitude": -0.0931}, "country": "GB",
        "country_name": "United Kingdom", "time_zone": "Europe/London"});
    for (ip, want) in [
        ("81.2.69.160", london.clone()),
        ("::ffff:81.2.69.160", london),
        ("10.1.2.3", json!({"scope": "private"})),
        ("fe80::1", json!({"scope": "link_local"})),
        ("127.0.0.1", json!({"scope": "loopback"})),
        ("9.9.9.9", Value::Null),
    ] {
        let record = json!({"event_type": "logout", "user_id": "u", "ip_address": ip}).to_string();
        let mut events = converted([record.as_str()]);
        assert_eq!(filters.apply(&mut events, b"{}").errors, 0);
        assert_eq!(members(&events)[0]["metadata"]["geo_location"], want, "{ip}");
    }
    // Missing and damaged ones are said with their path.
    for damage in [None, Some(&b"junk"[..])] {
        let path = dir.path().join("city.mmdb");
        match damage {
            None => std::fs::remove_file(&path).unwrap(),
            Some(junk) => std::fs::write(&path, junk).unwrap(),
        }
        let e = Filters::load(&[Settings::new(module.clone(), config.clone())], Process::Own).err().unwrap();
        assert!(e.contains(path.to_str().unwrap()) && e.contains("geo.databases"), "{e}");
    }
}

/// The same module in Fluent Bit's own runtime: equal results over all samples.
#[test]
fn fluent_bit_and_the_sink_say_the_same() {
    let Some(module) = enrich() else { return };
    let Some(binary) = fluent_bit() else {
        println!("no Fluent Bit here (FLUENT_BIT or PATH): not tried");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::create_dir(d.join("conf")).unwrap();
    std::fs::write(d.join("conf/enrich.yaml"), "ids: false\ntime: {year: 2015}\n").unwrap();
    let lines: String = samples().iter().map(|s| format!("{}\n", s.record)).collect();
    std::fs::write(d.join("in.log"), &lines).unwrap();
    let yaml = |conf: &str| {
        format!(
            "service: {{flush: 0.2, grace: 2, log_level: info}}\nparsers:\n  - {{name: json, format: json}}\npipeline:\n  inputs:\n    \
             - {{name: tail, path: {0}/in.log, read_from_head: true, exit_on_eof: true, parser: json, tag: t, buffer_max_size: 1M}}\n  filters:\n    \
             - {{name: wasm, match: '*', event_format: json, wasm_path: {1}, function_name: waxseal_filter, accessible_paths: {0}/{conf}, wasm_heap_size: 1M, wasm_stack_size: 256K}}\n  outputs:\n    \
             - {{name: file, match: '*', path: {0}, file: out.log, format: plain}}\n",
            d.display(),
            module.display()
        )
    };
    std::fs::write(d.join("fb.yaml"), yaml("conf")).unwrap();
    let run = |file: &str| run_fluent_bit(&binary, &d.join(file), &d.join("fb.log"));
    run("fb.yaml");
    let log = std::fs::read_to_string(d.join("fb.log")).unwrap();
    let out = std::fs::read_to_string(d.join("out.log")).unwrap_or_else(|e| panic!("{e}: {log}"));
    let shipped = members(&converted(out.lines()));
    let filter = Wasm::load(
        Arc::new(Runtime::new(Process::Own).unwrap()),
        Settings::new(module.clone(), d.join("conf/enrich.yaml")),
    )
    .unwrap();
    let mut events = converted(lines.lines());
    filter.apply(&mut events, b"{\"tag\":\"t\"}");
    let sink = members(&events);
    assert_eq!(shipped.len(), sink.len(), "{log}");
    let mut differ = 0;
    for ((a, b), record) in shipped.into_iter().zip(sink).zip(lines.lines()) {
        if alike(a.clone()) != alike(b.clone()) {
            // Fluent Bit reads JSON numbers as doubles and writes at most 17 digits: what it bends was bent before.
            println!("differs: {record}\n  shipper {a}\n  sink    {b}");
            differ += 1;
        }
    }
    println!("{differ} records differ");
    assert!(differ <= 1, "{differ} records differ");
    // What is wrong with a configuration keeps it from starting.
    std::fs::create_dir(d.join("none")).unwrap();
    std::fs::write(d.join("bad.yaml"), yaml("none")).unwrap();
    assert!(!run("bad.yaml").success());
    let log = std::fs::read_to_string(d.join("fb.log")).unwrap();
    assert!(log.contains("no enrich.yaml in the accessible_paths"), "{log}");
}

/// The same module as a shipper calls it, over all samples; what comes of it is converted by the sink.
#[test]
fn the_module_says_the_same_as_a_shipper_calls_it() {
    let Some(module) = enrich() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("enrich.yaml");
    std::fs::write(&config, "ids: false\ntime: {year: 2015}\n").unwrap();
    let compiled = Compiled::of(&module).unwrap();
    let mut shipper = Shipper::start(&compiled, dir.path()).unwrap();
    let filter =
        Wasm::load(Arc::new(Runtime::new(Process::Own).unwrap()), Settings::new(module, config)).unwrap();
    for sample in samples() {
        let mut events = converted([sample.record.as_str()]);
        assert_eq!(filter.apply(&mut events, b"{\"tag\":\"t\"}").0, 0);
        let shipped = shipper.record("t", (1_714_564_800, 5), sample.record.as_bytes()).unwrap();
        let shipped = converted([std::str::from_utf8(&shipped).unwrap()]);
        assert_eq!(
            alike(members(&shipped).remove(0)),
            alike(members(&events).remove(0)),
            "{}: {}",
            sample.file,
            sample.record
        );
    }
    // What is wrong with a configuration ends the module, and so keeps Fluent Bit from starting.
    std::fs::write(dir.path().join("enrich.yaml"), "sytem: {}\n").unwrap();
    assert!(Shipper::start(&compiled, dir.path()).is_err());
}

/// Deep, wide, huge, and no text: no trap, and memory for at most ten times the record, in both forms.
#[test]
fn hostile_records_take_ten_times_their_size_at_most() {
    let Some(module) = enrich() else { return };
    hostile(module, "enrich.yaml", "time: {year: 2015}\nsystem: {environment: x}\n");
}

#[test]
fn hostile_records_take_ten_times_their_size_in_privacy_too() {
    let Some(module) = waxseal_filter_testkit::module("privacy") else { return };
    hostile(module, "privacy.yaml", "");
}

fn hostile(module: PathBuf, name: &str, yaml: &str) {
    // As large as a record can be that is looked into.
    const SIZE: usize = 1_000_000;
    let fill = |one: &str| one.repeat(SIZE / one.len() - 10);
    let members_of = |value: &str| -> String {
        (0..SIZE / (value.len() + 12)).map(|i| format!("\"k{i:06}\":{value},")).collect()
    };
    let records: [(&str, Vec<u8>); 13] = [
        ("mails", serde_json::json!({"message": fill("alice@example.com ")}).to_string().into()),
        ("cards", serde_json::json!({"message": fill("4111111111111111 ")}).to_string().into()),
        ("other scripts", serde_json::json!({"message": fill("４１１１ 日本 ")}).to_string().into()),
        ("secrets", format!("{{{}\"z\":1}}", members_of("{\"password\":\"correct horse battery\"}")).into()),
        (
            "deep",
            format!("{{\"a\":[{}1]}}", format!("{}1{},", "[".repeat(58), "]".repeat(58)).repeat(SIZE / 120))
                .into(),
        ),
        ("too deep", fill("[").into()),
        ("wide", format!("{{{}\"z\":1}}", members_of("1")).into()),
        ("wide inside", format!("{{\"metadata\":{{{}\"z\":1}}}}", members_of("1")).into()),
        ("long", format!("{{\"a\":[{}1]}}", fill("1,")).into()),
        ("huge", serde_json::json!({"message": fill("for user=x ")}).to_string().into()),
        ("json in text", serde_json::json!({"log": fill("{\"a\":")}).to_string().into()),
        (
            "words",
            serde_json::json!({"log": format!("type=USER_LOGIN msg=audit(1.2:3): {}", fill("a=b "))})
                .to_string()
                .into(),
        ),
        ("no UTF-8", [b"{\"message\":\"".as_slice(), &[0xff; SIZE / 2], b"\"}"].concat()),
    ];
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join(name);
    std::fs::write(&config, yaml).unwrap();
    let compiled = Compiled::of(&module).unwrap();
    let runtime = Arc::new(Runtime::new(Process::Own).unwrap());
    let mut settings = Settings::new(module, config);
    settings.cache = Some(dir.path().join("cache"));
    let small = r#"{"message":"Failed password for root from 198.51.100.4 port 22 ssh2","ident":"sshd"}"#;
    let mut most = 0.0_f64;
    for (name, record) in records {
        // Two pages more: an allocator takes whole ones.
        let allowed = 10 * record.len() + (128 << 10);
        let filter = Wasm::load(runtime.clone(), settings.clone()).unwrap();
        filter.apply(&mut converted([small]), b"{}");
        let before = filter.memory();
        let mut events = Events::default();
        waxseal_trail::record::Converter::default().json(&record, &mut events);
        assert_eq!((filter.apply(&mut events, b"{}").0, events.len()), (0, 1), "{name}");
        let sink = filter.memory() - before;
        let mut shipper = Shipper::start(&compiled, dir.path()).unwrap();
        shipper.record("t", (0, 0), small.as_bytes()).unwrap();
        let before = shipper.memory();
        let answer = shipper.record("t", (0, 0), &record).unwrap();
        assert!(!answer.is_empty());
        let shipped = shipper.memory() - before;
        println!("{name}: {} bytes; {sink} in the sink, {shipped} in a shipper", record.len());
        assert!(sink.max(shipped) <= allowed, "{name}: {sink} and {shipped} for {}", record.len());
        if record.len() > SIZE / 4 {
            most = most.max(sink.max(shipped) as f64 / record.len() as f64);
        }
    }
    println!("at most {most:.1} times the record");
}

/// One instance over many records: WAXSEAL_FILTER_EVENTS of them, in chunks, and its memory grows no more.
#[test]
fn memory_is_flat() {
    let Some(module) = enrich() else { return };
    let events = std::env::var("WAXSEAL_FILTER_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let dir = tempfile::tempdir().unwrap();
    databases(dir.path(), 1000);
    let config = dir.path().join("enrich.yaml");
    std::fs::write(&config, "geo: {databases: [city.mmdb, asn.mmdb]}\n").unwrap();
    let filter =
        Wasm::load(Arc::new(Runtime::new(Process::Own).unwrap()), Settings::new(module, config)).unwrap();
    let lines: Vec<String> = samples().into_iter().map(|s| s.record).collect();
    let raw = converted((0..2000).map(|n| lines[n % lines.len()].as_str()));
    let mut after_first = 0;
    for n in 0..(events / raw.len()).max(4) {
        let mut chunk = Events::default();
        (0..raw.len()).for_each(|i| chunk.push_same(&raw, i));
        assert_eq!(filter.apply(&mut chunk, b"{}").0, 0);
        match n {
            1 => after_first = filter.memory(),
            _ if n > 1 => assert_eq!(filter.memory(), after_first, "after {} events", n * raw.len()),
            _ => {}
        }
    }
    println!("{events} events, {} KiB", after_first >> 10);
}

/// Marks every event; two at once are a trap.
fn ends_on_two(dir: &Path) -> Settings {
    let two = "(if (i32.eq (i32.load (i32.const 65536)) (i32.const 2)) (then unreachable)) (local.set $o (i32.const 3145728))";
    bad(dir, "two", &marking().replacen("(local.set $o (i32.const 3145728))", two, 1))
}

/// A module that ended is started with the files as they are then, and what ran is said of the whole chunk.
#[test]
fn a_module_that_is_started_again_says_what_it_read() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ends_on_two(dir.path());
    let config = settings.config.clone();
    let filter = Wasm::load(Arc::new(Runtime::new(Process::Own).unwrap()), settings).unwrap();
    let first = filter.identity();
    std::fs::write(&config, "changed").unwrap();
    let mut events = converted([r#"{"a":1}"#]);
    let (failed, ran) = filter.apply(&mut events, b"{}");
    assert_eq!((failed, &ran), (0, &first), "nobody looks at the files in between");
    // Two at once are a trap; each alone is none.
    let mut events = converted([r#"{"a":1}"#, r#"{"a":2}"#]);
    let (failed, ran) = filter.apply(&mut events, b"{}");
    assert_eq!((failed, events.len()), (0, 2));
    assert_eq!(ran.config, waxseal_trail::hash::sha256(b"changed"));
    assert_eq!(ran, filter.identity());
    for (i, v) in members(&events).iter().enumerate() {
        assert_eq!((&v["actor"], &v["metadata"]["a"]), (&json!("marked"), &json!(i + 1)));
    }
}

/// New files that cannot be loaded leave the old in force, and what ends then is not started with half of them.
#[test]
fn nothing_runs_under_digests_that_are_not_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ends_on_two(dir.path());
    let (module, config) = (settings.module.clone(), settings.config.clone());
    let filter = Wasm::load(Arc::new(Runtime::new(Process::Own).unwrap()), settings).unwrap();
    let first = filter.identity();
    let good = std::fs::read(&module).unwrap();
    std::fs::write(&module, b"no module").unwrap();
    filter.look();
    let mut events = converted([r#"{"a":1}"#]);
    assert_eq!(filter.apply(&mut events, b"{}"), (0, first.clone()), "the old stays in force");
    // Its module is in memory: with its own configuration it is started again.
    let mut events = converted([r#"{"a":1}"#, r#"{"a":2}"#]);
    assert_eq!(filter.apply(&mut events, b"{}"), (0, first.clone()));
    std::fs::write(&config, "changed").unwrap();
    filter.look();
    let mut events = converted([r#"{"a":1}"#, r#"{"a":2}"#]);
    let (failed, ran) = filter.apply(&mut events, b"{}");
    assert_eq!((failed, ran), (2, first));
    for v in members(&events) {
        assert!(v["metadata"]["$filter_errors"][0].is_string() && v.get("actor").is_none(), "{v}");
    }
    std::fs::write(&module, good).unwrap();
    filter.look();
    let mut events = converted([r#"{"a":1}"#]);
    let (failed, ran) = filter.apply(&mut events, b"{}");
    assert_eq!((failed, ran.config), (0, waxseal_trail::hash::sha256(b"changed")));
}
