//! What unit tests of this module share.

use clap::{Args, Command, FromArgMatches};

use crate::settings::GuestSettings;

/// The default settings, with these flags.
pub(crate) fn settings(flags: &[&str]) -> GuestSettings {
    let command = GuestSettings::augment_args(Command::new("test"));
    let matches = command.get_matches_from(["test"].iter().chain(flags));
    GuestSettings::from_arg_matches(&matches).unwrap().resolved()
}
