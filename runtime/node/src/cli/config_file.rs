//! `--config node.toml`: its values become defaults before the command line is read.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::Command;

use super::failure::{Exit, Failure};
use crate::settings::parse_with_file;

/// Commands that take the settings of a node.
const WITH_SETTINGS: [&str; 3] = ["serve", "dev", "run"];

/// The command with the defaults of the file that the arguments or `TIDEGATE_CONFIG` name.
pub(super) fn apply(
    mut command: Command,
    arguments: &[OsString],
    variable: Option<OsString>,
) -> Result<Command, Failure> {
    let Some(name) = arguments.get(1).and_then(|argument| argument.to_str()) else { return Ok(command) };
    let Some(name) = WITH_SETTINGS.into_iter().find(|known| *known == name) else { return Ok(command) };
    let named = named(arguments.get(2..).unwrap_or_default());
    let Some(path) = named.or(variable).filter(|path| !path.is_empty()).map(PathBuf::from) else { return Ok(command) };
    let mut outcome = Ok(());
    command = command.mut_subcommand(name, |subcommand| {
        parse_with_file(subcommand.clone(), &path).unwrap_or_else(|error| {
            outcome =
                Err(Failure::new(Exit::Usage, error.to_string()).next("`tidegate serve --help` lists the settings"));
            subcommand
        })
    });
    outcome.map(|()| command)
}

/// The value of `--config`, read before clap reads: what comes after `--` is not ours.
fn named(arguments: &[OsString]) -> Option<OsString> {
    let mut arguments = arguments.iter().take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().cloned();
        }
        if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(OsStr::new(path).to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named_in(arguments: &[&str]) -> Option<OsString> {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        named(&arguments)
    }

    #[test]
    fn the_file_is_found_in_both_forms_and_never_in_the_childs_arguments() {
        assert_eq!(named_in(&["--listen", "x", "--config", "a.toml"]), Some("a.toml".into()));
        assert_eq!(named_in(&["--config=b.toml"]), Some("b.toml".into()));
        assert_eq!(named_in(&["--", "program", "--config", "theirs"]), None);
        assert_eq!(named_in(&["--config"]), None);
    }
}
