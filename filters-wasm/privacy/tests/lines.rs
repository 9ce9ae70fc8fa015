//! Lines as they are logged: what must not stay of them, and which must stay as they are.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test

use serde_json::{Value, json};
use waxseal_filter_testkit::{Native, converted, members, samples};
use waxseal_privacy::Privacy;
use waxseal_trail::record::Events;
use waxseal_trail::time::Time;

fn with(policy: &str, records: &[String]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("privacy.yaml");
    std::fs::write(&path, policy).unwrap();
    std::fs::write(dir.path().join("keys"), "k 000102030405060708090a0b0c0d0e0f\n").unwrap();
    let mut filter = Native::<Privacy>::load(&path).unwrap();
    let raw = converted(records.iter().map(String::as_str));
    let mut out = Events::default();
    filter.in_sink(&raw, "", Time::MIN, &mut out);
    members(&out)
}

fn one(policy: &str, record: &Value) -> Value {
    with(policy, &[record.to_string()]).remove(0)
}

#[test]
fn in_text_nothing_of_a_secret_stays() {
    let s = "hunter2zz";
    for text in [
        "password=p%26hunter2zz%2Cword",
        "DB_PASSWORD=P@ss(hunter2zz)&x!",
        "DB_PASSWORD=Tr0ub4dor,3;hunter2zz",
        "password=(hunter2zz)",
        "Authorization: SSWS hunter2zz",
        "authorization: Digest username=\"Mufasa\", response=\"hunter2zz\"",
        "Set-Cookie: sid=\"hunter2zz\"; Path=/",
        "curl -H 'Authorization: Splunk hunter2zz' https://x",
        r#"msg="line\npassword=hunter2zz""#,
        r#"INFO {"url":"/x?a=1\u0026password=hunter2zz"}"#,
        r"b'GET / HTTP/1.1\r\nhost: x\r\nauthorization: Token hunter2zz\r\n\r\n'",
        "DB_PASSWORD:                hunter2zz",
        "--password   hunter2zz",
        "Using API key: hunter2zz",
        "Secret Key: hunter2zz",
        "mot de passe: hunter2zz",
        "ALTER ROLE bob PASSWORD 'hunter2zz'",
        "ALTER USER bob IDENTIFIED BY 'hunter2zz';",
        "<password>hunter2zz</password>",
        "<wsse:Password Type=\"x\">hunter2zz</wsse:Password>",
        "PGPASSWORD=hunter2zz psql",
        "smtp_pass: hunter2zz",
        "Server=db;User Id=sa;Password=hunter2zz;Encrypt=yes",
        "{'user': 'bob', 'password': 'hunter2zz'}",
        "{User:bob Password:hunter2zz Admin:false}",
        "postgres://u:hunter2zz@db/x",
    ] {
        let out = one("", &json!({"message": text})).to_string();
        assert!(!out.contains(s), "{text} -> {out}");
    }
    for (text, secret) in [
        (r#"msg="charge\n4111111111111111 ok""#, "4111111111111111"),
        ("1,Bob,4111111111111111,123,12/27", "4111111111111111"),
        ("42,4111111111111111,100.00,USD", "4111111111111111"),
        ("n=4111111111111111,5555555555554444", "5555555555554444"),
        ("id 7,123-45-6789,2", "123-45-6789"),
        ("2024-05-01 415-555-2671", "555-2671"),
        ("12:30:45 415-555-2671 called", "555-2671"),
        ("PID 1234 (415) 555-2671", "555-2671"),
        ("415-555-2671\n415-555-2672\n415-555-2673", "555-2673"),
        ("4111 1111 1111 1111 123-45-6789", "123-45-6789"),
        ("123-45-6789 415-555-2671", "555-2671"),
        ("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 4111 1111 1111 1111", "4111 1111 1111"),
        ("411111 1111111111", "1111111111"),
        ("ya29.c.b0Aaekm1Kabcdefghijklmnopqrstuvwxyz", "Aaekm1Kabcdefghijk"),
    ] {
        let out = one("", &json!({"message": text})).to_string();
        assert!(!out.contains(secret), "{text} -> {out}");
    }
}

#[test]
fn in_records_nothing_of_a_secret_stays() {
    for record in [
        r#"{"password":"hunter2zz","password":"hunter2zz","x":1}"#,
        r#"{"actor":"bob","password":"hunter2zz","x":1,"x":2}"#,
        r#"{"credit_card_no":"hunter2zz","secret_b64":"hunter2zz","password_nr":"hunter2zz","ssn_no":"hunter2zz"}"#,
        r#"{"dbpassword":"hunter2zz","newpassword":"hunter2zz","passwords":["hunter2zz"],"userPass":"hunter2zz"}"#,
        r#"{"headers":[{"name":"Cookie","value":"sid=hunter2zz"},{"name":"X-Api-Key","value":"hunter2zz"}]}"#,
        r#"{"env":[{"name":"DB_PASSWORD","value":"hunter2zz"}]}"#,
        r#"{"env":["DB_PASSWORD=hunter2zz"]}"#,
        r#"{"argv":["mysql","--password","hunter2zz"]}"#,
        r#"{"headers":[["authorization","Token hunter2zz"]]}"#,
        r#"{"responseObject":{"kind":"SecretList","items":[{"metadata":{"name":"s"},"data":{"ca":"hunter2zz"}}]}}"#,
        r#"{"objectRef":{"resource":"secrets"},"verb":"patch","requestObject":{"data":{"dbpass":"hunter2zz"}}}"#,
        r#"{"new_values":{"hunter2zz@example.com":{"role":"admin"}}}"#,
        r#"{"privacy":{"pin":"hunter2zz"}}"#,
        r#"{"t":"{\"contrase\\u00f1a\":\"hunter2zz\",\"pass\\u0077ord\":\"hunter2zz\"}"}"#,
        r#"{"event_type":"login of hunter2zz@example.com"}"#,
    ] {
        let out = with("", &[record.to_owned()]).remove(0).to_string();
        assert!(!out.contains("hunter2zz"), "{record} -> {out}");
    }
    let out =
        one("", &json!({"date_of_birth": {"year": 1980, "month": 5, "day": 17}, "n": -4111111111111111i64}));
    let out = out.to_string();
    assert!(!out.contains("17") && !out.contains("4111111"), "{out}");
}

/// Evidence: nothing of these is anyone's secret.
#[test]
fn what_is_evidence_stays() {
    for text in [
        "sudo: alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/bin/ls",
        "pam_unix(passwd:chauthtok): password changed for carol",
        "\"GET /x HTTP/1.1\" 200 45 1234",
        "\"GET /x HTTP/1.1\" 404 234 5678",
        "Started user@1000.service, getty@tty1.service",
        "kex curve25519-sha256@libssh.org",
        "clock adjusted by +15000000 ns",
        "2024-10-10 13:55:36 +1000 12345 started",
        "RPC call 12345678",
        "arn:aws:iam::567890123407:user/bob",
        "ts=1 cookie=0x0 method=GET path=/admin status=200",
    ] {
        let out = one("", &json!({"message": text}));
        let now = out["metadata"]["message"].as_str().unwrap();
        let now = now.replace("cookie=[redacted:secrets]", "cookie=0x0");
        assert_eq!(now, text);
    }
    for record in [
        json!({"authorization": {"action": "virtualMachines/write", "scope": "/subscriptions/x"}}),
        json!({"secret": {"secretName": "prod-db-creds"}}),
        json!({"call_count": 12345678, "sms_id": 987654321}),
        json!({"userIdentity": {"accessKeyId": "AKIAIOSFODNN7EXAMPLE", "arn": "arn:aws:sts::1:assumed-role/Admin/alice@example.com"}}),
        json!({"user": {"username": "alice@example.com"}, "pwd": "/home/alice"}),
        json!({"annotations": {"authorization.k8s.io/decision": "allow"}, "token_type": "bearer", "password_changed_at": "2024-05-01"}),
    ] {
        assert_eq!(one("", &record)["metadata"], record);
    }
}

/// Of the samples of every source of audit events, only what is someone's address is changed.
#[test]
fn samples_of_audit_logs_keep_what_they_say() {
    let mut rules = std::collections::BTreeMap::new();
    for sample in samples() {
        let out = with("", std::slice::from_ref(&sample.record)).remove(0);
        for (rule, n) in out["metadata"]["privacy"].as_object().into_iter().flatten() {
            *rules.entry(rule.clone()).or_insert(0) += n.as_u64().unwrap();
            if !matches!(&**rule, "email" | "values" | "kubernetes-secrets") {
                println!("{}: {rule}: {}\n  {out}", sample.file, sample.record);
            }
        }
    }
    println!("{rules:?}");
    let others: Vec<_> =
        rules.keys().filter(|r| !matches!(&***r, "email" | "values" | "kubernetes-secrets")).collect();
    assert!(others.len() <= 2, "{others:?}");
}

#[test]
fn policies_do_what_they_say() {
    let allow = "rules: [{id: params, paths: [parameters], allow: [page, limit], action: allow}]";
    for parameters in [
        json!([{"page": 1, "q": "secret thing"}]),
        json!("{\"page\":1,\"q\":\"secret thing\"}"),
        json!("q=secret thing"),
        json!({"page": 1, "q": "secret thing"}),
    ] {
        let out = one(allow, &json!({"parameters": parameters})).to_string();
        assert!(!out.contains("secret thing"), "{out}");
    }
    let out = one(
        "rules: [{id: addr, fields: [ip], action: redact}]",
        &json!({"client_ip": "1.2.3.4", "clientIp": "1.2.3.4"}),
    );
    assert!(!out.to_string().contains("1.2.3.4"), "{out}");
    let out = one(
        "rules: [{id: pw, fields: [password], action: mask}]",
        &json!({"password": "corr@horse@battery"}),
    );
    assert_eq!(out["metadata"]["password"], "******************");
    let near = "rules:\n  - {id: a, pattern: '\\d{6}', near: [ticket], action: redact}\n  - {id: b, pattern: '\\d{6,8}', action: redact}";
    assert_eq!(one(near, &json!({"m": "value 12345678"}))["metadata"]["m"], "value [redacted:b]");
    assert_eq!(one(near, &json!({"m": "ticket 123456"}))["metadata"]["m"], "ticket [redacted:a]");
    let typed = "rules: [{id: tk, pattern: 'TCK-\\d{4}', types: [api_call], action: redact}]";
    let out = with(
        typed,
        &[
            json!({"event_type": "data_read", "TCK-9999": 1}).to_string(),
            json!({"event_type": "api_call", "TCK-9999": 1}).to_string(),
        ],
    );
    assert!(out[0].to_string().contains("TCK-9999") && !out[1].to_string().contains("TCK-9999"), "{out:?}");
    // An event that repeats names says nothing of its type: every rule is for it.
    let twice = r#"{"event_type":"x","event_type":"api_call","m":"TCK-9999","m":"TCK-9998"}"#;
    let out = with(typed, &[twice.into()]);
    assert!(!out[0].to_string().contains("TCK-999"), "{out:?}");
    let raw =
        with("rules: [{id: rawdrop, fields: [$raw], action: drop}]", &["not json password=hunter2zz".into()])
            .remove(0);
    assert!(raw["metadata"].get("$raw").is_none() && raw["metadata"].get("$raw_sha256").is_none(), "{raw}");
    let people = "keys: keys\nanonymize: [{types: [data_access]}]";
    for record in [
        json!({"category": "data_access", "actor": "Jörg", "message": "Jörg logged in"}),
        json!({"category": "data_access", "actor": "Alice", "message": "alice logged in – ok"}),
        json!({"category": "data_access", "users": [{"username": "carol"}], "username": ["erin", "frank"], "log": "{\"username\":\"grace\"}"}),
        json!({"category": "data_access", "user_id": 4242, "message": "user 4242"}),
        json!({"category": "data_access", "actor": "oscar", "oscar": 1}),
    ] {
        let out = one(people, &record);
        let text = out.to_string().to_lowercase();
        for who in ["jörg", "alice", "carol", "erin", "frank", "grace", "4242", "\"oscar\""] {
            assert!(!text.contains(who), "{out}");
        }
        assert!(out["metadata"]["privacy"]["anonymize"].as_u64() > Some(0), "{out}");
    }
}

/// Lines that would take the square of their length, if anything did.
#[test]
fn no_line_takes_the_square_of_its_length() {
    let fill = |one: &str| one.repeat(200_000 / one.len());
    for line in [
        fill("-"),
        fill("token="),
        fill("token:"),
        fill("cookie="),
        format!("Aa{}b", fill("=")),
        fill("sk-"),
        fill("npm_"),
        fill("Basic+"),
        fill("Bearer+"),
        fill("@a."),
        fill("1 "),
        fill("://a:"),
        fill("'"),
        fill("<a>"),
        fill("{\"a\":"),
        fill("%41"),
        fill("::"),
    ] {
        with("", &[json!({"message": line}).to_string()]);
    }
    let names: String = (0..9000).map(|i| format!("\"a{i:06}@example.com\":1,")).collect();
    let data: String = "\"data\":1,".repeat(20_000);
    with(
        "",
        &[format!("{{\"m\":{{{names}\"z\":1}}}}"), json!({"t": format!("{{{data}\"z\":1}}")}).to_string()],
    );
}
