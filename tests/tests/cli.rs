//! The command as a person uses it: refusals, exit statuses, forms of output.

use waxseal_e2e::process::{Site, piped, post, waxseal};

#[test]
fn canonicalize() {
    assert_eq!(
        piped(&["canonicalize"], b" {\"b\":1.0, \"a\":[1E2,\"\\u0041\"]} ").1,
        "{\"a\":[100,\"A\"],\"b\":1}"
    );
    let (code, out, err) = piped(&["canonicalize", "--lines"], b"[1, 2]\n{\"a\":1,\"a\":2}\n\n\"x\"\n");
    assert_eq!((code, out.as_str()), (2, "[1,2]\n\"x\"\n"));
    assert!(err.contains("line 2") && err.contains("repeated"), "{err}");
    assert_eq!(piped(&["canonicalize"], b"\"\\ud800\"").0, 2);
    assert_eq!(piped(&["canonicalize"], b"1e400").0, 2);
    // RFC 6962: the hash of a leaf has a zero byte before it.
    let (_, out, _) = piped(&["canonicalize", "--hash"], b"{}");
    assert_eq!(out, format!("{} {{}}\n", waxseal_trail::hash::leaf_hash(b"{}")));
    let (_, out, _) = piped(&["canonicalize", "--record"], br#"{"actor":"a","writer":"w","n":1e400}"#);
    assert_eq!(out, r#"{"actor":"a","metadata":{"$displaced":{"writer":"w"},"n":{"$number":"1e400"}}}"#);
    let (_, out, _) = piped(&["canonicalize", "--record", "--msgpack"], b"\x81\xa1a\xc4\x01x");
    assert_eq!(out, r#"{"metadata":{"a":{"$bytes":"eA"}}}"#);
}

#[test]
fn init_refuses_what_it_cannot_keep() {
    let dir = tempfile::tempdir().unwrap();
    let p = |s: &str| dir.path().join(s).display().to_string();
    let store = format!("file://{}", p("trail"));
    let init = |args: &[&str]| {
        let mut all = vec!["init", "--store", &store, "--out"];
        let keys = p("keys");
        all.push(&keys);
        all.extend(args);
        let out = waxseal(&all);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, err) = init(&["--name", "Prod", "--lock", "none", "--retention", "1d"]);
    assert!(code == Some(2) && err.contains("lower-case"), "{err}");
    let (code, err) = init(&["--name", "prod", "--lock", "compliance", "--retention", "1d"]);
    assert!(code == Some(2) && err.contains("no locks"), "{err}");
    let (code, err) = init(&["--name", "prod", "--lock", "none", "--retention", "5m"]);
    assert!(code == Some(2) && err.contains("days"), "{err}");
    assert_eq!(init(&["--name", "prod", "--lock", "none", "--retention", "1d"]).0, Some(0));
    let (code, err) = init(&["--name", "prod", "--lock", "none", "--retention", "1d"]);
    assert!(code == Some(2) && err.contains("already"), "{err}");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(p("keys/operator.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let out = waxseal(&["keys", "show", &p("keys/operator.key")]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("ed25519"));
}

#[test]
fn verify_says_by_whose_word() {
    let site = Site::new("");
    let sink = site.start();
    assert_eq!(
        post(&site.url(), &[], b"{\"event_id\":\"0190c2a4-7d3e-7c11-9a52-0242ac120002\"}").unwrap().0,
        200
    );
    sink.stop();
    let trail = site.path("trail").display().to_string();
    let trust = site.path("keys/trust.yaml").display().to_string();
    let out = waxseal(&["verify", &trail]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stdout).contains("UNTRUSTED KEYS: consistent, but by whose word?"));
    assert_eq!(waxseal(&["verify", &trail, "--trust-embedded"]).status.code(), Some(0));
    assert_eq!(waxseal(&["verify", &trail, "--trust", &trust]).status.code(), Some(0));
    assert_eq!(waxseal(&["verify", &trail, "--trust", &trust, "--strict"]).status.code(), Some(1));
    assert_eq!(waxseal(&["verify", "/nowhere", "--trust", &trust]).status.code(), Some(2));
    assert_eq!(waxseal(&["verify", &trail, "--trust", &trust, "--writer", "nobody"]).status.code(), Some(2));
    let (exit, report) = site.verify(&[]);
    assert_eq!((exit, &report["verdict"]), (0, &"OK".into()));
    for member in ["verdict", "trail", "lock", "freshness", "findings", "stats"] {
        assert!(!report[member].is_null(), "{member}: {report:#}");
    }
    let out = waxseal(&["show", &trail, "0190c2a4-7d3e-7c11-9a52-0242ac120002"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("under the root"));
    assert_eq!(waxseal(&["show", &trail, "0190c2a4-7d3e-7c11-9a52-000000000000"]).status.code(), Some(1));
    assert!(String::from_utf8_lossy(&waxseal(&["tree", &trail]).stdout).contains("batch 0"));
    // A log that this version cannot check is not passed over.
    let mut text = std::fs::read_to_string(&trust).unwrap();
    text.push_str("log: example.com/test+12345678+AAAA\n");
    std::fs::write(site.path("log.yaml"), text).unwrap();
    let log = site.path("log.yaml").display().to_string();
    let out = waxseal(&["verify", &trail, "--trust", &log]);
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stdout));
}

#[test]
fn generate_and_telemetry() {
    let port = waxseal_e2e::process::free_port();
    let site = Site::new(&format!("telemetry: {{listen: \"127.0.0.1:{port}\"}}\n"));
    let sink = site.start();
    let out = waxseal(&["generate", "--count", "2500", "--seed", "3", "--to", &site.url()]);
    assert!(out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("2500 events accepted, 0 unparsed"));
    let get = |path: &str| {
        let mut r = ureq::get(&format!("http://127.0.0.1:{port}{path}")).call().unwrap();
        r.body_mut().read_to_string().unwrap()
    };
    assert_eq!(get("/healthz"), "ok\n");
    assert_eq!(get("/readyz"), "ready\n");
    // Numbers follow the acknowledgements.
    let mut metrics = String::new();
    for _ in 0..200 {
        metrics = get("/metrics");
        if metrics.contains("waxseal_events_received_total 2500\n") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    assert!(metrics.contains("waxseal_events_received_total 2500\n"), "{metrics}");
    sink.stop();
    let again = || waxseal(&["generate", "--count", "50", "--seed", "3"]).stdout;
    assert_eq!(again(), again());
    let (exit, report) = site.verify(&[]);
    assert_eq!((exit, &report["stats"]["records"]), (0, &2501.into()));
}

#[test]
fn a_mistake_in_the_configuration_is_named() {
    let site = Site::new("heartbaet: 5m\n");
    let out = site.run_sink(&["--check-config"]);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success());
    assert!(err.contains("sink.yaml") && err.contains("heartbaet"), "{err}");
    let site = Site::new("");
    let out = site.run_sink(&["--check-config"]);
    assert!(
        out.status.success() && String::from_utf8_lossy(&out.stdout).contains("the configuration is good")
    );
}

#[test]
fn what_topologies_cost_is_what_the_page_says() {
    let out = waxseal(&["cost", "--nodes", "200", "--rate", "2000"]);
    let page = include_str!("../../docs/topologies.md");
    assert!(page.contains(std::str::from_utf8(&out.stdout).unwrap()), "{out:?}");
    let dir = tempfile::tempdir().unwrap();
    let prices = dir.path().join("prices.yaml");
    let yaml = page.split("```yaml\n").find(|part| part.starts_with("# prices.yaml")).unwrap();
    std::fs::write(&prices, yaml.split("```").next().unwrap()).unwrap();
    let prices = prices.display().to_string();
    let out = waxseal(&["cost", "--nodes", "200", "--rate", "2000", "--prices", &prices]);
    let amounts = String::from_utf8(out.stdout).unwrap();
    let amounts: Vec<_> = amounts.lines().filter(|l| l.contains("USD")).collect();
    assert_eq!(amounts.len(), 4);
    amounts.iter().for_each(|line| assert!(page.contains(line), "{line}"));
    // A file that says something else is refused, with its name.
    std::fs::write(dir.path().join("prices.yaml"), "currency: USD\nput_per_1000: 1\ntiers: []\n").unwrap();
    let out = waxseal(&["cost", "--nodes", "1", "--rate", "1", "--prices", &prices]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("prices.yaml: tiers"), "{said}");
}
