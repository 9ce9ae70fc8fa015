//! A filter as its module has it, without a module: the guest's own code, in this process. For tests and benchmarks, and for
//! whoever tries a configuration.

use crate::guest::Module;
use crate::wire::{self, Reader};
use crate::{Configured, Filter};
use std::path::Path;
use waxseal_trail::record::{Events, Rewriter};
use waxseal_trail::time::Time;

/// See the module.
pub struct Native<F> {
    module: Module<F>,
    rewriter: Rewriter,
    input: Vec<u8>,
}

impl<F: Filter> Native<F> {
    /// Reads a configuration.
    ///
    /// # Errors
    /// What the filter says.
    pub fn load(config: &Path) -> Result<Native<F>, String> {
        let mut module = Module::new();
        let path = config.to_string_lossy();
        module.buffer(path.len()).copy_from_slice(path.as_bytes());
        match serde_json::from_slice(module.configure()).map_err(|e| e.to_string())? {
            Configured::Ready(_) => Ok(Native { module, rewriter: Rewriter::default(), input: Vec::new() }),
            Configured::Refused(why) => Err(why),
        }
    }

    /// What the module answers to bytes, as they are.
    pub fn raw(&mut self, chunk: &[u8]) -> Option<&[u8]> {
        self.module.buffer(chunk.len()).copy_from_slice(chunk);
        self.module.batch()
    }

    /// As in the sink: over a chunk of converted events, held to the page. `told` hears what the filter says of an event, if
    /// it is asked (`flags`: [`wire::EXPLAIN`]).
    ///
    /// # Errors
    /// What is wrong with the filter's answer, without a byte of an event.
    pub fn run(
        &mut self,
        from: &Events,
        source: &[u8],
        now: Time,
        flags: u32,
        mut told: impl FnMut(usize, &str),
        to: &mut Events,
    ) -> Result<(), String> {
        to.clear();
        let Native { module, rewriter, input } = self;
        let mut w = wire::Writer::new(input, from.len(), flags, unix(now), source, from.text());
        (0..from.len()).for_each(|i| w.event(from, i));
        module.buffer(input.len()).copy_from_slice(input);
        let mut answer = Reader::new(module.batch().ok_or("the chunk could not be read")?);
        let mut changes = Vec::new();
        for i in 0..from.len() {
            answer.changes(&mut changes, |text| told(i, &String::from_utf8_lossy(text)))?;
            if changes.is_empty() || from.own(i).is_some() {
                to.push_same(from, i);
            } else {
                rewriter.push(from, i, &changes, to).map_err(|e| format!("event {i} of the chunk: {e}"))?;
            }
        }
        if answer.is_at_end() { Ok(()) } else { Err("its answer is too long".into()) }
    }

    /// As in a shipper: what its filter gives back for a record, with the NUL at its end.
    pub fn record(&mut self, record: &[u8], tag: &str, now: Time) -> &[u8] {
        let (sec, nsec) = unix(now);
        self.module.record(tag.as_bytes(), u32::try_from(sec).unwrap_or(0), nsec, record)
    }
}

fn unix(t: Time) -> (i64, u32) {
    let micros = t.unix_micros();
    (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000) as u32 * 1000)
}
