//! Conditional requests that a stored answer answers, and answers that renew a stored one.

use http::{HeaderMap, HeaderName, header};

/// Whether what the client has is what is stored: then 304 without a body is its answer (RFC 9110 sections 13.1.2, 13.1.3).
/// Where it names entity tags, dates do not count.
pub fn is_not_modified(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(header::IF_NONE_MATCH) {
        let Some(ours) = text(stored, &header::ETAG) else { return false };
        let lines = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
        return lines.flat_map(tags).any(|tag| tag == "*" || opaque(tag) == opaque(ours));
    }
    let date = |headers, name| text(headers, name).and_then(|date| httpdate::parse_http_date(date).ok());
    match (date(request, &header::IF_MODIFIED_SINCE), date(stored, &header::LAST_MODIFIED)) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}

/// The headers of a stored answer after the upstream said that it still holds (RFC 9111 section 3.2): each header that
/// the 304 has takes the place of the stored one, all its lines. Nothing where the 304 is about another answer.
pub fn refreshed(stored: &HeaderMap, renewal: &HeaderMap) -> Option<HeaderMap> {
    let about = text(renewal, &header::ETAG);
    if about.is_some() && about.map(opaque) != text(stored, &header::ETAG).map(opaque) {
        return None;
    }
    let mut headers = stored.clone();
    // They speak of the 304 itself, or of a body that did not come.
    let of_itself = |name: &HeaderName| {
        [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_RANGE, header::CONTENT_TYPE].contains(name)
    };
    for name in renewal.keys().filter(|name| !of_itself(name)) {
        headers.remove(name);
        for value in renewal.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    // How old it is now, is what the 304 says.
    if !renewal.contains_key(header::AGE) {
        headers.remove(header::AGE);
    }
    Some(headers)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// A tag without the mark that it is weak: for this comparison weak ones are as good.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The entity tags of a list. A comma inside quotes is a part of one.
fn tags(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .map(str::trim)
    .filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(headers: &[(HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn a_client_that_has_what_is_stored_is_told_so() {
        let (tag, date) = ("\"a,b\"", "Tue, 24 Nov 2026 10:00:00 GMT");
        let stored = map(&[(header::ETAG, tag), (header::LAST_MODIFIED, date)]);
        let none = header::IF_NONE_MATCH;
        let since = header::IF_MODIFIED_SINCE;
        for (request, is) in [
            (&[][..], false),
            (&[(none.clone(), "\"a,b\"")], true),
            (&[(none.clone(), "W/\"a,b\"")], true),
            (&[(none.clone(), "\"x\", \"a,b\"")], true),
            (&[(none.clone(), "\"x\""), (none.clone(), "\"a,b\"")], true),
            (&[(none.clone(), "\"a\", \"b\"")], false),
            (&[(none.clone(), "*")], true),
            (&[(since.clone(), date)], true),
            (&[(since.clone(), "Tue, 24 Nov 2026 10:00:01 GMT")], true),
            (&[(since.clone(), "Tue, 24 Nov 2026 09:59:59 GMT")], false),
            (&[(since.clone(), "yesterday")], false),
            (&[(none, "\"x\""), (since, date)], false),
        ] {
            assert_eq!(is_not_modified(&map(request), &stored), is, "{request:?}");
        }
        assert!(!is_not_modified(&map(&[(header::IF_NONE_MATCH, "\"a\"")]), &HeaderMap::new()));
    }

    #[test]
    fn a_renewal_takes_the_place_of_what_it_names_and_of_nothing_else() {
        let stored = map(&[
            (header::ETAG, "\"a\""),
            (header::CACHE_CONTROL, "max-age=1"),
            (header::CACHE_CONTROL, "public"),
            (header::CONTENT_LENGTH, "5"),
            (header::AGE, "3"),
            (header::LINK, "<a>"),
        ]);
        let renewal = map(&[
            (header::ETAG, "W/\"a\""),
            (header::CACHE_CONTROL, "max-age=2"),
            (header::CONTENT_LENGTH, "0"),
            (header::LINK, "<b>"),
            (header::LINK, "<c>"),
        ]);
        let expected = map(&[
            (header::ETAG, "W/\"a\""),
            (header::CACHE_CONTROL, "max-age=2"),
            (header::CONTENT_LENGTH, "5"),
            (header::LINK, "<b>"),
            (header::LINK, "<c>"),
        ]);
        assert_eq!(refreshed(&stored, &renewal), Some(expected));
        assert_eq!(refreshed(&stored, &map(&[(header::ETAG, "\"b\"")])), None);
        assert_eq!(refreshed(&stored, &HeaderMap::new()).map(|headers| headers.contains_key(header::ETAG)), Some(true));
        assert_eq!(refreshed(&HeaderMap::new(), &map(&[(header::ETAG, "\"b\"")])), None);
    }
}
