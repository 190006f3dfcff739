//! The IETF draft's `RateLimit` and `RateLimit-Policy` (structured fields, RFC 9651), in its present form and in that of
//! its seventh version (`limit=100, remaining=50, reset=5`). What is malformed is not there.

use super::{
    fields::{Field, Fields},
    quota::{Counted, Quota, Quotas, Refill},
};
use sfv::{BareItem, Dictionary, List, ListEntry, Parameters, Parser};
use std::time::Duration;

/// Longest of the two headers that is read, bytes.
const LONGEST: usize = 2048;
/// Policies of an answer that are looked at.
const MOST: usize = 16;

/// What a policy counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Requests,
    Concurrency,
    Other,
}

struct Policy {
    name: String,
    quota: Option<u64>,
    unit: Unit,
}

/// What the draft's headers say.
#[derive(Default)]
pub(super) struct Draft {
    policies: Vec<Policy>,
    /// A quota of concurrent requests is used up.
    pub(super) concurrency: bool,
}

impl Draft {
    /// Reads both headers and states the narrowest quota of requests.
    pub(super) fn read(fields: &Fields<'_>, quotas: &mut Quotas) -> Option<Self> {
        let policies = fields.list(Field::RateLimitPolicy, "ratelimit-policy", LONGEST);
        let limits = fields.list(Field::RateLimit, "ratelimit", LONGEST);
        if policies.is_none() && limits.is_none() {
            return None;
        }
        let policies = policies.as_deref().map(read_policies).unwrap_or_default();
        let mut draft = Self { policies, concurrency: false };
        match limits.as_deref() {
            Some(text) => draft.limits(text, quotas),
            None => {
                let quota = draft.policies.iter().filter(|policy| policy.unit == Unit::Requests);
                let limit = quota.filter_map(|policy| policy.quota).min();
                quotas.state(Counted::Requests, Quota { limit, ..Quota::default() });
            }
        }
        Some(draft)
    }

    fn limits(&mut self, text: &str, quotas: &mut Quotas) {
        let mut narrowest: Option<Quota> = None;
        let Ok(list) = Parser::new(text).parse::<List>() else {
            if let Some(quota) = seventh(text) {
                quotas.state(Counted::Requests, quota);
            }
            return;
        };
        for entry in list.iter().take(MOST) {
            let Some((name, params)) = named(entry) else { continue };
            let Some(remaining) = integer(params, "r") else { continue };
            let reset = integer(params, "t").map(Duration::from_secs);
            let policy = self.policies.iter().find(|policy| policy.name == name);
            match policy.map_or(Unit::Requests, |policy| policy.unit) {
                Unit::Requests => {}
                Unit::Concurrency => {
                    self.concurrency |= remaining == 0;
                    continue;
                }
                Unit::Other => continue,
            }
            let limit = policy.and_then(|policy| policy.quota);
            let quota = Quota { limit, remaining: Some(remaining), reset, refill: Refill::AtOnce };
            let narrower = |other: &Quota| match (remaining, other.remaining) {
                (0, Some(0)) => reset > other.reset,
                (mine, other) => other.is_none_or(|other| mine < other),
            };
            if narrowest.as_ref().is_none_or(narrower) {
                narrowest = Some(quota);
            }
        }
        if let Some(quota) = narrowest {
            quotas.state(Counted::Requests, quota);
        }
    }

    /// Whether the policy of this name counts concurrent requests; nothing where it is not known.
    pub(super) fn is_concurrency(&self, name: &str) -> Option<bool> {
        self.policies.iter().find(|policy| policy.name == name).map(|policy| policy.unit == Unit::Concurrency)
    }
}

fn read_policies(text: &str) -> Vec<Policy> {
    let Ok(list) = Parser::new(text).parse::<List>() else { return Vec::new() };
    let read = |entry: &ListEntry| {
        let (name, params) = named(entry)?;
        let unit = match params.get("qu").and_then(string) {
            None | Some("requests") => Unit::Requests,
            Some("concurrent-requests") => Unit::Concurrency,
            Some(_) => Unit::Other,
        };
        Some(Policy { name: name.to_owned(), quota: integer(params, "q").filter(|quota| *quota > 0), unit })
    };
    list.iter().take(MOST).filter_map(read).collect()
}

/// An item with its name. One of the seventh version is a number, and has none.
fn named(entry: &ListEntry) -> Option<(&str, &Parameters)> {
    match entry {
        ListEntry::Item(item) => Some((string(&item.bare_item)?, &item.params)),
        ListEntry::InnerList(_) => None,
    }
}

fn string(item: &BareItem) -> Option<&str> {
    match item {
        BareItem::String(text) => Some(text.as_str()),
        BareItem::Token(token) => Some(token.as_str()),
        _ => None,
    }
}

fn integer(params: &Parameters, name: &str) -> Option<u64> {
    params.get(name)?.as_integer().and_then(|number| u64::try_from(i64::from(number)).ok())
}

fn seventh(text: &str) -> Option<Quota> {
    let members: Dictionary = Parser::new(text).parse().ok()?;
    let number = |name: &str| match members.get(name)? {
        ListEntry::Item(item) => u64::try_from(i64::from(item.bare_item.as_integer()?)).ok(),
        ListEntry::InnerList(_) => None,
    };
    let reset = number("reset").map(Duration::from_secs);
    let limit = number("limit").filter(|limit| *limit > 0);
    Some(Quota { limit, remaining: Some(number("remaining")?), reset, refill: Refill::AtOnce })
}
