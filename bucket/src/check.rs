//! Whether a bucket really is a vault: what it says of itself, and what it does when it is tried.
//!
//! Nothing is taken from what was asked for when the bucket was made. The probe is an object with a lock of one minute
//! beside the trail; everything that must not work is tried on it, and, when the minute is over, that it can be deleted.

#![allow(clippy::disallowed_methods)] // locks are about the real clock, and what is tried is tried now

use crate::policy::Role;
use crate::{Bucket, Refusal, refusal};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumMode, ExpirationStatus, LifecycleRule, ObjectLockEnabled, ObjectLockMode,
    ObjectLockRetention, ObjectLockRetentionMode, ReplicationRuleStatus, TransitionStorageClass,
};
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_types::date_time::Format;
use data_encoding::{BASE64, HEXLOWER};
use serde::Serialize;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use waxseal_trail::hash::sha256;
use waxseal_trail::statement::Lock;

/// Where probes lie, in the bucket and not below the trail's prefix.
pub const PROBES: &str = "waxseal-probe/";
/// How long a probe is locked.
const PROBE: Duration = Duration::from_secs(60);
/// A clock that is further away is worth a word; AWS refuses at 15 minutes.
const SKEW: Duration = Duration::from_secs(60);

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it must be.
    Ok,
    /// It holds, and somebody should know this.
    Warning,
    /// Not as it must be.
    Failed,
    /// It could not be seen with these credentials, or at this server.
    Unknown,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Its name, the same in every release.
    pub name: &'static str,
    /// What came of it.
    pub state: State,
    /// What was seen.
    pub detail: String,
}

/// What the bucket has to keep.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How strongly.
    pub lock: Lock,
    /// How many days.
    pub days: u64,
}

/// Told of each check when it is made.
pub type Tell<'t> = &'t mut dyn FnMut(&Check);

struct Checks<'t> {
    all: Vec<Check>,
    tell: Tell<'t>,
}

impl Checks<'_> {
    fn say(&mut self, name: &'static str, state: State, detail: impl Into<String>) {
        let check = Check { name, state, detail: detail.into() };
        (self.tell)(&check);
        self.all.push(check);
    }

    fn unknown(&mut self, name: &'static str, e: &Refusal) {
        let what = if e.is_unknown() { "the server does not know this" } else { "it cannot be seen" };
        self.say(name, State::Unknown, format!("{what}: {e}"));
    }
}

/// Remembers the server's clock.
#[derive(Debug)]
struct Dates(Arc<Mutex<Option<String>>>);

impl Intercept for Dates {
    fn name(&self) -> &'static str {
        "Dates"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").map(str::to_owned);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}

impl Bucket {
    /// Makes all checks. With `wait`, also that a lock ends: that takes a minute. `role`: with these credentials, what
    /// that role must not do.
    pub fn check(&self, policy: Policy, wait: bool, role: Option<Role>, tell: Tell<'_>) -> Vec<Check> {
        let mut c = Checks { all: Vec::new(), tell };
        self.runtime.block_on(async {
            if !self.clock(&mut c).await {
                return;
            }
            if let Some(role) = role {
                self.role(&mut c, role).await;
                return;
            }
            self.object_lock(&mut c, policy).await;
            self.versioning_state(&mut c).await;
            self.public(&mut c).await;
            self.policy_state(&mut c, policy).await;
            self.lifecycle_state(&mut c).await;
            self.replication(&mut c).await;
            self.keys(&mut c).await;
            self.probe(&mut c, policy, wait).await;
        });
        c.all
    }

    /// Whether the bucket answers, and what time it is there.
    async fn clock(&self, c: &mut Checks<'_>) -> bool {
        let date = Arc::default();
        let head =
            self.client.head_bucket().bucket(self.name()).customize().interceptor(Dates(Arc::clone(&date)));
        let sent = head.send().await;
        let theirs = date.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Err(e) = sent {
            let e = refusal(e);
            match e.status {
                404 => c.say(
                    "bucket",
                    State::Failed,
                    format!("{} is not there: waxseal bucket init makes it", self.name()),
                ),
                // A node may not look at the bucket itself.
                403 => c.say(
                    "bucket",
                    State::Unknown,
                    format!("it may not be looked at with these credentials: {e}"),
                ),
                _ => c.say("bucket", State::Failed, format!("it does not answer: {e}")),
            }
            if e.status != 403 {
                return false;
            }
        } else {
            c.say("bucket", State::Ok, self.settings.place());
        }
        let theirs = theirs.and_then(|d| DateTime::from_str(&d, Format::HttpDate).ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match theirs {
            None => c.say("clock", State::Unknown, "the server does not say what time it is"),
            Some(t) => {
                let away = (t.secs() - now.as_secs().cast_signed()).unsigned_abs();
                let state = if away > 10 * SKEW.as_secs() {
                    State::Failed
                } else if away > SKEW.as_secs() {
                    State::Warning
                } else {
                    State::Ok
                };
                c.say("clock", state, format!("{away} s between this machine's clock and the server's"));
            }
        }
        true
    }

    async fn object_lock(&self, c: &mut Checks<'_>, policy: Policy) {
        let asked = self.client.get_object_lock_configuration().bucket(self.name()).send().await;
        let now = match asked.map_err(refusal) {
            Ok(now) => now,
            Err(e) if e.is_absent() => {
                return c.say("object-lock", State::Failed, "Object Lock is off: nothing here is kept");
            }
            Err(e) => return c.unknown("object-lock", &e),
        };
        let config = now.object_lock_configuration();
        if config.and_then(|c| c.object_lock_enabled()) != Some(&ObjectLockEnabled::Enabled) {
            return c.say("object-lock", State::Failed, "Object Lock is off: nothing here is kept");
        }
        c.say("object-lock", State::Ok, "on");
        let Some(default) = config.and_then(|c| c.rule()).and_then(|r| r.default_retention()) else {
            c.say(
                "default-retention",
                State::Failed,
                "none: what is put without a lock can be deleted at once",
            );
            return;
        };
        let governance = default.mode() != Some(&ObjectLockRetentionMode::Compliance);
        let name = default.mode().map_or("none", |m| m.as_str());
        if governance && policy.lock == Lock::Compliance {
            c.say(
                "lock-mode",
                State::Failed,
                format!(
                    "{name}: whoever has s3:BypassGovernanceRetention deletes; the trail says compliance"
                ),
            );
        } else {
            c.say("lock-mode", State::Ok, name);
        }
        let days =
            default.days().map(i64::from).or_else(|| Some(i64::from(default.years()?) * 365)).unwrap_or(0);
        let short = u64::try_from(days).unwrap_or(0) < policy.days;
        let state = if short { State::Failed } else { State::Ok };
        c.say("default-retention", state, format!("{days} days; the trail promises {}", policy.days));
    }

    async fn versioning_state(&self, c: &mut Checks<'_>) {
        match self.client.get_bucket_versioning().bucket(self.name()).send().await.map_err(refusal) {
            Err(e) => c.unknown("versioning", &e),
            Ok(now) => match now.status() {
                Some(BucketVersioningStatus::Enabled) => c.say("versioning", State::Ok, "enabled"),
                other => {
                    let other = other.map_or("never enabled", |s| s.as_str());
                    c.say("versioning", State::Failed, format!("{other}: what is written over is gone"));
                }
            },
        }
    }

    async fn public(&self, c: &mut Checks<'_>) {
        match self.client.get_public_access_block().bucket(self.name()).send().await.map_err(refusal) {
            Ok(now) => {
                let block = now.public_access_block_configuration();
                let all = block.is_some_and(|b| {
                    [
                        b.block_public_acls(),
                        b.ignore_public_acls(),
                        b.block_public_policy(),
                        b.restrict_public_buckets(),
                    ]
                    .iter()
                    .all(|x| *x == Some(true))
                });
                let (state, says) = if all {
                    (State::Ok, "blocked")
                } else {
                    (State::Failed, "not blocked in all four ways")
                };
                c.say("public-access", state, says);
            }
            Err(e) if e.is_absent() => c.say("public-access", State::Failed, "not blocked"),
            Err(e) => c.unknown("public-access", &e),
        }
        let everyone = [
            "http://acs.amazonaws.com/groups/global/AllUsers",
            "http://acs.amazonaws.com/groups/global/AuthenticatedUsers",
        ];
        if let Ok(acl) = self.client.get_bucket_acl().bucket(self.name()).send().await {
            let open = acl
                .grants()
                .iter()
                .any(|g| g.grantee().and_then(|g| g.uri()).is_some_and(|u| everyone.contains(&u)));
            if open {
                c.say("public-acl", State::Failed, "the bucket's ACL grants something to everyone");
            } else {
                c.say("public-acl", State::Ok, "no grant to everyone");
            }
        }
    }

    async fn policy_state(&self, c: &mut Checks<'_>, want: Policy) {
        if !self.is_encrypted() {
            c.say(
                "tls",
                State::Failed,
                "this endpoint is plain HTTP: whoever is on the way reads and changes everything",
            );
        }
        let policy = match self.read_policy().await {
            Ok(p) => p.unwrap_or(Value::Null),
            Err(e) => return c.unknown("policy", &e),
        };
        let all = match &policy["Statement"] {
            Value::Array(all) => all.clone(),
            Value::Null => Vec::new(),
            one => vec![one.clone()],
        };
        // What is denied to everybody, for every object of the trail.
        let object = format!("arn:aws:s3:::{}/{}batches/x", self.settings.bucket, self.settings.prefix);
        let covered = |s: &Value| {
            let reaches = match &s["NotResource"] {
                Value::Null => texts(&s["Resource"]).iter().any(|r| covers(r, &object)),
                not => !texts(not).iter().any(|r| covers(r, &object)),
            };
            reaches && texts(&s["Action"]).iter().any(|a| covers(a, "s3:PutObject"))
        };
        let denies = |all: &[Value], test: &dyn Fn(&Value) -> bool| {
            all.iter().any(|s| s["Effect"] == "Deny" && is_everyone(&s["Principal"]) && covered(s) && test(s))
        };
        let tls = denies(&all, &|s| {
            texts(&s["Condition"]["Bool"]["aws:SecureTransport"]).iter().any(|t| t == "false")
        });
        if self.is_encrypted() {
            let (state, says) = if tls {
                (State::Ok, "demanded by the policy")
            } else {
                (State::Failed, "the policy lets plain HTTP in")
            };
            c.say("tls", state, says);
        }
        let denied = |s: &&Value| s["Effect"] == "Deny" && is_everyone(&s["Principal"]) && covered(s);
        let cap = all.iter().filter(denied).find_map(|s| {
            let condition = &s["Condition"]["NumericGreaterThan"]["s3:object-lock-remaining-retention-days"];
            texts(condition).first()?.parse::<u64>().ok()
        });
        match cap {
            None => c.say(
                "retention-cap",
                State::Failed,
                "none: any node can lock an object for a hundred years, and nobody could undo that",
            ),
            Some(cap) if cap < want.days => c.say(
                "retention-cap",
                State::Failed,
                format!("{cap} days are less than the trail's {}: its writes are refused", want.days),
            ),
            Some(cap) => c.say("retention-cap", State::Ok, format!("{cap} days")),
        }
        let mut bad = Vec::new();
        for s in all.iter().filter(|s| s["Effect"] == "Allow") {
            let sid = s["Sid"].as_str().unwrap_or("without a Sid");
            let who =
                if is_everyone(&s["Principal"]) { "everyone".to_owned() } else { s["Principal"].to_string() };
            if is_everyone(&s["Principal"]) && s["Condition"].is_null() {
                bad.push(format!("{sid}: allows everyone"));
            }
            if !s["NotPrincipal"].is_null() {
                bad.push(format!("{sid}: NotPrincipal allows everyone who is not named"));
            }
            if !s["NotAction"].is_null() {
                bad.push(format!("{sid}: NotAction allows {who} what nobody listed"));
            }
            let actions = texts(&s["Action"]);
            for never in NEVER {
                if let Some(a) = actions.iter().find(|a| covers(a, never)) {
                    bad.push(format!("{sid}: {a} lets {who} {}", deed(never)));
                    break;
                }
            }
            // One who writes what sinks write must not write what the worker does.
            if actions.iter().any(|a| covers(a, "s3:PutObject")) {
                let prefix = format!("arn:aws:s3:::{}/{}", self.settings.bucket, self.settings.prefix);
                let writes =
                    |part: &str| texts(&s["Resource"]).iter().any(|r| covers(r, &format!("{prefix}{part}x")));
                let areas = ["batches/", "log/", "trail.json"].iter().filter(|p| writes(p)).count();
                if areas > 1 {
                    bad.push(format!("{sid}: lets {who} write as sink, worker and operator at once"));
                }
            }
        }
        if bad.is_empty() {
            c.say("roles", State::Ok, "the bucket's policy gives nobody too much; what roles are given in IAM is not seen here (--role tries it)");
        } else {
            c.say("roles", State::Failed, bad.join("; "));
        }
    }

    async fn lifecycle_state(&self, c: &mut Checks<'_>) {
        let asked = self.client.get_bucket_lifecycle_configuration().bucket(self.name()).send().await;
        let rules = match asked.map_err(refusal) {
            Ok(now) => now.rules().to_vec(),
            Err(e) if e.is_absent() => Vec::new(),
            Err(e) => return c.unknown("lifecycle", &e),
        };
        let mut bad = Vec::new();
        for rule in rules.iter().filter(|r| r.status() == &ExpirationStatus::Enabled) {
            let id = rule.id().unwrap_or("without an id");
            let prefix = prefix_of(rule);
            // Whether anything of the trail can lie under it.
            let ours = &self.settings.prefix;
            if !prefix.starts_with(ours.as_str()) && !ours.starts_with(prefix) {
                continue;
            }
            if rule.expiration().is_some_and(|e| e.days().is_some() || e.date().is_some()) {
                bad.push(format!("{id}: deletes what is current (a marker over each object)"));
            }
            if rule.noncurrent_version_expiration().is_some() {
                bad.push(format!("{id}: deletes versions as soon as their locks end"));
            }
            let archives = |class: Option<&TransitionStorageClass>| {
                matches!(class, Some(TransitionStorageClass::Glacier | TransitionStorageClass::DeepArchive))
            };
            let moved = rule.transitions().iter().any(|t| archives(t.storage_class()))
                || rule.noncurrent_version_transitions().iter().any(|t| archives(t.storage_class()));
            if moved && !prefix.starts_with(&self.key("events/")) {
                bad.push(format!("{id}: archives what has to be read at once (headers, keys, log); only events/ may be moved"));
            }
        }
        if bad.is_empty() {
            c.say(
                "lifecycle",
                State::Ok,
                format!("{} rules, none deletes or archives what must stay", rules.len()),
            );
        } else {
            c.say("lifecycle", State::Failed, bad.join("; "));
        }
    }

    async fn replication(&self, c: &mut Checks<'_>) {
        let asked = self.client.get_bucket_replication().bucket(self.name()).send().await;
        let config = match asked.map_err(refusal) {
            Ok(now) => now.replication_configuration().cloned(),
            Err(e) if e.is_absent() => None,
            Err(e) => return c.unknown("replication", &e),
        };
        let Some(config) = config.filter(|c| !c.rules().is_empty()) else {
            return c.say(
                "replication",
                State::Ok,
                "none (a replica outside this account survives its owner)",
            );
        };
        for rule in config.rules().iter().filter(|r| r.status() == &ReplicationRuleStatus::Enabled) {
            let Some(target) = rule.destination().map(|d| d.bucket()) else { continue };
            let name = target.rsplit(':').next().unwrap_or(target);
            let asked = self.client.get_object_lock_configuration().bucket(name).send().await;
            match asked.map_err(refusal) {
                Ok(now)
                    if now.object_lock_configuration().and_then(|c| c.object_lock_enabled()).is_some() =>
                {
                    c.say("replication", State::Ok, format!("{name} has Object Lock"));
                }
                Ok(_) => c.say(
                    "replication",
                    State::Failed,
                    format!("{name} has no Object Lock: the replica can be deleted"),
                ),
                Err(e) if e.is_absent() => {
                    c.say(
                        "replication",
                        State::Failed,
                        format!("{name} has no Object Lock: the replica can be deleted"),
                    );
                }
                Err(e) => c.say(
                    "replication",
                    State::Unknown,
                    format!("whether {name} has Object Lock cannot be seen: {e}"),
                ),
            }
        }
    }

    /// Encryption, and whether a key could erase it all.
    async fn keys(&self, c: &mut Checks<'_>) {
        use waxseal_store::s3::Encryption;
        let asked = self.client.get_bucket_encryption().bucket(self.name()).send().await;
        let rule = asked.map_err(refusal).map(|now| {
            let config = now.server_side_encryption_configuration();
            config.and_then(|e| e.rules().first()?.apply_server_side_encryption_by_default().cloned())
        });
        let mut keys: Vec<String> = Vec::new();
        if let Encryption::Kms { key, .. } = &self.settings.encryption {
            keys.push(key.clone().unwrap_or_else(|| "alias/aws/s3".to_owned()));
        }
        match &rule {
            Err(e) if !e.is_absent() => c.unknown("encryption", e),
            Ok(None) | Err(_) => c.say("encryption", State::Warning, "the bucket has no default"),
            Ok(Some(r)) => {
                c.say("encryption", State::Ok, r.sse_algorithm().as_str().to_owned());
                if r.sse_algorithm().as_str().starts_with("aws:kms") {
                    keys.push(r.kms_master_key_id().unwrap_or("alias/aws/s3").to_owned());
                }
            }
        }
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            self.kms_key(c, &key).await;
        }
    }

    async fn kms_key(&self, c: &mut Checks<'_>, key: &str) {
        use aws_sdk_kms::types::{KeyManagerType, KeyState};
        let kms = aws_sdk_kms::Client::new(&self.found);
        let asked = kms.describe_key().key_id(key).send().await;
        let meta = match asked.map_err(refusal) {
            Ok(d) => d.key_metadata().cloned(),
            Err(e) => return c.say("kms-key", State::Unknown, format!("{key}: {e}")),
        };
        let Some(meta) = meta else {
            return c.say("kms-key", State::Unknown, format!("{key}: KMS says nothing of it"));
        };
        match meta.key_state() {
            Some(KeyState::Enabled) => {}
            Some(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => {
                let when =
                    meta.deletion_date().and_then(|d| d.fmt(Format::DateTime).ok()).unwrap_or_default();
                return c.say("kms-key", State::Failed, format!("{key} will be deleted {when}: everything that it encrypts is then gone, lock or no lock"));
            }
            other => {
                let other = other.map_or("unknown", |s| s.as_str());
                return c.say(
                    "kms-key",
                    State::Failed,
                    format!("{key} is {other}: nothing can be read or written"),
                );
            }
        }
        if meta.key_manager() == Some(&KeyManagerType::Customer) {
            c.say("kms-key", State::Warning, format!("{key} is managed by the customer: whoever may delete it can erase the trail, lock or no lock"));
        } else {
            c.say("kms-key", State::Ok, format!("{key} is managed by AWS and cannot be deleted"));
        }
    }

    async fn probe(&self, c: &mut Checks<'_>, policy: Policy, wait: bool) {
        let (bucket, key) = (self.name(), probe_key());
        let until = SystemTime::now() + PROBE;
        let mode = match policy.lock {
            Lock::Governance => ObjectLockMode::Governance,
            _ => ObjectLockMode::Compliance,
        };
        let body = b"a probe of waxseal bucket check; it can be deleted after a minute".to_vec();
        let digest = BASE64.encode(&sha256(&body).0);
        let put = |condition: bool, digest: &str, body: &[u8]| {
            self.client
                .put_object()
                .bucket(bucket)
                .key(&key)
                .body(ByteStream::from(body.to_vec()))
                .checksum_sha256(digest)
                .set_if_none_match(condition.then(|| "*".to_owned()))
                .object_lock_mode(mode.clone())
                .object_lock_retain_until_date(DateTime::from(until))
        };
        let mut written = Vec::new();
        let version = match put(true, &digest, &body).send().await.map_err(refusal) {
            Ok(o) => o.version_id().map(str::to_owned),
            Err(e) => return c.say("probe-put", State::Failed, format!("{key}: {e}")),
        };
        let Some(version) = version else {
            return c.say(
                "probe-put",
                State::Failed,
                format!("{key}: no version id: nothing is versioned here"),
            );
        };
        written.push(version.clone());
        c.say("probe-put", State::Ok, format!("{key}, locked until {}", in_a_minute(until)));

        let head = self.client.head_object().bucket(bucket).key(&key).version_id(&version);
        match head.checksum_mode(ChecksumMode::Enabled).send().await.map_err(refusal) {
            Err(e) => c.unknown("probe-lock", &e),
            Ok(h) => {
                let kept = h.object_lock_mode() == Some(&mode)
                    && h.object_lock_retain_until_date().is_some_and(|d| {
                        d.secs()
                            >= until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed()
                    });
                let (state, says) = if kept {
                    (State::Ok, "kept as it was sent")
                } else {
                    (State::Failed, "the server dropped the lock that was sent")
                };
                c.say("probe-lock", state, says);
                match h.checksum_sha256() {
                    Some(there) if there == digest => c.say("probe-checksum", State::Ok, "kept"),
                    Some(_) => c.say("probe-checksum", State::Failed, "another than was sent"),
                    None if !self.settings.checksums => {
                        c.say("probe-checksum", State::Warning, "not kept (checksums=false)")
                    }
                    None => c.say(
                        "probe-checksum",
                        State::Failed,
                        "not kept: checksums=false says that this is known",
                    ),
                }
            }
        }
        let wrong = BASE64.encode(&sha256(b"something else").0);
        match put(false, &wrong, &body).send().await.map_err(refusal) {
            Err(e) if e.status == 400 => {
                c.say("probe-digest", State::Ok, format!("a wrong digest is refused: {}", e.code))
            }
            Err(e) => c.unknown("probe-digest", &e),
            Ok(o) => {
                written.extend(o.version_id().map(str::to_owned));
                let state = if self.settings.checksums { State::Failed } else { State::Warning };
                c.say("probe-digest", state, "the server does not compare a digest with what arrives");
            }
        }
        match put(true, &digest, &body).send().await.map_err(refusal) {
            Err(e) if e.status == 412 => {
                c.say("probe-condition", State::Ok, "If-None-Match keeps a second write out")
            }
            Err(e) => c.unknown("probe-condition", &e),
            Ok(o) => {
                written.extend(o.version_id().map(str::to_owned));
                let (state, says) = if self.settings.conditional_writes {
                    (
                        State::Failed,
                        "the server ignores If-None-Match: conditional_writes=false says that this is known",
                    )
                } else {
                    (State::Warning, "the server ignores If-None-Match (conditional_writes=false)")
                };
                c.say("probe-condition", state, says);
            }
        }
        let stays = async || {
            let get = self.client.get_object().bucket(bucket).key(&key).version_id(&version).send().await;
            match get {
                Ok(o) => o.body.collect().await.is_ok_and(|b| b.to_vec() == body),
                Err(_) => false,
            }
        };
        let over = BASE64.encode(&sha256(b"over it").0);
        match put(false, &over, b"over it").send().await.map_err(refusal) {
            Err(e) => c.say("probe-overwrite", State::Ok, format!("refused: {e}")),
            Ok(o) => {
                written.extend(o.version_id().map(str::to_owned));
                if stays().await {
                    c.say("probe-overwrite", State::Ok, "adds a version; the locked one stays");
                } else {
                    c.say("probe-overwrite", State::Failed, "the locked version is gone");
                }
            }
        }
        match self.client.delete_object().bucket(bucket).key(&key).send().await.map_err(refusal) {
            Err(e) => c.say("probe-delete", State::Ok, format!("refused: {e}")),
            Ok(o) => {
                written.extend(o.version_id().map(str::to_owned));
                if stays().await {
                    c.say("probe-delete", State::Ok, "adds a marker; the locked version stays");
                } else {
                    c.say("probe-delete", State::Failed, "the locked version is gone");
                }
            }
        }
        let refused = |c: &mut Checks<'_>, name, answer: Result<(), Refusal>| match answer {
            Err(e) if e.status == 403 => c.say(name, State::Ok, format!("refused: {}", e.code)),
            Err(e) if (400..500).contains(&e.status) => c.say(name, State::Ok, format!("refused: {e}")),
            Err(e) => c.unknown(name, &e),
            Ok(()) => c.say(name, State::Failed, "the server allowed it"),
        };
        let delete = async |version: &str, bypass: bool| {
            let d = self.client.delete_object().bucket(bucket).key(&key).version_id(version);
            let d = d.set_bypass_governance_retention(bypass.then_some(true));
            d.send().await.map(drop).map_err(refusal)
        };
        let retain = async |mode: ObjectLockRetentionMode, seconds: u64, bypass: bool| {
            let until = DateTime::from(SystemTime::now() + Duration::from_secs(seconds));
            let r = ObjectLockRetention::builder().mode(mode).retain_until_date(until).build();
            let p =
                self.client.put_object_retention().bucket(bucket).key(&key).version_id(&version).retention(r);
            let p = p.set_bypass_governance_retention(bypass.then_some(true));
            p.send().await.map(drop).map_err(refusal)
        };
        let same = match policy.lock {
            Lock::Governance => ObjectLockRetentionMode::Governance,
            _ => ObjectLockRetentionMode::Compliance,
        };
        refused(c, "probe-delete-version", delete(&version, false).await);
        refused(c, "probe-shorten", retain(same.clone(), 5, false).await);
        if policy.lock == Lock::Compliance {
            refused(c, "probe-weaken", retain(ObjectLockRetentionMode::Governance, 600, false).await);
            refused(c, "probe-bypass-shorten", retain(same, 5, true).await);
            refused(c, "probe-bypass", delete(&version, true).await);
        }
        if !wait {
            return c.say(
                "probe-end",
                State::Unknown,
                format!("not waited for; {key} can be deleted after {}", in_a_minute(until)),
            );
        }
        let left = until.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_secs(3);
        tokio::time::sleep(left).await;
        let mut kept = Vec::new();
        for v in &written {
            if let Err(e) = delete(v, false).await {
                kept.push(e.to_string());
            }
        }
        match kept.first() {
            None => c.say("probe-end", State::Ok, "after its minute the probe could be deleted, and is"),
            Some(e) => c.say(
                "probe-end",
                State::Warning,
                format!("after its minute the probe could not be deleted: {e}"),
            ),
        }
    }

    /// What a role must not be able to do, tried with its own credentials.
    async fn role(&self, c: &mut Checks<'_>, role: Role) {
        let bucket = self.name();
        let until = SystemTime::now() + PROBE;
        for area in
            ["writers/", "certs/", "batches/", "events/", "log/", "anchors/", "statements/", "trail.json"]
        {
            if role.writes().contains(&area) {
                continue;
            }
            let key = format!(
                "{}{}",
                self.key(area),
                if area.ends_with('/') { probe_key() } else { ".probe".to_owned() }
            );
            let put = self
                .client
                .put_object()
                .bucket(bucket)
                .key(&key)
                .body(ByteStream::from_static(b"a probe"))
                .checksum_sha256(BASE64.encode(&sha256(b"a probe").0))
                .object_lock_mode(ObjectLockMode::Compliance)
                .object_lock_retain_until_date(DateTime::from(until));
            match put.send().await.map_err(refusal) {
                Err(e) if e.status == 403 => {
                    c.say("role-write", State::Ok, format!("a {} may not write under {area}", role.name()))
                }
                Err(e) => c.unknown("role-write", &e),
                Ok(_) => c.say(
                    "role-write",
                    State::Failed,
                    format!("a {} may write under {area}; {key} can be deleted after a minute", role.name()),
                ),
            }
        }
        // Neither key nor version is there: what is found out is whether one may.
        let key = format!("{}{}", self.key("batches/"), probe_key());
        let delete = self.client.delete_object().bucket(bucket).key(&key).send().await;
        match delete.map_err(refusal) {
            Err(e) if e.status == 403 => {
                c.say("role-delete", State::Ok, format!("a {} may not delete", role.name()))
            }
            Err(e) => c.unknown("role-delete", &e),
            Ok(_) => c.say(
                "role-delete",
                State::Failed,
                format!("a {} may delete: a marker lies at {key}", role.name()),
            ),
        }
        if role == Role::Reader || role == Role::Operator {
            return;
        }
        let get =
            self.client.list_objects_v2().bucket(bucket).prefix(self.key("events/")).max_keys(1).send().await;
        match get.map_err(refusal) {
            Ok(found) if role == Role::Node => {
                let Some(key) = found.contents().first().and_then(|o| o.key()) else { return };
                let get = self.client.get_object().bucket(bucket).key(key).range("bytes=0-0").send().await;
                match get.map_err(refusal) {
                    Err(e) if e.status == 403 => c.say("role-read", State::Ok, "a node may not read events"),
                    Err(e) => c.unknown("role-read", &e),
                    Ok(_) => c.say(
                        "role-read",
                        State::Warning,
                        "a node may read events: whoever has its credentials reads them too. Where objects belong to \
                         who wrote them (ACLs; on AWS, another setting than BucketOwnerEnforced) no policy prevents that",
                    ),
                }
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// What no statement of a bucket's policy may allow anybody.
const NEVER: [&str; 8] = [
    "s3:DeleteObjectVersion",
    "s3:DeleteObject",
    "s3:BypassGovernanceRetention",
    "s3:PutBucketPolicy",
    "s3:PutLifecycleConfiguration",
    "s3:PutBucketVersioning",
    "s3:PutBucketObjectLockConfiguration",
    "s3:PutReplicationConfiguration",
];

fn deed(action: &str) -> &'static str {
    match action {
        "s3:DeleteObjectVersion" | "s3:DeleteObject" => "delete",
        "s3:BypassGovernanceRetention" => "end governance locks",
        _ => "change how the bucket is protected",
    }
}

fn texts(v: &Value) -> Vec<String> {
    match v {
        Value::String(s) => vec![s.clone()],
        Value::Array(a) => a.iter().filter_map(|x| x.as_str().map(str::to_owned)).collect(),
        Value::Bool(b) => vec![b.to_string()],
        Value::Number(n) => vec![n.to_string()],
        _ => Vec::new(),
    }
}

fn is_everyone(principal: &Value) -> bool {
    principal == "*" || texts(&principal["AWS"]).iter().any(|p| p == "*")
}

/// Whether a pattern with `*` and `?` covers a text; case counts only where it does in AWS's policies: in resources.
fn covers(pattern: &str, text: &str) -> bool {
    let fold = |s: &str| if s.starts_with("arn:") { s.to_owned() } else { s.to_lowercase() };
    let (p, t): (Vec<char>, Vec<char>) = (fold(pattern).chars().collect(), fold(text).chars().collect());
    let (mut i, mut j, mut star) = (0, 0, None);
    while j < t.len() {
        if i < p.len() && (p[i] == '?' || p[i] == t[j]) && p[i] != '*' {
            (i, j) = (i + 1, j + 1);
        } else if i < p.len() && p[i] == '*' {
            star = Some((i, j));
            i += 1;
        } else if let Some((si, sj)) = star {
            star = Some((si, sj + 1));
            (i, j) = (si + 1, sj + 1);
        } else {
            return false;
        }
    }
    p[i..].iter().all(|c| *c == '*')
}

fn prefix_of(rule: &LifecycleRule) -> &str {
    let filter = rule.filter();
    let and = filter.and_then(|f| f.and()).and_then(|a| a.prefix());
    #[allow(deprecated)] // old rules have it here
    let old = rule.prefix();
    and.or_else(|| filter.and_then(|f| f.prefix())).or(old).unwrap_or("")
}

fn probe_key() -> String {
    let mut random = [0; 8];
    // Without randomness two probes may meet; that harms neither.
    let _ = getrandom::fill(&mut random);
    format!("{PROBES}{}", HEXLOWER.encode(&random))
}

fn in_a_minute(until: SystemTime) -> String {
    DateTime::from(until).fmt(Format::DateTime).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, yes) in [
            ("s3:*", "s3:DeleteObject", true),
            ("*", "s3:DeleteObject", true),
            ("s3:Delete*", "s3:DeleteObjectVersion", true),
            ("S3:deleteobject", "s3:DeleteObject", true),
            ("s3:Get*", "s3:DeleteObject", false),
            ("s3:DeleteObject", "s3:DeleteObjectVersion", false),
            ("arn:aws:s3:::b/*/x", "arn:aws:s3:::b/a/c/x", true),
            ("arn:aws:s3:::b/log/*", "arn:aws:s3:::b/batches/x", false),
            ("a*b*c", "abbbc", true),
            ("a*b*c", "abbb", false),
            ("a?c", "abc", true),
        ] {
            assert_eq!(covers(pattern, text), yes, "{pattern} {text}");
        }
    }
}
