//! `waxseal filter`: filters run by hand, on samples.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use std::io::{BufRead, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use waxseal_filter_host::wasm::{Runtime, Wasm};
use waxseal_filter_host::{OnError, Process, Settings};
use waxseal_trail::record::{Converter, Events};

/// Try filters on samples, check their configurations, compile them
#[derive(Args)]
pub(crate) struct Filter {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Run),
    Check(Check),
    Compile(Compile),
    Test(crate::privacy::Test),
    Scan(crate::privacy::Scan),
    Schema(Schema),
}

impl Filter {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(c) => c.run(),
            Command::Check(c) => c.run(),
            Command::Compile(c) => c.run(),
            Command::Test(c) => c.run(),
            Command::Scan(c) => c.run(),
            Command::Schema(c) => c.run(),
        }
    }
}

/// A module with its configuration
#[derive(Args)]
struct Module {
    /// The module
    #[arg(long, value_name = "FILE.wasm")]
    module: PathBuf,
    /// Its configuration
    #[arg(long, value_name = "FILE.yaml")]
    config: PathBuf,
    /// A directory that it may read beside the configuration's own
    #[arg(long, value_name = "DIR")]
    directory: Vec<PathBuf>,
}

impl Module {
    fn settings(&self) -> Settings {
        let mut s = Settings::new(self.module.clone(), self.config.clone());
        s.directories = self.directory.clone();
        s
    }

    fn load(&self, settings: Settings) -> anyhow::Result<Wasm> {
        let runtime = Arc::new(Runtime::new(Process::Own).map_err(|e| anyhow!(e))?);
        let ticking = Arc::downgrade(&runtime);
        // Time limits are counted in these; the thread ends with the runtime.
        std::thread::spawn(move || {
            while let Some(runtime) = ticking.upgrade() {
                runtime.tick();
                drop(runtime);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        Wasm::load(runtime, settings).map_err(|e| anyhow!(e))
    }
}

/// Run a filter over JSON events, one a line, from standard input, as the sink would
///
/// Each line of the output is the event as the sink would chain it (without what only the chain knows). A line that is
/// no JSON object is taken as an unparsed event, as HTTP intake takes it; with --text each line becomes the `message` of an event.
#[derive(Args)]
struct Run {
    #[command(flatten)]
    module: Module,
    /// Say of each event why it became what it became, on standard error
    #[arg(long)]
    explain: bool,
    /// Take each line as text, not as JSON
    #[arg(long)]
    text: bool,
    /// The shipper's tag
    #[arg(long, default_value = "", hide_default_value = true)]
    tag: String,
    /// What happens to an event that the filter fails on: pass or withhold. Default: what the module asks for
    #[arg(long, value_parser = on_error)]
    on_error: Option<OnError>,
}

fn on_error(text: &str) -> Result<OnError, String> {
    match text {
        "pass" => Ok(OnError::Pass),
        "withhold" => Ok(OnError::Withhold),
        _ => Err("pass or withhold".into()),
    }
}

/// Lines that go through the filter together.
const LINES: usize = 512;

/// Reads some lines as events, or as texts; false at the end.
pub(crate) fn lines(
    mut input: impl BufRead,
    as_text: bool,
    converter: &mut Converter,
    events: &mut Events,
) -> anyhow::Result<bool> {
    let mut line = Vec::new();
    while events.len() < LINES {
        line.clear();
        // As much as intake takes of one event, and a little.
        if (&mut input).take(64 << 20).read_until(b'\n', &mut line).context("standard input")? == 0 {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if as_text {
            let event = serde_json::json!({"message": String::from_utf8_lossy(text)});
            converter.json(event.to_string().as_bytes(), events);
        } else if !text.is_empty() {
            converter.json(text, events);
        }
    }
    Ok(!events.is_empty())
}

impl Run {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut settings = self.module.settings();
        settings.on_error = self.on_error;
        let filter = self.module.load(settings)?;
        let source =
            waxseal_trail::json::to_canonical(&serde_json::json!({"intake": "stdin", "tag": self.tag}))
                .map_err(|e| anyhow!("{e:?}"))?;
        let mut converter = Converter::default();
        let mut input = std::io::stdin().lock();
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let (mut failed, mut first) = (0, 1);
        loop {
            let mut events = Events::default();
            if !lines(&mut input, self.text, &mut converter, &mut events)? {
                break;
            }
            let mut told = Vec::new();
            let count = events.len();
            failed += if self.explain {
                filter.explain(&mut events, &source, |i, text| told.push((i, text.to_owned())))
            } else {
                filter.apply(&mut events, &source).0
            };
            for (i, text) in told {
                for text in text.lines() {
                    eprintln!("event {}: {text}", first + i);
                }
            }
            for i in 0..count {
                out.write_all(&events.members_json(i))?;
                out.write_all(b"\n")?;
            }
            first += count;
        }
        out.flush()?;
        if failed > 0 {
            eprintln!("the filter failed on {failed} events");
        }
        Ok(ExitCode::from(u8::from(failed > 0)))
    }
}

/// Load a filter with its configuration and data, and say what would run
#[derive(Args)]
struct Check {
    #[command(flatten)]
    module: Module,
}

impl Check {
    fn run(self) -> anyhow::Result<ExitCode> {
        let filter = self.module.load(self.module.settings())?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", filter.describe())?;
        for data in &filter.identity().data {
            writeln!(out, "data {} {}", data.sha256, data.name)?;
        }
        writeln!(out, "the configuration is good")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Make native code of a module, for this machine's kind and this release, and print its SHA-256
///
/// The sink runs it without compiling: filters[].precompiled: {file, sha256}.
#[derive(Args)]
struct Compile {
    /// The module
    #[arg(value_name = "FILE.wasm")]
    module: PathBuf,
    /// Where the native code goes
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// For the plugin in Fluent Bit, where no signal may be needed, and not for waxseal-sink
    #[arg(long)]
    fluent_bit: bool,
}

impl Compile {
    fn run(self) -> anyhow::Result<ExitCode> {
        let wasm = std::fs::read(&self.module).with_context(|| self.module.display().to_string())?;
        let process = if self.fluent_bit { Process::Shipper } else { Process::Own };
        let runtime = Runtime::new(process).map_err(|e| anyhow!(e))?;
        let native = runtime.precompile(&wasm).map_err(|e| anyhow!("{}: {e}", self.module.display()))?;
        #[allow(clippy::disallowed_methods)] // no evidence
        std::fs::write(&self.output, &native).with_context(|| self.output.display().to_string())?;
        writeln!(std::io::stdout(), "{}  {}", waxseal_trail::hash::sha256(&native), self.output.display())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Print the audit schema as a JSON Schema
#[derive(Args)]
struct Schema {}

impl Schema {
    fn run(self) -> anyhow::Result<ExitCode> {
        let schema = waxseal_enrich::schema::json_schema();
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&schema)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
