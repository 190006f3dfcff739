//! The reference page of all settings, made from the same declarations as `--help`.

use clap::{Args, Command};

use super::Settings;

/// The page as Markdown: one table a group with flag, variable, key, default and meaning.
pub fn reference_page() -> String {
    let command = Settings::augment_args(Command::new("serve"));
    let mut page = String::from(
        "# Settings of a node\n\n\
         Each setting can be given as a flag of `tidegate serve`, as a variable, or as a key in `node.toml`\n\
         (`--config FILE`); the first one found in that order counts, then the default. Durations are written as\n\
         `250ms`, `1s`, `5m`, `1h`, sizes as `64MiB`.\n",
    );
    let mut heading = None;
    for arg in command.get_arguments() {
        let this = arg.get_help_heading().unwrap_or("Node");
        if heading != Some(this) {
            page.push_str(&format!(
                "\n## {this}\n\n| flag | variable | key | default | meaning |\n|---|---|---|---|---|\n"
            ));
            heading = Some(this);
        }
        let key = arg.get_id();
        let flag = arg.get_long().unwrap_or_default();
        let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let default: Vec<_> =
            arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
        let default = if default.is_empty() { "none".to_owned() } else { default.join(", ") };
        let meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
        page.push_str(&format!("| `--{flag}` | `{variable}` | `{key}` | {default} | {meaning} |\n"));
    }
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_setting_has_a_flag_a_variable_named_after_its_key_and_a_text() {
        use clap::{Args, Command};
        let command = crate::settings::Settings::augment_args(Command::new("serve"));
        for arg in command.get_arguments() {
            let key = arg.get_id().as_str();
            assert_eq!(arg.get_long(), Some(key.replace('_', "-").as_str()));
            let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
            assert_eq!(variable, Some(format!("TIDEGATE_{}", key.to_uppercase())));
            assert!(arg.get_help().is_some(), "{key}");
        }
    }
}
