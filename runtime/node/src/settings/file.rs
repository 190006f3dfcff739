//! `node.toml`: the same settings as the flags, by the same names.
//!
//! The file's values become the defaults of the arguments before clap parses, so that flags win over variables, both
//! win over the file, and a wrong value in the file is reported as one in a flag would be.

use std::path::{Path, PathBuf};

use clap::Command;

use super::nearest;

/// What is wrong with a `node.toml`.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key that is no setting.
    #[error("{}: `{key}` is not a setting{}", path.display(), nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// A setting with a similar name.
        nearest: Option<String>,
    },
    /// A value that is neither text, number, truth value nor a list of them.
    #[error("{}: `{key}` must be a text, a number, true or false, or a list of them", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
}

/// Gives the command's arguments the defaults that the file states. Returns the file's keys, too.
///
/// # Errors
/// When the file can't be read, is not TOML, or names a setting that does not exist.
pub fn parse_with_file(mut command: Command, path: &Path) -> Result<(Command, Vec<String>), FileError> {
    let owned = || path.to_owned();
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read { path: owned(), source })?;
    let table: toml::Table =
        toml::from_str(&text).map_err(|source| FileError::Syntax { path: owned(), source: Box::new(source) })?;
    let known: Vec<String> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    let mut stated = Vec::new();
    for (key, value) in table {
        if !known.contains(&key) || key == "config" {
            let nearest = nearest(&key, known.iter().map(String::as_str)).map(str::to_owned);
            return Err(FileError::UnknownKey { path: owned(), key, nearest });
        }
        let values = as_texts(&value).ok_or_else(|| FileError::WrongType { path: owned(), key: key.clone() })?;
        let values: Vec<clap::builder::OsStr> = values.into_iter().map(clap::builder::OsStr::from).collect();
        command = command.mut_arg(&key, |arg| arg.default_values(values));
        stated.push(key);
    }
    Ok((command, stated))
}

fn as_texts(value: &toml::Value) -> Option<Vec<String>> {
    Some(match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Integer(number) => vec![number.to_string()],
        toml::Value::Float(number) => vec![number.to_string()],
        toml::Value::Boolean(truth) => vec![truth.to_string()],
        toml::Value::Array(items) => {
            let mut texts = Vec::new();
            for item in items {
                match item {
                    toml::Value::Array(_) | toml::Value::Table(_) => return None,
                    item => texts.extend(as_texts(item)?),
                }
            }
            texts
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::{Args, FromArgMatches};

    use super::*;
    use crate::settings::Settings;

    fn parse(toml: &str, flags: &[&str]) -> Result<Settings, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(toml.as_bytes()).unwrap();
        let command = Settings::augment_args(Command::new("serve"));
        let (command, _) = parse_with_file(command, file.path()).map_err(|error| error.to_string())?;
        let arguments = std::iter::once("serve").chain(flags.iter().copied());
        let matches = command.try_get_matches_from(arguments).map_err(|error| error.to_string())?;
        Settings::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn the_file_wins_over_the_default_and_a_flag_over_the_file() {
        let toml = "guest_calls = 7\negress_allow = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\nguest_wall = \"3s\"\n";
        let settings = parse(toml, &["--guest-wall", "4s"]).unwrap();
        assert_eq!(settings.guest.guest_calls, 7);
        assert_eq!(settings.outbound.egress_allow.len(), 2);
        assert_eq!(settings.guest.guest_wall.get(), std::time::Duration::from_secs(4));
        assert_eq!(settings.guest.max_instances, 1_000);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_offers_the_one_meant() {
        let error = parse("guest_cals = 7", &[]).unwrap_err();
        assert!(error.contains("`guest_cals` is not a setting; did you mean `guest_calls`?"), "{error}");
    }

    #[test]
    fn a_wrong_value_in_the_file_is_reported_with_its_flag() {
        let error = parse("guest_wall = \"soon\"", &[]).unwrap_err();
        assert!(error.contains("--guest-wall") && error.contains("`soon` is not a duration"), "{error}");
    }
}
