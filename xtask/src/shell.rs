//! Running other programs from the root of the repository, and saying so.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// A place to run commands from.
pub(crate) struct Shell {
    root: PathBuf,
    started: Instant,
}

impl Shell {
    /// The root of the workspace, found from where cargo built this program.
    pub(crate) fn at_root() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
        Ok(Self { root: root.to_owned(), started: Instant::now() })
    }

    /// The root of the workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Says what comes next.
    pub(crate) fn step(&self, what: &str) {
        eprintln!("\n== [{:>4} s] {what}", self.started.elapsed().as_secs());
    }

    /// Whether a program is on the path.
    pub(crate) fn has(&self, program: &str) -> bool {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
    }

    /// A command at the root.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// Runs cargo at the root and fails when it does.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Result<()> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        self.run_in(".", &cargo, arguments)
    }

    /// Runs a program in a folder of the workspace and fails when it does.
    pub(crate) fn run_in(&self, folder: &str, program: &str, arguments: &[&str]) -> Result<()> {
        let status = Command::new(program)
            .args(arguments)
            .current_dir(self.root.join(folder))
            .status()
            .with_context(|| format!("{program} could not be started"))?;
        if !status.success() {
            bail!("`{program} {}` in {folder} failed: {status}", arguments.join(" "));
        }
        Ok(())
    }

    /// What a program prints.
    pub(crate) fn read(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(program)
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("{program} could not be started"))?;
        if !output.status.success() {
            bail!("`{program} {}` failed: {}", arguments.join(" "), output.status);
        }
        String::from_utf8(output.stdout).context("output is not UTF-8")
    }
}
