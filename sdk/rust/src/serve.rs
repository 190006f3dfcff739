//! One invocation: from the two resources the host gives to the last byte of the answer.

use crate::{IntoResponse, Request, Response};
use http::HeaderMap;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, PROXY_AUTHENTICATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use wstd::http::server::Responder;

/// Fields about one connection. wasi:http refuses them, and those of an upstream have no meaning for our client.
const CONNECTION_FIELDS: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

fn strip_connection_fields(headers: &mut HeaderMap) {
    for name in CONNECTION_FIELDS {
        headers.remove(name);
    }
}

/// Runs `handler` for one request to the end of its answer. Tasks it spawned (`wstd::runtime::spawn`) run to their end too.
pub fn serve<H, F, R>(request: IncomingRequest, response_out: ResponseOutparam, handler: H)
where
    H: FnOnce(Request) -> F,
    F: Future<Output = R>,
    R: IntoResponse,
{
    crate::panic::log_panics();
    let responder = Responder::new(response_out);
    wstd::runtime::block_on(async move {
        let mut response: Response = match wstd::http::request::try_from_incoming(request) {
            Ok(request) => handler(request).await.into_response(),
            Err(error) => {
                crate::log::write(&format!("the request cannot be read: {error:?}"));
                (http::StatusCode::BAD_REQUEST, "Bad Request\n").into_response()
            }
        };
        strip_connection_fields(response.headers_mut());
        // A body that is all there says how long it is, which spares the client chunks.
        if let Some(length) = response.body().content_length() {
            response.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
        }
        if let Err(error) = responder.respond(response).await {
            // The client went away, or the body's own source failed: the answer is cut off, which is all there is to tell it.
            crate::log::write(&format!("the answer was cut off: {error:#}"));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn connection_fields_are_dropped_and_others_kept() {
        let mut headers = HeaderMap::new();
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        headers.insert("keep-alive", HeaderValue::from_static("timeout=5"));
        headers.insert("x-kept", HeaderValue::from_static("1"));
        strip_connection_fields(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }
}
