//! The samples of every normaliser, in both hosts' forms; and real logs where they are.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test, its helpers and files too

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use waxseal_enrich::Enrich;
use waxseal_enrich::config::Config;
use waxseal_filter_testkit::{Native, Sample, alike, converted, members, samples};
use waxseal_trail::record::Events;
use waxseal_trail::time::Time;

const BASE: &str = "ids: false\ntime: {year: 2015}\n";

/// Enrich with a configuration that lies in `dir`, natively.
struct Filter(Native<Enrich>);

fn enrich_in(dir: &Path, yaml: &str) -> Filter {
    let path = dir.join("enrich.yaml");
    std::fs::write(&path, yaml).unwrap();
    Filter(Native::load(&path).unwrap())
}

fn enrich(yaml: &str) -> Filter {
    enrich_in(tempfile::tempdir().unwrap().path(), yaml)
}

fn now() -> Time {
    Time::parse_rfc3339("2024-05-01T12:00:00Z").unwrap()
}

impl Filter {
    /// As the sink does it: converted, then filtered, then held to the page.
    fn in_sink(&mut self, record: &str, tag: &str) -> Value {
        let mut out = Events::default();
        self.0.in_sink(&converted([record]), tag, now(), &mut out);
        members(&out).remove(0)
    }

    /// As a shipper does it: filtered, and then converted by the sink.
    fn in_shipper(&mut self, record: &str, tag: &str) -> Value {
        let text = String::from_utf8_lossy(self.0.in_shipper(record.as_bytes(), tag, now())).into_owned();
        let events = converted([text.as_str()]);
        assert_eq!(events.unparsed(), 0, "{text}");
        members(&events).remove(0)
    }
}

fn found<'v>(v: &'v Value, name: &str) -> Option<&'v Value> {
    if let Some(name) = name.strip_prefix("metadata.") {
        return v.get("metadata")?.get(name);
    }
    v.get(name).or_else(|| v.get("metadata")?.get(name))
}

#[test]
fn every_sample_becomes_what_its_format_says_in_both_hosts() {
    let mut filter = enrich(BASE);
    let mut wrong = Vec::new();
    for Sample { file, record, wanted: sample } in samples() {
        let got = filter.in_sink(&record, "");
        let kind = got.get("event_type").and_then(Value::as_str).unwrap_or("log");
        let mut say = |what: String| wrong.push(format!("{file}: {what}\n  {record}\n  {got}"));
        if kind != sample["type"] {
            say(format!("{kind}, and not {}", sample["type"]));
        }
        for (name, want) in sample["has"].as_object().unwrap() {
            if found(&got, name) != Some(want) {
                say(format!("{name}: {:?}, and not {want}", found(&got, name)));
            }
        }
        if kind != "log" && sample["has"].get("schema_errors").is_none() {
            let errors = found(&got, "schema_errors").cloned().unwrap_or_default();
            let missing = |e: &Value| e.as_str().is_some_and(|e| e == "user_id: missing");
            if !errors.as_array().is_none_or(|all| all.iter().all(missing)) {
                say(format!("against the schema: {errors}"));
            }
        }
        let shipped = alike(filter.in_shipper(&record, ""));
        let got = alike(got.clone());
        if shipped != got {
            wrong.push(format!("{file}: the shipper says\n  {shipped}\nthe sink\n  {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_type_of_the_schema_is_reached() {
    let mapped = "
ids: false
mappings:
  - {name: scan, when: {equals: {app: scanner}}, event_type: security_scan, set: {scan_type: kind, target: target}}
  - {name: incident, when: {has: [incident]}, category: security_events, event_type: incident_created, set: {incident_id: incident.id, severity: {field: incident.level, map: {'1': high}, default: low}}}
  - {name: consent, when: {matches: {message: '^consent withdrawn'}}, parse: {field: message, as: key_value}, event_type: consent_withdrawn, set: {user_id: user, purpose: for}}
  - {name: retention, when: {tag: 'cron.*'}, event_type: data_retention, set: {action: op, data_type: {const: logs}, count: {field: n, to: number}, timestamp: {field: at, time: unix_ms}}}
  - {name: audit, when: {one_of: {event: [audit, review]}, has_not: [draft]}, parse: {field: text, as: regex, pattern: 'by (?P<who>\\w+)'}, event_type: audit_performed, set: {audit_type: event, auditor: who}}
";
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut see = |v: Value| {
        *seen
            .entry(found(&v, "event_type").and_then(Value::as_str).unwrap_or("log").to_owned())
            .or_default() += 1;
        v
    };
    let mut filter = enrich(BASE);
    for sample in samples() {
        see(filter.in_sink(&sample.record, ""));
    }
    let mut filter = enrich(mapped);
    let mut both = |record: &str, tag: &str| {
        let sink = filter.in_sink(record, tag);
        assert_eq!(alike(sink.clone()), alike(filter.in_shipper(record, tag)));
        see(sink)
    };
    both(r#"{"app":"scanner","kind":"ports","target":"10.0.0.0/8"}"#, "");
    let v = both(r#"{"incident":{"id":"I-1","level":1}}"#, "");
    assert_eq!(found(&v, "severity").unwrap(), "high");
    let v = both(r#"{"message":"consent withdrawn user=u1 for=\"all mail\""}"#, "");
    assert_eq!(found(&v, "purpose").unwrap(), "all mail");
    let v = both(r#"{"op":"purge","n":"12","at":1700000000123,"count":"x"}"#, "cron.daily");
    assert_eq!(found(&v, "timestamp").unwrap(), "2023-11-14T22:13:20.123000000Z");
    assert_eq!(
        (found(&v, "count").unwrap(), &v["metadata"]["$displaced"]["count"]),
        (&12.into(), &"x".into())
    );
    let v = both(r#"{"event":"review","text":"done by alice"}"#, "");
    assert_eq!(found(&v, "auditor").unwrap(), "alice");
    let missing: Vec<_> = waxseal_enrich::schema::TYPES
        .iter()
        .filter(|t| !seen.contains_key(t.event_type))
        .map(|t| t.event_type)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// 2,000 lines of a real sshd, where they are: each that states an outcome has it.
#[test]
fn a_real_sshd_has_no_outcome_that_is_not_known() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/openssh/OpenSSH_2k.log");
    let Ok(log) = std::fs::read_to_string(&path) else {
        println!("{} is not there: not tried on real logs", path.display());
        return;
    };
    let mut filter = enrich(BASE);
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for line in log.lines() {
        let record = serde_json::json!({"message": line}).to_string();
        let v = filter.in_sink(&record, "");
        assert_eq!(alike(v.clone()), alike(filter.in_shipper(&record, "")));
        let kind = found(&v, "event_type").and_then(Value::as_str).unwrap_or("log").to_owned();
        let states = [
            "Failed ",
            "Accepted ",
            "authentication failure",
            "nvalid user",
            "session opened",
            "check pass",
            "Too many auth",
        ];
        assert!(kind != "log" || !states.iter().any(|s| line.contains(s)), "{line}");
        let outcome = found(&v, "result").and_then(Value::as_str).unwrap_or("-");
        *counts.entry(format!("{kind} {outcome}")).or_default() += 1;
    }
    println!("{counts:?}");
    // What is left, 456 lines, says that a connection ended, and not how it went.
    let want = [
        ("log -", 456),
        ("login_attempt failure", 1439),
        ("login_attempt success", 2),
        ("logout success", 1),
        ("suspicious_activity -", 102),
    ];
    assert_eq!(counts, want.map(|(k, n)| (k.to_owned(), n)).into());
}

#[test]
fn context_is_added_and_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("users.csv"),
        "user_id,department,role,risk_tier\nalice,Finance,analyst,high\n",
    )
    .unwrap();
    std::fs::write(
        dir.path().join("bad.txt"),
        "# known bad\n198.51.100.4\n198.51.100.128/25\nevil.example\n",
    )
    .unwrap();
    let stix = serde_json::json!({"type": "bundle", "id": "bundle--1", "objects": [
        {"type": "indicator", "pattern": "[ipv4-addr:value = '198.51.100.7'] OR [domain-name:value = 'x.test']",
         "pattern_type": "stix", "confidence": 85, "valid_from": "2024-01-01T00:00:00Z"}]});
    std::fs::write(dir.path().join("intel.json"), stix.to_string()).unwrap();
    let yaml = "
ids: false
system: {environment: production, host: n1}
users: {file: users.csv}
threat: {lists: [{file: bad.txt, source: ours, confidence: 70}, {file: intel.json, source: feed}]}
phi: {resources: ['patient/*']}
mappings: [{when: {has: [patient]}, event_type: data_read, set: {user_id: who, resource: patient, resource_type: {const: record}}}]
";
    let mut filter = enrich_in(dir.path(), yaml);
    let line = |user: &str, ip: &str| {
        serde_json::json!({"ident": "sshd", "message": format!("Failed password for {user} from {ip} port 1 ssh2")}).to_string()
    };
    let v = filter.in_sink(&line("alice", "198.51.100.200"), "");
    assert_eq!(
        found(&v, "user_context").unwrap(),
        &serde_json::json!({"department": "Finance", "risk_tier": "high", "role": "analyst"})
    );
    assert_eq!(found(&v, "threat_intelligence").unwrap()[0]["indicator"], "198.51.100.128/25");
    assert_eq!(
        found(&v, "system_context").unwrap(),
        &serde_json::json!({"environment": "production", "host": "n1"})
    );
    let names: Vec<_> =
        v["metadata"]["$enriched"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(
        ["actor", "ip_address", "system_context", "threat_intelligence", "user_context"]
            .iter()
            .all(|n| names.contains(n))
    );
    let v = filter.in_sink(&line("bob", "198.51.100.7"), "");
    let hit = &found(&v, "threat_intelligence").unwrap()[0];
    assert_eq!(
        (&hit["source"], &hit["confidence"], &hit["first_seen"]),
        (&"feed".into(), &85.into(), &"2024-01-01T00:00:00Z".into())
    );
    let pod = r#"{"ident":"sshd","message":"Invalid user x from 203.0.113.1","kubernetes":{"pod_name":"p","namespace_name":"ns","host":"node1","container_image":"i:1","docker_id":"c1","labels":{"app.kubernetes.io/version":"2.0"}}}"#;
    let v = filter.in_sink(pod, "");
    let want = serde_json::json!({"application_version":"2.0","container_id":"c1","environment":"production","host":"node1","image":"i:1","namespace":"ns","node":"node1","pod":"p"});
    assert_eq!(found(&v, "system_context").unwrap(), &want);
    assert_eq!(found(&v, "threat_intelligence"), None);
    let v = filter.in_sink(r#"{"who":"u","patient":"patient/7"}"#, "");
    assert_eq!(found(&v, "phi_involved").unwrap(), true);
    let e = Config::parse("geo: {databases: [no.mmdb]}", dir.path()).unwrap_err();
    assert!(e.contains("no.mmdb"), "{e}");
    std::fs::write(dir.path().join("no.mmdb"), "junk").unwrap();
    let e = Config::parse("geo: {databases: [no.mmdb]}", dir.path()).unwrap_err();
    assert!(e.contains("no.mmdb"), "{e}");
}

/// A trap in Fluent Bit loses a record: whatever a line holds, there is none, and what comes of it is an event.
#[test]
fn no_line_however_bent_is_a_trap() {
    let rounds = std::env::var("WAXSEAL_FILTER_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let mut filter = enrich("time: {zone: Europe/Berlin}\n");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let pieces = [
        "",
        " ",
        "é",
        "\u{1F512}",
        "\"",
        "'",
        "\\",
        "[",
        "]",
        "(",
        ")",
        ":",
        "=",
        ";",
        ",",
        "\n",
        "{",
        "}",
        "%",
        "-",
        "for ",
        " from ",
        "msg='",
        "\u{0}",
        "99999999999999999999",
    ];
    let all = samples();
    for _ in 0..rounds {
        for sample in &all {
            let mut record = sample.wanted["record"].clone();
            // Every text of the record is cut, doubled or pierced somewhere.
            fn each(v: &mut Value, bend: &mut dyn FnMut(&mut String)) {
                match v {
                    Value::String(s) => bend(s),
                    Value::Array(all) => all.iter_mut().for_each(|v| each(v, bend)),
                    Value::Object(all) => all.values_mut().for_each(|v| each(v, bend)),
                    _ => {}
                }
            }
            each(&mut record, &mut |s| {
                for _ in 0..random(3) {
                    let chars: Vec<char> = s.chars().collect();
                    let at = random(chars.len() + 1);
                    let (head, tail): (String, String) =
                        (chars[..at].iter().collect(), chars[at..].iter().collect());
                    *s = match random(4) {
                        0 => head,
                        1 => tail,
                        2 => format!("{head}{}{tail}", pieces[random(pieces.len())]),
                        _ => format!("{head}{tail}{tail}"),
                    };
                }
            });
            let text = record.to_string();
            filter.in_sink(&text, "");
            filter.in_shipper(&text, "");
        }
    }
}

#[test]
fn hostile_records_go_through() {
    let mut filter = enrich("");
    let deep = format!("{{\"message\":\"x\",\"a\":{}1{}}}", "[".repeat(60), "]".repeat(60));
    let wide = format!("{{{}\"z\":1}}", (0..50_000).map(|i| format!("\"k{i}\":{i},")).collect::<String>());
    let huge = serde_json::json!({"log": "{\"a\":".repeat(100_000)}).to_string();
    let carried = serde_json::json!({"log": format!("{{\"event_type\":\"data_write\",\"user_id\":\"u\",\"resource_type\":\"r\",\"old_values\":{}1{}}}", "{\"a\":".repeat(59), "}".repeat(59))}).to_string();
    for record in [&deep, &wide, &huge, &carried] {
        let v = filter.in_sink(record, "");
        assert!(v["metadata"]["$enriched"].is_array());
        filter.in_shipper(record, "");
    }
    let twice = r#"{"a":1,"a":2,"message":"Invalid user x from 203.0.113.1"}"#;
    assert!(filter.in_sink(twice, "")["metadata"]["$map"].is_array());
    assert!(filter.in_shipper(twice, "")["metadata"]["$map"].is_array());
}

#[test]
fn the_example_is_a_configuration() {
    let text = include_str!("../../../enrich.yaml.example");
    enrich(text);
    // And what it leaves to be filled in: but for files that are nobody's.
    let own = text.split_once("# mappings:").unwrap().1.replace("\n#", "\n");
    enrich(&format!("mappings:{own}"));
}

/// What the source said, what one filter said, and what the next: each under its own name.
#[test]
fn a_second_filter_keeps_apart_what_the_first_said() {
    let mut first = enrich(BASE);
    let mut second = enrich(
        "ids: false\nmappings: [{when: {has: [ident]}, event_type: suspicious_activity, category: security_events, set: {type: {const: probe}, user_id: {const: bob}, ident: {const: other}}}]\n",
    );
    let record = r#"{"ident":"sshd","message":"Failed password for alice from 203.0.113.1 port 1 ssh2"}"#;
    let (mut once, mut twice) = (Events::default(), Events::default());
    first.0.in_sink(&converted([record]), "", now(), &mut once);
    second.0.in_sink(&once, "", now(), &mut twice);
    let v = members(&twice).remove(0);
    assert_eq!((found(&v, "user_id").unwrap(), found(&v, "type").unwrap()), (&"bob".into(), &"probe".into()));
    // The source said no user; the first filter did.
    assert_eq!(v["metadata"]["$displaced"], serde_json::json!({"ident": "sshd"}));
    let names: Vec<_> =
        v["metadata"]["$enriched"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(names.is_sorted() && !names.windows(2).any(|w| w[0] == w[1]), "{names:?}");
    for name in ["actor", "category", "failure_reason", "ident", "ip_address", "type", "user_id"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
}

#[test]
fn what_a_filter_displaces_is_never_lost() {
    let mut filter = enrich(BASE);
    let audit = r#"type=USER_LOGIN msg=audit(1364481363.243:1): pid=1 uid=0 auid=500 ses=7 msg='op=login acct="alice" exe="/usr/sbin/sshd" addr=203.0.113.9 res=success'"#;
    let record = serde_json::json!({"timestamp": "2024-05-01T00:00:00Z", "message": audit}).to_string();
    for v in [filter.in_sink(&record, ""), alike(filter.in_shipper(&record, ""))] {
        assert_eq!(v["timestamp"], "2013-03-28T14:36:03.243000000Z");
        let displaced = v["metadata"]["$displaced"]["timestamp"].as_str().unwrap();
        assert!(displaced.starts_with("2024-05-01T00:00:00"), "{v}");
    }
    // Deeper than a record can hold it there, it is kept as text.
    let depth = waxseal_trail::record::MAX_DEPTH - 2;
    let deep = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let record =
        format!(r#"{{"ident":"sshd","message":"Invalid user x from 203.0.113.1 port 1","user_id":{deep}}}"#);
    let v = filter.in_sink(&record, "");
    assert_eq!(
        (found(&v, "user_id").unwrap(), &v["metadata"]["$displaced"]["user_id"]),
        (&"x".into(), &deep.as_str().into())
    );
    // A number that no record holds is text, and takes nothing else with it.
    let record = r#"{"remote_addr":"203.0.113.1","method":"GET","code":"200","path":"/x","request_time":10000000000000}"#;
    for v in [filter.in_sink(record, ""), alike(filter.in_shipper(record, ""))] {
        assert_eq!(
            (found(&v, "event_type").unwrap(), found(&v, "duration_ms").unwrap()),
            (&"api_call".into(), &"10000000000000000".into())
        );
    }
}

/// Names that a filter gives, claimed by the source: no filter's word is lost by it.
#[test]
fn a_source_that_imitates_a_filter_hides_nothing() {
    let mut filter = enrich(BASE);
    for marks in ["0", "[\"user_id\",\"actor\"]", "{\"a\":1}"] {
        let record = format!(
            r#"{{"ident":"sshd","message":"Failed password for root from 203.0.113.1 port 1 ssh2","metadata":{{"$enriched":{marks},"$displaced":{{"b":2}},"user_id":"mallory"}}}}"#
        );
        for v in [filter.in_sink(&record, ""), alike(filter.in_shipper(&record, ""))] {
            assert_eq!(
                (found(&v, "user_id").unwrap(), found(&v, "ip_address").unwrap()),
                (&"root".into(), &"203.0.113.1".into()),
                "{v}"
            );
            let m = &v["metadata"];
            assert!(m.get("$map").is_none(), "{v}");
            assert_eq!(m["$displaced"]["user_id"], "mallory", "{v}");
            let text = v.to_string();
            assert!(text.contains(r#"{"b":2}"#), "{v}");
        }
    }
}
