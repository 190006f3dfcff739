//! Brakes, limits for a time, and the audit trail.

use serde_json::json;

use super::*;

async fn destination() -> Api {
    let api = api();
    let put = api.ask("PUT /v1/destinations/openai", &[], r#"{"match": "https://api.openai.com"}"#).await;
    assert_eq!(put.status, StatusCode::CREATED);
    api
}

/// Action, target and detail, the newest first.
async fn audit(api: &Api) -> Vec<(String, String, String)> {
    let answer = api.ask("GET /v1/audit", &[], "").await;
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let records = answer.body["audit"].as_array().unwrap();
    records.iter().map(|record| (text(record, "action"), text(record, "target"), text(record, "detail"))).collect()
}

#[tokio::test]
async fn a_destination_is_held_and_let_go_and_the_audit_trail_says_by_whom() {
    let api = destination().await;
    let brake = r#"{"state": "paused", "for": "10m", "reason": "they asked us to"}"#;
    let paused = api.ask("PUT /v1/destinations/openai/brake", &[], brake).await;
    assert_eq!(paused.status, StatusCode::OK, "{}", paused.body);
    let shown = &paused.body["steering"]["brake"];
    assert_eq!((&shown["state"], &shown["by"]), (&json!("paused"), &json!("admin")));
    let left = shown["left"].as_str().unwrap();
    assert!(left == "10m" || left.starts_with("9m 5"), "{shown}");
    // The configuration is as it was, and so is its entity tag.
    let again = api.ask("GET /v1/destinations/openai", &[], "").await;
    assert_eq!((again.etag(), &again.body["steering"]), ("\"2\"", &paused.body["steering"]));
    let change = r#"{"match": "https://api.openai.com", "max_concurrency": 4}"#;
    let changed = api.ask("PUT /v1/destinations/openai", &[], change).await;
    assert_eq!(changed.body["steering"]["brake"]["state"], "paused", "a new configuration lets nothing go");
    let resumed = api.ask("DELETE /v1/destinations/openai/brake", &[], "").await;
    assert_eq!((resumed.status, &resumed.body["steering"]), (StatusCode::OK, &Value::Null));
    // Once more: the pauses of its upstream.
    assert_eq!(api.ask("DELETE /v1/destinations/openai/brake", &[], "").await.status, StatusCode::OK);
    assert_eq!(*api.modules.1.lock().unwrap(), ["openai", "openai"]);
    let flushed = api.ask("POST /v1/destinations/openai/flush", &[], "").await;
    assert_eq!(flushed.body, json!({"name": "openai", "flushed": 3}));
    let actions: Vec<_> =
        audit(&api).await.into_iter().map(|(action, target, _)| format!("{action} {target}")).collect();
    let of = |action: &str| format!("{action} destinations/openai");
    assert_eq!(actions, ["flush", "resume", "resume", "put", "pause", "put"].map(of));
    assert_eq!(audit(&api).await[4].2, "for 10m; they asked us to");
}

#[tokio::test]
async fn limits_for_a_time_are_checked_and_end() {
    let api = destination().await;
    let limits = json!({"limits": [{"unit": "requests", "quota": 5, "per": "1s"}], "for": "50ms"}).to_string();
    let limited = api.ask("PUT /v1/destinations/openai/override", &[], limits).await;
    assert_eq!(limited.body["steering"]["override"]["limits"][0]["quota"], 5, "{}", limited.body);
    loop {
        let shown = api.ask("GET /v1/destinations/openai", &[], "").await;
        if shown.body["steering"].is_null() {
            break;
        }
        tokio::task::yield_now().await;
    }
    for (body, says) in [
        (r#"{"limits": []}"#, "`for`"),
        (r#"{"for": "1m"}"#, "`limits` or `max_concurrency`"),
        (r#"{"for": "0s", "max_concurrency": 1}"#, "for: 0s"),
        (r#"{"for": "10000h", "max_concurrency": 1}"#, "for: "),
        (r#"{"for": "1m", "max_concurrency": 0}"#, "max_concurrency"),
        (r#"{"for": "1m", "quota": 0}"#, "quota"),
    ] {
        let refused = api.ask("PUT /v1/destinations/openai/override", &[], body).await;
        assert!(refused.status.is_client_error(), "{body}");
        assert!(refused.body["detail"].as_str().unwrap().contains(says), "{body}: {}", refused.body);
    }
    let refused = api.ask("PUT /v1/destinations/openai/brake", &[], r#"{"state": "stopped"}"#).await;
    assert!(refused.body["detail"].as_str().unwrap().contains("paused or draining"), "{}", refused.body);
    for request in
        ["PUT /v1/destinations/no/brake", "POST /v1/destinations/no/flush", "DELETE /v1/destinations/no/override"]
    {
        assert_eq!(api.ask(request, &[], "{}").await.status, StatusCode::NOT_FOUND, "{request}");
    }
    assert_eq!(audit(&api).await.len(), 2, "what was refused changed nothing");
}

#[tokio::test]
async fn everything_that_changes_something_is_in_the_audit_trail_without_what_is_secret() {
    let api = destination().await;
    api.deploy("f", "one").await;
    api.ask("PUT /v1/functions/f/config", &[], r#"{"env": {"A": "hidden-value"}}"#).await;
    api.ask("PUT /v1/secrets/KEY", &[], r#"{"value": "hidden-value", "destinations": ["openai"]}"#).await;
    api.ask("DELETE /v1/secrets/KEY", &[], "").await;
    let made = api.ask("POST /v1/tokens", &[], r#"{"label": "ci", "scopes": ["deploy"], "weight": 4}"#).await;
    assert_eq!(made.body["weight"], 4);
    let none = api.ask("POST /v1/tokens", &[], r#"{"scopes": ["deploy"], "weight": 0}"#).await;
    assert!(none.body["detail"].as_str().unwrap().starts_with("weight: "), "{}", none.body);
    let id = made.body["id"].as_str().unwrap().to_owned();
    api.ask(&format!("DELETE /v1/tokens/{id}"), &[], "").await;
    api.ask("DELETE /v1/functions/f", &[], "").await;
    api.ask("DELETE /v1/destinations/openai", &[], "").await;
    let told = audit(&api).await;
    let actions: Vec<_> = told.iter().rev().map(|(action, target, _)| format!("{action} {target}")).collect();
    let token = |action: &str| format!("{action} tokens/{id}");
    let expected = [
        "put destinations/openai",
        "deploy functions/f",
        "configure functions/f",
        "put secrets/KEY",
        "delete secrets/KEY",
        &token("create"),
        &token("revoke"),
        "delete functions/f",
        "delete destinations/openai",
    ];
    assert_eq!(actions, expected);
    assert!(!format!("{told:?}").contains("hidden-value"));
    let page = api.ask("GET /v1/audit?limit=2", &[], "").await;
    let before = page.body["next"].as_u64().unwrap();
    let next = api.ask(&format!("GET /v1/audit?limit=2&before={before}"), &[], "").await;
    assert_eq!(next.body["audit"][0]["action"], "revoke");
}
