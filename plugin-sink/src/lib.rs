//! The sink: events in, an acknowledgement once they are durable, signed batches in a write-once store.
//!
//! One direction, and one owner for each state:
//!
//! ```text
//! intake (any thread)   decode, filter                     -> Chunk
//! spool thread          Chain: number, hash, write, sync   -> acknowledgement, records
//! seal thread           Sealer: tree, Parquet, signature   -> a batch
//! store thread          intent on disk, then upload: events first, header next -> journal, spool given back
//! ```
//!
//! A stop at any instruction leaves a state that [`epoch::Epoch::open`] and [`chain::Chain::open`]
//! continue from; there is no second path for recovery.

pub mod answer;
pub mod chain;
pub mod clock;
pub mod config;
pub mod epoch;
pub mod filter;
pub mod intake;
pub mod keys;
pub mod known;
pub mod memory;
pub mod metrics;
pub mod pipeline;
pub mod seal;
pub mod spool;
pub mod telemetry;
pub mod upload;

pub use waxseal_signing as signer;

use clock::Clock;
use config::Config;
use epoch::SinkError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use waxseal_store::disk::Disk;
use waxseal_store::{At, Kind, Store};
use waxseal_trail::envelope::MAX_ENVELOPE;
use waxseal_trail::hash::Hash;
use waxseal_trail::statement::Trail;
use waxseal_trail::time::Time;

/// A panic in one thread ends the pipeline; the others must still be able to stop.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Name and version, as statements and objects carry them.
pub const SOFTWARE: &str = concat!("waxseal/", env!("CARGO_PKG_VERSION"));

/// What all parts of a sink share.
#[derive(Clone)]
pub struct Context {
    /// The configuration.
    pub config: Arc<Config>,
    /// The disk with the state directory.
    pub disk: Arc<dyn Disk>,
    /// The trail.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What tells this machine from one with a copy of its disk.
    pub machine: String,
}

impl Context {
    /// For this machine.
    ///
    /// # Errors
    /// A text that says what is missing, if the store cannot be opened.
    pub fn system(config: Config) -> Result<Context, String> {
        let store = config.store.open().map_err(|e| format!("store: {e}; waxseal init makes a trail"))?;
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
        Ok(Context {
            config: Arc::new(config),
            disk: Arc::new(waxseal_store::disk::RealDisk),
            store,
            clock: Arc::new(clock::SystemClock),
            machine,
        })
    }

    /// When at the latest the header after one sealed at `at` will exist: two heartbeats on.
    fn next_by(&self, at: Time) -> Time {
        let seconds = i64::try_from(self.config.heartbeat.as_secs().saturating_mul(2)).unwrap_or(i64::MAX);
        at.saturating_add_seconds(seconds)
    }

    /// Until when what is sealed at `at` is locked; whole seconds.
    fn retain_until(&self, at: Time) -> Time {
        let days = i64::try_from(self.config.retention_days).unwrap_or(i64::MAX);
        at.saturating_add_seconds(days.saturating_mul(86_400)).ceil_second()
    }

    fn random(&self, out: &mut [u8]) -> Result<(), SinkError> {
        getrandom::fill(out).map_err(|e| SinkError::Random(e.to_string()))
    }

    /// The trail statement in the store: the first that is one. Anyone may have written beside it.
    fn read_trail_statement(&self) -> Result<(Trail, Hash, Vec<u8>), SinkError> {
        let trail_error = |why: String| SinkError::Trail { place: self.store.place(), why };
        let mut why = "not there. Make the trail with: waxseal init --store URL --name NAME …".to_owned();
        for bytes in self.every_version(waxseal_trail::name::TRAIL, MAX_ENVELOPE as u64)? {
            match epoch::read_trail(&bytes) {
                Ok((trail, id)) => return Ok((trail, id, bytes)),
                Err(e) => why = e,
            }
        }
        Err(trail_error(why))
    }

    /// What lies under a key, oldest first, but for what is larger than `limit`.
    fn every_version(&self, key: &str, limit: u64) -> Result<Vec<Vec<u8>>, SinkError> {
        let mut versions = vec![At::key(key)];
        if self.store.has_versions() {
            match self.store.versions(key) {
                Ok(found) => {
                    let objects = found.into_iter().filter(|v| !v.delete_marker);
                    versions = objects.map(|v| At { key: v.key, version: v.id, bytes: v.bytes }).collect();
                }
                // Then the current one has to do.
                Err(e) if e.kind == Kind::Permission => {}
                Err(e) => return Err(e.into()),
            }
        }
        versions.retain(|at| at.bytes.is_none_or(|b| b <= limit));
        let mut out = Vec::new();
        for read in self.store.read_all(&versions, limit) {
            out.extend(read?.and_then(|o| o.body));
        }
        Ok(out)
    }

    /// Holds the configuration to the trail.
    fn check_trail_name(&self, trail: &Trail, id: &Hash) -> Result<(), SinkError> {
        let wanted = &self.config.trail;
        if wanted != &trail.name && wanted != &id.to_string() {
            return Err(SinkError::Mismatch(format!(
                "the configuration says trail {wanted:?}; the trail there is {:?} with id {id}",
                trail.name
            )));
        }
        if self.config.retention_days < trail.min_retention {
            return Err(SinkError::Mismatch(format!(
                "retention is {} days, and the trail promises {}: every verifier would say SHORT_RETENTION",
                self.config.retention_days, trail.min_retention
            )));
        }
        Ok(())
    }
}
