//! `waxseal generate`

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use waxseal_trail::time::Time;

/// Make realistic audit events of all 21 types from a seed
#[derive(Args)]
pub(crate) struct Generate {
    /// How many events
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// The same seed gives the same events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Events a second [default: as fast as possible]
    #[arg(long)]
    rate: Option<f64>,
    /// The time of the first event (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = crate::verify::time)]
    start: Option<Time>,
    /// Write to a file [default: standard output]
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    output: Option<PathBuf>,
    /// Post to a sink, as in http://127.0.0.1:9880/v1/events
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The sink's bearer token
    #[arg(long, requires = "to", env = "WAXSEAL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Events of one request
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: u64,
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn uuid(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            a >> 16 & 0xffff,
            a & 0xfff,
            b >> 48 & 0x3fff | 0x8000,
            b & 0xffff_ffff_ffff
        )
    }
}

const USERS: [&str; 12] = [
    "alice",
    "bob",
    "carol.ng",
    "d.okafor",
    "erik",
    "fatima",
    "svc-billing",
    "svc-deploy",
    "grace",
    "hiro",
    "ines",
    "jörg",
];
const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15",
    "okhttp/4.12.0",
    "kubectl/v1.31.1 (linux/amd64) kubernetes/9483b13",
];
const RESOURCES: [&str; 8] =
    ["invoice", "patient_record", "contract", "user_profile", "payment", "report", "api_key", "bucket"];
const ENDPOINTS: [&str; 6] = [
    "/api/v1/invoices",
    "/api/v1/users/me",
    "/api/v2/search",
    "/api/v1/payments",
    "/admin/roles",
    "/healthz",
];

/// Category, event type and action of each of the 21 types.
const TYPES: [(&str, &str, &str); 21] = [
    ("authentication", "login_attempt", "login"),
    ("authentication", "logout", "logout"),
    ("authentication", "password_change", "change_password"),
    ("authentication", "mfa_update", "update_mfa"),
    ("authorization", "permission_granted", "grant"),
    ("authorization", "permission_denied", "deny"),
    ("authorization", "role_assignment", "assign_role"),
    ("data_access", "data_read", "read"),
    ("data_access", "data_write", "write"),
    ("data_access", "data_delete", "delete"),
    ("data_access", "data_export", "export"),
    ("api_activity", "api_call", "call"),
    ("api_activity", "rate_limit_exceeded", "throttle"),
    ("api_activity", "api_error", "call"),
    ("security_events", "suspicious_activity", "detect"),
    ("security_events", "security_scan", "scan"),
    ("security_events", "incident_created", "open_incident"),
    ("compliance_events", "consent_granted", "grant_consent"),
    ("compliance_events", "consent_withdrawn", "withdraw_consent"),
    ("compliance_events", "data_retention", "retain"),
    ("compliance_events", "audit_performed", "audit"),
];

/// The `i`th event of a seed. `at` is its time.
fn event(seed: u64, i: u64, at: Time) -> Value {
    let mut r = Random(seed ^ i.wrapping_mul(0x2545_f491_4f6c_dd1d));
    // Every type comes soon, and reads and calls most often, as in life.
    let kind = if i < 21 {
        i
    } else if r.chance(60) {
        [7, 8, 11, 0][r.below(4) as usize]
    } else {
        r.below(21)
    };
    let (category, event_type, action) = TYPES[kind as usize];
    let user = r.pick(&USERS);
    let ip = format!(
        "{}.{}.{}.{}",
        [10, 192, 203, 198][r.below(4) as usize],
        r.below(256),
        r.below(256),
        1 + r.below(254)
    );
    let resource_type = r.pick(&RESOURCES);
    let resource_id = format!("{resource_type}-{:06}", r.below(1_000_000));
    let ok = r.chance(88);
    let agent = r.pick(&AGENTS);
    let fields = match kind {
        0 => {
            json!({"user_id": user, "method": r.pick(&["password", "sso", "passkey"]), "ip_address": ip, "user_agent": agent, "success": ok, "mfa_used": r.chance(70), "failure_reason": if ok { Value::Null } else { json!(r.pick(&["bad_password", "expired", "locked"])) }})
        }
        1 => json!({"user_id": user, "session_id": r.uuid(), "duration": r.below(36_000), "ip_address": ip}),
        2 => {
            json!({"user_id": user, "requester_id": r.pick(&USERS), "method": "self_service", "ip_address": ip})
        }
        3 => {
            json!({"user_id": user, "action": r.pick(&["enrol", "remove"]), "method": r.pick(&["totp", "webauthn"]), "ip_address": ip})
        }
        4 => {
            json!({"user_id": user, "resource": resource_id, "permission": r.pick(&["read", "write", "admin"]), "context": {"ticket": format!("OPS-{}", r.below(9999)), "ip_address": ip}})
        }
        5 => {
            json!({"user_id": user, "resource": resource_id, "permission": "admin", "reason": r.pick(&["no_role", "outside_hours", "policy"])})
        }
        6 => {
            json!({"user_id": user, "role": r.pick(&["viewer", "editor", "auditor", "admin"]), "assigned_by": r.pick(&USERS), "expiration": "2027-01-01T00:00:00Z"})
        }
        7 => {
            json!({"user_id": user, "resource_type": resource_type, "resource_id": resource_id, "fields_accessed": ["name", "amount", "status"], "purpose": r.pick(&["support", "billing", "treatment"]), "ip_address": ip, "user_agent": agent})
        }
        8 => {
            json!({"user_id": user, "resource_type": resource_type, "resource_id": resource_id, "fields_modified": ["status", "amount"], "old_values": {"status": "draft", "amount": r.below(100_000) as f64 / 100.0}, "new_values": {"status": "sent", "amount": r.below(100_000) as f64 / 100.0}, "ip_address": ip})
        }
        9 => {
            json!({"user_id": user, "resource_type": resource_type, "resource_id": resource_id, "reason": "retention", "approval_id": r.uuid()})
        }
        10 => {
            json!({"user_id": user, "export_type": r.pick(&["csv", "parquet", "pdf"]), "filters": {"from": "2026-01-01", "to": "2026-06-30"}, "row_count": r.below(1_000_000), "destination": "s3://exports/monthly"})
        }
        11 => {
            json!({"user_id": user, "endpoint": r.pick(&ENDPOINTS), "method": r.pick(&["GET", "POST", "PUT", "DELETE"]), "parameters": {"page": r.below(50), "q": "état & co"}, "response_code": if ok { 200 } else { 403 }, "duration_ms": r.below(90_000) as f64 / 100.0, "ip_address": ip, "user_agent": agent})
        }
        12 => {
            json!({"user_id": user, "endpoint": r.pick(&ENDPOINTS), "limit": 100, "window": "60s", "ip_address": ip})
        }
        13 => {
            json!({"user_id": user, "endpoint": r.pick(&ENDPOINTS), "error_code": "E1042", "error_message": "upstream timed out", "stack_trace": "at Pool.acquire (pool.js:88)\n at Handler.run (handler.js:14)\n at next (router.js:402)"})
        }
        14 => {
            json!({"type": r.pick(&["impossible_travel", "credential_stuffing"]), "actor": user, "details": {"ip_address": ip, "previous_country": "DE", "country": "BR"}, "risk_score": r.below(100), "action_taken": "step_up"})
        }
        15 => {
            json!({"scan_type": "container", "target": format!("registry/app:{}", r.below(900)), "findings": r.below(30), "severity": r.pick(&["low", "medium", "high"])})
        }
        16 => {
            json!({"incident_id": format!("INC-{}", r.below(99_999)), "severity": r.pick(&["sev1", "sev2", "sev3"]), "description": "Elevated error rate on payments", "affected_resources": ["payments", "checkout"]})
        }
        17 => {
            json!({"user_id": user, "purpose": "marketing", "scope": ["email"], "expiration": "2028-01-01T00:00:00Z"})
        }
        18 => json!({"user_id": user, "purpose": "marketing", "reason": "user_request"}),
        19 => {
            json!({"action": "purge", "data_type": resource_type, "count": r.below(10_000), "reason": "policy"})
        }
        _ => {
            json!({"audit_type": "access_review", "scope": ["payments"], "findings": r.below(5), "auditor": user})
        }
    };
    let mut metadata = fields.as_object().cloned().unwrap_or_default();
    metadata.insert("environment".into(), json!("production"));
    metadata.insert("app_version".into(), json!(format!("2026.{}.{}", 1 + r.below(11), r.below(30))));
    metadata.insert("kubernetes".into(), json!({"namespace": r.pick(&["payments", "identity", "core"]), "pod": format!("api-{:04x}", r.below(65_536)), "node": format!("node-{}", r.below(40))}));
    let mut e = Map::new();
    e.insert("event_id".into(), json!(r.uuid()));
    e.insert("timestamp".into(), json!(at.to_string()));
    e.insert("category".into(), json!(category));
    e.insert("event_type".into(), json!(event_type));
    e.insert("actor".into(), json!(user));
    e.insert("resource".into(), json!(resource_id));
    e.insert("action".into(), json!(action));
    e.insert("result".into(), json!(if ok { "success" } else { "failure" }));
    e.insert("correlation_id".into(), json!(format!("{:016x}{:016x}", r.next(), r.next())));
    if kind < 4 || r.chance(50) {
        e.insert("session_id".into(), json!(format!("s-{:012x}", r.below(1 << 48))));
    }
    e.insert("metadata".into(), Value::Object(metadata));
    Value::Object(e)
}

impl Generate {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.rate.is_some_and(|r| r <= 0.0 || !r.is_finite()) {
            bail!("--rate: more than nothing");
        }
        let start = self.start.or_else(|| Time::from_unix(1_767_225_600, 0)).unwrap_or(Time::MIN);
        let begun = Instant::now();
        let mut sink = match (&self.to, &self.output) {
            (Some(url), _) => Sink::Server(Box::new(Server::new(url, self.token.clone(), self.seed))),
            (None, Some(path)) => Sink::File(BufWriter::new(Box::new(
                std::fs::File::create(path).with_context(|| path.display().to_string())?,
            ))),
            (None, None) => Sink::File(BufWriter::new(Box::new(std::io::stdout().lock()))),
        };
        let mut lines = Vec::new();
        for i in 0..self.count {
            let at = start.saturating_add_seconds(i as i64 / 50);
            let at = Time::from_unix(at.unix_seconds(), (i % 50) as u32 * 20_000_000).unwrap_or(at);
            serde_json::to_writer(&mut lines, &event(self.seed, i, at))?;
            lines.push(b'\n');
            let full = (i + 1) % self.batch == 0
                || i + 1 == self.count
                || self.rate.is_some_and(|r| r < self.batch as f64);
            if full {
                sink.write(&lines, i)?;
                lines.clear();
            }
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64((i + 1) as f64 / rate);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        }
        if let Sink::File(f) = &mut sink {
            f.flush()?;
        }
        if let Sink::Server(s) = sink {
            eprintln!(
                "{} events accepted, {} unparsed, in {:.2} s",
                s.accepted,
                s.unparsed,
                begun.elapsed().as_secs_f64()
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

enum Sink {
    File(BufWriter<Box<dyn Write>>),
    Server(Box<Server>),
}

impl Sink {
    fn write(&mut self, lines: &[u8], i: u64) -> anyhow::Result<()> {
        match self {
            Sink::File(f) => Ok(f.write_all(lines)?),
            Sink::Server(s) => s.post(lines, i),
        }
    }
}

struct Server {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
    run: String,
    accepted: u64,
    unparsed: u64,
}

impl Server {
    fn new(url: &str, token: Option<String>, seed: u64) -> Server {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)));
        let mut run = [0; 8];
        let _ = getrandom::fill(&mut run);
        Server {
            agent: config.build().into(),
            url: url.to_owned(),
            token,
            run: format!("generate-{seed}-{}", data_encoding::HEXLOWER.encode(&run)),
            accepted: 0,
            unparsed: 0,
        }
    }

    /// Posts until it is durable: the key makes every retry safe.
    fn post(&mut self, lines: &[u8], i: u64) -> anyhow::Result<()> {
        let mut wait = Duration::from_millis(100);
        for _ in 0..60 {
            let mut request = self
                .agent
                .post(&self.url)
                .header("content-type", "application/x-ndjson")
                .header("idempotency-key", format!("{}-{i}", self.run));
            if let Some(token) = &self.token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            match request.send(lines) {
                Ok(mut response) => {
                    let status = response.status().as_u16();
                    let text = response.body_mut().read_to_string().unwrap_or_default();
                    match status {
                        200 => {
                            let body: Value = serde_json::from_str(&text).context("the sink's answer")?;
                            self.accepted += body["accepted"].as_u64().unwrap_or(0);
                            self.unparsed += body["unparsed"].as_u64().unwrap_or(0);
                            return Ok(());
                        }
                        408 | 429 | 500.. => {}
                        _ => bail!("{}: {status}: {}", self.url, text.trim()),
                    }
                }
                Err(e) if wait > Duration::from_secs(4) => bail!("{}: {e}", self.url),
                Err(_) => {}
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_secs(5));
        }
        bail!("{}: the sink took nothing for minutes", self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_types_and_the_same_again() {
        let at = Time::from_unix(0, 0).unwrap();
        let kinds: std::collections::BTreeSet<String> =
            (0..21).map(|i| event(7, i, at)["event_type"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds.len(), 21);
        assert_eq!(event(7, 99, at), event(7, 99, at));
        assert_ne!(event(7, 99, at), event(8, 99, at));
    }
}
