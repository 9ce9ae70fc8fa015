//! The anchor worker: it puts every statement of a trail into one transparency log (FORMAT section 6).
//!
//! [`log`] is the log in its store: what is added to it, tile by tile, and the checkpoint that commits a round.

#![forbid(unsafe_code)]

pub mod log;
