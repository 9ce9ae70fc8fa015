//! What configuration files have in common: `${NAME}` from the environment, sizes and spans of time with units, and errors with
//! file, line and key.

#![forbid(unsafe_code)]

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::time::Duration;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {what}")]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// Line, key and reason.
    pub what: String,
}

/// A text in which `${NAME}` stands for an environment variable; `$$` for a dollar sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let raw = String::deserialize(d)?;
        expand(&raw, &|name| std::env::var(name).ok()).map(Text).map_err(serde::de::Error::custom)
    }
}

fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = after.find('}').ok_or_else(|| format!("{text:?}: ${{ without }}"))?;
            let name = &after[..end];
            let value = env(name).filter(|v| !v.is_empty());
            out.push_str(&value.ok_or_else(|| format!("the environment has no {name}"))?);
            rest = &after[end + 1..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// A size: a number with B, KiB, MiB, GiB, KB, MB or GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let units = [
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
            ("KB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
            ("B", 1),
        ];
        units
            .iter()
            .find_map(|(unit, n)| text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*n))
            .map(Size)
            .ok_or_else(|| format!("{text:?} is no size; write one as 32MiB"))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Text::deserialize(d)?.0.parse().map_err(serde::de::Error::custom)
    }
}

/// A duration: a number with ms, s, m, h or d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        units
            .iter()
            .find_map(|(unit, n)| text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*n))
            .map(|ms| Span(Duration::from_millis(ms)))
            .ok_or_else(|| format!("{text:?} is no duration; write one as 5m or 2555d"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Text::deserialize(d)?.0.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads strict YAML.
///
/// # Errors
/// A text with line and key.
pub fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|e| e.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test
mod tests {
    use super::*;

    #[test]
    fn environment() {
        let env = |n: &str| (n == "NODE").then(|| "n1".to_owned());
        assert_eq!(expand("a-${NODE}-$$x", &env).unwrap(), "a-n1-$x");
        assert!(expand("${OTHER}", &env).unwrap_err().contains("OTHER"));
        assert!(expand("${NODE", &env).is_err());
    }

    #[test]
    fn units() {
        assert_eq!("32MiB".parse(), Ok(Size(32 << 20)));
        assert_eq!("5 m".parse(), Ok(Span(Duration::from_secs(300))));
        for bad in ["", "5", "m", "-5m", "99999999999999999999d", "18446744073709551615d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert!("1.5GiB".parse::<Size>().is_err());
    }
}
