//! How events come in: one module a protocol, all feeding [`crate::pipeline::Submitter`].

pub mod http;
