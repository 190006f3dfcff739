//! The command line.

use clap::{ArgAction, CommandFactory as _, Parser, Subcommand};

use super::{
    api_profiles::ProfilesArgs,
    deploy::DeployArgs,
    destinations::DestinationsArgs,
    dev::DevArgs,
    explain::ExplainArgs,
    failure::EXIT_CODES,
    functions::FunctionsArgs,
    invoke::InvokeArgs,
    login::LoginArgs,
    logs::LogsArgs,
    mock_command::MockArgs,
    run::RunArgs,
    running::DEV_DATA,
    secrets::SecretsArgs,
    serve::ServeArgs,
    steering::{AuditArgs, BrakeArgs, LimitArgs},
    target::Named,
    tokens::TokensArgs,
    top::TopArgs,
    trails::TrailsArgs,
};
use crate::settings::Settings;

/// Run WASM handlers, and send every outbound call through a gate that knows its upstream's limits.
#[derive(Parser, Debug)]
#[command(
    name = "tidegate",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = EXIT_CODES,
    max_term_width = 120
)]
pub(super) struct Cli {
    /// Print JSON: one object, or one a line; errors too
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Cli {
    /// The settings of the node that the command starts, if it starts one.
    pub(super) fn settings_mut(&mut self) -> Option<&mut Settings> {
        match &mut self.command {
            Command::Serve(args) => Some(args.settings_mut()),
            Command::Dev(args) => Some(args.settings_mut()),
            Command::Run(args) => Some(args.settings_mut()),
            _ => None,
        }
    }
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Run a guest, or just the gate, in this terminal
    Dev(DevArgs),
    /// Run a program with its base URLs led through a gate
    Run(RunArgs),
    /// Run a node that others use
    Serve(ServeArgs),
    /// Run a fake OpenAI and Anthropic upstream that refuses, stalls and fails on demand
    MockLlm(MockArgs),
    /// Deploy a function, or a new version of it
    Deploy(DeployArgs),
    /// Send a request to a function
    Invoke(InvokeArgs),
    /// List, show, roll back and remove functions
    #[command(visible_alias = "fn")]
    Functions(FunctionsArgs),
    /// Show what a function prints, and follow it
    Logs(LogsArgs),
    /// List, show, set and remove destinations and their limits
    #[command(visible_alias = "dest")]
    Destinations(DestinationsArgs),
    /// Hold a destination: calls wait until it is resumed
    Pause(BrakeArgs),
    /// Take no further calls for a destination; what waits leaves
    Drain(BrakeArgs),
    /// Let a destination go that is paused, by whomever, or draining
    Resume(Named),
    /// Refuse all calls that wait for a destination
    Flush(Named),
    /// Give a destination other limits for a time
    #[command(after_help = "Example: tidegate limit openai --limit 5/1s --for 30m --reason \"they asked us to\"")]
    Limit(LimitArgs),
    /// Show who changed what
    Audit(AuditArgs),
    /// Show what is known of the APIs of well-known services
    Profiles(ProfilesArgs),
    /// Find invocations and calls, and show what happened to one
    Trails(TrailsArgs),
    /// Show where the time of a request went, as a timeline with a verdict
    Explain(ExplainArgs),
    /// Watch destinations, functions and calls as they live
    Top(TopArgs),
    /// List, set, bind and remove secrets
    Secrets(SecretsArgs),
    /// List, make and revoke tokens
    Tokens(TokensArgs),
    /// Save a server and a token
    Login(LoginArgs),
    /// Print a reference page as Markdown
    Reference {
        /// Which page
        page: Page,
    },
}

/// Pages that are made from the code.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Page {
    /// Every setting of a node
    Settings,
    /// Every kind of problem+json
    Problems,
    /// What is known of well-known APIs
    Profiles,
}

/// Stands for a data directory that is made for this run and removed after it.
pub(super) const TEMPORARY: &str = "(temporary)";

/// Settings that `dev` shows in its help; all others are there without being shown.
const SHOWN_IN_DEV: [&str; 4] = ["listen", "control_listen", "data", "log"];

/// The command line as clap knows it.
pub(super) fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("dev", |dev| {
            let dev = dev.mut_arg("data", |arg| arg.default_value(DEV_DATA));
            local(dev, &SHOWN_IN_DEV).mut_arg("log", |arg| arg.default_value("warn"))
        })
        .mut_subcommand("run", |run| {
            let run = run
                .mut_arg("data", |arg| arg.default_value(TEMPORARY))
                .mut_arg("listen", |arg| arg.default_value("127.0.0.1:0"))
                .mut_arg("control_listen", |arg| arg.default_value("127.0.0.1:0"));
            local(run, &[]).mut_arg("log", |arg| arg.default_value("error"))
        })
}

/// Defaults of a node that serves one person on this machine; of the settings only those named are shown.
fn local(mut command: clap::Command, shown: &[&str]) -> clap::Command {
    command = command
        // A flag of clap's: its default is told from its action.
        .mut_arg("allow_any_host", |arg| arg.action(ArgAction::Set).default_value("true"))
        .mut_arg("drain_timeout", |arg| arg.default_value("2s"))
        // It shows its calls itself.
        .mut_arg("call_log", |arg| arg.default_value("off"));
    let settings = <Settings as clap::Args>::augment_args(clap::Command::new("settings"));
    for setting in settings.get_arguments().map(|setting| setting.get_id().as_str()) {
        let is_shown = shown.contains(&setting);
        command = command.mut_arg(setting, |arg| arg.hide(!is_shown));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Cli {
        use clap::FromArgMatches as _;
        Cli::from_arg_matches(&command().try_get_matches_from(line).unwrap()).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn dev_and_run_have_the_defaults_of_a_private_node_and_serve_has_not() {
        let Command::Dev(dev) = parse(&["tidegate", "dev"]).command else { panic!() };
        let settings = dev.settings();
        assert!(settings.guest.allow_any_host);
        assert_eq!(settings.node.data.as_os_str(), DEV_DATA);
        let Command::Run(run) = parse(&["tidegate", "run", "--call-deadline", "3s", "x", "--listen"]).command else {
            panic!()
        };
        assert_eq!(run.settings().node.listen.port(), 0);
        assert_eq!(run.settings().outbound.call_deadline.get().as_secs(), 3);
        let Command::Serve(serve) = parse(&["tidegate", "serve"]).command else { panic!() };
        assert!(!serve.settings().guest.allow_any_host && serve.settings().outbound.egress_allow.is_empty());
    }

    #[test]
    fn json_may_be_asked_for_before_and_after_any_command_but_not_by_what_a_child_is_given() {
        for line in [
            "tidegate --json functions",
            "tidegate functions --json",
            "tidegate tokens ls --json",
            "tidegate serve --json",
            "tidegate mock-llm --json",
            "tidegate reference problems --json",
            "tidegate run --json program",
        ] {
            assert!(parse(&line.split(' ').collect::<Vec<_>>()).json, "{line}");
        }
        for line in ["tidegate run program --json", "tidegate run -- program --json"] {
            assert!(!parse(&line.split(' ').collect::<Vec<_>>()).json, "{line}");
        }
    }

    #[test]
    fn every_setting_stands_in_the_help_of_serve() {
        let mut command = command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        let settings = <Settings as clap::Args>::augment_args(clap::Command::new("settings"));
        for setting in settings.get_arguments() {
            assert!(
                help.contains(&format!("--{} ", setting.get_long().unwrap()))
                    || help.contains(&format!("--{}\n", setting.get_long().unwrap())),
                "{setting}"
            );
        }
    }
}
