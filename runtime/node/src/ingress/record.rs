//! What is kept of a request: its trail, and the counts of its function.

use std::time::Instant;

use http::{Method, Response, StatusCode};

use super::{
    Ingress, Live, OfConnection,
    answer::{Of, decorate},
    opener::Running,
    recorded::Recorded,
};
use crate::{
    body::Body,
    ids::{FunctionName, TenantId, TraceContext},
    observe::{Ending, Note, Outcome, Subject, Trail},
    problem::Problem,
};

/// Sees to it that a request is recorded once, however it ends. It lives until the body of the answer has ended, which
/// holds it; dropped without an answer, nobody waited for one.
pub(super) struct Record {
    pub(super) ingress: OfConnection,
    pub(super) trail: Trail,
    of: About,
    /// Whether the function's gauge has it.
    in_flight: bool,
    answered: Option<StatusCode>,
    whole: bool,
}

/// What a request is about.
enum About {
    /// An invocation of the version.
    Version(Live),
    /// A call through the gate, by a tenant's program.
    Call(TenantId),
}

impl About {
    fn subject(&self) -> Subject<'_> {
        match self {
            Self::Version(version) => {
                let identity = version.identity();
                let invocation = Some((identity.name.as_str(), identity.record.number));
                Subject { tenant: identity.tenant.as_str(), invocation }
            }
            Self::Call(tenant) => Subject { tenant: tenant.as_str(), invocation: None },
        }
    }
}

impl Record {
    /// Of an invocation of the version.
    pub(super) fn of_version(ingress: OfConnection, version: Live, trace: TraceContext, began: Instant) -> Self {
        let trail = Trail::begin_at(began, trace);
        // One that nobody has opened yet counts from its next request on.
        let in_flight = version.opened().map(|running| running.counts.begin()).is_some();
        Self { ingress, trail, of: About::Version(version), in_flight, answered: None, whole: false }
    }

    /// Of a call through the gate.
    pub(super) fn of_call(ingress: OfConnection, tenant: TenantId, trace: TraceContext, began: Instant) -> Self {
        let trail = Trail::begin_at(began, trace);
        Self { ingress, trail, of: About::Call(tenant), in_flight: false, answered: None, whole: false }
    }

    /// The version that is invoked.
    pub(super) fn version(&self) -> Option<&Live> {
        match &self.of {
            About::Version(version) => Some(version),
            About::Call(_) => None,
        }
    }

    /// The answer as the client gets it, with what is said about how it came to be. From now on its body holds the
    /// record.
    pub(super) fn answer(mut self, answer: Result<Response<Body>, Problem>, method: &Method) -> Response<Recorded> {
        let mut answer = answer.unwrap_or_else(|problem| problem.trail(self.trail.id()).into_response());
        let status = answer.status();
        let waits = self.trail.answered();
        let of = self.version().map(|version| {
            let identity = version.identity();
            Of { function: &identity.name, version: Some(identity.record.number) }
        });
        decorate(answer.headers_mut(), of, &self.ingress.region, self.trail.id(), waits);
        self.count(Outcome::of(status));
        if let Some(running) = self.running() {
            running.counts.took(waits.total);
        }
        self.answered = Some(status);
        Recorded::answer(answer, self, method)
    }

    /// The body of the answer ended, and came to its end.
    pub(super) fn whole(&mut self) {
        self.whole = true;
    }

    /// It broke off.
    pub(super) fn broke(&mut self, why: String) {
        self.trail.note(Note::Broke(why));
    }

    fn running(&self) -> Option<&Running> {
        self.version()?.opened()
    }

    fn count(&self, outcome: Outcome) {
        match (self.running(), self.version()) {
            (Some(running), _) => running.counts.count(outcome),
            (None, Some(version)) => count(&self.ingress, &version.identity().name, outcome),
            (None, None) => {}
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let ending = match self.answered {
            Some(status) if self.whole => Ending::Status(status.as_u16()),
            Some(status) => Ending::Cut(status.as_u16()),
            None => {
                self.count(Outcome::CANCELLED);
                Ending::Cancelled
            }
        };
        if let Some(running) = self.running().filter(|_| self.in_flight) {
            running.counts.end();
        }
        self.ingress.observe.trails.finish(&self.trail, self.of.subject(), ending);
    }
}

/// Counts where nothing is open that has the counters at hand.
pub(super) fn count(ingress: &Ingress, function: &FunctionName, outcome: Outcome) {
    ingress.observe.metrics.of_function(function.as_str()).count(outcome);
}
