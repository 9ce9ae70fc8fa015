//! X.509 for writers' keys: a chain to a pinned CA, and the writer's name in a SAN (FORMAT section 3, "Trust").
//!
//! Path building and the checks of RFC 5280 are `rustls-webpki`'s; the signature algorithms behind it are
//! pure Rust, so that a browser can verify too.

use crate::keys::PublicKey;
use crate::time::Time;
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, UnixTime, alg_id,
};
use std::time::Duration;

/// Why a certificate does not vouch for a writer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateFault {
    /// The file could not be read.
    #[error("{0}")]
    File(String),
    /// Neither DER nor PEM of one certificate.
    #[error("not an X.509 certificate")]
    Form,
    /// The leaf certifies another key.
    #[error("the leaf certificate is for another key")]
    OtherKey,
    /// No chain to the CA.
    #[error("no chain to the CA: {0}")]
    Chain(String),
    /// No SAN with the writer's name.
    #[error("no SAN names the writer {0}")]
    Name(String),
}

/// DER from DER or PEM (RFC 7468) of one certificate.
///
/// # Errors
/// [`CertificateFault::Form`].
pub fn to_der(bytes: &[u8]) -> Result<Vec<u8>, CertificateFault> {
    use rustls_pki_types::pem::PemObject as _;
    let der = if bytes.starts_with(b"\x30") {
        bytes.to_vec()
    } else {
        CertificateDer::from_pem_slice(bytes).map_err(|_| CertificateFault::Form)?.to_vec()
    };
    webpki::anchor_from_trusted_cert(&CertificateDer::from(der.as_slice()))
        .map_err(|_| CertificateFault::Form)?;
    Ok(der)
}

/// Any extended key usage will do: cert-manager writes several, and the key only ever signs statements.
struct AnyUsage;

impl webpki::ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Whether a leaf certificate (DER) is for `key`.
///
/// # Errors
/// [`CertificateFault::Form`] or [`CertificateFault::OtherKey`].
pub fn check_leaf(leaf: &[u8], key: &PublicKey) -> Result<(), CertificateFault> {
    let der = CertificateDer::from(leaf);
    let leaf = webpki::EndEntityCert::try_from(&der).map_err(|_| CertificateFault::Form)?;
    if leaf.subject_public_key_info().as_ref() == key.spki() {
        Ok(())
    } else {
        Err(CertificateFault::OtherKey)
    }
}

/// Why a certificate does not vouch for a time-stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainFault {
    /// Not X.509.
    Form,
    /// It, or one above it, was not valid at the time.
    Expired,
    /// Nothing leads to a root that is trusted.
    UnknownRoot,
    /// Everything else.
    Other(String),
}

/// `id-kp-timeStamping`, as in a DER object identifier.
const TIME_STAMPING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];

/// The certificates (DER) of `others` by which one leads to one of `roots` at the time `at`, for time-stamping.
///
/// # Errors
/// [`ChainFault`].
pub fn verify_time_stamping(
    leaf: &[u8],
    others: &[Vec<u8>],
    roots: &[Vec<u8>],
    at: Time,
) -> Result<Vec<Vec<u8>>, ChainFault> {
    let der = CertificateDer::from(leaf);
    let leaf = webpki::EndEntityCert::try_from(&der).map_err(|_| ChainFault::Form)?;
    let roots: Vec<CertificateDer<'_>> = roots.iter().map(|r| CertificateDer::from(r.as_slice())).collect();
    let anchors = roots.iter().filter_map(|r| webpki::anchor_from_trusted_cert(r).ok()).collect::<Vec<_>>();
    let others: Vec<CertificateDer<'_>> = others.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
    let seconds = u64::try_from(at.unix_seconds()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let usage = webpki::KeyUsage::required_if_present(TIME_STAMPING);
    match leaf.verify_for_usage(&ALGORITHMS, &anchors, &others, now, usage, None, None) {
        Ok(path) => Ok(path.intermediate_certificates().map(|c| c.der().to_vec()).collect()),
        Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) => {
            Err(ChainFault::Expired)
        }
        // A root of the same name with another key is another root.
        Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
            Err(ChainFault::UnknownRoot)
        }
        Err(e) => Err(ChainFault::Other(format!("{e:?}"))),
    }
}

/// How a message was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // their names are their meaning
pub enum Scheme {
    RsaPkcs1Sha256,
    RsaPkcs1Sha384,
    RsaPkcs1Sha512,
    RsaPssSha256,
    EcdsaSha256,
    EcdsaSha384,
    Ed25519,
}

/// Whether the key of a certificate (DER) has signed a message.
pub fn has_signed(leaf: &[u8], scheme: Scheme, message: &[u8], signature: &[u8]) -> bool {
    let der = CertificateDer::from(leaf);
    let Ok(leaf) = webpki::EndEntityCert::try_from(&der) else { return false };
    let id = match scheme {
        Scheme::RsaPkcs1Sha256 => alg_id::RSA_PKCS1_SHA256,
        Scheme::RsaPkcs1Sha384 => alg_id::RSA_PKCS1_SHA384,
        Scheme::RsaPkcs1Sha512 => alg_id::RSA_PKCS1_SHA512,
        Scheme::RsaPssSha256 => alg_id::RSA_PSS_SHA256,
        Scheme::EcdsaSha256 => alg_id::ECDSA_SHA256,
        Scheme::EcdsaSha384 => alg_id::ECDSA_SHA384,
        Scheme::Ed25519 => alg_id::ED25519,
    };
    let fits = ALGORITHMS.iter().filter(|a| a.signature_alg_id() == id);
    fits.into_iter().any(|a| leaf.verify_signature(*a, message, signature).is_ok())
}

/// DER of all certificates in a file: DER of one, or PEM (RFC 7468) of several.
///
/// # Errors
/// [`CertificateFault::Form`]; also if there is none.
pub fn all_to_der(bytes: &[u8]) -> Result<Vec<Vec<u8>>, CertificateFault> {
    use rustls_pki_types::pem::PemObject as _;
    if bytes.starts_with(b"\x30") {
        return Ok(vec![to_der(bytes)?]);
    }
    let all = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|_| CertificateFault::Form)?;
    if all.is_empty() {
        return Err(CertificateFault::Form);
    }
    all.iter().map(|der| to_der(der)).collect()
}

/// Whether `chain` (DER, leaf first) certifies `key` for the writer `name` under `root` at the time `at`.
///
/// # Errors
/// [`CertificateFault`].
pub fn verify_chain(
    chain: &[Vec<u8>],
    key: &PublicKey,
    root: &[u8],
    trail_name: &str,
    name: &str,
    at: Time,
) -> Result<(), CertificateFault> {
    let ders: Vec<CertificateDer<'_>> = chain.iter().map(|c| CertificateDer::from(c.as_slice())).collect();
    let leaf = webpki::EndEntityCert::try_from(ders.first().ok_or(CertificateFault::Form)?)
        .map_err(|_| CertificateFault::Form)?;
    check_leaf(&chain[0], key)?;
    let root = CertificateDer::from(root);
    let anchor = webpki::anchor_from_trusted_cert(&root).map_err(|_| CertificateFault::Form)?;
    let seconds = u64::try_from(at.unix_seconds()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    leaf.verify_for_usage(&ALGORITHMS, &[anchor], &ders[1..], now, AnyUsage, None, None)
        .map_err(|e| CertificateFault::Chain(format!("{e:?}")))?;
    let uri = format!("waxseal:{trail_name}:{name}");
    let named = leaf.valid_dns_names().any(|n| n == name) || leaf.valid_uri_names().any(|n| n == uri);
    if named { Ok(()) } else { Err(CertificateFault::Name(name.to_owned())) }
}

/// Key, message, signature.
type Verify = fn(&[u8], &[u8], &[u8]) -> Option<()>;

/// A signature algorithm of certificates, in pure Rust.
#[derive(Debug)]
struct Algorithm {
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    verify: Verify,
}

impl SignatureVerificationAlgorithm for Algorithm {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        (self.verify)(key, message, signature).ok_or(InvalidSignature)
    }
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }
    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

const ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 9] = [
    &Algorithm {
        key: alg_id::RSA_ENCRYPTION,
        signature: alg_id::RSA_PKCS1_SHA256,
        verify: rsa_pkcs1::<sha2::Sha256>,
    },
    &Algorithm {
        key: alg_id::RSA_ENCRYPTION,
        signature: alg_id::RSA_PKCS1_SHA384,
        verify: rsa_pkcs1::<sha2::Sha384>,
    },
    &Algorithm {
        key: alg_id::RSA_ENCRYPTION,
        signature: alg_id::RSA_PKCS1_SHA512,
        verify: rsa_pkcs1::<sha2::Sha512>,
    },
    &Algorithm { key: alg_id::RSA_ENCRYPTION, signature: alg_id::RSA_PSS_SHA256, verify: rsa_pss },
    &Algorithm {
        key: alg_id::ECDSA_P256,
        signature: alg_id::ECDSA_SHA256,
        verify: p256_prehash::<sha2::Sha256>,
    },
    &Algorithm {
        key: alg_id::ECDSA_P256,
        signature: alg_id::ECDSA_SHA384,
        verify: p256_prehash::<sha2::Sha384>,
    },
    &Algorithm {
        key: alg_id::ECDSA_P384,
        signature: alg_id::ECDSA_SHA256,
        verify: p384_prehash::<sha2::Sha256>,
    },
    &Algorithm {
        key: alg_id::ECDSA_P384,
        signature: alg_id::ECDSA_SHA384,
        verify: p384_prehash::<sha2::Sha384>,
    },
    &Algorithm { key: alg_id::ED25519, signature: alg_id::ED25519, verify: ed25519 },
];

fn rsa_key(pkcs1: &[u8]) -> Option<rsa::PublicKey> {
    use rsa::pkcs1::DecodeRsaPublicKey as _;
    rsa::PublicKey::from_pkcs1_der(pkcs1).ok()
}

fn rsa_pkcs1<D>(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()>
where
    D: sha2::Digest + rsa::pkcs8::AssociatedOid,
{
    use rsa::signature::Verifier as _;
    let signature = rsa::pkcs1v15::Signature::try_from(signature).ok()?;
    rsa::pkcs1v15::VerifyingKey::<D>::new(rsa_key(key)?).verify(message, &signature).ok()
}

fn rsa_pss(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    use rsa::signature::Verifier as _;
    let signature = rsa::pss::Signature::try_from(signature).ok()?;
    rsa::pss::VerifyingKey::<sha2::Sha256>::new_with_salt_len(rsa_key(key)?, 32)
        .verify(message, &signature)
        .ok()
}

fn p256_prehash<D: sha2::Digest>(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
    let signature = p256::ecdsa::Signature::from_der(signature).ok()?;
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    key.verify_prehash(&D::digest(message), &signature).ok()
}

fn p384_prehash<D: sha2::Digest>(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    use p384::ecdsa::signature::hazmat::PrehashVerifier as _;
    let signature = p384::ecdsa::Signature::from_der(signature).ok()?;
    let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    key.verify_prehash(&D::digest(message), &signature).ok()
}

fn ed25519(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let key = ed25519_dalek::VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
    let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
    key.verify_strict(message, &signature).ok()
}
