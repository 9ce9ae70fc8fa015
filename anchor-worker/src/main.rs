//! `waxseal-anchor`: the worker as a service, or once.

#![forbid(unsafe_code)]

use alloy_primitives::Address;
use anyhow::anyhow;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use waxseal_anchor::anchors::back_off;
use waxseal_anchor::chain::deploy::{Deployment, deploy};
use waxseal_anchor::chain::{Nodes, Sender};
use waxseal_anchor::config::{Config, Span, gwei};
use waxseal_anchor::http::Client;
use waxseal_anchor::metrics::Metrics;
use waxseal_anchor::serve::{self, Answer, Asked};
use waxseal_anchor::state::hold;
use waxseal_anchor::worker::Worker;
use waxseal_store::Location;
use waxseal_store::disk::RealDisk;
use waxseal_trail::time::Time;
use waxseal_trail::verdict::Verdict;

/// How long `--once` waits for a chain to settle a transaction: the next run goes on with it.
const SETTLE: Duration = Duration::from_secs(1800);
/// How long a round goes on after the end was asked for: Kubernetes gives 30 seconds for everything.
const GRACE: Duration = Duration::from_secs(15);

/// Puts every statement of a trail into its transparency log, and anchors the log.
#[derive(Parser)]
#[command(
    name = "waxseal-anchor",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration, YAML
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// One round, and end: for a CronJob
    #[arg(long)]
    once: bool,
    /// Check the configuration, the trail and the state, and say what would run
    #[arg(long, conflicts_with = "once")]
    check_config: bool,
}

#[derive(Subcommand)]
enum Command {
    DeployContract(DeployContract),
}

/// Makes the contract AuditTrail on a chain, and prints what configuration and trust file say of it
#[derive(clap::Args)]
struct DeployContract {
    /// A node of the chain (JSON-RPC); several are asked in turn
    #[arg(long, value_name = "URL", required = true)]
    rpc: Vec<String>,
    /// The chain's id: nodes that are on another one are not used
    #[arg(long, value_name = "ID")]
    chain: u64,
    /// The account that pays: keystore:/path, env:NAME or kms:ID
    #[arg(long, value_name = "KEY")]
    key: String,
    /// The keystore's password: file:/path or env:NAME
    #[arg(long, value_name = "PLACE")]
    password: Option<String>,
    /// Decides which accounts may anchor; best one that is on no server
    #[arg(long, value_name = "ADDRESS")]
    owner: Address,
    /// The worker's account, which may anchor from the beginning [default: the one that pays]
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<Address>,
    /// The most that a unit of gas may cost, in gwei
    #[arg(long, value_name = "GWEI", value_parser = gwei)]
    max_fee_gwei: u128,
    /// The most of it that goes to whoever makes the block, in gwei
    #[arg(long, value_name = "GWEI", value_parser = gwei, default_value = "2")]
    max_priority_fee_gwei: u128,
    /// How long to wait for a block that has it
    #[arg(long, value_name = "SPAN", default_value = "10m")]
    wait: Span,
    /// How long an answer of a node may take
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    timeout: Span,
    /// A file of certificates in PEM that nodes are believed by, beside the machine's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl DeployContract {
    #[allow(clippy::disallowed_methods)] // a certificate of one's own, not evidence
    fn run(self) -> anyhow::Result<()> {
        use std::io::Write as _;
        let ca = self.ca.map(|f| std::fs::read(&f).map_err(|e| anyhow!("--ca {}: {e}", f.display())));
        let http =
            Client::new(self.timeout.0, ca.transpose()?.as_deref()).map_err(|e| anyhow!("--ca: {e}"))?;
        let here = std::path::Path::new("");
        let sender =
            Sender::open(&self.key, self.password.as_deref(), here).map_err(|e| anyhow!("--key: {e}"))?;
        let writer = self.sender.unwrap_or_else(|| sender.address());
        if self.owner == writer {
            tracing::warn!(
                "--owner is the account that anchors: who steals the worker's key can lock everybody else out"
            );
        }
        let nodes = Nodes::new(http, self.rpc.clone(), self.chain);
        let what = Deployment {
            chain: self.chain,
            owner: self.owner,
            writer,
            max_fee: self.max_fee_gwei,
            max_priority_fee: self.max_priority_fee_gwei,
            patience: self.wait.0,
        };
        let made = deploy(&nodes, &sender, &what, &mut |line| tracing::info!("{line}"))?;
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "# AuditTrail on chain {}, block {}, {} gas; its owner is {}",
            self.chain, made.block, made.gas, self.owner
        )?;
        writeln!(out, "# The worker's configuration:")?;
        writeln!(out, "ethereum:\n  - chain: {}\n    contract: \"{}\"", self.chain, made.contract)?;
        writeln!(out, "    rpcs: [{}]", self.rpc.join(", "))?;
        match writer == sender.address() {
            true => writeln!(out, "    key: {}", self.key)?,
            false => writeln!(out, "    key: # of account {writer}")?,
        }
        if let Some(password) = &self.password {
            writeln!(out, "    password: {password}")?;
        }
        let gwei = alloy_primitives::utils::format_units(self.max_fee_gwei, "gwei")?;
        let gwei = gwei.trim_end_matches('0').trim_end_matches('.');
        writeln!(out, "    max_fee_gwei: {gwei}\n# Trust files:\nethereum:")?;
        let (contract, block) = (made.contract, made.block);
        writeln!(
            out,
            "  - chain: {}\n    contract: \"{contract}\"\n    sender: \"{writer}\"\n    from: {block}",
            self.chain
        )?;
        Ok(())
    }
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WAXSEAL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .init();
    let arguments = Arguments::parse();
    let result = match (arguments.command, arguments.config) {
        (Some(Command::DeployContract(deploy)), _) => deploy.run(),
        (None, Some(config)) => run(&config, arguments.once, arguments.check_config),
        // The parser asks for one of them.
        (None, None) => Err(anyhow!("--config FILE, or deploy-contract")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::disallowed_methods)] // this is where the time comes in
fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Time::from_unix(seconds, since.subsec_nanos()).unwrap_or(Time::MAX)
}

fn run(config: &std::path::Path, once: bool, check_config: bool) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    let (interval, listen) = (config.interval, config.telemetry);
    let store = config.store.open().map_err(|e| anyhow!("store: {e}; waxseal init makes a trail"))?;
    let held = config.state_dir.as_deref().map(hold).transpose();
    let _held = held.map_err(|e| anyhow!("state_dir: {e}"))?;
    // In a directory only one worker may run at a time, wherever it keeps its state.
    let alone = match &config.store {
        Location::Local(path) if !check_config => Some(hold(&path.join(".tmp/anchor"))),
        _ => None,
    };
    let _alone = alone.transpose().map_err(|e| anyhow!("store: {e}"))?;
    if config.state_dir.is_none() {
        tracing::warn!(
            "no state_dir: each start reads the whole log, and a store that shows an old state is not noticed"
        );
    }
    let mut worker = Worker::open(config, store, Arc::new(RealDisk))?;
    if check_config {
        return check(&worker);
    }
    tracing::info!("trail {} {}; log {}", worker.trail().0.name, worker.trail().1, worker.key());
    let metrics = Metrics::new(now());
    metrics.state(worker.state());
    if once {
        let mut wrong = round(&mut worker, &metrics, &|| false)?;
        anchor(&mut worker, &metrics)?;
        // A chain takes its time.
        let start = Instant::now();
        while worker.targets().is_busy() && start.elapsed() < SETTLE {
            std::thread::sleep(Duration::from_secs(1));
            anchor(&mut worker, &metrics)?;
        }
        if worker.targets().is_busy() {
            wrong.push("a transaction is under way: the next run goes on with it".to_owned());
        }
        let lacking = worker.lacking(now());
        if lacking > 0 {
            wrong.push(format!(
                "it lacks {lacking} of the signatures, time-stamps and anchors that it should have"
            ));
        }
        return if wrong.is_empty() {
            Ok(())
        } else {
            Err(anyhow!("the log is written; {}", wrong.join("; ")))
        };
    }
    serve(&mut worker, &metrics, interval, listen)
}

fn check(worker: &Worker) -> anyhow::Result<()> {
    use std::io::Write as _;
    let (trail, id) = worker.trail();
    let mut out = std::io::stdout().lock();
    writeln!(out, "trail      {} {id}", trail.name)?;
    writeln!(out, "lock       {}, at least {} days", trail.lock, trail.min_retention)?;
    writeln!(out, "store      {}", worker.store().place())?;
    writeln!(out, "log        {}", worker.key())?;
    match &worker.state().seen {
        Some(seen) => {
            writeln!(out, "seen       checkpoint {}, {} entries", seen.number, seen.checkpoint.size)?
        }
        None => writeln!(out, "seen       nothing yet")?,
    }
    writeln!(out, "the configuration is good; trust files name the log so:\nlog: {}", worker.key())?;
    Ok(())
}

/// A round; what is wrong, though it came to its end.
fn round(worker: &mut Worker, metrics: &Metrics, stop: &dyn Fn() -> bool) -> anyhow::Result<Vec<String>> {
    let (began, at) = (Instant::now(), now());
    let result = worker.round_until(at, stop);
    if let Some(requests) = worker.store().requests() {
        metrics.requests(&requests);
    }
    let outcome = result.inspect_err(|_| metrics.failed())?;
    metrics.state(worker.state());
    metrics.round(&outcome, at, began.elapsed());
    for complaint in &outcome.complaints {
        tracing::error!("{complaint}");
    }
    for (verdict, object) in &outcome.findings {
        tracing::warn!("{verdict} {object}");
    }
    for (key, why) in &outcome.kept_out {
        tracing::warn!("{key} is not logged: {why}");
    }
    for (key, why) in &outcome.unreadable {
        tracing::error!(
            "{key} cannot be read, so it is not logged, and nothing is said to be missing of its writer: {why}"
        );
    }
    let unnamed = outcome.kept_out_count.saturating_sub(outcome.kept_out.len() as u64);
    if unnamed > 0 {
        tracing::warn!("{unnamed} more objects are not logged");
    }
    if let Some(c) = &outcome.newest {
        tracing::info!(
            "checkpoint {}: {} entries, {} of them new; {} writer(s) live, {} silent{}",
            c.number,
            c.checkpoint.size,
            outcome.appended,
            outcome.live,
            outcome.silent.len(),
            if outcome.stopped { "; stopped before the end" } else { "" }
        );
    }
    let mut wrong = outcome.complaints;
    let fault = |(v, _): &&(Verdict, String)| v.exit() > 0;
    let mut faults: Vec<&str> = outcome.findings.iter().filter(fault).map(|(v, _)| v.name()).collect();
    if !faults.is_empty() {
        let count = faults.len();
        faults.sort_unstable();
        faults.dedup();
        wrong.push(format!("{count} finding(s) are new in it: {}", faults.join(", ")));
    }
    if !outcome.unreadable.is_empty() {
        wrong.push(format!("{} object(s) could not be read", outcome.unreadable.len()));
    }
    Ok(wrong)
}

/// Shows the newest checkpoint to whoever is due.
fn anchor(worker: &mut Worker, metrics: &Metrics) -> anyhow::Result<()> {
    let at = now();
    if worker.due(at).is_none_or(|due| due > at) {
        return Ok(());
    }
    let shown = worker.anchor(at);
    metrics.targets(&worker.targets().standing());
    for s in shown? {
        match s.result {
            Ok(()) if s.kind == "chain" => tracing::info!("chain {} has anchored it", s.name),
            Ok(()) => tracing::info!("{} {} has signed", s.kind, s.name),
            Err((why, alarm)) => {
                if alarm {
                    if s.kind == "chain" {
                        metrics.chain_alarm()
                    } else {
                        metrics.alarm()
                    }
                    tracing::error!("ALARM: {} {}: {why}", s.kind, s.name);
                } else {
                    tracing::warn!("{} {}: {why}", s.kind, s.name);
                }
            }
        }
    }
    Ok(())
}

/// What the main thread is woken for.
enum Wake {
    Round,
    Stop,
}

fn serve(
    worker: &mut Worker,
    metrics: &Metrics,
    interval: Duration,
    listen: Option<std::net::SocketAddr>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (wake, woken) = mpsc::channel();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    // A round that is under way when the end is asked for has so long to come to its own.
    let end: Arc<OnceLock<Instant>> = Arc::default();
    let told = {
        let end = end.clone();
        move || end.get().is_some_and(|t| t.elapsed() > GRACE)
    };
    // When the last good round began; 0: none yet.
    let good = Arc::new(AtomicI64::new(0));
    let started = now().unix_seconds();
    runtime.block_on(async {
        // Before anyone hears that there is something to stop.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut request = signal(SignalKind::user_defined1())?;
        if let Some(listen) = listen {
            let listener = serve::bind("telemetry.listen", listen).await.map_err(|e| anyhow!(e))?;
            tracing::info!("telemetry on http://{}", listener.local_addr()?);
            let (metrics, good) = (metrics.clone(), good.clone());
            let patience = i64::try_from(interval.as_secs() * 3).unwrap_or(i64::MAX).max(900);
            let handler = Arc::new(move |asked: Asked| answer(&asked, &metrics, &good, started, patience));
            tokio::spawn(serve::run(listener, handler, 1024, Duration::from_secs(10), stopped));
        }
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    _ = terminate.recv() => Wake::Stop,
                    _ = interrupt.recv() => Wake::Stop,
                    _ = request.recv() => Wake::Round,
                };
                let last = matches!(event, Wake::Stop);
                if last {
                    let _ = end.set(Instant::now());
                }
                if wake.send(event).is_err() || last {
                    return;
                }
            }
        });
        anyhow::Ok(())
    })?;
    let (mut failures, mut next) = (0, Instant::now());
    // The same for what others are shown, where the store fails.
    let (mut unshown, mut shown) = (0, Instant::now());
    loop {
        if Instant::now() >= next {
            let at = now().unix_seconds();
            let wait = match round(worker, metrics, &told) {
                Ok(_) => {
                    good.store(at, Ordering::Relaxed);
                    failures = 0;
                    interval
                }
                Err(e) => {
                    let wait = back_off(failures, interval);
                    failures += 1;
                    tracing::error!("{e:#}; again in {} s", wait.as_secs());
                    wait
                }
            };
            next = Instant::now() + wait;
        }
        if Instant::now() >= shown {
            match anchor(worker, metrics) {
                Ok(()) => unshown = 0,
                Err(e) => {
                    let wait = back_off(unshown, interval);
                    unshown += 1;
                    shown = Instant::now() + wait;
                    tracing::error!("{e:#}; again in {} s", wait.as_secs());
                }
            }
        }
        let mut wait = next.saturating_duration_since(Instant::now());
        if let Some(due) = worker.due(now()) {
            let held = shown.saturating_duration_since(Instant::now());
            let seconds = due.unix_seconds().saturating_sub(now().unix_seconds()).max(1);
            wait = wait.min(Duration::from_secs(u64::try_from(seconds).unwrap_or(1)).max(held));
        }
        match woken.recv_timeout(wait) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Wake::Round) => next = Instant::now(),
            Ok(Wake::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    // What came since the last round is not left for whoever comes next.
    tracing::info!("stopping: a last round");
    let last = round(worker, metrics, &told).and_then(|_| anchor(worker, metrics));
    let _ = stop.send(true);
    runtime.shutdown_background();
    last
}

fn answer(asked: &Asked, metrics: &Metrics, good: &AtomicI64, started: i64, patience: i64) -> Answer {
    let last = good.load(Ordering::Relaxed);
    match asked.path.as_str() {
        "/metrics" => Answer {
            status: hyper::StatusCode::OK,
            kind: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body: metrics.render().into_bytes(),
        },
        "/healthz" if now().unix_seconds() - last.max(started) > patience => {
            Answer::text(503, "no round has come to its end for three intervals: see the log\n")
        }
        "/healthz" => Answer::text(200, "ok\n"),
        "/readyz" if last > 0 => Answer::text(200, "ready\n"),
        "/readyz" => Answer::text(503, "no round has come to its end yet\n"),
        _ => Answer::text(404, "/metrics /healthz /readyz\n"),
    }
}
