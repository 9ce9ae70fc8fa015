//! The record: one event as one canonical JSON object (FORMAT section 2).
//!
//! The way in has two halves. [`Converter`] turns an input of any quality into the members that the input
//! alone decides ([`Members`]); it runs in parallel and never fails, since what is no event becomes an
//! `unparsed` one. [`Template::assemble`] adds what only the sink knows and gives the record's bytes; it
//! runs in sequence order and only copies. The way out is [`Checker`], which reads a record back and holds
//! it to the page.

use crate::hash::{Hash, sha256};
use crate::json;
use crate::msgpack;
use crate::scan::{self, string_end};
pub use crate::tape::{Builder, Fault, MAX_DEPTH, MAX_RECORD, RESERVED};
use crate::tape::{Doc, Form, Node, Tape, Writer, base64url, is_plain_ascii, quote, utf16_cmp, utf16_key};
use crate::time::Time;
use std::borrow::Cow;
use std::cmp::Ordering;

/// Of an unparsed text, at most so many bytes stand in the record.
pub const MAX_RAW: usize = 131_072;

/// Of what a shipper says beside an unparsed text, at most so many bytes stand in the record.
const MAX_BESIDE: usize = 65_536;

/// The members that input or filters decide, in the order of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)] // each is the member of its name
pub enum Member {
    Action,
    Actor,
    Category,
    CorrelationId,
    EventId,
    EventType,
    Metadata,
    RequestId,
    Resource,
    Result,
    Schema,
    SessionId,
    Timestamp,
}

impl Member {
    /// Its name.
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// The member of this name.
    pub fn named(name: &[u8]) -> Option<Member> {
        NAMES.iter().position(|n| n.as_bytes() == name).and_then(Member::at)
    }

    /// The member at this place of the order; `None` beyond the last.
    pub fn at(place: usize) -> Option<Member> {
        ALL.get(place).copied()
    }
}

/// How many members [`Member`] has.
pub const MEMBERS: usize = 13;

const ALL: [Member; MEMBERS] = [
    Member::Action,
    Member::Actor,
    Member::Category,
    Member::CorrelationId,
    Member::EventId,
    Member::EventType,
    Member::Metadata,
    Member::RequestId,
    Member::Resource,
    Member::Result,
    Member::Schema,
    Member::SessionId,
    Member::Timestamp,
];

const NAMES: [&str; MEMBERS] = [
    "action",
    "actor",
    "category",
    "correlation_id",
    "event_id",
    "event_type",
    "metadata",
    "request_id",
    "resource",
    "result",
    "schema",
    "session_id",
    "timestamp",
];

/// A part of a text: start and end.
type Range = (u32, u32);

/// Where an event's members stand in the buffer of [`Events`], as JSON values. An empty range is an absent member.
#[derive(Clone, Copy, Debug, Default)]
pub struct Members {
    ranges: [Range; 13],
    /// `metadata.ip_address`, if it is a string.
    source_ip: Range,
    timestamp: Option<Time>,
    /// The source gave that time, and not the shipper.
    own_time: bool,
    kind: EventKind,
    /// A bit for each string column whose text may hold escapes.
    escaped: u16,
    /// A `source` of its own, where it differs from its chunk's.
    source: Range,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EventKind {
    #[default]
    Outside,
    Unparsed,
    /// Says of so many events that they came again and are not sealed again.
    Own(u32),
}

/// Converted events, side by side in one buffer.
#[derive(Debug, Default)]
pub struct Events {
    text: Vec<u8>,
    list: Vec<Members>,
    unparsed: u64,
}

impl Events {
    /// Forgets all events but keeps the memory, unless a monster left it too large.
    pub fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(8 << 20);
        self.list.clear();
        self.unparsed = 0;
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many of them are `unparsed`.
    pub fn unparsed(&self) -> u64 {
        self.unparsed
    }

    /// Whether event `i` is `unparsed`.
    pub fn is_unparsed(&self, i: usize) -> bool {
        self.list[i].kind == EventKind::Unparsed
    }

    /// If event `i` is one that the sink wrote itself: of how many events it says that they are not sealed again.
    pub fn own(&self, i: usize) -> Option<u32> {
        match self.list[i].kind {
            EventKind::Own(redelivered) => Some(redelivered),
            _ => None,
        }
    }

    /// The `event_type` of event `i` if it is one that the sink wrote itself.
    pub fn own_type(&self, i: usize) -> Option<&str> {
        self.own(i)?;
        let text =
            core::str::from_utf8(part(&self.text, self.list[i].ranges[Member::EventType as usize])).ok()?;
        text.strip_prefix('"')?.strip_suffix('"')
    }

    /// Bytes of converted text.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The members of event `i` that its input decides, as one canonical JSON object (the record's own form,
    /// in which filters see it).
    pub fn members_json(&self, i: usize) -> Vec<u8> {
        let mut out = vec![b'{'];
        for (name, range) in NAMES.iter().zip(self.list[i].ranges) {
            if range.0 < range.1 {
                if out.len() > 1 {
                    out.push(b',');
                }
                quote(name.as_bytes(), &mut out);
                out.push(b':');
                out.extend_from_slice(part(&self.text, range));
            }
        }
        out.push(b'}');
        out
    }

    /// The text that [`Events::places`] point into.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Where the members of event `i` stand in [`Events::text`], as canonical JSON, in the order of [`Member`]; the last
    /// one is a `source` of its own. Start and end; equal where there is none.
    pub fn places(&self, i: usize) -> [(u32, u32); MEMBERS + 1] {
        let m = &self.list[i];
        core::array::from_fn(|k| if k < MEMBERS { m.ranges[k] } else { m.source })
    }

    /// Whether the source itself gave event `i` its `timestamp`: what else is there is of the shipper, or of a filter.
    pub fn has_own_time(&self, i: usize) -> bool {
        self.list[i].own_time
    }

    /// Adds event `i` of `from` as it stands there.
    pub fn push_same(&mut self, from: &Events, i: usize) {
        let old = &from.list[i];
        let mut m = Members {
            timestamp: old.timestamp,
            own_time: old.own_time,
            kind: old.kind,
            escaped: old.escaped,
            ..Members::default()
        };
        for (new, old) in m.ranges.iter_mut().zip(old.ranges) {
            *new = self.copy(from, old);
        }
        m.source = self.copy(from, old.source);
        if old.source_ip.1 > 0 {
            let (to, at) = (m.ranges[Member::Metadata as usize].0, old.ranges[Member::Metadata as usize].0);
            m.source_ip = (to + (old.source_ip.0 - at), to + (old.source_ip.1 - at));
        }
        self.unparsed += u64::from(m.kind == EventKind::Unparsed);
        self.list.push(m);
    }

    /// Adds event `i` of `from` with nothing of its content: its time, and `metadata` (canonical JSON) that says why. What could
    /// not be read stays `unparsed`; everything else becomes `withheld`.
    pub fn push_withheld(&mut self, from: &Events, i: usize, metadata: &[u8]) {
        let old = &from.list[i];
        let mut m = Members { timestamp: old.timestamp, kind: old.kind, ..Members::default() };
        m.ranges[Member::Timestamp as usize] = self.copy(from, old.ranges[Member::Timestamp as usize]);
        let kind: &[u8] = if m.kind == EventKind::Unparsed { b"\"unparsed\"" } else { b"\"withheld\"" };
        self.set(&mut m, Member::Category, b"\"unclassified\"");
        self.set(&mut m, Member::EventType, kind);
        self.set(&mut m, Member::Metadata, metadata);
        self.unparsed += u64::from(m.kind == EventKind::Unparsed);
        self.list.push(m);
    }

    fn copy(&mut self, from: &Events, range: Range) -> Range {
        if range.0 == range.1 {
            return (0, 0);
        }
        let at = self.text.len() as u32;
        self.text.extend_from_slice(part(&from.text, range));
        (at, self.text.len() as u32)
    }

    /// Adds an event that the sink itself writes (`category` `trail`), with `metadata` as canonical JSON.
    pub fn push_own(&mut self, event_type: &str, metadata: &[u8]) {
        self.push_saying(event_type, metadata, 0);
    }

    /// Adds the `redelivery` of so many events that are not sealed again.
    pub fn push_redelivery(&mut self, redelivered: u32, metadata: &[u8]) {
        self.push_saying("redelivery", metadata, redelivered);
    }

    fn push_saying(&mut self, event_type: &str, metadata: &[u8], redelivered: u32) {
        let mut m = Members { kind: EventKind::Own(redelivered), ..Members::default() };
        self.set(&mut m, Member::Category, b"\"trail\"");
        let at = self.text.len();
        quote(event_type.as_bytes(), &mut self.text);
        m.ranges[Member::EventType as usize] = (at as u32, self.text.len() as u32);
        self.set(&mut m, Member::Metadata, metadata);
        self.list.push(m);
    }

    fn set_timestamp(&mut self, m: &mut Members, time: Time) {
        m.timestamp = Some(time);
        let at = self.text.len() as u32;
        self.text.push(b'"');
        self.text.extend_from_slice(&time.text());
        self.text.push(b'"');
        m.ranges[Member::Timestamp as usize] = (at, self.text.len() as u32);
    }

    fn set(&mut self, m: &mut Members, which: Member, json: &[u8]) {
        let at = self.text.len() as u32;
        self.text.extend_from_slice(json);
        m.ranges[which as usize] = (at, self.text.len() as u32);
    }
}

fn part(text: &[u8], r: Range) -> &[u8] {
    &text[r.0 as usize..r.1 as usize]
}

/// Converts inputs to [`Members`], losslessly. Keeps its memory from event to event.
pub struct Converter {
    tape: Tape,
    writer: Writer,
    meta: Vec<(u32, bool)>,
    displaced: Vec<u32>,
}

impl Default for Converter {
    fn default() -> Self {
        Converter {
            tape: Tape::default(),
            writer: Writer::new(Form::Sealed, MAX_DEPTH),
            meta: Vec::new(),
            displaced: Vec::new(),
        }
    }
}

impl Converter {
    /// Adds one JSON text as one event: as `unparsed` if it is none.
    pub fn json(&mut self, text: &[u8], out: &mut Events) {
        let mut tape = core::mem::take(&mut self.tape);
        let parsed = json::parse(text, Form::Sealed, MAX_DEPTH, &mut tape);
        self.finish(parsed, text, &tape, Beside::default(), out);
        self.tape = tape;
    }

    /// Adds one MessagePack object as one event: as `unparsed` if it is none.
    pub fn msgpack(&mut self, data: &[u8], out: &mut Events) {
        let mut tape = core::mem::take(&mut self.tape);
        let parsed = msgpack::parse(data, &mut tape);
        self.finish(parsed, data, &tape, Beside::default(), out);
        self.tape = tape;
    }

    /// [`Converter::msgpack`] of `body`, with what the shipper says beside it: its time, if the body has none, and a
    /// `source` of its own (canonical JSON; empty for the chunk's). `whole` is what is sealed of an event that is
    /// none.
    pub(crate) fn msgpack_from(
        &mut self,
        body: &[u8],
        whole: &[u8],
        time: Option<Time>,
        source: &[u8],
        out: &mut Events,
    ) {
        let mut tape = core::mem::take(&mut self.tape);
        let parsed = msgpack::parse(body, &mut tape);
        self.finish(parsed, body, &tape, Beside { time, source, whole: Some(whole) }, out);
        self.tape = tape;
    }

    /// Adds one event of an input that is neither JSON nor MessagePack: `build` makes its tree. `whole` is its bytes: the
    /// tree's texts may lie in it, and it is what is sealed of an event that is none. With what the shipper says beside
    /// it: its time, if the tree has none, and a `source` of its own (canonical JSON; empty for the chunk's).
    pub fn built(
        &mut self,
        whole: &[u8],
        time: Option<Time>,
        source: &[u8],
        build: impl FnOnce(&mut Builder<'_>) -> Result<(), Fault>,
        out: &mut Events,
    ) {
        let mut tape = core::mem::take(&mut self.tape);
        let built = Builder::run(whole, &mut tape, build);
        self.finish(built, whole, &tape, Beside { time, source, whole: None }, out);
        self.tape = tape;
    }

    /// Adds the first MessagePack object of `data` as one event and returns its length in bytes.
    ///
    /// # Errors
    /// [`Fault`] if no whole object begins here: then nothing was added and nobody can say where the next
    /// one would begin. An object that is whole but is no event is added as `unparsed`.
    pub fn msgpack_prefix(&mut self, data: &[u8], out: &mut Events) -> Result<usize, Fault> {
        let mut tape = core::mem::take(&mut self.tape);
        let end = msgpack::parse_prefix(data, &mut tape);
        if let Ok(n) = end {
            self.finish(Ok(()), &data[..n], &tape, Beside::default(), out);
        }
        self.tape = tape;
        end
    }

    fn finish(
        &mut self,
        parsed: Result<(), Fault>,
        input: &[u8],
        tape: &Tape,
        beside: Beside<'_>,
        out: &mut Events,
    ) {
        let mark = out.text.len();
        self.writer.base = mark;
        let converted = parsed.and_then(|()| {
            let m = self.convert(Doc { input, tape }, out)?;
            // Members of an event hold `{"…":` and commas besides their values.
            let names: usize =
                NAMES.iter().zip(m.ranges).map(|(n, r)| if r.0 < r.1 { n.len() + 4 } else { 0 }).sum();
            let size = out.text.len() - mark + names + 1 + beside.source.len();
            if size > MAX_RECORD - RESERVED { Err(Fault::TooLarge) } else { Ok(m) }
        });
        let mut m = converted.unwrap_or_else(|_| {
            out.text.truncate(mark);
            out.unparsed += 1;
            unparsed(beside.whole.unwrap_or(input), out)
        });
        if let (None, Some(time)) = (m.timestamp, beside.time) {
            out.set_timestamp(&mut m, time);
        }
        // The text that an unparsed event keeps takes six times itself at most, 768 KiB: there is room for 64 KiB more.
        // What is larger than that is the metadata of this one event, which is in its text.
        if !beside.source.is_empty() && (m.kind != EventKind::Unparsed || beside.source.len() <= MAX_BESIDE) {
            let at = out.text.len() as u32;
            out.text.extend_from_slice(beside.source);
            m.source = (at, out.text.len() as u32);
        }
        out.list.push(m);
    }

    fn convert(&mut self, doc: Doc<'_>, out: &mut Events) -> Result<Members, Fault> {
        if !matches!(doc.node(0), Node::Map { .. }) {
            return Err(Fault::NotAnObject);
        }
        let mut m = Members::default();
        if self.writer.is_irregular(doc, 0) {
            let at = out.text.len();
            self.writer.pairs(doc, 0, 2, &mut out.text)?;
            m.ranges[Member::Metadata as usize] = (at as u32, out.text.len() as u32);
            return Ok(m);
        }
        self.meta.clear();
        self.displaced.clear();
        let mut own_metadata = None;
        for key in doc.keys(0) {
            let value = key + 1;
            let lifted = match (self.place(doc, key), doc.node(value)) {
                (_, Node::Null) => Place::Displaced,
                (place, _) => place,
            };
            match lifted {
                Place::Lift(which) => {
                    let at = out.text.len();
                    self.writer.value(doc, value, 2, &mut out.text)?;
                    m.ranges[which as usize] = (at as u32, out.text.len() as u32);
                    if COLUMN_OF[which as usize] < STRING_COLUMNS && !is_clean(doc, value) {
                        m.escaped |= 1 << COLUMN_OF[which as usize];
                    }
                }
                Place::Timestamp(t) => {
                    out.set_timestamp(&mut m, t);
                    m.own_time = true;
                }
                Place::OwnMetadata => own_metadata = Some(value),
                Place::Metadata => self.meta.push((key as u32, true)),
                Place::Displaced => self.displaced.push(key as u32),
            }
        }
        if let Some(own) = own_metadata {
            self.meta.extend(doc.keys(own).map(|k| (k as u32, false)));
        }
        self.metadata(doc, &mut m, out)?;
        Ok(m)
    }

    /// Where a top-level member of the input goes.
    fn place(&mut self, doc: Doc<'_>, key: usize) -> Place {
        let value = key + 1;
        let text = doc.string(value);
        let which = match doc.string(key).unwrap_or_default() {
            b"action" => Member::Action,
            b"actor" => Member::Actor,
            b"category" if text == Some(b"trail") => return Place::Displaced,
            b"category" => Member::Category,
            b"correlation_id" => Member::CorrelationId,
            b"event_id" if !text.is_some_and(is_uuid) => return Place::Displaced,
            b"event_id" => Member::EventId,
            b"event_type" if text == Some(b"unparsed") => return Place::Displaced,
            b"event_type" => Member::EventType,
            b"request_id" => Member::RequestId,
            b"resource" => Member::Resource,
            b"result" => Member::Result,
            b"schema" => Member::Schema,
            b"session_id" => Member::SessionId,
            b"timestamp" => {
                let time = match (text, doc.node(value)) {
                    (Some(t), _) => core::str::from_utf8(t).ok().and_then(Time::parse_rfc3339),
                    (None, Node::Ext(kind, s)) => Time::from_msgpack_ext(kind, doc.bytes(s)),
                    _ => None,
                };
                return time.map_or(Place::Displaced, Place::Timestamp);
            }
            b"metadata" => {
                let regular =
                    matches!(doc.node(value), Node::Map { .. }) && !self.writer.is_irregular(doc, value);
                return if regular { Place::OwnMetadata } else { Place::Displaced };
            }
            b"nonce" | b"observed_at" | b"previous_hash" | b"sequence" | b"source" | b"writer" => {
                return Place::Displaced;
            }
            _ => return Place::Metadata,
        };
        if text.is_some() { Place::Lift(which) } else { Place::Displaced }
    }

    /// Writes `metadata`: the input's own first, then what was not lifted, then `$displaced`.
    fn metadata(&mut self, doc: Doc<'_>, m: &mut Members, out: &mut Events) -> Result<(), Fault> {
        let text = |k: u32| doc.string(k as usize).unwrap_or_default();
        let (meta, displaced) = (&mut self.meta, &mut self.displaced);
        let order = |a: &(u32, bool), b: &(u32, bool)| utf16_cmp(text(a.0), text(b.0)).then(a.1.cmp(&b.1));
        if !meta.is_sorted_by(|a, b| order(a, b).is_lt()) {
            meta.sort_unstable_by(order);
        }
        // Of two equal names the input's own metadata stands first and wins.
        let mut last: Option<&[u8]> = None;
        meta.retain(|(k, _)| {
            let name = text(*k);
            let lost = last == Some(name);
            if lost {
                displaced.push(*k);
            }
            last = Some(name);
            !lost
        });
        displaced.sort_unstable_by(|a, b| utf16_cmp(text(*a), text(*b)));
        if meta.is_empty() && displaced.is_empty() {
            return Ok(());
        }
        let start = out.text.len();
        let o = &mut out.text;
        o.push(b'{');
        let mut pending = !displaced.is_empty();
        for (k, _) in &*meta {
            // `$displaced` sorts after every escaped name (`$$…`) and before what is greater than `$`.
            if pending && text(*k).first().is_some_and(|c| *c > b'$') {
                pending = false;
                write_displaced(&mut self.writer, doc, displaced, o)?;
            }
            if o.len() > start + 1 {
                o.push(b',');
            }
            self.writer.key(doc, *k as usize, o);
            let at = o.len() as u32;
            self.writer.value(doc, *k as usize + 1, 3, o)?;
            if text(*k) == b"ip_address" && doc.string(*k as usize + 1).is_some() {
                m.source_ip = (at, o.len() as u32);
                if !is_clean(doc, *k as usize + 1) {
                    m.escaped |= 1 << SOURCE_IP;
                }
            }
        }
        if pending {
            write_displaced(&mut self.writer, doc, displaced, o)?;
        }
        o.push(b'}');
        m.ranges[Member::Metadata as usize] = (start as u32, o.len() as u32);
        Ok(())
    }
}

/// Changes events to what a filter made of them, which it holds to the page: a filter's bytes come from outside, too.
/// Keeps its memory.
#[derive(Default)]
pub struct Rewriter {
    tape: Tape,
    merged: Vec<u8>,
}

/// A name, decoded, with what orders it quickly.
struct Name<'n> {
    key: u64,
    text: Cow<'n, [u8]>,
}

impl Name<'_> {
    fn compare(&self, other: &Name<'_>) -> Ordering {
        self.key.cmp(&other.key).then_with(|| json::compare_names(&self.text, &other.text))
    }
}

/// A member of the metadata that is there: its name, the name as it stands there, its value.
type Old<'n> = (Name<'n>, &'n [u8], &'n [u8]);

/// What a filter makes of an event.
#[derive(Clone, Copy, Debug)]
pub enum Change<'c> {
    /// A member's new value: canonical JSON, or empty where the member is to be absent.
    Set(Member, &'c [u8]),
    /// A member of the metadata: its name as canonical JSON has it between quotes, and its value, canonical JSON. It takes the
    /// place of what has the name. Such changes come in the order of [`json::compare_names`], behind all others.
    Add(&'c [u8], &'c [u8]),
}

impl Rewriter {
    /// Adds event `i` of `from` with `changes` to `to`.
    ///
    /// # Errors
    /// [`Malformed`] if what would come of it is none that an input could decide; `to` is then as it was.
    pub fn push(
        &mut self,
        from: &Events,
        i: usize,
        changes: &[Change<'_>],
        to: &mut Events,
    ) -> Result<(), Malformed> {
        let mark = to.text.len();
        let unparsed = to.unparsed;
        to.push_same(from, i);
        let set = changes.iter().take_while(|c| matches!(c, Change::Set(..))).count();
        let (set, added) = changes.split_at(set);
        let sets = set.iter().try_for_each(|change| match change {
            Change::Set(member, json) => self.change(*member, json, to),
            Change::Add(..) => Err(Malformed::Value("metadata")),
        });
        let done = sets.and_then(|()| self.add(added, to)).and_then(|()| {
            let m = to.list.last().ok_or(Malformed::Missing("event"))?;
            let size: usize = NAMES
                .iter()
                .zip(m.ranges)
                .map(|(n, r)| if r.0 < r.1 { (r.1 - r.0) as usize + n.len() + 4 } else { 0 })
                .sum();
            let size = size + 1 + (m.source.1 - m.source.0) as usize;
            if size > MAX_RECORD - RESERVED { Err(Malformed::Size(size)) } else { Ok(()) }
        });
        if done.is_err() {
            to.list.pop();
            to.text.truncate(mark);
            to.unparsed = unparsed;
        }
        done
    }

    /// Merges members into the last event's metadata, whose other members are not looked into again.
    fn add(&mut self, added: &[Change<'_>], to: &mut Events) -> Result<(), Malformed> {
        const METADATA: usize = Member::Metadata as usize;
        let Some(m) = to.list.last_mut() else { return Err(Malformed::Missing("event")) };
        if added.is_empty() {
            return Ok(());
        }
        let (from, end) = (m.ranges[METADATA].0 as usize, m.ranges[METADATA].1 as usize);
        let mut merged = std::mem::take(&mut self.merged);
        merged.clear();
        let mut count = 0u32;
        let mut ip = None;
        let more = |c: &Change<'_>| if let Change::Add(n, v) = c { n.len() + v.len() + 4 } else { 0 };
        merged.reserve(end - from + 2 + added.iter().map(more).sum::<usize>());
        let mut put = |name: &[u8], value: &[u8]| {
            merged.extend_from_slice(if count > 0 { b",\"" } else { b"{\"" });
            merged.extend_from_slice(name);
            merged.extend_from_slice(b"\":");
            if name == b"ip_address" && value.starts_with(b"\"") {
                ip = Some((merged.len(), value.len()));
            }
            merged.extend_from_slice(value);
            count += 1;
        };
        let mut old = scan::members(&to.text[from..end]);
        let mut next = self.next(&mut old)?;
        let mut wrapper = false;
        let mut last: Option<Name<'_>> = None;
        for change in added {
            let Change::Add(raw, value) = *change else { return Err(Malformed::Value("metadata")) };
            let name = self.name(raw, false)?;
            if last.is_some_and(|l| l.compare(&name).is_ge()) {
                return Err(Malformed::NotCanonical);
            }
            // The record and its metadata are around it.
            self.check_value(value, MAX_DEPTH - 2)?;
            wrapper |= matches!(raw, b"$number" | b"$bytes" | b"$ext" | b"$map");
            while let Some((old_name, old_raw, old_value)) = &next {
                match old_name.compare(&name) {
                    Ordering::Less => put(old_raw, old_value),
                    Ordering::Equal => {}
                    Ordering::Greater => break,
                }
                next = self.next(&mut old)?;
            }
            put(raw, value);
            last = Some(name);
        }
        if let Some((_, raw, value)) = next {
            put(raw, value);
        }
        old.for_each(|(raw, value)| put(raw, value));
        merged.push(b'}');
        if wrapper && count == 1 {
            self.check_value(&merged, MAX_DEPTH - 1)?;
        }
        let at = to.text.len();
        m.ranges[METADATA] = (at as u32, (at + merged.len()) as u32);
        m.source_ip = (0, 0);
        m.escaped &= !(1 << SOURCE_IP);
        if let Some((from, len)) = ip {
            m.source_ip = ((at + from) as u32, (at + from + len) as u32);
            if !is_plain_ascii(&merged, from + 1, len - 2) {
                m.escaped |= 1 << SOURCE_IP;
            }
        }
        to.text.extend_from_slice(&merged);
        self.merged = merged;
        Ok(())
    }

    /// The next of the metadata's members: its name, the name as it stands there, its value.
    fn next<'n>(&mut self, members: &mut scan::Members<'n>) -> Result<Option<Old<'n>>, Malformed> {
        let Some((raw, value)) = members.next() else { return Ok(None) };
        Ok(Some((self.name(raw, true)?, raw, value)))
    }

    /// A name of one of the metadata's members, as it is compared; `known`: it is canonical.
    fn name<'n>(&mut self, raw: &'n [u8], known: bool) -> Result<Name<'n>, Malformed> {
        if !raw.contains(&b'\\') && (known || is_plain_ascii(raw, 0, raw.len())) {
            return Ok(Name { key: utf16_key(raw), text: Cow::Borrowed(raw) });
        }
        let quoted = [b"\"", raw, b"\""].concat();
        if !json::parse_canonical(&quoted, 1, &mut self.tape)? {
            return Err(Malformed::NotCanonical);
        }
        let doc = Doc { input: &quoted, tape: &self.tape };
        let text = doc.string(0).ok_or(Malformed::NotCanonical)?.to_vec();
        Ok(Name { key: utf16_key(&text), text: Cow::Owned(text) })
    }

    /// What is to be the metadata, or the value of one of their members: nested so deep at most.
    fn check_value(&mut self, value: &[u8], depth: usize) -> Result<(), Malformed> {
        if json::is_plain(value, depth) {
            return Ok(());
        }
        if !json::parse_canonical(value, depth, &mut self.tape)? {
            return Err(Malformed::NotCanonical);
        }
        if self.tape.odd { check_tree(Doc { input: value, tape: &self.tape }) } else { Ok(()) }
    }

    fn change(&mut self, member: Member, json: &[u8], to: &mut Events) -> Result<(), Malformed> {
        let which = member as usize;
        let Some(m) = to.list.last_mut() else { return Err(Malformed::Missing("event")) };
        let kind = m.kind;
        m.ranges[which] = (0, 0);
        match member {
            Member::Metadata => {
                m.source_ip = (0, 0);
                m.escaped &= !(1 << SOURCE_IP);
            }
            Member::Timestamp => (m.timestamp, m.own_time) = (None, false),
            _ if COLUMN_OF[which] < STRING_COLUMNS => m.escaped &= !(1 << COLUMN_OF[which]),
            _ => {}
        }
        if json.is_empty() {
            // What could not be read stays that, whoever looks at it.
            let kept = matches!(member, Member::Category | Member::EventType) && kind != EventKind::Outside;
            return if kept { Err(Malformed::Value(NAMES[which])) } else { Ok(()) };
        }
        let plain = match json {
            [b'"', inner @ .., b'"'] if is_plain_ascii(json, 1, inner.len()) => Some(inner),
            _ => None,
        };
        if plain.is_none() {
            // The record itself is the outermost object.
            if !json::parse_canonical(json, MAX_DEPTH - 1, &mut self.tape)? {
                return Err(Malformed::NotCanonical);
            }
            if self.tape.odd {
                check_tree(Doc { input: json, tape: &self.tape })?;
            }
        }
        // Of what is plain there is no tape, and no look at it.
        let doc = Doc { input: json, tape: &self.tape };
        let text = plain.or_else(|| doc.string(0));
        let at = to.text.len() as u32;
        let mut source_ip = (0, 0);
        let mut escaped = false;
        match member {
            Member::Metadata if plain.is_some() => return Err(Malformed::Value("metadata")),
            Member::Metadata => match doc.node(0) {
                Node::Map { end } if end > 1 => {
                    let ip = doc.keys(0).find(|k| doc.string(*k) == Some(b"ip_address"));
                    // A name without escapes lies in the text, and its value behind `":`.
                    if let (Some(key), Some(Node::Str(name))) = (ip, ip.map(|k| doc.node(k)))
                        && let (Node::Str(_), Some((_, end))) = (doc.node(key + 1), name.in_input())
                    {
                        let from = end + 2;
                        let len = string_end(json, from as usize).map_or(0, |end| end as u32 - from);
                        source_ip = (at + from, at + from + len);
                        escaped = !is_clean(doc, key + 1);
                    }
                }
                _ => return Err(Malformed::Value("metadata")),
            },
            Member::Timestamp => {
                let time = text.and_then(time_of).ok_or(Malformed::Value("timestamp"))?;
                m.timestamp = Some(time);
            }
            _ => {
                let uuid = member != Member::EventId || text.is_some_and(is_uuid);
                if (text.is_none() || !uuid) && (plain.is_some() || !is_sealed(doc, 0)) {
                    return Err(Malformed::Value(NAMES[which]));
                }
                let forged = match (member, text, kind) {
                    (_, _, EventKind::Own(_)) => true,
                    (Member::Category, Some(b"trail"), _) => true,
                    (Member::EventType, Some(b"unparsed"), EventKind::Outside) => true,
                    // What could not be read stays that, whoever looks at it.
                    (Member::EventType, given, EventKind::Unparsed) => given != Some(b"unparsed"),
                    (Member::Category, given, EventKind::Unparsed) => given != Some(b"unclassified"),
                    _ => false,
                };
                if forged {
                    return Err(Malformed::Value(NAMES[which]));
                }
                escaped = plain.is_none() && text.is_some() && !is_clean(doc, 0);
            }
        }
        m.ranges[which] = (at, at + json.len() as u32);
        m.source_ip = if member == Member::Metadata { source_ip } else { m.source_ip };
        let column = if member == Member::Metadata { SOURCE_IP } else { COLUMN_OF[which] };
        if escaped && column < STRING_COLUMNS {
            m.escaped |= 1 << column;
        }
        to.text.extend_from_slice(json);
        Ok(())
    }
}

/// Writes values as records hold them: what stands beside events, in `source`. Keeps its memory.
pub struct Aside {
    tape: Tape,
    writer: Writer,
}

impl Default for Aside {
    fn default() -> Self {
        Aside { tape: Tape::default(), writer: Writer::new(Form::Sealed, MAX_DEPTH) }
    }
}

impl Aside {
    /// Appends the value that `build` makes as canonical JSON; texts may lie in `input`, and its outermost container is
    /// at `depth` (the record being 1).
    ///
    /// # Errors
    /// [`Fault`] if it is too deep or too large, or as `build` says; `out` is then as it was.
    pub fn json(
        &mut self,
        input: &[u8],
        depth: usize,
        build: impl FnOnce(&mut Builder<'_>) -> Result<(), Fault>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let mark = out.len();
        self.writer.base = mark;
        let written = Builder::run(input, &mut self.tape, build).and_then(|()| {
            let doc = Doc { input, tape: &self.tape };
            self.writer.value(doc, 0, depth, out)
        });
        if written.is_err() {
            out.truncate(mark);
        }
        written
    }
}

impl Aside {
    /// Appends a JSON text as canonical JSON, as a value whose outermost container is at `depth` (the record being 1):
    /// as records hold it (names that begin with `$` escaped, numbers wrapped where they must be).
    ///
    /// # Errors
    /// [`Fault`] if it is none; `out` is then as it was.
    pub fn text(&mut self, text: &[u8], depth: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        let mark = out.len();
        self.writer.base = mark;
        let written = json::parse(text, Form::Sealed, MAX_DEPTH, &mut self.tape).and_then(|()| {
            let doc = Doc { input: text, tape: &self.tape };
            self.writer.value(doc, 0, depth, out)
        });
        if written.is_err() {
            out.truncate(mark);
        }
        written
    }
}

/// What a shipper says beside an event's body.
#[derive(Clone, Copy, Default)]
struct Beside<'b> {
    time: Option<Time>,
    source: &'b [u8],
    whole: Option<&'b [u8]>,
}

/// Whether a value is a string that stands in JSON as it is.
fn is_clean(doc: Doc<'_>, value: usize) -> bool {
    matches!(doc.node(value), Node::Str(s) if s.is_clean())
}

enum Place {
    Lift(Member),
    Timestamp(Time),
    OwnMetadata,
    Metadata,
    Displaced,
}

fn write_displaced(w: &mut Writer, doc: Doc<'_>, keys: &[u32], out: &mut Vec<u8>) -> Result<(), Fault> {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.extend_from_slice(b"\"$displaced\":{");
    for (i, key) in keys.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        w.key(doc, *key as usize, out);
        w.value(doc, *key as usize + 1, 4, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// Whether a text is a UUID as records hold it.
pub fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(i, c)| match i {
            8 | 13 | 18 | 23 => *c == b'-',
            _ => matches!(c, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// The members of a text that is no event.
fn unparsed(raw: &[u8], out: &mut Events) -> Members {
    let mut m = Members { kind: EventKind::Unparsed, ..Members::default() };
    out.set(&mut m, Member::Category, b"\"unclassified\"");
    out.set(&mut m, Member::EventType, b"\"unparsed\"");
    let start = out.text.len() as u32;
    let o = &mut out.text;
    o.extend_from_slice(b"{\"$raw\":");
    let kept = if raw.len() > MAX_RAW { without_unfinished(&raw[..MAX_RAW]) } else { raw };
    match core::str::from_utf8(kept) {
        Ok(text) => quote(text.as_bytes(), o),
        Err(_) => {
            o.extend_from_slice(b"{\"$bytes\":");
            base64url(kept, o);
            o.push(b'}');
        }
    }
    o.extend_from_slice(b",\"$raw_length\":");
    o.extend_from_slice(itoa::Buffer::new().format(raw.len()).as_bytes());
    o.extend_from_slice(b",\"$raw_sha256\":\"");
    o.extend_from_slice(&sha256(raw).hex_bytes());
    o.extend_from_slice(b"\"}");
    m.ranges[Member::Metadata as usize] = (start, o.len() as u32);
    m
}

/// Without the first bytes of a UTF-8 character whose rest was cut off.
fn without_unfinished(cut: &[u8]) -> &[u8] {
    for back in 1..=3.min(cut.len()) {
        let (head, tail) = cut.split_at(cut.len() - back);
        if tail[0] & 0xc0 != 0x80 {
            let unfinished =
                core::str::from_utf8(tail).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none());
            return if unfinished { head } else { cut };
        }
    }
    cut
}

/// What only the chain decides about a record.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The record's number within its writer, from 0.
    pub sequence: u64,
    /// `H` of the record before; of the genesis payload for the first.
    pub previous_hash: Hash,
    /// The sink's clock at the spool write.
    pub observed_at: Time,
    /// Fresh.
    pub nonce: [u8; 16],
    /// For the UUIDv7 of an event that brought no id.
    pub id_bits: [u8; 10],
}

/// The values of the derived columns, as parts of a record's text (contents of JSON strings, perhaps with
/// escapes); empty for null.
#[derive(Clone, Copy, Debug, Default)]
pub struct Columns {
    ranges: [Range; STRING_COLUMNS],
    /// A bit for each range that may hold escapes.
    escaped: u16,
    /// The record's `timestamp`, microseconds since 1970 rounded towards the past.
    pub timestamp_micros: i64,
}

/// `event_id`, `category`, `event_type`, `actor`, `resource`, `action`, `result`, `correlation_id`,
/// `session_id`, `source_ip`: the string columns of an events object, in its order.
pub const STRING_COLUMNS: usize = 10;
const SOURCE_IP: usize = 9;

/// For each of [`NAMES`], its column.
const COLUMN_OF: [usize; 13] = [
    5,          // action
    3,          // actor
    1,          // category
    7,          // correlation_id
    0,          // event_id
    2,          // event_type
    usize::MAX, // metadata
    usize::MAX, // request_id
    4,          // resource
    6,          // result
    usize::MAX, // schema
    8,          // session_id
    usize::MAX, // timestamp
];

impl Columns {
    /// Points column `i` at the string that follows `key` in a canonical record, if one does.
    fn point(&mut self, i: usize, doc: Doc<'_>, key: usize) {
        let Node::Str(span) = doc.node(key + 1) else { return };
        if let Some(range) = span.in_input() {
            self.ranges[i] = range;
            return;
        }
        // It has escapes. Its name (ours have none) lies in the record, and `":"` between the two.
        let Node::Str(name) = doc.node(key) else { return };
        let Some((_, end)) = name.in_input() else { return };
        let mut quoted = Vec::new();
        quote(doc.bytes(span), &mut quoted);
        self.ranges[i] = (end + 3, end + 3 + quoted.len() as u32 - 2);
        self.escaped |= 1 << i;
    }

    /// The bytes of string column `i` within `record`: `Ok` as they stand, `Err` if they have escapes and
    /// had to be rewritten; `None` for null.
    pub fn get(&self, record: &[u8], i: usize) -> Option<Result<Range, Vec<u8>>> {
        let r = self.ranges[i];
        if r.1 == 0 {
            return None;
        }
        let escaped = self.escaped & (1 << i) != 0 && part(record, r).contains(&b'\\');
        Some(if escaped { Err(unescape(part(record, r))) } else { Ok(r) })
    }
}

fn unescape(raw: &[u8]) -> Vec<u8> {
    let quoted = [b"\"", raw, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).map(String::into_bytes).unwrap_or_default()
}

/// Makes records of one writer from members and links.
#[derive(Clone, Debug)]
pub struct Template {
    /// `,"writer":"…"}`
    tail: Vec<u8>,
}

impl Template {
    /// For the writer `<name>.<epoch>`.
    pub fn new(writer: &str) -> Template {
        let mut tail = b",\"writer\":".to_vec();
        quote(writer.as_bytes(), &mut tail);
        tail.push(b'}');
        Template { tail }
    }

    /// Appends the record of `events[i]` to `out`; `source` is canonical JSON. Returns its columns (relative
    /// to the record's start) and its timestamp.
    #[allow(clippy::needless_range_loop)] // members are numbers into several tables
    pub fn assemble(
        &self,
        events: &Events,
        i: usize,
        source: &[u8],
        link: &Link,
        out: &mut Vec<u8>,
    ) -> (Columns, Time) {
        let m = &events.list[i];
        let base = out.len();
        let mut columns = Columns::default();
        let timestamp = m.timestamp.unwrap_or(link.observed_at);
        columns.timestamp_micros = timestamp.unix_micros();
        columns.escaped = m.escaped;
        out.push(b'{');
        for which in 0..=Member::Metadata as usize {
            let given = m.ranges[which];
            if given.0 < given.1 {
                put(NAMES[which], part(&events.text, given), which, base, &mut columns, out);
                if which == Member::Metadata as usize && m.source_ip.1 > 0 {
                    let start = (out.len() - 1 - base) as u32 - (given.1 - given.0);
                    let inside = |at: u32| start + (at - given.0);
                    // Without the quotes.
                    columns.ranges[SOURCE_IP] = (inside(m.source_ip.0) + 1, inside(m.source_ip.1) - 1);
                }
            } else if which == Member::EventId as usize {
                put(NAMES[which], &uuid_v7(link.observed_at, link.id_bits), which, base, &mut columns, out);
            } else if which == Member::Category as usize {
                put(NAMES[which], b"\"unclassified\"", which, base, &mut columns, out);
            } else if which == Member::EventType as usize {
                put(NAMES[which], b"\"log\"", which, base, &mut columns, out);
            }
        }
        out.extend_from_slice(b"\"nonce\":");
        let mut nonce = [0; 22];
        data_encoding::BASE64URL_NOPAD.encode_mut(&link.nonce, &mut nonce);
        out.push(b'"');
        out.extend_from_slice(&nonce);
        out.extend_from_slice(b"\",\"observed_at\":\"");
        out.extend_from_slice(&link.observed_at.text());
        out.extend_from_slice(b"\",\"previous_hash\":\"");
        out.extend_from_slice(&link.previous_hash.hex_bytes());
        out.extend_from_slice(b"\",");
        for which in Member::RequestId as usize..=Member::SessionId as usize {
            if which == Member::SessionId as usize {
                out.extend_from_slice(b"\"sequence\":");
                out.extend_from_slice(itoa::Buffer::new().format(link.sequence).as_bytes());
                out.push(b',');
            }
            let given = m.ranges[which];
            if given.0 < given.1 {
                put(NAMES[which], part(&events.text, given), which, base, &mut columns, out);
            }
        }
        out.extend_from_slice(b"\"source\":");
        out.extend_from_slice(if m.source.0 < m.source.1 { part(&events.text, m.source) } else { source });
        out.extend_from_slice(b",\"timestamp\":");
        let given = m.ranges[Member::Timestamp as usize];
        if given.0 < given.1 {
            out.extend_from_slice(part(&events.text, given));
        } else {
            out.push(b'"');
            out.extend_from_slice(&timestamp.text());
            out.push(b'"');
        }
        out.extend_from_slice(&self.tail);
        (columns, timestamp)
    }
}

/// `"name":value,`
fn put(name: &str, value: &[u8], which: usize, base: usize, columns: &mut Columns, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    let at = (out.len() - base) as u32;
    out.extend_from_slice(value);
    if COLUMN_OF[which] < STRING_COLUMNS && value[0] == b'"' {
        columns.ranges[COLUMN_OF[which]] = (at + 1, at + value.len() as u32 - 1);
    }
    out.push(b',');
}

/// A quoted UUIDv7 (RFC 9562 section 5.7): milliseconds, version, 74 random bits, variant.
fn uuid_v7(now: Time, random: [u8; 10]) -> [u8; 38] {
    let mut b = [0u8; 16];
    b[..6].copy_from_slice(&(now.unix_millis().max(0) as u64).to_be_bytes()[2..]);
    b[6..].copy_from_slice(&random);
    b[6] = b[6] & 0x0f | 0x70;
    b[8] = b[8] & 0x3f | 0x80;
    let mut out = [b'"'; 38];
    let mut at = 1;
    for (i, byte) in b.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out[at] = b'-';
            at += 1;
        }
        out[at] = b"0123456789abcdef"[usize::from(byte >> 4)];
        out[at + 1] = b"0123456789abcdef"[usize::from(byte & 15)];
        at += 2;
    }
    out
}

/// A UUIDv7 as an `event_id` is written.
pub fn event_id(now: Time, random: [u8; 10]) -> String {
    uuid_v7(now, random)[1..37].iter().map(|c| *c as char).collect()
}

/// A new epoch: a UUIDv7 as 32 hex digits.
pub fn new_epoch(now: Time, random: [u8; 10]) -> String {
    uuid_v7(now, random).iter().filter(|c| c.is_ascii_hexdigit()).map(|c| *c as char).collect()
}

/// The same event in another epoch: new writer, sequence and link; event id, times, content and nonce stay.
/// `None` if `record` is no record that [`Template::assemble`] made.
pub fn relink(record: &[u8], template: &Template, sequence: u64, previous_hash: &Hash) -> Option<Vec<u8>> {
    let mut tape = Tape::default();
    json::parse(record, Form::Plain, MAX_DEPTH, &mut tape).ok()?;
    let doc = Doc { input: record, tape: &tape };
    let start_of_value = |name: &[u8]| {
        let key = doc.keys(0).find(|k| doc.string(*k) == Some(name))?;
        let at = doc.string(key)?.as_ptr() as usize - record.as_ptr() as usize;
        Some(at + name.len() + 2)
    };
    let previous = start_of_value(b"previous_hash")? + 1;
    let number = start_of_value(b"sequence")?;
    let number_end = number + record[number..].iter().position(|c| !c.is_ascii_digit())?;
    let writer = memchr::memmem::rfind(record, b",\"writer\":\"")?;
    let mut out = Vec::with_capacity(record.len() + 32);
    out.extend_from_slice(record.get(..previous)?);
    out.extend_from_slice(&previous_hash.hex_bytes());
    out.extend_from_slice(record.get(previous + 64..number)?);
    out.extend_from_slice(sequence.to_string().as_bytes());
    out.extend_from_slice(record.get(number_end..writer)?);
    out.extend_from_slice(&template.tail);
    Some(out)
}

/// What a record says of itself, read back.
#[derive(Clone, Copy, Debug)]
pub struct View<'r> {
    /// The member `sequence`.
    pub sequence: u64,
    /// The member `previous_hash`.
    pub previous_hash: Hash,
    /// The member `timestamp`.
    pub timestamp: Time,
    /// The member `observed_at`.
    pub observed_at: Time,
    /// The member `writer`.
    pub writer: &'r str,
    /// The derived columns.
    pub columns: Columns,
}

/// Why a record is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Larger than 1 MiB.
    #[error("it has {0} bytes, more than {MAX_RECORD}")]
    Size(usize),
    /// Not JSON, or not what RFC 8785 reads.
    #[error("it is no JSON: {0}")]
    Json(#[from] Fault),
    /// Not the bytes that RFC 8785 writes.
    #[error("it is not in canonical form")]
    NotCanonical,
    /// A member outside the closed set.
    #[error("it has a member {0:?}, which no record has")]
    UnknownMember(String),
    /// A required member is absent.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A member's value is not what the page says.
    #[error("its {0} is not what a record may hold")]
    Value(&'static str),
    /// A bare number beyond ±(2^53−1).
    #[error("it has a bare number beyond ±(2^53−1)")]
    UnsafeNumber,
    /// A wrapper that no conversion writes.
    #[error("it has a {0} that no conversion writes")]
    Wrapper(&'static str),
}

/// Reads records back. Keeps its memory from record to record.
#[derive(Default)]
pub struct Checker {
    tape: Tape,
}

/// What a member of a record is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Given(Member),
    Nonce,
    ObservedAt,
    PreviousHash,
    Sequence,
    Source,
    Writer,
}

/// All members that a record may have, in its order; those it must have.
const SLOTS: [(&str, Slot, bool); 19] = [
    ("action", Slot::Given(Member::Action), false),
    ("actor", Slot::Given(Member::Actor), false),
    ("category", Slot::Given(Member::Category), true),
    ("correlation_id", Slot::Given(Member::CorrelationId), false),
    ("event_id", Slot::Given(Member::EventId), true),
    ("event_type", Slot::Given(Member::EventType), true),
    ("metadata", Slot::Given(Member::Metadata), false),
    ("nonce", Slot::Nonce, true),
    ("observed_at", Slot::ObservedAt, true),
    ("previous_hash", Slot::PreviousHash, true),
    ("request_id", Slot::Given(Member::RequestId), false),
    ("resource", Slot::Given(Member::Resource), false),
    ("result", Slot::Given(Member::Result), false),
    ("schema", Slot::Given(Member::Schema), false),
    ("sequence", Slot::Sequence, true),
    ("session_id", Slot::Given(Member::SessionId), false),
    ("source", Slot::Source, true),
    ("timestamp", Slot::Given(Member::Timestamp), true),
    ("writer", Slot::Writer, true),
];

impl Checker {
    /// Reads one record and holds it to FORMAT section 2.
    ///
    /// # Errors
    /// [`Malformed`], the first fault found.
    pub fn check<'r>(&mut self, record: &'r [u8]) -> Result<View<'r>, Malformed> {
        if record.len() > MAX_RECORD {
            return Err(Malformed::Size(record.len()));
        }
        if !json::parse_canonical(record, MAX_DEPTH, &mut self.tape)? {
            return Err(Malformed::NotCanonical);
        }
        let doc = Doc { input: record, tape: &self.tape };
        if !matches!(doc.node(0), Node::Map { .. }) {
            return Err(Malformed::Json(Fault::NotAnObject));
        }
        if self.tape.odd {
            check_tree(doc)?;
        }
        let mut view = View {
            sequence: 0,
            previous_hash: Hash([0; 32]),
            timestamp: Time::MAX,
            observed_at: Time::MAX,
            writer: "",
            columns: Columns::default(),
        };
        // Names are sorted here as there: one pass over both.
        let mut slots = SLOTS.iter();
        let mut slot_of = |name: &[u8]| -> Result<Slot, Malformed> {
            for (known, slot, required) in slots.by_ref() {
                if known.as_bytes() == name {
                    return Ok(*slot);
                }
                if *required && utf16_cmp(known.as_bytes(), name).is_lt() {
                    return Err(Malformed::Missing(known));
                }
            }
            Err(Malformed::UnknownMember(String::from_utf8_lossy(name).into_owned()))
        };
        for key in doc.keys(0) {
            let name = doc.string(key).unwrap_or_default();
            let value = key + 1;
            let text = doc.string(value);
            match slot_of(name)? {
                Slot::Given(Member::Metadata) => match doc.node(value) {
                    Node::Map { end } if end as usize > value + 1 => {
                        let ip = |k: &usize| doc.string(*k) == Some(b"ip_address");
                        if let Some(inner) = doc.keys(value).find(ip) {
                            view.columns.point(SOURCE_IP, doc, inner);
                        }
                    }
                    _ => return Err(Malformed::Value("metadata")),
                },
                Slot::Given(Member::Timestamp) => {
                    // A sealed timestamp still has a column: null is not possible there, so it is not allowed.
                    view.timestamp = text.and_then(time_of).ok_or(Malformed::Value("timestamp"))?;
                }
                Slot::Given(member) => {
                    let which = member as usize;
                    let uuid = member != Member::EventId || text.is_some_and(is_uuid);
                    if (text.is_none() || !uuid) && !is_sealed(doc, value) {
                        return Err(Malformed::Value(NAMES[which]));
                    }
                    if COLUMN_OF[which] < STRING_COLUMNS {
                        view.columns.point(COLUMN_OF[which], doc, key);
                    }
                }
                Slot::ObservedAt => {
                    view.observed_at = text.and_then(time_of).ok_or(Malformed::Value("observed_at"))?;
                }
                Slot::PreviousHash => {
                    let hex = text.and_then(|t| core::str::from_utf8(t).ok());
                    view.previous_hash =
                        hex.and_then(Hash::from_hex).ok_or(Malformed::Value("previous_hash"))?;
                }
                Slot::Nonce => {
                    let mut nonce = [0; 16];
                    let ok = text.is_some_and(|t| {
                        t.len() == 22 && data_encoding::BASE64URL_NOPAD.decode_mut(t, &mut nonce).is_ok()
                    });
                    if !ok {
                        return Err(Malformed::Value("nonce"));
                    }
                }
                Slot::Sequence => match doc.node(value) {
                    Node::Double(n) if n >= 0.0 && n.fract() == 0.0 => view.sequence = n as u64,
                    _ => return Err(Malformed::Value("sequence")),
                },
                Slot::Writer => {
                    // A writer's name has no escapes, so its text stands in the record as it is.
                    let Node::Str(span) = doc.node(value) else { return Err(Malformed::Value("writer")) };
                    let name = span.in_input().and_then(|r| core::str::from_utf8(part(record, r)).ok());
                    view.writer = name.ok_or(Malformed::Value("writer"))?;
                }
                Slot::Source => {
                    if !matches!(doc.node(value), Node::Map { .. }) {
                        return Err(Malformed::Value("source"));
                    }
                }
            }
        }
        if let Some((name, ..)) = slots.find(|(_, _, required)| *required) {
            return Err(Malformed::Missing(name));
        }
        view.columns.timestamp_micros = view.timestamp.unix_micros();
        Ok(view)
    }
}

fn time_of(text: &[u8]) -> Option<Time> {
    core::str::from_utf8(text).ok().and_then(Time::parse)
}

fn is_sealed(doc: Doc<'_>, value: usize) -> bool {
    matches!(doc.node(value), Node::Map { .. }) && {
        let mut keys = doc.keys(value);
        keys.next().is_some_and(|k| doc.string(k) == Some(b"$sealed")) && keys.next().is_none()
    }
}

/// Bare numbers and wrappers anywhere in a record.
fn check_tree(doc: Doc<'_>) -> Result<(), Malformed> {
    for i in 0..doc.tape.nodes.len() {
        match doc.node(i) {
            Node::Double(x) if x.abs() > crate::number::MAX_SAFE as f64 => {
                return Err(Malformed::UnsafeNumber);
            }
            Node::Map { .. } => check_wrapper(doc, i)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_wrapper(doc: Doc<'_>, map: usize) -> Result<(), Malformed> {
    let mut keys = doc.keys(map);
    let (Some(key), None) = (keys.next(), keys.next()) else { return Ok(()) };
    let value = key + 1;
    let base64 = |i: usize| doc.string(i).is_some_and(|t| data_encoding::BASE64URL_NOPAD.decode(t).is_ok());
    let (ok, name) = match doc.string(key) {
        Some(b"$number") => (doc.string(value).is_some(), "$number"),
        Some(b"$bytes") => (base64(value), "$bytes"),
        Some(b"$ext") => {
            let kind_ok = || matches!(doc.node(value + 1), Node::Double(x) if (-128.0..=127.0).contains(&x) && x.fract() == 0.0);
            let array = matches!(doc.node(value), Node::Array { end } if end as usize == value + 3);
            (array && kind_ok() && base64(value + 2), "$ext")
        }
        Some(b"$map") => (matches!(doc.node(value), Node::Array { .. }), "$map"),
        _ => return Ok(()),
    };
    if ok { Ok(()) } else { Err(Malformed::Wrapper(name)) }
}
