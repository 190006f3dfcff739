//! The end of a call, whatever it is: counted, written into the trail, shown on the feed. A call that is dropped ends
//! as given up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{Response, Uri, request};
use tokio::time::Instant;

use super::{Inner, Target, answer};
use crate::{
    body::Body,
    observe::{CallLine, Came, Ended, FeedEvent, LoggedCall, Note, Trail},
    outbound::{Sender, SenderKind, TransportError, said},
    problem::Problem,
};

/// Watches one call.
pub(super) struct Ending<'a> {
    door: &'a Inner,
    target: &'a Target,
    trail: Trail,
    /// Number of the call in its trail.
    pub(super) number: u32,
    sender: &'a Sender,
    method: http::Method,
    uri: Uri,
    began: Instant,
    over: bool,
    /// Attempts so far, those included that could not connect.
    attempts: AtomicU32,
    /// Time spent in queues and pauses.
    pub(super) waited: Duration,
    /// The endpoint of the last attempt, where the destination has any.
    pub(super) endpoint: Option<Arc<str>>,
}

impl<'a> Ending<'a> {
    pub(super) fn new(
        door: &'a Inner,
        target: &'a Target,
        trail: Trail,
        number: u32,
        head: &request::Parts,
        sender: &'a Sender,
    ) -> Self {
        Self {
            door,
            target,
            trail,
            number,
            sender,
            method: head.method.clone(),
            uri: head.uri.clone(),
            began: Instant::now(),
            over: false,
            attempts: AtomicU32::new(0),
            waited: Duration::ZERO,
            endpoint: None,
        }
    }

    /// One more attempt, which is the n-th.
    pub(super) fn attempt(&self) -> u32 {
        self.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Attempts so far.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Writes into the trail.
    pub(super) fn note(&self, note: impl FnOnce(u32) -> Note) {
        self.trail.note(note(self.number));
    }

    /// Its trail, for what comes after its end.
    pub(super) fn trail(&self) -> &Trail {
        &self.trail
    }

    /// The upstream answered, and that is the answer.
    pub(super) fn answered(&mut self, status: u16) {
        self.end(Ended::Answer(status), Came::Answer(status), || None);
    }

    /// The gate refuses.
    pub(super) fn refuse(&mut self, problem: Problem) -> Response<Body> {
        let shape = self.target.destination.shape(&self.method, self.uri.path());
        let problem = problem.trail(self.trail.id()).shape(shape);
        self.note(|call| Note::Decided {
            call,
            what: format!("refused with {} {}: {}", problem.status.as_u16(), problem.kind, problem.detail),
        });
        self.end(Ended::Refused(problem.kind), Came::Refused(problem.status.as_u16()), || {
            Some(problem.kind.to_owned())
        });
        answer(problem)
    }

    /// Nobody answered.
    pub(super) fn fail(&mut self, error: TransportError) -> TransportError {
        self.note(|call| Note::Decided { call, what: format!("failed: {error}") });
        self.end(Ended::Failed, Came::Failed, || Some(error.to_string()));
        error
    }

    /// Writes the line of the node's log.
    #[cold]
    fn log(&self, came: Came, took: Duration, remark: Option<&str>) {
        let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let function = match &self.sender.kind {
            SenderKind::Function { name, .. } => Some(name.as_str()),
            SenderKind::Program { .. } => None,
        };
        let tags = self.trail.tags();
        let line = LoggedCall {
            tenant: self.sender.tenant.as_str(),
            endpoint: self.endpoint.as_deref(),
            tags: tags.as_deref(),
            destination: self.target.label(),
            method: self.method.as_str(),
            path: &said::path(&self.uri),
            function,
            trace: self.trail.id(),
            came,
            took_ms: millis(took),
            waited_ms: millis(self.waited),
            attempts: self.attempts(),
            remark,
        };
        line.write();
    }

    fn end(&mut self, ended: Ended, came: Came, remark: impl Fn() -> Option<String>) {
        self.over = true;
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began);
        let (call, waited, attempts) = (self.number, self.waited, self.attempts());
        self.trail.note_at(now.into_std(), Note::Over { call, came, took, waited, attempts });
        let observe = &self.door.observe;
        self.target.destination.counts(&observe.metrics).call(ended, waited);
        if observe.call_log.takes(came, now.into_std()) {
            self.log(came, took, remark().as_deref());
        }
        observe.feed.send(|| {
            let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            FeedEvent::Call(Arc::new(CallLine {
                trace: crate::observe::TraceIdText(self.trail.id()),
                function: match &self.sender.kind {
                    SenderKind::Function { name, .. } => Some(name.to_string()),
                    SenderKind::Program { .. } => None,
                },
                tenant: self.sender.tenant.clone(),
                destination: self.target.destination.shared_label(),
                method: self.method.to_string(),
                host: self.target.host.to_string(),
                path: said::path(&self.uri),
                status: match came {
                    Came::Answer(status) | Came::Refused(status) => status,
                    Came::Failed | Came::GivenUp => 0,
                },
                attempts,
                waited_ms: millis(waited),
                total_ms: millis(took),
                remark: remark(),
            }))
        });
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.note(|call| Note::Decided { call, what: "given up by its sender".into() });
            self.end(Ended::Cancelled, Came::GivenUp, || Some("given up by its sender".into()));
        }
    }
}
