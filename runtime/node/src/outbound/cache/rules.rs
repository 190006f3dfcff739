//! What may be stored, and how long it is fresh: asked of `http-cache-semantics`, for a shared cache.
//!
//! The library reads fewer forms of headers than come (names of directives in lower case only, dates in one form), so it is
//! shown what they mean. What it would let pass and we do not: `Set-Cookie`, which belongs to one client; freshness that
//! nobody stated, guessed from the age of what is stored; 206.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request as Head, Response, StatusCode, header};
use http_cache_semantics::{CacheOptions, CachePolicy};
use tidegate_core::cache::{self, Answer, Control, Stale};

use super::{Request, key};

/// How an answer may be used; nothing where it must not be stored, or storing it is in vain.
pub(super) fn judge(
    request: &Request<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    came: SystemTime,
    took: Duration,
) -> Option<Answer> {
    let partial = status == StatusCode::PARTIAL_CONTENT || headers.contains_key(header::CONTENT_RANGE);
    if request.method != Method::GET || partial || request.demand.no_store || headers.contains_key(header::SET_COOKIE) {
        return None;
    }
    key::vary(headers)?;
    let said = Control::of(headers);
    let options = CacheOptions { cache_heuristic: 0.0, ..CacheOptions::default() };
    let policy = CachePolicy::new_options(&asked(request.headers), &meant(status, headers, &said), came, options);
    if !policy.is_storable() {
        return None;
    }
    let answer = Answer {
        initial_age: cache::initial_age(headers, came, took),
        // It is told nothing of an age, so this is all of it.
        lifetime: policy.time_to_live(came).min(cache::LONGEST),
        stale: Stale::of(&said, request.caching.stale),
    };
    let validator = headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED);
    let stale = !answer.stale.never && !answer.stale.if_error.max(answer.stale.while_revalidate).is_zero();
    (answer.lifetime > answer.initial_age || validator || stale).then_some(answer)
}

/// The request, as far as it counts.
fn asked(headers: &HeaderMap) -> Head<()> {
    let mut head = Head::new(());
    if headers.contains_key(header::AUTHORIZATION) {
        // That there is one is all that counts; what it is, is kept nowhere.
        head.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_static("it"));
    }
    head
}

/// The answer, as it is meant.
fn meant(status: StatusCode, headers: &HeaderMap, said: &Control) -> Response<()> {
    let mut meant = Response::new(());
    *meant.status_mut() = status;
    let mut set =
        |name: HeaderName, value: Option<HeaderValue>| value.map(|value| meant.headers_mut().insert(name, value));
    // Whether it was there counts, too: without it, `Pragma` does.
    let control =
        headers.contains_key(header::CACHE_CONTROL).then(|| said.plain().unwrap_or(HeaderValue::from_static("")));
    set(header::CACHE_CONTROL, control);
    set(header::PRAGMA, headers.get(header::PRAGMA).cloned());
    set(header::DATE, date(headers, &header::DATE));
    if headers.contains_key(header::EXPIRES) {
        // What is no date is in the past; two are none.
        let one = headers.get_all(header::EXPIRES).iter().count() == 1;
        let date = date(headers, &header::EXPIRES).filter(|_| one);
        set(header::EXPIRES, Some(date.unwrap_or(HeaderValue::from_static("0"))));
    }
    meant
}

/// A date of whatever form in the one that is written today.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let date = httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()?;
    HeaderValue::try_from(httpdate::fmt_http_date(date)).ok()
}

#[cfg(test)]
mod tests {
    use tidegate_core::cache::Demand;

    use super::{super::Caching, *};
    use crate::outbound::cache::Scope;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    /// Seconds of freshness, or nothing where it is not stored.
    fn fresh(method: Method, asked: &[(&str, &str)], status: u16, headers: &[(&str, &str)]) -> Option<u64> {
        let caching =
            Caching { scope: Scope::of(1, &[], &[]), stale: Stale::default(), ignored: [].into(), splits: [].into() };
        let (asked, headers) = (map(asked), map(headers));
        let request = Request {
            caching: &caching,
            method: &method,
            uri: &http::Uri::from_static("http://a/"),
            headers: &asked,
            demand: &Demand::of(&asked),
        };
        let came = httpdate::parse_http_date("Tue, 24 Nov 2026 10:00:00 GMT").unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        judge(&request, status, &headers, came, Duration::ZERO).map(|answer| answer.lifetime.as_secs())
    }

    #[test]
    fn what_is_stored_and_for_how_long_it_is_fresh() {
        let date = ("date", "Tue, 24 Nov 2026 10:00:00 GMT");
        let tag = ("etag", "\"a\"");
        for (status, headers, is) in [
            (200, &[("cache-control", "max-age=60")][..], Some(60)),
            (200, &[("cache-control", "Max-Age=\"60\"")], Some(60)),
            (200, &[("cache-control", "max-age=60, s-maxage=5")], Some(5)),
            (200, &[("cache-control", "max-age=60"), ("expires", "0")], Some(60)),
            (200, &[date, ("expires", "Tue, 24 Nov 2026 10:01:00 GMT")], Some(60)),
            (200, &[date, ("expires", "Tuesday, 24-Nov-26 10:01:00 GMT")], Some(60)),
            (200, &[date, ("expires", "Tue Nov 24 10:01:00 2026")], Some(60)),
            (200, &[date, ("expires", "0"), tag], Some(0)),
            (200, &[date, ("expires", "Tue, 24 Nov 2026 10:01:00 GMT"), ("expires", "0"), tag], Some(0)),
            // Nobody said that it is fresh: it is asked for, each time.
            (200, &[tag], Some(0)),
            (200, &[("last-modified", "Tue, 24 Nov 2020 10:00:00 GMT"), date], Some(0)),
            // In vain.
            (200, &[], None),
            (200, &[("cache-control", "max-age=0")], None),
            (200, &[("cache-control", "max-age=60"), ("age", "60")], None),
            (200, &[("cache-control", "max-age=60"), ("age", "59")], Some(60)),
            (200, &[("cache-control", "max-age=0, stale-if-error=9")], Some(0)),
            // Forbidden.
            (200, &[("cache-control", "No-Store, max-age=60")], None),
            (200, &[("cache-control", "max-age=60"), ("cache-control", "PRIVATE")], None),
            (200, &[("cache-control", "private=\"x\", max-age=60")], None),
            (200, &[("cache-control", "max-age=60"), ("vary", "*")], None),
            (200, &[("cache-control", "public, max-age=60"), ("set-cookie", "a=b")], None),
            // Asked for, each time.
            (200, &[("cache-control", "no-cache, max-age=60"), tag], Some(0)),
            (200, &[("pragma", "no-cache"), tag], Some(0)),
            (200, &[("cache-control", "max-age=60, must-revalidate")], Some(60)),
            (200, &[("cache-control", "max-age=60, proxy-revalidate")], Some(60)),
            // Statuses.
            (206, &[("cache-control", "max-age=60")], None),
            (200, &[("cache-control", "max-age=60"), ("content-range", "bytes 0-1/2")], None),
            (404, &[("cache-control", "max-age=60")], Some(60)),
            (301, &[("cache-control", "max-age=60")], Some(60)),
            (302, &[("cache-control", "max-age=60")], Some(60)),
            (302, &[tag], None),
            (304, &[("cache-control", "max-age=60")], None),
            (429, &[("cache-control", "max-age=60")], None),
            (500, &[("cache-control", "max-age=60")], None),
            (503, &[("cache-control", "max-age=60")], None),
        ] {
            assert_eq!(fresh(Method::GET, &[], status, headers), is, "{status} {headers:?}");
        }
    }

    #[test]
    fn an_answer_to_somebody_who_is_known_is_stored_only_where_it_says_so() {
        let known = [("authorization", "Bearer x")];
        for (control, is) in [
            ("max-age=60", None),
            ("max-age=60, proxy-revalidate", None),
            ("max-age=60, public", Some(60)),
            ("max-age=60, Must-Revalidate", Some(60)),
            ("s-maxage=60", Some(60)),
        ] {
            assert_eq!(fresh(Method::GET, &known, 200, &[("cache-control", control)]), is, "{control}");
        }
    }

    #[test]
    fn requests_that_want_nothing_stored_have_nothing_stored() {
        let headers = [("cache-control", "public, max-age=60")];
        assert_eq!(fresh(Method::GET, &[("cache-control", "NO-STORE")], 200, &headers), None);
        assert_eq!(fresh(Method::HEAD, &[], 200, &headers), None);
        assert_eq!(fresh(Method::POST, &[], 200, &headers), None);
    }
}
