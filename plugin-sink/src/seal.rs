//! The sealer: records in, signed batches out.
//!
//! Owned by one thread, which never waits for a disk. [`Sealer::push`] takes the next record into the open batch (hash
//! tree, Parquet); [`Sealer::seal`] closes it: header and signatures. [`Epoch::write_intent`] then fixes its bytes, before
//! the store sees any; a stop before that leaves the records in the spool, and they are sealed again.

use crate::Context;
use crate::SOFTWARE;
use crate::chain::{Sealable, Sealables, filters_said};
use crate::epoch::{Epoch, Intent, Progress, SinkError};
use crate::keys::Signing;
use crate::signer;
use crate::spool::Counted;
use std::sync::Arc;
use std::time::Instant;
use waxseal_events as events;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::merkle::TreeHead;
use waxseal_trail::statement::{self, Batch, BatchEvents, BatchObject, Filter, Intake, State};
use waxseal_trail::time::Time;

struct OpenBatch {
    parquet: events::Writer,
    tree: TreeHead,
    bytes: u64,
    first_timestamp: Time,
    last_timestamp: Time,
    since: Instant,
}

/// What the sealer says of a record that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The batch takes more.
    No,
    /// It is full.
    Now,
}

/// Makes batches of an epoch.
pub struct Sealer {
    trail_id: Hash,
    writer: String,
    boot: u64,
    progress: Progress,
    open: Option<OpenBatch>,
    /// Of the last record taken.
    last_hash: Hash,
    next_sequence: u64,
    last_observed: Time,
    intake: Intake,
    filters: Vec<Filter>,
    /// The keys in force, and the number of the statement that put them there.
    signing: Arc<Signing>,
    keys: u64,
    /// When the last header was sealed by this process.
    last_seal: Instant,
}

impl Sealer {
    /// Continues after what is sealed.
    pub fn new(cx: &Context, epoch: &Epoch) -> Sealer {
        let progress = epoch.sealed.clone();
        Sealer {
            trail_id: epoch.trail_id,
            writer: epoch.writer.clone(),
            boot: epoch.boot,
            last_hash: progress.last_hash,
            next_sequence: progress.next_sequence,
            last_observed: progress.sealed_at,
            intake: progress.intake,
            filters: progress.filters.clone(),
            progress,
            open: None,
            signing: cx.config.signing.get(),
            keys: epoch.key_number(),
            last_seal: Instant::now(),
        }
    }

    /// The sequence of the next record to take.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// When the oldest record of the open batch was taken.
    pub fn open_since(&self) -> Option<Instant> {
        self.open.as_ref().map(|o| o.since)
    }

    /// When the last header was sealed, or this process began.
    pub fn last_seal(&self) -> Instant {
        self.last_seal
    }

    /// What records from this one on went through, if that is not what the open batch's records did: it must close before.
    pub fn other_filters(&self, group: &Sealables, record: &Sealable) -> Option<Vec<Filter>> {
        let own = matches!(record.counted, Counted::Own { .. });
        let said = own.then(|| filters_said(&group.text_of(record))).flatten();
        said.filter(|filters| *filters != self.filters)
    }

    /// Records from here on went through these.
    pub fn set_filters(&mut self, filters: Vec<Filter>) {
        self.filters = filters;
    }

    /// Takes the next record, which must be number [`Sealer::next_sequence`].
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn push(&mut self, cx: &Context, group: &Sealables, record: &Sealable) -> Result<Close, SinkError> {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let identity = events::Identity {
                    trail: &self.trail_id,
                    writer: &self.writer,
                    batch: self.progress.next_batch,
                    software: SOFTWARE,
                };
                self.open.insert(OpenBatch {
                    parquet: events::Writer::new(&identity)?,
                    tree: TreeHead::default(),
                    bytes: 0,
                    first_timestamp: record.timestamp,
                    last_timestamp: record.timestamp,
                    since: Instant::now(),
                })
            }
        };
        open.parquet.push(group.text_of(record), record.sequence, &record.columns)?;
        open.tree.push(record.hash);
        open.bytes += record.len as u64;
        open.first_timestamp = open.first_timestamp.min(record.timestamp);
        open.last_timestamp = open.last_timestamp.max(record.timestamp);
        self.last_hash = record.hash;
        self.last_observed = record.observed_at;
        self.next_sequence += 1;
        self.intake.filter_errors += u64::from(record.filter_errors);
        match record.counted {
            Counted::Received => self.intake.received += 1,
            Counted::Unparsed => {
                self.intake.received += 1;
                self.intake.unparsed += 1;
            }
            Counted::Own { redelivered } => self.intake.redelivered += u64::from(redelivered),
        }
        let full = open.tree.size() >= cx.config.max_events || open.bytes >= cx.config.max_batch_bytes;
        Ok(if full { Close::Now } else { Close::No })
    }

    /// Closes the open batch, or an empty one.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn seal(&mut self, cx: &Context, state: State) -> Result<Intent, SinkError> {
        let p = &self.progress;
        let open = self.open.take();
        let (tree, bytes, span) = match &open {
            Some(o) => (o.tree.clone(), o.bytes, Some((o.first_timestamp, o.last_timestamp))),
            None => (TreeHead::default(), 0, None),
        };
        let object = open.map(|o| o.parquet.finish()).transpose()?;
        // Not before what it seals, whatever the clock says now: the next start continues from here.
        let sealed_at = cx.clock.now().max(p.sealed_at).max(self.last_observed);
        let header = Batch {
            format: statement::format_of::<Batch>(),
            trail: self.trail_id,
            writer: self.writer.clone(),
            batch: p.next_batch,
            previous: p.previous,
            keys: self.keys,
            boot: self.boot,
            state,
            next_by: (state == State::Running).then(|| cx.next_by(sealed_at)),
            events: BatchEvents {
                count: tree.size(),
                first_sequence: p.next_sequence,
                previous_hash: p.last_hash,
                last_hash: self.last_hash,
                merkle_root: tree.root(),
                record_bytes: bytes,
                columns: statement::COLUMNS,
                first_timestamp: span.map(|s| s.0),
                last_timestamp: span.map(|s| s.1),
            },
            object: object.as_ref().map(|o| BatchObject { sha256: sha256(o), bytes: o.len() as u64 }),
            filters: self.filters.clone(),
            intake: self.intake,
            clock: cx.clock.quality(),
            sealed_at,
            retain_until: cx.retain_until(sealed_at),
            software: SOFTWARE.to_owned(),
        };
        let mut envelope = statement::unsigned(&header);
        signer::sign(&mut envelope, &self.signing.signers)?;
        let statement = envelope.statement_hash();
        let intent =
            Intent { header, envelope: envelope.to_bytes()?, statement, object: object.map(Into::into) };
        self.progress = Progress::after(&intent.header, statement);
        self.last_seal = Instant::now();
        Ok(intent)
    }
}
