//! PostgreSQL: what pgaudit writes (README, "Format"), and logins, logouts and denials of the server's own log.

use super::{Body, Fields, Say};
use crate::times::Clock;
use std::borrow::Cow;
use waxseal_filter_abi::{Event, Value};
use waxseal_trail::record::Member;

/// What stands around a message: of a line's prefix, or of jsonlog's fields.
#[derive(Default)]
struct Around {
    user: Option<String>,
    database: Option<String>,
    client: Option<String>,
    session: Option<String>,
}

impl Around {
    fn of(event: &Event<'_>, body: &Body<'_>, prefix: &str) -> Around {
        let inner = |name: &str| body.json().and_then(|j| j.get(name));
        let get = |names: &[&str]| {
            let found = names.iter().find_map(|n| event.source(n).or_else(|| inner(n)));
            found.and_then(Value::word).map(Cow::into_owned).filter(|t| !t.is_empty() && t != "[unknown]")
        };
        let mut a = Around {
            user: get(&["user", "user_name"]),
            database: get(&["dbname", "database_name"]),
            client: get(&["remote_host", "connection_from"]),
            session: event.text(Member::SessionId).map(Cow::into_owned).or_else(|| get(&["session_id"])),
        };
        // log_line_prefix = '%m [%p] user=%u,db=%d,app=%a,client=%h '
        for (key, value) in crate::mapping::key_values(prefix) {
            let value = (!value.is_empty() && value != "[unknown]").then(|| value.into_owned());
            match key {
                "user" => a.user = value,
                "db" | "database" => a.database = value,
                "client" | "host" => a.client = value,
                "session" => a.session = value,
                _ => {}
            }
        }
        // `alice@shop`, as %u@%d
        if a.user.is_none()
            && let Some((user, db)) = prefix.split_whitespace().find_map(|w| w.split_once('@'))
        {
            a.user = Some(user.to_owned());
            a.database = Some(db.trim_end_matches(':').to_owned());
        }
        a
    }
}

pub(super) fn run(event: &mut Event<'_>, fields: &Fields<'_>, body: &Body<'_>, clock: &Clock) -> bool {
    let inner = body.json().and_then(|j| j.get("message")).and_then(Value::str);
    let is_json =
        fields.error_severity.is_some() || body.json().is_some_and(|j| j.get("error_severity").is_some());
    let line = inner.as_deref().unwrap_or(body.line());
    // Most lines of most logs end here.
    let severity = ["LOG:  ", "FATAL:  ", "ERROR:  "].iter().find_map(|s| Some((line.find(s)?, s.len(), *s)));
    let (prefix, message, level) = match severity {
        Some((at, len, level)) => (&line[..at], &line[at + len..], level.trim_end_matches([':', ' '])),
        None if is_json || line.starts_with("AUDIT: ") => {
            let level = fields.error_severity.or_else(|| body.json()?.get("error_severity"));
            (
                "",
                line,
                match level.and_then(Value::raw_str) {
                    Some(b"FATAL") => "FATAL",
                    Some(b"ERROR") => "ERROR",
                    _ => "LOG",
                },
            )
        }
        None => return false,
    };
    let around = Around::of(event, body, prefix);
    if !said(event, message, level, &around) {
        return false;
    }
    if let Some(db) = &around.database {
        event.add("database", db);
    }
    if let Some(s) = &around.session {
        event.set_if_absent(Member::SessionId, s);
    }
    let stamp = prefix.get(..prefix.find(" [").unwrap_or(prefix.len())).unwrap_or_default().trim();
    let given = ["timestamp", "log_time"].iter().find_map(|n| body.json()?.get(n)).and_then(Value::str);
    if let Some(t) = clock.iso(given.as_deref().unwrap_or(stamp)) {
        crate::set_time(event, t);
    }
    true
}

fn said(event: &mut Event<'_>, message: &str, level: &str, a: &Around) -> bool {
    let (user, client) = (a.user.as_deref(), a.client.as_deref());
    if let Some(rest) = message.strip_prefix("AUDIT: ") {
        return audit(event, rest, a);
    }
    let quoted = |text: &str| text.split('"').nth(1).map(str::to_owned);
    if let Some(rest) = message.strip_prefix("connection authorized: ") {
        let mut who = user.map(str::to_owned);
        for (key, value) in crate::mapping::key_values(rest) {
            if key == "user" {
                who = Some(value.into_owned());
            }
        }
        Say::new("login_attempt", "login").user(who.as_deref()).ip(client).result(true).to(event);
        event.add_bool("success", true);
        event.add("method", "postgresql");
        return true;
    }
    if level == "FATAL"
        && (message.contains("authentication failed for user")
            || message.starts_with("no pg_hba.conf entry")
            || message.starts_with("role \""))
    {
        let named = match message.strip_prefix("no pg_hba.conf entry for host ") {
            Some(rest) => rest.split('"').nth(3).map(str::to_owned),
            None => quoted(message),
        };
        Say::new("login_attempt", "login").user(named.as_deref().or(user)).ip(client).result(false).to(event);
        event.add_bool("success", false);
        event.add(
            "method",
            message.split(" authentication").next().filter(|m| !m.contains(' ')).unwrap_or("postgresql"),
        );
        event.add("failure_reason", message);
        return true;
    }
    if let Some(rest) = message.strip_prefix("disconnection: session time: ") {
        let mut who = user.map(str::to_owned);
        let mut host = client.map(str::to_owned);
        for (key, value) in crate::mapping::key_values(rest) {
            match key {
                "user" => who = Some(value.into_owned()),
                "host" => host = Some(value.into_owned()),
                _ => {}
            }
        }
        Say::new("logout", "logout").user(who.as_deref()).ip(host.as_deref()).result(true).to(event);
        let parts: Vec<f64> =
            rest.split(' ').next().unwrap_or_default().split(':').filter_map(|p| p.parse().ok()).collect();
        if let [h, m, s] = parts[..] {
            event.add_number("duration", ((h * 3600.0 + m * 60.0 + s) * 1e3).round() / 1e3);
        }
        return true;
    }
    if level == "ERROR" && message.starts_with("permission denied for ") {
        let what = message.trim_start_matches("permission denied for ");
        Say::new("permission_denied", "access").user(user).resource(what).ip(client).result(false).to(event);
        event.add("reason", message);
        return true;
    }
    false
}

/// `SESSION,1,1,READ,SELECT,TABLE,public.account,"select …",<not logged>`
fn audit(event: &mut Event<'_>, text: &str, a: &Around) -> bool {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut row = csv::StringRecord::new();
    if !matches!(reader.read_record(&mut row), Ok(true)) {
        return false;
    }
    let get = |i: usize| row.get(i).filter(|t| !t.is_empty());
    let (Some(kind), Some(id), Some(class), Some(command)) = (get(0), get(1), get(3), get(4)) else {
        return false;
    };
    let (object_type, object, statement) = (get(5), get(6), get(7).unwrap_or_default());
    let (user, client) = (a.user.as_deref(), a.client.as_deref());
    let first = command.split(' ').next().unwrap_or_default();
    let say = |event_type: &'static str| {
        Say::new(event_type, command).user(user).resource(object).ip(client).result(true)
    };
    let data = |event: &mut Event<'_>| {
        event.add("resource_type", &object_type.unwrap_or("STATEMENT").to_ascii_lowercase());
        if let Some(o) = object {
            event.add("resource_id", o);
        }
    };
    let upper = statement.to_ascii_uppercase();
    match class {
        "ROLE" if upper.contains("PASSWORD") && first == "ALTER" => {
            let who = words(statement).nth(2).map(unquoted);
            Say::new("password_change", command)
                .user(who.as_deref().or(user))
                .ip(client)
                .result(true)
                .to(event);
            event.add("method", "sql");
            if let Some(by) = user {
                event.add("requester_id", by);
            }
        }
        "ROLE" => {
            let all: Vec<&str> = words(statement).collect();
            let after = |word: &str| {
                let at = all.iter().position(|w| w.eq_ignore_ascii_case(word))?;
                all.get(at + 1).map(|w| unquoted(w))
            };
            let to =
                after("TO").or_else(|| after("FROM")).or_else(|| after("ROLE")).or_else(|| after("USER"));
            let role = if matches!(first, "GRANT" | "REVOKE") {
                all.get(1).map(|r| unquoted(r))
            } else {
                after("ROLE")
            };
            Say::new("role_assignment", command)
                .user(to.as_deref())
                .resource(object)
                .ip(client)
                .result(true)
                .to(event);
            event.add("role", role.as_deref().unwrap_or(command));
            if let Some(by) = user {
                event.add("assigned_by", by);
            }
        }
        "READ" if first == "COPY" => {
            say("data_export").to(event);
            event.add("export_type", "copy");
            if let Some(to) = upper.find(" TO ") {
                event.add("destination", statement.get(to + 4..).unwrap_or_default().trim());
            }
        }
        "READ" => {
            say("data_read").to(event);
            data(event);
        }
        "WRITE" if matches!(first, "DELETE" | "TRUNCATE") => {
            say("data_delete").to(event);
            data(event);
        }
        "DDL" if first == "DROP" => {
            say("data_delete").to(event);
            data(event);
        }
        "WRITE" | "DDL" => {
            say("data_write").to(event);
            data(event);
        }
        "FUNCTION" | "MISC" | "MISC_SET" => {
            say("api_call").to(event);
            event.add("endpoint", object.unwrap_or("postgresql"));
            event.add("method", command);
        }
        _ => return false,
    }
    event.add("statement", statement);
    event.add("audit_kind", kind);
    if let Some(rows) = get(9).and_then(|r| r.parse().ok()) {
        event.add_int("row_count", rows);
    }
    event.set_if_absent(
        Member::CorrelationId,
        &format!("pgaudit:{}:{id}", a.session.as_deref().unwrap_or("-")),
    );
    true
}

fn words(statement: &str) -> impl Iterator<Item = &str> {
    statement.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';')).filter(|w| !w.is_empty())
}

fn unquoted(word: &str) -> String {
    word.trim_matches('"').to_owned()
}
