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
    /// Whether the call must not leave from any region but those of `regions`.
    pub regions_only: Option<bool>,
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
        if !self.regions.is_empty() {
            let names = self.regions.iter().map(|name| quoted(name)).collect::<Result<Vec<_>, _>>()?;
            members.push(format!("regions=({})", names.join(" ")));
        }
        if let Some(only) = self.regions_only {
            members.push(format!("regions_only={}", if only { "?1" } else { "?0" }));
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
    // A short deadline is a deadline; none at all would be refused.
    let least = u32::from(deadline.as_secs() == 0 && !deadline.is_zero());
    let millis = deadline.subsec_millis().max(least);
    if millis > 0 {
        let _ = write!(text, ".{millis:03}");
        text.truncate(text.trim_end_matches('0').len());
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
    fn headers_are_written_as_the_gate_reads_them() {
        // The gate's parser and the TypeScript SDK are tested against the same file.
        let agreed: Vec<serde_json::Value> = serde_json::from_str(include_str!("../../policy-headers.json")).unwrap();
        for case in &agreed {
            let member = |name: &str| case["policy"].get(name);
            let policy = Policy {
                deadline: member("deadline_ms").map(|ms| Duration::from_millis(ms.as_u64().unwrap())),
                mode: member("mode").map(|mode| match mode.as_str().unwrap() {
                    "failover" => Mode::Failover,
                    "hedge" => Mode::Hedge,
                    _ => Mode::Race,
                }),
                regions: member("regions")
                    .map(|list| serde_json::from_value(list.clone()).unwrap())
                    .unwrap_or_default(),
                regions_only: member("regions_only").map(|only| only.as_bool().unwrap()),
                retries: member("retries").map(|retries| retries.as_u64().unwrap().try_into().unwrap()),
            };
            let written = policy.header_value().unwrap();
            let written = written.as_ref().map_or("", |value| value.to_str().unwrap());
            assert_eq!(written, case["header"].as_str().unwrap());
        }
    }

    #[test]
    fn a_short_deadline_is_never_none() {
        let policy = Policy { deadline: Some(Duration::from_micros(400)), ..Policy::default() };
        assert_eq!(text(&policy), "deadline=0.001");
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
