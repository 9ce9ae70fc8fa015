//! JSON as it stands in its text: values are spans, and nothing is decoded before someone asks.
//!
//! The texts are valid JSON by construction (a host wrote them) or have been checked ([`Value::checked`]). Broken ones give
//! wrong answers, never a panic.

use std::borrow::Cow;
use waxseal_trail::scan::{self, skip_space, string_end, value_end};

/// A JSON value: its text, without white space around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is its name
pub enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl<'a> Value<'a> {
    /// The value that begins `text`; `None` if there is none.
    pub fn first(text: &'a [u8]) -> Option<Value<'a>> {
        let at = skip_space(text, 0);
        let end = value_end(text, at)?;
        Some(Value(&text[at..end]))
    }

    /// A text that is one value, without white space around it; `None` if it is empty.
    pub(crate) fn whole(text: &'a [u8]) -> Option<Value<'a>> {
        if text.is_empty() { None } else { Some(Value(text)) }
    }

    /// A whole text that somebody else wrote, if it is JSON and nested at most 60 deep.
    pub fn checked(text: &'a str) -> Option<Value<'a>> {
        let value = Value::first(text.as_bytes())?;
        // White space is JSON's: a form feed is none.
        let end = skip_space(text.as_bytes(), 0) + value.0.len();
        if skip_space(text.as_bytes(), end) < text.len() || depth(value.0) > 60 {
            return None;
        }
        serde_json::from_slice::<serde::de::IgnoredAny>(value.0).ok()?;
        Some(value)
    }

    /// Its text.
    pub fn text(self) -> &'a [u8] {
        self.0
    }

    /// What it is.
    pub fn kind(self) -> Kind {
        match self.0.first() {
            Some(b'"') => Kind::String,
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }

    /// Its text if it is a string, decoded.
    pub fn str(self) -> Option<Cow<'a, str>> {
        let inner = self.raw_str()?;
        if memchr::memchr(b'\\', inner).is_none() {
            return Some(match std::str::from_utf8(inner) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => String::from_utf8_lossy(inner).into_owned().into(),
            });
        }
        Some(match serde_json::from_slice::<String>(self.0) {
            Ok(text) => Cow::Owned(text),
            // A lone surrogate, or bytes that are not UTF-8.
            Err(_) => Cow::Owned(String::from_utf8_lossy(inner).into_owned()),
        })
    }

    /// What stands between the quotes if it is a string, escapes and all.
    pub fn raw_str(self) -> Option<&'a [u8]> {
        (self.kind() == Kind::String && self.0.len() >= 2).then(|| &self.0[1..self.0.len() - 1])
    }

    /// Its value if it is a boolean.
    pub fn bool(self) -> Option<bool> {
        match self.0 {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    /// Its value if it is an integer of 64 bits, written without fraction or exponent.
    pub fn int(self) -> Option<i64> {
        (self.kind() == Kind::Number).then(|| std::str::from_utf8(self.0).ok()?.parse().ok())?
    }

    /// Its nearest double if it is a number.
    pub fn number(self) -> Option<f64> {
        (self.kind() == Kind::Number).then(|| std::str::from_utf8(self.0).ok()?.parse().ok())?
    }

    /// The text of a string, or a number or boolean as it is written: what a person would call its text.
    pub fn word(self) -> Option<Cow<'a, str>> {
        match self.kind() {
            Kind::String => self.str(),
            Kind::Number | Kind::Bool => std::str::from_utf8(self.0).ok().map(Cow::Borrowed),
            _ => None,
        }
    }

    /// The member `name` (which needs no escape in JSON) of an object.
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        self.members().find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value)
    }

    /// The members of an object, keys as they stand between their quotes; nothing for any other value.
    pub fn members(self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + Clone {
        scan::members(self.0).map(|(name, value)| (name, Value(value)))
    }

    /// The elements of an array; nothing for any other value.
    pub fn elements(self) -> impl Iterator<Item = Value<'a>> + Clone {
        scan::elements(self.0).map(Value)
    }

    /// How deep objects and arrays are nested in it.
    pub fn depth(self) -> usize {
        depth(self.0)
    }

    /// Where a dotted path leads: `a.b.0.c`; numbers count array elements. A name with dots in it is found before its
    /// parts are.
    pub fn path(self, path: &str) -> Option<Value<'a>> {
        if path.is_empty() {
            return Some(self);
        }
        if self.kind() == Kind::Array {
            let (index, rest) = path.split_once('.').unwrap_or((path, ""));
            return self.elements().nth(index.parse().ok()?)?.path(rest);
        }
        // In one pass, unless several names are beginnings of the path.
        let (mut first, mut more) = (None, false);
        for (name, value) in self.members() {
            if !path.as_bytes().starts_with(name) {
                continue;
            }
            match path.as_bytes().get(name.len()) {
                None => return Some(value),
                Some(b'.') if first.is_none() => first = Some((name.len(), value)),
                Some(b'.') => more = true,
                Some(_) => {}
            }
        }
        if more {
            return path.match_indices('.').find_map(|(at, _)| self.get(&path[..at])?.path(&path[at + 1..]));
        }
        let (len, value) = first?;
        value.path(&path[len + 1..])
    }
}

/// How deep objects and arrays are nested in a value.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut most, mut at) = (0usize, 0, 0);
    while let Some(c) = text.get(at) {
        match c {
            b'"' => match string_end(text, at) {
                Some(end) => {
                    at = end;
                    continue;
                }
                None => break,
            },
            b'{' | b'[' => {
                depth += 1;
                most = most.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn white_space_is_jsons() {
        for text in ["{}", " {}\n", "\t[1]\r"] {
            assert!(Value::checked(text).is_some(), "{text:?}");
        }
        for text in ["\x0c{S{", "\x0c{}", "{}\x0c", "\u{a0}{}", "{}\u{a0}", "{} {}", "{", ""] {
            assert!(Value::checked(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn values_are_found_where_they_stand() {
        let text = br#" {"a" : [1, {"b":"x\"y"} ,true], "c.d":{"e":null},"n":-1.5e3, "s":"\u00e9"} "#;
        let v = Value::first(text).unwrap();
        assert_eq!(v.path("a.0").unwrap().int(), Some(1));
        assert_eq!(v.path("a.1.b").unwrap().str().unwrap(), "x\"y");
        assert_eq!(v.path("a.2").unwrap().bool(), Some(true));
        assert_eq!(v.path("c.d.e").unwrap().kind(), Kind::Null);
        assert_eq!(v.path("n").unwrap().number(), Some(-1500.0));
        assert_eq!(v.path("s").unwrap().str().unwrap(), "é");
        assert_eq!(v.path("a.3"), None);
        assert_eq!(v.members().count(), 4);
        assert!(Value::checked("{\"a\":1} x").is_none());
        assert!(Value::checked("{\"a\":}").is_none());
        assert_eq!(Value::checked("  [1] \n").unwrap().text(), b"[1]");
        assert!(Value::checked(&"[".repeat(100)).is_none());
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map("[a-z]{1,4}", inner, 0..5)
                    .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn same(view: Value<'_>, value: &serde_json::Value) {
        match value {
            serde_json::Value::Array(all) => {
                assert_eq!(view.elements().count(), all.len());
                view.elements().zip(all).for_each(|(v, x)| same(v, x));
            }
            serde_json::Value::Object(all) => {
                assert_eq!(view.members().count(), all.len());
                for (name, x) in all {
                    same(view.get(name).unwrap(), x);
                }
            }
            serde_json::Value::String(s) => assert_eq!(view.str().unwrap(), *s),
            other => assert_eq!(view.text(), other.to_string().as_bytes()),
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(value in any_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap();
            same(Value::checked(&text).unwrap(), &value);
        }

        #[test]
        fn nothing_panics(text in prop::collection::vec(prop_oneof![Just(b'"'), Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b'\\'), Just(b','), Just(b':'), any::<u8>()], 0..64)) {
            fn walk(v: Value<'_>, left: &mut u32) {
                if *left == 0 { return }
                *left -= 1;
                let _ = (v.kind(), v.str(), v.word(), v.int(), v.number(), v.path("a.0.b"));
                v.members().for_each(|(_, v)| walk(v, left));
                v.elements().for_each(|v| walk(v, left));
            }
            if let Some(v) = Value::first(&text) { walk(v, &mut 1000); }
            depth(&text);
            if let Ok(text) = std::str::from_utf8(&text) { let _ = Value::checked(text); }
        }
    }
}
