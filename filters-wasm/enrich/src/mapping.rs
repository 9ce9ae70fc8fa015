//! The mapping language: how an event of one's own application becomes an event of the schema.
//!
//! ```yaml
//! mappings:
//!   - name: shop-login
//!     when: {tag: "shop.*", equals: {event: user.login}}
//!     parse: {field: message, as: key_value}
//!     category: authentication
//!     event_type: login_attempt
//!     set:
//!       user_id: usr.name                                  # a path
//!       success: {field: outcome, map: {ok: true, fail: false}}
//!       method: {const: password}
//!       timestamp: {field: ts, time: unix_ms}
//! ```

use crate::schema;
use crate::times::{Clock, Read, of_nanos};
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use waxseal_filter_abi::config::glob;
use waxseal_filter_abi::view::Kind;
use waxseal_filter_abi::{Event, Value};
use waxseal_trail::record::Member;
use waxseal_trail::time::Time;

/// A mapping as the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMapping {
    /// Its name, for `--explain`.
    pub name: Option<String>,
    /// Which events it is for; all of the conditions must hold. Default: all events.
    #[serde(default)]
    pub when: RawWhen,
    /// Text that is taken apart first; what it yields can be named in `set` like any field.
    pub parse: Option<RawParse>,
    /// The category: a constant or an expression.
    pub category: Option<Expr>,
    /// The type: a constant or an expression.
    pub event_type: Option<Expr>,
    /// What is set: members of the record (`actor`, `resource`, `action`, `result`, `correlation_id`, `session_id`,
    /// `request_id`, `event_id`, `timestamp`) and names of metadata.
    #[serde(default)]
    pub set: BTreeMap<String, Expr>,
}

/// Conditions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawWhen {
    /// The shipper's tag, with `*`.
    pub tag: Option<String>,
    /// Fields that must be there.
    pub has: Vec<String>,
    /// Fields that must not.
    pub has_not: Vec<String>,
    /// Fields and the texts that they must be.
    pub equals: BTreeMap<String, Word>,
    /// Fields and the texts of which they must be one.
    pub one_of: BTreeMap<String, Vec<Word>>,
    /// Fields and regular expressions that must match somewhere in them.
    pub matches: BTreeMap<String, String>,
}

/// Text, or a number or boolean as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Word(pub String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Const::deserialize(d)? {
            Const::Text(t) => Ok(Word(t)),
            Const::Bool(b) => Ok(Word(b.to_string())),
            Const::Number(n) => {
                let mut out = Vec::new();
                waxseal_trail::json::write_number(n, &mut out);
                Ok(Word(String::from_utf8(out).unwrap_or_default()))
            }
        }
    }
}

/// How a text is taken apart.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawParse {
    /// The field.
    pub field: String,
    /// `key_value` (`a=1 b="x y"`), `json`, or `regex` with named groups.
    #[serde(rename = "as")]
    pub how: How,
    /// The regular expression.
    pub pattern: Option<String>,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // see RawParse::how
pub enum How {
    KeyValue,
    Json,
    Regex,
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each is its name
pub(crate) enum Const {
    Text(String),
    Bool(bool),
    Number(f64),
}

impl<'de> Deserialize<'de> for Const {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Const;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("text, a number, true or false")
            }
            fn visit_str<E>(self, v: &str) -> Result<Const, E> {
                Ok(Const::Text(v.into()))
            }
            fn visit_bool<E>(self, v: bool) -> Result<Const, E> {
                Ok(Const::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Const, E> {
                Ok(Const::Number(v as f64))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Const, E> {
                Ok(Const::Number(v as f64))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Const, E> {
                Ok(Const::Number(v))
            }
        }
        d.deserialize_any(Any)
    }
}

/// What a value is made of: a path alone, or its parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expr {
    fields: Vec<String>,
    constant: Option<Const>,
    map: Vec<(String, Const)>,
    default: Option<Const>,
    time: Option<String>,
    to: Option<Convert>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Convert {
    Text,
    Number,
    Bool,
    List,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpr {
    /// A path, or several: the first that leads to something.
    field: Option<OneOrMany>,
    #[serde(rename = "const")]
    constant: Option<Const>,
    #[serde(default)]
    map: BTreeMap<String, Const>,
    default: Option<Const>,
    time: Option<String>,
    to: Option<Convert>,
}

struct OneOrMany(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path or a list of paths")
            }
            fn visit_str<E>(self, v: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![v.into()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                Ok(OneOrMany(all))
            }
        }
        d.deserialize_any(Any)
    }
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Expr;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path, or an object with field, const, map, default, time, to")
            }
            fn visit_str<E>(self, v: &str) -> Result<Expr, E> {
                Ok(Expr { fields: vec![v.into()], ..Expr::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Expr, A::Error> {
                let raw = RawExpr::deserialize(de::value::MapAccessDeserializer::new(map))?;
                if raw.field.is_none() == raw.constant.is_none() {
                    return Err(de::Error::custom("one of field and const is wanted, and not both"));
                }
                Ok(Expr {
                    fields: raw.field.map(|f| f.0).unwrap_or_default(),
                    constant: raw.constant,
                    map: raw.map.into_iter().collect(),
                    default: raw.default,
                    time: raw.time,
                    to: raw.to,
                })
            }
        }
        d.deserialize_any(Any)
    }
}

/// A mapping that is ready to run.
#[derive(Debug)]
pub(crate) struct Mapping {
    name: String,
    tag: Option<String>,
    has: Vec<String>,
    has_not: Vec<String>,
    one_of: Vec<(String, Vec<Word>)>,
    matches: Vec<(String, regex_lite::Regex)>,
    parse: Option<(String, How, Option<regex_lite::Regex>)>,
    category: Option<Expr>,
    event_type: Option<Expr>,
    set: Vec<(String, Expr)>,
}

/// Regular expressions of a configuration may take so much memory; they are linear in time whatever they are.
const REGEX_BYTES: usize = 1 << 20;

fn regex(pattern: &str) -> Result<regex_lite::Regex, String> {
    let mut builder = regex_lite::RegexBuilder::new(pattern);
    builder.size_limit(REGEX_BYTES).build().map_err(|e| format!("{pattern:?}: {e}"))
}

/// Members that a mapping may set beside category and type.
const SETTABLE: [Member; 10] = [
    Member::Action,
    Member::Actor,
    Member::CorrelationId,
    Member::EventId,
    Member::RequestId,
    Member::Resource,
    Member::Result,
    Member::SessionId,
    Member::Timestamp,
    Member::Schema,
];

fn settable(name: &str) -> Option<Member> {
    SETTABLE.into_iter().find(|m| m.name() == name)
}

impl Mapping {
    /// From the file's.
    ///
    /// # Errors
    /// A text with the key.
    pub(crate) fn new(raw: RawMapping) -> Result<Mapping, String> {
        for name in raw.set.keys() {
            if name.starts_with('$') || name == "metadata" {
                return Err(format!("set.{name}: not a name that can be set"));
            }
        }
        // A constant type is held to the schema now; one that an event gives, when it comes.
        let constant = |e: &Option<Expr>| match e.as_ref().and_then(|e| e.constant.as_ref()) {
            Some(Const::Text(t)) => Some(t.clone()),
            _ => None,
        };
        let literal = |e: Option<Expr>| {
            // `category: authentication` is no path.
            e.map(|e| match e.fields.as_slice() {
                [one] if e == (Expr { fields: vec![one.clone()], ..Expr::default() }) => {
                    Expr { constant: Some(Const::Text(one.clone())), ..Expr::default() }
                }
                _ => e,
            })
        };
        let (category, event_type) = (literal(raw.category), literal(raw.event_type));
        if let Some(t) = constant(&event_type) {
            let known = match constant(&category) {
                Some(c) => schema::find(&c, &t).is_some(),
                None => schema::by_type(&t).is_some(),
            };
            if !known {
                return Err(format!("event_type: {t:?} is no type of the schema's (waxseal filter schema)"));
            }
        }
        let equals = raw.when.equals.into_iter().map(|(k, v)| (k, vec![v]));
        let parse = raw
            .parse
            .map(|p| {
                let pattern = match (p.how, &p.pattern) {
                    (How::Regex, Some(r)) => Some(regex(r).map_err(|e| format!("parse.pattern: {e}"))?),
                    (How::Regex, None) => return Err("parse.pattern: missing".into()),
                    (_, Some(_)) => return Err("parse.pattern: only for regex".to_owned()),
                    (_, None) => None,
                };
                Ok((p.field, p.how, pattern))
            })
            .transpose()?;
        Ok(Mapping {
            name: raw.name.unwrap_or_default(),
            tag: raw.when.tag,
            has: raw.when.has,
            has_not: raw.when.has_not,
            one_of: equals.chain(raw.when.one_of).collect(),
            matches: raw
                .when
                .matches
                .iter()
                .map(|(k, p)| Ok((k.clone(), regex(p).map_err(|e| format!("when.matches.{k}: {e}"))?)))
                .collect::<Result<_, String>>()?,
            parse,
            category,
            event_type,
            set: raw.set.into_iter().collect(),
        })
    }

    /// Maps the event if it is for it. `body` is the JSON object that an event carries as text, if it carries one.
    pub(crate) fn run(&self, event: &mut Event<'_>, body: Option<Value<'_>>, clock: &Clock) -> bool {
        if !self.tag.as_ref().is_none_or(|t| glob(t, event.tag())) {
            return false;
        }
        let parts = {
            let find = |path: &str| find(event, body, path);
            let word = |path: &str| find(path).and_then(|v| v.word());
            let fits = self.has.iter().all(|p| find(p).is_some())
                && self.has_not.iter().all(|p| find(p).is_none())
                && self.one_of.iter().all(|(p, all)| word(p).is_some_and(|w| all.iter().any(|x| *x.0 == *w)))
                && self.matches.iter().all(|(p, r)| word(p).is_some_and(|w| r.is_match(&w)));
            if !fits {
                return false;
            }
            match &self.parse {
                None => Vec::new(),
                Some((field, how, pattern)) => match word(field) {
                    None => return false,
                    Some(text) => match take_apart(&text, *how, pattern.as_ref()) {
                        Some(parts) => parts,
                        None => return false,
                    },
                },
            }
        };
        event.explain(|| format!("mapping {}: its conditions hold", self.name));
        let mut all: Vec<(Target<'_>, Out)> = Vec::new();
        for (member, expr) in [(Member::Category, &self.category), (Member::EventType, &self.event_type)] {
            if let Some(out) = expr.as_ref().and_then(|e| e.value(event, body, &parts, clock)) {
                all.push((Target::Member(member), out));
            }
        }
        for (name, expr) in &self.set {
            if let Some(out) = expr.value(event, body, &parts, clock) {
                let target = settable(name).map_or(Target::Metadata(name), Target::Member);
                all.push((target, out));
            }
        }
        for (target, out) in all {
            out.put(event, target);
        }
        if self.category.is_none()
            && let Some(kind) = event.text(Member::EventType).and_then(|t| schema::by_type(&t))
        {
            event.set_if_absent(Member::Category, kind.category);
        }
        true
    }
}

fn find<'a>(event: &Event<'a>, body: Option<Value<'a>>, path: &str) -> Option<Value<'a>> {
    event.path(path).or_else(|| body?.path(path))
}

enum Target<'n> {
    Member(Member),
    Metadata(&'n str),
}

/// A value on its way into an event.
enum Out {
    Text(String),
    Bool(bool),
    Number(f64),
    Time(Read),
    /// JSON of the source's; whether it stands in a text of the source's, and not in the event.
    Json(Vec<u8>, bool),
    List(Vec<String>),
}

impl Out {
    fn of(c: &Const) -> Out {
        match c {
            Const::Text(t) => Out::Text(t.clone()),
            Const::Bool(b) => Out::Bool(*b),
            Const::Number(n) => Out::Number(*n),
        }
    }

    fn text(&self) -> Option<String> {
        Some(match self {
            Out::Text(t) => t.clone(),
            Out::Bool(b) => b.to_string(),
            Out::Number(n) => {
                let mut out = Vec::new();
                waxseal_trail::json::write_number(*n, &mut out);
                String::from_utf8(out).ok()?
            }
            Out::Time(r) => String::from_utf8(r.time.text().to_vec()).ok()?,
            // A number as the source wrote it.
            Out::Json(text, _) if text.first().is_some_and(|c| *c == b'-' || c.is_ascii_digit()) => {
                String::from_utf8(text.clone()).ok()?
            }
            // One that a record holds as text.
            Out::Json(text, false) => Value::first(text)?.get("$number")?.str()?.into_owned(),
            Out::Json(..) | Out::List(_) => return None,
        })
    }

    fn put(self, event: &mut Event<'_>, target: Target<'_>) {
        match target {
            Target::Member(Member::Timestamp) => match &self {
                Out::Time(r) => crate::set_time(event, *r),
                other => {
                    if let Some(t) = other.text().and_then(|t| Time::parse_rfc3339(&t)) {
                        event.set_time(t);
                    }
                }
            },
            Target::Member(Member::EventId) => {
                if let Some(t) = self.text().map(|t| t.to_ascii_lowercase())
                    && waxseal_trail::record::is_uuid(t.as_bytes())
                {
                    event.set(Member::EventId, &t);
                }
            }
            Target::Member(m) => {
                if let Some(t) = self.text() {
                    let forged = (m == Member::Category && t == "trail")
                        || (m == Member::EventType && t == "unparsed");
                    if !forged {
                        event.set(m, &t);
                    }
                }
            }
            Target::Metadata(name) => {
                let name = Cow::Owned(name.to_owned());
                match self {
                    Out::Text(t) => event.add(name, &t),
                    Out::Bool(b) => event.add_bool(name, b),
                    Out::Number(n) => event.add_number(name, n),
                    Out::Time(r) => {
                        let text = r.time.text();
                        event.add(name, std::str::from_utf8(&text).unwrap_or_default());
                    }
                    Out::Json(text, embedded) => {
                        if let Some(v) = Value::first(&text) {
                            event.add_value(name, v, embedded);
                        }
                    }
                    Out::List(all) => crate::add_list(event, name, all.iter().map(String::as_str)),
                }
            }
        }
    }
}

impl Expr {
    fn value(
        &self,
        event: &Event<'_>,
        body: Option<Value<'_>>,
        parts: &[(String, String)],
        clock: &Clock,
    ) -> Option<Out> {
        if let Some(c) = &self.constant {
            return Some(Out::of(c));
        }
        let found = self.fields.iter().find_map(|path| {
            let part = parts.iter().find(|(k, _)| k == path);
            part.map(|(_, v)| Out::Text(v.clone())).or_else(|| match event.path(path) {
                Some(v) => Some(of_value(v, false)),
                None => Some(of_value(body?.path(path)?, true)),
            })
        });
        let made = found.and_then(|out| self.convert(out, clock, event.time()));
        made.or_else(|| self.default.as_ref().map(Out::of))
    }

    fn convert(&self, out: Out, clock: &Clock, near: Time) -> Option<Out> {
        if !self.map.is_empty() {
            let text = out.text()?;
            return self.map.iter().find(|(k, _)| *k == text).map(|(_, c)| Out::of(c));
        }
        if let Some(format) = &self.time {
            return time(&out.text()?, format, clock, near).map(Out::Time);
        }
        match self.to {
            None => Some(out),
            Some(Convert::Text) => Some(Out::Text(match out {
                Out::Json(text, _) => String::from_utf8(text).ok()?,
                other => other.text()?,
            })),
            Some(Convert::Number) => out.text()?.trim().parse().ok().map(Out::Number),
            Some(Convert::Bool) => match out.text()?.to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" | "on" | "ok" | "success" => Some(Out::Bool(true)),
                "false" | "no" | "0" | "off" | "fail" | "failed" | "failure" => Some(Out::Bool(false)),
                _ => None,
            },
            Some(Convert::List) => Some(match out {
                Out::Json(text, embedded) => Out::Json(text, embedded),
                other => {
                    let text = other.text()?;
                    let split = text.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
                    Out::List(split.collect())
                }
            }),
        }
    }
}

fn of_value(v: Value<'_>, embedded: bool) -> Out {
    match v.kind() {
        Kind::String => Out::Text(v.str().unwrap_or_default().into_owned()),
        Kind::Bool => Out::Bool(v.bool().unwrap_or_default()),
        // As it stands: a double could bend it.
        Kind::Number | Kind::Array | Kind::Object | Kind::Null => Out::Json(v.text().to_vec(), embedded),
    }
}

/// `near` is the shipper's time, for those that have no year.
fn time(text: &str, format: &str, clock: &Clock, near: Time) -> Option<Read> {
    let unix = |unit: i64| {
        let n: f64 = text.trim().parse().ok()?;
        let whole: Option<i64> = text.trim().parse().ok();
        let nanos = match whole {
            Some(n) => i128::from(n) * i128::from(1_000_000_000 / unit),
            None => (n * (1_000_000_000 / unit) as f64) as i128,
        };
        let time = of_nanos(nanos)?;
        Some(Read { time, zone_assumed: false, year_assumed: false })
    };
    match format {
        "unix" => unix(1),
        "unix_ms" => unix(1_000),
        "unix_us" => unix(1_000_000),
        "unix_ns" => unix(1_000_000_000),
        "rfc3339" | "iso8601" => clock.iso(text),
        "access_log" => clock.access(text),
        "syslog" => clock.syslog(text, near).map(|(r, _)| r),
        other => clock.by_format(other, text),
    }
}

fn take_apart(text: &str, how: How, pattern: Option<&regex_lite::Regex>) -> Option<Vec<(String, String)>> {
    match how {
        How::KeyValue => {
            let all: Vec<_> = key_values(text).map(|(k, v)| (k.to_owned(), v.into_owned())).collect();
            (!all.is_empty()).then_some(all)
        }
        How::Json => {
            let v = Value::checked(text).filter(|v| v.kind() == Kind::Object)?;
            let mut all = Vec::new();
            flatten("", v, &mut all);
            Some(all)
        }
        How::Regex => {
            let pattern = pattern?;
            let found = pattern.captures(text)?;
            let names = pattern.capture_names().flatten();
            Some(names.filter_map(|n| Some((n.to_owned(), found.name(n)?.as_str().to_owned()))).collect())
        }
    }
}

fn flatten(prefix: &str, v: Value<'_>, all: &mut Vec<(String, String)>) {
    for (key, value) in v.members() {
        let name = format!("{prefix}{}", String::from_utf8_lossy(key));
        if value.kind() == Kind::Object {
            flatten(&format!("{name}."), value, all);
        } else if let Some(word) = value.word() {
            all.push((name, word.into_owned()));
        }
    }
}

/// `a=1 b="x \"y\"" c='z'`, as logfmt, auditd and many a program write it.
pub(crate) fn key_values(text: &str) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    quoted_values(text).map(|(key, value, _)| (key, value))
}

/// The same; with whether the value stood between quotes.
pub(crate) fn quoted_values(text: &str) -> impl Iterator<Item = (&str, Cow<'_, str>, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let equals = rest.find('=')?;
            let key = rest[..equals]
                .rsplit(|c: char| c.is_whitespace() || c == ',' || c == ';')
                .next()
                .unwrap_or_default();
            let key = key.trim_start_matches(['(', '[', '{']);
            let after = &rest[equals + 1..];
            let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
            let (value, end) = match quote {
                Some(q) => quoted(&after[1..], q),
                None => {
                    let end = after
                        .find(|c: char| c.is_whitespace() || matches!(c, ',' | ';'))
                        .unwrap_or(after.len());
                    (Cow::Borrowed(&after[..end]), end)
                }
            };
            rest = &after[end..];
            if !key.is_empty() {
                return Some((key, value, quote.is_some()));
            }
        }
    })
}

/// The text up to the closing quote, and where what follows begins (after the opening quote, counted with it).
fn quoted(text: &str, quote: char) -> (Cow<'_, str>, usize) {
    let mut escape = false;
    let mut plain = true;
    for (i, c) in text.char_indices() {
        match c {
            _ if escape => escape = false,
            '\\' if quote == '"' => {
                escape = true;
                plain = false;
            }
            c if c == quote => {
                let inner = &text[..i];
                let value = if plain {
                    Cow::Borrowed(inner)
                } else {
                    let mut out = String::with_capacity(inner.len());
                    let mut escape = false;
                    for c in inner.chars() {
                        if c == '\\' && !escape {
                            escape = true;
                        } else {
                            out.push(c);
                            escape = false;
                        }
                    }
                    Cow::Owned(out)
                };
                return (value, i + 2);
            }
            _ => {}
        }
    }
    (Cow::Borrowed(text), text.len() + 1)
}
