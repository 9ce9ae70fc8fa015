//! Makes a bucket a vault, or changes one into it: one step a setting, each shown before it is done.

use crate::policy::{self, Role};
use crate::{Bucket, Refusal, refusal};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, BucketLocationConstraint, BucketVersioningStatus,
    CreateBucketConfiguration, DefaultRetention, ExpirationStatus, LifecycleRule, LifecycleRuleAndOperator,
    LifecycleRuleFilter, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockRetentionMode, ObjectLockRule,
    PublicAccessBlockConfiguration, ServerSideEncryption, ServerSideEncryptionByDefault,
    ServerSideEncryptionConfiguration, ServerSideEncryptionRule, Transition, TransitionStorageClass,
    VersioningConfiguration,
};
use serde_json::{Value, json};
use waxseal_store::s3::Encryption;
use waxseal_trail::statement::Lock;

/// Objects below this size are never moved: cheaper classes bill them as if they had it.
pub const SMALLEST: i64 = 128 << 10;
/// The rule of ours among a bucket's lifecycle rules.
const RULE: &str = "waxseal-events";

/// What the bucket is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The default lock.
    pub lock: Lock,
    /// The default retention, in days.
    pub days: u64,
    /// Nobody may lock for more days than this.
    pub cap: u64,
    /// Events objects move to `STANDARD_IA` after so many days.
    pub infrequent: Option<u32>,
    /// And to `GLACIER` after so many.
    pub archive: Option<u32>,
    /// Who has which role, as ARNs.
    pub principals: Vec<(Role, Vec<String>)>,
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The bucket, with Object Lock from its beginning.
    Create,
    /// Versions.
    Versioning,
    /// Default lock and retention.
    Retention,
    /// Encryption by default.
    Encryption,
    /// No public access.
    PublicAccess,
    /// Moves of events objects.
    Lifecycle,
    /// The bucket's policy.
    Policy,
}

/// All of them, in order.
pub const STEPS: [Step; 7] = [
    Step::Create,
    Step::Versioning,
    Step::Retention,
    Step::Encryption,
    Step::PublicAccess,
    Step::Lifecycle,
    Step::Policy,
];

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is set now.
    Done,
    /// There is nothing to do.
    Already,
    /// The server does not know this setting.
    Unsupported(Refusal),
}

impl Step {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Step::Create => "bucket",
            Step::Versioning => "versioning",
            Step::Retention => "retention",
            Step::Encryption => "encryption",
            Step::PublicAccess => "public-access",
            Step::Lifecycle => "lifecycle",
            Step::Policy => "policy",
        }
    }
}

fn mode(lock: Lock) -> ObjectLockRetentionMode {
    match lock {
        Lock::Governance => ObjectLockRetentionMode::Governance,
        _ => ObjectLockRetentionMode::Compliance,
    }
}

impl Bucket {
    /// Whether it is spoken to with TLS.
    pub fn is_encrypted(&self) -> bool {
        let endpoint = self.settings.endpoint.as_deref().or_else(|| self.found.endpoint_url());
        endpoint.is_none_or(|e| e.starts_with("https://"))
    }

    /// What a step sets, for people. Of policy and lifecycle only what is ours: what else is there stays.
    pub fn describe(&self, wanted: &Wanted, step: Step) -> Value {
        let s = &self.settings;
        match step {
            Step::Create => json!({
                "Bucket": s.bucket,
                "Region": self.found.region().map(ToString::to_string),
                "ObjectLockEnabledForBucket": true,
            }),
            Step::Versioning => json!({"Status": "Enabled"}),
            Step::Retention => json!({
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": {"Mode": mode(wanted.lock).as_str(), "Days": wanted.days}},
            }),
            Step::Encryption => match &s.encryption {
                Encryption::S3 => json!({"SSEAlgorithm": "AES256"}),
                Encryption::Kms { key, bucket_key } => {
                    json!({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key, "BucketKeyEnabled": bucket_key})
                }
                Encryption::Bucket => json!("left as it is (encryption=bucket)"),
            },
            Step::PublicAccess => json!({
                "BlockPublicAcls": true, "IgnorePublicAcls": true, "BlockPublicPolicy": true,
                "RestrictPublicBuckets": true,
            }),
            Step::Lifecycle => {
                let moves = [("STANDARD_IA", wanted.infrequent), ("GLACIER", wanted.archive)];
                let moves: Vec<Value> = moves
                    .iter()
                    .filter_map(|(class, days)| Some(json!({"Days": (*days)?, "StorageClass": class})))
                    .collect();
                json!({
                    "ID": RULE,
                    "Filter": {"Prefix": self.key("events/"), "ObjectSizeGreaterThan": SMALLEST - 1},
                    "Transitions": moves,
                })
            }
            Step::Policy => json!({
                "Version": "2012-10-17",
                "Statement":
                    policy::bucket_statements(s, wanted.cap, self.is_encrypted(), &wanted.principals),
            }),
        }
    }

    /// Does one step.
    ///
    /// # Errors
    /// The server's refusal.
    pub fn apply(&self, wanted: &Wanted, step: Step) -> Result<Outcome, Refusal> {
        let done = self.runtime.block_on(async {
            match step {
                Step::Create => self.create().await,
                Step::Versioning => self.versioning().await,
                Step::Retention => self.retention(wanted).await,
                Step::Encryption => self.encryption().await,
                Step::PublicAccess => self.public_access().await,
                Step::Lifecycle => self.lifecycle(wanted).await,
                Step::Policy => self.policy(wanted).await,
            }
        });
        match done {
            // The lock, the versions and the policy are what this is for.
            Err(e) if e.is_unknown() && matches!(step, Step::Encryption | Step::PublicAccess) => {
                Ok(Outcome::Unsupported(e))
            }
            other => other,
        }
    }

    async fn create(&self) -> Result<Outcome, Refusal> {
        if self.client.head_bucket().bucket(self.name()).send().await.is_ok() {
            return Ok(Outcome::Already);
        }
        let region = self.found.region().map_or("us-east-1", |r| r.as_ref()).to_owned();
        let place = (region != "us-east-1").then(|| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(region.as_str()))
                .build()
        });
        let create = self
            .client
            .create_bucket()
            .bucket(self.name())
            .object_lock_enabled_for_bucket(true)
            .set_create_bucket_configuration(place);
        match create.send().await.map_err(refusal) {
            Ok(_) => Ok(Outcome::Done),
            Err(e) if e.code == "BucketAlreadyOwnedByYou" => Ok(Outcome::Already),
            Err(e) => Err(e),
        }
    }

    async fn versioning(&self) -> Result<Outcome, Refusal> {
        let now = self.client.get_bucket_versioning().bucket(self.name()).send().await.map_err(refusal)?;
        if now.status() == Some(&BucketVersioningStatus::Enabled) {
            return Ok(Outcome::Already);
        }
        let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        let put = self.client.put_bucket_versioning().bucket(self.name()).versioning_configuration(on);
        put.send().await.map_err(refusal)?;
        Ok(Outcome::Done)
    }

    async fn retention(&self, wanted: &Wanted) -> Result<Outcome, Refusal> {
        let days = i32::try_from(wanted.days).unwrap_or(i32::MAX);
        let default = DefaultRetention::builder().mode(mode(wanted.lock)).days(days).build();
        let want = ObjectLockConfiguration::builder()
            .object_lock_enabled(ObjectLockEnabled::Enabled)
            .rule(ObjectLockRule::builder().default_retention(default).build())
            .build();
        let now = self.client.get_object_lock_configuration().bucket(self.name()).send().await;
        if now.is_ok_and(|n| n.object_lock_configuration() == Some(&want)) {
            return Ok(Outcome::Already);
        }
        let put =
            self.client.put_object_lock_configuration().bucket(self.name()).object_lock_configuration(want);
        put.send().await.map_err(refusal)?;
        Ok(Outcome::Done)
    }

    async fn encryption(&self) -> Result<Outcome, Refusal> {
        let by = match &self.settings.encryption {
            Encryption::Bucket => return Ok(Outcome::Already),
            Encryption::S3 => {
                ServerSideEncryptionByDefault::builder().sse_algorithm(ServerSideEncryption::Aes256)
            }
            Encryption::Kms { key, .. } => ServerSideEncryptionByDefault::builder()
                .sse_algorithm(ServerSideEncryption::AwsKms)
                .set_kms_master_key_id(key.clone()),
        };
        let by = by.build().map_err(own_fault)?;
        let bucket_key = match &self.settings.encryption {
            Encryption::Kms { bucket_key, .. } => Some(*bucket_key),
            _ => None,
        };
        let rule = ServerSideEncryptionRule::builder()
            .apply_server_side_encryption_by_default(by)
            .set_bucket_key_enabled(bucket_key)
            .build();
        let want = ServerSideEncryptionConfiguration::builder().rules(rule).build().map_err(own_fault)?;
        let put = self.client.put_bucket_encryption().bucket(self.name());
        put.server_side_encryption_configuration(want).send().await.map_err(refusal)?;
        Ok(Outcome::Done)
    }

    async fn public_access(&self) -> Result<Outcome, Refusal> {
        let want = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .ignore_public_acls(true)
            .block_public_policy(true)
            .restrict_public_buckets(true)
            .build();
        let put = self.client.put_public_access_block().bucket(self.name());
        put.public_access_block_configuration(want).send().await.map_err(refusal)?;
        Ok(Outcome::Done)
    }

    async fn lifecycle(&self, wanted: &Wanted) -> Result<Outcome, Refusal> {
        let now = self.client.get_bucket_lifecycle_configuration().bucket(self.name()).send().await;
        let mut rules: Vec<LifecycleRule> = match now.map_err(refusal) {
            Ok(now) => now.rules().to_vec(),
            Err(e) if e.is_absent() => Vec::new(),
            Err(e) => return Err(e),
        };
        let ours = (wanted.infrequent.is_some() || wanted.archive.is_some())
            .then(|| self.lifecycle_rule(wanted).map_err(own_fault))
            .transpose()?;
        let old = rules.iter().find(|r| r.id() == Some(RULE));
        if old == ours.as_ref() {
            return Ok(Outcome::Already);
        }
        rules.retain(|r| r.id() != Some(RULE));
        rules.extend(ours);
        if rules.is_empty() {
            self.client.delete_bucket_lifecycle().bucket(self.name()).send().await.map_err(refusal)?;
            return Ok(Outcome::Done);
        }
        let want =
            BucketLifecycleConfiguration::builder().set_rules(Some(rules)).build().map_err(own_fault)?;
        let put = self.client.put_bucket_lifecycle_configuration().bucket(self.name());
        put.lifecycle_configuration(want).send().await.map_err(refusal)?;
        Ok(Outcome::Done)
    }

    fn lifecycle_rule(&self, wanted: &Wanted) -> Result<LifecycleRule, aws_sdk_s3::error::BuildError> {
        let which = LifecycleRuleAndOperator::builder()
            .prefix(self.key("events/"))
            .object_size_greater_than(SMALLEST - 1)
            .build();
        let step = |days: Option<u32>, class| {
            let days = i32::try_from(days?).ok()?;
            Some(Transition::builder().days(days).storage_class(class).build())
        };
        let moves = [
            step(wanted.infrequent, TransitionStorageClass::StandardIa),
            step(wanted.archive, TransitionStorageClass::Glacier),
        ];
        let moves: Vec<Transition> = moves.into_iter().flatten().collect();
        LifecycleRule::builder()
            .id(RULE)
            .status(ExpirationStatus::Enabled)
            .filter(LifecycleRuleFilter::builder().and(which).build())
            .set_transitions(Some(moves))
            .build()
    }

    async fn policy(&self, wanted: &Wanted) -> Result<Outcome, Refusal> {
        let mut policy = match self.read_policy().await {
            Ok(Some(p)) => p,
            Ok(None) => json!({"Version": "2012-10-17", "Statement": []}),
            Err(e) => return Err(e),
        };
        let before = policy.clone();
        let ours =
            policy::bucket_statements(&self.settings, wanted.cap, self.is_encrypted(), &wanted.principals);
        let mut all = match policy["Statement"].take() {
            Value::Array(all) => all,
            Value::Null => Vec::new(),
            one => vec![one],
        };
        let of_ours = |s: &Value| s["Sid"].as_str().is_some_and(|sid| sid.starts_with("Waxseal"));
        all.retain(|s| !of_ours(s));
        all.extend(ours);
        policy["Statement"] = Value::Array(all);
        if policy == before {
            return Ok(Outcome::Already);
        }
        let put = self.client.put_bucket_policy().bucket(self.name()).policy(policy.to_string());
        put.send().await.map_err(refusal)?;
        Ok(Outcome::Done)
    }

    pub(crate) async fn read_policy(&self) -> Result<Option<Value>, Refusal> {
        match self.client.get_bucket_policy().bucket(self.name()).send().await.map_err(refusal) {
            Ok(p) => {
                let text = p.policy().unwrap_or_default();
                let parsed = serde_json::from_str(text);
                parsed.map(Some).map_err(|e| own_fault(format!("the bucket's policy is no JSON: {e}")))
            }
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn own_fault(e: impl std::fmt::Display) -> Refusal {
    Refusal { status: 0, code: e.to_string(), message: String::new() }
}
