//! The fields of a protobuf message, read one after the other where the message lies.
//!
//! Two bytes can be a whole element of a repeated field, and a decoded element takes some hundred bytes of memory: a list
//! of them is not made before each is looked at.

use crate::intake::MAX_EVENTS;
use crate::intake::grpc::Status;
use bytes::{Buf as _, Bytes};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A message of more bytes is decoded with [`one_at_a_time`] held.
pub const SMALL: usize = 16 << 10;

/// Waits for its turn to decode something large.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a request is not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// It is no message.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// However small they are, each takes its memory.
    #[error("it has more than {MAX_EVENTS} events (or resources, or scopes): send fewer at once")]
    TooMany,
}

impl From<Unusable> for Status {
    fn from(e: Unusable) -> Status {
        match e {
            Unusable::Malformed(_) => Status::invalid(e),
            Unusable::TooMany => Status::later(e),
        }
    }
}

/// One more of what a request has.
///
/// # Errors
/// [`Unusable::TooMany`].
pub fn count(number: &mut usize) -> Result<(), Unusable> {
    *number += 1;
    if *number > MAX_EVENTS { Err(Unusable::TooMany) } else { Ok(()) }
}

/// The values of one field of a message, in their order; all else in it is skipped.
#[derive(Clone)]
pub struct Fields {
    rest: Bytes,
    tag: u32,
}

impl Fields {
    /// Those with this tag.
    pub fn new(message: Bytes, tag: u32) -> Fields {
        Fields { rest: message, tag }
    }

    /// How many there are; a large message is looked at up to the first that is too many.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn number(message: &Bytes, tag: u32) -> Result<usize, Unusable> {
        let mut number = 0;
        for field in Fields::new(message.clone(), tag) {
            field?;
            count(&mut number)?;
        }
        Ok(number)
    }

    fn read(&mut self) -> Result<Option<Bytes>, DecodeError> {
        while self.rest.has_remaining() {
            let (tag, wire) = decode_key(&mut self.rest)?;
            if tag != self.tag || wire != WireType::LengthDelimited {
                skip_field(wire, tag, &mut self.rest, DecodeContext::default())?;
                continue;
            }
            let length = decode_varint(&mut self.rest)?;
            return match usize::try_from(length) {
                Ok(n) if n <= self.rest.len() => Ok(Some(self.rest.split_to(n))),
                // A field that ends after its message: what the library says of it.
                _ => skip_field(WireType::SixtyFourBit, tag, &mut Bytes::new(), DecodeContext::default())
                    .map(|()| None),
            };
        }
        Ok(None)
    }
}

impl Iterator for Fields {
    type Item = Result<Bytes, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.rest.clear();
        }
        read.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_field_of_a_message() {
        let of =
            |bytes: &'static [u8]| Fields::new(Bytes::from_static(bytes), 1).collect::<Result<Vec<_>, _>>();
        let ok = of(b"\x0a\x01a\x10\x05\x12\x02xx\x0a\x00\x0a\x02bc").unwrap();
        assert_eq!(ok, [&b"a"[..], b"", b"bc"]);
        assert_eq!(of(b"").unwrap().len(), 0);
        // Cut short, a length beyond the end, no key, an end of a group that did not begin.
        for bad in [
            &b"\x0a\x02a"[..],
            b"\x0a",
            b"\xff",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0c",
            b"\x12\x05x",
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
        let many = Bytes::from(b"\x0a\x00".repeat(1000));
        assert_eq!(Fields::number(&many, 1).unwrap(), 1000);
        assert!(Fields::number(&many.slice(..1999), 1).is_err());
    }
}
