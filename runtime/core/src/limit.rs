//! Limits as they are configured: `{"unit": "requests", "quota": 500, "per": "1m", "burst": 20}`, on a command line
//! `500/1m+20`.

use crate::units::Span;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Departures towards the destination.
    #[default]
    Requests,
    /// Tokens of language models, as estimated before and corrected after the answer.
    Tokens,
}

impl Unit {
    /// As configurations write it.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Requests => "requests",
            Unit::Tokens => "tokens",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// At most `quota` units in every half-open window of length `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// What is counted; requests unless stated.
    #[serde(default)]
    pub unit: Unit,
    /// How many units every window of `per` may hold; at least 1.
    pub quota: u64,
    /// The window's length; over a minute the window is counted, up to it the departures are paced.
    pub per: Span,
    /// How many units may leave at once after a quiet time, at most `quota`. Unless stated it is `max(1, quota/20)`, and the
    /// whole quota where `per` is over a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
}

/// Why a limit is no limit: which field, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct LimitError {
    /// The field, such as `limits[0].quota`.
    pub key: String,
    /// What is wrong with it.
    pub problem: LimitProblem,
}

/// What is wrong with a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitProblem {
    /// It is zero.
    #[error("must be at least 1 (to stop a destination, pause it)")]
    Zero,
    /// `per` is outside 1 ms to 366 days.
    #[error("{0} is outside 1ms to 366d")]
    BadPeriod(Span),
    /// `burst` is zero or more than `quota`.
    #[error("{burst} must be between 1 and the quota of {quota}")]
    BadBurst {
        /// The burst as given.
        burst: u64,
        /// The limit's quota.
        quota: u64,
    },
    /// More units in a period than the arithmetic of nanoseconds can pace.
    #[error("{quota} per {per} is more than one a nanosecond")]
    TooFast {
        /// The quota as given.
        quota: u64,
        /// The period as given.
        per: Span,
    },
    /// It is below zero, or no number.
    #[error("must be a number and at least 0")]
    Negative,
    /// More limits than one destination may have.
    #[error("{given} are too many, a destination has at most {max}")]
    TooMany {
        /// How many were given.
        given: usize,
        /// [`Limit::MAX_PER_DESTINATION`].
        max: usize,
    },
}

impl Limit {
    /// The longest period that is paced; longer ones are window counters.
    pub const LONGEST_PACED: Duration = Duration::from_secs(60);
    /// How many limits one destination may have.
    pub const MAX_PER_DESTINATION: usize = 8;

    /// `quota` requests per `per`, with the default burst.
    pub const fn requests(quota: u64, per: Duration) -> Limit {
        Limit { unit: Unit::Requests, quota, per: Span(per), burst: None }
    }

    /// The burst in force of a limit that is paced.
    pub fn burst(&self) -> u64 {
        self.burst.unwrap_or(self.quota / 20).clamp(1, self.quota.max(1))
    }

    /// Checks one limit; `index` is its place in the list, for the error.
    ///
    /// # Errors
    /// Says which field of which limit is wrong and what would be right.
    pub fn validate(&self, index: usize) -> Result<(), LimitError> {
        let wrong = |field: &str, problem| Err(LimitError { key: format!("limits[{index}].{field}"), problem });
        let (quota, per) = (self.quota, self.per);
        if quota == 0 {
            return wrong("quota", LimitProblem::Zero);
        }
        if per.0 < Duration::from_millis(1) || per.0 > Duration::from_secs(366 * 86_400) {
            return wrong("per", LimitProblem::BadPeriod(per));
        }
        if let Some(burst) = self.burst
            && (burst == 0 || burst > quota)
        {
            return wrong("burst", LimitProblem::BadBurst { burst, quota });
        }
        if u128::from(quota) > per.0.as_nanos() {
            return wrong("quota", LimitProblem::TooFast { quota, per });
        }
        Ok(())
    }
}

/// A text that is no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no limit: write it as QUOTA/PERIOD, such as 10/s, 500/1m, 90000/1m:tokens or 500/1m+20")]
pub struct NotALimit(String);

/// `QUOTA/PERIOD`, then `:UNIT` if it is not requests, then `+BURST` if wanted. `10/s` reads as `10/1s`.
impl FromStr for Limit {
    type Err = NotALimit;

    fn from_str(text: &str) -> Result<Limit, NotALimit> {
        let read = || {
            let (rest, burst) = match text.split_once('+') {
                Some((rest, burst)) => (rest, Some(burst.trim().parse().ok()?)),
                None => (text, None),
            };
            let (rest, unit) = match rest.split_once(':') {
                None => (rest, Unit::Requests),
                Some((rest, "requests")) => (rest, Unit::Requests),
                Some((rest, "tokens")) => (rest, Unit::Tokens),
                Some(_) => return None,
            };
            let (quota, per) = rest.split_once('/')?;
            let (quota, per) = (quota.trim().parse().ok()?, per.trim());
            let one = if per.starts_with(|first: char| first.is_ascii_digit()) { "" } else { "1" };
            let per: Span = format!("{one}{per}").parse().ok()?;
            (quota > 0 && !per.0.is_zero()).then_some(Limit { unit, quota, per, burst })
        };
        read().ok_or_else(|| NotALimit(text.to_owned()))
    }
}

/// `500 requests per 1m`, or `10/s` for requests per second.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unit == Unit::Requests && self.per.0 == Duration::from_secs(1) {
            write!(f, "{}/s", self.quota)
        } else {
            write!(f, "{} {} per {}", self.quota, self.unit, self.per)
        }
    }
}

/// What one call costs in each unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cost {
    /// Departures, 1 for a call.
    pub requests: u32,
    /// Tokens, 0 where they are not counted.
    pub tokens: u32,
}

impl Cost {
    /// One request, no tokens.
    pub const ONE: Cost = Cost { requests: 1, tokens: 0 };

    /// The cost in `unit`.
    pub fn of(&self, unit: Unit) -> u64 {
        u64::from(match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
        })
    }
}

impl Default for Cost {
    fn default() -> Cost {
        Cost::ONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(json: &str) -> Result<Limit, String> {
        let limit: Limit = serde_json::from_str(json).map_err(|e| e.to_string())?;
        limit.validate(0).map_err(|e| e.to_string())?;
        Ok(limit)
    }

    #[test]
    fn the_shape_of_the_design_is_read() {
        let read = limit(r#"{"unit": "requests", "quota": 500, "per": "1m", "burst": 20}"#).unwrap();
        assert_eq!(
            (read.unit, read.quota, read.per.0, read.burst()),
            (Unit::Requests, 500, Duration::from_secs(60), 20)
        );
        assert_eq!(limit(r#"{"unit": "tokens", "quota": 90000, "per": "1m"}"#).unwrap().burst(), 4500);
        assert_eq!(limit(r#"{"quota": 10, "per": "1s"}"#).unwrap().burst(), 1);
        assert_eq!(read.to_string(), "500 requests per 1m");
        assert_eq!(Limit::requests(10, Duration::from_secs(1)).to_string(), "10/s");
    }

    #[test]
    fn a_limit_is_read_as_people_write_it() {
        let limit = |unit, quota, secs, burst| Limit { unit, quota, per: Duration::from_secs(secs).into(), burst };
        for (text, read) in [
            ("10/s", limit(Unit::Requests, 10, 1, None)),
            ("500/1m", limit(Unit::Requests, 500, 60, None)),
            ("500 / m", limit(Unit::Requests, 500, 60, None)),
            ("500/1m:requests", limit(Unit::Requests, 500, 60, None)),
            ("90000/1m:tokens", limit(Unit::Tokens, 90_000, 60, None)),
            ("500/1m+20", limit(Unit::Requests, 500, 60, Some(20))),
            ("9/1m30s:tokens+2", limit(Unit::Tokens, 9, 90, Some(2))),
        ] {
            assert_eq!(text.parse(), Ok(read), "{text}");
        }
        for text in
            ["", "10", "/s", "0/s", "-1/s", "10/0s", "10/1w", "10/s:", "10/s:bytes", "10/s+x", "x/s", "10/s+2:tokens"]
        {
            let error = text.parse::<Limit>().unwrap_err().to_string();
            assert!(error.contains("500/1m+20"), "{text}: {error}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        for (json, names) in [
            (r#"{"quota": 0, "per": "1s"}"#, "limits[0].quota"),
            (r#"{"quota": 1, "per": "0s"}"#, "limits[0].per"),
            (r#"{"quota": 1, "per": "400d"}"#, "limits[0].per"),
            (r#"{"quota": 5, "per": "1s", "burst": 6}"#, "limits[0].burst"),
            (r#"{"quota": 5, "per": "1s", "burst": 0}"#, "limits[0].burst"),
            (r#"{"quota": 2000000, "per": "1ms"}"#, "limits[0].quota"),
            (r#"{"quota": 5, "per": "1s", "brust": 1}"#, "brust"),
            (r#"{"unit": "bananas", "quota": 5, "per": "1s"}"#, "bananas"),
            (r#"{"quota": 5, "per": 1}"#, "text with a unit"),
        ] {
            let error = limit(json).unwrap_err();
            assert!(error.contains(names), "{json}: {error}");
        }
    }
}
