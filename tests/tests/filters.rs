//! Filters as modules: in the sink's host, good and bad, and in a real Fluent Bit where `FLUENT_BIT` or PATH has one. The
//! module of enrich is what `scripts/wasm.sh` puts into the user's cache; where it could not be built, the output says so.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use waxseal_e2e::process::{Site, each_record, local_store, post};
use waxseal_sink::filter::wasm::{Runtime, Wasm};
use waxseal_sink::filter::{Filters, OnError, Settings};
use waxseal_store::Store as _;
use waxseal_trail::record::{Converter, Events};

fn enrich() -> Option<PathBuf> {
    let found = waxseal_e2e::filters::module("enrich");
    if found.is_none() {
        println!("no enrich.wasm in the cache (scripts/wasm.sh): not tried");
    }
    found
}

fn samples() -> Vec<Value> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filters-wasm/enrich/samples");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let text: String = files.iter().map(|f| std::fs::read_to_string(f).unwrap()).collect();
    text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["record"].clone()).collect()
}

fn converted<'r>(records: impl IntoIterator<Item = &'r str>) -> Events {
    let mut events = Events::default();
    let mut c = Converter::default();
    records.into_iter().for_each(|r| c.json(r.as_bytes(), &mut events));
    events
}

fn members(events: &Events) -> Vec<Value> {
    (0..events.len()).map(|i| serde_json::from_slice(&events.members_json(i)).unwrap()).collect()
}

/// What a shipper's filter says has one more `$`: for the sink it came from outside.
fn alike(mut v: Value) -> Value {
    if let Some(m) = v.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(names) = m.remove("$$enriched") {
            m.insert("$enriched".into(), names);
        }
        if let Some(Value::Object(lost)) = m.remove("$$displaced") {
            let all = m.entry("$displaced").or_insert_with(|| json!({}));
            lost.into_iter().for_each(|(k, v)| all[k] = v);
        }
    }
    v
}

#[test]
fn the_module_says_what_the_library_says_and_headers_name_it() {
    let Some(module) = enrich() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("enrich.yaml");
    std::fs::write(&config, "ids: false\ntime: {year: 2015}\n").unwrap();
    let filter =
        Wasm::load(Arc::new(Runtime::new().unwrap()), Settings::new(module, config.clone())).unwrap();
    let records: Vec<String> = samples().iter().map(Value::to_string).collect();
    let mut events = converted(records.iter().map(String::as_str));
    assert_eq!(filter.apply(&mut events, b"{}").0, 0);
    // The library itself, natively.
    use waxseal_filter_abi::Filter as _;
    let mut native = waxseal_enrich::Enrich::load(&config).unwrap();
    let raw = converted(records.iter().map(String::as_str));
    for (i, (got, record)) in members(&events).iter().zip(&records).enumerate() {
        let places = raw.places(i);
        let parts = std::array::from_fn(|m| &raw.text()[places[m].0 as usize..places[m].1 as usize]);
        let mut event = waxseal_filter_abi::Event::of_record("", waxseal_trail::time::Time::MIN, &parts);
        native.run(&mut event);
        for (name, value) in got.as_object().unwrap() {
            if let Some(member) = waxseal_trail::record::Member::named(name.as_bytes())
                && name != "metadata"
            {
                assert_eq!(event.text(member).as_deref(), value.as_str(), "{name} of {record}");
            }
        }
    }
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
    let mut headers: Vec<Value> = Vec::new();
    for key in store.list("batches/", None, 1000).unwrap().keys {
        let envelope: Value = serde_json::from_slice(&store.get(&key).unwrap().unwrap()).unwrap();
        let payload = data_encoding::BASE64.decode(envelope["payload"].as_str().unwrap().as_bytes()).unwrap();
        headers.push(serde_json::from_slice(&payload).unwrap());
    }
    headers.sort_by_key(|h| h["batch"].as_u64());
    let digest = |h: &Value| h["filters"][0]["config"].as_str().unwrap().to_owned();
    let counts: Vec<u64> = headers.iter().map(|h| h["events"]["count"].as_u64().unwrap()).collect();
    assert_eq!(counts[0], at as u64, "{counts:?}");
    assert_ne!(digest(&headers[0]), digest(&headers[1]));
    let wasm = waxseal_trail::hash::sha256(&std::fs::read(&module).unwrap()).to_string();
    assert!(headers.iter().all(|h| h["filters"][0]["module"] == wasm.as_str()));
}

/// A module of the interface that answers nothing good: `batch` is the body of `waxseal_batch`.
fn bad(dir: &Path, name: &str, batch: &str) -> Settings {
    let about = r#"{\22ready\22:{\22name\22:\22bad\22,\22version\22:\221\22,\22fails_closed\22:false,\22data\22:[]}}"#;
    let len = about.replace("\\22", "\"").len();
    let wat = format!(
        r#"(module (memory (export "memory") 64 4096) (data (i32.const 16) "{about}")
        (func (export "waxseal_abi") (result i32) i32.const 1)
        (func (export "waxseal_buffer") (param i32) (result i32) i32.const 65536)
        (func (export "waxseal_configure") (result i64) i64.const {})
        (func (export "waxseal_batch") (result i64) {batch}))"#,
        (16u64 << 32) | len as u64
    );
    let module = dir.join(format!("{name}.wasm"));
    std::fs::write(&module, wat::parse_str(&wat).unwrap()).unwrap();
    let config = dir.join("bad.yaml");
    std::fs::write(&config, "").unwrap();
    let mut s = Settings::new(module, config);
    s.timeout = Duration::from_millis(50);
    s.memory = 64 << 20;
    s
}

#[test]
fn what_a_filter_fails_on_is_passed_or_withheld_and_never_lost() {
    let dir = tempfile::tempdir().unwrap();
    let bodies = [
        ("trap", "unreachable", "trap"),
        ("beyond", "(i64.load (i32.const -8))", "trap"),
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
        for on_error in [OnError::Pass, OnError::Withhold] {
            let mut settings = bad(dir.path(), name, body);
            settings.on_error = Some(on_error);
            let filters = Filters::load(&[settings]).unwrap();
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
    let e = Filters::load(&[Settings::new(dir.path().join("none.wasm"), dir.path().join("bad.yaml"))])
        .err()
        .unwrap();
    assert!(e.contains("none.wasm"), "{e}");
}

#[test]
fn native_code_is_used_only_where_it_is_the_one_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut s = bad(dir.path(), "quiet", "i64.const 1");
    let runtime = Arc::new(Runtime::new().unwrap());
    let native = runtime.precompile(&std::fs::read(&s.module).unwrap()).unwrap();
    let path = dir.path().join("quiet.native");
    std::fs::write(&path, &native).unwrap();
    s.precompiled = Some((path.clone(), waxseal_trail::hash::sha256(&native)));
    let f = Wasm::load(runtime.clone(), s.clone()).unwrap();
    assert_eq!(f.identity().data[0].name, "precompiled");
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
    waxseal_e2e::filters::databases(dir.path(), 1000);
    let config = dir.path().join("enrich.yaml");
    std::fs::write(&config, "geo: {databases: [asn.mmdb, city.mmdb]}\n").unwrap();
    let filters = Filters::load(&[Settings::new(module.clone(), config.clone())]).unwrap();
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
        let e = Filters::load(&[Settings::new(module.clone(), config.clone())]).err().unwrap();
        assert!(e.contains(path.to_str().unwrap()) && e.contains("geo.databases"), "{e}");
    }
}

/// The same module in Fluent Bit's own runtime: equal results over all samples.
#[test]
fn fluent_bit_and_the_sink_say_the_same() {
    let Some(module) = enrich() else { return };
    let Some(binary) = waxseal_e2e::filters::fluent_bit() else {
        println!("no Fluent Bit here (FLUENT_BIT or PATH): not tried");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::create_dir(d.join("conf")).unwrap();
    std::fs::write(d.join("conf/enrich.yaml"), "ids: false\ntime: {year: 2015}\n").unwrap();
    let lines: String = samples().iter().map(|r| format!("{r}\n")).collect();
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
    let run = |file: &str| {
        let mut child = std::process::Command::new(&binary)
            .args(["-c", d.join(file).to_str().unwrap()])
            .stderr(std::fs::File::create(d.join("fb.log")).unwrap())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("Fluent Bit does not end: {}", std::fs::read_to_string(d.join("fb.log")).unwrap());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    run("fb.yaml");
    let log = std::fs::read_to_string(d.join("fb.log")).unwrap();
    let out = std::fs::read_to_string(d.join("out.log")).unwrap_or_else(|e| panic!("{e}: {log}"));
    let shipped = members(&converted(out.lines()));
    let filter = Wasm::load(
        Arc::new(Runtime::new().unwrap()),
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
