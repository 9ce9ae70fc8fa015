//! A text as a detector should see it: digits of other scripts and full width as ASCII, odd spaces and hyphens as the plain ones,
//! what has no width left out, percent escapes decoded (once); with the way back to where each byte stood.

/// The plain text, and where its parts stood.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) text: Vec<u8>,
    /// From this place of the plain text on, each byte stood where it does and so much further.
    shifts: Vec<(u32, u32)>,
}

fn hex(c: u8) -> Option<u8> {
    (c as char).to_digit(16).map(|d| d as u8)
}

/// What stands there for something else: how long it is, and what it is read as; `None` for what is itself.
fn other(text: &[u8], at: usize) -> Option<(usize, Option<u8>)> {
    if text[at] == b'\\' {
        return literal(text, at);
    }
    let (c, len) = byte(text, at);
    if c < 0x80 {
        return (len > 1).then_some((len, Some(c)));
    }
    let (second, second_len) = byte(text, at + len);
    let (third, third_len) = byte(text, at + len + second_len);
    match odd([c, second, third]) {
        Some((2, plain)) => Some((len + second_len, plain)),
        Some((_, plain)) => Some((len + second_len + third_len, plain)),
        // A byte of a character that stays, escaped or not.
        None => (len > 1).then_some((len, Some(c))),
    }
}

impl View {
    /// Makes the view of a text; false if it is the text itself.
    pub(crate) fn of(&mut self, text: &[u8]) -> bool {
        let may = |c: &u8| matches!(c, b'%' | b'\\' | 0x80..);
        let next = |from: usize| {
            let mut at = from;
            loop {
                at += text.get(at..)?.iter().position(may)?;
                if let Some(found) = other(text, at) {
                    return Some((at, found));
                }
                at += 1;
            }
        };
        let Some(mut found) = next(0) else { return false };
        self.text.clear();
        self.shifts.clear();
        // As much as it takes, and no more: it is kept, and a record may be large.
        self.text.shrink_to(text.len().max(1 << 16));
        self.text.reserve_exact(text.len());
        let mut from = 0;
        loop {
            let (at, (len, plain)) = found;
            self.text.extend_from_slice(&text[from..at]);
            self.text.extend(plain);
            from = at + len;
            self.shifts.push((self.text.len() as u32, (from - self.text.len()) as u32));
            match next(from) {
                Some(next) => found = next,
                None => break,
            }
        }
        self.text.extend_from_slice(&text[from..]);
        true
    }

    /// Where a part of the plain text stood.
    pub(crate) fn place(&self, start: usize, end: usize) -> (usize, usize) {
        let stood = |at: usize| {
            let n = self.shifts.partition_point(|(from, _)| *from as usize <= at);
            at + n.checked_sub(1).map_or(0, |n| self.shifts[n].1 as usize)
        };
        (stood(start), stood(end))
    }
}

/// An escape that stands in the text as such, as loggers and languages write it: a line's end, a tab, an ASCII character.
fn literal(text: &[u8], at: usize) -> Option<(usize, Option<u8>)> {
    match text.get(at + 1)? {
        b'n' | b'r' => Some((2, Some(b'\n'))),
        b't' => Some((2, Some(b'\t'))),
        b'u' if text.get(at + 2..at + 4)? == b"00" => {
            let c = hex(*text.get(at + 4)?)? << 4 | hex(*text.get(at + 5)?)?;
            (c < 0x80).then_some((6, Some(c)))
        }
        _ => None,
    }
}

/// The byte that stands there, or is escaped there, and how long that is written.
fn byte(text: &[u8], at: usize) -> (u8, usize) {
    match text.get(at) {
        Some(b'%') => escape(text, at).map_or((b'%', 1), |c| (c, 3)),
        Some(c) => (*c, 1),
        None => (0, 0),
    }
}

fn escape(text: &[u8], at: usize) -> Option<u8> {
    Some(hex(*text.get(at + 1)?)? << 4 | hex(*text.get(at + 2)?)?)
}

/// How long a character is that stands for an ASCII one, or for nothing.
fn odd(text: [u8; 3]) -> Option<(usize, Option<u8>)> {
    Some(match text {
        // No-break space, soft hyphen.
        [0xc2, 0xa0, ..] => (2, Some(b' ')),
        [0xc2, 0xad, ..] => (2, None),
        // Arabic-Indic digits, and the Persian ones.
        [0xd9, d @ 0xa0..=0xa9, ..] => (2, Some(b'0' + d - 0xa0)),
        [0xdb, d @ 0xb0..=0xb9, ..] => (2, Some(b'0' + d - 0xb0)),
        // Devanagari, Bengali digits.
        [0xe0, 0xa5, d @ 0xa6..=0xaf, ..] => (3, Some(b'0' + d - 0xa6)),
        [0xe0, 0xa7, d @ 0xa6..=0xaf, ..] => (3, Some(b'0' + d - 0xa6)),
        // Spaces of a width, what has none, hyphens and dashes, minus.
        [0xe2, 0x80, 0x80..=0x8a | 0xaf, ..] | [0xe2, 0x81, 0x9f, ..] => (3, Some(b' ')),
        [0xe2, 0x80, 0x8b..=0x8f | 0xaa..=0xae, ..] | [0xe2, 0x81, 0xa0, ..] => (3, None),
        [0xe2, 0x80, 0x90..=0x95, ..] | [0xe2, 0x88, 0x92, ..] => (3, Some(b'-')),
        [0xe2, 0x80, 0xa8 | 0xa9, ..] => (3, Some(b'\n')),
        [0xe3, 0x80, 0x80, ..] => (3, Some(b' ')),
        [0xef, 0xbb, 0xbf, ..] => (3, None),
        // Full width: `!` to `~`.
        [0xef, 0xbc, d @ 0x81..=0xbf, ..] => (3, Some(b'!' + (d - 0x81))),
        [0xef, 0xbd, d @ 0x80..=0x9e, ..] => (3, Some(b'`' + (d - 0x80))),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::View;

    #[test]
    fn every_script_is_read_and_found_again() {
        let text = "№ ４１１１\u{a0}1111‑٤%34\u{200b}४%zz é";
        let mut v = View::default();
        assert!(v.of(text.as_bytes()));
        let plain = String::from_utf8(v.text.clone()).unwrap();
        assert_eq!(plain, "№ 4111 1111-444%zz é");
        let at = plain.find("4111").unwrap();
        let (from, to) = v.place(at, at + 13);
        assert_eq!(&text[from..to], "４１１１\u{a0}1111‑٤%34\u{200b}४");
        assert!(!View::default().of(b"100% plain"));
    }
}
