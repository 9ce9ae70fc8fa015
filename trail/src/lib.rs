//! The Waxseal trail format and nothing else: records, their lossless conversion and canonical form, the
//! chain, the Merkle tree, signed statements, keys, trust, verdicts.
//!
//! No I/O, no clock, no async, no `unsafe`. The bytes are specified in `docs/format.md`; section numbers
//! in this crate's documentation are that page's. Builds for `wasm32-unknown-unknown` too.

#![forbid(unsafe_code)]

pub mod certificate;
pub mod envelope;
pub mod fluent;
pub mod hash;
pub mod json;
pub mod keys;
pub mod merkle;
mod msgpack;
pub mod name;
mod number;
pub mod record;
pub mod statement;
mod tape;
pub mod time;
pub mod trust;
pub mod verdict;
