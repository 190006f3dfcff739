//! What may be asked of the store.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use super::{
    Ending,
    store::{Kept, TrailSummary},
};
use crate::{ids::TraceId, observe::Note};

/// Which trails are wanted. Everything that is stated must hold.
#[derive(Clone, Debug, Default)]
pub struct TrailQuery {
    /// Invocations of this function.
    pub function: Option<String>,
    /// A call went to this destination: its name, or its origin.
    pub destination: Option<String>,
    /// It has this tag.
    pub tag: Option<String>,
    /// It took longer than this, to the head of its answer where there was one.
    pub slower_than: Option<Duration>,
    /// How it ended.
    pub status: Option<StatusFilter>,
    /// It began at this time or later.
    pub since: Option<SystemTime>,
    /// It began before this time.
    pub until: Option<SystemTime>,
    /// Which come first.
    pub order: Order,
    /// Only those behind this place of the newest first.
    pub after: Option<Cursor>,
    /// How many at most.
    pub limit: usize,
}

/// Which trails come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Those that ended last.
    #[default]
    Newest,
    /// Those that took longest.
    Slowest,
}

/// How a trail ended, as somebody asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFilter {
    /// With this status.
    Code(u16),
    /// With one of this hundred: 5 for `5xx`.
    Class(u16),
    /// A call was refused, by the gate or by its upstream, or the whole was with 429.
    Refused,
    /// A call failed, or the answer broke off, or the whole ended with 500 or more.
    Failed,
    /// Whoever asked went away.
    Cancelled,
}

impl FromStr for StatusFilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a status is a code such as 429, a class such as 5xx, `refused`, `failed` or `cancelled`";
        match text {
            "refused" => Ok(Self::Refused),
            "failed" => Ok(Self::Failed),
            "cancelled" => Ok(Self::Cancelled),
            _ => match (text.strip_suffix("xx"), text.parse()) {
                (Some(class), _) => {
                    class.parse().ok().filter(|class| (1..=5).contains(class)).map(Self::Class).ok_or(WRONG)
                }
                (None, Ok(code @ 100..=599)) => Ok(Self::Code(code)),
                _ => Err(WRONG),
            },
        }
    }
}

/// A place among the newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    ended: u64,
    id: TraceId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.ended, self.id)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once('-')
            .and_then(|(ended, id)| Some(Self { ended: u64::from_str_radix(ended, 16).ok()?, id: id.parse().ok()? }));
        parsed.ok_or("`after` is what the page before gave as `next`")
    }
}

impl TrailSummary {
    /// Its place among the newest first.
    pub fn cursor(&self) -> Cursor {
        Cursor { ended: self.ended, id: self.id }
    }
}

impl TrailQuery {
    /// Whether a trail of this tenant is wanted. What is read of every trail comes first, what lies in its notes last.
    pub(super) fn wants(&self, tenant: &str, id: TraceId, kept: &Kept<'_>, notes: &[u8]) -> bool {
        let began = SystemTime::UNIX_EPOCH + kept.began;
        let function = kept.subject.invocation.map(|(function, _)| function);
        kept.subject.tenant == tenant
            && self.function.as_deref().is_none_or(|wanted| function == Some(wanted))
            && self.tag.as_deref().is_none_or(|wanted| kept.tags.contains(&wanted))
            && self.slower_than.is_none_or(|least| kept.took() > least)
            && self.since.is_none_or(|since| began >= since)
            && self.until.is_none_or(|until| began < until)
            && self.after.is_none_or(|after| Cursor { ended: kept.ended, id } < after)
            && self.status.is_none_or(|wanted| wanted.fits(kept))
            && self.destination.as_deref().is_none_or(|wanted| {
                kept.notes(notes).any(|(_, note)| match note {
                    Note::Call { destination, what, .. } => *destination == *wanted || is_at(&what, wanted),
                    _ => false,
                })
            })
    }
}

/// Whether `GET https://api.test/v1` goes to the origin `https://api.test`.
fn is_at(what: &str, origin: &str) -> bool {
    let rest = what.split_once(' ').and_then(|(_, url)| url.strip_prefix(origin));
    origin.contains("://") && rest.is_some_and(|rest| rest.starts_with('/'))
}

impl StatusFilter {
    fn fits(self, kept: &Kept<'_>) -> bool {
        let status = match kept.ending {
            Ending::Status(status) | Ending::Cut(status) => Some(status),
            Ending::Cancelled => None,
        };
        match self {
            Self::Code(code) => status == Some(code),
            Self::Class(class) => status.is_some_and(|status| status / 100 == class),
            Self::Refused => kept.marks.refused || status == Some(429),
            Self::Failed => kept.marks.failed || status.is_some_and(|status| status >= 500),
            Self::Cancelled => status.is_none(),
        }
    }
}

/// The first of those that were found, each once, never more of them than are wanted.
pub(super) struct Found<T> {
    first: BTreeMap<(Duration, Cursor), T>,
    order: Order,
    limit: usize,
}

impl<T> Found<T> {
    pub(super) fn new(order: Order, limit: usize) -> Self {
        Self { first: BTreeMap::new(), order, limit }
    }

    /// Keeps one, if it is among the first.
    pub(super) fn add(&mut self, id: TraceId, kept: &Kept<'_>, make: impl FnOnce() -> T) {
        let took = if self.order == Order::Slowest { kept.took() } else { Duration::ZERO };
        let place = (took, Cursor { ended: kept.ended, id });
        let is_last = self.first.first_key_value().is_some_and(|(last, _)| place < *last);
        if self.first.len() >= self.limit && (is_last || self.limit == 0) {
            return;
        }
        self.first.entry(place).or_insert_with(make);
        if self.first.len() > self.limit {
            self.first.pop_first();
        }
    }

    pub(super) fn into_vec(self) -> Vec<T> {
        self.first.into_values().rev().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_asked_for_by_code_class_or_word() {
        for (text, filter) in [
            ("429", Some(StatusFilter::Code(429))),
            ("5xx", Some(StatusFilter::Class(5))),
            ("refused", Some(StatusFilter::Refused)),
            ("failed", Some(StatusFilter::Failed)),
            ("cancelled", Some(StatusFilter::Cancelled)),
            ("6xx", None),
            ("xx", None),
            ("42", None),
            ("4294967295", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<StatusFilter>().ok(), filter, "{text}");
        }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is() {
        let cursor = Cursor { ended: 0xfeed, id: TraceId(0xab) };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in ["", "-", "1-", "x-000000000000000000000000000000ab", "1-ab"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_origin_is_no_beginning_of_another() {
        assert!(is_at("GET https://api.test/v1", "https://api.test"));
        assert!(!is_at("GET https://api.test.evil/v1", "https://api.test"));
        assert!(!is_at("GET https://api.test:8443/v1", "https://api.test"));
        assert!(!is_at("GET /v1", ""));
    }
}
