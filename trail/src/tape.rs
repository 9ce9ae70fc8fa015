//! One parsed JSON text or MessagePack object as a flat tape, and its canonical JSON.
//!
//! The tape holds nodes in document order; strings stay in the input unless they had escapes. It is
//! reused from event to event, so the hot path allocates nothing. Both decoders fill it, one writer reads it:
//! canonical form and lossless wrappers are decided in one place.

use crate::number;

/// The deepest nesting of objects and arrays in a record, the record itself being 1.
pub const MAX_DEPTH: usize = 64;
/// A record has at most this many bytes; its input-decided part [`RESERVED`] less.
pub const MAX_RECORD: usize = 1 << 20;
/// What the sink's own members of a record may take.
pub const RESERVED: usize = 4096;
/// No event with more nodes can fit in a record: each takes at least a byte there.
pub(crate) const MAX_NODES: usize = MAX_RECORD;
/// Inputs from here on are not looked at: spans keep 30 bits of length.
pub(crate) const MAX_INPUT: usize = 1 << 30;

/// Why a text is not an event, or not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not the grammar of RFC 8259 or of MessagePack.
    #[error("not well-formed at byte {0}")]
    Syntax(usize),
    /// The text is not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    Utf8(usize),
    /// `\uD800` without its partner.
    #[error("a lone surrogate at byte {0}")]
    LoneSurrogate(usize),
    /// Deeper than 64.
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Larger than a record may be.
    #[error("larger than a record may be")]
    TooLarge,
    /// RFC 8785 wants distinct names.
    #[error("a name is repeated in an object")]
    DuplicateKey,
    /// RFC 8785 has no infinity; ECMAScript would read one.
    #[error("a number beyond the range of a double")]
    NumberRange,
    /// Some JSON value, but no object.
    #[error("not an object")]
    NotAnObject,
}

/// Where a string lies: in the input or in the scratch buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    start: u32,
    /// Bit 31: in scratch. Bit 30: known to need no escape in JSON.
    len: u32,
}

const SCRATCH: u32 = 1 << 31;
const CLEAN: u32 = 1 << 30;

impl Span {
    /// Whether it is known to need no escape.
    pub(crate) fn is_clean(self) -> bool {
        self.len & CLEAN != 0
    }

    /// Where it lies in the input, if it does.
    pub(crate) fn in_input(self) -> Option<(u32, u32)> {
        let len = self.len & !(SCRATCH | CLEAN);
        (self.len & SCRATCH == 0).then_some((self.start, self.start + len))
    }

    pub(crate) fn input(start: usize, len: usize, clean: bool) -> Span {
        Span { start: start as u32, len: len as u32 | if clean { CLEAN } else { 0 } }
    }
}

/// One node; a container is followed by its content up to `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Node {
    Null,
    True,
    False,
    /// Within ±(2^53−1); not −0.
    Int(i64),
    /// Finite, within ±(2^53−1) where wrappers are wanted; not −0 there.
    Double(f64),
    /// The text of a number that a bare JSON number cannot keep.
    Number(Span),
    Str(Span),
    Bytes(Span),
    Ext(i8, Span),
    Array {
        end: u32,
    },
    /// Key and value in turn.
    Map {
        end: u32,
    },
}

/// The reusable memory of a parse.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    pub(crate) nodes: Vec<Node>,
    pub(crate) scratch: Vec<u8>,
    /// The text had a name that begins with `$`, or a number beyond ±(2^53−1). Only of [`Form::Plain`].
    pub(crate) odd: bool,
}

impl Tape {
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.scratch.clear();
        self.odd = false;
        // One monster must not keep its memory for ever.
        self.nodes.shrink_to(1 << 14);
        self.scratch.shrink_to(1 << 18);
    }

    #[inline]
    pub(crate) fn push(&mut self, node: Node) -> Result<(), Fault> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Fault::TooLarge);
        }
        self.nodes.push(node);
        Ok(())
    }

    /// Puts text into scratch.
    pub(crate) fn keep(&mut self, text: &[u8]) -> Span {
        let start = self.scratch.len();
        self.scratch.extend_from_slice(text);
        self.scratch_from(start)
    }

    pub(crate) fn scratch_from(&self, start: usize) -> Span {
        Span { start: start as u32, len: (self.scratch.len() - start) as u32 | SCRATCH }
    }

    pub(crate) fn close(&mut self, container: usize) {
        let end = self.nodes.len() as u32;
        match &mut self.nodes[container] {
            Node::Array { end: e } | Node::Map { end: e } => *e = end,
            _ => {}
        }
    }
}

/// Makes a tape value by value, for inputs that are decoded elsewhere (protobuf). A map is its keys and values in turn.
pub struct Builder<'t> {
    input: &'t [u8],
    tape: &'t mut Tape,
    /// Values that have been begun and have no place yet: one is wanted, and no more.
    roots: usize,
    depth: usize,
}

impl<'t> Builder<'t> {
    /// Makes a tape of exactly one value.
    pub(crate) fn run(
        input: &'t [u8],
        tape: &'t mut Tape,
        build: impl FnOnce(&mut Builder<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        tape.clear();
        if input.len() >= MAX_INPUT {
            return Err(Fault::TooLarge);
        }
        let mut b = Builder { input, tape, roots: 0, depth: 0 };
        build(&mut b)?;
        if b.roots == 1 { Ok(()) } else { Err(Fault::NotAnObject) }
    }

    fn push(&mut self, node: Node) -> Result<(), Fault> {
        self.roots += usize::from(self.depth == 0);
        self.tape.push(node)
    }

    /// Where `bytes` lie: in the input, if they are part of it.
    fn span(&mut self, bytes: &[u8], clean: bool) -> Result<Span, Fault> {
        let from = (bytes.as_ptr() as usize).wrapping_sub(self.input.as_ptr() as usize);
        if from <= self.input.len() && self.input.len() - from >= bytes.len() {
            return Ok(Span::input(from, bytes.len(), clean));
        }
        // Spans keep 30 bits; what is larger than a record cannot become one.
        if self.tape.scratch.len() + bytes.len() >= MAX_INPUT {
            return Err(Fault::TooLarge);
        }
        let span = self.tape.keep(bytes);
        Ok(Span { len: span.len | if clean { CLEAN } else { 0 }, ..span })
    }

    /// `null`, which is data.
    ///
    /// # Errors
    /// As all of these: [`Fault::TooLarge`] if the value cannot fit in a record.
    pub fn null(&mut self) -> Result<(), Fault> {
        self.push(Node::Null)
    }

    /// A boolean.
    ///
    /// # Errors
    /// See [`Builder::null`].
    pub fn bool(&mut self, value: bool) -> Result<(), Fault> {
        self.push(if value { Node::True } else { Node::False })
    }

    /// An integer; beyond ±(2^53−1) it will be a `$number`.
    ///
    /// # Errors
    /// See [`Builder::null`].
    pub fn int(&mut self, value: i64) -> Result<(), Fault> {
        let node = if value.unsigned_abs() <= number::MAX_SAFE as u64 {
            Node::Int(value)
        } else {
            Node::Number(self.tape.keep(value.to_string().as_bytes()))
        };
        self.push(node)
    }

    /// A double; what JSON cannot write will be a `$number`.
    ///
    /// # Errors
    /// See [`Builder::null`].
    pub fn double(&mut self, value: f64) -> Result<(), Fault> {
        let node = match number::of_double(value) {
            Ok(x) => Node::Double(x),
            Err(text) => Node::Number(self.tape.keep(text.as_bytes())),
        };
        self.push(node)
    }

    /// A string; one that is not UTF-8 will be `$bytes`.
    ///
    /// # Errors
    /// See [`Builder::null`].
    pub fn text(&mut self, value: &[u8]) -> Result<(), Fault> {
        let clean = clean_prefix(value) == value.len();
        if core::str::from_utf8(value).is_err() {
            return self.bytes(value);
        }
        let span = self.span(value, clean)?;
        self.push(Node::Str(span))
    }

    /// Bytes that are no text.
    ///
    /// # Errors
    /// See [`Builder::null`].
    pub fn bytes(&mut self, value: &[u8]) -> Result<(), Fault> {
        let span = self.span(value, false)?;
        self.push(Node::Bytes(span))
    }

    /// An instant, as MessagePack's timestamp of 96 bits: extension −1 holds every one, and a `timestamp` is read from it.
    ///
    /// # Errors
    /// See [`Builder::null`].
    pub fn instant(&mut self, seconds: i64, nanos: u32) -> Result<(), Fault> {
        let mut data = [0; 12];
        data[..4].copy_from_slice(&nanos.to_be_bytes());
        data[4..].copy_from_slice(&seconds.to_be_bytes());
        let span = self.span(&data, false)?;
        self.push(Node::Ext(-1, span))
    }

    /// A map, whose keys and values `fill` makes in turn.
    ///
    /// # Errors
    /// As `fill` says.
    pub fn map(&mut self, fill: impl FnOnce(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.container(Node::Map { end: 0 }, fill)
    }

    /// An array, whose elements `fill` makes.
    ///
    /// # Errors
    /// As `fill` says.
    pub fn array(&mut self, fill: impl FnOnce(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.container(Node::Array { end: 0 }, fill)
    }

    fn container(
        &mut self,
        node: Node,
        fill: impl FnOnce(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if self.depth >= MAX_DEPTH {
            return Err(Fault::TooDeep);
        }
        let here = self.tape.nodes.len();
        self.push(node)?;
        self.depth += 1;
        fill(self)?;
        self.depth -= 1;
        self.tape.close(here);
        Ok(())
    }
}

/// A finished tape with the input it points into.
#[derive(Clone, Copy)]
pub(crate) struct Doc<'a> {
    pub(crate) input: &'a [u8],
    pub(crate) tape: &'a Tape,
}

impl<'a> Doc<'a> {
    pub(crate) fn node(&self, i: usize) -> Node {
        self.tape.nodes[i]
    }

    /// The index after node `i` and all below it.
    pub(crate) fn after(&self, i: usize) -> usize {
        match self.node(i) {
            Node::Array { end } | Node::Map { end } => end as usize,
            _ => i + 1,
        }
    }

    pub(crate) fn bytes(&self, s: Span) -> &'a [u8] {
        let len = (s.len & !(SCRATCH | CLEAN)) as usize;
        let from = s.start as usize;
        let whole: &'a [u8] = if s.len & SCRATCH != 0 { &self.tape.scratch } else { self.input };
        &whole[from..from + len]
    }

    /// The bytes of a string node (UTF-8 by construction); `None` for every other node.
    pub(crate) fn string(&self, i: usize) -> Option<&'a [u8]> {
        match self.node(i) {
            Node::Str(s) => Some(self.bytes(s)),
            _ => None,
        }
    }

    /// The indices of a map's keys.
    pub(crate) fn keys(self, map: usize) -> impl Iterator<Item = usize> + 'a {
        let end = self.after(map);
        let mut at = map + 1;
        core::iter::from_fn(move || {
            (at < end).then(|| {
                let key = at;
                at = self.after(self.after(key));
                key
            })
        })
    }
}

/// Compares two UTF-8 strings by their UTF-16 code units (RFC 8785 section 3.2.3).
///
/// That is byte order, but for one thing: U+E000 to U+FFFF (lead bytes EE and EF) sort after the
/// surrogates of everything above them (lead bytes F0 to F4).
pub(crate) fn utf16_cmp(a: &[u8], b: &[u8]) -> core::cmp::Ordering {
    // Names in one object mostly differ at once.
    if let (Some(x), Some(y)) = (a.first(), b.first())
        && x != y
    {
        return rank(*x).cmp(&rank(*y));
    }
    match a.iter().zip(b).position(|(x, y)| x != y) {
        None => a.len().cmp(&b.len()),
        Some(i) => rank(a[i]).cmp(&rank(b[i])),
    }
}

/// Bytes of UTF-8 have the order of UTF-16's code units but for those that begin U+E000 to U+FFFF, behind the surrogates.
fn rank(c: u8) -> u8 {
    if c == 0xee || c == 0xef { c + 0x10 } else { c }
}

/// The beginning of a name: where two differ, so do the names, and in the order of [`utf16_cmp`].
pub(crate) fn utf16_key(name: &[u8]) -> u64 {
    let mut key = [0; 8];
    let n = name.len().min(8);
    key[..n].copy_from_slice(&name[..n]);
    if u64::from_ne_bytes(key) & HIGH != 0 {
        key.iter_mut().for_each(|c| *c = rank(*c));
    }
    u64::from_be_bytes(key)
}

/// How a tape is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// RFC 8785 and nothing else.
    Plain,
    /// FORMAT section 2: keys gain a `$`, wrappers where bare JSON would lose something.
    Sealed,
}

/// Writes tapes as canonical JSON.
pub(crate) struct Writer {
    /// A stack of key indices; each map uses the part above its own start.
    keys: Vec<u32>,
    form: Form,
    /// The deepest container.
    limit: usize,
    /// Where the present event begins in the output.
    pub(crate) base: usize,
}

impl Writer {
    pub(crate) fn new(form: Form, limit: usize) -> Writer {
        Writer { keys: Vec::new(), form, limit, base: 0 }
    }

    fn check_depth(&self, depth: usize) -> Result<(), Fault> {
        if depth > self.limit { Err(Fault::TooDeep) } else { Ok(()) }
    }

    /// Writes node `i`, whose outermost container would be at `depth` (the record being 1).
    pub(crate) fn value(
        &mut self,
        doc: Doc<'_>,
        i: usize,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        match doc.node(i) {
            Node::Null => out.extend_from_slice(b"null"),
            Node::True => out.extend_from_slice(b"true"),
            Node::False => out.extend_from_slice(b"false"),
            Node::Int(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
            Node::Double(x) => out.extend_from_slice(ryu_js::Buffer::new().format(x).as_bytes()),
            Node::Str(s) => self.string(doc, s, out),
            Node::Number(s) => {
                let text = doc.bytes(s);
                self.check_depth(depth)?;
                out.extend_from_slice(b"{\"$number\":");
                quote(text, out);
                out.push(b'}');
            }
            Node::Bytes(s) => {
                self.check_depth(depth)?;
                out.extend_from_slice(b"{\"$bytes\":");
                base64url(doc.bytes(s), out);
                out.push(b'}');
            }
            Node::Ext(kind, s) => {
                self.check_depth(depth + 1)?;
                out.extend_from_slice(b"{\"$ext\":[");
                out.extend_from_slice(itoa::Buffer::new().format(kind).as_bytes());
                out.push(b',');
                base64url(doc.bytes(s), out);
                out.extend_from_slice(b"]}");
            }
            Node::Array { end } => {
                self.check_depth(depth)?;
                out.push(b'[');
                let mut at = i + 1;
                while at < end as usize {
                    if at > i + 1 {
                        out.push(b',');
                    }
                    self.value(doc, at, depth + 1, out)?;
                    at = doc.after(at);
                }
                out.push(b']');
            }
            Node::Map { .. } => self.map(doc, i, depth, out)?,
        }
        // Escapes and wrappers can grow a text; a monster stops here and not at the end.
        if out.len() > self.base + 16 * MAX_RECORD && self.form == Form::Sealed && depth > 2 {
            return Err(Fault::TooLarge);
        }
        Ok(())
    }

    fn map(&mut self, doc: Doc<'_>, i: usize, depth: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.check_depth(depth)?;
        let base = self.keys.len();
        if !self.sorted_keys(doc, i)? {
            self.keys.truncate(base);
            return self.pairs(doc, i, depth, out);
        }
        out.push(b'{');
        for k in base..self.keys.len() {
            if k > base {
                out.push(b',');
            }
            let key = self.keys[k] as usize;
            self.key(doc, key, out);
            self.value(doc, key + 1, depth + 1, out)?;
        }
        out.push(b'}');
        self.keys.truncate(base);
        Ok(())
    }

    /// Pushes a map's keys, sorted; `false` if the map has to become `$map`.
    fn sorted_keys(&mut self, doc: Doc<'_>, map: usize) -> Result<bool, Fault> {
        let base = self.keys.len();
        let mut ascending = true;
        let mut last: &[u8] = &[];
        for key in doc.keys(map) {
            let Some(text) = doc.string(key) else { return Ok(false) };
            if ascending && self.keys.len() > base {
                ascending = utf16_cmp(last, text).is_lt();
            }
            last = text;
            self.keys.push(key as u32);
        }
        if ascending {
            return Ok(true);
        }
        let text = |k: &u32| doc.string(*k as usize).unwrap_or_default();
        let part = &mut self.keys[base..];
        part.sort_unstable_by(|a, b| utf16_cmp(text(a), text(b)));
        let distinct = part.windows(2).all(|w| text(&w[0]) != text(&w[1]));
        if !distinct && self.form == Form::Plain {
            return Err(Fault::DuplicateKey);
        }
        Ok(distinct)
    }

    /// Whether the map needs `$map`: a repeated key, or one that is no string.
    pub(crate) fn is_irregular(&mut self, doc: Doc<'_>, map: usize) -> bool {
        let base = self.keys.len();
        let regular = self.sorted_keys(doc, map).unwrap_or(false);
        self.keys.truncate(base);
        !regular
    }

    /// `"key":`, with one more `$` where the key begins with one.
    pub(crate) fn key(&self, doc: Doc<'_>, key: usize, out: &mut Vec<u8>) {
        let Node::Str(s) = doc.node(key) else { return };
        let at = out.len();
        self.string(doc, s, out);
        if self.form == Form::Sealed && out.get(at + 1) == Some(&b'$') {
            out.insert(at + 1, b'$');
        }
        out.push(b':');
    }

    fn string(&self, doc: Doc<'_>, s: Span, out: &mut Vec<u8>) {
        if s.len & CLEAN != 0 {
            out.push(b'"');
            out.extend_from_slice(doc.bytes(s));
            out.push(b'"');
        } else {
            quote(doc.bytes(s), out);
        }
    }

    /// `{"$map":[[key,value],…]}` in source order.
    pub(crate) fn pairs(
        &mut self,
        doc: Doc<'_>,
        map: usize,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        self.check_depth(depth + 2)?;
        out.extend_from_slice(b"{\"$map\":[");
        let mut first = true;
        for key in doc.keys(map) {
            out.extend_from_slice(if first { b"[" } else { b",[" });
            first = false;
            self.value(doc, key, depth + 3, out)?;
            out.push(b',');
            self.value(doc, doc.after(key), depth + 3, out)?;
            out.push(b']');
        }
        out.extend_from_slice(b"]}");
        Ok(())
    }
}

/// A quoted base64url string without padding.
pub(crate) fn base64url(data: &[u8], out: &mut Vec<u8>) {
    let e = data_encoding::BASE64URL_NOPAD;
    out.push(b'"');
    let at = out.len();
    out.resize(at + e.encode_len(data.len()), 0);
    e.encode_mut(data, &mut out[at..]);
    out.push(b'"');
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The high bit of each byte that needs a JSON escape (below 0x20, `"` or `\`); exact up to the lowest such byte.
fn escape_mask(word: u64) -> u64 {
    let zero = |v: u64| v.wrapping_sub(ONES) & !v & HIGH;
    let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    control | zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\')))
}

fn word(text: &[u8], at: usize) -> Option<u64> {
    let chunk = text.get(at..at + 8)?;
    let mut word = [0; 8];
    word.copy_from_slice(chunk);
    Some(u64::from_le_bytes(word))
}

/// How many leading bytes need no escape.
#[inline]
pub(crate) fn clean_prefix(text: &[u8]) -> usize {
    let (words, tail) = text.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let mask = escape_mask(u64::from_le_bytes(*word));
        if mask != 0 {
            return 8 * i + (mask.trailing_zeros() / 8) as usize;
        }
    }
    let clean = tail.iter().take_while(|c| **c >= 0x20 && **c != b'"' && **c != b'\\').count();
    text.len() - tail.len() + clean
}

/// Whether all of `text`, which lies at `from..from + len` of `whole`, is ASCII that needs no escape. May look
/// beyond it, within `whole`, so that short strings need one step and not eight.
pub(crate) fn is_plain_ascii(whole: &[u8], from: usize, len: usize) -> bool {
    let mut at = 0;
    while at < len {
        let rest = len - at;
        let Some(mut w) = word(whole, from + at) else {
            return whole[from + at..from + len]
                .iter()
                .all(|c| (0x20..0x80).contains(c) && *c != b'"' && *c != b'\\');
        };
        if rest < 8 {
            // Bytes beyond the string count as spaces.
            let keep = (1u64 << (8 * rest)) - 1;
            w = w & keep | (ONES * 0x20) & !keep;
        }
        if escape_mask(w) | w & HIGH != 0 {
            return false;
        }
        at += 8;
    }
    true
}

/// How many bytes of `text` from `from` on are ASCII that needs no escape.
#[inline]
pub(crate) fn plain_ascii_prefix(text: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(w) = word(text, at) {
        let mask = escape_mask(w) | w & HIGH;
        if mask != 0 {
            return at + (mask.trailing_zeros() / 8) as usize - from;
        }
        at += 8;
    }
    let plain = |c: &&u8| (0x20..0x80).contains(*c) && **c != b'"' && **c != b'\\';
    at + text.get(at..).unwrap_or_default().iter().take_while(plain).count() - from
}

/// A JSON string of UTF-8 `text`, escaped as RFC 8785 section 3.2.2.2 has it.
pub(crate) fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    loop {
        let n = clean_prefix(rest);
        out.extend_from_slice(&rest[..n]);
        let Some(&c) = rest.get(n) else { break };
        match c {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(if c < 0x10 { b'0' } else { b'1' });
                out.push(b"0123456789abcdef"[usize::from(c & 15)]);
            }
        }
        rest = &rest[n + 1..];
    }
    out.push(b'"');
}

/// A JSON number literal as a node.
pub(crate) fn number_node(text: &str, span: Span, form: Form) -> Result<Node, Fault> {
    match form {
        Form::Sealed => Ok(match number::classify(text) {
            number::Class::Int(n) => Node::Int(n),
            number::Class::Double(x) => Node::Double(x),
            number::Class::Text => Node::Number(span),
        }),
        Form::Plain => {
            if text.len() < 16 && text.bytes().all(|c| c.is_ascii_digit()) {
                let n = text.bytes().fold(0u64, |n, d| n * 10 + u64::from(d - b'0'));
                return Ok(Node::Double(n as f64));
            }
            let x: f64 = text.parse().map_err(|_| Fault::NumberRange)?;
            if x.is_finite() { Ok(Node::Double(x)) } else { Err(Fault::NumberRange) }
        }
    }
}
