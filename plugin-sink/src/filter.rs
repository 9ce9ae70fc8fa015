//! `filters:` in the configuration; what runs them is `waxseal_filter_host`.

use crate::config::{Size, Span, Text};
use serde::Deserialize;
use std::time::Duration;
use waxseal_filter_host::{OnError, Settings};
use waxseal_trail::hash::Hash;

/// One of `filters:` in the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFilter {
    /// The module, a `.wasm` file.
    pub module: Text,
    /// Its configuration.
    pub config: Text,
    /// Directories that the module may read beside the configuration's own, such as where databases lie.
    #[serde(default)]
    pub directories: Vec<Text>,
    /// `pass` or `withhold`. Default: what the module asks for.
    pub on_error: Option<OnError>,
    /// Memory of an instance. Default 512MiB.
    pub memory: Option<Size>,
    /// How long one event may take. Default 1s.
    pub timeout: Option<Span>,
    /// Native code made of the module before (`waxseal filter compile`), with its digest.
    pub precompiled: Option<RawPrecompiled>,
    /// A directory in which the sink keeps the native code it makes of modules: whoever writes there runs code in the sink.
    /// Default: none is kept.
    pub cache: Option<Text>,
}

impl RawFilter {
    /// What it says, checked.
    ///
    /// # Errors
    /// A text with the key.
    pub fn check(self) -> Result<Settings, String> {
        let mut s = Settings::new(self.module.0.into(), self.config.0.into());
        s.directories = self.directories.into_iter().map(|d| d.0.into()).collect();
        s.on_error = self.on_error;
        if let Some(Size(n)) = self.memory {
            if !(16 << 20..=4 << 30).contains(&n) {
                return Err("memory: from 16MiB to 4GiB".into());
            }
            s.memory = usize::try_from(n).map_err(|e| e.to_string())?;
        }
        if let Some(Span(t)) = self.timeout {
            if t < Duration::from_millis(10) || t > Duration::from_secs(60) {
                return Err("timeout: from 10ms to 60s".into());
            }
            s.timeout = t;
        }
        s.precompiled = self
            .precompiled
            .map(|p| {
                let digest = Hash::from_hex(&p.sha256.0);
                digest.map(|d| (p.file.0.into(), d)).ok_or("precompiled.sha256: not 64 hex digits".to_owned())
            })
            .transpose()?;
        s.cache = self.cache.map(|c| c.0.into());
        Ok(s)
    }
}

/// Native code of a module.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPrecompiled {
    /// The file.
    pub file: Text,
    /// SHA-256 of the file, hex.
    pub sha256: Text,
}
