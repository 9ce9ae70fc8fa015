//! JSON as it stands in its text: values are spans, and nothing is decoded before someone asks.
//!
//! The texts are valid JSON by construction (a host wrote them) or have been checked ([`Value::checked`]). Broken ones give
//! wrong answers, never a panic.

use std::borrow::Cow;

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
        let end = end_of(text, at)?;
        Some(Value(&text[at..end]))
    }

    /// A whole text that somebody else wrote, if it is JSON and nested at most 60 deep.
    pub fn checked(text: &'a str) -> Option<Value<'a>> {
        let value = Value::first(text.as_bytes())?;
        let rest = text.trim_start().len() - value.0.len();
        if !text[text.len() - rest..].trim().is_empty() || depth(value.0) > 60 {
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
    pub fn members(self) -> Members<'a> {
        let open = self.0.first() == Some(&b'{');
        Members { text: self.0, at: if open { 1 } else { self.0.len() } }
    }

    /// The elements of an array; nothing for any other value.
    pub fn elements(self) -> Elements<'a> {
        let open = self.0.first() == Some(&b'[');
        Elements { text: self.0, at: if open { 1 } else { self.0.len() } }
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
        if let Some(whole) = self.get(path) {
            return Some(whole);
        }
        path.match_indices('.').find_map(|(at, _)| self.get(&path[..at])?.path(&path[at + 1..]))
    }
}

/// See [`Value::members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let t = self.text;
        let mut at = skip_space(t, self.at);
        if t.get(at) == Some(&b',') {
            at = skip_space(t, at + 1);
        }
        if t.get(at) != Some(&b'"') {
            self.at = t.len();
            return None;
        }
        // What is broken from here on is the end.
        self.at = t.len();
        let key_end = end_of(t, at)?;
        let colon = skip_space(t, key_end);
        if t.get(colon) != Some(&b':') {
            return None;
        }
        let from = skip_space(t, colon + 1);
        let end = end_of(t, from)?;
        self.at = end;
        Some((&t[at + 1..key_end - 1], Value(&t[from..end])))
    }
}

/// See [`Value::elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let t = self.text;
        let mut at = skip_space(t, self.at);
        if t.get(at) == Some(&b',') {
            at = skip_space(t, at + 1);
        }
        if matches!(t.get(at), None | Some(b']')) {
            self.at = t.len();
            return None;
        }
        self.at = t.len();
        let end = end_of(t, at)?;
        self.at = end;
        Some(Value(&t[at..end]))
    }
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Where the string ends that opens at `at`.
fn string_end(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        let rest = text.get(at..)?;
        at += quote_or_escape(rest)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The first `"` or `\`. Names and values are short: eight bytes at a time, with nothing to set up.
#[inline]
fn quote_or_escape(text: &[u8]) -> Option<usize> {
    let (words, tail) = text.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let w = u64::from_le_bytes(*word);
        let zero = |v: u64| v.wrapping_sub(ONES) & !v & HIGH;
        let hit = zero(w ^ (ONES * u64::from(b'"'))) | zero(w ^ (ONES * u64::from(b'\\')));
        if hit != 0 {
            return Some(8 * i + (hit.trailing_zeros() / 8) as usize);
        }
    }
    let at = tail.iter().position(|c| matches!(c, b'"' | b'\\'))?;
    Some(text.len() - tail.len() + at)
}

/// Where the value ends that begins at `at`.
fn end_of(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => string_end(text, at),
        b'{' | b'[' => {
            let mut depth = 0usize;
            let mut at = at;
            loop {
                match text.get(at)? {
                    b'"' => {
                        at = string_end(text, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
        }
        b'}' | b']' | b',' | b':' => None,
        _ => {
            let rest = &text[at..];
            let stop = |c: &u8| matches!(c, b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\n' | b'\r' | b'"');
            Some(at + rest.iter().position(stop).unwrap_or(rest.len()))
        }
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
