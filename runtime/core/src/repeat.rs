//! What happens after an attempt: return the answer, put the call back, or try again. One pure decision.
//!
//! The order of the rules is the point: what cannot help is returned before anything is spent; what the destination
//! never processed (a refusal, or nothing left this node) goes back at no cost; only what may have been processed costs
//! an attempt and a piece of the retry budget, and only where the request may be repeated.

use crate::{policy::Effective, signal::Signal, time::Time, units::Rounded};
use http::Method;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// Which requests of a destination may be sent twice although the first may have been processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repeatable {
    /// Idempotent methods only: the upstream is known to ignore keys.
    Never,
    /// Idempotent methods, and requests that carry an `Idempotency-Key`.
    #[default]
    Keyed,
    /// Everything: a repetition costs money at most (completions of language models).
    Always,
}

impl Repeatable {
    /// Whether a request may be repeated. Idempotent methods (RFC 9110 section 9.2.2) always may, and so does
    /// everything with an `Idempotency-Key` unless the destination is known to ignore it.
    pub fn allows(self, method: &Method, has_key: bool) -> bool {
        let idempotent = method.is_safe() || *method == Method::PUT || *method == Method::DELETE;
        match self {
            Repeatable::Always => true,
            Repeatable::Keyed => idempotent || has_key,
            Repeatable::Never => idempotent,
        }
    }

    /// Whether a copy of a request may leave while it flies. Not where the second is answered by what the first does: a key
    /// that is in use, a resource that is deleted already, a version that has passed. Where a repetition does no more than
    /// cost, there is no such thing.
    pub fn copies(self, method: &Method) -> bool {
        self == Repeatable::Always || method.is_safe()
    }

    /// Whether a repetition that is allowed costs something.
    pub fn costs(self, method: &Method, has_key: bool) -> bool {
        self == Repeatable::Always && !Repeatable::Keyed.allows(method, has_key)
    }
}

/// Why no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Resolving, connecting or the TLS handshake failed.
    Connect,
    /// It failed in a way that no repetition changes: there is no such name, nobody vouches for the certificate, or the
    /// answer is one that can't be taken.
    Hopeless,
    /// The connection broke before a complete answer head.
    Broken,
    /// No answer head within the attempt's time.
    TimedOut,
    /// The peer says that it did nothing with the request (HTTP/2 `REFUSED_STREAM`, or a `GOAWAY` that leaves it out):
    /// safe to repeat whatever it is.
    Unprocessed,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Connect => "could not connect",
            Failure::Hopeless => "failed as it would again",
            Failure::Broken => "connection broke before the answer",
            Failure::TimedOut => "no answer in time",
            Failure::Unprocessed => "refused before it was processed",
        })
    }
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The head of an answer.
    Answer {
        /// Its status.
        status: u16,
        /// What it says about limits.
        signal: Signal,
    },
    /// No answer.
    Failed(Failure),
}

/// How an outcome counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The destination took the request: anything but the below, client errors too.
    Accepted,
    /// Not now: 429; 403, 503 and 529 that name a wait, or say in their body that they are a refusal.
    Refused,
    /// No waiting helps, says the destination: out of credit.
    Denied,
    /// A gateway in between, or the service as a whole, does not serve: 502, 503, 504, 529, Cloudflare's 520 to 527 and
    /// 530 (its origin can't be reached, or answers nonsense), transport failures.
    Down,
    /// 408 and all other server errors: this request failed, the destination lives. Also what no wait would change about a
    /// destination that can't be connected to.
    Faulty,
}

impl Outcome {
    fn is_status(&self, wanted: u16) -> bool {
        matches!(self, Outcome::Answer { status, .. } if *status == wanted)
    }

    /// Whether it is an answer of a status below this.
    pub(crate) fn is_below(&self, bound: u16) -> bool {
        matches!(self, Outcome::Answer { status, .. } if *status < bound)
    }

    /// Whether the request may have been processed, for all that is known by this.
    pub(crate) fn leaves_doubt(&self) -> bool {
        match (self.class(), self) {
            (_, Outcome::Failed(failure)) => matches!(failure, Failure::Broken | Failure::TimedOut),
            (Class::Refused, _) => !self.is_status(429) && !self.is_status(403),
            (class, _) => matches!(class, Class::Down | Class::Faulty),
        }
    }

    /// Whether the destination may have worked for it, and have that paid, after an attempt that took so long. Who says that it
    /// does not serve did not; nobody can tell of the others but by the time.
    fn may_have_cost(&self, took: Duration) -> bool {
        match self {
            Outcome::Answer { status: 503 | 529, .. } | Outcome::Failed(Failure::Unprocessed) => false,
            // Somebody waited for the work in vain.
            Outcome::Answer { status: 504 | 524, .. } | Outcome::Failed(Failure::TimedOut) => true,
            _ => took >= WORK,
        }
    }

    /// Whether nothing better is to be expected of another attempt of the call that flies. What says that there is nothing
    /// to do may say so because of the other, unless the request is `safe` (RFC 9110 section 9.2.1).
    pub fn settles(&self, safe: bool) -> bool {
        match self {
            Outcome::Answer { status: 404 | 409 | 410 | 412, .. } if !safe => false,
            _ => self.class() == Class::Accepted,
        }
    }

    /// Whether a stale answer may stand in for it: for the errors of RFC 5861 section 4, for whatever else says that the
    /// destination does not serve, and for a refusal.
    pub fn gives_way(&self) -> bool {
        matches!(self.class(), Class::Refused | Class::Down) || self.is_status(500)
    }

    /// The class of this outcome.
    pub fn class(&self) -> Class {
        match self {
            Outcome::Answer { signal, .. } if signal.last_word => Class::Denied,
            Outcome::Answer { status: 429, .. } => Class::Refused,
            Outcome::Answer { status: 403 | 503 | 529, signal } if signal.wait.is_some() || signal.refuses => {
                Class::Refused
            }
            Outcome::Answer { status: 502..=504 | 520..=527 | 529 | 530, .. } => Class::Down,
            Outcome::Answer { status: 408 | 500..600, .. } => Class::Faulty,
            Outcome::Answer { .. } => Class::Accepted,
            Outcome::Failed(Failure::Hopeless) => Class::Faulty,
            Outcome::Failed(_) => Class::Down,
        }
    }
}

/// What the call loop knows about the call whose attempt ended.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// The policy in force.
    pub policy: &'a Effective,
    /// Whether the request may be repeated, see [`Repeatable::allows`].
    pub repeatable: bool,
    /// Whether a repetition costs something: it may be repeated for no other reason than that this is all it does
    /// ([`Repeatable::Always`]).
    pub costs: bool,
    /// Whether its whole body is still at hand (or it has none). A request whose body was streamed once is not.
    pub replayable: bool,
    /// Whether it carries an `Idempotency-Key` that the destination is not known to ignore.
    pub keyed: bool,
    /// Attempts this call has spent before this one; a call put back has spent none.
    pub spent: u32,
}

/// What the actor adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether the first byte left the node.
    pub departed: bool,
    /// How long it was under way.
    pub took: Duration,
    /// The destination lived before and does not now: waiting for it is better than failing.
    pub down: bool,
    /// Another endpoint of the destination takes calls, and may take this one; where this one says that no waiting helps:
    /// another may serve it in time.
    pub elsewhere: bool,
    /// There is another answer, if a stale one.
    pub fallback: bool,
    /// This call is refused again and again while others pass: the refusal is its own.
    pub owns_refusal: bool,
    /// An attempt of this call before this one, or beside it, may have been processed.
    pub in_doubt: bool,
    /// How often the call was told that such an attempt is under way still.
    pub under_way: u8,
    /// When the destination lets the next call leave, as far as pauses go.
    pub resumes: Time,
    /// The call's deadline.
    pub deadline: Time,
}

/// Why an answer (or error) goes to the caller as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing to repeat: it succeeded, or failed by its own fault.
    Final,
    /// The destination says that no waiting helps.
    LastWord,
    /// It fails, whenever it is tried.
    Hopeless,
    /// The upstream said `x-should-retry: false`.
    UpstreamSaysNo,
    /// Refused again and again while others of its destination passed.
    OwnRefusal,
    /// An attempt of it before is under way still, by a 409 to its key, and was for longer than there is time to ask again.
    UnderWay,
    /// It may have been processed and must not be repeated (setting `repeatable`).
    NotRepeatable,
    /// The body was streamed and is gone (setting: bytes kept for replay).
    NotReplayable,
    /// The policy does not list this outcome (setting `policy.retry_on`).
    NotListed,
    /// All attempts are spent (setting `policy.retries`).
    AttemptsSpent {
        /// The policy's number of retries.
        retries: u32,
    },
    /// The destination's retry budget is spent, see [`crate::budget`].
    BudgetSpent,
    /// The next attempt could only start after the deadline (setting `policy.deadline`).
    NoTime {
        /// When it could start, from now.
        could_start_in: Duration,
    },
    /// There is another answer, if a stale one ([`crate::NewCall::fallback`]).
    Fallback,
    /// The permit was released before: nothing is known of it.
    Released,
}

impl Reason {
    /// Whether a repetition by whoever sent the call would be in vain as well: the destination says so, or the call was
    /// repeated for them as often or as long as it may. `failed`: attempts of the call before this one that failed. Not
    /// where only time lacks for a refusal to end, nor where the call was sent once and it is for its sender to judge.
    pub fn ends_it(self, class: Class, failed: u32) -> bool {
        match self {
            Reason::LastWord | Reason::Hopeless | Reason::UpstreamSaysNo | Reason::OwnRefusal | Reason::BudgetSpent => {
                true
            }
            Reason::AttemptsSpent { retries } => retries > 0,
            Reason::NoTime { .. } => class != Class::Refused && failed > 0,
            Reason::Final
            | Reason::Fallback
            | Reason::UnderWay
            | Reason::NotRepeatable
            | Reason::NotReplayable
            | Reason::NotListed
            | Reason::Released => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Final => f.write_str("final"),
            Reason::LastWord => f.write_str("no waiting helps, says the destination"),
            Reason::Hopeless => f.write_str("no repetition changes it"),
            Reason::UpstreamSaysNo => f.write_str("x-should-retry: false"),
            Reason::OwnRefusal => f.write_str("refused again while others passed"),
            Reason::UnderWay => f.write_str("an attempt of it before is still under way there, says its key"),
            Reason::NotRepeatable => f.write_str("may have been processed and must not be repeated (repeatable)"),
            Reason::NotReplayable => f.write_str("its body was streamed and is gone"),
            Reason::NotListed => f.write_str("not listed in retry_on"),
            Reason::AttemptsSpent { retries: 0 } => f.write_str("its policy has no retries"),
            Reason::AttemptsSpent { retries: 1 } => f.write_str("its one retry is spent"),
            Reason::AttemptsSpent { retries } => write!(f, "all {retries} retries are spent"),
            Reason::BudgetSpent => f.write_str("the destination's retry budget is spent"),
            Reason::NoTime { could_start_in } => {
                write!(f, "the next attempt could start in {}, after the deadline", Rounded(*could_start_in))
            }
            Reason::Fallback => f.write_str("there is a stale answer"),
            Reason::Released => f.write_str("given up before"),
        }
    }
}

/// The decision, before the actor turns it into a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// To the caller.
    Return(Reason),
    /// Back to its place in the queue; costs no attempt.
    PutBack,
    /// The same, and not before this long from now: an attempt of it before is under way still.
    Later(Duration),
    /// Another attempt not before this long from now; costs one.
    Retry(Duration),
}

/// First delay of the backoff, at most: a connection that broke is there again at once.
pub const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// Each is so many times the one before. With the usual three retries a call outlasts a failure of about two seconds, which
/// is longer than the libraries that call through the gate do by themselves.
pub const BACKOFF_GROWS: u32 = 6;
/// Longest delay of the backoff.
pub const BACKOFF_CAP: Duration = Duration::from_secs(5);

/// An attempt that ends sooner came before the work, where that costs something.
const WORK: Duration = Duration::from_secs(1);

/// First delay, about, of a call whose attempt before is under way still; doubles up to [`BACKOFF_CAP`].
const UNDER_WAY: Duration = Duration::from_millis(250);
/// After so many of them, about a quarter of a minute in all, the answer is passed on.
const UNDER_WAY_MOST: u8 = 8;

/// The delay before the n-th retry, from zero: it grows up to `cap`, and a random part of half of it is taken off, so that
/// those who failed together do not come back together, nor at once.
pub fn backoff(cap: Duration, n: u32, random: &mut fastrand::Rng) -> Duration {
    BACKOFF_BASE.saturating_mul(BACKOFF_GROWS.saturating_pow(n)).min(cap).mul_f64(0.5 + random.f64() / 2.0)
}

/// What happens after an attempt. `budget` is asked only when everything else speaks for a retry.
pub fn after(
    outcome: &Outcome,
    attempt: &Attempt<'_>,
    facts: &Facts,
    budget: impl FnOnce() -> bool,
    random: &mut fastrand::Rng,
    now: Time,
) -> Decision {
    let class = outcome.class();
    let should_retry = match outcome {
        Outcome::Answer { signal, .. } => signal.should_retry,
        Outcome::Failed(_) => None,
    };
    let listed = attempt.policy.retry_on.matches(outcome);
    let again = |at: Time| {
        if at >= facts.deadline {
            Err(Decision::Return(Reason::NoTime { could_start_in: at.since(now) }))
        } else {
            Ok(())
        }
    };
    // That a key is in use is no word on the request, but on its attempt before (draft-ietf-httpapi-idempotency-key-header).
    let under_way = attempt.keyed && facts.in_doubt && outcome.is_status(409) && should_retry != Some(false);
    match class {
        Class::Accepted if under_way && attempt.replayable => {
            if facts.under_way >= UNDER_WAY_MOST {
                return Decision::Return(Reason::UnderWay);
            }
            let most = UNDER_WAY.saturating_mul(1 << u32::from(facts.under_way)).min(BACKOFF_CAP);
            let delay = most.mul_f64(0.5 + random.f64() / 2.0);
            return match again((now + delay).max(facts.resumes)) {
                Ok(()) if budget() => Decision::Later(delay),
                // Neither says that the attempt before came to nothing: whoever comes back later may find it done.
                _ => Decision::Return(Reason::UnderWay),
            };
        }
        // What is true of one endpoint, an account without credit, is not of another; and nothing was done there.
        Class::Denied if facts.elsewhere && (attempt.replayable || !facts.departed) => {
            return again(facts.resumes).err().unwrap_or(Decision::PutBack);
        }
        Class::Denied => return Decision::Return(Reason::LastWord),
        _ if *outcome == Outcome::Failed(Failure::Hopeless) => return Decision::Return(Reason::Hopeless),
        // No such status is listed unless a policy lists it.
        Class::Accepted if should_retry != Some(true) && !listed => return Decision::Return(Reason::Final),
        // Who has another answer waits for nothing; elsewhere there may be a fresh one at once.
        _ if facts.fallback && outcome.gives_way() && !(facts.elsewhere && facts.resumes <= now) => {
            return Decision::Return(Reason::Fallback);
        }
        _ if should_retry == Some(false) => return Decision::Return(Reason::UpstreamSaysNo),
        _ if facts.departed && !attempt.replayable => return Decision::Return(Reason::NotReplayable),
        Class::Refused if facts.owns_refusal => return Decision::Return(Reason::OwnRefusal),
        // Who sends a 503 may stand before one that has begun, even when it knows how long to wait.
        // A 403 forbids, as a 429 does.
        Class::Refused if !attempt.repeatable && !outcome.is_status(429) && !outcome.is_status(403) => {
            return Decision::Return(Reason::NotRepeatable);
        }
        Class::Refused => return again(facts.resumes).err().unwrap_or(Decision::PutBack),
        _ => {}
    }
    if should_retry.is_none() && !listed {
        return Decision::Return(Reason::NotListed);
    }
    let maybe_processed = facts.departed && *outcome != Outcome::Failed(Failure::Unprocessed);
    if maybe_processed && !attempt.repeatable {
        return Decision::Return(Reason::NotRepeatable);
    }
    // Whoever waits out an outage pays for no attempt, but for those that cost something.
    if facts.down && !(maybe_processed && attempt.costs && outcome.may_have_cost(facts.took)) {
        return again(facts.resumes).err().unwrap_or(Decision::PutBack);
    }
    if attempt.spent >= attempt.policy.retries {
        return Decision::Return(Reason::AttemptsSpent { retries: attempt.policy.retries });
    }
    // Who has little time left is rather tried sooner than not at all.
    let cap = if facts.elsewhere { Duration::ZERO } else { BACKOFF_CAP.min(facts.deadline.since(now) / 2) };
    let delay = backoff(cap, attempt.spent, random);
    if let Err(late) = again((now + delay).max(facts.resumes)) {
        return late;
    }
    if !budget() {
        return Decision::Return(Reason::BudgetSpent);
    }
    Decision::Retry(delay)
}

#[cfg(test)]
mod tests;
