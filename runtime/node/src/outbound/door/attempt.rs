//! One attempt: a connection, the word that it departs, the exchange.

use std::{
    error::Error as _,
    io,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use tidegate_core::{Outcome, Ticket, Time, repeat::Failure, shard::Departure, signal};
use tokio::{sync::Notify, time::Instant};

use super::{
    calls::{Call, Head},
    target::Way,
};
use crate::{
    ids::TRACEPARENT,
    observe::{CopyKind, DestinationCounts, Note, Stop},
    outbound::{
        TransportError,
        body::OutBody,
        destinations::Destination,
        guard::AddressDenied,
        headers,
        pool::{Broken, DialError, Exchanged, Lease, Streaming, Upload},
        shards::{self, Admission},
        trailer_names,
    },
    settings::names,
};

/// Connections that a request is moved to, free of charge, because the one before it turned out to be closed.
const MOVES: u32 = 3;
/// An old connection that breaks later than this after a request was written was not closed before it.
const STALE: Duration = Duration::from_secs(1);
/// An attempt has half of the time that its call has left, where another endpoint would have answered so many times by then.
const PATIENCE: u32 = 6;

/// What an attempt came to.
pub(super) enum Attempted {
    /// The head of an answer, and what it says of the destination.
    Answer(Box<Response<Streaming>>, Outcome),
    /// No answer.
    Failed(Failure, TransportError),
    /// The address guard denies every address of the host.
    Denied(AddressDenied),
    /// The destination was paused meanwhile; nothing left.
    PutBack(Ticket),
    /// It was lost with an old connection that its peer closed.
    Lost(Ticket),
    /// The call's deadline passed. Says nothing about the destination.
    DeadlinePassed,
    /// The sender's own body or its own bound ended it: nobody's fault but its.
    Own(TransportError),
}

impl Attempted {
    /// What it says of the destination, if anything.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Answer(_, outcome) => Some(*outcome),
            Self::Failed(failure, _) => Some(Outcome::Failed(*failure)),
            Self::Denied(_) | Self::PutBack(_) | Self::Lost(_) | Self::DeadlinePassed | Self::Own(_) => None,
        }
    }
}

/// What an answer says of its destination.
pub(super) fn reading(destination: &Destination, answer: &signal::Answer<'_>, max_pause: Duration) -> Outcome {
    let status = answer.status.as_u16();
    let mut signal = signal::read(answer, SystemTime::now(), max_pause);
    signal.last_word |= destination.is_final(status);
    Outcome::Answer { status, signal }
}

/// Counts what an attempt came to.
pub(super) fn count(counts: &DestinationCounts, outcome: &Outcome) {
    let status = match outcome {
        Outcome::Answer { status, .. } => Some(*status),
        Outcome::Failed(_) => None,
    };
    counts.came(outcome.class(), status);
}

/// A bound in time, and whose it is.
struct Bound {
    time: Duration,
    whose: Whose,
}

enum Whose {
    Ours,
    /// Ours, so that there is time to go elsewhere.
    Patience,
    Senders,
    Deadline,
}

impl Bound {
    /// What an attempt came to that took longer. Only our own bound is a judgement on the upstream.
    fn missed(&self, failure: Failure, error: TransportError) -> Attempted {
        match self.whose {
            Whose::Ours | Whose::Patience => Attempted::Failed(failure, error),
            Whose::Senders => Attempted::Own(error),
            Whose::Deadline => Attempted::DeadlinePassed,
        }
    }
}

/// An attempt of a call, to one of the endpoints of its destination.
pub(super) struct Attempting<'c, 'a> {
    call: &'c Call<'a>,
    way: &'c Way,
    /// The call's deadline, which an upload may have moved.
    pub(super) deadline: Time,
    /// The body left while it came, and has left whole.
    pub(super) uploaded: bool,
    /// Its number among the attempts of the call, once it is one.
    pub(super) number: u32,
    /// Since when it is under way, until it is told what it came to.
    began: Option<Instant>,
    beside: Option<Beside<'c>>,
}

/// What an attempt with copies knows of them.
#[derive(Clone, Copy)]
pub(super) struct Beside<'c> {
    pub(super) own: &'c Shown,
    /// What it is a copy for, and of which.
    pub(super) copy: Option<(CopyKind, &'c Shown)>,
}

/// What attempts of one call beside each other show.
#[derive(Default)]
pub(super) struct Shown {
    /// Its number, once it left.
    number: AtomicU32,
    /// Says so.
    left: Notify,
    /// Another was answered first.
    lost: AtomicBool,
}

impl Shown {
    /// It left, or has left before.
    pub(super) async fn left(&self) {
        self.left.notified().await;
    }

    /// Another was answered first.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
}

impl<'c, 'a> Attempting<'c, 'a> {
    pub(super) fn new(call: &'c Call<'a>, way: &'c Way) -> Self {
        let (deadline, uploaded) = (call.deadline, call.uploaded);
        Self { call, way, deadline, uploaded, number: 0, began: None, beside: None }
    }

    /// The same beside others.
    pub(super) fn beside(self, beside: Beside<'c>) -> Self {
        let mut this = self;
        this.beside = Some(beside);
        this
    }

    /// It left: shows its number to the others, and tells of which it is a copy.
    fn left_node(&self) {
        let Some(beside) = self.beside else { return };
        beside.own.number.store(self.number, Ordering::Relaxed);
        beside.own.left.notify_one();
        if let Some((kind, first)) = beside.copy {
            let (attempt, of) = (self.number, first.number.load(Ordering::Relaxed));
            let to = self.way.name.as_deref().map(str::to_owned);
            self.call.ending.note(|call| Note::Copy { call, attempt, of, kind, to });
        }
    }

    /// It ends without an answer, and without a failure of its upstream.
    fn stopped(&mut self, why: Stop) {
        if let Some(began) = self.began.take() {
            let (attempt, lasted) = (self.number, began.elapsed());
            self.call.ending.note(|call| Note::Stopped { call, attempt, lasted, why });
        }
    }

    /// Runs it, and notes and counts what it came to.
    pub(super) async fn run(&mut self, admission: &Admission) -> Attempted {
        let (call, attempted) = (self.call, self.exchanged(admission).await);
        match &attempted {
            Attempted::Failed(_, error) => {
                let attempt = self.number;
                call.ending.note(|call| Note::Failed { call, attempt, why: error.to_string() });
            }
            Attempted::DeadlinePassed => self.stopped(Stop::Deadline),
            Attempted::Own(_) => self.stopped(Stop::Sender),
            Attempted::Lost(_) => self.stopped(Stop::Connection),
            Attempted::Answer(..) | Attempted::Denied(_) | Attempted::PutBack(_) => {}
        }
        self.began = None;
        if let Some(outcome) = attempted.outcome() {
            count(call.counts(), &outcome);
        }
        attempted
    }

    async fn exchanged(&mut self, admission: &Admission) -> Attempted {
        let call = self.call;
        let mut moves = 0;
        let mut gone = false;
        loop {
            let lease = match self.connect().await {
                Ok(lease) => lease,
                Err(other) => {
                    // One that was tried, even if nothing left the node.
                    if !gone && !matches!(other, Attempted::Denied(_)) {
                        self.number = call.ending.attempt();
                    }
                    return other;
                }
            };
            if !gone {
                match admission.departed() {
                    Departure::Go | Departure::Released => {}
                    Departure::PutBack(ticket) => {
                        lease.give_back();
                        return Attempted::PutBack(ticket);
                    }
                }
                self.number = call.departed();
                call.tell_own_secrets(self.way);
                self.left_node();
                gone = true;
            }
            let Some(body) = call.kept.attempt() else {
                let why = call.kept.failure().unwrap_or_else(|| "it was streamed and is gone".into());
                return Attempted::Own(TransportError::RequestBody { why });
            };
            // A deadline that somebody stated holds for a body on its way, too; another begins when it has left.
            let whole = (call.deadline_stated && body.is_streamed()).then(|| self.left());
            let upload = Upload { idle: call.idle.time, whole };
            let Some(request) = request(&call.head, self.way, &lease, body, call.traceparent(self.number)) else {
                let why = "its URI can't be written".into();
                return Attempted::Own(TransportError::BadRequest { why });
            };
            let began = Instant::now();
            self.began.get_or_insert(began);
            let elsewhere = self.elsewhere(admission);
            let mut bound = None;
            let head = |streamed: bool| {
                // Once: repeated for as long as that takes, it would have no end.
                if streamed && !call.deadline_stated && !std::mem::replace(&mut self.uploaded, true) {
                    self.deadline = self.deadline.max(shards::now() + call.policy.deadline);
                }
                bound.insert(self.first_byte(elsewhere)).time
            };
            let broken = match lease.exchange(request, upload, head).await {
                Ok(Exchanged::Answer(mut response)) => {
                    // Here, where all heads come in: those too that are never passed on, but kept, and what is wrong with one.
                    if let Some(filled) = &call.head.filled {
                        filled.mask(response.headers_mut());
                    }
                    let Err(why) = checked(&mut response) else {
                        // That tells what it came to.
                        self.began = None;
                        let outcome = call.read(&mut response, self.number, began.elapsed()).await;
                        return Attempted::Answer(response, outcome);
                    };
                    let host = self.way.host.to_string();
                    return Attempted::Failed(Failure::Hopeless, TransportError::Protocol { host, why });
                }
                Err(broken) => broken,
                Ok(late) => return self.late(&late, upload, bound),
            };
            if let Some(why) = call.kept.failure() {
                return Attempted::Own(TransportError::RequestBody { why });
            }
            // Where not a byte left, or the peer did nothing with it, the request moves to another connection as if this one
            // had never been there. Where it closed an old connection under a request that may be repeated, nobody knows.
            let unprocessed = broken.request.is_some() || broken.is_unprocessed();
            if unprocessed && moves < MOVES && call.kept.is_replayable() {
                moves += 1;
                let what = "moved to another connection: nothing was done with it".into();
                call.ending.note(|call| Note::Decided { call, what });
                continue;
            }
            // A connection that was closed while nobody used it says so at once.
            let stale = broken.reused && call.repeatable && is_lost(&broken.error) && began.elapsed() < STALE;
            if stale
                && call.lost < MOVES
                && call.kept.is_replayable()
                && let Some(ticket) = admission.lost()
            {
                return Attempted::Lost(ticket);
            }
            let error = self.classify(&broken);
            let failure = match error {
                _ if unprocessed => Failure::Unprocessed,
                // Whoever answers so lives, and answers the next attempt likewise.
                TransportError::HeadTooLarge { .. } | TransportError::Protocol { .. } => Failure::Hopeless,
                _ => Failure::Broken,
            };
            return Attempted::Failed(failure, error);
        }
    }

    /// What an exchange came to that took too long.
    fn late(&self, late: &Exchanged, upload: Upload, bound: Option<Bound>) -> Attempted {
        let host = self.way.host.to_string();
        match (late, bound) {
            (Exchanged::OutOfTime, _) => Attempted::DeadlinePassed,
            (Exchanged::Unsent, _) => {
                let why = format!("nothing came for {:?} (setting {})", upload.idle, self.call.idle.setting);
                Attempted::Own(TransportError::RequestBody { why })
            }
            (_, Some(bound)) => {
                let (limit, repeatable) = (bound.time, self.call.repeatable);
                let setting = match bound.whose {
                    Whose::Patience => "policy.deadline, half of what was left, as another endpoint answers sooner",
                    _ => self.call.first_byte.setting,
                };
                let error = TransportError::FirstByteTimeout { host, limit, setting, repeatable };
                bound.missed(Failure::TimedOut, error)
            }
            (_, None) => {
                let (limit, setting) = (upload.idle, self.call.idle.setting);
                Attempted::Failed(Failure::TimedOut, TransportError::Unread { host, limit, setting })
            }
        }
    }

    async fn connect(&self) -> Result<Lease, Attempted> {
        let bound = self.bound(self.call.timeouts.connect, self.call.door.settings.connect_timeout.get());
        let leased = tokio::time::timeout(bound.time, self.way.upstream.lease()).await;
        match leased {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(DialError::Denied(denied))) => Err(Attempted::Denied(denied)),
            Ok(Err(DialError::Failed(error))) => Err(Attempted::Failed(Failure::Connect, error)),
            Ok(Err(DialError::Hopeless(error))) => Err(Attempted::Failed(Failure::Hopeless, error)),
            Err(_) => {
                let host = self.way.host.to_string();
                let (limit, setting) = (bound.time, names::CONNECT_TIMEOUT);
                let error = TransportError::ConnectTimeout { host, limit, setting };
                Err(bound.missed(Failure::Connect, error))
            }
        }
    }

    /// How long answers take of another endpoint, where the call may go there when this one does not answer.
    fn elsewhere(&self, admission: &Admission) -> Option<Duration> {
        let (call, late) = (self.call, Outcome::Failed(Failure::TimedOut));
        let policy = &call.policy;
        let may = call.repeatable
            && call.spent < policy.retries
            && policy.retry_on.matches(&late)
            && policy.reroute_on.matches(&late)
            && call.kept.is_replayable();
        if may && call.aim().destination.endpoints.len() > 1 { admission.elsewhere_takes() } else { None }
    }

    /// How long the head of an answer is waited for.
    fn first_byte(&self, elsewhere: Option<Duration>) -> Bound {
        let (bound, half) = (self.bound(self.call.timeouts.first_byte, self.call.first_byte.time), self.left() / 2);
        if half < bound.time && elsewhere.is_some_and(|takes| half > takes * PATIENCE) {
            return Bound { time: half, whose: Whose::Patience };
        }
        bound
    }

    /// The shortest of the sender's own bound, ours, and the time to the deadline.
    fn bound(&self, own: Option<Duration>, ours: Duration) -> Bound {
        let (time, whose) = match own {
            Some(own) if own < ours => (own, Whose::Senders),
            _ => (ours, Whose::Ours),
        };
        let left = self.left();
        if left < time { Bound { time: left, whose: Whose::Deadline } } else { Bound { time, whose } }
    }

    /// Time to the deadline.
    fn left(&self) -> Duration {
        self.deadline.since(shards::now())
    }

    /// What a broken exchange is called.
    fn classify(&self, broken: &Broken) -> TransportError {
        let host = self.way.host.to_string();
        let error = &broken.error;
        let why = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        if error.is_parse_too_large() {
            let settings = &self.call.door.settings;
            let (headers, bytes) = (settings.max_answer_headers, settings.max_answer_head);
            TransportError::HeadTooLarge { host, headers, bytes }
        } else if error.is_parse() || error.is_parse_status() || broken.is_malformed() {
            TransportError::Protocol { host, why }
        } else {
            TransportError::Closed { host, why }
        }
    }
}

impl Drop for Attempting<'_, '_> {
    fn drop(&mut self) {
        let has_lost = self.beside.is_some_and(|beside| beside.own.lost.load(Ordering::Relaxed));
        self.stopped(if has_lost { Stop::Lost } else { Stop::GivenUp });
    }
}

/// The request as it is sent on this connection, with the secrets of its endpoint. Each attempt is a span of its own, which
/// what it causes stands below.
pub(super) fn request(
    head: &Head,
    way: &Way,
    lease: &Lease,
    body: OutBody,
    traceparent: HeaderValue,
) -> Option<Request<OutBody>> {
    let mut headers = head.headers.clone();
    headers.insert(TRACEPARENT, traceparent);
    let mut uri = &head.uri;
    if let Some(filled) = &head.filled {
        let laid = filled.of_endpoint(way.id).ok()?;
        laid.apply(&mut headers);
        uri = laid.uri().unwrap_or(uri);
    }
    let uri = if lease.is_h2() {
        way.absolute(uri)?
    } else {
        headers.insert(header::HOST, way.host_header()?);
        if headers.contains_key(header::TE) {
            // RFC 9110 section 10.1.4: TE is of one connection and says so.
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        // HTTP/1.1 sends no trailers but those that its head names (RFC 9110 section 6.6.2).
        if let Some(names) = body.trailers().as_ref().and_then(trailer_names) {
            headers.insert(header::TRAILER, names);
        }
        match (body.length(), &head.method) {
            // A method that usually has a body says so when it has none (RFC 9110 section 8.6).
            (Some(0), &Method::POST | &Method::PUT | &Method::PATCH) => {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            }
            (None, _) => {
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            _ => {}
        }
        // An empty path is `/`, which a URI without an authority does not know.
        let path = way.path(uri).map(Uri::from);
        path.filter(|uri| !uri.path().is_empty()).unwrap_or_else(|| Uri::from_static("/"))
    };
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Some(request)
}

/// Whether a head can be passed on; what is wrong with it otherwise.
fn checked(response: &mut Response<Streaming>) -> Result<(), String> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err("it switched protocols without being asked".into());
    }
    if headers::has_foreign_coding(response.headers()) {
        return Err("its transfer-encoding is none that the gate decodes".into());
    }
    headers::settle_length(response.headers_mut()).map_err(|why| format!("its content-length {why}"))
}

/// Whether the connection is gone without a byte of an answer.
fn is_lost(error: &hyper::Error) -> bool {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return true;
    }
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
            );
        }
        source = error.source();
    }
    false
}
