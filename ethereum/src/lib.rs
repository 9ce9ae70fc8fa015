//! The contract `AuditTrail` on an Ethereum chain.

#![forbid(unsafe_code)]

pub mod contract;
