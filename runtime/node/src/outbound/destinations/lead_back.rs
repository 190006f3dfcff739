//! What an endpoint says about addresses of its own, as whoever asked the destination can follow it.

use http::{HeaderMap, HeaderValue, Uri, header};
use url::Url;

use super::Endpoint;
use crate::outbound::{Origin, cookie::Cookie};

/// What the destination was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Requested<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) uri: &'a Uri,
}

/// Leads back to the destination what the head of an answer by the endpoint `from` says: where to go on, and for which paths
/// cookies are.
pub(crate) fn lead_back(endpoints: &[Endpoint], from: u64, asked: Requested<'_>, headers: &mut HeaderMap) {
    let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.id == from) else { return };
    let told = headers.get(header::LOCATION).and_then(|told| told.to_str().ok());
    let back = told.and_then(|told| endpoint.location(endpoints, asked, told));
    if let Some(back) = back.and_then(|back| HeaderValue::try_from(back).ok()) {
        headers.insert(header::LOCATION, back);
    }
    if headers.contains_key(header::SET_COOKIE) {
        let told: Vec<_> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
        headers.remove(header::SET_COOKIE);
        for cookie in told.iter().filter_map(|told| endpoint.cookie(asked, told.as_bytes())) {
            headers.extend(HeaderValue::try_from(cookie).ok().map(|cookie| (header::SET_COOKIE, cookie)));
        }
    }
}

impl Endpoint {
    /// A `Location`: the address of an endpoint becomes that of the destination, and one that is none of its own is written
    /// out. `None` where it stays as it is.
    fn location(&self, endpoints: &[Self], asked: Requested<'_>, location: &str) -> Option<String> {
        let location = location.trim_ascii();
        if location.starts_with('/') && !location.starts_with("//") {
            return self.reached(location).filter(|path| path != location);
        }
        if !location.contains("://") {
            return self.climbed(asked, location);
        }
        let uri: Uri = location.split('#').next()?.parse().ok()?;
        let origin = Origin::of(&uri).ok()?;
        let of = |endpoint: &&Self| endpoint.origin == origin && endpoint.asked_as(uri.path()).is_some();
        let endpoint = std::iter::once(self).chain(endpoints).find(of)?;
        let (_, after) = location.split_once("://")?;
        let path = after.find(['/', '?', '#']).and_then(|at| after.get(at..)).unwrap_or("/");
        Some(format!("{}{}", asked.origin, endpoint.asked_as(path)?))
    }

    /// A path that climbs is meant from where the request came to the endpoint. Others mean the same below the destination.
    fn climbed(&self, asked: Requested<'_>, location: &str) -> Option<String> {
        let path = location.split(['?', '#']).next()?;
        if location.starts_with("//") || !path.split('/').any(|part| part == "..") {
            return None;
        }
        let came = self.path(asked.uri.path_and_query()?)?;
        let origin = &self.origin;
        let there = Url::parse(&format!("{origin}{came}")).ok()?.join(location).ok()?;
        self.reached(there.as_str().strip_prefix(&origin.to_string())?)
    }

    /// How a path of the endpoint's origin is reached: through the destination, or where it is no path of the endpoint's, at
    /// that origin.
    fn reached(&self, path: &str) -> Option<String> {
        Some(self.asked_as(path).unwrap_or_else(|| format!("{}{path}", self.origin)))
    }

    /// A `Set-Cookie` for whoever sees the paths of the destination. `None` where it is for paths of which none leads to the
    /// endpoint.
    fn cookie(&self, asked: Requested<'_>, cookie: &[u8]) -> Option<Vec<u8>> {
        let mut cookie = Cookie::read(cookie);
        // A browser takes no cookie for a domain that it did not ask.
        cookie.domain = cookie.domain.filter(|domain| asked.origin.is_within(domain));
        let path = match (self.moves_paths(), cookie.path) {
            (false, path) => path.map(<[u8]>::to_vec),
            (true, Some(path)) => Some(self.cookie_path(asked, std::str::from_utf8(path).ok()?)?.into_bytes()),
            (true, None) => {
                let came = self.path(asked.uri.path_and_query()?)?;
                Some(self.cookie_path(asked, folder(came.path()))?.into_bytes())
            }
        };
        Some(cookie.write(path.as_deref()))
    }

    fn moves_paths(&self) -> bool {
        !self.base.is_empty() || !self.strip.is_empty()
    }

    /// The path below which a cookie is sent that an endpoint wants below `path` (RFC 6265, section 5.1.4).
    fn cookie_path(&self, asked: Requested<'_>, path: &str) -> Option<String> {
        let of_all = path.trim_end_matches('/');
        let is_above = self.base.strip_prefix(of_all).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_above {
            return Some("/".into());
        }
        let rest = path.strip_prefix(&*self.base).filter(|rest| rest.starts_with('/'))?;
        // As its sender writes it: with what is taken off, or without.
        let strip = self.stripped(asked.uri.path()).map_or("", |_| &*self.strip);
        Some(format!("{strip}{rest}"))
    }

    /// The opposite of [`Endpoint::path`]: what would be asked of the destination for this path of the endpoint's. `None`
    /// where nothing would.
    fn asked_as(&self, path: &str) -> Option<String> {
        let ends = |rest: &&str| rest.is_empty() || rest.starts_with(['/', '?', '#']);
        let rest = path.strip_prefix(&*self.base).filter(ends)?;
        let (rest, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
        let added = |rest: &str| Some(rest.strip_suffix(&*self.query)?.strip_suffix(['?', '&'])?.to_owned());
        let rest = if self.query.is_empty() { None } else { added(rest) }.unwrap_or_else(|| rest.to_owned());
        let slash = if self.strip.is_empty() && !rest.starts_with('/') { "/" } else { "" };
        Some(format!("{}{slash}{rest}{fragment}", self.strip))
    }
}

/// Where a cookie is for that states no path.
fn folder(path: &str) -> &str {
    path.rfind('/').and_then(|end| path.get(..end)).filter(|folder| !folder.is_empty()).unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::{super::endpoints::compile, *};

    fn compiled(list: Value) -> Arc<[Endpoint]> {
        compile(list.as_array().unwrap(), "iad", "authorization: Bearer {}").unwrap().0
    }

    /// What an endpoint's header becomes for whoever asked for this.
    fn back(endpoints: &[Endpoint], from: usize, asked: &str, name: header::HeaderName, told: &str) -> Vec<String> {
        let uri: Uri = asked.parse().unwrap();
        let origin = Origin::of(&uri).unwrap();
        let mut headers: HeaderMap = [(name.clone(), told.parse().unwrap())].into_iter().collect();
        lead_back(endpoints, endpoints[from].id, Requested { origin: &origin, uri: &uri }, &mut headers);
        headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_redirect_of_an_endpoint_leads_back_to_the_destination() {
        let endpoints = compiled(json!([
            {"url": "https://x.azure.test/openai/deployments/gpt/", "strip": "/v1", "query": {"v": "1"}},
            {"url": "https://y.azure.test"},
        ]));
        for (from, told, followed) in [
            (0, "/openai/deployments/gpt/files/1?v=1", "/v1/files/1"),
            (0, "/openai/deployments/gpt/files?a=2&v=1#top", "/v1/files?a=2#top"),
            (0, "/openai/deployments/gpt-5/files", "https://x.azure.test/openai/deployments/gpt-5/files"),
            (0, "https://x.azure.test/openai/deployments/gpt/files", "https://llm.test/v1/files"),
            (0, "https://y.azure.test/files?a=1", "https://llm.test/files?a=1"),
            (0, "../files?a=1", "/v1/files?a=1"),
            (0, "../../../../files", "https://x.azure.test/files"),
            (0, "../next?to=..", "/v1/next?to=.."),
            (0, "next?to=..", "next?to=.."),
            (0, "?page=2", "?page=2"),
            (1, "https://x.azure.test/openai/deployments/gpt", "https://llm.test/v1"),
            (1, "https://y.azure.test", "https://llm.test/"),
            (1, "/files", "/files"),
            (1, "https://elsewhere.test/files", "https://elsewhere.test/files"),
            (1, "//y.azure.test/files", "//y.azure.test/files"),
            (1, "next", "next"),
            (1, "../next", "../next"),
        ] {
            let asked = "https://llm.test/v1/chat/1";
            assert_eq!(back(&endpoints, from, asked, header::LOCATION, told), [followed], "{told}");
        }
    }

    #[test]
    fn a_cookie_of_an_endpoint_is_for_the_paths_that_lead_there() {
        let endpoints = compiled(json!([
            {"url": "https://a.test/base/one", "name": "base"},
            {"url": "https://a.test/base/one", "name": "both", "strip": "/v1"},
            {"url": "https://a.test", "name": "strip", "strip": "/v1"},
            {"url": "https://a.test", "name": "plain"},
        ]));
        // Asked for /v1/users/me, which is /users/me of those that take /v1 off.
        for (told, base, both, strip, plain) in [
            ("s=1; Path=/", "/", "/", "/", "/"),
            ("s=1; Path=/base", "/", "/", "/v1/base", "/base"),
            ("s=1; Path=/base/", "/", "/", "/v1/base/", "/base/"),
            ("s=1; Path=/base/one", "/", "/", "/v1/base/one", "/base/one"),
            ("s=1; Path=/base/one/", "/", "/", "/v1/base/one/", "/base/one/"),
            ("s=1; Path=/base/one/users", "/users", "/v1/users", "/v1/base/one/users", "/base/one/users"),
            ("s=1", "/v1/users", "/v1/users", "/v1/users", ""),
            ("s=1; Path=users", "/v1/users", "/v1/users", "/v1/users", ""),
            ("s=1; Path=/base/one-two", "none", "none", "/v1/base/one-two", "/base/one-two"),
            ("s=1; Path=/other", "none", "none", "/v1/other", "/other"),
        ] {
            for (from, path) in [base, both, strip, plain].into_iter().enumerate() {
                let got = back(&endpoints, from, "https://llm.test/v1/users/me", header::SET_COOKIE, told);
                let wanted = match path {
                    "none" => vec![],
                    "" => vec!["s=1".to_owned()],
                    path => vec![format!("s=1; Path={path}")],
                };
                assert_eq!(got, wanted, "{told} of {from}");
            }
        }
        // Whoever asks without what is taken off has the paths so, too.
        let other = back(&endpoints, 1, "https://llm.test/users/me", header::SET_COOKIE, "s=1; Path=/base/one/users");
        assert_eq!(other, ["s=1; Path=/users"]);
    }

    #[test]
    fn a_cookie_keeps_its_domain_only_where_the_destination_is_within_it() {
        let endpoints = compiled(json!([{"url": "https://eu.llm.test"}]));
        for (told, kept) in [
            ("s=1; Domain=llm.test; Secure", "s=1; Secure; Domain=llm.test"),
            ("s=1; domain=.LLM.test", "s=1; Domain=.LLM.test"),
            ("s=1; Domain=eu.llm.test; HttpOnly", "s=1; HttpOnly"),
            ("s=1; Domain=lm.test", "s=1"),
        ] {
            assert_eq!(back(&endpoints, 0, "https://llm.test/", header::SET_COOKIE, told), [kept], "{told}");
        }
    }
}
