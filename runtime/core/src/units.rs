//! Durations and sizes as people write them: `"250ms"`, `"1m30s"`, `"64MiB"`.
//!
//! Every configuration shape uses these two newtypes, so a duration is text with a unit everywhere (a bare number would
//! leave the unit to guessing), and a size is text with a unit or a plain number of bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr, time::Duration};

/// A duration written as text: one or more `NUMBER UNIT` pairs, units `ns`, `us`, `ms`, `s`, `m`, `h`, `d`.
///
/// Written back in the largest units that divide it: 90 s is `1m30s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

/// Prints a duration as people say it: `80 ms`, `1.25 s`, `9m 27s`, `2h 5m`. Rounded to one unit below its largest, so it
/// is not read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounded(pub Duration);

/// A number of bytes written as text (`"64MiB"`, `"1GiB"`, `"10kB"`, `"123"`) or as a plain number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u64);

impl Span {
    /// Its length.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Size {
    /// A size of this many mebibytes.
    pub const fn mib(count: u64) -> Size {
        Size(count << 20)
    }

    /// Its number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What is wrong with a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// The text does not start with a number where one has to be.
    #[error("`{text}` is not a {what}: expected a number and a unit, like {example}")]
    NotANumber {
        /// What was to be read: a duration or a size.
        what: &'static str,
        /// The text as given.
        text: String,
        /// A right form.
        example: &'static str,
    },
    /// The unit is none we know.
    #[error("`{text}`: unknown unit `{unit}` of a {what}, expected one of {known}")]
    UnknownUnit {
        /// What was to be read.
        what: &'static str,
        /// The text as given.
        text: String,
        /// The unit as given, empty if there is none.
        unit: String,
        /// The units there are.
        known: &'static str,
    },
    /// More than 64 bits of nanoseconds or bytes.
    #[error("`{text}` is too large for a {what}")]
    TooLarge {
        /// What was to be read.
        what: &'static str,
        /// The text as given.
        text: String,
    },
}

/// Units of a duration and their nanoseconds, largest first.
const SPANS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Binary units first: the first that divides is how a size is written back.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// Splits `NUMBER UNIT REST`: digits with at most one decimal point, then letters.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(unit_at);
    if !number.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    let rest = rest.trim_start();
    let end = rest.find(|c: char| c.is_ascii_digit() || c == '.' || c.is_whitespace()).unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(end);
    Some((number, unit, tail.trim_start()))
}

/// `number * scale`, where the number may have a decimal fraction; exact in integers. `None`: malformed or too large.
fn scaled(number: &str, scale: u64) -> Option<Result<u64, ()>> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        match whole.parse() {
            Ok(whole) => whole,
            Err(_) => return Some(Err(())),
        }
    };
    // More than 18 digits of a fraction are below any unit's resolution.
    let fraction: String = fraction.chars().take(18).collect();
    let part = match fraction.parse::<u128>() {
        Ok(digits) => digits * u128::from(scale) / 10u128.pow(u32::try_from(fraction.len()).unwrap_or(18)),
        Err(_) => 0,
    };
    Some(u64::try_from(u128::from(whole) * u128::from(scale) + part).map_err(|_| ()))
}

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Span, UnitError> {
        const WHAT: &str = "duration";
        let not =
            || UnitError::NotANumber { what: WHAT, text: text.to_owned(), example: "\"250ms\", \"1s\" or \"1m30s\"" };
        let large = || UnitError::TooLarge { what: WHAT, text: text.to_owned() };
        let mut rest = text.trim();
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(not());
        }
        while !rest.is_empty() {
            let (number, unit, tail) = split(rest).ok_or_else(not)?;
            let unit_name = if unit == "µs" { "us" } else { unit };
            let Some((_, scale)) = SPANS.iter().find(|(name, _)| *name == unit_name) else {
                return Err(UnitError::UnknownUnit {
                    what: WHAT,
                    text: text.to_owned(),
                    unit: unit.to_owned(),
                    known: "ns, us, ms, s, m, h, d",
                });
            };
            let nanos = scaled(number, *scale).ok_or_else(not)?.map_err(|()| large())?;
            total = total.checked_add(nanos).ok_or_else(large)?;
            rest = tail;
        }
        Ok(Span(Duration::from_nanos(total)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = crate::time::nanos(self.0);
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in SPANS {
            let count = left / scale;
            if count > 0 {
                write!(f, "{count}{unit}")?;
                left %= scale;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1e3;
        if millis.round() < 1e3 {
            return write!(f, "{millis:.0} ms");
        }
        let hundredths = (millis / 10.0).round();
        if hundredths < 6e3 {
            return write!(f, "{} s", hundredths / 100.0);
        }
        let mut count = (millis / 1e3).round() as u64;
        let (mut large, mut small, mut ratio) = ("m", "s", 60);
        for (larger, next) in [("h", 60), ("d", 24)] {
            if count < ratio * next {
                break;
            }
            count = (count + ratio / 2) / ratio;
            (large, small, ratio) = (larger, large, next);
        }
        match count % ratio {
            0 => write!(f, "{}{large}", count / ratio),
            rest => write!(f, "{}{large} {rest}{small}", count / ratio),
        }
    }
}

impl FromStr for Size {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Size, UnitError> {
        const WHAT: &str = "size";
        let not = || UnitError::NotANumber { what: WHAT, text: text.to_owned(), example: "\"64MiB\" or 65536" };
        let (number, unit, tail) = split(text.trim()).ok_or_else(not)?;
        if !tail.is_empty() {
            return Err(not());
        }
        let unit_name = match unit {
            "" => "B",
            "KB" => "kB",
            other => other,
        };
        let Some((_, scale)) = SIZES.iter().find(|(name, _)| *name == unit_name) else {
            return Err(UnitError::UnknownUnit {
                what: WHAT,
                text: text.to_owned(),
                unit: unit.to_owned(),
                known: "B, KiB, MiB, GiB, TiB, kB, MB, GB, TB",
            });
        };
        let bytes = scaled(number, *scale).ok_or_else(not)?;
        bytes.map(Size).map_err(|()| UnitError::TooLarge { what: WHAT, text: text.to_owned() })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZES.iter().find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale));
        match unit {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Span {
        Span(duration)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        span.0
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct SpanVisitor;
impl de::Visitor<'_> for SpanVisitor {
    type Value = Span;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration as text with a unit, like \"250ms\", \"1s\" or \"1m30s\"")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(E::custom)
    }
}

struct SizeVisitor;
impl de::Visitor<'_> for SizeVisitor {
    type Value = Size;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size as text like \"64MiB\", or a number of bytes")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }
    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }
    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes).map(Size).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        deserializer.deserialize_any(SpanVisitor)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_and_write_as_people_write_them() {
        for (text, nanos, back) in [
            ("250ms", 250_000_000u64, "250ms"),
            ("1s", 1_000_000_000, "1s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1.5s", 1_500_000_000, "1s500ms"),
            ("1h", 3_600_000_000_000, "1h"),
            ("1d", 86_400_000_000_000, "1d"),
            ("10 m", 600_000_000_000, "10m"),
            ("0s", 0, "0s"),
            ("3µs", 3_000, "3us"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_nanos(nanos), "{text}");
            assert_eq!(span.to_string(), back, "{text}");
        }
    }

    #[test]
    fn sizes_read_and_write_as_people_write_them() {
        for (text, bytes, back) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("1GiB", 1 << 30, "1GiB"),
            ("512KiB", 512 << 10, "512KiB"),
            ("1536KiB", 1536 << 10, "1536KiB"),
            ("10kB", 10_000, "10000B"),
            ("100", 100, "100B"),
            ("0", 0, "0B"),
            ("1.5MiB", 3 << 19, "1536KiB"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string(), back, "{text}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong_and_what_is_right() {
        let message = |text: &str| text.parse::<Span>().unwrap_err().to_string();
        assert!(message("10").contains("unknown unit ``"), "{}", message("10"));
        assert!(message("fast").contains("\"250ms\""), "{}", message("fast"));
        assert!(message("10 parsecs").contains("`parsecs`"));
        assert!(message("99999999d").contains("too large"));
        assert!(message("").contains("not a duration"));
        assert!(message("-1s").contains("not a duration"));
        assert!("1MiB 2".parse::<Size>().is_err());
        let number = serde_json::from_str::<Span>("10").unwrap_err().to_string();
        assert!(number.contains("text with a unit"), "{number}");
        assert_eq!(serde_json::from_str::<Size>("4096").unwrap(), Size(4096));
        assert!(serde_json::from_str::<Size>("-1").is_err());
    }

    #[test]
    fn a_rounded_duration_has_two_units_at_most() {
        let (s, m, h, d) = (1_000, 60_000, 3_600_000, 86_400_000);
        for (millis, text) in [
            (0, "0 ms"),
            (80, "80 ms"),
            (999, "999 ms"),
            (s, "1 s"),
            (1_254, "1.25 s"),
            (11_800, "11.8 s"),
            (59_994, "59.99 s"),
            (59_996, "1m"),
            (90 * s, "1m 30s"),
            (9 * m + 26 * s + 603, "9m 27s"),
            (10 * m, "10m"),
            (59 * m + 59 * s, "59m 59s"),
            (h, "1h"),
            (2 * h + 5 * m + 29 * s, "2h 5m"),
            (23 * h + 59 * m, "23h 59m"),
            (d + 3 * h + 31 * m, "1d 4h"),
            (400 * d, "400d"),
        ] {
            assert_eq!(Rounded(Duration::from_millis(millis)).to_string(), text, "{millis}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos: u64, bytes: u64) {
            let span = Span(Duration::from_nanos(nanos));
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
            let size = Size(bytes);
            prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text: String, shape in "[0-9.]{0,40}(ms|s|m|h|d|GiB|MiB)?[0-9.]{0,9}") {
            let _ = text.parse::<Span>();
            let _ = text.parse::<Size>();
            let _ = shape.parse::<Span>();
            let _ = shape.parse::<Size>();
        }
    }
}
