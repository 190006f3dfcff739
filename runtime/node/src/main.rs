//! The `tidegate` program; everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use tidegate::guest::compile_worker;

fn main() -> ExitCode {
    // The node's own compilations come here; before anything else, so that nothing else costs them memory.
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "compile-worker") {
        return compile_worker::main(&compile_worker::Args::parse_from(arguments));
    }
    tidegate::cli::main()
}
