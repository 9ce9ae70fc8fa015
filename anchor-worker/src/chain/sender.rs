//! The account that anchors, and what signs for it: a keystore file, a key from the environment, or AWS KMS.

use alloy_primitives::{Address, B256, Signature};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeySpec, MessageType, SigningAlgorithmSpec};
use std::path::Path;
use std::time::Duration;

/// An account, and its key.
pub struct Sender {
    address: Address,
    key: Key,
}

enum Key {
    Local(PrivateKeySigner),
    Kms { client: aws_sdk_kms::Client, id: String, runtime: tokio::runtime::Runtime },
}

impl Sender {
    /// The key of `keystore:/path` (Web3 Secret Storage, its password from `password`), `env:NAME` (64 hex digits) or `kms:<key id,
    /// alias or ARN>`; paths are relative to `dir`.
    ///
    /// # Errors
    /// A text that says what cannot be used, and never the key.
    pub fn open(key: &str, password: Option<&str>, dir: &Path) -> Result<Sender, String> {
        match key.split_once(':') {
            Some(("keystore", path)) => {
                let password = password.ok_or("a keystore needs a password: file:/path or env:NAME")?;
                let password = secret(password, dir).map_err(|e| format!("password: {e}"))?;
                let path = dir.join(path);
                let signer = PrivateKeySigner::decrypt_keystore(&path, password)
                    .map_err(|e| format!("{}: {e}", path.display()))?;
                Ok(Sender::local(signer))
            }
            Some(("env", name)) => {
                let text = variable(name)?;
                Sender::from_private_key(&text).map_err(|e| format!("{name} is {e}"))
            }
            Some(("kms", id)) => Sender::kms(id).map_err(|e| format!("AWS KMS: {e}")),
            _ => Err("a key is read from keystore:/path, env:NAME or kms:ID".to_owned()),
        }
    }

    /// A private key, 64 hex digits.
    ///
    /// # Errors
    /// A text: what does not parse may be a key with a slip in it, and is not said.
    pub fn from_private_key(text: &str) -> Result<Sender, String> {
        let signer = text.trim().parse::<PrivateKeySigner>();
        signer.map(Sender::local).map_err(|_| "no private key (64 hex digits)".to_owned())
    }

    fn local(signer: PrivateKeySigner) -> Sender {
        Sender { address: signer.address(), key: Key::Local(signer) }
    }

    fn kms(id: &str) -> Result<Sender, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| e.to_string())?;
        let (client, public) = runtime.block_on(async {
            // Nothing else waits for a service that takes a question and does not answer.
            let patience = TimeoutConfig::builder().operation_timeout(Duration::from_secs(15)).build();
            let loader = aws_config::defaults(aws_config::BehaviorVersion::latest());
            let found = loader.timeout_config(patience).load().await;
            let client = aws_sdk_kms::Client::new(&found);
            let public = client.get_public_key().key_id(id).send().await;
            let said =
                |e: aws_sdk_kms::error::SdkError<_>| aws_sdk_kms::error::DisplayErrorContext(e).to_string();
            public.map(|p| (client, p)).map_err(said)
        })?;
        if public.key_spec() != Some(&KeySpec::EccSecgP256K1) {
            return Err(format!("key {id} is {:?}, and Ethereum's are ECC_SECG_P256K1", public.key_spec()));
        }
        // SubjectPublicKeyInfo (RFC 5480): it ends in the point, 0x04 and two coordinates of 32 bytes.
        let spki = public.public_key().map(|b| b.as_ref()).unwrap_or_default();
        match spki.last_chunk::<65>() {
            Some([4, point @ ..]) => {
                let address = Address::from_raw_public_key(point);
                Ok(Sender { address, key: Key::Kms { client, id: id.to_owned(), runtime } })
            }
            _ => Err(format!("key {id}: its public key has another form")),
        }
    }

    /// The account.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Signs a digest.
    ///
    /// # Errors
    /// A text.
    pub fn sign(&self, digest: &B256) -> Result<Signature, String> {
        match &self.key {
            Key::Local(signer) => signer.sign_hash_sync(digest).map_err(|e| e.to_string()),
            Key::Kms { client, id, runtime } => {
                let request = client
                    .sign()
                    .key_id(id)
                    .message(Blob::new(digest.as_slice()))
                    .message_type(MessageType::Digest)
                    .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256);
                let answer = runtime.block_on(request.send());
                let said = |e| format!("AWS KMS: {}", aws_sdk_kms::error::DisplayErrorContext(e));
                let answer = answer.map_err(said)?;
                let der = answer.signature().map(|b| b.as_ref()).unwrap_or_default();
                from_der(der, digest, self.address)
                    .ok_or_else(|| "AWS KMS: no signature of its key".to_owned())
            }
        }
    }
}

/// A signature in DER, as a transaction wants it: the lower of the two `s`, and which of the two points it is (EIP-2).
fn from_der(der: &[u8], digest: &B256, address: Address) -> Option<Signature> {
    let signature = k256::ecdsa::Signature::from_der(der).ok()?;
    let signature = signature.normalize_s().unwrap_or(signature);
    let of = |parity| Signature::from_signature_and_parity(signature, parity);
    let is = |s: &Signature| s.recover_address_from_prehash(digest).is_ok_and(|a| a == address);
    [of(false), of(true)].into_iter().find(is)
}

/// What a variable of the environment holds. What is no name of one may be the secret itself, and is not said.
fn variable(name: &str) -> Result<String, String> {
    let is_name = |c: char| c == '_' || c.is_ascii_uppercase() || c.is_ascii_digit();
    if name.len() > 40 || !name.chars().all(is_name) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("env: is followed by the name of a variable, in capitals, and never by a key".to_owned());
    }
    std::env::var(name).map_err(|_| format!("the environment has no {name}"))
}

/// `file:/path` or `env:NAME`.
#[allow(clippy::disallowed_methods)] // a secret, not evidence
fn secret(place: &str, dir: &Path) -> Result<String, String> {
    match place.split_once(':') {
        Some(("file", path)) => {
            let path = dir.join(path);
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            Ok(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        Some(("env", name)) => variable(name),
        _ => Err("it is read from file:/path or env:NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::keccak256;
    use k256::ecdsa::signature::hazmat::PrehashSigner as _;

    #[test]
    fn a_signature_as_kms_makes_it() {
        let key = k256::ecdsa::SigningKey::from_slice(&[7; 32]).expect("a key");
        let address = Address::from_private_key(&key);
        for n in 0..64u8 {
            let digest = keccak256([n]);
            let low: k256::ecdsa::Signature = key.sign_prehash(digest.as_slice()).expect("signed");
            // KMS gives either of the two.
            let high = k256::ecdsa::Signature::from_scalars(low.r(), -low.s()).expect("a signature");
            for made in [low, high] {
                let signature = from_der(made.to_der().as_bytes(), &digest, address).expect("its own");
                assert_eq!(signature.recover_address_from_prehash(&digest).ok(), Some(address));
                assert!(signature.normalize_s().is_none(), "the lower s");
            }
            assert_eq!(from_der(low.to_der().as_bytes(), &keccak256("other"), address), None);
        }
        assert_eq!(from_der(b"", &B256::ZERO, address), None);
    }

    /// The example of the definition of Web3 Secret Storage for PBKDF2; and the same key under scrypt as wallets use it, written by
    /// another implementation.
    #[test]
    #[allow(clippy::disallowed_methods)] // a test
    fn a_keystore_and_its_password() {
        let dir = tempfile::tempdir().expect("a directory");
        let scrypt = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext":"91c23c03a8b5117a6e3d78dbb5dfc46f037aff9351dff59c2879586f51756502","kdf":"scrypt","kdfparams":{"dklen":32,
            "n":8192,"r":8,"p":1,"salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
            "mac":"8f8639fe08fe1f43d6c13006d66ad2d993c6674ee2ba03f025596797a73614b9"},
            "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
        let pbkdf2 = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2","kdfparams":{"c":262144,
            "dklen":32,"prf":"hmac-sha256","salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
            "mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
            "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        write("good", "testpassword\n");
        write("bad", "another\n");
        let secret = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
        let wanted = Sender::from_private_key(secret).expect("a key").address();
        for text in [scrypt, pbkdf2] {
            write("k.json", text);
            let open = |password| Sender::open("keystore:k.json", Some(password), dir.path());
            let sender = open("file:good").expect("the right password");
            assert_eq!(sender.address(), wanted);
            let digest = keccak256("x");
            let signature = sender.sign(&digest).expect("signed");
            assert_eq!(signature.recover_address_from_prehash(&digest).ok(), Some(wanted));
            assert!(open("file:bad").is_err());
            assert!(open("nowhere").is_err());
        }
    }

    #[test]
    fn keys_that_cannot_be_used() {
        let dir = Path::new("/nowhere");
        let said =
            |key: &str, password: Option<&str>| Sender::open(key, password, dir).err().unwrap_or_default();
        assert!(said("0x1234", None).contains("keystore:/path"));
        assert!(said("keystore:a.json", None).contains("needs a password"));
        assert!(said("keystore:a.json", Some("file:p")).contains("/nowhere/p"));
        assert!(said("env:WAXSEAL_NO_SUCH_KEY", None).contains("WAXSEAL_NO_SUCH_KEY"));
        // What is there and no key is not said.
        let home = std::env::var("PATH").unwrap_or_default();
        assert!(!said("env:PATH", None).contains(&home));
    }
}
