//! Checks of the tree itself: licences, features that must stay off, pages that are made from the code.

use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::Shell;

/// Licences that fit a program offered under MIT OR Apache-2.0.
const ALLOWED: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "NCSA",
    "Zlib",
    "0BSD",
    "BSL-1.0",
    "Unlicense",
    "Unicode-3.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
];

/// Every dependency offers a licence that fits ours.
pub(crate) fn licences(shell: &Shell) -> Result<()> {
    let text = shell.read("cargo", &["metadata", "--format-version", "1", "--locked"])?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata.get("packages").and_then(Value::as_array).context("cargo metadata lists packages")?;
    let mut wrong = Vec::new();
    for package in packages {
        let name = package.get("name").and_then(Value::as_str).unwrap_or_default();
        let licence = package.get("license").and_then(Value::as_str).unwrap_or_default();
        if !fits(licence) {
            wrong.push(format!("{name}: `{licence}`"));
        }
    }
    if !wrong.is_empty() {
        bail!("licences that do not fit MIT OR Apache-2.0:\n  {}", wrong.join("\n  "));
    }
    eprintln!("{} packages, all licences fit", packages.len());
    Ok(())
}

/// Whether an SPDX expression can be satisfied with allowed licences only. `OR` offers a choice, `AND` demands all; the
/// old form `MIT/Apache-2.0` means OR.
fn fits(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // Parentheses only ever group ORs inside ANDs in practice; treating AND as binding weaker is then exact.
    let words: Vec<&str> = expression.split_whitespace().collect();
    !words.is_empty()
        && words
            .split(|word| *word == "AND")
            .all(|part| part.split(|word| *word == "OR").any(|one| ALLOWED.contains(&one.join(" ").as_str())))
}

/// No crate of the workspace brings back a way out that is not the door, and the core stays without I/O.
pub(crate) fn features(shell: &Shell) -> Result<()> {
    let tree = shell.read("cargo", &["tree", "--workspace", "--locked", "-e", "features", "--prefix", "none"])?;
    if tree.contains("default-send-request") {
        bail!("`wasmtime-wasi-http` is built with `default-send-request`: guests would have a way around the door");
    }
    let core = shell.read("cargo", &["tree", "-p", "tidegate-core", "--locked", "-e", "normal", "--prefix", "none"])?;
    for banned in ["tokio", "wasmtime", "quinn", "hyper", "mio"] {
        if core.lines().any(|line| line.split(' ').next() == Some(banned)) {
            bail!("tidegate-core depends on {banned}: the core has no I/O and no clock");
        }
    }
    for file in walk(&shell.root().join("runtime/core/src"))? {
        let text = fs::read_to_string(&file)?;
        for banned in ["Instant::now", "SystemTime::now", "std::net::Tcp", "std::thread"] {
            if text.contains(banned) {
                bail!("{} uses {banned}: the time comes into the core with each event", file.display());
            }
        }
    }
    Ok(())
}

/// Marks of unfinished work are not landed.
pub(crate) fn words(shell: &Shell) -> Result<()> {
    let mut found = Vec::new();
    for folder in ["runtime", "sdk", "tests", "xtask", "benches"] {
        let folder = shell.root().join(folder);
        if !folder.exists() {
            continue;
        }
        for file in walk(&folder)? {
            if file.ends_with("xtask/src/checks.rs") {
                continue;
            }
            let Ok(text) = fs::read_to_string(&file) else { continue };
            for mark in ["todo!(", "unimplemented!(", "FIXME", "XXX", "unbounded_channel", "mpsc::unbounded"] {
                if text.contains(mark) {
                    found.push(format!("{}: {mark}", file.display()));
                }
            }
        }
    }
    if !found.is_empty() {
        bail!("marks of unfinished or unbounded things:\n  {}", found.join("\n  "));
    }
    Ok(())
}

/// The reference pages are those the program makes.
pub(crate) fn reference_pages(shell: &Shell) -> Result<()> {
    let program = shell.tidegate(false)?;
    for page in ["settings", "problems", "profiles"] {
        let made = shell.read(&program.to_string_lossy(), &["reference", page])?;
        let kept = fs::read_to_string(shell.root().join(format!("docs/{page}.md"))).unwrap_or_default();
        if made.trim() != kept.trim() {
            bail!(
                "docs/{page}.md is not what the program makes; \
                 run: cargo run -p tidegate -- reference {page} > docs/{page}.md"
            );
        }
    }
    Ok(())
}

/// Source files below a folder, without what tools put there.
fn walk(folder: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name();
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                if name != "node_modules" && name != "target" && name != "dist" && name != "build" {
                    folders.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|extension| extension == "rs" || extension == "ts" || extension == "js")
            {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_choice_needs_one_fitting_licence_and_a_conjunction_all() {
        for (expression, answer) in [
            ("MIT OR Apache-2.0", true),
            ("MIT/Apache-2.0", true),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("GPL-3.0", false),
            ("MIT AND GPL-3.0", false),
            ("LGPL-2.1 OR MIT", true),
            ("", false),
        ] {
            assert_eq!(fits(expression), answer, "{expression}");
        }
    }
}
