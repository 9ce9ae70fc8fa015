//! Published vectors: RFC 8785 and its ES6 number file, the JCS authors' files, RFC 8032, Wycheproof.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use waxseal_trail::hash::Digest;
use waxseal_trail::json::canonicalize;
use waxseal_trail::keys::PublicKey;

fn jcs(text: &str) -> String {
    String::from_utf8(canonicalize(text.as_bytes()).unwrap()).unwrap()
}

/// RFC 8785 sections 3.2.2 and 3.2.3.
#[test]
fn rfc_8785_examples() {
    let input = r#"{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"#;
    let want = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
    assert_eq!(jcs(input), want);
    let input = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
    let values: Vec<String> = jcs(input).split('"').skip(3).step_by(4).map(str::to_owned).collect();
    assert_eq!(
        values,
        [
            "Carriage Return",
            "One",
            "Control",
            "Latin Small Letter O With Diaeresis",
            "Euro Sign",
            "Emoji: Grinning Face",
            "Hebrew Letter Dalet With Dagesh"
        ]
    );
}

/// RFC 8785 appendix B.
#[test]
fn rfc_8785_numbers() {
    for (bits, want) in [
        (0x0000_0000_0000_0000_u64, "0"),
        (0x8000_0000_0000_0000, "0"),
        (0x0000_0000_0000_0001, "5e-324"),
        (0x8000_0000_0000_0001, "-5e-324"),
        (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
        (0x4340_0000_0000_0000, "9007199254740992"),
        (0x4430_0000_0000_0000, "295147905179352830000"),
        (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
        (0x44b5_2d02_c7e1_4af6, "1e+23"),
        (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
        (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
        (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
        (0x444b_1ae4_d6e2_ef50, "1e+21"),
        (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
        (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
        (0x41b3_de43_5555_5553, "333333333.3333332"),
        (0x41b3_de43_5555_5554, "333333333.33333325"),
        (0x41b3_de43_5555_5556, "333333333.3333334"),
        (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
    ] {
        assert_eq!(jcs(&format!("{:e}", f64::from_bits(bits))), want);
    }
}

/// The values that the ES6 number file begins with.
const STATIC: [u64; 168] = [
    0x0000000000000000,
    0x8000000000000000,
    0x0000000000000001,
    0x8000000000000001,
    0xc46696695dbd1cc3,
    0xc43211ede4974a35,
    0xc3fce97ca0f21056,
    0xc3c7213080c1a6ac,
    0xc39280f39a348556,
    0xc35d9b1f5d20d557,
    0xc327af4c4a80aaac,
    0xc2f2f2a36ecd5556,
    0xc2be51057e155558,
    0xc28840d131aaaaac,
    0xc253670dc1555557,
    0xc21f0b4935555557,
    0xc1e8d5d42aaaaaac,
    0xc1b3de4355555556,
    0xc17fca0555555556,
    0xc1496e6aaaaaaaab,
    0xc114585555555555,
    0xc0e046aaaaaaaaab,
    0xc0aa0aaaaaaaaaaa,
    0xc074d55555555555,
    0xc040aaaaaaaaaaab,
    0xc00aaaaaaaaaaaab,
    0xbfd5555555555555,
    0xbfa1111111111111,
    0xbf6b4e81b4e81b4f,
    0xbf35d867c3ece2a5,
    0xbf0179ec9cbd821e,
    0xbecbf647612f3696,
    0xbe965e9f80f29212,
    0xbe61e54c672874db,
    0xbe2ca213d840baf8,
    0xbdf6e80fe033c8c6,
    0xbdc2533fe68fd3d2,
    0xbd8d51ffd74c861c,
    0xbd5774ccac3d3817,
    0xbd22c3d6f030f9ac,
    0xbcee0624b3818f79,
    0xbcb804ea293472c7,
    0xbc833721ba905bd3,
    0xbc4ebe9c5db3c61e,
    0xbc18987d17c304e5,
    0xbbe3ad30dfcf371d,
    0xbbaf7b816618582f,
    0xbb792f9ab81379bf,
    0xbb442615600f9499,
    0xbb101e77800c76e1,
    0xbad9ca58cce0be35,
    0xbaa4a1e0a3e6fe90,
    0xba708180831f320d,
    0xba3a68cd9e985016,
    0x446696695dbd1cc3,
    0x443211ede4974a35,
    0x43fce97ca0f21056,
    0x43c7213080c1a6ac,
    0x439280f39a348556,
    0x435d9b1f5d20d557,
    0x4327af4c4a80aaac,
    0x42f2f2a36ecd5556,
    0x42be51057e155558,
    0x428840d131aaaaac,
    0x4253670dc1555557,
    0x421f0b4935555557,
    0x41e8d5d42aaaaaac,
    0x41b3de4355555556,
    0x417fca0555555556,
    0x41496e6aaaaaaaab,
    0x4114585555555555,
    0x40e046aaaaaaaaab,
    0x40aa0aaaaaaaaaaa,
    0x4074d55555555555,
    0x4040aaaaaaaaaaab,
    0x400aaaaaaaaaaaab,
    0x3fd5555555555555,
    0x3fa1111111111111,
    0x3f6b4e81b4e81b4f,
    0x3f35d867c3ece2a5,
    0x3f0179ec9cbd821e,
    0x3ecbf647612f3696,
    0x3e965e9f80f29212,
    0x3e61e54c672874db,
    0x3e2ca213d840baf8,
    0x3df6e80fe033c8c6,
    0x3dc2533fe68fd3d2,
    0x3d8d51ffd74c861c,
    0x3d5774ccac3d3817,
    0x3d22c3d6f030f9ac,
    0x3cee0624b3818f79,
    0x3cb804ea293472c7,
    0x3c833721ba905bd3,
    0x3c4ebe9c5db3c61e,
    0x3c18987d17c304e5,
    0x3be3ad30dfcf371d,
    0x3baf7b816618582f,
    0x3b792f9ab81379bf,
    0x3b442615600f9499,
    0x3b101e77800c76e1,
    0x3ad9ca58cce0be35,
    0x3aa4a1e0a3e6fe90,
    0x3a708180831f320d,
    0x3a3a68cd9e985016,
    0x4024000000000000,
    0x4014000000000000,
    0x3fe0000000000000,
    0x3fa999999999999a,
    0x3f747ae147ae147b,
    0x3f40624dd2f1a9fc,
    0x3f0a36e2eb1c432d,
    0x3ed4f8b588e368f1,
    0x3ea0c6f7a0b5ed8d,
    0x3e6ad7f29abcaf48,
    0x3e35798ee2308c3a,
    0x3ed539223589fa95,
    0x3ed4ff26cd5a7781,
    0x3ed4f95a762283ff,
    0x3ed4f8c60703520c,
    0x3ed4f8b72f19cd0d,
    0x3ed4f8b5b31c0c8d,
    0x3ed4f8b58d1c461a,
    0x3ed4f8b5894f7f0e,
    0x3ed4f8b588ee37f3,
    0x3ed4f8b588e47da4,
    0x3ed4f8b588e3849c,
    0x3ed4f8b588e36bb5,
    0x3ed4f8b588e36937,
    0x3ed4f8b588e368f8,
    0x3ed4f8b588e368f1,
    0x3ff0000000000000,
    0xbff0000000000000,
    0xbfeffffffffffffa,
    0xbfeffffffffffffb,
    0x3feffffffffffffa,
    0x3feffffffffffffb,
    0x3feffffffffffffc,
    0x3feffffffffffffe,
    0xbfefffffffffffff,
    0xbfefffffffffffff,
    0x3fefffffffffffff,
    0x3fefffffffffffff,
    0x3fd3333333333332,
    0x3fd3333333333333,
    0x3fd3333333333334,
    0x0010000000000000,
    0x000ffffffffffffd,
    0x000fffffffffffff,
    0x7fefffffffffffff,
    0xffefffffffffffff,
    0x4340000000000000,
    0xc340000000000000,
    0x4430000000000000,
    0x44b52d02c7e14af5,
    0x44b52d02c7e14af6,
    0x44b52d02c7e14af7,
    0x444b1ae4d6e2ef4e,
    0x444b1ae4d6e2ef4f,
    0x444b1ae4d6e2ef50,
    0x3eb0c6f7a0b5ed8c,
    0x3eb0c6f7a0b5ed8d,
    0x41b3de4355555553,
    0x41b3de4355555554,
    0x41b3de4355555555,
    0x41b3de4355555556,
    0x41b3de4355555557,
    0xbecbf647612f3696,
    0x43143ff3c1cb0959,
];

/// The first 100,000 lines of the ES6 number file, made from its published rule: their SHA-256 is the published one, and
/// each number, read back from its canonical text, is the same double.
#[test]
fn es6_number_file() {
    let (mut block, mut rest) = ([0u8; 32], 4usize);
    let mut next = |i: usize| -> f64 {
        if let Some(bits) = STATIC.get(i) {
            return f64::from_bits(*bits);
        }
        if i < STATIC.len() + 2000 {
            return f64::from_bits(0x0010_0000_0000_0000 + (i - STATIC.len()) as u64);
        }
        loop {
            if rest == 4 {
                block = waxseal_trail::hash::sha256(&block).0;
                rest = 0;
            }
            let mut b = [0; 8];
            b.copy_from_slice(&block[8 * rest..8 * rest + 8]);
            rest += 1;
            let f = f64::from_le_bytes(b);
            if f != 0.0 && f.is_finite() {
                return f;
            }
        }
    };
    let mut digest = Digest::default();
    for i in 0..100_000 {
        let f = next(i);
        let text = jcs(&format!("{f:e}"));
        assert!(text.parse::<f64>().unwrap() == f, "{text}");
        digest.update(format!("{:x},{text}\n", f.to_bits()).as_bytes());
        let published = match i + 1 {
            1000 => "be18b62b6f69cdab33a7e0dae0d9cfa869fda80ddc712221570f9f40a5878687",
            10_000 => "b9f7a8e75ef22a835685a52ccba7f7d6bdc99e34b010992cbc5864cd12be6892",
            100_000 => "22776e6d4b49fa294a0d0f349268e5c28808fe7e0cb2bcbe28f63894e494d4c7",
            _ => continue,
        };
        assert_eq!(digest.clone().finish().to_string(), published, "after {} lines", i + 1);
    }
}

/// The files of the JCS authors' own test suite, as the crate `serde_json_canonicalizer` carries them.
#[test]
fn jcs_test_suite() {
    let home =
        std::env::var("CARGO_HOME").unwrap_or_else(|_| std::env::var("HOME").unwrap_or_default() + "/.cargo");
    let mut ran = 0;
    for registry in std::fs::read_dir(format!("{home}/registry/src")).into_iter().flatten().flatten() {
        for package in std::fs::read_dir(registry.path()).into_iter().flatten().flatten() {
            let name = package.file_name().to_string_lossy().into_owned();
            let data = package.path().join("tests/resources/testdata");
            if !name.starts_with("serde_json_canonicalizer-") || !data.exists() {
                continue;
            }
            for file in std::fs::read_dir(data.join("input")).unwrap().flatten() {
                let hex = data.join("outhex").join(file.file_name()).with_extension("txt");
                let Ok(hex) = std::fs::read_to_string(hex) else { continue };
                let want: Vec<u8> =
                    hex.split_whitespace().map(|h| u8::from_str_radix(h, 16).unwrap()).collect();
                let got = canonicalize(&std::fs::read(file.path()).unwrap()).unwrap();
                assert_eq!(got, want, "{}", file.path().display());
                ran += 1;
            }
        }
    }
    println!("{ran} files");
    assert!(ran >= 6, "the crate's sources are not in the registry cache");
}

fn ed25519(raw: &[u8]) -> Option<PublicKey> {
    let spki = [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", raw].concat();
    PublicKey::from_spki(&spki).ok()
}

/// RFC 8032 section 7.1, tests 1 to 3.
#[test]
fn rfc_8032() {
    let hex = |t: &str| data_encoding::HEXLOWER.decode(t.as_bytes()).unwrap();
    for (key, message, signature) in [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ] {
        let key = ed25519(&hex(key)).unwrap();
        assert!(key.verify(&hex(message), &hex(signature)));
        assert!(!key.verify(b"other", &hex(signature)));
    }
    // The neutral element, and the same point written with y + p.
    let mut neutral = [0u8; 32];
    neutral[0] = 1;
    assert_eq!(ed25519(&neutral), None);
    let mut not_canonical = [0xff; 32];
    not_canonical[0] = 0xee;
    not_canonical[31] = 0x7f;
    assert_eq!(ed25519(&not_canonical), None);
}

#[test]
fn wycheproof_ed25519() {
    use wycheproof::{TestResult, eddsa};
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut n = 0;
    for group in &set.test_groups {
        let key = PublicKey::from_spki(&group.der).unwrap();
        for t in &group.tests {
            let ok = key.verify(&t.msg, &t.sig);
            assert_eq!(ok, t.result == TestResult::Valid, "{} {}", t.tc_id, t.comment);
            n += 1;
        }
    }
    println!("{n} tests");
    assert!(n > 100);
}

#[test]
fn wycheproof_pss() {
    use wycheproof::{TestResult, rsa_pss_verify as pss};
    let mut n = 0;
    for name in pss::TestName::all() {
        let set = pss::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            // Ours is SHA-256 throughout and a salt of 32 bytes.
            let sha256 = wycheproof::HashFunction::Sha2_256;
            let ours = group.hash == sha256 && group.mgf_hash == Some(sha256) && group.salt_size == 32;
            if !ours {
                continue;
            }
            let Ok(key) = PublicKey::from_spki(&group.der) else { continue };
            for t in &group.tests {
                let ok = key.verify(&t.msg, &t.sig);
                match t.result {
                    TestResult::Valid => assert!(ok, "{name:?} {} {}", t.tc_id, t.comment),
                    TestResult::Invalid => assert!(!ok, "{name:?} {} {}", t.tc_id, t.comment),
                    TestResult::Acceptable => {}
                }
                n += 1;
            }
        }
    }
    println!("{n} tests");
    assert!(n > 200);
}

/// `arbitrary_precision`, unified in by some dependency, would change what `serde_json` says of numbers.
#[test]
fn serde_json_has_doubles() {
    let v: serde_json::Value = serde_json::from_str("[1.00,123456789012345678901234567890]").unwrap();
    assert!(v.to_string().starts_with("[1.0,1.2345678901234568e"), "{v}");
}
