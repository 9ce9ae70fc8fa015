//! The verifier's trust file (FORMAT section 3, "Trust"): never taken from the trail.

use crate::certificate::{self, CertificateFault};
use crate::hash::{Hash, sha256};
use crate::keys::{KeyFault, PublicKey};
use crate::log::policy::{Policy, PolicyFault};
use crate::name::glob_matches;
use crate::time::Time;
use serde::Deserialize;

/// What is wrong with a trust file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustFault {
    /// YAML, or members that a trust file does not have; the text names line and key.
    #[error("{0}")]
    Yaml(String),
    /// A key that cannot be used.
    #[error("{place}: {fault}")]
    Key {
        /// Where it stands.
        place: String,
        /// Why not.
        fault: KeyFault,
    },
    /// A policy that cannot be used.
    #[error("policy: {0}")]
    Policy(#[from] PolicyFault),
    /// A policy about another log than the file's.
    #[error("policy: {0}")]
    PolicyLog(&'static str),
    /// Time-stamps of no log.
    #[error("timestamps: they are over a log's checkpoints; log: has to name it")]
    Timestamps,
    /// Anchors of no log.
    #[error("ethereum: what is anchored is a log's checkpoint; log: has to name it")]
    Anchors,
    /// An address or a hash that is none.
    #[error("{place}: {text:?} is not 0x and hex digits, 40 for an address and 64 for a block's hash")]
    Contract {
        /// Where it stands.
        place: String,
        /// What stands there.
        text: String,
    },
    /// A CA certificate that cannot be used.
    #[error("{place}: {fault}")]
    Certificate {
        /// Where it stands.
        place: String,
        /// Why not.
        fault: CertificateFault,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWriter {
    name: String,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    cas: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRevoked {
    key: Hash,
    log_size: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    trail: Hash,
    operators: Vec<String>,
    #[serde(default)]
    writers: Vec<RawWriter>,
    #[serde(default)]
    log: Option<String>,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    max_anchor_age: Option<u64>,
    #[serde(default)]
    timestamps: Vec<String>,
    #[serde(default)]
    ethereum: Vec<RawContract>,
    #[serde(default)]
    revoked: Vec<RawRevoked>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContract {
    chain: u64,
    contract: String,
    sender: String,
    #[serde(default)]
    from: u64,
    #[serde(default)]
    until: Option<u64>,
    #[serde(default)]
    blocks: Vec<String>,
}

/// Bytes in hex behind 0x, of either case.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.strip_prefix("0x")?;
    data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?.try_into().ok()
}

/// A contract `AuditTrail`, and an account that anchors in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// The chain's id (EIP-155).
    pub chain: u64,
    /// The contract's address.
    pub contract: [u8; 20],
    /// The account's.
    pub sender: [u8; 20],
    /// The block that made the contract, or any before it: nothing is looked for below.
    pub from: u64,
    /// The last block whose anchors count: above it the account's key is no longer believed.
    pub until: Option<u64>,
    /// Hashes of blocks that the auditor knows to be the chain's.
    pub blocks: Vec<[u8; 32]>,
}

impl Contract {
    fn parse(raw: &RawContract, index: usize) -> Result<Contract, TrustFault> {
        let bad = |what: &str, text: &str| TrustFault::Contract {
            place: format!("ethereum[{index}].{what}"),
            text: text.to_owned(),
        };
        let block = |b: &String| hex(b).ok_or_else(|| bad("blocks", b));
        Ok(Contract {
            chain: raw.chain,
            contract: hex(&raw.contract).ok_or_else(|| bad("contract", &raw.contract))?,
            sender: hex(&raw.sender).ok_or_else(|| bad("sender", &raw.sender))?,
            from: raw.from,
            until: raw.until,
            blocks: raw.blocks.iter().map(block).collect::<Result<_, _>>()?,
        })
    }
}

/// A CA that vouches for writers by the names in their certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ca {
    /// SHA-256 of its DER.
    pub digest: Hash,
    /// Its DER, if the trust file named a file; else it has to lie under `certs/`.
    pub der: Option<Vec<u8>>,
}

/// Who vouches for writers whose name matches a glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterTrust {
    /// `*` and `?` as in a shell; matched against the name without the epoch.
    pub name: String,
    /// Pinned keys: one of a genesis vouches for its writer.
    pub keys: Vec<PublicKey>,
    /// CAs.
    pub cas: Vec<Ca>,
}

/// A key that is no longer to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The key's id.
    pub key: Hash,
    /// What the log held below this size stands.
    pub log_size: u64,
}

/// A verifier's trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The trail id.
    pub trail: Hash,
    /// One pinned operator key vouches for the trail statement.
    pub operators: Vec<PublicKey>,
    /// Who vouches for writers.
    pub writers: Vec<WriterTrust>,
    /// The log's key, as a C2SP vkey.
    pub log: Option<String>,
    /// C2SP tlog-policy.
    pub policy: Option<Policy>,
    /// Seconds after which the newest proof from outside is `STALE`; the trail's `max_merge_delay` if that is not said.
    pub max_anchor_age: Option<u64>,
    /// Roots (DER) of the time-stamping authorities that count.
    pub timestamps: Vec<Vec<u8>>,
    /// Keys that are no longer to be believed.
    pub revoked: Vec<Revoked>,
    /// Contracts whose anchors count, and whose.
    pub ethereum: Vec<Contract>,
}

impl Trust {
    /// Reads a trust file. `file` reads the CA files that it names.
    ///
    /// # Errors
    /// [`TrustFault`]; unknown and repeated members are errors.
    pub fn parse(yaml: &str, file: &dyn Fn(&str) -> Result<Vec<u8>, String>) -> Result<Trust, TrustFault> {
        let raw: Raw = serde_saphyr::from_str(yaml).map_err(|e| TrustFault::Yaml(e.to_string()))?;
        let keys = |place: &str, list: &[String]| -> Result<Vec<PublicKey>, TrustFault> {
            list.iter()
                .enumerate()
                .map(|(i, k)| {
                    PublicKey::from_base64(k)
                        .map_err(|fault| TrustFault::Key { place: format!("{place}[{i}]"), fault })
                })
                .collect()
        };
        let writers = raw
            .writers
            .iter()
            .enumerate()
            .map(|(i, w)| {
                let cas = w
                    .cas
                    .iter()
                    .enumerate()
                    .map(|(k, c)| match Hash::from_hex(c) {
                        Some(digest) => Ok(Ca { digest, der: None }),
                        None => {
                            let place = format!("writers[{i}].cas[{k}] ({c})");
                            let der = file(c)
                                .map_err(CertificateFault::File)
                                .and_then(|bytes| certificate::to_der(&bytes))
                                .map_err(|fault| TrustFault::Certificate { place, fault })?;
                            Ok(Ca { digest: sha256(&der), der: Some(der) })
                        }
                    })
                    .collect::<Result<_, TrustFault>>()?;
                Ok(WriterTrust {
                    name: w.name.clone(),
                    keys: keys(&format!("writers[{i}].keys"), &w.keys)?,
                    cas,
                })
            })
            .collect::<Result<_, TrustFault>>()?;
        let policy = raw.policy.as_deref().map(Policy::parse).transpose()?;
        match (&policy, &raw.log) {
            (Some(_), None) => {
                return Err(TrustFault::PolicyLog("it says who witnesses a log; log: has to name it"));
            }
            (Some(p), Some(log))
                if !p.logs.is_empty() && p.logs.iter().all(|l| l.key.to_string() != *log) =>
            {
                return Err(TrustFault::PolicyLog("its log is another one than log: names"));
            }
            _ => {}
        }
        let mut timestamps = Vec::new();
        for (i, name) in raw.timestamps.iter().enumerate() {
            let fault = |fault| TrustFault::Certificate { place: format!("timestamps[{i}] ({name})"), fault };
            let bytes = file(name).map_err(|e| fault(CertificateFault::File(e)))?;
            timestamps.extend(certificate::all_to_der(&bytes).map_err(fault)?);
        }
        if !timestamps.is_empty() && raw.log.is_none() {
            return Err(TrustFault::Timestamps);
        }
        let contract = |(i, raw)| Contract::parse(raw, i);
        let ethereum = raw.ethereum.iter().enumerate().map(contract).collect::<Result<Vec<_>, _>>()?;
        if !ethereum.is_empty() && raw.log.is_none() {
            return Err(TrustFault::Anchors);
        }
        Ok(Trust {
            trail: raw.trail,
            operators: keys("operators", &raw.operators)?,
            writers,
            log: raw.log,
            max_anchor_age: raw.max_anchor_age,
            policy,
            timestamps,
            revoked: raw.revoked.iter().map(|r| Revoked { key: r.key, log_size: r.log_size }).collect(),
            ethereum,
        })
    }

    /// The entries whose glob matches a writer's name.
    pub fn entries<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a WriterTrust> {
        self.writers.iter().filter(move |w| glob_matches(&w.name, name))
    }

    /// Whether a pinned key of this writer's entries is among `keys`.
    pub fn pins_one_of(&self, name: &str, keys: &[PublicKey]) -> bool {
        self.entries(name).any(|w| w.keys.iter().any(|k| keys.contains(k)))
    }

    /// Whether a CA of this writer's entries vouches for one of `keys`: `chains` are the certificates of each
    /// key, leaf first, and `at` the time they are judged at.
    ///
    /// # Errors
    /// Why the last chain tried was refused; nothing if there was none.
    pub fn ca_vouches(
        &self,
        trail_name: &str,
        name: &str,
        keys: &[(PublicKey, Vec<Vec<u8>>)],
        at: Time,
        stored: &dyn Fn(&Hash) -> Option<Vec<u8>>,
    ) -> Result<bool, CertificateFault> {
        let mut last = None;
        for ca in self.entries(name).flat_map(|w| &w.cas) {
            let Some(root) = ca.der.clone().or_else(|| stored(&ca.digest)) else {
                last = Some(CertificateFault::File(format!("certs/{}.der is not there", ca.digest)));
                continue;
            };
            for (key, chain) in keys.iter().filter(|(_, c)| !c.is_empty()) {
                match certificate::verify_chain(chain, key, &root, trail_name, name, at) {
                    Ok(()) => return Ok(true),
                    Err(e) => last = Some(e),
                }
            }
        }
        last.map_or(Ok(false), Err)
    }
}
