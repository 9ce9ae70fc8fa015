//! `waxseal canonicalize`

use anyhow::Context as _;
use clap::Args;
use std::io::{Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use waxseal_trail::hash::leaf_hash;
use waxseal_trail::json;
use waxseal_trail::record::{Converter, Events};

/// Write JSON in the canonical form of RFC 8785, or an event as a record would have it
#[derive(Args)]
pub(crate) struct Canonicalize {
    /// The input [default: standard input]
    file: Option<PathBuf>,
    /// One JSON text a line
    #[arg(long)]
    lines: bool,
    /// Put H(x), the RFC 6962 leaf hash, before it
    #[arg(long)]
    hash: bool,
    /// The lossless conversion of an event: the members that the input alone decides
    #[arg(long)]
    record: bool,
    /// The input is MessagePack
    #[arg(long, requires = "record", conflicts_with = "lines")]
    msgpack: bool,
}

impl Canonicalize {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut input = Vec::new();
        match &self.file {
            Some(path) => input = std::fs::read(path).with_context(|| path.display().to_string())?,
            None => drop(std::io::stdin().read_to_end(&mut input)?),
        }
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let mut bad = 0;
        if self.lines {
            for (i, line) in input.split(|c| *c == b'\n').enumerate() {
                if line.is_empty() {
                    continue;
                }
                if let Err(e) = self.one(line, &mut out) {
                    let e = e.context(format!("line {}", i + 1));
                    out.flush()?;
                    eprintln!("waxseal: {e:#}");
                    bad += 1;
                }
            }
        } else {
            self.one(&input, &mut out)?;
        }
        out.flush()?;
        Ok(ExitCode::from(if bad > 0 { 2 } else { 0 }))
    }

    fn one(&self, text: &[u8], out: &mut dyn Write) -> anyhow::Result<()> {
        let canonical = if self.record {
            let mut events = Events::default();
            if self.msgpack {
                Converter::default().msgpack(text, &mut events);
            } else {
                Converter::default().json(text, &mut events);
            }
            events.members_json(0)
        } else {
            json::canonicalize(text)?
        };
        if self.hash {
            write!(out, "{} ", leaf_hash(&canonical))?;
        }
        out.write_all(&canonical)?;
        // A file is hashed as it stands: only lines and hashes are for reading.
        if self.lines || self.hash {
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}
