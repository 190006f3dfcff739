//! `/v1/functions/{name}/logs`: what a function printed, as a list or as it happens.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Control,
    auth::Caller,
    extract::{Asked, Named},
    functions::find,
    wants,
};
use crate::{
    cluster::registry::{Registry, Scope},
    observe::{FeedEvent, FeedEvents, FeedItem, LogFilter, LogLine, Observe},
    problem::Problem,
    settings::names,
};

/// Lines shown when the caller does not say how many.
const SHOWN: usize = 100;
/// Lines shown at most in one answer.
const MOST: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reading {
    #[serde(default)]
    follow: bool,
    limit: Option<usize>,
    after: Option<u64>,
}

pub(super) async fn read(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    Asked(reading): Asked<Reading>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.require(Scope::Deploy)?;
    find(&control, &caller, &name)?;
    // A reader whose connection broke says where it was, by the standard header of server-sent events.
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let after = resumed.or(reading.after).unwrap_or(0);
    let filter = LogFilter { tenant: caller.tenant().clone(), function: Some(name), after };
    let limit = reading.limit.unwrap_or(SHOWN).min(MOST);
    if !reading.follow && !wants(&headers, "text/event-stream") {
        let lines = control.observe.logs.recent(&filter, limit);
        return Ok(Json(json!({"lines": lines})).into_response());
    }
    // Subscribed before the past is read: a line in between comes twice and is dropped by its number, not lost.
    let feed = control.observe.feed.subscribe();
    let past = control.observe.logs.recent(&filter, limit).into();
    let stop = control.shutdown.clone();
    let changes = control.registry.watch();
    let (registry, observe) = (control.registry.clone(), Arc::clone(&control.observe));
    let follow = Follow { past, feed, filter, stop, registry, changes, observe, caller };
    let events = KeepAlive::new().interval(Duration::from_secs(15));
    Ok(Sse::new(follow.stream()).keep_alive(events).into_response())
}

struct Follow {
    past: VecDeque<Arc<LogLine>>,
    feed: FeedEvents,
    filter: LogFilter,
    stop: CancellationToken,
    registry: Registry,
    /// Tells of revoked tokens, among others.
    changes: watch::Receiver<u64>,
    observe: Arc<Observe>,
    caller: Caller,
}

impl Follow {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut this| async move { this.next().await.map(|event| (Ok(event), this)) })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(line) = self.past.pop_front() {
                self.filter.after = line.sequence;
                return Some(log_event(&line));
            }
            let item = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                Ok(()) = self.changes.changed() => None,
                item = self.feed.next() => Some(item?),
            };
            if !self.caller.is_known(&self.registry.state()) {
                // Its token was revoked meanwhile.
                return None;
            }
            match item {
                Some(FeedItem::Event(FeedEvent::Log(line))) if self.filter.wants(&line) => {
                    self.filter.after = line.sequence;
                    return Some(log_event(&line));
                }
                Some(FeedItem::Event(FeedEvent::Call(call)))
                    if call.function == self.filter.function && call.tenant == self.filter.tenant =>
                {
                    return Some(json_event("call", &*call));
                }
                Some(FeedItem::Missed(count)) => {
                    // Others may print so much that this function's lines come and go between two looks. They are in its
                    // own ring still; calls are not.
                    self.past = self.observe.logs.recent(&self.filter, MOST).into();
                    let settings = [names::FEED_LINES, names::FEED_BYTES];
                    return Some(json_event("missed", &json!({"events": count, "settings": settings})));
                }
                Some(FeedItem::Event(_)) | None => {}
            }
        }
    }
}

fn log_event(line: &LogLine) -> Event {
    json_event("log", line).id(line.sequence.to_string())
}

pub(super) fn json_event(kind: &'static str, value: &impl serde::Serialize) -> Event {
    Event::default().event(kind).json_data(value).unwrap_or_default()
}
