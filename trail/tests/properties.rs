//! Properties: canonical form is a fixed point and what an oracle says; the conversion can be undone, and so is
//! injective; no input makes anything panic.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use waxseal_trail::hash::Hash;
use waxseal_trail::json::{canonicalize, compare_names, is_canonical, split_array};
use waxseal_trail::record::{Change, Checker, Converter, Events, Link, Member, Rewriter, Template};
use waxseal_trail::time::Time;

fn value(keys: &'static str) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<f64>().prop_filter_map("finite", |x| serde_json::Number::from_f64(x).map(Value::Number)),
        "\\PC{0,12}|[\"\\\\\u{0}-\u{1f}é€😀\u{e000}]{0,6}".prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map(keys, inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

const KEYS: &str = "[a-c$]{0,3}|actor|metadata|writer|timestamp|event_id|\\$number|\\$map|\\$displaced|\\PC{0,6}|[😀\u{e000}é]{1,2}";

fn event() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map(KEYS, value(KEYS), 0..8).prop_map(|m| m.into_iter().collect())
}

fn members(text: &[u8]) -> Value {
    let mut events = Events::default();
    Converter::default().json(text, &mut events);
    serde_json::from_slice(&events.members_json(0)).unwrap()
}

/// Undoes the conversion of one value.
fn restore(v: &Value) -> Value {
    match v {
        Value::Object(o) if o.len() == 1 => match o.iter().next().unwrap() {
            (k, Value::String(n)) if k == "$number" => serde_json::from_str(n).unwrap(),
            (k, Value::Array(pairs)) if k == "$map" => {
                json!(pairs.iter().map(|p| json!([p[0], restore(&p[1])])).collect::<Vec<_>>())
            }
            _ => restore_members(o),
        },
        Value::Object(o) => restore_members(o),
        Value::Array(a) => Value::Array(a.iter().map(restore).collect()),
        other => other.clone(),
    }
}

fn restore_members(o: &Map<String, Value>) -> Value {
    let name = |k: &String| k.strip_prefix('$').unwrap_or(k).to_owned();
    Value::Object(o.iter().map(|(k, v)| (name(k), restore(v))).collect())
}

/// Undoes the lifting of one event: what was displaced, the rest of `metadata`, and the lifted members.
fn undo(members: &Value, had_metadata: bool) -> Map<String, Value> {
    let mut out = Map::new();
    let mut inner = Map::new();
    for (k, v) in members.as_object().unwrap() {
        if k != "metadata" {
            out.insert(k.clone(), v.clone());
        }
    }
    for (k, v) in members["metadata"].as_object().into_iter().flatten() {
        if k == "$displaced" {
            for (k, v) in v.as_object().unwrap() {
                let name = k.strip_prefix('$').unwrap_or(k);
                out.insert(name.to_owned(), restore(v));
            }
        } else {
            inner.insert(k.strip_prefix('$').unwrap_or(k).to_owned(), restore(v));
        }
    }
    if had_metadata {
        out.insert("metadata".to_owned(), Value::Object(inner));
    } else {
        out.extend(inner);
    }
    out
}

/// 1.0 = 1, and doubles beyond 2^64 have one text.
fn normal(v: &Value) -> String {
    String::from_utf8(canonicalize(v.to_string().as_bytes()).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn canonical_form_is_a_fixed_point(v in value(KEYS)) {
        let once = canonicalize(v.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&canonicalize(&once).unwrap(), &once);
        // The same value, whatever the white space.
        let pretty = serde_json::to_string_pretty(&v).unwrap();
        prop_assert_eq!(canonicalize(pretty.as_bytes()).unwrap(), once);
    }

    #[test]
    fn what_is_canonical_is_known_without_writing_it(v in value(KEYS), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let once = canonicalize(v.to_string().as_bytes()).unwrap();
        prop_assert!(is_canonical(&once).unwrap());
        // One byte different: the two ways of asking agree.
        let mut other = once;
        let i = at.index(other.len());
        other[i] = byte;
        if let Ok(asked) = is_canonical(&other) {
            prop_assert_eq!(asked, canonicalize(&other).is_ok_and(|c| c == other), "{}", String::from_utf8_lossy(&other));
        }
        for text in ["1e2", "1.0", "-0", "100", "0.10", "{\"b\":1,\"a\":2}", "{\"a\":1,\"a\":2}", "\"\\u0041\"", "\"\\/\"", "\"\\u001F\"", "\"\\n\"", " 1", "[1, 2]"] {
            prop_assert_eq!(is_canonical(text.as_bytes()).unwrap(), canonicalize(text.as_bytes()).is_ok_and(|c| c == text.as_bytes()), "{}", text);
        }
    }

    #[test]
    fn canonical_form_is_the_oracles(v in value(KEYS)) {
        let ours = canonicalize(v.to_string().as_bytes()).unwrap();
        // The oracle takes integers as they are: only doubles are compared.
        let doubles: Value = serde_json::from_slice(&ours).unwrap();
        if let Ok(theirs) = serde_json_canonicalizer::to_vec(&doubles) {
            prop_assert_eq!(String::from_utf8(ours), String::from_utf8(theirs));
        }
    }

    #[test]
    fn conversion_can_be_undone(e in event()) {
        // Without a `metadata` object of its own, or with only that: where both are, what came inside is allowed to differ.
        let own = matches!(e.get("metadata"), Some(Value::Object(_)));
        prop_assume!(!own || e.keys().all(|k| k == "metadata"));
        prop_assume!(!matches!(e.get("metadata"), Some(Value::Object(m)) if m.is_empty()));
        let text = Value::Object(e.clone()).to_string();
        let got = members(text.as_bytes());
        prop_assume!(got["event_type"] != "unparsed");
        let mut back = undo(&got, own);
        // The written form of a time is allowed to differ.
        if e.get("timestamp").and_then(Value::as_str).is_some_and(|t| Time::parse_rfc3339(t).is_some()) {
            back.insert("timestamp".into(), e["timestamp"].clone());
        }
        prop_assert_eq!(normal(&Value::Object(back)), normal(&Value::Object(e)), "{}", got);
    }

    /// What a filter adds to the metadata is as if it had written all of it, and is refused where that would be.
    #[test]
    fn added_members_are_as_if_all_had_been_written(e in event(), new in event()) {
        prop_assume!(!new.is_empty());
        let text = serde_json::to_vec(&e).unwrap();
        let mut from = Events::default();
        Converter::default().json(&text, &mut from);
        let mut parts: Vec<(String, Vec<u8>, Vec<u8>)> = Vec::new();
        for (name, value) in &new {
            let quoted = canonicalize(&serde_json::to_vec(name).unwrap()).unwrap();
            let value = canonicalize(&serde_json::to_vec(value).unwrap()).unwrap();
            parts.push((name.clone(), quoted[1..quoted.len() - 1].to_vec(), value));
        }
        parts.sort_by(|a, b| compare_names(a.0.as_bytes(), b.0.as_bytes()));
        let adds: Vec<Change<'_>> = parts.iter().map(|(_, name, value)| Change::Add(name, value)).collect();
        let mut merged = members(&text)["metadata"].as_object().cloned().unwrap_or_default();
        merged.extend(new.clone());
        let whole = canonicalize(&serde_json::to_vec(&merged).unwrap()).unwrap();
        let (mut one, mut other) = (Events::default(), Events::default());
        let mut rewriter = Rewriter::default();
        let added = rewriter.push(&from, 0, &adds, &mut one);
        let set = rewriter.push(&from, 0, &[Change::Set(Member::Metadata, &whole)], &mut other);
        prop_assert_eq!(added.is_ok(), set.is_ok(), "{:?} {:?} {}", added, set, String::from_utf8_lossy(&whole));
        if set.is_ok() {
            prop_assert_eq!(one.members_json(0), other.members_json(0));
            // In another order it is no answer.
            let back: Vec<Change<'_>> = adds.iter().rev().copied().collect();
            prop_assert_eq!(rewriter.push(&from, 0, &back, &mut Events::default()).is_ok(), adds.len() == 1);
        }
    }

    #[test]
    fn what_is_assembled_is_a_record(texts in prop::collection::vec(prop_oneof![
        event().prop_map(|e| Value::Object(e).to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..200),
    ], 1..6)) {
        let (mut converter, mut events) = (Converter::default(), Events::default());
        texts.iter().for_each(|t| converter.json(t, &mut events));
        texts.iter().for_each(|t| converter.msgpack(t, &mut events));
        let template = Template::new("w.019bc11901007ca690a569ed3e38712f");
        let mut checker = Checker::default();
        for i in 0..events.len() {
            let link = Link {
                sequence: i as u64, previous_hash: Hash::empty(), observed_at: Time::MAX, nonce: [i as u8; 16], id_bits: [7; 10],
            };
            let mut record = Vec::new();
            let (columns, timestamp) = template.assemble(&events, i, b"{\"intake\":\"http\"}", &link, &mut record);
            let view = checker.check(&record).map_err(|m| TestCaseError::fail(format!("{m}: {}", String::from_utf8_lossy(&record))))?;
            prop_assert_eq!(view.sequence, i as u64);
            prop_assert_eq!(view.timestamp, timestamp);
            for c in 0..waxseal_trail::record::STRING_COLUMNS {
                prop_assert_eq!(view.columns.get(&record, c), columns.get(&record, c));
            }
        }
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = canonicalize(&bytes);
        let _ = split_array(&bytes).map(Iterator::count);
        let _ = Checker::default().check(&bytes);
        let _ = waxseal_trail::envelope::Envelope::parse(&bytes);
        let _ = waxseal_trail::keys::PublicKey::from_spki(&bytes);
        let mut events = Events::default();
        let _ = Converter::default().msgpack_prefix(&bytes, &mut events);
    }
}

/// Every element of a split array is what a parser sees there.
#[test]
fn arrays_are_split_where_their_commas_are() {
    let split = |t: &str| {
        split_array(t.as_bytes())
            .map(|p| p.map(|b| String::from_utf8_lossy(b).into_owned()).collect::<Vec<_>>())
    };
    assert_eq!(split("[]"), Some(vec![]));
    assert_eq!(
        split(" [ 1 , {\"a\":\"],\\\"\"} ,[2,3]] "),
        Some(vec!["1".into(), "{\"a\":\"],\\\"\"}".into(), "[2,3]".into()])
    );
    for bad in ["[1,]", "[,1]", "[1,,2]", "[1", "1]", "[\"a]", "[{]", "[1]]", "{}"] {
        assert_eq!(split(bad), None, "{bad}");
    }
}
