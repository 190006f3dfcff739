//! What the sides of a case are made of: a node of ours, and the world around it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::figures::number;
use crate::programs::{self as peers, Peer};

const TOKEN: &str = "tg_bench-token-of-one-run";
/// The header that a program of the operator sends at `/to`.
pub(super) const AS_ADMIN: &str = "tidegate-token: tg_bench-token-of-one-run";
/// The same at the control listener.
pub(super) const FOR_ADMIN: &str = "authorization: Bearer tg_bench-token-of-one-run";

/// An address for an upstream, free a moment ago.
pub(super) fn free_address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", peers::free_port()?))
}

/// Upstreams and clients.
pub(super) struct World {
    pub(super) program: PathBuf,
}

impl World {
    /// One side of one case, from its begin to its end: the figures.
    pub(super) fn side(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.program);
        let output = command.args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            // It has told why; its arguments hold tokens.
            bail!("`gate-world {}` failed: {}", arguments.first().unwrap_or(&""), output.status);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        eprintln!("{}", text.trim());
        serde_json::from_str(&text).context("gate-world printed no object")
    }
}

/// A node of its own for one case.
pub(super) struct Gate {
    program: PathBuf,
    node: Peer,
    _data: tempfile::TempDir,
}

impl Gate {
    pub(super) fn start(program: &Path) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let path = data.path().to_str().context("a temporary path is UTF-8")?;
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0", "--data", path];
        let allowed = ["--egress-allow", "127.0.0.0/8", "--log", "warn"];
        let node =
            peers::tidegate(program, &[&arguments, allowed.as_slice()].concat(), &[("TIDEGATE_ADMIN_TOKEN", TOKEN)])?;
        Ok(Self { program: program.to_path_buf(), node, _data: data })
    }

    pub(super) fn address(&self) -> &str {
        &self.node.address
    }

    pub(super) fn control(&self) -> &str {
        &self.node.control
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.node.address)
    }

    /// Configures a destination.
    pub(super) fn put(&self, name: &str, config: &Value) -> Result<()> {
        let file = tempfile::Builder::new().suffix(".json").tempfile()?;
        std::fs::write(file.path(), config.to_string())?;
        let path = file.path().to_str().context("a temporary path is UTF-8")?;
        self.command(&["destinations", "put", name, "--file", path]).map(drop)
    }

    /// Makes a token.
    pub(super) fn token(&self, scope: &str) -> Result<String> {
        let made: Value = serde_json::from_str(&self.command(&["tokens", "create", "--json", "--scope", scope])?)?;
        Ok(made.get("token").and_then(Value::as_str).context("no token was made")?.to_owned())
    }

    /// Where calls were lost, what a few of them went through: it is gone with the node.
    pub(super) fn say_what_failed(&self, figures: &Value) {
        if number(figures, "lost") > 0.0 {
            let trails = self.command(&["trails", "--status", "failed", "--limit", "5"]).unwrap_or_default();
            eprintln!("{trails}");
            if let Some(id) = trails.split_whitespace().find(|word| word.len() == 32) {
                eprintln!("{}", self.command(&["explain", id]).unwrap_or_default());
            }
        }
    }

    fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("TIDEGATE_URL", format!("http://{}", self.node.control))
            .env("TIDEGATE_TOKEN", TOKEN);
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("`tidegate {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
