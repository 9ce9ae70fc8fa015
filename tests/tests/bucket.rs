//! `waxseal bucket` and `waxseal hold` against real S3 servers, each fault of a bucket by its name.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::*;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::time::Duration;
use waxseal_e2e::process::{Site, bin, post};
use waxseal_e2e::s3::servers::{Server, all as servers, ceph};
use waxseal_e2e::s3::{client, client_as, credentials, make_bucket, runtime};

const QUICK: &str = "batch: {max_events: 500, max_age: 100ms}\nheartbeat: 1h\n";

fn waxseal(args: &[&str], env: &[(String, String)]) -> (i32, String, String) {
    let mut command = std::process::Command::new(bin("waxseal"));
    command.args(args).envs(env.iter().map(|(k, v)| (k, v)));
    let out = command.output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

/// The states of all checks by name; of several with one name the worst.
fn check(url: &str, more: &[&str], env: &[(String, String)]) -> (i32, Vec<(String, String)>, String) {
    let mut args = vec!["bucket", "check", url, "--format", "json"];
    args.extend(more);
    let (exit, out, err) = waxseal(&args, env);
    let all: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {err}"));
    let text = |c: &Value, m: &str| c[m].as_str().unwrap_or_default().to_owned();
    let all: Vec<_> = all.as_array().unwrap().iter().map(|c| (text(c, "name"), text(c, "state"))).collect();
    (exit, all, out)
}

fn failed(all: &[(String, String)]) -> Vec<&str> {
    // The servers of the tests speak plain HTTP, which is a fault, and always named.
    all.iter().filter(|(n, s)| s == "failed" && n != "tls").map(|(n, _)| n.as_str()).collect()
}

#[test]
fn init_makes_a_vault_and_check_proves_it() {
    // A minute has to pass at each; at all of them together.
    let servers = servers();
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| vault(server));
        }
    });
}

fn vault(server: &Server) {
    let url = server.url("vault", "prod");
    let env = credentials();
    let (_, shown, _) = waxseal(&["bucket", "init", &url, "--retention", "30d", "--dry-run"], &env);
    for what in [
        "WaxsealCapOnRetention",
        "ObjectLockEnabledForBucket",
        "role worker",
        "PUT requests a year",
        "GLACIER",
    ] {
        assert!(shown.contains(what), "{what}: {shown}");
    }
    let (exit, _, err) = waxseal(&["bucket", "init", &url, "--retention", "30d"], &env);
    assert!(exit != 0 && err.contains("--confirm 30d"), "{err}");
    let mut args = vec!["bucket", "init", &url, "--retention", "30d", "--confirm", "30d"];
    let ceph = server.name.starts_with("Ceph");
    if ceph {
        // Its public access block refuses every write there is.
        args.extend(["--skip", "public-access"]);
    }
    let (exit, out, err) = waxseal(&args, &env);
    assert_eq!(exit, 0, "{}: {out} {err}", server.name);
    // Again: nothing breaks.
    let (exit, out, err) = waxseal(&args, &env);
    assert_eq!(exit, 0, "{}: {out} {err}", server.name);
    let (exit, all, out) = check(&url, &["--retention", "30d"], &env);
    assert_eq!(failed(&all), Vec::<&str>::new(), "{}: {out}", server.name);
    assert_eq!(exit, 1, "plain HTTP is a fault: {out}");
    for name in [
        "object-lock",
        "lock-mode",
        "default-retention",
        "versioning",
        "retention-cap",
        "roles",
        "lifecycle",
        "replication",
        "clock",
        "probe-put",
        "probe-lock",
        "probe-overwrite",
        "probe-delete",
        "probe-delete-version",
        "probe-shorten",
        "probe-weaken",
        "probe-bypass",
        "probe-bypass-shorten",
        "probe-end",
    ] {
        assert!(all.contains(&(name.to_owned(), "ok".to_owned())), "{}: {name}: {out}", server.name);
    }
    let told = if ceph { "warning" } else { "ok" };
    for name in ["probe-condition", "probe-checksum", "probe-digest"] {
        assert!(all.contains(&(name.to_owned(), told.to_owned())), "{}: {name}: {out}", server.name);
    }
    println!("{}: {} checks", server.name, all.len());
    // The trail that is made there is what the bucket is checked against.
    let site = Site::at(&url, "compliance", env.clone(), QUICK);
    let sink = site.start();
    post(&site.url(), &[], b"{\"a\":1}\n").unwrap();
    sink.stop();
    assert_eq!(site.verify(&[]).0, 0);
    let (_, all, out) = check(&url, &["--no-wait"], &env);
    assert_eq!(failed(&all), Vec::<&str>::new(), "{out}");
}

async fn put_policy(s3: &Client, bucket: &str, statements: Value) {
    let policy = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    s3.put_bucket_policy().bucket(bucket).policy(policy).send().await.unwrap();
}

#[test]
fn each_fault_has_its_name() {
    let runtime = runtime();
    for server in servers() {
        let s3 = client(&server.endpoint());
        let env = credentials();
        let ceph = server.name.starts_with("Ceph");
        let fails = |bucket: &str, names: &[&str]| {
            let url = server.url(bucket, "prod");
            let (exit, all, out) = check(&url, &["--retention", "30d", "--no-wait"], &env);
            let found = failed(&all);
            for name in names {
                assert!(found.contains(name), "{}: {bucket}: {name}: {out}", server.name);
            }
            assert_eq!(exit, 1);
            println!("{:<18} {bucket:<12} {}", server.name, found.join(" "));
        };
        // No lock, no versions; and versions that are suspended.
        runtime.block_on(make_bucket(&s3, "plain", false));
        fails("plain", &["object-lock", "versioning", "retention-cap"]);
        let suspended = VersioningConfiguration::builder().status(BucketVersioningStatus::Suspended).build();
        runtime
            .block_on(s3.put_bucket_versioning().bucket("plain").versioning_configuration(suspended).send())
            .unwrap();
        fails("plain", &["object-lock", "versioning"]);
        // Governance, too short; and none at all.
        runtime.block_on(make_bucket(&s3, "weak", true));
        fails("weak", &["default-retention"]);
        let default = DefaultRetention::builder().mode(ObjectLockRetentionMode::Governance).days(1).build();
        let config = ObjectLockConfiguration::builder()
            .object_lock_enabled(ObjectLockEnabled::Enabled)
            .rule(ObjectLockRule::builder().default_retention(default).build())
            .build();
        runtime
            .block_on(
                s3.put_object_lock_configuration().bucket("weak").object_lock_configuration(config).send(),
            )
            .unwrap();
        fails("weak", &["lock-mode", "default-retention"]);
        // Rules that delete, and one that archives headers.
        let rule = |id: &str, prefix: &str| {
            LifecycleRule::builder()
                .id(id)
                .status(ExpirationStatus::Enabled)
                .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
        };
        let gone = LifecycleExpiration::builder().days(1).build();
        let old = NoncurrentVersionExpiration::builder().noncurrent_days(1).build();
        let cold = Transition::builder().days(1).storage_class(TransitionStorageClass::Glacier).build();
        for rule in [
            rule("gone", "").expiration(gone),
            rule("old", "prod/").noncurrent_version_expiration(old),
            rule("cold", "prod/batches/").transitions(cold.clone()),
        ] {
            let rules = BucketLifecycleConfiguration::builder().rules(rule.build().unwrap()).build().unwrap();
            let put = s3.put_bucket_lifecycle_configuration().bucket("weak").lifecycle_configuration(rules);
            runtime.block_on(put.send()).unwrap();
            fails("weak", &["lifecycle"]);
        }
        // Elsewhere in the bucket, and of events, that is nobody's loss.
        let rules = BucketLifecycleConfiguration::builder()
            .rules(rule("cold", "prod/events/").transitions(cold).build().unwrap())
            .rules(
                rule("other", "other/")
                    .expiration(LifecycleExpiration::builder().days(1).build())
                    .build()
                    .unwrap(),
            )
            .build()
            .unwrap();
        let put = s3.put_bucket_lifecycle_configuration().bucket("weak").lifecycle_configuration(rules);
        runtime.block_on(put.send()).unwrap();
        let (_, all, out) = check(&server.url("weak", "prod"), &["--no-wait"], &env);
        assert!(!failed(&all).contains(&"lifecycle"), "{out}");
        // Policies that give too much, and a cap that is too low.
        let resource = json!(["arn:aws:s3:::weak/*"]);
        let bob = json!({"AWS": ["arn:aws:iam:::user/bob"]});
        let bob = if ceph { bob } else { json!({"AWS": ["arn:aws:iam::123456789012:user/bob"]}) };
        for statement in [
            json!({"Sid": "A", "Effect": "Allow", "Principal": bob, "Action": "s3:Delete*", "Resource": resource}),
            json!({"Sid": "B", "Effect": "Allow", "Principal": bob, "Action": ["s3:*"], "Resource": resource}),
            json!({"Sid": "C", "Effect": "Allow", "Principal": bob, "Action": ["s3:PutObject"], "Resource": resource}),
            json!({"Sid": "D", "Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": resource}),
        ] {
            runtime.block_on(put_policy(&s3, "weak", json!([statement])));
            fails("weak", &["roles", "retention-cap"]);
        }
        let cap = json!([{
            "Sid": "Cap", "Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"], "Resource": resource,
            "Condition": {"NumericGreaterThan": {"s3:object-lock-remaining-retention-days": "7"}},
        }]);
        runtime.block_on(put_policy(&s3, "weak", cap));
        fails("weak", &["retention-cap"]);
        runtime.block_on(s3.delete_bucket_policy().bucket("weak").send()).unwrap();
        // A server whose lacks nobody has said are known.
        if ceph {
            let url = server.url("weak", "prod").replace("&conditional_writes=false&checksums=false", "");
            let (_, all, out) = check(&url, &["--no-wait"], &env);
            for name in ["probe-condition", "probe-checksum", "probe-digest"] {
                assert!(failed(&all).contains(&name), "{name}: {out}");
            }
            continue;
        }
        // A replica that can be deleted.
        runtime.block_on(s3.delete_public_access_block().bucket("weak").send()).unwrap();
        fails("weak", &["public-access"]);
        runtime.block_on(make_bucket(&s3, "replica", false));
        let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        runtime
            .block_on(s3.put_bucket_versioning().bucket("replica").versioning_configuration(on).send())
            .unwrap();
        let target = Destination::builder().bucket("arn:aws:s3:::replica").build().unwrap();
        let rule = ReplicationRule::builder()
            .status(ReplicationRuleStatus::Enabled)
            .priority(1)
            .filter(ReplicationRuleFilter::builder().prefix("").build())
            .delete_marker_replication(
                DeleteMarkerReplication::builder().status(DeleteMarkerReplicationStatus::Disabled).build(),
            )
            .destination(target)
            .build()
            .unwrap();
        let config = ReplicationConfiguration::builder().role("arn:aws:iam::000000000000:role/r").rules(rule);
        let put =
            s3.put_bucket_replication().bucket("weak").replication_configuration(config.build().unwrap());
        runtime.block_on(put.send()).unwrap();
        fails("weak", &["replication"]);
        // A key that is about to be deleted, one that is disabled, and one that somebody could delete.
        let by = ServerSideEncryptionByDefault::builder()
            .sse_algorithm(ServerSideEncryption::AwsKms)
            .kms_master_key_id("arn:aws:kms:us-east-1:000000000000:key/k")
            .build()
            .unwrap();
        let rule = ServerSideEncryptionRule::builder().apply_server_side_encryption_by_default(by).build();
        let config = ServerSideEncryptionConfiguration::builder().rules(rule).build().unwrap();
        let put = s3.put_bucket_encryption().bucket("weak").server_side_encryption_configuration(config);
        runtime.block_on(put.send()).unwrap();
        for (state, manager, want) in [
            ("PendingDeletion", "CUSTOMER", "failed"),
            ("Disabled", "CUSTOMER", "failed"),
            ("Enabled", "CUSTOMER", "warning"),
            ("Enabled", "AWS", "ok"),
        ] {
            let mut env = credentials();
            env.push(("AWS_ENDPOINT_URL_KMS".to_owned(), kms(state, manager)));
            let (_, all, out) = check(&server.url("weak", "prod"), &["--no-wait"], &env);
            assert!(all.contains(&("kms-key".to_owned(), want.to_owned())), "{state}: {out}");
        }
    }
}

/// A KMS that knows one key; it answers once. Its URL.
fn kms(state: &'static str, manager: &'static str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 8192];
        let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
        let _ = stream.read(&mut request);
        let body = json!({"KeyMetadata": {"KeyId": "k", "KeyState": state, "KeyManager": manager, "DeletionDate": 1.9e9}});
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all((head + &body).as_bytes());
    });
    format!("http://{address}")
}

#[test]
fn roles_can_do_their_work_and_nothing_else() {
    let Some(server) = ceph() else {
        println!("NOT TRIED: users and policies need Ceph RGW, which cannot be had here");
        return;
    };
    let url = server.url("roles", "prod");
    let owner = credentials();
    let role_env = |name: &str| {
        let (access, secret) = server.user(name).expect("a user is made");
        let mut env = credentials();
        env.retain(|(k, _)| !k.ends_with("KEY_ID") && !k.ends_with("ACCESS_KEY"));
        env.push(("AWS_ACCESS_KEY_ID".to_owned(), access.clone()));
        env.push(("AWS_SECRET_ACCESS_KEY".to_owned(), secret.clone()));
        (env, access, secret)
    };
    let (node, _, _) = role_env("node");
    let (worker, _, _) = role_env("worker");
    let (reader, access, secret) = role_env("reader");
    let (exit, out, err) = waxseal(
        &[
            "bucket",
            "init",
            &url,
            "--retention",
            "30d",
            "--confirm",
            "30d",
            "--skip",
            "public-access",
            "--node",
            "arn:aws:iam:::user/node",
            "--worker",
            "arn:aws:iam:::user/worker",
            "--reader",
            "arn:aws:iam:::user/reader",
        ],
        &owner,
    );
    assert_eq!(exit, 0, "{out} {err}");
    // The owner makes the trail; the sink is a node.
    let mut site = Site::at(&url, "compliance", owner.clone(), QUICK);
    site.env = node.clone();
    let sink = site.start();
    for n in 0..20 {
        post(&site.url(), &[], format!("{{\"n\":{n}}}\n").as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    let log = sink.stop();
    assert!(!log.contains("AccessDenied"), "a node lacks a right that it needs: {log}");
    // A reader verifies it all.
    site.env = reader.clone();
    let (exit, report) = site.verify(&[]);
    assert_eq!(exit, 0, "{report:#}");
    // And nobody does what is another's.
    for (role, env) in [("node", &node), ("worker", &worker), ("reader", &reader)] {
        let (exit, all, out) = check(&url, &["--role", role], env);
        assert!(all.iter().filter(|(n, s)| n == "role-write" && s == "ok").count() >= 4, "{role}: {out}");
        assert_eq!(failed(&all), Vec::<&str>::new(), "{role}: {out}");
        assert_eq!(exit, 0, "{role}: {out}");
        println!(
            "{role}: {} things tried and refused",
            all.iter().filter(|(n, s)| n.starts_with("role-") && s == "ok").count()
        );
    }
    // With the owner's credentials, the same tries are allowed, and named.
    let (exit, all, out) = check(&url, &["--role", "reader"], &owner);
    assert!(exit == 1 && failed(&all).contains(&"role-write"), "{out}");
    let s3 = client_as(&server.endpoint(), &access, &secret);
    let key = runtime().block_on(s3.list_objects_v2().bucket("roles").prefix("prod/").send()).unwrap();
    let key = key.contents()[0].key().unwrap().to_owned();
    let deleted = runtime().block_on(s3.delete_object().bucket("roles").key(key).send());
    assert!(deleted.is_err(), "a reader may not delete");
}

#[test]
fn holds_keep_what_they_name() {
    let runtime = runtime();
    for server in servers() {
        let s3 = client(&server.endpoint());
        runtime.block_on(make_bucket(&s3, "court", true));
        // Without locks of its own: what is refused is refused by the hold.
        let site = Site::at(&server.url("court", "t"), "none", credentials(), QUICK);
        let sink = site.start();
        for n in 0..4 {
            post(&site.url(), &[], format!("{{\"n\":{n}}}\n").as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(300));
        }
        sink.stop();
        let shown = site.waxseal(&["show", &site.store, "node-1:2"]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let end = shown.rfind("\n}").map_or(0, |e| e + 2);
        let record: Value = serde_json::from_str(&shown[..end]).unwrap();
        std::fs::write(site.path("records"), record.to_string() + "\n").unwrap();
        let records = site.path("records").display().to_string();
        let run = |args: &[&str]| {
            let out = site.waxseal(args);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success(), "{args:?}: {text} {}", String::from_utf8_lossy(&out.stderr));
            text
        };
        let listed = run(&["hold", "set", &site.store, "--records", &records, "--dry-run"]);
        assert!(listed.contains("1 batches with") && listed.contains("trail.json"), "{listed}");
        run(&["hold", "set", &site.store, "--records", &records]);
        let all = runtime.block_on(s3.list_object_versions().bucket("court").prefix("t/").send()).unwrap();
        let delete = |key: &str, version: &str| {
            let sent = s3.delete_object().bucket("court").key(key).version_id(version).send();
            runtime.block_on(sent).is_ok()
        };
        let held: Vec<(String, String)> = all
            .versions()
            .iter()
            .map(|v| (v.key().unwrap().to_owned(), v.version_id().unwrap().to_owned()))
            .filter(|(k, _)| listed.contains(k.trim_start_matches("t/")))
            .collect();
        // Header, events object, trail statement, genesis.
        assert_eq!(held.len(), 4, "{listed}");
        for (key, version) in &held {
            assert!(!delete(key, version), "{}: {key} is held", server.name);
        }
        run(&["hold", "lift", &site.store, "--records", &records, "--shared"]);
        for (key, version) in &held {
            assert!(delete(key, version), "{}: {key} is not held any more", server.name);
        }
    }
}
