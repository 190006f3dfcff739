//! `/metrics`, on a listener of its own.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, header};

use crate::{
    body::{self, Body},
    ingress::{
        Lingering,
        listener::{Handler, Peer},
    },
    observe::Observe,
    problem::Problem,
};

/// Answers scrapes.
#[derive(Clone)]
pub(super) struct Scrapes(pub(super) Arc<Observe>);

impl Handler for Scrapes {
    type Body = Body;

    async fn handle(self: Arc<Self>, _: Peer, request: Request<Lingering>) -> Response<Body> {
        if request.uri().path() != "/metrics" {
            let detail = "this listener serves /metrics";
            return Problem::new(StatusCode::NOT_FOUND, "no-such-path", "There is nothing here", detail)
                .into_response();
        }
        let mut answer = Response::new(body::full(self.0.metrics.render()));
        let open_metrics = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, open_metrics);
        answer
    }
}
