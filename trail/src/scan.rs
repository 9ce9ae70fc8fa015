//! JSON without a parse: where strings and values end, and what an object or array holds. For texts that are valid JSON already;
//! broken ones give wrong answers, never a panic.

/// The members of an object: names as they stand between their quotes, and the texts of values. Nothing for any other value.
pub fn members(object: &[u8]) -> Members<'_> {
    let open = object.first() == Some(&b'{');
    Members { text: object, at: if open { 1 } else { object.len() } }
}

/// The texts of the elements of an array. Nothing for any other value.
pub fn elements(array: &[u8]) -> Elements<'_> {
    let open = array.first() == Some(&b'[');
    Elements { text: array, at: if open { 1 } else { array.len() } }
}

/// See [`members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let t = self.text;
        let mut at = skip_space(t, self.at);
        if t.get(at) == Some(&b',') {
            at = skip_space(t, at + 1);
        }
        if t.get(at) != Some(&b'"') {
            self.at = t.len();
            return None;
        }
        // What is broken from here on is the end.
        self.at = t.len();
        let key_end = value_end(t, at)?;
        let colon = skip_space(t, key_end);
        if t.get(colon) != Some(&b':') {
            return None;
        }
        let from = skip_space(t, colon + 1);
        let end = value_end(t, from)?;
        self.at = end;
        Some((&t[at + 1..key_end - 1], &t[from..end]))
    }
}

/// See [`elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let t = self.text;
        let mut at = skip_space(t, self.at);
        if t.get(at) == Some(&b',') {
            at = skip_space(t, at + 1);
        }
        if matches!(t.get(at), None | Some(b']')) {
            self.at = t.len();
            return None;
        }
        self.at = t.len();
        let end = value_end(t, at)?;
        self.at = end;
        Some(&t[at..end])
    }
}

/// Where, from `at` on, something stands that is no white space.
pub fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Where the string ends that opens at `at`; `None` if it does not.
pub fn string_end(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        let rest = text.get(at..)?;
        at += quote_or_escape(rest)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The first `"` or `\`. Names and values are short: eight bytes at a time, with nothing to set up.
#[inline]
fn quote_or_escape(text: &[u8]) -> Option<usize> {
    let (words, tail) = text.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let w = u64::from_le_bytes(*word);
        let zero = |v: u64| v.wrapping_sub(ONES) & !v & HIGH;
        let hit = zero(w ^ (ONES * u64::from(b'"'))) | zero(w ^ (ONES * u64::from(b'\\')));
        if hit != 0 {
            return Some(8 * i + (hit.trailing_zeros() / 8) as usize);
        }
    }
    let at = tail.iter().position(|c| matches!(c, b'"' | b'\\'))?;
    Some(text.len() - tail.len() + at)
}

/// Where the value ends that begins at `at`; `None` if there is none.
pub fn value_end(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => string_end(text, at),
        b'{' | b'[' => {
            let mut depth = 0usize;
            let mut at = at;
            loop {
                match text.get(at)? {
                    b'"' => {
                        at = string_end(text, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
        }
        b'}' | b']' | b',' | b':' => None,
        _ => {
            let rest = &text[at..];
            let stop = |c: &u8| matches!(c, b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\n' | b'\r' | b'"');
            Some(at + rest.iter().position(stop).unwrap_or(rest.len()))
        }
    }
}
