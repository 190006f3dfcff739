//! Policy: what a call may cost in time and attempts, and where it may go.
//!
//! One struct, one spelling, three notations: TOML, JSON ([`Policy`] by serde, durations as text) and the header
//! `tidegate-policy` ([`header::parse`], an RFC 9651 dictionary whose numbers are seconds). Every field is optional;
//! [`Effective::of`] lays them over each other: defaults < profile < destination < function < request.
//!
//! `regions` and `reroute_on` mean something where a destination has several endpoints (see [`crate::endpoint`]).

pub mod header;
mod on;

pub use on::{On, RetryOn};

use crate::units::Span;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The name of the header that carries a request's own policy.
pub const HEADER: &str = "tidegate-policy";

/// How several regions or endpoints are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One after the other, when one fails.
    #[default]
    Failover,
    /// A second copy after `hedge_after` without an answer.
    Hedge,
    /// A copy to each at once; the first answer wins.
    Race,
}

/// A policy, or a part of one: what is not stated is left to the layer below.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Time the whole call may take, waiting included, to the head of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// Time one attempt may take to the head of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt_timeout: Option<Span>,
    /// How many further attempts may follow the first; waiting for a refusal to end is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Outcomes that are tried again: statuses (`503`), classes (`"5xx"`), `"connect"`, `"broken"`, `"timeout"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<Vec<On>>,
    /// Outcomes that are tried again elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reroute_on: Option<Vec<On>>,
    /// Regions to leave from, best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<Vec<String>>,
    /// Whether other regions are forbidden even when all of `regions` are bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions_only: Option<bool>,
    /// How several regions or endpoints are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// When the second copy leaves in mode `hedge`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge_after: Option<Span>,
    /// Seconds by which it stands before its time among the calls of its own sender, -100 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// Tokens the call is expected to cost, against limits in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
    /// The `Idempotency-Key` to send with every attempt of the call; makes it repeatable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// Which value of a policy is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{member}: {problem}")]
pub struct PolicyError {
    /// The member (or field) that is wrong.
    pub member: String,
    /// What is wrong with it and what would be right.
    pub problem: String,
}

impl PolicyError {
    pub(crate) fn new(member: impl Into<String>, problem: impl Into<String>) -> PolicyError {
        PolicyError { member: member.into(), problem: problem.into() }
    }
}

impl Policy {
    /// Most retries a policy may ask for.
    pub const MAX_RETRIES: u32 = 20;
    /// Longest deadline.
    pub const MAX_DEADLINE: Duration = Duration::from_secs(86_400);
    /// Most regions a policy may list.
    pub const MAX_REGIONS: usize = 64;
    /// Longest idempotency key, in bytes.
    pub const MAX_KEY: usize = 255;

    /// Checks the values; deserialisation checks only the shapes.
    ///
    /// # Errors
    /// The first field out of bounds, by name, with the bounds.
    pub fn validate(&self) -> Result<(), PolicyError> {
        for (name, span) in [("deadline", self.deadline), ("attempt_timeout", self.attempt_timeout)] {
            if let Some(Span(span)) = span
                && (span < Duration::from_millis(1) || span > Self::MAX_DEADLINE)
            {
                return Err(PolicyError::new(name, format!("{} is outside 1ms to 1d", Span(span))));
            }
        }
        if let Some(Span(span)) = self.hedge_after
            && span > Self::MAX_DEADLINE
        {
            return Err(PolicyError::new("hedge_after", format!("{} is over 1d", Span(span))));
        }
        if let Some(retries) = self.retries
            && retries > Self::MAX_RETRIES
        {
            return Err(PolicyError::new("retries", format!("{retries} is over {}", Self::MAX_RETRIES)));
        }
        if let Some(priority) = self.priority
            && !(-100..=100).contains(&priority)
        {
            return Err(PolicyError::new("priority", format!("{priority} is outside -100 to 100")));
        }
        if let Some(regions) = &self.regions {
            if regions.is_empty() || regions.len() > Self::MAX_REGIONS {
                return Err(PolicyError::new("regions", format!("must list 1 to {} regions", Self::MAX_REGIONS)));
            }
            let valid = |r: &String| {
                (2..=32).contains(&r.len())
                    && r.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            };
            if let Some(bad) = regions.iter().find(|region| !valid(region)) {
                return Err(PolicyError::new("regions", format!("{bad:?} is not the name of a region, like \"iad\"")));
            }
        }
        if let Some(key) = &self.idempotency_key
            && (key.is_empty() || key.len() > Self::MAX_KEY || !key.bytes().all(|b| (0x20..0x7f).contains(&b)))
        {
            return Err(PolicyError::new("idempotency_key", "must be 1 to 255 printable ASCII characters"));
        }
        Ok(())
    }

    /// This policy laid over `below`: what it does not state is taken from there.
    pub fn over(&self, below: &Policy) -> Policy {
        let top = self.clone();
        let below = below.clone();
        Policy {
            deadline: top.deadline.or(below.deadline),
            attempt_timeout: top.attempt_timeout.or(below.attempt_timeout),
            retries: top.retries.or(below.retries),
            retry_on: top.retry_on.or(below.retry_on),
            reroute_on: top.reroute_on.or(below.reroute_on),
            regions: top.regions.or(below.regions),
            regions_only: top.regions_only.or(below.regions_only),
            mode: top.mode.or(below.mode),
            hedge_after: top.hedge_after.or(below.hedge_after),
            priority: top.priority.or(below.priority),
            tokens: top.tokens.or(below.tokens),
            idempotency_key: top.idempotency_key.or(below.idempotency_key),
        }
    }
}

/// The policy in force for one call: every question has an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Time the whole call may take to the head of its answer.
    pub deadline: Duration,
    /// Time one attempt may take to the head of its answer.
    pub attempt_timeout: Duration,
    /// Further attempts after the first.
    pub retries: u32,
    /// Outcomes that are tried again.
    pub retry_on: RetryOn,
    /// Outcomes that are tried again elsewhere.
    pub reroute_on: RetryOn,
    /// Regions to leave from, best first; empty: any.
    pub regions: Vec<String>,
    /// Whether other regions are forbidden.
    pub regions_only: bool,
    /// How several regions or endpoints are used.
    pub mode: Mode,
    /// When the second copy leaves; `None`: after the destination's p95.
    pub hedge_after: Option<Duration>,
    /// Seconds by which it stands before its time among the calls of its own sender.
    pub priority: i8,
    /// Expected cost in tokens; `None`: to be estimated from the request.
    pub tokens: Option<u32>,
    /// The key to send; `None`: the request's own, if it has one.
    pub idempotency_key: Option<String>,
}

impl Default for Effective {
    /// 60 s for the call, 60 s to the first byte, 4 attempts.
    fn default() -> Effective {
        Effective {
            deadline: Duration::from_secs(60),
            attempt_timeout: Duration::from_secs(60),
            retries: 3,
            retry_on: RetryOn::default(),
            reroute_on: RetryOn::elsewhere(),
            regions: Vec::new(),
            regions_only: false,
            mode: Mode::default(),
            hedge_after: None,
            priority: 0,
            tokens: None,
            idempotency_key: None,
        }
    }
}

impl Effective {
    /// Lays `layers` over the defaults, lowest first: profile, destination, function, request.
    pub fn of<'a>(layers: impl IntoIterator<Item = &'a Policy>) -> Effective {
        let mut policy = Effective::default();
        for layer in layers {
            policy.apply(layer);
        }
        policy
    }

    /// Checks what only all layers together tell.
    ///
    /// # Errors
    /// The member that lacks another.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.regions_only && self.regions.is_empty() {
            return Err(PolicyError::new("regions_only", "needs `regions`, which nobody states"));
        }
        Ok(())
    }

    /// A client waits so long. Libraries say so unasked, so it is no layer of its own: it is the deadline where nobody
    /// `stated` one, and else a bound of it.
    pub fn heed(&mut self, patience: Duration, stated: bool) {
        if !stated || patience < self.deadline {
            self.deadline = patience;
        }
    }

    /// Lays one more layer on top.
    pub fn apply(&mut self, layer: &Policy) {
        fn set<T>(value: &mut T, stated: Option<T>) {
            if let Some(stated) = stated {
                *value = stated;
            }
        }
        set(&mut self.deadline, layer.deadline.map(|span| span.0));
        set(&mut self.attempt_timeout, layer.attempt_timeout.map(|span| span.0));
        set(&mut self.retries, layer.retries);
        set(&mut self.retry_on, layer.retry_on.as_deref().map(RetryOn::of));
        set(&mut self.reroute_on, layer.reroute_on.as_deref().map(RetryOn::of));
        set(&mut self.regions, layer.regions.clone());
        set(&mut self.regions_only, layer.regions_only);
        set(&mut self.mode, layer.mode);
        set(&mut self.hedge_after, layer.hedge_after.map(|span| Some(span.0)));
        set(&mut self.priority, layer.priority);
        set(&mut self.tokens, layer.tokens.map(Some));
        set(&mut self.idempotency_key, layer.idempotency_key.clone().map(Some));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_layer_wins_field_by_field() {
        let destination: Policy =
            serde_json::from_str(r#"{"mode": "hedge", "regions": ["iad", "lhr"], "deadline": "10m"}"#).unwrap();
        let function: Policy = toml::from_str("deadline = \"60s\"\nretries = 1").unwrap();
        let request = header::parse("deadline=20").unwrap();
        let policy = Effective::of([&destination, &function, &request]);
        assert_eq!(policy.deadline, Duration::from_secs(20));
        assert_eq!((policy.retries, policy.mode), (1, Mode::Hedge));
        assert_eq!(policy.regions, ["iad", "lhr"]);
        assert_eq!(Effective::of([]), Effective::default());
        let merged = request.over(&function).over(&destination);
        assert_eq!(Effective::of([&merged]), policy);
    }

    #[test]
    fn what_one_layer_lacks_another_may_state() {
        let only = header::parse("regions_only").unwrap();
        let regions: Policy = serde_json::from_str(r#"{"regions": ["lhr"]}"#).unwrap();
        assert!(Effective::of([&regions, &only]).validate().is_ok());
        assert!(Effective::of([&regions]).validate().is_ok());
        let error = Effective::of([&only]).validate().unwrap_err();
        assert!(error.to_string().contains("regions_only: needs `regions`"), "{error}");
    }

    #[test]
    fn json_and_toml_errors_say_which_member() {
        let json = |text: &str| match serde_json::from_str::<Policy>(text) {
            Ok(policy) => policy.validate().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        for (text, names) in [
            (r#"{"deadlin": "1s"}"#, "deadlin"),
            (r#"{"deadline": 5}"#, "text with a unit"),
            (r#"{"deadline": "0s"}"#, "deadline"),
            (r#"{"mode": "fast"}"#, "fast"),
            (r#"{"retries": 100}"#, "retries: 100 is over 20"),
            (r#"{"retry_on": ["sometimes"]}"#, "sometimes"),
            (r#"{"retry_on": [99]}"#, "99"),
            (r#"{"regions": ["IAD"]}"#, "IAD"),
            (r#"{"priority": 101}"#, "priority"),
            (r#"{"idempotency_key": ""}"#, "idempotency_key"),
        ] {
            let error = json(text);
            assert!(error.contains(names), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = r#"{"deadline":"20s","retries":3,"retry_on":[503,"5xx","timeout"],"mode":"race","priority":-5}"#;
        let policy: Policy = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), text);
    }

    #[test]
    fn what_a_client_waits_is_a_bound_on_what_is_stated_and_stands_in_for_what_is_not() {
        let secs = Duration::from_secs;
        for (deadline, patience, stated, expected) in
            [(60, 600, true, 60), (60, 20, true, 20), (60, 600, false, 600), (60, 20, false, 20)]
        {
            let mut policy = Effective { deadline: secs(deadline), ..Effective::default() };
            policy.heed(secs(patience), stated);
            assert_eq!(policy.deadline, secs(expected), "{deadline}, {patience}, {stated}");
        }
    }
}
