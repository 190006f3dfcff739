//! Secrets: what may be said of them, by whom, and that nothing ever says their values.

use axum::body::Body;
use http::StatusCode;
use serde_json::json;

use super::*;

const VALUE: &str = "sk-live-0123456789abcdef";

async fn with_openai() -> Api {
    let api = api();
    api.ask("PUT /v1/destinations/openai", &[], r#"{"match": "https://API.openai.com:443"}"#).await;
    api
}

fn set(more: &str) -> String {
    format!(r#"{{"value": "{VALUE}"{more}}}"#)
}

/// A token with this scope, as a header.
async fn bearer(api: &Api, scope: &str) -> String {
    let made = api.ask("POST /v1/tokens", &[], format!(r#"{{"scopes": ["{scope}"]}}"#)).await;
    format!("authorization: Bearer {}", made.body["token"].as_str().unwrap())
}

#[tokio::test]
async fn a_secret_is_set_shown_without_its_value_changed_and_removed() {
    let api = with_openai().await;
    let made = api
        .ask("PUT /v1/secrets/OPENAI_API_KEY", &[], set(r#", "functions": ["agent"], "destinations": ["openai"]"#))
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    assert_eq!(made.body["origins"], json!({"openai": "https://api.openai.com"}));
    assert_eq!(made.body["in"][0], "header:authorization");
    assert_eq!(made.body["warnings"], json!([]));
    let since = made.body["set_ms"].as_u64().unwrap();
    // What is left out stays, and whoever kept the tag may insist on it.
    let insists = format!("if-match: {}", made.etag());
    let bound = api.ask("PUT /v1/secrets/OPENAI_API_KEY", &[&insists], r#"{"functions": ["agent", "other"]}"#).await;
    assert_eq!((bound.status, &bound.body["functions"]), (StatusCode::OK, &json!(["agent", "other"])));
    assert_eq!((&bound.body["destinations"], bound.body["set_ms"].as_u64()), (&json!(["openai"]), Some(since)));
    for request in ["PUT /v1/secrets/OPENAI_API_KEY", "DELETE /v1/secrets/OPENAI_API_KEY"] {
        let late = api.ask(request, &[&insists], set("")).await;
        assert_eq!(late.status, StatusCode::PRECONDITION_FAILED, "{request}");
    }
    let only_new = api.ask("PUT /v1/secrets/OPENAI_API_KEY", &["if-none-match: *"], set("")).await;
    assert_eq!(only_new.status, StatusCode::PRECONDITION_FAILED);
    let shown = api.ask("GET /v1/secrets/OPENAI_API_KEY", &[], "").await;
    let listed = api.ask("GET /v1/secrets", &[], "").await;
    assert_eq!(listed.body["secrets"][0], shown.body);
    for answer in [&made, &bound, &shown, &listed] {
        assert!(!answer.body.to_string().contains(VALUE), "{}", answer.body);
    }
    assert_eq!(api.ask("DELETE /v1/secrets/OPENAI_API_KEY", &[], "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.ask("GET /v1/secrets/OPENAI_API_KEY", &[], "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(api.ask("DELETE /v1/secrets/OPENAI_API_KEY", &[], "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_wrong_with_a_secret_is_said_without_its_value() {
    let api = with_openai().await;
    api.ask("PUT /v1/destinations/all", &[], r#"{"match": "https://*"}"#).await;
    for (request, body, says) in [
        ("PUT /v1/secrets/A", set(r#", "destinations": ["all"]"#), "every host there is"),
        ("PUT /v1/secrets/A-B", set(""), "letters, digits and _"),
        ("PUT /v1/secrets/A", "{}".to_owned(), "a new secret has one"),
        ("PUT /v1/secrets/A", set(r#", "destinations": ["nobody"]"#), "no destination `nobody`"),
        ("PUT /v1/secrets/A", set(r#", "in": ["cookie"]"#), "header:NAME or query:NAME"),
        ("PUT /v1/secrets/A", format!(r#"{{"valeu": "{VALUE}"}}"#), "is spelt differently"),
        ("PUT /v1/secrets/A", format!(r#"{{"value": "{VALUE}\n"}}"#), "one line of printable ASCII"),
        ("PUT /v1/secrets/A", r#"{"value": "sk-live"}"#.to_owned(), "shorter than 8 bytes"),
        ("PUT /v1/secrets/A", format!(r#"["{VALUE}"]"#), "is no JSON object"),
        ("PUT /v1/secrets/A", VALUE.to_owned(), "not JSON"),
    ] {
        let answer = api.ask(request, &[], body).await;
        assert!(answer.status.is_client_error() && answer.detail().contains(says), "{}", answer.body);
        assert!(!answer.body.to_string().contains(VALUE), "{}", answer.body);
    }
    for name in ["A", "B", "C"] {
        assert_eq!(api.ask(&format!("PUT /v1/secrets/{name}"), &[], set("")).await.status, StatusCode::CREATED);
    }
    let full = api.ask("PUT /v1/secrets/D", &[], set("")).await;
    assert_eq!((full.status, &full.body["setting"]), (StatusCode::INSUFFICIENT_STORAGE, &json!("max_secrets")));
    assert_eq!(api.ask("PUT /v1/secrets/C", &[], set("")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn who_deploys_sets_values_but_leads_none_that_is_kept_elsewhere() {
    let api = with_openai().await;
    let (deploys, invokes) = (bearer(&api, "deploy").await, bearer(&api, "to:openai").await);
    for request in ["GET /v1/secrets", "GET /v1/secrets/A", "PUT /v1/secrets/A", "DELETE /v1/secrets/A"] {
        let answer = api.ask_as(request, &[&invokes], set("")).await;
        assert_eq!((answer.status, &answer.body["scope"]), (StatusCode::FORBIDDEN, &json!("deploy")), "{request}");
    }
    let whole = set(r#", "destinations": ["openai"]"#);
    assert_eq!(api.ask_as("PUT /v1/secrets/A", &[&deploys], whole).await.status, StatusCode::CREATED);
    api.ask_as("PUT /v1/destinations/evil", &[&deploys], r#"{"match": "https://evil.example"}"#).await;
    for change in [r#"{"destinations": ["evil"]}"#, r#"{"functions": ["mine"]}"#, r#"{"in": ["query:q"]}"#, "{}"] {
        let answer = api.ask_as("PUT /v1/secrets/A", &[&deploys], change).await;
        assert_eq!((answer.status, &answer.body["scope"]), (StatusCode::FORBIDDEN, &json!("admin")), "{change}");
        assert!(answer.detail().contains("send the value"), "{}", answer.body);
    }
    // A destination that would put it elsewhere does not, and says so; nor does one that leads its paths elsewhere.
    let place = "--in header:x-request-id";
    for put in [
        r#"{"match": "https://api.openai.com", "secret": "A", "inject": "x-request-id: {}"}"#,
        r#"{"match": "https://api.openai.com", "secret": "A", "keys": ["header:x-request-id"]}"#,
    ] {
        let put = api.ask_as("PUT /v1/destinations/openai", &[&deploys], put).await;
        assert!(put.body["warnings"][0].as_str().unwrap().contains(place), "{}", put.body);
        let shown = api.ask_as("GET /v1/secrets/A", &[&deploys], Body::empty()).await;
        assert!(shown.body["warnings"][0].as_str().unwrap().contains(place), "{}", shown.body);
    }
    let strips = r#"{"match": "https://api.openai.com", "secret": "A",
        "endpoints": [{"url": "https://api.openai.com", "strip": "/v1"}]}"#;
    let strips = api.ask_as("PUT /v1/destinations/openai", &[&deploys], strips).await;
    assert!(strips.body["warnings"][0].as_str().unwrap().contains("without /v1 now"), "{}", strips.body);
    // A destination that is led elsewhere takes no secret along, and says so.
    let moved = r#"{"match": "https://other.example", "secret": "A"}"#;
    let moved = api.ask_as("PUT /v1/destinations/openai", &[&deploys], moved).await;
    assert!(moved.body["warnings"][0].as_str().unwrap().contains("bind A --destination openai"), "{}", moved.body);
    let shown = api.ask_as("GET /v1/secrets/A", &[&deploys], Body::empty()).await;
    assert_eq!(shown.body["origins"], json!({"openai": "https://api.openai.com"}));
    assert!(shown.body["warnings"][0].as_str().unwrap().contains("https://other.example"), "{}", shown.body);
    // Nor does a new value, unless who knows it says so.
    let kept = json!({"openai": "https://api.openai.com"});
    let new = api.ask_as("PUT /v1/secrets/A", &[&deploys], set("")).await;
    assert_eq!((new.status, &new.body["origins"]), (StatusCode::OK, &kept));
    for (origin, bound_anew) in [("https://api.openai.com", false), ("https://other.example", true)] {
        let more = format!(r#", "destinations": {{"openai": "{origin}", "evil": null}}"#);
        let answer = api.ask_as("PUT /v1/secrets/A", &[&deploys], set(&more)).await;
        assert_eq!(answer.body["origins"], json!({"openai": origin, "evil": "https://evil.example"}));
        assert_eq!(answer.body["warnings"].as_array().unwrap().is_empty(), bound_anew, "{}", answer.body);
    }
    let wrong = set(r#", "destinations": {"openai": "https://api.openai.com"}"#);
    let wrong = api.ask_as("PUT /v1/secrets/A", &[&deploys], wrong).await;
    assert!(wrong.detail().contains("stands for https://other.example, not for"), "{}", wrong.body);
    // An admin may without knowing it.
    let bound = api.ask("PUT /v1/secrets/A", &[], r#"{"destinations": ["evil"]}"#).await;
    assert_eq!(bound.body["origins"], json!({"evil": "https://evil.example"}));
}

#[tokio::test]
async fn a_function_is_deployed_only_with_secrets_that_serve_it() {
    let api = with_openai().await;
    let config = r#"{"secrets":["A"],"allowed_hosts":["api.openai.com"]}"#;
    let deploy = format!("PUT /v1/functions/agent?config={}", config.replace('"', "%22"));
    let refused = api.ask(&deploy, &[], "module").await;
    assert_eq!((refused.status, &refused.body["key"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("secrets[0]")));
    for says in ["secrets set A --function agent", "leave it out of `secrets`"] {
        assert!(refused.detail().contains(says), "{}", refused.body);
    }
    assert!(api.modules.0.lock().unwrap().is_empty(), "nothing was compiled");
    api.ask("PUT /v1/secrets/A", &[], set(r#", "functions": ["other"], "destinations": ["openai"]"#)).await;
    let refused = api.ask(&deploy, &[], "module").await;
    assert!(refused.detail().contains("secrets bind A --function agent"), "{}", refused.body);
    api.ask("PUT /v1/secrets/A", &[], r#"{"functions": ["agent"]}"#).await;
    let made = api.ask(&deploy, &[], "module").await;
    assert_eq!((made.status, &made.body["warnings"]), (StatusCode::CREATED, &json!(["a warning"])), "{}", made.body);
    // Another host than the secret's: it is told that the two never meet.
    let elsewhere = r#"{"secrets": ["A"], "allowed_hosts": ["other.example"]}"#;
    let told = api.ask("PUT /v1/functions/agent/config", &[], elsewhere).await;
    assert!(told.body["warnings"][0].as_str().unwrap().contains("`allowed_hosts`"), "{}", told.body);
    // Every version has handles of its own, and none of them is shown.
    let key = (TenantId::default_tenant(), FunctionName::from("agent"));
    let state = api.registry.snapshot();
    let seeds: Vec<_> =
        state.functions[&key].versions.values().map(|version| version.handles.clone().unwrap()).collect();
    assert_ne!(seeds[0], seeds[1]);
    for request in ["GET /v1/functions/agent", "GET /v1/functions/agent/versions", "GET /v1/functions"] {
        let shown = api.ask(request, &[], "").await.body.to_string();
        assert!(seeds.iter().all(|seed| !shown.contains(&String::from(seed.clone()))), "{shown}");
    }
    // Without its secret it is deployed no more, with an inherited configuration either.
    api.ask("DELETE /v1/secrets/A", &[], "").await;
    let refused = api.deploy("agent", "module two").await;
    assert_eq!((refused.status, &refused.body["key"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("secrets[0]")));
}
