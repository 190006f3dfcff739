//! Running other programs: aloud from the root of the repository (`Shell`), or quietly while all is well (`output`).

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

/// The repository's root, found from where cargo built this program.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The command as a person would type it, for messages.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs `command` and returns its standard output. When it fails, the error holds all it wrote.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(stdout);
    }
    let said = format!("{stdout}{}", String::from_utf8_lossy(&done.stderr));
    bail!("`{}` ended with {}\n{}", shown(command), done.status, said.trim_end())
}

/// Whether `program` can be found and says a version; what it says.
pub(crate) fn version(program: impl AsRef<OsStr>) -> Option<String> {
    output(Command::new(program).arg("--version")).ok().map(|text| text.trim().to_owned())
}

/// Whether a program is on the path.
pub(crate) fn has(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// Installs packages of Debian, without a question: as root, or with a ticket for sudo.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    ensure!(Path::new("/usr/bin/apt-get").exists(), "there is no apt-get on this machine");
    let root_user = output(Command::new("id").arg("-u"))?.trim() == "0";
    ensure!(root_user || has("sudo"), "installing packages needs root, and there is no sudo");
    println!("installing {} (Debian)", packages.join(" "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root_user { "apt-get" } else { "sudo" });
        if !root_user {
            // No prompt in the middle of a build: without a ticket this fails and the message says what to install.
            command.args(["-n", "apt-get"]);
        }
        output(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update", "-qq"])?;
    apt(&[["install", "-qq", "-y", "--no-install-recommends"].as_slice(), packages].concat()).map(drop)
}

/// A place to run commands from.
pub(crate) struct Shell {
    root: PathBuf,
    started: Instant,
}

impl Shell {
    /// At the root of the workspace.
    pub(crate) fn at_root() -> Self {
        Self { root: root(), started: Instant::now() }
    }

    /// The root of the workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Says what comes next.
    pub(crate) fn step(&self, what: &str) {
        eprintln!("\n== [{:>4} s] {what}", self.started.elapsed().as_secs());
    }

    /// Runs cargo at the root and fails when it does.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Result<()> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        self.run_in(".", &cargo, arguments)
    }

    /// Builds `tidegate` and returns where it lies. Selected from the whole workspace, so that dependencies have the same
    /// features as in tests and are not built twice.
    pub(crate) fn tidegate(&self, release: bool) -> Result<PathBuf> {
        self.built("tidegate", release)
    }

    /// The same of any program of the workspace.
    pub(crate) fn built(&self, program: &str, release: bool) -> Result<PathBuf> {
        let profile: &[&str] = if release { &["--release"] } else { &[] };
        self.cargo(&[&["build", "--workspace", "--bin", program], profile].concat())?;
        let folder = if release { "release" } else { "debug" };
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from);
        Ok(target.join(folder).join(program))
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
        let output = Command::new(program)
            .current_dir(&self.root)
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
