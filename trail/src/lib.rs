//! The Waxseal trail format and nothing else: records, their lossless conversion and canonical form, the
//! chain, the Merkle tree, signed statements, keys, trust, verdicts.
//!
//! No I/O, no clock, no async, no `unsafe`. The bytes are specified in `docs/format.md`; section numbers
//! in this crate's documentation are that page's. Builds for `wasm32-unknown-unknown` too; without the feature
//! `statements`, it is records alone, which is what filters are built on.

#![forbid(unsafe_code)]

#[cfg(feature = "statements")]
pub mod base64;
#[cfg(feature = "statements")]
pub mod certificate;
#[cfg(feature = "statements")]
pub mod envelope;
pub mod fluent;
pub mod hash;
pub mod json;
#[cfg(feature = "statements")]
pub mod keys;
#[cfg(feature = "statements")]
pub mod log;
pub mod merkle;
mod msgpack;
pub mod name;
mod number;
#[cfg(feature = "statements")]
pub mod proof;
pub mod record;
pub mod scan;
#[cfg(feature = "statements")]
pub mod statement;
mod tape;
pub mod time;
#[cfg(feature = "statements")]
pub mod trust;
#[cfg(feature = "statements")]
pub mod valid;
#[cfg(feature = "statements")]
pub mod verdict;
