//! `waxseal keys`

#![allow(clippy::disallowed_methods)] // a person's own files, not evidence

use crate::init::write_private;
use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use waxseal_sink::signer::{Algorithm, MemoryKey, Signer as _};
use waxseal_trail::keys::PublicKey;
use waxseal_trail::name::is_name;
use waxseal_trail::trust::Trust;

/// Make and show signing keys
#[derive(Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(Generate),
    Show(Show),
}

/// Make a signing key; with --name and --trust, pin it in a trust file
#[derive(Args)]
struct Generate {
    /// rsa (RSASSA-PSS, 3072 bits) or ed25519
    #[arg(long, value_parser = ["rsa", "ed25519"])]
    algorithm: String,
    /// Where signing.key and signing.pub go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The writer that will sign with it (a glob is allowed)
    #[arg(long, value_name = "WRITER", requires = "trust")]
    name: Option<String>,
    /// The trust file to add it to
    #[arg(long, value_name = "FILE", requires = "name")]
    trust: Option<PathBuf>,
}

/// Show a key: algorithm, id, and the form in which trust files carry it
#[derive(Args)]
struct Show {
    /// A private or public key in PEM
    file: PathBuf,
}

impl Keys {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Generate(g) => g.run(),
            Command::Show(s) => s.run(),
        }
    }
}

impl Generate {
    fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(name) = &self.name
            && !is_name(&name.replace(['*', '?'], "x"))
        {
            bail!("--name {name:?}: lower-case letters, digits, . and -, with * and ? for globs");
        }
        std::fs::create_dir_all(&self.out).with_context(|| self.out.display().to_string())?;
        let algorithm = if self.algorithm == "rsa" { Algorithm::Rsa } else { Algorithm::Ed25519 };
        let key = MemoryKey::generate(algorithm)?;
        write_private(&self.out.join("signing.key"), key.to_pem()?.as_bytes())?;
        std::fs::write(self.out.join("signing.pub"), key.public_pem())?;
        let mut out = std::io::stdout().lock();
        describe(&mut out, key.public())?;
        writeln!(out, "wrote      {}: signing.key, signing.pub", self.out.display())?;
        if let (Some(name), Some(trust)) = (&self.name, &self.trust) {
            pin(trust, name, key.public())?;
            writeln!(out, "pinned     for writer {name} in {}", trust.display())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        let pem = std::fs::read(&self.file).with_context(|| self.file.display().to_string())?;
        let public = public_key(&pem).with_context(|| self.file.display().to_string())?;
        describe(&mut std::io::stdout().lock(), &public)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn public_key(pem: &[u8]) -> anyhow::Result<PublicKey> {
    if let Ok(key) = MemoryKey::from_pem(pem) {
        return Ok(key.public().clone());
    }
    let text = String::from_utf8_lossy(pem);
    let body: String = text
        .lines()
        .skip_while(|l| !l.starts_with("-----BEGIN PUBLIC KEY"))
        .skip(1)
        .take_while(|l| !l.starts_with("-----END"))
        .collect();
    if body.is_empty() {
        bail!("neither a private nor a public key in PEM");
    }
    Ok(PublicKey::from_base64(&body)?)
}

fn describe(out: &mut dyn std::io::Write, key: &PublicKey) -> std::io::Result<()> {
    writeln!(out, "algorithm  {}", key.algorithm())?;
    writeln!(out, "key id     {}", key.id())?;
    writeln!(out, "spki       {}", key.to_base64())
}

/// Adds a key to a trust file, leaving everything else in it as it stands.
fn pin(path: &Path, name: &str, key: &PublicKey) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    // A glob with * needs quotes in YAML.
    let entry = format!("  - name: \"{name}\"\n    keys:\n      - {}\n", key.to_base64());
    let mut done = false;
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let bare = line.split('#').next().unwrap_or("").trim_end();
        if !done && (bare == "writers: []" || bare == "writers:") {
            lines.push("writers:".to_owned());
            lines.push(entry.trim_end().to_owned());
            done = true;
        } else {
            lines.push(line.to_owned());
        }
    }
    if !done {
        lines.push("writers:".to_owned());
        lines.push(entry.trim_end().to_owned());
    }
    let new = lines.join("\n") + "\n";
    let pinned = Trust::parse(&new, &|p| std::fs::read(p).map_err(|e| e.to_string()))
        .map_err(|e| anyhow!(e))
        .and_then(|t| {
            if t.writers.iter().any(|w| w.name == name && w.keys.contains(key)) {
                Ok(())
            } else {
                Err(anyhow!("the entry did not become part of it"))
            }
        });
    if let Err(e) = pinned {
        bail!("{}: cannot be edited ({e}); add this under writers: by hand\n{entry}", path.display());
    }
    let tmp = path.with_extension("yaml.new");
    std::fs::write(&tmp, new)?;
    std::fs::rename(&tmp, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_keeps_what_is_there() {
        let dir = std::env::temp_dir().join(format!("waxseal-pin-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("trust.yaml");
        let key = MemoryKey::generate(Algorithm::Ed25519).unwrap().public().clone();
        let head = format!("# mine\ntrail: {}\noperators:\n  - {}\n", key.id(), key.to_base64());
        for tail in ["writers: []\n", "writers:\n  - name: other # why\n    keys: []\nrevoked: []\n", ""] {
            std::fs::write(&file, format!("{head}{tail}")).unwrap();
            pin(&file, "node-*", &key).unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("# mine\n") && text.contains("node-*"));
            assert!(!tail.contains("why") || text.contains("other # why"));
        }
        std::fs::write(&file, format!("{head}writers: [{{name: a, keys: []}}]\n")).unwrap();
        assert!(pin(&file, "b", &key).unwrap_err().to_string().contains("by hand"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
