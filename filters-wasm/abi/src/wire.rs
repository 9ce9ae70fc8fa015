//! A chunk of events between the sink and a module: members as canonical JSON, by place.
//!
//! All integers are little-endian `u32` but for the seconds, an `i64`. In: count, flags, seconds and nanoseconds of the
//! host's clock (UTC, since 1970), the length of the chunk's `source`, the length of the text, both texts; then for each
//! event a start and an end in the text for each of a record's members, in the order of `waxseal_trail::record::Member`, and for
//! a `source` of its own (start and end are equal where there is none), and its flags ([`OWN_TIME`]). Out: for each event the
//! number of its changes, and for each of them the member's place, the length of its new value, and that value. An empty value
//! takes the member away; [`ADD`], [`EXPLANATION`] and [`REFUSAL`] stand where a place would.

use waxseal_trail::record::{Change, Events, Member};

/// The version of this interface: what `waxseal_abi` answers.
pub const VERSION: u32 = 2;

/// What a reader says of [`REFUSAL`].
pub const REFUSED: &str = "it cannot answer for an event";

/// The filter failed on the event.
pub const REFUSAL: u32 = u32::MAX - 2;

/// The module shall explain itself: a change of member [`EXPLANATION`] is then no change but a text.
pub const EXPLAIN: u32 = 1;

/// The event's time is its source's own: a filter that gives it another displaces it.
pub const OWN_TIME: u32 = 1;

/// See [`EXPLAIN`].
pub const EXPLANATION: u32 = u32::MAX;

/// Such a change adds to the metadata: its value is a list of names (as canonical JSON has them between quotes) and values, each
/// with the lengths of both before it, in the order of `waxseal_trail::json::compare_names`.
pub const ADD: u32 = u32::MAX - 1;

/// Writes what goes in.
#[derive(Debug)]
pub struct Writer<'o>(&'o mut Vec<u8>);

impl<'o> Writer<'o> {
    /// Begins a chunk of `count` events.
    pub fn new(
        out: &'o mut Vec<u8>,
        count: usize,
        flags: u32,
        now: (i64, u32),
        source: &[u8],
        text: &[u8],
    ) -> Writer<'o> {
        out.clear();
        let mut w = Writer(out);
        w.int(count as u32);
        w.int(flags);
        w.0.extend_from_slice(&now.0.to_le_bytes());
        w.int(now.1);
        w.int(source.len() as u32);
        w.int(text.len() as u32);
        w.0.extend_from_slice(source);
        w.0.extend_from_slice(text);
        w
    }

    fn int(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    /// The next event: number `i` of `events`.
    pub fn event(&mut self, events: &Events, i: usize) {
        for (from, to) in events.places(i) {
            self.int(from);
            self.int(to);
        }
        self.int(if events.has_own_time(i) { OWN_TIME } else { 0 });
    }
}

/// Appends the answer that nothing changes, with an explanation where one was asked for.
pub fn nothing(explanation: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::from(explanation.is_some()).to_le_bytes());
    if let Some(text) = explanation {
        put(EXPLANATION, text.as_bytes(), out);
    }
}

/// Appends the answer that the filter cannot say what becomes of the event: the host does with it as it is told to where a
/// filter fails.
pub fn refuse(out: &mut Vec<u8>) {
    out.extend_from_slice(&1u32.to_le_bytes());
    put(REFUSAL, b"", out);
}

fn put(what: u32, text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&what.to_le_bytes());
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text);
}

/// Reads integers and bytes; `None` where there are no more.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'i>(&'i [u8]);

impl<'i> Reader<'i> {
    /// From the beginning.
    pub fn new(bytes: &'i [u8]) -> Reader<'i> {
        Reader(bytes)
    }

    /// The next integer.
    pub fn int(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*head))
    }

    /// The next long one.
    pub fn long(&mut self) -> Option<i64> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i64::from_le_bytes(*head))
    }

    /// So many bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'i [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// The next change: the member's place, and its new value.
    fn change(&mut self) -> Option<(u32, &'i [u8])> {
        let (member, len) = (self.int()?, self.int()?);
        Some((member, self.bytes(len as usize)?))
    }

    /// The next name and value of [`ADD`].
    pub fn pair(&mut self) -> Option<(&'i [u8], &'i [u8])> {
        let (name, value) = (self.int()?, self.int()?);
        Some((self.bytes(name as usize)?, self.bytes(value as usize)?))
    }

    /// What an answer makes of the next event; `explained` hears what a module says of it.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub fn changes(
        &mut self,
        to: &mut Vec<Change<'i>>,
        mut explained: impl FnMut(&[u8]),
    ) -> Result<(), &'static str> {
        const CUT: &str = "its answer is cut off";
        to.clear();
        for _ in 0..self.int().ok_or(CUT)? {
            let (member, value) = self.change().ok_or(CUT)?;
            match member {
                EXPLANATION => explained(value),
                REFUSAL => return Err(REFUSED),
                ADD => {
                    let mut pairs = Reader(value);
                    while !pairs.is_at_end() {
                        let (name, value) = pairs.pair().ok_or(CUT)?;
                        to.push(Change::Add(name, value));
                    }
                }
                _ => {
                    let member = Member::at(member as usize);
                    let member = member.ok_or("its answer names a member that no record has")?;
                    to.push(Change::Set(member, value));
                }
            }
        }
        Ok(())
    }

    /// Whether all has been read.
    pub fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}
