//! `tidegate functions`: what is deployed, which version serves, going back, removing.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    api::{Api, segment},
    failure::{Exit, Failure},
    output::{Cell, Out, ago, bytes, now_ms, paint},
    target::{ClientArgs, ClientOnly, Named},
};

/// Arguments of `tidegate functions`.
#[derive(Args, Debug)]
pub(super) struct FunctionsArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List functions (default)
    Ls(ClientOnly),
    /// Show a function: its versions and configuration
    Show(Named),
    /// Let an older version serve
    Rollback(Rollback),
    /// Remove a function and its versions
    Rm(Named),
}

#[derive(Args, Debug)]
struct Rollback {
    /// The function
    name: String,
    /// Version that shall serve. Default: the one before
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub(super) async fn run(args: FunctionsArgs, out: Out) -> Result<Exit, Failure> {
    match args.action {
        None => list(&Api::new(&args.client, out)?).await,
        Some(Action::Ls(only)) => list(&Api::new(&only.client, out)?).await,
        Some(Action::Show(named)) => show(&Api::new(&named.client, out)?, &named.name).await,
        Some(Action::Rollback(rollback)) => go_back(&Api::new(&rollback.client, out)?, &rollback).await,
        Some(Action::Rm(named)) => remove(&Api::new(&named.client, out)?, &named.name).await,
    }
}

async fn list(api: &Api) -> Result<Exit, Failure> {
    let answer = api.get("/v1/functions", "listing functions").await?;
    let functions = answer.get("functions").and_then(Value::as_array).cloned().unwrap_or_default();
    let functions: Vec<_> = functions.into_iter().map(|function| api.reachable(function)).collect();
    if api.out.is_json() {
        functions.iter().try_for_each(|function| api.out.value(function))?;
        return Ok(Exit::Ok);
    }
    if functions.is_empty() {
        api.out.line("no function is deployed yet; `tidegate deploy module.wasm --name NAME` deploys one")?;
        return Ok(Exit::Ok);
    }
    let now = now_ms();
    let rows: Vec<_> = functions
        .iter()
        .map(|function| {
            let text = |pointer: &str| function.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
            let number = |pointer: &str| function.pointer(pointer).and_then(Value::as_u64);
            vec![
                Cell::styled(text("/name"), paint::BOLD),
                number("/active/version").map_or("none".into(), |version| version.to_string()).into(),
                text("/auth").into(),
                number("/active/size").map_or("-".into(), bytes).into(),
                number("/active/created_ms").map_or("-".into(), |then| ago(then, now)).into(),
                text("/urls/0").into(),
            ]
        })
        .collect();
    api.out.table(&["name", "serves", "auth", "size", "deployed", "url"], &rows)?;
    Ok(Exit::Ok)
}

async fn show(api: &Api, name: &str) -> Result<Exit, Failure> {
    let path = format!("/v1/functions/{}", segment(name));
    let mut function = api.reachable(api.get(&path, &format!("showing `{name}`")).await?);
    let versions = api.get(&format!("{path}/versions"), &format!("showing versions of `{name}`")).await?;
    let versions = versions.get("versions").cloned().unwrap_or_default();
    if api.out.is_json() {
        if let Some(function) = function.as_object_mut() {
            function.insert("versions".into(), versions);
        }
        api.out.value(&function)?;
        return Ok(Exit::Ok);
    }
    for url in function.get("urls").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        api.out.line(url)?;
    }
    let now = now_ms();
    let rows: Vec<_> = versions
        .as_array()
        .into_iter()
        .flatten()
        .map(|version| {
            let text = |key: &str| version.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
            let number = |key: &str| version.get(key).and_then(Value::as_u64);
            let active = version.get("active") == Some(&Value::Bool(true));
            let style = if active { paint::GOOD } else { paint::DIM };
            vec![
                Cell::styled(number("version").unwrap_or_default().to_string(), paint::BOLD),
                Cell::styled(if active { "serves" } else { "kept" }, style),
                text("digest").chars().take(12).collect::<String>().into(),
                number("size").map_or("-".into(), bytes).into(),
                text("world").into(),
                number("created_ms").map_or("-".into(), |then| ago(then, now)).into(),
                text("message").into(),
            ]
        })
        .collect();
    api.out.table(&["version", "state", "digest", "size", "world", "deployed", "message"], &rows)?;
    let config = function.get("config").cloned().unwrap_or_default();
    api.out.line(format_args!("configuration of the version that serves:\n{config:#}"))?;
    Ok(Exit::Ok)
}

async fn go_back(api: &Api, rollback: &Rollback) -> Result<Exit, Failure> {
    let name = &rollback.name;
    let body = rollback.to.map(|version| json!({"version": version}));
    let path = format!("/v1/functions/{}/rollback", segment(name));
    let function = api.json(Method::POST, &path, body.as_ref(), &format!("rolling back `{name}`")).await?;
    if api.out.is_json() {
        api.out.value(&function)?;
    } else {
        let version = function.pointer("/active/version").and_then(Value::as_u64).unwrap_or_default();
        api.out.line(format_args!("{name}: version {version} serves now"))?;
    }
    Ok(Exit::Ok)
}

async fn remove(api: &Api, name: &str) -> Result<Exit, Failure> {
    let path = format!("/v1/functions/{}", segment(name));
    api.json(Method::DELETE, &path, None, &format!("removing `{name}`")).await?;
    if api.out.is_json() {
        api.out.value(&json!({"removed": name}))?;
    } else {
        api.out.line(format_args!("{name}: removed"))?;
    }
    Ok(Exit::Ok)
}
