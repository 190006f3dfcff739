//! Two ways to build a Rust guest, tried in this order:
//!
//! 1. rustup's `wasm32-wasip2` target gives a component.
//! 2. Where that target cannot be had, Debian's second toolchain (`rustc-web`) builds std from its source package. It makes a
//!    core module that carries its component type; wrapping it is a matter of milliseconds.

use crate::shell::{apt_install, output, root, version};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wit_component::ComponentEncoder;

const TARGET: &str = "wasm32-wasip2";
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-19"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_LINKER: &str = "/usr/lib/llvm-19/bin/wasm-ld";
/// Set to `debian` to skip rustup, as on a machine that has none.
const CHOICE: &str = "TIDEGATE_GUEST_TOOLCHAIN";

/// How Rust guests are built on this machine.
pub(super) enum Toolchain {
    Rustup,
    Debian,
}

impl Toolchain {
    /// Finds a toolchain, installing what is missing where that needs no question. The error says what to do by hand.
    pub(super) fn prepare() -> Result<Self> {
        let rustup = if std::env::var(CHOICE).is_ok_and(|choice| choice == "debian") {
            Err(anyhow!("{CHOICE} is set to debian"))
        } else {
            add_target()
        };
        let Err(no_rustup) = rustup else { return Ok(Self::Rustup) };
        match debian() {
            Ok(()) => Ok(Self::Debian),
            Err(no_debian) => bail!(
                "Rust guests need a toolchain for WebAssembly, and neither way worked.\n\
                 1. rustup: {no_rustup:#}\n   Cure: rustup target add {TARGET}\n\
                 2. Debian: {no_debian:#}\n   Cure: apt-get install --no-install-recommends {}",
                DEBIAN_PACKAGES.join(" ")
            ),
        }
    }

    /// Builds the guest in `folder` into the component file `target`.
    pub(super) fn build(&self, folder: &Path, target: &Path) -> Result<()> {
        let name = folder.file_name().map(|name| name.to_string_lossy().replace('-', "_")).unwrap_or_default();
        let built = match self {
            Self::Rustup => {
                cargo(Command::new("cargo").args(["build", "--release", "--target", TARGET]), folder)?;
                target_folder().join(TARGET)
            }
            Self::Debian => {
                let mut command = Command::new(DEBIAN_CARGO);
                command.args(["build", "--release", "--target", "wasm32-unknown-unknown"]);
                command.args(["-Z", "build-std=std,panic_abort"]);
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER);
                cargo(&mut command, folder)?;
                target_folder().join("wasm32-unknown-unknown")
            }
        };
        let module = built.join("release").join(format!("{name}.wasm"));
        let bytes = fs::read(&module).with_context(|| format!("cargo built no {}", module.display()))?;
        let component = match self {
            Self::Rustup => bytes,
            Self::Debian => ComponentEncoder::default()
                .validate(true)
                .module(&bytes)
                .and_then(ComponentEncoder::encode)
                .with_context(|| format!("{} cannot be made a component", module.display()))?,
        };
        let partial = target.with_extension("partial");
        fs::write(&partial, component).with_context(|| format!("cannot write {}", partial.display()))?;
        fs::rename(&partial, target).with_context(|| format!("cannot write {}", target.display()))
    }
}

/// Guests keep out of the host's target folder: another target, other flags, and a cargo that may be waiting for this one.
fn target_folder() -> PathBuf {
    root().join("target/guests")
}

/// Runs cargo in a guest's folder, free of what the outer cargo put in the environment for itself.
fn cargo(command: &mut Command, folder: &Path) -> Result<()> {
    for (name, _) in std::env::vars() {
        let outer = name.starts_with("CARGO_") && !matches!(name.as_str(), "CARGO_HOME" | "CARGO_NET_OFFLINE")
            || matches!(name.as_str(), "CARGO" | "RUSTC" | "RUSTFLAGS" | "RUSTC_WRAPPER" | "LD_LIBRARY_PATH");
        // Whatever configures registries stays: it may be the only way to reach one.
        if outer && !name.starts_with("CARGO_REGISTR") && !name.starts_with("CARGO_HTTP") {
            command.env_remove(name);
        }
    }
    command.env("CARGO_TARGET_DIR", target_folder());
    command.args(["--quiet", "--color", "always"]).current_dir(folder);
    output(command).map(|_| ())
}

/// Makes sure that the toolchain of this repository has the target.
fn add_target() -> Result<()> {
    ensure!(version("rustup").is_some(), "there is no rustup");
    let installed = output(Command::new("rustup").args(["target", "list", "--installed"]).current_dir(root()))?;
    if installed.lines().any(|line| line == TARGET) {
        return Ok(());
    }
    println!("adding rustup's target {TARGET}");
    output(Command::new("rustup").args(["--quiet", "target", "add", TARGET]).current_dir(root())).map(|_| ())
}

/// Makes sure that Debian's second toolchain is there.
fn debian() -> Result<()> {
    let complete = || {
        [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_LINKER].iter().all(|path| Path::new(path).exists())
            && output(Command::new("dpkg-query").args(["-W", "-f", "${Status}", "rust-web-src"]))
                .is_ok_and(|status| status.ends_with("installed"))
    };
    if complete() {
        return Ok(());
    }
    apt_install(&DEBIAN_PACKAGES)?;
    ensure!(
        complete(),
        "the packages were installed, but {DEBIAN_RUSTC}, {DEBIAN_CARGO} or {DEBIAN_LINKER} is missing"
    );
    Ok(())
}
