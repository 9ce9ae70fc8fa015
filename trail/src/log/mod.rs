//! The trail's transparency log (FORMAT section 6): C2SP signed notes, checkpoints and cosignatures, tiles, proofs and
//! policies. What reads and writes them is elsewhere; here are the bytes.

pub mod checkpoint;
pub mod note;
pub mod policy;
pub mod proof;
pub mod tile;
pub mod witness;
