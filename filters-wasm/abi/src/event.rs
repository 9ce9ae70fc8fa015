//! One event as a filter sees it, whichever host it came from: the members of a record and its metadata, and what the filter
//! adds to them.
//!
//! What the source said is never lost: where a filter puts another value in its place, it goes to
//! `metadata.$displaced` under its own name, as the conversion of docs/format.md does it.

use crate::view::{Kind, Value};
use std::borrow::Cow;
use std::collections::HashSet;
use waxseal_trail::json::{compare_names, write_number, write_string};
use waxseal_trail::record::{Aside, MEMBERS, Member, is_uuid};
use waxseal_trail::time::Time;

/// Which host runs the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The sink: the event is in the record's own form.
    Sink,
    /// A shipper, with the record as it has it: the sink will convert what comes of it.
    Shipper,
}

/// A member of the event's metadata, as the sink sees it or would.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Its name as it stands between quotes.
    raw: &'a [u8],
    /// The same without the `$` that the conversion has added.
    name: &'a [u8],
    /// Its value.
    pub value: Value<'a>,
    /// It stands in the source's own `metadata`.
    inner: bool,
}

impl<'a> Field<'a> {
    /// Its name.
    pub fn name(&self) -> &'a [u8] {
        self.name
    }
}

type Range = (u32, u32);

/// An event.
#[derive(Debug)]
pub struct Event<'a> {
    side: Side,
    tag: Cow<'a, str>,
    now: Time,
    shipped: Option<Time>,
    members: [Option<Value<'a>>; MEMBERS],
    meta: Vec<Field<'a>>,
    /// Names that the conversion displaces, and the text of `$displaced` where there is one.
    displaced: Vec<&'a [u8]>,
    displaced_text: Option<Value<'a>>,
    /// What a filter before this one says that it added: names, and the list.
    marks: Vec<Cow<'a, str>>,
    marks_text: Option<Value<'a>>,
    /// The source itself gave the time.
    own_time: bool,
    irregular: bool,
    /// A shipper's `metadata` that repeats a name.
    loose_metadata: bool,
    unparsed: bool,
    /// A name of the metadata, or of what is displaced, has a dot in it.
    dotted: bool,
    /// Of what is added.
    arena: Vec<u8>,
    set: [Option<Range>; MEMBERS],
    added: Vec<(Cow<'static, str>, Range)>,
    conflicts: Vec<String>,
    explanation: Option<Vec<String>>,
}

const PARSED_LATER: [&[u8]; 6] =
    [b"nonce", b"observed_at", b"previous_hash", b"sequence", b"source", b"writer"];

impl<'a> Event<'a> {
    fn empty(side: Side, tag: Cow<'a, str>, now: Time) -> Event<'a> {
        Event {
            side,
            tag,
            now,
            shipped: None,
            members: [None; MEMBERS],
            meta: Vec::with_capacity(32),
            displaced: Vec::new(),
            displaced_text: None,
            marks: Vec::new(),
            marks_text: None,
            own_time: true,
            irregular: false,
            loose_metadata: false,
            unparsed: false,
            dotted: false,
            arena: Vec::with_capacity(2048),
            set: [None; MEMBERS],
            added: Vec::with_capacity(24),
            conflicts: Vec::new(),
            explanation: None,
        }
    }

    /// An event in the record's own form: for each member its JSON text, or an empty one; and whether its time is the source's
    /// own.
    pub fn of_record(tag: &'a str, now: Time, members: &[&'a [u8]; MEMBERS], own_time: bool) -> Event<'a> {
        let mut e = Event::empty(Side::Sink, Cow::Borrowed(tag), now);
        e.own_time = own_time;
        for (slot, text) in e.members.iter_mut().zip(members) {
            *slot = Value::whole(text);
        }
        let text = e.members[Member::Timestamp as usize].and_then(Value::str);
        e.shipped = text.and_then(|t| Time::parse(&t));
        e.unparsed = e.members[Member::EventType as usize].is_some_and(|v| v.text() == b"\"unparsed\"");
        let metadata = e.members[Member::Metadata as usize].take();
        for (raw, value) in metadata.into_iter().flat_map(Value::members) {
            let name = match raw {
                b"$displaced" => {
                    e.displaced.extend(value.members().map(|(k, _)| unescaped(k)));
                    e.displaced_text = Some(value);
                    continue;
                }
                b"$enriched" => {
                    e.take_marks(value);
                    continue;
                }
                b"$map" => {
                    e.irregular = true;
                    raw
                }
                _ => unescaped(raw),
            };
            e.meta.push(Field { raw, name, value, inner: true });
        }
        e.look_for_dots();
        e
    }

    /// Takes the list `$enriched` of a filter before this one, if it is one.
    fn take_marks(&mut self, value: Value<'a>) {
        let names = value.elements().map(Value::str).collect::<Option<Vec<_>>>();
        if let Some(names) = names.filter(|_| value.kind() == Kind::Array) {
            self.marks = names;
            self.marks_text = Some(value);
        }
    }

    /// Whether a filter before this one said what stands under a name. In a shipper anyone can claim so.
    fn is_marked(&self, name: &str) -> bool {
        self.side == Side::Sink && self.marks.iter().any(|m| m == name)
    }

    fn look_for_dots(&mut self) {
        let mut names = self.meta.iter().map(|f| f.name).chain(self.displaced.iter().copied());
        self.dotted = names.any(|n| n.contains(&b'.'));
    }

    /// A shipper's record: one JSON object. `None` if it is none.
    pub fn of_shipper(tag: &'a str, time: Option<Time>, now: Time, record: &'a [u8]) -> Option<Event<'a>> {
        let top = Value::first(record).filter(|v| v.kind() == Kind::Object)?;
        let mut e = Event::empty(Side::Shipper, Cow::Borrowed(tag), now);
        e.shipped = time;
        let mut names = Vec::new();
        for (name, value) in top.members() {
            names.push(name);
            match e.place(name, value) {
                Place::Lift(which) => e.members[which as usize] = Some(value),
                Place::Metadata => e.meta.push(Field { raw: name, name, value, inner: false }),
                Place::Displaced => e.displaced.push(name),
                // The sink's conversion displaces it whole.
                Place::Own if repeated(value.members().map(|m| m.0)) => {
                    e.loose_metadata = true;
                    e.displaced.push(name);
                }
                Place::Own => {
                    let own =
                        value.members().map(|(raw, value)| Field { raw, name: raw, value, inner: true });
                    e.meta.extend(own);
                    if let Some(marks) = value.get("$enriched") {
                        e.take_marks(marks);
                    }
                }
            }
        }
        e.irregular |= repeated(names.into_iter());
        // Of two equal names the source's own metadata wins.
        let outer: Vec<&[u8]> = e.meta.iter().filter(|f| !f.inner).map(|f| f.name).collect();
        if !outer.is_empty() && outer.len() < e.meta.len() {
            let outer: HashSet<&[u8]> = outer.into_iter().collect();
            let both: HashSet<&[u8]> =
                e.meta.iter().filter(|f| f.inner && outer.contains(f.name)).map(|f| f.name).collect();
            e.meta.retain(|f| f.inner || !both.contains(f.name));
            e.displaced.extend(both);
        }
        e.look_for_dots();
        Some(e)
    }

    /// Where the sink's conversion will put a member of the record (`waxseal_trail::record`).
    fn place(&self, name: &[u8], value: Value<'a>) -> Place {
        if value.kind() == Kind::Null {
            return Place::Displaced;
        }
        if name == b"metadata" {
            return if value.kind() == Kind::Object { Place::Own } else { Place::Displaced };
        }
        let Some(which) = Member::named(name) else {
            return if PARSED_LATER.contains(&name) { Place::Displaced } else { Place::Metadata };
        };
        let Some(text) = value.str() else { return Place::Displaced };
        let good = match which {
            Member::Category => text != "trail",
            Member::EventType => text != "unparsed",
            Member::EventId => is_uuid(text.as_bytes()),
            Member::Timestamp => Time::parse_rfc3339(&text).is_some(),
            _ => true,
        };
        if good { Place::Lift(which) } else { Place::Displaced }
    }

    /// The shipper's tag; empty where there is none.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The host's clock.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The time that the shipper or the source gave the event, as the record will have it.
    pub fn time(&self) -> Time {
        let own = self.members[Member::Timestamp as usize].and_then(Value::str);
        own.and_then(|t| Time::parse_rfc3339(&t)).or(self.shipped).unwrap_or(self.now)
    }

    /// Whether it can be looked into and added to: not what could not be read, and not what has repeated names.
    pub fn is_regular(&self) -> bool {
        !self.irregular && !self.unparsed
    }

    /// A member as it is now.
    pub fn member(&self, which: Member) -> Option<Value<'_>> {
        match self.set[which as usize] {
            Some(range) => Value::whole(self.part(range)),
            None => self.members[which as usize],
        }
    }

    /// A member's text as it is now.
    pub fn text(&self, which: Member) -> Option<Cow<'_, str>> {
        self.member(which)?.str()
    }

    /// The metadata that the source said.
    pub fn fields(&self) -> &[Field<'a>] {
        &self.meta
    }

    /// A member of the metadata that the source said, by its whole name.
    pub fn source(&self, name: &str) -> Option<Value<'a>> {
        self.meta.iter().find(|f| f.name == name.as_bytes()).map(|f| f.value)
    }

    /// Where a dotted path leads in what the source said: members of the record, then metadata.
    pub fn path(&self, path: &str) -> Option<Value<'a>> {
        let named = |name: &str| {
            self.source(name)
                .or_else(|| {
                    let which = Member::named(name.as_bytes())?;
                    self.members[which as usize]
                })
                .or_else(|| {
                    let displaced = self.displaced.contains(&name.as_bytes());
                    displaced.then(|| self.displaced_value(name)).flatten()
                })
        };
        // Most names have no dot: then there is one way to read a path.
        match path.split_once('.') {
            Some((first, rest)) if !self.dotted => return named(first)?.path(rest),
            None => return named(path),
            Some(_) => {}
        }
        if let Some(whole) = named(path) {
            return Some(whole);
        }
        path.match_indices('.').find_map(|(at, _)| named(&path[..at])?.path(&path[at + 1..]))
    }

    fn displaced_value(&self, name: &str) -> Option<Value<'a>> {
        self.displaced_text?.members().find(|(k, _)| unescaped(k) == name.as_bytes()).map(|(_, v)| v)
    }

    /// A member of the metadata as it is now.
    pub fn get(&self, name: &str) -> Option<Value<'_>> {
        match self.added.iter().find(|(n, _)| n == name) {
            Some((_, range)) => Value::whole(self.part(*range)),
            None => self.source(name),
        }
    }

    fn part(&self, range: Range) -> &[u8] {
        &self.arena[range.0 as usize..range.1 as usize]
    }

    /// Gives a member a value. What the source said there is displaced.
    pub fn set(&mut self, which: Member, text: &str) {
        let at = self.arena.len() as u32;
        write_string(text, &mut self.arena);
        let new = (at, self.arena.len() as u32);
        let same = self.members[which as usize].is_some_and(|old| old.str().is_some_and(|old| old == text));
        self.set[which as usize] = (!same).then_some(new);
    }

    /// Gives a member a value if it has none.
    pub fn set_if_absent(&mut self, which: Member, text: &str) {
        if self.member(which).is_none() {
            self.set(which, text);
        }
    }

    /// Gives the event its time.
    pub fn set_time(&mut self, time: Time) {
        let text = time.text();
        self.set(Member::Timestamp, std::str::from_utf8(&text).unwrap_or_default());
    }

    /// Adds text to the metadata.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, text: &str) {
        self.add_json(name, |out| write_string(text, out));
    }

    /// Adds an integer.
    pub fn add_int(&mut self, name: impl Into<Cow<'static, str>>, n: i64) {
        if n.unsigned_abs() >= 1 << 53 {
            return self.add(name, &n.to_string());
        }
        self.add_json(name, |out| out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()));
    }

    /// Adds a number, if JSON has it; as text if it is one of those that not everyone reads alike.
    pub fn add_number(&mut self, name: impl Into<Cow<'static, str>>, n: f64) {
        self.add_json(name, |out| write_safe(n, out));
    }

    /// Adds a boolean.
    pub fn add_bool(&mut self, name: impl Into<Cow<'static, str>>, yes: bool) {
        self.add_json(name, |out| out.extend_from_slice(if yes { b"true" } else { b"false" }));
    }

    /// Adds a value of the source, as it stands there. `embedded`: it stands in a text of the source's, and not in the
    /// event.
    pub fn add_value(&mut self, name: impl Into<Cow<'static, str>>, value: Value<'_>, embedded: bool) {
        let plain = !embedded || self.side == Side::Shipper;
        self.add_json(name, |out| {
            if plain {
                out.extend_from_slice(value.text());
            } else if Aside::default().text(value.text(), 4, out).is_err() {
                // What a record cannot hold so, it holds as text.
                write_string(&String::from_utf8_lossy(value.text()), out);
            }
        });
    }

    /// Adds a value that `write` writes as canonical JSON. What the source said under the name is displaced.
    pub fn add_json(&mut self, name: impl Into<Cow<'static, str>>, write: impl FnOnce(&mut Vec<u8>)) {
        let name = name.into();
        let at = self.arena.len();
        write(&mut self.arena);
        if self.arena.len() == at {
            return;
        }
        let range = (at as u32, self.arena.len() as u32);
        if let Some(old) = self.added.iter_mut().find(|(n, _)| *n == name) {
            old.1 = range;
            return;
        }
        if let Some(old) = self.source(&name) {
            if old.text() == self.part(range) {
                return;
            }
            if self.displaced.contains(&name.as_bytes()) && !self.is_marked(&name) {
                self.conflicts.push(format!("{name}: the source says it twice, and neither could be kept"));
                return;
            }
        }
        self.added.push((name, range));
    }

    /// Names that could not be given.
    pub fn conflicts(&self) -> &[String] {
        &self.conflicts
    }

    /// Whether anything was changed.
    pub fn is_changed(&self) -> bool {
        !self.added.is_empty() || self.set.iter().any(Option::is_some)
    }

    /// Explains, if somebody asks.
    pub fn explain(&mut self, text: impl FnOnce() -> String) {
        if let Some(all) = &mut self.explanation {
            all.push(text());
        }
    }

    /// Asks for explanations.
    pub fn ask(&mut self) {
        self.explanation = Some(Vec::new());
    }

    /// All explanations, a line each.
    pub fn explanation(&self) -> Option<String> {
        self.explanation.as_ref().map(|all| all.join("\n"))
    }

    /// The names of what was added, by this filter and those before it, in order.
    fn names(&self) -> Vec<&str> {
        let members = (0..MEMBERS).filter(|m| self.set[*m].is_some()).filter_map(Member::at);
        let added = self.added.iter().map(|(n, _)| n.as_ref());
        let before = self.marks.iter().map(AsRef::as_ref);
        let mut names: Vec<&str> = members.map(|m| -> &str { m.name() }).chain(added).chain(before).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What displaces what: names and values of the source that have lost their places, by name.
    fn lost(&self) -> Vec<(&[u8], Value<'a>)> {
        let members = (0..MEMBERS).filter(|m| self.set[*m].is_some()).filter_map(|m| {
            let name = Member::at(m)?.name().as_bytes();
            // A time that only the shipper gave, the conversion has made a member.
            if m == Member::Timestamp as usize && !self.own_time {
                return None;
            }
            Some((name, self.members[m]?))
        });
        let marked = |name: &[u8]| std::str::from_utf8(name).is_ok_and(|n| self.is_marked(n));
        let members = members.filter(|(name, _)| !self.displaced.contains(name) && !marked(name));
        // In a shipper's record, what stands beside `metadata` is displaced by the sink's conversion.
        let fields = self.meta.iter().filter(|f| f.inner && self.has_added(f.name) && !marked(f.name));
        let mut all: Vec<_> = members.chain(fields.map(|f| (f.raw, f.value))).collect();
        all.sort_unstable_by(|a, b| compare_names(a.0, b.0));
        all
    }

    fn has_added(&self, name: &[u8]) -> bool {
        self.added.iter().any(|(n, _)| n.as_bytes() == name)
    }

    /// What is set, and the names of what is added, as they were: two events for which this is the same have the same
    /// [`Order`].
    fn write_key(&self, out: &mut Vec<u8>) {
        out.extend(self.set.iter().map(|s| u8::from(s.is_some())));
        out.extend_from_slice(self.marks_text.map_or(&[][..], Value::text));
        for (name, _) in &self.added {
            out.extend_from_slice(&(name.len() as u32).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
    }

    fn order(&self, key: &[u8]) -> Order {
        let added = self.added.iter().enumerate().map(|(i, (name, _))| (escaped(name.as_bytes()), i));
        let ours = [(b"$displaced".as_slice().into(), DISPLACED), (b"$enriched".as_slice().into(), ENRICHED)];
        let mut all: Vec<(Cow<'_, [u8]>, usize)> = added.chain(ours).collect();
        all.sort_unstable_by(|a, b| compare_names(&a.0, &b.0));
        let quoted = |name: &[u8]| {
            let mut quoted = Vec::with_capacity(name.len() + 2);
            write_string(std::str::from_utf8(name).unwrap_or_default(), &mut quoted);
            quoted[1..quoted.len() - 1].into()
        };
        let mut marks = Vec::new();
        write_list(self.names().into_iter(), &mut marks);
        Order {
            key: key.into(),
            places: all.iter().map(|(name, i)| (*i, quoted(name))).collect(),
            marks: marks.into(),
        }
    }

    /// Appends the changes as [`crate::wire`] has them. `masked`: members whose text is another, in place of what the source
    /// said (the event was made with it).
    pub fn write_changes(&self, masked: &[(Member, Vec<u8>)], orders: &mut Orders, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut count = 0u32;
        let mut change = |member: u32, out: &mut Vec<u8>, write: &mut dyn FnMut(&mut Vec<u8>)| {
            count += 1;
            out.extend_from_slice(&member.to_le_bytes());
            let len = out.len();
            out.extend_from_slice(&[0; 4]);
            write(out);
            let n = (out.len() - len - 4) as u32;
            out[len..len + 4].copy_from_slice(&n.to_le_bytes());
        };
        if let Some(text) = self.explanation() {
            change(crate::wire::EXPLANATION, out, &mut |o| o.extend_from_slice(text.as_bytes()));
        }
        for (m, text) in masked {
            change(*m as u32, out, &mut |o| o.extend_from_slice(text));
        }
        if self.is_changed() {
            for (m, range) in self.set.iter().enumerate() {
                if let Some(range) = range {
                    change(m as u32, out, &mut |o| o.extend_from_slice(self.part(*range)));
                }
            }
            change(crate::wire::ADD, out, &mut |o| self.write_additions(orders.of(self), o));
        }
        out[at..at + 4].copy_from_slice(&count.to_le_bytes());
    }

    /// What is added to the metadata, in the order of names.
    fn write_additions(&self, order: &Order, out: &mut Vec<u8>) {
        let mut displaced = Vec::new();
        self.write_displaced(&mut displaced);
        for (place, name) in &order.places {
            let value = match *place {
                DISPLACED => &displaced,
                ENRICHED => &*order.marks,
                i => self.added.get(i).map_or(&[][..], |(_, range)| self.part(*range)),
            };
            if value.is_empty() {
                continue;
            }
            // As it stands between quotes.
            out.reserve(name.len() + value.len() + 8);
            out.extend_from_slice(&(name.len() as u32).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(name);
            out.extend_from_slice(value);
        }
    }

    /// The object `$displaced` as it is now; nothing if there is none.
    fn write_displaced(&self, out: &mut Vec<u8>) {
        let lost = self.lost();
        if lost.is_empty() {
            if let Some(old) = self.displaced_text {
                out.extend_from_slice(old.text());
            }
            return;
        }
        let old = self.displaced_text.into_iter().flat_map(Value::members);
        let mut all: Vec<(&[u8], Value<'_>)> = old.chain(lost).collect();
        all.sort_by(|a, b| compare_names(&decoded(a.0), &decoded(b.0)));
        out.push(b'{');
        for (name, value) in all {
            put_aside(name, value, out);
        }
        out.push(b'}');
    }

    /// Writes the record as it shall go on in a shipper: one JSON object, what the source said where it stood.
    pub fn write_record(&self, record: &[u8], orders: &mut Orders, out: &mut Vec<u8>) {
        if !self.is_changed() {
            out.extend_from_slice(record);
            return;
        }
        out.reserve(record.len() + self.arena.len() + 1024);
        out.push(b'{');
        let top = Value::first(record);
        let mut metadata = None;
        let mut aside: Vec<(&[u8], Value<'_>)> = Vec::new();
        for (name, value) in top.into_iter().flat_map(Value::members) {
            if name == b"metadata" {
                if value.kind() == Kind::Object && !self.loose_metadata {
                    metadata = Some(value);
                } else {
                    aside.push((name, value));
                }
                continue;
            }
            let which = Member::named(name);
            if which.is_some_and(|m| self.set[m as usize].is_some()) {
                // What was no member of the record loses its place as well.
                if self.members[which.map_or(0, |m| m as usize)].is_none() {
                    aside.push((name, value));
                }
                continue;
            }
            put_in(name, value.text(), out);
        }
        for (m, range) in self.set.iter().enumerate() {
            if let (Some(range), Some(member)) = (range, Member::at(m)) {
                put_in(member.name().as_bytes(), self.part(*range), out);
            }
        }
        put_in(b"metadata", b"{", out);
        for (name, value) in metadata.into_iter().flat_map(Value::members) {
            match name {
                // Of a filter before this one, perhaps: its names stay in the list; what is none, or displaced, loses its place.
                b"$enriched" if self.marks_text.is_some() => {}
                b"$enriched" | b"$displaced" => aside.push((name, value)),
                _ if self.has_added(name) => {}
                _ => put_in(name, value.text(), out),
            }
        }
        for (name, range) in &self.added {
            let mut quoted = Vec::with_capacity(name.len() + 2);
            write_string(name, &mut quoted);
            put_in(&quoted[1..quoted.len() - 1], self.part(*range), out);
        }
        aside.extend(self.lost());
        if !aside.is_empty() {
            let mut object = vec![b'{'];
            for (name, value) in aside {
                put_aside(name, value, &mut object);
            }
            object.push(b'}');
            put_in(b"$displaced", &object, out);
        }
        put_in(b"$enriched", &orders.of(self).marks, out);
        out.extend_from_slice(b"}}");
    }
}

const DISPLACED: usize = usize::MAX;
const ENRICHED: usize = usize::MAX - 1;

/// How what an event is given stands in its metadata.
#[derive(Debug)]
struct Order {
    /// See [`Event::write_key`].
    key: Box<[u8]>,
    /// Which of the added members, or [`DISPLACED`] or [`ENRICHED`], and its name as it stands between quotes; in the order
    /// of names.
    places: Vec<(usize, Box<[u8]>)>,
    /// The list of all names.
    marks: Box<[u8]>,
}

/// Orders that were made before: events of one kind are given the same names.
#[derive(Debug, Default)]
pub struct Orders {
    slots: Vec<Option<Order>>,
    key: Vec<u8>,
}

impl Orders {
    /// One more holds the last of those that are too large to be kept.
    const SLOTS: usize = 128;
    const LARGEST: usize = 4096;

    /// None yet.
    pub const fn new() -> Orders {
        Orders { slots: Vec::new(), key: Vec::new() }
    }

    fn of(&mut self, event: &Event<'_>) -> &Order {
        if self.slots.is_empty() {
            self.slots.resize_with(Orders::SLOTS + 1, || None);
        }
        let Orders { slots, key } = self;
        key.clear();
        event.write_key(key);
        let kept = key.len() <= Orders::LARGEST;
        let slot = &mut slots[if kept { mixed(key) as usize % Orders::SLOTS } else { Orders::SLOTS }];
        let known = slot.take().filter(|o| *o.key == **key);
        slot.insert(known.unwrap_or_else(|| event.order(key)))
    }
}

/// The last eight bytes as a number; of fewer, all of them, each differently. Without a loop, which costs a module at each turn.
fn last_word(bytes: &[u8]) -> u64 {
    if let Some(last) = bytes.last_chunk::<8>() {
        return u64::from_le_bytes(*last);
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        return u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32;
    }
    match *bytes {
        [] => 0,
        [a] => u64::from(a),
        [a, b] => u64::from(a) | u64::from(b) << 8,
        [a, b, c, ..] => u64::from(a) | u64::from(b) << 8 | u64::from(c) << 16,
    }
}

/// A number of bytes that differs where they do, mostly.
pub fn mixed(bytes: &[u8]) -> u64 {
    let step = |n: u64, w: u64| (n.rotate_left(5) ^ w).wrapping_mul(0x517c_c1b7_2722_0a95);
    let (words, tail) = bytes.as_chunks::<8>();
    let mut mixed = bytes.len() as u64;
    for word in words {
        mixed = step(mixed, u64::from_le_bytes(*word));
    }
    if !tail.is_empty() {
        mixed = step(mixed, last_word(bytes));
    }
    // What differs only in the last byte, as names that are numbered do, differs in all bits.
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

/// Whether bytes are the same: for short ones, eight at a time.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let (xs, _) = a.as_chunks::<8>();
    let (ys, _) = b.as_chunks::<8>();
    xs.iter().zip(ys).all(|(x, y)| u64::from_le_bytes(*x) == u64::from_le_bytes(*y))
        && last_word(a) == last_word(b)
}

/// Appends a member to an object that has been opened.
fn put_in(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(name);
    out.extend_from_slice(b"\":");
    out.extend_from_slice(value);
}

/// As [`put_in`], for what goes deeper than it stood: nested too deeply for a record, it goes as text.
fn put_aside(name: &[u8], value: Value<'_>, out: &mut Vec<u8>) {
    if matches!(value.kind(), Kind::Array | Kind::Object)
        && value.depth() > waxseal_trail::record::MAX_DEPTH - 3
    {
        let mut text = Vec::with_capacity(value.text().len() + 2);
        write_string(&String::from_utf8_lossy(value.text()), &mut text);
        return put_in(name, &text, out);
    }
    put_in(name, value.text(), out);
}

/// Appends what stands for a record that a filter may not let pass: one JSON object, without a byte of it.
pub fn put_withheld(filter: &str, reason: &str, bytes: usize, out: &mut Vec<u8>) {
    let mut held = Object::default();
    held.text("filter", filter).text("reason", reason).json("bytes", bytes.to_string().into());
    out.extend_from_slice(b"{\"message\":\"withheld by a filter\",\"$withheld\":");
    held.write(out);
    out.push(b'}');
}

/// A number as JSON, or as text where a double of it is not exact to everyone (RFC 8785 section 3.2.2.3).
fn write_safe(n: f64, out: &mut Vec<u8>) {
    const MAX_SAFE: f64 = 9_007_199_254_740_991.0;
    if n.abs() <= MAX_SAFE || !n.is_finite() {
        return write_number(n, out);
    }
    out.push(b'"');
    write_number(n, out);
    out.push(b'"');
}

enum Place {
    Lift(Member),
    Metadata,
    Own,
    Displaced,
}

/// Whether a name occurs twice.
pub fn repeated<'n>(names: impl Iterator<Item = &'n [u8]>) -> bool {
    let mut all: Vec<&[u8]> = names.collect();
    all.sort_unstable();
    all.windows(2).any(|w| w[0] == w[1])
}

/// A name without the `$` that the conversion puts before one that begins with `$`.
fn unescaped(raw: &[u8]) -> &[u8] {
    if raw.starts_with(b"$$") { &raw[1..] } else { raw }
}

fn escaped(name: &[u8]) -> Cow<'_, [u8]> {
    if name.starts_with(b"$") { [b"$", name].concat().into() } else { name.into() }
}

/// A name as it stands between quotes, without its escapes.
pub fn decoded(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.contains(&b'\\') {
        return Cow::Borrowed(raw);
    }
    let quoted = [b"\"", raw, b"\""].concat();
    Value::first(&quoted)
        .and_then(Value::str)
        .map_or(Cow::Borrowed(raw), |t| t.into_owned().into_bytes().into())
}

/// Appends a list of texts.
pub fn write_list<'t>(all: impl Iterator<Item = &'t str>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, text) in all.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_string(text, out);
    }
    out.push(b']');
}

/// An object that is written name by name, in any order.
#[derive(Debug, Default)]
pub struct Object(Vec<(Cow<'static, str>, Vec<u8>)>);

impl Object {
    /// Text.
    pub fn text(&mut self, name: impl Into<Cow<'static, str>>, text: &str) -> &mut Self {
        let mut value = Vec::with_capacity(text.len() + 2);
        write_string(text, &mut value);
        self.json(name, value)
    }

    /// A number.
    pub fn number(&mut self, name: impl Into<Cow<'static, str>>, n: f64) -> &mut Self {
        let mut value = Vec::with_capacity(24);
        write_safe(n, &mut value);
        self.json(name, value)
    }

    /// A boolean.
    pub fn bool(&mut self, name: impl Into<Cow<'static, str>>, yes: bool) -> &mut Self {
        self.json(name, if yes { "true" } else { "false" }.into())
    }

    /// Canonical JSON; nothing if it is empty.
    pub fn json(&mut self, name: impl Into<Cow<'static, str>>, value: Vec<u8>) -> &mut Self {
        if !value.is_empty() {
            self.0.push((name.into(), value));
        }
        self
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As canonical JSON; nothing if it has no members.
    pub fn written(&mut self) -> Vec<u8> {
        let mut json = Vec::new();
        if !self.is_empty() {
            self.write(&mut json);
        }
        json
    }

    /// Appends it as canonical JSON.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        self.0.sort_by(|a, b| compare_names(a.0.as_bytes(), b.0.as_bytes()));
        self.0.dedup_by(|a, b| a.0 == b.0);
        out.push(b'{');
        for (i, (name, value)) in self.0.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_string(name, out);
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.push(b'}');
    }
}

/// A fresh UUIDv7 (RFC 9562 section 5.7) for an event of this moment; random bytes come in blocks.
#[derive(Debug, Default)]
pub struct Ids {
    random: Vec<u8>,
}

impl Ids {
    /// One more. `None` if the host has no randomness.
    pub fn fresh(&mut self, now: Time) -> Option<String> {
        if self.random.len() < 10 {
            self.random.resize(4000, 0);
            if getrandom::fill(&mut self.random).is_err() {
                self.random.clear();
                return None;
            }
        }
        let rest = self.random.split_off(self.random.len() - 10);
        let mut bits = [0; 10];
        bits.copy_from_slice(&rest);
        let text = waxseal_trail::record::event_id(now, bits);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{mixed, same};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_are_the_same_or_not(a in prop::collection::vec(0u8..3, 0..20), b in prop::collection::vec(0u8..3, 0..20)) {
            prop_assert_eq!(same(&a, &b), a == b);
            prop_assert!(same(&a, &a.clone()));
            prop_assert!(a != b || mixed(&a) == mixed(&b));
        }
    }
}
