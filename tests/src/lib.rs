//! What the end-to-end tests share: trails made by hand, the real binaries, and what fuzzing asserts.

pub mod certificates;
pub mod chain;
pub mod client;
pub mod example;
pub mod fleet;
pub mod forge;
pub mod fuzz;
pub mod kit;
pub mod process;
pub mod s3;
pub mod tsa;
