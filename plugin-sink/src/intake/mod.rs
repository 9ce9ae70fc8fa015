//! How events come in: one module a protocol, all feeding [`crate::pipeline::Submitter`]. Fluent Bit's plugin interface
//! is a crate of its own, `waxseal-fluent-bit`: what is loaded into another process is linked apart.

pub mod http;

use crate::chain::{Chunk, Redelivery, Refusal};
use crate::pipeline::{Pending, Submitter};
use std::collections::VecDeque;
use waxseal_trail::hash::{Digest, Hash};
use waxseal_trail::record::Events;

/// A request is handed over in parts of so many bytes, or so many events: memory is that of some parts, however
/// large the requests are. Parts are cut by the input alone, so that a retry is cut in the same places.
const PART_BYTES: usize = 1 << 20;
const PART_EVENTS: usize = 4096;
/// Parts of one request on their way at once.
const PARTS: usize = 4;

/// What became of a whole request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// How many events are sealed or will be.
    pub accepted: u64,
    /// How many of them are `unparsed`.
    pub unparsed: u64,
    /// All of it was known.
    pub redelivered: bool,
}

/// Hands events over in parts and waits for all of them. `next` converts one event more and says how many bytes of
/// input it was; `None` at the end. If a part is refused the sender sends everything again; with a key, the parts
/// that are durable are then recognised.
///
/// # Errors
/// [`Refusal`], the first one.
pub fn hand_over(
    submitter: &Submitter,
    source: &[u8],
    key: Option<Hash>,
    redelivery: Redelivery,
    mut next: impl FnMut(&mut Events) -> Option<usize>,
) -> Result<Taken, Refusal> {
    if submitter.is_full() {
        submitter.metrics().refused.inc();
        return Err(Refusal::Full);
    }
    let mut pending = VecDeque::new();
    let mut taken = Taken::default();
    let mut known = 0;
    let mut finish = |answer: Pending, taken: &mut Taken| {
        let receipt = answer.wait()?;
        taken.accepted += receipt.accepted;
        taken.unparsed += receipt.unparsed;
        known += if receipt.redelivered { receipt.accepted } else { 0 };
        Ok(())
    };
    for part in 0u64.. {
        let mut events = submitter.buffer();
        let mut bytes = 0;
        let mut more = true;
        // What a conversion adds (escapes, a group's metadata in each event) counts as well.
        let fits =
            |e: &Events, bytes| bytes < PART_BYTES && e.len() < PART_EVENTS && e.bytes() < 4 * PART_BYTES;
        while more && fits(&events, bytes) {
            let used = next(&mut events);
            more = used.is_some();
            bytes += used.unwrap_or(0);
        }
        if !events.is_empty() {
            if pending.len() == PARTS
                && let Some(first) = pending.pop_front()
            {
                finish(first, &mut taken)?;
            }
            let key = key.map(|k| {
                let mut d = Digest::default();
                d.update(&k.0);
                d.update(&part.to_be_bytes());
                d.finish().0
            });
            let chunk = Chunk { events, source: source.to_vec(), key, redelivery, filter_errors: 0 };
            pending.push_back(submitter.submit(chunk, bytes));
        }
        if !more {
            break;
        }
    }
    for answer in pending {
        finish(answer, &mut taken)?;
    }
    taken.redelivered = taken.accepted > 0 && known == taken.accepted;
    Ok(taken)
}
