//! `waxseal verify`

use crate::{Paint, open};
use alloy_primitives::B256;
use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use waxseal_anchor::chain::Poster;
use waxseal_anchor::config::read_trust;
use waxseal_anchor::http::Client;
use waxseal_sink::clock::{Clock as _, SystemClock};
use waxseal_trail::hash::{Hash, sha256};
use waxseal_trail::log::checkpoint::Checkpoint;
use waxseal_trail::log::note::{MAX_NOTE, Note, VerifierKey};
use waxseal_trail::time::Time;
use waxseal_trail::trust::Trust;
use waxseal_trail::verdict::{Finding, Verdict};
use waxseal_verify::{Anchor, Chains, Memory, Options, Progress, Report, verify};

/// Check a trail; exit 0 if it holds, 1 if it does not, 2 if the check could not be made
#[derive(Args)]
pub(crate) struct Verify {
    /// The trail: file:///path, a directory, or s3://bucket/prefix
    trail: String,
    /// The trust file; without it the trail's own keys are used, and the result says so
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Exit 0 for a trail that is consistent under its own keys
    #[arg(long, conflicts_with = "trust")]
    trust_embedded: bool,
    /// Headers, chains and the digests of events objects, but no record
    #[arg(long)]
    quick: bool,
    /// Only this writer: a name, or a name with its epoch
    #[arg(long)]
    writer: Option<String>,
    /// Leave events objects sealed before this time closed (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Time>,
    /// Leave events objects sealed after this time closed (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Time>,
    /// Ask for archived events objects to be restored (for seven days, in some hours, at the store's price)
    #[arg(long)]
    restore: bool,
    /// Say what was asked of the store: requests, objects, bytes
    #[arg(long)]
    stats: bool,
    /// Exit 1 for findings that are only listed, too
    #[arg(long)]
    strict: bool,
    /// Take this time for now (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    as_of: Option<Time>,
    /// A checkpoint of the log that somebody kept, a time-stamp over one (RFC 3161), or a chain's receipt: the log has to extend it
    /// (may be given again)
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Where the newest checkpoint that was seen is kept, and looked for the next time, if the trust file names a log
    /// [default: waxseal/<trail id>.json in the user's state directory]
    #[arg(long, value_name = "FILE", conflicts_with = "no_state")]
    state: Option<PathBuf>,
    /// Ask the witnesses of the trust file's policy, too: they remember what no store can take away
    #[arg(long)]
    ask_witnesses: bool,
    #[command(flatten)]
    chains: ChainArgs,
    /// Keep nothing, and remember nothing
    #[arg(long)]
    no_state: bool,
    /// text or json (docs/schema/verify.schema.json)
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    format: String,
    /// Threads [default: the machine's cores]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    threads: usize,
}

/// How chains are asked, or not
#[derive(Args)]
pub(crate) struct ChainArgs {
    /// A node of a chain that the trust file names (JSON-RPC), to be asked what it has anchored (may be given again)
    #[arg(long, value_name = "URL")]
    rpc: Vec<String>,
    /// The hash of a block that is known to be its chain's: receipts of it are checked without any node (may be given again)
    #[arg(long, value_name = "HASH")]
    block_hash: Vec<B256>,
    /// A file of certificates in PEM that nodes are believed by, beside the machine's
    #[arg(long, value_name = "FILE", requires = "rpc")]
    rpc_ca: Option<PathBuf>,
}

impl ChainArgs {
    #[allow(clippy::disallowed_methods)] // a certificate of one's own, not evidence
    pub(crate) fn open(&self) -> anyhow::Result<Chains> {
        let mut chains = Chains { post: None, nodes: self.rpc.clone(), blocks: self.block_hash.clone() };
        if !self.rpc.is_empty() {
            let ca = self.rpc_ca.as_ref().map(|f| std::fs::read(f).with_context(|| f.display().to_string()));
            let http = Client::new(Duration::from_secs(30), ca.transpose()?.as_deref());
            chains.post = Some(Arc::new(Poster(http.map_err(|e| anyhow!("--rpc-ca: {e}"))?)));
        }
        Ok(chains)
    }
}

pub(crate) fn time(text: &str) -> Result<Time, String> {
    Time::parse_rfc3339(text)
        .ok_or_else(|| format!("{text:?} is no RFC 3339 time, as in 2026-01-15T10:00:00Z"))
}

/// Where what was seen of a trail's log is kept.
fn state_file(trail: &Hash) -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|d| d.is_absolute());
    let base = dir("XDG_STATE_HOME").or_else(|| Some(dir("HOME")?.join(".local/state")))?;
    Some(base.join("waxseal").join(format!("{trail}.json")))
}

/// What the witnesses of a policy have seen last.
fn ask_witnesses(trust: &Trust) -> anyhow::Result<Vec<Memory>> {
    let policy = trust.policy.as_ref().filter(|p| p.witnesses.iter().any(|(_, w)| w.url.is_some()));
    let policy = policy
        .ok_or_else(|| anyhow!("--ask-witnesses: the trust file's policy has no witness with a URL"))?;
    let log = trust.log.as_deref().ok_or_else(|| anyhow!("--ask-witnesses: the trust file names no log"))?;
    let log = VerifierKey::parse(log).context("the trust file's log")?;
    let origin = sha256(log.name().as_bytes());
    let http = Client::new(Duration::from_secs(15), None).map_err(|e| anyhow!(e))?;
    let mut memories = Vec::new();
    for (name, witness) in &policy.witnesses {
        let Some(url) = &witness.url else { continue };
        let url = format!("{}/{origin}/checkpoint", url.trim_end_matches('/'));
        type Seen = Option<(Vec<u8>, Option<u64>)>;
        let seen = || -> Result<Seen, String> {
            let answer = http.get(&url, MAX_NOTE as u64)?;
            match answer.status {
                200 => {}
                // It has never seen this log.
                404 => return Ok(None),
                status => return Err(format!("{url}: it answers {status}")),
            }
            let note = Note::parse(&answer.body).map_err(|e| format!("{url}: {e}"))?;
            let signed = note.signed_by(&witness.key).map_err(|e| format!("{url}: {e}"))?;
            let time = signed.ok_or_else(|| format!("{url}: it has not signed this"))?.time;
            Ok(Some((answer.body, time)))
        };
        let (checkpoint, time) = match seen() {
            Ok(Some((note, time))) => (Ok(note), time),
            Ok(None) => continue,
            // The rest can be judged without it.
            Err(why) => (Err(why), None),
        };
        memories.push(Memory {
            what: format!("witness {name}"),
            checkpoint,
            at: time.and_then(|t| Time::from_unix(i64::try_from(t).ok()?, 0)),
        });
    }
    Ok(memories)
}

/// What was seen of a trail's log: a memory that no store can take away.
struct State {
    path: PathBuf,
    file: StateFile,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    trail: Hash,
    /// The newest checkpoint, a signed note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
    /// When it was seen first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen_at: Option<Time>,
}

impl State {
    fn load(path: PathBuf, trail: Hash) -> anyhow::Result<State> {
        let file = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| anyhow!("{}: {e}; move it away to begin anew", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                StateFile { trail, checkpoint: None, seen_at: None }
            }
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        if file.trail != trail {
            bail!("{}: it is of trail {}", path.display(), file.trail);
        }
        Ok(State { path, file })
    }

    fn memory(&self) -> Option<Memory> {
        Some(Memory {
            what: format!("this verifier ({})", self.path.display()),
            checkpoint: Ok(self.file.checkpoint.clone()?.into_bytes()),
            at: self.file.seen_at,
        })
    }

    /// Keeps the newest checkpoint, unless the log does not extend what was kept.
    #[allow(clippy::disallowed_methods)] // a person's own memory, not evidence
    fn keep(&mut self, report: &Report) {
        let log = report.log.as_ref().filter(|l| l.extends);
        let Some((note, entries)) = log.and_then(|l| Some((l.note.clone()?, l.entries))) else { return };
        // Another verifier may have seen more meanwhile.
        let now = State::load(self.path.clone(), self.file.trail).ok().and_then(|s| s.file.checkpoint);
        let size =
            |note: &String| Checkpoint::parse(&Note::parse(note.as_bytes()).ok()?.text).ok().map(|c| c.size);
        if now.as_ref().and_then(size).is_some_and(|there| there >= entries) {
            return;
        }
        self.file.checkpoint = Some(note);
        self.file.seen_at = Some(SystemClock.now());
        let write = || -> std::io::Result<()> {
            let dir = self.path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(dir)?;
            let mut name = self.path.file_name().unwrap_or_default().to_owned();
            name.push(format!(".{}", std::process::id()));
            let fresh = dir.join(name);
            let mut file = std::fs::File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(&self.file)?)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)
        };
        if let Err(e) = write() {
            eprintln!("waxseal: {}: {e}; what was seen of the log is not remembered", self.path.display());
        }
    }
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }
    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Verify {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let store = open(&self.trail)?;
        let anchor = match &self.trust {
            Some(path) => Anchor::File(Box::new(read_trust(path).map_err(|e| anyhow!(e))?)),
            None => Anchor::Embedded,
        };
        let names = matches!(&anchor, Anchor::File(trust) if !trust.ethereum.is_empty());
        if !names && (!self.chains.rpc.is_empty() || !self.chains.block_hash.is_empty()) {
            bail!(
                "--rpc and --block-hash check what a trust file names (ethereum:), and there is none that does"
            );
        }
        let mut options = Options {
            anchor,
            quick: self.quick,
            writer: self.writer.clone(),
            since: self.since,
            until: self.until,
            now: self.as_of.unwrap_or_else(|| SystemClock.now()),
            restore: self.restore,
            threads: self.threads,
            memories: Vec::new(),
            chains: self.chains.open()?,
        };
        let state = match &options.anchor {
            Anchor::File(trust) if trust.log.is_some() && !self.no_state => self
                .state
                .clone()
                .or_else(|| state_file(&trust.trail))
                .map(|path| State::load(path, trust.trail)),
            _ => None,
        };
        let mut state = state.transpose()?;
        for path in &self.checkpoint {
            let checkpoint = std::fs::read(path).with_context(|| path.display().to_string())?;
            options.memories.push(Memory {
                what: path.display().to_string(),
                checkpoint: Ok(checkpoint),
                at: None,
            });
        }
        if let (Anchor::File(trust), true) = (&options.anchor, self.ask_witnesses) {
            options.memories.extend(ask_witnesses(trust)?);
        }
        options.memories.extend(state.as_ref().and_then(State::memory));
        // Drawn on a terminal only, on the standard error.
        let bar = ProgressBar::new(0);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        {
            bar.set_style(style);
        }
        let bar = Bar(bar);
        let report = verify(&*store, &options, &bar);
        bar.0.finish_and_clear();
        if let Some(state) = &mut state {
            state.keep(&report);
        }
        if self.format == "json" {
            let mut out = std::io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        } else {
            print(&report, self.stats)?;
        }
        Ok(ExitCode::from(report.exit_status(self.strict, self.trust_embedded)))
    }
}

fn print(r: &Report, stats: bool) -> std::io::Result<()> {
    let paint = Paint::stdout();
    let mut out = std::io::stdout().lock();
    let name = r.trail.name.as_deref().unwrap_or("?");
    let id = r.trail.id.map(|i| i.to_string()).unwrap_or_default();
    writeln!(out, "trail      {name} {}", paint.dim(&id))?;
    if let Some(l) = &r.lock {
        writeln!(out, "lock       {}, at least {} days", l.mode, l.min_retention)?;
    }
    for f in &r.findings {
        finding(&mut out, &paint, f)?;
    }
    let s = &r.stats;
    let seconds = (s.milliseconds as f64 / 1000.0).max(0.001);
    let records = if s.quick {
        format!("{} records counted, none opened (--quick)", s.sealed_records)
    } else {
        format!("{} of {} records", s.records, s.sealed_records)
    };
    writeln!(
        out,
        "checked    {} writer(s), {} batches, {records}, {:.1} MB in {seconds:.2} s",
        s.writers,
        s.batches,
        s.bytes as f64 / 1e6
    )?;
    if stats {
        write!(out, "read       {} objects, {} bytes", s.objects, s.bytes)?;
        match &s.requests {
            Some(r) => writeln!(
                out,
                "; requests: {} get, {} head, {} list, {} other, {} tried again",
                r.get, r.head, r.list, r.other, r.retries
            )?,
            None => writeln!(out)?,
        }
    }
    if let Some(log) = &r.log {
        let witnessed = if log.self_witnessed {
            "; self-witnessed: no witness outside its owner's hands has seen it"
        } else {
            ""
        };
        match log.checkpoint {
            Some(n) => writeln!(out, "log        checkpoint {n}, {} entries{witnessed}", log.entries)?,
            None => writeln!(out, "log        no checkpoint yet")?,
        }
    }
    for a in r.log.iter().flat_map(|l| &l.anchors) {
        let (what, did) = match a.kind {
            "ethereum" => ("chain", "anchored"),
            kind => (kind, "signed"),
        };
        writeln!(out, "{what:<10} {} has {did} checkpoint {} at {}", a.name, a.checkpoint, a.at)?;
    }
    writeln!(out, "freshness  {}", r.freshness)?;
    let verdict = if r.verdict == Verdict::Ok { paint.good("OK") } else { paint.bad(r.verdict.name()) };
    match r.untrusted_keys {
        Some(words) => writeln!(out, "verdict    {verdict}  {}", paint.note(words)),
        None => writeln!(out, "verdict    {verdict}"),
    }
}

fn finding(out: &mut dyn std::io::Write, paint: &Paint, f: &Finding) -> std::io::Result<()> {
    let name = format!("{:<10}", f.verdict.name());
    let name = if f.verdict.exit() == 0 { paint.note(&name) } else { paint.bad(&name) };
    // Names come from whoever wrote to the store: they must not repaint the terminal.
    let plain = |text: &str| text.replace(|c: char| c.is_control(), "?");
    writeln!(out, "{name} {}", plain(&f.detail))?;
    if let Some(o) = &f.object {
        writeln!(out, "             object    {}", plain(o))?;
    }
    if let Some(w) = &f.writer {
        writeln!(out, "             writer    {w}")?;
    }
    match f.sequences {
        Some([a, b]) if a == b => writeln!(out, "             sequence  {a}"),
        Some([a, b]) => writeln!(out, "             sequences {a} to {b}"),
        None => Ok(()),
    }
}
