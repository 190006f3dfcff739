//! The command line.

use clap::{CommandFactory as _, Parser, Subcommand};

use super::{
    deploy::DeployArgs, destinations::DestinationsArgs, failure::EXIT_CODES, functions::FunctionsArgs,
    invoke::InvokeArgs, login::LoginArgs, logs::LogsArgs, mock_command::MockArgs, tokens::TokensArgs,
    trails::TrailsArgs,
};

/// Run WASM handlers, and send every outbound call through a gate that knows its upstream's limits.
#[derive(Parser, Debug)]
#[command(
    name = "tidegate",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = EXIT_CODES,
    max_term_width = 120
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Deploy a function, or a new version of it
    Deploy(DeployArgs),
    /// Send a request to a function
    Invoke(InvokeArgs),
    /// List, show, roll back and remove functions
    #[command(visible_alias = "fn")]
    Functions(FunctionsArgs),
    /// Show what a function prints, and follow it
    Logs(LogsArgs),
    /// List, show, set and remove destinations and their limits
    #[command(visible_alias = "dest")]
    Destinations(DestinationsArgs),
    /// Show what happened to an invocation or a call
    Trails(TrailsArgs),
    /// List, make and revoke tokens
    Tokens(TokensArgs),
    /// Save a server and a token
    Login(LoginArgs),
    /// Run a fake OpenAI and Anthropic upstream that refuses, stalls and fails on demand
    MockLlm(MockArgs),
    /// Print the reference page of all settings, as Markdown
    SettingsReference,
}

/// The command line as clap knows it.
pub(super) fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }
}
