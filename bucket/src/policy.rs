//! Who may do what in the bucket, as policy documents (JSON, in AWS's policy language, version 2012-10-17).
//!
//! | role | may |
//! |---|---|
//! | node | put under `writers/ certs/ batches/ events/`, read statements, not events |
//! | worker | put under `log/ anchors/ statements/`, lengthen locks of statements, read all but events |
//! | reader | read, and ask for archived objects to be restored |
//! | operator | put `trail.json` and `statements/`, set legal holds, read |
//!
//! Nobody may delete, and nobody may lock for longer than the cap.

use serde_json::{Value, json};
use waxseal_store::s3::{Encryption, Settings};

/// A role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A sink.
    Node,
    /// The anchor worker.
    Worker,
    /// An auditor, or a query.
    Reader,
    /// Whoever has the operator's key.
    Operator,
}

/// All of them.
pub const ROLES: [Role; 4] = [Role::Node, Role::Worker, Role::Reader, Role::Operator];

impl Role {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Worker => "worker",
            Role::Reader => "reader",
            Role::Operator => "operator",
        }
    }

    /// What it may write under.
    pub fn writes(self) -> &'static [&'static str] {
        match self {
            Role::Node => &["writers/", "certs/", "batches/", "events/"],
            Role::Worker => &["log/", "anchors/", "statements/"],
            Role::Reader => &[],
            Role::Operator => &["trail.json", "statements/"],
        }
    }

    /// What it may read under; empty: everything.
    fn reads(self) -> &'static [&'static str] {
        match self {
            Role::Node => &["trail.json", "writers/", "certs/", "batches/"],
            Role::Worker => {
                &["trail.json", "writers/", "certs/", "batches/", "statements/", "log/", "anchors/"]
            }
            Role::Reader | Role::Operator => &[],
        }
    }
}

fn object_arns(s: &Settings, parts: &[&str]) -> Vec<String> {
    let all = [""];
    let parts = if parts.is_empty() { &all[..] } else { parts };
    let arn = |p: &&str| {
        let rest = if p.is_empty() || p.ends_with('/') { format!("{p}*") } else { (*p).to_owned() };
        format!("arn:aws:s3:::{}/{}{rest}", s.bucket, s.prefix)
    };
    parts.iter().map(arn).collect()
}

fn bucket_arn(s: &Settings) -> String {
    format!("arn:aws:s3:::{}", s.bucket)
}

/// What a role is allowed, as statements without principals.
pub fn statements(s: &Settings, role: Role) -> Vec<Value> {
    let mut out = Vec::new();
    let sid = |what: &str| {
        let name = role.name();
        format!("Waxseal{}{}{what}", name[..1].to_uppercase(), &name[1..])
    };
    if !role.writes().is_empty() {
        out.push(json!({
            "Sid": sid("Writes"),
            "Effect": "Allow",
            // To put an object with a lock takes both.
            "Action": ["s3:PutObject", "s3:PutObjectRetention"],
            "Resource": object_arns(s, role.writes()),
        }));
    }
    let mut reads = vec!["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention"];
    if matches!(role, Role::Reader | Role::Operator) {
        reads.push("s3:GetObjectLegalHold");
    }
    if role == Role::Reader {
        reads.push("s3:RestoreObject");
    }
    out.push(json!({
        "Sid": sid("Reads"), "Effect": "Allow", "Action": reads, "Resource": object_arns(s, role.reads()),
    }));
    let mut list = json!({
        "Sid": sid("Lists"),
        "Effect": "Allow",
        "Action": ["s3:ListBucket", "s3:ListBucketVersions"],
        "Resource": bucket_arn(s),
    });
    let prefixes: Vec<String> = match role.reads() {
        [] => vec![format!("{}*", s.prefix)],
        some => some.iter().map(|p| format!("{}{p}*", s.prefix)).collect(),
    };
    // A node also has to see which versions lie under its own events keys.
    let events = (role == Role::Node).then(|| format!("{}events/*", s.prefix));
    list["Condition"] =
        json!({"StringLike": {"s3:prefix": prefixes.into_iter().chain(events).collect::<Vec<_>>()}});
    out.push(list);
    out.push(json!({
        "Sid": sid("SeesTheLock"),
        "Effect": "Allow",
        "Action": "s3:GetBucketObjectLockConfiguration",
        "Resource": bucket_arn(s),
    }));
    match role {
        Role::Worker => out.push(json!({
            "Sid": sid("LengthensLocks"),
            "Effect": "Allow",
            "Action": "s3:PutObjectRetention",
            "Resource": object_arns(s, &["trail.json", "writers/", "certs/"]),
        })),
        Role::Operator => out.push(json!({
            "Sid": sid("Holds"),
            "Effect": "Allow",
            "Action": "s3:PutObjectLegalHold",
            "Resource": object_arns(s, &[]),
        })),
        Role::Node | Role::Reader => {}
    }
    out
}

/// A policy to attach to a role.
pub fn role_policy(s: &Settings, role: Role) -> Value {
    let mut all = statements(s, role);
    if let Encryption::Kms { key: Some(key), .. } = &s.encryption
        && key.starts_with("arn:")
    {
        let mut actions = vec!["kms:Decrypt"];
        if !role.writes().is_empty() {
            actions.push("kms:GenerateDataKey");
        }
        all.push(json!({"Sid": "WaxsealKey", "Effect": "Allow", "Action": actions, "Resource": key}));
    }
    json!({"Version": "2012-10-17", "Statement": all})
}

/// The statements of the bucket's own policy: for everybody, and for the principals of each role. `cap`: days that
/// nobody may lock beyond.
pub fn bucket_statements(
    s: &Settings,
    cap: u64,
    tls: bool,
    principals: &[(Role, Vec<String>)],
) -> Vec<Value> {
    let all = object_arns(s, &[]);
    let mut out = Vec::new();
    if tls {
        out.push(json!({
            "Sid": "WaxsealTlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [bucket_arn(s), format!("{}/*", bucket_arn(s))],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }));
    }
    out.push(json!({
        "Sid": "WaxsealCapOnRetention",
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:PutObject", "s3:PutObjectRetention"],
        "Resource": all,
        "Condition": {"NumericGreaterThan": {"s3:object-lock-remaining-retention-days": cap.to_string()}},
    }));
    // An object under a key of its writer's own is one that nobody else can ever read, for as long as it is locked.
    out.push(json!({
        "Sid": "WaxsealNoKeysOfOnesOwn",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": all,
        // Where the request has it at all. As `Null: false` Ceph, which does not know the name, would refuse everything.
        "Condition": {"StringLike": {"s3:x-amz-server-side-encryption-customer-algorithm": "*"}},
    }));
    // The probes of `waxseal bucket check` lie beside the trail: theirs is the lock's own refusal.
    let mut nobody = json!({
        "Sid": "WaxsealNobodyDeletes",
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"],
    });
    if s.prefix.is_empty() {
        nobody["NotResource"] = json!([format!("{}/{}*", bucket_arn(s), crate::check::PROBES)]);
    } else {
        nobody["Resource"] = json!(all);
    }
    out.push(nobody);
    for (role, arns) in principals.iter().filter(|(_, a)| !a.is_empty()) {
        for mut statement in statements(s, *role) {
            statement["Principal"] = json!({"AWS": arns});
            out.push(statement);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_the_table_says() {
        let s = Settings::new("audit", "prod/");
        for role in ROLES {
            let text = role_policy(&s, role).to_string();
            for never in ["Delete", "Bypass", "s3:*", "PutBucket", "PutLifecycle"] {
                assert!(!text.contains(never), "{role:?}: {never}");
            }
            let puts = text.contains("s3:PutObject\"");
            assert_eq!(puts, !role.writes().is_empty(), "{role:?}");
            assert_eq!(text.contains("PutObjectLegalHold"), role == Role::Operator, "{role:?}");
        }
        let node = role_policy(&s, Role::Node);
        let reads = node["Statement"][1]["Resource"].to_string();
        assert!(!reads.contains("events/") && reads.contains("audit/prod/trail.json"), "{reads}");
    }

    #[test]
    fn a_key_of_ones_own_is_the_roles_business_and_not_the_buckets() {
        let s = Settings::parse("audit/prod?kms_key=arn:aws:kms:eu-central-1:1:key/2").unwrap();
        assert!(role_policy(&s, Role::Node).to_string().contains("kms:GenerateDataKey"));
        let reader = role_policy(&s, Role::Reader).to_string();
        assert!(reader.contains("kms:Decrypt") && !reader.contains("GenerateDataKey"), "{reader}");
        let bucket = bucket_statements(&s, 10, true, &[(Role::Node, vec!["arn:aws:iam::1:role/n".into()])]);
        assert!(!format!("{bucket:?}").contains("kms:"));
    }

    #[test]
    fn a_trail_at_the_root_of_a_bucket_leaves_the_probes_out() {
        let root = bucket_statements(&Settings::new("audit", ""), 10, true, &[]);
        assert!(root.iter().any(|s| s["NotResource"][0] == "arn:aws:s3:::audit/waxseal-probe/*"), "{root:?}");
        let below = bucket_statements(&Settings::new("audit", "prod/"), 10, false, &[]);
        assert_eq!(below.len(), 3);
        assert!(below.iter().all(|s| s["Resource"][0] == "arn:aws:s3:::audit/prod/*"));
    }
}
