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
use waxseal_store::{At, Put, Retain, Store, list_all_keys, oldest};
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::name::{self, glob_matches, is_name, split_writer};
use waxseal_trail::statement::{
    self, Acknowledgement, ExpectedWriters, Payload, Retirement, Trail, format_of,
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
        let bytes = store.get(name::TRAIL)?;
        let bytes = bytes.ok_or_else(|| anyhow!("{} holds no trail.json", store.place()))?;
        let (envelope, operators) = valid::trail(&bytes).context(name::TRAIL)?;
        if !operators.contains(key.public()) {
            bail!("{}: none of the operators of this trail", self.key.display());
        }
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
        if self.store.put_if_absent(&key, &bytes, &sha256(&bytes), &retain)? == Put::Other {
            bail!("{key} is there with other bytes");
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

    /// The number and the statement hash of a writer's last header.
    fn last_header(&self, writer: &str) -> anyhow::Result<(u64, Hash)> {
        let mut numbers = Vec::new();
        list_all_keys(&*self.store, &format!("batches/{writer}/"), &mut |k| {
            let file = k.rsplit('/').next().and_then(|f| f.strip_suffix(".json"));
            numbers.extend(file.and_then(|n| n.parse::<u64>().ok()));
        })?;
        numbers.sort_unstable();
        for number in numbers.into_iter().rev() {
            let key = name::batch_key(writer, number);
            let is = |b: &[u8]| {
                Envelope::parse(b).is_ok_and(|e| {
                    let number = Some(("batch", number));
                    statement::check_place(&e, "batch", &self.id, writer, number).is_ok()
                })
            };
            if let Some(bytes) = oldest(&*self.store, &key, MAX_ENVELOPE as u64, &is)? {
                return Ok((number, Envelope::parse(&bytes)?.statement_hash()));
            }
        }
        // Without any header, the genesis stands for it.
        let key = name::genesis_key(writer);
        let object = self.store.read(&At::key(&key), MAX_ENVELOPE as u64)?.and_then(|o| o.body);
        let bytes = object.ok_or_else(|| anyhow!("{key} is not there"))?;
        Ok((0, Envelope::parse(&bytes).context(key)?.statement_hash()))
    }
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
