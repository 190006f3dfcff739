//! Copies of an attempt: hedges and races, of which the first answer that is one counts; and trials of endpoints that were
//! ejected, of which nobody waits for the answer.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::future::{Either, select};
use http::Response;
use tidegate_core::{
    Outcome,
    policy::Mode,
    repeat::{Class, Failure},
    shard::{CopyFor, Departure},
    signal,
    units::Rounded,
};

use super::{
    attempt::{Attempted, Attempting, request},
    calls::Call,
    target::Way,
};
use crate::{
    observe::Note,
    outbound::{
        pool::{Exchanged, Streaming, Upload},
        shards::Admission,
    },
};

/// How a call is copied.
pub(super) struct Copies {
    mode: Mode,
    /// What its policy says; nothing: when an answer is late.
    after: Option<Duration>,
}

/// Which of two attempts counts.
enum Winner {
    First(Attempted),
    Copy(Attempted),
}

impl Call<'_> {
    /// Whether there may be copies of an attempt of this call: where it may be sent twice, and its body is there for both.
    pub(super) fn copies(&self) -> Option<Copies> {
        let mode = self.policy.mode;
        let wanted = mode != Mode::Failover || self.aim().has_ways();
        (wanted && self.repeatable && self.kept.as_split().is_ok())
            .then_some(Copies { mode, after: self.policy.hedge_after })
    }

    /// The right to send a copy, and the way that it is for. None once the configuration or a secret changed: what the call
    /// is filled with was looked up for the ways of before, and may not go where others lead.
    fn copied(&self, of: &Admission, why: CopyFor) -> Option<(Admission, Arc<Way>)> {
        let copy = of.copy(why).filter(|_| self.is_aimed())?;
        let way = Arc::clone(self.aim().way(copy.endpoint())?);
        Some((copy, way))
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        self.ending.note(|call| Note::Decided { call, what: what() });
    }

    /// What an attempt came to, as far as the destination is concerned.
    fn outcome(&self, attempted: &Attempted) -> Option<Outcome> {
        match attempted {
            Attempted::Answer(response, _) => Some(self.said(response)),
            Attempted::Failed(failure, _) => Some(Outcome::Failed(*failure)),
            Attempted::Denied(_) | Attempted::PutBack(_) | Attempted::DeadlinePassed | Attempted::Own(_) => None,
        }
    }

    fn said(&self, response: &Response<Streaming>) -> Outcome {
        let max_pause = self.door.settings.max_pause.get();
        let signal = signal::read(&signal::Answer::head(response), SystemTime::now(), max_pause);
        Outcome::Answer { status: response.status().as_u16(), signal }
    }

    /// Whether it is an answer that nothing better is to be expected after.
    fn is_answer(&self, attempted: &Attempted) -> bool {
        self.outcome(attempted).is_some_and(|outcome| matches!(outcome.class(), Class::Accepted | Class::Denied))
    }
}

impl Copies {
    /// Runs an attempt with its copies. Returns the one that counts.
    pub(super) async fn run(
        self,
        call: &Call<'_>,
        admission: Admission,
        way: &Arc<Way>,
    ) -> (Attempted, Admission, u32) {
        trial(call, &admission);
        let (why, delay) = match self.mode {
            Mode::Failover => (CopyFor::Hedge, None),
            Mode::Race => (CopyFor::Race, Some(Duration::ZERO)),
            Mode::Hedge => (CopyFor::Hedge, self.after.or_else(|| admission.late_after())),
        };
        let mut first = Attempting::new(call, way);
        let winner = 'tried: {
            let one = pin!(first.run(&admission));
            let Some(delay) = delay else { break 'tried (Winner::First(one.await), None) };
            let one = match select(one, pin!(tokio::time::sleep(delay))).await {
                Either::Left((attempted, _)) => break 'tried (Winner::First(attempted), None),
                Either::Right(((), one)) => one,
            };
            match call.copied(&admission, why) {
                None => (Winner::First(one.await), None),
                Some((copy, way)) => {
                    call.counts().hedge();
                    call.tell(|| {
                        let where_to = way.name.as_deref().unwrap_or("the same endpoint");
                        match why {
                            CopyFor::Race => format!("a copy races to {where_to}"),
                            _ => format!("no answer within {}: hedged to {where_to}", Rounded(delay)),
                        }
                    });
                    let mut second = Attempting::new(call, &way);
                    let winner = {
                        let two = pin!(second.run(&copy));
                        match select(one, two).await {
                            Either::Left((attempted, _)) if call.is_answer(&attempted) => Winner::First(attempted),
                            Either::Right((attempted, _)) if call.is_answer(&attempted) => Winner::Copy(attempted),
                            Either::Left((attempted, two)) => {
                                admission.observe(call.outcome(&attempted).as_ref());
                                call.tell(|| "the first attempt failed, its copy goes on".into());
                                drop(attempted);
                                Winner::Copy(two.await)
                            }
                            Either::Right((attempted, one)) => {
                                copy.observe(call.outcome(&attempted).as_ref());
                                call.tell(|| "the copy failed, the first attempt goes on".into());
                                drop(attempted);
                                Winner::First(one.await)
                            }
                        }
                    };
                    (winner, Some((copy, second.number)))
                }
            }
        };
        match winner {
            (Winner::First(attempted), copy) => {
                if let Some((copy, _)) = copy {
                    // Where it was observed before, this is nothing.
                    copy.observe(None);
                    call.tell(|| "the first attempt was faster than its copy".into());
                }
                (attempted, admission, first.number)
            }
            (Winner::Copy(attempted), Some((copy, number))) => {
                admission.observe(None);
                call.tell(|| "the copy was faster".into());
                (attempted, copy, number)
            }
            (Winner::Copy(attempted), None) => (attempted, admission, first.number),
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
    // Nobody waits for it, so that it has no number among the attempts.
    let (head, traceparent) = (call.head.clone(), call.traceparent(u32::MAX));
    let (connect, first_byte) = (call.door.settings.connect_timeout.get(), call.first_byte.time);
    let (idle, max_pause) = (call.idle.time, call.door.settings.max_pause.get());
    tokio::spawn(async move {
        let failed = |failure| Some(Outcome::Failed(failure));
        let lease = match tokio::time::timeout(connect, way.upstream.lease()).await {
            Ok(Ok(lease)) => lease,
            _ => return copy.observe(failed(Failure::Connect).as_ref()),
        };
        if !matches!(copy.departed(), Departure::Go) {
            return lease.give_back();
        }
        let Some(request) = request(&head, &way, &lease, body, traceparent) else { return };
        let upload = Upload { idle, whole: None };
        let outcome = match lease.exchange(request, upload, |_| first_byte).await {
            Ok(Exchanged::Answer(response)) => {
                let signal = signal::read(&signal::Answer::head(&response), SystemTime::now(), max_pause);
                Outcome::Answer { status: response.status().as_u16(), signal }
            }
            Ok(_) => Outcome::Failed(Failure::TimedOut),
            Err(_) => Outcome::Failed(Failure::Broken),
        };
        copy.observe(Some(&outcome));
    });
}
