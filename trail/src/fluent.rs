//! The events of a Fluent Bit chunk: concatenated MessagePack entries (Fluent Forward's `PackedForward` has the same).
//!
//! An entry is `[[time, metadata], body]`, or `[time, body]` from older senders. An EventTime of −1 or −2 seconds is no
//! event but begins or ends a group (OpenTelemetry's resource and scope), whose metadata and body belong to every
//! event in it. What stands beside the body goes to the record's `source`, where no body can write: `tag`, `metadata`,
//! `group`. Whoever may send whole entries to the shipper (its `forward` input) can write the last two.

use crate::hash::sha256;
use crate::msgpack;
pub use crate::msgpack::Scanner;
use crate::record::{Converter, Events};
use crate::tape::{Doc, Fault, Form, MAX_DEPTH, Node, Tape, Writer, base64url, quote};
use crate::time::Time;
use std::borrow::Cow;

/// A chunk on its way through a [`Converter`].
pub struct Chunk<'c> {
    data: &'c [u8],
    at: usize,
    intake: &'static str,
    /// `,"peer":"…"`, of a chunk that came over a network.
    peer: Vec<u8>,
    /// `"tag":…`, and its digest where it had to be cut.
    tag: Vec<u8>,
    /// The group that the next events belong to, as JSON; empty outside of groups.
    group: Vec<u8>,
    /// The entry that began the group, while no event has followed it.
    unused: Option<Entry>,
    tape: Tape,
    writer: Writer,
}

/// Where an entry stands in the chunk.
#[derive(Clone, Copy)]
struct Entry {
    start: usize,
    body: usize,
    end: usize,
}

enum Head {
    /// The event's time, if it can be read.
    Event(Option<Time>),
    GroupStart,
    GroupEnd,
}

/// A tag of more bytes is cut, and its digest stands beside it: the record's reserve must suffice for it.
const MAX_TAG: usize = 512;
/// A group's text of more bytes is sealed once, as an event of its own, and its events name its digest.
const MAX_GROUP: usize = 16 << 10;

impl<'c> Chunk<'c> {
    /// A chunk that came by `intake` under `tag`.
    pub fn new(intake: &'static str, tag: &[u8], data: &'c [u8]) -> Chunk<'c> {
        let mut text = b"\"tag\":".to_vec();
        if tag.len() <= MAX_TAG {
            bytes_or_text(tag, &mut text);
        } else {
            let cut = String::from_utf8_lossy(&tag[..MAX_TAG]);
            quote(cut.trim_end_matches('\u{fffd}').as_bytes(), &mut text);
            text.extend_from_slice(b",\"tag_sha256\":");
            quote(sha256(tag).to_string().as_bytes(), &mut text);
        }
        Chunk {
            data,
            at: 0,
            intake,
            peer: Vec::new(),
            tag: text,
            group: Vec::new(),
            unused: None,
            tape: Tape::default(),
            writer: Writer::new(Form::Sealed, MAX_DEPTH),
        }
    }

    /// Says who sent it.
    pub fn from_peer(mut self, peer: &str) -> Chunk<'c> {
        self.peer = b",\"peer\":".to_vec();
        quote(peer.as_bytes(), &mut self.peer);
        self
    }

    /// The `source` of an event without metadata of its own, outside of groups: canonical JSON.
    pub fn source(&self) -> Vec<u8> {
        self.source_with(&[], &[])
    }

    /// How many bytes have been read.
    pub fn position(&self) -> usize {
        self.at
    }

    fn source_with(&self, group: &[u8], metadata: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + group.len() + metadata.len() + self.tag.len());
        out.push(b'{');
        if !group.is_empty() {
            out.extend_from_slice(b"\"group\":");
            out.extend_from_slice(group);
            out.push(b',');
        }
        out.extend_from_slice(b"\"intake\":\"");
        out.extend_from_slice(self.intake.as_bytes());
        out.push(b'"');
        if !metadata.is_empty() {
            out.extend_from_slice(b",\"metadata\":");
            out.extend_from_slice(metadata);
        }
        out.extend_from_slice(&self.peer);
        out.push(b',');
        out.extend_from_slice(&self.tag);
        out.push(b'}');
        out
    }

    /// Takes the next entry. `false`: there is none. Bytes that are no entry, and with them the rest of the chunk, of
    /// which nobody can say where its entries begin, become one `unparsed` event.
    pub fn next(&mut self, converter: &mut Converter, out: &mut Events) -> bool {
        if self.at >= self.data.len() {
            let left = self.unused.is_some();
            self.close_group(converter, out);
            return left;
        }
        match self.entry(converter, out) {
            Ok(end) => self.at = end,
            Err(_) => {
                let rest = &self.data[self.at..];
                self.at = self.data.len();
                converter.msgpack_from(&[], rest, None, &[], out);
            }
        }
        true
    }

    fn entry(&mut self, converter: &mut Converter, out: &mut Events) -> Result<usize, Fault> {
        let data = self.data;
        let start = self.at;
        let first = pair(data, start)?;
        let (head, metadata, body) = match pair(data, first) {
            Ok(inner) => {
                let metadata = inner + msgpack::skip(&data[inner..])?;
                (&data[inner..metadata], metadata, metadata + msgpack::skip(&data[metadata..])?)
            }
            Err(_) => {
                let body = first + msgpack::skip(&data[first..])?;
                (&data[first..body], body, body)
            }
        };
        let entry = Entry { start, body, end: body + msgpack::skip(&data[body..])? };
        let metadata = self.json(&data[metadata..body]);
        match self.time(head)? {
            Head::Event(time) => {
                self.unused = None;
                let source = if metadata.is_empty() && self.group.is_empty() {
                    Vec::new()
                } else {
                    self.source_with(&self.group, &metadata)
                };
                converter.msgpack_from(
                    &data[entry.body..entry.end],
                    &data[start..entry.end],
                    time,
                    &source,
                    out,
                );
            }
            Head::GroupEnd => {
                self.close_group(converter, out);
                // Ends say nothing; one that does is not dropped for it.
                if !metadata.is_empty() || !self.json(&data[entry.body..entry.end]).is_empty() {
                    self.seal_marker(entry, &metadata, converter, out);
                }
            }
            Head::GroupStart => {
                self.close_group(converter, out);
                self.group = b"{\"body\":".to_vec();
                let body = self.json(&data[entry.body..entry.end]);
                self.group.extend_from_slice(if body.is_empty() { b"{}" } else { &body });
                if !metadata.is_empty() {
                    self.group.extend_from_slice(b",\"metadata\":");
                    self.group.extend_from_slice(&metadata);
                }
                self.group.push(b'}');
                self.unused = Some(entry);
                if self.group.len() > MAX_GROUP {
                    let digest = sha256(&self.group).to_string();
                    self.seal_marker(entry, &metadata, converter, out);
                    self.group = format!("{{\"sha256\":\"{digest}\"}}").into_bytes();
                    self.unused = None;
                }
            }
        }
        Ok(entry.end)
    }

    /// The group ends. What began it is sealed by itself if no event has it.
    fn close_group(&mut self, converter: &mut Converter, out: &mut Events) {
        self.group.clear();
        if let Some(entry) = self.unused.take() {
            self.seal_marker(entry, &[], converter, out);
        }
    }

    /// An entry that begins or ends a group, as an event.
    fn seal_marker(&self, entry: Entry, metadata: &[u8], converter: &mut Converter, out: &mut Events) {
        let source = if metadata.is_empty() { Vec::new() } else { self.source_with(&[], metadata) };
        let (body, whole) = (&self.data[entry.body..entry.end], &self.data[entry.start..entry.end]);
        converter.msgpack_from(body, whole, None, &source, out);
    }

    /// A value beside the body as sealed JSON; empty for an empty map and for nothing.
    fn json(&mut self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if data.is_empty() {
            return out;
        }
        let parsed = msgpack::parse(data, &mut self.tape);
        let doc = Doc { input: data, tape: &self.tape };
        if parsed.is_ok() && matches!(doc.node(0), Node::Map { end: 1 } | Node::Null) {
            return out;
        }
        self.writer.base = 0;
        // In a group it stands four deep.
        if parsed.and_then(|()| self.writer.value(doc, 0, 4, &mut out)).is_err() {
            out.clear();
            bytes(data, &mut out);
        }
        out
    }

    /// A time, in any of the forms that senders use.
    fn time(&mut self, data: &[u8]) -> Result<Head, Fault> {
        msgpack::parse(data, &mut self.tape)?;
        let doc = Doc { input: data, tape: &self.tape };
        Ok(match doc.node(0) {
            // As Fluent Bit's own decoder has it: no nanoseconds.
            Node::Ext(0, span) if doc.bytes(span) == [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0] => Head::GroupStart,
            Node::Ext(0, span) if doc.bytes(span) == [0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 0] => Head::GroupEnd,
            Node::Ext(kind, span) => Head::Event(Time::from_msgpack_ext(kind, doc.bytes(span))),
            Node::Int(s) => Head::Event(Time::from_unix(s, 0)),
            Node::Double(s) if s.abs() < 1e12 => {
                let whole = s.floor();
                Head::Event(Time::from_unix(whole as i64, ((s - whole) * 1e9) as u32))
            }
            Node::Array { .. } | Node::Map { .. } => return Err(Fault::Syntax(0)),
            _ => Head::Event(None),
        })
    }
}

/// One message of the Forward protocol (v1): a tag, entries, and what the sender says of them.
///
/// `[tag, [entry, …], option]`, `[tag, bytes of entries, option]` or `[tag, time, record, option]`; the option may be
/// absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame<'f> {
    /// As it was sent.
    pub tag: &'f [u8],
    /// The entries side by side, as [`Chunk`] reads them; compressed if `compression` says so.
    pub entries: Cow<'f, [u8]>,
    /// The sender wants an acknowledgement that names this.
    pub chunk: Option<&'f [u8]>,
    /// How the entries are compressed; `text` is none.
    pub compression: Option<&'f [u8]>,
}

impl<'f> Frame<'f> {
    /// Reads one whole MessagePack object.
    ///
    /// # Errors
    /// [`Fault`] if it is no message of the protocol.
    pub fn parse(data: &'f [u8]) -> Result<Frame<'f>, Fault> {
        let (count, mut at) = container(data, 0, 0x90, 0xdc)?;
        if !(2..=4).contains(&count) {
            return Err(Fault::Syntax(0));
        }
        let (tag, after) = text(data, at)?;
        at = after;
        let end = at + msgpack::skip(&data[at..])?;
        let (entries, used) = if let Ok((_, first)) = container(data, at, 0x90, 0xdc) {
            (Cow::Borrowed(&data[first..end]), 2)
        } else if let Ok((packed, _)) = text(data, at) {
            (Cow::Borrowed(packed), 2)
        } else if count > 2 {
            let record = end + msgpack::skip(&data[end..])?;
            let mut entry = vec![0x92];
            entry.extend_from_slice(&data[at..record]);
            (Cow::Owned(entry), 3)
        } else {
            return Err(Fault::Syntax(at));
        };
        at = if used == 3 { end + msgpack::skip(&data[end..])? } else { end };
        let mut frame = Frame { tag, entries, chunk: None, compression: None };
        if count > used {
            at = frame.option(data, at)?;
        }
        if count > used + 1 || at != data.len() { Err(Fault::Syntax(at)) } else { Ok(frame) }
    }

    fn option(&mut self, data: &'f [u8], mut at: usize) -> Result<usize, Fault> {
        if data.get(at) == Some(&0xc0) {
            return Ok(at + 1);
        }
        let (count, first) = container(data, at, 0x80, 0xde)?;
        at = first;
        for _ in 0..count {
            let key = text(data, at);
            at += msgpack::skip(&data[at..])?;
            let value = text(data, at).ok().map(|(v, _)| v);
            at += msgpack::skip(&data[at..])?;
            match key {
                Ok((b"chunk", _)) => self.chunk = value,
                Ok((b"compressed", _)) => self.compression = value.filter(|v| *v != b"text"),
                _ => {}
            }
        }
        Ok(at)
    }
}

/// The header of an array or a map at `at`: how many elements, and where they begin.
fn container(data: &[u8], at: usize, short: u8, long: u8) -> Result<(usize, usize), Fault> {
    match data.get(at..) {
        Some([c, ..]) if c & 0xf0 == short => Ok((usize::from(c & 15), at + 1)),
        Some([c, a, b, ..]) if *c == long => Ok((usize::from(u16::from_be_bytes([*a, *b])), at + 3)),
        Some([c, w, x, y, z, ..]) if *c == long + 1 => {
            Ok((u32::from_be_bytes([*w, *x, *y, *z]) as usize, at + 5))
        }
        _ => Err(Fault::Syntax(at)),
    }
}

/// The elements of an array of strings or binary, as the Forward handshake has them.
///
/// # Errors
/// [`Fault`] if it is anything else, or has more than 16.
pub fn strings(data: &[u8]) -> Result<Vec<&[u8]>, Fault> {
    let (count, mut at) = container(data, 0, 0x90, 0xdc)?;
    if count > 16 {
        return Err(Fault::TooLarge);
    }
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let (value, end) = text(data, at)?;
        out.push(value);
        at = end;
    }
    Ok(out)
}

/// The content of a string or of binary at `at`, and where it ends.
fn text(data: &[u8], at: usize) -> Result<(&[u8], usize), Fault> {
    let width = match data.get(at) {
        Some(0xa0..=0xbf) => 0,
        Some(0xc4 | 0xd9) => 1,
        Some(0xc5 | 0xda) => 2,
        Some(0xc6 | 0xdb) => 4,
        _ => return Err(Fault::Syntax(at)),
    };
    let end = at + msgpack::skip(&data[at..])?;
    Ok((&data[at + 1 + width..end], end))
}

/// The header of an array of two at `at`; where its first element begins.
fn pair(data: &[u8], at: usize) -> Result<usize, Fault> {
    match data.get(at..) {
        Some([0x92, ..]) => Ok(at + 1),
        Some([0xdc, 0, 2, ..]) => Ok(at + 3),
        Some([0xdd, 0, 0, 0, 2, ..]) => Ok(at + 5),
        _ => Err(Fault::Syntax(at)),
    }
}

fn bytes(data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"$bytes\":");
    base64url(data, out);
    out.push(b'}');
}

fn bytes_or_text(data: &[u8], out: &mut Vec<u8>) {
    match core::str::from_utf8(data) {
        Ok(text) => quote(text.as_bytes(), out),
        Err(_) => bytes(data, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;
    use crate::record::{Checker, Link, Template};
    use serde_json::{Value, json};

    const TIME: [u8; 10] = [0xd7, 0x00, 0x65, 0x92, 0x00, 0x80, 0, 0, 0, 9];

    fn map(pairs: &[(&str, u8)]) -> Vec<u8> {
        let mut out = vec![0x80 | pairs.len() as u8];
        for (k, v) in pairs {
            out.push(0xa0 | k.len() as u8);
            out.extend_from_slice(k.as_bytes());
            out.push(*v);
        }
        out
    }

    fn entry(time: &[u8], metadata: &[u8], body: &[u8]) -> Vec<u8> {
        [&[0x92, 0x92], time, metadata, body].concat()
    }

    /// The records of a chunk, as far as it decides them.
    fn records(data: &[u8]) -> Vec<Value> {
        let mut chunk = Chunk::new("fluentbit", b"kube.x", data);
        let source = chunk.source();
        let (mut converter, mut events) = (Converter::default(), Events::default());
        while chunk.next(&mut converter, &mut events) {}
        assert_eq!(chunk.position(), data.len());
        let link = Link {
            sequence: 0,
            previous_hash: Hash([0; 32]),
            observed_at: Time::parse_rfc3339("2026-01-01T00:00:00Z").unwrap(),
            nonce: [0; 16],
            id_bits: [0; 10],
        };
        (0..events.len())
            .map(|i| {
                let mut out = Vec::new();
                Template::new("w.019bc143ba807752b89c195f9fa852d8")
                    .assemble(&events, i, &source, &link, &mut out);
                Checker::default().check(&out).unwrap();
                serde_json::from_slice(&out).unwrap()
            })
            .collect()
    }

    #[test]
    fn every_shape_of_entry() {
        let plain = json!({"intake": "fluentbit", "tag": "kube.x"});
        let at = json!("2024-01-01T00:00:00.000000009Z");
        let body = map(&[("a", 1)]);
        for data in [
            entry(&TIME, &[0x80], &body),
            entry(&TIME, &[0xde, 0, 0], &body),
            [&[0x92][..], &TIME, &body].concat(),
            [&[0xdc, 0, 2, 0xdd, 0, 0, 0, 2][..], &TIME, &[0x80], &body].concat(),
        ] {
            let r = &records(&data)[0];
            assert_eq!((&r["timestamp"], &r["source"], &r["metadata"]), (&at, &plain, &json!({"a": 1})));
        }
        // Whole seconds, fractions, and a time that is none.
        let whole = [&[0x92, 0xce, 0x65, 0x92, 0x00, 0x80][..], &body].concat();
        assert_eq!(records(&whole)[0]["timestamp"], "2024-01-01T00:00:00.000000000Z");
        let double = [&[0x92, 0xcb][..], &1_704_067_200.5f64.to_be_bytes(), &body].concat();
        assert_eq!(records(&double)[0]["timestamp"], "2024-01-01T00:00:00.500000000Z");
        assert_eq!(
            records(&entry(&[0xc0], &[0x80], &body))[0]["timestamp"],
            "2026-01-01T00:00:00.000000000Z"
        );
        // The body's own time is the source's.
        let own = [&[0x81, 0xa9][..], b"timestamp", &[0xb4], b"2020-01-01T00:00:00Z"].concat();
        assert_eq!(records(&entry(&TIME, &[0x80], &own))[0]["timestamp"], "2020-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn what_stands_beside_the_body() {
        let mut start = TIME;
        start[2..].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        let mut end = start;
        end[5] = 0xfe;
        let data = [
            entry(&TIME, &map(&[("m", 7)]), &map(&[("a", 1)])),
            entry(&start, &map(&[("schema", 2)]), &map(&[("resource", 3)])),
            entry(&TIME, &[0x80], &map(&[("a", 2)])),
            entry(&end, &[0x80], &[0x80]),
            entry(&TIME, &[0x80], &map(&[("a", 3)])),
        ]
        .concat();
        let r = records(&data);
        assert_eq!(r.len(), 3);
        assert_eq!(r[0]["source"], json!({"intake": "fluentbit", "metadata": {"m": 7}, "tag": "kube.x"}));
        assert_eq!(
            r[1]["source"],
            json!({"group": {"body": {"resource": 3}, "metadata": {"schema": 2}}, "intake": "fluentbit", "tag": "kube.x"})
        );
        assert_eq!(r[2]["source"], json!({"intake": "fluentbit", "tag": "kube.x"}));
        // A group without events, and an end that says something, are sealed; a large group once.
        let r = records(
            &[entry(&start, &[0x80], &map(&[("r", 1)])), entry(&end, &[0x80], &map(&[("e", 2)]))].concat(),
        );
        assert_eq!((&r[0]["metadata"], &r[1]["metadata"]), (&json!({"r": 1}), &json!({"e": 2})));
        assert_eq!(records(&entry(&start, &[0x80], &map(&[("r", 1)]))).len(), 1);
        let large = [&[0x81, 0xa1, b'r', 0xda, 0x50, 0][..], &[b'x'; 0x5000]].concat();
        let event = entry(&TIME, &[0x80], &map(&[("a", 1)]));
        let r = records(&[entry(&start, &[0x80], &large), event.clone(), event].concat());
        assert_eq!((r.len(), r[0]["metadata"]["r"].as_str().unwrap().len()), (3, 0x5000));
        assert_eq!(
            (r[1]["source"]["group"]["sha256"].as_str().unwrap().len(), &r[1]["source"]),
            (64, &r[2]["source"])
        );
    }

    #[test]
    fn limits_hold_beside_the_body_too() {
        let good = entry(&TIME, &[0x80], &map(&[("a", 1)]));
        // One entry beyond a record's limits is one unparsed event; those after it are read.
        let deep = [vec![0x91; 100], vec![0xc0]].concat();
        let wide = [vec![0xdd, 0, 0x10, 0, 1], vec![0xc0; 0x10_0001]].concat();
        for body in [deep, wide] {
            let r = records(&[entry(&TIME, &[0x80], &body), good.clone()].concat());
            assert_eq!(
                (r.len(), &r[0]["event_type"], &r[1]["metadata"]["a"]),
                (2, &json!("unparsed"), &json!(1))
            );
        }
        // A group stays with an event that is none, even one whose text is as long as it gets.
        let group = [&[0x81, 0xa1, b'r', 0xda, 0x30, 0][..], &[b'x'; 0x3000]].concat();
        let text = [&[0xdb][..], &200_000u32.to_be_bytes(), &[1; 200_000]].concat();
        let start = [0xd7, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        let r = records(&[entry(&start, &[0x80], &group), entry(&TIME, &[0x80], &text)].concat());
        assert_eq!(
            (&r[0]["event_type"], r[0]["source"]["group"]["body"]["r"].as_str().unwrap().len()),
            (&json!("unparsed"), 0x3000)
        );
        // A tag of any length leaves room for the record.
        let tag = vec![1u8; 60_000];
        let body =
            [&[0x81, 0xa1, b'p', 0xdb][..], &(1_044_400u32).to_be_bytes(), &vec![b'x'; 1_044_400]].concat();
        let data = entry(&TIME, &[0x80], &body);
        let mut chunk = Chunk::new("fluentbit", &tag, &data);
        let source = chunk.source();
        assert!(source.len() < 3500);
        let (mut converter, mut events) = (Converter::default(), Events::default());
        while chunk.next(&mut converter, &mut events) {}
        assert!(!events.is_unparsed(0));
    }

    #[test]
    fn what_cannot_be_read_is_sealed_as_it_is() {
        let good = entry(&TIME, &[0x80], &map(&[("a", 1)]));
        for bad in [&[0xc1][..], &[0x92, 0x92, 0xd7], &[0x92, 0x80, 0x80], b"text", &good[..good.len() - 1]] {
            let r = records(&[&good[..], bad].concat());
            assert_eq!(r.len(), 2);
            assert_eq!(r[1]["event_type"], "unparsed");
            assert_eq!(r[1]["metadata"]["$raw_length"], bad.len());
        }
        // A body that is no map is one event, with its time; those after it are read.
        let r = records(&[entry(&TIME, &[0x80], &[7]), good].concat());
        assert_eq!((&r[0]["event_type"], &r[0]["timestamp"]), (&json!("unparsed"), &r[1]["timestamp"]));
        assert_eq!(records(&[]).len(), 0);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            records(&data);
            records(&[entry(&TIME, &[0x80], &data), data].concat());
        }
    }
}
