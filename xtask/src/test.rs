//! `cargo xtask test`: everything that must hold before a change lands, in the order in which it fails fastest.

use anyhow::{Result, bail};

use crate::{
    checks, fuzz, guests,
    shell::{Shell, has},
};

/// What to leave out, for a quicker round while working.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Only format, lints and the checks of dependencies
    #[arg(long)]
    pub(crate) quick: bool,
    /// Leave out the tests that need guests (and with them npm and the wasm toolchain)
    #[arg(long)]
    pub(crate) no_guests: bool,
}

/// Runs all checks and tests; the first failure ends it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let shell = Shell::at_root();
    shell.step("format");
    shell.cargo(&["fmt", "--all", "--check"])?;
    shell.step("dependencies: licences, and no way out but the door");
    checks::licences(&shell)?;
    checks::features(&shell)?;
    shell.step("prose and settings");
    checks::words(&shell)?;
    shell.step("clippy");
    shell.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    if options.quick {
        return Ok(());
    }
    if !options.no_guests {
        shell.step("guests");
        guests::run(&guests::Args::default())?;
    }
    shell.step("reference pages of settings and problems");
    checks::reference_pages(&shell)?;
    shell.step("unit, property and end-to-end tests");
    let filter: &[&str] = if options.no_guests { &["-E", "not package(tidegate-tests)"] } else { &[] };
    if has("cargo-nextest") {
        let mut arguments = vec!["nextest", "run", "--workspace", "--no-fail-fast"];
        arguments.extend(filter);
        shell.cargo(&arguments)?;
    } else if options.no_guests {
        shell.cargo(&["test", "--workspace", "--exclude", "tidegate-tests", "--tests"])?;
    } else {
        shell.cargo(&["test", "--workspace", "--tests"])?;
    }
    shell.step("doc tests");
    shell.cargo(&["test", "--workspace", "--doc"])?;
    fuzz::run(&fuzz::Options { target: None, seconds: 5 })?;
    if !options.no_guests {
        shell.step("TypeScript SDK");
        if !has("npm") {
            bail!("npm is needed for the tests of sdk/ts: install Node.js 20 or later");
        }
        shell.run_in("sdk/ts", "npm", &["test", "--silent"])?;
    }
    shell.step("all green");
    Ok(())
}
