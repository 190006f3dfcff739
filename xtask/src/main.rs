//! The chores of this repository, one module each. `cargo xtask --help` lists them.

mod bench;
mod checks;
mod demo;
mod fuzz;
mod guests;
mod programs;
mod shell;
mod test;

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
    /// An agent against an upstream that refuses and stalls, without and with the gate
    Demo(demo::Options),
    /// Everything that must hold before a change lands
    Test(test::Options),
    /// Build the example and test guests into guests/build, after installing what that needs
    Guests(guests::Args),
    /// Inputs that a fuzzer makes, put to what must hold for all of them
    Fuzz(fuzz::Options),
    /// Side-by-side measurements
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Demo(options) => demo::run(&options),
        Chore::Test(options) => test::run(&options),
        Chore::Guests(args) => guests::run(&args).map(|_| ()),
        Chore::Fuzz(options) => fuzz::run(&options),
        Chore::Bench(bench) => bench::run(&bench),
    };
    match outcome {
        Ok(()) => {
            programs::forget_logs();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
