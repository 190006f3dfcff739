//! The program from outside: exit codes, streams, what it leaves on disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

/// The program in an environment and a directory of its own.
fn tidegate(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("TIDEGATE_") || text.starts_with("OPENAI_") || text.to_lowercase().ends_with("_proxy") {
            command.env_remove(&name);
        }
    }
    command.current_dir(home).env("HOME", home).env_remove("XDG_CONFIG_HOME").stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A server that answers every request, and remembers the requests' heads.
struct Fake {
    url: String,
    heads: std::sync::mpsc::Receiver<String>,
}

impl Fake {
    /// With this status and body.
    fn answering(status: &'static str, body: &'static str) -> Self {
        Self::by(status, move |_| body)
    }

    /// With this status and a body by the request's head.
    fn by(status: &'static str, body: impl Fn(&str) -> &'static str + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (heads, received) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let mut head = String::new();
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() {
                        break;
                    }
                    head.push_str(&line);
                    head.push('\n');
                }
                let body = body(&head);
                if heads.send(head).is_err() {
                    return;
                }
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                     connection: close\r\n\r\n{body}"
                );
            }
        });
        Self { url, heads: received }
    }
}

/// A child that is killed at the end of its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A fake upstream as a program, and its URL.
fn mock(home: &Path, flags: &[&str]) -> (Running, String) {
    let mut command = tidegate(home);
    command.args(["mock-llm", "--listen", "127.0.0.1:0"]).args(flags).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("mock-llm listening on ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
    (Running(child), url)
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn wrong_usage_is_2_and_offers_what_was_meant() {
    let home = home();
    let (code, out, err) = output(tidegate(home.path()).arg("mok-llm"));
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("'mock-llm'"), "{err}");
    let (code, _, err) = output(tidegate(home.path()).args(["deploy"]));
    assert_eq!(code, 2);
    assert!(err.contains("which module to deploy") && err.contains("next"), "{err}");
    let (code, _, err) = output(tidegate(home.path()).args(["tokens", "create", "--scope", "everything"]));
    assert_eq!(code, 2);
    assert!(err.contains("invoke:NAME"), "{err}");
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let (code, out, _) = output(tidegate(home().path()).arg("--help"));
    assert_eq!(code, 0);
    for name in ["deploy", "invoke", "functions", "logs", "destinations", "mock-llm", "login"] {
        assert!(out.contains(&format!("\n  {name} ")), "{name}: {out}");
    }
    assert!(out.contains("3 no connection") && !out.contains("compile-worker"), "{out}");
}

#[test]
fn nobody_at_the_other_end_is_3() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let (code, out, err) = output(tidegate(home().path()).args(["functions", "--url", &url]));
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains(&url) && err.contains("tidegate dev"), "{err}");
    let (code, _, err) = output(tidegate(home().path()).args(["functions", "--json", "--url", &url]));
    let error: Value = serde_json::from_str(&err).unwrap();
    assert_eq!((code, error["error"]["exit"].as_i64()), (3, Some(3)));
}

#[test]
fn a_refusal_for_want_of_a_token_is_4_and_a_missing_thing_5() {
    let home = home();
    let problem = r#"{"type":"/problems/unauthorized","title":"A valid token is needed","status":401,"detail":"none"}"#;
    let server = Fake::answering("401 Unauthorized", problem);
    let (code, _, err) = output(tidegate(home.path()).args(["functions", "--url", &server.url]));
    assert_eq!(code, 4);
    assert!(err.contains("A valid token is needed: none") && err.contains("tidegate login"), "{err}");
    let server =
        Fake::answering("404 Not Found", r#"{"title":"There is no such function","status":404,"detail":"`x`"}"#);
    let (code, ..) = output(tidegate(home.path()).args(["functions", "rm", "x", "--url", &server.url]));
    assert_eq!(code, 5);
    let server =
        Fake::answering("422 Unprocessable Content", r#"{"title":"Not wasm","status":422,"detail":"no magic"}"#);
    let (code, ..) = output(tidegate(home.path()).args(["functions", "rollback", "x", "--url", &server.url]));
    assert_eq!(code, 1);
}

#[test]
fn ctrl_c_is_130() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let home = home();
    let mut child = Running(tidegate(home.path()).args(["functions", "--url", &url]).spawn().unwrap());
    // Connected: the program waits for an answer that never comes.
    let _connection = silent.accept().unwrap();
    interrupt(&child.0);
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
}

#[test]
fn login_saves_a_private_profile_that_later_commands_use() {
    let home = home();
    let server = Fake::answering("200 OK", r#"{"functions": []}"#);
    let (code, _, err) =
        output(tidegate(home.path()).args(["login", &server.url, "--token", "tg_secret", "--profile", "work"]));
    assert_eq!(code, 0, "{err}");
    assert!(server.heads.recv().unwrap().contains("authorization: Bearer tg_secret"));
    let file = home.path().join(".config/tidegate/profiles.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let (code, _, err) = output(tidegate(home.path()).args(["functions", "-v"]));
    assert_eq!(code, 0);
    assert!(err.contains("profile `work`") && !err.contains("tg_secret"), "{err}");
    assert!(server.heads.recv().unwrap().contains("authorization: Bearer tg_secret"));
    let (code, _, err) = output(tidegate(home.path()).args(["functions", "--profile", "wrok"]));
    assert_eq!(code, 2);
    assert!(err.contains("saved: work"), "{err}");
}

#[test]
fn a_token_that_the_server_does_not_know_is_not_saved() {
    let home = home();
    let server = Fake::answering("401 Unauthorized", r#"{"title":"A valid token is needed","status":401}"#);
    let (code, ..) = output(tidegate(home.path()).args(["login", &server.url, "--token", "wrong"]));
    assert_eq!(code, 4);
    assert!(!home.path().join(".config/tidegate/profiles.toml").exists());
}

#[test]
fn the_config_directory_follows_xdg() {
    let (home, config) = (home(), home());
    let server = Fake::answering("200 OK", "{}");
    let mut command = tidegate(home.path());
    command.args(["login", &server.url, "--token", "t"]).env("XDG_CONFIG_HOME", config.path());
    assert_eq!(output(&mut command).0, 0);
    assert!(config.path().join("tidegate/profiles.toml").is_file());
}

#[test]
fn deploy_sends_module_and_manifest_in_one_form() {
    let home = home();
    std::fs::write(home.path().join("tidegate.toml"), "name = \"agent\"\nmodule = \"a.wasm\"\n[env]\nA = \"1\"\n")
        .unwrap();
    std::fs::write(home.path().join("a.wasm"), b"\0asm....").unwrap();
    let answer = r#"{"name":"agent","version":3,"activated":true,"urls":["http://x/f/agent/"],"warnings":["careful"],
        "timings":{"upload_ms":1,"compile_ms":1200}}"#;
    let server = Fake::answering("201 Created", answer);
    let (code, out, err) =
        output(tidegate(home.path()).args(["deploy", "-m", "new & shiny", "--no-activate", "--url", &server.url]));
    assert_eq!(code, 0, "{err}");
    let head = server.heads.recv().unwrap();
    assert!(head.starts_with("PUT /v1/functions/agent?activate=false&message=new%20%26%20shiny HTTP/1.1"), "{head}");
    assert!(head.contains("multipart/form-data; boundary="), "{head}");
    assert!(out.contains("agent: version 3 serves now") && out.contains("compilation 1.2 s"), "{out}");
    assert!(err.contains("uploading") && err.contains("careful"), "{err}");
    let (code, out, _) = output(tidegate(home.path()).args(["deploy", "--json", "--url", &server.url]));
    let made: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, made["version"].as_u64()), (0, Some(3)));
    let (code, _, err) = output(tidegate(home.path()).args(["deploy", "tidegate.toml", "--url", &server.url]));
    assert_eq!(code, 2);
    assert!(err.contains("is no WASM"), "{err}");
}

#[test]
fn all_pages_of_destinations_are_listed() {
    let home = home();
    let server = Fake::by("200 OK", |head| match head.contains("after=") {
        false => {
            r#"{"destinations": [{"name": "a"}], "live": [{"destination": "a"}, {"destination": "b c"}], "next": "b c"}"#
        }
        true => r#"{"destinations": [{"name": "a"}], "live": [{"destination": "d"}], "next": null}"#,
    });
    let (code, out, err) = output(tidegate(home.path()).args(["destinations", "ls", "--json", "--url", &server.url]));
    assert_eq!(code, 0, "{err}");
    let all: Value = serde_json::from_str(&out).unwrap();
    let names = |list: &str, key: &str| {
        let list = all[list].as_array().unwrap().iter();
        list.map(|one| one[key].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("destinations", "name"), ["a"]);
    assert_eq!(names("live", "destination"), ["a", "b c", "d"]);
    let paths: Vec<_> = server.heads.try_iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(paths, ["/v1/destinations?limit=1000", "/v1/destinations?limit=1000&after=b%20c"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_does_not_outlive_a_tidegate_that_is_killed() {
    let home = home();
    let mut command = tidegate(home.path());
    command.args(["run", "--", "sh", "-c", "echo $$; exec sleep 1000"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut run = Running(command.spawn().unwrap());
    let mut pid = String::new();
    BufReader::new(run.0.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    assert!(Path::new(&stat).exists(), "{pid:?}");
    // SIGKILL, which nothing can be done about.
    run.0.kill().unwrap();
    run.0.wait().unwrap();
    let ended = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    let began = std::time::Instant::now();
    while !ended() {
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "it lives on");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn the_fake_upstream_ends_cleanly_and_says_what_it_saw() {
    let home = home();
    let (mut mock, _) = mock(home.path(), &["--limit", "10/s"]);
    interrupt(&mock.0);
    assert_eq!(mock.0.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    mock.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.starts_with("0 requests: 0 passed"), "{said}");
    let (code, _, err) = output(tidegate(home.path()).args(["mock-llm", "--burst", "3"]));
    assert_eq!(code, 2);
    assert!(err.contains("--burst needs --limit"), "{err}");
}

/// `serve` with these variables, and its first line.
fn serve(home: &Path, variables: &[(&str, &str)], flags: &[&str]) -> (Running, String) {
    let mut command = tidegate(home);
    command.args(["serve", "--control-listen", "127.0.0.1:0"]).args(flags).envs(variables.iter().copied());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Running(child), line)
}

#[test]
fn an_empty_variable_is_none_and_a_switch_may_be_1() {
    for value in ["1", "0", "true", "false", "yes", "no"] {
        let home = home();
        let variables = [
            ("TIDEGATE_METRICS_LISTEN", ""),
            ("TIDEGATE_MAX_CONNECTIONS", ""),
            ("TIDEGATE_CONFIG", ""),
            ("TIDEGATE_ADMIN_TOKEN", ""),
            ("TIDEGATE_ALLOW_ANY_HOST", value),
        ];
        let (_node, line) = serve(home.path(), &variables, &["--listen", "localhost:0"]);
        assert!(line.starts_with("tidegate listening on http://"), "{value}: {line:?}");
    }
}

#[test]
fn the_limits_say_where_each_value_comes_from() {
    let home = home();
    std::fs::write(home.path().join("node.toml"), "guest_cpu = \"5s\"\nqueue_calls = 7\nguest_calls = 9\n").unwrap();
    let token = "tg_a-token-for-the-tests-of-limits";
    let variables = [
        ("TIDEGATE_CONFIG", "node.toml"),
        ("TIDEGATE_ADMIN_TOKEN", token),
        ("TIDEGATE_QUEUE_CALLS", "8"),
        ("TIDEGATE_ATTEMPTS", "3"),
        ("TIDEGATE_REPLAY_BODY", ""),
    ];
    let (_node, line) = serve(home.path(), &variables, &["--listen", "127.0.0.1:0", "--attempts", "4"]);
    let control = line.trim().rsplit(' ').next().unwrap().trim_start_matches("http://").to_owned();
    let mut stream = std::net::TcpStream::connect(control).unwrap();
    write!(stream, "GET /v1/limits HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let limits: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let of = |key: &str| {
        let limits = limits["limits"].as_array().unwrap();
        limits.iter().find(|limit| limit["setting"] == key).unwrap()["source"].as_str().unwrap().to_owned()
    };
    for (key, source) in [
        ("attempts", "flag"),
        ("queue_calls", "variable"),
        ("guest_calls", "file"),
        ("guest_cpu", "file"),
        ("replay_body", "default"),
        ("max_pause", "default"),
    ] {
        assert_eq!(of(key), source, "{key}");
    }
}

const TRAIL: &str = r#"{"id":"000000000000000000000000000000ab","began_ms":1,"lasted_ms":3200.0,"head_ms":3200.0,"call":true,
    "status":200,"tags":["thread-42"],"dropped":0,"verdict":"3.2 s in all: 2.9 s waiting for 10/s at openai","notes":[
    {"at_ms":0.0,"text":"call 1: GET https://api.test/","kind":"call","call":1},
    {"at_ms":0.0,"text":"call 1: queued, for 10/s","kind":"queued","call":1},
    {"at_ms":2900.0,"from_ms":0.0,"text":"call 1: let go after 2.9s","kind":"waited","call":1}],
    "trails":[{"id":"000000000000000000000000000000ab","began_ms":1,"lasted_ms":3200.0}]}"#;

#[test]
fn explain_draws_the_trail_that_is_meant_and_ends_with_its_verdict() {
    let home = home();
    let server = Fake::answering("200 OK", TRAIL);
    for (arguments, asked) in [
        (&["explain", "ab"][..], &["/v1/trails/ab "][..]),
        (&["explain", "--last"], &["/v1/trails?limit=1 ", "/v1/trails/000000000000000000000000000000ab "]),
        (&["explain", "--slow", "--destination", "a b"], &["/v1/trails?limit=1&destination=a%20b&order=slowest "]),
        (&["explain", "--tag", "thread-42"], &["/v1/trails?limit=20&tag=thread-42 "]),
    ] {
        let (code, out, err) = output(tidegate(home.path()).args(arguments).args(["--url", &server.url]));
        assert_eq!(code, 0, "{err}");
        for asked in asked {
            let head = server.heads.recv().unwrap();
            assert!(head.starts_with(&format!("GET {asked}")), "{head}");
        }
        while server.heads.try_recv().is_ok() {}
        assert!(out.starts_with("/to 200 after 3.20 s") && out.contains("tagged thread-42"), "{out}");
        assert!(out.contains("waited 2.90 s for 10/s") && out.contains('░') && !out.contains('\u{1b}'), "{out}");
        assert!(out.trim_end().ends_with("3.2 s in all: 2.9 s waiting for 10/s at openai"), "{out}");
    }
    let (_, out, _) = output(tidegate(home.path()).args(["explain", "ab", "--json", "--url", &server.url]));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["trails"][0]["status"], 200);
    let nothing = Fake::answering("200 OK", r#"{"trails":[]}"#);
    let (code, _, err) = output(tidegate(home.path()).args(["explain", "--url", &nothing.url]));
    assert!(code != 0 && err.contains("no trail is kept that fits"), "{err}");
}

#[test]
fn top_without_a_terminal_prints_tables_or_json() {
    let home = home();
    let answer = r#"{"functions":[{"name":"agent","version":3,"live":{"in_flight":1,"instances":2}}],
        "live":[{"destination":"openai","partitions":[{"limits":["10/s"],"queue":{"calls":4},"in_flight":2}]}]}"#;
    let server = Fake::answering("200 OK", answer);
    let (code, out, err) = output(tidegate(home.path()).args(["top", "--once", "--url", &server.url]));
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("DESTINATION") && out.contains("openai") && out.contains("agent@3"), "{out}");
    let (_, out, _) = output(tidegate(home.path()).args(["top", "--once", "--json", "--url", &server.url]));
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&shown["destinations"][0]["queued"], &shown["functions"][0]["instances"]), (&4.into(), &2.into()));
}
