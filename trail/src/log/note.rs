//! Signed notes (c2sp.org/signed-note), with Ed25519 signatures and the time-stamped cosignatures of
//! c2sp.org/tlog-cosignature.

use crate::base64;
use crate::hash::sha256;
use crate::keys::PublicKey;
use core::fmt;
use data_encoding::{BASE64, HEXLOWER};

/// The largest note that is read, in bytes. (The page asks for 16 signatures at least, of up to nearly 5 kB each.)
pub const MAX_NOTE: usize = 256 << 10;
/// The most signature lines that are read.
pub const MAX_LINES: usize = 100;

/// Why a note, a key or a signature line cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteFault {
    /// Larger than a reader takes.
    #[error("larger than a signed note may be")]
    Size,
    /// Not text, a blank line, signature lines.
    #[error("not a signed note (text, a blank line, signature lines)")]
    Form,
    /// Not `name+id+key`.
    #[error("not a verifier key (name+id+key)")]
    Key,
    /// A key of a kind that is not used here.
    #[error("a verifier key of type {0:#04x}; 0x01 (Ed25519) and 0x04 (Ed25519 cosignatures) are known")]
    Algorithm(u8),
    /// An Ed25519 point that is not canonical or has small order.
    #[error("the Ed25519 key is not a canonical point of large order")]
    WeakPoint,
    /// A line names a known key, and its signature is not that key's.
    #[error("the signature line of {0} does not verify")]
    Signature(String),
}

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Notes (type 0x01).
    Note,
    /// Checkpoints that it has found consistent, with the time (type 0x04).
    Cosignature,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Note => 1,
            Kind::Cosignature => 4,
        }
    }
}

/// A verifier key: `<name>+<key id, hex>+<base64 of type and key>`.
#[derive(Clone)]
pub struct VerifierKey {
    name: String,
    kind: Kind,
    key: ed25519_dalek::VerifyingKey,
}

impl PartialEq for VerifierKey {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.kind, self.raw()) == (&other.name, other.kind, other.raw())
    }
}

impl Eq for VerifierKey {}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.kind.byte()], &self.raw()[..]].concat();
        write!(f, "{}+{}+{}", self.name, HEXLOWER.encode(&self.id()), BASE64.encode(&key))
    }
}

/// Whether a name may stand in a signature line: not empty, no spaces of Unicode's, no `+`.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c < ' ' || c == '+')
}

impl VerifierKey {
    /// Of 32 bytes (RFC 8032 section 5.1.5).
    ///
    /// # Errors
    /// [`NoteFault::Key`] for a name that no line may have, [`NoteFault::WeakPoint`].
    pub fn new(name: &str, kind: Kind, raw: &[u8; 32]) -> Result<VerifierKey, NoteFault> {
        if !is_name(name) {
            return Err(NoteFault::Key);
        }
        let key = ed25519_dalek::VerifyingKey::from_bytes(raw).map_err(|_| NoteFault::WeakPoint)?;
        if key.is_weak() || key.to_edwards().compress().to_bytes() != *raw {
            return Err(NoteFault::WeakPoint);
        }
        Ok(VerifierKey { name: name.to_owned(), kind, key })
    }

    /// Of a public key that statements have.
    ///
    /// # Errors
    /// As [`VerifierKey::new`]; [`NoteFault::Key`] also if it is not Ed25519.
    pub fn of(name: &str, kind: Kind, key: &PublicKey) -> Result<VerifierKey, NoteFault> {
        let raw = key.spki().last_chunk::<32>().filter(|_| key.algorithm() == "ed25519");
        VerifierKey::new(name, kind, raw.ok_or(NoteFault::Key)?)
    }

    /// Reads `<name>+<id>+<key>`.
    ///
    /// # Errors
    /// [`NoteFault`]; also for an id that is not the key's.
    pub fn parse(text: &str) -> Result<VerifierKey, NoteFault> {
        // The base64 of a key may have a plus of its own; names and ids have none.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteFault::Key);
        };
        let id = HEXLOWER.decode(id.as_bytes()).map_err(|_| NoteFault::Key)?;
        let key = base64::decode(key).ok_or(NoteFault::Key)?;
        let (byte, raw) = key.split_first().ok_or(NoteFault::Key)?;
        let kind = match byte {
            1 => Kind::Note,
            4 => Kind::Cosignature,
            other => return Err(NoteFault::Algorithm(*other)),
        };
        let key = VerifierKey::new(name, kind, raw.try_into().map_err(|_| NoteFault::Key)?)?;
        if key.id()[..] != id[..] {
            return Err(NoteFault::Key);
        }
        Ok(key)
    }

    /// Its name, as it stands in signature lines.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it signs.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The 32 bytes of the public key.
    pub fn raw(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// The first four bytes of SHA-256 of name, newline, type and key.
    pub fn id(&self) -> [u8; 4] {
        let of = [self.name.as_bytes(), b"\n", &[self.kind.byte()], &self.raw()].concat();
        let mut id = [0; 4];
        id.copy_from_slice(&sha256(&of).0[..4]);
        id
    }

    /// [`VerifierKey::id`] in hex, as keys of objects have it.
    pub fn id_text(&self) -> String {
        HEXLOWER.encode(&self.id())
    }

    /// The signature line for what the key signed: 64 bytes, over [`VerifierKey::message`].
    pub fn line(&self, time: Option<u64>, signature: &[u8; 64]) -> Line {
        let mut bytes = Vec::with_capacity(72);
        bytes.extend(time.iter().flat_map(|t| t.to_be_bytes()));
        bytes.extend_from_slice(signature);
        Line { name: self.name.clone(), id: self.id(), signature: bytes }
    }

    /// What is signed: the note's text, or for a cosignature the time, in seconds since 1970, and the text.
    pub fn message(&self, time: Option<u64>, text: &str) -> Vec<u8> {
        match (self.kind, time) {
            (Kind::Cosignature, Some(t)) => format!("cosignature/v1\ntime {t}\n{text}").into_bytes(),
            _ => text.as_bytes().to_vec(),
        }
    }

    /// Whether a line, whose name and id are the key's, signs the text; a cosignature's time.
    fn opens(&self, line: &Line, text: &str) -> Option<Option<u64>> {
        let (time, signature) = match self.kind {
            Kind::Note => (None, &line.signature[..]),
            Kind::Cosignature => {
                let (time, signature) = line.signature.split_first_chunk::<8>()?;
                let time = u64::from_be_bytes(*time);
                // A witness that leaves it out says nothing of when; the largest is 2^63−1.
                if time == 0 || i64::try_from(time).is_err() {
                    return None;
                }
                (Some(time), signature)
            }
        };
        let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
        self.key.verify_strict(&self.message(time, text), &signature).ok().map(|()| time)
    }
}

/// A signature line: `— <name> <base64 of key id and signature>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The key's name.
    pub name: String,
    /// The key's id.
    pub id: [u8; 4],
    /// What follows the id.
    pub signature: Vec<u8>,
}

impl Line {
    /// Reads a line without its newline.
    ///
    /// # Errors
    /// [`NoteFault::Form`].
    pub fn parse(line: &str) -> Result<Line, NoteFault> {
        let rest = line.strip_prefix("\u{2014} ").ok_or(NoteFault::Form)?;
        let (name, text) = rest.split_once(' ').ok_or(NoteFault::Form)?;
        let bytes = base64::decode(text).ok_or(NoteFault::Form)?;
        let (id, signature) = bytes.split_first_chunk::<4>().ok_or(NoteFault::Form)?;
        if !is_name(name) || signature.is_empty() {
            return Err(NoteFault::Form);
        }
        Ok(Line { name: name.to_owned(), id: *id, signature: signature.to_vec() })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id[..], &self.signature].concat();
        writeln!(f, "\u{2014} {} {}", self.name, BASE64.encode(&bytes))
    }
}

/// Who signed a note, and when, if the signature says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Seconds since 1970, of a cosignature.
    pub time: Option<u64>,
}

/// A signed note: a text and the lines under it, of keys that may not be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The text, with its last newline.
    pub text: String,
    /// The signature lines, in order.
    pub lines: Vec<Line>,
}

impl Note {
    /// Reads a note strictly; no signature is checked yet.
    ///
    /// # Errors
    /// [`NoteFault::Size`] or [`NoteFault::Form`].
    pub fn parse(bytes: &[u8]) -> Result<Note, NoteFault> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteFault::Size);
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteFault::Form)?;
        if whole.bytes().any(|c| c < 0x20 && c != b'\n') {
            return Err(NoteFault::Form);
        }
        let (text, lines) = whole.rsplit_once("\n\n").ok_or(NoteFault::Form)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteFault::Form)?;
        let lines = lines.split('\n').map(Line::parse).collect::<Result<Vec<_>, _>>()?;
        if lines.len() > MAX_LINES {
            return Err(NoteFault::Size);
        }
        Ok(Note { text: format!("{text}\n"), lines })
    }

    /// The line by which a key signed it, if any.
    ///
    /// # Errors
    /// [`NoteFault::Signature`] if a line has the key's name and id and is not the key's: then nothing of the note counts.
    pub fn signed_by(&self, key: &VerifierKey) -> Result<Option<Signed>, NoteFault> {
        let id = key.id();
        let mut signed = None;
        for line in self.lines.iter().filter(|l| l.id == id && l.name == key.name) {
            let time = key.opens(line, &self.text).ok_or_else(|| NoteFault::Signature(key.name.clone()))?;
            // Of several the earliest: that is how long it has been known.
            signed = Some(signed.map_or(Signed { time }, |s: Signed| Signed { time: s.time.min(time) }));
        }
        Ok(signed)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.lines.iter().try_for_each(|l| fmt::Display::fmt(l, f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::test_key;
    use ed25519_dalek::Signer as _;
    use proptest::prelude::*;

    // c2sp.org/signed-note, "Example".
    const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    #[test]
    fn the_pages_own_example() {
        let key = VerifierKey::parse(KEY).unwrap();
        assert_eq!((key.name(), key.kind(), key.to_string().as_str()), ("example.com/foo", Kind::Note, KEY));
        let note = Note::parse(NOTE.as_bytes()).unwrap();
        assert_eq!(note.to_string(), NOTE);
        assert_eq!(note.signed_by(&key), Ok(Some(Signed { time: None })));
        for (from, to, wanted) in [
            ("message.", "message!", Err(NoteFault::Signature("example.com/foo".into()))),
            ("foo Uw2Q", "bar Uw2Q", Ok(None)),
            ("foo Uw2Q", "foo Uw3Q", Ok(None)),
        ] {
            let other = Note::parse(NOTE.replace(from, to).as_bytes()).unwrap();
            assert_eq!(other.signed_by(&key), wanted);
        }
    }

    #[test]
    fn a_note_has_one_form() {
        for bad in [
            "",
            "\n",
            "a\n\n",
            "a\n",
            &NOTE[..NOTE.len() - 1],
            &NOTE.replace("\n\n", "\n"),
            &NOTE.replace('\u{2014}', "-"),
            &NOTE.replace("IneyaQM=", "IneyaQM"),
            &NOTE.replace("IneyaQM=", "IneyaQN="),
            &NOTE.replace("example.com/foo", "example.com/f+o"),
            &NOTE.replace("example.com/foo", "example.com/f\u{a0}o"),
            &NOTE.replace("This", "\tThis"),
            &NOTE.replace("This", "\rThis"),
            &format!("{NOTE}\n"),
            &format!("{NOTE}x"),
        ] {
            assert!(Note::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(Note::parse(&[NOTE.as_bytes(), &[0xff]].concat()), Err(NoteFault::Form));
        assert_eq!(Note::parse(&vec![b'a'; MAX_NOTE + 1]), Err(NoteFault::Size));
        // The last blank line parts text and signatures.
        let two = NOTE.replace("This", "First\n\nThis");
        assert_eq!(Note::parse(two.as_bytes()).unwrap().text, "First\n\nThis is an example message.\n");
    }

    #[test]
    fn keys_have_one_form() {
        for bad in [
            "",
            "a+b",
            &KEY.replace("530d903a", "530d903b"),
            &KEY.replace("530d903a", "530D903A"),
            &KEY.replace("foo", "fo"),
            &KEY.replace("3U2k", "3U2k="),
            &KEY.replace("AekyeRrm", "AekyeRrmAekyeRrm"),
        ] {
            assert_eq!(VerifierKey::parse(bad), Err(NoteFault::Key), "{bad}");
        }
        assert_eq!(VerifierKey::parse(&KEY.replace("+Aek", "+Bek")), Err(NoteFault::Algorithm(5)));
        // Points of small order verify what nobody signed.
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(VerifierKey::new("a", Kind::Note, &one), Err(NoteFault::WeakPoint));
    }

    #[test]
    fn cosignatures_are_over_the_time_too() {
        let (signing, key) = test_key(7, "witness.example/w1", Kind::Cosignature);
        assert_eq!(VerifierKey::parse(&key.to_string()), Ok(key.clone()));
        let mut note = Note::parse(NOTE.as_bytes()).unwrap();
        assert_eq!(note.signed_by(&key), Ok(None));
        for t in [1_700_000_100u64, 1_700_000_000] {
            let signature = signing.sign(&key.message(Some(t), &note.text)).to_bytes();
            note.lines.push(key.line(Some(t), &signature));
        }
        let again = Note::parse(note.to_string().as_bytes()).unwrap();
        assert_eq!(again, note);
        assert_eq!(again.signed_by(&key), Ok(Some(Signed { time: Some(1_700_000_000) })));
        assert_eq!(again.signed_by(&VerifierKey::parse(KEY).unwrap()), Ok(Some(Signed { time: None })));
        // Another time, or a signature over the text alone, is none.
        note.lines[1].signature[7] ^= 1;
        assert!(note.signed_by(&key).is_err());
        let signature = signing.sign(note.text.as_bytes()).to_bytes();
        note.lines = vec![key.line(Some(1), &signature)];
        assert!(note.signed_by(&key).is_err());
        note.lines = vec![key.line(None, &signature)];
        assert!(note.signed_by(&key).is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "[ -~\u{2014}é\n]{0,40}", names in prop::collection::vec("[a-z./é]{1,9}", 1..4), bytes in prop::collection::vec(any::<u8>(), 1..80)) {
            let lines = names.into_iter().map(|name| Line { name, id: [1, 2, 3, 4], signature: bytes.clone() }).collect();
            let note = Note { text: format!("{text}\n"), lines };
            prop_assert_eq!(Note::parse(note.to_string().as_bytes()).unwrap(), note);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(prop::sample::select(b"a \n+\xe2\x80\x94=A".to_vec()), 0..60)) {
            if let Ok(note) = Note::parse(&bytes) {
                prop_assert_eq!(note.to_string().into_bytes(), bytes);
            }
        }
    }
}
