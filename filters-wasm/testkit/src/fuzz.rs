//! What fuzzing asserts of filters. A panic would be a trap in a module, and a trap in Fluent Bit loses a record.

use crate::{Native, alike, converted, databases, members};
use serde_json::Value;
use std::cell::RefCell;
use std::path::Path;
use tempfile::TempDir;
use waxseal_enrich::Enrich;
use waxseal_filter_abi::Filter;
use waxseal_privacy::Privacy;
use waxseal_privacy::policy::Policy;
use waxseal_trail::hash::Hash;
use waxseal_trail::record::{Checker, Events, Link, MAX_RECORD, Template};
use waxseal_trail::time::Time;

/// What is asserted of one input: it panics if that does not hold.
pub type Check = fn(&[u8]);

/// The targets: a name, which is also that of its corpus, and what is asserted.
pub const TARGETS: &[(&str, Check)] = &[
    ("guest", guest),
    ("enrich_files", enrich_files),
    ("privacy", privacy),
    ("privacy_policy", privacy_policy),
];

/// Everything that enrich can do, at once.
const EVERYTHING: &str = r#"
ids: false
time: {zone: Europe/Berlin, year: 2015}
normalisers: {by_tag: {web: access, audit: auditd, db: pgaudit, sys: syslog}}
system: {environment: test, host: h}
geo: {databases: [city.mmdb, asn.mmdb]}
users: {file: users.csv, case_sensitive: false}
threat:
  events: all
  lists: [{file: bad.txt, source: a, confidence: 3}, {file: bad.csv, source: b}, {file: bad.json, source: c}]
phi: {resources: ['patient/*', '*chart*']}
mappings:
  - {name: pairs, when: {matches: {message: '^kv '}}, parse: {field: message, as: key_value}, event_type: consent_withdrawn, set: {user_id: user, purpose: for, at: {field: t, time: rfc3339}}}
  - {name: words, when: {one_of: {event: [audit, review]}, has_not: [draft]}, parse: {field: text, as: regex, pattern: 'by (?P<who>\w+)(?: on (?P<what>\S*))?'}, event_type: audit_performed, set: {audit_type: event, auditor: who, scope: what}}
  - {name: inner, when: {has: [payload]}, parse: {field: payload, as: json}, event_type: data_write, set: {user_id: payload.user, resource_type: {field: payload.kind, map: {a: b}, default: c}, new_values: payload.new, timestamp: {field: payload.t, time: unix_ms}}}
  - {name: tagged, when: {tag: 'cron.*', equals: {ok: true}}, event_type: data_retention, set: {action: op, data_type: {const: logs}, count: {field: n, to: number}, reason: {field: why, to: text}}}
"#;

fn site(dir: &Path) {
    databases(dir, 20);
    let stix = r#"{"type":"bundle","id":"bundle--1","objects":[{"type":"indicator","pattern":"[ipv4-addr:value = '198.51.100.7'] OR [domain-name:value = 'x.test'] OR [url:value = 'http://x.test/a'] OR [file:hashes.'SHA-256' = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855']","pattern_type":"stix","confidence":85,"valid_from":"2024-01-01T00:00:00Z"}]}"#;
    for (name, text) in [
        ("users.csv", "user_id,department,role\nroot,Ops,admin\nalice,Sales,clerk\n"),
        ("bad.txt", "198.51.100.0/24\n2001:db8::/32\nevil.example\nhttp://evil.example/x\n"),
        ("bad.csv", "indicator,type,confidence,first_seen\nsqlmap,user_agent,90,2024-01-01\n"),
        ("bad.json", stix),
    ] {
        std::fs::write(dir.join(name), text).expect("writable");
    }
}

const HTTP: &[u8] = br#"{"intake":"http"}"#;

fn now() -> Time {
    Time::from_unix(1_714_564_800, 123_000_000).expect("a time of this century")
}

/// The writer of the records made here.
pub const WRITER: &str = "fuzz.019bc11901007ca690a569ed3e38712f";

/// Every event becomes a record that the format allows, whatever it came from.
///
/// # Panics
/// If one does not.
pub fn records_of(events: &Events, source: &[u8]) {
    let template = Template::new(WRITER);
    let mut checker = Checker::default();
    let mut out = Vec::new();
    for i in 0..events.len() {
        let link = Link {
            sequence: i as u64,
            previous_hash: Hash::empty(),
            observed_at: now(),
            nonce: [7; 16],
            id_bits: [3; 10],
        };
        out.clear();
        template.assemble(events, i, source, &link, &mut out);
        assert!(out.len() <= MAX_RECORD, "{} bytes", out.len());
        if let Err(e) = checker.check(&out) {
            panic!("{e}: {}", String::from_utf8_lossy(&out));
        }
    }
}

/// A tag, a line feed, and a record, in both hosts' forms; what begins with a NUL is a chunk of the sink's interface, as no
/// sink would write it.
pub fn guest(data: &[u8]) {
    thread_local! {
        static FILTER: RefCell<Native<Enrich>> = RefCell::new({
            let dir = tempfile::tempdir().expect("a temporary directory");
            site(dir.path());
            std::fs::write(dir.path().join("enrich.yaml"), EVERYTHING).expect("writable");
            Native::load(&dir.path().join("enrich.yaml")).expect("the configuration is good")
        });
    }
    FILTER.with_borrow_mut(|filter| in_both(filter, data));
}

fn in_both<F: Filter>(filter: &mut Native<F>, data: &[u8]) {
    if let Some(chunk) = data.strip_prefix(b"\0") {
        let _ = filter.raw(chunk);
        return;
    }
    let at = data.iter().position(|c| *c == b'\n');
    let (tag, record) = at.map_or((&b""[..], data), |at| (&data[..at], &data[at + 1..]));
    let tag = String::from_utf8_lossy(tag);
    let mut raw = Events::default();
    waxseal_trail::record::Converter::default().json(record, &mut raw);
    let mut out = Events::default();
    if !filter.may_answer(&raw, &tag, now(), &mut out) {
        // The host withholds it, and has no more of it.
        return;
    }
    assert_eq!(out.len(), 1);
    records_of(&out, HTTP);
    if raw.unparsed() == 0 && record.iter().all(|c| *c != 0) {
        let shipped = String::from_utf8_lossy(filter.in_shipper(record, &tag, now())).into_owned();
        let events = converted([shipped.as_str()]);
        assert_eq!(events.unparsed(), 0, "{shipped}");
        records_of(&events, HTTP);
        // What the filter found is the same, whichever host it found it in.
        let kind = |e: &Events| alike(members(e).remove(0))["event_type"].clone();
        assert_eq!(kind(&events), kind(&out), "{shipped}");
    }
}

/// Everything that privacy can do, at once.
const EVERY_RULE: &str = r#"
keys: keys
anonymize: [{types: ['auth*'], countries: [EU, US]}, {types: [data_read], unknown: false}]
rules:
  - {id: own, pattern: 'TCK-\d+', near: [ticket], not_near: [not], action: redact}
  - {id: own2, pattern: '(?i)x+y', types: [api_call], action: drop}
  - {id: net, find: [ip], except: [peer], action: truncate}
  - {id: gone, fields: [internal_note], paths: ['a.*.b'], action: drop}
  - {id: hashed, fields: [account_ref], action: hash}
  - {id: rough, fields: [latitude, longitude, since], action: generalise}
  - {id: kept, fields: [trace], action: keep}
  - {id: some, paths: [parameters], allow: [page, limit], action: allow}
  - {id: top, types: [api_error], allow: [user_id, endpoint], action: allow}
  - {id: shaped, fields: [before, after], allow: [status], action: shape}
  - {id: mails, find: [email], types: [data_export], action: hash}
"#;

/// As [`guest`], for privacy.
pub fn privacy(data: &[u8]) {
    thread_local! {
        static FILTER: RefCell<Native<Privacy>> = RefCell::new({
            let dir = tempfile::tempdir().expect("a temporary directory");
            let policy = dir.path().join("privacy.yaml");
            std::fs::write(&policy, EVERY_RULE).expect("writable");
            std::fs::write(dir.path().join("keys"), "k 000102030405060708090a0b0c0d0e0f").expect("writable");
            Native::load(&policy).expect("the policy is good")
        });
    }
    FILTER.with_borrow_mut(|filter| in_both(filter, data));
}

/// A policy; what is taken, works.
pub fn privacy_policy(data: &[u8]) {
    let Ok(yaml) = std::str::from_utf8(data) else { return };
    let Ok(policy) = Policy::parse(yaml, Path::new("/nonexistent")) else { return };
    let mut filter = Privacy::new(policy);
    let record = br#"{"actor":"alice","category":"data_access","event_type":"data_read","metadata":{"$raw":"card 4111111111111111","a":{"b":[1,"x@example.com"]},"password":"p","user_id":"alice"},"resource":"x"}"#;
    let _ = filter.look(record);
}

/// A file that enrich reads; the first byte says which. What is taken, works.
pub fn enrich_files(data: &[u8]) {
    thread_local! {
        static DIR: TempDir = {
            let dir = tempfile::tempdir().expect("a temporary directory");
            site(dir.path());
            dir
        };
    }
    let Some((how, file)) = data.split_first() else { return };
    DIR.with(|dir| {
        let dir = dir.path();
        let put = |name: &str, yaml: &str| {
            std::fs::write(dir.join(name), file).expect("writable");
            yaml.replace("FILE", name)
        };
        let yaml = match how % 8 {
            0 => match std::str::from_utf8(file) {
                Ok(yaml) => yaml.to_owned(),
                Err(_) => return,
            },
            1 => put("u.csv", "users: {file: FILE}"),
            2 => put("u.json", "users: {file: FILE, case_sensitive: false}"),
            3 => put("t.txt", "threat: {events: all, lists: [{file: FILE, source: x}]}"),
            4 => put("t.csv", "threat: {events: all, lists: [{file: FILE, source: x}]}"),
            5 => put("t.json", "threat: {events: all, lists: [{file: FILE, source: x}]}"),
            6 => put("c.mmdb", "geo: {databases: [FILE]}"),
            _ => put("c.mmdb", "geo: {databases: [asn.mmdb, FILE], language: de}"),
        };
        std::fs::write(dir.join("enrich.yaml"), yaml).expect("writable");
        let Ok(mut filter) = Native::<Enrich>::load(&dir.join("enrich.yaml")) else { return };
        let lines = [
            r#"{"message":"Dec 10 06:55:46 h sshd[1]: Failed password for root from 81.2.69.4 port 22 ssh2"}"#,
            r#"{"event_type":"data_read","user_id":"alice","ip_address":"2001:678::1","resource_type":"patient","url":"http://evil.example/x"}"#,
            r#"{"a":{"b":[1,"x"]},"event":"audit","text":"by me on it","n":12,"t":"2024-01-01 00:00:00"}"#,
        ];
        let raw = converted(lines);
        let mut out = Events::default();
        filter.in_sink(&raw, "cron.daily", now(), &mut out);
        records_of(&out, HTTP);
        let _: Vec<Value> = members(&out);
    });
}
