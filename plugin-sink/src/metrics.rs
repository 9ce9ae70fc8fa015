//! Numbers about a running sink, in the form Prometheus reads.

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use waxseal_store::Requests;

/// Which protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Protocol {
    intake: &'static str,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Acknowledged.
    Accepted,
    /// To be sent again.
    Refused,
    /// Not of the protocol, or never to be taken.
    Malformed,
    /// Without the right to send.
    Unauthenticated,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = match self {
            Outcome::Accepted => "accepted",
            Outcome::Refused => "refused",
            Outcome::Malformed => "malformed",
            Outcome::Unauthenticated => "unauthenticated",
        };
        name.encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    intake: &'static str,
    outcome: Outcome,
}

/// A feature that the store lacks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Fallback {
    /// Its name.
    pub feature: &'static str,
}

/// A kind of request to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreRequest {
    /// Its name.
    pub operation: &'static str,
}

/// The numbers of one protocol.
#[derive(Debug)]
pub struct Intake {
    name: &'static str,
    requests: Family<Request, Counter>,
    /// Events that its requests brought, before anything is recognised or refused.
    pub events: Counter,
    /// Bytes of them, unpacked.
    pub bytes: Counter,
    /// Open connections.
    pub connections: Gauge,
    latency: Histogram,
}

impl Intake {
    /// Counts a request.
    pub fn count(&self, outcome: Outcome) {
        self.requests.get_or_create(&Request { intake: self.name, outcome }).inc();
    }

    /// Counts a request that is acknowledged now and began then.
    pub fn answered(&self, began: Instant) {
        self.count(Outcome::Accepted);
        self.latency.observe(began.elapsed().as_secs_f64());
    }
}

/// The numbers of all protocols.
#[derive(Clone, Debug)]
struct Intakes {
    requests: Family<Request, Counter>,
    events: Family<Protocol, Counter>,
    bytes: Family<Protocol, Counter>,
    connections: Family<Protocol, Gauge>,
    latency: Family<Protocol, Histogram, fn() -> Histogram>,
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Events taken in.
    pub received: Counter,
    /// Events sealed.
    pub sealed: Counter,
    /// Events recognised as sent again.
    pub redelivered: Counter,
    /// Events sealed as `unparsed`.
    pub unparsed: Counter,
    /// Bytes of input.
    pub bytes: Counter,
    /// Chunks refused, to be sent again.
    pub refused: Counter,
    /// Bytes of the spool on disk.
    pub spool_bytes: Gauge,
    /// Records in the spool that are not in the store.
    pub spool_events: Gauge,
    /// When the oldest record that is not in the store was spooled; 0 if there is none.
    pub oldest_unstored: Gauge<f64, AtomicU64>,
    /// From the first record of a batch to its header in the store.
    pub seal_latency: Histogram,
    /// Batches stored.
    pub batches: Counter,
    /// When the last batch was stored.
    pub last_batch: Gauge<f64, AtomicU64>,
    /// Failed attempts to store.
    pub store_errors: Counter,
    /// Objects that lay under keys of ours and were not valid there.
    pub foreign: Counter,
    /// What the store is known not to do.
    pub fallbacks: Family<Fallback, Gauge>,
    /// Requests to the store.
    pub requests: Family<StoreRequest, Counter>,
    /// When the oldest signing key was written.
    pub key_time: Gauge<f64, AtomicU64>,
    intakes: Intakes,
}

impl Metrics {
    /// Fresh ones.
    pub fn new() -> Metrics {
        Metrics {
            received: Counter::default(),
            sealed: Counter::default(),
            redelivered: Counter::default(),
            unparsed: Counter::default(),
            bytes: Counter::default(),
            refused: Counter::default(),
            spool_bytes: Gauge::default(),
            spool_events: Gauge::default(),
            oldest_unstored: Gauge::default(),
            seal_latency: Histogram::new(exponential_buckets(0.1, 2.0, 14)),
            batches: Counter::default(),
            last_batch: Gauge::default(),
            store_errors: Counter::default(),
            foreign: Counter::default(),
            fallbacks: Family::default(),
            requests: Family::default(),
            key_time: Gauge::default(),
            intakes: Intakes {
                requests: Family::default(),
                events: Family::default(),
                bytes: Family::default(),
                connections: Family::default(),
                latency: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 17))),
            },
        }
    }

    /// Those of one protocol.
    pub fn intake(&self, name: &'static str) -> Arc<Intake> {
        let (all, protocol) = (&self.intakes, Protocol { intake: name });
        Arc::new(Intake {
            name,
            requests: all.requests.clone(),
            events: all.events.get_or_create(&protocol).clone(),
            bytes: all.bytes.get_or_create(&protocol).clone(),
            connections: all.connections.get_or_create(&protocol).clone(),
            latency: all.latency.get_or_create(&protocol).clone(),
        })
    }

    /// Takes over how often the store was asked.
    pub fn note_requests(&self, r: Requests) {
        let all = [
            ("get", r.get),
            ("head", r.head),
            ("list", r.list),
            ("put", r.put),
            ("other", r.other),
            ("retry", r.retries),
        ];
        for (operation, n) in all {
            let counter = self.requests.get_or_create(&StoreRequest { operation });
            counter.inner().fetch_max(n, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The exposition text (OpenMetrics).
    pub fn render(&self) -> String {
        let mut r = Registry::with_prefix("waxseal");
        r.register("events_received", "Events taken in, unparsed ones included", self.received.clone());
        r.register("events_sealed", "Events in sealed batches", self.sealed.clone());
        r.register(
            "events_redelivered",
            "Events recognised as sent again and not sealed again",
            self.redelivered.clone(),
        );
        r.register("events_unparsed", "Events sealed as unparsed", self.unparsed.clone());
        r.register_with_unit("input", "Input taken in", Unit::Bytes, self.bytes.clone());
        r.register(
            "chunks_refused",
            "Chunks refused with a request to send them again",
            self.refused.clone(),
        );
        r.register_with_unit("spool", "Size of the spool on disk", Unit::Bytes, self.spool_bytes.clone());
        r.register(
            "spool_events",
            "Records in the spool that are not in the store",
            self.spool_events.clone(),
        );
        r.register(
            "oldest_unstored_timestamp_seconds",
            "When the oldest record that is not in the store was spooled; 0 if there is none",
            self.oldest_unstored.clone(),
        );
        r.register_with_unit(
            "seal_latency",
            "From the first record of a batch to its header in the store",
            Unit::Seconds,
            self.seal_latency.clone(),
        );
        r.register("batches_stored", "Batches in the store", self.batches.clone());
        r.register("last_batch_timestamp_seconds", "When the last batch was stored", self.last_batch.clone());
        r.register("store_errors", "Failed attempts to store", self.store_errors.clone());
        r.register(
            "foreign_objects",
            "Objects that lay under keys of this writer and were not valid there",
            self.foreign.clone(),
        );
        r.register(
            "store_fallback",
            "1 for each feature that the configuration says the store lacks",
            self.fallbacks.clone(),
        );
        r.register("store_requests", "Requests to the store, by operation", self.requests.clone());
        r.register("key_timestamp_seconds", "When the oldest signing key was written", self.key_time.clone());
        let i = &self.intakes;
        r.register("intake_requests", "Requests by protocol and what became of them", i.requests.clone());
        r.register("intake_events", "Events that requests brought, repeats included", i.events.clone());
        r.register_with_unit("intake", "Input by protocol, unpacked", Unit::Bytes, i.bytes.clone());
        r.register("intake_connections", "Open connections", i.connections.clone());
        r.register_with_unit(
            "intake_acknowledgement",
            "From a request's arrival to its acknowledgement",
            Unit::Seconds,
            i.latency.clone(),
        );
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut out, &r);
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}
