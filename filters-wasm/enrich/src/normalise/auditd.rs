//! The Linux audit daemon's records, `type=USER_LOGIN msg=audit(1364481363.243:24287): …`.

use super::{Body, Say};
use crate::mapping::key_values;
use crate::times::Read;
use std::borrow::Cow;
use waxseal_filter_abi::Event;
use waxseal_trail::record::Member;
use waxseal_trail::time::Time;

/// An account that stands unquoted and is longer than its letters would be is hex (auparse: untrusted strings).
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

/// System calls of x86_64 that audit rules watch for.
fn syscall(n: &str) -> &str {
    match n {
        "2" => "open",
        "59" => "execve",
        "62" => "kill",
        "76" => "truncate",
        "82" => "rename",
        "83" => "mkdir",
        "84" => "rmdir",
        "87" => "unlink",
        "90" => "chmod",
        "92" => "chown",
        "101" => "ptrace",
        "105" => "setuid",
        "165" => "mount",
        "175" => "init_module",
        "257" => "openat",
        "263" => "unlinkat",
        "264" => "renameat",
        "268" => "fchmodat",
        "313" => "finit_module",
        "322" => "execveat",
        other => other,
    }
}

pub(super) fn run(event: &mut Event<'_>, body: &Body<'_>) -> bool {
    let line = body.line();
    let at = match line.starts_with("type=") {
        true => 0,
        false => match line.find(" type=").filter(|at| *at < 128) {
            Some(at) => at + 1,
            None => return false,
        },
    };
    let line = &line[at..];
    let Some((kind, rest)) = line[5..].split_once(" msg=audit(") else { return false };
    let Some((stamp, rest)) = rest.split_once("):") else { return false };
    let Some((time, serial)) = stamp.split_once(':') else { return false };
    let (mut uid, mut auid, mut acct, mut addr, mut exe, mut res, mut op, mut ses) =
        (None, None, None, None, None, None, None, None);
    let (mut success, mut call, mut exit, mut key, mut cmd, mut id, mut role, mut grp) =
        (None, None, None, None, None, None, None, None);
    let mut auid_name = None;
    let mut see = |name: &str, value: Cow<'_, str>| {
        let slot = match name {
            "uid" => &mut uid,
            "auid" => &mut auid,
            "AUID" => &mut auid_name,
            "acct" => &mut acct,
            "addr" => &mut addr,
            "exe" => &mut exe,
            "res" | "result" => &mut res,
            "op" => &mut op,
            "ses" => &mut ses,
            "success" => &mut success,
            "syscall" | "SYSCALL" => &mut call,
            "exit" => &mut exit,
            "key" => &mut key,
            "cmd" => &mut cmd,
            "id" => &mut id,
            "new-role" | "selected-context" => &mut role,
            "grp" => &mut grp,
            _ => return,
        };
        *slot = Some(value.into_owned());
    };
    // What a program said stands in a text of its own: msg='…'.
    let (outer, inner) = rest.split_once("msg='").unwrap_or((rest, ""));
    for (name, value) in key_values(outer).chain(key_values(inner.trim_end().trim_end_matches('\''))) {
        see(name, value);
    }
    let acct = acct.map(|a| untrusted(&a).into_owned()).filter(|a| a != "(unknown)" && a != "?");
    let set = |t: &Option<String>| {
        t.clone().filter(|t| !t.is_empty() && t != "?" && t != "4294967295" && t != "unset")
    };
    let by_number =
        set(&auid_name).or_else(|| set(&auid)).or_else(|| set(&uid)).map(|n| match n.parse::<u32>() {
            Ok(n) => format!("uid:{n}"),
            Err(_) => n,
        });
    let ok = match res.as_deref().or(success.as_deref()) {
        Some("success" | "yes" | "1") => true,
        Some(_) => false,
        None => true,
    };
    let user = acct.clone().or_else(|| by_number.clone());
    let user = user.as_deref();
    let addr = addr.as_deref();
    let exe = exe.as_deref();
    match kind {
        "USER_LOGIN" | "USER_AUTH" | "LOGIN" => {
            Say::new("login_attempt", "login").user(user).ip(addr).result(ok).to(event);
            event.add_bool("success", ok);
            event.add("method", op.as_deref().filter(|o| *o != "login").or(exe).unwrap_or("login"));
            if !ok {
                event.add("failure_reason", "authentication failure");
            }
        }
        "USER_LOGOUT" | "USER_END" => Say::new("logout", "logout").user(user).ip(addr).result(ok).to(event),
        "USER_CHAUTHTOK" => {
            Say::new("password_change", "change_password").user(user).ip(addr).result(ok).to(event);
            event.add("method", op.as_deref().or(exe).unwrap_or("passwd"));
            if let Some(by) = &by_number {
                event.add("requester_id", by);
            }
        }
        "USER_CMD" => {
            let command = cmd.map(|c| untrusted(&c).into_owned());
            let kind = if ok { "permission_granted" } else { "permission_denied" };
            Say::new(kind, "run_command")
                .user(user)
                .resource(command.as_deref().or(exe))
                .result(ok)
                .to(event);
            event.add("permission", "sudo");
            if !ok {
                event.add("reason", "refused");
            }
        }
        "USER_ROLE_CHANGE" | "ROLE_ASSIGN" | "ROLE_REMOVE" => {
            Say::new("role_assignment", if kind == "ROLE_REMOVE" { "remove_role" } else { "assign_role" })
                .user(user)
                .result(ok)
                .to(event);
            event.add("role", role.as_deref().unwrap_or("unknown"));
            if let Some(by) = &by_number {
                event.add("assigned_by", by);
            }
        }
        "ADD_USER" | "ADD_GROUP" | "USER_MGMT" | "GRP_MGMT" | "DEL_USER" | "DEL_GROUP" => {
            let delete = kind.starts_with("DEL_") || op.as_deref().is_some_and(|o| o.contains("delet"));
            let group = kind.ends_with("GROUP") || kind == "GRP_MGMT";
            let what = if group { "group" } else { "user_account" };
            let named = acct.or(grp).or(id).unwrap_or_default();
            let resource = format!("{what}/{named}");
            Say::new(if delete { "data_delete" } else { "data_write" }, op.as_deref().unwrap_or("change"))
                .user(by_number.as_deref())
                .resource(resource.as_str())
                .result(ok)
                .to(event);
            event.add("resource_type", what);
            event.add("resource_id", &named);
        }
        "CONFIG_CHANGE" | "USYS_CONFIG" => {
            Say::new("data_write", op.as_deref().unwrap_or("change"))
                .user(user)
                .resource("audit_configuration")
                .result(ok)
                .to(event);
            event.add("resource_type", "audit_configuration");
        }
        "AVC" | "USER_AVC" | "SECCOMP" => {
            let granted = rest.contains(" granted ");
            Say::new(if granted { "permission_granted" } else { "permission_denied" }, "access")
                .user(user)
                .resource(exe.unwrap_or(kind))
                .result(granted)
                .to(event);
            if let Some(p) = rest.split_once('{').and_then(|(_, r)| r.split_once('}')) {
                event.add("permission", p.0.trim());
            }
            if !granted {
                event.add("reason", kind);
            }
        }
        "SYSCALL" => {
            let call = call.unwrap_or_default();
            let name = syscall(&call);
            let exe = exe.unwrap_or("unknown");
            if !ok && matches!(exit.as_deref(), Some("-13" | "-1" | "EACCES" | "EPERM")) {
                Say::new("permission_denied", name)
                    .user(by_number.as_deref())
                    .resource(exe)
                    .result(false)
                    .to(event);
                event.add("permission", name);
                event.add("reason", if exit.as_deref() == Some("-1") { "EPERM" } else { "EACCES" });
            } else {
                Say::new("api_call", name).user(by_number.as_deref()).resource(exe).result(ok).to(event);
                event.add("endpoint", exe);
                event.add("method", name);
            }
            if let Some(k) = key.filter(|k| k != "(null)") {
                event.add("audit_key", &k);
            }
        }
        k if k.starts_with("ANOM_") || k.starts_with("INTRUSION") || k.starts_with("RESP_") => {
            Say::new("suspicious_activity", "anomaly").user(user).ip(addr).result(ok).to(event);
            event.add("type", &kind.to_ascii_lowercase());
            event.add("details", rest.trim());
        }
        _ => return false,
    }
    if let Some(s) = set(&ses) {
        event.set_if_absent(Member::SessionId, &s);
    }
    event.set_if_absent(Member::CorrelationId, &format!("audit:{time}:{serial}"));
    let (seconds, millis) = time.split_once('.').unwrap_or((time, "0"));
    if let (Ok(s), Ok(ms)) = (seconds.parse(), millis.parse::<u32>())
        && let Some(time) = Time::from_unix(s, ms.min(999) * 1_000_000)
    {
        crate::set_time(event, Read { time, zone_assumed: false, year_assumed: false });
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
