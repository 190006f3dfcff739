//! Values as upstreams write them: numbers, durations, instants. Each reads to nothing where it makes no sense.

use std::time::{Duration, SystemTime};

/// No reset is further away: what says so means something else.
const FURTHEST: Duration = Duration::from_secs(366 * 86_400);
/// Longest text that is looked at, bytes.
const LONGEST: usize = 40;

/// A number of `unit` seconds, more than zero. Digits only, so that `inf`, `nan`, `-5` and `1e9` are none here.
pub(super) fn wait(text: &str, unit: f64) -> Option<Duration> {
    span(text, unit).filter(|wait| !wait.is_zero())
}

/// A number of `unit` seconds, zero as well.
pub(super) fn span(text: &str, unit: f64) -> Option<Duration> {
    if text.is_empty() || text.len() > LONGEST || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    Duration::try_from_secs_f64((text.parse::<f64>().ok()? * unit).min(1e9)).ok()
}

/// A count, as far as its first comma or semicolon: some add their windows (`100, 100;w=60`). Fractions are cut off.
pub(super) fn count(text: &str) -> Option<u64> {
    let text = text.split([',', ';']).next()?.trim();
    let whole = text.split('.').next()?;
    if whole.is_empty() || whole.len() > LONGEST || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    // Digits alone: what does not fit is more than anybody counts to.
    Some(whole.parse().unwrap_or(u64::MAX))
}

/// A duration as Go writes it (`12ms`, `6m0s`, `1h2m3.5s`), or a plain number of seconds.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    if let Some(seconds) = span(text, 1.0) {
        return Some(seconds).filter(|span| *span <= FURTHEST);
    }
    if text.len() > LONGEST {
        return None;
    }
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit)?;
        sum += number.parse::<f64>().ok()?
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = tail;
    }
    if text.is_empty() {
        return None;
    }
    Duration::try_from_secs_f64(sum).ok().filter(|span| *span <= FURTHEST)
}

/// The time to a reset that is written as seconds to it, as seconds or milliseconds since 1970, or as a date. Nothing
/// where it has passed.
pub(super) fn reset(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.split(';').next()?.trim();
    let Some(number) = span(text, 1.0) else {
        return until(instant(text)?, now);
    };
    let seconds = number.as_secs_f64();
    // A delta of over thirty years is none, nor are seconds since 1970 that are this late.
    if seconds < 1e9 {
        return Some(number).filter(|span| *span <= FURTHEST);
    }
    // The number was cut to a billion; read it anew.
    let exact = text.parse::<f64>().ok()?;
    let seconds = if exact > 1e12 { exact / 1e3 } else { exact };
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
    until(at, now)
}

/// The time to an instant, where it lies ahead and not absurdly far.
pub(super) fn until(at: SystemTime, now: SystemTime) -> Option<Duration> {
    at.duration_since(now).ok().filter(|wait| !wait.is_zero() && *wait <= FURTHEST)
}

/// An instant as HTTP (RFC 9110) or RFC 3339 writes it.
pub(super) fn instant(text: &str) -> Option<SystemTime> {
    if text.len() > LONGEST {
        return None;
    }
    httpdate::parse_http_date(text).ok().or_else(|| rfc3339(text))
}

/// `2026-11-24T10:00:00Z`, with fractions and offsets.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at_checked(zone)?;
    let number = |text: &str, digits: usize, most: i64| {
        let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| plain && *number <= most)
    };
    let mut parts = date.split('-');
    let (year, month, day) =
        (number(parts.next()?, 4, 9999)?, number(parts.next()?, 2, 12)?, number(parts.next()?, 2, 31)?);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.split(':');
    let (hour, minute, second) =
        (number(clock.next()?, 2, 23)?, number(clock.next()?, 2, 59)?, number(clock.next()?, 2, 60)?);
    if parts.next().is_some() || clock.next().is_some() || month == 0 || day == 0 {
        return None;
    }
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction = Duration::try_from_secs_f64(format!("0.{fraction}").parse().ok()?).ok()?;
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign, zone) => {
            let (hours, minutes) = zone.split_once(':')?;
            let offset = number(hours, 2, 23)? * 3600 + number(minutes, 2, 59)? * 60;
            if sign == "-" { -offset } else { offset }
        }
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))?.checked_add(fraction)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years are counted from March, so that the leap day is their
/// last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (month * 153 + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_go_durations() {
        for (text, millis) in [
            ("12ms", Some(12)),
            ("6s", Some(6_000)),
            ("6m0s", Some(360_000)),
            ("1h2m3.5s", Some(3_723_500)),
            ("1d", Some(86_400_000)),
            ("1.5", Some(1_500)),
            ("30", Some(30_000)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("5", Some(5_000)),
            ("5m5", None),
            ("-6s", None),
            ("6S", None),
            ("1e3s", None),
            (".s", None),
            ("99999999h", None),
            ("400d", None),
            ("1.2.3s", None),
        ] {
            assert_eq!(go_duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn the_table_of_instants() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        for (text, read) in [
            ("1970-01-01T00:00:00Z", at(0)),
            ("2000-02-29T12:00:00Z", at(951_825_600)),
            ("2026-11-24T10:00:00Z", at(1_795_514_400)),
            ("2026-11-24t12:00:00+02:00", at(1_795_514_400)),
            ("2026-11-24 04:30:00-05:30", at(1_795_514_400)),
            ("Tue, 24 Nov 2026 10:00:00 GMT", at(1_795_514_400)),
            ("2026-11-24T10:00:00", None),
            ("2026-13-24T10:00:00Z", None),
            ("2026-00-24T10:00:00Z", None),
            ("2026-11-24T25:00:00Z", None),
            ("2026-11-24T10:00Z", None),
            ("2026-11-24T10:00:00.Z", None),
            ("2026-11-24T10:00:00+2:00", None),
            ("+026-11-24T10:00:00Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("tomorrow", None),
            ("é", None),
        ] {
            assert_eq!(instant(text), read, "{text}");
        }
        let half = at(1_795_514_400).map(|at| at + Duration::from_millis(500));
        assert_eq!(instant("2026-11-24T10:00:00.5Z"), half);
    }

    #[test]
    fn a_reset_is_a_delta_seconds_or_milliseconds_by_its_size() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400);
        for (text, seconds) in [
            ("60", Some(60.0)),
            ("0", Some(0.0)),
            ("0.5", Some(0.5)),
            ("60;w=60", Some(60.0)),
            ("1795514460", Some(60.0)),
            ("1795514460.5", Some(60.5)),
            ("1795514460250", Some(60.25)),
            ("2026-11-24T10:01:00Z", Some(60.0)),
            ("Tue, 24 Nov 2026 10:01:00 GMT", Some(60.0)),
            // Past, absurdly far, or no number.
            ("1795514400", None),
            ("1795514399", None),
            ("999999999", None),
            ("17955144602500000", None),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let read = reset(text, now).map(|wait| wait.as_secs_f64());
            let close = match (read, seconds) {
                (Some(read), Some(seconds)) => (read - seconds).abs() < 1e-3,
                (read, seconds) => read == seconds,
            };
            assert!(close, "{text}: {read:?}");
        }
    }

    #[test]
    fn counts_are_digits() {
        for (text, read) in [
            ("5", Some(5)),
            ("19.7", Some(19)),
            ("100, 100;w=60", Some(100)),
            ("100;w=60", Some(100)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("-1", None),
            ("", None),
            ("many", None),
            ("1e3", None),
        ] {
            assert_eq!(count(text), read, "{text}");
        }
    }
}
