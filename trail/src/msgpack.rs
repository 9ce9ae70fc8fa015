//! MessagePack objects onto the tape.
//!
//! Written here and not taken from a crate because nothing may be bent: a string that is not UTF-8, a map
//! with repeated keys, an extension, a non-minimal encoding each has its own place in the record.

use crate::number;
use crate::tape::{Fault, MAX_DEPTH, MAX_INPUT, MAX_NODES, Node, Span, Tape};

/// Parses exactly one MessagePack object onto `tape`.
pub(crate) fn parse(input: &[u8], tape: &mut Tape) -> Result<(), Fault> {
    let end = parse_prefix(input, tape)?;
    if end == input.len() { Ok(()) } else { Err(Fault::Syntax(end)) }
}

/// Parses the first MessagePack object of `input`; returns where it ends.
pub(crate) fn parse_prefix(input: &[u8], tape: &mut Tape) -> Result<usize, Fault> {
    tape.clear();
    if input.len() >= MAX_INPUT {
        return Err(Fault::TooLarge);
    }
    let mut r = Reader { b: input, at: 0, tape };
    r.value(1)?;
    Ok(r.at)
}

/// Where the first MessagePack object of `input` ends, however deep or large it is.
pub(crate) fn skip(input: &[u8]) -> Result<usize, Fault> {
    match Scanner::default().scan(input)? {
        Some(end) => Ok(end),
        None => Err(Fault::Syntax(input.len())),
    }
}

/// Finds the end of an object whose bytes arrive piece by piece; goes through each byte's header once.
#[derive(Debug)]
pub struct Scanner {
    /// Up to here it is known; perhaps beyond what has arrived.
    at: usize,
    /// Objects that are still to come.
    left: u64,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner { at: 0, left: 1 }
    }
}

impl Scanner {
    /// At least so many bytes belong to the object.
    pub fn least(&self) -> usize {
        usize::try_from(self.left).map_or(usize::MAX, |n| self.at.saturating_add(n))
    }

    /// Goes on with all that has arrived of the object, from its first byte on. The object's length, or `None` if
    /// there is more to come.
    ///
    /// # Errors
    /// [`Fault`] if no object can come of it.
    pub fn scan(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        while self.left > 0 {
            let Some(&c) = input.get(self.at) else { return Ok(None) };
            let body = self.at + 1;
            let uint = |width: usize| -> Option<u64> {
                let bytes = input.get(body..body + width)?;
                Some(bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
            };
            // How wide a length follows, how many bytes stand before the content, and what the length counts.
            let width = match c {
                0xc4 | 0xc7 | 0xd9 => 1,
                0xc5 | 0xc8 | 0xda | 0xdc | 0xde => 2,
                0xc6 | 0xc9 | 0xdb | 0xdd | 0xdf => 4,
                _ => 0,
            };
            let Some(n) = uint(width) else { return Ok(None) };
            let (bytes, objects) = match c {
                0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
                0x80..=0x8f => (0, 2 * u64::from(c & 15)),
                0x90..=0x9f => (0, u64::from(c & 15)),
                0xa0..=0xbf => (u64::from(c & 31), 0),
                0xc1 => return Err(Fault::Syntax(self.at)),
                0xc4..=0xc6 | 0xd9..=0xdb => (n, 0),
                0xc7..=0xc9 => (n + 1, 0),
                0xca | 0xce | 0xd2 => (4, 0),
                0xcb | 0xcf | 0xd3 => (8, 0),
                0xcc | 0xd0 => (1, 0),
                0xcd | 0xd1 => (2, 0),
                0xd4..=0xd8 => (1 + (1 << (c - 0xd4)), 0),
                0xdc | 0xdd => (0, n),
                0xde | 0xdf => (0, 2 * n),
            };
            let end = usize::try_from(bytes).ok().and_then(|n| (body + width).checked_add(n));
            self.at = end.ok_or(Fault::TooLarge)?;
            self.left = (self.left - 1).checked_add(objects).ok_or(Fault::TooLarge)?;
        }
        Ok((self.at <= input.len()).then_some(self.at))
    }
}

struct Reader<'i, 't> {
    b: &'i [u8],
    at: usize,
    tape: &'t mut Tape,
}

impl Reader<'_, '_> {
    fn take(&mut self, n: usize) -> Result<usize, Fault> {
        let start = self.at;
        if self.b.len() - start < n {
            return Err(Fault::Syntax(self.b.len()));
        }
        self.at += n;
        Ok(start)
    }

    fn uint(&mut self, width: usize) -> Result<u64, Fault> {
        let start = self.take(width)?;
        Ok(self.b[start..start + width].iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn value(&mut self, depth: usize) -> Result<(), Fault> {
        let start = self.take(1)?;
        let c = self.b[start];
        let node = match c {
            0x00..=0x7f => Node::Int(i64::from(c)),
            0xe0..=0xff => Node::Int(i64::from(c as i8)),
            0x80..=0x8f => return self.container(usize::from(c & 15), depth, true),
            0x90..=0x9f => return self.container(usize::from(c & 15), depth, false),
            0xa0..=0xbf => return self.string(usize::from(c & 31)),
            0xc0 => Node::Null,
            0xc1 => return Err(Fault::Syntax(start)),
            0xc2 => Node::False,
            0xc3 => Node::True,
            0xc4..=0xc6 => {
                let len = self.uint(1 << (c - 0xc4))? as usize;
                Node::Bytes(Span::input(self.take(len)?, len, false))
            }
            0xc7..=0xc9 => {
                let len = self.uint(1 << (c - 0xc7))? as usize;
                self.ext(len)?
            }
            0xca => {
                let x = f64::from(f32::from_bits(self.uint(4)? as u32));
                self.double(x)
            }
            0xcb => {
                let x = f64::from_bits(self.uint(8)?);
                self.double(x)
            }
            0xcc..=0xcf => {
                let n = self.uint(1 << (c - 0xcc))?;
                match i64::try_from(n) {
                    Ok(n) if n <= number::MAX_SAFE => Node::Int(n),
                    _ => Node::Number(self.tape.keep(n.to_string().as_bytes())),
                }
            }
            0xd0..=0xd3 => {
                let width = 1 << (c - 0xd0);
                let shift = 64 - 8 * width as u32;
                let n = ((self.uint(width)? << shift) as i64) >> shift;
                if n.abs_diff(0) <= number::MAX_SAFE as u64 {
                    Node::Int(n)
                } else {
                    Node::Number(self.tape.keep(n.to_string().as_bytes()))
                }
            }
            0xd4..=0xd8 => self.ext(1 << (c - 0xd4))?,
            0xd9..=0xdb => {
                let len = self.uint(1 << (c - 0xd9))? as usize;
                return self.string(len);
            }
            0xdc | 0xdd => {
                let n = self.uint(2 << (c - 0xdc))? as usize;
                return self.container(n, depth, false);
            }
            0xde | 0xdf => {
                let n = self.uint(2 << (c - 0xde))? as usize;
                return self.container(n, depth, true);
            }
        };
        self.tape.push(node)
    }

    fn double(&mut self, x: f64) -> Node {
        match number::of_double(x) {
            Ok(x) => Node::Double(x),
            Err(text) => Node::Number(self.tape.keep(text.as_bytes())),
        }
    }

    fn ext(&mut self, len: usize) -> Result<Node, Fault> {
        let kind = self.uint(1)? as u8 as i8;
        Ok(Node::Ext(kind, Span::input(self.take(len)?, len, false)))
    }

    fn string(&mut self, len: usize) -> Result<(), Fault> {
        let start = self.take(len)?;
        let bytes = &self.b[start..start + len];
        let node = if crate::tape::is_plain_ascii(self.b, start, len) {
            Node::Str(Span::input(start, len, true))
        } else if core::str::from_utf8(bytes).is_ok() {
            let clean = crate::tape::clean_prefix(bytes) == len;
            Node::Str(Span::input(start, len, clean))
        } else {
            Node::Bytes(Span::input(start, len, false))
        };
        self.tape.push(node)
    }

    fn container(&mut self, count: usize, depth: usize, map: bool) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::TooDeep);
        }
        // A header of five bytes can claim 2^32 elements: it must not cost memory before they are there.
        if count > MAX_NODES {
            return Err(Fault::TooLarge);
        }
        let here = self.tape.nodes.len();
        self.tape.push(if map { Node::Map { end: 0 } } else { Node::Array { end: 0 } })?;
        for _ in 0..count * if map { 2 } else { 1 } {
            self.value(depth + 1)?;
        }
        self.tape.close(here);
        Ok(())
    }
}
