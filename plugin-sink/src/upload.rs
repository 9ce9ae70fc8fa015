//! The uploader: sealed batches into the store, events first, header second (FORMAT section 5 rule 1), and what to make
//! of something that lies there already (rule 3).

use crate::Context;
use crate::epoch::{Epoch, Intent, Kept, KeyStatement, SinkError};
use bytes::Bytes;
use waxseal_store::{At, Kind, Put, Retain, Version, Written};
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::keys::PublicKey;
use waxseal_trail::name;
use waxseal_trail::statement::{self, Batch, Keys, Lock, Payload as _, Writer, WriterKey};

/// What came of an upload.
#[derive(Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// It is in the store, and what the store calls it.
    Stored(Vec<Kept>),
    /// Something valid that is not ours lies under this key: another sink runs under this identity. A new epoch has to
    /// begin.
    Taken(String),
}

/// Which statements count as this writer's.
#[derive(Clone, Debug)]
pub struct Own {
    trail: Hash,
    writer: String,
    lock: Lock,
    keys: Vec<PublicKey>,
}

impl Own {
    /// As things are before header `batch`.
    pub fn of(epoch: &Epoch, batch: u64) -> Own {
        Own {
            trail: epoch.trail_id,
            writer: epoch.writer.clone(),
            lock: epoch.trail.lock,
            keys: public(epoch.keys_before(batch)),
        }
    }

    fn is_header(&self, batch: u64, bytes: &[u8]) -> bool {
        signed(bytes, |e| {
            statement::check_place(e, Batch::KIND, &self.trail, &self.writer, Some(("batch", batch)))?;
            Ok(self.keys.clone())
        })
    }

    fn is_genesis(&self, bytes: &[u8]) -> bool {
        signed(bytes, |e| {
            statement::check_place(e, Writer::KIND, &self.trail, &self.writer, None)?;
            Ok(self.keys.clone())
        })
    }

    /// Key statements are signed by the keys before them and by the new ones that they name.
    fn is_keys(&self, number: u64, bytes: &[u8]) -> bool {
        signed(bytes, |e| {
            let place = Some(("number", number));
            statement::check_place(e, Keys::KIND, &self.trail, &self.writer, place)?;
            let loose: serde_json::Value = serde_json::from_slice(&e.payload).unwrap_or_default();
            let new: Vec<WriterKey> = serde_json::from_value(loose["keys"].clone()).unwrap_or_default();
            let mut all = self.keys.clone();
            all.extend(public(&new).into_iter().filter(|k| !self.keys.contains(k)));
            Ok(all)
        })
    }
}

fn public(keys: &[WriterKey]) -> Vec<PublicKey> {
    keys.iter().filter_map(|k| PublicKey::from_base64(&k.spki).ok()).collect()
}

fn signed(bytes: &[u8], by: impl FnOnce(&Envelope) -> Result<Vec<PublicKey>, String>) -> bool {
    Envelope::parse(bytes)
        .is_ok_and(|e| by(&e).is_ok_and(|k| e.verify(&k.iter().collect::<Vec<_>>()).is_ok()))
}

/// What lies under a key that is not free.
enum Found {
    /// What is to be stored.
    Ours(Written),
    /// Something else that is valid there.
    Theirs,
    /// Nothing that is valid there.
    Foreign,
}

/// An object on its way.
struct Parcel<'a> {
    key: String,
    body: &'a Bytes,
    digest: Hash,
    retain: Retain,
    /// Whether other bytes would be valid under this key, by rule 3.
    valid: &'a dyn Fn(&[u8]) -> bool,
}

impl Parcel<'_> {
    /// Stores it; `None` if something else that is valid was there first.
    fn put(&self, cx: &Context) -> Result<Option<Kept>, SinkError> {
        let kept = |w: Written| self.kept(w, false);
        match cx.store.put_if_absent(&self.key, self.body, &self.digest, &self.retain)? {
            Put::Created(w) | Put::Same(w) => return Ok(kept(w)),
            // Without versions there is no place beside it.
            Put::Other if !cx.store.has_versions() => return Ok(None),
            Put::Other => {}
        }
        match self.find(cx)? {
            Found::Ours(w) => Ok(kept(w)),
            Found::Theirs => Ok(None),
            Found::Foreign => {
                tracing::error!(
                    "{} in the store is not ours, and not valid there: someone wrote under a key of ours. Ours is \
                     written beside it, and is the object; verifiers will list the other as FOREIGN",
                    self.key
                );
                match cx.store.put_beside(&self.key, self.body, &self.digest, &self.retain)? {
                    Put::Created(w) | Put::Same(w) => Ok(self.kept(w, true)),
                    Put::Other => Ok(None),
                }
            }
        }
    }

    fn kept(&self, w: Written, beside: bool) -> Option<Kept> {
        Some(Kept { key: self.key.clone(), version: w.version, sha256: self.digest, beside })
    }

    /// The first valid version.
    fn find(&self, cx: &Context) -> Result<Found, SinkError> {
        let versions = match cx.store.versions(&self.key) {
            Err(e) if e.kind == Kind::Permission => {
                tracing::warn!("{e}: what lies there is taken for nobody's");
                return Ok(Found::Foreign);
            }
            other => other?,
        };
        let size = self.body.len() as u64;
        let plausible =
            |v: &&Version| !v.delete_marker && v.bytes.is_none_or(|b| b == size || b <= MAX_ENVELOPE as u64);
        for v in versions.iter().filter(plausible) {
            let at = At { key: self.key.clone(), version: v.id.clone(), bytes: v.bytes };
            let object = match cx.store.read(&at, size.max(MAX_ENVELOPE as u64)) {
                // A node may write events and not read them.
                Err(e) if e.kind == Kind::Permission && self.key.starts_with("events/") => continue,
                other => other?,
            };
            let Some((head, body)) = object.and_then(|o| Some((o.head, o.body?))) else { continue };
            if body == *self.body {
                // The same bytes without their lock are nobody's: a locked version goes beside them.
                if self.retain.is_kept_by(head.retain) {
                    return Ok(Found::Ours(Written { version: v.id.clone() }));
                }
            } else if (self.valid)(&body) {
                return Ok(Found::Theirs);
            }
        }
        Ok(Found::Foreign)
    }
}

/// Stores certificates and genesis, if they are not known to be stored.
///
/// # Errors
/// [`SinkError::Store`] may pass; trying again sends the same bytes.
pub fn genesis(cx: &Context, epoch: &Epoch) -> Result<Uploaded, SinkError> {
    let retain = retain_statement(cx, epoch, epoch.genesis_payload.created_at);
    let body = Bytes::from(epoch.genesis.clone());
    let digest = sha256(&body);
    let key = name::genesis_key(&epoch.writer);
    let mut stored = Vec::new();
    if !epoch.genesis_stored() {
        certificates(cx, epoch, &epoch.genesis_payload.keys, &retain)?;
        let own = Own::of(epoch, 0);
        let valid = |b: &[u8]| own.is_genesis(b);
        let parcel = Parcel { key: key.clone(), body: &body, digest, retain, valid: &valid };
        let Some(kept) = parcel.put(cx)? else { return Ok(Uploaded::Taken(key)) };
        confirm(cx, &kept, &retain)?;
        stored.push(kept);
    }
    // Once in a run: that the server does not write where something is. This is there, and the same bytes harm nobody.
    cx.store.confirm_condition(&key, &body, &digest, &retain)?;
    Ok(Uploaded::Stored(stored))
}

fn retain_statement(cx: &Context, epoch: &Epoch, at: waxseal_trail::time::Time) -> Retain {
    Retain { lock: epoch.trail.lock, until: cx.retain_until(at) }
}

/// Looks whether the store has what it says it has, with its lock and digest.
fn confirm(cx: &Context, kept: &Kept, retain: &Retain) -> Result<(), SinkError> {
    let at = At { key: kept.key.clone(), version: kept.version.clone(), bytes: None };
    match cx.store.confirm(&at, &kept.sha256, retain) {
        Err(e) if e.kind == Kind::Permission => {
            tracing::warn!("{e}: whether it is locked cannot be seen from here; waxseal bucket check can");
            Ok(())
        }
        other => Ok(other?),
    }
}

fn certificates(cx: &Context, epoch: &Epoch, keys: &[WriterKey], retain: &Retain) -> Result<(), SinkError> {
    for (digest, der) in epoch.certificates(cx, keys)? {
        let key = name::certificate_key(&digest);
        let body = Bytes::from(der);
        // Only these bytes have this digest.
        let parcel = Parcel { key, body: &body, digest, retain: *retain, valid: &|_| false };
        if parcel.put(cx)?.is_none() {
            tracing::error!(
                "{} is not the certificate of that digest; verifiers will say TAMPERED",
                parcel.key
            );
        }
    }
    Ok(())
}

/// Stores the key statements that have to be there before header `batch` is, and notes it.
///
/// # Errors
/// [`SinkError::Store`] may pass; trying again sends the same bytes.
pub fn keys_before(cx: &Context, epoch: &mut Epoch, batch: u64) -> Result<Uploaded, SinkError> {
    while let Some(statement) = epoch.pending_keys(batch).cloned() {
        match keys(cx, epoch, &statement)? {
            Uploaded::Stored(_) => epoch.note_keys_stored(cx, statement.payload.number)?,
            taken @ Uploaded::Taken(_) => return Ok(taken),
        }
    }
    Ok(Uploaded::Stored(Vec::new()))
}

/// Stores a key statement, and the certificates that it names.
fn keys(cx: &Context, epoch: &Epoch, statement: &KeyStatement) -> Result<Uploaded, SinkError> {
    let retain = retain_statement(cx, epoch, epoch.sealed.sealed_at);
    certificates(cx, epoch, &statement.payload.keys, &retain)?;
    let number = statement.payload.number;
    let key = name::keys_key(&epoch.writer, number);
    let own = Own { keys: public(epoch.keys_under(number - 1)), ..Own::of(epoch, 0) };
    let body = Bytes::from(statement.envelope.clone());
    let valid = |b: &[u8]| own.is_keys(number, b);
    let parcel = Parcel { key, body: &body, digest: sha256(&body), retain, valid: &valid };
    Ok(match parcel.put(cx)? {
        Some(kept) => Uploaded::Stored(vec![kept]),
        None => Uploaded::Taken(parcel.key),
    })
}

/// Stores a batch's events object, if it has one.
///
/// # Errors
/// [`SinkError::Store`] may pass; trying again sends the same bytes.
pub fn object(cx: &Context, own: &Own, intent: &Intent, look: bool) -> Result<Uploaded, SinkError> {
    let h = &intent.header;
    let (Some(bytes), Some(object)) = (&intent.object, &h.object) else {
        return Ok(Uploaded::Stored(Vec::new()));
    };
    let retain = Retain { lock: own.lock, until: h.retain_until };
    let key = name::events_key(&h.writer, h.batch, h.sealed_at, &object.sha256);
    // Only these bytes have this digest.
    let parcel = Parcel { key, body: bytes, digest: object.sha256, retain, valid: &|_| false };
    let Some(kept) = parcel.put(cx)? else { return Ok(Uploaded::Taken(parcel.key)) };
    if look {
        confirm(cx, &kept, &retain)?;
    }
    Ok(Uploaded::Stored(vec![kept]))
}

/// Stores a batch's header: the commit. Its events object is there.
///
/// # Errors
/// [`SinkError::Store`] may pass; trying again sends the same bytes.
pub fn header(cx: &Context, own: &Own, intent: &Intent, look: bool) -> Result<Uploaded, SinkError> {
    let h = &intent.header;
    let retain = Retain { lock: own.lock, until: h.retain_until };
    let body = Bytes::from(intent.envelope.clone());
    let valid = |b: &[u8]| own.is_header(h.batch, b);
    let key = name::batch_key(&h.writer, h.batch);
    let parcel = Parcel { key, body: &body, digest: sha256(&body), retain, valid: &valid };
    let Some(kept) = parcel.put(cx)? else { return Ok(Uploaded::Taken(parcel.key)) };
    if look {
        confirm(cx, &kept, &retain)?;
    }
    Ok(Uploaded::Stored(vec![kept]))
}

/// Stores a sealed batch: the events object, then the header.
///
/// # Errors
/// [`SinkError::Store`] may pass; trying again sends the same bytes.
pub fn batch(cx: &Context, own: &Own, intent: &Intent) -> Result<Uploaded, SinkError> {
    match object(cx, own, intent, false)? {
        // A stop here leaves an events object that nothing names yet; the same bytes come again.
        Uploaded::Stored(mut kept) => match header(cx, own, intent, false)? {
            Uploaded::Stored(more) => {
                kept.extend(more);
                Ok(Uploaded::Stored(kept))
            }
            taken @ Uploaded::Taken(_) => Ok(taken),
        },
        taken @ Uploaded::Taken(_) => Ok(taken),
    }
}

/// Whether a header of ours is the object under its key, whether or not we had come to note it.
///
/// # Errors
/// [`SinkError::Store`].
pub fn is_committed(cx: &Context, own: &Own, intent: &Intent) -> Result<bool, SinkError> {
    let h = &intent.header;
    let key = name::batch_key(&h.writer, h.batch);
    if !cx.store.has_versions() {
        return Ok(cx.store.get(&key)?.as_ref() == Some(&intent.envelope));
    }
    let body = Bytes::from(intent.envelope.clone());
    let valid = |b: &[u8]| own.is_header(h.batch, b);
    // Its lock is another matter.
    let retain = Retain { lock: Lock::None, until: h.retain_until };
    let parcel = Parcel { key, body: &body, digest: sha256(&body), retain, valid: &valid };
    Ok(matches!(parcel.find(cx)?, Found::Ours(_)))
}
