//! A stored answer on its way to who asked.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use tidegate_core::{cache as rules, units::Rounded};

use super::{Around, Asking, Forward};
use crate::{
    body::{self, Body},
    observe::Cached,
    outbound::{
        cache::{Cache, Stored},
        door::calls::Call,
    },
};

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

impl Call<'_> {
    /// Gives a stale answer. `failed`: the status that came of asking, if somebody was asked.
    pub(super) fn stale(
        &mut self,
        around: Around<'_>,
        asking: &Asking,
        stored: &Stored,
        why: &'static str,
        failed: Option<Option<u16>>,
    ) -> Response<Body> {
        let age = stored.age(Cache::now());
        let over = age.saturating_sub(stored.answer.lifetime);
        self.note(format!("answered from the cache, {} old, stale for {}: {why}", Rounded(age), Rounded(over)));
        let asked = match failed {
            Some(Some(status)) => format!("fwd=stale; fwd-status={status}"),
            Some(None) => "fwd=stale".into(),
            None => "hit".into(),
        };
        let status = format!("{asked}; ttl=-{}; detail={why}", over.as_secs());
        self.serve(around, asking, stored, &status, Cached::Stale)
    }

    /// Gives what somebody else fetched.
    pub(super) fn shared(
        &mut self,
        around: Around<'_>,
        asking: &Asking,
        stored: &Stored,
        why: Forward,
    ) -> Response<Body> {
        self.note("answered with what an equal call fetched".into());
        self.serve(around, asking, stored, &format!("{}; collapsed", why.text()), Cached::Collapsed)
    }

    /// A stored answer, as it is given to this request.
    pub(super) fn serve(
        &mut self,
        around: Around<'_>,
        asking: &Asking,
        stored: &Stored,
        status: &str,
        how: Cached,
    ) -> Response<Body> {
        let mut headers = stored.headers.clone();
        let age = stored.age(Cache::now()).as_secs();
        headers.insert(header::AGE, HeaderValue::from(age));
        let same = stored.status == StatusCode::OK && rules::is_not_modified(&asking.headers, &stored.headers);
        let mut response = Response::new(body::empty());
        *response.status_mut() = stored.status;
        if same {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING].iter().for_each(|name| {
                headers.remove(name);
            });
        } else if self.head.method == Method::HEAD {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(stored.body.len()));
        } else if !stored.body.is_empty() {
            *response.body_mut() = body::full(stored.body.read());
        }
        say(&mut headers, status);
        *response.headers_mut() = headers;
        self.count(around, how);
        self.ending.answered(response.status().as_u16());
        response
    }
}

/// Says what the cache did, behind what caches before it said.
pub(super) fn say(headers: &mut HeaderMap, what: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("Tidegate; {what}")) {
        headers.append(CACHE_STATUS, value);
    }
}
