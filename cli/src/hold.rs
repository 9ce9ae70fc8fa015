//! `waxseal hold`

use crate::Paint;
use crate::bucket::settings;
use crate::verify::time;
use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use waxseal_bucket::Bucket;
use waxseal_bucket::hold::{Selection, choose};
use waxseal_store::s3::S3Store;
use waxseal_trail::time::Time;

/// Keep records beyond their retention: a legal hold on their batches and on what proves them
#[derive(Args)]
pub(crate) struct Hold {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set a legal hold
    Set(What),
    /// Lift it: for everybody, whoever set it
    Lift(What),
}

#[derive(Args)]
struct What {
    /// The trail: s3://bucket/prefix
    trail: String,
    /// Batches of this writer: a name, or a name with its epoch
    #[arg(long)]
    writer: Option<String>,
    /// Batches with events of this time or later (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Time>,
    /// Batches with events of this time or earlier (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Time>,
    /// Batches with these records: JSON, one a line, each with `writer` and `sequence`, as records have them; - reads
    /// the standard input
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// All batches
    #[arg(long, conflicts_with_all = ["writer", "since", "until", "records"])]
    all: bool,
    /// When lifting: also from trail statement, genesis, key statements and certificates, which others may need
    #[arg(long)]
    shared: bool,
    /// Only say what would be held or lifted
    #[arg(long)]
    dry_run: bool,
}

/// What a record says of its place; whatever else it says.
#[derive(Deserialize)]
struct Place {
    writer: String,
    sequence: u64,
}

fn read_records(path: &PathBuf) -> anyhow::Result<BTreeMap<String, BTreeSet<u64>>> {
    let input: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        Box::new(std::io::BufReader::new(file))
    };
    let mut found: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for (n, line) in input.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let place: Place = serde_json::from_str(&line).with_context(|| {
            format!("{} line {}: a record has `writer` and `sequence`", path.display(), n + 1)
        })?;
        found.entry(place.writer).or_default().insert(place.sequence);
    }
    Ok(found)
}

impl Hold {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let (what, on) = match self.command {
            Command::Set(w) => (w, true),
            Command::Lift(w) => (w, false),
        };
        let narrowed =
            what.writer.is_some() || what.since.is_some() || what.until.is_some() || what.records.is_some();
        if !narrowed && !what.all {
            bail!("say what: --writer, --since, --until, --records, or --all");
        }
        let settings = settings(&what.trail)?;
        let store = S3Store::open(&settings).map_err(|e| anyhow!(e))?;
        let selection = Selection {
            writer: what.writer.clone(),
            since: what.since,
            until: what.until,
            records: what.records.as_ref().map(read_records).transpose()?,
        };
        let chosen = choose(&store, &selection)?;
        let mut objects = chosen.objects;
        if on || what.shared {
            objects.extend(chosen.shared);
        }
        let paint = Paint::stdout();
        let mut out = std::io::stdout().lock();
        let verb = match (on, what.dry_run) {
            (true, false) => "held",
            (true, true) => "to be held",
            (false, false) => "lifted",
            (false, true) => "to be lifted",
        };
        if chosen.batches == 0 {
            writeln!(out, "{}", paint.note("nothing is chosen by this"))?;
            return Ok(ExitCode::from(1));
        }
        let mut failed = 0u64;
        if what.dry_run {
            for at in &objects {
                writeln!(out, "{}", at.key)?;
            }
        } else {
            let bucket = Bucket::open(&settings).map_err(|e| anyhow!(e))?;
            for at in &objects {
                if let Err(e) = bucket.hold(at, on) {
                    failed += 1;
                    writeln!(out, "{} {}: {e}", paint.bad("refused"), at.key)?;
                }
            }
        }
        writeln!(
            out,
            "{} batches with {} records: {} of {} objects {verb}",
            chosen.batches,
            chosen.records,
            objects.len() as u64 - failed,
            objects.len()
        )?;
        Ok(ExitCode::from(if failed > 0 { 2 } else { 0 }))
    }
}
