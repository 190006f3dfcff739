//! The data listener: functions, `/to`, health.
//!
//! Runs on the guests' runtime, so that a request meets its instance without changing threads. [`listener`] accepts,
//! [`route`] says what a request is for, [`live`] holds what is deployed, [`invoke`] runs a function, [`to`] sends a
//! program's request through the gate. Every answer that a guest or an upstream did not give is a problem.

mod answer;
mod closing;
mod credentials;
mod head;
mod inbound;
mod invoke;
mod leaving;
mod linger;
pub mod listener;
pub mod live;
mod opener;
mod record;
mod recorded;
mod route;
mod socket;
mod stall;
mod to;
mod traffic;
mod trailers;
mod waiting;

use std::{
    future::{Future, ready},
    sync::Arc,
    time::Instant,
};

use futures::{
    FutureExt,
    future::{Either, lazy},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, uri::Authority};
use ipnet::IpNet;

pub use closing::Closing;
pub use linger::Lingering;
pub use opener::{GuestOpener, Running, forget};
pub use recorded::Recorded;
pub use to::Senders;

use self::{
    listener::{Handler, Peer},
    live::{Functions, LiveFunction, LiveVersion},
    route::{Place, place},
};
use crate::{
    body::{self, Body},
    cluster::registry::{Registry, VersionNumber},
    guest::GuestHost,
    ids::{FunctionName, TenantId, TraceContext},
    node::Readiness,
    observe::{Ending, Observe, Outcome, Subject, Trail, Waits},
    outbound::Door,
    problem::Problem,
};

/// What the data listener works on.
pub struct Ingress {
    /// What is deployed.
    pub functions: Arc<Functions<GuestOpener>>,
    /// Runs it.
    pub guests: Arc<GuestHost>,
    /// Sends what programs send through the gate.
    pub door: Door,
    /// Knows tokens.
    pub registry: Registry,
    /// What people can see.
    pub observe: Arc<Observe>,
    /// Whether the node is ready.
    pub readiness: Arc<Readiness>,
    /// The region, as a header's value.
    pub region: HeaderValue,
    /// Functions are also served at NAME.DOMAIN.
    pub domain: Option<String>,
    /// Largest body of a request, bytes.
    pub max_body: u64,
    /// Whose word about forwarding counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether nobody needs a token (dev).
    pub open: bool,
    /// The function that all paths belong to (dev).
    pub root: Option<FunctionName>,
    /// Senders of programs, one a token.
    pub senders: Senders,
    /// Whether requests are still waited for.
    pub closing: Arc<Closing>,
}

type Live = Arc<LiveVersion<Running>>;

/// What the requests of one connection hold: on the node's own count of references all threads would meet.
type OfConnection = Arc<Arc<Ingress>>;

impl Handler for Arc<Ingress> {
    type Body = Recorded;

    fn handle(
        self: Arc<Self>,
        peer: Peer,
        request: Request<Lingering>,
    ) -> impl Future<Output = Response<Recorded>> + Send {
        // Not before it is polled: by then hyper has handed over what it has read of the body.
        lazy(move |_| begin(self, peer, request)).flatten()
    }
}

/// Does for a request all that need not wait, and returns what is left.
fn begin(
    ingress: OfConnection,
    peer: Peer,
    mut request: Request<Lingering>,
) -> impl Future<Output = Response<Recorded>> + Send {
    let began = Instant::now();
    request.body_mut().watch();
    let wants_trailers = trailers::wanted(&request);
    let mut trace = TraceContext::from_headers(request.headers());
    if trace.parent.is_none() {
        trace.sampled = ingress.observe.samples(trace.trace);
    }
    let done = |answer| Either::Right(Either::Right(ready(answer)));
    let work = match ingress.goal(&request) {
        Ok((Goal::Invoke(target), authority)) => {
            Either::Left(invoke::invoke(ingress, target, authority, peer, trace, began, request))
        }
        // In a box: every request's future would be as big as the gate's, and is moved to where it is polled.
        Ok((Goal::Gate, _)) => Either::Right(Either::Left(Box::pin(async move {
            match to::to(Arc::clone(&ingress), trace, began, request).await {
                Ok(answer) => answer,
                Err(problem) => ingress.refusal(problem, trace, began),
            }
        }))),
        Ok((Goal::Answer(answer), _)) => done(Recorded::plain(answer)),
        Ok((Goal::Refuse(named, problem), _)) => done(ingress.refusal_of(named, problem, trace, began)),
        Err(problem) => done(ingress.refusal(problem, trace, began)),
    };
    // An `async` block would hold what it waits for twice.
    work.then(move |answer| {
        if wants_trailers { Either::Left(Box::pin(trailers::announce(answer))) } else { Either::Right(ready(answer)) }
    })
}

/// What a request is for.
enum Goal {
    /// A function.
    Invoke(Target),
    /// The gate.
    Gate,
    /// Something the node says itself.
    Answer(Response<Body>),
    /// No, to somebody who named a function that there is.
    Refuse(Named, Problem),
}

/// A function without the version that was asked for.
struct Named {
    function: FunctionName,
    version: Option<VersionNumber>,
}

/// The version of a function that a request is for.
struct Target {
    version: Live,
    /// Where the path that the guest sees begins.
    start: usize,
    /// Whether anyone may invoke it.
    public: bool,
}

impl Target {
    fn of(function: &LiveFunction<Running>, number: Option<VersionNumber>, start: usize) -> Option<Self> {
        let version = Arc::clone(function.version(number)?);
        let public = function.is_public(&version);
        Some(Self { version, start, public })
    }
}

impl Ingress {
    /// Finds out what a request is for, and whom it names.
    fn goal(&self, request: &Request<Lingering>) -> Result<(Goal, Authority), Problem> {
        head::refuse_what_is_never_done(request)?;
        let authority = head::authority(request)?;
        if *request.method() == Method::OPTIONS && request.uri().path() == "*" {
            return Ok((Goal::Answer(what_is_offered()), authority));
        }
        let goal = self.goal_at(&authority, request.uri().path())?;
        if self.open && matches!(goal, Goal::Gate) {
            to::refuse_web_pages(&authority, request.headers(), self.domain.as_deref())?;
        }
        Ok((goal, authority))
    }

    /// A host of a function's own and dev's root belong to the guest wholly: of the hosts one that a route writes out
    /// comes first, then `{name}.<domain>`, then a route's wildcard. On every other host the node's own places do.
    fn goal_at(&self, authority: &Authority, path: &str) -> Result<Goal, Problem> {
        let table = self.functions.table();
        let by_hosts = self.domain.is_some() || table.has_hosts();
        let host = if by_hosts { authority.host() } else { "" };
        let serving = |function: &Arc<LiveFunction<Running>>| of_function(function, None, 0);
        // Somebody wrote the host of a route out; a function's name below the domain is more than a wildcard says.
        if let Some(function) = table.by_host(host, path) {
            return Ok(serving(function));
        }
        let below = self.domain.as_ref().and_then(|domain| table.by_domain(host, domain));
        if let Some(Ok(function)) = below {
            return Ok(serving(function));
        }
        if let Some(function) = table.by_wildcard(host, path) {
            return Ok(serving(function));
        }
        if let Some(Err(name)) = below {
            return Err(no_function(name));
        }
        if let Some(root) = &self.root {
            return Ok(serving(table.by_name(root.as_str()).ok_or_else(|| no_function(root.as_str()))?));
        }
        match place(path) {
            Place::Function { name, version, rest } => {
                let function = table.by_name(name).ok_or_else(|| no_function(name))?;
                Ok(of_function(function, version, rest))
            }
            Place::Gate => Ok(Goal::Gate),
            Place::Health => Ok(Goal::Answer(plain(StatusCode::OK, "ok\n".into()))),
            Place::Ready => Ok(Goal::Answer(match self.readiness.why_not() {
                None => plain(StatusCode::OK, "ready\n".into()),
                Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            })),
            Place::BadName => Err(no_function(path.strip_prefix("/f/").unwrap_or_default())),
            Place::Other => match table.by_path(path) {
                Some(function) => Ok(serving(function)),
                None => Err(nothing_here(path)),
            },
        }
    }

    /// A refusal of what names no function.
    fn refusal(&self, problem: Problem, trace: TraceContext, began: Instant) -> Response<Recorded> {
        let mut answer = problem.into_response();
        let waits = Waits { total: began.elapsed(), ..Waits::default() };
        answer::decorate(answer.headers_mut(), None, &self.region, trace.trace, waits);
        Recorded::plain(answer)
    }

    /// A refusal of what names a function, of which no version is there that could be asked.
    fn refusal_of(&self, named: Named, problem: Problem, trace: TraceContext, began: Instant) -> Response<Recorded> {
        let Named { function, version } = named;
        record::count(self, &function, Outcome::of(problem.status));
        let trail = Trail::begin_at(began, trace);
        let ending = Ending::Status(problem.status.as_u16());
        let mut answer = problem.trail(trail.id()).into_response();
        let waits = trail.answered();
        let of = Some(answer::Of { function: &function, version });
        answer::decorate(answer.headers_mut(), of, &self.region, trail.id(), waits);
        let tenant = TenantId::default_tenant();
        let invocation = Some((function.as_str(), version.unwrap_or_default()));
        self.observe.trails.finish(&trail, Subject { tenant: tenant.as_str(), invocation }, ending);
        Recorded::plain(answer)
    }
}

/// The version of a function that is to serve, or why none can.
fn of_function(function: &LiveFunction<Running>, version: Option<VersionNumber>, start: usize) -> Goal {
    match Target::of(function, version, start) {
        Some(target) => Goal::Invoke(target),
        None => {
            let name = function.name();
            let problem = match version {
                Some(number) => no_version(name.as_str(), number),
                None => nothing_serves(name.as_str()),
            };
            Goal::Refuse(Named { function: name.clone(), version }, problem)
        }
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut answer = Response::new(body::full(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The answer to `OPTIONS *`, which asks about the node and none of its places (RFC 9110, 9.3.7).
fn what_is_offered() -> Response<Body> {
    let mut answer = Response::new(body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    answer
}

fn not_found(kind: &'static str, title: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, kind, title, detail).final_answer()
}

fn no_function(name: &str) -> Problem {
    let detail = format!("there is no function `{name}` here; `tidegate functions` lists what is deployed");
    not_found("no-such-function", "There is no such function", detail)
}

fn no_version(name: &str, number: u64) -> Problem {
    let detail = format!("function `{name}` keeps no version {number}; `tidegate functions show {name}` lists them");
    not_found("no-such-version", "There is no such version", detail)
}

fn nothing_serves(name: &str) -> Problem {
    let detail =
        format!("no version of function `{name}` serves yet; `tidegate functions rollback {name} --to N` lets one");
    not_found("no-version-serves", "No version serves", detail)
}

fn nothing_here(path: &str) -> Problem {
    let detail = format!("there is nothing at `{path}`: functions are at /f/NAME/, the gate is at /to/");
    not_found("no-such-path", "There is nothing here", detail)
}
