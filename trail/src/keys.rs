//! Public keys and signatures. The algorithm follows from the key, never from the envelope.

use crate::base64;
use crate::hash::{Hash, sha256};
use data_encoding::BASE64;
use rsa::pkcs8::{DecodePublicKey as _, EncodePublicKey as _};
use rsa::signature::Verifier as _;
use rsa::traits::PublicKeyParts as _;

/// The largest modulus, in bits, that a reader accepts.
pub const MAX_RSA_BITS: u32 = 8192;
/// The smallest.
pub const MIN_RSA_BITS: u32 = 2048;

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// Not standard base64 with padding.
    #[error("the key is not padded standard base64")]
    Base64,
    /// No SubjectPublicKeyInfo in DER, or not in its one encoding.
    #[error("the key is not a DER SubjectPublicKeyInfo")]
    Der,
    /// An algorithm that this version does not know (ECDSA P-256 and ML-DSA-65 are reserved).
    #[error("the key's algorithm is neither rsaEncryption nor Ed25519")]
    Algorithm,
    /// An RSA modulus outside 2048 to 8192 bits.
    #[error("an RSA key of {0} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted")]
    RsaSize(u32),
    /// An Ed25519 point that is not canonical or has small order.
    #[error("the Ed25519 key is not a canonical point of large order")]
    WeakPoint,
}

#[derive(Clone)]
enum Inner {
    Rsa(Box<rsa::pss::VerifyingKey<sha2::Sha256>>),
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

/// A public key that statements are verified with.
#[derive(Clone)]
pub struct PublicKey {
    spki: Vec<u8>,
    id: Hash,
    inner: Inner,
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PublicKey {}

impl core::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {}", self.algorithm(), self.id)
    }
}

impl PublicKey {
    /// From a DER SubjectPublicKeyInfo (RFC 5280 section 4.1).
    ///
    /// # Errors
    /// [`KeyFault`]; also for a second encoding of the same key, since key ids are digests of the DER.
    pub fn from_spki(der: &[u8]) -> Result<PublicKey, KeyFault> {
        let info = rsa::pkcs8::SubjectPublicKeyInfoRef::try_from(der).map_err(|_| KeyFault::Der)?;
        let oid = info.algorithm.oid.to_string();
        let inner = match oid.as_str() {
            "1.2.840.113549.1.1.1" => {
                let key = rsa::PublicKey::from_public_key_der(der).map_err(|_| KeyFault::Der)?;
                let bits = key.n().bit_width_vartime();
                if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
                    return Err(KeyFault::RsaSize(bits));
                }
                let again = key.to_public_key_der().map_err(|_| KeyFault::Der)?;
                if again.as_bytes() != der {
                    return Err(KeyFault::Der);
                }
                Inner::Rsa(Box::new(rsa::pss::VerifyingKey::new_with_salt_len(key, 32)))
            }
            "1.3.101.112" => {
                let prefix = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
                let raw = der.strip_prefix(prefix).ok_or(KeyFault::Der)?;
                let raw: [u8; 32] = raw.try_into().map_err(|_| KeyFault::Der)?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(&raw).map_err(|_| KeyFault::WeakPoint)?;
                if key.is_weak() || key.to_edwards().compress().to_bytes() != raw {
                    return Err(KeyFault::WeakPoint);
                }
                Inner::Ed25519(Box::new(key))
            }
            _ => return Err(KeyFault::Algorithm),
        };
        Ok(PublicKey { spki: der.to_vec(), id: sha256(der), inner })
    }

    /// From padded standard base64 of the DER, as statements and trust files carry it.
    ///
    /// # Errors
    /// [`KeyFault`].
    pub fn from_base64(text: &str) -> Result<PublicKey, KeyFault> {
        PublicKey::from_spki(&base64::decode(text).ok_or(KeyFault::Base64)?)
    }

    /// Padded standard base64 of the DER SubjectPublicKeyInfo.
    pub fn to_base64(&self) -> String {
        BASE64.encode(&self.spki)
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The key id: SHA-256 of the DER SubjectPublicKeyInfo.
    pub fn id(&self) -> Hash {
        self.id
    }

    /// For people: `rsa-3072` or `ed25519`.
    pub fn algorithm(&self) -> String {
        match &self.inner {
            Inner::Rsa(k) => format!("rsa-{}", k.as_ref().as_ref().n().bit_width_vartime()),
            Inner::Ed25519(_) => "ed25519".to_owned(),
        }
    }

    /// Whether `signature` over `message` is this key's: RSASSA-PSS (RFC 8017 section 8.1) with SHA-256,
    /// MGF1-SHA-256 and a salt of exactly 32 bytes, or Ed25519 (RFC 8032) with canonical encodings only and
    /// no points of small order.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.inner {
            Inner::Rsa(key) => {
                rsa::pss::Signature::try_from(signature).is_ok_and(|s| key.verify(message, &s).is_ok())
            }
            Inner::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|s| key.verify_strict(message, &s).is_ok()),
        }
    }
}
