//! The header `tidegate-policy`: `deadline=20, mode=hedge, regions=("iad" "lhr"), retries=3`.
//!
//! An RFC 9651 dictionary with the names of [`Policy`]; numbers are seconds where the field is a duration. Strings and
//! tokens are taken alike. Unlike most dictionaries on the wire, an unknown member is an error: a policy that is
//! silently ignored is worse than a refused request.

use super::{Mode, On, Policy, PolicyError};
use crate::units::Span;
use sfv::{BareItem, Dictionary, ListEntry, Parser};
use std::time::Duration;

/// Longest header that is read, in bytes.
pub const MAX_LENGTH: usize = 4096;

/// Reads the header's value (several header lines joined by commas).
///
/// # Errors
/// Says which member is wrong, and what would be right.
pub fn parse(value: &str) -> Result<Policy, PolicyError> {
    if value.len() > MAX_LENGTH {
        return Err(PolicyError::new(super::HEADER, format!("{} bytes are over {MAX_LENGTH}", value.len())));
    }
    let members: Dictionary = Parser::new(value)
        .parse()
        .map_err(|error| PolicyError::new(super::HEADER, format!("is not an RFC 9651 dictionary: {error}")))?;
    let mut policy = Policy::default();
    for (name, entry) in &members {
        let name = name.as_str();
        let member = Member { name, entry };
        match name {
            "deadline" => policy.deadline = Some(member.seconds()?),
            "attempt_timeout" => policy.attempt_timeout = Some(member.seconds()?),
            "hedge_after" => policy.hedge_after = Some(member.seconds()?),
            "retries" => policy.retries = Some(member.integer()?),
            "tokens" => policy.tokens = Some(member.integer()?),
            "priority" => policy.priority = Some(member.integer()?),
            "retry_on" => policy.retry_on = Some(member.list(on)?),
            "reroute_on" => policy.reroute_on = Some(member.list(on)?),
            "regions" => policy.regions = Some(member.list(|item| text(item).map(str::to_owned))?),
            "regions_only" => match member.item()? {
                BareItem::Boolean(only) => policy.regions_only = Some(*only),
                _ => return Err(member.wrong("expected ?1 or ?0")),
            },
            "mode" => {
                policy.mode = Some(match text(member.item()?) {
                    Some("failover") => Mode::Failover,
                    Some("hedge") => Mode::Hedge,
                    Some("race") => Mode::Race,
                    _ => return Err(member.wrong("expected failover, hedge or race")),
                });
            }
            "idempotency_key" => {
                let key = text(member.item()?).ok_or_else(|| member.wrong("expected a string"))?;
                policy.idempotency_key = Some(key.to_owned());
            }
            _ => {
                return Err(member.wrong(
                    "unknown; there are deadline, attempt_timeout, retries, retry_on, reroute_on, regions, regions_only, \
                     mode, hedge_after, priority, tokens, idempotency_key",
                ));
            }
        }
    }
    policy.validate()?;
    Ok(policy)
}

fn text(item: &BareItem) -> Option<&str> {
    match item {
        BareItem::String(text) => Some(text.as_str()),
        BareItem::Token(token) => Some(token.as_str()),
        _ => None,
    }
}

fn on(item: &BareItem) -> Option<On> {
    match item {
        BareItem::Integer(status) => On::status(i64::from(*status)),
        other => text(other)?.parse().ok(),
    }
}

struct Member<'a> {
    name: &'a str,
    entry: &'a ListEntry,
}

impl Member<'_> {
    fn wrong(&self, problem: &str) -> PolicyError {
        PolicyError::new(self.name, problem)
    }

    fn item(&self) -> Result<&BareItem, PolicyError> {
        match self.entry {
            ListEntry::Item(item) => Ok(&item.bare_item),
            ListEntry::InnerList(_) => Err(self.wrong("expected one value, not a list")),
        }
    }

    fn integer<T: TryFrom<i64>>(&self) -> Result<T, PolicyError> {
        match self.item()? {
            BareItem::Integer(number) => {
                T::try_from(i64::from(*number)).map_err(|_| self.wrong("the number is out of bounds"))
            }
            _ => Err(self.wrong("expected an integer")),
        }
    }

    fn seconds(&self) -> Result<Span, PolicyError> {
        let millis = match self.item()? {
            BareItem::Integer(seconds) => i64::from(*seconds).checked_mul(1000),
            BareItem::Decimal(seconds) => Some(i64::from(seconds.as_integer_scaled_1000())),
            _ => return Err(self.wrong("expected a number of seconds, like 20 or 0.5")),
        };
        let millis = millis.and_then(|millis| u64::try_from(millis).ok());
        millis
            .map(|millis| Span(Duration::from_millis(millis)))
            .ok_or_else(|| self.wrong("the number is out of bounds"))
    }

    fn list<T>(&self, read: impl Fn(&BareItem) -> Option<T>) -> Result<Vec<T>, PolicyError> {
        match self.entry {
            ListEntry::InnerList(list) => list
                .items
                .iter()
                .map(|item| read(&item.bare_item).ok_or_else(|| self.wrong("a value of the list is none of its kind")))
                .collect(),
            ListEntry::Item(item) => read(&item.bare_item)
                .map(|one| vec![one])
                .ok_or_else(|| self.wrong("expected a list in parentheses, like (\"iad\" \"lhr\")")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_header_says_the_same_as_json() {
        let header = parse(
            "deadline=20, mode=hedge, regions=(\"iad\" \"lhr\"), retries=3, attempt_timeout=2.5, hedge_after=0.25, \
             retry_on=(503 \"5xx\" timeout), reroute_on=429, regions_only, priority=-7, tokens=1200, \
             idempotency_key=\"a b\"",
        )
        .unwrap();
        let json: Policy = serde_json::from_str(
            r#"{"deadline": "20s", "mode": "hedge", "regions": ["iad", "lhr"], "retries": 3, "attempt_timeout": "2.5s",
                "hedge_after": "250ms", "retry_on": [503, "5xx", "timeout"], "reroute_on": [429], "regions_only": true,
                "priority": -7, "tokens": 1200, "idempotency_key": "a b"}"#,
        )
        .unwrap();
        assert_eq!(header, json);
        assert_eq!(parse("").unwrap(), Policy::default());
    }

    #[test]
    fn what_the_sdks_write_is_read_as_it_was_meant() {
        let agreed: Vec<serde_json::Value> =
            serde_json::from_str(include_str!("../../../../sdk/policy-headers.json")).unwrap();
        for case in &agreed {
            let mut meant = case["policy"].clone();
            let members = meant.as_object_mut().unwrap();
            if let Some(ms) = members.remove("deadline_ms") {
                members.insert("deadline".into(), format!("{ms}ms").into());
            }
            let meant: Policy = serde_json::from_value(meant).unwrap();
            assert_eq!(parse(case["header"].as_str().unwrap()).unwrap(), meant, "{case}");
        }
    }

    #[test]
    fn errors_say_which_member() {
        for (value, names) in [
            ("deadlin=20", "deadlin: unknown"),
            ("deadline=soon", "deadline: expected a number of seconds"),
            ("deadline=-1", "deadline: the number is out of bounds"),
            ("deadline=(1 2)", "deadline: expected one value"),
            ("retries=1.5", "retries: expected an integer"),
            ("retries=21", "retries: 21 is over 20"),
            ("priority=1000", "priority: the number is out of bounds"),
            ("mode=fast", "mode: expected failover, hedge or race"),
            ("regions=(1)", "regions: a value"),
            ("retry_on=(200)", "retry_on: a value"),
            ("regions_only=1", "regions_only: expected ?1"),
            ("deadline=20,,", "tidegate-policy: is not"),
        ] {
            let error = parse(value).unwrap_err().to_string();
            assert!(error.contains(names), "{value}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(any: String, near in "[a-z_]{1,16}=[-0-9.()\"a-z ?;,=]{0,30}") {
            let _ = parse(&any);
            let _ = parse(&near);
        }
    }
}
