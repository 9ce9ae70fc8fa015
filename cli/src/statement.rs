//! `waxseal statement`

use crate::open;
use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use waxseal_signing::{MemoryKey, Signer};
use waxseal_sink::clock::{Clock as _, SystemClock};
use waxseal_store::{Put, Retain, Store, list_all_keys, oldest};
use waxseal_trail::envelope::MAX_ENVELOPE;
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::keys::PublicKey;
use waxseal_trail::name::{self, glob_matches, is_name, split_writer};
use waxseal_trail::statement::{
    self, Acknowledgement, ExpectedWriters, Keys, Payload, Retirement, Trail, format_of,
};
use waxseal_trail::valid;

/// Say something as an operator: it is signed, stored, and counts from when the log holds it
#[derive(Args)]
pub(crate) struct StatementCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Acknowledge(Acknowledge),
    Retire(Retire),
    Expect(Expect),
}

#[derive(Args)]
struct Common {
    /// The trail: file:///path, a directory, or s3://bucket/prefix
    trail: String,
    /// An operator's key: PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Say that something missing is known and explained: it is then listed, and no fault
#[derive(Args)]
struct Acknowledge {
    #[command(flatten)]
    common: Common,
    /// What is acknowledged
    #[arg(long, value_parser = ["SILENT", "ABANDONED", "GAP", "DECLARED_LOSS"])]
    verdict: String,
    /// The writer, with its epoch
    #[arg(long, value_name = "NAME.EPOCH")]
    writer: String,
    /// The first batch that it is about
    #[arg(long, value_name = "BATCH")]
    first: u64,
    /// The last one
    #[arg(long, value_name = "BATCH")]
    last: u64,
    /// Who says so
    #[arg(long, env = "USER")]
    by: String,
}

/// Say that a writer will not write again
#[derive(Args)]
struct Retire {
    #[command(flatten)]
    common: Common,
    /// The writer: its name, or its name and epoch
    #[arg(long)]
    writer: String,
}

/// Say which writers there have to be; the last such statement counts
#[derive(Args)]
struct Expect {
    #[command(flatten)]
    common: Common,
    /// A name, without epoch (may be given again)
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// A glob of names that may come and go (may be given again)
    #[arg(long, value_name = "GLOB")]
    ephemeral: Vec<String>,
    /// Who says so
    #[arg(long, env = "USER")]
    by: String,
}

/// The first batch that keys sign, and they.
type InForce = (u64, Vec<PublicKey>);

struct Opened {
    store: Arc<dyn Store>,
    trail: Trail,
    id: Hash,
    key: MemoryKey,
}

impl Common {
    fn open(&self) -> anyhow::Result<Opened> {
        let store = open(&self.trail)?;
        let pem = std::fs::read(&self.key).with_context(|| self.key.display().to_string())?;
        let key = MemoryKey::from_pem(&pem).with_context(|| self.key.display().to_string())?;
        // Whoever may write there may have put another beside it.
        let ours = |b: &[u8]| valid::trail(b).is_ok_and(|(_, operators)| operators.contains(key.public()));
        let bytes = oldest(&*store, name::TRAIL, MAX_ENVELOPE as u64, &ours)?.ok_or_else(|| {
            let (place, key) = (store.place(), self.key.display());
            anyhow!("{place} holds no trail.json, or {key} is none of the operators of the trail there")
        })?;
        let (envelope, _) = valid::trail(&bytes).context(name::TRAIL)?;
        let trail = valid::payload(&envelope).context(name::TRAIL)?;
        Ok(Opened { store, trail, id: envelope.statement_hash(), key })
    }
}

impl Opened {
    fn put<P: Payload>(&self, payload: &P) -> anyhow::Result<ExitCode> {
        let mut envelope = statement::unsigned(payload);
        let bytes = self.key.sign(&envelope.signed_bytes())?;
        envelope.signatures = vec![waxseal_trail::envelope::Signature { key: self.key.public().id(), bytes }];
        let bytes = Bytes::from(envelope.to_bytes()?);
        let key = name::statement_key(P::KIND, &envelope.statement_hash());
        let days = i64::try_from(self.trail.min_retention).unwrap_or(i64::MAX / 86_400);
        let until = SystemClock.now().saturating_add_seconds(days.saturating_mul(86_400)).ceil_second();
        let retain = Retain { lock: self.trail.lock, until };
        let put = self.store.put_if_absent(&key, &bytes, &sha256(&bytes), &retain)?;
        if matches!(put, Put::Same(_)) {
            return already(&key);
        }
        if put == Put::Other {
            // The same statement may have been signed before: PSS signs otherwise each time.
            let signer = [self.key.public().clone()];
            let hash = envelope.statement_hash().to_string();
            let same = |b: &[u8]| valid::statement(&self.id, P::KIND, &hash, &signer, b).is_ok();
            if oldest(&*self.store, &key, MAX_ENVELOPE as u64, &same)?.is_some() {
                return already(&key);
            }
            if self.store.put_beside(&key, &bytes, &sha256(&bytes), &retain)? == Put::Other {
                bail!("{key} is there with other bytes, which nobody signed who may: move it away");
            }
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string_pretty(payload)?)?;
        writeln!(out, "\nwrote {key}; it counts once the log holds it (waxseal-anchor)")?;
        Ok(ExitCode::SUCCESS)
    }

    /// The writer with this name and its only epoch, or with this name and epoch.
    fn writer(&self, wanted: &str) -> anyhow::Result<String> {
        let mut all = Vec::new();
        list_all_keys(&*self.store, "writers/", &mut |k| {
            let writer = k.split('/').nth(1).unwrap_or_default();
            let is = writer == wanted || split_writer(writer).is_some_and(|(name, _)| name == wanted);
            if is && k.ends_with("/genesis.json") {
                all.push(writer.to_owned());
            }
        })?;
        match &all[..] {
            [one] => Ok(one.clone()),
            [] => bail!("no writer {wanted} in {}", self.store.place()),
            many => bail!("{wanted} has several epochs; name one:\n  {}", many.join("\n  ")),
        }
    }

    /// The keys that sign a writer's headers, by the first batch of each; the statement hash of its genesis.
    fn keys(&self, writer: &str) -> anyhow::Result<(Vec<InForce>, Hash)> {
        let limit = MAX_ENVELOPE as u64;
        let key = name::genesis_key(writer);
        let is = |b: &[u8]| valid::genesis(&self.id, writer, b).is_ok();
        let bytes = oldest(&*self.store, &key, limit, &is)?.ok_or_else(|| anyhow!("no genesis at {key}"))?;
        let (genesis, first) = valid::genesis(&self.id, writer, &bytes).context(key)?;
        let mut all = vec![(0, first)];
        for number in 1.. {
            let key = name::keys_key(writer, number);
            let in_force = all.last().map(|(_, k)| k.clone()).unwrap_or_default();
            let statement = |b: &[u8]| valid::key_statement(&self.id, writer, number, &in_force, b);
            let Some(bytes) = oldest(&*self.store, &key, limit, &|b| statement(b).is_ok())? else { break };
            let (envelope, new) = statement(&bytes).context(key.clone())?;
            let payload: Keys = valid::payload(&envelope).context(key)?;
            all.push((payload.after.map_or(0, |a| a.batch.saturating_add(1)), new));
        }
        Ok((all, genesis.statement_hash()))
    }

    /// The number and the statement hash of a writer's last header that its keys have signed; without any, the genesis stands for
    /// it.
    fn last_header(&self, writer: &str) -> anyhow::Result<(u64, Hash)> {
        let (keys, genesis) = self.keys(writer)?;
        let mut numbers = Vec::new();
        list_all_keys(&*self.store, &format!("batches/{writer}/"), &mut |k| {
            let file = k.rsplit('/').next().and_then(|f| f.strip_suffix(".json"));
            numbers.extend(file.and_then(|n| name::number(n, 12)));
        })?;
        numbers.sort_unstable();
        for number in numbers.into_iter().rev() {
            let key = name::batch_key(writer, number);
            let in_force = keys.iter().rev().find(|(from, _)| *from <= number).map(|(_, k)| &k[..]);
            let header = |b: &[u8]| valid::header(&self.id, writer, number, in_force.unwrap_or_default(), b);
            if let Some(bytes) = oldest(&*self.store, &key, MAX_ENVELOPE as u64, &|b| header(b).is_ok())? {
                return Ok((number, header(&bytes)?.statement_hash()));
            }
        }
        Ok((0, genesis))
    }
}

fn already(key: &str) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stdout(), "{key} is there already; it counts once the log holds it")?;
    Ok(ExitCode::SUCCESS)
}

impl StatementCommand {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Acknowledge(c) => c.run(),
            Command::Retire(c) => c.run(),
            Command::Expect(c) => c.run(),
        }
    }
}

impl Acknowledge {
    fn run(self) -> anyhow::Result<ExitCode> {
        if self.first > self.last {
            bail!("--first {} is after --last {}", self.first, self.last);
        }
        let opened = self.common.open()?;
        let writer = opened.writer(&self.writer)?;
        opened.put(&Acknowledgement {
            format: format_of::<Acknowledgement>(),
            trail: opened.id,
            verdict: self.verdict,
            writer,
            range: [self.first, self.last],
            reason: self.common.reason,
            by: self.by,
        })
    }
}

impl Retire {
    fn run(self) -> anyhow::Result<ExitCode> {
        let opened = self.common.open()?;
        let writer = opened.writer(&self.writer)?;
        let (batch, statement) = opened.last_header(&writer)?;
        opened.put(&Retirement {
            format: format_of::<Retirement>(),
            trail: opened.id,
            writer,
            batch,
            statement,
            reason: self.common.reason,
        })
    }
}

impl Expect {
    fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(bad) = self.names.iter().find(|n| !is_name(n)) {
            bail!("--name {bad:?} is no writer's name");
        }
        if let Some(both) = self.names.iter().find(|n| self.ephemeral.iter().any(|g| glob_matches(g, n))) {
            bail!("{both} is expected and may come and go");
        }
        let opened = self.common.open()?;
        opened.put(&ExpectedWriters {
            format: format_of::<ExpectedWriters>(),
            trail: opened.id,
            names: self.names,
            ephemeral: self.ephemeral,
            reason: self.common.reason,
            by: self.by,
            declared_at: SystemClock.now(),
        })
    }
}
