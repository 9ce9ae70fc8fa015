//! Proofs that an entry is in a log (c2sp.org/tlog-proof), which are checked with no access to it.

use super::checkpoint::{Checkpoint, CheckpointFault, decimal, hash};
use super::note::{Note, VerifierKey};
use crate::base64;
use crate::hash::Hash;
use crate::merkle;
use core::fmt;
use data_encoding::BASE64;

/// The most hashes that a path has: a tree has 2^64 entries at most.
const LONGEST: usize = 64;
const FIRST: &str = "c2sp.org/tlog-proof@v1";

/// That an entry is in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogProof {
    /// What the application adds; nothing vouches for it.
    pub extra: Option<Vec<u8>>,
    /// The entry's number, from 0.
    pub index: u64,
    /// From the leaf upwards (RFC 6962 section 2.1.1).
    pub path: Vec<Hash>,
    /// The checkpoint that it leads to, a signed note.
    pub checkpoint: String,
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofFault {
    /// Not in the form of the page.
    #[error("not a proof of c2sp.org/tlog-proof@v1")]
    Form,
    /// Its checkpoint is none of the log's.
    #[error("its checkpoint: {0}")]
    Checkpoint(#[from] CheckpointFault),
    /// The path leads elsewhere.
    #[error("entry {0} is not the one that it speaks of, or not in the log")]
    Path(u64),
}

impl LogProof {
    /// Reads a proof; nothing is checked yet.
    ///
    /// # Errors
    /// [`ProofFault::Form`].
    pub fn parse(text: &str) -> Result<LogProof, ProofFault> {
        let read = || {
            let rest = text.strip_prefix(FIRST)?.strip_prefix('\n')?;
            let (head, checkpoint) = rest.split_once("\n\n")?;
            let mut lines = head.split('\n');
            let mut line = lines.next()?;
            let mut extra = None;
            if let Some(text) = line.strip_prefix("extra ") {
                extra = Some(base64::decode(text)?);
                line = lines.next()?;
            }
            let index = decimal(line.strip_prefix("index ")?)?;
            let path = lines.map(hash).collect::<Option<Vec<_>>>()?;
            (path.len() <= LONGEST).then(|| LogProof {
                extra,
                index,
                path,
                checkpoint: checkpoint.to_owned(),
            })
        };
        read().ok_or(ProofFault::Form)
    }

    /// Checks that the entry with this leaf hash is in the log, and gives the checkpoint that says so.
    ///
    /// # Errors
    /// [`ProofFault`].
    pub fn verify(&self, leaf: &Hash, log: &VerifierKey) -> Result<(Checkpoint, Note), ProofFault> {
        let (checkpoint, note) = Checkpoint::open(self.checkpoint.as_bytes(), log)?;
        if merkle::verify_inclusion(leaf, self.index, checkpoint.size, &self.path, &checkpoint.root) {
            Ok((checkpoint, note))
        } else {
            Err(ProofFault::Path(self.index))
        }
    }
}

impl fmt::Display for LogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", BASE64.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.path.iter().try_for_each(|h| writeln!(f, "{}", BASE64.encode(&h.0)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use crate::log::note::Kind;
    use crate::log::{test_checkpoint, test_key};
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    fn log() -> (SigningKey, VerifierKey) {
        test_key(9, "example.org/log", Kind::Note)
    }

    fn proof(n: u8, index: u8, extra: Option<Vec<u8>>) -> LogProof {
        let leaves: Vec<Hash> = (0..n).map(|i| leaf_hash(&[i])).collect();
        let path = merkle::inclusion_proof(&leaves, index.into()).unwrap();
        let checkpoint = test_checkpoint(&log(), n.into(), merkle::root(&leaves));
        LogProof { extra, index: index.into(), path, checkpoint }
    }

    #[test]
    fn the_pages_own_example_is_read() {
        let text = "c2sp.org/tlog-proof@v1\nextra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6\nindex 73894\ngSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\nB95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=\n\nexample.com/fancylog\n109482\nsFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n\n\u{2014} example.com/fancylog AAAAAAA=\n";
        let proof = LogProof::parse(text).unwrap();
        assert_eq!((proof.index, proof.path.len()), (73_894, 2));
        assert_eq!(proof.extra.as_deref(), Some(&b"age-v1.2.1-darwin-arm64.tar.gz"[..]));
        assert_eq!(proof.to_string(), text);
    }

    /// Every byte of a proof counts.
    #[test]
    fn a_proof_with_any_byte_changed_proves_nothing() {
        let (_, key) = log();
        let good = proof(21, 13, None).to_string();
        let leaf = leaf_hash(&[13]);
        LogProof::parse(&good).unwrap().verify(&leaf, &key).unwrap();
        assert!(LogProof::parse(&good).unwrap().verify(&leaf_hash(&[12]), &key).is_err());
        let bytes = good.into_bytes();
        for at in 0..bytes.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                let Ok(text) = String::from_utf8(bad) else { continue };
                let verdict = LogProof::parse(&text).and_then(|p| p.verify(&leaf, &key));
                assert!(verdict.is_err(), "byte {at}: {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n in 1u8..40, i in any::<u8>(), extra in prop::option::of(prop::collection::vec(any::<u8>(), 0..20))) {
            let (_, key) = log();
            let proof = proof(n, i % n, extra);
            let again = LogProof::parse(&proof.to_string()).unwrap();
            prop_assert_eq!(&again, &proof);
            prop_assert_eq!(again.verify(&leaf_hash(&[i % n]), &key).unwrap().0.size, u64::from(n));
        }
    }
}
