//! The writer's signing keys: read from files, and read again when the files change.
//!
//! A key that is replaced while the sink runs is no loss: the old one is still in memory, and signs the statement
//! that names the new one (FORMAT section 3, `keys`).

use crate::config::{RawSigning, read};
use crate::signer::{MemoryKey, Signer};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;
use waxseal_trail::hash::sha256;
use waxseal_trail::statement::WriterKey;

/// The signing keys with their certificates.
#[derive(Clone)]
pub struct Signing {
    /// Signers, in order.
    pub signers: Vec<Arc<dyn Signer>>,
    /// For each signer, its certificates in DER, leaf first.
    pub certificates: Vec<Vec<Vec<u8>>>,
    /// Keys that were in force and can still sign.
    pub previous: Vec<Arc<dyn Signer>>,
    /// The age of the oldest key file.
    pub oldest_key: Option<SystemTime>,
}

impl Signing {
    /// As statements name them.
    pub fn keys(&self) -> Vec<WriterKey> {
        self.signers
            .iter()
            .zip(&self.certificates)
            .map(|(s, chain)| WriterKey {
                spki: s.public().to_base64(),
                certificates: chain.iter().map(|c| sha256(c)).collect(),
            })
            .collect()
    }

    /// The signer of this key, if it is there.
    pub fn signer(&self, spki: &str) -> Option<&Arc<dyn Signer>> {
        self.signers.iter().chain(&self.previous).find(|s| s.public().to_base64() == spki)
    }
}

/// What tells a file from one that has been written anew.
type Stamp = Option<(SystemTime, u64)>;

struct Current {
    signing: Arc<Signing>,
    stamps: Vec<Stamp>,
}

/// The signing keys of a sink, as they are now. Cheap to clone; clones see the same keys.
#[derive(Clone)]
pub struct SigningKeys {
    files: Arc<Vec<RawSigning>>,
    current: Arc<RwLock<Current>>,
}

impl SigningKeys {
    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// A text that names the file.
    pub fn load(files: Vec<RawSigning>) -> Result<SigningKeys, String> {
        let stamps = stamps(&files);
        let signing = Arc::new(load(&files)?);
        Ok(SigningKeys {
            files: Arc::new(files),
            current: Arc::new(RwLock::new(Current { signing, stamps })),
        })
    }

    /// Keys from elsewhere, which never change.
    pub fn fixed(signing: Signing) -> SigningKeys {
        let current = Current { signing: Arc::new(signing), stamps: Vec::new() };
        SigningKeys { files: Arc::default(), current: Arc::new(RwLock::new(current)) }
    }

    /// The keys now.
    pub fn get(&self) -> Arc<Signing> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).signing.clone()
    }

    /// Reads the files again if they have changed. `true`: other keys or certificates are in force from now on, and
    /// those before can still sign.
    ///
    /// # Errors
    /// A text that names the file; the keys then stay, and the next call tries again.
    pub fn reload(&self) -> Result<bool, String> {
        let stamps = stamps(&self.files);
        if stamps == self.current.read().unwrap_or_else(PoisonError::into_inner).stamps {
            return Ok(false);
        }
        let mut new = load(&self.files)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = &current.signing;
        for signer in old.signers.iter().chain(&old.previous) {
            if new.signer(&signer.public().to_base64()).is_none() {
                new.previous.push(signer.clone());
            }
        }
        let changed = new.keys() != old.keys();
        *current = Current { signing: Arc::new(new), stamps };
        Ok(changed)
    }
}

fn file_of<'f>(place: &str, text: &'f str) -> Result<&'f str, String> {
    text.strip_prefix("file:")
        .ok_or_else(|| format!("{place}: {text:?}: this version reads keys from file:/path"))
}

fn stamps(files: &[RawSigning]) -> Vec<Stamp> {
    let stamp = |path: &str| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
    files
        .iter()
        .flat_map(|s| {
            let key = stamp(s.key.0.strip_prefix("file:").unwrap_or(&s.key.0));
            [key, s.certificate.as_ref().and_then(|c| stamp(&c.0))]
        })
        .collect()
}

fn load(files: &[RawSigning]) -> Result<Signing, String> {
    if files.is_empty() {
        return Err("signing: at least one key (waxseal keys generate makes one)".to_owned());
    }
    let mut out =
        Signing { signers: Vec::new(), certificates: Vec::new(), previous: Vec::new(), oldest_key: None };
    let key_at = |place: &str, text: &str| -> Result<(MemoryKey, Option<SystemTime>), String> {
        let path = file_of(place, text)?;
        let key = MemoryKey::from_pem(&read(place, path)?).map_err(|e| format!("{place}: {path}: {e}"))?;
        Ok((key, std::fs::metadata(path).and_then(|m| m.modified()).ok()))
    };
    for (i, s) in files.iter().enumerate() {
        let place = format!("signing[{i}].key");
        let (key, modified) = key_at(&place, &s.key.0)?;
        let id = key.public().id();
        if out.signers.iter().any(|k| k.public().id() == id) {
            return Err(format!("{place}: {}: the same key twice", s.key.0));
        }
        out.oldest_key = [out.oldest_key, modified].into_iter().flatten().min();
        let chain = match &s.certificate {
            None => Vec::new(),
            Some(c) => {
                use rustls_pki_types::pem::PemObject as _;
                let pem = read(&format!("signing[{i}].certificate"), &c.0)?;
                rustls_pki_types::CertificateDer::pem_slice_iter(&pem)
                    .map(|c| c.map(|d| d.to_vec()))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| format!("signing[{i}].certificate: {}: {e}", c.0))?
            }
        };
        if let Some(leaf) = chain.first() {
            // A pair that does not belong together would be found out by an auditor, years on.
            waxseal_trail::certificate::check_leaf(leaf, key.public())
                .map_err(|e| format!("signing[{i}].certificate: {e} than signing[{i}].key"))?;
        }
        if let Some(previous) = &s.previous {
            out.previous.push(Arc::new(key_at(&format!("signing[{i}].previous"), &previous.0)?.0));
        }
        out.signers.push(Arc::new(key));
        out.certificates.push(chain);
    }
    Ok(out)
}
