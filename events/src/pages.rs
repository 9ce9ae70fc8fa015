//! What the pages of a column chunk declare, before anyone believes it: the Parquet library reserves as much memory as a
//! page header asks for, 2 GiB in a file of 4 kB. (parquet-format, `PageHeader`; Thrift's compact protocol.)

use crate::{EventsError, MAX_RECORDS, limit};

/// Walks the pages of one column chunk and returns how many bytes they declare together; each may have as many values
/// as an object may have rows. The library takes what it finds without looking at types, sizes or order; so anything
/// but what every writer writes is refused here, lest the two read different numbers.
pub(crate) fn declared(mut chunk: &[u8]) -> Result<u64, EventsError> {
    let mut total = 0u64;
    while !chunk.is_empty() {
        let mut thrift = Thrift(chunk);
        let page = thrift.page().ok_or_else(|| broken("a page header cannot be read"))?;
        let header = chunk.len() - thrift.0.len();
        let size = |n: Option<u32>| n.map(u64::from).ok_or_else(|| broken("a page header without its sizes"));
        let (bytes, stored) = (size(page.uncompressed)?, size(page.compressed)?);
        limit("a number of values in a page", size(page.values)?, MAX_RECORDS)?;
        total += bytes;
        let end = usize::try_from(stored).ok().and_then(|n| n.checked_add(header));
        chunk = end.and_then(|n| chunk.get(n..)).ok_or_else(|| broken("a page goes beyond its column"))?;
    }
    Ok(total)
}

fn broken(what: &str) -> EventsError {
    EventsError::Unreadable(what.to_owned())
}

#[derive(Default)]
struct Page {
    uncompressed: Option<u32>,
    compressed: Option<u32>,
    values: Option<u32>,
}

/// What is left of a text in Thrift's compact protocol.
struct Thrift<'t>(&'t [u8]);

const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const STRUCT: u8 = 12;

impl Thrift<'_> {
    fn page(&mut self) -> Option<Page> {
        let mut page = Page::default();
        self.fields(&mut |thrift, id, kind| {
            match (id, kind) {
                (2, I32) => page.uncompressed = Some(thrift.count()?),
                (3, I32) => page.compressed = Some(thrift.count()?),
                // Its kind, and a check sum of any value.
                (1 | 4, I32) => drop(thrift.varint()?),
                // Of a data page, a dictionary, or a data page of version 2.
                (5 | 7 | 8, STRUCT) => page.values = page.values.max(Some(thrift.values(id)?)),
                _ => return None,
            }
            Some(())
        })?;
        Some(page)
    }

    /// The number of values of a page's own header, which is field `of` of the whole.
    fn values(&mut self, of: i16) -> Option<u32> {
        let mut values = None;
        self.fields(&mut |thrift, id, kind| {
            match (of, id, kind) {
                (_, 1, I32) => values = Some(thrift.count()?),
                (5, 2..=4, I32) | (7, 2, I32) | (8, 2..=6, I32) => drop(thrift.varint()?),
                (7, 3, TRUE | FALSE) | (8, 7, TRUE | FALSE) => {}
                (5, 5, STRUCT) | (8, 8, STRUCT) => thrift.fields(&mut Self::statistic)?,
                _ => return None,
            }
            Some(())
        })?;
        values
    }

    fn statistic(&mut self, id: i16, kind: u8) -> Option<()> {
        match (id, kind) {
            (1 | 2 | 5 | 6, BINARY) => {
                let n = usize::try_from(self.varint()?).ok()?;
                self.0 = self.0.get(n..)?;
                Some(())
            }
            (3 | 4, I64) => self.varint().map(drop),
            (7 | 8, TRUE | FALSE) => Some(()),
            _ => None,
        }
    }

    /// Calls `each` with the id and the type of each field of a structure, which reads its value. Ids ascend, in the short
    /// form.
    fn fields(&mut self, each: &mut dyn FnMut(&mut Self, i16, u8) -> Option<()>) -> Option<()> {
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            if head == STOP {
                return Some(());
            }
            if head >> 4 == 0 || head & 15 == STOP {
                return None;
            }
            id = id.checked_add(i16::from(head >> 4))?;
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

    /// A number that is an `i32` and not negative.
    fn count(&mut self) -> Option<u32> {
        let n = self.varint()?;
        let signed = (n >> 1).cast_signed() ^ -(n & 1).cast_signed();
        i32::try_from(signed).ok().and_then(|n| u32::try_from(n).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(mut n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while n > 127 {
            out.push(n as u8 | 128);
            n >>= 7;
        }
        out.push(n as u8);
        out
    }

    fn zigzag(n: i64) -> Vec<u8> {
        varint((n << 1 ^ n >> 63).cast_unsigned())
    }

    /// A data page of three bytes: kind, sizes, and a header with a number of values.
    fn page(uncompressed: i64, compressed: i64, values: i64) -> Vec<u8> {
        let mut out = vec![0x15, 0, 0x15];
        out.extend(zigzag(uncompressed));
        out.push(0x15);
        out.extend(zigzag(compressed));
        out.extend([0x2c, 0x15]);
        out.extend(zigzag(values));
        out.extend([0x15, 0, 0x15, 6, 0x15, 6, 0, 0]);
        out.extend([b'x'; 3]);
        out
    }

    #[test]
    fn what_pages_declare_is_added_up() {
        assert_eq!(declared(&[page(10, 3, 1), page(20, 3, 1_048_576)].concat()).unwrap(), 30);
        assert_eq!(declared(&[]).unwrap(), 0);
        assert_eq!(declared(&page(i64::from(i32::MAX), 3, 1)).unwrap(), 0x7fff_ffff);
        assert!(matches!(declared(&page(10, 3, 1_048_577)), Err(EventsError::Limit { .. })));
        for broken in [page(10, 4, 1), page(-1, 3, 1), page(10, -3, 1), page(10, 3, -1)] {
            assert!(declared(&broken).is_err());
        }
    }

    /// What the library would read as other numbers than this does.
    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let short = |wide: &[u8]| {
            let mut out = vec![0x15, 0, 0x15, 20, 0x15, 6, 0x2c, 0x15, 2, 0, 0];
            out.truncate(10);
            out.extend_from_slice(wide);
            out.extend([0, b'x', b'x', b'x']);
            out
        };
        assert!(declared(&short(&[])).is_ok());
        let gigabyte = zigzag(0x7fff_ffff);
        // Ids that are cut to 16 bits, or come twice, or overflow.
        for id in [65_538, 2, i64::MAX, -1, 0] {
            let field = [&[5][..], &zigzag(id), &gigabyte].concat();
            assert!(declared(&short(&field)).is_err(), "{id}");
        }
        assert!(
            declared(&short(&[5, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0x15, 0]))
                .is_err()
        );
        // Numbers that are cut to 32 bits.
        assert!(declared(&page(10, 3, -(1 << 32) + 0x7fff_ffff)).is_err());
        assert!(declared(&page((1 << 32) + 10, 3, 1)).is_err());
        // A size of another type.
        assert!(declared(&[0x15, 0, 0x17, 0, 0, 0, 0, 0, 0, 0, 0, 0x15, 6, 0x2c, 0x15, 2, 0, 0]).is_err());
        // A list of truths takes bytes for one reader and none for another, for as long as it says.
        let list =
            [0x15, 0, 0x15, 20, 0x15, 6, 0x2c, 0x15, 2, 0x4c, 0x19, 0xf1, 0xff, 0xff, 0xff, 0xff, 7, 0, 0, 0];
        assert!(declared(&[&list[..], b"xxx"].concat()).is_err());
        // Cut anywhere.
        let whole = page(10, 3, 1);
        (1..whole.len()).for_each(|n| assert!(declared(&whole[..n]).is_err(), "{n}"));
    }
}
