//! The trail's transparency log (FORMAT section 6): C2SP signed notes, checkpoints and cosignatures, tiles, proofs and
//! policies. What reads and writes them is elsewhere; here are the bytes.

pub mod checkpoint;
pub mod note;
pub mod policy;
pub mod proof;
pub mod tile;
pub mod witness;

/// Keys for tests.
#[cfg(test)]
fn test_key(seed: u8, name: &str, kind: note::Kind) -> (ed25519_dalek::SigningKey, note::VerifierKey) {
    let signing = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let key = note::VerifierKey::new(name, kind, signing.verifying_key().as_bytes()).unwrap();
    (signing, key)
}

/// A checkpoint of a log whose key that is, signed.
#[cfg(test)]
fn test_checkpoint(
    (signing, key): &(ed25519_dalek::SigningKey, note::VerifierKey),
    size: u64,
    root: crate::hash::Hash,
) -> String {
    use ed25519_dalek::Signer as _;
    let text =
        checkpoint::Checkpoint { origin: key.name().into(), size, root, extensions: vec![] }.to_string();
    let line = key.line(None, &signing.sign(text.as_bytes()).to_bytes());
    note::Note { text, lines: vec![line] }.to_string()
}
