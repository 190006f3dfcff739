//! `tidegate.toml`: a function's name, its module, and the configuration that the API takes.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::failure::{Exit, Failure};

/// What a manifest says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Manifest {
    /// Key `name`: the function.
    pub(super) name: Option<String>,
    /// Key `module`: the `.wasm` file, relative to the manifest.
    pub(super) module: Option<PathBuf>,
    /// Every other key, as the API takes it.
    pub(super) config: Map<String, Value>,
}

/// The manifest that counts where none is named.
pub(super) const DEFAULT: &str = "tidegate.toml";

impl Manifest {
    /// Reads a manifest: TOML, or JSON where its name ends in `.json`.
    pub(super) fn load(path: &Path) -> Result<Self, Failure> {
        let mut config = read_object(path)?;
        let mut take = |key: &str| match config.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Failure::new(Exit::Usage, format!("{}: `{key}` must be a text", path.display()))),
        };
        let name = take("name")?;
        let module = take("module")?.map(|module| path.parent().unwrap_or(Path::new("")).join(module));
        Ok(Self { name, module, config })
    }

    /// The manifest that is named, else `tidegate.toml` where there is one, else an empty one.
    pub(super) fn find(named: Option<&Path>) -> Result<Self, Failure> {
        match named {
            Some(path) => Self::load(path),
            None if Path::new(DEFAULT).is_file() => Self::load(Path::new(DEFAULT)),
            None => Ok(Self::default()),
        }
    }

    /// Sets variables, over those of the file.
    pub(super) fn set_env(&mut self, pairs: &[(String, String)]) {
        if !pairs.is_empty() {
            let env = self.config.entry("env").or_insert_with(|| json!({}));
            if let Some(env) = env.as_object_mut() {
                env.extend(pairs.iter().map(|(name, value)| (name.clone(), json!(value))));
            }
        }
    }

    /// Allows hosts, besides those of the file.
    pub(super) fn allow_hosts(&mut self, hosts: &[String]) {
        self.add("allowed_hosts", hosts);
    }

    /// Names secrets, besides those of the file.
    pub(super) fn add_secrets(&mut self, names: &[String]) {
        self.add("secrets", names);
    }

    fn add(&mut self, key: &str, texts: &[String]) {
        if texts.is_empty() {
            return;
        }
        let list = self.config.entry(key).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            for text in texts {
                if !list.iter().any(|known| known == text) {
                    list.push(json!(text));
                }
            }
        }
    }
}

/// Reads a TOML or JSON file (`-`: JSON on stdin) as one object.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>, Failure> {
    let wrong = |why: &dyn std::fmt::Display| Failure::new(Exit::Usage, format!("{}: {why}", path.display()));
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).map_err(|error| wrong(&error))?
    } else {
        std::fs::read_to_string(path).map_err(|error| wrong(&error))?
    };
    let is_json = path == Path::new("-") || path.extension().is_some_and(|extension| extension == "json");
    let value: Value = if is_json {
        serde_json::from_str(&text).map_err(|error| wrong(&error))?
    } else {
        let table: toml::Table = toml::from_str(&text).map_err(|error| wrong(&error))?;
        serde_json::to_value(table).map_err(|error| wrong(&error))?
    };
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(wrong(&"one object is needed")),
    }
}

/// Reads `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, text: &str) -> Result<Manifest, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        Manifest::load(&path)
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = load("tidegate.toml", "name = \"agent\"\nallowed_hosts = [\"a.b\"]\n[limits]\nmemory = \"64MiB\"\n");
        let json =
            load("x.json", r#"{"name": "agent", "allowed_hosts": ["a.b"], "limits": {"memory": "64MiB"}}"#).unwrap();
        assert_eq!(toml.unwrap(), json);
        assert_eq!(json.name.as_deref(), Some("agent"));
        assert_eq!(json.config["limits"]["memory"], "64MiB");
        assert!(!json.config.contains_key("name"));
    }

    #[test]
    fn the_module_is_relative_to_the_manifest() {
        let module = load("tidegate.toml", "module = \"dist/x.wasm\"").unwrap().module.unwrap();
        assert!(module.is_absolute() && module.ends_with("dist/x.wasm"));
    }

    #[test]
    fn flags_add_to_the_file_and_win_over_it() {
        let mut manifest = load("tidegate.toml", "allowed_hosts = [\"a.b\"]\n[env]\nA = \"1\"\nB = \"1\"\n").unwrap();
        manifest.set_env(&[("B".into(), "2".into()), ("C".into(), "3".into())]);
        manifest.allow_hosts(&["a.b".into(), "c.d".into()]);
        assert_eq!(manifest.config["env"], json!({"A": "1", "B": "2", "C": "3"}));
        assert_eq!(manifest.config["allowed_hosts"], json!(["a.b", "c.d"]));
    }

    #[test]
    fn a_broken_file_is_named_with_the_place() {
        let failure = load("tidegate.toml", "name = ").unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.what.contains("tidegate.toml"), "{}", failure.what);
    }
}
