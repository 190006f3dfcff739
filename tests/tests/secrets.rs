//! Secrets from one end to the other: a guest works with them, and nobody gets at one.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;
use tidegate_tests::{Answer, Gate, TOKEN, Upstream, eventually, program, text};

const VALUE: &str = "sk-live-0123456789abcdef";

/// An upstream that repeats in its headers what it was sent, and leads who asks for `/away?to=URL` there.
async fn upstream() -> Upstream {
    Upstream::scripted(|request| async move {
        let mut answer = text(200, "fine");
        if let Some(key) = request.headers().get("authorization") {
            answer.headers_mut().insert("x-echo", key.clone());
        }
        if let Some(to) = request.uri().query().and_then(|query| query.strip_prefix("to=")) {
            *answer.status_mut() = http::StatusCode::FOUND;
            answer.headers_mut().insert("location", to.parse().unwrap());
        }
        answer
    })
    .await
}

/// A gate with the destination `own`, the secret KEY that goes there, and the function `agent` that has it.
async fn with_agent(gate: &Gate, own: &Upstream) {
    gate.destination("own", json!({"match": own.url("")})).await;
    gate.secret("KEY", json!({"value": VALUE, "functions": ["agent"], "destinations": ["own"]})).await;
    gate.deploy_bytes_with("agent", json!({"secrets": ["KEY"], "allowed_hosts": ["127.0.0.1:*"], "auth": "public"}))
        .await;
}

trait Deploys {
    async fn deploy_bytes_with(&self, name: &str, config: serde_json::Value);
    async fn fetch(&self, function: &str, url: &str, header: &str) -> Answer;
    async fn handle(&self, function: &str) -> String;
}

impl Deploys for Gate {
    /// A guest whose first configuration already names what it needs.
    async fn deploy_bytes_with(&self, name: &str, config: serde_json::Value) {
        self.deploy_as("misbehave", name, config).await;
    }

    async fn fetch(&self, function: &str, url: &str, header: &str) -> Answer {
        self.get(&format!("/f/{function}/fetch?url={url}&header={}", header.replace(' ', "+"))).await
    }

    /// What the guest has in its environment.
    async fn handle(&self, function: &str) -> String {
        let env = self.get(&format!("/f/{function}/env")).await.text();
        assert!(!env.contains(VALUE), "{env}");
        env.lines().find_map(|line| line.strip_prefix("KEY=")).unwrap().to_owned()
    }
}

/// All files below a directory that hold this text.
fn files_with(directory: &Path, wanted: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, wanted));
        } else if std::fs::read(&path).unwrap().windows(wanted.len()).any(|window| window == wanted.as_bytes()) {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn a_guest_works_with_a_secret_that_nothing_ever_shows() {
    let (own, other, directory) = (upstream().await, upstream().await, tempfile::tempdir().unwrap());
    let (data, log) = (directory.path().join("data"), directory.path().join("log"));
    let gate = Gate::serve().data(&data).log_into(&log).start().await;
    with_agent(&gate, &own).await;
    let handle = gate.handle("agent").await;
    assert!(handle.starts_with("tgs_"), "{handle}");

    let mut said = Vec::new();
    for (header, name, expected) in [
        ("authorization:Bearer $KEY", "authorization", format!("Bearer {VALUE}")),
        ("x-api-key:$KEY", "x-api-key", VALUE.to_owned()),
        // `sk-live-0123456789abcdef:`, as payment services want it.
        ("authorization:Basic $basic($KEY:)", "authorization", "Basic c2stbGl2ZS0wMTIzNDU2Nzg5YWJjZGVmOg==".into()),
    ] {
        let answer = gate.fetch("agent", &own.url("/v1"), header).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-upstream-status")), (200, "200"), "{}", answer.text());
        assert_eq!(own.seen().last().unwrap().headers[name], expected.as_str());
        said.push(format!("{:?} {}", answer.headers, answer.text()));
    }
    // Another host, there by itself or led there by a redirect.
    let away =
        gate.fetch("agent", &own.url(&format!("/away?to={}", other.url("/steal"))), "authorization:Bearer $KEY").await;
    let location = away.header("x-upstream-location").to_owned();
    assert_eq!(location, other.url("/steal"));
    let theft = gate.fetch("agent", &location, "authorization:Bearer $KEY").await;
    assert_eq!(theft.header("x-upstream-status"), "403", "{}", theft.text());
    for says in ["secret-unbound", "KEY", "destinations put NAME --match", "nothing was sent"] {
        assert!(theft.text().contains(says), "{}", theft.text());
    }
    // In a header that comes back, and in the URL.
    for (url, header) in [(own.url("/"), "x-request-id:$KEY"), (own.url("/$KEY"), "x:y"), (own.url("/?q=$KEY"), "x:y")]
    {
        let refused = gate.fetch("agent", &url, header).await;
        assert!(refused.text().contains("secret-place"), "{}", refused.text());
        said.push(refused.text());
    }
    assert!(other.seen().is_empty());
    said.extend([theft.text(), format!("{:?}", away.headers)]);

    // Whatever people can look at, and whatever is on the disk.
    for path in [
        "/v1/secrets",
        "/v1/secrets/KEY",
        "/v1/destinations",
        "/v1/functions/agent/logs",
        "/v1/functions/agent/versions",
        "/v1/trails",
        "/v1/limits",
    ] {
        let answer = gate.control_get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        said.push(answer.text());
    }
    let trails = gate.control_get("/v1/trails").await.json();
    for trail in trails["trails"].as_array().unwrap() {
        said.push(gate.control_get(&format!("/v1/trails/{}", trail["id"].as_str().unwrap())).await.text());
    }
    let metrics = Request::get(format!("http://{}/metrics", gate.metrics_address)).body(Full::default()).unwrap();
    said.push(gate.client.send(metrics).await.text());
    let said = said.join("\n");
    assert!(said.contains("secret KEY put into authorization"), "{said}");
    assert!(!said.contains(VALUE) && !said.contains("c2stbGl2"), "{said}");
    eventually("the log tells of the secret", async || {
        !files_with(directory.path(), "a secret was changed").is_empty()
    })
    .await;
    assert_eq!(files_with(directory.path(), VALUE), Vec::<std::path::PathBuf>::new());

    // A version keeps its handles over a restart; another one has others.
    drop(gate);
    let gate = Gate::serve().data(&data).start().await;
    assert_eq!(gate.handle("agent").await, handle);
    let answer = gate.fetch("agent", &own.url("/"), "authorization:Bearer $KEY").await;
    assert_eq!(
        own.seen().last().unwrap().headers["authorization"],
        format!("Bearer {VALUE}").as_str(),
        "{}",
        answer.text()
    );
    let config = json!({"secrets": ["KEY"], "allowed_hosts": ["127.0.0.1:*"], "auth": "public", "env": {"NEW": "1"}});
    assert_eq!(gate.configure("agent", config).await.status, 200);
    assert_ne!(gate.handle("agent").await, handle);
    gate.control(Method::POST, "/v1/functions/agent/rollback", "application/json", "").await;
    assert_eq!(gate.handle("agent").await, handle, "a version that serves again has its own again");
}

#[tokio::test]
async fn a_handle_is_of_no_use_to_anybody_else() {
    let own = upstream().await;
    let gate = Gate::serve().start().await;
    with_agent(&gate, &own).await;
    gate.deploy_as("misbehave", "thief", json!({"allowed_hosts": ["127.0.0.1:*"]})).await;
    let handle = gate.handle("agent").await;
    // Another function that got hold of it sends a text that means nothing.
    gate.fetch("thief", &own.url("/"), &format!("authorization:Bearer {handle}")).await;
    assert_eq!(own.seen().last().unwrap().headers["authorization"], format!("Bearer {handle}").as_str());
    let refused = gate.configure("thief", json!({"secrets": ["KEY"]})).await;
    assert_eq!(
        (refused.status.as_u16(), refused.problem().as_str()),
        (422, "invalid-configuration"),
        "{}",
        refused.text()
    );
    // A client of the function that has it does not get it used.
    let before = own.seen().len();
    let escaped = handle.replace('_', "%5F");
    for path in [format!("/?{handle}"), format!("/fetch?url={}&header=authorization:{escaped}", own.url("/"))] {
        let refused = gate.get(&format!("/f/agent{path}")).await;
        assert_eq!((refused.status.as_u16(), refused.problem().as_str()), (400, "secret-handle"), "{path}");
    }
    let mut request = gate.request(Method::GET, "/f/agent/headers", "");
    request.headers_mut().insert("authorization", format!("Bearer {handle}").parse().unwrap());
    assert_eq!(gate.client.send(request).await.problem(), "secret-handle");
    // Through /to it is a text, too.
    let to = |header: &str, value: String| {
        let request = Request::get(gate.url(&format!("/to/{}", own.url("/")))).header("tidegate-token", TOKEN);
        gate.client.send(request.header(header, value).body(Full::default()).unwrap())
    };
    assert_eq!(own.seen().len(), before);
    to("authorization", format!("Bearer {handle}")).await;
    assert!(own.seen().iter().all(|seen| !format!("{:?}", seen.headers).contains(VALUE)));
    // And what was bound once is refused at once when it is not any more.
    let answer = gate.control(Method::DELETE, "/v1/secrets/KEY", "application/json", "").await;
    assert_eq!(answer.status, 204);
    let refused = gate.fetch("agent", &own.url("/"), "authorization:Bearer $KEY").await;
    assert!(
        refused.text().contains("secret-unbound") && refused.text().contains("secrets set KEY"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn a_program_sends_its_token_as_the_key_and_the_destination_puts_the_real_one_in_its_place() {
    let (own, other) = (upstream().await, upstream().await);
    let gate = Gate::serve().start().await;
    gate.destination("own", json!({"match": own.url(""), "secret": "KEY"})).await;
    gate.destination("other", json!({"match": other.url("")})).await;
    gate.secret("KEY", json!({"value": VALUE, "destinations": ["own"]})).await;
    let token = async |scope: &str| {
        let body = json!({"scopes": [scope]}).to_string();
        let made = gate.control(Method::POST, "/v1/tokens", "application/json", body).await.json();
        made["token"].as_str().unwrap().to_owned()
    };
    let (own_token, other_token) = (token("to:own").await, token("to:other").await);
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::get(gate.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        gate.client.send(request.body(Full::default()).unwrap()).await
    };
    let bearer = format!("Bearer {own_token}");
    let by_url = format!("/to/{}", own.url("/v1"));
    for (path, headers) in [
        ("/to/own/v1", &[("authorization", bearer.as_str())][..]),
        (by_url.as_str(), &[("authorization", bearer.as_str())]),
        ("/to/own/v1", &[("x-api-key", &own_token)]),
        ("/to/own/v1", &[("x-goog-api-key", &own_token)]),
        (
            "/to/own/v1",
            &[("tidegate-token", &own_token), ("authorization", "Bearer of-the-caller"), ("x-api-key", "too")],
        ),
    ] {
        let answer = ask(path, headers).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-echo")), (200, "Bearer [secret KEY]"), "{headers:?}");
        let seen = own.seen().pop().unwrap().headers;
        assert_eq!(seen["authorization"], format!("Bearer {VALUE}").as_str(), "{headers:?}");
        let all = format!("{seen:?}");
        assert!(
            !all.contains(&own_token) && !all.contains("of-the-caller") && !seen.contains_key("x-api-key"),
            "{all}"
        );
    }
    // Nobody else has it sent, and no other destination gets it.
    let before = own.seen().len();
    let other_bearer = format!("Bearer {other_token}");
    for (headers, status) in [
        (&[][..], 401),
        (&[("authorization", "Bearer tg_guessed")], 401),
        (&[("authorization", other_bearer.as_str())], 403),
    ] {
        for path in ["/to/own/v1", by_url.as_str(), "/to/own/../own/v1"] {
            assert_eq!(ask(path, headers).await.status, status, "{path} {headers:?}");
        }
    }
    assert_eq!(own.seen().len(), before);
    assert_eq!(ask("/to/other/", &[("authorization", &other_bearer)]).await.status, 200);
    assert!(!format!("{:?}", other.seen()).contains(VALUE));
    // A destination that is led elsewhere takes none along.
    let moved = json!({"match": "http://127.0.0.1:1", "secret": "KEY"}).to_string();
    let moved = gate.control(Method::PUT, "/v1/destinations/own", "application/json", moved).await;
    assert!(
        moved.json()["warnings"][0].as_str().unwrap().contains("secrets bind KEY --destination own"),
        "{}",
        moved.text()
    );
    assert_eq!(ask("/to/own/v1", &[("authorization", &bearer)]).await.problem(), "secret-unbound");
}

#[tokio::test]
async fn a_node_with_a_wrong_key_starts_and_says_which_secrets_it_can_not_open() {
    const ONE: &str = "one key, of more than 32 characters";
    const TWO: &str = "a second key: of more than 32 characters";
    let (own, directory) = (upstream().await, tempfile::tempdir().unwrap());
    let (data, log) = (directory.path().join("data"), directory.path().join("log"));
    let start =
        async |keys: &str| Gate::serve().data(&data).log_into(&log).variable("TIDEGATE_SECRET_KEY", keys).start().await;
    let opens =
        async |gate: &Gate| gate.fetch("agent", &own.url("/"), "authorization:Bearer $KEY").await.text() == "fine";
    // A comma separates keys.
    let (one, two) = (ONE.replace(',', ";"), TWO);
    let gate = start(&one).await;
    with_agent(&gate, &own).await;
    assert!(opens(&gate).await);
    drop(gate);
    assert_eq!(files_with(&data, VALUE), Vec::<std::path::PathBuf>::new());
    assert!(!data.join("secret-key").exists(), "the key is not beside what it seals");

    let gate = start(two).await;
    let refused = gate.fetch("agent", &own.url("/"), "authorization:Bearer $KEY").await;
    assert!(
        refused.text().contains("secret-sealed") && refused.text().contains("TIDEGATE_SECRET_KEY"),
        "{}",
        refused.text()
    );
    let warnings = gate.control_get("/v1/secrets/KEY").await.json()["warnings"].to_string();
    assert!(warnings.contains("`KEY` can't be opened"), "{warnings}");
    let rebound = gate.control(Method::PUT, "/v1/secrets/KEY", "application/json", "{}").await;
    assert_eq!((rebound.status.as_u16(), rebound.problem().as_str()), (503, "secret-sealed"), "{}", rebound.text());
    drop(gate);
    let logged = std::fs::read_to_string(&log).unwrap();
    let line =
        logged.lines().find(|line| line.contains("a secret can't be opened")).unwrap_or_else(|| panic!("{logged}"));
    assert!(line.contains("KEY") && line.contains("secret_key"), "{line}");

    // The new key in front of the old one seals anew, and the old one can go.
    for keys in [format!("{two},{one}"), two.to_owned()] {
        assert!(opens(&start(&keys).await).await, "{keys}");
    }
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(!logged.contains(VALUE) && !logged.contains(&one) && !logged.contains(two), "{logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_sets_secrets_from_stdin_or_a_variable_and_prints_none() {
    let own = upstream().await;
    let gate = Gate::serve().start().await;
    gate.destination("own", json!({"match": own.url("")})).await;
    let run = |arguments: &str, stdin: &str| {
        let mut child = Command::new(program())
            .args(["--json", "secrets"])
            .args(arguments.split_whitespace())
            .args(["--url", &format!("http://{}", gate.control_address), "--token", TOKEN])
            .env("OF_MINE", VALUE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who reads no value has closed it.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!said.contains(VALUE), "{said}");
        (output.status.code().unwrap(), said)
    };
    let run = async |arguments: &str, stdin: &str| tokio::task::block_in_place(|| run(arguments, stdin));
    let (code, said) = run("set KEY --function agent --destination own", &format!("{VALUE}\n")).await;
    assert!(code == 0 && said.contains(r#""destinations":["own"]"#), "{said}");
    let (code, said) = run("bind KEY --function second --in query:key", "").await;
    assert!(code == 0 && said.contains(r#""functions":["agent","second"]"#) && said.contains("query:key"), "{said}");
    let (code, said) = run("unbind KEY --function second", "").await;
    assert!(code == 0 && said.contains(r#""functions":["agent"]"#), "{said}");
    // A new value keeps what it serves.
    let (code, said) = run("set KEY --from-env OF_MINE", "").await;
    assert!(
        code == 0 && said.contains(r#""functions":["agent"]"#) && said.contains(r#""destinations":["own"]"#),
        "{said}"
    );
    gate.deploy_bytes_with("agent", json!({"secrets": ["KEY"], "allowed_hosts": ["127.0.0.1:*"]})).await;
    gate.fetch("agent", &own.url("/"), "authorization:Bearer $KEY").await;
    assert_eq!(own.seen().last().unwrap().headers["authorization"], format!("Bearer {VALUE}").as_str());
    for (arguments, code, says) in [
        ("set KEY --from-env NOT_SET", 2, "NOT_SET is not set"),
        ("set KEY", 2, "an empty text is no secret"),
        ("set KEY sk-as-an-argument", 2, "unexpected argument"),
        ("bind KEY", 2, "not said what to change"),
        ("bind NONE --function agent", 5, "no secret `NONE`"),
        ("bind KEY --destination none", 1, "no destination `none`"),
        ("bind KEY --in cookie", 2, "header:NAME"),
    ] {
        let (exit, said) = run(arguments, "").await;
        assert!(exit == code && said.contains(says), "{arguments}: {exit} {said}");
    }
    let (code, said) = run("ls", "").await;
    assert!(code == 0 && said.contains(r#""name":"KEY""#), "{said}");
    let (code, said) = run("rm KEY", "").await;
    assert!(code == 0 && said.contains(r#""removed":"KEY""#), "{said}");
}
