//! The call that makes an answer, or renews a stored one, for all who wait for it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body as _;
use tidegate_core::{cache as rules, units::Rounded};

use super::{Around, Asking, Forward, serve::say};
use crate::{
    body::Body,
    observe::Cached,
    outbound::{
        TransportError,
        body::discard,
        cache::{Cache, Found, Kept, Landed, Lead, Stored, StoredBody, Unkept, tee},
        door::calls::{Call, End},
        headers,
        pool::Streaming,
        shards::{self, Admission},
    },
    settings::names,
};

impl Call<'_> {
    /// Asks the upstream, for all who wait behind the lead.
    pub(super) async fn fetch(
        &mut self,
        around: Around<'_>,
        asking: &Asking,
        found: Found,
        why: Forward,
        lead: Option<Lead>,
    ) -> Result<Response<Body>, TransportError> {
        let is_get = self.head.method == Method::GET;
        let validated =
            found.stored.clone().filter(|stored| is_get && ask_whether(&mut self.head.headers, &stored.headers));
        let (began, waited) = (Cache::now(), self.ending.waited);
        let (mut end, mut late) = self.ask(around, asking, &found).await;
        let came = Cache::now();
        // The upstream made it after the request had left the queue.
        let waited = self.ending.waited.saturating_sub(waited);
        let took = came.duration_since(began).unwrap_or_default().saturating_sub(waited);
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
                return Ok(self.renew(around, asking, &found, renewed, why, lead));
            }
            // It speaks of an answer that we do not have. Then we need it.
            self.note("the upstream speaks of another answer than the stored one: asked for it".into());
            self.head.headers.clone_from(&asking.made);
            without_conditions(&mut self.head.headers);
            (end, late) = self.ask(around, asking, &found).await;
        }
        let failed = match &end {
            End::Answer(response, _) => stands_for(response.status()),
            End::GivesWay(..) | End::Refused(_) | End::Failed(_) => true,
        };
        if failed && let Some((stored, _)) = self.stand_in(asking, &found) {
            let status = self.give_up(end).await;
            if let Some(lead) = lead {
                lead.land(Landed::StandIn(Arc::clone(&stored)));
                if late {
                    // It may be slow and not gone, and nobody would ever wait for it to its end.
                    self.ask_behind(around, asking, &found, true);
                }
            }
            return Ok(self.stale(around, asking, &stored, "stale-if-error", Some(status)));
        }
        match end {
            End::Answer(response, admission) => {
                Ok(self.arrived(around, asking, found, why, lead, *response, admission, (came, took)).await)
            }
            // Whoever waits asks by itself: the deadline or the bad luck of this call is not its own.
            end => {
                drop(lead);
                self.forwarded(around, end, why).await
            }
        }
    }

    /// Asks, and no longer than to the first refusal, failure or pause, or for `cache_patience`, where a stale answer may
    /// stand in for what comes of it. Says, too, whether an attempt was under way when that time was over.
    async fn ask(&mut self, around: Around<'_>, asking: &Asking, found: &Found) -> (End, bool) {
        let Some((_, usable)) = self.stand_in(asking, found).filter(|_| !around.behind) else {
            return (self.ended(None).await, false);
        };
        let (patience, attempts, deadline) = (self.patience(Some(usable)), self.ending.attempts(), self.deadline);
        self.deadline = deadline.min(shards::now() + patience);
        self.fallback = Some(patience);
        let end = self.ended(None).await;
        let cut_short = matches!(end, End::Refused(_)) && self.deadline < deadline && self.deadline <= shards::now();
        if cut_short {
            let (patience, usable, setting) = (Rounded(patience), Rounded(usable), names::CACHE_PATIENCE);
            self.note(format!("it had {patience}: a stale answer is there, for {usable} yet (setting {setting})"));
        }
        let late = cut_short && self.ending.attempts() > attempts;
        (self.deadline, self.fallback) = (deadline, None);
        (end, late)
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
        let (body, unkept) = tee(body, memory, object, filling);
        let mut response = Response::from_parts(parts, body);
        self.count(around, Cached::Miss);
        let stored = match unkept {
            None => "stored",
            Some(Unkept::TooLarge) => "detail=too-large",
            Some(Unkept::NoMemory) => {
                let setting = names::CACHE_MEMORY;
                self.note(format!("not stored: other answers take all of the memory (setting {setting})"));
                "detail=no-memory"
            }
        };
        say(response.headers_mut(), &format!("{}; {stored}", why.text()));
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

    fn renew(
        &mut self,
        around: Around<'_>,
        asking: &Asking,
        found: &Found,
        (renewed, kept): (Stored, bool),
        why: Forward,
        lead: Option<Lead>,
    ) -> Response<Body> {
        let stored = Arc::new(renewed);
        let landed = Cache::variant_of(found, &asking.headers, &stored).filter(|_| kept);
        match &landed {
            Some(_) => around.cache.put(found, &asking.headers, &stored),
            None => around.cache.drop_answer(found),
        }
        if let Some(lead) = lead {
            lead.land(match landed {
                Some(of) if stored.answer.lifetime > stored.answer.initial_age => {
                    Landed::Stored { stored: Arc::clone(&stored), of }
                }
                _ => Landed::Open,
            });
        }
        self.note("answered from the cache: the upstream says that it still holds".into());
        let ttl = stored.answer.lifetime.saturating_sub(stored.answer.initial_age).as_secs();
        let stored_again = if kept { "; stored" } else { "" };
        let status = format!("{}; fwd-status=304{stored_again}; ttl={ttl}", why.text());
        self.serve(around, asking, &stored, &status, Cached::Revalidated)
    }

    /// Lets go of what came instead of an answer, and tells it in the trail. The status, where there is one.
    async fn give_up(&mut self, end: End) -> Option<u16> {
        let (status, what) = match end {
            End::Answer(response, admission) | End::GivesWay(response, admission) => {
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
    fn whole(self, body: StoredBody) {
        let stored = Arc::new(Stored { body, ..self.stored });
        let of = Cache::variant_of(&self.found, &self.asked, &stored);
        self.cache.put(&self.found, &self.asked, &stored);
        if let Some(lead) = self.lead {
            lead.land(of.map_or(Landed::Open, |of| Landed::Stored { stored, of }));
        }
    }

    fn unkept(self, why: Unkept) {
        self.cache.unkept(&self.found, why);
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
    matches!(status.as_u16(), 429 | 500 | 502..=504 | 520..=527 | 529 | 530)
}

/// Whether the end of the body is told from the end of its connection: what is cut off would be taken for whole.
fn is_framed(response: &Response<Streaming>) -> bool {
    let headers = response.headers();
    let framed = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    framed || response.version() >= http::Version::HTTP_2 || response.body().is_end_stream()
}

const CONDITIONS: [HeaderName; 5] =
    [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_MATCH, header::IF_UNMODIFIED_SINCE, header::IF_RANGE];

pub(super) fn is_conditional(headers: &HeaderMap) -> bool {
    CONDITIONS.iter().any(|name| headers.contains_key(name))
}

pub(super) fn without_conditions(headers: &mut HeaderMap) {
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
