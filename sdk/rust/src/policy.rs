//! The `tidegate-policy` request header: what one call asks of the gate, as an RFC 9651 dictionary.

use http::HeaderValue;
use std::fmt::Write as _;
use std::time::Duration;

/// The header's name.
pub const POLICY_HEADER: &str = "tidegate-policy";

/// How the gate may use regions and endpoints for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One after another, elsewhere after a failure.
    Failover,
    /// A second copy when the first is slow.
    Hedge,
    /// Copies at once, the first answer counts.
    Race,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Hedge => "hedge",
            Self::Race => "race",
        }
    }
}

/// What one call asks for. What is left out is decided by the function's configuration and the destination's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Give up after this long, waiting at the gate included.
    pub deadline: Option<Duration>,
    /// How regions and endpoints are used.
    pub mode: Option<Mode>,
    /// Regions to prefer, best first.
    pub regions: Vec<String>,
    /// Regions outside which the call must not leave.
    pub regions_only: Vec<String>,
    /// Retries at most, after the first attempt.
    pub retries: Option<u32>,
}

/// A policy that cannot be written as a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidPolicy {
    /// A region's name has characters other than printable ASCII.
    Region(String),
    /// The deadline has more seconds than the header's number format can hold (999,999,999,999).
    Deadline(Duration),
}

impl std::fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Region(name) => write!(f, "policy: the region {name:?} is not printable ASCII"),
            Self::Deadline(d) => write!(f, "policy: a deadline of {} s is more than 999999999999 s", d.as_secs()),
        }
    }
}

impl std::error::Error for InvalidPolicy {}

const MAX_SECONDS: u64 = 999_999_999_999;

impl Policy {
    /// The header's value, e.g. `deadline=20, mode=hedge, regions=("iad" "lhr"), retries=3`; `None` for an empty policy.
    ///
    /// # Errors
    /// When a region's name or the deadline has no form in the header.
    pub fn header_value(&self) -> Result<Option<HeaderValue>, InvalidPolicy> {
        let mut members = Vec::new();
        if let Some(deadline) = self.deadline {
            members.push(format!("deadline={}", seconds(deadline)?));
        }
        if let Some(mode) = self.mode {
            members.push(format!("mode={}", mode.name()));
        }
        for (key, regions) in [("regions", &self.regions), ("regions_only", &self.regions_only)] {
            if !regions.is_empty() {
                let names = regions.iter().map(|name| quoted(name)).collect::<Result<Vec<_>, _>>()?;
                members.push(format!("{key}=({})", names.join(" ")));
            }
        }
        if let Some(retries) = self.retries {
            members.push(format!("retries={retries}"));
        }
        if members.is_empty() {
            return Ok(None);
        }
        // Every part was checked to be printable ASCII, which is what a header value may be.
        Ok(HeaderValue::from_str(&members.join(", ")).ok())
    }
}

/// A Decimal of RFC 9651: up to twelve digits, up to three after the point.
fn seconds(deadline: Duration) -> Result<String, InvalidPolicy> {
    if deadline.as_secs() > MAX_SECONDS {
        return Err(InvalidPolicy::Deadline(deadline));
    }
    let mut text = deadline.as_secs().to_string();
    if deadline.subsec_millis() > 0 {
        let _ = write!(text, ".{:03}", deadline.subsec_millis());
    }
    Ok(text)
}

/// A String of RFC 9651: printable ASCII in quotes, with quotes and backslashes escaped.
fn quoted(text: &str) -> Result<String, InvalidPolicy> {
    if !text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(InvalidPolicy::Region(text.to_owned()));
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Adds a policy to a request being built.
pub trait PolicyExt {
    /// Sets the `tidegate-policy` header.
    ///
    /// # Errors
    /// When the policy has no form as a header.
    fn policy(self, policy: &Policy) -> Result<Self, InvalidPolicy>
    where
        Self: Sized;
}

impl PolicyExt for http::request::Builder {
    fn policy(self, policy: &Policy) -> Result<Self, InvalidPolicy> {
        Ok(match policy.header_value()? {
            Some(value) => self.header(POLICY_HEADER, value),
            None => self,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(policy: &Policy) -> String {
        policy.header_value().unwrap().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_full_policy_is_one_dictionary() {
        let policy = Policy {
            deadline: Some(Duration::from_secs(20)),
            mode: Some(Mode::Hedge),
            regions: vec!["iad".into(), "lhr".into()],
            regions_only: vec!["iad".into()],
            retries: Some(3),
        };
        assert_eq!(text(&policy), r#"deadline=20, mode=hedge, regions=("iad" "lhr"), regions_only=("iad"), retries=3"#);
    }

    #[test]
    fn milliseconds_are_three_decimals() {
        let policy = Policy { deadline: Some(Duration::from_millis(1_050)), ..Policy::default() };
        assert_eq!(text(&policy), "deadline=1.050");
    }

    #[test]
    fn an_empty_policy_sends_no_header() {
        assert_eq!(Policy::default().header_value(), Ok(None));
        let request = http::Request::get("http://a/").policy(&Policy::default()).unwrap().body(()).unwrap();
        assert!(request.headers().is_empty());
    }

    #[test]
    fn quotes_and_backslashes_in_a_region_are_escaped() {
        let policy = Policy { regions: vec![r#"a"\b"#.into()], ..Policy::default() };
        assert_eq!(text(&policy), r#"regions=("a\"\\b")"#);
    }

    #[test]
    fn what_has_no_form_is_named() {
        let region = Policy { regions: vec!["zürich".into()], ..Policy::default() };
        assert_eq!(region.header_value(), Err(InvalidPolicy::Region("zürich".into())));
        let deadline = Duration::from_secs(MAX_SECONDS + 1);
        let late = Policy { deadline: Some(deadline), ..Policy::default() };
        assert_eq!(late.header_value(), Err(InvalidPolicy::Deadline(deadline)));
    }
}
