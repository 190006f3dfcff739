//! The way of a call through the cache, for destinations that opted in: an answer that is there, or the call that makes
//! one, with those who want the same behind it.

mod fetch;
mod serve;

use std::{pin::pin, sync::Arc, time::Duration};

use http::{HeaderMap, Method, Response, Uri, header};
use http_body_util::BodyExt;
use tidegate_core::{
    cache::{self as rules, Demand, Use, Why},
    units::Rounded,
};

use self::{
    fetch::{is_conditional, without_conditions},
    serve::say,
};
use super::{
    Inner, Target,
    behind::Behind,
    calls::{Call, End, Head},
};
use crate::{
    body::Body,
    observe::{Cached, Note},
    outbound::{
        Sender, TransportError,
        body::{KeptBody, Pump},
        cache::{Cache, Caching, Follower, Found, Landed, Lead, Place, Request, Stored},
        refuse, shards,
    },
};

/// How often a call joins those who want the same: an answer that varies is not the one to all of them.
const ROUNDS: usize = 4;
/// A stale answer is given so long before it may not be given any more, as timers may be late.
const MARGIN: Duration = Duration::from_millis(100);

/// What a call through the cache needs beside what every call needs.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) door: &'a Arc<Inner>,
    pub(super) target: &'a Arc<Target>,
    pub(super) sender: &'a Arc<Sender>,
    pub(super) cache: &'a Arc<Cache>,
    pub(super) caching: &'a Caching,
    /// Nobody waits for it.
    pub(super) behind: bool,
}

/// The head of a request, and what it says to caches.
struct Asking {
    /// Headers as its sender made them.
    made: HeaderMap,
    /// Headers with the secrets that they leave with: an upstream answers the key, whatever handle stands for it.
    headers: HeaderMap,
    /// The URI with them.
    uri: Uri,
    demand: Demand,
}

impl Asking {
    fn of(head: &Head, demand: Demand) -> Self {
        let (made, mut headers) = (head.headers.clone(), head.headers.clone());
        let mut uri = &head.uri;
        if let Some(filled) = &head.filled {
            filled.usual().apply(&mut headers);
            filled.tell_apart(&mut headers);
            uri = filled.usual().uri().unwrap_or(uri);
        }
        Self { made, headers, uri: uri.clone(), demand }
    }

    /// Whether an answer can be given as it is: one whose sender has the head of a stream by now takes no coding.
    fn takes(&self, stored: &Stored) -> bool {
        let plain = self.headers.get(header::ACCEPT_ENCODING).is_some_and(|coding| coding == "identity");
        !plain || !stored.headers.contains_key(header::CONTENT_ENCODING)
    }
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
    pub(super) async fn through(
        mut self,
        around: Around<'_>,
        pump: Option<Pump>,
    ) -> Result<Response<Body>, TransportError> {
        let method = &self.head.method;
        if !method.is_safe() {
            let end = self.ended(pump).await;
            if let End::Answer(response, _) = &end
                && (response.status().is_success() || response.status().is_redirection())
            {
                let uri = Asking::of(&self.head, Demand::default()).uri;
                around.cache.invalidate(around.caching, &uri, response.headers());
            }
            return self.forwarded(around, end, Forward::Method).await;
        }
        let headers = &self.head.headers;
        let bypass = match () {
            () if method != Method::GET && method != Method::HEAD => Some(Forward::Method),
            () if headers.contains_key(header::RANGE) => Some(Forward::Bypass("range")),
            // Those are for whoever has the resource itself to judge (RFC 9111 section 4.3.2).
            () if headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_UNMODIFIED_SINCE) => {
                Some(Forward::Bypass("condition"))
            }
            () if !matches!(self.kept, KeptBody::Empty) => Some(Forward::Bypass("body")),
            () => None,
        };
        let asking = Asking::of(&self.head, Demand::of(&self.head.headers));
        match bypass {
            Some(_) if asking.demand.only_if_cached => Ok(self.not_there(around)),
            Some(why) => {
                let end = self.ended(pump).await;
                self.forwarded(around, end, why).await
            }
            None => self.look(around, asking).await,
        }
    }

    fn request_of<'a>(&'a self, around: Around<'a>, asking: &'a Asking) -> Request<'a> {
        Request {
            caching: around.caching,
            method: &self.head.method,
            uri: &asking.uri,
            headers: &asking.headers,
            demand: &asking.demand,
        }
    }

    /// Answers from what is there, from what somebody else fetches, or by fetching it.
    async fn look(&mut self, around: Around<'_>, mut asked: Asking) -> Result<Response<Body>, TransportError> {
        let mut after = None;
        for _ in 0..ROUNDS {
            let asking = &asked;
            let Some(mut found) = around.cache.find(&self.request_of(around, asking)).await else { break };
            found.stored = found.stored.filter(|stored| asking.takes(stored));
            if let Some(answer) = self.at_once(around, asking, &found) {
                return Ok(answer);
            }
            if asking.demand.only_if_cached {
                return Ok(self.not_there(around));
            }
            if let Some((stored, _)) = self.stand_in(asking, &found)
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
            let landed = match around.cache.join(&found, false) {
                Place::Lead(lead) => Err(lead),
                Place::Follow(follower) => {
                    let stand_in = self.stand_in(asking, &found);
                    if let Some((stored, _)) = stand_in.as_ref().filter(|_| follower.is_late()) {
                        // Whoever asked before waited for all who come now.
                        return Ok(self.stale(around, asking, stored, "late", None));
                    }
                    let left = self.patience(stand_in.map(|(_, usable)| usable));
                    let landed = self.follow(follower, left).await;
                    // It may have begun its answer meanwhile, and take no coding any more.
                    asked = Asking::of(&self.head, asked.demand);
                    match landed {
                        Some(landed) => landed,
                        None => return self.waited_in_vain(around, &asked, &found).await,
                    }
                }
            };
            let asking = &asked;
            match landed {
                Err(lead) => {
                    // Whoever led before may have landed since we looked.
                    let again = around.cache.again(&found).or(found.stored);
                    found.stored = again.filter(|stored| asking.takes(stored));
                    if let Some(answer) = self.at_once(around, asking, &found) {
                        // Whoever waits behind this looks likewise.
                        drop(lead);
                        return Ok(answer);
                    }
                    return self.fetch(around, asking, found, why, Some(lead)).await;
                }
                Ok(Landed::Open) => return self.fetch(around, asking, found, why, None).await,
                Ok(Landed::Stored { stored, of }) => {
                    if Cache::fits(&found, &stored, &of, &asking.headers) && asking.takes(&stored) {
                        return Ok(self.shared(around, asking, &stored, why));
                    }
                    after = Some(found);
                }
                Ok(Landed::StandIn(stored)) => {
                    if asking.takes(&stored)
                        && rules::may_stand_in(&stored.answer, stored.age(Cache::now()), &asking.demand)
                    {
                        return Ok(self.stale(around, asking, &stored, "stale-if-error", None));
                    }
                    return self.fetch(around, asking, found, why, None).await;
                }
            }
        }
        match after {
            Some(found) => self.fetch(around, &asked, found, Forward::Miss, None).await,
            None => {
                let end = self.ended(None).await;
                self.told(end).await
            }
        }
    }

    /// How long it waits yet. `usable`: how long a stale answer may be given instead, if there is one.
    fn patience(&self, usable: Option<Duration>) -> Duration {
        let left = self.deadline.since(shards::now());
        let Some(usable) = usable else { return left };
        let left = left.min(usable - MARGIN.min(usable / 2));
        match self.door.settings.cache_patience.get() {
            Duration::ZERO => left,
            patience => left.min(patience),
        }
    }

    /// Waits so long for what an equal call brings, as others wait for their turn; nothing where that is over.
    async fn follow(&mut self, follower: Follower, left: Duration) -> Option<Result<Landed, Lead>> {
        self.ending.note(|call| Note::Queued { call, why: "behind an equal call that is under way".into() });
        let before = self.ending.waited;
        let landed = self.waits(pin!(tokio::time::timeout(left, follower.wait()))).await.ok()?;
        let waited = self.ending.waited.saturating_sub(before);
        self.ending.note(|call| Note::Admitted { call, waited, why: None });
        Some(landed)
    }

    /// Somebody asked for all, and it took longer than this call has.
    async fn waited_in_vain(
        &mut self,
        around: Around<'_>,
        asking: &Asking,
        found: &Found,
    ) -> Result<Response<Body>, TransportError> {
        if let Some((stored, _)) = self.stand_in(asking, found) {
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
                self.ask_behind(around, asking, found, false);
                Some(self.stale(around, asking, stored, "stale-while-revalidate", None))
            }
        }
    }

    /// What may be given where asking fails, and for how long yet.
    fn stand_in(&self, asking: &Asking, found: &Found) -> Option<(Arc<Stored>, Duration)> {
        let stored = found.stored.as_ref()?;
        let usable = rules::stands_in_for(&stored.answer, stored.age(Cache::now()), &asking.demand)?;
        Some((Arc::clone(stored), usable))
    }

    fn why(&self, asking: &Asking, found: &Found) -> Forward {
        let Some(stored) = &found.stored else { return Forward::Miss };
        match rules::judge(&stored.answer, stored.age(Cache::now()), &asking.demand) {
            Use::Ask(Why::Request) => Forward::Request,
            _ => Forward::Stale,
        }
    }

    fn is_paused(&self) -> bool {
        self.door.shards.is_paused(self.key)
    }

    /// The request wants a stored answer only, and there is none.
    fn not_there(&mut self, around: Around<'_>) -> Response<Body> {
        self.count(around, Cached::Miss);
        let mut answer = self.ending.refuse(refuse::not_cached(self.target.label()));
        say(answer.headers_mut(), "fwd=request; detail=only-if-cached");
        answer
    }

    /// Passes on what came of asking, stored or not.
    async fn forwarded(
        &mut self,
        around: Around<'_>,
        end: End,
        why: Forward,
    ) -> Result<Response<Body>, TransportError> {
        self.count(
            around,
            if matches!(why, Forward::Bypass(_) | Forward::Method) { Cached::Bypass } else { Cached::Miss },
        );
        let mut answer = self.told(end).await?;
        say(answer.headers_mut(), &why.text());
        Ok(answer)
    }

    /// Has the upstream asked while a stale answer is given, once for all who get it. `late`: somebody asked just now, and
    /// got no answer in time.
    fn ask_behind(&self, around: Around<'_>, asking: &Asking, found: &Found, late: bool) {
        let Place::Lead(lead) = around.cache.join(found, late) else { return };
        let behind = Behind::of(self, around);
        self.note(format!("asked for again in the background, trail {}", behind.trail()));
        behind.spawn(asking.made.clone(), lead);
    }

    fn note(&self, what: String) {
        self.ending.note(|call| Note::Decided { call, what });
    }

    fn count(&self, around: Around<'_>, how: Cached) {
        around.target.destination.count_cached(how, &self.door.observe.metrics);
    }
}

/// Runs a call in the background that renews what is stored.
pub(super) async fn renew(mut call: Call<'_>, around: Around<'_>, headers: HeaderMap, lead: Lead) -> Option<u16> {
    let mut headers = headers;
    // Its answer is for all: what one of them has already, or how old it would have it, is of no concern.
    without_conditions(&mut headers);
    headers.remove(header::CACHE_CONTROL);
    headers.remove(header::PRAGMA);
    call.head.headers = headers;
    let asking = Asking::of(&call.head, Demand::default());
    let found = around.cache.find(&call.request_of(around, &asking)).await?;
    let answer = call.fetch(around, &asking, found, Forward::Stale, Some(lead)).await.ok()?;
    let status = answer.status().as_u16();
    // Who stores it stops where nobody reads it.
    drain(answer.into_body()).await;
    Some(status)
}

/// Reads a body to its end.
async fn drain(mut body: Body) {
    while let Some(Ok(_)) = body.frame().await {}
}
