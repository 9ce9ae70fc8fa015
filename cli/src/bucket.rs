//! `waxseal bucket`

#![allow(clippy::disallowed_methods)] // a person's own files, not evidence

use crate::Paint;
use crate::cost::Cost;
use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use waxseal_bucket::Bucket as Vault;
use waxseal_bucket::check::{Check as Found, Policy, State};
use waxseal_bucket::init::{Outcome, STEPS, Step, Wanted};
use waxseal_bucket::policy::{ROLES, Role, role_policy};
use waxseal_sink::config::Span;
use waxseal_sink::epoch::read_trail;
use waxseal_store::{Location, Store as _, s3};
use waxseal_trail::name::TRAIL;
use waxseal_trail::statement::Lock;

/// Make a bucket a vault, or check whether one is
#[derive(Args)]
pub(crate) struct Bucket {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(Init),
    Check(Check),
}

/// Make a bucket with Object Lock, versions, default retention, lifecycle and policy, or change one into that
#[derive(Args)]
struct Init {
    /// The trail's place: s3://bucket/prefix
    url: String,
    /// The lock that objects get by default
    #[arg(long, value_parser = ["compliance", "governance"], default_value = "compliance")]
    lock: String,
    /// How long objects are locked by default, in days, as in 2555d
    #[arg(long, value_name = "DAYS")]
    retention: Span,
    /// Nobody may lock for longer [default: the retention and 31 days]
    #[arg(long, value_name = "DAYS")]
    cap: Option<Span>,
    /// Events objects of 128 KiB and more move to STANDARD_IA after so many days; 0: never
    #[arg(long, value_name = "DAYS", default_value_t = 90)]
    infrequent_after: u32,
    /// And to GLACIER, where they have to be restored from before they can be read; 0: never
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    archive_after: u32,
    /// Who writes as a sink: an ARN, added to the bucket's policy; may be said again
    #[arg(long, value_name = "ARN")]
    node: Vec<String>,
    /// Who is the anchor worker
    #[arg(long, value_name = "ARN")]
    worker: Vec<String>,
    /// Who reads
    #[arg(long, value_name = "ARN")]
    reader: Vec<String>,
    /// Who has the operator's key
    #[arg(long, value_name = "ARN")]
    operator: Vec<String>,
    /// Write the policies of the roles into this directory, to attach in IAM
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Leave out a step that the server does not know, by its name
    #[arg(long, value_name = "STEP")]
    skip: Vec<String>,
    /// Print everything, and what it costs; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Say the retention again: under compliance it cannot be taken back
    #[arg(long, value_name = "DAYS")]
    confirm: Option<Span>,
    /// For the costs: nodes whose logs are sealed
    #[arg(long, default_value_t = 20)]
    nodes: u32,
    /// For the costs: events a second, of all nodes together
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// For the costs: prices (YAML, docs/topologies.md)
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
}

/// Check what a bucket says of itself, and try it with a probe that is locked for a minute; exit 1 if anything fails
#[derive(Args)]
struct Check {
    /// The trail's place: s3://bucket/prefix
    url: String,
    /// The lock that is wanted [default: what trail.json says, else compliance]
    #[arg(long, value_parser = ["compliance", "governance"])]
    lock: Option<String>,
    /// The retention that is wanted [default: what trail.json says]
    #[arg(long, value_name = "DAYS")]
    retention: Option<Span>,
    /// Instead: try what a role must not be able to do, with its credentials
    #[arg(long, value_parser = ["node", "worker", "reader", "operator"])]
    role: Option<String>,
    /// Do not wait until the probe's lock has ended; the probe stays
    #[arg(long)]
    no_wait: bool,
    /// text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

pub(crate) fn settings(url: &str) -> anyhow::Result<s3::Settings> {
    match url.parse().map_err(|e: String| anyhow!(e))? {
        Location::S3(settings) => Ok(*settings),
        Location::Local(path) => {
            bail!("{}: a directory is no bucket; write s3://bucket/prefix", path.display())
        }
    }
}

fn lock(text: &str) -> Lock {
    if text == "governance" { Lock::Governance } else { Lock::Compliance }
}

fn days(name: &str, span: Span) -> anyhow::Result<u64> {
    let days = span.0.as_secs() / 86_400;
    if days == 0 || days * 86_400 != span.0.as_secs() || days > 36_500 {
        bail!("--{name}: whole days, from 1d to 36500d");
    }
    Ok(days)
}

impl Bucket {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Init(c) => c.run(),
            Command::Check(c) => c.run(),
        }
    }
}

impl Init {
    fn run(self) -> anyhow::Result<ExitCode> {
        let vault = Vault::open(&settings(&self.url)?).map_err(|e| anyhow!(e))?;
        let retention = days("retention", self.retention)?;
        let cap = self.cap.map_or(Ok(retention + 31), |c| days("cap", c))?;
        if cap < retention {
            bail!("--cap {cap}d is less than --retention {retention}d: every write would be refused");
        }
        if let Some(unknown) = self.skip.iter().find(|s| STEPS.iter().all(|step| step.name() != s.as_str())) {
            let names: Vec<&str> = STEPS.iter().map(|s| s.name()).collect();
            bail!("--skip {unknown}: no such step; there are {}", names.join(", "));
        }
        let some = |d: u32| Some(d).filter(|d| *d > 0);
        if let (Some(i), Some(a)) = (some(self.infrequent_after), some(self.archive_after))
            && a < i + 30
        {
            bail!("--archive-after: at least 30 days after --infrequent-after, which is what S3 demands");
        }
        let wanted = Wanted {
            lock: lock(&self.lock),
            days: retention,
            cap,
            infrequent: some(self.infrequent_after),
            archive: some(self.archive_after),
            principals: vec![
                (Role::Node, self.node.clone()),
                (Role::Worker, self.worker.clone()),
                (Role::Reader, self.reader.clone()),
                (Role::Operator, self.operator.clone()),
            ],
        };
        if let Some(dir) = &self.policies {
            std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
            for role in ROLES {
                let path = dir.join(format!("{}.json", role.name()));
                let text = serde_json::to_string_pretty(&role_policy(&vault.settings, role))? + "\n";
                std::fs::write(&path, text).with_context(|| path.display().to_string())?;
            }
        }
        if self.dry_run {
            self.show(&vault, &wanted)?;
            return Ok(ExitCode::SUCCESS);
        }
        if wanted.lock == Lock::Compliance && self.confirm.map(|c| c.0) != Some(self.retention.0) {
            bail!(
                "whatever is put into {} from now on would be locked for {retention} days, and nobody could shorten \
                 that: look at --dry-run, then say --confirm {retention}d",
                self.url
            );
        }
        let paint = Paint::stdout();
        let mut out = std::io::stdout().lock();
        let mut missing = false;
        for step in STEPS {
            if self.skip.iter().any(|s| s == step.name()) {
                writeln!(out, "{:<14} {}", step.name(), paint.note("left out"))?;
                continue;
            }
            match vault.apply(&wanted, step) {
                Ok(Outcome::Done) => writeln!(out, "{:<14} {}", step.name(), paint.good("set"))?,
                Ok(Outcome::Already) => writeln!(out, "{:<14} as it must be", step.name())?,
                Ok(Outcome::Unsupported(e)) => {
                    missing = true;
                    let says = paint.bad("this server does not know it");
                    writeln!(out, "{:<14} {says}: {e}; --skip {} leaves it out", step.name(), step.name())?;
                }
                Err(e) => {
                    writeln!(out, "{:<14} {}: {e}", step.name(), paint.bad("refused"))?;
                    writeln!(out, "What comes after it was not done; this command can be run again.")?;
                    return Ok(ExitCode::from(2));
                }
            }
        }
        if !vault.is_encrypted() {
            writeln!(out, "{}", paint.note("The endpoint is plain HTTP: the policy cannot demand TLS."))?;
        }
        writeln!(out, "Now try it: waxseal bucket check '{}'", self.url)?;
        Ok(if missing { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }

    fn show(&self, vault: &Vault, wanted: &Wanted) -> anyhow::Result<()> {
        let paint = Paint::stdout();
        let mut out = std::io::stdout().lock();
        writeln!(out, "Nothing is changed (--dry-run). For {}:", vault.settings.place())?;
        for step in STEPS.iter().filter(|s| !self.skip.iter().any(|n| n == s.name())) {
            writeln!(out, "\n{}", paint.good(step.name()))?;
            if *step == Step::Policy {
                writeln!(out, "(Statements of other names stay as they are.)")?;
            }
            if *step == Step::Lifecycle {
                writeln!(out, "(Other rules stay as they are.)")?;
            }
            writeln!(out, "{}", serde_json::to_string_pretty(&vault.describe(wanted, *step))?)?;
        }
        for role in ROLES {
            writeln!(out, "\n{}", paint.good(&format!("role {}", role.name())))?;
            writeln!(out, "{}", serde_json::to_string_pretty(&role_policy(&vault.settings, role))?)?;
        }
        writeln!(out, "\n{}", paint.good("costs"))?;
        writeln!(
            out,
            "Making the bucket takes about {} requests, and checking it about 25. With --nodes {} and --rate {}:",
            2 * STEPS.len(),
            self.nodes,
            self.rate
        )?;
        Cost::of(self.nodes, self.rate, self.retention, self.prices.clone()).print(&mut out)
    }
}

impl Check {
    fn run(self) -> anyhow::Result<ExitCode> {
        let settings = settings(&self.url)?;
        let vault = Vault::open(&settings).map_err(|e| anyhow!(e))?;
        // What the trail promises, if there is one yet.
        let store = s3::S3Store::open(&settings).map_err(|e| anyhow!(e))?;
        let trail = match (&self.lock, self.retention) {
            (Some(_), Some(_)) => None,
            _ => store.get(TRAIL).ok().flatten().and_then(|b| read_trail(&b).ok()).map(|t| t.0),
        };
        let policy = Policy {
            lock: match (&self.lock, &trail) {
                (Some(text), _) => lock(text),
                (None, Some(t)) => t.lock,
                (None, None) => Lock::Compliance,
            },
            days: match (self.retention, &trail) {
                (Some(r), _) => days("retention", r)?,
                (None, Some(t)) => t.min_retention,
                (None, None) => 1,
            },
        };
        let role = self.role.as_ref().and_then(|r| ROLES.into_iter().find(|x| x.name() == r));
        let (paint, text) = (Paint::stdout(), self.format == "text");
        if text && !self.no_wait && role.is_none() {
            eprintln!("This takes a little more than a minute: a lock of a minute has to end.");
        }
        let mut tell = |c: &Found| {
            if text {
                let state = match c.state {
                    State::Ok => paint.good("ok     "),
                    State::Warning => paint.note("warning"),
                    State::Failed => paint.bad("FAILED "),
                    State::Unknown => paint.note("unknown"),
                };
                let _ = writeln!(std::io::stdout(), "{state} {:<21} {}", c.name, c.detail);
            }
        };
        let all = vault.check(policy, !self.no_wait, role, &mut tell);
        let any = |state| all.iter().any(|c| c.state == state);
        if !text {
            let mut out = std::io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, &all)?;
            writeln!(out)?;
        }
        Ok(ExitCode::from(if any(State::Failed) { 1 } else { 0 }))
    }
}
