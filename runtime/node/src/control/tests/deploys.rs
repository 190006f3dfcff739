//! Versions: made, configured, refused, gone back to.

use axum::body::Body;
use http::StatusCode;
use serde_json::json;

use super::*;

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

/// A body that never ends, and of which this came.
fn unfinished(begin: &'static str) -> Body {
    let begin = futures::stream::once(std::future::ready(Ok::<_, std::convert::Infallible>(begin)));
    Body::from_stream(futures::StreamExt::chain(begin, futures::stream::pending()))
}

#[tokio::test]
async fn a_body_that_does_not_come_whole_is_not_waited_for() {
    let api = api_with(&["--upload-idle", "50ms"]);
    for request in ["PUT /v1/destinations/x", "PUT /v1/functions/f/config", "POST /v1/tokens", "PUT /v1/functions/f"] {
        let answer = api.ask(request, &["content-type: application/wasm"], unfinished("{")).await;
        assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT, "{request}");
        assert!(answer.detail().contains("upload_idle"), "{request}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_deploy_waits_for_its_turn_within_a_bound_and_its_upload_has_one_too() {
    let api = api_with(&["--deploy-wait", "50ms"]);
    let upload = || api.ask("PUT /v1/functions/f", &["content-type: application/wasm"], unfinished("module"));
    let turned_away = async { api.deploy("g", "one").await };
    // Both places are taken by uploads that do not end.
    let answer = tokio::select! {
        biased;
        _ = upload() => panic!("it never ends"),
        _ = upload() => panic!("it never ends"),
        answer = turned_away => answer,
    };
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
    assert!(answer.detail().contains("deploy_wait") && answer.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(api.deploy("g", "one").await.status, StatusCode::CREATED, "their clients have left");

    let api = api_with(&["--upload-timeout", "50ms"]);
    let answer = api.ask("PUT /v1/functions/f", &["content-type: application/wasm"], unfinished("module")).await;
    assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT);
    assert!(answer.detail().contains("upload_timeout"), "{}", answer.body);
}
