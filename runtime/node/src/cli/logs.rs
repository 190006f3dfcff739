//! `tidegate logs`: what a function printed, and with `-f` what it prints and calls as it happens.

use std::time::Duration;

use clap::Args;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{
    api::{Api, segment},
    failure::{Exit, Failure},
    http::sse::{Event, Parser},
    lines,
    output::{Out, note},
    target::ClientArgs,
};
use crate::body;

/// Arguments of `tidegate logs`.
#[derive(Args, Debug)]
pub(super) struct LogsArgs {
    /// The function
    name: String,
    /// Go on with what it prints from now on, and with its outbound calls
    #[arg(short, long)]
    follow: bool,
    /// How many past lines to begin with
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    client: ClientArgs,
}

/// First and longest wait before a broken stream is asked for again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Runs the command.
pub(super) async fn run(args: LogsArgs, out: Out) -> Result<Exit, Failure> {
    let api = Api::new(&args.client, out)?;
    let name = &args.name;
    let path = format!("/v1/functions/{}/logs?limit={}", segment(name), args.limit);
    let doing = format!("reading logs of `{name}`");
    if !args.follow {
        let answer = api.get(&path, &doing).await?;
        for line in answer.get("lines").and_then(Value::as_array).into_iter().flatten() {
            print(&api, "log", line)?;
        }
        return Ok(Exit::Ok);
    }
    let mut last_id = String::new();
    let mut wait = RECONNECT.0;
    let mut connected = false;
    loop {
        match follow(&api, &path, &doing, &mut last_id, &mut connected).await {
            Ok(()) => wait = RECONNECT.0,
            // What never worked will not work by itself; what did may come back.
            Err(failure) if !connected || failure.exit != Exit::Unreachable => return Err(failure),
            Err(_) => {}
        }
        note(format_args!("the stream ended; asking again in {wait:?}"));
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RECONNECT.1);
    }
}

/// Reads one stream to its end, remembering the last line.
async fn follow(api: &Api, path: &str, doing: &str, last_id: &mut String, connected: &mut bool) -> Result<(), Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
    if let (false, Ok(id)) = (last_id.is_empty(), HeaderValue::from_str(last_id)) {
        headers.insert("last-event-id", id);
    }
    let answer = api.send(Method::GET, &format!("{path}&follow=true"), headers, body::empty(), doing).await?;
    *connected = true;
    let mut body = answer.into_body();
    let mut parser = Parser::default();
    while let Some(frame) = body.frame().await {
        // A broken stream is asked for again like an ended one.
        let Ok(frame) = frame else { break };
        let Ok(bytes) = frame.into_data() else { continue };
        for Event { kind, data, id } in parser.feed(&bytes) {
            if !id.is_empty() {
                *last_id = id;
            }
            if let Ok(value) = serde_json::from_str(&data) {
                print(api, &kind, &value)?;
            }
        }
    }
    Ok(())
}

fn print(api: &Api, kind: &str, value: &Value) -> Result<(), Failure> {
    if api.out.is_json() {
        let mut object = json!({"event": kind});
        if let (Some(object), Some(value)) = (object.as_object_mut(), value.as_object()) {
            object.extend(value.clone());
        }
        return api.out.value(&object);
    }
    match lines::from_event(kind, value) {
        Some(line) => api.out.line(line),
        None => Ok(()),
    }
}
