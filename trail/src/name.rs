//! Names of trails and writers, and where objects lie in a store (FORMAT sections 1 and 5).

use crate::hash::Hash;
use crate::time::Time;

/// Whether `text` is a name: `[a-z0-9]([a-z0-9.-]{0,126}[a-z0-9])?` without `..`.
pub fn is_name(text: &str) -> bool {
    let b = text.as_bytes();
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=128).contains(&b.len())
        && edge(b[0])
        && edge(b[b.len() - 1])
        && b.iter().all(|c| edge(*c) || matches!(c, b'.' | b'-'))
        && !text.contains("..")
}

/// Splits a writer `<name>.<epoch>` at the last dot; `None` if either part is not what it must be.
pub fn split_writer(writer: &str) -> Option<(&str, &str)> {
    let (name, epoch) = writer.rsplit_once('.')?;
    let hex = epoch.len() == 32 && epoch.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    (is_name(name) && hex).then_some((name, epoch))
}

/// Whether `name` matches `glob`, in which `*` stands for any text and `?` for one character.
pub fn glob_matches(glob: &str, name: &str) -> bool {
    let (g, n) = (glob.as_bytes(), name.as_bytes());
    let (mut gi, mut ni, mut star) = (0, 0, None);
    while ni < n.len() {
        if g.get(gi) == Some(&b'*') {
            star = Some((gi, ni));
            gi += 1;
        } else if gi < g.len() && (g[gi] == b'?' || g[gi] == n[ni]) {
            gi += 1;
            ni += 1;
        } else if let Some((sg, sn)) = star {
            gi = sg + 1;
            ni = sn + 1;
            star = Some((sg, sn + 1));
        } else {
            return false;
        }
    }
    g[gi..].iter().all(|c| *c == b'*')
}

/// Reads a number of exactly so many decimal digits, as keys have them.
pub fn number(text: &str, digits: usize) -> Option<u64> {
    let good = text.len() == digits && text.bytes().all(|c| c.is_ascii_digit());
    good.then(|| text.parse().ok())?
}

/// The key of the trail statement.
pub const TRAIL: &str = "trail.json";

/// `writers/<writer>/genesis.json`
pub fn genesis_key(writer: &str) -> String {
    format!("writers/{writer}/genesis.json")
}

/// `writers/<writer>/keys/<number, 6 digits>.json`
pub fn keys_key(writer: &str, number: u64) -> String {
    format!("writers/{writer}/keys/{number:06}.json")
}

/// `batches/<writer>/<batch, 12 digits>.json`
pub fn batch_key(writer: &str, batch: u64) -> String {
    format!("batches/{writer}/{batch:012}.json")
}

/// `certs/<sha256>.der`
pub fn certificate_key(digest: &Hash) -> String {
    format!("certs/{digest}.der")
}

/// `statements/<type>/<statement hash>.json`
pub fn statement_key(kind: &str, statement: &Hash) -> String {
    format!("statements/{kind}/{statement}.json")
}

/// `events/date=YYYY-MM-DD/hour=HH/<writer>-<batch, 12 digits>-<first 16 hex of its SHA-256>.parquet`
pub fn events_key(writer: &str, batch: u64, sealed_at: Time, digest: &Hash) -> String {
    let (date, hour) = sealed_at.partition();
    let digest = digest.to_string();
    format!("events/date={date}/hour={hour}/{writer}-{batch:012}-{}.parquet", &digest[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "0", "node-1", "ip-10-0-0-1.eu.internal", &"a".repeat(128)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".a", "a.", "a..b", "A", "a_b", "a/b", "ä", &"a".repeat(129)] {
            assert!(!is_name(bad), "{bad}");
        }
        let epoch = "019bc11901007659bffbe10957d200fd";
        assert_eq!(split_writer(&format!("beta.node-1.{epoch}")), Some(("beta.node-1", epoch)));
        assert_eq!(split_writer("beta.019BC11901007659bffbe10957d200fd"), None);
        assert_eq!(split_writer(epoch), None);
    }

    #[test]
    fn globs() {
        for (g, n, want) in [
            ("*", "a.b", true),
            ("beta.*", "beta.node-1", true),
            ("beta.*", "beta", false),
            ("node-?", "node-1", true),
            ("node-?", "node-12", false),
            ("a*b*c", "aXbYbZc", true),
            ("a", "b", false),
        ] {
            assert_eq!(glob_matches(g, n), want, "{g} {n}");
        }
    }
}
