//! `waxseal init`

#![allow(clippy::disallowed_methods)] // a person's own files, not evidence

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use waxseal_sink::clock::{Clock as _, SystemClock};
use waxseal_sink::config::Span;
use waxseal_sink::signer::{self, Algorithm, MemoryKey, Signer};
use waxseal_store::{At, Location, Put, Retain};
use waxseal_trail::hash::sha256;
use waxseal_trail::name::{TRAIL, is_name};
use waxseal_trail::statement::{self, Lock, Trail};

/// Make a trail: the trail statement in the store, the operator's key and a first trust file in a directory
#[derive(Args)]
pub(crate) struct Init {
    /// Where the trail will be: file:///path or s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    store: String,
    /// The trail's name: lower-case letters, digits, . and -
    #[arg(long)]
    name: String,
    /// How strongly objects are locked; only s3:// stores have locks
    #[arg(long, value_parser = ["compliance", "governance", "none"])]
    lock: String,
    /// How long every object is kept at least, in days, as in 2555d
    #[arg(long, value_name = "DAYS")]
    retention: Span,
    /// Where operator.key, worker.key and trust.yaml go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// C2SP origin prefix of the trail's log [default: the name]
    #[arg(long)]
    origin: Option<String>,
    /// How long a header may stay out of the log before it is OVERDUE
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    max_merge_delay: Span,
    /// Say the retention again: under compliance it cannot be taken back
    #[arg(long, value_name = "DAYS")]
    confirm: Option<Span>,
}

impl Init {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if !is_name(&self.name) {
            bail!("--name {:?}: lower-case letters, digits, . and - within, at most 128", self.name);
        }
        let days = self.retention.0.as_secs() / 86_400;
        if days == 0 || days * 86_400 != self.retention.0.as_secs() {
            bail!("--retention: whole days, 1d or more");
        }
        let lock = match self.lock.as_str() {
            "compliance" => Lock::Compliance,
            "governance" => Lock::Governance,
            _ => Lock::None,
        };
        let location: Location = self.store.parse().map_err(|e: String| anyhow!(e))?;
        if matches!(location, Location::Local(_)) && lock != Lock::None {
            bail!(
                "--lock {lock}: a local directory has no locks, and every verdict would claim one. Use --lock none \
                 here, or an s3:// store"
            );
        }
        let now = SystemClock.now();
        let until = now.saturating_add_seconds(i64::try_from(days * 86_400)?);
        if lock == Lock::Compliance && self.confirm.map(|c| c.0) != Some(self.retention.0) {
            bail!(
                "objects written today would be locked until {until}, and nobody could shorten that: say --confirm {days}d"
            );
        }
        std::fs::create_dir_all(&self.out).with_context(|| self.out.display().to_string())?;
        for file in ["operator.key", "worker.key", "trust.yaml"] {
            if self.out.join(file).exists() {
                bail!("{} is there already: choose another --out", self.out.join(file).display());
            }
        }
        let store = location.create().map_err(|e| anyhow!(e))?;
        store.check_lock(lock)?;
        if store.head(&At::key(TRAIL))?.is_some() {
            bail!("{} holds a trail already", store.place());
        }
        let operator = MemoryKey::generate(Algorithm::Ed25519)?;
        let worker = MemoryKey::generate(Algorithm::Ed25519)?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|e| anyhow!("no random bytes: {e}"))?;
        let payload = Trail {
            format: statement::format_of::<Trail>(),
            name: self.name.clone(),
            origin: self.origin.unwrap_or_else(|| self.name.clone()),
            lock,
            min_retention: days,
            max_merge_delay: self.max_merge_delay.0.as_secs(),
            nonce: data_encoding::BASE64URL_NOPAD.encode(&nonce),
            created_at: now,
            operators: vec![operator.public().to_base64()],
            workers: vec![worker.public().to_base64()],
        };
        let mut envelope = statement::unsigned(&payload);
        // The keys first: a statement whose key is lost could never be followed by another.
        write_private(&self.out.join("operator.key"), operator.to_pem()?.as_bytes())?;
        write_private(&self.out.join("worker.key"), worker.to_pem()?.as_bytes())?;
        let spki = operator.public().to_base64();
        let log = waxseal_anchor::worker::log_key(&payload, &envelope.statement_hash(), &worker)
            .context("--origin")?;
        signer::sign(&mut envelope, &[Arc::new(operator) as Arc<dyn Signer>])?;
        let bytes = envelope.to_bytes()?;
        let retain = Retain { lock, until: until.ceil_second() };
        let (digest, bytes) = (sha256(&bytes), Bytes::from(bytes));
        match store.put_if_absent(TRAIL, &bytes, &digest, &retain)? {
            Put::Other => bail!("{} holds a trail already", store.place()),
            Put::Created(written) | Put::Same(written) => {
                let at = At { key: TRAIL.to_owned(), version: written.version, bytes: None };
                store.confirm(&at, &digest, &retain)?;
            }
        }
        let id = envelope.statement_hash();
        let trust = format!(
            "# What a verifier trusts. Keep it, and a copy of it, away from the trail.\n\
             trail: {id}\noperators:\n  - {spki}\nwriters: []\n\
             # Once waxseal-anchor runs, so that everything has to be in its log:\n# log: {log}\n"
        );
        std::fs::write(self.out.join("trust.yaml"), trust)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "trail    {} {id}", self.name)?;
        writeln!(out, "store    {}", store.place())?;
        writeln!(out, "lock     {lock}; what is written today is kept until {until}")?;
        writeln!(out, "wrote    {}: operator.key, worker.key, trust.yaml", self.out.display())?;
        writeln!(out, "\nThe operator's key belongs on no node: keep it offline. Next:")?;
        writeln!(
            out,
            "  waxseal keys generate --algorithm ed25519 --out DIR --name WRITER --trust {}",
            self.out.join("trust.yaml").display()
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes a file that only its owner may read, and that was not there.
pub(crate) fn write_private(path: &Path, data: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| path.display().to_string())?;
    file.write_all(data)?;
    file.sync_all()?;
    Ok(())
}
