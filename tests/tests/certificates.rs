//! A CA vouches for writers by the names in their certificates, and for nobody else.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use waxseal_e2e::process::{Site, post, waxseal};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate_for(algorithm).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

/// A certificate for the writer's own signing key.
fn certify(site: &Site, by: &Authority, bend: impl FnOnce(&mut CertificateParams)) {
    let pem = std::fs::read_to_string(site.path("writer/signing.key")).unwrap();
    let key = KeyPair::from_pem(&pem).unwrap();
    let mut params = CertificateParams::new(vec!["node-1".to_owned()]).unwrap();
    bend(&mut params);
    let cert = params.signed_by(&key, &by.issuer).unwrap();
    std::fs::write(site.path("writer/tls.crt"), cert.pem()).unwrap();
}

/// Seals something under the certificate and asks a verifier that trusts only the CA: exit status and verdicts.
fn verdict(
    by: &Authority,
    trusted: &Authority,
    bend: impl FnOnce(&mut CertificateParams),
) -> (i32, u64, String) {
    let site = Site::new("");
    certify(&site, by, bend);
    let yaml = std::fs::read_to_string(site.path("sink.yaml")).unwrap();
    let key = site.path("writer/signing.key").display().to_string();
    let with = format!("  - key: file:{key}\n    certificate: {}\n", site.path("writer/tls.crt").display());
    std::fs::write(site.path("sink.yaml"), yaml.replace(&format!("  - key: file:{key}\n"), &with)).unwrap();
    let sink = site.start();
    assert_eq!(post(&site.url(), &[], b"{}").unwrap().0, 200);
    sink.stop();
    std::fs::write(site.path("keys/ca.pem"), &trusted.pem).unwrap();
    let trust = std::fs::read_to_string(site.path("keys/trust.yaml")).unwrap();
    let head = &trust[..trust.find("writers:").unwrap()];
    std::fs::write(
        site.path("keys/trust.yaml"),
        format!("{head}writers:\n  - name: \"node-*\"\n    cas: [ca.pem]\n"),
    )
    .unwrap();
    let (exit, report) = site.verify(&[]);
    (exit, report["stats"]["records"].as_u64().unwrap_or(0), report["findings"].to_string())
}

#[test]
fn chains_and_names() {
    let ours = authority("ours", &rcgen::PKCS_ECDSA_P256_SHA256);
    let other = authority("other", &rcgen::PKCS_ECDSA_P384_SHA384);
    let (exit, records, _) = verdict(&ours, &ours, |_| {});
    assert_eq!((exit, records), (0, 2));
    // Each other algorithm that a CA may sign with.
    let (exit, records, _) = verdict(&other, &other, |_| {});
    assert_eq!((exit, records), (0, 2));
    let edwards = authority("edwards", &rcgen::PKCS_ED25519);
    assert_eq!(verdict(&edwards, &edwards, |_| {}).1, 2);
    // The other form of a name.
    let uri = |p: &mut CertificateParams| {
        p.subject_alt_names = vec![SanType::URI("waxseal:test:node-1".try_into().unwrap())]
    };
    assert_eq!(verdict(&ours, &ours, uri).1, 2);
    // Another CA, another name, another trail's name, a certificate of the past: nothing is vouched for.
    for (what, (exit, records, findings)) in [
        ("another CA", verdict(&other, &ours, |_| {})),
        (
            "another name",
            verdict(&ours, &ours, |p| {
                p.subject_alt_names = vec![SanType::DnsName("node-2".try_into().unwrap())]
            }),
        ),
        (
            "another trail",
            verdict(&ours, &ours, |p| {
                p.subject_alt_names = vec![SanType::URI("waxseal:prod:node-1".try_into().unwrap())]
            }),
        ),
        ("no name", verdict(&ours, &ours, |p| p.subject_alt_names = vec![])),
        ("the past", verdict(&ours, &ours, |p| p.not_after = rcgen::date_time_ymd(2020, 1, 1))),
    ] {
        assert_eq!(records, 0, "{what}: {findings}");
        assert!(exit == 1 && findings.contains("UNTRUSTED"), "{what}: {exit} {findings}");
    }
}

/// A certificate for another key vouches for nothing.
#[test]
fn the_leaf_is_for_the_key() {
    let ours = authority("ours", &rcgen::PKCS_ECDSA_P256_SHA256);
    let site = Site::new("");
    certify(&site, &ours, |_| {});
    let out =
        waxseal(&["keys", "generate", "--algorithm", "rsa", "--out", &site.path("w2").display().to_string()]);
    assert!(out.status.success());
    let yaml = std::fs::read_to_string(site.path("sink.yaml")).unwrap();
    let key = site.path("writer/signing.key").display().to_string();
    let with = format!(
        "  - key: file:{}\n    certificate: {}\n",
        site.path("w2/signing.key").display(),
        site.path("writer/tls.crt").display()
    );
    std::fs::write(site.path("sink.yaml"), yaml.replace(&format!("  - key: file:{key}\n"), &with)).unwrap();
    let out = site.run_sink(&["--check-config"]);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && err.contains("another key"), "{err}");
}
