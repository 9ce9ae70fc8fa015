//! The Waxseal trail format and nothing else: records, their lossless conversion and canonical form, the
//! chain, the Merkle tree, signed statements, keys, trust, verdicts.
//!
//! No I/O, no clock, no async, no `unsafe`. The bytes are specified in `docs/format.md`; section numbers
//! in this crate's documentation are that page's. Builds for `wasm32-unknown-unknown` too.

pub mod hash;
pub mod json;
pub mod merkle;
mod msgpack;
mod number;
pub mod record;
mod tape;
pub mod time;
