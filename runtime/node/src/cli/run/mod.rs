//! `tidegate run`: any program with its base URLs led through a gate.
//!
//! The gate is the one that is named, else one that listens at the usual place and takes calls without a token, else
//! one in this process that lives as long as the program.

mod child;
mod environment;
mod summary;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;
use http::{Request, StatusCode};
use url::Url;

use self::summary::Summary;
use super::{
    failure::{Exit, Failure},
    http as client,
    local_node::LocalNode,
    manifest,
    output::{Out, note},
    target::{LOCAL_GATE, server_url},
};
use crate::{body, settings::Settings};

/// Arguments of `tidegate run`.
#[derive(Args, Debug)]
#[command(after_help = "\
The program finds OPENAI_BASE_URL, OPENAI_API_BASE and ANTHROPIC_BASE_URL set to the gate. Where one of them names an \
upstream already, that upstream is what the gate calls. Signals are passed on; the exit code is the program's (128+n \
for signal n, 127 if it is not found). Settings of `tidegate serve` can be given too, for the gate in this process.")]
pub(super) struct RunArgs {
    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
    /// Gate to use. Default: http://127.0.0.1:8080 if one runs there, else one in this process
    #[arg(long, env = "TIDEGATE_GATE", value_name = "URL", hide_env_values = true, value_parser = server_url)]
    gate: Option<Url>,
    /// Further variable to lead through the gate, with its upstream where it is not set. Repeatable
    #[arg(long, value_name = "NAME=UPSTREAM", value_parser = manifest::pair)]
    also: Vec<(String, String)>,
    /// Say nothing at the end
    #[arg(short, long)]
    quiet: bool,
    /// Say which gate is used
    #[arg(short, long)]
    verbose: bool,
    /// File of settings (node.toml)
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Box<Settings>,
}

impl RunArgs {
    /// The settings.
    pub(super) fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

#[cfg(test)]
impl RunArgs {
    /// The settings, for tests of the command line.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Runs the program.
pub(super) async fn run(args: RunArgs, out: Out) -> Result<Exit, Failure> {
    let say = |text: String| {
        if args.verbose {
            note(text);
        }
    };
    if let Some(gate) = gate_that_runs(args.gate.as_ref(), &say).await? {
        say(format!("the gate at {gate} is used"));
        let variables = environment::variables(&gate, &args.also, |name| std::env::var(name).ok());
        return child::run(&args.command, &variables).await;
    }
    let (settings, _directory) = in_a_directory_of_its_own(*args.settings)?;
    let node = LocalNode::start(settings, None).await?;
    say(format!("a gate in this process is used, at {}", node.gate()));
    let variables = environment::variables(node.gate(), &args.also, |name| std::env::var(name).ok());
    let (ended, stop) = tokio::sync::oneshot::channel();
    let counting = tokio::spawn(Summary::follow(node.feed(), stop));
    let outcome = child::run(&args.command, &variables).await;
    // The reader may be gone only if its task is.
    let _ = ended.send(());
    let summary = counting.await;
    node.stop().await;
    if let (Ok(summary), Ok(_), false) = (summary, &outcome, args.quiet) {
        if out.is_json() {
            note(summary.json());
        } else {
            note(format_args!("tidegate: {summary}"));
        }
    }
    outcome
}

/// Nothing of a gate that lives as long as one program is worth keeping, unless a directory is named.
fn in_a_directory_of_its_own(mut settings: Settings) -> Result<(Settings, Option<tempfile::TempDir>), Failure> {
    if settings.node.data.as_os_str() != super::args::TEMPORARY {
        return Ok((settings, None));
    }
    let directory = tempfile::Builder::new().prefix("tidegate-run-").tempdir()?;
    directory.path().clone_into(&mut settings.node.data);
    Ok((settings, Some(directory)))
}

/// How long the usual place has to say that a gate is there.
const PROBE: Duration = Duration::from_millis(500);

/// The gate to use, if one runs.
async fn gate_that_runs(named: Option<&Url>, say: &impl Fn(String)) -> Result<Option<String>, Failure> {
    let gate = named.map_or(LOCAL_GATE, Url::as_str).trim_end_matches('/').to_owned();
    let ask = async |path: &str| {
        let request = Request::get(format!("{gate}{path}")).body(body::empty());
        let request = request.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        let answer = client::send(request).await?;
        Ok::<_, Failure>((answer.status(), answer.headers().contains_key("proxy-status")))
    };
    // An empty destination is refused by a gate in its own name; by its status it tells whether a token was needed.
    if named.is_some() {
        let (status, _) = ask("/healthz").await?;
        if status != StatusCode::OK {
            let what = format!("{gate}/healthz answers {status}: that is no healthy gate");
            return Err(Failure::new(Exit::Failed, what));
        }
        return match ask("/to/").await? {
            (StatusCode::UNAUTHORIZED, true) => Err(Failure::new(
                Exit::Unauthorised,
                format!("the gate at {gate} needs a token, which clients are not given by their base URL alone"),
            )
            .next(
                "set the base URL to GATE/to/UPSTREAM yourself and let the client send `tidegate-token: TOKEN` (made by \
                 `tidegate tokens create --scope to:NAME`), or leave --gate out",
            )),
            (_, true) => Ok(Some(gate)),
            (status, false) => {
                let what = format!("{gate}/to/ answers {status}, not in the name of a gate");
                Err(Failure::new(Exit::Failed, what))
            }
        };
    }
    let probed = tokio::time::timeout(PROBE, async { Ok::<_, Failure>((ask("/healthz").await?, ask("/to/").await?)) });
    match probed.await {
        Ok(Ok(((StatusCode::OK, _), (StatusCode::UNAUTHORIZED, true)))) => {
            say(format!("the gate at {gate} needs a token"));
            Ok(None)
        }
        Ok(Ok(((StatusCode::OK, _), (_, true)))) => Ok(Some(gate)),
        _ => Ok(None),
    }
}
