//! What sshd, sudo, su, PAM, useradd and passwd say, by syslog or the journal.

use super::{Body, Fields, Say};
use crate::mapping::key_values;
use crate::times::{Clock, Read};
use waxseal_filter_abi::event::Object;
use waxseal_filter_abi::{Event, Value};
use waxseal_trail::record::Member;

/// A line with what stands before it.
struct Line<'l> {
    host: Option<&'l str>,
    program: &'l str,
    pid: Option<&'l str>,
    text: &'l str,
    time: Option<Read>,
}

/// `Dec 10 06:55:46 host sshd[24200]: text` (RFC 3164), `<34>1 2003-10-11T22:14:15.003Z host app pid id - text` (RFC 5424), or the
/// text alone.
fn split<'l>(line: &'l str, clock: &Clock, event: &Event<'_>) -> Option<Line<'l>> {
    let rest = match line.strip_prefix('<') {
        Some(r) => {
            let (pri, rest) = r.split_once('>')?;
            if pri.is_empty() || pri.len() > 3 || !pri.bytes().all(|c| c.is_ascii_digit()) {
                return None;
            }
            rest
        }
        None => line,
    };
    if let Some(new) = rest.strip_prefix("1 ") {
        let mut words = new.splitn(6, ' ');
        let (time, host, program, pid, _id, rest) =
            (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
        let text = match rest.strip_prefix('-') {
            Some(t) => t,
            None => &rest[structured(rest)?..],
        };
        let some = |t: &'l str| (t != "-").then_some(t);
        let text = text.trim_start().trim_start_matches('\u{feff}');
        return Some(Line { host: some(host), program, pid: some(pid), text, time: clock.iso(time) });
    }
    let (time, rest) = match clock.syslog(rest, event.time()) {
        Some((time, rest)) => (time, rest),
        None => {
            let (first, rest) = rest.split_once(' ')?;
            (clock.iso(first)?, rest)
        }
    };
    let (host, rest) = rest.split_once(' ')?;
    let (program, pid, text) = tagged(rest)?;
    Some(Line { host: Some(host), program, pid, text, time: Some(time) })
}

/// Where structured data (RFC 5424 section 6.3) ends.
fn structured(text: &str) -> Option<usize> {
    let b = text.as_bytes();
    let (mut at, mut quoted) = (0, false);
    while at < b.len() {
        match b[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b']' if !quoted && b.get(at + 1) != Some(&b'[') => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// `sshd[24200]: text`
fn tagged(rest: &str) -> Option<(&str, Option<&str>, &str)> {
    let (tag, text) = rest.split_once(':')?;
    if tag.is_empty() || tag.len() > 64 || tag.contains(' ') {
        return None;
    }
    let (program, pid) = match tag.strip_suffix(']').and_then(|t| t.split_once('[')) {
        Some((program, pid)) => (program, Some(pid)),
        None => (tag, None),
    };
    Some((program, pid, text.trim_start()))
}

pub(super) fn run(event: &mut Event<'_>, fields: &Fields<'_>, body: &Body<'_>, clock: &Clock) -> bool {
    let given = fields.program.and_then(Value::str);
    let pid = fields.pid.and_then(Value::word);
    let line = body.line();
    if line.is_empty() {
        return false;
    }
    let found = match given.as_deref() {
        Some(program) => Line { host: None, program, pid: pid.as_deref(), text: line, time: None },
        None => match split(line, clock, event) {
            Some(l) => l,
            None => return false,
        },
    };
    let program = found.program.rsplit('/').next().unwrap_or_default();
    if !said(event, program, found.text) {
        return false;
    }
    let host = fields.host.and_then(Value::str);
    if let Some(h) = found.host.filter(|_| host.is_none()) {
        event.add("host_name", h);
    }
    // The process that serves a session tells its lines from all others of the host.
    if let Some(pid) = found.pid {
        let host = host.as_deref().or(found.host).unwrap_or("-");
        event.set_if_absent(Member::CorrelationId, &format!("{host}:{program}:{pid}"));
    }
    if let Some(time) = found.time {
        crate::set_time(event, time);
    }
    true
}

fn said(event: &mut Event<'_>, program: &str, text: &str) -> bool {
    if let Some(rest) = text.strip_prefix("message repeated ") {
        let Some((times, inner)) = rest.split_once(" times: [ ") else { return false };
        let inner = inner.strip_suffix(']').unwrap_or(inner);
        if !said(event, program, inner.trim_end()) {
            return false;
        }
        if let Ok(n) = times.parse() {
            event.add_int("repeat_count", n);
        }
        return true;
    }
    if text.starts_with("pam_") || text.starts_with("PAM ") {
        return pam(event, program, text);
    }
    match program {
        "sshd" | "sshd-session" | "sshd-auth" => sshd(event, text),
        "sudo" => sudo(event, text),
        "su" => su(event, text),
        "useradd" | "usermod" | "userdel" | "groupadd" | "groupmod" | "groupdel" | "passwd" | "chpasswd"
        | "gpasswd" | "chage" | "chsh" | "chfn" | "adduser" => accounts(event, program, text),
        _ => false,
    }
}

fn login(
    event: &mut Event<'_>,
    user: Option<&str>,
    ip: Option<&str>,
    ok: bool,
    method: &str,
    reason: &str,
) -> bool {
    Say::new("login_attempt", "login").user(user).ip(ip).result(ok).to(event);
    event.add_bool("success", ok);
    if !method.is_empty() {
        event.add("method", method);
    }
    if !reason.is_empty() {
        event.add("failure_reason", reason);
    }
    true
}

/// `<user> from <address> port <n> …`; a user may hold blanks, so the last ` from ` counts.
fn user_from(text: &str) -> (&str, Option<&str>) {
    match text.rfind(" from ") {
        Some(at) => (&text[..at], text[at + 6..].split(' ').next()),
        None => match text.strip_prefix("from ") {
            Some(rest) => ("", rest.split(' ').next()),
            None => (text.split(" port ").next().unwrap_or_default(), None),
        },
    }
}

/// `[invalid user |authenticating user ]<user> <address> port <n> …`
fn user_at(text: &str) -> Option<(&str, &str, &str)> {
    let (what, rest) = match () {
        () if text.starts_with("invalid user ") => text.split_at(13),
        () if text.starts_with("authenticating user ") => text.split_at(20),
        () if text.starts_with("user ") => text.split_at(5),
        () => return None,
    };
    let rest = rest.split(" port ").next()?;
    let (user, ip) = rest.rsplit_once(' ').unwrap_or(("", rest));
    Some((what.trim_end(), user, ip))
}

fn sshd(event: &mut Event<'_>, text: &str) -> bool {
    let text = text.strip_prefix("error: ").or_else(|| text.strip_prefix("fatal: ")).unwrap_or(text);
    if let Some(rest) = text.strip_prefix("Accepted ") {
        let Some((method, rest)) = rest.split_once(" for ") else { return false };
        let (user, ip) = user_from(rest);
        return login(event, Some(user), ip, true, method, "");
    }
    if let Some(rest) = text.strip_prefix("Failed ") {
        let Some((method, rest)) = rest.split_once(" for ") else { return false };
        let (invalid, rest) = match rest.strip_prefix("invalid user ") {
            Some(r) => (true, r),
            None => (false, rest),
        };
        let (user, ip) = user_from(rest);
        let reason = if invalid { "invalid user".into() } else { format!("bad {method}") };
        return login(event, Some(user), ip, false, method, &reason);
    }
    if let Some(rest) = text.strip_prefix("Invalid user ").or_else(|| text.strip_prefix("Illegal user ")) {
        let (user, ip) = user_from(rest);
        return login(event, Some(user), ip, false, "", "invalid user");
    }
    if let Some(rest) = text.strip_prefix("input_userauth_request: invalid user ") {
        let user = rest.trim_end_matches(" [preauth]");
        return login(event, Some(user), None, false, "", "invalid user");
    }
    if let Some(rest) = text.strip_prefix("maximum authentication attempts exceeded for ") {
        let (user, ip) = user_from(rest.strip_prefix("invalid user ").unwrap_or(rest));
        return login(event, Some(user), ip, false, "", "too many attempts");
    }
    if let Some(rest) = text.strip_prefix("Disconnecting")
        && let Some(at) = rest.find("Too many authentication failures")
    {
        let who = rest[..at].trim_start_matches([':', ' ']);
        let (user, ip) = match user_at(who) {
            Some((_, user, ip)) => (user, Some(ip.trim_end_matches([':', ' ']))),
            None => {
                let after = rest[at..].split(" for ").nth(1).unwrap_or_default();
                (after.trim_end_matches(" [preauth]"), None)
            }
        };
        return login(event, Some(user), ip, false, "", "too many attempts");
    }
    if let Some(rest) = text.strip_prefix("User ") {
        let Some((who, reason)) = rest.split_once(" not allowed because ") else { return false };
        let (user, ip) = user_from(who);
        return login(event, Some(user), ip, false, "", reason);
    }
    if let Some(rest) = text.strip_prefix("Received disconnect from ") {
        // What a client says that gave up.
        let given_up = rest.contains("No more user authentication methods") || rest.contains("Auth fail");
        let ip = rest.split([' ', ':']).next();
        let ip = ip.filter(|i| i.contains('.')).or_else(|| rest.split(": ").next()?.split(' ').next());
        return given_up && login(event, None, ip, false, "", "no authentication method left");
    }
    for (prefix, closed) in
        [("Connection closed by ", true), ("Connection reset by ", true), ("Disconnected from ", false)]
    {
        let Some(rest) = text.strip_prefix(prefix) else { continue };
        let Some((what, user, ip)) = user_at(rest) else { return false };
        return if what == "user" && !closed {
            Say::new("logout", "logout").user(user).ip(ip).result(true).to(event);
            true
        } else {
            let reason = if what == "invalid user" {
                "invalid user"
            } else {
                "connection closed before authentication"
            };
            login(event, Some(user), Some(ip), false, "", reason)
        };
    }
    let odd = [
        ("reverse mapping checking getaddrinfo for ", "reverse_mapping_failed"),
        ("Did not receive identification string from ", "no_identification"),
        ("Bad protocol version identification ", "bad_protocol"),
        ("banner exchange: ", "bad_protocol"),
        ("Unable to negotiate with ", "no_common_algorithm"),
    ];
    for (prefix, kind) in odd {
        let Some(rest) = text.strip_prefix(prefix) else { continue };
        let inside = rest.split_once('[').and_then(|(_, r)| r.split_once(']')).map(|(ip, _)| ip);
        let ip = inside.filter(|i| *i != "preauth").or_else(|| {
            let mut words = rest.split(' ').map(|w| w.trim_end_matches(':'));
            words.find(|w| w.parse::<std::net::IpAddr>().is_ok())
        });
        Say::new("suspicious_activity", "connect").ip(ip).to(event);
        event.add("type", kind);
        event.add("details", text);
        return true;
    }
    false
}

/// `pam_unix(sshd:auth): …`, and what sshd says for PAM.
fn pam(event: &mut Event<'_>, program: &str, text: &str) -> bool {
    if let Some(rest) = text.strip_prefix("PAM ") {
        if let Some((n, details)) = rest.split_once(" more authentication failure") {
            let count = n.parse().unwrap_or(1);
            let done = pam_failure(event, details, program);
            event.add_int("repeat_count", count);
            return done;
        }
        if rest.contains("ignoring max retries") {
            Say::new("suspicious_activity", "login").to(event);
            event.add("type", "too_many_attempts");
            event.add("details", text);
            return true;
        }
        return false;
    }
    let Some((head, text)) = text.split_once("): ") else { return false };
    let Some((module, service)) = head.split_once('(') else { return false };
    let (service, kind) = service.split_once(':').unwrap_or((service, ""));
    match kind {
        "session" => {
            if let Some(rest) = text.strip_prefix("session opened for user ") {
                let user = rest.split([' ', '(']).next();
                return login(event, user, None, true, service, "");
            }
            let Some(rest) = text.strip_prefix("session closed for user ") else { return false };
            Say::new("logout", "logout").user(rest.split([' ', '(']).next()).result(true).to(event);
            true
        }
        "chauthtok" => {
            let Some(rest) = text.strip_prefix("password changed for ") else { return false };
            Say::new("password_change", "change_password").user(rest.trim()).result(true).to(event);
            event.add("method", service);
            true
        }
        _ if text.starts_with("authentication failure") => pam_failure(event, text, service),
        _ if text.starts_with("check pass; user unknown") => {
            login(event, None, None, false, service, "user unknown")
        }
        _ if text.starts_with("Accepted ") && module.contains("authenticator") => {
            let user = text.split(" for ").nth(1).map(str::trim);
            event.add_bool("mfa_used", true);
            login(event, user, None, true, module, "")
        }
        _ if module == "pam_tally2" || module == "pam_faillock" => {
            let user = text.split("user ").nth(1).and_then(|t| t.split([' ', '(', ',']).next());
            login(event, user, None, false, service, text)
        }
        _ => false,
    }
}

fn pam_failure(event: &mut Event<'_>, text: &str, service: &str) -> bool {
    let (mut user, mut ip, mut ruser) = (None, None, None);
    for (key, value) in key_values(text) {
        match key {
            "user" if !value.is_empty() => user = Some(value),
            "rhost" if !value.is_empty() => ip = Some(value),
            "ruser" if !value.is_empty() => ruser = Some(value),
            _ => {}
        }
    }
    if let Some(r) = ruser {
        event.add("requester_id", &r);
    }
    login(event, user.as_deref(), ip.as_deref(), false, service, "authentication failure")
}

/// `alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/bin/ls` (sudoers(5), "log format")
fn sudo(event: &mut Event<'_>, text: &str) -> bool {
    let Some((user, rest)) = text.split_once(" : ") else { return false };
    let user = user.trim();
    let mut context = Object::default();
    let mut reason = None;
    let mut command = None;
    let mut parts = rest;
    loop {
        // A command may hold ` ; `.
        if let Some(c) = parts.strip_prefix("COMMAND=") {
            command = Some(c);
            break;
        }
        let (part, after) = parts.split_once(" ; ").unwrap_or((parts, ""));
        match part.split_once('=') {
            Some(("TTY", v)) => drop(context.text("tty", v)),
            Some(("PWD", v)) => drop(context.text("pwd", v)),
            Some(("USER", v)) => drop(context.text("run_as", v)),
            Some(("GROUP", v)) => drop(context.text("run_as_group", v)),
            Some(("ENV", v)) => drop(context.text("env", v)),
            Some(_) => {}
            None => reason = Some(part.trim()),
        }
        if after.is_empty() {
            break;
        }
        parts = after;
    }
    let Some(command) = command else { return false };
    let kind = if reason.is_some() { "permission_denied" } else { "permission_granted" };
    Say::new(kind, "sudo").user(user).resource(command).result(reason.is_none()).to(event);
    event.add("permission", "sudo");
    if let Some(r) = reason {
        event.add("reason", r);
    }
    event.add_json("context", |out| context.write(out));
    true
}

fn su(event: &mut Event<'_>, text: &str) -> bool {
    let (ok, to, by) = if let Some(rest) = text.strip_prefix("(to ") {
        let Some((to, rest)) = rest.split_once(") ") else { return false };
        (true, to, rest.split(' ').next().unwrap_or_default())
    } else if let Some(rest) = text.strip_prefix("FAILED SU (to ") {
        let Some((to, rest)) = rest.split_once(") ") else { return false };
        (false, to, rest.split(' ').next().unwrap_or_default())
    } else if let Some(rest) = text.strip_prefix("Successful su for ") {
        let Some((to, by)) = rest.split_once(" by ") else { return false };
        (true, to, by)
    } else if let Some(rest) = text.strip_prefix("FAILED su for ") {
        let Some((to, by)) = rest.split_once(" by ") else { return false };
        (false, to, by)
    } else {
        let ok = match text.as_bytes().first() {
            Some(b'+') => true,
            Some(b'-') => false,
            _ => return false,
        };
        let Some((by, to)) = text.rsplit(' ').next().and_then(|t| t.split_once(':')) else { return false };
        (ok, to, by)
    };
    let kind = if ok { "permission_granted" } else { "permission_denied" };
    Say::new(kind, "su").user(by.trim()).resource(to.trim()).result(ok).to(event);
    event.add("permission", "su");
    if !ok {
        event.add("reason", "authentication failure");
    }
    true
}

/// The name between quotes.
fn between(text: &str) -> Option<&str> {
    text.split('\'').nth(1)
}

fn accounts(event: &mut Event<'_>, program: &str, text: &str) -> bool {
    let changed = |event: &mut Event<'_>, kind: &str, action: &str, what: &str, id: &str| {
        let who = if what == "user_account" { Some(id) } else { None };
        let resource = format!("{what}/{id}");
        Say::new(kind, action).user(who).resource(resource.as_str()).result(true).to(event);
        event.add("resource_type", what);
        event.add("resource_id", id);
        true
    };
    for (prefix, what) in [("new user: name=", "user_account"), ("new group: name=", "group")] {
        if let Some(rest) = text.strip_prefix(prefix) {
            let id = rest.split(',').next().unwrap_or_default();
            let mut new = Object::default();
            for (key, value) in key_values(text) {
                new.text(key.to_lowercase(), &value);
            }
            event.add_json("new_values", |out| new.write(out));
            return changed(event, "data_write", "create", what, id);
        }
    }
    for (prefix, what) in [
        ("delete user '", "user_account"),
        ("delete group '", "group"),
        ("removed group '", "group"),
        ("group '", "group"),
    ] {
        if text.starts_with(prefix)
            && (prefix != "group '" || text.contains("removed"))
            && let Some(id) = between(text)
        {
            return changed(event, "data_delete", "delete", what, id);
        }
    }
    if let Some(rest) = text.strip_prefix("add '")
        && let Some((user, rest)) = rest.split_once("' to ")
        && let Some(group) = between(rest)
    {
        Say::new("role_assignment", "add_to_group").user(user).resource(group).result(true).to(event);
        event.add("role", group);
        return true;
    }
    // `password for 'bob' changed by 'root'`, `password changed for bob`
    if let Some(rest) = text.strip_prefix("password for ") {
        let mut names = rest.split('\'');
        let user = names.nth(1);
        Say::new("password_change", "change_password").user(user).result(true).to(event);
        event.add("method", program);
        if let Some(by) = names.nth(1) {
            event.add("requester_id", by);
        }
        return true;
    }
    if let Some(user) = text.strip_prefix("password changed for ") {
        Say::new("password_change", "change_password").user(user.trim()).result(true).to(event);
        event.add("method", program);
        return true;
    }
    if let Some(rest) = text.strip_prefix("change user '") {
        let Some((user, what)) = rest.split_once('\'') else { return false };
        if what.contains("password") {
            Say::new("password_change", "change_password").user(user).result(true).to(event);
            event.add("method", program);
            return true;
        }
        crate::add_list(event, "fields_modified", what.split_whitespace().take(1));
        return changed(event, "data_write", "update", "user_account", user);
    }
    if let Some(user) = text.strip_prefix("changed password expiry for ") {
        crate::add_list(event, "fields_modified", std::iter::once("password_expiry"));
        return changed(event, "data_write", "update", "user_account", user.trim());
    }
    false
}
