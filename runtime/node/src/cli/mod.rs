//! The `tidegate` program: one command a file.
//!
//! [`main`] reads the command line, picks a runtime and turns the outcome into an exit code. Commands that talk to a
//! server (`deploy`, `invoke`, ...) share [`target`] (which server), [`api`] (its control API), [`http`] (a small
//! client) and [`output`] (tables or JSON); all end in a [`failure::Failure`] or an [`failure::Exit`]. Commands that
//! are servers (`serve`, `dev`, `mock-llm`) bring their own runtimes.

mod api;
mod args;
mod deploy;
mod destinations;
mod failure;
mod functions;
mod http;
mod invoke;
mod lines;
mod login;
mod logs;
mod manifest;
mod mock_command;
pub mod mock_llm;
mod output;
mod profiles;
mod running;
mod signals;
mod target;
mod tokens;
mod trails;

use std::{future::Future, process::ExitCode};

use clap::FromArgMatches as _;

use args::{Cli, Command};
use failure::{Exit, Failure};

/// The program. Returns its exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let as_json = arguments.iter().any(|argument| argument == "--json");
    let matches = match args::command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        // Help and version are no errors to clap either: it knows the stream and the code (0 or 2).
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = Cli::from_arg_matches(&matches)
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))
        .and_then(|cli| run(cli.command));
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print(as_json);
            failure.exit.into()
        }
    }
}

fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Deploy(args) => client(deploy::run(args)),
        Command::Invoke(args) => client(invoke::run(args)),
        Command::Functions(args) => client(functions::run(args)),
        Command::Logs(args) => client(logs::run(args)),
        Command::Destinations(args) => client(destinations::run(args)),
        Command::Trails(args) => client(trails::run(args)),
        Command::Tokens(args) => client(tokens::run(args)),
        Command::Login(args) => client(login::run(args)),
        Command::MockLlm(args) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(mock_command::run(args))
        }
        Command::SettingsReference => {
            output::Out::new(false).line(crate::settings::reference_page().trim_end())?;
            Ok(Exit::Ok)
        }
    }
}

/// Runs a command that talks to a server, until it is done or Ctrl-C.
fn client(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = Box::pin(command) => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
        }
    });
    // A read of stdin that still blocks must not keep the program.
    runtime.shutdown_background();
    outcome
}
