//! Ages in milliseconds (`LIFETIME INITIAL AGE TOOK`), then the headers of a stored answer, of a request and of a
//! renewal, with blank lines between them.

use std::time::{Duration, SystemTime};

use http::header;
use tidegate_core::cache::{
    Answer, Control, Demand, LONGEST, Stale, Use, initial_age, is_not_modified, judge, may_stand_in, refreshed,
};

use crate::bytes::{halves, lines, map};

pub(crate) fn run(bytes: &[u8]) {
    let (stored, rest) = halves(bytes);
    let (request, renewal) = halves(rest);
    let first = String::from_utf8_lossy(stored.split(|byte| *byte == b'\n').next().unwrap_or_default());
    let mut times = first.split_whitespace().filter_map(|word| word.parse().ok()).map(Duration::from_millis);
    let mut time = || times.next().unwrap_or_default();
    let (lifetime, configured, age, took) = (time(), time(), time(), time());
    let [stored, request, renewal] = [stored, request, renewal].map(|head| map(&lines(head)));

    let control = Control::of(&stored);
    let said = [control.max_age, control.s_maxage, control.stale_while_revalidate, control.stale_if_error];
    assert!(said.into_iter().flatten().all(|time| time <= LONGEST), "{control:?}");
    let plain = control.plain();
    let read = Control::of(&plain.iter().map(|value| (header::CACHE_CONTROL, value.clone())).collect());
    let kept = Control { stale_while_revalidate: None, stale_if_error: None, proxy_revalidate: false, ..control };
    assert_eq!(read, kept, "what is written plainly says the same");

    let demand = Demand::of(&request);
    let stale = Stale::of(&control, Stale { never: false, while_revalidate: configured, if_error: configured });
    assert!(!stale.never || (stale.while_revalidate.is_zero() && stale.if_error.is_zero()));
    let came = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_600_000);
    let initial_age = initial_age(&stored, came, took);
    assert!(initial_age <= LONGEST);
    let answer = Answer { initial_age, lifetime, stale };
    let verdict = judge(&answer, age, &demand);
    let given = !matches!(verdict, Use::Ask(_));
    assert!(!given || demand.max_age.is_none_or(|most| age <= most), "older than was asked for: {verdict:?}");
    assert!(!given || !demand.no_cache, "the upstream was to be asked: {verdict:?}");
    match verdict {
        Use::Fresh { ttl } => assert!(age < lifetime && ttl == lifetime - age && !ttl.is_zero()),
        Use::Taken { over } | Use::WhileRevalidating { over } => {
            assert!(age >= lifetime && over == age - lifetime && !stale.never, "{verdict:?}");
        }
        Use::Ask(_) => {}
    }
    let stands_in = may_stand_in(&answer, age, &demand);
    assert!(!stands_in || (!stale.never && !demand.no_cache));

    let _ = is_not_modified(&request, &stored);
    if stored.contains_key(header::ETAG) {
        let own: http::HeaderMap =
            stored.get(header::ETAG).map(|tag| (header::IF_NONE_MATCH, tag.clone())).into_iter().collect();
        let is_tag = stored.get(header::ETAG).and_then(|tag| tag.to_str().ok()).is_some_and(is_tag);
        assert!(!is_tag || is_not_modified(&own, &stored), "{own:?}");
    }
    if let Some(once) = refreshed(&stored, &renewal) {
        assert_eq!(refreshed(&once, &renewal).as_ref(), Some(&once), "a renewal changes something twice");
    }
}

/// Whether it is one entity tag, as RFC 9110 has it.
fn is_tag(text: &str) -> bool {
    let opaque = text.strip_prefix("W/").unwrap_or(text);
    opaque.len() >= 2 && opaque.starts_with('"') && opaque.ends_with('"') && !opaque[1..opaque.len() - 1].contains('"')
}
