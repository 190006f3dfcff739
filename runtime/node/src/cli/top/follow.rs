//! The calls of a node as they end, for as long as somebody looks.

use std::{convert::Infallible, time::Duration};

use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::super::{
    api::Api,
    http::sse::{Event, Parser},
};
use crate::body;

/// First and longest wait before a broken stream is asked for again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Hands calls on, and drops those that nobody takes in time: they are looked at, not counted.
pub(super) async fn calls(api: &Api, sender: Sender<Value>) -> Infallible {
    let mut wait = AGAIN.0;
    loop {
        if stream(api, &sender).await.is_some() {
            wait = AGAIN.0;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(AGAIN.1);
    }
}

/// Reads one stream to its end; nothing where there was none.
async fn stream(api: &Api, sender: &Sender<Value>) -> Option<()> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
    let answer = api.send(Method::GET, "/v1/calls", headers, body::empty(), "following calls").await.ok()?;
    let mut body = answer.into_body();
    let mut parser = Parser::default();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(bytes) = frame.into_data() else { continue };
        for Event { kind, data, .. } in parser.feed(&bytes) {
            if kind == "call"
                && let Ok(value) = serde_json::from_str(&data)
                && let Err(TrySendError::Closed(_)) = sender.try_send(value)
            {
                return Some(());
            }
        }
    }
    Some(())
}
