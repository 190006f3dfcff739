//! Tokens, destinations, and what every change has in common.

use axum::body::Body;
use http::{StatusCode, header};
use serde_json::json;

use super::*;

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
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().starts_with("policy.regions "), "{warnings:?}");
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
async fn stored_answers_are_forgotten_all_or_those_to_one_url_of_the_destination() {
    let api = api();
    let cache = r#"{"match": "https://api.openai.com", "cache": {"enabled": true, "stale_if_error": "1h"}}"#;
    let put = api.ask("PUT /v1/destinations/openai", &[], cache).await;
    assert_eq!(put.body["config"]["cache"], json!({"enabled": true, "stale_if_error": "1h"}));
    let wrong = r#"{"match": "https://a.test", "cache": {"enabeld": true}}"#;
    let wrong = api.ask("PUT /v1/destinations/wrong", &[], wrong).await;
    assert!(wrong.detail().contains("`cache.enabeld`") && wrong.detail().contains("`enabled`"), "{}", wrong.body);
    let path = "DELETE /v1/destinations/openai/cache";
    for (query, status) in [
        ("", StatusCode::NO_CONTENT),
        ("?url=https%3A%2F%2Fapi.openai.com%2Fv1%3Fa", StatusCode::NO_CONTENT),
        ("?url=https%3A%2F%2Fother.test%2F", StatusCode::BAD_REQUEST),
        ("?url=a%20b", StatusCode::BAD_REQUEST),
        ("?uri=x", StatusCode::BAD_REQUEST),
    ] {
        let answer = api.ask(&format!("{path}{query}"), &[], "").await;
        assert_eq!(answer.status, status, "{query}: {}", answer.body);
    }
    let nobody = api.ask("DELETE /v1/destinations/nobody/cache", &[], "").await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_body_beyond_its_bound_is_refused_by_name() {
    let api = api_with(&["--max-control-body", "16"]);
    let answer = api.ask("POST /v1/tokens", &[], "x".repeat(17)).await;
    assert_eq!((answer.status, &answer.body["setting"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("max_control_body")));
}

#[tokio::test]
async fn what_is_no_object_or_says_a_thing_twice_changes_nothing() {
    let api = api();
    for (request, body, why) in [
        ("POST /v1/tokens", r#"["label", ["deploy"]]"#, "no JSON object"),
        ("POST /v1/tokens", r#"{"scopes": ["deploy"], "scopes": ["admin"]}"#, "`scopes` is there twice"),
        ("PUT /v1/destinations/x", r#"{"match": "https://a", "match": "https://b"}"#, "`match` is there twice"),
        ("PUT /v1/destinations/x", "[]", "no JSON object"),
    ] {
        let answer = api.ask(request, &[], body).await;
        assert!(answer.status == StatusCode::BAD_REQUEST && answer.detail().contains(why), "{}", answer.body);
    }
    assert_eq!((api.registry.state().tokens.len(), api.registry.state().destinations.len()), (1, 0));
}

#[tokio::test]
async fn a_scope_that_could_never_match_is_refused_and_a_url_becomes_what_is_asked_for() {
    let api = api();
    let made = api.ask("POST /v1/tokens", &[], r#"{"scopes": ["to:http://127.0.0.1:9999", "to:*", "invoke:f"]}"#).await;
    assert_eq!(made.body["scopes"], json!(["to:127.0.0.1:9999", "to:*", "invoke:f"]), "{}", made.body);
    for scope in ["to:https://a b", "to:../x", "to:https://host/path", "invoke:a b", "invoke:../x"] {
        let answer = api.ask("POST /v1/tokens", &[], json!({"scopes": [scope]}).to_string()).await;
        assert!(answer.status == StatusCode::BAD_REQUEST && answer.detail().contains("the scope"), "{}", answer.body);
    }
    let many = json!({"scopes": vec!["deploy"; 101]}).to_string();
    assert!(api.ask("POST /v1/tokens", &[], many).await.detail().contains("at most 100"));
}
