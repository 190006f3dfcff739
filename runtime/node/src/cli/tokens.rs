//! `tidegate tokens`: made, listed, revoked.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    api::{Api, segment},
    failure::{Exit, Failure},
    output::{Cell, Out, ago, note, now_ms, paint},
    target::{ClientArgs, ClientOnly},
};
use crate::cluster::registry::Scope;

/// Arguments of `tidegate tokens`.
#[derive(Args, Debug)]
pub(super) struct TokensArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List tokens (default)
    Ls(ClientOnly),
    /// Make a token; it is shown once
    Create(Create),
    /// Revoke a token
    Revoke(Revoke),
}

#[derive(Args, Debug)]
struct Create {
    /// What its bearer may do: admin, deploy, jobs, invoke:NAME, to:DESTINATION; * for all names. Repeatable
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',', value_parser = scope)]
    scopes: Vec<String>,
    /// What it is for, in your words
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    /// Its bearer's share of what a destination takes, beside other tokens and functions: 1 to 1000
    #[arg(long, value_name = "WEIGHT")]
    weight: Option<u16>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
struct Revoke {
    /// The token's id, as `tidegate tokens` lists it
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

fn scope(text: &str) -> Result<String, String> {
    Scope::try_from(text.to_owned()).map(String::from)
}

/// Runs the command.
pub(super) async fn run(args: TokensArgs, out: Out) -> Result<Exit, Failure> {
    match args.action {
        None => list(&Api::new(&args.client, out)?).await,
        Some(Action::Ls(only)) => list(&Api::new(&only.client, out)?).await,
        Some(Action::Create(create)) => make(&Api::new(&create.client, out)?, &create).await,
        Some(Action::Revoke(revoke)) => remove(&Api::new(&revoke.client, out)?, &revoke.id).await,
    }
}

async fn list(api: &Api) -> Result<Exit, Failure> {
    let answer = api.get("/v1/tokens", "listing tokens").await?;
    let tokens = answer.get("tokens").and_then(Value::as_array).cloned().unwrap_or_default();
    if api.out.is_json() {
        tokens.iter().try_for_each(|token| api.out.value(token))?;
        return Ok(Exit::Ok);
    }
    let now = now_ms();
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            let text = |key: &str| token.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let scopes: Vec<_> =
                token.get("scopes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
            vec![
                Cell::styled(text("id"), paint::BOLD),
                scopes.join(" ").into(),
                token.get("created_ms").and_then(Value::as_u64).map_or("-".into(), |then| ago(then, now)).into(),
                text("label").into(),
            ]
        })
        .collect();
    api.out.table(&["id", "scopes", "made", "label"], &rows)?;
    Ok(Exit::Ok)
}

async fn make(api: &Api, create: &Create) -> Result<Exit, Failure> {
    let mut body = json!({"label": create.label, "scopes": create.scopes});
    if let (Some(weight), Some(body)) = (create.weight, body.as_object_mut()) {
        body.insert("weight".into(), json!(weight));
    }
    let token = api.json(Method::POST, "/v1/tokens", Some(&body), "making a token").await?;
    if api.out.is_json() {
        api.out.value(&token)?;
        return Ok(Exit::Ok);
    }
    let text = |key: &str| token.get(key).and_then(Value::as_str).unwrap_or_default();
    note(format_args!("token `{}`; it is not shown again:", text("id")));
    api.out.line(text("token"))?;
    Ok(Exit::Ok)
}

async fn remove(api: &Api, id: &str) -> Result<Exit, Failure> {
    api.json(Method::DELETE, &format!("/v1/tokens/{}", segment(id)), None, &format!("revoking `{id}`")).await?;
    if api.out.is_json() {
        api.out.value(&json!({"revoked": id}))?;
    } else {
        api.out.line(format_args!("{id}: revoked"))?;
    }
    Ok(Exit::Ok)
}
