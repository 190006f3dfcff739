//! The call loop: ask, wait, try, hear what to do next.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use tidegate_core::{
    Attempt, Cost, Effective, Flow, NewCall, Outcome, Refusal, Ticket, Time, Verdict,
    repeat::{Class, Failure, Reason},
    signal::{self, Signal},
    units::{Rounded, Span},
};

use super::{
    Ending, Inner, Target,
    attempt::{Attempted, Attempting, reading},
    comments::{Early, wants_stream},
    refusal::Refusals,
    target::Way,
};
use crate::{
    body::Body,
    ids::TraceContext,
    observe::{DestinationCounts, FeedEvent, Note},
    outbound::{
        CallTimeouts, Sender, TransportError, WaitClock,
        body::{Idle, KeptBody, Known, Pump, Watch, Watched, discard, first_trouble, wrap},
        destinations::{Requested, lead_back},
        headers,
        pool::Streaming,
        refuse,
        secrets::Filled,
        shards::{self, Admission, Asked, Unadmitted},
    },
    problem::{Problem, say_final},
    settings::names,
};

/// A call on its way.
pub(super) struct Call<'a> {
    pub(super) door: &'a Inner,
    pub(super) target: &'a Target,
    /// The same as the configuration has it now, where that changed since the call came.
    pub(super) aimed: Option<Arc<Target>>,
    /// Its partition, as of its last aim.
    pub(super) key: u128,
    /// The partition that it asked last.
    pub(super) asked: u128,
    pub(super) policy: Arc<Effective>,
    pub(super) repeatable: bool,
    /// Whether copies of it may fly beside it.
    pub(super) copies: bool,
    /// Whether it has an `Idempotency-Key` that is not known to be ignored.
    pub(super) keyed: bool,
    /// Its body left while it came, and has left whole.
    pub(super) uploaded: bool,
    /// Whether a repetition costs something.
    pub(super) costs: bool,
    /// What it costs in tokens, stated or estimated.
    pub(super) tokens: u32,
    /// Attempts that failed and were followed by another, or by a wait for one.
    pub(super) failed: u32,
    /// Attempts that were lost with old connections.
    pub(super) lost: u32,
    /// Whose it is, beside others that wait.
    pub(super) flow: Flow,
    /// The gate asked for the usage of a streamed answer, and its sender did not.
    pub(super) asked_usage: bool,
    pub(super) deadline: Time,
    /// Whether somebody said so, and not only the node's settings or a profile.
    pub(super) deadline_stated: bool,
    /// A stale answer stands in for it where it fails or would wait: how long it may take, which its deadline says by now.
    pub(super) fallback: Option<Duration>,
    pub(super) sender: &'a Sender,
    pub(super) head: Head,
    pub(super) timeouts: CallTimeouts,
    pub(super) first_byte: FirstByte,
    /// Attempts that were paid for.
    pub(super) spent: u32,
    pub(super) idle: Idle,
    pub(super) kept: KeptBody,
    pub(super) wait_clock: Option<Arc<WaitClock>>,
    /// Begins the answer before there is one, where its sender may want a stream.
    pub(super) early: Option<Early>,
    /// The span of what it is part of.
    pub(super) trace: TraceContext,
    pub(super) ending: Ending<'a>,
}

/// Why an answer is passed on, with the settings that say so.
fn told(reason: Reason) -> String {
    match reason {
        Reason::BudgetSpent => {
            format!("passed on: {reason} (settings {}, {})", names::RETRY_SHARE, names::RETRY_RATE)
        }
        _ => format!("passed on: {reason}"),
    }
}

/// How long the head of an answer is waited for, and which setting says so.
#[derive(Clone, Copy)]
pub(super) struct FirstByte {
    pub(super) time: Duration,
    pub(super) setting: &'static str,
}

/// The head of the request, as it leaves.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    /// Secrets that are laid over it.
    pub(super) filled: Option<Arc<Filled>>,
}

/// How a call ends.
pub(super) enum End {
    Answer(Box<Response<Streaming>>, Admission),
    /// A refusal or a failure, which a stale answer is there for.
    GivesWay(Box<Response<Streaming>>, Admission),
    Refused(Box<Problem>),
    Failed(TransportError),
}

/// Another attempt.
struct Again {
    ticket: Ticket,
    /// Whether it costs one.
    costs: bool,
    /// How the one before failed, if it did.
    failed: Option<Problem>,
}

/// What to do after an attempt.
enum Next {
    End(End),
    Again(Again),
}

impl Call<'_> {
    /// Runs the call to its end. The pump of its body rides along.
    pub(super) async fn run(mut self, pump: Option<Pump>) -> Result<Response<Body>, TransportError> {
        let end = self.ended(pump).await;
        self.told(end).await
    }

    /// Runs the call until it is known how it ends.
    pub(super) async fn ended(&mut self, pump: Option<Pump>) -> End {
        self.idempotency_key();
        match pump {
            None => self.rounds().await,
            Some(mut pump) => {
                let end = {
                    let mut rounds = pin!(self.rounds());
                    let mut filling = true;
                    std::future::poll_fn(|cx| {
                        filling = filling && Pin::new(&mut pump).poll_fill(cx).is_pending();
                        rounds.as_mut().poll(cx)
                    })
                    .await
                };
                // What is left of the body goes on in a task.
                drop(pump);
                end
            }
        }
    }

    /// Tells the sender how it ended.
    pub(super) async fn told(&mut self, end: End) -> Result<Response<Body>, TransportError> {
        match end {
            End::Answer(response, admission) | End::GivesWay(response, admission) => {
                Ok(self.pass(*response, admission).await)
            }
            End::Refused(problem) => Ok(self.ending.refuse(*problem)),
            End::Failed(error) => Err(self.ending.fail(error)),
        }
    }

    /// The policy's key, where the request has none of its own.
    fn idempotency_key(&mut self) {
        if let Some(key) = &self.policy.idempotency_key
            && !self.head.headers.contains_key("idempotency-key")
            // A string of RFC 9651, as the draft of the header wants it.
            && let Ok(value) = HeaderValue::from_str(&format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\"")))
        {
            self.head.headers.insert("idempotency-key", value);
        }
    }

    async fn rounds(&mut self) -> End {
        let (mut ticket, mut failed) = (None, None);
        loop {
            let admission = match self.admission(ticket, failed.take()).await {
                Ok(admission) => admission,
                Err(problem) => return End::Refused(problem),
            };
            let way = match self.take_aim(&admission) {
                Ok(way) => way,
                Err(problem) => return End::Refused(problem),
            };
            let (attempted, admission, attempt) = self.tries(admission, way).await;
            if self.aim().has_ways() {
                self.ending.endpoint = self.aim().way(admission.endpoint()).and_then(|way| way.name.clone());
            }
            match self.after(attempted, attempt, admission).await {
                Next::End(end) => return end,
                Next::Again(again) => {
                    (ticket, failed) = (Some(again.ticket), again.failed);
                    self.spent += u32::from(again.costs);
                }
            }
        }
    }

    /// One attempt, or one and its copy: the one that counts, with its number.
    async fn tries(&mut self, admission: Admission, way: Arc<Way>) -> (Attempted, Admission, u32) {
        if let Some(name) = &way.name {
            let why = self.why_there(&way).map(|why| format!(": {why}")).unwrap_or_default();
            self.ending.note(|call| Note::Decided { call, what: format!("to endpoint {name}{why}") });
        }
        if let Some(copies) = self.copies() {
            return Box::pin(copies.run(self, admission, way)).await;
        }
        let mut attempting = Attempting::new(self, &way);
        let attempted = attempting.run(&admission).await;
        let (deadline, uploaded, number) = (attempting.deadline, attempting.uploaded, attempting.number);
        drop(attempting);
        (self.deadline, self.uploaded) = (deadline, uploaded);
        (attempted, admission, number)
    }

    /// Waits at the gate, for a turn or for what another call brings. Who wants a stream and waits long is answered
    /// meanwhile.
    pub(super) async fn waits<W: Future + Unpin>(&mut self, mut wait: W) -> W::Output {
        let began = tokio::time::Instant::now();
        let mut clock = self.wait_clock.as_ref().map(|clock| clock.wait());
        let came = match self.early.as_ref().map(|early| early.every) {
            None => None,
            Some(every) => {
                let came = tokio::time::timeout(every.saturating_sub(self.ending.waited), &mut wait).await.ok();
                if came.is_none() && self.begin() {
                    // From here on nothing of its sender stands still for it.
                    drop(clock.take());
                    self.wait_clock = None;
                }
                came
            }
        };
        let came = match came {
            Some(came) => came,
            None => wait.await,
        };
        self.ending.waited += began.elapsed();
        came
    }

    /// Begins the answer, if it is to be a stream.
    fn begin(&mut self) -> bool {
        let Some(early) = self.early.take() else { return false };
        // What comes of it after that can't be repeated by its sender any more: only where the gate does so itself.
        if !self.repeatable || self.policy.retries == 0 || !self.kept.is_replayable() {
            return false;
        }
        let body = self.kept.as_split().ok().flatten();
        if !wants_stream(&self.head.uri, &self.head.headers, body) {
            return false;
        }
        // Its head has no word of a coding.
        self.head.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let every = Span(early.every);
        let what = format!(
            "its sender wants a stream: it is answered now, with a comment every {every} (setting {})",
            names::STREAM_COMMENT
        );
        self.ending.note(|call| Note::Decided { call, what });
        early.begin(self.target.destination.shape(&self.head.method, self.head.uri.path()));
        true
    }

    /// Asks the actor, and waits if it says so. `failed`: how the attempt before failed.
    async fn admission(
        &mut self,
        mut ticket: Option<Ticket>,
        failed: Option<Problem>,
    ) -> Result<Admission, Box<Problem>> {
        loop {
            self.aim_again()?;
            if std::mem::replace(&mut self.asked, self.key) != self.key {
                ticket = ticket.map(Ticket::elsewhere);
            }
            let destination = &self.aim().destination;
            let new = NewCall {
                deadline: self.deadline,
                bytes: self.kept.held(),
                cost: Cost { requests: 1, tokens: self.tokens },
                flow: self.flow,
                priority: self.policy.priority,
                // Endpoints are known by their places, and those may have changed.
                ways: self.ways(destination)?,
                part_of: destination.of_part(self.key),
                fallback: self.fallback.is_some(),
                returning: ticket,
            };
            let (wait, why) = match self.door.shards.ask(self.key, &destination.limits, new) {
                Asked::Admitted(admission) => {
                    self.ending.note(|call| Note::Admitted { call, waited: Duration::ZERO, why: None });
                    return Ok(admission);
                }
                Asked::Refused(refusal) => return Err(self.refused(&refusal, failed).into()),
                Asked::Queued { wait, why } => (wait, why),
            };
            let asked = Arc::clone(&destination.limits);
            // A change is in force before those are sent on who wait: whoever came to wait after that sees it here.
            self.aim_again()?;
            let limits = &self.aim().destination.limits;
            if self.key == self.asked && !Arc::ptr_eq(&asked, limits) {
                self.door.shards.reconfigure(&asked, limits);
            }
            if self.key != self.asked {
                continue;
            }
            self.ending.note(|call| Note::Queued { call, why: why.to_string() });
            let queued = self.target.destination.counts(&self.door.observe.metrics).queued();
            let admitted = self.waits(wait).await;
            drop(queued);
            match admitted {
                Ok(admitted) => {
                    let changed = (!admitted.why.is_like(&why)).then(|| admitted.why.to_string());
                    self.ending.note(|call| Note::Admitted { call, waited: admitted.waited, why: changed });
                    return Ok(admitted.admission);
                }
                Err(Unadmitted::Refused(refusal)) => return Err(self.refused(&refusal, failed).into()),
                Err(Unadmitted::SentOn(sent)) => ticket = Some(sent),
            }
            self.aim_again()?;
            let what = format!("asks again: its destination is {} by now", self.aim().label());
            self.ending.note(|call| Note::Decided { call, what });
        }
    }

    fn refused(&self, refusal: &Refusal, failed: Option<Problem>) -> Problem {
        match failed {
            Some(failed) if refusal.is_by_deadline() => refuse::failed(failed, refusal, self.policy.deadline),
            _ => refuse::refused(refusal, self.aim().label(), self.policy.deadline),
        }
    }

    pub(super) fn counts(&self) -> &Arc<DestinationCounts> {
        self.target.destination.counts(&self.door.observe.metrics)
    }

    /// An attempt leaves the node; the n-th.
    pub(super) fn departed(&self) -> u32 {
        self.counts().attempt();
        self.ending.attempt()
    }

    /// The span of an attempt, as the request says it.
    pub(super) fn traceparent(&self, attempt: u32) -> HeaderValue {
        self.trace.header_of(self.trace.below(self.ending.number, attempt))
    }

    /// Reports what an attempt came to, and does what the actor says.
    async fn after(&mut self, attempted: Attempted, attempt: u32, admission: Admission) -> Next {
        let (outcome, came) = match attempted {
            Attempted::Answer(response, outcome) => (outcome, Ok(response)),
            Attempted::Failed(failure, error) => (Outcome::Failed(failure), Err(error)),
            Attempted::Denied(denied) => {
                // Which addresses a network of the operator's has is told to the operator alone.
                tracing::info!(denied = ?denied, "a call was denied by the address guard");
                return match admission.report(&denied_there(), &self.facts()) {
                    // What is true of one endpoint is not of another.
                    Verdict::PutBack(ticket) => {
                        let what = "put back at no cost: its endpoint has an address that no call may go to".into();
                        self.ending.note(|call| Note::Decided { call, what });
                        Next::Again(Again { ticket, costs: false, failed: None })
                    }
                    _ => Next::End(End::Refused(Box::new(denied.into()))),
                };
            }
            Attempted::Own(error) => return Next::End(End::Failed(error)),
            Attempted::DeadlinePassed => {
                let deadline = self.fallback.unwrap_or(self.policy.deadline);
                let mut problem = refuse::deadline_passed(self.target.label(), deadline, attempt);
                if (attempt > 0 && !self.repeatable) || self.failed > 0 {
                    problem = problem.final_answer();
                }
                return Next::End(End::Refused(problem.into()));
            }
            Attempted::Lost(ticket) => {
                self.lost += 1;
                let what = "asks again at no cost".into();
                self.ending.note(|call| Note::Decided { call, what });
                return Next::Again(Again { ticket, costs: false, failed: None });
            }
            Attempted::PutBack(ticket) => {
                let what = "put back at no cost: the destination was paused meanwhile".into();
                self.ending.note(|call| Note::Decided { call, what });
                return Next::Again(Again { ticket, costs: false, failed: None });
            }
        };
        let verdict = admission.report(&outcome, &self.facts());
        if outcome.class() == Class::Refused {
            self.tell_refusal(&outcome);
        }
        let (ticket, costs, what) = match verdict {
            Verdict::Return(reason) => {
                if !matches!(reason, Reason::Final | Reason::Fallback) {
                    self.ending.note(|call| Note::Decided { call, what: told(reason) });
                }
                let in_vain = reason.ends_it(outcome.class(), self.failed);
                return Next::End(match came {
                    Ok(response) if reason == Reason::Fallback => End::GivesWay(response, admission),
                    Ok(mut response) => {
                        match reason {
                            _ if in_vain => say_final(response.headers_mut()),
                            Reason::NoTime { could_start_in } if outcome.class() == Class::Refused => {
                                headers::say_when(response.headers_mut(), could_start_in);
                            }
                            _ => {}
                        }
                        End::Answer(response, admission)
                    }
                    // Of what is hopeless the error itself says so.
                    Err(error) if in_vain && reason != Reason::Hopeless => {
                        End::Failed(TransportError::InVain(Box::new(error)))
                    }
                    Err(error) => End::Failed(error),
                });
            }
            Verdict::PutBack(ticket) => (ticket, false, self.put_back(&ticket, &outcome)),
            Verdict::Retry(ticket) => {
                self.counts().retry();
                (ticket, true, self.tried_again(&ticket, &outcome))
            }
        };
        self.ending.note(|call| Note::Decided { call, what });
        drop(admission);
        // What failed has failed, be it that nothing more comes of it in time. What was refused has not, nor what another
        // endpoint is asked for, nor what is under way there.
        let has_failed = costs || matches!(outcome.class(), Class::Down | Class::Faulty);
        self.failed += u32::from(has_failed);
        let failed = match came {
            Ok(response) => {
                let status = response.status().as_u16();
                discard(response.into_body()).await;
                has_failed.then(|| refuse::failing(self.target.label(), status))
            }
            Err(error) => has_failed.then(|| error.into()),
        };
        Next::Again(Again { ticket, costs, failed })
    }

    fn facts(&self) -> Attempt<'_> {
        Attempt {
            policy: &self.policy,
            repeatable: self.repeatable,
            costs: self.costs,
            replayable: self.kept.is_replayable(),
            keyed: self.keyed,
            spent: self.spent,
        }
    }

    /// Reads the head of an answer, and of a refusal its body.
    pub(super) async fn read(&self, response: &mut Response<Streaming>, attempt: u32, first_byte: Duration) -> Outcome {
        let status = response.status().as_u16();
        self.ending.note(|call| Note::Answered { call, attempt, status, first_byte });
        self.counts().answered(first_byte);
        let tell = |what| self.ending.note(|call| Note::Decided { call, what });
        let finals = self.target.destination.finals();
        let body = Refusals::new(&self.door.settings).body(response, finals, tell).await;
        let answer =
            signal::Answer { status: response.status(), headers: response.headers(), body: body.as_deref(), finals };
        let outcome = reading(&self.target.destination, &answer, self.door.settings.max_pause.get());
        if !self.repeatable || !self.target.destination.reads_usage() || !self.kept.is_replayable() {
            return outcome;
        }
        // Models say 200 before they know whether they serve.
        let Some(trouble) = first_trouble(response, &self.door.settings, finals).await else { return outcome };
        self.counts().stream_error();
        if let Outcome::Answer { status, .. } = trouble {
            let what = format!("the first that attempt {attempt} says is an error, which counts as a {status} would");
            self.ending.note(|call| Note::Decided { call, what });
        }
        trouble
    }

    /// Why a call goes back to its queue.
    fn put_back(&self, ticket: &Ticket, outcome: &Outcome) -> String {
        if outcome.class() == Class::Denied {
            return "put back at no cost: no waiting helps there, says its answer, and another endpoint may serve it"
                .into();
        }
        if outcome.class() == Class::Accepted {
            let delay = Rounded(ticket.not_before().since(shards::now()));
            return format!(
                "put back for {delay}: an attempt of it before is under way still, says the 409 to its key"
            );
        }
        match self.door.shards.pause(self.key) {
            Some((left, cause)) => {
                format!("put back at no cost: {} is paused for {} {cause}", self.target.label(), Rounded(left))
            }
            None => "put back at no cost".to_owned(),
        }
    }

    /// Why a call is sent again, and when.
    fn tried_again(&self, ticket: &Ticket, outcome: &Outcome) -> String {
        let may = match outcome {
            Outcome::Failed(failure @ (Failure::Connect | Failure::Unprocessed)) => format!("it {failure}"),
            _ if self.costs => "a repetition does no more than cost".to_owned(),
            _ => "the request may be repeated".to_owned(),
        };
        let delay = ticket.not_before().since(shards::now());
        let (retry, retries) = (self.spent + 1, self.policy.retries);
        format!("tried again in {}, retry {retry} of {retries} at most: {may}", Rounded(delay))
    }

    /// Shows a refusal on the feed at once.
    pub(super) fn tell_refusal(&self, outcome: &Outcome) {
        let Outcome::Answer { status, .. } = *outcome else { return };
        self.door.observe.feed.send(|| {
            let shards = &self.door.shards;
            FeedEvent::Refused {
                status,
                host: Arc::clone(&self.target.host),
                paused: shards.pause(self.key).map(|(left, _)| left).unwrap_or_default(),
                waiting: u32::try_from(shards.queued(self.key)).unwrap_or(u32::MAX),
            }
        });
    }

    /// Passes an answer on.
    pub(super) async fn pass(&mut self, response: Response<Streaming>, admission: Admission) -> Response<Body> {
        let (mut parts, stream) = response.into_parts();
        headers::incoming(&mut parts.headers);
        let aim = self.aim();
        let asked = Requested { origin: &aim.origin, uri: &self.head.uri };
        lead_back(&aim.destination.endpoints, admission.endpoint(), asked, &mut parts.headers);
        let idle = match self.timeouts.between_bytes {
            Some(own) if own < self.idle.time => Idle { time: own, ..self.idle },
            _ => self.idle,
        };
        let destination = &self.target.destination;
        let watched = destination.reads_usage().then(|| Watched {
            settings: &self.door.settings,
            counts: destination.counts(&self.door.observe.metrics),
            trail: self.ending.trail(),
            call: self.ending.number,
            finals: destination.finals(),
            charged: destination.counts_tokens().then_some(self.tokens),
            asked: self.asked_usage,
            known: parts.extensions.get::<Known>().is_some(),
        });
        let watch = watched.and_then(|watched| Watch::of(parts.status, &mut parts.headers, watched));
        let body = wrap(stream, admission, watch, self.head.filled.clone(), idle).await;
        self.ending.answered(parts.status.as_u16());
        parts.version = http::Version::HTTP_11;
        // What hyper keeps in the extensions is of the connection.
        parts.extensions.clear();
        Response::from_parts(parts, body)
    }
}

/// What it is to the actor that no call may go to an address: no waiting helps there.
fn denied_there() -> Outcome {
    let signal = Signal { last_word: true, ..Signal::default() };
    Outcome::Answer { status: StatusCode::FORBIDDEN.as_u16(), signal }
}
