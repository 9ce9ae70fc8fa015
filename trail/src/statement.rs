//! The payloads of signed statements (FORMAT sections 3 and 4).

use crate::envelope::{Envelope, payload_type};
use crate::hash::Hash;
use crate::json;
use crate::keys::PublicKey;
use crate::log::note::{Kind, VerifierKey};
use crate::time::Time;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the columns of an events object that this crate knows.
pub const COLUMNS: u64 = 1;

/// How strongly a trail's objects are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lock {
    /// Nobody, not even the account's root, may shorten a lock.
    Compliance,
    /// Whoever has the special permission may.
    Governance,
    /// The store has no locks.
    None,
}

impl Lock {
    /// Whether it promises no less than `other`.
    pub fn is_as_strong_as(self, other: Lock) -> bool {
        let strength = |lock| match lock {
            Lock::Compliance => 2,
            Lock::Governance => 1,
            Lock::None => 0,
        };
        strength(self) >= strength(other)
    }
}

impl core::fmt::Display for Lock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Lock::Compliance => "compliance",
            Lock::Governance => "governance",
            Lock::None => "none",
        })
    }
}

/// A statement's payload type.
pub trait Payload: Serialize + DeserializeOwned {
    /// The `<type>` in `application/vnd.waxseal.<type>+json` and `waxseal/<type>/1`.
    const KIND: &'static str;
}

macro_rules! payload {
    ($name:ident, $kind:literal) => {
        impl Payload for $name {
            const KIND: &'static str = $kind;
        }
    };
}

/// `trail.json`: what the trail promises, and who may speak for it. Its statement hash is the trail id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// `waxseal/trail/1`
    pub format: String,
    /// The trail's name.
    pub name: String,
    /// C2SP origin prefix of the log.
    pub origin: String,
    /// The kind of lock every object gets.
    pub lock: Lock,
    /// Days that every object is kept at least.
    pub min_retention: u64,
    /// Seconds after which a header that the log does not hold is `OVERDUE`.
    pub max_merge_delay: u64,
    /// 16 fresh bytes, base64url.
    pub nonce: String,
    /// When `waxseal init` made it.
    pub created_at: Time,
    /// DER SubjectPublicKeyInfo in padded standard base64; all of them sign.
    pub operators: Vec<String>,
    /// The keys of anchor workers, likewise.
    pub workers: Vec<String>,
}
payload!(Trail, "trail");

impl Trail {
    /// The origin of the trail's log: `<origin>/<first 16 hex of the trail id>`.
    pub fn log_origin(&self, id: &Hash) -> String {
        format!("{}/{}", self.origin, &id.to_string()[..16])
    }

    /// The keys that the trail's workers can sign its log with.
    pub fn log_keys(&self, id: &Hash) -> Vec<VerifierKey> {
        let origin = self.log_origin(id);
        let keys = self.workers.iter().filter_map(|w| PublicKey::from_base64(w).ok());
        keys.filter_map(|k| VerifierKey::of(&origin, Kind::Note, &k).ok()).collect()
    }
}

/// A key of a writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterKey {
    /// DER SubjectPublicKeyInfo in padded standard base64.
    pub spki: String,
    /// Digests of its certificates under `certs/`, leaf first; perhaps none.
    pub certificates: Vec<Hash>,
}

/// Why an epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing was there before.
    First,
    /// The state directory was gone.
    StateLost,
    /// The signing key changed while nobody could sign with the old one.
    KeyLost,
    /// Another sink runs, or ran, under the identity.
    Fork,
    /// Asked for.
    Rollover,
}

/// The epoch before this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    /// `<name>.<epoch>`
    pub writer: String,
    /// The number of its last header, if it has one.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub batch: Option<u64>,
    /// The statement hash of its last header; of its genesis if it has none.
    pub statement: Hash,
}

/// `writers/<writer>/genesis.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// `waxseal/writer/1`
    pub format: String,
    /// The trail id.
    pub trail: Hash,
    /// `<name>.<epoch>`
    pub writer: String,
    /// When.
    pub created_at: Time,
    /// When at the latest header 0 will exist.
    pub next_by: Time,
    /// Why the epoch began.
    pub reason: Reason,
    /// The epoch before, unless this is the first.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<Predecessor>,
    /// The first keys; all of them sign.
    pub keys: Vec<WriterKey>,
    /// Name and version of the sink.
    pub software: String,
}
payload!(Writer, "writer");

/// The header a key statement stands after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// Its number.
    pub batch: u64,
    /// Its statement hash.
    pub statement: Hash,
}

/// `writers/<writer>/keys/<number>.json`: from here on these keys are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// `waxseal/keys/1`
    pub format: String,
    /// The trail id.
    pub trail: Hash,
    /// `<name>.<epoch>`
    pub writer: String,
    /// From 1; genesis is 0.
    pub number: u64,
    /// Statement hash of the key statement before, or of the genesis.
    pub previous: Hash,
    /// The last header under the old keys; absent before batch 0.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
    /// The new keys. All old and then all new ones sign.
    pub keys: Vec<WriterKey>,
}
payload!(Keys, "keys");

/// What a writer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There will be another header before `next_by`.
    Running,
    /// A clean stop: silence is no fault.
    Stopped,
    /// The last header of this writer.
    Retired,
}

/// The records of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchEvents {
    /// How many records.
    pub count: u64,
    /// The sequence of the first; of the next one if there is none.
    pub first_sequence: u64,
    /// `H` of the record before the first (the genesis payload before record 0).
    pub previous_hash: Hash,
    /// `H` of the last record; `previous_hash` if there is none.
    pub last_hash: Hash,
    /// RFC 6962 tree head over the records' hashes.
    pub merkle_root: Hash,
    /// Bytes of all records together.
    pub record_bytes: u64,
    /// Version of the events object's columns.
    pub columns: u64,
    /// Least `timestamp`; absent when empty.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub first_timestamp: Option<Time>,
    /// Greatest `timestamp`; absent when empty.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub last_timestamp: Option<Time>,
}

/// The stored events object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchObject {
    /// SHA-256 of its bytes.
    pub sha256: Hash,
    /// How many bytes.
    pub bytes: u64,
}

/// A data file of a filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterData {
    /// Its name in the filter's configuration.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: Hash,
}

/// A filter that the batch's records went through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Its name.
    pub name: String,
    /// SHA-256 of the module.
    pub module: Hash,
    /// SHA-256 of its configuration.
    pub config: Hash,
    /// Its data files.
    pub data: Vec<FilterData>,
}

/// Totals since genesis; none ever decreases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intake {
    /// Events taken in and sealed, unparsed ones included, redelivered ones not.
    pub received: u64,
    /// Events recognised as sent again, and not sealed again.
    pub redelivered: u64,
    /// Events sealed as `unparsed`.
    pub unparsed: u64,
    /// Events that a filter failed on.
    pub filter_errors: u64,
    /// Events that the shipper says it lost; `null` where nothing can know it.
    pub declared_lost: Option<u64>,
}

/// What the node's clock said of itself at sealing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Whether the kernel held it synchronised.
    pub synchronized: bool,
    /// The kernel's bound of its error, nanoseconds.
    pub max_error_ns: u64,
}

/// `batches/<writer>/<batch>.json`: the header, whose creation is the commit of its batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// `waxseal/batch/1`
    pub format: String,
    /// The trail id.
    pub trail: Hash,
    /// `<name>.<epoch>`
    pub writer: String,
    /// From 0.
    pub batch: u64,
    /// Statement hash of the header before; of the genesis for batch 0.
    pub previous: Hash,
    /// The number of the key statement in force.
    pub keys: u64,
    /// How often this writer has started, from 1.
    pub boot: u64,
    /// What comes next.
    pub state: State,
    /// When at the latest the next header will exist; while running only.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub next_by: Option<Time>,
    /// The records.
    pub events: BatchEvents,
    /// The events object; absent when there are no records.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub object: Option<BatchObject>,
    /// The filters, in order.
    pub filters: Vec<Filter>,
    /// Totals since genesis.
    pub intake: Intake,
    /// The node's clock; `null` where it cannot be asked.
    pub clock: Option<Clock>,
    /// When; never decreases within a writer.
    pub sealed_at: Time,
    /// Until when both objects are locked; whole seconds.
    pub retain_until: Time,
    /// Name and version of the sink.
    pub software: String,
}
payload!(Batch, "batch");

/// An operator's word that something missing is known and explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// `waxseal/acknowledgement/1`
    pub format: String,
    /// The trail id.
    pub trail: Hash,
    /// The verdict that is acknowledged.
    pub verdict: String,
    /// `<name>.<epoch>`
    pub writer: String,
    /// First and last batch.
    pub range: [u64; 2],
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
}
payload!(Acknowledgement, "acknowledgement");

/// An operator's word that a writer will not write again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// `waxseal/retirement/1`
    pub format: String,
    /// The trail id.
    pub trail: Hash,
    /// `<name>.<epoch>`
    pub writer: String,
    /// The number of its last header.
    pub batch: u64,
    /// The statement hash of its last header.
    pub statement: Hash,
    /// Why.
    pub reason: String,
}
payload!(Retirement, "retirement");

/// A worker's word that something in the trail was not as it should be when it looked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `waxseal/finding/1`
    pub format: String,
    /// The trail id.
    pub trail: Hash,
    /// What: the name of a verdict (FORMAT section 7).
    pub verdict: String,
    /// The key of the object that it is about, or would be at.
    pub object: String,
    /// `<name>.<epoch>`, if it is about a writer's.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    /// First and last batch, if it is about any.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub range: Option<[u64; 2]>,
    /// What was seen.
    pub detail: String,
    /// When.
    pub found_at: Time,
}
payload!(Finding, "finding");

/// A worker's note that time-stamps were carried on (in the spirit of RFC 4998): the log holds their digests, and a time-stamp over a
/// later checkpoint is over these, too. So what a certificate that has ended once signed is vouched for by one that has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// `waxseal/renewal/1`
    pub format: String,
    /// The trail id.
    pub trail: Hash,
    /// The end of the certificates that signed them.
    pub not_after: Time,
    /// All that end then, of checkpoints up to this one, are in this statement or in one before.
    pub through: u64,
    /// The time-stamps.
    pub tokens: Vec<RenewedToken>,
}
payload!(Renewal, "renewal");

/// A time-stamp that is carried on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewedToken {
    /// The number of its checkpoint.
    pub checkpoint: u64,
    /// Its key.
    pub object: String,
    /// SHA-256 of the response as it is stored.
    pub sha256: Hash,
}

/// An operator's word on which writers there have to be. The last one that is logged counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedWriters {
    /// `waxseal/expected-writers/1`
    pub format: String,
    /// The trail id.
    pub trail: Hash,
    /// Names, without epochs: each has to have a writer that goes on.
    pub names: Vec<String>,
    /// Globs: names that match may come and go.
    pub ephemeral: Vec<String>,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When.
    pub declared_at: Time,
}
payload!(ExpectedWriters, "expected-writers");

/// Why the payload of a rightly signed envelope cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadFault {
    /// Another `payloadType` than the object's place wants.
    #[error("its payload type is {0:?}")]
    Type(String),
    /// A `format` or a name in `crit` that this version does not know.
    #[error("it needs {0:?}, which this version does not know")]
    Unknown(String),
    /// Members that the page does not allow.
    #[error("its payload is malformed: {0}")]
    Malformed(String),
}

#[derive(Deserialize)]
struct Preamble {
    format: Option<String>,
    crit: Option<Vec<String>>,
}

/// The payload of an envelope whose signatures have been verified.
///
/// # Errors
/// [`PayloadFault::Type`] first, then [`PayloadFault::Unknown`], then [`PayloadFault::Malformed`].
pub fn read<P: Payload>(envelope: &Envelope) -> Result<P, PayloadFault> {
    if envelope.payload_type != payload_type(P::KIND) {
        return Err(PayloadFault::Type(envelope.payload_type.clone()));
    }
    let malformed = |e: serde_json::Error| PayloadFault::Malformed(e.to_string());
    let head: Preamble = serde_json::from_slice(&envelope.payload).map_err(malformed)?;
    let format = head.format.unwrap_or_default();
    if format != format_of::<P>() {
        return Err(PayloadFault::Unknown(format));
    }
    // No extension is known to this version, so every critical one is unknown.
    if let Some(name) = head.crit.into_iter().flatten().next() {
        return Err(PayloadFault::Unknown(name));
    }
    let tree: serde_json::Value = serde_json::from_slice(&envelope.payload).map_err(malformed)?;
    if !numbers_are_safe(&tree) {
        return Err(PayloadFault::Malformed("a number beyond 2^53−1".to_owned()));
    }
    serde_json::from_value(tree).map_err(malformed)
}

/// Whether a statement's payload type, trail, writer and number fit the path that it lies at (section 5 rule 3); its
/// signatures are another matter.
///
/// # Errors
/// What does not fit.
pub fn check_place(
    envelope: &Envelope,
    kind: &str,
    trail: &Hash,
    writer: &str,
    number: Option<(&str, u64)>,
) -> Result<(), String> {
    if envelope.payload_type != payload_type(kind) {
        return Err(format!("its payload type is {:?}", envelope.payload_type));
    }
    let loose: serde_json::Value = serde_json::from_slice(&envelope.payload).unwrap_or_default();
    if loose["trail"].as_str() != Some(&trail.to_string()) {
        return Err("it is of another trail".to_owned());
    }
    if loose["writer"].as_str() != Some(writer) {
        return Err(format!("it is of writer {}", loose["writer"]));
    }
    match number {
        Some((member, n)) if loose[member].as_u64() != Some(n) => {
            Err(format!("it is number {} under the name of {n}", loose[member]))
        }
        _ => Ok(()),
    }
}

/// An optional member is there or it is not: no `null` stands for it.
fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// Section 1: integers of at most 2^53−1. So sums of two of them cannot overflow.
fn numbers_are_safe(v: &serde_json::Value) -> bool {
    match v {
        serde_json::Value::Number(n) => n.as_f64().is_some_and(|x| x.abs() < (1u64 << 53) as f64),
        serde_json::Value::Array(a) => a.iter().all(numbers_are_safe),
        serde_json::Value::Object(o) => o.values().all(numbers_are_safe),
        _ => true,
    }
}

/// `waxseal/<type>/1`
pub fn format_of<P: Payload>() -> String {
    format!("waxseal/{}/1", P::KIND)
}

/// An unsigned envelope of a payload.
pub fn unsigned<P: Payload>(payload: &P) -> Envelope {
    // Statements of ours are plain structures: their canonical form always exists.
    let payload = json::to_canonical(payload).unwrap_or_default();
    Envelope { payload, payload_type: payload_type(P::KIND), signatures: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_optional_member_is_there_or_not() {
        let parse = |text: &str| serde_json::from_str::<Predecessor>(text);
        let hash = Hash::empty();
        assert!(
            parse(&format!("{{\"writer\":\"a.b\",\"statement\":\"{hash}\"}}"))
                .is_ok_and(|p| p.batch.is_none())
        );
        assert!(parse(&format!("{{\"writer\":\"a.b\",\"batch\":7,\"statement\":\"{hash}\"}}")).is_ok());
        assert!(parse(&format!("{{\"writer\":\"a.b\",\"batch\":null,\"statement\":\"{hash}\"}}")).is_err());
    }
}
