//! `tidegate login`: saves a server and a token as a profile, once the server has taken the token.

use clap::Args;
use serde_json::json;
use url::Url;

use super::{
    api::Api,
    failure::{Exit, Failure},
    output::{Out, note},
    profiles::{self, Profile, Profiles},
    prompt,
    target::{LOCAL_CONTROL, Target, server_url},
};

/// Arguments of `tidegate login`.
#[derive(Args, Debug)]
pub(super) struct LoginArgs {
    /// Control listener of the server
    #[arg(value_name = "URL", default_value = LOCAL_CONTROL, value_parser = server_url)]
    url: Url,
    /// Token. Default: asked for, or read from stdin
    #[arg(long, env = "TIDEGATE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Name to save it under
    #[arg(long, env = "TIDEGATE_PROFILE", hide_env_values = true, value_name = "NAME", default_value = "default")]
    profile: String,
    /// Data listener of the server, where `tidegate invoke` can't ask for it
    #[arg(long, value_name = "URL", value_parser = server_url)]
    gate: Option<Url>,
}

/// Runs the command.
pub(super) async fn run(args: LoginArgs, out: Out) -> Result<Exit, Failure> {
    let path = profiles::path()?;
    let mut saved = Profiles::load(&path)?;
    let token = match args.token {
        Some(token) => token,
        None => prompt::hidden(&format!("token for {}", args.url))?.trim().to_owned(),
    };
    if token.is_empty() {
        return Err(Failure::new(Exit::Usage, "an empty text is no token").next("give it with --token or on stdin"));
    }
    let target = Target { url: args.url.clone(), token: Some(token.clone()), gate: None, from: String::new() };
    match Api::of(target, out).get("/v1/functions", "trying the token").await {
        Ok(_) => {}
        // Known to the server, but for something else than looking at functions.
        Err(failure) if failure.problem_status() == Some(403) => {
            note("the token may not list functions; it is saved all the same");
        }
        Err(failure) => return Err(failure),
    }
    let url = args.url.as_str().trim_end_matches('/').to_owned();
    let gate = args.gate.map(|gate| gate.as_str().trim_end_matches('/').to_owned());
    saved.profiles.insert(args.profile.clone(), Profile { url: url.clone(), token: Some(token), gate });
    saved.default = Some(args.profile.clone());
    saved.save(&path)?;
    if out.is_json() {
        out.value(&json!({"profile": args.profile, "url": url, "file": path}))?;
    } else {
        out.line(format_args!("saved as profile `{}`, the default from now on: {}", args.profile, path.display()))?;
    }
    Ok(Exit::Ok)
}
