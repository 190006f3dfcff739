//! TypeScript guests: Node, the packages of the one lock file, and the SDK's own build command.

use crate::shell::{output, root, version};
use anyhow::{Context, Result, anyhow, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The oldest Node whose module hooks the SDK's build needs.
const NODE_AT_LEAST: u32 = 20;
const CURE: &str = "Cure: install Node 20 or later with npm (https://nodejs.org, or your system's packages)";

/// Node with the packages in place.
pub(super) struct Toolchain(());

impl Toolchain {
    /// Checks Node and runs `npm ci` when the lock file has changed since the last time.
    pub(super) fn prepare() -> Result<Self> {
        let node = version("node").with_context(|| format!("TypeScript guests need Node. {CURE}"))?;
        ensure!(major(&node).is_some_and(|major| major >= NODE_AT_LEAST), "Node {node} is too old. {CURE}");
        install()?;
        Ok(Self(()))
    }

    /// Builds the guest in `folder` into the component file `target`. The entry is `src/index.ts`.
    pub(super) fn build(&self, folder: &Path, target: &Path) -> Result<()> {
        let sdk = root().join("sdk/ts/bin/tidegate-sdk.mjs");
        output(Command::new("node").arg(sdk).args(["build", "src/index.ts", "-o"]).arg(target).current_dir(folder))
            .map(|_| ())
    }
}

/// `v20.11.0` is 20.
fn major(version: &str) -> Option<u32> {
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// Installs the packages of the lock file, unless they are those that are installed.
fn install() -> Result<()> {
    let lock = fs::read(root().join("package-lock.json")).context("cannot read package-lock.json")?;
    let stamp = root().join("node_modules/.tidegate-lock");
    if fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    println!("installing npm packages");
    version("npm").ok_or_else(|| anyhow!("TypeScript guests need npm. {CURE}"))?;
    output(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(root()))?;
    fs::write(&stamp, lock).with_context(|| format!("cannot write {}", stamp.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_version_is_read() {
        assert_eq!(major("v20.11.0"), Some(20));
        assert_eq!(major("20"), None);
    }
}
