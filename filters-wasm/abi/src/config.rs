//! What the filters' configurations have in common.

use serde::de::DeserializeOwned;

/// Reads YAML; a file of comments alone says nothing, which is something, too.
///
/// # Errors
/// A text with line and key.
pub fn yaml<T: DeserializeOwned + Default>(text: &str) -> Result<T, String> {
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(T::default());
    }
    // `n` and `yes` are names of fields and words of logs: only true and false are booleans, as YAML 1.2 has it.
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
        .map_err(|e| e.to_string())
}

/// Whether `text` fits a pattern in which `*` stands for any text.
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        for (p, t, fits) in [
            ("kube.*", "kube.a.b", true),
            ("kube.*", "kub", false),
            ("*", "", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(glob(p, t), fits, "{p} {t}");
        }
    }
}
