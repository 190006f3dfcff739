//! The head of an inbound request: whose authority it names, what it may not hold, what a guest gets to see of it.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use ipnet::IpNet;

use super::listener::Peer;
use crate::{
    outbound::{has_any, has_foreign_coding},
    problem::Problem,
};

static FORWARDED: [HeaderName; 5] = [
    header::FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-host"),
    X_FORWARDED_PREFIX,
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What was taken off the path before the guest saw it.
pub(super) const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Who a request is for, as it says itself.
///
/// # Errors
/// 400 where it names nobody, two different ones, or something that is no authority.
pub(super) fn authority<B>(request: &Request<B>) -> Result<Authority, Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad_authority("the request has more than one Host header"));
    }
    let parsed = |value: &HeaderValue| {
        let authority = Authority::try_from(value.as_bytes());
        authority
            .map_err(|_| bad_authority("the Host header is no authority: a name or address with or without a port"))
    };
    let authority = match (request.uri().authority(), host) {
        // The absolute form wins over the header (RFC 9112, 3.2.2), but two that differ have fooled enough proxies.
        (Some(authority), Some(host)) => {
            if !parsed(host)?.as_str().eq_ignore_ascii_case(authority.as_str()) {
                return Err(bad_authority("the Host header and the request's target name different authorities"));
            }
            authority.clone()
        }
        (Some(authority), None) => authority.clone(),
        (None, Some(host)) => parsed(host)?,
        (None, None) if request.version() < Version::HTTP_11 => Authority::from_static("localhost"),
        (None, None) => return Err(bad_authority("the request has no Host header")),
    };
    let text = authority.as_str().as_bytes();
    if text.starts_with(b":") || text.contains(&b'@') {
        return Err(bad_authority("the authority must be a host with or without a port, and no user"));
    }
    Ok(authority)
}

fn bad_authority(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-authority", "The request does not say whom it is for", detail)
        .final_answer()
}

/// Refuses what this listener never does.
///
/// # Errors
/// 405 for CONNECT and TRACE, 501 for a request to speak WebSocket and for a body in a foreign transfer coding.
pub(super) fn refuse_what_is_never_done<B>(request: &Request<B>) -> Result<(), Problem> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        let detail = format!("{} is not taken here; this is no proxy to tunnel through", request.method());
        return Err(Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "Another method is needed",
            detail,
        )
        .final_answer());
    }
    if wants_websocket(request.headers()) {
        let detail = "an upgrade to `websocket` is not offered; use requests, streams or server-sent events";
        let title = "Upgrades are not offered";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "no-upgrade", title, detail).final_answer());
    }
    if has_foreign_coding(request.headers()) {
        let title = "This transfer coding is not offered";
        let detail = "of the codings of Transfer-Encoding only `chunked` is read: code the content (Content-Encoding), not the way";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "transfer-coding", title, detail).final_answer());
    }
    Ok(())
}

/// Whether the client asks for a WebSocket, and can do nothing without one. Offers of anything else (`h2c`, `TLS/1.2`)
/// are ignored, as RFC 9110 section 7.8 lets a server: their clients go on in HTTP/1.1. The header itself ends with the
/// others of the connection.
fn wants_websocket(headers: &HeaderMap) -> bool {
    let lists = |name, wanted: &str| {
        let texts = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        texts.flat_map(|text| text.split(',')).any(|item| item.trim().eq_ignore_ascii_case(wanted))
    };
    headers.contains_key(header::UPGRADE) && lists(header::UPGRADE, "websocket") && lists(header::CONNECTION, "upgrade")
}

/// Says whom the request came from. What it says about that itself counts only from a trusted proxy. Returns the
/// scheme the client used.
pub(super) fn forwarded(headers: &mut HeaderMap, peer: Peer, trusted: &[IpNet]) -> Scheme {
    let mut scheme = Scheme::HTTP;
    let mut chain = peer.text;
    if trusted.iter().any(|network| network.contains(&peer.address)) {
        if headers.get(X_FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https")) {
            scheme = Scheme::HTTPS;
        }
        let known = headers.get_all(X_FORWARDED_FOR).iter().chain([&chain]);
        let known: Vec<_> = known.filter_map(|value| value.to_str().ok()).collect();
        chain = HeaderValue::from_str(&known.join(", ")).unwrap_or(chain);
    } else {
        if has_any(headers, &FORWARDED) {
            for name in &FORWARDED {
                headers.remove(name);
            }
        }
    }
    headers.insert(X_FORWARDED_FOR, chain);
    scheme
}

/// The URI a guest sees: absolute, with the path from `start` on as its own root.
///
/// # Errors
/// 400 where the rest of the path is none.
pub(super) fn absolute(uri: &Uri, scheme: Scheme, authority: Authority, start: usize) -> Result<Uri, Problem> {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path_and_query = if start == 0 && whole.starts_with('/') {
        uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
    } else {
        let rest = whole.get(start..).unwrap_or_default();
        let parsed = if rest.starts_with('/') {
            PathAndQuery::try_from(rest)
        } else {
            // `/f/name` and `/f/name?x` are the root, too.
            PathAndQuery::try_from(format!("/{rest}"))
        };
        parsed.map_err(|_| bad_target())?
    };
    Uri::builder().scheme(scheme).authority(authority).path_and_query(path_and_query).build().map_err(|_| bad_target())
}

fn bad_target() -> Problem {
    let detail = "the target of the request is neither a path nor an absolute URL";
    Problem::new(StatusCode::BAD_REQUEST, "bad-target", "The request's target can't be understood", detail)
        .final_answer()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, hosts: &[&[u8]]) -> Request<()> {
        let mut request = Request::builder().uri(uri).body(()).unwrap();
        for host in hosts {
            request.headers_mut().append(header::HOST, HeaderValue::from_bytes(host).unwrap());
        }
        request
    }

    #[test]
    fn the_authority_is_one_valid_name_or_the_request_is_refused() {
        for (uri, hosts, expected) in [
            ("/", &[&b"a.example:80"[..]][..], Some("a.example:80")),
            ("http://a.example/", &[], Some("a.example")),
            ("http://a.example/", &[b"A.example"], Some("a.example")),
            ("http://a.example/", &[b"b.example"], None),
            ("/", &[], None),
            ("/", &[b"\xff"], None),
            ("/", &[b""], None),
            ("/", &[b"a b"], None),
            ("/", &[b"user@a.example"], None),
            ("/", &[b":80"], None),
            ("/", &[b"a.example", b"a.example"], None),
            ("/", &[b"[::1]:8080"], Some("[::1]:8080")),
        ] {
            let found = authority(&request(uri, hosts)).ok();
            assert_eq!(found.as_ref().map(Authority::as_str), expected, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn a_guest_sees_its_own_root_and_an_absolute_uri() {
        for (uri, start, seen) in [
            ("/a/b?c", 0, "http://h/a/b?c"),
            ("/f/name/a?c", 7, "http://h/a?c"),
            ("/f/name", 7, "http://h/"),
            ("/f/name?c", 7, "http://h/?c"),
            ("/f/name/", 7, "http://h/"),
            ("/f/name//a", 7, "http://h//a"),
        ] {
            let uri: Uri = uri.parse().unwrap();
            let absolute = absolute(&uri, Scheme::HTTP, Authority::from_static("h"), start).unwrap();
            assert_eq!(absolute.to_string(), seen);
        }
    }

    #[test]
    fn forwarding_headers_count_only_from_a_trusted_proxy() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let claimed = || {
            HeaderMap::from_iter([
                (X_FORWARDED_FOR, HeaderValue::from_static("1.2.3.4")),
                (X_FORWARDED_PROTO, HeaderValue::from_static("https")),
            ])
        };
        let mut headers = claimed();
        assert_eq!(forwarded(&mut headers, Peer::new("10.0.0.1".parse().unwrap()), &trusted), Scheme::HTTPS);
        assert_eq!(headers[X_FORWARDED_FOR], "1.2.3.4, 10.0.0.1");
        let mut headers = claimed();
        assert_eq!(forwarded(&mut headers, Peer::new("::ffff:9.9.9.9".parse().unwrap()), &trusted), Scheme::HTTP);
        assert_eq!(headers[X_FORWARDED_FOR], "9.9.9.9");
        assert!(!headers.contains_key(X_FORWARDED_PROTO));
    }

    #[test]
    fn tunnels_and_websockets_are_refused_and_other_offers_to_upgrade_are_ignored() {
        let refused = |request: Request<()>| refuse_what_is_never_done(&request).err().map(|problem| problem.status);
        let connect = Request::builder().method("CONNECT").uri("a.example:1").body(()).unwrap();
        assert_eq!(refused(connect), Some(StatusCode::METHOD_NOT_ALLOWED));
        for (upgrade, connection, status) in [
            ("websocket", "Upgrade", Some(StatusCode::NOT_IMPLEMENTED)),
            ("h2c, WebSocket", "keep-alive, upgrade", Some(StatusCode::NOT_IMPLEMENTED)),
            ("websocket", "keep-alive", None),
            ("h2c", "Upgrade, HTTP2-Settings", None),
            ("TLS/1.2", "Upgrade", None),
        ] {
            let request = Request::builder().uri("/").header("upgrade", upgrade).header("connection", connection);
            assert_eq!(refused(request.body(()).unwrap()), status, "{upgrade}, {connection}");
        }
    }

    #[test]
    fn a_body_in_a_coding_that_nobody_decodes_is_refused() {
        for (coding, status) in [
            ("chunked", None),
            ("Chunked ", None),
            ("gzip, chunked", Some(StatusCode::NOT_IMPLEMENTED)),
            ("gzip", Some(StatusCode::NOT_IMPLEMENTED)),
            ("chunked, chunked", Some(StatusCode::NOT_IMPLEMENTED)),
        ] {
            let request = Request::builder().method("POST").uri("/").header("transfer-encoding", coding);
            let refused = refuse_what_is_never_done(&request.body(()).unwrap()).err();
            assert_eq!(refused.map(|problem| problem.status), status, "{coding}");
        }
    }
}
