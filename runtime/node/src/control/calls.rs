//! `/v1/calls`: the outbound calls of a tenant as they end.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Control, auth::Caller, logs::json_event};
use crate::{
    cluster::registry::{Registry, Scope},
    observe::{FeedEvent, FeedItem, FeedReader},
    problem::Problem,
    settings::names,
};

pub(super) async fn follow(State(control): State<Arc<Control>>, caller: Caller) -> Result<impl IntoResponse, Problem> {
    caller.require(Scope::Deploy)?;
    let (registry, changes) = (control.registry.clone(), control.registry.watch());
    let (feed, stop) = (control.observe.feed.read(), control.shutdown.clone());
    let follow = Follow { ready: VecDeque::new(), feed, stop, registry, changes, caller };
    Ok(Sse::new(follow.stream()).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

struct Follow {
    /// Of the last look.
    ready: VecDeque<FeedItem>,
    feed: FeedReader,
    stop: CancellationToken,
    registry: Registry,
    /// Tells of revoked tokens, among others.
    changes: watch::Receiver<u64>,
    caller: Caller,
}

impl Follow {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut this| async move { this.next().await.map(|event| (Ok(event), this)) })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(item) = self.ready.pop_front() {
                match item {
                    FeedItem::Event(FeedEvent::Call(call)) if call.tenant == *self.caller.tenant() => {
                        return Some(json_event("call", &*call));
                    }
                    FeedItem::Missed(count) => {
                        let settings = [names::FEED_LINES, names::FEED_BYTES];
                        return Some(json_event("missed", &json!({"events": count, "settings": settings})));
                    }
                    FeedItem::Event(_) => {}
                }
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                Ok(()) = self.changes.changed() => {}
                items = self.feed.next() => self.ready = items?.into(),
            }
            if !self.caller.is_known(&self.registry.state()) {
                // Its token was revoked meanwhile.
                return None;
            }
        }
    }
}
