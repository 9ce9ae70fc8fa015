//! The contract `AuditTrail` on an Ethereum chain: what is anchored there, how nodes are asked, and receipts that prove themselves
//! without any.

#![forbid(unsafe_code)]

pub mod contract;
pub mod evidence;
pub mod receipt;
pub mod rpc;
