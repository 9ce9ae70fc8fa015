//! Times of the format: `YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ`, years 0001 to 9999, seconds 00 to 59.

use core::fmt;

/// Nanoseconds since 1970-01-01T00:00:00Z (proleptic Gregorian, no leap seconds).
///
/// Invariant: between `0001-01-01T00:00:00.000000000Z` and `9999-12-31T23:59:59.999999999Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    seconds: i64,
    nanos: u32,
}

const MIN_SECONDS: i64 = -62_135_596_800;
const MAX_SECONDS: i64 = 253_402_300_799;

impl Time {
    /// The earliest time the format can write.
    pub const MIN: Time = Time { seconds: MIN_SECONDS, nanos: 0 };
    /// The latest time the format can write.
    pub const MAX: Time = Time { seconds: MAX_SECONDS, nanos: 999_999_999 };

    /// From Unix seconds and nanoseconds; `None` outside the years 0001 to 9999 or from 10⁹ nanoseconds on.
    pub fn from_unix(seconds: i64, nanos: u32) -> Option<Time> {
        let ok = (MIN_SECONDS..=MAX_SECONDS).contains(&seconds) && nanos < 1_000_000_000;
        ok.then_some(Time { seconds, nanos })
    }

    /// Whole seconds since the Unix epoch, rounded towards the past.
    pub fn unix_seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds within the second.
    pub fn subsec_nanos(self) -> u32 {
        self.nanos
    }

    /// Microseconds since the Unix epoch, rounded towards the past (the `timestamp` column).
    pub fn unix_micros(self) -> i64 {
        self.seconds * 1_000_000 + i64::from(self.nanos / 1000)
    }

    /// Milliseconds since the Unix epoch, rounded towards the past (UUIDv7).
    pub fn unix_millis(self) -> i64 {
        self.seconds * 1000 + i64::from(self.nanos / 1_000_000)
    }

    /// This time plus whole seconds, held at the end of the year 9999.
    pub fn saturating_add_seconds(self, seconds: i64) -> Time {
        let s = self.seconds.saturating_add(seconds).clamp(MIN_SECONDS, MAX_SECONDS);
        Time { seconds: s, nanos: self.nanos }
    }

    /// The next whole second, or this one if its fraction is zero.
    pub fn ceil_second(self) -> Time {
        let up = i64::from(self.nanos > 0);
        Time { seconds: (self.seconds + up).min(MAX_SECONDS), nanos: 0 }
    }

    /// Reads the format's own 30 characters and nothing else.
    pub fn parse(text: &str) -> Option<Time> {
        let b = text.as_bytes();
        (b.len() == 30 && b[29] == b'Z' && b[19] == b'.' && b[10] == b'T')
            .then(|| Time::parse_rfc3339(text))?
    }

    /// Reads an RFC 3339 date-time with any offset and at most nine digits of fraction. Leap seconds, a
    /// missing offset, and instants outside the years 0001 to 9999 in UTC are `None`.
    pub fn parse_rfc3339(text: &str) -> Option<Time> {
        let b = text.as_bytes();
        if b.len() < 20 || !text.is_ascii() {
            return None;
        }
        let num = |r: core::ops::Range<usize>| -> Option<i64> {
            b[r].iter().try_fold(0i64, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
        };
        let punct =
            b[4] == b'-' && b[7] == b'-' && matches!(b[10], b'T' | b't') && b[13] == b':' && b[16] == b':';
        let (y, mo, d) = (num(0..4)?, num(5..7)?, num(8..10)?);
        let (h, mi, s) = (num(11..13)?, num(14..16)?, num(17..19)?);
        if !punct
            || !(1..=12).contains(&mo)
            || d < 1
            || d > days_in_month(y, mo)
            || h > 23
            || mi > 59
            || s > 59
        {
            return None;
        }
        let mut at = 19;
        let mut nanos = 0u32;
        if b[at] == b'.' {
            let digits = b[at + 1..].iter().take_while(|c| c.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return None;
            }
            nanos = num(at + 1..at + 1 + digits)? as u32 * 10u32.pow(9 - digits as u32);
            at += 1 + digits;
        }
        let offset = match *b.get(at)? {
            b'Z' | b'z' if b.len() == at + 1 => 0,
            sign @ (b'+' | b'-') if b.len() == at + 6 && b[at + 3] == b':' => {
                let (oh, om) = (num(at + 1..at + 3)?, num(at + 4..at + 6)?);
                if oh > 23 || om > 59 {
                    return None;
                }
                (oh * 60 + om) * if sign == b'+' { 60 } else { -60 }
            }
            _ => return None,
        };
        let seconds = days_from_civil(y, mo, d) * 86_400 + h * 3600 + mi * 60 + s - offset;
        Time::from_unix(seconds, nanos)
    }

    /// Reads a MessagePack timestamp (extension −1; 4, 8 or 12 bytes) or Forward's EventTime
    /// (extension 0; 8 bytes).
    pub fn from_msgpack_ext(kind: i8, data: &[u8]) -> Option<Time> {
        let be = |r: &[u8]| r.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        match (kind, data.len()) {
            (-1, 4) => Time::from_unix(be(data) as i64, 0),
            (-1, 8) => {
                let v = be(data);
                Time::from_unix((v & 0x3_ffff_ffff) as i64, (v >> 34) as u32)
            }
            (-1, 12) => Time::from_unix(be(&data[4..]) as i64, be(&data[..4]) as u32),
            (0, 8) => Time::from_unix(be(&data[..4]) as i64, be(&data[4..]) as u32),
            _ => None,
        }
    }

    /// The 30 ASCII characters, without allocating.
    pub fn text(self) -> [u8; 30] {
        let mut out = *b"0000-00-00T00:00:00.000000000Z";
        let (y, mo, d) = civil_from_days(self.seconds.div_euclid(86_400));
        let t = self.seconds.rem_euclid(86_400);
        let mut put = |at: usize, width: usize, mut v: i64| {
            for i in (at..at + width).rev() {
                out[i] = b'0' + (v % 10) as u8;
                v /= 10;
            }
        };
        put(0, 4, y);
        put(5, 2, mo);
        put(8, 2, d);
        put(11, 2, t / 3600);
        put(14, 2, t / 60 % 60);
        put(17, 2, t % 60);
        put(20, 9, i64::from(self.nanos));
        out
    }

    /// `YYYY-MM-DD` and `HH` of this time, as the keys of events objects have them.
    pub fn partition(self) -> (String, String) {
        let t = self.to_string();
        (t[..10].to_owned(), t[11..13].to_owned())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Time::parse(&text).ok_or_else(|| serde::de::Error::custom("a time is YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ"))
    }
}

fn is_leap(y: i64) -> bool {
    y % 4 == 0 && (y % 100 != 0 || y % 400 == 0)
}

fn days_in_month(y: i64, m: i64) -> i64 {
    match m {
        2 => 28 + i64::from(is_leap(y)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

fn civil_from_days(z: i64) -> (i64, i64, i64) {
    let z = z + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    (yoe + era * 400 + i64::from(m <= 2), m, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_and_the_epoch() {
        for (s, n, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
            (MIN_SECONDS, 0, "0001-01-01T00:00:00.000000000Z"),
            (MAX_SECONDS, 999_999_999, "9999-12-31T23:59:59.999999999Z"),
            (1_709_164_800, 5, "2024-02-29T00:00:00.000000005Z"),
        ] {
            let t = Time::from_unix(s, n).unwrap();
            assert_eq!(t.to_string(), text);
            assert_eq!(Time::parse(text), Some(t));
        }
        assert_eq!(Time::from_unix(MIN_SECONDS - 1, 0), None);
        assert_eq!(Time::from_unix(MAX_SECONDS + 1, 0), None);
        assert_eq!(Time::from_unix(0, 1_000_000_000), None);
    }

    #[test]
    fn the_strict_form_takes_nothing_else() {
        for bad in [
            "2026-01-15T10:00:00Z",
            "2026-01-15t10:00:00.000000000Z",
            "2026-01-15T10:00:00.000000000z",
            "2026-01-15T10:00:00.00000000Z",
            "2026-01-15T10:00:60.000000000Z",
            "2025-02-29T10:00:00.000000000Z",
        ] {
            assert_eq!(Time::parse(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn text_round_trips(s in MIN_SECONDS..=MAX_SECONDS, n in 0u32..1_000_000_000) {
            let t = Time::from_unix(s, n).unwrap();
            proptest::prop_assert_eq!(Time::parse(&t.to_string()), Some(t));
        }

        #[test]
        fn reading_never_panics(s in "\\PC{0,40}") {
            let _ = Time::parse_rfc3339(&s);
        }
    }
}
