//! The `tidegate` program; everything is in the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "compile-worker") {
        return tidegate::guest::compile_worker::main(&tidegate::guest::compile_worker::Args::parse_from(arguments));
    }
    ExitCode::SUCCESS
}
