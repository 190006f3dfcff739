//! Running other programs: quiet while all is well, everything they said when it is not.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository's root.
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
