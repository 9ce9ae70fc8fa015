//! What the pages of a column chunk declare, before anyone believes it: the Parquet library reserves as much memory as a
//! page header asks for, 2 GiB in a file of 4 kB. (parquet-format, `PageHeader`; Thrift's compact protocol.)

use crate::{EventsError, MAX_RECORDS, limit};

/// Nested structures in a page header; there are two.
const DEPTH: u32 = 8;

/// Walks the pages of one column chunk: together they may declare `most` bytes, and each as many values as an object may
/// have rows.
pub(crate) fn check(mut chunk: &[u8], most: u64) -> Result<(), EventsError> {
    let mut total = 0u64;
    while !chunk.is_empty() {
        let mut thrift = Thrift(chunk);
        let page = thrift.page().ok_or_else(|| broken("a page header cannot be read"))?;
        let header = chunk.len() - thrift.0.len();
        let size = |n: i64| u64::try_from(n).map_err(|_| broken("a page header without its sizes"));
        let (bytes, stored) = (size(page.uncompressed)?, size(page.compressed)?);
        limit("a number of values in a page", size(page.values.max(0))?, MAX_RECORDS)?;
        total = total.saturating_add(bytes).saturating_add(header as u64);
        limit("a size of all pages of a column", total, most)?;
        let end = usize::try_from(stored).ok().and_then(|n| n.checked_add(header));
        chunk = end.and_then(|n| chunk.get(n..)).ok_or_else(|| broken("a page goes beyond its column"))?;
    }
    Ok(())
}

fn broken(what: &str) -> EventsError {
    EventsError::Unreadable(what.to_owned())
}

struct Page {
    uncompressed: i64,
    compressed: i64,
    values: i64,
}

/// What is left of a text in Thrift's compact protocol.
struct Thrift<'t>(&'t [u8]);

const STOP: u8 = 0;
const STRUCT: u8 = 12;

impl Thrift<'_> {
    fn page(&mut self) -> Option<Page> {
        let mut page = Page { uncompressed: -1, compressed: -1, values: 0 };
        self.fields(&mut |thrift, id, kind| {
            match (id, kind) {
                (2, 4..=6) => page.uncompressed = thrift.integer()?,
                (3, 4..=6) => page.compressed = thrift.integer()?,
                // Of a data page, a dictionary, or a data page of version 2: the number of values comes first.
                (5 | 7 | 8, STRUCT) => thrift.fields(&mut |thrift, id, kind| match (id, kind) {
                    (1, 4..=6) => {
                        page.values = page.values.max(thrift.integer()?);
                        Some(())
                    }
                    _ => thrift.skip(kind, DEPTH - 2, false),
                })?,
                _ => thrift.skip(kind, DEPTH - 1, false)?,
            }
            Some(())
        })?;
        Some(page)
    }

    /// Calls `each` with the id and the type of each field of a structure; it reads or skips the value.
    fn fields(&mut self, each: &mut dyn FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut id = 0i64;
        loop {
            let head = self.byte()?;
            if head & 15 == STOP {
                return Some(());
            }
            id = if head >> 4 == 0 { self.integer()? } else { id + i64::from(head >> 4) };
            each(self, id, head & 15)?;
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut out = 0;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            out |= u64::from(b & 127) << shift;
            if b < 128 {
                return Some(out);
            }
        }
        None
    }

    /// A zigzag varint.
    fn integer(&mut self) -> Option<i64> {
        let n = self.varint()?;
        Some((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
    }

    fn bytes(&mut self, n: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(n).ok()?..)?;
        Some(())
    }

    fn skip(&mut self, kind: u8, depth: u32, in_list: bool) -> Option<()> {
        let deeper = depth.checked_sub(1)?;
        match kind {
            // A field's truth is in its type; an element's is a byte.
            1 | 2 if !in_list => Some(()),
            1..=3 => self.bytes(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.bytes(8),
            8 => {
                let n = self.varint()?;
                self.bytes(n)
            }
            9 | 10 => {
                let head = self.byte()?;
                let n = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                // Each element takes a byte at least: a length beyond that ends the loop soon.
                (0..n).try_for_each(|_| self.skip(head & 15, deeper, true))
            }
            11 => {
                let n = self.varint()?;
                if n == 0 {
                    return Some(());
                }
                let kinds = self.byte()?;
                (0..n).try_for_each(|_| {
                    self.skip(kinds >> 4, deeper, true)?;
                    self.skip(kinds & 15, deeper, true)
                })
            }
            STRUCT => self.fields(&mut |thrift, _, kind| thrift.skip(kind, deeper, false)),
            _ => None,
        }
    }
}
