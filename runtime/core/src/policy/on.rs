//! `retry_on` and `reroute_on`: lists of outcomes.

use crate::repeat::{Failure, Outcome};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use smallvec::SmallVec;
use std::{fmt, str::FromStr};

/// One outcome that is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum On {
    /// A status, 400 to 599.
    Status(u16),
    /// All statuses of a class: `"4xx"` or `"5xx"`.
    Class(u8),
    /// Resolving, connecting or the TLS handshake failed.
    Connect,
    /// The connection broke before the answer.
    Broken,
    /// No answer head in the attempt's time.
    Timeout,
}

impl On {
    /// The status, if it is one that can be tried again.
    pub fn status(status: i64) -> Option<On> {
        u16::try_from(status).ok().filter(|status| (400..600).contains(status)).map(On::Status)
    }
}

impl FromStr for On {
    type Err = String;
    fn from_str(text: &str) -> Result<On, String> {
        Ok(match text {
            "4xx" => On::Class(4),
            "5xx" => On::Class(5),
            "connect" => On::Connect,
            "broken" => On::Broken,
            "timeout" => On::Timeout,
            _ => {
                return text.parse().ok().and_then(On::status).ok_or_else(|| {
                    format!(
                        "{text:?} is no outcome; expected a status (400 to 599), 4xx, 5xx, connect, broken or timeout"
                    )
                });
            }
        })
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            On::Status(status) => write!(f, "{status}"),
            On::Class(class) => write!(f, "{class}xx"),
            On::Connect => f.write_str("connect"),
            On::Broken => f.write_str("broken"),
            On::Timeout => f.write_str("timeout"),
        }
    }
}

impl Serialize for On {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            On::Status(status) => serializer.serialize_u16(*status),
            other => serializer.collect_str(other),
        }
    }
}

struct OnVisitor;
impl de::Visitor<'_> for OnVisitor {
    type Value = On;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a status from 400 to 599, \"4xx\", \"5xx\", \"connect\", \"broken\" or \"timeout\"")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<On, E> {
        text.parse().map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, status: i64) -> Result<On, E> {
        On::status(status).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(status), &self))
    }
    fn visit_u64<E: de::Error>(self, status: u64) -> Result<On, E> {
        self.visit_i64(i64::try_from(status).unwrap_or(i64::MAX))
    }
}

impl<'de> Deserialize<'de> for On {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<On, D::Error> {
        deserializer.deserialize_any(OnVisitor)
    }
}

/// A set of outcomes, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryOn(SmallVec<[On; 8]>);

impl Default for RetryOn {
    /// 408, 500, 502, 503, 504, 520 to 527, 529, 530 and failures to connect, to stay connected or to answer in time.
    fn default() -> RetryOn {
        let statuses = [408, 500, 502, 503, 504, 529, 530].into_iter().chain(520..=527).map(On::Status);
        RetryOn(statuses.chain([On::Connect, On::Broken, On::Timeout]).collect())
    }
}

impl RetryOn {
    /// After which another endpoint is tried rather than the same: the above, and 429.
    pub fn elsewhere() -> RetryOn {
        let RetryOn(mut list) = RetryOn::default();
        list.push(On::Status(429));
        RetryOn(list)
    }

    /// The set of these outcomes.
    pub fn of(list: &[On]) -> RetryOn {
        RetryOn(list.iter().copied().collect())
    }

    /// Whether the outcome is in the set.
    pub fn matches(&self, outcome: &Outcome) -> bool {
        self.0.iter().any(|on| match (on, outcome) {
            (On::Status(listed), Outcome::Answer { status, .. }) => listed == status,
            (On::Class(class), Outcome::Answer { status, .. }) => u16::from(*class) == status / 100,
            (On::Connect, Outcome::Failed(Failure::Connect))
            | (On::Broken, Outcome::Failed(Failure::Broken | Failure::Unprocessed))
            | (On::Timeout, Outcome::Failed(Failure::TimedOut)) => true,
            _ => false,
        })
    }
}
