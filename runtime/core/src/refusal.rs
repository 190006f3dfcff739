//! Why a call waits and why it was refused: typed, with everything a trail line or a problem+json needs.

use crate::{
    limit::{Limit, Unit},
    signal::Source,
    units::{Rounded, Size},
};
use std::{fmt, time::Duration};

/// What made a destination pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It refused a request: too many, or over capacity.
    Refused {
        /// The status of the refusal.
        status: u16,
        /// The header that named the wait; `None` when it was chosen by backoff.
        by: Option<Source>,
    },
    /// It said ahead of any refusal that nothing is left of a quota.
    Stated {
        /// The header that said so.
        by: Source,
    },
    /// It answered before and now fails in a row.
    Down {
        /// The last status, `None` when nothing answered at all.
        status: Option<u16>,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Refused { status, by: Some(by) } => write!(f, "by {by} of a {status}"),
            Cause::Refused { status, by: None } => write!(f, "by a {status} without Retry-After"),
            Cause::Stated { by } => write!(f, "as nothing is left by {by}"),
            Cause::Down { status: Some(status) } => write!(f, "as it fails with {status}"),
            Cause::Down { status: None } => f.write_str("as it does not answer"),
        }
    }
}

/// What shows how many requests at once a destination takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// It refuses more.
    Refusals,
    /// Its answers take longer with more.
    Slowness,
}

/// What a call waits for. Prints as the end of a sentence: "waited 1.2 s for 10/s".
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Waiting {
    /// A configured limit.
    Limit(Limit),
    /// The destination is paused for this much longer.
    Paused {
        /// What is left of the pause.
        left: Duration,
        /// Why it is paused.
        cause: Cause,
    },
    /// A pause has ended and the one request that tries the destination is out.
    Probe(Cause),
    /// An operator paused the destination.
    Braked {
        /// How much longer, where it ends by itself.
        left: Option<Duration>,
    },
    /// All slots of `max_concurrency` are held.
    Slots {
        /// The setting's value.
        max: u32,
    },
    /// Too little is known of the destination to send more than this many at once.
    Guard {
        /// Requests that may be unanswered at once just now.
        window: u32,
    },
    /// As many requests are in flight as the gate found the destination to take at once.
    AtOnce {
        /// How many that are.
        slots: u32,
        /// What showed it.
        found: Found,
    },
    /// The rate learned from refusals, in thousandths of a request per second.
    Learned {
        /// Milli-requests per second.
        millis: u64,
    },
    /// Calls that came earlier.
    Turn,
    /// The delay before its own next attempt.
    Backoff {
        /// What is left of it.
        left: Duration,
    },
}

impl Waiting {
    /// Whether it holds calls back at a pace that goes on, and not only for now.
    pub(crate) fn is_steady(&self) -> bool {
        matches!(self, Waiting::Limit(_) | Waiting::Slots { .. } | Waiting::AtOnce { .. } | Waiting::Learned { .. })
    }

    /// Whether it is the same thing that is waited for, if perhaps longer or at another number.
    pub fn is_like(&self, other: &Waiting) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waiting::Limit(limit) => write!(f, "for {limit}"),
            Waiting::Paused { left, cause } => write!(f, "paused for {} {cause}", Rounded(*left)),
            Waiting::Braked { left: Some(left) } => write!(f, "paused by an operator for {}", Rounded(*left)),
            Waiting::Braked { left: None } => f.write_str("paused by an operator"),
            Waiting::Probe(cause) => write!(f, "for the probe after a pause {cause}"),
            Waiting::Slots { max } => write!(f, "for one of {max} slots (max_concurrency)"),
            Waiting::AtOnce { slots, found: Found::Refusals } => write!(f, "for one of {slots} slots, learned"),
            Waiting::AtOnce { slots, found: Found::Slowness } => {
                write!(f, "for one of {slots} slots, as answers get slower with more")
            }
            Waiting::Guard { window } => {
                write!(f, "as nothing is known of the destination yet, {window} at once")
            }
            Waiting::Learned { millis } => write!(f, "for the learned {}/s", *millis as f64 / 1000.0),
            Waiting::Turn => f.write_str("for its turn"),
            Waiting::Backoff { left } => write!(f, "{} before its next attempt", Rounded(*left)),
        }
    }
}

/// Why a call was refused by the gate itself. The message tells what happened; [`Refusal::limit`] and [`Refusal::value`]
/// are members of the problem+json. Which setting changes the limit is the host's to say.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The queue holds as many calls as it may.
    #[error("the queue of this destination holds {limit} calls already")]
    QueueFull {
        /// The bound.
        limit: u32,
        /// When a call of this size might start if sent again: the time the queue needs to make room.
        retry_after: Option<Duration>,
    },
    /// The bytes of waiting bodies reach their bound.
    #[error("the queue of this destination holds {} of bodies, {} more do not fit", Size(*held), Size(*bytes))]
    QueueBytes {
        /// Bytes that wait already.
        held: u64,
        /// Bytes of this call.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// It could not start before its deadline.
    #[error("could start in {} at the earliest ({why}), its deadline is in {}", Rounded(*could_start_in), Rounded(*left))]
    DeadlineUnreachable {
        /// How long until a call could start: its `Retry-After`.
        could_start_in: Duration,
        /// How long until its deadline.
        left: Duration,
        /// What holds it until then.
        why: Waiting,
    },
    /// It would wait, for more than its turn, and has another answer ([`crate::NewCall::fallback`]).
    #[error("would wait {} at least ({why}), and has another answer", Rounded(*could_start_in))]
    Spared {
        /// How long until a call could start: its `Retry-After`.
        could_start_in: Duration,
        /// What it would wait for.
        why: Waiting,
    },
    /// Its deadline passed while it waited.
    #[error("its deadline passed after it waited {} ({why})", Rounded(*waited))]
    DeadlinePassed {
        /// How long it waited.
        waited: Duration,
        /// What it waited for at the end.
        why: Waiting,
    },
    /// It costs more than its limit ever lets through.
    #[error("costs {cost} {unit}, more than the whole quota of {quota}")]
    CostTooLarge {
        /// The unit.
        unit: Unit,
        /// What the call costs.
        cost: u64,
        /// The limit's quota.
        quota: u64,
    },
    /// None of the endpoints that it may take is there any more.
    #[error("the destination has no endpoint in the regions that its policy insists on")]
    NoRegion,
    /// An operator drains the destination: no further call is taken.
    #[error("the destination is drained by an operator")]
    Draining {
        /// How much longer, where it ends by itself.
        left: Option<Duration>,
    },
    /// An operator flushed what waited.
    #[error("what waited for the destination was flushed by an operator, after {}", Rounded(*waited))]
    Flushed {
        /// How long it waited.
        waited: Duration,
    },
    /// The node keeps the state of as many destinations as it may, and found none of them at rest.
    #[error("this node keeps {limit} destinations, and found none of them at rest to make room for another")]
    TooManyDestinations {
        /// The bound.
        limit: usize,
    },
}

impl Refusal {
    /// The last part of the problem type: `/problems/{kind}`.
    pub fn kind(&self) -> &'static str {
        match self {
            Refusal::QueueFull { .. } | Refusal::QueueBytes { .. } => "queue-full",
            Refusal::DeadlineUnreachable { .. } | Refusal::Spared { .. } => "deadline-unreachable",
            Refusal::DeadlinePassed { .. } => "deadline-passed",
            Refusal::CostTooLarge { .. } => "cost-too-large",
            Refusal::NoRegion => "no-region",
            Refusal::Draining { .. } => "draining",
            Refusal::Flushed { .. } => "flushed",
            Refusal::TooManyDestinations { .. } => "too-many-destinations",
        }
    }

    /// The name of the limit that bit.
    pub fn limit(&self) -> &'static str {
        match self {
            Refusal::QueueFull { .. } => "calls waiting for one destination",
            Refusal::QueueBytes { .. } => "bytes waiting for one destination",
            Refusal::DeadlineUnreachable { .. } | Refusal::Spared { .. } | Refusal::DeadlinePassed { .. } => {
                "deadline of the call"
            }
            Refusal::CostTooLarge { .. } => "quota of the destination",
            Refusal::NoRegion => "endpoints of the destination in these regions",
            Refusal::Draining { .. } | Refusal::Flushed { .. } => "brake of the destination",
            Refusal::TooManyDestinations { .. } => "destinations of the node",
        }
    }

    /// The value of that limit, as text; nothing for the deadline, of which only the host knows how long it was.
    pub fn value(&self) -> Option<String> {
        Some(match self {
            Refusal::QueueFull { limit, .. } => limit.to_string(),
            Refusal::QueueBytes { limit, .. } => Size(*limit).to_string(),
            Refusal::DeadlineUnreachable { .. } | Refusal::Spared { .. } | Refusal::DeadlinePassed { .. } => {
                return None;
            }
            Refusal::CostTooLarge { quota, unit, .. } => format!("{quota} {unit}"),
            Refusal::NoRegion => "0".into(),
            Refusal::Draining { .. } => "drain".into(),
            Refusal::Flushed { .. } => "flush".into(),
            Refusal::TooManyDestinations { limit } => limit.to_string(),
        })
    }

    /// Whether it was its deadline that ended the call. One that had failed before is better answered with that failure.
    pub fn is_by_deadline(&self) -> bool {
        matches!(self, Refusal::DeadlineUnreachable { .. } | Refusal::Spared { .. } | Refusal::DeadlinePassed { .. })
    }

    /// When a new try could start, for `Retry-After`; `None` where no waiting helps or nothing is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::QueueFull { retry_after, .. } => *retry_after,
            Refusal::DeadlineUnreachable { could_start_in, .. } | Refusal::Spared { could_start_in, .. } => {
                Some(*could_start_in)
            }
            Refusal::Draining { left } => *left,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_print_as_people_say_them() {
        let by = Cause::Refused { status: 429, by: Some(Source::RetryAfter) };
        assert_eq!(Waiting::Limit(Limit::requests(10, Duration::from_secs(1))).to_string(), "for 10/s");
        assert_eq!(
            Waiting::Paused { left: Duration::from_millis(11_800), cause: by }.to_string(),
            "paused for 11.8 s by Retry-After of a 429"
        );
        let refusal = Refusal::DeadlineUnreachable {
            could_start_in: Duration::from_secs(90),
            left: Duration::from_millis(500),
            why: Waiting::Paused { left: Duration::from_secs(90), cause: by },
        };
        assert_eq!(
            refusal.to_string(),
            "could start in 1m 30s at the earliest (paused for 1m 30s by Retry-After of a 429), its deadline is in 500 ms"
        );
        assert_eq!((refusal.kind(), refusal.limit()), ("deadline-unreachable", "deadline of the call"));
        // What is left of it is not its value.
        assert_eq!(refusal.value(), None);
        assert_eq!(Refusal::QueueFull { limit: 7, retry_after: None }.value().as_deref(), Some("7"));
    }
}
