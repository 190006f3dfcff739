//! The `tidegate` program: one command a file.
//!
//! [`main`] reads the command line, picks a runtime and turns the outcome into an exit code. Commands that talk to a
//! server (`deploy`, `invoke`, ...) share [`target`] (which server), [`api`] (its control API), [`http`] (a small
//! client) and [`output`] (tables or JSON); all end in a [`failure::Failure`] or an [`failure::Exit`]. Commands that
//! are servers (`serve`, `dev`, `mock-llm`) bring their own runtimes.

mod api;
mod api_profiles;
mod args;
mod config_file;
mod deploy;
mod destinations;
mod dev;
mod explain;
mod failure;
mod functions;
mod http;
mod invoke;
mod lines;
mod local_node;
mod login;
mod logs;
mod manifest;
mod mock_command;
pub mod mock_llm;
mod output;
mod profiles;
mod prompt;
mod run;
mod running;
mod secrets;
mod serve;
mod signals;
mod steering;
mod target;
mod tokens;
mod top;
mod trails;

use std::{ffi::OsString, future::Future, process::ExitCode};

use clap::FromArgMatches as _;
use serde_json::json;

use args::{Cli, Command, Page};
use failure::{Exit, Failure};
use output::Out;

use crate::settings::{Sources, without_empty_variables};

/// The program. Returns its exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let fail = |failure: Failure, as_json: bool| {
        failure.print(as_json);
        failure.exit.into()
    };
    match read(&arguments) {
        Ok(Ok(cli)) => run(cli.command, Out::new(cli.json)).unwrap_or_else(|failure| fail(failure, cli.json)),
        Ok(Err(code)) => code,
        Err(failure) => fail(failure, asks_for_json(&arguments)),
    }
}

/// Told before the command line is understood, so that a failure to understand it can be JSON too.
fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

/// Reads the command line. Help, version and wrong usage are printed here, and end with the code that is returned.
fn read(arguments: &[OsString]) -> Result<Result<Cli, ExitCode>, Failure> {
    let command = without_empty_variables(args::command());
    let (command, in_file) = config_file::apply(command, arguments, std::env::var_os("TIDEGATE_CONFIG"))?;
    let parsed = command.try_get_matches_from(arguments).and_then(|matches| {
        let mut cli = Cli::from_arg_matches(&matches)?;
        if let (Some(settings), Some((_, matches))) = (cli.settings_mut(), matches.subcommand()) {
            settings.sources = Sources::of(matches, &in_file);
        }
        Ok(cli)
    });
    let as_json = asks_for_json(arguments);
    Ok(parsed.map_err(|error| {
        if as_json && error.use_stderr() {
            Failure::new(Exit::Usage, error.render().to_string().trim_end()).print(true);
            return Exit::Usage.into();
        }
        // A closed stream is nobody's loss.
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    }))
}

fn run(command: Command, out: Out) -> Result<ExitCode, Failure> {
    let exit = match command {
        Command::Serve(args) => return serve::run(args, out),
        Command::Dev(args) => node(dev::run(args, out)),
        Command::Run(args) => node(run::run(args, out)),
        Command::MockLlm(args) => node(mock_command::run(args, out)),
        Command::Deploy(args) => client(deploy::run(args, out)),
        Command::Invoke(args) => client(invoke::run(args, out)),
        Command::Functions(args) => client(functions::run(args, out)),
        Command::Logs(args) => client(logs::run(args, out)),
        Command::Destinations(args) => client(destinations::run(args, out)),
        Command::Pause(args) => client(steering::pause(args, out)),
        Command::Drain(args) => client(steering::drain(args, out)),
        Command::Resume(args) => client(steering::resume(args, out)),
        Command::Flush(args) => client(steering::flush(args, out)),
        Command::Limit(args) => client(steering::limit(args, out)),
        Command::Audit(args) => client(steering::audit(args, out)),
        Command::Profiles(args) => api_profiles::run(&args, out),
        Command::Trails(args) => client(trails::run(args, out)),
        Command::Explain(args) => client(explain::run(args, out)),
        Command::Top(args) => client(top::run(args, out)),
        Command::Secrets(args) => client(secrets::run(args, out)),
        Command::Tokens(args) => client(tokens::run(args, out)),
        Command::Login(args) => client(login::run(args, out)),
        Command::Reference { page } => {
            let page = match page {
                Page::Settings => crate::settings::reference_page(),
                Page::Problems => crate::problem::reference_page(),
                Page::Profiles => crate::outbound::Profile::reference_page(),
            };
            let page = page.trim_end();
            let printed = if out.is_json() { out.value(&json!({"markdown": page})) } else { out.line(page) };
            printed.map(|()| Exit::Ok)
        }
    };
    exit.map(ExitCode::from)
}

/// Runs a command that holds a server in this process.
fn node(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(Box::pin(command));
    // Whatever still blocks (a disk, a resolver) must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// Runs a command that talks to a server, until it is done or Ctrl-C.
fn client(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            // Polled first: the signal is caught before the command does anything that somebody could wait for.
            biased;
            _ = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
            outcome = Box::pin(command) => outcome,
        }
    });
    // A read of stdin that still blocks must not keep the program.
    runtime.shutdown_background();
    outcome
}
