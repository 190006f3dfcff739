//! The table of routes. What is not in it is a 404, what is there by another method a 405, both as problems.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    handler::Handler,
    routing::{MethodFilter, on},
};
use http::Method;

use super::{
    Control, audit, calls, deploy, destinations, functions, info, logs, openapi,
    problems::{no_such_path, wrong_method},
    profiles, secrets, steering, tokens, trails,
};

/// The control API.
pub fn router(control: Arc<Control>) -> Router {
    // Both fallbacks and layers hold for what was added before them.
    let router = table()
        .router
        .fallback(|request: Request| async move { no_such_path(request.uri().path()) })
        .method_not_allowed_fallback(
            |request: Request| async move { wrong_method(request.method(), request.uri().path()) },
        )
        // Each handler has its own bound, named in its error.
        .layer(DefaultBodyLimit::disable());
    router.with_state(control)
}

/// Routes, and a list of them for the test that holds `openapi.json` against it.
pub(super) struct Table {
    router: Router<Arc<Control>>,
    pub(super) listed: Vec<(&'static str, Method)>,
}

impl Table {
    fn on<H, T>(mut self, method: Method, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Control>>,
        T: 'static,
    {
        // Only methods that axum knows stand in the table below.
        if let Ok(filter) = MethodFilter::try_from(method.clone()) {
            self.router = self.router.route(path, on(filter, handler));
            self.listed.push((path, method));
        }
        self
    }
}

pub(super) fn table() -> Table {
    Table { router: Router::new(), listed: Vec::new() }
        .on(Method::GET, "/v1/functions", functions::list)
        .on(Method::GET, "/v1/functions/{name}", functions::show)
        .on(Method::PUT, "/v1/functions/{name}", deploy::deploy)
        .on(Method::DELETE, "/v1/functions/{name}", functions::delete)
        .on(Method::PUT, "/v1/functions/{name}/config", functions::configure)
        .on(Method::GET, "/v1/functions/{name}/versions", functions::versions)
        .on(Method::POST, "/v1/functions/{name}/rollback", functions::rollback)
        .on(Method::GET, "/v1/functions/{name}/logs", logs::read)
        .on(Method::GET, "/v1/destinations", destinations::list)
        .on(Method::GET, "/v1/destinations/{name}", destinations::show)
        .on(Method::PUT, "/v1/destinations/{name}", destinations::put)
        .on(Method::DELETE, "/v1/destinations/{name}", destinations::delete)
        .on(Method::GET, "/v1/profiles", profiles::list)
        .on(Method::GET, "/v1/secrets", secrets::list)
        .on(Method::GET, "/v1/secrets/{name}", secrets::show)
        .on(Method::PUT, "/v1/secrets/{name}", secrets::put)
        .on(Method::DELETE, "/v1/secrets/{name}", secrets::delete)
        .on(Method::DELETE, "/v1/destinations/{name}/cache", destinations::purge)
        .on(Method::PUT, "/v1/destinations/{name}/brake", steering::brake)
        .on(Method::DELETE, "/v1/destinations/{name}/brake", steering::resume)
        .on(Method::POST, "/v1/destinations/{name}/flush", steering::flush)
        .on(Method::PUT, "/v1/destinations/{name}/override", steering::limit)
        .on(Method::DELETE, "/v1/destinations/{name}/override", steering::unlimit)
        .on(Method::GET, "/v1/audit", audit::list)
        .on(Method::GET, "/v1/tokens", tokens::list)
        .on(Method::POST, "/v1/tokens", tokens::create)
        .on(Method::DELETE, "/v1/tokens/{id}", tokens::revoke)
        .on(Method::GET, "/v1/calls", calls::follow)
        .on(Method::GET, "/v1/trails", trails::list)
        .on(Method::GET, "/v1/trails/{id}", trails::show)
        .on(Method::GET, "/v1/limits", info::limits)
        .on(Method::GET, "/v1/cluster", info::cluster)
        .on(Method::GET, "/openapi.json", openapi::document)
        .on(Method::GET, "/healthz", info::healthz)
        .on(Method::GET, "/readyz", info::readyz)
}
