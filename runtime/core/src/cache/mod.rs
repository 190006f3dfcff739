//! When a stored answer may be used: the rules of RFC 9111 (HTTP caching) and RFC 5861 (stale answers), for a cache that
//! many share.
//!
//! Whether an answer may be stored, and how long it is fresh, is judged once, when it comes; the host asks a library for
//! that. What is kept of it is an [`Answer`]: two numbers and what the upstream said about stale use. From it, the
//! answer's age and what the request says, [`judge`] tells what to do, each time, without looking at a header of the
//! answer again.

mod condition;
mod control;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};

pub use condition::{is_not_modified, refreshed};
pub use control::{Control, Demand};

/// Longest time that any header makes us believe: what RFC 9111 section 1.2.2 has for a number that is too large.
pub const LONGEST: Duration = Duration::from_secs(1 << 31);

/// What is kept of a stored answer to judge its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// How old it was when it came.
    pub initial_age: Duration,
    /// How old it may be and still be fresh.
    pub lifetime: Duration,
    /// How it may be used when it is not.
    pub stale: Stale,
}

/// How an answer may be used when it is no longer fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// Never without asking: `no-cache`, `must-revalidate`, `proxy-revalidate`, or an `s-maxage` beside which nothing
    /// speaks for stale use.
    pub never: bool,
    /// For so long while it is asked for in the background (`stale-while-revalidate`).
    pub while_revalidate: Duration,
    /// For so long where asking fails (`stale-if-error`).
    pub if_error: Duration,
}

impl Stale {
    /// What the upstream says, over what the destination's configuration says where the upstream is silent.
    ///
    /// `s-maxage` forbids stale use (RFC 9111 section 5.2.2.10). An upstream that names a time for stale use beside it
    /// means it all the same, as is usual for what is written for shared caches; a configuration does not speak for it.
    pub fn of(said: &Control, configured: Self) -> Self {
        let (own_wait, own_error) = (said.stale_while_revalidate, said.stale_if_error);
        if said.no_cache || said.must_revalidate || said.proxy_revalidate {
            return Self { never: true, ..Self::default() };
        }
        if said.s_maxage.is_some() {
            let stale = Self {
                never: own_wait.is_none() && own_error.is_none(),
                while_revalidate: own_wait.unwrap_or_default(),
                if_error: own_error.unwrap_or_default(),
            };
            return stale;
        }
        Self {
            never: false,
            while_revalidate: own_wait.unwrap_or(configured.while_revalidate),
            if_error: own_error.unwrap_or(configured.if_error),
        }
    }
}

/// What to do with a stored answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Give it: it is fresh, for `ttl` yet.
    Fresh {
        /// What is left of its lifetime.
        ttl: Duration,
    },
    /// Give it although it is stale: the request takes stale ones (`max-stale`).
    Taken {
        /// Time since it was fresh.
        over: Duration,
    },
    /// Give it, and ask in the background.
    WhileRevalidating {
        /// Time since it was fresh.
        over: Duration,
    },
    /// Ask first. Why: it is stale, or the request wants it asked for.
    Ask(Why),
}

/// Why a stored answer can't be given as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is stale.
    Stale,
    /// It is fresh, but the request wants a fresher one, or that the upstream is asked.
    Request,
}

/// What to do with a stored answer of this age.
pub fn judge(answer: &Answer, age: Duration, demand: &Demand) -> Use {
    let fresh = age < answer.lifetime;
    let over = age.saturating_sub(answer.lifetime);
    let ttl = answer.lifetime.saturating_sub(age);
    let too_old = demand.max_age.is_some_and(|most| age > most);
    let too_soon_stale = demand.min_fresh.is_some_and(|least| ttl < least);
    if demand.no_cache || (fresh && (too_old || too_soon_stale)) {
        return Use::Ask(if fresh { Why::Request } else { Why::Stale });
    }
    if fresh {
        return Use::Fresh { ttl };
    }
    let takes = demand.max_stale.is_some_and(|most| most.is_none_or(|most| over <= most));
    if takes && !answer.stale.never && !too_old {
        return Use::Taken { over };
    }
    if over < answer.stale.while_revalidate && !answer.stale.never && !too_old && demand.min_fresh.is_none() {
        return Use::WhileRevalidating { over };
    }
    Use::Ask(Why::Stale)
}

/// Whether a stored answer of this age may be given because asking for it failed.
pub fn may_stand_in(answer: &Answer, age: Duration, demand: &Demand) -> bool {
    stands_in_for(answer, age, demand).is_some()
}

/// For how long from now a stored answer of this age may be given because asking for it failed; nothing: not at all.
pub fn stands_in_for(answer: &Answer, age: Duration, demand: &Demand) -> Option<Duration> {
    let over = age.saturating_sub(answer.lifetime);
    // A request may be more lenient than the upstream, which has said for how long (RFC 5861 section 4).
    let most = demand.stale_if_error.unwrap_or_default().max(answer.stale.if_error);
    // Who wants the upstream asked hears that it can't be; a failure is no reason to give what was not wanted.
    if answer.stale.never || demand.no_cache || over >= most {
        return None;
    }
    let left = answer.lifetime.saturating_add(most).saturating_sub(age);
    demand.max_age.map_or(Some(left), |oldest| oldest.checked_sub(age).map(|time| time.min(left)))
}

/// How old an answer is when it comes (RFC 9111 section 4.2.3): by its `Age` and the time the request took, or by its
/// `Date`, whatever is more.
pub fn initial_age(headers: &HeaderMap, came: SystemTime, took: Duration) -> Duration {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let stated = text(header::AGE).and_then(control::seconds).unwrap_or_default();
    let date = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    // A date has no parts of a second: what is less than one between the two is not known to be any.
    let apparent = date.and_then(|date| came.duration_since(date).ok()).map_or(0, |apparent| apparent.as_secs());
    let apparent = Duration::from_secs(apparent);
    apparent.max(stated.saturating_add(took)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn demand(text: &str) -> Demand {
        let headers = [(header::CACHE_CONTROL, text.parse().unwrap())].into_iter().collect();
        Demand::of(&headers)
    }

    #[test]
    fn what_is_done_with_an_answer_follows_from_its_age_and_what_the_request_says() {
        let plain = Answer { lifetime: secs(60), ..Answer::default() };
        let lenient =
            Answer { stale: Stale { while_revalidate: secs(30), if_error: secs(600), never: false }, ..plain };
        let strict = Answer { stale: Stale { never: true, ..lenient.stale }, ..plain };
        let (stale, request) = (Use::Ask(Why::Stale), Use::Ask(Why::Request));
        for (answer, age, said, is) in [
            (plain, 0, "", Use::Fresh { ttl: secs(60) }),
            (plain, 59, "", Use::Fresh { ttl: secs(1) }),
            (plain, 60, "", stale),
            (plain, 10, "no-cache", request),
            (plain, 10, "NO-CACHE", request),
            (plain, 99, "no-cache", stale),
            (plain, 10, "max-age=9", request),
            (plain, 10, "max-age=10", Use::Fresh { ttl: secs(50) }),
            (plain, 0, "max-age=0", Use::Fresh { ttl: secs(60) }),
            (plain, 10, "min-fresh=51", request),
            (plain, 10, "min-fresh=50", Use::Fresh { ttl: secs(50) }),
            (plain, 80, "max-stale", Use::Taken { over: secs(20) }),
            (plain, 80, "max-stale=20", Use::Taken { over: secs(20) }),
            (plain, 80, "max-stale=19", stale),
            (plain, 80, "max-stale, max-age=70", stale),
            (strict, 80, "max-stale", stale),
            (lenient, 80, "", Use::WhileRevalidating { over: secs(20) }),
            (lenient, 90, "", stale),
            (lenient, 80, "max-age=79", stale),
            (lenient, 80, "min-fresh=1", stale),
            (lenient, 80, "no-cache", stale),
            (strict, 80, "", stale),
        ] {
            assert_eq!(judge(&answer, secs(age), &demand(said)), is, "{answer:?} {age} {said}");
        }
        for (answer, age, said, may) in [
            (plain, 61, "", false),
            (lenient, 61, "", true),
            (lenient, 659, "", true),
            (lenient, 660, "", false),
            (lenient, 660, "stale-if-error=601", true),
            (lenient, 61, "no-cache", false),
            (lenient, 61, "max-age=60", false),
            (strict, 61, "", false),
            (strict, 61, "stale-if-error=601", false),
            (plain, 70, "stale-if-error=60", true),
        ] {
            assert_eq!(may_stand_in(&answer, secs(age), &demand(said)), may, "{answer:?} {age} {said}");
        }
        for (answer, age, said, left) in [
            (lenient, 61, "", Some(599)),
            (lenient, 659, "", Some(1)),
            (lenient, 660, "", None),
            (lenient, 10, "", Some(650)),
            (lenient, 660, "stale-if-error=700", Some(100)),
            (lenient, 100, "max-age=130", Some(30)),
            (lenient, 130, "max-age=130", Some(0)),
            (lenient, 131, "max-age=130", None),
        ] {
            assert_eq!(stands_in_for(&answer, secs(age), &demand(said)), left.map(secs), "{answer:?} {age} {said}");
        }
    }

    #[test]
    fn the_upstream_speaks_first_about_stale_use_and_the_configuration_where_it_is_silent() {
        let configured = Stale { never: false, while_revalidate: secs(5), if_error: secs(50) };
        let never = Stale { never: true, ..Stale::default() };
        for (said, is) in [
            ("max-age=1", configured),
            ("max-age=1, stale-if-error=7", Stale { if_error: secs(7), ..configured }),
            ("max-age=1, stale-if-error=0, stale-while-revalidate=0", Stale::default()),
            ("max-age=1, must-revalidate, stale-if-error=7", never),
            ("proxy-revalidate", never),
            ("no-cache=\"set-cookie\"", never),
            ("s-maxage=1", never),
            ("s-maxage=1, stale-if-error=7", Stale { if_error: secs(7), ..Stale::default() }),
        ] {
            let headers = [(header::CACHE_CONTROL, said.parse().unwrap())].into_iter().collect();
            assert_eq!(Stale::of(&Control::of(&headers), configured), is, "{said}");
        }
    }

    #[test]
    fn an_answer_is_as_old_as_its_age_or_its_date_says_whatever_is_more() {
        let came = httpdate::parse_http_date("Tue, 24 Nov 2026 10:00:10 GMT").unwrap();
        for (age, date, took, is) in [
            (None, None, 2, 2),
            (Some("5"), None, 2, 7),
            (Some("5"), Some("Tue, 24 Nov 2026 10:00:00 GMT"), 2, 10),
            (Some("50"), Some("Tue, 24 Nov 2026 10:00:00 GMT"), 0, 50),
            (None, Some("Tue, 24 Nov 2026 11:00:00 GMT"), 0, 0),
            (Some("-1"), Some("yesterday"), 0, 0),
            (Some("99999999999999999999999"), None, 0, 1 << 31),
            (Some("18446744073709551615"), None, 9, 1 << 31),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(header::AGE, age), (header::DATE, date)] {
                value.map(|value| headers.insert(name, value.parse().unwrap()));
            }
            assert_eq!(initial_age(&headers, came, secs(took)), secs(is), "{age:?} {date:?}");
            let later = came + Duration::from_millis(900);
            assert_eq!(initial_age(&headers, later, secs(took)), secs(is), "{age:?} {date:?}");
        }
    }
}
