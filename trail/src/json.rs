//! JSON texts: a strict RFC 8259 parser onto the tape, and RFC 8785 canonical form.

use crate::number;
use crate::tape::{
    Doc, Fault, Form, MAX_INPUT, Node, Span, Tape, Writer, clean_prefix, number_node, plain_ascii_prefix,
    quote, utf16_cmp,
};

/// Parses one JSON text (whitespace around it allowed) onto `tape`.
pub(crate) fn parse(input: &[u8], form: Form, limit: usize, tape: &mut Tape) -> Result<(), Fault> {
    tape.clear();
    if input.len() >= MAX_INPUT {
        return Err(Fault::TooLarge);
    }
    let text = from_utf8(input)?;
    let mut p = Parser { text, b: input, at: 0, form, limit, tape, exact: true };
    p.space();
    p.value(1)?;
    p.space();
    if p.at == input.len() { Ok(()) } else { Err(Fault::Syntax(p.at)) }
}

/// Parses one JSON text onto `tape` and says whether it is its own canonical form: what [`canonicalize`] would
/// write, without writing it.
pub(crate) fn parse_canonical(input: &[u8], limit: usize, tape: &mut Tape) -> Result<bool, Fault> {
    tape.clear();
    if input.len() >= MAX_INPUT {
        return Err(Fault::TooLarge);
    }
    let text = from_utf8(input)?;
    let mut p = Parser { text, b: input, at: 0, form: Form::Plain, limit, tape, exact: true };
    p.space();
    p.value(1)?;
    p.space();
    if p.at == input.len() { Ok(p.exact) } else { Err(Fault::Syntax(p.at)) }
}

fn from_utf8(input: &[u8]) -> Result<&str, Fault> {
    simdutf8::compat::from_utf8(input).map_err(|e| Fault::Utf8(e.valid_up_to()))
}

/// A quick look, without a tape, at what most values are: ASCII without escapes, names without `$`, short whole numbers. Where
/// it says yes, [`parse_canonical`] says yes, too, and finds nothing odd; a no says nothing.
pub(crate) fn is_plain(text: &[u8], limit: usize) -> bool {
    plain_value(text, 0, limit) == Some(text.len())
}

fn plain_value(t: &[u8], at: usize, limit: usize) -> Option<usize> {
    match t.get(at)? {
        b'"' => plain_string(t, at),
        b't' => t[at..].starts_with(b"true").then_some(at + 4),
        b'f' => t[at..].starts_with(b"false").then_some(at + 5),
        b'0' => Some(at + 1),
        b'1'..=b'9' => {
            let digits = t[at..].iter().take_while(|c| c.is_ascii_digit()).count();
            (digits < 16).then_some(at + digits)
        }
        open @ (b'{' | b'[') => plain_container(t, at + 1, *open == b'{', limit.checked_sub(1)?),
        _ => None,
    }
}

fn plain_container(t: &[u8], mut at: usize, map: bool, limit: usize) -> Option<usize> {
    let close = if map { b'}' } else { b']' };
    if *t.get(at)? == close {
        return Some(at + 1);
    }
    let mut last: Option<&[u8]> = None;
    loop {
        if map {
            let end = if *t.get(at)? == b'"' { plain_string(t, at)? } else { return None };
            let name = &t[at + 1..end - 1];
            // Of ASCII, the order of bytes is that of code units.
            if name.first() == Some(&b'$') || last.is_some_and(|l| l >= name) || *t.get(end)? != b':' {
                return None;
            }
            last = Some(name);
            at = end + 1;
        }
        at = plain_value(t, at, limit)?;
        match t.get(at)? {
            b',' => at += 1,
            c if *c == close => return Some(at + 1),
            _ => return None,
        }
    }
}

fn plain_string(t: &[u8], at: usize) -> Option<usize> {
    let end = at + 1 + plain_ascii_prefix(t, at + 1);
    (*t.get(end)? == b'"').then_some(end + 1)
}

/// Appends `text`, which is UTF-8, as a JSON string, escaped as RFC 8785 section 3.2.2.2 has it.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    quote(text.as_bytes(), out);
}

/// The order of two names in one object: by their UTF-16 code units (RFC 8785 section 3.2.3). Both are UTF-8.
pub fn compare_names(a: &[u8], b: &[u8]) -> core::cmp::Ordering {
    utf16_cmp(a, b)
}

/// Appends a finite number as RFC 8785 writes it; nothing if it is not finite.
pub fn write_number(n: f64, out: &mut Vec<u8>) {
    if n.is_finite() {
        out.extend_from_slice(ryu_js::Buffer::new().format(n).as_bytes());
    }
}

struct Parser<'i, 't> {
    text: &'i str,
    b: &'i [u8],
    at: usize,
    form: Form,
    limit: usize,
    tape: &'t mut Tape,
    /// So far white space, numbers, escapes and the order of names are those of the canonical form.
    exact: bool,
}

impl Parser<'_, '_> {
    fn fail<T>(&self) -> Result<T, Fault> {
        Err(Fault::Syntax(self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.b.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
            self.exact = false;
        }
    }

    fn eat(&mut self, c: u8) -> bool {
        let hit = self.peek() == Some(c);
        self.at += usize::from(hit);
        hit
    }

    fn word(&mut self, word: &[u8], node: Node) -> Result<(), Fault> {
        if !self.b[self.at..].starts_with(word) {
            return self.fail();
        }
        self.at += word.len();
        self.tape.push(node)
    }

    fn value(&mut self, depth: usize) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{') => self.container(depth, b'}'),
            Some(b'[') => self.container(depth, b']'),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true", Node::True),
            Some(b'f') => self.word(b"false", Node::False),
            Some(b'n') => self.word(b"null", Node::Null),
            _ => self.fail(),
        }
    }

    fn container(&mut self, depth: usize, close: u8) -> Result<(), Fault> {
        if depth > self.limit {
            return Err(Fault::TooDeep);
        }
        let map = close == b'}';
        let here = self.tape.nodes.len();
        self.tape.push(if map { Node::Map { end: 0 } } else { Node::Array { end: 0 } })?;
        self.at += 1;
        self.space();
        if !self.eat(close) {
            let mut last = None;
            loop {
                if map {
                    if self.peek() != Some(b'"') {
                        return self.fail();
                    }
                    self.string()?;
                    if self.form == Form::Plain {
                        last = self.name(last);
                    }
                    self.space();
                    if !self.eat(b':') {
                        return self.fail();
                    }
                    self.space();
                }
                self.value(depth + 1)?;
                self.space();
                if self.eat(b',') {
                    self.space();
                } else if self.eat(close) {
                    break;
                } else {
                    return self.fail();
                }
            }
        }
        self.tape.close(here);
        Ok(())
    }

    /// Looks at the name that has just been read; `last` is the one before it in its object.
    #[inline]
    fn name(&mut self, last: Option<Span>) -> Option<Span> {
        let doc = Doc { input: self.b, tape: &*self.tape };
        let Some(Node::Str(span)) = self.tape.nodes.last().copied() else { return last };
        let name = doc.bytes(span);
        self.exact &= last.is_none_or(|l| utf16_cmp(doc.bytes(l), name).is_lt());
        let odd = name.first() == Some(&b'$');
        self.tape.odd |= odd;
        Some(span)
    }

    fn digits(&mut self) -> Result<(), Fault> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return self.fail();
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        let node = number_node(text, Span::input(start, text.len(), true), self.form)?;
        if let Node::Double(x) = node {
            // A plain integer of few digits is written as it stands.
            let plain = text.len() < 16 && text.bytes().all(|c| c.is_ascii_digit());
            self.exact &= plain || ryu_js::Buffer::new().format(x) == text;
            self.tape.odd |= x.abs() > number::MAX_SAFE as f64;
        }
        self.tape.push(node)
    }

    #[inline]
    fn string(&mut self) -> Result<(), Fault> {
        let start = self.at + 1;
        let len = clean_prefix(self.b.get(start..).unwrap_or_default());
        self.at = start + len;
        if self.eat(b'"') {
            return self.tape.push(Node::Str(Span::input(start, len, true)));
        }
        self.escaped_string(start)
    }

    /// The rest of a string that begins at `start` and holds an escape, or a fault, where the parser is now.
    #[cold]
    fn escaped_string(&mut self, start: usize) -> Result<(), Fault> {
        let from = self.tape.scratch.len();
        self.tape.scratch.extend_from_slice(&self.b[start..self.at]);
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                _ => return self.fail(),
            }
            let n = clean_prefix(&self.b[self.at..]);
            self.tape.scratch.extend_from_slice(&self.b[self.at..self.at + n]);
            self.at += n;
        }
        self.at += 1;
        let span = self.tape.scratch_from(from);
        if self.form == Form::Plain && self.exact {
            let mut again = Vec::with_capacity(self.at - start + 2);
            quote(&self.tape.scratch[from..], &mut again);
            self.exact = again == self.b[start - 1..self.at];
        }
        self.tape.push(Node::Str(span))
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let c = match self.b.get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let at = self.at;
                let high = self.unit()?;
                let code = match high {
                    0xd800..=0xdbff => match self.unit() {
                        Ok(low @ 0xdc00..=0xdfff) => 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00),
                        _ => return Err(Fault::LoneSurrogate(at)),
                    },
                    other => other,
                };
                // What is left of the invalid code points is a low surrogate by itself.
                let c = char::from_u32(code).ok_or(Fault::LoneSurrogate(at))?;
                let mut buf = [0; 4];
                self.tape.scratch.extend_from_slice(c.encode_utf8(&mut buf).as_bytes());
                return Ok(());
            }
            _ => return self.fail(),
        };
        self.at += 2;
        self.tape.scratch.push(c as u8);
        Ok(())
    }

    /// `\uXXXX`.
    fn unit(&mut self) -> Result<u32, Fault> {
        let Some([b'\\', b'u', digits @ ..]) = self.b.get(self.at..self.at + 6) else { return self.fail() };
        let mut code = 0;
        for d in digits {
            let v = (*d as char).to_digit(16).ok_or(Fault::Syntax(self.at))?;
            code = code * 16 + v;
        }
        self.at += 6;
        Ok(code)
    }
}

/// The deepest text that [`canonicalize`] takes; a record is held to [`crate::record::MAX_DEPTH`].
pub const MAX_PLAIN_DEPTH: usize = 1000;

/// The RFC 8785 canonical form of one JSON text: numbers as ECMAScript doubles, names by UTF-16 code units.
///
/// # Errors
/// [`Fault`] says what is wrong and where: the grammar of RFC 8259, UTF-8, a lone surrogate, a repeated name,
/// a number that no double holds, nesting beyond [`MAX_PLAIN_DEPTH`].
pub fn canonicalize(text: &[u8]) -> Result<Vec<u8>, Fault> {
    canonicalize_within(text, MAX_PLAIN_DEPTH)
}

/// [`canonicalize`] with a limit on nesting.
///
/// # Errors
/// As [`canonicalize`].
pub fn canonicalize_within(text: &[u8], depth: usize) -> Result<Vec<u8>, Fault> {
    let mut tape = Tape::default();
    parse(text, Form::Plain, depth, &mut tape)?;
    let mut out = Vec::with_capacity(text.len());
    Writer::new(Form::Plain, depth).value(Doc { input: text, tape: &tape }, 0, 1, &mut out)?;
    Ok(out)
}

/// Whether a text is its own canonical form, as records must be. Never writes it.
///
/// # Errors
/// As [`canonicalize`], but for [`Fault::DuplicateKey`]: such a text is not canonical.
pub fn is_canonical(text: &[u8]) -> Result<bool, Fault> {
    parse_canonical(text, MAX_PLAIN_DEPTH, &mut Tape::default())
}

/// The canonical form of a serialisable value: the only way from a structure to bytes that are hashed.
///
/// # Errors
/// As [`canonicalize`]; a structure of ours has none of those faults.
pub fn to_canonical<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    let text = serde_json::to_vec(value).map_err(|_| Fault::Syntax(0))?;
    canonicalize(&text)
}

/// Splits the elements of a JSON array without parsing them: `None` if the text is not an array whose
/// strings, brackets and commas match up. Each element is trimmed; an element may still be broken JSON.
pub fn split_array(text: &[u8]) -> Option<impl Iterator<Item = &[u8]> + Clone> {
    let inner = text.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?;
    let elements =
        || Elements { text: inner, at: if inner.trim_ascii().is_empty() { None } else { Some(0) } };
    // Nothing is given out before all of it is known to be an array; and no list of it is kept.
    elements().all(|e| e.is_some()).then(|| elements().flatten())
}

#[derive(Clone)]
struct Elements<'t> {
    text: &'t [u8],
    at: Option<usize>,
}

impl<'t> Elements<'t> {
    /// The element at `start`, and where the next begins.
    fn element(&self, start: usize) -> Option<(&'t [u8], Option<usize>)> {
        let (mut depth, mut at) = (0usize, start);
        while let Some(c) = self.text.get(at) {
            match c {
                b'"' => {
                    at += 1;
                    loop {
                        match self.text.get(at)? {
                            b'"' => break,
                            b'\\' => at += 2,
                            _ => at += 1,
                        }
                    }
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.checked_sub(1)?,
                b',' if depth == 0 => break,
                _ => {}
            }
            at += 1;
        }
        let element = self.text.get(start..at.min(self.text.len()))?.trim_ascii();
        let next = (at < self.text.len()).then_some(at + 1);
        // `[1,,2]` and `[1,]` are no arrays.
        (depth == 0 && !element.is_empty()).then_some((element, next))
    }
}

impl<'t> Iterator for Elements<'t> {
    type Item = Option<&'t [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at.take()?;
        Some(self.element(start).map(|(element, next)| {
            self.at = next;
            element
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_filters_mostly_write_is_plain() {
        for text in [r#""x""#, "true", "0", "15", r#"["a","b"]"#, r#"{"a":{"b":[false]},"b":1}"#, "[]", "{}"]
        {
            assert!(is_plain(text.as_bytes(), 3), "{text}");
        }
        for text in
            ["", "01", "1.0", "-1", "null", r#"{"b":1,"a":1}"#, r#"{"$a":1}"#, r#""é""#, "[1,]", "[1", "\"a"]
        {
            assert!(!is_plain(text.as_bytes(), 3), "{text}");
        }
        assert!(!is_plain(b"[[[[1]]]]", 3));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn a_quick_yes_is_the_parsers_yes(
            parts in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"b\"", "\"a\":", "\"b\":", "\"$a\":", "\"\":", "true", "false",
                "null", "0", "1", "17", "9007199254740993", "999999999999999", "1.5", "-0", " ", "\\n", "é", "\"\u{7f}\"", "\u{1}",
            ]), 0..12),
            limit in 0usize..4,
        ) {
            let text = parts.concat();
            if is_plain(text.as_bytes(), limit) {
                let mut tape = Tape::default();
                prop_assert!(matches!(parse_canonical(text.as_bytes(), limit, &mut tape), Ok(true)), "{text}");
                prop_assert!(!tape.odd, "{text}");
            }
        }
    }
}
