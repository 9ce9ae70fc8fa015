//! Checkpoints (c2sp.org/tlog-checkpoint): a log's tree head as the text of a signed note.

use super::note::{Note, NoteFault, VerifierKey};
use crate::base64;
use crate::hash::Hash;
use core::fmt;
use data_encoding::BASE64;

/// A tree head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many entries.
    pub size: u64,
    /// The root of their tree (RFC 6962 section 2.1).
    pub root: Hash,
    /// Lines that nobody but the log gives a meaning to.
    pub extensions: Vec<String>,
}

/// Why bytes are no checkpoint of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointFault {
    /// No signed note, or a line of the log's that does not verify.
    #[error(transparent)]
    Note(#[from] NoteFault),
    /// Not origin, size and root.
    #[error("not a checkpoint (origin, size, root)")]
    Form,
    /// Another log's.
    #[error("a checkpoint of {0}")]
    Origin(String),
    /// The log did not sign it.
    #[error("not signed by {0}")]
    Unsigned(String),
}

/// A decimal number without leading zeros.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let good = text == "0" || !text.starts_with('0') && text.bytes().all(|c| c.is_ascii_digit());
    text.parse().ok().filter(|_| good)
}

/// A SHA-256 in padded standard base64.
pub(crate) fn hash(text: &str) -> Option<Hash> {
    Some(Hash(base64::decode(text)?.try_into().ok()?))
}

impl Checkpoint {
    /// Reads a note's text.
    ///
    /// # Errors
    /// [`CheckpointFault::Form`].
    pub fn parse(text: &str) -> Result<Checkpoint, CheckpointFault> {
        let read = || {
            let mut lines = text.strip_suffix('\n')?.split('\n');
            let origin = lines.next().filter(|o| !o.is_empty())?.to_owned();
            let size = decimal(lines.next()?)?;
            let root = hash(lines.next()?)?;
            let extensions: Vec<String> = lines.map(str::to_owned).collect();
            extensions.iter().all(|e| !e.is_empty()).then_some(Checkpoint { origin, size, root, extensions })
        };
        read().ok_or(CheckpointFault::Form)
    }

    /// Reads a checkpoint that a log must have signed; the log's key has the origin as its name.
    ///
    /// # Errors
    /// [`CheckpointFault`].
    pub fn open(bytes: &[u8], log: &VerifierKey) -> Result<(Checkpoint, Note), CheckpointFault> {
        let note = Note::parse(bytes)?;
        let checkpoint = Checkpoint::parse(&note.text)?;
        checkpoint.check_signed(&note, log)?;
        Ok((checkpoint, note))
    }

    /// Whether the log signed the note that it was read from.
    pub(crate) fn check_signed(&self, note: &Note, log: &VerifierKey) -> Result<(), CheckpointFault> {
        if self.origin != log.name() {
            return Err(CheckpointFault::Origin(self.origin.clone()));
        }
        match note.signed_by(log)? {
            Some(_) => Ok(()),
            None => Err(CheckpointFault::Unsigned(log.name().to_owned())),
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root.0))?;
        self.extensions.iter().try_for_each(|e| writeln!(f, "{e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::note::Kind;
    use crate::log::{test_checkpoint, test_key};

    // c2sp.org/tlog-cosignature's example. Its keys are not published.
    const PAGE: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

    #[test]
    fn the_pages_own_example_is_read() {
        let note = Note::parse(PAGE.as_bytes()).unwrap();
        assert_eq!(note.to_string(), PAGE);
        let c = Checkpoint::parse(&note.text).unwrap();
        assert_eq!((c.origin.as_str(), c.size), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(c.to_string(), note.text);
        assert_eq!(note.lines[1].id, [0x8d, 0x66, 0xcf, 0x3f]);
        assert_eq!(note.lines[1].signature.len(), 72);
    }

    #[test]
    fn a_checkpoint_has_one_form() {
        let good = "a\n12\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        assert!(Checkpoint::parse(good).is_ok());
        assert_eq!(Checkpoint::parse(&format!("{good}more\n")).unwrap().extensions, ["more"]);
        for bad in [
            good.replace("12", "012"),
            good.replace("12", "+12"),
            good.replace("12", "-1"),
            good.replace("12", ""),
            good.replace("12", "18446744073709551616"),
            good.replace("a\n", "\n"),
            good.replace("q2I=", "q2I"),
            good.replace("q2I=", "q2J="),
            good.replace("CsUY", ""),
            good.trim_end().to_owned(),
            format!("{good}\n"),
        ] {
            assert_eq!(Checkpoint::parse(&bad), Err(CheckpointFault::Form), "{bad}");
        }
    }

    #[test]
    fn only_the_logs_own_is_opened() {
        let (signing, log) = test_key(3, "example.org/log", Kind::Note);
        let good = test_checkpoint(&(signing.clone(), log.clone()), 0, Hash::empty());
        let checkpoint =
            Checkpoint { origin: "example.org/log".into(), size: 0, root: Hash::empty(), extensions: vec![] };
        assert_eq!(Checkpoint::open(good.as_bytes(), &log).unwrap().0, checkpoint);
        let other = test_checkpoint(&test_key(3, "example.org/other", Kind::Note), 0, Hash::empty());
        assert_eq!(
            Checkpoint::open(other.as_bytes(), &log),
            Err(CheckpointFault::Origin("example.org/other".into()))
        );
        let stranger = test_key(4, "example.org/log", Kind::Note);
        assert!(matches!(
            Checkpoint::open(test_checkpoint(&stranger, 0, Hash::empty()).as_bytes(), &log),
            Err(CheckpointFault::Unsigned(_))
        ));
        // Under the log's name and id, and not its signature.
        let forged = test_checkpoint(&(stranger.0, log.clone()), 0, Hash::empty());
        assert!(matches!(
            Checkpoint::open(forged.as_bytes(), &log),
            Err(CheckpointFault::Note(NoteFault::Signature(_)))
        ));
    }
}
