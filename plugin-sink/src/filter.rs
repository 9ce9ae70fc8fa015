//! The filter hook: what runs between decoding and canonical form being chained.
//!
//! A filter sees a chunk's events in the record's own form and changes them in place. Its identity goes
//! into every header, and a change of it closes the batch.

use waxseal_trail::record::Events;
use waxseal_trail::statement;

/// A filter.
pub trait Filter: Send + Sync {
    /// Name and digests, as headers carry them.
    fn identity(&self) -> statement::Filter;

    /// Runs over a chunk. Returns how many events it failed on; each of them stands in `events` still, as the
    /// filter's policy says.
    fn apply(&self, events: &mut Events) -> u64;
}

/// The filters of a sink, in order.
#[derive(Default)]
pub struct Filters(Vec<Box<dyn Filter>>);

impl Filters {
    /// From a list.
    pub fn new(filters: Vec<Box<dyn Filter>>) -> Filters {
        Filters(filters)
    }

    /// Runs all of them over a chunk; returns how many events any of them failed on.
    pub fn apply(&self, events: &mut Events) -> u64 {
        self.0.iter().map(|f| f.apply(events)).sum()
    }

    /// Their identities, in order.
    pub fn identities(&self) -> Vec<statement::Filter> {
        self.0.iter().map(|f| f.identity()).collect()
    }
}
