//! The API as its callers see it, over a registry on disk, with a guest host and a gate that only say yes or no.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use clap::{Args, Command as Clap, FromArgMatches};
use futures::{FutureExt, future::BoxFuture};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::{
    cluster::registry::{Bounds, ConfigError, DestinationConfig, FunctionLimits, Scope, World, token},
    ids::TenantId,
    observe::{FeedEvent, LogLine, LogStream},
    outbound::{DestinationPage, DestinationState},
};

/// Takes any module that is not `bad`, and remembers what it took.
#[derive(Default)]
struct Yes(Mutex<Vec<Vec<u8>>>);

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

    fn destinations(&self, _: &TenantId, after: Option<&str>, limit: usize) -> DestinationPage {
        let known = ["https://other.example", "openab", "openai", "zzz"];
        let wanted = known.iter().filter(|name| after.is_none_or(|after| **name > after));
        let state = |name: &&str| DestinationState {
            destination: (*name).to_owned(),
            configured: *name == "openai",
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
    let bounds = Bounds { functions: 3, destinations: 3, tokens: 5 };
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

#[tokio::test]
async fn every_route_wants_a_token_and_every_error_is_a_problem() {
    let api = api();
    let open = ["/healthz", "/readyz", "/openapi.json"];
    for (path, method) in routes::table().listed {
        let uri = path.replace("{name}", "n").replace("{id}", "0123456789abcdef0123456789abcdef");
        let answer = api.ask_as(&format!("{method} {uri}"), &[], Body::empty()).await;
        if open.contains(&path) {
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
            continue;
        }
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert!(answer.detail().contains("Authorization: Bearer"), "{path}");
        assert!(answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
        let answer = api.ask_as(&format!("{method} {uri}"), &["authorization: Bearer tg_wrong"], Body::empty()).await;
        assert!(answer.detail().contains("not known"), "{path}");
    }
    let answer = api.ask("GET /v2/else", &[], Body::empty()).await;
    assert_eq!((answer.status, answer.detail().contains("/openapi.json")), (StatusCode::NOT_FOUND, true));
    let answer = api.ask("PATCH /v1/functions", &[], Body::empty()).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(answer.detail().contains("PATCH") && answer.headers.contains_key(header::ALLOW));
}

#[tokio::test]
async fn a_token_is_shown_once_does_what_its_scopes_say_and_ends_when_it_is_revoked() {
    let api = api();
    let body = r#"{"label": "ci", "scopes": ["invoke:agent"]}"#;
    let made = api.ask("POST /v1/tokens", &[], body).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let bearer = format!("authorization: Bearer {}", made.body["token"].as_str().unwrap());
    let refused = api.ask_as("GET /v1/functions", &[&bearer], Body::empty()).await;
    assert_eq!((refused.status, &refused.body["scope"]), (StatusCode::FORBIDDEN, &json!("deploy")));
    let listed = api.ask("GET /v1/tokens", &[], Body::empty()).await;
    assert!(!listed.body.to_string().contains(made.body["token"].as_str().unwrap()));
    let id = made.body["id"].as_str().unwrap();
    let revoked = api.ask(&format!("DELETE /v1/tokens/{id}"), &[], Body::empty()).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    let after = api.ask_as("GET /v1/functions", &[&bearer], Body::empty()).await;
    assert_eq!(after.status, StatusCode::UNAUTHORIZED);
    let last = api.ask("DELETE /v1/tokens/admin", &[], Body::empty()).await;
    assert_eq!(last.status, StatusCode::CONFLICT, "{}", last.body);
    for body in ["{}", r#"{"scopes": []}"#, r#"{"scopes": ["all"]}"#, r#"{"scopes": ["jobs"], "x": 1}"#, "nonsense"] {
        assert_eq!(api.ask("POST /v1/tokens", &[], body).await.status, StatusCode::BAD_REQUEST, "{body}");
    }
}

#[tokio::test]
async fn a_deploy_makes_versions_that_can_be_listed_and_gone_back_to() {
    let api = api();
    let first = api.deploy("agent", "one").await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.body);
    assert_eq!(first.body["version"], 1);
    assert_eq!(first.body["urls"][0], "http://127.0.0.1:8080/f/agent/");
    assert_eq!(first.body["warnings"][0], "a warning");
    assert!(first.body["timings"]["compile_ms"].is_u64());
    assert_eq!(first.body["digest"], token::hash("one").to_string());
    let again = api.deploy("agent", "one").await;
    assert_eq!(
        (again.status, &again.body["unchanged"], &again.body["version"]),
        (StatusCode::OK, &json!(true), &json!(1))
    );
    let second = api.deploy("agent", "two").await;
    assert_eq!((second.status, &second.body["version"]), (StatusCode::OK, &json!(2)));
    assert_ne!(first.etag(), second.etag());
    let query = "?activate=false&message=try";
    let third = api.ask(&format!("PUT /v1/functions/agent{query}"), &[], "three").await;
    assert_eq!((&third.body["activated"], &third.body["active"]["version"]), (&json!(false), &json!(2)));
    let versions = api.ask("GET /v1/functions/agent/versions", &[], Body::empty()).await;
    let list: Vec<_> =
        versions.body["versions"].as_array().unwrap().iter().map(|v| (&v["version"], &v["active"])).collect();
    assert_eq!(list, [(&json!(3), &json!(false)), (&json!(2), &json!(true)), (&json!(1), &json!(false))]);
    let back = api.ask("POST /v1/functions/agent/rollback", &[], Body::empty()).await;
    assert_eq!((back.status, &back.body["active"]["version"]), (StatusCode::OK, &json!(1)));
    let forth = api.ask("POST /v1/functions/agent/rollback", &[], r#"{"version": 3}"#).await;
    assert_eq!(forth.body["active"]["version"], 3);
    let gone = api.ask("DELETE /v1/functions/agent", &[], Body::empty()).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(api.ask("GET /v1/functions/agent", &[], Body::empty()).await.status, StatusCode::NOT_FOUND);
    assert_eq!(*api.modules.0.lock().unwrap(), [b"one".to_vec(), b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
}

#[tokio::test]
async fn a_configuration_comes_by_form_by_query_or_later_and_is_kept_by_the_next_deploy() {
    let api = api();
    let form = "--x\r\ncontent-disposition: form-data; name=\"config\"\r\n\r\n{\"auth\": \"public\"}\r\n\
        --x\r\ncontent-disposition: form-data; name=\"module\"; filename=\"m.wasm\"\r\n\r\none\r\n--x--\r\n";
    let multipart = ["content-type: multipart/form-data; boundary=x"];
    let made = api.ask("PUT /v1/functions/f", &multipart, form).await;
    assert_eq!((made.status, &made.body["config"]["auth"]), (StatusCode::CREATED, &json!("public")), "{}", made.body);
    let kept = api.deploy("f", "two").await;
    assert_eq!(kept.body["config"]["auth"], "public");
    let query = "?config=%7B%22env%22%3A%7B%22A%22%3A%22b%22%7D%7D";
    let asked = api.ask(&format!("PUT /v1/functions/f{query}"), &[], "two").await;
    assert_eq!((&asked.body["version"], &asked.body["config"]["env"]["A"]), (&json!(3), &json!("b")));
    let config = r#"{"allowed_hosts": ["a.example"]}"#;
    let put = api.ask("PUT /v1/functions/f/config", &[], config).await;
    assert_eq!(put.body["active"]["version"], 4);
    assert_eq!(put.body["config"]["allowed_hosts"][0], "a.example");
    assert_eq!(put.body["active"]["digest"], asked.body["digest"]);
    let wrong = api.ask("PUT /v1/functions/f/config", &[], r#"{"alowed_hosts": []}"#).await;
    assert_eq!((wrong.status, &wrong.body["key"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("alowed_hosts")));
    assert!(wrong.detail().contains("did you mean `allowed_hosts`?"));
    for (form, says) in [
        ("--x\r\ncontent-disposition: form-data; name=\"config\"\r\n\r\n{}\r\n--x--\r\n", "no part `module`"),
        ("--x\r\ncontent-disposition: form-data; name=\"other\"\r\n\r\n{}\r\n--x--\r\n", "`other` too many"),
        ("nonsense", "can't be read"),
    ] {
        let answer = api.ask("PUT /v1/functions/f", &multipart, form).await;
        assert!(answer.status == StatusCode::BAD_REQUEST && answer.detail().contains(says), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_version_that_can_not_be_opened_is_refused_and_the_old_one_serves_on() {
    let api = api_with(&["--open-timeout", "50ms"]);
    api.deploy("f", "one").await;
    let add = |query: &str| format!("PUT /v1/functions/f?activate=false&config={query}");
    let broken = "%7B%22env%22%3A%7B%22BROKEN%22%3A%22%22%7D%7D";
    let kept = api.ask(&add(broken), &[], "one").await;
    assert_eq!((kept.status, &kept.body["active"]["version"]), (StatusCode::OK, &json!(1)), "{}", kept.body);
    for (env, status, says) in [
        ("BROKEN", StatusCode::UNPROCESSABLE_ENTITY, "needs more"),
        ("NEVER", StatusCode::SERVICE_UNAVAILABLE, "50ms (setting open_timeout)"),
    ] {
        let config = json!({"env": {env: ""}}).to_string();
        let answer = api.ask("PUT /v1/functions/f/config", &[], config).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.detail().contains(says) && answer.detail().contains("nothing was changed"), "{}", answer.body);
    }
    let redeploy = api.ask(&format!("PUT /v1/functions/f?config={broken}"), &[], "two").await;
    assert_eq!(redeploy.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", redeploy.body);
    let forth = api.ask("POST /v1/functions/f/rollback", &[], r#"{"version": 2}"#).await;
    assert_eq!(forth.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", forth.body);
    let shown = api.ask("GET /v1/functions/f", &[], Body::empty()).await;
    assert_eq!((&shown.body["active"]["version"], &shown.body["versions"]), (&json!(1), &json!([1, 2])));
}

#[tokio::test]
async fn curl_sends_a_module_under_a_form_s_name_and_it_is_taken_for_what_it_is() {
    let api = api();
    let form = ["content-type: application/x-www-form-urlencoded"];
    let made = api.ask("PUT /v1/functions/f", &form, "\0asm and the rest").await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    assert_eq!(*api.modules.0.lock().unwrap(), [b"\0asm and the rest".to_vec()]);
    let refused = api.ask("PUT /v1/functions/f", &form, "a=b").await;
    assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{}", refused.body);
}

#[tokio::test]
async fn what_can_not_be_deployed_is_refused_with_the_reason_and_leaves_nothing() {
    let api = api_with(&["--max-module", "10"]);
    let wasm = ["content-type: application/wasm"];
    let big = api.ask("PUT /v1/functions/f", &wasm, "12345678901").await;
    assert_eq!(big.status, StatusCode::PAYLOAD_TOO_LARGE);
    let named = (&big.body["limit"], &big.body["value"], &big.body["setting"]);
    assert_eq!(named, (&json!("module size"), &json!("10B"), &json!("max_module")));
    for (path, headers, body, status, says) in [
        ("f", &wasm[..], "", 400, "empty"),
        ("f", &wasm, "bad", 422, "no magic"),
        ("f", &["content-type: text/html"], "x", 415, "application/wasm"),
        ("Upper", &wasm, "x", 400, "a-z, 0-9 and -"),
        ("f?activte=no", &wasm, "x", 400, "activte"),
        ("f?config=nonsense", &wasm, "x", 400, "not JSON"),
    ] {
        let answer = api.ask(&format!("PUT /v1/functions/{path}"), headers, body).await;
        assert_eq!(answer.status.as_u16(), status, "{path} {body}: {}", answer.body);
        assert!(answer.detail().contains(says), "{path} {body}: {}", answer.body);
    }
    assert!(api.registry.state().functions.is_empty());
    let spooled = std::fs::read_dir(api._directory.path().join("tmp")).unwrap().count();
    assert_eq!(spooled, 0, "no upload is left behind");
    for name in ["a", "b", "c"] {
        assert_eq!(api.deploy(name, "x").await.status, StatusCode::CREATED);
    }
    let full = api.deploy("d", "x").await;
    assert_eq!((full.status, &full.body["setting"]), (StatusCode::INSUFFICIENT_STORAGE, &json!("max_functions")));
}

#[tokio::test]
async fn a_caller_that_insists_on_what_it_saw_is_refused_after_a_change() {
    let api = api();
    let seen = api.deploy("f", "one").await.etag().to_owned();
    api.deploy("f", "two").await;
    let insists = format!("if-match: {seen}");
    for request in ["PUT /v1/functions/f", "DELETE /v1/functions/f", "POST /v1/functions/f/rollback"] {
        let body = if request.starts_with("PUT") { "three" } else { "" };
        let answer = api.ask(request, &[&insists], body).await;
        assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED, "{request}: {}", answer.body);
    }
    let config = api.ask("PUT /v1/functions/f/config", &[&insists], "{}").await;
    assert_eq!(config.status, StatusCode::PRECONDITION_FAILED);
    let create = api.ask("PUT /v1/functions/f", &["if-none-match: *"], "three").await;
    assert_eq!(create.status, StatusCode::PRECONDITION_FAILED);
    let now = api.ask("GET /v1/functions/f", &[], Body::empty()).await.etag().to_owned();
    let gone = api.ask("DELETE /v1/functions/f", &[&format!("if-match: {now}")], Body::empty()).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn destinations_are_configured_shown_with_their_live_state_and_removed() {
    let api = api();
    let put = api.ask("PUT /v1/destinations/openai", &[], r#"{"match": "https://api.openai.com"}"#).await;
    assert_eq!((put.status, put.etag()), (StatusCode::CREATED, "\"2\""), "{}", put.body);
    let change = r#"{"match": "https://api.openai.com", "max_concurrency": 4}"#;
    assert_eq!(api.ask("PUT /v1/destinations/openai", &[], change).await.status, StatusCode::OK);
    assert_eq!(put.body["warnings"].as_array().map(Vec::len), Some(0));
    let vain =
        r#"{"match": "https://vain.example", "policy": {"mode": "hedge", "regions": ["iad"], "deadline": "1m"}}"#;
    let vain = api.ask("PUT /v1/destinations/vain", &[], vain).await;
    let warnings = vain.body["warnings"].as_array().unwrap();
    assert!(warnings.len() == 2 && warnings[1].as_str().unwrap().starts_with("policy.mode "), "{warnings:?}");
    assert_eq!(api.ask("DELETE /v1/destinations/vain", &[], "").await.status, StatusCode::NO_CONTENT);
    let shown = api.ask("GET /v1/destinations/openai", &[], Body::empty()).await;
    assert_eq!(shown.body["config"]["max_concurrency"], 4);
    assert_eq!(
        (&shown.body["live"]["destination"], &shown.body["live"]["configured"]),
        (&json!("openai"), &json!(true))
    );
    let list = api.ask("GET /v1/destinations", &[], Body::empty()).await;
    assert_eq!(list.body["destinations"][0]["name"], "openai");
    assert_eq!(list.body["live"].as_array().unwrap().len(), 4);
    let page = api.ask("GET /v1/destinations?limit=1&after=openai", &[], Body::empty()).await;
    assert_eq!(page.body["live"][0]["destination"], "zzz");
    let taken = api.ask("PUT /v1/destinations/other", &[], change).await;
    assert!(taken.status == StatusCode::CONFLICT && taken.detail().contains("`openai` already"), "{}", taken.body);
    let meaningless = api.ask("PUT /v1/destinations/other", &[], r#"{"match": "gopher://x"}"#).await;
    assert_eq!((meaningless.detail(), &meaningless.body["key"]), ("`match`: no https", &json!("match")));
    assert_eq!(api.ask("DELETE /v1/destinations/openai", &[], "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.ask("GET /v1/destinations/openai", &[], "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_body_beyond_its_bound_is_refused_by_name() {
    let api = api_with(&["--max-control-body", "16"]);
    let answer = api.ask("POST /v1/tokens", &[], "x".repeat(17)).await;
    assert_eq!((answer.status, &answer.body["setting"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("max_control_body")));
}

fn line(text: &str) -> LogLine {
    LogLine {
        sequence: 0,
        time_ms: 1,
        tenant: TenantId::default_tenant(),
        function: "f".into(),
        version: 1,
        trace: None,
        stream: LogStream::Stdout,
        text: text.into(),
    }
}

#[tokio::test]
async fn logs_are_read_back_and_followed_without_a_gap_or_a_repetition() {
    let api = api();
    api.deploy("f", "x").await;
    let print = |text: &str| {
        let line = api.observe.logs.push(line(text));
        api.observe.feed.send(|| FeedEvent::Log(line));
    };
    print("one");
    print("two");
    let past = api.ask("GET /v1/functions/f/logs?after=1", &[], Body::empty()).await;
    assert_eq!(past.body["lines"][0]["text"], "two");
    assert_eq!(past.body["lines"].as_array().unwrap().len(), 1);
    assert_eq!(api.ask("GET /v1/functions/g/logs", &[], Body::empty()).await.status, StatusCode::NOT_FOUND);
    let request = Request::builder()
        .uri("/v1/functions/f/logs?follow=true")
        .header("authorization", format!("Bearer {}", api.admin))
        .header("last-event-id", "1");
    let answer = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    print("three");
    let mut body = answer.into_body();
    let mut text = String::new();
    while text.matches("event: log").count() < 2 {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    assert!(!text.contains("\"one\"") && text.contains("\"two\"") && text.contains("\"three\""), "{text}");
    assert!(text.contains("id: 2\n") && text.contains("id: 3\n"), "{text}");
}

#[tokio::test]
async fn who_follows_the_logs_is_cut_off_when_its_token_is_revoked() {
    let api = api();
    api.deploy("f", "module").await;
    let made = api.ask("POST /v1/tokens", &[], json!({"scopes": ["deploy"]}).to_string()).await.body;
    let request = Request::builder()
        .uri("/v1/functions/f/logs?follow=true")
        .header("authorization", format!("Bearer {}", made["token"].as_str().unwrap()));
    let answer = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let id = made["id"].as_str().unwrap();
    api.ask(&format!("DELETE /v1/tokens/{id}"), &[], Body::empty()).await;
    let rest = tokio::time::timeout(Duration::from_secs(5), answer.into_body().collect()).await.unwrap().unwrap();
    assert!(rest.to_bytes().is_empty());
}

#[tokio::test]
async fn an_upload_that_stands_still_gives_its_place_up() {
    let api = api_with(&["--upload-idle", "50ms"]);
    let part = "--x\r\ncontent-disposition: form-data; name=\"module\"\r\n\r\nmod";
    let form = "content-type: multipart/form-data; boundary=x";
    for (kind, begin) in [("content-type: application/wasm", "mod"), (form, part), (form, "--x")] {
        let begun = futures::stream::iter([Ok::<_, std::convert::Infallible>(begin)]);
        let stalled = Body::from_stream(futures::StreamExt::chain(begun, futures::stream::pending()));
        let answer = api.ask("PUT /v1/functions/f", &[kind], stalled).await;
        assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT, "{}", answer.body);
        assert_eq!(answer.body["setting"], "upload_idle");
    }
    let spooled = std::fs::read_dir(api._directory.path().join("tmp")).unwrap().count();
    assert_eq!(spooled, 0, "no upload is left behind");
}

#[tokio::test]
async fn the_bounds_and_the_node_are_shown() {
    let api = api();
    let limits = api.ask("GET /v1/limits", &[], Body::empty()).await;
    let all = limits.body["limits"].as_array().unwrap();
    let wall = all.iter().find(|bound| bound["setting"] == "guest_wall").unwrap();
    assert_eq!((&wall["value"], &wall["source"]), (&json!("30s"), &json!("default")));
    let cluster = api.ask("GET /v1/cluster", &[], Body::empty()).await;
    assert_eq!(
        (&cluster.body["nodes"][0]["region"], &cluster.body["nodes"][0]["ready"]),
        (&json!("local"), &json!(false))
    );
    assert_eq!(api.ask_as("GET /readyz", &[], "").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(api.ask_as("GET /healthz", &[], "").await.status, StatusCode::OK);
}
