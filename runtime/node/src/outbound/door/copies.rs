//! Copies of an attempt: hedges and races, of which the first answer that is one counts; and trials of endpoints that were
//! ejected, of which nobody waits for the answer.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tidegate_core::{
    Outcome,
    endpoint::Mask,
    policy::Mode,
    repeat::{Class, Failure},
    shard::{CopyFor, Departure},
    signal,
    units::Rounded,
};
use tokio::time::Instant;

use super::{
    attempt::{Attempted, Attempting, Beside, Shown, count, reading, request},
    calls::Call,
    refusal::Refusals,
    target::Way,
};
use crate::{
    observe::{CopyKind, Note},
    outbound::{
        pool::{Exchanged, Upload},
        shards::Admission,
    },
};

/// A connection is late that takes longer.
const CONNECTS: Duration = Duration::from_secs(1);

/// How a call is copied.
pub(super) struct Copies {
    mode: Mode,
    /// What its policy says; nothing: when an answer is late.
    after: Option<Duration>,
}

/// When an attempt is copied.
#[derive(Clone, Copy)]
enum When {
    /// So long after it began.
    Begun(Duration),
    /// So long after it left, as that is what answers take. The first call of a cold connection is no later than others.
    Left(Duration),
}

impl When {
    /// Waits until then. Returns how long an answer was waited for.
    async fn passed(self, flight: &Flight) -> Duration {
        let delay = match self {
            Self::Begun(delay) => delay,
            Self::Left(delay) => match tokio::time::timeout(delay.max(CONNECTS), flight.shown.left()).await {
                Ok(()) => delay,
                Err(_) => return delay.max(CONNECTS),
            },
        };
        tokio::time::sleep(delay).await;
        delay
    }
}

/// An attempt beside others of its call.
struct Flight {
    admission: Admission,
    way: Arc<Way>,
    /// Its place: the first, then its copies.
    place: u8,
    shown: Shown,
}

impl Flight {
    fn new(admission: Admission, way: Arc<Way>, place: u8) -> Self {
        Self { admission, way, place, shown: Shown::default() }
    }

    async fn fly(&self, call: &Call<'_>, copy: Option<(CopyKind, &Shown)>) -> (Attempted, u32, u8) {
        let beside = Beside { own: &self.shown, copy };
        let mut attempting = Attempting::new(call, &self.way).beside(beside);
        let attempted = attempting.run(&self.admission).await;
        (attempted, attempting.number, self.place)
    }

    /// How it is called in the trail.
    fn label(&self) -> String {
        match (self.place, &self.way.name) {
            (0, Some(name)) => name.to_string(),
            (0, None) => "the first attempt".to_owned(),
            (_, Some(name)) => format!("copy to {name}"),
            (_, None) => "the copy".to_owned(),
        }
    }
}

/// What an attempt came to, after its name.
fn came(outcome: Option<&Outcome>) -> String {
    match outcome {
        Some(outcome @ Outcome::Answer { status, .. }) if outcome.class() == Class::Refused => {
            format!("refused {status}")
        }
        Some(Outcome::Answer { status, .. }) => format!("answered {status}"),
        Some(Outcome::Failed(failure)) => format!("failed ({failure})"),
        None => "did not leave".to_owned(),
    }
}

impl Call<'_> {
    /// Whether there may be copies of an attempt of this call: where the first can't spoil the second's answer, and its body
    /// is there for both.
    pub(super) fn copies(&self) -> Option<Copies> {
        let mode = self.policy.mode;
        if mode == Mode::Failover && !self.aim().has_ways() {
            return None;
        }
        let why = match (self.copies, self.kept.as_split()) {
            (true, Ok(_)) => return Some(Copies { mode, after: self.policy.hedge_after }),
            (true, Err(())) => "its body is not kept for two",
            (false, _) => "a copy might be answered by what the first does",
        };
        if mode != Mode::Failover {
            self.tell(|| format!("not copied, in spite of the mode of its policy: {why}"));
        }
        None
    }

    /// Whether nothing better is to be expected of another attempt.
    fn is_settled(&self, attempted: &Attempted) -> bool {
        attempted.outcome().is_some_and(|outcome| outcome.settles(self.head.method.is_safe()))
    }

    /// The right to send a copy, and the way that it is for. None once the configuration or a secret changed: what the call
    /// is filled with was looked up for the ways of before, and may not go where others lead.
    fn copied(&self, of: &Admission, why: CopyFor) -> Option<(Admission, Arc<Way>)> {
        let copy = of.copy(why).filter(|_| self.is_aimed())?;
        let way = Arc::clone(self.aim().way(copy.endpoint())?);
        self.closed(&way).is_none().then_some((copy, way))
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        self.ending.note(|call| Note::Decided { call, what: what() });
    }
}

impl Copies {
    /// Runs an attempt with its copies. Returns the one that counts.
    pub(super) async fn run(self, call: &Call<'_>, admission: Admission, way: Arc<Way>) -> (Attempted, Admission, u32) {
        trial(call, &admission);
        let (why, when) = match self.mode {
            Mode::Failover => (CopyFor::Hedge, None),
            Mode::Race => (CopyFor::Race, Some(When::Begun(Duration::ZERO))),
            Mode::Hedge => {
                let said = self.after.map(When::Begun);
                (CopyFor::Hedge, said.or_else(|| admission.late_after().map(When::Left)))
            }
        };
        let first = Flight::new(admission, way, 0);
        let Some(when) = when else {
            let (attempted, number, _) = first.fly(call, None).await;
            return (attempted, first.admission, number);
        };
        let mut copies = Vec::new();
        let mut over = Mask::NONE;
        let (attempted, number, winner) = {
            let mut flying = FuturesUnordered::new();
            flying.push(first.fly(call, None));
            let late = tokio::select! {
                biased;
                came = flying.select_next_some() => Err(came),
                waited = when.passed(&first) => Ok(waited),
            };
            match late {
                Err(came) => came,
                Ok(delay) => {
                    copies = self.copy(call, &first.admission, why, delay);
                    let kind = if why == CopyFor::Race { CopyKind::Race } else { CopyKind::Hedge };
                    copies.iter().for_each(|copy: &Flight| flying.push(copy.fly(call, Some((kind, &first.shown)))));
                    loop {
                        let (attempted, number, place) = flying.select_next_some().await;
                        if flying.is_empty() || call.is_settled(&attempted) {
                            let all = std::iter::once(&first).chain(&copies);
                            all.filter(|flight| flight.place != place).for_each(|flight| flight.shown.lose());
                            break (attempted, number, place);
                        }
                        over = over.with(place);
                        let lost = copies.iter().find(|copy| copy.place == place).unwrap_or(&first);
                        call.lost(lost, &attempted, flying.len());
                    }
                }
            }
        };
        let mut won = first;
        if let Some(copy) = copies.iter_mut().find(|copy| copy.place == winner) {
            std::mem::swap(&mut won, copy);
        }
        for lost in copies {
            if !over.has(lost.place) {
                lost.admission.observe(None);
                call.tell(|| format!("{} lost: {} answered first", lost.label(), won.label()));
            }
        }
        (attempted, won.admission, number)
    }

    /// Copies of an attempt that flies: one, or in a race one to each other endpoint.
    fn copy(&self, call: &Call<'_>, first: &Admission, why: CopyFor, delay: Duration) -> Vec<Flight> {
        let most = if why == CopyFor::Race { call.aim().ways().saturating_sub(1).max(1) } else { 1 };
        let mut copies: Vec<Flight> = Vec::new();
        for place in (1u8..).take(most) {
            // A copy of a copy goes where neither is.
            let of = copies.last().map_or(first, |copy| &copy.admission);
            let Some((admission, way)) = call.copied(of, why) else { break };
            call.counts().hedge();
            call.tell(|| {
                let where_to = way.name.as_deref().unwrap_or("the same endpoint");
                match why {
                    CopyFor::Race => format!("a copy races to {where_to}"),
                    _ => format!("no answer within {}: hedged to {where_to}", Rounded(delay)),
                }
            });
            copies.push(Flight::new(admission, way, place));
        }
        copies
    }
}

impl Call<'_> {
    /// An attempt came to nothing that helps, and `left` others go on.
    fn lost(&self, lost: &Flight, attempted: &Attempted, left: usize) {
        let outcome = attempted.outcome();
        lost.admission.observe(outcome.as_ref());
        self.tell(|| {
            let others = match (lost.place, left) {
                (0, 1) => "its copy goes on",
                (_, 1) => "the other goes on",
                _ => "the others go on",
            };
            format!("{} {}, {others}", lost.label(), came(outcome.as_ref()))
        });
        if let Some(outcome) = outcome.filter(|outcome| outcome.class() == Class::Refused) {
            self.tell_refusal(&outcome);
        }
    }
}

/// Sends a copy to an endpoint that was ejected, should it be time to try it.
fn trial(call: &Call<'_>, admission: &Admission) {
    if !call.aim().has_ways() {
        return;
    }
    let Some((copy, way)) = call.copied(admission, CopyFor::Trial) else { return };
    let Some(body) = call.kept.attempt() else { return };
    call.tell(|| format!("a copy tries endpoint {}", way.name.as_deref().unwrap_or_default()));
    let attempt = call.ending.attempt();
    call.tell_own_secrets(&way);
    let (head, traceparent) = (call.head.clone(), call.traceparent(attempt));
    let (connect, first_byte) = (call.door.settings.connect_timeout.get(), call.first_byte.time);
    let (idle, max_pause) = (call.idle.time, call.door.settings.max_pause.get());
    let (counts, refusals) = (Arc::clone(call.counts()), Refusals::new(&call.door.settings));
    let (destination, trail) = (Arc::clone(&call.target.destination), call.ending.trail().clone());
    let call = call.ending.number;
    // It goes on when the call is over: a slow one would never be seen to its end otherwise.
    tokio::spawn(async move {
        let came = |outcome: Outcome| {
            if let Outcome::Failed(failure) = outcome {
                trail.note(Note::Failed { call, attempt, why: failure.to_string() });
            }
            count(&counts, &outcome);
            copy.observe(Some(&outcome));
        };
        let lease = match tokio::time::timeout(connect, way.upstream.lease()).await {
            Ok(Ok(lease)) => lease,
            _ => return came(Outcome::Failed(Failure::Connect)),
        };
        if !matches!(copy.departed(), Departure::Go) {
            return lease.give_back();
        }
        let Some(request) = request(&head, &way, &lease, body, traceparent) else { return };
        let to = way.name.as_deref().map(str::to_owned);
        trail.note(Note::Copy { call, attempt, of: 0, kind: CopyKind::Trial, to });
        counts.attempt();
        let began = Instant::now();
        let upload = Upload { idle, whole: None };
        came(match lease.exchange(request, upload, |_| first_byte).await {
            Ok(Exchanged::Answer(mut response)) => {
                let (status, first_byte) = (response.status().as_u16(), began.elapsed());
                counts.answered(first_byte);
                trail.note(Note::Answered { call, attempt, status, first_byte });
                let body = refusals
                    .body(&mut response, destination.finals(), |what| trail.note(Note::Decided { call, what }))
                    .await;
                let answer = signal::Answer {
                    status: response.status(),
                    headers: response.headers(),
                    body: body.as_deref(),
                    finals: destination.finals(),
                };
                reading(&destination, &answer, max_pause)
            }
            Ok(_) => Outcome::Failed(Failure::TimedOut),
            Err(_) => Outcome::Failed(Failure::Broken),
        });
    });
}
