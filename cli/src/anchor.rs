//! `waxseal anchor`

use crate::open;
use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use waxseal_anchor::config::read_trust;
use waxseal_ethereum::receipt::{About, MAX_RECEIPT, Receipt};
use waxseal_log::{Committed, checkpoint, latest};
use waxseal_store::{Store, list_all_keys, oldest};
use waxseal_trail::envelope::MAX_ENVELOPE;
use waxseal_trail::hash::sha256;
use waxseal_trail::log::note::VerifierKey;
use waxseal_trail::name;
use waxseal_trail::statement::Trail;
use waxseal_trail::time::Time;
use waxseal_trail::valid;

/// What outside the store vouches for the log
#[derive(Args)]
pub(crate) struct Anchors {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(List),
}

/// List checkpoints with what others have signed of them: cosignatures, time-stamps, transactions
#[derive(Args)]
struct List {
    /// The trail: file:///path, a directory, or s3://bucket/prefix
    trail: String,
    /// A trust file: only receipts of contracts and accounts that it names are listed
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// So many checkpoints, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 24)]
    last: u64,
    /// text or json: a line for each checkpoint
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

/// A checkpoint, and what is there of others.
#[derive(Serialize)]
struct Row {
    checkpoint: u64,
    entries: u64,
    sha256: waxseal_trail::hash::Hash,
    cosignatures: usize,
    timestamps: usize,
    transactions: Vec<Transaction>,
}

#[derive(Serialize)]
struct Transaction {
    chain: u64,
    transaction: String,
    block_number: u64,
    block_hash: String,
    gas_used: u64,
    anchored_at: Time,
    /// From the last header that the checkpoint is the first over to the anchor, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<i64>,
}

impl Anchors {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::List(list) => list.run(),
        }
    }
}

impl List {
    fn run(self) -> anyhow::Result<ExitCode> {
        let store = open(&self.trail)?;
        let trust = self.trust.as_deref().map(read_trust).transpose().map_err(|e| anyhow!(e))?;
        let log = match trust.as_ref().and_then(|t| t.log.as_ref()) {
            Some(log) => VerifierKey::parse(log).context("the trust file's log")?,
            None => own_log(&*store)?,
        };
        let Some(newest) = latest(&*store, &log)? else {
            eprintln!("waxseal: {}: the log has no checkpoint yet", store.place());
            return Ok(ExitCode::SUCCESS);
        };
        let first = (newest.number + 1).saturating_sub(self.last);
        let mut out = std::io::stdout().lock();
        let json = self.format == "json";
        if !json {
            writeln!(
                out,
                "{:>10} {:>12} {:>12} {:>10} {:>9} {:>8} {:>20} {:>8}  transaction, block",
                "checkpoint", "entries", "cosignatures", "timestamps", "chain", "gas", "anchored", "lag"
            )?;
        }
        for number in first..=newest.number {
            let Some(committed) = checkpoint(&*store, &log, number, 0)? else { continue };
            let row = row(&*store, &committed, trust.as_ref().map(|t| &t.ethereum[..]))?;
            if json {
                serde_json::to_writer(&mut out, &row)?;
                writeln!(out)?;
                continue;
            }
            let head = format!(
                "{:>10} {:>12} {:>12} {:>10}",
                row.checkpoint, row.entries, row.cosignatures, row.timestamps
            );
            if row.transactions.is_empty() {
                writeln!(out, "{head} {:>9} {:>8} {:>20} {:>8}", "-", "-", "-", "-")?;
            }
            for t in &row.transactions {
                let lag = t.lag.map_or("-".to_owned(), |s| format!("{s} s"));
                let at: String = t.anchored_at.to_string().chars().take(19).collect();
                writeln!(
                    out,
                    "{head} {:>9} {:>8} {at:>19}Z {lag:>8}  {} {}",
                    t.chain, t.gas_used, t.transaction, t.block_hash
                )?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The log of the workers that the trail itself names.
fn own_log(store: &dyn Store) -> anyhow::Result<VerifierKey> {
    let bytes = oldest(store, name::TRAIL, MAX_ENVELOPE as u64, &|b| valid::trail(b).is_ok())?;
    let bytes = bytes.ok_or_else(|| anyhow!("{} holds no trail.json", store.place()))?;
    let (envelope, _) = valid::trail(&bytes).context(name::TRAIL)?;
    let trail: Trail = valid::payload(&envelope).context(name::TRAIL)?;
    for key in trail.log_keys(&envelope.statement_hash()) {
        if checkpoint(store, &key, 0, 0)?.is_some() {
            return Ok(key);
        }
    }
    Err(anyhow!("{}: none of the workers that the trail names has written a log", store.place()))
}

fn row(
    store: &dyn Store,
    committed: &Committed,
    trusted: Option<&[waxseal_trail::trust::Contract]>,
) -> anyhow::Result<Row> {
    let mut keys = Vec::new();
    list_all_keys(store, &format!("anchors/{:012}/", committed.number), &mut |k| keys.push(k))?;
    let under =
        |kind: &str| -> Vec<&String> { keys.iter().filter(|k| k.split('/').nth(2) == Some(kind)).collect() };
    let witnesses: BTreeSet<&str> = under("cosignatures")
        .iter()
        .filter_map(|k| k.rsplit('/').next()?.split_once('-').map(|(id, _)| id))
        .collect();
    let about = About::new(&committed.checkpoint, sha256(&committed.bytes));
    let named = |r: &Receipt| {
        trusted.is_none_or(|all| {
            let same = |c: &waxseal_trail::trust::Contract| {
                (c.chain, c.contract, c.sender) == (r.chain, r.contract.0.0, r.sender.0.0)
            };
            all.iter().any(same)
        })
    };
    let good = |b: &[u8]| {
        let receipt = Receipt::parse(b).ok().filter(named)?;
        // One without a proof is listed, too: the chain can be asked.
        let holds = receipt.proof.is_none() || receipt.check().is_ok();
        let metadata = receipt.is_about(&about).ok().filter(|_| holds)?;
        Some((receipt, metadata))
    };
    let mut transactions = BTreeMap::new();
    for key in under("ethereum") {
        let body = oldest(store, key, MAX_RECEIPT as u64, &|b| good(b).is_some())?;
        let Some((r, metadata)) = body.as_deref().and_then(good) else { continue };
        let lag = metadata.last_sealed_at.map(|t| r.timestamp.unix_seconds() - t.unix_seconds());
        let transaction = Transaction {
            chain: r.chain,
            transaction: r.transaction_hash.to_string(),
            block_number: r.block_number,
            block_hash: r.block_hash.to_string(),
            gas_used: r.gas_used,
            anchored_at: r.timestamp,
            lag,
        };
        transactions.insert((r.chain, r.block_number, r.block_hash), transaction);
    }
    Ok(Row {
        checkpoint: committed.number,
        entries: committed.checkpoint.size,
        sha256: about.hash,
        cosignatures: witnesses.len(),
        timestamps: under("rfc3161").len(),
        transactions: transactions.into_values().collect(),
    })
}
