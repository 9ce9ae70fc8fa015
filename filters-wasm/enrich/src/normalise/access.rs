//! Access logs of nginx and Apache: the line (common or combined format), or the fields that a parser made of it.

use super::{Body, Fields, Say};
use crate::times::{Clock, Read};
use waxseal_filter_abi::{Event, Value};

const METHODS: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE"];

struct Access<'l> {
    ip: &'l str,
    user: Option<&'l str>,
    time: Option<Read>,
    method: &'l str,
    path: &'l str,
    code: i64,
    agent: Option<&'l str>,
    /// Seconds.
    took: Option<f64>,
}

/// `addr ident user [time] "request" status bytes "referer" "agent" …`
fn line<'l>(text: &'l str, clock: &Clock) -> Option<Access<'l>> {
    let (ip, rest) = text.split_once(' ')?;
    let open = rest.find(" [")?;
    let who = &rest[..open];
    let user = who.split_once(' ').map_or(who, |(_, u)| u);
    let rest = &rest[open + 2..];
    let (time, rest) = rest.split_once("] \"")?;
    let end = quote_end(rest)?;
    let (request, rest) = (&rest[..end], rest.get(end + 1..)?.trim_start());
    let mut words = request.splitn(3, ' ');
    let (method, path) = (words.next()?, words.next().unwrap_or_default());
    let mut rest_words = rest.splitn(3, ' ');
    let code: i64 = rest_words.next()?.parse().ok()?;
    let _bytes = rest_words.next();
    let rest = rest_words.next().unwrap_or_default();
    let (mut agent, mut took) = (None, None);
    if let Some(r) = rest.strip_prefix('"') {
        let end = quote_end(r)?;
        if let Some(r) = r[end + 1..].trim_start().strip_prefix('"')
            && let Some(end) = quote_end(r)
        {
            agent = Some(&r[..end]);
            took = r[end + 1..]
                .split_whitespace()
                .next()
                .filter(|t| t.contains('.'))
                .and_then(|t| t.parse().ok());
        }
    }
    let time = clock.access(time)?;
    let some = |t: &'l str| (t != "-" && !t.is_empty()).then_some(t);
    Some(Access {
        ip,
        user: some(user),
        time: Some(time),
        method,
        path,
        code,
        agent: agent.and_then(some),
        took,
    })
}

/// The end of a quoted text that has begun; nginx and Apache write a quote inside as `\x22` or `\"`.
fn quote_end(text: &str) -> Option<usize> {
    let b = text.as_bytes();
    let mut at = 0;
    while at < b.len() {
        match b[at] {
            b'\\' => at += 1,
            b'"' => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

pub(super) fn run(event: &mut Event<'_>, fields: &Fields<'_>, body: &Body<'_>, clock: &Clock) -> bool {
    if let Some(a) = line(body.line(), clock) {
        // A request that is none (a TLS hello on a plain port) is sealed as it is.
        if !METHODS.contains(&a.method) {
            Say::new("suspicious_activity", "request").ip(a.ip).result(false).to(event);
            event.add("type", "malformed_request");
            event.add("details", body.line());
            time(event, a.time);
            return true;
        }
        say(event, &a);
        return true;
    }
    // Fluent Bit's parsers nginx and apache2, and JSON access logs.
    let (Some(method), Some(code)) = (fields.method.and_then(Value::str), fields.code.and_then(Value::word))
    else {
        return false;
    };
    let (Ok(code), true) = (code.parse::<i64>(), METHODS.contains(&method.as_ref())) else { return false };
    let text = |names: &[&str]| names.iter().find_map(|n| event.source(n)).and_then(Value::str);
    let Some(path) = text(&["path", "uri", "request_uri", "endpoint", "url"]) else { return false };
    let path = path.into_owned();
    let ip = text(&["remote", "remote_addr", "client_ip", "ip"]).map(|t| t.into_owned());
    let user = text(&["user", "remote_user"]).filter(|u| *u != "-").map(|t| t.into_owned());
    let agent = text(&["agent", "http_user_agent", "user_agent"]).map(|t| t.into_owned());
    let took = ["request_time", "duration"].iter().find_map(|n| event.source(n)).and_then(Value::word);
    let a = Access {
        ip: ip.as_deref().unwrap_or_default(),
        user: user.as_deref(),
        time: None,
        method: &method,
        path: &path,
        code,
        agent: agent.as_deref(),
        took: took.and_then(|t| t.parse().ok()),
    };
    say(event, &a);
    true
}

fn time(event: &mut Event<'_>, read: Option<Read>) {
    if let Some(r) = read {
        crate::set_time(event, r);
    }
}

fn say(event: &mut Event<'_>, a: &Access<'_>) {
    let endpoint = a.path.split('?').next().unwrap_or_default();
    let kind = match a.code {
        401 | 403 => "permission_denied",
        429 => "rate_limit_exceeded",
        500.. => "api_error",
        _ => "api_call",
    };
    Say::new(kind, a.method).user(a.user).resource(endpoint).ip(a.ip).result(a.code < 400).to(event);
    event.add("endpoint", endpoint);
    event.add("method", a.method);
    event.add_int("response_code", a.code);
    match kind {
        "permission_denied" => {
            event.add("permission", a.method);
            event.add("reason", if a.code == 401 { "not authenticated" } else { "forbidden" });
            if a.user.is_none() {
                event.add("user_id", "anonymous");
            }
        }
        "api_error" => event.add("error_code", &a.code.to_string()),
        _ => {}
    }
    if let Some((_, query)) = a.path.split_once('?') {
        event.add("parameters", query);
    }
    if let Some(agent) = a.agent {
        event.add("user_agent", agent);
    }
    if let Some(s) = a.took {
        event.add_number("duration_ms", (s * 1e6).round() / 1e3);
    }
    time(event, a.time);
}
