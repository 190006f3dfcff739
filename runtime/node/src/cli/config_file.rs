//! `--config node.toml`: its values become defaults before the command line is read.

use std::{ffi::OsString, path::PathBuf};

use clap::{Command, parser::ValueSource};

use super::failure::{Exit, Failure};
use crate::settings::parse_with_file;

/// Commands that take the settings of a node.
const WITH_SETTINGS: [&str; 3] = ["serve", "dev", "run"];

/// The command with the defaults of the file that the arguments or `TIDEGATE_CONFIG` name, and the keys in it.
pub(super) fn apply(
    mut command: Command,
    arguments: &[OsString],
    variable: Option<OsString>,
) -> Result<(Command, Vec<String>), Failure> {
    // The flags before a subcommand take no values.
    let mut words = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    let name = words.find(|word| !word.starts_with('-')).unwrap_or_default();
    let Some(name) = WITH_SETTINGS.into_iter().find(|known| *known == name) else { return Ok((command, Vec::new())) };
    let named = named(&command, arguments);
    let Some(path) = named.or(variable).filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return Ok((command, Vec::new()));
    };
    let mut outcome = Ok(Vec::new());
    command = command.mut_subcommand(name, |subcommand| match parse_with_file(subcommand.clone(), &path) {
        Ok((subcommand, keys)) => {
            outcome = Ok(keys);
            subcommand
        }
        Err(error) => {
            outcome =
                Err(Failure::new(Exit::Usage, error.to_string()).next("`tidegate serve --help` lists the settings"));
            subcommand
        }
    });
    outcome.map(|keys| (command, keys))
}

/// The value of `--config` as clap reads it, so that a child's own `--config` is never taken for ours. Errors are kept
/// for the reading that counts, which knows the file.
fn named(command: &Command, arguments: &[OsString]) -> Option<OsString> {
    let matches = command.clone().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    let (_, matches) = matches.subcommand()?;
    if matches.value_source("config") != Some(ValueSource::CommandLine) {
        return None;
    }
    matches.get_one::<PathBuf>("config").map(|path| path.clone().into_os_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named_in(arguments: &[&str]) -> Option<OsString> {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        named(&super::super::args::command(), &arguments)
    }

    #[test]
    fn the_file_is_found_in_both_forms_and_never_in_the_childs_arguments() {
        let named = |line: &str| named_in(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(named("tidegate dev --listen 127.0.0.1:0 --config a.toml"), Some("a.toml".into()));
        assert_eq!(named("tidegate --json serve --config=b.toml"), Some("b.toml".into()));
        assert_eq!(named("tidegate run --config c.toml program --config theirs"), Some("c.toml".into()));
        assert_eq!(named("tidegate run -- program --config theirs"), None);
        assert_eq!(named("tidegate run program --config theirs"), None);
        assert_eq!(named("tidegate serve --config"), None);
    }
}
