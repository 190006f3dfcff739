//! `tidegate explain`: where the time of a request went, as a timeline with a verdict.

mod draw;

use clap::Args;
use serde_json::{Value, json};

use super::{
    api::{Api, segment},
    failure::{Exit, Failure},
    output::{Out, width},
    target::ClientArgs,
    trails::Search,
};

/// Arguments of `tidegate explain`.
#[derive(Args, Debug)]
#[command(after_help = "Example: tidegate explain --slow --destination openai --since 1h")]
pub(super) struct ExplainArgs {
    /// Id of a trail, as in an answer's `tidegate-trace` or a problem's `trail`
    id: Option<String>,
    /// The trail that ended last (default)
    #[arg(long, conflicts_with_all = ["id", "slow"])]
    last: bool,
    /// The slowest trail that is kept
    #[arg(long, conflicts_with = "id")]
    slow: bool,
    #[command(flatten)]
    search: Search,
    /// How many trails of a tag
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub(super) async fn run(args: ExplainArgs, out: Out) -> Result<Exit, Failure> {
    let api = Api::new(&args.client, out)?;
    let trails = match &args.id {
        Some(id) => with_earlier(trail(&api, id).await?),
        None => {
            // A tag is of many requests, which tell one story; of all others one is meant.
            let limit = if args.search.tag.is_some() && !args.slow && !args.last { args.limit } else { 1 };
            let found = api.get(&args.search.path(limit, args.slow), "looking for trails").await?;
            let found = found.get("trails").and_then(Value::as_array).cloned().unwrap_or_default();
            let mut trails = Vec::new();
            for found in found.iter().rev() {
                let id = found.get("id").and_then(Value::as_str).unwrap_or_default();
                // Requests may share a trace: only the one that was found is meant.
                let same = |other: &Value| ["began_ms", "lasted_ms"].iter().all(|key| other.get(key) == found.get(key));
                trails.extend(with_earlier(trail(&api, id).await?).into_iter().find(same));
            }
            trails
        }
    };
    if trails.is_empty() {
        return Err(Failure::new(Exit::NotFound, "no trail is kept that fits")
            .next("`tidegate trails` lists what is kept; requests that go on still have none yet"));
    }
    if api.out.is_json() {
        api.out.value(&json!({"trails": trails}))?;
        return Ok(Exit::Ok);
    }
    let mut lines = Vec::new();
    for trail in &trails {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(draw::lines(trail, width()));
    }
    api.out.lines(lines.into_iter())?;
    Ok(Exit::Ok)
}

async fn trail(api: &Api, id: &str) -> Result<Value, Failure> {
    api.get(&format!("/v1/trails/{}", segment(id)), &format!("explaining trail `{id}`")).await
}

/// The trails of a trace, in the order in which they ended.
fn with_earlier(mut trail: Value) -> Vec<Value> {
    let earlier = trail.as_object_mut().and_then(|trail| trail.remove("earlier"));
    let mut all: Vec<_> = earlier.and_then(|earlier| earlier.as_array().cloned()).unwrap_or_default();
    all.reverse();
    all.push(trail);
    all
}
