//! `waxseal`: make a trail, look at it, verify it.

#![forbid(unsafe_code)]

mod anchor;
mod bucket;
mod canonicalize;
mod cost;
mod filter;
mod generate;
mod hold;
mod init;
mod keys;
mod privacy;
mod prove;
mod show;
mod statement;
mod tree;
mod verify;
mod witness;

use clap::{Parser, Subcommand};
use std::io;
use std::process::ExitCode;

/// An audit trail that nobody can quietly change
#[derive(Parser)]
#[command(name = "waxseal", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Bucket(bucket::Bucket),
    Keys(keys::Keys),
    Verify(verify::Verify),
    Show(show::Show),
    Anchor(anchor::Anchors),
    Prove(prove::Prove),
    VerifyProof(prove::VerifyProof),
    Hold(hold::Hold),
    Tree(tree::Tree),
    Generate(generate::Generate),
    Canonicalize(canonicalize::Canonicalize),
    Cost(cost::Cost),
    Filter(filter::Filter),
    Witness(witness::WitnessCommand),
    Statement(statement::StatementCommand),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Init(c) => c.run(),
        Command::Bucket(c) => c.run(),
        Command::Keys(c) => c.run(),
        Command::Verify(c) => c.run(),
        Command::Show(c) => c.run(),
        Command::Anchor(c) => c.run(),
        Command::Prove(c) => c.run(),
        Command::VerifyProof(c) => c.run(),
        Command::Hold(c) => c.run(),
        Command::Tree(c) => c.run(),
        Command::Generate(c) => c.run(),
        Command::Canonicalize(c) => c.run(),
        Command::Cost(c) => c.run(),
        Command::Filter(c) => c.run(),
        Command::Witness(c) => c.run(),
        Command::Statement(c) => c.run(),
    };
    match result {
        Ok(code) => code,
        // Whoever reads has seen enough.
        Err(e) if broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("waxseal: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn broken_pipe(e: &anyhow::Error) -> bool {
    e.chain().any(|c| c.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// Opens the trail at a TRAIL argument.
fn open(trail: &str) -> anyhow::Result<std::sync::Arc<dyn waxseal_store::Store>> {
    let location: waxseal_store::Location = trail.parse().map_err(|e: String| anyhow::anyhow!(e))?;
    location.open().map_err(|e| anyhow::anyhow!(e))
}

/// Colours, where a person reads.
pub(crate) struct Paint(bool);

impl Paint {
    pub(crate) fn stdout() -> Paint {
        use std::io::IsTerminal as _;
        Paint(io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn good(&self, text: &str) -> String {
        self.with("32;1", text)
    }

    pub(crate) fn bad(&self, text: &str) -> String {
        self.with("31;1", text)
    }

    pub(crate) fn note(&self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn dim(&self, text: &str) -> String {
        self.with("2", text)
    }
}
