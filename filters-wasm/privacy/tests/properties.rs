//! Whatever a secret is planted in, it does not survive, and nothing else changes: in the sink's form and in a shipper's.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test

use proptest::prelude::*;
use serde_json::{Value, json};
use std::cell::RefCell;
use waxseal_filter_testkit::{Native, alike, converted, fuzz::records_of, members};
use waxseal_privacy::Privacy;
use waxseal_trail::record::Events;
use waxseal_trail::time::Time;

const PLANT: &str = "~plant~";

/// A text with a secret in it, and the secret.
fn secrets() -> impl Strategy<Value = (String, String)> {
    let all: Vec<(String, &str)> = [
        ("4111111111111111", "4111111111111111"),
        ("card 5555 5555 5555 4444 exp 12/27", "5555 5555 5555 4444"),
        ("ssn 078-05-1120", "078-05-1120"),
        ("DE89 3704 0044 0532 0130 00", "3704 0044 0532"),
        ("mail alice.b@example.com now", "alice.b@example.com"),
        ("call +14155552671", "+14155552671"),
        ("(415) 555-2671", "555-2671"),
        ("Authorization: Bearer mF_9.B5f-4.1JqM", "mF_9.B5f-4.1JqM"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("-----BEGIN PRIVATE KEY-----\nMIIBabc\n-----END PRIVATE KEY-----", "MIIBabc"),
        ("postgres://u:hunter2@db/x", "hunter2"),
        ("x password=hunter2 y", "hunter2"),
        ("{\"a\":{\"apiKey\":\"hunter2\"}}", "hunter2"),
        ("[{\"note\":\"{\\\"pwd\\\":\\\"hunter2\\\"}\"}]", "hunter2"),
        ("q=%34111%2D%31111%2d1111%2d1111", "%31111%2d1111"),
        ("NDExMTExMTExMTExMTExMSBvayBvaw==", "NDExMTExMTExMTExMTExMSBvayBvaw"),
        (
            "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KIA.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            "eyJhbGciOiJIUzI1NiJ9",
        ),
    ]
    .into_iter()
    .map(|(text, secret)| (text.to_owned(), secret))
    .collect();
    // No words that lower what follows.
    let around = ("[h-mäж 日]{0,9}", "[h-mäж 日]{0,9}");
    (prop::sample::select(all), around).prop_map(|((text, secret), (a, b))| {
        let text = if text.starts_with(['{', '[']) { text } else { format!("{a} {text} {b}") };
        (text, secret.to_owned())
    })
}

fn plain() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        (-100_000i64..100_000).prop_map(Into::into),
        "[a-z \\\\\"\n\täж日]{0,20}".prop_map(Into::into),
    ]
}

/// Names that no rule speaks of.
const NAMES: &str = "[a-m]{1,6}|[a-m]{1,3}_[a-m]{1,3}|\\$[a-m]{1,3}";

/// A tree with one place in it: a value, or the name of one.
fn trees() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(json!(PLANT)), Just(json!({PLANT: 1}))];
    let deep = leaf.prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            (inner.clone(), prop::collection::vec(plain(), 0..3), any::<prop::sample::Index>()).prop_map(
                |(v, mut all, at)| {
                    let at = at.index(all.len() + 1);
                    all.insert(at, v);
                    Value::Array(all)
                }
            ),
            (NAMES, inner, prop::collection::btree_map(NAMES, plain(), 0..4)).prop_map(|(name, v, all)| {
                let mut all: serde_json::Map<String, Value> = all.into_iter().collect();
                all.insert(name, v);
                Value::Object(all)
            }),
        ]
    });
    (prop_oneof![4 => NAMES.boxed(), 1 => Just("message".to_owned()).boxed(), 1 => Just("metadata".to_owned()).boxed(), 1 => Just("resource".to_owned()).boxed()], deep, prop::collection::btree_map(NAMES, plain(), 0..4)).prop_map(
        |(name, v, all)| {
            let mut all: serde_json::Map<String, Value> = all.into_iter().collect();
            all.insert(name, v);
            Value::Object(all)
        },
    )
}

/// Equal but for what was planted.
fn same(now: &Value, wanted: &Value, path: &str) {
    match (now, wanted) {
        (_, Value::String(s)) if s.contains(PLANT) => {}
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{path}");
            a.iter().zip(b).for_each(|(a, b)| same(a, b, path));
        }
        (Value::Object(a), Value::Object(b)) => {
            for (name, v) in b.iter().filter(|(n, _)| !n.contains(PLANT)) {
                same(
                    a.get(name).unwrap_or_else(|| panic!("{path}.{name} is gone: {now}")),
                    v,
                    &format!("{path}.{name}"),
                );
            }
            assert_eq!(a.len(), b.len(), "{path}: {now} {wanted}");
        }
        _ => assert_eq!(now, wanted, "{path}"),
    }
}

thread_local! {
    static DIR: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
    static FILTER: RefCell<Native<Privacy>> = RefCell::new({
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("privacy.yaml");
        std::fs::write(&policy, "").unwrap();
        let filter = Native::load(&policy).unwrap();
        DIR.set(Some(dir));
        filter
    });
}

fn now() -> Time {
    Time::from_unix(1_714_564_800, 0).unwrap()
}

fn put(tree: &Value, text: &str) -> String {
    let quoted = Value::from(text).to_string();
    tree.to_string().replace(PLANT, &quoted[1..quoted.len() - 1])
}

fn in_sink(record: &str) -> Value {
    let raw = converted([record]);
    let mut out = Events::default();
    FILTER.with_borrow_mut(|f| f.in_sink(&raw, "", now(), &mut out));
    records_of(&out, b"{\"intake\":\"http\"}");
    members(&out).remove(0)
}

/// Without what the filter says of itself.
fn without_marks(v: Value) -> (Value, bool) {
    let mut v = alike(v);
    let mut marked = false;
    if let Some(m) = v.get_mut("metadata").and_then(Value::as_object_mut) {
        marked = m.remove("privacy").is_some();
        m.remove("$enriched");
        m.remove("$$enriched");
        if m.is_empty() {
            v.as_object_mut().unwrap().remove("metadata");
        }
    }
    (v, marked)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_secret_survives_and_nothing_else_changes(tree in trees(), (text, secret) in secrets()) {
        let record = put(&tree, &text);
        let wanted = members(&converted([tree.to_string().as_str()])).remove(0);
        let (now_is, marked) = without_marks(in_sink(&record));
        let whole = now_is.to_string();
        let escaped = Value::from(secret.as_str()).to_string();
        prop_assert!(!whole.contains(&secret) && !whole.contains(&escaped[1..escaped.len() - 1]), "{record} -> {whole}");
        prop_assert!(marked, "{record} -> {whole}");
        let (wanted, _) = without_marks(wanted);
        same(&now_is, &wanted, "");

        let shipped = FILTER.with_borrow_mut(|f| {
            String::from_utf8(f.in_shipper(record.as_bytes(), "", now()).to_vec()).unwrap()
        });
        prop_assert!(!shipped.contains(&secret) && !shipped.contains(&escaped[1..escaped.len() - 1]), "{record} -> {shipped}");
        let (sealed, marked) = without_marks(members(&converted([shipped.as_str()])).remove(0));
        prop_assert!(marked);
        same(&sealed, &wanted, "");
        // What is masked is not found again.
        let again = in_sink(&shipped);
        prop_assert_eq!(without_marks(again).0.to_string(), sealed.to_string());
    }

    #[test]
    fn what_cannot_be_read_is_masked_too(before in "[h-m {\\[\"]{0,20}", (text, secret) in secrets()) {
        prop_assume!(!text.starts_with(['{', '[']));
        let out = in_sink(&format!("{before}{{ {text} "));
        let whole = out.to_string();
        let escaped = Value::from(secret.as_str()).to_string();
        prop_assert!(!whole.contains(&secret) && !whole.contains(&escaped[1..escaped.len() - 1]), "{}", whole);
        prop_assert_eq!(&out["event_type"], "unparsed");
        // No bare hash of it stays.
        prop_assert!(out["metadata"].get("$raw_sha256").is_none());
    }

    #[test]
    fn fields_are_found_in_any_spelling(name in prop::sample::select(vec![
        "password", "userPassword", "USER_PASSWORD", "x-api-key", "apiKey", "set-cookie", "Set-Cookie", "credit_card", "creditCardNumber",
        "bank_account", "medicalRecord", "medical-record-number", "ssn", "SSN", "socialSecurityNumber", "authorization", "Proxy-Authorization",
        "client.secret", "db password", "accessToken", "CVV", "date_of_birth",
    ]), value in "[a-z]{8,20}", deep in trees()) {
        let named = json!({name: value});
        let record = deep.to_string().replace(&json!({PLANT: 1}).to_string(), &named.to_string());
        let record = record.replace(&json!(PLANT).to_string(), &named.to_string());
        let out = in_sink(&record).to_string();
        prop_assert!(!out.contains(&value), "{record} -> {out}");
        // And in a text.
        if !name.contains(' ') {
            let out = in_sink(&json!({"message": format!("a {name}={value} b")}).to_string()).to_string();
            prop_assert!(!out.contains(&value), "{out}");
        }
    }
}

/// Records of few names, texts and types, which repeat.
fn repeating() -> impl Strategy<Value = Vec<Value>> {
    let text = prop::sample::select(vec![
        "plain words, long enough to be kept",
        "from 198.51.100.7, and some more words",
        "4111 1111 1111 1111 and some more words",
        "4111 1111 1111 1112 and some more words",
        "of order 4111111111111111 or so",
    ]);
    let name = prop::sample::select(vec!["labels", "order", "phone", "note", "token_count", "user_id", "a"]);
    let value = (name.clone(), text.clone(), any::<u8>()).prop_map(|(name, text, how)| match how % 5 {
        0 => json!({name: text}),
        1 => json!({"b": {name: text}, "c": "nothing that would be of any interest"}),
        2 => json!([text, {name: "nothing that would be of any interest"}]),
        3 => json!({"kind": "Secret", "data": {name: text}}),
        _ => json!(text),
    });
    let kind = prop::sample::select(vec![
        ("authentication", "login"),
        ("data_access", "data_read"),
        ("custom", "note"),
    ]);
    let record = (kind, name.clone(), value.clone(), name, value).prop_map(|((c, t), n1, v1, n2, v2)| {
        json!({"category": c, "event_type": t, n1: v1.clone(), "inner": {n2: v2, n1: v1}})
    });
    prop::collection::vec(record, 2..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_seen_before_changes_nothing(records in repeating()) {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("privacy.yaml");
        std::fs::write(&policy, "rules:\n  - {id: ips, find: [ip], types: [authentication], action: redact}\n  - {id: notes, fields: [note], types: [custom], action: redact}\n").unwrap();
        let mut old = Native::<Privacy>::load(&policy).unwrap();
        let mut fresh = Native::<Privacy>::load(&policy).unwrap();
        for (i, record) in records.iter().enumerate() {
            let record = record.to_string();
            if i > 0 {
                fresh = Native::load(&policy).unwrap();
            }
            let raw = converted([record.as_str()]);
            let (mut a, mut b) = (Events::default(), Events::default());
            old.in_sink(&raw, "", now(), &mut a);
            fresh.in_sink(&raw, "", now(), &mut b);
            prop_assert_eq!(members(&a), members(&b), "{}", record);
            prop_assert_eq!(old.in_shipper(record.as_bytes(), "", now()), fresh.in_shipper(record.as_bytes(), "", now()));
        }
    }
}
