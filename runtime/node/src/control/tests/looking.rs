//! What people can see: logs, bounds, the node.

use axum::body::Body;
use http::StatusCode;
use serde_json::json;

use super::*;

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

#[tokio::test]
async fn what_is_known_of_apis_is_told_with_its_date_and_sources() {
    let api = api();
    let answer = api.ask("GET /v1/profiles", &[], Body::empty()).await;
    let profiles = answer.body["profiles"].as_array().unwrap();
    let openai = profiles.iter().find(|profile| profile["name"] == "openai").unwrap();
    assert_eq!((&openai["deadline"], &openai["hosts"][0]), (&json!("10m"), &json!("api.openai.com")));
    assert!(openai["checked"].as_str().unwrap().starts_with("20") && !openai["sources"].as_array().unwrap().is_empty());
}
