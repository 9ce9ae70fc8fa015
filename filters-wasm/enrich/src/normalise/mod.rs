//! What an event is: mappings of one's own first, then the built-in normalisers, by tag or by shape.

mod access;
mod auditd;
mod cloud;
mod pgaudit;
mod syslog;

use crate::config::{Config, Normaliser};
use crate::schema;
use std::borrow::Cow;
use waxseal_filter_abi::config::glob;
use waxseal_filter_abi::view::Kind;
use waxseal_filter_abi::{Event, Value};
use waxseal_trail::record::Member;

/// Fields that are asked for of every event, found in one pass.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields<'a> {
    pub(crate) line: Option<Value<'a>>,
    pub(crate) host: Option<Value<'a>>,
    /// Who asked, of an access log whose parser calls that `host` (Fluent Bit's `apache2`).
    pub(crate) client: Option<Value<'a>>,
    pub(crate) program: Option<Value<'a>>,
    pub(crate) pid: Option<Value<'a>>,
    pub(crate) kubernetes: Option<Value<'a>>,
    pub(crate) traceparent: Option<Value<'a>>,
    pub(crate) request_id: Option<Value<'a>>,
    pub(crate) session_id: Option<Value<'a>>,
    pub(crate) kind: Option<Value<'a>>,
    pub(crate) api_version: Option<Value<'a>>,
    pub(crate) event_name: Option<Value<'a>>,
    pub(crate) event_source: Option<Value<'a>>,
    pub(crate) records: Option<Value<'a>>,
    pub(crate) detail: Option<Value<'a>>,
    pub(crate) rule: Option<Value<'a>>,
    pub(crate) output_fields: Option<Value<'a>>,
    pub(crate) method: Option<Value<'a>>,
    pub(crate) code: Option<Value<'a>>,
    pub(crate) error_severity: Option<Value<'a>>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(event: &Event<'a>) -> Fields<'a> {
        let mut f = Fields::default();
        let mut line = [None; 4];
        for field in event.fields() {
            let slot = match field.name() {
                b"message" => &mut line[0],
                b"log" => &mut line[1],
                b"MESSAGE" => &mut line[2],
                b"body" => &mut line[3],
                b"host" | b"hostname" | b"_HOSTNAME" => &mut f.host,
                b"ident" | b"SYSLOG_IDENTIFIER" | b"appname" | b"program" => &mut f.program,
                b"_COMM" if f.program.is_none() => &mut f.program,
                b"pid" | b"_PID" | b"SYSLOG_PID" | b"procid" => &mut f.pid,
                b"kubernetes" => &mut f.kubernetes,
                b"traceparent" => &mut f.traceparent,
                b"x_request_id" | b"x-request-id" | b"X-Request-ID" | b"X-Request-Id" => &mut f.request_id,
                b"sessionId" => &mut f.session_id,
                b"kind" => &mut f.kind,
                b"apiVersion" => &mut f.api_version,
                b"eventName" => &mut f.event_name,
                b"eventSource" => &mut f.event_source,
                b"Records" => &mut f.records,
                b"detail" => &mut f.detail,
                b"rule" => &mut f.rule,
                b"output_fields" => &mut f.output_fields,
                b"method" => &mut f.method,
                b"code" | b"status" => &mut f.code,
                b"error_severity" => &mut f.error_severity,
                _ => continue,
            };
            *slot = Some(field.value);
        }
        if f.method.is_some()
            && f.code.is_some()
            && event.source("host").is_some_and(|h| Some(h) == f.host && is_address(h))
        {
            f.client = f.host.take();
        }
        f.line = line.into_iter().flatten().find(|v| v.kind() == Kind::String);
        f
    }
}

/// The beginning of a text that is told beside the line that it stands in: an event must not grow by what it says twice.
pub(crate) fn cut(text: &str) -> &str {
    const MOST: usize = 2048;
    if text.len() <= MOST { text } else { &text[..text.floor_char_boundary(MOST)] }
}

fn is_address(v: Value<'_>) -> bool {
    v.str().is_some_and(|t| t.parse::<std::net::IpAddr>().is_ok())
}

/// What an event carries as text: a line, or a JSON object.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    text: Cow<'a, str>,
    /// Where the object stands in `text`.
    object: bool,
}

impl<'a> Body<'a> {
    pub(crate) fn of(fields: &Fields<'a>) -> Body<'a> {
        let text = fields.line.and_then(Value::str).unwrap_or_default();
        let cut = |t: &str| {
            let t = t.trim_end_matches(['\n', '\r']);
            (t.len() - without_cri(t).len(), t.len())
        };
        let text = match text {
            Cow::Borrowed(t) => {
                let (from, to) = cut(t);
                Cow::Borrowed(&t[from..to])
            }
            Cow::Owned(t) => {
                let (from, to) = cut(&t);
                Cow::Owned(t[from..to].to_owned())
            }
        };
        let object = text.trim_start().starts_with('{') && Value::checked(&text).is_some();
        Body { text, object }
    }

    /// The line; empty if there is none.
    pub(crate) fn line(&self) -> &str {
        &self.text
    }

    /// The object, if it is one.
    pub(crate) fn json(&self) -> Option<Value<'_>> {
        if self.object { Value::first(self.text.as_bytes()) } else { None }
    }
}

/// A container's line without what its runtime puts before it: `2024-05-01T10:00:00.123456789Z stdout F `.
fn without_cri(line: &str) -> &str {
    let mut words = line.splitn(4, ' ');
    let (Some(time), Some("stdout" | "stderr"), Some("F"), Some(rest)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return line;
    };
    if waxseal_trail::time::Time::parse_rfc3339(time).is_some() { rest } else { line }
}

/// Makes the event one of the schema; says whether it is one now.
pub(crate) fn run(config: &Config, event: &mut Event<'_>, fields: &Fields<'_>, body: &Body<'_>) -> bool {
    let by_tag = config.by_tag.iter().find(|(pattern, _)| glob(pattern, event.tag())).map(|(_, n)| *n);
    if let Some(n) = by_tag {
        event.explain(|| format!("its tag names the normaliser {}", n.name()));
    } else if config.mappings.iter().any(|m| m.run(event, body.json(), &config.clock)) {
        return is_classified(event);
    }
    let given = fields.program.and_then(Value::str);
    let pid = fields.pid.and_then(Value::word);
    let said = syslog::Line::of(body.line(), given.as_deref(), pid.as_deref(), &config.clock, event.time());
    let runs = |n: Normaliser| by_tag.map_or_else(|| config.normalisers.contains(&n), |b| b == n);
    for n in Normaliser::ALL {
        if !runs(n) {
            continue;
        }
        let done = match n {
            Normaliser::Native => native(event, body),
            Normaliser::KubernetesAudit => cloud::kubernetes(event, fields, body),
            Normaliser::Cloudtrail => cloud::cloudtrail(event, fields, body),
            Normaliser::Falco => cloud::falco(event, fields, body),
            Normaliser::Auditd => auditd::run(event, &said),
            Normaliser::Pgaudit => pgaudit::run(event, fields, body, &said, &config.clock),
            Normaliser::Syslog => syslog::run(event, fields, &said),
            Normaliser::Access => access::run(event, fields, body, &said, &config.clock),
        };
        if done {
            event.explain(|| format!("normaliser {} knows it", n.name()));
            return is_classified(event);
        }
    }
    event.explain(|| "no mapping and no normaliser knows it: it stays unclassified".into());
    false
}

fn is_classified(event: &Event<'_>) -> bool {
    event.text(Member::Category).is_some_and(|c| schema::is_category(&c))
        || event.text(Member::EventType).is_some_and(|t| schema::by_type(&t).is_some())
}

/// An event of the schema already, or a JSON object of it that is carried as text.
fn native(event: &mut Event<'_>, body: &Body<'_>) -> bool {
    let known = event.text(Member::EventType).and_then(|t| schema::by_type(&t));
    if let Some(kind) = known {
        event.set_if_absent(Member::Category, kind.category);
        if event.text(Member::Category).as_deref() == Some("unclassified") {
            event.set(Member::Category, kind.category);
        }
        finish_native(event);
        return true;
    }
    if event.text(Member::Category).is_some_and(|c| schema::is_category(&c)) {
        return true;
    }
    let Some(object) = body.json() else { return false };
    let text = |name: &str| object.get(name).and_then(Value::str);
    let Some(kind) = text("event_type").and_then(|t| schema::by_type(&t)) else { return false };
    if text("category").is_some_and(|c| c != kind.category) {
        return false;
    }
    event.set(Member::Category, kind.category);
    event.set(Member::EventType, kind.event_type);
    for which in [
        Member::Action,
        Member::Actor,
        Member::CorrelationId,
        Member::RequestId,
        Member::Resource,
        Member::Result,
        Member::SessionId,
    ] {
        if let Some(t) = text(which.name()) {
            event.set_if_absent(which, &t);
        }
    }
    if let Some(t) = text("timestamp").and_then(|t| waxseal_trail::time::Time::parse_rfc3339(&t)) {
        event.set_time(t);
    }
    for field in kind.fields {
        let value = object.get(field.name).or_else(|| object.get("metadata")?.get(field.name));
        if let Some(v) = value.filter(|v| v.kind() != Kind::Null && schema::member_of(field.name).is_none()) {
            event.add_value(field.name, v, true);
        }
    }
    finish_native(event);
    true
}

fn finish_native(event: &mut Event<'_>) {
    if let Some(user) = event.get("user_id").and_then(Value::str).map(Cow::into_owned) {
        event.set_if_absent(Member::Actor, &user);
    }
    let result = event.get("success").and_then(Value::bool);
    if let Some(ok) = result {
        event.set_if_absent(Member::Result, if ok { "success" } else { "failure" });
    }
}

/// What a normaliser says of an event, beside the fields of its type.
pub(crate) struct Say<'s> {
    pub(crate) category: &'s str,
    pub(crate) event_type: &'s str,
    /// Whom it is about.
    pub(crate) user: Option<&'s str>,
    /// Who did it, where that is not (or need not be) whom it is about.
    doer: Option<Option<&'s str>>,
    pub(crate) action: &'s str,
    pub(crate) resource: Option<&'s str>,
    pub(crate) result: &'s str,
    pub(crate) ip: Option<&'s str>,
}

impl<'s> Say<'s> {
    /// Of a type of the schema.
    pub(crate) fn new(event_type: &'s str, action: &'s str) -> Say<'s> {
        let category = schema::by_type(event_type).map_or("unclassified", |k| k.category);
        Say { category, event_type, user: None, doer: None, action, resource: None, result: "", ip: None }
    }

    pub(crate) fn user(mut self, user: impl Into<Option<&'s str>>) -> Self {
        self.user = user.into().filter(|u| !u.is_empty());
        self
    }

    /// Who did it; `None` if nobody says.
    pub(crate) fn by(mut self, doer: impl Into<Option<&'s str>>) -> Self {
        self.doer = Some(doer.into().filter(|u| !u.is_empty()));
        self
    }

    pub(crate) fn resource(mut self, resource: impl Into<Option<&'s str>>) -> Self {
        self.resource = resource.into().filter(|u| !u.is_empty());
        self
    }

    pub(crate) fn ip(mut self, ip: impl Into<Option<&'s str>>) -> Self {
        // An interface's name may follow (RFC 4007 section 11).
        let address = |i: &'s str| i.split('%').next().filter(|i| i.parse::<std::net::IpAddr>().is_ok());
        self.ip = ip.into().and_then(address);
        self
    }

    /// How it ended; `None` if nobody says.
    pub(crate) fn result(mut self, ok: impl Into<Option<bool>>) -> Self {
        self.result = match ok.into() {
            Some(true) => "success",
            Some(false) => "failure",
            None => "",
        };
        self
    }

    /// Says that a role was given or taken, and by whom.
    pub(crate) fn assigning(self, event: &mut Event<'_>, role: &str, by: Option<&'s str>) {
        self.by(by).to(event);
        event.add("role", role);
        if let Some(by) = by {
            event.add("assigned_by", by);
        }
    }

    /// Says that a password was changed, how, and by whom.
    pub(crate) fn changing(self, event: &mut Event<'_>, method: &str, by: Option<&'s str>) {
        self.by(by).to(event);
        event.add("method", method);
        if let Some(by) = by {
            event.add("requester_id", by);
        }
    }

    /// Says it.
    pub(crate) fn to(&self, event: &mut Event<'_>) {
        event.set(Member::Category, self.category);
        event.set(Member::EventType, self.event_type);
        if !self.action.is_empty() {
            event.set(Member::Action, self.action);
        }
        if let Some(user) = self.user {
            event.add("user_id", user);
        }
        if let Some(doer) = self.doer.unwrap_or(self.user) {
            event.set(Member::Actor, doer);
        }
        if let Some(resource) = self.resource {
            event.set(Member::Resource, resource);
        }
        if !self.result.is_empty() {
            event.set(Member::Result, self.result);
        }
        if let Some(ip) = self.ip {
            event.add("ip_address", ip);
        }
    }
}
