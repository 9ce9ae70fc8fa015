//! `waxseal cost`: what a topology writes, before anything is locked for seven years.

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Deserialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use waxseal_sink::config::{Size, Span};

const DAY: f64 = 86_400.0;
const YEAR: f64 = 365.25 * DAY;
const GB: f64 = 1e9;

/// Print objects, requests and bytes for the whole retention, for a sink on each node and for aggregators
#[derive(Args)]
pub(crate) struct Cost {
    /// Nodes whose logs are sealed
    #[arg(long)]
    nodes: u32,
    /// Events a second, of all nodes together
    #[arg(long)]
    rate: f64,
    /// Aggregators, where the nodes send to some
    #[arg(long, default_value_t = 3)]
    aggregators: u32,
    /// Kept so long
    #[arg(long, default_value = "2555d")]
    retention: Span,
    /// batch.max_age of the sinks
    #[arg(long, default_value = "5m")]
    max_age: Span,
    /// batch.max_events of the sinks
    #[arg(long, default_value_t = 100_000)]
    max_events: u64,
    /// batch.max_bytes of the sinks
    #[arg(long, default_value = "32MiB")]
    max_bytes: Size,
    /// heartbeat of the sinks
    #[arg(long, default_value = "15m")]
    heartbeat: Span,
    /// Bytes of a record; `waxseal generate` makes some of about 1050
    #[arg(long, default_value_t = 1050)]
    record_bytes: u64,
    /// Bytes that an event takes in the store; docs/performance.md measured 245
    #[arg(long, default_value_t = 245)]
    stored_bytes: u64,
    /// Prices (YAML, docs/topologies.md); none are known here
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
}

/// What a provider asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prices {
    /// Printed behind amounts.
    currency: String,
    /// A thousand PUT requests.
    put_per_1000: f64,
    /// What storing costs, by the object's age; the first from day 0.
    tiers: Vec<Tier>,
}

/// From an age on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tier {
    after_days: f64,
    /// A gigabyte (10^9 bytes) for a month.
    gb_month: f64,
    /// Objects below this many bytes stay where they were (lifecycle rules pass over them).
    #[serde(default)]
    min_object: f64,
    /// Moving a thousand objects here.
    #[serde(default)]
    move_per_1000: f64,
}

/// An envelope of a header with one key is about so large.
const HEADER: f64 = 2_500.0;
/// An events object's footer, page headers and bloom filters, beside its events.
const OBJECT: f64 = 12_000.0;

/// What one writer writes in a year.
struct Year {
    headers: f64,
    objects: f64,
    bytes: f64,
    /// Of an events object.
    object_bytes: f64,
}

impl Cost {
    fn writer(&self, rate: f64) -> Year {
        let events = rate * YEAR;
        let heartbeat = self.heartbeat.0.as_secs_f64();
        if events < 1.0 {
            let headers = YEAR / heartbeat;
            return Year { headers, objects: 0.0, bytes: headers * HEADER, object_bytes: 0.0 };
        }
        // A batch begins with an event, and closes at the first of three limits.
        let full =
            (self.max_events as f64 / rate).min(self.max_bytes.0 as f64 / self.record_bytes as f64 / rate);
        let open = full.min(self.max_age.0.as_secs_f64());
        let gap = 1.0 / rate;
        let objects = YEAR / (open + gap);
        // In a long silence there are empty batches.
        let headers = objects * (1.0 + (gap / heartbeat).floor());
        let stored = events * self.stored_bytes as f64;
        let bytes = stored + objects * OBJECT + headers * HEADER;
        Year { headers, objects, bytes, object_bytes: stored / objects + OBJECT }
    }

    /// With everything else as it is by default.
    pub(crate) fn of(nodes: u32, rate: f64, retention: Span, prices: Option<PathBuf>) -> Cost {
        Cost {
            nodes,
            rate,
            aggregators: 3,
            retention,
            max_age: Span(Duration::from_secs(300)),
            max_events: 100_000,
            max_bytes: Size(32 << 20),
            heartbeat: Span(Duration::from_secs(900)),
            record_bytes: 1050,
            stored_bytes: 245,
            prices,
        }
    }

    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.print(&mut std::io::stdout().lock())?;
        Ok(ExitCode::SUCCESS)
    }

    pub(crate) fn print(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        ensure!(self.nodes > 0 && self.aggregators > 0, "--nodes and --aggregators: at least 1");
        ensure!(self.rate.is_finite() && self.rate >= 0.0, "--rate: events a second");
        ensure!(self.record_bytes > 0 && self.max_events > 0 && self.max_bytes.0 > 0, "sizes: at least 1");
        let times = [self.max_age.0, self.heartbeat.0, self.retention.0];
        ensure!(times.iter().all(|t| !t.is_zero()), "durations: more than 0s");
        let prices = self.prices.as_ref().map(|path| -> anyhow::Result<Prices> {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let prices: Prices = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
            let first = prices.tiers.first().is_some_and(|t| t.after_days == 0.0);
            ensure!(first, "{}: tiers: the first is from after_days: 0", path.display());
            let sorted = prices.tiers.is_sorted_by(|a, b| a.after_days < b.after_days);
            ensure!(sorted, "{}: tiers: in the order of after_days", path.display());
            Ok(prices)
        });
        let prices = prices.transpose()?;
        let years = self.retention.0.as_secs_f64() / YEAR;
        writeln!(
            out,
            "{} nodes, {} events/s together, each event kept {:.2} years",
            self.nodes, self.rate, years
        )?;
        for (name, writers) in [("a sink on each node", self.nodes), ("aggregators", self.aggregators)] {
            let y = self.writer(self.rate / f64::from(writers));
            let all = f64::from(writers);
            let (puts, bytes) = (all * (y.headers + y.objects), all * y.bytes);
            writeln!(out, "\n{name}: {writers} writers")?;
            writeln!(out, "  objects a year         {:>16.0}", puts)?;
            writeln!(out, "  PUT requests a year    {:>16.0}", puts)?;
            writeln!(out, "  GB a year              {:>16.1}", bytes / GB)?;
            writeln!(out, "  bytes an events object {:>16.0}", y.object_bytes)?;
            writeln!(out, "  PUT requests in all    {:>16.0}", puts * years)?;
            writeln!(out, "  objects at the end     {:>16.0}", puts * years)?;
            writeln!(out, "  GB at the end          {:>16.1}", bytes * years / GB)?;
            if let Some(p) = &prices {
                let put = puts / 1000.0 * p.put_per_1000;
                let keep = p.keep(&y, years * 365.25) * all;
                let c = &p.currency;
                writeln!(out, "  PUT, a year            {put:>16.2} {c}")?;
                writeln!(out, "  to keep a year's logs  {keep:>16.2} {c} over the whole retention")?;
            }
        }
        writeln!(
            out,
            "\nHeaders and footers are reckoned at {HEADER} and {OBJECT} bytes. Reads, the log and its anchors, \
             replication and KMS are not in it."
        )?;
        Ok(())
    }
}

impl Prices {
    /// What it costs to keep a writer's year until each object has its `days`.
    fn keep(&self, y: &Year, days: f64) -> f64 {
        let months = |days: f64| days / (365.25 / 12.0);
        let headers = y.headers * HEADER / GB * self.tiers[0].gb_month * months(days);
        let mut events = 0.0;
        let mut price = self.tiers[0].gb_month;
        for (i, tier) in self.tiers.iter().enumerate() {
            let until = self.tiers.get(i + 1).map_or(days, |t| t.after_days.min(days));
            if tier.after_days >= days {
                break;
            }
            if y.object_bytes >= tier.min_object {
                price = tier.gb_month;
                events += y.objects / 1000.0 * tier.move_per_1000;
            }
            events += y.objects * y.object_bytes / GB * price * months(until - tier.after_days);
        }
        headers + events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cost: Cost,
    }

    #[test]
    fn few_writers_write_few_objects() {
        let cost = |line: &str| Line::parse_from(line.split(' ')).cost;
        // PLATFORM's arithmetic: one-minute batches of 200 nodes are 1.5 billion objects in seven years.
        let c = cost("x --nodes 200 --rate 100000 --max-age 1m");
        let y = c.writer(500.0);
        let objects = 200.0 * (y.headers + y.objects) * 7.0;
        assert!((1.4e9..1.6e9).contains(&objects), "{objects}");
        // An idle writer: a heartbeat each quarter of an hour, and nothing else.
        let idle = c.writer(0.0);
        assert_eq!((idle.objects, idle.headers.round()), (0.0, 35_064.0));
        // One event an hour: its batch, and three empty ones in the silence.
        let rare = c.writer(1.0 / 3600.0);
        assert!((rare.headers / rare.objects - 5.0).abs() < 1e-9);
    }

    #[test]
    fn small_objects_are_not_moved() {
        let tier =
            |after_days, gb_month, min_object| Tier { after_days, gb_month, min_object, move_per_1000: 0.0 };
        let prices = Prices {
            currency: "EUR".into(),
            put_per_1000: 0.0,
            tiers: vec![tier(0.0, 1.0, 0.0), tier(365.25, 0.0, 100.0)],
        };
        let year = |object_bytes| Year { headers: 0.0, objects: GB / object_bytes, bytes: GB, object_bytes };
        assert!((prices.keep(&year(1000.0), 730.5) - 12.0).abs() < 1e-9);
        assert!((prices.keep(&year(10.0), 730.5) - 24.0).abs() < 1e-9);
    }
}
