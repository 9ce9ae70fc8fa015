//! A certificate authority for a test.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::Path;

/// Writes `ca.crt`, and for `server` and `client` a key and a certificate for this machine by that authority.
pub fn write(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::<String>::new()).expect("no names");
    authority.distinguished_name.push(DnType::CommonName, "test authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    std::fs::write(dir.join("ca.crt"), authority.self_signed(&key).expect("a certificate").pem())
        .expect("a file");
    let issuer = Issuer::new(authority, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).expect("two names").signed_by(&key, &issuer);
        let pem = certificate.expect("a certificate").pem();
        std::fs::write(dir.join(format!("{name}.crt")), pem).expect("a file");
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }
}
