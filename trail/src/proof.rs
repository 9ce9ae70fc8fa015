//! A proof of one event, that whoever has a trust file checks without the trail (FORMAT section 6): record → batch root → header →
//! log root → checkpoint with cosignatures, and the statements that say whose keys signed.

use crate::base64;
use crate::envelope::{Envelope, Signature};
use crate::hash::{Hash, leaf_hash, sha256};
use crate::json;
use crate::keys::PublicKey;
use crate::log::checkpoint::Checkpoint;
use crate::log::note::{Note, NoteFault, VerifierKey};
use crate::log::policy::Cosigned;
use crate::log::proof::{LogProof, ProofFault};
use crate::merkle;
use crate::name;
use crate::record::Checker;
use crate::statement::{Batch, Keys, Trail, Writer};
use crate::time::Time;
use crate::trust::Trust;
use crate::valid::{self, Bad};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `waxseal/proof/1`
pub const FORMAT: &str = "waxseal/proof/1";
/// The largest proof that is read, in bytes: a record, and less than that for everything else.
pub const MAX_PROOF: usize = 4 << 20;

/// A statement that is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InLog {
    /// The envelope: its JCS is the stored object.
    pub envelope: Value,
    /// The entry's number.
    pub index: u64,
    /// Its audit path, from the leaf upwards: all hashes behind one another, in base64.
    pub path: String,
}

/// A proof; the file is its JCS, and a newline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// [`FORMAT`]
    pub format: String,
    /// The trail id.
    pub trail: Hash,
    /// The record: its JCS is what was sealed.
    pub record: Value,
    /// Its audit path in the batch, as in [`InLog::path`].
    pub path: String,
    /// The header's envelope.
    pub header: Value,
    /// Its proof (c2sp.org/tlog-proof), with the checkpoint that all the others lead to as well.
    pub log: String,
    /// The genesis.
    pub genesis: InLog,
    /// The key statements up to the one in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<InLog>,
    /// The trail statement's envelope, where certificates name the trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<Value>,
    /// Certificates that the genesis names: DER in base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<String>,
    /// Time-stamps (RFC 3161) over the checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timestamps: Vec<Token>,
    /// Receipts of chains that have anchored the checkpoint, as they are stored; they are checked by whoever knows chains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ethereum: Vec<Value>,
}

/// A time-stamp in a proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The response of the time-stamping authority: DER in base64.
    pub response: String,
    /// SHA-256 of it: a time-stamp's own signature does not cover all of its bytes.
    pub sha256: Hash,
}

/// What a time-stamp in a proof says, if it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// Not later than this.
    pub at: Time,
    /// The end of the certificate that signed it.
    pub not_after: Time,
}

/// Checks a time-stamp: its response, and the digest that it has to be about. Why it does not count is a text.
pub type CheckStamp<'a> = &'a dyn Fn(&[u8], &Hash) -> Result<Stamped, String>;

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventProofFault {
    /// Not in the one form of a proof.
    #[error("not a proof of {FORMAT}: {0}")]
    Form(String),
    /// Of another trail than the trust file's.
    #[error("a proof of trail {0}, which the trust file is not for")]
    OtherTrail(Hash),
    /// The trust file names no log.
    #[error("the trust file names no log, and a proof leads to one")]
    NoLog,
    /// Something in it is not what it has to be.
    #[error("its {what}: {why}")]
    Part {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Nothing vouches for the writer.
    #[error("nothing in the trust file vouches for writer {0}")]
    Untrusted(String),
    /// Too few witnesses of the policy have signed the checkpoint.
    #[error("the policy asks for more witnesses than have signed its checkpoint ({0})")]
    Quorum(String),
}

impl EventProofFault {
    /// Whether nothing could be checked, rather than something was found wrong.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, EventProofFault::OtherTrail(_) | EventProofFault::NoLog)
    }
}

/// What a proof proves.
#[derive(Clone, Debug)]
pub struct Proven {
    /// The record.
    pub record: Value,
    /// `H(record)`.
    pub hash: Hash,
    /// Its header.
    pub header: Batch,
    /// The writer's genesis.
    pub genesis: Writer,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// SHA-256 of it as it is stored: what time-stamps and anchors are over.
    pub imprint: Hash,
    /// Which witnesses of the policy have signed it, and when; none without a policy.
    pub cosigned: Cosigned,
    /// What its time-stamps say; or why one does not count, as one of an authority that the trust file does not name.
    pub stamped: Vec<Result<Stamped, String>>,
}

fn part(what: &'static str, why: impl core::fmt::Display) -> EventProofFault {
    EventProofFault::Part { what, why: why.to_string() }
}

/// The hashes of a path, behind one another in base64.
pub fn path_text(path: &[Hash]) -> String {
    BASE64.encode(&path.iter().flat_map(|h| h.0).collect::<Vec<u8>>())
}

fn path_of(text: &str) -> Option<Vec<Hash>> {
    let bytes = base64::decode(text)?;
    let (hashes, rest) = bytes.as_chunks::<32>();
    (rest.is_empty() && hashes.len() <= 64).then(|| hashes.iter().map(|h| Hash(*h)).collect())
}

fn canonical(what: &'static str, value: &Value) -> Result<Vec<u8>, EventProofFault> {
    json::to_canonical(value).map_err(|e| part(what, e))
}

impl Proof {
    /// Reads a proof; nothing is checked yet.
    ///
    /// # Errors
    /// [`EventProofFault::Form`]: also for another form of the same proof.
    pub fn parse(bytes: &[u8]) -> Result<Proof, EventProofFault> {
        let form = |why: String| EventProofFault::Form(why);
        if bytes.len() > MAX_PROOF {
            return Err(form(format!("more than {MAX_PROOF} bytes")));
        }
        let text = bytes.strip_suffix(b"\n").ok_or_else(|| form("no newline at its end".to_owned()))?;
        if !json::is_canonical(text).map_err(|e| form(e.to_string()))? {
            return Err(form("not in canonical form (RFC 8785)".to_owned()));
        }
        let proof: Proof = serde_json::from_slice(text).map_err(|e| form(e.to_string()))?;
        if proof.format != FORMAT {
            return Err(form(format!("its format is {:?}", proof.format)));
        }
        // What is said twice, or not at all, has one form, too.
        if proof.to_bytes()? != bytes {
            return Err(form("an empty member".to_owned()));
        }
        Ok(proof)
    }

    /// The file.
    ///
    /// # Errors
    /// [`EventProofFault::Form`], if it is deeper than what is read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EventProofFault> {
        let mut bytes = json::to_canonical(self).map_err(|e| EventProofFault::Form(e.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Checks it against a trust file; `stamp` checks time-stamps against the same.
    ///
    /// # Errors
    /// [`EventProofFault`].
    pub fn verify(&self, trust: &Trust, stamp: CheckStamp<'_>) -> Result<Proven, EventProofFault> {
        if self.trail != trust.trail {
            return Err(EventProofFault::OtherTrail(self.trail));
        }
        let log = trust.log.as_deref().ok_or(EventProofFault::NoLog)?;
        let log = VerifierKey::parse(log).map_err(|e| part("log", format!("the trust file's key: {e}")))?;

        // The record: what it is, and where it says that it belongs.
        let record = canonical("record", &self.record)?;
        let mut checker = Checker::default();
        let view = checker.check(&record).map_err(|e| part("record", e))?;
        let (writer, sequence) = (view.writer.to_owned(), view.sequence);
        let hash = leaf_hash(&record);

        // Whose keys signed.
        let genesis_bytes = canonical("genesis", &self.genesis.envelope)?;
        let bad = |what| move |e: Bad| part(what, e);
        let (genesis, keys) = valid::genesis(&self.trail, &writer, &genesis_bytes).map_err(bad("genesis"))?;
        let genesis_statement: Writer = valid::payload(&genesis).map_err(bad("genesis"))?;
        self.check_trust(trust, &writer, &keys, &genesis_statement)?;
        let mut in_force = keys;
        let mut previous = genesis.statement_hash();
        let mut from = 0;
        let mut entries = vec![("genesis", &self.genesis, genesis_bytes)];
        let mut signed = vec![("genesis", self.genesis.index, genesis.signatures.clone())];
        for (number, in_log) in (1..).zip(&self.keys) {
            let bytes = canonical("keys", &in_log.envelope)?;
            let (envelope, new) =
                valid::key_statement(&self.trail, &writer, number, &in_force, &bytes).map_err(bad("keys"))?;
            let statement: Keys = valid::payload(&envelope).map_err(bad("keys"))?;
            if statement.previous != previous {
                return Err(part("keys", "one does not follow the one before"));
            }
            from = statement.after.as_ref().map_or(0, |a| a.batch.saturating_add(1));
            (in_force, previous) = (new, envelope.statement_hash());
            signed.push(("keys", in_log.index, envelope.signatures));
            entries.push(("keys", in_log, bytes));
        }

        // The header, and the record in it.
        let header_bytes = canonical("header", &self.header)?;
        let batch = self.batch_number(&header_bytes)?;
        let envelope =
            valid::header(&self.trail, &writer, batch, &in_force, &header_bytes).map_err(bad("header"))?;
        let header: Batch = valid::payload(&envelope).map_err(bad("header"))?;
        if header.keys != self.keys.len() as u64 || batch < from {
            return Err(part("keys", "they are not those in force"));
        }
        let index = sequence.checked_sub(header.events.first_sequence).filter(|i| *i < header.events.count);
        let index = index.ok_or_else(|| part("header", "it is of other records"))?;
        let path = path_of(&self.path).ok_or_else(|| part("path", "not hashes in base64"))?;
        if !merkle::verify_inclusion(&hash, index, header.events.count, &path, &header.events.merkle_root) {
            return Err(part("path", "it does not lead to the batch's root"));
        }

        // All of it in the log.
        let proof = LogProof::parse(&self.log).map_err(|e| part("log", e))?;
        let log_fault = |e: ProofFault| part("log", e);
        let (checkpoint, note) = proof.verify(&leaf_hash(&header_bytes), &log).map_err(log_fault)?;
        if proof.extra.is_some() || proof.to_string() != self.log {
            return Err(part("log", "not in its one form"));
        }
        for (what, in_log, bytes) in entries {
            let path = path_of(&in_log.path).ok_or_else(|| part(what, "not hashes in base64"))?;
            let (leaf, root) = (leaf_hash(&bytes), &checkpoint.root);
            if !merkle::verify_inclusion(&leaf, in_log.index, checkpoint.size, &path, root) {
                return Err(part(what, "it is not in the log"));
            }
        }
        // What the log held before a key was revoked stands, statement by statement.
        signed.push(("header", proof.index, envelope.signatures));
        for (what, index, signatures) in signed {
            let late = |s: &&Signature| trust.revoked.iter().any(|r| r.key == s.key && index >= r.log_size);
            if let Some(s) = signatures.iter().find(late) {
                return Err(part(what, format!("key {} was revoked before it was logged", s.key)));
            }
        }

        // And who has seen that.
        let policy = trust.policy.clone().unwrap_or_default();
        let note_fault = |e: NoteFault| part("log", e);
        let cosigned = policy.cosigned(&note).map_err(note_fault)?;
        if policy.needs_witnesses() && !cosigned.quorum {
            let by: Vec<&str> = cosigned.by.iter().map(|(name, _)| &name[..]).collect();
            let by = if by.is_empty() { "none".to_owned() } else { by.join(", ") };
            return Err(EventProofFault::Quorum(by));
        }
        // Time-stamps and anchors are over the checkpoint as it is stored: with the log's own signature and no other.
        let own = note.lines.iter().filter(|l| l.id == log.id() && l.name == log.name()).cloned().collect();
        let imprint = sha256(Note { text: note.text.clone(), lines: own }.to_string().as_bytes());
        let stamped = self.check_stamps(imprint, stamp)?;
        let record = self.record.clone();
        let genesis = genesis_statement;
        Ok(Proven { record, hash, header, genesis, checkpoint, imprint, cosigned, stamped })
    }

    fn check_stamps(
        &self,
        imprint: Hash,
        stamp: CheckStamp<'_>,
    ) -> Result<Vec<Result<Stamped, String>>, EventProofFault> {
        let check = |token: &Token| {
            let response = base64::decode(&token.response).ok_or_else(|| part("timestamps", "not base64"))?;
            if sha256(&response) != token.sha256 {
                return Err(part("timestamps", "one is not what its digest says"));
            }
            Ok(stamp(&response, &imprint))
        };
        self.timestamps.iter().map(check).collect()
    }

    fn batch_number(&self, header: &[u8]) -> Result<u64, EventProofFault> {
        let envelope = Envelope::parse(header).map_err(|e| part("header", e))?;
        let loose: Value = serde_json::from_slice(&envelope.payload).unwrap_or_default();
        loose["batch"].as_u64().ok_or_else(|| part("header", "it has no number"))
    }

    fn check_trust(
        &self,
        trust: &Trust,
        writer: &str,
        keys: &[PublicKey],
        genesis: &Writer,
    ) -> Result<(), EventProofFault> {
        let (name, _) = name::split_writer(writer).ok_or_else(|| part("record", "no writer's name"))?;
        // What is there is held to its digest, needed or not: no byte of a proof is anybody's to choose.
        let trail = self.statement.as_ref().map(|statement| {
            let bytes = canonical("statement", statement)?;
            let (envelope, _) = valid::trail(&bytes).map_err(|e| part("statement", e))?;
            if envelope.statement_hash() != self.trail {
                return Err(part("statement", "it is another trail's"));
            }
            valid::payload::<Trail>(&envelope).map_err(|e| part("statement", e))
        });
        let trail = trail.transpose()?;
        let named: Vec<&Hash> = genesis.keys.iter().flat_map(|k| &k.certificates).collect();
        let certificate = |text: &String| {
            let der = base64::decode(text).ok_or_else(|| part("certificates", "not base64"))?;
            let digest = sha256(&der);
            if named.contains(&&digest) {
                Ok(der)
            } else {
                Err(part("certificates", "the genesis does not name it"))
            }
        };
        let certificates = self.certificates.iter().map(certificate).collect::<Result<Vec<_>, _>>()?;
        if trust.pins_one_of(name, keys) {
            return Ok(());
        }
        let trail = trail.ok_or_else(|| EventProofFault::Untrusted(writer.to_owned()))?;
        let stored = |digest: &Hash| certificates.iter().find(|c| sha256(c) == *digest).cloned();
        let chain = |k: &crate::statement::WriterKey| k.certificates.iter().filter_map(stored).collect();
        let chains: Vec<(PublicKey, Vec<Vec<u8>>)> =
            keys.iter().cloned().zip(genesis.keys.iter().map(chain)).collect();
        let at = genesis.created_at;
        match trust.ca_vouches(&trail.name, name, &chains, at, &stored) {
            Ok(true) => Ok(()),
            Ok(false) => Err(EventProofFault::Untrusted(writer.to_owned())),
            Err(e) => Err(part("certificates", e)),
        }
    }
}
