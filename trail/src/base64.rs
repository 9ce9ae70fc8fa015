//! Standard base64 with padding (RFC 4648 section 4), in its one form: nothing behind the padding.

use data_encoding::BASE64;

/// The bytes of a text, if it is the one that stands for them. The decoder below also takes several padded texts behind one another
/// for one, which no other implementation would.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let padding_within = text.bytes().rev().skip(2).any(|b| b == b'=');
    if padding_within { None } else { BASE64.decode(text.as_bytes()).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_text_for_each() {
        // RFC 4648 section 10.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        for text in
            ["Zg==Zg==", "Zm8=Zm9v", "Zg", "Zg=", "Zh==", "Zg==\n", "=", "====", "Z===", "Zm9-", "Zm 9v"]
        {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_decoded_encodes_to_the_same(text in "[A-Za-z0-9+/=]{0,16}") {
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(BASE64.encode(&bytes), text);
            }
        }
    }
}
