//! The anchor worker: puts every statement of a trail into its transparency log, and anchors the log.
//!
//! It never reads events. One [`round`] goes from what is new in the store to a checkpoint; [`worker::Worker`] keeps what the next
//! one needs.

#![forbid(unsafe_code)]

pub mod anchors;
pub mod chain;
pub mod config;
pub mod gate;
pub mod http;
pub mod known;
pub mod locks;
pub mod log;
pub mod metrics;
pub mod round;
mod scan;
pub mod serve;
pub mod stamps;
pub mod state;
pub mod witness;
pub mod worker;
