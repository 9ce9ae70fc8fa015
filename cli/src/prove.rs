//! `waxseal prove` and `waxseal verify-proof`

use crate::open;
use crate::verify::ChainArgs;
use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use waxseal_anchor::config::read_trust;
use waxseal_sink::clock::{Clock as _, SystemClock};
use waxseal_store::oldest;
use waxseal_trail::envelope::MAX_ENVELOPE;
use waxseal_trail::log::note::VerifierKey;
use waxseal_trail::name;
use waxseal_trail::proof::{EventProofFault, MAX_PROOF, Proof};
use waxseal_trail::statement::Trail;
use waxseal_trail::time::Time;
use waxseal_trail::valid;
use waxseal_trail::verdict::Verdict;
use waxseal_verify::event::check_proof;
use waxseal_verify::prove::{ProveError, Prover, Wanted};

/// Make a proof of one event, that anybody with a trust file can check without the trail
#[derive(Args)]
pub(crate) struct Prove {
    /// The trail: file:///path, a directory, or s3://bucket/prefix
    trail: String,
    /// An event id (a UUID), or WRITER:SEQUENCE with the writer's name or its name and epoch
    #[arg(value_name = "EVENT_ID|WRITER:SEQUENCE")]
    what: String,
    /// A trust file whose log it is; without it, the log of the workers that the trail itself names
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Say what was asked of the store
    #[arg(long)]
    stats: bool,
}

/// Check a proof; exit 0 if it holds, 1 if it does not, 2 if it cannot be checked
#[derive(Args)]
pub(crate) struct VerifyProof {
    /// The proof; - reads the standard input
    proof: PathBuf,
    /// Whose word counts
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    #[command(flatten)]
    chains: ChainArgs,
}

impl Prove {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let store = open(&self.trail)?;
        let wanted = match self.what.rsplit_once(':') {
            Some((writer, n)) => Wanted::Sequence(
                writer.to_owned(),
                n.parse().with_context(|| format!("{n:?} is no sequence"))?,
            ),
            None if self.what.len() == 36 => Wanted::Event(self.what.to_ascii_lowercase()),
            None => bail!("{:?} is neither an event id (a UUID) nor WRITER:SEQUENCE", self.what),
        };
        let trust = self.trust.as_deref().map(read_trust).transpose().map_err(|e| anyhow!(e))?;
        let is = |b: &[u8]| {
            let id = valid::trail(b).ok().map(|(e, _)| e.statement_hash());
            id.is_some_and(|id| trust.as_ref().is_none_or(|t| t.trail == id))
        };
        let bytes = oldest(&*store, name::TRAIL, MAX_ENVELOPE as u64, &is)?;
        let bytes = bytes.ok_or_else(|| anyhow!("{} holds no such trail.json", store.place()))?;
        let (envelope, _) = valid::trail(&bytes).context(name::TRAIL)?;
        let trail: Trail = valid::payload(&envelope).context(name::TRAIL)?;
        let id = envelope.statement_hash();
        let log = match trust.as_ref().and_then(|t| t.log.as_ref()) {
            Some(log) => VerifierKey::parse(log).context("the trust file's log")?,
            None => {
                let mut found = None;
                for key in trail.log_keys(&id) {
                    // Of several workers, the one whose log it is.
                    if found.is_none() || waxseal_log::checkpoint(&*store, &key, 0, 0)?.is_some() {
                        found = Some(key);
                    }
                }
                found.ok_or_else(|| anyhow!("the trail names no worker with a log's key"))?
            }
        };
        let before = store.requests();
        let proofs = match Prover::new(&*store, id, log, trust.as_ref()).prove(&wanted) {
            Ok(proofs) => proofs,
            Err(ProveError::NotFound) => {
                eprintln!("waxseal: {}: not in this trail", self.what);
                return Ok(ExitCode::from(1));
            }
            Err(e) => return Err(e.into()),
        };
        if let [_, _, ..] = &proofs[..] {
            eprintln!("waxseal: {} events have this id; one proof a line", proofs.len());
        }
        let mut out = std::io::stdout().lock();
        for proof in &proofs {
            out.write_all(&proof.to_bytes()?)?;
        }
        if let (true, Some(b), Some(a)) = (self.stats, before, store.requests()) {
            eprintln!(
                "waxseal: requests: {} get, {} head, {} list",
                a.get - b.get,
                a.head - b.head,
                a.list - b.list
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl VerifyProof {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let trust = read_trust(&self.trust).map_err(|e| anyhow!(e))?;
        let mut bytes = Vec::new();
        let limit = MAX_PROOF as u64 + 1;
        if self.proof.as_os_str() == "-" {
            std::io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
        } else {
            let file = std::fs::File::open(&self.proof).with_context(|| self.proof.display().to_string())?;
            file.take(limit).read_to_end(&mut bytes)?;
        }
        let chains = self.chains.open()?;
        let checked = match Proof::parse(&bytes).and_then(|p| check_proof(&p, &trust, &chains)) {
            Ok(checked) => checked,
            Err(e) => {
                eprintln!("waxseal: {}: {e}", self.proof.display());
                let unreadable = matches!(&e, e if EventProofFault::is_unreadable(e));
                return Ok(ExitCode::from(if unreadable { 2 } else { 1 }));
            }
        };
        let mut out = std::io::stdout().lock();
        let proven = &checked.proven;
        let h = &proven.header;
        writeln!(out, "{}", serde_json::to_string_pretty(&proven.record)?)?;
        writeln!(out, "record     {}", proven.hash)?;
        writeln!(out, "batch      {} of {}, sealed {}", h.batch, h.writer, h.sealed_at)?;
        writeln!(out, "log        {}, {} entries", proven.checkpoint.origin, proven.checkpoint.size)?;
        for (name, seconds) in &proven.cosigned.by {
            let at = i64::try_from(*seconds).ok().and_then(|s| Time::from_unix(s, 0));
            writeln!(
                out,
                "witness    {name} has seen it by {}",
                at.map(|t| t.to_string()).unwrap_or_default()
            )?;
        }
        let mut stamped = false;
        for stamp in &proven.stamped {
            match stamp {
                Ok(s) if s.not_after < SystemClock.now() => {
                    let (at, end) = (s.at, s.not_after);
                    writeln!(
                        out,
                        "timestamp  by {at}, but its certificate ended at {end}: make a new proof"
                    )?;
                }
                Ok(s) => {
                    stamped = true;
                    writeln!(out, "timestamp  it was there by {}", s.at)?;
                }
                Err(why) => writeln!(out, "timestamp  one that does not count: {why}")?,
            }
        }
        let token = stamped;
        stamped |= checked.anchors.iter().any(|a| a.unchecked.is_none());
        if proven.cosigned.by.is_empty() {
            let who = "whoever has the log's key and the writer's";
            let what = if stamped { "may show others another log" } else { "could have made this later" };
            writeln!(out, "witness    none: {who} {what}")?;
        }
        let mut open: BTreeSet<u64> = trust.ethereum.iter().map(|c| c.chain).collect();
        for a in &checked.anchors {
            let (chain, number, hash) = (a.chain, a.block_number, a.block_hash);
            match &a.unchecked {
                None => {
                    open.remove(&chain);
                    writeln!(
                        out,
                        "chain      {chain} has anchored it by {}, in block {number}, {hash}",
                        a.at
                    )?;
                }
                Some(why) => {
                    writeln!(
                        out,
                        "chain      CHAIN NOT CHECKED: block {number} of chain {chain}, {hash}: {why}"
                    )?;
                }
            }
        }
        for chain in open.iter().filter(|c| checked.anchors.iter().all(|a| a.chain != **c)) {
            let why = "its checkpoint is not anchored there yet: make a new proof later, with --trust";
            writeln!(out, "chain      CHAIN NOT CHECKED: chain {chain}: {why}")?;
        }
        if checked.unknown > 0 {
            let unknown = checked.unknown;
            writeln!(
                out,
                "chain      {unknown} anchor(s) that do not count by the trust file: of other contracts or accounts, or after `until`"
            )?;
        }
        if !trust.timestamps.is_empty() && !token {
            writeln!(
                out,
                "timestamp  none that counts, and the trust file names authorities: make a new proof"
            )?;
            writeln!(out, "verdict    {}", Verdict::Unanchored)?;
            return Ok(ExitCode::from(2));
        }
        if !open.is_empty() {
            writeln!(out, "verdict    {}", Verdict::ChainNotChecked)?;
            return Ok(ExitCode::from(2));
        }
        writeln!(out, "verdict    OK")?;
        Ok(ExitCode::SUCCESS)
    }
}
