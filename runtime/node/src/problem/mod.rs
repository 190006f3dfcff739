//! Every error a person or a program sees: `application/problem+json` (RFC 9457).
//!
//! Typed errors live with what raises them; each becomes a [`Problem`] by a `From` beside its type, and this module
//! alone knows how a problem looks on the wire.

mod kinds;
mod shapes;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

pub use kinds::{KINDS, Kind, reference_page};
pub use shapes::Shape;

use crate::{
    body::{self, Body},
    ids::TraceId,
};

/// One answer that Tidegate itself makes because something is wrong.
///
/// `kind` is the last segment of `type` (`/problems/{kind}`), stable for clients. `limit`, `value` and `setting` name
/// the bound that bit, what it is set to, and where to change it.
///
/// Boxed: it is an error type, and the way on which nothing is wrong should not carry its size.
#[derive(Clone, Debug)]
pub struct Problem(Box<Parts>);

/// What a problem says.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The HTTP status.
    pub status: StatusCode,
    /// Last segment of the problem's `type`.
    pub kind: &'static str,
    /// A short summary that is the same each time.
    pub title: &'static str,
    /// What happened this time and what to do next.
    pub detail: String,
    /// Which bound bit.
    pub limit: Option<String>,
    /// What the bound is.
    pub value: Option<String>,
    /// Where the bound is set.
    pub setting: Option<String>,
    /// The trail that tells the whole story.
    pub trail: Option<TraceId>,
    /// When it may be worth another try.
    pub retry_after: Option<Duration>,
    /// Whether a client's own retry can help; `false` becomes `x-should-retry: false`.
    pub client_retry: bool,
    /// RFC 9209 error type for `Proxy-Status`, where Tidegate answers in an upstream's stead.
    pub proxy_error: Option<&'static str>,
    /// Further members of the object.
    pub members: serde_json::Map<String, serde_json::Value>,
    /// Further headers of the answer, such as `WWW-Authenticate`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How its body looks.
    pub shape: Shape,
}

impl std::ops::Deref for Problem {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl std::ops::DerefMut for Problem {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.0
    }
}

#[derive(Serialize)]
struct Wire<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    setting: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trail: Option<String>,
    #[serde(flatten)]
    members: &'a serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// A problem without a bound. Its kind stands in [`KINDS`].
    pub fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        debug_assert!(kinds::is_known(kind, status), "`{kind}` with {status} is missing in problem/kinds.rs");
        Self(Box::new(Parts {
            status,
            kind,
            title,
            detail: detail.into(),
            limit: None,
            value: None,
            setting: None,
            trail: None,
            retry_after: None,
            client_retry: true,
            proxy_error: None,
            members: serde_json::Map::new(),
            headers: Vec::new(),
            shape: Shape::Problem,
        }))
    }

    /// Names the bound that bit: which, what it is set to, where it is set.
    pub fn bound(mut self, limit: impl Into<String>, value: impl ToString, setting: impl Into<String>) -> Self {
        self.limit = Some(limit.into());
        self.value = Some(value.to_string());
        self.setting = Some(setting.into());
        self
    }

    /// Adds `Retry-After`.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Says that a client's own retry can't help (`x-should-retry: false`).
    pub fn final_answer(mut self) -> Self {
        self.client_retry = false;
        self
    }

    /// Adds the trail's id.
    pub fn trail(mut self, trail: TraceId) -> Self {
        self.trail = Some(trail);
        self
    }

    /// Says which RFC 9209 error this is.
    pub fn proxy_error(mut self, error: &'static str) -> Self {
        self.proxy_error = Some(error);
        self
    }

    /// Adds a member to the object.
    pub fn member(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Gives its body another shape.
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// The JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        match self.shape {
            Shape::Problem => self.problem_json(),
            _ => serde_json::to_vec(&self.shaped()).unwrap_or_default(),
        }
    }

    fn problem_json(&self) -> Vec<u8> {
        let wire = Wire {
            r#type: format!("/problems/{}", self.kind),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            limit: self.limit.as_deref(),
            value: self.value.as_deref(),
            setting: self.setting.as_deref(),
            trail: self.trail.map(|trail| trail.to_string()),
            members: &self.members,
        };
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// The headers that go with it on the wire, without content-type.
    fn decorate(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.shape.media()));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after(after)));
        }
        if !self.client_retry {
            say_final(headers);
        }
        let status = match self.proxy_error {
            Some(error) => format!("tidegate; error={error}"),
            None => "tidegate".to_owned(),
        };
        if let Ok(value) = HeaderValue::from_str(&status) {
            headers.insert("proxy-status", value);
        }
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
    }

    /// The answer.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(body::full(self.to_json()));
        *response.status_mut() = self.status;
        self.decorate(response.headers_mut());
        response
    }
}

/// Says of an answer that a repetition by its reader is in vain, to libraries that repeat by themselves.
pub(crate) fn say_final(headers: &mut HeaderMap) {
    headers.insert("x-should-retry", HeaderValue::from_static("false"));
}

/// A wait in seconds, as `Retry-After` says it: rounded up, for an early repetition is refused again.
pub(crate) fn retry_after(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

impl axum::response::IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        let mut response = axum::response::Response::new(axum::body::Body::from(self.to_json()));
        *response.status_mut() = self.status;
        self.decorate(response.headers_mut());
        response
    }
}
