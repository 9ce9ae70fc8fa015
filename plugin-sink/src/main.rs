//! `waxseal-sink`: the sink as a server.

use anyhow::anyhow;
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;
use waxseal_filter_host::{Filters, Process};
use waxseal_sink::config::{self, Config};
use waxseal_sink::intake;
use waxseal_sink::pipeline::{Pipeline, Submitter};
use waxseal_sink::{Context, memory, telemetry};

/// Takes events from shippers, chains, spools, signs and stores them.
#[derive(Parser)]
#[command(name = "waxseal-sink", version)]
struct Arguments {
    /// The configuration, YAML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration, the state directory's place and the trail, and say what would run
    #[arg(long)]
    check_config: bool,
    /// Seal what the spool has, say in the last header that this writer writes no more, and end
    #[arg(long, conflicts_with = "check_config")]
    retire: bool,
    /// How long a stop may take for what is not stored yet
    #[arg(long, value_name = "DURATION", default_value = "25s")]
    grace: config::Span,
}

fn main() -> std::process::ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WAXSEAL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .init();
    memory::return_large_buffers();
    memory::limit_arenas();
    match run(&Arguments::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(args: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    if args.check_config {
        return check(&config);
    }
    let (intakes, telemetry_listen) = (config.intake.clone(), config.telemetry);
    if intakes.is_empty() && !args.retire {
        return Err(anyhow!(
            "{}: intake: nothing to listen on; set one of http, vector, forward and otlp",
            args.config.display()
        ));
    }
    allow_descriptors(intakes.listeners() * intakes.max_connections);
    let _held = config::hold(&config).map_err(|e| anyhow!(e))?;
    let cx = Context::system(config).map_err(|e| anyhow!(e))?;
    let writer = cx.config.writer.clone();
    let filters = Filters::load(&cx.config.filters, Process::Own);
    let filters = filters.map_err(|e| anyhow!("{}: {e}", args.config.display()))?;
    let pipeline = Pipeline::start(cx, filters)?;
    if args.retire {
        pipeline.retire();
        if !pipeline.stop(args.grace.0)? {
            return Err(anyhow!(
                "the last header of {writer} is sealed but not in the store: run this again once the store answers, \
                 or verifiers will say ABANDONED"
            ));
        }
        tracing::info!("writer {writer} has retired");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_name("wax-net")
        .enable_all()
        .build()?;
    let submitter = pipeline.submitter();
    let half = args.grace.0 / 2;
    let served = runtime.block_on(serve(&submitter, intakes, telemetry_listen, half));
    // On this thread: the runtime's may all be waiting for the pipeline.
    let stopped = pipeline.stop(half);
    runtime.shutdown_background();
    served?;
    stopped?;
    Ok(())
}

/// Raises the limit on open files as far as this process may, and says so if that is less than connections may need:
/// without a descriptor the spool and the store cannot be written either.
fn allow_descriptors(connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const OWN: u64 = 256;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit = getrlimit(Resource::Nofile);
    }
    let wanted = connections as u64 + OWN;
    if let Some(most) = limit.current.filter(|n| *n < wanted) {
        tracing::warn!(
            "at most {most} files may be open, and intake.max_connections allows for {wanted}: lower the one or raise the \
             other (LimitNOFILE, ulimit -n)"
        );
    }
}

/// Serves until it is told to stop, and then until what is under way is answered, for at most `half` of the grace.
async fn serve(
    submitter: &Submitter,
    intakes: config::Intakes,
    telemetry_listen: Option<std::net::SocketAddr>,
    half: Duration,
) -> anyhow::Result<()> {
    // Before anyone hears that there is something to stop.
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut servers = Vec::new();
    if let Some(listen) = telemetry_listen {
        let listener = telemetry::bind(listen).await.map_err(|e| anyhow!(e))?;
        tracing::info!("telemetry on http://{}", listener.local_addr()?);
        tokio::spawn(telemetry::run(listener, submitter.clone(), stopped.clone()));
    }
    for intake in intake::bind(&intakes, submitter).await.map_err(|e| anyhow!(e))? {
        tracing::info!("{}", intake.place());
        servers.push(tokio::spawn(intake.run(stopped.clone())));
    }
    tracing::info!("taking events");
    telemetry::notify("READY=1");
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = tick.tick() => if submitter.is_broken() { break },
        }
    }
    telemetry::notify("STOPPING=1");
    tracing::info!("stopping: no new events are taken, what the spool has is sealed");
    let _ = stop.send(true);
    // Requests under way are answered before the pipeline closes, but all of them together may not use up the grace.
    let all = async {
        for server in servers {
            let _ = server.await;
        }
    };
    let _ = tokio::time::timeout(half, all).await;
    Ok(())
}

fn check(config: &Config) -> anyhow::Result<()> {
    use std::io::Write as _;
    let store = config.store.open().map_err(|e| anyhow!("store: {e}; waxseal init makes a trail"))?;
    let bytes = store
        .get(waxseal_trail::name::TRAIL)?
        .ok_or_else(|| anyhow!("store: {} holds no trail.json; waxseal init makes one", store.place()))?;
    let (trail, id) =
        waxseal_sink::epoch::read_trail(&bytes).map_err(|e| anyhow!("{}/trail.json: {e}", store.place()))?;
    if config.trail != trail.name && config.trail != id.to_string() {
        return Err(anyhow!(
            "trail: the configuration says {:?}, the store holds {:?} ({id})",
            config.trail,
            trail.name
        ));
    }
    if config.retention_days < trail.min_retention {
        return Err(anyhow!(
            "retention: {} days, and the trail promises {}",
            config.retention_days,
            trail.min_retention
        ));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "trail      {} {id}", trail.name)?;
    writeln!(
        out,
        "lock       {}, at least {} days; this sink: {} days",
        trail.lock, trail.min_retention, config.retention_days
    )?;
    writeln!(out, "store      {}", store.place())?;
    writeln!(out, "writer     {}", config.writer)?;
    for s in &config.signing.get().signers {
        writeln!(out, "key        {} {}", s.public().algorithm(), s.public().id())?;
    }
    // Without intake it is the configuration of the plugin in a shipper's process.
    let process = if config.intake.listeners() == 0 { Process::Shipper } else { Process::Own };
    for line in Filters::load(&config.filters, process).map_err(|e| anyhow!(e))?.describe() {
        writeln!(out, "filter     {line}")?;
    }
    let i = &config.intake;
    let mut intake = |name: &str, listen, tls: Option<&config::Tls>, who: &str| {
        let tls = tls.map_or("no TLS", |t| if t.client_ca.is_some() { "mTLS" } else { "TLS" });
        writeln!(out, "{name:<10} {listen} ({tls}, {who})")
    };
    let token = |t: bool| if t { "token" } else { "no token" };
    if let Some(c) = &i.http {
        intake("http", c.listen, c.tls.as_ref(), token(c.token.is_some()))?;
    }
    if let Some(c) = &i.vector {
        intake("vector", c.listen, c.tls.as_ref(), "gRPC")?;
    }
    if let Some(c) = &i.forward {
        let key = if c.shared_key.is_some() { "shared key" } else { "no shared key" };
        intake("forward", c.listen, c.tls.as_ref(), &format!("{key}, {} users", c.users.len()))?;
    }
    if let Some(c) = &i.otlp_grpc {
        intake("otlp.grpc", c.listen, c.tls.as_ref(), token(c.token.is_some()))?;
    }
    if let Some(c) = &i.otlp_http {
        intake("otlp.http", c.listen, c.tls.as_ref(), token(c.token.is_some()))?;
    }
    writeln!(out, "the configuration is good")?;
    Ok(())
}
