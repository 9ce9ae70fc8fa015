//! The events of a Fluent Bit chunk: concatenated MessagePack entries (Fluent Forward's `PackedForward` has the same).
//!
//! An entry is `[[time, metadata], body]`, or `[time, body]` from older senders. A time of −1 or −2 seconds is no
//! event but begins or ends a group (OpenTelemetry's resource and scope), whose metadata and body belong to every
//! event in it. What the shipper says beside the body stands in the record's `source`, where no input can write:
//! `tag`, `metadata`, `group`.

use crate::msgpack;
use crate::record::{Converter, Events};
use crate::tape::{Doc, Fault, Form, MAX_DEPTH, Node, Tape, Writer, base64url, quote};
use crate::time::Time;

/// A chunk on its way through a [`Converter`].
pub struct Chunk<'c> {
    data: &'c [u8],
    at: usize,
    /// The beginning and the end of every event's `source`, around `metadata`.
    group: Vec<u8>,
    intake: &'static str,
    tag: Vec<u8>,
    tape: Tape,
    writer: Writer,
}

enum Head {
    /// The event's time, if it can be read.
    Event(Option<Time>),
    GroupStart,
    GroupEnd,
}

impl<'c> Chunk<'c> {
    /// A chunk that came by `intake` under `tag`.
    pub fn new(intake: &'static str, tag: &[u8], data: &'c [u8]) -> Chunk<'c> {
        let mut text = Vec::new();
        bytes_or_text(tag, &mut text);
        Chunk {
            data,
            at: 0,
            group: Vec::new(),
            intake,
            tag: text,
            tape: Tape::default(),
            writer: Writer::new(Form::Sealed, MAX_DEPTH),
        }
    }

    /// The `source` of an event without metadata of its own, outside of groups: canonical JSON.
    pub fn source(&self) -> Vec<u8> {
        self.source_with(&[])
    }

    /// How many bytes have been read.
    pub fn position(&self) -> usize {
        self.at
    }

    fn source_with(&self, metadata: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.group.len() + metadata.len() + self.tag.len());
        out.push(b'{');
        if !self.group.is_empty() {
            out.extend_from_slice(b"\"group\":");
            out.extend_from_slice(&self.group);
            out.push(b',');
        }
        out.extend_from_slice(b"\"intake\":\"");
        out.extend_from_slice(self.intake.as_bytes());
        out.push(b'"');
        if !metadata.is_empty() {
            out.extend_from_slice(b",\"metadata\":");
            out.extend_from_slice(metadata);
        }
        out.extend_from_slice(b",\"tag\":");
        out.extend_from_slice(&self.tag);
        out.push(b'}');
        out
    }

    /// Takes the next entry. `false`: there is none. An entry that cannot be read, and with it the rest of the
    /// chunk, of which nobody can say where its entries begin, becomes one `unparsed` event.
    pub fn next(&mut self, converter: &mut Converter, out: &mut Events) -> bool {
        if self.at >= self.data.len() {
            return false;
        }
        let rest = &self.data[self.at..];
        match self.entry(rest, converter, out) {
            Ok(n) => self.at += n,
            Err(_) => {
                self.at = self.data.len();
                converter.msgpack_from(&[], rest, None, &[], out);
            }
        }
        true
    }

    fn entry(&mut self, rest: &[u8], converter: &mut Converter, out: &mut Events) -> Result<usize, Fault> {
        let mut at = pair(rest, 0)?;
        let legacy = pair(rest, at);
        let mut metadata = Vec::new();
        let head = match legacy {
            Ok(inner) => {
                let (head, used) = self.time(&rest[inner..])?;
                at = inner + used;
                let used = msgpack::parse_prefix(&rest[at..], &mut self.tape)?;
                let doc = Doc { input: &rest[at..at + used], tape: &self.tape };
                let empty = matches!(doc.node(0), Node::Map { end: 1 } | Node::Null);
                if !empty {
                    self.writer.base = 0;
                    if self.writer.value(doc, 0, 3, &mut metadata).is_err() {
                        metadata.clear();
                        bytes(&rest[at..at + used], &mut metadata);
                    }
                }
                at += used;
                head
            }
            Err(_) => {
                let (head, used) = self.time(&rest[at..])?;
                at += used;
                head
            }
        };
        // Where the body ends; it is read once more by the converter, which never fails.
        let end = at + msgpack::parse_prefix(&rest[at..], &mut self.tape)?;
        match head {
            Head::Event(time) => {
                let source = if metadata.is_empty() && self.group.is_empty() {
                    Vec::new()
                } else {
                    self.source_with(&metadata)
                };
                converter.msgpack_from(&rest[at..end], &rest[..end], time, &source, out);
            }
            Head::GroupEnd => self.group.clear(),
            Head::GroupStart => {
                let doc = Doc { input: &rest[at..end], tape: &self.tape };
                let mut body = Vec::new();
                self.writer.base = 0;
                if self.writer.value(doc, 0, 4, &mut body).is_err() {
                    body.clear();
                    bytes(&rest[at..end], &mut body);
                }
                self.group = b"{\"body\":".to_vec();
                self.group.extend_from_slice(&body);
                if !metadata.is_empty() {
                    self.group.extend_from_slice(b",\"metadata\":");
                    self.group.extend_from_slice(&metadata);
                }
                self.group.push(b'}');
            }
        }
        Ok(end)
    }

    /// A time, in any of the forms that senders use, and its length.
    fn time(&mut self, data: &[u8]) -> Result<(Head, usize), Fault> {
        let used = msgpack::parse_prefix(data, &mut self.tape)?;
        let doc = Doc { input: &data[..used], tape: &self.tape };
        let seconds = |s: i64| match s {
            -1 => Head::GroupStart,
            -2 => Head::GroupEnd,
            s => Head::Event(Time::from_unix(s, 0)),
        };
        let head = match doc.node(0) {
            Node::Ext(0, span) if doc.bytes(span).starts_with(&[0xff, 0xff, 0xff, 0xff]) => Head::GroupStart,
            Node::Ext(0, span) if doc.bytes(span).starts_with(&[0xff, 0xff, 0xff, 0xfe]) => Head::GroupEnd,
            Node::Ext(kind, span) => Head::Event(Time::from_msgpack_ext(kind, doc.bytes(span))),
            Node::Int(s) => seconds(s),
            Node::Double(s) if s.fract() == 0.0 => seconds(s as i64),
            Node::Double(s) if s.abs() < 1e12 => {
                let whole = s.floor();
                Head::Event(Time::from_unix(whole as i64, ((s - whole) * 1e9) as u32))
            }
            Node::Array { .. } | Node::Map { .. } => return Err(Fault::Syntax(0)),
            _ => Head::Event(None),
        };
        Ok((head, used))
    }
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
        start[2..6].copy_from_slice(&[0xff; 4]);
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
