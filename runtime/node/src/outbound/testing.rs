//! What unit tests of this module share.

use clap::{Args, Command, FromArgMatches};

use crate::settings::OutboundSettings;

/// The default settings, with these flags.
pub(crate) fn settings(flags: &[&str]) -> OutboundSettings {
    let command = OutboundSettings::augment_args(Command::new("test"));
    let matches = command.get_matches_from(["test"].iter().chain(flags));
    OutboundSettings::from_arg_matches(&matches).unwrap()
}
