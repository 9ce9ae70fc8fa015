//! What HTTP and gRPC carry: read within bounds, and unpacked within bounds.

use crate::intake::net::PATIENCE;
use crate::intake::room::{Busy, Held, Room};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use std::io::Read;
use std::time::Duration;
use waxseal_trail::hash::{Hash, sha256};

/// A client may take so much longer for each megabyte of its body.
const SECOND_A_MEGABYTE: Duration = Duration::from_secs(1);
/// Unpacked at a time, before more room is asked for.
const STEP: usize = 1 << 20;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames, windows of at most 128 MiB.
    Zstd,
}

impl Encoding {
    /// By its name in HTTP, gRPC and Forward; `None` if it is another.
    pub fn named(name: &[u8]) -> Option<Encoding> {
        match name {
            b"" | b"identity" => Some(Encoding::Identity),
            b"gzip" | b"x-gzip" => Some(Encoding::Gzip),
            b"zstd" => Some(Encoding::Zstd),
            _ => None,
        }
    }

    fn reader<'b>(self, body: &'b [u8]) -> std::io::Result<Box<dyn Read + Send + 'b>> {
        Ok(match self {
            Encoding::Identity => Box::new(body),
            Encoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body)),
            Encoding::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
                // A frame may ask for a window of gigabytes.
                decoder.window_log_max(27)?;
                Box::new(decoder)
            }
        })
    }
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Larger than it may be, before or after it is unpacked.
    #[error("it is over {0} bytes")]
    TooLarge(usize),
    /// It did not arrive in time.
    #[error("it did not arrive in time")]
    Timeout,
    /// No room for it now.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The connection failed, or the client did not keep to the protocol.
    #[error("{0}")]
    Broken(#[from] hyper::Error),
    /// What was sent cannot be unpacked.
    #[error("it cannot be decompressed: {0}")]
    Packed(std::io::Error),
}

/// The length that a request declares.
pub fn declared(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok())
}

/// How long a client may take for so many bytes. Whoever holds room must use it: a body that trickles gives its room back.
pub fn patience(bytes: usize) -> Duration {
    PATIENCE + SECOND_A_MEGABYTE * u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

/// Reads a body of at most `max` bytes into room that it takes as they come: nobody holds what he only declares. Of a body
/// that is too large some more is read, so that the client sees the answer.
///
/// # Errors
/// [`BodyError`].
pub async fn collect(
    mut body: Incoming,
    headers: &HeaderMap,
    max: usize,
    room: &Room,
) -> Result<(Bytes, Held), BodyError> {
    let declared = declared(headers);
    if declared.is_some_and(|n| n > max) {
        // Who waits for `100 Continue` has sent nothing; others read no answer before they have sent it all.
        if !headers.contains_key(header::EXPECT) {
            discard(body, max.saturating_mul(8)).await;
        }
        return Err(BodyError::TooLarge(max));
    }
    let mut held = room.take(FIRST).await?;
    let mut buffer = Buffer { bytes: BytesMut::new(), reserved: FIRST };
    let read = async {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                if buffer.bytes.len() + data.len() > max {
                    discard(body, max.saturating_mul(8)).await;
                    return Err(BodyError::TooLarge(max));
                }
                buffer.push(&data, declared, room, &mut held).await?;
            }
        }
        Ok(())
    };
    tokio::time::timeout(patience(declared.unwrap_or(max)), read).await.unwrap_or(Err(BodyError::Timeout))?;
    let out = buffer.bytes.freeze();
    // It may have been less than it could have been.
    let _ = room.resize(&mut held, out.len());
    Ok((out, held))
}

/// Taken before anything has come.
pub(crate) const FIRST: usize = 64 << 10;

/// What has come of a body, and how much room it has.
pub(crate) struct Buffer {
    pub(crate) bytes: BytesMut,
    pub(crate) reserved: usize,
}

impl Buffer {
    /// Adds what came; where there is no more room, takes twice as much, or all if it is known how much that is.
    pub(crate) async fn push(
        &mut self,
        data: &[u8],
        whole: Option<usize>,
        room: &Room,
        held: &mut Held,
    ) -> Result<(), Busy> {
        let needed = self.bytes.len() + data.len();
        if needed > self.reserved {
            self.reserved = needed.saturating_mul(2).min(whole.unwrap_or(usize::MAX)).max(needed);
            room.grow(held, self.reserved).await?;
            self.bytes.reserve(self.reserved - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// Reads past a body, up to `most` bytes, for a while.
async fn discard(mut body: Incoming, most: usize) {
    let read = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > most {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, read).await;
}

/// Unpacks at most `max` bytes. What it holds in memory is what it has room for: more room is asked for step by step, so
/// that a small packet cannot claim what a large one would need, and nobody waits for it.
///
/// # Errors
/// [`BodyError`].
pub fn unpack(
    packed: Bytes,
    encoding: Encoding,
    max: usize,
    room: &Room,
    held: &mut Held,
) -> Result<Bytes, BodyError> {
    if encoding == Encoding::Identity {
        return Ok(packed);
    }
    let before = packed.len();
    let grow = &mut |size: usize| room.resize(held, before + size);
    let out = unpack_with(&packed, encoding, max, grow)?;
    drop(packed);
    let _ = room.resize(held, out.len());
    Ok(out)
}

/// [`unpack`], with `grow` asked before more than so many bytes are held.
///
/// # Errors
/// [`BodyError`].
pub fn unpack_with(
    packed: &[u8],
    encoding: Encoding,
    max: usize,
    grow: &mut dyn FnMut(usize) -> Result<(), Busy>,
) -> Result<Bytes, BodyError> {
    let mut reader = encoding.reader(packed).map_err(BodyError::Packed)?;
    let mut out = Vec::new();
    loop {
        let step = STEP.max(out.len() / 4).min(max + 1 - out.len());
        grow(out.len() + step)?;
        out.reserve_exact(step);
        let read = reader.by_ref().take(step as u64).read_to_end(&mut out).map_err(BodyError::Packed)?;
        if out.len() > max {
            return Err(BodyError::TooLarge(max));
        }
        if read < step {
            return Ok(out.into());
        }
    }
}

/// Whether a request carries the bearer token whose SHA-256 is `token`; compared by digest, so that it takes the same
/// time for every guess.
pub fn is_authorised(headers: &HeaderMap, token: Option<&Hash>) -> bool {
    let Some(token) = token else { return true };
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let given = given.and_then(|v| std::str::from_utf8(v).ok()?.split_once(' '));
    given.is_some_and(|(scheme, t)| {
        scheme.eq_ignore_ascii_case("bearer") && sha256(t.trim().as_bytes()) == *token
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn unpacking_is_bounded_and_asks_for_room() {
        let text = vec![b'x'; 5 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::stream::encode_all(&text[..], 1).unwrap();
        for (packed, encoding) in [(&gzip, Encoding::Gzip), (&zstd, Encoding::Zstd)] {
            let mut asked = 0;
            let out = unpack_with(packed, encoding, 6 << 20, &mut |n| {
                asked = n;
                Ok(())
            });
            assert_eq!(out.unwrap(), text);
            assert!(((5 << 20)..=(7 << 20)).contains(&asked), "{asked}");
            let all = &mut |_| Ok(());
            assert!(matches!(unpack_with(packed, encoding, 4 << 20, all), Err(BodyError::TooLarge(_))));
            assert_eq!(unpack_with(packed, encoding, 5 << 20, all).unwrap().len(), 5 << 20);
            let none = &mut |n| if n > 2 << 20 { Err(Busy) } else { Ok(()) };
            assert!(matches!(unpack_with(packed, encoding, 6 << 20, none), Err(BodyError::Busy(Busy))));
            let cut = &packed[..packed.len() - 1];
            assert!(matches!(unpack_with(cut, encoding, 6 << 20, all), Err(BodyError::Packed(_))));
        }
        assert_eq!(Encoding::named(b"br"), None);
    }
}
