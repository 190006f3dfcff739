//! The data listener: functions, `/to`, health.
//!
//! Runs on the guests' runtime, so that a request meets its instance without changing threads. [`listener`] accepts,
//! [`route`] says what a request is for, [`live`] holds what is deployed, [`invoke`] runs a function, [`to`] sends a
//! program's request through the gate. Every answer that a guest or an upstream did not give is a problem.

mod answer;
mod credentials;
mod head;
mod inbound;
mod invoke;
mod linger;
pub mod listener;
pub mod live;
mod opener;
mod record;
mod route;
mod to;
mod trailers;

use std::{sync::Arc, time::Instant};

use http::{HeaderValue, Request, Response, StatusCode, header, uri::Authority};
use ipnet::IpNet;

pub use linger::Lingering;
pub use opener::{GuestOpener, Running, forget};
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
    ids::{FunctionName, TraceContext},
    node::Readiness,
    observe::Observe,
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
}

type Live = Arc<LiveVersion<Running>>;

impl Handler for Arc<Ingress> {
    type Body = Body;

    async fn handle(self, peer: Peer, request: Request<Lingering>) -> Response<Body> {
        let began = Instant::now();
        let wants_trailers = trailers::wanted(&request);
        let trace = TraceContext::from_headers(request.headers());
        match self.serve(peer, trace, request).await {
            Ok(answer) if wants_trailers => trailers::announce(answer).await,
            Ok(answer) => answer,
            Err(problem) => {
                let mut answer = problem.into_response();
                answer::decorate_refusal(answer.headers_mut(), &self.region, trace.trace, began);
                answer
            }
        }
    }
}

/// What a request is for.
enum Goal {
    /// A function.
    Invoke(Target),
    /// The gate.
    Gate,
    /// Something the node says itself.
    Answer(Response<Body>),
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
    async fn serve(
        &self,
        peer: Peer,
        trace: TraceContext,
        request: Request<Lingering>,
    ) -> Result<Response<Body>, Problem> {
        head::refuse_what_is_never_done(&request)?;
        let authority = head::authority(&request)?;
        match self.goal(&authority, request.uri().path())? {
            Goal::Invoke(target) => self.invoke(target, authority, peer, trace, request).await,
            // In a box: every request's future would be as big as the gate's, and is moved to where it is polled.
            Goal::Gate => {
                if self.open {
                    to::refuse_web_pages(&authority, request.headers(), self.domain.as_deref())?;
                }
                Box::pin(self.to(trace, request)).await
            }
            Goal::Answer(answer) => Ok(answer),
        }
    }

    /// Finds out what a request is for. A host of a function's own and dev's root belong to the guest wholly; on every
    /// other host the node's own places come first.
    fn goal(&self, authority: &Authority, path: &str) -> Result<Goal, Problem> {
        let table = self.functions.table();
        let serving = |function: &Arc<LiveFunction<Running>>| {
            let target = Target::of(function, None, 0).ok_or_else(|| nothing_serves(function.name().as_str()));
            target.map(Goal::Invoke)
        };
        let host = authority.host();
        // Somebody wrote the route; the domain is for what nobody wrote one for.
        if let Some(function) = table.by_host(host, path) {
            return serving(function);
        }
        if let Some(domain) = &self.domain
            && let Some(found) = table.by_domain(host, domain)
        {
            return found.map_or_else(|name| Err(no_function(name)), serving);
        }
        if let Some(root) = &self.root {
            return serving(table.by_name(root.as_str()).ok_or_else(|| no_function(root.as_str()))?);
        }
        match place(path) {
            Place::Function { name, version, rest } => {
                let function = table.by_name(name).ok_or_else(|| no_function(name))?;
                match (version, Target::of(function, version, rest)) {
                    (_, Some(target)) => Ok(Goal::Invoke(target)),
                    (Some(number), None) => Err(no_version(name, number)),
                    (None, None) => Err(nothing_serves(name)),
                }
            }
            Place::Gate => Ok(Goal::Gate),
            Place::Health => Ok(Goal::Answer(plain(StatusCode::OK, "ok\n".into()))),
            Place::Ready => Ok(Goal::Answer(match self.readiness.why_not() {
                None => plain(StatusCode::OK, "ready\n".into()),
                Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            })),
            Place::BadName => Err(no_function(path.strip_prefix("/f/").unwrap_or_default())),
            Place::Other => match table.by_path(path) {
                Some(function) => serving(function),
                None => Err(nothing_here(path)),
            },
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
