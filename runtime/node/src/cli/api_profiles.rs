//! `tidegate profiles`: what this program knows of the APIs of well-known services.

use clap::Args;
use serde_json::{Value, json};

use super::{
    failure::{Exit, Failure},
    output::{Cell, Out, paint},
};
use crate::outbound::Profile;

/// Arguments of `tidegate profiles`.
#[derive(Args, Debug)]
pub(super) struct ProfilesArgs {
    /// The profile to show
    name: Option<String>,
}

/// Runs the command. It asks no server: `GET /v1/profiles` tells what one knows.
pub(super) fn run(args: &ProfilesArgs, out: Out) -> Result<Exit, Failure> {
    match &args.name {
        None if out.is_json() => {
            let profiles: Vec<Value> = Profile::all().iter().map(|profile| profile.to_json()).collect();
            out.value(&json!({"profiles": profiles}))?;
        }
        None => {
            let row = |profile: &&Profile| -> Vec<Cell> {
                let hosts = profile.hosts.join(", ");
                let split = profile.split_by.join(", ");
                vec![
                    Cell::styled(profile.name, paint::BOLD),
                    profile.about.into(),
                    if hosts.is_empty() { "-".into() } else { hosts.into() },
                    if split.is_empty() { "-".into() } else { split.into() },
                ]
            };
            let rows: Vec<_> = Profile::all().iter().map(row).collect();
            out.table(&["name", "API", "hosts", "split by"], &rows)?;
        }
        Some(name) => {
            let profile = Profile::named(name).ok_or_else(|| {
                Failure::new(Exit::Usage, format!("there is no profile `{name}`; there are {}", Profile::names()))
            })?;
            if out.is_json() {
                out.value(&profile.to_json())?;
            } else {
                out.line(format!("{}: {}", profile.name, profile.about))?;
                for (name, text) in profile.lines() {
                    out.line(format!("  {name:<18} {text}"))?;
                }
            }
        }
    }
    Ok(Exit::Ok)
}
