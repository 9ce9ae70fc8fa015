//! What the end-to-end tests share: trails made by hand, and the real binaries.

pub mod example;
pub mod forge;
pub mod kit;
pub mod process;
