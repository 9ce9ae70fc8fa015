//! The Linux audit daemon's records, `type=USER_LOGIN msg=audit(1364481363.243:24287): …`.

use super::syslog::Line;
use super::{Say, cut};
use crate::mapping::quoted_values;
use crate::times::Read;
use std::borrow::Cow;
use waxseal_filter_abi::Event;
use waxseal_trail::record::Member;
use waxseal_trail::time::Time;

/// An unquoted text that could have broken a record is hex (auparse: untrusted strings).
fn untrusted(value: &str) -> Cow<'_, str> {
    let b = value.as_bytes();
    if b.len() >= 2 && b.len().is_multiple_of(2) && b.iter().all(|c| matches!(c, b'0'..=b'9' | b'A'..=b'F')) {
        let bytes: Option<Vec<u8>> =
            b.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok()).collect();
        if let Some(Ok(text)) = bytes.map(String::from_utf8)
            && text.chars().all(|c| !c.is_control() || c == '\0')
        {
            return Cow::Owned(text.replace('\0', " "));
        }
    }
    Cow::Borrowed(value)
}

/// System calls that audit rules watch for, by architecture (AUDIT_ARCH of x86_64 and AArch64).
fn syscall<'n>(arch: &str, n: &'n str) -> &'n str {
    match (arch, n) {
        ("c000003e", "2") => "open",
        ("c000003e", "59") | ("c00000b7", "221") => "execve",
        ("c000003e", "62") | ("c00000b7", "129") => "kill",
        ("c000003e", "76") | ("c00000b7", "45") => "truncate",
        ("c000003e", "82") => "rename",
        ("c000003e", "83") => "mkdir",
        ("c000003e", "84") => "rmdir",
        ("c000003e", "87") => "unlink",
        ("c000003e", "90") => "chmod",
        ("c000003e", "92") => "chown",
        ("c000003e", "101") | ("c00000b7", "117") => "ptrace",
        ("c000003e", "105") | ("c00000b7", "146") => "setuid",
        ("c000003e", "165") | ("c00000b7", "40") => "mount",
        ("c000003e", "175") | ("c00000b7", "105") => "init_module",
        ("c000003e", "257") | ("c00000b7", "56") => "openat",
        ("c000003e", "258") | ("c00000b7", "34") => "mkdirat",
        ("c000003e", "260") | ("c00000b7", "54") => "fchownat",
        ("c000003e", "263") | ("c00000b7", "35") => "unlinkat",
        ("c000003e", "264") | ("c00000b7", "38") => "renameat",
        ("c000003e", "268") | ("c00000b7", "53") => "fchmodat",
        ("c000003e", "313") | ("c00000b7", "273") => "finit_module",
        ("c000003e", "316") | ("c00000b7", "276") => "renameat2",
        ("c000003e", "322") | ("c00000b7", "281") => "execveat",
        (_, other) => other,
    }
}

/// Who passes the daemon's records on, by syslog or the journal.
const PROGRAMS: [&str; 6] = ["", "audit", "auditd", "audispd", "audisp-syslog", "audisp-remote"];

/// What is looked for in a record: a hostile one may have any number of other names.
const NAMES: [&str; 34] = [
    "acct",
    "addr",
    "apparmor",
    "arch",
    "auid",
    "AUID",
    "cmd",
    "comm",
    "denied_mask",
    "dest",
    "exe",
    "exit",
    "grp",
    "id",
    "ID",
    "key",
    "name",
    "new-role",
    "op",
    "operation",
    "path",
    "permissive",
    "profile",
    "res",
    "result",
    "scontext",
    "selected-context",
    "ses",
    "success",
    "syscall",
    "SYSCALL",
    "tclass",
    "uid",
    "UID",
];

/// The names and values of a record.
#[derive(Default)]
struct Record<'r>(Vec<(&'r str, Cow<'r, str>, bool)>);

impl<'r> Record<'r> {
    /// `rest` is what stands behind `msg=audit(…):`.
    fn of(kind: &str, rest: &'r str) -> Record<'r> {
        // What auditd looked up comes behind a separator, in capitals.
        let (raw, names) = rest.split_once('\u{1d}').unwrap_or((rest, ""));
        let raw = raw.trim_end();
        // What a program said stands in a text of its own, msg='…', in its own kinds of record; what the kernel says holds texts
        // that a process may choose. Of two values the first counts: the kernel's.
        let says = !matches!(kind, "SYSCALL" | "AVC" | "SECCOMP" | "PATH" | "CWD" | "EXECVE" | "PROCTITLE")
            && !kind.starts_with("ANOM_ABEND");
        let (outer, inner) = match raw.split_once(" msg='").filter(|_| says) {
            Some((outer, inner)) => (outer, inner.strip_suffix('\'').unwrap_or(inner)),
            None => (raw, ""),
        };
        let mut all: Record<'r> = Record::default();
        for (name, value, quoted) in
            quoted_values(outer).chain(quoted_values(inner)).chain(quoted_values(names))
        {
            if NAMES.contains(&name) && all.raw(name).is_none() {
                all.0.push((name, value, quoted));
            }
        }
        all
    }

    fn raw(&self, name: &str) -> Option<(&Cow<'r, str>, bool)> {
        self.0.iter().find(|(n, ..)| *n == name).map(|(_, v, quoted)| (v, *quoted))
    }

    /// A value; nothing for what stands for none.
    fn get(&self, name: &str) -> Option<&str> {
        let (value, _) = self.raw(name)?;
        let none = matches!(&**value, "" | "?" | "4294967295" | "unset" | "(null)" | "(none)" | "-1");
        (!none).then_some(&**value)
    }

    /// A value that a process or a client could choose: between quotes as it is, else perhaps as hex.
    fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        let quoted = self.raw(name)?.1;
        let value = self.get(name)?;
        Some(if quoted { Cow::Borrowed(value) } else { untrusted(value) })
    }

    /// A user: by the name that auditd looked up, else by number.
    fn user(&self, upper: &str, lower: &str) -> Option<Cow<'_, str>> {
        if let Some(name) = self.get(upper) {
            return Some(name.into());
        }
        let id = self.get(lower)?;
        Some(if id.bytes().all(|c| c.is_ascii_digit()) { format!("uid:{id}").into() } else { id.into() })
    }
}

/// What the kernel prints where no daemon takes it, `type=1400`, by the names that the daemon gives (linux/audit.h, libaudit).
fn kind_of(number: &str) -> Option<&'static str> {
    Some(match number {
        "1006" => "LOGIN",
        "1100" => "USER_AUTH",
        "1105" => "USER_START",
        "1106" => "USER_END",
        "1107" => "USER_AVC",
        "1108" => "USER_CHAUTHTOK",
        "1112" => "USER_LOGIN",
        "1113" => "USER_LOGOUT",
        "1114" => "ADD_USER",
        "1115" => "DEL_USER",
        "1116" => "ADD_GROUP",
        "1117" => "DEL_GROUP",
        "1123" => "USER_CMD",
        "1300" => "SYSCALL",
        "1305" => "CONFIG_CHANGE",
        "1326" => "SECCOMP",
        "1400" => "AVC",
        "1701" => "ANOM_ABEND",
        _ => return None,
    })
}

/// The kind of a record, its stamp (time and serial number), and what it says: as the daemon writes it, as the kernel prints it,
/// or as the journal has it, which keeps the stamp elsewhere.
fn parts<'l>(said: &Line<'l>) -> Option<(&'l str, Option<&'l str>, &'l str)> {
    if said.program == "kernel" {
        let rest = said.text.split_once("audit: type=")?.1;
        let (number, rest) = rest.split_once(" audit(")?;
        let (stamp, rest) = rest.split_once("):")?;
        return Some((kind_of(number)?, Some(stamp), rest));
    }
    if !PROGRAMS.contains(&said.program) {
        return None;
    }
    let line = match said.text.strip_prefix("node=") {
        Some(rest) => rest.split_once(' ')?.1,
        None => said.text,
    };
    if let Some(line) = line.strip_prefix("type=") {
        let (kind, rest) = line.split_once(" msg=audit(")?;
        let (stamp, rest) = rest.split_once("):")?;
        return Some((kind, Some(stamp), rest));
    }
    let (kind, rest) = line.split_once(' ').filter(|_| said.program == "audit")?;
    let capitals = kind.bytes().all(|c| c.is_ascii_uppercase() || c == b'_');
    capitals.then_some((kind, None, rest))
}

pub(super) fn run(event: &mut Event<'_>, said: &Line<'_>) -> bool {
    let Some((kind, stamp, rest)) = parts(said) else { return false };
    let r = Record::of(kind, rest);
    if !says(event, kind, &r, rest) {
        return false;
    }
    if let Some(s) = r.get("ses") {
        event.set_if_absent(Member::SessionId, s);
    }
    let Some((time, serial)) = stamp.and_then(|s| s.split_once(':')) else { return true };
    event.set_if_absent(Member::CorrelationId, &format!("audit:{time}:{serial}"));
    let (seconds, millis) = time.split_once('.').unwrap_or((time, "0"));
    if let (Ok(s), Ok(ms)) = (seconds.parse(), millis.parse::<u32>())
        && let Some(time) = Time::from_unix(s, ms.min(999) * 1_000_000)
    {
        crate::set_time(event, Read { time, zone_assumed: false, year_assumed: false });
    }
    true
}

fn says(event: &mut Event<'_>, kind: &str, r: &Record<'_>, rest: &str) -> bool {
    let acct = r.text("acct").filter(|a| {
        !matches!(&**a, "(unknown)" | "(unknown user)" | "(invalid user)" | "(none)" | "UNKNOWN")
    });
    let login = r.user("AUID", "auid");
    let doer = login.clone().or_else(|| r.user("UID", "uid"));
    let ok = match r.get("res").or_else(|| r.get("result")).or_else(|| r.get("success")) {
        Some("success" | "yes" | "1") => Some(true),
        Some(_) => Some(false),
        None => None,
    };
    let named = acct.clone().or_else(|| r.user("ID", "id"));
    let (acct, login, doer, named) = (acct.as_deref(), login.as_deref(), doer.as_deref(), named.as_deref());
    let (addr, exe, op) = (r.get("addr"), r.get("exe"), r.get("op"));
    let program = exe.and_then(|e| e.rsplit('/').next()).unwrap_or_default();
    match kind {
        // A daemon's own uid is nobody who logs in.
        "USER_LOGIN" | "USER_AUTH" | "LOGIN" => {
            Say::new("login_attempt", "login").user(named.or(login)).ip(addr).result(ok).to(event);
            if let Some(ok) = ok {
                event.add_bool("success", ok);
            }
            event.add("method", op.filter(|o| *o != "login").or(exe).unwrap_or("login"));
            if ok == Some(false) {
                event.add("failure_reason", "authentication failure");
            }
        }
        // Of who becomes somebody else, and of what runs by itself, a session is no login.
        "USER_START" | "USER_END" if matches!(program, "cron" | "crond" | "atd" | "systemd") => return false,
        "USER_START" => {
            let elevated = matches!(program, "sudo" | "su" | "runuser" | "pkexec" | "doas");
            let user = if elevated { doer } else { named.or(login) };
            let resource = if elevated { named } else { Some("session") };
            let type_ = if ok == Some(false) { "permission_denied" } else { "permission_granted" };
            Say::new(type_, "open_session").user(user).resource(resource).ip(addr).result(ok).to(event);
            event.add("permission", if elevated { program } else { "session" });
        }
        "USER_END" if matches!(program, "sudo" | "su" | "runuser" | "pkexec" | "doas") => return false,
        "USER_LOGOUT" | "USER_END" => {
            Say::new("logout", "logout").user(named.or(login)).ip(addr).result(ok).to(event);
        }
        "USER_CHAUTHTOK" => {
            let method = op.or(exe).unwrap_or("passwd");
            Say::new("password_change", "change_password")
                .user(named)
                .ip(addr)
                .result(ok)
                .changing(event, method, doer);
        }
        "USER_CMD" => {
            let command = r.text("cmd");
            let type_ = if ok == Some(false) { "permission_denied" } else { "permission_granted" };
            Say::new(type_, "run_command")
                .user(acct.or(doer))
                .resource(command.as_deref().or(exe))
                .result(ok)
                .to(event);
            event.add("permission", "sudo");
            if ok == Some(false) {
                event.add("reason", "refused");
            }
        }
        "USER_ROLE_CHANGE" | "ROLE_ASSIGN" | "ROLE_REMOVE" => {
            let action = if kind == "ROLE_REMOVE" { "remove_role" } else { "assign_role" };
            let role = r.get("new-role").or_else(|| r.get("selected-context"));
            role_assignment(event, action, named, doer, role, ok);
        }
        // `op=add-user-to-group grp="wheel" acct="bob"`
        "USER_MGMT" | "GRP_MGMT" if acct.is_some() && r.get("grp").is_some() => {
            role_assignment(event, op.unwrap_or("change"), acct, doer, r.text("grp").as_deref(), ok);
        }
        "ADD_USER" | "ADD_GROUP" | "USER_MGMT" | "GRP_MGMT" | "DEL_USER" | "DEL_GROUP" => {
            let delete = kind.starts_with("DEL_") || op.is_some_and(|o| o.contains("delet"));
            let group = kind.ends_with("GROUP") || kind == "GRP_MGMT";
            let what = if group { "group" } else { "user_account" };
            let grp = r.text("grp");
            let id = acct.or(grp.as_deref()).or(r.get("ID")).or(r.get("id")).unwrap_or_default();
            let resource = format!("{what}/{id}");
            Say::new(if delete { "data_delete" } else { "data_write" }, op.unwrap_or("change"))
                .user(doer)
                .resource(resource.as_str())
                .result(ok)
                .to(event);
            event.add("resource_type", what);
            event.add("resource_id", id);
        }
        "CONFIG_CHANGE" | "USYS_CONFIG" => {
            let resource = "audit_configuration";
            Say::new("data_write", op.unwrap_or("change")).user(doer).resource(resource).result(ok).to(event);
            event.add("resource_type", resource);
        }
        "AVC" | "USER_AVC" | "SECCOMP" => return access(event, kind, r, rest, doer),
        "SYSCALL" => {
            let call = r.get("SYSCALL").or_else(|| r.get("syscall")).unwrap_or_default();
            let name = syscall(r.get("arch").unwrap_or_default(), call);
            let exe = r.text("exe");
            let exe = exe.as_deref().unwrap_or("unknown");
            let exit = r.raw("exit").map(|(v, _)| &**v).unwrap_or_default();
            if ok == Some(false) && matches!(exit, "-13" | "-1" | "EACCES" | "EPERM") {
                Say::new("permission_denied", name).user(doer).resource(exe).result(false).to(event);
                event.add("permission", name);
                event.add("reason", if matches!(exit, "-1" | "EPERM") { "EPERM" } else { "EACCES" });
            } else {
                Say::new("api_call", name).user(doer).resource(exe).result(ok).to(event);
                event.add("endpoint", exe);
                event.add("method", name);
            }
            if let Some(k) = r.text("key") {
                event.add("audit_key", &k);
            }
        }
        k if k.starts_with("ANOM_") || k.starts_with("INTRUSION") || k.starts_with("RESP_") => {
            let user = named.or(doer);
            Say::new("suspicious_activity", "anomaly").user(user).ip(addr).result(ok).to(event);
            event.add("type", &kind.to_ascii_lowercase());
            event.add("details", cut(rest.trim()));
        }
        _ => return false,
    }
    true
}

fn role_assignment(
    event: &mut Event<'_>,
    action: &str,
    user: Option<&str>,
    doer: Option<&str>,
    role: Option<&str>,
    ok: Option<bool>,
) {
    let say = Say::new("role_assignment", action).user(user).resource(role).result(ok);
    say.assigning(event, role.unwrap_or("unknown"), doer);
}

/// What SELinux, AppArmor and seccomp say.
fn access(event: &mut Event<'_>, kind: &str, r: &Record<'_>, rest: &str, doer: Option<&str>) -> bool {
    let comm = r.text("comm");
    let subject = comm.as_deref().or_else(|| r.get("scontext")).or_else(|| r.get("profile"));
    let apparmor = r.get("apparmor");
    if rest.contains("received policyload") || apparmor == Some("STATUS") {
        let name = r.text("name");
        let resource = name.as_deref().unwrap_or("security_policy");
        let action = r.get("operation").unwrap_or("load_policy");
        Say::new("data_write", action).user(doer).by(doer.or(subject)).resource(resource).to(event);
        event.add("resource_type", "security_policy");
        event.add("resource_id", resource);
        return true;
    }
    // What is only watched, and let through, was granted.
    let watched = r.get("permissive") == Some("1") || apparmor == Some("ALLOWED");
    let denied = match apparmor {
        Some(a) => a == "DENIED",
        None => kind == "SECCOMP" || rest.contains(" denied "),
    };
    if !denied && !watched && !rest.contains(" granted ") {
        return false;
    }
    let denied = denied && !watched;
    let found = ["path", "name", "dest", "exe", "tclass"].iter().find_map(|n| r.text(n));
    Say::new(if denied { "permission_denied" } else { "permission_granted" }, "access")
        .user(doer)
        .by(doer.or(subject))
        .resource(found.as_deref().unwrap_or(kind))
        .result(!denied)
        .to(event);
    let braces = rest.split_once('{').and_then(|(_, r)| r.split_once('}')).map(|(p, _)| p.trim());
    if let Some(p) = braces.or_else(|| r.get("denied_mask")).or_else(|| r.get("operation")) {
        event.add("permission", p);
    }
    if denied || watched {
        event.add("reason", if watched { "permissive" } else { kind });
    }
    true
}

#[cfg(test)]
mod tests {
    #[test]
    fn untrusted_texts_are_hex_where_they_are() {
        assert_eq!(super::untrusted("726F6F74"), "root");
        assert_eq!(super::untrusted("6C73002D6C"), "ls -l");
        assert_eq!(super::untrusted("root"), "root");
        assert_eq!(super::untrusted("FFFE"), "FFFE");
    }
}
