//! `tidegate destinations`: limits as configured and as they live, made, changed and removed.

mod cache;
pub(super) mod limits;
pub(super) mod live;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    api::{Api, segment},
    failure::{Exit, Failure},
    manifest::read_object,
    output::{Cell, Out, note, paint},
    target::{ClientArgs, ClientOnly, Named},
};
use crate::outbound::Profile;

/// Arguments of `tidegate destinations`.
#[derive(Args, Debug)]
pub(super) struct DestinationsArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List destinations with their live state (default)
    Ls(ClientOnly),
    /// Show a destination: its configuration and live state
    Show(Named),
    /// Make or replace a destination, from flags or a file
    #[command(after_help = "Example: tidegate destinations put openai --match https://api.openai.com --limit 500/1m")]
    Put(Box<Put>),
    /// Remove a destination
    Rm(Named),
    /// Forget stored answers of a destination, all or those to one URL
    Purge(cache::Purge),
}

#[derive(Args, Debug)]
struct Put {
    /// The destination
    name: String,
    /// TOML or JSON file with its configuration; flags win over it. `-`: JSON on stdin
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Origin or pattern: https://api.openai.com, https://*.example.com
    #[arg(long = "match", value_name = "ORIGIN", required_unless_present = "file")]
    matches: Option<String>,
    /// Limit: QUOTA/PERIOD, as 500/1m or 90000/1m:tokens, with +BURST at the end if wanted. Repeatable
    #[arg(long = "limit", value_name = "LIMIT", value_parser = limits::parse)]
    limits: Vec<Value>,
    /// Calls in flight at once
    #[arg(long, value_name = "COUNT")]
    max_concurrency: Option<u32>,
    /// What has limits of its own: header:NAME, query:NAME, path:/with/{name}, body:/json/pointer. Repeatable
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    split_by: Vec<String>,
    /// One of several equal ways to it: URL, then ,name=N ,region=R ,weight=W ,strip=/v1
    /// ,secret=NAME ,inject=TEMPLATE as wanted. Repeatable
    #[arg(long = "endpoint", value_name = "ENDPOINT", value_parser = limits::endpoint)]
    endpoints: Vec<Value>,
    /// Whether calls may be repeated
    #[arg(long, value_name = "WHEN", value_parser = ["never", "keyed", "always"])]
    repeatable: Option<String>,
    /// Secret that requests through /to are given in the place of the caller's own key
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// Where it is put: "authorization: Bearer {}", "x-api-key: {}", "?key={}". Default: where the API takes its keys. Only where `secrets bind --in` lets it stand
    #[arg(long, value_name = "TEMPLATE")]
    inject: Option<String>,
    /// Deadline of its calls
    #[arg(long, value_name = "DURATION")]
    deadline: Option<tidegate_core::units::Span>,
    #[arg(long, value_name = "API", help = profiles())]
    api_profile: Option<String>,
    #[command(flatten)]
    cache: cache::CacheFlags,
    #[command(flatten)]
    client: ClientArgs,
}

fn profiles() -> String {
    format!("What is known of a service's API, to begin from: {}. The server may know more", Profile::names())
}

/// Runs the command.
pub(super) async fn run(args: DestinationsArgs, out: Out) -> Result<Exit, Failure> {
    match args.action {
        None => list(&Api::new(&args.client, out)?).await,
        Some(Action::Ls(only)) => list(&Api::new(&only.client, out)?).await,
        Some(Action::Show(named)) => show(&Api::new(&named.client, out)?, &named.name).await,
        Some(Action::Put(put)) => set(&Api::new(&put.client, out)?, &put).await,
        Some(Action::Rm(named)) => remove(&Api::new(&named.client, out)?, &named.name).await,
        Some(Action::Purge(purge)) => cache::purge(&Api::new(&purge.client, out)?, &purge).await,
    }
}

async fn list(api: &Api) -> Result<Exit, Failure> {
    let (configured, live) = all(api).await?;
    if api.out.is_json() {
        api.out.value(&json!({"destinations": configured, "live": live}))?;
        return Ok(Exit::Ok);
    }
    if configured.is_empty() && live.is_empty() {
        api.out.line("no destination is configured and none was called yet; limits are learned as calls are made")?;
        return Ok(Exit::Ok);
    }
    if !configured.is_empty() {
        let rows: Vec<_> = configured.iter().map(configured_row).collect();
        api.out.table(&["name", "match", "limits", "at once", "split by"], &rows)?;
    }
    if !live.is_empty() {
        api.out.line("")?;
        live::table(api.out, &live)?;
    }
    Ok(Exit::Ok)
}

/// Live destinations that are asked for at once: as many as the node shows.
const PAGE: usize = 1_000;

/// What is configured and all that lives, page by page.
async fn all(api: &Api) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let (mut live, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/destinations?limit={PAGE}{after}");
        let mut page = api.get(&path, "listing destinations").await?;
        let mut list = |key: &str| match page.get_mut(key).map(Value::take) {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        };
        // The same on every page.
        let configured = list("destinations");
        live.append(&mut list("live"));
        match page.get("next").and_then(Value::as_str) {
            Some(next) => after = format!("&after={}", segment(next)),
            None => return Ok((configured, live)),
        }
    }
}

fn configured_row(destination: &Value) -> Vec<Cell> {
    let text = |pointer: &str| destination.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
    let list = |pointer: &str| destination.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let joined = |texts: Vec<String>| if texts.is_empty() { "-".to_owned() } else { texts.join(", ") };
    let at_once = destination.pointer("/config/max_concurrency").and_then(Value::as_u64);
    let split: Vec<_> = list("/config/split_by").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    vec![
        Cell::styled(text("/name"), paint::BOLD),
        text("/config/match").into(),
        joined(list("/config/limits").iter().map(limits::show).collect()).into(),
        at_once.map_or("-".into(), |count| count.to_string()).into(),
        joined(split).into(),
    ]
}

async fn show(api: &Api, name: &str) -> Result<Exit, Failure> {
    let path = format!("/v1/destinations/{}", segment(name));
    let destination = api.get(&path, &format!("showing `{name}`")).await?;
    if api.out.is_json() {
        api.out.value(&destination)?;
        return Ok(Exit::Ok);
    }
    let config = destination.get("config").cloned().unwrap_or_default();
    api.out.line(format_args!("{config:#}"))?;
    let live = match destination.get("live") {
        Some(Value::Array(live)) => live.clone(),
        Some(Value::Null) | None => Vec::new(),
        Some(one) => vec![one.clone()],
    };
    if live.is_empty() {
        api.out.line("not called yet")?
    } else {
        live::table(api.out, &live)?
    }
    Ok(Exit::Ok)
}

async fn set(api: &Api, put: &Put) -> Result<Exit, Failure> {
    let name = &put.name;
    let config = put.config()?;
    let path = format!("/v1/destinations/{}", segment(name));
    let made = api.json(Method::PUT, &path, Some(&Value::Object(config)), &format!("setting `{name}`")).await?;
    for warning in made.get("warnings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        note(format_args!("{warn}warning:{warn:#} {warning}", warn = paint::WARN));
    }
    if api.out.is_json() {
        api.out.value(&made)?;
    } else {
        let revision = made.get("revision").and_then(Value::as_u64);
        let revision = revision.map_or_else(|| "unchanged".to_owned(), |revision| format!("revision {revision}"));
        api.out.line(format_args!("{name}: {revision}"))?;
    }
    Ok(Exit::Ok)
}

impl Put {
    /// The file's configuration with the flags over it.
    fn config(&self) -> Result<Map<String, Value>, Failure> {
        let mut config = match &self.file {
            Some(file) => read_object(file)?,
            None => Map::new(),
        };
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                config.insert(key.to_owned(), value);
            }
        };
        set("match", self.matches.as_ref().map(|text| json!(text)));
        set("profile", self.api_profile.as_ref().map(|text| json!(text)));
        set("split_by", (!self.split_by.is_empty()).then(|| json!(self.split_by)));
        set("limits", (!self.limits.is_empty()).then(|| json!(self.limits)));
        set("max_concurrency", self.max_concurrency.map(|count| json!(count)));
        set("endpoints", (!self.endpoints.is_empty()).then(|| json!(self.endpoints)));
        set("secret", self.secret.as_ref().map(|text| json!(text)));
        set("inject", self.inject.as_ref().map(|text| json!(text)));
        set("repeatable", self.repeatable.as_ref().map(|text| json!(text)));
        if let Some(deadline) = self.deadline {
            let policy = config.entry("policy").or_insert_with(|| json!({}));
            if let Some(policy) = policy.as_object_mut() {
                policy.insert("deadline".into(), json!(deadline));
            }
        }
        self.cache.apply(&mut config);
        Ok(config)
    }
}

async fn remove(api: &Api, name: &str) -> Result<Exit, Failure> {
    let path = format!("/v1/destinations/{}", segment(name));
    api.json(Method::DELETE, &path, None, &format!("removing `{name}`")).await?;
    if api.out.is_json() {
        api.out.value(&json!({"removed": name}))?;
    } else {
        api.out.line(format_args!("{name}: removed"))?;
    }
    Ok(Exit::Ok)
}
