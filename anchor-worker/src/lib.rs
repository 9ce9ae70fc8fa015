//! The anchor worker: the trail's transparency log, written.

#![forbid(unsafe_code)]

pub mod log;
