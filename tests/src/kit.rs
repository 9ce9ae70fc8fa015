//! The conformance kit: cases as byte edits on a good trail.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// One edit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
#[allow(missing_docs)] // conformance/README.md
pub enum Op {
    Flip { path: String, offset: usize, bit: u8 },
    Truncate { path: String, length: usize },
    Append { path: String, base64: String },
    Delete { path: String },
    Copy { from: String, to: String },
    Write { path: String, base64: String },
}

/// What a verifier must say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Expect {
    /// The exit status.
    pub exit: u8,
    /// All of these are among the findings.
    pub verdicts: Vec<String>,
}

/// One case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    /// What was done.
    pub name: String,
    /// The edits, in order.
    pub ops: Vec<Op>,
    /// Now.
    pub as_of: String,
    /// Further arguments of the verifier.
    pub args: Vec<String>,
    /// What a verifier must say.
    pub expect: Expect,
}

impl Op {
    /// Applies the edit to the trail in `dir`.
    ///
    /// # Errors
    /// The system's, and a text for a path that is not there.
    pub fn apply(&self, dir: &Path) -> std::io::Result<()> {
        let b64 = |t: &str| data_encoding::BASE64.decode(t.as_bytes()).map_err(std::io::Error::other);
        let edit = |path: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let path = dir.join(path);
            let mut bytes = std::fs::read(&path)?;
            change(&mut bytes);
            replace(&path, &bytes)
        };
        match self {
            Op::Flip { path, offset, bit } => edit(path, &|b| b[*offset] ^= 1 << bit),
            Op::Truncate { path, length } => edit(path, &|b| b.truncate(*length)),
            Op::Append { path, base64 } => {
                let more = b64(base64)?;
                edit(path, &|b| b.extend_from_slice(&more))
            }
            Op::Delete { path } => std::fs::remove_file(dir.join(path)),
            Op::Copy { from, to } => replace(&dir.join(to), &std::fs::read(dir.join(from))?),
            Op::Write { path, base64 } => replace(&dir.join(path), &b64(base64)?),
        }
    }
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes)
}

/// Copies a directory with all that is in it.
///
/// # Errors
/// The system's.
pub fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::write(target, std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}
