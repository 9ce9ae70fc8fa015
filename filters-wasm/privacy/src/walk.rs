//! Over the JSON of an event, once: what rules hide is noted as edits of the text, which is only copied if there are any.

use crate::act;
use crate::detect::{Found, Kind, SHORTEST, SPECIAL, Scanner, View, Why, is_plain};
use crate::known::{Context, Known};
use crate::names::{Info, Names};
use crate::policy::{Action, Active, Policy};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use waxseal_filter_abi::Side;
use waxseal_filter_abi::event::decoded;
use waxseal_filter_abi::view::Value;
use waxseal_trail::json::{write_number, write_string};
use waxseal_trail::scan::{self, skip_space, string_end, value_end};

/// Why an event cannot be looked through: it must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fail {
    /// It is no JSON.
    Broken,
    /// It is nested too deeply.
    Deep,
}

impl Fail {
    /// For people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Fail::Broken => "it is no JSON that can be looked through",
            Fail::Deep => "it is nested too deeply to be looked through",
        }
    }
}

/// As deep as a record of a trail can be, and some more for what a shipper has.
const DEEPEST: usize = 100;
/// Texts that are JSON are looked into, and texts in them.
const NESTED: u32 = 4;

#[derive(Debug)]
struct Edit {
    start: usize,
    end: usize,
    /// `None`: a member or element that goes, and a comma with it.
    put: Option<Vec<u8>>,
}

/// The names of an object, and how many became the same.
struct Siblings {
    all: HashSet<Vec<u8>>,
    counts: HashMap<String, u32>,
}

/// Memory that is kept between events.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    found: Vec<Found>,
    view: View,
    known: Known,
}

/// One event.
pub(crate) struct Walk<'w> {
    pub(crate) policy: &'w Policy,
    pub(crate) active: &'w Active,
    pub(crate) names: &'w mut Names,
    pub(crate) scratch: &'w mut Scratch,
    pub(crate) side: Side,
    /// How often each rule did something.
    pub(crate) fired: &'w mut Vec<u32>,
    /// Hears what was done, and where.
    pub(crate) told: Option<&'w mut Vec<String>>,
    /// Whose names are to be replaced, and by what.
    pub(crate) people: &'w [(String, String)],
    pub(crate) path: String,
    /// Members of the object that is walked first are the event's own.
    pub(crate) top: bool,
    edits: Vec<Edit>,
    renamed: bool,
    nested: u32,
    /// What is walked is of Kubernetes' secrets.
    secrets: bool,
    /// The value that comes stands under a name that objects of another kind have, too.
    broad: bool,
    /// Nobody asks where something is, or who is named: then most names say all there is to know.
    plain: bool,
}

impl<'w> Walk<'w> {
    #[allow(clippy::too_many_arguments)] // what an event is walked with
    pub(crate) fn new(
        policy: &'w Policy,
        active: &'w Active,
        names: &'w mut Names,
        scratch: &'w mut Scratch,
        side: Side,
        fired: &'w mut Vec<u32>,
        told: Option<&'w mut Vec<String>>,
        people: &'w [(String, String)],
    ) -> Walk<'w> {
        let plain = told.is_none() && people.is_empty() && !active.paths;
        Walk {
            policy,
            active,
            names,
            scratch,
            side,
            fired,
            told,
            people,
            path: String::new(),
            top: false,
            edits: Vec::new(),
            renamed: false,
            nested: 0,
            secrets: false,
            broad: false,
            plain,
        }
    }

    fn tracks(&self) -> bool {
        self.active.paths || self.told.is_some()
    }

    fn fire(&mut self, rule: u16, why: Why) {
        self.fired[rule as usize] += 1;
        if let Some(told) = &mut self.told {
            let id = self.policy.rules.get(rule as usize).map_or(crate::ANONYMIZE, |r| &r.id);
            let why = match why {
                Why::Kind(k) => k.name().to_owned(),
                Why::Named => "its name".to_owned(),
                Why::Pattern => "its pattern".to_owned(),
                Why::Encoded(k) => format!("{} in base64", k.name()),
            };
            told.push(format!("{id}\t{}\t{why}", self.path.replace(['\n', '\t'], " ")));
        }
    }

    /// A member of a record, whose name is known: its new text, if it has one; an empty one if it goes.
    pub(crate) fn member(&mut self, name: &str, text: &[u8]) -> Result<Option<Vec<u8>>, Fail> {
        self.path.clear();
        self.path.push_str(name);
        let info = self.names.of(name.as_bytes(), self.policy);
        let rule = self.rule_for(info);
        if self.drops(rule) {
            self.fire(rule, Why::Named);
            return Ok(Some(Vec::new()));
        }
        self.rewrite(text, |w| w.ruled(rule, text, 0, info, 1).map(|_| ()))
    }

    /// A whole object: its new text, if it has one.
    pub(crate) fn object_text(&mut self, text: &[u8], top: bool) -> Result<Option<Vec<u8>>, Fail> {
        self.path.clear();
        self.top = top;
        let at = skip_space(text, 0);
        self.rewrite(text, |w| w.value(text, at, Info::default(), 1).map(|_| ()))
    }

    fn rewrite(
        &mut self,
        text: &[u8],
        walk: impl FnOnce(&mut Self) -> Result<(), Fail>,
    ) -> Result<Option<Vec<u8>>, Fail> {
        let before = std::mem::take(&mut self.edits);
        let renamed = std::mem::replace(&mut self.renamed, false);
        let done = walk(self);
        let edits = std::mem::replace(&mut self.edits, before);
        let sort = std::mem::replace(&mut self.renamed, renamed);
        done?;
        if edits.is_empty() {
            return Ok(None);
        }
        let new = edited(text, edits);
        // Names that have changed may stand elsewhere in the order.
        if sort && self.side == Side::Sink && self.nested == 0 {
            return waxseal_trail::json::canonicalize(&new).map(Some).map_err(|_| Fail::Broken);
        }
        Ok(Some(new))
    }

    /// The rule for the field that `info` and the path name.
    fn rule_for(&self, info: Info) -> u16 {
        let rule = self.names.rule(info, self.active);
        if self.active.paths { rule.min(self.policy.by_path(self.active, &self.path)) } else { rule }
    }

    fn drops(&self, rule: u16) -> bool {
        self.policy.rules.get(rule as usize).is_some_and(|r| r.action == Action::Drop)
    }

    /// A value, as the rule for its field says.
    fn ruled(&mut self, rule: u16, t: &[u8], at: usize, info: Info, depth: usize) -> Result<usize, Fail> {
        if rule == Policy::NONE {
            return self.value(t, at, info, depth);
        }
        let policy = self.policy;
        match &policy.rules[rule as usize].action {
            Action::Keep => value_end(t, at).ok_or(Fail::Broken),
            Action::Allow(names) if t.get(at) == Some(&b'{') => {
                self.object(t, at, depth, Some((rule, names)))
            }
            Action::Allow(names) => self.allow(rule, names, t, at, depth),
            Action::Shape(names) => self.shape(rule, names, t, at, depth),
            _ => {
                self.broad = info.broad;
                if info.directory && t.get(at) == Some(&b'"') && matches!(t.get(at + 1), Some(b'/' | b'~')) {
                    return self.value(t, at, info, depth);
                }
                self.whole(rule, t, at, depth)
            }
        }
    }

    fn value(&mut self, t: &[u8], at: usize, info: Info, depth: usize) -> Result<usize, Fail> {
        if depth > DEEPEST {
            return Err(Fail::Deep);
        }
        match t.get(at).ok_or(Fail::Broken)? {
            b'"' => {
                let end = string_end(t, at).ok_or(Fail::Broken)?;
                self.string(t, at, end, info)?;
                Ok(end)
            }
            b'{' => {
                let top = std::mem::replace(&mut self.top, false);
                let allowed = if top { self.active.top } else { Policy::NONE };
                let policy = self.policy;
                let allowed = match policy.rules.get(allowed as usize).map(|r| &r.action) {
                    Some(Action::Allow(names)) => Some((allowed, names)),
                    _ => None,
                };
                // Of what cannot be taken by names nothing may be said to stay.
                if top && allowed.is_some() && self.is_wrapped(t, at) && t[at..].starts_with(b"{\"$map\"") {
                    return Err(Fail::Broken);
                }
                if self.is_wrapped(t, at)
                    && let Some(end) = self.wrapper(t, at, info, depth)?
                {
                    return Ok(end);
                }
                self.object(t, at, depth, allowed)
            }
            b'[' => {
                let mut i = 0;
                let mut behind = Policy::NONE;
                let len = self.path.len();
                self.elements(t, at, |w, at| {
                    if w.tracks() {
                        w.path.push_str(&format!(".{i}"));
                    }
                    let end = if behind == Policy::NONE || t[at] != b'"' {
                        w.value(t, at, info, depth + 1)?
                    } else {
                        w.whole(behind, t, at, depth + 1)?
                    };
                    behind = if t[at] == b'"' { w.rule_behind(&t[at..end]) } else { Policy::NONE };
                    w.path.truncate(len);
                    i += 1;
                    Ok(end)
                })
            }
            b'-' | b'0'..=b'9' => {
                let end = value_end(t, at).ok_or(Fail::Broken)?;
                // Whole numbers that are long enough to be one that is looked for.
                let from = at + usize::from(t[at] == b'-');
                let long = end - from >= 7 || !self.people.is_empty();
                if long && t[from..end].iter().all(u8::is_ascii_digit) {
                    self.number_text(t, at, from, end, info)?;
                }
                Ok(end)
            }
            _ => value_end(t, at).ok_or(Fail::Broken),
        }
    }

    fn object(
        &mut self,
        t: &[u8],
        open: usize,
        depth: usize,
        allowed: Option<(u16, &HashSet<String>)>,
    ) -> Result<usize, Fail> {
        let mut at = skip_space(t, open + 1);
        let len = self.path.len();
        let mut raw = false;
        let mut names: Option<Siblings> = None;
        let mut secret = None;
        while *t.get(at).ok_or(Fail::Broken)? != b'}' {
            let start = at;
            if t[at] != b'"' {
                return Err(Fail::Broken);
            }
            let key_end = string_end(t, at).ok_or(Fail::Broken)?;
            let name = &t[at + 1..key_end - 1];
            at = skip_space(t, key_end);
            if t.get(at) != Some(&b':') {
                return Err(Fail::Broken);
            }
            at = skip_space(t, at + 1);
            let mut info = self.names.of(name, self.policy);
            let first = self.side == Side::Sink && depth == 1 && self.nested == 0;
            let end = if info.common && self.plain && allowed.is_none() {
                self.common(t, at, info, depth + 1)?
            } else if self.is_ours(name, &t[at..], depth) {
                value_end(t, at).ok_or(Fail::Broken)?
            } else if raw && first && name == b"$raw_sha256" {
                // Of what was masked no bare hash may stay.
                let end = value_end(t, at).ok_or(Fail::Broken)?;
                self.edits.push(Edit { start, end, put: None });
                end
            } else {
                if self.tracks() {
                    if len > 0 {
                        self.path.push('.');
                    }
                    self.path.push_str(&String::from_utf8_lossy(name));
                }
                // A shipper's record has its members and its metadata at the top.
                let outer = self.side == Side::Shipper && depth == 1;
                let stays = outer && waxseal_trail::record::Member::named(name).is_some();
                let forbidden = allowed.filter(|(_, all)| {
                    !stays && !all.contains(&crate::names::glued(&String::from_utf8_lossy(&decoded(name))))
                });
                let mut rule = self.rule_for(info);
                if matches!(name, b"data" | b"stringData")
                    && self.active.kubernetes < rule
                    && *secret.get_or_insert_with(|| self.secrets || is_secret(&t[open..]))
                {
                    rule = self.active.kubernetes;
                }
                // {"name": "DB_PASSWORD", "value": "…"}
                if matches!(name, b"value" | b"Value" | b"val" | b"v") {
                    rule = rule.min(self.rule_by_sibling(&t[open..]));
                }
                let dropped = forbidden.map(|(rule, _)| rule).or(self.drops(rule).then_some(rule));
                if let Some(rule) = dropped {
                    let end = value_end(t, at).ok_or(Fail::Broken)?;
                    self.fire(rule, Why::Named);
                    self.edits.push(Edit { start, end, put: None });
                    raw |= first && name == b"$raw";
                    end
                } else {
                    self.key(t, open, (start, key_end), &mut info, &mut names)?;
                    let before = self.edits.len();
                    // Lists of secrets, and changes to one, have no kind of their own.
                    let outside = self.secrets;
                    if matches!(name, b"items" | b"requestObject" | b"responseObject")
                        && t.get(at) != Some(&b'"')
                    {
                        self.secrets |= are_secrets(&t[open..]);
                    }
                    let end = if outer && name == b"metadata" && allowed.is_some() && t.get(at) == Some(&b'{')
                    {
                        self.object(t, at, depth + 1, allowed)?
                    } else {
                        self.ruled(rule, t, at, info, depth + 1)?
                    };
                    raw |= first && name == b"$raw" && self.edits.len() > before;
                    self.secrets = outside;
                    end
                }
            };
            self.path.truncate(len);
            at = skip_space(t, end);
            match t.get(at) {
                Some(b',') => at = skip_space(t, at + 1),
                Some(b'}') => {}
                _ => return Err(Fail::Broken),
            }
        }
        Ok(at + 1)
    }

    /// Whether a member is what filters or the sink say themselves.
    fn is_ours(&self, name: &[u8], value: &[u8], depth: usize) -> bool {
        self.side == Side::Sink
            && self.nested == 0
            && matches!(name, b"$enriched" | b"$filter_errors" | b"$withheld")
            || name == b"privacy" && depth <= 2 && self.are_counts(value)
    }

    /// The value of a name of which there is nothing else to say.
    fn common(&mut self, t: &[u8], at: usize, info: Info, depth: usize) -> Result<usize, Fail> {
        let kind = t.get(at);
        if !matches!(kind, Some(b'{' | b'"')) || self.nested > 0 || self.secrets || info.exempt {
            return self.value(t, at, info, depth);
        }
        let context = Context::new(info, self.active.id, depth, self.side == Side::Shipper);
        let before = self.edits.len();
        if kind == Some(&b'"') {
            if let Some(len) = self.scratch.known.last_string(&t[at..], context) {
                return Ok(at + len);
            }
            let end = self.value(t, at, info, depth)?;
            if self.edits.len() == before {
                self.scratch.known.keep_string(&t[at..end], context);
            }
            return Ok(end);
        }
        if let Some(len) = self.scratch.known.last_object(&t[at..], context) {
            return Ok(at + len);
        }
        let end = value_end(t, at).ok_or(Fail::Broken)?;
        let hash = match self.scratch.known.find(&t[at..end], context) {
            Ok(()) => return Ok(end),
            Err(hash) => hash,
        };
        let walked = self.value(t, at, info, depth)?;
        if let Some(hash) = hash.filter(|_| self.edits.len() == before && walked == end) {
            self.scratch.known.keep(&t[at..end], context, hash);
        }
        Ok(walked)
    }

    /// Whether the conversion may have made the object that opens there: names of the source never begin with one `$`.
    fn is_wrapped(&self, t: &[u8], at: usize) -> bool {
        self.side == Side::Sink
            && self.nested == 0
            && t.get(at + 1..at + 3) == Some(b"\"$")
            && t.get(at + 3) != Some(&b'$')
    }

    /// Numbers, binary and the like, as the conversion wraps them; `None` if it is no such.
    fn wrapper(&mut self, t: &[u8], at: usize, info: Info, depth: usize) -> Result<Option<usize>, Fail> {
        let Some((name, value)) = scan::members(&t[at..]).next() else { return Ok(None) };
        if !matches!(name, b"$number" | b"$bytes" | b"$ext" | b"$map" | b"$sealed") {
            return Ok(None);
        }
        let end = value_end(t, at).ok_or(Fail::Broken)?;
        match name {
            b"$sealed" => {}
            b"$number" => {
                let text = Value::first(value).and_then(Value::str).unwrap_or_default();
                if let Some(new) = self.content(&text, info) {
                    self.put_string(at, end, &new);
                }
            }
            b"$map" => {
                let len = self.path.len();
                let inside = end - 1 - value.len();
                let mut pos = skip_space(t, inside + 1);
                while t.get(pos) == Some(&b'[') {
                    let key = skip_space(t, pos + 1);
                    let key_end = value_end(t, key).ok_or(Fail::Broken)?;
                    let from = skip_space(t, skip_space(t, key_end) + 1);
                    let name = Value::first(&t[key..key_end]).and_then(Value::str).unwrap_or_default();
                    let info = self.names.of(name.as_bytes(), self.policy);
                    if self.tracks() {
                        self.path.push_str(&format!(".{name}"));
                    }
                    self.value(t, key, Info::default(), depth + 3)?;
                    let rule = self.rule_for(info);
                    let stop = if self.drops(rule) {
                        // A pair has two: what is dropped leaves a gap.
                        self.fire(rule, Why::Named);
                        let stop = value_end(t, from).ok_or(Fail::Broken)?;
                        self.edits.push(Edit { start: from, end: stop, put: Some(b"null".to_vec()) });
                        stop
                    } else {
                        self.ruled(rule, t, from, info, depth + 3)?
                    };
                    self.path.truncate(len);
                    // The pair's end, and the next one.
                    pos = skip_space(t, skip_space(t, stop) + 1);
                    if t.get(pos) == Some(&b',') {
                        pos = skip_space(t, pos + 1);
                    }
                }
            }
            _ => {
                // Bytes, which may be text.
                let text = if name == b"$ext" { scan::elements(value).nth(1) } else { Some(value) };
                let text = text.and_then(Value::first).and_then(Value::str).unwrap_or_default();
                let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).unwrap_or_default();
                if let Some(new) = self.content(&String::from_utf8_lossy(&bytes), info) {
                    let new = data_encoding::BASE64URL_NOPAD.encode(new.as_bytes());
                    self.edits.push(Edit {
                        start: at,
                        end,
                        put: Some(format!("{{\"$bytes\":\"{new}\"}}").into()),
                    });
                }
            }
        }
        Ok(Some(end))
    }

    /// What is no object and of which only some names may stay: its objects, and text that is one; nothing else.
    fn allow(
        &mut self,
        rule: u16,
        names: &HashSet<String>,
        t: &[u8],
        at: usize,
        depth: usize,
    ) -> Result<usize, Fail> {
        if depth > DEEPEST {
            return Err(Fail::Deep);
        }
        match t.get(at).ok_or(Fail::Broken)? {
            b'{' if !self.is_wrapped(t, at) => self.object(t, at, depth, Some((rule, names))),
            b'[' => self.elements(t, at, |w, at| w.allow(rule, names, t, at, depth + 1)),
            b'"' => {
                let end = string_end(t, at).ok_or(Fail::Broken)?;
                let text = string_of(t, at, end);
                if self.inside((at, end), &text, |w, t| w.allow(rule, names, t, 0, depth + 1))? {
                    return Ok(end);
                }
                self.whole(rule, t, at, depth)
            }
            _ => self.whole(rule, t, at, depth),
        }
    }

    /// Everything below goes, but for the names; of some, the values stay.
    fn shape(
        &mut self,
        rule: u16,
        kept: &HashSet<String>,
        t: &[u8],
        at: usize,
        depth: usize,
    ) -> Result<usize, Fail> {
        if depth > DEEPEST {
            return Err(Fail::Deep);
        }
        let end = value_end(t, at).ok_or(Fail::Broken)?;
        match t[at] {
            b'{' => {
                if self.is_wrapped(t, at) {
                    return self.whole(rule, t, at, depth);
                }
                let len = self.path.len();
                let mut names = None;
                let mut pos = skip_space(t, at + 1);
                while pos < end && t[pos] == b'"' {
                    let key_end = string_end(t, pos).ok_or(Fail::Broken)?;
                    let name = &t[pos + 1..key_end - 1];
                    let from = skip_space(t, skip_space(t, key_end) + 1);
                    let mut info = self.names.of(name, self.policy);
                    if self.tracks() {
                        self.path.push('.');
                        self.path.push_str(&String::from_utf8_lossy(name));
                    }
                    self.key(t, at, (pos, key_end), &mut info, &mut names)?;
                    let named = kept.contains(&crate::names::glued(&String::from_utf8_lossy(name)));
                    let stop = if named {
                        let inner = self.rule_for(info);
                        let inner = if inner == rule { Policy::NONE } else { inner };
                        self.ruled(inner, t, from, info, depth + 1)?
                    } else {
                        self.shape(rule, kept, t, from, depth + 1)?
                    };
                    self.path.truncate(len);
                    pos = skip_space(t, stop);
                    if t.get(pos) == Some(&b',') {
                        pos = skip_space(t, pos + 1);
                    }
                }
            }
            b'[' => {
                self.elements(t, at, |w, at| w.shape(rule, kept, t, at, depth + 1))?;
            }
            b'n' => {}
            b't' | b'f' => {
                self.fire(rule, Why::Named);
                self.put_string(at, end, &act::redacted(self.policy, rule));
            }
            b'"' => {
                // Text that is an object has a shape, too.
                let text = string_of(t, at, end);
                if !self.inside((at, end), &text, |w, t| w.shape(rule, kept, t, 0, depth + 1))? {
                    return self.whole(rule, t, at, depth);
                }
            }
            _ => return self.whole(rule, t, at, depth),
        }
        Ok(end)
    }

    /// A whole value, as the rule for its field says.
    fn whole(&mut self, rule: u16, t: &[u8], at: usize, depth: usize) -> Result<usize, Fail> {
        if depth > DEEPEST {
            return Err(Fail::Deep);
        }
        let broad = std::mem::replace(&mut self.broad, false);
        let end = value_end(t, at).ok_or(Fail::Broken)?;
        let policy = self.policy;
        let action = &policy.rules[rule as usize].action;
        match t[at] {
            // That it is there says nothing of what it is.
            b'n' | b't' | b'f' => {}
            b'{' | b'[' if end - at == 2 => {}
            // What is an object under such a name is of other things, too: its members have names.
            b'{' if *action == Action::Redact && broad && !self.is_wrapped(t, at) => {
                return self.value(t, at, Info::default(), depth);
            }
            b'{' | b'[' if *action == Action::Redact => {
                self.fire(rule, Why::Named);
                self.put_string(at, end, &act::redacted(policy, rule));
            }
            b'[' => {
                self.elements(t, at, |w, at| w.whole(rule, t, at, depth + 1))?;
            }
            b'{' => {
                if self.is_wrapped(t, at) {
                    self.fire(rule, Why::Named);
                    self.put_string(at, end, &act::redacted(policy, rule));
                    return Ok(end);
                }
                let mut pos = skip_space(t, at + 1);
                let mut names = None;
                while pos < end && t[pos] == b'"' {
                    let key_end = string_end(t, pos).ok_or(Fail::Broken)?;
                    let mut info = self.names.of(&t[pos + 1..key_end - 1], self.policy);
                    self.key(t, at, (pos, key_end), &mut info, &mut names)?;
                    let from = skip_space(t, skip_space(t, key_end) + 1);
                    pos = skip_space(t, self.whole(rule, t, from, depth + 1)?);
                    if t.get(pos) == Some(&b',') {
                        pos = skip_space(t, pos + 1);
                    }
                }
            }
            b'"' => {
                let text = string_of(t, at, end);
                if !text.is_empty() && !act::is_done(&text) {
                    let kind = act::is_email(&text).then_some(Kind::Email);
                    let new = act::text(policy, rule, kind, false, &text);
                    if *new != *text {
                        self.fire(rule, Why::Named);
                        self.put_string(at, end, &new);
                    }
                }
            }
            _ => {
                let text = String::from_utf8_lossy(&t[at..end]).into_owned();
                if let Some(n) = act::number(policy, rule, &text) {
                    let mut new = Vec::new();
                    write_number(n, &mut new);
                    if new != t[at..end] {
                        self.fire(rule, Why::Named);
                        self.edits.push(Edit { start: at, end, put: Some(new) });
                    }
                } else {
                    self.fire(rule, Why::Named);
                    let new = act::text(policy, rule, None, false, &text);
                    self.put_string(at, end, &new);
                }
            }
        }
        Ok(end)
    }

    /// Does `each` to the elements of the array that opens there; says where it ends.
    fn elements(
        &mut self,
        t: &[u8],
        open: usize,
        mut each: impl FnMut(&mut Self, usize) -> Result<usize, Fail>,
    ) -> Result<usize, Fail> {
        let mut at = skip_space(t, open + 1);
        while *t.get(at).ok_or(Fail::Broken)? != b']' {
            at = skip_space(t, each(self, at)?);
            match t.get(at) {
                Some(b',') => at = skip_space(t, at + 1),
                Some(b']') => {}
                _ => return Err(Fail::Broken),
            }
        }
        Ok(at + 1)
    }

    /// Walks through a string that is JSON itself, an object or an array; says whether it is.
    fn inside(
        &mut self,
        (start, end): (usize, usize),
        text: &str,
        walk: impl FnOnce(&mut Self, &[u8]) -> Result<usize, Fail>,
    ) -> Result<bool, Fail> {
        let opens = text.bytes().find(|c| !c.is_ascii_whitespace());
        if self.nested >= NESTED || !matches!(opens, Some(b'{' | b'[')) {
            return Ok(false);
        }
        let Some(v) = Value::checked(text) else { return Ok(false) };
        self.nested += 1;
        let new = self.rewrite(v.text(), |w| walk(w, v.text()).map(|_| ()));
        self.nested -= 1;
        if let Some(new) = new? {
            self.put_string(start, end, &String::from_utf8_lossy(&new));
        }
        Ok(true)
    }

    fn put_string(&mut self, start: usize, end: usize, text: &str) {
        let mut json = Vec::with_capacity(text.len() + 2);
        write_string(text, &mut json);
        self.edits.push(Edit { start, end, put: Some(json) });
    }

    /// Looks into a name, and changes it if anything stands in it.
    fn key(
        &mut self,
        t: &[u8],
        open: usize,
        (start, end): (usize, usize),
        info: &mut Info,
        names: &mut Option<Siblings>,
    ) -> Result<(), Fail> {
        let name = &t[start + 1..end - 1];
        if info.holds.is_none() {
            let holds = self.name_holds(name);
            info.holds = Some(holds);
            self.names.keep(*info, name, holds);
        }
        if info.holds == Some(true) || !self.people.is_empty() {
            let all = names.get_or_insert_with(|| Siblings {
                all: scan::members(&t[open..]).map(|(n, _)| decoded(n).into_owned()).collect(),
                counts: HashMap::new(),
            });
            self.rename(t, start, end, all)?;
        }
        Ok(())
    }

    /// Whether something that any rule looks for stands in a name.
    fn name_holds(&mut self, name: &[u8]) -> bool {
        if name.len() < SHORTEST && self.policy.patterns.is_none() {
            return false;
        }
        let active = std::mem::replace(&mut self.active, &self.policy.every);
        let holds = self.finds(&String::from_utf8_lossy(&decoded(name)), Info::default());
        self.active = active;
        holds
    }

    fn finds(&mut self, text: &str, info: Info) -> bool {
        let before = self.fired.clone();
        let told = self.told.take();
        let found = self.content(text, info).is_some();
        self.told = told;
        *self.fired = before;
        found
    }

    /// Whether the value there says how often rules did something, and nothing else: what this filter wrote when it ran before.
    fn are_counts(&self, text: &[u8]) -> bool {
        let small = |v: &[u8]| v.len() <= 6 && v.iter().all(u8::is_ascii_digit);
        text.first() == Some(&b'{')
            && scan::members(text)
                .all(|(n, v)| small(v) && self.policy.rules.iter().any(|r| r.id.as_bytes() == n))
    }

    /// The rule for what the member `name` or `key` of an object says that its `value` is.
    fn rule_by_sibling(&mut self, object: &[u8]) -> u16 {
        let named =
            scan::members(object).find(|(n, _)| matches!(*n, b"name" | b"Name" | b"key" | b"Key" | b"k"));
        let text = named.and_then(|(_, v)| Value::first(v)).and_then(Value::raw_str).filter(|t| t.len() < 64);
        let Some(text) = text.filter(|t| self.policy.ends.may_be(t)) else { return Policy::NONE };
        let info = self.names.of(text, self.policy);
        self.rule_for(info)
    }

    /// The rule for the element behind one of a list that is a flag or a header's name: `["--password", "…"]`.
    fn rule_behind(&mut self, element: &[u8]) -> u16 {
        let text = Value::first(element).and_then(Value::raw_str).filter(|t| (3..64).contains(&t.len()));
        let Some(text) = text.and_then(|t| std::str::from_utf8(t).ok()) else { return Policy::NONE };
        let flag = text.strip_prefix("--").filter(|f| !f.contains('='));
        match flag.or_else(|| is_header(text).then_some(text)) {
            Some(name) if self.policy.ends.may_be(name.as_bytes()) => {
                let info = self.names.of(name.as_bytes(), self.policy);
                self.names.rule(info, self.active)
            }
            _ => Policy::NONE,
        }
    }

    fn rename(&mut self, t: &[u8], start: usize, end: usize, names: &mut Siblings) -> Result<(), Fail> {
        let name = Value::first(&t[start..end]).and_then(Value::str).ok_or(Fail::Broken)?;
        let Some(mut new) = self.content(&name, Info::default()) else { return Ok(()) };
        // Two that are masked alike stay two.
        let base = new.clone();
        while !names.all.insert(new.clone().into_bytes()) {
            let n = names.counts.entry(base.clone()).or_insert(1);
            *n += 1;
            new = format!("{base} ({n})");
        }
        self.renamed = true;
        self.put_string(start, end, &new);
        Ok(())
    }

    /// The digits of a whole number.
    fn number_text(
        &mut self,
        t: &[u8],
        start: usize,
        digits: usize,
        end: usize,
        info: Info,
    ) -> Result<(), Fail> {
        let text = std::str::from_utf8(&t[digits..end]).map_err(|_| Fail::Broken)?;
        if let Some(new) = self.content(text, info) {
            self.put_string(start, end, &new);
        }
        Ok(())
    }

    /// A string.
    fn string(&mut self, t: &[u8], start: usize, end: usize, info: Info) -> Result<(), Fail> {
        let inner = &t[start + 1..end - 1];
        let bare = self.people.is_empty() && self.policy.patterns.is_none();
        if bare && (inner.len() < SHORTEST || (info.raised == 0 && is_plain(inner))) {
            return Ok(());
        }
        // Most texts are plain, and hold nothing: one pass says so.
        if bare && !matches!(inner[0], b'{' | b'[' | b' ' | b'\t') && self.is_clean(inner, info) {
            return Ok(());
        }
        let text = if memchr::memchr(b'\\', inner).is_none() {
            match std::str::from_utf8(inner) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => String::from_utf8_lossy(inner),
            }
        } else {
            Value::first(&t[start..end]).and_then(Value::str).ok_or(Fail::Broken)?
        };
        // Text that is JSON is looked into as JSON.
        if self.inside((start, end), &text, |w, t| w.value(t, 0, info, 2))? {
            return Ok(());
        }
        if let Some(new) = self.content(&text, info) {
            self.put_string(start, end, &new);
        }
        Ok(())
    }

    /// Whether a text, as it stands between quotes, is plain, and nothing is found in it.
    fn is_clean(&mut self, text: &[u8], info: Info) -> bool {
        let found = &mut self.scratch.found;
        found.clear();
        let signs = Scanner::new(text, self.policy, self.active, self.names, info, found).pass();
        found.is_empty() && signs & SPECIAL == 0
    }

    /// What becomes of a text, if anything stands in it.
    fn content(&mut self, text: &str, info: Info) -> Option<String> {
        let new = self.hidden(text, info);
        if self.people.is_empty() {
            return new;
        }
        match renamed(new.as_deref().unwrap_or(text), self.people) {
            Some(named) => {
                self.fire(self.policy.rules.len() as u16, Why::Named);
                Some(named)
            }
            None => new,
        }
    }

    fn hidden(&mut self, text: &str, info: Info) -> Option<String> {
        let mut found = std::mem::take(&mut self.scratch.found);
        found.clear();
        let bytes = text.as_bytes();
        let viewed = self.scratch.view.of(bytes);
        let view = Some(&self.scratch.view).filter(|_| viewed);
        let seen = view.map_or(bytes, |v| &v.text);
        let mut scanner = Scanner::new(seen, self.policy, self.active, self.names, info, &mut found);
        scanner.view = view;
        scanner.run();
        let mut new = String::new();
        let mut from = 0;
        let mut any = false;
        for f in &found {
            let (mut start, mut end) =
                if viewed { self.scratch.view.place(f.start, f.end) } else { (f.start, f.end) };
            start = text.floor_char_boundary(start).max(from);
            end = text.ceil_char_boundary(end);
            if end <= start || act::is_done(&text[start..end]) {
                continue;
            }
            let kind = match f.why {
                Why::Kind(k) => Some(k),
                _ => None,
            };
            let by = act::text(self.policy, f.rule, kind, f.whole, &text[start..end]);
            if by == text[start..end] {
                continue;
            }
            new.push_str(&text[from..start]);
            new.push_str(&by);
            from = end;
            any = true;
            self.fire(f.rule, f.why);
        }
        self.scratch.found = found;
        any.then(|| {
            new.push_str(&text[from..]);
            new
        })
    }
}

/// The text of the string that stands there.
fn string_of(t: &[u8], start: usize, end: usize) -> Cow<'_, str> {
    Value::first(&t[start..end]).and_then(Value::str).unwrap_or_default()
}

fn is_secret(object: &[u8]) -> bool {
    scan::members(object).any(|m| m == (b"kind", b"\"Secret\""))
}

/// Whether an object is a list of Kubernetes' secrets, or an audit event of one.
fn are_secrets(object: &[u8]) -> bool {
    scan::members(object).any(|(name, value)| match name {
        b"kind" => value == b"\"SecretList\"",
        b"objectRef" => scan::members(value).any(|m| m == (b"resource", b"\"secrets\"")),
        _ => false,
    })
}

/// Names of headers that a list may have before their values.
fn is_header(name: &str) -> bool {
    ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token"]
        .iter()
        .any(|h| name.eq_ignore_ascii_case(h))
}

/// A text in which names, as words of their own and in whatever letters' case, are replaced; the longest first.
fn renamed(text: &str, people: &[(String, String)]) -> Option<String> {
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let hay = text.to_ascii_lowercase();
    let mut spans: Vec<(usize, usize, &str)> = Vec::new();
    for (who, by) in people {
        for at in memchr::memmem::find_iter(hay.as_bytes(), who.as_bytes()) {
            let end = at + who.len();
            if text.is_char_boundary(at)
                && text.is_char_boundary(end)
                && !word(text[..at].chars().next_back())
                && !word(text[end..].chars().next())
            {
                spans.push((at, end, by));
            }
        }
    }
    spans.sort_by_key(|s| (s.0, std::cmp::Reverse(s.1)));
    let mut new = String::new();
    let mut from = 0;
    for (at, end, by) in spans {
        // What has a pseudonym already may hold another's name.
        if at < from || act::is_done(text.get(word_of(text, at)).unwrap_or_default()) {
            continue;
        }
        new.push_str(&text[from..at]);
        new.push_str(by);
        from = end;
    }
    (from > 0).then(|| {
        new.push_str(&text[from..]);
        new
    })
}

/// Where the stretch without spaces begins and ends that `at` is in, as far as a pseudonym may be long.
fn word_of(text: &str, at: usize) -> std::ops::Range<usize> {
    let space = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '(' | ')' | '=');
    let low = text.floor_char_boundary(at.saturating_sub(80));
    let high = text.ceil_char_boundary((at + 80).min(text.len()));
    let from = text[low..at].rfind(space).map_or(low, |i| low + i + 1);
    let to = text[at..high].find(space).map_or(high, |i| at + i);
    from..to
}

fn edited(text: &[u8], edits: Vec<Edit>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 64);
    let mut from = 0;
    for edit in edits {
        out.extend_from_slice(&text[from..edit.start]);
        from = edit.end;
        match edit.put {
            Some(new) => out.extend_from_slice(&new),
            None => {
                while out.last().is_some_and(u8::is_ascii_whitespace) {
                    out.pop();
                }
                let next = skip_space(text, from);
                if out.last() == Some(&b',') {
                    out.pop();
                } else if text.get(next) == Some(&b',') {
                    from = next + 1;
                }
            }
        }
    }
    out.extend_from_slice(&text[from..]);
    out
}
