//! `tidegate pause`, `drain`, `resume`, `flush`, `limit`: what operators do to a destination beside its configuration. And
//! `tidegate audit`, which tells who did.

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};
use tidegate_core::units::Span;

use super::{
    api::{Api, segment},
    destinations::limits,
    failure::{Exit, Failure},
    output::{Cell, Out, ago, now_ms, paint},
    target::{ClientArgs, Named},
};

/// Arguments of `tidegate pause` and `drain`.
#[derive(Args, Debug)]
pub(super) struct BrakeArgs {
    /// The destination
    destination: String,
    /// How long; without it, until `tidegate resume`
    #[arg(long = "for", value_name = "DURATION")]
    time: Option<Span>,
    /// Why, for the audit trail and whoever looks
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Arguments of `tidegate limit`.
#[derive(Args, Debug)]
pub(super) struct LimitArgs {
    /// The destination
    destination: String,
    /// Limit in the place of the configured ones: QUOTA/PERIOD, as 500/1m or 90000/1m:tokens. Repeatable
    #[arg(long = "limit", value_name = "LIMIT", value_parser = limits::parse)]
    limits: Vec<Value>,
    /// Calls in flight at once
    #[arg(long, value_name = "COUNT")]
    max_concurrency: Option<u32>,
    /// How long
    #[arg(long = "for", value_name = "DURATION", required_unless_present = "off")]
    time: Option<Span>,
    /// Why, for the audit trail and whoever looks
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The configured limits hold again
    #[arg(long, conflicts_with_all = ["limits", "max_concurrency", "time", "reason"])]
    off: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Arguments of `tidegate audit`.
#[derive(Args, Debug)]
pub(super) struct AuditArgs {
    /// Records shown at most
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    limit: u16,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs `pause`.
pub(super) async fn pause(args: BrakeArgs, out: Out) -> Result<Exit, Failure> {
    brake(&args, out, "paused", "calls wait, as long as their deadlines let them").await
}

/// Runs `drain`.
pub(super) async fn drain(args: BrakeArgs, out: Out) -> Result<Exit, Failure> {
    brake(&args, out, "draining", "what waits leaves, further calls are refused").await
}

async fn brake(args: &BrakeArgs, out: Out, state: &str, told: &str) -> Result<Exit, Failure> {
    let name = &args.destination;
    let until = args.time.map_or_else(|| format!("until `tidegate resume {name}`"), |time| format!("for {time}"));
    let mut body = Map::new();
    body.insert("state".into(), json!(state));
    body.extend(held(args.time, args.reason.as_deref()));
    let api = Api::new(&args.client, out)?;
    let doing = format!("setting the brake of `{name}`");
    let answer = api.json(Method::PUT, &path(name, "brake"), Some(&Value::Object(body)), &doing).await?;
    say(&api, &answer, &format!("{name}: {state} {until}: {told}"))
}

/// Runs `resume`.
pub(super) async fn resume(args: Named, out: Out) -> Result<Exit, Failure> {
    let (api, name) = (Api::new(&args.client, out)?, &args.name);
    let doing = format!("resuming `{name}`");
    let answer = api.json(Method::DELETE, &path(name, "brake"), None, &doing).await?;
    say(&api, &answer, &format!("{name}: resumed; pauses that its upstream asked for have ended, too"))
}

/// Runs `flush`.
pub(super) async fn flush(args: Named, out: Out) -> Result<Exit, Failure> {
    let (api, name) = (Api::new(&args.client, out)?, &args.name);
    let doing = format!("flushing `{name}`");
    let answer = api.json(Method::POST, &path(name, "flush"), None, &doing).await?;
    let flushed = answer.get("flushed").and_then(Value::as_u64).unwrap_or_default();
    let calls = if flushed == 1 { "call that waited was" } else { "calls that waited were" };
    say(&api, &answer, &format!("{name}: {flushed} {calls} refused"))
}

/// Runs `limit`.
pub(super) async fn limit(args: LimitArgs, out: Out) -> Result<Exit, Failure> {
    let name = &args.destination;
    if !args.off && args.limits.is_empty() && args.max_concurrency.is_none() {
        return Err(Failure::new(Exit::Usage, "this says of no limit what it is to be")
            .next("name one with --limit 5/1s or --max-concurrency 4, or take the last back with --off"));
    }
    let (api, path) = (Api::new(&args.client, out)?, path(name, "override"));
    if args.off {
        let answer = api.json(Method::DELETE, &path, None, &format!("taking back the limits of `{name}`")).await?;
        return say(&api, &answer, &format!("{name}: the configured limits hold again"));
    }
    let mut body = Map::new();
    body.extend((!args.limits.is_empty()).then(|| ("limits".to_owned(), json!(args.limits))));
    body.extend(args.max_concurrency.map(|max| ("max_concurrency".to_owned(), json!(max))));
    body.extend(held(args.time, args.reason.as_deref()));
    let doing = format!("limiting `{name}`");
    let answer = api.json(Method::PUT, &path, Some(&Value::Object(body)), &doing).await?;
    let mut holds: Vec<_> = args.limits.iter().map(limits::show).collect();
    holds.extend(args.max_concurrency.map(|max| format!("{max} at once")));
    let time = args.time.unwrap_or_default();
    say(&api, &answer, &format!("{name}: {} for {time}, then the configured limits again", holds.join(", ")))
}

/// Runs `audit`.
pub(super) async fn audit(args: AuditArgs, out: Out) -> Result<Exit, Failure> {
    let api = Api::new(&args.client, out)?;
    let answer = api.get(&format!("/v1/audit?limit={}", args.limit.max(1)), "reading the audit trail").await?;
    let records = answer.get("audit").and_then(Value::as_array).cloned().unwrap_or_default();
    if api.out.is_json() {
        records.iter().try_for_each(|record| api.out.value(record))?;
        return Ok(Exit::Ok);
    }
    if records.is_empty() {
        api.out.line("nobody has changed anything yet")?;
        return Ok(Exit::Ok);
    }
    let now = now_ms();
    let rows: Vec<_> = records.iter().map(|record| row(record, now)).collect();
    api.out.table(&["when", "who", "did", "to", "more"], &rows)?;
    Ok(Exit::Ok)
}

fn row(record: &Value, now: u64) -> Vec<Cell> {
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let at = record.get("at_ms").and_then(Value::as_u64).unwrap_or_default();
    vec![
        ago(now, at).into(),
        who(record).into(),
        Cell::styled(text("action"), paint::BOLD),
        text("target").into(),
        text("detail").into(),
    ]
}

fn who(record: &Value) -> String {
    let text = |key: &str| record.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let by = text("by").unwrap_or("-");
    text("label").map_or_else(|| by.to_owned(), |label| format!("{label} ({by})"))
}

/// For how long, and why, as far as that is said.
fn held(time: Option<Span>, reason: Option<&str>) -> impl Iterator<Item = (String, Value)> {
    let said = [("for", time.map(|time| json!(time))), ("reason", reason.map(|reason| json!(reason)))];
    said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)))
}

fn path(name: &str, what: &str) -> String {
    format!("/v1/destinations/{}/{what}", segment(name))
}

fn say(api: &Api, answer: &Value, told: &str) -> Result<Exit, Failure> {
    if api.out.is_json() {
        api.out.value(answer)?
    } else {
        api.out.line(told)?
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_it_is_named_by_the_label_of_the_token() {
        assert_eq!(who(&json!({"by": "tok_1", "label": "ops"})), "ops (tok_1)");
        assert_eq!(who(&json!({"by": "tok_1", "label": ""})), "tok_1");
        assert_eq!(who(&json!({"by": "tok_1"})), "tok_1");
    }
}
