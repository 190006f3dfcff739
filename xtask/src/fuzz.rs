//! `cargo xtask fuzz`: inputs that a fuzzer makes, led by the code they reach, put to the targets of `fuzz/`. With the
//! compiler of the tree: what the fuzzer needs of it is a pass of LLVM and nothing that is not stable.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::shell::{self, Shell};

/// What to try, and for how long.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// A folder of fuzz/corpus; all of them, one after the other, unless named
    pub(crate) target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u32,
}

/// Counters on every edge, and the two sides of every comparison.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Tries all targets or one; the first input that fails ends it, and is kept in the corpus of its target.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(shell::has("c++"), "the fuzzer is C++: install a compiler for it (Debian: g++)");
    let shell = Shell::at_root();
    let corpus = shell.root().join("fuzz/corpus");
    let mut targets = Vec::new();
    for folder in fs::read_dir(&corpus).context("fuzz/corpus")? {
        targets.push(folder?.file_name().to_string_lossy().into_owned());
    }
    targets.sort();
    if let Some(name) = &options.target {
        ensure!(targets.contains(name), "{name} is no target, there are {}", targets.join(", "));
        targets.retain(|target| target == name);
    }
    shell.step("building the fuzzer");
    let program = build(&shell)?;
    for target in &targets {
        shell.step(&format!("{target}, {} s", options.seconds));
        fuzz(&program, &corpus.join(target), target, options.seconds)?;
    }
    Ok(())
}

fn build(shell: &Shell) -> Result<PathBuf> {
    let about = shell.read("rustc", &["-vV"])?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc says what its host is")?;
    // With a target named, what runs while building (build scripts, macros) is built without the flags.
    let (place, target) = ("target/fuzz", ["--target", host]);
    let arguments = ["build", "-p", "tidegate-fuzz", "--features", "libfuzzer", "--profile", "fuzz"];
    let status = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(arguments)
        .args(target)
        .args(["--target-dir", place])
        .env("RUSTFLAGS", COVERAGE.join(" "))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(shell.root())
        .status()?;
    ensure!(status.success(), "the fuzzer can't be built: {status}");
    Ok(shell.root().join(place).join(host).join("fuzz/tidegate-fuzz"))
}

fn fuzz(program: &Path, corpus: &Path, target: &str, seconds: u32) -> Result<()> {
    // What is found on the way stays outside of the tree, for the next time.
    let found = shell::root().join("target/fuzz/corpus").join(target);
    fs::create_dir_all(&found)?;
    let status = Command::new(program)
        .env("TIDEGATE_FUZZ", target)
        .args([&found, corpus])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", corpus.display()))
        .args(["-timeout=10", "-rss_limit_mb=1024", "-max_len=4096", "-print_final_stats=1", "-verbosity=0"])
        .status()
        .with_context(|| format!("{} can't be started", program.display()))?;
    if !status.success() {
        bail!(
            "an input fails, see above; it is kept in {}. To look at it alone: cargo run -p tidegate-fuzz -- {target} FILE",
            corpus.display()
        );
    }
    Ok(())
}
