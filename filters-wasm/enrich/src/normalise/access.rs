//! Access logs of nginx and Apache: the line (common or combined format), or the fields that a parser made of it.

use super::syslog::Line;
use super::{Body, Fields, Say};
use crate::times::{Clock, Read};
use std::net::IpAddr;
use waxseal_filter_abi::{Event, Value};

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
    /// The request is one of HTTP.
    request: bool,
}

/// A method as RFC 9110 section 9.1 has it; those that there are have no small letters.
fn is_method(text: &str) -> bool {
    let token = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_');
    text.len() <= 32 && text.starts_with(|c: char| c.is_ascii_uppercase()) && text.bytes().all(token)
}

/// `[host:port] addr[, addr] ident user [time] "request" status bytes "referer" "agent" …`
///
/// Neither server lets a client write a quote, so the first `] "` is the line's own; before it a user may hold anything.
fn line<'l>(text: &'l str, clock: &Clock) -> Option<Access<'l>> {
    let close = text.find("] \"")?;
    let open = text[..close].rfind(" [")?;
    let time = clock.access(&text[open + 2..close])?;
    let (ip, user) = who(&text[..open])?;
    let rest = &text[close + 3..];
    let end = quote_end(rest)?;
    let (request, rest) = (&rest[..end], rest.get(end + 1..)?.trim_start());
    let (method, path, version) = request_of(request);
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
        request: is_method(method) && version.starts_with("HTTP/"),
    })
}

/// `GET /path HTTP/1.1`; a path may hold blanks.
fn request_of(text: &str) -> (&str, &str, &str) {
    let (method, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (path, version) = rest.rsplit_once(' ').unwrap_or((rest, ""));
    (method, path, version)
}

/// The client's address (of several the last, which no client chose) and the user, of what stands before the time.
fn who(text: &str) -> Option<(&str, &str)> {
    let mut rest = text;
    let mut ip = None;
    for skipped in 0.. {
        let (word, after) = rest.split_once(' ')?;
        match word.trim_end_matches(',') {
            w if w.parse::<IpAddr>().is_ok() => ip = Some(w),
            // A virtual host comes first; a client may be named.
            _ if skipped > 0 || after.split(' ').next()?.trim_end_matches(',').parse::<IpAddr>().is_err() => {
                break;
            }
            _ => {}
        }
        rest = after;
    }
    let (ident, user) = match ip {
        Some(_) => rest.split_once(' ')?,
        None => rest.split_once(' ')?.1.split_once(' ')?,
    };
    // What has words where no identity is, is no access log.
    if ip.is_none() && (ident != "-" || user.contains(' ')) {
        return None;
    }
    Some((ip.unwrap_or_default(), user))
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

pub(super) fn run(
    event: &mut Event<'_>,
    fields: &Fields<'_>,
    body: &Body<'_>,
    said: &Line<'_>,
    clock: &Clock,
) -> bool {
    if let Some(a) = line(said.text, clock) {
        // Who connects and says nothing is closed after a while (RFC 9110 section 15.5.9).
        let idle = a.code == 408 && matches!(a.method, "-" | "");
        // A request that is none (a TLS hello on a plain port) is sealed as it is.
        if !a.request && !idle {
            Say::new("suspicious_activity", "request").user(a.user).ip(a.ip).result(false).to(event);
            event.add("type", "malformed_request");
            event.add("details", super::cut(said.text));
            time(event, a.time);
            return true;
        }
        say(event, &a);
        return true;
    }
    // Fluent Bit's parsers nginx and apache2, and JSON access logs, as fields or in a text.
    let get = |n: &str| event.source(n).or_else(|| body.json()?.get(n));
    let code = fields.code.or_else(|| body.json().and_then(|j| j.get("status").or_else(|| j.get("code"))));
    let Some(code) = code.and_then(Value::word).and_then(|c| c.parse::<i64>().ok()) else { return false };
    let text = |names: &[&str]| {
        let found = names.iter().find_map(|n| get(n)).and_then(Value::str)?;
        (!matches!(&*found, "" | "-")).then(|| found.into_owned())
    };
    let request = text(&["request"]);
    let (method, path) = match request.as_deref().map(request_of) {
        Some((method, path, version)) if version.starts_with("HTTP/") => (method.to_owned(), path.to_owned()),
        _ => {
            let path = text(&["path", "uri", "request_uri", "endpoint", "url"]);
            let (Some(method), Some(path)) = (text(&["method", "request_method"]), path) else {
                return false;
            };
            (method, path)
        }
    };
    if !is_method(&method) {
        return false;
    }
    let ip = text(&["remote", "remote_addr", "client_ip", "ip"]);
    let ip = ip.or_else(|| fields.client?.str().map(|t| t.into_owned()));
    let user = text(&["user", "remote_user"]);
    let agent = text(&["agent", "http_user_agent", "user_agent"]);
    let at = text(&["time_local"]).and_then(|t| clock.access(&t));
    let at = at.or_else(|| text(&["time_iso8601"]).and_then(|t| clock.iso(&t)));
    // Of what others call a duration, nobody knows the unit.
    let took = get("request_time").and_then(Value::word).and_then(|t| t.parse().ok());
    let a = Access {
        ip: ip.as_deref().unwrap_or_default(),
        user: user.as_deref(),
        time: at,
        method: &method,
        path: &path,
        code,
        agent: agent.as_deref(),
        took,
        request: true,
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
