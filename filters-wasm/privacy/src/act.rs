//! What is done with what a rule is for.

use crate::detect::Kind;
use crate::keys::Use;
use crate::policy::{Action, Policy};
use std::net::IpAddr;

/// What stands in the place of a text.
pub(crate) fn text(policy: &Policy, rule: u16, kind: Option<Kind>, whole: bool, text: &str) -> String {
    let redacted = || redacted(policy, rule);
    match &policy.rules[rule as usize].action {
        Action::Mask { .. } if whole => redacted(),
        Action::Mask { .. } if kind == Some(Kind::Email) => email(text),
        Action::Mask { first, last } => masked(text, *first, *last),
        Action::Drop => String::new(),
        Action::Hash => policy.keys.as_ref().map_or_else(redacted, |k| k.code(Use::Hash, text)),
        Action::Truncate => truncated(text).unwrap_or_else(redacted),
        Action::Generalise => month(text).unwrap_or_else(redacted),
        Action::Redact | Action::Shape(_) | Action::Allow(_) | Action::Keep => redacted(),
    }
}

/// What stands where nothing may be kept.
pub(crate) fn redacted(policy: &Policy, rule: u16) -> String {
    format!("[redacted:{}]", policy.rules[rule as usize].id)
}

/// A number in the place of one, if the rule leaves one.
pub(crate) fn number(policy: &Policy, rule: u16, text: &str) -> Option<f64> {
    if policy.rules[rule as usize].action != Action::Generalise {
        return None;
    }
    // A coordinate, which has a fraction: to a tenth of a degree, some 11 km.
    if !text.contains('.') {
        return None;
    }
    let n: f64 = text.parse().ok().filter(|n: &f64| n.abs() <= 180.0)?;
    Some((n * 10.0).round() / 10.0)
}

/// Whether a text is what a rule put there.
pub(crate) fn is_done(text: &str) -> bool {
    let coded = |t: &str| {
        let mut parts = t.splitn(3, ':');
        matches!(parts.next(), Some("hmac" | "user"))
            && parts.next().is_some()
            && parts.next().is_some_and(|c| c.len() == 26 && c.bytes().all(|c| c.is_ascii_alphanumeric()))
    };
    (text.starts_with("[redacted:") && text.ends_with(']') && text.len() < 80) || coded(text)
}

/// Stars for letters and digits, but for some at both ends; never more than a third of them is left.
fn masked(text: &str, first: usize, last: usize) -> String {
    let all = text.chars().filter(|c| c.is_alphanumeric()).count();
    let (first, last) = if (first + last) * 3 > all { (0, 0) } else { (first, last) };
    let mut seen = 0;
    text.chars()
        .map(|c| {
            if !c.is_alphanumeric() {
                // What could be read all the same: signs of a password.
                return if matches!(c, ' ' | '-' | '.' | '/' | '(' | ')' | '+' | '\n' | '\t') {
                    c
                } else {
                    '*'
                };
            }
            seen += 1;
            if seen <= first || seen > all - last { c } else { '*' }
        })
        .collect()
}

/// Whether a text is an address, and nothing else.
pub(crate) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let top = domain.rsplit_once('.').map_or("", |(_, top)| top);
    !local.is_empty()
        && !domain.contains('@')
        && top.len() >= 2
        && top.chars().all(char::is_alphabetic)
        && !text.contains(char::is_whitespace)
}

/// `a***@example.com`
fn email(text: &str) -> String {
    let (local, domain) = text.rsplit_once('@').unwrap_or((text, ""));
    let first = local.chars().next().filter(|_| local.chars().count() > 2);
    format!("{}***@{domain}", first.map(String::from).unwrap_or_default())
}

/// The network of an address.
fn truncated(text: &str) -> Option<String> {
    Some(match text.parse::<IpAddr>().ok()? {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => truncated(&ip.to_string())?,
            None => {
                let [a, b, c, ..] = ip.segments();
                format!("{}/48", std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
            }
        },
    })
}

/// The month of a date: `1980-05-17`, `1980-05-17T…`, `17.05.1980`, `05/17/1980`, `19800517`.
fn month(text: &str) -> Option<String> {
    let text = text.trim();
    let digits = |t: &str| t.bytes().all(|c| c.is_ascii_digit()).then(|| t.parse::<u32>().ok())?;
    let good = |year: u32, month: u32| {
        ((1..=12).contains(&month) && (1800..2200).contains(&year)).then(|| format!("{year:04}-{month:02}"))
    };
    if text.len() == 8 && digits(text).is_some() {
        return good(digits(&text[..4])?, digits(&text[4..6])?);
    }
    let parts: Vec<&str> = text.split(['-', '.', '/', 'T', ' ']).take(3).collect();
    let [a, b, c] = parts[..] else { return None };
    let (x, y, z) = (digits(a)?, digits(b)?, digits(c)?);
    if a.len() == 4 {
        return good(x, y);
    }
    if c.len() != 4 {
        return None;
    }
    // Of 05/04/1980 nobody knows which is the month: the year is what is left.
    match (text.contains('/'), x > 12, y > 12) {
        (false, _, _) | (true, true, false) => good(z, y),
        (true, false, true) => good(z, x),
        (true, false, false) if x == y => good(z, x),
        _ => good(z, 1).map(|t| t[..4].to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_little() {
        assert_eq!(masked("4111 1111 1111 1111", 0, 4), "**** **** **** 1111");
        assert_eq!(masked("DE89370400440532013000", 2, 4), "DE****************3000");
        assert_eq!(masked("12345", 0, 4), "*****");
        assert_eq!(masked("pä55_w°rd!", 0, 0), "**********");
        assert_eq!(email("alice@example.com"), "a***@example.com");
        assert_eq!(email("al@example.com"), "***@example.com");
    }

    #[test]
    fn networks_and_months() {
        assert_eq!(truncated("198.51.100.7").as_deref(), Some("198.51.100.0/24"));
        assert_eq!(truncated("2001:db8:1:2::3").as_deref(), Some("2001:db8:1::/48"));
        assert_eq!(truncated("::ffff:198.51.100.7").as_deref(), Some("198.51.100.0/24"));
        assert_eq!(truncated("host"), None);
        for (text, is) in [
            ("1980-05-17", Some("1980-05")),
            ("1980-05-17T10:00:00Z", Some("1980-05")),
            ("17.05.1980", Some("1980-05")),
            ("05/17/1980", Some("1980-05")),
            ("17/05/1980", Some("1980-05")),
            ("05/04/1980", Some("1980")),
            ("19800517", Some("1980-05")),
            ("May 17", None),
            ("1980-13-01", None),
        ] {
            assert_eq!(month(text).as_deref(), is, "{text}");
        }
    }
}
