//! Numbers about a running worker, in the form Prometheus reads.

use crate::anchors::Standing;
use crate::round::Outcome;
use crate::state::State;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use waxseal_store::Requests;
use waxseal_trail::time::Time;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Target {
    kind: &'static str,
    name: String,
}

use waxseal_trail::verdict::Verdict::{Foreign, Fork, Gap, Inconsistent, Silent, Tampered, Untrusted};

/// What a worker finds.
const FINDINGS: [waxseal_trail::verdict::Verdict; 7] =
    [Tampered, Fork, Gap, Inconsistent, Silent, Untrusted, Foreign];

type Seconds = Gauge<f64, AtomicU64>;

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    size: Gauge,
    checkpoint: Gauge,
    checkpoint_time: Seconds,
    rounds: Family<Result, Counter>,
    last_round: Seconds,
    round_seconds: Seconds,
    live: Gauge,
    silent: Gauge,
    absent: Gauge,
    kept_out: Gauge,
    unreadable: Gauge,
    findings: Family<Verdict, Gauge>,
    lengthened: Counter,
    complaints: Gauge,
    requests: Family<Operation, Counter>,
    target_success: Family<Target, Seconds>,
    target_failures: Family<Target, Gauge>,
    target_checkpoint: Family<Target, Gauge>,
    target_waiting: Family<Target, Seconds>,
    alarms: Counter,
    chain_alarms: Counter,
}

fn unix(t: Time) -> f64 {
    t.unix_seconds() as f64
}

fn gauge(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Metrics {
    /// Fresh ones, of a worker that starts now. What alerts compare is there from the start.
    pub fn new(now: Time) -> Metrics {
        let metrics = Metrics::default();
        metrics.last_round.set(unix(now));
        for verdict in FINDINGS {
            let _ = metrics.findings.get_or_create(&Verdict { verdict: verdict.name() });
        }
        for result in ["ok", "failed"] {
            let _ = metrics.rounds.get_or_create(&Result { result });
        }
        metrics
    }

    /// What a worker knows.
    pub fn state(&self, state: &State) {
        if let Some(seen) = &state.seen {
            self.size.set(gauge(seen.checkpoint.size));
            self.checkpoint.set(gauge(seen.number));
        }
        let found = state.known.findings();
        for verdict in FINDINGS.map(waxseal_trail::verdict::Verdict::name) {
            let count = found.get(verdict).copied().unwrap_or(0);
            self.findings.get_or_create(&Verdict { verdict }).set(gauge(count));
        }
        if let Some(at) = state.seen_at {
            self.checkpoint_time.set(unix(at));
        }
    }

    /// A round that came to its end.
    pub fn round(&self, outcome: &Outcome, now: Time, took: Duration) {
        self.rounds.get_or_create(&Result { result: "ok" }).inc();
        self.last_round.set(unix(now));
        self.round_seconds.set(took.as_secs_f64());
        self.live.set(gauge(outcome.live));
        self.silent.set(gauge(outcome.silent.len() as u64));
        self.absent.set(gauge(outcome.absent.len() as u64));
        self.kept_out.set(gauge(outcome.kept_out_count));
        self.unreadable.set(gauge(outcome.unreadable.len() as u64));
        self.complaints.set(gauge(outcome.complaints.len() as u64));
        self.lengthened.inc_by(outcome.lengthened);
    }

    /// One that did not.
    pub fn failed(&self) {
        self.rounds.get_or_create(&Result { result: "failed" }).inc();
    }

    /// How it is with whom the checkpoints are shown to.
    pub fn targets(&self, standing: &[Standing]) {
        for s in standing {
            let target = Target { kind: s.kind, name: s.name.clone() };
            let at = s.last_success.map_or(0.0, unix);
            self.target_success.get_or_create(&target).set(at);
            self.target_failures.get_or_create(&target).set(i64::from(s.failures));
            self.target_waiting.get_or_create(&target).set(s.wanting.map_or(0.0, unix));
            self.target_checkpoint.get_or_create(&target).set(s.signed.map_or(-1, gauge));
        }
    }

    /// Somebody has seen a log that this one does not extend.
    pub fn alarm(&self) {
        self.alarms.inc();
    }

    /// Nodes of a chain lie, or one of them does.
    pub fn chain_alarm(&self) {
        self.chain_alarms.inc();
    }

    /// What the store was asked so far.
    pub fn requests(&self, r: &Requests) {
        let all = [
            ("get", r.get),
            ("head", r.head),
            ("list", r.list),
            ("put", r.put),
            ("other", r.other),
            ("retry", r.retries),
        ];
        for (operation, n) in all {
            let counter = self.requests.get_or_create(&Operation { operation });
            counter.inc_by(n.saturating_sub(counter.get()));
        }
    }

    /// As text (OpenMetrics 1.0).
    pub fn render(&self) -> String {
        let mut r = Registry::with_prefix("waxseal_anchor");
        r.register("log_size", "Entries of the log", self.size.clone());
        r.register("checkpoint", "Number of the newest checkpoint", self.checkpoint.clone());
        r.register_with_unit(
            "checkpoint_time",
            "When this worker first saw the newest checkpoint, since 1970",
            Unit::Seconds,
            self.checkpoint_time.clone(),
        );
        r.register("rounds", "Rounds, by how they ended", self.rounds.clone());
        r.register_with_unit(
            "last_round_time",
            "When the last round that came to its end began, since 1970; before the first, when the worker did",
            Unit::Seconds,
            self.last_round.clone(),
        );
        r.register_with_unit(
            "round",
            "How long the last round took",
            Unit::Seconds,
            self.round_seconds.clone(),
        );
        r.register("writers_live", "Writers that have not retired", self.live.clone());
        r.register("writers_silent", "Writers whose next header is overdue", self.silent.clone());
        r.register("writers_absent", "Names that should have a writer, and have none", self.absent.clone());
        r.register(
            "kept_out",
            "Objects under names of statements that the last round did not log",
            self.kept_out.clone(),
        );
        r.register(
            "unreadable",
            "Objects of trusted writers that the last round could not read",
            self.unreadable.clone(),
        );
        r.register("findings", "Findings in the log, by verdict", self.findings.clone());
        r.register("locks_lengthened", "Locks that were lengthened", self.lengthened.clone());
        r.register(
            "complaints",
            "What the last round could not do beside the log: read the trust file or the nodes, lengthen locks",
            self.complaints.clone(),
        );
        r.register("store_requests", "Requests to the store", self.requests.clone());
        r.register_with_unit(
            "target_success_time",
            "When a target last signed what it was shown, since 1970; 0: not yet",
            Unit::Seconds,
            self.target_success.clone(),
        );
        r.register_with_unit(
            "target_waiting_time",
            "Since when a chain lacks an anchor that is due, sent or not, since 1970; 0: it lacks none",
            Unit::Seconds,
            self.target_waiting.clone(),
        );
        r.register(
            "chain_alarms",
            "Answers of a chain's nodes that do not fit together, or that they disagree on for long",
            self.chain_alarms.clone(),
        );
        r.register("target_failures", "Tries that failed since then", self.target_failures.clone());
        r.register(
            "target_checkpoint",
            "Number of the last checkpoint that a target has signed; -1: none yet",
            self.target_checkpoint.clone(),
        );
        r.register("alarms", "Answers that say that the log was rolled back or forked", self.alarms.clone());
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &r);
        text
    }
}
