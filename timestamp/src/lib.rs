//! RFC 3161 time-stamps: what is asked of a time-stamping authority (TSA), and whether what it answers is one.
//!
//! A token says that something with this digest existed at a time, and nothing more. It counts if one signer, whose certificate is
//! for time-stamping and led to a trusted root at that time, signed exactly that (RFC 3161 section 2.4.2, RFC 5652 section 5.4,
//! RFC 5816). What the signature does not cover, such as the status' text, says nothing.
//!
//! The structures are RustCrypto's, path building is `rustls-webpki`'s, through the same algorithms as for writers' certificates.

#![forbid(unsafe_code)]

use cms::cert::CertificateChoices;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use der::asn1::{Int, OctetString};
use der::oid::ObjectIdentifier;
use der::{Any, AnyRef, Decode, Encode, Sequence, Tag, Tagged};
use sha2::Digest as _;
use waxseal_trail::certificate::{ChainFault, Scheme, has_signed, verify_time_stamping};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::proof::Stamped;
use waxseal_trail::time::Time;
use x509_cert::Certificate;
use x509_cert::ext::Extensions;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectKeyIdentifier};
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_tsp::{Accuracy, MessageImprint, TimeStampReq, TimeStampResp, TspVersion};

/// The largest response that is read, in bytes.
pub const MAX_RESPONSE: usize = 24 << 10;
/// So many certificates beside the signer's may be in one: a path is searched among them.
const MAX_OTHERS: usize = 12;
/// The media type of a request (RFC 3161 section 3.4).
pub const REQUEST_TYPE: &str = "application/timestamp-query";
/// The media type of a response.
pub const RESPONSE_TYPE: &str = "application/timestamp-reply";

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SIGNING_CERTIFICATE_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA_512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSA_SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_SHA_512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const ECDSA_SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const SUBJECT_KEY_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");

/// Why a response is no time-stamp that counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StampFault {
    /// Not DER of a response.
    #[error("not a time-stamp response (RFC 3161): {0}")]
    Form(String),
    /// The TSA has not granted it.
    #[error("the TSA did not grant it: {0}")]
    Status(String),
    /// Something else is in it than a time-stamp.
    #[error("its content type is {0}, not that of a time-stamp")]
    ContentType(String),
    /// Not exactly one signer.
    #[error("{0} signers; a time-stamp has one")]
    Signers(usize),
    /// The signer's certificate is not in it.
    #[error("the signer's certificate is not in it")]
    NoCertificate,
    /// The signed attributes do not name the signer's certificate (ESSCertIDv2, RFC 5816).
    #[error("its signed attributes do not name the signer's certificate (ESSCertIDv2)")]
    CertificateId,
    /// The certificate is for something else.
    #[error("the signer's certificate is not for time-stamping alone (EKU timeStamping, critical)")]
    Usage,
    /// A certificate was not valid at the time.
    #[error("a certificate of its chain was not valid at {0}")]
    Expired(Time),
    /// No root that is trusted.
    #[error("no chain to a root that is trusted")]
    UnknownRoot,
    /// Another fault of the chain.
    #[error("its certificates: {0}")]
    Chain(String),
    /// An algorithm that does not count.
    #[error("it is signed with {0}, which does not count")]
    Algorithm(String),
    /// The digest in the signed attributes is not the content's.
    #[error("its signed digest is not its content's")]
    Digest,
    /// The signature.
    #[error("its signature does not verify")]
    Signature,
    /// It is about something else.
    #[error("it is about something else (imprint {0})")]
    Imprint(String),
    /// The answer to another request.
    #[error("its nonce is another request's")]
    Nonce,
}

/// A time-stamp that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What it is about: SHA-256.
    pub imprint: Hash,
    /// Not later than this: the time that the TSA says, and the accuracy that it claims.
    pub at: Time,
    /// The TSA's number for it, hex.
    pub serial: String,
    /// The end of the signer's certificate: before it, the token has to be renewed.
    pub not_after: Time,
}

/// A request: what is sent, and the nonce that the answer has to have.
///
/// # Errors
/// [`StampFault::Form`], if that cannot be encoded.
pub fn request(imprint: &Hash, nonce: &[u8; 16]) -> Result<Vec<u8>, StampFault> {
    let request = TimeStampReq {
        version: TspVersion::V1,
        message_imprint: MessageImprint {
            hash_algorithm: AlgorithmIdentifierOwned { oid: SHA_256, parameters: None },
            hashed_message: OctetString::new(imprint.0).map_err(form)?,
        },
        req_policy: None,
        nonce: Some(nonce_of(nonce)?),
        // The certificate has to be in what is kept.
        cert_req: true,
        extensions: None,
    };
    request.to_der().map_err(form)
}

/// A positive number, so that no TSA finds fault with its sign.
fn nonce_of(nonce: &[u8; 16]) -> Result<Int, StampFault> {
    let mut bytes = *nonce;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Int::new(&bytes).map_err(form)
}

fn form(e: impl core::fmt::Display) -> StampFault {
    StampFault::Form(e.to_string())
}

/// `TSTInfo` (RFC 3161 section 2.4.2). RustCrypto's own knows no fractions of a second.
#[derive(Clone, Debug, Sequence)]
struct TstInfo {
    version: TspVersion,
    policy: ObjectIdentifier,
    message_imprint: MessageImprint,
    serial_number: Int,
    gen_time: Any,
    #[asn1(optional = "true")]
    accuracy: Option<Accuracy>,
    #[asn1(default = "Default::default")]
    ordering: bool,
    #[asn1(optional = "true")]
    nonce: Option<Int>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    tsa: Option<GeneralName>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    extensions: Option<Extensions>,
}

/// `ESSCertIDv2` (RFC 5035).
#[derive(Clone, Debug, Sequence)]
struct EssCertIdV2 {
    /// SHA-256 if it is not there.
    #[asn1(optional = "true")]
    hash_algorithm: Option<AlgorithmIdentifierOwned>,
    cert_hash: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<Any>,
}

/// `SigningCertificateV2` (RFC 5035).
#[derive(Clone, Debug, Sequence)]
struct SigningCertificateV2 {
    certs: Vec<EssCertIdV2>,
    #[asn1(optional = "true")]
    policies: Option<Any>,
}

/// Checks a response (DER of `TimeStampResp`): whether it is a time-stamp by a TSA that leads to one of `roots` (DER), about
/// `imprint`, and the answer to the request with `nonce`, where these are given.
///
/// # Errors
/// [`StampFault`].
pub fn verify(
    response: &[u8],
    imprint: Option<&Hash>,
    nonce: Option<&[u8; 16]>,
    roots: &[Vec<u8>],
) -> Result<Stamp, StampFault> {
    if response.len() > MAX_RESPONSE {
        return Err(StampFault::Form(format!("more than {MAX_RESPONSE} bytes")));
    }
    let response = TimeStampResp::from_der(response).map_err(form)?;
    // 0 is granted, 1 granted with modifications (RFC 3161 section 2.4.2).
    if response.status.status as u32 > 1 {
        let text = response.status.status_string.iter().flatten().map(|s| s.to_string());
        let text: String = text.collect::<Vec<_>>().join("; ").chars().take(200).collect();
        return Err(StampFault::Status(format!("{:?} {text}", response.status.status)));
    }
    let token = response.time_stamp_token.ok_or_else(|| StampFault::Status("it sent no token".to_owned()))?;
    if token.content_type != SIGNED_DATA {
        return Err(StampFault::ContentType(token.content_type.to_string()));
    }
    let signed: SignedData = token.content.decode_as().map_err(form)?;
    let content = &signed.encap_content_info;
    if content.econtent_type != TST_INFO {
        return Err(StampFault::ContentType(content.econtent_type.to_string()));
    }
    let content: OctetString =
        content.econtent.as_ref().ok_or_else(|| form("no content"))?.decode_as().map_err(form)?;
    let info = TstInfo::from_der(content.as_bytes()).map_err(form)?;
    let [signer] = signed.signer_infos.0.as_slice() else {
        return Err(StampFault::Signers(signed.signer_infos.0.len()));
    };
    let mut others = Vec::new();
    let mut leaf = None;
    for choice in signed.certificates.iter().flat_map(|c| c.0.iter()) {
        let CertificateChoices::Certificate(certificate) = choice else { continue };
        let der = certificate.to_der().map_err(form)?;
        if leaf.is_none() && is_signers(certificate, signer) {
            leaf = Some((certificate, der));
        } else {
            others.push(der);
        }
        if others.len() > MAX_OTHERS {
            return Err(form("more certificates than a path needs"));
        }
    }
    let (certificate, leaf) = leaf.ok_or(StampFault::NoCertificate)?;
    let signed_digest = check_signer(signer, &leaf)?;
    if digest(&signer.digest_alg.oid, content.as_bytes()) != Some(signed_digest) {
        return Err(StampFault::Digest);
    }
    check_usage(certificate)?;
    let said = gen_time(&info.gen_time)?;
    let path = verify_time_stamping(&leaf, &others, roots, said).map_err(|e| match e {
        ChainFault::Form => form("the signer's certificate"),
        ChainFault::Expired => StampFault::Expired(said),
        ChainFault::UnknownRoot => StampFault::UnknownRoot,
        ChainFault::Other(why) => StampFault::Chain(why),
        other => StampFault::Chain(format!("{other:?}")),
    })?;
    let about = &info.message_imprint;
    let bytes = about.hashed_message.as_bytes();
    let has = <[u8; 32]>::try_from(bytes).ok().filter(|_| about.hash_algorithm.oid == SHA_256).map(Hash);
    let has = has.ok_or_else(|| {
        StampFault::Imprint(format!("of {} bytes by {}", bytes.len(), about.hash_algorithm.oid))
    })?;
    if imprint.is_some_and(|i| *i != has) {
        return Err(StampFault::Imprint(has.to_string()));
    }
    if let Some(nonce) = nonce
        && info.nonce.as_ref() != Some(&nonce_of(nonce)?)
    {
        return Err(StampFault::Nonce);
    }
    // It is vouched for as long as all that lead to the root are.
    let end = |c: &Certificate| c.tbs_certificate.validity.not_after.to_unix_duration().as_secs();
    let between = path.iter().filter_map(|der| Certificate::from_der(der).ok()).map(|c| end(&c));
    let end = between.fold(end(certificate), u64::min);
    let not_after = i64::try_from(end).ok().and_then(|s| Time::from_unix(s, 0)).unwrap_or(Time::MAX);
    let serial = info.serial_number.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    Ok(Stamp { imprint: has, at: latest(said, info.accuracy.as_ref()), serial, not_after })
}

/// Checks the time-stamps in proofs against the roots of a trust file.
pub fn checker(roots: &[Vec<u8>]) -> impl Fn(&[u8], &Hash) -> Result<Stamped, String> + '_ {
    move |response, imprint| {
        if roots.is_empty() {
            return Err("the trust file names no time-stamping authority".to_owned());
        }
        let stamp = verify(response, Some(imprint), None, roots).map_err(|e| e.to_string())?;
        Ok(Stamped { at: stamp.at, not_after: stamp.not_after })
    }
}

/// Whether a certificate is the one that a signer names.
fn is_signers(certificate: &Certificate, signer: &SignerInfo) -> bool {
    let tbs = &certificate.tbs_certificate;
    match &signer.sid {
        SignerIdentifier::IssuerAndSerialNumber(id) => {
            id.issuer == tbs.issuer && id.serial_number == tbs.serial_number
        }
        SignerIdentifier::SubjectKeyIdentifier(id) => {
            let ours = extension(certificate, SUBJECT_KEY_ID).map(|(_, value)| value);
            ours.and_then(|v| SubjectKeyIdentifier::from_der(v).ok()).is_some_and(|ours| ours == *id)
        }
    }
}

/// The value of an extension, and whether it is critical.
fn extension(certificate: &Certificate, id: ObjectIdentifier) -> Option<(bool, &[u8])> {
    let all = certificate.tbs_certificate.extensions.iter().flatten();
    all.filter(|e| e.extn_id == id).map(|e| (e.critical, e.extn_value.as_bytes())).next()
}

/// Only for time-stamping, and that critical (RFC 3161 section 2.3).
fn check_usage(certificate: &Certificate) -> Result<(), StampFault> {
    let (critical, value) = extension(certificate, EXTENDED_KEY_USAGE).ok_or(StampFault::Usage)?;
    let purposes = ExtendedKeyUsage::from_der(value).map_err(|_| StampFault::Usage)?;
    let signs = match extension(certificate, KEY_USAGE) {
        Some((_, value)) => KeyUsage::from_der(value).is_ok_and(|u| {
            u.0.contains(KeyUsages::DigitalSignature) || u.0.contains(KeyUsages::NonRepudiation)
        }),
        None => true,
    };
    if critical && purposes.0 == [TIME_STAMPING] && signs { Ok(()) } else { Err(StampFault::Usage) }
}

/// The digest that a signer has signed, if its attributes are what they have to be and the signature over them verifies.
fn check_signer(signer: &SignerInfo, leaf: &[u8]) -> Result<Vec<u8>, StampFault> {
    let attributes = signer.signed_attrs.as_ref().ok_or_else(|| form("no signed attributes"))?;
    let one = |id: ObjectIdentifier| {
        let mut all = attributes.iter().filter(|a| a.oid == id);
        match (all.next(), all.next()) {
            (Some(a), None) if a.values.len() == 1 => a.values.get(0),
            _ => None,
        }
    };
    let kind: Option<ObjectIdentifier> = one(CONTENT_TYPE).and_then(|v| v.decode_as().ok());
    if kind != Some(TST_INFO) {
        return Err(StampFault::ContentType(kind.map_or("not said".to_owned(), |k| k.to_string())));
    }
    let signed: OctetString =
        one(MESSAGE_DIGEST).and_then(|v| v.decode_as().ok()).ok_or(StampFault::Digest)?;
    let ids: Option<SigningCertificateV2> = one(SIGNING_CERTIFICATE_V2).and_then(|v| v.decode_as().ok());
    // The first is the signer's (RFC 5035 section 5.4.1.1).
    let first = ids.and_then(|i| i.certs.into_iter().next()).ok_or(StampFault::CertificateId)?;
    let algorithm = first.hash_algorithm.map_or(SHA_256, |a| a.oid);
    if digest(&algorithm, leaf).as_deref() != Some(first.cert_hash.as_bytes()) {
        return Err(StampFault::CertificateId);
    }
    let scheme = scheme(signer)?;
    // What is signed is the set itself, not its tag in the signer (RFC 5652 section 5.4).
    let message = attributes.to_der().map_err(form)?;
    if has_signed(leaf, scheme, &message, signer.signature.as_bytes()) {
        Ok(signed.as_bytes().to_vec())
    } else {
        Err(StampFault::Signature)
    }
}

fn scheme(signer: &SignerInfo) -> Result<Scheme, StampFault> {
    let (how, digest) = (signer.signature_algorithm.oid, signer.digest_alg.oid);
    // Attributes and content are digested alike; a scheme with a digest of its own has to have the same.
    Ok(match (how, digest) {
        (RSA | RSA_SHA_256, SHA_256) => Scheme::RsaPkcs1Sha256,
        (RSA | RSA_SHA_384, SHA_384) => Scheme::RsaPkcs1Sha384,
        (RSA | RSA_SHA_512, SHA_512) => Scheme::RsaPkcs1Sha512,
        (RSA_PSS, SHA_256) => Scheme::RsaPssSha256,
        (ECDSA_SHA_256, SHA_256) => Scheme::EcdsaSha256,
        (ECDSA_SHA_384, SHA_384) => Scheme::EcdsaSha384,
        (ED25519, SHA_512) => Scheme::Ed25519,
        _ => return Err(StampFault::Algorithm(format!("{how} over {digest}"))),
    })
}

fn digest(algorithm: &ObjectIdentifier, bytes: &[u8]) -> Option<Vec<u8>> {
    match *algorithm {
        SHA_256 => Some(sha256(bytes).0.to_vec()),
        SHA_384 => Some(sha2::Sha384::digest(bytes).to_vec()),
        SHA_512 => Some(sha2::Sha512::digest(bytes).to_vec()),
        _ => None,
    }
}

/// `YYYYMMDDhhmmss[.f…]Z` (RFC 3161 section 2.4.2).
fn gen_time(any: &Any) -> Result<Time, StampFault> {
    let bad = || form("genTime");
    let value = AnyRef::from(any);
    if value.tag() != Tag::GeneralizedTime {
        return Err(bad());
    }
    let text = std::str::from_utf8(value.value()).map_err(|_| bad())?;
    let text = text.strip_suffix('Z').filter(|t| t.is_ascii() && t.len() >= 14).ok_or_else(bad)?;
    let (whole, fraction) = text.split_at(14);
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let fraction = match fraction.strip_prefix('.') {
        Some(f) if !f.is_empty() && f.len() <= 9 && digits(f) && !f.ends_with('0') => fraction,
        None if fraction.is_empty() => "",
        _ => return Err(bad()),
    };
    if !digits(whole) {
        return Err(bad());
    }
    let part = |a: usize, b: usize| &whole[a..b];
    let text = format!(
        "{}-{}-{}T{}:{}:{}{fraction}Z",
        part(0, 4),
        part(4, 6),
        part(6, 8),
        part(8, 10),
        part(10, 12),
        part(12, 14)
    );
    Time::parse_rfc3339(&text).ok_or_else(bad)
}

/// The time that was said, and as much later as its accuracy allows.
fn latest(said: Time, accuracy: Option<&Accuracy>) -> Time {
    let Some(a) = accuracy else { return said };
    let seconds = i64::try_from(a.seconds.unwrap_or(0)).unwrap_or(i64::MAX);
    let below = a.millis.is_some() || a.micros.is_some();
    said.saturating_add_seconds(seconds.saturating_add(i64::from(below)))
}
