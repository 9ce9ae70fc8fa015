//! `waxseal filter test` and `waxseal filter scan`: a privacy policy, tried on samples and on a trail.

use crate::filter::lines;
use crate::show::events_object;
use crate::tree::read;
use crate::{Paint, open};
use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use waxseal_events::{EventsError, Reader};
use waxseal_filter_abi::Filter as _;
use waxseal_filter_abi::native::Native;
use waxseal_filter_abi::wire::EXPLAIN;
use waxseal_privacy::{Place, Privacy};
use waxseal_store::list_all_keys;
use waxseal_trail::record::{Converter, Events};
use waxseal_trail::statement::Batch;
use waxseal_trail::time::Time;

/// What is expected, for use in CI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Expect {
    /// That no rule finds anything
    None,
    /// That some rule does
    Some,
}

impl Expect {
    fn exit(expected: Option<Expect>, found: u64) -> ExitCode {
        let met = match expected {
            None => true,
            Some(Expect::None) => found == 0,
            Some(Expect::Some) => found > 0,
        };
        ExitCode::from(u8::from(!met))
    }
}

/// Show what a privacy policy changes in JSON events, one a line, from standard input, and which rule did it
///
/// The events are shown as the sink would chain them. What is shown on the left is not masked: use it on samples.
#[derive(Args)]
pub(crate) struct Test {
    /// The policy; an empty file has the default rules
    #[arg(long, value_name = "FILE.yaml")]
    policy: PathBuf,
    /// Take each line as text, not as JSON
    #[arg(long)]
    text: bool,
    /// Only how often each rule did something
    #[arg(long)]
    summary: bool,
    /// Exit with 1 unless this is so
    #[arg(long, value_name = "none|some")]
    expect: Option<Expect>,
}

/// How often a rule did something, and in how many events.
#[derive(Default)]
struct Counts(BTreeMap<String, (u64, u64)>);

impl Counts {
    fn add(&mut self, places: &[Place]) {
        let mut seen: Vec<&str> = Vec::new();
        for place in places {
            let (times, events) = self.0.entry(place.rule.clone()).or_default();
            *times += 1;
            if !seen.contains(&&*place.rule) {
                seen.push(&place.rule);
                *events += 1;
            }
        }
    }

    fn sum(&self) -> u64 {
        self.0.values().map(|c| c.0).sum()
    }

    fn write(&self, of: u64, out: &mut impl Write) -> std::io::Result<()> {
        if self.0.is_empty() {
            return writeln!(out, "{of} events, and no rule found anything");
        }
        let wide = self.0.keys().map(String::len).max().unwrap_or(4).max(4);
        writeln!(out, "{:wide$}  {:>9}  {:>9}", "rule", "times", "events")?;
        for (rule, (times, events)) in &self.0 {
            writeln!(out, "{rule:wide$}  {times:>9}  {events:>9}")?;
        }
        writeln!(out, "of {of} events")
    }
}

impl Test {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut filter = Native::<Privacy>::load(&self.policy).map_err(|e| anyhow!(e))?;
        let mut converter = Converter::default();
        let mut input = std::io::stdin().lock();
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let paint = Paint::stdout();
        let mut counts = Counts::default();
        let mut first = 1;
        loop {
            let (mut from, mut to) = (Events::default(), Events::default());
            if !lines(&mut input, self.text, &mut converter, &mut from)? {
                break;
            }
            let mut told: Vec<Vec<Place>> = vec![Vec::new(); from.len()];
            let hear = |i: usize, text: &str| told[i] = text.lines().filter_map(Place::parse).collect();
            filter.run(&from, b"{}", Time::MIN, EXPLAIN, hear, &mut to).map_err(|e| anyhow!(e))?;
            for (i, places) in told.iter().enumerate() {
                counts.add(places);
                if !self.summary && !places.is_empty() {
                    let before = serde_json::from_slice(&from.members_json(i))?;
                    let after = serde_json::from_slice(&to.members_json(i))?;
                    show(first + i, &before, &after, places, &paint, &mut out)?;
                }
            }
            first += from.len();
        }
        if !self.summary && counts.sum() > 0 {
            writeln!(out)?;
        }
        counts.write(first as u64 - 1, &mut out)?;
        out.flush()?;
        Ok(Expect::exit(self.expect, counts.sum()))
    }
}

/// One event: what was changed in it, on the left as it was, on the right as it is now.
fn show(
    n: usize,
    before: &serde_json::Value,
    after: &serde_json::Value,
    places: &[Place],
    paint: &Paint,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mut all = Vec::new();
    differences(before, after, String::new(), &mut all);
    // What the filter says of itself is no change.
    all.retain(|(path, _, _)| !matches!(&**path, "privacy" | "$enriched"));
    writeln!(
        out,
        "event {n}: {}",
        before["event_type"].as_str().or(before["category"].as_str()).unwrap_or("event")
    )?;
    let wide = |i: fn(&(String, String, String)) -> &String, most: usize| {
        all.iter().map(|c| i(c).chars().count()).max().unwrap_or(0).min(most)
    };
    let (path_wide, old_wide) = (wide(|c| &c.0, 40), wide(|c| &c.1, 60));
    for (path, old, new) in &all {
        let below = |p: &&Place| {
            p.path == *path
                || p.path.starts_with(&format!("{path}."))
                || path.starts_with(&format!("{}.", p.path))
        };
        let mut why: Vec<String> =
            places.iter().filter(below).map(|p| format!("{} ({})", p.rule, p.why)).collect();
        why.dedup();
        let pad = |text: &str, wide: usize| " ".repeat(wide.saturating_sub(text.chars().count()));
        writeln!(
            out,
            "  {path}{}  {}{}  {}  {}",
            pad(path, path_wide),
            paint.bad(old),
            pad(old, old_wide),
            paint.good(new),
            paint.dim(&why.join(", "))
        )?;
    }
    Ok(())
}

/// The leaves that are not the same: path, old and new text.
fn differences(
    before: &serde_json::Value,
    after: &serde_json::Value,
    path: String,
    all: &mut Vec<(String, String, String)>,
) {
    use serde_json::Value;
    let under = |name: &str| match (&*path, name) {
        ("", "metadata") => "metadata".to_owned(),
        ("" | "metadata", name) => name.to_owned(),
        (path, name) => format!("{path}.{name}"),
    };
    match (before, after) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, old) in a {
                match b.get(name) {
                    Some(new) => differences(old, new, under(name), all),
                    None => all.push((under(name), old.to_string(), "(gone)".into())),
                }
            }
            for (name, new) in b.iter().filter(|(n, _)| !a.contains_key(*n)) {
                all.push((under(name), String::new(), new.to_string()));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| differences(a, b, under(&i.to_string()), all));
        }
        (a, b) if a == b => {}
        (a, b) => {
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), |t| t.escape_debug().to_string());
            all.push((path, text(a), text(b)));
        }
    }
}

/// Run a privacy policy over a sealed trail, and report what it would have caught
///
/// Nothing is changed, and no value is shown: what is sealed stays. Run it after a policy was made stricter.
#[derive(Args)]
pub(crate) struct Scan {
    /// The trail: file:///path, a directory, or s3://bucket/prefix
    trail: String,
    /// The policy; an empty file has the default rules
    #[arg(long, value_name = "FILE.yaml")]
    policy: PathBuf,
    /// So many places are named for each rule
    #[arg(long, default_value_t = 10)]
    places: usize,
    /// Exit with 1 unless this is so
    #[arg(long, value_name = "none|some")]
    expect: Option<Expect>,
}

impl Scan {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut filter = Privacy::load(&self.policy).map_err(|e| anyhow!(e))?;
        let store = open(&self.trail)?;
        let mut keys = Vec::new();
        list_all_keys(&*store, "batches/", &mut |k| keys.push(k))?;
        let mut counts = Counts::default();
        let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let (mut events, mut skipped) = (0, 0);
        for key in keys {
            let Some(header) = read::<Batch>(&*store, &key) else {
                eprintln!("waxseal: {key}: no header that can be read; skipped");
                skipped += 1;
                continue;
            };
            let Some(object) = &header.object else { continue };
            let (key, bytes) = events_object(&*store, &key, &header, object)?;
            let reader = Reader::new(Bytes::from(bytes)).with_context(|| key.clone())?;
            let mut at = header.events.first_sequence;
            reader.read::<EventsError>(|step| {
                for record in &step.records {
                    match filter.look(record.data()) {
                        Ok(places) => {
                            counts.add(&places);
                            for place in places {
                                let list = named.entry(place.rule).or_default();
                                if list.len() < self.places {
                                    list.push(format!(
                                        "{}:{at}  {} ({})",
                                        header.writer, place.path, place.why
                                    ));
                                }
                            }
                        }
                        Err(e) => {
                            eprintln!("waxseal: {}:{at}: {e}; skipped", header.writer);
                            skipped += 1;
                        }
                    }
                    at += 1;
                    events += 1;
                }
                Ok(())
            })?;
        }
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        for (rule, list) in &named {
            writeln!(out, "{rule}")?;
            for place in list {
                writeln!(out, "  {place}")?;
            }
            let more = counts.0.get(rule).map_or(0, |c| c.0).saturating_sub(list.len() as u64);
            if more > 0 {
                writeln!(out, "  and {more} more")?;
            }
        }
        if !named.is_empty() {
            writeln!(out)?;
        }
        counts.write(events, &mut out)?;
        out.flush()?;
        // What could not be looked at may hold anything.
        if skipped > 0 {
            return Ok(ExitCode::from(2));
        }
        Ok(Expect::exit(self.expect, counts.sum()))
    }
}
