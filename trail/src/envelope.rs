//! DSSE envelopes in canonical JSON (FORMAT section 3).
//!
//! The pre-authentication encoding is that of the DSSE protocol, version 1:
//! `"DSSEv1" SP len(type) SP type SP len(payload) SP payload`, lengths in decimal.

use crate::base64;
use crate::hash::{Hash, leaf_hash};
use crate::json;
use crate::keys::PublicKey;
use crate::record::MAX_DEPTH;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// The largest payload, in bytes.
pub const MAX_PAYLOAD: usize = 40_000;
/// The largest envelope, in bytes: with its length, an entry of the log must stay under 65,535.
pub const MAX_ENVELOPE: usize = 60_000;

/// What `payloadType` is for statements of type `kind`.
pub fn payload_type(kind: &str) -> String {
    format!("application/vnd.waxseal.{kind}+json")
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSignature {
    keyid: Hash,
    sig: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    payload: String,
    payload_type: String,
    signatures: Vec<RawSignature>,
}

/// One signature of an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which key: SHA-256 of its DER SubjectPublicKeyInfo.
    pub key: Hash,
    /// The signature's bytes.
    pub bytes: Vec<u8>,
}

/// A signed statement as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The payload: canonical JSON.
    pub payload: Vec<u8>,
    /// `application/vnd.waxseal.<type>+json`.
    pub payload_type: String,
    /// In the order of the keys that had to sign.
    pub signatures: Vec<Signature>,
}

/// Why bytes are no valid envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeFault {
    /// Over the limits.
    #[error("larger than a statement may be")]
    Size,
    /// Not exactly `payload`, `payloadType` and `signatures` in canonical JSON.
    #[error("not a DSSE envelope in canonical JSON")]
    Form,
    /// A payload that is not the canonical form of its own parse.
    #[error("its payload is not canonical JSON")]
    Payload,
    /// Not one signature for each required key, in order.
    #[error("signed by other keys than the {0} required, or in another order")]
    Signers(usize),
    /// A signature that is not the key's.
    #[error("the signature of key {0} does not verify")]
    Signature(Hash),
}

impl Envelope {
    /// Reads an envelope strictly; signatures are not checked yet.
    ///
    /// # Errors
    /// [`EnvelopeFault`].
    pub fn parse(bytes: &[u8]) -> Result<Envelope, EnvelopeFault> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(EnvelopeFault::Size);
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|_| EnvelopeFault::Form)?;
        let decode = |t: &str| base64::decode(t).ok_or(EnvelopeFault::Form);
        let envelope = Envelope {
            payload: decode(&raw.payload)?,
            payload_type: raw.payload_type,
            signatures: raw
                .signatures
                .iter()
                .map(|s| Ok(Signature { key: s.keyid, bytes: decode(&s.sig)? }))
                .collect::<Result<_, _>>()?,
        };
        if envelope.payload.len() > MAX_PAYLOAD {
            return Err(EnvelopeFault::Size);
        }
        if envelope.to_bytes().as_deref() != Ok(bytes) {
            return Err(EnvelopeFault::Form);
        }
        match json::canonicalize_within(&envelope.payload, MAX_DEPTH) {
            Ok(again) if again == envelope.payload => Ok(envelope),
            _ => Err(EnvelopeFault::Payload),
        }
    }

    /// The envelope's bytes.
    ///
    /// # Errors
    /// [`EnvelopeFault::Size`] if a reader would refuse it for its size.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EnvelopeFault> {
        let raw = Raw {
            payload: BASE64.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: self
                .signatures
                .iter()
                .map(|s| RawSignature { keyid: s.key, sig: BASE64.encode(&s.bytes) })
                .collect(),
        };
        let bytes = json::to_canonical(&raw).map_err(|_| EnvelopeFault::Form)?;
        if bytes.len() > MAX_ENVELOPE || self.payload.len() > MAX_PAYLOAD {
            return Err(EnvelopeFault::Size);
        }
        Ok(bytes)
    }

    /// The statement hash: `H(payload)`.
    pub fn statement_hash(&self) -> Hash {
        leaf_hash(&self.payload)
    }

    /// What the signatures are over.
    pub fn signed_bytes(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// Whether there is exactly one right signature for each of `keys`, in their order.
    ///
    /// # Errors
    /// [`EnvelopeFault::Signers`] or [`EnvelopeFault::Signature`].
    pub fn verify(&self, keys: &[&PublicKey]) -> Result<(), EnvelopeFault> {
        let ids: Vec<Hash> = self.signatures.iter().map(|s| s.key).collect();
        if keys.is_empty() || ids != keys.iter().map(|k| k.id()).collect::<Vec<_>>() {
            return Err(EnvelopeFault::Signers(keys.len()));
        }
        let message = self.signed_bytes();
        for (key, signature) in keys.iter().zip(&self.signatures) {
            if !key.verify(&message, &signature.bytes) {
                return Err(EnvelopeFault::Signature(key.id()));
            }
        }
        Ok(())
    }
}

/// The DSSE pre-authentication encoding.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocols_own_example() {
        // From the DSSE protocol page: type "http://example.com/HelloWorld", body "hello world".
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn only_one_form_is_read() {
        let e = Envelope {
            payload: b"{\"a\":1}".to_vec(),
            payload_type: payload_type("batch"),
            signatures: vec![Signature { key: Hash::empty(), bytes: vec![1, 2, 3] }],
        };
        let bytes = e.to_bytes().unwrap();
        assert_eq!(Envelope::parse(&bytes), Ok(e.clone()));
        let text = String::from_utf8(bytes).unwrap();
        for bad in [
            format!(" {text}"),
            format!("{text}\n"),
            text.replace("\"sig\"", "\"extra\":1,\"sig\""),
            text.replace("AQID", "AQIE="),
            text.replace("application/vnd", "application\\/vnd"),
        ] {
            assert!(Envelope::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let mut loose = e;
        loose.payload = b"{ \"a\":1}".to_vec();
        assert_eq!(Envelope::parse(&loose.to_bytes().unwrap()), Err(EnvelopeFault::Payload));
    }
}
