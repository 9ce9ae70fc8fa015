//! How events come in: one module a protocol, all feeding [`crate::pipeline::Submitter`]. Fluent Bit's plugin interface
//! is a crate of its own, `waxseal-fluent-bit`: what is loaded into another process is linked apart.
//!
//! What they share: [`net`] listens, [`room`] bounds what is held in memory, [`body`] reads and unpacks what HTTP
//! carries, [`fields`] reads protobuf, [`doubt`] knows which acknowledgements may not have arrived, and [`begin`] hands events over in parts.

pub mod body;
pub mod doubt;
pub mod fields;
pub mod forward;
pub mod grpc;
pub mod http;
pub mod net;
pub mod otlp;
pub mod room;
pub mod vector;

use crate::answer::{self, Answer, Pending};
use crate::chain::{Chunk, Redelivery, Refusal};
use crate::config::Intakes;
use crate::pipeline::Submitter;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;
use waxseal_filter_host::Passed;
use waxseal_trail::hash::{Digest, Hash};
use waxseal_trail::record::Events;

/// A protocol that listens: the one thing that all of them are to the server.
pub trait Intake: Send + 'static {
    /// Where it listens, as a log line says it.
    fn place(&self) -> String;

    /// Serves until `stop` changes, then lets what is under way finish. Dropped, it ends at once.
    fn run(self: Box<Self>, stop: watch::Receiver<bool>) -> Task;
}

/// Binds all that a configuration names.
///
/// # Errors
/// A text that names the address or file.
pub async fn bind(config: &Intakes, submitter: &Submitter) -> Result<Vec<Box<dyn Intake>>, String> {
    let shared = Shared {
        submitter: submitter.clone(),
        room: room::Room::new(config.max_memory),
        doubts: Arc::new(doubt::Doubts::new({
            let submitter = submitter.clone();
            move || submitter.attempt()
        })),
        max_connections: config.max_connections,
        under_way: UnderWay::default(),
    };
    let mut all: Vec<Box<dyn Intake>> = Vec::new();
    if let Some(c) = &config.http {
        all.push(Box::new(http::Server::bind(c, shared.clone()).await?));
    }
    if let Some(c) = &config.vector {
        all.push(Box::new(vector::Vector::bind(c, shared.clone()).await?));
    }
    if let Some(c) = &config.forward {
        all.push(Box::new(forward::Forward::bind(c, shared.clone()).await?));
    }
    if let Some(c) = &config.otlp_grpc {
        all.push(Box::new(otlp::Grpc::bind(c, shared.clone()).await?));
    }
    if let Some(c) = &config.otlp_http {
        all.push(Box::new(otlp::Http::bind(c, shared.clone()).await?));
    }
    Ok(all)
}

/// What serves.
pub type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the intakes of a server share.
#[derive(Clone)]
pub struct Shared {
    /// Where events go.
    pub submitter: Submitter,
    /// What may be held in memory.
    pub room: room::Room,
    /// Which acknowledgements may not have arrived.
    pub doubts: Arc<doubt::Doubts>,
    /// Connections of one listener at once.
    pub max_connections: usize,
    /// What waits to become durable, by whatever protocol it came: while there is any, its room will come back.
    pub under_way: UnderWay,
}

/// How many requests there are that have not been answered.
#[derive(Clone, Default)]
pub struct UnderWay(Arc<AtomicUsize>);

/// One of them.
pub struct Waiting(Arc<AtomicUsize>);

impl UnderWay {
    /// One more.
    pub fn one(&self) -> Waiting {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waiting(self.0.clone())
    }

    /// Whether there is any.
    pub fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request is handed over in parts of so many bytes, or so many events: memory is that of some parts, however
/// large the requests are. A retry is cut in the same places; where it is not (its sender has another address now, of
/// which the events speak), its parts are others, because a part is known by the events that it has.
const PART_BYTES: usize = 1 << 20;
const PART_EVENTS: usize = 4096;
/// Events of one request: however small an event is, its record takes some 450 bytes.
const MAX_EVENTS: usize = 1_000_000;
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

/// A request whose last parts are on their way.
#[derive(Default)]
pub struct Handed {
    pending: VecDeque<Pending>,
    taken: Taken,
    known: u64,
}

impl Handed {
    fn count(&mut self, answer: Answer) -> Result<(), Refusal> {
        let receipt = answer?;
        self.taken.accepted += receipt.accepted;
        self.taken.unparsed += receipt.unparsed;
        self.known += if receipt.redelivered { receipt.accepted } else { 0 };
        Ok(())
    }

    fn result(mut self) -> Taken {
        self.taken.redelivered = self.taken.accepted > 0 && self.known == self.taken.accepted;
        self.taken
    }

    /// Waits for the rest on this thread.
    ///
    /// # Errors
    /// [`Refusal`], the first one.
    pub fn wait(mut self) -> Result<Taken, Refusal> {
        while let Some(part) = self.pending.pop_front() {
            self.count(part.wait())?;
        }
        Ok(self.result())
    }

    /// Waits for the rest in a task.
    ///
    /// # Errors
    /// [`Refusal`], the first one.
    pub async fn finish(mut self) -> Result<Taken, Refusal> {
        while let Some(part) = self.pending.pop_front() {
            let answer = tokio::time::timeout(answer::PATIENCE, part).await;
            self.count(answer.unwrap_or(Err(Refusal::Failing)))?;
        }
        Ok(self.result())
    }
}

/// Hands events over in parts; waits only while [`PARTS`] of them are on their way. `next` converts one event more and
/// says how many bytes of input it was; `None` at the end. If a part is refused the sender sends everything again; with
/// a key, the parts that are durable are then recognised.
///
/// # Errors
/// [`Refusal`], the first one.
pub fn begin(
    submitter: &Submitter,
    source: &[u8],
    key: Option<Hash>,
    redelivery: Redelivery,
    mut next: impl FnMut(&mut Events) -> Option<usize>,
) -> Result<Handed, Refusal> {
    if submitter.is_full() {
        submitter.metrics().refused.inc();
        return Err(Refusal::Full);
    }
    let mut handed = Handed::default();
    let mut first = 0u64;
    loop {
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
            if handed.pending.len() == PARTS
                && let Some(first) = handed.pending.pop_front()
            {
                handed.count(first.wait())?;
            }
            let end = first + events.len() as u64;
            let key = key.map(|k| {
                let mut d = Digest::default();
                d.update(&k.0);
                d.update(&first.to_be_bytes());
                d.update(&end.to_be_bytes());
                d.finish().0
            });
            first = end;
            let chunk = Chunk { events, source: source.to_vec(), key, redelivery, passed: Passed::default() };
            handed.pending.push_back(submitter.submit(chunk, bytes));
        }
        if !more {
            break;
        }
    }
    Ok(handed)
}

/// [`begin`], and waits for all of it.
///
/// # Errors
/// [`Refusal`], the first one.
pub fn hand_over(
    submitter: &Submitter,
    source: &[u8],
    key: Option<Hash>,
    redelivery: Redelivery,
    next: impl FnMut(&mut Events) -> Option<usize>,
) -> Result<Taken, Refusal> {
    begin(submitter, source, key, redelivery, next)?.wait()
}
