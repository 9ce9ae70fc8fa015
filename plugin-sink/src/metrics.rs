//! Numbers about a running sink, in the form Prometheus reads.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

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
    /// When the oldest signing key was written.
    pub key_time: Gauge<f64, AtomicU64>,
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
            key_time: Gauge::default(),
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
        r.register("key_timestamp_seconds", "When the oldest signing key was written", self.key_time.clone());
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
