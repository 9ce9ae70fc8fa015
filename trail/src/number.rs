//! Which numbers a bare JSON number keeps (FORMAT section 2).

/// 2^53 − 1, the largest magnitude of a bare number.
pub(crate) const MAX_SAFE: i64 = (1 << 53) - 1;

/// How a JSON number literal is sealed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Class {
    /// Bare; within ±(2^53−1), not −0.
    Int(i64),
    /// Bare; the JCS text of this double has the literal's decimal value.
    Double(f64),
    /// Wrapped: `{"$number": literal}`.
    Text,
}

/// Classifies a literal that follows the grammar of RFC 8259.
pub(crate) fn classify(text: &str) -> Class {
    let b = text.as_bytes();
    let negative = b[0] == b'-';
    if b.len() <= 17 && b[usize::from(negative)..].iter().all(u8::is_ascii_digit) {
        return match text.parse::<i64>() {
            Ok(0) if negative => Class::Text,
            Ok(n) if n.abs() <= MAX_SAFE => Class::Int(n),
            _ => Class::Text,
        };
    }
    let Ok(x) = text.parse::<f64>() else { return Class::Text };
    if x.abs() > MAX_SAFE as f64 || (x == 0.0 && negative) {
        return Class::Text;
    }
    let canonical = ryu_js::Buffer::new().format(x).to_owned();
    if Decimal::of(text) == Decimal::of(&canonical) { Class::Double(x) } else { Class::Text }
}

/// A binary number: bare if a bare number keeps it, else the text of its wrapper.
pub(crate) fn of_double(x: f64) -> Result<f64, String> {
    if x.is_nan() {
        Err("NaN".to_owned())
    } else if x.is_infinite() {
        Err(if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned())
    } else if x == 0.0 && x.is_sign_negative() {
        Err("-0".to_owned())
    } else if x.abs() > MAX_SAFE as f64 {
        Err(ryu_js::Buffer::new().format(x).to_owned())
    } else {
        Ok(x)
    }
}

/// The value of a decimal literal: ± digits × 10^exponent, digits without zeros at either end.
#[derive(PartialEq, Debug)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    /// 0 for zero. Saturates: beyond ±10^18 no double is near anyhow.
    exponent: i64,
}

impl Decimal {
    fn of(text: &str) -> Decimal {
        let negative = text.starts_with('-');
        let (mantissa, exp) = match text.find(['e', 'E']) {
            Some(i) => (&text[..i], &text[i + 1..]),
            None => (text, "0"),
        };
        let exp_negative = exp.starts_with('-');
        let exp = exp
            .bytes()
            .filter(u8::is_ascii_digit)
            .fold(0i64, |n, d| n.saturating_mul(10).saturating_add(i64::from(d - b'0')))
            .min(1_000_000_000_000_000_000);
        let mut exponent = if exp_negative { -exp } else { exp };
        if let Some(dot) = mantissa.find('.') {
            exponent -= (mantissa.len() - dot - 1) as i64;
        }
        let mut digits: Vec<u8> =
            mantissa.bytes().filter(u8::is_ascii_digit).skip_while(|d| *d == b'0').collect();
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent += 1;
        }
        if digits.is_empty() {
            exponent = 0;
        }
        Decimal { negative: negative && !digits.is_empty(), digits, exponent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_bare() {
        assert_eq!(classify("0"), Class::Int(0));
        assert_eq!(classify("9007199254740991"), Class::Int(MAX_SAFE));
        assert_eq!(classify("-9007199254740991"), Class::Int(-MAX_SAFE));
        assert_eq!(classify("1.50"), Class::Double(1.5));
        assert_eq!(classify("0e9"), Class::Double(0.0));
        assert_eq!(classify("9007199254740991.0"), Class::Double(MAX_SAFE as f64));
        for text in [
            "-0",
            "-0.0",
            "9007199254740992",
            "1e16",
            "0.1000000000000000055511151231257827",
            "1e400",
            "1e-400",
            "-1e-400",
            "123456789012345678901234567890",
            "1e99999999999999999999999",
        ] {
            assert_eq!(classify(text), Class::Text, "{text}");
        }
    }
}
