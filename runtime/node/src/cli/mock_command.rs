//! `tidegate mock-llm`: the fake upstream as a program.

use clap::Args;
use serde_json::json;

use super::{
    failure::{Exit, Failure},
    mock_llm::{self, MockOptions},
    output::{Out, note},
    signals,
};

/// Arguments of `tidegate mock-llm`.
#[derive(Args, Debug)]
#[command(after_help = "\
Answers POST /v1/chat/completions, /v1/responses, /v1/embeddings and /v1/messages (Anthropic's), GET /v1/models, and \
anything under /anything. GET /__stats tells what it saw (?requests=1: one by one), POST /__reset forgets it. The \
first line on stdout is `mock-llm listening on http://ADDR`.")]
pub(super) struct MockArgs {
    #[command(flatten)]
    options: MockOptions,
}

/// Runs until SIGINT or SIGTERM.
pub(super) async fn run(args: MockArgs, out: Out) -> Result<Exit, Failure> {
    args.options.check().map_err(|why| Failure::new(Exit::Usage, why))?;
    let mut stop = signals::Stop::catch()?;
    let listen = args.options.listen;
    let mock = mock_llm::start(args.options).await.map_err(|error| {
        Failure::new(Exit::Failed, format!("can't listen on {listen}: {error}")).next("--listen names another address")
    })?;
    if out.is_json() {
        out.value(&json!({"event": "listening", "url": mock.url()}))?;
    } else {
        out.line(format_args!("mock-llm listening on {}", mock.url()))?;
    }
    stop.wait().await;
    let stats = mock.stats();
    if out.is_json() {
        let mut ended = serde_json::to_value(&stats).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        if let Some(ended) = ended.as_object_mut() {
            ended.insert("event".into(), json!("stopped"));
        }
        out.value(&ended)?;
        return Ok(Exit::Ok);
    }
    note(format_args!(
        "{} requests: {} passed, {} refused, {} failed, {} slow, {} dropped, {} cancelled; at most {} in flight, at \
         most {} passed in a period",
        stats.requests,
        stats.accepted,
        stats.refused,
        stats.failed,
        stats.slow,
        stats.dropped,
        stats.cancelled,
        stats.max_in_flight,
        stats.busiest_period,
    ));
    Ok(Exit::Ok)
}
