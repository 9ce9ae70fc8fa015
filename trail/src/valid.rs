//! Which bytes under a key are valid (FORMAT section 5 rule 3): by their place, and by the keys in force. Whether anybody trusts
//! those keys, and what the payload says, are other matters.

use crate::envelope::{Envelope, payload_type};
use crate::hash::Hash;
use crate::keys::PublicKey;
use crate::name;
use crate::statement::{
    self, Acknowledgement, Batch, COLUMNS, ExpectedWriters, Finding, Keys, Payload, PayloadFault, Renewal,
    Retirement, Trail, Writer, WriterKey,
};

/// Why what lies under a key is not its object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Not valid: whoever should have said it did not say it here.
    #[error("{0}")]
    Invalid(String),
    /// Valid, but for a reader of another version.
    #[error("{0}")]
    Unknown(String),
    /// Valid, but against the page.
    #[error("{0}")]
    Malformed(String),
}

fn invalid(e: impl core::fmt::Display) -> Bad {
    Bad::Invalid(e.to_string())
}

fn loose(envelope: &Envelope) -> serde_json::Value {
    serde_json::from_slice(&envelope.payload).unwrap_or_default()
}

fn public_keys(envelope: &Envelope) -> Result<Vec<PublicKey>, Bad> {
    let keys: Vec<WriterKey> =
        serde_json::from_value(loose(envelope)["keys"].clone()).map_err(|e| invalid(&e))?;
    if keys.is_empty() {
        return Err(Bad::Invalid("it names no key".to_owned()));
    }
    keys.iter().map(|k| PublicKey::from_base64(&k.spki).map_err(|e| invalid(&e))).collect()
}

fn signed(envelope: &Envelope, keys: &[PublicKey]) -> Result<(), Bad> {
    envelope.verify(&keys.iter().collect::<Vec<_>>()).map_err(|e| invalid(&e))
}

/// What lies under `statements/`, and whether an operator signs it; else a worker does.
pub const STATEMENTS: [(&str, bool); 6] = [
    (Acknowledgement::KIND, true),
    ("erasure", true),
    (ExpectedWriters::KIND, true),
    (Finding::KIND, false),
    (Renewal::KIND, false),
    (Retirement::KIND, true),
];

/// Where a statement belongs, by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `trail.json`
    Trail,
    /// A writer's genesis.
    Genesis(String),
    /// A writer's key statement, and its number.
    Keys(String, u64),
    /// A writer's header, and its number.
    Batch(String, u64),
    /// Of this kind, under `statements/`.
    Statement(String),
}

/// Where an envelope belongs; `None` if it is of no kind that is logged.
pub fn place(envelope: &Envelope) -> Option<Place> {
    let loose = loose(envelope);
    let kind = envelope.payload_type.strip_prefix("application/vnd.waxseal.")?.strip_suffix("+json")?;
    let writer = || loose["writer"].as_str().filter(|w| name::split_writer(w).is_some()).map(str::to_owned);
    Some(match kind {
        Trail::KIND => Place::Trail,
        Writer::KIND => Place::Genesis(writer()?),
        Keys::KIND => Place::Keys(writer()?, loose["number"].as_u64()?),
        Batch::KIND => Place::Batch(writer()?, loose["batch"].as_u64()?),
        kind if STATEMENTS.iter().any(|(k, _)| *k == kind) => Place::Statement(kind.to_owned()),
        _ => return None,
    })
}

impl Place {
    /// The key of the object; `statement` is its statement hash.
    pub fn key(&self, statement: &Hash) -> String {
        match self {
            Place::Trail => name::TRAIL.to_owned(),
            Place::Genesis(writer) => name::genesis_key(writer),
            Place::Keys(writer, number) => name::keys_key(writer, *number),
            Place::Batch(writer, batch) => name::batch_key(writer, *batch),
            Place::Statement(kind) => name::statement_key(kind, statement),
        }
    }
}

/// The keys that a payload of any version names.
pub fn named_keys(envelope: &Envelope) -> Vec<String> {
    let keys: Vec<WriterKey> = serde_json::from_value(loose(envelope)["keys"].clone()).unwrap_or_default();
    keys.into_iter().map(|k| k.spki).collect()
}

/// The trail statement, signed by the operators that it names, and these.
///
/// # Errors
/// [`Bad::Invalid`].
pub fn trail(bytes: &[u8]) -> Result<(Envelope, Vec<PublicKey>), Bad> {
    let envelope = Envelope::parse(bytes).map_err(|e| invalid(&e))?;
    let operators = loose(&envelope)["operators"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|k| PublicKey::from_base64(k.as_str().unwrap_or_default()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Bad::Invalid(format!("operators: {e}")))?;
    signed(&envelope, &operators)?;
    if envelope.payload_type != payload_type(Trail::KIND) {
        return Err(Bad::Invalid(format!("its payload type is {:?}", envelope.payload_type)));
    }
    Ok((envelope, operators))
}

/// A genesis of this writer, signed by the keys that it names, and these.
///
/// # Errors
/// [`Bad::Invalid`].
pub fn genesis(trail: &Hash, writer: &str, bytes: &[u8]) -> Result<(Envelope, Vec<PublicKey>), Bad> {
    let envelope = Envelope::parse(bytes).map_err(|e| invalid(&e))?;
    let keys = public_keys(&envelope)?;
    statement::check_place(&envelope, Writer::KIND, trail, writer, None).map_err(Bad::Invalid)?;
    signed(&envelope, &keys)?;
    Ok((envelope, keys))
}

/// Key statement `number` of this writer, signed by the keys in force before and by the new ones, and these.
///
/// # Errors
/// [`Bad::Invalid`].
pub fn key_statement(
    trail: &Hash,
    writer: &str,
    number: u64,
    in_force: &[PublicKey],
    bytes: &[u8],
) -> Result<(Envelope, Vec<PublicKey>), Bad> {
    let envelope = Envelope::parse(bytes).map_err(|e| invalid(&e))?;
    statement::check_place(&envelope, Keys::KIND, trail, writer, Some(("number", number)))
        .map_err(Bad::Invalid)?;
    let new = public_keys(&envelope)?;
    let fresh = new.iter().filter(|k| !in_force.contains(k));
    let signers: Vec<&PublicKey> = in_force.iter().chain(fresh).collect();
    envelope.verify(&signers).map_err(|e| invalid(&e))?;
    Ok((envelope, new))
}

/// Header `number` of this writer, signed by the keys in force.
///
/// # Errors
/// [`Bad::Invalid`].
pub fn header(
    trail: &Hash,
    writer: &str,
    number: u64,
    in_force: &[PublicKey],
    bytes: &[u8],
) -> Result<Envelope, Bad> {
    let envelope = Envelope::parse(bytes).map_err(|e| invalid(&e))?;
    statement::check_place(&envelope, Batch::KIND, trail, writer, Some(("batch", number)))
        .map_err(Bad::Invalid)?;
    signed(&envelope, in_force)?;
    Ok(envelope)
}

/// A statement under `statements/`, of this kind and with this hash, signed by one of `signers`.
///
/// # Errors
/// [`Bad::Invalid`].
pub fn statement(
    trail: &Hash,
    kind: &str,
    hash: &str,
    signers: &[PublicKey],
    bytes: &[u8],
) -> Result<Envelope, Bad> {
    let envelope = Envelope::parse(bytes).map_err(|e| invalid(&e))?;
    if envelope.statement_hash().to_string() != hash {
        return Err(Bad::Invalid("its name is not its statement hash".to_owned()));
    }
    if envelope.payload_type != payload_type(kind) {
        return Err(Bad::Invalid(format!("its payload type is {:?}", envelope.payload_type)));
    }
    if loose(&envelope)["trail"].as_str() != Some(&trail.to_string()) {
        return Err(Bad::Invalid("it is of another trail".to_owned()));
    }
    if !signers.iter().any(|k| envelope.verify(&[k]).is_ok()) {
        return Err(Bad::Invalid("nobody signed it who may".to_owned()));
    }
    Ok(envelope)
}

/// The payload of a valid envelope.
///
/// # Errors
/// [`Bad::Unknown`] or [`Bad::Malformed`].
pub fn payload<P: Payload>(envelope: &Envelope) -> Result<P, Bad> {
    if P::KIND == Batch::KIND
        && let Some(columns) = loose(envelope)["events"]["columns"].as_u64().filter(|c| *c != COLUMNS)
    {
        return Err(Bad::Unknown(format!("columns {columns} are not known to this version")));
    }
    statement::read(envelope).map_err(|e| match e {
        PayloadFault::Unknown(what) => {
            Bad::Unknown(format!("it needs {what:?}, which this version does not know"))
        }
        other => Bad::Malformed(other.to_string()),
    })
}
