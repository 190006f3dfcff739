//! The chores of this repository, one module each. `cargo xtask --help` lists them.

mod guests;
mod run;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of this repository", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build the example and test guests into guests/build, after installing what that needs
    Guests(guests::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Guests(args) => guests::run(&args).map(|_| ()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
