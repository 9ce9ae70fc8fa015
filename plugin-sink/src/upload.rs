//! The uploader: sealed batches into the store, events first, header second (FORMAT section 5 rule 1).

use crate::Context;
use crate::epoch::{Epoch, Intent, KeyStatement, SinkError};
use waxseal_store::{Put, Retain};
use waxseal_trail::hash::{Hash, sha256};
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
    put(cx, name::genesis_key(&epoch.writer), &epoch.genesis, &sha256(&epoch.genesis), &retain)
}

fn put(
    cx: &Context,
    key: String,
    body: &[u8],
    digest: &Hash,
    retain: &Retain,
) -> Result<Uploaded, SinkError> {
    match cx.store.put_if_absent(&key, body, digest, retain)? {
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

/// Stores the key statements that have to be there before header `batch` is, and notes it.
///
/// # Errors
/// [`SinkError::Store`] may pass; trying again sends the same bytes.
pub fn keys_before(cx: &Context, epoch: &mut Epoch, batch: u64) -> Result<Uploaded, SinkError> {
    while let Some(statement) = epoch.pending_keys(batch).cloned() {
        match keys(cx, epoch, &statement)? {
            Uploaded::Stored => epoch.note_keys_stored(cx, statement.payload.number)?,
            taken => return Ok(taken),
        }
    }
    Ok(Uploaded::Stored)
}

/// Stores a key statement, and the certificates that it names.
fn keys(cx: &Context, epoch: &Epoch, statement: &KeyStatement) -> Result<Uploaded, SinkError> {
    let retain = Retain { lock: epoch.trail.lock, until: cx.retain_until(epoch.sealed.sealed_at) };
    certificates(cx, epoch, &statement.payload.keys, &retain)?;
    let key = name::keys_key(&epoch.writer, statement.payload.number);
    put(cx, key, &statement.envelope, &sha256(&statement.envelope), &retain)
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
        if let taken @ Uploaded::Taken(_) = put(cx, key, bytes, &object.sha256, &retain)? {
            return Ok(taken);
        }
    }
    // A stop here leaves an events object that nothing names yet; the same bytes come again.
    put(cx, name::batch_key(&h.writer, h.batch), &intent.envelope, &sha256(&intent.envelope), &retain)
}
