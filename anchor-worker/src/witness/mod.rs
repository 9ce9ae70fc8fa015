//! Witnesses (c2sp.org/tlog-witness): who remembers what the log said, and signs only what extends it.

pub mod client;
pub mod server;
