//! Signing keys: PEM files now; PKCS#11 and KMS are further variants of [`Signer`]'s one trait.

#![forbid(unsafe_code)]

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use aws_lc_rs::{rand::SystemRandom, rsa, signature};
use data_encoding::BASE64;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use std::sync::Arc;
use waxseal_trail::envelope::{Envelope, Signature};
use waxseal_trail::keys::PublicKey;

/// What can sign for one public key.
pub trait Signer: Send + Sync {
    /// The key that verifies.
    fn public(&self) -> &PublicKey;

    /// A signature over `message`, in the key's algorithm (FORMAT section 3).
    ///
    /// # Errors
    /// Why the provider could not; it may pass.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError>;
}

/// Why there is no key, or no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// No private key in PEM in the file.
    #[error("no private key in PEM (PKCS#8 or PKCS#1)")]
    NoKey,
    /// Neither RSA of 2048 to 8192 bits nor Ed25519.
    #[error("the key is neither RSA of 2048 to 8192 bits nor Ed25519: {0}")]
    Unsupported(String),
    /// The provider refused.
    #[error("the key's provider refused to sign")]
    Refused,
}

enum Inner {
    Rsa(Box<rsa::KeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A key that lies in memory, read from PEM.
pub struct MemoryKey {
    public: PublicKey,
    inner: Inner,
}

impl MemoryKey {
    /// From PEM: PKCS#8, or PKCS#1 for RSA.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn from_pem(pem: &[u8]) -> Result<MemoryKey, SignerError> {
        let unsupported = |e: &dyn std::fmt::Display| SignerError::Unsupported(e.to_string());
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| SignerError::NoKey)?;
        let rsa = match &der {
            PrivateKeyDer::Pkcs8(d) => rsa::KeyPair::from_pkcs8(d.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(d) => rsa::KeyPair::from_der(d.secret_pkcs1_der()),
            _ => return Err(SignerError::NoKey),
        };
        if let Ok(pair) = rsa {
            return MemoryKey::new(Inner::Rsa(Box::new(pair)));
        }
        let PrivateKeyDer::Pkcs8(d) = &der else { return Err(SignerError::NoKey) };
        let pair = Ed25519KeyPair::from_pkcs8(d.secret_pkcs8_der()).map_err(|e| unsupported(&e))?;
        MemoryKey::new(Inner::Ed25519(Box::new(pair)))
    }

    fn new(inner: Inner) -> Result<MemoryKey, SignerError> {
        let spki: PublicKeyX509Der<'_> = match &inner {
            Inner::Rsa(pair) => pair.public_key().as_der(),
            Inner::Ed25519(pair) => pair.public_key().as_der(),
        }
        .map_err(|_| SignerError::NoKey)?;
        let public =
            PublicKey::from_spki(spki.as_ref()).map_err(|e| SignerError::Unsupported(e.to_string()))?;
        Ok(MemoryKey { public, inner })
    }

    /// A fresh key.
    ///
    /// # Errors
    /// If the library cannot make one.
    pub fn generate(algorithm: Algorithm) -> Result<MemoryKey, SignerError> {
        let failed = |_| SignerError::Unsupported("no key could be made".to_owned());
        MemoryKey::new(match algorithm {
            Algorithm::Rsa => {
                Inner::Rsa(Box::new(rsa::KeyPair::generate(rsa::KeySize::Rsa3072).map_err(failed)?))
            }
            Algorithm::Ed25519 => Inner::Ed25519(Box::new(Ed25519KeyPair::generate().map_err(failed)?)),
        })
    }

    /// The private key as PKCS#8 in PEM (RFC 7468).
    ///
    /// # Errors
    /// If the library cannot write it.
    pub fn to_pem(&self) -> Result<String, SignerError> {
        let der = match &self.inner {
            Inner::Rsa(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| SignerError::Refused)?;
                der.as_ref().to_vec()
            }
            Inner::Ed25519(pair) => pair.to_pkcs8v1().map_err(|_| SignerError::Refused)?.as_ref().to_vec(),
        };
        Ok(pem("PRIVATE KEY", &der))
    }

    /// The public key as SubjectPublicKeyInfo in PEM.
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", self.public.spki())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|c| std::str::from_utf8(c).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// What kind of key to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA of 3072 bits.
    Rsa,
    /// Ed25519.
    Ed25519,
}

impl Signer for MemoryKey {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        match &self.inner {
            Inner::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                // The library's PSS salt is as long as the digest: 32 bytes.
                pair.sign(&signature::RSA_PSS_SHA256, &SystemRandom::new(), message, &mut out)
                    .map_err(|_| SignerError::Refused)?;
                Ok(out)
            }
            Inner::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

/// Signs an envelope with each of `signers`, in their order.
///
/// # Errors
/// [`SignerError::Refused`].
pub fn sign(envelope: &mut Envelope, signers: &[Arc<dyn Signer>]) -> Result<(), SignerError> {
    let message = envelope.signed_bytes();
    envelope.signatures = signers
        .iter()
        .map(|s| Ok(Signature { key: s.public().id(), bytes: s.sign(&message)? }))
        .collect::<Result<_, SignerError>>()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_round_trip() {
        for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
            let key = MemoryKey::generate(algorithm).unwrap();
            let again = MemoryKey::from_pem(key.to_pem().unwrap().as_bytes()).unwrap();
            assert_eq!(key.public(), again.public());
            let sig = again.sign(b"message").unwrap();
            assert!(key.public().verify(b"message", &sig));
            assert!(!key.public().verify(b"massage", &sig));
        }
        assert!(matches!(MemoryKey::from_pem(b"nothing"), Err(SignerError::NoKey)));
    }
}
