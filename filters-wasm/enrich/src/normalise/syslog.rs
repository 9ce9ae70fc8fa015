//! What sshd, sudo, su, PAM, useradd and passwd say, by syslog or the journal.

use super::{Fields, Say, cut};
use crate::mapping::key_values;
use crate::times::{Clock, Read};
use waxseal_filter_abi::event::Object;
use waxseal_filter_abi::{Event, Value};
use waxseal_trail::record::Member;
use waxseal_trail::time::Time;

/// A line with what stands before it.
pub(crate) struct Line<'l> {
    host: Option<&'l str>,
    /// Who says it; empty if nobody says who.
    pub(crate) program: &'l str,
    pid: Option<&'l str>,
    /// What it says.
    pub(crate) text: &'l str,
    pub(crate) time: Option<Read>,
}

impl<'l> Line<'l> {
    /// Of a line whose program the shipper has said, or as syslog writes it, or of neither.
    pub(super) fn of(
        line: &'l str,
        program: Option<&'l str>,
        pid: Option<&'l str>,
        clock: &Clock,
        near: Time,
    ) -> Line<'l> {
        match program {
            Some(p) => match split(line, clock, near).filter(|l| name_of(l.program) == name_of(p)) {
                // Whoever said the program has left the line as it was.
                Some(l) => Line { program: name_of(p), ..l },
                None => Line { host: None, program: name_of(p), pid, text: line, time: None },
            },
            None => match split(line, clock, near) {
                Some(l) => Line { program: name_of(l.program), ..l },
                None => Line { host: None, program: "", pid: None, text: line, time: None },
            },
        }
    }
}

/// A program's name without its path.
fn name_of(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or_default()
}

/// `Dec 10 06:55:46 host sshd[24200]: text` (RFC 3164), `<34>1 2003-10-11T22:14:15.003Z host app pid id - text` (RFC 5424).
fn split<'l>(line: &'l str, clock: &Clock, near: Time) -> Option<Line<'l>> {
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
    let (time, rest) = match clock.syslog(rest, near) {
        Some((time, rest)) => (time, rest),
        None => {
            let (first, rest) = rest.split_once(' ')?;
            (clock.iso(first)?, rest)
        }
    };
    let (host, rest) = rest.split_once(' ')?;
    let (mut program, mut pid, mut text) = tagged(rest)?;
    if program.contains('|') {
        // `auth|security:info sshd[1]: …`, as AIX writes it.
        (program, pid, text) = tagged(text.split_once(' ')?.1)?;
    }
    // `[ID 800047 auth.info] …`, as Solaris writes it.
    if let Some((_, rest)) = text.strip_prefix("[ID ").and_then(|r| r.split_once("] ")) {
        text = rest;
    }
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

pub(super) fn run(event: &mut Event<'_>, fields: &Fields<'_>, found: &Line<'_>) -> bool {
    let program = found.program;
    if program.is_empty() || !said(event, program, found.text) {
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
    // `sshd(pam_google_authenticator)[99]: Accepted …`, `sshd(pam_unix)[19939]: authentication failure; …`
    if let Some((service, module)) = program.split_once('(')
        && let Some(module) = module.strip_suffix(')').filter(|m| m.starts_with("pam_"))
    {
        let kind = match () {
            () if text.starts_with("session ") => "session",
            () if text.starts_with("password changed") => "chauthtok",
            () => "auth",
        };
        return pam_says(event, module, service, kind, text);
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

/// `<user> from <address> port <n> …`. A user who tries may be called anything, so of several such places the last is the
/// server's own; of one who is known, and whose key may be called anything, the first.
fn user_from(text: &str, known: bool) -> (&str, Option<&str>) {
    let places = text.match_indices(" from ").map(|(at, _)| at).filter(|at| {
        let mut words = text[at + 6..].split(' ');
        words.next().is_some_and(is_address) && words.next() == Some("port")
    });
    let mut places = places.peekable();
    let at = if known { places.peek().copied() } else { places.last() };
    match at.or_else(|| text.rfind(" from ")) {
        Some(at) => (&text[..at], text[at + 6..].split(' ').next()),
        None => match text.strip_prefix("from ") {
            Some(rest) => ("", rest.split(' ').next()),
            None => {
                let end = text.find(" port ").or_else(|| text.find(" [preauth]")).unwrap_or(text.len());
                (&text[..end], None)
            }
        },
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

/// `[invalid user |authenticating user ]<user> <address> port <n> …`
fn user_at(text: &str) -> Option<(&str, &str, &str)> {
    let (what, rest) = match () {
        () if text.starts_with("invalid user ") => text.split_at(13),
        () if text.starts_with("authenticating user ") => text.split_at(20),
        () if text.starts_with("user ") => text.split_at(5),
        () => return None,
    };
    // The last is the server's own.
    let at = rest.match_indices(" port ").map(|(at, _)| at);
    let at = at.filter(|at| rest[..*at].rsplit(' ').next().is_some_and(is_address)).last();
    let rest = &rest[..at.or_else(|| rest.find(" port ")).unwrap_or(rest.len())];
    let (user, ip) = rest.rsplit_once(' ').unwrap_or(("", rest));
    Some((what.trim_end(), user, ip))
}

fn sshd(event: &mut Event<'_>, text: &str) -> bool {
    let text = text.strip_prefix("error: ").or_else(|| text.strip_prefix("fatal: ")).unwrap_or(text);
    if let Some(rest) = text.strip_prefix("Accepted ") {
        let Some((method, rest)) = rest.split_once(" for ") else { return false };
        // That a certificate is good, is not yet a login.
        if method.contains(' ') {
            return false;
        }
        let (user, ip) = user_from(rest, true);
        return login(event, Some(user), ip, true, method, "");
    }
    if let Some(rest) = text.strip_prefix("Failed ") {
        let Some((method, rest)) = rest.split_once(" for ") else { return false };
        let (invalid, rest) = match rest.strip_prefix("invalid user ") {
            Some(r) => (true, r),
            None => (false, rest),
        };
        let (user, ip) = user_from(rest, false);
        let reason = if invalid { "invalid user".into() } else { format!("bad {method}") };
        return login(event, Some(user), ip, false, method, &reason);
    }
    if let Some(rest) = text.strip_prefix("Invalid user ").or_else(|| text.strip_prefix("Illegal user ")) {
        let (user, ip) = user_from(rest, false);
        return login(event, Some(user), ip, false, "", "invalid user");
    }
    if let Some(rest) = text.strip_prefix("input_userauth_request: invalid user ") {
        let user = rest.trim_end_matches(" [preauth]");
        return login(event, Some(user), None, false, "", "invalid user");
    }
    if let Some(rest) = text.strip_prefix("maximum authentication attempts exceeded for ") {
        let (user, ip) = user_from(rest.strip_prefix("invalid user ").unwrap_or(rest), false);
        return login(event, Some(user), ip, false, "", "too many attempts");
    }
    if let Some(rest) = text.strip_prefix("ROOT LOGIN REFUSED FROM ") {
        return login(event, Some("root"), rest.split(' ').next(), false, "", "root login refused");
    }
    if let Some(rest) = text.strip_prefix("Timeout before authentication for ") {
        let rest = rest.strip_prefix("connection from ").unwrap_or(rest);
        return login(event, None, rest.split([' ', ',']).next(), false, "", "timeout before authentication");
    }
    if let Some((who, why)) = text.strip_prefix("Disconnecting ").and_then(|r| r.split_once(": Change of "))
        && let Some((_, user, ip)) = user_at(who)
    {
        let why = format!("change of {}", why.split(':').next().unwrap_or_default());
        return login(event, Some(user), Some(ip), false, "", &why);
    }
    if let Some(rest) = text.strip_prefix("Disconnecting")
        && let Some(at) = rest.find("Too many authentication failures")
    {
        let who = rest[..at].trim_start_matches([':', ' ']);
        let (user, ip) = match user_at(who) {
            Some((_, user, ip)) => (user, Some(ip.trim_end_matches([':', ' ']))),
            None => user_from(rest[at..].split_once(" for ").map_or("", |(_, who)| who), false),
        };
        return login(event, Some(user), ip, false, "", "too many attempts");
    }
    if let Some(rest) = text.strip_prefix("User ") {
        let Some((who, reason)) = rest.split_once(" not allowed because ") else { return false };
        let (user, ip) = user_from(who, false);
        return login(event, Some(user), ip, false, "", reason);
    }
    // `PAM: Authentication failure for [illegal user ]root from 192.0.2.4`
    if let Some(rest) = text.strip_prefix("PAM: ") {
        let Some((reason, who)) = rest.split_once(" for ") else { return false };
        let who = ["illegal user ", "invalid user "].iter().find_map(|p| who.strip_prefix(p)).unwrap_or(who);
        let (user, ip) = user_from(who, false);
        return login(event, Some(user), ip, false, "pam", reason);
    }
    // `Access denied for user alice by PAM account configuration [preauth]`
    if let Some(rest) = text.strip_prefix("Access denied for user ") {
        let (user, reason) = rest.rsplit_once(" by ").unwrap_or((rest, "access denied"));
        return login(event, Some(user), None, false, "", reason.trim_end_matches(" [preauth]"));
    }
    if let Some(reason) = text.strip_prefix("Certificate invalid: ") {
        return login(event, None, None, false, "publickey", reason);
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
        ("Address ", "reverse_mapping_failed"),
        ("drop connection ", "connection_dropped"),
        ("Did not receive identification string from ", "no_identification"),
        ("Bad protocol version identification ", "bad_protocol"),
        ("banner exchange: ", "bad_protocol"),
        ("Unable to negotiate with ", "no_common_algorithm"),
    ];
    for (prefix, kind) in odd {
        let Some(rest) = text.strip_prefix(prefix) else { continue };
        if prefix == "Address " && !rest.contains(" map") {
            continue;
        }
        let rest = rest.trim_end_matches(" [preauth]");
        let rest = if prefix.starts_with("drop") { rest.split(" on ").next().unwrap_or(rest) } else { rest };
        let inside = rest.rsplit_once('[').and_then(|(_, r)| r.split_once(']')).map(|(ip, _)| ip);
        // What a client sent stands before the address that it came from.
        let ip = inside.filter(|i| is_address(i)).or_else(|| {
            let after = rest.rsplit_once(" from ").map_or(rest, |(_, r)| r);
            after.split(' ').map(|w| w.trim_end_matches(':')).find(|w| is_address(w))
        });
        Say::new("suspicious_activity", "connect").ip(ip).to(event);
        event.add("type", kind);
        event.add("details", cut(text));
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
            event.add("details", cut(text));
            return true;
        }
        return false;
    }
    let Some((head, text)) = text.split_once("): ") else { return false };
    let Some((module, service)) = head.split_once('(') else { return false };
    let (service, kind) = service.split_once(':').unwrap_or((service, ""));
    pam_says(event, module, service, kind, text)
}

fn pam_says(event: &mut Event<'_>, module: &str, service: &str, kind: &str, text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    match kind {
        // What runs by itself logs nobody in, and who becomes somebody else is logged in already.
        "session" if matches!(service, "cron" | "crond" | "atd" | "systemd-user") => false,
        "session" if is_elevation(service) => {
            let Some(rest) = text.strip_prefix("session opened for user ") else { return false };
            let (user, by) = rest.split_once(" by ").unwrap_or((rest, ""));
            let name = |t| str::split(t, ['(', ' ']).next();
            let by = name(by).filter(|b| !b.is_empty());
            Say::new("permission_granted", "open_session")
                .user(by)
                .resource(name(user))
                .result(true)
                .to(event);
            event.add("permission", service);
            true
        }
        "session" => {
            if let Some(rest) = text.strip_prefix("session opened for user ") {
                let user = rest.split([' ', '(']).next();
                return login(event, user, None, true, service, "");
            }
            let Some(rest) = text.strip_prefix("session closed for user ") else { return false };
            Say::new("logout", "logout").user(rest.split([' ', '(']).next()).result(true).to(event);
            true
        }
        "chauthtok" if text.starts_with("authentication failure") => {
            let user = pam_fields(text).user;
            Say::new("password_change", "change_password").user(user).result(false).to(event);
            event.add("method", service);
            true
        }
        "chauthtok" => {
            let Some(rest) = text.strip_prefix("password changed for ") else { return false };
            Say::new("password_change", "change_password").user(rest.trim()).by(None).result(true).to(event);
            event.add("method", service);
            true
        }
        _ if text.starts_with("authentication failure") => pam_failure(event, text, service),
        _ if text.starts_with("check pass; user unknown") => {
            login(event, None, None, false, service, "user unknown")
        }
        _ if text.starts_with("authentication success") => {
            let f = pam_fields(text);
            login(event, f.user, f.rhost, true, service, "")
        }
        // `received for user alice: 7 (Authentication failure)`
        _ if text.starts_with("received for user ") => {
            let rest = &text["received for user ".len()..];
            let (user, why) = rest.split_once(": ").unwrap_or((rest, ""));
            let why = why.split_once('(').and_then(|(_, r)| r.strip_suffix(')')).unwrap_or(why);
            login(event, Some(user), None, false, service, why)
        }
        // `auth could not identify password for [alice]`
        _ if text.contains("could not identify password for [") => {
            let user = text.split_once('[').and_then(|(_, r)| r.split_once(']')).map(|(u, _)| u);
            login(event, user, None, false, service, "no password")
        }
        // `user alice authenticated as alice@EXAMPLE.COM`, `user 'alice' granted access`
        _ if text.starts_with("user ")
            && (text.contains(" authenticated as ") || text.ends_with(" granted access")) =>
        {
            let user = text["user ".len()..].split(' ').next().map(|u| u.trim_matches('\''));
            login(event, user, None, true, service, "")
        }
        _ if module.contains("authenticator") => authenticator(event, module, text),
        // `access denied for user `bob' from `192.0.2.4'`, `Access denied for user alice: 6 (Permission denied)`
        _ if lower.starts_with("access denied for user ") => {
            let rest = &text["access denied for user ".len()..];
            let quoted = |t: &str| t.split(['`', '\'']).nth(1).map(str::to_owned);
            let (user, from) = match rest.rsplit_once(" from ") {
                Some((user, from)) => (quoted(user).unwrap_or_else(|| user.into()), quoted(from)),
                None => (rest.split(':').next().unwrap_or_default().trim().into(), None),
            };
            login(event, Some(&user), from.as_deref(), false, service, "access denied")
        }
        "account" if text.starts_with("account ") && text.contains(" has expired") => {
            login(event, text.split(' ').nth(1), None, false, service, "account expired")
        }
        _ if module == "pam_tally2" || module == "pam_faillock" => {
            let user = text.split("user ").nth(1).and_then(|t| t.split([' ', '(', ',']).next());
            login(event, user, None, false, service, cut(text))
        }
        _ => false,
    }
}

/// Services by which somebody who is logged in becomes somebody else.
fn is_elevation(service: &str) -> bool {
    matches!(
        service,
        "sudo" | "sudo-i" | "su" | "su-l" | "runuser" | "runuser-l" | "polkit-1" | "pkexec" | "doas"
    )
}

/// A second factor.
fn authenticator(event: &mut Event<'_>, module: &str, text: &str) -> bool {
    let user = text.rsplit_once(" for ").map(|(_, user)| user.trim());
    let ok = text.starts_with("Accepted ");
    if !ok && !text.starts_with("Invalid verification code") && !text.starts_with("Failed ") {
        return false;
    }
    event.add_bool("mfa_used", true);
    login(event, user, None, ok, module, if ok { "" } else { "invalid verification code" })
}

#[derive(Default)]
struct PamFields<'t> {
    user: Option<&'t str>,
    rhost: Option<&'t str>,
    ruser: Option<&'t str>,
}

/// `authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.4  user=root`: a user who tries may be called
/// anything, and stands last.
fn pam_fields(text: &str) -> PamFields<'_> {
    let (rest, user) = match text.split_once(" user=") {
        Some((rest, user)) => (rest, Some(user.trim_end())),
        None => (text, None),
    };
    let get = |name: &str| {
        let found = rest.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        found.filter(|v| !v.is_empty())
    };
    PamFields { user: user.filter(|u| !u.is_empty()), rhost: get("rhost"), ruser: get("ruser") }
}

fn pam_failure(event: &mut Event<'_>, text: &str, service: &str) -> bool {
    let f = pam_fields(text);
    if is_elevation(service) && service != "sudo" && f.ruser.is_some() {
        Say::new("permission_denied", service).user(f.ruser).resource(f.user).result(false).to(event);
        event.add("permission", service);
        event.add("reason", "authentication failure");
        return true;
    }
    if let Some(r) = f.ruser {
        event.add("requester_id", r);
    }
    login(event, f.user, f.rhost, false, service, "authentication failure")
}

/// `alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/bin/ls` (sudoers(5), "log format")
fn sudo(event: &mut Event<'_>, text: &str) -> bool {
    let Some((user, rest)) = text.split_once(" : ") else { return false };
    let user = user.trim();
    let mut context = Object::default();
    let mut reason = None;
    let mut command = None;
    let mut run_as = false;
    let mut parts = rest;
    loop {
        // A command may hold ` ; `, and so may a directory; behind the user there is the command.
        if let Some(c) = parts.strip_prefix("COMMAND=").filter(|_| run_as) {
            command = Some(c);
            break;
        }
        let (part, after) = parts.split_once(" ; ").unwrap_or((parts, ""));
        match part.split_once('=') {
            Some(("TTY", v)) => drop(context.text("tty", v)),
            Some(("PWD", v)) => drop(context.text("pwd", v)),
            Some(("USER", v)) => {
                run_as = true;
                context.text("run_as", v);
            }
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
    } else if let Some(rest) = text.strip_prefix("BAD SU ") {
        let Some((by, rest)) = rest.split_once(" to ") else { return false };
        (false, rest.split(" on ").next().unwrap_or_default(), by)
    } else if let Some(rest) = text.strip_prefix("FAILED su for ") {
        let Some((to, by)) = rest.split_once(" by ") else { return false };
        (false, to, by)
    } else {
        let ok = match text.as_bytes().first() {
            Some(b'+') => true,
            Some(b'-') => false,
            _ => return false,
        };
        let Some(who) = text.rsplit(' ').next() else { return false };
        let Some((by, to)) = who.split_once(':').or_else(|| who.rsplit_once('-')) else { return false };
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

/// What the tools of accounts say; mostly not who used them.
fn accounts(event: &mut Event<'_>, program: &str, text: &str) -> bool {
    let changed =
        |event: &mut Event<'_>, kind: &'static str, action: &str, what: &str, id: &str, ok: bool| {
            let resource = format!("{what}/{id}");
            Say::new(kind, action).resource(resource.as_str()).result(ok).to(event);
            event.add("resource_type", what);
            event.add("resource_id", id);
            true
        };
    let assigned = |event: &mut Event<'_>, action: &str, user: &str, group: &str, by: Option<&str>| {
        Say::new("role_assignment", action)
            .user(user)
            .resource(group)
            .result(true)
            .assigning(event, group, by);
        true
    };
    let password = |event: &mut Event<'_>, user: &str, by: Option<&str>| {
        Say::new("password_change", "change_password").user(user).result(true).changing(event, program, by);
        true
    };
    // `new user: name=bob, UID=1002, …`, `group added to /etc/group: name=docker, GID=998`
    let new = [
        ("new user: name=", "user_account"),
        ("new group: name=", "group"),
        ("group added to /etc/group: name=", "group"),
        ("group added to /etc/gshadow: name=", "group"),
    ];
    for (prefix, what) in new {
        if let Some(rest) = text.strip_prefix(prefix) {
            let id = rest.split(',').next().unwrap_or_default();
            let mut new = Object::default();
            for (key, value) in key_values(text) {
                new.text(key.to_lowercase(), &value);
            }
            event.add_json("new_values", |out| new.write(out));
            return changed(event, "data_write", "create", what, id, true);
        }
    }
    if let Some(rest) = text.strip_prefix("failed adding user '") {
        let user = rest.split('\'').next().unwrap_or_default();
        return changed(event, "data_write", "create", "user_account", user, false);
    }
    // `delete 'bob' from group 'sudo'`, `add 'bob' to shadow group 'sudo'`
    for (prefix, to, action) in
        [("add '", " to ", "add_to_group"), ("delete '", " from ", "remove_from_group")]
    {
        if let Some(rest) = text.strip_prefix(prefix)
            && let Some((user, rest)) = rest.split_once('\'')
            && let Some(group) = rest.strip_prefix(to).and_then(between)
        {
            return assigned(event, action, user, group, None);
        }
    }
    for (prefix, what) in [
        ("delete user '", "user_account"),
        ("delete group '", "group"),
        ("removed group '", "group"),
        ("removed shadow group '", "group"),
        ("group '", "group"),
    ] {
        if text.starts_with(prefix)
            && (prefix != "group '" || text.contains("removed"))
            && let Some(id) = between(text)
        {
            return changed(event, "data_delete", "delete", what, id, true);
        }
    }
    // gpasswd: `user bob added by root to group docker`, `members of group docker set by root to bob,eve`
    if let Some(rest) = text.strip_prefix("user ") {
        for (verb, to, action) in [
            (" added by ", " to group ", "add_to_group"),
            (" removed by ", " from group ", "remove_from_group"),
        ] {
            if let Some((user, rest)) = rest.split_once(verb)
                && let Some((by, group)) = rest.split_once(to)
            {
                return assigned(event, action, user, group.trim(), Some(by));
            }
        }
    }
    if let Some(rest) = text.strip_prefix("members of group ")
        && let Some((group, rest)) = rest.split_once(" set by ")
        && let Some((by, users)) = rest.split_once(" to ")
    {
        crate::add_list(event, "assigned_to", users.trim().split(','));
        return assigned(event, "set_members", users.trim(), group, Some(by));
    }
    // `password for 'bob' changed by 'root'`, `password changed for bob`
    if let Some(rest) = text.strip_prefix("password for ") {
        let mut names = rest.split('\'');
        let user = names.nth(1).unwrap_or_default();
        return password(event, user, names.nth(1));
    }
    if let Some(user) = text.strip_prefix("password changed for ") {
        return password(event, user.trim(), None);
    }
    let modified = |event: &mut Event<'_>, user: &str, what: &str| {
        crate::add_list(event, "fields_modified", std::iter::once(what));
        changed(event, "data_write", "update", "user_account", user, true)
    };
    if let Some(user) = text.strip_prefix("change user name '").and_then(|r| r.split('\'').next()) {
        return modified(event, user, "name");
    }
    // `group changed in /etc/group (group docker/998, new gid: 0)`
    if let Some(rest) = text.strip_prefix("group changed in ")
        && let Some(group) = rest.split_once("(group ").and_then(|(_, r)| r.split(['/', ',', ')']).next())
    {
        return changed(event, "data_write", "update", "group", group, true);
    }
    for prefix in ["change user '", "changed user '"] {
        let Some((user, what)) = text.strip_prefix(prefix).and_then(|r| r.split_once('\'')) else { continue };
        if what.trim() == "password" {
            return password(event, user, None);
        }
        return modified(event, user, what.split_whitespace().next().unwrap_or("account"));
    }
    for prefix in ["lock user '", "unlock user '"] {
        if let Some((user, _)) = text.strip_prefix(prefix).and_then(|r| r.split_once('\'')) {
            return modified(event, user, "password_lock");
        }
    }
    if let Some(user) = text.strip_prefix("changed password expiry for ") {
        return modified(event, user.trim(), "password_expiry");
    }
    false
}
