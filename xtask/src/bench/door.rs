//! `cargo xtask bench door`: what a call through the door costs beside the same client library without it.

use anyhow::Result;

use crate::shell::Shell;

/// Builds the measurement as a release and runs it; it prints its own table.
pub(crate) fn run() -> Result<()> {
    Shell::at_root().cargo(&["bench", "--workspace", "--bench", "door"])
}
