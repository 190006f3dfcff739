//! Deploying: what is taken, what is refused and how it is said, versions and how they switch.

use http::Method;
use serde_json::json;
use tidegate_tests::{Gate, guest};

#[tokio::test]
async fn a_bad_upload_says_what_is_wrong_with_it() {
    let gate = Gate::serve().flags("--max-module 4MiB").start().await;
    let answer = gate.deploy_bytes("x", "this is no wasm").await;
    assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (422, "not-wasm"), "{}", answer.text());

    // A core module without a component type.
    let answer = gate.deploy_bytes("x", &b"\0asm\x01\0\0\0"[..]).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("component"), "{}", answer.text());

    // An empty component: no handler.
    let answer = gate.deploy_bytes("x", &b"\0asm\x0d\0\x01\0"[..]).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("wasi:http/incoming-handler"), "{}", answer.text());

    let answer = gate.deploy_bytes("x", vec![0; 5 << 20]).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert_eq!(answer.json()["setting"], "max_module", "{}", answer.text());

    let module = std::fs::read(guest("hello-rust")).unwrap();
    let answer = gate.deploy_bytes("Not%20a%20name", module).await;
    assert_eq!(answer.status, 400, "{}", answer.text());

    let answer = gate.control_get("/v1/functions").await;
    assert_eq!(answer.json()["functions"], json!([]), "nothing was kept: {}", answer.text());
}

#[tokio::test]
async fn versions_switch_roll_back_and_survive_a_restart() {
    let data = tempfile::tempdir().unwrap();
    {
        let gate = Gate::serve().data(data.path()).start().await;
        gate.deploy("misbehave", json!({"env": {"COLOUR": "red"}})).await;
        assert!(gate.get("/f/misbehave/env").await.text().contains("COLOUR=red\n"));
        let answer = gate.configure("misbehave", json!({"env": {"COLOUR": "blue"}})).await;
        let version = answer.json()["version"].as_u64().unwrap();
        assert!(gate.get("/f/misbehave/env").await.text().contains("COLOUR=blue\n"));
        let old = gate.get(&format!("/f/misbehave@{}/env", version - 1)).await;
        assert!(old.text().contains("COLOUR=red\n"), "an older version answers at its own URL");
        let answer = gate.control(Method::POST, "/v1/functions/misbehave/rollback", "application/json", "").await;
        assert!(answer.status.is_success(), "{}", answer.text());
        assert!(gate.get("/f/misbehave/env").await.text().contains("COLOUR=red\n"));
        assert_eq!(gate.get("/f/misbehave@99/env").await.status, 404);
        assert_eq!(gate.get("/f/nobody/").await.status, 404);
    }
    let gate = Gate::serve().data(data.path()).start().await;
    assert!(gate.get("/f/misbehave/env").await.text().contains("COLOUR=red\n"), "the switch survived");
    let answer = gate.control(Method::DELETE, "/v1/functions/misbehave", "application/json", "").await;
    assert!(answer.status.is_success(), "{}", answer.text());
    assert_eq!(gate.get("/f/misbehave/env").await.status, 404);
}

#[tokio::test]
async fn a_configuration_that_the_module_can_not_run_with_is_refused_and_the_old_one_serves_on() {
    let gate = Gate::serve().start().await;
    gate.deploy("misbehave", json!({"env": {"COLOUR": "red"}})).await;
    let answer = gate.configure("misbehave", json!({"env": {"COLOUR": "blue"}, "limits": {"memory": "64KiB"}})).await;
    assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (422, "needs-more"), "{}", answer.text());
    assert!(answer.text().contains("limits.memory") && answer.text().contains("nothing was changed"));
    assert!(gate.get("/f/misbehave/env").await.text().contains("COLOUR=red\n"));
    let answer = gate.control_get("/v1/functions/misbehave").await;
    assert_eq!(answer.json()["version"], 2, "{}", answer.text());
    let answer = gate.configure("misbehave", json!({"env": {"COLOUR": "green"}})).await;
    assert_eq!(answer.json()["version"], 3, "{}", answer.text());
    assert!(gate.get("/f/misbehave/env").await.text().contains("COLOUR=green\n"));
}

#[tokio::test]
async fn a_function_made_again_goes_on_where_its_numbers_ended() {
    let gate = Gate::serve().start().await;
    gate.deploy("hello-rust", json!({})).await;
    let answer = gate.control(Method::DELETE, "/v1/functions/hello-rust", "application/json", "").await;
    assert!(answer.status.is_success(), "{}", answer.text());
    gate.deploy("hello-rust", json!({"auth": "public"})).await;
    let answer = gate.control_get("/v1/functions/hello-rust").await;
    assert_eq!(answer.json()["version"], 4, "{}", answer.text());
    assert_eq!(gate.get("/f/hello-rust@1/").await.status, 404);
}

#[tokio::test]
async fn a_deployer_that_saw_an_older_state_is_told_so() {
    let gate = Gate::serve().start().await;
    gate.deploy("hello-rust", json!({})).await;
    let seen = gate.control_get("/v1/functions/hello-rust").await.header("etag").to_owned();
    assert!(!seen.is_empty());
    assert!(gate.configure("hello-rust", json!({"auth": "public"})).await.status.is_success());
    let request = http::Request::put(format!("http://{}/v1/functions/hello-rust/config", gate.control_address))
        .header("authorization", format!("Bearer {}", tidegate_tests::TOKEN))
        .header("content-type", "application/json")
        .header("if-match", seen)
        .body(http_body_util::Full::new("{}".into()))
        .unwrap();
    let answer = gate.client.send(request).await;
    assert_eq!(answer.status, 412, "{}", answer.text());
}

#[tokio::test]
async fn a_wrong_configuration_names_the_key() {
    let gate = Gate::serve().start().await;
    gate.deploy("hello-rust", json!({})).await;
    for (config, says) in [
        (json!({"enviroment": {}}), "enviroment"),
        (json!({"limits": {"memory": "lots"}}), "memory"),
        (json!({"limits": {"memory": "900GiB"}}), "max_guest_memory"),
        (json!({"limits": {"speed": 1}}), "speed"),
        (json!({"auth": "nobody"}), "auth"),
        (json!({"policy": {"deadlin": "1s"}}), "deadlin"),
        (json!({"secrets": ["NOT_THERE"]}), "NOT_THERE"),
        (json!({"allowed_hosts": ["not a host"]}), "allowed_hosts"),
    ] {
        let answer = gate.configure("hello-rust", config.clone()).await;
        assert_eq!(answer.status.as_u16() / 100, 4, "{config}: {}", answer.text());
        assert!(answer.text().contains(says), "{config}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
}

#[tokio::test]
async fn a_redeploy_under_load_drops_no_request() {
    let gate = Gate::serve().start().await;
    gate.deploy("misbehave", json!({"env": {"N": "0"}, "auth": "public"})).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (client, stop, url) = (tidegate_tests::Client::default(), stop.clone(), gate.url("/f/misbehave/env"));
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let request = http::Request::get(&url).body(Default::default()).unwrap();
                    let answer = client.send(request).await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    count += 1;
                }
                count
            })
        })
        .collect();
    for n in 1..=20 {
        let answer = gate.configure("misbehave", json!({"env": {"N": n.to_string()}, "auth": "public"})).await;
        assert!(answer.status.is_success(), "{}", answer.text());
        let said = gate.get("/f/misbehave/env").await.text();
        assert!(said.contains(&format!("N={n}\n")), "an answered deploy serves at once: {said}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut total = 0;
    for client in clients {
        total += client.await.unwrap();
    }
    assert!(total > 100, "{total}");
}

#[tokio::test]
async fn tokens_open_what_their_scopes_say_and_nothing_else() {
    let gate = Gate::serve().start().await;
    gate.deploy("hello-rust", json!({})).await;
    gate.deploy_as("hello-rust", "other", json!({})).await;
    let body = json!({"label": "ci", "scopes": ["invoke:hello-rust"]}).to_string();
    let answer = gate.control(Method::POST, "/v1/tokens", "application/json", body).await;
    assert!(answer.status.is_success(), "{}", answer.text());
    let made = answer.json();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let with = async |token: &str, url: String| {
        let request = http::Request::get(url)
            .header("authorization", format!("Bearer {token}"))
            .body(Default::default())
            .unwrap();
        gate.client.send(request).await
    };
    assert_eq!(with(token, gate.url("/f/hello-rust/")).await.status, 200);
    assert_eq!(with(token, gate.url("/f/other/")).await.status, 403);
    assert_eq!(with(token, format!("http://{}/v1/functions", gate.control_address)).await.status, 403);
    assert_eq!(with("tg_wrong", gate.url("/f/hello-rust/")).await.status, 401);
    let bare = http::Request::get(gate.url("/f/hello-rust/")).body(Default::default()).unwrap();
    let answer = gate.client.send(bare).await;
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").starts_with("Bearer"), "{:?}", answer.headers);

    let listed = gate.control_get("/v1/tokens").await;
    assert!(!listed.text().contains(token), "a token is shown once");
    let answer = gate.control(Method::DELETE, &format!("/v1/tokens/{id}"), "application/json", "").await;
    assert!(answer.status.is_success(), "{}", answer.text());
    assert_eq!(with(token, gate.url("/f/hello-rust/")).await.status, 401);
}
