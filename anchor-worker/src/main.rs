//! `waxseal-anchor`: the worker as a service, or once.

#![forbid(unsafe_code)]

use anyhow::anyhow;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use waxseal_anchor::anchors::back_off;
use waxseal_anchor::config::Config;
use waxseal_anchor::metrics::Metrics;
use waxseal_anchor::serve::{self, Answer, Asked};
use waxseal_anchor::state::hold;
use waxseal_anchor::worker::Worker;
use waxseal_store::disk::RealDisk;
use waxseal_trail::time::Time;

/// Puts every statement of a trail into its transparency log, and anchors the log.
#[derive(Parser)]
#[command(name = "waxseal-anchor", version)]
struct Arguments {
    /// The configuration, YAML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// One round, and end: for a CronJob
    #[arg(long)]
    once: bool,
    /// Check the configuration, the trail and the state, and say what would run
    #[arg(long, conflicts_with = "once")]
    check_config: bool,
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
    match run(&Arguments::parse()) {
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

fn run(args: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let (interval, listen) = (config.interval, config.telemetry);
    let store = config.store.open().map_err(|e| anyhow!("store: {e}; waxseal init makes a trail"))?;
    let held = config.state_dir.as_deref().map(hold).transpose();
    let _held = held.map_err(|e| anyhow!("state_dir: {e}"))?;
    if config.state_dir.is_none() {
        tracing::warn!(
            "no state_dir: each start reads the whole log, and a store that shows an old state is not noticed"
        );
    }
    let mut worker = Worker::open(config, store, Arc::new(RealDisk))?;
    if args.check_config {
        return check(&worker);
    }
    tracing::info!("trail {} {}; log {}", worker.trail().0.name, worker.trail().1, worker.key());
    let metrics = Metrics::new();
    metrics.state(worker.state());
    if args.once {
        round(&mut worker, &metrics)?;
        return match anchor(&mut worker, &metrics)? {
            0 => Ok(()),
            failed => Err(anyhow!("the log is written; {failed} of those it is shown to did not sign")),
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

fn round(worker: &mut Worker, metrics: &Metrics) -> anyhow::Result<()> {
    let (began, at) = (Instant::now(), now());
    let result = worker.round(at);
    if let Some(requests) = worker.store().requests() {
        metrics.requests(&requests);
    }
    let outcome = result.inspect_err(|_| metrics.failed())?;
    metrics.state(worker.state());
    metrics.round(&outcome, at, began.elapsed());
    if let Some(why) = &outcome.unread {
        tracing::error!("{why}; none of its nodes is missed");
    }
    for (verdict, object) in &outcome.findings {
        tracing::warn!("{verdict} {object}");
    }
    for (key, why) in &outcome.kept_out {
        tracing::warn!("{key} is not logged: {why}");
    }
    if let Some(c) = &outcome.newest {
        tracing::info!(
            "checkpoint {}: {} entries, {} of them new; {} writer(s) live, {} silent",
            c.number,
            c.checkpoint.size,
            outcome.appended,
            outcome.live,
            outcome.silent.len()
        );
    }
    Ok(())
}

/// Shows the newest checkpoint to whoever is due; how many of them did not sign it.
fn anchor(worker: &mut Worker, metrics: &Metrics) -> anyhow::Result<usize> {
    let at = now();
    if worker.due().is_none_or(|due| due > at) {
        return Ok(0);
    }
    let shown = worker.anchor(at);
    metrics.targets(&worker.targets().standing());
    let mut failed = 0;
    for s in shown? {
        match s.result {
            Ok(()) => tracing::info!("witness {} has signed", s.name),
            Err((why, alarm)) => {
                failed += 1;
                if alarm {
                    metrics.alarm();
                    tracing::error!("ALARM: witness {}: {why}", s.name);
                } else {
                    tracing::warn!("witness {}: {why}", s.name);
                }
            }
        }
    }
    Ok(failed)
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
            let wait = match round(worker, metrics) {
                Ok(()) => {
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
                Ok(_) => unshown = 0,
                Err(e) => {
                    let wait = back_off(unshown, interval);
                    unshown += 1;
                    shown = Instant::now() + wait;
                    tracing::error!("{e:#}; again in {} s", wait.as_secs());
                }
            }
        }
        let mut wait = next.saturating_duration_since(Instant::now());
        if let Some(due) = worker.due() {
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
    let last = round(worker, metrics).and_then(|()| anchor(worker, metrics).map(drop));
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
