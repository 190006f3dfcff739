//! The way of a call through the cache, for destinations that opted in: an answer that is there, or the call that makes
//! one, with those who want the same behind it.

use std::{sync::Arc, time::{Duration, SystemTime}};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tidegate_core::{
    cache::{self as rules, Demand, Use, Why},
    units::Rounded,
};

use super::{Inner, Target, behind::Behind, calls::{Call, End}};
use crate::{
    body::{self, Body},
    observe::{Cached, Note},
    outbound::{
        Sender, TransportError,
        body::{KeptBody, Pump, discard},
        cache::{Cache, Caching, Found, Kept, Landed, Lead, Place, Request, Stored, tee},
        headers, refuse, shards::Admission,
        pool::Streaming,
    },
};

/// RFC 9211.
const CACHE_STATUS: http::HeaderName = http::HeaderName::from_static("cache-status");
/// How often a call joins those who want the same: an answer that varies is not the one to all of them.
const ROUNDS: usize = 4;

/// What a call through the cache needs beside what every call needs.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) door: &'a Arc<Inner>,
    pub(super) target: &'a Arc<Target>,
    pub(super) sender: &'a Arc<Sender>,
    pub(super) cache: &'a Arc<Cache>,
    pub(super) caching: &'a Caching,
}

/// The headers of a request, as it came, and what they say to caches.
struct Asking {
    headers: HeaderMap,
    demand: Demand,
}

/// Why a call went to the upstream (RFC 9211 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Forward {
    Bypass(&'static str),
    Method,
    Miss,
    Stale,
    Request,
}

impl Forward {
    fn text(self) -> String {
        match self {
            Self::Bypass(why) => format!("fwd=bypass; detail={why}"),
            Self::Method => "fwd=method".into(),
            Self::Miss => "fwd=miss".into(),
            Self::Stale => "fwd=stale".into(),
            Self::Request => "fwd=request".into(),
        }
    }
}

impl Call<'_> {
    /// Runs the call to its end, past the cache.
    pub(super) async fn through(mut self, around: Around<'_>, pump: Option<Pump>) -> Result<Response<Body>, TransportError> {
        let method = &self.head.method;
        if !method.is_safe() {
            let end = self.ended(pump).await;
            if let End::Answer(response, _) = &end
                && (response.status().is_success() || response.status().is_redirection())
            {
                around.cache.invalidate(around.caching, &self.head.uri, response.headers());
            }
            return self.forwarded(around, end, Forward::Method).await;
        }
        let bypass = match () {
            () if method != Method::GET && method != Method::HEAD => Some(Forward::Method),
            () if self.head.headers.contains_key(header::RANGE) => Some(Forward::Bypass("range")),
            () if !matches!(self.kept, KeptBody::Empty) => Some(Forward::Bypass("body")),
            () => None,
        };
        let asking = Asking { demand: Demand::of(&self.head.headers), headers: self.head.headers.clone() };
        match bypass {
            Some(_) if asking.demand.only_if_cached => Ok(self.not_there(around)),
            Some(why) => {
                let end = self.ended(pump).await;
                self.forwarded(around, end, why).await
            }
            None => self.look(around, &asking).await,
        }
    }

    fn request_of<'a>(&'a self, around: Around<'a>, asking: &'a Asking) -> Request<'a> {
        Request {
            caching: around.caching,
            method: &self.head.method,
            uri: &self.head.uri,
            headers: &asking.headers,
            demand: &asking.demand,
        }
    }

    /// Answers from what is there, from what somebody else fetches, or by fetching it.
    async fn look(&mut self, around: Around<'_>, asking: &Asking) -> Result<Response<Body>, TransportError> {
        let mut after = None;
        for _ in 0..ROUNDS {
            let Some(mut found) = around.cache.find(&self.request_of(around, asking)).await else { break };
            if let Some(answer) = self.at_once(around, asking, &found) {
                return Ok(answer);
            }
            if asking.demand.only_if_cached {
                return Ok(self.not_there(around));
            }
            if let Some(stored) = self.stand_in(asking, &found)
                && self.is_paused()
            {
                return Ok(self.stale(around, asking, &stored, "paused", None));
            }
            let why = self.why(asking, &found);
            // An answer to a condition of one's own is nobody else's, as long as nothing is stored that could have one.
            let own = found.stored.is_none() && is_conditional(&asking.headers);
            if self.head.method == Method::HEAD || !asking.demand.is_plain() || found.passes || own {
                return self.fetch(around, asking, found, why, None).await;
            }
            let landed = match around.cache.join(&found) {
                Place::Lead(lead) => Err(lead),
                Place::Follow(follower) => match tokio::time::timeout(self.left(), follower.wait()).await {
                    Ok(landed) => landed,
                    Err(_) => return self.waited_in_vain(around, asking, &found).await,
                },
            };
            match landed {
                Err(lead) => {
                    // Whoever led before may have landed since we looked.
                    found.stored = around.cache.again(&found).or(found.stored);
                    if let Some(answer) = self.at_once(around, asking, &found) {
                        // Whoever waits behind this looks likewise.
                        drop(lead);
                        return Ok(answer);
                    }
                    return self.fetch(around, asking, found, why, Some(lead)).await;
                }
                Ok(Landed::Open) => return self.fetch(around, asking, found, why, None).await,
                Ok(Landed::Stored { stored, of }) => {
                    if Cache::fits(&found, &stored, &of, &asking.headers) {
                        return Ok(self.shared(around, asking, &stored, why));
                    }
                    after = Some(found);
                }
                Ok(Landed::StandIn(stored)) => {
                    if rules::may_stand_in(&stored.answer, stored.age(Cache::now()), &asking.demand) {
                        return Ok(self.stale(around, asking, &stored, "stale-if-error", None));
                    }
                    return self.fetch(around, asking, found, why, None).await;
                }
            }
        }
        match after {
            Some(found) => self.fetch(around, asking, found, Forward::Miss, None).await,
            None => {
                let end = self.ended(None).await;
                self.told(end).await
            }
        }
    }

    /// Somebody asked for all, and it took longer than this call has.
    async fn waited_in_vain(&mut self, around: Around<'_>, asking: &Asking, found: &Found) -> Result<Response<Body>, TransportError> {
        if let Some(stored) = self.stand_in(asking, found) {
            return Ok(self.stale(around, asking, &stored, "deadline", None));
        }
        let problem = refuse::deadline_passed(self.target.label(), self.policy.deadline, 0);
        self.forwarded(around, End::Refused(problem.into()), self.why(asking, found)).await
    }

    /// The answer that needs nobody to be asked, if there is one.
    fn at_once(&mut self, around: Around<'_>, asking: &Asking, found: &Found) -> Option<Response<Body>> {
        let stored = found.stored.as_ref()?;
        let age = stored.age(Cache::now());
        match rules::judge(&stored.answer, age, &asking.demand) {
            Use::Ask(_) => None,
            Use::Fresh { ttl } => {
                self.note(format!("answered from the cache, {} old", Rounded(age)));
                let status = format!("hit; ttl={}", ttl.as_secs());
                Some(self.serve(around, asking, stored, &status, Cached::Hit))
            }
            Use::Taken { .. } => Some(self.stale(around, asking, stored, "max-stale", None)),
            Use::WhileRevalidating { .. } => {
                self.ask_behind(around, asking, found);
                Some(self.stale(around, asking, stored, "stale-while-revalidate", None))
            }
        }
    }

    /// What may be given where asking fails.
    fn stand_in(&self, asking: &Asking, found: &Found) -> Option<Arc<Stored>> {
        let stored = found.stored.as_ref()?;
        rules::may_stand_in(&stored.answer, stored.age(Cache::now()), &asking.demand).then(|| Arc::clone(stored))
    }

    fn why(&self, asking: &Asking, found: &Found) -> Forward {
        let Some(stored) = &found.stored else { return Forward::Miss };
        match rules::judge(&stored.answer, stored.age(Cache::now()), &asking.demand) {
            Use::Ask(Why::Request) => Forward::Request,
            _ => Forward::Stale,
        }
    }

    fn is_paused(&self) -> bool {
        self.door.shards.snapshot(self.key).is_some_and(|snapshot| snapshot.paused.is_some())
    }

    /// Asks the upstream, for all who wait behind the lead.
    async fn fetch(
        &mut self,
        around: Around<'_>,
        asking: &Asking,
        found: Found,
        why: Forward,
        lead: Option<Lead>,
    ) -> Result<Response<Body>, TransportError> {
        let is_get = self.head.method == Method::GET;
        let validated = found.stored.clone().filter(|stored| is_get && ask_whether(&mut self.head.headers, &stored.headers));
        let sent = Cache::now();
        let mut end = self.ended(None).await;
        let came = Cache::now();
        let took = came.duration_since(sent).unwrap_or_default();
        if let (End::Answer(response, _), Some(stored)) = (&end, &validated)
            && response.status() == StatusCode::NOT_MODIFIED
        {
            let mut renewal = response.headers().clone();
            headers::incoming(&mut renewal);
            if let End::Answer(response, admission) = end {
                drop(admission);
                discard(response.into_body()).await;
            }
            if let Some(renewed) = self.renewed(around, asking, stored, &renewal, came, took) {
                return Ok(self.renew(around, asking, &found, renewed, lead));
            }
            // It speaks of an answer that we do not have. Then we need it.
            self.note("the upstream speaks of another answer than the stored one: asked for it".into());
            self.head.headers.clone_from(&asking.headers);
            without_conditions(&mut self.head.headers);
            end = self.ended(None).await;
        }
        let failed = match &end {
            End::Answer(response, _) => stands_for(response.status()),
            End::Refused(_) | End::Failed(_) => true,
        };
        if failed && let Some(stored) = self.stand_in(asking, &found) {
            let status = self.give_up(end).await;
            if let Some(lead) = lead {
                lead.land(Landed::StandIn(Arc::clone(&stored)));
            }
            return Ok(self.stale(around, asking, &stored, "stale-if-error", Some(status)));
        }
        match end {
            End::Answer(response, admission) => Ok(self.arrived(around, asking, found, why, lead, *response, admission, (came, took)).await),
            // Whoever waits asks by itself: the deadline or the bad luck of this call is not its own.
            end => {
                drop(lead);
                self.forwarded(around, end, why).await
            }
        }
    }

    /// Passes an answer on, and stores it where it may be.
    #[allow(clippy::too_many_arguments, reason = "what was asked and what came")]
    async fn arrived(
        &mut self,
        around: Around<'_>,
        asking: &Asking,
        found: Found,
        why: Forward,
        lead: Option<Lead>,
        response: Response<Streaming>,
        admission: Admission,
        (came, took): (SystemTime, Duration),
    ) -> Response<Body> {
        let framed = is_framed(&response);
        let mut response = self.pass(response, admission).await;
        let request = self.request_of(around, asking);
        let answer = around.cache.judge(&request, response.status(), response.headers(), came, took).filter(|_| framed);
        let Some(answer) = answer else {
            let status = response.status();
            if self.head.method == Method::GET && !stands_for(status) && status != StatusCode::NOT_MODIFIED {
                around.cache.passes(&found);
                if found.stored.is_some() {
                    around.cache.drop_answer(&found);
                }
            }
            if let Some(lead) = lead {
                lead.land(Landed::Open);
            }
            self.count(around, Cached::Miss);
            say(response.headers_mut(), &why.text());
            return response;
        };
        let (parts, body) = response.into_parts();
        let mut headers = parts.headers.clone();
        headers.remove(header::AGE);
        if !headers.contains_key(header::DATE) {
            // Who stores an answer dates it (RFC 9110 section 6.6.1).
            date(&mut headers, came);
        }
        // What must be asked for each time is nobody else's, but where it is asked for.
        let lead = match lead {
            Some(lead) if answer.lifetime <= answer.initial_age => {
                lead.land(Landed::Open);
                None
            }
            lead => lead,
        };
        let filling = Filling {
            cache: Arc::clone(around.cache),
            found,
            lead,
            asked: asking.headers.clone(),
            stored: Stored { status: parts.status, headers, body: Default::default(), came, answer },
        };
        let (memory, object) = around.cache.filling();
        let mut response = Response::from_parts(parts, tee(body, memory, object, filling));
        self.count(around, Cached::Miss);
        say(response.headers_mut(), &format!("{}; stored", why.text()));
        response
    }

    /// A stored answer after the upstream said that it still holds.
    fn renewed(
        &self,
        around: Around<'_>,
        asking: &Asking,
        stored: &Stored,
        renewal: &HeaderMap,
        came: SystemTime,
        took: Duration,
    ) -> Option<(Stored, bool)> {
        let mut headers = rules::refreshed(&stored.headers, renewal)?;
        let answer = around.cache.judge(&self.request_of(around, asking), stored.status, &headers, came, took);
        headers.remove(header::AGE);
        let (kept, answer) = (answer.is_some(), answer.unwrap_or_default());
        Some((Stored { status: stored.status, headers, body: stored.body.clone(), came, answer }, kept))
    }

    fn renew(&mut self, around: Around<'_>, asking: &Asking, found: &Found, (renewed, kept): (Stored, bool), lead: Option<Lead>) -> Response<Body> {
        let stored = Arc::new(renewed);
        let landed = Cache::variant_of(found, &asking.headers, &stored).filter(|_| kept);
        match &landed {
            Some(_) => around.cache.put(found, &asking.headers, &stored),
            None => around.cache.drop_answer(found),
        }
        if let Some(lead) = lead {
            lead.land(match landed {
                Some(of) if stored.answer.lifetime > stored.answer.initial_age => Landed::Stored { stored: Arc::clone(&stored), of },
                _ => Landed::Open,
            });
        }
        self.note("answered from the cache: the upstream says that it still holds".into());
        let ttl = stored.answer.lifetime.saturating_sub(stored.answer.initial_age).as_secs();
        let status = format!("fwd=stale; fwd-status=304{}; ttl={ttl}", if kept { "; stored" } else { "" });
        self.serve(around, asking, &stored, &status, Cached::Revalidated)
    }

    /// Lets go of what came instead of an answer, and tells it in the trail. The status, where there is one.
    async fn give_up(&mut self, end: End) -> Option<u16> {
        let (status, what) = match end {
            End::Answer(response, admission) => {
                let status = response.status().as_u16();
                drop(admission);
                discard(response.into_body()).await;
                (Some(status), format!("it was answered {status}"))
            }
            End::Refused(problem) => (None, format!("it was refused, {}: {}", problem.kind, problem.detail)),
            End::Failed(error) => (None, format!("it failed: {error}")),
        };
        self.note(what);
        status
    }

    /// Gives a stale answer. `failed`: the status that came of asking, if somebody was asked.
    fn stale(
        &mut self,
        around: Around<'_>,
        asking: &Asking,
        stored: &Stored,
        why: &'static str,
        failed: Option<Option<u16>>,
    ) -> Response<Body> {
        let age = stored.age(Cache::now());
        let over = age.saturating_sub(stored.answer.lifetime);
        self.note(format!("answered from the cache, {} old, stale for {}: {why}", Rounded(age), Rounded(over)));
        let asked = match failed {
            Some(Some(status)) => format!("fwd=stale; fwd-status={status}"),
            Some(None) => "fwd=stale".into(),
            None => "hit".into(),
        };
        let status = format!("{asked}; ttl=-{}; detail={why}", over.as_secs());
        self.serve(around, asking, stored, &status, Cached::Stale)
    }

    /// Gives what somebody else fetched.
    fn shared(&mut self, around: Around<'_>, asking: &Asking, stored: &Stored, why: Forward) -> Response<Body> {
        self.note("answered with what an equal call fetched".into());
        self.serve(around, asking, stored, &format!("{}; collapsed", why.text()), Cached::Collapsed)
    }

    /// A stored answer, as it is given to this request.
    fn serve(&mut self, around: Around<'_>, asking: &Asking, stored: &Stored, status: &str, how: Cached) -> Response<Body> {
        let mut headers = stored.headers.clone();
        let age = stored.age(Cache::now()).as_secs();
        headers.insert(header::AGE, HeaderValue::from(age));
        let same = stored.status == StatusCode::OK && rules::is_not_modified(&asking.headers, &stored.headers);
        let mut response = Response::new(body::empty());
        *response.status_mut() = stored.status;
        if same {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING].iter().for_each(|name| {
                headers.remove(name);
            });
        } else if self.head.method == Method::HEAD {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(stored.body.len()));
        } else if !stored.body.is_empty() {
            *response.body_mut() = body::full(stored.body.clone());
        }
        say(&mut headers, status);
        *response.headers_mut() = headers;
        self.count(around, how);
        self.ending.answered(response.status().as_u16());
        response
    }

    /// The request wants a stored answer only, and there is none.
    fn not_there(&mut self, around: Around<'_>) -> Response<Body> {
        self.count(around, Cached::Miss);
        let mut answer = self.ending.refuse(refuse::not_cached(self.target.label()));
        say(answer.headers_mut(), "fwd=request; detail=only-if-cached");
        answer
    }

    /// Passes on what came of asking, stored or not.
    async fn forwarded(&mut self, around: Around<'_>, end: End, why: Forward) -> Result<Response<Body>, TransportError> {
        self.count(around, if matches!(why, Forward::Bypass(_) | Forward::Method) { Cached::Bypass } else { Cached::Miss });
        let mut answer = self.told(end).await?;
        say(answer.headers_mut(), &why.text());
        Ok(answer)
    }

    /// Has the upstream asked while a stale answer is given, once for all who get it.
    fn ask_behind(&self, around: Around<'_>, asking: &Asking, found: &Found) {
        let Place::Lead(lead) = around.cache.join(found) else { return };
        let behind = Behind::of(self, around);
        self.note(format!("asked for again in the background, trail {}", behind.trail()));
        behind.spawn(asking.headers.clone(), lead);
    }

    fn note(&self, what: String) {
        self.ending.note(|call| Note::Decided { call, what });
    }

    fn count(&self, around: Around<'_>, how: Cached) {
        around.target.destination.count_cached(&self.door.observe.metrics, how);
    }
}

/// Runs a call in the background that renews what is stored.
pub(super) async fn renew(mut call: Call<'_>, around: Around<'_>, headers: HeaderMap, lead: Lead) -> Option<u16> {
    let mut headers = headers;
    // Its answer is for all: what one of them has already, or how old it would have it, is of no concern.
    without_conditions(&mut headers);
    headers.remove(header::CACHE_CONTROL);
    headers.remove(header::PRAGMA);
    call.head.headers.clone_from(&headers);
    let asking = Asking { demand: Demand::default(), headers };
    let Some(found) = around.cache.find(&call.request_of(around, &asking)).await else { return None };
    let answer = call.fetch(around, &asking, found, Forward::Stale, Some(lead)).await.ok()?;
    let status = answer.status().as_u16();
    // Who stores it stops where nobody reads it.
    drain(answer.into_body()).await;
    Some(status)
}

/// Reads a body to its end.
async fn drain(mut body: Body) {
    use http_body_util::BodyExt;
    while let Some(Ok(_)) = body.frame().await {}
}

/// An answer on its way into the cache.
struct Filling {
    cache: Arc<Cache>,
    found: Found,
    lead: Option<Lead>,
    asked: HeaderMap,
    /// Without its body yet.
    stored: Stored,
}

impl Kept for Filling {
    fn whole(self, body: bytes::Bytes) {
        let stored = Arc::new(Stored { body, ..self.stored });
        let of = Cache::variant_of(&self.found, &self.asked, &stored);
        self.cache.put(&self.found, &self.asked, &stored);
        if let Some(lead) = self.lead {
            lead.land(of.map_or(Landed::Open, |of| Landed::Stored { stored, of }));
        }
    }

    fn too_large(self) {
        self.cache.passes(&self.found);
        if let Some(lead) = self.lead {
            lead.land(Landed::Open);
        }
    }

    fn is_awaited(&self) -> bool {
        self.lead.as_ref().is_some_and(Lead::is_followed)
    }
}

/// Whether something stale may stand in for an answer with this status (RFC 5861 section 4), and for a refusal.
fn stands_for(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504 | 529)
}

/// Whether the end of the body is told from the end of its connection: what is cut off would be taken for whole.
fn is_framed(response: &Response<Streaming>) -> bool {
    use http_body::Body as _;
    let headers = response.headers();
    let framed = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    framed || response.version() >= http::Version::HTTP_2 || response.body().is_end_stream()
}

const CONDITIONS: [http::HeaderName; 5] = [
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
];

fn is_conditional(headers: &HeaderMap) -> bool {
    CONDITIONS.iter().any(|name| headers.contains_key(name))
}

fn without_conditions(headers: &mut HeaderMap) {
    CONDITIONS.iter().for_each(|name| {
        headers.remove(name);
    });
}

/// Asks whether what is stored still holds, in place of what the client asks about what it has. False where nothing that is
/// stored could be named.
fn ask_whether(headers: &mut HeaderMap, stored: &HeaderMap) -> bool {
    let (tag, modified) = (stored.get(header::ETAG), stored.get(header::LAST_MODIFIED));
    if tag.is_none() && modified.is_none() {
        return false;
    }
    without_conditions(headers);
    for (name, value) in [(header::IF_NONE_MATCH, tag), (header::IF_MODIFIED_SINCE, modified)] {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
    true
}

fn date(headers: &mut HeaderMap, at: SystemTime) {
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(at)) {
        headers.insert(header::DATE, date);
    }
}

/// Says what the cache did, behind what caches before it said.
fn say(headers: &mut HeaderMap, what: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("Tidegate; {what}")) {
        headers.append(CACHE_STATUS, value);
    }
}
