//! PostgreSQL: what pgaudit writes (README, "Format"), and logins, logouts and denials of the server's own log.

use super::syslog::Line;
use super::{Body, Fields, Say, cut};
use crate::mapping::key_values;
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
    pid: Option<String>,
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
            pid: None,
            session: event.text(Member::SessionId).map(Cow::into_owned).or_else(|| get(&["session_id"])),
        };
        // log_line_prefix = '%m [%p] user=%u,db=%d,client=%h '. A client names its application as it likes, so what comes first
        // counts.
        let mut seen: Vec<&str> = Vec::new();
        for (key, value) in key_values(prefix) {
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let value = (!value.is_empty() && value != "[unknown]").then(|| value.into_owned());
            match key {
                "user" => a.user = value,
                "db" | "database" => a.database = value,
                "client" | "host" => a.client = value.and_then(|v| address(&v)),
                "session" => a.session = value,
                _ => {}
            }
        }
        // `alice@shop`, as %u@%d: by itself, or as `%t:%r:%u@%d:[%p]:` has it. A name may hold an `@`.
        let mut words = prefix.split([' ', ',', ':']);
        if a.user.is_none()
            && let Some((user, db)) = words.find_map(|w| w.rsplit_once('@'))
        {
            let known = |t: &str| Some(t.to_owned()).filter(|t| !matches!(&**t, "" | "[unknown]"));
            a.user = known(user);
            a.database = known(db);
        }
        if a.client.is_none() {
            a.client = prefix.split(' ').find_map(|w| {
                let at = w.find('(')?;
                let port = w[at + 1..].split_once(')')?.0;
                let before = w[..at].rsplit_once("UTC:").map_or(&w[..at], |(_, ip)| ip);
                let is_port = !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit());
                address(before).filter(|_| is_port)
            });
        }
        a.pid = prefix.split_once('[').and_then(|(_, r)| r.split_once(']')).map(|(pid, _)| pid.to_owned());
        a.pid = a
            .pid
            .filter(|p| !p.is_empty() && p.bytes().all(|c| c.is_ascii_digit()))
            .or_else(|| get(&["pid"]));
        a
    }
}

/// An address, perhaps with its port behind it: `10.0.0.5(51234)`, as `%r` writes it.
fn address(text: &str) -> Option<String> {
    let text = text.split('(').next().unwrap_or_default();
    text.parse::<std::net::IpAddr>().ok()?;
    Some(text.to_owned())
}

/// Where a prefix begins with a time: `2024-05-01 10:00:00.123 UTC`.
fn leading_time(prefix: &str) -> Option<&str> {
    let b = prefix.as_bytes();
    if b.len() < 19 || b[13] != b':' {
        return None;
    }
    let fraction = b[19..].iter().take_while(|c| **c == b'.' || c.is_ascii_digit()).count();
    let mut end = 19 + fraction;
    if b.get(end) == Some(&b' ') {
        let zone =
            b[end + 1..].iter().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-')).count();
        let letters =
            b[end + 1..].first().is_some_and(|c| c.is_ascii_uppercase() || matches!(c, b'+' | b'-'));
        if zone > 0 && zone <= 6 && letters {
            end += 1 + zone;
        }
    }
    prefix.get(..end)
}

pub(super) fn run(
    event: &mut Event<'_>,
    fields: &Fields<'_>,
    body: &Body<'_>,
    syslog: &Line<'_>,
    clock: &Clock,
) -> bool {
    // What another program says is not the server's, whatever is in it.
    if !(syslog.program.is_empty() || syslog.program.starts_with("postgres")) {
        return false;
    }
    let severity = fields.error_severity.or_else(|| body.json()?.get("error_severity"));
    let inner = body.json().and_then(|j| j.get("message")).and_then(Value::str);
    let line = inner.as_deref().unwrap_or(syslog.text);
    // Most lines of most logs end here.
    let (prefix, message, level) = match severity.and_then(Value::raw_str) {
        // jsonlog: the message is a member of its own.
        Some(b"FATAL") => ("", line, "FATAL"),
        Some(b"ERROR") => ("", line, "ERROR"),
        Some(_) => ("", line, "LOG"),
        None if line.starts_with("AUDIT: ") => ("", line, "LOG"),
        None => {
            let levels = ["LOG", "FATAL", "ERROR"];
            let found = levels.iter().filter_map(|l| line.find(&format!("{l}:  ")).map(|at| (at, *l)));
            let Some((at, level)) = found.min() else { return false };
            let before = line[..at].chars().next_back();
            // No server's prefix is longer than what is cut elsewhere.
            if at > cut(line).len() || before.is_some_and(|c| !matches!(c, ' ' | ':' | ',' | ']')) {
                return false;
            }
            (&line[..at], &line[at + level.len() + 3..], level)
        }
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
    let given = ["timestamp", "log_time"].iter().find_map(|n| body.json()?.get(n)).and_then(Value::str);
    let time = given.as_deref().or(leading_time(prefix)).and_then(|t| clock.iso(t)).or(syslog.time);
    if let Some(t) = time {
        crate::set_time(event, t);
    }
    true
}

fn said(event: &mut Event<'_>, message: &str, level: &str, a: &Around) -> bool {
    let (user, client) = (a.user.as_deref(), a.client.as_deref());
    if let Some(rest) = message.strip_prefix("AUDIT: ") {
        return audit(event, rest, a);
    }
    // `user "alice"`; a name may hold a quote.
    let named = |key: &str| {
        let (_, rest) = message.split_once(key)?;
        let rest = rest.split_once("\", ").map_or(rest, |(name, _)| name);
        Some(rest.trim_end_matches(|c| c != '"').trim_end_matches('"')).filter(|n| !n.is_empty())
    };
    if let Some(rest) = message.strip_prefix("connection authorized: ") {
        // A client names its application as it likes.
        let rest = rest.split(" application_name=").next().unwrap_or_default();
        let who = key_values(rest).find(|(key, _)| *key == "user").map(|(_, v)| v);
        Say::new("login_attempt", "login").user(who.as_deref().or(user)).ip(client).result(true).to(event);
        event.add_bool("success", true);
        event.add("method", "postgresql");
        return true;
    }
    let by_rule = message.contains("pg_hba.conf");
    if level == "FATAL"
        && (message.contains("authentication failed for user")
            || by_rule
            || message.starts_with("role \"")
            || message.starts_with("permission denied for database"))
    {
        let (who, from) = if by_rule {
            let host = message.split_once("host \"").and_then(|(_, r)| r.split_once('"')).map(|(h, _)| h);
            let user = message.split_once("user \"").map(|(_, r)| r.split("\", ").next().unwrap_or(r));
            (user.map(|u| u.trim_end_matches('"')), host)
        } else {
            (named("user \"").or_else(|| named("role \"")), None)
        };
        Say::new("login_attempt", "login").user(who.or(user)).ip(from.or(client)).result(false).to(event);
        event.add_bool("success", false);
        event.add(
            "method",
            message.split(" authentication").next().filter(|m| !m.contains(' ')).unwrap_or("postgresql"),
        );
        event.add("failure_reason", cut(message));
        return true;
    }
    if let Some(rest) = message.strip_prefix("disconnection: session time: ") {
        let find = |name: &str| key_values(rest).find(|(key, _)| *key == name).map(|(_, v)| v.into_owned());
        let (who, host) = (find("user"), find("host"));
        let (who, host) = (who.as_deref().or(user), host.as_deref().or(client));
        Say::new("logout", "logout").user(who).ip(host).result(true).to(event);
        let parts: Vec<f64> =
            rest.split(' ').next().unwrap_or_default().split(':').filter_map(|p| p.parse().ok()).collect();
        if let [h, m, s] = parts[..] {
            event.add_number("duration", ((h * 3600.0 + m * 60.0 + s) * 1e3).round() / 1e3);
        }
        return true;
    }
    if level == "ERROR" {
        // `permission denied for table account`, `permission denied to create role`, `must be owner of table account`
        let what = ["permission denied for ", "permission denied to ", "must be owner of ", "must be "]
            .iter()
            .find_map(|p| message.strip_prefix(p));
        let Some(what) = what else { return false };
        Say::new("permission_denied", "access").user(user).resource(what).ip(client).result(false).to(event);
        event.add("reason", cut(message));
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
        "ROLE" => role(event, command, first, statement, a, object),
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
    event.add("statement", cut(statement));
    event.add("audit_kind", kind);
    if let Some(rows) = get(9).and_then(|r| r.parse().ok()) {
        event.add_int("row_count", rows);
    }
    // Statements are counted by session.
    if let Some(session) = a.session.as_deref().or(a.pid.as_deref()) {
        event.set_if_absent(Member::CorrelationId, &format!("pgaudit:{session}:{id}"));
    }
    true
}

/// `GRANT admin TO mallory`, `ALTER ROLE bob SUPERUSER`, `CREATE ROLE …`, `DROP ROLE …`
fn role(
    event: &mut Event<'_>,
    command: &str,
    first: &str,
    statement: &str,
    a: &Around,
    object: Option<&str>,
) {
    const ATTRIBUTES: [&str; 8] =
        ["SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS", "INHERIT", "LOGIN", "PASSWORD"];
    let (by, client) = (a.user.as_deref(), a.client.as_deref());
    let all = tokens(cut(statement));
    let at = |word: &str| all.iter().position(|w| w.eq_ignore_ascii_case(word));
    // A list ends at a word of the grammar.
    let list = |from: usize| -> Vec<&str> {
        let ends = ["WITH", "GRANTED", "CASCADE", "RESTRICT", "TO", "FROM", "ON"];
        let rest = all.get(from..).unwrap_or_default().iter();
        let rest = rest.take_while(|w| !ends.iter().any(|e| w.eq_ignore_ascii_case(e)));
        rest.filter(|w| !w.eq_ignore_ascii_case("GROUP") && !w.eq_ignore_ascii_case("ROLE"))
            .map(|w| bare(w))
            .collect()
    };
    let assign = |event: &mut Event<'_>, to: &[&str], role: &str| {
        Say::new("role_assignment", command)
            .user(to.first().copied())
            .resource(object)
            .ip(client)
            .result(true)
            .assigning(event, role, by);
        if to.len() > 1 {
            crate::add_list(event, "assigned_to", to.iter().copied());
        }
    };
    // `ALTER ROLE bob …`: the name, and what is said of it.
    let name = all.get(2).map_or("", |w| bare(w));
    let said: Vec<String> = all
        .iter()
        .skip(3)
        .map(|w| w.to_ascii_uppercase())
        .filter(|w| {
            ATTRIBUTES.contains(&w.strip_prefix("NO").unwrap_or(w)) || ATTRIBUTES.contains(&w.as_str())
        })
        .collect();
    let changes = |event: &mut Event<'_>, kind: &'static str| {
        let resource = format!("role/{name}");
        Say::new(kind, command).user(by).resource(resource.as_str()).ip(client).result(true).to(event);
        event.add("resource_type", "role");
        event.add("resource_id", name);
    };
    match first {
        "GRANT" | "REVOKE" => {
            let to =
                at(if first == "GRANT" { "TO" } else { "FROM" }).map(|i| list(i + 1)).unwrap_or_default();
            assign(event, &to, &list(1).join(","));
        }
        "DROP" => changes(event, "data_delete"),
        "ALTER" if said == ["PASSWORD"] => {
            Say::new("password_change", command)
                .user(name)
                .ip(client)
                .result(true)
                .changing(event, "sql", by);
        }
        "ALTER" if said.is_empty() => changes(event, "data_write"),
        "CREATE" if at("IN").is_some_and(|i| i > 2) => {
            // `IN ROLE admin, auditor`
            let roles = at("IN").map(|i| list(i + 1)).unwrap_or_default();
            let roles: Vec<&str> = roles.into_iter().chain(said.iter().map(String::as_str)).collect();
            assign(event, &[name], &roles.join(","));
        }
        _ => assign(event, &[name], &if said.is_empty() { command.to_owned() } else { said.join(",") }),
    }
}

/// The words of a statement; what stands between quotes is one.
fn tokens(statement: &str) -> Vec<&str> {
    let (mut all, mut from, mut quote) = (Vec::new(), None, None);
    for (at, c) in statement.char_indices() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c.is_whitespace() || matches!(c, ',' | ';') => {
                all.extend(from.take().and_then(|f: usize| statement.get(f..at)));
                continue;
            }
            None => quote = matches!(c, '"' | '\'').then_some(c),
        }
        from.get_or_insert(at);
    }
    all.extend(from.and_then(|f| statement.get(f..)));
    all
}

/// A name without the quotes around it.
fn bare(word: &str) -> &str {
    word.trim_matches('"')
}
