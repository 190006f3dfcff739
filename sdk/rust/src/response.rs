//! What a handler may return.

use crate::{Body, Error};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};

/// A response with a streaming body.
pub type Response = http::Response<Body>;

/// Turns a handler's result into a response.
pub trait IntoResponse {
    /// The response to send.
    fn into_response(self) -> Response;
}

impl<B: Into<Body>> IntoResponse for http::Response<B> {
    fn into_response(self) -> Response {
        self.map(Into::into)
    }
}

/// A 200 with this body and content type.
fn typed(body: impl Into<Body>, content_type: &'static str) -> Response {
    let mut response = http::Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response {
        typed(Bytes::from_static(self.as_bytes()), "text/plain; charset=utf-8")
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        typed(self, "text/plain; charset=utf-8")
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        typed(self, "application/octet-stream")
    }
}

impl IntoResponse for Bytes {
    fn into_response(self) -> Response {
        typed(self, "application/octet-stream")
    }
}

impl IntoResponse for Body {
    fn into_response(self) -> Response {
        http::Response::new(self)
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Response {
        http::Response::new(Body::empty())
    }
}

impl IntoResponse for StatusCode {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        *response.status_mut() = self.0;
        response
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, HeaderMap, T) {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.2).into_response();
        response.headers_mut().extend(self.1);
        response
    }
}

impl<T: IntoResponse, E: Into<Error>> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(value) => value.into_response(),
            Err(error) => {
                // The whole chain is for the author; the client learns only that it failed.
                crate::log::write(&format!("the handler failed: {:?}", error.into()));
                (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n").into_response()
            }
        }
    }
}

/// A value sent as JSON.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

#[cfg(feature = "json")]
impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        serde_json::to_vec(&self.0).map(|body| typed(body, "application/json")).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_type(response: &Response) -> &str {
        response.headers()[CONTENT_TYPE].to_str().unwrap()
    }

    #[test]
    fn a_string_is_plain_text() {
        let response = "hello".into_response();
        assert_eq!((response.status(), content_type(&response)), (StatusCode::OK, "text/plain; charset=utf-8"));
    }

    #[test]
    fn a_status_in_front_replaces_200() {
        let response = (StatusCode::NOT_FOUND, "no").into_response();
        assert_eq!((response.status(), content_type(&response)), (StatusCode::NOT_FOUND, "text/plain; charset=utf-8"));
    }

    #[test]
    fn headers_in_front_win_over_the_bodys_own() {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/html"))]);
        assert_eq!(content_type(&(StatusCode::OK, headers, "<p>").into_response()), "text/html");
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_says_so() {
        let response = Json([1, 2]).into_response();
        assert_eq!(content_type(&response), "application/json");
        assert_eq!(response.body().content_length(), Some(5));
    }
}
