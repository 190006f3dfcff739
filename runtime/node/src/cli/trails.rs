//! `tidegate trails`: what happened to an invocation or a call, decision by decision.

use clap::Args;
use serde_json::Value;

use super::{
    api::{Api, segment},
    failure::{Exit, Failure},
    output::{Cell, Out, ago, millis, now_ms, paint},
    target::ClientArgs,
};

/// Arguments of `tidegate trails`.
#[derive(Args, Debug)]
pub(super) struct TrailsArgs {
    /// Id of a trail, as in an answer's `traceparent` or a problem's `trail`. Default: list the newest
    id: Option<String>,
    /// Trails of this function only
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    function: Option<String>,
    /// How many to list
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub(super) async fn run(args: TrailsArgs, out: Out) -> Result<Exit, Failure> {
    let api = Api::new(&args.client, out)?;
    match &args.id {
        Some(id) => show(&api, id).await,
        None => list(&api, &args).await,
    }
}

async fn list(api: &Api, args: &TrailsArgs) -> Result<Exit, Failure> {
    let mut path = format!("/v1/trails?limit={}", args.limit);
    if let Some(function) = &args.function {
        path.push_str(&format!("&function={}", segment(function)));
    }
    let answer = api.get(&path, "listing trails").await?;
    let trails = answer.get("trails").and_then(Value::as_array).cloned().unwrap_or_default();
    if api.out.is_json() {
        trails.iter().try_for_each(|trail| api.out.value(trail))?;
        return Ok(Exit::Ok);
    }
    let now = now_ms();
    let rows: Vec<_> = trails
        .iter()
        .map(|trail| {
            let number = |key: &str| trail.get(key).and_then(Value::as_u64);
            let lasted = trail.get("lasted_ms").and_then(Value::as_f64).unwrap_or_default();
            let (ending, style) = ending(trail);
            vec![
                trail.get("id").and_then(Value::as_str).unwrap_or_default().into(),
                subject(trail).into(),
                Cell::styled(ending, style),
                millis(lasted as u64).into(),
                number("began_ms").map_or("-".into(), |then| ago(then, now)).into(),
            ]
        })
        .collect();
    api.out.table(&["id", "what", "ended", "took", "began"], &rows)?;
    Ok(Exit::Ok)
}

async fn show(api: &Api, id: &str) -> Result<Exit, Failure> {
    let trail = api.get(&format!("/v1/trails/{}", segment(id)), &format!("showing trail `{id}`")).await?;
    if api.out.is_json() {
        api.out.value(&trail)?;
        return Ok(Exit::Ok);
    }
    let lasted = trail.get("lasted_ms").and_then(Value::as_f64).unwrap_or_default();
    let (ending, style) = ending(&trail);
    api.out.line(format_args!("{} {style}{ending}{style:#} after {}", subject(&trail), millis(lasted as u64)))?;
    for entry in trail.get("notes").and_then(Value::as_array).into_iter().flatten() {
        let at = entry.get("at_ms").and_then(Value::as_f64).unwrap_or_default();
        let text = entry.get("text").and_then(Value::as_str).unwrap_or_default();
        api.out.line(format_args!("{dim}{at:>10.1} ms{dim:#}  {text}", dim = paint::DIM))?;
    }
    match trail.get("dropped").and_then(Value::as_u64) {
        Some(dropped) if dropped > 0 => api.out.line(format_args!("({dropped} further notes were not kept)"))?,
        _ => {}
    }
    Ok(Exit::Ok)
}

fn subject(trail: &Value) -> String {
    match (trail.get("function").and_then(Value::as_str), trail.get("version").and_then(Value::as_u64)) {
        (Some(function), Some(version)) => format!("{function}@{version}"),
        _ => "/to".to_owned(),
    }
}

fn ending(trail: &Value) -> (String, anstyle::Style) {
    let cut = trail.get("cut").and_then(Value::as_bool) == Some(true);
    match trail.get("status").and_then(Value::as_u64) {
        Some(status) if cut => (format!("{status}, cut"), paint::WARN),
        Some(status @ 0..=399) => (status.to_string(), paint::GOOD),
        Some(status @ 400..=499) => (status.to_string(), paint::WARN),
        Some(status) => (status.to_string(), paint::BAD),
        None => ("cancelled".to_owned(), paint::DIM),
    }
}
