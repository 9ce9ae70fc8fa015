//! What may be logged (FORMAT section 6): whatever has the right signatures of keys that are trusted. What it says is not judged
//! here: a gap, a fork or a batch of a later version is logged like everything else.

use crate::known::Known;
use std::cell::RefCell;
use waxseal_store::StoreError;
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE};
use waxseal_trail::hash::Hash;
use waxseal_trail::keys::PublicKey;
use waxseal_trail::name;
use waxseal_trail::statement::{Trail, Writer};
use waxseal_trail::time::Time;
use waxseal_trail::trust::Trust;
use waxseal_trail::valid::{self, Bad, Place, STATEMENTS};

/// So many certificates are read of a key's chain.
const MAX_CHAIN: usize = 8;

/// Why something is kept out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// Not signed by whom it would have to be signed by.
    Invalid(String),
    /// Signed by keys that nothing vouches for.
    Untrusted(String),
    /// It cannot be said yet: a certificate could not be read.
    Unread(String),
}

impl From<Bad> for Out {
    fn from(bad: Bad) -> Out {
        Out::Invalid(bad.to_string())
    }
}

/// Reads a certificate by its digest.
pub type Certificates<'a> = Box<dyn Fn(&Hash) -> Result<Option<Vec<u8>>, StoreError> + 'a>;

/// Who is trusted.
pub struct Gate<'a> {
    /// The trail statement.
    pub trail: Trail,
    /// The trail id.
    pub id: Hash,
    /// The trail statement's envelope, as it is stored.
    pub envelope: Vec<u8>,
    operators: Vec<PublicKey>,
    workers: Vec<PublicKey>,
    trust: &'a Trust,
    certificate: Certificates<'a>,
}

impl<'a> Gate<'a> {
    /// For the trail whose statement this is, if the trust file is for it.
    ///
    /// # Errors
    /// A text for the person who set it up.
    pub fn new(
        envelope: Vec<u8>,
        trust: &'a Trust,
        certificate: Certificates<'a>,
    ) -> Result<Gate<'a>, String> {
        let (parsed, operators) = valid::trail(&envelope).map_err(|e| e.to_string())?;
        let id = parsed.statement_hash();
        if id != trust.trail {
            return Err(format!("this is trail {id}; the trust file is for {}", trust.trail));
        }
        if !operators.iter().any(|k| trust.operators.contains(k)) {
            return Err("none of its operators is pinned in the trust file".to_owned());
        }
        let trail: Trail = valid::payload(&parsed).map_err(|e| e.to_string())?;
        let workers = trail.workers.iter().filter_map(|k| PublicKey::from_base64(k).ok()).collect();
        Ok(Gate { trail, id, envelope, operators, workers, trust, certificate })
    }

    /// The keys of the trail's workers.
    pub fn workers(&self) -> &[PublicKey] {
        &self.workers
    }

    /// Whether the trust file has an entry for the name of a writer.
    pub fn knows(&self, writer: &str) -> bool {
        name::split_writer(writer).is_some_and(|(name, _)| self.trust.entries(name).next().is_some())
    }

    /// A writer's genesis.
    ///
    /// # Errors
    /// [`Out`].
    pub fn genesis(&self, writer: &str, bytes: &[u8]) -> Result<Envelope, Out> {
        let (envelope, keys) = valid::genesis(&self.id, writer, bytes)?;
        self.not_revoked(&envelope)?;
        let (name, _) = name::split_writer(writer).ok_or_else(|| Out::Invalid("no writer".to_owned()))?;
        if self.trust.pins_one_of(name, &keys) {
            return Ok(envelope);
        }
        // Certificates cost requests, and whoever made this chose which: none, where none would help.
        if self.trust.entries(name).all(|w| w.cas.is_empty()) {
            return Err(Out::Untrusted("nothing in the trust file vouches for its keys".to_owned()));
        }
        let genesis = valid::payload::<Writer>(&envelope).ok();
        let listed = genesis.as_ref().map_or(&[][..], |g| &g.keys);
        let unread = RefCell::new(None);
        let certificate = |digest: &Hash| match (self.certificate)(digest) {
            Ok(found) => found,
            Err(e) => {
                *unread.borrow_mut() = Some(e.to_string());
                None
            }
        };
        let chains: Vec<(PublicKey, Vec<Vec<u8>>)> = keys
            .iter()
            .zip(listed)
            .map(|(k, w)| {
                (k.clone(), w.certificates.iter().take(MAX_CHAIN).filter_map(certificate).collect())
            })
            .collect();
        let at = genesis.as_ref().map_or(Time::MIN, |g| g.created_at);
        let vouches = self.trust.ca_vouches(&self.trail.name, name, &chains, at, &certificate);
        if let (Ok(false) | Err(_), Some(why)) = (&vouches, unread.take()) {
            return Err(Out::Unread(why));
        }
        match vouches {
            Ok(true) => Ok(envelope),
            Ok(false) => Err(Out::Untrusted("nothing in the trust file vouches for its keys".to_owned())),
            Err(e) => Err(Out::Untrusted(format!("its certificates do not vouch for it: {e}"))),
        }
    }

    /// A key statement of a writer that is known.
    ///
    /// # Errors
    /// [`Out`].
    pub fn keys(&self, known: &Known, writer: &str, number: u64, bytes: &[u8]) -> Result<Envelope, Out> {
        let Some(w) = known.writers.get(writer) else {
            return Err(Out::Untrusted("its genesis is not logged".to_owned()));
        };
        let before = number.checked_sub(1).and_then(|n| w.keys.get(usize::try_from(n).ok()?));
        let Some(before) = before else { return Err(Out::Invalid("the one before is not there".to_owned())) };
        let keys: Vec<PublicKey> =
            before.keys.iter().filter_map(|k| PublicKey::from_base64(k).ok()).collect();
        let (envelope, _) = valid::key_statement(&self.id, writer, number, &keys, bytes)?;
        self.not_revoked(&envelope)?;
        Ok(envelope)
    }

    /// A header of a writer that is known.
    ///
    /// # Errors
    /// [`Out`].
    pub fn header(&self, known: &Known, writer: &str, batch: u64, bytes: &[u8]) -> Result<Envelope, Out> {
        let Some(w) = known.writers.get(writer) else {
            return Err(Out::Untrusted("its genesis is not logged".to_owned()));
        };
        let envelope = valid::header(&self.id, writer, batch, &w.in_force(batch), bytes)?;
        self.not_revoked(&envelope)?;
        Ok(envelope)
    }

    /// A statement under `statements/`.
    ///
    /// # Errors
    /// [`Out`].
    pub fn statement(&self, kind: &str, hash: &str, bytes: &[u8]) -> Result<Envelope, Out> {
        let Some((_, by_operator)) = STATEMENTS.iter().find(|(k, _)| *k == kind) else {
            return Err(Out::Invalid(format!("{kind} is no kind of statement that this version knows")));
        };
        let signers = if *by_operator { &self.operators } else { &self.workers };
        let envelope = valid::statement(&self.id, kind, hash, signers, bytes)?;
        self.not_revoked(&envelope)?;
        Ok(envelope)
    }

    /// Whether an entry may be logged, by itself: what a round left that was stopped.
    ///
    /// # Errors
    /// [`Out`].
    pub fn entry(&self, known: &Known, entry: &[u8]) -> Result<(), Out> {
        let invalid = |text: &str| Out::Invalid(text.to_owned());
        if entry.len() > MAX_ENVELOPE {
            return Err(invalid("larger than an envelope"));
        }
        let envelope = Envelope::parse(entry).map_err(|e| Out::Invalid(e.to_string()))?;
        match valid::place(&envelope) {
            Some(Place::Trail) if entry == self.envelope => Ok(()),
            Some(Place::Genesis(w)) => self.genesis(&w, entry).map(drop),
            Some(Place::Keys(w, n)) => self.keys(known, &w, n, entry).map(drop),
            Some(Place::Batch(w, n)) => self.header(known, &w, n, entry).map(drop),
            Some(Place::Statement(kind)) => {
                self.statement(&kind, &envelope.statement_hash().to_string(), entry).map(drop)
            }
            _ => Err(invalid("no statement of this trail")),
        }
    }

    /// Statements that come now under a revoked key come too late: the log has what stands.
    fn not_revoked(&self, envelope: &Envelope) -> Result<(), Out> {
        let revoked = |key: &Hash| self.trust.revoked.iter().any(|r| r.key == *key);
        match envelope.signatures.iter().find(|s| revoked(&s.key)) {
            Some(s) => Err(Out::Untrusted(format!("signed by key {}, which the trust file revokes", s.key))),
            None => Ok(()),
        }
    }
}
