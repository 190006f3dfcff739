//! `cargo xtask demo`: an agent of seven steps against an upstream that refuses and stalls, without and with the gate.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    guests,
    programs::{self, Peer},
    shell::{Shell, has},
};

/// How many agents run at once in the crowded half.
const CROWD: usize = 20;
/// What the upstream allows, and how often it stalls.
const UPSTREAM: &[&str] = &["--limit", "10/s", "--burst", "5", "--slow", "5%", "--slow-for", "5s", "--latency", "20ms"];
const TOKEN: &str = "tg_token-of-the-demo-0123456789abcdef";

/// How to build.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Build without optimisation of our own crates: quicker to build, slower to run
    #[arg(long)]
    pub(crate) debug: bool,
}

struct Row {
    who: String,
    finished: usize,
    agents: usize,
    seconds: f64,
    stats: Value,
    ends: Vec<String>,
}

/// Builds everything, runs both halves, prints what happened and what to try next. Fails unless every agent behind the
/// gate has all seven answers.
pub(crate) fn run(options: &Options) -> Result<()> {
    let shell = Shell::at_root();
    if !has("node") {
        bail!("the demo runs the agent as a plain Node program too: install Node.js 20 or later");
    }
    shell.step("guests: the agent (LangGraph.js and the openai client, unmodified) becomes a WASM component");
    guests::run(&guests::Args::default())?;
    shell.step("the gate");
    let program = shell.tidegate(!options.debug)?;

    let data = tempfile::tempdir()?;
    shell.step("an upstream that allows 10 requests a second, and stalls for 5 s on one in twenty");
    let arguments = [&["mock-llm", "--listen", "127.0.0.1:0"], UPSTREAM].concat();
    let upstream = programs::tidegate(&program, &arguments, &[])?;
    eprintln!("$ tidegate {}\n  http://{}", arguments.join(" "), upstream.address);
    let node = start_node(&program, data.path())?;

    let mut rows = Vec::new();
    for (agents, retries) in [(1, 0), (1, 2), (1, 6), (CROWD, 0), (CROWD, 2), (CROWD, 6)] {
        shell.step(&format!("plain Node, {}, maxRetries {retries}", count(agents)));
        rows.push(plain(&shell, &upstream, agents, retries)?);
        say(&rows);
    }
    shell.step("the same agent as a function behind the gate");
    deploy(&shell, &program, &node, &upstream)?;
    for agents in [1, CROWD] {
        shell.step(&format!("behind the gate, {}", count(agents)));
        rows.push(gated(&node, &upstream, agents)?);
        say(&rows);
    }

    println!("\n{}", table(&rows));
    println!("\nTry next:");
    println!("{}", try_next(&shell, &program));
    let gated_rows = rows.iter().filter(|row| row.who.starts_with("Tidegate"));
    for row in gated_rows {
        if row.finished != row.agents {
            let logs: Vec<_> = [&upstream, &node].into_iter().filter_map(|peer| peer.log.as_ref()).collect();
            bail!(
                "{}: only {} of {} agents finished: {}; what the programs said is in {logs:?}",
                row.who,
                row.finished,
                row.agents,
                row.ends.join("; ")
            );
        }
    }
    Ok(())
}

/// Commands that work as they stand, one after another.
fn try_next(shell: &Shell, program: &Path) -> String {
    let (program, guest) = (program.display(), shell.root().join("guests/build/agent.wasm"));
    let (guest, upstream) = (guest.display(), UPSTREAM.join(" "));
    format!(
        "  # the upstream of this demo\n\
         \x20 {program} mock-llm --listen 127.0.0.1:8000 {upstream} &\n\
         \x20 # the agent\n\
         \x20 {program} dev {guest} --listen 127.0.0.1:8080 -e BASE_URL=http://127.0.0.1:8000/v1 \
         -e OPENAI_API_KEY=sk-demo &\n\
         \x20 curl 'http://127.0.0.1:8080/?topic=tides'\n\
         \x20 # any program, by its base URL alone\n\
         \x20 OPENAI_BASE_URL=http://127.0.0.1:8000/v1 {program} run -- sh -c 'curl -s $OPENAI_BASE_URL/models'"
    )
}

fn count(agents: usize) -> String {
    if agents == 1 { "one agent".into() } else { format!("{agents} agents at once") }
}

fn start_node(program: &Path, data: &Path) -> Result<Peer> {
    let data = data.to_str().context("a temporary path is UTF-8")?;
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--control-listen",
        "127.0.0.1:0",
        "--egress-allow",
        "127.0.0.0/8",
        "--data",
        data,
    ];
    let node = programs::tidegate(program, &arguments, &[("TIDEGATE_ADMIN_TOKEN", TOKEN)])?;
    eprintln!(
        "$ tidegate serve --egress-allow 127.0.0.0/8\n  http://{}, control on http://{}",
        node.address, node.control
    );
    Ok(node)
}

/// Forgets what the upstream counted, and gives its limiter time to be full again.
fn reset(upstream: &Peer) -> Result<()> {
    std::thread::sleep(std::time::Duration::from_secs(1));
    programs::exchange(&upstream.address, "POST", "/__reset")?;
    Ok(())
}

fn stats(upstream: &Peer) -> Result<Value> {
    let (_, body) = programs::exchange(&upstream.address, "GET", "/__stats")?;
    serde_json::from_slice(&body).context("the upstream's counts are JSON")
}

fn plain(shell: &Shell, upstream: &Peer, agents: usize, retries: u32) -> Result<Row> {
    reset(upstream)?;
    let started = Instant::now();
    let output = Command::new("node")
        .current_dir(shell.root().join("guests/agent"))
        .args(["node.mjs", "--max-retries", &retries.to_string(), "--agents", &agents.to_string()])
        .env("BASE_URL", format!("http://{}/v1", upstream.address))
        .env("OPENAI_API_KEY", "sk-demo")
        .stderr(Stdio::inherit())
        .output()
        .context("node could not be started")?;
    let seconds = started.elapsed().as_secs_f64();
    let report: Value = serde_json::from_slice(&output.stdout).context("node.mjs prints JSON")?;
    let results = match report.get("results").and_then(Value::as_array) {
        Some(results) => results.clone(),
        None => vec![report],
    };
    let who = format!("plain Node, maxRetries {retries}");
    Ok(Row { who, agents, seconds, stats: stats(upstream)?, finished: finished(&results), ends: ends(&results) })
}

/// Agents whose answer holds seven texts.
fn finished(results: &[Value]) -> usize {
    let seven = |result: &&Value| {
        result.get("error").is_none()
            && result.get("steps").and_then(Value::as_array).is_some_and(|steps| {
                let answered =
                    |step: &&Value| step.get("text").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
                steps.iter().filter(answered).count() == 7
            })
    };
    results.iter().filter(seven).count()
}

/// How the agents that did not finish ended.
fn ends(results: &[Value]) -> Vec<String> {
    let mut ends: Vec<String> = results
        .iter()
        .filter_map(|result| result.get("error"))
        .map(|error| match error.get("step").and_then(Value::as_str) {
            Some(step) => format!("{step}: {}", error.get("status").map(ToString::to_string).unwrap_or_default()),
            None => error.to_string(),
        })
        .collect();
    ends.sort();
    ends.dedup();
    ends
}

fn deploy(shell: &Shell, program: &Path, node: &Peer, upstream: &Peer) -> Result<()> {
    let config = json!({
        "env": {"BASE_URL": format!("http://{}/v1", upstream.address), "OPENAI_API_KEY": "sk-demo"},
        "allowed_hosts": [upstream.address],
        "auth": "public",
        "limits": {"wall": "5m", "cpu": "60s"},
        "policy": {"deadline": "5m"},
    });
    // The completions of a mock may be asked for twice; with a real provider its cost is the price of finishing.
    let destination = json!({
        "match": format!("http://{}", upstream.address),
        "repeatable": "always",
        "policy": {"attempt_timeout": "2s", "deadline": "5m"},
    });
    let folder = tempfile::tempdir()?;
    let write = |name: &str, value: &Value| -> Result<PathBuf> {
        let path = folder.path().join(name);
        std::fs::write(&path, value.to_string())?;
        Ok(path)
    };
    let (config, destination) = (write("agent.json", &config)?, write("destination.json", &destination)?);
    tidegate(program, node, &["destinations", "put", "mock", "--file", &destination.display().to_string()])?;
    let wasm = shell.root().join("guests/build/agent.wasm").display().to_string();
    tidegate(program, node, &["deploy", &wasm, "--name", "agent", "--config", &config.display().to_string()])
}

/// Runs a command against the node, shown as a person would type it.
fn tidegate(program: &Path, node: &Peer, arguments: &[&str]) -> Result<()> {
    eprintln!("$ tidegate {}", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .env("TIDEGATE_URL", format!("http://{}", node.control))
        .env("TIDEGATE_TOKEN", TOKEN)
        .stdout(std::io::stderr())
        .status()?;
    if !status.success() {
        bail!("`tidegate {}` failed: {status}", arguments.join(" "));
    }
    Ok(())
}

fn gated(node: &Peer, upstream: &Peer, agents: usize) -> Result<Row> {
    reset(upstream)?;
    let started = Instant::now();
    let address = node.address.clone();
    let threads: Vec<_> = (0..agents)
        .map(|_| {
            let address = address.clone();
            std::thread::spawn(move || programs::exchange(&address, "GET", "/f/agent/?topic=tides"))
        })
        .collect();
    let mut results = Vec::new();
    for thread in threads {
        let answer = thread.join().map_err(|_| anyhow::anyhow!("a client thread ended early"))?;
        results.push(match answer {
            Ok((200, body)) => serde_json::from_slice(&body)?,
            Ok((status, body)) => {
                let said =
                    serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body)));
                match said.get("error") {
                    Some(_) => said,
                    None => json!({"error": {"status": status, "said": said}}),
                }
            }
            Err(error) => json!({"error": error.to_string()}),
        });
    }
    let seconds = started.elapsed().as_secs_f64();
    if agents == 1 {
        print_steps(&results);
    }
    let who = "Tidegate".to_owned();
    Ok(Row { who, agents, seconds, stats: stats(upstream)?, finished: finished(&results), ends: ends(&results) })
}

fn print_steps(results: &[Value]) {
    let steps = results.iter().filter_map(|result| result.get("steps").and_then(Value::as_array)).flatten();
    for (number, step) in steps.enumerate() {
        let text = step.get("text").and_then(Value::as_str).unwrap_or_default();
        let short: String = text.chars().take(60).collect();
        let name = step.get("step").and_then(Value::as_str).unwrap_or_default();
        let ms = step.get("ms").and_then(Value::as_u64).unwrap_or_default();
        eprintln!("  step {} {name:<9} {ms:>6} ms  {}", number + 1, short.replace('\n', " "));
    }
}

fn number(stats: &Value, name: &str) -> u64 {
    stats.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn say(rows: &[Row]) {
    let Some(row) = rows.last() else { return };
    eprintln!("  {} of {} finished in {:.1} s", row.finished, row.agents, row.seconds);
    if !row.ends.is_empty() {
        eprintln!("  the others died at {}", row.ends.join(", "));
    }
}

fn table(rows: &[Row]) -> String {
    let mut text =
        format!("{:<26} {:>10} {:>9} {:>19} {:>9}\n", "", "finished", "seconds", "upstream requests", "refused");
    for row in rows {
        text.push_str(&format!(
            "{:<26} {:>10} {:>9.1} {:>19} {:>9}\n",
            row.who,
            format!("{}/{}", row.finished, row.agents),
            row.seconds,
            number(&row.stats, "requests"),
            number(&row.stats, "refused"),
        ));
    }
    text
}
