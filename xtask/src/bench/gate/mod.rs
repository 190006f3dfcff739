//! `cargo xtask bench gate`: what the gate promises about limits, outages, slow regions and fairness.
//!
//! Each case has the same upstreams and clients (`benches/gate`) on every side: through the gate, with the retries of the
//! usual SDKs and nothing between, through Envoy, and through LiteLLM where there is one. The sides take turns in one run.
//! A figure is judged by what was asked, on our side only; what does not hold is printed as that, and fails nothing.
//! All of it takes half an hour. Wants a quiet machine of two cores at least.

mod figures;
mod sides;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    programs::{self as peers},
    shell::Shell,
};
use figures::{Figure, Measured};
use sides::{Gate, World};

/// What is measured, and for how long.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Measure this `tidegate` in place of one built from the sources
    #[arg(long)]
    program: Option<PathBuf>,
    /// Only cases whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Only our side
    #[arg(long)]
    alone: bool,
    /// LiteLLM's proxy (PyPI: litellm[proxy]). Default: LITELLM, else `litellm` on the path, else none
    #[arg(long)]
    litellm: Option<PathBuf>,
    /// Seconds that count of the unknown limits, of fairness and of admissions
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Seconds before them in which an unknown limit may be learned
    #[arg(long, default_value_t = 15)]
    learn: u64,
    /// Seconds of an outage
    #[arg(long, default_value_t = 60)]
    outage: u64,
    /// Calls of each percentile of the slow region
    #[arg(long, default_value_t = 2_000)]
    calls: u32,
    /// Calls in the queue whose fairness is measured
    #[arg(long, default_value_t = 10_000)]
    queued: u32,
}

/// Requests a second that an upstream with an unknown limit takes.
const UNKNOWN: u32 = 20;
/// Requests a second that the destination of the outage is limited to.
const OUTAGE: u32 = 100;
/// Requests a second that the destination with the long queue is limited to.
const FAIR: u32 = 20;
/// A retry policy on refusals with Envoy's own backoff. It may retry as often as it likes: three at once, its default,
/// would be no comparison.
const ENVOY_RETRIES: &str = ", timeout: 60s, retry_policy: { retry_on: retriable-status-codes, \
                             retriable_status_codes: [429], num_retries: 5 }";
const ENVOY_MANY: &str = "    circuit_breakers: { thresholds: [{ max_connections: 10000, max_pending_requests: 10000, \
                          max_requests: 10000, max_retries: 10000 }] }";
/// What Envoy has against bad endpoints. Of its balancers the one that minds how many requests an endpoint holds.
const ENVOY_REGIONS: &str = "    lb_policy: LEAST_REQUEST\n    outlier_detection: {}";

struct Bench<'a> {
    options: &'a Options,
    shell: Shell,
    program: PathBuf,
    world: World,
    folder: tempfile::TempDir,
    rows: Vec<String>,
}

/// Measures every case and prints a table.
pub(crate) fn run(options: &Options) -> Result<()> {
    let shell = Shell::at_root();
    shell.step("build");
    let world = World { program: shell.built("gate-world", true)? };
    let program = match &options.program {
        Some(program) => program.clone(),
        None => shell.tidegate(true)?,
    };
    let folder = tempfile::tempdir()?;
    let mut bench = Bench { options, shell, program, world, folder, rows: Vec::new() };
    bench.case("unknown-limit", figures::UNKNOWN_LIMIT, |bench| bench.unknown_limit("bucket"));
    bench.case("sliding-window", figures::UNKNOWN_LIMIT, |bench| bench.unknown_limit("sliding"));
    for kind in ["refused", "closed", "unavailable"] {
        bench.case(&format!("outage, {kind}"), figures::OUTAGE, |bench| bench.outage(kind));
    }
    bench.case("slow-region, failover", figures::SLOW_REGION, |bench| bench.slow_region("failover", false));
    // The baselines know no mode.
    bench.case("slow-region, hedge", figures::SLOW_REGION, |bench| bench.slow_region("hedge", true));
    bench.case("fairness", figures::FAIRNESS, Bench::fairness);
    bench.case("admission", figures::ADMISSION, Bench::admission);
    bench.million();
    println!("\n| case | ours | plain clients | Envoy | LiteLLM | asked | holds? |\n|---|---|---|---|---|---|---|");
    for row in &bench.rows {
        println!("{row}");
    }
    Ok(())
}

impl Bench<'_> {
    /// Runs a case, unless it is not wanted. One that breaks is a row that does not hold, and the others go on.
    fn case(&mut self, name: &str, figures: &[Figure], measure: impl FnOnce(&Self) -> Result<Measured>) {
        if !name.contains(&self.options.only) {
            return;
        }
        self.shell.step(name);
        match measure(self) {
            Ok(measured) => {
                let rows = figures.iter().map(|figure| figure.row(name, &measured));
                for row in rows {
                    println!("{row}");
                    self.rows.push(row);
                }
            }
            Err(error) => {
                eprintln!("{name}: {error:#}");
                self.rows.push(format!("| {name} | could not be measured | | | | | no |"));
            }
        }
    }

    fn gate(&self) -> Result<Gate> {
        Gate::start(&self.program)
    }

    /// The program of a peer, where the peers are wanted and it can be found.
    fn peer(&self, variable: &str, name: &str) -> Option<PathBuf> {
        let found = peers::find(variable, name).filter(|_| !self.options.alone);
        if found.is_none() && !self.options.alone {
            eprintln!("no {name} on the path, nor in {variable}: its column stays empty");
        }
        found
    }

    /// The side of a peer. One that can't be measured leaves its column empty: what was measured of us stands.
    fn beside(&self, program: Option<PathBuf>, measure: impl FnOnce(&Path) -> Result<Value>) -> Option<Value> {
        let program = program?;
        measure(&program).inspect_err(|error| eprintln!("{}: {error:#}", program.display())).ok()
    }

    fn unknown_limit(&self, quota: &str) -> Result<Measured> {
        let upstream = sides::free_address()?;
        let (learn, seconds) = (self.options.learn.to_string(), self.options.seconds.to_string());
        let limit = UNKNOWN.to_string();
        let side = |url: &str, more: &[&str]| {
            let fixed: &[&str] = &["unknown-limit", "--url", url, "--upstream", &upstream, "--quota", quota];
            let long = ["--limit", &limit, "--learn", &learn, "--seconds", &seconds];
            self.world.side(&[fixed, &long, more].concat())
        };
        let mut measured = Measured::default();
        let path = "v1/chat/completions";
        {
            let gate = self.gate()?;
            let ours = side(&format!("{}/to/http://{upstream}/{path}", gate.url()), &["--header", sides::AS_ADMIN])?;
            gate.say_what_failed(&ours);
            measured.ours = Some(ours);
        }
        if self.options.alone {
            return Ok(measured);
        }
        measured.plain = Some(side(&format!("http://{upstream}/{path}"), &["--retry", "backoff"])?);
        measured.envoy = self.beside(self.peer("ENVOY", "envoy"), |program| {
            let envoy = peers::envoy(program, self.folder.path(), &[&upstream], ENVOY_RETRIES, ENVOY_MANY)?;
            side(&format!("http://{}/{path}", envoy.address), &[])
        });
        let litellm = self.options.litellm.clone().or_else(|| self.peer("LITELLM", "litellm"));
        measured.litellm = self.beside(litellm, |program| {
            let litellm = peers::litellm(program, self.folder.path(), &upstream, 5)?;
            let key = format!("authorization: Bearer {}", peers::LITELLM_KEY);
            side(&format!("http://{}/{path}", litellm.address), &["--header", &key])
        });
        Ok(measured)
    }

    fn outage(&self, kind: &str) -> Result<Measured> {
        let upstream = sides::free_address()?;
        let (outage, limit) = (self.options.outage.to_string(), OUTAGE.to_string());
        let side = |url: &str, more: &[&str]| {
            let fixed: &[&str] = &["outage", "--url", url, "--upstream", &upstream, "--kind", kind];
            self.world.side(&[fixed, &["--limit", &limit, "--outage", &outage], more].concat())
        };
        let mut measured = Measured::default();
        {
            let gate = self.gate()?;
            let limits = json!([{ "quota": OUTAGE, "per": "1s" }]);
            gate.put("away", &json!({ "match": format!("http://{upstream}"), "limits": limits }))?;
            let headers = ["--header", sides::AS_ADMIN, "--header", "tidegate-policy: deadline=120"];
            let ours = side(&format!("{}/to/away/v1/models", gate.url()), &headers)?;
            gate.say_what_failed(&ours);
            measured.ours = Some(ours);
        }
        if !self.options.alone {
            measured.plain = Some(side(&format!("http://{upstream}/v1/models"), &["--retry", "backoff"])?);
        }
        Ok(measured)
    }

    fn slow_region(&self, mode: &str, alone: bool) -> Result<Measured> {
        let regions = [sides::free_address()?, sides::free_address()?, sides::free_address()?];
        let calls = self.options.calls.to_string();
        let side = |urls: &[String], more: &[&str]| {
            let mut arguments = vec!["slow-region", "--calls", &calls];
            arguments.extend(urls.iter().flat_map(|url| ["--url", url]));
            arguments.extend(regions.iter().flat_map(|region| ["--upstream", region]));
            arguments.extend(more);
            self.world.side(&arguments)
        };
        let mut measured = Measured::default();
        {
            let gate = self.gate()?;
            let named = regions.iter().zip(["iad", "lhr", "nrt"]);
            let endpoints: Vec<_> = named
                .map(|(region, name)| json!({ "url": format!("http://{region}"), "name": name, "region": name }))
                .collect();
            let policy = json!({ "mode": mode });
            gate.put("regions", &json!({ "match": "http://regions.test", "endpoints": endpoints, "policy": policy }))?;
            let ours = side(&[format!("{}/to/regions/v1/models", gate.url())], &["--header", sides::AS_ADMIN])?;
            gate.say_what_failed(&ours);
            measured.ours = Some(ours);
        }
        if self.options.alone || alone {
            return Ok(measured);
        }
        let in_turn: Vec<_> = regions.iter().map(|region| format!("http://{region}/v1/models")).collect();
        measured.plain = Some(side(&in_turn, &[])?);
        measured.envoy = self.beside(self.peer("ENVOY", "envoy"), |program| {
            let upstreams = regions.each_ref().map(String::as_str);
            let envoy = peers::envoy(program, self.folder.path(), &upstreams, "", ENVOY_REGIONS)?;
            side(&[format!("http://{}/v1/models", envoy.address)], &[])
        });
        Ok(measured)
    }

    fn fairness(&self) -> Result<Measured> {
        let upstream = sides::free_address()?;
        let gate = self.gate()?;
        let limits = json!([{ "quota": FAIR, "per": "1s" }]);
        gate.put("fair", &json!({ "match": format!("http://{upstream}"), "limits": limits }))?;
        let token = || anyhow::Ok(format!("tidegate-token: {}", gate.token("to:fair")?));
        let (many, few) = (token()?, token()?);
        let live = format!("http://{}/v1/destinations/fair", gate.control());
        // All of the queue leaves within it: none is refused for that.
        let deadline = format!("tidegate-policy: deadline={}", 600 + self.options.queued / FAIR);
        let (limit, queued) = (FAIR.to_string(), self.options.queued.to_string());
        let seconds = self.options.seconds.to_string();
        let ours = self.world.side(
            &[
                ["fairness", "--gate", gate.address(), "--path", "/to/fair/v1/models", "--upstream", &upstream]
                    .as_slice(),
                &["--many", &many, "--many", &deadline, "--few", &few, "--live", &live, "--admin", sides::FOR_ADMIN],
                &["--limit", &limit, "--queued", &queued, "--seconds", &seconds],
            ]
            .concat(),
        )?;
        gate.say_what_failed(&ours);
        Ok(Measured { ours: Some(ours), ..Measured::default() })
    }

    fn admission(&self) -> Result<Measured> {
        let ours = self.world.side(&["admission", "--seconds", &self.options.seconds.to_string()])?;
        Ok(Measured { ours: Some(ours), ..Measured::default() })
    }

    /// The example of the core with a million destinations tells its own figures.
    fn million(&mut self) {
        let name = "million";
        if !name.contains(&self.options.only) {
            return;
        }
        self.shell.step(name);
        let row = match self.million_says() {
            Ok(said) => {
                println!("{said}");
                let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                format!("| {name} | {} | - | - | - | see above | see above |", last.replace('|', "/"))
            }
            Err(error) => {
                eprintln!("{name}: {error:#}");
                format!("| {name} | could not be measured | | | | | no |")
            }
        };
        self.rows.push(row);
    }

    fn million_says(&self) -> Result<String> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let arguments = ["run", "--quiet", "--release", "-p", "tidegate-benches", "--example", "at_rest"];
        self.shell.read(&cargo, &arguments).context("the example `at_rest`")
    }
}
