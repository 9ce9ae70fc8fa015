//! What a log asks of a witness, and when a witness may sign (c2sp.org/tlog-witness, `add-checkpoint`). Who carries the bytes,
//! and who keeps a witness's memory, is elsewhere.

use super::checkpoint::{Checkpoint, CheckpointFault, decimal, hash};
use super::note::{Kind, MAX_NOTE, Note, NoteFault, VerifierKey};
use crate::hash::Hash;
use crate::merkle;
use core::fmt;
use data_encoding::BASE64;

/// The most hashes that a consistency proof may have.
pub const MAX_PROOF: usize = 63;
/// The largest request that is read, in bytes: a note, and a proof before it.
pub const MAX_REQUEST: usize = MAX_NOTE + 4096;
/// What the body of a [`Refusal::Conflict`] is.
pub const SIZE_TYPE: &str = "text/x.tlog.size";

/// `add-checkpoint`: the body of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size of the checkpoint that the witness is thought to have seen last; 0 for none.
    pub old: u64,
    /// From there to the new one (RFC 6962 section 2.1.2).
    pub proof: Vec<Hash>,
    /// The new checkpoint, a signed note.
    pub checkpoint: String,
}

impl AddCheckpoint {
    /// Reads a body; the checkpoint is not read yet.
    ///
    /// # Errors
    /// [`Refusal::Form`].
    pub fn parse(body: &[u8]) -> Result<AddCheckpoint, Refusal> {
        let read = || {
            let text = std::str::from_utf8(body).ok().filter(|t| t.len() <= MAX_REQUEST)?;
            let (head, checkpoint) = text.split_once("\n\n")?;
            let mut lines = head.split('\n');
            let old = decimal(lines.next()?.strip_prefix("old ")?)?;
            let proof = lines.map(hash).collect::<Option<Vec<_>>>()?;
            (proof.len() <= MAX_PROOF).then(|| AddCheckpoint {
                old,
                proof,
                checkpoint: checkpoint.to_owned(),
            })
        };
        read().ok_or(Refusal::Form)
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|h| writeln!(f, "{}", BASE64.encode(&h.0)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// What a witness remembers of a log: the newest checkpoint that it signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How many entries.
    pub size: u64,
    /// Their root.
    pub root: Hash,
}

impl Seen {
    /// Before the first.
    pub fn nothing() -> Seen {
        Seen { size: 0, root: Hash::empty() }
    }
}

/// Why a witness does not sign. Its log has said, or been made to say, something that does not fit what was said before, or the
/// request is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No body of `add-checkpoint`, or an old size above the checkpoint's.
    #[error("not a request of c2sp.org/tlog-witness")]
    Form,
    /// A log that the witness does not know.
    #[error("no log {0} is known here")]
    Unknown(String),
    /// The log did not sign it, or a line of its key is not its own.
    #[error("not signed by the log: {0}")]
    Unsigned(CheckpointFault),
    /// The witness has seen another checkpoint last: the client asks again from there.
    #[error("the newest checkpoint that was seen here has {0} entries")]
    Conflict(u64),
    /// The checkpoint does not extend what was seen: a fork, or a rollback.
    #[error("the checkpoint of {size} entries does not extend that of {old}")]
    Inconsistent {
        /// Seen before.
        old: u64,
        /// Shown now.
        size: u64,
    },
}

impl Refusal {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Form => 400,
            Refusal::Unsigned(_) => 403,
            Refusal::Unknown(_) => 404,
            Refusal::Conflict(_) => 409,
            Refusal::Inconsistent { .. } => 422,
        }
    }
}

impl AddCheckpoint {
    /// Whether a witness may sign: `log` finds the key of an origin, `seen` what it saw last of that log. What comes back is to
    /// be remembered, durably, before the signature leaves; look and write must be one step.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge(
        &self,
        log: impl FnOnce(&str) -> Option<VerifierKey>,
        seen: impl FnOnce(&str) -> Seen,
    ) -> Result<(Checkpoint, Note, Seen), Refusal> {
        let note = Note::parse(self.checkpoint.as_bytes()).map_err(|_| Refusal::Form)?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(|_| Refusal::Form)?;
        let key = log(&checkpoint.origin).ok_or_else(|| Refusal::Unknown(checkpoint.origin.clone()))?;
        checkpoint.check_signed(&note, &key).map_err(Refusal::Unsigned)?;
        if self.old > checkpoint.size {
            return Err(Refusal::Form);
        }
        let last = seen(&checkpoint.origin);
        if self.old != last.size {
            return Err(Refusal::Conflict(last.size));
        }
        let extends = match (last.size, checkpoint.size) {
            (0, 0) => self.proof.is_empty() && checkpoint.root == Hash::empty(),
            (0, _) => self.proof.is_empty(),
            (old, new) => merkle::verify_consistency(old, &last.root, new, &checkpoint.root, &self.proof),
        };
        if !extends {
            return Err(Refusal::Inconsistent { old: last.size, size: checkpoint.size });
        }
        let now = Seen { size: checkpoint.size, root: checkpoint.root };
        Ok((checkpoint, note, now))
    }
}

/// A witness's answer: its signature lines, of which those of `witness` are checked and given.
///
/// # Errors
/// [`NoteFault::Form`] if it is none, [`NoteFault::Signature`] if a line of the witness's is not its own, and
/// [`NoteFault::Key`] if none is its.
pub fn cosignature(
    answer: &[u8],
    checkpoint: &Note,
    witness: &VerifierKey,
) -> Result<super::note::Line, NoteFault> {
    let text = std::str::from_utf8(answer).ok().filter(|t| t.len() <= MAX_NOTE).ok_or(NoteFault::Form)?;
    let lines = text.strip_suffix('\n').ok_or(NoteFault::Form)?;
    let lines = lines.split('\n').map(super::note::Line::parse).collect::<Result<Vec<_>, _>>()?;
    let note = Note { text: checkpoint.text.clone(), lines };
    if note.signed_by(witness)?.is_none() || witness.kind() != Kind::Cosignature {
        return Err(NoteFault::Key);
    }
    // All of its lines are its own; the earliest says most.
    let id = witness.id();
    let own = note.lines.into_iter().filter(|l| l.id == id && l.name == witness.name());
    own.min_by(|a, b| a.signature[..8].cmp(&b.signature[..8])).ok_or(NoteFault::Key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use crate::log::{test_checkpoint, test_key};
    use ed25519_dalek::{Signer as _, SigningKey};

    // c2sp.org/tlog-witness, "Example request body" (the keys are not published).
    const PAGE: &str = "old 20852014\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\njrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\nexample.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\u{2014} example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n";

    #[test]
    fn the_pages_own_request_is_read() {
        let request = AddCheckpoint::parse(PAGE.as_bytes()).unwrap();
        assert_eq!((request.old, request.proof.len()), (20_852_014, 4));
        assert_eq!(request.to_string(), PAGE);
        let unknown = request.judge(|_| None, |_| Seen::nothing()).unwrap_err();
        assert_eq!(
            (unknown.status(), unknown),
            (404, Refusal::Unknown("example.com/behind-the-sofa".into()))
        );
    }

    fn leaves() -> Vec<Hash> {
        (0u8..20).map(|i| leaf_hash(&[i])).collect()
    }

    fn log() -> (SigningKey, VerifierKey) {
        test_key(5, "example.org/log", Kind::Note)
    }

    fn signed(size: usize, root: Hash) -> String {
        test_checkpoint(&log(), size as u64, root)
    }

    fn ask(old: usize, proof: Vec<Hash>, checkpoint: String, seen: Seen) -> Result<Seen, Refusal> {
        let request = AddCheckpoint { old: old as u64, proof, checkpoint };
        let request = AddCheckpoint::parse(request.to_string().as_bytes())?;
        let judged = request.judge(|o| (o == "example.org/log").then(|| log().1), |_| seen);
        judged.map(|(_, _, now)| now)
    }

    #[test]
    fn only_what_extends_the_past_is_signed() {
        let leaves = leaves();
        let head = |n: usize| merkle::root(&leaves[..n]);
        let proof =
            |old: usize, new: usize| merkle::consistency_proof(&leaves[..new], old).unwrap_or_default();
        let seen = |n: usize| Seen { size: n as u64, root: head(n) };
        for old in 0..=20 {
            for new in 0..=20 {
                let got = ask(old, proof(old, new), signed(new, head(new)), seen(old));
                let wanted = if old <= new { Ok(seen(new)) } else { Err(Refusal::Form) };
                assert_eq!(got, wanted, "{old} {new}");
                // A log that shows everyone something else.
                if new > 0 && old > 0 && old <= new {
                    let other = leaf_hash(b"other");
                    let got = ask(old, proof(old, new), signed(new, other), seen(old));
                    let refusal = Refusal::Inconsistent { old: old as u64, size: new as u64 };
                    assert_eq!(got, Err(refusal.clone()));
                    assert_eq!(refusal.status(), 422);
                }
            }
        }
        // A size that was not the last one seen.
        let conflict = ask(7, proof(7, 9), signed(9, head(9)), seen(8)).unwrap_err();
        assert_eq!((conflict.status(), conflict), (409, Refusal::Conflict(8)));
        assert!(matches!(ask(0, vec![], signed(9, head(9)), seen(8)), Err(Refusal::Conflict(8))));
        // A proof where none belongs, and an empty tree with a root of something.
        let proofs = vec![head(1)];
        assert!(matches!(
            ask(0, proofs.clone(), signed(9, head(9)), seen(0)),
            Err(Refusal::Inconsistent { .. })
        ));
        assert!(matches!(ask(8, proofs, signed(8, head(8)), seen(8)), Err(Refusal::Inconsistent { .. })));
        assert!(matches!(ask(0, vec![], signed(0, head(1)), seen(0)), Err(Refusal::Inconsistent { .. })));
    }

    #[test]
    fn only_the_log_is_believed() {
        let root = merkle::root(&leaves()[..3]);
        let good = signed(3, root);
        let refused = |checkpoint: String| ask(0, vec![], checkpoint, Seen::nothing()).unwrap_err().status();
        let stranger = SigningKey::from_bytes(&[6; 32]);
        let note = Note::parse(good.as_bytes()).unwrap();
        let forged = log().1.line(None, &stranger.sign(note.text.as_bytes()).to_bytes());
        assert_eq!(refused(Note { lines: vec![forged.clone()], ..note.clone() }.to_string()), 403);
        // One line that is not the log's spoils the note.
        assert_eq!(
            refused(Note { lines: vec![note.lines[0].clone(), forged], ..note.clone() }.to_string()),
            403
        );
        let (_, unknown) = test_key(6, "example.org/log", Kind::Note);
        let line = unknown.line(None, &stranger.sign(note.text.as_bytes()).to_bytes());
        assert_eq!(refused(Note { lines: vec![line], ..note }.to_string()), 403);
        assert_eq!(refused(good.replace("example.org", "example.net")), 404);
        assert_eq!(refused("nonsense".into()), 400);
        for bad in ["", "old 1", "old 01\n\nx", "old 1\nx\n\ny", "new 1\n\ny"] {
            assert_eq!(AddCheckpoint::parse(bad.as_bytes()), Err(Refusal::Form), "{bad}");
        }
        let many =
            format!("old 1\n{}\n{good}", format!("{}\n", BASE64.encode(&[0; 32])).repeat(MAX_PROOF + 1));
        assert_eq!(AddCheckpoint::parse(many.as_bytes()), Err(Refusal::Form));
    }

    #[test]
    fn a_witnesss_answer_is_checked() {
        let (signing, key) = test_key(8, "witness.example/w1", Kind::Cosignature);
        let note = Note::parse(signed(3, merkle::root(&leaves()[..3])).as_bytes()).unwrap();
        let line = |t: u64| key.line(Some(t), &signing.sign(&key.message(Some(t), &note.text)).to_bytes());
        let good = line(1_700_000_000);
        let other = super::super::note::Line { name: "witness.example/w2".into(), ..good.clone() };
        let answer = format!("{other}{good}");
        assert_eq!(cosignature(answer.as_bytes(), &note, &key), Ok(good.clone()));
        assert_eq!(cosignature(other.to_string().as_bytes(), &note, &key), Err(NoteFault::Key));
        for time in [0, 1 << 63] {
            let bad = line(time).to_string();
            assert!(matches!(cosignature(bad.as_bytes(), &note, &key), Err(NoteFault::Signature(_))));
        }
        let two = format!("{}{good}", line(1_700_000_001));
        assert_eq!(cosignature(two.as_bytes(), &note, &key), Ok(good.clone()));
        let mut bad = good.clone();
        bad.signature[20] ^= 1;
        assert!(matches!(cosignature(bad.to_string().as_bytes(), &note, &key), Err(NoteFault::Signature(_))));
        assert_eq!(cosignature(good.to_string().trim_end().as_bytes(), &note, &key), Err(NoteFault::Form));
        // Of another checkpoint.
        let next = Note::parse(signed(4, merkle::root(&leaves()[..4])).as_bytes()).unwrap();
        assert!(cosignature(good.to_string().as_bytes(), &next, &key).is_err());
    }
}
