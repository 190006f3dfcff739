//! `cargo xtask guests`: from the projects under `guests/` to `guests/build/NAME.wasm`.
//!
//! A folder with a `Cargo.toml` is a Rust guest, one with a `package.json` a TypeScript guest; its name is the folder's. What
//! a guest is made from is hashed (`inputs`), and a guest whose hash has not changed is left alone. The toolchains are looked
//! for, and installed where that can be done without asking (`rust`, `node`).

mod inputs;
mod node;
mod rust;

use crate::shell::root;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `cargo xtask guests`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Guests to build, by name, or by the path of a project anywhere; all of the repository's when none is named
    names: Vec<String>,
    /// Build even what is up to date
    #[arg(long)]
    force: bool,
    /// List the guests and do nothing
    #[arg(long)]
    list: bool,
}

/// What a guest is written in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Language {
    Rust,
    TypeScript,
}

/// A guest's project.
#[derive(Debug)]
struct Guest {
    name: String,
    folder: PathBuf,
    language: Language,
}

/// Builds what was asked for and returns the components' paths.
pub(crate) fn run(args: &Args) -> Result<Vec<PathBuf>> {
    let guests = choose(find()?, &args.names)?;
    if args.list {
        for guest in &guests {
            println!("{:<16} {:?}", guest.name, guest.language);
        }
        return Ok(Vec::new());
    }
    let build = root().join("guests/build");
    fs::create_dir_all(&build).with_context(|| format!("cannot create {}", build.display()))?;

    let mut toolchains = Toolchains::default();
    let mut built = Vec::new();
    for guest in &guests {
        let started = Instant::now();
        let target = build.join(format!("{}.wasm", guest.name));
        let stamp = build.join(format!(".{}.inputs", guest.name));
        let inputs = inputs::hash(guest)?;
        if !args.force && target.exists() && fs::read_to_string(&stamp).is_ok_and(|old| old == inputs) {
            println!("{:<16} up to date", guest.name);
            built.push(target);
            continue;
        }
        toolchains
            .build(guest, &target)
            .with_context(|| format!("the guest {} ({}) was not built", guest.name, guest.folder.display()))?;
        fs::write(&stamp, inputs).with_context(|| format!("cannot write {}", stamp.display()))?;
        let bytes = fs::metadata(&target)?.len();
        println!("{:<16} {:>7.1} kB in {:.1} s", guest.name, bytes as f64 / 1e3, started.elapsed().as_secs_f64());
        built.push(target);
    }
    Ok(built)
}

/// The toolchains, each prepared when its first guest needs it.
#[derive(Default)]
struct Toolchains {
    rust: Option<rust::Toolchain>,
    node: Option<node::Toolchain>,
}

impl Toolchains {
    fn build(&mut self, guest: &Guest, target: &Path) -> Result<()> {
        match guest.language {
            Language::Rust => {
                let rust = match self.rust.take() {
                    Some(ready) => ready,
                    None => rust::Toolchain::prepare()?,
                };
                self.rust.insert(rust).build(&guest.folder, target)
            }
            Language::TypeScript => {
                let node = match self.node.take() {
                    Some(ready) => ready,
                    None => node::Toolchain::prepare()?,
                };
                self.node.insert(node).build(&guest.folder, target)
            }
        }
    }
}

/// The guest whose project is in `folder`.
fn at(folder: PathBuf) -> Option<Guest> {
    let language = if folder.join("Cargo.toml").exists() {
        Language::Rust
    } else if folder.join("package.json").exists() {
        Language::TypeScript
    } else {
        return None;
    };
    let name = folder.file_name()?.to_string_lossy().into_owned();
    Some(Guest { name, folder, language })
}

/// Every guest of the repository, by name.
fn find() -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for parent in [root().join("guests"), root().join("guests/tests")] {
        for entry in fs::read_dir(&parent).with_context(|| format!("cannot read {}", parent.display()))? {
            guests.extend(at(entry?.path()));
        }
    }
    ensure!(!guests.is_empty(), "there are no guests under {}", root().join("guests").display());
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(guests)
}

/// The guests called `names`; all when there are none. An unknown name is an error that lists the known ones.
fn choose(mut guests: Vec<Guest>, names: &[String]) -> Result<Vec<Guest>> {
    if names.is_empty() {
        return Ok(guests);
    }
    let (paths, names): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.contains(std::path::MAIN_SEPARATOR));
    let mut elsewhere = Vec::new();
    for path in paths {
        let folder = fs::canonicalize(path).with_context(|| format!("cannot read {path}"))?;
        elsewhere.push(at(folder).with_context(|| format!("{path} has neither Cargo.toml nor package.json"))?);
    }
    if let Some(unknown) = names.iter().find(|name| !guests.iter().any(|guest| guest.name == ***name)) {
        let known = guests.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>().join(", ");
        bail!("there is no guest {unknown}; there are {known}");
    }
    guests.retain(|guest| names.contains(&&guest.name));
    guests.extend(elsewhere);
    Ok(guests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_guests_are_found_in_both_languages() {
        let guests = find().unwrap();
        let language = |name: &str| guests.iter().find(|guest| guest.name == name).map(|guest| guest.language);
        assert_eq!(language("hello-rust"), Some(Language::Rust));
        assert_eq!(language("hello-ts"), Some(Language::TypeScript));
        assert_eq!(language("misbehave"), Some(Language::Rust));
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let error = choose(find().unwrap(), &["helo".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("no guest helo") && error.contains("hello-ts"), "{error}");
    }
}
