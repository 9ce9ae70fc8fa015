//! The guest side of the filter interface, once, for every filter: pointers, memory, and the two forms in which a host
//! hands over events. A filter is an ordinary safe [`Filter`] over [`Event`]s; [`export!`] makes a module of it.
//!
//! One module file runs in two hosts:
//!
//! * Fluent Bit's `filter_wasm` calls `waxseal_filter` for each record, in its JSON event format, and takes one
//!   NUL-terminated JSON object back. It gives neither arguments nor environment: the configuration is
//!   `<name>.yaml` in the first of `accessible_paths` that has it, and is read as the module is instantiated, so that what is
//!   wrong with it keeps Fluent Bit from starting.
//! * The sink calls `waxseal_configure` once and `waxseal_batch` for each chunk: [`wire`] has the bytes. Events come and go in the
//!   record's own form, member by member.
//!
//! In both, an event that a filter does not change goes back as it came.

pub mod config;
pub mod event;
pub mod guest;
#[cfg(not(target_family = "wasm"))]
pub mod native;
pub mod view;
pub mod wire;

pub use event::{Event, Side};
pub use view::Value;

use event::Orders;
use std::path::{Path, PathBuf};
use waxseal_trail::record::{MAX_RECORD, MEMBERS};
use waxseal_trail::time::Time;

/// A filter: what a module is made of.
pub trait Filter: Sized {
    /// Its name; the configuration that Fluent Bit's host finds is `<name>.yaml`.
    const NAME: &'static str;

    /// Whether an event that it fails on must not go on as it is.
    const FAILS_CLOSED: bool;

    /// Reads the configuration and all data that it names.
    ///
    /// # Errors
    /// A text for whoever wrote it: file, line, key, and what to do.
    fn load(config: &Path) -> Result<Self, String>;

    /// The data files that were read: a name for each, as headers carry it, and its path.
    fn data(&self) -> Vec<(String, PathBuf)>;

    /// Changes one event. Must not panic: a panic is a trap, and Fluent Bit drops a record at a trap.
    fn run(&mut self, event: &mut Event<'_>);

    /// Answers for one event of the sink's, as [`wire`] has it. A filter that goes over the texts themselves has its own.
    fn record(&mut self, record: &Record<'_>, orders: &mut Orders, out: &mut Vec<u8>) {
        let mut event = Event::of_record(record.tag, record.now, record.members, record.own_time);
        if record.explain {
            event.ask();
        }
        self.run(&mut event);
        event.write_changes(&[], orders, out);
    }

    /// Answers for one record of a shipper's: with one JSON object, always.
    fn shipped(&mut self, shipped: &Shipped<'_>, orders: &mut Orders, out: &mut Vec<u8>) {
        let event = (shipped.record.len() <= MAX_RECORD)
            .then(|| Event::of_shipper(shipped.tag, shipped.time, shipped.now, shipped.record))
            .flatten();
        // The sink seals what is larger, or no event, as text.
        let Some(mut event) = event else {
            out.extend_from_slice(shipped.record);
            return;
        };
        self.run(&mut event);
        event.write_record(shipped.record, orders, out);
    }
}

/// An event as the sink hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The shipper's tag.
    pub tag: &'a str,
    /// The host's clock.
    pub now: Time,
    /// For each member its canonical JSON, or nothing.
    pub members: &'a [&'a [u8]; MEMBERS],
    /// Its time is the source's own.
    pub own_time: bool,
    /// The filter shall explain itself.
    pub explain: bool,
}

/// A record as a shipper hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Shipped<'a> {
    /// Its tag.
    pub tag: &'a str,
    /// The time that the shipper gave it.
    pub time: Option<Time>,
    /// The shipper's clock.
    pub now: Time,
    /// One JSON object, as the shipper writes it.
    pub record: &'a [u8],
}

/// What a module says of itself when it has been configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct About {
    /// The filter's name.
    pub name: String,
    /// The release.
    pub version: String,
    /// An event that it fails on must not go on as it is.
    pub fails_closed: bool,
    /// Its data files: name and path.
    pub data: Vec<(String, PathBuf)>,
}

/// What `waxseal_configure` answers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Configured {
    /// It will run.
    Ready(About),
    /// Why not.
    Refused(String),
}
