//! Times as logs write them. What a text leaves out, zone or year, comes from the configuration, and the event says so.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};
use waxseal_trail::time::Time;

/// What a text that leaves something out is read with.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The zone of times without one.
    pub zone: TimeZone,
    /// The year of times without one; without it, the year that brings the time nearest to the shipper's.
    pub year: Option<i16>,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { zone: TimeZone::UTC, year: None }
    }
}

/// A time, and what it was read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    /// The time.
    pub time: Time,
    /// The zone is the configuration's.
    pub zone_assumed: bool,
    /// The year is the configuration's.
    pub year_assumed: bool,
}

impl Read {
    fn exact(time: Time) -> Read {
        Read { time, zone_assumed: false, year_assumed: false }
    }
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

fn month(text: &[u8]) -> Option<i8> {
    MONTHS.iter().position(|m| m.as_slice() == text).map(|m| m as i8 + 1)
}

fn digits(text: &[u8]) -> Option<i32> {
    if text.is_empty() || text.len() > 9 {
        return None;
    }
    text.iter().try_fold(0, |n, c| c.is_ascii_digit().then(|| n * 10 + i32::from(c - b'0')))
}

impl Clock {
    fn zoned(&self, at: DateTime) -> Option<Time> {
        self.zone.to_ambiguous_timestamp(at).compatible().ok().and_then(of_timestamp)
    }

    /// The classic syslog time, `Dec 10 06:55:46`, at the beginning of `text`; with what follows it. `near` is the shipper's
    /// time.
    pub(crate) fn syslog<'t>(&self, text: &'t str, near: Time) -> Option<(Read, &'t str)> {
        let b = text.as_bytes();
        let month = month(b.get(..3)?)?;
        if b.get(3) != Some(&b' ') || b.get(15).is_some_and(|c| !matches!(c, b' ' | b'.')) || b.len() < 15 {
            return None;
        }
        let (nanos, end) = match text.get(15..)?.strip_prefix('.') {
            Some(rest) => fraction(rest).map(|(nanos, len)| (nanos, 16 + len))?,
            None => (0, 15),
        };
        let day = digits(if b[4] == b' ' { &b[5..6] } else { &b[4..6] })?;
        if b[6] != b' ' || b[9] != b':' || b[12] != b':' {
            return None;
        }
        let (h, m, s) = (digits(&b[7..9])?, digits(&b[10..12])?, digits(&b[13..15])?);
        let of = |year: i16| {
            let date = Date::new(year, month, day as i8).ok()?;
            self.zoned(at(date, h, m, s, nanos)?)
        };
        let time = match self.year {
            Some(year) => of(year)?,
            None => {
                let this = year_of(near);
                let all = [this - 1, this, this + 1].into_iter().filter_map(of);
                all.min_by_key(|t| (t.unix_seconds() - near.unix_seconds()).abs())?
            }
        };
        let rest = text.get(end..)?.trim_start();
        Some((Read { time, zone_assumed: true, year_assumed: true }, rest))
    }

    /// The time of access logs, `10/Oct/2000:13:55:36 -0700`.
    pub(crate) fn access(&self, text: &str) -> Option<Read> {
        let b = text.as_bytes();
        if b.len() < 20 || b[2] != b'/' || b[6] != b'/' || b[11] != b':' || b[14] != b':' || b[17] != b':' {
            return None;
        }
        let (d, mo, y) = (digits(&b[..2])?, month(&b[3..6])?, digits(&b[7..11])?);
        let (h, m, s) = (digits(&b[12..14])?, digits(&b[15..17])?, digits(&b[18..20])?);
        let date = Date::new(y as i16, mo, d as i8).ok()?;
        let at = at(date, h, m, s, 0)?;
        match b.get(20..) {
            Some([b' ', sign @ (b'+' | b'-'), rest @ ..]) if rest.len() >= 4 => {
                let offset = digits(&rest[..2])? * 3600 + digits(&rest[2..4])? * 60;
                Some(Read::exact(of_utc(at, if *sign == b'-' { -offset } else { offset })?))
            }
            _ => Some(Read { time: self.zoned(at)?, zone_assumed: true, year_assumed: false }),
        }
    }

    /// RFC 3339; the same with a blank for the `T`, with a zone of letters or with none, as databases write it.
    pub(crate) fn iso(&self, text: &str) -> Option<Read> {
        if let Some(t) = Time::parse_rfc3339(text) {
            return Some(Read::exact(t));
        }
        let b = text.as_bytes();
        if b.len() < 19 || b[4] != b'-' || b[7] != b'-' || !matches!(b[10], b' ' | b'T') || b[13] != b':' {
            return None;
        }
        let n = |r: std::ops::Range<usize>| digits(&b[r]);
        let date = Date::new(n(0..4)? as i16, n(5..7)? as i8, n(8..10)? as i8).ok()?;
        let mut rest = text.get(19..)?;
        let mut nanos = 0;
        if let Some(frac) = rest.strip_prefix(['.', ',']) {
            let len;
            (nanos, len) = fraction(frac)?;
            rest = &frac[len..];
        }
        let at = at(date, n(11..13)?, n(14..16)?, n(17..19)?, nanos)?;
        match rest.trim() {
            "" => Some(Read { time: self.zoned(at)?, zone_assumed: true, year_assumed: false }),
            "Z" | "UTC" | "GMT" => Some(Read::exact(of_utc(at, 0)?)),
            zone => {
                let (sign, digits_) = zone.split_at_checked(1)?;
                if !matches!(sign, "+" | "-") {
                    // An abbreviation (CEST) names no zone for sure: the configuration's counts.
                    return zone.bytes().all(|c| c.is_ascii_alphabetic()).then_some(Read {
                        time: self.zoned(at)?,
                        zone_assumed: true,
                        year_assumed: false,
                    });
                }
                let d: Vec<u8> = digits_.bytes().filter(|c| *c != b':').collect();
                let hours = digits(d.get(..2)?)?;
                let minutes = d.get(2..4).map_or(Some(0), digits)?;
                let offset = hours * 3600 + minutes * 60;
                Some(Read::exact(of_utc(at, if sign == "-" { -offset } else { offset })?))
            }
        }
    }

    /// By a format of `strftime`.
    pub(crate) fn by_format(&self, format: &str, text: &str) -> Option<Read> {
        let broken = jiff::fmt::strtime::parse(format, text).ok()?;
        if let Ok(t) = broken.to_timestamp() {
            return Some(Read::exact(of_timestamp(t)?));
        }
        Some(Read { time: self.zoned(broken.to_datetime().ok()?)?, zone_assumed: true, year_assumed: false })
    }
}

/// The digits that a text begins with as nanoseconds, and how many there are.
fn fraction(text: &str) -> Option<(i32, usize)> {
    let len = text.bytes().take_while(u8::is_ascii_digit).count();
    let kept = &text.as_bytes()[..len.min(9)];
    Some((digits(kept)? * 10_i32.pow(9 - kept.len() as u32), len))
}

/// A leap second counts as the second before it.
fn at(date: Date, h: i32, m: i32, s: i32, nanos: i32) -> Option<DateTime> {
    let s = if s == 60 { 59 } else { s };
    let time = jiff::civil::Time::new(h as i8, m as i8, s as i8, nanos).ok()?;
    Some(DateTime::from_parts(date, time))
}

/// Of a local time, `offset` seconds before UTC.
fn of_utc(at: DateTime, offset: i32) -> Option<Time> {
    Offset::from_seconds(offset).ok()?.to_timestamp(at).ok().and_then(of_timestamp)
}

fn of_timestamp(t: Timestamp) -> Option<Time> {
    of_nanos(t.as_nanosecond())
}

/// Of nanoseconds since 1970.
pub(crate) fn of_nanos(nanos: i128) -> Option<Time> {
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
    Time::from_unix(seconds, nanos.rem_euclid(1_000_000_000) as u32)
}

fn year_of(t: Time) -> i16 {
    let text = t.text();
    digits(&text[..4]).unwrap_or(1970) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(r: Read) -> String {
        String::from_utf8(r.time.text().to_vec()).unwrap()
    }

    #[test]
    fn times_as_logs_write_them() {
        let berlin = Clock { zone: TimeZone::get("Europe/Berlin").unwrap(), year: Some(2015) };
        let (r, rest) = berlin.syslog("Dec 10 06:55:46 LabSZ sshd[1]: x", Time::MIN).unwrap();
        assert_eq!((text(r).as_str(), rest), ("2015-12-10T05:55:46.000000000Z", "LabSZ sshd[1]: x"));
        assert!(r.zone_assumed && r.year_assumed);
        let near = Time::parse_rfc3339("2026-01-02T00:00:00Z").unwrap();
        let (r, _) = Clock::default().syslog("Dec  1 06:55:46 h", near).unwrap();
        assert_eq!(text(r), "2025-12-01T06:55:46.000000000Z");
        let utc = Clock::default();
        let r = utc.access("10/Oct/2000:13:55:36 -0700").unwrap();
        assert_eq!((text(r).as_str(), r.zone_assumed), ("2000-10-10T20:55:36.000000000Z", false));
        let iso = |t: &str| utc.iso(t).map(|r| (text(r), r.zone_assumed));
        assert_eq!(iso("2024-02-29 12:00:00.5 UTC"), Some(("2024-02-29T12:00:00.500000000Z".into(), false)));
        assert_eq!(iso("2024-02-29 12:00:00+02"), Some(("2024-02-29T10:00:00.000000000Z".into(), false)));
        assert_eq!(
            iso("2024-02-29 12:00:00,123 CEST"),
            Some(("2024-02-29T12:00:00.123000000Z".into(), true))
        );
        for bad in [
            "2023-02-29 12:00:00",
            "2024-02-29 25:00:00",
            "2024-02-29 12:61:00",
            "",
            "2024",
            "äöü-äö-äö äö:äö:äö",
        ] {
            assert_eq!(iso(bad), None, "{bad}");
        }
        assert_eq!(utc.syslog("Feb 30 06:55:46 x", near), None);
        assert_eq!(utc.access("99/Oct/2000:13:55:36 -0700"), None);
        let r = utc.by_format("%d.%m.%Y %H:%M:%S", "01.02.2024 03:04:05").unwrap();
        assert_eq!(text(r), "2024-02-01T03:04:05.000000000Z");
    }
}
