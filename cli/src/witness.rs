//! `waxseal witness`

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use waxseal_anchor::config::read_trust;
use waxseal_anchor::serve::{self, Asked};
use waxseal_anchor::state::hold;
use waxseal_anchor::witness::server::Witness;
use waxseal_signing::MemoryKey;
use waxseal_sink::clock::{Clock as _, SystemClock};
use waxseal_store::disk::RealDisk;
use waxseal_trail::log::note::VerifierKey;
use waxseal_trail::log::witness::MAX_REQUEST;

/// Remember what a log said, and sign only what extends it (c2sp.org/tlog-witness)
#[derive(Args)]
pub(crate) struct WitnessCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Serve),
}

/// Serve a witness of your own, on a host that whoever owns the log does not own
#[derive(Args)]
struct Serve {
    /// The witness's key: PEM, Ed25519 (waxseal keys generate --algorithm ed25519), used for nothing else
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The witness's name, as in witness.example.org/w1
    #[arg(long)]
    name: String,
    /// A log that it witnesses: a C2SP vkey (may be given again)
    #[arg(long, value_name = "VKEY", required_unless_present = "trust")]
    log: Vec<String>,
    /// A trust file whose log it witnesses (may be given again)
    #[arg(long, value_name = "FILE")]
    trust: Vec<PathBuf>,
    /// Where it remembers: a directory of its own, on a disk that survives; what is lost here is never signed rightly again
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// A log of --log or --trust is new: nothing was ever signed for it under this key
    #[arg(long)]
    first: bool,
    /// Where it listens; put a proxy with TLS before it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7380")]
    listen: SocketAddr,
}

impl WitnessCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(s) => s.run(),
        }
    }
}

impl Serve {
    fn run(self) -> anyhow::Result<ExitCode> {
        // A standard error that nobody reads any more must not keep it from answering.
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_target(false)
            .log_internal_errors(false)
            .init();
        let mut logs = Vec::new();
        for path in &self.trust {
            let trust = read_trust(path).map_err(|e| anyhow!(e))?;
            let log = trust.log.ok_or_else(|| anyhow!("{}: it names no log", path.display()))?;
            logs.push((path.display().to_string(), log));
        }
        logs.extend(self.log.into_iter().map(|l| ("--log".to_owned(), l)));
        let logs = logs.iter().map(|(from, log)| VerifierKey::parse(log).with_context(|| from.clone()));
        let logs = logs.collect::<anyhow::Result<Vec<_>>>()?;
        let pem = std::fs::read(&self.key).with_context(|| self.key.display().to_string())?;
        let key = MemoryKey::from_pem(&pem).with_context(|| self.key.display().to_string())?;
        let _held = hold(&self.state).map_err(|e| anyhow!("--state: {e}"))?;
        let mut out = std::io::stdout();
        for log in &logs {
            writeln!(out, "log        {log}")?;
        }
        let witness = Witness::open(Arc::new(RealDisk), self.state, &self.name, Arc::new(key), logs)?;
        writeln!(out, "witness    {}", witness.key())?;
        for (origin, size) in witness.remembers() {
            writeln!(out, "remembers  {origin}, {size} entries")?;
        }
        if !self.first {
            witness.knows_all().map_err(|e| anyhow!("--state: {e}"))?;
        }
        writeln!(out, "policies name it so:\nwitness NAME {} URL", witness.key())?;
        out.flush()?;
        let handler = move |asked: Asked| {
            let now = u64::try_from(SystemClock.now().unix_seconds()).unwrap_or(1);
            witness.answer(&asked, now)
        };
        serve::until_told(self.listen, Arc::new(handler), MAX_REQUEST, Duration::from_secs(15), &|at| {
            eprintln!("waxseal: witness on http://{at}");
        })
        .map_err(|e| anyhow!(e))?;
        Ok(ExitCode::SUCCESS)
    }
}
