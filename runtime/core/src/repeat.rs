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
    /// Attempts this call has spent before this one; a call put back has spent none.
    pub spent: u32,
}

/// What the actor adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether the first byte left the node.
    pub departed: bool,
    /// The destination lived before and does not now: waiting for it is better than failing.
    pub down: bool,
    /// Another endpoint of the destination takes calls, and may take this one.
    pub elsewhere: bool,
    /// This call is refused again and again while others pass: the refusal is its own.
    pub owns_refusal: bool,
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
    /// The permit was released before: nothing is known of it.
    Released,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Final => f.write_str("final"),
            Reason::LastWord => f.write_str("no waiting helps, says the destination"),
            Reason::Hopeless => f.write_str("no repetition changes it"),
            Reason::UpstreamSaysNo => f.write_str("x-should-retry: false"),
            Reason::OwnRefusal => f.write_str("refused again while others passed"),
            Reason::NotRepeatable => f.write_str("may have been processed and must not be repeated (repeatable)"),
            Reason::NotReplayable => f.write_str("its body was streamed and is gone"),
            Reason::NotListed => f.write_str("not listed in retry_on"),
            Reason::AttemptsSpent { retries } => write!(f, "all {retries} retries are spent"),
            Reason::BudgetSpent => f.write_str("the destination's retry budget is spent"),
            Reason::NoTime { could_start_in } => {
                write!(f, "the next attempt could start in {}, after the deadline", Rounded(*could_start_in))
            }
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
    /// Another attempt not before this long from now; costs one.
    Retry(Duration),
}

/// First delay of the backoff.
pub const BACKOFF_BASE: Duration = Duration::from_millis(50);
/// Longest delay of the backoff.
pub const BACKOFF_CAP: Duration = Duration::from_secs(5);

/// Full jitter: a random part of `base * 2^n`, at most `cap`.
pub fn full_jitter(base: Duration, cap: Duration, n: u32, random: &mut fastrand::Rng) -> Duration {
    base.saturating_mul(1u32.checked_shl(n.min(31)).unwrap_or(u32::MAX)).min(cap).mul_f64(random.f64())
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
    match class {
        Class::Denied => return Decision::Return(Reason::LastWord),
        _ if *outcome == Outcome::Failed(Failure::Hopeless) => return Decision::Return(Reason::Hopeless),
        // No such status is listed unless a policy lists it.
        Class::Accepted if should_retry != Some(true) && !listed => return Decision::Return(Reason::Final),
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
    if facts.down && !(maybe_processed && attempt.costs) {
        return again(facts.resumes).err().unwrap_or(Decision::PutBack);
    }
    if attempt.spent >= attempt.policy.retries {
        return Decision::Return(Reason::AttemptsSpent { retries: attempt.policy.retries });
    }
    let cap = if facts.elsewhere { Duration::ZERO } else { BACKOFF_CAP };
    let delay = full_jitter(BACKOFF_BASE, cap, attempt.spent, random);
    if let Err(late) = again((now + delay).max(facts.resumes)) {
        return late;
    }
    if !budget() {
        return Decision::Return(Reason::BudgetSpent);
    }
    Decision::Retry(delay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{On, RetryOn},
        signal::Source,
    };

    const NOW: Time = Time::from_millis(1_000_000);

    fn answer(status: u16) -> Outcome {
        Outcome::Answer { status, signal: Signal::default() }
    }

    fn with(status: u16, signal: Signal) -> Outcome {
        Outcome::Answer { status, signal }
    }

    struct Case {
        outcome: Outcome,
        repeatable: bool,
        costs: bool,
        replayable: bool,
        spent: u32,
        departed: bool,
        down: bool,
        owns: bool,
        deadline_ms: u64,
        budget: bool,
        retry_on: RetryOn,
    }

    fn case(outcome: Outcome) -> Case {
        Case {
            outcome,
            repeatable: true,
            costs: false,
            replayable: true,
            spent: 0,
            departed: true,
            down: false,
            owns: false,
            deadline_ms: 60_000,
            budget: true,
            retry_on: RetryOn::default(),
        }
    }

    fn decide(case: &Case) -> Decision {
        let policy = Effective { retry_on: case.retry_on.clone(), ..Effective::default() };
        let attempt = Attempt {
            policy: &policy,
            repeatable: case.repeatable,
            costs: case.costs,
            replayable: case.replayable,
            spent: case.spent,
        };
        let facts = Facts {
            departed: case.departed,
            down: case.down,
            elsewhere: false,
            owns_refusal: case.owns,
            resumes: NOW + Duration::from_secs(2),
            deadline: NOW + Duration::from_millis(case.deadline_ms),
        };
        let mut random = fastrand::Rng::with_seed(7);
        match after(&case.outcome, &attempt, &facts, || case.budget, &mut random, NOW) {
            Decision::Retry(_) => Decision::Retry(Duration::ZERO),
            other => other,
        }
    }

    #[test]
    fn the_table_of_decisions() {
        let retry = Decision::Retry(Duration::ZERO);
        let back = Decision::Return;
        let wait = Signal { wait: Some((Duration::from_secs(2), Source::RetryAfter)), ..Signal::default() };
        let no = Signal { should_retry: Some(false), ..Signal::default() };
        let yes = Signal { should_retry: Some(true), ..Signal::default() };
        let last = Signal { last_word: true, ..Signal::default() };
        let failed = Outcome::Failed;
        let on = RetryOn::of;
        let table = [
            ("200", case(answer(200)), back(Reason::Final)),
            ("404", case(answer(404)), back(Reason::Final)),
            ("400 that asks for a retry", case(with(400, yes)), retry),
            ("429", case(answer(429)), Decision::PutBack),
            ("429 of a POST", Case { repeatable: false, ..case(answer(429)) }, Decision::PutBack),
            ("429, body gone", Case { replayable: false, ..case(answer(429)) }, back(Reason::NotReplayable)),
            ("429 after the last attempt", Case { spent: 9, ..case(answer(429)) }, Decision::PutBack),
            ("429, no", case(with(429, no)), back(Reason::UpstreamSaysNo)),
            ("429, out of credit", case(with(429, last)), back(Reason::LastWord)),
            ("429, its own", Case { owns: true, ..case(answer(429)) }, back(Reason::OwnRefusal)),
            (
                "429, pause beyond the deadline",
                Case { deadline_ms: 1_500, ..case(answer(429)) },
                back(Reason::NoTime { could_start_in: Duration::from_secs(2) }),
            ),
            ("503 with a wait", Case { spent: 9, ..case(with(503, wait)) }, Decision::PutBack),
            ("503 with a wait, of what costs", Case { costs: true, ..case(with(503, wait)) }, Decision::PutBack),
            ("503 with a wait, POST", Case { repeatable: false, ..case(with(503, wait)) }, back(Reason::NotRepeatable)),
            ("429 with a wait, POST", Case { repeatable: false, ..case(with(429, wait)) }, Decision::PutBack),
            ("503", case(answer(503)), retry),
            ("503 of a POST", Case { repeatable: false, ..case(answer(503)) }, back(Reason::NotRepeatable)),
            ("500", case(answer(500)), retry),
            ("501", case(answer(501)), back(Reason::NotListed)),
            ("501 of a POST", Case { repeatable: false, ..case(answer(501)) }, back(Reason::NotListed)),
            ("505", case(answer(505)), back(Reason::NotListed)),
            ("520", case(answer(520)), retry),
            ("520 of a POST", Case { repeatable: false, ..case(answer(520)) }, back(Reason::NotRepeatable)),
            ("524 while down", Case { down: true, spent: 9, ..case(answer(524)) }, Decision::PutBack),
            ("530", case(answer(530)), retry),
            ("409, listed", Case { retry_on: on(&[On::Status(409)]), ..case(answer(409)) }, retry),
            (
                "409 of a POST, listed",
                Case { retry_on: on(&[On::Status(409)]), repeatable: false, ..case(answer(409)) },
                back(Reason::NotRepeatable),
            ),
            (
                "409, listed, no",
                Case { retry_on: on(&[On::Status(409)]), ..case(with(409, no)) },
                back(Reason::UpstreamSaysNo),
            ),
            ("404, 4xx listed", Case { retry_on: on(&[On::Class(4)]), ..case(answer(404)) }, retry),
            ("200, 4xx listed", Case { retry_on: on(&[On::Class(4)]), ..case(answer(200)) }, back(Reason::Final)),
            ("501, 5xx listed", Case { retry_on: on(&[On::Class(5)]), ..case(answer(501)) }, retry),
            (
                "503, 500 listed",
                Case { retry_on: on(&[On::Status(500)]), ..case(answer(503)) },
                back(Reason::NotListed),
            ),
            ("408", case(answer(408)), retry),
            ("504 while down", Case { down: true, spent: 9, ..case(answer(504)) }, Decision::PutBack),
            ("504 that costs, while down", Case { down: true, costs: true, ..case(answer(504)) }, retry),
            (
                "504 that costs, while down, spent",
                Case { down: true, costs: true, spent: 3, ..case(answer(504)) },
                back(Reason::AttemptsSpent { retries: 3 }),
            ),
            (
                "no connection, of what costs, while down",
                Case { down: true, costs: true, departed: false, spent: 9, ..case(failed(Failure::Connect)) },
                Decision::PutBack,
            ),
            (
                "504, POST, while down",
                Case { down: true, repeatable: false, ..case(answer(504)) },
                back(Reason::NotRepeatable),
            ),
            ("500, spent", Case { spent: 3, ..case(answer(500)) }, back(Reason::AttemptsSpent { retries: 3 })),
            ("500, no budget", Case { budget: false, ..case(answer(500)) }, back(Reason::BudgetSpent)),
            ("500, no", case(with(500, no)), back(Reason::UpstreamSaysNo)),
            (
                "connect, POST, nothing left",
                Case { departed: false, repeatable: false, replayable: false, ..case(failed(Failure::Connect)) },
                retry,
            ),
            ("hopeless", Case { departed: false, ..case(failed(Failure::Hopeless)) }, back(Reason::Hopeless)),
            ("broken, POST", Case { repeatable: false, ..case(failed(Failure::Broken)) }, back(Reason::NotRepeatable)),
            ("unprocessed, POST", Case { repeatable: false, ..case(failed(Failure::Unprocessed)) }, retry),
            (
                "unprocessed, body gone",
                Case { replayable: false, ..case(failed(Failure::Unprocessed)) },
                back(Reason::NotReplayable),
            ),
            ("timed out", case(failed(Failure::TimedOut)), retry),
        ];
        for (name, case, expected) in table {
            assert_eq!(decide(&case), expected, "{name}");
        }
    }

    #[test]
    fn the_rule_of_a_destination_decides_about_posts() {
        for (rule, post, keyed, put) in [
            (Repeatable::Never, false, false, true),
            (Repeatable::Keyed, false, true, true),
            (Repeatable::Always, true, true, true),
        ] {
            assert_eq!(rule.allows(&Method::POST, false), post, "{rule:?}");
            assert_eq!(rule.allows(&Method::POST, true), keyed, "{rule:?}");
            assert_eq!(rule.allows(&Method::PUT, false), put, "{rule:?}");
            assert!(rule.allows(&Method::GET, false));
        }
    }

    #[test]
    fn the_backoff_grows_and_is_capped() {
        let mut random = fastrand::Rng::with_seed(1);
        for (n, most) in [(0, 50), (1, 100), (3, 400), (7, 5_000), (200, 5_000)] {
            for _ in 0..50 {
                let delay = full_jitter(BACKOFF_BASE, BACKOFF_CAP, n, &mut random);
                assert!(delay <= Duration::from_millis(most), "{n}: {delay:?}");
            }
        }
    }
}
