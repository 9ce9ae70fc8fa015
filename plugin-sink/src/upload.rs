//! The uploader: sealed batches into the store, events first, header second (FORMAT section 5 rule 1).

use crate::Context;
use crate::epoch::{Epoch, Intent, KeyStatement, SinkError};
use waxseal_store::{Put, Retain};
use waxseal_trail::hash::sha256;
use waxseal_trail::name;
use waxseal_trail::statement::{Lock, WriterKey};

/// What came of an upload.
#[derive(Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// It is in the store.
    Stored,
    /// Something that is not ours lies under this key: another sink runs under this identity, or someone was
    /// there first. A new epoch has to begin.
    Taken(String),
}

/// Stores certificates and genesis, if they are not known to be stored.
///
/// # Errors
/// [`SinkError::Store`] may pass; trying again sends the same bytes.
pub fn genesis(cx: &Context, epoch: &Epoch) -> Result<Uploaded, SinkError> {
    if epoch.genesis_stored() {
        return Ok(Uploaded::Stored);
    }
    let until = cx.retain_until(epoch.genesis_payload.created_at);
    let retain = Retain { lock: epoch.trail.lock, until };
    certificates(cx, epoch, &epoch.genesis_payload.keys, &retain)?;
    let key = name::genesis_key(&epoch.writer);
    match cx.store.put_if_absent(&key, &epoch.genesis, &sha256(&epoch.genesis), &retain)? {
        Put::Created | Put::Same => Ok(Uploaded::Stored),
        Put::Other => Ok(Uploaded::Taken(key)),
    }
}

fn certificates(cx: &Context, epoch: &Epoch, keys: &[WriterKey], retain: &Retain) -> Result<(), SinkError> {
    for (digest, der) in epoch.certificates(cx, keys)? {
        let key = name::certificate_key(&digest);
        if cx.store.put_if_absent(&key, &der, &digest, retain)? == Put::Other {
            tracing::error!("{key} is not the certificate of that digest; verifiers will say TAMPERED");
        }
    }
    Ok(())
}

/// Stores a key statement, and the certificates that it names.
///
/// # Errors
/// [`SinkError::Store`] may pass; trying again sends the same bytes.
pub fn keys(cx: &Context, epoch: &Epoch, statement: &KeyStatement) -> Result<Uploaded, SinkError> {
    let retain = Retain { lock: epoch.trail.lock, until: cx.retain_until(epoch.sealed.sealed_at) };
    certificates(cx, epoch, &statement.payload.keys, &retain)?;
    let key = name::keys_key(&epoch.writer, statement.payload.number);
    let digest = sha256(&statement.envelope);
    match cx.store.put_if_absent(&key, &statement.envelope, &digest, &retain)? {
        Put::Created | Put::Same => Ok(Uploaded::Stored),
        Put::Other => Ok(Uploaded::Taken(key)),
    }
}

/// Stores a sealed batch.
///
/// # Errors
/// [`SinkError::Store`] may pass; trying again sends the same bytes.
pub fn batch(cx: &Context, lock: Lock, intent: &Intent) -> Result<Uploaded, SinkError> {
    let h = &intent.header;
    let retain = Retain { lock, until: h.retain_until };
    if let (Some(bytes), Some(object)) = (&intent.object, &h.object) {
        let key = name::events_key(&h.writer, h.batch, h.sealed_at, &object.sha256);
        if cx.store.put_if_absent(&key, bytes, &object.sha256, &retain)? == Put::Other {
            return Ok(Uploaded::Taken(key));
        }
    }
    // A stop here leaves an events object that nothing names yet; the same bytes come again.
    let key = name::batch_key(&h.writer, h.batch);
    match cx.store.put_if_absent(&key, &intent.envelope, &sha256(&intent.envelope), &retain)? {
        Put::Created | Put::Same => Ok(Uploaded::Stored),
        Put::Other => Ok(Uploaded::Taken(key)),
    }
}
