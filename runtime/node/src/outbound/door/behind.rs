//! A call in the background: it renews a stored answer after its stale form was given. Nobody waits for it, so it has a
//! trail of its own.

use std::sync::Arc;

use http::HeaderMap;
use tidegate_core::{Effective, Flow};

use super::{
    Ending, Inner, Target,
    cached::{self, Around},
    calls::{Call, FirstByte, Head},
};
use crate::{
    ids::{TraceContext, TraceId},
    observe::{Ending as TrailEnding, Note, Subject, Trail},
    outbound::{
        CallTimeouts, Said, Sender,
        body::{Idle, KeptBody},
        cache::Lead,
        shards,
    },
};

/// All that it takes along.
pub(super) struct Behind {
    door: Arc<Inner>,
    target: Arc<Target>,
    sender: Arc<Sender>,
    key: u128,
    policy: Arc<Effective>,
    repeatable: bool,
    copies: bool,
    keyed: bool,
    costs: bool,
    tokens: u32,
    flow: Flow,
    asked_usage: bool,
    head: Head,
    first_byte: FirstByte,
    idle: Idle,
    trail: Trail,
}

impl Behind {
    /// A call like this one.
    pub(super) fn of(call: &Call<'_>, around: Around<'_>) -> Self {
        let mut head = call.head.clone();
        head.method = http::Method::GET;
        Self {
            door: Arc::clone(around.door),
            target: Arc::clone(around.target),
            sender: Arc::clone(around.sender),
            key: call.key,
            policy: Arc::clone(&call.policy),
            repeatable: call.repeatable,
            copies: call.copies,
            keyed: call.keyed,
            costs: call.costs,
            tokens: call.tokens,
            flow: call.flow,
            asked_usage: call.asked_usage,
            head,
            first_byte: call.first_byte,
            idle: call.idle,
            trail: Trail::begin(TraceId::random()),
        }
    }

    /// Id of its trail, for people.
    pub(super) fn trail(&self) -> TraceId {
        self.trail.id()
    }

    /// Begins it. `headers`: those of the request that it is for.
    pub(super) fn spawn(self, headers: HeaderMap, lead: Lead) {
        tokio::spawn(self.run(headers, lead));
    }

    async fn run(self, headers: HeaderMap, lead: Lead) {
        let (Some(cache), Some(caching)) = (&self.door.cache, &self.target.destination.caching) else { return };
        let around =
            Around { door: &self.door, target: &self.target, sender: &self.sender, cache, caching, behind: true };
        let trace = TraceContext { trace: self.trail.id(), ..TraceContext::begin() };
        let number = self.trail.next_call();
        let said = Said { method: &self.head.method, uri: &self.head.uri }.to_string();
        self.trail.note(Note::Call {
            call: number,
            what: format!("{said}, to renew what is stored"),
            destination: self.target.destination.shared_label(),
            configured: self.target.destination.name.is_some(),
        });
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = self.head.method.clone();
        parts.uri = self.head.uri.clone();
        let call = Call {
            aimed: None,
            door: &self.door,
            target: &self.target,
            key: self.key,
            asked: self.key,
            repeatable: self.repeatable,
            copies: self.copies,
            keyed: self.keyed,
            uploaded: false,
            failed: 0,
            lost: 0,
            costs: self.costs,
            tokens: self.tokens,
            flow: self.flow,
            asked_usage: self.asked_usage,
            sender: &self.sender,
            trace,
            deadline: shards::now() + self.policy.deadline,
            deadline_stated: true,
            fallback: None,
            policy: Arc::clone(&self.policy),
            head: self.head.clone(),
            timeouts: CallTimeouts::default(),
            first_byte: self.first_byte,
            spent: 0,
            idle: self.idle,
            kept: KeptBody::Empty,
            wait_clock: None,
            early: None,
            ending: Ending::new(&self.door, &self.target, self.trail.clone(), number, &parts, &self.sender),
        };
        let ending = match cached::renew(call, around, headers, lead).await {
            Some(status) => TrailEnding::Status(status),
            None => TrailEnding::Cancelled,
        };
        let subject = Subject { tenant: self.sender.tenant.as_str(), invocation: None };
        self.door.observe.trails.finish(&self.trail, subject, ending);
    }
}
