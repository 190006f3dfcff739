//! The API as its callers see it, over a registry on disk, with a guest host and a gate that only say yes or no.

mod changes;
mod deploys;
mod logs;
mod looking;
mod secrets;
mod steering;

use std::sync::{Arc, Mutex};

use axum::body::Body;
use clap::{Args, Command as Clap, FromArgMatches};
use futures::{FutureExt, future::BoxFuture};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::{
    cluster::registry::{Bounds, ConfigError, DestinationConfig, FunctionLimits, OverrideRecord, Scope, World, token},
    ids::TenantId,
    outbound::{DestinationPage, DestinationState},
};

/// Takes any module that is not `bad`, and remembers what it took, and which destinations were resumed.
#[derive(Default)]
struct Yes(Mutex<Vec<Vec<u8>>>, Mutex<Vec<String>>);

impl Modules for Yes {
    fn admit<'a>(
        &'a self,
        _: &'a TenantId,
        module: Spooled,
        _: &'a FunctionLimits,
    ) -> BoxFuture<'a, Result<Admitted, Problem>> {
        async move {
            let bytes = std::fs::read(&module.path).unwrap();
            if bytes == b"bad" {
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not-wasm", "Not wasm", "no magic"));
            }
            let (digest, size) = (token::hash(std::str::from_utf8(&bytes).unwrap()), bytes.len() as u64);
            self.0.lock().unwrap().push(bytes);
            let warnings = vec!["a warning".into()];
            Ok(Admitted { digest, size, world: World::Http02, reuse_safe: false, warnings })
        }
        .boxed()
    }
}

/// Opens whatever does not say in its environment that it can't be opened, or never will be.
impl Versions for Yes {
    fn prepare(
        &self,
        _: TenantId,
        _: FunctionName,
        version: Arc<VersionRecord>,
    ) -> BoxFuture<'static, Result<Opened, Problem>> {
        async move {
            if version.config.env.contains_key("NEVER") {
                return futures::future::pending().await;
            }
            if version.config.env.contains_key("BROKEN") {
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "needs-more", "Needs more", "needs more"));
            }
            Ok(Box::new(()) as Opened)
        }
        .boxed()
    }
}

impl Gate for Yes {
    fn check(&self, config: &DestinationConfig) -> Result<(), ConfigError> {
        match config.r#match.starts_with("https://") {
            true => Ok(()),
            false => Err(ConfigError { key: "match".into(), why: "no https".into() }),
        }
    }

    fn check_override(&self, _: &DestinationConfig, limits: &OverrideRecord) -> Result<(), ConfigError> {
        match limits.max_concurrency {
            Some(0) => Err(ConfigError { key: "max_concurrency".into(), why: "none at once".into() }),
            _ => Ok(()),
        }
    }

    fn flush(&self, _: &TenantId, _: &str) -> usize {
        3
    }

    fn resume(&self, _: &TenantId, name: &str) {
        self.1.lock().unwrap().push(name.to_owned());
    }

    fn purge(&self, _: &TenantId, name: &str, uri: Option<&http::Uri>) -> std::io::Result<bool> {
        Ok(name == "openai" && uri.is_none_or(|uri| uri.host() == Some("api.openai.com")))
    }

    fn destinations(&self, _: &TenantId, after: Option<&str>, limit: usize) -> DestinationPage {
        let known = ["https://other.example", "openab", "openai", "zzz"];
        let wanted = known.iter().filter(|name| after.is_none_or(|after| **name > after));
        let state = |name: &&str| DestinationState {
            destination: (*name).to_owned(),
            configured: *name == "openai",
            cache: None,
            r#match: String::new(),
            partitions: Vec::new(),
        };
        DestinationPage { destinations: wanted.take(limit).map(state).collect(), next: None }
    }
}

struct Api {
    router: axum::Router,
    registry: Registry,
    observe: Arc<Observe>,
    modules: Arc<Yes>,
    admin: String,
    _directory: tempfile::TempDir,
}

fn api() -> Api {
    api_with(&[])
}

fn api_with(flags: &[&str]) -> Api {
    let matches = crate::settings::Settings::augment_args(Clap::new("serve"))
        .try_get_matches_from(std::iter::once("serve").chain(flags.iter().copied()))
        .unwrap();
    let settings = Arc::new(Settings::from_arg_matches(&matches).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let data = Arc::new(DataDir::open(directory.path()).unwrap());
    let bounds = Bounds { functions: 3, destinations: 3, secrets: 3, tokens: 5, audit: 100 };
    let registry = Registry::open(&data.path("registry.redb"), bounds).unwrap();
    let admin = token::mint();
    let scopes = vec![Scope::Admin];
    let record = token::record(Some("admin"), TenantId::default_tenant(), String::new(), scopes, &admin);
    registry.write_blocking(Command::AddToken { token: record }).unwrap();
    let (observe, modules) = (Observe::new(&settings.observe), Arc::new(Yes::default()));
    let control = Control {
        registry: registry.clone(),
        shown: registry.watch(),
        observe: Arc::clone(&observe),
        data,
        modules: Arc::clone(&modules) as _,
        versions: Arc::clone(&modules) as _,
        gate: Arc::clone(&modules) as _,
        readiness: Arc::default(),
        data_url: "http://127.0.0.1:8080".into(),
        root: None,
        keys: Arc::new(Keyring::new(["a key of this test, 32 characters at least"]).unwrap()),
        ceilings: Ceilings::from(&settings.guest),
        deploys: Arc::new(Semaphore::new(2)),
        shutdown: CancellationToken::new(),
        settings,
    };
    Api { router: router(Arc::new(control)), registry, observe, modules, admin, _directory: directory }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn etag(&self) -> &str {
        self.headers[header::ETAG].to_str().unwrap()
    }

    fn detail(&self) -> &str {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        self.body["detail"].as_str().unwrap()
    }
}

impl Api {
    async fn send(&self, request: Request<Body>) -> Answer {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8_lossy(&bytes).into()));
        Answer { status: head.status, headers: head.headers, body }
    }

    /// A request by the admin. `headers` are `name: value`.
    async fn ask(&self, request: &str, headers: &[&str], body: impl Into<Body>) -> Answer {
        let authorization = format!("authorization: Bearer {}", self.admin);
        let headers: Vec<_> = headers.iter().copied().chain([authorization.as_str()]).collect();
        self.ask_as(request, &headers, body).await
    }

    async fn ask_as(&self, request: &str, headers: &[&str], body: impl Into<Body>) -> Answer {
        let (method, uri) = request.split_once(' ').unwrap();
        let mut builder = Request::builder().method(method).uri(uri);
        for line in headers {
            let (name, value) = line.split_once(": ").unwrap();
            builder = builder.header(name, value);
        }
        self.send(builder.body(body.into()).unwrap()).await
    }

    async fn deploy(&self, name: &str, module: &'static str) -> Answer {
        self.ask(&format!("PUT /v1/functions/{name}"), &["content-type: application/wasm"], module).await
    }
}
