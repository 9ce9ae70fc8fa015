//! `s3://bucket/prefix?…`: everything that has to be known of a bucket stands in its URL, so that what a sink writes to
//! and what a verifier reads from is one text.

use std::path::PathBuf;

/// How objects are encrypted by the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// SSE-S3: with keys of the store.
    #[default]
    S3,
    /// SSE-KMS, with this key, or the account's own for S3. Whoever may delete the key can erase the trail.
    Kms {
        /// Key id, alias or ARN.
        key: Option<String>,
        /// Whether one data key serves for many objects (fewer requests to KMS).
        bucket_key: bool,
    },
    /// As the bucket does by default; for servers that refuse to be asked.
    Bucket,
}

/// A bucket, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bucket.
    pub bucket: String,
    /// What every key begins with: empty, or ending in a slash.
    pub prefix: String,
    /// `region`: instead of the one that environment and profile name.
    pub region: Option<String>,
    /// `endpoint`: another server than AWS's.
    pub endpoint: Option<String>,
    /// `path_style=true`: the bucket in the path, not in the host's name.
    pub path_style: bool,
    /// `profile`: of the shared configuration files.
    pub profile: Option<String>,
    /// `ca`: PEM certificates that are trusted beside the system's.
    pub ca: Option<PathBuf>,
    /// `fips=true`: FIPS endpoints.
    pub fips: bool,
    /// `encryption`, `kms_key`, `bucket_key`.
    pub encryption: Encryption,
    /// `storage_class`: of events objects; everything else stays in the usual one.
    pub storage_class: Option<String>,
    /// `conditional_writes=false`: the server ignores `If-None-Match`.
    pub conditional_writes: bool,
    /// `checksums=false`: the server does not keep `x-amz-checksum-sha256`.
    pub checksums: bool,
    /// `content_md5=true`: the server wants `Content-MD5` with locks.
    pub content_md5: bool,
    /// `concurrency`: events objects that are written, and small objects that are read, at once.
    pub concurrency: usize,
}

/// Storage classes that can be read at once.
const CLASSES: [&str; 5] = ["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"];

impl Settings {
    /// A bucket with nothing said.
    pub fn new(bucket: &str, prefix: &str) -> Settings {
        Settings {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            region: None,
            endpoint: None,
            path_style: false,
            profile: None,
            ca: None,
            fips: false,
            encryption: Encryption::S3,
            storage_class: None,
            conditional_writes: true,
            checksums: true,
            content_md5: false,
            concurrency: 4,
        }
    }

    /// Reads what stands behind `s3://`.
    ///
    /// # Errors
    /// A text that names the parameter.
    pub fn parse(rest: &str) -> Result<Settings, String> {
        let fail = |what: String| format!("s3://{rest}: {what}");
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(named) {
            return Err(fail(format!("{bucket:?} is no name of a bucket")));
        }
        let prefix = prefix.trim_end_matches('/');
        let plain = |p: &str| {
            !matches!(p, "" | "." | "..")
                && p.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if !prefix.is_empty() && (!prefix.split('/').all(plain) || prefix.len() > 256) {
            return Err(fail(format!(
                "the prefix {prefix:?}: letters, digits, - _ and . between single slashes, at most 256"
            )));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let mut s = Settings::new(bucket, &prefix);
        let (mut kms_key, mut bucket_key, mut encryption) = (None, None, None);
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let (name, value) = (name.into_owned(), value.into_owned());
            if seen.contains(&name) {
                return Err(fail(format!("{name} twice")));
            }
            let yes = || match value.as_str() {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(fail(format!("{name}={value}: true or false"))),
            };
            match name.as_str() {
                "region" => s.region = Some(value),
                "endpoint" => {
                    if !value.starts_with("http://") && !value.starts_with("https://") {
                        return Err(fail(format!(
                            "endpoint={value}: a URL, as in https://minio.example:9000"
                        )));
                    }
                    s.endpoint = Some(value);
                }
                "path_style" => s.path_style = yes()?,
                "profile" => s.profile = Some(value),
                "ca" => s.ca = Some(value.into()),
                "fips" => s.fips = yes()?,
                "encryption" => encryption = Some(value),
                "kms_key" => kms_key = Some(value),
                "bucket_key" => bucket_key = Some(yes()?),
                "storage_class" => {
                    if !CLASSES.contains(&value.as_str()) {
                        return Err(fail(format!("storage_class={value}: one of {}", CLASSES.join(", "))));
                    }
                    s.storage_class = Some(value).filter(|v| v != "STANDARD");
                }
                "conditional_writes" => s.conditional_writes = yes()?,
                "checksums" => s.checksums = yes()?,
                "content_md5" => s.content_md5 = yes()?,
                "concurrency" => {
                    s.concurrency = value
                        .parse()
                        .ok()
                        .filter(|n| (1..=64).contains(n))
                        .ok_or_else(|| fail(format!("concurrency={value}: from 1 to 64")))?;
                }
                _ => {
                    return Err(fail(format!(
                        "{name} is no parameter; there are region, endpoint, path_style, profile, ca, fips, \
                         encryption, kms_key, bucket_key, storage_class, conditional_writes, checksums, content_md5 \
                         and concurrency"
                    )));
                }
            }
            seen.push(name);
        }
        let wants_kms = kms_key.is_some() || bucket_key.is_some();
        s.encryption = match encryption.as_deref() {
            None if wants_kms => Encryption::Kms { key: kms_key, bucket_key: bucket_key.unwrap_or(true) },
            Some("sse-kms") => Encryption::Kms { key: kms_key, bucket_key: bucket_key.unwrap_or(true) },
            Some(other) if wants_kms => {
                return Err(fail(format!("encryption={other} has neither kms_key nor bucket_key")));
            }
            None | Some("sse-s3") => Encryption::S3,
            Some("bucket") => Encryption::Bucket,
            Some(other) => {
                return Err(fail(format!("encryption={other}: one of sse-s3, sse-kms, bucket")));
            }
        };
        if s.fips && s.endpoint.is_some() {
            return Err(fail("fips chooses an endpoint, and endpoint names another".to_owned()));
        }
        Ok(s)
    }

    /// Where it is, for people and in reports; not how it is spoken to.
    pub fn place(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix).trim_end_matches('/').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_it_all() {
        let s = Settings::parse("audit-bucket/prod").unwrap();
        assert_eq!(s, Settings::new("audit-bucket", "prod/"));
        assert_eq!(s.place(), "s3://audit-bucket/prod");
        assert_eq!(Settings::parse("audit/").unwrap().prefix, "");
        let s = Settings::parse(
            "audit/a/b/?endpoint=https://minio:9000&path_style=true&region=eu-central-1&encryption=bucket\
             &conditional_writes=false&checksums=false&content_md5=true&concurrency=8&ca=/etc/ca.pem",
        )
        .unwrap();
        assert_eq!((s.prefix.as_str(), s.path_style, s.concurrency), ("a/b/", true, 8));
        assert_eq!(s.endpoint.as_deref(), Some("https://minio:9000"));
        assert_eq!((s.conditional_writes, s.checksums, s.content_md5), (false, false, true));
        let kms = Settings::parse("audit?kms_key=arn:aws:kms:eu-central-1:1:key/2").unwrap().encryption;
        let key = Some("arn:aws:kms:eu-central-1:1:key/2".to_owned());
        assert_eq!(kms, Encryption::Kms { key, bucket_key: true });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (url, says) in [
            ("", "no name of a bucket"),
            ("Audit/x", "no name of a bucket"),
            ("audit/a//b", "prefix"),
            ("audit/../b", "prefix"),
            ("audit?regoin=x", "regoin"),
            ("audit?fips=yes", "true or false"),
            ("audit?region=a&region=b", "twice"),
            ("audit?endpoint=minio:9000", "a URL"),
            ("audit?storage_class=DEEP_ARCHIVE", "STANDARD_IA"),
            ("audit?encryption=sse-s3&kms_key=x", "neither"),
            ("audit?encryption=none", "sse-kms"),
            ("audit?concurrency=0", "1 to 64"),
            ("audit?fips=true&endpoint=https://x", "another"),
        ] {
            let e = Settings::parse(url).unwrap_err();
            assert!(e.contains(says), "{url}: {e}");
        }
    }
}
