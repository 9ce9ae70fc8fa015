//! `waxseal tree`

use crate::{Paint, open};
use clap::Args;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use waxseal_store::{Store, list_all_keys, oldest};
use waxseal_trail::envelope::{Envelope, MAX_ENVELOPE};
use waxseal_trail::name;
use waxseal_trail::statement::{self, Batch, State, Trail, Writer};

/// Show what a trail consists of; nothing is verified
#[derive(Args)]
pub(crate) struct Tree {
    /// The trail: file:///path, a directory, or s3://bucket/prefix
    trail: String,
    /// Show every batch, not only the first and last of each writer
    #[arg(long)]
    all: bool,
}

pub(crate) fn read<P: statement::Payload>(store: &dyn Store, key: &str) -> Option<P> {
    let parse = |bytes: &[u8]| statement::read(&Envelope::parse(bytes).ok()?).ok();
    if !store.has_versions() {
        return parse(&store.get(key).ok()??);
    }
    let accept = |bytes: &[u8]| parse(bytes).is_some_and(|_: P| true);
    parse(&oldest(store, key, MAX_ENVELOPE as u64, &accept).ok()??)
}

impl Tree {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let store = open(&self.trail)?;
        let paint = Paint::stdout();
        let mut out = std::io::stdout().lock();
        match read::<Trail>(&*store, name::TRAIL) {
            Some(t) => {
                let lock = format!("lock {}, at least {} days", t.lock, t.min_retention);
                writeln!(out, "{}  {}", paint.good(&t.name), paint.dim(&lock))?;
            }
            None => writeln!(out, "{}", paint.bad("trail.json is missing or unreadable"))?,
        }
        let mut writers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        list_all_keys(&*store, "writers/", &mut |key| {
            if let Some(w) = key.strip_prefix("writers/").and_then(|k| k.strip_suffix("/genesis.json")) {
                writers.entry(w.to_owned()).or_default();
            }
        })?;
        list_all_keys(&*store, "batches/", &mut |key| {
            let mut parts = key.split('/').skip(1);
            if let (Some(w), Some(n)) =
                (parts.next(), parts.next().and_then(|f| f.strip_suffix(".json")?.parse().ok()))
            {
                writers.entry(w.to_owned()).or_default().push(n);
            }
        })?;
        let count = writers.len();
        for (i, (writer, batches)) in writers.iter().enumerate() {
            let last_writer = i + 1 == count;
            let (branch, bar) = if last_writer { ("└─", "   ") } else { ("├─", "│  ") };
            let reason = match read::<Writer>(&*store, &name::genesis_key(writer)) {
                Some(g) => {
                    let reason = format!("{:?}", g.reason).to_lowercase();
                    format!("{reason}, {} key(s), since {}", g.keys.len(), g.created_at)
                }
                None => "no readable genesis".to_owned(),
            };
            writeln!(out, "{branch} writer {writer}  {}", paint.dim(&reason))?;
            let hide = if self.all || batches.len() <= 8 { 0 } else { batches.len() - 6 };
            for (k, n) in batches.iter().enumerate() {
                if hide > 0 && k == 3 {
                    writeln!(out, "{bar}├─ … {hide} batches more (--all)")?;
                }
                if hide > 0 && (3..3 + hide).contains(&k) {
                    continue;
                }
                let (branch, inner) =
                    if k + 1 == batches.len() { ("└─", "   ") } else { ("├─", "│  ") };
                match read::<Batch>(&*store, &name::batch_key(writer, *n)) {
                    None => writeln!(out, "{bar}{branch} batch {n}  {}", paint.bad("unreadable header"))?,
                    Some(h) => show(&mut out, &paint, bar, branch, inner, &h)?,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(
    out: &mut dyn std::io::Write,
    paint: &Paint,
    bar: &str,
    branch: &str,
    inner: &str,
    h: &Batch,
) -> std::io::Result<()> {
    let e = &h.events;
    let what = match e.count {
        0 => "no events".to_owned(),
        n => format!("{n} events, sequences {} to {}", e.first_sequence, e.first_sequence + n - 1),
    };
    let state = match h.state {
        State::Running => String::new(),
        s => format!(", {}", format!("{s:?}").to_lowercase()),
    };
    let sealed = h.sealed_at.to_string();
    writeln!(
        out,
        "{bar}{branch} batch {}  {what}{state}  {}",
        h.batch,
        paint.dim(&format!("sealed {}Z", &sealed[..19]))
    )?;
    if let Some(o) = &h.object {
        let root = e.merkle_root.to_string();
        writeln!(
            out,
            "{bar}{inner}   {}",
            paint.dim(&format!(
                "root {}…  object {}…  {} bytes",
                &root[..16],
                &o.sha256.to_string()[..16],
                o.bytes
            ))
        )?;
    }
    Ok(())
}
