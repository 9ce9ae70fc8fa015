//! What asks a witness to cosign a checkpoint.

use crate::http::{Client, first_line};
use waxseal_log::{Committed, ReadError};
use waxseal_trail::hash::Hash;
use waxseal_trail::log::note::{Line, MAX_NOTE, Note, NoteFault, VerifierKey};
use waxseal_trail::log::witness::{AddCheckpoint, SIZE_TYPE, cosignature};

/// Why there is no cosignature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// No answer.
    #[error("{0}")]
    Http(String),
    /// The witness has seen a log that goes further: the store shows an old state, or the log was forked.
    #[error(
        "it has seen a checkpoint of {0} entries: the log was rolled back or forked, or the store shows an old state"
    )]
    Ahead(u64),
    /// It says that the checkpoint does not extend what it saw.
    #[error("it says that the checkpoint does not extend what it has seen ({0}): the log was forked")]
    Inconsistent(String),
    /// Another refusal.
    #[error("it answers {status}: {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The first line of its answer.
        text: String,
    },
    /// What it signed is not its signature on the checkpoint.
    #[error("its answer: {0}")]
    Answer(NoteFault),
    /// No proof can be made.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl AskError {
    /// Whether it says that the log told others something else.
    pub fn is_alarm(&self) -> bool {
        matches!(self, AskError::Ahead(_) | AskError::Inconsistent(_))
    }
}

/// Asks the witness at `url` for its cosignature. `seen` is the size that it is thought to have seen last, 0 for none; `proof`
/// makes the consistency proof from a size.
///
/// # Errors
/// [`AskError`].
pub fn ask(
    http: &Client,
    url: &str,
    witness: &VerifierKey,
    committed: &Committed,
    seen: u64,
    proof: &dyn Fn(u64) -> Result<Vec<Hash>, ReadError>,
) -> Result<Line, AskError> {
    let checkpoint = String::from_utf8_lossy(&committed.bytes).into_owned();
    let note = Note::parse(&committed.bytes).map_err(AskError::Answer)?;
    let url = format!("{}/add-checkpoint", url.trim_end_matches('/'));
    let size = committed.checkpoint.size;
    let mut old = seen.min(size);
    // Another worker may ask it at the same time.
    for _ in 0..4 {
        let request = AddCheckpoint { old, proof: proof(old)?, checkpoint: checkpoint.clone() };
        let body = request.to_string();
        let answer = http
            .post(&url, "text/plain; charset=utf-8", body.as_bytes(), MAX_NOTE as u64)
            .map_err(AskError::Http)?;
        let text = first_line(&answer.body);
        match answer.status {
            200 => return cosignature(&answer.body, &note, witness).map_err(AskError::Answer),
            409 if answer.kind == SIZE_TYPE => {
                let said = std::str::from_utf8(&answer.body).ok().and_then(|t| t.strip_suffix('\n'));
                let said = said.and_then(|t| t.parse::<u64>().ok().filter(|n| n.to_string() == t));
                match said {
                    Some(n) if n > size => return Err(AskError::Ahead(n)),
                    Some(n) if n != old => old = n,
                    _ => return Err(AskError::Refused { status: 409, text }),
                }
            }
            422 => return Err(AskError::Inconsistent(text)),
            status => return Err(AskError::Refused { status, text }),
        }
    }
    Err(AskError::Refused { status: 409, text: "it sees other checkpoints all the time".to_owned() })
}
