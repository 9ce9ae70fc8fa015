//! Keys for hashes and pseudonyms, from a file that never leaves the node.

use data_encoding::{BASE32_DNSSEC, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::path::Path;

/// The key in force.
pub(crate) struct Keys {
    id: String,
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.id)
    }
}

/// What a key is used for: the same text gives another value for another use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Use {
    Hash,
    Pseudonym,
}

impl Keys {
    /// Reads a file of keys: on each line an id, white space, and at least 32 hexadecimal digits; `#` begins a comment. The first
    /// is in force.
    ///
    /// # Errors
    /// A text with the path, and the line.
    pub(crate) fn read(path: &Path) -> Result<Keys, String> {
        let at = |e: String| format!("{}: {e}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| at(e.to_string()))?;
        Keys::parse(&text).map_err(at)
    }

    fn parse(text: &str) -> Result<Keys, String> {
        let mut first = None;
        let mut ids: Vec<&str> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(id) = words.next() else { continue };
            // Never what stands there: it may be a key.
            let at = |e: &str| format!("line {}: {e}", i + 1);
            let key = words.next().ok_or_else(|| at("an id, a space, and a key in hexadecimal digits"))?;
            if id.len() > 32 || !id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
                return Err(at("the id of a key has letters, digits and hyphens, 32 at most"));
            }
            let bytes =
                HEXLOWER_PERMISSIVE.decode(key.as_bytes()).map_err(|_| at("the key is not hexadecimal"))?;
            if bytes.len() < 16 || words.next().is_some() {
                return Err(at(
                    "a key has at least 32 hexadecimal digits (openssl rand -hex 32), and nothing follows it",
                ));
            }
            if ids.contains(&id) {
                return Err(at("another key has this id"));
            }
            ids.push(id);
            if first.is_none() {
                let mac = Hmac::new_from_slice(&bytes).map_err(|e| at(&e.to_string()))?;
                first = Some(Keys { id: id.to_owned(), mac });
            }
        }
        first.ok_or_else(|| "holds no key".into())
    }

    /// The id of the key in force.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// HMAC-SHA-256 (RFC 2104) of a text, its first 128 bits in base32hex (RFC 4648 section 7, small letters), after the use and
    /// the key's id.
    pub(crate) fn code(&self, usage: Use, text: &str) -> String {
        let (name, label) = match usage {
            Use::Hash => ("hmac", &b"waxseal/privacy/hash/v1\0"[..]),
            Use::Pseudonym => ("user", &b"waxseal/privacy/pseudonym/v1\0"[..]),
        };
        let mut mac = self.mac.clone();
        mac.update(label);
        mac.update(text.as_bytes());
        let code = mac.finalize().into_bytes();
        format!("{name}:{}:{}", self.id, BASE32_DNSSEC.encode(&code[..16]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_hmac_sha_256_and_says_its_key() {
        // RFC 4231 test case 1 has the key; the label is ours, so the value is what Python's hmac says of it.
        let keys = Keys::parse(
            "# c\n2026-11 0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b\nold 000102030405060708090a0b0c0d0e0f\n",
        )
        .unwrap();
        assert_eq!(keys.id(), "2026-11");
        assert_eq!(keys.code(Use::Hash, "Hi There"), "hmac:2026-11:b2hijc07rratnhf6ll1gkv5jbs");
        assert_ne!(keys.code(Use::Hash, "a"), keys.code(Use::Pseudonym, "a"));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_key() {
        for (text, why) in [
            ("", "no key"),
            ("k", "line 1"),
            ("\nk zz", "line 2: the key is not hexadecimal"),
            ("k 0011", "at least 32"),
            ("a 000102030405060708090a0b0c0d0e0f\na 000102030405060708090a0b0c0d0e0f", "line 2"),
        ] {
            let e = Keys::parse(text).unwrap_err();
            assert!(e.contains(why) && !e.contains("0011") && !e.contains("zz"), "{e}");
        }
    }
}
