//! `tidegate trails`: what happened to an invocation or a call, decision by decision.

use clap::Args;
use serde_json::Value;

use super::{
    api::{Api, segment},
    failure::{Exit, Failure},
    output::{Cell, Out, ago, millis, note, now_ms, paint},
    target::ClientArgs,
};

/// Arguments of `tidegate trails`.
#[derive(Args, Debug)]
pub(super) struct TrailsArgs {
    /// Id of a trail, as in an answer's `tidegate-trace` or a problem's `trail`. Default: list the newest
    id: Option<String>,
    #[command(flatten)]
    search: Search,
    /// Those that took longest come first
    #[arg(long, conflicts_with_all = ["id", "after"])]
    slowest: bool,
    /// How many to list
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    limit: u32,
    /// Go on behind a page: what it gave as `next`
    #[arg(long, value_name = "NEXT", conflicts_with = "id")]
    after: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Which trails are looked for.
#[derive(Args, Debug, Default)]
pub(super) struct Search {
    /// Invocations of this function only
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    function: Option<String>,
    /// Only those with a call to this destination: its name, or an origin
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    destination: Option<String>,
    /// Only those with this tag (header `tidegate-tag`)
    #[arg(long, value_name = "TAG", conflicts_with = "id")]
    pub(super) tag: Option<String>,
    /// Only those that took longer to the head of their answer
    #[arg(long, value_name = "DURATION", conflicts_with = "id")]
    slower_than: Option<String>,
    /// Only those that ended so: 429, 5xx, refused, failed, cancelled
    #[arg(long, value_name = "STATUS", conflicts_with = "id")]
    status: Option<String>,
    /// Only those that began in this time, such as 15m, or since these milliseconds after 1970
    #[arg(long, value_name = "WHEN", conflicts_with = "id")]
    since: Option<String>,
    /// Only those that began before then
    #[arg(long, value_name = "WHEN", conflicts_with = "id")]
    until: Option<String>,
}

impl Search {
    /// The path that asks for them.
    pub(super) fn path(&self, limit: u32, slowest: bool) -> String {
        let mut path = format!("/v1/trails?limit={limit}");
        for (name, value) in [
            ("function", &self.function),
            ("destination", &self.destination),
            ("tag", &self.tag),
            ("slower_than", &self.slower_than),
            ("status", &self.status),
            ("since", &self.since),
            ("until", &self.until),
        ] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", segment(value)));
            }
        }
        if slowest {
            path.push_str("&order=slowest");
        }
        path
    }
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
    let mut path = args.search.path(args.limit, args.slowest);
    if let Some(after) = &args.after {
        path.push_str(&format!("&after={}", segment(after)));
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
            let (ending, style) = ending(trail);
            let tags = trail.get("tags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            vec![
                trail.get("id").and_then(Value::as_str).unwrap_or_default().into(),
                subject(trail).into(),
                Cell::styled(ending, style),
                millis(took(trail) as u64).into(),
                number("began_ms").map_or("-".into(), |then| ago(then, now)).into(),
                tags.collect::<Vec<_>>().join(", ").into(),
            ]
        })
        .collect();
    api.out.table(&["id", "what", "ended", "took", "began", "tags"], &rows)?;
    if let Some(next) = answer.get("next").and_then(Value::as_str) {
        note(format_args!("more with --after {next}"));
    }
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
    if let Some(verdict) = trail.get("verdict").and_then(Value::as_str) {
        api.out.line(verdict)?;
    }
    Ok(Exit::Ok)
}

/// Time to the head of the answer, or in all where there was none, milliseconds.
pub(super) fn took(trail: &Value) -> f64 {
    let number = |key: &str| trail.get(key).and_then(Value::as_f64);
    number("head_ms").or(number("lasted_ms")).unwrap_or_default()
}

pub(super) fn subject(trail: &Value) -> String {
    match (trail.get("function").and_then(Value::as_str), trail.get("version").and_then(Value::as_u64)) {
        (Some(function), Some(version)) => format!("{function}@{version}"),
        _ => "/to".to_owned(),
    }
}

pub(super) fn ending(trail: &Value) -> (String, anstyle::Style) {
    let cut = trail.get("cut").and_then(Value::as_bool) == Some(true);
    match trail.get("status").and_then(Value::as_u64) {
        Some(status) if cut => (format!("{status}, cut"), paint::WARN),
        Some(status @ 0..=399) => (status.to_string(), paint::GOOD),
        Some(status @ 400..=499) => (status.to_string(), paint::WARN),
        Some(status) => (status.to_string(), paint::BAD),
        None => ("cancelled".to_owned(), paint::DIM),
    }
}
