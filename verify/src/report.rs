//! What a verifier says.

use serde::Serialize;
use waxseal_store::Requests;
use waxseal_trail::hash::Hash;
use waxseal_trail::statement::Lock;
use waxseal_trail::time::Time;
use waxseal_trail::verdict::{Finding, Verdict, exit_status, strongest};

/// The trail that was checked.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TrailInfo {
    /// Where.
    pub place: String,
    /// Its id.
    pub id: Option<Hash>,
    /// Its name.
    pub name: Option<String>,
}

/// What its trail statement promises.
#[derive(Clone, Debug, Serialize)]
pub struct LockInfo {
    /// The kind of lock.
    pub mode: Lock,
    /// Days.
    pub min_retention: u64,
}

/// Somebody's word on a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnchorInfo {
    /// `witness`, `timestamp` or `ethereum`.
    pub kind: &'static str,
    /// By the name that the trust file gives it; a time-stamping authority by the worker's name for it; a chain by its id.
    pub name: String,
    /// The checkpoint's number.
    pub checkpoint: u64,
    /// When, by its own clock.
    pub at: Time,
}

/// The log that was read.
#[derive(Clone, Debug, Serialize)]
pub struct LogInfo {
    /// Its key (C2SP vkey).
    pub key: String,
    /// The newest checkpoint's number; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
    /// How many entries it is over.
    pub entries: u64,
    /// Whether nobody but its owner has seen it, as far as the trust file's policy knows.
    pub self_witnessed: bool,
    /// Who has signed the newest checkpoints, of those whose word counts.
    pub anchors: Vec<AnchorInfo>,
    /// Whether it extends all memories that it was compared with.
    #[serde(skip)]
    pub extends: bool,
    /// The newest checkpoint, for whoever keeps it as a memory.
    #[serde(skip)]
    pub note: Option<String>,
}

/// How much was read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Writers that were checked.
    pub writers: u64,
    /// Headers.
    pub batches: u64,
    /// Records of which every byte was checked; 0 for a quick check.
    pub records: u64,
    /// Records that the headers count.
    pub sealed_records: u64,
    /// Objects read.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Wall time.
    pub milliseconds: u64,
    /// Requests to the store; absent where it is a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// Whether records were looked at, or only their objects' digests.
    pub quick: bool,
}

/// The result of a check (`waxseal verify --format json`; docs/schema/verify.schema.json).
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The strongest finding's, or `OK`.
    pub verdict: Verdict,
    /// Which trail.
    pub trail: TrailInfo,
    /// Its lock; absent if the trail statement could not be read.
    pub lock: Option<LockInfo>,
    /// The log, if one was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogInfo>,
    /// Up to when anything outside the store says that this is all.
    pub freshness: String,
    /// A sentence if the keys were taken from the trail itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untrusted_keys: Option<&'static str>,
    /// In the order of their strength, then of the objects.
    pub findings: Vec<Finding>,
    /// How much was read.
    pub stats: Stats,
}

/// What a result under the trail's own keys says.
pub const UNTRUSTED_KEYS: &str = "UNTRUSTED KEYS: consistent, but by whose word?";

impl Report {
    /// Sorts the findings and derives the verdict.
    pub(crate) fn finish(&mut self) {
        self.findings.sort_by(|a, b| {
            (a.verdict, &a.writer, a.sequences, &a.object).cmp(&(
                b.verdict,
                &b.writer,
                b.sequences,
                &b.object,
            ))
        });
        self.findings.dedup();
        self.verdict = strongest(&self.findings);
    }

    /// The exit status of `waxseal verify`.
    pub fn exit_status(&self, strict: bool, trust_embedded: bool) -> u8 {
        match exit_status(&self.findings, strict) {
            0 if self.untrusted_keys.is_some() && !trust_embedded => 1,
            s => s,
        }
    }
}
