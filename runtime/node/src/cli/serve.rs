//! `tidegate serve`: a node for others to use.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    failure::{Exit, Failure},
    output::Out,
};
use crate::{
    node::{self, NodeOptions},
    settings::{LogFormat, Settings},
};

/// Arguments of `tidegate serve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each setting can be given as a flag, as a variable, or as a key in the file that --config names (`--guest-wall` is \
`guest_wall` there); the first one found in that order counts. Durations are written 250ms, 1s, 5m or 1h, sizes 64MiB. \
The first line on stdout is `tidegate listening on http://ADDR, control on http://ADDR`, or an object with --json. SIGTERM and SIGINT let open \
requests finish, within --drain-timeout, and end with code 0.")]
pub(super) struct ServeArgs {
    /// File of settings (node.toml)
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Box<Settings>,
}

impl ServeArgs {
    /// The settings.
    pub(super) fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

#[cfg(test)]
impl ServeArgs {
    /// The settings, for tests of the command line.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Runs the node until a signal.
pub(super) fn run(args: ServeArgs, out: Out) -> Result<ExitCode, Failure> {
    let mut settings = *args.settings;
    let mut options = NodeOptions::default();
    if out.is_json() {
        settings.node.log_format = Some(LogFormat::Json);
        options.listening = LogFormat::Json;
    }
    node::serve(settings, options).map_err(|error| {
        let exit = if matches!(error, node::StartError::Setting { .. }) { Exit::Usage } else { Exit::Failed };
        Failure::new(exit, error.to_string())
    })
}
