//! Privacy: personal data and secrets are masked before anything else sees an event.
//!
//! Each text of an event is looked through once: the names of fields, and what stands in strings, numbers and names, decide which
//! rule of the policy applies. What an event says of it is `metadata.privacy`: how often each rule did something.

#![cfg_attr(not(target_family = "wasm"), forbid(unsafe_code))] // a module exports what C calls

mod act;
pub mod detect;
mod keys;
mod known;
mod names;
pub mod policy;
mod walk;

use keys::Use;
use names::Names;
use policy::{Active, Policy};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use walk::{Fail, Scratch, Walk};
use waxseal_filter_abi::event::{Object, Orders, put_withheld, repeated};
use waxseal_filter_abi::view::Kind as Json;
use waxseal_filter_abi::{Event, Filter, Record, Shipped, Side, Value, wire};
use waxseal_trail::record::Member;

/// The filter.
#[derive(Debug)]
pub struct Privacy {
    policy: Policy,
    names: Names,
    scratch: Scratch,
    /// The rules in force, by category and type; what was asked for last comes first.
    active: Vec<(String, String, Rc<Active>)>,
    /// Those that differ. Their number is the policy's: events name types, not rules.
    kinds: Vec<Rc<Active>>,
    fired: Vec<u32>,
}

/// Where a rule does something: what the filter says of an event if it is asked, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The rule's id.
    pub rule: String,
    /// A dotted path; of metadata, without `metadata.`.
    pub path: String,
    /// The detector, or `its name`.
    pub why: String,
}

impl Place {
    /// Reads one line: rule, path and reason, with tabs between.
    pub fn parse(line: &str) -> Option<Place> {
        let (rule, rest) = line.split_once('\t')?;
        let (path, why) = rest.rsplit_once('\t')?;
        Some(Place { rule: rule.into(), path: path.into(), why: why.into() })
    }
}

/// What pseudonyms are counted under.
const ANONYMIZE: &str = "anonymize";
/// So many people are named in one event at most; whoever names more is no log of who did what.
const PEOPLE: usize = 256;

/// So many kinds of events are told apart without reading the policy again.
const KINDS: usize = 256;

impl Filter for Privacy {
    const NAME: &'static str = "privacy";
    const FAILS_CLOSED: bool = true;

    fn load(config: &Path) -> Result<Self, String> {
        Policy::load(config).map(Privacy::new)
    }

    fn data(&self) -> Vec<(String, PathBuf)> {
        self.policy.data.clone()
    }

    fn run(&mut self, _: &mut Event<'_>) {}

    fn record(&mut self, record: &Record<'_>, orders: &mut Orders, out: &mut Vec<u8>) {
        let mut told = record.explain.then(Vec::new);
        let text =
            |m: Member| Value::first(record.members[m as usize]).and_then(Value::str).unwrap_or_default();
        let (category, event_type) = (text(Member::Category), text(Member::EventType));
        let metadata = record.members[Member::Metadata as usize];
        let country = || {
            let geo = Value::first(metadata)?.get("geo_location")?.get("country")?.str()?;
            Some(geo.into_owned())
        };
        // What it is cannot be said of an event that repeats names: then every rule is for it.
        let loose = is_loose(metadata);
        let people = self.people(loose, &category, &event_type, country, || {
            let members = record
                .members
                .iter()
                .enumerate()
                .filter_map(|(m, text)| Some((Member::at(m)?.name().as_bytes(), Value::first(text)?)));
            members
                .filter(|(n, _)| *n != b"metadata")
                .chain(Value::first(metadata).into_iter().flat_map(Value::members))
                .collect()
        });
        let active = if loose { self.policy.every.clone() } else { self.active(&category, &event_type) };
        let mut masked: Vec<(Member, Vec<u8>)> = Vec::new();
        let mut failed = false;
        {
            let Privacy { policy, names, scratch, fired, .. } = self;
            let mut walk =
                Walk::new(policy, &active, names, scratch, Side::Sink, fired, told.as_mut(), &people);
            for (m, text) in record.members.iter().enumerate() {
                let Some(which) = Member::at(m).filter(|_| !text.is_empty()) else { continue };
                let new = match which {
                    // What these hold is decided by their form.
                    Member::EventId | Member::Timestamp => continue,
                    Member::Metadata => walk.object_text(text, true),
                    _ => walk.member(which.name(), text),
                };
                match new {
                    // Metadata of which nothing is left are none.
                    Ok(Some(new)) if new == b"{}" => masked.push((which, Vec::new())),
                    Ok(Some(new)) => masked.push((which, new)),
                    Ok(None) => {}
                    Err(_) => {
                        failed = true;
                        break;
                    }
                }
            }
        }
        let explanation = told.map(|t| t.join("\n"));
        if failed {
            self.fired.fill(0);
            wire::refuse(out);
            return;
        }
        if masked.is_empty() {
            wire::nothing(explanation.as_deref(), out);
            return;
        }
        // A map with repeated names cannot say that anything was done to it: it moves to where what is no metadata goes.
        if let Some((_, text)) = masked.iter_mut().find(|(m, _)| *m == Member::Metadata)
            && is_loose(text)
        {
            *text = [b"{\"$displaced\":{\"metadata\":", &text[..], b"}}"].concat();
        }
        let mut members = *record.members;
        for (m, text) in &masked {
            members[*m as usize] = text;
        }
        let mut event = Event::of_record(record.tag, record.now, &members, record.own_time);
        self.mark(&mut event);
        if let Some(text) = explanation {
            event.ask();
            event.explain(|| text);
        }
        event.write_changes(&masked, orders, out);
    }

    fn shipped(&mut self, shipped: &Shipped<'_>, orders: &mut Orders, out: &mut Vec<u8>) {
        let done = self.in_shipper(shipped, orders, out);
        if let Err(why) = done {
            self.fired.fill(0);
            put_withheld(Privacy::NAME, why.text(), shipped.record.len(), out);
        }
    }
}

#[cfg(target_family = "wasm")]
waxseal_filter_abi::export!(crate::Privacy);

impl Privacy {
    /// With a policy that has been read.
    pub fn new(policy: Policy) -> Privacy {
        // One more for pseudonyms.
        let fired = vec![0; policy.rules.len() + 1];
        Privacy {
            policy,
            names: Names::default(),
            scratch: Scratch::default(),
            active: Vec::new(),
            kinds: Vec::new(),
            fired,
        }
    }

    /// What the policy would do to a record of a trail, as it is sealed: rule, path and reason of each place, no values.
    ///
    /// # Errors
    /// A text, if it cannot be looked through.
    pub fn look(&mut self, record: &[u8]) -> Result<Vec<Place>, &'static str> {
        let top = Value::first(record).filter(|v| v.kind() == Json::Object).ok_or(Fail::Broken.text())?;
        let text = |name: &str| top.get(name).and_then(Value::str).unwrap_or_default();
        let loose = top.get("metadata").is_some_and(|m| is_loose(m.text()));
        let active = if loose {
            self.policy.every.clone()
        } else {
            self.active(&text("category"), &text("event_type"))
        };
        let mut told = Vec::new();
        let mut failed = None;
        {
            let Privacy { policy, names, scratch, fired, .. } = self;
            let mut walk =
                Walk::new(policy, &active, names, scratch, Side::Sink, fired, Some(&mut told), &[]);
            for (name, value) in top.members() {
                let done = match name {
                    b"event_id" | b"nonce" | b"observed_at" | b"previous_hash" | b"sequence"
                    | b"timestamp" | b"writer" => continue,
                    b"metadata" => walk.object_text(value.text(), true),
                    // An intake's own words are at its top; what the shipper said stands below.
                    b"source" => walk.object_text(value.text(), false),
                    _ => walk.member(&String::from_utf8_lossy(name), value.text()),
                };
                failed = failed.or(done.err());
            }
        }
        self.fired.fill(0);
        match failed {
            Some(e) => Err(e.text()),
            None => Ok(told.iter().filter_map(|t| Place::parse(t)).collect()),
        }
    }

    fn in_shipper(
        &mut self,
        shipped: &Shipped<'_>,
        orders: &mut Orders,
        out: &mut Vec<u8>,
    ) -> Result<(), Fail> {
        let record = shipped.record;
        let top = Value::first(record).filter(|v| v.kind() == Json::Object).ok_or(Fail::Broken)?;
        let text = |name: &str| top.get(name).and_then(Value::str).unwrap_or_default();
        let (category, event_type) = (text("category"), text("event_type"));
        let country = || {
            let own = top.get("metadata").and_then(|m| m.get("geo_location"));
            let geo = own.or_else(|| top.get("geo_location"))?.get("country")?.str()?;
            Some(geo.into_owned())
        };
        let loose = repeated(top.members().map(|m| m.0));
        let people = self.people(loose, &category, &event_type, country, || {
            top.members().chain(top.get("metadata").into_iter().flat_map(Value::members)).collect()
        });
        let active = if loose { self.policy.every.clone() } else { self.active(&category, &event_type) };
        let Privacy { policy, names, scratch, fired, .. } = self;
        let mut walk = Walk::new(policy, &active, names, scratch, Side::Shipper, fired, None, &people);
        let Some(masked) = walk.object_text(top.text(), true)? else {
            out.extend_from_slice(record);
            return Ok(());
        };
        let mut event =
            Event::of_shipper(shipped.tag, shipped.time, shipped.now, &masked).ok_or(Fail::Broken)?;
        self.mark(&mut event);
        event.write_record(&masked, orders, out);
        Ok(())
    }

    /// Says which rules did something, and forgets it.
    fn mark(&mut self, event: &mut Event<'_>) {
        let mut object = Object::default();
        let mut counts: Vec<(&str, u32)> = Vec::new();
        for (rule, n) in self.policy.rules.iter().zip(&self.fired).filter(|(_, n)| **n > 0) {
            // A policy's rule may have a default one's id.
            match counts.iter_mut().find(|(id, _)| *id == rule.id) {
                Some((_, sum)) => *sum += n,
                None => counts.push((&rule.id, *n)),
            }
        }
        if let Some(n) = self.fired.last().filter(|n| **n > 0) {
            counts.push((ANONYMIZE, *n));
        }
        for (id, n) in counts {
            object.json(id.to_owned(), n.to_string().into());
        }
        event.add_json("privacy", |out| object.write(out));
        self.fired.fill(0);
    }

    fn active(&mut self, category: &str, event_type: &str) -> Rc<Active> {
        // Of one stream most events are alike.
        if let Some(at) = self.active.iter().position(|(c, t, _)| c == category && t == event_type) {
            self.active.swap(0, at);
            return self.active[0].2.clone();
        }
        let (policy, kinds) = (&self.policy, &mut self.kinds);
        let mut made = policy.active(category, event_type);
        let active = match kinds.iter().find(|k| k.on == made.on) {
            Some(same) => same.clone(),
            None => {
                // Zero is the policy's own, for all types.
                made.id = kinds.len() as u32 + 1;
                let made = Rc::new(made);
                kinds.push(made.clone());
                made
            }
        };
        self.active.truncate(KINDS - 1);
        self.active.push((category.to_owned(), event_type.to_owned(), active.clone()));
        active
    }

    /// Whose names have to go, and what stands in their place.
    fn people<'v>(
        &self,
        loose: bool,
        category: &str,
        event_type: &str,
        country: impl FnOnce() -> Option<String>,
        fields: impl FnOnce() -> Vec<(&'v [u8], Value<'v>)>,
    ) -> Vec<(String, String)> {
        let (Some(keys), true) = (&self.policy.keys, self.policy.anonymizes_any()) else { return Vec::new() };
        if !loose && !self.policy.anonymizes(category, event_type, country().as_deref()) {
            return Vec::new();
        }
        let mut all: Vec<(String, String)> = Vec::new();
        let mut seen = HashSet::new();
        let mut found = |who: &str| {
            let who = who.trim().to_ascii_lowercase();
            // One letter is no name, and what has a pseudonym keeps it.
            let is_name = who.chars().count() > 1 || who.bytes().all(|c| c.is_ascii_digit());
            if all.len() < PEOPLE && is_name && !act::is_done(&who) && seen.insert(who.clone()) {
                let by = keys.code(Use::Pseudonym, &who);
                all.push((who, by));
            }
        };
        fields().into_iter().for_each(|(name, value)| self.identity(name, value, 0, &mut found));
        // The longest first: what is part of another is not taken out of it.
        all.sort_by_key(|(who, _)| std::cmp::Reverse(who.len()));
        all
    }

    fn identity(&self, name: &[u8], value: Value<'_>, depth: usize, found: &mut dyn FnMut(&str)) {
        match value.kind() {
            _ if depth > 8 => {}
            Json::Array if name == b"$map" => {
                for pair in value.elements() {
                    let mut both = pair.elements();
                    let key = both.next().and_then(Value::str).unwrap_or_default();
                    if let Some(value) = both.next() {
                        self.identity(key.as_bytes(), value, depth + 1, found);
                    }
                }
            }
            Json::Object => value.members().for_each(|(name, v)| self.identity(name, v, depth + 1, found)),
            Json::Array => value.elements().for_each(|v| self.identity(name, v, depth + 1, found)),
            Json::String | Json::Number if self.policy.is_identity(name) => {
                if let Some(who) = value.word() {
                    found(&who);
                }
            }
            Json::String => {
                let text = value.str().unwrap_or_default();
                if let Some(v) =
                    Some(&text).filter(|t| t.starts_with(['{', '['])).and_then(|t| Value::checked(t))
                {
                    self.identity(name, v, depth + 1, found);
                }
            }
            _ => {}
        }
    }
}

/// Whether metadata are those of an event that repeats names.
fn is_loose(metadata: &[u8]) -> bool {
    metadata.starts_with(b"{\"$map\":")
}
